"""Plain NumPy twins of every kernel: same name, same arguments, no tricks.

They are written to be read, and to be believed; the tests hold the kernels to
them. tests/test_registry.py fails when a public function has no test, or when a
kernel has no twin here.
"""

from __future__ import annotations

import numpy as np

# --- _activations ---------------------------------------------------------------


def activation_forward(A, activation, bias=None):
    """activation(A + bias)."""
    Z = A if bias is None else A + bias
    if activation == "logistic":
        e = np.exp(-np.abs(Z))
        return np.where(Z < 0, e / (1 + e), 1 / (1 + e)).astype(A.dtype)
    if activation == "tanh":
        return np.tanh(Z)
    if activation == "relu":
        return np.maximum(Z, 0)
    return Z.copy()


def activation_backward(dA, A, activation):
    """dA * activation'(z), where A = activation(z)."""
    if activation == "logistic":
        return dA * (A * (1 - A))
    if activation == "tanh":
        return dA * (1 - A * A)
    if activation == "relu":
        return np.where(A > 0, dA, 0).astype(dA.dtype)
    return dA.copy()


# --- _losses --------------------------------------------------------------------


def softmax(Z):
    """Softmax of each row."""
    e = np.exp(Z - Z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss_forward(Z, Y, loss, scale=1.0):
    """Return (sum of losses, scale * gradient) in float64."""
    Z = np.asarray(Z, dtype=np.float64)
    if loss == "squared_error":
        d = Z - Y
        return float((d * d).sum()), scale * 2 * d
    if loss == "binary_cross_entropy":
        losses = np.maximum(Z, 0) - Y * Z + np.log1p(np.exp(-np.abs(Z)))
        p = activation_forward(Z, "logistic")
        return float(losses.sum()), scale * (p - Y)
    if Y.ndim == 1:
        Y = np.eye(Z.shape[1])[Y]
    Y = Y.astype(np.float64)
    top = Z.max(axis=1, keepdims=True)
    lse = top + np.log(np.exp(Z - top).sum(axis=1, keepdims=True))
    total = float((Y * (lse - Z)).sum())
    return total, scale * (softmax(Z) * Y.sum(axis=1, keepdims=True) - Y)


def loss_link(Z, loss):
    """Return the prediction that the loss makes of the outputs."""
    if loss == "softmax_cross_entropy":
        return softmax(Z)
    if loss == "binary_cross_entropy":
        return activation_forward(Z, "logistic")
    return Z.copy()


# --- _optimizers ----------------------------------------------------------------


def without_subnormals(x):
    """Return x with 0 for what is below the smallest normal number."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, 0, x).astype(x.dtype)


def sgd_update(
    theta,
    gradient,
    velocity,
    learning_rate,
    momentum=0.0,
    nesterov=False,
    optimizer=None,
):
    """Return (theta, velocity) after one step."""
    if velocity is None:
        return theta - learning_rate * gradient, None
    velocity = without_subnormals(momentum * velocity + gradient)
    step = gradient + momentum * velocity if nesterov else velocity
    return theta - learning_rate * step, velocity


def adam_update(
    theta,
    gradient,
    first,
    second,
    step,
    beta_1,
    beta_2,
    correction_2,
    epsilon,
    optimizer=None,
):
    """Return (theta, first, second) after one step."""
    first = without_subnormals(beta_1 * first + (1 - beta_1) * gradient)
    second = without_subnormals(beta_2 * second + (1 - beta_2) * gradient**2)
    theta = theta - step * first / (np.sqrt(second) / correction_2 + epsilon)
    return theta, first, second


# --- _dense ---------------------------------------------------------------------


def split_parameters(layers, theta):
    """Return [(weight, bias or None)] as views of the flat vector."""
    arrays, at = [], 0
    for n_in, n_out, _, has_bias in layers:
        weight = theta[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        bias = theta[at : at + n_out] if has_bias else None
        at += n_out if has_bias else 0
        arrays.append((weight, bias))
    return arrays


def network_outputs(layers, theta, X):
    """Return [X, A_1, ..., A_L]."""
    A = [X]
    arrays = split_parameters(layers, theta)
    for (_, _, activation, _), (weight, bias) in zip(layers, arrays, strict=True):
        A.append(activation_forward(A[-1] @ weight, activation, bias))
    return A


def loss_and_gradient(layers, theta, X, y, loss):
    """Return (mean loss, flat gradient) by backpropagation."""
    A = network_outputs(layers, theta, X)
    count = X.shape[0] * (1 if loss == "softmax_cross_entropy" else A[-1].shape[1])
    total, D = loss_forward(A[-1], y, loss, 1.0 / count)
    D = activation_backward(D.astype(theta.dtype), A[-1], layers[-1][2])
    arrays = split_parameters(layers, theta)
    pieces = []
    for i in range(len(layers) - 1, -1, -1):
        weight, bias = arrays[i]
        if bias is not None:
            pieces.append(D.sum(axis=0, dtype=np.float64).astype(theta.dtype))
        pieces.append((A[i].T @ D).ravel())
        if i:
            D = activation_backward(D @ weight.T, A[i], layers[i - 1][2])
    return total / count, np.concatenate(pieces[::-1])


# --- _dense_layer ---------------------------------------------------------------


def dense_forward(out, X, weight, bias, activation, n_threads):
    """activation(X @ weight + bias) in the dtype of `out`."""
    Z = X.astype(out.dtype) @ weight.astype(out.dtype)
    out[...] = activation_forward(Z, activation, bias)


def dense_backward(dX, dweight, sums, dA, X, weight, A, bias, activation, n_threads):
    """dX = D W^T, dW = X^T D and the column sums of D = dA f'(Z)."""
    X, W, D = (a.astype(dX.dtype) for a in (X, weight, dA))
    if A is None:
        A = activation_forward(X @ W, activation, bias)
    D = activation_backward(D, A.astype(dX.dtype), activation)
    dX[...] = D @ W.T
    dweight[...] = X.T @ D
    sums[...] = D.sum(axis=0, dtype=np.float64)


# --- _perturb -------------------------------------------------------------------


def central_differences(layers, theta, X, y, loss, step):
    """Return (f_plus, f_minus, difference, span) by perturbing every entry."""
    count = X.shape[0]
    if loss != "softmax_cross_entropy":
        count *= layers[-1][1]
    f_plus, f_minus, difference, span = np.empty((4, theta.size))
    for i in range(theta.size):
        values = []
        for t in (theta[i] + step[i], theta[i] - step[i]):
            moved = theta.copy()
            moved[i] = t
            outputs = network_outputs(layers, moved, X)[-1]
            values.append(loss_forward(outputs, y, loss)[0] / count)
        f_plus[i], f_minus[i] = values
        difference[i] = values[0] - values[1]
        span[i] = (theta[i] + step[i]) - (theta[i] - step[i])
    return f_plus, f_minus, difference, span


# --- _parallel ------------------------------------------------------------------------


def probe(n_tasks, n_threads, *, n_inner=1, seconds=0.0):
    runs = np.ones((n_tasks, n_inner), np.int64)
    workers = np.zeros(n_tasks, np.intc)
    halves = np.full(n_tasks, np.finfo(np.float64).tiny / 2)
    return runs, workers, halves


# --- _blas ----------------------------------------------------------------------------


def matmul(A, B):
    return (A.astype(np.float64) @ B.astype(np.float64)).astype(A.dtype)


def matvec(A, x, transpose=False):
    A = A.T if transpose else A
    return (A.astype(np.float64) @ x.astype(np.float64)).astype(A.dtype)


# --- _fill: random weights by index -------------------------------------------------


def philox4x32(out, first, key):
    """Write word j of the counters first, ..., first + 63 to out[j].

    Philox4x32-10 of Salmon, Moraes, Dror & Shaw (SC 2011), section 3.3.
    """
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    counter = np.uint64(first) + np.arange(64, dtype=np.uint64)
    c0, c1 = counter & low, counter >> shift
    c2, c3 = (np.full(64, word, dtype=np.uint64) for word in key[2:])
    k0, k1 = (int(word) for word in key[:2])
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0 = (p1 >> shift) ^ c1 ^ np.uint64(k0)
        c1 = p1 & low
        c2 = (p0 >> shift) ^ c3 ^ np.uint64(k1)
        c3 = p0 & low
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    out[...] = c0, c1, c2, c3


def fill(out, distribution, scale, first, key, n_threads):
    """Fill `out` in C order of index; see simd/fill.c for the layout of the words.

    Uniforms have the kernel's bits. Normals are computed in float64 from the bits
    that the kernel uses, so a float32 result here is the correctly rounded one.
    """
    if out.dtype == np.float32:
        one, n_bits = np.uint32(1), 24
    else:
        one, n_bits = np.uint64(1), 53
    per_group = 1024 // out.itemsize
    n_groups = -(-out.size // per_group)
    words = np.empty((n_groups, 4, 64), dtype=np.uint32)
    for g in range(n_groups):
        philox4x32(words[g], (first + g) * 64, key)
    if out.dtype == np.float64:
        words = words[:, 0::2].astype(np.uint64) | (
            words[:, 1::2].astype(np.uint64) << np.uint64(32)
        )
    width = 8 * words.itemsize

    def sign(word):
        return 1.0 - 2.0 * (word & one).astype(np.float64)

    def unit(word):
        k = (word >> type(one)(width - n_bits + 1)).astype(np.float64)
        return (k + 0.5) * 2.0 ** (1 - n_bits)

    scale = float(out.dtype.type(scale))
    if distribution == 0:
        values = (sign(words) * unit(words)).astype(out.dtype) * out.dtype.type(scale)
    elif distribution == 1:
        radius, angle = words[:, 0::2], words[:, 1::2]
        if out.dtype == np.float32:
            u = (radius >> one).astype(np.float32) + np.float32(0.5)
            u = u.astype(np.float64) * 2.0**-31
        else:
            u = unit(radius)
        r = scale * np.sqrt(-2.0 * np.log(u))
        a = np.pi / 4 * unit(angle) * sign(angle)
        c, s = np.cos(a) * sign(angle >> one), np.sin(a)
        swap = (angle >> type(one)(2) & one).astype(bool)
        values = np.empty(words.shape)
        values[:, 0::2] = r * np.where(swap, s, c)
        values[:, 1::2] = r * np.where(swap, c, s)
    else:
        from scipy.special import erf, erfinv

        root = np.sqrt(2.0)
        cut = root * erfinv(unit(words) * erf(root))
        values = scale * sign(words) * np.minimum(cut, 2.0)
    out[...] = values.ravel()[: out.size].reshape(out.shape)


# --- _source -------------------------------------------------------------------


def column_order(X, axes):
    """The kept axes by falling stride, ties in the array's own order."""
    kept = [d for d in range(X.ndim) if d not in axes]
    return tuple(sorted(kept, key=lambda d: -abs(X.strides[d])))


def row_order(X, axes):
    """The reduced axes by falling stride, ties in the array's own order."""
    return tuple(sorted(axes, key=lambda d: -abs(X.strides[d])))


def _as_table(X, axes):
    """X as rows (reduced axes) by columns (kept axes, in `column_order`)."""
    kept = column_order(X, axes)
    table = X.transpose(row_order(X, axes) + kept)
    n_columns = int(np.prod([X.shape[d] for d in kept]))
    return table.reshape(-1, n_columns)


# --- _moments ------------------------------------------------------------------


def moments_forward(state, exponent, X, axes, n_threads):
    """Two plain passes in long double, which has digits and range to spare."""
    table = _as_table(X, axes).astype(np.longdouble)
    _weighted_moments(state, exponent, table, np.ones(len(table), np.longdouble))


def _weighted_moments(state, exponent, table, weights):
    table = table[weights > 0]
    known = ~np.isnan(table)
    w = np.where(known, weights[weights > 0][:, None], 0)
    n = w.sum(axis=0)
    with np.errstate(all="ignore"):
        mean = np.where(known, w * table, 0).sum(axis=0) / n
        d = np.where(known, table - mean, 0)
        mean = mean + (w * d).sum(axis=0) / n
        mean[n == 0] = 0
        m2 = np.where(known, w * (table - mean) ** 2, 0).sum(axis=0)
    size = np.frexp(np.max(np.abs(np.where(known, table, 0)), axis=0, initial=0))[1]
    ordinary = (np.abs(size) < 300) | ~np.isfinite(m2)
    exponent[:] = np.where(ordinary, 0, size)
    with np.errstate(all="ignore"):
        mean = np.ldexp(mean, -exponent)
        m2 = np.ldexp(m2, -2 * exponent)
        state[0] = n
        state[1] = mean
        state[2] = np.where(np.isfinite(mean), mean - state[1], 0)
        state[3] = m2
        state[4] = np.where(np.isfinite(m2), m2 - state[3], 0)
    if len(state) > 5:
        state[5] = n - state[0]
    if len(state) > 6:
        state[6] = (~known).sum(axis=0)


def moments_update(state, exponent, X, axes, weights, n_threads):
    """The moments of X, in one piece, merged into those of the state."""
    part, e = np.zeros_like(state), np.zeros_like(exponent)
    if weights is None:
        moments_forward(part, e, X, axes, n_threads)
    else:
        table = _as_table(X, axes).astype(np.longdouble)
        _weighted_moments(part, e, table, weights.astype(np.longdouble))
    moments_merge(state, exponent, part, e)


def first_bad_weight(weights):
    """The index of the first weight that is not finite or negative, or -1."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    return int(bad[0]) if bad.size else -1


def moments_finish(var, std, state, exponent, ddof):
    """Unscaled variance and standard deviation; whether any exponent is not 0."""
    n, _, _, m2, m2_lo = state[:5]
    rest = n - ddof + (state[5] if len(state) > 5 else 0)
    with np.errstate(all="ignore"):
        scaled = np.where(rest > 0, (m2 + m2_lo) / rest, np.nan)
        var[:] = np.ldexp(scaled, 2 * exponent)
        std[:] = np.ldexp(np.sqrt(scaled), exponent)
    return bool(exponent.any())


def moments_merge(state, exponent, state_b, exponent_b):
    """Chan, Golub & LeVeque's merge in long double."""

    def long(s, e):
        n, hi, lo, m2, m2_lo = s[:5].astype(np.longdouble)
        if len(s) > 5:
            n = n + s[5]
        return n, np.ldexp(hi + lo, e), np.ldexp(m2 + m2_lo, 2 * e)

    na, ma, qa = long(state, exponent)
    nb, mb, qb = long(state_b, exponent_b)
    n = na + nb
    some = np.where(n > 0, n, 1)
    d = mb - ma
    mean = ma + d * nb / some
    m2 = qa + qb + d * d * na * nb / some
    state[0] = n
    state[1] = mean
    state[2] = mean - state[1]
    state[3] = m2
    state[4] = m2 - state[3]
    if len(state) > 5:
        state[5] = n - state[0]
    if len(state) > 6 and len(state_b) > 6:
        state[6] += state_b[6]
    exponent[:] = 0


# --- _normalize ----------------------------------------------------------------


def normalize_forward(
    out, X, axes, mean, mean_lo, std, exponent, zero, inverse, n_threads
):
    """(x - mean) / std, or x std + mean, in long double."""
    kept = column_order(X, axes)
    order = tuple(axes) + kept
    source = X.transpose(order).astype(np.longdouble)
    shape = (1,) * len(axes) + tuple(X.shape[d] for d in kept)

    def across(values):
        return np.asarray(values, np.longdouble).reshape(shape)

    e = across(0 if exponent is None else exponent) if exponent is not None else None
    lo = across(mean_lo) if mean_lo is not None else np.longdouble(0)
    divisor = across(np.where(np.asarray(std) == 0, 1, std))
    with np.errstate(all="ignore"):
        if inverse:
            result = source * divisor + across(mean)
        else:
            if e is not None:
                source = np.ldexp(source, -e.astype(int))
            result = ((source - across(mean)) - lo) / divisor
            if zero:
                blank = across(std) == 0
                result = np.where(blank & ~np.isnan(result), 0, result)
        out.transpose(order)[...] = result


def normalize_small(out, X, mean, std, zero, inverse):
    """The same over axis 0, from values per feature in the shape of a row."""
    out = np.empty_like(X) if out is None else out
    rows = X.reshape(X.shape[0], -1)
    flat = (mean.reshape(-1), None, std.reshape(-1), None)
    normalize_forward(out.reshape(rows.shape), rows, (0,), *flat, zero, inverse, 1)
    return out


# --- _layer_norm ---------------------------------------------------------------


def _samples(X, axes):
    """X as samples by normalized `axes`, in long double, and the order of its axes."""
    rows = column_order(X, axes)
    columns = column_order(X, rows)
    table = X.transpose(rows + columns).astype(np.longdouble)
    n_columns = int(np.prod([X.shape[d] for d in columns]))
    return table.reshape(-1, n_columns), rows + columns


def _store(out, table, order):
    """Write a table to `out`, whose axes in this order are the table's."""
    with np.errstate(all="ignore"):
        view = out.transpose(order)
        view[...] = table.reshape(view.shape)


def _split(stats, mean, rstd):
    """Store a long double mean in two words, and the rest."""
    with np.errstate(all="ignore"):
        stats[0] = mean
        stats[1] = rstd
        if len(stats) > 2:
            stats[2] = mean - stats[0].astype(np.longdouble)
            stats[3] = 1


def _normalized(table, stats):
    """((x scale - mean) - lo) rstd, with one of each per row of the table."""
    mean, rstd, lo, scale = [*stats, *np.array([[0.0], [1.0]])][:4]
    with np.errstate(all="ignore"):
        scaled = table * np.reshape(scale, (-1, 1)) - mean[:, None]
        return (scaled - np.reshape(lo, (-1, 1))) * rstd[:, None].astype(np.longdouble)


def _inverse_root(value):
    """1 / sqrt(value), and 0 of 0."""
    with np.errstate(all="ignore"):
        return np.where(value == 0, 0, 1 / np.sqrt(value))


def layer_norm_forward(out, stats, X, axes, gamma, beta, eps, centre, known, n_threads):
    """Ba, Kiros & Hinton 2016, eq. 4; without `centre` Zhang & Sennrich 2019, eq. 4."""
    table, order = _samples(X, axes)
    with np.errstate(all="ignore"):
        if not known:
            mean = table.mean(axis=1) if centre else np.zeros(len(table), table.dtype)
            d = table - mean[:, None]
            _split(stats, mean, _inverse_root((d * d).mean(axis=1) + eps))
        _store(out, _normalized(table, stats) * gamma + beta, order)


def layer_norm_backward(
    out, sums, dY, X, axes, stats, gamma, centre, wanted, n_threads
):
    """The gradient by its formula; see simd/layer_norm.c."""
    table, order = _samples(X, axes)
    dy = dY.transpose(order).astype(np.longdouble).reshape(table.shape)
    xhat = _normalized(table, stats)
    scale = stats[3][:, None] if len(stats) > 2 else 1.0
    g = dy * gamma
    inner = g - xhat * (g * xhat).mean(axis=1, keepdims=True)
    if centre:
        inner = inner - g.mean(axis=1, keepdims=True)
    _store(out, stats[1][:, None] * scale * inner, order)
    sums[...] = ((dy * xhat).sum(axis=0), dy.sum(axis=0)) if wanted else 0.0


# --- _batch_norm ---------------------------------------------------------------


def norm_statistics(stats, state, exponent, n_rows, eps, centre):
    """Mean, 1 / sqrt(var + eps), the mean's second word, and 2^-exponent."""
    n, hi, lo, m2, m2_lo = state.astype(np.longdouble)
    with np.errstate(all="ignore"):
        scale = np.ldexp(np.longdouble(1), -exponent)
        var = (m2 + m2_lo) / n_rows
        if not centre:
            var = np.where(np.isnan(var), np.inf, var + (hi + lo) ** 2)
            hi = lo = np.zeros_like(hi)
        var[n != n_rows] = np.nan
        stats[0] = np.where(n != n_rows, np.nan, hi)
        stats[1] = _inverse_root(var + eps * scale * scale)
        stats[2] = lo
        stats[3] = scale


def batch_norm_forward(out, X, axes, stats, gamma, beta, n_threads):
    """Ioffe & Szegedy 2015, algorithm 1, from the statistics on."""
    columns = column_order(X, axes)
    table, order = _samples(X, tuple(axes))
    assert order[: len(columns)] == columns
    xhat = _normalized(table, stats)
    with np.errstate(all="ignore"):
        _store(out, xhat * gamma[:, None] + beta[:, None], order)


def batch_norm_backward(
    out, sums, dY, X, axes, stats, gamma, training, wanted, n_threads
):
    """The gradient by its formula; see simd/batch_norm.c."""
    table, order = _samples(X, tuple(axes))
    dy = dY.transpose(order).astype(np.longdouble).reshape(table.shape)
    xhat = _normalized(table, stats)
    inner = dy
    if training:
        inner = dy - dy.mean(axis=1, keepdims=True)
        inner = inner - xhat * (dy * xhat).mean(axis=1, keepdims=True)
    slope = gamma * stats[1] * stats[3]
    _store(out, slope[:, None] * inner, order)
    given = training or wanted
    sums[...] = ((dy * xhat).sum(axis=1), dy.sum(axis=1)) if given else 0.0
