"""What a network's gradient would be under mistakes that backward passes are made of.

A plain NumPy backward pass, slow and simple, with one mistake at a time: the derivative
of an activation left out, some samples only, weights not transposed. `_diagnosis`
compares a wrong gradient with these. It is meant for gradients that people write; the
library's own pass shares no code with it but the activations and losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import activations, losses
from fanin.layers import Activation, Dense, Dropout

if TYPE_CHECKING:
    from fanin.network import Network

Float64 = NDArray[np.float64]

# Samples are left out one after the other only if that makes no more numbers.
MOST_NUMBERS = 5_000_000


@dataclass(frozen=True)
class _Step:
    """A dense product or an activation, with what it got in the forward pass."""

    layer: str
    weight: Float64 | None  # None: an activation
    activation: activations.Activation | None
    given: Float64
    made: Float64


class NetworkHypotheses:
    """Gradients of one network and batch under mistakes, array by array.

    Parameters
    ----------
    net : Network
        The network; what is needed of it is computed when an array is asked for.
    X, y, sample_weight, training
        As in `Network.check_gradient`.

    Notes
    -----
    Mistakes inside the backward pass are known for networks of dense layers and
    activations (and dropout that does not drop); for others those of the mode, of the
    weights and of the last step.
    """

    def __init__(
        self,
        net: Network,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = True,
    ) -> None:
        self.net, self.X, self.y = net, X, y
        self.sample_weight, self.training = sample_weight, training
        self._steps: list[_Step] | None = None
        self._known: dict[str, dict[str, NDArray[Any]]] | None = None

    def __call__(self, name: str) -> dict[str, Any]:
        """Return the gradients of an array under mistakes, by a sentence for each."""
        found: dict[str, Any] = {}
        for sentence, arrays in self._of_the_whole().items():
            found[sentence] = arrays[name]
        if self._is_plain() and name in self._of_the_whole_names():
            for sentence, candidate in self._inside(name):
                found.setdefault(sentence, candidate)
        return found

    def causes(self) -> frozenset[str]:
        """Return the sentences that are about the gradient as a whole."""
        return frozenset(self._of_the_whole())

    # -- other modes, weights, steps -----------------------------------------------

    def _gradient(self, **changes: Any) -> dict[str, NDArray[Any]]:
        mode = {"sample_weight": self.sample_weight, "training": self.training}
        _, gradient = self.net.loss_and_gradient(
            self.X, self.y, n_threads=1, **(mode | changes)
        )
        return self.net.unflatten(gradient.astype(np.float64))

    def _of_the_whole_names(self) -> list[str]:
        return [name for name, _, _ in self.net._blocks]

    def _of_the_whole(self) -> dict[str, dict[str, NDArray[Any]]]:
        if self._known is None:
            net = self.net
            found = {}
            if self.sample_weight is not None:
                found["the analytic gradient is that without the sample weights"] = (
                    self._gradient(sample_weight=None)
                )
            # (Of one row there are no statistics to take.)
            alone = net._mixes_rows and np.shape(self.X)[0] == 1
            if (net._draws or net._mixes_rows) and (self.training or not alone):
                other = "inference" if self.training else "training"
                what = " and ".join(
                    word
                    for word, there in (
                        ("dropout's mask", net._draws),
                        ("the batch's statistics", net._mixes_rows),
                    )
                    if there
                )
                found[
                    f"the analytic gradient is that of {other}: {what} "
                    f"{'left out' if self.training else 'taken in'}"
                ] = self._gradient(training=not self.training)
            if net._gradient is not None and net._gradient.any():
                found[
                    "the analytic gradient is stale: that of the last training step"
                ] = net.unflatten(net._gradient.astype(np.float64))
            self._known = found
        return self._known

    # -- inside the backward pass --------------------------------------------------

    def _is_plain(self) -> bool:
        return all(
            isinstance(layer, (Dense, Activation))
            or (isinstance(layer, Dropout) and (not self.training or layer.rate == 0))
            for layer in self.net.layers
        )

    def _forward(self) -> list[_Step]:
        if self._steps is not None:
            return self._steps
        A = np.asarray(self.X, dtype=np.float64)
        arrays = self.net.named_parameters()
        steps = []
        for i, layer in enumerate(self.net.layers):
            name = f"{layer.kind}{i}"
            if isinstance(layer, Dense):
                W = np.asarray(arrays[f"{name}.weight"], dtype=np.float64)
                Z = A @ W
                if layer.bias:
                    Z = Z + arrays[f"{name}.bias"]
                steps.append(_Step(name, W, None, A, Z))
                A = Z
            if isinstance(layer, (Dense, Activation)):
                function = activations.get(layer.activation)
                if not isinstance(function, activations.Identity):
                    Z, A = A, activations.apply(A, function, n_threads=1)
                    steps.append(_Step(name, None, function, Z, A))
        self._steps = steps
        return steps

    def _backward(self, stop: int, mistake: tuple[int, str] | None = None) -> Float64:
        """Return dL/d(output) of a step, with a mistake at another one."""
        steps = self._forward()
        _, D = losses.evaluate(
            steps[-1].made if steps else np.asarray(self.X, dtype=np.float64),
            self.y,
            self.net.loss_function,
            sample_weight=self.sample_weight,
            n_threads=1,
        )
        for k in range(len(steps) - 1, stop, -1):
            step = steps[k]
            kind = mistake[1] if mistake is not None and mistake[0] == k else ""
            if step.weight is not None:
                D = D @ (step.weight if kind == "not transposed" else step.weight.T)
                continue
            assert step.activation is not None
            if kind == "left out":
                continue
            at = step.made if kind == "of the output" else step.given
            D = D * activations.derivative(at, step.activation, n_threads=1)
        return np.asarray(D)

    def _inside(self, name: str) -> Iterator[tuple[str, Any]]:
        steps = self._forward()
        layer, _, kind = name.rpartition(".")
        at = next(
            k for k, s in enumerate(steps) if s.layer == layer and s.weight is not None
        )
        given = steps[at].given
        D = self._backward(at)

        def product(D: Float64, A: Float64 = given) -> Float64:
            return A.T @ D if kind == "weight" else D.sum(axis=0)

        # What a penalty adds is no part of the backward pass.
        true = self._gradient()[name]
        penalty = true - product(D)
        weight = steps[at].weight
        assert weight is not None
        if not penalty.any() or kind != "weight":
            penalty = np.zeros_like(true)

        m = D.shape[0]
        for k in range(len(steps) - 1, at, -1):
            step = steps[k]
            if step.weight is None:
                assert step.activation is not None
                what = f"the derivative of {step.activation.name} in {step.layer}"
                yield (
                    f"{what} is missing in the analytic gradient",
                    product(self._backward(at, (k, "left out"))) + penalty,
                )
                yield (
                    f"{what} is taken of the layer's output, not of its input",
                    product(self._backward(at, (k, "of the output"))) + penalty,
                )
            elif step.weight.shape[0] == step.weight.shape[1]:
                yield (
                    f"the weights of {step.layer} are not transposed in what is passed "
                    "down",
                    product(self._backward(at, (k, "not transposed"))) + penalty,
                )
        if kind == "weight":
            # The product takes what is before it, which has passed an activation.
            if at > 0 and steps[at - 1].weight is None:
                yield (
                    "the layer's input is taken before its activation",
                    product(D, steps[at - 1].given) + penalty,
                )
            if weight.shape[0] == weight.shape[1]:
                yield (
                    "the layer's output is taken for its input",
                    product(D, steps[at].made) + penalty,
                )
        yield from self._samples(product, D, given, penalty, kind, m)

    def _samples(
        self,
        product: Any,
        D: Float64,
        given: Float64,
        penalty: Float64,
        kind: str,
        m: int,
    ) -> Iterator[tuple[str, Any]]:
        if kind == "bias" and m > 1:
            for row, which in ((0, "first"), (m - 1, "last")):
                yield (
                    f"it is not summed over the samples: only the {which} one is there",
                    D[row] * m,
                )
        counts = range(1, m)
        if m * max(penalty.size, 1) > MOST_NUMBERS:
            counts = sorted({1, m // 2, m - 1} - {0, m})  # type: ignore[assignment]
        for n in counts:
            for which, rows in (("last", slice(m - n, m)), ("first", slice(0, n))):
                part = D[rows]
                value = (
                    product(part, given[rows]) if kind == "weight" else (product(part))
                )
                said = f"only the {which} {n} of {m} samples contribute"
                yield said, value + penalty
                yield f"{said}, as if they were all", value * (m / n) + penalty
