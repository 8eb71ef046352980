"""Random initializers."""

from __future__ import annotations

import numpy as np

from fanin import initializers


class Fill:
    params = (["he_normal", "he_uniform", "glorot_uniform"], ["float32", "float64"])
    param_names = ("initializer", "dtype")
    shape = (1000, 10_000)

    def setup(self, name: str, dtype: str) -> None:
        self.initialize = getattr(initializers, name)
        self.out = self.initialize(self.shape, rng=1, dtype=dtype)
        n_in, n_out = self.shape
        fan = (n_in + n_out) / 2 if name.startswith("glorot") else n_in
        scale = 1.0 if name.startswith("glorot") else 2.0
        # The sample variance of n draws has a relative deviation of sqrt(2 / n) for
        # a normal, less for a uniform distribution.
        found = np.square(self.out, dtype=np.float64).mean() * fan / scale
        assert abs(found - 1) <= 8 * np.sqrt(2 / self.out.size), found

    def time_fill(self, *_: object) -> None:
        self.initialize(self.shape, rng=1, dtype=self.out.dtype, out=self.out)
