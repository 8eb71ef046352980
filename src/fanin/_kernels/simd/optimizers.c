/* Parameter updates.
 *
 * Design
 * a) sgd, with velocity u (Sutskever, Martens, Dahl & Hinton, ICML 2013, in the
 *    form PyTorch uses): u <- momentum u + g; theta <- theta - rate u, or with
 *    Nesterov's look-ahead theta - rate (g + momentum u). velocity may be NULL
 *    when momentum is 0.
 * b) adam (Kingma & Ba, ICLR 2015, algorithm 1): m <- b1 m + (1 - b1) g,
 *    v <- b2 v + (1 - b2) g^2, theta <- theta - step m / (sqrt(v) / c2 + eps) with
 *    step = rate / (1 - b1^t) and c2 = sqrt(1 - b2^t), both from the caller.
 * c) Velocity and moments below the smallest normal number are stored as 0. The
 *    gradient of a dead unit is 0, its moments decay by a constant factor into the
 *    subnormal range and, by rounding, never leave it; a few hundred of those take
 *    as long as the rest of a small network's step, a hundred cycles each. What is
 *    dropped moves no parameter: 1e-38 (float32) against an epsilon of 1e-8.
 * d) Elementwise in the parameters' dtype; the scalars are rounded to it once.
 *    One read and one write of each array: 5 (sgd) or 7 (adam) values an entry.
 */
#include "optimizers.h"

#include <float.h>
#include <math.h>

static inline float normal_f32(float x) { return fabsf(x) < FLT_MIN ? 0.0f : x; }
static inline double normal_f64(double x) { return fabs(x) < DBL_MIN ? 0.0 : x; }

#define DEFINE_OPTIMIZERS(T, S, SQRT)                                              \
    static void sgd_##S(T *FANIN_RESTRICT theta, const T *FANIN_RESTRICT gradient, \
                        T *FANIN_RESTRICT velocity, ptrdiff_t n,                   \
                        double learning_rate, double momentum, int nesterov)       \
    {                                                                              \
        const T rate = (T)learning_rate, mu = (T)momentum;                         \
        if (velocity == NULL) {                                                    \
            for (ptrdiff_t i = 0; i < n; i++) {                                    \
                theta[i] -= rate * gradient[i];                                    \
            }                                                                      \
        } else if (nesterov) {                                                     \
            for (ptrdiff_t i = 0; i < n; i++) {                                    \
                T u = normal_##S(mu * velocity[i] + gradient[i]);                  \
                velocity[i] = u;                                                   \
                theta[i] -= rate * (gradient[i] + mu * u);                         \
            }                                                                      \
        } else {                                                                   \
            for (ptrdiff_t i = 0; i < n; i++) {                                    \
                T u = normal_##S(mu * velocity[i] + gradient[i]);                  \
                velocity[i] = u;                                                   \
                theta[i] -= rate * u;                                              \
            }                                                                      \
        }                                                                          \
    }                                                                              \
    static void adam_##S(T *FANIN_RESTRICT theta, const T *FANIN_RESTRICT gradient,\
                         T *FANIN_RESTRICT first, T *FANIN_RESTRICT second,        \
                         ptrdiff_t n, double step, double beta_1, double beta_2,   \
                         double correction_2, double epsilon)                      \
    {                                                                              \
        const T b1 = (T)beta_1, b2 = (T)beta_2, eps = (T)epsilon;                  \
        const T c1 = (T)(1.0 - beta_1), c2 = (T)(1.0 - beta_2);                    \
        const T rate = (T)step, inverse = (T)(1.0 / correction_2);                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            T g = gradient[i];                                                     \
            T m = normal_##S(b1 * first[i] + c1 * g);                              \
            T v = normal_##S(b2 * second[i] + c2 * (g * g));                       \
            first[i] = m;                                                          \
            second[i] = v;                                                         \
            theta[i] -= rate * m / (SQRT(v) * inverse + eps);                      \
        }                                                                          \
    }

DEFINE_OPTIMIZERS(float, f32, sqrtf)
DEFINE_OPTIMIZERS(double, f64, sqrt)

const struct fanin_optimizers FANIN_AT_LEVEL(fanin_optimizers) = {
    .sgd_f32 = sgd_f32,
    .sgd_f64 = sgd_f64,
    .adam_f32 = adam_f32,
    .adam_f64 = adam_f64,
};
