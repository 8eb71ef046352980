/* The loops of layer_norm.c for one element type: T, KIND (1: double), NAME(x),
 * XHAT(x, mean, lo, rstd, scale), DEVIATION of the same arguments (xhat, for float
 * without its factor rstd). LOAD and STORE move a register's width of doubles from and
 * to T. No include guard: layer_norm.c includes this file
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
                out[c] = (T)(XHAT((double)from[c], m, l, a, p) * g[c] + b[c]);
            }
        }
        if (past && (r == rows - 1 || !dense)) {
            fanin_writer_end(&writer);
        }
    }
}

/* A register's width of columns of `n` (GROUP or 1) rows; `dgamma` and `dbeta` are
 * NULL, or where these columns' sums are kept. */
FANIN_ALWAYS_INLINE void NAME(sums_step)(row_sums *t, double *dgamma, double *dbeta,
                                         const T *dy, ptrdiff_t dy_stride, const T *x,
                                         ptrdiff_t x_stride, fanin_lanes g,
                                        const row_stats *s, const int n, const int part,
                                         fanin_lanes_mask mask)
{
    fanin_lanes d[GROUP], p[GROUP];
    for (int k = 0; k < n; k++) {
        d[k] = LOAD(dy + k * dy_stride);
        d[k] = part ? fanin_lanes_keep(d[k], mask) : d[k];
        p[k] = LOAD(x + k * x_stride);
        p[k] = d[k] * DEVIATION(p[k], s->m[k], s->l[k], s->r[k], s->p[k]);
        t->u[k] += d[k] * g;
        t->v[k] += p[k] * g;
    }
    if (dgamma == NULL) {
        return;
    }
    /* By halves, so that no addition waits for three others. */
    for (int k = 0; k < n; k++) {
        p[k] *= s->f[k];
    }
    for (int half = n / 2; half > 0; half /= 2) {
        for (int k = 0; k < half; k++) {
            p[k] += p[k + half];
            d[k] += d[k + half];
        }
    }
    STORE_F64(dgamma, LOAD_F64(dgamma) + p[0]);
    STORE_F64(dbeta, LOAD_F64(dbeta) + d[0]);
}

/* `n` rows of at least FANIN_LANES columns. The last columns, if they do not fill a
 * register, are read with some before them, which are blanked. */
FANIN_ALWAYS_INLINE void NAME(sums_rows)(double *c1, double *c2, double *dgamma,
                                         double *dbeta, double *rest, const T *dy,
                                         ptrdiff_t dy_stride, const T *x,
                                         ptrdiff_t x_stride, ptrdiff_t w,
                                         fanin_norm_rows s, const double *gamma,
                                         const int n, const int wanted)
{
    const ptrdiff_t last = w - FANIN_LANES;
    row_sums t;
    row_stats stats;
    for (int k = 0; k < n; k++) {
        t.u[k] = t.v[k] = fanin_lanes_all(0.0);
        stats.m[k] = s.mean[k];
        stats.r[k] = s.rstd[k];
        stats.l[k] = KIND ? s.lo[k] : 0.0;
        stats.p[k] = KIND ? s.scale[k] : 1.0;
        stats.f[k] = KIND ? 1.0 : s.rstd[k];
        NAME(ahead)(x + k * x_stride, w);
        NAME(ahead)(dy + k * dy_stride, w);
    }
    for (ptrdiff_t c = 0; c <= last; c += FANIN_LANES) {
        NAME(sums_step)(&t, wanted ? dgamma + c : NULL, dbeta + c, dy + c, dy_stride,
                        x + c, x_stride, LOAD_F64(gamma + c), &stats, n, 0,
                        fanin_lanes_last(0));
    }
    if (w % FANIN_LANES != 0) {
        NAME(sums_step)(&t, wanted ? rest : NULL, rest + FANIN_LANES, dy + last,
                       dy_stride, x + last, x_stride, LOAD_F64(gamma + last), &stats, n,
                        1, fanin_lanes_last(w % FANIN_LANES));
    }
    for (int k = 0; k < n; k++) {
        c1[k] = fanin_lanes_sum(t.u[k]);
        c2[k] = fanin_lanes_sum(t.v[k]) * stats.f[k];
    }
}

/* Rows shorter than a register. */
static void NAME(sums_short)(double *c1, double *c2, double *dgamma, double *dbeta,
                             const T *dy, ptrdiff_t dy_stride, const T *x,
                             ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                             fanin_norm_rows s, const double *gamma)
{
    for (ptrdiff_t r = 0; r < rows; r++, x += x_stride, dy += dy_stride) {
        const double m = s.mean[r], a = s.rstd[r];
        const double l = KIND ? s.lo[r] : 0.0, p = KIND ? s.scale[r] : 1.0;
        double u = 0.0, v = 0.0;
        (void)l, (void)p;
        for (ptrdiff_t c = 0; c < w; c++) {
            double d = (double)dy[c], h = XHAT((double)x[c], m, l, a, p);
            u += d * gamma[c];
            v += d * gamma[c] * h;
            if (dgamma != NULL) {
                dgamma[c] += d * h;
                dbeta[c] += d;
            }
        }
        c1[r] = u;
        c2[r] = v;
    }
}

static void NAME(sums)(double *c1, double *c2, double *dgamma, double *dbeta,
                       const void *dy_data, ptrdiff_t dy_stride, const void *x_data,
                       ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                       fanin_norm_rows s, const double *gamma)
{
    const T *x = x_data, *dy = dy_data;
    double rest[2 * FANIN_LANES] = {0.0};
    ptrdiff_t r = 0;
    if (w < FANIN_LANES) {
        NAME(sums_short)(c1, c2, dgamma, dbeta, dy, dy_stride, x, x_stride, rows, w, s,
                         gamma);
        return;
    }
    while (r < rows) {
        const int group = rows - r >= GROUP, wanted = dgamma != NULL;
#define SUMS(n, wanted) \
    NAME(sums_rows)(c1 + r, c2 + r, dgamma, dbeta, rest, dy + r * dy_stride, \
                    dy_stride, \
                    x + r * x_stride, x_stride, w, fanin_norm_rows_at(s, r), gamma, n, \
                    wanted)
        if (group && wanted) {
            SUMS(GROUP, 1);
        } else if (group) {
            SUMS(GROUP, 0);
        } else if (wanted) {
            SUMS(1, 1);
        } else {
            SUMS(1, 0);
        }
#undef SUMS
        r += group ? GROUP : 1;
    }
    if (dgamma != NULL) {
        const ptrdiff_t n = w % FANIN_LANES;
        for (ptrdiff_t k = FANIN_LANES - n; k < FANIN_LANES; k++) {
            dgamma[w - FANIN_LANES + k] += rest[k];
            dbeta[w - FANIN_LANES + k] += rest[FANIN_LANES + k];
        }
    }
}

/* The last columns, if they do not fill a register, are computed with some before them,
 * from what was there before anything was written: dx may be dy. */
static inline void NAME(gradient_run)(T *dx, const T *dy, const T *x, ptrdiff_t w,
                                      const double *gamma, double m, double l, double a,
                                      double p, double first, double second,
                                      double scale)
{
    const ptrdiff_t last = w - FANIN_LANES;
    const double slope = KIND ? second : second * a;
    fanin_lanes end = fanin_lanes_all(0.0);
    (void)l, (void)p;
    if (last < 0) {
        for (ptrdiff_t c = 0; c < w; c++) {
            dx[c] = (T)(scale * (((double)dy[c] * gamma[c] - first)
                                 - DEVIATION((double)x[c], m, l, a, p) * slope));
        }
        return;
    }
#define GRADIENT(c) \
    (scale * ((LOAD(dy + c) * LOAD_F64(gamma + c) - first) \
              - DEVIATION(LOAD(x + c), m, l, a, p) * slope))
    if (w % FANIN_LANES != 0) {
        end = GRADIENT(last);
    }
    for (ptrdiff_t c = 0; c <= last; c += FANIN_LANES) {
        STORE(dx + c, GRADIENT(c));
    }
    if (w % FANIN_LANES != 0) {
        STORE(dx + last, end);
    }
#undef GRADIENT
}

/* `begin`, `end`: whether these are the first and the last rows of a result. */
static void NAME(gradient_rows)(fanin_writer *writer, char *buffer, int begin, int end,
                                void *to, ptrdiff_t dx_stride, const void *dy_data,
                           ptrdiff_t dy_stride, const void *x_data, ptrdiff_t x_stride,
                           ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                           const double *gamma, const double *c1, const double *c2,
                           double count, int centre, int past)
{
    const ptrdiff_t most = past ? FANIN_RUN_BYTES / (ptrdiff_t)sizeof(T) : w;
    const int dense = dx_stride == w;
    const T *x = x_data, *dy = dy_data;
    T *dx = to;
    for (ptrdiff_t r = 0; r < rows; r++) {
        const double m = s.mean[r], a = s.rstd[r];
        const double l = KIND ? s.lo[r] : 0.0, p = KIND ? s.scale[r] : 1.0;
        const double first = centre ? c1[r] / count : 0.0, second = c2[r] / count;
        const double scale = a * p;
        (void)l;
        if (past && ((begin && r == 0) || !dense)) {
            fanin_writer_begin(writer, dx, buffer);
        }
        for (ptrdiff_t start = 0; start < w; start += most) {
            const ptrdiff_t n = w - start < most ? w - start : most;
            T *out = dx + start;
            if (past) {
                out = fanin_writer_room(writer, n * (ptrdiff_t)sizeof(T));
            }
            NAME(gradient_run)(out, dy + start, x + start, n, gamma + start, m, l, a, p,
                               first, second, scale);
        }
        if (past && ((end && r == rows - 1) || !dense)) {
            fanin_writer_end(writer);
        }
        x += x_stride, dy += dy_stride, dx += dx_stride;
    }
}

static void NAME(gradient)(void *dx, ptrdiff_t dx_stride, const void *dy,
                           ptrdiff_t dy_stride, const void *x, ptrdiff_t x_stride,
                           ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                           const double *gamma, const double *c1, const double *c2,
                           double count, int centre, int past)
{
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    NAME(gradient_rows)(&writer, buffer, 1, 1, dx, dx_stride, dy, dy_stride, x,
                        x_stride, rows, w, s, gamma, c1, c2, count, centre, past);
}

static void NAME(backward)(void *dx, ptrdiff_t dx_stride, double *dgamma, double *dbeta,
                           const void *dy, ptrdiff_t dy_stride, const void *x,
                           ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                           fanin_norm_rows s, const double *gamma, int centre, int past)
{
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    double c1[STEP_ROWS], c2[STEP_ROWS];
    for (ptrdiff_t r = 0; r < rows; r += STEP_ROWS) {
        const ptrdiff_t n = rows - r < STEP_ROWS ? rows - r : STEP_ROWS;
        const fanin_norm_rows at = fanin_norm_rows_at(s, r);
        const T *xs = (const T *)x + r * x_stride;
        const T *ds = (const T *)dy + r * dy_stride;
        NAME(sums)(c1, c2, dgamma, dbeta, ds, dy_stride, xs, x_stride, n, w, at, gamma);
        NAME(gradient_rows)(&writer, buffer, r == 0, r + n == rows,
                            (T *)dx + r * dx_stride, dx_stride, ds, dy_stride, xs,
                            x_stride, n, w, at, gamma, c1, c2, (double)w, centre, past);
    }
}
