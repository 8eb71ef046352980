/* Design: layer and RMS normalization of a block of rows
 *
 * With n values in a row (Ba, Kiros & Hinton 2016, eq. 4; Zhang & Sennrich 2019, eq. 4)
 *     xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps),   y = xhat gamma + beta,
 * var being the mean of (x - mean)^2; for RMS mean is 0. Backward, with g = dy gamma,
 *     dx = rstd (g - sum(g) / n - xhat sum(g xhat) / n),
 * where RMS has no second term; dgamma = sum over rows of dy xhat, dbeta of dy.
 *
 * a) Each function passes once or twice over a block of rows that stays in the cache
 *    from one to the next. Rows are independent of each other, and sums are taken of
 *    two rows at a time, so that the end of one row's sum does not hold up the next's.
 * b) All arithmetic is double, and results are rounded once. A row is summed as
 *    x - x[0], squares along with it: mean = x[0] + S / n, M2 = Q - S^2 / n. Since x[0]
 *    is one of the data, Q <= (n + 1) M2, and M2 loses at most n 2^-53 of itself. For
 *    the rows of at most some 10^4 values that come here that is far below float32, and
 *    float32 rows stop there. float64 rows take a second pass around that mean
 *    (corrected two-pass algorithm: Chan, Golub & LeVeque 1983, eq. 1.7), which also
 *    gives the mean in two words. A constant row has mean x[0] exactly, so xhat = 0.
 * c) Compute fast, look at the result, redo the rare row: a float64 row whose squares
 *    overflow or underflow is computed again on x 2^-e (norm_scale.h).
 * d) Sums over a row are taken in lanes: forward FANIN_SUM8 permits it; backward, where
 *    a compiler would take the many lanes through memory, they are variables (lanes.h).
 *    The sums over rows, dgamma and dbeta, are added to in memory, that is in the L1
 *    cache, once for a group of rows.
 * e) Backward goes from the sums of a few rows to their gradient, so that reading and
 *    writing keep taking turns; the loop over them is here, since each call from code
 *    that was built without vectors costs as much as several rows.
 *
 * Cost per element, in operations of double: forward 4 (float64: 8) + 4, backward
 * 8 + 6. Memory: forward one read and one write, backward two reads and one write.
 */
#include "layer_norm.h"

#include "../norm_scale.h"
#include "lanes.h"
#include "writer.h"

#include <float.h>

#define ROWS FANIN_LAYER_NORM_ROWS
/* Rows from sums to gradient. Memory is idle while results are computed from the cache:
 * the fewer rows, the sooner the next ones are on their way. */
#define STEP_ROWS 8

/* Permission to add the terms of a loop's sums in lanes; a compiler that does not know
 * it adds them one by one. (8 lanes: short rows leave less of a rest.) */
#if defined(__GNUC__) || defined(__clang__)
#define FANIN_PRAGMA_(text) _Pragma(#text)
#define FANIN_SUM8(...) FANIN_PRAGMA_(omp simd simdlen(8) reduction(+ : __VA_ARGS__))
#else
#define FANIN_SUM8(...)
#endif

/* Beyond these the squares of a double, or a part of them, may have been lost. */
#define HUGE_SQUARES 1e290
#define TINY_SQUARE 1e-200

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

#define LOAD_F64 fanin_lanes_load_f64
#define STORE_F64 fanin_lanes_store_f64

/* Rows whose sums are taken together: as many as the registers hold (32 or 16). */
#define GROUP (FANIN_LANES == 8 ? 4 : 2)

/* Of a group of rows: sums, and what they are computed with; f is the factor from
 * DEVIATION to xhat. */
typedef struct {
    fanin_lanes u[GROUP], v[GROUP];
} row_sums;
typedef struct {
    double m[GROUP], l[GROUP], r[GROUP], p[GROUP], f[GROUP];
} row_stats;

#define T float
#define KIND 0
#define NAME(x) x##_f32
#define LOAD fanin_lanes_load_f32
#define STORE fanin_lanes_store_f32
#define DEVIATION(x, m, l, r, p) ((x) - (m))
#define XHAT(x, m, l, r, p) (((x) - (m)) * (r))
#include "layer_norm_body.h"
#undef T
#undef KIND
#undef NAME
#undef XHAT
#undef DEVIATION
#undef LOAD
#undef STORE

#define T double
#define KIND 1
#define NAME(x) x##_f64
#define LOAD LOAD_F64
#define STORE STORE_F64
#define DEVIATION XHAT
#define XHAT(x, m, l, r, p) ((((x) * (p) - (m)) - (l)) * (r))
#include "layer_norm_body.h"
#undef T
#undef KIND
#undef NAME
#undef XHAT
#undef DEVIATION
#undef LOAD
#undef STORE

const struct fanin_layer_norm FANIN_AT_LEVEL(fanin_layer_norm) = {
    .statistics = {statistics_f32, statistics_f64},
    .apply = {apply_f32, apply_f64},
    .sums = {sums_f32, sums_f64},
    .gradient = {gradient_f32, gradient_f64},
    .backward = {backward_f32, backward_f64},
};
