/* Products of small matrices: see product.c. */
#ifndef FANIN_PRODUCT_H
#define FANIN_PRODUCT_H

#include "levels.h"

struct fanin_product {
    /* C[i, j] = alpha sum over p of A[i, p] B[p, j] + beta C[i, j], of m x n entries
     * and k products each, none of them 0. A[i, p] lies at A[i row + p depth]; rows of
     * B and C lie ldb and ldc apart, and n is a multiple of a register's numbers. With
     * beta = 0, C is not read. NULL where the registers are too few to gain by it. */
    void (*f32)(float *C, ptrdiff_t ldc, const float *A, ptrdiff_t row, ptrdiff_t depth,
                const float *B, ptrdiff_t ldb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                float alpha, float beta);
    void (*f64)(double *C, ptrdiff_t ldc, const double *A, ptrdiff_t row,
                ptrdiff_t depth, const double *B, ptrdiff_t ldb, ptrdiff_t m,
                ptrdiff_t n, ptrdiff_t k, double alpha, double beta);
    /* Where these are faster than a BLAS that copies first: n a multiple of `bytes`, a
     * row of B at most FANIN_PRODUCT_ROW bytes from the next, and at most so many rows of A; of a
     * transposed A at most so many products an entry, and a C that stays in the second
     * cache beside B. */
    ptrdiff_t bytes, rows, depth;
};

enum { FANIN_PRODUCT_ROW = 2048, FANIN_PRODUCT_RESULT = 850 * 1024 };

FANIN_DECLARE(product)

#endif
