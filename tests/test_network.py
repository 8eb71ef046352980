"""Network: what it computes, trains, refuses; memory, threads, copies."""

from __future__ import annotations

import copy
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
import reference

import fanin
from fanin import activations
from fanin.layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, RMSNorm
from fanin.optimizers import SGD, Adam

LOSSES = ["squared_error", "softmax_cross_entropy", "binary_cross_entropy"]


def make(loss="softmax_cross_entropy", dtype=np.float64, rng=0, n_outputs=3, **kwargs):
    """A small network and a batch for it."""
    layers = [Dense(8, activation="tanh"), Dense(6, "relu"), Dense(n_outputs)]
    net = fanin.Network(5, layers, loss=loss, dtype=dtype, rng=rng, **kwargs)
    source = np.random.default_rng(1)
    X = source.standard_normal((40, 5))
    if loss == "softmax_cross_entropy":
        y = source.integers(0, n_outputs, 40)
    else:
        y = source.uniform(size=(40, n_outputs))
    return net, X, y


def plan_layers(net):
    return [layer._compiled() for layer in net.layers]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_equal_twin(loss, dtype):
    net, X, y = make(loss, dtype)
    value, gradient = net.loss_and_gradient(X, y)
    exact, wanted, _ = reference.loss_and_gradient(
        plan_layers(net), net.parameters.astype(float), X, y, net.loss_function
    )
    eps = float(np.finfo(dtype).eps)
    assert isinstance(value, float)
    assert gradient.dtype == dtype
    assert value == pytest.approx(exact, rel=64 * eps)
    assert np.linalg.norm(gradient - wanted) <= 64 * eps * np.linalg.norm(wanted)
    out = np.empty_like(gradient)
    assert net.loss_and_gradient(X, y, out=out)[1] is out
    np.testing.assert_array_equal(out, gradient)
    assert net.loss(X, y) == value


@pytest.mark.parametrize("loss", LOSSES)
def test_equals_pytorch(loss):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    net, X, y = make(loss)
    modules = []
    for i, layer in enumerate(net.layers):
        weight = net.named_parameters()[f"dense{i}.weight"]
        linear = torch.nn.Linear(*weight.shape, dtype=torch.float64)
        with torch.no_grad():
            linear.weight[...] = torch.tensor(weight.T.copy())
            linear.bias[...] = torch.tensor(net.named_parameters()[f"dense{i}.bias"])
        modules.append(linear)
        modules.extend(
            {"tanh": [torch.nn.Tanh()], "relu": [torch.nn.ReLU()]}.get(
                layer.activation, []
            )
        )
    model = torch.nn.Sequential(*modules)
    criterion = {
        "squared_error": torch.nn.MSELoss(),
        "binary_cross_entropy": torch.nn.BCEWithLogitsLoss(),
        "softmax_cross_entropy": torch.nn.CrossEntropyLoss(),
    }[loss]
    value = criterion(model(torch.tensor(X)), torch.tensor(y))
    value.backward()
    ours, gradient = net.loss_and_gradient(X, y)
    assert ours == pytest.approx(value.item(), rel=1e-13)
    for i, linear in enumerate(m for m in modules if hasattr(m, "weight")):
        named = net.unflatten(gradient)
        np.testing.assert_allclose(
            named[f"dense{i}.weight"],
            linear.weight.grad.numpy().T,
            rtol=1e-11,
            atol=1e-15,
        )
        np.testing.assert_allclose(
            named[f"dense{i}.bias"], linear.bias.grad.numpy(), rtol=1e-11, atol=1e-15
        )


# --- parameters -------------------------------------------------------------------


def test_named_parameters_are_views_in_order():
    net, _, _ = make()
    named = net.named_parameters()
    assert list(named) == [
        f"dense{i}.{what}" for i in range(3) for what in ("weight", "bias")
    ]
    assert all(np.shares_memory(a, net.parameters) for a in named.values())
    np.testing.assert_array_equal(
        np.concatenate([a.ravel() for a in named.values()]), net.parameters
    )
    named["dense1.bias"][2] = 7.0
    assert 7.0 in net.parameters


def test_initial_weights_follow_the_fan_in_rule():
    net = fanin.Network(
        400,
        [Dense(300, "relu"), Dense(200, "tanh"), Dense(100)],
        loss="squared_error",
        rng=0,
    )
    named = net.named_parameters()
    for i, (scale, fan_in) in enumerate([(2, 400), (1, 300), (1, 200)]):
        weight = named[f"dense{i}.weight"]
        # The variance of n normal values has relative deviation sqrt(2 / n).
        assert weight.var() == pytest.approx(
            scale / fan_in, rel=5 * np.sqrt(2 / weight.size)
        )
        assert not named[f"dense{i}.bias"].any()


def test_init_by_name_by_callable_and_by_seed():
    def ones(shape, *, rng, dtype, out):
        out[...] = 1.0

    net = fanin.Network(
        4,
        [Dense(3, init="he_uniform"), Dense(2, init=ones)],
        loss="squared_error",
        rng=5,
    )
    assert (net.named_parameters()["dense1.weight"] == 1.0).all()
    assert abs(net.named_parameters()["dense0.weight"]).max() <= np.sqrt(6 / 4)
    twin = fanin.Network(
        4,
        [Dense(3, init="he_uniform"), Dense(2, init=ones)],
        loss="squared_error",
        rng=5,
    )
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    net.initialize(rng=6)
    assert (net.parameters != twin.parameters).any()


def scale_of(weight):
    """C in Var(W) = C / n_in."""
    return float(weight.var()) * weight.shape[0]


@pytest.mark.parametrize(
    ("layers", "scales"),
    [
        ([Dense(500, "relu"), Dense(500, "tanh"), Dense(500)], [2, 1, 1]),
        # The activation is a layer of its own, behind others.
        ([Dense(500), Activation("relu"), Dense(500)], [2, 1]),
        (
            [Dense(500), BatchNorm(), Dropout(0.2), Activation("gelu"), Dense(500)],
            [2, 1],
        ),
        ([Dense(500), LayerNorm(), Dense(500, "relu")], [1, 2]),
        ([Dense(500), Activation("identity"), RMSNorm(), Activation("silu")], [2]),
        ([Dense(500), Activation("tanh"), Activation("relu")], [1]),
        ([Dense(500, "tanh"), BatchNorm(), Activation("relu")], [1]),
        ([Dense(500), Dense(500), Activation("relu")], [1, 2]),
        ([Dense(500), Activation(activations.LeakyReLU(0.1))], [2]),
        ([Dense(500, init="lecun_normal"), Activation("relu")], [1]),
        ([Dense(500, init="auto"), Activation("relu")], [2]),
    ],
)
@pytest.mark.parametrize("init", [None, "auto"])
def test_auto_goes_by_the_activation_that_the_output_meets(layers, scales, init):
    options = {} if init is None else {"init": init}
    net = fanin.Network(500, layers, loss="squared_error", rng=3, **options)
    weights = [a for name, a in net.named_parameters().items() if "weight" in name]
    # The variance of n normal values has relative deviation sqrt(2 / n).
    error = 5 * np.sqrt(2 / 500**2)
    found = [scale_of(weight) for weight in weights]
    np.testing.assert_allclose(found, scales, rtol=error)
    for name, array in net.named_parameters().items():
        assert not name.endswith("bias") or not array.any()


def test_the_networks_init_is_for_layers_without_their_own():
    layers = [Dense(5, "relu"), Dense(4, init="auto"), Dense(3, init="zeros")]
    net = fanin.Network(6, layers, loss="squared_error", init="ones", rng=0)
    named = net.named_parameters()
    assert (named["dense0.weight"] == 1).all()
    assert named["dense1.weight"].std() > 0.1
    assert not named["dense2.weight"].any()
    net.parameters[:] = 7
    net.initialize(1)
    assert (named["dense0.weight"] == 1).all()

    def threes(shape, *, rng, dtype, out):
        out[...] = 3

    net = fanin.Network(6, layers, loss="squared_error", init=threes, rng=0)
    assert (net.named_parameters()["dense0.weight"] == 3).all()
    for clone in (copy.deepcopy(net), copy.copy(net)):
        clone.parameters[:] = 7
        clone.initialize(1)
        assert (clone.named_parameters()["dense0.weight"] == 3).all()


def test_pickles_keep_init_and_old_ones_have_auto():
    net = fanin.Network(6, [Dense(4)], loss="squared_error", init="ones", rng=0)
    again = pickle.loads(pickle.dumps(net))
    again.initialize(0)
    assert (again.named_parameters()["dense0.weight"] == 1).all()
    state = net.__getstate__()
    del state["_init"]  # as of before there was the option
    old = fanin.Network.__new__(fanin.Network)
    old.__setstate__(state)
    old.initialize(0)
    twin = fanin.Network(6, [Dense(4)], loss="squared_error", rng=0)
    np.testing.assert_array_equal(old.parameters, twin.parameters)


def test_layers_are_equal_by_their_init():
    assert Dense(3) == Dense(3, init=None) != Dense(3, init="auto")
    assert repr(Dense(3)) == (
        "Dense(units=3, activation='identity', init=None, bias=True, l2=None)"
    )
    init = fanin.initializers.he_normal
    assert Dense(3, init=init) == Dense(3, init=init)
    assert hash(Dense(3, init=init)) == hash(Dense(3, init=init))


def test_parameters_can_be_set():
    net = make()[0]
    theta = net.parameters
    net.parameters = np.arange(net.n_parameters)
    assert net.parameters is theta
    np.testing.assert_array_equal(theta, np.arange(net.n_parameters))
    with pytest.raises(ValueError, match=r"parameters must have shape"):
        net.parameters = np.zeros(3)


# --- forward ----------------------------------------------------------------------


def test_forward_writes_out_or_refuses_it():
    net, X, _ = make(dtype=np.float32)
    wanted = net.forward(X)
    wide = np.zeros((40, 8), np.float32)
    out = wide[:, 2:5]
    assert net.forward(X, out) is out
    np.testing.assert_array_equal(out, wanted)
    assert not wide[:, :2].any()
    assert not wide[:, 5:].any()
    cases = [
        (np.zeros((40, 3)), TypeError, "out must have dtype float32; got float64"),
        (np.zeros((40, 4), "f4"), ValueError, r"out must have shape \(40, 3\)"),
        (np.zeros((3, 40), "f4").T, ValueError, "out must have contiguous rows"),
        ([[0.0]], TypeError, "out must be a NumPy array; got list"),
    ]
    for bad, error, message in cases:
        with pytest.raises(error, match=message):
            net.forward(X, bad)
    frozen = np.zeros((40, 3), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        net.forward(X, frozen)
    shared = np.zeros((40, 8), np.float32)
    with pytest.raises(ValueError, match="out overlaps X"):
        net.forward(shared[:, :5], shared[:, 4:7])


def test_predictions_are_in_the_units_of_the_target():
    net, X, _ = make()
    Z = net.forward(X)
    np.testing.assert_array_equal(net.predict(X), Z.argmax(axis=1))
    np.testing.assert_allclose(net.predict_proba(X), reference.softmax(Z), rtol=1e-14)
    net, X, _ = make("binary_cross_entropy", n_outputs=1)
    Z = net.forward(X)
    np.testing.assert_array_equal(net.predict(X), (Z[:, 0] > 0).astype(int))
    np.testing.assert_allclose(net.predict_proba(X), 1 / (1 + np.exp(-Z)), rtol=1e-14)
    net, X, _ = make("squared_error", n_outputs=2)
    np.testing.assert_array_equal(net.predict(X), net.forward(X))
    with pytest.raises(AttributeError, match="needs a cross-entropy"):
        net.predict_proba(X)


def test_layer_outputs_equal_twin():
    net, X, _ = make()
    wanted = reference.network_outputs(plan_layers(net), net.parameters, X)[1:]
    for found, exact in zip(net.layer_outputs(X), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(found, net.forward(X))


def test_no_rows():
    net, X, y = make()
    assert net.forward(X[:0]).shape == (0, 3)
    assert net.predict(X[:0]).shape == (0,)
    with pytest.raises(ValueError, match="X has no rows"):
        net.loss(X[:0], y[:0])


# --- check_gradient -----------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_own_gradient_is_correct(loss):
    net, X, y = make(loss)
    before = net.parameters.copy()
    report = net.check_gradient(X, y)
    assert report.verdict == "correct", str(report)
    assert report.relative_error < 1e-7
    assert list(report.blocks) == list(net.named_parameters())
    assert report.n_checked == net.n_parameters
    np.testing.assert_array_equal(net.parameters, before)


def test_float32_gradient_is_checked_against_float64_losses():
    net, X, y = make(dtype=np.float32)
    report = net.check_gradient(X, y)
    assert report.verdict == "correct", str(report)
    assert 1e-9 < report.relative_error < 1e-5
    wrong = net.loss_and_gradient(X, y)[1]
    net.unflatten(wrong)["dense1.weight"][...] *= 1.5
    assert net.check_gradient(X, y, gradient=wrong).verdict == "wrong"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("dense0.weight", lambda a: np.negative(a, out=a)),
        ("dense1.weight", lambda a: np.multiply(a, 2, out=a)),
        ("dense2.bias", lambda a: a.fill(0.0)),
        ("dense1.weight", lambda a: a.__setitem__((3, 2), a[3, 2] * 1.5)),
        ("dense0.bias", lambda a: a.__setitem__(slice(None), a[::-1].copy())),
    ],
)
def test_planted_mistake_is_found_and_named(name, spoil):
    net, X, y = make()
    gradient = net.loss_and_gradient(X, y)[1]
    spoil(net.unflatten(gradient)[name])
    report = net.check_gradient(X, y, gradient=gradient)
    assert not report.ok
    assert report.worst(1)[0].name == name
    assert [n for n, b in report.blocks.items() if b.verdict != "correct"] == [name]


@pytest.mark.parametrize("eps", [1e-7, 1e-4])
def test_a_hundred_units_are_correct_at_any_reasonable_step(eps):
    """Rounding of the mean loss, or the step's own error, must not be blamed."""
    rng = np.random.default_rng(3)
    net = fanin.Network(
        64,
        [Dense(50, "tanh"), Dense(10)],
        loss="softmax_cross_entropy",
        dtype=np.float64,
        rng=3,
    )
    X, y = rng.standard_normal((64, 64)), rng.integers(0, 10, 64)
    report = net.check_gradient(X, y, eps=eps)
    assert report.verdict == "correct", str(report)
    assert report.relative_error < 1e-7


def test_report_is_the_same_for_any_number_of_threads():
    net, X, y = make()
    one = net.check_gradient(X, y, n_threads=1)
    for n_threads in (2, 5):
        other = net.check_gradient(X, y, n_threads=n_threads)
        assert other.relative_error == one.relative_error
        np.testing.assert_array_equal(
            *(
                np.concatenate([np.ravel(a) for a in r.numeric.values()])
                for r in (one, other)
            )
        )


# --- training -----------------------------------------------------------------------


@pytest.mark.parametrize("make_optimizer", [lambda: SGD(0.1, momentum=0.9), Adam])
def test_train_step_equals_gradient_then_update(make_optimizer):
    net, X, y = make()
    other, _, _ = make()
    ours, theirs = make_optimizer(), make_optimizer()
    for _ in range(5):
        value, gradient = other.loss_and_gradient(X, y)
        theirs.update(other.parameters, gradient)
        assert net.train_step(X, y, ours) == value
        np.testing.assert_array_equal(net.gradient, gradient)
        np.testing.assert_array_equal(net.parameters, other.parameters)
    assert ours.n_steps == 5


def test_fit_is_a_loop_of_train_steps():
    net, X, y = make()
    other, _, _ = make()
    history = net.fit(
        X, y, optimizer=Adam(0.01), epochs=3, batch_size=16, validation=(X, y), rng=9
    )
    source, adam = np.random.default_rng(9), Adam(0.01)
    for epoch in range(3):
        order = source.permutation(40)
        total = 0.0
        for start in (0, 16, 32):
            rows = order[start : start + 16]
            total += rows.size * other.train_step(X[rows], y[rows], adam)
        assert history.loss[epoch] == pytest.approx(total / 40, rel=1e-14)
        assert history.validation_loss[epoch] == pytest.approx(
            other.loss(X, y), rel=1e-14
        )
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-13)
    assert len(history.seconds) == 3
    assert repr(history).startswith("History(3 epochs, loss ")


def test_fit_learns_xor():
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    net = fanin.Network(
        2, [Dense(16, "tanh"), Dense(1)], loss="binary_cross_entropy", rng=0
    )
    net.fit(X, [0, 1, 1, 0], optimizer=Adam(0.05), epochs=200, batch_size=4, rng=0)
    assert net.predict(X).tolist() == [0, 1, 1, 0]


def test_progress_bar_writes_to_stderr_only(capsys):
    net, X, y = make()
    net.fit(X, y, optimizer=Adam(), epochs=2, batch_size=40, progress=True, rng=0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


def test_divergence_names_epoch_batch_and_tensor():
    net, X, y = make("squared_error")
    with pytest.raises(FloatingPointError) as error:
        net.fit(X * 1e3, y, optimizer=SGD(1e200), epochs=5, batch_size=10, rng=0)
    text = str(error.value)
    assert "at epoch 1, batch " in text
    assert "first tensor that is not finite is" in text
    assert "dense" in text


def test_not_finite_input_is_named_and_parameters_kept():
    net, X, y = make()
    X[7, 3] = np.inf
    before = net.parameters.copy()
    adam = Adam()
    with pytest.raises(FloatingPointError, match=r"not finite is X, inf at \[7, 3\]"):
        net.train_step(X, y, adam)
    np.testing.assert_array_equal(net.parameters, before)
    assert adam.n_steps == 0


def test_no_data_sized_allocation_in_a_step():
    """After the first step, Python allocates nothing that grows with the data."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 50)).astype(np.float32)
    y = rng.integers(0, 3, 2000)
    net = fanin.Network(
        50, [Dense(64, "relu"), Dense(3)], loss="softmax_cross_entropy", rng=0
    )
    adam = Adam()
    net.train_step(X, y, adam)
    tracemalloc.start()
    for _ in range(20):
        net.train_step(X, y, adam)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000
    assert X.nbytes > 20 * peak


def test_two_threads_may_predict_at_once():
    net = make()[0]
    inputs = [np.random.default_rng(i).standard_normal((500, 5)) for i in range(4)]
    wanted = [net.forward(a) for a in inputs]
    found: list[list[np.ndarray]] = [[] for _ in inputs]

    def work(i):
        for _ in range(50):
            found[i].append(net.forward(inputs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for results, exact in zip(found, wanted, strict=True):
        assert len(results) == 50
        for result in results:
            np.testing.assert_array_equal(result, exact)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_a_copy_is_equal_and_independent(clone):
    net, X, y = make()
    other = clone(net)
    np.testing.assert_array_equal(other.forward(X), net.forward(X))
    other.train_step(X, y, Adam())
    assert (other.parameters != net.parameters).any()


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Dense(0), ValueError, "units must be at least 1; got 0"),
        (lambda: Dense(2.5), TypeError, "units must be an integer; got float"),
        (lambda: Dense(2, "swish"), ValueError, "activation must be one of"),
        (
            lambda: Dense(2, init="he"),
            ValueError,
            "init must be 'auto', one of .*'he_normal'.*; got 'he'",
        ),
        (
            lambda: Dense(2, init=2),
            TypeError,
            "init must be 'auto', a name or a .* int",
        ),
        (
            lambda: fanin.Network(2, [Dense(1)], loss="squared_error", init="he"),
            ValueError,
            "init must be 'auto', one of .*'he_normal'.*; got 'he'",
        ),
        (
            lambda: fanin.Network(2, [Dense(1)], loss="squared_error", init=None),
            TypeError,
            "init must be 'auto', a name or a callable; got NoneType",
        ),
        (lambda: Dense(2, bias=1), TypeError, "bias must be True or False"),
        (
            lambda: fanin.Network(2, [], loss="squared_error"),
            ValueError,
            "at least one",
        ),
        (
            lambda: fanin.Network(2, Dense(1), loss="squared_error"),
            TypeError,
            "sequence",
        ),
        (
            lambda: fanin.Network(2, [3], loss="squared_error"),
            TypeError,
            r"layers\[0\]",
        ),
        (
            lambda: fanin.Network(0, [Dense(1)], loss="squared_error"),
            ValueError,
            "n_inputs",
        ),
        (
            lambda: fanin.Network(2, [Dense(1)], loss="mse"),
            ValueError,
            "loss must be one",
        ),
        (
            lambda: fanin.Network(2, [Dense(1)], loss="squared_error", dtype="f2"),
            TypeError,
            "dtype must be float32 or float64; got float16",
        ),
        (
            lambda: fanin.Network(2, [Dense(1)], loss="squared_error", rng="seed"),
            TypeError,
            "rng must be",
        ),
        # A class in the place of an object: its parentheses were forgotten.
        (
            lambda: fanin.Network(2, [fanin.layers.BatchNorm], loss="huber"),
            TypeError,
            r"layers\[0\] .* the class BatchNorm; BatchNorm\(...\) makes an object",
        ),
        (
            lambda: fanin.Network(2, [Dense(1)], loss=fanin.losses.Huber),
            TypeError,
            "loss must be a name or an object of fanin.losses; got the class Huber",
        ),
        (
            lambda: Dense(1, fanin.activations.GELU),
            TypeError,
            "activation must be a name or an object .*; got the class GELU",
        ),
        (
            lambda: make()[0].train_step(*make()[1:], Adam),
            TypeError,
            r"such as Adam\(\); got the class Adam; Adam\(...\) makes an object",
        ),
        (
            lambda: make()[0].fit(*make()[1:], optimizer=Adam, epochs=1, batch_size=9),
            TypeError,
            "got the class Adam",
        ),
    ],
)
def test_bad_construction(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X, y: (X[:, :4], y), ValueError, r"X must have shape \(n_samples, 5\)"),
        (lambda X, y: (X[0], y), ValueError, r"pass X.reshape\(1, -1\)"),
        (
            lambda X, y: (X + 1j, y),
            TypeError,
            "X must be an array of real .* complex128",
        ),
        (lambda X, y: (X.astype(object), y), TypeError, "got dtype object"),
        (lambda X, y: (X, y[:-1]), ValueError, "one label for each of the 40 rows"),
        (
            lambda X, y: (X, y.astype(float)),
            TypeError,
            r"y must be integer labels.*whole numbers: y.astype\(int\)",
        ),
        (
            lambda X, y: (X, np.array(["a", "b", "c"])[y]),
            TypeError,
            r"y must be .*got dtype <U1\. For names .* numpy.unique\(y, return_inverse",
        ),
        (
            lambda X, y: ([[1.0] * 5, [1.0]], y),
            ValueError,
            "X must be an array of real",
        ),
        (lambda X, y: (X, [[1], [1, 2]]), ValueError, "y must be an array of real"),
        (lambda X, y: (X[:0], y[:0]), ValueError, "X has no rows"),
        (
            lambda X, y: (X, np.zeros((40, 4))),
            ValueError,
            r"or \(40, 3\); got \(40, 4\)",
        ),
        (
            lambda X, y: (X, np.where(y == 0, 5, y)),
            ValueError,
            r"y\[\d+\] is 5: not a label",
        ),
        (lambda X, y: (X, y - 1), ValueError, r"y\[\d+\] is -1: not a label"),
        (lambda X, y: (X, np.zeros((40, 3))), ValueError, r"y\[\d+\] sums to 0"),
    ],
)
def test_bad_batches_are_refused_and_change_nothing(change, error, message):
    net, X, y = make()
    before = net.parameters.copy()
    X, y = change(X, y)
    adam = Adam()
    for call in (
        lambda: net.loss(X, y),
        lambda: net.loss_and_gradient(X, y),
        lambda: net.check_gradient(X, y),
        lambda: net.train_step(X, y, adam),
        lambda: net.fit(X, y, optimizer=adam, epochs=1, batch_size=40),
    ):
        with pytest.raises(error, match=message):
            call()
    np.testing.assert_array_equal(net.parameters, before)
    assert adam.n_steps == 0


def test_bad_targets_of_other_losses():
    net, X, y = make("binary_cross_entropy")
    y[3, 1] = 1.5
    with pytest.raises(
        ValueError, match=r"y\[3\] is .*: a target must lie in \[0, 1\]"
    ):
        net.loss(X, y)
    net, X, y = make("squared_error", n_outputs=1)
    y[4] = np.nan
    with pytest.raises(ValueError, match=r"y\[4\] is nan: a target must be a finite"):
        net.loss(X, y)
    with pytest.raises(ValueError, match=r"y must have shape \(40, 1\) or \(40,\)"):
        net.loss(X, y[:3])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs must be at least 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be a fanin.optimizers"),
        ({"validation": 3}, TypeError, r"validation must be a tuple \(X, y\)"),
        ({"rng": "x"}, TypeError, "rng must be"),
        ({"n_threads": 0}, ValueError, "n_threads must be from 1"),
    ],
)
def test_bad_fit_options(options, error, message):
    net, X, y = make()
    arguments = {"optimizer": Adam(), "epochs": 1, "batch_size": 10} | options
    with pytest.raises(error, match=message):
        net.fit(X, y, **arguments)


def test_bad_gradient_buffers():
    net, X, y = make()
    with pytest.raises(ValueError, match="out must be of shape"):
        net.loss_and_gradient(X, y, out=np.zeros(3))
    with pytest.raises(TypeError, match="out must have dtype float64"):
        net.loss_and_gradient(X, y, out=np.zeros(net.n_parameters, "f4"))
    with pytest.raises(ValueError, match="out overlaps the network's parameters"):
        net.loss_and_gradient(X, y, out=net.parameters)
    with pytest.raises(ValueError, match="gradient must have shape"):
        net.check_gradient(X, y, gradient=np.zeros(3))


# --- what must not be possible -------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["n_inputs", "n_outputs", "n_parameters", "dtype", "layers", "loss_function"],
)
def test_what_the_plan_is_compiled_for_is_fixed(name):
    net = make()[0]
    with pytest.raises(AttributeError):
        setattr(net, name, getattr(net, name))


def test_read_only_parameters_are_never_written():
    net, X, y = make()
    buffers = []
    data = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    frozen = [bytes(b.raw()) for b in buffers]
    kept = [bytes(bytearray(b)) for b in frozen]
    other = pickle.loads(data, buffers=frozen)
    other.train_step(X, y, Adam())
    assert frozen == kept
    net.parameters.flags.writeable = False
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="the parameters are read-only"):
        net.train_step(X, y, Adam())
    np.testing.assert_array_equal(net.parameters, before)


def test_a_shallow_copy_is_independent():
    net, X, y = make()
    other = copy.copy(net)
    other.train_step(X, y, Adam())
    assert (other.parameters != net.parameters).any()


def test_out_that_would_corrupt_is_refused():
    net, _, y = make()
    buffer = np.zeros(net.n_parameters)
    X = buffer[: 8 * 5].reshape(8, 5)
    with pytest.raises(ValueError, match="out overlaps X"):
        net.loss_and_gradient(X, y[:8], out=buffer)
    weight = net.named_parameters()["dense1.weight"][:, :3]
    with pytest.raises(ValueError, match="out overlaps the network's parameters"):
        net.forward(np.zeros((8, 5)), out=weight)
    far = np.lib.stride_tricks.as_strided(
        np.zeros((2, 3)), (2, 3), (8 * 2**31, 8), writeable=True
    )
    with pytest.raises(ValueError, match="out must have contiguous rows"):
        net.forward(np.zeros((2, 5)), out=far)


def test_an_init_that_fails_changes_nothing():
    def broken(shape, *, rng, dtype, out):
        out[...] = 3.0
        raise RuntimeError("no")

    def forgetful(shape, *, rng, dtype, out):
        return np.ones(shape, dtype)

    for init, error in ((broken, RuntimeError), (forgetful, TypeError)):
        net = fanin.Network(4, [Dense(3)], loss="squared_error", rng=0)
        net._layers = (Dense(3, init=init),)
        before = net.parameters.copy()
        with pytest.raises(error):
            net.initialize(0)
        np.testing.assert_array_equal(net.parameters, before)


def test_divergence_names_the_callers_row():
    net, X, y = make("squared_error")
    X = np.tile(X, (5, 1))
    y = np.tile(y, (5, 1))
    X[137, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"is X, nan at \[137, 1\]"):
        net.fit(X, y, optimizer=Adam(), epochs=1, batch_size=16, rng=0)
    X[137, 1] = 0.0
    y[55, 2] = np.inf
    with pytest.raises(ValueError, match=r"y\[55\] is inf in column 2: a target must"):
        net.fit(X, y, optimizer=Adam(), epochs=1, batch_size=16, rng=0)


def test_a_step_below_the_spacing_takes_the_spacing():
    net, X, y = make()
    report = net.check_gradient(X, y, eps=1e-18)
    assert all(np.isfinite(a).all() for a in report.numeric.values())


def test_what_is_no_dense_array_of_numbers_says_how_it_becomes_one():
    from scipy import sparse

    net = fanin.Network(4, [Dense(2)], loss="squared_error", rng=0)
    with pytest.raises(TypeError, match=r"a sparse csr_array: X\.toarray\(\) is dense"):
        net.forward(sparse.csr_array(np.eye(4)))
    with pytest.raises(TypeError, match=r"X\.astype\(float\) if all are numbers"):
        net.diagnose(np.eye(4).astype(object))
