"""What a network is made of: small declarative objects, compiled by `Network`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from fanin import _validation as check
from fanin import activations, initializers

__all__ = [
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "RMSNorm",
]


class Layer:
    """What layers have in common: use one of the subclasses.

    Layers are declarations, equal if their options are. They compute nothing and hold
    no parameters: a `fanin.Network` does.

    Examples
    --------
    >>> import fanin
    >>> isinstance(fanin.layers.Dropout(0.2), fanin.layers.Layer)
    True
    """

    kind: ClassVar[str] = ""

    def _compiled(self) -> dict[str, Any]:
        """Return what the plan needs to know of this layer."""
        raise TypeError("use a subclass of Layer, such as Dense")


# The rule's constants: Var(W) = 2 / fan_in for ReLU and the functions that are like it,
# 0 below and the identity above (He et al. 2015), 1 / fan_in for the others (LeCun et
# al. 1998; for SELU Klambauer et al. 2017).
HE_INIT = frozenset({"relu", "leaky_relu", "silu", "gelu", "gelu_tanh"})


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer: ``A = activation(X @ weight + bias)``.

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : str or Activation, default="identity"
        Applied to every output: a name such as "relu", or an object of
        `fanin.activations`, which has the list and the formulas.
    init : str or callable, default="auto"
        How the weight, of shape (n_in, units), starts: the name of a function of
        `fanin.initializers`, or a callable with that module's signature
        ``init(shape, *, rng, dtype, out)`` that fills ``out``. "auto" follows the
        fan-in rule for the activation: ``he_normal`` (variance 2 / n_in) for relu,
        leaky_relu, silu and gelu, ``lecun_normal`` (variance 1 / n_in) for the others.
        Biases start at 0.
    bias : bool, default=True
        Whether to add a bias.
    l2 : float, optional
        Penalty on the weight, not on the bias: the loss grows by
        ``l2 / 2 * sum(weight**2)``. None takes the network's.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.layers.Dense(100, activation="relu")
    Dense(units=100, activation='relu', init='auto', bias=True, l2=None)
    """

    kind: ClassVar[str] = "dense"

    units: int
    activation: str | activations.Activation = "identity"
    init: str | Callable[..., Any] = "auto"
    bias: bool = True
    l2: float | None = None

    def __post_init__(self) -> None:
        units = check.integer(
            self.units, "units", minimum=1, maximum=check.MAX_BLAS_INTEGER
        )
        object.__setattr__(self, "units", units)
        activations.get(self.activation)
        _boolean(self.bias, "bias")
        if not callable(self.init) and self.init != "auto":
            initializers.get(self.init)
        if self.l2 is not None:
            _set_real(self, "l2", minimum=0.0)

    def initializer(self) -> Callable[..., Any]:
        """Return the function that fills the weight."""
        if callable(self.init):
            return self.init
        name = self.init
        if name == "auto":
            like_relu = activations.get(self.activation).name in HE_INIT
            name = "he_normal" if like_relu else "lecun_normal"
        return initializers.get(name)

    def _compiled(self) -> dict[str, Any]:
        function = activations.get(self.activation)
        return {
            "kind": self.kind,
            "n_out": self.units,
            "activation": function.name,
            "parameter": function.parameter,
            "bias": self.bias,
            "l2": self.l2 or 0.0,
        }


@dataclass(frozen=True)
class Activation(Layer):
    """An activation as a layer of its own, after a normalization for instance.

    Parameters
    ----------
    activation : str or Activation
        As in `Dense`.

    Raises
    ------
    ValueError
        If there is no such activation.

    Examples
    --------
    >>> import fanin
    >>> dense = fanin.layers.Dense(100, bias=False)
    >>> block = [dense, fanin.layers.BatchNorm(), fanin.layers.Activation("relu")]
    """

    kind: ClassVar[str] = "activation"

    activation: str | activations.Activation

    def __post_init__(self) -> None:
        activations.get(self.activation)

    def _compiled(self) -> dict[str, Any]:
        function = activations.get(self.activation)
        return {
            "kind": self.kind,
            "activation": function.name,
            "parameter": function.parameter,
        }


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalization: each feature by the mean and variance of the batch.

    In training ``xhat = (x - mean) / sqrt(var + eps)`` with the batch's mean and
    (biased) variance, and the output is ``xhat * gamma + beta`` (Ioffe & Szegedy,
    ICML 2015). In inference the running statistics take their place, which each
    training step moves by ``running += momentum * (batch - running)``, with the
    unbiased variance: PyTorch's ``BatchNorm1d``.

    Parameters
    ----------
    momentum : float, default=0.1
        Weight of the newest batch in the running statistics, in (0, 1].
    eps : float, default=1e-5
        Added to the variance.
    affine : bool, default=True
        Whether there are a gamma (from 1) and a beta (from 0) to be learned.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.layers.BatchNorm()
    BatchNorm(momentum=0.1, eps=1e-05, affine=True)
    """

    kind: ClassVar[str] = "batch_norm"

    momentum: float = 0.1
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        _set_real(self, "momentum", minimum=0.0, maximum=1.0, open_minimum=True)
        _set_real(self, "eps", minimum=0.0)
        _boolean(self.affine, "affine")

    def _compiled(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "momentum": self.momentum,
            "eps": self.eps,
            "affine": self.affine,
        }


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer normalization: each sample by its own mean and variance.

    ``xhat = (x - mean) / sqrt(var + eps)`` over the features of a sample, and the
    output is ``xhat * gamma + beta`` (Ba, Kiros & Hinton 2016): PyTorch's
    ``LayerNorm`` and `fanin.layer_norm`.

    Parameters
    ----------
    eps : float, default=1e-5
        Added to the variance.
    affine : bool, default=True
        Whether there are a gamma (from 1) and a beta (from 0) to be learned.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.layers.LayerNorm()
    LayerNorm(eps=1e-05, affine=True)
    """

    kind: ClassVar[str] = "layer_norm"

    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        _set_real(self, "eps", minimum=0.0)
        _boolean(self.affine, "affine")

    def _compiled(self) -> dict[str, Any]:
        return {"kind": self.kind, "eps": self.eps, "affine": self.affine}


@dataclass(frozen=True)
class RMSNorm(Layer):
    """RMS normalization: each sample by its root mean square.

    ``xhat = x / sqrt(mean(x**2) + eps)`` over the features of a sample, and the
    output is ``xhat * gamma`` (Zhang & Sennrich, NeurIPS 2019): PyTorch's
    ``RMSNorm`` and `fanin.rms_norm`.

    Parameters
    ----------
    eps : float, optional
        Added to the mean square; None means the machine epsilon of the network's
        dtype.
    affine : bool, default=True
        Whether there is a gamma (from 1) to be learned.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.layers.RMSNorm(eps=1e-6)
    RMSNorm(eps=1e-06, affine=True)
    """

    kind: ClassVar[str] = "rms_norm"

    eps: float | None = None
    affine: bool = True

    def __post_init__(self) -> None:
        if self.eps is not None:
            _set_real(self, "eps", minimum=0.0)
        _boolean(self.affine, "affine")

    def _compiled(self) -> dict[str, Any]:
        return {"kind": self.kind, "eps": self.eps, "affine": self.affine}


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout: in training each value is zeroed with probability `rate`.

    What is kept is divided by ``1 - rate``, so that inference does nothing
    (Srivastava et al., JMLR 15, 2014).

    Parameters
    ----------
    rate : float, default=0.5
        Probability of zeroing a value, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        If `rate` is not as described.

    Notes
    -----
    The masks are a function of the network's `dropout_key`, the number of the draw
    and the place in the batch alone: the same for any number of threads. Each
    training step takes the next draw; whatever else looks at the loss in training
    mode, such as `Network.check_gradient`, sees the draw of the next step, again and
    again, so that the loss is a function of the parameters.

    Examples
    --------
    >>> import fanin
    >>> fanin.layers.Dropout(0.2)
    Dropout(rate=0.2)
    """

    kind: ClassVar[str] = "dropout"

    rate: float = 0.5

    def __post_init__(self) -> None:
        _set_real(self, "rate", minimum=0.0, maximum=1.0, open_maximum=True)

    def _compiled(self) -> dict[str, Any]:
        return {"kind": self.kind, "rate": self.rate}


def _boolean(value: object, name: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def _set_real(layer: Layer, name: str, **limits: Any) -> None:
    object.__setattr__(layer, name, check.real(getattr(layer, name), name, **limits))
