"""Between `Moments` and the kernels: states, weights and the order of columns."""

from __future__ import annotations

from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _validation
from fanin._kernels import _moments, _source

Axis = SupportsIndex | tuple[SupportsIndex, ...] | None
NanPolicy = Literal["omit", "propagate", "raise"]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
# State, exponents, and the shape of the data without the reduced axes.
Parts = tuple[Float64, Int32, tuple[int, ...]]

NAN_POLICIES = ("omit", "propagate", "raise")

# Rows of the kernels' state: count, mean in two words, squared deviations in two; with
# weights also the second word of the count and, while data is read, how many NaN of
# positive weight there are.
N, MEAN, MEAN_LO, M2, M2_LO, N_LO, MISSING = range(7)
PLAIN = N_LO
WEIGHTED = MISSING


def check_ddof(ddof: float) -> float:
    return _validation.real(ddof, "ddof", minimum=0.0)


def check_axis(axis: Any) -> int | tuple[int, ...] | None:
    """Return `axis` as plain ints, for arrays of a rank not yet known."""
    if axis is None:
        return None
    if isinstance(axis, tuple):
        axes = tuple(_validation.integer(one, "axis") for one in axis)
        if len(set(axes)) != len(axes):
            raise ValueError(f"axis names an axis twice; got {axis!r}")
        return axes
    return _validation.integer(axis, "axis")


def kept_shape(X: NDArray[Any], axes: tuple[int, ...]) -> tuple[int, ...]:
    if axes == (0,):
        return X.shape[1:]
    return tuple(n for d, n in enumerate(X.shape) if d not in axes)


def permutation(X: NDArray[Any], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """How the kernels' columns permute the kept axes; None if they do not."""
    if X.ndim - len(axes) < 2:
        return None
    kept = [d for d in range(X.ndim) if d not in axes]
    order = tuple(kept.index(d) for d in _source.column_order(X, axes))
    return None if order == tuple(range(len(kept))) else order


def to_columns(
    values: NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...] | None
) -> NDArray[Any]:
    """Feature values in the array's order as the kernels' columns."""
    if order is None:
        return values.reshape(-1)
    return np.ascontiguousarray(values.reshape(shape).transpose(order)).reshape(-1)


def from_columns(
    values: NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...] | None
) -> NDArray[Any]:
    """Undo `to_columns`, for an array whose last axis is the columns."""
    if order is None:
        return values
    lead = values.shape[:-1]
    back = [len(lead) + i for i in np.argsort(order)]
    table = values.reshape(lead + tuple(shape[i] for i in order))
    table = table.transpose((*range(len(lead)), *back))
    return np.ascontiguousarray(table).reshape(*lead, -1)


def row_weights(
    weights: ArrayLike | None, X: NDArray[Any], axes: tuple[int, ...]
) -> Float64 | None:
    """Return weights, one per row, as a float64 vector in the kernels' row order."""
    if weights is None:
        return None
    given = _validation.real_array(weights, "weights")
    wanted = tuple(X.shape[d] for d in axes)
    if given.shape != wanted:
        raise ValueError(
            f"weights must have shape {wanted}, that of the reduced axes of X; got "
            f"shape {given.shape}"
        )
    flags = given.flags
    if (
        len(axes) == 1
        and given.dtype == np.float64
        and (flags.c_contiguous and flags.aligned)
    ):
        found = given
    else:
        table = given
        if len(axes) > 1:
            order = _source.row_order(X, axes)
            table = given.transpose([axes.index(d) for d in order])
        found = np.array(table, np.float64, order="C").reshape(-1)
    if _moments.first_bad_weight(found) >= 0:
        bad = ~(np.isfinite(given) & (given >= 0))
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        index = where[0] if len(where) == 1 else where
        raise ValueError(
            f"weights must be finite and not negative; got {given[where]} at index "
            f"{index}"
        )
    return found


def check_weight_sum(state: Float64) -> None:
    """Refuse weights whose sum a double cannot hold."""
    if len(state) > PLAIN and _moments.first_bad_weight(state[N]) >= 0:
        raise ValueError("weights must have a sum below 1.8e308; it overflows")


def forward(
    X: NDArray[Any],
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    n_threads: int,
    weights: Float64 | None = None,
) -> tuple[Float64, Int32]:
    """State and exponents of the columns of X, in the kernels' order."""
    n = 1
    for size in shape:
        n *= size
    if weights is not None:
        state, exponent = np.zeros((MISSING + 1, n)), np.zeros(n, np.int32)
        if X.size:
            _moments.moments_update(state, exponent, X, axes, weights, n_threads)
            check_weight_sum(state)
        return state, exponent
    if X.size == 0:
        return np.zeros((PLAIN, n)), np.zeros(n, np.int32)
    state = np.empty((PLAIN, n))
    exponent = np.empty(n, np.int32)
    _moments.moments_forward(state, exponent, X, axes, n_threads)
    return state, exponent


def update(
    old: Parts | None,
    X: NDArray[Any],
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    weights: Float64 | None,
    nan_policy: str,
    n_threads: int,
) -> tuple[Float64, Int32]:
    """Return the state and exponents, in the array's order, of `old` and X together."""
    order = permutation(X, axes)
    if old is None:
        n = 1
        for size in shape:
            n *= size
        before, e = np.zeros((PLAIN, n)), np.zeros(n, np.int32)
    else:
        before, e, _ = old
        if order is not None:
            before = np.stack([to_columns(row, shape, order) for row in before])
            e = to_columns(e, shape, order)
    if weights is None and nan_policy != "omit" and len(before) > PLAIN:
        # A sum of weights is rounded and does not tell how many values are missing.
        weights = np.ones(X.size // max(1, e.size))
    exponent = e.copy()
    if weights is None:
        state = before.copy()
    else:
        state = np.zeros((MISSING + 1, e.size))
        state[: len(before)] = before
    if X.size:
        _moments.moments_update(state, exponent, X, axes, weights, n_threads)
        check_weight_sum(state)
        if nan_policy != "omit":
            apply_nan_policy(nan_policy, state, X, shape, order, before)
    if order is not None:
        state = from_columns(state, shape, order)
        exponent = from_columns(exponent, shape, order)
    return state[:WEIGHTED], exponent


def merge(old: Parts, other: Parts) -> tuple[Float64, Int32]:
    """Return the state and exponents of two sets of data together."""
    state = np.zeros((max(len(old[0]), len(other[0])), old[1].size))
    state[: len(old[0])] = old[0]
    exponent = old[1].copy()
    if exponent.size:
        _moments.moments_merge(state, exponent, other[0], other[1])
        check_weight_sum(state)
    return state, exponent


def apply_nan_policy(
    nan_policy: str,
    state: Float64,
    X: NDArray[Any],
    shape: tuple[int, ...],
    order: tuple[int, ...] | None,
    before: Float64 | None = None,
) -> None:
    """Turn "omit" into "propagate", or raise; `state` is in the kernels' order.

    `before` is the state that X was merged into, if there was one.
    """
    n_rows = X.size // max(1, state.shape[1])
    if len(state) > MISSING:
        missing = state[MISSING] > 0.0
    elif before is None:
        missing = state[N] < n_rows
    else:
        missing = state[N] - before[N] < n_rows
    if nan_policy == "omit" or not missing.any():
        return
    if nan_policy == "raise":
        found = np.flatnonzero(from_columns(missing, shape, order))
        where = (
            tuple(int(i) for i in np.unravel_index(found[0], shape)) if shape else ()
        )
        raise ValueError(
            f'X contains NaN and nan_policy is "raise": {found.size} of '
            f"{missing.size} features have some, the first at index {where}"
        )
    state[MEAN : M2_LO + 1, missing] = np.nan
