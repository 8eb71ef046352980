"""Weight initialization: the variance of each weight matrix set by its fans.

In Z = A W + b, a unit sums n_in products. With independent weights of mean zero,
Var(Z) = n_in Var(W) E[A^2], so that Var(W) = C / n_in keeps the signal's scale from
layer to layer: C = 1 for activations that are the identity near zero (tanh), and
C = 2 for ReLU, which halves the mean square. Too large a variance grows, and too
small a one shrinks, exponentially with depth.

All random initializers fill an array in parallel from a counter-based generator,
Philox4x32-10 (Salmon et al., SC 2011). The weight at each C-order index depends on
the seed, that index, the distribution and the dtype only: the number of threads,
the layout of `out`, the CPU and its SIMD level do not change a bit. float32 and
float64 draw different numbers: one is not the other rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fanin import _threads, _validation
from fanin._kernels import _fill

__all__ = [
    "constant",
    "fans",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "variance_scaling",
    "zeros",
]

Shape = SupportsIndex | Sequence[SupportsIndex]
# (A string: NumPy loads numpy.random when it is first named, which takes as long as
# the import of all of fanin.)
RNG: TypeAlias = "int | np.random.Generator | np.random.SeedSequence | None"
Initializer = Callable[..., NDArray[Any]]

MODES = ("fan_in", "fan_out", "fan_avg")

# The standard deviation of a standard normal cut off at two standard deviations:
# its variance is 1 - 2 z phi(z) / (2 Phi(z) - 1) at z = 2.
_CUT = 2.0
_TRUNCATED_STD = math.sqrt(
    1
    - (2 * _CUT * math.exp(-_CUT * _CUT / 2) / math.sqrt(2 * math.pi))
    / math.erf(_CUT / math.sqrt(2))
)

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
    found = _validation.float_dtype(out.dtype if dtype is None else dtype)
    return _validation.distinct_elements(_validation.check_out(out, sizes, found))


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
        limits = np.finfo(weight.dtype)
        if width != 0.0 and not (
            float(limits.tiny) <= width <= float(limits.max) / _LARGEST_DRAW
        ):
            raise ValueError(
                f"scale={scale:g} with a fan of {fan:g} gives weights of standard "
                f"deviation {std:g}, out of the range of {weight.dtype}"
            )
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
    array[...] = value
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
        zeros,
    )
}


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
