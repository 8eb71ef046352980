"""What is measured of a network's signals: against the twin and against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import fanin
from fanin import _signals, activations
from fanin._kernels._signals import observe
from fanin.layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    RMSNorm,
)

FUNCTIONS = [
    "identity",
    "logistic",
    "tanh",
    "relu",
    "selu",
    "softplus",
    "silu",
    "gelu",
    activations.GELU("tanh"),
    activations.LeakyReLU(),
    activations.LeakyReLU(0.0),
    activations.ELU(),
    activations.ELU(0.3),
    activations.ELU(4.0),
    activations.ELU(0.01),
    activations.ELU(0.0),
    activations.ELU(-0.5),
    activations.ELU(-3.0),
]


def both(A, low=math.nan, high=math.nan, n_threads=2):
    found = np.zeros((7, A.shape[1]))
    observe(found, A, low, high, n_threads)
    expected = np.empty_like(found)
    reference.observe(expected, A, low, high, n_threads)
    return found, expected


def assert_statistics(found, expected, A):
    """Counts, maxima and shifts are exact; sums of n terms lose a few units."""
    np.testing.assert_array_equal(found[2:], expected[2:])
    eps = np.finfo(np.float64).eps
    spread = abs(A.astype(np.float64) - expected[6]).max(axis=0)
    assert (abs(found[0] - expected[0]) <= A.shape[0] * eps * spread).all()
    assert (abs(found[1] - expected[1]) <= 4 * A.shape[0] * eps * spread).all()


@given(
    rows=st.integers(1, 9000),
    columns=st.integers(1, 40),
    dtype=st.sampled_from(["f4", "f8", ">f4", ">f8", "i2", "i8", "u1", "f2", "?"]),
    layout=st.sampled_from(["C", "F", "rows", "columns", "reversed"]),
    seed=st.integers(0, 9),
)
def test_any_array(rows, columns, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    A = np.clip(np.round(3 * rng.standard_normal((rows, columns)), 1), 0, None)
    A = A.astype(dtype)
    if layout == "F":
        A = np.asfortranarray(A)
    elif layout == "rows":
        A = np.repeat(A, 2, axis=0)[::2]
    elif layout == "columns":
        A = np.repeat(A, 3, axis=1)[:, ::3]
    elif layout == "reversed":
        A = A[::-1, ::-1]
    found, expected = both(A, 0.5, 2.0)
    assert_statistics(found, expected, A)


@pytest.mark.parametrize("shape", [(4095, 17), (4097, 300), (20_000, 16), (1, 600)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_threads_gives_the_same_bits(shape, dtype):
    A = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    one = both(A, -1.0, 1.0, n_threads=1)[0]
    for n_threads in (2, 3, 8):
        np.testing.assert_array_equal(both(A, -1.0, 1.0, n_threads)[0], one)


@pytest.mark.parametrize("offset", [2.0**20, 2.0**30, -(2.0**34)])
def test_a_large_offset_costs_no_digits(offset):
    rng = np.random.default_rng(0)
    moved = rng.standard_normal((30_000, 5)) + offset
    exact = moved - offset  # what is left, exactly
    deviations = exact - exact.mean(axis=0)
    found = _signals.observe(moved)
    spread = np.sqrt((deviations**2).mean(axis=0))
    np.testing.assert_allclose(found.std, spread, rtol=1e-13)
    np.testing.assert_allclose(found.mean, offset, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 300, 9000])
@pytest.mark.parametrize("scale", [2e307, 1e300, 1e200, 1e-160, 1e-200, 1e-300])
def test_numbers_whose_squares_leave_the_range(scale, n):
    rng = np.random.default_rng(1)
    A = rng.standard_normal((n, 20)) + 3
    plain, scaled = _signals.observe(A), _signals.observe(scale * A)
    for name in ("mean", "std", "largest"):
        found, expected = getattr(scaled, name), getattr(plain, name)
        np.testing.assert_allclose(found / scale, expected, rtol=1e-12, atol=1e-14)
    assert scaled.rms() / scale == pytest.approx(plain.rms(), rel=1e-12)


def test_a_mixture_of_magnitudes():
    A = np.ones((1000, 3))
    A[0, 0], A[999, 1] = 1e200, 1e200
    A[:, 2] = np.tile([1e-300, -1e-300], 500)
    found = _signals.observe(A)
    # The mean of a value apart is 1 / n of it, the deviation sqrt((n - 1)) / n. (As the
    # first value it is the shift: what is left of the mean loses the factor n.)
    np.testing.assert_allclose(found.mean[:2], 1e197, rtol=1e-11)
    np.testing.assert_allclose(found.std[:2], 1e197 * math.sqrt(999), rtol=1e-12)
    np.testing.assert_allclose(found.std[2], 1e-300, rtol=1e-12)


def test_values_that_are_not_finite():
    A = np.ones((3000, 5))
    A[5, 1], A[7, 2], A[9, 3], A[0, 4] = np.nan, np.inf, -np.inf, np.inf
    statistics = _signals.observe(A)
    np.testing.assert_array_equal(np.isfinite(statistics.mean), [True] + 4 * [False])
    np.testing.assert_array_equal(statistics.largest, [1, np.nan] + 3 * [np.inf])
    # Without bounds nothing is flat, nor is a NaN with some.
    assert not statistics.flat.any()
    assert _signals.observe(A, -9.0, 9.0).flat.tolist() == [0, 0, 1, 1, 1]


def test_a_column_of_one_value():
    statistics = _signals.observe(np.full((5000, 3), 0.1))
    np.testing.assert_allclose(statistics.mean, 0.1, rtol=1e-15)
    assert (statistics.std == 0).all()
    assert statistics.n == 5000


@pytest.mark.parametrize("activation", FUNCTIONS, ids=str)
def test_flat_is_where_the_slope_is_below_a_twentieth(activation):
    low, high, on_z = _signals.flat_bounds(activations.get(activation))
    z = np.linspace(-30, 30, 600_001)
    slope = abs(activations.derivative(z, activation))
    value = z if on_z else activations.apply(z, activation)
    flat = (value <= low) | (value >= high)
    limit = _signals.FLAT * slope.max()
    # Far out on one side or both; a dip on the way, such as gelu's, is not meant.
    name = activations.get(activation).name
    if name in ("silu", "gelu", "gelu_tanh"):
        below = slope < limit
        expected = np.logical_and.accumulate(below)  # from the far left on
    elif name == "leaky_relu" and activations.get(activation).parameter != 0:
        expected = np.zeros(z.size, bool)
    else:
        expected = slope < limit
    # At z = 0 of a kink, and at the bound itself, one value may go either way.
    assert (flat != expected).sum() <= 2


def networks(seed):
    rng = np.random.default_rng(seed)
    pool = [
        lambda: Dense(int(rng.integers(1, 30)), "tanh"),
        lambda: Dense(int(rng.integers(1, 30)), "relu", bias=False),
        lambda: Dense(int(rng.integers(1, 30)), "gelu"),
        lambda: Activation("silu"),
        lambda: Activation("logistic"),
        lambda: Dropout(0.3),
        BatchNorm,
        LayerNorm,
        RMSNorm,
    ]
    layers = [pool[i]() for i in rng.integers(0, len(pool), rng.integers(0, 7))]
    return [*layers, Dense(4)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_network_against_the_twin(seed, training):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    net = fanin.Network(
        7, networks(seed), loss="squared_error", dtype=np.float64, rng=seed
    )
    X, y = rng.standard_normal((n, 7)), rng.standard_normal((n, 4))
    before = net.parameters.copy(), net._state.copy(), net._draw
    found = _signals.measure(net, X, y, training=training)
    loss, gradient = net.loss_and_gradient(X, y, training=training)
    assert found.loss == loss
    np.testing.assert_array_equal(found.gradient, gradient)
    mode = (net._state, training, net._dropout_key, net._draw)
    Z = reference.network_outputs(net._specs(), net.parameters, X, *mode)[-1]
    outputs, gradients = reference.network_signals(
        net._specs(), net.parameters, X, 2 * (Z - y) / y.size, *mode
    )
    np.testing.assert_allclose(found.input.mean, X.mean(axis=0), atol=1e-14)
    for layer, A, D in zip(found.layers, outputs, gradients, strict=True):
        np.testing.assert_allclose(layer.sample, A, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.forward.mean, A.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(
            layer.forward.std**2, A.var(axis=0), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(layer.forward.largest, abs(A).max(axis=0))
        np.testing.assert_array_equal(layer.forward.zero, (A == 0).sum(axis=0))
        if isinstance(layer.layer, Dropout) and not training:
            assert layer.backward is None
            continue
        np.testing.assert_allclose(layer.backward.mean, D.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(
            layer.backward.std**2, D.var(axis=0), rtol=1e-8, atol=1e-15
        )
    assert (net.parameters == before[0]).all()
    assert (net._state == before[1]).all()
    assert net._draw == before[2]


# The largest slope of each, and the z right of which it is not flat.
STEEPEST = {
    "tanh": (1.0, math.inf),
    "relu": (1.0, math.inf),
    "elu": (1.0, math.inf),
    "selu": (1.7580993408473766, math.inf),
    "silu": (1.0998393201288670, -3.9),
    "gelu": (1.1289041451851548, -2.2),
}


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", STEEPEST)
def test_flat_values_of_a_network(name, separate):
    layers = [Dense(40, name)] if not separate else [Dense(40), Activation(name)]
    net = fanin.Network(
        10, [*layers, Dropout(0.5)], loss="squared_error", dtype="f8", rng=0
    )
    X = 4 * np.random.default_rng(0).standard_normal((700, 10))
    *_, active, dropped = _signals.measure(net, X).layers
    weight, bias = net.named_parameters().values()
    z = X @ weight + bias
    steepest, right = STEEPEST[name]
    slope = abs(activations.derivative(z, name))
    flat = (slope < 0.05 * steepest) & (z < right)
    np.testing.assert_array_equal(active.forward.flat, flat.sum(axis=0))
    assert active.forward.flat.sum() > 0
    assert not dropped.forward.flat.any()


@pytest.mark.parametrize("layout", ["C", "F", "float32", "int"])
def test_many_chunks_are_one_pass(layout):
    # 64 MB of workspace is some 8,700 rows of this network.
    layers = [Dense(300, "tanh"), Dropout(0.2), Dense(300, "gelu"), Dense(3)]
    net = fanin.Network(20, layers, loss="softmax_cross_entropy", rng=0, dtype="f8")
    rng = np.random.default_rng(1)
    n = 2 * net._plan.chunk_rows + 77
    X = np.round(9 * rng.standard_normal((n, 20)))
    X = {
        "C": X,
        "F": np.asfortranarray(X),
        "float32": X.astype(np.float32),
        "int": X.astype(np.int64),
    }[layout]
    y = rng.integers(0, 3, n)
    found = _signals.measure(net, X, y)
    A = net.layer_outputs(X)
    rows = _signals.sampled_rows(n)
    assert rows.size == _signals.SAMPLED
    for layer, output in zip(found.layers, A, strict=True):
        np.testing.assert_allclose(layer.forward.mean, output.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(layer.forward.std, output.std(axis=0), rtol=1e-10)
        np.testing.assert_allclose(layer.sample, output[rows], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(
        found.layers[0].forward.flat, (abs(A[0]) >= math.sqrt(0.95)).sum(axis=0)
    )
    std = X.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.input.std, std, rtol=1e-10)
    loss, gradient = net.loss_and_gradient(X, y)
    assert found.loss == loss
    np.testing.assert_array_equal(found.gradient, gradient)
    assert (found.layers[1].forward.mean == found.layers[0].forward.mean).all()


def test_without_targets_the_gradient_is_a_normal_one():
    net = fanin.Network(5, [Dense(6, "tanh"), Dense(4)], loss="squared_error", rng=0)
    X = np.random.default_rng(0).standard_normal((3000, 5))
    found = _signals.measure(net, X)
    assert found.loss is None
    backward = found.layers[1].backward
    # 12,000 normal numbers over 3,000: their mean square is 1 within 4 deviations.
    square = (backward.std**2 + backward.mean**2).mean() * 3000.0**2
    assert abs(square - 1) < 4 * math.sqrt(2 / 12_000)
    again = _signals.measure(net, X)
    assert (again.gradient == found.gradient).all()


def test_nothing_but_dropout():
    net = fanin.Network(3, [Dropout(0.5), Dropout(0.5)], loss="squared_error")
    X = np.random.default_rng(0).standard_normal((10, 3))
    found = _signals.measure(net, X)
    for layer in found.layers:
        np.testing.assert_allclose(layer.forward.mean, X.mean(axis=0), atol=1e-6)
        assert layer.backward is None


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.empty((0, 5)), None, "X has no rows"),
        (np.zeros((3, 4)), None, "X must"),
        (np.zeros((3, 5)), np.array([0, 1, 7]), "y"),
        (np.zeros((3, 5)), np.array([0, 1]), "y"),
    ],
)
def test_what_cannot_be_measured(X, y, message):
    net = fanin.Network(5, [Dense(3)], loss="softmax_cross_entropy", rng=0)
    with pytest.raises(ValueError, match=message):
        _signals.measure(net, X, y)
