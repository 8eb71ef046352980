"""Feature normalization: moments of every feature, and x := (x - mean) / std."""

from __future__ import annotations

import warnings
from typing import Any, Literal, SupportsIndex, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads, _validation
from fanin._kernels import _moments, _normalize, _source

__all__ = ["Moments", "moments", "standardize", "unstandardize"]

Axis = SupportsIndex | tuple[SupportsIndex, ...] | None
NanPolicy = Literal["omit", "propagate", "raise"]
Constant = Literal["keep", "zero", "warn", "error"]
Float64 = NDArray[np.float64]

NAN_POLICIES = ("omit", "propagate", "raise")
CONSTANTS = ("keep", "zero", "warn", "error")

# Rows of the kernels' state: count, mean in two words, squared deviations in two.
N, MEAN, MEAN_LO, M2, M2_LO = range(5)


class Moments:
    """Count, mean and variance of every feature, as `moments` returns them.

    With n the count and M2 the sum of (x - mean)², the variance is
    M2 / (n - ddof). The mean is held in two words and M2 with the rounding errors of
    its additions, and both with an exponent of their own where a double's range is
    too small, so `std` is right also where `var` overflows or underflows.

    Attributes
    ----------
    count : ndarray of int64, or int
        How many values of each feature are not NaN.
    mean, var, std : ndarray of float64, or float
        NaN where there are no values; `var` and `std` also where count <= ddof.
    constant : ndarray of bool, or bool
        Where the standard deviation is zero. The sums of a constant feature come
        out exactly, so the bound on the error of its variance is zero as well: a
        feature whose values differ is not constant, however little they differ.
    ddof : float
        What is subtracted from the count in the variance.
    shape : tuple of int
        The shape of the data without the reduced axes.

    Arrays have the shape of the data without the reduced axes, and are read-only;
    with every axis reduced they are scalars.

    See Also
    --------
    moments : Compute them.

    Examples
    --------
    >>> import fanin
    >>> m = fanin.moments([[1.0, 5.0], [3.0, 5.0]])
    >>> m.mean
    array([2., 5.])
    >>> m.std
    array([1., 0.])
    >>> m.constant
    array([False,  True])
    """

    __slots__ = ("_exponent", "_state", "_std", "_var", "ddof", "shape")
    __hash__ = None  # type: ignore[assignment]

    _state: Float64
    _exponent: NDArray[np.int32]
    _var: Float64
    _std: Float64
    ddof: float
    shape: tuple[int, ...]

    @classmethod
    def _of(
        cls,
        state: Float64,
        exponent: NDArray[np.int32],
        shape: tuple[int, ...],
        ddof: float,
    ) -> Moments:
        self = cls.__new__(cls)
        self._state = state
        self._exponent = exponent
        self.shape = shape
        self.ddof = ddof
        self._var = np.empty(exponent.shape)
        self._std = np.empty(exponent.shape)
        _moments.moments_finish(self._var, self._std, state, exponent, ddof)
        return self

    def _shaped(self, values: NDArray[Any]) -> Any:
        view = values.reshape(self.shape)
        view.flags.writeable = False
        return view[()]

    @property
    def count(self) -> Any:
        """How many values of each feature are not NaN."""
        return self._shaped(self._state[N].astype(np.int64))

    @property
    def mean(self) -> Any:
        """Mean of each feature."""
        mean = self._state[MEAN]
        if self._exponent.any():
            mean = np.ldexp(mean, self._exponent)
        empty = self._state[N] == 0.0
        if empty.any():
            mean = np.where(empty, np.nan, mean)
        return self._shaped(mean)

    @property
    def var(self) -> Any:
        """Variance of each feature."""
        return self._shaped(self._var)

    @property
    def std(self) -> Any:
        """Standard deviation of each feature."""
        return self._shaped(self._std)

    @property
    def constant(self) -> Any:
        """Whether a feature has a standard deviation of zero."""
        return self._shaped(self._std == 0.0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return (
            self.shape == other.shape
            and self.ddof == other.ddof
            and bool(np.all(self.count == other.count))
            and np.array_equal(self.mean, other.mean, equal_nan=True)
            and np.array_equal(self.var, other.var, equal_nan=True)
            and np.array_equal(self.std, other.std, equal_nan=True)
        )

    def __repr__(self) -> str:
        fields = []
        for name in ("count", "mean", "std"):
            text = np.array2string(
                np.asarray(getattr(self, name)),
                precision=6,
                threshold=8,
                edgeitems=3,
                separator=", ",
                prefix=f"        {name}=",
            )
            fields.append(f"{name}={text}")
        fields.append(f"ddof={self.ddof:g}")
        return "Moments(" + ",\n        ".join(fields) + ")"


def _check_ddof(ddof: float) -> float:
    return 0.0 if ddof == 0 else _validation.real(ddof, "ddof", minimum=0.0)


def _kept_shape(X: NDArray[Any], axes: tuple[int, ...]) -> tuple[int, ...]:
    if axes == (0,):
        return X.shape[1:]
    return tuple(n for d, n in enumerate(X.shape) if d not in axes)


def _permutation(X: NDArray[Any], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """How the kernels' columns permute the kept axes; None if they do not."""
    if X.ndim - len(axes) < 2:
        return None
    kept = [d for d in range(X.ndim) if d not in axes]
    order = tuple(kept.index(d) for d in _source.column_order(X, axes))
    return None if order == tuple(range(len(kept))) else order


def _to_columns(
    values: NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...] | None
) -> NDArray[Any]:
    """Feature values in the array's order as the kernels' columns."""
    if order is None:
        return values.reshape(-1)
    return np.ascontiguousarray(values.reshape(shape).transpose(order)).reshape(-1)


def _from_columns(
    values: NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...] | None
) -> NDArray[Any]:
    """Undo `_to_columns`, for an array whose last axis is the columns."""
    if order is None:
        return values
    lead = values.shape[:-1]
    back = [len(lead) + i for i in np.argsort(order)]
    table = values.reshape(lead + tuple(shape[i] for i in order))
    table = table.transpose((*range(len(lead)), *back))
    return np.ascontiguousarray(table).reshape(*lead, -1)


def _forward(
    X: NDArray[Any], axes: tuple[int, ...], shape: tuple[int, ...], n_threads: int
) -> tuple[Float64, NDArray[np.int32]]:
    """State and exponents of the columns of X, in the kernels' order."""
    n = 1
    for size in shape:
        n *= size
    if X.size == 0:
        return np.zeros((5, n)), np.zeros(n, np.int32)
    state = np.empty((5, n))
    exponent = np.empty(n, np.int32)
    _moments.moments_forward(state, exponent, X, axes, n_threads)
    return state, exponent


def _apply_nan_policy(
    nan_policy: str,
    state: Float64,
    X: NDArray[Any],
    shape: tuple[int, ...],
    order: tuple[int, ...] | None,
) -> None:
    """Turn "omit" into "propagate", or raise; `state` is in the kernels' order."""
    n_rows = X.size // max(1, state.shape[1])
    missing = state[N] < n_rows
    if nan_policy == "omit" or not missing.any():
        return
    if nan_policy == "raise":
        found = np.flatnonzero(_from_columns(missing, shape, order))
        where = (
            tuple(int(i) for i in np.unravel_index(found[0], shape)) if shape else ()
        )
        raise ValueError(
            f'X contains NaN and nan_policy is "raise": {found.size} of '
            f"{missing.size} features have some, the first at index {where}"
        )
    state[MEAN:, missing] = np.nan


def moments(
    X: ArrayLike,
    *,
    axis: Axis = 0,
    ddof: float = 0,
    nan_policy: NanPolicy = "omit",
    n_threads: SupportsIndex | None = None,
) -> Moments:
    """Count, mean and variance of every feature, from one read of the data.

    mean = Σ x / n and var = Σ (x - mean)² / (n - ddof), by the corrected two-pass
    algorithm on blocks that fit the cache, whose results are merged with the mean in
    two words [1]_. All sums are float64. The variance has at least 14 correct digits
    also where the mean is 10⁹ times the spread.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Samples along `axis`. Read where it lies, whatever its order, strides,
        alignment or byte order; integers, bool and float16 are converted block by
        block (64-bit integers beyond 2⁵³ are rounded).
    axis : int, tuple of int or None, default=0
        The axes to reduce; None means all. The others tell the features apart.
    ddof : float, default=0
        Subtracted from the count in the variance: 0 is the population's, 1 the
        unbiased estimate. Where count <= ddof the variance is NaN.
    nan_policy : {"omit", "propagate", "raise"}, default="omit"
        "omit" leaves NaN out; "propagate" makes the mean and variance of a feature
        with NaN NaN; "raise" refuses it. The count is of values that are not NaN.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    Moments
        With `count`, `mean`, `var`, `std` and `constant`.

    Raises
    ------
    TypeError
        If X is not of real numbers, or an option has the wrong type.
    ValueError
        If an option is out of range, or X contains NaN under "raise".

    See Also
    --------
    standardize : Subtract the mean and divide by the standard deviation.

    Notes
    -----
    A feature with an infinite value has that mean (NaN with both infinities) and
    variance NaN, as in NumPy. A feature without values has mean NaN.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the
       sample variance: analysis and recommendations", The American Statistician 37
       (1983) 242-247.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> m = fanin.moments([[1.0, 2.0], [3.0, np.nan], [5.0, 4.0]])
    >>> m.count
    array([3, 2])
    >>> m.mean
    array([3., 3.])
    >>> m
    Moments(count=[3, 2],
            mean=[3., 3.],
            std=[1.632993, 1.      ],
            ddof=0)
    """
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    _validation.choice(nan_policy, NAN_POLICIES, "nan_policy")
    checked = _check_ddof(ddof)
    shape = _kept_shape(array, axes)
    state, exponent = _forward(array, axes, shape, _threads.resolve(n_threads))
    order = _permutation(array, axes)
    if nan_policy != "omit":
        _apply_nan_policy(nan_policy, state, array, shape, order)
    return Moments._of(
        _from_columns(state, shape, order),
        _from_columns(exponent, shape, order),
        shape,
        checked,
    )


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
    found = np.ascontiguousarray(array, np.float64)
    if out is not None and np.may_share_memory(out, found):
        found = found.copy()
    return found.reshape(shape)


def _checked_std(
    value: ArrayLike, shape: tuple[int, ...], out: NDArray[Any] | None
) -> Float64:
    std = _stored(value, "std", shape, out)
    if std.size and std.min() < 0.0:
        raise ValueError(f"std must not be negative; got {std.min()}")
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
        If an option is out of range; if `out` has the wrong shape, is read-only, or
        overlaps X without being X; if X contains NaN under "raise" or a constant
        feature under "error". Nothing has been written then.

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
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    _validation.choice(nan_policy, NAN_POLICIES, "nan_policy")
    _validation.choice(constant, CONSTANTS, "constant")
    checked_ddof = _check_ddof(ddof)
    threads = _threads.resolve(n_threads)
    shape = _kept_shape(array, axes)
    result = _out_for(array, out)
    stored_mean = None if mean is None else _stored(mean, "mean", shape, out)
    stored_std = None if std is None else _checked_std(std, shape, out)
    order = _permutation(array, axes)
    found = None
    exponent = mean_lo = None
    if (
        stored_mean is None
        or stored_std is None
        or return_moments
        or nan_policy == "raise"
    ):
        state, exponents = _forward(array, axes, shape, threads)
        if nan_policy != "omit":
            _apply_nan_policy(nan_policy, state, array, shape, order)
        own_std = np.empty(exponents.shape)
        var = np.empty(exponents.shape)
        scaled = _moments.moments_finish(var, own_std, state, exponents, checked_ddof)
        if return_moments:
            found = Moments._of(
                _from_columns(state, shape, order),
                _from_columns(exponents, shape, order),
                shape,
                checked_ddof,
            )
        means, stds = state[MEAN], own_std
        mean_lo = state[MEAN_LO]
        if scaled and stored_mean is None and stored_std is None:
            # Beyond a double's range on the way: mean and std times 2^-exponent.
            exponent = exponents
            variance = (state[M2] + state[M2_LO]) / (state[N] - checked_ddof)
            stds = np.where(exponents != 0, np.sqrt(variance), own_std)
        elif scaled and stored_mean is None:
            means = np.ldexp(state[MEAN], exponents)
            mean_lo = np.ldexp(state[MEAN_LO], exponents)
    if stored_mean is not None:
        means, mean_lo = _to_columns(stored_mean, shape, order), None
    if stored_std is not None:
        stds = _to_columns(stored_std, shape, order)
    if constant in ("warn", "error"):
        plain = own_std if stored_std is None else stds
        _constant_features(constant, _from_columns(plain, shape, order), shape)
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
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    threads = _threads.resolve(n_threads)
    shape = _kept_shape(array, axes)
    result = _out_for(array, out)
    order = _permutation(array, axes)
    means = _to_columns(_stored(mean, "mean", shape, out), shape, order)
    stds = _to_columns(_checked_std(std, shape, out), shape, order)
    if array.size:
        _normalize.normalize_forward(
            result, array, axes, means, None, stds, None, False, True, threads
        )
    return result
