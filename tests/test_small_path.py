"""One short array through stored parameters: the path that checks and computes at once.

It must be the long path in everything but time.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference

import fanin
from fanin._kernels import _normalize


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def arguments(rng, shape, dtype):
    X = (rng.standard_normal(shape) * 3 + 7).astype(dtype)
    mean = rng.standard_normal(shape[1:])
    std = rng.uniform(0.5, 2.0, shape[1:])
    std.reshape(-1)[::3] = 0.0
    return X, mean, std


SHAPES = [(1, 64), (1, 1), (5,), (3, 0), (300, 20), (7, 1024), (2, 1025), (4, 3, 5)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("constant", ["keep", "zero"])
def test_bits_are_those_of_the_long_path(rng, shape, dtype, constant) -> None:
    X, mean, std = arguments(rng, shape, dtype)
    given = {"mean": mean, "std": std, "constant": constant}
    # One thread asked for, or a list of axes, leads the long way round.
    wanted = fanin.standardize(X, **given, n_threads=1)
    assert fanin.standardize(X, **given, axis=(0,)).tobytes() == wanted.tobytes()
    found = fanin.standardize(X, **given)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()
    out = np.full_like(X, 9)
    assert fanin.standardize(X, **given, out=out) is out
    assert out.tobytes() == wanted.tobytes()
    place = X.copy()
    assert fanin.standardize(place, **given, out=place) is place
    assert place.tobytes() == wanted.tobytes()
    back = fanin.unstandardize(wanted, mean, std)
    assert back.tobytes() == fanin.unstandardize(wanted, mean, std, axis=(0,)).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("zero", "inverse"), [(False, False), (True, False), (0, 1)])
def test_kernel_agrees_with_its_twin(rng, dtype, zero, inverse) -> None:
    X, mean, std = arguments(rng, (6, 40), dtype)
    found = _normalize.normalize_small(None, X, mean, std, zero, inverse)
    wanted = reference.normalize_small(None, X, mean, std, zero, inverse)
    # Two roundings in double and one to the result's type.
    np.testing.assert_allclose(found, wanted, rtol=4 * np.finfo(dtype).eps, atol=1e-15)


def refused(rng):
    X, mean, std = arguments(rng, (4, 6), np.float64)
    grid = np.zeros((9, 12))
    negative, huge, tiny = std.copy(), mean.copy(), std.copy()
    negative[1], huge[2], tiny[3] = -1.0, 1e301, 1e-300
    return {
        "a list": (None, X.tolist(), mean, std),
        "integers": (None, X.astype(int), mean, std),
        "a matrix": (None, X.view(np.matrix), mean, std),
        "byte-swapped": (None, X.astype(">f8"), mean, std),
        "Fortran order": (None, np.asfortranarray(X), mean, std),
        "rows with gaps": (None, grid[:4, :6], mean, std),
        "0-d": (None, X[0, 0, ...], mean[0, ...], std[0, ...]),
        "empty": (None, X[:0], mean, std),
        "too many": (None, np.zeros((32_769, 1)), mean[:1], std[:1]),
        "too wide": (None, np.zeros((1, 1025)), np.zeros(1025), np.ones(1025)),
        "a number for mean": (None, X, 1.0, std),
        "another shape": (None, X, mean[:5], std),
        "float32 mean": (None, X, mean.astype(np.float32), std),
        "mean with gaps": (None, X, np.zeros(12)[::2], std),
        "negative std": (None, X, mean, negative),
        "huge mean": (None, X, huge, std),
        "tiny std": (None, X, mean, tiny),
        "float32 out": (np.zeros((4, 6), np.float32), X, mean, std),
        "out of another shape": (np.zeros((6, 4)), X, mean, std),
        "out with gaps": (grid[:4, :6], X, mean, std),
        "out that is no array": ([], X, mean, std),
        "out overlapping X": (grid[:5].reshape(-1)[1:25].reshape(4, 6),
                              grid[:2].reshape(4, 6), mean, std),
        "out over mean": (grid[:2].reshape(4, 6), X, grid[0, :6], std),
        "out over std": (grid[:2].reshape(4, 6), X, mean, grid[0, :6] + 0.0),
    }  # fmt: skip


def test_what_is_not_simple_is_left_to_the_long_path(rng) -> None:
    cases = refused(rng)
    out, X, mean, std = cases["out over std"]
    std = out.reshape(-1)[6:12]
    std[:] = 1.0
    cases["out over std"] = (out, X, mean, std)
    readonly = np.zeros((4, 6))
    readonly.flags.writeable = False
    cases["read-only out"] = (readonly, X, mean, np.ones(6))
    taken = [
        name
        for name, arguments in cases.items()
        if _normalize.normalize_small(*arguments, False, False) is not None
    ]
    assert taken == []
    # The same array but for what is wrong is taken.
    X, mean, std = arguments(rng, (4, 6), np.float64)
    assert _normalize.normalize_small(None, X, mean, std, False, False) is not None
    assert _normalize.normalize_small(X, X, mean, std, False, False) is X


def test_errors_and_extremes_are_those_of_the_long_path(rng) -> None:
    X, mean, std = arguments(rng, (2, 3), np.float64)
    with pytest.raises(ValueError, match=r"std must not be negative; got -1\.0"):
        fanin.standardize(X, mean=mean, std=-np.ones(3))
    with pytest.raises(ValueError, match="mean must have shape"):
        fanin.standardize(X, mean=mean[:2], std=std)
    X.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        fanin.standardize(X, mean=mean, std=std, out=X)
    Z = fanin.standardize(np.full((1, 1), 3e300), mean=np.array([1e300]),
                          std=np.array([2e300]))  # fmt: skip
    assert Z == 1.0
    std[0] = np.nan
    assert (
        np.isnan(fanin.standardize(X, mean=mean, std=std)).tolist()
        == [[True, False, False]] * 2
    )


def test_options_are_still_checked(rng) -> None:
    X, mean, std = arguments(rng, (2, 3), np.float64)
    for wrong in (
        {"nan_policy": "drop"},
        {"constant": "remove"},
        {"ddof": -1},
        {"axis": 5},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fanin.standardize(X, mean=mean, std=std, **wrong)
    with pytest.raises(TypeError, match="axis"):
        fanin.standardize(X, mean=mean, std=std, axis=0.0)
    with pytest.raises(TypeError, match="axis"):
        fanin.standardize(X, mean=mean, std=std, axis=False)
    with pytest.raises(TypeError, match="ddof"):
        fanin.standardize(X, mean=mean, std=std, ddof="1")
