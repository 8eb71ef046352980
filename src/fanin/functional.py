"""A dense layer as two functions, on arrays of the caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads, activations
from fanin import _validation as check
from fanin._kernels import _dense_layer

__all__ = ["dense", "dense_backward"]


def _working_dtype(X: NDArray[Any], weight: NDArray[Any]) -> np.dtype[Any]:
    """Return float32 if X or weight is a float and neither is float64."""
    floats = [a.dtype.itemsize for a in (X, weight) if a.dtype.kind == "f"]
    return check.FLOATS[0] if floats and max(floats) <= 4 else check.FLOATS[1]


def _layer(
    X: ArrayLike, weight: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], np.dtype[Any]]:
    W = check.real_array(weight, "weight")
    if W.ndim != 2 or max(W.shape) > check.MAX_BLAS_INTEGER:
        raise ValueError(
            f"weight must have shape (n_in, n_out) with both below 2**31; got {W.shape}"
        )
    array = check.real_array(X, "X")
    if array.ndim == 2 and array.shape[1] == W.shape[1] != W.shape[0]:
        raise ValueError(
            f"X must have shape (n_samples, {W.shape[0]}), for a weight of shape "
            f"(n_in, n_out) = {W.shape}; got {array.shape}. A weight of shape "
            "(n_out, n_in), as PyTorch's, is given as weight.T"
        )
    array = check.samples(array, W.shape[0])
    return array, W, _working_dtype(array, W)


def _bias(
    bias: ArrayLike | None, n_out: int, dtype: np.dtype[Any]
) -> NDArray[Any] | None:
    if bias is None:
        return None
    b = check.real_array(bias, "bias")
    if b.shape != (n_out,):
        raise ValueError(f"bias must have shape ({n_out},); got {b.shape}")
    flags = b.flags
    if b.dtype == dtype and flags.c_contiguous and flags.aligned:
        return b
    with np.errstate(over="ignore"):
        return b.astype(dtype)


def _outputs(
    array: ArrayLike, name: str, shape: tuple[int, int], what: str
) -> NDArray[Any]:
    found = check.real_array(array, name)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {what}; got {found.shape}")
    return found


def _matrix_out(
    out: Any, shape: tuple[int, int], dtype: np.dtype[Any], name: str
) -> Any:
    """Return `out`, or a new matrix: contiguous along its rows or its columns."""
    if out is None:
        return np.empty(shape, dtype)
    check.check_out(out, shape, dtype, name)
    try:
        check.contiguous_rows(out, name)
    except ValueError:
        try:
            check.contiguous_rows(out.T, name)
        except ValueError:
            raise ValueError(
                f"{name} must have contiguous rows or columns, aligned and in order; "
                f"got strides {out.strides} for shape {shape} and dtype {dtype}"
            ) from None
    return out


def dense(
    X: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    activation: str | activations.Activation = "identity",
    *,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]:
    """Return ``activation(X @ weight + bias)``, the output of a dense layer.

    Parameters
    ----------
    X : array_like of shape (n_samples, n_in)
        Samples in rows; real numbers.
    weight : array_like of shape (n_in, n_out)
        Real numbers. PyTorch keeps weights as (n_out, n_in): give ``weight.T``.
    bias : array_like of shape (n_out,), optional
        Real numbers; taken in the dtype of the result.
    activation : str or Activation, default="identity"
        Applied to every output.
    out : ndarray of shape (n_samples, n_out), optional
        Where to write the result: of its dtype, with rows that are contiguous. It
        must not overlap an input.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for this call. The result has the same bits
        for any number.

    Returns
    -------
    ndarray of shape (n_samples, n_out)
        The activations; `out` if given. Their dtype, which is also that of the
        arithmetic, is decided by the floats among `X` and `weight`: float64 if one of
        them is, or if neither is a float; else float32.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or `out` not of the result's dtype.
    ValueError
        If a shape does not fit, `out` cannot be written or overlaps an input, or the
        activation is unknown.

    See Also
    --------
    dense_backward : The gradients.
    fanin.Network : Layers compiled into one call.

    Notes
    -----
    `X` and `weight` are read where they lie if BLAS can address them, that is with
    unit stride along one axis: C or Fortran order, a transpose, every second row.
    Anything else (other dtypes and byte orders, strides along both axes) is packed
    block by block into a buffer of 0.75 MiB (float64: 1.5 MiB) a thread.

    Examples
    --------
    >>> import fanin
    >>> fanin.dense([[1.0, 2.0]], [[1.0, -1.0], [1.0, 0.5]], [0.0, -1.0], "relu")
    array([[3., 0.]])
    """
    function = activations.get(activation)
    array, W, dtype = _layer(X, weight)
    b = _bias(bias, W.shape[1], dtype)
    shape = (array.shape[0], W.shape[1])
    if out is None:
        out = np.empty(shape, dtype)
    else:
        check.check_out(out, shape, dtype)
        check.contiguous_rows(out)
        check.no_overlap(out, array, "X")
        check.no_overlap(out, W, "weight")
        if b is not None:
            check.no_overlap(out, b, "bias")
    _dense_layer.dense_forward(
        out,
        array,
        W,
        b,
        function._kernel,
        function.parameter,
        _threads.resolve(n_threads),
    )
    return out


def dense_backward(
    dA: ArrayLike,
    X: ArrayLike,
    weight: ArrayLike,
    A: ArrayLike | None,
    activation: str | activations.Activation = "identity",
    *,
    bias: ArrayLike | None = None,
    out: Sequence[NDArray[Any] | None] | None = None,
    n_threads: SupportsIndex | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    r"""Return the gradients of a loss with respect to X, weight and bias.

    With ``D = dA * activation'(Z)``, ``Z = X @ weight + bias``, they are
    ``dX = D @ weight.T``, ``dweight = X.T @ D`` and ``dbias = D.sum(axis=0)``
    (Rumelhart, Hinton & Williams 1986, with samples in rows).

    Parameters
    ----------
    dA : array_like of shape (n_samples, n_out)
        The gradient of the loss with respect to the layer's output.
    X : array_like of shape (n_samples, n_in)
        What `dense` was given.
    weight : array_like of shape (n_in, n_out)
        What `dense` was given.
    A : array_like of shape (n_samples, n_out), or None
        What `dense` returned. With None it is computed again, from `X`, `weight` and
        `bias`: half as much work more, and no output to keep until then.
    activation : str or Activation, default="identity"
        What `dense` was given.
    bias : array_like of shape (n_out,), optional
        What `dense` was given. Read only where ``Z`` is computed again: if `A` is
        None, or for an activation whose derivative takes ``Z``.
    out : sequence of three, optional
        Where to write dX, dweight and dbias; None for what is to be allocated. dX and
        dweight have contiguous rows or contiguous columns, dbias any stride; all are
        of the result's dtype and overlap neither an input nor each other.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for this call. The results have the same
        bits for any number.

    Returns
    -------
    dX : ndarray of shape (n_samples, n_in)
        Gradient with respect to `X`.
    dweight : ndarray of shape (n_in, n_out)
        Gradient with respect to `weight`, summed over the samples.
    dbias : ndarray of shape (n_out,)
        Gradient with respect to the bias, summed over the samples in float64.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or one of `out` not of the result's dtype.
    ValueError
        If a shape does not fit, one of `out` cannot be written or overlaps an input,
        or the activation is unknown.

    See Also
    --------
    dense : The forward pass, where the result's dtype and the layouts are described.
    fanin.check_gradient : Checks gradients of your own.

    Notes
    -----
    The dtype of the results is that of `dense` for this `X` and `weight`. Beside them
    the call allocates at most some 16 MiB, for a chunk of rows of ``D``.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> X, W = np.array([[1.0, 2.0]]), np.array([[1.0, -1.0], [1.0, 0.5]])
    >>> A = fanin.dense(X, W, activation="relu")
    >>> dX, dW, db = fanin.dense_backward(np.ones_like(A), X, W, A, "relu")
    >>> dX, dW, db
    (array([[1., 1.]]), array([[1., 0.],
           [2., 0.]]), array([1., 0.]))
    """
    function = activations.get(activation)
    array, W, dtype = _layer(X, weight)
    n_out = W.shape[1]
    shape = (array.shape[0], n_out)
    gradient = _outputs(dA, "dA", shape, "that of the layer's output")
    outputs = None if A is None else _outputs(A, "A", shape, "the layer's output")
    b = _bias(bias, n_out, dtype)
    results: Sequence[Any] = (None, None, None)
    if out is not None:
        if isinstance(out, np.ndarray) or not isinstance(out, Sequence):
            raise TypeError(
                "out must be a sequence of three arrays or Nones, for dX, dweight and "
                f"dbias; got {type(out).__name__}"
            )
        if len(out) != 3:
            raise ValueError(
                "out must hold three arrays or Nones, for dX, dweight and dbias; "
                f"got {len(out)}"
            )
        results = out
    dX = _matrix_out(results[0], array.shape, dtype, "out[0] (dX)")
    dweight = _matrix_out(results[1], W.shape, dtype, "out[1] (dweight)")
    dbias = results[2]
    if dbias is not None:
        check.check_out(dbias, (n_out,), dtype, "out[2] (dbias)")
        check.distinct_elements(dbias, "out[2] (dbias)")
    if out is not None:
        _refuse_overlaps(
            {"out[0] (dX)": dX, "out[1] (dweight)": dweight, "out[2] (dbias)": dbias},
            {"dA": gradient, "X": array, "weight": W, "A": outputs, "bias": b},
        )
    sums = np.empty(n_out)
    _dense_layer.dense_backward(
        dX,
        dweight,
        sums,
        gradient,
        array,
        W,
        outputs,
        b,
        function._kernel,
        function.parameter,
        _threads.resolve(n_threads),
    )
    if dbias is None:
        dbias = np.empty(n_out, dtype)
    with np.errstate(all="ignore"):
        dbias[...] = sums
    return dX, dweight, dbias


def _refuse_overlaps(
    results: dict[str, NDArray[Any] | None], inputs: dict[str, NDArray[Any] | None]
) -> None:
    """Refuse a result that shares memory with an input or with another result."""
    before = dict(inputs)
    for name, result in results.items():
        if result is None:
            continue
        for other_name, other in before.items():
            if other is not None:
                check.no_overlap(result, other, other_name, name)
        before[name] = result
