"""Moments of every feature: count, mean and variance from one read of the data."""

from __future__ import annotations

from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads, _validation
from fanin._kernels import _moments, _source

__all__ = ["Moments", "moments"]

Axis = SupportsIndex | tuple[SupportsIndex, ...] | None
NanPolicy = Literal["omit", "propagate", "raise"]
Float64 = NDArray[np.float64]

NAN_POLICIES = ("omit", "propagate", "raise")

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


def check_ddof(ddof: float) -> float:
    return 0.0 if ddof == 0 else _validation.real(ddof, "ddof", minimum=0.0)


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


def forward(
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


def apply_nan_policy(
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
        found = np.flatnonzero(from_columns(missing, shape, order))
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
    checked = check_ddof(ddof)
    shape = kept_shape(array, axes)
    state, exponent = forward(array, axes, shape, _threads.resolve(n_threads))
    order = permutation(array, axes)
    if nan_policy != "omit":
        apply_nan_policy(nan_policy, state, array, shape, order)
    return Moments._of(
        from_columns(state, shape, order),
        from_columns(exponent, shape, order),
        shape,
        checked,
    )
