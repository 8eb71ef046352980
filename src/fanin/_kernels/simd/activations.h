/* Activation functions over contiguous or strided rows; see activations.c. */
#ifndef FANIN_ACTIVATIONS_H
#define FANIN_ACTIVATIONS_H

#include "levels.h"

enum {
    FANIN_IDENTITY = 0,
    FANIN_LOGISTIC = 1,
    FANIN_TANH = 2,
    FANIN_RELU = 3,
    FANIN_LEAKY_RELU = 4,
    FANIN_ELU = 5,
    FANIN_SELU = 6,
    FANIN_SOFTPLUS = 7,
    FANIN_SILU = 8,
    FANIN_GELU = 9,
    FANIN_GELU_TANH = 10,
    FANIN_CUSTOM_ACTIVATION = 11, /* a function of the user's: see _custom.pyx */
};

/* Whether the derivative is a function of z only, not of a = f(z). */
static inline int fanin_activation_needs_input(int activation, double parameter)
{
    return activation >= FANIN_SILU
           || ((activation == FANIN_LEAKY_RELU || activation == FANIN_ELU)
               && parameter < 0.0);
}

/* Matrices are row-major with leading dimensions ld. */
struct fanin_activations {
    /* z = P + bias, A = f(z), Z = z; bias (cols,) and Z may be NULL, P may be A or
     * Z. */
    void (*forward_f32)(float *A, ptrdiff_t lda, const float *P, ptrdiff_t ldp,
                        const float *bias, float *Z, ptrdiff_t ldz, ptrdiff_t rows,
                        ptrdiff_t cols, int activation, double parameter);
    void (*forward_f64)(double *A, ptrdiff_t lda, const double *P, ptrdiff_t ldp,
                        const double *bias, double *Z, ptrdiff_t ldz, ptrdiff_t rows,
                        ptrdiff_t cols, int activation, double parameter);
    /* D *= f'(z); from Z if the activation needs it, else from A. The other may be
     * NULL. */
    void (*backward_f32)(float *D, ptrdiff_t ldd, const float *A, ptrdiff_t lda,
                         const float *Z, ptrdiff_t ldz, ptrdiff_t rows, ptrdiff_t cols,
                         int activation, double parameter);
    void (*backward_f64)(double *D, ptrdiff_t ldd, const double *A, ptrdiff_t lda,
                         const double *Z, ptrdiff_t ldz, ptrdiff_t rows, ptrdiff_t cols,
                         int activation, double parameter);
    /* y = f(x), or with `derivative` f'(x), of n values; `past`: y is written past
     * the cache. y may be x, but not then. */
    void (*apply_f32)(float *y, const float *x, ptrdiff_t n, int activation,
                      double parameter, int derivative, int past);
    void (*apply_f64)(double *y, const double *x, ptrdiff_t n, int activation,
                      double parameter, int derivative, int past);
};

FANIN_DECLARE(activations)

#endif
