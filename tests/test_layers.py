"""The layers of a network beside Dense: as declared, in training and in inference."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest

import fanin
from fanin.layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    RMSNorm,
)


def make(*layers, dtype=np.float64, rng=0, loss="softmax_cross_entropy", **kwargs):
    """A network of these layers between two dense ones, and a batch for it."""
    net = fanin.Network(
        5, [Dense(8, "tanh"), *layers, Dense(3)], loss=loss, dtype=dtype, rng=rng,
        **kwargs)  # fmt: skip
    source = np.random.default_rng(1)
    return net, source.standard_normal((40, 5)), source.integers(0, 3, 40)


EVERY = [
    (BatchNorm(),),
    (BatchNorm(affine=False), Activation("relu")),
    (LayerNorm(), Dropout(0.2)),
    (RMSNorm(), Activation(fanin.activations.LeakyReLU(0.1))),
    (Dropout(0.5), Dropout(0.1), BatchNorm(momentum=1.0)),
    (Dense(4, "gelu"), LayerNorm(affine=False), Dense(6, "silu")),
]


@pytest.mark.parametrize("layers", EVERY, ids=repr)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_gradient_check_says_correct(layers, training, dtype):
    net, X, y = make(*layers, dtype=dtype)
    state = net._snapshot()
    report = net.check_gradient(X, y, training=training)
    assert report.verdict == "correct", report
    for before, after in zip(state, net._snapshot(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_wrong_gradient_of_gamma_is_named():
    net, X, y = make(BatchNorm(), Dropout(0.3))
    _, gradient = net.loss_and_gradient(X, y, training=True)
    net.unflatten(gradient)["batch_norm1.gamma"][...] *= -1
    report = net.check_gradient(X, y, gradient=gradient)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].name.startswith("batch_norm1.gamma")


def test_what_a_layer_is_called_and_starts_as():
    net, *_ = make(BatchNorm(), LayerNorm(), RMSNorm(), BatchNorm(affine=False))
    shapes = {name: a.shape for name, a in net.named_parameters().items()}
    assert shapes == {
        "dense0.weight": (5, 8),
        "dense0.bias": (8,),
        "batch_norm1.gamma": (8,),
        "batch_norm1.beta": (8,),
        "layer_norm2.gamma": (8,),
        "layer_norm2.beta": (8,),
        "rms_norm3.gamma": (8,),
        "dense5.weight": (8, 3),
        "dense5.bias": (3,),
    }
    for name, array in net.named_parameters().items():
        if "weight" not in name:
            assert np.all(array == (1 if "gamma" in name else 0)), name
    buffers = net.named_buffers()
    assert list(buffers) == [
        "batch_norm1.running_mean",
        "batch_norm1.running_var",
        "batch_norm4.running_mean",
        "batch_norm4.running_var",
    ]
    for name, array in buffers.items():
        assert np.all(array == ("var" in name)), name
        assert array.dtype == np.float64


def test_other_layers_leave_the_initial_weights_as_they_are():
    plain, *_ = make()
    dropped, *_ = make(Dropout(0.3), BatchNorm())
    for layer in ("dense0", "dense3"):
        name = f"{layer}.weight"
        other = name.replace("dense3", "dense1")
        np.testing.assert_array_equal(
            dropped.named_parameters()[name], plain.named_parameters()[other]
        )


# --- batch normalization ----------------------------------------------------------


def test_batch_norm_is_that_of_the_function_and_moves_its_statistics():
    net, X, _ = make(BatchNorm(momentum=0.25))
    A = np.tanh(X @ net.named_parameters()["dense0.weight"])
    mean, var = np.zeros(8), np.ones(8)
    for _ in range(3):
        found = net.forward(X, training=True)
        mean = 0.75 * mean + 0.25 * A.mean(axis=0)
        var = 0.75 * var + 0.25 * A.var(axis=0, ddof=1)
        buffers = net.named_buffers()
        np.testing.assert_allclose(
            buffers["batch_norm1.running_mean"], mean, rtol=1e-13
        )
        np.testing.assert_allclose(buffers["batch_norm1.running_var"], var, rtol=1e-13)
    weight = net.named_parameters()["dense2.weight"]
    Y, _ = fanin.batch_norm(A, running_mean=None, running_var=None, training=True)
    np.testing.assert_allclose(found, Y @ weight, rtol=1e-12, atol=1e-13)
    Y = (A - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(net.forward(X), Y @ weight, rtol=1e-12, atol=1e-13)
    one = net.forward(X[:1])  # which BLAS sums in an order of its own
    np.testing.assert_allclose(one, net.forward(X)[:1], rtol=1e-12, atol=1e-13)


def test_inference_changes_nothing_and_training_that_fails_neither():
    net, X, y = make(BatchNorm(), Dropout(0.5))
    before = net._snapshot()
    net.predict(X)
    net.loss(X, y, training=True)
    net.loss_and_gradient(X, y, training=True)
    net.input_gradient(X, y, training=True)
    net.layer_outputs(X)
    X[3, 2] = np.nan
    with pytest.raises(FloatingPointError, match="X, nan at"):
        net.train_step(X, y, fanin.optimizers.SGD(0.1))
    y[3] = 7
    with pytest.raises(ValueError, match=r"y\[3\] is 7"):
        net.train_step(X, y, fanin.optimizers.SGD(0.1))
    for a, b in zip(before, net._snapshot(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_row_cannot_be_normalized_by_itself():
    net, X, y = make(BatchNorm())
    message = "X has one row: in training, batch normalization needs at least two"
    for call in (
        lambda: net.train_step(X[:1], y[:1], fanin.optimizers.SGD(0.1)),
        lambda: net.forward(X[:1], training=True),
        lambda: net.loss(X[:1], y[:1], training=True),
        lambda: net.check_gradient(X[:1], y[:1]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert net.check_gradient(X[:1], y[:1], training=False).ok


def test_fit_passes_over_a_last_batch_of_one_row():
    net, X, y = make(BatchNorm())
    history = net.fit(
        X, y, optimizer=fanin.optimizers.SGD(0.1), epochs=2, batch_size=13, rng=0
    )
    assert history.n_steps == [3, 6]
    lonely, *_ = make(BatchNorm())
    with pytest.raises(ValueError, match="batch_size"):
        lonely.fit(
            X, y, optimizer=fanin.optimizers.SGD(0.1), epochs=1, batch_size=1, rng=0
        )


def test_a_batch_of_more_rows_than_a_chunk_has_its_own_statistics():
    net = fanin.Network(
        2, [BatchNorm(), Dense(1)], loss="squared_error", dtype=np.float64, rng=0
    )
    rng = np.random.default_rng(0)
    m = 3 * net._plan.chunk_rows + 5
    X = rng.standard_normal((m, 2)) + np.linspace(0, 5, m)[:, np.newaxis]
    Y, _ = fanin.batch_norm(X, training=True)
    weight = net.named_parameters()["dense1.weight"]
    np.testing.assert_allclose(
        net.forward(X, training=True), Y @ weight, rtol=1e-12, atol=1e-12
    )
    dX = net.backward(np.ones((m, 1)))
    # Adding a constant to a feature, or scaling it, changes nothing.
    assert np.abs(dX.sum(axis=0)).max() < 1e-10
    assert np.abs((dX * X).sum(axis=0)).max() < 1e-8


# --- dropout ----------------------------------------------------------------------


def dropped(net, X):
    """Which values the first layer's dropout drops, and by what it scales the rest."""
    tape = net._record(X, True, 1)
    before, after = tape.output(0), tape.output(1)
    kept = after != 0
    return ~kept, (after[kept] / before[kept])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_scales_the_rest(rate, dtype):
    net = fanin.Network(
        3, [Dense(50, "logistic"), Dropout(rate), Dense(1)], loss="squared_error",
        dtype=dtype, rng=0)  # fmt: skip
    X = np.random.default_rng(0).standard_normal((4000, 3))
    gone, scale = dropped(net, X)
    n = gone.size
    assert abs(gone.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    # Rows and columns alike, and no two of them together more often than by chance.
    for axis in (0, 1):
        share = gone.mean(axis=axis)
        spread = np.sqrt(rate * (1 - rate) / gone.shape[axis])
        assert 0.8 < share.std() / spread < 1.25
    np.testing.assert_allclose(scale, 1 / (1 - rate), rtol=4 * np.finfo(dtype).eps)


def test_masks_are_new_each_step_and_the_same_in_between_and_for_any_threads():
    net, X, y = make(Dropout(0.5))
    first = net.loss(X, y, training=True)
    assert net.loss(X, y, training=True) == first
    assert net.loss(X, y, training=True, n_threads=3) == first
    f = net.objective(X, y, training=True)
    assert f(net.parameters)[0] == first
    assert net.train_step(X, y, fanin.optimizers.SGD(1e-12)) == first
    second = net.loss(X, y, training=True)
    assert abs(second - first) > 1e-6
    Z = net.forward(X, training=True)
    assert not np.array_equal(net.forward(X, training=True), Z)


def test_masks_belong_to_the_seed_and_to_the_layer():
    net, X, _ = make(Dropout(0.5), Dropout(0.5))
    tape = net._record(X, True, 1)
    one = tape.output(1) != 0
    both = tape.output(2) != 0
    assert 0.35 < both.sum() / one.sum() < 0.65
    again, *_ = make(Dropout(0.5), Dropout(0.5))
    np.testing.assert_array_equal(again._record(X, True, 1).output(2), tape.output(2))
    other, *_ = make(Dropout(0.5), Dropout(0.5), rng=1)
    assert not np.array_equal(other._record(X, True, 1).output(1) != 0, one)


def test_masks_do_not_depend_on_chunks():
    net = fanin.Network(
        2, [Dense(40), Dropout(0.5)], loss="squared_error", dtype=np.float64, rng=0
    )
    rows = 2 * net._plan.chunk_rows + 77
    X = np.ones((rows, 2))
    whole = net._record(X, True, 1)
    assert whole.output(1) is None  # too many to be kept
    out = np.empty((rows, 40))
    net._plan.record(
        net.parameters, X, out, None, True, net._dropout_key, net._draw, False
    )
    part = net._record(X[:1000], True, 1).output(1)
    np.testing.assert_array_equal(out[:1000], part)
    kept = out[net._plan.chunk_rows :][:1000] != 0
    assert 0.45 < (kept == (part != 0)).mean() < 0.55


def test_dropout_does_nothing_in_inference():
    with_dropout, X, _ = make(Dropout(0.9))
    without, *_ = make()
    np.testing.assert_array_equal(with_dropout.forward(X), without.forward(X))
    only = fanin.Network(5, [Dropout(0.5)], loss="squared_error", dtype=np.float64)
    assert only.n_parameters == 0
    np.testing.assert_array_equal(only.forward(X), X)


# --- forward and backward as a block ----------------------------------------------


@pytest.mark.parametrize("layers", EVERY, ids=repr)
def test_backward_of_the_loss_is_the_loss_and_gradient(layers):
    net, X, y = make(*layers)
    wanted_value, wanted = net.loss_and_gradient(X, y, training=True)
    wanted_dX = net.input_gradient(X, y, training=True)
    Z = net.forward(X, training=True)
    value, dZ = fanin.losses.evaluate(Z, y, "softmax_cross_entropy")
    assert value == pytest.approx(wanted_value, rel=1e-13)
    Z[...] = np.nan  # the caller's to change
    dX = net.backward(dZ)
    np.testing.assert_allclose(dX, wanted_dX, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(net.gradient, wanted, rtol=1e-12, atol=1e-15)
    out = np.empty_like(X)
    assert net.backward(dZ, out=out) is out
    np.testing.assert_array_equal(out, dX)


def test_backward_over_more_rows_than_a_chunk():
    net = fanin.Network(
        4, [Dense(6, "gelu"), LayerNorm(), Dropout(0.3), Dense(2)],
        loss="squared_error", dtype=np.float64, rng=0)  # fmt: skip
    m = 2 * net._plan.chunk_rows + 100
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((m, 4)), rng.standard_normal((m, 2))
    _, wanted = net.loss_and_gradient(X, y, training=True)
    wanted_dX = net.input_gradient(X, y, training=True)
    Z = net.forward(X, training=True)
    dX = net.backward((Z - y) / m)
    np.testing.assert_allclose(net.gradient, wanted, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(dX, wanted_dX, rtol=1e-10, atol=1e-18)


def test_two_networks_as_one():
    whole, X, y = make(Dense(7, "relu"), LayerNorm())
    first = fanin.Network(
        5, whole.layers[:2], loss="squared_error", dtype=np.float64, rng=3
    )
    second = fanin.Network(
        7, whole.layers[2:], loss="softmax_cross_entropy", dtype=np.float64, rng=4
    )
    first.parameters = whole.parameters[: first.n_parameters]
    second.parameters = whole.parameters[first.n_parameters :]
    A = first.forward(X)
    assert second.loss(A, y) == pytest.approx(whole.loss(X, y), rel=1e-14)
    dX = first.backward(second.input_gradient(A, y))
    np.testing.assert_allclose(dX, whole.input_gradient(X, y), rtol=1e-12, atol=1e-17)
    wanted = whole.loss_and_gradient(X, y)[1][: first.n_parameters]
    np.testing.assert_allclose(first.gradient, wanted, rtol=1e-12, atol=1e-16)


def test_backward_needs_a_forward_and_a_gradient_that_fits():
    net, X, y = make()
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(np.ones((40, 3)))
    net.forward(X)
    with pytest.raises(
        ValueError, match=r"dA must have shape \(40, 3\); got \(40, 2\)"
    ):
        net.backward(np.ones((40, 2)))
    with pytest.raises(TypeError, match="dA"):
        net.backward(np.ones((40, 3), complex))
    with pytest.raises(ValueError, match="out"):
        net.backward(np.ones((40, 3)), out=np.empty((40, 4)))
    net.train_step(X, y, fanin.optimizers.SGD(0.1))
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(np.ones((40, 3)))
    net.forward(X)
    with pytest.raises(ValueError, match="overlaps X"):
        net.backward(np.ones((40, 3)), out=X)
    net.forward(X[:20])
    with pytest.raises(ValueError, match="gradient overlaps dA"):
        net.backward(net.gradient[:60].reshape(20, 3))
    net.forward(X[:0])
    assert net.backward(np.ones((0, 3))).shape == (0, 5)
    assert not net.gradient.any()


def test_the_objective_is_what_scipy_minimizes():
    optimize = pytest.importorskip("scipy.optimize")
    net, X, y = make(Activation("tanh"), l2=0.1)
    f = net.objective(X, y)
    before = net.parameters.copy()
    result = optimize.minimize(f, net.parameters, jac=True, method="L-BFGS-B")
    np.testing.assert_array_equal(net.parameters, before)
    assert result.fun < 0.7 * net.loss(X, y)
    assert np.abs(result.jac).max() < 1e-4
    net.parameters = result.x
    assert net.loss(X, y) == pytest.approx(result.fun, rel=1e-14)
    single, *_ = make(dtype=np.float32)
    value, gradient = single.objective(X, y)(single.parameters.astype(float))
    assert gradient.dtype == np.float64
    assert value == single.loss_and_gradient(X, y)[0]
    with pytest.raises(ValueError, match="theta must have shape"):
        f(before[:-1])


def test_with_momentum_1_nothing_is_left_of_earlier_statistics():
    """Of a variance of 1e-12 beside one of 1, a difference would keep 4 digits."""
    layers = [BatchNorm(momentum=1.0), Dense(1)]
    net = fanin.Network(2, layers, loss="squared_error", dtype=np.float64)
    X = 1e-6 * np.random.default_rng(0).standard_normal((40, 2))
    net.forward(X, training=True)
    found = net.named_buffers()
    np.testing.assert_allclose(
        found["batch_norm0.running_var"], X.var(axis=0, ddof=1), rtol=1e-14
    )
    np.testing.assert_allclose(
        found["batch_norm0.running_mean"], X.mean(axis=0), rtol=1e-12
    )


# --- penalty and weights ----------------------------------------------------------


def test_the_gradient_of_a_block_is_without_the_penalty():
    """A gradient that is given may be that of anything: the penalty is the loss's."""
    X, dA = np.ones((4, 5)), np.ones((4, 3))
    found = []
    for l2 in (0.0, 0.5):
        net, *_ = make(Activation("tanh"), l2=l2)
        net.forward(X)
        found.append((net.backward(dA), net.gradient.copy()))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_the_penalty_is_half_the_squares_of_the_weights():
    layers = [Dense(6, "tanh", l2=0.5), BatchNorm(), Dense(4, l2=0.0), Dense(3)]
    net = fanin.Network(
        5, layers, loss="softmax_cross_entropy", l2=0.25, dtype=np.float64, rng=0
    )
    plain = fanin.Network(
        5, [Dense(6, "tanh"), *layers[1:2], Dense(4), Dense(3)],
        loss="softmax_cross_entropy", dtype=np.float64, rng=0)  # fmt: skip
    _, X, y = make()
    named = net.named_parameters()
    penalty = 0.25 * (named["dense0.weight"] ** 2).sum()
    penalty += 0.125 * (named["dense3.weight"] ** 2).sum()
    value, gradient = net.loss_and_gradient(X, y)
    bare, expected = plain.loss_and_gradient(X, y)
    assert value == pytest.approx(bare + penalty, rel=1e-14)
    assert net.loss(X, y) == value
    slopes = plain.unflatten(expected)
    slopes["dense0.weight"] += 0.5 * named["dense0.weight"]
    slopes["dense3.weight"] += 0.25 * named["dense3.weight"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-13, atol=1e-16)
    assert net.check_gradient(X, y).ok


@pytest.mark.parametrize("layers", [(), (LayerNorm(), Dropout(0.0))], ids=repr)
def test_a_weight_of_two_equals_a_repeated_row(layers):
    net, X, y = make(*layers)
    weight = np.random.default_rng(2).integers(0, 4, 40)
    rows = np.repeat(np.arange(40), weight)
    value, gradient = net.loss_and_gradient(X, y, sample_weight=weight)
    other, wanted = net.loss_and_gradient(X[rows], y[rows])
    assert value == pytest.approx(other, rel=1e-14)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-16)
    assert net.check_gradient(X, y, sample_weight=weight).ok
    one, two = make(*layers)[0], make(*layers)[0]
    adam = fanin.optimizers.Adam
    assert one.train_step(X, y, adam(), weight) == pytest.approx(value, rel=1e-14)
    two.train_step(X[rows], y[rows], adam())
    np.testing.assert_allclose(one.parameters, two.parameters, rtol=1e-9, atol=1e-9)


def test_bad_weights_are_named():
    net, X, y = make()
    for weight, message in (
        (np.ones(39), r"sample_weight must have shape \(40,\)"),
        (-np.ones(40), "must be finite and not negative"),
        (np.full(40, np.nan), "must be finite and not negative"),
        (np.zeros(40), "positive, finite sum"),
    ):
        before = net.parameters.copy()
        with pytest.raises(ValueError, match=message):
            net.train_step(X, y, fanin.optimizers.SGD(0.1), weight)
        np.testing.assert_array_equal(net.parameters, before)


# --- declarations -----------------------------------------------------------------


def test_copies_train_alike():
    net, X, y = make(BatchNorm(), Dropout(0.4))
    net.train_step(X, y, fanin.optimizers.SGD(0.1))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.loss(X, y, training=True) == net.loss(X, y, training=True)
        np.testing.assert_array_equal(other.forward(X), net.forward(X))
    other.train_step(X, y, fanin.optimizers.SGD(0.1))
    net.train_step(X, y, fanin.optimizers.SGD(0.1))
    np.testing.assert_array_equal(other.parameters, net.parameters)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Dropout(1.0), ValueError, "rate must be"),
        (lambda: Dropout(-0.1), ValueError, "rate must be"),
        (lambda: Dropout("0.5"), TypeError, "rate"),
        (lambda: BatchNorm(momentum=0.0), ValueError, "momentum must be"),
        (lambda: BatchNorm(eps=-1.0), ValueError, "eps must be"),
        (lambda: BatchNorm(affine=1), TypeError, "affine must be True or False"),
        (lambda: LayerNorm(eps=np.nan), ValueError, "eps must be"),
        (lambda: RMSNorm(affine="yes"), TypeError, "affine must be True or False"),
        (lambda: Activation("softmax"), ValueError, "activation must be one of"),
        (lambda: Activation(max), TypeError, "activation must be a name"),
        (lambda: Dense(3, "swish"), ValueError, "activation must be one of"),
        (lambda: Dense(3, l2=-1.0), ValueError, "l2 must be"),
        (
            lambda: fanin.Network(3, BatchNorm(), loss="squared_error"),
            TypeError,
            "layers must be a sequence of layers; got one BatchNorm",
        ),
        (
            lambda: fanin.Network(3, [Layer()], loss="squared_error"),
            TypeError,
            "use a subclass of Layer",
        ),
        (
            lambda: fanin.Network(3, [Dense(1)], loss="squared_error", l2=-0.1),
            ValueError,
            "l2 must be",
        ),
    ],
)
def test_bad_declarations_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_parameters_must_be_finite():
    net, *_ = make()
    before = net.parameters.copy()
    values = before.copy()
    values[45] = np.inf
    with pytest.raises(ValueError, match=r"finite; got inf at 45, in dense0\.bias"):
        net.parameters = values
    np.testing.assert_array_equal(net.parameters, before)


def test_the_penalty_is_added_once_whatever_the_number_of_chunks():
    net = fanin.Network(
        2, [Dense(3, "tanh"), Dense(1)], loss="squared_error", l2=0.7,
        dtype=np.float64, rng=0)  # fmt: skip
    X = np.random.default_rng(0).standard_normal((50, 2))
    y = X.sum(axis=1)
    value, gradient = net.loss_and_gradient(X, y)
    times = 1 + 2 * net._plan.chunk_rows // 50
    many, found = net.loss_and_gradient(np.tile(X, (times, 1)), np.tile(y, times))
    assert many == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(found, gradient, rtol=1e-11, atol=1e-14)


def test_backward_is_refused_after_the_parameters_were_put_back():
    net, X, _ = make()
    kept = net._snapshot()
    net.forward(X)
    net._restore(kept)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(np.ones((40, 3)))


def test_gradients_do_not_go_where_the_weights_are():
    net, X, y = make()
    out = np.ones(net.n_parameters)
    with pytest.raises(ValueError, match="overlaps sample_weight"):
        net.loss_and_gradient(X, y, out, sample_weight=out[:40])
    dX = np.ones((40, 5))
    with pytest.raises(ValueError, match="overlaps sample_weight"):
        net.input_gradient(X, y, out=dX, sample_weight=dX.ravel()[:40])


def test_a_tape_in_a_cycle_is_collected():
    """Cleared before it is freed, a tape would give its memory to no plan."""
    net, X, _ = make()

    class Holder:
        pass

    for _ in range(5):
        tape = net._record(X, False, 1)
        holder = Holder()
        holder.tape, holder.own, tape = tape, holder, None
        frames = [holder]
        frames.append(frames)
        del holder, frames
        gc.collect()
    assert net.forward(X).shape == (40, 3)


def test_an_unaligned_theta_is_read_all_the_same():
    net, X, y = make()
    raw = np.zeros(net.parameters.nbytes + 1, np.uint8)
    theta = raw[1:].view(np.float64)
    theta[...] = net.parameters
    value, gradient = net.objective(X, y)(theta)
    wanted, right = net.loss_and_gradient(X, y)
    assert value == wanted
    np.testing.assert_array_equal(gradient, right)


def test_divergence_names_the_layer_of_a_batch_of_many_chunks():
    net = fanin.Network(
        2, [Dense(3), Activation("relu"), Dense(1)], loss="squared_error", rng=0
    )
    rows = 2 * net._plan.chunk_rows
    X = np.ones((rows, 2), np.float32)
    X[rows - 5] = 3e38
    net.named_parameters()["dense0.weight"][...] = 2
    with pytest.raises(FloatingPointError, match=rf"dense0, inf at \[{rows - 5}, 0\]"):
        net.train_step(X, np.zeros(rows), fanin.optimizers.SGD(0.1))


def test_sizes_beyond_an_integer_are_refused():
    wide = Dense(2**31 - 1, bias=False)
    with pytest.raises(ValueError, match="more than 1e18 parameters"):
        fanin.Network(2**31 - 1, [wide] * 4, loss="squared_error")
