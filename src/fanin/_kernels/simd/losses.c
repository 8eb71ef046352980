/* Losses and their gradients with respect to the network's output Z.
 *
 * Design
 * a) Of one value, with d = z - y (each in a form that neither overflows nor cancels):
 *    squared_error    l = d^2                             dl/dz = 2 d
 *    absolute_error   l = |d|                             sign(d), 0 at 0
 *    huber            l = c (d - c/2)                     c = d cut off at +-delta
 *                     (d^2/2 inside, delta (|d| - delta/2) outside; Huber 1964)
 *    quantile         l = d (1-q) if d > 0, -d q if not   1-q, -q, or 0 at 0
 *                     (the "pinball" loss of Koenker & Bassett 1978)
 *    poisson          l = exp(z) - y z                    exp(z) - y
 *                     (-log of the probability of the count y at the rate exp z, less
 *                     what does not depend on z)
 *    binary_cross_entropy, from the logit: with e = exp(-|z|), q = e / (1 + e),
 *                     z > 0: l = (1-y) z + log1p(e),      (1-y) - q
 *                     z <= 0: l = y |z| + log1p(e),       q - y
 *    The loss is then exact for z = 1e8, and the gradient where it is 1e-20.
 * b) softmax_cross_entropy, of a row of logits, for target probabilities y that sum to
 *    s (1, up to rounding): l = sum_j y_j (lse(z) - z_j); dl/dz = s softmax(z) - y.
 *    An integer label is the y with a single 1. (Goodfellow, Bengio & Courville 2016,
 *    section 6.2.) Smoothing by a first takes (1-a) y + a/cols for y (Szegedy et al.
 *    2016, section 7).
 *    Losses come from logits because log(softmax) would underflow. lse(z) - z_j is
 *    computed as log1p(r) + (max - z_j), r the sum of exp(z - max) without the largest:
 *    no digits cancel where logits are large, none are lost where one probability is
 *    nearly 1. Nor are they in the gradient: with p_j the softmax and 1 - p_j summed
 *    from the other classes, it is (s - y_j) p_j - y_j (1 - p_j).
 * c) Sums over samples keep what each addition rounds off, in lanes (Knuth's two-sum;
 *    Neumaier, ZAMM 54, 1974, where the lanes are added): the gradient check divides
 *    differences of two such sums by 1e-7, and their rounding would be most of its
 *    error. Losses pass through a buffer on the stack first, so that a compiler that
 *    contracts a product and a sum does not take the two-sum apart.
 * d) Targets are checked here, in the pass that reads them anyway, rather than in a
 *    pass of their own: a label outside [0, cols), a value outside the loss's interval
 *    (finite; finite and >= 0; within [0, 1]), a NaN, probabilities that do not sum to
 *    1 within 1e-3.
 * e) A row of weight 0 is left out by a choice, not by a product: 0 times its
 *    infinite loss would be a NaN.
 *
 * Cost: one read of Z and Y, one write of dZ; from 4 operations a value (absolute
 * error) to about 90 (binary cross-entropy, in double for either dtype); softmax has an
 * exponential a value, in the dtype, and a logarithm a row.
 */
#include "losses.h"
#include "exp_inline.h"
#include "lanes.h"
#include "log_inline.h"

#include <math.h>

enum {
    TILE = 512,     /* values that wait on the stack, a multiple of any FANIN_LANES */
    TILE_ROWS = 64, /* rows of a softmax at a time, too */
};

/* --- sums that lose no digits ------------------------------------------------------ */

typedef struct {
    fanin_lanes hi, lo;
} sums;

/* Add n terms. What lies behind them, up to a whole register, is overwritten. */
static inline void add_terms(sums *total, double *term, ptrdiff_t n)
{
    fanin_lanes hi = total->hi, lo = total->lo;
    for (ptrdiff_t k = n; k % FANIN_LANES != 0; k++) {
        term[k] = 0.0;
    }
    for (ptrdiff_t k = 0; k < n; k += FANIN_LANES) {
        fanin_lanes t = fanin_lanes_load_f64(term + k);
        fanin_lanes sum = hi + t;
        fanin_lanes moved = sum - hi;
        lo += (hi - (sum - moved)) + (t - moved);
        hi = sum;
    }
    total->hi = hi;
    total->lo = lo;
}

static void finish_sum(fanin_sum *total, const sums *lanes)
{
    double hi[FANIN_LANES], lo[FANIN_LANES];
    memcpy(hi, &lanes->hi, sizeof hi);
    memcpy(lo, &lanes->lo, sizeof lo);
    total->hi = 0.0;
    total->lo = 0.0;
    for (int k = 0; k < FANIN_LANES; k++) {
        double sum = total->hi + hi[k];
        double big = fabs(total->hi) >= fabs(hi[k]) ? total->hi : hi[k];
        double small = fabs(total->hi) >= fabs(hi[k]) ? hi[k] : total->hi;
        total->lo += ((big - sum) + small) + lo[k];
        total->hi = sum;
    }
    if (!(fabs(total->hi) <= DBL_MAX)) {
        total->lo = 0.0; /* inf - inf is no remainder */
    }
}

#define T float
#define NAME(x) x##_f32
#define EXP fanin_exp_f32
#define FABS fabsf
#define MOST FLT_MAX
#include "losses_body.h"
#undef T
#undef NAME
#undef EXP
#undef FABS
#undef MOST

#define T double
#define NAME(x) x##_f64
#define EXP fanin_exp_f64
#define FABS fabs
#define MOST DBL_MAX
#include "losses_body.h"
#undef T
#undef NAME
#undef EXP
#undef FABS
#undef MOST

const struct fanin_losses FANIN_AT_LEVEL(fanin_losses) = {
    .forward_f32 = forward_f32,
    .forward_f64 = forward_f64,
    .link_f32 = link_f32,
    .link_f64 = link_f64,
};
