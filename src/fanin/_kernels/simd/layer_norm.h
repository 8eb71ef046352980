/* Normalization of rows, forward and backward, on one block: see layer_norm.c. */
#ifndef FANIN_LAYER_NORM_H
#define FANIN_LAYER_NORM_H

#include "levels.h"

/* The most rows of a block. */
#define FANIN_LAYER_NORM_ROWS 64

/* What a row's values are normalized with: xhat = ((x scale - mean) - lo) rstd, one of
 * each per row. float32 data needs no lo and no scale: NULL. */
typedef struct {
    double *mean, *rstd, *lo, *scale;
} fanin_norm_rows;

/* Arrays of two: for float and for double. Blocks are rows x w, strides in elements
 * from row to row; a row's values lie side by side. */
struct fanin_layer_norm {
    /* Mean (without `centre` 0) and 1 / sqrt(mean square + eps) of each row. */
    void (*statistics[2])(fanin_norm_rows to, const void *x, ptrdiff_t x_stride,
                          ptrdiff_t rows, ptrdiff_t w, double eps, int centre);
    /* y := xhat gamma + beta. y may be x; `past`: write past the cache. */
    void (*apply[2])(void *y, ptrdiff_t y_stride, const void *x, ptrdiff_t x_stride,
                     ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                     const double *gamma, const double *beta, int past);
    /* c1[r] = sum of dy gamma, c2[r] = sum of dy gamma xhat; and, unless dgamma is
     * NULL, dgamma += sum over rows of dy xhat, dbeta += sum over rows of dy. */
    void (*sums[2])(double *c1, double *c2, double *dgamma, double *dbeta,
                    const void *dy, ptrdiff_t dy_stride, const void *x,
                    ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                    const double *gamma);
    /* dx := scale rstd (dy gamma - c1 / n - xhat c2 / n); without `centre` no c1.
     * dx may be dy. */
    void (*gradient[2])(void *dx, ptrdiff_t dx_stride, const void *dy,
                        ptrdiff_t dy_stride, const void *x, ptrdiff_t x_stride,
                        ptrdiff_t rows, ptrdiff_t w, fanin_norm_rows s,
                        const double *gamma, const double *c1, const double *c2,
                        double n, int centre, int past);
    /* Both, of whole rows. */
    void (*backward[2])(void *dx, ptrdiff_t dx_stride, double *dgamma, double *dbeta,
                        const void *dy, ptrdiff_t dy_stride, const void *x,
                        ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t w,
                        fanin_norm_rows s, const double *gamma, int centre, int past);
};

static inline fanin_norm_rows fanin_norm_rows_at(fanin_norm_rows s, ptrdiff_t i)
{
    s.mean += i;
    s.rstd += i;
    if (s.lo != NULL) {
        s.lo += i;
        s.scale += i;
    }
    return s;
}

FANIN_DECLARE(layer_norm)

#endif
