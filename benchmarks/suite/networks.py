"""Training steps, forward and backward, and prediction."""

from __future__ import annotations

import numpy as np

import fanin

SMALL, MIDDLE, WIDE = (64, 100, 10), (784, 256, 128, 10), (784, 1024, 1024, 10)


def make_network(sizes: tuple[int, ...]) -> fanin.Network:
    hidden = [fanin.layers.Dense(n, activation="relu") for n in sizes[1:-1]]
    layers = [*hidden, fanin.layers.Dense(sizes[-1])]
    return fanin.Network(sizes[0], layers, loss="softmax_cross_entropy", rng=3)


def make_batch(sizes: tuple[int, ...], n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((n_rows, sizes[0]), np.float32)
    return X, rng.integers(0, sizes[-1], n_rows)


def check_forward(net: fanin.Network, X: np.ndarray) -> None:
    """Hold the logits against float64: sums of n products lose sqrt(n) u each."""
    A = X.astype(np.float64)
    arrays = net.named_parameters()
    for i in range(len(net.layers)):
        A = A @ arrays[f"dense{i}.weight"] + arrays[f"dense{i}.bias"]
        if i < len(net.layers) - 1:
            A = np.maximum(A, 0)
    n = max(net.n_inputs, *(layer.units for layer in net.layers))
    allowed = 8 * np.sqrt(n) * len(net.layers) * np.finfo(np.float32).eps
    error = np.abs(net.forward(X) - A).max() / np.abs(A).max()
    assert error <= allowed, (error, allowed)


def check_gradient(net: fanin.Network, X: np.ndarray, y: np.ndarray) -> None:
    """Hold the gradient's slope along itself against the losses on both sides."""
    wide = make_wide(net)
    _, g = net.loss_and_gradient(X, y)
    direction = g.astype(np.float64) / np.linalg.norm(g)
    theta = wide.parameters.copy()
    step = 1e-5
    losses = []
    for sign in (1, -1):
        wide.parameters = theta + sign * step * direction
        losses.append(wide.loss(X, y))
    slope = (losses[0] - losses[1]) / (2 * step)
    # Units whose ReLU flips within the step: sqrt(step) of the slope, at most.
    assert abs(slope / np.linalg.norm(g) - 1) <= np.sqrt(step), slope


def make_wide(net: fanin.Network) -> fanin.Network:
    wide = fanin.Network(
        net.n_inputs, net.layers, loss=net.loss_function, dtype=np.float64, rng=0
    )
    wide.parameters = net.parameters
    return wide


class Step:
    params = ([(SMALL, 32), (SMALL, 200), (MIDDLE, 128)], ["SGD", "Adam"])
    param_names = ("network and batch", "optimizer")

    def setup(self, case: tuple[tuple[int, ...], int], optimizer: str) -> None:
        sizes, n_rows = case
        self.net = make_network(sizes)
        self.X, self.y = make_batch(sizes, n_rows)
        check_gradient(self.net, self.X, self.y)
        # So small a rate that the parameters stay where they are while asv repeats.
        self.optimizer = getattr(fanin.optimizers, optimizer)(1e-9)

    def time_train_step(self, *_: object) -> None:
        self.net.train_step(self.X, self.y, self.optimizer)


class ForwardBackward:
    params = ([(SMALL, 32), (MIDDLE, 128), (WIDE, 256)],)
    param_names = ("network and batch",)

    def setup(self, case: tuple[tuple[int, ...], int]) -> None:
        sizes, n_rows = case
        self.net = make_network(sizes)
        self.X, self.y = make_batch(sizes, n_rows)
        check_gradient(self.net, self.X, self.y)
        self.out = np.empty_like(self.net.parameters)

    def time_loss(self, _: object) -> None:
        self.net.loss(self.X, self.y)

    def time_loss_and_gradient(self, _: object) -> None:
        self.net.loss_and_gradient(self.X, self.y, out=self.out)


class Predict:
    params = ([(64, 32, 10), MIDDLE], [1, 1024])
    param_names = ("network", "rows")

    def setup(self, sizes: tuple[int, ...], n_rows: int) -> None:
        self.net = make_network(sizes)
        self.X, _ = make_batch(sizes, n_rows)
        check_forward(self.net, self.X)

    def time_forward(self, *_: object) -> None:
        self.net.forward(self.X)

    def time_predict(self, *_: object) -> None:
        self.net.predict(self.X)
