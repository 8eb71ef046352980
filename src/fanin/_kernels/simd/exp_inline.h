/* exp and expm1 as straight-line code that compilers vectorize.
 *
 * Design: x = n ln2 + r with |r| <= ln2/2, n rounded by adding and subtracting
 * 1.5 * 2^(mantissa bits), ln2 in two words so that n * ln2_hi is exact (Cody &
 * Waite 1980); expm1(r) = r + r^2 P(r). In float32 P is the minimax polynomial of
 * Moshier's Cephes (expf), in float64 the Taylor series to r^13, whose remainder
 * is below 5e-18 on the interval. 2^n is applied as two factors, so results that
 * are subnormal come out rounded once more but not flushed.
 *
 * No branch, no table, no library call; a NaN goes through, because every select
 * keeps its argument when a comparison with it is false. About 12 (float32) or 19
 * (float64) arithmetic operations a value. Error: below 1.5 units in the last
 * place for exp and expm1 (tests/test_activations.py measures it).
 */
#ifndef FANIN_EXP_INLINE_H
#define FANIN_EXP_INLINE_H

#include <stdint.h>
#include <string.h>

static inline float fanin_pow2_f32(int32_t n)
{
    uint32_t bits = (uint32_t)(n + 127) << 23;   /* n is arbitrary for a NaN */
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline double fanin_pow2_f64(int64_t n)
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* x = n ln2 + r; returns q = expm1(r), sets the integer n. */
static inline float fanin_reduce_f32(float x, int32_t *n)
{
    const float magic = 12582912.0f;  /* 1.5 * 2^23 */
    float shifted = x * 1.44269504088896341f + magic;
    float whole = shifted - magic;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    *n = (int32_t)((uint32_t)bits - 0x4b400000u);
    float r = x - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r;
}

static inline double fanin_reduce_f64(double x, int64_t *n)
{
    const double magic = 6755399441055744.0;  /* 1.5 * 2^52 */
    double shifted = x * 1.44269504088896340736 + magic;
    double whole = shifted - magic;
    int64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    *n = (int64_t)((uint64_t)bits - 0x4338000000000000u);
    double r = x - whole * 6.93147180369123816490e-01;
    r = r - whole * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    return p * (r * r) + r;
}

static inline float fanin_exp_f32(float x)
{
    int32_t n;
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float q = fanin_reduce_f32(x, &n);
    int32_t half = n >> 1;
    return (q + 1.0f) * fanin_pow2_f32(half) * fanin_pow2_f32(n - half);
}

static inline double fanin_exp_f64(double x)
{
    int64_t n;
    x = x < -746.0 ? -746.0 : x;
    x = x > 710.0 ? 710.0 : x;
    double q = fanin_reduce_f64(x, &n);
    /* halved as 32-bit integers: AVX2 has no 64-bit arithmetic shift */
    int64_t half = (int32_t)n >> 1;
    return (q + 1.0) * fanin_pow2_f64(half) * fanin_pow2_f64(n - half);
}

/* expm1 for x <= 0, where 2^n q and 2^n - 1 have the same sign or q is small. */
static inline float fanin_expm1_negative_f32(float x)
{
    int32_t n;
    x = x < -87.0f ? -87.0f : x;
    float q = fanin_reduce_f32(x, &n);
    float power = fanin_pow2_f32(n);
    return power * q + (power - 1.0f);
}

static inline double fanin_expm1_negative_f64(double x)
{
    int64_t n;
    x = x < -708.0 ? -708.0 : x;
    double q = fanin_reduce_f64(x, &n);
    double power = fanin_pow2_f64(n);
    return power * q + (power - 1.0);
}

#endif
