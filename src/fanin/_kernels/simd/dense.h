/* What the dense backward pass needs beside its matrix products: see dense.c. */
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
};

FANIN_DECLARE(dense)

#endif
