/* The loops of product.c for one element type: T, NAME(x).
 * No include guard: product.c includes this file once per type. */

#define WIDTH ((ptrdiff_t)(BYTES / sizeof(T)))
#define VECTOR NAME(vector)

typedef T VECTOR __attribute__((vector_size(BYTES)));

/* R rows by N registers of C; R and N are constants where this is inlined. */
static inline __attribute__((always_inline)) void NAME(tile)(
    T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row, ptrdiff_t depth, const T *B,
    ptrdiff_t ldb, ptrdiff_t k, T alpha, T beta, const int R, const int N)
{
    VECTOR sum[TILE_ROWS][3];
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < N; j++) {
            sum[i][j] = (VECTOR){0};
        }
    }
    for (ptrdiff_t p = 0; p < k; p++) {
        VECTOR b[3];
        UNROLL
        for (int j = 0; j < N; j++) {
            fanin_read_ahead(B + j * WIDTH, NEXT * ldb * (ptrdiff_t)sizeof(T));
            memcpy(&b[j], B + j * WIDTH, sizeof b[j]);
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
        B += ldb;
    }
    UNROLL
    for (int i = 0; i < R; i++) {
        UNROLL
        for (int j = 0; j < N; j++) {
            T *to = C + i * ldc + j * WIDTH;
            VECTOR value = sum[i][j] * alpha;
            if (beta != 0) {
                VECTOR before;
                memcpy(&before, to, sizeof before);
                value += before * beta;
            }
            memcpy(to, &value, sizeof value);
        }
    }
}

#define TILE(R, N)                                                                     \
    static void NAME(tile_##R##_##N)(T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row,   \
                                     ptrdiff_t depth, const T *B, ptrdiff_t ldb,       \
                                     ptrdiff_t k, T alpha, T beta)                     \
    {                                                                                  \
        NAME(tile)(C, ldc, A, row, depth, B, ldb, k, alpha, beta, R, N);               \
    }
#define TILES(R) TILE(R, 1) TILE(R, 2) TILE(R, 3)
#define NAMES(R) {NAME(tile_##R##_1), NAME(tile_##R##_2), NAME(tile_##R##_3)}
TILES(1) TILES(2) TILES(3) TILES(4)
#if TILE_ROWS == 8
TILES(5) TILES(6) TILES(7) TILES(8)
#endif

typedef void (*NAME(tile_function))(T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row,
                                    ptrdiff_t depth, const T *B, ptrdiff_t ldb,
                                    ptrdiff_t k, T alpha, T beta);
static const NAME(tile_function) NAME(tiles)[TILE_ROWS][3] = {
    NAMES(1), NAMES(2), NAMES(3), NAMES(4),
#if TILE_ROWS == 8
    NAMES(5), NAMES(6), NAMES(7), NAMES(8),
#endif
};

static void NAME(product)(T *C, ptrdiff_t ldc, const T *A, ptrdiff_t row,
                          ptrdiff_t depth, const T *B, ptrdiff_t ldb, ptrdiff_t m,
                          ptrdiff_t n, ptrdiff_t k, T alpha, T beta)
{
    for (ptrdiff_t p = 0; p < k; p += DEPTH) {
        ptrdiff_t some = k - p < DEPTH ? k - p : DEPTH;
        T before = p == 0 ? beta : 1;
        for (ptrdiff_t start = 0; start < m; start += ROWS) {
            ptrdiff_t end = m - start < ROWS ? m : start + ROWS;
            ptrdiff_t j = 0;
            while (j < n) {
                ptrdiff_t left = (n - j) / WIDTH;
                int wide = left == 4 ? 2 : left < 3 ? (int)left : 3;
                for (ptrdiff_t i = start; i < end; i += TILE_ROWS) {
                    ptrdiff_t rows = end - i < TILE_ROWS ? end - i : TILE_ROWS;
                    NAME(tiles)[rows - 1][wide - 1](
                        C + i * ldc + j, ldc, A + i * row + p * depth, row, depth,
                        B + p * ldb + j, ldb, some, alpha, before);
                }
                j += wide * WIDTH;
            }
        }
    }
}

#undef WIDTH
#undef VECTOR
#undef TILE
#undef TILES
#undef NAMES
