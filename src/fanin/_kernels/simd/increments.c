/* Increments f(z + d) - f(z) without the cancellation of a difference.
 *
 * Design
 * a) A gradient check by differences at eps = 1e-7 loses seven digits where it
 *    subtracts two losses. Nothing is lost if the change itself is carried from the
 *    perturbed parameter to the loss. With tables of what depends on z alone:
 *      logistic    a (1-a) e / (1 + a e),   e = expm1 d
 *      tanh        (1-a^2) t / (1 + a t),   t = tanh d
 *      relu        up = max(d, -z) - max(-z, 0), exact on either side of 0;
 *      leaky_relu  up + slope (d - up)
 *      elu, selu   scale (up + alpha exp(min(z, 0)) expm1(d - up))
 *      softplus    log1p(s e),              s = logistic z
 *      silu        z S + d (s + S),         S the logistic's increment
 *      gelu        z P + d (Phi + P),       P = int_z^(z+d) phi, phi(x) the density
 *      gelu_tanh   silu's, S with the increment of its argument, a cubic's, for d
 *    The first two are the addition theorems of exp and tanh. `up` is the change of
 *    max(z, 0); d - up is that of min(z, 0).
 *      normalization  with h = rstd (d - mean d), q = mean(h (2 xhat + h)) the relative
 *                  change of var + eps:  h + (rho - 1)(h + xhat), where
 *                  rho - 1 = 1/sqrt(1+q) - 1 = -q / (s (1 + s)), s = sqrt(1 + q)
 *    Losses (r = z - y): squared d (2 r + d); slopes (absolute, quantile) by `up`;
 *    Huber piecewise; Poisson d (exp z - y) + exp(z) (expm1 d - d); a logit
 *    log1p(p expm1 d) - y d, for p > 1/2 that of the other class with -d; softmax
 *      log1p(sum_j p_j expm1(d_j - d_k)) - sum_j y_j (d_j - d_k), j != k,
 *    k the most probable class, so that nothing cancels where p_k is nearly 1.
 * b) Three ranges of d, rows that come together in the smallest that holds all. Up to 2^-18,
 *    where a step of 1e-7 leads, short series are exact to the last place (the first
 *    term left out is below 2^-53 of the sum) and need no division; up to 2^-6 longer
 *    ones; beyond, the library's functions, and for |d| > 1/2 the plain difference,
 *    which then loses nothing.
 * c) Whether an argument passed a kink is seen by the way: `up` is then neither d nor
 *    0. (From exactly 0 one of both directions passes it.)
 *
 * d) All changes c of one input move the arguments of the functions behind a layer along
 *    one line, z + c w. Where they are tiny an increment there is a cubic in d = c w, the
 *    product of its series, with coefficients q0, q1, q2 that depend on z alone; and the
 *    next layer's product, a sum of such cubics, is one in c:
 *      sum_u W[u, j] (q0 d + q1 d^2 + q2 d^3) = P0 c + P1 c^2 + P2 c^3,
 *      P_p[j] = sum_u q_p[u] w[u]^(p + 1) W[u, j].
 *    It takes three rows times W for all changes of a sample, not one for each. With
 *    w / s and x = c s for w and c, s a power of two of w's size, nothing overflows that
 *    did not before. relu and leaky_relu have q1 = q2 = 0. Where an argument could pass
 *    a kink (|c w| >= |z|) the sample's changes go the other way, one by one.
 *
 * Cost: 5 to 15 operations a value, for a row of increments 3 to 6 table values that
 * all rows of a sample share; a softmax about 12, along a line 8.
 */
#include "increments.h"
#include "activations.h"
#include "lanes.h"

#include <float.h>
#include <math.h>

#define SELU_SCALE 1.05070098735548049
#define SELU_ALPHA 1.67326324235437728
#define GELU_TANH_SLOPE 1.59576912160573071 /* 2 sqrt(2 / pi) */
#define GELU_TANH_CUBE 0.044715
#define SQRT_HALF 0.707106781186547524
#define DENSITY 0.398942280401432678 /* 1 / sqrt(2 pi) */
#define TINY 0x1p-18
#define SMALL 0x1p-6

static inline double within(double x, double limit)
{
    x = x > limit ? limit : x;
    return x < -limit ? -limit : x;
}

/* --- the functions themselves ------------------------------------------------------ */

static double logistic(double z)
{
    return z >= 0.0 ? 1.0 / (1.0 + exp(-z)) : exp(z) / (1.0 + exp(z));
}

static double gelu_tanh_argument(double z)
{
    return GELU_TANH_SLOPE * (z + GELU_TANH_CUBE * z * z * z);
}

static double plain(double z, int activation, double parameter)
{
    switch (activation) {
    case FANIN_LOGISTIC:
        return logistic(z);
    case FANIN_TANH:
        return tanh(z);
    case FANIN_RELU:
        return z > 0.0 ? z : 0.0;
    case FANIN_LEAKY_RELU:
        return z > 0.0 ? z : parameter * z;
    case FANIN_ELU:
        return z > 0.0 ? z : parameter * expm1(z);
    case FANIN_SELU:
        return SELU_SCALE * (z > 0.0 ? z : SELU_ALPHA * expm1(z));
    case FANIN_SOFTPLUS:
        return fmax(z, 0.0) + log1p(exp(-fabs(z)));
    case FANIN_SILU:
        return z * logistic(z);
    case FANIN_GELU:
        return 0.5 * z * erfc(-z * SQRT_HALF);
    case FANIN_GELU_TANH:
        return z * logistic(gelu_tanh_argument(z));
    default:
        return z;
    }
}

static void tables(double *t, ptrdiff_t stride, const double *z, ptrdiff_t n,
                   int activation, double parameter)
{
    double *t1 = t + stride, *t2 = t + 2 * stride;
    for (ptrdiff_t j = 0; j < n; j++) {
        double x = z[j], a;
        t[j] = x;
        t1[j] = t2[j] = 0.0;
        switch (activation) {
        case FANIN_TANH:
            t1[j] = a = tanh(x);
            t2[j] = (1.0 - a) * (1.0 + a);
            break;
        case FANIN_ELU:
            t1[j] = parameter * exp(fmin(x, 0.0));
            break;
        case FANIN_SELU:
            t1[j] = SELU_ALPHA * exp(fmin(x, 0.0));
            break;
        case FANIN_GELU:
            t1[j] = 0.5 * erfc(-x * SQRT_HALF);
            t2[j] = DENSITY * exp(-0.5 * x * x);
            break;
        case FANIN_LOGISTIC:
        case FANIN_SOFTPLUS:
        case FANIN_SILU:
        case FANIN_GELU_TANH:
            a = activation == FANIN_GELU_TANH ? gelu_tanh_argument(x) : x;
            t1[j] = logistic(a);
            t2[j] = t1[j] * logistic(-a);
            break;
        default:
            break;
        }
    }
}

/* Phi(z + d) - Phi(z) for any d; `density` is that at z. */
static double delta_phi(double z, double d, double density)
{
    /* Gauss & Legendre's ten nodes, half of them */
    static const double node[5] = {0.14887433898163121, 0.43339539412924719,
                                   0.67940956829902441, 0.86506336668898451,
                                   0.97390652851717172};
    static const double weight[5] = {0.29552422471475287, 0.26926671930999636,
                                     0.21908636251598204, 0.14945134915058059,
                                     0.066671344308688138};
    if (fabs(d) * (fabs(z) + fabs(d)) > 2.0) {
        /* far apart: the difference of the smaller tails */
        return z > 0.0 ? 0.5 * (erfc(z * SQRT_HALF) - erfc((z + d) * SQRT_HALF))
                       : 0.5 * (erfc(-(z + d) * SQRT_HALF) - erfc(-z * SQRT_HALF));
    }
    double sum = 0.0;
    for (int k = 0; k < 5; k++) {
        double low = 0.5 * d * (1.0 - node[k]), high = 0.5 * d * (1.0 + node[k]);
        sum += weight[k]
               * (exp(-low * (z + 0.5 * low)) + exp(-high * (z + 0.5 * high)));
    }
    return 0.5 * d * density * sum;
}

/* --- tiny: |d| <= 2^-18 ------------------------------------------------------------- */

static inline double expm1_tiny(double d)
{
    return d + d * d * (0.5 + d * (1.0 / 6.0));
}

static inline double second_tiny(double d)
{
    return d * d * (0.5 + d * (1.0 / 6.0 + d * (1.0 / 24.0)));
}

static inline double log1p_tiny(double u)
{
    return u - u * u * (0.5 - u * (1.0 / 3.0));
}

static inline double tanh_tiny(double d)
{
    return d - d * d * d * (1.0 / 3.0);
}

static inline double reciprocal_tiny(double u)
{
    return 1.0 - u * (1.0 - u);
}

/* exp(-z d - d^2/2) integrated term by term. */
static inline double delta_phi_tiny(double z, double d, double density)
{
    double x = within(z, 40.0), w = x * x;
    double p = (1.0 / 24.0) * (3.0 - w) * x;
    p = p * d + (1.0 / 6.0) * (w - 1.0);
    p = p * d - 0.5 * x;
    return density * d * (p * d + 1.0);
}

/* --- small: |d| <= 2^-6 ------------------------------------------------------------- */

static inline double second_small(double d)
{
    double p = 1.0 / 40320.0;
    p = p * d + 1.0 / 5040.0;
    p = p * d + 1.0 / 720.0;
    p = p * d + 1.0 / 120.0;
    p = p * d + 1.0 / 24.0;
    p = p * d + 1.0 / 6.0;
    return d * d * (p * d + 0.5);
}

static inline double expm1_small(double d)
{
    return d + second_small(d);
}

/* 2 artanh(s), s = u / (2 + u) */
static inline double log1p_small(double u)
{
    double s = u / (2.0 + u), w = s * s;
    double p = 2.0 / 9.0;
    p = p * w + 2.0 / 7.0;
    p = p * w + 2.0 / 5.0;
    p = p * w + 2.0 / 3.0;
    return s * (p * w + 2.0);
}

static inline double tanh_small(double d)
{
    double e = expm1_small(d + d);
    return e / (e + 2.0);
}

static inline double reciprocal(double u)
{
    return 1.0 / (1.0 + u);
}

/* --- any d ------------------------------------------------------------------------- */

static double second_any(double d)
{
    return fabs(d) < SMALL ? second_small(d) : expm1(d) - d;
}

/* A Huber loss from r to r + d. */
static double huber(double r, double d, double delta)
{
    double from = within(r, delta), to = within(r + d, delta);
    if (from == to && from != r) {
        return from * d; /* outside, on one side */
    }
    if (from == r && to == r + d) {
        return d * (r + 0.5 * d);
    }
    /* A part is inside: from `from` to `to`; what lies before and behind is outside. */
    double before = from - r, behind = (d - before) - (to - from);
    if (from == r) {
        behind = d - (to - r);
    }
    return from * before + (to - from) * (0.5 * (from + to)) + to * behind;
}

#define EACH(formula)                                                              \
    FANIN_INDEPENDENT                                                              \
    for (ptrdiff_t j = 0; j < n; j++) {                                            \
        double d = c * in[j], y;                                                   \
        formula                                                                    \
        out[j] = y;                                                                \
    }
#define KINKED(formula)                                                            \
    _Pragma("omp simd reduction(max:far)")                                         \
    for (ptrdiff_t j = 0; j < n; j++) {                                            \
        double d = c * in[j], y, below = -z[j];                                           \
        double up = (d > below ? d : below) - (below > 0.0 ? below : 0.0);         \
        double beyond = fabs(up - (below < 0.0 ? d : 0.0));                        \
        far = beyond > far ? beyond : far;                                         \
        formula                                                                    \
        out[j] = y;                                                                \
    }
#define SUM(formula)                                                               \
    _Pragma("omp simd reduction(+:total)")                                         \
    for (ptrdiff_t j = 0; j < n; j++) {                                            \
        double d = D[j];                                                           \
        formula                                                                    \
    }

#define NAME(x) x##_tiny
#define EXPM1 expm1_tiny
#define LOG1P log1p_tiny
#define TANH tanh_tiny
#define RECIPROCAL reciprocal_tiny
#define DELTA_PHI delta_phi_tiny
#define SECOND second_tiny
#include "increments_body.h"

#define NAME(x) x##_small
#define EXPM1 expm1_small
#define LOG1P log1p_small
#define TANH tanh_small
#define RECIPROCAL reciprocal
#define DELTA_PHI delta_phi
#define SECOND second_small
#include "increments_body.h"

#define NAME(x) x##_any
#define EXPM1 expm1
#define LOG1P log1p
#define TANH tanh
#define RECIPROCAL reciprocal
#define DELTA_PHI delta_phi
#define SECOND second_any
#include "increments_body.h"

/* --- rows -------------------------------------------------------------------------- */

static double largest(const double *x, ptrdiff_t n)
{
    double most = 0.0;
    _Pragma("omp simd reduction(max:most)")
    for (ptrdiff_t j = 0; j < n; j++) {
        double size = fabs(x[j]);
        most = size > most ? size : most;
    }
    return most;
}

/* Rows that follow each other are one: a reduction at the end of each would cost as
 * much as the formulas. */
static double largest_of_rows(const double *D, ptrdiff_t ld, ptrdiff_t rows,
                              ptrdiff_t cols)
{
    if (ld == cols) {
        return largest(D, rows * cols);
    }
    double most = 0.0;
    for (ptrdiff_t i = 0; i < rows; i++) {
        double size = largest(D + i * ld, cols);
        most = size > most ? size : most;
    }
    return most;
}

static double row(double *out, double c, const double *in, ptrdiff_t n, double most,
                  const double *t, ptrdiff_t stride, int activation, double parameter)
{
    const double *t1 = t + stride, *t2 = t + 2 * stride;
    if (most <= TINY) {
        return row_tiny(out, c, in, n, t, t1, t2, activation, parameter);
    }
    if (most <= SMALL) {
        return row_small(out, c, in, n, t, t1, t2, activation, parameter);
    }
    double far = 0.0;
    for (ptrdiff_t j = 0; j < n; j++) {
        double d = c * in[j], beyond;
        beyond = row_any(out + j, c, in + j, 1, t + j, t1 + j, t2 + j, activation,
                         parameter);
        far = beyond > far ? beyond : far;
        /* For gelu_tanh it is the change of the cubic that matters. */
        double size = activation == FANIN_GELU_TANH ? 2.0 + t[j] * t[j] : 1.0;
        if (!(fabs(d) * size <= 0.5)) {
            out[j] = plain(t[j] + d, activation, parameter)
                     - plain(t[j], activation, parameter);
        }
    }
    return far;
}

static void activation_rows(double *D, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                            const double *t, ptrdiff_t stride, int activation,
                            double parameter, unsigned char *crossed)
{
    const double most = largest_of_rows(D, ld, rows, cols);
    for (ptrdiff_t i = 0; i < rows; i++) {
        double *d = D + i * ld;
        double far = row(d, 1.0, d, cols, most, t, stride, activation, parameter);
        crossed[i] |= far > 0.0;
    }
}

static void spread(double *D, ptrdiff_t ld, const double *c, ptrdiff_t rows,
                   const double *w, ptrdiff_t cols, const double *t, ptrdiff_t stride,
                   int activation, double parameter, unsigned char *crossed)
{
    const double most = largest(w, cols) * largest(c, rows);
    for (ptrdiff_t i = 0; i < rows; i++) {
        double *d = D + i * ld;
        if (activation == FANIN_IDENTITY) {
            for (ptrdiff_t j = 0; j < cols; j++) {
                d[j] = c[i] * w[j];
            }
            continue;
        }
        double far = row(d, c[i], w, cols, most, t, stride, activation, parameter);
        crossed[i] |= far > 0.0;
    }
}

/* --- along a line ------------------------------------------------------------------- */

/* q[0], q[stride], q[2 stride] = the coefficients of d, d^2 and d^3. */
static void cubics(double *q, ptrdiff_t stride, const double *t, ptrdiff_t t_stride,
                   ptrdiff_t n, int activation, double parameter)
{
    const double *t1 = t + t_stride, *t2 = t + 2 * t_stride;
    for (ptrdiff_t j = 0; j < n; j++) {
        /* (Far out densities and slopes are 0; a power of z must not be infinite.) */
        double z = within(t[j], 800.0), a = t1[j], b = t2[j], q0, q1, q2;
        double first, second, third, odd;
        switch (activation) {
        case FANIN_TANH:
            q0 = b;
            q1 = -a * b;
            q2 = b * (a * a - 1.0 / 3.0);
            break;
        case FANIN_LOGISTIC:
            q0 = b;
            q1 = b * (0.5 - a);
            q2 = b * (1.0 / 6.0 - b);
            break;
        case FANIN_SOFTPLUS:
            q0 = a;
            q1 = 0.5 * b;
            q2 = b * (1.0 - 2.0 * a) * (1.0 / 6.0);
            break;
        case FANIN_SILU:
            odd = b * (1.0 - 2.0 * a);
            q0 = a + z * b;
            q1 = b + 0.5 * z * odd;
            q2 = 0.5 * odd + z * b * (1.0 / 6.0 - b);
            break;
        case FANIN_GELU:
            q0 = a + z * b;
            q1 = b * (1.0 - 0.5 * z * z);
            q2 = b * z * (z * z - 4.0) * (1.0 / 6.0);
            break;
        case FANIN_GELU_TANH:
            /* The logistic function of g(z), whose change is first d + second d^2
             * + third d^3; then silu's formula. */
            first = GELU_TANH_SLOPE * (1.0 + 3.0 * GELU_TANH_CUBE * z * z);
            second = GELU_TANH_SLOPE * 3.0 * GELU_TANH_CUBE * z;
            third = GELU_TANH_SLOPE * GELU_TANH_CUBE;
            odd = b * (0.5 - a);
            q0 = b * first;
            q1 = b * second + odd * first * first;
            q2 = b * third + 2.0 * odd * first * second
                 + b * (1.0 / 6.0 - b) * first * first * first;
            q2 = z * q2 + q1;
            q1 = z * q1 + q0;
            q0 = z * q0 + a;
            break;
        case FANIN_ELU:
        case FANIN_SELU:
            q0 = activation == FANIN_SELU ? SELU_SCALE : 1.0;
            q1 = z > 0.0 ? 0.0 : 0.5 * q0 * a;
            q2 = z > 0.0 ? 0.0 : (1.0 / 6.0) * q0 * a;
            q0 = z > 0.0 ? q0 : q0 * a;
            break;
        default: /* relu, leaky_relu */
            q0 = z > 0.0 ? 1.0 : activation == FANIN_RELU ? 0.0 : parameter;
            q1 = q2 = 0.0;
            break;
        }
        q[j] = q0;
        q[stride + j] = q1;
        q[2 * stride + j] = q2;
    }
}

/* A power of two of the size of the largest weight. */
static double line_scale(const double *w, ptrdiff_t n)
{
    int exponent = 0;
    double most = largest(w, n);
    if (most > 0.0 && most <= DBL_MAX) {
        frexp(most, &exponent);
    }
    return ldexp(1.0, exponent > 1000 ? 1000 : exponent < -1000 ? -1000 : exponent);
}

/* How large |x| may be, so that no argument z + x w passes a kink. */
static double line_reach(const double *z, const double *w, ptrdiff_t n, double scale,
                         int activation)
{
    double most = 0.0;
    if (activation == FANIN_RELU || activation == FANIN_LEAKY_RELU
        || activation == FANIN_ELU || activation == FANIN_SELU) {
        _Pragma("omp simd reduction(max:most)")
        for (ptrdiff_t j = 0; j < n; j++) {
            double share = fabs(w[j] / scale) / fabs(z[j]); /* (0 / 0 counts not) */
            most = share > most ? share : most;
        }
    }
    return fmin(TINY, (1.0 - 0x1p-50) / most);
}

static void line_powers(double *G, ptrdiff_t stride, const double *q, ptrdiff_t q_stride,
                        const double *w, ptrdiff_t n, double scale, int order)
{
    const double down = 1.0 / scale;
    for (ptrdiff_t j = 0; j < n; j++) {
        double v = w[j] * down;
        G[j] = q[j] * v;
        if (order == 3) {
            G[stride + j] = q[q_stride + j] * v * v;
            G[2 * stride + j] = q[2 * q_stride + j] * v * v * v;
        }
    }
}

static void line_rows(double *out, const double *c, ptrdiff_t rows, double scale,
                      const double *P, ptrdiff_t stride, ptrdiff_t outputs, int order)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        const double x = c[i] * scale;
        double *D = out + i * outputs;
        for (ptrdiff_t j = 0; j < outputs; j++) {
            D[j] = order == 1
                       ? x * P[j]
                       : x * (P[j] + x * (P[stride + j] + x * P[2 * stride + j]));
        }
    }
}

FANIN_ALWAYS_INLINE void line_softmax_of(double *out, const double *c, ptrdiff_t rows,
                                         double scale, const double *P,
                                         ptrdiff_t stride, ptrdiff_t outputs,
                                         const double *p, const double *target,
                                         double sum, const int order)
{
    for (ptrdiff_t v = 0; v < rows; v += 2 * FANIN_LANES) {
        fanin_lanes x[2], grown[2] = {{0.0}}, total[2] = {{0.0}};
        for (int i = 0; i < 2; i++) {
            x[i] = fanin_lanes_load_f64(c + v + i * FANIN_LANES) * scale;
        }
        for (ptrdiff_t j = 0; j < outputs; j++) {
            for (int i = 0; i < 2; i++) {
                fanin_lanes d = x[i] * P[j];
                if (order == 3) {
                    d = x[i] * (P[j] + x[i] * (P[stride + j]
                                               + x[i] * P[2 * stride + j]));
                }
                grown[i] += p[j] * (d + d * d * (0.5 + d * (1.0 / 6.0)));
                total[i] += target[j] * d;
            }
        }
        for (int i = 0; i < 2; i++) {
            fanin_lanes u = grown[i];
            u = sum * (u - u * u * (0.5 - u * (1.0 / 3.0))) - total[i];
            fanin_lanes_store_f64(out + v + i * FANIN_LANES, u);
        }
    }
}

static void line_softmax(double *out, const double *c, ptrdiff_t rows, double scale,
                         const double *P, ptrdiff_t stride, ptrdiff_t outputs,
                         int order, const double *p, const double *target, double sum)
{
    if (order == 3) {
        line_softmax_of(out, c, rows, scale, P, stride, outputs, p, target, sum, 3);
    } else {
        line_softmax_of(out, c, rows, scale, P, stride, outputs, p, target, sum, 1);
    }
}

/* How large |x| may be, so that no cubic of it, x up to TINY, is more than that. */
static double line_limit(const double *P, ptrdiff_t stride, ptrdiff_t outputs, int order)
{
    double most = 0.0;
    for (ptrdiff_t j = 0; j < outputs; j++) {
        double size = fabs(P[j]);
        if (order == 3) {
            size += TINY * (fabs(P[stride + j]) + TINY * fabs(P[2 * stride + j]));
        }
        most = size > most ? size : most;
    }
    return fmin(TINY, (1.0 - 0x1p-50) * TINY / most);
}

/* --- normalization ------------------------------------------------------------------ */

/* rho - 1, see above. A variance that shrinks by all of itself leaves NaN. */
static double shrinkage(double q)
{
    double s = sqrt(1.0 + q);
    return -q / (s * (1.0 + s));
}

static void norm(double *D, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                 const double *xhat, double rstd, int centred)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        double *d = D + i * ld, mean = 0.0, q = 0.0;
        if (centred) {
            _Pragma("omp simd reduction(+:mean)")
            for (ptrdiff_t j = 0; j < cols; j++) {
                mean += d[j];
            }
            mean /= (double)cols;
        }
        _Pragma("omp simd reduction(+:q)")
        for (ptrdiff_t j = 0; j < cols; j++) {
            double h = rstd * (d[j] - mean);
            d[j] = h;
            q += h * (2.0 * xhat[j] + h);
        }
        double rest = shrinkage(q / (double)cols);
        for (ptrdiff_t j = 0; j < cols; j++) {
            d[j] += rest * (d[j] + xhat[j]);
        }
    }
}

static void norm_columns(double *D, ptrdiff_t ld, ptrdiff_t m, ptrdiff_t n,
                         ptrdiff_t cols, const double *xhat, const double *rstd,
                         double *scratch)
{
    double *mean = scratch, *q = scratch + cols;
    for (ptrdiff_t v = 0; v < n; v++) {
        for (ptrdiff_t j = 0; j < 2 * cols; j++) {
            scratch[j] = 0.0;
        }
        for (ptrdiff_t i = 0; i < m; i++) {
            const double *d = D + (i * n + v) * ld;
            for (ptrdiff_t j = 0; j < cols; j++) {
                mean[j] += d[j];
            }
        }
        for (ptrdiff_t j = 0; j < cols; j++) {
            mean[j] /= (double)m;
        }
        for (ptrdiff_t i = 0; i < m; i++) {
            double *d = D + (i * n + v) * ld;
            const double *x = xhat + i * cols;
            for (ptrdiff_t j = 0; j < cols; j++) {
                double h = rstd[j] * (d[j] - mean[j]);
                d[j] = h;
                q[j] += h * (2.0 * x[j] + h);
            }
        }
        for (ptrdiff_t j = 0; j < cols; j++) {
            q[j] = shrinkage(q[j] / (double)m);
        }
        for (ptrdiff_t i = 0; i < m; i++) {
            double *d = D + (i * n + v) * ld;
            const double *x = xhat + i * cols;
            for (ptrdiff_t j = 0; j < cols; j++) {
                d[j] += q[j] * (d[j] + x[j]);
            }
        }
    }
}

static void loss_rows(double *out, const double *D, ptrdiff_t ld, ptrdiff_t rows,
                      ptrdiff_t cols, const double *t, ptrdiff_t stride, double sum,
                      ptrdiff_t reference, int loss, double parameter,
                      unsigned char *crossed)
{
    const double *t1 = t + stride, *t2 = t + 2 * stride;
    const double most = largest_of_rows(D, ld, rows, cols);
    for (ptrdiff_t i = 0; i < rows; i++) {
        const double *d = D + i * ld;
        double far = 0.0;
        if (loss == FANIN_DELTA_SOFTMAX) {
            double shift = d[reference];
            /* d - shift is at most 2 most. */
            out[i] = most <= 0.5 * TINY    ? softmax_tiny(d, cols, t, t1, sum, shift)
                     : most <= 0.5 * SMALL ? softmax_small(d, cols, t, t1, sum, shift)
                                           : softmax_any(d, cols, t, t1, sum, shift);
        } else {
            out[i] = most <= TINY
                         ? values_tiny(d, cols, t, t1, t2, sum, loss, parameter, &far)
                     : most <= SMALL
                         ? values_small(d, cols, t, t1, t2, sum, loss, parameter, &far)
                         : values_any(d, cols, t, t1, t2, sum, loss, parameter, &far);
        }
        crossed[i] |= far > 0.0;
    }
}

const struct fanin_increments FANIN_AT_LEVEL(fanin_increments) = {
    .tables = tables,
    .activation = activation_rows,
    .spread = spread,
    .cubics = cubics,
    .largest = largest,
    .line_scale = line_scale,
    .line_reach = line_reach,
    .line_powers = line_powers,
    .line_rows = line_rows,
    .line_softmax = line_softmax,
    .line_limit = line_limit,
    .norm = norm,
    .norm_columns = norm_columns,
    .loss = loss_rows,
};
