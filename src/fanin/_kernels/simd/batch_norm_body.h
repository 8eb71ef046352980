/* The loops of batch_norm.c for one element type: T, KIND (1: double), NAME(x),
 * CENTRED(x, mean, lo, scale). No include guard: batch_norm.c includes this file once
 * per type.
 *
 * Results may be written over an input, which `restrict` would deny: an element depends
 * on the inputs' elements at its own place alone, and FANIN_INDEPENDENT says so. */

/* Elements of a run: a result goes past the cache in runs, and what lies ahead of the
 * inputs is asked for run by run. */
#define RUN (512 / (ptrdiff_t)sizeof(T))

static inline void NAME(ahead)(const T *x, ptrdiff_t n)
{
    for (ptrdiff_t b = 0; b < n * (ptrdiff_t)sizeof(T); b += FANIN_LINE) {
        fanin_read_ahead(x, b + FANIN_AHEAD);
    }
}

static void NAME(cols_apply)(void *to, ptrdiff_t y_stride, const void *data,
                             ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                             fanin_norm_cols s, int past)
{
    const int dense = y_stride == w;
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    const T *x = data;
    T *y = to;
    for (ptrdiff_t r = 0; r < rows; r++, x += x_stride, y += y_stride) {
        if (past && (r == 0 || !dense)) {
            fanin_writer_begin(&writer, y, buffer);
        }
        for (ptrdiff_t start = 0; start < w; start += RUN) {
            const ptrdiff_t n = w - start < RUN ? w - start : RUN;
            const double *FANIN_RESTRICT m = s.mean + start;
            const double *FANIN_RESTRICT l = s.lo + start;
            const double *FANIN_RESTRICT p = s.scale + start;
            const double *FANIN_RESTRICT a = s.slope + start;
            const double *FANIN_RESTRICT b = s.beta + start;
            const T *from = x + start;
            T *out = y + start;
            if (past) {
                out = fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T));
            }
            (void)l, (void)p;
            NAME(ahead)(from, n);
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < n; c++) {
                out[c] = (T)(CENTRED(from[c], m[c], l[c], p[c]) * a[c] + b[c]);
            }
        }
        if (past && (r == rows - 1 || !dense)) {
            fanin_writer_end(&writer);
        }
    }
}

static void NAME(rows_apply)(void *to, const void *data, ptrdiff_t rows,
                             fanin_norm_cols s, int past)
{
    const double m = *s.mean, l = *s.lo, p = *s.scale, a = *s.slope, b = *s.beta;
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    const T *x = data;
    T *y = to;
    (void)l, (void)p;
    if (past) {
        fanin_writer_begin(&writer, y, buffer);
    }
    for (ptrdiff_t start = 0; start < rows; start += RUN) {
        const ptrdiff_t n = rows - start < RUN ? rows - start : RUN;
        const T *from = x + start;
        T *out = y + start;
        if (past) {
            out = fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T));
        }
        NAME(ahead)(from, n);
        FANIN_INDEPENDENT
        for (ptrdiff_t r = 0; r < n; r++) {
            out[r] = (T)(CENTRED(from[r], m, l, p) * a + b);
        }
    }
    if (past) {
        fanin_writer_end(&writer);
    }
}

static void NAME(cols_sums)(double *FANIN_RESTRICT s1, double *FANIN_RESTRICT s2,
                            const void *dy_data, ptrdiff_t dy_stride,
                            const void *x_data, ptrdiff_t x_stride, ptrdiff_t rows,
                            ptrdiff_t w, fanin_norm_cols s)
{
    const double *FANIN_RESTRICT mean = s.mean, *FANIN_RESTRICT lo = s.lo;
    const double *FANIN_RESTRICT scale = s.scale, *FANIN_RESTRICT rstd = s.rstd;
    const T *x = x_data, *dy = dy_data;
    ptrdiff_t r = 0;
    (void)lo, (void)scale;
    for (; r + 4 <= rows; r += 4, x += 4 * x_stride, dy += 4 * dy_stride) {
        const T *x0 = x, *x1 = x + x_stride, *x2 = x + 2 * x_stride;
        const T *x3 = x + 3 * x_stride;
        const T *d0 = dy, *d1 = dy + dy_stride, *d2 = dy + 2 * dy_stride;
        const T *d3 = dy + 3 * dy_stride;
        for (ptrdiff_t start = 0; start < w; start += RUN) {
            const ptrdiff_t end = w - start < RUN ? w : start + RUN;
            NAME(ahead)(x0 + start, end - start);
            NAME(ahead)(x1 + start, end - start);
            NAME(ahead)(x2 + start, end - start);
            NAME(ahead)(x3 + start, end - start);
            NAME(ahead)(d0 + start, end - start);
            NAME(ahead)(d1 + start, end - start);
            NAME(ahead)(d2 + start, end - start);
            NAME(ahead)(d3 + start, end - start);
            for (ptrdiff_t c = start; c < end; c++) {
                double m = mean[c], l = KIND ? lo[c] : 0.0, p = KIND ? scale[c] : 1.0;
                double a = rstd[c];
                double h0 = CENTRED(x0[c], m, l, p) * a;
                double h1 = CENTRED(x1[c], m, l, p) * a;
                double h2 = CENTRED(x2[c], m, l, p) * a;
                double h3 = CENTRED(x3[c], m, l, p) * a;
                double e0 = (double)d0[c], e1 = (double)d1[c], e2 = (double)d2[c];
                double e3 = (double)d3[c];
                (void)l, (void)p;
                s1[c] += (e0 + e1) + (e2 + e3);
                s2[c] += (e0 * h0 + e1 * h1) + (e2 * h2 + e3 * h3);
            }
        }
    }
    for (; r < rows; r++, x += x_stride, dy += dy_stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            s1[c] += (double)dy[c];
            double h = CENTRED(x[c], mean[c], lo[c], scale[c]) * rstd[c];
            s2[c] += (double)dy[c] * h;
        }
    }
}

static void NAME(rows_sums)(double *s1, double *s2, const void *dy_data,
                            const void *x_data, ptrdiff_t rows, fanin_norm_cols s)
{
    const double m = *s.mean, l = *s.lo, p = *s.scale, a = *s.rstd;
    const T *FANIN_RESTRICT x = x_data, *FANIN_RESTRICT dy = dy_data;
    double u[LANES] = {0.0}, v[LANES] = {0.0};
    ptrdiff_t r = 0;
    (void)l, (void)p;
    for (; r + LANES <= rows; r += LANES) {
        fanin_read_ahead(x + r, FANIN_AHEAD);
        fanin_read_ahead(dy + r, FANIN_AHEAD);
        for (int i = 0; i < LANES; i++) {
            double d = (double)dy[r + i];
            u[i] += d;
            v[i] += d * (CENTRED(x[r + i], m, l, p) * a);
        }
    }
    for (int i = 0; r + i < rows; i++) {
        double d = (double)dy[r + i];
        u[i] += d;
        v[i] += d * (CENTRED(x[r + i], m, l, p) * a);
    }
    *s1 += add_lanes(u);
    *s2 += add_lanes(v);
}

static void NAME(cols_gradient)(void *to, ptrdiff_t dx_stride, const void *dy_data,
                                ptrdiff_t dy_stride, const void *x_data,
                                ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                                fanin_norm_cols s, int past)
{
    const int dense = dx_stride == w;
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    const T *x = x_data, *dy = dy_data;
    T *dx = to;
    for (ptrdiff_t r = 0; r < rows; r++, dy += dy_stride, dx += dx_stride) {
        if (past && (r == 0 || !dense)) {
            fanin_writer_begin(&writer, dx, buffer);
        }
        for (ptrdiff_t start = 0; start < w; start += RUN) {
            const ptrdiff_t n = w - start < RUN ? w - start : RUN;
            const double *FANIN_RESTRICT m = s.mean + start;
            const double *FANIN_RESTRICT l = s.lo + start;
            const double *FANIN_RESTRICT p = s.scale + start;
            const double *FANIN_RESTRICT a = s.rstd + start;
            const double *FANIN_RESTRICT k = s.slope + start;
            const double *FANIN_RESTRICT c1 = s.c1 + start;
            const double *FANIN_RESTRICT c2 = s.c2 + start;
            const T *d = dy + start;
            T *out = dx + start;
            if (past) {
                out = fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T));
            }
            (void)l, (void)p;
            NAME(ahead)(d, n);
            if (x == NULL) {
                FANIN_INDEPENDENT
                for (ptrdiff_t c = 0; c < n; c++) {
                    out[c] = (T)((double)d[c] * k[c]);
                }
                continue;
            }
            const T *from = x + start;
            NAME(ahead)(from, n);
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < n; c++) {
                double h = CENTRED(from[c], m[c], l[c], p[c]) * a[c];
                out[c] = (T)((((double)d[c] - c1[c]) - h * c2[c]) * k[c]);
            }
        }
        if (past && (r == rows - 1 || !dense)) {
            fanin_writer_end(&writer);
        }
        x = x == NULL ? NULL : x + x_stride;
    }
}

static void NAME(rows_gradient)(void *to, const void *dy_data, const void *x_data,
                                ptrdiff_t rows, fanin_norm_cols s, int past)
{
    const double m = *s.mean, l = *s.lo, p = *s.scale, a = *s.rstd, k = *s.slope;
    const double c1 = *s.c1, c2 = *s.c2;
    FANIN_ALIGNED char buffer[FANIN_WRITER_BYTES];
    fanin_writer writer = {NULL, NULL, 0, 0};
    const T *x = x_data, *dy = dy_data;
    T *dx = to;
    (void)l, (void)p;
    if (past) {
        fanin_writer_begin(&writer, dx, buffer);
    }
    for (ptrdiff_t start = 0; start < rows; start += RUN) {
        const ptrdiff_t n = rows - start < RUN ? rows - start : RUN;
        const T *d = dy + start;
        T *out = dx + start;
        if (past) {
            out = fanin_writer_room(&writer, n * (ptrdiff_t)sizeof(T));
        }
        NAME(ahead)(d, n);
        if (x == NULL) {
            FANIN_INDEPENDENT
            for (ptrdiff_t r = 0; r < n; r++) {
                out[r] = (T)((double)d[r] * k);
            }
            continue;
        }
        const T *from = x + start;
        NAME(ahead)(from, n);
        FANIN_INDEPENDENT
        for (ptrdiff_t r = 0; r < n; r++) {
            double h = CENTRED(from[r], m, l, p) * a;
            out[r] = (T)((((double)d[r] - c1) - h * c2) * k);
        }
    }
    if (past) {
        fanin_writer_end(&writer);
    }
}

#undef RUN
