"""The same work in plain NumPy, as one would write it by hand.

Parameters are a dict of arrays, ``{"dense0.weight": ..., "dense0.bias": ...}``; the
hidden layers are ReLU. This is what the demo's times are held against, and what it
breaks on purpose.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "forward",
    "initialize",
    "loss",
    "loss_and_gradient",
    "moments",
    "numeric_gradient",
    "outputs",
    "standardize",
    "train",
]

Parameters = dict[str, NDArray[Any]]


def moments(X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and standard deviation of every column, without the NaN."""
    if np.isnan(X).any():
        with warnings.catch_warnings():
            # A column without values: its mean is NaN, and it is 0 everywhere.
            warnings.simplefilter("ignore", RuntimeWarning)
            mean, std = np.nanmean(X, axis=0), np.nanstd(X, axis=0)
    else:
        mean, std = X.mean(axis=0), X.std(axis=0)
    # A constant column's std is rounding: leave the column unscaled.
    return mean, np.where(std <= 1e-14 * np.abs(mean), 1.0, std)


def standardize(X: NDArray[Any], mean: NDArray[Any], std: NDArray[Any]) -> NDArray[Any]:
    """Return (X - mean) / std."""
    return np.asarray((X - mean) / std)


def initialize(widths: list[int], seed: int) -> Parameters:
    """Return normal weights of variance 2 / fan_in, the last layer's 1 / fan_in."""
    rng = np.random.default_rng(seed)
    params: Parameters = {}
    n_layers = len(widths) - 1
    for i in range(n_layers):
        scale = 2.0 if i < n_layers - 1 else 1.0
        shape = (widths[i], widths[i + 1])
        params[f"dense{i}.weight"] = rng.normal(0, np.sqrt(scale / widths[i]), shape)
        params[f"dense{i}.bias"] = np.zeros(widths[i + 1])
    return params


def outputs(
    params: Parameters, X: NDArray[Any], last: str = "identity"
) -> list[NDArray[Any]]:
    """Return the output of every layer, first to last; `last` may be "relu" too."""
    n_layers = len(params) // 2
    found = []
    A = X
    for i in range(n_layers):
        A = A @ params[f"dense{i}.weight"] + params[f"dense{i}.bias"]
        if i < n_layers - 1 or last == "relu":
            A = np.maximum(A, 0)
        found.append(A)
    return found


def forward(params: Parameters, X: NDArray[Any]) -> NDArray[Any]:
    """Return the output of the last layer."""
    return outputs(params, X)[-1]


def _loss_of(Z: NDArray[Any], y: NDArray[Any]) -> float:
    if y.dtype.kind == "f":
        return float(np.mean((Z[:, 0] - y) ** 2))
    Z = Z - Z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(Z).sum(axis=1))
    return float(np.mean(log_sum - Z[np.arange(len(y)), y]))


def loss(params: Parameters, X: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the mean cross-entropy of labels, or the mean squared error."""
    return _loss_of(forward(params, X), y)


def loss_and_gradient(
    params: Parameters, X: NDArray[Any], y: NDArray[Any], mistake: str | None = None
) -> tuple[float, Parameters]:
    """Return the loss and its gradient by backpropagation.

    `mistake` plants one in the backward pass: "derivative" forgets the derivative
    of the last hidden layer's activation, "mean" sums the gradient of the last bias
    over the samples and forgets to divide by their number.
    """
    n_layers = len(params) // 2
    A = [X, *outputs(params, X)]
    m = len(X)
    if y.dtype.kind == "f":
        dZ = 2 * (A[-1] - y[:, np.newaxis]) / m
    else:
        dZ = np.exp(A[-1] - A[-1].max(axis=1, keepdims=True))
        dZ /= dZ.sum(axis=1, keepdims=True)
        dZ[np.arange(m), y] -= 1
        dZ /= m
    gradient: Parameters = {}
    for i in reversed(range(n_layers)):
        last = i == n_layers - 1
        gradient[f"dense{i}.weight"] = A[i].T @ dZ
        gradient[f"dense{i}.bias"] = dZ.sum(axis=0)
        if mistake == "mean" and last:
            gradient[f"dense{i}.bias"] = (m * dZ).sum(axis=0)
        if i > 0:
            dZ = dZ @ params[f"dense{i}.weight"].T
            if not (mistake == "derivative" and last):
                dZ = dZ * (A[i] > 0)
    return _loss_of(A[-1], y), gradient


def numeric_gradient(
    params: Parameters,
    X: NDArray[Any],
    y: NDArray[Any],
    entries: NDArray[np.intp],
    eps: float = 1e-7,
) -> NDArray[np.float64]:
    """Return central differences of the loss for some entries, one at a time.

    `entries` counts through all arrays, weight before bias, layer by layer.
    """
    arrays = [params[f"dense{i // 2}.{('weight', 'bias')[i % 2]}"].reshape(-1)
              for i in range(len(params))]  # fmt: skip
    starts = np.cumsum([0, *(array.size for array in arrays)])
    found = np.empty(entries.size)
    for k, entry in enumerate(entries):
        which = int(np.searchsorted(starts, entry, side="right")) - 1
        array, at = arrays[which], entry - starts[which]
        old = array[at]
        h = eps * max(1.0, abs(old))
        array[at] = up = old + h
        f_plus = loss(params, X, y)
        array[at] = down = old - h
        f_minus = loss(params, X, y)
        array[at] = old
        found[k] = (f_plus - f_minus) / (up - down)
    return found


def train(
    params: Parameters,
    X: NDArray[Any],
    y: NDArray[Any],
    validation: tuple[NDArray[Any], NDArray[Any]],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[list[float], list[float]]:
    """Train by Adam, in place; return training and validation loss by epoch."""
    rng = np.random.default_rng(seed)
    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-8
    first = {name: np.zeros_like(array) for name, array in params.items()}
    second = {name: np.zeros_like(array) for name, array in params.items()}
    t = 0
    losses, validation_losses = [], []
    for _ in range(epochs):
        order = rng.permutation(len(X))
        total = 0.0
        for start in range(0, len(X), batch_size):
            batch = order[start : start + batch_size]
            value, gradient = loss_and_gradient(params, X[batch], y[batch])
            total += value * len(batch)
            t += 1
            for name, g in gradient.items():
                first[name] = beta_1 * first[name] + (1 - beta_1) * g
                second[name] = beta_2 * second[name] + (1 - beta_2) * g**2
                m_hat = first[name] / (1 - beta_1**t)
                v_hat = second[name] / (1 - beta_2**t)
                params[name] -= learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)
        losses.append(total / len(X))
        validation_losses.append(loss(params, *validation))
    return losses, validation_losses
