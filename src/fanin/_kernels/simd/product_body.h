/* The loops of product.c for one element type: T, NAME(x), INDEX of T's size.
 * No include guard: product.c includes this file once per type. */

#define WIDTH ((ptrdiff_t)(BYTES / sizeof(T)))
#define VECTOR NAME(vector)
#define INDICES NAME(indices)

typedef T VECTOR __attribute__((vector_size(BYTES)));
typedef INDEX INDICES __attribute__((vector_size(BYTES)));

#ifndef MASK
#define MASK INDICES
#endif

/* Of the first n numbers of a register, of all if n is more. */
static inline MASK NAME(mask)(ptrdiff_t n)
{
#if BYTES == 64
    return (MASK)(n < WIDTH ? (1u << n) - 1 : ~0u);
#else
    MASK mask;
    for (int i = 0; i < WIDTH; i++) {
        mask[i] = i < n ? -1 : 0;
    }
    return mask;
#endif
}

static inline VECTOR NAME(load)(const T *from)
{
    VECTOR v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void NAME(store)(T *to, VECTOR v)
{
    memcpy(to, &v, sizeof v);
}

/* R rows by N registers of C, of the last one so many numbers as `mask` says; R, N and
 * FIRST are constants where this is inlined. A FIRST tile reads B itself, any others
 * the panel: a copy of those columns without gaps, which a FIRST one of all rows makes. */
static inline __attribute__((always_inline)) void NAME(tile)(
    T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row, ptrdiff_t depth, const T *B,
    ptrdiff_t ldb, T *panel, ptrdiff_t k, T alpha, T beta, MASK mask, const int R,
    const int N, const int FIRST)
{
    VECTOR sum[TILE_ROWS][3];
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < N; j++) {
            sum[i][j] = (VECTOR){0};
        }
    }
    T *asked = C;
    int unasked = R;
    for (ptrdiff_t p = 0, end; p < k;) {
        /* (All at once, the rows of C would hold up what the sums wait for.) */
        if (unasked > 0) {
            UNROLL
            for (int j = 0; j < N; j++) {
                fanin_read_ahead(asked + j * WIDTH, 0);
            }
            asked += ldc;
            unasked--;
        }
        for (end = k - p < STRETCH ? k : p + STRETCH; p < end; p++) {
            VECTOR b[3];
            UNROLL
            for (int j = 0; j < N; j++) {
                if (FIRST) {
                    fanin_read_ahead(B + j * WIDTH, NEXT * ldb * (ptrdiff_t)sizeof(T));
                    b[j] = j < N - 1 ? NAME(load)(B + j * WIDTH)
                                     : (VECTOR)READ_SOME(mask, B + j * WIDTH);
                } else {
                    b[j] = NAME(load)(panel + j * WIDTH);
                }
                if (FIRST && R == TILE_ROWS) {
                    NAME(store)(panel + j * WIDTH, b[j]);
                }
            }
            UNROLL
            for (int i = 0; i < R; i++) {
                VECTOR a = A[i * row] - (VECTOR){0}; /* in all lanes: x - 0 is x */
                UNROLL
                for (int j = 0; j < N; j++) {
                    sum[i][j] += a * b[j];
                }
            }
            A += depth;
            B += FIRST ? ldb : 0;
            panel += N * WIDTH;
        }
    }
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < N; j++) {
            T *to = C + i * ldc + j * WIDTH;
            VECTOR value = sum[i][j] * alpha;
            if (j < N - 1) {
                if (beta != 0) {
                    value += NAME(load)(to) * beta;
                }
                NAME(store)(to, value);
            } else {
                if (beta != 0) {
                    value += (VECTOR)READ_SOME(mask, to) * beta;
                }
                WRITE_SOME(to, mask, value);
            }
        }
    }
}

#define TILE(R, N, kind, FIRST)                                                        \
    static void NAME(kind##_##R##_##N)(                                                \
        T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row, ptrdiff_t depth, const T *B,   \
        ptrdiff_t ldb, T *panel, ptrdiff_t k, T alpha, T beta, MASK mask)              \
    {                                                                                  \
        NAME(tile)(C, ldc, A, row, depth, B, ldb, panel, k, alpha, beta, mask, R, N,   \
                   FIRST);                                                             \
    }
#define TILES(R)                                                                       \
    TILE(R, 1, first, 1) TILE(R, 2, first, 1) TILE(R, 3, first, 1)                     \
    TILE(R, 1, other, 0) TILE(R, 2, other, 0) TILE(R, 3, other, 0)
#define NAMES(kind, R)                                                                 \
    {NAME(kind##_##R##_1), NAME(kind##_##R##_2), NAME(kind##_##R##_3)}
TILES(1) TILES(2) TILES(3) TILES(4)
#if TILE_ROWS == 8
TILES(5) TILES(6) TILES(7) TILES(8)
#endif

typedef void (*NAME(tile_function))(
    T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row, ptrdiff_t depth, const T *B,
    ptrdiff_t ldb, T *panel, ptrdiff_t k, T alpha, T beta, MASK mask);
static const NAME(tile_function) NAME(firsts)[TILE_ROWS][3] = {
    NAMES(first, 1), NAMES(first, 2), NAMES(first, 3), NAMES(first, 4),
#if TILE_ROWS == 8
    NAMES(first, 5), NAMES(first, 6), NAMES(first, 7), NAMES(first, 8),
#endif
};
static const NAME(tile_function) NAME(others)[TILE_ROWS][3] = {
    NAMES(other, 1), NAMES(other, 2), NAMES(other, 3), NAMES(other, 4),
#if TILE_ROWS == 8
    NAMES(other, 5), NAMES(other, 6), NAMES(other, 7), NAMES(other, 8),
#endif
};

#ifdef SHUFFLE
/* `rows` rows of `from`, of WIDTH numbers or as `mask` says, as columns of `to`; what
 * is beyond is 0. In each step register 2 i and the next become the first and second
 * halves of registers i and i + WIDTH / 2, number by number in turn. */
static inline __attribute__((always_inline)) void NAME(turn)(
    T *to, ptrdiff_t ldt, const T *from, ptrdiff_t ldf, ptrdiff_t rows, MASK mask)
{
    VECTOR x[BYTES / sizeof(T)], y[BYTES / sizeof(T)];
    INDICES low, high;
    for (int i = 0; i < WIDTH; i++) {
        low[i] = (INDEX)(i / 2 + i % 2 * WIDTH);
        high[i] = (INDEX)(low[i] + WIDTH / 2);
    }
    UNROLL
    for (int i = 0; i < WIDTH; i++) {
        x[i] = (VECTOR){0};
        if (i < rows) {
            x[i] = (VECTOR)READ_SOME(mask, from + i * ldf);
        }
    }
    UNROLL
    for (int step = 1; step < WIDTH; step *= 2) {
        UNROLL
        for (int i = 0; i < WIDTH / 2; i++) {
            y[2 * i] = (VECTOR)SHUFFLE(x[i], x[i + WIDTH / 2], low);
            y[2 * i + 1] = (VECTOR)SHUFFLE(x[i], x[i + WIDTH / 2], high);
        }
        UNROLL
        for (int i = 0; i < WIDTH; i++) {
            x[i] = y[i];
        }
    }
    UNROLL
    for (int i = 0; i < WIDTH; i++) {
        NAME(store)(to + i * ldt, x[i]);
    }
}

/* The panel of a B that is given transposed: its column j lies at B + j ldb. */
static void NAME(turn_panel)(T *panel, const T *B, ptrdiff_t ldb, ptrdiff_t cols,
                             ptrdiff_t wide, ptrdiff_t k)
{
    ptrdiff_t ldp = wide * WIDTH;
    for (ptrdiff_t j = 0; j < cols; j += WIDTH) {
        ptrdiff_t rows = cols - j, p = 0;
        if (rows >= WIDTH) {
            for (; p + WIDTH <= k; p += WIDTH) {
                NAME(turn)(panel + p * ldp + j, ldp, B + j * ldb + p, ldb, WIDTH,
                           NAME(mask)(WIDTH));
            }
        }
        for (; p < k; p += WIDTH) {
            /* (Rows of the panel below k are not read; DEPTH is whole registers.) */
            NAME(turn)(panel + p * ldp + j, ldp, B + j * ldb + p, ldb, rows,
                       NAME(mask)(k - p));
        }
    }
}
#endif

static void NAME(product)(T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row,
                          ptrdiff_t depth, const T *B, ptrdiff_t ldb, int transposed,
                          ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, T alpha, T beta)
{
    FANIN_ALIGNED T panel[DEPTH * 3 * (BYTES / sizeof(T))];
    ptrdiff_t parts = (k + DEPTH - 1) / DEPTH, deep = (k + parts - 1) / parts;
    for (ptrdiff_t start = 0; start < m; start += ROWS) {
        ptrdiff_t end = m - start < ROWS ? m : start + ROWS;
        for (ptrdiff_t p = 0; p < k; p += deep) {
            ptrdiff_t some = k - p < deep ? k - p : deep, wide;
            T before = p == 0 ? beta : 1;
            for (ptrdiff_t j = 0; j < n; j += wide * WIDTH) {
                ptrdiff_t left = (n - j + WIDTH - 1) / WIDTH, i = start;
                wide = left == 4 ? 2 : left < 3 ? left : 3;
                MASK mask = NAME(mask)(n - j - (wide - 1) * WIDTH);
                const T *columns = B + (transposed ? p + j * ldb : p * ldb + j);
                const NAME(tile_function)(*tiles)[3] = NAME(firsts);
#ifdef SHUFFLE
                if (transposed) {
                    ptrdiff_t cols = n - j < wide * WIDTH ? n - j : wide * WIDTH;
                    NAME(turn_panel)(panel, columns, ldb, cols, wide, some);
                    tiles = NAME(others);
                }
#endif
                for (; i < end; i += TILE_ROWS, tiles = NAME(others)) {
                    ptrdiff_t rows = end - i < TILE_ROWS ? end - i : TILE_ROWS;
                    tiles[rows - 1][wide - 1](C + i * ldc + j, ldc,
                                              A + i * row + p * depth, row, depth,
                                              columns, ldb, panel, some, alpha, before,
                                              mask);
                }
            }
        }
    }
}

#undef WIDTH
#undef VECTOR
#undef INDICES
#undef TILE
#undef TILES
#undef NAMES
