"""The rows of `fanin.initializers`: each distribution at ten million weights."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from comparison.model import CONFIDENCE, Contender, Contenders, Row, Session, require
from fanin.initializers import he_normal, he_uniform, variance_scaling

DISTRIBUTIONS = ("normal", "uniform", "truncated_normal")
# The standard deviation of a standard normal cut off at 2.
TRUNCATED_STD = 0.8796256610342398


def moments_of(distribution: str) -> tuple[float, float, float]:
    """Return E z^4, E z^8 and the support's end, z having variance 1."""
    if distribution == "normal":
        return 3.0, 105.0, math.inf
    if distribution == "uniform":
        return 9 / 5, 9.0, math.sqrt(3)
    # By parts: E z^k = (k - 1) E z^(k - 2) - 2^(k - 1) phi(2) / (Phi(2) - 1/2).
    edge = math.exp(-2) / math.sqrt(2 * math.pi) / (math.erf(math.sqrt(2)) / 2)
    raw = [1.0]
    for k in (2, 4, 6, 8):
        raw.append((k - 1) * raw[-1] - 2 ** (k - 1) * edge)
    v = TRUNCATED_STD**2
    return raw[2] / v**2, raw[4] / v**4, 2 / TRUNCATED_STD


def check_moments(fan_in: int, dtype: Any, distribution: str, W: Any) -> None:
    """Hold the first four moments against those of variance 2 / fan_in.

    The sample moments of n numbers of unit variance have variances 1/n (mean),
    (E z^4 - 1)/n (mean square) and (E z^8 - (E z^4)^2)/n (mean fourth power).
    """
    z = np.asarray(W, np.float64).ravel() * math.sqrt(fan_in / 2)
    n = z.size
    fourth, eighth, end = moments_of(distribution)
    square = z * z
    for what, error, variance in [
        ("mean", abs(z.mean()), 1.0),
        ("variance", abs(square.mean() - 1), fourth - 1),
        ("fourth moment", abs((square @ square) / n - fourth), eighth - fourth**2),
    ]:
        require(float(error), CONFIDENCE * math.sqrt(variance / n), what)
    require(float(np.abs(z).max()), end * (1 + 8 * float(np.finfo(dtype).eps)), "range")


def numpy_draw(
    generator: np.random.Generator, shape: Any, dtype: Any, distribution: str
) -> Any:
    """Return weights of variance 2 / shape[0] from NumPy's Generator."""
    std = math.sqrt(2 / shape[0])
    if distribution == "uniform":
        W = generator.random(shape, dtype)
        W -= dtype(0.5)
        W *= dtype(2 * math.sqrt(3) * std)
        return W
    W = generator.standard_normal(shape, dtype)
    if distribution == "truncated_normal":
        # What lies beyond is drawn again.
        flat = W.reshape(-1)
        beyond = np.flatnonzero(np.abs(flat) > 2)
        while beyond.size:
            again = generator.standard_normal(beyond.size, dtype)
            flat[beyond] = again
            beyond = beyond[np.abs(again) > 2]
        std /= TRUNCATED_STD
    W *= dtype(std)
    return W


def initialize(
    n_in: int, n_out: int, dtype: Any, distribution: str, session: Session
) -> Contenders:
    check = partial(check_moments, n_in, dtype, distribution)
    shape = (n_in, n_out)
    target = np.empty(shape, dtype)
    std = math.sqrt(2 / n_in)
    truncated = partial(variance_scaling, scale=2.0, distribution="truncated_normal")
    ours = {"normal": he_normal, "uniform": he_uniform, "truncated_normal": truncated}
    yield "floor", Contender(lambda: target.fill(1.0))
    yield (
        "fanin",
        Contender(lambda: ours[distribution](shape, rng=1, dtype=dtype), check),
    )
    generator = np.random.default_rng(1)
    draw = partial(numpy_draw, generator, shape, dtype, distribution)
    yield "NumPy", Contender(draw, check)
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        init = torch.nn.init
        kind = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
        parent = std / TRUNCATED_STD
        fill = {
            "normal": partial(init.kaiming_normal_, nonlinearity="relu"),
            "uniform": partial(init.kaiming_uniform_, nonlinearity="relu"),
            "truncated_normal": partial(
                init.trunc_normal_, std=parent, a=-2 * parent, b=2 * parent
            ),
        }[distribution]

        def kaiming() -> Any:
            return fill(torch.empty(n_out, n_in, dtype=kind))

        yield "PyTorch", Contender(kaiming, lambda W: check(W.numpy()))
    if session.has("JAX"):
        jax = session["JAX"]
        # jax.nn.initializers.he_normal draws a truncated normal.
        limit = math.sqrt(3) * std
        by = {
            "normal": lambda key: std * jax.random.normal(key, shape, dtype),
            "uniform": lambda key: jax.random.uniform(key, shape, dtype, -limit, limit),
            "truncated_normal": jax.nn.initializers.he_normal(),
        }[distribution]
        if distribution == "truncated_normal":
            compiled = jax.jit(lambda key: by(key, shape, dtype))
        else:
            compiled = jax.jit(by)
        key = jax.random.key(1)
        yield "JAX", Contender(lambda: compiled(key).block_until_ready(), check)


def rows() -> list[Row]:
    names = {
        "normal": "he_normal",
        "uniform": "he_uniform",
        "truncated_normal": "variance_scaling truncated_normal",
    }
    return [
        Row(
            f"{names[distribution]} 1000×10,000 (10⁷ weights) {dtype.__name__}",
            partial(initialize, 1000, 10_000, dtype, distribution),
            "floor: fill with a constant",
        )
        for distribution in DISTRIBUTIONS
        for dtype in (np.float32, np.float64)
    ]
