/* Design: products of small matrices, where they lie
 *
 *     C := alpha A B + beta C
 *
 * a) A BLAS copies both matrices into an order that suits its inner loop. That pays
 *    when each entry is then used some hundred times. A layer's product of 32 rows
 *    spends a third of its time on it, while all of B lies in a core's second cache:
 *    here nothing is copied.
 * b) A tile of C, TILE_ROWS rows by three registers, stays in registers while p runs:
 *    for each p three loads of B, and of A one number for each row, which goes to all
 *    lanes. (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication",
 *    ACM Trans. Math. Softw. 34 (2008) 12, with the second cache in the place of packed
 *    panels.) Rows of B that come next are asked for: they lie too far apart for the
 *    hardware to guess.
 * c) p runs over DEPTH at a time, so that three registers' columns of B are read from
 *    the first cache by the tiles below each other; these are ROWS at a time, whose
 *    part of A stays in the second.
 * d) An entry's products are added in the order of p, whatever tile it is in.
 *
 * Cost: 2 m n k operations, as many a second as a BLAS does of large matrices; no memory
 * of its own.
 */
#include "product.h"
#include "stream.h"

#include <string.h>

#if (defined(__GNUC__) && __GNUC__ >= 9) || defined(__clang__)
#if defined(__AVX512F__)
#define BYTES 64
#define TILE_ROWS 8              /* 24 sums, 3 loads and a number: 28 of 32 registers */
/* What of A pays, measured beside OpenBLAS 0.3.34. */
#define MOST_ROWS 512
#define MOST_DEPTH 128
#elif defined(__AVX2__)
#define BYTES 32
#define TILE_ROWS 4              /* 12, 3, 1: 16 of 16 */
#define MOST_ROWS 32
#define MOST_DEPTH 32
#endif
#endif

#ifdef BYTES

#define DEPTH 256
#define ROWS 128
/* Rows of B to ask for ahead of their use. */
#define NEXT 4

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define T float
#define NAME(x) x##_f32
#include "product_body.h"
#undef T
#undef NAME

#define T double
#define NAME(x) x##_f64
#include "product_body.h"
#undef T
#undef NAME

const struct fanin_product FANIN_AT_LEVEL(fanin_product) = {
    .f32 = product_f32,
    .f64 = product_f64,
    .bytes = BYTES,
    .rows = MOST_ROWS,
    .depth = MOST_DEPTH,
};

#else

const struct fanin_product FANIN_AT_LEVEL(fanin_product) = {NULL, NULL, 1, 0, 0};

#endif
