"""A monitor sees the training, warns of it, and does not change it."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest

import fanin
from fanin import layers
from fanin.callbacks import Monitor

Dense = layers.Dense


def data(n=240, n_features=10, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_features))
    return X, (X @ rng.standard_normal((n_features, 3))).argmax(1)


def make(activation="relu", depth=3, width=20, seed=0, n_inputs=10):
    hidden = [Dense(width, activation) for _ in range(depth)]
    return fanin.Network(
        n_inputs, [*hidden, Dense(3)], loss="softmax_cross_entropy", rng=seed
    )


def fit(net, X, y, callbacks=(), *, epochs=6, optimizer=None, **more):
    return net.fit(
        X,
        y,
        optimizer=optimizer or fanin.optimizers.Adam(),
        epochs=epochs,
        batch_size=24,
        callbacks=callbacks,
        **({"rng": 1} | more if "resume" not in more else more),
    )


def test_it_records_every_k_epochs_and_the_start() -> None:
    X, y = data()
    monitor, net = Monitor(X, y, every=2), make()
    start = net.diagnose(X, y)
    fit(net, X, y, monitor, epochs=5)
    assert list(monitor.reports) == monitor.epochs.tolist() == [0, 2, 4]
    assert monitor.reports[0].to_dict() == start.to_dict()
    for table, field in (
        (monitor.forward_growth, "forward_growth"),
        (monitor.backward_growth, "backward_growth"),
        (monitor.dead, "dead"),
        (monitor.saturated, "saturated"),
        (monitor.weight_gradient_norm, "weight_gradient_norm"),
    ):
        expected = [
            [getattr(r, field) for r in monitor.reports[e].layers] for e in (0, 2, 4)
        ]
        np.testing.assert_array_equal(table, expected)
    assert monitor.forward_growth.shape == (3, 4)
    assert repr(monitor) == "Monitor(every=2, 3 reports)"
    assert Monitor(X).dead.shape == (0, 0)
    assert fanin.callbacks.Monitor is Monitor


@pytest.mark.parametrize("training", [False, True])
def test_training_is_the_same_with_it_and_without(training: bool) -> None:
    X, y = data()

    def run(callbacks):
        net = fanin.Network(
            10,
            [Dense(20), layers.BatchNorm(), layers.Activation("relu"),
             layers.Dropout(0.3), Dense(20, "tanh"), Dense(3)],
            loss="softmax_cross_entropy",
            rng=0,
        )  # fmt: skip
        optimizer = fanin.optimizers.Adam(0.01)
        history = fit(net, X, y, callbacks, optimizer=optimizer)
        fit(net, X, y, (), optimizer=optimizer, epochs=8, resume=history)
        return net, history

    (net, history), (other, plain) = run(Monitor(X, y, training=training)), run(())
    assert history.loss == plain.loss
    np.testing.assert_array_equal(net.parameters, other.parameters)
    np.testing.assert_array_equal(net.gradient, other.gradient)
    for name, array in net.named_buffers().items():
        np.testing.assert_array_equal(array, other.named_buffers()[name])


def test_a_new_fit_starts_afresh_and_a_resumed_one_goes_on() -> None:
    X, y = data()
    monitor, net, adam = Monitor(X, y), make(), fanin.optimizers.Adam()
    history = fit(net, X, y, monitor, epochs=2, optimizer=adam)
    monitor = pickle.loads(pickle.dumps(monitor))
    fit(net, X, y, monitor, epochs=4, optimizer=adam, resume=history)
    assert monitor.epochs.tolist() == [0, 1, 2, 3, 4]
    fit(make(), X, y, monitor, epochs=1)
    assert monitor.epochs.tolist() == [0, 1]


def test_it_warns_of_what_is_wrong_from_the_start_once() -> None:
    X, y = data()
    net = make(depth=30)
    for i in range(30):
        net.named_parameters()[f"dense{i}.weight"][...] *= 0.5
    with pytest.warns(fanin.SignalWarning) as caught:
        fit(net, X, y, Monitor(X, y), epochs=3)
    (message,) = {str(w.message) for w in caught if "gradients" in str(w.message)}
    assert message.startswith("before training: gradients shrink by 0.")
    assert len([w for w in caught if "gradients" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net, X, y, Monitor(X, y, warn=False), epochs=1)


def test_healthy_training_warns_of_nothing() -> None:
    X, y = data()
    for activation in ("relu", "tanh"):
        for seed in range(4):
            net = make(activation, seed=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                fit(net, X, y, Monitor(X, y), epochs=25)


def test_it_can_be_called_by_hand() -> None:
    X, y = data()
    net = make()
    state = fanin.callbacks.TrainingState(net, None, fanin.History(), 4, 1)
    monitor = Monitor(X, y, every=3)
    assert monitor.on_train_begin(state) is None
    for state.epoch in (1, 2, 3, 4):
        assert monitor.on_epoch_end(state) is None
    assert monitor.on_train_end(state) is None
    assert fanin.callbacks.Callback().on_train_end(state) is None
    assert monitor.epochs.tolist() == [0, 3]


class Push:
    """Stand-in for what training may do to a network, epoch by epoch."""

    def __init__(self, change) -> None:
        self.change = change

    def on_epoch_end(self, state) -> None:
        self.change(state.network.named_parameters(), state.epoch)


def push(change, net, epochs=8, **options):
    """Return the warnings of a run in which `change` is made after each epoch."""
    X, y = data()
    monitor = Monitor(X, y, **options)
    still = fanin.optimizers.SGD(1e-9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(net, X, y, [Push(change), monitor], epochs=epochs, optimizer=still)
    assert {w.category for w in caught} <= {fanin.SignalWarning}
    return [str(w.message) for w in caught], monitor


def test_dying_units_are_told_before_they_are_dead() -> None:
    net = make(width=100)

    def change(P, epoch):
        P["dense1.bias"][: 5 * epoch] = -100

    said, monitor = push(change, net, epochs=14)
    (first, *_) = said
    assert "units of dense1 are dying" in first
    when = int(first.split()[2].rstrip(":"))
    share = monitor.dead[:, 1]
    bound = 0.5 + 0.15
    assert share[when] < bound < share[-1]
    assert len([m for m in said if "dense1" in m]) == 1
    # It is right about when, to an epoch.
    reached = int(np.argmax(share > bound))
    left = int(first.split(" epochs at that rate")[0].split()[-1])
    assert abs(when + left - reached) <= 1


@pytest.mark.parametrize("factor", [0.85, 1.18])
def test_gradients_that_grow_or_shrink_are_told_before_the_limit(factor) -> None:
    net = make("identity", depth=6, width=60)

    def change(P, epoch):
        for i in range(1, 6):
            P[f"dense{i}.weight"][...] *= factor

    said, monitor = push(change, net, epochs=9)
    kind = "vanish" if factor < 1 else "explode"
    first = next(m for m in said if "on their way" in m)
    assert f"gradients {kind} on their way to dense0" in first
    when = int(first.split()[2].rstrip(":"))
    growth = np.cumprod(monitor.backward_growth[:, -2::-1], axis=1)[:, -1]
    sign = math.copysign(1, math.log(factor))
    reached = int(np.argmax(sign * np.log(growth) > math.log(100)))
    assert 0 < when < reached
    left = int(first.split("; in ")[1].split()[0])
    assert abs(when + left - reached) <= 1


def test_a_gradient_norm_that_grows_is_told() -> None:
    X, y = data()
    net = fanin.Network(10, [Dense(1)], loss="squared_error", rng=0)
    monitor = Monitor(X, y)
    largest = np.linalg.eigvalsh(X.T @ X / len(X))[-1]
    # Beyond 2 / curvature gradient descent diverges, by a factor each step.
    descent = fanin.optimizers.SGD(1.9 / largest)
    with pytest.warns(fanin.SignalWarning, match="the gradient grows by") as caught:
        net.fit(
            X,
            y,
            optimizer=descent,
            epochs=12,
            batch_size=None,
            callbacks=monitor,
            rng=0,
        )
    when = int(str(caught[0].message).split()[2].rstrip(":"))
    norms = monitor.weight_gradient_norm[:, 0]
    assert norms[when] < 100 * norms[0] < norms[-1] * 1e3
    assert norms[-1] > norms[when]


def test_a_falling_loss_is_no_vanishing_gradient() -> None:
    X, y = data()
    net = make("tanh")
    monitor = Monitor(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net, X, y, monitor, epochs=60, optimizer=fanin.optimizers.Adam(0.02))
    norms = monitor.weight_gradient_norm[:, -1]
    assert norms[-1] < norms[0] / 20


def test_what_steps_have_led_to_is_no_matter_of_the_scale() -> None:
    X, y = data()
    net = make("tanh", width=40)
    monitor = Monitor(X, y)
    with pytest.warns(fanin.SignalWarning, match="saturated units") as caught:
        fit(net, X, y, monitor, epochs=2, optimizer=fanin.optimizers.Adam(1.0))
    said = [str(w.message) for w in caught]
    assert all("use scale" not in message for message in said)
    assert any("a smaller learning rate, or clip_norm" in message for message in said)
    # Shown where fit is called.
    assert {w.filename for w in caught} == {__file__}
    # Asked without the start, it cannot know.
    assert "use scale 1 for tanh" in repr(net.diagnose(X, y))


def test_a_run_that_diverged_is_not_called_healthy() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    X, y = data()
    for how in ("raise", "stop"):
        monitor, net = Monitor(X, y), make()
        options = {"optimizer": fanin.optimizers.SGD(1e30), "on_divergence": how}
        if how == "raise":
            with pytest.raises(FloatingPointError, match="learning rate, or the optim"):
                fit(net, X, y, monitor, **options)
        else:
            with pytest.warns(RuntimeWarning, match="diverged: .*clip_norm"):
                fit(net, X, y, monitor, **options)
        title = monitor.plot(figure=Figure()).get_suptitle()
        end = "did not come to its end" if how == "raise" else "before training diverg"
        assert title.startswith("As made")
        assert end in title.replace("\n", " ")
    X[3, 2] = np.nan
    with pytest.raises(FloatingPointError, match="is X, nan") as failure:
        fit(make(), X, y)
    assert "learning rate" not in str(failure.value)


def test_a_way_back_to_level_is_not_extrapolated() -> None:
    net = make("identity", depth=6, width=60)
    for i in range(1, 6):
        net.named_parameters()[f"dense{i}.weight"][...] *= 0.5

    def change(P, epoch):
        for i in range(1, 6):
            P[f"dense{i}.weight"][...] *= 1.3

    said, monitor = push(change, net, epochs=3)
    logs = np.log(monitor.backward_growth[:, :-1]).sum(axis=1)
    assert logs[0] < 0 < logs[-1]
    assert not any("on their way" in message for message in said)


def test_units_of_bounded_functions_do_not_die() -> None:
    net = make("tanh", width=100)

    def change(P, epoch):
        P["dense1.bias"][: 4 * epoch] = -100

    said, monitor = push(change, net, epochs=14)
    assert monitor.dead[-1, 1] > 0.5
    assert not any("dying" in message for message in said)


def test_spaced_reports_count_in_epochs() -> None:
    net = make(width=100)

    def change(P, epoch):
        P["dense1.bias"][: 3 * epoch] = -100

    said, monitor = push(change, net, epochs=24, every=2)
    first = next(m for m in said if "dying" in m)
    when = int(first.split()[2].rstrip(":"))
    reached = monitor.epochs[int(np.argmax(monitor.dead[:, 1] > 0.65))]
    left = int(first.split(" epochs at that rate")[0].split()[-1])
    assert abs(when + left - reached) <= 3


def test_batch_statistics_are_those_of_the_samples_at_the_start_alone() -> None:
    X, y = data()
    net = fanin.Network(
        10, [Dense(20), layers.BatchNorm(), layers.Activation("relu"), Dense(3)],
        loss="softmax_cross_entropy", rng=0,
    )  # fmt: skip
    monitor = Monitor(X, y)
    fit(net, X, y, monitor, epochs=1)
    notes = [[n.kind for n in monitor.reports[e].notes] for e in (0, 1)]
    assert ["batch_statistics" in kinds for kinds in notes] == [True, False]


def test_samples_are_kept_in_part() -> None:
    X, y = data(2000)
    monitor = Monitor(X, y)
    net = make(width=200)
    fit(net, X, y, monitor, epochs=1)
    for record in monitor.reports[1].layers:
        assert record.sample is not None
        assert 1 <= record.sample.size <= 2048
    full = net.diagnose(X, y).layers[0].sample
    assert full is not None
    assert full.shape == (1024, 200)


def test_a_pickle_holds_what_was_recorded() -> None:
    X, y = data()
    activation = fanin.activations.Custom(lambda z: z / 2, lambda z: 0 * z + 0.5)
    net = fanin.Network(
        10, [Dense(20, activation), Dense(3)], loss="softmax_cross_entropy", rng=0
    )
    monitor = Monitor(X, y, every=2)
    fit(net, X, y, monitor, epochs=2)
    copied = pickle.loads(pickle.dumps(monitor))
    assert list(copied.reports) == [0, 2]
    assert copied.reports[2].to_dict() == monitor.reports[2].to_dict()
    np.testing.assert_array_equal(copied.dead, monitor.dead)


def test_wrong_arguments_are_named() -> None:
    X, y = data()
    with pytest.raises(ValueError, match="every must be at least 1"):
        Monitor(X, every=0)
    with pytest.raises(TypeError, match="warn must be True or False"):
        Monitor(X, warn=1)
    with pytest.raises(TypeError, match="training must be True, False or None"):
        Monitor(X, training="yes")
    with pytest.raises(ValueError, match="n_threads"):
        Monitor(X, n_threads=0)
    with pytest.raises(ValueError, match="X must have shape"):
        fit(make(), X, y, Monitor(X[:, :3]))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        fanin.callbacks.Nothing  # noqa: B018
