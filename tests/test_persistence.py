"""Saved networks: exact, portable, written whole, and read with suspicion."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fanin
from fanin import _specification, activations, layers, losses
from fanin.activations import ELU, GELU, LeakyReLU
from fanin.layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, RMSNorm

safetensors = pytest.importorskip("safetensors", reason="needs the extra safetensors")
arrays = pytest.importorskip("safetensors.numpy")

KEY = "fanin.Network"
KINDS = _specification.KINDS

# One object of each kind, none of whose options has its default.
EXAMPLES = {
    "layer": {
        "dense": Dense(5, GELU("tanh"), "glorot_uniform", False, 0.25),
        "activation": Activation(LeakyReLU(0.2)),
        "batch_norm": BatchNorm(0.3, 1e-3, False),
        "layer_norm": LayerNorm(1e-4, False),
        "rms_norm": RMSNorm(1e-6, False),
        "dropout": Dropout(0.25),
    },
    "loss": {
        "squared_error": losses.SquaredError(),
        "absolute_error": losses.AbsoluteError(),
        "huber": losses.Huber(1 / 3),
        "quantile": losses.Quantile((0.1, 0.5, 0.9)),
        "poisson": losses.Poisson(),
        "binary_cross_entropy": losses.BinaryCrossEntropy(),
        "softmax_cross_entropy": losses.SoftmaxCrossEntropy(0.1),
    },
    "activation": {
        "identity": activations.Identity(),
        "logistic": activations.Logistic(),
        "tanh": activations.Tanh(),
        "relu": activations.ReLU(),
        "leaky_relu": LeakyReLU(0.2),
        "elu": ELU(1 / 3),
        "selu": activations.SELU(),
        "softplus": activations.Softplus(),
        "silu": activations.SiLU(),
        "gelu": GELU("tanh"),
    },
}
EVERY = [(group, kind) for group, kinds in KINDS.items() for kind in kinds]


def network(dtype=np.float32, loss="softmax_cross_entropy"):
    return fanin.Network(
        4,
        [Dense(5, "tanh", init="glorot_uniform"), Dense(3, "relu", bias=False)],
        loss=loss,
        dtype=dtype,
        rng=0,
    )


def network_of_everything(dtype=np.float32, loss="squared_error"):
    """Every kind of layer, its parameters and statistics; trained for two steps."""
    net = fanin.Network(
        4,
        [
            Dense(5, GELU("tanh"), l2=0.0),
            BatchNorm(momentum=0.3),
            Activation(LeakyReLU(0.2)),
            LayerNorm(),
            Dropout(0.25),
            Dense(6, "silu", bias=False),
            RMSNorm(),
            BatchNorm(affine=False),
            Dense(3),
        ],
        loss=loss,
        l2=0.01,
        dtype=dtype,
        rng=0,
    )
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 4)), rng.uniform(0, 1, (8, 3))
    for _ in range(2):
        net.train_step(X, y / y.sum(axis=1, keepdims=True), fanin.optimizers.SGD(0.1))
    return net


def split(path):
    """Return the header of a file as a dictionary, and its numbers."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    network().save(path)
    return path


# --- there and back -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", sorted(KINDS["loss"]))
def test_a_loaded_network_is_the_saved_one(tmp_path, loss, dtype):
    net = network(dtype, KINDS["loss"][loss]())
    path = tmp_path / "net.safetensors"
    net.save(path)
    again = fanin.Network.load(path)
    assert type(again) is fanin.Network
    assert again.layers == net.layers
    assert again.loss_function == net.loss_function
    assert (again.n_inputs, again.dtype) == (net.n_inputs, net.dtype)
    assert again.parameters.tobytes() == net.parameters.tobytes()
    X = np.random.default_rng(1).standard_normal((7, 4))
    np.testing.assert_array_equal(again.forward(X), net.forward(X))
    # It is a network like any other: it trains, and is saved to the same bytes.
    y = np.full((7, 3), 1 / 3)
    again.train_step(X, y, fanin.optimizers.SGD(0.1))
    assert (again.parameters != net.parameters).any()
    net.save(str(path) + "2")
    assert (tmp_path / "net.safetensors2").read_bytes() == path.read_bytes()


def test_parameters_come_back_bit_for_bit_be_they_finite_or_not(tmp_path):
    net = network(np.float64)
    odd = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324, 1 / 3]
    net.parameters[: len(odd)] = odd
    net.save(tmp_path / "n")
    again = fanin.Network.load(tmp_path / "n")
    assert again.parameters.tobytes() == net.parameters.tobytes()


def test_a_function_for_init_is_left_out(tmp_path):
    def mine(shape, *, rng, dtype, out):
        out[...] = 0

    net = fanin.Network(2, [Dense(3, init=mine)], loss="squared_error", rng=0)
    net.save(tmp_path / "n")
    header, _ = split(tmp_path / "n")
    assert json.loads(header["__metadata__"][KEY])["layers"][0]["init"] is None
    again = fanin.Network.load(tmp_path / "n")
    assert again.layers == (Dense(3),)
    assert not again.parameters.any()


def test_the_networks_init_is_kept_but_for_a_function(tmp_path):
    for init, kept in [
        ("auto", "auto"),
        ("orthogonal", "orthogonal"),
        (fanin.initializers.zeros, "zeros"),
        (lambda shape, **options: None, None),
    ]:
        layers = [Dense(3), Dense(2, init="auto")]
        net = fanin.Network(2, layers, loss="squared_error", init=init, rng=0)
        net.save(tmp_path / "n")
        header, _ = split(tmp_path / "n")
        data = json.loads(header["__metadata__"][KEY])
        assert data["init"] == kept
        assert [layer["init"] for layer in data["layers"]] == [None, "auto"]
        again = fanin.Network.load(tmp_path / "n")
        assert again.layers == net.layers
        twin = fanin.Network(
            2, layers, loss="squared_error", init=kept or "auto", rng=5
        )
        again.initialize(5)
        np.testing.assert_array_equal(again.parameters, twin.parameters)


def test_a_file_of_before_the_networks_init_is_read(saved):
    header, numbers = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    del data["init"]
    data["layers"][1]["init"] = "auto"  # the default was this, written out
    header["__metadata__"][KEY] = json.dumps(data)
    saved.write_bytes(join(header, numbers))
    again = fanin.Network.load(saved)
    assert again.layers[1] == Dense(3, "relu", "auto", bias=False)
    again.initialize(3)
    twin = fanin.Network(4, again.layers, loss="softmax_cross_entropy", rng=3)
    np.testing.assert_array_equal(again.parameters, twin.parameters)


@pytest.mark.parametrize("value", ["he", 3, ["zeros"], {"kind": "relu"}, True])
def test_a_networks_init_that_is_none_is_refused(saved, value):
    header, numbers = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    data["init"] = value
    header["__metadata__"][KEY] = json.dumps(data)
    refuse(saved, join(header, numbers), "init must be 'auto', ")


@settings(max_examples=30)
@given(
    widths=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    activations=st.lists(
        st.sampled_from(["identity", "logistic", "tanh", "relu"]),
        min_size=4,
        max_size=4,
    ),
    bias=st.booleans(),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_any_architecture_returns(tmp_path_factory, widths, activations, bias, dtype):
    path = tmp_path_factory.mktemp("any") / "n"
    dense = [
        Dense(n, a, bias=bias) for n, a in zip(widths[1:], activations, strict=False)
    ]
    net = fanin.Network(widths[0], dense, loss="squared_error", dtype=dtype)
    net.save(path)
    again = fanin.Network.load(path)
    assert again.layers == net.layers
    assert again.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize(("group", "kind"), EVERY)
def test_every_option_of_every_kind_is_saved(tmp_path, group, kind):
    """Through a file, in a network: no option is dropped, rounded or mixed up."""
    thing = EXAMPLES[group][kind]
    cls = KINDS[group][kind]
    assert type(thing) is cls
    for name, option in _specification.options(cls).items():
        assert getattr(thing, name) != option.default
    layer = thing if group == "layer" else Dense(2)
    if group == "activation":
        layer = Dense(2, thing)
    net = fanin.Network(
        2, [layer, Dense(3)], loss=thing if group == "loss" else "huber", rng=0
    )
    net.save(tmp_path / "n")
    again = fanin.Network.load(tmp_path / "n")
    assert (again.layers, again.loss_function) == (net.layers, net.loss_function)
    X = np.linspace(-2, 2, 10).reshape(5, 2)
    np.testing.assert_array_equal(again.forward(X), net.forward(X), strict=True)


def test_every_class_that_there_is_has_a_kind_and_an_example():
    """A new layer, loss or activation is one line in KINDS and one in EXAMPLES."""
    bases = {
        "layer": (layers, layers.Layer),
        "loss": (losses, losses.Loss),
        "activation": (activations, activations.Activation),
    }
    assert set(bases) == set(KINDS)
    for group, (module, base) in bases.items():
        classes = {
            thing
            for thing in map(vars(module).get, module.__all__)
            if isinstance(thing, type) and issubclass(thing, base)
        }
        # (Functions of the user's are code, which a file does not hold.)
        own = {losses.Custom, activations.Custom}
        assert classes - {base} - own == set(KINDS[group].values())
        assert len(set(KINDS[group].values())) == len(KINDS[group])
        assert set(EXAMPLES[group]) == set(KINDS[group])
        for cls in KINDS[group].values():
            assert "kind" not in _specification.options(cls)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", sorted(set(KINDS["loss"]) - {"quantile"}))
def test_training_goes_on_from_the_file_as_if_nothing_had_happened(
    tmp_path, loss, dtype
):
    """Statistics, dropout's masks and the penalties are those of the saved network."""
    net = network_of_everything(dtype, EXAMPLES["loss"][loss])
    net.save(tmp_path / "n")
    again = fanin.Network.load(tmp_path / "n")
    assert again.layers == net.layers
    buffers = again.named_buffers()
    assert list(buffers) == [
        f"batch_norm{i}.running_{what}" for i in (1, 7) for what in ("mean", "var")
    ]
    for name, array in net.named_buffers().items():
        assert array.dtype == np.float64
        assert not (array == (1 if name.endswith("var") else 0)).any()
        np.testing.assert_array_equal(buffers[name], array, strict=True)
    X = np.random.default_rng(1).standard_normal((7, 4))
    y = np.full((7, 3), 1 / 3)
    assert again.loss(X, y) == net.loss(X, y)
    # The masks move on with each step; so does the file's count of them.
    for _ in range(3):
        assert again.loss(X, y, training=True) == net.loss(X, y, training=True)
        sgd = [fanin.optimizers.SGD(0.1) for _ in range(2)]
        assert again.train_step(X, y, sgd[0]) == net.train_step(X, y, sgd[1])
    assert again.parameters.tobytes() == net.parameters.tobytes()
    for name, array in net.named_buffers().items():
        np.testing.assert_array_equal(buffers[name], array)


def test_the_penalty_of_a_layer_and_that_of_the_network_both_return(tmp_path):
    dense = [Dense(3, l2=0.5), Dense(3), Dense(3, l2=0.0)]
    net = fanin.Network(3, dense, loss="huber", l2=0.125, dtype="f8", rng=0)
    net.save(tmp_path / "n")
    again = fanin.Network.load(tmp_path / "n")
    X, y = np.zeros((1, 3)), np.zeros((1, 3))
    squares = [
        np.square(a).sum() for n, a in net.named_parameters().items() if "weight" in n
    ]
    # (Inputs, biases and targets are 0: what is left of the loss is the penalty.)
    assert (
        again.loss(X, y)
        == net.loss(X, y)
        == pytest.approx((0.5 * squares[0] + 0.125 * squares[1]) / 2, rel=1e-14)
    )


def test_a_quantile_that_is_a_number_stays_one(tmp_path):
    net = fanin.Network(2, [Dense(3)], loss=losses.Quantile(0.3), rng=0)
    net.save(tmp_path / "n")
    assert fanin.Network.load(tmp_path / "n").loss_function == losses.Quantile(0.3)


# --- other readers ------------------------------------------------------------------


def test_the_safetensors_library_reads_the_file(tmp_path):
    net = network(np.float64)
    net.save(tmp_path / "n")
    with safetensors.safe_open(tmp_path / "n", "np") as file:
        assert json.loads(file.metadata()[KEY])["n_inputs"] == 4
    found = arrays.load_file(tmp_path / "n")
    assert sorted(found) == sorted(net.named_parameters())
    for name, array in net.named_parameters().items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_a_file_that_was_put_together_elsewhere_is_read(tmp_path):
    net = network()
    net.save(tmp_path / "n")
    with safetensors.safe_open(tmp_path / "n", "np") as file:
        metadata = file.metadata()
    tensors = {name: array.copy() for name, array in net.named_parameters().items()}
    arrays.save_file(tensors, tmp_path / "theirs", metadata)
    again = fanin.Network.load(tmp_path / "theirs")
    np.testing.assert_array_equal(again.parameters, net.parameters)


def test_pytorch_loads_the_weights(tmp_path):
    torch = pytest.importorskip("torch")
    reader = pytest.importorskip("safetensors.torch")
    net = network()
    net.save(tmp_path / "n")
    found = reader.load_file(tmp_path / "n")
    linear = torch.nn.Linear(4, 5)
    linear.load_state_dict(
        {"weight": found["dense0.weight"].T, "bias": found["dense0.bias"]}
    )
    X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with torch.no_grad():
        theirs = torch.tanh(linear(torch.from_numpy(X))).numpy()
    np.testing.assert_allclose(net.layer_outputs(X)[0], theirs, rtol=1e-5, atol=1e-6)


# --- writing ------------------------------------------------------------------------


def test_an_error_of_the_library_is_one_of_the_system(tmp_path, monkeypatch):
    """A full disk is met while the library writes."""
    path = tmp_path / "n"
    network().save(path)
    before = path.read_bytes()

    def fail(*args):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(arrays, "save_file", fail)
    with pytest.raises(OSError, match=r"n cannot be written: No space left"):
        network(np.float64).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["n"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "n"
    network().save(path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        network(np.float64).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["n"]


def test_what_cannot_be_saved_is_named_before_a_file_exists(tmp_path):
    class Own(Dense):
        pass

    net = fanin.Network(2, [Dense(2), Own(3)], loss="squared_error")
    with pytest.raises(TypeError, match=r"layers\[1\] cannot be saved: it is a Own"):
        net.save(tmp_path / "n")
    assert os.listdir(tmp_path) == []


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "n"
    nets = [network(), network(np.float64)]
    nets[0].save(path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for net in nets:
                net.save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            found = fanin.Network.load(path)
            assert any(np.array_equal(found.parameters, n.parameters) for n in nets)
    finally:
        stop.set()
        writer.join()
    assert os.listdir(tmp_path) == ["n"]


@pytest.mark.skipif(os.name == "nt", reason="links and modes are others there")
def test_links_are_followed_and_the_umask_is_obeyed(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "n", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    network().save(link)
    assert link.is_symlink()
    assert fanin.Network.load(target).n_inputs == 4
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def test_paths_are_those_of_the_operating_system(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network().save("n")
    assert fanin.Network.load(b"n" if os.name != "nt" else "n").n_inputs == 4
    for bad in (None, 3):
        with pytest.raises(TypeError):
            network().save(bad)
        with pytest.raises(TypeError):
            fanin.Network.load(bad)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fanin.Network.load("nowhere")
    with pytest.raises(FileNotFoundError) as info:
        network().save(tmp_path / "no" / "folder")
    assert info.value.filename == str(tmp_path / "no" / "folder")  # not its draft
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        network().save("folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "n"]


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    before = os.listdir(tmp_path)
    for call in (network().save, fanin.Network.load):
        with pytest.raises(ImportError, match=r'pip install "fanin\[safetensors\]"'):
            call(tmp_path / "n")
    assert os.listdir(tmp_path) == before


def test_the_parameters_are_not_copied(tmp_path):
    """Peak memory is the network's; only pieces of 1 MiB are in between."""
    net = fanin.Network(2000, [Dense(2500)], loss="squared_error", rng=0)
    size = net.parameters.nbytes
    tracemalloc.start()
    try:
        net.save(tmp_path / "n")
        assert tracemalloc.get_traced_memory()[1] < size / 10
        tracemalloc.reset_peak()
        again = fanin.Network.load(tmp_path / "n")
        assert size < tracemalloc.get_traced_memory()[1] < 1.25 * size
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(again.parameters, net.parameters)


# --- reading with suspicion ---------------------------------------------------------


def refuse(path, data, message):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as info:
        fanin.Network.load(path)
    assert str(info.value).startswith(f"{path} is not a network that fanin has saved: ")


NO_SAFETENSORS = r"cut short, damaged or no safetensors file \("


def test_every_truncation_is_refused(saved):
    data = saved.read_bytes()
    for size in range(len(data)):
        refuse(saved, data[:size], NO_SAFETENSORS)


def test_something_appended_is_refused(saved):
    refuse(saved, saved.read_bytes() + b"\0", NO_SAFETENSORS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a file with everything in it, and where to put broken copies."""
    folder = tmp_path_factory.mktemp("whole")
    network_of_everything().save(folder / "n")
    return (folder / "n").read_bytes(), folder / "broken"


def network_or_value_error(path, content):
    path.write_bytes(content)
    try:
        return fanin.Network.load(path)
    except ValueError as error:
        assert "is not a network that fanin has saved" in str(error)  # noqa: PT017
        return None


@settings(max_examples=500)
@given(data=st.data())
def test_changed_bytes_give_a_network_or_a_value_error(whole, data):
    content, path = bytearray(whole[0]), whole[1]
    header = 8 + int.from_bytes(content[:8], "little")
    # Half of the changes are in the header, where they matter.
    places = st.integers(0, header - 1) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    net = network_or_value_error(path, content)
    if net is not None:
        assert net.n_inputs == 4
        assert net.predict(np.zeros((2, 4))).shape == (2, 3)


def paths_into(value, path=()):
    """Return the paths to everything inside of nested dictionaries and lists."""
    pairs = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    found = [path] if path else []
    for key, inner in pairs:
        found += paths_into(inner, (*path, key))
    return found


NUMBERS = st.integers() | st.sampled_from([2**31, 2**64, -1, 10**400, 1e308, 5e-324])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=500)
@given(data=st.data())
def test_any_description_gives_a_network_or_a_value_error(whole, data):
    """JSON of any kind in the place of any part of it, in a file that is sound."""
    content, path = whole
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"][KEY])
    inner = description
    *steps, last = data.draw(st.sampled_from(paths_into(description)))
    for step in steps:
        inner = inner[step]
    inner[last] = data.draw(JSON)
    header["__metadata__"][KEY] = json.dumps(description)
    network_or_value_error(path, join(header, content[8 + length :]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NO_SAFETENSORS),
        (b"\x80\x04\x95", NO_SAFETENSORS),
        (b"PK\x03\x04 a zip file of PyTorch", NO_SAFETENSORS),
        (b"\xff" * 100, NO_SAFETENSORS),
        ((2**40).to_bytes(8, "little") + b"{" * 100, NO_SAFETENSORS),
        (join(b"[1, 2]", b""), NO_SAFETENSORS),
        (join(b'{"a":' + b"[" * 100_000, b""), NO_SAFETENSORS),
        (join({"__metadata__": {KEY: 1}}, b""), NO_SAFETENSORS),
        (join({}, b""), "fanin did not write it"),
        (join({"__metadata__": {"format": "pt"}}, b""), "fanin did not write it"),
        (join({"__metadata__": {KEY: "{"}}, b""), f"its '{KEY}' is not JSON"),
        (join({"__metadata__": {KEY: "[" * 10**5}}, b""), f"its '{KEY}' is not JSON"),
        (join({"__metadata__": {KEY: "1" * 10**5}}, b""), f"its '{KEY}' is not JSON"),
        (join({"__metadata__": {KEY: '{"a": NaN}'}}, b""), "NaN is no number of JSON"),
        (join({"__metadata__": {KEY: '{"a": 1, "a": 2}'}}, b""), "a name stands twice"),
        (join({"__metadata__": {KEY: "[]"}}, b""), "must be an object; got list"),
        (join({"__metadata__": {KEY: "{}"}}, b""), "lacks 'version', 'n_inputs'"),
    ],
)
def test_foreign_and_broken_files_are_refused(tmp_path, content, message):
    refuse(tmp_path / "n", content, message)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["version"], 2, "format version 2, .* newer fanin"),
        (["version"], 0, "version must be 1; got 0"),
        (["version"], True, "version must be 1; got True"),
        (["more"], 1, "does not know: 'more'"),
        (["n_inputs"], "4", "n_inputs must be an integer; got str"),
        (["n_inputs"], 4.0, "n_inputs must be an integer; got float"),
        (["n_inputs"], 0, "n_inputs must be at least 1"),
        (["n_inputs"], 2**62, "n_inputs must be at most"),
        (["n_inputs"], 5, r"'dense0\.weight' has shape \(4, 5\).*has \(5, 5\)"),
        (["n_inputs"], 3, r"'dense0\.weight' has shape \(4, 5\)"),
        (["n_inputs"], None, "n_inputs must be an integer; got NoneType"),
        (["dtype"], "float64", "dtype float32; its network's .* float64"),
        (["dtype"], "object", "dtype must be 'float32' or 'float64'; got 'object'"),
        (["dtype"], ["float32"], "dtype must be"),
        (["loss"], "squared_error", "loss must be an object; got str"),
        (["loss", "kind"], "own", "loss must be of a kind .*got 'own'"),
        (["loss", "kind"], [], "loss must be of a kind"),
        (["loss", "kind"], "dense", "loss must be of a kind"),
        (["loss", "code"], "import os", "option 'code' that this version"),
        (["layers"], {}, "layers must be a list; got dict"),
        (["layers"], [], "layers must hold at least one layer"),
        (["layers", 0], None, r"layers\[0\] must be an object; got NoneType"),
        (["layers", 0, "kind"], "conv", r"layers\[0\] must be of a kind .*'conv'"),
        (["layers", 0, "kind"], "os.system", "must be of a kind"),
        (["layers", 0, "units"], 6, r"network's has \(4, 6\)"),
        (["layers", 0, "units"], 2**31 - 1, r"network's has \(4, 2147483647\)"),
        (["layers", 0, "units"], "5", r"layers\[0\]: units must be an integer"),
        (["layers", 0, "units"], [5], r"layers\[0\]: units must be an integer"),
        (["layers", 0, "units"], {}, r"layers\[0\]\.units must not be an object"),
        (["layers", 0, "units"], None, r"layers\[0\]: units must be an integer"),
        (["layers", 0, "activation"], "swiss", r"layers\[0\]: activation must be"),
        (["layers", 0, "activation"], {"kind": "own"}, r"\.activation must be of a"),
        (["layers", 0, "init"], "os.system", r"layers\[0\]: .*'os\.system'"),
        (["layers", 0, "init"], ["zeros"], r"layers\[0\]: init.* a name .*got tuple"),
        (["layers", 0, "bias"], 1, r"layers\[0\]: bias must be True or False"),
        (["layers", 1, "bias"], True, r"lacks the tensors dense1\.bias"),
        (["layers", 0, "__class__"], "x", "option '__class__'"),
        (["layers", 0, "l2"], 10**400, r"layers\[0\]: "),
        (["l2"], 10**400, "describes no network"),
        (["l2"], -1.0, "l2 must be a finite number in"),
        (["dropout"], [0, 0], "dropout must be a key of two words and a count"),
        (["dropout"], [0, 2**32, 0], "dropout must be a key"),
        (["dropout"], [0, 0, -1], "dropout must be a key"),
        (["dropout"], [0, 0, True], "dropout must be a key"),
    ],
)
def test_a_wrong_description_is_refused(saved, place, value, message):
    header, numbers = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    inner = data
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    header["__metadata__"][KEY] = json.dumps(data)
    refuse(saved, join(header, numbers), message)


@pytest.mark.parametrize(
    "field", ["version", "n_inputs", "dtype", "layers", "loss", "l2", "dropout"]
)
def test_a_missing_field_is_named(saved, field):
    header, numbers = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    del data[field]
    header["__metadata__"][KEY] = json.dumps(data)
    refuse(saved, join(header, numbers), f"lacks '{field}'")


def test_an_option_of_a_later_version_may_be_missing(saved):
    """A file of before the option: the default was all there was."""
    header, numbers = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    del data["layers"][0]["bias"], data["layers"][1]["init"]
    header["__metadata__"][KEY] = json.dumps(data)
    saved.write_bytes(join(header, numbers))
    found = fanin.Network.load(saved).layers
    assert (found[0].bias, found[1].init) == (True, None)
    del data["layers"][0]["units"]
    header["__metadata__"][KEY] = json.dumps(data)
    refuse(saved, join(header, numbers), r"layers\[0\] of kind 'dense' lacks 'units'")


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("dense0.bias", "dtype", "I32", r"shape \(5,\) and dtype I32; its network's"),
        ("dense0.bias", "shape", [5, 1], r"shape \(5, 1\) and dtype float32"),
        ("dense0.weight", "shape", [5, 4], r"shape \(5, 4\) and dtype float32"),
        ("dense0.bias", "shape", [2**62, 2**62], NO_SAFETENSORS),
        ("dense0.bias", "shape", [-5], NO_SAFETENSORS),
        ("dense0.bias", "dtype", "F64", NO_SAFETENSORS),
        ("dense0.bias", "data_offsets", [20, 40], NO_SAFETENSORS),
        ("dense1.weight", "data_offsets", [10**30, 10**30 + 60], NO_SAFETENSORS),
    ],
)
def test_a_wrong_table_of_tensors_is_refused(saved, name, field, value, message):
    header, numbers = split(saved)
    header[name][field] = value
    refuse(saved, join(header, numbers), message)


def test_missing_and_additional_tensors_are_named(saved):
    header, numbers = split(saved)
    header["dense7.bias"] = header.pop("dense0.bias")
    refuse(saved, join(header, numbers), r"lacks the tensors dense0\.bias")
    header["dense0.bias"] = header.pop("dense7.bias")
    header["more"] = {
        "dtype": "F32",
        "shape": [1],
        "data_offsets": [len(numbers), len(numbers) + 4],
    }
    refuse(saved, join(header, numbers + b"1234"), "has no tensors more")


def test_a_claim_of_terabytes_takes_no_memory(saved):
    """Neither where the description makes it, nor where the table of tensors does."""
    header, numbers = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    data["n_inputs"] = data["layers"][0]["units"] = 2**29
    text = json.dumps(data)
    lying = join(header | {"__metadata__": {KEY: text}}, numbers)
    short = json.loads(json.dumps(header))
    size = (2**31 - 1) ** 2
    short["dense0.weight"].update(shape=[2**31 - 1] * 2, data_offsets=[0, 4 * size])
    tracemalloc.start()
    try:
        refuse(saved, lying, r"its network's has \(536870912, 536870912\)")
        refuse(saved, join(short, numbers), NO_SAFETENSORS)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this platform")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        fanin.Network.load(tmp_path / "pipe")


def test_saving_and_loading_need_no_pickle_and_the_library_only_then(saved):
    code = (
        "import sys, fanin\n"
        "assert 'safetensors' not in sys.modules\n"
        "sys.modules['torch'] = None\n"
        "import pickle, _pickle\n"
        "def no(*a, **k): raise AssertionError\n"
        "pickle.loads = pickle.load = _pickle.loads = _pickle.load = no\n"
        "pickle.dumps = pickle.dump = _pickle.dumps = _pickle.dump = no\n"
        f"net = fanin.Network.load({str(saved)!r})\n"
        f"net.save({str(saved)!r})\n"
        "print(net.n_parameters)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "40"


# --- pickle and copy ----------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_pickle_and_copy_work_on_a_loaded_network(saved, duplicate):
    net = fanin.Network.load(saved)
    other = duplicate(net)
    X = np.ones((2, 4))
    np.testing.assert_array_equal(other.forward(X), net.forward(X))
    other.parameters[...] = 0
    assert net.parameters.any()
