"""Batch, layer and RMS normalization: forward and backward, on any array."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads, _validation
from fanin._accumulate import (
    MEAN,
    Axis,
    Float64,
    N,
    forward,
    from_columns,
    kept_shape,
    permutation,
    to_columns,
)
from fanin._kernels import _batch_norm, _layer_norm, _moments

__all__ = [
    "Saved",
    "batch_norm",
    "batch_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]

# Rows of the statistics: xhat = ((x * SCALE - MEAN) - LO) * RSTD.
S_MEAN, S_RSTD, S_LO, S_SCALE = range(4)


class Saved:
    """What the backward pass needs of a forward pass.

    `batch_norm`, `layer_norm` and `rms_norm` return one, and it is given to the
    backward function of the same name. X is held by reference, not copied: change it
    in between, and the gradient is that of other data. (A forward pass in place,
    ``out=X``, overwrites X; the backward pass then refuses.) gamma is copied.

    Attributes
    ----------
    mean : ndarray of float64, or float
        The mean of each feature (`batch_norm`: the shape of X without the reduced
        axes) or of each sample (the shape of X without the normalized axes); with
        `rms_norm` 0. Rounded to a double; the computation uses more digits.
    rstd : ndarray of float64, or float
        1 / sqrt(var + eps), likewise; 0 where var + eps is 0.

    Examples
    --------
    >>> import fanin
    >>> Y, saved = fanin.layer_norm([[1.0, 3.0]], eps=0.0)
    >>> saved.mean, saved.rstd
    (array([2.]), array([1.]))
    """

    __slots__ = (
        "_X",
        "_axes",
        "_beta_dtype",
        "_dtype",
        "_gamma",
        "_gamma_dtype",
        "_kept",
        "_kind",
        "_order",
        "_shape",
        "_stats",
        "_training",
    )

    _X: NDArray[Any] | None  # None: overwritten in place
    _axes: tuple[int, ...]  # as the option was given: reduced or normalized
    _beta_dtype: np.dtype[Any] | None
    _dtype: np.dtype[Any]  # of Y
    _gamma: Float64  # in the kernels' order; ones if there is none
    _gamma_dtype: np.dtype[Any] | None
    _kept: tuple[tuple[int, ...], tuple[int, ...] | None]  # of the statistics
    _kind: str
    _order: tuple[int, ...] | None  # of gamma
    _shape: tuple[int, ...]  # of gamma
    _stats: Float64
    _training: bool

    def __init__(self) -> None:
        raise TypeError(
            "Saved is made by batch_norm, layer_norm and rms_norm, not by itself"
        )

    def _shaped(self, values: Float64) -> Any:
        shape, order = self._kept
        view = from_columns(values, shape, order).reshape(shape)
        view.flags.writeable = False
        return view[()]

    @property
    def mean(self) -> Any:
        """Mean of each feature or sample."""
        mean = self._stats[S_MEAN]
        if len(self._stats) > S_SCALE:
            with np.errstate(all="ignore"):
                mean = mean / self._stats[S_SCALE]
        return self._shaped(mean.copy())

    @property
    def rstd(self) -> Any:
        """1 / sqrt(var + eps) of each feature or sample."""
        rstd = self._stats[S_RSTD]
        if len(self._stats) > S_SCALE:
            with np.errstate(all="ignore"):
                rstd = rstd * self._stats[S_SCALE]
        return self._shaped(rstd.copy())

    def __repr__(self) -> str:
        if self._X is None:
            return f"<fanin Saved of {self._kind}, in place: no backward pass>"
        return f"<fanin Saved of {self._kind}, X of shape {self._X.shape}>"


def _eps(eps: float) -> float:
    # The default comes first: it is what nearly every call has.
    return eps if eps == 1e-5 else _validation.real(eps, "eps", minimum=0.0)


def _constants(value: float) -> Float64:
    array = np.full(1024, value)
    array.flags.writeable = False
    return array


ONES, ZEROS = _constants(1.0), _constants(0.0)


def _parameter(
    value: ArrayLike | None,
    name: str,
    default: Float64,
    shape: tuple[int, ...],
    order: tuple[int, ...] | None,
    which: str,
) -> tuple[Float64, np.dtype[Any] | None]:
    """Return gamma or beta as a float64 copy in the kernels' order, and its dtype.

    One that is not given is cut from constants, or as long as it has to be.
    """
    if value is None:
        n = 1
        for size in shape:
            n *= size
        return default[:n] if n <= default.size else np.full(n, default[0]), None
    array = _validation.real_array(value, name)
    if array.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, that of X's {which}; got {array.shape}"
        )
    copy = array.astype(np.float64, order="C")
    if copy.ndim != 1:
        copy = to_columns(copy, shape, order)
    return copy, _validation.result_dtype(array)


def _out_for(X: NDArray[Any], out: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if out is None:
        return np.empty_like(X, dtype=dtype, subok=False)
    checked = _validation.check_out(out, X.shape, dtype)
    _validation.no_overlap(_validation.distinct_elements(checked), X, "X", same=True)
    return checked


def _saved(
    kind: str,
    X: NDArray[Any],
    out: NDArray[Any] | None,
    axes: tuple[int, ...],
    kept: tuple[tuple[int, ...], tuple[int, ...] | None],
    shape: tuple[int, ...],
    order: tuple[int, ...] | None,
    stats: Float64,
    gamma: Float64,
    dtypes: tuple[Any, Any, Any],
    training: bool = True,
) -> Saved:
    saved = Saved.__new__(Saved)
    saved._kind = kind
    # `out` has passed: it is X itself, or shares no element with it.
    same = out is not None and X.size > 0 and out.ctypes.data == X.ctypes.data
    saved._X = None if same else X
    saved._axes = axes
    saved._kept = kept
    saved._shape = shape
    saved._order = order
    saved._stats = stats
    saved._gamma = gamma
    saved._dtype, saved._gamma_dtype, saved._beta_dtype = dtypes
    saved._training = training
    return saved


def _gradient_arguments(
    dY: ArrayLike, saved: Any, kind: str, out: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Check what a backward pass is given; return dY, X and where to write dX."""
    if not isinstance(saved, Saved):
        raise TypeError(
            f"saved must be what {kind} returned with Y; got {type(saved).__name__}"
        )
    if saved._kind != kind:
        raise ValueError(f"saved must come from {kind}; it came from {saved._kind}")
    X = saved._X
    if X is None:
        raise ValueError(
            f"saved comes from {kind} in place (out=X), which overwrote the X that "
            "the gradient needs; give it another out, or none"
        )
    grad = _validation.real_array(dY, "dY")
    if grad.shape != X.shape:
        raise ValueError(
            f"dY must have the shape of Y, {X.shape}; got shape {grad.shape}"
        )
    if _validation.result_dtype(grad) != saved._dtype:
        raise TypeError(
            f"dY must have the dtype of Y, {saved._dtype} (or one that is converted "
            f"to it as X is); got {grad.dtype}"
        )
    if out is None:
        result = np.empty_like(X, dtype=saved._dtype, subok=False)
    else:
        result = _validation.check_out(out, X.shape, saved._dtype)
        _validation.distinct_elements(result)
        _validation.no_overlap(result, grad, "dY", same=True)
        _validation.no_overlap(result, X, "X, which saved holds")
    return grad, X, result


def _parameter_gradients(
    saved: Saved, sums: Float64
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Dgamma and dbeta in the shapes and dtypes of gamma and beta."""
    if saved._order is not None:
        sums = from_columns(sums, saved._shape, saved._order)
    gamma, beta = saved._gamma_dtype, saved._beta_dtype
    dgamma = dbeta = None
    with np.errstate(all="ignore"):
        if gamma is not None:
            dgamma = sums[0].astype(gamma).reshape(saved._shape)
        if beta is not None:
            dbeta = sums[1].astype(beta).reshape(saved._shape)
    return dgamma, dbeta


def _kept_axes(ndim: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in range(ndim) if d not in axes)


def _row_norm(
    kind: str,
    X: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    axis: Axis,
    eps: float | None,
    out: NDArray[Any] | None,
    n_threads: SupportsIndex | None,
) -> tuple[NDArray[Any], Saved]:
    """`layer_norm` and `rms_norm`."""
    array = _validation.real_array(X, "X")
    ndim = array.ndim
    dtype = _validation.result_dtype(array)
    if axis == -1 and ndim and type(axis) is int:
        axes: tuple[int, ...] = (ndim - 1,)
        rows = tuple(range(ndim - 1))
        shape, kept = array.shape[-1:], array.shape[:-1]
        order = None
    else:
        axes = _validation.reduced_axes(axis, ndim)
        rows = _kept_axes(ndim, axes)
        shape, kept = kept_shape(array, rows), kept_shape(array, axes)
        order = permutation(array, rows)
    centre = kind == "layer_norm"
    checked_eps = float(np.finfo(dtype).eps) if eps is None else _eps(eps)
    threads = _threads.resolve(n_threads)
    result = _out_for(array, out, dtype)
    g, g_dtype = _parameter(gamma, "gamma", ONES, shape, order, "normalized axes")
    b, b_dtype = _parameter(beta, "beta", ZEROS, shape, order, "normalized axes")
    n_rows = 1
    for size in kept:
        n_rows *= size
    known = g.size > _layer_norm.LONG_ROW
    double = dtype.itemsize == 8
    if array.size == 0:
        stats = np.full((4, n_rows), np.nan)
    elif known:
        state, exponent = forward(array, axes, kept, threads)
        stats = np.empty((4, n_rows))
        _batch_norm.norm_statistics(
            stats, state, exponent, float(g.size), checked_eps, centre
        )
    else:
        stats = np.empty((4 if double else 2, n_rows))
    if array.size:
        _layer_norm.layer_norm_forward(
            result, stats, array, axes, g, b, checked_eps, centre, known, threads
        )
    saved = _saved(
        kind,
        array,
        out,
        axes,
        (kept, permutation(array, axes)),
        shape,
        order,
        stats,
        g,
        (dtype, g_dtype, b_dtype),
    )
    return result, saved


def _row_norm_backward(
    kind: str,
    dY: ArrayLike,
    saved: Saved,
    out: NDArray[Any] | None,
    n_threads: SupportsIndex | None,
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    threads = _threads.resolve(n_threads)
    grad, X, result = _gradient_arguments(dY, saved, kind, out)
    wanted = saved._gamma_dtype is not None or saved._beta_dtype is not None
    if X.size == 0:
        sums = np.zeros((2, saved._gamma.size))
    else:
        sums = np.empty((2, saved._gamma.size))
        _layer_norm.layer_norm_backward(
            result,
            sums,
            grad,
            X,
            saved._axes,
            saved._stats,
            saved._gamma,
            kind == "layer_norm",
            wanted,
            threads,
        )
    return result, *_parameter_gradients(saved, sums)


def layer_norm(
    X: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Normalize every sample over its own features.

    With the mean and the population variance of the n values of a sample [1]_,

        xhat = (x - mean) / sqrt(var + eps),    y = xhat * gamma + beta.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Read where it lies, whatever its order, strides, alignment or byte order;
        integers, bool and float16 are converted block by block.
    gamma, beta : array_like of real numbers, optional
        Gain and shift, in the shape of X's normalized axes: (n_features,) for the
        last. None means 1 and 0.
    axis : int, tuple of int or None, default=-1
        The axes to normalize over, all of them together: ``(1, 2, 3)`` for images of
        shape (n_samples, channels, height, width). None means all.
    eps : float, default=1e-5
        Added to the variance; at least 0.
    out : ndarray, optional
        Where to write Y; any strides. `out=X` works in place, and leaves no backward
        pass. If the call is interrupted, `out` may be written in part.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    Y : ndarray
        Of X's shape; float32 for float16 and float32, float64 for all others.
    saved : Saved
        For `layer_norm_backward`. It holds X by reference.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or `out` has another dtype than Y.
    ValueError
        If a shape does not fit; if `eps` is negative; if `out` is read-only, or
        overlaps X without being X. Nothing has been written then.

    See Also
    --------
    layer_norm_backward : The gradient.
    rms_norm : Without the mean.
    batch_norm : Over the samples instead.

    Notes
    -----
    This is PyTorch's ``layer_norm``, with `axis` for its ``normalized_shape``.
    Arithmetic is float64 for every dtype; a float64 sample's mean comes in two words.
    A constant sample gives xhat = 0 exactly, also with ``eps=0``. Samples whose
    squares leave the range of a double (±1e200, subnormals) are computed with a scale
    of their own. NaN or an infinity in a sample makes all of its values NaN.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization",
       arXiv:1607.06450 (2016).

    Examples
    --------
    >>> import fanin
    >>> Y, saved = fanin.layer_norm([[1.0, 3.0], [5.0, 5.0]], eps=0.0)
    >>> Y
    array([[-1.,  1.],
           [ 0.,  0.]])
    >>> dX, dgamma, dbeta = fanin.layer_norm_backward([[1.0, 1.0], [0.0, 1.0]], saved)
    >>> dX + 0.0
    array([[0., 0.],
           [0., 0.]])
    """
    return _row_norm("layer_norm", X, gamma, beta, axis, eps, out, n_threads)


def layer_norm_backward(
    dY: ArrayLike,
    saved: Saved,
    *,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradient of a loss through `layer_norm`.

    With g = dY * gamma, means over the n values of a sample, and sums over samples,

        dX = (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps),
        dgamma = sum(dY * xhat),    dbeta = sum(dY).

    Parameters
    ----------
    dY : array_like of real numbers
        The gradient with respect to Y, in Y's shape; its dtype is Y's, or float16
        where Y is float32, or an integer dtype where Y is float64.
    saved : Saved
        What `layer_norm` returned with Y.
    out : ndarray, optional
        Where to write dX; any strides. `out=dY` works in place.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    dX : ndarray
        Of the shape and dtype of Y.
    dgamma, dbeta : ndarray or None
        In the shapes of gamma and beta; float32 for float16 and float32, float64 for
        all others. None for one that was not given. The sums are taken in float64.

    Raises
    ------
    TypeError
        If `saved` is something else, or a dtype does not fit.
    ValueError
        If `saved` comes from another normalization or from one in place, if dY has
        another shape, or if `out` cannot be written or overlaps.

    See Also
    --------
    layer_norm : The forward pass.

    Notes
    -----
    Where var + eps is 0, dX is 0.

    Examples
    --------
    >>> import fanin
    >>> Y, saved = fanin.layer_norm([[1.0, 3.0]], gamma=[1.0, 2.0], eps=0.0)
    >>> dX, dgamma, dbeta = fanin.layer_norm_backward([[1.0, 1.0]], saved)
    >>> dgamma
    array([-1.,  1.])
    >>> dbeta is None
    True
    """
    return _row_norm_backward("layer_norm", dY, saved, out, n_threads)


def rms_norm(
    X: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float | None = None,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Divide every sample by the root mean square of its own features.

    For the n values of a sample [1]_,

        xhat = x / sqrt(mean(x²) + eps),    y = xhat * gamma + beta.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Read where it lies, as in `layer_norm`.
    gamma, beta : array_like of real numbers, optional
        Gain and shift, in the shape of X's normalized axes. None means 1 and 0. (The
        paper and PyTorch have no beta.)
    axis : int, tuple of int or None, default=-1
        The axes to normalize over, all of them together. None means all.
    eps : float, optional
        Added to the mean square; at least 0. None means the machine epsilon of Y's
        dtype, as in PyTorch.
    out : ndarray, optional
        Where to write Y; any strides. `out=X` works in place, and leaves no backward
        pass.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    Y : ndarray
        Of X's shape; float32 for float16 and float32, float64 for all others.
    saved : Saved
        For `rms_norm_backward`. It holds X by reference.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or `out` has another dtype than Y.
    ValueError
        If a shape does not fit; if `eps` is negative; if `out` is read-only, or
        overlaps X without being X. Nothing has been written then.

    See Also
    --------
    rms_norm_backward : The gradient.
    layer_norm : With the mean subtracted.

    Notes
    -----
    Precision and range are those of `layer_norm`. A sample of zeros gives 0, also with
    ``eps=0``. A NaN in a sample makes all of its values NaN; an infinity makes itself
    NaN and the others 0.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root mean square layer normalization",
       Advances in Neural Information Processing Systems 32 (2019).

    Examples
    --------
    >>> import fanin
    >>> Y, saved = fanin.rms_norm([[1.0, -1.0], [0.0, 0.0]], eps=0.0)
    >>> Y
    array([[ 1., -1.],
           [ 0.,  0.]])
    """
    return _row_norm("rms_norm", X, gamma, beta, axis, eps, out, n_threads)


def rms_norm_backward(
    dY: ArrayLike,
    saved: Saved,
    *,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradient of a loss through `rms_norm`.

    With g = dY * gamma, the mean over the n values of a sample, and sums over samples,

        dX = (g - xhat * mean(g * xhat)) / sqrt(mean(x²) + eps),
        dgamma = sum(dY * xhat),    dbeta = sum(dY).

    Parameters
    ----------
    dY : array_like of real numbers
        The gradient with respect to Y, as in `layer_norm_backward`.
    saved : Saved
        What `rms_norm` returned with Y.
    out : ndarray, optional
        Where to write dX; any strides. `out=dY` works in place.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    dX : ndarray
        Of the shape and dtype of Y.
    dgamma, dbeta : ndarray or None
        As in `layer_norm_backward`; None for one that was not given.

    Raises
    ------
    TypeError
        If `saved` is something else, or a dtype does not fit.
    ValueError
        If `saved` comes from another normalization or from one in place, if dY has
        another shape, or if `out` cannot be written or overlaps.

    See Also
    --------
    rms_norm : The forward pass.

    Examples
    --------
    >>> import fanin
    >>> Y, saved = fanin.rms_norm([[1.0, -1.0]], gamma=[2.0, 2.0], eps=0.0)
    >>> dX, dgamma, dbeta = fanin.rms_norm_backward([[1.0, 1.0]], saved)
    >>> dX
    array([[2., 2.]])
    >>> dgamma
    array([ 1., -1.])
    """
    return _row_norm_backward("rms_norm", dY, saved, out, n_threads)


def _running(
    value: Any, name: str, shape: tuple[int, ...], training: bool
) -> NDArray[Any]:
    """Check an array of running statistics, which training writes to."""
    if training:
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"{name} must be a NumPy array, which training updates in place; got "
                f"{type(value).__name__}"
            )
        if value.dtype.kind != "f" or value.dtype.itemsize not in (4, 8):
            raise TypeError(
                f"{name} must have dtype float32 or float64; got {value.dtype}"
            )
        array = value
    else:
        array = _validation.real_array(value, name)
    if array.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, that of X without the reduced axes; got "
            f"shape {array.shape}"
        )
    if training:
        if not array.flags.writeable:
            raise ValueError(f"{name} is read-only")
        if _validation.overlaps_itself(array):
            raise ValueError(
                f"{name} has elements that share memory: it cannot be updated"
            )
    return array


def _check_running(
    running_mean: Any,
    running_var: Any,
    shape: tuple[int, ...],
    training: bool,
    others: tuple[tuple[str, Any], ...],
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    if (running_mean is None) != (running_var is None):
        given, missing = "running_mean", "running_var"
        if running_mean is None:
            given, missing = missing, given
        raise ValueError(f"{given} is given without {missing}: give both, or neither")
    if running_mean is None:
        if not training:
            raise ValueError(
                "batch_norm with training=False uses running_mean and running_var; "
                "got None"
            )
        return None
    mean = _running(running_mean, "running_mean", shape, training)
    var = _running(running_var, "running_var", shape, training)
    if training:
        _validation.no_overlap(mean, var, "running_var", "running_mean")
        for name, other in others:
            if isinstance(other, np.ndarray):
                _validation.no_overlap(mean, other, name, "running_mean")
                _validation.no_overlap(var, other, name, "running_var")
    else:
        _validation.not_negative(var, "running_var")
    return mean, var


def _update_running(
    running: tuple[NDArray[Any], NDArray[Any]],
    momentum: float,
    state: Float64,
    exponent: NDArray[np.int32],
    shape: tuple[int, ...],
    order: tuple[int, ...] | None,
    n_rows: int,
) -> None:
    """Move the running statistics by `momentum` towards the batch's, var unbiased."""
    var = np.empty(exponent.shape)
    _moments.moments_finish(var, np.empty(exponent.shape), state, exponent, 1.0)
    missing = state[N] < n_rows
    with np.errstate(all="ignore"):
        mean = np.ldexp(state[MEAN], exponent) if exponent.any() else state[MEAN].copy()
        if missing.any():
            mean[missing] = var[missing] = np.nan
        for array, new in zip(running, (mean, var), strict=True):
            values = from_columns(new, shape, order).reshape(shape)
            array[...] = (1.0 - momentum) * array.astype(np.float64) + momentum * values


def batch_norm(
    X: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = 0,
    eps: float = 1e-5,
    training: bool = True,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    momentum: float = 0.1,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Normalize every feature over the samples of a batch.

    With the mean and the population variance of a feature over the n values of the
    batch [1]_,

        xhat = (x - mean) / sqrt(var + eps),    y = xhat * gamma + beta.

    In training the running statistics, if given, are updated in place,

        running := (1 - momentum) * running + momentum * new,

    where the new variance is the unbiased one, divided by n - 1. In inference
    (``training=False``) they take the place of the batch's mean and variance.

    Parameters
    ----------
    X : array_like of real numbers, any shape
        Read where it lies, whatever its order, strides, alignment or byte order;
        integers, bool and float16 are converted block by block.
    gamma, beta : array_like of real numbers, optional
        Gain and shift, in the shape of X without the reduced axes: (n_features,).
        None means 1 and 0.
    axis : int, tuple of int or None, default=0
        The axes to reduce, as in `standardize`; the others tell the features apart.
        ``(0, 2, 3)`` for images of shape (n_samples, channels, height, width).
    eps : float, default=1e-5
        Added to the variance; at least 0.
    training : bool, default=True
        Whether to normalize with the batch's own statistics.
    running_mean, running_var : ndarray of float32 or float64, optional
        In the shape of X without the reduced axes, any strides. Written in training,
        as the last step; only read, and needed, in inference.
    momentum : float, default=0.1
        The weight of the new value in the running one, from 0 to 1. (The k-th of k
        batches with momentum 1 / k gives the plain average.)
    out : ndarray, optional
        Where to write Y; any strides. `out=X` works in place, and leaves no backward
        pass. If the call is interrupted, `out` may be written in part.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    Y : ndarray
        Of X's shape; float32 for float16 and float32, float64 for all others.
    saved : Saved
        For `batch_norm_backward`. It holds X by reference.

    Raises
    ------
    TypeError
        If an array is not of real numbers; if `out` has another dtype than Y; if a
        running statistic is not an array of float32 or float64.
    ValueError
        If a shape does not fit; if an option is out of range; if a batch in training
        has fewer than 2 values per feature; if only one running statistic is given,
        or none in inference; if `out` or a running statistic is read-only or overlaps
        another array (`out=X` apart). Nothing has been written then.

    See Also
    --------
    batch_norm_backward : The gradient.
    standardize : With missing values, without gamma and beta.

    Notes
    -----
    This is PyTorch's ``batch_norm``. The batch's moments are those of `moments`, and
    the mean is subtracted with more digits than a double holds. A constant feature
    gives xhat = 0 exactly, also with ``eps=0``. Features whose squares leave the range
    of a double (±1e200, subnormals) are computed with a scale of their own. NaN is not
    taken as missing: NaN or an infinity makes all of a feature NaN.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network
       training by reducing internal covariate shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> mean, var = np.zeros(2), np.ones(2)
    >>> Y, saved = fanin.batch_norm(
    ...     [[1.0, 5.0], [3.0, 5.0]], eps=0.0, running_mean=mean, running_var=var
    ... )
    >>> Y
    array([[-1.,  0.],
           [ 1.,  0.]])
    >>> mean, var
    (array([0.2, 0.5]), array([1.1, 0.9]))
    >>> fanin.batch_norm(
    ...     [[0.2, 0.5]], training=False, running_mean=mean, running_var=var
    ... )[0]
    array([[0., 0.]])
    """
    array = _validation.real_array(X, "X")
    axes = _validation.reduced_axes(axis, array.ndim)
    if not isinstance(training, (bool, np.bool_)):
        raise TypeError(f"training must be a bool; got {type(training).__name__}")
    checked_eps = _eps(eps)
    checked_momentum = _validation.real(momentum, "momentum", minimum=0.0, maximum=1.0)
    threads = _threads.resolve(n_threads)
    dtype = _validation.result_dtype(array)
    shape = kept_shape(array, axes)
    n_rows = 1
    for d in axes:
        n_rows *= array.shape[d]
    if training and n_rows < 2:
        raise ValueError(
            "batch_norm in training needs at least 2 values per feature; X of shape "
            f"{array.shape} has {n_rows} along axis={axis!r} (give training=False to "
            "use running statistics)"
        )
    result = _out_for(array, out, dtype)
    running = _check_running(
        running_mean,
        running_var,
        shape,
        bool(training),
        (("X", array), ("out", out), ("gamma", gamma), ("beta", beta)),
    )
    order = permutation(array, axes)
    g, g_dtype = _parameter(gamma, "gamma", ONES, shape, order, "features")
    b, b_dtype = _parameter(beta, "beta", ZEROS, shape, order, "features")
    stats = np.empty((4, g.size))
    if training:
        state, exponent = forward(array, axes, shape, threads)
    else:
        assert running is not None
        state = np.zeros((5, g.size))
        exponent = np.zeros(g.size, np.int32)
        # A count of 1 makes the sum of squared deviations the variance.
        state[0] = 1.0
        state[1] = to_columns(np.array(running[0], np.float64), shape, order)
        state[3] = to_columns(np.array(running[1], np.float64), shape, order)
    if g.size:
        _batch_norm.norm_statistics(
            stats, state, exponent, float(n_rows if training else 1), checked_eps, True
        )
    if array.size:
        _batch_norm.batch_norm_forward(result, array, axes, stats, g, b, threads)
    if training and running is not None and g.size:
        _update_running(
            running, checked_momentum, state, exponent, shape, order, n_rows
        )
    saved = _saved(
        "batch_norm",
        array,
        out,
        axes,
        (shape, order),
        shape,
        order,
        stats,
        g,
        (dtype, g_dtype, b_dtype),
        bool(training),
    )
    return result, saved


def batch_norm_backward(
    dY: ArrayLike,
    saved: Saved,
    *,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradient of a loss through `batch_norm`.

    With sums over the n values of a feature,

        dgamma = sum(dY * xhat),    dbeta = sum(dY),
        dX = (dY - dbeta / n - xhat * dgamma / n) * gamma / sqrt(var + eps).

    A forward pass in inference has taken mean and variance as constants; then
    dX = dY * gamma / sqrt(var + eps).

    Parameters
    ----------
    dY : array_like of real numbers
        The gradient with respect to Y, in Y's shape; its dtype is Y's, or float16
        where Y is float32, or an integer dtype where Y is float64.
    saved : Saved
        What `batch_norm` returned with Y.
    out : ndarray, optional
        Where to write dX; any strides. `out=dY` works in place.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    dX : ndarray
        Of the shape and dtype of Y.
    dgamma, dbeta : ndarray or None
        In the shapes of gamma and beta; float32 for float16 and float32, float64 for
        all others. None for one that was not given. The sums are taken in float64.

    Raises
    ------
    TypeError
        If `saved` is something else, or a dtype does not fit.
    ValueError
        If `saved` comes from another normalization or from one in place, if dY has
        another shape, or if `out` cannot be written or overlaps.

    See Also
    --------
    batch_norm : The forward pass.

    Notes
    -----
    Where var + eps is 0, dX is 0.

    Examples
    --------
    >>> import fanin
    >>> Y, saved = fanin.batch_norm([[1.0], [3.0]], gamma=[2.0], beta=[0.0])
    >>> dX, dgamma, dbeta = fanin.batch_norm_backward([[1.0], [0.0]], saved)
    >>> dbeta
    array([1.])
    """
    threads = _threads.resolve(n_threads)
    grad, X, result = _gradient_arguments(dY, saved, "batch_norm", out)
    wanted = saved._gamma_dtype is not None or saved._beta_dtype is not None
    if X.size == 0:
        sums = np.zeros((2, saved._gamma.size))
    else:
        sums = np.empty((2, saved._gamma.size))
        _batch_norm.batch_norm_backward(
            result,
            sums,
            grad,
            X,
            saved._axes,
            saved._stats,
            saved._gamma,
            saved._training,
            wanted,
            threads,
        )
    return result, *_parameter_gradients(saved, sums)
