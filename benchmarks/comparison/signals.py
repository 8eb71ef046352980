"""Rows of `fanin.Network.diagnose`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

import fanin
from comparison.model import Contender, Contenders, Row, Session, require, unit_roundoff
from comparison.numpy_network import NumpyNetwork


def by_hand(net: NumpyNetwork, X: Any, y: Any) -> Any:
    """Return what one writes: rms, dead share and gradient norm of each layer."""
    net.loss_and_gradient(X, y)
    found = []
    for A, D in zip(net.Z, net.D, strict=True):
        mean, std = A.mean(axis=0), A.std(axis=0)
        rms = math.sqrt(float((mean**2 + std**2).mean(dtype=np.float64)))
        dead = float((A == 0).all(axis=0).mean())
        norm = math.sqrt(float(np.square(D).sum(axis=1).mean(dtype=np.float64)))
        found.append((rms, dead, norm))
    return found


def check(wanted: Any, dtype: Any, found: Any) -> None:
    """Hold rms, dead shares and norms against float64, layer by layer."""
    a, b = np.array(found), np.array(wanted)
    # Each layer adds some roundings of its products to the values of the next.
    allowed = 64 * len(wanted) * unit_roundoff(dtype)
    relative = np.abs(a - b)[:, [0, 2]] / b[:, [0, 2]]
    # (The output's rms is that of logits, which NumPy's own are not kept of.)
    require(float(relative[:-1].max()), allowed, "rms or gradient norm")
    require(float(np.abs(a - b)[:-1, 1].max()), 0.0, "share of dead units")


def diagnose(sizes: list[int], n_rows: int, session: Session) -> Contenders:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, sizes[0]), np.float32)
    y = rng.integers(0, sizes[-1], n_rows)
    layers = [fanin.layers.Dense(n, "relu") for n in sizes[1:-1]]
    layers.append(fanin.layers.Dense(sizes[-1]))
    net = fanin.Network(sizes[0], layers, loss="softmax_cross_entropy", rng=0)
    exact = NumpyNetwork(sizes, np.float64)
    exact.theta[...] = net.parameters
    wanted = by_hand(exact, X.astype(np.float64), y)
    compare = partial(check, wanted, np.float32)

    def records() -> Any:
        found = net.diagnose(X, y).layers
        return [(r.rms, r.dead, r.backward_norm) for r in found]

    yield "floor", Contender(lambda: net.loss_and_gradient(X, y))
    yield "fanin", Contender(records, compare)
    own = NumpyNetwork(sizes, np.float32)
    own.theta[...] = net.parameters
    yield "NumPy", Contender(lambda: by_hand(own, X, y), compare)


def rows() -> list[Row]:
    sizes = [784, 256, 256, 256, 256, 10]
    return [
        Row(
            "diagnose 784-256-256-256-256-10 relu, 20,000 rows, float32",
            partial(diagnose, sizes, 20_000),
            "floor: forward, loss and backward alone; NumPy: mean, std, dead units and "
            "gradient norms of each layer, no effective rank",
        )
    ]
