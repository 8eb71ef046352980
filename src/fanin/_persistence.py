"""A network in one safetensors file: written whole or not at all, read with suspicion.

The format (https://github.com/huggingface/safetensors) is 8 bytes with the length of
a header, little-endian; the header, JSON padded with spaces; and the numbers of the
tensors, end to end. It is written and read here, in few lines, because NumPy is all
that fanin needs at run time, because the numbers then go between the file and the
network's own vector without a copy in between, and because a file may be hostile:
every length it claims is held against the size of the file before memory is taken,
and nothing that it says is executed.

The architecture is in the header's metadata, under the key "fanin.Network", as JSON
(`_specification`). The tensors are those of `Network.named_parameters` and, if the
network has it, `Network.named_buffers`, by their names.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fanin import _specification as specification

if TYPE_CHECKING:
    from fanin.network import Network

__all__ = ["load", "save"]

N = TypeVar("N", bound="Network")

KEY = "fanin.Network"
# Raised when a file of the new kind would mean something else to an old reader.
VERSION = 1
FIELDS = ("version", "n_inputs", "dtype", "layers", "loss", "l2", "dropout")
# A header holds names and shapes, some hundred bytes a layer.
MAX_HEADER = 2**24
TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}


def _tensors(network: Network) -> dict[str, NDArray[Any]]:
    buffers = getattr(network, "named_buffers", dict)
    return {**network.named_parameters(), **buffers()}


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
        "dropout": [*network._dropout_key, network._draw],
    }


def save(network: Network, path: str | os.PathLike[str]) -> None:
    text = json.dumps(_describe(network), allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {KEY: text}}
    # The widest numbers first, so that all are aligned.
    tensors = sorted(_tensors(network).items(), key=lambda item: -item[1].itemsize)
    at = 0
    for name, array in tensors:
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER:
        raise ValueError(
            f"the network's description takes {len(encoded)} bytes; a file holds one "
            f"of at most {MAX_HEADER}"
        )
    # A link keeps pointing to the file.
    target = os.path.realpath(os.fsdecode(path))
    folder, name = os.path.split(target)
    # In the same directory, for only there is the replacement one step; and not by
    # the tempfile module, whose files nobody else may read.
    draft = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb") as file:
            file.write(len(encoded).to_bytes(8, "little"))
            file.write(encoded)
            for _, array in tensors:
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                file.write(np.ascontiguousarray(little).data)
            file.flush()
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


def _parse(text: str | bytes, what: str) -> Any:
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON ({error})") from error


def _read_header(file: io.BufferedReader, size: int) -> tuple[dict[str, Any], int]:
    """Return the header and where the numbers begin."""
    if size < 8:
        raise ValueError(f"it has {size} bytes; the length of the header takes 8")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_HEADER):
        raise ValueError(
            f"its first 8 bytes announce a header of {length} bytes; expected at most "
            f"{min(size - 8, MAX_HEADER)}: it is truncated or no safetensors file"
        )
    text = file.read(length)
    if text[:1] != b"{":
        raise ValueError("its header does not begin with '{': no safetensors file")
    return _parse(text, "its header"), 8 + length


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _read_table(
    header: dict[str, Any], n_bytes: int
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]:
    """Return dtype, shape and place of every tensor; together they fill the file."""
    found: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
    stretches = []
    for name, entry in header.items():
        where = f"tensor {name!r:.60}"
        fields = specification.read_fields(
            entry, where, ("dtype", "shape", "data_offsets")
        )
        dtype, shape, offsets = (fields[f] for f in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in TYPES:
            raise ValueError(f"{where} has dtype {dtype!r:.60}; expected F32 or F64")
        if not isinstance(shape, list) or not all(map(_is_size, shape)):
            raise ValueError(f"{where} has no shape: {shape!r:.60}")
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(map(_is_size, offsets))
        ):
            raise ValueError(f"{where} has no data_offsets: {offsets!r:.60}")
        start, stop = offsets
        if stop - start != math.prod(shape) * TYPES[dtype].itemsize:
            raise ValueError(
                f"{where} of shape {shape!r:.60} and dtype {dtype} does not take "
                f"{stop - start} bytes"
            )
        found[name] = TYPES[dtype], tuple(shape), start
        stretches.append((start, stop, where))
    at = 0
    for start, stop, where in sorted(stretches):
        if start != at:
            raise ValueError(f"{where} begins at byte {start}; expected {at}")
        at = stop
    if at != n_bytes:
        raise ValueError(
            f"its tensors take {at} bytes, and {n_bytes} follow the header: it is "
            "truncated or has something appended"
        )
    return found


def _read_description(metadata: Any) -> dict[str, Any]:
    """Return the arguments of the network that the metadata describe."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise ValueError(f"its metadata have no {KEY!r}: fanin did not write it")
    data = _parse(metadata[KEY], f"its {KEY!r}")
    version = data.get("version") if isinstance(data, dict) else None
    if type(version) is int and version > VERSION:
        raise ValueError(
            f"it is of format version {version}, and this version of fanin reads "
            f"{VERSION}: a newer fanin has written it"
        )
    fields = specification.read_fields(data, f"its {KEY!r}", FIELDS)
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
        "dropout": fields["dropout"],
    }


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:5]) + (", ..." if len(first) > 5 else "")


def _read_network(cls: type[N], file: io.BufferedReader, size: int) -> N:
    header, start = _read_header(file, size)
    metadata = header.pop("__metadata__", None)
    description = _read_description(metadata)
    table = _read_table(header, size - start)
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
    held = sum(math.prod(shape) for _, shape, _ in table.values())
    if held < network.n_parameters:
        # Before the parameters are allocated, for a description costs nothing.
        raise ValueError(
            f"it holds {held} numbers; its network has {network.n_parameters} "
            "parameters"
        )
    network._allocate()
    network._dropout_key, network._draw = (masks[0], masks[1]), masks[2]
    tensors = _tensors(network)
    if missing := set(tensors) - set(table):
        raise ValueError(f"it lacks the tensors {_listed(missing)}")
    if unknown := set(table) - set(tensors):
        raise ValueError(f"its network has no tensors {_listed(unknown)}")
    for name, array in tensors.items():
        dtype, shape, _ = table[name]
        if dtype != array.dtype or shape != array.shape:
            raise ValueError(
                f"tensor {name!r} has shape {shape} and dtype {dtype}; its network's "
                f"has {array.shape} and {array.dtype}"
            )
    for name, array in tensors.items():
        file.seek(start + table[name][2])
        # (A cast refuses an array that is not contiguous, rather than copy it.)
        if array.size and file.readinto(array.data.cast("B")) != array.nbytes:
            raise ValueError(f"it ended while tensor {name!r} was read")
        if sys.byteorder == "big":
            array.byteswap(inplace=True)
    return network


def load(cls: type[N], path: str | os.PathLike[str]) -> N:
    name = os.fsdecode(path)
    # (Opening a pipe to look at it would wait for its other end.)
    if not stat.S_ISREG(os.stat(name).st_mode) and not os.path.isdir(name):
        raise ValueError(f"{name} is not a regular file")
    with open(name, "rb") as file:
        try:
            return _read_network(cls, file, os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise ValueError(
                f"{name} is not a network that fanin has saved: {error}"
            ) from error
