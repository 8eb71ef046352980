/* Bias gradients: column sums of dZ in double, whatever the dtype.
 *
 * Design: rows are the outer loop, so that D is read in memory order; four rows at
 * a time, so that a sum is loaded and stored once for four additions.
 */
#include "dense.h"

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

DEFINE_COLUMN_SUMS(float, f32)
DEFINE_COLUMN_SUMS(double, f64)

const struct fanin_dense FANIN_AT_LEVEL(fanin_dense) = {
    .column_sums_f32 = column_sums_f32,
    .column_sums_f64 = column_sums_f64,
};
