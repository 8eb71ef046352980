"""Reports of signals: the numbers, the verdicts, and no false alarms."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

import fanin
from fanin import layers
from fanin.diagnostics import InputRecord, LayerRecord, ProblemRecord

Dense = layers.Dense


def stack(activation, depth, width=64, *, n_inputs=None, n_outputs=10, seed=0, **more):
    hidden = [Dense(width, activation) for _ in range(depth)]
    more = {"loss": "softmax_cross_entropy"} | more
    return fanin.Network(
        n_inputs or width, [*hidden, Dense(n_outputs)], rng=seed, **more
    )


def normal(n, n_features, seed=1):
    return np.random.default_rng(seed).standard_normal((n, n_features))


def kinds(report):
    return [problem.kind for problem in report.problems]


def find(report, kind):
    return next(problem for problem in report.problems if problem.kind == kind)


# --- the numbers ------------------------------------------------------------------


def by_hand(net, X, y):
    """Return A and dL/dz of each dense layer, and dL/dW, in float64."""
    A, outputs, slopes, before = X, [], [], []
    P = net.named_parameters()
    for i, layer in enumerate(net.layers):
        before.append(A)
        Z = A @ P[f"dense{i}.weight"] + P[f"dense{i}.bias"]
        A = fanin.activations.apply(Z, layer.activation)
        slopes.append(fanin.activations.derivative(Z, layer.activation))
        outputs.append(A)
    delta = fanin.losses.evaluate(A, y, net.loss_function)[1]
    gradients, dW = [], []
    for i in reversed(range(len(net.layers))):
        delta = delta * slopes[i]
        gradients.insert(0, delta)
        dW.insert(0, before[i].T @ delta)
        delta = delta @ P[f"dense{i}.weight"].T
    return outputs, gradients, dW


def mixed(n=300):
    net = fanin.Network(
        12,
        [Dense(20, "tanh"), Dense(31, "relu"), Dense(16, "logistic"), Dense(4)],
        loss="softmax_cross_entropy",
        dtype=np.float64,
        rng=3,
    )
    rng = np.random.default_rng(0)
    net.parameters += 0.3 * rng.standard_normal(net.n_parameters)
    X = 2 * rng.standard_normal((n, 12)) + 0.5
    return net, X, rng.integers(0, 4, n)


def test_records_hold_what_their_names_say() -> None:
    net, X, y = mixed()
    report = net.diagnose(X, y)
    outputs, gradients, dW = by_hand(net, X, y)
    below = [X, *outputs]
    norms = [math.sqrt((g**2).sum(1).mean()) for g in gradients]
    flat = [
        np.abs(outputs[0]) >= math.sqrt(0.95),
        outputs[1] <= 0,
        outputs[2] * (1 - outputs[2]) <= 0.05 / 4,
        np.zeros(outputs[3].shape, bool),
    ]
    # Sums of 300 x 31 float64 numbers: a few thousand roundings of 1e-16.
    same = {"rel": 1e-11}
    for i, (record, A) in enumerate(zip(report.layers, outputs, strict=True)):
        assert record.name == f"dense{i}"
        assert record.n_units == A.shape[1]
        rms = math.sqrt((A**2).mean())
        assert record.mean == pytest.approx(A.mean(), **same)
        assert record.std == pytest.approx(A.std(), **same)
        assert record.rms == pytest.approx(rms, **same)
        assert record.sample_std == pytest.approx(math.sqrt(A.var(0).mean()), **same)
        assert record.dead == flat[i].all(0).mean()
        assert record.saturated == pytest.approx(flat[i].mean(), **same)
        S = np.cov(A.T)
        rank = np.trace(S) ** 2 / np.trace(S @ S)
        assert record.effective_rank == pytest.approx(rank, rel=1e-9)
        W = net.named_parameters()[f"dense{i}.weight"]
        assert record.scale == pytest.approx(W.shape[0] * (W**2).mean(), **same)
        growth = rms / math.sqrt((below[i] ** 2).mean())
        assert record.forward_growth == pytest.approx(growth, **same)
        assert record.backward_norm == pytest.approx(norms[i], **same)
        assert record.weight_norm == pytest.approx(np.linalg.norm(W), **same)
        assert record.weight_gradient_norm == pytest.approx(
            np.linalg.norm(dW[i]), rel=1e-9
        )
        ratio = record.weight_gradient_norm / record.weight_norm
        assert record.gradient_to_weight == pytest.approx(ratio, **same)
        assert record.sample is not None
        assert record.sample.shape == A.shape
    for i in range(3):
        assert report.layers[i].backward_growth == pytest.approx(
            norms[i] / norms[i + 1], **same
        )
    assert math.isnan(report.layers[3].backward_growth)
    assert report.loss == pytest.approx(net.loss(X, y), rel=1e-12)
    assert report.n_samples == 300
    assert report.input is not None
    np.testing.assert_allclose(report.input.mean, X.mean(0), rtol=1e-11)
    np.testing.assert_allclose(report.input.std, X.std(0), rtol=1e-11)
    np.testing.assert_array_equal(report.input.largest, np.abs(X).max(0))
    levels = [r.rms for r in report.layers]
    assert report.forward_factor == pytest.approx((levels[-1] / levels[0]) ** (1 / 3))
    assert report.backward_factor == pytest.approx((norms[0] / norms[-1]) ** (1 / 3))


def test_arrays_and_a_network_give_one_report() -> None:
    net, X, y = mixed()
    of_net = net.diagnose(X, y)
    outputs, gradients, dW = by_hand(net, X, y)
    P = net.named_parameters()
    keys = [f"dense{i}" for i in range(4)]
    of_arrays = fanin.diagnose_signals(
        dict(zip(keys, outputs, strict=True)),
        dict(zip(keys, gradients, strict=True)),
        weights={key: P[f"{key}.weight"] for key in keys},
        weight_gradients=dict(zip(keys, dW, strict=True)),
        activation=["tanh", "relu", "logistic", "identity"],
        X=X,
    )
    for a, b in zip(of_net.layers, of_arrays.layers, strict=True):
        for item in dataclasses.fields(LayerRecord):
            if item.name in ("name", "activation", "sample"):
                continue
            left, right = getattr(a, item.name), getattr(b, item.name)
            assert left == pytest.approx(right, rel=1e-9, nan_ok=True), item.name
        assert (a.name, a.activation) == (b.name, b.activation)
    assert kinds(of_net) == kinds(of_arrays)
    assert of_net.starts_at == of_arrays.starts_at
    # Theory alone does not know the biases there.
    assert np.isfinite(of_arrays.expected_forward).all()
    listed = fanin.diagnose_signals(outputs, gradients, names=keys)
    assert [r.name for r in listed.layers] == keys
    assert math.isnan(listed.layers[0].saturated)
    assert listed.layers[1].dead == (outputs[1] == 0).all(0).mean()


def test_any_number_of_threads_gives_the_same_report() -> None:
    net = stack("relu", 5)
    X = normal(5000, 64)
    one, two = (net.diagnose(X, n_threads=n).to_dict() for n in (1, 2))
    assert one == two


def test_a_report_leaves_network_and_data_as_they_are() -> None:
    net = fanin.Network(
        8,
        [Dense(8, "relu"), layers.BatchNorm(), layers.Dropout(0.5), Dense(2)],
        loss="squared_error",
        rng=0,
    )
    X, y = normal(50, 8), normal(50, 2)
    before = pickle.dumps(net)
    kept = X.copy(), net.gradient.copy()
    first = net.diagnose(X, y, training=True).to_dict()
    assert net.diagnose(X, y, training=True).to_dict() == first
    net._gradient = None
    assert pickle.dumps(net) == before
    np.testing.assert_array_equal(X, kept[0])
    np.testing.assert_array_equal(net.gradient, kept[1])


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "selu", "identity"])
def test_theory_expects_what_wide_layers_do(activation: str) -> None:
    # The mean squares of 500 units fluctuate by sqrt(5 / 500) / 2 = 5 % at most in one
    # standard deviation; the product of ten by the root of ten of that over ten.
    net = stack(activation, 10, 500, loss="squared_error", n_outputs=500)
    report = net.diagnose(normal(300, 500))
    for measured, expected in (
        ([r.forward_growth for r in report.layers], report.expected_forward),
        ([r.backward_growth for r in report.layers[:-1]], report.expected_backward),
    ):
        ratios = np.array(measured) / expected[: len(measured)]
        assert np.abs(ratios - 1).max() < 0.15
        assert abs(np.exp(np.log(ratios).mean()) - 1) < 0.04
    assert math.isnan(report.expected_backward[-1])


def test_theory_counts_biases_and_activations_of_their_own() -> None:
    net = fanin.Network(
        200,
        [Dense(400), layers.Activation("tanh"), Dense(400, "tanh")],
        loss="squared_error",
        rng=0,
    )
    rng = np.random.default_rng(0)
    P = net.named_parameters()
    for name in ("dense0.bias", "dense2.bias"):
        P[name][...] = rng.standard_normal(400)
    report = net.diagnose(normal(400, 200))
    measured = [r.forward_growth for r in report.layers]
    # Means over 400 units: 1 / sqrt(2 * 400) = 3.5 % in one standard deviation.
    np.testing.assert_allclose(report.expected_forward, measured, rtol=0.1)
    backward = [r.backward_growth for r in report.layers[:2]]
    np.testing.assert_allclose(report.expected_backward[:2], backward, rtol=0.1)
    assert report.expected_backward[0] == 1.0


# --- planted problems -------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_bad_layer_in_the_middle_is_named(activation: str) -> None:
    net = stack(activation, 20)
    net.named_parameters()["dense7.weight"][...] *= 1e-4
    report = net.diagnose(normal(300, 64))
    for kind in ("vanishing_gradients", "vanishing_signal"):
        problem = find(report, kind)
        assert problem.layer == "dense7"
        assert "in dense7" in problem.sentence
        rule = "scale 2 for relu" if activation == "relu" else "scale 1 for tanh"
        assert f"use {rule}" in problem.sentence
    assert report.starts_at == "dense7"
    assert not report.healthy


def test_one_layer_too_large_is_named() -> None:
    net = stack("relu", 20)
    net.named_parameters()["dense12.weight"][...] *= 1e3
    report = net.diagnose(normal(300, 64))
    assert kinds(report) == ["exploding_gradients", "exploding_signal"]
    assert {problem.layer for problem in report.problems} == {"dense12"}


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_uniform_growth_starts_at_the_end_it_comes_from(factor: float) -> None:
    net = stack("relu", 30, 100)
    for i in range(30):
        net.named_parameters()[f"dense{i}.weight"][...] *= math.sqrt(factor)
    report = net.diagnose(normal(300, 100))
    kind = "vanishing" if factor < 1 else "exploding"
    assert kinds(report) == [f"{kind}_gradients", f"{kind}_signal"]
    backward, forward = report.problems
    assert forward.layer in ("dense0", "dense1")
    assert backward.layer in ("dense28", "dense29")
    per_layer = "0.7" if factor < 1 else "1.4"
    verb = "shrink" if factor < 1 else "grow"
    assert backward.sentence.startswith(f"gradients {verb} by {per_layer}")
    assert "use scale 2 for relu (the weights have " in backward.sentence
    assert report.verdict.startswith(backward.sentence)


def test_a_growth_that_starts_in_the_middle_starts_there() -> None:
    net = stack("relu", 40, 128)
    for i in range(20, 40):
        net.named_parameters()[f"dense{i}.weight"][...] *= 0.5
    report = net.diagnose(normal(300, 128))
    assert find(report, "vanishing_signal").layer in ("dense19", "dense20", "dense21")
    assert find(report, "vanishing_gradients").layer in ("dense38", "dense39")
    low = stack("relu", 40, 128)
    for i in range(20):
        low.named_parameters()[f"dense{i}.weight"][...] *= 0.5
    report = low.diagnose(normal(300, 128))
    assert find(report, "vanishing_signal").layer in ("dense0", "dense1")
    assert find(report, "vanishing_gradients").layer in (
        "dense18",
        "dense19",
        "dense20",
    )


def test_a_dead_layer_is_found_and_nothing_else() -> None:
    net = stack("relu", 6)
    net.named_parameters()["dense3.bias"][...] = -100
    report = net.diagnose(normal(300, 64))
    assert kinds(report) == ["dead_units"]
    assert report.starts_at == "dense3"
    assert report.layers[3].dead == 1.0
    assert "all of the 64 units of dense3" in report.verdict


def test_a_layer_with_most_units_dead_is_found() -> None:
    net = stack("relu", 4)
    net.named_parameters()["dense1.bias"][:55] = -100
    report = net.diagnose(normal(300, 64))
    assert find(report, "dead_units").layer == "dense1"
    assert report.layers[1].dead >= 55 / 64


def test_saturated_units_are_found() -> None:
    net = stack("tanh", 8)
    net.named_parameters()["dense3.weight"][...] *= 50
    report = net.diagnose(normal(300, 64))
    problem = find(report, "saturated_units")
    assert problem.layer == "dense3"
    assert "use scale 1 for tanh (the weights have 2" in problem.sentence
    assert report.layers[3].saturated > 0.8
    large = stack("tanh", 3).diagnose(30 * normal(300, 64))
    assert large.starts_at == "X"
    assert "standardize the input" in find(large, "saturated_units").sentence


def test_three_quarters_of_flat_values_are_too_many() -> None:
    for factor, expected in ((5.0, False), (10.0, True)):
        net = stack("tanh", 1, 200)
        net.named_parameters()["dense0.weight"][...] *= factor
        report = net.diagnose(normal(300, 200))
        share = report.layers[0].saturated
        assert (0.75 < share < 0.9) if expected else (0.5 < share < 0.75)
        assert ("saturated_units" in kinds(report)) is expected


def test_a_small_input_beside_biases_is_no_explosion() -> None:
    net = stack("relu", 3)
    net.named_parameters()["dense0.bias"][...] = normal(1, 64)
    assert "exploding_signal" not in kinds(net.diagnose(1e-3 * normal(300, 64)))


def test_dead_units_are_why_a_gradient_ends_in_them() -> None:
    net = stack("relu", 3, 100)
    P = net.named_parameters()
    W = P["dense1.weight"]
    W[:, :99] = -np.abs(W[:, :99])  # and what they read is positive
    W[:, 99] *= 1e-4
    report = net.diagnose(normal(300, 100))
    assert kinds(report)[0] == "dead_units"
    assert report.starts_at == "dense1"


def test_what_is_not_finite_is_named_first() -> None:
    net = stack("relu", 6)
    net.named_parameters()["dense2.weight"][3, 4] = np.nan
    report = net.diagnose(normal(100, 64))
    assert kinds(report)[0] == "not_finite"
    assert report.starts_at == "dense2"
    X = normal(100, 64)
    X[7, 5] = np.inf
    of_X = stack("relu", 2).diagnose(X)
    assert of_X.starts_at == "X"
    assert "feature 5" in of_X.verdict
    assert fanin.diagnose_signals([X]).starts_at == "layer0"
    back = fanin.diagnose_signals([normal(100, 64)] * 2, [X, normal(100, 64)])
    assert find(back, "not_finite").layer == "layer0"
    net = stack("relu", 40)
    net.parameters *= 1e3
    overflow = net.diagnose(normal(100, 64))
    assert "exploding_signal" in kinds(overflow)
    assert kinds(overflow)[0] == "not_finite"


def test_a_constant_signal_is_found() -> None:
    net = stack("relu", 6)
    net.named_parameters()["dense2.bias"][...] = 1e4
    report = net.diagnose(normal(200, 64))
    problem = find(report, "collapsed_signal")
    assert problem.layer == "dense2"
    assert "constant" in problem.sentence


def test_a_signal_of_one_direction_is_found() -> None:
    net = stack("tanh", 6)
    W = net.named_parameters()["dense3.weight"]
    W[...] = np.outer(W[:, 0], np.sign(W[0])) / 8
    report = net.diagnose(normal(200, 64))
    problem = find(report, "collapsed_signal")
    assert problem.layer == "dense3"
    assert report.layers[3].effective_rank < 1.01
    # With one output there is one direction to know.
    single = stack("tanh", 6, n_outputs=1, loss="squared_error")
    W = single.named_parameters()["dense3.weight"]
    W[...] = np.outer(W[:, 0], np.sign(W[0])) / 8
    assert "collapsed_signal" not in kinds(single.diagnose(normal(200, 64)))


def test_deep_logistic_networks_lose_their_gradients_at_any_scale() -> None:
    report = stack("logistic", 8).diagnose(normal(300, 64))
    problem = find(report, "vanishing_gradients")
    assert "1/4" in problem.sentence
    assert "use scale" not in problem.sentence
    assert "collapsed_signal" in kinds(report)


def test_a_remedy_is_none_that_the_weights_already_have() -> None:
    # softplus at the rule: its slope is a half, whatever the weights are.
    report = stack("softplus", 16).diagnose(normal(300, 64))
    sentence = find(report, "vanishing_gradients").sentence
    assert "use scale" not in sentence
    assert "normalization" in sentence


def test_an_activation_of_its_own_counts_with_the_layer_before_it() -> None:
    block = [Dense(64, bias=False), layers.Activation("relu"), layers.Dropout(0.1)]
    net = fanin.Network(64, [*block * 15, Dense(3)], loss="squared_error", rng=0)
    for name, array in net.named_parameters().items():
        if name.endswith("weight"):
            wanted = 0.5**0.5 * math.sqrt(2 / array.shape[0])
            array *= wanted / array.std()
    report = net.diagnose(normal(300, 64))
    assert kinds(report) == ["vanishing_gradients", "vanishing_signal"]
    assert "use scale 2 for relu (the weights have 1" in report.verdict
    assert report.backward_factor == pytest.approx(0.5**0.5, rel=0.1)


def test_weights_of_zero_say_that_gradients_are_zero() -> None:
    net = stack("relu", 4)
    net.named_parameters()["dense4.weight"][...] = 0
    report = net.diagnose(normal(100, 64))
    # Many start so: it is no problem, and the first step ends it.
    assert report.healthy
    assert [note.kind for note in report.notes] == ["zero_output"]
    assert "the weights of dense4 are all 0" in report.notes[0].sentence
    net.named_parameters()["dense4.weight"][...] = 1
    net.named_parameters()["dense2.weight"][...] = 0
    report = net.diagnose(normal(100, 64))
    assert report.starts_at == "dense2"
    assert "the signal is 0 from dense2 on; all weights of dense2 are 0" in repr(report)


def test_two_bad_layers_among_good_ones_are_both_named() -> None:
    for activation, factor in (("relu", 0.03), ("tanh", 0.01)):
        net = stack(activation, 20, 128)
        for i in (4, 12):
            net.named_parameters()[f"dense{i}.weight"][...] *= factor
        report = net.diagnose(normal(300, 128))
        assert kinds(report) == ["vanishing_gradients", "vanishing_signal"]
        for problem, first in zip(report.problems, ("dense12", "dense4"), strict=True):
            assert problem.layer == first
            assert "in dense4 and dense12; use scale " in problem.sentence
            assert "scale of the rule" not in problem.sentence


def test_a_growth_that_ends_is_counted_to_its_end() -> None:
    net = stack("relu", 30, 128)
    for i in range(10, 30):
        net.named_parameters()[f"dense{i}.weight"][...] *= 2
    for problem in net.diagnose(normal(300, 128)).problems:
        assert " by 2 per layer" in problem.sentence
        assert "after 20 layers" in problem.sentence


def test_the_rules_scale_is_claimed_of_weights_that_have_it_alone() -> None:
    def init(shape, *, rng, dtype, out):
        return fanin.initializers.variance_scaling(
            shape, scale=2.0, rng=rng, dtype=dtype, out=out
        )

    report = stack("softplus", 120, 64, init=init).diagnose(normal(300, 64))
    assert "have scale 1.9" in report.verdict or "have scale 2" in report.verdict
    others = stack("logistic", 10, 64, init=init).diagnose(normal(300, 64))
    for problem in (*report.problems, *others.problems):
        assert "scale of the rule" not in problem.sentence
    assert "the slope of the logistic" in others.problems[0].sentence


@pytest.mark.parametrize("activation", ["silu", "softplus"])
def test_where_the_rules_scale_is_not_level_either_it_is_said(activation) -> None:
    net = stack(activation, 40)
    net.parameters *= 0.7
    sentence = net.diagnose(normal(300, 64)).problems[0].sentence
    assert "use scale" in sentence
    assert f"layers of {activation} that is not level either" in sentence
    few = stack("relu", 40)
    few.parameters *= 0.7
    assert "either" not in few.diagnose(normal(300, 64)).verdict


@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_a_gradient_of_zero_at_the_output_is_a_problem(activation: str) -> None:
    net = fanin.Network(
        20, [Dense(32, "relu"), Dense(1, activation)], loss="squared_error", rng=0
    )
    net.named_parameters()["dense1.bias"][...] = 1000
    report = net.diagnose(normal(100, 20), np.zeros((100, 1)))
    assert report.starts_at == "dense1"
    assert f"where {activation} is flat" in report.verdict
    assert net.diagnose(normal(100, 20), np.ones((100, 1))).healthy  # it is right
    A = normal(50, 9)
    by_hand = fanin.diagnose_signals([A, A], [0 * A, 0 * A])
    assert "gradients are 0 at layer1 already" in by_hand.verdict


@pytest.mark.parametrize("scale", [1e-3, 1e-4, 1e-8])
def test_a_signal_that_underflows_is_no_matter_of_dead_units(scale: float) -> None:
    net = stack("relu", 30)
    net.parameters *= math.sqrt(scale / 2)
    report = net.diagnose(normal(300, 64))
    assert "dead_units" not in kinds(report)
    assert report.problems[0].kind == "vanishing_signal"
    assert report.starts_at == "dense0"
    assert "use scale 2 for relu (the weights have " in report.verdict
    assert report.forward_factor == pytest.approx(math.sqrt(scale / 2), rel=0.2)


def test_weights_that_are_all_zero_are_named() -> None:
    report = stack("relu", 30, init="zeros").diagnose(normal(300, 64))
    assert report.starts_at == "dense0"
    assert "all weights of dense0 are 0" in report.verdict
    assert "dead_units" not in kinds(report)


@pytest.mark.parametrize("bias", [-5.0, -20.0])
def test_biases_that_outweigh_the_weights_are_the_cause(bias: float) -> None:
    net = stack("relu", 3, 100)
    for i in range(3):
        net.named_parameters()[f"dense{i}.bias"][...] = bias
    report = net.diagnose(normal(300, 100))
    assert kinds(report)[0] == "dead_units"
    assert f"the biases of dense0 are {bias:g} in the mean, " in report.verdict
    assert "times the std of X W: biases at 0" in report.verdict
    assert not any("scale of the rule" in p.sentence for p in report.problems)
    # Nor does theory take them for a variance.
    growth = report.expected_forward
    assert not (growth[:3] > 1).any()


def test_theory_follows_biases_with_a_mean() -> None:
    net = stack("relu", 3, 500)
    for i in range(3):
        net.named_parameters()[f"dense{i}.bias"][...] = -1
    report = net.diagnose(normal(500, 500))
    # The first layers; further up, the units' own means are no small part of z.
    measured = [r.forward_growth for r in report.layers[:2]]
    np.testing.assert_allclose(report.expected_forward[:2], measured, rtol=0.1)


def test_an_infinity_is_called_one() -> None:
    net = stack("relu", 3, 32, n_inputs=10)
    for value, said in ((np.inf, "inf"), (-np.inf, "-inf"), (np.nan, "nan")):
        X = normal(60, 10)
        X[3, 5] = value
        verdict = net.diagnose(X).verdict
        assert f"X holds {said} in 'feature 5', row 3" in verdict
        assert f"X holds {said} in" in fanin.diagnose_signals([X], X=X).verdict
        what = "NaN" if said == "nan" else "infinite"
        assert f"layer0 is {what}" in fanin.diagnose_signals([X]).verdict
    X[3, 5] = 1e39
    report = net.diagnose(X)
    assert kinds(report) == ["not_finite"]
    assert "too large for the network's float32" in report.verdict
    net = stack("relu", 40)
    net.parameters *= 1e3
    report = net.diagnose(normal(100, 64))
    assert "is infinite" in report.verdict
    # What comes of them is not counted.
    i = [r.name for r in report.layers].index(str(report.starts_at))
    assert math.isnan(report.layers[i].dead)
    assert math.isnan(report.layers[i].saturated)
    assert kinds(report) == ["not_finite", "exploding_signal"]


def test_the_cause_comes_before_its_consequence() -> None:
    net = stack("selu", 34)
    net.named_parameters()["dense5.weight"][...] *= 6e-4
    report = net.diagnose(normal(300, 64))
    assert len(report.problems) > 2
    assert report.starts_at == "dense5"


def test_gradients_that_grow_by_their_weights_are_a_note() -> None:
    net = stack("tanh", 50, 200)
    for i in range(50):
        net.named_parameters()[f"dense{i}.weight"][...] *= math.sqrt(2)
    report = net.diagnose(normal(300, 200))
    assert report.healthy
    (note,) = report.notes
    assert note.kind == "gradient_growth"
    assert "use scale 1 for tanh (the weights have 2" in note.sentence


# --- normalization ----------------------------------------------------------------


def normalized(activation, depth, kind=layers.BatchNorm, *, after=False, **more):
    inner = [kind(), layers.Activation(activation)]
    block = [Dense(64), *(inner[::-1] if after else inner)]
    more = {"loss": "softmax_cross_entropy", "rng": 0} | more
    return fanin.Network(64, [*block * depth, Dense(10)], **more)


def test_statistics_that_no_step_has_moved_are_not_used() -> None:
    X, y = normal(300, 64), np.arange(300) % 10
    net = normalized("logistic", 20)
    report = net.diagnose(X, y)
    assert report.healthy, report.verdict
    assert [note.kind for note in report.notes] == ["batch_statistics"]
    asked = net.diagnose(X, y, training=True)
    assert asked.to_dict()["layers"] == report.to_dict()["layers"]
    assert not net.diagnose(X, y, training=False).healthy
    # One row has no statistics.
    assert (
        net.diagnose(X[:1]).to_dict()["layers"]
        == (net.diagnose(X[:1], training=False).to_dict()["layers"])
    )
    net.train_step(X, y, fanin.optimizers.SGD(1e-3))
    moved = net.diagnose(X, y)
    assert "batch_statistics" not in [note.kind for note in moved.notes]
    expected = net.diagnose(X, y, training=False).to_dict()
    assert moved.to_dict() == expected


def test_normalization_is_not_recommended_to_those_who_have_it() -> None:
    X = normal(300, 64)
    found = [
        normalized("relu", 30).diagnose(X),
        normalized("logistic", 30, layers.LayerNorm).diagnose(X),
    ]
    for report in found:
        assert not report.healthy
        for problem in report.problems:
            assert "normalization layers" not in problem.sentence
            assert "skip" not in problem.sentence
            assert "scale of the rule" not in problem.sentence
    assert "fewer layers" in found[0].verdict
    assert "normalization after the activation instead" in found[1].verdict
    # That helps, too.
    remedy = normalized("logistic", 30, layers.LayerNorm, after=True).diagnose(X)
    assert remedy.healthy, remedy.verdict
    small = normalized("relu", 30)
    for name, array in small.named_parameters().items():
        if name.endswith("weight"):
            array *= 0.07
    report = small.diagnose(X)
    assert "the weights have" not in report.verdict


# --- no false alarms --------------------------------------------------------------

# The depth to which theory keeps gradients and signals within the span: the slopes of
# logistic and softplus at the rule are near 1/4 and 1/2, whatever the weights.
DEPTHS = {
    "relu": 8,
    "leaky_relu": 8,
    "silu": 8,
    "gelu": 8,
    "gelu_tanh": 8,
    "tanh": 8,
    "identity": 8,
    "elu": 8,
    "selu": 8,
    "logistic": 3,
    "softplus": 5,
}


def test_healthy_networks_are_called_healthy() -> None:
    rng = np.random.default_rng(11)
    wrong = []
    for k in range(220):
        activation = list(DEPTHS)[k % len(DEPTHS)]
        depth = int(rng.integers(1, DEPTHS[activation] + 1))
        width, n_features = int(rng.integers(16, 257)), int(rng.integers(4, 60))
        n = int(rng.integers(30, 300))
        X = rng.standard_normal((n, n_features)) @ rng.standard_normal(
            (n_features, n_features)
        )
        X = fanin.standardize(X * 10 ** rng.uniform(-3, 3, n_features))
        outputs = int(rng.integers(1, 11))
        net = stack(
            activation,
            depth,
            width,
            n_inputs=n_features,
            n_outputs=outputs,
            seed=k,
            loss="squared_error",
        )
        y = rng.standard_normal((n, outputs)) if k % 2 else None
        report = net.diagnose(X, y)
        if not report.healthy:
            wrong.append((activation, depth, width, report.verdict))
    assert wrong == []


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_networks_that_have_learned_are_called_healthy(activation: str) -> None:
    rng = np.random.default_rng(0)
    centers = 2 * rng.standard_normal((6, 20))
    y = rng.integers(0, 6, 600)
    X = fanin.standardize(centers[y] + rng.standard_normal((600, 20)))
    net = stack(activation, 3, 50, n_inputs=20, n_outputs=6)
    net.fit(X, y, optimizer=fanin.optimizers.Adam(), epochs=40, batch_size=30, rng=0)
    assert (net.predict(X) == y).mean() > 0.98
    report = net.diagnose(X, y)
    assert report.healthy, report


def test_the_scale_before_a_normalization_is_no_problem() -> None:
    block = [Dense(64, bias=False), layers.BatchNorm(), layers.Activation("relu")]
    net = fanin.Network(
        64, block * 12 + [Dense(10)], loss="softmax_cross_entropy", rng=0
    )
    P = net.named_parameters()
    P["dense15.weight"][...] *= 1e-3
    P["dense21.weight"][...] *= 1e4
    X = normal(300, 64)
    assert net.diagnose(X, training=True).healthy
    ahead = fanin.Network(
        64, [layers.BatchNorm(), Dense(64, "relu"), Dense(3)], loss="squared_error"
    )
    X[:, 3] *= 1e4
    assert ahead.diagnose(X, training=True).healthy


def test_dropout_that_does_nothing_has_no_gradient_of_its_own() -> None:
    net = fanin.Network(
        64,
        [Dense(64, "relu"), layers.Dropout(0.5), Dense(64, "relu"), Dense(3)],
        loss="squared_error",
        rng=0,
    )
    report = net.diagnose(normal(300, 64))
    assert report.healthy
    assert math.isnan(report.layers[1].backward_norm)
    growth = report.layers[0].backward_norm / report.layers[2].backward_norm
    assert report.layers[0].backward_growth == growth
    assert report.expected_backward[0] == pytest.approx(growth, rel=0.3)


def test_the_scale_of_the_output_is_the_tasks() -> None:
    net = stack("tanh", 3, n_outputs=1, loss="squared_error")
    net.named_parameters()["dense3.weight"][...] *= 50
    net.named_parameters()["dense3.bias"][...] = 1e6
    assert net.diagnose(normal(200, 64)).healthy


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_few_samples_make_no_dead_units(activation: str) -> None:
    for seed in range(20):
        net = stack(activation, 5, 24, seed=seed)
        for n in (1, 2, 5):
            report = net.diagnose(normal(n, 24, seed))
            assert report.healthy, report
            assert [note.kind for note in report.notes] == ["few_samples"]


# --- the input --------------------------------------------------------------------


def test_unscaled_features_are_named() -> None:
    X = normal(200, 10)
    X[:, 4] = 700 + 300 * X[:, 4]
    names = [f"column {j}" for j in range(10)]
    net = stack("relu", 2, 16, n_inputs=10)
    report = net.diagnose(X, feature_names=names)
    problem = find(report, "unscaled_features")
    assert problem.layer == report.starts_at == "X"
    assert "'column 4' has mean 7" in problem.sentence
    assert "'column 3'" not in problem.sentence
    assert "fanin.standardize" in problem.sentence
    assert find(net.diagnose(X), "unscaled_features").sentence.count("'feature 4'")
    assert net.diagnose(fanin.standardize(X)).healthy


def test_features_that_are_lost_or_all_large_are_named() -> None:
    net = stack("tanh", 1, 16, n_inputs=6)
    X = normal(200, 6)
    X[:, 2] *= 1e-5
    assert "'feature 2'" in net.diagnose(X).verdict
    of_all = find(net.diagnose(100 * normal(200, 6)), "unscaled_features")
    assert "all together" in of_all.sentence
    assert kinds(net.diagnose(1e-5 * normal(200, 6))) == ["unscaled_features"]


@pytest.mark.parametrize("case", ["unit", "sparse", "one-hot", "uniform"])
def test_features_of_one_range_are_not_called_unscaled(case: str) -> None:
    rng = np.random.default_rng(0)
    if case == "unit":
        X = rng.random((500, 30)) ** rng.uniform(0.1, 10, 30)
    elif case == "sparse":
        X = (rng.random((500, 30)) < rng.uniform(0.002, 0.7, 30)).astype(float)
    elif case == "one-hot":
        X = np.eye(40)[rng.integers(0, 40, 500)]
    else:
        X = rng.uniform(-3, 3, (500, 30))
    net = stack("relu", 2, 32, n_inputs=X.shape[1])
    assert "unscaled_features" not in kinds(net.diagnose(X))


def test_large_features_are_named_however_many_they_are() -> None:
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(40, 10, 300), rng.lognormal(10, 1, 300)]
    net = stack("relu", 1, 16, n_inputs=2)
    sentence = find(
        net.diagnose(X, feature_names=["age", "income"]), "unscaled_features"
    ).sentence
    assert sentence.startswith("unscaled features: 'income' has mean")
    X = normal(200, 20)
    X[:, :10] *= 100
    report = stack("relu", 1, 16, n_inputs=20).diagnose(X)
    sentence = find(report, "unscaled_features").sentence
    assert ", and 7 more, while a standardized one has std 1" in sentence
    # Twenty times the others: beyond ten, and not beyond forty.
    X = normal(200, 20)
    X[:, 3] *= 20
    report = stack("relu", 1, 16, n_inputs=20).diagnose(X)
    assert "'feature 3'" in find(report, "unscaled_features").sentence
    X *= 1e-3
    X[:, :] = fanin.standardize(X) * 0.1
    X[:, 3] *= 15  # large for the others, and no danger at 1.5
    assert "unscaled_features" not in kinds(
        stack("relu", 1, 16, n_inputs=20).diagnose(X)
    )


def test_a_normalization_in_front_undoes_the_scale_of_all() -> None:
    net = fanin.Network(
        20, [layers.LayerNorm(), Dense(16, "relu"), Dense(3)], loss="squared_error"
    )
    assert net.diagnose(100 * normal(200, 20)).healthy


def test_constant_features_are_a_note() -> None:
    X = normal(100, 8)
    X[:, 2], X[:, 5] = 0.0, 0.1
    report = stack("relu", 2, 32, n_inputs=8).diagnose(X)
    assert report.healthy
    (note,) = report.notes
    assert note == ProblemRecord("constant_features", "X", note.sentence)
    assert "'feature 2', 'feature 5' (2 of 8)" in note.sentence


def test_names_come_from_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    X = normal(100, 3)
    X[:, 1] *= 1e4
    frame = pandas.DataFrame(X, columns=["a", "proline", "c"])
    net = stack("relu", 1, 16, n_inputs=3)
    assert "'proline'" in net.diagnose(frame).verdict
    report = fanin.diagnose_signals([np.tanh(X)], X=frame)
    assert isinstance(report.input, InputRecord)
    assert report.input.names == ("a", "proline", "c")


def test_ratios_far_apart_are_a_note() -> None:
    A, W = [normal(50, 9)] * 2, [normal(9, 9)] * 2
    report = fanin.diagnose_signals(A, weights=W, weight_gradients=[W[0], 1e-4 * W[1]])
    assert report.healthy
    assert [note.kind for note in report.notes] == ["gradient_to_weight"]
    assert report.notes[0].layer == "layer1"


@pytest.mark.parametrize("activation", ["elu", "selu", "gelu", "silu", "softplus"])
def test_units_are_dead_where_the_slope_is_none(activation: str) -> None:
    net = stack(activation, 2, 60)
    net.named_parameters()["dense0.bias"][:50] = -100
    report = net.diagnose(normal(100, 60))
    assert report.layers[0].dead >= 50 / 60
    assert find(report, "dead_units").layer == "dense0"


def test_what_was_not_measured_is_not_called_healthy() -> None:
    A = [np.tanh(50 * normal(60, 9))] * 2
    assert fanin.diagnose_signals(A).verdict.endswith(
        "(gradients and saturation not measured)"
    )
    told = fanin.diagnose_signals(A, activation="tanh")
    assert kinds(told) == ["saturated_units"]
    full = fanin.diagnose_signals([0.1 * a for a in A], A, activation="tanh")
    assert "measured" not in full.verdict


def test_functions_go_by_name_too() -> None:
    A = {"a": np.tanh(normal(60, 9)), "b": normal(60, 9)}
    report = fanin.diagnose_signals(A, activation={"a": "tanh"})
    assert [r.activation for r in report.layers] == ["tanh", None]
    assert report.layer("b") is report.layers[1]
    with pytest.raises(KeyError, match="no layer 'c'; there are a, b"):
        report.layer("c")
    with pytest.raises(ValueError, match=r"activation has 'c', which activations"):
        fanin.diagnose_signals(A, activation={"c": "tanh"})
    with pytest.raises(TypeError, match=r"must be a name such as 'relu'.*got tanh"):
        fanin.diagnose_signals(A, activation=np.tanh)
    hand = fanin.diagnose_signals(
        [np.ones((9, 2)), 1e4 * normal(9, 2)],
        weights=[np.ones((3, 2)), np.full((2, 2), 1e4)],
        activation="relu",
    )
    assert "that is variance 2 / fan_in" in hand.verdict


def test_records_cannot_be_written_to_and_samples_are_kept_in_part() -> None:
    net = stack("relu", 1, 1024, n_inputs=6)
    report = net.diagnose(normal(2000, 6))
    assert report.input is not None
    sample = report.layers[0].sample
    for array in (report.input.mean, report.input.std, report.input.largest, sample):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert sample.size <= 2**18
    assert "of 1024" in repr(report)


def test_an_error_of_a_function_of_the_users_is_not_hidden() -> None:
    broken = []

    def fail(z):
        if broken:
            raise ValueError("of the user")
        return z / 2

    activation = fanin.activations.Custom(fail, lambda z: 0 * z + 0.5)
    net = fanin.Network(9, [Dense(9, activation), Dense(2)], loss="squared_error")
    report = net.diagnose(normal(30, 9))
    broken.append(True)
    with pytest.raises(ValueError, match="of the user"):
        report.expected_forward  # noqa: B018


# --- showing ----------------------------------------------------------------------


def unhealthy():
    net = stack("relu", 12, 16)
    net.parameters *= 0.3
    X = normal(100, 16)
    X[:, 3] *= 1e3
    names = ["<b>", *map(str, range(15))]
    return net.diagnose(X, np.zeros(100, int), feature_names=names)


def test_a_report_prints_as_a_table() -> None:
    report = unhealthy()
    text = repr(report)
    assert text.startswith(report.verdict)
    for record in report.layers:
        assert record.name in text
    for problem in report.problems:
        assert problem.sentence in text
    assert "100 samples, loss" in text
    X = normal(100, 16)
    X[:, 0] *= 1e3
    net = stack("relu", 60, 16)
    deep = net.diagnose(X, feature_names=["<b>", *map(str, range(15))])
    assert "(21 layers left out)" in repr(deep)
    page = deep._repr_html_()
    assert "<table>" in page
    assert "&lt;b&gt;" in page
    assert "<b>&#x27;" not in page
    assert "layers left out" in page


def test_a_report_goes_through_json_and_pickle() -> None:
    report = unhealthy()
    found = report.to_dict()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert "sample" not in found["layers"][0]
    assert found["starts_at"] == report.starts_at
    assert found["layers"][-1]["backward_growth"] is None
    for copied in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert copied.to_dict() == found
        assert repr(copied) == repr(report)


def test_a_report_of_functions_that_cannot_be_pickled_can_be() -> None:
    activation = fanin.activations.Custom(lambda z: z / 2, lambda z: 0 * z + 0.5)
    net = fanin.Network(9, [Dense(9, activation), Dense(2)], loss="squared_error")
    report = net.diagnose(normal(30, 9))
    copied = pickle.loads(pickle.dumps(report))
    assert copied.to_dict() == report.to_dict()
    assert report.expected_backward[0] == pytest.approx(
        math.sqrt(report.layers[1].scale) / 2
    )


def test_a_report_does_not_change() -> None:
    report = unhealthy()
    with pytest.raises(AttributeError, match="does not change"):
        report.loss = 1.0
    with pytest.raises(AttributeError, match="does not change"):
        del report.loss
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.layers[0].dead = 0.0  # type: ignore[misc]
    report.expected_forward[...] = 0
    assert np.nanmax(report.expected_forward) > 0
    with pytest.raises(TypeError, match=r"Network\.diagnose"):
        fanin.SignalReport()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_numbers_give_a_report_and_no_warning(dtype) -> None:
    rng = np.random.default_rng(0)
    largest = float(np.finfo(dtype).max)
    seen = set()
    for k in range(120):
        activation = list(DEPTHS)[k % len(DEPTHS)]
        depth, n = int(rng.integers(0, 4)), int(rng.integers(1, 30))
        net = stack(activation, depth, 9, n_inputs=4, dtype=dtype, seed=k)
        net.parameters *= dtype(rng.choice([0.0, 1e-30, 1e-10, 1.0, 1e10, 1e30]))
        X = rng.standard_normal((n, 4))
        X *= rng.choice([0.0, 1e-200, 1e-30, 1.0, 1e30, largest / 10], 4)
        if k % 5 == 0:
            X[0, 0] = rng.choice([np.nan, np.inf, -np.inf])
        if k % 7 == 0:
            X[...] = X[0]
        report = net.diagnose(X.astype(dtype), None if k % 2 else np.zeros(n, int))
        json.dumps(report.to_dict(), allow_nan=False)
        assert report.verdict in repr(report)
        assert report._repr_html_()
        arrays = net.layer_outputs(X.astype(dtype))
        fanin.diagnose_signals(arrays, arrays, X=X, activation=activation).to_dict()
        seen |= set(kinds(report))
    assert {"not_finite", "unscaled_features", "vanishing_gradients"} <= seen


def test_one_layer_and_networks_without_weights() -> None:
    one = fanin.Network(5, [Dense(3)], loss="squared_error", rng=0)
    report = one.diagnose(normal(40, 5))
    assert report.healthy
    assert math.isnan(report.forward_factor)
    bare = fanin.Network(5, [layers.Activation("tanh")], loss="squared_error")
    assert bare.diagnose(normal(40, 5)).healthy


# --- errors -----------------------------------------------------------------------


def test_rows_there_must_be() -> None:
    net = stack("relu", 1, 8)
    with pytest.raises(ValueError, match="X has no rows"):
        net.diagnose(np.empty((0, 8)))
    with pytest.raises(ValueError, match=r"activations\[0\] has no rows"):
        fanin.diagnose_signals([np.empty((0, 8))])


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "activations must be a list", {"activations": "matrix"}),
        (ValueError, "at least one layer", {"activations": []}),
        (ValueError, r"activations\[1\] must have shape", {"activations": "vector"}),
        (ValueError, "must have 30 rows", {"activations": "rows"}),
        (TypeError, r"activations\[0\] must be an array", {"activations": "complex"}),
        (ValueError, "gradients must hold one entry", {"gradients": [None]}),
        (ValueError, r"gradients\[1\] must have the shape", {"gradients": "shape"}),
        (TypeError, "gradients is a dict", {"gradients": {"a": 1}}),
        (ValueError, r"weights\[1\] must have shape \(5, 4\).*pass weights\[1\]\.T",
         {"weights": [np.ones((6, 5)), np.ones((4, 5))]}),
        (ValueError, r"weights\[0\] must have shape \(6, 5\)",
         {"weights": [np.ones((7, 5)), None]}),
        (ValueError, "weight_gradients needs weights", {"weight_gradients": [1, 1]}),
        (ValueError, r"weight_gradients\[0\] must have the shape",
         {"weights": [np.ones((6, 5)), None],
          "weight_gradients": [np.ones((5, 6)), None]}),
        (ValueError, r"weight_gradients\[1\] needs weights\[1\]",
         {"weights": [np.ones((6, 5)), None],
          "weight_gradients": [None, np.ones((5, 4))]}),
        (ValueError, "activation must be one of", {"activation": "rely"}),
        (ValueError, "one for each of the 2", {"activation": ["relu"]}),
        (TypeError, "activation must be a name", {"activation": [3, "relu"]}),
        (ValueError, "names must hold 2", {"names": ["a"]}),
        (ValueError, "names must differ", {"names": ["a", "a"]}),
        (ValueError, "X must have 30 rows", {"X": np.ones((29, 6))}),
        (ValueError, "each of the 6 features", {"feature_names": ["a"]}),
        (TypeError, r"feature_names\[0\]", {"feature_names": [1] * 6}),
        (TypeError, "feature_names must be", {"feature_names": "abcdef"}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(error, message, change) -> None:
    A = [normal(30, 5), normal(30, 4)]
    given = {"activations": A, "X": normal(30, 6)}
    changes = {
        "matrix": A[0],
        "vector": [A[0], A[1][0]],
        "rows": [A[0], A[1][1:]],
        "complex": [A[0] + 1j, A[1]],
        "shape": [A[0], A[0]],
    }
    change = {
        key: changes.get(value, value) if isinstance(value, str) else value
        for key, value in change.items()
    }
    with pytest.raises(error, match=message):
        fanin.diagnose_signals(**(given | change))


def test_a_dict_is_matched_by_its_names() -> None:
    A = {"a": normal(30, 5), "b": normal(30, 4)}
    with pytest.raises(ValueError, match=r"gradients has 'c'"):
        fanin.diagnose_signals(A, {"c": A["a"]})
    with pytest.raises(ValueError, match=r"activations\['b'\] must have shape"):
        fanin.diagnose_signals({"a": A["a"], "b": np.ones(30)})
    with pytest.raises(TypeError, match="a key of activations"):
        fanin.diagnose_signals({1: A["a"]})
    with pytest.raises(ValueError, match="feature_names needs X"):
        fanin.diagnose_signals(A, feature_names=["a"])
    report = fanin.diagnose_signals(A, {"b": A["b"]})
    assert math.isnan(report.layers[0].backward_norm)
    assert math.isfinite(report.layers[1].backward_norm)


def test_the_networks_errors_name_the_argument() -> None:
    net = stack("relu", 1, 8)
    with pytest.raises(ValueError, match="X must have shape"):
        net.diagnose(np.ones((5, 7)))
    with pytest.raises(ValueError, match="y"):
        net.diagnose(np.ones((5, 8)), np.zeros(4, int))
    with pytest.raises(TypeError, match="training must be"):
        net.diagnose(np.ones((5, 8)), training=1)
    with pytest.raises(ValueError, match="each of the 8 features"):
        net.diagnose(np.ones((5, 8)), feature_names=["a"])
