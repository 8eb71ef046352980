/* Losses on a block of samples, with the gradient; see losses.c. */
#ifndef FANIN_LOSSES_H
#define FANIN_LOSSES_H

#include "levels.h"

enum {
    FANIN_SQUARED_ERROR = 0,
    FANIN_ABSOLUTE_ERROR = 1,
    FANIN_HUBER = 2,
    FANIN_QUANTILE = 3,
    FANIN_POISSON = 4,
    FANIN_BINARY_CROSS_ENTROPY = 5,
    FANIN_SOFTMAX_CROSS_ENTROPY = 6,
    FANIN_CUSTOM_LOSS = 7, /* a function of the user's: see _custom.pyx */
};

/* A loss and its numbers: parameter is Huber's delta, the quantile or the smoothing of
 * labels; quantiles, one for each column, comes before it if not NULL. custom is not
 * for the loops here, but for those who choose between them and _custom.pyx. */
typedef struct {
    int code;
    double parameter;
    const double *quantiles;
    const void *custom;
} fanin_loss;

/* A sum of many terms that loses no digits: hi + lo (Neumaier 1974). */
typedef struct {
    double hi, lo;
} fanin_sum;

struct fanin_losses {
    /* *total = sum_i weight[i] loss_i, whatever the dtype in double, and, unless dZ is
     * NULL, dZ = scale * d(*total)/dZ. Z, Y and dZ are (rows, cols), row-major and
     * contiguous; weight holds a number for each row, or is NULL (all 1). Softmax takes
     * integer labels (rows,) or, with labels NULL, probabilities Y; others take Y.
     * *bad becomes the first row whose target is not acceptable, or -1; with such a
     * row the other results are meaningless. scratch holds `cols` values. */
    void (*forward_f32)(float *dZ, const float *Z, const float *Y,
                        const int64_t *labels, const double *weight, ptrdiff_t rows,
                        ptrdiff_t cols, double scale, float *scratch, ptrdiff_t *bad,
                        fanin_sum *total, const fanin_loss *f);
    void (*forward_f64)(double *dZ, const double *Z, const double *Y,
                        const int64_t *labels, const double *weight, ptrdiff_t rows,
                        ptrdiff_t cols, double scale, double *scratch, ptrdiff_t *bad,
                        fanin_sum *total, const fanin_loss *f);
    /* Z = the prediction that the loss makes of it, in place: the softmax of rows, the
     * logistic or the exponential (Poisson) of values, or Z itself. */
    void (*link_f32)(float *Z, ptrdiff_t rows, ptrdiff_t cols, const fanin_loss *f);
    void (*link_f64)(double *Z, ptrdiff_t rows, ptrdiff_t cols, const fanin_loss *f);
};

FANIN_DECLARE(losses)

#endif
