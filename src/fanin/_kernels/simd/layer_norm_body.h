/* The loops of layer_norm.c for one element type: T, KIND (1: double), NAME(x),
 * XHAT(x, mean, lo, rstd, scale). No include guard: layer_norm.c includes this file
 * once per type.
 *
 * Results may be written over an input, which `restrict` would deny: element c of a
 * row depends on element c of the inputs alone, and FANIN_INDEPENDENT says so. */

/* The sum of x - shift. */
static inline double NAME(add)(const T *FANIN_RESTRICT x, ptrdiff_t w, double shift)
{
    double lane[LANES] = {0.0};
    ptrdiff_t c = 0;
    for (; c + LANES <= w; c += LANES) {
        for (int l = 0; l < LANES; l++) {
            lane[l] += (double)x[c + l] - shift;
        }
    }
    for (int l = 0; c + l < w; l++) {
        lane[l] += (double)x[c + l] - shift;
    }
    return add_lanes(lane);
}

/* The sum of (x - mean)^2, and with float64 of x - mean. */
static inline double NAME(add_squares)(double *sum, const T *FANIN_RESTRICT x,
                                       ptrdiff_t w, double mean)
{
    double lane[LANES] = {0.0}, linear[LANES] = {0.0};
    ptrdiff_t c = 0;
    for (; c + LANES <= w; c += LANES) {
        for (int l = 0; l < LANES; l++) {
            double d = (double)x[c + l] - mean;
            lane[l] += d * d;
            if (KIND) {
                linear[l] += d;
            }
        }
    }
    for (int l = 0; c + l < w; l++) {
        double d = (double)x[c + l] - mean;
        lane[l] += d * d;
        linear[l] += d;
    }
    *sum = KIND ? add_lanes(linear) : 0.0;
    return add_lanes(lane);
}

static void NAME(statistics)(fanin_norm_rows to, const void *data, ptrdiff_t x_stride,
                             ptrdiff_t rows, ptrdiff_t w, double eps, int centre)
{
    const T *x = data;
    const double n = (double)w;
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *row = x + r * x_stride;
        /* The rows after this block's: by the time they are needed they are here. */
        for (ptrdiff_t b = 0; b < w * (ptrdiff_t)sizeof(T); b += FANIN_LINE) {
            fanin_read_ahead(row, b + FANIN_AHEAD);
        }
        const double shift = KIND ? (double)row[0] : 0.0;
        to.mean[r] = centre ? shift + NAME(add)(row, w, shift) / n : 0.0;
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        double sum, mean = to.mean[r];
        double square = NAME(add_squares)(&sum, x + r * x_stride, w, mean);
        if (KIND) {
            double part = centre ? sum / n : 0.0, hi = mean + part, back = hi - mean;
            to.mean[r] = hi;
            to.lo[r] = (mean - (hi - back)) + (part - back);
            to.scale[r] = 1.0;
            square -= sum * part;
            if (!(square <= HUGE_SQUARES)) {
                square = INFINITY;      /* stays so, and is redone below */
            }
            square = square > 0.0 ? square : 0.0;
        }
        to.rstd[r] = square / n + eps;
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        double total = to.rstd[r];
#if KIND
        if (!(total <= HUGE_SQUARES) || total < TINY_SQUARE) {
            careful_row(&to.mean[r], &to.lo[r], &to.rstd[r], &to.scale[r],
                        (const double *)data + r * x_stride, w, eps, centre);
            continue;
        }
#endif
        to.rstd[r] = fanin_norm_rstd(total);
    }
}

static void NAME(apply)(void *to, ptrdiff_t y_stride, const void *data,
                        ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                        fanin_norm_rows s, const double *gamma, const double *beta,
                        int past)
{
    const ptrdiff_t most = past ? FANIN_RUN_BYTES / (ptrdiff_t)sizeof(T) : w;
    const int dense = y_stride == w;
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    const T *x = data;
    T *y = to;
    for (ptrdiff_t r = 0; r < rows; r++, x += x_stride, y += y_stride) {
        const double m = s.mean[r], a = s.rstd[r];
        const double l = KIND ? s.lo[r] : 0.0, p = KIND ? s.scale[r] : 1.0;
        (void)l, (void)p;
        if (past && (r == 0 || !dense)) {
            fanin_writer_begin(&writer, y, buffer);
        }
        for (ptrdiff_t start = 0; start < w; start += most) {
            const ptrdiff_t n = w - start < most ? w - start : most;
            const T *FANIN_RESTRICT from = x + start;
            const double *FANIN_RESTRICT g = gamma + start, *FANIN_RESTRICT b = beta + start;
            T *out = past ? fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T)) : y + start;
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < n; c++) {
                out[c] = (T)(XHAT(from[c], m, l, a, p) * g[c] + b[c]);
            }
        }
        if (past && (r == rows - 1 || !dense)) {
            fanin_writer_end(&writer);
        }
    }
}

static void NAME(sums)(double *c1, double *c2, double *FANIN_RESTRICT dgamma,
                       double *FANIN_RESTRICT dbeta, const void *dy_data,
                       ptrdiff_t dy_stride, const void *x_data, ptrdiff_t x_stride,
                       ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                       const double *FANIN_RESTRICT gamma)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *FANIN_RESTRICT x = (const T *)x_data + r * x_stride;
        const T *FANIN_RESTRICT dy = (const T *)dy_data + r * dy_stride;
        const double m = s.mean[r], a = s.rstd[r];
        const double l = KIND ? s.lo[r] : 0.0, p = KIND ? s.scale[r] : 1.0;
        double u[8] = {0.0}, v[8] = {0.0};
        ptrdiff_t c = 0;
        (void)l, (void)p;
        for (ptrdiff_t b = 0; b < w * (ptrdiff_t)sizeof(T); b += FANIN_LINE) {
            fanin_read_ahead(x, b + FANIN_AHEAD);
            fanin_read_ahead(dy, b + FANIN_AHEAD);
        }
        if (dgamma != NULL) {
            for (; c + 8 <= w; c += 8) {
                for (int i = 0; i < 8; i++) {
                    double d = (double)dy[c + i], h = XHAT(x[c + i], m, l, a, p);
                    double g = d * gamma[c + i];
                    u[i] += g;
                    v[i] += g * h;
                    dgamma[c + i] += d * h;
                    dbeta[c + i] += d;
                }
            }
            for (int i = 0; c + i < w; i++) {
                double d = (double)dy[c + i], h = XHAT(x[c + i], m, l, a, p);
                double g = d * gamma[c + i];
                u[i] += g;
                v[i] += g * h;
                dgamma[c + i] += d * h;
                dbeta[c + i] += d;
            }
        } else {
            for (; c + 8 <= w; c += 8) {
                for (int i = 0; i < 8; i++) {
                    double g = (double)dy[c + i] * gamma[c + i];
                    u[i] += g;
                    v[i] += g * XHAT(x[c + i], m, l, a, p);
                }
            }
            for (int i = 0; c + i < w; i++) {
                double g = (double)dy[c + i] * gamma[c + i];
                u[i] += g;
                v[i] += g * XHAT(x[c + i], m, l, a, p);
            }
        }
        c1[r] = add_eight(u);
        c2[r] = add_eight(v);
    }
}

static void NAME(gradient)(void *to, ptrdiff_t dx_stride, const void *dy_data,
                           ptrdiff_t dy_stride, const void *x_data, ptrdiff_t x_stride,
                           ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                           const double *gamma, const double *c1, const double *c2,
                           double count, int centre, int past)
{
    const ptrdiff_t most = past ? FANIN_RUN_BYTES / (ptrdiff_t)sizeof(T) : w;
    const int dense = dx_stride == w;
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    const T *x = x_data, *dy = dy_data;
    T *dx = to;
    for (ptrdiff_t r = 0; r < rows; r++, x += x_stride, dy += dy_stride, dx += dx_stride) {
        const double m = s.mean[r], a = s.rstd[r];
        const double l = KIND ? s.lo[r] : 0.0, p = KIND ? s.scale[r] : 1.0;
        const double first = centre ? c1[r] / count : 0.0, second = c2[r] / count;
        const double scale = a * p;
        (void)l;
        if (past && (r == 0 || !dense)) {
            fanin_writer_begin(&writer, dx, buffer);
        }
        for (ptrdiff_t start = 0; start < w; start += most) {
            const ptrdiff_t n = w - start < most ? w - start : most;
            const T *xs = x + start, *ds = dy + start;
            const double *FANIN_RESTRICT g = gamma + start;
            T *out = past ? fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T)) : dx + start;
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < n; c++) {
                out[c] = (T)(scale * (((double)ds[c] * g[c] - first)
                                      - XHAT(xs[c], m, l, a, p) * second));
            }
        }
        if (past && (r == rows - 1 || !dense)) {
            fanin_writer_end(&writer);
        }
    }
}
