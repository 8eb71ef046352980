/* Design: y := (x - mean) / std, element by element
 *
 * a) float32: y = (x - mean) * (1 / std) in double, rounded once to float. Two
 *    roundings of 2^-53 before the one of 2^-24: correctly rounded but for ties.
 *    `std` holds 1 / std here. The mean's second word is below that.
 * b) float64: y = ((x - mean_hi) - mean_lo) / std with a true division. The first
 *    difference is exact where x is near the mean, so a large common offset costs
 *    nothing; the loop waits for memory, not for the divider.
 * c) With `scale`, a power of two p (exact): ((x p - mean_hi) - mean_lo) / std, for
 *    columns whose x - mean or 1 / std would leave the range of a double. Arrays
 *    here hold the mean and the standard deviation of x p.
 * d) Inverse: y = x std + mean in double.
 * e) Large arrays are read ahead of the cache and written past it, see stream.h, by
 *    chunks of four lines; that is what brings one read and one write down to the
 *    time of a copy.
 *
 * Cost: one read and one write of memory; 2 operations (float32), 3 (float64).
 */
#include "normalize.h"
#include "stream.h"

#define T float
#define NAME(x) x##_f32
#define APPLY(x, hi, lo, std) (float)(((double)(x) - (hi)) * (std))
#include "normalize_body.h"
#undef T
#undef NAME
#undef APPLY

#define T double
#define NAME(x) x##_f64
#define APPLY(x, hi, lo, std) ((((x) - (hi)) - (lo)) / (std))
#include "normalize_body.h"
#undef T
#undef NAME
#undef APPLY

const struct fanin_normalize FANIN_AT_LEVEL(fanin_normalize) = {
    .cols_f32 = cols_f32,
    .cols_f64 = cols_f64,
    .rows_f32 = rows_f32,
    .rows_f64 = rows_f64,
};
