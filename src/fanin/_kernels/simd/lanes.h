/* As many doubles as a register holds, for loops whose sums have to stay in registers
 * (a compiler takes an array of lanes through memory). GCC and Clang have vector types
 * for every processor; elsewhere there is one lane, and the same source.
 */
#ifndef FANIN_LANES_H
#define FANIN_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if (defined(__GNUC__) && __GNUC__ >= 9) || defined(__clang__)
#if defined(__AVX512F__)
#define FANIN_LANES 8
#elif defined(__AVX__)
#define FANIN_LANES 4
#else
#define FANIN_LANES 2
#endif
typedef double fanin_lanes __attribute__((vector_size(8 * FANIN_LANES)));
typedef float fanin_lanes_f32 __attribute__((vector_size(4 * FANIN_LANES)));
typedef int64_t fanin_lanes_mask __attribute__((vector_size(8 * FANIN_LANES)));
#define FANIN_CONVERT(v, type) __builtin_convertvector(v, type)
#define FANIN_ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define FANIN_LANES 1
typedef double fanin_lanes;
typedef float fanin_lanes_f32;
typedef int64_t fanin_lanes_mask;
#define FANIN_ALWAYS_INLINE static inline
#define FANIN_CONVERT(v, type) ((type)(v))
#endif

static inline fanin_lanes fanin_lanes_load_f64(const double *p)
{
    fanin_lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline fanin_lanes fanin_lanes_load_f32(const float *p)
{
    /* GCC 12 makes two halves of the conversion, with five instructions for one. */
#if FANIN_LANES == 8
    return (fanin_lanes)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif FANIN_LANES == 4
    return (fanin_lanes)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    fanin_lanes_f32 v;
    memcpy(&v, p, sizeof v);
    return FANIN_CONVERT(v, fanin_lanes);
#endif
}

static inline void fanin_lanes_store_f64(double *p, fanin_lanes v)
{
    memcpy(p, &v, sizeof v);
}

static inline void fanin_lanes_store_f32(float *p, fanin_lanes v)
{
    fanin_lanes_f32 narrow = FANIN_CONVERT(v, fanin_lanes_f32);
    memcpy(p, &narrow, sizeof narrow);
}

static inline fanin_lanes fanin_lanes_all(double a)
{
    fanin_lanes v = {0.0};
    return v + a;
}

/* For fanin_lanes_keep: the last `n` lanes. */
static inline fanin_lanes_mask fanin_lanes_last(ptrdiff_t n)
{
    /* From a table: one wide load of what was just stored piece by piece would wait. */
    static const int64_t table[16] = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1,
                                      -1, -1, -1, -1};
    fanin_lanes_mask mask;
    memcpy(&mask, table + 8 - FANIN_LANES + n, sizeof mask);
    return mask;
}

/* Those lanes of v, and 0 in the others. */
static inline fanin_lanes fanin_lanes_keep(fanin_lanes v, fanin_lanes_mask mask)
{
#if FANIN_LANES == 1
    return mask ? v : 0.0;
#else
    return (fanin_lanes)((fanin_lanes_mask)v & mask);
#endif
}

static inline double fanin_lanes_sum(fanin_lanes v)
{
    double a[FANIN_LANES];
    memcpy(a, &v, sizeof v);
    for (int n = FANIN_LANES / 2; n > 0; n /= 2) {
        for (int k = 0; k < n; k++) {
            a[k] += a[k + n];
        }
    }
    return a[0];
}

#endif
