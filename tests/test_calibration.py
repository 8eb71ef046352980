"""calibrate: layer-sequential unit variance, against a plain NumPy version."""

from __future__ import annotations

import json
import signal
import threading
import time

import numpy as np
import pytest

import fanin
from fanin.calibration import CalibrationRecord
from fanin.layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    RMSNorm,
)

FUNCTIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "gelu": lambda z: fanin.activations.apply(z, "gelu"),
}


def network(layers, n_inputs=30, dtype=np.float64, rng=1, **options):
    return fanin.Network(
        n_inputs, layers, loss="squared_error", dtype=dtype, rng=rng, **options
    )


@pytest.fixture
def X():
    """Correlated features of different scales, off zero: nothing is standardized."""
    rng = np.random.default_rng(5)
    mixed = rng.standard_normal((400, 30)) @ rng.standard_normal((30, 30))
    return mixed * rng.uniform(0.1, 3, 30) + rng.uniform(-1, 1, 30)


def preactivations(net, X):
    """The linear outputs of the dense layers, in plain NumPy; activations only."""
    A, found = np.asarray(X, np.float64), []
    params = net.named_parameters()
    for i, layer in enumerate(net.layers):
        if isinstance(layer, Dense):
            A = A @ params[f"dense{i}.weight"].astype(np.float64)
            if layer.bias:
                A = A + params[f"dense{i}.bias"]
            found.append(A)
        if isinstance(layer, (Dense, Activation)):
            A = FUNCTIONS[layer.activation](A)
    return found


def lsuv(weights, activations, X, target=1.0, tol=0.01, max_iter=10):
    """Mishkin & Matas 2016, algorithm 1, as it is written; biases are 0."""
    A, factors = X, []
    for W, activation in zip(weights, activations, strict=True):
        factor = 1.0
        for _ in range(max_iter):
            variance = np.var(A @ W)
            if abs(variance - target) <= tol * target:
                break
            factor /= np.sqrt(variance / target)
            W /= np.sqrt(variance / target)
        factors.append(factor)
        A = FUNCTIONS[activation](A @ W)
    return factors


# --- what is computed ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init", [None, "orthogonal"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "logistic"])
def test_every_layer_of_a_deep_network_has_the_variance(activation, init, dtype, X):
    layers = [Dense(60, activation) for _ in range(20)] + [Dense(7)]
    net = network(layers, dtype=dtype)
    report = fanin.calibrate(net, X.astype(dtype), init=init, rng=0)
    assert report.ok
    # 20 layers of float32 part from float64 by far less than the tolerance.
    slack = 1e-3 if dtype is np.float32 else 1e-12
    for Z, record in zip(preactivations(net, X), report.layers, strict=True):
        assert abs(np.var(Z) - 1) <= 0.01 + slack
        assert record.std_after == pytest.approx(np.std(Z), rel=1e-3)
    if init is None:
        before = network(layers, dtype=dtype).named_parameters()
        for record in report.layers:
            name = f"{record.name}.weight"
            np.testing.assert_allclose(
                net.named_parameters()[name],
                before[name] * record.factor,
                rtol=4 * float(np.finfo(dtype).eps),
            )


@pytest.mark.parametrize(("target", "tol"), [(1.0, 0.01), (0.25, 1e-6), (9.0, 0.5)])
def test_it_is_the_algorithm_of_the_paper(target, tol, X):
    names = ["relu", "tanh", "identity", "relu", "logistic", "identity"]
    net = network([Dense(20 + i, name) for i, name in enumerate(names)])
    weights = [a.copy() for n, a in net.named_parameters().items() if "weight" in n]
    kept = X.copy()
    report = fanin.calibrate(net, X, target=target, tol=tol)
    factors = lsuv(weights, names, X, target, tol)
    np.testing.assert_array_equal(X, kept)
    # Sums of 30 terms, through six layers.
    np.testing.assert_allclose([r.factor for r in report.layers], factors, rtol=1e-11)
    for i, W in enumerate(weights):
        found = net.named_parameters()[f"dense{i}.weight"]
        np.testing.assert_allclose(found, W, rtol=1e-11)
        assert not net.named_parameters()[f"dense{i}.bias"].any()


def test_orthogonal_weights_stay_orthogonal(X):
    net = network([Dense(30, "tanh"), Dense(12, "relu"), Dense(25)])
    report = fanin.calibrate(net, X, init="orthogonal", rng=3)
    for i, record in enumerate(report.layers):
        W = net.named_parameters()[f"dense{i}.weight"] / record.factor
        W = W if W.shape[0] >= W.shape[1] else W.T
        np.testing.assert_allclose(W.T @ W, np.eye(W.shape[1]), atol=1e-13)
    again = network([Dense(30, "tanh"), Dense(12, "relu"), Dense(25)], rng=9)
    fanin.calibrate(again, X, init="orthogonal", rng=3)
    np.testing.assert_array_equal(again.parameters, net.parameters)


def test_init_may_be_auto_or_a_function(X):
    net = network([Dense(40), Activation("relu"), Dense(3)], init="zeros")
    assert not fanin.calibrate(net, X).ok
    report = fanin.calibrate(net, X, init="auto", rng=0)
    weight = net.named_parameters()["dense0.weight"] / report.layers[0].factor
    drawn = fanin.initializers.he_normal((30, 40), rng=0, dtype=np.float64)
    np.testing.assert_allclose(weight, drawn, rtol=1e-14)
    report = fanin.calibrate(net, X, init=fanin.initializers.sparse, rng=0)
    assert report.ok
    assert ((net.named_parameters()["dense0.weight"] != 0).sum(axis=0) == 15).all()


def test_biases_enter_the_equation(X):
    net = network([Dense(25, "tanh"), Dense(10), Dense(8, "relu"), Dense(6)])
    rng = np.random.default_rng(2)
    for name, array in net.named_parameters().items():
        if name.endswith("bias"):
            array[...] = rng.normal(0.3, 0.6, array.shape)
    # So that they matter: units' means that correlate with the biases, both ways.
    biases = {n: a.copy() for n, a in net.named_parameters().items() if "bias" in n}
    report = fanin.calibrate(net, X + 2, tol=1e-10)
    assert report.ok
    assert all(record.iterations == 1 for record in report.layers)
    for Z in preactivations(net, X + 2):
        assert np.var(Z) == pytest.approx(1, rel=1e-10)
    for name, bias in biases.items():
        np.testing.assert_array_equal(net.named_parameters()[name], bias)


def test_biases_that_leave_the_weight_almost_nothing():
    # f^2 a + 2 f c + d = t, with t - d so small that the roots' formula cancels.
    mp = pytest.importorskip("mpmath")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 4)) + 1
    net = network([Dense(6)], 4)
    named = net.named_parameters()
    signs = np.array([1.0, -1, 1, -1, 1, -1])
    target = 1 + 2.0**-50
    for sign in (1, -1):
        W = rng.uniform(0.5, 1, (4, 6)) * signs * sign
        named["dense0.weight"][...] = W
        named["dense0.bias"][...] = b = signs  # of variance 1 exactly
        report = fanin.calibrate(net, X, target=target, tol=1e-30, max_iter=1)
        with mp.workdps(50):
            Z = [[mp.fdot(map(float, x), map(float, w)) for w in W.T] for x in X]
            bias = [mp.mpf(float(v)) for v in b]
            flat = [z for row in Z for z in row]
            tiled = bias * len(Z)

            def covariance(p, q):
                n = len(p)
                pairs = zip(p, q, strict=True)
                return mp.fsum(x * y for x, y in pairs) / n - (
                    mp.fsum(p) / n * mp.fsum(q) / n
                )

            a, c = covariance(flat, flat), covariance(flat, tiled)
            d = covariance(bias, bias)
            exact = (mp.sqrt(c * c + a * (target - d)) - c) / a
        assert report.layers[0].factor == pytest.approx(float(exact), rel=1e-12)


def test_all_kinds_of_layers(X):
    layers = [
        LayerNorm(),
        Dense(40),
        BatchNorm(),
        Activation("relu"),
        Dropout(0.5),
        Dense(30, "tanh", bias=False),
        RMSNorm(),
        Dense(20),
        BatchNorm(affine=False),
        Activation(fanin.activations.LeakyReLU(0.3)),
        Dense(4),
    ]
    net = network(layers)
    rng = np.random.default_rng(0)
    for name, array in net.named_parameters().items():
        if name.endswith(("gamma", "beta")):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    for array in net.named_buffers().values():
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    before = {n: a.copy() for n, a in net.named_parameters().items()}
    buffers = {n: a.copy() for n, a in net.named_buffers().items()}

    def variances(batch_statistics):
        params, A, found = net.named_parameters(), X, []
        for i, layer in enumerate(net.layers):
            key = f"{layer.kind}{i}"
            g, b = params.get(f"{key}.gamma", 1.0), params.get(f"{key}.beta", 0.0)
            if isinstance(layer, Dense):
                A = A @ params[f"{key}.weight"] + params.get(f"{key}.bias", 0.0)
                found.append(np.var(A))
                A = np.tanh(A) if layer.activation == "tanh" else A
            elif isinstance(layer, LayerNorm):
                A = fanin.layer_norm(A, g * np.ones(30), b * np.ones(30), eps=1e-5)[0]
            elif isinstance(layer, RMSNorm):
                eps = np.finfo(np.float64).eps
                A = A / np.sqrt(np.mean(A * A, axis=1, keepdims=True) + eps) * g
            elif isinstance(layer, BatchNorm):
                mean, var = A.mean(axis=0), A.var(axis=0)
                if not batch_statistics:
                    mean = buffers[f"{key}.running_mean"]
                    var = buffers[f"{key}.running_var"]
                A = (A - mean) / np.sqrt(var + 1e-5) * g + b
            elif isinstance(layer, Activation):
                A = fanin.activations.apply(A, layer.activation)
        return found

    for batch_statistics in (True, False):
        report = fanin.calibrate(net, X, tol=1e-9, batch_statistics=batch_statistics)
        assert report.ok
        names = [r.name for r in report.layers]
        assert names == ["dense1", "dense5", "dense7", "dense10"]
        np.testing.assert_allclose(variances(batch_statistics), 1, rtol=1e-8)
        assert abs(np.array(variances(not batch_statistics)) - 1).max() > 0.01
    for name, array in net.named_parameters().items():
        if not name.endswith("weight"):
            np.testing.assert_array_equal(array, before[name])
    for name, array in net.named_buffers().items():
        np.testing.assert_array_equal(array, buffers[name])


def test_a_custom_activation(X):
    def softsign(z):
        return z / (1 + abs(z))

    def slope(z):
        return (1 + abs(z)) ** -2.0

    activation = fanin.activations.Custom(softsign, slope)
    net = network([Dense(20, activation), Dense(20, activation), Dense(2)])
    assert fanin.calibrate(net, X, tol=1e-9).ok
    A = X
    for name, W in net.named_parameters().items():
        if name.endswith("weight"):
            assert np.var(A @ W) == pytest.approx(1, rel=1e-8)
            A = softsign(A @ W)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_do_not_change_a_bit(n_threads, X):
    layers = [Dense(70, "gelu"), BatchNorm(), Dense(50, "tanh"), Dense(3)]
    X = np.tile(X, (10, 1))
    nets = [network(layers, dtype=np.float32) for _ in range(2)]
    reports = [
        fanin.calibrate(net, X, n_threads=n)
        for net, n in zip(nets, (1, n_threads), strict=True)
    ]
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    "layout",
    [np.asfortranarray, lambda X: np.repeat(X, 2, axis=0)[::2], lambda X: X.tolist()],
)
def test_the_layout_of_the_data_does_not_matter(layout, X):
    nets = [network([Dense(20, "relu"), Dense(3)]) for _ in range(2)]
    fanin.calibrate(nets[0], X)
    fanin.calibrate(nets[1], layout(X))
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-12)


@pytest.mark.parametrize(
    "dtype", [np.int64, np.float16, np.float32, np.float64, ">f4", bool]
)
def test_other_dtypes_than_the_networks(dtype, X):
    data = (X > 0 if dtype is bool else X * 4).astype(dtype)
    data.flags.writeable = False
    # (An activation first: the caller's array must not be what is worked on in place.)
    net = network([Activation("relu"), Dense(20, "relu"), Dense(3)], dtype=np.float32)
    assert fanin.calibrate(net, data).ok
    Z = preactivations(net, data)
    assert np.var(Z[0]) == pytest.approx(1, abs=0.011)


def test_a_network_that_is_right_already_is_left_alone(X):
    net = network([Dense(20, "relu"), Dense(3)])
    fanin.calibrate(net, X)
    before = net.parameters.copy()
    report = fanin.calibrate(net, X)
    np.testing.assert_array_equal(net.parameters, before)
    assert [(r.factor, r.iterations, r.ok) for r in report.layers] == [(1, 0, True)] * 2
    assert report.layers[0].sentence == "as it should be already"


def test_calibration_repairs_a_network_that_does_not_train():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 8))
    y = np.sin(X[:, :1]) * X[:, 1:2]
    small = np.float32(0.02)

    def init(shape, *, rng, dtype, out):
        out[...] = small * rng.standard_normal(shape)

    losses = {}
    for calibrated in (False, True):
        net = network([Dense(30, "tanh", init=init)] * 10 + [Dense(1)], 8)
        if calibrated:
            fanin.calibrate(net, X)
        for _ in range(300):
            net.train_step(X, y, fanin.optimizers.SGD(0.01))
        losses[calibrated] = net.loss(X, y)
    assert losses[False] == pytest.approx(y.var(), rel=0.01)  # nothing was learned
    assert losses[True] < losses[False] / 2


# --- what cannot be calibrated ------------------------------------------------------


def test_constant_data_changes_nothing(X):
    net = network([Dense(20, "relu"), Dense(3)])
    before = net.parameters.copy()
    report = fanin.calibrate(net, np.tile(X[:1], (50, 1)))
    np.testing.assert_array_equal(net.parameters, before)
    assert not report.ok
    for record in report.layers:
        assert record.sentence == "all samples of X are the same: left as it is"
        assert (record.factor, record.iterations) == (1.0, 0)
    assert "not within 0.01 of it: dense0, dense1" in report.summary


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_behind_dead_units_is_left(dtype, X):
    net = network([Dense(20, "relu"), Dense(9, "tanh"), Dense(3)], dtype=dtype)
    named = net.named_parameters()
    named["dense0.bias"][...] = -1e3
    named["dense1.bias"][...] = np.linspace(-1, 1, 9)
    before = net.parameters.copy()
    report = fanin.calibrate(net, X.astype(dtype))
    assert report.layers[0].ok
    assert report.layers[1].sentence == (
        "it makes the same of all data, but for rounding: left as it is"
    )
    assert report.layers[1].factor == 1.0
    assert not report.layers[1].ok
    after = net.unflatten(before)["dense1.weight"]
    np.testing.assert_array_equal(named["dense1.weight"], after)


def test_samples_made_alike_leave_one_unit_and_are_said(X):
    # In float32 the logistic function makes all samples the same after some layers.
    # Several units still differ from each other; one alone shows nothing but rounding.
    layers = [Dense(60, "logistic") for _ in range(30)] + [Dense(1)]
    net = network(layers, dtype=np.float32)
    report = fanin.calibrate(net, X.astype(np.float32))
    assert [r.ok for r in report.layers] == [True] * 30 + [False]
    assert "its samples are all alike, only its units differ" in (
        report.layers[29].sentence
    )
    assert "all alike" not in report.layers[3].sentence
    assert "but for rounding" in report.layers[30].sentence
    assert report.layers[30].factor == 1.0


def test_weights_of_zero_and_large_biases_are_left(X):
    net = network([Dense(20, init="zeros"), Dense(3)])
    report = fanin.calibrate(net, X)
    assert report.layers[0].sentence == "its weight is 0: left as it is"
    assert report.layers[1].sentence.startswith("it makes the same of all data")
    net = network([Dense(20), Dense(3)])
    net.named_parameters()["dense0.bias"][::2] = 4.0  # variance 4
    report = fanin.calibrate(net, X)
    assert (
        report.layers[0].sentence == "its biases alone have variance 4: left as it is"
    )
    assert not report.layers[0].ok
    assert report.layers[1].ok


def test_a_tolerance_below_rounding_ends(X):
    net = network([Dense(20, "relu"), Dense(3)], dtype=np.float32)
    report = fanin.calibrate(net, X, tol=1e-30, max_iter=3)
    assert report.layers[0].iterations == 3
    assert report.layers[0].sentence == "not reached in 3 iterations"
    assert report.layers[0].std_after == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"net": "net"}, TypeError, "net must be a fanin.Network; got"),
        ({"X": np.zeros((5, 4))}, ValueError, r"X .*30"),
        ({"X": np.zeros((1, 30))}, ValueError, "at least 2 samples.*; got 1"),
        ({"X": np.zeros((0, 30))}, ValueError, "at least 2 samples.*; got 0"),
        ({"X": np.zeros((5, 30), complex)}, TypeError, "complex128"),
        ({"init": "he"}, ValueError, "init must be 'auto', one of .*; got 'he'"),
        ({"init": 3}, TypeError, "init must be 'auto', a name or a callable; got int"),
        ({"target": 0.0}, ValueError, r"target must be a finite number in \(0"),
        ({"target": np.inf}, ValueError, "target must be a finite number"),
        ({"tol": -1.0}, ValueError, "tol must be a finite number"),
        ({"tol": "1"}, TypeError, "tol must be a real number; got str"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1; got 0"),
        ({"batch_statistics": 1}, TypeError, "batch_statistics must be True or False"),
        ({"rng": "a"}, TypeError, "rng must be"),
        ({"n_threads": 0}, ValueError, "n_threads must be"),
    ],
)
def test_errors_name_the_argument(change, error, match, X):
    net = network([Dense(20, "relu"), Dense(3)])
    before = net.parameters.copy()
    arguments = {"net": net, "X": X} | change
    with pytest.raises(error, match=match):
        fanin.calibrate(**arguments)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_that_is_not_finite_is_named(value, dtype, X):
    net = network([Dense(20, "relu"), Dense(3)], dtype=dtype)
    before = net.parameters.copy()
    X[17, 4] = value
    match = rf"X must be finite; got {value}( in float32)? at \[17, 4\]"
    with pytest.raises(ValueError, match=match):
        fanin.calibrate(net, X)
    np.testing.assert_array_equal(net.parameters, before)


def test_overflow_is_named(X):
    net = network([Dense(20), Dense(3)], dtype=np.float32)
    before = net.parameters.copy()
    X[2, 3] = 1e39
    with pytest.raises(ValueError, match=r"got inf in float32 at \[2, 3\]"):
        fanin.calibrate(net, X)
    with pytest.raises(FloatingPointError, match=r"output of dense0 .* not finite"):
        fanin.calibrate(net, np.full((4, 30), 3e38) * np.array([[1], [1], [-1], [0.5]]))
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1e200, np.float64),
        (1e-200, np.float64),
        (1e-290, np.float64),
        (1e35, np.float32),
        (1e-36, np.float32),
    ],
)
def test_data_of_extreme_size_is_scaled(scale, dtype, X):
    net = network([Dense(20, "relu"), Dense(3)], dtype=dtype)
    report = fanin.calibrate(net, (X * scale).astype(dtype))
    twin = network([Dense(20, "relu"), Dense(3)], dtype=dtype)
    expected = fanin.calibrate(twin, X)
    assert report.ok
    eps = float(np.finfo(dtype).eps)
    for found, other in zip(report.layers, expected.layers, strict=True):
        factor = other.factor / scale if other is expected.layers[0] else other.factor
        # Data at the end of float32's range has lost some digits.
        assert found.factor == pytest.approx(factor, rel=1e3 * eps)


def test_an_activation_that_overflows_is_named(X):
    def exponential(z):
        with np.errstate(over="ignore"):
            return np.exp(z)

    custom = fanin.activations.Custom(exponential, exponential)
    net = network([Dense(20, custom), Dense(3)])
    net.named_parameters()["dense0.bias"][...] = 800.0
    before = net.parameters.copy()
    with pytest.raises(FloatingPointError, match=r"output of dense1 .* not finite"):
        fanin.calibrate(net, X)
    np.testing.assert_array_equal(net.parameters, before)


# --- what goes wrong on the way changes nothing ------------------------------------


def test_an_exception_of_the_users_leaves_the_parameters(X):
    calls = []

    def broken(shape, *, rng, dtype, out):
        calls.append(shape)
        out[...] = 1
        if len(calls) == 2:
            raise KeyError("mine")

    net = network([Dense(20, "relu"), Dense(3)])
    before = net.parameters.copy()
    with pytest.raises(KeyError, match="mine"):
        fanin.calibrate(net, X, init=broken)
    np.testing.assert_array_equal(net.parameters, before)
    with pytest.raises(TypeError, match="init of dense0 must fill its argument out"):
        fanin.calibrate(net, X, init=lambda shape, *, rng, dtype, out: np.ones(shape))
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a POSIX timer")
def test_an_interrupt_leaves_the_parameters():
    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    X = np.random.default_rng(0).standard_normal((2000, 300)).astype(np.float32)
    net = network([Dense(300, "tanh") for _ in range(200)], 300, np.float32)
    before = net.parameters.copy()
    old = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.perf_counter()
        with pytest.raises(Stopped):
            fanin.calibrate(net, X)
        assert time.perf_counter() - start < 10
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    np.testing.assert_array_equal(net.parameters, before)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(np.zeros((2000, 300)))


def test_backward_needs_a_new_forward_afterwards(X):
    net = network([Dense(20, "relu"), Dense(3)])
    net.forward(X)
    fanin.calibrate(net, X)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(np.zeros((len(X), 3)))


def test_the_work_is_linear_in_the_depth(X, monkeypatch):
    # Two products for each layer: one to measure, one to see that it is right.
    from fanin import calibration

    products = []

    def counted(A, W, *args, **options):
        products.append(W.shape)
        return fanin.dense(A, W, *args, **options)

    monkeypatch.setattr(calibration, "dense", counted)
    for depth in (10, 40):
        products.clear()
        net = network([Dense(30, "tanh") for _ in range(depth)])
        assert fanin.calibrate(net, X).ok
        assert depth <= len(products) <= 2 * depth


def test_other_threads_run_meanwhile(X):
    net = network([Dense(200, "tanh") for _ in range(30)])
    big = np.tile(X, (10, 1))
    done = threading.Event()
    thread = threading.Thread(
        target=lambda: (fanin.calibrate(net, big), done.set()), daemon=True
    )
    thread.start()
    ticks = 0
    while not done.is_set():
        ticks += 1
    thread.join()
    assert ticks > 100


# --- the report ---------------------------------------------------------------------


def test_the_report_reads_as_a_table_and_as_plain_objects(X):
    net = network([Dense(20, "relu"), Dense(5, init="zeros"), Dense(3)])
    report = fanin.calibrate(net, X)
    assert isinstance(report, fanin.CalibrationReport)
    assert isinstance(report.layers[0], CalibrationRecord)
    assert (report.n_samples, report.target, report.tol) == (400, 1.0, 0.01)
    lines = repr(report).splitlines()
    assert lines[0] == report.summary
    assert lines[0].startswith("1 of 3 dense layers scaled to variance 1; not within")
    assert lines[2].split()[:2] == ["layer", "std"]
    assert lines[4].split()[0] == "dense0"
    assert lines[5].endswith("its weight is 0: left as it is")
    assert lines[-1] == "400 samples, target variance 1, tolerance 0.01 of it"
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["layers"][0]["factor"] == report.layers[0].factor
    assert found["ok"] is report.ok is False
    html = report._repr_html_()
    assert html.count("<tr>") == 4
    assert "its weight is 0" in html


@pytest.mark.parametrize("target", [1e-100, 1e90])
def test_weights_that_would_leave_the_dtype_stay(target):
    net = fanin.Network(4, [fanin.layers.Dense(3)], loss="squared_error", rng=0)
    before = net.parameters.copy()
    X = np.random.default_rng(0).standard_normal((50, 4))
    record = fanin.calibrate(net, X, target=target).layers[0]
    assert "leave the range of float32" in record.sentence
    assert (record.factor, record.iterations, record.ok) == (1.0, 0, False)
    np.testing.assert_array_equal(net.parameters, before)


def test_data_that_varies_in_its_last_places_is_calibrated():
    X = 1000 + 1e-3 * np.random.default_rng(0).standard_normal((200, 4))
    layers = [fanin.layers.BatchNorm(), fanin.layers.Dense(3)]
    net = fanin.Network(4, layers, loss="squared_error", rng=0)
    assert fanin.calibrate(net, X).ok


def test_data_of_another_dtype_is_converted_by_pieces(monkeypatch):
    monkeypatch.setattr("fanin.calibration.PIECE", 12)
    X = np.random.default_rng(0).standard_normal((50, 4))
    nets = [
        fanin.Network(4, [fanin.layers.Dense(3)], loss="squared_error", rng=0)
        for _ in range(2)
    ]
    for net, given in zip(nets, (X, X.astype(np.float32)), strict=True):
        fanin.calibrate(net, given)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
