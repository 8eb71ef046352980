/* Losses on a block of samples, with the gradient; see losses.c. */
#ifndef FANIN_LOSSES_H
#define FANIN_LOSSES_H

#include "levels.h"



/* A sum of many terms that loses no digits: hi + lo (Neumaier 1974). */
typedef struct {
    double hi, lo;
} fanin_sum;

/* Each adds the samples' losses to *total (two doubles, whatever the dtype) and
 * writes scale * d(sum)/dZ to dZ unless dZ is NULL. Z and dZ are (rows, cols),
 * row-major and contiguous. *bad becomes the first row whose target is not
 * acceptable; the result is then meaningless. scratch holds `cols` values. */
struct fanin_losses {
    void (*squared_error_f32)(float *dZ, const float *Z, const float *Y,
                                ptrdiff_t rows, ptrdiff_t cols, double scale,
                                ptrdiff_t *bad, fanin_sum *total);
    void (*squared_error_f64)(double *dZ, const double *Z, const double *Y,
                                ptrdiff_t rows, ptrdiff_t cols, double scale,
                                ptrdiff_t *bad, fanin_sum *total);
    void (*binary_cross_entropy_f32)(float *dZ, const float *Z, const float *Y,
                                       ptrdiff_t rows, ptrdiff_t cols, double scale,
                                       ptrdiff_t *bad, fanin_sum *total);
    void (*binary_cross_entropy_f64)(double *dZ, const double *Z, const double *Y,
                                       ptrdiff_t rows, ptrdiff_t cols, double scale,
                                       ptrdiff_t *bad, fanin_sum *total);
    /* Targets: integer labels (rows,), or probabilities Y (rows, cols) if labels
     * is NULL. */
    void (*softmax_cross_entropy_f32)(float *dZ, const float *Z, const float *Y,
                                        const int64_t *labels, ptrdiff_t rows,
                                        ptrdiff_t cols, double scale, float *scratch,
                                        ptrdiff_t *bad, fanin_sum *total);
    void (*softmax_cross_entropy_f64)(double *dZ, const double *Z, const double *Y,
                                        const int64_t *labels, ptrdiff_t rows,
                                        ptrdiff_t cols, double scale, double *scratch,
                                        ptrdiff_t *bad, fanin_sum *total);
    /* Z = softmax of each row, or the logistic of each value, in place. */
    void (*softmax_f32)(float *Z, ptrdiff_t rows, ptrdiff_t cols);
    void (*softmax_f64)(double *Z, ptrdiff_t rows, ptrdiff_t cols);
};

FANIN_DECLARE(losses)

#endif
