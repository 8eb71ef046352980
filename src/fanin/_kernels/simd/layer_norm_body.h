/* The loops of layer_norm.c for one element type: T, KIND (1: double), NAME(x),
 * XHAT(x, mean, lo, rstd, scale). No include guard: layer_norm.c includes this file
 * once per type.
 *
 * Results may be written over an input, which `restrict` would deny: element c of a
 * row depends on element c of the inputs alone, and FANIN_INDEPENDENT says so. */

/* The lines after these rows: by the time they are needed they are here. */
static inline void NAME(ahead)(const T *x, ptrdiff_t w)
{
    for (ptrdiff_t b = 0; b < w * (ptrdiff_t)sizeof(T); b += FANIN_LINE) {
        fanin_read_ahead(x, b + FANIN_AHEAD);
    }
}

/* sum[k] and square[k]: those of x - shift[k] of row k, for two rows. */
static inline void NAME(add_two)(double *sum, double *square, const T *FANIN_RESTRICT x,
                                 ptrdiff_t stride, ptrdiff_t w, double shift0,
                                 double shift1)
{
    const T *FANIN_RESTRICT x1 = x + stride;
    double s0 = 0.0, s1 = 0.0, q0 = 0.0, q1 = 0.0;
    FANIN_SUM8(s0, s1, q0, q1)
    for (ptrdiff_t c = 0; c < w; c++) {
        double a = (double)x[c] - shift0, b = (double)x1[c] - shift1;
        s0 += a;
        s1 += b;
        q0 += a * a;
        q1 += b * b;
    }
    sum[0] = s0, sum[1] = s1, square[0] = q0, square[1] = q1;
}

/* Sums and squares of x - shift for all rows, shift[r] or without `shift` x[r, 0]. sum
 * may be shift. */
static void NAME(add_rows)(double *sum, double *square, const T *x, ptrdiff_t stride,
                           ptrdiff_t rows, ptrdiff_t w, const double *shift, int centre)
{
    for (ptrdiff_t r = 0; r < rows; r += 2) {
        /* The last of an odd number of rows is its own partner. */
        const ptrdiff_t next = r + 1 < rows, step = next ? stride : 0;
        const T *row = x + r * stride;
        double s[2], q[2], shift0 = 0.0, shift1 = 0.0;
        if (shift != NULL) {
            shift0 = shift[r];
            shift1 = shift[r + next];
        } else {
            NAME(ahead)(row, w);
            NAME(ahead)(row + step, w);
            if (centre) {
                shift0 = (double)row[0];
                shift1 = (double)row[step];
            }
        }
        NAME(add_two)(s, q, row, step, w, shift0, shift1);
        sum[r] = s[0];
        square[r] = q[0];
        sum[r + next] = s[1];
        square[r + next] = q[1];
    }
}

static void NAME(statistics)(fanin_norm_rows to, const void *data, ptrdiff_t x_stride,
                             ptrdiff_t rows, ptrdiff_t w, double eps, int centre)
{
    const double inverse = 1.0 / (double)w;
    const T *x = data;
    NAME(add_rows)(to.mean, to.rstd, x, x_stride, rows, w, NULL, centre);
    if (!centre) {
        for (ptrdiff_t r = 0; r < rows; r++) {
            to.mean[r] = 0.0;
            to.rstd[r] = to.rstd[r] * inverse + eps;
        }
    } else {
        for (ptrdiff_t r = 0; r < rows; r++) {
            double part = to.mean[r] * inverse;
            double square = to.rstd[r] - to.mean[r] * part;
            to.mean[r] = (double)x[r * x_stride] + part;
            to.rstd[r] = (square < 0.0 ? 0.0 : square) * inverse + eps;
        }
    }
#if KIND
    if (centre) {
        double sum[ROWS];
        NAME(add_rows)(sum, to.rstd, x, x_stride, rows, w, to.mean, centre);
        for (ptrdiff_t r = 0; r < rows; r++) {
            double mean = to.mean[r], part = sum[r] * inverse, hi = mean + part;
            double back = hi - mean, square = to.rstd[r] - sum[r] * part;
            to.mean[r] = hi;
            to.lo[r] = (mean - (hi - back)) + (part - back);
            to.rstd[r] = (square < 0.0 ? 0.0 : square) * inverse + eps;
        }
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        double total = to.rstd[r];
        to.lo[r] = centre ? to.lo[r] : 0.0;
        to.scale[r] = 1.0;
        if (!(total <= HUGE_SQUARES) || total < TINY_SQUARE) {
            careful_row(&to.mean[r], &to.lo[r], &to.rstd[r], &to.scale[r],
                        x + r * x_stride, w, eps, centre);
        } else {
            to.rstd[r] = fanin_norm_rstd(total);
        }
    }
#else
    for (ptrdiff_t r = 0; r < rows; r++) {
        to.rstd[r] = fanin_norm_rstd(to.rstd[r]);
    }
#endif
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
            const double *FANIN_RESTRICT g = gamma + start;
            const double *FANIN_RESTRICT b = beta + start;
            T *out = y + start;
            if (past) {
                out = fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T));
            }
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
        double u = 0.0, v = 0.0;
        (void)l, (void)p;
        NAME(ahead)(x, w);
        NAME(ahead)(dy, w);
        if (dgamma != NULL) {
            FANIN_SUM(u, v)
            for (ptrdiff_t c = 0; c < w; c++) {
                double d = (double)dy[c], h = XHAT(x[c], m, l, a, p);
                double g = d * gamma[c];
                u += g;
                v += g * h;
                dgamma[c] += d * h;
                dbeta[c] += d;
            }
        } else {
            FANIN_SUM(u, v)
            for (ptrdiff_t c = 0; c < w; c++) {
                double g = (double)dy[c] * gamma[c];
                u += g;
                v += g * XHAT(x[c], m, l, a, p);
            }
        }
        c1[r] = u;
        c2[r] = v;
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
    for (ptrdiff_t r = 0; r < rows; r++) {
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
            T *out = dx + start;
            if (past) {
                out = fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T));
            }
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < n; c++) {
                out[c] = (T)(scale * (((double)ds[c] * g[c] - first)
                                      - XHAT(xs[c], m, l, a, p) * second));
            }
        }
        if (past && (r == rows - 1 || !dense)) {
            fanin_writer_end(&writer);
        }
        x += x_stride, dy += dy_stride, dx += dx_stride;
    }
}
