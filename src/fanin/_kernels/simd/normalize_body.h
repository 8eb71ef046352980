/* The loops of normalize.c for one element type: T, NAME(x), APPLY(x, hi, lo, std)
 * (float32: std is its inverse). No include guard: normalize.c includes this file
 * once per type.
 *
 * y may be x itself, which `restrict` would deny. A span is a loop without a
 * dependence from one element to another: FANIN_INDEPENDENT says so. */

#define CHUNK ((ptrdiff_t)(4 * FANIN_LINE / sizeof(T)))
#define PER_LINE ((ptrdiff_t)(FANIN_LINE / sizeof(T)))

static inline void NAME(span)(T *y, const T *x, ptrdiff_t n, fanin_affine a,
                              ptrdiff_t c, int inverse)
{
    const double *FANIN_RESTRICT mean = a.mean + c, *FANIN_RESTRICT lo = a.mean_lo + c;
    const double *FANIN_RESTRICT std = a.std + c, *FANIN_RESTRICT p = a.scale;
    if (inverse) {
        FANIN_INDEPENDENT
        for (ptrdiff_t i = 0; i < n; i++) {
            y[i] = (T)((double)x[i] * std[i] + mean[i]);
        }
    } else if (p != NULL) {
        p += c;
        FANIN_INDEPENDENT
        for (ptrdiff_t i = 0; i < n; i++) {
            y[i] = (T)((((double)x[i] * p[i] - mean[i]) - lo[i]) / std[i]);
        }
    } else {
        FANIN_INDEPENDENT
        for (ptrdiff_t i = 0; i < n; i++) {
            y[i] = APPLY(x[i], mean[i], lo[i], std[i]);
        }
    }
}

/* n elements; the parameters of element i are those of column i (step 1), or of
 * i % CHUNK (step 0). */
static inline void NAME(run)(T *y, const T *x, ptrdiff_t n, fanin_affine a,
                             ptrdiff_t step, int inverse, int stream)
{
    FANIN_ALIGNED T chunk[CHUNK];
    ptrdiff_t i = 0;
    if (stream == FANIN_WRITE_PAST) {
        i = fanin_to_line(y) / (ptrdiff_t)sizeof(T);
        i = i < n ? i : n;
        NAME(span)(y, x, i, a, 0, inverse);
    }
    for (; i + CHUNK <= n; i += CHUNK) {
        if (stream) {
            for (ptrdiff_t k = 0; k < CHUNK; k += PER_LINE) {
                fanin_read_ahead(x + i + k, FANIN_AHEAD);
            }
        }
        if (stream == FANIN_WRITE_PAST) {
            NAME(span)(chunk, x + i, CHUNK, a, i * step, inverse);
            for (ptrdiff_t k = 0; k < CHUNK; k += PER_LINE) {
                fanin_write_past(y + i + k, chunk + k);
            }
        } else {
            NAME(span)(y + i, x + i, CHUNK, a, i * step, inverse);
        }
    }
    if (stream == FANIN_WRITE_PAST) {
        for (; i + PER_LINE <= n; i += PER_LINE) {
            NAME(span)(chunk, x + i, PER_LINE, a, i * step, inverse);
            fanin_write_past(y + i, chunk);
        }
    }
    NAME(span)(y + i, x + i, n - i, a, i * step, inverse);
}

static void NAME(cols)(T *y, ptrdiff_t y_stride, const T *x, ptrdiff_t x_stride,
                       ptrdiff_t rows, ptrdiff_t w, fanin_affine a, int inverse,
                       int stream)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        NAME(run)(y + r * y_stride, x + r * x_stride, w, a, 1, inverse, stream);
    }
    if (stream == FANIN_WRITE_PAST) {
        fanin_write_done();
    }
}

static void NAME(rows)(T *y, ptrdiff_t y_stride, const T *x, ptrdiff_t x_stride,
                       ptrdiff_t rows, ptrdiff_t cols, fanin_affine a, int inverse,
                       int stream)
{
    double mean[4 * FANIN_LINE / sizeof(T)], lo[4 * FANIN_LINE / sizeof(T)];
    double std[4 * FANIN_LINE / sizeof(T)], scale[4 * FANIN_LINE / sizeof(T)];
    fanin_affine same = {mean, lo, std, a.scale == NULL ? NULL : scale};
    ptrdiff_t n = rows < CHUNK ? rows : CHUNK;
    for (ptrdiff_t c = 0; c < cols; c++) {
        for (ptrdiff_t i = 0; i < n; i++) {
            mean[i] = a.mean[c], lo[i] = a.mean_lo[c], std[i] = a.std[c];
        }
        for (ptrdiff_t i = 0; a.scale != NULL && i < n; i++) {
            scale[i] = a.scale[c];
        }
        NAME(run)(y + c * y_stride, x + c * x_stride, rows, same, 0, inverse, stream);
    }
    if (stream == FANIN_WRITE_PAST) {
        fanin_write_done();
    }
}

#undef CHUNK
#undef PER_LINE
