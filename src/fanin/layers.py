"""What a network is made of: small declarative objects, compiled by `Network`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

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
    init : str or callable, optional
        How the weight, of shape (n_in, units), starts: the name of a function of
        `fanin.initializers`, or a callable with that module's signature
        ``init(shape, *, rng, dtype, out)`` that fills ``out``. "auto" follows the
        fan-in rule for the activation that the output meets: ``he_normal`` (variance
        2 / n_in) for relu, leaky_relu, silu and gelu, ``lecun_normal`` (variance
        1 / n_in) for the others. That is the layer's own activation, or, where this is
        the identity, the first `Activation` layer after it that is not, unless another
        dense layer comes before. None takes the network's `init`. Biases start at 0.
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
    Dense(units=100, activation='relu', init=None, bias=True, l2=None)
    """

    kind: ClassVar[str] = "dense"

    units: int
    activation: str | activations.Activation = "identity"
    init: str | Callable[..., Any] | None = None
    bias: bool = True
    l2: float | None = None

    def __post_init__(self) -> None:
        units = check.integer(
            self.units, "units", minimum=1, maximum=check.MAX_BLAS_INTEGER
        )
        object.__setattr__(self, "units", units)
        activations.get(self.activation)
        _boolean(self.bias, "bias")
        if self.init is not None:
            check_init(self.init)
        if self.l2 is not None:
            _set_real(self, "l2", minimum=0.0)

    def initializer(
        self,
        default: str | Callable[..., Any] = "auto",
        activation: str | activations.Activation | None = None,
    ) -> Callable[..., Any]:
        """Return the function that fills the weight.

        Parameters
        ----------
        default : str or callable, default="auto"
            Takes the place of an `init` of None.
        activation : str or Activation, optional
            What "auto" goes by; None means the layer's own.

        Returns
        -------
        callable
            A function of `fanin.initializers`, or the user's.

        Examples
        --------
        >>> import fanin
        >>> fanin.layers.Dense(3, "relu").initializer().__name__
        'he_normal'
        """
        init = default if self.init is None else self.init
        if init == "auto":
            met = activations.get(self.activation if activation is None else activation)
            like_relu = met.name in initializers.LIKE_RELU
            init = "he_normal" if like_relu else "lecun_normal"
        return initializers.get(init)

    def _compiled(self) -> dict[str, Any]:
        function = activations.get(self.activation)
        return {
            "kind": self.kind,
            "n_out": self.units,
            "activation": function._kernel,
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
            "activation": function._kernel,
            "parameter": function.parameter,
        }


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalization: each feature by the mean and variance of the batch.

    In training ``xhat = (x - mean) / sqrt(var + eps)`` with the batch's mean and
    (biased) variance, and the output is ``xhat * gamma + beta`` (Ioffe & Szegedy,
    ICML 2015). In inference the running statistics take their place, which are moved by
    each training step, ``running = (1 - momentum) * running + momentum * batch``, with
    the unbiased variance: PyTorch's ``BatchNorm1d``.

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


def check_init(init: Any) -> None:
    """Refuse what is no initializer of a dense layer's weight."""
    if not (isinstance(init, str) and init == "auto"):
        try:
            initializers.get(init)
        except (TypeError, ValueError) as error:
            text = str(error).removeprefix("initializer must be ")
            raise type(error)(f"init must be 'auto', {text}") from None


def fill_weight(
    init: Callable[..., Any], weight: NDArray[Any], rng: Any, where: str
) -> None:
    """Call a dense layer's initializer."""
    try:
        found = init(weight.shape, rng=rng, dtype=weight.dtype, out=weight)
    except Exception as error:
        error.add_note(
            f"raised by the {where}, which is called as init(shape, rng=..., "
            "dtype=..., out=...)"
        )
        raise
    if found is not None and found is not weight:
        raise TypeError(
            f"the {where} must fill its argument out and return it or None; it "
            f"returned {type(found).__name__}"
        )


def activation_met(layers: Sequence[Layer], i: int) -> activations.Activation:
    """Return the activation that the output of the dense layer ``layers[i]`` meets."""
    dense = layers[i]
    assert isinstance(dense, Dense)
    found = activations.get(dense.activation)
    for layer in layers[i + 1 :]:
        if found.name != "identity" or isinstance(layer, Dense):
            break
        if isinstance(layer, Activation):
            found = activations.get(layer.activation)
    return found


def _boolean(value: object, name: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def _set_real(layer: Layer, name: str, **limits: Any) -> None:
    object.__setattr__(layer, name, check.real(getattr(layer, name), name, **limits))
