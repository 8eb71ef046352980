/* The loops of losses.c, for T float or double; the design is described there. */

/* --- losses of single values -------------------------------------------------------- */

/* Whether all of n targets lie in [low, high], which no NaN does. */
static int NAME(all_within)(const T *Y, ptrdiff_t n, T low, T high)
{
    int outside = 0;
    for (ptrdiff_t k = 0; k < n; k++) {
        outside |= !(Y[k] >= low) | !(Y[k] <= high);
    }
    return !outside;
}

/* loss[k] and slope[k] = dl/dz of n values. One loop per loss, for the vectorizer. */
#define EACH(formulas)                                                             \
    for (ptrdiff_t k = 0; k < n; k++) {                                            \
        double z = Z[k], y = Y[k];                                                 \
        formulas                                                                   \
    }                                                                              \
    break;

static void NAME(values)(double *FANIN_RESTRICT loss, double *FANIN_RESTRICT slope,
                         const T *FANIN_RESTRICT Z, const T *FANIN_RESTRICT Y,
                         const double *FANIN_RESTRICT quantile, ptrdiff_t n,
                         const fanin_loss *f)
{
    const double delta = f->parameter;
    switch (f->code) {
    case FANIN_SQUARED_ERROR:
        EACH(
            double d = z - y;
            loss[k] = d * d;
            slope[k] = 2.0 * d;)
    case FANIN_ABSOLUTE_ERROR:
        EACH(
            double d = z - y;
            double sign = d < 0.0 ? -1.0 : d;
            sign = d > 0.0 ? 1.0 : sign;
            loss[k] = fabs(d);
            slope[k] = sign;)
    case FANIN_HUBER:
        EACH(
            double d = z - y;
            double c = d < -delta ? -delta : d;
            c = d > delta ? delta : c;
            loss[k] = c * (d - 0.5 * c);
            slope[k] = c;)
    case FANIN_QUANTILE:
        EACH(
            double d = z - y;
            double q = quantile[k];
            double c = d < 0.0 ? -q : d;
            c = d > 0.0 ? 1.0 - q : c;
            loss[k] = c * d;
            slope[k] = c;)
    case FANIN_POISSON:
        EACH(
            double rate = fanin_exp_f64(z);
            double part = y * z;
            part = y == 0.0 ? 0.0 : part; /* also where z is -inf */
            /* Where the rate overflows y z may as well; it is less. */
            loss[k] = rate > DBL_MAX ? rate : rate - part;
            slope[k] = rate - y;)
    default: /* FANIN_BINARY_CROSS_ENTROPY */
        EACH(
            double size = fabs(z);
            double e = fanin_exp_f64(-size);
            double q = e / (1.0 + e);
            double far = z > 0.0 ? 1.0 - y : y;
            double part = far * size;
            part = far == 0.0 ? 0.0 : part; /* also where z is infinite */
            double g = far - q;
            loss[k] = part + fanin_log1p_f64(e);
            slope[k] = z > 0.0 ? g : -g;)
    }
}
#undef EACH

static void NAME(value_losses)(T *dZ, const T *Z, const T *Y, const double *weight,
                               ptrdiff_t rows, ptrdiff_t cols, double scale,
                               ptrdiff_t *bad, sums *total, const fanin_loss *f)
{
    double loss[TILE], slope[TILE], quantile[TILE], factor[TILE];
    const int cross = f->code == FANIN_BINARY_CROSS_ENTROPY;
    const T high = cross ? (T)1 : MOST;
    const T low = cross || f->code == FANIN_POISSON ? (T)0 : -MOST;
    const int many = f->code == FANIN_QUANTILE && f->quantiles != NULL;
    const ptrdiff_t size = rows * cols;
    ptrdiff_t row = 0, col = 0; /* of the first value of the tile */
    if (f->code == FANIN_QUANTILE && !many) {
        for (ptrdiff_t k = 0; k < TILE; k++) {
            quantile[k] = f->parameter;
        }
    }
    /* Values are taken in a row: what the columns differ in is laid beside them. */
    for (ptrdiff_t start = 0; start < size; start += TILE) {
        ptrdiff_t n = size - start < TILE ? size - start : TILE;
        if (many || weight != NULL) {
            for (ptrdiff_t k = 0; k < n; k++) {
                if (many) {
                    quantile[k] = f->quantiles[col];
                }
                if (weight != NULL) {
                    factor[k] = weight[row];
                }
                col++;
                if (col == cols) {
                    col = 0;
                    row++;
                }
            }
        }
        if (*bad < 0 && !NAME(all_within)(Y + start, n, low, high)) {
            ptrdiff_t k = start;
            while (Y[k] >= low && Y[k] <= high) {
                k++;
            }
            *bad = k / cols;
        }
        NAME(values)(loss, slope, Z + start, Y + start, quantile, n, f);
        if (weight != NULL) {
            for (ptrdiff_t k = 0; k < n; k++) {
                double l = loss[k] * factor[k], g = slope[k] * factor[k];
                loss[k] = factor[k] == 0.0 ? 0.0 : l;
                slope[k] = factor[k] == 0.0 ? 0.0 : g;
            }
        }
        if (dZ != NULL) {
            for (ptrdiff_t k = 0; k < n; k++) {
                dZ[start + k] = (T)(scale * slope[k]);
            }
        }
        add_terms(total, loss, n);
    }
}

/* --- softmax ------------------------------------------------------------------------ */

/* The largest of a row; lanes, since a comparison of a NaN must keep its order. */
static T NAME(row_max)(const T *z, ptrdiff_t cols)
{
    enum { LANES = 64 / sizeof(T) };
    ptrdiff_t j = 1;
    T top = z[0];
    if (cols >= 2 * LANES) {
        T lane[LANES];
        for (int l = 0; l < LANES; l++) {
            lane[l] = z[l];
        }
        for (j = LANES; j + LANES <= cols; j += LANES) {
            for (int l = 0; l < LANES; l++) {
                lane[l] = z[j + l] > lane[l] ? z[j + l] : lane[l];
            }
        }
        for (int l = 0; l < LANES; l++) {
            top = lane[l] > top ? lane[l] : top;
        }
    }
    for (; j < cols; j++) {
        top = z[j] > top ? z[j] : top;
    }
    return top;
}

/* P = exp(Z - the row's maximum), which goes to top. P may be Z. */
static void NAME(shifted_exp)(T *P, T *top, const T *Z, ptrdiff_t rows, ptrdiff_t cols)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        top[i] = NAME(row_max)(Z + i * cols, cols);
        for (ptrdiff_t j = 0; j < cols; j++) {
            P[i * cols + j] = Z[i * cols + j] - top[i];
        }
    }
    for (ptrdiff_t k = 0; k < rows * cols; k++) { /* over all rows: one long run */
        P[k] = EXP(P[k]);
    }
}

/* The sum of a row of P without its largest entry, which is 1. */
static double NAME(sum_of_rest)(const T *p, ptrdiff_t cols)
{
    double sum = 0.0, ones = 0.0;
    ptrdiff_t j = 0;
    if (cols >= 8) {
        double lane[8] = {0.0}, lane_ones[8] = {0.0};
        for (; j + 8 <= cols; j += 8) {
            for (int l = 0; l < 8; l++) {
                double v = p[j + l];
                double one = v == 1.0 ? 1.0 : 0.0;
                lane[l] += v - one;
                lane_ones[l] += one;
            }
        }
        for (int l = 0; l < 8; l++) {
            sum += lane[l];
            ones += lane_ones[l];
        }
    }
    for (; j < cols; j++) {
        double v = p[j];
        double one = v == 1.0 ? 1.0 : 0.0;
        sum += v - one;
        ones += one;
    }
    return sum + (ones - 1.0);
}

/* sum_j max - z_j, no term of which is negative. */
static double NAME(spread)(const T *z, T top, ptrdiff_t cols)
{
    double sum = 0.0, lane[8] = {0.0};
    ptrdiff_t j = 0;
    for (; j + 8 <= cols; j += 8) {
        for (int l = 0; l < 8; l++) {
            lane[l] += (double)top - (double)z[j + l];
        }
    }
    for (; j < cols; j++) {
        sum += (double)top - (double)z[j];
    }
    for (int l = 0; l < 8; l++) {
        sum += lane[l];
    }
    return sum;
}

/* One row with an integer label. p holds exp(z - top), and becomes the gradient if
 * `unit`, the gradient's factor, is not 0. */
static double NAME(label_row)(T *p, const T *z, T top, double rest, double lse,
                              int64_t y, ptrdiff_t cols, double unit, double smoothing)
{
    double far = (double)top - (double)z[y];
    double own = p[y];
    double others = own == 1.0 ? rest : (1.0 + rest) - own;
    double part = smoothing / (double)cols, loss = lse + far;
    if (smoothing != 0.0) {
        far = smoothing == 1.0 ? 0.0 : (1.0 - smoothing) * far;
        loss = lse + (far + part * NAME(spread)(z, top, cols));
    }
    if (unit != 0.0) {
        double factor = unit / (1.0 + rest), shift = unit * part;
        for (ptrdiff_t j = 0; j < cols; j++) {
            p[j] = (T)((double)p[j] * factor - shift);
        }
        p[y] = (T)(shift * (double)(cols - 1) - factor * others);
    }
    return loss;
}

/* One row with target probabilities; *wrong says that they are none. */
static double NAME(soft_row)(T *FANIN_RESTRICT p, const T *FANIN_RESTRICT z, T top,
                             double rest, double lse, const T *FANIN_RESTRICT y,
                             ptrdiff_t cols, double unit, double smoothing, int *wrong)
{
    const double sum = 1.0 + rest, kept = 1.0 - smoothing;
    const double part = smoothing / (double)cols;
    double y_lane[8] = {0.0}, loss_lane[8] = {0.0}, y_sum = 0.0, loss = 0.0;
    ptrdiff_t j = 0;
    for (; j + 8 <= cols; j += 8) {
        for (int l = 0; l < 8; l++) {
            double target = kept * (double)y[j + l] + part;
            double term = target * (lse + ((double)top - (double)z[j + l]));
            y_lane[l] += (double)y[j + l];
            loss_lane[l] += target == 0.0 ? 0.0 : term; /* also where z is -inf */
        }
    }
    for (; j < cols; j++) {
        double target = kept * (double)y[j] + part;
        double term = target * (lse + ((double)top - (double)z[j]));
        y_sum += (double)y[j];
        loss += target == 0.0 ? 0.0 : term;
    }
    for (int l = 0; l < 8; l++) {
        y_sum += y_lane[l];
        loss += loss_lane[l];
    }
    *wrong = !NAME(all_within)(y, cols, (T)0, (T)2) || !(fabs(y_sum - 1.0) <= 1e-3);
    if (unit != 0.0) {
        const double factor = unit / sum, target_sum = kept * y_sum + smoothing;
        for (j = 0; j < cols; j++) {
            double own = p[j], target = kept * (double)y[j] + part;
            double others = sum - own;
            others = own == 1.0 ? rest : others;
            p[j] = (T)(factor * ((target_sum - target) * own - target * others));
        }
    }
    return loss;
}

static void NAME(softmax_losses)(T *dZ, const T *Z, const T *Y, const int64_t *labels,
                                 const double *weight, ptrdiff_t rows, ptrdiff_t cols,
                                 double scale, T *scratch, ptrdiff_t *bad, sums *total,
                                 const fanin_loss *f)
{
    T buffer[TILE], top[TILE_ROWS];
    double rest[TILE_ROWS], lse[TILE_ROWS], loss[TILE_ROWS];
    ptrdiff_t step = cols <= TILE ? TILE / cols : 1;
    step = step < TILE_ROWS ? step : TILE_ROWS;
    for (ptrdiff_t start = 0; start < rows; start += step) {
        ptrdiff_t n = rows - start < step ? rows - start : step;
        const T *z = Z + start * cols;
        T *p = dZ != NULL ? dZ + start * cols : cols <= TILE ? buffer : scratch;
        NAME(shifted_exp)(p, top, z, n, cols);
        for (ptrdiff_t i = 0; i < n; i++) {
            rest[i] = NAME(sum_of_rest)(p + i * cols, cols);
        }
        for (ptrdiff_t i = 0; i < n; i++) {
            lse[i] = fanin_log1p_f64(rest[i]); /* of z - top */
        }
        for (ptrdiff_t i = 0; i < n; i++, p += cols, z += cols) {
            double w = weight != NULL ? weight[start + i] : 1.0;
            double unit = dZ != NULL ? scale * w : 0.0;
            int wrong = 0;
            if (labels != NULL) {
                int64_t y = labels[start + i];
                wrong = y < 0 || y >= cols;
                if (!wrong) {
                    loss[i] = NAME(label_row)(
                        p, z, top[i], rest[i], lse[i], y, cols, unit, f->parameter);
                }
            } else {
                loss[i] = NAME(soft_row)(
                    p, z, top[i], rest[i], lse[i], Y + (start + i) * cols, cols, unit,
                    f->parameter, &wrong);
            }
            if (wrong) {
                loss[i] = 0.0;
                *bad = *bad < 0 ? start + i : *bad;
            }
            loss[i] = w == 0.0 ? 0.0 : w * loss[i];
            if (unit == 0.0 && dZ != NULL) { /* p is not yet a gradient */
                for (ptrdiff_t j = 0; j < cols; j++) {
                    p[j] = 0;
                }
            }
        }
        add_terms(total, loss, n);
    }
}

/* --- all losses --------------------------------------------------------------------- */

static void NAME(forward)(T *dZ, const T *Z, const T *Y, const int64_t *labels,
                          const double *weight, ptrdiff_t rows, ptrdiff_t cols,
                          double scale, T *scratch, ptrdiff_t *bad, fanin_sum *total,
                          const fanin_loss *f)
{
    sums lanes = {fanin_lanes_all(0.0), fanin_lanes_all(0.0)};
    *bad = -1;
    if (f->code == FANIN_SOFTMAX_CROSS_ENTROPY) {
        NAME(softmax_losses)(dZ, Z, Y, labels, weight, rows, cols, scale, scratch, bad,
                             &lanes, f);
    } else {
        NAME(value_losses)(dZ, Z, Y, weight, rows, cols, scale, bad, &lanes, f);
    }
    finish_sum(total, &lanes);
}

static void NAME(link)(T *Z, ptrdiff_t rows, ptrdiff_t cols, const fanin_loss *f)
{
    const ptrdiff_t size = rows * cols;
    if (f->code == FANIN_POISSON) {
        for (ptrdiff_t k = 0; k < size; k++) {
            Z[k] = EXP(Z[k]);
        }
    } else if (f->code == FANIN_BINARY_CROSS_ENTROPY) {
        for (ptrdiff_t k = 0; k < size; k++) {
            T e = EXP(-FABS(Z[k]));
            T p = (T)1 / ((T)1 + e);
            T q = e * p;
            Z[k] = Z[k] < (T)0 ? q : p;
        }
    } else if (f->code == FANIN_SOFTMAX_CROSS_ENTROPY) {
        for (ptrdiff_t i = 0; i < rows; i++) {
            T *z = Z + i * cols, top;
            NAME(shifted_exp)(z, &top, z, 1, cols);
            double factor = 1.0 / (1.0 + NAME(sum_of_rest)(z, cols));
            for (ptrdiff_t j = 0; j < cols; j++) {
                z[j] = (T)((double)z[j] * factor);
            }
        }
    }
}
