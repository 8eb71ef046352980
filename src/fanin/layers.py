"""What a network is made of: small declarative objects, compiled by `Network`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fanin import _validation as check
from fanin import initializers

__all__ = ["Dense"]

# The rule's constants: Var(W) = 2 / fan_in for ReLU (He et al. 2015), 1 / fan_in
# for the others (LeCun et al. 1998).
AUTO_INIT = {
    "identity": "lecun_normal",
    "logistic": "lecun_normal",
    "tanh": "lecun_normal",
    "relu": "he_normal",
}


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: ``A = activation(X @ weight + bias)``.

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : {"identity", "logistic", "tanh", "relu"}, default="identity"
        Applied to every output.
    init : str or callable, default="auto"
        How the weight, of shape (n_in, units), starts: the name of a function of
        `fanin.initializers`, or a callable with that module's signature
        ``init(shape, *, rng, dtype, out)`` that fills ``out``. "auto" follows the
        fan-in rule for the activation: ``he_normal`` (variance 2 / n_in) for relu,
        ``lecun_normal`` (variance 1 / n_in) for the others. Biases start at 0.
    bias : bool, default=True
        Whether to add a bias.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.layers.Dense(100, activation="relu")
    Dense(units=100, activation='relu', init='auto', bias=True)
    """

    units: int
    activation: str = "identity"
    init: str | Callable[..., Any] = "auto"
    bias: bool = True

    def __post_init__(self) -> None:
        units = check.integer(
            self.units, "units", minimum=1, maximum=check.MAX_BLAS_INTEGER
        )
        object.__setattr__(self, "units", units)
        check.choice(self.activation, AUTO_INIT, "activation")
        if not isinstance(self.bias, bool):
            raise TypeError(f"bias must be True or False; got {self.bias!r}")
        if not callable(self.init) and self.init != "auto":
            initializers.get(self.init)

    def initializer(self) -> Callable[..., Any]:
        """Return the function that fills the weight."""
        if callable(self.init):
            return self.init
        name = AUTO_INIT[self.activation] if self.init == "auto" else self.init
        return initializers.get(name)
