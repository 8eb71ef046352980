/* Increments f(z + d) - f(z) of a network's functions; see increments.c. */
#ifndef FANIN_INCREMENTS_H
#define FANIN_INCREMENTS_H

#include "levels.h"

/* Losses, as increments see them: of values, or of a softmax's row. */
enum {
    FANIN_DELTA_SQUARED,  /* tables: r = z - y */
    FANIN_DELTA_SLOPES,   /* r, slope for r > 0, slope for r < 0 */
    FANIN_DELTA_HUBER,    /* r */
    FANIN_DELTA_POISSON,  /* exp(z), exp(z) - y */
    FANIN_DELTA_LOGIT,    /* p, y, sign */
    FANIN_DELTA_SOFTMAX,  /* p, y, both 0 at `reference` */
};

struct fanin_increments {
    /* t[0], t[stride], t[2 stride] ... = the tables of n arguments z. */
    void (*tables)(double *t, ptrdiff_t stride, const double *z, ptrdiff_t n,
                   int activation, double parameter);
    /* D = f(z + D) - f(z) for rows of increments of the same z. Where the argument
     * passes a kink of f, crossed[row] = 1. */
    void (*activation)(double *D, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                       const double *t, ptrdiff_t stride, int activation,
                       double parameter, unsigned char *crossed);
    /* D[row] = f(z + c[row] w) - f(z): the change of one input, spread by its weights */
    void (*spread)(double *D, ptrdiff_t ld, const double *c, ptrdiff_t rows,
                   const double *w, ptrdiff_t cols, const double *t, ptrdiff_t stride,
                   int activation, double parameter, unsigned char *crossed);
    /* Of that the product with W (cols, outputs), where that is quicker; returns 0, with
     * nothing done, where it does not serve. */
    int (*spread_product)(double *out, const double *c, ptrdiff_t rows, const double *w,
                          ptrdiff_t cols, const double *t, ptrdiff_t stride,
                          int activation, double parameter, const double *W,
                          ptrdiff_t outputs);
    /* Of that the change of a softmax's loss, of p and the targets: the two products
     * (without W the first) and the loss in one. Returns as the one above. */
    int (*spread_softmax)(double *out, const double *c, ptrdiff_t rows, const double *w,
                          ptrdiff_t cols, const double *t, ptrdiff_t stride,
                          int activation, double parameter, const double *W,
                          ptrdiff_t outputs, const double *p, const double *target,
                          double sum, ptrdiff_t reference);
    /* D = normalize(x + D) - normalize(x) of rows, for xhat = normalize(x) and
     * rstd = 1 / sqrt(var + eps); without the mean if not `centred`. */
    void (*norm)(double *D, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                 const double *xhat, double rstd, int centred);
    /* The same of columns: of each of `n` variants the rows i * n + variant, i < m. */
    void (*norm_columns)(double *D, ptrdiff_t ld, ptrdiff_t m, ptrdiff_t n,
                         ptrdiff_t cols, const double *xhat, const double *rstd,
                         double *scratch);
    /* out[row] = the loss of z + D less that of z, summed over the columns. */
    void (*loss)(double *out, const double *D, ptrdiff_t ld, ptrdiff_t rows,
                 ptrdiff_t cols, const double *t, ptrdiff_t stride, double sum,
                 ptrdiff_t reference, int loss, double parameter,
                 unsigned char *crossed);
};

FANIN_DECLARE(increments)

#endif
