"""Parameters as the user keeps them: arrays in lists, tuples and nested dicts.

One flat order serves everything: leaves in the order of the structure, the entries
of each array in C order. Each leaf becomes a named block of one long vector; a complex
array becomes two, its real and then its imaginary part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fanin._validation import FLOATS, overlaps_itself

MAX_DEPTH = 64
FEW = 128  # entries that are compared as bytes

NUMBERS = (*FLOATS, np.dtype(np.complex64), np.dtype(np.complex128))
# The dtype of a complex number's parts.
PART: dict[str, np.dtype[Any]] = {"F": np.dtype(np.float32), "D": np.dtype(np.float64)}


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
    part: str = ""  # "real" or "imag" of a complex array

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(self.where.stop - self.where.start)


Path = tuple[tuple[str, Any], ...]


def all_true(mask: NDArray[np.bool_]) -> bool:
    """Return ``mask.all()``, of a few values in a fifth of the time."""
    if mask.size <= FEW:
        return b"\0" not in mask.tobytes()
    return bool(mask.all())


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
    if isinstance(node, np.ndarray):
        return None  # (sooner than the question whether it is a mapping)
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
        if leaf.dtype not in FLOATS and leaf.dtype.newbyteorder("=") not in NUMBERS:
            raise TypeError(
                f"{what} must be an array of float32 or float64 (or their complex "
                f"kinds), so that it can be perturbed; got dtype {leaf.dtype}"
            )
        if not leaf.flags.writeable:
            raise ValueError(
                f"{what} is read-only; parameters are perturbed in place and restored, "
                "so pass a writable copy (array.copy())"
            )
        contiguous = leaf.flags.c_contiguous or leaf.flags.f_contiguous
        if not contiguous and overlaps_itself(leaf):
            raise ValueError(
                f"{what} reaches the same memory through two of its indices (a "
                "broadcast or sliding view); pass a copy (array.copy())"
            )
        finite = np.isfinite(leaf)
        if not all_true(finite):
            first = int(np.argmin(finite))
            index = tuple(int(i) for i in np.unravel_index(first, leaf.shape))
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
    if len(arrays) < 2:
        return
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

    def __init__(
        self,
        structure: Any,
        root: str = "params",
        vector: NDArray[np.float64] | None = None,
    ) -> None:
        """`vector`: what the arrays are the parts of, if nothing will be perturbed."""
        self.structure = structure
        self.blocks: list[Block] = []
        self.slots: list[Slots] = []
        self._arrays: list[NDArray[Any] | None] = []
        self._homes: list[tuple[Any, Any, Any]] = []  # container, key, leaf
        self.size = 0
        found = list(_leaves(structure, root))
        names = [_name(path) for path, _, _ in found]
        uses = Counter(names) if len(names) > 1 else {names[0]: 1} if names else {}
        whole: list[tuple[str, NDArray[Any]]] = []
        for (path, container, leaf), name in zip(found, names, strict=True):
            what = _expression(root, path)
            _check_leaf(leaf, container, what)
            # {"a.b": ..., "a": {"b": ...}}: one name for two arrays is no name.
            shown = what if uses[name] > 1 else name
            key = path[-1][1] if path else None
            home = (container, key, leaf)
            if not isinstance(leaf, np.ndarray):
                kind = np.dtype(np.float32 if type(leaf) is np.float32 else np.float64)
                self._add(shown, what, (), kind, home, None)
                continue
            whole.append((what, leaf))
            if leaf.dtype.kind == "c":
                dtype = PART[leaf.dtype.char]
                for part in ("real", "imag"):
                    view = getattr(leaf, part)
                    label, place = f"{shown}.{part}", f"{what}.{part}"
                    self._add(label, place, leaf.shape, dtype, home, view, part)
            else:
                dtype = leaf.dtype.newbyteorder("=")
                self._add(shown, what, leaf.shape, dtype, home, leaf)
        if self.size == 0:
            raise ValueError(f"{root} holds no entries: there is nothing to check")
        _check_aliases(whole)
        self._saved: list[NDArray[Any] | None] = []
        if vector is not None:
            self.vector = vector
            return
        self._saved = [a if a is None else a.copy(order="K") for a in self._arrays]
        self.vector = np.empty(self.size)
        for block, array, home in zip(
            self.blocks, self._arrays, self._homes, strict=True
        ):
            self.vector[block.where] = home[2] if array is None else array.ravel()

    def _add(
        self,
        name: str,
        expression: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        home: tuple[Any, Any, Any],
        array: NDArray[Any] | None,
        part: str = "",
    ) -> None:
        start = self.size
        self.size += math.prod(shape)
        where = slice(start, self.size)
        self.blocks.append(Block(name, expression, where, shape, dtype, part))
        self._homes.append(home)
        self._arrays.append(array)
        container, key, leaf = home
        self.slots.append(
            ScalarSlot(container, key, type(leaf)) if array is None else _slots(array)
        )

    @property
    def is_complex(self) -> bool:
        """Whether an array is complex."""
        return any(block.part for block in self.blocks)

    def write(self, vector: NDArray[np.float64]) -> None:
        """Set all entries to those of a flat vector."""
        for block, array, slot in zip(
            self.blocks, self._arrays, self.slots, strict=True
        ):
            if array is not None:
                array[...] = vector[block.where].reshape(block.shape)
            else:
                slot[0] = float(vector[block.where.start])

    def read(self, out: NDArray[np.float64]) -> NDArray[np.float64]:
        """Copy all entries, as they are now, into a flat vector."""
        for block, array, (container, key, leaf) in zip(
            self.blocks, self._arrays, self._homes, strict=True
        ):
            if array is not None:
                out[block.where] = array.ravel()
            else:
                out[block.where] = leaf if container is None else container[key]
        return out

    def like(self, vector: NDArray[np.float64]) -> Any:
        """Return a flat vector as a structure of arrays of the parameters' dtypes."""
        blocks = iter(self.blocks)

        def take(leaf: Any) -> Any:
            block = next(blocks)
            values = vector[block.where].reshape(block.shape)
            if not isinstance(leaf, np.ndarray):
                return type(leaf)(values)
            found = np.empty(block.shape, leaf.dtype)
            if block.part:
                found.real = values
                found.imag = vector[next(blocks).where].reshape(block.shape)
            else:
                found[...] = values
            return found

        return map_leaves(self.structure, take)

    @property
    def template(self) -> Any:
        """The shape of the structure, for `rebuild`; it holds no arrays."""
        blocks = iter(self.blocks)

        def describe(node: Any) -> Any:
            children = _children(node)
            if children is None:
                block = next(blocks)
                if block.part:
                    return ("complex", block.where, next(blocks).where, block.shape)
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
            if array.size <= FEW:
                same = array.tobytes() == saved.tobytes()  # a quarter of the time
            else:
                same = array.shape == saved.shape and bool((array == saved).all())
            if not same:
                return block.expression
        return None

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

        def copy(leaf: Any) -> Any:
            return _copy_as_laid_out(leaf) if isinstance(leaf, np.ndarray) else leaf

        return Parameters(map_leaves(self.structure, copy))


def map_leaves(node: Any, function: Callable[[Any], Any]) -> Any:
    """Return a structure like `node` with ``function(leaf)`` for each leaf."""
    children = _children(node)
    if children is None:
        return function(node)
    found = [map_leaves(child, function) for _, _, child in children]
    if isinstance(node, Mapping):
        pairs = zip(node, found, strict=True)
        try:
            return type(node)(pairs)  # type: ignore[call-arg]
        except TypeError:  # a mapping whose constructor is its own
            return dict(pairs)
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*found)
    return tuple(found) if isinstance(node, tuple) else found


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
    if template[0] == "complex":
        _, real, imag, shape = template
        found = np.empty(shape, np.complex128)
        found.real = vector[real].reshape(shape)
        found.imag = vector[imag].reshape(shape)
        return found
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

    def store(node: Any, what: str) -> None:
        block = next(blocks)
        array = _array_like(node, block, what, "fiuc" if block.part else "fiu")
        where = block.where
        if array.dtype == np.float64:
            vector[where] = array.ravel()
            unit[where] = EPS64
            if not block.part:
                return
        with np.errstate(over="ignore"):
            vector[where] = array.real.ravel()
            if block.part:
                imag = next(blocks)
                vector[imag.where] = array.imag.ravel()
                where = slice(where.start, imag.where.stop)
        unit[where] = EPS64
        if array.dtype != np.float64 and array.dtype.kind in "fc":
            unit[where] = max(np.finfo(array.dtype).eps, EPS64)

    _match(grad, parameters, root, store)
    return vector, unit


def flatten_mask(
    mask: Any, parameters: Parameters, root: str = "indices"
) -> NDArray[np.bool_]:
    """Return a structure of Boolean arrays, which must match `parameters`, flat."""
    blocks = iter(parameters.blocks)
    vector = np.empty(parameters.size, np.bool_)

    def store(node: Any, what: str) -> None:
        block = next(blocks)
        array = _array_like(node, block, what, "b")
        vector[block.where] = array.ravel()
        if block.part:
            vector[next(blocks).where] = array.ravel()

    _match(mask, parameters, root, store)
    return vector


EPS64 = float(np.finfo(np.float64).eps)
KINDS = {
    "b": "Booleans",
    "fiu": "real numbers",
    "fiuc": "real or complex numbers",
}


def _match(
    node: Any, parameters: Parameters, root: str, store: Callable[[Any, str], None]
) -> None:
    """Call ``store(leaf, what)`` for the leaves, which must be where `params` has."""

    def match(node: Any, like: Any, path: Path) -> None:
        children = _children(like)
        what = _expression(root, path)
        if children is None:
            store(node, what)
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

    match(node, parameters.structure, ())


def _array_like(node: Any, block: Block, what: str, kinds: str) -> NDArray[Any]:
    """Return a leaf as an array of the block's shape and one of these kinds."""
    wanted = KINDS[kinds]
    if not isinstance(node, np.ndarray) and (
        node is None or isinstance(node, (str, bytes, Mapping))
    ):
        raise TypeError(f"{what} must be an array of {wanted}; got {_type(node)}")
    try:
        array = np.asarray(node)
    except ValueError:
        raise ValueError(
            f"{what} must have shape {block.shape}; got a ragged sequence"
        ) from None
    if array.dtype.kind not in kinds:
        raise TypeError(f"{what} must be an array of {wanted}; got dtype {array.dtype}")
    if array.shape != block.shape:
        raise ValueError(f"{what} must have shape {block.shape}; got {array.shape}")
    return array


def _type(node: Any) -> str:
    return type(node).__name__
