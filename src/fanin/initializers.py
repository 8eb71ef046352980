"""Weight initialization: the variance of each weight matrix set by its fans.

In Z = A W + b, a unit sums n_in products. With independent weights of mean zero,
Var(Z) = n_in Var(W) E[A^2], so that Var(W) = C / n_in keeps the signal's scale from
layer to layer: C = 1 for activations that are the identity near zero (tanh), and
C = 2 for ReLU, which halves the mean square. Too large a variance grows, and too
small a one shrinks, exponentially with depth.

All random initializers fill an array in parallel from a counter-based generator,
Philox4x32-10 (Salmon et al., SC 2011). The number drawn for each C-order index depends
on the seed, that index, the distribution and the dtype only: the number of threads,
the layout of `out`, the CPU and its SIMD level do not change a bit. (`orthogonal`
says what its decomposition adds to this.) float32 and float64 draw different numbers:
one is not the other rounded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fanin import _quadrature, _threads, _validation, activations
from fanin._kernels import _fill

__all__ = [
    "constant",
    "fans",
    "gain",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "sparse",
    "variance_scaling",
    "zeros",
]

Shape = SupportsIndex | Sequence[SupportsIndex]
# (A string: NumPy loads numpy.random when it is first named, which takes as long as
# the import of all of fanin.)
RNG: TypeAlias = "int | np.random.Generator | np.random.SeedSequence | None"
Initializer = Callable[..., NDArray[Any]]

MODES = ("fan_in", "fan_out", "fan_avg")

# The rule's constants: Var(W) = 2 / fan_in for ReLU and the functions that are like it,
# 0 below and the identity above (He et al. 2015), 1 / fan_in for the others (LeCun et
# al. 1998; for SELU Klambauer et al. 2017).
LIKE_RELU = frozenset({"relu", "leaky_relu", "silu", "gelu", "gelu_tanh"})
CRITERIA = ("second_moment", "variance", "gradient", "slope", "rule")

# The standard deviation of a standard normal cut off at two standard deviations:
# its variance is 1 - 2 z phi(z) / (2 Phi(z) - 1) at z = 2.
_CUT = 2.0
_TRUNCATED_STD = math.sqrt(
    1
    - (2 * _CUT * math.exp(-_CUT * _CUT / 2) / math.sqrt(2 * math.pi))
    / math.erf(_CUT / math.sqrt(2))
)

# Where the numbers begin that place a sparse matrix's weights, in groups of the stream
# whose beginning makes the weights: out of its reach.
_PLACES = 2**50

# Weights of a sparse unit (Martens 2010).
FEW = 15
# Numbers that are set between two looks for Ctrl-C.
PIECE = 1 << 22

# No weight is larger than this many times the `scale` given to the kernel: a
# float64 normal ends at sqrt(106 ln 2) = 8.6 standard deviations.
_LARGEST_DRAW = 16.0


def fans(shape: Shape) -> tuple[int, int]:
    """Return the number of inputs and outputs that a weight array connects.

    Parameters
    ----------
    shape : sequence of int
        The shape of the weights, of two axes or more: ``(n_in, n_out)``, or
        ``(*window, n_in, n_out)``.

    Returns
    -------
    fan_in : int
        The terms in the sum that one output is: the product of all axes but the
        last, ``prod(window) * n_in``.
    fan_out : int
        The outputs that one input adds to: ``prod(window) * n_out``.

    Raises
    ------
    ValueError
        If `shape` has fewer than two axes or a negative size.
    TypeError
        If a size is not an integer.

    Notes
    -----
    The last axis is the outputs and all others are inputs, so a convolution's
    kernel is in HWIO layout: height, width, input channels, output channels. Keras
    and ``jax.nn.initializers`` (by default) compute the same two numbers for the
    same shape of two axes or more. Keras also takes one axis, with both fans equal
    to it, where this function raises. PyTorch stores the transpose, ``(n_out, n_in,
    *window)``: move its first two axes to the end, in reverse order, to compare.

    Examples
    --------
    >>> from fanin.initializers import fans
    >>> fans((784, 100))
    (784, 100)
    >>> fans((3, 3, 16, 32))
    (144, 288)
    """
    sizes = _validation.shape_tuple(shape)
    if len(sizes) < 2:
        raise ValueError(
            f"shape must have at least 2 axes, (n_in, n_out), for its fans to be "
            f"defined; got {sizes}. variance_scaling takes fan_in= and fan_out= "
            f"for other arrays"
        )
    window = math.prod(sizes[:-2])
    return window * sizes[-2], window * sizes[-1]


def _fan(
    shape: tuple[int, ...], mode: str, fan_in: int | None, fan_out: int | None
) -> float:
    """Return the fan that `mode` asks for, explicit ones before the shape's."""
    if fan_in is not None:
        fan_in = _validation.integer(fan_in, "fan_in", minimum=1)
    if fan_out is not None:
        fan_out = _validation.integer(fan_out, "fan_out", minimum=1)
    needed = {"fan_in": [fan_in], "fan_out": [fan_out], "fan_avg": [fan_in, fan_out]}
    if None in needed[mode]:
        from_shape = fans(shape)
        fan_in = from_shape[0] if fan_in is None else fan_in
        fan_out = from_shape[1] if fan_out is None else fan_out
    if mode == "fan_in":
        assert fan_in is not None
        return fan_in
    if mode == "fan_out":
        assert fan_out is not None
        return fan_out
    assert fan_in is not None
    assert fan_out is not None
    return (fan_in + fan_out) / 2


def _target(
    shape: Shape, dtype: DTypeLike | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """Return the array to fill: `out` checked, or a new one."""
    sizes = _validation.shape_tuple(shape)
    if out is None:
        wanted = np.float32 if dtype is None else dtype
        return np.empty(sizes, _validation.float_dtype(wanted))
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array; got {type(out).__name__}")
    name = "out's dtype" if dtype is None else "dtype"
    found = _validation.float_dtype(out.dtype if dtype is None else dtype, name)
    return _validation.distinct_elements(_validation.check_out(out, sizes, found))


def _set_all(array: NDArray[Any], value: float) -> None:
    """Fill an array by pieces that follow each other in memory, Ctrl-C in between."""
    if array.size <= PIECE:
        array[...] = value
        return
    axis = int(np.argmax(np.abs(array.strides)))
    rows = np.moveaxis(array, axis, 0)
    step = max(1, PIECE * rows.shape[0] // array.size)
    for start in range(0, rows.shape[0], step):
        rows[start : start + step] = value


def _check_range(
    std: float, width: float, dtype: np.dtype[Any], largest: float, why: str
) -> None:
    """Refuse weights that the dtype cannot hold, or not with all their digits."""
    limits = np.finfo(dtype)
    if width != 0.0 and not (
        float(limits.tiny) <= width <= float(limits.max) / largest
    ):
        raise ValueError(
            f"{why} gives weights of standard deviation {std:g}, out of the range of "
            f"{dtype}"
        )


def variance_scaling(
    shape: Shape,
    *,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
    fan_in: int | None = None,
    fan_out: int | None = None,
) -> NDArray[Any]:
    r"""Return random weights of mean zero and variance ``scale / fan``.

    Parameters
    ----------
    shape : sequence of int
        The shape of the weights, ``(n_in, n_out)`` or ``(*window, n_in, n_out)``.
        If a size is 0, the result is an empty array.
    scale : float, default 1.0
        C in Var(W) = C / fan, finite and not negative; 2 suits ReLU, 1 tanh. At 0
        all weights are zero.
    mode : {"fan_in", "fan_out", "fan_avg"}, default "fan_in"
        The fan to divide by: the inputs of a unit, which keeps the signal's
        variance on the way forward; its outputs, which keeps the gradient's on the
        way back; or the mean of both numbers. See `fans`.
    distribution : {"normal", "uniform", "truncated_normal"}, default "normal"
        With s = sqrt(scale / fan): normal of standard deviation s; uniform strictly
        between -sqrt(3) s and sqrt(3) s; or a normal of standard deviation s / c
        cut off at twice that, where :math:`c = \sqrt{1 - 4\varphi(2) /
        (2\Phi(2) - 1)} = 0.8796` makes the variance of what is left s². All three
        have the variance asked for.
    rng : None, int, SeedSequence or Generator, optional
        As `numpy.random.default_rng` takes it (SPEC 7). None draws fresh entropy.
        An int or a `~numpy.random.SeedSequence` gives the same weights each time
        it is passed, and the same as ``default_rng`` of it; a SeedSequence is not
        changed (spawn children of it for different weights). A
        `~numpy.random.Generator` advances by four raw outputs of its bit generator
        whatever the shape, so that each call gives different weights.
    dtype : numpy.float32 or numpy.float64, optional
        The default is `out`'s dtype, or float32 without `out`.
    out : ndarray, optional
        Is filled and returned: a writable array of this shape, float32 or float64,
        in any order and with any strides. Its content is undefined after Ctrl-C.
    n_threads : int, optional
        The threads to use, see `fanin.set_num_threads`. It does not change the
        weights.
    fan_in, fan_out : int, optional
        Take the place of what `fans` finds in `shape`, at least 1; required, where
        `mode` uses them, for a shape of fewer than two axes.

    Returns
    -------
    ndarray
        `out`, or a new array in C order.

    Raises
    ------
    ValueError
        If `scale` is negative or not finite, `mode` or `distribution` is unknown,
        `shape` has fewer than two axes and the fans needed are not given, a fan is
        below 1, the weights would leave the range of the dtype, `n_threads` is out
        of range, or `out` has another shape, is read-only or overlaps itself.
    TypeError
        If an argument has the wrong type, the dtype is not float32 or float64, or
        `out` has a dtype other than an explicit `dtype`.

    See Also
    --------
    he_normal, lecun_normal, glorot_normal : The usual choices by name.

    Notes
    -----
    The normal has its tails: it ends at 6.6 standard deviations in float32, 8.5 in
    float64, and occurs at the right rate up to there. Keras's and JAX's
    ``variance_scaling`` with "truncated_normal" cut at the same two (underlying)
    standard deviations, with the same correction.

    The same seed gives the same bits for any number of threads, any layout of
    `out`, and on any CPU (see the module's documentation).

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers:
       surpassing human-level performance on ImageNet classification", ICCV 2015.
    .. [2] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random
       numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from fanin.initializers import variance_scaling
    >>> weight = variance_scaling((400, 300), scale=2.0, rng=0)
    >>> weight.shape, weight.dtype
    ((400, 300), dtype('float32'))
    >>> bool(abs(weight.var() * 400 - 2.0) < 0.05)
    True
    >>> same = np.empty((400, 300), np.float32, order="F")
    >>> _ = variance_scaling((400, 300), scale=2.0, rng=0, out=same)
    >>> bool((same == weight).all())
    True
    """
    scale = _validation.real(scale, "scale", minimum=0.0)
    mode = _validation.choice(mode, MODES, "mode")
    distribution = _validation.choice(distribution, _fill.DISTRIBUTIONS, "distribution")
    threads = _threads.resolve(n_threads)
    sizes = _validation.shape_tuple(shape)
    fan = _fan(sizes, mode, fan_in, fan_out)
    weight = _target(shape, dtype, out)
    if weight.size > 0:
        # Two roots, since scale / fan may underflow where its root does not.
        std = math.sqrt(scale) / math.sqrt(fan)
        width = {
            "uniform": math.sqrt(3.0) * std,
            "normal": std,
            "truncated_normal": std / _TRUNCATED_STD,
        }[distribution]
        why = f"scale={scale:g} with a fan of {fan:g}"
        _check_range(std, width, weight.dtype, _LARGEST_DRAW, why)
    # Also for an empty array, so that a Generator always advances alike.
    key = _validation.seed_words(rng)
    if weight.size > 0:
        code = _fill.DISTRIBUTIONS.index(distribution)
        _fill.fill(weight, code, width, 0, key, threads)
    return weight


def he_normal(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return normal weights of variance 2 / fan_in, for ReLU layers.

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array; standard deviation sqrt(2 / fan_in), not truncated.

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV
       2015, equation 10.

    Examples
    --------
    >>> from fanin.initializers import he_normal
    >>> he_normal((784, 100), rng=0).shape
    (784, 100)
    """
    return variance_scaling(
        shape, scale=2.0, rng=rng, dtype=dtype, out=out, n_threads=n_threads
    )


def he_uniform(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return uniform weights of variance 2 / fan_in, for ReLU layers.

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array; between -sqrt(6 / fan_in) and sqrt(6 / fan_in).

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV
       2015, equation 10.

    Examples
    --------
    >>> from fanin.initializers import he_uniform
    >>> bool(abs(he_uniform((600, 100), rng=0)).max() < 0.1)
    True
    """
    return variance_scaling(
        shape,
        scale=2.0,
        distribution="uniform",
        rng=rng,
        dtype=dtype,
        out=out,
        n_threads=n_threads,
    )


def lecun_normal(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return normal weights of variance 1 / fan_in, for tanh-like layers.

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array; standard deviation sqrt(1 / fan_in), not truncated.

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller, "Efficient BackProp", in
       Neural Networks: Tricks of the Trade, Springer 1998, section 4.6.

    Examples
    --------
    >>> from fanin.initializers import lecun_normal
    >>> lecun_normal((784, 100), rng=0).shape
    (784, 100)
    """
    return variance_scaling(shape, rng=rng, dtype=dtype, out=out, n_threads=n_threads)


def lecun_uniform(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return uniform weights of variance 1 / fan_in, for tanh-like layers.

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array; between -sqrt(3 / fan_in) and sqrt(3 / fan_in).

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller, "Efficient BackProp", in
       Neural Networks: Tricks of the Trade, Springer 1998, section 4.6.

    Examples
    --------
    >>> from fanin.initializers import lecun_uniform
    >>> bool(abs(lecun_uniform((300, 100), rng=0)).max() < 0.1)
    True
    """
    return variance_scaling(
        shape,
        distribution="uniform",
        rng=rng,
        dtype=dtype,
        out=out,
        n_threads=n_threads,
    )


def glorot_normal(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return normal weights of variance 2 / (fan_in + fan_out).

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array; not truncated.

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010, equation 12.

    Examples
    --------
    >>> from fanin.initializers import glorot_normal
    >>> glorot_normal((784, 100), rng=0).shape
    (784, 100)
    """
    return variance_scaling(
        shape, mode="fan_avg", rng=rng, dtype=dtype, out=out, n_threads=n_threads
    )


def glorot_uniform(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return uniform weights of variance 2 / (fan_in + fan_out).

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array; within sqrt(6 / (fan_in + fan_out)) of zero.

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010, equation 16.

    Examples
    --------
    >>> from fanin.initializers import glorot_uniform
    >>> bool(abs(glorot_uniform((500, 100), rng=0)).max() < 0.1)
    True
    """
    return variance_scaling(
        shape,
        mode="fan_avg",
        distribution="uniform",
        rng=rng,
        dtype=dtype,
        out=out,
        n_threads=n_threads,
    )


def orthogonal(
    shape: Shape,
    *,
    gain: float = 1.0,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    r"""Return a random matrix with orthonormal columns or rows, times `gain`.

    Parameters
    ----------
    shape : sequence of int
        The shape of the weights, ``(n_in, n_out)`` or ``(*window, n_in, n_out)``; all
        axes but the last count as one, of the size ``fan_in`` (see `fans`).
    gain : float, default=1.0
        What the orthonormal matrix is multiplied by, finite and not negative: a factor
        on the standard deviation, as in PyTorch and Keras, so that
        ``math.sqrt(fanin.gain("relu"))`` suits ReLU.
    rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array in C order. With the array as a matrix W of shape
        (fan_in, n_out): :math:`W^\mathsf{T} W = \text{gain}^2 I` if fan_in >= n_out,
        and :math:`W W^\mathsf{T} = \text{gain}^2 I` if not. The variance of its
        elements is gain² / max(fan_in, n_out).

    Raises
    ------
    ValueError
        If `gain` is negative or not finite, or out of the range of the dtype; if
        `shape` has fewer than two axes; and as `variance_scaling`.
    TypeError
        As `variance_scaling`.

    Notes
    -----
    The matrix is Q of the QR decomposition of a normal matrix, each column with the
    sign that makes R's diagonal positive, and so distributed evenly over all such
    matrices (the Haar measure: Stewart 1980). A product of such layers keeps the length
    of every vector (of those within its range), not on average but exactly: a linear
    network of any depth trains as fast as a shallow one (Saxe et al. 2014).

    The decomposition is `numpy.linalg.qr` in float64, whatever `dtype` is; it takes
    2 fan_in n_out min(fan_in, n_out) operations and two float64 copies of the matrix,
    and Ctrl-C waits for it.
    The normal matrix has the same bits everywhere. The result has the same bits for
    any `n_threads`; but it is NumPy's LAPACK that rounds it, which may round the last
    digit otherwise on another CPU, in another version of NumPy, or with another number
    of threads of its own.

    References
    ----------
    .. [1] A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear
       dynamics of learning in deep linear neural networks", ICLR 2014.
    .. [2] G. W. Stewart, "The efficient generation of random orthogonal matrices with
       an application to condition estimators", SIAM J. Numer. Anal. 17, 1980.

    Examples
    --------
    >>> import numpy as np
    >>> from fanin.initializers import orthogonal
    >>> W = orthogonal((5, 3), rng=0, dtype=np.float64)
    >>> bool(np.allclose(W.T @ W, np.eye(3)))
    True
    """
    gain = _validation.real(gain, "gain", minimum=0.0)
    threads = _threads.resolve(n_threads)
    sizes = _validation.shape_tuple(shape)
    fans(sizes)
    weight = _target(shape, dtype, out)
    if weight.size > 0:
        n_in, n_out = weight.size // sizes[-1], sizes[-1]
        long, short = max(n_in, n_out), min(n_in, n_out)
        std = gain / math.sqrt(long)
        _check_range(std, gain, weight.dtype, 1.0, f"gain={gain:g}")
    key = _validation.seed_words(rng)
    if weight.size > 0:
        normal = np.empty((long, short))
        _fill.fill(normal, _fill.DISTRIBUTIONS.index("normal"), 1.0, 0, key, threads)
        Q, R = np.linalg.qr(normal)
        del normal
        Q *= np.where(np.diagonal(R) < 0.0, -gain, gain)
        with np.errstate(under="ignore"):
            weight[...] = (Q if n_in >= n_out else Q.T).reshape(sizes)
    return weight


def sparse(
    shape: Shape,
    *,
    n_nonzero: int | None = None,
    scale: float = 1.0,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return weights of which each unit has a few that are not zero.

    Parameters
    ----------
    shape : sequence of int
        The shape of the weights, ``(n_in, n_out)`` or ``(*window, n_in, n_out)``.
    n_nonzero : int, optional
        How many incoming weights of each of the n_out units are random, from 1 to
        fan_in (see `fans`); by default 15, or all of fewer inputs. Which ones, is drawn
        for each unit by itself, every set of so many being as probable as any other.
        All others are 0.
    scale : float, default=1.0
        C: the weights that are not zero are normal of variance ``scale / n_nonzero``,
        for so many terms are in a unit's sum. Finite and not negative; at 0 all weights
        are zero.
    rng, dtype, out, n_threads
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array in C order. The mean square over all its elements is
        scale / fan_in, as that of `variance_scaling`.

    Raises
    ------
    ValueError
        If `n_nonzero` is below 1 or above fan_in; and as `variance_scaling`.
    TypeError
        As `variance_scaling`.

    Notes
    -----
    The total input of a unit does not shrink or grow with the number of units before
    it, and the units stay different from each other (Martens 2010, who took 15, with
    a standard deviation of 1 each: ``scale=15``). Places are drawn by Floyd's
    algorithm (Bentley & Floyd 1987), in n_nonzero steps over all units.

    References
    ----------
    .. [1] J. Martens, "Deep learning via Hessian-free optimization", ICML 2010,
       section 5.
    .. [2] J. Bentley, R. Floyd, "Programming pearls: a sample of brilliance",
       Communications of the ACM 30, 1987.

    Examples
    --------
    >>> from fanin.initializers import sparse
    >>> weight = sparse((100, 4), n_nonzero=3, rng=0)
    >>> (weight != 0).sum(axis=0)
    array([3, 3, 3, 3])
    """
    scale = _validation.real(scale, "scale", minimum=0.0)
    if n_nonzero is not None:
        n_nonzero = _validation.integer(n_nonzero, "n_nonzero", minimum=1)
    threads = _threads.resolve(n_threads)
    sizes = _validation.shape_tuple(shape)
    fan_in, _ = fans(sizes)
    if n_nonzero is None:
        n_nonzero = min(FEW, fan_in)
    weight = _target(shape, dtype, out)
    if weight.size > 0:
        if n_nonzero > fan_in:
            raise ValueError(
                f"n_nonzero must be at most {fan_in}, the number of weights of a unit "
                f"in an array of shape {sizes}; got {n_nonzero}"
            )
        std = math.sqrt(scale) / math.sqrt(n_nonzero)
        why = f"scale={scale:g} with n_nonzero={n_nonzero}"
        _check_range(std, std, weight.dtype, _LARGEST_DRAW, why)
    key = _validation.seed_words(rng)
    if weight.size == 0:
        return weight
    n_units = sizes[-1]
    values = np.empty((n_nonzero, n_units), weight.dtype)
    _fill.fill(values, _fill.DISTRIBUTIONS.index("normal"), std, 0, key, threads)
    uniform = np.empty((n_nonzero, n_units))
    code = _fill.DISTRIBUTIONS.index("uniform")
    _fill.fill(uniform, code, 1.0, _PLACES, key, threads)
    _set_all(weight, 0.0)
    unit = np.arange(n_units)
    taken = np.zeros((fan_in, n_units), np.bool_)
    for i in range(n_nonzero):
        # One of the first last + 1 places; if it is taken, the last one, which cannot
        # be. (The uniform numbers lie between -1 and 1.)
        last = fan_in - n_nonzero + i
        place = ((uniform[i] + 1.0) * (0.5 * (last + 1))).astype(np.intp)
        np.minimum(place, last, out=place)
        place = np.where(taken[place, unit], last, place)
        taken[place, unit] = True
        weight[(*np.unravel_index(place, sizes[:-1]), unit)] = values[i]
    return weight


def constant(
    shape: Shape,
    value: float,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return an array with every element equal to `value`.

    Parameters
    ----------
    shape : int or sequence of int
        Of any number of axes.
    value : float
        Finite, and within the range of the dtype.
    rng, n_threads
        Checked and not used, so that every initializer is called alike: a Generator
        does not advance, and one thread fills as fast as the memory takes it.
    dtype, out
        As for `variance_scaling`.

    Returns
    -------
    ndarray
        `out`, or a new array in C order.

    Raises
    ------
    ValueError, TypeError
        As `variance_scaling`, and if `value` is not a finite number of the dtype.

    Examples
    --------
    >>> from fanin.initializers import constant
    >>> constant((2, 2), 0.5)
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    value = _validation.real(value, "value")
    _threads.resolve(n_threads)
    if rng is not None:
        _validation.generator(rng)
    array = _target(shape, dtype, out)
    if abs(value) > float(np.finfo(array.dtype).max):
        raise ValueError(f"value must be in the range of {array.dtype}; got {value!r}")
    _set_all(array, value)
    return array


def zeros(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return an array of zeros, as biases begin.

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `constant`.

    Returns
    -------
    ndarray
        `out`, or a new array in C order.

    Raises
    ------
    ValueError, TypeError
        As `constant`.

    Examples
    --------
    >>> from fanin.initializers import zeros
    >>> zeros(3)
    array([0., 0., 0.], dtype=float32)
    """
    return constant(shape, 0.0, rng=rng, dtype=dtype, out=out, n_threads=n_threads)


def ones(
    shape: Shape,
    *,
    rng: RNG = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return an array of ones, as the factors of a normalization begin.

    Parameters
    ----------
    shape, rng, dtype, out, n_threads
        As for `constant`.

    Returns
    -------
    ndarray
        `out`, or a new array in C order.

    Raises
    ------
    ValueError, TypeError
        As `constant`.

    Examples
    --------
    >>> from fanin.initializers import ones
    >>> ones(3)
    array([1., 1., 1.], dtype=float32)
    """
    return constant(shape, 1.0, rng=rng, dtype=dtype, out=out, n_threads=n_threads)


_BY_NAME: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        variance_scaling,
        he_normal,
        he_uniform,
        lecun_normal,
        lecun_uniform,
        glorot_normal,
        glorot_uniform,
        orthogonal,
        sparse,
        ones,
        zeros,
    )
}


def name_of(init: str | Initializer) -> str | None:
    """Return the name by which `get` finds an initializer; None if there is none."""
    if isinstance(init, str):
        return init
    return next((name for name, one in _BY_NAME.items() if one is init), None)


def get(initializer: str | Initializer) -> Initializer:
    """Return the initializer of this name.

    Parameters
    ----------
    initializer : str or callable
        The name of any function of this module that can be called with a shape
        alone; or a callable, which is returned as it is, for instance
        ``functools.partial(constant, value=0.1)``.

    Returns
    -------
    callable
        Takes ``(shape, *, rng=None, dtype=None, out=None, n_threads=None)``.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the names.
    TypeError
        If `initializer` is neither a string nor callable.

    Examples
    --------
    >>> from fanin import initializers
    >>> initializers.get("he_normal") is initializers.he_normal
    True
    """
    if isinstance(initializer, str):
        return _BY_NAME[_validation.choice(initializer, _BY_NAME, "initializer")]
    if not callable(initializer):
        raise TypeError(
            f"initializer must be a name or a callable; "
            f"got {type(initializer).__name__}"
        )
    return initializer


Function = Callable[[NDArray[np.float64]], Any]


def gain(
    activation: str | activations.Activation | Function,
    *,
    criterion: str = "second_moment",
) -> float:
    r"""Return C, the `scale` of Var(W) = C / fan_in that suits an activation.

    With Z = A W, independent weights of variance C / fan_in and many units, each z is
    normal, of variance q' = C E[a²]: with z standard normal in one layer, the next
    layer's has variance C E[f(u)²], u standard normal.

    Parameters
    ----------
    activation : str, Activation or callable
        f: a name or an object of `fanin.activations`, one of the user's
        (`fanin.activations.Custom`) included; or any function that takes a vector of
        float64 and returns f of each element.
    criterion : str, default="second_moment"
        What C is to do:

        - "second_moment": :math:`1 / E[f(u)^2]`. z keeps the second moment 1 from layer
          to layer.
        - "variance": :math:`1 / \operatorname{Var} f(u)`. The same with the offset
          E[f(u)] taken out, as if a bias or a batch normalization removed it.
        - "gradient": :math:`1 / E[f'(u)^2]`. The gradient keeps its mean square on the
          way back, through layers whose z has the second moment 1.
        - "slope": :math:`1 / f'(0)^2`. Small signals, for which f is a straight line,
          keep their variance.
        - "rule": the constant of the rule of thumb: 2 for relu, leaky_relu, silu and
          gelu, 1 for all other activations, those of the user's included.

    Returns
    -------
    float
        C, to 1e-12 of itself or better; to 1e-8 for "gradient" and "slope" of a plain
        function, whose derivative is taken numerically.

    Raises
    ------
    ValueError
        If the criterion is unknown, or gives no number: f (or f', or what f varies by)
        is 0 throughout, f has a kink at 0 and the criterion is "slope", f is not finite
        or not smooth enough to be integrated, or the criterion is "rule" and f a plain
        function.
    TypeError
        If `activation` is none of the three.

    See Also
    --------
    variance_scaling : Takes C as `scale`.
    fanin.calibrate : Measures, where this computes.

    Notes
    -----
    The expectations are computed by Gauss-Hermite quadrature where that converges to
    12 digits, and over bisected panels elsewhere (f with a kink).

    **Why published tables disagree.** They answer different questions, and in
    different units:

    - Variance or standard deviation. C here is a factor on the variance. PyTorch's
      ``torch.nn.init.calculate_gain`` and the `gain` of `orthogonal` are factors on the
      standard deviation: its :math:`\sqrt 2` for relu is C = 2, its 5/3 for tanh
      C = 2.78.
    - Mean square or slope at 0. tanh has C = 1 by its slope: a large signal then
      shrinks, ever more slowly as it gets small, and the gradient stays level once it
      is. By the mean square of a signal of size 1, C = 2.54: the signal stays at size
      1, where tanh bends, and the gradient's square grows by C E[f'²] = 1.18 per layer.
      Glorot & Bengio (2010) take the slope, PyTorch's
      5/3 is a little above the root of the mean-square value, 1.59. For relu the signal
      and the gradient have one answer, 2, at any size, and there is no slope at 0.
    - The offset. The logistic function has the mean 1/2. Its second moment, which is
      mostly that, gives C = 3.41; the deviation from the mean gives 23.1, that is 4.80
      as a factor on the standard deviation; the slope at 0, which is 1/4, gives 16;
      and the tables' 1 follows from none of them.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller, "Efficient BackProp", in
       Neural Networks: Tricks of the Trade, Springer 1998.
    .. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010.
    .. [3] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.
    .. [4] B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli, "Exponential
       expressivity in deep neural networks through transient chaos", NeurIPS 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> round(fanin.gain("relu"), 12), round(fanin.gain("tanh"), 4)
    (2.0, 2.5362)
    >>> fanin.gain("tanh", criterion="slope"), fanin.gain("relu", criterion="rule")
    (1.0, 2.0)
    >>> round(fanin.gain(lambda z: np.maximum(z, 0) ** 2), 12)
    0.666666666667
    >>> scale = fanin.gain("elu")
    >>> weight = fanin.initializers.variance_scaling((300, 200), scale=scale)
    """
    criterion = _validation.choice(criterion, CRITERIA, "criterion")
    known: activations.Activation | None = None
    function: Function
    if isinstance(activation, (str, activations.Activation)):
        known = activations.get(activation)
        what = known.name
        function = functools.partial(activations.apply, activation=known, n_threads=1)
    elif callable(activation) and not isinstance(activation, type):
        function = activation
        what = getattr(activation, "__name__", type(activation).__name__)
    else:
        raise TypeError(
            "activation must be a name, an object of fanin.activations or a function; "
            f"got {_validation.what(activation)}"
        )
    if criterion == "rule":
        if known is None:
            raise ValueError(
                "criterion 'rule' is for activations that have a name; got the "
                f"function {what!r}: declare it by fanin.activations.Custom, or take "
                "another criterion"
            )
        return 2.0 if known.name in LIKE_RELU else 1.0
    try:
        level = _level(function, known, criterion)
    except _quadrature.QuadratureError as error:
        raise ValueError(
            f"activation {what!r} has no gain by criterion {criterion!r}: {error}"
        ) from error
    if not (level > 0.0 and math.isfinite(1.0 / level)):
        raise ValueError(
            f"activation {what!r} has no gain by criterion {criterion!r}: what is to "
            f"be kept level is {level:g}"
        )
    return 1.0 / level


def _level(
    function: Function, known: activations.Activation | None, criterion: str
) -> float:
    """Return what the weights' variance is to make up for."""

    def values(z: NDArray[np.float64]) -> NDArray[np.float64]:
        return _quadrature.values_of(function, z)  # (integers would overflow)

    def slope(z: NDArray[np.float64]) -> NDArray[np.float64]:
        assert known is not None
        return activations.derivative(z, known, n_threads=1)

    if criterion == "slope":
        if known is None:
            left, right = _quadrature.slope_at_zero(function)
            middle = (left + right) / 2
        else:
            left, middle, right = slope(np.array([-1e-9, 0.0, 1e-9])).tolist()
        if not math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-6):
            raise _quadrature.QuadratureError(
                f"its slope at 0 must be one number, and is {left:.6g} to the left and "
                f"{right:.6g} to the right"
            )
        return middle * middle
    if criterion == "gradient":
        if known is None:
            return _quadrature.mean_square_slope(function)
        return _quadrature.gaussian_mean(lambda z: slope(z) ** 2)
    if criterion == "second_moment":
        return _quadrature.gaussian_mean(lambda z: values(z) ** 2)
    offset = _quadrature.gaussian_mean(function)
    level = _quadrature.gaussian_mean(lambda z: (values(z) - offset) ** 2)
    # A constant differs from its mean by the rounding of the mean.
    return level if level > (1e-12 * offset) ** 2 else 0.0
