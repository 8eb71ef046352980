/* Design: what the columns of a block of activations or gradients are like
 *
 * a) Of each column: the mean, the sum of squared deviations from it, how many
 *    values are flat (beyond one of two bounds, where an activation's slope is next
 *    to nothing), how many are exactly zero, and the largest magnitude.
 * b) A block has at most 256 rows of 16 columns, 32 KiB: the second loop, which
 *    needs the mean, finds it in the cache that the first has filled. Memory is read
 *    once. Sums are in double. The deviations' own sum corrects for the rounding of
 *    the mean (Chan, Golub & LeVeque 1983, equation 1.7).
 * c) Columns are the lanes of the vectors, so that no sum crosses lanes. Counts are
 *    kept in the type of the values, where they stay below 2^24.
 * d) A NaN is not flat, is not zero and makes the mean NaN; `largest` then says
 *    nothing.
 *
 * Cost: some ten operations for each value, read once.
 */
#include "signals.h"

#include <string.h>

#define COLS FANIN_SIGNAL_COLS

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
