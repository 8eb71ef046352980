/* Design: products of small and middling matrices
 *
 *     C := alpha A B + beta C
 *
 * a) A tile of C, TILE_ROWS rows by three registers, stays in registers while p runs:
 *    for each p three loads of B, and of A one number for each row, which goes to all
 *    lanes. (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication",
 *    ACM Trans. Math. Softw. 34 (2008) 12.)
 * b) p runs over at most DEPTH at a time. The columns of B that one tile needs, a panel,
 *    are copied without gaps, so that all tiles below find them in the first two caches
 *    whatever the distance of B's rows; of a transposed B they are turned on the way,
 *    registers at once. The first tile reads B itself and writes the panel while it
 *    computes: a core's stores are idle there. So a copy, which costs a BLAS a third of
 *    a product of 32 rows, costs nothing here, or, of a transposed B, a tenth of 128.
 * c) A is read where it lies: each number once for a panel, in order. ROWS of it at a
 *    time stay in the second cache. Only large matrices gain by a copy of A; so do
 *    transposed ones, which end where the translation of addresses does: those are a
 *    BLAS's.
 * d) What comes next is asked for: rows of B, which lie too far apart for the hardware
 *    to guess, and the tile's rows of C, one after another.
 * e) An entry's products are added in the order of p, in parts that depend on k alone,
 *    whatever tile it is in.
 *
 * Cost: 2 m n k operations, at 0.9 of a core's peak in the second cache; 72 KiB of the
 * stack.
 */
#include "product.h"
#include "stream.h"

#include <string.h>

#if (defined(__GNUC__) && __GNUC__ >= 9) || defined(__clang__)
#if defined(__AVX512F__)
#include <immintrin.h>
#define BYTES 64
#define TILE_ROWS 8 /* 24 sums, 3 loads and a number: 28 of 32 registers */
/* Where this pays (product.h), measured beside OpenBLAS 0.3.34. */
#define MOST_ROWS PTRDIFF_MAX
#define LEAST_TURNED 16
#define MOST_DEPTH 128
#define SMALL_A (512 * 1024)
#define LEAST_PRODUCTS 1000000 /* OpenBLAS copies nothing of smaller ones */
#elif defined(__AVX2__)
#include <immintrin.h>
#define BYTES 32
#define TILE_ROWS 4 /* 12, 3, 1: 16 of 16 */
#define MOST_ROWS 128
#define LEAST_TURNED 0
#define MOST_DEPTH 32
#define SMALL_A 0
#define LEAST_PRODUCTS 0
#endif
#endif

#ifdef BYTES

#define DEPTH 384
#define ROWS 256
/* Rows of B to ask for ahead of their use, and how many it takes until the next row of
 * C is asked for. */
#define NEXT 4
#define STRETCH 16

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define T float
#define INDEX int32_t
#define NAME(x) x##_f32
#if BYTES == 64
#define MASK __mmask16
#define READ_SOME(mask, from) _mm512_maskz_loadu_ps(mask, from)
#define WRITE_SOME(to, mask, v) _mm512_mask_storeu_ps(to, mask, (__m512)(v))
#define SHUFFLE(a, b, order)                                                       \
    _mm512_permutex2var_ps((__m512)(a), (__m512i)(order), (__m512)(b))
#else
#define READ_SOME(mask, from) _mm256_maskload_ps(from, (__m256i)(mask))
#define WRITE_SOME(to, mask, v) _mm256_maskstore_ps(to, (__m256i)(mask), (__m256)(v))
#endif
#include "product_body.h"
#undef T
#undef INDEX
#undef NAME
#undef MASK
#undef READ_SOME
#undef WRITE_SOME
#undef SHUFFLE

#define T double
#define INDEX int64_t
#define NAME(x) x##_f64
#if BYTES == 64
#define MASK __mmask8
#define READ_SOME(mask, from) _mm512_maskz_loadu_pd(mask, from)
#define WRITE_SOME(to, mask, v) _mm512_mask_storeu_pd(to, mask, (__m512d)(v))
#define SHUFFLE(a, b, order)                                                       \
    _mm512_permutex2var_pd((__m512d)(a), (__m512i)(order), (__m512d)(b))
#else
#define READ_SOME(mask, from) _mm256_maskload_pd(from, (__m256i)(mask))
#define WRITE_SOME(to, mask, v) _mm256_maskstore_pd(to, (__m256i)(mask), (__m256d)(v))
#endif
#include "product_body.h"
#undef T
#undef INDEX
#undef NAME
#undef MASK
#undef READ_SOME
#undef WRITE_SOME
#undef SHUFFLE

const struct fanin_product FANIN_AT_LEVEL(fanin_product) = {
    .f32 = product_f32,
    .f64 = product_f64,
    .rows = MOST_ROWS,
    .turned = LEAST_TURNED,
    .depth = MOST_DEPTH,
    .small = SMALL_A,
    .products = LEAST_PRODUCTS,
};

#else

const struct fanin_product FANIN_AT_LEVEL(fanin_product) = {NULL, NULL, 0, 0, 0, 0, 0};

#endif
