/* Activation functions over contiguous or strided rows; see activations.c. */
#ifndef FANIN_ACTIVATIONS_H
#define FANIN_ACTIVATIONS_H

#include "levels.h"

enum {
    FANIN_IDENTITY = 0,
    FANIN_LOGISTIC = 1,
    FANIN_TANH = 2,
    FANIN_RELU = 3,
};

/* A and dA are row-major with leading dimensions lda, ldd. */
struct fanin_activations {
    /* A = activation(A + bias), in place; bias (cols,) may be NULL. */
    void (*forward_f32)(float *A, ptrdiff_t lda, const float *bias, ptrdiff_t rows,
                        ptrdiff_t cols, int activation);
    void (*forward_f64)(double *A, ptrdiff_t lda, const double *bias, ptrdiff_t rows,
                        ptrdiff_t cols, int activation);
    /* dA = dA * activation'(z), in place, from A = activation(z). */
    void (*backward_f32)(float *dA, ptrdiff_t ldd, const float *A, ptrdiff_t lda,
                         ptrdiff_t rows, ptrdiff_t cols, int activation);
    void (*backward_f64)(double *dA, ptrdiff_t ldd, const double *A, ptrdiff_t lda,
                         ptrdiff_t rows, ptrdiff_t cols, int activation);
};

FANIN_DECLARE(activations)

#endif
