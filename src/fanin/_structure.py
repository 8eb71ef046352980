"""Parameters as the user keeps them: arrays in lists, tuples and nested dicts.

One flat order serves everything: leaves in the order of the structure, the entries
of each array in C order. Each leaf becomes a named block of one long vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fanin._validation import FLOATS, overlaps_itself

MAX_DEPTH = 64


class Slots(Protocol):
    """Where the entries of one leaf are written, by their index in C order."""

    def __setitem__(self, index: int, value: float, /) -> None: ...


class ScalarSlot:
    """The one entry of a Python or NumPy float that lies in a list or a dict."""

    def __init__(self, container: Any, key: Any, kind: type) -> None:
        self.container, self.key, self.kind = container, key, kind

    def __setitem__(self, index: int, value: float, /) -> None:
        self.container[self.key] = self.kind(value)


@dataclass(frozen=True)
class Block:
    """A leaf: its name, its place in the flat vector, and what it is."""

    name: str
    expression: str
    where: slice
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(self.where.stop - self.where.start)


Path = tuple[tuple[str, Any], ...]


def _expression(root: str, path: Path) -> str:
    return root + "".join(f"[{key!r}]" for _, key in path)


def _name(path: Path) -> str:
    name = ""
    for kind, key in path:
        if kind == "key" and isinstance(key, str):
            name += f".{key}" if name else key
        else:
            name += f"[{key!r}]"
    return name or "params"


def _children(node: Any) -> list[tuple[str, Any, Any]] | None:
    """Return the (kind, key, child) triples of a container, None for a leaf."""
    if isinstance(node, Mapping):
        return [("key", key, child) for key, child in node.items()]
    if isinstance(node, (list, tuple)):
        return [("item", i, child) for i, child in enumerate(node)]
    return None


def _walk(node: Any, root: str, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Yield (path, container, leaf) in order."""
    if len(path) > MAX_DEPTH:
        raise ValueError(f"{root} is nested more than {MAX_DEPTH} levels deep")
    stack = _children(node)
    assert stack is not None
    for kind, key, child in stack:
        here = (*path, (kind, key))
        if _children(child) is None:
            yield here, node, child
        else:
            yield from _walk(child, root, here)


def _leaves(node: Any, root: str) -> Iterator[tuple[Path, Any, Any]]:
    if _children(node) is None:
        yield (), None, node
    else:
        yield from _walk(node, root)


def _check_leaf(leaf: Any, container: Any, what: str) -> None:
    """Refuse a leaf that cannot be perturbed in place, and say why."""
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.kind == "c":
            raise TypeError(
                f"{what} must be real (float32 or float64); got dtype {leaf.dtype}. "
                "Pass its real and its imaginary part as two arrays"
            )
        if leaf.dtype.newbyteorder("=") not in FLOATS:
            raise TypeError(
                f"{what} must be an array of float32 or float64, so that it can be "
                f"perturbed; got dtype {leaf.dtype}"
            )
        if not leaf.flags.writeable:
            raise ValueError(
                f"{what} is read-only; parameters are perturbed in place and restored, "
                "so pass a writable copy (array.copy())"
            )
        if overlaps_itself(leaf):
            raise ValueError(
                f"{what} reaches the same memory through two of its indices (a "
                "broadcast or sliding view); pass a copy (array.copy())"
            )
        where = np.flatnonzero(~np.isfinite(leaf))
        if where.size:
            index = tuple(int(i) for i in np.unravel_index(where[0], leaf.shape))
            raise ValueError(
                f"{what} must be finite; got {leaf[index]} at {list(index)}"
            )
        return
    if isinstance(leaf, (float, np.float32)):
        if not isinstance(container, (list, MutableMapping)):
            raise TypeError(
                f"{what} is a {type(leaf).__name__}, which cannot be perturbed in "
                f"place; pass an array such as numpy.array({leaf!r})"
            )
        if not np.isfinite(leaf):
            raise ValueError(f"{what} must be finite; got {leaf}")
        return
    raise TypeError(
        f"{what} must be a NumPy array of float32 or float64 (or a float in a list or "
        f"dict); got {type(leaf).__name__}"
    )


def _check_aliases(arrays: list[tuple[str, NDArray[Any]]]) -> None:
    """Refuse two arrays with a byte in common."""
    spans = sorted(
        (*np.lib.array_utils.byte_bounds(array), k)
        for k, (_, array) in enumerate(arrays)
        if array.size
    )
    open_spans: list[tuple[int, int]] = []
    for low, high, k in spans:
        open_spans = [(end, j) for end, j in open_spans if end > low]
        for _, j in open_spans:
            try:
                shared = np.shares_memory(
                    arrays[j][1],
                    arrays[k][1],
                    max_work=10_000,  # type: ignore[arg-type]
                )
            except np.exceptions.TooHardError:
                shared = True
            if shared:
                first, second = sorted((j, k))
                raise ValueError(
                    f"{arrays[second][0]} shares memory with {arrays[first][0]}, so "
                    "perturbing one changes the other; pass each array once"
                )
        open_spans.append((high, k))


class Parameters:
    """A structure of parameters that can be perturbed in place, entry by entry."""

    def __init__(self, structure: Any, root: str = "params") -> None:
        self.structure = structure
        self.blocks: list[Block] = []
        self.slots: list[Slots] = []
        self._arrays: list[NDArray[Any] | None] = []
        self._homes: list[tuple[Any, Any, Any]] = []  # container, key, leaf
        found = list(_leaves(structure, root))
        names = [_name(path) for path, _, _ in found]
        uses = Counter(names)
        start = 0
        for (path, container, leaf), name in zip(found, names, strict=True):
            what = _expression(root, path)
            _check_leaf(leaf, container, what)
            # {"a.b": ..., "a": {"b": ...}}: one name for two arrays is no name.
            shown = what if uses[name] > 1 else name
            array = np.asarray(leaf)
            where = slice(start, start + array.size)
            start += array.size
            dtype = array.dtype.newbyteorder("=")
            self.blocks.append(Block(shown, what, where, array.shape, dtype))
            key = path[-1][1] if path else None
            self._homes.append((container, key, leaf))
            if isinstance(leaf, np.ndarray):
                self._arrays.append(array)
                self.slots.append(_slots(array))
            else:
                self._arrays.append(None)
                self.slots.append(ScalarSlot(container, key, type(leaf)))
        self.size = start
        if start == 0:
            raise ValueError(f"{root} holds no entries: there is nothing to check")
        _check_aliases(
            [
                (block.expression, array)
                for block, array in zip(self.blocks, self._arrays, strict=True)
                if array is not None
            ]
        )
        self._saved = [None if a is None else a.copy(order="K") for a in self._arrays]
        self.vector = np.empty(self.size)
        for block, saved, home in zip(
            self.blocks, self._saved, self._homes, strict=True
        ):
            self.vector[block.where] = home[2] if saved is None else saved.ravel()

    @property
    def template(self) -> Any:
        """The shape of the structure, for `rebuild`; it holds no arrays."""
        blocks = iter(self.blocks)

        def describe(node: Any) -> Any:
            children = _children(node)
            if children is None:
                block = next(blocks)
                return ("leaf", block.where, block.shape)
            items = [(key, describe(child)) for _, key, child in children]
            if isinstance(node, Mapping):
                return ("dict", dict, items)
            if isinstance(node, tuple) and hasattr(node, "_fields"):
                return ("namedtuple", type(node), items)
            return ("sequence", tuple if isinstance(node, tuple) else list, items)

        return describe(self.structure)

    def changed(self) -> str | None:
        """Return the name of the first array that is not as it was, if any."""
        for block, array, saved, (container, key, leaf) in zip(
            self.blocks, self._arrays, self._saved, self._homes, strict=True
        ):
            if container is not None:
                try:
                    now = container[key]
                except LookupError:
                    return block.expression
                # A float comes back from its slot as an equal float.
                if now is not leaf and (array is not None or now != leaf):
                    return block.expression
            if array is None or saved is None:
                continue
            if not np.array_equal(array, saved):
                return block.expression
        return None

    def write(self, vector: NDArray[np.float64]) -> None:
        """Set all entries to those of a flat vector."""
        for block, array, slot in zip(
            self.blocks, self._arrays, self.slots, strict=True
        ):
            if array is not None:
                array[...] = vector[block.where].reshape(block.shape)
            else:
                slot[0] = float(vector[block.where.start])

    def restore(self) -> None:
        """Put every bit back."""
        for array, saved, (container, key, leaf) in zip(
            self._arrays, self._saved, self._homes, strict=True
        ):
            if array is not None:
                array[...] = saved
            if isinstance(container, (list, MutableMapping)):
                container[key] = leaf

    def duplicate(self) -> Parameters:
        """Return an independent copy, its arrays laid out as the originals are."""

        def copy(node: Any) -> Any:
            children = _children(node)
            if children is None:
                return _copy_as_laid_out(node) if isinstance(node, np.ndarray) else node
            copies = [copy(child) for _, _, child in children]
            if isinstance(node, Mapping):
                pairs = zip(node, copies, strict=True)
                try:
                    return type(node)(pairs)  # type: ignore[call-arg]
                except TypeError:  # a mapping whose constructor is its own
                    return dict(pairs)
            if isinstance(node, tuple) and hasattr(node, "_fields"):
                return type(node)(*copies)
            return tuple(copies) if isinstance(node, tuple) else copies

        return Parameters(copy(self.structure))


def _slots(array: NDArray[Any]) -> Slots:
    if array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative:
        # The quickest way to write one float: half the time of ndarray's own.
        return memoryview(array.reshape(-1))  # type: ignore[arg-type]
    return array.flat


def _copy_as_laid_out(array: NDArray[Any]) -> NDArray[Any]:
    """Copy with the same strides and alignment.

    NumPy and BLAS may add in another order, and so round otherwise, for another
    layout; then threads would not give the bits of the serial check.
    """
    if array.size == 0:
        return array.copy()
    low, high = np.lib.array_utils.byte_bounds(array)
    buffer = np.zeros(high - low + 64, dtype=np.uint8)
    shift = (low - buffer.ctypes.data) % 64
    start = array.__array_interface__["data"][0] - low
    copy: NDArray[Any] = np.ndarray(
        array.shape, array.dtype, buffer, shift + start, array.strides
    )
    copy[...] = array
    return copy


def rebuild(template: Any, vector: NDArray[np.float64]) -> Any:
    """Return `vector` in the structure that `template` describes, as copies."""
    if template is None:
        return vector.copy()
    if template[0] == "leaf":
        _, where, shape = template
        return vector[where].reshape(shape).copy()
    kind, factory, items = template
    values = [rebuild(child, vector) for _, child in items]
    if kind == "dict":
        return dict(zip((key for key, _ in items), values, strict=True))
    if kind == "namedtuple":
        return factory(*values)
    return factory(values)


def flatten_gradient(
    grad: Any, parameters: Parameters, root: str = "grad"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `grad`, which must match `parameters`, flat, and its rounding unit.

    The second array holds each entry's machine epsilon: a float32 gradient is known
    to seven digits however many its parameters have.
    """
    blocks = iter(parameters.blocks)
    vector = np.empty(parameters.size)
    unit = np.empty(parameters.size)

    def match(node: Any, like: Any, path: Path) -> None:
        what = _expression(root, path)
        children = _children(like)
        if children is None:
            _store(node, next(blocks), what, vector, unit)
            return
        if isinstance(like, Mapping):
            if not isinstance(node, Mapping):
                raise TypeError(
                    f"{what} must be a dict like params; got {type(node).__name__}"
                )
            missing = [key for key in like if key not in node]
            extra = [key for key in node if key not in like]
            if missing or extra:
                said = []
                if missing:
                    said.append(f"lacks {', '.join(map(repr, missing))}")
                if extra:
                    said.append(
                        f"has {', '.join(map(repr, extra))}, which params has not"
                    )
                raise ValueError(
                    f"{what} must have the keys of params; it {' and '.join(said)}"
                )
        else:
            if not isinstance(node, (list, tuple)):
                raise TypeError(
                    f"{what} must be a list or tuple like params; "
                    f"got {type(node).__name__}"
                )
            if len(node) != len(like):
                raise ValueError(
                    f"{what} must have {len(like)} items like params; got {len(node)}"
                )
        for kind, key, child in children:
            match(node[key], child, (*path, (kind, key)))

    match(grad, parameters.structure, ())
    return vector, unit


def _store(
    node: Any,
    block: Block,
    what: str,
    vector: NDArray[np.float64],
    unit: NDArray[np.float64],
) -> None:
    if node is None or isinstance(node, (str, bytes, Mapping)):
        raise TypeError(
            f"{what} must be an array of real numbers; got {type(node).__name__}"
        )
    try:
        array = np.asarray(node)
    except ValueError:
        raise ValueError(
            f"{what} must have shape {block.shape}; got a ragged sequence"
        ) from None
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{what} must be an array of real numbers; got dtype {array.dtype}"
        )
    if array.shape != block.shape:
        raise ValueError(f"{what} must have shape {block.shape}; got {array.shape}")
    with np.errstate(over="ignore"):
        vector[block.where] = array.ravel()
    if array.dtype.kind == "f":
        unit[block.where] = max(np.finfo(array.dtype).eps, np.finfo(np.float64).eps)
    else:
        unit[block.where] = np.finfo(np.float64).eps
