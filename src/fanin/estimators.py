"""scikit-learn's StandardScaler and scale, computed by fanin.

Needs scikit-learn 1.5 or newer. ``import fanin`` does not import this module;
``fanin.estimators`` and ``import fanin.estimators`` do.
"""

# What scikit-learn decides is left to it: `StandardScaler` inherits from its class,
# which validates parameters and feature names, routes metadata and wraps the output,
# and does the work for sparse matrices and for arrays of another namespace. Dense
# arrays take this way instead:
#
# - scikit-learn's check_array sees the data, with its search for infinite values
#   off, because it reads everything once more. Every mean of finite data is finite
#   (`moments` does not overflow), so a mean that is not finite after the one read of
#   `fit` says that the search has to be made, and scikit-learn makes it.
# - The statistics are a `Moments`, kept beside the public attributes with all its
#   digits. The attributes rule: where they do not agree with it (they were set by
#   hand, or unpickled from another class), it is made anew from them.
# - `transform` reads X and writes the result, with no copy between.

from __future__ import annotations

import contextlib
import warnings
from copy import copy as copy_of
from numbers import Integral
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _validation
from fanin._statistics import Moments, moments
from fanin.preprocessing import standardize, unstandardize

try:
    import sklearn
    from scipy import sparse
    from sklearn.base import _fit_context, clone
    from sklearn.exceptions import NotFittedError
    from sklearn.preprocessing import StandardScaler as _Base
    from sklearn.preprocessing import scale as _sklearn_scale
    from sklearn.utils import assert_all_finite, check_array, validation
    from sklearn.utils._param_validation import Interval, Options, validate_params
except ImportError as error:
    raise ImportError(
        'fanin.estimators needs scikit-learn 1.5 or newer: pip install "fanin[sklearn]"'
    ) from error

__all__ = ["StandardScaler", "scale"]

Float64 = NDArray[np.float64]

FLOATS = (np.float64, np.float32, np.float16)
EPS = float(np.finfo(np.float64).eps)
# The check for infinite values: up to this size NumPy's sum takes less time than a
# call of `moments`, and from here on `moments` reads faster (and on several threads).
SMALL = 1 << 16
# float16 is computed in float32, in blocks of this many elements.
BLOCK = 1 << 16
SCALE = "the scale function"  # as scikit-learn calls it in its messages

# scikit-learn 1.6 renamed the option and made a function of the method.
_NEW = hasattr(validation, "validate_data")
_FINITE = "ensure_all_finite" if _NEW else "force_all_finite"


def _is_other_namespace(X: Any) -> bool:
    """Whether X may be for scikit-learn's array API code (torch, cupy, ...)."""
    return (
        bool(sklearn.get_config()["array_api_dispatch"])
        and not isinstance(X, (np.ndarray, list, tuple))
        and not hasattr(X, "iloc")
    )


def _options(X: Any, finite: bool | str) -> dict[str, Any]:
    """Return options for check_array that keep it from copying the array X.

    Integers, bool and byte-swapped doubles pass, which scikit-learn converts: the
    kernels read them where they lie.
    """
    dtype: Any = FLOATS
    if isinstance(X, np.ndarray):
        kind = X.dtype.kind
        if kind in "iub" or (kind == "f" and X.dtype.itemsize == 8):
            dtype = None
    return {"dtype": dtype, _FINITE: finite}


def _refuse_infinite(
    X: NDArray[Any],
    estimator: str,
    n_threads: SupportsIndex | None,
    name: str = "X",
) -> None:
    """Raise scikit-learn's error if X holds an infinite value."""
    if X.dtype.kind != "f":
        return
    if X.size <= SMALL and X.dtype.itemsize >= 4:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(X, axis=None)
    else:
        total = moments(X, axis=None, n_threads=n_threads).mean
    if np.isfinite(total):
        return
    try:  # NaN, an infinity, or a sum that overflowed
        assert_all_finite(X, allow_nan=True, estimator_name=estimator, input_name=name)
    except ValueError:
        if estimator == SCALE:
            # This raises as well, in the words of the installed version.
            _sklearn_scale(np.array([np.inf], X.dtype))
        raise


def _take_in(
    known: Moments,
    X: NDArray[Any],
    weights: Float64 | None,
    n_threads: SupportsIndex | None,
    estimator: str,
) -> Moments:
    """Update moments with X, which is refused if it holds an infinite value."""
    found = known.update(X, weights, n_threads=n_threads)
    if X.dtype.kind == "f":
        infinite = ~np.isfinite(found.mean) & (found.count > 0)
        # The moments do not see the rows of weight zero; scikit-learn does.
        unseen = weights is not None and not weights.all()
        if infinite.any() or unseen:
            _refuse_infinite(X, estimator, n_threads)
    return found


def _nearly_constant(std: Any, mean: Any, count: Any) -> Any:
    """Whether features are constant by scikit-learn's rule.

    That is var <= n eps var + (n eps mean)², the error bound of the two-pass algorithm
    (Chan, Golub and LeVeque 1983); here in square roots, which neither overflow nor
    underflow.
    """
    error = np.asarray(count, np.float64) * EPS
    return std * np.sqrt(np.maximum(0.0, 1.0 - error)) <= error * np.abs(mean)


def _apply(
    X: NDArray[Any],
    out: NDArray[Any] | None,
    mean: Any,
    std: Any,
    *,
    inverse: bool = False,
    axis: int = 0,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]:
    """(X - mean) / std, or its inverse, in scikit-learn's dtype; `out` may be X."""
    mean = 0.0 if mean is None else mean
    std = 1.0 if std is None else std
    if X.dtype != np.float16:
        if inverse:
            return unstandardize(X, mean, std, axis=axis, out=out, n_threads=n_threads)
        return standardize(
            X, axis=axis, mean=mean, std=std, out=out, n_threads=n_threads
        )
    # Any piece of the samples, which lie along `axis`, is transformed alike.
    result = np.empty_like(X, subok=False) if out is None else out
    samples, results = np.moveaxis(X, axis, 0), np.moveaxis(result, axis, 0)
    step = max(1, BLOCK * len(samples) // X.size)
    for start in range(0, len(samples), step):
        part = slice(start, start + step)
        if inverse:
            single = unstandardize(samples[part], mean, std, n_threads=n_threads)
        else:
            single = standardize(samples[part], mean=mean, std=std, n_threads=n_threads)
        results[part] = single
    return result


def _takes_result(X: NDArray[Any]) -> bool:
    """Whether a result can be written over X."""
    return bool(
        X.dtype in FLOATS and X.flags.writeable and not _validation.overlaps_itself(X)
    )


def _is_own(checked: NDArray[Any], X: Any) -> bool:
    """Whether check_array made `checked` of X by a conversion, for us to write to."""
    if isinstance(X, (list, tuple)):
        return checked.base is None
    return isinstance(X, np.ndarray) and not np.may_share_memory(checked, X)


def _restore_extremes(
    state: Float64, exponent: Any, some: Any, var: Any, std: Any
) -> None:
    """Take from scale_ what var_, its square, had no room for in a double."""
    var, std = np.asarray(var), np.asarray(std)
    huge, tiny = np.isinf(var) & (std > 1e150), (var < 1e-290) & (std < 1e-140)
    lost = some & (huge | (tiny & (std > 0.0)))
    unknown = some & np.isinf(var) & ~(huge & np.isfinite(std))
    if unknown.any():
        raise ValueError(
            f"feature {np.flatnonzero(unknown)[0]} has an infinite var_, and no scale_ "
            f"that says more: such statistics cannot be continued or merged"
        )
    exponent[lost] = np.frexp(std[lost])[1]
    state[1, lost] = np.ldexp(state[1, lost], -exponent[lost])
    state[3, lost] = state[0, lost] * np.ldexp(std[lost], -exponent[lost]) ** 2


class StandardScaler(_Base):  # type: ignore[misc]
    """Standardize features: scikit-learn's StandardScaler, computed by fanin.

    z = (x - mean) / scale, feature by feature, with the mean and the standard
    deviation of the data given to `fit`. It is a subclass of scikit-learn's class
    and has its parameters, attributes and behaviour: NaN is missing, sparse matrices
    are scaled without centring, and feature names, `set_output`, metadata routing
    and cloning work as they do there. What differs is told in the notes.

    Parameters
    ----------
    copy : bool, default=True
        If False, write the result over X where that is possible: X is an array (or a
        frame that holds one) of float16, float32 or float64, and writeable.
    with_mean : bool, default=True
        Subtract the mean. Refused for sparse matrices.
    with_std : bool, default=True
        Divide by the standard deviation.
    n_threads : int, optional
        Threads to use; by default, those of `fanin.get_num_threads`. The result does
        not depend on it.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,) or None
        Mean of each feature; None with neither `with_mean` nor `with_std`.
    var_ : ndarray of shape (n_features,) or None
        Variance of each feature (divided by n); None without `with_std`.
    scale_ : ndarray of shape (n_features,) or None
        What features are divided by: the standard deviation, or 1 for those that are
        constant, or nearly so by scikit-learn's rule; None without `with_std`.
    n_samples_seen_ : int or ndarray of shape (n_features,)
        How many values each feature had that are not NaN: one number if it is the
        same for all. With weights, the sum of their weights, a float.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the features, if X had some that are all strings.

    See Also
    --------
    scale : The same for one array, without an estimator.
    fanin.standardize : The same for arrays of any rank.
    fanin.Moments : Statistics that can be merged, without scikit-learn.

    Notes
    -----
    Against scikit-learn's class: a fit reads dense data once and copies nothing;
    `partial_fit` keeps at least 14 digits of the variance however the data is cut;
    float32 is centred with the mean in double; fitted scalers can be merged (`merge`
    and ``a + b``); negative weights are refused; overflow and underflow of the
    variance do not affect `scale_`.

    Examples
    --------
    >>> from fanin.estimators import StandardScaler
    >>> data = [[0, 0], [0, 0], [1, 1], [1, 1]]
    >>> scaler = StandardScaler().fit(data)
    >>> scaler.mean_
    array([0.5, 0.5])
    >>> scaler.transform([[2, 2]])
    array([[3., 3.]])
    """

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012 (scikit-learn's name)
        **_Base._parameter_constraints,
        "n_threads": [Interval(Integral, 1, 256, closed="both"), None],
    }

    def __init__(
        self,
        *,
        copy: bool = True,
        with_mean: bool = True,
        with_std: bool = True,
        n_threads: SupportsIndex | None = None,
    ) -> None:
        super().__init__(copy=copy, with_mean=with_mean, with_std=with_std)
        self.n_threads = n_threads

    def _reset(self) -> None:
        for name in ("scale_", "n_samples_seen_", "mean_", "var_", "_moments"):
            self.__dict__.pop(name, None)

    def _validated(self, X: Any, *, reset: bool) -> Any:
        """Return X checked by scikit-learn, but for infinite values, uncopied."""
        options = {"accept_sparse": ("csr", "csc"), **_options(X, False)}
        if _NEW:
            return validation.validate_data(self, X, reset=reset, **options)
        return self._validate_data(X, reset=reset, **options)

    def _known(self) -> Moments:
        """Return the moments of the data seen, with all digits if they are known."""
        n_features = self.n_features_in_
        count = np.broadcast_to(self.n_samples_seen_, n_features)
        found = self.__dict__.get("_moments")
        if (
            found is not None
            and np.array_equal(count, found.count)
            and (
                self.mean_ is None
                or np.array_equal(self.mean_, found.mean, equal_nan=True)
            )
            and (
                self.var_ is None
                or np.array_equal(self.var_, found.var, equal_nan=True)
            )
        ):
            return cast(Moments, found)
        # Rows: count, mean, its second word, squared deviations, their second word,
        # and with weights the second word of the count.
        state = np.zeros((6 if count.dtype.kind == "f" else 5, n_features))
        state[0] = count
        some = state[0] > 0
        for row, values in ((1, self.mean_), (3, self.var_)):
            if values is not None:
                state[row, some] = np.asarray(values)[some]
        state[3] *= state[0]
        exponent = np.zeros(n_features, np.int32)
        if self.var_ is not None:
            _restore_extremes(state, exponent, some, self.var_, self.scale_)
        return Moments._of(state, exponent, (n_features,), 0.0)

    def _adopt(self, found: Moments, weighted: bool) -> None:
        """Take the attributes from moments."""
        seen = found.count.astype(np.float64 if weighted else np.int64)
        self._moments = found
        self.n_samples_seen_ = seen[0] if (seen == seen[0]).all() else seen
        # Copies, because those of Moments are read-only.
        centred = self.with_mean or self.with_std
        self.mean_ = np.array(found.mean) if centred else None
        self.var_ = np.array(found.var) if self.with_std else None
        self.scale_ = None
        if self.with_std:
            nearly = _nearly_constant(found.std, found.mean, seen)
            self.scale_ = np.where(nearly, 1.0, found.std)

    def _is_weighted(self) -> bool:
        return bool(np.asarray(self.n_samples_seen_).dtype.kind == "f")

    def fit(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> StandardScaler:
        """Compute the mean and the standard deviation of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The data.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, none of them negative: a weight of 2 counts as a repeated row.

        Returns
        -------
        StandardScaler
            The scaler itself.

        Examples
        --------
        >>> from fanin.estimators import StandardScaler
        >>> StandardScaler().fit([[1.0], [3.0]]).scale_
        array([1.])
        """
        self._reset()
        return cast(StandardScaler, self.partial_fit(X, y, sample_weight))

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> StandardScaler:
        """Go on with the mean and the standard deviation over more samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples to add.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, none of them negative.

        Returns
        -------
        StandardScaler
            The scaler itself.

        Examples
        --------
        >>> from fanin.estimators import StandardScaler
        >>> scaler = StandardScaler()
        >>> for batch in ([[1.0], [2.0]], [[3.0]]):
        ...     scaler = scaler.partial_fit(batch)
        >>> scaler.mean_, scaler.n_samples_seen_
        (array([2.]), np.int64(3))
        """
        self._partial_fit(X, y, sample_weight)
        return self

    def _partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None
    ) -> NDArray[Any] | None:
        """As partial_fit; return what X was checked to be if it is a dense array."""
        first = not hasattr(self, "n_samples_seen_")
        if sparse.issparse(X) or _is_other_namespace(X):
            super().partial_fit(X, y, sample_weight)
            self.__dict__.pop("_moments", None)
            return None
        features = ("n_features_in_", "feature_names_in_")
        before = {k: v for k, v in self.__dict__.items() if k in features}
        array = self._validated(X, reset=first)
        if sparse.issparse(array):  # a frame of sparse columns
            super().partial_fit(X, y, sample_weight)
            self.__dict__.pop("_moments", None)
            return None
        task = None
        if hasattr(self, "_init_callback_context"):  # since scikit-learn 1.9
            task = self._init_callback_context()
            metadata = {"sample_weight": sample_weight}
            task.call_on_fit_task_begin(estimator=self, X=array, y=y, metadata=metadata)
        try:
            self._update(array, sample_weight, first)
        except BaseException:
            # (scikit-learn would have found the error before it set these.)
            for name in features:
                self.__dict__.pop(name, None)
            self.__dict__.update(before)
            raise
        if task is not None:
            task.call_on_fit_task_end(
                estimator=self,
                X=array,
                y=y,
                metadata=metadata,
                reconstruction_attributes={},
            )
        return cast("NDArray[Any]", array)

    def _update(
        self, X: NDArray[Any], sample_weight: ArrayLike | None, first: bool
    ) -> None:
        weights = None
        if sample_weight is not None:
            weights = validation._check_sample_weight(
                sample_weight, X, dtype=np.float64
            )
            validation.check_non_negative(weights, "`sample_weight`")
        weighted = weights is not None or (not first and self._is_weighted())
        if not (self.with_mean or self.with_std):
            weights = None  # only counted, as in scikit-learn
        # A copy (of the outside) is updated: after an error nothing has changed.
        known = Moments() if first else copy_of(self._known())
        name = type(self).__name__
        found = _take_in(known, X, weights, self.n_threads, name)
        self._adopt(found, weighted)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit to X and transform it, with one check of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The data.
        y : None
            Ignored.
        **fit_params : dict
            For `fit`: `sample_weight`.

        Returns
        -------
        ndarray, sparse matrix or frame of shape (n_samples, n_features)
            The transformed data, as from `transform`.

        Examples
        --------
        >>> from fanin.estimators import StandardScaler
        >>> StandardScaler().fit_transform([[1.0], [3.0]])
        array([[-1.],
               [ 1.]])
        """
        if (
            type(self) is not StandardScaler  # which may override fit or transform
            or not fit_params.keys() <= {"sample_weight"}
            or not (self.copy or isinstance(X, np.ndarray))
            or sparse.issparse(X)
            or _is_other_namespace(X)
        ):
            return super().fit_transform(X, y, **fit_params)
        self._reset()
        array = self._fit_dense(X, y, **fit_params)
        if array is None:
            return self.transform(X)
        return self._transformed(array, X, bool(self.copy))

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def _fit_dense(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None
    ) -> NDArray[Any] | None:
        return self._partial_fit(X, y, sample_weight)

    def _is_plain(self, X: Any) -> bool:
        """Whether scikit-learn's checks of X, but for finiteness, must succeed."""
        own = self.__dict__
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype.char in "fd"
            and X.dtype.isnative
            and X.shape[0] > 0
            and X.shape[1] == own.get("n_features_in_")
            and "feature_names_in_" not in own
            and "scale_" in own
        )

    def _coefficients(self) -> tuple[Any, Any]:
        """Return mean and divisors to be used; None for those that are not."""
        mean = self.mean_ if self.with_mean else None
        std = self.scale_ if self.with_std else None
        for name, asked, value in (
            ("with_mean", self.with_mean, mean),
            ("with_std", self.with_std, std),
        ):
            if asked and value is None:
                raise NotFittedError(
                    f"{name} is True, but this {type(self).__name__} was fitted with "
                    f"it False and lacks the statistics: fit it again"
                )
        return mean, std

    def _transformed(
        self, array: NDArray[Any], X: Any, copy: bool, inverse: bool = False
    ) -> NDArray[Any]:
        """Transform what X was checked to be, into new memory if `copy`."""
        mean, std = self._coefficients()
        in_place = (not copy or _is_own(array, X)) and _takes_result(array)
        return _apply(
            array,
            array if in_place else None,
            mean,
            std,
            inverse=inverse,
            n_threads=self.n_threads,
        )

    def transform(self, X: Any, copy: bool | None = None) -> Any:
        """Subtract the mean and divide by the standard deviation.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The data.
        copy : bool, optional
            Overrides the scaler's `copy`.

        Returns
        -------
        ndarray, sparse matrix or frame of shape (n_samples, n_features)
            The transformed data: float16 and float32 stay, all else is float64.

        Examples
        --------
        >>> from fanin.estimators import StandardScaler
        >>> StandardScaler().fit([[1.0], [3.0]]).transform([[5.0]])
        array([[3.]])
        """
        copy = bool(self.copy if copy is None else copy)
        if self._is_plain(X):
            _refuse_infinite(X, type(self).__name__, self.n_threads)
            return self._transformed(X, X, copy)
        if sparse.issparse(X) or _is_other_namespace(X):
            return super().transform(X, copy=copy)
        validation.check_is_fitted(self)
        array = self._validated(X, reset=False)
        if sparse.issparse(array):
            return super().transform(X, copy=copy)
        _refuse_infinite(array, type(self).__name__, self.n_threads)
        return self._transformed(_writeable(array, X, copy), X, copy)

    def inverse_transform(self, X: Any, copy: bool | None = None) -> Any:
        """Multiply by the standard deviation and add the mean.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Transformed data.
        copy : bool, optional
            Overrides the scaler's `copy`.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_features)
            The data in its original units.

        Examples
        --------
        >>> from fanin.estimators import StandardScaler
        >>> StandardScaler().fit([[1.0], [3.0]]).inverse_transform([[3.0]])
        array([[5.]])
        """
        copy = bool(self.copy if copy is None else copy)
        if sparse.issparse(X) or _is_other_namespace(X):
            return super().inverse_transform(X, copy=copy)
        if not self._is_plain(X):
            validation.check_is_fitted(self)
            array = check_array(X, accept_sparse="csr", **_options(X, False))
            if sparse.issparse(array):
                return super().inverse_transform(X, copy=copy)
        else:
            array = X
        n_features = getattr(self, "n_features_in_", array.shape[1])
        if array.shape[1] != n_features:
            raise ValueError(
                f"X has {array.shape[1]} features, but {type(self).__name__} is "
                f"expecting {n_features} features as input."
            )
        # (scikit-learn names neither the estimator nor X in this message.)
        _refuse_infinite(array, "", self.n_threads, name="")
        return self._transformed(_writeable(array, X, copy), X, copy, inverse=True)

    def merge(self, other: Any) -> StandardScaler:
        """Go on as if the data that `other` has seen had been given as well.

        Parameters
        ----------
        other : StandardScaler
            A fitted scaler (scikit-learn's will do) with the same features,
            `with_mean` and `with_std`. It is not changed.

        Returns
        -------
        StandardScaler
            The scaler itself.

        Raises
        ------
        TypeError
            If `other` is not a StandardScaler.
        ValueError
            If it has another number of features, other feature names, or another
            `with_mean` or `with_std`.
        sklearn.exceptions.NotFittedError
            If one of the two has not been fitted.

        See Also
        --------
        partial_fit : Add data instead.

        Notes
        -----
        ``a + b`` is a new scaler with the parameters of `a`. If only one of the two
        knows feature names they are kept, with a UserWarning.

        Examples
        --------
        >>> from fanin.estimators import StandardScaler
        >>> a = StandardScaler().fit([[1.0], [2.0]])
        >>> b = StandardScaler().fit([[6.0]])
        >>> (a + b).mean_
        array([3.])
        >>> a.merge(b).n_samples_seen_
        np.int64(3)
        """
        if not isinstance(other, _Base):
            raise TypeError(
                f"other must be a fitted StandardScaler; got {type(other).__name__}"
            )
        for scaler in (self, other):
            validation.check_is_fitted(scaler, "n_samples_seen_")
        for name in ("with_mean", "with_std"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"scalers can be merged if {name} is the same; got "
                    f"{getattr(self, name)} and {getattr(other, name)}"
                )
        if self.n_features_in_ != other.n_features_in_:
            raise ValueError(
                f"scalers can be merged if they have the same features; got "
                f"{self.n_features_in_} and {other.n_features_in_} of them"
            )
        names = _merged_names(self, other)
        found = self._known() + StandardScaler._known(other)
        weighted = self._is_weighted() or StandardScaler._is_weighted(other)
        self._adopt(found, weighted)
        if names is not None:
            self.feature_names_in_ = names
        return self

    def __add__(self, other: Any) -> StandardScaler:
        if not isinstance(other, _Base):
            return NotImplemented
        validation.check_is_fitted(self, "n_samples_seen_")
        result = clone(self)
        fitted = ("n_features_in_", "n_samples_seen_", "mean_", "var_", "scale_")
        for name in (*fitted, "feature_names_in_", "_moments"):
            if name in self.__dict__:
                setattr(result, name, self.__dict__[name])
        return cast(StandardScaler, result.merge(other))


def _writeable(array: NDArray[Any], X: Any, copy: bool) -> NDArray[Any]:
    """Let a frame be written over, as scikit-learn does, if no copy is wanted."""
    if not copy and not array.flags.writeable and hasattr(X, "iloc"):
        # pandas 3 gives out its arrays as read-only. If the frame itself was made from
        # one this fails, and the result goes to new memory.
        with contextlib.suppress(ValueError):
            array.flags.writeable = True
    return array


def _merged_names(a: Any, b: Any) -> NDArray[Any] | None:
    """Return the feature names of two scalers, which must not contradict."""
    first = getattr(a, "feature_names_in_", None)
    second = getattr(b, "feature_names_in_", None)
    if first is None and second is None:
        return None
    if first is None or second is None:
        warnings.warn(
            "only one of the two scalers was fitted with feature names; they are kept",
            UserWarning,
            stacklevel=3,
        )
        return first if second is None else second
    if np.array_equal(first, second):
        return cast("NDArray[Any]", first)
    message = "scalers can be merged if their feature names are the same; "
    one = [str(name) for name in first if name not in set(second)]
    two = [str(name) for name in second if name not in set(first)]
    if not one and not two:
        raise ValueError(f"{message}these are in a different order")

    def listed(names: list[str]) -> str:
        return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"

    raise ValueError(
        f"{message}only in the first: {listed(one)}; only in the second: {listed(two)}"
    )


@validate_params(  # type: ignore[untyped-decorator]
    {
        "X": ["array-like", "sparse matrix"],
        "axis": [Options(Integral, {0, 1})],
        "with_mean": ["boolean"],
        "with_std": ["boolean"],
        "copy": ["boolean"],
        "n_threads": [Interval(Integral, 1, 256, closed="both"), None],
    },
    prefer_skip_nested_validation=True,
)
def scale(
    X: Any,
    *,
    axis: int = 0,
    with_mean: bool = True,
    with_std: bool = True,
    copy: bool = True,
    n_threads: SupportsIndex | None = None,
) -> Any:
    """Standardize an array along an axis: scikit-learn's scale, computed by fanin.

    (x - mean) / std with the mean and standard deviation (divided by n) along
    `axis`. NaN is missing: left out of both, and kept in the result.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features) or (n_samples,)
        The data.
    axis : {0, 1}, default=0
        0 standardizes each feature, 1 each sample.
    with_mean : bool, default=True
        Subtract the mean. Refused for sparse matrices.
    with_std : bool, default=True
        Divide by the standard deviation.
    copy : bool, default=True
        If False, write the result over X where that is possible, as in
        `StandardScaler`.
    n_threads : int, optional
        Threads to use; the result does not depend on it.

    Returns
    -------
    ndarray or sparse matrix of the shape of X
        The result: float16 and float32 stay, all else is float64.

    See Also
    --------
    StandardScaler : Keeps the statistics, to transform other data.
    fanin.standardize : For arrays of any rank.

    Notes
    -----
    What is constant, and divided by 1, is decided as in `StandardScaler`, so the two
    agree. (scikit-learn's `scale` leaves every feature alone whose standard deviation
    is below 10 eps of the dtype, whatever its size.) A feature that is constant or
    nearly so gives the warnings that scikit-learn's `scale` has for it; other
    features are centred without numerical trouble and give none.

    Examples
    --------
    >>> from fanin.estimators import scale
    >>> scale([[-2, 1, 2], [-1, 0, 1]])
    array([[-1.,  1.,  1.],
           [ 1., -1., -1.]])
    """
    if sparse.issparse(X) or _is_other_namespace(X):
        return _sklearn_scale(
            X, axis=axis, with_mean=with_mean, with_std=with_std, copy=copy
        )
    array = check_array(
        X,
        accept_sparse="csc",
        ensure_2d=False,
        estimator=SCALE,
        input_name="X",
        **_options(X, False),
    )
    if sparse.issparse(array):
        return _sklearn_scale(
            X, axis=axis, with_mean=with_mean, with_std=with_std, copy=copy
        )
    mean = std = None
    if with_mean or with_std:
        found = _take_in(Moments(axis=axis), array, None, n_threads, SCALE)
        nearly = _nearly_constant(found.std, found.mean, found.count)
        if with_std:
            std = np.where(nearly, 1.0, found.std)
        if with_mean:
            mean = found.mean
            _warn_of_constants(array, axis, nearly & (mean != 0.0), with_std)
    else:
        _refuse_infinite(array, SCALE, n_threads)
    array = _writeable(array, X, copy)
    in_place = (not copy or _is_own(array, X)) and _takes_result(array)
    out = array if in_place else None
    return _apply(array, out, mean, std, axis=axis, n_threads=n_threads)


def _warn_of_constants(X: NDArray[Any], axis: int, nearly: Any, with_std: bool) -> None:
    """Let scikit-learn's `scale` see the (nearly) constant features, to warn of them.

    Its warnings come from the rounding errors of NumPy's mean, in which it finds out
    that a feature has little but rounding errors to offer.
    """
    if X.ndim == 1:
        if nearly:
            _sklearn_scale(X, with_std=with_std)
        return
    found = np.flatnonzero(nearly)
    samples = X if axis == 0 else X.T
    step = max(1, BLOCK // len(samples))
    for start in range(0, found.size, step):
        _sklearn_scale(samples[:, found[start : start + step]], with_std=with_std)
