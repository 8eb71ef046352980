"""The row of `fanin.initializers.he_normal`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from comparison.model import CONFIDENCE, Contender, Contenders, Row, Session, require
from fanin.initializers import he_normal


def check_normal(fan_in: int, W: Any) -> None:
    """Hold the first four moments against those of N(0, 2 / fan_in).

    The sample moments of n normal numbers have variances 1/n, 2/n and 96/n (mean,
    mean square, mean fourth power, of unit scale).
    """
    z = np.asarray(W, np.float64).ravel() * math.sqrt(fan_in / 2)
    n = z.size
    square = z * z
    for what, error, variance in [
        ("mean", abs(z.mean()), 1.0),
        ("variance", abs(square.mean() - 1), 2.0),
        ("fourth moment", abs((square @ square) / n - 3), 96.0),
    ]:
        require(float(error), CONFIDENCE * math.sqrt(variance / n), what)


def initialize(n_in: int, n_out: int, session: Session) -> Contenders:
    check = partial(check_normal, n_in)
    shape = (n_in, n_out)
    target = np.empty(shape, np.float32)
    std = math.sqrt(2 / n_in)
    yield "floor", Contender(lambda: target.fill(1.0))
    yield "fanin", Contender(lambda: he_normal(shape, rng=1, dtype=np.float32), check)
    generator = np.random.default_rng(1)

    def numpy_normal() -> Any:
        W = generator.standard_normal(shape, np.float32)
        W *= np.float32(std)
        return W

    yield "NumPy", Contender(numpy_normal, check)
    if session.has("PyTorch"):
        torch = session["PyTorch"]

        def kaiming() -> Any:
            W = torch.empty(n_out, n_in)
            return torch.nn.init.kaiming_normal_(W, nonlinearity="relu")

        yield "PyTorch", Contender(kaiming, lambda W: check(W.numpy()))
    if session.has("JAX"):
        jax = session["JAX"]
        # jax.nn.initializers.he_normal draws a truncated normal.
        draw = jax.jit(lambda key: std * jax.random.normal(key, shape, np.float32))
        key = jax.random.key(1)
        yield "JAX", Contender(lambda: draw(key).block_until_ready(), check)


def rows() -> list[Row]:
    return [
        Row(
            "he_normal 1000×10,000 (10⁷ weights) float32",
            partial(initialize, 1000, 10_000),
            "floor: fill with a constant",
        )
    ]
