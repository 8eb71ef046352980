/* Design: random weights by index
 *
 * a) The source is Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random
 *    numbers: as easy as 1, 2, 3", SC 2011): ten rounds of two 32 x 32 -> 64 bit
 *    products turn a 128-bit counter and a 64-bit key into four random words.
 *    It has no state, so any thread can make any part of the stream, in any
 *    order, and lanes of a vector are simply counters in a row. The 32-bit
 *    variant is the one whose products every SIMD level has (pmuludq).
 * b) key[0..1] is Philox's key, key[2..3] the upper half of the counter, and the
 *    lower half counts through the array: 128 bits of seed, 2^66 words a seed.
 * c) 64 counters make a group. Their words are laid out as planes, word j of all
 *    64 lanes and then word j + 1, so that no value crosses lanes. A float64
 *    value takes two words, 2j (low) and 2j + 1 (high).
 * d) A uniform is sign * (2k + 1) / 2^24 with 23 random bits k (float32), or
 *    sign * (2k + 1) / 2^53 with 52 (float64): exact, symmetric about zero,
 *    never zero and never one.
 * e) A normal pair is Box and Muller's (1958), r cos a and r sin a with
 *    r = sqrt(-2 ln u). u has 31 bits in float32 and 52 in float64, so that the
 *    tails go on at the right rate to 6.6 and 8.5 standard deviations. The angle
 *    is drawn in (-pi/4, pi/4) with two more bits to choose the quadrant: no
 *    range reduction. A ziggurat needs fewer operations for one value, but its
 *    rejections branch, and so cannot be vectorized.
 * f) The truncated normal is its inverse distribution function,
 *    x = sqrt(2) erfinv(v erf(sqrt 2)) for v uniform in (-1, 1). With
 *    w = -ln(1 - (v erf(sqrt 2))^2), x / v is so smooth a function of w (Giles,
 *    "Approximating the erfinv function", 2010) that one polynomial does.
 * g) ln, sin and cos are Taylor series, each cut where its next term is below
 *    half a unit in the last place: their coefficients need no table.
 * h) The file is compiled with floating-point contraction off. Each value then
 *    comes from the same sequence of IEEE operations at every SIMD level and on
 *    every CPU, and a seed gives the same bits everywhere.
 *
 * Cost per value, float32: 25 integer operations for the word and four to make it
 * a uniform; for a normal some 25 floating-point operations, half a division and
 * half a square root. Twice that in float64. Each value is written once, and no
 * memory is read.
 */
#include "fill.h"

#include <math.h>
#include <string.h>

/* gcc and clang are told by -ffp-contract=off (meson.build). */
#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#endif

#define LANES FANIN_LANES

/* --- Philox4x32-10 ---------------------------------------------------------- */

#define M0 0xD2511F53u
#define M1 0xCD9E8D57u
#define W0 0x9E3779B9u
#define W1 0xBB67AE85u

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__) || defined(_M_X64)
/* From the plain loop below, gcc makes shuffles, or 64 x 64 bit products: 1.4
 * (SSE2) to 2.6 times (AVX2, AVX-512) the time of what all these levels have, the
 * product of the lower halves of 64-bit lanes. So each word here is a 64-bit lane
 * of which the upper half is ignored. */
#include <immintrin.h>
#if defined(__AVX512F__)
typedef __m512i vec;
#define OP(name) _mm512_##name
#define OP_BITS(name) _mm512_##name##_si512
#define SET1 _mm512_set1_epi64
#elif defined(__AVX2__)
typedef __m256i vec;
#define OP(name) _mm256_##name
#define OP_BITS(name) _mm256_##name##_si256
#define SET1 _mm256_set1_epi64x
#else
typedef __m128i vec;
#define OP(name) _mm_##name
#define OP_BITS(name) _mm_##name##_si128
#define SET1 _mm_set1_epi64x
#endif
#define PER_VEC ((int)(sizeof(vec) / 8))

static const uint64_t lane_number[8] = {0, 1, 2, 3, 4, 5, 6, 7};

/* The ten rounds for the counters in c[0]: the others are filled in here. */
static inline void rounds(vec c[4], const uint32_t *key)
{
    vec k0 = SET1(key[0]), k1 = SET1(key[1]);
    c[1] = OP(srli_epi64)(c[0], 32);
    c[2] = SET1(key[2]);
    c[3] = SET1(key[3]);
    for (int round = 0; round < 10; round++) {
        vec p0 = OP(mul_epu32)(c[0], SET1(M0)), p1 = OP(mul_epu32)(c[2], SET1(M1));
        c[0] = OP_BITS(xor)(OP_BITS(xor)(OP(srli_epi64)(p1, 32), c[1]), k0);
        c[1] = p1;
        c[2] = OP_BITS(xor)(OP_BITS(xor)(OP(srli_epi64)(p0, 32), c[3]), k1);
        c[3] = p0;
        k0 = OP(add_epi64)(k0, SET1(W0));
        k1 = OP(add_epi64)(k1, SET1(W1));
    }
}

static inline vec lower_halves(vec low, vec high)
{
    return OP_BITS(or)(OP_BITS(and)(low, SET1(0xFFFFFFFF)), OP(slli_epi64)(high, 32));
}

static void philox4x32(uint32_t *FANIN_RESTRICT out, uint64_t first,
                       const uint32_t *FANIN_RESTRICT key)
{
    vec lanes = OP_BITS(loadu)((const vec *)lane_number);
    for (int i = 0; i < LANES; i += 2 * PER_VEC) {
        vec even[4], odd[4];
        even[0] = OP(add_epi64)(SET1((int64_t)(first + (uint64_t)i)),
                                OP(add_epi64)(lanes, lanes));
        odd[0] = OP(add_epi64)(even[0], SET1(1));
        rounds(even, key);
        rounds(odd, key);
        for (int j = 0; j < 4; j++) {
            OP_BITS(storeu)((vec *)(out + j * LANES + i), lower_halves(even[j], odd[j]));
        }
    }
}

/* The same, each two words joined: out[2][64]. */
static inline void philox2x64(uint64_t *FANIN_RESTRICT out, uint64_t first,
                              const uint32_t *key)
{
    vec lanes = OP_BITS(loadu)((const vec *)lane_number);
    for (int i = 0; i < LANES; i += PER_VEC) {
        vec c[4];
        c[0] = OP(add_epi64)(SET1((int64_t)(first + (uint64_t)i)), lanes);
        rounds(c, key);
        OP_BITS(storeu)((vec *)(out + i), lower_halves(c[0], c[1]));
        OP_BITS(storeu)((vec *)(out + LANES + i), lower_halves(c[2], c[3]));
    }
}

#else

static void philox4x32(uint32_t *FANIN_RESTRICT out, uint64_t first,
                       const uint32_t *FANIN_RESTRICT key)
{
    const uint32_t key0 = key[0], key1 = key[1], high0 = key[2], high1 = key[3];
    for (int i = 0; i < LANES; i++) {
        uint64_t counter = first + (uint64_t)i;
        uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
        uint32_t c2 = high0, c3 = high1, k0 = key0, k1 = key1;
        for (int round = 0; round < 10; round++) {
            uint64_t p0 = (uint64_t)c0 * M0, p1 = (uint64_t)c2 * M1;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)p1;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)p0;
            k0 += W0;
            k1 += W1;
        }
        out[i] = c0;
        out[LANES + i] = c1;
        out[2 * LANES + i] = c2;
        out[3 * LANES + i] = c3;
    }
}

/* The same, each two words joined: out[2][64]. */
static inline void philox2x64(uint64_t *FANIN_RESTRICT out, uint64_t first,
                              const uint32_t *key)
{
    uint32_t words[4 * LANES];
    philox4x32(words, first, key);
    for (int j = 0; j < 2; j++) {
        for (int i = 0; i < LANES; i++) {
            out[j * LANES + i] = (uint64_t)words[2 * j * LANES + i]
                                 | (uint64_t)words[(2 * j + 1) * LANES + i] << 32;
        }
    }
}

#endif

/* --- float32 ---------------------------------------------------------------- */

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* (2k + 1) / 2^24, k the upper 23 bits: 1 + k / 2^23 less 1 - 2^-24, exactly. */
static inline float unit_f32(uint32_t word)
{
    return float_of((word >> 9) | 0x3F800000u) - 0x1.fffffep-1f;
}

/* x with its sign flipped if the lowest bit of `word` is set. */
static inline float sign_f32(float x, uint32_t word)
{
    return float_of(bits_of_float(x) ^ (word << 31));
}

/* ln x for normal x > 0: x = 2^k (1 + f) with 1 + f in [sqrt 1/2, sqrt 2), and
 * ln(1 + f) = 2 atanh s, s = f / (2 + f), written as f - s (f - R) because the
 * leading 2s is f - s f. The term left out is below 2e-9. */
static inline float log_f32(float x)
{
    int32_t shifted = (int32_t)bits_of_float(x) - 0x3F3504F3;
    int32_t k = shifted >> 23;
    float f = float_of(bits_of_float(x) - ((uint32_t)k << 23)) - 1.0f;
    float s = f / (2.0f + f), t = s * s;
    float R = t * (2.0f / 3 + t * (2.0f / 5 + t * (2.0f / 7 + t * (2.0f / 9))));
    float n = (float)k;
    /* ln 2 in two parts; n times the first is exact. */
    return n * 0x1.63p-1f + (f - (s * (f - R) + n * 2.12194440e-4f));
}

static inline float sin_f32(float a)
{
    float z = a * a;
    return a - a * z * (1.0f / 6 - z * (1.0f / 120 - z * (1.0f / 5040
               - z * (1.0f / 362880))));
}

static inline float cos_f32(float a)
{
    float z = a * a;
    return 1.0f - z * (0.5f - z * (1.0f / 24 - z * (1.0f / 720 - z * (1.0f / 40320
                - z * (1.0f / 3628800)))));
}

static void uniform_f32(void *out, ptrdiff_t n_groups, uint64_t first,
                        const uint32_t *key, double scale)
{
    float *FANIN_RESTRICT y = out;
    const float limit = (float)scale;
    uint32_t words[4 * LANES];
    for (ptrdiff_t g = 0; g < n_groups; g++, y += 4 * LANES) {
        philox4x32(words, (first + (uint64_t)g) * LANES, key);
        for (int i = 0; i < 4 * LANES; i++) {
            y[i] = limit * sign_f32(unit_f32(words[i]), words[i]);
        }
    }
}

static void normal_f32(void *out, ptrdiff_t n_groups, uint64_t first,
                       const uint32_t *key, double scale)
{
    float *FANIN_RESTRICT y = out;
    const float std = (float)scale;
    uint32_t words[4 * LANES];
    for (ptrdiff_t g = 0; g < n_groups; g++) {
        philox4x32(words, (first + (uint64_t)g) * LANES, key);
        for (int half = 0; half < 2; half++, y += 2 * LANES) {
            const uint32_t *radius = words + half * 2 * LANES;
            const uint32_t *angle = radius + LANES;
            for (int i = 0; i < LANES; i++) {
                float u = ((float)(int32_t)(radius[i] >> 1) + 0.5f) * 0x1p-31f;
                float r = std * sqrtf(-2.0f * log_f32(u));
                uint32_t w = angle[i];
                float a = 0.785398163f * sign_f32(unit_f32(w), w);
                uint32_t s = bits_of_float(sin_f32(a));
                uint32_t c = bits_of_float(cos_f32(a)) ^ (w >> 1 << 31);
                uint32_t swap = (s ^ c) & (0u - ((w >> 2) & 1u));
                y[i] = r * float_of(c ^ swap);
                y[LANES + i] = r * float_of(s ^ swap);
            }
        }
    }
}

static void truncated_f32(void *out, ptrdiff_t n_groups, uint64_t first,
                          const uint32_t *key, double scale)
{
    float *FANIN_RESTRICT y = out;
    const float std = (float)scale;
    uint32_t words[4 * LANES];
    for (ptrdiff_t g = 0; g < n_groups; g++, y += 4 * LANES) {
        philox4x32(words, (first + (uint64_t)g) * LANES, key);
        for (int i = 0; i < 4 * LANES; i++) {
            float v = unit_f32(words[i]), e = v * 0.954499736f;
            float w = -log_f32((1.0f - e) * (1.0f + e));
            float t = w * 0.826479449f - 1.0f;
            /* Interpolates x / v at Chebyshev's nodes, w from 0 to 2.42; relative
             * error 5e-9. tests/test_initializers.py derives the coefficients. */
            float p = -1.808962295e-6f;
            p = p * t - 1.945580229e-5f;
            p = p * t + 0.0001132639946f;
            p = p * t + 0.0003960875472f;
            p = p * t - 0.0054427613f;
            p = p * t + 0.005501534911f;
            p = p * t + 0.4071872996f;
            p = p * t + 1.592265834f;
            float x = v * p;
            x = x > 2.0f ? 2.0f : x;
            y[i] = std * sign_f32(x, words[i]);
        }
    }
}

/* --- float64 ---------------------------------------------------------------- */

static inline double double_of(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint64_t bits_of_double(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* (2k + 1) / 2^53, k the upper 52 bits. */
static inline double unit_f64(uint64_t word)
{
    return double_of((word >> 12) | 0x3FF0000000000000u) - 0x1.fffffffffffffp-1;
}

static inline double sign_f64(double x, uint64_t word)
{
    return double_of(bits_of_double(x) ^ (word << 63));
}

/* As log_f32; the term left out is below 1e-18. The exponent goes from integer
 * to double through the bits of 2^52 + k, since AVX2 has no such conversion and
 * no arithmetic shift of 64 bits. */
static inline double log_f64(double x)
{
    const uint64_t root_half = 0x3FE6A09E667F3BCDu, one = 0x3FF0000000000000u;
    uint64_t k = (bits_of_double(x) + (one - root_half)) >> 52;   /* biased */
    double f = double_of(bits_of_double(x) - (k << 52) + one) - 1.0;
    double s = f / (2.0 + f), t = s * s;
    double R = t * (2.0 / 3 + t * (2.0 / 5 + t * (2.0 / 7 + t * (2.0 / 9
               + t * (2.0 / 11 + t * (2.0 / 13 + t * (2.0 / 15 + t * (2.0 / 17
               + t * (2.0 / 19 + t * (2.0 / 21))))))))));
    double n = double_of(k | 0x4330000000000000u) - (0x1p52 + 1023.0);
    return n * 0x1.62e42feep-1
           + (f - (s * (f - R) - n * 1.9082149292705878161e-10));
}

static inline double sin_f64(double a)
{
    double z = a * a;
    return a - a * z * (1.0 / 6 - z * (1.0 / 120 - z * (1.0 / 5040
               - z * (1.0 / 362880 - z * (1.0 / 39916800 - z * (1.0 / 6227020800.0
               - z * (1.0 / 1307674368000.0 - z * (1.0 / 355687428096000.0))))))));
}

static inline double cos_f64(double a)
{
    double z = a * a;
    return 1.0 - z * (0.5 - z * (1.0 / 24 - z * (1.0 / 720 - z * (1.0 / 40320
               - z * (1.0 / 3628800 - z * (1.0 / 479001600 - z * (1.0 / 87178291200.0
               - z * (1.0 / 20922789888000.0))))))));
}

static void uniform_f64(void *out, ptrdiff_t n_groups, uint64_t first,
                        const uint32_t *key, double limit)
{
    double *FANIN_RESTRICT y = out;
    uint64_t words[2 * LANES];
    for (ptrdiff_t g = 0; g < n_groups; g++, y += 2 * LANES) {
        philox2x64(words, (first + (uint64_t)g) * LANES, key);
        for (int i = 0; i < 2 * LANES; i++) {
            y[i] = limit * sign_f64(unit_f64(words[i]), words[i]);
        }
    }
}

static void normal_f64(void *out, ptrdiff_t n_groups, uint64_t first,
                       const uint32_t *key, double std)
{
    double *FANIN_RESTRICT y = out;
    uint64_t words[2 * LANES];
    for (ptrdiff_t g = 0; g < n_groups; g++, y += 2 * LANES) {
        philox2x64(words, (first + (uint64_t)g) * LANES, key);
        for (int i = 0; i < LANES; i++) {
            double r = std * sqrt(-2.0 * log_f64(unit_f64(words[i])));
            uint64_t w = words[LANES + i];
            double a = 0.78539816339744830962 * sign_f64(unit_f64(w), w);
            uint64_t s = bits_of_double(sin_f64(a));
            uint64_t c = bits_of_double(cos_f64(a)) ^ (w >> 1 << 63);
            uint64_t swap = (s ^ c) & ((uint64_t)0 - ((w >> 2) & 1u));
            y[i] = r * double_of(c ^ swap);
            y[LANES + i] = r * double_of(s ^ swap);
        }
    }
}

static void truncated_f64(void *out, ptrdiff_t n_groups, uint64_t first,
                          const uint32_t *key, double std)
{
    double *FANIN_RESTRICT y = out;
    uint64_t words[2 * LANES];
    for (ptrdiff_t g = 0; g < n_groups; g++, y += 2 * LANES) {
        philox2x64(words, (first + (uint64_t)g) * LANES, key);
        for (int i = 0; i < 2 * LANES; i++) {
            double v = unit_f64(words[i]), e = v * 0.9544997361036415856;
            double w = -log_f64((1.0 - e) * (1.0 + e));
            double t = w * 0.82647944881037570069 - 1.0;
            /* As in truncated_f32; relative error 9e-18. */
            double p = 4.156232166157626083e-12;
            p = p * t - 1.456857696087824617e-11;
            p = p * t - 1.104035852239138863e-10;
            p = p * t + 6.985921135194896942e-10;
            p = p * t + 1.865287283426729369e-9;
            p = p * t - 2.543034182565569887e-8;
            p = p * t - 1.031776642169757314e-9;
            p = p * t + 7.925594574044118716e-7;
            p = p * t - 1.811684244290287108e-6;
            p = p * t - 0.00002097320640639442458;
            p = p * t + 0.0001132665907107813532;
            p = p * t + 0.0003970230364604570139;
            p = p * t - 0.005442761889520837932;
            p = p * t + 0.005501348829625567401;
            p = p * t + 0.4071872995944869617;
            p = p * t + 1.59226584018848535;
            double x = v * p;
            x = x > 2.0 ? 2.0 : x;
            y[i] = std * sign_f64(x, words[i]);
        }
    }
}

const struct fanin_fill FANIN_AT_LEVEL(fanin_fill) = {
    .philox4x32 = philox4x32,
    .f32 = {uniform_f32, normal_f32, truncated_f32},
    .f64 = {uniform_f64, normal_f64, truncated_f64},
};
