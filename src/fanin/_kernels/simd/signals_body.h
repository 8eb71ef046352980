/* signals.c for one type T. */

/* Mean and deviation of one column by powers of two, where squares or sums leave the range
 * of a double. */
static void ROUTINE(scaled)(double *out, const T *A, ptrdiff_t ld, ptrdiff_t rows,
                            double shift)
{
    double most = 0, mean = 0, m2 = 0;
    int exponent;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const double size = fabs(0.5 * (double)A[i * ld] - 0.5 * shift);
        most = size > most ? size : most;
    }
    if (!(most > 0 && most < HUGE_VAL)) {
        return;     /* constant, or infinite */
    }
    frexp(most, &exponent);
    for (ptrdiff_t i = 0; i < rows; i++) {
        mean += ldexp(0.5 * (double)A[i * ld] - 0.5 * shift, -exponent);
    }
    mean /= (double)rows;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const double d = ldexp(0.5 * (double)A[i * ld] - 0.5 * shift, -exponent) - mean;
        m2 += d * d;
    }
    out[0] = ldexp(mean, exponent + 1);
    out[COLS] = ldexp(sqrt(m2 / (double)rows), exponent + 1);
}

static inline void ROUTINE(columns)(
    double *FANIN_RESTRICT out, const T *FANIN_RESTRICT A, ptrdiff_t ld,
    const T *FANIN_RESTRICT B, ptrdiff_t ldb, ptrdiff_t rows, ptrdiff_t n, T low,
    T high, const double *FANIN_RESTRICT shift)
{
    double mean[COLS] = {0}, rest[COLS] = {0}, m2[COLS] = {0};
    T flat[COLS] = {0}, zero[COLS] = {0}, largest[COLS] = {0}, nan[COLS] = {0};
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t j = 0; j < n; j++) {
            mean[j] += (double)A[i * ld + j] - shift[j];
        }
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        mean[j] /= (double)rows;
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t j = 0; j < n; j++) {
            const T a = A[i * ld + j], b = B[i * ldb + j];
            const T magnitude = a < 0 ? -a : a;
            const double d = ((double)a - shift[j]) - mean[j];
            rest[j] += d;
            m2[j] += d * d;
            flat[j] += ((b <= low) | (b >= high)) ? (T)1 : (T)0;
            zero[j] += a == 0 ? (T)1 : (T)0;
            nan[j] += a != a ? (T)1 : (T)0;
            largest[j] = magnitude > largest[j] ? magnitude : largest[j];
        }
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        const double square = m2[j] - rest[j] * rest[j] / (double)rows;
        out[j] = mean[j] + rest[j] / (double)rows;
        out[COLS + j] = sqrt((square > 0 ? square : m2[j]) / (double)rows);
        out[2 * COLS + j] = (double)flat[j];
        out[3 * COLS + j] = (double)zero[j];
        out[4 * COLS + j] = (double)largest[j];
        out[5 * COLS + j] = (double)nan[j];
        if (!(m2[j] > SMALLEST && m2[j] < LARGEST) && nan[j] == 0) {
            ROUTINE(scaled)(out + j, A + j, ld, rows, shift[j]);
        }
    }
}

static void ROUTINE(block)(
    double *out, const T *A, ptrdiff_t ld, const T *B, ptrdiff_t ldb, ptrdiff_t rows,
    ptrdiff_t n, double low, double high, const double *shift)
{
    /* A constant width lets the compiler keep the sums in registers. */
    if (n == COLS) {
        ROUTINE(columns)(out, A, ld, B, ldb, rows, COLS, (T)low, (T)high, shift);
    } else {
        ROUTINE(columns)(out, A, ld, B, ldb, rows, n, (T)low, (T)high, shift);
    }
}
