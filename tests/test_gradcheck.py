"""check_gradient: verdicts, the parameters' safety, and what it refuses."""

from __future__ import annotations

import collections
import copy
import functools
import math
import signal
import threading
import time
import types
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import fanin
from fanin import check_gradient

FAULTY = ("wrong", "suspicious")

ACTIVATIONS = {
    "tanh": (np.tanh, lambda a: 1 - a * a),
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(a.dtype)),
    "logistic": (lambda z: 1 / (1 + np.exp(-z)), lambda a: a * (1 - a)),
}


def mlp(seed, dtype=np.float64, activation="tanh", penalty=0.0, small=None):
    """A hand-written network: (fun, params, grad), a dict per layer."""
    rng = np.random.default_rng(seed)
    sizes = [int(k) for k in rng.integers(2, 8, size=rng.integers(2, 5))]
    m = int(rng.integers(2, 30))
    X = rng.normal(size=(m, sizes[0])).astype(dtype)
    softmax = bool(rng.integers(2))
    labels = rng.integers(sizes[-1], size=m)
    target = rng.normal(size=(m, sizes[-1])).astype(dtype)
    act, derivative = ACTIVATIONS[activation]
    n_layers = len(sizes) - 1
    params = {}
    for i in range(n_layers):
        weight = rng.normal(size=(sizes[i], sizes[i + 1])) * math.sqrt(2 / sizes[i])
        params[f"W{i}"] = weight.astype(dtype)
        params[f"b{i}"] = (0.1 * rng.normal(size=sizes[i + 1])).astype(dtype)

    def forward(p):
        layers = [X]
        for i in range(n_layers):
            z = layers[-1] @ p[f"W{i}"] + p[f"b{i}"]
            layers.append(act(z) if i < n_layers - 1 else z)
        return layers

    def fun(p):
        z = forward(p)[-1]
        if softmax:
            z = z - z.max(axis=1, keepdims=True)
            loss = (np.log(np.exp(z).sum(axis=1)) - z[np.arange(m), labels]).mean()
        else:
            loss = ((z - target) ** 2).sum() / (2 * m)
        if penalty:
            loss = loss + penalty / 2 * sum((p[k] ** 2).sum() for k in p)
        return loss

    def grad(p):
        layers = forward(p)
        z = layers[-1]
        if softmax:
            e = np.exp(z - z.max(axis=1, keepdims=True))
            delta = e / e.sum(axis=1, keepdims=True)
            delta[np.arange(m), labels] -= 1
            delta /= m
        else:
            delta = (z - target) / m
        g = {}
        for i in reversed(range(n_layers)):
            g[f"W{i}"] = layers[i].T @ delta
            g[f"b{i}"] = delta.sum(axis=0)
            if i:
                delta = (delta @ p[f"W{i}"].T) * derivative(layers[i])
        if penalty:
            for k in p:
                g[k] = g[k] + penalty * p[k]
        return {k: g[k] for k in p}

    return fun, params, grad


class Separable:
    """sum_i c_i exp(theta_i), in constant time for a change of one entry."""

    def __init__(self, n, seed=0):
        rng = np.random.default_rng(seed)
        self.theta = rng.normal(size=n)
        self.base = self.theta.copy()
        self.c = np.exp(rng.normal(size=n)) / n
        self.total = float(self.c @ np.exp(self.base))
        self.gradient = self.c * np.exp(self.base)
        self.i = 0

    def __call__(self, theta):
        # The entries come one after the other: look where the last change was, then
        # one further; anything else is searched for.
        for i in (self.i, self.i + 1):
            if i < theta.size and theta[i] != self.base[i]:
                self.i = i
                changed = [i]
                break
        else:
            changed = np.flatnonzero(theta != self.base)
            if len(changed) == 1:
                self.i = int(changed[0])
        value = self.total
        for i in changed:
            # The difference without cancellation.
            value += (
                self.c[i] * math.exp(self.base[i]) * math.expm1(theta[i] - self.base[i])
            )
        return float(value)


# -- correct gradients are not accused ------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_correct_networks_are_correct(dtype, activation):
    for seed in range(40):
        fun, params, grad = mlp(seed, dtype, activation)
        report = check_gradient(fun, params, grad)
        assert report.ok, f"seed {seed}\n{report}"


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_rosen_is_correct(rng, n, scale):
    x = scale * rng.normal(size=n)
    report = check_gradient(optimize.rosen, x, optimize.rosen_der)
    assert report.ok
    assert report.relative_error < 1e-7
    # A correct gradient costs its differences and a look at f; two if an entry does
    # not agree within the lower threshold by itself.
    assert report.n_evaluations in (2 * n + 1, 2 * n + 2)


def test_rosen_at_its_minimum_is_never_called_wrong():
    # The gradient is zero and the difference is the step's: 400 h^2.
    report = check_gradient(optimize.rosen, np.ones(5), optimize.rosen_der)
    assert report.verdict in ("correct", "inconclusive")


def test_logistic_regression_is_correct(rng):
    X, y = rng.normal(size=(50, 6)), rng.integers(2, size=50)
    params = {"w": rng.normal(size=6), "b": np.array(0.3)}

    def loss(p):
        z = X @ p["w"] + p["b"]
        return np.mean(np.logaddexp(0, z) - y * z)

    def gradient(p):
        residual = 1 / (1 + np.exp(-(X @ p["w"] + p["b"]))) - y
        return {"w": X.T @ residual / 50, "b": residual.mean()}

    report = check_gradient(loss, params, gradient)
    assert report.ok
    assert report.blocks["b"].shape == ()


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150, 1e300])
def test_values_of_any_scale(rng, scale):
    x = rng.normal(size=6)

    def fun(x):
        return scale * (x @ x)

    report = check_gradient(fun, x, scale * 2 * x)
    assert report.ok
    assert 0 < report.relative_error < 1e-7
    wrong = check_gradient(fun, x, -scale * 2 * x)
    assert wrong.verdict == "wrong"
    assert wrong.relative_error == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_parameters_of_any_scale(rng, scale):
    x = scale * rng.normal(size=4)

    def fun(x):
        return ((x / scale) ** 2).sum()

    def grad(x):
        return 2 * (x / scale) / scale

    assert check_gradient(fun, x, grad).ok
    assert check_gradient(fun, x, lambda x: -grad(x)).verdict in FAULTY


def test_zero_gradients_agree():
    report = check_gradient(lambda x: 3.0, np.ones(4), np.zeros(4))
    assert report.ok
    assert report.relative_error == 0.0


def test_a_truncation_error_at_zero_is_the_steps_not_the_gradients():
    # The central difference of theta^3 at 0 is h^2; the gradient is 0.
    report = check_gradient(lambda x: (x**3).sum(), np.zeros(4), np.zeros(4))
    assert report.ok
    assert report.relative_error == 1.0
    assert "better step" in report.diagnosis[0]


def test_rounding_of_a_large_offset_is_not_an_error(rng):
    x = rng.normal(size=10)

    def fun(x):
        return 1e6 + x @ x

    report = check_gradient(fun, x, 2 * x)
    assert report.ok
    assert report.relative_error > 1e-7
    assert "rounding" in report.diagnosis[0]
    assert check_gradient(fun, x, x).verdict == "wrong"


def test_an_offset_that_swallows_the_gradient_is_inconclusive(rng):
    x = rng.normal(size=10)
    report = check_gradient(lambda x: 1e12 + x @ x, x, 2 * x)
    assert report.verdict == "inconclusive"
    assert "rounding hides" in report.diagnosis[0]


def test_a_gradient_below_the_rounding_of_the_whole_does_not_block_the_verdict(rng):
    # A bias before a mean is subtracted has no effect; its differences are noise.
    X, y = rng.normal(size=(20, 4)), rng.normal(size=20)
    params = {"w": rng.normal(size=4), "b": np.array([0.3])}

    def fun(p):
        z = X @ p["w"] + p["b"]
        return ((z - z.mean() - y) ** 2).mean()

    def grad(p):
        z = X @ p["w"] + p["b"]
        d = 2 * (z - z.mean() - y) / 20
        d = d - d.mean()
        return {"w": X.T @ d, "b": d.sum(keepdims=True)}

    assert check_gradient(fun, params, grad).ok


@pytest.mark.parametrize("x", [[0.0, 1.0, 0.0], [1e-9, -2.0, 3e-8]])
def test_kinks_within_the_step_are_left_out(x):
    x = np.array(x)
    for slope in (0.0, 1.0):  # either is a subgradient of relu at 0
        report = check_gradient(
            lambda x: np.maximum(x, 0).sum(),
            x,
            lambda x, slope=slope: np.where(x == 0, slope, x > 0),
        )
        assert report.ok, str(report)
    # Outside of the subdifferential it is wrong.
    assert (
        check_gradient(
            lambda x: np.maximum(x, 0).sum(), x, lambda x: np.where(x > 0, 1.0, -0.5)
        ).verdict
        == "wrong"
    )


def test_many_kinks_do_not_hide_an_error():
    x = np.zeros(500)
    x[250:] = 1.0
    g = np.where(x > 0, 1.0, 0.5)

    def fun(x):
        return np.maximum(x, 0).sum()

    assert check_gradient(fun, x, g).ok
    g[400] = 0.25
    report = check_gradient(fun, x, g)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].index == (400,)


def test_a_float32_value_of_float64_parameters_is_judged_by_its_own_precision(rng):
    x = rng.normal(size=8)
    report = check_gradient(lambda x: np.float32(x @ x), x, 2 * x, eps=1e-3)
    assert report.thresholds == (1e-3, 1e-1)
    assert report.ok
    # At 1e-7 the steps are far below its resolution: nothing can be said.
    report = check_gradient(lambda x: np.float32(x @ x), x, 2 * x)
    assert report.verdict in ("inconclusive", "correct")


def test_float32_that_cannot_resolve_is_inconclusive(rng):
    x = rng.normal(size=8).astype(np.float32)
    report = check_gradient(lambda x: np.float32(3e6 + x @ x), x, 2 * x)
    assert report.verdict == "inconclusive"


# -- wrong gradients are found, where they are -----------------------------------------

PLANTS = {
    "sign": lambda g, p: -g,
    "double": lambda g, p: 2 * g,
    "half": lambda g, p: g / 2,
    "sum for mean": lambda g, p: 20 * g,
    "zero": lambda g, p: 0 * g,
    "off by a permille": lambda g, p: g * 1.001,
    "offset": lambda g, p: g + np.abs(g).max() / 100,
    "reversed": lambda g, p: g.ravel()[::-1].reshape(g.shape),
}


@pytest.mark.parametrize("kind", PLANTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_planted_errors_are_found_in_the_right_array(kind, activation):
    n_planted = 0
    for seed in range(30):
        fun, params, grad = mlp(seed, activation=activation)
        g = grad(params)
        names = [k for k in g if g[k].size > 1 and np.abs(g[k]).max() > 1e-3]
        name = names[seed % len(names)]
        bad = PLANTS[kind](g[name], params[name])
        if np.allclose(bad, g[name], rtol=1e-4, atol=0):
            continue
        n_planted += 1
        report = check_gradient(fun, params, {**g, name: bad})
        assert report.verdict in FAULTY, f"seed {seed}\n{report}"
        assert report.worst(1)[0].name == name
        accused = [k for k, r in report.blocks.items() if r.verdict in FAULTY]
        assert accused == [name]
    assert n_planted >= 20


@pytest.mark.parametrize("kind", ["sign", "double", "half", "sum for mean", "zero"])
def test_planted_errors_are_found_in_float32(kind):
    for seed in range(30):
        fun, params, grad = mlp(seed, np.float32, "relu")
        g = grad(params)
        names = [k for k in g if np.abs(g[k]).max() > 1e-2]
        name = names[seed % len(names)]
        report = check_gradient(
            fun, params, {**g, name: PLANTS[kind](g[name], params[name])}
        )
        assert report.blocks[name].verdict in FAULTY, f"seed {seed}\n{report}"


def test_a_missing_penalty_is_found_in_every_array():
    fun, params, _ = mlp(3, penalty=1e-3)
    _, _, without = mlp(3, penalty=0.0)
    report = check_gradient(fun, params, without)
    assert [r.verdict in FAULTY for r in report.blocks.values()] == [True] * len(params)


def test_a_transposed_gradient_is_found(rng):
    A = rng.normal(size=(4, 4))
    params = [rng.normal(size=(4, 4)), rng.normal(size=4)]

    def fun(p):
        return (A * p[0]).sum() + p[1] @ p[1]

    report = check_gradient(fun, params, [A.T.copy(), 2 * params[1]])
    assert report.blocks["[0]"].verdict == "wrong"
    assert report.blocks["[1]"].verdict == "correct"
    # The diagonal of a transpose is right.
    assert report.blocks["[0]"].n_wrong == 12


def test_one_entry_off_by_half_among_a_hundred_thousand():
    f = Separable(100_000)
    report = check_gradient(f, f.theta, f.gradient)
    assert report.ok, str(report)
    g = f.gradient.copy()
    i = int(np.argsort(np.abs(g))[g.size // 2])
    g[i] /= 2
    report = check_gradient(f, f.theta, g)
    assert report.verdict == "wrong"
    assert report.blocks["params"].n_wrong == 1
    worst = report.worst(1)[0]
    assert worst.index == (i,)
    assert worst.numeric == pytest.approx(2 * worst.analytic, rel=1e-3)


def test_a_wrong_array_a_thousand_times_smaller_does_not_hide(rng):
    params = {"large": rng.normal(size=100), "small": rng.normal(size=5)}

    def fun(p):
        return p["large"] @ p["large"] + 1e-3 * np.sin(p["small"]).sum()

    def grad(p):
        return {"large": 2 * p["large"], "small": 1e-3 * np.cos(p["small"])}

    assert check_gradient(fun, params, grad).ok
    g = grad(params)
    g["small"] = g["small"] * 1.01
    report = check_gradient(fun, params, g)
    # The global number would have passed as nearly right.
    assert report.relative_error < 1e-5
    assert report.verdict == "wrong"
    assert report.blocks["large"].verdict == "correct"
    assert {r.name for r in report.worst(5)} == {"small"}


def test_an_error_of_a_millionth_is_suspicious(rng):
    x = rng.normal(size=20)
    report = check_gradient(lambda x: x @ x, x, 2 * x * (1 + 2e-6))
    assert report.verdict == "suspicious"
    assert not report.ok


def test_a_gradient_that_is_not_finite_where_the_function_is_is_wrong(rng):
    x = rng.normal(size=(2, 3))
    g = 2 * x
    g[1, 2] = np.nan
    report = check_gradient(lambda x: (x**2).sum(), x, g)
    assert report.verdict == "wrong"
    assert "[1, 2]" in str(report)
    assert report.worst(1)[0].index == (1, 2)


# -- the numbers -------------------------------------------------------------------


def test_the_difference_is_divided_by_the_exact_distance_of_the_points():
    # Exact rational arithmetic on the same doubles; f has 26-bit inputs' squares.
    x = np.array([0.0, 0.1, -3.7, 1e5, 1e-3])
    report = check_gradient(lambda x: float(x.sum()), x, np.ones(5))
    for i in range(5):
        h = 1e-7 * max(1.0, abs(x[i]))
        plus, minus = x.copy(), x.copy()
        plus[i], minus[i] = x[i] + h, x[i] - h
        exact = Fraction(float(plus.sum())) - Fraction(float(minus.sum()))
        exact /= Fraction(float(plus[i])) - Fraction(float(minus[i]))
        # The difference is exact (Sterbenz); one rounding each of span and quotient.
        assert report.numeric[i] == pytest.approx(float(exact), rel=4e-16)


def test_the_relative_error_is_the_formula(rng):
    x = rng.normal(size=7)
    g = 2 * x + 0.1
    report = check_gradient(lambda x: x @ x, x, g)
    n = report.numeric
    expected = np.linalg.norm(n - g) / (np.linalg.norm(n) + np.linalg.norm(g))
    assert report.relative_error == pytest.approx(expected, rel=1e-14)
    assert report.blocks["params"].relative_error == pytest.approx(expected, rel=1e-14)


def test_numeric_agrees_with_scipy(rng):
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=8)
        report = check_gradient(optimize.rosen, x, optimize.rosen_der)
        theirs = optimize.approx_fprime(x, optimize.rosen)
        # A forward difference with h = 1.5e-8 is off by h f''/2 and 2 eps f / h; f''
        # of rosen is below 1200 x^2 + 400 |x| + 200, f some thousands at most.
        tolerance = 1.5e-8 * (1200 * 9 + 1400) + 4 * 2.2e-16 * 2e4 / 1.5e-8
        np.testing.assert_allclose(report.numeric, theirs, rtol=0, atol=tolerance)


def test_steps_and_thresholds_follow_the_dtype(rng):
    x = rng.normal(size=3) * 10
    r64 = check_gradient(lambda x: x @ x, x, 2 * x)
    assert (r64.eps, r64.thresholds) == (1e-7, (1e-7, 1e-3))
    r32 = check_gradient(lambda x: x @ x, x.astype("f4"), 2 * x.astype("f4"))
    assert r32.eps == pytest.approx(2.0 ** (-23 / 3))
    assert r32.thresholds == (1e-3, 1e-1)
    assert r32.ok
    given_ = check_gradient(lambda x: x @ x, x, 2 * x, eps=1e-5, thresholds=(1e-8, 0.5))
    assert (given_.eps, given_.thresholds) == (1e-5, (1e-8, 0.5))
    for record in given_.worst(3):
        expected = 1e-5 * max(1, abs(x[record.index]))
        assert record.step == pytest.approx(expected, rel=1e-9)


def test_records_hold_the_evaluations():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    report = check_gradient(lambda x: (x**2).sum(), x, 3 * x)
    for record in report.worst(4):
        i = record.index
        span = record.step * 2
        assert record.numeric == (record.f_plus - record.f_minus) / span
        assert record.analytic == 3 * x[i]
        assert record.absolute == abs(record.numeric - record.analytic)
        assert 0 < record.error_estimate < 1e-6


# -- what cannot be decided ----------------------------------------------------------


def test_nan_regions_are_inconclusive_and_named():
    params = {"a": np.array([1.0, 2.0]), "b": np.array([0.0, 0.5])}

    def fun(p):
        return p["a"] @ p["a"] + (math.nan if p["b"][1] > 0.5 else 0.0)

    def grad(p):
        return {"a": 2 * p["a"], "b": np.zeros(2)}

    report = check_gradient(fun, params, grad)
    assert report.verdict == "inconclusive"
    assert report.blocks["a"].verdict == "correct"
    assert report.blocks["b"].verdict == "inconclusive"
    assert math.isnan(report.relative_error)
    assert any("b:" in s and "[1]" in s and "finite" in s for s in report.diagnosis)
    # An error that can be seen is still seen.
    g = grad(params)
    g["a"] *= 2
    assert check_gradient(fun, params, g).verdict == "wrong"


def test_a_function_that_is_nan_everywhere_is_inconclusive():
    assert check_gradient(lambda x: np.nan, np.ones(3), np.ones(3)).verdict == (
        "inconclusive"
    )


def test_an_overflowing_function_is_inconclusive():
    report = check_gradient(lambda x: float(np.inf), np.ones(3), np.ones(3))
    assert report.verdict == "inconclusive"


def test_a_random_function_is_inconclusive(rng):
    x = rng.normal(size=5)
    report = check_gradient(lambda x: x @ x + 1e-3 * rng.normal(), x, 2 * x)
    assert report.verdict == "inconclusive"
    assert report.diagnosis[0].startswith("random")
    assert {r.verdict for r in report.blocks.values()} == {"inconclusive"}


# -- the parameters come back --------------------------------------------------------


def layouts():
    rng = np.random.default_rng(5)
    base = rng.normal(size=(6, 8))
    unaligned = np.zeros(8 * 12 + 1, np.uint8)[1:].view(np.float64).reshape(3, 4)
    unaligned[...] = rng.normal(size=(3, 4))
    return {
        "C": base[:3, :4].copy(),
        "F": np.asfortranarray(base[:3, :4]),
        "strided": base[::2, ::2],
        "negative": base[::-2, ::-2],
        "transposed": base[:4, :3].T,
        "swapped": base[:3, :4].astype(base.dtype.newbyteorder()),
        "unaligned": unaligned,
        "float32": base[:3, :4].astype(np.float32),
        "3-d": rng.normal(size=(2, 3, 2)).transpose(2, 0, 1),
        "0-d": np.array(-0.0),
        "memmap-like": base[:3, :4].copy().view(np.ndarray),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("n_threads", [None, 3])
def test_every_layout_is_checked_and_restored(layout, n_threads):
    x = layouts()[layout]
    flags = x.flags.writeable, x.strides, x.dtype
    before = x.tobytes()
    weight = np.arange(1.0, x.size + 1).reshape(x.shape)

    def fun(x):
        return float((weight * x * x).sum(dtype=np.float64))

    report = check_gradient(fun, x, 2 * weight * x, n_threads=n_threads)
    assert report.ok, str(report)
    assert x.tobytes() == before
    assert (x.flags.writeable, x.strides, x.dtype) == flags
    bad = np.asarray(2 * weight * np.asarray(x, np.float64) + 1.0)
    last = tuple(n - 1 for n in x.shape)
    bad[last] += 100
    report = check_gradient(fun, x, bad, n_threads=n_threads)
    assert report.verdict == "wrong"
    assert report.blocks["params"].n_wrong == x.size


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 10, 15, 16])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_exception_passes_through_and_everything_is_restored(error, at, n_threads):
    rng = np.random.default_rng(1)
    params = {
        "a": rng.normal(size=(2, 2)),
        "deep": [rng.normal(size=3)[::-1], {"f": 0.7}],
    }
    before = copy.deepcopy(params)
    calls = []
    lock = threading.Lock()
    raised = error("mine")

    def fun(p):
        with lock:
            calls.append(1)
            if len(calls) > at:
                raise raised
        return (p["a"] ** 2).sum() + p["deep"][0].sum() + p["deep"][1]["f"]

    g = {"a": 2 * params["a"], "deep": [np.ones(3), {"f": 1.0}]}
    a = params["a"]
    with pytest.raises(error) as caught:
        check_gradient(fun, params, g, n_threads=n_threads)
    assert caught.value is raised or at == 0
    assert params["a"] is a
    assert params["a"].tobytes() == before["a"].tobytes()
    assert params["deep"][0].tobytes() == before["deep"][0].tobytes()
    assert params["deep"][1] == before["deep"][1]
    # No thread goes on once the error has come out.
    n = len(calls)
    threading.Event().wait(0.02)
    assert len(calls) == n


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_ends_a_long_check_and_restores(rng, n_threads):
    x = rng.normal(size=10**6)
    before = x.tobytes()

    def fun(x):
        time.sleep(0.002)
        return x[0]

    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            check_gradient(fun, x, x, n_threads=n_threads)
    finally:
        timer.cancel()
        timer.join()
    assert x.tobytes() == before


def test_an_exception_while_an_array_is_examined_again_restores_too(rng):
    x = rng.normal(size=4)
    before = x.tobytes()
    calls = []

    def fun(x):
        calls.append(1)
        if len(calls) > 2 * 4 + 2 + 5:  # within the measurement of the noise
            raise Stop
        return x @ x

    with pytest.raises(Stop):
        check_gradient(fun, x, x)
    assert x.tobytes() == before


def test_functions_that_read_a_closed_over_array_are_served(rng):
    W = rng.normal(size=(3, 2))
    report = check_gradient(lambda _: (W**3).sum(), W, 3 * W**2)
    assert report.ok


def test_a_function_that_modifies_its_argument_is_named_and_undone():
    x = {"a": np.ones(3), "b": np.ones(2)}

    def fun(p):
        p["b"] *= 0.5
        return p["a"].sum()

    with pytest.raises(ValueError, match=r"fun modified params\['b'\]"):
        check_gradient(fun, x, {"a": np.ones(3), "b": np.zeros(2)})
    np.testing.assert_array_equal(x["b"], np.ones(2))

    def replaces(p):
        p["b"] = p["b"] * 0.5
        return p["a"].sum()

    b = x["b"]
    with pytest.raises(ValueError, match=r"fun modified params\['b'\]"):
        check_gradient(replaces, x, {"a": np.ones(3), "b": np.zeros(2)})
    assert x["b"] is b

    def bad_grad(p):
        p["a"][0] = 7
        return {"a": np.ones(3), "b": np.zeros(2)}

    with pytest.raises(ValueError, match=r"grad modified params\['a'\]"):
        check_gradient(lambda p: p["a"].sum(), x, bad_grad)
    np.testing.assert_array_equal(x["a"], np.ones(3))


# -- threads -------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [2, 3, 5])
def test_threads_give_the_bits_of_the_serial_check(n_threads):
    for seed in range(6):
        fun, params, grad = mlp(seed)
        params["W0"] = np.asfortranarray(params["W0"])
        params["b0"] = np.repeat(params["b0"], 3)[::3]
        g = grad(params)
        g["W0"] = g["W0"] * 1.5
        one = check_gradient(fun, params, g)
        many = check_gradient(fun, params, g, n_threads=n_threads)
        for name in params:
            assert one.numeric[name].tobytes() == many.numeric[name].tobytes()
        assert one.worst(20) == many.worst(20)
        # (Two show first whether the function follows a copy.)
        assert one.n_evaluations + 2 == many.n_evaluations
        assert one.blocks == many.blocks


def test_threads_run_at_once(rng):
    x = rng.normal(size=8)
    barrier = threading.Barrier(2, timeout=20)
    main = threading.get_ident()

    def fun(x):
        if threading.get_ident() != main:
            barrier.wait()  # two threads must be inside at the same time
        return x @ x

    assert check_gradient(fun, x, 2 * x, n_threads=2).ok


def test_threads_never_see_the_callers_arrays(rng):
    params = {"a": rng.normal(size=4)}
    main, seen = threading.get_ident(), set()

    def fun(p):
        if threading.get_ident() != main:
            seen.add(p["a"] is params["a"])
        return p["a"] @ p["a"]

    check_gradient(fun, params, {"a": 2 * params["a"]}, n_threads=2)
    assert seen == {False}


# -- structures ----------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "left right")


def test_the_gradients_come_in_the_structure_of_the_parameters(rng):
    params = {
        "enc": {"W": rng.normal(size=(2, 3)), "b": rng.normal(size=3)},
        "dec": [rng.normal(size=2), (rng.normal(size=()), rng.normal(size=(1, 2)))],
        "pair": Pair(np.ones(1), np.zeros((0, 3))),
        "scalar": 0.25,
        7: np.ones(2),
    }

    def fun(p):
        return (
            (p["enc"]["W"] ** 2).sum()
            + p["enc"]["b"].sum()
            + p["dec"][0].sum()
            + float(p["dec"][1][0])
            + p["dec"][1][1].sum()
            + p["pair"].left.sum()
            + p["scalar"] ** 2
            + p[7].sum()
        )

    g = {
        7: np.ones(2),
        "enc": {"W": 2 * params["enc"]["W"], "b": [1, 1, 1]},
        "dec": ([1.0, 1.0], [1.0, np.ones((1, 2))]),
        "pair": Pair(np.ones(1), np.zeros((0, 3))),
        "scalar": 0.5,
    }
    report = check_gradient(fun, params, g)
    assert report.ok
    assert list(report.blocks) == [
        "enc.W", "enc.b", "dec[0]", "dec[1][0]", "dec[1][1]",
        "pair[0]", "pair[1]", "scalar", "[7]",
    ]  # fmt: skip
    numeric = report.numeric
    assert list(numeric) == list(params)
    assert isinstance(numeric["pair"], Pair)
    assert isinstance(numeric["dec"][1], tuple)
    assert numeric["enc"]["W"].shape == (2, 3)
    np.testing.assert_array_equal(report.analytic["enc"]["W"], g["enc"]["W"])
    assert report.n_total == report.n_checked == 18
    assert params["scalar"] == 0.25
    assert type(params["scalar"]) is float


def test_names_that_coincide_are_told_apart():
    params = {"a.b": np.ones(1), "a": {"b": np.ones(1)}}
    report = check_gradient(
        lambda p: p["a.b"].sum() + 2 * p["a"]["b"].sum(),
        params,
        {"a.b": [1.0], "a": {"b": [1.0]}},
    )
    assert list(report.blocks) == ["params['a.b']", "params['a']['b']"]
    assert report.worst(1)[0].name == "params['a']['b']"


leaf_shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
structures = st.recursive(
    st.tuples(leaf_shapes, st.sampled_from(["f4", "f8"]), st.integers(0, 2**32 - 1)),
    lambda children: st.one_of(
        st.lists(children, min_size=1, max_size=3),
        st.dictionaries(st.text(max_size=3), children, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


def build(node):
    if isinstance(node, tuple):
        shape, dtype, seed = node
        return np.random.default_rng(seed).normal(size=shape).astype(dtype)
    if isinstance(node, dict):
        return {k: build(v) for k, v in node.items()}
    return [build(v) for v in node]


def apply(function, node):
    if isinstance(node, np.ndarray):
        return np.asarray(function(node))
    if isinstance(node, dict):
        return {k: apply(function, v) for k, v in node.items()}
    return [apply(function, v) for v in node]


def leaves(node):
    if isinstance(node, np.ndarray):
        return [node]
    return [
        x
        for v in (node.values() if isinstance(node, dict) else node)
        for x in leaves(v)
    ]


@settings(max_examples=60, deadline=None)
@given(structures, st.sampled_from([None, 2]))
def test_any_structure_is_checked_restored_and_blamed(spec, n_threads):
    params = build(spec)
    arrays = leaves(params)
    if sum(a.size for a in arrays) == 0:
        with pytest.raises(ValueError, match="no entries"):
            check_gradient(lambda p: 0.0, params, params)
        return
    before = [a.tobytes() for a in arrays]

    def fun(p):
        return sum(float((a.astype("f8") ** 2).sum()) for a in leaves(p))

    right = apply(lambda a: 2 * a.astype("f8"), params)
    assert check_gradient(fun, params, right, n_threads=n_threads).ok
    # Blame the last array that has entries.
    k = max(i for i, a in enumerate(arrays) if a.size)
    leaves(right)[k][...] += 100
    report = check_gradient(fun, params, right, n_threads=n_threads)
    assert report.verdict == "wrong"
    accused = [
        i for i, r in enumerate(report.blocks.values()) if r.verdict != "correct"
    ]
    assert accused == [k]
    assert [a.tobytes() for a in arrays] == before
    assert len(leaves(report.numeric)) == len(arrays)


# -- hostile input -------------------------------------------------------------------

ONE = np.ones(3)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (np.arange(3), TypeError, r"params must be .* float32 or float64.*int64"),
        (np.ones(3, bool), TypeError, r"params must be .* float32 or float64.*bool"),
        (np.ones(3, np.float16), TypeError, "float16"),
        (np.ones(3, object), TypeError, "object"),
        ({"a": [1, 2]}, TypeError, r"params\['a'\]\[0\] .* got int"),
        ({"a": True}, TypeError, r"params\['a'\] .* got bool"),
        ({"a": None}, TypeError, r"params\['a'\] .* got NoneType"),
        ("theta", TypeError, "got str"),
        (3.0, TypeError, r"numpy.array\(3.0\)"),
        ((1.0, 2.0), TypeError, r"params\[0\] is a float, which cannot be perturbed"),
        (types.MappingProxyType({"a": 1.0}), TypeError, r"params\['a'\] is a float"),
        ({}, ValueError, "no entries"),
        ([], ValueError, "no entries"),
        (np.zeros((0, 3)), ValueError, "no entries"),
        ({"W": np.array([[1.0, np.nan]])}, ValueError, r"\['W'\].*nan at \[0, 1\]"),
        ({"w": math.inf}, ValueError, r"params\['w'\] must be finite"),
        ([ONE, ONE], ValueError, r"params\[1\] shares memory with params\[0\]"),
        (np.broadcast_to(ONE, (2, 3)), ValueError, "read-only"),
        (
            np.lib.stride_tricks.sliding_window_view(np.ones(5), 3, writeable=True),
            ValueError,
            "same memory through two",
        ),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_checked_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        check_gradient(lambda p: 0.0, params, params)


def test_read_only_arrays_are_refused_with_advice():
    x = np.ones(3)
    x.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['x'\] is read-only.*copy"):
        check_gradient(lambda p: 0.0, {"x": x}, {"x": x})


def test_interleaved_columns_are_not_aliases(rng):
    base = rng.normal(size=(4, 2))
    params = [base[:, 0], base[:, 1]]
    report = check_gradient(lambda p: p[0] @ p[1], params, [params[1], params[0]])
    assert report.ok
    with pytest.raises(ValueError, match="shares memory"):
        check_gradient(lambda p: 0.0, [base, base[1]], [base, base[1]])


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (
            {"W1": np.ones((4, 3)), "b1": ONE},
            ValueError,
            r"grad\['W1'\] must have shape \(3, 4\); got \(4, 3\)",
        ),
        ({"W1": np.ones((3, 4))}, ValueError, r"lacks 'b1'"),
        (
            {"W1": np.ones((3, 4)), "b1": ONE, "b2": ONE},
            ValueError,
            "has 'b2', which params has not",
        ),
        ({"W1": np.ones((3, 4)), "b1": 1j * ONE}, TypeError, r"grad\['b1'\].*complex"),
        ({"W1": np.ones((3, 4)), "b1": None}, TypeError, r"grad\['b1'\].*NoneType"),
        ({"W1": np.ones((3, 4)), "b1": "x"}, TypeError, r"grad\['b1'\].*str"),
        ({"W1": [[1.0], [1.0, 2.0]], "b1": ONE}, ValueError, "ragged"),
        ([np.ones((3, 4)), ONE], TypeError, "must be a dict like params; got list"),
        (lambda p: None, TypeError, r"grad\(params\) must be a dict .* NoneType"),
        (lambda p: {"W1": 1.0, "b1": ONE}, ValueError, r"grad\(params\)\['W1'\] must"),
    ],
)  # fmt: skip
def test_gradients_that_do_not_match_are_refused(grad, error, message):
    params = {"W1": np.ones((3, 4)), "b1": np.ones(3)}
    with pytest.raises(error, match=message):
        check_gradient(lambda p: 0.0, params, grad)


def test_lists_must_be_as_long():
    with pytest.raises(ValueError, match="grad must have 1 items like params; got 2"):
        check_gradient(lambda p: 0.0, [np.ones(2)], [np.ones(2), np.ones(2)])
    with pytest.raises(TypeError, match="grad must be a list or tuple"):
        check_gradient(lambda p: 0.0, [np.ones(2)], {"a": np.ones(2)})


@pytest.mark.parametrize(
    "value",
    [None, "1.0", 1j, np.complex128(1), True, np.ones(2), np.ones((1, 2)), (1.0, ONE)],
)
def test_a_function_must_return_a_real_scalar(value):
    x = np.ones(2)
    with pytest.raises(TypeError, match="fun must return a real scalar; got"):
        check_gradient(lambda x: value, x, x)

    calls = []

    def later(x):
        calls.append(1)
        return value if len(calls) == 4 else 1.0

    with pytest.raises(TypeError, match="fun must return a real scalar; got"):
        check_gradient(later, x, x)
    np.testing.assert_array_equal(x, np.ones(2))


@pytest.mark.parametrize(
    "wrap",
    [float, np.float64, lambda v: np.array(v), lambda v: np.array([[v]]), Fraction],
)
def test_scalars_in_other_clothes(rng, wrap):
    x = rng.normal(size=3)
    assert check_gradient(lambda x: wrap(float(x @ x)), x, 2 * x).ok


def test_a_function_may_reuse_its_result_array(rng):
    x, out = rng.normal(size=3), np.empty(1)

    def fun(x):
        out[0] = x @ x
        return out

    assert check_gradient(fun, x, 2 * x).ok


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": 0}, ValueError, "eps"),
        ({"eps": -1e-7}, ValueError, "eps"),
        ({"eps": math.nan}, ValueError, "eps"),
        ({"eps": "small"}, TypeError, "eps"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"n_threads": 1.5}, TypeError, "n_threads"),
        ({"thresholds": 1e-7}, ValueError, "thresholds must be two numbers"),
        ({"thresholds": (1e-3, 1e-7)}, ValueError, "must increase"),
        ({"thresholds": (0, 1e-3)}, ValueError, r"thresholds\[0\]"),
        ({"thresholds": (1e-7, "x")}, TypeError, r"thresholds\[1\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        check_gradient(lambda x: x @ x, ONE.copy(), 2 * ONE, **options)


def test_fun_must_be_callable():
    with pytest.raises(TypeError, match="fun must be callable; got float"):
        check_gradient(1.0, ONE.copy(), ONE)


def test_a_step_below_the_resolution_is_inconclusive_not_wrong(rng):
    x = 1 + rng.random(4)
    report = check_gradient(lambda x: x @ x, x, 2 * x, eps=1e-18)
    assert report.verdict != "wrong"
    assert not math.isfinite(report.relative_error) or report.relative_error <= 1


def test_the_public_names():
    assert issubclass(fanin.GradientError, AssertionError)
    assert functools.reduce(getattr, ["check_gradient", "__doc__"], fanin)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_at_the_ends_of_their_range_raise_no_warning(dtype):
    info = np.finfo(dtype)
    x = np.array([info.max, -info.max, info.tiny, info.smallest_subnormal], dtype)
    before = x.tobytes()
    report = check_gradient(lambda x: 1.0, x, np.zeros(4))
    assert report.verdict != "wrong"
    assert x.tobytes() == before
