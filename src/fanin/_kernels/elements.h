/* Elements of an array of any real dtype, byte order, stride and alignment.
 *
 * Design: elements are read with memcpy, which is defined at any address and costs
 * nothing where the address is aligned; the dtype and the byte order are tested once
 * a run, not once an element. One read of the source, one write of the result.
 */
#ifndef FANIN_ELEMENTS_H
#define FANIN_ELEMENTS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    FANIN_BOOL, FANIN_I8, FANIN_U8, FANIN_I16, FANIN_U16, FANIN_I32, FANIN_U32,
    FANIN_I64, FANIN_U64, FANIN_F16, FANIN_F32, FANIN_F64
};

static inline uint16_t fanin_swap2_(uint16_t a) { return (uint16_t)(a << 8 | a >> 8); }
static inline uint32_t fanin_swap4_(uint32_t a)
{
    return a << 24 | (a & 0xff00u) << 8 | (a >> 8 & 0xff00u) | a >> 24;
}
static inline uint64_t fanin_swap8_(uint64_t a)
{
    return (uint64_t)fanin_swap4_((uint32_t)a) << 32 | fanin_swap4_((uint32_t)(a >> 32));
}

static inline float fanin_half_(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, bits = h & 0x7fffu;
    float value;
    if (bits >= 0x7c00u) {                     /* inf, NaN */
        bits = 0x7f800000u | (bits & 0x3ffu) << 13;
    } else if (bits >= 0x400u) {               /* normal */
        bits = (bits << 13) + 0x38000000u;
    } else {                                   /* subnormal: an exact product */
        float tiny = (float)bits * 5.9604644775390625e-08f;
        memcpy(&bits, &tiny, sizeof bits);
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define FANIN_RUN_(TO, FROM, BITS, SWAP, CONVERT)                                 \
    if (swapped) {                                                                \
        for (ptrdiff_t i = 0; i < n; i++) {                                       \
            BITS bits;                                                            \
            FROM value;                                                           \
            memcpy(&bits, from + i * stride, sizeof bits);                        \
            bits = SWAP(bits);                                                    \
            memcpy(&value, &bits, sizeof value);                                  \
            to[i * step] = (TO)CONVERT(value);                                    \
        }                                                                         \
    } else {                                                                      \
        for (ptrdiff_t i = 0; i < n; i++) {                                       \
            FROM value;                                                           \
            memcpy(&value, from + i * stride, sizeof value);                      \
            to[i * step] = (TO)CONVERT(value);                                    \
        }                                                                         \
    }                                                                             \
    break;

/* to[i * step] = the i-th of n elements that lie `stride` bytes apart; OWN is the
 * dtype that needs no conversion. */
#define FANIN_DEFINE_READ(TO, NAME, OWN)                                          \
    static inline void NAME(TO *to, ptrdiff_t step, const char *from,             \
                            ptrdiff_t stride, ptrdiff_t n, int type, int swapped) \
    {                                                                             \
        if (type == OWN && !swapped && step == 1                                  \
            && stride == (ptrdiff_t)sizeof(TO)) {                                 \
            memcpy(to, from, (size_t)n * sizeof(TO));                             \
            return;                                                               \
        }                                                                         \
        if (type == OWN && !swapped && step == 1                                  \
            && stride == 2 * (ptrdiff_t)sizeof(TO)) {                             \
            /* Every second one: a constant stride is vectorized. */              \
            for (ptrdiff_t i = 0; i < n; i++) {                                   \
                memcpy(to + i, from + 2 * i * (ptrdiff_t)sizeof(TO), sizeof(TO)); \
            }                                                                     \
            return;                                                               \
        }                                                                         \
        switch (type) {                                                           \
        case FANIN_BOOL: FANIN_RUN_(TO, uint8_t, uint8_t, , 0 != )                \
        case FANIN_I8: FANIN_RUN_(TO, int8_t, uint8_t, , )                        \
        case FANIN_U8: FANIN_RUN_(TO, uint8_t, uint8_t, , )                       \
        case FANIN_I16: FANIN_RUN_(TO, int16_t, uint16_t, fanin_swap2_, )         \
        case FANIN_U16: FANIN_RUN_(TO, uint16_t, uint16_t, fanin_swap2_, )        \
        case FANIN_I32: FANIN_RUN_(TO, int32_t, uint32_t, fanin_swap4_, )         \
        case FANIN_U32: FANIN_RUN_(TO, uint32_t, uint32_t, fanin_swap4_, )        \
        case FANIN_I64: FANIN_RUN_(TO, int64_t, uint64_t, fanin_swap8_, )         \
        case FANIN_U64: FANIN_RUN_(TO, uint64_t, uint64_t, fanin_swap8_, )        \
        case FANIN_F16: FANIN_RUN_(TO, uint16_t, uint16_t, fanin_swap2_, fanin_half_) \
        case FANIN_F32: FANIN_RUN_(TO, float, uint32_t, fanin_swap4_, )           \
        default: FANIN_RUN_(TO, double, uint64_t, fanin_swap8_, )                 \
        }                                                                         \
    }

FANIN_DEFINE_READ(float, fanin_read_f32, FANIN_F32)
FANIN_DEFINE_READ(double, fanin_read_f64, FANIN_F64)
FANIN_DEFINE_READ(int64_t, fanin_read_i64, FANIN_I64)

#endif
