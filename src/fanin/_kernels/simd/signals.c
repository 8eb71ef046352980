/* Design: what the columns of a block of activations or gradients are like
 *
 * a) Of each column: the mean, the standard deviation (by n), how many
 *    values are flat (beyond one of two bounds, where an activation's slope is
 *    next to nothing), are exactly zero, are NaN, and the largest magnitude.
 * b) A block has at most 256 rows of 16 columns, 32 KiB: the second loop, which
 *    needs the mean, finds it in the cache that the first has filled. Memory is read
 *    once. Sums are in double, of what is left of the values when a shift is taken off,
 *    the column's first value: an offset of 1e9 times the spread costs no digits. The
 *    deviations' own sum corrects for the rounding of the mean (Chan, Golub & LeVeque
 *    1983, equation 1.7).
 * c) Columns are the lanes of the vectors, so that no sum crosses lanes. Counts are
 *    kept in the type of the values, where they stay below 2^24.
 * d) Squares of doubles may overflow or underflow. That shows in the sum, and such a
 *    column of a block is computed again by powers of two. The deviation itself is in
 *    range, as its square would not be.
 * e) A NaN is not flat and not zero, and makes mean and deviation NaN; nothing is flat
 *    beyond a bound that is NaN.
 *
 * Cost: some ten operations for each value, read once.
 */
#include "signals.h"

#include <math.h>

#define COLS FANIN_SIGNAL_COLS
/* Where a sum of squares has all its digits, with room for terms of 2^-53 of it. */
#define SMALLEST 1e-280
#define LARGEST 1e300

#define T float
#define ROUTINE(name) name##_f32
#include "signals_body.h"
#undef T
#undef ROUTINE

#define T double
#define ROUTINE(name) name##_f64
#include "signals_body.h"

const struct fanin_signals FANIN_AT_LEVEL(fanin_signals) = {
    .f32 = block_f32, .f64 = block_f64,
};
