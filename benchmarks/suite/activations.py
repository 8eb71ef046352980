"""Activation functions over an array larger than a cache."""

from __future__ import annotations

import numpy as np

from fanin import activations


class Apply:
    params = (
        ["relu", "tanh", "logistic", "softplus", "silu", "gelu", "gelu_tanh"],
        ["float32", "float64"],
    )
    param_names = ("activation", "dtype")

    def setup(self, name: str, dtype: str) -> None:
        self.X = np.random.default_rng(1).standard_normal(10_000_000, dtype)
        self.out = np.empty_like(self.X)
        # float32 is held against float64, and that against known values.
        part = self.X[:5000]
        wide = activations.apply(part.astype(np.float64), name)
        limit = 8 * np.finfo(dtype).eps
        found = activations.apply(part, name)
        np.testing.assert_allclose(found, wide, rtol=limit, atol=limit)
        one = {
            "relu": 1.0,
            "tanh": 0.7615941559557649,
            "logistic": 0.7310585786300049,
            "softplus": 1.3132616875182228,
            "silu": 0.7310585786300049,
            "gelu": 0.8413447460685429,
            "gelu_tanh": 0.8411919906082768,
        }
        np.testing.assert_allclose(activations.apply(1.0, name), one[name], rtol=1e-15)

    def time_apply(self, name: str, _: str) -> None:
        activations.apply(self.X, name, out=self.out)

    def time_derivative(self, name: str, _: str) -> None:
        activations.derivative(self.X, name, out=self.out)
