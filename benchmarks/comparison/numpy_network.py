"""A network of dense ReLU layers with softmax cross-entropy, by hand in NumPy.

As someone who knows NumPy writes it for speed: one flat parameter vector, so that
an update is a few calls whatever the number of layers, results into arrays that are
kept from step to step, no gradient of the first layer's input.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np


class NumpyNetwork:
    """Parameters in the order of `fanin.Network`: weight (n_in, n_out), then bias."""

    def __init__(self, sizes: list[int], dtype: Any) -> None:
        self.sizes = sizes
        self.shapes = list(pairwise(sizes))
        n_parameters = sum(i * o + o for i, o in self.shapes)
        self.theta = np.zeros(n_parameters, dtype)
        self.gradient = np.zeros(n_parameters, dtype)
        self.layers = self.views(self.theta)
        self.gradients = self.views(self.gradient)
        self.reset()
        self._batch = -1

    def views(self, vector: Any) -> list[tuple[Any, Any]]:
        found, at = [], 0
        for n_in, n_out in self.shapes:
            weight = vector[at : at + n_in * n_out].reshape(n_in, n_out)
            at += n_in * n_out
            found.append((weight, vector[at : at + n_out]))
            at += n_out
        return found

    def reset(self) -> None:
        self.t = 0
        self.first = np.zeros_like(self.theta)
        self.second = np.zeros_like(self.theta)
        self.scratch = np.empty_like(self.theta)
        self.scratch_2 = np.empty_like(self.theta)

    def _reserve(self, n_rows: int) -> None:
        if n_rows != self._batch:
            dtype = self.theta.dtype
            self.Z = [np.empty((n_rows, n), dtype) for n in self.sizes[1:]]
            self.D = [np.empty((n_rows, n), dtype) for n in self.sizes[1:]]
            self.mask = [np.empty((n_rows, n), bool) for n in self.sizes[1:]]
            self.rows = np.arange(n_rows)
            self._batch = n_rows

    def forward(self, X: Any) -> Any:
        self._reserve(len(X))
        A = X
        last = len(self.layers) - 1
        for i, ((weight, bias), Z) in enumerate(zip(self.layers, self.Z, strict=True)):
            np.matmul(A, weight, out=Z)
            Z += bias
            if i < last:
                np.maximum(Z, 0, out=Z)
            A = Z
        return A

    def loss(self, X: Any, y: Any) -> float:
        Z = self.forward(X)
        Z -= Z.max(axis=1, keepdims=True)
        picked = Z[self.rows, y]
        np.exp(Z, out=Z)
        return float((np.log(Z.sum(axis=1)) - picked).mean())

    def loss_and_gradient(self, X: Any, y: Any) -> tuple[float, Any]:
        Z = self.forward(X)
        D = self.D[-1]
        np.subtract(Z, Z.max(axis=1, keepdims=True), out=D)
        picked = D[self.rows, y]
        np.exp(D, out=D)
        total = D.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - picked).mean())
        D /= total
        D[self.rows, y] -= 1
        D /= len(X)
        for i in range(len(self.layers) - 1, -1, -1):
            A = self.Z[i - 1] if i else X
            d_weight, d_bias = self.gradients[i]
            np.matmul(A.T, D, out=d_weight)
            D.sum(axis=0, out=d_bias)
            if i:
                below = self.D[i - 1]
                np.matmul(D, self.layers[i][0].T, out=below)
                np.greater(A, 0, out=self.mask[i - 1])
                below *= self.mask[i - 1]
                D = below
        return loss, self.gradient

    def adam_step(self, X: Any, y: Any, rate: float) -> float:
        loss, g = self.loss_and_gradient(X, y)
        self.t += 1
        step, other = self.scratch, self.scratch_2
        self.first *= 0.9
        np.multiply(g, 1 - 0.9, out=step)
        self.first += step
        self.second *= 0.999
        np.multiply(g, g, out=step)
        step *= 1 - 0.999
        self.second += step
        np.sqrt(self.second, out=step)
        step /= math.sqrt(1 - 0.999**self.t)
        step += 1e-8
        np.divide(self.first, step, out=other)
        other *= rate / (1 - 0.9**self.t)
        self.theta -= other
        return loss

    def sgd_step(self, X: Any, y: Any, rate: float) -> float:
        loss, g = self.loss_and_gradient(X, y)
        np.multiply(g, rate, out=self.scratch)
        self.theta -= self.scratch
        return loss


class BareProducts:
    """The matrix products of forward and backward alone, into arrays that exist."""

    def __init__(self, network: NumpyNetwork, X: Any, *, backward: bool) -> None:
        self.calls = []
        A = X
        rng = np.random.default_rng(2)
        deltas = [
            rng.standard_normal((len(X), n)).astype(X.dtype) for n in network.sizes[1:]
        ]
        for i, (weight, _) in enumerate(network.layers):
            Z = np.zeros_like(deltas[i])
            self.calls.append((A, weight, Z))
            if backward:
                self.calls.append((A.T, deltas[i], np.empty_like(weight)))
                if i:
                    self.calls.append((deltas[i], weight.T, np.empty_like(A)))
            A = Z

    def __call__(self) -> None:
        for left, right, out in self.calls:
            np.matmul(left, right, out=out)
