/* Losses and their gradients with respect to the network's output Z.
 *
 * Design
 * a) squared_error: l = sum_j (z_j - y_j)^2, dl/dz = 2 (z - y).
 *    binary_cross_entropy, from logits: l = sum_j softplus(z_j) - y_j z_j
 *      = max(z, 0) - y z + log1p(exp(-|z|)); dl/dz = logistic(z) - y.
 *    softmax_cross_entropy, from logits, for target probabilities y that sum to s
 *      (1, up to rounding): l = sum_j y_j (lse(z) - z_j); dl/dz = s softmax(z) - y.
 *      An integer label is the y with a single 1. (Formulas as in Goodfellow, Bengio
 *      & Courville 2016, section 6.2.)
 * b) Losses come from logits because log(softmax) would underflow. lse(z) - z_j is
 *    computed as log1p(r) + (max - z_j), r the sum of exp(z - max) without the
 *    largest: no digits cancel where logits are large, none are lost where one
 *    probability is nearly 1.
 * c) Sums over samples keep what each addition rounds off (Neumaier, ZAMM 54, 1974):
 *    the gradient check divides differences of two such sums by 1e-7, and their
 *    rounding would be most of its error. Targets are checked here, in the pass that
 *    reads them anyway, rather than in a pass of their own: a label outside
 *    [0, cols), a probability outside [0, 1], probabilities of a sample that do not
 *    sum to 1 within 1e-3, or a NaN.
 * d) One read of Z and Y, one write of dZ.
 */
#include "losses.h"
#include "exp_inline.h"

#include <float.h>
#include <math.h>

static inline void add(fanin_sum *total, double term)
{
    double sum = total->hi + term;
    double big = fabs(total->hi) >= fabs(term) ? total->hi : term;
    double small = fabs(total->hi) >= fabs(term) ? term : total->hi;
    /* (inf - inf is no remainder) */
    total->lo += fabs(sum) <= DBL_MAX ? (big - sum) + small : 0.0;
    total->hi = sum;
}

#define DEFINE_LOSSES(T, S)                                                        \
    static void squared_error_##S(T *dZ, const T *Z, const T *Y, ptrdiff_t rows,   \
                                    ptrdiff_t cols, double scale, ptrdiff_t *bad, fanin_sum *total)\
    {                                                                              \
        for (ptrdiff_t i = 0; i < rows; i++) {                                     \
            double sum = 0.0;                                                      \
            int wrong = 0;                                                         \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                double y = Y[i * cols + j];                                        \
                double d = (double)Z[i * cols + j] - y;                            \
                wrong |= y != y;                                                   \
                sum += d * d;                                                      \
                if (dZ != NULL) {                                                  \
                    dZ[i * cols + j] = (T)(2.0 * scale * d);                       \
                }                                                                  \
            }                                                                      \
            if (wrong && *bad < 0) {                                               \
                *bad = i;                                                          \
            }                                                                      \
            add(total, sum);                                                       \
        }                                                                          \
    }                                                                              \
    static void binary_cross_entropy_##S(                                          \
        T *dZ, const T *Z, const T *Y, ptrdiff_t rows, ptrdiff_t cols,             \
        double scale, ptrdiff_t *bad, fanin_sum *total)                            \
    {                                                                              \
        for (ptrdiff_t i = 0; i < rows; i++) {                                     \
            double sum = 0.0;                                                      \
            int wrong = 0;                                                         \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                double y = Y[i * cols + j], z = Z[i * cols + j];                   \
                double e = fanin_exp_f64(-fabs(z));                                \
                wrong |= !(y >= 0.0 && y <= 1.0);                                  \
                sum += (z < 0.0 ? 0.0 : z) - y * z + log1p(e);                     \
                if (dZ != NULL) {                                                  \
                    double p = (z < 0.0 ? e : 1.0) / (1.0 + e);                    \
                    dZ[i * cols + j] = (T)(scale * (p - y));                       \
                }                                                                  \
            }                                                                      \
            if (wrong && *bad < 0) {                                               \
                *bad = i;                                                          \
            }                                                                      \
            add(total, sum);                                                       \
        }                                                                          \
    }                                                                              \
    /* p = exp(z - max z); returns max z, sets the double sum of p without the     \
     * largest, which is 1. */                                                     \
    static T shifted_exp_##S(T *FANIN_RESTRICT p, const T *FANIN_RESTRICT z,       \
                             ptrdiff_t cols, double *rest)                         \
    {                                                                              \
        ptrdiff_t at = 0;                                                          \
        for (ptrdiff_t j = 1; j < cols; j++) {                                     \
            at = z[j] > z[at] ? j : at;                                            \
        }                                                                          \
        T top = z[at];                                                             \
        for (ptrdiff_t j = 0; j < cols; j++) {                                     \
            p[j] = fanin_exp_##S(z[j] - top);                                      \
        }                                                                          \
        double s = 0.0;                                                            \
        for (ptrdiff_t j = 0; j < cols; j++) {                                     \
            s += j == at ? 0.0 : (double)p[j];                                     \
        }                                                                          \
        *rest = s;                                                                 \
        return top;                                                                \
    }                                                                              \
    static void softmax_cross_entropy_##S(                                         \
        T *dZ, const T *Z, const T *Y, const int64_t *labels, ptrdiff_t rows,      \
        ptrdiff_t cols, double scale, T *scratch, ptrdiff_t *bad, fanin_sum *total)\
    {                                                                              \
        for (ptrdiff_t i = 0; i < rows; i++) {                                     \
            const T *z = Z + i * cols;                                             \
            T *p = dZ == NULL ? scratch : dZ + i * cols;                           \
            double rest;                                                           \
            double top = shifted_exp_##S(p, z, cols, &rest);                       \
            double sum = 1.0 + rest, lse = log1p(rest); /* of z - top */           \
            int wrong;                                                             \
            if (labels != NULL) {                                                  \
                int64_t y = labels[i];                                             \
                wrong = y < 0 || y >= cols;                                        \
                if (!wrong) {                                                      \
                    add(total, lse + (top - (double)z[y]));                        \
                    if (dZ != NULL) {                                              \
                        double factor = scale / sum;                               \
                        for (ptrdiff_t j = 0; j < cols; j++) {                     \
                            p[j] = (T)((double)p[j] * factor);                     \
                        }                                                          \
                        p[y] = (T)((double)p[y] - scale);                          \
                    }                                                              \
                }                                                                  \
            } else {                                                               \
                const T *y = Y + i * cols;                                         \
                double y_sum = 0.0, dot = 0.0;                                     \
                wrong = 0;                                                         \
                for (ptrdiff_t j = 0; j < cols; j++) {                             \
                    y_sum += (double)y[j];                                         \
                    /* 0 * inf is 0 here, where z is -inf */                       \
                    double loss = lse + (top - (double)z[j]);                      \
                    dot += y[j] == 0 ? 0.0 : (double)y[j] * loss;                  \
                    wrong |= !(y[j] >= 0);                                         \
                }                                                                  \
                wrong |= !(fabs(y_sum - 1.0) <= 1e-3);                             \
                add(total, dot);                                                   \
                if (dZ != NULL) {                                                  \
                    double factor = scale * y_sum / sum;                           \
                    for (ptrdiff_t j = 0; j < cols; j++) {                         \
                        p[j] = (T)((double)p[j] * factor - scale * (double)y[j]);  \
                    }                                                              \
                }                                                                  \
            }                                                                      \
            if (wrong && *bad < 0) {                                               \
                *bad = i;                                                          \
            }                                                                      \
        }                                                                          \
    }                                                                              \
    static void softmax_##S(T *Z, ptrdiff_t rows, ptrdiff_t cols)                  \
    {                                                                              \
        for (ptrdiff_t i = 0; i < rows; i++) {                                     \
            T *z = Z + i * cols;                                                   \
            T top = z[0];                                                          \
            double sum = 0.0;                                                      \
            for (ptrdiff_t j = 1; j < cols; j++) {                                 \
                top = z[j] > top ? z[j] : top;                                     \
            }                                                                      \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                z[j] = fanin_exp_##S(z[j] - top);                                  \
            }                                                                      \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                sum += (double)z[j];                                               \
            }                                                                      \
            for (ptrdiff_t j = 0; j < cols; j++) {                                 \
                z[j] = (T)((double)z[j] / sum);                                    \
            }                                                                      \
        }                                                                          \
    }

DEFINE_LOSSES(float, f32)
DEFINE_LOSSES(double, f64)

const struct fanin_losses FANIN_AT_LEVEL(fanin_losses) = {
    .squared_error_f32 = squared_error_f32,
    .squared_error_f64 = squared_error_f64,
    .binary_cross_entropy_f32 = binary_cross_entropy_f32,
    .binary_cross_entropy_f64 = binary_cross_entropy_f64,
    .softmax_cross_entropy_f32 = softmax_cross_entropy_f32,
    .softmax_cross_entropy_f64 = softmax_cross_entropy_f64,
    .softmax_f32 = softmax_f32,
    .softmax_f64 = softmax_f64,
};
