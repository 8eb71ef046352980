/* What a network's pass needs beside its matrix products: see dense.c. */
#ifndef FANIN_DENSE_H
#define FANIN_DENSE_H

#include "levels.h"

struct fanin_dense {
    /* sums[j] += sum over rows of D[i, j], for the bias gradient. */
    void (*column_sums_f32)(double *sums, const float *D, ptrdiff_t ldd,
                            ptrdiff_t rows, ptrdiff_t cols);
    void (*column_sums_f64)(double *sums, const double *D, ptrdiff_t ldd,
                            ptrdiff_t rows, ptrdiff_t cols);
    /* Whether no entry of A is a NaN or an infinity. */
    int (*all_finite_f32)(const float *A, ptrdiff_t lda, ptrdiff_t rows,
                          ptrdiff_t cols);
    int (*all_finite_f64)(const double *A, ptrdiff_t lda, ptrdiff_t rows,
                          ptrdiff_t cols);
    /* y[i] = x[i] scale where words[i] >= threshold, else 0; mask[i] = 1 or 0. */
    void (*drop_f32)(float *y, unsigned char *mask, const float *x,
                     const unsigned *words, ptrdiff_t n, unsigned long long threshold,
                     double scale);
    void (*drop_f64)(double *y, unsigned char *mask, const double *x,
                     const unsigned *words, ptrdiff_t n, unsigned long long threshold,
                     double scale);
    /* D[i] *= mask[i] scale. */
    void (*drop_backward_f32)(float *D, const unsigned char *mask, ptrdiff_t n,
                              double scale);
    void (*drop_backward_f64)(double *D, const unsigned char *mask, ptrdiff_t n,
                              double scale);
};

FANIN_DECLARE(dense)

#endif
