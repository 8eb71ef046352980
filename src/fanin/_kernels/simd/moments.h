/* Mean and squared deviations of one block, and their merging: see moments.c. */
#ifndef FANIN_MOMENTS_H
#define FANIN_MOMENTS_H

#include "levels.h"

/* The widest (virtual) row of a block, and the scratch a block needs. */
#define FANIN_MOMENTS_WIDTH 1024
#define FANIN_MOMENTS_WORK (7 * FANIN_MOMENTS_WIDTH)

/* Per column: `n` values that are not NaN; their mean (hi + lo) 2^e; the sum of
 * their squared deviations from it, (m2 + m2l) 2^2e. e is 0 for ordinary data.
 * With weights, n is the sum of those of the values that are not NaN, nl what n has
 * no room for, and `miss` counts the NaN of positive weight; both may be NULL. */
typedef struct {
    double *n, *hi, *lo, *m2, *m2l;
    int32_t *e;
    double *nl, *miss;
} fanin_state;

/* The weights of a block's rows, all finite and >= 0; their sum n + nl, in two words;
 * the first that is not 0; whether all products of them stay in range. */
typedef struct {
    const double *weight;
    double n, nl;
    ptrdiff_t first;
    int ordinary;
} fanin_weights;

struct fanin_moments {
    /* Moments of a block of rows x cols into `out`. Row r starts at x + r * stride;
     * stack > 1 requires stride == cols. `careful` skips the fast attempt.
     * Returns the number of columns that took the careful path. */
    ptrdiff_t (*cols_f32)(fanin_state out, const float *x, ptrdiff_t stride,
                          ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stack,
                          double *work, int careful);
    ptrdiff_t (*cols_f64)(fanin_state out, const double *x, ptrdiff_t stride,
                          ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stack,
                          double *work, int careful);
    /* The same of one contiguous column. */
    void (*rows_f32)(fanin_state out, const float *x, ptrdiff_t rows);
    void (*rows_f64)(fanin_state out, const double *x, ptrdiff_t rows);
    /* The same with a weight per row; `out` has nl and miss. */
    fanin_weights (*weights)(const double *weight, ptrdiff_t rows);
    ptrdiff_t (*weighted_cols_f32)(fanin_state out, const float *x, ptrdiff_t stride,
                                   ptrdiff_t rows, ptrdiff_t cols, fanin_weights u,
                                   double *work, int careful);
    ptrdiff_t (*weighted_cols_f64)(fanin_state out, const double *x, ptrdiff_t stride,
                                   ptrdiff_t rows, ptrdiff_t cols, fanin_weights u,
                                   double *work, int careful);
    void (*weighted_rows_f32)(fanin_state out, const float *x, ptrdiff_t rows,
                              fanin_weights u, double *work);
    void (*weighted_rows_f64)(fanin_state out, const double *x, ptrdiff_t rows,
                              fanin_weights u, double *work);
    /* a := the moments of a's and b's values together, for n columns. */
    void (*merge)(fanin_state a, fanin_state b, ptrdiff_t n);
};

static inline fanin_state fanin_state_at(fanin_state s, ptrdiff_t i)
{
    fanin_state moved = {s.n + i,   s.hi + i, s.lo + i,
                         s.m2 + i,  s.m2l + i, s.e + i,
                         s.nl == NULL ? NULL : s.nl + i,
                         s.miss == NULL ? NULL : s.miss + i};
    return moved;
}

FANIN_DECLARE(moments)

#endif
