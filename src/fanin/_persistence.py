"""A network in one safetensors file: written whole or not at all, read with suspicion.

The safetensors library (https://github.com/huggingface/safetensors) knows the format:
a header of names, dtypes and shapes, held against the size of the file, and the
numbers. Here is what the library does not do: the architecture, as JSON in the
metadata under the key "fanin.Network" (`_specification`); replacing a file in one
step; and holding the shapes that a file claims against those of the network that it
describes, before memory is taken for either. Nothing that a file says is executed.

The tensors are those of `Network.named_parameters` and `Network.named_buffers`, by
their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fanin import _specification as specification
from fanin import initializers

if TYPE_CHECKING:
    from fanin.network import Network

__all__ = ["load", "save"]

N = TypeVar("N", bound="Network")

KEY = "fanin.Network"
# Raised when a file of the new kind would mean something else to an old reader.
VERSION = 1
FIELDS = ("version", "n_inputs", "dtype", "layers", "loss", "l2", "dropout")
# What files of before the option lack, and what held for them. A function is null.
LATER = {"init": None}
TYPES = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}
# A tensor is read in pieces of about so many bytes: the library returns each as a new
# array.
PIECE = 2**20


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "saving and loading a network needs safetensors 0.8 or newer: "
            'pip install "fanin[safetensors]"'
        ) from error
    return safetensors


def _tensors(network: Network) -> dict[str, NDArray[Any]]:
    return {**network.named_parameters(), **network.named_buffers()}


# --- writing ------------------------------------------------------------------------


def _describe(network: Network) -> dict[str, Any]:
    return {
        "version": VERSION,
        "n_inputs": network.n_inputs,
        "dtype": network.dtype.name,
        "layers": [
            specification.encode(layer, "layer", f"layers[{i}]")
            for i, layer in enumerate(network.layers)
        ],
        "loss": specification.encode(network.loss_function, "loss", "loss"),
        "l2": network._l2,
        "init": initializers.name_of(network._init),
        "dropout": [*network._dropout_key, network._draw],
    }


def save(network: Network, path: str | os.PathLike[str]) -> None:
    library = _library()
    text = json.dumps(_describe(network), allow_nan=False)
    # A link keeps pointing to the file.
    target = os.path.realpath(os.fsdecode(path))
    folder, name = os.path.split(target)
    # In the same directory, for only there is the replacement one step; and not by
    # the tempfile module, whose files nobody else may read.
    draft = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with open(draft, "xb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            error.filename = target  # nobody has asked for a draft
            raise
        try:
            library.numpy.save_file(_tensors(network), draft, {KEY: text})
        except library.SafetensorError as error:
            raise OSError(f"{target} cannot be written: {error}") from error
        # (The library puts a file of its own there, readable by its owner only.)
        os.chmod(draft, mode)
        with open(draft, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise


# --- reading ------------------------------------------------------------------------


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _parse(text: str, what: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON ({error})") from error


def _read_description(metadata: dict[str, str] | None) -> dict[str, Any]:
    """Return the arguments of the network that the metadata describe."""
    if metadata is None or KEY not in metadata:
        raise ValueError(f"its metadata have no {KEY!r}: fanin did not write it")
    data = _parse(metadata[KEY], f"its {KEY!r}")
    version = data.get("version") if isinstance(data, dict) else None
    if type(version) is int and version > VERSION:
        raise ValueError(
            f"it is of format version {version}, and this version of fanin reads "
            f"{VERSION}: a newer fanin has written it"
        )
    if isinstance(data, dict):
        data = LATER | data
    fields = specification.read_fields(data, f"its {KEY!r}", (*FIELDS, *LATER))
    if version != VERSION or type(version) is not int:
        raise ValueError(f"version must be {VERSION}; got {version!r:.60}")
    if not isinstance(fields["layers"], list):
        raise ValueError(
            f"layers must be a list; got {type(fields['layers']).__name__}"
        )
    if fields["dtype"] not in ("float32", "float64"):
        raise ValueError(
            f"dtype must be 'float32' or 'float64'; got {fields['dtype']!r:.60}"
        )
    return {
        "n_inputs": fields["n_inputs"],
        "dtype": fields["dtype"],
        "layers": [
            specification.decode(layer, "layer", f"layers[{i}]")
            for i, layer in enumerate(fields["layers"])
        ],
        "loss": specification.decode(fields["loss"], "loss", "loss"),
        "l2": fields["l2"],
        "init": "auto" if fields["init"] is None else fields["init"],
        "dropout": fields["dropout"],
    }


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:5]) + (", ..." if len(first) > 5 else "")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _compare(network: Network, file: Any) -> None:
    """Hold the tensors of a file against those of the network it describes."""
    expected = {name: (shape, network.dtype) for name, _, shape in network._blocks}
    for name, _, shape in network._state_blocks:
        expected[name] = shape, np.dtype(np.float64)
    names = set(file.keys())
    if missing := set(expected) - names:
        raise ValueError(f"it lacks the tensors {_listed(missing)}")
    if unknown := names - set(expected):
        raise ValueError(f"its network has no tensors {_listed(unknown)}")
    for name, (shape, dtype) in expected.items():
        tensor = file.get_slice(name)
        theirs = tuple(tensor.get_shape())
        code = tensor.get_dtype()
        if theirs != shape or TYPES.get(code) != dtype:
            raise ValueError(
                f"tensor {name!r} has shape {theirs} and dtype "
                f"{TYPES.get(code, code)}; its network's has {shape} and {dtype}"
            )


def _read_network(cls: type[N], file: Any) -> N:
    description = _read_description(file.metadata())
    network = cls.__new__(cls)
    masks = description.pop("dropout")
    if (
        not isinstance(masks, list)
        or len(masks) != 3
        or not all(_is_size(word) and word < 2**32 for word in masks[:2])
        or not (_is_size(masks[2]) and masks[2] < 2**63)
    ):
        raise ValueError(
            f"dropout must be a key of two words and a count; got {masks!r:.60}"
        )
    try:
        network._declare(**description)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"it describes no network: {error}") from error
    # Before the parameters are allocated, for a description costs nothing.
    _compare(network, file)
    network._allocate()
    network._dropout_key, network._draw = (masks[0], masks[1]), masks[2]
    for name, array in _tensors(network).items():
        tensor = file.get_slice(name)
        rows = max(1, PIECE * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            stop = min(start + rows, len(array))
            array[start:stop] = tensor[start:stop]
    return network


def load(cls: type[N], path: str | os.PathLike[str]) -> N:
    library = _library()
    name = os.fsdecode(path)
    # (Opening a pipe to look at it would wait for its other end.)
    if not stat.S_ISREG(os.stat(name).st_mode) and not os.path.isdir(name):
        raise ValueError(f"{name} is not a regular file")
    with open(name, "rb"):  # or the system's error, which the library does not pass on
        pass
    try:
        with library.safe_open(name, framework="numpy") as file:
            return _read_network(cls, file)
    except library.SafetensorError as error:
        raise ValueError(
            f"{name} is not a network that fanin has saved: it is cut short, damaged "
            f"or no safetensors file ({error})"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{name} is not a network that fanin has saved: {error}"
        ) from error
