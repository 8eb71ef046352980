"""Digits of mean, variance and standard deviation against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import fanin
from fanin._kernels import _moments


def exact(column, ddof=0):
    """Mean and variance of a column's own doubles, as fractions."""
    values = [Fraction(float(v)) for v in column if not math.isnan(v)]
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / (len(values) - ddof)


def error(found, wanted):
    """Relative error of a double against a fraction."""
    if wanted == 0:
        return 0.0 if found == 0 else math.inf
    return float(abs(Fraction(float(found)) - wanted) / abs(wanted))


def root(value):
    """A fraction's square root to 100 bits, whatever its magnitude."""
    shift = 2 * max(
        0, 200 - value.numerator.bit_length() + value.denominator.bit_length()
    )
    shift += shift % 2
    scaled = (value.numerator << shift) // value.denominator
    return Fraction(math.isqrt(scaled), 1 << (shift // 2))


def peers_data(name):
    rng = np.random.default_rng(12)
    if name == "alternating":
        return np.array([10000000.2] + [10000000.1, 10000000.3] * 500)[:, None]
    if name == "wild":
        rows = rng.standard_normal((100, 20))
        return rows * rng.uniform(1e3, 1e6, 20) + rng.uniform(-1e15, 1e15, 20)
    return np.r_[np.full(5000, 1e8), np.full(5000, math.log(1e-5))][:, None]


# What the library promises. A double's rounding is 1.1e-16, and a block's sums are at
# most some 60 additions in a row, see moments.c.
FOURTEEN_DIGITS = 1e-14


@pytest.mark.parametrize("name", ["alternating", "wild", "step"])
@pytest.mark.parametrize("layout", ["C", "F", "repeated columns", "rows at a distance"])
def test_variance_has_14_digits_on_the_peers_data(name, layout):
    X = peers_data(name)
    if layout == "F":
        X = np.asfortranarray(X)
    elif layout == "repeated columns":
        X = np.repeat(X, 70, axis=1)
    elif layout == "rows at a distance":
        X = np.repeat(X, 2, axis=1)[:, ::2]
    m = fanin.moments(X)
    for c in {0, X.shape[1] // 2, X.shape[1] - 1}:
        mean, var = exact(X[:, c])
        assert error(m.var[c], var) < FOURTEEN_DIGITS
        assert error(m.mean[c], mean) <= 2**-53
        assert error(m.std[c], root(var)) < FOURTEEN_DIGITS


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(20_000, 1), (12_000, 3), (6_000, 70)])
def test_an_offset_of_a_billion_spreads_costs_no_digits(rng, shape, order):
    X = np.asarray(1e9 + rng.standard_normal(shape), order=order)
    m = fanin.moments(X)
    for c in {0, shape[1] - 1}:
        mean, var = exact(X[:, c])
        assert error(m.var[c], var) < FOURTEEN_DIGITS
        assert error(m.mean[c], mean) <= 2**-53


@pytest.mark.parametrize("rows", [1, 10, 997])
def test_merging_keeps_14_digits(rng, rows):
    X = 1e9 + rng.standard_normal((5_000, 2))
    state, exponent = np.zeros((5, 2)), np.zeros(2, np.int32)
    for start in range(0, len(X), rows):
        part, e = np.zeros((5, 2)), np.zeros(2, np.int32)
        _moments.moments_forward(part, e, X[start : start + rows], (0,), 1)
        _moments.moments_merge(state, exponent, part, e)
    for c in range(2):
        mean, var = exact(X[:, c])
        assert error((state[3, c] + state[4, c]) / len(X), var) < FOURTEEN_DIGITS
        assert error(state[1, c], mean) <= 2**-53


def test_the_second_word_of_the_mean_is_right(rng):
    X = 1e9 + rng.standard_normal((4_000, 70))
    state, exponent = np.zeros((5, 70)), np.zeros(70, np.int32)
    _moments.moments_forward(state, exponent, X, (0,), 1)
    for c in (0, 69):
        mean, _ = exact(X[:, c])
        found = Fraction(state[1, c]) + Fraction(state[2, c])
        # To a few roundings of the spread, 1, rather than of the offset.
        assert abs(found - mean) < 4 * 2**-53


def test_float32_sums_are_float64(rng):
    X = np.ones(2**25, np.float32)
    assert fanin.moments(X).mean == 1.0
    X = (rng.standard_normal((5_000, 60)) + 4096).astype(np.float32)
    m = fanin.moments(X)
    for c in (0, 59):
        mean, var = exact(X[:, c])
        assert error(m.mean[c], mean) <= 2**-53
        assert error(m.var[c], var) < FOURTEEN_DIGITS


def test_float32_near_2_to_the_24_is_centred():
    X = (2**24 + np.arange(0, 16, 2, dtype=np.float64)).astype(np.float32)[:, None]
    Z = fanin.standardize(X)
    assert Z.dtype == np.float32
    assert Z.astype(np.float64).mean() == 0.0
    assert np.array_equal(Z, -Z[::-1])


def test_float64_with_an_offset_is_standardized_to_the_last_digits(rng):
    X = 1e9 + rng.standard_normal((1_000, 1))
    Z = fanin.standardize(X)
    mean, var = exact(X[:, 0])
    std = root(var)
    worst = max(
        abs(Fraction(z) - (Fraction(x) - mean) / std)
        for x, z in zip(X[:, 0].tolist(), Z[:, 0].tolist(), strict=True)
    )
    # Values up to 4: the mean to a few 2^-53, and two roundings.
    assert worst < 4 * 4 * 2**-53


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [1, 3, 200])
@pytest.mark.parametrize("value", [1e305, -1.7e308, 5e-324, 0.1, 0.0, -0.0, 1e-300])
def test_constants_are_exact(value, columns, order):
    X = np.full((4_000, columns), value, order=order)
    m = fanin.moments(X)
    assert np.all(m.mean == value)
    assert np.all(m.var == 0)
    assert np.all(m.constant)
    assert np.all(fanin.standardize(X) == 0)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [1, 3, 200])
def test_extreme_magnitudes_are_right(rng, columns, order):
    m = 3_000
    ordinary = rng.standard_normal(m)
    for column in (
        np.where(np.arange(m) % 2, 1e200, -1e200),
        np.where(np.arange(m) < m // 2, 1e200, -1e200),
        np.where(np.arange(m) % 3, 1e-300, 1e300),
        np.where(np.arange(m) < 2, 1e300, 1e-300),
        np.arange(m) % 4 * 5e-324,
        ordinary * 1e-170,
        ordinary * 1e-310,
        ordinary * 4e307,
        np.where(np.arange(m) % 2, 1.7e308, -1.7e308),
        np.r_[np.full(m - 1, 1e305), 1.0],
        np.r_[np.zeros(m - 1), 1e-200],
    ):
        X = np.tile(ordinary[:, None], columns)
        at = columns // 2
        X[:, at] = column
        X = np.asarray(X, order=order)
        found = fanin.moments(X)
        mean, var = exact(column)
        std = root(var)
        spread = max(abs(mean), std)
        # A block's sum is at most 256 additions in a row, on partial sums that are
        # on average half of the whole.
        assert abs(Fraction(float(found.mean.flat[at])) - mean) <= max(
            128 * Fraction(2) ** -53 * spread, Fraction(5e-324) / 2
        )
        if std > Fraction(1e-307):
            assert error(found.std.flat[at], std) < FOURTEEN_DIGITS
        if Fraction(1e-290) < var < Fraction(1e308):
            assert error(found.var.flat[at], var) < FOURTEEN_DIGITS
        elif var > Fraction(2) ** 1024:
            assert found.var.flat[at] == np.inf
        Z = fanin.standardize(X)[:, at]
        wanted = [float((Fraction(v) - mean) / std) for v in column.tolist()]
        np.testing.assert_allclose(Z, wanted, rtol=1e-13, atol=1e-14)
        if columns > 1:
            other = fanin.standardize(np.tile(ordinary[:, None], columns))
            keep = np.arange(columns) != at
            np.testing.assert_allclose(
                fanin.standardize(X)[:, keep], other[:, keep], rtol=1e-13, atol=1e-14
            )


finite = st.floats(allow_nan=False, allow_infinity=False)
nearly_anything = st.one_of(
    finite,
    finite.filter(lambda v: abs(v) < 1e3),
    st.sampled_from([0.0, 1e200, -1e200, 5e-324, 1e305, 1.0, math.nan]),
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(nearly_anything, min_size=1, max_size=40),
    repeat=st.sampled_from([1, 60, 300]),
    columns=st.sampled_from([1, 2, 130]),
)
def test_any_column_agrees_with_exact_arithmetic(values, repeat, columns):
    column = np.repeat(np.array(values), repeat)
    X = np.repeat(column[:, None], columns, axis=1)
    m = fanin.moments(X)
    known = [v for v in values if not math.isnan(v)]
    assert np.all(m.count == len(known) * repeat)
    if not known:
        assert np.all(np.isnan(m.mean))
        return
    mean, var = exact(known)
    std = root(var)
    size = max(Fraction(abs(v)) for v in known)
    for c in {0, columns - 1}:
        # At most 256 additions in a row, on partial sums that are on average half
        # of the whole.
        assert abs(Fraction(float(m.mean[c])) - mean) <= max(
            size * 128 * Fraction(2) ** -53, Fraction(5e-324)
        )
        if std == 0:
            assert m.std[c] == 0
        elif std > Fraction(1e-300):
            assert error(m.std[c], std) < FOURTEEN_DIGITS


def test_the_kernel_agrees_with_its_twin_on_states(rng):
    X = rng.standard_normal((700, 90)) * np.exp(rng.uniform(-200, 200, 90))
    X[rng.random(X.shape) < 0.1] = np.nan
    X[:, 3] = np.nan
    found, e = np.zeros((5, 90)), np.zeros(90, np.int32)
    wanted, f = np.zeros((5, 90)), np.zeros(90, np.int32)
    _moments.moments_forward(found, e, X, (0,), 1)
    reference.moments_forward(wanted, f, X, (0,), 1)
    assert np.array_equal(found[0], wanted[0])
    shift = e - f
    np.testing.assert_allclose(np.ldexp(found[1], shift), wanted[1], rtol=1e-13)
    np.testing.assert_allclose(
        np.ldexp(found[3] + found[4], 2 * shift), wanted[3], rtol=1e-14
    )
    var, std = np.zeros(90), np.zeros(90)
    twin_var, twin_std = np.zeros(90), np.zeros(90)
    some = _moments.moments_finish(var, std, found, e, 1.0)
    assert some == reference.moments_finish(twin_var, twin_std, found, e, 1.0)
    np.testing.assert_array_equal(var, twin_var)
    np.testing.assert_array_equal(std, twin_std)
    part, g = found.copy(), e.copy()
    twin, h = found.copy(), e.copy()
    other, k = np.zeros((5, 90)), np.zeros(90, np.int32)
    _moments.moments_forward(other, k, X[:50] * 3 + 1, (0,), 1)
    _moments.moments_merge(part, g, other, k)
    reference.moments_merge(twin, h, other, k)
    assert np.array_equal(part[0], twin[0])
    np.testing.assert_allclose(np.ldexp(part[1], g), twin[1], rtol=1e-12)
    np.testing.assert_allclose(np.ldexp(part[3] + part[4], 2 * g), twin[3], rtol=1e-13)


def exact_moments(column):
    """Return mean and variance of doubles as fractions."""
    values = [Fraction(float(v)) for v in column]
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("first", [1.0, 1e3, 1e6, 1e9, 1e12])
def test_first_rows_far_from_the_rest_cost_no_digits(rng, first, order) -> None:
    """The pilot is the mean of the first rows; these mislead it."""
    X = rng.standard_normal((2_000, 3)) + 5
    X[:64, 1] += first
    X[:64, 2] -= first * rng.uniform(0.9, 1.1, 64)
    X = np.asarray(X, order=order)
    m = fanin.moments(X)
    for c in range(3):
        mean, var = exact_moments(X[:, c])
        assert abs(Fraction(m.var[c]) / var - 1) < 1e-14
        # The mean is as good as a double can hold, plus a share of the spread.
        error = abs(Fraction(m.mean[c]) - mean)
        assert error <= 2.0**-53 * abs(mean) + Fraction(1e-15) * Fraction(m.std[c])


@pytest.mark.parametrize("order", ["C", "F"])
def test_trends_and_steps_cost_no_digits(order) -> None:
    n = 3_000
    t = np.arange(n) / n
    columns = [
        1e8 + t,
        1e8 - 1e-3 * t**5,
        np.where(t < 0.02, 0.0, 1e7),
        1e9 + np.cumsum(np.sin(np.arange(n))),
        np.exp(30 * t),
        np.exp(-30 * t),
    ]
    X = np.asarray(np.stack(columns, axis=1), order=order)
    var = fanin.moments(X).var
    for c in range(len(columns)):
        assert abs(Fraction(var[c]) / exact_moments(X[:, c])[1] - 1) < 1e-14


def two_valued(n, few, rng):
    """A constant but for `few` values: rounding errors of its sums have one sign."""
    column = np.full(n, rng.uniform(1, 2))
    column[:few] = rng.uniform(1, 2)
    return column


@pytest.mark.parametrize("way", ["plain", "weights", "weights and NaN"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [4096, 12_000])
def test_equal_values_cost_no_digits(rng, n, order, way) -> None:
    columns = [two_valued(n, few, rng) for few in (1, 13, n // 7, n // 2)]
    columns.append(np.repeat([1.1, 1.7, 1.3], n // 3 + 1)[:n])
    for wide in (1, len(columns)):
        X = np.asarray(np.stack(columns[-wide:], axis=1), order=order)
        weights = None if way == "plain" else np.ones(n)
        if way == "weights and NaN":
            X[5] = np.nan
        var = fanin.moments(X, weights=weights).var
        for c in range(wide):
            known = X[:, c][~np.isnan(X[:, c])]
            assert abs(Fraction(var[c]) / exact_moments(known)[1] - 1) < 1e-14
