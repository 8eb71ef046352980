"""Gradient checks of every entry, of a network and of a Python function."""

from __future__ import annotations

import numpy as np

import fanin


class Network:
    params = ([(64, 20, 10), (64, 100, 50, 10)], ["increments", "direct"])
    param_names = ("network", "method")
    timeout = 300

    def setup(self, sizes: tuple[int, ...], method: str) -> None:
        hidden = [fanin.layers.Dense(n, activation="tanh") for n in sizes[1:-1]]
        self.net = fanin.Network(
            sizes[0],
            [*hidden, fanin.layers.Dense(sizes[-1])],
            loss="softmax_cross_entropy",
            dtype=np.float64,
            rng=3,
        )
        rng = np.random.default_rng(4)
        self.X = rng.standard_normal((64, sizes[0]))
        self.y = rng.integers(0, sizes[-1], 64)

    def time_check_gradient(self, _: object, method: str) -> None:
        # Checked by itself: the verdict is the result.
        assert self.net.check_gradient(self.X, self.y, method=method).ok


class Million:
    params = (["tanh", "relu"], [1, 2])
    param_names = ("activation", "n_threads")
    timeout = 300

    def setup(self, activation: str, _: int) -> None:
        dense = [fanin.layers.Dense(n, activation) for n in (1024, 256)]
        self.net = fanin.Network(
            784,
            [*dense, fanin.layers.Dense(10)],
            loss="softmax_cross_entropy",
            dtype=np.float64,
            rng=3,
        )
        rng = np.random.default_rng(4)
        self.X = rng.standard_normal((32, 784))
        self.y = rng.integers(0, 10, 32)

    def time_check_gradient(self, _: str, n_threads: int) -> None:
        assert self.net.check_gradient(self.X, self.y, n_threads=n_threads).ok

    def peakmem_check_gradient(self, _: str, n_threads: int) -> None:
        assert self.net.check_gradient(self.X, self.y, n_threads=n_threads).ok


class Function:
    def setup(self) -> None:
        rng = np.random.default_rng(5)
        self.A = rng.standard_normal((50, 200))
        self.params = {"w": rng.standard_normal(200)}

    def loss(self, params: dict[str, np.ndarray]) -> float:
        return float(np.tanh(self.A @ params["w"]).sum())

    def gradient(self, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"w": self.A.T @ (1 - np.tanh(self.A @ params["w"]) ** 2)}

    def time_check_gradient(self) -> None:
        assert fanin.check_gradient(self.loss, self.params, self.gradient).ok
