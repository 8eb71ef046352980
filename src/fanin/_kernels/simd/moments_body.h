/* The block kernels of moments.c for one element type: T, NAME(x), SHIFTED.
 * No include guard: moments.c includes this file once per type. */

#define CHUNK ((ptrdiff_t)(2 * FANIN_LINE / sizeof(T)))
#define PER_LINE ((ptrdiff_t)(FANIN_LINE / sizeof(T)))

/* acc[c] += sum over rows of x[r, c] - shift[c]. Eight rows at a time: one load and
 * store of acc for eight additions, and a sum whose rounding errors grow with
 * rows / 8. */
static void NAME(add_rows)(double *FANIN_RESTRICT acc, const T *FANIN_RESTRICT x,
                           ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t w,
                           const double *FANIN_RESTRICT shift)
{
    ptrdiff_t r = 0;
    for (; r + 8 <= rows; r += 8, x += 8 * stride) {
        const T *x0 = x, *x1 = x + stride, *x2 = x + 2 * stride, *x3 = x + 3 * stride;
        const T *x4 = x + 4 * stride, *x5 = x + 5 * stride, *x6 = x + 6 * stride;
        const T *x7 = x + 7 * stride;
        for (ptrdiff_t c = 0; c < w; c++) {
            double s = SHIFTED ? shift[c] : 0.0;
            acc[c] += ((((double)x0[c] - s) + ((double)x1[c] - s))
                       + (((double)x2[c] - s) + ((double)x3[c] - s)))
                      + ((((double)x4[c] - s) + ((double)x5[c] - s))
                         + (((double)x6[c] - s) + ((double)x7[c] - s)));
        }
    }
    for (; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            acc[c] += (double)x[c] - (SHIFTED ? shift[c] : 0.0);
        }
    }
}

/* sum[c] += sum of d, square[c] += sum of d^2, where d = x[r, c] - mean[c]. Eight rows
 * at a time, while the eight that come next are asked for. */
static void NAME(add_squares)(double *FANIN_RESTRICT sum, double *FANIN_RESTRICT square,
                              const T *FANIN_RESTRICT x, ptrdiff_t stride,
                              ptrdiff_t rows, ptrdiff_t w,
                              const double *FANIN_RESTRICT mean)
{
    const ptrdiff_t ahead = 8 * stride * (ptrdiff_t)sizeof(T);
    ptrdiff_t r = 0;
    for (; r + 8 <= rows; r += 8, x += 8 * stride) {
        const T *x0 = x, *x1 = x + stride, *x2 = x + 2 * stride, *x3 = x + 3 * stride;
        const T *x4 = x + 4 * stride, *x5 = x + 5 * stride, *x6 = x + 6 * stride;
        const T *x7 = x + 7 * stride;
        for (ptrdiff_t start = 0; start < w; start += CHUNK) {
            ptrdiff_t end = start + CHUNK < w ? start + CHUNK : w;
            for (ptrdiff_t c = start; c < end; c += PER_LINE) {
                fanin_read_ahead(x0 + c, ahead);
                fanin_read_ahead(x1 + c, ahead);
                fanin_read_ahead(x2 + c, ahead);
                fanin_read_ahead(x3 + c, ahead);
                fanin_read_ahead(x4 + c, ahead);
                fanin_read_ahead(x5 + c, ahead);
                fanin_read_ahead(x6 + c, ahead);
                fanin_read_ahead(x7 + c, ahead);
            }
            for (ptrdiff_t c = start; c < end; c++) {
                double m = mean[c];
                double d0 = (double)x0[c] - m, d1 = (double)x1[c] - m;
                double d2 = (double)x2[c] - m, d3 = (double)x3[c] - m;
                double d4 = (double)x4[c] - m, d5 = (double)x5[c] - m;
                double d6 = (double)x6[c] - m, d7 = (double)x7[c] - m;
                sum[c] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7));
                square[c] += ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3))
                             + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7));
            }
        }
    }
    for (; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            double a = (double)x[c] - mean[c];
            sum[c] += a;
            square[c] += a * a;
        }
    }
}

/* Count, largest and smallest of what is not NaN. */
static void NAME(add_range)(double *FANIN_RESTRICT n, double *FANIN_RESTRICT top,
                            double *FANIN_RESTRICT low, const T *FANIN_RESTRICT x,
                            ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t w)
{
    for (ptrdiff_t r = 0; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            double v = (double)x[c];
            n[c] += v == v ? 1.0 : 0.0;
            top[c] = v > top[c] ? v : top[c];
            low[c] = v < low[c] ? v : low[c];
        }
    }
}

static void NAME(add_rows_careful)(double *FANIN_RESTRICT acc,
                                   const T *FANIN_RESTRICT x, ptrdiff_t stride,
                                   ptrdiff_t rows, ptrdiff_t w,
                                   const double *FANIN_RESTRICT shift,
                                   const double *FANIN_RESTRICT scale)
{
    ptrdiff_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * stride) {
        const T *x0 = x, *x1 = x + stride, *x2 = x + 2 * stride, *x3 = x + 3 * stride;
        for (ptrdiff_t c = 0; c < w; c++) {
            double p = scale[c], s = shift[c];
            acc[c] += (KNOWN(x0[c], p, s) + KNOWN(x1[c], p, s))
                      + (KNOWN(x2[c], p, s) + KNOWN(x3[c], p, s));
        }
    }
    for (; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            acc[c] += KNOWN(x[c], scale[c], shift[c]);
        }
    }
}

static void NAME(add_squares_careful)(double *FANIN_RESTRICT sum,
                                      double *FANIN_RESTRICT square,
                                      const T *FANIN_RESTRICT x, ptrdiff_t stride,
                                      ptrdiff_t rows, ptrdiff_t w,
                                      const double *FANIN_RESTRICT mean,
                                      const double *FANIN_RESTRICT scale)
{
    ptrdiff_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * stride) {
        const T *x0 = x, *x1 = x + stride, *x2 = x + 2 * stride, *x3 = x + 3 * stride;
        for (ptrdiff_t c = 0; c < w; c++) {
            double s = scale[c], m = mean[c];
            double a = KNOWN(x0[c], s, m), b = KNOWN(x1[c], s, m);
            double p = KNOWN(x2[c], s, m), q = KNOWN(x3[c], s, m);
            sum[c] += (a + b) + (p + q);
            square[c] += (a * a + b * b) + (p * p + q * q);
        }
    }
    for (; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            double a = KNOWN(x[c], scale[c], mean[c]);
            sum[c] += a;
            square[c] += a * a;
        }
    }
}

/* Columns of a block with NaN, infinities, or squares out of range. */
static void NAME(careful_cols)(fanin_state out, const T *x, ptrdiff_t stride,
                               ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stack,
                               double *work)
{
    ptrdiff_t w = cols * stack, full = rows / stack, rest = (rows % stack) * cols;
    double *n = work, *top = n + w, *low = top + w, *scale = low + w;
    double *mean = scale + w, *sum = mean + w, *square = sum + w;
    ptrdiff_t step = stack > 1 ? w : stride;
    const T *tail = x + full * step;
    fill(n, w, 0.0);
    fill(top, w, -INFINITY);
    fill(low, w, INFINITY);
    NAME(add_range)(n, top, low, x, step, full, w);
    NAME(add_range)(n, top, low, tail, step, rest > 0, rest);
    for (ptrdiff_t i = cols; i < w; i++) {
        ptrdiff_t c = i % cols;
        n[c] += n[i];
        top[c] = top[i] > top[c] ? top[i] : top[c];
        low[c] = low[i] < low[c] ? low[i] : low[c];
    }
    ptrdiff_t left = 0;
    for (ptrdiff_t c = 0; c < cols; c++) {
        left += state_from_range(fanin_state_at(out, c), n[c], top[c], low[c],
                                 &scale[c], &mean[c]);
    }
    if (left == 0) {
        for (ptrdiff_t c = 0; c < cols; c++) {
            out.e[c] = 0;
        }
        return;
    }
    repeat(scale, cols, stack);
    repeat(mean, cols, stack);
    fill(sum, w, 0.0);
    NAME(add_rows_careful)(sum, x, step, full, w, mean, scale);
    NAME(add_rows_careful)(sum, tail, step, rest > 0, rest, mean, scale);
    fold(sum, cols, stack);
    for (ptrdiff_t c = 0; c < cols; c++) {
        mean[c] += n[c] > 0.0 ? sum[c] / n[c] : 0.0;
    }
    repeat(mean, cols, stack);
    fill(sum, w, 0.0);
    fill(square, w, 0.0);
    NAME(add_squares_careful)(sum, square, x, step, full, w, mean, scale);
    NAME(add_squares_careful)(sum, square, tail, step, rest > 0, rest, mean, scale);
    fold(sum, cols, stack);
    fold(square, cols, stack);
    for (ptrdiff_t c = 0; c < cols; c++) {
        if (out.e[c] != STATE_DONE) {
            state_from_sums(fanin_state_at(out, c), mean[c], sum[c], square[c]);
        } else {
            out.e[c] = 0;
        }
    }
}

static ptrdiff_t NAME(cols)(fanin_state out, const T *x, ptrdiff_t stride,
                            ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stack,
                            double *work, int careful)
{
    if (careful) {
        NAME(careful_cols)(out, x, stride, rows, cols, stack, work);
        return cols;
    }
    ptrdiff_t w = cols * stack, full = rows / stack, rest = (rows % stack) * cols;
    double *mean = work, *sum = mean + w, *square = sum + w;
    ptrdiff_t step = stack > 1 ? w : stride;
    const T *tail = x + full * step;
    double count = (double)rows;
    ptrdiff_t redo = 0, ends = (PILOT_ROWS + stack - 1) / stack;
    if (SHIFTED) {
        for (ptrdiff_t c = 0; c < cols; c++) {
            mean[c] = (double)x[c];
        }
        repeat(mean, cols, stack);
    }
    fill(sum, w, 0.0);
    if (full > 2 * ends) {
        NAME(add_rows)(sum, x, step, ends, w, mean);
        NAME(add_rows)(sum, x + (full - ends) * step, step, ends, w, mean);
    } else {
        NAME(add_rows)(sum, x, step, full, w, mean);
        ends = full;
    }
    fold(sum, cols, stack);
    double taken = (double)((ends == full ? full : 2 * ends) * stack);
    for (ptrdiff_t c = 0; c < cols; c++) {
        mean[c] = (SHIFTED ? mean[c] : 0.0) + sum[c] / taken;
    }
    for (int pass = 0; pass < 2; pass++) {
        repeat(mean, cols, stack);
        fill(sum, w, 0.0);
        fill(square, w, 0.0);
        NAME(add_squares)(sum, square, x, step, full, w, mean);
        NAME(add_squares)(sum, square, tail, step, rest > 0, rest, mean);
        fold(sum, cols, stack);
        fold(square, cols, stack);
        redo = finish_fast(out, mean, sum, square, count, cols, SHIFTED);
        if (pass == 1 || !improve_pilot(mean, sum, square, count, cols)) {
            break;
        }
    }
    if (redo == 0) {
        return 0;
    }
    if (stack > 1 || 2 * redo > cols) {
        NAME(careful_cols)(out, x, stride, rows, cols, stack, work);
        return redo;
    }
    /* Runs of marked columns; a gap of a few good ones is not worth a new run. */
    for (ptrdiff_t c = 0; c < cols;) {
        if (out.e[c] != STATE_REDO) {
            c++;
            continue;
        }
        ptrdiff_t end = c + 1;
        for (ptrdiff_t i = end; i < cols && i < end + 4; i++) {
            if (out.e[i] == STATE_REDO) {
                end = i + 1;
            }
        }
        NAME(careful_cols)(fanin_state_at(out, c), x + c, stride, rows, end - c, 1, work);
        c = end;
    }
    return redo;
}

/* One contiguous column: the same sums in 16 interleaved lanes. */
static inline void NAME(column)(fanin_state out, const T *x, ptrdiff_t rows)
{
    double shift = SHIFTED ? (double)x[0] : 0.0, count = (double)rows;
    double lane[16] = {0}, square[16], sum, squares;
    ptrdiff_t i = 0, first = rows < 8 * PILOT_ROWS ? rows : 8 * PILOT_ROWS;
    /* The pilot: the values at both ends, or all of a short column. */
    const T *last = x + (rows - first);
    for (; i + 16 <= first; i += 16) {
        const T *part = i < first / 2 ? x + i : last + i;
        for (int l = 0; l < 16; l++) {
            lane[l] += (double)part[l] - shift;
        }
    }
    for (; i < first; i++) {
        lane[i % 16] += (double)x[i] - shift;
    }
    double mean = shift + add_lanes(lane) / (double)first;
    ptrdiff_t redo = 0;
    for (int pass = 0; pass < 2; pass++) {
        double total[16] = {0}, squares_total[16] = {0};
        for (i = 0; i + 32 <= rows;) {
            /* Sums of at most STRETCH values, then of these: few additions in a row. */
            ptrdiff_t end = rows - i < STRETCH ? rows : i + STRETCH;
            fill(lane, 16, 0.0);
            fill(square, 16, 0.0);
            for (; i + 32 <= end; i += 32) {
                for (ptrdiff_t k = 0; k < 32; k += PER_LINE) {
                    fanin_read_ahead(x + i + k, FANIN_AHEAD);
                }
                for (int l = 0; l < 16; l++) {
                    double a = (double)x[i + l] - mean, b = (double)x[i + 16 + l] - mean;
                    lane[l] += a + b;
                    square[l] += a * a + b * b;
                }
            }
            for (int l = 0; l < 16; l++) {
                total[l] += lane[l];
                squares_total[l] += square[l];
            }
        }
        if (i < rows) {
            /* What is left, as one full step: 0 for what is not there. */
            ptrdiff_t rest = rows - i;
            T last[32] = {0};
            memcpy(last, x + i, (size_t)rest * sizeof(T));
            for (int l = 0; l < 16; l++) {
                double a = l < rest ? (double)last[l] - mean : 0.0;
                double b = l + 16 < rest ? (double)last[l + 16] - mean : 0.0;
                total[l] += a + b;
                squares_total[l] += a * a + b * b;
            }
        }
        sum = add_lanes(total), squares = add_lanes(squares_total);
        redo = finish_fast(out, &mean, &sum, &squares, count, 1, SHIFTED);
        if (pass == 1 || !improve_pilot(&mean, &sum, &squares, count, 1)) {
            break;
        }
    }
    if (redo != 0) {
        double work[7 * 16];
        /* As a narrow matrix of sixteen columns folded into one. */
        NAME(careful_cols)(out, x, 1, rows, 1, 16, work);
    }
}

static void NAME(rows)(fanin_state out, const T *x, ptrdiff_t stride, ptrdiff_t rows,
                       ptrdiff_t cols)
{
    for (ptrdiff_t c = 0; c < cols; c++) {
        NAME(column)(fanin_state_at(out, c), x + c * stride, rows);
    }
}

/* --- With a weight per row ----------------------------------------------------- */

/* acc[c] += sum over rows of weight[r] (x[r, c] - shift[c]). */
static void NAME(weighted_add_rows)(double *FANIN_RESTRICT acc,
                                    const T *FANIN_RESTRICT x, ptrdiff_t stride,
                                    ptrdiff_t rows, ptrdiff_t w,
                                    const double *FANIN_RESTRICT weight,
                                    const double *FANIN_RESTRICT shift)
{
    ptrdiff_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * stride) {
        const T *x0 = x, *x1 = x + stride, *x2 = x + 2 * stride, *x3 = x + 3 * stride;
        double w0 = weight[r], w1 = weight[r + 1], w2 = weight[r + 2];
        double w3 = weight[r + 3];
        for (ptrdiff_t c = 0; c < w; c++) {
            double s = shift[c];
            acc[c] += (w0 * ((double)x0[c] - s) + w1 * ((double)x1[c] - s))
                      + (w2 * ((double)x2[c] - s) + w3 * ((double)x3[c] - s));
        }
    }
    for (; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            acc[c] += weight[r] * ((double)x[c] - shift[c]);
        }
    }
}

/* sum[c] += sum of w d, square[c] += sum of w d^2, where d = x[r, c] - mean[c]. */
static void NAME(weighted_add_squares)(double *FANIN_RESTRICT sum,
                                       double *FANIN_RESTRICT square,
                                       const T *FANIN_RESTRICT x, ptrdiff_t stride,
                                       ptrdiff_t rows, ptrdiff_t w,
                                       const double *FANIN_RESTRICT weight,
                                       const double *FANIN_RESTRICT mean)
{
    ptrdiff_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * stride) {
        const T *x0 = x, *x1 = x + stride, *x2 = x + 2 * stride, *x3 = x + 3 * stride;
        double w0 = weight[r], w1 = weight[r + 1], w2 = weight[r + 2];
        double w3 = weight[r + 3];
        for (ptrdiff_t c = 0; c < w; c++) {
            double m = mean[c];
            double a = (double)x0[c] - m, b = (double)x1[c] - m;
            double p = (double)x2[c] - m, q = (double)x3[c] - m;
            double wa = w0 * a, wb = w1 * b, wp = w2 * p, wq = w3 * q;
            sum[c] += (wa + wb) + (wp + wq);
            square[c] += (wa * a + wb * b) + (wp * p + wq * q);
        }
    }
    for (; r < rows; r++, x += stride) {
        for (ptrdiff_t c = 0; c < w; c++) {
            double a = (double)x[c] - mean[c], wa = weight[r] * a;
            sum[c] += wa;
            square[c] += wa * a;
        }
    }
}

/* Columns of a block with NaN, infinities, squares out of range or weights near the
 * ends of a double's range. At most CAREFUL_COLUMNS of them. */
static void NAME(weighted_careful)(fanin_state out, const T *x, ptrdiff_t stride,
                                   ptrdiff_t rows, ptrdiff_t cols, const double *weight,
                                   double *work)
{
    double *top = work, *low = top + cols, *factor = low + cols;
    double *scale = factor + cols, *mean = scale + cols, *sum = mean + cols;
    double *square = sum + cols, *part = square + cols, *part2 = part + cols;
    fill(top, cols, -INFINITY);
    fill(low, cols, INFINITY);
    fill(factor, cols, 0.0);        /* the largest weight, then a power of two */
    fill(out.n, cols, 0.0);
    fill(out.nl, cols, 0.0);
    fill(out.miss, cols, 0.0);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *row = x + r * stride;
        double u = weight[r];
        for (ptrdiff_t c = 0; u > 0.0 && c < cols; c++) {
            double v = (double)row[c];
            double known = v == v ? u : 0.0;
            out.miss[c] += v == v ? 0.0 : 1.0;
            factor[c] = known > factor[c] ? known : factor[c];
            top[c] = v > top[c] ? v : top[c];
            low[c] = v < low[c] ? v : low[c];
        }
    }
    for (ptrdiff_t c = 0; c < cols; c++) {
        state_from_range(fanin_state_at(out, c), factor[c], top[c], low[c], &scale[c],
                         &mean[c]);
        factor[c] = factor[c] > 0.0 ? ldexp(1.0, -2 * half_exponent(factor[c])) : 1.0;
        out.n[c] = 0.0;
    }
    fill(sum, cols, 0.0);
    fill(part, cols, 0.0);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *row = x + r * stride;
        for (ptrdiff_t c = 0; weight[r] > 0.0 && c < cols; c++) {
            double v = (double)row[c], u = v == v ? weight[r] * factor[c] : 0.0;
            double n, lost;
            two_sum(out.n[c], u, &n, &lost);
            out.n[c] = n;
            out.nl[c] += lost;
            part[c] += u * KNOWN(v, scale[c], mean[c]);
        }
        if (r % WEIGHTED_ROWS == WEIGHTED_ROWS - 1 || r == rows - 1) {
            flush(sum, part, cols);
        }
    }
    for (ptrdiff_t c = 0; c < cols; c++) {
        mean[c] += out.n[c] > 0.0 ? sum[c] / out.n[c] : 0.0;
    }
    fill(sum, cols, 0.0);
    fill(square, cols, 0.0);
    fill(part2, cols, 0.0);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *row = x + r * stride;
        for (ptrdiff_t c = 0; weight[r] > 0.0 && c < cols; c++) {
            double v = (double)row[c], u = v == v ? weight[r] * factor[c] : 0.0;
            double a = KNOWN(v, scale[c], mean[c]), wa = u * a;
            part[c] += wa;
            part2[c] += wa * a;
        }
        if (r % WEIGHTED_ROWS == WEIGHTED_ROWS - 1 || r == rows - 1) {
            flush(sum, part, cols);
            flush(square, part2, cols);
        }
    }
    for (ptrdiff_t c = 0; c < cols; c++) {
        fanin_state at = fanin_state_at(out, c);
        double n = *at.n, shift, hi, lo;
        int k;
        frexp(factor[c], &k);
        k = (1 - k) / 2;            /* factor = 2^-2k */
        two_sum(n, *at.nl, at.n, at.nl);
        *at.n = ldexp(*at.n, 2 * k);
        *at.nl = ldexp(*at.nl, 2 * k);
        if (*at.e == STATE_DONE) {
            *at.e = 0;
            continue;
        }
        shift = sum[c] / n;
        two_sum(mean[c], shift, &hi, &lo);
        double m2 = square[c] - sum[c] * shift;
        state_store(at, hi, lo, m2 > 0.0 ? m2 : 0.0, 0.0, *at.e, *at.e + k);
    }
}

static ptrdiff_t NAME(weighted_cols)(fanin_state out, const T *x, ptrdiff_t stride,
                                     ptrdiff_t rows, ptrdiff_t cols, fanin_weights u,
                                     double *work, int careful)
{
    ptrdiff_t redo = cols;
    if (u.ordinary && !careful) {
        double *mean = work, *sum = mean + cols, *square = sum + cols;
        double *part = square + cols, *part2 = part + cols;
        for (ptrdiff_t c = 0; c < cols; c++) {
            mean[c] = (double)x[u.first * stride + c];
        }
        fill(sum, cols, 0.0);
        fill(part, cols, 0.0);
        for (ptrdiff_t r = u.first; r < rows; r += WEIGHTED_ROWS) {
            ptrdiff_t some = rows - r < WEIGHTED_ROWS ? rows - r : WEIGHTED_ROWS;
            NAME(weighted_add_rows)(part, x + r * stride, stride, some, cols,
                                    u.weight + r, mean);
            flush(sum, part, cols);
        }
        for (ptrdiff_t c = 0; c < cols; c++) {
            mean[c] += sum[c] / u.n;
        }
        fill(sum, cols, 0.0);
        fill(square, cols, 0.0);
        fill(part2, cols, 0.0);
        for (ptrdiff_t r = u.first; r < rows; r += WEIGHTED_ROWS) {
            ptrdiff_t some = rows - r < WEIGHTED_ROWS ? rows - r : WEIGHTED_ROWS;
            NAME(weighted_add_squares)(part, part2, x + r * stride, stride, some, cols,
                                       u.weight + r, mean);
            flush(sum, part, cols);
            flush(square, part2, cols);
        }
        redo = weighted_finish(out, mean, sum, square, u, cols, SHIFTED);
    } else {
        for (ptrdiff_t c = 0; c < cols; c++) {
            out.e[c] = STATE_REDO;
        }
    }
    for (ptrdiff_t c = 0; redo > 0 && c < cols;) {
        ptrdiff_t end = c + 1;
        if (out.e[c] != STATE_REDO) {
            c++;
            continue;
        }
        while (end < cols && end - c < CAREFUL_COLUMNS && out.e[end] == STATE_REDO) {
            end++;
        }
        NAME(weighted_careful)(fanin_state_at(out, c), x + c, stride, rows, end - c,
                               u.weight, work);
        c = end;
    }
    return redo;
}

/* One contiguous column: the same sums in 16 interleaved lanes. */
static void NAME(weighted_rows)(fanin_state out, const T *x, ptrdiff_t rows,
                                fanin_weights u, double *work)
{
    const double *weight = u.weight;
    if (!u.ordinary) {
        NAME(weighted_careful)(out, x, 1, rows, 1, weight, work);
        return;
    }
    double lane[16] = {0}, square[16] = {0}, shift = (double)x[u.first];
    ptrdiff_t i = 0;
    for (; i + 16 <= rows; i += 16) {
        for (int l = 0; l < 16; l++) {
            lane[l] += weight[i + l] * ((double)x[i + l] - shift);
        }
    }
    for (; i < rows; i++) {
        lane[i % 16] += weight[i] * ((double)x[i] - shift);
    }
    double mean = shift + add_lanes(lane) / u.n;
    for (int l = 0; l < 16; l++) {
        lane[l] = 0.0;
    }
    for (i = 0; i + 16 <= rows; i += 16) {
        for (int l = 0; l < 16; l++) {
            double a = (double)x[i + l] - mean, wa = weight[i + l] * a;
            lane[l] += wa;
            square[l] += wa * a;
        }
    }
    for (; i < rows; i++) {
        double a = (double)x[i] - mean, wa = weight[i] * a;
        lane[i % 16] += wa;
        square[i % 16] += wa * a;
    }
    double sum = add_lanes(lane), squares = add_lanes(square);
    if (weighted_finish(out, &mean, &sum, &squares, u, 1, SHIFTED) != 0) {
        NAME(weighted_careful)(out, x, 1, rows, 1, weight, work);
    }
}

#undef CHUNK
#undef PER_LINE
