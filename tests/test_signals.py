"""What is measured of a network's signals: against the twin and against NumPy."""

from __future__ import annotations

import math
import threading
import time

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


def both(A, low=-math.inf, high=math.inf, n_threads=2):
    found = np.zeros((5, A.shape[1]))
    observe(found, A, low, high, n_threads)
    expected = np.empty_like(found)
    reference.observe(expected, A, low, high, n_threads)
    return found, expected


def assert_statistics(found, expected, A):
    """Counts and maxima are exact; sums of n terms in doubles lose a few units."""
    np.testing.assert_array_equal(found[2:], expected[2:])
    wide = A.astype(np.float64)
    eps = np.finfo(np.float64).eps
    size = abs(wide).max(axis=0) * A.shape[0] * eps
    assert (abs(found[0] - expected[0]) <= size + 1e-300).all()
    # The twin's own mean is off by as much, which its deviations all feel.
    spread = wide.max(axis=0) - wide.min(axis=0)
    limit = A.shape[0] * (4 * A.shape[0] * eps * spread**2 + size**2)
    assert (abs(found[1] - expected[1]) <= limit + 1e-300).all()


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


def test_a_large_offset_costs_few_digits():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((30_000, 5))
    moved = A + 2.0**30
    exact = moved - 2.0**30  # what is left of A, exactly
    found = both(moved)[0]
    deviations = exact - exact.mean(axis=0)
    # A block's mean is rounded to 1e-7 of the spread, the last place of 2^30.
    np.testing.assert_allclose(found[1], (deviations**2).sum(axis=0), rtol=1e-7)


def test_values_that_are_not_finite():
    A = np.ones((3000, 4))
    A[5, 1], A[7, 2], A[9, 3] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        statistics = _signals.observe(A)
    np.testing.assert_array_equal(np.isfinite(statistics.mean), [True] + 3 * [False])
    assert statistics.largest[0] == 1.0
    assert not np.isfinite(statistics.largest[1:]).any()


def test_a_column_of_one_value():
    statistics = _signals.observe(np.full((5000, 3), 0.1))
    np.testing.assert_allclose(statistics.mean, 0.1, rtol=1e-15)
    assert (statistics.m2 <= 5000 * (1e-16) ** 2).all()
    assert statistics.n == 5000


def test_other_threads_go_on():
    A = np.ones((4_000_000, 16), np.float32)
    ticks = []
    done = threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    _signals.observe(A, n_threads=1)
    stop = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < t < stop for t in ticks) > 0


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
            layer.forward.m2, n * A.var(axis=0), rtol=1e-9, atol=1e-12
        )
        if isinstance(layer.layer, Dropout) and not training:
            assert layer.backward is None
            continue
        np.testing.assert_allclose(layer.backward.mean, D.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(
            layer.backward.m2, n * D.var(axis=0), rtol=1e-8, atol=1e-15
        )
    assert (net.parameters == before[0]).all()
    assert (net._state == before[1]).all()
    assert net._draw == before[2]


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
        np.testing.assert_allclose(layer.forward.m2, n * output.var(axis=0), rtol=1e-10)
        np.testing.assert_allclose(layer.sample, output[rows], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(
        found.layers[0].forward.flat, (abs(A[0]) >= math.sqrt(0.95)).sum(axis=0)
    )
    squares = n * X.var(axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.input.m2, squares, rtol=1e-10)
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
    square = (backward.m2 / 3000 + backward.mean**2).mean() * 3000.0**2
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
