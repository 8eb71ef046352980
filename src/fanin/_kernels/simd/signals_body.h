/* signals.c for one type T. */

static inline void ROUTINE(columns)(
    double *FANIN_RESTRICT out, const T *FANIN_RESTRICT A, ptrdiff_t ld,
    const T *FANIN_RESTRICT B, ptrdiff_t ldb, ptrdiff_t rows, ptrdiff_t n, T low,
    T high)
{
    double mean[COLS], rest[COLS] = {0}, m2[COLS] = {0};
    T flat[COLS] = {0}, zero[COLS] = {0}, largest[COLS] = {0};
    memset(mean, 0, sizeof mean);
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t j = 0; j < n; j++) {
            mean[j] += (double)A[i * ld + j];
        }
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        mean[j] /= (double)rows;
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t j = 0; j < n; j++) {
            const T a = A[i * ld + j], b = B[i * ldb + j];
            const T magnitude = a < 0 ? -a : a;
            const double d = (double)a - mean[j];
            rest[j] += d;
            m2[j] += d * d;
            flat[j] += ((b <= low) | (b >= high)) ? (T)1 : (T)0;
            zero[j] += a == 0 ? (T)1 : (T)0;
            largest[j] = magnitude > largest[j] ? magnitude : largest[j];
        }
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        out[j] = mean[j] + rest[j] / (double)rows;
        out[COLS + j] = m2[j] - rest[j] * rest[j] / (double)rows;
        out[2 * COLS + j] = (double)flat[j];
        out[3 * COLS + j] = (double)zero[j];
        out[4 * COLS + j] = (double)largest[j];
    }
}

static void ROUTINE(block)(
    double *out, const T *A, ptrdiff_t ld, const T *B, ptrdiff_t ldb, ptrdiff_t rows,
    ptrdiff_t n, double low, double high)
{
    /* A constant width lets the compiler keep the sums in registers. */
    if (n == COLS) {
        ROUTINE(columns)(out, A, ld, B, ldb, rows, COLS, (T)low, (T)high);
    } else {
        ROUTINE(columns)(out, A, ld, B, ldb, rows, n, (T)low, (T)high);
    }
}
