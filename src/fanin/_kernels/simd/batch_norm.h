/* Normalization of columns, forward and backward, on one block: see batch_norm.c. */
#ifndef FANIN_BATCH_NORM_H
#define FANIN_BATCH_NORM_H

#include "levels.h"

/* One of each per column: xhat = ((x scale - mean) - lo) rstd (float32 data needs no lo
 * and no scale); y = xhat gamma + beta, with slope = rstd gamma. Backward: slope =
 * scale rstd gamma, and c1, c2 are the means of dy and dy xhat (in inference unused). */
typedef struct {
    const double *mean, *lo, *rstd, *scale, *slope, *beta, *c1, *c2;
} fanin_norm_cols;

/* Arrays of two: for float and for double. A block is rows x w with a row's values side
 * by side (`cols_`), or one column of contiguous values (`rows_`); strides in elements.
 * `past`: write past the cache. A result may lie where an input of its type does. */
struct fanin_batch_norm {
    /* y := xhat gamma + beta. */
    void (*cols_apply[2])(void *y, ptrdiff_t y_stride, const void *x,
                          ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                          fanin_norm_cols s, int past);
    void (*rows_apply[2])(void *y, const void *x, ptrdiff_t rows, fanin_norm_cols s,
                          int past);
    /* s1 += sum of dy, s2 += sum of dy xhat, column by column. */
    void (*cols_sums[2])(double *s1, double *s2, const void *dy, ptrdiff_t dy_stride,
                         const void *x, ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                         fanin_norm_cols s);
    void (*rows_sums[2])(double *s1, double *s2, const void *dy, const void *x,
                         ptrdiff_t rows, fanin_norm_cols s);
    /* dx := slope (dy - c1 - xhat c2), or if x is NULL slope dy. */
    void (*cols_gradient[2])(void *dx, ptrdiff_t dx_stride, const void *dy,
                             ptrdiff_t dy_stride, const void *x, ptrdiff_t x_stride,
                             ptrdiff_t rows, ptrdiff_t w, fanin_norm_cols s, int past);
    void (*rows_gradient[2])(void *dx, const void *dy, const void *x, ptrdiff_t rows,
                             fanin_norm_cols s, int past);
};

FANIN_DECLARE(batch_norm)

#endif
