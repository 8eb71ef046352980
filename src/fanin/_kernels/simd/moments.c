/* Design: mean and squared deviations of a block, and the merging of two
 *
 * a) Shifted data with a correction (Chan, Golub & LeVeque 1983, "Algorithms for
 *    computing the sample variance", eq. 1.6 and 1.7). A pilot c, the mean of the
 *    block's first rows, then one pass: S = sum (x - c), Q = sum (x - c)^2; and
 *        mean = c + S/n,    M2 = Q - S^2/n.
 *    c is rounded to a double, so x - c is exact or nearly so however large the
 *    common offset is, and c + S/n is kept as two words, hi + lo: the mean is known
 *    to a fraction of the spread, not merely of the offset. The subtraction cancels
 *    only if c is far from the mean: S^2/n > PILOT_LIMIT M2 would lose a digit. Then
 *    the block, still in cache, is passed over again with the pilot c + S/n. (Rows in
 *    no order have S^2/n = M2 / PILOT_ROWS or so.)
 * b) The pilot of float64 sums x - x0, where x0 is the block's first row: constants
 *    come out exactly and large offsets do not cancel. float32 rows are summed as they
 *    are: 29 spare bits hold the sum of a block's constants exactly.
 * c) Merging (their eq. 2.1, for unequal sizes), d = mean_b - mean_a, n = n_a + n_b:
 *        mean = mean_a + d n_b/n,    M2 = M2_a + M2_b + d^2 n_a n_b/n,
 *    with the mean in two words and M2 with the rounding errors of its additions
 *    (Knuth's two-sum), so that thousands of blocks cost no digits.
 * d) Compute fast, look at the result, redo the rare column. A NaN or infinity, or
 *    squares that overflow, leave a sum that is not finite; squares that underflow
 *    leave a tiny one with a tiny mean. Such columns are computed again by
 *    careful_cols: it leaves NaN out, scales by a power of two so that the largest
 *    magnitude is in [1/2, 1), and stores the exponent with the result.
 * e) Columns are vectorized over (x's rows are contiguous). Narrow contiguous
 *    matrices are read as `stack` rows laid end to end, and the sums folded.
 *
 * Cost: one read of memory, 4 operations per element. Prefetching (stream.h) keeps
 * the reading and the computing side by side.
 */
#include "moments.h"
#include "stream.h"

#include <math.h>
#include <string.h>

/* Marks in state.e while a block is in the works. */
#define STATE_REDO INT32_MIN
#define STATE_DONE INT32_MAX

/* Below both of these squares may have been lost to underflow. If |mean| >= TINY_MEAN,
 * a deviation other than 0 is at least an ulp of it and its square is in range. */
#define TINY_MEAN 1e-100
#define TINY_M2 1e-200
#define HUGE_M2 1e290

/* Rows of a pilot, and how far from the mean it may be: (c - mean)^2 against the
 * variance. A linear trend has 3. */
#define PILOT_ROWS 16
#define PILOT_LIMIT 4.0

/* A value's scaled distance from `s`; a NaN counts for nothing. */
#define KNOWN(x, scale, s) \
    ((double)(x) == (double)(x) ? (double)(x) * (scale) - (s) : 0.0)

static void fill(double *a, ptrdiff_t n, double value)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] = value;
    }
}

static void fold(double *a, ptrdiff_t cols, ptrdiff_t stack)
{
    for (ptrdiff_t k = 1; k < stack; k++) {
        for (ptrdiff_t c = 0; c < cols; c++) {
            a[c] += a[k * cols + c];
        }
    }
}

static void repeat(double *a, ptrdiff_t cols, ptrdiff_t stack)
{
    for (ptrdiff_t i = cols; i < cols * stack; i++) {
        a[i] = a[i - cols];
    }
}

static double add_lanes(const double *lane)
{
    double a[8];
    for (int l = 0; l < 8; l++) {
        a[l] = lane[l] + lane[l + 8];
    }
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

/* hi + lo = a + b exactly. The difference is written so that no compiler that obeys
 * C's rules can simplify it; FP contraction has no product to work on. */
static inline void two_sum(double a, double b, double *hi, double *lo)
{
    double s = a + b, t = s - a;
    *hi = s;
    *lo = (a - (s - t)) + (b - t);
}

/* The state from an approximate mean and the sums around it, marking in `e` what has
 * to be redone; returns how many. */
static ptrdiff_t finish_fast(fanin_state out, const double *FANIN_RESTRICT mean,
                             const double *FANIN_RESTRICT sum,
                             const double *FANIN_RESTRICT square, double count,
                             ptrdiff_t cols, int underflow)
{
    int64_t marks = 0;
    for (ptrdiff_t c = 0; c < cols; c++) {
        double part = sum[c] / count;
        double hi, lo, m2 = square[c] - sum[c] * part;
        two_sum(mean[c], part, &hi, &lo);
        int64_t redo = (!(square[c] <= HUGE_M2))
                   | (underflow & (square[c] < TINY_M2) & (fabs(hi) < TINY_MEAN));
        out.n[c] = count;
        out.hi[c] = hi;
        out.lo[c] = lo;
        out.m2[c] = m2 > 0.0 ? m2 : 0.0;
        out.m2l[c] = 0.0;
        out.e[c] = redo ? STATE_REDO : 0;
        marks += redo;
    }
    return (ptrdiff_t)marks;
}

/* Move the pilots that turned out too far from the mean; returns how many. */
static ptrdiff_t improve_pilot(double *FANIN_RESTRICT mean,
                               const double *FANIN_RESTRICT sum,
                               const double *FANIN_RESTRICT square, double count,
                               ptrdiff_t cols)
{
    int64_t moved = 0;
    for (ptrdiff_t c = 0; c < cols; c++) {
        double part = sum[c] / count, lost = sum[c] * part;
        int64_t far = lost > PILOT_LIMIT * (square[c] - lost);
        mean[c] += far ? part : 0.0;
        moved += far;
    }
    return (ptrdiff_t)moved;
}

/* A column of which count, largest and smallest are known: finished here if it is
 * empty, constant or infinite (e = STATE_DONE), else its scale and shift. */
static ptrdiff_t state_from_range(fanin_state out, double n, double top, double low,
                                  double *scale, double *shift)
{
    *out.n = n;
    *out.lo = *out.m2l = *out.m2 = 0.0;
    *scale = 1.0;
    *shift = 0.0;
    *out.e = STATE_DONE;
    if (n == 0.0) {
        *out.hi = 0.0;
        return 0;
    }
    if (isinf(top) || isinf(low)) {
        *out.hi = isinf(top) && isinf(low) ? top + low : isinf(top) ? top : low;
        *out.m2 = NAN;
        return 0;
    }
    if (top == low) {
        *out.hi = top;
        return 0;
    }
    int e;
    frexp(fabs(top) > fabs(low) ? top : low, &e);
    e = e < -1000 ? -1000 : e;      /* 2^1000 is still a double */
    *scale = ldexp(1.0, -e);
    *shift = top * *scale;
    *out.e = e;
    return 1;
}

static void state_from_sums(fanin_state out, double mean, double sum, double square)
{
    double part = sum / *out.n, m2 = square - sum * part;
    two_sum(mean, part, out.hi, out.lo);
    *out.m2 = m2 > 0.0 ? m2 : 0.0;
    if (*out.e > -300 && *out.e < 300) {     /* ordinary magnitudes: no exponent */
        *out.hi = ldexp(*out.hi, *out.e);
        *out.lo = ldexp(*out.lo, *out.e);
        *out.m2 = ldexp(*out.m2, 2 * *out.e);
        *out.e = 0;
    }
}

#define T float
#define NAME(x) x##_f32
#define SHIFTED 0
#include "moments_body.h"
#undef T
#undef NAME
#undef SHIFTED

#define T double
#define NAME(x) x##_f64
#define SHIFTED 1
#include "moments_body.h"
#undef T
#undef NAME
#undef SHIFTED

/* The merge formula on numbers in range. */
static inline void merge_formula(double *n, double *hi, double *lo, double *m2,
                                 double *m2l, double na, double ha, double la,
                                 double qa, double ra, double nb, double hb, double lb,
                                 double qb, double rb)
{
    double total = na + nb, weight = nb / total;
    double d = (hb - ha) + (lb - la);
    double sum, error, square, lost, more, lost2;
    two_sum(ha, d * weight, &sum, &error);
    error += la;
    *n = total;
    *hi = sum + error;
    *lo = error - (*hi - sum);
    two_sum(qa, qb, &square, &lost);
    more = d * (d * (na * weight));
    two_sum(square, more, &square, &lost2);
    *m2 = square;
    *m2l = (ra + rb) + (lost + lost2);
}

static int exponent_of(double value, int e, int half)
{
    int own;
    if (value == 0.0) {
        return -5000;
    }
    frexp(value, &own);
    return e + (half ? (own + 1) / 2 : own);
}

/* One column with empty sides, exponents, infinities or results out of range. */
static void merge_careful(fanin_state a, fanin_state b)
{
    if (*b.n == 0.0) {
        return;
    }
    if (*a.n == 0.0) {
        *a.n = *b.n, *a.hi = *b.hi, *a.lo = *b.lo;
        *a.m2 = *b.m2, *a.m2l = *b.m2l, *a.e = *b.e;
        return;
    }
    if (isnan(*a.m2) || isnan(*b.m2)) {
        /* An infinity on either side: the mean is the infinite sum, or NaN. */
        *a.hi = isnan(*a.m2) && isnan(*b.m2) ? *a.hi + *b.hi
                : isnan(*a.m2)               ? *a.hi
                                             : *b.hi;
        *a.n += *b.n;
        *a.lo = *a.m2l = 0.0;
        *a.m2 = NAN;
        *a.e = 0;
        return;
    }
    int e = exponent_of(*a.hi, *a.e, 0), other = exponent_of(*b.hi, *b.e, 0);
    e = other > e ? other : e;
    other = exponent_of(*a.m2, *a.e, 1);
    e = other > e ? other : e;
    other = exponent_of(*b.m2, *b.e, 1);
    e = other > e ? other : e;
    if (e == -5000) {       /* zeros only */
        *a.n += *b.n;
        return;
    }
    e = e < -1000 ? -1000 : e;
    int p = *a.e - e, q = *b.e - e;
    merge_formula(a.n, a.hi, a.lo, a.m2, a.m2l, *a.n, ldexp(*a.hi, p), ldexp(*a.lo, p),
                  ldexp(*a.m2, 2 * p), ldexp(*a.m2l, 2 * p), *b.n, ldexp(*b.hi, q),
                  ldexp(*b.lo, q), ldexp(*b.m2, 2 * q), ldexp(*b.m2l, 2 * q));
    *a.e = e;
    if (e > -300 && e < 300) {
        *a.hi = ldexp(*a.hi, e);
        *a.lo = ldexp(*a.lo, e);
        *a.m2 = ldexp(*a.m2, 2 * e);
        *a.m2l = ldexp(*a.m2l, 2 * e);
        *a.e = 0;
    }
}

#define CHUNK 128

/* Whether a merged column is out of range, or one of its sides empty. */
static inline int64_t out_of_range(double na, double ha, double nb, double hb, double h,
                                   double q)
{
    return (na == 0.0) | (nb == 0.0) | (!(q <= HUGE_M2))
           | ((q < TINY_M2) & (fabs(h) < TINY_MEAN)
              & ((ha != 0.0) | (hb != 0.0) | (q != 0.0)));
}

static void merge(fanin_state a, fanin_state b, ptrdiff_t n)
{
    double cn[CHUNK], ch[CHUNK], cl[CHUNK], cq[CHUNK], cr[CHUNK];
    for (ptrdiff_t start = 0; start < n; start += CHUNK) {
        ptrdiff_t size = n - start < CHUNK ? n - start : CHUNK;
        double *FANIN_RESTRICT an = a.n + start, *FANIN_RESTRICT ah = a.hi + start;
        double *FANIN_RESTRICT al = a.lo + start, *FANIN_RESTRICT aq = a.m2 + start;
        double *FANIN_RESTRICT ar = a.m2l + start;
        const double *FANIN_RESTRICT bn = b.n + start, *FANIN_RESTRICT bh = b.hi + start;
        const double *FANIN_RESTRICT bl = b.lo + start, *FANIN_RESTRICT bq = b.m2 + start;
        const double *FANIN_RESTRICT br = b.m2l + start;
        const int32_t *FANIN_RESTRICT ae = a.e + start, *FANIN_RESTRICT be = b.e + start;
        int64_t bad = 0;
        int32_t exponents = 0;
        for (ptrdiff_t c = 0; c < size; c++) {
            merge_formula(&cn[c], &ch[c], &cl[c], &cq[c], &cr[c], an[c], ah[c], al[c],
                          aq[c], ar[c], bn[c], bh[c], bl[c], bq[c], br[c]);
        }
        for (ptrdiff_t c = 0; c < size; c++) {
            bad += out_of_range(an[c], ah[c], bn[c], bh[c], ch[c], cq[c]);
        }
        for (ptrdiff_t c = 0; c < size; c++) {
            exponents |= ae[c] | be[c];
        }
        if (bad == 0 && exponents == 0) {
            memcpy(an, cn, sizeof *cn * (size_t)size);
            memcpy(ah, ch, sizeof *ch * (size_t)size);
            memcpy(al, cl, sizeof *cl * (size_t)size);
            memcpy(aq, cq, sizeof *cq * (size_t)size);
            memcpy(ar, cr, sizeof *cr * (size_t)size);
            continue;
        }
        for (ptrdiff_t c = 0; c < size; c++) {
            if (out_of_range(an[c], ah[c], bn[c], bh[c], ch[c], cq[c])
                || (ae[c] | be[c]) != 0) {
                merge_careful(fanin_state_at(a, start + c), fanin_state_at(b, start + c));
            } else {
                an[c] = cn[c], ah[c] = ch[c], al[c] = cl[c], aq[c] = cq[c];
                ar[c] = cr[c];
            }
        }
    }
}

const struct fanin_moments FANIN_AT_LEVEL(fanin_moments) = {
    .cols_f32 = cols_f32,
    .cols_f64 = cols_f64,
    .rows_f32 = rows_f32,
    .rows_f64 = rows_f64,
    .merge = merge,
};
