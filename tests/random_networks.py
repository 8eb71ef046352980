"""Networks at random, with a batch for each: every layer, activation and loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import fanin
from fanin import activations, layers, losses

ACTIVATIONS = [
    *activations.NAMED.values(),
    activations.LeakyReLU(0.3),
    activations.LeakyReLU(-0.3),
    activations.ELU(0.5),
    activations.ELU(-0.5),
    activations.ELU(2.0),
]

LOSSES = [
    losses.SquaredError(),
    losses.SoftmaxCrossEntropy(),
    losses.AbsoluteError(),
    losses.BinaryCrossEntropy(),
    losses.Huber(0.3),
    losses.SoftmaxCrossEntropy(0.2),
    losses.Quantile(0.8),
    losses.Poisson(),
    losses.Huber(),
    losses.Quantile([0.1, 0.5, 0.9]),
]


@dataclass
class Problem:
    """A network, a batch, and how to look at it."""

    net: fanin.Network
    X: Any
    y: Any
    sample_weight: Any
    training: bool

    @property
    def longest_sum(self) -> int:
        """The most terms that one entry of a product or a statistic sums."""
        widths = [u for kind, u in self.units() if kind == "dense"]
        return max(self.X.shape[0], self.net.n_inputs, *widths, 1)

    def units(self) -> list[tuple[str, int]]:
        """Return kind and number of outputs of each layer."""
        found, width = [], self.net.n_inputs
        for layer in self.net.layers:
            width = getattr(layer, "units", width)
            found.append((layer.kind, width))
        return found


def some_layer(rng: np.random.Generator) -> layers.Layer:
    """Any layer but a dense one."""
    affine = bool(rng.integers(4))
    kind = rng.integers(5)
    if kind == 0:
        momentum = float(rng.choice([0.1, 0.5, 1.0]))
        return layers.BatchNorm(momentum, float(rng.choice([1e-5, 1e-2])), affine)
    if kind == 1:
        return layers.LayerNorm(float(rng.choice([1e-5, 1e-2])), affine)
    if kind == 2:
        return layers.RMSNorm([None, 1e-6, 1e-2][rng.integers(3)], affine)
    if kind == 3:
        return layers.Dropout(float(rng.choice([0.0, 0.1, 0.5, 0.9])))
    return layers.Activation(ACTIVATIONS[rng.integers(len(ACTIVATIONS))])


def architecture(
    seed: int, rng: np.random.Generator, n_outputs: int, max_units: int
) -> list[layers.Layer]:
    """1 to 6 dense layers, what else there is before, between and after them."""
    depth = 1 + seed % 6
    found: list[layers.Layer] = []
    if rng.integers(4) == 0:
        found.append(some_layer(rng))
    for i in range(depth):
        last = i == depth - 1
        activation = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
        if last and rng.integers(3):
            activation = activations.Identity()
        found.append(
            layers.Dense(
                n_outputs if last else int(rng.integers(1, max_units + 1)),
                activation if rng.integers(2) else _name_if_default(activation),
                bias=bool(rng.integers(5)),
                l2=[None, None, 0.0, 0.1][rng.integers(4)],
            )
        )
        if rng.integers(4 if last else 2) == 0:
            found.append(some_layer(rng))
    return found


def _name_if_default(activation: activations.Activation) -> Any:
    default = activations.NAMED[activation.name] == activation
    return activation.name if default else activation


def targets(
    loss: losses.Loss, n_rows: int, n_outputs: int, dtype: Any, rng: Any
) -> Any:
    """Targets in one of the forms that the loss takes."""
    shape = (n_rows, n_outputs)
    if isinstance(loss, losses.SoftmaxCrossEntropy):
        labels = rng.integers(0, n_outputs, n_rows)
        form = rng.integers(3)
        if form == 0:
            return labels
        if form == 1:
            return np.eye(n_outputs, dtype=dtype)[labels]
        soft = rng.dirichlet(np.ones(n_outputs), n_rows).astype(dtype)
        return soft
    if isinstance(loss, losses.BinaryCrossEntropy):
        y = rng.uniform(size=shape)
        return (y > 0.5) if rng.integers(2) else y.astype(dtype)
    if isinstance(loss, losses.Poisson):
        return rng.poisson(2.0, shape)
    y = rng.standard_normal(shape).astype(dtype)
    if n_outputs == 1 or (loss.quantiles and rng.integers(2)):
        return y[:, 0]
    return y


def problem(
    seed: int,
    dtype: Any,
    attempt: int = 0,
    max_units: int = 24,
    training: bool | None = None,
) -> Problem:
    """The problem of this number; another `attempt` has other numbers in it."""
    rng = np.random.default_rng([seed, 4])
    loss = LOSSES[seed % len(LOSSES)]
    n_outputs = int(rng.integers(2 if "softmax" in loss.name else 1, 6))
    if loss.quantiles:
        n_outputs = len(loss.quantiles)
    net = fanin.Network(
        int(rng.integers(1, 13)),
        architecture(seed, rng, n_outputs, max_units),
        loss=loss if rng.integers(2) else _loss_name_if_default(loss),
        l2=float(rng.choice([0.0, 0.0, 0.01])),
        dtype=dtype,
        rng=np.random.default_rng([seed, attempt]),
    )
    drawn = bool(rng.integers(2))
    training = drawn if training is None else training
    n_rows = int(rng.choice([1, 2, 3, 7, 20, 33, 70]))
    kinds = {layer.kind for layer in net.layers}
    if n_rows == 1 and training and "batch_norm" in kinds:
        n_rows = 2

    rng = np.random.default_rng([seed, attempt, 5])
    # Nothing at the values it starts from; weights near those of the fan-in rule.
    for name, array in net.named_parameters().items():
        if name.endswith("weight"):
            array *= rng.uniform(0.7, 1.3)
        elif name.endswith("gamma"):
            array[...] = rng.uniform(0.5, 1.5, array.shape) * rng.choice([-1, 1])
        else:
            array[...] = rng.normal(0.0, 0.5, array.shape)
    for name, array in net.named_buffers().items():
        if name.endswith("mean"):
            array[...] = rng.normal(0.0, 0.3, array.shape).astype(dtype)
        else:
            array[...] = rng.uniform(0.5, 2.0, array.shape).astype(dtype)
    X = rng.standard_normal((n_rows, net.n_inputs)).astype(dtype)
    if rng.integers(2):
        X = np.asfortranarray(X)
    weight = None
    if rng.integers(2):
        weight = rng.uniform(0.2, 2.0, n_rows)
        weight[1:][rng.uniform(size=n_rows - 1) < 0.2] = 0.0
    y = targets(loss, n_rows, n_outputs, dtype, rng)
    return Problem(net, X, y, weight, training)


def _loss_name_if_default(loss: losses.Loss) -> Any:
    return loss.name if losses.get(loss.name) == loss else loss
