/* Bias gradients, whether a gradient is finite, and dropout.
 *
 * Design
 * a) column_sums: in double, whatever the dtype. Rows are the outer loop, so that D
 *    is read in memory order; four rows at a time, so that a sum is loaded and
 *    stored once for four additions.
 * b) all_finite: the largest exponent field, found with integers, which vectorizes
 *    where a floating-point comparison of NaNs would not; on a tile of dW that the
 *    thread has just written to its cache.
 * c) drop (Srivastava et al., JMLR 15, 2014, in the inverted form: what is kept is
 *    scaled by 1 / (1 - rate), so that inference does nothing). A dropped value is 0
 *    whatever it was: a NaN that is dropped is gone, forward and backward. One byte of
 *    mask a value; rates are met to 2^-32.
 */
#include "dense.h"

#include <string.h>

#define DEFINE_COLUMN_SUMS(T, S)                                                   \
    static void column_sums_##S(double *FANIN_RESTRICT sums,                       \
                                const T *FANIN_RESTRICT D, ptrdiff_t ldd,          \
                                ptrdiff_t rows, ptrdiff_t cols)                    \
    {                                                                              \
        ptrdiff_t i = 0;                                                           \
        for (; i + 4 <= rows; i += 4) {                                            \
            const T *a = D + i * ldd, *b = a + ldd, *c = b + ldd, *d = c + ldd;    \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                sums[j] += ((double)a[j] + (double)b[j])                           \
                           + ((double)c[j] + (double)d[j]);                        \
            }                                                                      \
        }                                                                          \
        for (; i < rows; i++) {                                                    \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                sums[j] += (double)D[i * ldd + j];                                 \
            }                                                                      \
        }                                                                          \
    }

#define DEFINE_ALL_FINITE(T, S, BITS, EXPONENT)                                    \
    static int all_finite_##S(const T *A, ptrdiff_t lda, ptrdiff_t rows,           \
                              ptrdiff_t cols)                                      \
    {                                                                              \
        for (ptrdiff_t i = 0; i < rows; i++) {                                     \
            const T *a = A + i * lda;                                              \
            BITS found = 0;                                                        \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                BITS bits;                                                         \
                memcpy(&bits, a + j, sizeof bits);                                 \
                found |= (BITS)((bits & EXPONENT) == EXPONENT);                    \
            }                                                                      \
            if (found) {                                                           \
                return 0;                                                          \
            }                                                                      \
        }                                                                          \
        return 1;                                                                  \
    }

#define DEFINE_DROP(T, S)                                                          \
    static void drop_##S(T *y, unsigned char *FANIN_RESTRICT mask, const T *x,     \
                         const unsigned *FANIN_RESTRICT words, ptrdiff_t n,        \
                         unsigned long long threshold, double scale)               \
    {                                                                              \
        const T factor = (T)scale;                                                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            int kept = words[i] >= threshold;                                      \
            mask[i] = (unsigned char)kept;                                         \
            y[i] = kept ? x[i] * factor : (T)0;                                    \
        }                                                                          \
    }                                                                              \
    static void drop_backward_##S(T *FANIN_RESTRICT D,                             \
                                  const unsigned char *FANIN_RESTRICT mask,        \
                                  ptrdiff_t n, double scale)                       \
    {                                                                              \
        const T factor = (T)scale;                                                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            D[i] = mask[i] ? D[i] * factor : (T)0;                                 \
        }                                                                          \
    }

DEFINE_DROP(float, f32)
DEFINE_DROP(double, f64)
DEFINE_COLUMN_SUMS(float, f32)
DEFINE_COLUMN_SUMS(double, f64)
DEFINE_ALL_FINITE(float, f32, uint32_t, 0x7f800000u)
DEFINE_ALL_FINITE(double, f64, uint64_t, 0x7ff0000000000000u)

const struct fanin_dense FANIN_AT_LEVEL(fanin_dense) = {
    .column_sums_f32 = column_sums_f32,
    .column_sums_f64 = column_sums_f64,
    .all_finite_f32 = all_finite_f32,
    .all_finite_f64 = all_finite_f64,
    .drop_f32 = drop_f32,
    .drop_f64 = drop_f64,
    .drop_backward_f32 = drop_backward_f32,
    .drop_backward_f64 = drop_backward_f64,
};
