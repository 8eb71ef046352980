"""Feature normalization: moments of every feature, and x := (x - mean) / std."""

from __future__ import annotations

import warnings
from typing import Any, Literal, SupportsIndex, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads, _validation
from fanin._accumulate import (
    MEAN,
    MEAN_LO,
    NAN_POLICIES,
    Axis,
    Float64,
    NanPolicy,
    apply_nan_policy,
    check_axis,
    check_ddof,
    forward,
    from_columns,
    kept_shape,
    permutation,
    row_weights,
    to_columns,
)
from fanin._kernels import _moments, _normalize
from fanin._statistics import Moments, moments

__all__ = ["Moments", "moments", "standardize", "unstandardize"]

Constant = Literal["keep", "zero", "warn", "error"]

CONSTANTS = ("keep", "zero", "warn", "error")


def _stored(
    value: ArrayLike, name: str, shape: tuple[int, ...], out: NDArray[Any] | None
) -> Float64:
    """Return a stored mean or standard deviation as float64, one per feature."""
    array = _validation.real_array(value, name)
    if array.shape != shape:
        if array.ndim != 0:
            raise ValueError(
                f"{name} must have shape {shape}, that of X without the reduced axes, "
                f"or be a number; got shape {array.shape}"
            )
        array = np.full(shape, array, np.float64)
    found = np.require(array, np.float64, ["C", "A"])
    if out is not None and np.may_share_memory(out, found):
        found = found.copy()
    return found.reshape(shape)


def _checked_std(
    value: ArrayLike, shape: tuple[int, ...], out: NDArray[Any] | None
) -> Float64:
    std = _stored(value, "std", shape, out)
    _validation.not_negative(std, "std")
    return std


def _constant_features(constant: str, std: Float64, shape: tuple[int, ...]) -> None:
    """Warn of, or refuse, features whose standard deviation is zero."""
    found = np.flatnonzero(std == 0.0)
    if found.size == 0:
        return
    where = tuple(int(i) for i in np.unravel_index(found[0], shape)) if shape else ()
    message = (
        f"{found.size} of {std.size} features are constant (their standard deviation "
        f"is 0), the first at index {where}"
    )
    if constant == "error":
        raise ValueError(message)
    warnings.warn(f"{message}; they are divided by 1", RuntimeWarning, stacklevel=3)


def _out_for(X: NDArray[Any], out: Any) -> NDArray[Any]:
    dtype = _validation.result_dtype(X)
    if out is None:
        return np.empty_like(X, dtype=dtype, subok=False)
    checked = _validation.check_out(out, X.shape, dtype)
    _validation.no_overlap(_validation.distinct_elements(checked), X, "X", same=True)
    return checked


@overload
def standardize(
    X: ArrayLike,
    *,
    axis: Axis = ...,
    mean: ArrayLike | None = ...,
    std: ArrayLike | None = ...,
    weights: ArrayLike | None = ...,
    ddof: float = ...,
    nan_policy: NanPolicy = ...,
    constant: Constant = ...,
    out: NDArray[Any] | None = ...,
    return_moments: Literal[False] = ...,
    n_threads: SupportsIndex | None = ...,
) -> NDArray[Any]: ...
@overload
def standardize(
    X: ArrayLike,
    *,
    axis: Axis = ...,
    mean: ArrayLike | None = ...,
    std: ArrayLike | None = ...,
    weights: ArrayLike | None = ...,
    ddof: float = ...,
    nan_policy: NanPolicy = ...,
    constant: Constant = ...,
    out: NDArray[Any] | None = ...,
    return_moments: Literal[True],
    n_threads: SupportsIndex | None = ...,
) -> tuple[NDArray[Any], Moments]: ...
def standardize(
    X: ArrayLike,
    *,
    axis: Axis = 0,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    ddof: float = 0,
    nan_policy: NanPolicy = "omit",
    constant: Constant = "keep",
    out: NDArray[Any] | None = None,
    return_moments: bool = False,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any] | tuple[NDArray[Any], Moments]:
    """Return (X - mean) / std, feature by feature.

    The mean and the standard deviation are those of `moments`, or stored ones. The
    subtraction uses the mean to more digits than a double holds (float64) or in
    double (float32), so features with a large common offset lose none.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Samples along `axis`. Read where it lies, as in `moments`.
    axis : int, tuple of int or None, default=0
        The axes that run over samples; None means all. The others tell the features
        apart.
    mean, std : array_like, optional
        Stored values, in the shape of X without the reduced axes, or one number for
        all features. What is not given is computed from X.
    weights : array_like of real numbers, optional
        One per row, for the moments that are computed from X, as in `moments`. Rows
        of weight 0 do not count in the moments, but are standardized as all others.
    ddof : float, default=0
        Subtracted from the count in the variance.
    nan_policy : {"omit", "propagate", "raise"}, default="omit"
        "omit" leaves NaN out of the moments and keeps it in the result; "propagate"
        makes every value of a feature with NaN NaN; "raise" refuses NaN. With both
        `mean` and `std` given, "propagate" is the same as "omit".
    constant : {"keep", "zero", "warn", "error"}, default="keep"
        What to do with a feature whose standard deviation is 0: centre it and divide
        it by 1; write 0; as "keep", with a RuntimeWarning; raise ValueError.
    out : ndarray, optional
        Where to write the result; any strides. `out=X` works in place. If the call
        is interrupted, `out` may be written in part.
    return_moments : bool, default=False
        Also return the `Moments` of X.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    Z : ndarray
        Of X's shape; float32 for float16 and float32, float64 for all others.
    m : Moments
        Of X, if `return_moments`.

    Raises
    ------
    TypeError
        If X is not of real numbers, or `out` has another dtype than the result.
    ValueError
        If an option is out of range or a weight is refused, as in `moments`; if `out`
        has the wrong shape, is read-only, or overlaps X without being X; if X contains
        NaN under "raise" or a constant feature under "error". Nothing has been written
        then.

    See Also
    --------
    moments : The moments alone.
    unstandardize : The inverse.

    Notes
    -----
    The data is read twice and written once. A feature with an infinite value has
    standard deviation NaN and becomes NaN, as in NumPy.

    Examples
    --------
    >>> import fanin
    >>> fanin.standardize([[1.0, 5.0], [3.0, 5.0]])
    array([[-1.,  0.],
           [ 1.,  0.]])
    >>> Z, m = fanin.standardize([[1.0], [3.0]], return_moments=True)
    >>> fanin.standardize([[5.0]], mean=m.mean, std=m.std)
    array([[3.]])
    """
    if (
        mean is not None
        and std is not None
        and weights is None
        and n_threads is None
        and not return_moments
        and nan_policy in ("omit", "propagate")
        and constant in ("keep", "zero")
        and axis.__class__ is int
        and isinstance(ddof, (int, float))
        and axis == ddof == 0
    ):
        done = _normalize.normalize_small(out, X, mean, std, constant == "zero", False)
        if done is not None:
            return done
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    _validation.choice(nan_policy, NAN_POLICIES, "nan_policy")
    _validation.choice(constant, CONSTANTS, "constant")
    checked_ddof = check_ddof(ddof)
    threads = _threads.resolve(n_threads)
    shape = kept_shape(array, axes)
    result = _out_for(array, out)
    stored_mean = None if mean is None else _stored(mean, "mean", shape, out)
    stored_std = None if std is None else _checked_std(std, shape, out)
    row_w = row_weights(weights, array, axes)
    order = permutation(array, axes)
    found = None
    exponent = mean_lo = None
    if (
        stored_mean is None
        or stored_std is None
        or return_moments
        or nan_policy == "raise"
    ):
        state, exponents = forward(array, axes, shape, threads, row_w)
        if nan_policy != "omit":
            apply_nan_policy(nan_policy, state, array, shape, order)
        own_std = np.empty(exponents.shape)
        scaled = _moments.moments_finish(
            own_std, own_std, state, exponents, checked_ddof
        )
        if return_moments:
            found = Moments._of(
                from_columns(state, shape, order),
                from_columns(exponents, shape, order),
                shape,
                checked_ddof,
                check_axis(axis),
                nan_policy,
            )
        means, stds = state[MEAN], own_std
        mean_lo = state[MEAN_LO]
        if scaled and stored_mean is None and stored_std is None:
            # Beyond a double's range on the way: mean and std times 2^-exponent.
            exponent = exponents
            stds = np.empty(exponents.shape)
            _moments.moments_finish(
                stds, stds, state, np.zeros_like(exponents), checked_ddof
            )
        elif scaled and stored_mean is None:
            with np.errstate(all="ignore"):
                means = np.ldexp(state[MEAN], exponents)
                mean_lo = np.ldexp(state[MEAN_LO], exponents)
    if stored_mean is not None:
        means, mean_lo = to_columns(stored_mean, shape, order), None
    if stored_std is not None:
        stds = to_columns(stored_std, shape, order)
    if constant in ("warn", "error"):
        plain = own_std if stored_std is None else stds
        _constant_features(constant, from_columns(plain, shape, order), shape)
    if array.size:
        _normalize.normalize_forward(
            result,
            array,
            axes,
            means,
            mean_lo,
            stds,
            exponent,
            constant == "zero",
            False,
            threads,
        )
    if return_moments:
        return result, cast(Moments, found)
    return result


def unstandardize(
    X: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    axis: Axis = 0,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]:
    """Return X * std + mean, feature by feature: the inverse of `standardize`.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Standardized samples along `axis`. Read where it lies, as in `moments`.
    mean, std : array_like
        In the shape of X without the reduced axes, or one number for all features.
        Where `std` is 0, 1 is used, as `standardize` does.
    axis : int, tuple of int or None, default=0
        The axes that run over samples; None means all.
    out : ndarray, optional
        Where to write the result; any strides. `out=X` works in place. If the call
        is interrupted, `out` may be written in part.
    n_threads : int, optional
        Threads to use; the result does not depend on it.

    Returns
    -------
    ndarray
        Of X's shape, computed in float64; float32 for float16 and float32, float64
        for all others.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or `out` has the wrong dtype.
    ValueError
        If a shape does not fit, `std` is negative, or `out` cannot be written.

    See Also
    --------
    standardize : What this undoes.

    Examples
    --------
    >>> import fanin
    >>> fanin.unstandardize([[-1.0], [1.0]], mean=2.0, std=1.0)
    array([[1.],
           [3.]])
    """
    if n_threads is None and axis.__class__ is int and axis == 0:
        done = _normalize.normalize_small(out, X, mean, std, False, True)
        if done is not None:
            return done
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    threads = _threads.resolve(n_threads)
    shape = kept_shape(array, axes)
    result = _out_for(array, out)
    order = permutation(array, axes)
    means = to_columns(_stored(mean, "mean", shape, out), shape, order)
    stds = to_columns(_checked_std(std, shape, out), shape, order)
    if array.size:
        _normalize.normalize_forward(
            result, array, axes, means, None, stds, None, False, True, threads
        )
    return result
