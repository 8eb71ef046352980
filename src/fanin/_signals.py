"""What the signals of a network are like, layer by layer, from one pass over the data.

Design: the plan takes the statistics of every output and of every gradient with
respect to it while the pass goes (_kernels/_signals.pyx), so that nothing of a layer
is kept but five numbers for each unit and the outputs for some thousand samples,
which show how the values are distributed and how many directions they fill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _threads
from fanin import _validation as check
from fanin._kernels import _signals
from fanin.activations import Activation
from fanin.activations import get as get_activation

if TYPE_CHECKING:
    from fanin.layers import Layer
    from fanin.network import Network

__all__ = [
    "LayerSignal",
    "Measurement",
    "UnitStatistics",
    "flat_bounds",
    "measure",
    "observe",
]

# Rows whose outputs are kept: enough for a histogram, and a rank to within 1 / 1024.
SAMPLED = 1024

# Numbers of the gradient at the output, about, where there are no targets.
RANDOM = 1 << 18

# A value is flat where the slope is less than this share of the function's largest.
FLAT = 0.05

# The z below which a function's slope is flat, to all digits of a double; the
# largest slopes are 1.0998, 1.1289 and 1.1290.
FLAT_BELOW = {
    "silu": -3.929897316096650,
    "gelu": -2.278560693803556,
    "gelu_tanh": -2.285700066266314,
}
# selu(z) + lambda alpha is its slope for z < 0; its largest is lambda alpha.
SELU_LIMIT = 1.7580993408473766

# A bound that is NaN is none.
NONE = math.nan
NOWHERE = (NONE, NONE, False)


@dataclass
class UnitStatistics:
    """What the columns (units) of an array (n_samples, n_units) are like.

    `std` is the standard deviation over samples, by n; `largest` the largest magnitude,
    NaN if there is a NaN.
    """

    n: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    flat: NDArray[np.int64]
    zero: NDArray[np.int64]
    largest: NDArray[np.float64]

    def sizes(self) -> tuple[float, float, float]:
        """Return three numbers of all values, of any magnitude.

        Their root mean square, their standard deviation, and the root mean square over
        units of the standard deviation over samples; of values that are not finite,
        the largest of them and NaN.
        """
        unit = float(np.max(self.largest, initial=0.0))
        if unit == 0.0:
            return 0.0, 0.0, 0.0
        if not math.isfinite(unit):
            return unit, math.nan, math.nan
        mean, std = self.mean / unit, self.std / unit
        samples = float(np.mean(std * std))
        return (
            unit * math.sqrt(samples + float(np.mean(mean * mean))),
            unit * math.sqrt(samples + float(np.var(mean))),
            unit * math.sqrt(samples),
        )

    def rms(self) -> float:
        """Return the root mean square of all values."""
        return self.sizes()[0]


@dataclass
class LayerSignal:
    """The signals of one layer: its output, and the gradient before its activation.

    There is no such gradient of dropout in inference, which takes no part in a pass.
    """

    name: str
    layer: Layer
    activation: Activation | None
    forward: UnitStatistics
    backward: UnitStatistics | None
    sample: NDArray[Any]


@dataclass
class Measurement:
    """The signals of a network; `loss` is None if the gradient was a random one."""

    input: UnitStatistics
    layers: list[LayerSignal]
    loss: float | None
    gradient: NDArray[Any]
    n_samples: int


def flat_bounds(activation: Activation | None) -> tuple[float, float, bool]:
    """Return (low, high, on_z): a value is flat if it is <= low or >= high, not NaN.

    The values are the outputs or, with `on_z`, the arguments of a function whose
    output does not tell its slope. Of functions that fanin does not know, and of
    those that are flat nowhere, no value is.
    """
    if activation is None:
        return NOWHERE
    name, parameter = activation.name, activation.parameter
    if name == "tanh":  # the slope is 1 - a^2
        bound = math.sqrt(1 - FLAT)
        return -bound, bound, False
    if name == "logistic":  # a (1 - a), at most 1/4
        half = math.sqrt(1 - FLAT) / 2
        return 0.5 - half, 0.5 + half, False
    if name == "softplus":  # 1 - exp(-a)
        return -math.log1p(-FLAT), NONE, False
    if name == "selu":
        return (FLAT - 1) * SELU_LIMIT, NONE, False
    if name == "elu" and parameter > 0:  # a + alpha below 0, 1 above
        return min(0.0, FLAT * max(1.0, parameter) - parameter), NONE, False
    if name == "elu" and parameter < 0:  # alpha exp(z) below 0
        largest = max(1.0, -parameter)
        return min(0.0, math.log(FLAT * largest / -parameter)), NONE, True
    if name in FLAT_BELOW:
        return FLAT_BELOW[name], NONE, True
    if name == "relu" or (name in ("leaky_relu", "elu") and parameter == 0):
        return 0.0, NONE, False
    return NOWHERE


def _table(n_units: int) -> NDArray[np.float64]:
    return np.zeros((7, n_units))


def _statistics(n: int, table: NDArray[np.float64]) -> UnitStatistics:
    flat, zero = table[2:4].astype(np.int64)
    largest = np.where(table[5] > 0, np.nan, table[4])
    return UnitStatistics(n, table[0] + table[6], table[1], flat, zero, largest)


def observe(
    A: NDArray[Any],
    low: float = NONE,
    high: float = NONE,
    n_threads: int | None = None,
) -> UnitStatistics:
    """Return the statistics of the columns of a real array, read once where it lies."""
    table = _table(A.shape[1])
    _signals.observe(table, A, low, high, _threads.resolve(n_threads))
    return _statistics(A.shape[0], table)


def sampled_rows(n: int) -> NDArray[np.intp]:
    """Return the numbers of at most SAMPLED of n rows, evenly spaced."""
    if n <= SAMPLED:
        return np.arange(n, dtype=np.intp)
    return np.arange(SAMPLED, dtype=np.intp) * n // SAMPLED


def measure(
    network: Network,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    training: bool = False,
    n_threads: int | None = None,
) -> Measurement:
    """Run X through the network and a gradient back, and measure both.

    The gradient is the loss's for `y`; without `y` it is a standard normal one at the
    output, the same each time, divided by the number of samples. With `training`,
    dropout drops and batch normalization takes the batch's statistics. The network
    does not change.
    """
    array = check.samples(X, network.n_inputs)
    n = array.shape[0]
    if n == 0:
        raise ValueError("X has no rows: there is no signal to measure")
    targets: NDArray[Any] | None = None
    dA: NDArray[Any] | None = None
    if y is None:
        # The same rows again and again: of few outputs some thousand.
        some = min(n, max(64, RANDOM // network.n_outputs))
        rng = np.random.default_rng(0)
        dA = rng.standard_normal((some, network.n_outputs), network.dtype)
        dA /= n
    else:
        targets = network.loss_function.targets(y, n, network.n_outputs)
    training = network._training(training, n)
    rows = sampled_rows(n)
    features = _table(network.n_inputs)
    widths: list[int] = []
    functions: list[Activation | None] = []
    for layer in network.layers:
        widths.append(getattr(layer, "units", widths[-1] if widths else array.shape[1]))
        named = getattr(layer, "activation", None)
        functions.append(None if named is None else get_activation(named))
    outputs = [_table(width) for width in widths]
    gradients = [_table(width) for width in widths]
    samples = [np.empty((rows.size, width), network.dtype) for width in widths]
    gradient = np.empty(network.n_parameters, network.dtype)
    loss, bad = network._plan.observe(
        network._parameters,
        array,
        features,
        outputs,
        gradients,
        samples,
        [flat_bounds(function) for function in functions],
        rows,
        gradient,
        targets,
        dA,
        network._state,
        training,
        network._dropout_key,
        network._draw,
        _threads.resolve(n_threads),
    )
    if bad >= 0:
        assert targets is not None
        raise ValueError(network.loss_function.bad_target(targets, bad))
    silent = [not training and layer.kind == "dropout" for layer in network.layers]
    for i in np.flatnonzero(silent):
        # It gives what it gets, and has no place in the pass.
        outputs[i][...] = outputs[i - 1] if i else features
        outputs[i][2] = 0.0  # flat values are the activation's below
        samples[i][...] = samples[i - 1] if i else array[rows]
    layers = [
        LayerSignal(
            f"{layer.kind}{i}",
            layer,
            functions[i],
            _statistics(n, outputs[i]),
            None if silent[i] else _statistics(n, gradients[i]),
            samples[i],
        )
        for i, layer in enumerate(network.layers)
    ]
    return Measurement(_statistics(n, features), layers, loss, gradient, n)
