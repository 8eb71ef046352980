"""The comparison's contenders agree: its rows at tiny sizes, checked, not timed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fanin

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not (BENCHMARKS / "compare.py").is_file():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
# For these imports alone: the directory's other names are nobody's business here.
sys.path.insert(0, str(BENCHMARKS))
try:
    import compare
    import memory
    import precision
    from comparison import (
        activations,
        all_rows,
        functional,
        gradients,
        initialization,
        networks,
        normalization,
        normalization_layers,
    )
    from comparison.model import COLUMNS, Contender, Row, Session, Wrong
    from comparison.timing import Effort, Outcome, run_row
finally:
    sys.path.remove(str(BENCHMARKS))


def session() -> Session:
    """Return NumPy alone: the other peers take seconds to import."""
    return Session(n_threads=1, modules={"NumPy": np})


def run_once(contenders, columns=("fanin", "NumPy")):
    seen = []
    for column, contender in contenders:
        if contender.prepare:
            contender.prepare()
        result = contender.run()
        if contender.check:
            contender.check(result)
        assert column in COLUMNS
        seen.append(column)
    assert set(columns) <= set(seen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_normalization_rows_agree(dtype, order):
    for given in (False, True):
        run_once(normalization.standardize(200, 7, dtype, order, given, session()))
    run_once(normalization.moments(200, 7, dtype, order, session()))
    run_once(normalization.one_row(7, dtype, session()))


@pytest.mark.parametrize(
    "kind", ["every second row", "every second column", "transposed"]
)
def test_views_of_the_normalization_rows_agree(kind):
    run_once(normalization.view(kind, 200, 7, session()))


@pytest.mark.parametrize("kind", ["layer_norm", "batch_norm", "rms_norm"])
def test_rows_of_the_normalization_layers_agree(kind):
    run_once(normalization_layers.forward(kind, 200, 7, session()))
    run_once(normalization_layers.backward(kind, 200, 7, session()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", activations.NAMES)
def test_rows_of_the_activations_agree(name, dtype):
    contenders = dict(activations.apply(name, 20_000, dtype, session()))
    # NumPy has no erf.
    expected = {"floor", "fanin"} | ({"NumPy"} if name != "gelu" else set())
    assert set(contenders) == expected
    for contender in contenders.values():
        result = contender.run()
        if contender.check:
            contender.check(result)
            for wrong in (result * dtype(1.001), result.astype(np.float16)):
                with pytest.raises(Wrong):
                    contender.check(wrong)


def test_digits_are_counted_against_exact_arithmetic():
    X = precision.data_sets()["1e9 + 2000 normal rows"][:200]
    exact = [precision.exact_variance(column) for column in X.T]
    assert precision.digits([float(e) for e in exact], exact) > 15.9
    assert 2.9 < precision.digits([float(e) * 1.001 for e in exact], exact) < 3.1
    assert precision.digits(precision.updates(X, 7), exact) > 14
    assert precision.digits(precision.merged(X), exact) > 14


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's"
)
def test_memory_is_seen():
    """A call that makes its result adds that much; a limit of 0 would be exceeded."""
    case = ["standardize", [20, 100_000], "float32", "C", 1]
    added = subprocess.run(
        [sys.executable, memory.__file__, "--case", json.dumps(case)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 1e6 < int(added.stdout) < memory.limit((20, 100_000), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_network_rows_agree(dtype):
    sizes = [6, 9, 5, 3]
    for optimizer in ("adam", "sgd"):
        run_once(networks.training_step(sizes, 11, dtype, optimizer, session()))
    run_once(networks.forward_and_backward(sizes, 11, dtype, session()))
    for labels in (False, True):
        run_once(networks.predict(sizes, 11, dtype, labels, session()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_networks_at_once_are_checked(dtype):
    contenders = dict(networks.two_at_once([7, 9, 3], 11, 4, dtype, session()))
    both = contenders["fanin"]
    for _ in range(2):
        both.prepare()
        both.check(both.run())
    both.prepare()
    with pytest.raises(Wrong, match="bits of network 1 beside another"):
        both.check(None)  # nobody has trained


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_the_functional_layer_agree(dtype):
    for n_rows in (1, 11):
        run_once(functional.forward_and_backward(n_rows, 6, 9, dtype, session()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distribution", initialization.DISTRIBUTIONS)
def test_rows_of_the_initializers_agree(distribution, dtype):
    run_once(initialization.initialize(50, 40, dtype, distribution, session()))


def test_other_rows_agree():
    run_once(gradients.every_entry([4, 6, 3], 8, 20, session()))
    for activation in ("tanh", "relu"):
        run_once(gradients.million([4, 6, 5, 3], 8, activation, 5, session()))
        one = gradients.on_one_thread([4, 6, 5, 3], 8, activation, session())
        run_once(one, ("floor", "fanin"))
    run_once(gradients.of_a_function(5, session()))


def test_names_of_rows_are_distinct():
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names)


def test_a_wrong_standardization_is_refused():
    X = normalization.make_data(200, 7, np.float32, "C")
    mean, std = normalization.reference_moments(X)
    allowed = normalization.tolerance(200, np.float32, np.float64)
    Z = fanin.standardize(X)
    normalization.check_standardized(X, mean, std, allowed, Z)
    for wrong in (
        Z * np.float32(1 + 1e-3),
        Z.astype(np.float64),
        Z[:-1],
        np.where(np.arange(200)[:, None] == 199, np.float32("nan"), Z),
    ):
        with pytest.raises(Wrong):
            normalization.check_standardized(X, mean, std, allowed, wrong)


def test_a_wrong_gradient_step_or_output_is_refused():
    sizes = [6, 9, 5, 3]
    X, y = networks.make_batch(sizes, 11, np.float32)
    net = networks.fanin_network(sizes, np.float32)
    theta = net.parameters.copy()
    reference = networks.Reference(sizes, X, y, theta)
    loss, gradient = net.loss_and_gradient(X, y)
    reference.check_gradient((loss, gradient))
    for scale in (11, 1 + 1e-3):
        with pytest.raises(Wrong):
            reference.check_gradient((loss, gradient * np.float32(scale)))
    with pytest.raises(Wrong):
        reference.check_gradient((loss * 1.001, gradient))
    with pytest.raises(Wrong):
        reference.check_output(net.forward(X) * np.float32(1.001))
    with pytest.raises(Wrong):
        reference.check_labels((net.predict(X) + 1) % 3)

    class Forgetful(fanin.optimizers.Adam):
        """The bias correction of the first step for ever."""

        def _prepare(self, theta):
            numbers = list(super()._prepare(theta))
            numbers[1] = self.learning_rate / (1 - self.beta_1)
            numbers[4] = math.sqrt(1 - self.beta_2)
            return tuple(numbers)

    # Another rule, another rate, another correction.
    rate = networks.RATE["adam"]
    for optimizer, right in (
        (fanin.optimizers.Adam(rate), True),
        (fanin.optimizers.SGD(rate), False),
        (fanin.optimizers.Adam(1.01 * rate), False),
        (Forgetful(rate), False),
    ):

        def step(optimizer=optimizer):
            return net.train_step(X, y, optimizer)

        net.parameters = theta
        arguments = ("adam", step, lambda: net.parameters, 0.0, step())
        if right:
            reference.check_steps(*arguments)
        else:
            with pytest.raises(Wrong):
                reference.check_steps(*arguments)


@pytest.mark.parametrize("distribution", initialization.DISTRIBUTIONS)
def test_wrong_moments_of_weights_are_refused(distribution):
    W = fanin.initializers.variance_scaling(
        (50, 4000), scale=2.0, distribution=distribution, rng=0
    )
    for kind in initialization.DISTRIBUTIONS:
        if kind == distribution:
            initialization.check_moments(50, np.float32, kind, W)
        else:
            with pytest.raises(Wrong):
                initialization.check_moments(50, np.float32, kind, W)
    for wrong in (W * np.float32(1.2), W + np.float32(0.05), np.sign(W) * 0.2):
        with pytest.raises(Wrong):
            initialization.check_moments(50, np.float32, distribution, wrong)


def test_a_wrong_contender_gets_no_time():
    def refuse(result):
        raise Wrong("no good")

    def build(session):
        yield "fanin", Contender(lambda: 1)
        yield "NumPy", Contender(lambda: 2, refuse)

    effort = Effort(repeat=2, minimum=1, budget=0.0, inner=0.0, loops=1)
    outcome = run_row(Row("a row", build), session(), effort)
    assert outcome.wrong == {"NumPy": "no good"}
    assert list(outcome.seconds) == ["fanin"]
    assert compare.cell(outcome, "NumPy") == "wrong"
    assert compare.cell(outcome, "JAX") == ""


@pytest.mark.parametrize(
    ("mine", "expected"),
    [([1.0, 1.0, 1.0], False), ([3.0, 3.0, 3.0], True), ([1.0, 3.0, 3.0, 1.0], False)],
)
def test_slower_means_beyond_the_spread(mine, expected):
    outcome = Outcome("a row", "", {"fanin": mine, "NumPy": [2.0] * len(mine)})
    assert compare.slower(outcome) is expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.50 s"), (0.0999, "99.9 ms"), (2.5e-6, "2.50 µs"), (9.999e-4, "1.00 ms")],
)
def test_times_are_shown_in_their_unit(seconds, text):
    assert compare.show_time(seconds) == text
