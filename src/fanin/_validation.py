"""The only home of argument checks: arrays, ``out=``, dtypes, options, ``rng=``.

Every check names the argument, what came and what was expected. None copies an
array's data: what a kernel cannot address directly it converts block by block.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

MAX_BLAS_INTEGER = 2**31 - 1
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def real_array(X: ArrayLike, name: str) -> NDArray[Any]:
    """Return `X` as an array of a real dtype; an array passes through uncopied."""
    try:
        array = np.asarray(X)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name} must be an array of real numbers: {error}") from None
    kind = array.dtype.kind
    masks = sys.modules.get("numpy.ma")
    if masks is not None and isinstance(X, masks.MaskedArray) and masks.is_masked(X):
        raise TypeError(
            f"{name} is a masked array with masked values, and fanin knows no masks; "
            f"NaN is a missing value: {name}.filled(numpy.nan)"
        )
    if kind not in "fiub" or (kind == "f" and array.dtype.itemsize > 8):
        hint = ""
        if array.ndim == 0 and hasattr(X, "toarray"):
            hint = f", a sparse {type(X).__name__}: {name}.toarray() is dense"
        elif array.ndim and kind == "O":
            hint = f": {name}.astype(float) if all are numbers"
        raise TypeError(
            f"{name} must be an array of real numbers (bool, integers, float16, "
            f"float32 or float64); got dtype {array.dtype}{hint}"
        )
    return array


def what(value: object) -> str:
    """Say what came, where an object was expected: a class lacks its parentheses."""
    if isinstance(value, type):
        return f"the class {value.__name__}; {value.__name__}(...) makes an object"
    return type(value).__name__


def float_dtype(dtype: DTypeLike, name: str = "dtype") -> np.dtype[Any]:
    """Return `dtype` if it is float32 or float64, in native byte order."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64; got {dtype!r}") from None
    if found not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64; got {found}")
    return found


def result_dtype(X: NDArray[Any]) -> np.dtype[Any]:
    """Return the dtype of a result computed from `X`: float32 or float64.

    float32 stays; float64, integers and bool give float64; float16, which
    float32 holds exactly, gives float32.
    """
    if X.dtype.kind == "f" and X.dtype.itemsize <= 4:
        return FLOATS[0]
    return FLOATS[1]


def not_negative(array: NDArray[Any], name: str) -> None:
    """Refuse an array with a negative number; NaN passes."""
    below = array < 0
    if below.any():
        raise ValueError(f"{name} must not be negative; got {array[below][0]}")


def check_out(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "out"
) -> NDArray[Any]:
    """Return `out` if a result of this shape and dtype can be written to it."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array; got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}; got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only")
    return out


def choice(value: Any, options: Collection[str], name: str) -> str:
    """Return `value` if it is one of the option names."""
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {listed}; got {value!r}")
    return value


def integer(
    value: Any, name: str, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return `value` as an int; a bool or a float is refused."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer; got a bool")
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer; got {type(value).__name__}"
        ) from None
    if minimum is not None and found < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {found}")
    if maximum is not None and found > maximum:
        raise ValueError(f"{name} must be at most {maximum}; got {found}")
    return found


def real(
    value: Any,
    name: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> float:
    """Return `value` as a finite float inside the interval asked for."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number; got {type(value).__name__}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    low = found > minimum if open_minimum else found >= minimum
    high = found < maximum if open_maximum else found <= maximum
    if not (math.isfinite(found) and low and high):
        left = "(" if open_minimum or math.isinf(minimum) else "["
        right = ")" if open_maximum or math.isinf(maximum) else "]"
        raise ValueError(
            f"{name} must be a finite number in {left}{minimum:g}, {maximum:g}{right}; "
            f"got {value!r}"
        )
    return found


def shape_tuple(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """Return `shape`, an int or a sequence of ints, as a tuple of sizes >= 0."""
    if isinstance(shape, np.ndarray) and shape.ndim == 1:
        shape = shape.tolist()
    if isinstance(shape, Sequence) and not isinstance(shape, (str, bytes)):
        return tuple(integer(n, f"{name}[{i}]", minimum=0) for i, n in enumerate(shape))
    return (integer(shape, name, minimum=0),)


def sequence(values: Any, name: str) -> Sequence[Any]:
    """Return `values` if it is a list, a tuple or a vector; a string is refused."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(values.tolist())
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be a sequence; got {type(values).__name__}")
    return values


def generator(rng: Any, name: str = "rng") -> np.random.Generator:
    """Return a Generator from None, an int, a SeedSequence or a Generator (SPEC 7)."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (np.random.RandomState, bool, float, str)):
        raise TypeError(
            f"{name} must be None, an int, a numpy.random.SeedSequence or a "
            f"numpy.random.Generator; got {type(rng).__name__}"
        )
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} must be None, a non-negative int, a numpy.random.SeedSequence or "
            f"a numpy.random.Generator; got {rng!r}"
        ) from None


def vector(
    array: Any,
    name: str,
    size: int | None = None,
    dtype: np.dtype[Any] | None = None,
    *,
    writeable: bool = False,
) -> NDArray[Any]:
    """Return `array` if it is a contiguous float vector of this size and dtype."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array; got {type(array).__name__}")
    if array.ndim != 1 or (size is not None and array.size != size):
        wanted = "one-dimensional" if size is None else f"of shape ({size},)"
        raise ValueError(f"{name} must be {wanted}; got shape {array.shape}")
    if dtype is None:
        float_dtype(array.dtype, name)
    elif array.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}; got {array.dtype}")
    if not array.flags.c_contiguous or not array.flags.aligned:
        raise ValueError(f"{name} must be contiguous and aligned")
    if writeable and not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    return array


def samples(X: ArrayLike, n_features: int, name: str = "X") -> NDArray[Any]:
    """Return `X` as a real (n_samples, n_features) array, uncopied."""
    # What comes most often takes the shortest way: a call may take a microsecond.
    if (
        type(X) is np.ndarray
        and X.dtype.char in "fd"
        and X.ndim == 2
        and X.shape[1] == n_features
    ):
        return X
    array = real_array(X, name)
    if array.ndim != 2 or array.shape[1] != n_features:
        hint = ""
        if array.ndim == 1 and array.size == n_features:
            hint = f"; for one sample pass {name}.reshape(1, -1)"
        raise ValueError(
            f"{name} must have shape (n_samples, {n_features}); got {array.shape}{hint}"
        )
    return array


def contiguous_rows(out: NDArray[Any], name: str = "out") -> None:
    """Refuse a matrix whose rows are not contiguous, aligned and in order."""
    size = out.dtype.itemsize
    row, column = out.strides
    if (
        (out.shape[1] > 1 and column != size)
        or (out.shape[0] > 1 and (row < out.shape[1] * size or row % size))
        or row > MAX_BLAS_INTEGER * size
        or not out.flags.aligned
    ):
        raise ValueError(
            f"{name} must have contiguous rows, aligned and in order; got strides "
            f"{out.strides} for shape {out.shape} and dtype {out.dtype}"
        )


def owned(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array`, or a copy if kernels could not write to it."""
    flags = array.flags
    if flags.writeable and flags.aligned and flags.c_contiguous:
        return array
    return array.copy()


def no_overlap(
    out: NDArray[Any],
    other: NDArray[Any],
    name: str,
    out_name: str = "out",
    *,
    same: bool = False,
) -> None:
    """Refuse an `out` that shares memory with an input it would corrupt.

    With `same` the very input (same address, strides and dtype) passes: there every
    element is read before it is written. An overlap that cannot be excluded in a
    bounded amount of work is refused too.
    """
    if not np.may_share_memory(out, other):
        return
    if (
        same
        and out.ctypes.data == other.ctypes.data
        and out.strides == other.strides
        and out.shape == other.shape
        and out.dtype == other.dtype
    ):
        return
    try:
        # (NumPy's stub knows only two values of max_work.)
        overlap = np.shares_memory(out, other, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        overlap = True
    if overlap:
        hint = f" without being {name} itself; give out={name} for work in place"
        raise ValueError(f"{out_name} overlaps {name}{hint if same else ''}")


def seed_words(rng: Any, name: str = "rng") -> NDArray[np.uint32]:
    """Return 128 bits, as four words, that seed a counter-based kernel.

    They are the lower halves of four raw outputs of the bit generator, whose
    streams NumPy keeps fixed (NEP 19), unlike those of a Generator's methods. A
    Generator advances by exactly these four outputs.
    """
    raw = generator(rng, name).bit_generator.random_raw(4)
    return (raw & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def overlaps_itself(array: NDArray[Any]) -> bool:
    """Whether two elements may share memory (a broadcast or windowed view).

    Every array got by slicing and transposing is free of that; one made with
    stride_tricks is if each axis, in order of stride, steps past all that lies
    within it.
    """
    if array.flags.forc:
        return False
    reach = array.itemsize
    pairs = zip(array.strides, array.shape, strict=True)
    for stride, n in sorted((abs(s), n) for s, n in pairs if n > 1):
        if stride < reach and array.size > 0:
            return True
        reach += stride * (n - 1)
    return False


def distinct_elements(out: NDArray[Any], name: str = "out") -> NDArray[Any]:
    """Return `out` if no two of its elements share memory."""
    if overlaps_itself(out):
        raise ValueError(f"{name} has elements that share memory: it cannot be out")
    return out


def reduced_axes(axis: Any, ndim: int, name: str = "axis") -> tuple[int, ...]:
    """Return `axis`, an int, a tuple of ints or None (all), as sorted axes >= 0."""
    if axis is None:
        return tuple(range(ndim))
    found = []
    for one in axis if isinstance(axis, tuple) else (axis,):
        value = integer(one, name)
        if not -ndim <= value < ndim:
            raise ValueError(
                f"{name} {value} is out of bounds for an array of {ndim} dimensions"
            )
        found.append(value % ndim)
    if len(set(found)) != len(found):
        raise ValueError(f"{name} names an axis twice; got {axis!r}")
    return tuple(sorted(found))


def sample_weights(
    weights: ArrayLike, n_rows: int, name: str = "sample_weight"
) -> NDArray[np.float64]:
    """Return weights, one per row, as a contiguous float64 vector.

    They are finite and not negative, and 1 / their sum is finite, so that a weighted
    mean is defined. (float64 weights that are contiguous pass through uncopied.)
    """
    given = real_array(weights, name)
    if given.shape != (n_rows,):
        raise ValueError(f"{name} must have shape ({n_rows},); got {given.shape}")
    found = np.require(given, np.float64, ["C", "A"])
    wrong = ~((found >= 0) & (found <= np.finfo(np.float64).max))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{name} must be finite and not negative; got {given[row]} at index {row}"
        )
    weight_sum(found, name)
    return found


def weight_sum(weights: NDArray[np.float64], name: str) -> None:
    """Refuse weights that define no weighted mean: 1 / their sum must be finite."""
    with np.errstate(over="ignore"):
        total = float(weights.sum())
    if not np.finfo(np.float64).tiny <= total <= np.finfo(np.float64).max:
        raise ValueError(f"{name} must have a positive, finite sum; got {total}")
