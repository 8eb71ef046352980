"""Weighted moments: repeated rows, dropped rows, digits, layouts, refusals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from test_moments_precision import FOURTEEN_DIGITS, error, root
from test_preprocessing import LAYOUTS, SAME_BITS, tables

import fanin
from fanin._kernels import _moments, _source

# Sums here are of at most a few hundred additions in a row.
ROUNDING = 256 * 2**-53


def exact(column, weights, ddof=0):
    """Mean and variance of the doubles of a column, as fractions."""
    pairs = [
        (Fraction(float(x)), Fraction(float(w)))
        for x, w in zip(column, weights, strict=True)
        if w > 0 and not math.isnan(x)
    ]
    total = sum(w for _, w in pairs)
    mean = sum(w * x for x, w in pairs) / total
    return mean, sum(w * (x - mean) ** 2 for x, w in pairs) / (total - ddof)


def agree(found, wanted, scale):
    """Moments of the same data by another way: to rounding of the data's scale."""
    assert np.array_equal(found.count, wanted.count)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=0, atol=ROUNDING * scale)
    np.testing.assert_allclose(found.var, wanted.var, rtol=FOURTEEN_DIGITS)
    assert np.array_equal(found.constant, wanted.constant)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 5), (40, 1), (3, 700), (2_000, 3), (9_000, 20)])
def test_a_weight_is_a_number_of_repetitions(rng, shape, layout, dtype):
    base = (rng.standard_normal(shape) * 3 + 50).astype(dtype)
    base[rng.random(shape) < 0.02] = np.nan
    base[:, 0] = 0.1
    weights = rng.integers(0, 5, shape[0])
    weights[0] = 2
    X = LAYOUTS[layout](base)
    before = X.tobytes(), weights.tobytes()
    m = fanin.moments(X, weights=weights)
    assert (X.tobytes(), weights.tobytes()) == before
    assert m.count.dtype == np.float64
    agree(m, fanin.moments(np.repeat(base, weights, axis=0)), 60)
    if layout in SAME_BITS:
        assert m == fanin.moments(base, weights=weights)
    assert m.constant[0]
    assert m.mean[0] == dtype(0.1)


@settings(max_examples=200, deadline=None)
@given(
    case=tables(), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["f8", "i2"])
)
def test_any_strides_agree_with_the_twin(case, seed, kind):
    X, axes = case
    rng = np.random.default_rng(seed)
    if X.dtype.kind == "f" and 0 not in X.strides and seed % 2:
        X[rng.random(X.shape) < 0.2] = np.nan
    shape = tuple(X.shape[d] for d in axes)
    weights = np.asarray(rng.random(shape) * 10 * (rng.random(shape) < 0.7), kind)
    kept = tuple(n for d, n in enumerate(X.shape) if d not in axes)
    n = int(np.prod(kept))
    assert _source.row_order(X, axes) == reference.row_order(X, axes)
    order = [axes.index(d) for d in reference.row_order(X, axes)]
    in_rows = weights.transpose(order).astype(np.float64).reshape(-1)
    assert _moments.first_bad_weight(in_rows) == reference.first_bad_weight(in_rows)
    found, e = np.zeros((7, n)), np.zeros(n, np.int32)
    wanted, f = np.zeros((7, n)), np.zeros(n, np.int32)
    # Twice: the second time merges into what there is.
    for _ in range(2):
        _moments.moments_update(found, e, X, axes, in_rows, 2)
        reference.moments_update(wanted, f, X, axes, in_rows, 2)
    assert np.array_equal(e, f)
    np.testing.assert_allclose(found[0], wanted[0], rtol=2**-52)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(found[3], wanted[3], rtol=1e-13, atol=1e-26)
    assert np.array_equal(found[6], wanted[6])
    # The same through the public function, and with X flattened by NumPy.
    m = fanin.moments(X, axis=axes, weights=weights)
    table = np.moveaxis(X, axes, range(len(axes))).reshape(weights.size, n)
    flat = fanin.moments(table, weights=weights.reshape(-1))
    assert m.shape == kept
    np.testing.assert_allclose(np.ravel(m.count), flat.count, rtol=2**-52)
    np.testing.assert_allclose(np.ravel(m.mean), flat.mean, rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(np.ravel(m.var), flat.var, rtol=1e-13, atol=1e-26)


def test_agrees_with_numpy_average(rng):
    X, w = rng.standard_normal((5_000, 30)) + 3, rng.random(5_000)
    m = fanin.moments(X, weights=w, ddof=1)
    mean = np.average(X, axis=0, weights=w)
    np.testing.assert_allclose(m.mean, mean, rtol=1e-13)
    wanted = np.average((X - mean) ** 2, axis=0, weights=w) * w.sum() / (w.sum() - 1)
    np.testing.assert_allclose(m.var, wanted, rtol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [1, 3, 300])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.7e308, -1.7e308])
def test_rows_of_weight_zero_are_not_there(rng, columns, order, bad):
    X = rng.standard_normal((3_000, columns))
    keep = rng.random(3_000) < 0.5
    keep[:10] = False
    weights = np.where(keep, rng.random(3_000), 0.0)
    X[~keep] = bad
    X = np.asarray(X, order=order)
    for policy in ("omit", "propagate", "raise"):
        m = fanin.moments(X, weights=weights, nan_policy=policy)
        wanted = fanin.moments(X[keep], weights=weights[keep])
        np.testing.assert_allclose(m.count, wanted.count, rtol=2**-52)
        np.testing.assert_allclose(m.mean, wanted.mean, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(m.var, wanted.var, rtol=FOURTEEN_DIGITS)
    with np.errstate(all="ignore"):
        Z = fanin.standardize(X, weights=weights)
    mean, var = exact(X[keep, 0], weights[keep])
    std = math.sqrt(var)
    i = int(np.flatnonzero(keep)[0])
    assert abs(Z[i, 0] - (X[i, 0] - float(mean)) / std) < ROUNDING * 10


def test_all_weights_zero_is_no_data():
    for order in "CF":
        X = np.asarray(np.full((100, 3), 5.0), order=order)
        m = fanin.moments(X, weights=np.zeros(100))
        assert m.count.tolist() == [0.0] * 3
        assert np.isnan(m.mean).all()
        assert np.isnan(m.var).all()
        m.update(X, weights=np.r_[np.zeros(99), 3.0])
        assert m.mean.tolist() == [5.0] * 3
        assert m.count.tolist() == [3.0] * 3
    empty = fanin.moments(np.empty((0, 2)), weights=[])
    assert empty.count.dtype == np.float64


def test_a_nan_drops_its_weight():
    X = [[1.0, np.nan], [3.0, 4.0], [np.nan, 8.0]]
    m = fanin.moments(X, weights=[2.0, 0.5, 4.0])
    assert m.count.tolist() == [2.5, 4.5]
    np.testing.assert_allclose(m.mean, [3.5 / 2.5, 34 / 4.5], rtol=2**-52)
    m = fanin.moments(X, weights=[2.0, 0.5, 0.0], nan_policy="propagate")
    np.testing.assert_array_equal(np.isnan(m.mean), [False, True])
    assert m.count.tolist() == [2.5, 0.5]
    with pytest.raises(ValueError, match=r"1 of 2 features .* index \(1,\)"):
        fanin.moments(X, weights=[2.0, 0.5, 0.0], nan_policy="raise")
    assert fanin.moments(X, weights=[0, 1, 0], nan_policy="raise").count[0] == 1
    # However small the weight, and whatever the sum of the others rounds to.
    with pytest.raises(ValueError, match="NaN"):
        fanin.moments(X, weights=[1e-300, 1e5, 0.0], nan_policy="raise")
    stream = fanin.moments([[1.0, 2.0]], weights=[0.1], nan_policy="raise")
    assert stream.update([[2.0, 2.0]]).count.tolist() == [1.1, 1.1]
    with pytest.raises(ValueError, match="NaN"):
        stream.update([[2.0, np.nan]])


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ([1.0, -2.0, 1.0, -3.0], ValueError, r"weights must be .*got -2.0 at index 1"),
        ([1.0, 0.0, np.nan, 1.0], ValueError, r"weights must be .*got nan at index 2"),
        ([1.0, 0.0, 1.0, np.inf], ValueError, r"weights must be .*got inf at index 3"),
        ([1, 2, 3, -4], ValueError, r"weights must be .*got -4 at index 3"),
        ([1.0, 2.0], ValueError, r"weights must have shape \(4,\).*got shape \(2,\)"),
        (2.0, ValueError, r"weights must have shape \(4,\)"),
        (np.ones((4, 1)), ValueError, r"weights must have shape \(4,\)"),
        (["a"] * 4, TypeError, "weights must be an array of real numbers"),
        ([1j] * 4, TypeError, "weights must be an array of real numbers"),
        ([1e308] * 4, ValueError, "weights must have a sum"),
    ],
)
def test_other_weights_are_refused(weights, kind, message):
    X = np.arange(8.0).reshape(4, 2)
    out = np.zeros((4, 2))
    m = fanin.moments(X)
    before = m.to_dict()
    with pytest.raises(kind, match=message):
        fanin.moments(X, weights=weights)
    with pytest.raises(kind, match=message):
        fanin.standardize(X, weights=weights, out=out)
    with pytest.raises(kind, match=message):
        m.update(X, weights)
    assert not out.any()
    assert m.to_dict() == before
    if np.shape(weights) == (4,) and kind is ValueError:
        grid = np.array(weights).reshape(2, 2)
        for i in range(4):
            message = message.replace(f"index {i}", rf"index \({i // 2}, {i % 2}\)")
        with pytest.raises(ValueError, match=message):
            fanin.moments(X[:2], axis=None, weights=grid)


def test_the_first_bad_weight_is_found_anywhere(rng):
    for n in (1, 1023, 1024, 1025, 5_000):
        weights = rng.random(n)
        assert _moments.first_bad_weight(weights) == -1
        for value in (-5e-324, np.nan, -np.inf, np.inf, -1.0):
            for at in {0, n // 2, n - 1}:
                bad = weights.copy()
                bad[at:] = value
                assert _moments.first_bad_weight(bad) == at
    assert _moments.first_bad_weight(np.array([-0.0, 1.7e308, 5e-324])) == -1


@pytest.mark.parametrize("n_threads", [2, 3, 16])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(40_000, 20), (700, 1_100), (300_000,), (9, 60_000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_change_no_bit(rng, shape, order, dtype, n_threads):
    X = rng.standard_normal(shape).astype(dtype)
    X.flat[:: X.size // 50] = np.nan
    X = np.asarray(X, order=order)
    weights = rng.random(shape[0]) * (rng.random(shape[0]) < 0.9)
    one = fanin.moments(X, weights=weights, n_threads=1)
    many = fanin.moments(X, weights=weights, n_threads=n_threads)
    assert one._state.tobytes() == many._state.tobytes()
    assert one._exponent.tobytes() == many._exponent.tobytes()


def weight_sets(rng, n):
    return {
        "even": rng.random(n),
        "skewed": np.exp(5 * rng.standard_normal(n)),
        "zeros": rng.random(n) * (rng.random(n) < 0.3) + 1e-3 * (np.arange(n) == 5),
        "a tenth": np.full(n, 0.1),
        "one large": np.where(np.arange(n) == n // 2, 1e9, rng.random(n)),
        "first small": np.where(np.arange(n) == 0, 1e-12, 1.0),
        "huge": rng.random(n) * 1e300,
        "tiny": rng.random(n) * 1e-300,
        "subnormal": rng.integers(1, 1000, n) * 5e-324,
        "all magnitudes": 10.0 ** rng.uniform(-300, 300, n),
    }


@pytest.mark.parametrize("weights", weight_sets(np.random.default_rng(0), 10))
@pytest.mark.parametrize("columns", [1, 2, 60])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_weights_keep_14_digits(rng, weights, columns, order):
    n = 300
    w = weight_sets(rng, n)[weights]
    for column in (
        10000000.2 + 0.1 * np.where(np.arange(n) % 2, 1, -1),
        1e9 + rng.standard_normal(n),
        np.r_[1e12, rng.standard_normal(n - 1)],
        np.where(np.arange(n) < n // 2, 1e200, -1e200),
        rng.standard_normal(n) * 1e-200,
        1e300 + 1e285 * rng.standard_normal(n),
    ):
        X = np.asarray(np.repeat(column[:, None], columns, axis=1), order=order)
        ways = [fanin.moments(X, weights=w), fanin.Moments(), fanin.Moments()]
        for i in range(n):
            ways[1].update(X[i : i + 1], w[i : i + 1])
        for i in range(0, n, 37):
            ways[2] += fanin.moments(X[i : i + 37], weights=w[i : i + 37])
        mean, var = exact(column, w)
        std = root(var)
        scale = max(abs(mean), std)
        # A block's sums are of at most 64 sums of four rows, whose rounding may lean to
        # one side; a single row is merged with three roundings of a step that shrinks.
        bounds = FOURTEEN_DIGITS, 4 * 2**-53, FOURTEEN_DIGITS
        for m, bound in zip(ways, bounds, strict=True):
            c = columns // 2
            assert error(m.std[c], std) < FOURTEEN_DIGITS
            if Fraction(1e-300) < var < Fraction(1e300):
                assert error(m.var[c], var) < FOURTEEN_DIGITS
            assert abs(Fraction(float(m.mean[c])) - mean) < bound * scale
            total = sum(Fraction(v) for v in w.tolist())
            assert error(m.count[c], total) <= 2**-52


def test_a_long_running_sum_of_weights_keeps_its_digits():
    # In one double, 20,000 additions of a tenth are off by 1e-12.
    m = fanin.Moments()
    for i in range(20_000):
        m.update([[float(i % 7)]], weights=[0.1])
    assert error(m.count[0], 20_000 * Fraction(0.1)) <= 2**-53
    _, var = exact(np.arange(20_000) % 7, np.full(20_000, 0.1))
    assert error(m.var[0], var) < FOURTEEN_DIGITS


@pytest.mark.parametrize("value", [1e305, -1.7e308, 5e-324, 0.1, 0.0, 1e-300])
@pytest.mark.parametrize("columns", [1, 3, 200])
def test_constants_are_exact_with_any_weights(rng, value, columns):
    X = np.full((500, columns), value)
    for w in weight_sets(rng, 500).values():
        for order in "CF":
            whole = fanin.moments(np.asarray(X, order=order), weights=w)
            parts = fanin.Moments()
            for i in range(0, 500, 61):
                parts.update(X[i : i + 61], w[i : i + 61])
            for m in (whole, parts, whole + parts, parts.update(X)):
                assert np.all(m.mean == value)
                assert np.all(m.var == 0)
                assert np.all(m.constant)


@pytest.mark.parametrize("columns", [1, 7, 50, 300])
@pytest.mark.parametrize("order", ["C", "F"])
def test_data_cut_on_the_block_grid_gives_the_same_bits(rng, columns, order):
    X = np.asarray(rng.standard_normal((1_200_000 // columns, columns)), order=order)
    weights = rng.random(len(X))
    whole, parts = fanin.moments(X, weights=weights), fanin.Moments()
    step = parts.block_rows(X)
    start = 0
    for n in (1, 2, 1, 3, 10**6):
        rows = slice(start, min(start + n * step, len(X)))
        parts.update(X[rows], weights[rows])
        start = rows.stop
        if start == len(X):
            break
    assert parts._state.tobytes() == whole._state.tobytes()


def test_standardize_uses_the_weights(rng):
    X = rng.standard_normal((400, 5)) * 3 + 100
    weights = rng.integers(0, 4, 400)
    Z, m = fanin.standardize(X, weights=weights, ddof=1, return_moments=True)
    assert m == fanin.moments(X, weights=weights, ddof=1)
    np.testing.assert_allclose(
        Z, (X - m.mean) / m.std, rtol=ROUNDING, atol=ROUNDING * 100
    )
    out = X.copy()
    assert fanin.standardize(out, weights=weights, ddof=1, out=out) is out
    assert np.array_equal(out, Z)
    again = fanin.standardize(X, mean=m.mean, std=m.std, weights=weights)
    np.testing.assert_allclose(again, Z, atol=ROUNDING * 100)
    cube = X.reshape(20, 20, 5)
    table = fanin.standardize(cube, axis=(0, 1), weights=weights.reshape(20, 20))
    np.testing.assert_allclose(
        table.reshape(400, 5), fanin.standardize(X, weights=weights), atol=ROUNDING * 10
    )


@pytest.mark.parametrize("layout", ["C", "Fortran", "every second column"])
def test_only_the_weights_are_copied(layout):
    resource = pytest.importorskip("resource")
    X = LAYOUTS[layout](np.ones((200_000, 100), np.float32))
    weights = np.ones(200_000, np.int64)
    fanin.moments(X[:1_000], weights=weights[:1_000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fanin.moments(X, weights=weights, n_threads=2)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    limit = 2**20 + 64 * 100 * 2 + 8 * len(weights)
    assert limit < X.nbytes / 10
    assert more < limit


def test_extreme_features_beside_an_empty_one_are_standardized_without_a_warning():
    X = np.array([[1e200, np.nan, 1.0], [-1e200, np.nan, 3.0]])
    with np.errstate(all="raise"):
        for weights in (None, [1.0, 1.0], [1e-300, 1e-300], [1e300, 1e300]):
            for ddof in (0, 1) if weights is None else (0,):
                Z = fanin.standardize(X, weights=weights, ddof=ddof)
                scale = math.sqrt((2 - ddof) / 2)
                np.testing.assert_allclose(Z[:, 0], [scale, -scale], rtol=2**-51)
                np.testing.assert_allclose(Z[:, 2], [-scale, scale], rtol=2**-51)
                assert np.isnan(Z[:, 1]).all()
            fanin.standardize(X, mean=0.0, weights=weights)
            fanin.standardize(X, std=1.0, weights=weights)
