/* Design: batch normalization of a block, its sums and its gradient
 *
 * With mean and variance of a column over n rows (Ioffe & Szegedy 2015, algorithm 1)
 *     xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps),   y = xhat gamma + beta;
 * backward (their section 3, simplified: sum(x - mean) is 0),
 *     dbeta = sum dy,   dgamma = sum dy xhat,
 *     dx = gamma rstd (dy - dbeta / n - xhat dgamma / n).
 * In inference mean and rstd are constants and dx = gamma rstd dy.
 *
 * a) All arithmetic is double and rounded once. A float64 column's mean comes in two
 *    words, so that a large common offset costs nothing, and the rare column whose
 *    squares leave the range of a double has a scale (norm_scale.h).
 * b) cols_: columns are vectorized over; callers lay short dense rows end to end, so
 *    that w is 64 or more. Sums take four rows at a time, for one load and store of an
 *    accumulator. rows_: one column's values lie side by side; sums use LANES lanes.
 *
 * Cost per element: forward 4 operations, one read, one write; sums 5 operations, two
 * reads; gradient 6 operations, two reads, one write.
 */
#include "batch_norm.h"

#include "writer.h"

#define LANES 8

static inline double add_lanes(const double *lane)
{
    double b[4];
    for (int l = 0; l < 4; l++) {
        b[l] = lane[l] + lane[l + 4];
    }
    return (b[0] + b[2]) + (b[1] + b[3]);
}

#define T float
#define KIND 0
#define NAME(x) x##_f32
#define CENTRED(x, m, l, p) ((double)(x) - (m))
#include "batch_norm_body.h"
#undef T
#undef KIND
#undef NAME
#undef CENTRED

#define T double
#define KIND 1
#define NAME(x) x##_f64
#define CENTRED(x, m, l, p) (((x) * (p) - (m)) - (l))
#include "batch_norm_body.h"
#undef T
#undef KIND
#undef NAME
#undef CENTRED

const struct fanin_batch_norm FANIN_AT_LEVEL(fanin_batch_norm) = {
    .cols_apply = {cols_apply_f32, cols_apply_f64},
    .rows_apply = {rows_apply_f32, rows_apply_f64},
    .cols_sums = {cols_sums_f32, cols_sums_f64},
    .rows_sums = {rows_sums_f32, rows_sums_f64},
    .cols_gradient = {cols_gradient_f32, cols_gradient_f64},
    .rows_gradient = {rows_gradient_f32, rows_gradient_f64},
};
