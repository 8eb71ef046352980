/* Design: mean and squared deviations of a block, and the merging of two
 *
 * a) Shifted data with a correction (Chan, Golub & LeVeque 1983, "Algorithms for
 *    computing the sample variance", eq. 1.6 and 1.7). A pilot c, the mean of the
 *    block's first and last rows, then one pass: S = sum (x - c), Q = sum (x - c)^2,
 *    and
 *        mean = c + S/n,    M2 = Q - S^2/n.
 *    c is rounded to a double, so x - c is exact or nearly so however large the
 *    common offset is, and c + S/n is kept as two words, hi + lo: the mean is known
 *    to a fraction of the spread, not merely of the offset. The subtraction cancels
 *    only if c is far from the mean. If S^2/n > PILOT_LIMIT M2 the block, still in
 *    cache, is passed over again with the pilot c + S/n. (Rows in no order have
 *    S^2/n = M2 / 16 or so; a linear trend has 0, for which the pilot is taken from
 *    both ends.) Below the limit, k additions in a row lose at most
 *    k 2^-53 (1 + L + 2 sqrt(L (1 + L))) of M2, L = 2, and k is 50 or less; equal
 *    values, whose rounding errors add up, have come to a quarter of that.
 * b) The pilot of float64 sums x - x0, where x0 is the block's first row: constants
 *    come out exactly and large offsets do not cancel. float32 rows are summed as they
 *    are: 29 spare bits hold the sum of a block's constants exactly.
 * c) Merging (their eq. 2.1, for unequal sizes), d = mean_b - mean_a, n = n_a + n_b:
 *        mean = mean_a + d n_b/n,    M2 = M2_a + M2_b + d^2 n_a n_b/n,
 *    with the mean in two words and M2 with the rounding errors of its additions
 *    (Knuth's two-sum), so that thousands of blocks cost no digits. The mean is
 *    reached from that of the heavier side, mean_b - d n_a/n if n_a < n_b: the step
 *    is small then, and with it its rounding error, also after an outlier.
 * d) Compute fast, look at the result, redo the rare column. A NaN or infinity, or
 *    squares that overflow, leave a sum that is not finite; squares that underflow
 *    leave a tiny one with a tiny mean. Such columns are computed again by
 *    careful_cols: it leaves NaN out, scales by a power of two so that the largest
 *    magnitude is in [1/2, 1), and stores the exponent with the result.
 * e) Columns are vectorized over (x's rows are contiguous). Narrow contiguous
 *    matrices are read as `stack` rows laid end to end, and the sums folded.
 * f) Weights: the same sums with w in front, n = sum w. (West 1979, "Updating mean and
 *    variance estimates: an improved method", is the merge with n_b = w.) A sum of
 *    weights is rounded where a count is not, so n has a second word; and rows are
 *    taken 32 at a time, in blocks of at most 1,024, so that no more than 64 additions
 *    follow each other; two passes leave them no cancellation. A product is (w d) d: a
 *    row of weight 0 counts for nothing unless d is NaN or infinite, and then the
 *    column is redone by weighted_careful, which passes over such rows. Weights near
 *    the ends of a double's range are scaled by a power of two of their own.
 *
 * Cost: one read of memory, 4 operations per element; with weights 8, in two passes,
 * the second from cache. Prefetching (stream.h) keeps the reading and the computing
 * side by side.
 */
#include "moments.h"
#include "stream.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Marks in state.e while a block is in the works. */
#define STATE_REDO INT32_MIN
#define STATE_DONE INT32_MAX

/* Below both of these squares may have been lost to underflow. If |mean| >= TINY_MEAN,
 * a deviation other than 0 is at least an ulp of it and its square is in range. */
#define TINY_MEAN 1e-100
#define TINY_M2 1e-200
#define HUGE_M2 1e290
/* Sums of weights outside of these, and smaller weights, are scaled. A mean of
 * TINY_MEAN has an ulp of 1e-116, whose square times LEAST_WEIGHT is in range. */
#define LEAST_WEIGHT 1e-30
#define MOST_WEIGHT 1e30

/* Rows of a pilot from either end of the block, and how far from the mean it may be:
 * (c - mean)^2 against the variance. */
#define PILOT_ROWS 8
#define PILOT_LIMIT 2.0

/* Values of a contiguous column that go into one sum. */
#define STRETCH 512

/* A value's scaled distance from `s`; a NaN counts for nothing. */
#define KNOWN(x, scale, s) \
    ((double)(x) == (double)(x) ? (double)(x) * (scale) - (s) : 0.0)

static void fill(double *a, ptrdiff_t n, double value)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] = value;
    }
}

/* Add up rows laid end to end, by halves: few additions in a row. */
static void fold(double *a, ptrdiff_t cols, ptrdiff_t stack)
{
    while (stack > 1) {
        ptrdiff_t half = stack / 2, kept = stack - half;
        for (ptrdiff_t i = 0; i < half * cols; i++) {
            a[i] += a[kept * cols + i];
        }
        stack = kept;
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

/* Store a mean of (hi + lo) 2^e and an M2 of (m2 + m2l) 2^2g with one exponent f, so
 * that M2, M2 / n and the mean are in range; out.n is known. f is 0 for ordinary
 * numbers, else such that M2 and M2 / n lie equally far from 1. */
static void state_store(fanin_state out, double hi, double lo, double m2, double m2l,
                        int e, int g)
{
    int f = 0, q, n;
    if (m2 == 0.0) {
        g = 0;
    } else {
        frexp(m2, &q);
        frexp(*out.n, &n);
        q += 2 * g;
        if (abs(q) > 900 || abs(q - n) > 900) {
            f = (2 * q - n) / 4;
            f = f < e - 1000 ? e - 1000 : f;
            f = f < -1000 ? -1000 : f > 1040 ? 1040 : f;    /* 2^-f is a double */
        }
    }
    *out.hi = ldexp(hi, e - f);
    *out.lo = ldexp(lo, e - f);
    *out.m2 = ldexp(m2, 2 * (g - f));
    *out.m2l = ldexp(m2l, 2 * (g - f));
    *out.e = f;
}

/* Half the exponent of a number that 2^-2k brings near 1; 0 for ordinary ones. */
static int half_exponent(double value)
{
    int e;
    if (value >= LEAST_WEIGHT && value <= MOST_WEIGHT) {
        return 0;
    }
    frexp(value, &e);
    return e < -1000 ? -500 : e / 2;        /* 2^1000 is still a double */
}

static fanin_weights weights(const double *weight, ptrdiff_t rows)
{
    fanin_weights u = {weight, 0.0, 0.0, 0, 0};
    double sum[8] = {0}, lost[8] = {0}, least[8], smallest = INFINITY;
    fill(least, 8, INFINITY);
    for (ptrdiff_t i = 0; i < rows; i += 8) {
        double tail[8] = {0};
        const double *w = weight + i;
        if (rows - i < 8) {
            memcpy(tail, w, sizeof *w * (size_t)(rows - i));
            w = tail;
        }
        for (int l = 0; l < 8; l++) {
            double s, e, positive = w[l] > 0.0 ? w[l] : INFINITY;
            two_sum(sum[l], w[l], &s, &e);
            sum[l] = s;
            lost[l] += e;
            least[l] = positive < least[l] ? positive : least[l];
        }
    }
    for (int l = 0; l < 8; l++) {
        double s, e;
        two_sum(u.n, sum[l], &s, &e);
        u.n = s;
        u.nl += lost[l] + e;
        smallest = least[l] < smallest ? least[l] : smallest;
    }
    two_sum(u.n, u.nl, &u.n, &u.nl);
    u.ordinary = smallest >= LEAST_WEIGHT && u.n > 0.0 && u.n <= MOST_WEIGHT;
    while (u.ordinary && weight[u.first] == 0.0) {
        u.first++;
    }
    return u;
}

/* As finish_fast. */
static ptrdiff_t weighted_finish(fanin_state out, const double *FANIN_RESTRICT mean,
                                 const double *FANIN_RESTRICT sum,
                                 const double *FANIN_RESTRICT square, fanin_weights u,
                                 ptrdiff_t cols, int underflow)
{
    int64_t marks = 0;
    for (ptrdiff_t c = 0; c < cols; c++) {
        double part = sum[c] / u.n;
        double hi, lo, m2 = square[c] - sum[c] * part;
        two_sum(mean[c], part, &hi, &lo);
        int64_t redo = (!(square[c] <= HUGE_M2))
                       | (underflow & (square[c] < TINY_M2) & (fabs(hi) < TINY_MEAN));
        out.n[c] = u.n;
        out.nl[c] = u.nl;
        out.miss[c] = 0.0;
        out.hi[c] = hi;
        out.lo[c] = lo;
        out.m2[c] = m2 > 0.0 ? m2 : 0.0;
        out.m2l[c] = 0.0;
        out.e[c] = redo ? STATE_REDO : 0;
        marks += redo;
    }
    return (ptrdiff_t)marks;
}

/* How many rows are summed before their sum is added to that of the others, and how
 * many columns are redone at a time. */
#define WEIGHTED_ROWS 32
#define CAREFUL_COLUMNS 256

/* total += part, which is cleared. */
static void flush(double *FANIN_RESTRICT total, double *FANIN_RESTRICT part, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        total[i] += part[i];
        part[i] = 0.0;
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
    double total = na + nb, small = na < nb ? na : nb, weight = small / total;
    double d = (hb - ha) + (lb - la), step = d * weight;
    double sum, error, square, lost, more, lost2;
    two_sum(na < nb ? hb : ha, na < nb ? -step : step, &sum, &error);
    error += na < nb ? lb : la;
    *n = total;
    *hi = sum + error;
    *lo = error - (*hi - sum);
    two_sum(qa, qb, &square, &lost);
    more = d * (d * ((na < nb ? nb : na) * weight));
    two_sum(square, more, &square, &lost2);
    *m2 = square;
    *m2l = (ra + rb) + (lost + lost2);
}

#define NO_EXPONENT (-5000)      /* below any that occurs */

/* g such that |value| 2^e is 2^g to a factor of 2; half of g, if `root`. */
static int exponent_of(double value, int e, int root)
{
    int own;
    if (value == 0.0) {
        return NO_EXPONENT;
    }
    frexp(value, &own);
    return e + (root ? (own + 1) / 2 : own);
}

static int larger(int a, int b) { return a > b ? a : b; }

/* One column with empty sides, exponents, infinities or results out of range. */
static void merge_careful(fanin_state a, fanin_state b)
{
    if (isnan(*a.m2) || isnan(*b.m2)) {
        /* An infinity on either side: the mean is the infinite sum, or NaN. (Or a NaN
         * that was to spread; then n may be 0.) */
        *a.hi = isnan(*a.m2) && isnan(*b.m2) ? *a.hi + *b.hi
                : isnan(*a.m2)               ? *a.hi
                                             : *b.hi;
        *a.n += *b.n;
        *a.lo = *a.m2l = 0.0;
        *a.m2 = NAN;
        *a.e = 0;
        return;
    }
    if (*b.n == 0.0) {
        return;
    }
    if (*a.n == 0.0) {
        *a.n = *b.n, *a.hi = *b.hi, *a.lo = *b.lo;
        *a.m2 = *b.m2, *a.m2l = *b.m2l, *a.e = *b.e;
        return;
    }
    int e = larger(exponent_of(*a.hi, *a.e, 0), exponent_of(*b.hi, *b.e, 0));
    double ha = ldexp(*a.hi, *a.e - e), hb = ldexp(*b.hi, *b.e - e);
    double la = ldexp(*a.lo, *a.e - e), lb = ldexp(*b.lo, *b.e - e);
    /* n_a n_b / n, times 2^-2k. */
    double na = *a.n, nb = *b.n, total = na + nb;
    double small = na < nb ? na : nb, large = na < nb ? nb : na;
    int k = half_exponent(small);
    double share = ldexp(small, -2 * k) * (large / total);
    double d = (hb - ha) + (lb - la), sum, error, square, lost, more, lost2;
    /* M2 in units of 2^2g. */
    int g = larger(exponent_of(*a.m2, *a.e, 1), exponent_of(*b.m2, *b.e, 1));
    g = larger(g, exponent_of(d, e + k, 0));
    double step = d * (small / total);
    two_sum(na < nb ? hb : ha, na < nb ? -step : step, &sum, &error);
    error += na < nb ? lb : la;
    ha = sum + error;
    la = error - (ha - sum);
    *a.n = total;
    if (g == NO_EXPONENT) {      /* equal constants */
        state_store(a, ha, la, 0.0, 0.0, e, 0);
        return;
    }
    d = ldexp(d, e + k - g);
    more = d * (d * share);
    two_sum(ldexp(*a.m2, 2 * (*a.e - g)), ldexp(*b.m2, 2 * (*b.e - g)), &square, &lost);
    double rest = ldexp(*a.m2l, 2 * (*a.e - g)) + ldexp(*b.m2l, 2 * (*b.e - g));
    two_sum(square, more, &square, &lost2);
    state_store(a, ha, la, square, rest + (lost + lost2), e, g);
}

#define CHUNK 128

/* Whether a merged column is out of range, or one of its sides empty. */
static inline int64_t out_of_range(double na, double ha, double nb, double hb, double h,
                                   double q)
{
    return (na < LEAST_WEIGHT) | (nb < LEAST_WEIGHT) | (!(na + nb <= MOST_WEIGHT))
           | (!(q <= HUGE_M2))
           | ((q < TINY_M2) & (fabs(h) < TINY_MEAN)
              & ((ha != 0.0) | (hb != 0.0) | (q != 0.0)));
}

static void merge_columns(fanin_state a, fanin_state b, ptrdiff_t n)
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

static void merge(fanin_state a, fanin_state b, ptrdiff_t n)
{
    if (a.nl == NULL) {
        merge_columns(a, b, n);
        return;
    }
    double na[CHUNK];
    for (ptrdiff_t start = 0; start < n; start += CHUNK) {
        ptrdiff_t size = n - start < CHUNK ? n - start : CHUNK;
        fanin_state to = fanin_state_at(a, start), from = fanin_state_at(b, start);
        memcpy(na, to.n, sizeof *na * (size_t)size);
        merge_columns(to, from, size);
        for (ptrdiff_t c = 0; c < size; c++) {
            double sum, error;
            two_sum(na[c], from.n[c], &sum, &error);
            error += to.nl[c] + (from.nl == NULL ? 0.0 : from.nl[c]);
            to.n[c] = sum + error;
            to.nl[c] = error - (to.n[c] - sum);
        }
        for (ptrdiff_t c = 0; to.miss != NULL && from.miss != NULL && c < size; c++) {
            to.miss[c] += from.miss[c];
        }
    }
}

const struct fanin_moments FANIN_AT_LEVEL(fanin_moments) = {
    .cols_f32 = cols_f32,
    .cols_f64 = cols_f64,
    .rows_f32 = rows_f32,
    .rows_f64 = rows_f64,
    .weights = weights,
    .weighted_cols_f32 = weighted_cols_f32,
    .weighted_cols_f64 = weighted_cols_f64,
    .weighted_rows_f32 = weighted_rows_f32,
    .weighted_rows_f64 = weighted_rows_f64,
    .merge = merge,
};
