"""Losses: against their twins, exact values, PyTorch; weights; bad targets."""

from __future__ import annotations

import dataclasses
import math
import pickle

import mpmath
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import fanin
from fanin import losses
from fanin._kernels import _losses

DTYPES = [np.float32, np.float64]
EPS = float(np.finfo(np.float64).eps)

# A loss, and the kind of its targets.
CASES = {
    "squared_error": (losses.SquaredError(), "real"),
    "absolute_error": (losses.AbsoluteError(), "real"),
    "huber": (losses.Huber(0.7), "real"),
    "quantile": (losses.Quantile(0.3), "real"),
    "poisson": (losses.Poisson(), "count"),
    "binary_cross_entropy": (losses.BinaryCrossEntropy(), "fraction"),
    "labels": (losses.SoftmaxCrossEntropy(), "label"),
    "smoothed labels": (losses.SoftmaxCrossEntropy(0.1), "label"),
    "probabilities": (losses.SoftmaxCrossEntropy(), "probability"),
    "smoothed probabilities": (losses.SoftmaxCrossEntropy(0.3), "probability"),
}
ALL = pytest.mark.parametrize("case", sorted(CASES))


def targets(kind, rows, cols, dtype, rng):
    if kind == "real":
        return rng.standard_normal((rows, cols)).astype(dtype)
    if kind == "count":
        return rng.poisson(2.0, (rows, cols)).astype(dtype)
    if kind == "fraction":
        return rng.uniform(size=(rows, cols)).astype(dtype)
    if kind == "label":
        return rng.integers(0, cols, rows)
    return reference.softmax(rng.standard_normal((rows, cols))).astype(dtype)


def numbers(loss):
    return {"parameter": loss.parameter, "quantiles": loss.quantiles}


# --- the kernels against their twins --------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@ALL
@pytest.mark.parametrize(
    # one value; fewer than a register; wider than the tile on the stack; many tiles
    "shape",
    [(1, 1), (5, 1), (17, 10), (4, 100), (3, 1300), (700, 3), (0, 3)],
)
def test_forward_equals_twin(case, shape, dtype, weighted, rng):
    loss, kind = CASES[case]
    Z = (2 * rng.standard_normal(shape)).astype(dtype)
    Y = targets(kind, *shape, dtype, rng)
    weight = rng.uniform(0, 3, shape[0]) if weighted else None
    total, dZ, bad = _losses.forward(
        Z, Y, loss.name, 0.25, **numbers(loss), weight=weight
    )
    expected, gradient = reference.loss_forward(
        Z, Y, loss.name, 0.25, **numbers(loss), weight=weight
    )
    assert bad == -1
    assert dZ.dtype == dtype
    # Softmax takes exponentials in the dtype, with errors of a few eps; all else is
    # computed in float64. Terms are below 60, and the gradient is rounded to the dtype.
    eps = float(np.finfo(dtype).eps) if loss.name == "softmax_cross_entropy" else EPS
    assert abs(total - expected) <= 60 * eps * (shape[0] * shape[1] + abs(expected))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(dZ, gradient, rtol=16 * eps, atol=16 * eps)
    alone, none, bad = _losses.forward(
        Z, Y, loss.name, **numbers(loss), weight=weight, gradient=False
    )
    assert (alone, none, bad) == (total, None, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@ALL
def test_every_width_is_right_to_its_last_column(case, dtype, rng):
    loss, kind = CASES[case]
    for cols in range(1, 40):
        Z = rng.standard_normal((3, cols)).astype(dtype)
        Y = targets(kind, 3, cols, dtype, rng)
        total, dZ, _ = _losses.forward(Z, Y, loss.name, **numbers(loss))
        expected, gradient = reference.loss_forward(Z, Y, loss.name, **numbers(loss))
        eps = float(np.finfo(dtype).eps)
        assert total == pytest.approx(expected, rel=64 * eps, abs=64 * eps)
        np.testing.assert_allclose(dZ, gradient, rtol=16 * eps, atol=16 * eps)


def test_each_output_has_its_quantile(rng):
    Z, Y = rng.standard_normal((2, 300, 3))
    loss = losses.Quantile([0.1, 0.5, 0.9])
    total, dZ, _ = _losses.forward(Z, Y, "quantile", **numbers(loss))
    expected, gradient = reference.loss_forward(Z, Y, "quantile", **numbers(loss))
    assert total == pytest.approx(expected, rel=1e-14)
    np.testing.assert_array_equal(dZ, gradient)
    single = [losses.evaluate(Z[:, j], Y[:, j], losses.Quantile(q))[0]
              for j, q in enumerate(loss.quantiles)]  # fmt: skip
    assert losses.evaluate(Z, Y, loss)[0] == pytest.approx(np.mean(single), rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", sorted(_losses.LOSSES))
def test_link_equals_twin(loss, dtype, rng):
    for shape in ((13, 7), (3, 100)):
        Z = (5 * rng.standard_normal(shape)).astype(dtype)
        expected = reference.loss_link(Z, loss)
        _losses.link(Z, loss)
        np.testing.assert_allclose(Z, expected, rtol=16 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", DTYPES)
def test_links_of_extreme_outputs(dtype):
    big = np.finfo(dtype).max
    Z = np.array([[-np.inf, -big, 0, big, np.inf, np.nan]], dtype)
    _losses.link(Z, "binary_cross_entropy")
    np.testing.assert_array_equal(Z, [[0, 0, 0.5, 1, 1, np.nan]])
    Z = np.array([[-np.inf, -big, 0, big, np.inf, np.nan]], dtype)
    _losses.link(Z, "poisson")
    np.testing.assert_array_equal(Z, [[0, 0, 1, np.inf, np.inf, np.nan]])
    Z = np.array([[-np.inf, -big, big], [0, -np.inf, 0]], dtype)
    _losses.link(Z, "softmax_cross_entropy")
    np.testing.assert_array_equal(Z, [[0, 0, 1], [0.5, 0, 0.5]])


# --- exact values ---------------------------------------------------------------------


def exact(loss, z, y):
    """The loss of one row by its textbook formula, in as many digits as set."""
    K = len(z)
    if loss.name == "softmax_cross_entropy":
        a = mpmath.mpf(loss.parameter)
        if isinstance(y, int):
            y = [mpmath.mpf(j == y) for j in range(K)]
        y = [(1 - a) * t + a / K for t in y]
        log_sum = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z))
        return mpmath.fsum(t * (log_sum - v) for t, v in zip(y, z, strict=True))

    def one(z, y, q):
        if loss.name == "squared_error":
            return (z - y) ** 2
        if loss.name == "absolute_error":
            return abs(z - y)
        if loss.name == "huber":
            d, delta = abs(z - y), mpmath.mpf(loss.delta)
            return d**2 / 2 if d <= delta else delta * (d - delta / 2)
        if loss.name == "quantile":
            return max(q * (y - z), (q - 1) * (y - z))
        if loss.name == "poisson":
            return mpmath.exp(z) - y * z
        return mpmath.log(1 + mpmath.exp(z)) - y * z

    q = loss.quantiles or [loss.parameter] * K
    return mpmath.fsum(
        one(a, b, mpmath.mpf(c)) for a, b, c in zip(z, y, q, strict=True)
    )


# Rows of outputs and targets: ordinary, saturated on either side, far apart, and large
# with a small difference.
VALUES = [
    ([0.3, -1.2, 2.0], [0.25, 1.0, 0.0]),
    ([40.0, -40.0, 1.0], [1.0, 0.0, 0.5]),
    ([-300.0, 300.0, -2.0], [1.0, 1.0, 0.0]),
    ([1e-12, -1e-12, 0.1], [0.0, 1.0, 0.2]),
    ([30.0, 36.5, -36.0], [1.0, 1.0, 1.0]),
]
LOGITS = [
    [0.3, -1.2, 2.0],
    [40.0, 0.0, 1.0],
    [-300.0, 300.0, -2.0],
    [1e8, 1e8 + 1, 1e8 - 3],
    [0.5, 0.5, 0.5],
    [-700.0, 0.0, 1e-9],
]


@ALL
def test_value_and_gradient_have_all_digits(case):
    """Against differences of the exact loss, also where the gradient is 1e-18."""
    loss, kind = CASES[case]
    with mpmath.workprec(4000):  # exp(-700) beside 1, and a difference of that
        if loss.name == "softmax_cross_entropy":
            y_of = {"label": [0, 1, 2], "probability": [[1.0, 0, 0], [0.25, 0.5, 0.25]]}
            problems = [(z, y) for z in LOGITS for y in y_of[kind]]
        else:
            problems = VALUES
        for z, y in problems:
            Y = np.array([y])
            total, dZ, bad = _losses.forward(
                np.array([z]), Y, loss.name, **numbers(loss)
            )
            assert bad == -1
            z = [mpmath.mpf(v) for v in z]
            y = y if isinstance(y, int) else [mpmath.mpf(v) for v in y]
            value = exact(loss, z, y)
            # A few roundings of terms that do not cancel. In Poisson's loss exp(z) and
            # y z may, and exp(z) and y in its gradient; with soft targets softmax and
            # target. exp(z - max z) multiplies the rounding of its argument by it.
            units, size = 8, [abs(value), 0, 0, 0]
            if loss.name == "poisson":
                rates = [mpmath.exp(v) for v in z]
                size[0] = sum(
                    e + abs(t * v) for e, t, v in zip(rates, y, z, strict=True)
                )
                size[1:] = [e + t for e, t in zip(rates, y, strict=True)]
            elif loss.name == "softmax_cross_entropy":
                units += max(z) - min(z) if max(z) < 1e8 else 0  # (exact differences)
                if loss.parameter != 0 or kind == "probability":
                    size[1:] = [1, 1, 1]
            assert abs(total - value) <= 8 * EPS * size[0], (case, z, y)
            h = mpmath.mpf(2) ** -1500
            for j in range(3):
                up, down = list(z), list(z)
                up[j] += h
                down[j] -= h
                slope = (exact(loss, up, y) - exact(loss, down, y)) / (2 * h)
                limit = units * EPS * max(abs(slope), size[1 + j])
                assert abs(dZ[0, j] - slope) <= limit, (case, z, y, j)


def test_equal_logits_cost_the_logarithm_of_their_number():
    """log1p of the kernels, over integers, to one unit in the last place and a half."""
    for n in [*range(1, 70), 100, 999, 4097, 30000]:
        total, _, _ = _losses.forward(
            np.zeros((1, n)), np.array([n - 1]), "softmax_cross_entropy"
        )
        assert abs(mpmath.mpf(total) - mpmath.log(n)) <= 1.5 * np.spacing(math.log(n))


def test_the_small_logarithm_has_its_digits():
    """log1p(exp(-z)), from 0.7 down to the smallest numbers."""
    Z = np.concatenate([np.linspace(0, 40, 977), np.linspace(40, 740, 300)])
    for z in Z:
        value, _ = losses.evaluate([z], [1], "binary_cross_entropy")
        with mpmath.workprec(1400):
            wanted = mpmath.log1p(mpmath.exp(-mpmath.mpf(z)))
        # 1.5 units of the exponential, 1.5 of the logarithm
        assert abs(value - wanted) <= 3 * np.spacing(float(wanted)), z


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_large_logits_neither_overflow_nor_lose_the_loss(loss, dtype):
    Z = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], dtype=dtype)
    if loss == "softmax_cross_entropy":
        total, dZ, _ = _losses.forward(Z, np.array([0, 0]), loss)
        expected = [[0, 0], [-1, 1]]
    else:
        total, dZ, _ = _losses.forward(Z, np.zeros((2, 2), dtype), loss)
        expected = [[1, 0], [0, 1]]
    assert total == 2000.0
    np.testing.assert_allclose(dZ, expected, atol=1e-37)


def test_infinite_outputs_have_their_limits():
    inf = np.inf
    Z = np.array([[inf, -inf, inf, -inf]])
    total, dZ, _ = _losses.forward(
        Z, np.array([[1.0, 0, 1, 0]]), "binary_cross_entropy"
    )
    assert total == 0.0
    np.testing.assert_array_equal(dZ, 0)
    assert _losses.forward(Z, np.zeros((1, 4)), "binary_cross_entropy")[0] == inf
    total, dZ, _ = _losses.forward(-np.abs(Z), np.zeros((1, 4)), "poisson")
    assert total == 0.0
    total, dZ, _ = _losses.forward(Z, np.zeros((1, 4)), "huber", parameter=0.5)
    assert total == inf
    np.testing.assert_array_equal(dZ, [[0.5, -0.5, 0.5, -0.5]])
    Z = np.array([[0.0, -inf, 0.0]])
    for y in (np.array([0]), np.array([[0.5, 0, 0.5]])):
        total, dZ, _ = _losses.forward(Z, y, "softmax_cross_entropy")
        assert total == pytest.approx(math.log(2), rel=EPS)
        assert dZ[0, 1] == 0.0


@ALL
def test_a_nan_output_is_never_hidden(case, rng):
    loss, kind = CASES[case]
    for at in range(9):
        Z = rng.standard_normal((2, 9))
        Z[1, at] = np.nan
        Y = targets(kind, 2, 9, np.float64, rng)
        total, dZ, bad = _losses.forward(Z, Y, loss.name, **numbers(loss))
        assert np.isnan(total)
        assert np.isnan(dZ[1, at])
        assert np.isfinite(dZ[0]).all()
        assert bad == -1


def test_a_loss_that_overflows_is_infinite_not_nan():
    Z, Y = np.full((30, 1), 1e200), np.zeros((30, 1))
    assert _losses.forward(Z, Y, "squared_error")[0] == np.inf
    Z = np.array([[0.0, -np.inf]])
    assert _losses.forward(Z, np.array([1]), "softmax_cross_entropy")[0] == np.inf
    assert (
        losses.evaluate(np.full(40000, 1e200), np.zeros(40000), "squared_error")[0]
        == np.inf
    )


def test_kinks_have_the_derivative_zero():
    Z = np.array([[1.0, -0.0, 3.0]])
    for name, parameter in (("absolute_error", 0.0), ("quantile", 0.2)):
        total, dZ, _ = _losses.forward(Z, Z.copy(), name, parameter=parameter)
        assert total == 0.0
        np.testing.assert_array_equal(dZ, 0.0)


@pytest.mark.parametrize("name", ["squared_error", "absolute_error"])
def test_sums_over_samples_lose_no_digits(name, rng):
    """Two-word sums: a plain one would be off by hundreds of units here."""
    d = rng.uniform(0.5, 1.5, 100_003)
    d[::1000] = 1e8
    rng.shuffle(d)
    Z, Y = d[:, np.newaxis], np.zeros((d.size, 1))
    total, _, _ = _losses.forward(Z, Y, name)
    terms = d * d if name == "squared_error" else d
    # Each term is rounded alike, so that only the sum and its last rounding differ.
    assert abs(total - math.fsum(terms)) <= np.spacing(total)


@pytest.mark.parametrize("cols", [1, 3])
def test_a_sum_over_many_blocks_keeps_small_terms(cols):
    """One loss of 1e16 among thousands of 1."""
    Z = np.ones((40_000, cols))
    Z[0, 0] = 1e8
    total, _, _ = _losses.forward(Z, np.zeros_like(Z), "squared_error")
    assert total == 1e16 + (Z.size - 1)


# --- oracles --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", sorted(set(CASES) - {"quantile"}))
def test_equals_pytorch(case, weighted, dtype, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    loss, kind = CASES[case]
    Z = (3 * rng.standard_normal((8, 5))).astype(dtype)
    Y = targets(kind, 8, 5, dtype, rng)
    weight = rng.uniform(0, 2, 8) if weighted else None
    module, options = {
        "squared_error": (torch.nn.MSELoss, {}),
        "absolute_error": (torch.nn.L1Loss, {}),
        "huber": (torch.nn.HuberLoss, {"delta": loss.parameter}),
        "poisson": (torch.nn.PoissonNLLLoss, {}),
        "binary_cross_entropy": (torch.nn.BCEWithLogitsLoss, {}),
        "softmax_cross_entropy": (
            torch.nn.CrossEntropyLoss,
            {"label_smoothing": loss.parameter},
        ),
    }[loss.name]
    tensor = torch.tensor(Z, requires_grad=True)
    rows = module(reduction="none", **options)(tensor, torch.tensor(Y))
    rows = rows.reshape(8, -1).mean(axis=1)
    w = torch.ones(8) if weight is None else torch.tensor(weight)
    value = (w * rows).sum() / w.sum()
    value.backward()
    found, dZ = losses.evaluate(Z, Y, loss, sample_weight=weight)
    # In the dtype of either, some roundings of numbers below 60.
    rel = 1e-13 if dtype == np.float64 else 2e-6
    gradient = tensor.grad.numpy()
    assert found == pytest.approx(value.item(), rel=rel)
    assert np.linalg.norm(dZ - gradient) <= rel * np.linalg.norm(gradient)


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 0.2])
def test_class_weights_are_sample_weights(smoothing, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    Z, y = rng.standard_normal((50, 4)), rng.integers(0, 4, 50)
    weight = np.array([0.5, 1.0, 2.0, 3.0])
    loss = losses.SoftmaxCrossEntropy(smoothing)
    tensor = torch.tensor(Z, requires_grad=True)
    if smoothing == 0.0:
        module = torch.nn.CrossEntropyLoss(weight=torch.tensor(weight))
        value = module(tensor, torch.tensor(y))
    else:
        # (PyTorch weights a smoothed target's every class by its own weight; a weight
        # of samples weights the whole loss of the sample.)
        module = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
        w = torch.tensor(weight)[torch.tensor(y)]
        value = (w * module(tensor, torch.tensor(y))).sum() / w.sum()
    value.backward()
    found, dZ = losses.evaluate(Z, y, loss, sample_weight=weight[y])
    assert found == pytest.approx(value.item(), rel=1e-13)
    np.testing.assert_allclose(dZ, tensor.grad.numpy(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.8])
def test_quantile_equals_scikit_learn(quantile, rng):
    metrics = pytest.importorskip("sklearn.metrics", reason="the oracle here")
    Z, Y = rng.standard_normal((2, 40, 3))
    weight = rng.uniform(0, 2, 40)
    found, _ = losses.evaluate(Z, Y, losses.Quantile(quantile), sample_weight=weight)
    wanted = metrics.mean_pinball_loss(Y, Z, alpha=quantile, sample_weight=weight)
    assert found == pytest.approx(wanted, rel=1e-14)


def test_the_minimum_of_the_quantile_loss_is_the_quantile(rng):
    y = rng.standard_normal(1001)
    loss = losses.Quantile([0.1, 0.5, 0.9])
    best = np.quantile(y, loss.quantiles)
    value, dZ = losses.evaluate(np.tile(best, (1001, 1)), y, loss)
    # The derivative is a share of samples above less one below: less than a sample.
    assert np.abs(dZ.sum(axis=0)).max() <= 1 / 1001
    for j in range(3):
        for step in (-0.01, 0.01):
            moved = best.copy()
            moved[j] += step
            assert losses.evaluate(np.tile(moved, (1001, 1)), y, loss)[0] > value


# --- the whole network ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@ALL
def test_a_network_with_this_loss_has_a_correct_gradient(case, dtype, rng):
    loss, kind = CASES[case]
    net = fanin.Network(
        4,
        [fanin.layers.Dense(6, activation="tanh"), fanin.layers.Dense(3)],
        loss=loss,
        dtype=dtype,
        rng=0,
    )
    X = rng.standard_normal((30, 4))
    y = targets(kind, 30, 3, np.float64, rng)
    assert net.check_gradient(X, y).verdict == "correct"
    Z = net.forward(X)
    eps = float(np.finfo(dtype).eps)
    assert net.loss(X, y) == pytest.approx(losses.evaluate(Z, y, loss)[0], rel=64 * eps)


def test_a_network_of_three_quantiles_takes_one_target(rng):
    X, y = rng.standard_normal((60, 2)), rng.standard_normal(60)
    net = fanin.Network(
        2, [fanin.layers.Dense(3)], loss=losses.Quantile((0.1, 0.5, 0.9)),
        dtype=np.float64, rng=0)  # fmt: skip
    assert net.check_gradient(X, y).verdict == "correct"
    whole = net.loss(X, np.repeat(y[:, np.newaxis], 3, axis=1))
    assert net.loss(X, y) == net.loss(X, y[:, np.newaxis]) == whole
    net.fit(
        X, y, optimizer=fanin.optimizers.Adam(0.05), epochs=60, batch_size=20, rng=0
    )
    Z = net.predict(X)
    assert Z.shape == (60, 3)
    assert 0.5 < np.mean((y > Z[:, 0]) & (y < Z[:, 2])) < 1.0
    with pytest.raises(ValueError, match="a loss of 3 quantiles needs as many outputs"):
        fanin.Network(2, [fanin.layers.Dense(2)], loss=net.loss_function)


def test_a_poisson_network_predicts_rates(rng):
    X = rng.standard_normal((5, 2))
    net = fanin.Network(2, [fanin.layers.Dense(1)], loss="poisson", rng=0)
    np.testing.assert_allclose(net.predict(X), np.exp(net.forward(X)[:, 0]), rtol=1e-6)
    with pytest.raises(AttributeError, match="cross-entropy"):
        net.predict_proba(X)


# --- weights --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@ALL
def test_a_weight_of_two_is_the_row_twice_and_of_zero_none(case, dtype, rng):
    loss, kind = CASES[case]
    Z = rng.standard_normal((90, 5)).astype(dtype)
    y = targets(kind, 90, 5, dtype, rng)
    weight = rng.integers(0, 4, 90)
    value, dZ = losses.evaluate(Z, y, loss, sample_weight=weight)
    index = np.repeat(np.arange(90), weight)
    wanted, gradient = losses.evaluate(Z[index], y[index], loss)
    assert value == pytest.approx(wanted, rel=4 * EPS)
    summed = np.zeros(Z.shape)
    np.add.at(summed, index, gradient.astype(np.float64))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(dZ, summed, rtol=4 * eps, atol=4 * eps / 90)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@ALL
def test_a_row_of_weight_zero_counts_for_nothing_whatever_it_holds(case, value, rng):
    loss, kind = CASES[case]
    Z = rng.standard_normal((4, 9))
    y = targets(kind, 4, 9, np.float64, rng)
    weight = np.array([1.0, 0.0, 2.0, 0.0])
    wanted, gradient = losses.evaluate(Z, y, loss, sample_weight=weight)
    Z[1] = value
    Z[3, 2] = value
    found, dZ = losses.evaluate(Z, y, loss, sample_weight=weight)
    assert found == wanted
    np.testing.assert_array_equal(dZ, gradient)
    np.testing.assert_array_equal(dZ[[1, 3]], 0)


def test_the_target_of_a_row_of_weight_zero_is_checked():
    for loss, y in (
        ("squared_error", [[0.0], [np.nan]]),
        ("softmax_cross_entropy", [0, 1]),
    ):
        with pytest.raises(ValueError, match=r"y\[1\]"):
            losses.evaluate([[0.0], [0.0]], y, loss, sample_weight=[1, 0])


def test_equal_weights_change_nothing(rng):
    Z, y = rng.standard_normal((30, 4)), rng.integers(0, 4, 30)
    value, dZ = losses.evaluate(Z, y, "softmax_cross_entropy")
    for weight in (np.ones(30, np.int8), np.ones(30, bool), np.full(30, 0.25)):
        other, gradient = losses.evaluate(
            Z, y, "softmax_cross_entropy", sample_weight=weight
        )
        assert other == value
        np.testing.assert_allclose(gradient, dZ, rtol=2 * EPS)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (
            [1.0, -1.0],
            ValueError,
            "must be finite and not negative; got -1.0 at index 1",
        ),
        ([np.nan, 1.0], ValueError, "must be finite and not negative; got nan"),
        ([np.inf, 1.0], ValueError, "must be finite and not negative; got inf"),
        ([0.0, 0.0], ValueError, "must have a positive, finite sum; got 0.0"),
        ([1e308, 1e308], ValueError, "must have a positive, finite sum; got inf"),
        ([1e-320, 0.0], ValueError, "must have a positive, finite sum"),
        ([1.0], ValueError, r"must have shape \(2,\); got \(1,\)"),
        ([[1.0], [1.0]], ValueError, r"must have shape \(2,\)"),
        (["a", "b"], TypeError, "must be an array of real numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_bad_weights(weight, error, message):
    with pytest.raises(error, match=f"sample_weight {message}"):
        losses.evaluate([[0.0], [1.0]], [0.0, 1.0], "huber", sample_weight=weight)


# --- label smoothing ------------------------------------------------------------------


def test_smoothing_is_what_it_says_of_the_targets(rng):
    Z, y = rng.standard_normal((20, 6)), rng.integers(0, 6, 20)
    one_hot = np.eye(6)[y]
    for a in (0.0, 0.1, 1.0):
        by_hand = (1 - a) * one_hot + a / 6
        wanted, gradient = losses.evaluate(Z, by_hand, "softmax_cross_entropy")
        for target in (y, one_hot):
            found, dZ = losses.evaluate(Z, target, losses.SoftmaxCrossEntropy(a))
            assert found == pytest.approx(wanted, rel=8 * EPS)
            np.testing.assert_allclose(dZ, gradient, rtol=1e-13, atol=EPS)


def test_full_smoothing_does_not_look_at_the_label():
    Z = np.array([[0.0, 3.0, -1.0]])
    loss = losses.SoftmaxCrossEntropy(1.0)
    found = {losses.evaluate(Z, [k], loss)[0] for k in range(3)}
    assert len(found) == 1


def test_one_hot_is_a_label_bit_for_bit(rng):
    Z, y = 5 * rng.standard_normal((20, 6)), rng.integers(0, 6, 20)
    value, dZ = losses.evaluate(Z, y, "softmax_cross_entropy")
    for dtype in (bool, np.int8, np.uint64, np.float16, np.float32, ">f8"):
        other, gradient = losses.evaluate(
            Z, np.eye(6, dtype=dtype)[y], "softmax_cross_entropy"
        )
        assert other == value
        np.testing.assert_allclose(gradient, dZ, rtol=4 * EPS)


# --- evaluate -------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@ALL
def test_threads_give_the_same_bits(case, n_threads, rng):
    loss, kind = CASES[case]
    Z = rng.standard_normal((20_011, 3))
    y = targets(kind, 20_011, 3, np.float64, rng)
    weight = rng.uniform(size=20_011)
    wanted, gradient = losses.evaluate(Z, y, loss, sample_weight=weight, n_threads=1)
    found, dZ = losses.evaluate(Z, y, loss, sample_weight=weight, n_threads=n_threads)
    assert found == wanted
    np.testing.assert_array_equal(dZ, gradient)


def layouts(A):
    yield "C", A
    yield "F", np.asfortranarray(A)
    yield "every second", np.repeat(A, 2, axis=-1)[..., ::2]
    yield "reversed", np.ascontiguousarray(A[::-1])[::-1]
    yield "byte-swapped", A.astype(A.dtype.newbyteorder())
    raw = np.zeros(A.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(A.dtype).reshape(A.shape)
    unaligned[...] = A
    yield "unaligned", unaligned
    frozen = A.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


@pytest.mark.parametrize("dtype", DTYPES)
@ALL
def test_any_layout_gives_the_same_bits(case, dtype, rng):
    loss, kind = CASES[case]
    Z = rng.standard_normal((6000, 5)).astype(dtype)  # two blocks
    y = targets(kind, 6000, 5, dtype, rng)
    wanted, gradient = losses.evaluate(Z, y, loss)
    for name, array in layouts(Z):
        for _, target in layouts(y):
            before = array.copy(), target.copy()
            found, dZ = losses.evaluate(array, target, loss)
            assert found == wanted, name
            np.testing.assert_array_equal(dZ, gradient, err_msg=name)
            np.testing.assert_array_equal(array, before[0])
            np.testing.assert_array_equal(target, before[1])


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(np.float16, "f4"), (np.float32, "f4"), (np.int16, "f8"), (bool, "f8")],
)
def test_any_real_dtype_is_read(dtype, result):
    Z, y = np.array([[1, 0], [0, 1]], dtype), np.array([[0, 1], [0, 1]], dtype)
    value, dZ = losses.evaluate(Z, y, "squared_error")
    assert value == 0.5
    assert dZ.dtype == result
    np.testing.assert_array_equal(dZ, [[0.5, -0.5], [0, 0]])


def test_one_dimension_is_one_output(rng):
    Z, y = rng.standard_normal((2, 9))
    value, dZ = losses.evaluate(Z, y, "huber")
    other, gradient = losses.evaluate(Z[:, np.newaxis], y[:, np.newaxis], "huber")
    assert value == other
    assert dZ.shape == (9,)
    np.testing.assert_array_equal(dZ, gradient[:, 0])


@pytest.mark.parametrize(
    ("Z", "y", "loss", "error", "message"),
    [
        (0.5, [0], "huber", ValueError, r"Z must have shape .* got \(\)"),
        (np.zeros((2, 2, 2)), [0], "huber", ValueError, r"Z must .* got \(2, 2, 2\)"),
        (np.zeros((0, 2)), [], "huber", ValueError, "not be empty"),
        (np.zeros((2, 0)), [0, 0], "huber", ValueError, "not be empty"),
        ([1j], [0], "huber", TypeError, "Z must be .* complex128"),
        ([1.0], ["a"], "huber", TypeError, "y must be an array of real numbers"),
        ([1.0, 2.0], [1.0], "huber", ValueError, r"y must have shape \(2, 1\) or"),
        ([1.0], [1.0], "hinge", ValueError, "loss must be one of 'squared_error'"),
        ([[1.0, 2.0]], [0.0], "softmax_cross_entropy", TypeError, "integer labels"),
        ([[1.0, 2.0]], [[0]], "softmax_cross_entropy", ValueError, r"y\.ravel\(\)"),
        ([[1.0, 2.0]], [0, 1], "softmax_cross_entropy", ValueError, "one label for"),
        ([[1.0, 2, 3]], [True], "softmax_cross_entropy", TypeError, "two classes"),
        (
            [[1.0, 2.0]],
            [1.0],
            losses.Quantile([0.1, 0.5, 0.9]),
            ValueError,
            "a loss of 3 quantiles needs as many outputs; got 2",
        ),
        (
            [[1.0, 2.0]],
            [[1.0, 2.0, 3.0]],
            losses.Quantile([0.1, 0.9]),
            ValueError,
            r"y must have shape \(1,\), for all quantiles, or \(1, 2\); got \(1, 3\)",
        ),
        ([[1.0, 2.0]], [1.0], losses.Quantile(0.1), ValueError, r"\(1, 2\); got \(1,"),
    ],
)
def test_evaluate_refuses(Z, y, loss, error, message):
    with pytest.raises(error, match=message):
        losses.evaluate(Z, y, loss)


def test_bool_labels_are_those_of_two_classes(rng):
    Z, y = rng.standard_normal((9, 2)), rng.integers(0, 2, 9)
    wanted = losses.evaluate(Z, y, "softmax_cross_entropy")[0]
    assert losses.evaluate(Z, y.astype(bool), "softmax_cross_entropy")[0] == wanted


# --- bad targets ----------------------------------------------------------------------

NAN, INF = np.nan, np.inf
BAD = [
    ("softmax_cross_entropy", np.array([0, 1, 3]), 2, "3: not a label"),
    ("softmax_cross_entropy", np.array([0, -1, 3]), 1, "-1: not a label"),
    ("softmax_cross_entropy", np.array([0, 2**63, 3], np.uint64), 1, "not a label"),
    ("softmax_cross_entropy", np.array([[1.0, 0, 0], [0.5, 0, 0], [0, 0, 1]]), 1, "0"),
    ("softmax_cross_entropy", np.array([[2.0, -1, 0], [1, 0, 0], [0, 0, 1]]), 0, "-1"),
    ("softmax_cross_entropy", np.array([[1.0, 0, 0]] * 2 + [[NAN] * 3]), 2, "nan"),
    ("softmax_cross_entropy", np.array([[INF, 0, 0]] * 3), 0, "inf"),
    ("binary_cross_entropy", np.array([[0.0, 1, 1], [0, 1, 1.5], [0, 0, 0]]), 1,
     r"1.5 in column 2: a target must lie in \[0, 1\]"),
    ("binary_cross_entropy", np.array([[0.0, 1, NAN]] * 3), 0, "nan in column 2"),
    ("poisson", np.array([[0, 1, 1], [0, 1, 4], [-1, 0, 0]]), 2, "-1 in column 0.*neg"),
    ("poisson", np.array([[0.0, NAN, 1]] * 3), 0, "nan in column 1.*must be finite"),
    ("poisson", np.array([[0.0, 1, INF]] * 3), 0, "inf in column 2"),
    *(
        (name, np.array([[0.0, 1, 1], [0, 0, 0], [0, value, 0]]), 2,
         f"{value} in column 1: a target must be a finite number")
        for name in ("squared_error", "absolute_error", "huber", "quantile")
        for value in (NAN, INF, -INF)
    ),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "Y", "row", "message"), BAD)
def test_first_bad_target_is_found_and_named(loss, Y, row, message, dtype):
    Z = np.zeros((3, 3), dtype)
    parameter = losses.get(loss).parameter
    assert _losses.forward(Z, Y, loss, parameter=parameter)[2] == row
    with pytest.raises(ValueError, match=rf"y\[{row}\] .*{message}"):
        losses.evaluate(Z, Y, loss)
    # Behind many blocks of good ones, on several threads.
    fill = Y[[2 if row < 2 else 0]]
    many = np.repeat(fill, 30_000, axis=0)
    if not _losses.forward(Z[:1], fill, loss, parameter=parameter)[2] >= 0:
        many[20_000:20_003] = Y
        with pytest.raises(ValueError, match=rf"y\[{20_000 + row}\] .*{message}"):
            losses.evaluate(np.zeros((30_000, 3), dtype), many, loss, n_threads=2)


def test_a_target_beyond_float32_is_named():
    y = np.array([[0.0, 0.0], [1.0, -1e39]])
    losses.evaluate(np.zeros((2, 2)), y, "squared_error")
    with pytest.raises(ValueError, match=r"y\[1\] is -1e\+39 in column 1: .* float32"):
        losses.evaluate(np.zeros((2, 2), np.float32), y, "squared_error")


def test_a_target_for_all_quantiles_has_no_column():
    loss = losses.Quantile([0.1, 0.9])
    with pytest.raises(ValueError, match=r"y\[1\] is nan: a target must be finite|"
                       r"y\[1\] is nan: a target must be a finite"):  # fmt: skip
        losses.evaluate(np.zeros((2, 2)), [0.0, np.nan], loss)


@given(
    case=st.sampled_from(sorted(CASES)),
    rows=st.integers(1, 20),
    cols=st.integers(1, 20),
    single=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_hostile_outputs(case, rows, cols, single, seed):
    """Any floats: no loss of finite outputs is NaN or negative, no gradient NaN."""
    loss, kind = CASES[case]
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    top = np.finfo(dtype).maxexp
    Z = rng.choice([-1.0, 1.0], (rows, cols)) * 2.0 ** rng.integers(
        -2 * top, top, (rows, cols)
    )
    Z = Z.astype(dtype)
    y = targets(kind, rows, cols, dtype, rng)
    weight = rng.choice([0.0, 1e-30, 1.0, 1e30], rows)
    weight[0] = 1.0
    value, dZ = losses.evaluate(Z, y, loss, sample_weight=weight)
    assert not math.isnan(value)
    assert not np.isnan(dZ).any()
    if loss.name != "poisson":
        assert value >= 0.0


def test_a_poisson_loss_beyond_a_double_is_infinite():
    value, dZ = losses.evaluate(np.array([[8.9e307]]), np.array([[2.0]]), "poisson")
    assert value == np.inf
    assert dZ[0, 0] == np.inf


# --- the declarations -----------------------------------------------------------------


def test_get_finds_by_name_and_refuses_others():
    for name in _losses.LOSSES:
        assert losses.get(name).name == name
        assert losses.get(losses.get(name)) is losses.get(name)
    with pytest.raises(ValueError, match="loss must be one of 'squared_error'"):
        losses.get("hinge")


def test_a_loss_of_another_class_is_refused():
    class Mine(losses.SquaredError):
        pass

    for loss in (Mine(), losses.Loss()):
        with pytest.raises(TypeError, match="which the kernels do not know"):
            losses.get(loss)


@pytest.mark.parametrize(
    ("loss", "text", "parameter", "quantiles"),
    [
        (losses.SquaredError(), "SquaredError()", 0.0, None),
        (losses.AbsoluteError(), "AbsoluteError()", 0.0, None),
        (losses.Huber(2), "Huber(delta=2.0)", 2.0, None),
        (losses.Quantile(), "Quantile(quantile=0.5)", 0.5, None),
        (losses.Quantile(np.float32(0.25)), "Quantile(quantile=0.25)", 0.25, None),
        (losses.Quantile(np.array(0.25)), "Quantile(quantile=0.25)", 0.25, None),
        (
            losses.Quantile(np.array([0.1, 0.9])),
            "Quantile(quantile=(0.1, 0.9))",
            0.0,
            (0.1, 0.9),
        ),
        (losses.Poisson(), "Poisson()", 0.0, None),
        (losses.BinaryCrossEntropy(), "BinaryCrossEntropy()", 0.0, None),
        (
            losses.SoftmaxCrossEntropy(0.1),
            "SoftmaxCrossEntropy(label_smoothing=0.1)",
            0.1,
            None,
        ),
    ],
)
def test_a_loss_is_a_frozen_value(loss, text, parameter, quantiles):
    assert repr(loss) == text
    assert loss.parameter == parameter
    assert loss.quantiles == quantiles
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert loss != losses.Huber(3.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.delta = 1.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.Huber(0), ValueError, "delta must be a finite number in"),
        (lambda: losses.Huber(np.inf), ValueError, "delta must be"),
        (lambda: losses.Huber("1"), TypeError, "delta must be a real number; got str"),
        (
            lambda: losses.Huber(True),
            TypeError,
            "delta must be a real number; got bool",
        ),
        (lambda: losses.Quantile(0.0), ValueError, r"quantile must .* in \(0, 1\)"),
        (lambda: losses.Quantile([0.5, 1.0]), ValueError, r"quantile\[1\] must be"),
        (lambda: losses.Quantile([]), ValueError, "at least one"),
        (lambda: losses.Quantile("ab"), TypeError, "quantile must be a real number"),
        (lambda: losses.Quantile([[0.5]]), TypeError, r"quantile\[0\] must be a real"),
        (lambda: losses.SoftmaxCrossEntropy(-0.1), ValueError, "label_smoothing must"),
        (lambda: losses.SoftmaxCrossEntropy(1.1), ValueError, "label_smoothing must"),
    ],
)
def test_bad_parameters(make, error, message):
    with pytest.raises(error, match=message):
        make()
