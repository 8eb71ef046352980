"""`Network.fit`: what surrounds the steps, and that a run can end and go on."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
import time
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest

import fanin
from fanin.callbacks import Callback, EarlyStopping, TrainingState
from fanin.layers import Dense
from fanin.optimizers import SGD, Adam


def data(n=120, n_in=5, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_in))
    y = (X @ rng.standard_normal((n_in, n_classes))).argmax(axis=1)
    return X, y


def classifier(seed=0, dtype=np.float64, n_in=5, n_classes=3, cls=fanin.Network):
    return cls(
        n_in,
        [Dense(16, "tanh"), Dense(n_classes)],
        loss="softmax_cross_entropy",
        dtype=dtype,
        rng=seed,
    )


def regressor(seed=0, n_outputs=1, n_in=5, cls=fanin.Network):
    layers = [Dense(8, "tanh"), Dense(n_outputs)]
    return cls(n_in, layers, loss="squared_error", dtype=np.float64, rng=seed)


def fit(net, X, y, optimizer=None, **options):
    options = {"epochs": 3, "batch_size": 16, "n_threads": 1} | options
    if "resume" not in options:
        options.setdefault("rng", 0)
    if optimizer is None:
        optimizer = Adam(0.01)
    return net.fit(X, y, optimizer=optimizer, **options)


def recorded(history):
    """Everything in a history but the time it took."""
    return history.to_dict() | {"seconds": len(history.seconds)}


def assert_same_run(one, other):
    """Network, optimizer and history of two runs agree to the last bit."""
    for ours, theirs in zip(one[:2], other[:2], strict=True):
        assert type(ours) is type(theirs)
    np.testing.assert_array_equal(one[0].parameters, other[0].parameters)
    assert one[1].n_steps == other[1].n_steps
    assert one[1]._state.keys() == other[1]._state.keys()
    for name, array in one[1]._state.items():
        np.testing.assert_array_equal(array, other[1]._state[name])
    assert recorded(one[2]) == recorded(other[2])


# --- validation ---------------------------------------------------------------------


def test_a_fraction_is_stratified_and_never_trained_on():
    n = 1000
    y = np.repeat([0, 1, 2], [700, 250, 50])
    # The row number is the only input: what is trained on can be seen.
    X = np.zeros((n, 5))
    X[:, 0] = np.arange(n)
    seen = set()

    class Spy(fanin.Network):
        def _step(self, X, y, optimizer, index, n_threads, when, weight=None):
            seen.update(index.tolist())
            return super()._step(X, y, optimizer, index, n_threads, when, weight)

    held = []

    def held_labels(y_true, prediction):
        held.append(np.bincount(y_true, minlength=3).tolist())
        return 0.0

    net = classifier(cls=Spy)
    history = fit(net, X * 1e-3, y, validation_fraction=0.1, metrics=held_labels)
    assert held[0] == [70, 25, 5]
    assert len(seen) == 900
    rest = np.setdiff1d(np.arange(n), list(seen))
    assert np.bincount(y[rest]).tolist() == held[0]
    assert history.validation_loss[-1] == pytest.approx(
        net.loss(X[rest] * 1e-3, y[rest]), rel=1e-13
    )


@pytest.mark.parametrize("kind", ["labels", "one-hot", "binary", "numbers"])
@pytest.mark.parametrize("fraction", [0.013, 0.25, 0.5, 0.9])
def test_a_fraction_holds_out_its_share_of_every_class(kind, fraction):
    from fanin import _sampling

    rng = np.random.default_rng(3)
    labels = rng.choice(4, 500, p=[0.7, 0.2, 0.09, 0.01])
    loss, y = {
        "labels": ("softmax_cross_entropy", labels),
        "one-hot": ("softmax_cross_entropy", np.eye(4)[labels]),
        "binary": ("binary_cross_entropy", (labels > 0)[:, None]),
        "numbers": ("squared_error", rng.standard_normal((500, 2))),
    }[kind]
    train, held = _sampling.hold_out(
        fraction, np.random.default_rng(0), fanin.losses.get(loss), y
    )
    assert sorted([*train, *held]) == list(range(500))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()
    assert held.size == round(500 * fraction)
    if kind == "numbers":
        return
    classes = labels > 0 if kind == "binary" else labels
    for label in np.unique(classes):
        count = (classes == label).sum()
        assert abs((classes[held] == label).sum() - count * fraction) <= 1.01
        assert (classes[train] == label).any()


def test_a_fraction_equals_the_same_set_given_as_validation():
    X, y = data()
    from fanin import _sampling

    net, other = classifier(), classifier()
    source = np.random.default_rng(7)
    history = fit(net, X, y, rng=np.random.default_rng(7), validation_fraction=0.2)
    train, held = _sampling.hold_out(0.2, source, net.loss_function, y)
    theirs = fit(other, X[train], y[train], rng=source, validation=(X[held], y[held]))
    np.testing.assert_array_equal(net.parameters, other.parameters)
    np.testing.assert_allclose(
        history.validation_loss, theirs.validation_loss, rtol=1e-14
    )


def test_a_fraction_that_leaves_nothing_is_refused():
    X, y = data(3)
    with pytest.raises(ValueError, match="leaves none to train on"):
        fit(classifier(), X, y, validation_fraction=0.9)
    with pytest.raises(ValueError, match="every class of y has a single sample"):
        fit(classifier(), X, np.arange(3), validation_fraction=0.3)


# --- metrics ------------------------------------------------------------------------


def test_metrics_of_a_classifier_equal_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    X, y = data()
    y[:5] = 2
    names = ["accuracy", "balanced_accuracy"]
    for target in (y, np.eye(3)[y]):
        net = classifier()
        history = fit(
            net,
            X,
            target,
            validation=(X[:50], target[:50]),
            metrics=names,
            training_metrics=True,
        )
        for prefix, rows in (("validation_", slice(50)), ("", slice(None))):
            prediction = net.predict(X[rows])
            for name in names:
                wanted = getattr(sklearn, f"{name}_score")(y[rows], prediction)
                found = history.metrics[prefix + name]
                assert len(found) == 3
                assert found[-1] == pytest.approx(wanted, rel=1e-14)
        assert 0.3 < history.metrics["accuracy"][-1] < 1


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_metrics_of_a_regressor_equal_scikit_learns(n_outputs):
    sklearn = pytest.importorskip("sklearn.metrics")
    X, _ = data()
    y = X[:, :n_outputs] ** 2
    if n_outputs == 1:
        y = y[:, 0]
    else:
        y[:, 2] = 1.0  # r2 of a constant
    names = [
        "r2",
        "mean_absolute_error",
        "mean_squared_error",
        "root_mean_squared_error",
    ]
    net = regressor(n_outputs=n_outputs)
    history = fit(
        net, X, y, metrics=names, validation_fraction=0.0, training_metrics=True
    )
    assert set(history.metrics) == set(names)
    prediction = net.predict(X)
    for name in names:
        wanted = getattr(sklearn, "r2_score" if name == "r2" else name)(y, prediction)
        assert history.metrics[name][-1] == pytest.approx(wanted, rel=1e-13)


def test_a_metric_gets_the_callers_targets_and_predictions():
    X, y = data()
    calls = []

    def mine(y_true, prediction):
        calls.append((y_true.copy(), prediction.copy()))
        return np.float32(0.25)

    net = classifier()
    history = fit(net, X, y, epochs=1, validation=(X, y), metrics={"m": mine})
    assert history.metrics == {"validation_m": [0.25]}
    np.testing.assert_array_equal(calls[0][0], y)
    np.testing.assert_array_equal(calls[0][1], net.predict(X))


def test_metrics_run_through_more_rows_than_a_block_holds():
    X, y = data(40_000)
    net = classifier()
    history = fit(
        net,
        X,
        y,
        epochs=1,
        batch_size=5000,
        metrics="accuracy",
        training_metrics=True,
        validation_fraction=0.5,
    )
    right = net.predict(X) == y
    both = history.metrics["accuracy"][0] + history.metrics["validation_accuracy"][0]
    assert both / 2 == pytest.approx(right.mean(), rel=1e-14)


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("acuracy", ValueError, "a metric must be one of 'accuracy'.*got 'acuracy'"),
        ("r2", ValueError, "'r2' is for a network with a loss of numbers"),
        (3, TypeError, "metrics must be names or callables"),
        ([3], TypeError, "a metric must be a name or a callable"),
        (["accuracy", "accuracy"], ValueError, "two metrics are named 'accuracy'"),
        ({"loss": "accuracy"}, ValueError, "must not be named 'loss'"),
        ({"validation_a": "accuracy"}, ValueError, "must not be named 'validation_a'"),
        ({3: "accuracy"}, TypeError, "the name of a metric must be a string"),
        (lambda y, p: "good", TypeError, "must return a real number; got str"),
    ],
)
def test_bad_metrics(metrics, error, message):
    X, y = data()
    with pytest.raises(error, match=message):
        fit(classifier(), X, y, metrics=metrics, validation=(X, y))


def test_metrics_without_data_to_compute_them_on_are_refused():
    X, y = data()
    with pytest.raises(ValueError, match=r"metrics need validation.*training_metrics"):
        fit(classifier(), X, y, metrics="accuracy")
    with pytest.raises(ValueError, match="'accuracy' is for a network with a cross"):
        fit(regressor(), X, X[:, 0], metrics="accuracy", training_metrics=True)


# --- early stopping -----------------------------------------------------------------


def scripted(values):
    """A metric that returns these values, epoch by epoch."""
    left = iter(values)
    return {"script": lambda y_true, prediction: next(left)}


def stop_by(values, **options):
    X, y = data()
    net = classifier()
    kept = []
    history = fit(
        net,
        X,
        y,
        epochs=len(values),
        validation=(X, y),
        metrics=scripted(values),
        early_stopping=EarlyStopping(monitor="validation_script", **options),
        callbacks=lambda state: kept.append(state.network.parameters.copy()),
    )
    return net, history, kept


def test_early_stopping_waits_and_restores_the_best():
    values = [5.0, 3.0, 4.0, math.nan, 3.0, 1.0, 0.0]
    net, history, kept = stop_by(values, patience=3, mode="min")
    assert history.stopped == "early_stopping"
    assert len(history.loss) == len(history.validation_loss) == 5
    assert history.best_epoch == 2
    np.testing.assert_array_equal(net.parameters, kept[1])
    assert "best epoch 2, stopped: early_stopping" in repr(history)


def test_more_may_be_better_and_the_last_parameters_may_be_kept():
    net, history, kept = stop_by(
        [1.0, 3.0, 2.0, 2.5, 9.0], patience=2, mode="max", restore_best=False
    )
    assert (history.best_epoch, len(history.loss)) == (2, 4)
    np.testing.assert_array_equal(net.parameters, kept[3])


def test_small_improvements_do_not_count_but_make_the_best():
    _, history, _ = stop_by(
        [5.0, 4.9, 4.8, 4.7, 0.0], patience=3, min_delta=0.5, mode="min"
    )
    assert (len(history.loss), history.best_epoch) == (4, 4)
    _, history, _ = stop_by([5.0, 4.0, 3.0, 2.0], patience=1, min_delta=0.5, mode="min")
    assert (history.stopped, history.best_epoch) == ("epochs", 4)


def test_nothing_is_restored_where_no_value_was_a_number():
    net, history, kept = stop_by([math.nan] * 4, patience=2, mode="min")
    assert (history.best_epoch, len(history.loss)) == (None, 2)
    np.testing.assert_array_equal(net.parameters, kept[-1])


def test_the_best_is_restored_also_when_all_epochs_were_done():
    net, history, kept = stop_by([2.0, 1.0, 3.0], patience=5, mode="min")
    assert (history.stopped, history.best_epoch) == ("epochs", 2)
    np.testing.assert_array_equal(net.parameters, kept[1])


def test_early_stopping_may_be_given_as_its_patience():
    X, y = data()
    for given in (2, True, EarlyStopping(2), EarlyStopping(2, monitor="loss")):
        history = fit(
            classifier(),
            X,
            y,
            optimizer=SGD(1e-12),
            epochs=30,
            validation=(X, y),
            early_stopping=given,
        )
        assert history.best_epoch is not None
    assert EarlyStopping() == EarlyStopping(10, 0.0, "validation_loss", "auto", True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("yes", TypeError, "early_stopping must be a fanin.callbacks.EarlyStopping"),
        (EarlyStopping, TypeError, "early_stopping must be a fanin.callbacks"),
        (0, ValueError, "early_stopping must be at least 1"),
        (True, ValueError, "monitors 'validation_loss'.*; give validation or"),
        (EarlyStopping(monitor="r2"), ValueError, "there is 'loss', 'm'"),
        (EarlyStopping(monitor="m"), ValueError, "whether less or more of 'm'"),
    ],
)
def test_bad_early_stopping(given, error, message):
    X, y = data()
    with pytest.raises(error, match=message):
        fit(
            classifier(),
            X,
            y,
            early_stopping=given,
            metrics={"m": lambda y, p: 0.0},
            training_metrics=True,
        )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"patience": 0}, ValueError),
        ({"patience": 2.5}, TypeError),
        ({"min_delta": -1.0}, ValueError),
        ({"monitor": 3}, TypeError),
        ({"mode": "least"}, ValueError),
        ({"restore_best": 1}, TypeError),
    ],
)
def test_bad_options_of_early_stopping(options, error):
    with pytest.raises(error, match=next(iter(options))):
        EarlyStopping(**options)


# --- callbacks ----------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def note(self, hook, state):
        assert isinstance(state, TrainingState)
        self.events.append((hook, state.epoch, state.batch, state.loss))

    def on_train_begin(self, state):
        self.note("begin", state)

    def on_batch_end(self, state):
        self.note("batch", state)

    def on_epoch_end(self, state):
        self.note("epoch", state)
        assert len(state.history.loss) == state.epoch

    def on_train_end(self, state):
        self.note("end", state)
        assert state.history.stopped == "epochs"


def test_callbacks_see_the_run():
    X, y = data(40)
    recorder = Recorder()
    net = classifier()
    history = fit(net, X, y, epochs=2, callbacks=[recorder])
    kinds = [event[0] for event in recorder.events]
    an_epoch = ["batch"] * 3 + ["epoch"]
    assert kinds == ["begin", *an_epoch, *an_epoch, "end"]
    batches = [event for event in recorder.events if event[0] == "batch"]
    assert [(e, b) for _, e, b, _ in batches] == [
        (e, b) for e in (1, 2) for b in (1, 2, 3)
    ]
    losses = [loss for *_, loss in batches[:3]]
    assert history.loss[0] == pytest.approx(np.dot(losses, [16, 16, 8]) / 40, rel=1e-15)
    assert [
        loss for kind, *_, loss in recorder.events if kind == "epoch"
    ] == history.loss
    assert math.isnan(recorder.events[0][3])


def test_a_plain_function_or_any_object_with_a_hook_is_a_callback():
    X, y = data(40)
    seen = []
    other = types.SimpleNamespace(on_epoch_end=lambda state: seen.append("object"))
    fit(
        classifier(),
        X,
        y,
        epochs=1,
        callbacks=[lambda state: seen.append(repr(state)), other],
    )
    assert seen[0].startswith("TrainingState(epoch 1 of 1, batch 3 of 3, loss ")
    assert seen[1:] == ["object"]
    fit(classifier(), X, y, epochs=1, callbacks=other)
    assert seen[2:] == ["object"]


def test_hooks_that_are_not_overridden_are_never_called(monkeypatch):
    def fail(self, state):
        raise AssertionError

    class Quiet(Callback):
        pass

    for name in ("on_train_begin", "on_batch_end", "on_epoch_end", "on_train_end"):
        monkeypatch.setattr(Callback, name, fail)
    X, y = data(40)
    assert fit(classifier(), X, y, epochs=1, callbacks=Quiet()).stopped == "epochs"


@pytest.mark.parametrize("yes", [True, np.True_])
def test_a_callback_ends_training(yes):
    X, y = data(48)
    history = fit(classifier(), X, y, callbacks=lambda s: yes if s.epoch == 2 else None)
    assert (history.stopped, len(history.loss), history.batches) == ("callback", 2, 0)
    stop = types.SimpleNamespace(on_batch_end=lambda s: s.epoch == 2 and s.batch == 2)
    adam = Adam()
    history = fit(classifier(), X, y, adam, callbacks=[stop])
    assert (history.stopped, len(history.loss), history.batches) == ("callback", 1, 2)
    assert adam.n_steps == 5
    assert repr(history).startswith("History(1 epoch and 2 batches, loss ")
    # At an epoch's last batch, the epoch is completed first.
    stop = types.SimpleNamespace(on_batch_end=lambda s: s.batch == 3)
    history = fit(classifier(), X, y, callbacks=[stop])
    assert (history.stopped, len(history.loss), history.batches) == ("callback", 1, 0)
    begin = types.SimpleNamespace(on_train_begin=lambda s: True)
    adam = Adam()
    assert fit(classifier(), X, y, adam, callbacks=begin).stopped == "callback"
    assert adam.n_steps == 0


def test_other_results_of_a_callback_do_not_end_training():
    X, y = data(40)
    answers = iter([1, "yes", np.ones(3)])
    assert (
        fit(classifier(), X, y, callbacks=lambda s: next(answers)).stopped == "epochs"
    )


def test_an_exception_in_a_callback_passes_through():
    X, y = data(40)
    error = RuntimeError("mine")

    def fail(state):
        raise error

    adam = Adam()
    with pytest.raises(RuntimeError) as caught:
        fit(
            classifier(), X, y, adam, callbacks=types.SimpleNamespace(on_batch_end=fail)
        )
    assert caught.value is error
    assert adam.n_steps == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "callbacks must be a callable.*; got int"),
        ([3], r"callbacks\[0\] must be a callable or have a method.*; got int"),
        ([Recorder], r"callbacks\[0\] is the class Recorder: pass an instance"),
        ([types.SimpleNamespace(on_batch_end=3)], "on_batch_end is not callable"),
    ],
)
def test_bad_callbacks(given, message):
    X, y = data(40)
    with pytest.raises(TypeError, match=message):
        fit(classifier(), X, y, callbacks=given)


# --- weights ------------------------------------------------------------------------


class Repeating(fanin.Network):
    """A stand-in for the compiled weights: a row of weight 2 is taken twice."""

    def _step(self, X, y, optimizer, index, n_threads, when, weight=None):
        if weight is not None:
            assert weight.dtype == np.float64
            assert weight.shape == (X.shape[0],)
            index = np.repeat(index, weight[index].astype(int))
        return super()._step(X, y, optimizer, index, n_threads, when)


def test_the_loss_of_a_weighted_epoch_is_the_weighted_mean():
    X, y = data(50)
    weight = np.random.default_rng(1).integers(0, 4, 50)
    net = classifier(cls=Repeating)
    before = net.parameters.copy()
    history = fit(net, X, y, SGD(1e-300), epochs=1, sample_weight=weight)
    np.testing.assert_allclose(net.parameters, before, rtol=0, atol=1e-290)
    rows = np.repeat(np.arange(50), weight)
    assert history.loss[0] == pytest.approx(net.loss(X[rows], y[rows]), rel=1e-13)


def test_class_weights_multiply_sample_weights():
    X, y = data(60)
    sample = np.random.default_rng(1).integers(0, 3, 60)
    table = {0: 2, 2: 3}
    both = sample * np.array([2, 1, 3])[y]
    one, other = classifier(cls=Repeating), classifier(cls=Repeating)
    ours = fit(one, X, y, sample_weight=sample, class_weight=table)
    theirs = fit(other, X, y, sample_weight=both)
    assert recorded(ours) == recorded(theirs)
    np.testing.assert_array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize("kind", ["labels", "one-hot", "binary"])
def test_balanced_weights_equal_scikit_learns(kind):
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    from fanin import _sampling

    labels = np.repeat([0, 2], [70, 30]) if kind != "binary" else np.arange(90) % 9 // 8
    loss, y, n_outputs = {
        "labels": ("softmax_cross_entropy", labels, 4),
        "one-hot": ("softmax_cross_entropy", np.eye(4)[labels], 4),
        "binary": ("binary_cross_entropy", labels[:, None] == 1, 1),
    }[kind]
    own, found = _sampling.sample_weights(
        None, "balanced", fanin.losses.get(loss), y, n_outputs
    )
    wanted = sklearn.compute_sample_weight("balanced", labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-15)
    assert own is None


def test_a_batch_without_weight_is_passed_over():
    X, y = data(48)
    weight = np.ones(48)
    weight[16:32] = 0
    adam = Adam(0.01)
    net = classifier(cls=Repeating)
    history = fit(net, X, y, adam, epochs=2, sample_weight=weight, shuffle=False)
    assert adam.n_steps == 4
    other = classifier()
    keep = weight > 0
    theirs = fit(other, X[keep], y[keep], epochs=2, shuffle=False)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert history.loss == theirs.loss


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_weight": np.ones(3)}, ValueError, r"must have shape \(60,\); got"),
        ({"sample_weight": np.arange(60.0) - 7}, ValueError, "got -7.0 at index 0"),
        ({"sample_weight": np.full(60, np.nan)}, ValueError, "got nan at index 0"),
        (
            {"sample_weight": np.zeros(60)},
            ValueError,
            "must have a positive, finite sum",
        ),
        (
            {"sample_weight": np.arange(60) == 7, "validation_fraction": 0.02},
            ValueError,
            "the weights of the samples held out must have a positive.*; got 0.0",
        ),
        (
            {"sample_weight": np.arange(60) == 7, "validation_fraction": 0.98},
            ValueError,
            "the weights of the samples to train on must have a positive.*; got 0.0",
        ),
        ({"sample_weight": "x"}, TypeError, "sample_weight must be an array of real"),
        ({"class_weight": "equal"}, ValueError, 'class_weight must be "balanced"'),
        ({"class_weight": [1, 2, 3]}, TypeError, 'class_weight must be "balanced"'),
        ({"class_weight": {3: 1.0}}, ValueError, "has the label 3; the labels are 0"),
        ({"class_weight": {"a": 1.0}}, TypeError, "must be labels"),
        ({"class_weight": {1: -1.0}}, ValueError, r"class_weight\[1\] must be"),
        (
            {"class_weight": dict.fromkeys(range(3), 0.0)},
            ValueError,
            "the weights that class_weight gives the samples must have a positive",
        ),
    ],
)
def test_bad_weights(options, error, message):
    X, y = data(60)
    net = classifier()
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        fit(net, X, y, **options)
    np.testing.assert_array_equal(net.parameters, before)


def test_class_weights_need_classes():
    X, y = data(60)
    with pytest.raises(ValueError, match="squared_error is not one of classes"):
        fit(regressor(), X, X[:, 0], class_weight="balanced")
    with pytest.raises(ValueError, match="probabilities that are not one-hot"):
        fit(classifier(), X, np.full((60, 3), 1 / 3), class_weight="balanced")
    y[7] = 3
    with pytest.raises(ValueError, match=r"y\[7\] is 3: not a label"):
        fit(classifier(), X, y, class_weight="balanced")
    net = fanin.Network(5, [Dense(2)], loss="binary_cross_entropy", rng=0)
    with pytest.raises(ValueError, match="y holds 2 labels a sample"):
        fit(net, X, np.zeros((60, 2)), class_weight={1: 2.0})


# --- weights in validation ----------------------------------------------------------


def cross_entropy(net, X, y, weight):
    """The weighted mean of the samples' losses, by its definition."""
    Z = net.forward(X)
    Z = Z - Z.max(axis=1, keepdims=True)
    each = np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(y)), y]
    return (weight * each).sum() / weight.sum()


def some_weights(n, seed=1):
    """Of 0 and 2, of fractions, and of a few samples that outweigh all others."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.05, 50.0, rng.choice([0.0, 0.25, 1.0, 2.0], n))


@pytest.mark.parametrize("n", [120, 40_000])
@pytest.mark.parametrize("given", ["samples", "classes", "both"])
def test_samples_that_are_held_out_keep_their_weights(given, n):
    """Of samples in loss and metrics, of classes in the loss."""
    from fanin import _sampling

    X, y = data(n)
    own, table = np.ones(n), np.array([1.0, 0.5, 30.0])
    options = {}
    if given != "classes":
        own = options["sample_weight"] = some_weights(n)
    weight = own
    if given != "samples":
        options["class_weight"] = dict(enumerate(table))
        weight = own * table[y]
    net = classifier()
    history = fit(
        net,
        X,
        y,
        epochs=2,
        batch_size=n // 8,
        validation_fraction=0.5,
        metrics=["accuracy"],
        training_metrics=True,
        **options,
    )
    parts = _sampling.hold_out(0.5, np.random.default_rng(0), net.loss_function, y)
    held = parts[1]
    assert history.validation_loss[-1] == pytest.approx(
        cross_entropy(net, X[held], y[held], weight[held]), rel=1e-12
    )
    right = net.predict(X) == y
    for name, rows in zip(("accuracy", "validation_accuracy"), parts, strict=True):
        wanted = (own * right)[rows].sum() / own[rows].sum()
        assert history.metrics[name][-1] == pytest.approx(wanted, rel=1e-12)


def test_held_out_equals_given_with_the_same_weights():
    from fanin import _sampling

    X, y = data()
    weight = some_weights(120)
    source = np.random.default_rng(7)
    net, other = classifier(), classifier()
    ours = fit(
        net,
        X,
        y,
        rng=np.random.default_rng(7),
        sample_weight=weight,
        validation_fraction=0.4,
        metrics="accuracy",
    )
    train, held = _sampling.hold_out(0.4, source, net.loss_function, y)
    theirs = fit(
        other,
        X[train],
        y[train],
        rng=source,
        sample_weight=weight[train],
        validation=(X[held], y[held], weight[held]),
        metrics="accuracy",
    )
    np.testing.assert_array_equal(net.parameters, other.parameters)
    np.testing.assert_allclose(ours.validation_loss, theirs.validation_loss, rtol=1e-14)
    assert ours.metrics == theirs.metrics


@pytest.mark.parametrize("container", [tuple, list])
def test_a_validation_set_has_the_weights_it_is_given_with(container):
    """And no others: neither the classes' nor those of the samples to train on."""
    X, y = data()
    weight = some_weights(50)
    other = {"sample_weight": some_weights(120, 2), "class_weight": "balanced"}
    net = classifier()
    validation = container((X[:50], y[:50], weight))
    history = fit(net, X, y, validation=validation, metrics="accuracy", **other)
    assert history.validation_loss[-1] == pytest.approx(
        cross_entropy(net, X[:50], y[:50], weight), rel=1e-13
    )
    right = net.predict(X[:50]) == y[:50]
    assert history.metrics["validation_accuracy"][-1] == pytest.approx(
        np.average(right, weights=weight), rel=1e-14
    )
    for validation in ((X[:50], y[:50]), (X[:50], y[:50], None)):
        net = classifier()
        history = fit(net, X, y, validation=validation, metrics="accuracy", **other)
        assert history.validation_loss[-1] == pytest.approx(
            cross_entropy(net, X[:50], y[:50], np.ones(50)), rel=1e-13
        )
        right = net.predict(X[:50]) == y[:50]
        assert history.metrics["validation_accuracy"][-1] == right.mean()


LABELS = ["accuracy", "balanced_accuracy"]
NUMBERS = ["r2", "mean_absolute_error", "mean_squared_error", "root_mean_squared_error"]


@pytest.mark.parametrize("kind", ["labels", "binary", "one number", "numbers"])
def test_a_weight_is_a_count_of_rows_in_loss_and_metrics(kind):
    """2 is the row twice and 0 is no row, whatever it holds."""
    X, y = data()
    X = X.copy()
    weight = np.random.default_rng(1).integers(0, 3, 120)
    if kind == "labels":
        # A class that only rows without weight have.
        net, y, names = classifier(n_classes=4), np.where(weight == 0, 3, y), LABELS
    elif kind == "binary":
        net = fanin.Network(
            5, [Dense(2)], loss="binary_cross_entropy", dtype=np.float64, rng=0
        )
        y, names = np.eye(3)[y][:, :2], LABELS
    else:
        n_outputs = 1 if kind == "one number" else 3
        net, y, names = regressor(n_outputs=n_outputs), X[:, :n_outputs] ** 2, NUMBERS
        # Constant where it counts, and no number that a mean is exact for.
        y[weight > 0, -1] = 0.1
        X[weight == 0, 0] = np.nan
    train = slice(0, 10), weight[:10] > 0
    rows = np.repeat(np.arange(120), weight)
    found = []
    for validation in ((X, y, weight), (X[rows], y[rows])):
        history = fit(
            copy.deepcopy(net),
            X[train[0]][train[1]],
            y[train[0]][train[1]],
            validation=validation,
            metrics=names,
        )
        found.append({"loss": history.validation_loss} | history.metrics)
    assert found[0].keys() == {"loss", *(f"validation_{name}" for name in names)}
    for name, values in found[0].items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, found[1][name], rtol=1e-13)


def test_weighted_metrics_equal_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    from fanin import _metrics

    rng = np.random.default_rng(0)
    weight = some_weights(500)
    y, prediction = rng.integers(0, 4, (2, 500))
    for name in LABELS:
        wanted = getattr(sklearn, f"{name}_score")
        assert _metrics.value(
            name, _metrics.BY_NAME[name], y, prediction, weight
        ) == pytest.approx(wanted(y, prediction, sample_weight=weight), rel=1e-14)
    for shape in ((500,), (500, 3)):
        y, prediction = rng.standard_normal((2, *shape))
        for name in NUMBERS:
            wanted = getattr(sklearn, "r2_score" if name == "r2" else name)
            assert _metrics.value(
                name, _metrics.BY_NAME[name], y, prediction, weight
            ) == pytest.approx(wanted(y, prediction, sample_weight=weight), rel=1e-13)


def test_r2_of_constants_that_no_mean_is_exact_for():
    from fanin import _metrics

    y = np.full(1001, 0.1)
    assert _metrics.r2(y, y) == 1.0
    assert _metrics.r2(y, y + 1) == 0.0
    weight = np.random.default_rng(0).random(1001)
    assert _metrics.r2(y, y, weight) == 1.0
    assert _metrics.r2(y, y + 1, weight) == 0.0


def test_a_users_metric_gets_weights_if_it_has_a_parameter_for_them():
    X, y = data()
    weight = some_weights(120)
    got = {}

    def plain(y_true, prediction):
        got["plain"] = len(y_true)
        return 0.0

    def optional(y_true, prediction, *, sample_weight=None):
        got["optional"] = sample_weight
        return 0.0

    def required(y_true, prediction, sample_weight):
        got["required"] = sample_weight
        return 0.0

    def nameless(y_true, prediction, sample_weight=None, /):
        assert sample_weight is None  # it cannot be given by its name
        return 0.0

    class Silent:
        """As compiled code may be, which need not tell its parameters."""

        __signature__ = 3

        def __call__(self, y_true, prediction):
            return 0.0

    def bound(y_true, prediction, sample_weight):
        got["bound"] = sample_weight
        return 0.0

    with pytest.raises(TypeError):
        inspect.signature(Silent())
    metrics = {
        "plain": plain,
        "optional": optional,
        "required": required,
        "bound": functools.partial(bound, sample_weight="mine"),
        "silent": Silent(),
        "nameless": nameless,
    }
    fit(classifier(), X, y, epochs=1, validation=(X, y, weight), metrics=metrics)
    assert (got["plain"], got["bound"]) == (120, "mine")
    np.testing.assert_array_equal(got["optional"], weight)
    np.testing.assert_array_equal(got["required"], weight)
    fit(classifier(), X, y, epochs=1, validation=(X, y), metrics=metrics)
    assert (got["plain"], got["bound"]) == (120, "mine")
    assert got["optional"] is None
    assert got["required"] is None


def test_early_stopping_follows_the_weighted_loss():
    """The same rows, half of them labelled wrong: the weights say which half counts."""
    X, y = data()
    labels = np.where(np.arange(120) < 60, y, (y + 1) % 3)
    parameters = []

    def record(state):
        parameters.append(state.network.parameters.copy())

    for counts, best in ((np.arange(120) < 60, 8), (np.arange(120) >= 60, 1)):
        net = classifier()
        parameters.clear()
        history = fit(
            net,
            X,
            y,
            epochs=8,
            validation=(X, labels, counts),
            early_stopping=True,
            callbacks=record,
        )
        assert history.best_epoch == best == np.argmin(history.validation_loss) + 1
        np.testing.assert_array_equal(net.parameters, parameters[best - 1])
        assert min(history.validation_loss) == pytest.approx(
            cross_entropy(net, X, labels, counts), rel=1e-13
        )


def test_an_optimizer_with_a_loop_of_its_own_validates_with_weights():
    X, y = data()
    weight = some_weights(120)
    net = classifier()
    validation = (X, y, weight)
    history = fit(net, X, y, Descent(), batch_size=None, validation=validation)
    assert history.validation_loss[-1] == pytest.approx(
        cross_entropy(net, X, y, weight), rel=1e-13
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X, y: (X,), TypeError, r"\(X, y, sample_weight\); got tuple of 1"),
        (lambda X, y: [X, y, y, y], TypeError, "got list of 4"),
        (lambda X, y: X, TypeError, "^validation must be a tuple.*; got ndarray"),
        (lambda X, y: (X[:, :2], y), ValueError, "^validation X must have .*5"),
        (lambda X, y: (X[:0], y[:0]), ValueError, "^validation X has no rows"),
        (lambda X, y: (X, y[:9]), ValueError, "^validation y must "),
        (lambda X, y: (X, y + 0.5), TypeError, "^validation y must be integer labels"),
        (
            lambda X, y: (X, y + 1),
            ValueError,
            r"^validation y\[\d+\] is 3: not a label",
        ),
        (
            lambda X, y: (X, y, np.ones(9)),
            ValueError,
            r"^validation sample_weight must have shape \(60,\); got \(9,\)",
        ),
        (
            lambda X, y: (X, y, 1 - np.arange(60)),
            ValueError,
            "^validation sample_weight must be finite and not negative; got -1 at",
        ),
        (
            lambda X, y: (X, y, np.where(y == 1, np.inf, 1)),
            ValueError,
            "^validation sample_weight must be finite and not negative; got inf at",
        ),
        (
            lambda X, y: (X, y, np.zeros(60)),
            ValueError,
            "^validation sample_weight must have a positive, finite sum; got 0.0",
        ),
        (
            lambda X, y: (X, y, "balanced"),
            TypeError,
            "^validation sample_weight must be an array of real numbers",
        ),
    ],
)
def test_bad_validation_sets(change, error, message):
    X, y = data(60)
    net, adam = classifier(), Adam()
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        fit(net, X, y, adam, validation=change(X, y))
    np.testing.assert_array_equal(net.parameters, before)
    assert adam.n_steps == 0


# --- order, batches, time -----------------------------------------------------------


def test_without_shuffling_the_samples_come_as_they_lie():
    X, y = data(50)
    net, other = classifier(), classifier()
    history = fit(net, X, y, epochs=2, shuffle=False)
    adam = Adam(0.01)
    for epoch in range(2):
        total = 0.0
        for start in range(0, 50, 16):
            rows = np.arange(start, min(start + 16, 50))
            total += rows.size * other._step(X, y, adam, rows, 1, "")
        assert history.loss[epoch] == total / 50
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_no_batch_size_is_one_batch():
    X, y = data(50)
    one, other = classifier(), classifier()
    adam = Adam(0.01)
    assert recorded(fit(one, X, y, adam, batch_size=None)) == recorded(
        fit(other, X, y, batch_size=50)
    )
    assert adam.n_steps == 3
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_the_time_limit_is_looked_at_after_each_batch():
    X, y = data(2000)
    adam = Adam()
    slow = types.SimpleNamespace(on_batch_end=lambda state: time.sleep(0.01))
    history = fit(classifier(), X, y, adam, epochs=100, time_limit=0.05, callbacks=slow)
    assert history.stopped == "time_limit"
    assert history.loss == []
    # Each batch takes 10 ms at least.
    assert 1 <= history.batches <= 5
    assert adam.n_steps == history.batches


def test_the_history_knows_rates_and_steps():
    X, y = data(40)
    sgd = SGD(0.5)
    halve = lambda state: setattr(state.optimizer, "learning_rate", 0.25)  # noqa: E731
    history = fit(classifier(), X, y, sgd, callbacks=halve)
    assert history.learning_rate == [0.5, 0.25, 0.25]
    assert history.n_steps == [3, 6, 9]
    from fanin._training import _learning_rate

    scheduled = types.SimpleNamespace(learning_rate=lambda step: 0.5**step, n_steps=4)
    assert _learning_rate(scheduled) == 0.125
    assert _learning_rate(types.SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shuffle": 1}, TypeError, "shuffle must be True or False"),
        ({"training_metrics": "no"}, TypeError, "training_metrics must be True or"),
        ({"time_limit": 0}, ValueError, "time_limit must be a finite number in"),
        ({"on_divergence": "go"}, ValueError, "on_divergence must be one of"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must be"),
        ({"resume": {}}, TypeError, "resume must be the History.*; got dict"),
        ({"optimizer": Adam}, TypeError, "optimizer must be a fanin.optimizers"),
    ],
)
def test_bad_options(options, error, message):
    X, y = data(40)
    arguments = {"optimizer": Adam(), "epochs": 1, "batch_size": 8} | options
    with pytest.raises(error, match=message):
        classifier().fit(X, y, **arguments)


def test_validation_and_a_fraction_exclude_each_other():
    X, y = data(40)
    with pytest.raises(ValueError, match="not both"):
        fit(classifier(), X, y, validation=(X, y), validation_fraction=0.1)


def test_the_bar_tells_of_metrics_and_batches(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    from fanin import _training

    monkeypatch.setattr(_training, "REFRESH", 0.0)
    X, y = data(40)
    fit(classifier(), X, y, progress=True, validation=(X, y), metrics="accuracy")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "batch 2/3, loss " in captured.err
    assert "accuracy=" in captured.err
    assert "3/3" in captured.err


# --- divergence ---------------------------------------------------------------------


def test_divergence_may_stop_with_the_parameters_before_the_failed_step():
    X, _ = data()
    target = X[:, 0]
    net = regressor()
    sgd = SGD(0.01)
    X[77, 2] = np.nan
    with pytest.warns(RuntimeWarning, match="training diverged: the loss is nan at"):
        history = fit(net, X, target, sgd, on_divergence="stop", shuffle=False)
    assert history.stopped == "diverged"
    assert "at epoch 1, batch 5: " in history.message
    assert "not finite is X, nan at [77, 2]" in history.message
    assert (history.batches, sgd.n_steps) == (4, 4)
    other = regressor()
    theirs = SGD(0.01)
    for start in range(0, 64, 16):
        other._step(X, target[:, None], theirs, np.arange(start, start + 16), 1, "")
    np.testing.assert_array_equal(net.parameters, other.parameters)


@pytest.mark.parametrize("on_divergence", ["raise", "stop"])
@pytest.mark.parametrize("batch_size", [30, None])
def test_an_update_that_overflows_is_found_and_taken_back(on_divergence, batch_size):
    """The last step of a run has no later one whose loss would tell."""
    X, _ = data()
    target = X[:, 0] * 1e3
    net = fanin.Network(5, [Dense(1)], loss="squared_error", rng=0)
    kept = []

    def overflow(state):
        kept.append(state.network.parameters.copy())
        state.optimizer.learning_rate = 1e300

    options = {"on_divergence": on_divergence, "callbacks": overflow}
    options |= {"batch_size": batch_size, "epochs": 2}
    name = "epoch 2, batch " + ("1" if batch_size is None else "[12]")
    message = f"{name}: the first tensor that is not finite is dense0.weight, -?inf"
    sgd = SGD(1e-3)
    if on_divergence == "raise":
        with pytest.raises(FloatingPointError, match=message):
            fit(net, X, target, sgd, **options)
    else:
        with pytest.warns(RuntimeWarning, match=message):
            history = fit(net, X, target, sgd, **options)
        assert (len(history.loss), history.batches) == (1, 0)
        with pytest.raises(ValueError, match="diverged and the parameters were reset"):
            fit(net, X, target, sgd, resume=history, epochs=9)
    np.testing.assert_array_equal(net.parameters, kept[0])


def test_a_floating_point_error_of_a_callback_is_no_divergence():
    X, y = data(40)

    def fail(state):
        raise FloatingPointError("mine")

    with pytest.raises(FloatingPointError, match=r"^mine$"):
        fit(classifier(), X, y, on_divergence="stop", callbacks=fail)


# --- going on -----------------------------------------------------------------------


def options_of(kind, X, y):
    return {
        "plain": {},
        "in order": {"shuffle": False},
        "held out": {"validation_fraction": 0.25, "metrics": "accuracy"},
        "early": {
            "validation": (X[:40], y[:40]),
            "early_stopping": EarlyStopping(4, 0.02, monitor="validation_accuracy"),
            "metrics": ["accuracy"],
            "training_metrics": True,
        },
        "weighted": {
            "validation_fraction": 0.25,
            "sample_weight": some_weights(len(y)),
            "class_weight": "balanced",
            "early_stopping": EarlyStopping(4, 0.001),
            "metrics": ["accuracy"],
            "training_metrics": True,
        },
        "generator": {"rng": np.random.Generator(np.random.MT19937(3))},
    }[kind]


def through_pickle(run):
    # Together or apart: the network and its optimizer find each other again.
    net, optimizer, history = run
    return (
        pickle.loads(pickle.dumps(net)),
        pickle.loads(pickle.dumps(optimizer)),
        pickle.loads(pickle.dumps(history)),
    )


@pytest.mark.parametrize("way", ["as they are", "pickle", "copy"])
@pytest.mark.parametrize(
    "kind", ["plain", "in order", "held out", "early", "weighted", "generator"]
)
@pytest.mark.parametrize(
    "make", [Adam, lambda: SGD(0.05, momentum=0.9, nesterov=True)], ids=["adam", "sgd"]
)
def test_five_epochs_and_five_more_equal_ten(make, kind, way):
    X, y = data()
    whole = classifier(), make()
    options = options_of(kind, X, y)
    whole = (*whole, fit(*whole[:1], X, y, whole[1], epochs=10, **options))
    part = classifier(), make()
    options = options_of(kind, X, y)
    part = (*part, fit(part[0], X, y, part[1], epochs=5, **options))
    first = part[2]
    before = pickle.dumps(first)
    if way == "pickle":
        part = through_pickle(part)
    elif way == "copy":
        part = tuple(copy.deepcopy(one) for one in part)
    options.pop("rng", None)
    history = fit(part[0], X, y, part[1], epochs=10, resume=part[2], **options)
    assert_same_run((*part[:2], history), whole)
    assert len(history.loss) == 10 or history.stopped == "early_stopping"
    assert pickle.dumps(first) == before


def test_the_best_of_the_first_part_is_restored_at_the_end_of_the_second():
    X, y = data()

    def run(epochs, values, **given):
        net, adam = given.pop("run", None) or (classifier(), Adam(0.01))
        history = fit(
            net,
            X,
            y,
            adam,
            epochs=epochs,
            validation=(X, y),
            metrics=scripted(values),
            **given,
            early_stopping=EarlyStopping(99, monitor="validation_script", mode="min"),
        )
        return net, adam, history

    values = [5.0, 1.0, 3.0, 2.0, 4.0, 6.0]
    whole = run(6, values)
    net, adam, history = run(4, values[:4])
    restored = net.parameters.copy()
    net, adam, history = through_pickle((net, adam, history))
    again = run(6, values[4:], run=(net, adam), resume=history)
    assert_same_run(again, whole)
    assert again[2].best_epoch == 2
    np.testing.assert_array_equal(restored, whole[0].parameters)


@pytest.mark.parametrize("at", [1, 4, 7, 8, 16])
@pytest.mark.parametrize("kind", ["plain", "in order", "held out", "early", "weighted"])
def test_a_run_goes_on_from_within_an_epoch(kind, at):
    X, y = data()
    options = options_of(kind, X, y)
    whole = classifier(), Adam(0.01)
    whole = (*whole, fit(whole[0], X, y, whole[1], **options))
    part = classifier(), Adam(0.01)

    def stop(state):
        return state.optimizer.n_steps == at

    stopper = types.SimpleNamespace(on_batch_end=stop)
    history = fit(part[0], X, y, part[1], callbacks=stopper, **options)
    assert history.stopped == "callback"
    assert part[1].n_steps == at
    part = through_pickle((*part, history))
    history = fit(part[0], X, y, part[1], resume=part[2], **options)
    assert_same_run((*part[:2], history), whole)


def test_a_run_that_stopped_early_stays_stopped_unless_patience_grows():
    values = [1.0, 2.0, 3.0, 4.0]
    X, y = data()
    net, adam = classifier(), Adam(0.01)

    def go(patience, values, **given):
        return fit(
            net,
            X,
            y,
            adam,
            epochs=4,
            validation=(X, y),
            metrics=scripted(values),
            **given,
            early_stopping=EarlyStopping(
                patience, monitor="validation_script", mode="min"
            ),
        )

    first = go(2, values)
    assert (first.stopped, len(first.loss)) == ("early_stopping", 3)
    again = go(2, [], resume=first)
    assert recorded(again) == recorded(first)
    longer = go(3, values[3:], resume=again)
    assert (longer.stopped, len(longer.loss)) == ("early_stopping", 4)
    assert adam.n_steps == 4 * 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "continues a fit with batch_size 16; got 8"),
        ({"shuffle": False}, "continues a fit with shuffle True; got False"),
        ({"validation_fraction": 0.2}, "with validation_fraction 0.0; got 0.2"),
        ({"training_metrics": True, "metrics": "accuracy"}, "a fit with metrics"),
        ({"rng": 3}, "rng cannot be given with resume"),
    ],
)
def test_another_setting_is_no_continuation(change, message):
    X, y = data()
    net, adam = classifier(), Adam(0.01)
    history = fit(net, X, y, adam)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=message):
        fit(net, X, y, adam, epochs=9, resume=history, **change)
    np.testing.assert_array_equal(net.parameters, before)


def test_another_network_optimizer_or_data_is_no_continuation():
    X, y = data()
    net, adam = classifier(), Adam(0.01)
    history = fit(net, X, y, adam)
    with pytest.raises(ValueError, match="after 24 steps of the optimizer; this Adam "):
        fit(net, X, y, Adam(0.01), epochs=9, resume=history)
    with pytest.raises(ValueError, match="the network has others"):
        fit(classifier(1), X, y, copy.deepcopy(adam), epochs=9, resume=history)
    with pytest.raises(ValueError, match="with n_samples 120; got 119"):
        fit(net, X[1:], y[1:], adam, epochs=9, resume=history)
    read = fanin.History.from_dict(history.to_dict())
    for nothing in (read, fanin.History()):
        with pytest.raises(ValueError, match="resume holds no state to continue from"):
            fit(net, X, y, adam, epochs=9, resume=nothing)


def test_resuming_what_is_complete_changes_nothing():
    X, y = data()
    net, adam = classifier(), Adam(0.01)
    history = fit(net, X, y, adam)
    before = net.parameters.copy()
    again = fit(net, X, y, adam, resume=history)
    assert recorded(again) == recorded(history)
    np.testing.assert_array_equal(net.parameters, before)
    assert adam.n_steps == 24


def test_what_is_refused_leaves_the_best_parameters_in_place(monkeypatch):
    """Resuming first takes the last ones; not so where it cannot begin."""
    X, y = data()
    net, adam = classifier(), Adam(0.01)
    stopping = EarlyStopping(9, monitor="validation_script", mode="min")
    options = {"validation": (X, y), "early_stopping": stopping}
    history = fit(net, X, y, adam, metrics=scripted([1.0, 2.0, 3.0]), **options)
    assert history.best_epoch == 1
    best = net.parameters.copy()
    options |= {"metrics": scripted([]), "epochs": 9, "resume": history}
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm"):
        fit(net, X, y, adam, progress=True, **options)
    np.testing.assert_array_equal(net.parameters, best)
    kept = EarlyStopping(9, monitor="loss", restore_best=False)
    history = fit(net, X, y, adam, early_stopping=kept)
    kept = EarlyStopping(9, monitor="loss")
    with pytest.raises(ValueError, match="restore_best=False: the parameters of its"):
        fit(net, X, y, adam, epochs=9, early_stopping=kept, resume=history)


# --- Ctrl-C -------------------------------------------------------------------------


class InterruptAt(fanin.Network):
    """Ctrl-C at a chosen step: before it is taken, or after, when its loss is lost."""

    at, before = 0, False

    def _step(self, X, y, optimizer, index, n_threads, when, weight=None):
        if self.before and optimizer.n_steps == self.at:
            self.at = -1
            raise KeyboardInterrupt
        value = super()._step(X, y, optimizer, index, n_threads, when, weight)
        if not self.before and optimizer.n_steps == self.at:
            self.at = -1
            raise KeyboardInterrupt
        return value


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", [1, 8, 11, 16])
def test_an_interrupted_run_goes_on_with_the_same_parameters(at, before):
    X, y = data()
    whole = classifier(), Adam(0.01)
    whole = (*whole, fit(whole[0], X, y, whole[1], validation=(X, y)))
    net, adam = classifier(cls=InterruptAt), Adam(0.01)
    net.at, net.before = at, before
    with pytest.warns(RuntimeWarning, match="training was interrupted in epoch"):
        history = fit(net, X, y, adam, validation=(X, y))
    assert history.stopped == "interrupted"
    assert adam.n_steps == at
    assert len(history.loss) * 8 + history.batches == at
    assert len(history.loss) == len(history.validation_loss) == len(history.seconds)
    history = fit(net, X, y, adam, validation=(X, y), resume=history)
    np.testing.assert_array_equal(net.parameters, whole[0].parameters)
    assert history.validation_loss == whole[2].validation_loss
    if before:
        assert history.loss == whole[2].loss
    else:  # without the one loss that Ctrl-C swallowed
        np.testing.assert_allclose(history.loss, whole[2].loss, rtol=0.2)


@pytest.mark.parametrize("hook", ["metric", "on_batch_end", "on_epoch_end"])
def test_ctrl_c_in_a_users_function_is_no_different(hook):
    X, y = data()
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0

    def options():
        return (
            {"metrics": {"m": interrupt}, "training_metrics": True}
            if hook == "metric"
            else {"callbacks": types.SimpleNamespace(**{hook: interrupt})}
        )

    whole = classifier(), Adam(0.01)
    calls += [1, 1]
    whole = (*whole, fit(whole[0], X, y, whole[1], **options()))
    calls.clear()
    net, adam = classifier(), Adam(0.01)
    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        history = fit(net, X, y, adam, **options())
    done = {"metric": (1, 8), "on_batch_end": (0, 2), "on_epoch_end": (2, 0)}[hook]
    assert (len(history.loss), history.batches) == done
    assert all(len(values) == done[0] for values in history.metrics.values())
    history = fit(net, X, y, adam, resume=history, **options())
    assert_same_run((net, adam, history), whole)


@pytest.mark.skipif(os.name == "nt", reason="os.kill sends no Ctrl-C on Windows")
def test_ctrl_c_returns_what_was_learned():
    """A signal, at a moment of its own choosing; the rest is then exact."""
    source = textwrap.dedent("""
        import os, signal, threading, time, warnings
        import numpy as np, fanin

        signal.signal(signal.SIGINT, signal.default_int_handler)
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((4000, 20)), rng.integers(0, 3, 4000)

        def make():
            layers = [fanin.layers.Dense(30, "tanh"), fanin.layers.Dense(3)]
            return (fanin.Network(20, layers, loss="softmax_cross_entropy", rng=0),
                    fanin.optimizers.Adam())

        def fit(net, adam, epochs, **options):
            return net.fit(X, y, optimizer=adam, epochs=epochs, batch_size=32,
                           n_threads=1, **options)

        net, adam = make()
        pid = os.getpid()
        threading.Timer(0.3, lambda: os.kill(pid, signal.SIGINT)).start()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = fit(net, adam, 10**6, rng=0)
        assert history.stopped == "interrupted", history
        assert [w.category for w in caught] == [RuntimeWarning]
        done = len(history.loss)
        assert adam.n_steps == 125 * done + history.batches > 0
        assert "epoch %d, after batch" % (done + 1) in str(caught[0].message)
        history = fit(net, adam, done + 1, resume=history)
        other, theirs = make()
        whole = fit(other, theirs, done + 1, rng=0)
        assert np.array_equal(net.parameters, other.parameters)
        assert history.loss[:done] == whole.loss[:done]
        print(history.stopped, whole.stopped)
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "epochs epochs"


@pytest.mark.skipif(os.name == "nt", reason="needs setitimer of POSIX")
def test_ctrl_c_at_any_moment_leaves_a_run_that_can_go_on():
    """Signals at random moments of a run that does everything."""
    source = textwrap.dedent("""
        import signal, time, warnings
        import numpy as np, fanin

        warnings.simplefilter("ignore")
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((60, 4)), rng.integers(0, 3, 60)

        def make():
            layers = [fanin.layers.Dense(6, "tanh"), fanin.layers.Dense(3)]
            return (fanin.Network(4, layers, loss="softmax_cross_entropy", dtype="f8",
                                  rng=0), fanin.optimizers.Adam(0.01))

        def fit(net, adam, **options):
            return net.fit(
                X, y, optimizer=adam, epochs=40, batch_size=16, n_threads=1,
                validation_fraction=0.25, metrics=["accuracy"], training_metrics=True,
                early_stopping=fanin.callbacks.EarlyStopping(100), **options)

        begun = time.perf_counter()
        other, theirs = make()
        whole = fit(other, theirs, rng=0)
        took = time.perf_counter() - begun
        n = 0
        for _ in range(150):
            net, adam = make()
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, took))
                history = fit(net, adam, rng=0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                continue    # before the first step, or after the last
            if history.stopped != "interrupted":
                continue
            n += 1
            assert adam.n_steps == 3 * len(history.loss) + history.batches
            history = fit(net, adam, resume=history)
            assert np.array_equal(net.parameters, other.parameters)
            assert history.validation_loss == whole.validation_loss
            assert history.metrics == whole.metrics
            assert history.best_epoch == whole.best_epoch
            assert history.n_steps == whole.n_steps
            # At most the one loss that Ctrl-C swallowed.
            assert sum(a != b for a, b in zip(history.loss, whole.loss)) <= 1
        assert n > 0
        print("done")
    """)
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


# --- an optimizer with a loop of its own ----------------------------------------------


class Descent:
    """A stand-in for L-BFGS: gradient descent that halves its step until it helps."""

    def __init__(self, most=10**6):
        self.most = most
        self.evaluations = 0

    def minimize(self, fun_and_grad, theta, callback):
        assert theta.dtype == np.float64
        loss, gradient = fun_and_grad(theta)
        assert isinstance(loss, float)
        assert gradient.dtype == np.float64
        for _ in range(self.most):
            rate = 1.0
            while True:
                self.evaluations += 1
                trial = theta - rate * gradient
                new, new_gradient = fun_and_grad(trial)
                if new < loss:
                    break
                rate /= 2
            theta, loss, gradient = trial, new, new_gradient
            # A line search may end on a point that is not the one it takes.
            fun_and_grad(theta + 1.0)
            callback(theta.copy())
        return types.SimpleNamespace(x=theta, message="that was all")


@pytest.mark.parametrize("fraction", [0.0, 0.25])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_optimizer_with_a_loop_of_its_own_gets_all_samples(fraction, dtype):
    X, y = data(20_000)
    net = classifier(dtype=dtype)
    seen = []
    recorder = Recorder()

    def loss_of(state):
        seen.append(state.network.parameters.copy())

    history = fit(
        net,
        X,
        y,
        Descent(),
        epochs=4,
        batch_size=None,
        metrics="accuracy",
        validation_fraction=fraction,
        training_metrics=True,
        callbacks=[loss_of, recorder],
    )
    assert (history.stopped, len(history.loss)) == ("epochs", 4)
    assert (np.diff(history.loss) < 0).all()
    assert history.n_steps == history.learning_rate == []
    np.testing.assert_array_equal(net.parameters, seen[-1])
    assert [event[0] for event in recorder.events] == [
        "begin",
        *["batch", "epoch"] * 4,
        "end",
    ]
    rows = np.arange(20_000)
    if fraction:
        from fanin import _sampling

        rows, held = _sampling.hold_out(
            fraction, np.random.default_rng(0), net.loss_function, y
        )
        assert history.validation_loss[-1] == pytest.approx(
            net.loss(X[held], y[held]), rel=1e-6 if dtype == np.float32 else 1e-13
        )
    assert history.loss[-1] == pytest.approx(
        net.loss(X[rows], y[rows]), rel=1e-6 if dtype == np.float32 else 1e-13
    )


def test_picked_rows_are_evaluated_as_if_they_were_all():
    """Several blocks, against one call on a copy of the rows."""
    X, y = data(50_000)
    net = classifier()
    rows = np.random.default_rng(0).permutation(50_000)[:40_000]
    found = np.empty(net.n_parameters)
    loss = net._evaluate(X, y, found, rows, 1)
    wanted_loss, wanted = net.loss_and_gradient(X[rows], y[rows])
    assert loss == pytest.approx(wanted_loss, rel=1e-13)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)
    y[rows[30_000]] = 7
    with pytest.raises(ValueError, match=rf"y\[{rows[30_000]}\] is 7: not a label"):
        net._evaluate(X, y, None, rows, 1)


@pytest.mark.parametrize(
    ("loss", "good", "bad", "message"),
    [
        ("softmax_cross_entropy", [0, 1, 2], 3, r"y\[59\] is 3: not a label"),
        ("softmax_cross_entropy", [0, 1, 2], -1, r"y\[59\] is -1: not a label"),
        ("softmax_cross_entropy", np.eye(3), 2.0, r"y\[59\] sums to 6"),
        ("binary_cross_entropy", np.eye(3), 1.5, r"y\[59\] is 1.5 in column 0"),
        ("poisson", np.eye(3), -1.0, r"y\[59\] is -1 in column 0"),
        ("squared_error", np.eye(3), np.nan, r"y\[59\] is nan in column 0"),
        ("huber", np.eye(3), 1e300, r"y\[59\] is 1e\+300 .* finite in float32"),
        (
            fanin.losses.Quantile((0.1, 0.5, 0.9)),
            np.eye(3)[0],
            np.inf,
            r"y\[59\] is inf: a target must be a finite number",
        ),
    ],
)
@pytest.mark.parametrize("where", ["training", "validation", "held out"])
def test_a_bad_target_is_found_before_the_first_step(loss, good, bad, message, where):
    """In the last row of many batches: nothing has changed by then."""
    X, _ = data(60)
    y = np.resize(good, (60, *np.shape(good)[1:]))
    wrong = y.copy()
    wrong[59] = bad
    net = fanin.Network(
        5,
        [Dense(4), fanin.layers.BatchNorm(), fanin.layers.Dropout(0.5), Dense(3)],
        loss=loss,
        rng=0,
    )
    before, adam = net._snapshot(), Adam()
    options = {"optimizer": adam, "epochs": 1, "batch_size": 4, "shuffle": False}
    given = {
        "training": {"y": wrong},
        "validation": {"y": y, "validation": (X, wrong)},
        "held out": {"y": wrong, "validation_fraction": 0.2},
    }[where]
    with pytest.raises(ValueError, match=message) as info:
        net.fit(X, **given, **options)
    assert str(info.value).startswith("validation y") == (where == "validation")
    for a, b in zip(before, net._snapshot(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert adam.n_steps == 0
    assert not net.gradient.any()
    net.fit(X, y, validation=(X, y), **options)
    assert adam.n_steps == 15


@pytest.mark.filterwarnings("error")
def test_weights_whose_sum_overflows_are_refused():
    X, y = data(60)
    net = classifier()
    message = "must have a positive, finite sum; got inf"
    with pytest.raises(ValueError, match=f"^sample_weight {message}"):
        fit(net, X, y, sample_weight=np.full(60, 1e308))
    with pytest.raises(ValueError, match=rf"^sample_weight \* class_weight {message}"):
        fit(net, X, y, sample_weight=np.full(60, 1e300), class_weight={0: 1e300})
    with pytest.raises(ValueError, match=message):
        net.train_step(X, y, Adam(), np.full(60, 1e308))


def test_scipys_lbfgs_fits_behind_that_method():
    optimize = pytest.importorskip("scipy.optimize")

    class LBFGS:
        def minimize(self, fun_and_grad, theta, callback):
            return optimize.minimize(
                fun_and_grad, theta, jac=True, method="L-BFGS-B", callback=callback
            )

    X, _ = data()
    target = X @ np.arange(1.0, 6.0)
    net = fanin.Network(5, [Dense(1)], loss="squared_error", dtype="f8", rng=0)
    history = fit(net, X, target, LBFGS(), epochs=200, batch_size=None)
    assert history.stopped == "optimizer"
    assert "CONVERGENCE" in history.message
    np.testing.assert_allclose(
        net.named_parameters()["dense0.weight"][:, 0], np.arange(1.0, 6.0), atol=1e-4
    )
    other = fanin.Network(5, [Dense(1)], loss="squared_error", dtype="f8", rng=0)
    short = fit(other, X, target, LBFGS(), epochs=3, batch_size=None)
    assert (short.stopped, len(short.loss)) == ("epochs", 3)
    assert short.loss == history.loss[:3]


def test_early_stopping_time_and_ctrl_c_end_such_a_loop():
    X, y = data()
    net = classifier()
    stopping = EarlyStopping(1, monitor="validation_script", mode="min")
    kept = []
    history = fit(
        net,
        X,
        y,
        Descent(),
        epochs=9,
        batch_size=None,
        validation=(X, y),
        metrics=scripted([2.0, 1.0, 3.0]),
        early_stopping=stopping,
        callbacks=lambda s: kept.append(s.network.parameters.copy()),
    )
    assert (history.stopped, history.best_epoch) == ("early_stopping", 2)
    np.testing.assert_array_equal(net.parameters, kept[1])

    kept.clear()
    wait = lambda s: (kept.append(s.network.parameters.copy()), time.sleep(0.05))  # noqa: E731
    history = fit(
        net,
        X,
        y,
        Descent(),
        epochs=99,
        batch_size=None,
        time_limit=0.12,
        callbacks=wait,
    )
    assert history.stopped == "time_limit"
    assert 1 <= len(history.loss) <= 3
    np.testing.assert_array_equal(net.parameters, kept[-1])

    def interrupt(state):
        if state.epoch == 2:
            kept.append(state.network.parameters.copy())
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted in epoch 3"):
        history = fit(
            net, X, y, Descent(), epochs=9, batch_size=None, callbacks=interrupt
        )
    np.testing.assert_array_equal(net.parameters, kept[-1])
    assert len(history.loss) == 2
    with pytest.raises(ValueError, match="resume holds no state to continue from"):
        fit(net, X, y, Descent(), batch_size=None, resume=history)
    history = fit(net, X, y, Descent(2), epochs=9, batch_size=None)
    assert (history.stopped, history.message) == ("optimizer", "that was all")


def test_such_a_loop_is_refused_batches_and_names_what_is_not_finite():
    X, y = data(60)
    with pytest.raises(ValueError, match="Descent needs all 60 samples in one batch"):
        fit(classifier(), X, y, Descent(), batch_size=16)
    net = classifier()
    before = net.parameters.copy()
    X[33, 2] = np.inf
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, batch 1: .* is X, inf at \[33, 2\]"
    ):
        fit(net, X, y, Descent(), batch_size=None)
    np.testing.assert_array_equal(net.parameters, before)
    adam = Adam(0.01)
    history = fit(net, X[:30], y[:30], adam)
    with pytest.raises(ValueError, match="Descent cannot resume"):
        fit(net, X[:30], y[:30], Descent(), batch_size=None, epochs=9, resume=history)


# --- memory -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": False},
        {"validation_fraction": 0.2, "metrics": "accuracy", "training_metrics": True},
        {
            "early_stopping": EarlyStopping(1, monitor="loss"),
            "class_weight": "balanced",
        },
        {"optimizer": Descent(), "batch_size": None, "validation_fraction": 0.5},
        {"resume": True, "validation_fraction": 0.2},
    ],
    ids=["plain", "in order", "held out", "weights", "full batch", "resumed"],
)
def test_a_memory_map_is_never_copied(tmp_path, options):
    """Memory grows with the number of samples, not with their size (64 MB here)."""
    n, n_in = 40_000, 400
    path = tmp_path / "X.f4"
    rng = np.random.default_rng(0)
    made = np.memmap(path, np.float32, "w+", shape=(n, n_in))
    for start in range(0, n, 4000):
        made[start : start + 4000] = rng.standard_normal((4000, n_in), np.float32)
    made.flush()
    del made
    X = np.memmap(path, np.float32, "r", shape=(n, n_in))
    y = rng.integers(0, 3, n)
    net = classifier(n_in=n_in, dtype=np.float32, cls=Repeating)
    options = {"optimizer": Adam(), "epochs": 2, "batch_size": 500} | options
    if options.get("resume"):
        options["resume"] = fit(net, X, y, **options | {"epochs": 1, "resume": None})
    tracemalloc.start()
    try:
        fit(net, X, y, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Blocks of 8 MB, and some vectors of one number a sample.
    assert peak < 8 * 2**20 + 12 * 8 * n + 2**20
    assert X.nbytes > 3.9 * peak or X.nbytes - peak > 40e6
    with pytest.raises(ValueError, match="read-only"):
        X[0, 0] = 0.0


def test_a_batch_allocates_nothing_of_data_size():
    X, y = data(4000, n_in=50)
    net = classifier(n_in=50)
    peaks = []

    def watch(state):
        if state.batch > 1:
            peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        base[0] = tracemalloc.get_traced_memory()[0]

    base = [0]
    tracemalloc.start()
    try:
        fit(
            net,
            X,
            y,
            epochs=1,
            batch_size=500,
            callbacks=types.SimpleNamespace(on_batch_end=watch),
        )
    finally:
        tracemalloc.stop()
    assert len(peaks) == 7
    assert max(peaks[1:]) - base[0] < 10_000


# --- History ------------------------------------------------------------------------


def full_history():
    X, y = data()
    return fit(
        classifier(),
        X,
        y,
        epochs=4,
        validation_fraction=0.25,
        metrics="accuracy",
        training_metrics=True,
        early_stopping=2,
        callbacks=lambda s: setattr(s.optimizer, "learning_rate", 0.01 / s.epoch),
    )


def test_a_history_goes_through_json():
    history = full_history()
    text = json.dumps(history.to_dict(), allow_nan=False)
    read = fanin.History.from_dict(json.loads(text))
    assert read == history
    assert repr(read) == repr(history)
    odd = fanin.History(
        loss=[math.inf, -math.inf],
        metrics={"m": [math.nan]},
        stopped="diverged",
        message="the loss is inf",
        batches=3,
    )
    read = fanin.History.from_dict(
        json.loads(json.dumps(odd.to_dict(), allow_nan=False))
    )
    assert read.loss == odd.loss
    assert math.isnan(read.metrics["m"][0])
    assert (read.stopped, read.message, read.batches) == ("diverged", odd.message, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "other"}, ValueError, "'format' must be 'fanin.History'"),
        ({"version": 2}, ValueError, "'version' must be 1; got 2"),
        ({"extra": 1}, ValueError, "has unknown 'extra'"),
        ({"_checkpoint": 1}, ValueError, "has unknown '_checkpoint'"),
        ({"loss": 3}, TypeError, "'loss' must be a list; got int"),
        ({"loss": ["0.5"]}, ValueError, r"loss\[0\] must be a number"),
        ({"loss": [True]}, TypeError, r"loss\[0\] must be a real number"),
        ({"metrics": []}, TypeError, "'metrics' must be a dict"),
        ({"metrics": {3: []}}, TypeError, "a name in 'metrics' must be a string"),
        ({"n_steps": [-1]}, ValueError, r"n_steps\[0\] must be at least 0"),
        ({"best_epoch": 0}, ValueError, "best_epoch must be at least 1"),
        ({"stopped": "tired"}, ValueError, "stopped must be one of"),
        ({"message": 3}, TypeError, "'message' must be a string"),
        ({"batches": 0.5}, TypeError, "batches must be an integer"),
    ],
)
def test_a_dictionary_that_is_no_history_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        fanin.History.from_dict(fanin.History(loss=[1.0]).to_dict() | change)


def test_a_dictionary_that_lacks_something_is_refused():
    found = fanin.History().to_dict()
    del found["seconds"]
    with pytest.raises(ValueError, match="lacks 'seconds'"):
        fanin.History.from_dict(found)
    with pytest.raises(TypeError, match=r"from_dict needs a dict.*got list"):
        fanin.History.from_dict([])


def test_the_plot_shows_every_curve():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    history = full_history()
    figure = history.plot(figure=Figure())
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert list(panels) == ["loss", "accuracy", "learning rate"]
    for title, training in (
        ("loss", history.loss),
        ("accuracy", history.metrics["accuracy"]),
    ):
        lines = {line.get_label(): line for line in panels[title].lines}
        assert list(lines) == ["training", "validation", "best epoch"]
        assert lines["training"].get_ydata().tolist() == training
        assert lines["training"].get_xdata().tolist() == [1, 2, 3, 4]
        assert lines["best epoch"].get_xdata()[0] == history.best_epoch
    rates = panels["learning rate"].lines[0].get_ydata()
    assert rates.tolist() == history.learning_rate
    figure.savefig(Path(os.devnull), format="png")
    with pytest.raises(ValueError, match="no whole epoch"):
        fanin.History().plot()


def test_the_plot_makes_a_figure_of_pyplots_own():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    figure = fanin.History(loss=[2.0, 1.0]).plot()
    assert len(pyplot.get_fignums()) == len(before) + 1
    assert [line.get_label() for line in figure.axes[0].lines] == ["training"]
    pyplot.close(figure)


def test_the_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "fanin\[plot\]"'):
        fanin.History(loss=[1.0]).plot()


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_loss_that_ctrl_c_hid_is_in_the_history(batch_size):
    """The signal comes when the step has been taken and its loss is on its way."""

    def train(stop_after):
        net = fanin.Network(
            3, [Dense(4, "tanh"), Dense(1)], loss="squared_error", rng=0
        )
        rng = np.random.default_rng(1)
        X, y = rng.standard_normal((60, 3)), rng.standard_normal(60)
        adam = fanin.optimizers.Adam(0.01)
        options = {"optimizer": adam, "epochs": 4, "batch_size": batch_size}
        step, calls = net._step, 0

        def interrupted(*args):
            nonlocal calls
            loss = step(*args)
            calls += 1
            if calls == stop_after:
                raise KeyboardInterrupt
            return loss

        net._step = interrupted
        if stop_after == 0:
            return net.fit(X, y, rng=0, **options), net
        with pytest.warns(RuntimeWarning, match="interrupted"):
            history = net.fit(X, y, rng=0, **options)
        return net.fit(X, y, resume=history, **options), net

    whole, expected = train(0)
    for stop_after in (1, 2, 3, 4):
        history, net = train(stop_after)
        assert history.loss == pytest.approx(whole.loss, rel=1e-12)
        np.testing.assert_array_equal(net.parameters, expected.parameters)
