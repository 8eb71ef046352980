"""Results of 16 MiB and more are written past the cache, in whole lines.

The bits must be those of the plain stores that smaller results get, and nothing
beside the result may be touched.
"""

from __future__ import annotations

import numpy as np
import pytest

import fanin

BYTES = 17 * 2**20  # a bit more than where it begins
GUARD = 9.5


def guarded(shape, dtype, order, shift):
    """Return (memory, view): a result `shift` elements into memory full of GUARD."""
    size = int(np.prod(shape))
    memory = np.full(size + 64, GUARD, dtype)
    return memory, memory[shift : shift + size].reshape(shape, order=order)


@pytest.mark.parametrize("shift", [0, 1, 7])
@pytest.mark.parametrize("columns", [1, 3, 50, 77, 1300])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_are_those_of_small_parts(dtype, order, columns, shift) -> None:
    rows = BYTES // (columns * np.dtype(dtype).itemsize)
    rng = np.random.default_rng(columns)
    X = np.asarray(rng.standard_normal((rows, columns), dtype), order=order)
    X += 3
    mean, std = rng.standard_normal(columns), rng.uniform(0.5, 2, columns)
    std[0] = 0.0
    memory, out = guarded(X.shape, dtype, order, shift)
    for forward in (True, False):
        if forward:
            assert fanin.standardize(X, mean=mean, std=std, out=out) is out
        else:
            assert fanin.unstandardize(X, mean, std, out=out) is out
        assert (memory[:shift] == GUARD).all()
        assert (memory[shift + out.size :] == GUARD).all()
        step = rows // 7 + 1
        for start in range(0, rows, step):
            part = X[start : start + step]
            if forward:
                wanted = fanin.standardize(part, mean=mean, std=std, n_threads=1)
            else:
                wanted = fanin.unstandardize(part, mean, std, n_threads=1)
            assert np.array_equal(out[start : start + step], wanted)


@pytest.mark.parametrize("columns", [4, 33, 700])
@pytest.mark.parametrize("view", ["rows", "columns", "both"])
def test_views_with_gaps(view, columns) -> None:
    rows = BYTES // (columns * 4)
    rng = np.random.default_rng(1)
    r, c = 1 + (view != "columns"), 1 + (view != "rows")
    base = rng.standard_normal((rows * r, columns * c), np.float32)
    X = base[::r, ::c]
    kept = base.copy()
    plain = np.ascontiguousarray(X)
    m = fanin.moments(plain)
    wanted = fanin.standardize(plain, mean=m.mean, std=m.std)
    assert np.array_equal(fanin.standardize(X, mean=m.mean, std=m.std), wanted)
    assert np.array_equal(base, kept)
    # Into the gaps of an array, and in place: what lies between stays.
    assert fanin.standardize(X, mean=m.mean, std=m.std, out=X) is X
    assert np.array_equal(X, wanted)
    base[::r, ::c] = kept[::r, ::c]
    assert np.array_equal(base, kept)


@pytest.mark.parametrize("order", ["C", "F"])
def test_in_place(order) -> None:
    X = np.random.default_rng(2).standard_normal((BYTES // 80, 20), np.float32)
    X = np.asarray(X, order=order)
    wanted = fanin.standardize(X)
    assert fanin.standardize(X, out=X) is X
    assert np.array_equal(X, wanted)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_block_grid_meets_the_end_of_any_shape(dtype, order) -> None:
    """Reading ahead may go beyond the array; computing may not."""
    rng = np.random.default_rng(3)
    for rows, columns in [(16, 9), (17, 70), (4097, 3), (33, 513), (1000, 31)]:
        memory = np.full(rows * columns + 200, np.inf, dtype)
        X = memory[100 : 100 + rows * columns].reshape(rows, columns, order=order)
        X[...] = rng.standard_normal(X.shape)
        m = fanin.moments(X)
        wide = X.astype(np.longdouble)
        np.testing.assert_allclose(m.mean, wide.mean(axis=0).astype(float), atol=1e-15)
        np.testing.assert_allclose(m.var, wide.var(axis=0).astype(float), rtol=1e-14)
