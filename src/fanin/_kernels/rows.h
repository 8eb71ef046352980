/* Rows of a caller's matrix, of any real dtype and any strides, as float or double.
 *
 * Design: what BLAS or a vector loop cannot address directly (other dtypes, byte
 * orders, misaligned or doubly strided data, a shuffled choice of rows) is packed
 * block by block into a small buffer; a copy of the whole never exists. Elements
 * are read with memcpy, which is defined at any alignment. Plain loops: the cost is
 * one read of the source and one write of the buffer.
 */
#ifndef FANIN_ROWS_H
#define FANIN_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum {
    FANIN_I8, FANIN_U8, FANIN_I16, FANIN_U16, FANIN_I32, FANIN_U32, FANIN_I64,
    FANIN_U64, FANIN_F16, FANIN_F32, FANIN_F64, FANIN_BOOL
} fanin_dtype;

typedef struct {
    const char *data;
    ptrdiff_t row_stride, col_stride;   /* bytes */
    int dtype;                          /* fanin_dtype */
    int swapped;                        /* the other byte order */
} fanin_rows;

static inline uint16_t fanin_swap16(uint16_t x) { return (uint16_t)(x << 8 | x >> 8); }
static inline uint32_t fanin_swap32(uint32_t x)
{
    return x << 24 | (x & 0xff00u) << 8 | (x >> 8 & 0xff00u) | x >> 24;
}
static inline uint64_t fanin_swap64(uint64_t x)
{
    return (uint64_t)fanin_swap32((uint32_t)x) << 32 | fanin_swap32((uint32_t)(x >> 32));
}

static inline float fanin_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu;
    uint32_t mantissa = h & 0x3ffu, bits;
    float value;
    if (exponent == 0) {   /* zero or subnormal: mantissa * 2^-24 is exact */
        value = (float)mantissa * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 0xffu : exponent + 112) << 23 | mantissa << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* out[i, j] = source[row(i), j]: row(i) = rows[i], or first + i if rows is NULL. */
#define FANIN_PACK_LOOP(OUT, RAW, SWAP, CONVERT)                                   \
    for (ptrdiff_t i = 0; i < n_rows; i++) {                                       \
        const char *from = s->data + (rows ? rows[i] : first + i) * s->row_stride; \
        for (ptrdiff_t j = 0; j < n_cols; j++, from += s->col_stride) {            \
            RAW raw;                                                               \
            memcpy(&raw, from, sizeof raw);                                        \
            if (s->swapped) {                                                      \
                raw = SWAP(raw);                                                   \
            }                                                                      \
            out[i * ld + j] = (OUT)CONVERT(raw);                                   \
        }                                                                          \
    }                                                                              \
    break;

static inline int8_t fanin_as_i8(uint8_t x) { return (int8_t)x; }
static inline int16_t fanin_as_i16(uint16_t x) { return (int16_t)x; }
static inline int32_t fanin_as_i32(uint32_t x) { return (int32_t)x; }
static inline int64_t fanin_as_i64(uint64_t x) { return (int64_t)x; }
static inline float fanin_as_f32(uint32_t x)
{
    float value;
    memcpy(&value, &x, sizeof value);
    return value;
}
static inline double fanin_as_f64(uint64_t x)
{
    double value;
    memcpy(&value, &x, sizeof value);
    return value;
}
#define FANIN_SAME(x) (x)

#define FANIN_DEFINE_PACK(OUT, NAME)                                               \
    static inline void NAME(OUT *out, ptrdiff_t ld, const fanin_rows *s,         \
                            const ptrdiff_t *rows, ptrdiff_t first,                \
                            ptrdiff_t n_rows, ptrdiff_t n_cols)                    \
    {                                                                              \
        switch (s->dtype) {                                                        \
        case FANIN_I8:                                                             \
            FANIN_PACK_LOOP(OUT, uint8_t, FANIN_SAME, fanin_as_i8)                 \
        case FANIN_BOOL:                                                           \
        case FANIN_U8:                                                             \
            FANIN_PACK_LOOP(OUT, uint8_t, FANIN_SAME, FANIN_SAME)                  \
        case FANIN_I16:                                                            \
            FANIN_PACK_LOOP(OUT, uint16_t, fanin_swap16, fanin_as_i16)             \
        case FANIN_U16:                                                            \
            FANIN_PACK_LOOP(OUT, uint16_t, fanin_swap16, FANIN_SAME)               \
        case FANIN_I32:                                                            \
            FANIN_PACK_LOOP(OUT, uint32_t, fanin_swap32, fanin_as_i32)             \
        case FANIN_U32:                                                            \
            FANIN_PACK_LOOP(OUT, uint32_t, fanin_swap32, FANIN_SAME)               \
        case FANIN_I64:                                                            \
            FANIN_PACK_LOOP(OUT, uint64_t, fanin_swap64, fanin_as_i64)             \
        case FANIN_U64:                                                            \
            FANIN_PACK_LOOP(OUT, uint64_t, fanin_swap64, FANIN_SAME)               \
        case FANIN_F16:                                                            \
            FANIN_PACK_LOOP(OUT, uint16_t, fanin_swap16, fanin_half_to_float)      \
        case FANIN_F32:                                                            \
            FANIN_PACK_LOOP(OUT, uint32_t, fanin_swap32, fanin_as_f32)             \
        default:                                                                   \
            FANIN_PACK_LOOP(OUT, uint64_t, fanin_swap64, fanin_as_f64)             \
        }                                                                          \
    }

FANIN_DEFINE_PACK(float, fanin_pack_f32)
FANIN_DEFINE_PACK(double, fanin_pack_f64)
FANIN_DEFINE_PACK(int64_t, fanin_pack_i64)

#endif
