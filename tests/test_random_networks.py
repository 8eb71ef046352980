"""`Network.check_gradient` on networks at random: no false alarm, and none missed."""

from __future__ import annotations

import numpy as np
import pytest
import random_networks

import fanin
from fanin._kernels._activations import ACTIVATIONS
from fanin._kernels._losses import LOSSES
from fanin._kernels._plan import KINDS

N_PROBLEMS = 500


def check(problem, **kwargs):
    return problem.net.check_gradient(
        problem.X,
        problem.y,
        sample_weight=problem.sample_weight,
        training=problem.training,
        **kwargs,
    )


def fewest_normalized(problem):
    """Over how few numbers a normalization of this problem takes its statistics.

    Of two numbers it makes 1 and -1 whatever they are, but for its epsilon: its
    gradient is a difference that cancels to as many digits as float32 has.
    """
    counts = [width for kind, width in problem.units() if kind in PER_ROW]
    if problem.training and any(kind == "batch_norm" for kind, _ in problem.units()):
        counts.append(problem.X.shape[0])
    return min(counts, default=1_000)


PER_ROW = ("layer_norm", "rms_norm")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(N_PROBLEMS))
def test_a_right_gradient_is_called_correct(seed, dtype):
    """Of float32, what cancels may be inconclusive; it is never called wrong."""
    problem = random_networks.problem(seed, dtype, max_units=8 if seed % 4 else 24)
    before = problem.net.parameters.copy(), problem.net._state.copy()
    report = check(problem)
    np.testing.assert_array_equal(problem.net.parameters, before[0])
    np.testing.assert_array_equal(problem.net._state, before[1])
    allowed = {"correct"}
    if dtype == np.float32 and fewest_normalized(problem) < 4:
        allowed.add("inconclusive")
    assert report.verdict in allowed, f"\n{problem.net.layers}\n{report}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(0, N_PROBLEMS, 10))
def test_a_wrong_gradient_is_called_wrong(seed, dtype):
    """The largest array of the gradient, a tenth too large."""
    problem = random_networks.problem(seed, dtype, max_units=8)
    net = problem.net
    mode = {"sample_weight": problem.sample_weight, "training": problem.training}
    _, gradient = net.loss_and_gradient(problem.X, problem.y, **mode)
    largest = max(net.unflatten(gradient).values(), key=np.linalg.norm)
    largest *= 1.1
    assert check(problem, gradient=gradient).verdict == "wrong"


def test_every_layer_activation_and_loss_is_among_them():
    kinds, functions, losses, depths = set(), set(), set(), set()
    for seed in range(N_PROBLEMS):
        net = random_networks.problem(seed, np.float64).net
        losses.add(net.loss_function)
        depths.add(sum(layer.kind == "dense" for layer in net.layers))
        for layer in net.layers:
            kinds.add(layer.kind)
            if hasattr(layer, "activation"):
                functions.add(fanin.activations.get(layer.activation))
    assert kinds == set(KINDS)
    assert {f.name for f in functions} == set(ACTIVATIONS)
    assert functions == set(random_networks.ACTIVATIONS)
    assert losses == set(random_networks.LOSSES)
    assert {loss.name for loss in losses} == set(LOSSES)
    assert depths == set(range(1, 7))


def test_a_float32_bias_before_batch_normalization_is_not_called_wrong():
    """Its gradient is 0; what float32 leaves of it is many times a double's error."""
    layers = [fanin.layers.Dense(4), fanin.layers.BatchNorm(affine=False)]
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((70, 3)), rng.standard_normal((70, 4))
    noise = 0.0
    for seed in range(20):
        net = fanin.Network(3, layers, loss="squared_error", rng=seed)
        report = net.check_gradient(X, y)
        assert report.verdict == "correct", report
        bias = report.analytic["dense0.bias"]
        noise = max(noise, np.abs(bias - report.numeric["dense0.bias"]).max())
        bias = net.unflatten(net.loss_and_gradient(X, y, training=True)[1])
        bias["dense0.bias"][...] += 1e-3
        wrong = np.concatenate([a.ravel() for a in bias.values()])
        assert net.check_gradient(X, y, gradient=wrong).verdict == "wrong"
    assert noise > 1e-9
