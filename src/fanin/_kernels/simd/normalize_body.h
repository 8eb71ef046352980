/* The loops of normalize.c for one element type: T, NAME(x), APPLY(x, hi, lo, std)
 * (float32: std is its inverse). No include guard:
 * normalize.c includes this file once per type.
 *
 * y may be x itself, which `restrict` would deny. Each row is its own loop, without
 * a dependence from one element to another: FANIN_INDEPENDENT says so. */

static void NAME(cols)(T *y, ptrdiff_t y_stride, const T *x, ptrdiff_t x_stride,
                       ptrdiff_t rows, ptrdiff_t w, fanin_affine a, int inverse)
{
    const double *FANIN_RESTRICT mean = a.mean, *FANIN_RESTRICT lo = a.mean_lo;
    const double *FANIN_RESTRICT std = a.std, *FANIN_RESTRICT p = a.scale;
    for (ptrdiff_t r = 0; r < rows; r++, x += x_stride, y += y_stride) {
        if (inverse) {
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < w; c++) {
                y[c] = (T)((double)x[c] * std[c] + mean[c]);
            }
        } else if (p != NULL) {
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < w; c++) {
                y[c] = (T)((((double)x[c] * p[c] - mean[c]) - lo[c]) / std[c]);
            }
        } else {
            FANIN_INDEPENDENT
            for (ptrdiff_t c = 0; c < w; c++) {
                y[c] = APPLY(x[c], mean[c], lo[c], std[c]);
            }
        }
    }
}

static void NAME(rows)(T *y, const T *x, ptrdiff_t rows, fanin_affine a, int inverse)
{
    const double mean = *a.mean, lo = *a.mean_lo, std = *a.std;
    if (inverse) {
        FANIN_INDEPENDENT
        for (ptrdiff_t r = 0; r < rows; r++) {
            y[r] = (T)((double)x[r] * std + mean);
        }
    } else if (a.scale != NULL) {
        const double p = *a.scale;
        FANIN_INDEPENDENT
        for (ptrdiff_t r = 0; r < rows; r++) {
            y[r] = (T)((((double)x[r] * p - mean) - lo) / std);
        }
    } else {
        FANIN_INDEPENDENT
        for (ptrdiff_t r = 0; r < rows; r++) {
            y[r] = APPLY(x[r], mean, lo, std);
        }
    }
}
