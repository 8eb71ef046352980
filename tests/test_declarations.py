"""The small objects of the interface: what they hold, refuse and say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import fanin
from fanin import gradcheck, initializers, losses
from fanin.layers import Dense


def make(loss="squared_error", n_out=1):
    return fanin.Network(2, [Dense(n_out)], loss=loss, dtype=np.float64, rng=0)


# --- History ------------------------------------------------------------------------


@pytest.mark.parametrize("validate", [False, True])
def test_fit_returns_a_history_of_one_value_an_epoch(rng, validate):
    X = rng.standard_normal((20, 2))
    y = X @ [1.0, -2.0]
    history = make().fit(
        X,
        y,
        optimizer=fanin.optimizers.SGD(0.1),
        epochs=3,
        batch_size=5,
        validation=(X, y) if validate else None,
        rng=0,
    )
    assert isinstance(history, fanin.History)
    assert len(history.loss) == len(history.seconds) == 3
    assert len(history.validation_loss) == (3 if validate else 0)
    assert repr(history).startswith("History(3 epochs, loss ")
    assert ("validation loss" in repr(history)) == validate


def test_a_history_of_nothing_says_so():
    assert repr(fanin.History()) == "History(0 epochs)"


# --- Moments ------------------------------------------------------------------------


def test_moments_are_compared_by_value_and_cannot_be_keys():
    one, same = (fanin.moments([[1.0, 2.0], [3.0, 2.0]]) for _ in range(2))
    assert isinstance(one, fanin.Moments)
    assert one == same
    assert one != fanin.moments([[1.0, 2.0], [3.0, 4.0]])
    assert one != fanin.moments([[1.0, 2.0], [3.0, 2.0]], ddof=1)
    assert one != "moments"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_the_arrays_of_moments_cannot_be_written():
    m = fanin.moments([[1.0, 2.0], [3.0, 2.0]])
    for name in ("count", "mean", "var", "std", "constant"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(m, name)[0] = 0


# --- the records of a gradient report -------------------------------------------------


def test_a_report_is_made_of_frozen_records():
    x = np.array([1.0, 2.0, 3.0])
    report = fanin.check_gradient(lambda x: x @ x, x, [2.0, 4.0, 7.0])
    (block,) = report.blocks.values()
    assert isinstance(block, gradcheck.BlockRecord)
    assert isinstance(block.worst, gradcheck.EntryRecord)
    assert block.n == 3
    assert block.worst == report.worst(1)[0]
    assert block.worst.index == (2,)
    assert block.worst.absolute == abs(block.worst.numeric - block.worst.analytic)
    for record in (block, block.worst):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.name = "another"


# --- Dense --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "init", "expected"),
    [
        ("relu", "auto", initializers.he_normal),
        ("tanh", "auto", initializers.lecun_normal),
        ("logistic", "auto", initializers.lecun_normal),
        ("identity", "auto", initializers.lecun_normal),
        ("relu", "glorot_uniform", initializers.glorot_uniform),
        ("relu", initializers.zeros, initializers.zeros),
    ],
)
def test_a_layer_knows_how_its_weight_starts(activation, init, expected):
    layer = Dense(3, activation=activation, init=init)
    assert layer.initializer() is expected


# --- losses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("squared_error", losses.SquaredError),
        ("absolute_error", losses.AbsoluteError),
        ("huber", losses.Huber),
        ("quantile", losses.Quantile),
        ("poisson", losses.Poisson),
        ("binary_cross_entropy", losses.BinaryCrossEntropy),
        ("softmax_cross_entropy", losses.SoftmaxCrossEntropy),
    ],
)
def test_a_loss_by_name_is_the_loss_itself(name, kind):
    assert losses.get(name) == kind()
    assert losses.get(name).name == name
    assert losses.get(kind()) == kind()
    assert isinstance(kind(), losses.Loss)
    assert make(kind(), 2).loss_function == make(name, 2).loss_function


@pytest.mark.parametrize(
    ("loss", "y", "row", "word"),
    [
        (losses.SquaredError(), np.array([[0.0], [np.nan]]), 1, "finite"),
        (losses.BinaryCrossEntropy(), np.array([[0.5], [1.5]]), 1, r"\[0, 1\]"),
        (losses.SoftmaxCrossEntropy(), np.array([0, 5]), 1, "label"),
        (losses.SoftmaxCrossEntropy(), np.array([[0.5, 0.6], [0, 1]]), 0, "1.1"),
    ],
)
def test_a_bad_target_is_named_by_its_row(loss, y, row, word):
    message = loss.bad_target(y, row)
    assert f"y[{row}]" in message
    net = make(loss, 2 if isinstance(loss, losses.SoftmaxCrossEntropy) else 1)
    with pytest.raises(ValueError, match=word) as info:
        net.loss(np.zeros((2, 2)), y)
    assert str(info.value) == message


# --- optimizers -----------------------------------------------------------------------


def test_the_base_class_of_optimizers_takes_no_step():
    theta = np.ones(3)
    with pytest.raises(TypeError, match="SGD or Adam"):
        fanin.optimizers.Optimizer().update(theta, np.ones(3))
    with pytest.raises(TypeError, match="SGD or Adam"):
        make().train_step([[1.0, 2.0]], [1.0], fanin.optimizers.Optimizer())
    assert theta.tolist() == [1.0, 1.0, 1.0]


def test_every_optimizer_is_an_optimizer():
    for name in ("SGD", "RMSProp", "Adam", "AdamW", "LBFGS"):
        kind = getattr(fanin.optimizers, name)
        assert issubclass(kind, fanin.optimizers.Optimizer)
