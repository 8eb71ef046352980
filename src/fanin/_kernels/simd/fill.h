/* Random numbers by index: Philox words made into weights (fill.c). */
#ifndef FANIN_FILL_H
#define FANIN_FILL_H

#include "levels.h"

enum { FANIN_UNIFORM = 0, FANIN_NORMAL = 1, FANIN_TRUNCATED = 2 };

/* One group is what 64 consecutive counters give: 256 words, 1024 bytes, that is
 * 256 float32 or 128 float64 values. */
#define FANIN_LANES 64

/* Write groups first, ..., first + n_groups - 1 of the stream to `out`, which has
 * room for all of them and the alignment of its type. */
typedef void (*fanin_fill_groups)(void *out, ptrdiff_t n_groups, uint64_t first,
                                  const uint32_t *key, double scale);

struct fanin_fill {
    /* out[4][64]: word j of the counters first, ..., first + 63. */
    void (*philox4x32)(uint32_t *out, uint64_t first, const uint32_t *key);
    fanin_fill_groups f32[3], f64[3];   /* by distribution */
};

FANIN_DECLARE(fill)
#define FANIN_SELECT_FILL(level) FANIN_SELECT(fill, level)

#endif
