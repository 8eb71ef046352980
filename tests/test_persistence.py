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
from fanin import _persistence, _specification, layers, losses
from fanin.layers import Dense

KEY = "fanin.Network"


def network(dtype=np.float32, loss="softmax_cross_entropy"):
    return fanin.Network(
        4,
        [Dense(5, "tanh", init="glorot_uniform"), Dense(3, "relu", bias=False)],
        loss=loss,
        dtype=dtype,
        rng=0,
    )


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
@pytest.mark.parametrize("loss", sorted(_specification.KINDS["loss"]))
def test_a_loaded_network_is_the_saved_one(tmp_path, loss, dtype):
    net = network(dtype, _specification.KINDS["loss"][loss]())
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
    net = fanin.Network(
        2, [Dense(3, init=fanin.initializers.zeros)], loss="squared_error", rng=0
    )
    net.save(tmp_path / "n")
    header, _ = split(tmp_path / "n")
    assert json.loads(header["__metadata__"][KEY])["layers"][0]["init"] is None
    again = fanin.Network.load(tmp_path / "n")
    assert again.layers == (Dense(3, init="auto"),)
    assert not again.parameters.any()


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


def test_buffers_are_saved_beside_the_parameters(tmp_path):
    """What `named_buffers` returns, in float64, whatever the network's dtype."""

    class Buffered(fanin.Network):
        def _allocate(self):
            super()._allocate()
            self.buffers = {"norm1.running_mean": np.zeros(5)}

        def named_buffers(self):
            return self.buffers

    net = Buffered(4, [Dense(5)], loss="squared_error", rng=0)
    net.buffers["norm1.running_mean"][...] = np.arange(5) / 3
    net.save(tmp_path / "n")
    header, _ = split(tmp_path / "n")
    # Doubles first: they are aligned where they lie.
    assert header["norm1.running_mean"]["data_offsets"] == [0, 40]
    again = Buffered.load(tmp_path / "n")
    assert type(again) is Buffered
    np.testing.assert_array_equal(
        again.buffers["norm1.running_mean"], np.arange(5) / 3, strict=True
    )
    np.testing.assert_array_equal(again.parameters, net.parameters)
    with pytest.raises(ValueError, match=r"no tensors norm1\.running_mean"):
        fanin.Network.load(tmp_path / "n")
    network().save(tmp_path / "without")
    with pytest.raises(ValueError, match=r"lacks the tensors norm1\.running_mean"):
        Buffered.load(tmp_path / "without")


def test_every_layer_and_loss_that_there_is_can_be_saved():
    for module, group in ((layers, "layer"), (losses, "loss")):
        classes = {
            thing
            for name in module.__all__
            if isinstance(thing := getattr(module, name), type)
            and thing is not losses.Loss
        }
        assert classes == set(_specification.KINDS[group].values())
    for kinds in _specification.KINDS.values():
        for cls in kinds.values():
            assert "kind" not in _specification.options(cls)


# --- other readers ------------------------------------------------------------------


def test_the_safetensors_library_reads_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    net = network(np.float64)
    net.save(tmp_path / "n")
    with safetensors.safe_open(tmp_path / "n", "np") as file:
        assert json.loads(file.metadata()[KEY])["n_inputs"] == 4
    found = numpy.load_file(tmp_path / "n")
    assert sorted(found) == sorted(net.named_parameters())
    for name, array in net.named_parameters().items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_a_file_that_the_safetensors_library_wrote_is_read(tmp_path):
    """It puts the tensors in another order than fanin."""
    safetensors = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    net = network()
    net.save(tmp_path / "n")
    with safetensors.safe_open(tmp_path / "n", "np") as file:
        metadata = file.metadata()
    tensors = {name: array.copy() for name, array in net.named_parameters().items()}
    numpy.save_file(tensors, tmp_path / "theirs", metadata)
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
    with pytest.raises(FileNotFoundError):
        network().save(tmp_path / "no" / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        network().save("folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "n"]


def test_the_parameters_are_not_copied(tmp_path):
    net = fanin.Network(1000, [Dense(1000)], loss="squared_error", rng=0)
    size = net.parameters.nbytes
    tracemalloc.start()
    try:
        net.save(tmp_path / "n")
        assert tracemalloc.get_traced_memory()[1] < size / 10
        tracemalloc.reset_peak()
        again = fanin.Network.load(tmp_path / "n")
        # The network's own vector; a copy of it on the way would make two.
        assert size < tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(again.parameters, net.parameters)


# --- reading with suspicion ---------------------------------------------------------


def refuse(path, data, message):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as info:
        fanin.Network.load(path)
    assert str(info.value).startswith(f"{path} is not a network that fanin has saved: ")


def test_every_truncation_is_refused(saved):
    data = saved.read_bytes()
    for size in range(len(data)):
        refuse(saved, data[:size], "truncated|the length of the header takes 8")


def test_something_appended_is_refused(saved):
    refuse(saved, saved.read_bytes() + b"\0", "something appended")


@settings(max_examples=300)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("changed")
    network().save(folder / "n")
    content = bytearray((folder / "n").read_bytes())
    length = int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(0, 8 + length - 1))
    content[at] = data.draw(st.integers(0, 255))
    (folder / "n").write_bytes(content)
    try:
        net = fanin.Network.load(folder / "n")
    except ValueError as error:
        assert "is not a network that fanin has saved" in str(error)  # noqa: PT017
    else:
        assert net.n_parameters == 4 * 5 + 5 + 5 * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\x80\x04\x95", "it has 3 bytes"),
        (b"PK\x03\x04 a zip file of PyTorch", "announce a header of"),
        (b"\xff" * 100, "announce a header of 18446744073709551615 bytes"),
        ((2**40).to_bytes(8, "little") + b"{" * 100, "header of 1099511627776 bytes"),
        (join(b"[1, 2]", b""), "does not begin with"),
        (join(b"", b""), "does not begin with"),
        (join(b"{", b""), "its header is not JSON"),
        (join(b'{"a": NaN}', b""), "NaN is no number of JSON"),
        (join(b'{"a": 1, "a": 2}', b""), "a name stands twice"),
        (join(b'{"\xff": 1}', b""), "is not JSON"),
        (join(b'{"a":' + b"[" * 100_000, b""), "is not JSON"),
        (join(b'{"a":' + b"1" * 100_000 + b"}", b""), "is not JSON"),
        (join({}, b""), "fanin did not write it"),
        (join({"__metadata__": {"format": "pt"}}, b""), "fanin did not write it"),
        (join({"__metadata__": []}, b""), "fanin did not write it"),
        (join({"__metadata__": {KEY: 1}}, b""), "fanin did not write it"),
        (join({"__metadata__": {KEY: "{"}}, b""), f"its '{KEY}' is not JSON"),
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
        (["n_inputs"], 5, "it holds 40 numbers; its network has 45 parameters"),
        (["n_inputs"], 3, r"'dense0\.weight' has shape \(4, 5\)"),
        (["n_inputs"], None, "n_inputs must be an integer; got NoneType"),
        (["dtype"], "float64", "dtype float32; its network's"),
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
        (["layers", 0, "units"], 6, "holds 40 numbers; its network has 48"),
        (["layers", 0, "units"], 2**31 - 1, "its network has 171798691"),
        (["layers", 0, "units"], "5", r"layers\[0\]: units must be an integer"),
        (["layers", 0, "units"], [5], r"layers\[0\]: units must be an integer"),
        (["layers", 0, "units"], {}, r"layers\[0\]\.units must not be an object"),
        (["layers", 0, "units"], None, r"layers\[0\]: units must be an integer"),
        (["layers", 0, "activation"], "swiss", r"layers\[0\]: activation must be"),
        (["layers", 0, "activation"], {"kind": "own"}, r"\.activation must be of a"),
        (["layers", 0, "init"], "os.system", r"layers\[0\]: .*'os\.system'"),
        (["layers", 0, "init"], ["zeros"], r"layers\[0\]: init.* a name .*got tuple"),
        (["layers", 0, "bias"], 1, r"layers\[0\]: bias must be True or False"),
        (["layers", 1, "bias"], True, "holds 40 numbers; its network has 43"),
        (["layers", 0, "__class__"], "x", "option '__class__'"),
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


@pytest.mark.parametrize("field", ["version", "n_inputs", "dtype", "layers", "loss"])
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
    assert (found[0].bias, found[1].init) == (True, "auto")
    del data["layers"][0]["units"]
    header["__metadata__"][KEY] = json.dumps(data)
    refuse(saved, join(header, numbers), r"layers\[0\] of kind 'dense' lacks 'units'")


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("dense0.bias", None, None, r"begins at byte 100; expected 80"),
        ("other", None, {}, "tensor 'other' lacks 'dtype'"),
        ("dense0.bias", "more", 1, "does not know: 'more'"),
        ("dense0.bias", "dtype", "F16", "dtype 'F16'; expected F32 or F64"),
        ("dense0.bias", "dtype", 7, "dtype 7"),
        ("dense0.bias", "dtype", "F64", "does not take 20 bytes"),
        ("dense0.bias", "shape", [6], "does not take 20 bytes"),
        ("dense0.bias", "shape", 5, "has no shape"),
        ("dense0.bias", "shape", [5.0], "has no shape"),
        ("dense0.bias", "shape", [-5], "has no shape"),
        ("dense0.bias", "shape", [True] * 5, "has no shape"),
        ("dense0.bias", "shape", [5, 1], r"shape \(5, 1\) and dtype float32"),
        ("dense0.weight", "shape", [5, 4], r"shape \(5, 4\) and dtype float32"),
        ("dense0.bias", "shape", [2**62, 2**62], "does not take 20 bytes"),
        ("dense0.bias", "data_offsets", [80], "has no data_offsets"),
        ("dense0.bias", "data_offsets", [-20, 0], "has no data_offsets"),
        ("dense0.bias", "data_offsets", [100, 80], "does not take -20 bytes"),
        ("dense0.bias", "data_offsets", [0, 20], "begins at byte"),
        ("dense0.bias", "data_offsets", [90, 110], "begins at byte"),
        ("dense1.weight", "data_offsets", [10**30, 10**30 + 60], "begins at byte"),
    ],
)
def test_a_wrong_table_of_tensors_is_refused(saved, name, field, value, message):
    header, numbers = split(saved)
    if field is None and value is None:
        del header[name]
    elif field is None:
        header[name] = value
    else:
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
    header, _ = split(saved)
    data = json.loads(header["__metadata__"][KEY])
    data["n_inputs"] = data["layers"][0]["units"] = 2**31 - 1
    data["layers"] *= 1000
    header["__metadata__"][KEY] = json.dumps(data)
    content = join(header, b"")
    tracemalloc.start()
    try:
        refuse(saved, content, "truncated|parameters|describes no network")
        assert tracemalloc.get_traced_memory()[1] < 20 * len(content)
    finally:
        tracemalloc.stop()
    # The table agrees, but the file is short.
    size = (2**31 - 1) ** 2
    for name, entry in header.items():
        if name != "__metadata__":
            entry.update(shape=[2**31 - 1] * 2, data_offsets=[0, 4 * size])
    refuse(saved, join(header, b""), "truncated|begins at byte")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this platform")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        fanin.Network.load(tmp_path / "pipe")


def test_loading_needs_numpy_alone_and_no_pickle(saved):
    code = (
        "import sys, fanin\n"
        "sys.modules['safetensors'] = sys.modules['torch'] = None\n"
        "import pickle, _pickle\n"
        "def no(*a, **k): raise AssertionError\n"
        "pickle.loads = pickle.load = _pickle.loads = _pickle.load = no\n"
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


def test_the_header_is_bounded_when_it_is_written_too(tmp_path, monkeypatch):
    monkeypatch.setattr(_persistence, "MAX_HEADER", 100)
    with pytest.raises(ValueError, match="at most 100"):
        network().save(tmp_path / "n")
    assert os.listdir(tmp_path) == []
