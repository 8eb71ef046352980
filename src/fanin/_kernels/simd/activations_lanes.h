/* tanh, logistic and gelu of float32 in registers of known width.
 *
 * Design
 * a) What the loops of activations_body.h wait for is arithmetic: memory would take
 *    half of their time. Written for AVX-512 and for AVX2 with fused multiply-adds the
 *    same formulas need two thirds of the instructions. Elsewhere FANIN_IN_LANES is 0
 *    and the loops stay.
 * b) One word of ln2 is enough where the product with n is not rounded: the word is
 *    wrong by d = 1.9e-9, exp(x) by the factor exp(-n d). For tanh, whose exp is beside
 *    1, that is nothing. For gelu n is -t^2 / (2 ln2) up to a half, and the factor is
 *    smooth: it is part of the rational function. logistic takes the second word.
 * c) exp(r) = 1 + r + r^2 P(r) for |r| <= ln2/2, P of degree 4 with the smallest
 *    greatest error of the whole, 2^-28.3 relative to exp(r) (Remez), evaluated in
 *    pairs: chains of dependent operations fill the scheduler. gelu, where two more
 *    polynomials and a product or two are rounded, takes degree 3, 2^-23.2. tanh works
 *    with r/2 and gelu with 2 r, which saves their factors; the coefficients take up
 *    the powers of two.
 * d) gelu: t^2 = s + l, l being the error of s, from a fused multiply-add. R(t) as in
 *    activations.c times the factor of b), 1/2 at 0: 2^-27.1 on [0, 14.6].
 * e) A division in AVX-512 takes as long as a dozen other operations. An estimate y of
 *    1/b to 2^-14 gives a/b = q + (a - b q) y with q = a y: 2^-28 before the one
 *    rounding. In AVX2 the estimate has 12 bits, and the division stays.
 * f) A register of AVX-512 can pick 16 of 32 numbers in one operation, so gelu has
 *    polynomials by pieces there, for z > -5.9 (gelu_pieces.h): two thirds of the
 *    time. The formula of d) is for a register that holds a z below, which layers
 *    rarely make; each number is computed one way whatever stands beside it.
 * g) Two registers at a time, and whole lines are written past the cache directly.
 *
 * Cost: 18 (tanh), 21 (logistic) and 31 (gelu, by pieces 21) operations a register, the
 * estimate or division beside. Errors over all 2^32 arguments: docs/mathematics.md.
 */
#ifndef FANIN_ACTIVATIONS_LANES_H
#define FANIN_ACTIVATIONS_LANES_H

#include "exp_inline.h"
#include "gelu_pieces.h"
#include "stream.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__FMA__) && defined(__AVX2__)
#define FANIN_IN_LANES 1

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define LANES 16
typedef __m512 lanes;
#define ALL(x) _mm512_set1_ps(x)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define STREAM(p, v) _mm512_stream_ps(p, v)
#define AT_MOST(x, bound) _mm512_min_ps(ALL(bound), x) /* NaN stays */
#define AT_LEAST(x, bound) _mm512_max_ps(ALL(bound), x)
#define SIZE_OF(x) _mm512_andnot_ps(ALL(-0.0f), x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)   /* a b + c */
#define FMS(a, b, c) _mm512_fmsub_ps(a, b, c)   /* a b - c */
#define FNMA(a, b, c) _mm512_fnmadd_ps(a, b, c) /* c - a b */
#define FNMS(a, b, c) _mm512_fnmsub_ps(a, b, c) /* -a b - c */
#else
#define LANES 8
typedef __m256 lanes;
#define ALL(x) _mm256_set1_ps(x)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define STREAM(p, v) _mm256_stream_ps(p, v)
#define AT_MOST(x, bound) _mm256_min_ps(ALL(bound), x)
#define AT_LEAST(x, bound) _mm256_max_ps(ALL(bound), x)
#define SIZE_OF(x) _mm256_andnot_ps(ALL(-0.0f), x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define FMS(a, b, c) _mm256_fmsub_ps(a, b, c)
#define FNMA(a, b, c) _mm256_fnmadd_ps(a, b, c)
#define FNMS(a, b, c) _mm256_fnmsub_ps(a, b, c)
#endif

/* y >= 0 with the sign of x */
ALWAYS_INLINE lanes lanes_signed(lanes y, lanes x)
{
#if LANES == 16
    return _mm512_or_ps(_mm512_and_ps(ALL(-0.0f), x), y);
#else
    return _mm256_or_ps(_mm256_and_ps(ALL(-0.0f), x), y);
#endif
}

/* The number whose exponent is held by the last bits of `shifted`. */
ALWAYS_INLINE lanes lanes_power(lanes shifted)
{
#if LANES == 16
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
#else
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
#endif
}

/* v 2^n, a subnormal result rounded once; `shifted` holds n + bias + EXTRA. */
ALWAYS_INLINE lanes lanes_scaled(lanes v, lanes n, lanes shifted)
{
#if LANES == 16
    (void)shifted;
    return _mm512_scalef_ps(v, n);
#else
    (void)n;
    return v * lanes_power(shifted) * ALL(FANIN_UNDO_F32);
#endif
}

/* a / b, b and 1 / b normal */
ALWAYS_INLINE lanes lanes_quotient(lanes a, lanes b)
{
#if LANES == 16
    lanes y = _mm512_rcp14_ps(b), q = a * y;
    return FMA(FNMA(b, q, a), y, q);
#else
    return a / b;
#endif
}

ALWAYS_INLINE lanes lanes_reciprocal(lanes b)
{
#if LANES == 16
    lanes y = _mm512_rcp14_ps(b);
    return FMA(FNMA(b, y, ALL(1.0f)), y, y);
#else
    return ALL(1.0f) / b;
#endif
}

#define MAGIC 12582912.0f /* 1.5 * 2^23, see exp_inline.h */
#define LOG2E 1.44269504088896341f
#define LN2 0.693147182464599609f
#define LN2_EXCESS 1.90465429995776805e-9f
#define P0 0.4999999344f
#define P1 0.1666652057f
#define P2 0.04166838876f
#define P3 0.008368723972f
#define P4 0.001381458263f
#define Q0 0.4999923121f
#define Q1 0.1666711491f
#define Q2 0.04189019925f
#define Q3 0.008312509564f

/* k expm1(v / k) for k a power of two */
#define EXPM1_TIMES(k, v, w)                                                       \
    FMA(FMA(FMA(ALL(P4 / (k * k * k * k * k)), w,                                  \
                FMA(ALL(P3 / (k * k * k * k)), v, ALL(P2 / (k * k * k)))),         \
            w, FMA(ALL(P1 / (k * k)), v, ALL(P0 / k))),                            \
        w, v)

ALWAYS_INLINE lanes tanh_lanes(lanes z)
{
    lanes t = AT_MOST(SIZE_OF(z), 10.0f); /* where tanh is 1 */
    lanes shifted = FMA(t, ALL(-2.0f * LOG2E), ALL(MAGIC + 127.0f));
    lanes whole = shifted - ALL(MAGIC + 127.0f), power = lanes_power(shifted);
    lanes r = FNMS(whole, ALL(0.5f * LN2), t), w = r * r;
    lanes q = EXPM1_TIMES(0.5f, r, w);
    /* (1 + E) / 2 and (1 - E) / 2 */
    lanes plus = FMA(power, ALL(0.5f), ALL(0.5f));
    lanes minus = FNMA(power, ALL(0.5f), ALL(0.5f));
    return lanes_signed(
        lanes_quotient(FNMA(power, q, minus), FMA(power, q, plus)), z);
}

/* Scaled and summed as fanin_logistic_of_minus_f32. */
ALWAYS_INLINE lanes logistic_lanes(lanes z)
{
    const float bias = 127.0f - FANIN_EXTRA_F32;
    const lanes one = ALL(FANIN_UNDO_F32);
    z = AT_LEAST(AT_MOST(z, 40.0f), -105.0f);
    lanes shifted = FMA(z, ALL(-LOG2E), ALL(MAGIC + bias));
    lanes whole = shifted - ALL(MAGIC + bias), power = lanes_power(shifted);
    lanes r = FMA(whole, ALL(LN2_EXCESS), FNMS(whole, ALL(LN2), z)), w = r * r;
    lanes q = EXPM1_TIMES(1.0f, r, w);
    lanes sum = power + one, lost = one - (sum - power);
    return lanes_reciprocal(sum + FMA(power, q, lost)) * one;
}

/* gelu for all z. */
ALWAYS_INLINE lanes gelu_formula(lanes z)
{
    const float bias = 127.0f + FANIN_EXTRA_F32;
    lanes t = AT_MOST(SIZE_OF(z), 14.6f);
    lanes s = t * t, l = FMS(t, t, s);
    lanes shifted = FMA(s, ALL(-0.5f * LOG2E), ALL(MAGIC + bias));
    lanes whole = shifted - ALL(MAGIC + bias);
    lanes r = FNMS(whole, ALL(2.0f * LN2), s) - l, w = r * r;
    lanes q = FMA(FMA(FMA(ALL(Q3 / 16.0f), r, ALL(Q2 / 8.0f)), w,
                      FMA(ALL(Q1 / 4.0f), r, ALL(Q0 / 2.0f))),
                  w, r);
    /* half of R's numerator, for 2 + q stands for 2 exp(r) */
    lanes above = FMA(FMA(ALL(0.0020719109163f), s,
                          FMA(ALL(0.020422592284f), t, ALL(0.09195393708f))),
                      s, FMA(ALL(0.219640153285f), t, ALL(0.25f)));
    lanes below = FMA(FMA(FMA(ALL(0.010386931703f), t, ALL(0.10238934007f)), s,
                          FMA(ALL(0.4712364415f), t, ALL(1.2054215153f))),
                      s, FMA(ALL(1.6764454796f), t, ALL(1.0f)));
    lanes v = lanes_quotient(FMA(t, q, t + t) * above, below);
    return AT_LEAST(z, 0.0f) - lanes_scaled(v, whole, shifted);
}

#if LANES == 16
#define PIECE(i)                                                                   \
    _mm512_permutex2var_ps(_mm512_load_ps(fanin_gelu_pieces[i]), piece,            \
                           _mm512_load_ps(fanin_gelu_pieces[i] + 16))

ALWAYS_INLINE lanes gelu_lanes(lanes z)
{
    /* the smaller of |z| and the end; where z is NaN, the end */
    lanes t = _mm512_range_ps(z, ALL(FANIN_GELU_END), 0x0a);
    lanes shifted = FMA(t, ALL(1.0f / FANIN_GELU_STEP), ALL(MAGIC));
    __m512i piece = _mm512_castps_si512(shifted); /* its last five bits */
    lanes d = FNMA(shifted - ALL(MAGIC), ALL(FANIN_GELU_STEP), t);
    lanes h = PIECE(FANIN_GELU_DEGREE);
    for (int i = FANIN_GELU_DEGREE - 1; i >= 0; i--) {
        h = FMA(h, d, PIECE(i));
    }
    h = AT_LEAST(z, 0.0f) - h;
    __mmask16 far = _mm512_cmp_ps_mask(z, ALL(-FANIN_GELU_END), _CMP_LT_OQ);
    if (__builtin_expect(far != 0, 0)) {
        h = _mm512_mask_mov_ps(h, far, gelu_formula(z));
    }
    return h;
}
#undef PIECE
#else
ALWAYS_INLINE lanes gelu_lanes(lanes z)
{
    return gelu_formula(z);
}
#endif

/* y = f(x); `past`: past the cache, `ahead`: x is not in it. `part` is for what does
 * not fill a register. */
#define RUN(name)                                                                  \
    static void name##_part_f32(float *y, const float *x, ptrdiff_t n)             \
    {                                                                              \
        for (ptrdiff_t size; n > 0; n -= size, y += size, x += size) {             \
            float some[LANES] = {0};                                               \
            size = n < LANES ? n : LANES;                                          \
            memcpy(some, x, (size_t)size * sizeof *x);                             \
            STORE(some, name##_lanes(LOAD(some)));                                 \
            memcpy(y, some, (size_t)size * sizeof *y);                             \
        }                                                                          \
    }                                                                              \
                                                                                   \
    ALWAYS_INLINE void name##_run_f32(float *y, const float *x, ptrdiff_t n,       \
                                      int past, int ahead)                         \
    {                                                                              \
        ptrdiff_t i = past ? fanin_to_line(y) / (ptrdiff_t)sizeof(float) : 0;      \
        i = i < n ? i : n;                                                         \
        name##_part_f32(y, x, i);                                                  \
        for (; i + 2 * LANES <= n; i += 2 * LANES) {                               \
            for (int k = 0; ahead && k < 2 * LANES; k += 16) {                     \
                fanin_read_ahead(x + i + k, FANIN_AHEAD);                          \
            }                                                                      \
            lanes a = name##_lanes(LOAD(x + i));                                   \
            lanes b = name##_lanes(LOAD(x + i + LANES));                           \
            if (past) {                                                            \
                STREAM(y + i, a);                                                  \
                STREAM(y + i + LANES, b);                                          \
            } else {                                                               \
                STORE(y + i, a);                                                   \
                STORE(y + i + LANES, b);                                           \
            }                                                                      \
        }                                                                          \
        name##_part_f32(y + i, x + i, n - i);                                      \
        if (past) {                                                                \
            fanin_write_done();                                                    \
        }                                                                          \
    }                                                                              \
                                                                                   \
    static void name##_map_f32(float *y, const float *x, ptrdiff_t n, float p)     \
    {                                                                              \
        (void)p;                                                                   \
        name##_run_f32(y, x, n, 0, 0);                                             \
    }                                                                              \
                                                                                   \
    static void name##_apply_f32(float *y, const float *x, ptrdiff_t n, int past)  \
    {                                                                              \
        if (past) {                                                                \
            name##_run_f32(y, x, n, 1, 1);                                         \
        } else {                                                                   \
            name##_run_f32(y, x, n, 0, 1);                                         \
        }                                                                          \
    }

RUN(tanh)
RUN(logistic)
RUN(gelu)

static void (*const applies_f32[FANIN_CUSTOM_ACTIVATION])(float *, const float *,
                                                          ptrdiff_t, int) = {
    [FANIN_TANH] = tanh_apply_f32,
    [FANIN_LOGISTIC] = logistic_apply_f32,
    [FANIN_GELU] = gelu_apply_f32,
};

#undef RUN
#undef ALWAYS_INLINE
#undef LANES
#undef ALL
#undef LOAD
#undef STORE
#undef STREAM
#undef AT_MOST
#undef AT_LEAST
#undef SIZE_OF
#undef FMA
#undef FMS
#undef FNMA
#undef FNMS
#undef MAGIC
#undef LOG2E
#undef LN2
#undef LN2_EXCESS
#undef P0
#undef P1
#undef P2
#undef P3
#undef P4
#undef Q0
#undef Q1
#undef Q2
#undef Q3
#undef EXPM1_TIMES

#else
#define FANIN_IN_LANES 0
#endif

#endif
