/* From mean and variance to what the loops of a normalization need, at any magnitude.
 *
 * Design. A normalized value is xhat = ((x p - m) - l) r, with m + l the mean in two
 * words and r = 1 / sqrt(var + eps). p is 1 but for data whose squares leave the range
 * of a double: there it is the power of two that brings them back, and m, l and r are
 * those of x p. A product with it is exact. Where var + eps is 0 the data is constant
 * and r is 0, so that xhat is 0.
 */
#ifndef FANIN_NORM_SCALE_H
#define FANIN_NORM_SCALE_H

#include <math.h>

/* r from var + eps: 0 of 0, and NaN of what is no variance. */
static inline double fanin_norm_rstd(double total)
{
    return total > 0.0 ? 1.0 / sqrt(total) : total == 0.0 ? 0.0 : NAN;
}

/* Mean and variance are (mean + lo) 2^e and var 2^2e. */
static inline void fanin_norm_settle(double *m, double *l, double *r, double *p,
                                     double mean, double lo, double var, int e,
                                     double eps)
{
    int least = -2000, down;
    if (e < 0 && eps > 0.0) {
        frexp(eps, &least);     /* eps 2^-2e stays below 2^1000 */
        least = (least - 1000) / 2;
    }
    least = least < -1000 ? -1000 : least;      /* and 2^-e is a double */
    if (e < least) {
        down = e - least;
        mean = ldexp(mean, down);
        lo = ldexp(lo, down);
        var = ldexp(var, 2 * down);
        e = least;
    }
    *m = mean;
    *l = lo;
    *p = ldexp(1.0, -e);
    *r = fanin_norm_rstd(var + (e == 0 ? eps : ldexp(eps, -2 * e)));
}

#endif
