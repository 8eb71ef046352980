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
    /* Where these are faster than a BLAS, in caches of today's sizes: rows of C longer
     * than FANIN_PRODUCT_NARROW bytes, and
     * - at most `rows` rows of A and FANIN_PRODUCT_B bytes of B, which is transposed
     *   only for at least `turned` rows (0: never), or
     * - A transposed, with at most k = `depth` or with at most `small` bytes, and more
     *   than `products` products in all; B not transposed. */
    ptrdiff_t rows, turned, depth, small, products;
};

enum { FANIN_PRODUCT_NARROW = 32, FANIN_PRODUCT_B = 6500 * 1000 };

FANIN_DECLARE(product)

#endif
