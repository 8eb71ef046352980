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

enum { FANIN_LINE = 16 }; /* changes that line_softmax may take at once */

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
    /* Along a line, see (d): q[0], q[stride], q[2 stride] from the tables t. */
    void (*cubics)(double *q, ptrdiff_t stride, const double *t, ptrdiff_t t_stride,
                   ptrdiff_t n, int activation, double parameter);
    double (*largest)(const double *x, ptrdiff_t n); /* of |x|; NaN counts not */
    /* The factor s between a change c and the line's x. */
    double (*line_scale)(const double *w, ptrdiff_t n);
    /* Below which |x| the cubics hold. */
    double (*line_reach)(const double *z, const double *w, ptrdiff_t n, double scale,
                         int activation);
    /* G[p stride] = q_p (w / s)^(p + 1), p < order: 1 or 3. */
    void (*line_powers)(double *G, ptrdiff_t stride, const double *q,
                        ptrdiff_t q_stride, const double *w, ptrdiff_t n, double scale,
                        int order);
    /* out[row] = the cubics P[p stride] of c[row]. */
    void (*line_rows)(double *out, const double *c, ptrdiff_t rows, double scale,
                      const double *P, ptrdiff_t stride, ptrdiff_t outputs, int order);
    /* out[row] = the change of a softmax's loss, of p and the targets, for cubics less
     * that of the reference. `c` and `out` have room for a multiple of FANIN_LINE. */
    void (*line_softmax)(double *out, const double *c, ptrdiff_t rows, double scale,
                         const double *P, ptrdiff_t stride, ptrdiff_t outputs,
                         int order, const double *p, const double *target, double sum);
    /* Below which |x| those hold. */
    double (*line_limit)(const double *P, ptrdiff_t stride, ptrdiff_t outputs,
                         int order);
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
