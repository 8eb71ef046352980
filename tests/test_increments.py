"""Increments: f(z + d) - f(z) to its last digits, from a parameter to the loss."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import mpmath
import numpy as np
import pytest
import random_networks
import reference

import fanin
from fanin import activations, layers, losses
from fanin._increments import LossChanges
from fanin._kernels._increments import Increments, quotients
from fanin._kernels._operations import dropout_mask
from fanin._network_check import _Point

EPS = np.finfo(np.float64).eps


def changes_of(net, X, y, sample_weight=None, training=True):
    """Return the network's LossChanges, and its parameters in float64."""
    array, targets = net._batch(X, y)
    weights = net._weights(sample_weight, array.shape[0])
    at = _Point(net, array, targets, weights, training)
    return LossChanges(at.case(), at.theta), at


# --- formulas, against mpmath ---------------------------------------------------------

SCALE = "1.0507009873554804934193349852946"
ALPHA = "1.6732632423543772848170429916717"


def s(z):
    return 1 / (1 + mpmath.exp(-z))


def elu(z, alpha, scale=1):
    return mpmath.mpf(scale) * (z if z > 0 else mpmath.mpf(alpha) * mpmath.expm1(z))


FUNCTIONS = {
    ("logistic", 0.0): s,
    ("tanh", 0.0): mpmath.tanh,
    ("relu", 0.0): lambda z: max(z, mpmath.mpf(0)),
    ("leaky_relu", 0.3): lambda z: z if z > 0 else mpmath.mpf(0.3) * z,
    ("elu", 1.0): lambda z: elu(z, 1),
    ("elu", 0.5): lambda z: elu(z, "0.5"),
    ("selu", 0.0): lambda z: elu(z, ALPHA, SCALE),
    ("softplus", 0.0): lambda z: mpmath.log1p(mpmath.exp(z)),
    ("silu", 0.0): lambda z: z * s(z),
    ("gelu", 0.0): lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    ("gelu_tanh", 0.0): lambda z: (
        z * s(mpmath.sqrt(8 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3))
    ),
}

# Steps in each of the kernel's three ranges (up to 2^-18, to 2^-6, beyond; beyond 1/2
# by the difference itself), and at their borders.
STEPS = [
    1e-30,
    1e-12,
    1e-7,
    1.8e-6,
    3e-6,
    2**-18,
    5e-6,
    1e-4,
    2**-6,
    0.02,
    0.3,
    0.6,
    4.0,
]


@functools.cache
def points():
    rng = np.random.default_rng(3)
    some = np.concatenate([rng.uniform(-1, 1, 8), rng.uniform(-6, 6, 14)])
    return np.concatenate([some, [0.0, 1e-9, -1e-9, 25.0, -25.0, 300.0, -300.0]])


def increment(name, parameter, z, d, line=False):
    """f(z + d) - f(z) by the kernel: the bias of a layer that spreads to one with f.

    With another layer behind it the kernel goes along a line, by f's cubic.
    """
    kernel = Increments(1)
    one = np.ones((1, 1))
    column = np.array([[z]])
    f = np.zeros((1, 1))
    kernel.linear(one, one, 0, 1)
    kernel.linear(one, one, -1, -1)
    kernel.activation(column, f, name, parameter)
    if line:
        kernel.linear(one, one, -1, -1)
    end(kernel, 1)
    return run(kernel, 1, d)


def end(kernel, n):
    """A loss that is the sum of the outputs."""
    m = 1
    tables = np.ones((3 * m, n))
    kernel.loss(
        "slopes", tables, "slopes", tables, np.ones(m), np.zeros(m, np.intp),
        np.ones(m), 0.0,
    )  # fmt: skip


def run(kernel, entry, d):
    """The change of the loss when one parameter, which is 0, becomes d."""
    theta, step = np.zeros(2), np.full(2, abs(d))
    plus, minus, span = np.zeros((3, 2))
    crossed = np.zeros(2, np.uint8)
    # Of the first stage: row 0 of column `entry`, or its biases' row.
    task = np.array([[0, 0, entry, entry + 1]])
    kernel.run(task, None, 0, 1, theta, step, plus, minus, span, crossed, False, 1)
    return plus[entry] if d > 0 else minus[entry]


@pytest.mark.parametrize("line", [False, True])
@pytest.mark.parametrize(("name", "parameter"), FUNCTIONS)
def test_an_increment_has_all_digits(name, parameter, line):
    """Some roundings of the result, and of the slope's largest part times d.

    Where the slope is a difference (1 - a^2 of tanh, a + z a' of silu and gelu) the
    step times the size of its terms counts; z enters the argument of gelu_tanh's
    exponential, whose relative error is that argument's absolute one.
    """
    function = FUNCTIONS[name, parameter]
    worst = 0.0
    for z in points().tolist():
        for d in [*STEPS, *(-d for d in STEPS)]:
            with mpmath.workdps(320):
                exact = function(mpmath.mpf(z) + mpmath.mpf(d)) - function(
                    mpmath.mpf(z)
                )
                found = increment(name, parameter, z, d, line)
                terms = abs(d) * (1.0 + min(abs(z), 40.0) ** 2 * (name[1:4] == "elu"))
                size = float(abs(exact))
                if name in ("tanh", "silu", "gelu", "gelu_tanh"):
                    size = max(size, terms)
                error = float(abs(mpmath.mpf(found) - exact))
            # Beyond 1/2 the difference of two values has their rounding.
            limit = 16 * EPS * max(size, abs(d) if abs(d) > 0.5 else 0.0)
            limit += 8 * EPS * abs(z) * (abs(d) > 0.5)
            assert error <= limit + 1e-320, (z, d, found, float(exact))
            worst = max(worst, error / (limit + 1e-320))
    assert worst > 0.01  # the limit is not idle


LOSS_CASES = {
    "squared_error": lambda z, y: (z - y) ** 2,
    "absolute_error": lambda z, y: abs(z - y),
    "huber": lambda z, y: (
        (z - y) ** 2 / 2 if abs(z - y) <= 1 else abs(z - y) - mpmath.mpf("0.5")
    ),
    "quantile": lambda z, y: max((z - y) / 4, -3 * (z - y) / 4),
    "poisson": lambda z, y: mpmath.exp(z) - y * z,
    "binary_cross_entropy": lambda z, y: mpmath.log1p(mpmath.exp(z)) - y * z,
}
DECLARED = {"quantile": losses.Quantile(0.75)}


@pytest.mark.parametrize("name", LOSS_CASES)
@pytest.mark.parametrize("d", [1e-12, 1e-7, 1e-5, 1e-3, 0.3, 3.0])
def test_the_change_of_a_loss_has_all_digits(name, d):
    """Of a network that is one bias: z = b, y a constant."""
    cases = [(0.3, 0.9), (-2.0, 1.0), (1.5, 0.0), (8.0, 1.0), (-7.0, 0.0), (30.0, 1.0)]
    for z, y in cases:
        net = fanin.Network(
            1, [layers.Dense(1)], loss=DECLARED.get(name, name), dtype=np.float64
        )
        net.parameters = [0.0, z]
        changes, at = changes_of(net, [[1.0]], [y])
        plus, minus, _, _ = changes.run(np.full(2, d), 1)
        for found, sign in ((plus[1], 1), (minus[1], -1)):
            with mpmath.workdps(60):
                # The number that was really used.
                h = mpmath.mpf(at.theta[1] + sign * d) - mpmath.mpf(at.theta[1])
                f = LOSS_CASES[name]
                exact = f(z + h, mpmath.mpf(y)) - f(mpmath.mpf(z), mpmath.mpf(y))
                size = abs(exact) + (abs(h) * (mpmath.exp(z) + y)) * (name == "poisson")
                size = max(size, mpmath.mpf(2.0) ** -1000)
                error = float(abs(mpmath.mpf(found) - exact) / size)
            # h itself is a difference that is exact; beyond 1/2 nothing is gained.
            assert error <= 64 * EPS, (z, y, found, float(exact))


@pytest.mark.parametrize("labels", ["labels", "soft"])
@pytest.mark.parametrize("confident", [0.0, 40.0])
@pytest.mark.parametrize("d", [1e-9, 1e-7, 1e-4, 0.1, 2.0])
def test_the_change_of_a_softmax_has_all_digits(labels, confident, d):
    """Also where one probability is 1 - 1e-17 and its loss 1e-17."""
    net = fanin.Network(
        1, [layers.Dense(4)], loss=losses.SoftmaxCrossEntropy(0.0), dtype=np.float64
    )
    z = np.array([0.4, confident, -1.0, 0.1])
    net.parameters = np.concatenate([np.zeros(4), z])
    y = np.array([1]) if labels == "labels" else np.array([[0.1, 0.6, 0.2, 0.1]])
    p = np.eye(4)[1] if labels == "labels" else y[0]
    changes, at = changes_of(net, [[1.0]], y)
    plus, minus, _, _ = changes.run(np.full(8, d), 1)

    def loss(logits):
        lse = mpmath.log(sum(mpmath.exp(v) for v in logits))
        return sum(mpmath.mpf(q) * (lse - v) for q, v in zip(p, logits, strict=True))

    for k in range(4):
        for found, sign in ((plus[4 + k], 1), (minus[4 + k], -1)):
            with mpmath.workdps(60):
                before = [mpmath.mpf(v) for v in z]
                after = list(before)
                after[k] = mpmath.mpf(at.theta[4 + k] + sign * d)
                exact = loss(after) - loss(before)
                slope = mpmath.exp(before[k]) / sum(mpmath.exp(v) for v in before)
                size = abs(exact) + (slope + mpmath.mpf(p[k])) * d * (
                    p[k] not in (0, 1)
                )
                error = float(abs(mpmath.mpf(found) - exact) / size)
            assert error <= 64 * EPS, (k, found, float(exact))


# --- whole networks -----------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-3, 0.05, 0.7])
@pytest.mark.parametrize("seed", range(60))
def test_changes_are_the_differences_of_the_twins_losses(seed, eps):
    """For large steps, where the difference of two losses still has its digits."""
    problem = random_networks.problem(seed, np.float64, max_units=8)
    net = problem.net
    changes, at = changes_of(
        net, problem.X, problem.y, problem.sample_weight, problem.training
    )
    rng = np.random.default_rng(seed)
    chosen = np.zeros(at.theta.size, bool)
    chosen[rng.choice(at.theta.size, min(25, at.theta.size), replace=False)] = True
    step = eps * np.maximum(1.0, np.abs(at.theta))
    plus, minus, span, _ = changes.run(step, 1, np.flatnonzero(chosen))

    expected = reference.loss_changes(
        net._specs(), at.theta, at.X, at.y, net.loss_function, step, chosen,
        net._state, at.training, net._dropout_key, net._draw, at.weights,
    )  # fmt: skip
    base = abs(at.loss())
    # Both losses are rounded, to some units for each sum of a pass; a normalization
    # of a few numbers magnifies that. Far from 1e-3, what a wrong formula would leave.
    for found, wanted in zip((plus, minus), expected[:2], strict=True):
        size = np.abs(wanted) + base + 1.0
        assert (np.abs(found - wanted)[chosen] <= 3e-9 * size[chosen]).all()
    np.testing.assert_allclose(span[chosen], expected[2][chosen], rtol=1e-15)
    assert not span[~chosen].any()
    assert not plus[~chosen].any()


def smooth(sizes, activation, loss="softmax_cross_entropy", seed=0, dtype=np.float64):
    """A network and a batch of ordinary numbers."""
    net = fanin.Network(
        sizes[0],
        [*(layers.Dense(n, activation) for n in sizes[1:-1]), layers.Dense(sizes[-1])],
        loss=loss,
        dtype=dtype,
        rng=seed,
    )
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((64, sizes[0]))
    y = rng.integers(0, sizes[-1], 64)
    return net, X, y


@pytest.mark.parametrize(
    "activation", ["tanh", "logistic", "softplus", "silu", "gelu", "gelu_tanh"]
)
def test_a_smooth_network_agrees_to_twelve_digits(activation):
    net, X, y = smooth([20, 30, 15, 5], activation)
    report = net.check_gradient(X, y)
    assert report.verdict == "correct"
    assert report.relative_error < 1e-12
    assert net.check_gradient(X, y, method="direct").relative_error > 1e-11


@pytest.mark.parametrize("eps", [1e-4, 1e-6, 1e-9, 1e-12])
def test_the_step_costs_no_digits(eps):
    """Of a difference of losses 1e-12 would leave four; the curvature's part stays."""
    net, X, y = smooth([6, 8, 3], "tanh")
    assert net.check_gradient(X, y, eps=eps).relative_error < 1e-13 + eps**2


@pytest.mark.parametrize("seed", range(40))
def test_direct_and_increments_agree_within_rounding(seed):
    problem = random_networks.problem(seed, np.float64, max_units=6)
    options = {"sample_weight": problem.sample_weight, "training": problem.training}
    one = problem.net.check_gradient(problem.X, problem.y, **options)
    other = problem.net.check_gradient(problem.X, problem.y, method="direct", **options)
    error = np.array([r.error_estimate for r in other.worst(other.n_total)])
    assert one.verdict == other.verdict == "correct"
    # Kinks that are passed are differences of other functions.
    clean = [b.name for b in other.blocks.values() if b.relative_error < 1e-6]
    for name in clean:
        gap = np.linalg.norm(one.numeric[name] - other.numeric[name])
        assert gap <= 100 * np.linalg.norm(error) + 1e-12


def along_a_line_and_not(activation, loss, outputs, factors=(1.0, 1.0, 1.0)):
    """Return the LossChanges of one function, twice.

    A dropout that drops nothing parts a layer's activation from the next layer's
    product: no line (simd/increments.c, d) leads through them. The weights of the three
    layers, and the first one's biases, are multiplied by the factors.
    """
    made = []
    for apart in (False, True):
        hidden = [layers.Dense(9, activation), layers.Dense(21, activation)]
        if apart:
            hidden.append(layers.Dropout(0.0))
        net = fanin.Network(
            6, [*hidden, layers.Dense(outputs)], loss=loss, dtype=np.float64, rng=1
        )
        rng = np.random.default_rng(outputs)
        theta = net.parameters + 0.01 * rng.normal(size=net.n_parameters)
        W0, b0, W1, _, W2, _ = net.unflatten(theta).values()
        for array, k in ((W0, 0), (b0, 0), (W1, 1), (W2, 2)):
            array *= factors[k]
        net.parameters = theta
        X = rng.standard_normal((70, 6))
        X[3] = 0.0
        y = rng.integers(0, outputs, 70)
        if loss == "squared_error":
            y = rng.standard_normal((70, outputs))
        made.append(changes_of(net, X, y)[0])
    return made


@pytest.mark.parametrize("loss", ["squared_error", "softmax_cross_entropy"])
@pytest.mark.parametrize("outputs", [2, 3, 8, 17, 33])
@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "selu", "gelu"])
def test_changes_along_a_line_are_those_one_by_one(activation, outputs, loss):
    """From steps of which all are tiny to such of which none is, kinks included."""
    line, single = along_a_line_and_not(activation, loss, outputs)
    kinks = 0
    for eps in (1e-12, 1e-7, 3e-6, 3e-5, 1e-3):
        step = np.full(line.theta.size, eps)
        found, wanted = line.run(step, 1), single.run(step, 1)
        size = np.abs(wanted[0]) + np.sqrt(np.mean(wanted[0] ** 2))
        for one, other in zip(found[:2], wanted[:2], strict=True):
            assert (np.abs(one - other) <= 200 * EPS * size).all()
        np.testing.assert_array_equal(found[2], wanted[2])
        np.testing.assert_array_equal(found[3], wanted[3])
        kinks += int(found[3].sum())
    assert (kinks > 0) == (activation in ("relu", "leaky_relu", "selu"))


@pytest.mark.parametrize(
    ("activation", "scale"), [("tanh", 1e150), ("relu", 1e150), ("relu", 1e-150)]
)
def test_weights_of_any_size_go_along_a_line(activation, scale):
    """Their cubes have no double; the arguments of the functions are ordinary."""
    factors = (1.0 / scale, scale, 1.0)
    line, single = along_a_line_and_not(activation, "squared_error", 3, factors)
    step = 1e-7 * np.abs(line.theta)
    found, wanted = line.run(step, 1), single.run(step, 1)
    for one, other in zip(found[:2], wanted[:2], strict=True):
        assert np.count_nonzero(other) > 0.9 * other.size
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_line_ends_where_the_outputs_move_far(activation):
    """Large weights behind it make of tiny changes such that series do not serve."""
    factors = (1.0, 0.01, 100.0)
    line, single = along_a_line_and_not(activation, "softmax_cross_entropy", 5, factors)
    step = np.full(line.theta.size, 1e-4)
    found, wanted = line.run(step, 1), single.run(step, 1)
    for changes, expected in zip(found[:2], wanted[:2], strict=True):
        one, other = changes[:63], expected[:63]  # of the first layer
        size = np.abs(other) + np.sqrt(np.mean(other**2))
        assert (np.abs(one - other) <= 200 * EPS * size).all()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("wrong", [None, 0, 20_000, 40_000])
def test_quotients_are_the_twins_and_tell_of_one_that_is_far(wrong, n_threads):
    rng = np.random.default_rng(0)
    plus, minus, span = rng.random((3, 40_001)) + 1.0
    expected = (plus - minus) / span * (1.0 + 1e-9)
    if wrong is not None:
        expected[wrong] *= 1.0 + 1e-5
    span[7], expected[7] = 0.0, 1.0  # left out
    arguments = plus, minus, span, expected, 1e-7
    found = quotients(*arguments, n_threads)
    wanted = reference.quotients(*arguments)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[1] is wanted[1] is (wrong is None)
    for value in (np.nan, np.inf, -np.inf):
        expected[9] = value
        assert quotients(*arguments, n_threads)[1] is False
        assert reference.quotients(*arguments)[1] is False


def test_steps_below_the_spacing_move_the_penalty_as_far_as_the_loss():
    net, X, y = smooth([5, 7, 3], "tanh")
    net = fanin.Network(
        5, net.layers, loss="softmax_cross_entropy", dtype=np.float64, rng=0, l2=0.3
    )
    for eps in (1e-17, 1e-300):
        assert net.check_gradient(X, y, eps=eps).relative_error < 1e-14


def test_rows_of_whole_batches_take_what_one_parameter_needs():
    """Two changes of all samples at a time are no sixteen."""
    pytest.importorskip("resource")
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the size of the process is read from Linux's /proc")
    code = """
        import resource
        import numpy as np, fanin
        from fanin.layers import Activation, BatchNorm, Dense
        made = [Dense(1000), BatchNorm(), Activation("tanh"), Dense(3)]
        net = fanin.Network(4, made, loss="squared_error", rng=0)
        X, y = np.ones((20, 4)), np.ones((20, 3))
        X[::2] = 2.0
        net.check_gradient(X, y, indices=2, n_threads=1)  # all is loaded
        X, y = (np.repeat(a, 100, axis=0) for a in (X, y))
        pages = int(open("/proc/self/statm").read().split()[0])
        # Tables, of 16 MB each, and three times the rows of two changes, not of 16.
        size = pages * resource.getpagesize() + (600 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        net.check_gradient(X, y, indices=2, n_threads=1)
        print("done")
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["done"]


# --- kinks --------------------------------------------------------------------------


def test_a_kink_within_the_step_is_passed_by_a_smaller_one():
    """relu at z = 3e-8, a step of 1e-7: the difference would be 0.65 of the slope."""
    net = fanin.Network(
        1, [layers.Dense(1, "relu"), layers.Dense(1)], loss="squared_error",
        dtype=np.float64,
    )  # fmt: skip
    net.parameters = [1.0, 3e-8 - 1.0, 1.0, 0.0]
    report = net.check_gradient([[1.0]], [5.0])
    assert report.verdict == "correct"
    assert report.relative_error < 1e-8
    assert "2 of 4 entries passed a kink" in " ".join(report.diagnosis)
    wrong = net.loss_and_gradient([[1.0]], [5.0])[1]
    wrong[0] *= 1.5
    assert net.check_gradient([[1.0]], [5.0], gradient=wrong).verdict == "wrong"
    assert net.check_gradient([[1.0]], [5.0], method="direct").verdict == "correct"


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu", "elu", "tanh"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exact_kinks_in_several_layers_are_no_alarm(activation, loss, dtype):
    """Zero rows and zero biases: samples at 0 in each layer."""
    for seed in range(10):
        net = fanin.Network(
            5, [layers.Dense(8, activation)] * 3 + [layers.Dense(1)], loss=loss,
            dtype=dtype, rng=seed,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((20, 5)), rng.standard_normal(20)
        X[::5] = y[::5] = 0.0
        assert net.check_gradient(X, y).verdict == "correct"
        wrong = net.loss_and_gradient(X, y)[1]
        net.unflatten(wrong)["dense1.weight"][3] *= -1
        assert net.check_gradient(X, y, gradient=wrong).verdict == "wrong"


def test_an_argument_that_no_step_reaches_past_is_on_the_kink():
    """Behind a softplus of a large negative argument: not 0, but 1e-130."""
    net = fanin.Network(
        1, [layers.Dense(1, "softplus"), layers.Dense(3, "selu"), layers.Dense(1)],
        loss="squared_error", dtype=np.float64, rng=0,
    )  # fmt: skip
    X, y = np.array([[-300.0], [0.4]]), np.array([3.0, 4.0])
    theta = net.parameters.copy()
    theta[:2] = 1.0, 0.0
    net.parameters = theta
    assert net.check_gradient(X, y).verdict == "correct"
    wrong = net.loss_and_gradient(X, y)[1]
    net.unflatten(wrong)["dense1.bias"][:] *= 3
    assert net.check_gradient(X, y, gradient=wrong).verdict == "wrong"


def test_curvature_on_one_side_is_no_alarm_where_slopes_cancel():
    """elu at 0 and at 1, whose slopes of 1 meet opposite signs of the loss."""
    net = fanin.Network(
        1, [layers.Dense(1, "elu"), layers.Dense(1)], loss="absolute_error",
        dtype=np.float64,
    )  # fmt: skip
    net.parameters = [1.0, 0.0, 1.0, 0.0]
    X, y = [[0.0], [1.0]], [-5.0, 5.0]
    assert net.loss_and_gradient(X, y)[1][1] == 0.0
    assert net.check_gradient(X, y).verdict == "correct"
    wrong = net.loss_and_gradient(X, y)[1]
    wrong[1] = 1e-8
    assert net.check_gradient(X, y, gradient=wrong).verdict != "correct"


def test_what_underflows_is_no_alarm():
    """A gradient of subnormal numbers has few digits, and its changes none."""
    net = fanin.Network(
        2, [layers.Dense(2, "gelu"), layers.Dense(1)], loss="squared_error",
        dtype=np.float64, rng=0,
    )  # fmt: skip
    net.unflatten(net.parameters)["dense0.weight"][:] = [[38.1, 1.0], [0.0, 1.0]]
    X, y = [[-1.0, 1.0], [-1.0, 2.0]], [1.0, 2.0]
    gradient = net.loss_and_gradient(X, y)[1]
    assert 0.0 < np.abs(gradient).min() < 1e-310
    assert net.check_gradient(X, y).verdict == "correct"


def test_a_gradient_that_overflows_is_wrong_and_raises_no_warnings():
    """In float32 only: the loss, and its changes, are finite."""
    net = fanin.Network(1, [layers.Dense(2)], loss="poisson", rng=0)
    X = np.full((3, 1), 88.0, np.float32)
    net.parameters = [1.005, -1.0, 0.0, 0.0]
    y = np.zeros((3, 2), np.float32)
    assert np.isinf(net.loss_and_gradient(X, y)[1]).tolist() == [True, *[False] * 3]
    for method in ("increments", "direct"):
        report = net.check_gradient(X, y, method=method)
        assert report.verdict == "wrong"
        assert "not finite" in " ".join(report.diagnosis)


# --- contracts ------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [2, 3, 16])
@pytest.mark.parametrize("training", [False, True])
def test_threads_give_the_same_bits(n_threads, training):
    made = [layers.Dense(40, "tanh"), layers.BatchNorm(), layers.Dense(30, "relu"),
            layers.Dropout(0.3), layers.LayerNorm(), layers.Dense(3)]  # fmt: skip
    net = fanin.Network(10, made, loss="softmax_cross_entropy", dtype=np.float64, rng=0)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((37, 10)), rng.integers(0, 3, 37)
    changes, at = changes_of(net, X, y, training=training)
    step = 1e-7 * np.maximum(1.0, np.abs(at.theta))
    one, many = changes.run(step, 1), changes.run(step, n_threads)
    sliced = changes.run(step, n_threads, progress=lambda n: False)
    for a, b, c in zip(one, many, sliced, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_more_rows_than_a_chunk_give_the_mean_over_all():
    net, X, y = smooth([7, 9, 4], "tanh")
    X, y = np.concatenate([X, X[:40] * 1.5]), np.concatenate([y, y[:40]])
    weight = np.linspace(0.0, 2.0, y.size)
    report = net.check_gradient(X, y, sample_weight=weight)
    assert report.verdict == "correct"
    assert report.relative_error < 1e-12


def test_progress_stops_the_rest():
    net, X, y = smooth([30, 200, 4], "tanh")
    changes, at = changes_of(net, X, y)
    step = 1e-7 * np.maximum(1.0, np.abs(at.theta))
    told = []

    def enough(n):
        told.append(n)
        return True

    _, _, span, _ = changes.run(step, 1, progress=enough)
    assert len(told) == 1
    assert np.count_nonzero(span) == told[0] < at.theta.size


def test_nothing_of_the_network_changes():
    problem = random_networks.problem(5, np.float32)
    before = problem.net.parameters.copy(), problem.net._state.copy()
    problem.net.check_gradient(problem.X, problem.y)
    np.testing.assert_array_equal(problem.net.parameters, before[0])
    np.testing.assert_array_equal(problem.net._state, before[1])


def test_functions_of_the_users_are_evaluated_plainly():
    """Half of the digits go with the difference; the verdict is the same."""
    sine = activations.Custom(np.sin, np.cos, name="sine")
    cubic = losses.Custom(
        lambda Z, Y: (np.abs(Z - Y) ** 3).sum(axis=1),
        lambda Z, Y: 3 * (Z - Y) * np.abs(Z - Y),
        name="cubic",
    )
    for activation, loss in ((sine, "squared_error"), ("tanh", cubic), (sine, cubic)):
        net = fanin.Network(
            4, [layers.Dense(6, activation), layers.Dense(5, "tanh"), layers.Dense(2)],
            loss=loss, dtype=np.float64, rng=0,
        )  # fmt: skip
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 2))
        assert not changes_of(net, X, y)[0].exact
        report = net.check_gradient(X, y)
        assert report.verdict == "correct"
        assert 1e-13 < report.relative_error < 1e-6
        wrong = net.loss_and_gradient(X, y)[1]
        net.unflatten(wrong)["dense0.weight"][1, 2] *= 1.5
        assert net.check_gradient(X, y, gradient=wrong).verdict == "wrong"


def test_an_exception_in_a_users_function_passes_through():
    calls = []

    def sine(z):
        calls.append(1)
        if len(calls) > limit:
            raise RuntimeError("enough")
        return np.sin(z)

    limit = 10**9
    net = fanin.Network(
        3, [layers.Dense(4, activations.Custom(sine, np.cos, name="s")),
            layers.Dense(1)],
        loss="squared_error", dtype=np.float64, rng=0,
    )  # fmt: skip
    X, y = np.ones((5, 3)), np.ones(5)
    net.check_gradient(X, y)
    limit = len(calls) + 3
    before = net.parameters.copy()
    with pytest.raises(RuntimeError, match="enough"):
        net.check_gradient(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_the_mask_of_dropout_is_the_twins():
    mask = dropout_mask((3, 5), 7, 2, 0.4, (11, 30))
    wanted = reference.dropout_mask((3, 5), 7, 2, 0.4, (11, 30))
    np.testing.assert_array_equal(mask, wanted)
    assert not dropout_mask((3, 5), 7, 2, 1.0, (2, 3)).any()


def test_a_method_that_is_none_is_refused():
    net, X, y = smooth([3, 4, 2], "tanh")
    with pytest.raises(ValueError, match=r"method must be one of .*; got 'fast'"):
        net.check_gradient(X, y, method="fast")


def test_ctrl_c_ends_a_long_check():
    code = """
        import os, signal, threading, time
        import numpy as np, fanin
        from fanin.layers import Dense
        net = fanin.Network(
            400, [*(Dense(n, "tanh") for n in (600, 400, 300)), Dense(10)],
            loss="softmax_cross_entropy", dtype=np.float64, rng=0)
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((200, 400)), rng.integers(0, 10, 200)
        before = net.parameters.copy()
        sent = []

        def interrupt():
            time.sleep(1.0)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            net.check_gradient(X, y)
            print("done")
        except KeyboardInterrupt:
            late = time.perf_counter() - sent[0]
            print("interrupted", (net.parameters == before).all(), late < 2.0)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["interrupted", "True", "True"]


# --- samples, time, progress ----------------------------------------------------------


@pytest.mark.parametrize("method", ["increments", "direct"])
def test_a_sample_is_checked_and_states_its_power(method):
    net, X, y = smooth([10, 30, 20, 4], "tanh")
    whole = net.check_gradient(X, y, method=method)
    report = net.check_gradient(X, y, method=method, indices=300, rng=0)
    assert report.verdict == "correct"
    assert (report.n_checked, report.n_total) == (300, net.n_parameters)
    assert report.n_evaluations < whole.n_evaluations
    assert "300 of 1,034 checked" in report.diagnosis[-1]
    again = net.check_gradient(X, y, method=method, indices=300, rng=0)
    for name, found in report.numeric.items():
        known = np.isfinite(found)
        assert known.any()
        np.testing.assert_array_equal(found, again.numeric[name])
        size = np.abs(whole.numeric[name]).max()
        np.testing.assert_allclose(
            found[known], whole.numeric[name][known], rtol=0, atol=1e-7 * size
        )


def test_a_sample_that_leaves_an_array_out_decides_nothing():
    net, X, y = smooth([10, 30, 20, 4], "tanh")
    for method in ("increments", "direct"):
        report = net.check_gradient(X, y, method=method, indices=3, rng=0)
        assert report.verdict == "inconclusive"
        assert report.n_checked == 3


@pytest.mark.parametrize("method", ["increments", "direct"])
def test_a_mask_chooses_the_entries(method):
    net, X, y = smooth([5, 6, 3], "tanh")
    mask = {name: np.zeros(a.shape, bool) for name, a in net.named_parameters().items()}
    mask["dense1.weight"][2, 1] = True
    wrong = net.loss_and_gradient(X, y)[1]
    net.unflatten(wrong)["dense1.weight"][2, 1] *= -1
    net.unflatten(wrong)["dense0.bias"][...] *= 2
    report = net.check_gradient(X, y, gradient=wrong, method=method, indices=mask)
    assert {n: b.verdict for n, b in report.blocks.items()} == {
        "dense0.weight": "unchecked",
        "dense0.bias": "unchecked",
        "dense1.weight": "wrong",
        "dense1.bias": "unchecked",
    }
    assert report.worst(1)[0].index == (2, 1)


@pytest.mark.parametrize("method", ["increments", "direct"])
def test_a_time_limit_ends_the_check_with_what_it_has(method):
    net, X, y = smooth([200, 800, 300, 10], "tanh")
    report = net.check_gradient(X, y, method=method, time_limit=0.05, rng=0)
    assert report.verdict == "correct"
    assert 64 <= report.n_checked < report.n_total
    assert all(block.n_checked > 0 for block in report.blocks.values())
    assert "the time limit ended the check" in " ".join(report.diagnosis)


@pytest.mark.parametrize("method", ["increments", "direct"])
def test_enough_time_checks_all(method):
    net, X, y = smooth([6, 8, 3], "tanh")
    report = net.check_gradient(X, y, method=method, time_limit=600)
    assert report.n_checked == report.n_total
    assert "time limit" not in " ".join(report.diagnosis)
    whole = net.check_gradient(X, y, method=method)
    for name, found in report.numeric.items():
        np.testing.assert_allclose(found, whole.numeric[name], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["increments", "direct"])
def test_progress_is_a_bar(method, capsys):
    pytest.importorskip("tqdm")
    net, X, y = smooth([6, 8, 3], "tanh")
    assert net.check_gradient(X, y, method=method, progress=True).ok
    assert "83/83" in capsys.readouterr().err


def test_thresholds_are_the_callers():
    net, X, y = smooth([6, 8, 3], "tanh")
    wrong = net.loss_and_gradient(X, y)[1] * (1 + 1e-4)
    assert net.check_gradient(X, y, gradient=wrong).verdict == "suspicious"
    loose = net.check_gradient(X, y, gradient=wrong, thresholds=(1e-2, 1e-1))
    assert loose.verdict == "correct"
    assert loose.thresholds == (1e-2, 1e-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit": 0}, "time_limit"),
        ({"indices": 0}, "indices"),
        ({"indices": np.ones(3, bool)}, "indices"),
        ({"thresholds": (1, 0.1)}, "thresholds"),
        ({"eps": 0.0}, "eps"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    net, X, y = smooth([3, 4, 2], "tanh")
    with pytest.raises((ValueError, TypeError), match=message):
        net.check_gradient(X, y, **options)


def test_the_first_wrong_layer_is_named():
    net, X, y = smooth([5, 8, 7, 6, 3], "tanh")
    wrong = net.loss_and_gradient(X, y)[1]
    for name, array in net.unflatten(wrong).items():
        if name.startswith(("dense0", "dense1")):
            array[...] *= 1.1
    said = " ".join(net.check_gradient(X, y, gradient=wrong).diagnosis)
    assert "first goes wrong at dense1.weight and dense1.bias" in said
    assert "confirmed without a step size" in said


# --- no false alarm far from ordinary numbers -----------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e-3, 100.0, 1000.0, 1e6])
@pytest.mark.parametrize(
    "functions", [("tanh",), ("relu", "relu"), ("logistic", "tanh"), ("selu",)]
)
def test_any_scale_of_the_inputs_is_no_alarm(functions, scale, dtype):
    """Saturated units, whose slope is rounding; kinks far below the step."""
    for seed in range(8):
        net = fanin.Network(
            5, [*(layers.Dense(8, f) for f in functions), layers.Dense(3)],
            loss="softmax_cross_entropy", dtype=dtype, rng=seed,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        X, y = scale * rng.standard_normal((20, 5)), rng.integers(0, 3, 20)
        assert net.check_gradient(X, y).verdict == "correct"


@pytest.mark.parametrize("method", ["increments", "direct"])
def test_arguments_that_are_rounding_beside_a_kink_are_no_alarm(method):
    """Weights and data of few digits: sums that are 0 but for their rounding."""
    for seed in range(25):
        net = fanin.Network(
            5, [layers.Dense(8, "relu"), layers.Dense(3)], loss="squared_error",
            dtype=np.float64, rng=seed,
        )  # fmt: skip
        net.parameters = np.round(net.parameters, 1)
        rng = np.random.default_rng(seed)
        X, y = np.round(rng.standard_normal((20, 5))), rng.standard_normal((20, 3))
        assert net.check_gradient(X, y, method=method).verdict == "correct"


def test_zeros_throughout_and_logits_of_any_size_are_no_alarm():
    net = fanin.Network(
        5, [layers.Dense(8, "relu"), layers.Dense(3)], loss="huber", dtype=np.float64
    )
    assert net.check_gradient(np.zeros((6, 5)), np.zeros((6, 3))).ok
    net = fanin.Network(
        5, [layers.Dense(3)], loss="binary_cross_entropy", dtype=np.float64, rng=0
    )
    rng = np.random.default_rng(0)
    X, y = 1e5 * rng.standard_normal((6, 5)), rng.integers(0, 2, (6, 3)).astype(float)
    assert net.check_gradient(X, y).ok


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_the_direct_check_leaves_out_what_passed_a_kink(scale):
    net, X, y = smooth([5, 16, 16, 3], "relu")
    assert net.check_gradient(scale * X, y, method="direct").verdict == "correct"
