/* Products of small and middling matrices: see product.c. */
#ifndef FANIN_PRODUCT_H
#define FANIN_PRODUCT_H

#include "levels.h"

struct fanin_product {
    /* C[i, j] = alpha sum over p of A[i, p] B[p, j] + beta C[i, j], of m x n entries
     * and k products each, none of them 0. A[i, p] lies at A[i row + p depth], B[p, j]
     * at B[p ldb + j], or at B[p + j ldb] if it is given transposed; rows of C lie ldc
     * apart. With beta = 0, C is not read. NULL where the registers are too few to gain
     * by it. */
    void (*f32)(float *C, ptrdiff_t ldc, const float *A, ptrdiff_t row, ptrdiff_t depth,
                const float *B, ptrdiff_t ldb, int transposed, ptrdiff_t m, ptrdiff_t n,
                ptrdiff_t k, float alpha, float beta);
    void (*f64)(double *C, ptrdiff_t ldc, const double *A, ptrdiff_t row,
                ptrdiff_t depth, const double *B, ptrdiff_t ldb, int transposed,
                ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, double alpha, double beta);
    /* Where these are faster than a BLAS, in caches of today's sizes: with at most so
     * many rows of A and FANIN_PRODUCT_B bytes of B; of a transposed A with at most so
     * much depth, products of one entry, or FANIN_PRODUCT_A bytes, but more than so many
     * products; with `turned` rows of A, if not 0, of a transposed B as well. */
    ptrdiff_t rows, depth, products, turned;
};

enum { FANIN_PRODUCT_A = 512 * 1024, FANIN_PRODUCT_B = 6500 * 1000 };

FANIN_DECLARE(product)

#endif
