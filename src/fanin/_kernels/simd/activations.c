/* Activation functions and their derivatives, fused with the bias.
 *
 * Design
 * a) logistic(z) = 1 / (1 + exp(-z)), from e = exp(-|z|): 1/(1+e) or e/(1+e), so
 *    that neither side overflows nor loses digits.
 *    tanh(z) = sign(z) * -m / (2 + m) with m = expm1(-2|z|), free of cancellation
 *    near 0. relu(z) = max(z, 0), keeping NaN.
 * b) Derivatives are taken from the activation's value, so z is never stored:
 *    logistic a(1-a), tanh 1-a^2, relu [a > 0] (0 at the kink, as usual).
 * c) Each function reads and writes its tile once, while the matrix product that
 *    made it is still in cache: 2 * itemsize bytes a value, plus the bias row.
 */
#include "activations.h"
#include "exp_inline.h"

#include <math.h>

static inline float logistic_f32(float z)
{
    float e = fanin_exp_f32(-fabsf(z));
    float y = 1.0f / (1.0f + e);
    return z < 0.0f ? e * y : y;
}

static inline double logistic_f64(double z)
{
    double e = fanin_exp_f64(-fabs(z));
    double y = 1.0 / (1.0 + e);
    return z < 0.0 ? e * y : y;
}

static inline float tanh_f32(float z)
{
    float m = fanin_expm1_negative_f32(-2.0f * fabsf(z));
    return copysignf(m / (2.0f + m), z);
}

static inline double tanh_f64(double z)
{
    double m = fanin_expm1_negative_f64(-2.0 * fabs(z));
    return copysign(m / (2.0 + m), z);
}

static inline float relu_f32(float z) { return z < 0.0f ? 0.0f : z; }
static inline double relu_f64(double z) { return z < 0.0 ? 0.0 : z; }

/* One loop per function, so that the compiler vectorizes each. */
#define FORWARD_CASE(T, expression)                                                \
    for (ptrdiff_t i = 0; i < rows; i++) {                                         \
        T *FANIN_RESTRICT a = A + i * lda;                                         \
        if (bias != NULL) {                                                        \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                T z = a[j] + bias[j];                                              \
                a[j] = expression;                                                 \
            }                                                                      \
        } else {                                                                   \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                T z = a[j];                                                        \
                a[j] = expression;                                                 \
            }                                                                      \
        }                                                                          \
    }                                                                              \
    break;

#define DEFINE_FORWARD(T, S)                                                       \
    static void forward_##S(T *A, ptrdiff_t lda, const T *FANIN_RESTRICT bias,     \
                            ptrdiff_t rows, ptrdiff_t cols, int activation)        \
    {                                                                              \
        if (lda == cols && bias == NULL) { /* one long row */                      \
            cols *= rows;                                                          \
            rows = rows > 0;                                                       \
        }                                                                          \
        switch (activation) {                                                      \
        case FANIN_LOGISTIC:                                                       \
            FORWARD_CASE(T, logistic_##S(z))                                       \
        case FANIN_TANH:                                                           \
            FORWARD_CASE(T, tanh_##S(z))                                           \
        case FANIN_RELU:                                                           \
            FORWARD_CASE(T, relu_##S(z))                                           \
        default:                                                                   \
            if (bias != NULL) {                                                    \
                FORWARD_CASE(T, z)                                                 \
            }                                                                      \
        }                                                                          \
    }

#define BACKWARD_CASE(T, derivative)                                               \
    for (ptrdiff_t i = 0; i < rows; i++) {                                         \
        T *FANIN_RESTRICT d = dA + i * ldd;                                        \
        const T *FANIN_RESTRICT row = A + i * lda;                                 \
        for (ptrdiff_t j = 0; j < cols; j++) {                                     \
            T a = row[j];                                                          \
            d[j] = derivative;                                                     \
        }                                                                          \
    }                                                                              \
    break;

#define DEFINE_BACKWARD(T, S)                                                      \
    static void backward_##S(T *dA, ptrdiff_t ldd, const T *A, ptrdiff_t lda,      \
                             ptrdiff_t rows, ptrdiff_t cols, int activation)       \
    {                                                                              \
        switch (activation) {                                                      \
        case FANIN_LOGISTIC:                                                       \
            BACKWARD_CASE(T, d[j] * (a * (1 - a)))                                 \
        case FANIN_TANH:                                                           \
            BACKWARD_CASE(T, d[j] * (1 - a * a))                                   \
        case FANIN_RELU:                                                           \
            BACKWARD_CASE(T, a > 0 ? d[j] : (T)0)                                  \
        default:                                                                   \
            break;                                                                 \
        }                                                                          \
    }

DEFINE_FORWARD(float, f32)
DEFINE_FORWARD(double, f64)
DEFINE_BACKWARD(float, f32)
DEFINE_BACKWARD(double, f64)

const struct fanin_activations FANIN_AT_LEVEL(fanin_activations) = {
    .forward_f32 = forward_f32,
    .forward_f64 = forward_f64,
    .backward_f32 = backward_f32,
    .backward_f64 = backward_f64,
};
