/* exp, expm1 and log1p as straight-line code that compilers vectorize.
 *
 * Design
 * a) x = n ln2 + r with |r| <= ln2/2. n is rounded by adding a number in whose last
 *    place a one stands, ln2 is in two words so that n * ln2_hi is exact (Cody & Waite
 *    1980), and exp(x) = 2^n (1 + q) with q = expm1(r) = r + r^2 P(r). P is the
 *    polynomial of the smallest greatest relative error (Remez 1934, computed to 60
 *    digits): degree 5, error 2^-28.5, in float32 and degree 9, 2^-52.1, in float64; in
 *    q that is 0.2 units in the last place at most.
 * b) The number that rounds n also carries the exponent's bias, so that its bits,
 *    shifted, are the power of two: no integer arithmetic. With a bias that is larger
 *    by EXTRA the power is 2^(n + EXTRA), which is normal where 2^n is not; the product
 *    with 2^-EXTRA comes last and rounds a subnormal result once.
 * c) log1p(e) on [0, 1] is 2 artanh(s) with s = e / (2 + e): with t = 2 s that is
 *    t + t^3 P(t^2), P of degree 4 (2^-26.6) or 9 (2^-52.8) on [0, 4/9], found in the
 *    same way; its share of the result is at most 4 %.
 *
 * No branch, no table, no library call; a NaN goes through, because every select
 * keeps its argument when a comparison with it is false. About 16 (float32) or 20
 * (float64) arithmetic operations an exp. Error: below 1.5 units in the last place
 * (tests/test_activations.py measures what is made of them).
 */
#ifndef FANIN_EXP_INLINE_H
#define FANIN_EXP_INLINE_H

#include <stdint.h>
#include <string.h>

/* Exponents that a power of two carries beyond its n, and how to take them back. */
#define FANIN_EXTRA_F32 64
#define FANIN_EXTRA_F64 128
#define FANIN_UNDO_F32 5.42101086242752217e-20f  /* 2^-64 */
#define FANIN_UNDO_F64 2.93873587705571877e-39   /* 2^-128 */

/* x + low = n ln2 + r for a small `low`; returns expm1(r), and in *bits those of a
 * number whose last places hold n + bias. r is known as the exact x - n ln2_hi and a
 * rest, which are added where no digit of the result is lost. */
static inline float fanin_reduce_f32(float x, float low, int bias, uint32_t *bits)
{
    const float magic = 12582912.0f + (float)bias;  /* 1.5 * 2^23 */
    float shifted = (x + low) * 1.44269504088896341f + magic;
    float whole = shifted - magic;
    memcpy(bits, &shifted, sizeof shifted);
    float high = x - whole * 0.693359375f, rest = whole * 2.12194440e-4f + low;
    float r = high + rest;
    float p = 0.000198578171f;
    p = p * r + 0.00139336172f;
    p = p * r + 0.00833336078f;
    p = p * r + 0.0416664667f;
    p = p * r + 0.166666672f;
    p = p * r + 0.5f;
    return (p * (r * r) + rest) + high;
}

static inline double fanin_reduce_f64(double x, double low, int bias, uint64_t *bits)
{
    const double magic = 6755399441055744.0 + (double)bias;  /* 1.5 * 2^52 */
    double shifted = (x + low) * 1.44269504088896340736 + magic;
    double whole = shifted - magic;
    memcpy(bits, &shifted, sizeof shifted);
    double high = x - whole * 6.93147180369123816490e-01;
    double rest = low - whole * 1.90821492927058770002e-10;
    double r = high + rest;
    double p = 2.5068186800518371e-8;
    p = p * r + 2.7620059101008136e-7;
    p = p * r + 2.7557355477478031e-6;
    p = p * r + 2.4801521366452146e-5;
    p = p * r + 0.00019841269784670452;
    p = p * r + 0.0013888888917160792;
    p = p * r + 0.008333333333356209;
    p = p * r + 0.041666666666624254;
    p = p * r + 0.16666666666666644;
    p = p * r + 0.50000000000000011;
    return (p * (r * r) + rest) + high;
}

/* The number whose exponent is held by the last bits; without a sign, from 1 to 254
 * (float64: to 2046). */
static inline float fanin_power_f32(uint32_t bits)
{
    float power;
    bits <<= 23;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline double fanin_power_f64(uint64_t bits)
{
    double power;
    bits <<= 52;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* x + low = n ln2 + r: returns expm1(r), sets *power = 2^(n + EXTRA). For x <= 0 that
 * are not far below where exp(x) is 0. */
static inline float fanin_exp_parts_f32(float x, float low, float *power)
{
    uint32_t bits;
    float q = fanin_reduce_f32(x, low, 127 + FANIN_EXTRA_F32, &bits);
    *power = fanin_power_f32(bits);
    return q;
}

static inline double fanin_exp_parts_f64(double x, double low, double *power)
{
    uint64_t bits;
    double q = fanin_reduce_f64(x, low, 1023 + FANIN_EXTRA_F64, &bits);
    *power = fanin_power_f64(bits);
    return q;
}

/* exp(x) for x <= 0. */
static inline float fanin_exp_negative_f32(float x)
{
    float power;
    float q = fanin_exp_parts_f32(x < -105.0f ? -105.0f : x, 0.0f, &power);
    return (q * power + power) * FANIN_UNDO_F32;
}

static inline double fanin_exp_negative_f64(double x)
{
    double power;
    double q = fanin_exp_parts_f64(x < -746.0 ? -746.0 : x, 0.0, &power);
    return (q * power + power) * FANIN_UNDO_F64;
}

/* logistic(-x) = 1 / (1 + exp(x)) for any x: the denominator (1 + 2^n) + 2^n q, times
 * 2^-EXTRA so that it does not overflow where the result is subnormal, is rounded
 * once, since 2^n q is exact; what the first sum loses when n is large is added. */
static inline float fanin_logistic_of_minus_f32(float x)
{
    uint32_t bits;
    const float one = FANIN_UNDO_F32;
    x = x < -40.0f ? -40.0f : x;
    x = x > 105.0f ? 105.0f : x;
    float q = fanin_reduce_f32(x, 0.0f, 127 - FANIN_EXTRA_F32, &bits);
    float power = fanin_power_f32(bits), sum = power + one;
    float lost = one - (sum - power);
    return 1.0f / (sum + (power * q + lost)) * one;
}

static inline double fanin_logistic_of_minus_f64(double x)
{
    uint64_t bits;
    const double one = FANIN_UNDO_F64;
    x = x < -80.0 ? -80.0 : x;
    x = x > 746.0 ? 746.0 : x;
    double q = fanin_reduce_f64(x, 0.0, 1023 - FANIN_EXTRA_F64, &bits);
    double power = fanin_power_f64(bits), sum = power + one;
    double lost = one - (sum - power);
    return 1.0 / (sum + (power * q + lost)) * one;
}

/* exp(x) for any x, its power of two in two factors. */
static inline float fanin_exp_f32(float x)
{
    uint32_t bits;
    x = x < -105.0f ? -105.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float q = fanin_reduce_f32(x, 0.0f, 0, &bits);
    int32_t n = (int32_t)(bits - 0x4b400000u), half = n >> 1;
    return (q + 1.0f) * fanin_power_f32((uint32_t)(half + 127))
           * fanin_power_f32((uint32_t)(n - half + 127));
}

static inline double fanin_exp_f64(double x)
{
    uint64_t bits;
    x = x < -746.0 ? -746.0 : x;
    x = x > 710.0 ? 710.0 : x;
    double q = fanin_reduce_f64(x, 0.0, 0, &bits);
    /* halved as 32-bit integers: AVX2 has no 64-bit arithmetic shift */
    int64_t n = (int64_t)(bits - 0x4338000000000000u), half = (int32_t)n >> 1;
    return (q + 1.0) * fanin_power_f64((uint64_t)(half + 1023))
           * fanin_power_f64((uint64_t)(n - half + 1023));
}

/* x = n ln2 + r: returns expm1(r), sets *power = 2^n. For x <= 0 whose exp is to be
 * added to 1: far below, any will do. */
static inline float fanin_exp_beside_one_f32(float x, float *power)
{
    uint32_t bits;
    x = x < -40.0f ? -40.0f : x;
    float q = fanin_reduce_f32(x, 0.0f, 127, &bits);
    *power = fanin_power_f32(bits);
    return q;
}

static inline double fanin_exp_beside_one_f64(double x, double *power)
{
    uint64_t bits;
    x = x < -80.0 ? -80.0 : x;
    double q = fanin_reduce_f64(x, 0.0, 1023, &bits);
    *power = fanin_power_f64(bits);
    return q;
}

/* expm1(x) for x <= 0, where 2^n q and 2^n - 1 have the same sign or q is small. */
static inline float fanin_expm1_negative_f32(float x)
{
    float power, q = fanin_exp_beside_one_f32(x, &power);
    return q * power + (power - 1.0f);
}

static inline double fanin_expm1_negative_f64(double x)
{
    double power, q = fanin_exp_beside_one_f64(x, &power);
    return q * power + (power - 1.0);
}

/* log1p(e) for e in [0, 1]: fewer operations than log_inline.h takes for any e. */
static inline float fanin_log1p_unit_f32(float e)
{
    float t = (e + e) / (2.0f + e), w = t * t;
    float p = 0.0001134480408f;
    p = p * w + 0.0004239144037f;
    p = p * w + 0.002233789535f;
    p = p * w + 0.01249990705f;
    p = p * w + 0.08333333582f;
    return t * w * p + t;
}

static inline double fanin_log1p_unit_f64(double e)
{
    double t = (e + e) / (2.0 + e), w = t * t;
    double p = 7.71201482870917185e-8;
    p = p * w + 1.67773468742341349e-7;
    p = p * w + 9.15681380688002175e-7;
    p = p * w + 4.06312218198675527e-6;
    p = p * w + 0.000018781221814393454;
    p = p * w + 0.0000887782674571753808;
    p = p * w + 0.00043402778755878568;
    p = p * w + 0.0022321428568007019;
    p = p * w + 0.0125000000000046341;
    p = p * w + 0.0833333333333333287;
    return t * w * p + t;
}

#endif
