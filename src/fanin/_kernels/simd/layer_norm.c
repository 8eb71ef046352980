/* Design: layer and RMS normalization of a block of rows
 *
 * With n values in a row (Ba, Kiros & Hinton 2016, eq. 4; Zhang & Sennrich 2019, eq. 4)
 *     xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps),   y = xhat gamma + beta,
 * var being the mean of (x - mean)^2; for RMS mean is 0. Backward, with g = dy gamma,
 *     dx = rstd (g - sum(g) / n - xhat sum(g xhat) / n),
 * where RMS has no second term; dgamma = sum over rows of dy xhat, dbeta of dy.
 *
 * a) Each function passes once over a block of rows that stays in the L1 or L2 cache
 *    from one function to the next. Every row of a pass is independent of the one
 *    before, so the end of one row's sum overlaps with the start of the next.
 * b) All arithmetic is double. A float32 row's sum is exact or nearly so, and its mean
 *    has 29 bits more than the data. A float64 row is summed as x - x[0], then by the
 *    corrected two-pass algorithm (Chan, Golub & LeVeque 1983, eq. 1.7), which gives
 *    the mean in two words. A constant row comes out with mean x[0] exactly and
 *    xhat = 0.
 * c) Compute fast, look at the result, redo the rare row: a float64 row whose squares
 *    overflow or underflow is computed again on x 2^-e (norm_scale.h).
 * d) Reductions use LANES explicit lanes; what is left of a row goes to the first ones.
 * e) dgamma and dbeta are added to in memory, two rows at a time, since they and
 *    gamma would not fit into registers; they stay in the L1 cache.
 *
 * Cost per element, in operations of double: forward 2 + 3 + 4, backward 9 + 6. Memory:
 * forward one read and one write, backward two reads and one write.
 */
#include "layer_norm.h"

#include "../norm_scale.h"
#include "writer.h"

#include <float.h>

#if defined(__clang__)
#define FANIN_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FANIN_INDEPENDENT _Pragma("GCC ivdep")
#else
#define FANIN_INDEPENDENT
#endif

#define LANES 16

/* Beyond these the squares of a double, or a part of them, may have been lost. */
#define HUGE_SQUARES 1e290
#define TINY_SQUARE 1e-200

static inline double add_lanes(const double *lane)
{
    double a[8], b[4];
    for (int l = 0; l < 8; l++) {
        a[l] = lane[l] + lane[l + 8];
    }
    for (int l = 0; l < 4; l++) {
        b[l] = a[l] + a[l + 4];
    }
    return (b[0] + b[2]) + (b[1] + b[3]);
}

static inline double add_eight(const double *lane)
{
    double b[4];
    for (int l = 0; l < 4; l++) {
        b[l] = lane[l] + lane[l + 4];
    }
    return (b[0] + b[2]) + (b[1] + b[3]);
}

/* Mean and variance of a row of float64 at any magnitude, scaled by a power of two. */
static void careful_row(double *m, double *l, double *r, double *p, const double *x,
                        ptrdiff_t w, double eps, int centre)
{
    double top = 0.0, sum = 0.0, square = 0.0, mean = 0.0, unit, part;
    int finite = 1, nan = 0, e;
    for (ptrdiff_t c = 0; c < w; c++) {
        double size = fabs(x[c]);
        top = size > top ? size : top;
        finite &= size <= DBL_MAX;
        nan |= size != size;
    }
    *m = *l = 0.0;
    *p = 1.0;
    if (!finite) {
        /* As IEEE arithmetic has it: inf - inf is NaN, 1 / inf is 0. */
        *m = centre ? NAN : 0.0;
        *r = centre || nan ? NAN : 0.0;
        return;
    }
    frexp(top, &e);
    e = e < -1000 ? -1000 : e;
    unit = ldexp(1.0, -e);
    if (centre) {
        for (ptrdiff_t c = 0; c < w; c++) {
            sum += x[c] * unit - x[0] * unit;
        }
        mean = x[0] * unit + sum / (double)w;
    }
    sum = 0.0;
    for (ptrdiff_t c = 0; c < w; c++) {
        double d = x[c] * unit - mean;
        sum += d;
        square += d * d;
    }
    if (!centre) {
        fanin_norm_settle(m, l, r, p, 0.0, 0.0, square / (double)w, e, eps);
        return;
    }
    part = sum / (double)w;
    square = (square - sum * part) / (double)w;
    sum = mean + part;      /* two-sum, with |part| < |mean| or both small */
    double back = sum - mean, lo = (mean - (sum - back)) + (part - back);
    fanin_norm_settle(m, l, r, p, sum, lo, square > 0.0 ? square : 0.0, e, eps);
}

#define T float
#define KIND 0
#define NAME(x) x##_f32
#define XHAT(x, m, l, r, p) (((double)(x) - (m)) * (r))
#include "layer_norm_body.h"
#undef T
#undef KIND
#undef NAME
#undef XHAT

#define T double
#define KIND 1
#define NAME(x) x##_f64
#define XHAT(x, m, l, r, p) ((((x) * (p) - (m)) - (l)) * (r))
#include "layer_norm_body.h"
#undef T
#undef KIND
#undef NAME
#undef XHAT

const struct fanin_layer_norm FANIN_AT_LEVEL(fanin_layer_norm) = {
    .statistics = {statistics_f32, statistics_f64},
    .apply = {apply_f32, apply_f64},
    .sums = {sums_f32, sums_f64},
    .gradient = {gradient_f32, gradient_f64},
};
