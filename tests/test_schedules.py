"""Learning-rate schedules: exact values, PyTorch, resuming, errors."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import fanin
from fanin import schedules
from fanin.optimizers import SGD, Adam

EVERY = [
    schedules.Constant(0.3),
    schedules.StepDecay(0.3, 7, 0.5),
    schedules.ExponentialDecay(0.3, 0.9, 3),
    schedules.CosineDecay(0.3, 20, 0.01),
    schedules.PiecewiseConstant((5, 9), (0.3, 0.2, 0.0)),
    schedules.LinearWarmup(schedules.CosineDecay(0.3, 20), 6, 0.25),
    schedules.LinearWarmup(0.3, 6),
    schedules.OneCycle(0.3, 20),
]


def close(found, wanted):
    """Whether two rates differ by some roundings of float64 only."""
    return found == pytest.approx(wanted, rel=1e-14, abs=1e-17)


# --- values -------------------------------------------------------------------


def test_a_constant_rate_is_constant():
    assert {schedules.Constant(0.1)(step) for step in (0, 1, 10**9)} == {0.1}


def test_step_decay_changes_every_so_many_steps():
    schedule = schedules.StepDecay(0.8, every=10, factor=0.5)
    assert [schedule(s) for s in (0, 9, 10, 19, 20, 30)] == [
        0.8,
        0.8,
        0.4,
        0.4,
        0.2,
        0.1,
    ]
    assert schedules.StepDecay(1.0, every=2)(2) == 0.1


def test_exponential_decay_is_a_power():
    schedule = schedules.ExponentialDecay(0.8, 0.25, every=4)
    assert [schedule(s) for s in (0, 2, 4, 8)] == [0.8, 0.4, 0.2, 0.05]
    assert close(schedule(1), 0.8 * math.sqrt(0.5))
    assert schedules.ExponentialDecay(1.0, 0.5)(3) == 0.125


def test_cosine_decay_is_half_a_wave():
    schedule = schedules.CosineDecay(1.0, 12, final=0.25)
    assert schedule(0) == 1.0
    assert close(schedule(4), 0.25 + 0.75 * 0.75)  # cos(pi / 3) = 1 / 2
    assert close(schedule(6), 0.625)
    assert close(schedule(8), 0.25 + 0.75 * 0.25)
    assert [schedule(s) for s in (12, 13, 10**9)] == [0.25] * 3
    assert schedules.CosineDecay(1.0, 12)(12) == 0.0


def test_piecewise_constant_changes_at_its_boundaries():
    schedule = schedules.PiecewiseConstant([3, 5], [1.0, 0.5, 0.0])
    assert [schedule(s) for s in range(7)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert schedules.PiecewiseConstant([], [0.1])(99) == 0.1
    arrays = schedules.PiecewiseConstant(np.array([3, 5]), np.array([1.0, 0.5, 0.0]))
    assert arrays == schedule


def test_warmup_rises_in_a_line_and_then_hands_over():
    after = schedules.StepDecay(0.8, every=2, factor=0.5)
    schedule = schedules.LinearWarmup(after, 4)
    wanted = [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.4, 0.4, 0.2]
    assert [schedule(s) for s in range(9)] == wanted
    assert [schedules.LinearWarmup(0.8, 4, 0.5)(s) for s in (0, 2, 4, 99)] == [
        0.4,
        pytest.approx(0.6, rel=1e-15),
        0.8,
        0.8,
    ]
    halving = schedules.LinearWarmup(lambda step: 0.5**step, 2)
    assert [halving(s) for s in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.25]


def test_one_cycle_rises_and_falls():
    schedule = schedules.OneCycle(
        0.8, 21, pct_start=1 / 3, div_factor=4.0, final_div_factor=2.0
    )
    # The top is at step 21 / 3 - 1 = 6, the end at step 20; half-way between, the mean.
    assert schedule(0) == 0.2
    assert close(schedule(3), 0.5)
    assert close(schedule(6), 0.8)
    assert close(schedule(13), 0.45)
    assert [schedule(s) for s in (20, 21, 10**9)] == [0.1] * 3
    falling = schedules.OneCycle(0.8, 10, pct_start=0.0)
    assert falling(0) == 0.8
    # A cycle too short to rise in: it starts at the top.
    assert schedules.OneCycle(0.8, 2)(0) == 0.8


# --- PyTorch ------------------------------------------------------------------


def pytorch_rates(make, rate, n_steps):
    """Return the rates of PyTorch's scheduler, which it computes recursively."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (schedules.StepDecay(0.3, 7, 0.5), lambda s, o: s.StepLR(o, 7, 0.5)),
        (schedules.ExponentialDecay(0.3, 0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
        (
            schedules.CosineDecay(0.3, 40, 0.01),
            lambda s, o: s.CosineAnnealingLR(o, 40, 0.01),
        ),
        (
            schedules.PiecewiseConstant([5, 9], [0.3, 0.03, 0.003]),
            lambda s, o: s.MultiStepLR(o, [5, 9], 0.1),
        ),
        (
            schedules.LinearWarmup(0.3, 8, 0.25),
            lambda s, o: s.LinearLR(o, 0.25, 1.0, 8),
        ),
        (
            schedules.OneCycle(0.3, 40, div_factor=10.0, final_div_factor=100.0),
            lambda s, o: s.OneCycleLR(o, 0.3, 40, div_factor=10, final_div_factor=100),
        ),
        (
            schedules.OneCycle(0.3, 41, pct_start=0.55),
            lambda s, o: s.OneCycleLR(o, 0.3, 41, pct_start=0.55),
        ),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else None,
)
def test_rates_equal_pytorch(schedule, make):
    rates = pytorch_rates(make, 0.3, 39)
    # PyTorch multiplies its way from step to step: a few roundings each.
    assert [schedule(s) for s in range(39)] == pytest.approx(rates, rel=1e-12)


# --- in an optimizer ----------------------------------------------------------


@pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)
def test_an_optimizer_steps_by_its_schedule(schedule):
    theta = np.zeros(1)
    sgd = SGD(schedule)
    for step in range(25):
        assert sgd.n_steps == step
        assert sgd.current_rate() == schedule(step)
        before = theta[0]
        sgd.update(theta, np.array([-1.0]))
        assert theta[0] == before + schedule(step)


@pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)
def test_five_epochs_and_five_more_are_ten(schedule, rng):
    X = rng.standard_normal((30, 3))
    y = X @ [1.0, -2.0, 0.5]

    def make():
        return fanin.Network(3, [fanin.layers.Dense(1)], loss="squared_error", rng=0)

    whole, parts = make(), make()
    adam = Adam(schedule)
    source = np.random.default_rng(7)
    whole.fit(X, y, optimizer=adam, epochs=10, batch_size=10, rng=source)
    assert adam.n_steps == 30

    source = np.random.default_rng(7)
    first = Adam(schedule)
    parts.fit(X, y, optimizer=first, epochs=5, batch_size=10, rng=source)
    second = Adam(pickle.loads(pickle.dumps(schedule)))
    second.load_state_dict(first.state_dict())
    parts.fit(X, y, optimizer=second, epochs=5, batch_size=10, rng=source)
    np.testing.assert_array_equal(parts.parameters, whole.parameters)


def test_any_function_of_the_step_is_a_schedule():
    sgd = SGD(lambda step: 1 / (1 + step))
    theta = np.zeros(1)
    for _ in range(3):
        sgd.update(theta, np.array([-1.0]))
    assert theta[0] == 1 + 1 / 2 + 1 / 3


def test_the_rate_may_be_set_between_steps():
    theta, g = np.zeros(1), np.array([-1.0])
    sgd = SGD(1.0)
    sgd.update(theta, g)
    sgd.learning_rate = 0.5
    sgd.update(theta, g)
    sgd.learning_rate = schedules.PiecewiseConstant([2], [9.0, 0.25])
    sgd.update(theta, g)
    assert theta[0] == 1.75
    with pytest.raises(ValueError, match="learning_rate must be a finite number"):
        sgd.learning_rate = -1.0
    with pytest.raises(TypeError, match="learning_rate must be a real number"):
        sgd.learning_rate = "slow"
    assert sgd.current_rate() == 0.25


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1])
def test_a_schedule_that_gives_no_rate_is_named(rate):
    theta = np.ones(2)
    adam = Adam(lambda step: rate if step == 1 else 0.1)
    adam.update(theta, np.ones(2))
    before = theta.copy()
    with pytest.raises(ValueError, match=r"learning_rate\(1\) must be a finite number"):
        adam.update(theta, np.ones(2))
    np.testing.assert_array_equal(theta, before)
    assert adam.n_steps == 1
    with pytest.raises(TypeError, match=r"learning_rate\(0\) must be a real number"):
        Adam(lambda step: None).update(theta, np.ones(2))


# --- objects ------------------------------------------------------------------


@pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)
def test_a_schedule_is_a_value(schedule):
    assert isinstance(schedule, schedules.Schedule)
    for other in (
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        eval(repr(schedule), vars(schedules)),
    ):
        assert other == schedule
        assert hash(other) == hash(schedule)
    assert sum(schedule == other for other in EVERY) == 1
    with pytest.raises(AttributeError):
        schedule.rate = 1.0
    # A plain float, which a kernel takes without a conversion.
    assert {type(schedule(s)) for s in range(25)} == {float}


def test_the_base_class_gives_no_rate():
    with pytest.raises(TypeError, match="subclass of Schedule"):
        schedules.Schedule()(0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.Constant(0.0), ValueError, "rate must be a finite"),
        (lambda: schedules.Constant("a"), TypeError, "rate must be a real number"),
        (lambda: schedules.StepDecay(0.1, 0), ValueError, "every must be at least 1"),
        (lambda: schedules.StepDecay(0.1, 1.5), TypeError, "every must be an integer"),
        (lambda: schedules.StepDecay(0.1, 5, 1.5), ValueError, r"factor .* \(0, 1\]"),
        (lambda: schedules.ExponentialDecay(0.1, 0.0), ValueError, "factor"),
        (lambda: schedules.ExponentialDecay(-1, 0.5), ValueError, "rate"),
        (lambda: schedules.CosineDecay(0.1, 0), ValueError, "n_steps"),
        (lambda: schedules.CosineDecay(0.1, 5, 0.2), ValueError, r"final .* \[0, 0.1"),
        (
            lambda: schedules.PiecewiseConstant([5], [0.1]),
            ValueError,
            "one entry more than boundaries, 1; got 1",
        ),
        (
            lambda: schedules.PiecewiseConstant([5, 5], [1, 1, 1]),
            ValueError,
            "boundaries must increase; got 5, 5",
        ),
        (
            lambda: schedules.PiecewiseConstant([0], [1, 1]),
            ValueError,
            r"boundaries\[0\] must be at least 1",
        ),
        (
            lambda: schedules.PiecewiseConstant([5], [1, -1]),
            ValueError,
            r"rates\[1\] must be a finite",
        ),
        (
            lambda: schedules.PiecewiseConstant(5, [1, 1]),
            TypeError,
            "boundaries must be a sequence; got int",
        ),
        (
            lambda: schedules.PiecewiseConstant([5], "ab"),
            TypeError,
            "rates must be a sequence; got str",
        ),
        (lambda: schedules.LinearWarmup(0.1, 0), ValueError, "n_steps"),
        (lambda: schedules.LinearWarmup(-0.1, 5), ValueError, "schedule must be"),
        (lambda: schedules.LinearWarmup("a", 5), TypeError, "schedule must be"),
        (lambda: schedules.LinearWarmup(0.1, 5, 1.5), ValueError, "start_factor"),
        (lambda: schedules.OneCycle(0.1, 1), ValueError, "n_steps must be at least 2"),
        (lambda: schedules.OneCycle(0.1, 9, 1.0), ValueError, r"pct_start .* \[0, 1\)"),
        (lambda: schedules.OneCycle(0.1, 9, 0.3, 0.5), ValueError, "div_factor"),
        (
            lambda: schedules.OneCycle(0.1, 9, final_div_factor=0.5),
            ValueError,
            "final_div_factor",
        ),
    ],
)
def test_bad_options_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
