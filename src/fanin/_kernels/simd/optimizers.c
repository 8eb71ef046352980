/* Parameter updates.
 *
 * Design
 * a) Every kernel starts from g = clip(factor * gradient), where factor carries the
 *    clipping of the whole gradient's norm (Pascanu, Mikolov & Bengio, ICML 2013) and
 *    clip cuts an entry off at +-max_value; 1 and infinity where none is asked for,
 *    which change nothing. A NaN passes through.
 * b) sgd, with velocity u (Polyak 1964, in the form PyTorch uses):
 *    u <- momentum u + g; theta <- theta - rate u, or without momentum - rate g.
 *    nesterov (Sutskever, Martens, Dahl & Hinton, ICML 2013):
 *    theta <- theta - rate (g + momentum u).
 * c) rmsprop (Tieleman & Hinton 2012, Graves 2013, in the form PyTorch uses):
 *    v <- b2 v + (1 - b2) g^2; d = g / (sqrt(v) + eps); theta <- theta - rate d, or
 *    with momentum u <- momentum u + d; theta <- theta - rate u. Centered, v is
 *    replaced by v - m^2 with m <- b2 m + (1 - b2) g: a variance, by Jensen's
 *    inequality not negative, which rounding can make it; it is then taken as 0.
 * d) adam (Kingma & Ba, ICLR 2015, algorithm 1): m <- b1 m + (1 - b1) g,
 *    v <- b2 v + (1 - b2) g^2, theta <- keep theta - step m / (sqrt(v) / c2 + eps)
 *    with step = rate / (1 - b1^t) and c2 = sqrt(1 - b2^t), both from the caller.
 *    keep = 1 - rate * weight_decay is AdamW's decoupled decay (Loshchilov & Hutter,
 *    ICLR 2019), 1 for what does not decay. With a third array it holds the greatest
 *    v so far, which takes v's place in the step (AMSGrad: Reddi, Kale & Kumar, ICLR
 *    2018, in the form PyTorch uses: of v before its correction).
 * e) Velocity and moments below the smallest normal number are stored as 0. The
 *    gradient of a dead unit is 0, its moments decay by a constant factor into the
 *    subnormal range and, by rounding, never leave it; a few hundred of those take
 *    as long as the rest of a small network's step, a hundred cycles each. What is
 *    dropped moves no parameter: 1e-38 (float32) against an epsilon of 1e-8.
 * f) square: the sum of (scale g)^2 in double. scale is 1 unless the sum overflowed.
 * g) Elementwise in the parameters' dtype; the scalars are rounded to it once. One
 *    read and one write of each array: 3 (sgd), 5 (with momentum; rmsprop) or 7
 *    (adam) values an entry, and 2 more for a third array. The clipping's
 *    multiplication and two comparisons wait for no memory.
 * h) A square root and a division of a register keep the same unit busy, for doubles as
 *    long as 80 other operations. Where multiply-adds are fused, Newton's method divides
 *    beside the root: y = 1/w to 0.051 from the exponent negated by integer arithmetic,
 *    then STEPS times y <- y + y (1 - w y), which squares the error, and at last the
 *    same for the quotient, q + y (m - w q), which is within a unit in the last place
 *    where it and m are normal. Beyond MOST, 2^125 or 2^1021, where 1/w is no longer
 *    normal, and for an infinite w the quotient is 0 m.
 */
#include "optimizers.h"

#include <float.h>
#include <math.h>
#include <string.h>

static inline float normal_f32(float x) { return fabsf(x) < FLT_MIN ? 0.0f : x; }
static inline double normal_f64(double x) { return fabs(x) < DBL_MIN ? 0.0 : x; }

static inline float clip_f32(float g, float most)
{
    g = g > most ? most : g;
    return g < -most ? -most : g;
}

static inline double clip_f64(double g, double most)
{
    g = g > most ? most : g;
    return g < -most ? -most : g;
}

#if defined(__FMA__)
#define DEFINE_QUOTIENT(T, S, BITS, NEGATED, STEPS)                                \
    static inline T quotient_##S(T m, T w)                                         \
    {                                                                              \
        T y, q;                                                                    \
        BITS bits;                                                                 \
        memcpy(&bits, &w, sizeof bits);                                            \
        bits = NEGATED - bits;                                                     \
        memcpy(&y, &bits, sizeof y);                                               \
        for (int i = 0; i < STEPS; i++) {                                          \
            y += y * ((T)1 - w * y);                                               \
        }                                                                          \
        q = m * y;                                                                 \
        return q + y * (m - w * q);                                                \
    }
#else
#define DEFINE_QUOTIENT(T, S, BITS, NEGATED, STEPS)                                \
    static inline T quotient_##S(T m, T w) { return m / w; }
#endif

DEFINE_QUOTIENT(float, f32, uint32_t, 0x7ef311c7u, 2)
DEFINE_QUOTIENT(double, f64, uint64_t, 0x7fde623822fc16e6u, 3)

#define QUOTIENT(T, S, MOST, m, w) ((w) > MOST ? (m) * (T)0 : quotient_##S(m, w))

#define GRADIENT(S) clip_##S(factor * gradient[i], most)

/* What is constant in a loop is chosen by the preprocessor, not in the loop. */
#define RMSPROP_LOOP(T, S, SQRT, MOST, CENTERED, MOMENTUM)                         \
    for (ptrdiff_t i = 0; i < n; i++) {                                            \
        T g = GRADIENT(S);                                                         \
        T v = normal_##S(b2 * square[i] + c2 * (g * g));                           \
        square[i] = v;                                                             \
        if (CENTERED) {                                                            \
            T m = normal_##S(b2 * mean[i] + c2 * g);                               \
            mean[i] = m;                                                           \
            v -= m * m;                                                            \
            v = v < 0 ? 0 : v;                                                     \
        }                                                                          \
        T w = SQRT(v) + eps, d = QUOTIENT(T, S, MOST, g, w);                       \
        if (MOMENTUM) {                                                            \
            d = normal_##S(mu * velocity[i] + d);                                  \
            velocity[i] = d;                                                       \
        }                                                                          \
        theta[i] -= rate * d;                                                      \
    }

#define ADAM_LOOP(T, S, SQRT, MOST, GREATEST)                                      \
    for (ptrdiff_t i = 0; i < n; i++) {                                            \
        T g = GRADIENT(S);                                                         \
        T m = normal_##S(b1 * first[i] + c1 * g);                                  \
        T v = normal_##S(b2 * second[i] + c2 * (g * g));                           \
        first[i] = m;                                                              \
        second[i] = v;                                                             \
        if (GREATEST) {                                                            \
            v = v > greatest[i] ? v : greatest[i];                                 \
            greatest[i] = v;                                                       \
        }                                                                          \
        T w = SQRT(v) * inverse + eps, top = rate * m;                             \
        theta[i] = left * theta[i] - QUOTIENT(T, S, MOST, top, w);                 \
    }

#define DEFINE_OPTIMIZERS(T, S, SQRT, MOST)                                        \
    static void sgd_##S(T *FANIN_RESTRICT theta, const T *FANIN_RESTRICT gradient, \
                        T *FANIN_RESTRICT velocity, T *second, T *third,           \
                        ptrdiff_t n, double keep, const struct fanin_update *u)    \
    {                                                                              \
        const T rate = (T)u->rate, mu = (T)u->beta_1;                              \
        const T factor = (T)u->factor, most = (T)u->max_value;                     \
        if (velocity == NULL) {                                                    \
            for (ptrdiff_t i = 0; i < n; i++) {                                    \
                theta[i] -= rate * GRADIENT(S);                                    \
            }                                                                      \
        } else {                                                                   \
            for (ptrdiff_t i = 0; i < n; i++) {                                    \
                T v = normal_##S(mu * velocity[i] + GRADIENT(S));                  \
                velocity[i] = v;                                                   \
                theta[i] -= rate * v;                                              \
            }                                                                      \
        }                                                                          \
    }                                                                              \
    static void nesterov_##S(T *FANIN_RESTRICT theta,                              \
                             const T *FANIN_RESTRICT gradient,                     \
                             T *FANIN_RESTRICT velocity, T *second, T *third,      \
                             ptrdiff_t n, double keep,                             \
                             const struct fanin_update *u)                         \
    {                                                                              \
        const T rate = (T)u->rate, mu = (T)u->beta_1;                              \
        const T factor = (T)u->factor, most = (T)u->max_value;                     \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            T g = GRADIENT(S);                                                     \
            T v = normal_##S(mu * velocity[i] + g);                                \
            velocity[i] = v;                                                       \
            theta[i] -= rate * (g + mu * v);                                       \
        }                                                                          \
    }                                                                              \
    static void rmsprop_##S(T *FANIN_RESTRICT theta,                               \
                            const T *FANIN_RESTRICT gradient,                      \
                            T *FANIN_RESTRICT velocity, T *FANIN_RESTRICT square,  \
                            T *FANIN_RESTRICT mean, ptrdiff_t n, double keep,      \
                            const struct fanin_update *u)                          \
    {                                                                              \
        const T rate = (T)u->rate, mu = (T)u->beta_1, eps = (T)u->epsilon;         \
        const T b2 = (T)u->beta_2, c2 = (T)(1.0 - u->beta_2);                      \
        const T factor = (T)u->factor, most = (T)u->max_value;                     \
        if (mean == NULL && velocity == NULL) {                                    \
            RMSPROP_LOOP(T, S, SQRT, MOST, 0, 0)                                   \
        } else if (mean == NULL) {                                                 \
            RMSPROP_LOOP(T, S, SQRT, MOST, 0, 1)                                   \
        } else if (velocity == NULL) {                                             \
            RMSPROP_LOOP(T, S, SQRT, MOST, 1, 0)                                   \
        } else {                                                                   \
            RMSPROP_LOOP(T, S, SQRT, MOST, 1, 1)                                   \
        }                                                                          \
    }                                                                              \
    static void adam_##S(T *FANIN_RESTRICT theta, const T *FANIN_RESTRICT gradient,\
                         T *FANIN_RESTRICT first, T *FANIN_RESTRICT second,        \
                         T *FANIN_RESTRICT greatest, ptrdiff_t n, double keep,     \
                         const struct fanin_update *u)                             \
    {                                                                              \
        const T b1 = (T)u->beta_1, b2 = (T)u->beta_2, eps = (T)u->epsilon;         \
        const T c1 = (T)(1.0 - u->beta_1), c2 = (T)(1.0 - u->beta_2);              \
        const T rate = (T)u->rate, inverse = (T)(1.0 / u->correction_2);           \
        const T factor = (T)u->factor, most = (T)u->max_value, left = (T)keep;     \
        if (greatest == NULL) {                                                    \
            ADAM_LOOP(T, S, SQRT, MOST, 0)                                         \
        } else {                                                                   \
            ADAM_LOOP(T, S, SQRT, MOST, 1)                                         \
        }                                                                          \
    }                                                                              \
    static double square_##S(const T *gradient, ptrdiff_t n, double scale)         \
    {                                                                              \
        double sum = 0.0;                                                          \
        FANIN_SUM_IN_LANES                                                         \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            double g = scale * (double)gradient[i];                                \
            sum += g * g;                                                          \
        }                                                                          \
        return sum;                                                                \
    }

/* Permits the sum in lanes, which vectorizes; compilers that know no OpenMP ignore it. */
#define FANIN_SUM_IN_LANES _Pragma("omp simd reduction(+ : sum)")

DEFINE_OPTIMIZERS(float, f32, sqrtf, 0x1p125f)
DEFINE_OPTIMIZERS(double, f64, sqrt, 0x1p1021)

const struct fanin_optimizers FANIN_AT_LEVEL(fanin_optimizers) = {
    .sgd_f32 = sgd_f32,
    .sgd_f64 = sgd_f64,
    .nesterov_f32 = nesterov_f32,
    .nesterov_f64 = nesterov_f64,
    .rmsprop_f32 = rmsprop_f32,
    .rmsprop_f64 = rmsprop_f64,
    .adam_f32 = adam_f32,
    .adam_f64 = adam_f64,
    .square_f32 = square_f32,
    .square_f64 = square_f64,
};
