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


def sgd_update(theta, gradient, velocity, learning_rate, momentum=0.0, nesterov=False):
    """Return (theta, velocity) after one step."""
    if velocity is None:
        return theta - learning_rate * gradient, None
    velocity = momentum * velocity + gradient
    step = gradient + momentum * velocity if nesterov else velocity
    return theta - learning_rate * step, velocity


def adam_update(
    theta, gradient, first, second, step, beta_1, beta_2, correction_2, epsilon
):
    """Return (theta, first, second) after one step."""
    first = beta_1 * first + (1 - beta_1) * gradient
    second = beta_2 * second + (1 - beta_2) * gradient**2
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


# --- _perturb -------------------------------------------------------------------


def central_differences(layers, theta, X, y, loss, step):
    """Return (f_plus, f_minus, span) by perturbing every entry."""
    count = X.shape[0]
    if loss != "softmax_cross_entropy":
        count *= layers[-1][1]
    f_plus, f_minus, span = np.empty((3, theta.size))
    for i in range(theta.size):
        values = []
        for t in (theta[i] + step[i], theta[i] - step[i]):
            moved = theta.copy()
            moved[i] = t
            outputs = network_outputs(layers, moved, X)[-1]
            values.append(loss_forward(outputs, y, loss)[0] / count)
        f_plus[i], f_minus[i] = values
        span[i] = (theta[i] + step[i]) - (theta[i] - step[i])
    return f_plus, f_minus, span


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
