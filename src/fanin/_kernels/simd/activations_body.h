/* The formulas and loops of activations.c for one element type: T, U (its bits),
 * NAME(x), EXP(x) and the constants below. No include guard: activations.c includes
 * this file once per type. */

static inline T NAME(positive_part)(T z) { return z < 0 ? 0 : z; }

static inline T NAME(logistic)(T z) { return LOGISTIC(-z); }

static inline T NAME(tanh)(T z)
{
    T power, q = EXP(beside_one)(-2 * ABS(z), &power);
    T minus = (1 - power) - power * q, plus = (1 + power) + power * q;
    return COPYSIGN(minus / plus, z);
}

static inline T NAME(softplus)(T z)
{
    return NAME(positive_part)(z) + LOG1P(EXP(negative)(-ABS(z)));
}

/* alpha expm1(z) for z <= 0, z for the others. */
static inline T NAME(elu)(T z, T scale, T alpha)
{
    return scale * (z > 0 ? z : alpha * EXPM1(z > 0 ? (T)0 : z));
}

/* z of Phi and the like: |z|, but no further than where the result is 0. */
static inline T NAME(bounded)(T z, T bound)
{
    T t = ABS(z);
    return t > bound ? bound : t;
}

/* t logistic(x), x <= 0, subnormal results rounded once. */
static inline T NAME(tail)(T t, T x)
{
    T power, q = EXP(parts)(x, 0, &power);
    T e = (q * power + power) * UNDO;
    return (t * q + t) / (1 + e) * power * UNDO;
}

static inline T NAME(silu)(T z)
{
    T t = NAME(bounded)(z, SILU_BOUND);
    return NAME(positive_part)(z) - NAME(tail)(t, -t);
}

/* -u(t) = -2 sqrt(2 / pi) (t + 0.044715 t^3) */
static inline T NAME(minus_u)(T t)
{
    return t * (t * t * (T)-0.071354816272600242 - (T)1.5957691216057307);
}

static inline T NAME(gelu_tanh)(T z)
{
    T t = NAME(bounded)(z, GELU_TANH_BOUND);
    return NAME(positive_part)(z) - NAME(tail)(t, NAME(minus_u)(t));
}

/* exp(-t^2 / 2) as parts: t^2 = h^2 + (t - h)(t + h), where h has half of t's digits
 * and its square is exact. */
static inline T NAME(gauss)(T t, T *power)
{
    U bits;
    T h;
    memcpy(&bits, &t, sizeof t);
    bits &= HALF_MASK;
    memcpy(&h, &bits, sizeof t);
    return EXP(parts)(h * h * (T)-0.5, (h - t) * (t + h) * (T)0.5, power);
}

static inline T NAME(gelu)(T z)
{
    T t = NAME(bounded)(z, GELU_BOUND);
    T power, q = NAME(gauss)(t, &power);
    T v = (t * q + t) * NAME(mills_above)(t) / NAME(mills_below)(t);
    return NAME(positive_part)(z) - v * power * UNDO;
}

/* The derivatives, from z. That of z s(z), s a distribution function, is h(t) at
 * z = -t and 1 - h(t) at z = t. */
static inline T NAME(logistic_slope)(T z)
{
    T e = EXP(negative)(-ABS(z)), y = 1 / (1 + e);
    return e * y * y;
}

static inline T NAME(tanh_slope)(T z)
{
    T e = EXP(negative)(-2 * ABS(z)), y = 1 / (1 + e);
    return 4 * e * y * y;
}

static inline T NAME(elu_slope)(T z, T scale, T alpha)
{
    return scale * (z > 0 ? (T)1 : alpha * EXP(negative)(z > 0 ? (T)0 : z));
}

static inline T NAME(silu_slope)(T z)
{
    T t = NAME(bounded)(z, SILU_BOUND);
    T e = EXP(negative)(-t), y = 1 / (1 + e), h = e * y * (1 - t * y);
    return z < 0 ? h : 1 - h;
}

static inline T NAME(gelu_tanh_slope)(T z)
{
    T t = NAME(bounded)(z, GELU_TANH_BOUND);
    T e = EXP(negative)(NAME(minus_u)(t)), y = 1 / (1 + e);
    T du = t * t * (T)0.21406444881780073 + (T)1.5957691216057307;
    T h = e * y * (1 - t * du * y);
    return z < 0 ? h : 1 - h;
}

static inline T NAME(gelu_slope)(T z)
{
    T t = NAME(bounded)(z, GELU_BOUND);
    T power, q = NAME(gauss)(t, &power);
    T w = NAME(mills_above)(t) / NAME(mills_below)(t) - t * (T)0.39894228040143268;
    T h = (w * q + w) * power * UNDO;
    return z < 0 ? h : 1 - h;
}

/* One loop per function, so that the compiler vectorizes each; y may be x. */
#define MAP(function, expression)                                                  \
    static void NAME(function##_map)(T *y, const T *x, ptrdiff_t n, T p)           \
    {                                                                              \
        (void)p;                                                                   \
        FANIN_INDEPENDENT                                                          \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            T z = x[i];                                                            \
            y[i] = expression;                                                     \
        }                                                                          \
    }
#define TIMES(function, v, expression)                                             \
    static void NAME(function)(T *d, const T *x, ptrdiff_t n, T p)                 \
    {                                                                              \
        (void)p;                                                                   \
        FANIN_INDEPENDENT                                                          \
        for (ptrdiff_t i = 0; i < n; i++) {                                        \
            T v = x[i];                                                            \
            d[i] = expression;                                                     \
        }                                                                          \
    }

MAP(identity, z)
MAP(relu, NAME(positive_part)(z))
MAP(leaky_relu, z > 0 ? z : p * z)
MAP(elu, NAME(elu)(z, 1, p))
MAP(selu, NAME(elu)(z, SELU_SCALE, SELU_ALPHA))
MAP(softplus, NAME(softplus)(z))
MAP(silu, NAME(silu)(z))
MAP(gelu_tanh, NAME(gelu_tanh)(z))
#if !IN_LANES /* else in activations_lanes.h */
MAP(logistic, NAME(logistic)(z))
MAP(tanh, NAME(tanh)(z))
MAP(gelu, NAME(gelu)(z))
#endif

/* d *= f'(z) from z */
static void NAME(identity_from_z)(T *d, const T *x, ptrdiff_t n, T p)
{
    (void)d, (void)x, (void)n, (void)p;
}

TIMES(logistic_from_z, z, d[i] * NAME(logistic_slope)(z))
TIMES(tanh_from_z, z, d[i] * NAME(tanh_slope)(z))
TIMES(relu_from_z, z, z > 0 ? d[i] : 0)
TIMES(leaky_relu_from_z, z, z > 0 ? d[i] : p * d[i])
TIMES(elu_from_z, z, d[i] * NAME(elu_slope)(z, 1, p))
TIMES(selu_from_z, z, d[i] * NAME(elu_slope)(z, SELU_SCALE, SELU_ALPHA))
TIMES(softplus_from_z, z, d[i] * NAME(logistic)(z))
TIMES(silu_from_z, z, d[i] * NAME(silu_slope)(z))
TIMES(gelu_from_z, z, d[i] * NAME(gelu_slope)(z))
TIMES(gelu_tanh_from_z, z, d[i] * NAME(gelu_tanh_slope)(z))

/* and from a = f(z); what is the same from a as from z is not repeated */
TIMES(logistic_from_a, a, d[i] * (a * (1 - a)))
TIMES(tanh_from_a, a, d[i] * (1 - a * a))
TIMES(elu_from_a, a, d[i] * (a > 0 ? (T)1 : a + p))
TIMES(selu_from_a, a, d[i] * (a > 0 ? SELU_SCALE : a + SELU_SCALE * SELU_ALPHA))
TIMES(softplus_from_a, a, d[i] * -EXPM1(-a))

#undef MAP
#undef TIMES

typedef void (*NAME(loop))(T *, const T *, ptrdiff_t, T);

static NAME(loop) const NAME(maps)[] = {
    [FANIN_IDENTITY] = NAME(identity_map),
    [FANIN_LOGISTIC] = NAME(logistic_map),
    [FANIN_TANH] = NAME(tanh_map),
    [FANIN_RELU] = NAME(relu_map),
    [FANIN_LEAKY_RELU] = NAME(leaky_relu_map),
    [FANIN_ELU] = NAME(elu_map),
    [FANIN_SELU] = NAME(selu_map),
    [FANIN_SOFTPLUS] = NAME(softplus_map),
    [FANIN_SILU] = NAME(silu_map),
    [FANIN_GELU] = NAME(gelu_map),
    [FANIN_GELU_TANH] = NAME(gelu_tanh_map),
};

static NAME(loop) const NAME(from_z)[] = {
    [FANIN_IDENTITY] = NAME(identity_from_z),
    [FANIN_LOGISTIC] = NAME(logistic_from_z),
    [FANIN_TANH] = NAME(tanh_from_z),
    [FANIN_RELU] = NAME(relu_from_z),
    [FANIN_LEAKY_RELU] = NAME(leaky_relu_from_z),
    [FANIN_ELU] = NAME(elu_from_z),
    [FANIN_SELU] = NAME(selu_from_z),
    [FANIN_SOFTPLUS] = NAME(softplus_from_z),
    [FANIN_SILU] = NAME(silu_from_z),
    [FANIN_GELU] = NAME(gelu_from_z),
    [FANIN_GELU_TANH] = NAME(gelu_tanh_from_z),
};

/* NULL where a does not tell z. */
static NAME(loop) const NAME(from_a)[] = {
    [FANIN_IDENTITY] = NAME(identity_from_z),
    [FANIN_LOGISTIC] = NAME(logistic_from_a),
    [FANIN_TANH] = NAME(tanh_from_a),
    [FANIN_RELU] = NAME(relu_from_z),
    [FANIN_LEAKY_RELU] = NAME(leaky_relu_from_z),
    [FANIN_ELU] = NAME(elu_from_a),
    [FANIN_SELU] = NAME(selu_from_a),
    [FANIN_SOFTPLUS] = NAME(softplus_from_a),
    [FANIN_SILU] = NULL,
    [FANIN_GELU] = NULL,
    [FANIN_GELU_TANH] = NULL,
};

/* dest = P + bias, which may be in place */
static void NAME(add_bias)(T *dest, ptrdiff_t ldd, const T *P, ptrdiff_t ldp,
                           const T *bias, ptrdiff_t rows, ptrdiff_t cols)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        T *d = dest + i * ldd;
        const T *p = P + i * ldp;
        if (bias != NULL) {
            FANIN_INDEPENDENT
            for (ptrdiff_t j = 0; j < cols; j++) {
                d[j] = p[j] + bias[j];
            }
        } else if (d != p) {
            memcpy(d, p, (size_t)cols * sizeof(T));
        }
    }
}

static void NAME(forward)(T *A, ptrdiff_t lda, const T *P, ptrdiff_t ldp, const T *bias,
                          T *Z, ptrdiff_t ldz, ptrdiff_t rows, ptrdiff_t cols,
                          int activation, double parameter)
{
    NAME(loop) map = NAME(maps)[activation];
    T p = (T)parameter;
    /* z goes to Z, or to A to be changed there; without a bias to where it is. */
    int copied = bias != NULL || Z != NULL;
    T *dest = Z != NULL ? Z : A;
    ptrdiff_t ldd = Z != NULL ? ldz : lda, step = 1;
    if (lda == cols && (copied ? ldd : ldp) == cols) {
        /* Whole rows end to end: some at once, as many as stay in the L1 cache. */
        step = !copied ? rows : cols >= BLOCK ? 1 : BLOCK / cols;
    }
    for (ptrdiff_t i = 0; i < rows; i += step) {
        ptrdiff_t n = i + step < rows ? step : rows - i;
        const T *z = P + i * ldp;
        if (copied) {
            NAME(add_bias)(dest + i * ldd, ldd, z, ldp, bias, n, cols);
            z = dest + i * ldd;
        }
        if (activation != FANIN_IDENTITY || z != A + i * lda) {
            map(A + i * lda, z, n * cols, p);
        }
    }
}

static void NAME(backward)(T *D, ptrdiff_t ldd, const T *A, ptrdiff_t lda, const T *Z,
                           ptrdiff_t ldz, ptrdiff_t rows, ptrdiff_t cols,
                           int activation, double parameter)
{
    int from_z = fanin_activation_needs_input(activation, parameter);
    NAME(loop) times = (from_z ? NAME(from_z) : NAME(from_a))[activation];
    const T *x = from_z ? Z : A;
    ptrdiff_t ldx = from_z ? ldz : lda;
    if (activation == FANIN_IDENTITY) {
        return;
    }
    if (ldd == cols && ldx == cols) { /* one long row */
        cols *= rows;
        rows = rows > 0;
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        times(D + i * ldd, x + i * ldx, cols, (T)parameter);
    }
}

static void NAME(apply)(T *y, const T *x, ptrdiff_t n, int activation, double parameter,
                        int derivative, int past)
{
#if IN_LANES
    if (!derivative && NAME(applies)[activation] != NULL) {
        NAME(applies)[activation](y, x, n, past);
        return;
    }
#endif
    FANIN_ALIGNED T chunk[CHUNK];
    NAME(loop) map = (derivative ? NAME(from_z) : NAME(maps))[activation];
    T p = (T)parameter;
    ptrdiff_t size, to_line = past ? fanin_to_line(y) / (ptrdiff_t)sizeof(T) : 0;
    for (ptrdiff_t i = 0; i < n; i += size) {
        /* Up to the first line, then whole lines as long as there are any. */
        size = i == 0 && to_line > 0 ? to_line : CHUNK;
        size = size < n - i ? size : n - i;
        int lines = past && size % PER_LINE == 0 && i >= to_line;
        for (ptrdiff_t k = 0; k < size; k += PER_LINE) {
            fanin_read_ahead(x + i + k, FANIN_AHEAD);
        }
        if (!derivative && !lines) {
            map(y + i, x + i, size, p);
            continue;
        }
        for (ptrdiff_t k = 0; derivative && k < size; k++) {
            chunk[k] = 1;
        }
        map(chunk, x + i, size, p);
        if (!lines) {
            memcpy(y + i, chunk, (size_t)size * sizeof(T));
            continue;
        }
        for (ptrdiff_t k = 0; k < size; k += PER_LINE) {
            fanin_write_past(y + i + k, chunk + k);
        }
    }
    if (past) {
        fanin_write_done();
    }
}

#undef T
#undef U
#undef NAME
#undef ABS
#undef COPYSIGN
#undef EXP
#undef EXPM1
#undef LOG1P
#undef LOGISTIC
#undef UNDO
#undef HALF_MASK
#undef SILU_BOUND
#undef GELU_TANH_BOUND
#undef GELU_BOUND
#undef SELU_SCALE
#undef SELU_ALPHA
#undef BLOCK
#undef CHUNK
#undef PER_LINE
#undef IN_LANES
