"""Plain NumPy twins of every kernel: same name, same arguments, no tricks.

They are written to be read, and to be believed; the tests hold the kernels to
them. tests/test_registry.py fails when a public function has no test, or when a
kernel has no twin here.
"""

from __future__ import annotations

import math

import numpy as np

# --- _activations ---------------------------------------------------------------


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def logistic(z):
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e / (1 + e), 1 / (1 + e))


def gelu_tanh_argument(z):
    """u of z * logistic(u), and du/dz."""
    c = 2 * math.sqrt(2 / math.pi)
    return c * (z + 0.044715 * z**3), c * (1 + 3 * 0.044715 * z**2)


def activation_apply(out, X, activation, parameter, derivative, n_threads):
    """f(X), or f'(X), computed in float64; of what only speed depends on, nothing."""
    z = np.asarray(X, dtype=np.float64)
    lower = np.minimum(z, 0)
    # Far out, z * 0 is 0 also for an infinite z.
    tail = np.clip(z, -1e3, 1e3)
    with np.errstate(under="ignore"):
        s = logistic(z)
        if activation == "identity":
            f, slope = z, np.ones_like(z)
        elif activation == "logistic":
            f, slope = s, s * logistic(-z)
        elif activation == "tanh":
            f, slope = np.tanh(z), 4 * logistic(2 * z) * logistic(-2 * z)
        elif activation == "relu":
            f, slope = np.maximum(z, 0), np.where(z > 0, 1.0, 0.0)
        elif activation == "leaky_relu":
            f, slope = np.where(z > 0, z, parameter * z), np.where(z > 0, 1, parameter)
        elif activation == "elu":
            f = np.where(z > 0, z, parameter * np.expm1(lower))
            slope = np.where(z > 0, 1, parameter * np.exp(lower))
        elif activation == "selu":
            f = SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(lower))
            slope = SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(lower))
        elif activation == "softplus":
            f, slope = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), s
        elif activation == "silu":
            f = np.where(z > 0, z, tail) * s
            slope = s * (1 + tail * logistic(-z))
        elif activation == "gelu":
            phi = np.exp(-(tail**2) / 2) / math.sqrt(2 * math.pi)
            below = erfc(-z / math.sqrt(2)) / 2
            f, slope = np.where(z > 0, z, tail) * below, below + tail * phi
        elif activation == "gelu_tanh":
            u, du = gelu_tanh_argument(tail)
            f = np.where(z > 0, z, tail) * logistic(u)
            slope = logistic(u) * (1 + tail * du * logistic(-u))
    return (slope if derivative else f).astype(out.dtype)


def activation_forward(A, activation, bias=None, parameter=0.0, P=None, Z=None):
    """f(P + bias), for P = A where it is not given; Z becomes what f is taken of."""
    z = A if P is None else P
    z = z if bias is None else z + bias
    if Z is not None:
        Z[...] = z
    return activation_apply(z, z, activation, parameter, False, 1)


def activation_backward(dA, A, activation, parameter=0.0, Z=None):
    """dA * f'(z), from A = f(z) or, where that does not tell f'(z), from Z = z."""
    if needs_input(activation, parameter):
        return dA * activation_apply(Z, Z, activation, parameter, True, 1)
    if activation == "logistic":
        return dA * (A * (1 - A))
    if activation == "tanh":
        return dA * (1 - A * A)
    if activation == "softplus":
        return dA * -np.expm1(-A)
    slope = {"identity": 1, "relu": 0, "leaky_relu": parameter, "elu": A + parameter}
    slope["selu"] = A + SELU_SCALE * SELU_ALPHA
    above = SELU_SCALE if activation == "selu" else 1
    return np.where(A > 0, above * dA, dA * slope[activation]).astype(dA.dtype)


def needs_input(activation, parameter=0.0):
    """Whether the backward pass takes z: f(z) does not tell f'(z) there."""
    if activation in ("leaky_relu", "elu"):
        return parameter < 0
    return activation in ("silu", "gelu", "gelu_tanh")


# --- _losses --------------------------------------------------------------------


def softmax(Z):
    """Softmax of each row."""
    e = np.exp(Z - Z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss_forward(
    Z,
    Y,
    loss,
    scale=1.0,
    parameter=0.0,
    quantiles=None,
    weight=None,
    gradient=True,
    n_threads=1,
):
    """Return (sum of losses, scale * gradient or None) in float64."""
    Z = np.asarray(Z, dtype=np.float64)
    weight = np.ones(len(Z)) if weight is None else weight
    if loss == "softmax_cross_entropy":
        if Y.ndim == 1:
            Y = np.eye(Z.shape[1])[Y.astype(np.intp)]
        Y = (1 - parameter) * Y.astype(np.float64) + parameter / Z.shape[1]
        top = Z.max(axis=1, keepdims=True)
        lse = top + np.log(np.exp(Z - top).sum(axis=1, keepdims=True))
        losses = Y * (lse - Z)
        slopes = softmax(Z) * Y.sum(axis=1, keepdims=True) - Y
    else:
        Y = np.asarray(Y, dtype=np.float64)
        d = Z - Y
        if loss == "squared_error":
            losses, slopes = d**2, 2 * d
        elif loss == "absolute_error":
            losses, slopes = np.abs(d), np.sign(d)
        elif loss == "huber":
            inside = np.abs(d) <= parameter
            outside = parameter * (np.abs(d) - parameter / 2)
            losses = np.where(inside, d**2 / 2, outside)
            slopes = np.where(inside, d, parameter * np.sign(d))
        elif loss == "quantile":
            q = np.array(parameter if quantiles is None else quantiles)
            losses = np.maximum(-q * d, (1 - q) * d)
            slopes = np.where(d > 0, 1 - q, np.where(d < 0, -q, 0.0))
        elif loss == "poisson":
            losses, slopes = np.exp(Z) - Y * Z, np.exp(Z) - Y
        else:
            losses = np.maximum(Z, 0) - Y * Z + np.log1p(np.exp(-np.abs(Z)))
            slopes = activation_forward(Z, "logistic") - Y
    total = float((weight * losses.sum(axis=1)).sum())
    return total, scale * weight[:, np.newaxis] * slopes if gradient else None


def loss_link(Z, loss):
    """Return the prediction that the loss makes of the outputs."""
    if loss == "softmax_cross_entropy":
        return softmax(Z)
    if loss == "binary_cross_entropy":
        return activation_forward(Z, "logistic")
    if loss == "poisson":
        return np.exp(Z)
    return Z.copy()


# --- _optimizers ----------------------------------------------------------------


def without_subnormals(x):
    """Return x with 0 for what is below the smallest normal number."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, 0, x).astype(x.dtype)


def gradient_norm(gradient, n_threads=1):
    """Return the Euclidean norm, in float64."""
    greatest = np.abs(gradient).max(initial=0).astype(np.float64)
    if greatest == 0 or not np.isfinite(greatest):
        return float(greatest)
    scaled = gradient.astype(np.float64) / greatest  # whose squares do not overflow
    return float(greatest * np.sqrt((scaled * scaled).sum()))


def sgd_update(theta, g, velocity, rate, momentum, nesterov):
    """Return (theta, velocity) after one step."""
    if velocity is None:
        return theta - rate * g, None
    velocity = without_subnormals(momentum * velocity + g)
    step = g + momentum * velocity if nesterov else velocity
    return theta - rate * step, velocity


def rmsprop_update(theta, g, velocity, square, mean, rate, momentum, alpha, epsilon):
    """Return (theta, velocity, square, mean) after one step."""
    square = without_subnormals(alpha * square + (1 - alpha) * g**2)
    variance = square
    if mean is not None:
        mean = without_subnormals(alpha * mean + (1 - alpha) * g)
        variance = np.maximum(square - mean**2, 0)
    step = g / (np.sqrt(variance) + epsilon)
    if velocity is not None:
        step = velocity = without_subnormals(momentum * velocity + step)
    return theta - rate * step, velocity, square, mean


def adam_update(
    theta, g, first, second, greatest, rate, beta_1, beta_2, correction_2, epsilon, keep
):
    """Return (theta, first, second, greatest) after one step."""
    first = without_subnormals(beta_1 * first + (1 - beta_1) * g)
    second = without_subnormals(beta_2 * second + (1 - beta_2) * g**2)
    used = second
    if greatest is not None:
        used = greatest = np.maximum(greatest, second)
    step = rate * first / (np.sqrt(used) / correction_2 + epsilon)
    return keep * theta - step, first, second, greatest


def optimizer_update(
    theta, gradient, numbers, decayed=None, n_threads=1, optimizer=None
):
    """Return (theta, first, second, third) after one step."""
    (kind, rate, beta_1, beta_2, correction_2, epsilon, keep, max_norm, max_value,
     first, second, third) = numbers  # fmt: skip
    g = gradient
    if max_norm is not None:
        g = g * theta.dtype.type(min(1.0, max_norm / (gradient_norm(g) + 1e-6)))
    if max_value is not None:
        g = np.clip(g, -max_value, max_value)
    if kind == "rmsprop":
        return rmsprop_update(
            theta, g, first, second, third, rate, beta_1, beta_2, epsilon
        )
    if kind == "adam":
        kept = np.full(theta.shape, keep if decayed is None else 1.0, theta.dtype)
        for start, stop in () if decayed is None else decayed:
            kept[start:stop] = keep
        return adam_update(
            theta, g, first, second, third, rate, beta_1, beta_2, correction_2,
            epsilon, kept,
        )  # fmt: skip
    theta, first = sgd_update(theta, g, first, rate, beta_1, kind == "nesterov")
    return theta, first, second, third


# --- _plan ----------------------------------------------------------------------


def split_parameters(layers, n_inputs, theta):
    """Return a dict of views of the flat vector for each layer."""
    arrays, at, n = [], 0, n_inputs
    for layer in layers:
        shapes = {}
        if layer["kind"] == "dense":
            shapes["weight"] = (n, layer["n_out"])
            n = layer["n_out"]
            if layer["bias"]:
                shapes["bias"] = (n,)
        elif layer.get("affine"):
            shapes["gamma"] = (n,)
            if layer["kind"] != "rms_norm":
                shapes["beta"] = (n,)
        views = {}
        for name, shape in shapes.items():
            views[name] = theta[at : at + np.prod(shape)].reshape(shape)
            at += np.prod(shape)
        arrays.append(views)
    assert at == theta.size
    return arrays


def dropout_mask(key, draw, number, rate, shape):
    """Return 1 / (1 - rate) where a value is kept, else 0: see _operations.pyx."""
    words = np.empty((4, 64), np.uint64)
    philox4x32(words, draw, [*key, number, 0x64726F70])
    own = [int(words[0, 0]), int(words[1, 0]), number, 0x64726F70]
    stream = np.empty((-(-np.prod(shape) // 256), 4, 64), np.uint64)
    for group, out in enumerate(stream):
        philox4x32(out, group * 64, own)
    kept = stream.ravel()[: np.prod(shape)].reshape(shape) >= int(rate * 2**32)
    return kept / (1.0 - rate)


def _network(layers, theta, X, state, training, key, draw):
    """Return the outputs of the layers, X first, and what each needs backward."""
    A, kept, at = [X], [], 0
    parameters = split_parameters(layers, X.shape[1], theta)
    for number, (layer, own) in enumerate(zip(layers, parameters, strict=True)):
        x, n = A[-1], A[-1].shape[1]
        kind = layer["kind"]
        if kind in ("dense", "activation"):
            z = x @ own["weight"] if kind == "dense" else x
            z = z + own["bias"] if "bias" in own else z
            A.append(
                activation_forward(z, layer["activation"], parameter=layer["parameter"])
            )
            kept.append(z)
        elif kind == "dropout":
            mask = np.ones(x.shape)
            if training:
                mask = dropout_mask(key, draw, number, layer["rate"], x.shape)
            A.append(np.where(mask > 0, x * mask, 0).astype(x.dtype))
            kept.append(mask)
        else:
            axis = 0 if kind == "batch_norm" else 1
            wide = x.astype(np.float64)
            mean = wide.mean(axis, keepdims=True)
            if kind == "rms_norm":
                mean = np.zeros_like(mean)
            var = ((wide - mean) ** 2).mean(axis, keepdims=True)
            if kind == "batch_norm":
                if not training:
                    mean, var = state[at : at + n], state[at + n : at + 2 * n]
                at += 2 * n
            rstd = 1 / np.sqrt(var + layer["eps"])
            xhat = (wide - mean) * rstd
            y = xhat * own.get("gamma", 1.0) + own.get("beta", 0.0)
            A.append(y.astype(x.dtype))
            kept.append((xhat, rstd))
    return A, kept


def network_outputs(layers, theta, X, state=None, training=False, key=(0, 0), draw=0):
    """Return [X, A_1, ..., A_L]."""
    return _network(layers, theta, X, state, training, key, draw)[0]


def network_gradient(
    layers, theta, X, dA, state=None, training=False, key=(0, 0), draw=0
):
    """Return (flat gradient, dX) of the scalar whose gradient by the output is dA."""
    return _backward(layers, theta, X, dA, (state, training, key, draw))[:2]


def network_signals(
    layers, theta, X, dA, state=None, training=False, key=(0, 0), draw=0
):
    """Return the layers' outputs and the gradients with respect to them or their z."""
    mode = (state, training, key, draw)
    outputs = network_outputs(layers, theta, X, *mode)[1:]
    return outputs, _backward(layers, theta, X, dA, mode)[2]


def _backward(layers, theta, X, dA, mode):
    """Return (flat gradient, dX, dL/dz of each layer)."""
    training = mode[1]
    A, kept = _network(layers, theta, X, *mode)
    parameters = split_parameters(layers, X.shape[1], theta)
    D, pieces, signals = dA.astype(theta.dtype), [], []
    for i in range(len(layers) - 1, -1, -1):
        layer, own = layers[i], parameters[i]
        kind = layer["kind"]
        found = []
        if kind in ("dense", "activation"):
            D = activation_backward(
                D, A[i + 1], layer["activation"], layer["parameter"], kept[i]
            )
        signals.insert(0, D)
        if kind in ("dense", "activation"):
            if kind == "dense":
                found.append(A[i].T @ D)
                if "bias" in own:
                    found.append(D.sum(axis=0, dtype=np.float64))
                D = D @ own["weight"].T
        elif kind == "dropout":
            D = np.where(kept[i] > 0, D * kept[i], 0).astype(D.dtype)
        else:
            xhat, rstd = kept[i]
            if "gamma" in own:
                found.append((D * xhat).sum(axis=0))
            if "beta" in own:
                found.append(D.sum(axis=0, dtype=np.float64))
            g = D * np.float64(own.get("gamma", 1.0))
            if kind != "batch_norm" or training:
                axis = 0 if kind == "batch_norm" else 1
                mean = 0.0 if kind == "rms_norm" else g.mean(axis, keepdims=True)
                g = g - mean - xhat * (g * xhat).mean(axis, keepdims=True)
            D = (g * rstd).astype(theta.dtype)
        pieces += [array.astype(theta.dtype).ravel() for array in found[::-1]]
    gradient = np.concatenate([*pieces[::-1], np.empty(0, theta.dtype)])
    return gradient, D, signals


def loss_and_gradient(
    layers,
    theta,
    X,
    y,
    loss,
    state=None,
    training=False,
    key=(0, 0),
    draw=0,
    weights=None,
):
    """Return (mean loss, flat gradient, dX) by backpropagation."""
    mode = (state, training, key, draw)
    Z = network_outputs(layers, theta, X, *mode)[-1]
    count = X.shape[0] if weights is None else weights.sum()
    if loss.name != "softmax_cross_entropy":
        count *= Z.shape[1]
    total, dZ = loss_forward(
        Z, y, loss.name, 1.0 / count, loss.parameter, loss.quantiles, weights
    )
    gradient, dX = network_gradient(layers, theta, X, dZ, *mode)
    value = total / count
    slopes = split_parameters(layers, X.shape[1], gradient)
    parameters = split_parameters(layers, X.shape[1], theta)
    for layer, own, slope in zip(layers, parameters, slopes, strict=True):
        if layer.get("l2"):
            value += layer["l2"] / 2 * (own["weight"].astype(np.float64) ** 2).sum()
            slope["weight"] += theta.dtype.type(layer["l2"]) * own["weight"]
    return value, gradient, dX


# --- _signals -------------------------------------------------------------------


def observe(statistics, A, low, high, n_threads):
    """Fill mean less the first value, standard deviation, counts, largest."""
    wide = A.astype(np.float64)
    statistics[6] = np.where(np.isfinite(wide[0]), wide[0], 0.0)
    moved = wide - statistics[6]
    statistics[0] = moved.mean(axis=0)
    statistics[1] = np.sqrt(((moved - statistics[0]) ** 2).mean(axis=0))
    statistics[2] = ((wide <= low) | (wide >= high)).sum(axis=0)
    statistics[3] = (A == 0).sum(axis=0)
    statistics[4] = abs(wide).max(axis=0)
    statistics[5] = np.isnan(wide).sum(axis=0)


# --- _dense_layer ---------------------------------------------------------------


def dense_forward(out, X, weight, bias, activation, parameter, n_threads):
    """activation(X @ weight + bias) in the dtype of `out`."""
    Z = X.astype(out.dtype) @ weight.astype(out.dtype)
    out[...] = activation_forward(Z, activation, bias, parameter)


def dense_backward(
    dX, dweight, sums, dA, X, weight, A, bias, activation, parameter, n_threads
):
    """dX = D W^T, dW = X^T D and the column sums of D = dA f'(Z)."""
    X, W, D = (a.astype(dX.dtype) for a in (X, weight, dA))
    Z = X @ W if bias is None else X @ W + bias
    if A is None:
        A = activation_forward(Z, activation, None, parameter)
    D = activation_backward(D, A.astype(dX.dtype), activation, parameter, Z)
    dX[...] = D @ W.T
    dweight[...] = X.T @ D
    sums[...] = D.sum(axis=0, dtype=np.float64)


# --- _perturb -------------------------------------------------------------------


def central_differences(layers, theta, X, y, loss, step):
    """Return (f_plus, f_minus, difference, span) by perturbing every entry."""
    f_plus, f_minus, difference, span = np.empty((4, theta.size))
    for i in range(theta.size):
        values = []
        for t in (theta[i] + step[i], theta[i] - step[i]):
            moved = theta.copy()
            moved[i] = t
            values.append(loss_and_gradient(layers, moved, X, y, loss)[0])
        f_plus[i], f_minus[i] = values
        difference[i] = values[0] - values[1]
        span[i] = (theta[i] + step[i]) - (theta[i] - step[i])
    return f_plus, f_minus, difference, span


# --- _increments ----------------------------------------------------------------------


def loss_changes(
    layers,
    theta,
    X,
    y,
    loss,
    step,
    selected,
    state=None,
    training=False,
    key=(0, 0),
    draw=0,
    weights=None,
):
    """Return (plus, minus, span) by differences of whole losses."""
    mode = (state, training, key, draw, weights)
    base = loss_and_gradient(layers, theta, X, y, loss, *mode)[0]
    plus, minus, span = np.zeros((3, theta.size))
    for i in np.flatnonzero(selected):
        for changes, t in ((plus, theta[i] + step[i]), (minus, theta[i] - step[i])):
            moved = theta.copy()
            moved[i] = t
            value = loss_and_gradient(layers, moved, X, y, loss, *mode)[0]
            changes[i] = value - base
        span[i] = (theta[i] + step[i]) - (theta[i] - step[i])
    return plus, minus, span


def quotients(plus, minus, span, expected, near, n_threads=1):
    """Return (out, whether all of them are near)."""
    with np.errstate(divide="ignore"):
        out = (plus - minus) / span
    close = np.abs(out - expected) <= near * np.abs(expected)
    close &= np.isfinite(expected)
    return out, bool((close | (span == 0.0)).all())


# --- _callback ------------------------------------------------------------------


def callback_differences(fun, theta, entries, plus, minus):
    """Return (f_plus, f_minus), with one entry of theta changed at a time."""
    found = np.empty((2, entries.size))
    for k, i in enumerate(entries):
        for row, point in zip(found, (plus[k], minus[k]), strict=True):
            moved = theta.copy()
            moved[i] = point
            row[k] = fun(moved)
    return found


# --- _parallel ------------------------------------------------------------------------


def probe(n_tasks, n_threads, *, n_inner=1, seconds=0.0):
    runs = np.ones((n_tasks, n_inner), np.int64)
    workers = np.zeros(n_tasks, np.intc)
    halves = np.full(n_tasks, np.finfo(np.float64).tiny / 2)
    return runs, workers, halves


# --- _blas ----------------------------------------------------------------------------


def matmul(A, B, transpose_a=False, transpose_b=False, C=None, alpha=1, beta=0):
    left = (A.T if transpose_a else A).astype(np.float64)
    right = (B.T if transpose_b else B).astype(np.float64)
    product = alpha * (left @ right)
    if beta != 0:
        product += beta * C.astype(np.float64)
    return product.astype(A.dtype)


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
