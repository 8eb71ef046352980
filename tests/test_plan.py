"""The plan's passes: against the twin, over layouts, dtypes, threads and chunks."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import fanin
from fanin import losses
from fanin._kernels._activations import ACTIVATIONS
from fanin._kernels._losses import LOSSES
from fanin._kernels._perturb import central_differences
from fanin._kernels._plan import KINDS, Plan

ACTIVATION_NAMES = sorted(ACTIVATIONS)
LOSS_NAMES = sorted(LOSSES)
# leaky_relu and elu by z, where a does not tell the derivative, among them.
FUNCTIONS = [fanin.activations.get(name) for name in ACTIVATION_NAMES] + [
    fanin.activations.LeakyReLU(-0.3),
    fanin.activations.ELU(-0.5),
    fanin.activations.ELU(2.0),
]


def dense(n_out, activation="identity", bias=True, l2=0.0):
    function = fanin.activations.get(activation)
    return {
        "kind": "dense",
        "n_out": n_out,
        "activation": function.name,
        "parameter": function.parameter,
        "bias": bias,
        "l2": l2,
    }


def activation_layer(name):
    function = fanin.activations.get(name)
    parameter = function.parameter
    return {"kind": "activation", "activation": function.name, "parameter": parameter}


def norm(kind, eps=1e-5, affine=True):
    return {"kind": kind, "eps": eps, "affine": affine, "momentum": 0.1}


def stack(widths, names, bias=True):
    return [dense(n, a, bias) for n, a in zip(widths[1:], names, strict=False)]


def targets(loss, m, n_outputs, rng, dtype=np.float64):
    if loss.name == "softmax_cross_entropy":
        return rng.integers(0, n_outputs, m)
    if loss.name == "poisson":
        return rng.poisson(2.0, (m, n_outputs)).astype(dtype)
    return rng.uniform(size=(m, n_outputs)).astype(dtype)


def network(layers, n_inputs, loss, m, dtype, seed):
    """A plan of these layers with parameters, inputs and targets at random."""
    rng = np.random.default_rng(seed)
    loss = losses.get(loss)
    plan = Plan(layers, n_inputs, loss, np.dtype(dtype))
    theta = rng.standard_normal(plan.n_parameters)
    for own in reference.split_parameters(layers, n_inputs, theta):
        if "weight" in own:
            own["weight"] /= np.sqrt(own["weight"].shape[0])
    X = rng.standard_normal((m, n_inputs)).astype(dtype)
    y = targets(loss, m, plan.n_outputs, rng, dtype)
    return plan, theta.astype(dtype), X, y


def problem(widths, names, loss, m, dtype, seed, bias=True):
    """The same for dense layers."""
    layers = stack(widths, names, bias)
    plan, theta, X, y = network(layers, widths[0], loss, m, dtype, seed)
    return plan, layers, theta, X, y


def bound(dtype, layers, m):
    """Relative rounding error of a pass: a few eps times the longest sum's root."""
    longest = max(layer.get("n_out", 1) for layer in layers)
    return 16 * np.finfo(dtype).eps * len(layers) * np.sqrt(max(longest, m, 40))


def distance(a, b):
    return np.linalg.norm(a.astype(float) - b) / max(np.linalg.norm(b), 1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
@pytest.mark.parametrize("m", [1, 2, 33, 600])
def test_pass_equals_twin(name, loss, m, dtype):
    plan, layers, theta, X, y = problem(
        (7, 40, 19, 5), (name, name, "identity"), loss, m, dtype, seed=m
    )
    out = np.empty((m, 5), dtype)
    plan.forward(theta, X, out)
    expected = reference.network_outputs(layers, theta.astype(float), X)[-1]
    limit = bound(dtype, layers, m)
    assert distance(out, expected) <= limit
    gradient = np.full_like(theta, np.nan)
    value, bad = plan.evaluate(theta, X, y, gradient)
    exact, wanted, _ = reference.loss_and_gradient(
        layers, theta.astype(float), X, y, losses.get(loss)
    )
    assert bad == -1
    assert abs(value - exact) <= limit * max(1.0, abs(exact))
    assert distance(gradient, wanted) <= 4 * limit
    alone = plan.evaluate(theta, X, y)[0]
    if m < 512:
        assert alone == value
    else:
        # Many rows without a gradient go through all layers block by block: products
        # of another shape, which a BLAS may round otherwise.
        assert abs(alone - value) <= limit * max(1.0, abs(exact))


@pytest.mark.parametrize("last", ["logistic", "tanh", "relu"])
def test_activation_on_the_last_layer(last):
    plan, layers, theta, X, y = problem(
        (6, 9, 4), ("tanh", last), "squared_error", 50, np.float64, seed=1
    )
    gradient = np.empty_like(theta)
    value, _ = plan.evaluate(theta, X, y, gradient)
    exact, wanted, _ = reference.loss_and_gradient(
        layers, theta, X, y, losses.SquaredError()
    )
    assert value == pytest.approx(exact, rel=1e-14)
    assert distance(gradient, wanted) <= bound(np.float64, layers, 50)


def test_without_bias():
    plan, layers, theta, X, y = problem(
        (6, 9, 4), ("tanh", "identity"), "squared_error", 50, np.float64, 1, bias=False
    )
    assert plan.n_parameters == 6 * 9 + 9 * 4
    gradient = np.empty_like(theta)
    plan.evaluate(theta, X, y, gradient)
    wanted = reference.loss_and_gradient(layers, theta, X, y, losses.SquaredError())[1]
    assert distance(gradient, wanted) <= bound(np.float64, layers, 50)


def layouts(X):
    """The same numbers in every layout the contract names."""
    m, n = X.shape
    yield "C", X
    yield "F", np.asfortranarray(X)
    wide = np.zeros((m, n + 3), X.dtype)
    wide[:, 1 : n + 1] = X
    yield "padded rows", wide[:, 1 : n + 1]
    yield "every second row", np.repeat(X, 2, axis=0)[::2]
    yield "every second column", np.repeat(X, 2, axis=1)[:, ::2]
    yield "negative strides", np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1]
    yield "F, negative", np.asfortranarray(X[:, ::-1])[:, ::-1]
    raw = np.zeros(X.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(X.dtype).reshape(X.shape)
    unaligned[...] = X
    yield "unaligned", unaligned
    yield "byte-swapped", X.astype(X.dtype.newbyteorder())
    frozen = X.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [1, 3, 300])
def test_any_layout_gives_the_same_result(m, dtype):
    plan, layers, theta, X, y = problem(
        (8, 30, 3), ("tanh", "identity"), "softmax_cross_entropy", m, dtype, seed=2
    )
    wanted = np.empty_like(theta)
    value, _ = plan.evaluate(theta, X, y, wanted)
    for name, array in layouts(X):
        before = array.copy()
        gradient = np.empty_like(theta)
        found, _ = plan.evaluate(theta, array, y, gradient)
        limit = bound(dtype, layers, m)
        assert abs(found - value) <= limit, name
        assert distance(gradient, wanted) <= limit, name
        np.testing.assert_array_equal(array, before, err_msg=name)


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", ">i4", ">f2"],
)
@pytest.mark.parametrize("net_dtype", [np.float32, np.float64])
def test_any_real_dtype_is_converted(dtype, net_dtype):
    plan, _, theta, _, y = problem(
        (8, 30, 3), ("tanh", "identity"), "softmax_cross_entropy", 300, net_dtype, 2
    )
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (300, 8))
    wanted = plan.evaluate(theta, numbers.astype(net_dtype), y)
    assert plan.evaluate(theta, numbers.astype(dtype), y) == wanted
    for label_dtype in ("i1", "u1", "i2", ">i4", "u8"):
        again = plan.evaluate(theta, numbers.astype(dtype), y.astype(label_dtype))
        assert again == wanted


def test_negative_halves_and_their_subnormals_are_exact():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    plan = Plan([dense(1, bias=False)], 1, losses.SquaredError(), np.dtype(np.float64))
    out = np.empty((halves.size, 1))
    plan.forward(np.ones(1), halves[:, np.newaxis], out)
    np.testing.assert_array_equal(out[:, 0], halves.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_agree_within_rounding(dtype):
    """Tiles follow the number of threads, and BLAS may sum a tile in its own way."""
    plan, layers, theta, X, y = problem(
        (200, 300, 150, 10),
        ("relu", "tanh", "identity"),
        "softmax_cross_entropy",
        400,
        dtype,
        seed=3,
    )
    wanted = np.empty_like(theta)
    value, _ = plan.evaluate(theta, X, y, wanted, 1)
    for n_threads in (2, 3, 16):
        gradient = np.empty_like(theta)
        found, _ = plan.evaluate(theta, X, y, gradient, n_threads)
        limit = bound(dtype, layers, 400)
        assert abs(found - value) <= limit
        assert distance(gradient, wanted) <= limit
        again = np.empty_like(theta)
        assert plan.evaluate(theta, X, y, again, n_threads)[0] == found
        np.testing.assert_array_equal(again, gradient)


def test_more_rows_than_a_chunk():
    plan, layers, theta, X, y = problem(
        (5, 6, 3), ("tanh", "identity"), "softmax_cross_entropy", 40_000, np.float64, 4
    )
    assert X.shape[0] > 2 * plan.chunk_rows
    for array in (X, np.asfortranarray(X), X.astype(">f8")):
        gradient = np.empty_like(theta)
        value, _ = plan.evaluate(theta, array, y, gradient, 2)
        exact, wanted, _ = reference.loss_and_gradient(
            layers, theta, X, y, losses.SoftmaxCrossEntropy()
        )
        assert value == pytest.approx(exact, rel=1e-13)
        assert distance(gradient, wanted) <= 1e-12
        out = np.empty((40_000, 3))
        plan.forward(theta, array, out, None, False, 2)
        np.testing.assert_allclose(
            out, reference.network_outputs(layers, theta, X)[-1], rtol=1e-12, atol=1e-13
        )


def test_bias_gradients_sum_in_double():
    """In float32 a plain sum of 40,000 terms of one size would lose 3 digits."""
    plan = Plan([dense(1)], 1, losses.SquaredError(), np.dtype(np.float32))
    m = 40_000
    gradient = np.empty(2, np.float32)
    y = np.full((m, 1), -0.1, np.float32)
    plan.evaluate(np.zeros(2, np.float32), np.zeros((m, 1), np.float32), y, gradient)
    term = np.float32(2.0 / m * np.float64(np.float32(0.1)))
    assert gradient[1] == np.float32(m * np.float64(term))
    assert np.full(m, term).cumsum(dtype=np.float32)[-1] != gradient[1]


def test_step_picks_rows_and_updates():
    plan, layers, theta, X, y = problem(
        (5, 6, 3), ("tanh", "identity"), "softmax_cross_entropy", 100, np.float64, 5
    )
    index = np.random.default_rng(0).permutation(100)[:37].astype(np.intp)
    gradient = np.empty_like(theta)
    before = theta.copy()
    update = fanin.optimizers.SGD(0.5)._prepare(theta)
    value, bad, taken = plan.step(theta, gradient, X, y, update, index)
    assert taken
    exact, wanted, _ = reference.loss_and_gradient(
        layers, before, X[index], y[index], losses.SoftmaxCrossEntropy()
    )
    assert bad == -1
    assert value == pytest.approx(exact, rel=1e-13)
    assert distance(gradient, wanted) <= 1e-13
    np.testing.assert_allclose(theta, before - 0.5 * wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("what", ["bad target", "nan", "inf"])
def test_a_failed_step_changes_no_parameter(what):
    plan, _, theta, X, y = problem(
        (5, 6, 3), ("tanh", "identity"), "softmax_cross_entropy", 100, np.float64, 5
    )
    if what == "bad target":
        y[60] = 3
    else:
        # tanh bounds an infinite input: the loss is finite, the gradient is not
        X[10, 2] = float(what)
    before = theta.copy()
    update = fanin.optimizers.SGD(0.5)._prepare(theta)
    value, bad, taken = plan.step(theta, np.empty_like(theta), X, y, update)
    assert not taken
    assert bad == (60 if what == "bad target" else -1)
    assert np.isnan(value) == (what == "nan")
    np.testing.assert_array_equal(theta, before)


@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    m=st.integers(1, 70),
    loss=st.sampled_from(LOSS_NAMES),
    names=st.lists(st.sampled_from(ACTIVATION_NAMES), min_size=4, max_size=4),
    n_threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_architecture_equals_twin(widths, m, loss, names, n_threads, seed):
    if loss == "softmax_cross_entropy":
        widths = [*widths[:-1], max(2, widths[-1])]
    plan, layers, theta, X, y = problem(widths, names, loss, m, np.float64, seed)
    gradient = np.empty_like(theta)
    value, _ = plan.evaluate(theta, X, y, gradient, n_threads)
    exact, wanted, _ = reference.loss_and_gradient(
        layers, theta, X, y, losses.get(loss)
    )
    limit = bound(np.float64, layers, m)
    assert abs(value - exact) <= limit * max(1.0, abs(exact))
    # The gradient of a sum of signed terms may cancel: measure against its parts.
    scale = max(np.linalg.norm(wanted), 1.0)
    assert np.linalg.norm(gradient - wanted) <= 16 * limit * scale


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_central_differences_equal_twin_bit_for_bit_over_threads(loss, n_threads):
    plan, layers, theta, X, y = problem(
        (4, 6, 3), ("tanh", "identity"), loss, 11, np.float64, seed=6
    )
    kept = theta.copy()
    step = 1e-7 * np.maximum(1.0, np.abs(theta))
    found = np.empty((4, theta.size))
    central_differences(plan, theta, X, y, step, *found, 1)
    expected = reference.central_differences(
        layers, theta, X, y, losses.get(loss), step
    )
    np.testing.assert_array_equal(theta, kept)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-14)
    # The twin's difference is that of rounded means, good to some eps of the loss.
    atol = 8 * np.finfo(float).eps * max(1.0, found[0].max())
    np.testing.assert_allclose(found[2], expected[2], rtol=0, atol=atol)
    np.testing.assert_array_equal(found[3], expected[3])
    again = np.empty((4, theta.size))
    central_differences(plan, theta, X, y, step, *again, n_threads)
    np.testing.assert_array_equal(again, found)


# --- layers of every kind ---------------------------------------------------------


def any_layers(rng, n_inputs, depth):
    """Layers at random, the last one dense."""
    layers = []
    for _ in range(depth):
        kind = rng.choice(list(KINDS))
        function = FUNCTIONS[rng.integers(len(FUNCTIONS))]
        affine = bool(rng.integers(2))
        if kind == "dense":
            l2 = float(rng.choice([0.0, 0.1]))
            layers.append(
                dense(int(rng.integers(2, 12)), function, bool(rng.integers(4)), l2)
            )
        elif kind == "activation":
            layers.append(activation_layer(function))
        elif kind == "dropout":
            layers.append({"kind": kind, "rate": float(rng.choice([0.0, 0.3, 0.9]))})
        else:
            layers.append(norm(kind, float(rng.choice([1e-5, 0.1])), affine))
    return [*layers, dense(int(rng.integers(2, 5)))]


def running(layers, n_inputs, rng):
    """Running statistics at random."""
    state, n = [np.empty(0)], n_inputs
    for layer in layers:
        n = layer.get("n_out", n)
        if layer["kind"] == "batch_norm":
            state += [rng.standard_normal(n), rng.uniform(0.5, 2.0, n)]
    return np.concatenate(state)


@pytest.mark.parametrize("seed", range(150))
def test_any_layers_equal_twin(seed):
    rng = np.random.default_rng([seed, 1])
    dtype = [np.float64, np.float64, np.float32][seed % 3]
    n_inputs, m = int(rng.integers(2, 9)), int(rng.choice([2, 5, 40, 300]))
    layers = any_layers(rng, n_inputs, int(rng.integers(0, 7)))
    loss = losses.get(LOSS_NAMES[seed % len(LOSS_NAMES)])
    plan, theta, X, y = network(layers, n_inputs, loss, m, dtype, seed)
    weights = rng.integers(0, 3, m).astype(float) + (np.arange(m) == 0)
    weights = None if seed % 2 else weights
    state = running(layers, n_inputs, rng)
    training, key, draw = bool(rng.integers(2)), (seed, 77), seed
    kept = state.copy()
    gradient, dX = np.empty_like(theta), np.empty_like(X)
    value, bad = plan.evaluate(
        theta, X, y, gradient, 1 + seed % 2, state, training, key, draw, weights, dX
    )
    assert bad == -1
    np.testing.assert_array_equal(state, kept)
    mode = (state, training, key, draw)
    exact, wanted, wanted_dX = reference.loss_and_gradient(
        layers, theta.astype(float), X.astype(float), y, loss, *mode, weights
    )
    # Each normalization divides by a deviation that may be small: the error of what it
    # gets grows by some ten times.
    norms = sum(layer["kind"].endswith("norm") for layer in layers)
    limit = bound(dtype, layers, m) * 8.0**norms
    if not np.isfinite(exact) or limit > 0.1:
        return
    assert abs(value - exact) <= limit * max(1.0, abs(exact))
    scale = max(np.linalg.norm(wanted), np.linalg.norm(wanted_dX), 1e-3)
    assert np.linalg.norm(gradient - wanted) <= 16 * limit * scale
    assert np.linalg.norm(dX - wanted_dX) <= 16 * limit * scale
    # dX, and the gradient, do not depend on what else is wanted.
    again, again_dX = np.empty_like(theta), np.empty_like(X)
    n_threads = 1 + seed % 2
    plan.evaluate(theta, X, y, again, n_threads, *mode, weights)
    plan.evaluate(theta, X, y, None, n_threads, *mode, weights, again_dX)
    np.testing.assert_array_equal(again, gradient)
    np.testing.assert_array_equal(again_dX, dX)


def test_the_blocks_are_the_twins_and_fill_the_vectors():
    layers = [
        norm("batch_norm"),
        dense(4),
        {"kind": "dropout", "rate": 0.5},
        norm("rms_norm"),
        dense(2, bias=False),
        norm("batch_norm", affine=False),
        norm("layer_norm"),
    ]
    plan = Plan(layers, 3, losses.SquaredError(), np.dtype(np.float64))
    theta = np.arange(float(plan.n_parameters))
    wanted = {
        f"{layer['kind']}{i}.{name}": array
        for i, (layer, own) in enumerate(
            zip(layers, reference.split_parameters(layers, 3, theta), strict=True)
        )
        for name, array in own.items()
    }
    assert [name for name, _, _ in plan.blocks] == list(wanted)
    for name, where, shape in plan.blocks:
        np.testing.assert_array_equal(theta[where].reshape(shape), wanted[name])
    assert plan.state_blocks == [
        ("batch_norm0.running_mean", slice(0, 3), (3,)),
        ("batch_norm0.running_var", slice(3, 6), (3,)),
        ("batch_norm5.running_mean", slice(6, 8), (2,)),
        ("batch_norm5.running_var", slice(8, 10), (2,)),
    ]
    assert plan.n_state == 10
    dropout = [{"kind": "dropout", "rate": 0.5}]
    empty = Plan(dropout, 3, losses.SquaredError(), np.dtype(np.float64))
    assert (empty.blocks, empty.n_parameters, empty.n_state) == ([], 0, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [0, 1, 3, 700, 40_000])
def test_the_largest_output_is_picked_as_argmax_does(m, dtype):
    layers = [dense(4, bias=False)]
    plan = Plan(layers, 4, losses.SoftmaxCrossEntropy(), np.dtype(dtype))
    theta = np.eye(4, dtype=dtype).ravel()
    rng = np.random.default_rng(m)
    X = rng.integers(-2, 3, (m, 4)).astype(dtype)  # with ties
    X[: m // 2][rng.random((m // 2, 4)) < 0.1] = -np.inf
    out = np.empty((m, 4), dtype)
    with np.errstate(invalid="ignore"):
        plan.forward(theta, X, out)  # 0 * inf is NaN
    labels = plan.pick(theta, X, None, 2)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, out.argmax(axis=1))


def test_what_it_takes_as_it_is():
    plan = Plan([dense(2)], 3, losses.SquaredError(), np.dtype(np.float64))
    for dtype in (np.float32, np.float64):
        X = np.zeros((4, 3), dtype)
        assert plan.takes(X)
        assert plan.takes(X[::2])
        assert plan.takes(np.asfortranarray(X))
    for other in (
        np.zeros((4, 2)),
        np.zeros(3),
        np.zeros((4, 3), np.float16),
        np.zeros((4, 3), int),
        np.zeros((4, 3), complex),
        np.zeros((4, 3), object),
        np.ma.zeros((4, 3)),
        [[1.0, 2.0, 3.0]],
        None,
    ):
        assert not plan.takes(other)
