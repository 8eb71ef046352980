/* Rows of a caller's matrix, of any real dtype and any strides, packed.
 *
 * Design: what BLAS cannot address directly (other dtypes, byte orders, misaligned or
 * doubly strided data, a shuffled choice of rows) is packed block by block into a
 * small buffer; a copy of the whole never exists. The reading is elements.h's.
 */
#ifndef FANIN_ROWS_H
#define FANIN_ROWS_H

#include "elements.h"

typedef struct {
    const char *data;
    ptrdiff_t row_stride, col_stride;   /* bytes */
    int dtype;                          /* FANIN_BOOL .. FANIN_F64 */
    int swapped;                        /* the other byte order */
} fanin_rows;

/* out[i, j] = source[row(i), j]: row(i) = rows[i], or first + i if rows is NULL. */
#define FANIN_DEFINE_PACK(OUT, NAME, READ)                                        \
    static inline void NAME(OUT *out, ptrdiff_t ld, const fanin_rows *s,          \
                            const ptrdiff_t *rows, ptrdiff_t first,               \
                            ptrdiff_t n_rows, ptrdiff_t n_cols)                   \
    {                                                                             \
        if (rows == NULL && n_cols == 1) { /* a vector: one run */                \
            READ(out, ld, s->data + first * s->row_stride, s->row_stride, n_rows, \
                 s->dtype, s->swapped);                                           \
            return;                                                               \
        }                                                                         \
        for (ptrdiff_t i = 0; i < n_rows; i++) {                                  \
            ptrdiff_t row = rows != NULL ? rows[i] : first + i;                   \
            READ(out + i * ld, 1, s->data + row * s->row_stride, s->col_stride,   \
                 n_cols, s->dtype, s->swapped);                                   \
        }                                                                         \
    }

FANIN_DEFINE_PACK(float, fanin_pack_f32, fanin_read_f32)
FANIN_DEFINE_PACK(double, fanin_pack_f64, fanin_read_f64)
FANIN_DEFINE_PACK(int64_t, fanin_pack_i64, fanin_read_i64)

#endif
