"""Moments that grow: update, merge, empty ones, dictionaries, pickles, equality."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_moments_precision import FOURTEEN_DIGITS, error, exact, peers_data, root

import fanin


def data_sets():
    """Columns that cost a plain running variance its digits."""
    rng = np.random.default_rng(5)
    n = 600
    normal = rng.standard_normal(n)
    return {
        "alternating": peers_data("alternating")[:, 0],
        "wild": peers_data("wild")[:, 7],
        "step": peers_data("step")[4_700:5_300, 0],
        "offset 1e9": 1e9 + normal,
        "offset 1e15": 1e15 + normal,
        "negative offset": -1e12 + 1e-3 * normal,
        "sorted": np.sort(normal) + 1e6,
        "ramp": 1e7 + 0.1 * np.arange(n),
        "outlier first": np.r_[1e12, normal],
        "outlier last": np.r_[normal, -1e12],
        "huge and tiny blocks": normal * np.where(np.arange(n) // 50 % 2, 1e8, 1e-8),
        "huge and tiny rows": normal * np.where(np.arange(n) % 2, 1e8, 1e-8),
        "two clusters": np.where(normal > 0, 1e9, -1e9) + rng.standard_normal(n),
        "two clusters in turn": np.repeat([1e9, -1e9], n // 2) + normal,
        "long tails": rng.standard_cauchy(n) * 1e3 + 5,
        "log-normal": np.exp(10 * normal),
        "growing": 1.05 ** np.arange(n),
        "shrinking": 1.05 ** -np.arange(n),
        "nearly constant": np.where(np.arange(n) == 300, np.nextafter(0.1, 1), 0.1),
        "1e200 both ways": np.where(np.arange(n) % 2, 1e200, -1e200),
        "1e-300 and 1e300": np.where(np.arange(n) % 3, 1e-300, 1e300),
        "subnormals": np.arange(n) % 4 * 5e-324,
        "squares underflow": normal * 1e-170,
        "near the largest": normal * 4e307,
        "constants of 1e305 and a one": np.r_[np.full(n, 1e305), 1.0],
    }


def in_chunks(X, sizes):
    m = fanin.Moments()
    start = 0
    while start < len(X):
        for size in sizes:
            if start < len(X):
                m.update(X[start : start + size])
                start += size
    return m


def tree(X, rng, size):
    """Parts of `size` rows, merged in random order and shape."""
    parts = [fanin.moments(X[i : i + size]) for i in range(0, len(X), size)]
    while len(parts) > 1:
        a = parts.pop(rng.integers(len(parts)))
        b = parts.pop(rng.integers(len(parts)))
        parts.append(a + b if rng.random() < 0.5 else b.merge(a))
    return parts[0]


@pytest.mark.parametrize("name", data_sets())
@pytest.mark.parametrize("columns", [1, 3])
def test_14_digits_however_the_data_is_cut(rng, name, columns):
    column = data_sets()[name]
    X = np.repeat(column[:, None], columns, axis=1)
    mean, var = exact(column)
    std = root(var)
    ways = {
        "whole": fanin.moments(X),
        "Fortran": fanin.moments(np.asfortranarray(X)),
        "rows": in_chunks(X, [1]),
        "rows reversed": in_chunks(X[::-1], [1]),
        "chunks": in_chunks(X, [7]),
        "some chunks": in_chunks(X, [1, 100, 13, 2]),
        "tree of rows": tree(X, rng, 1),
        "tree": tree(X, rng, 11),
        "other tree": tree(X, rng, 150),
        "sum": sum(fanin.moments(X[i : i + 90]) for i in range(0, len(X), 90)),
    }
    for way, m in ways.items():
        assert np.all(m.count == len(X)), way
        # The standard deviation wherever it is a normal number; the variance wherever
        # its square is one too. A mean that cancels cannot have more digits than the
        # data has: it is held to 14 digits of the larger of |mean| and std, since the
        # rounding of a block's sums may lean to one side; and to four roundings where
        # rows come one by one, whose steps shrink.
        digits = 4 * 2**-53 if "rows" in way else FOURTEEN_DIGITS
        bound = digits * max(abs(mean), std)
        for c in {0, columns - 1}:
            found = float(m.mean[c])
            assert abs(type(mean)(found) - mean) <= max(bound, 5e-324), way
            if std > 1e-307:
                assert error(m.std[c], std) < FOURTEEN_DIGITS, way
            if 1e-290 < var < 1e308:
                assert error(m.var[c], var) < FOURTEEN_DIGITS, way
            elif var > 2**1024:
                assert m.var[c] == np.inf
        assert np.all(m.constant == (var == 0))


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False),
            st.floats(-1e3, 1e3),
            st.sampled_from([0.0, 1e200, -1e200, 5e-324, 1e305, 1.0, math.nan]),
        ),
        min_size=1,
        max_size=60,
    ),
    cuts=st.lists(st.integers(0, 60), max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_cuts_agree_with_exact_arithmetic(values, cuts, seed):
    X = np.array(values)[:, None]
    edges = [0, *sorted(min(c, len(X)) for c in cuts), len(X)]
    pieces = [X[a:b] for a, b in itertools.pairwise(edges)]
    streamed = fanin.Moments()
    for piece in pieces:
        streamed.update(piece)
    merged = [fanin.moments(piece) for piece in pieces]
    np.random.default_rng(seed).shuffle(merged)
    known = [v for v in values if not math.isnan(v)]
    for m in (streamed, sum(merged[1:], merged[0])):
        assert m.count[0] == len(known)
        if not known:
            assert np.isnan(m.mean[0])
            assert np.isnan(m.std[0])
            continue
        mean, var = exact(known)
        std = root(var)
        bound = FOURTEEN_DIGITS * max(abs(mean), std)
        assert abs(type(mean)(float(m.mean[0])) - mean) <= max(bound, 5e-324)
        if std == 0:
            assert m.std[0] == 0
        elif std > 1e-300:
            assert error(m.std[0], std) < FOURTEEN_DIGITS


def test_constants_of_1e305_without_a_warning():
    X = np.full((4_000, 2), 1e305)
    with np.errstate(all="raise"):
        one_by_one = in_chunks(X, [1])
        parts = [fanin.moments(X[i : i + 100]) for i in range(0, 4_000, 100)]
        for m in (fanin.moments(X), one_by_one, sum(parts), in_chunks(X, [999])):
            assert m.count.tolist() == [4_000] * 2
            assert m.mean.tolist() == [1e305] * 2
            assert m.var.tolist() == [0.0] * 2
            assert m.std.tolist() == [0.0] * 2
            assert m.constant.all()
            repr(m)


def test_extreme_columns_side_by_side_without_a_warning(rng):
    n = 400
    X = np.column_stack(
        [
            np.where(np.arange(n) % 2, 1e200, -1e200),
            rng.standard_normal(n),
            np.arange(n) % 4 * 5e-324,
            np.where(np.arange(n) % 3, 1e-300, 1e300),
            np.full(n, 0.1),
            rng.standard_normal(n) * 4e307,
        ]
    )
    with np.errstate(all="raise"):
        for m in (fanin.moments(X), in_chunks(X, [1]), tree(X, rng, 30)):
            for c in range(X.shape[1]):
                mean, var = exact(X[:, c])
                std = root(var)
                bound = FOURTEEN_DIGITS * max(abs(mean), std)
                assert abs(type(mean)(float(m.mean[c])) - mean) <= max(bound, 5e-324)
                if std > 1e-307:
                    assert error(m.std[c], std) < FOURTEEN_DIGITS
            assert m.constant.tolist() == [False] * 4 + [True, False]
            assert m.var[0] == np.inf
            json.dumps(m.to_dict(), allow_nan=False)
            repr(m)


@pytest.mark.parametrize(
    ("columns", "order"),
    [*itertools.product([1, 7, 50, 300], "CF"), (2_000, "C")],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_data_cut_on_the_block_grid_gives_the_same_bits(rng, columns, order, dtype):
    X = (rng.standard_normal((4_000_000 // columns, columns)) * 100).astype(dtype)
    X = np.asarray(X, order=order)
    if dtype != np.int16:
        X[rng.integers(len(X), size=9), rng.integers(columns, size=9)] = np.nan
    whole, parts = fanin.moments(X), fanin.Moments()
    step = parts.block_rows(X)
    assert step < len(X)
    start, multiples = 0, [1, 2, 1, 3, 5]
    while start < len(X):
        multiples.append(multiples.pop(0))
        end = min(len(X), start + step * multiples[0])
        parts.update(X[start:end], n_threads=1 + start % 2)
        start = end
    assert parts._state.tobytes() == whole._state.tobytes()
    assert parts._exponent.tobytes() == whole._exponent.tobytes()
    assert parts.block_rows(X[:0]) == 1


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (1, -1), None, ()])
def test_any_axis_of_any_order(rng, axis, turn):
    X = rng.standard_normal((6, 7, 8))
    Y = np.ascontiguousarray(X.transpose(turn)).transpose(np.argsort(turn))
    m = fanin.Moments(axis=axis).update(Y).update(X)
    axes = tuple(range(3)) if axis is None else axis
    assert m.axis == axis
    assert np.shape(m.mean) == np.mean(X, axis=axes).shape == m.shape
    np.testing.assert_allclose(m.mean, np.mean(X, axis=axes), atol=1e-15, rtol=1e-14)
    np.testing.assert_allclose(m.var, np.var(X, axis=axes), atol=1e-15, rtol=1e-14)
    assert fanin.moments(X, axis=axis).axis == axis
    again = fanin.moments(Y, axis=axis).update(X)
    np.testing.assert_array_equal(again.mean, m.mean)


def test_an_empty_one():
    m = fanin.Moments()
    assert m.shape is None
    assert (m.axis, m.ddof, m.nan_policy) == (0, 0.0, "omit")
    assert m.count == 0
    assert m.count.dtype == np.int64
    assert np.isnan([m.mean, m.var, m.std]).all()
    assert not m.constant
    assert repr(m) == "Moments(ddof=0; no data)"
    assert m == fanin.Moments()
    assert m != fanin.Moments(ddof=1)
    assert m != fanin.moments(np.empty((0, 3)))
    full = fanin.moments([[1.0, 2.0], [2.0, 5.0]])
    assert m + full == full
    assert full + m == full
    assert (m + m).shape is None
    assert fanin.Moments().merge(full) == full
    # Rows without columns, columns without rows.
    assert m.update(np.empty((0, 2))).shape == (2,)
    assert m.count.tolist() == [0, 0]
    assert np.isnan(m.mean).all()
    assert m.update([[1.0, 2.0], [2.0, 5.0]]) == full
    nothing = fanin.Moments().update(np.empty((4, 0))).update(np.empty((2, 0)))
    assert nothing.mean.shape == (0,)
    assert nothing.merge(nothing).shape == (0,)
    # A scalar at a time.
    one = fanin.Moments(axis=None)
    for value in (1.0, 2.0, 6.0):
        one.update(value)
    assert (one.count, one.mean) == (3, 3.0)


def test_update_and_merge_return_the_object_and_leave_the_other_alone():
    a, b = fanin.moments([[1.0], [2.0]]), fanin.moments([[6.0]])
    taken = a.mean, a.count, a.var
    kept = [array.copy() for array in taken]
    before = b.to_dict()
    assert a.merge(b) is a
    assert a.update([[3.0]]) is a
    assert b.to_dict() == before
    assert a.mean.tolist() == [3.0]
    assert a.merge(a) is a
    assert a.count.tolist() == [8]
    for array, copied in zip(taken, kept, strict=True):
        assert np.array_equal(array, copied)
        assert not array.flags.writeable
    c = a + b
    assert c is not a
    assert a.count.tolist() == [8]
    c += b
    assert a.count.tolist() == [8]
    assert c.count.tolist() == [10]
    assert sum([b, b, b]).count.tolist() == [3]
    assert sum([b]) is not b


def test_count_is_a_float_once_there_are_weights():
    a, b = fanin.moments([[1.0], [2.0]]), fanin.moments([[6.0]], weights=[2.5])
    assert a.count.dtype == np.int64
    for m in (a + b, b + a, copy.copy(a).update([[6.0]], [2.5])):
        assert m.count.dtype == np.float64
        assert m.count.tolist() == [4.5]
        assert m.mean == [4.0]
    assert (a + b).update([[1.0]]).count.tolist() == [5.5]
    # Equal in value is equal.
    assert fanin.moments([[1.0], [1.0]]) == fanin.moments([[1.0]], weights=[2])


def test_what_does_not_fit_is_refused_and_changes_nothing():
    m = fanin.moments([[1.0, 2.0], [3.0, 4.0]])
    before = m.to_dict()
    for X, kind, message in (
        ([[1.0]], ValueError, r"X must have features of shape \(2,\).*got \(1,\)"),
        ([1.0, 2.0], ValueError, r"X must have features of shape \(2,\).*got \(\)"),
        (5.0, ValueError, "axis 0 is out of bounds"),
        (np.zeros((2, 2, 1)), ValueError, r"got \(2, 1\)"),
        ([["a", "b"]], TypeError, "X must be an array of real numbers"),
    ):
        with pytest.raises(kind, match=message):
            m.update(X)
    with pytest.raises(TypeError, match="n_threads"):
        m.update([[1.0, 2.0]], n_threads=1.5)
    with pytest.raises(ValueError, match="weights must have shape"):
        m.update([[1.0, 2.0]], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"different ddof.*0\.0 and 1\.0"):
        m.merge(fanin.moments([[1.0, 2.0]], ddof=1))
    with pytest.raises(ValueError, match="different ddof"):
        m + fanin.Moments(ddof=1)
    with pytest.raises(ValueError, match=r"different nan_policy.*'omit' and 'raise'"):
        m.merge(fanin.moments([[1.0, 2.0]], nan_policy="raise"))
    with pytest.raises(ValueError, match=r"different shapes.*\(2,\) and \(1,\)"):
        m.merge(fanin.moments([[1.0]]))
    with pytest.raises(TypeError, match="other must be a Moments; got int"):
        m.merge(0)
    for other in (1, 0.5, "m", None):
        with pytest.raises(TypeError, match="unsupported operand"):
            m + other
    heavy = fanin.moments([[1.0, 2.0]], weights=[1.5e308])
    with pytest.raises(ValueError, match="weights must have a sum"):
        heavy.merge(heavy)
    assert heavy.count[0] == 1.5e308
    assert m.to_dict() == before
    for options, kind in (
        ({"ddof": -1}, ValueError),
        ({"axis": 0.5}, TypeError),
        ({"axis": (0, "1")}, TypeError),
        ({"nan_policy": "ignore"}, ValueError),
    ):
        with pytest.raises(kind, match=next(iter(options))):
            fanin.Moments(**options)
    with pytest.raises(ValueError, match="axis 3"):
        fanin.Moments(axis=3).update([[1.0]])
    with pytest.raises(AttributeError):
        m.ddof = 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.parametrize("start", [False, True])
def test_ctrl_c_leaves_it_as_it_was(start):
    row, weights = np.arange(4.0), np.ones(1)
    m = fanin.Moments()
    if start:
        m.update(row[None], weights)
    before = m.to_dict()

    def interrupt(number, frame):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            m.update(np.broadcast_to(row, (2_000_000_000, 4)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert m.to_dict() == before
    assert m.update(row[None]).mean.tolist() == row.tolist()


def test_two_python_threads_merge_and_read_what_does_not_change(rng):
    X = rng.standard_normal((20_000, 8))
    m = fanin.moments(X)
    taken, mean = m.mean, m.mean.copy()

    def work(seed):
        other = copy.copy(m)
        for i in range(20):
            other.update(X[i * 100 : (i + 1) * 100] + seed)
        return other + m

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, [0, 1, 0, 1]))
    assert found[0] == found[2] == work(0)
    assert found[1] == found[3] == work(1)
    assert np.array_equal(taken, mean)


def test_nan_policies_of_a_stream():
    first, second = [[1.0, 2.0]], [[np.nan, 4.0], [5.0, np.nan]]
    omit = fanin.Moments().update(first).update(second)
    assert omit.count.tolist() == [2, 2]
    assert omit.mean.tolist() == [3.0, 3.0]
    m = fanin.Moments(nan_policy="raise").update(first)
    before = m.to_dict()
    with pytest.raises(ValueError, match='nan_policy is "raise": 2 of 2'):
        m.update(second)
    assert m.to_dict() == before
    # A NaN stays, wherever it came, and however few values there are.
    nan = [[np.nan, 1.0]]
    for blocks in ([nan, first], [first, nan], [nan, nan, first], [first, nan, first]):
        m = fanin.Moments(nan_policy="propagate")
        for block in blocks:
            m.update(block)
        np.testing.assert_array_equal(np.isnan(m.mean), [True, False])
        np.testing.assert_array_equal(np.isnan(m.var), [True, False])
        parts = [fanin.moments(b, nan_policy="propagate") for b in blocks]
        np.testing.assert_array_equal(np.isnan(sum(parts).std), [True, False])
        assert sum(parts).count.tolist() == m.count.tolist()
    assert "nan_policy='propagate'" in repr(m)


def test_infinities_spread_like_numpys(rng):
    X = rng.standard_normal((300, 3))
    X[10, 0] = np.inf
    X[[20, 200], 1] = np.inf, -np.inf
    for m in (fanin.moments(X), in_chunks(X, [1]), tree(X, rng, 40)):
        assert m.mean[0] == np.inf
        assert np.isnan(m.mean[1])
        np.testing.assert_array_equal(np.isnan(m.var), [True, True, False])
        text = json.dumps(m.to_dict(), allow_nan=False)
        assert fanin.Moments.from_dict(json.loads(text)) == m


def examples():
    rng = np.random.default_rng(9)
    X = rng.standard_normal((50, 4)) * [1, 1e200, 1e-200, 0] + [1e9, 0, 0, -0.0]
    bad = X.copy()
    bad[3, 0] = np.inf
    bad[5, 1] = np.nan
    bad[:, 2] = np.nan
    return {
        "no data": fanin.Moments(axis=None, ddof=1),
        "plain": fanin.moments(X),
        "bad": fanin.moments(bad, ddof=1),
        "propagate": fanin.moments(bad, nan_policy="propagate"),
        "weighted": fanin.moments(X, weights=rng.random(50)),
        "extreme weights": fanin.moments(X, weights=rng.random(50) * 1e-300),
        "scalar": fanin.moments(X, axis=None),
        "cube": fanin.moments(rng.random((3, 4, 5)), axis=(0,)),
        "no columns": fanin.moments(np.empty((3, 0))),
        "no rows": fanin.moments(np.empty((0, 3))),
        "rows": in_chunks(X, [1]),
        "32 bits": fanin.moments(X[:, :1].astype(np.float32)),
    }


def identical(a, b):
    """Whether nothing tells two Moments apart, hidden words included."""
    assert a._state.tobytes() == b._state.tobytes()
    assert a._state.shape == b._state.shape
    assert a._exponent.tobytes() == b._exponent.tobytes()
    for name in ("shape", "axis", "ddof", "nan_policy"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("count", "mean", "var", "std", "constant"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()
    assert a == b


@pytest.mark.parametrize("name", examples())
def test_copies_pickles_and_json_lose_nothing(name):
    m = examples()[name]
    text = json.dumps(m.to_dict(), allow_nan=False)
    back = [
        fanin.Moments.from_dict(json.loads(text)),
        fanin.Moments.from_dict(m.to_dict()),
        copy.copy(m),
        copy.deepcopy(m),
        *(
            pickle.loads(pickle.dumps(m, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ]
    for other in back:
        identical(other, m)
        assert repr(other) == repr(m)
        # A life of its own.
        if m.shape == (4,):
            other.update(np.ones((2, 4)))
            assert other != m
    identical(fanin.Moments.from_dict(json.loads(text)), m)


def test_a_dictionary_that_no_moments_have_is_refused():
    good = fanin.moments([[1.0, 5.0], [3.0, 6.0]], weights=[1.0, 0.5]).to_dict()
    plain = fanin.moments([[1.0, 5.0], [3.0, 6.0]]).to_dict()
    assert good["version"] == 1
    fanin.Moments.from_dict(good)
    without = {k: v for k, v in good.items() if k != "m2"}
    for data, kind, message in (
        (None, TypeError, "needs a dict.*NoneType"),
        ([], TypeError, "needs a dict"),
        ({}, ValueError, "'format' must be 'fanin.Moments'"),
        ({**good, "format": "other"}, ValueError, "got 'other'"),
        ({**good, "version": 2}, ValueError, "'version' must be 1; got 2"),
        ({**good, "version": True}, ValueError, "'version' must be 1"),
        (without, ValueError, "lacks 'm2'"),
        ({**good, "extra": 1, 5: 6}, ValueError, "unknown 'extra', 5"),
        ({**good, "shape": [3]}, ValueError, "'count' must have 3 entries.*got 2"),
        ({**good, "shape": [10**12]}, ValueError, "entries"),
        ({**good, "shape": [-1]}, ValueError, r"shape\[0\] must be at least 0"),
        ({**good, "shape": [2.0]}, TypeError, r"shape\[0\] must be an integer"),
        ({**good, "shape": 2}, TypeError, "'shape' must be a list"),
        ({**good, "shape": None}, ValueError, "unknown"),
        ({**good, "mean": "abc"}, TypeError, "'mean' must be a list"),
        ({**good, "mean": [1.0, None]}, TypeError, r"mean\[1\] must be a number"),
        ({**good, "mean": [1.0, True]}, TypeError, r"mean\[1\] must be a number"),
        ({**good, "mean": [1.0, "x"]}, ValueError, r"mean\[1\] must be.*'x'"),
        ({**good, "mean": [1.0, 10**400]}, ValueError, "beyond the range"),
        ({**good, "mean": [1.0, "inf"]}, ValueError, "feature 1: 'mean'"),
        ({**good, "mean_lo": [1.0, 1e9]}, ValueError, "feature 1: 'mean'"),
        ({**good, "mean_lo": ["nan", 0]}, ValueError, "feature 0: 'mean'"),
        ({**good, "count": [-1.0, 2.0]}, ValueError, "feature 0: 'count'"),
        ({**good, "count": ["nan", 2.0]}, ValueError, "feature 0: 'count'"),
        ({**good, "count": ["inf", 2.0]}, ValueError, "feature 0: 'count'"),
        ({**good, "count_lo": [5.0, 0.0]}, ValueError, "feature 0: 'count'"),
        ({**plain, "count": [1.5, 2.0]}, ValueError, "must be an integer"),
        ({**plain, "count": [1e17, 2.0]}, ValueError, "must be an integer"),
        ({**good, "count": [0.0, 2.0]}, ValueError, "'count' of 0"),
        ({**good, "m2": [-1.0, 2.0]}, ValueError, "feature 0: 'm2'"),
        ({**good, "m2": ["inf", 2.0]}, ValueError, "feature 0: 'm2'"),
        ({**good, "m2_lo": [9.0, 0.0]}, ValueError, "feature 0: 'm2'"),
        ({**good, "exponent": [0, 10**9]}, ValueError, r"exponent\[1\]"),
        ({**good, "exponent": [0, 0.5]}, TypeError, r"exponent\[1\]"),
        ({**good, "exponent": [0]}, ValueError, "'exponent' must have 2"),
        ({**good, "axis": "x"}, TypeError, "axis"),
        ({**good, "ddof": -1}, ValueError, "ddof"),
        ({**good, "ddof": "1"}, TypeError, "ddof"),
        ({**good, "nan_policy": ["omit"]}, ValueError, "nan_policy"),
    ):
        with pytest.raises(kind, match=message):
            fanin.Moments.from_dict(data)
    # Numbers without a point are numbers.
    assert fanin.Moments.from_dict({**good, "mean": [2, 5]}).mean.tolist() == [2, 5]


def test_equality_is_of_the_last_bit():
    X = np.array([[1.0, 5.0], [3.0, 5.5]])
    m = fanin.moments(X)
    for other in (
        fanin.moments(np.nextafter(X, 9)),
        fanin.moments(X, ddof=1),
        fanin.moments(X[:, :1]),
        fanin.moments(np.vstack([X, X])),
        fanin.moments(X[:, None]),
        m.to_dict(),
    ):
        assert m != other
    assert m == fanin.moments(X)
    assert m == fanin.moments(X, nan_policy="propagate")


def test_repr_says_what_there_is():
    assert repr(fanin.moments([[1.0], [2.0]], axis=1, ddof=1)) == (
        "Moments(count=[1, 1],\n        mean=[1., 2.],\n        std=[nan, nan],\n"
        "        axis=1, ddof=1)"
    )
    assert repr(fanin.moments([1.0, 3.0])) == (
        "Moments(count=2,\n        mean=2.,\n        std=1.,\n        ddof=0)"
    )
    many = repr(fanin.moments(np.ones((2, 10_000))))
    assert len(many) < 300
    assert re.search(r"count=\[2, 2, 2, \.\.\., 2, 2, 2\]", many)
    assert repr(fanin.Moments(axis=(0, 1), nan_policy="raise")) == (
        "Moments(axis=(0, 1), ddof=0, nan_policy='raise'; no data)"
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("exponent", [4000, 0], "beyond a float64"),
        ("axis", [0, 0], "names an axis twice"),
        ("shape", [2, 1, *[1] * 70], "none that an array can have"),
    ],
)
def test_dictionaries_that_no_moments_can_have_are_refused(field, value, message):
    data = fanin.moments([[1.0, 2.0], [3.0, 5.0]]).to_dict()
    data[field] = value
    with pytest.raises(ValueError, match=message):
        fanin.Moments.from_dict(data)
