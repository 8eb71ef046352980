"""Activation functions: what a layer is told, and the functions on arrays.

A function that is not here can be declared by `Custom`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _custom, _threads
from fanin import _validation as check
from fanin._kernels import _activations

if TYPE_CHECKING:
    from fanin._kernels._custom import Pair

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "Custom",
    "Identity",
    "LeakyReLU",
    "Logistic",
    "ReLU",
    "SiLU",
    "Softplus",
    "Tanh",
    "apply",
    "derivative",
    "get",
]


class Activation(ABC):
    """An activation function: what all of this module's classes have in common.

    They are declarations, equal if they name the same function, and compute nothing
    themselves: `apply` and `derivative` do.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.LeakyReLU(0.2).name
    'leaky_relu'
    >>> isinstance(fanin.activations.Tanh(), fanin.activations.Activation)
    True
    """

    @property
    @abstractmethod
    def _name(self) -> str: ...

    @property
    def name(self) -> str:
        """The name by which `get` and the layers know the function."""
        return self._name

    @property
    def parameter(self) -> float:
        """The number that the function takes beside z; 0 where there is none."""
        return 0.0

    @property
    def _kernel(self) -> str | Pair:
        """What the kernels take."""
        return self.name


@dataclass(frozen=True)
class Identity(Activation):
    """The identity, f(z) = z.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-1.0, 2.0], fanin.activations.Identity())
    array([-1.,  2.])
    """

    _name = "identity"


@dataclass(frozen=True)
class Logistic(Activation):
    """The logistic function or sigmoid, f(z) = 1 / (1 + exp(-z)).

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([0.0], fanin.activations.Logistic())
    array([0.5])
    """

    _name = "logistic"


@dataclass(frozen=True)
class Tanh(Activation):
    """The hyperbolic tangent, f(z) = tanh z.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([0.0, 100.0], fanin.activations.Tanh())
    array([0., 1.])
    """

    _name = "tanh"


@dataclass(frozen=True)
class ReLU(Activation):
    """The rectifier, f(z) = max(z, 0), with the derivative 0 at 0.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-1.0, 2.0], fanin.activations.ReLU())
    array([0., 2.])
    """

    _name = "relu"


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """The leaky rectifier, f(z) = z for z > 0 and slope z for the others.

    The derivative at 0 is `slope`. The function is that of Maas, Hannun & Ng,
    "Rectifier nonlinearities improve neural network acoustic models" (2013).

    Parameters
    ----------
    slope : float, default=0.01
        Any finite number.

    Raises
    ------
    TypeError, ValueError
        If `slope` is not a finite real number.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-1.0, 2.0], fanin.activations.LeakyReLU(0.5))
    array([-0.5,  2. ])
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", check.real(self.slope, "slope"))

    _name = "leaky_relu"

    @property
    def parameter(self) -> float:
        """The slope."""
        return self.slope


@dataclass(frozen=True)
class ELU(Activation):
    """Exponential linear units: z for z > 0, alpha (exp(z) - 1) for the others.

    The derivative at 0 is `alpha`. The function is that of Clevert, Unterthiner &
    Hochreiter, "Fast and accurate deep network learning by exponential linear units
    (ELUs)" (2016).

    Parameters
    ----------
    alpha : float, default=1.0
        Any finite number.

    Raises
    ------
    TypeError, ValueError
        If `alpha` is not a finite real number.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-100.0, 2.0], fanin.activations.ELU(alpha=0.5))
    array([-0.5,  2. ])
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", check.real(self.alpha, "alpha"))

    _name = "elu"

    @property
    def parameter(self) -> float:
        """Alpha."""
        return self.alpha


@dataclass(frozen=True)
class SELU(Activation):
    """Self-normalizing units: a scaled `ELU` that keeps mean 0 and variance 1.

    f(z) is 1.0507 z for z > 0 and 1.0507 * 1.6733 (exp(z) - 1) for the others. With
    these constants, taken to all digits, mean 0 and variance 1 are a fixed point
    of a layer whose weights have variance 1 / fan_in: Klambauer, Unterthiner, Mayr &
    Hochreiter, "Self-normalizing neural networks" (2017), equation 14.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-100.0, 2.0], fanin.activations.SELU()).round(4)
    array([-1.7581,  2.1014])
    """

    _name = "selu"


@dataclass(frozen=True)
class Softplus(Activation):
    """Softplus, f(z) = log(1 + exp(z)), without overflow or cancellation.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([0.0, 100.0], fanin.activations.Softplus()).round(4)
    array([  0.6931, 100.    ])
    """

    _name = "softplus"


@dataclass(frozen=True)
class SiLU(Activation):
    """Sigmoid-weighted linear units or swish, f(z) = z / (1 + exp(-z)).

    The function is that of Elfwing, Uchibe & Doya, "Sigmoid-weighted linear units for
    neural network function approximation in reinforcement learning" (2018). It is 0
    at minus infinity, its limit.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-1.0, 1.0], fanin.activations.SiLU()).round(4)
    array([-0.2689,  0.7311])
    """

    _name = "silu"


@dataclass(frozen=True)
class GELU(Activation):
    """Gaussian error linear units, f(z) = z Phi(z), Phi being normal probability.

    Phi is the standard normal distribution function: Hendrycks & Gimpel, "Gaussian
    error linear units (GELUs)" (2016). f is 0 at minus infinity, its limit, and has its
    digits also where Phi(z) is small.

    Parameters
    ----------
    approximate : {"none", "tanh"}, default="none"
        "tanh" takes their approximation of the function,
        z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z**3))), which differs by at most
        0.0005.

    Raises
    ------
    ValueError
        If `approximate` is neither of the two.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-1.0, 1.0], fanin.activations.GELU()).round(4)
    array([-0.1587,  0.8413])
    >>> fanin.activations.GELU("tanh").name
    'gelu_tanh'
    """

    approximate: Literal["none", "tanh"] = "none"

    def __post_init__(self) -> None:
        check.choice(self.approximate, ("none", "tanh"), "approximate")

    @property
    def _name(self) -> str:
        return "gelu" if self.approximate == "none" else "gelu_tanh"


@dataclass(frozen=True, eq=False, repr=False)
class Custom(_custom.Registered, Activation):
    """An activation of your own: a function and its derivative.

    Parameters
    ----------
    function : callable or compiled function
        f. A Python function takes an array of shape (rows, cols), float32 or float64
        as the network is, and returns one of that shape: a block of what it is applied
        to, element by element. The array is the function's own: it may work in place,
        or keep it. Or a compiled function ``double f(double z)``: a SciPy
        `LowLevelCallable`, a ctypes function with its restype and argtypes, or a
        `numba.cfunc`. It may take a ``void *data`` beside.
    derivative : callable or compiled function
        f', as a function of z, in the same form.
    name : str, optional
        What to call it; by default the function's name.
    user_data : ndarray or ctypes object, optional
        What a compiled function's last argument points to, for both. A
        `LowLevelCallable` may have its own.

    Attributes
    ----------
    function, derivative, name, user_data
        The arguments.

    Raises
    ------
    fanin.GradientError
        If the derivative is not that of the function; the message is the report, as of
        `fanin.check_gradient`, which the attribute `report` holds. Looked at are 0 and
        numbers of both signs from 0.001 to 97, with central differences and an
        estimate of their error, so that a kink is not taken for an error.
    TypeError, ValueError
        If the functions are not a pair of such functions, the prototype is another,
        the values depend on other elements of the array, or are NaN.

    See Also
    --------
    fanin.losses.Custom : The same for a loss.

    Notes
    -----
    A compiled pair runs without the GIL, at some 2 ns a call beside its own work. A
    pair of Python functions takes the GIL for blocks of some 256 KiB and costs what
    NumPy's operations in it cost, two copies in the cache, and some microseconds. An
    exception in it passes through unchanged, and the parameters are as they were.
    Functions are called on any thread of fanin's pool, where the caller's
    `numpy.errstate` does not hold.

    Initialization takes it for a function like tanh: see `init` of
    `fanin.layers.Dense`. It is compared by its functions, pickled if they can be
    (addresses cannot), and not saved by `fanin.Network.save`.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> def softsign(z):
    ...     return z / (1 + abs(z))
    >>> def slope(z):
    ...     return (1 + abs(z)) ** -2.0
    >>> activation = fanin.activations.Custom(softsign, slope)
    >>> fanin.activations.apply([-1.0, 0.0, 3.0], activation)
    array([-0.5 ,  0.  ,  0.75])
    >>> layer = fanin.layers.Dense(10, activation)
    >>> fanin.activations.Custom(np.sin, np.sin)
    Traceback (most recent call last):
        ...
    fanin._report.GradientError: the derivative of function 'sin' was refused
    ...
    """

    function: Any
    derivative: Any
    name: Any = field(default=None, kw_only=True)
    user_data: Any = field(default=None, kw_only=True)

    _name = "custom"
    _prototypes = (_custom.ACTIVATION, _custom.ACTIVATION)

    def __post_init__(self) -> None:
        pair = self._register(NAMED)
        _custom.check_activation(pair, f"function {self.name!r}")


NAMED: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Identity(),
        Logistic(),
        Tanh(),
        ReLU(),
        LeakyReLU(),
        ELU(),
        SELU(),
        Softplus(),
        SiLU(),
        GELU(),
        GELU("tanh"),
    )
}


# What other libraries call them.
ELSEWHERE = {
    "sigmoid": "logistic",
    "expit": "logistic",
    "swish": "silu",
    "linear": "identity",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
}


def get(activation: str | Activation) -> Activation:
    """Return the activation function of this name; an object passes through.

    Parameters
    ----------
    activation : str or Activation
        "identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "selu",
        "softplus", "silu", "gelu" or "gelu_tanh", which stand for the classes with
        their defaults; or an object of one of them.

    Returns
    -------
    Activation
        The declaration.

    Raises
    ------
    TypeError
        If `activation` is neither a string nor an Activation.
    ValueError
        If there is none of this name.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.get("elu")
    ELU(alpha=1.0)
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            "activation must be a name or an object of fanin.activations, Custom(f, "
            f"derivative) of functions of your own; got {check.what(activation)}"
        )
    if activation in ELSEWHERE:
        raise ValueError(
            f"activation must be one of fanin's names: {activation!r} is called "
            f"{ELSEWHERE[activation]!r} here"
        )
    return NAMED[check.choice(activation, NAMED, "activation")]


def _apply(
    Z: ArrayLike,
    activation: str | Activation,
    of_slope: bool,
    out: NDArray[Any] | None,
    n_threads: SupportsIndex | None,
) -> NDArray[Any]:
    chosen = get(activation)
    array = check.real_array(Z, "Z")
    threads = _threads.resolve(n_threads)
    dtype = check.result_dtype(array)
    if out is None:
        result = np.empty_like(array, dtype=dtype, subok=False)
    else:
        result = check.check_out(out, array.shape, dtype)
        check.no_overlap(check.distinct_elements(result), array, "Z", same=True)
    if array.size:
        _activations.apply(
            result, array, chosen._kernel, chosen.parameter, of_slope, threads
        )
    return result


def apply(
    Z: ArrayLike,
    activation: str | Activation,
    *,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]:
    """Return f(Z), element by element.

    Parameters
    ----------
    Z : array_like of real numbers, any shape
        Read where it lies: any strides, either byte order, read-only or mapped.
    activation : str or Activation
        The function f, as in `get`.
    out : ndarray, optional
        Where to write the result; any strides. `out=Z` works in place. A new array of
        tens of megabytes costs as much again as the computation, for the system has to
        find its pages: where that counts, give one.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    ndarray
        Of Z's shape; float32 for float16 and float32, float64 for all others.

    Raises
    ------
    TypeError
        If Z is not of real numbers, or `out` has another dtype than the result.
    ValueError
        If there is no such function; if `out` has the wrong shape, is read-only, or
        overlaps Z without being Z. Nothing has been written then.

    See Also
    --------
    derivative : f'(Z).

    Notes
    -----
    tanh and logistic are within 2 units in the last place in float32 and float64,
    down to subnormal results; elu with alpha 1 within 2, selu, softplus and silu within
    3, gelu within 8. For gelu_tanh the rounding of
    u = sqrt(8 / pi) (z + 0.044715 z**3) is amplified in the negative tail: the error
    is below 4 + 4 abs(u) units. NaN stays NaN.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.apply([-2.0, 0.0, 2.0], "tanh").round(4)
    array([-0.964,  0.   ,  0.964])
    """
    return _apply(Z, activation, False, out, n_threads)


def derivative(
    Z: ArrayLike,
    activation: str | Activation,
    *,
    out: NDArray[Any] | None = None,
    n_threads: SupportsIndex | None = None,
) -> NDArray[Any]:
    """Return f'(Z), element by element.

    Parameters
    ----------
    Z : array_like of real numbers, any shape
        Where to take the derivative: what f would be applied to, not its value.
    activation : str or Activation
        The function f, as in `get`. Where it has a kink, at 0, the derivative is that
        of the left side.
    out : ndarray, optional
        Where to write the result; any strides. `out=Z` works in place.
    n_threads : int, optional
        Threads to use; the result does not depend on it, bit for bit.

    Returns
    -------
    ndarray
        Of Z's shape; float32 for float16 and float32, float64 for all others.

    Raises
    ------
    TypeError, ValueError
        As in `apply`.

    See Also
    --------
    apply : f(Z).

    Notes
    -----
    Computed from z, with the digits of small values too: 1 - tanh(z)**2 at z = 20 is
    1.7e-17, not 0. At NaN the derivative is NaN, but that of identity, relu and
    leaky_relu, which do not depend on the size of z, is 1, 0 and `slope`.

    Examples
    --------
    >>> import fanin
    >>> fanin.activations.derivative([-2.0, 0.0, 2.0], "leaky_relu")
    array([0.01, 0.01, 1.  ])
    """
    return _apply(Z, activation, True, out, n_threads)
