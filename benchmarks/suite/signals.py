"""What `Network.diagnose` and `calibrate` add to the passes they are made of."""

from __future__ import annotations

import numpy as np

import fanin


class Signals:
    params = (["float32", "float64"],)
    param_names = ("dtype",)

    def setup(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((5_000, 256)).astype(dtype)
        self.y = rng.integers(0, 10, 5_000)
        layers = [fanin.layers.Dense(256, "relu") for _ in range(8)]
        layers.append(fanin.layers.Dense(10))
        self.network = fanin.Network(
            256, layers, loss="softmax_cross_entropy", dtype=dtype, rng=0
        )
        assert self.network.diagnose(self.X, self.y).healthy

    def time_diagnose(self, *_: object) -> None:
        self.network.diagnose(self.X, self.y)

    def peakmem_diagnose(self, *_: object) -> None:
        self.network.diagnose(self.X, self.y)

    def time_calibrate(self, *_: object) -> None:
        fanin.calibrate(self.network, self.X)
