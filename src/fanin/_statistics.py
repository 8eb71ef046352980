"""Moments of every feature: count, mean and variance from one read of the data."""

from __future__ import annotations

from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _accumulate, _moments_dict, _threads, _validation
from fanin._accumulate import (
    NAN_POLICIES,
    PLAIN,
    WEIGHTED,
    Axis,
    Float64,
    Int32,
    N,
    NanPolicy,
    apply_nan_policy,
    check_axis,
    check_ddof,
    forward,
    from_columns,
    kept_shape,
    permutation,
    row_weights,
)
from fanin._kernels import _moments

__all__ = ["Moments", "moments"]

# Index of the mean in a state, whose other rows _accumulate names.
MEAN = _accumulate.MEAN


# State, exponents, shape.
Parts = _accumulate.Parts


class Moments:
    """Count, mean and variance of every feature; grows with more data.

    With w the weights (1 without), n = Σ w the count and M2 = Σ w (x - mean)², the
    variance is M2 / (n - ddof). `moments` computes them from one array;
    ``Moments()`` starts empty and takes array after array with `update`. Two of them
    add up to the moments of both sets of data: d = mean_b - mean_a gives
    mean = mean_a + d n_b / n and M2 = M2_a + M2_b + d² n_a n_b / n [1]_.

    The mean is held in two words, M2 and the sum of weights with the rounding errors
    of their additions, and all with an exponent of their own where a double's range
    is too small. So the variance keeps 14 digits however the data is cut, one row at
    a time included, and `std` is right also where `var` overflows or underflows.

    Parameters
    ----------
    axis : int, tuple of int or None, default=0
        The axes of the arrays given to `update` that run over samples; None means
        all. The others tell the features apart.
    ddof : float, default=0
        Subtracted from the count in the variance.
    nan_policy : {"omit", "propagate", "raise"}, default="omit"
        What `update` does with NaN, as in `moments`.

    Attributes
    ----------
    count : ndarray of int64 or float64, or a scalar
        How many values of each feature are not NaN; the sum of their weights, as
        float64, if weights were ever given.
    mean, var, std : ndarray of float64, or float
        NaN where there are no values; `var` and `std` also where count <= ddof.
    constant : ndarray of bool, or bool
        Where the standard deviation is zero. The sums of a constant feature come
        out exactly, so the bound on the error of its variance is zero as well: a
        feature whose values differ is not constant, however little they differ.
    axis, ddof, nan_policy
        As given.
    shape : tuple of int, or None
        The shape of the data without the reduced axes; None while there is none.

    Raises
    ------
    TypeError, ValueError
        If an option has the wrong type or is out of range.

    See Also
    --------
    moments : Compute them from one array.

    Notes
    -----
    Arrays have the shape of the data without the reduced axes, and are read-only;
    with every axis reduced they are scalars, as they are while there is no data: a
    count of 0, mean, var and std NaN. An array that was taken from a Moments does not
    change when the Moments does.

    Two are equal if their shape, their `ddof` and every count, mean, variance and
    standard deviation are, to the last bit (and NaN to NaN). ``sum`` works on a list
    of them. They can be pickled, and copied at no cost.

    One Moments must not be updated from two threads at once.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the
       sample variance: analysis and recommendations", The American Statistician 37
       (1983) 242-247.

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

    Row after row, or in parts that are added:

    >>> stream = fanin.Moments()
    >>> for row in ([[1.0, 5.0]], [[3.0, 5.0]]):
    ...     _ = stream.update(row)
    >>> stream == m
    True
    >>> m + fanin.moments([[8.0, 2.0]])
    Moments(count=[3, 3],
            mean=[4., 4.],
            std=[2.94392 , 1.414214],
            ddof=0)
    """

    __slots__ = ("_axis", "_ddof", "_finished", "_nan_policy", "_parts")
    __hash__ = None  # type: ignore[assignment]

    # State and exponents, in the array's order, and shape: replaced all at once, so
    # that nothing can come between, and never changed. None: no data.
    _parts: Parts | None
    # Variance and standard deviation of the parts they were computed from.
    _finished: tuple[Any, Float64, Float64] | None
    _axis: int | tuple[int, ...] | None
    _ddof: float
    _nan_policy: str

    def __init__(
        self, *, axis: Axis = 0, ddof: float = 0, nan_policy: NanPolicy = "omit"
    ) -> None:
        self._axis = check_axis(axis)
        self._ddof = check_ddof(ddof)
        self._nan_policy = _validation.choice(nan_policy, NAN_POLICIES, "nan_policy")
        self._parts = self._finished = None

    @classmethod
    def _of(
        cls,
        state: Float64,
        exponent: Int32,
        shape: tuple[int, ...],
        ddof: float,
        axis: int | tuple[int, ...] | None = 0,
        nan_policy: str = "omit",
    ) -> Moments:
        return cls._from((state[:WEIGHTED], exponent, shape), axis, ddof, nan_policy)

    @classmethod
    def _from(
        cls,
        parts: Parts | None,
        axis: int | tuple[int, ...] | None,
        ddof: float,
        nan_policy: str,
    ) -> Moments:
        self = cls.__new__(cls)
        self._parts = parts
        self._finished = None
        self._axis = axis
        self._ddof = ddof
        self._nan_policy = nan_policy
        return self

    @property
    def _state(self) -> Float64:
        """The kernels' state: no columns while there is no data."""
        return np.zeros((PLAIN, 0)) if self._parts is None else self._parts[0]

    @property
    def _exponent(self) -> Int32:
        return np.zeros(0, np.int32) if self._parts is None else self._parts[1]

    @property
    def axis(self) -> int | tuple[int, ...] | None:
        """The axes that run over samples."""
        return self._axis

    @property
    def ddof(self) -> float:
        """What is subtracted from the count in the variance."""
        return self._ddof

    @property
    def nan_policy(self) -> str:
        """What `update` does with NaN."""
        return self._nan_policy

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of the data without the reduced axes; None while there is none."""
        return None if self._parts is None else self._parts[2]

    def _shaped(self, values: NDArray[Any]) -> Any:
        view = values.reshape(cast("Parts", self._parts)[2])
        view.flags.writeable = False
        return view[()]

    def _finish(self) -> tuple[Float64, Float64]:
        parts = self._parts
        done = self._finished
        if done is None or done[0] is not parts:
            state, exponent = self._state, self._exponent
            var, std = np.empty(exponent.shape), np.empty(exponent.shape)
            if var.size:
                _moments.moments_finish(var, std, state, exponent, self._ddof)
            self._finished = done = (parts, var, std)
        return done[1], done[2]

    @property
    def count(self) -> Any:
        """How many values of each feature are not NaN, or the sum of their weights."""
        if self._parts is None:
            return np.int64(0)
        state = self._parts[0]
        return self._shaped(state[N] if len(state) > PLAIN else state[N].astype(int))

    @property
    def mean(self) -> Any:
        """Mean of each feature."""
        if self._parts is None:
            return np.float64(np.nan)
        state, exponent, _ = self._parts
        mean = state[MEAN]
        if exponent.any():
            with np.errstate(all="ignore"):
                mean = np.ldexp(mean, exponent)
        empty = state[N] == 0.0
        if empty.any():
            mean = np.where(empty, np.nan, mean)
        return self._shaped(mean)

    @property
    def var(self) -> Any:
        """Variance of each feature."""
        return (
            np.float64(np.nan)
            if self._parts is None
            else self._shaped(self._finish()[0])
        )

    @property
    def std(self) -> Any:
        """Standard deviation of each feature."""
        return (
            np.float64(np.nan)
            if self._parts is None
            else self._shaped(self._finish()[1])
        )

    @property
    def constant(self) -> Any:
        """Whether a feature has a standard deviation of zero."""
        if self._parts is None:
            return np.False_
        return self._shaped(self._finish()[1] == 0.0)

    def update(
        self,
        X: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        n_threads: SupportsIndex | None = None,
    ) -> Moments:
        """Take more data in.

        Parameters
        ----------
        X : array_like of real numbers
            Samples along `axis`, read where they lie, as in `moments`. Without the
            reduced axes it has the shape of the data before.
        weights : array_like of real numbers, optional
            One per row, as in `moments`. Data without weights counts as of weight 1.
        n_threads : int, optional
            Threads to use; the result does not depend on it, bit for bit.

        Returns
        -------
        Moments
            This one.

        Raises
        ------
        TypeError
            If X or weights are not of real numbers.
        ValueError
            If X has other features than the data before, if a weight is refused, or
            if X contains NaN under "raise".

        Notes
        -----
        After an error, or Ctrl-C, the moments are what they were before the call.

        Examples
        --------
        >>> import fanin
        >>> m = fanin.Moments()
        >>> m.update([[1.0], [2.0]]).update([[6.0]], weights=[2.0]).mean
        array([3.75])
        """
        array = _validation.real_array(X, "X")
        axes = (
            (0,)
            if self._axis == 0 and array.ndim
            else _validation.reduced_axes(self._axis, array.ndim)
        )
        shape = kept_shape(array, axes)
        parts = self._parts
        if parts is not None and shape != parts[2]:
            raise ValueError(
                f"X must have features of shape {parts[2]}, as the data before; "
                f"got {shape}: X of shape {array.shape} without axis {self._axis}"
            )
        state, exponent = _accumulate.update(
            parts,
            array,
            axes,
            shape,
            None if weights is None else row_weights(weights, array, axes),
            self._nan_policy,
            _threads.resolve(n_threads),
        )
        self._parts = state, exponent, shape
        return self

    def block_rows(self, X: ArrayLike) -> int:
        """Return the step of the block grid, in rows, for arrays like X.

        The kernels cut data into blocks by a grid that depends on the number of
        features, the dtype and the memory layout of an array. Data that is cut into
        chunks of any multiple of this many rows (the last one of any size), each
        given to `update` in order and lying in memory as the whole does, gives the
        same bits as the whole at once. Other chunks give the same to rounding.

        Parameters
        ----------
        X : array_like of real numbers
            The whole, or a chunk of it of at least 4,096 rows.

        Returns
        -------
        int
            Where several axes are reduced, a row is one place along all of them,
            counted in the order in which they lie in memory.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> X = np.random.default_rng(0).standard_normal((100_000, 30))
        >>> whole, parts = fanin.moments(X), fanin.Moments()
        >>> step = 3 * parts.block_rows(X)
        >>> for start in range(0, len(X), step):
        ...     _ = parts.update(X[start : start + step])
        >>> parts == whole
        True
        """
        array = _validation.real_array(X, "X")
        axes = _validation.reduced_axes(self._axis, array.ndim)
        if array.size == 0:
            return 1
        return _moments.group_rows(array, axes)

    def _merged(self, other: Moments) -> Parts | None:
        for name in ("ddof", "nan_policy"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"Moments of different {name} cannot be merged: {mine!r} and "
                    f"{theirs!r}"
                )
        a, b = self._parts, other._parts
        if a is None or b is None:
            return a or b
        if a[2] != b[2]:
            raise ValueError(
                f"Moments of different shapes cannot be merged: {a[2]} and {b[2]}"
            )
        return (*_accumulate.merge(a, b), a[2])

    def merge(self, other: Moments) -> Moments:
        """Take the data of another Moments in; in place what ``+`` is.

        Parameters
        ----------
        other : Moments
            With the same shape, `ddof` and `nan_policy`, or without data yet. It is
            not changed.

        Returns
        -------
        Moments
            This one. Its `axis` stays.

        Raises
        ------
        TypeError
            If `other` is not a Moments.
        ValueError
            If the two do not fit. This one is unchanged then.

        Examples
        --------
        >>> import fanin
        >>> fanin.moments([1.0, 2.0]).merge(fanin.moments([6.0])).mean
        np.float64(3.0)
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other must be a Moments; got {type(other).__name__}")
        self._parts = self._merged(other)
        return self

    def __add__(self, other: object) -> Moments:
        if isinstance(other, int) and other == 0:
            return self.__copy__()
        if not isinstance(other, Moments):
            return NotImplemented
        return self.__copy__().merge(other)

    # sum() starts from 0.
    __radd__ = __add__

    def __copy__(self) -> Moments:
        new = self._from(self._parts, self._axis, self._ddof, self._nan_policy)
        new._finished = self._finished
        return new

    def __deepcopy__(self, memo: object) -> Moments:
        # What is shared is never changed.
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self._axis, self._ddof, self._nan_policy)
        return type(self)._from, (self._parts, *options)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary that JSON can hold.

        Returns
        -------
        dict
            Of lists, numbers, strings and None; numbers that JSON has not are the
            strings "nan", "inf" and "-inf". `from_dict` gives back the very bits,
            also after ``json.loads(json.dumps(d, allow_nan=False))``.

        Examples
        --------
        >>> import json
        >>> import fanin
        >>> m = fanin.moments([[0.1, 1.0], [0.3, 7.0]])
        >>> text = json.dumps(m.to_dict())
        >>> fanin.Moments.from_dict(json.loads(text)) == m
        True
        """
        return _moments_dict.to_dict(
            self._parts, self._axis, self._ddof, self._nan_policy
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Moments:
        """Return the Moments of which `to_dict` made this dictionary.

        Parameters
        ----------
        data : dict
            As `to_dict` returns it. It need not be trusted: every entry is checked.

        Returns
        -------
        Moments
            Equal to the one that was written, in its hidden words as well.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing, unknown, of the wrong type, or no moments can have
            it; the message names it.

        Examples
        --------
        >>> import fanin
        >>> fanin.Moments.from_dict(fanin.moments([1.0, 3.0]).to_dict()).mean
        np.float64(2.0)
        """
        parts, options = _moments_dict.from_dict(data)
        return cls._from(parts, **options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return (
            self.shape == other.shape
            and self.ddof == other.ddof
            and all(
                np.array_equal(
                    getattr(self, name), getattr(other, name), equal_nan=True
                )
                for name in ("count", "mean", "var", "std")
            )
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
        options = [] if self._axis == 0 else [f"axis={self._axis}"]
        options.append(f"ddof={self._ddof:g}")
        if self._nan_policy != "omit":
            options.append(f"nan_policy={self._nan_policy!r}")
        if self._parts is None:
            return f"Moments({', '.join(options)}; no data)"
        return "Moments(" + ",\n        ".join([*fields, ", ".join(options)]) + ")"


def moments(
    X: ArrayLike,
    *,
    axis: Axis = 0,
    weights: ArrayLike | None = None,
    ddof: float = 0,
    nan_policy: NanPolicy = "omit",
    n_threads: SupportsIndex | None = None,
) -> Moments:
    """Count, mean and variance of every feature, from one read of the data.

    mean = Σ w x / n and var = Σ w (x - mean)² / (n - ddof) with n = Σ w and weights w
    of 1 unless given, by the corrected two-pass algorithm on blocks that fit the
    cache, whose results are merged with the mean in two words [1]_. All sums are
    float64. The variance has at least 14 correct digits
    also where the mean is 10⁹ times the spread.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Samples along `axis`. Read where it lies, whatever its order, strides,
        alignment or byte order; integers, bool and float16 are converted block by
        block (64-bit integers beyond 2⁵³ are rounded).
    axis : int, tuple of int or None, default=0
        The axes to reduce; None means all. The others tell the features apart.
    weights : array_like of real numbers, optional
        One per row: an array in the shape of the reduced axes of X, in the array's
        order (of shape (n_samples,) for one axis). A weight of 2 is the same as the
        row twice, and a row of weight 0 is as if it were not there, NaN and infinities
        included. At most n_samples float64 are copied.
    ddof : float, default=0
        Subtracted from the count in the variance: 0 is the population's, 1 the
        unbiased estimate. Where count <= ddof the variance is NaN.
    nan_policy : {"omit", "propagate", "raise"}, default="omit"
        "omit" leaves NaN out; "propagate" makes the mean and variance of a feature
        with NaN NaN; "raise" refuses it. The count is of values that are not NaN, or
        the sum of their weights.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    Moments
        With `count`, `mean`, `var`, `std` and `constant`. It can take more data in,
        with `Moments.update`.

    Raises
    ------
    TypeError
        If X or weights are not of real numbers, or an option has the wrong type.
    ValueError
        If an option is out of range, if weights have another shape, or one is
        negative or not finite, or if X contains NaN under "raise".

    See Also
    --------
    Moments : The same of data that comes in parts.
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
    >>> fanin.moments([[1.0], [4.0]], weights=[3.0, 1.0]).mean
    array([1.75])
    """
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    _validation.choice(nan_policy, NAN_POLICIES, "nan_policy")
    checked = check_ddof(ddof)
    shape = kept_shape(array, axes)
    w = row_weights(weights, array, axes)
    state, exponent = forward(array, axes, shape, _threads.resolve(n_threads), w)
    order = permutation(array, axes)
    if nan_policy != "omit":
        apply_nan_policy(nan_policy, state, array, shape, order)
    return Moments._of(
        from_columns(state, shape, order),
        from_columns(exponent, shape, order),
        shape,
        checked,
        check_axis(axis),
        nan_policy,
    )
