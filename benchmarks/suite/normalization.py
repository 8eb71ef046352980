"""standardize and moments: time, and the memory that they add to the data's."""

from __future__ import annotations

import numpy as np

import fanin


def make_data(n_samples: int, n_features: int, dtype: str, order: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n_samples, n_features), dtype)
    X *= 2
    X += 3
    return np.asarray(X, order=order)


def check(X: np.ndarray, Z: np.ndarray) -> None:
    """Hold the result's first rows against float64; sums of n terms lose sqrt(n) u."""
    wide = X.astype(np.float64)
    expected = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    sums = 8 * np.sqrt(len(X)) * np.finfo(np.float64).eps
    rounding = 8 * np.finfo(X.dtype).eps
    np.testing.assert_allclose(Z, expected, rtol=0, atol=10 * (sums + rounding))


class Standardize:
    params = (
        [(1_000_000, 50), (100_000, 1000), (1000, 20)],
        ["float32", "float64"],
        ["C", "F"],
    )
    param_names = ("shape", "dtype", "order")

    def setup(self, shape: tuple[int, int], dtype: str, order: str) -> None:
        # The check is of a smaller array of the same kind: asv calls setup often.
        small = make_data(min(shape[0], 5000), shape[1], dtype, order)
        check(small, fanin.standardize(small))
        self.X = make_data(*shape, dtype, order)
        self.out = np.empty_like(self.X)

    def time_standardize(self, *_: object) -> None:
        fanin.standardize(self.X)

    def time_standardize_out(self, *_: object) -> None:
        fanin.standardize(self.X, out=self.out)

    def time_moments(self, *_: object) -> None:
        fanin.moments(self.X)


class Views:
    params = (["every second row", "every second column", "transposed"],)
    param_names = ("view",)

    def setup(self, view: str) -> None:
        if view == "transposed":
            self.X = make_data(50, 500_000, "float32", "C").T
        else:
            data = make_data(500_000, 100, "float32", "C")
            self.X = data[::2] if view == "every second row" else data[:, ::2]
        self.out = np.empty_like(self.X)

    def time_standardize_out(self, *_: object) -> None:
        fanin.standardize(self.X, out=self.out)


class Short:
    """Calls that are short: one row through stored values, and one more row."""

    def setup(self) -> None:
        data = make_data(100, 64, "float64", "C")
        self.m = fanin.moments(data)
        self.row, self.mean, self.std = data[:1], self.m.mean, self.m.std

    def time_stored(self) -> None:
        fanin.standardize(self.row, mean=self.mean, std=self.std)

    def time_update(self) -> None:
        self.m.update(self.row)


class Weighted:
    def setup(self) -> None:
        self.X = make_data(1_000_000, 50, "float32", "C")
        self.weights = np.random.default_rng(2).random(len(self.X))

    def time_moments(self) -> None:
        fanin.moments(self.X, weights=self.weights)


class Layers:
    params = (["layer_norm", "batch_norm", "rms_norm"], [(1_000_000, 50), (32, 64)])
    param_names = ("kind", "shape")

    def setup(self, kind: str, shape: tuple[int, int]) -> None:
        self.X = make_data(*shape, "float32", "C")
        self.out = np.empty_like(self.X)
        self.forward = getattr(fanin, kind)
        self.backward = getattr(fanin, kind + "_backward")
        _, self.saved = self.forward(self.X)

    def time_forward(self, *_: object) -> None:
        self.forward(self.X, out=self.out)

    def time_backward(self, *_: object) -> None:
        self.backward(self.X, self.saved, out=self.out)


class Memory:
    """The peak of a process that holds the data, 200 MB, and works in place."""

    def setup(self) -> None:
        self.X = make_data(1_000_000, 50, "float32", "C")

    def peakmem_data_alone(self) -> None:
        self.X.sum()

    def peakmem_moments(self) -> None:
        fanin.moments(self.X)

    def peakmem_standardize_in_place(self) -> None:
        fanin.standardize(self.X, out=self.X)
