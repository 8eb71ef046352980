/* What the columns of a block are like (signals.c). */
#ifndef FANIN_SIGNALS_H
#define FANIN_SIGNALS_H

#include "levels.h"

enum {
    FANIN_SIGNAL_ROWS = 256,    /* at most, of a block */
    FANIN_SIGNAL_COLS = 16,
    FANIN_SIGNAL_STATS = 6      /* mean, std, flat, zero, largest, nan */
};

/* Of n <= 16 columns of `rows` <= 256 rows: out[s * 16 + j] is statistic s of column
 * j: mean less shift[j], standard deviation, counts, largest magnitude. A
 * value counts as flat if that in B at its place is <= low or >= high. */
struct fanin_signals {
    void (*f32)(double *out, const float *A, ptrdiff_t ld, const float *B,
                ptrdiff_t ldb, ptrdiff_t rows, ptrdiff_t n, double low, double high,
                const double *shift);
    void (*f64)(double *out, const double *A, ptrdiff_t ld, const double *B,
                ptrdiff_t ldb, ptrdiff_t rows, ptrdiff_t n, double low, double high,
                const double *shift);
};

FANIN_DECLARE(signals)
#define FANIN_SELECT_SIGNALS(level) FANIN_SELECT(signals, level)

#endif
