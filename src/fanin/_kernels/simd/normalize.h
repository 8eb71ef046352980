/* (x - mean) / std and back, on one block: see normalize.c. */
#ifndef FANIN_NORMALIZE_H
#define FANIN_NORMALIZE_H

#include "levels.h"

/* What to do to one column, or to `w` of them: arrays of w. `scale` is a power of two
 * that keeps extreme data in range, or NULL for 1. */
typedef struct {
    const double *mean;      /* of x * scale, rounded */
    const double *mean_lo;   /* and what the rounding left out */
    const double *std;       /* of x * scale; inverse: std and mean themselves */
    const double *scale;
} fanin_affine;

/* How to go through memory: `stream` below. */
enum { FANIN_IN_CACHE = 0, FANIN_READ_AHEAD = 1, FANIN_WRITE_PAST = 2 };

struct fanin_normalize {
    /* y := (x - mean) / std, or with `inverse` y := x std + mean, for `rows` rows of
     * w columns; strides in elements. y may be x, but not to write past the cache. */
    void (*cols_f32)(float *y, ptrdiff_t y_stride, const float *x, ptrdiff_t x_stride,
                     ptrdiff_t rows, ptrdiff_t w, fanin_affine a, int inverse,
                     int stream);
    void (*cols_f64)(double *y, ptrdiff_t y_stride, const double *x, ptrdiff_t x_stride,
                     ptrdiff_t rows, ptrdiff_t w, fanin_affine a, int inverse,
                     int stream);
    /* The same of `cols` contiguous columns of n rows, strides from column to column. */
    void (*rows_f32)(float *y, ptrdiff_t y_stride, const float *x, ptrdiff_t x_stride,
                     ptrdiff_t rows, ptrdiff_t cols, fanin_affine a, int inverse,
                     int stream);
    void (*rows_f64)(double *y, ptrdiff_t y_stride, const double *x, ptrdiff_t x_stride,
                     ptrdiff_t rows, ptrdiff_t cols, fanin_affine a, int inverse,
                     int stream);
};

FANIN_DECLARE(normalize)

#endif
