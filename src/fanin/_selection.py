"""Which entries of a gradient are checked, in what order, and what that can show."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._structure import Parameters, flatten_mask

Entries = NDArray[np.intp]
# A block of the parameters, and which of its entries: flat indices, or a stretch.
Group = tuple[int, "slice | Entries"]

CONFIDENCE = 0.95
# The entries of a round, when a time limit may end the check after any of them.
FIRST_ROUND, LARGEST_ROUND = 64, 4096


class Selection:
    """The entries to check: all, those a mask names, or a random sample."""

    def __init__(
        self, indices: Any, parameters: Parameters, rng: np.random.Generator
    ) -> None:
        self.parameters, self.rng = parameters, rng
        self.sizes = np.array([block.size for block in parameters.blocks])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.entries: Entries | None = None  # None: all of them
        self.sampled = False
        if indices is None:
            return
        n = _count(indices)
        if n is None:
            self.entries = _chosen(indices, parameters)
        elif n < parameters.size:
            self.entries = self.sample(n)
            self.sampled = True

    def sample(self, n: int) -> Entries:
        """Return `n` entries, of each array a share like that of its size.

        At least one of each array, if `n` is that large.
        """
        counts = _shares(n, self.sizes, self.rng)
        drawn = [
            start + self.rng.choice(size, count, replace=False)
            for start, size, count in zip(self.starts, self.sizes, counts, strict=True)
            if count
        ]
        return np.sort(np.concatenate(drawn)).astype(np.intp)

    def groups(self) -> list[Group]:
        """Return the entries, array by array."""
        if self.entries is None:
            blocks = self.parameters.blocks
            return [(b, block.where) for b, block in enumerate(blocks) if block.size]
        return self._by_block(self.entries)

    def rounds(self) -> Iterator[Group]:
        """Yield the entries in a random order, all arrays within the first few."""
        left = self.entries
        n = self.parameters.size if left is None else left.size
        first = max(FIRST_ROUND, len(self.sizes))
        taken: Entries
        if n <= first:
            taken = np.arange(n) if left is None else left
        elif left is None:
            taken, left = self.sample(first), np.arange(n)
        else:
            # One of each array, then any.
            order = self.rng.permutation(left)
            _, one = np.unique(self._block_of(order), return_index=True)
            rest = np.delete(order, one)[: max(0, first - one.size)]
            taken = np.concatenate([order[one], rest])
        # One of each array before a second of any.
        order = self.rng.permutation(taken)
        _, one = np.unique(self._block_of(order), return_index=True)
        yield from self._shuffled(order[one])
        rest = np.delete(order, one)
        while rest.size:  # and few at a time, of all arrays alike
            yield from self._shuffled(rest[: one.size])
            rest = rest[one.size :]
        if n <= first or left is None:
            return
        left = self.rng.permutation(np.setdiff1d(left, taken, assume_unique=True))
        size = first
        while left.size:
            yield from self._shuffled(left[:size])
            left = left[size:]
            size = min(2 * size, max(LARGEST_ROUND, 64 * len(self.sizes)))

    def _shuffled(self, entries: Entries) -> list[Group]:
        groups = self._by_block(np.sort(entries))
        return [groups[k] for k in self.rng.permutation(len(groups))]

    def _block_of(self, entries: Entries) -> NDArray[np.intp]:
        # Empty arrays share their start with the next: "right" takes the last.
        return np.searchsorted(self.starts, entries, side="right") - 1

    def _by_block(self, entries: Entries) -> list[Group]:
        block = self._block_of(entries)
        cuts = np.flatnonzero(np.diff(block)) + 1
        return [
            (int(self._block_of(part[:1])[0]), part)
            for part in np.split(entries, cuts)
            if part.size
        ]

    def notes(self, checked: NDArray[np.bool_], timed_out: bool) -> list[str]:
        """Say what a check of these entries could have shown."""
        n, total = int(np.count_nonzero(checked)), checked.size
        if n == total:
            return []
        here = np.array(
            [np.count_nonzero(checked[b.where]) for b in self.parameters.blocks]
        )
        of = f"{amount(n)} of {amount(total)} checked"
        left_out = self.left_out(here, timed_out)
        if timed_out:
            of = f"the time limit ended the check: {of}"
        if self.entries is not None and not self.sampled:
            if timed_out:
                of += f", of the {amount(self.entries.size)} that `indices` names"
            return [f"{of}: nothing is known of the others", *left_out]
        looked = (here > 0) & (self.sizes > 0)
        # A fault may hide in the array of which the smallest share was looked at.
        population = int(self.sizes[looked].sum())
        rate = float((here[looked] / self.sizes[looked]).min())
        share = hidden_share(rate * population)
        where = "the entries"
        if (looked < (self.sizes > 0)).any():
            where = f"the entries of the {int(looked.sum())} arrays looked at"
        return [
            f"{of}: a fault in more than {100 * share:.2g} % of {where} would be seen "
            f"with {100 * CONFIDENCE:.0f} % probability",
            *left_out,
        ]

    def left_out(self, here: NDArray[np.int64], timed_out: bool) -> list[str]:
        """Say which arrays nobody has looked at, though nobody has asked for that."""
        names = [self.parameters.blocks[b].name for b in self.missed(here)]
        if not names:
            return []
        why = "the time limit" if timed_out else "so small a sample"
        shown = ", ".join(names[:3])
        if len(names) > 3:
            shown += f" and {len(names) - 3} more"
        return [f"{shown}: {why} left no entry to check; nothing is known of it"]

    def missed(self, here: NDArray[np.int64]) -> list[int]:
        """Return the arrays that should have been looked at; `here`: their counts."""
        wanted = self.sizes > 0
        if self.entries is not None and not self.sampled:
            wanted[:] = False
            wanted[self._block_of(self.entries)] = True
        return np.flatnonzero(wanted & (here == 0)).tolist()


def hidden_share(n: float) -> float:
    """Return the share of faulty entries that `n` random ones miss one time in 20."""
    return float(-math.expm1(math.log1p(-CONFIDENCE) / n))


def amount(n: int) -> str:
    """Return a number as one writes it: 5,000 or 1.2 M."""
    return f"{n:,}" if n < 1_000_000 else f"{n / 1e6:.3g} M"


def _count(indices: Any) -> int | None:
    """Return `indices` if it is a number, None if it is something else."""
    if isinstance(indices, (bool, np.bool_)):
        raise TypeError("indices must be a number or a mask; got a bool")
    if isinstance(indices, np.ndarray):
        return None  # also one of no dimensions: a mask of a scalar
    try:
        n = operator.index(indices)
    except TypeError:
        return None
    if n < 1:
        raise ValueError(f"indices must be at least 1; got {n}")
    return n


def _chosen(indices: Any, parameters: Parameters) -> Entries | None:
    """Return the flat indices of a mask or of a list of flat indices."""
    size = parameters.size
    flat = _flat(indices)
    if isinstance(indices, (float, np.floating, str)):
        raise TypeError(
            "indices must be an int (the size of a sample), a mask or flat indices; "
            f"got {type(indices).__name__}"
        )
    if flat is not None and flat.size == 0 and flat.ndim == 1:
        flat = flat.astype(np.intp)  # an empty list
    if flat is not None and flat.dtype.kind in "iu" and flat.ndim == 1:
        entries = np.unique(flat).astype(np.intp)
        if entries.size and not (entries[0] >= 0 and entries[-1] < size):
            raise ValueError(
                f"indices must be from 0 to {size - 1}, flat; got "
                f"{entries[0] if entries[0] < 0 else entries[-1]}"
            )
    else:
        if flat is not None and flat.dtype.kind == "b" and flat.shape == (size,):
            mask = flat
        else:
            mask = flatten_mask(indices, parameters)
        entries = np.flatnonzero(mask)
    if entries.size == 0:
        raise ValueError("indices names no entry: there is nothing to check")
    return None if entries.size == size else entries


def _flat(indices: Any) -> NDArray[Any] | None:
    """Return `indices` as an array, unless it is a structure of arrays."""
    if isinstance(indices, (Mapping, str)):
        return None
    if isinstance(indices, (list, tuple)) and not all(
        isinstance(k, (int, np.integer, np.bool_)) for k in indices
    ):
        return None
    return np.asarray(indices)


def _shares(
    n: int, sizes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Divide `n` among arrays like their sizes, at least one for each if it reaches."""
    filled = np.flatnonzero(sizes)
    counts = np.zeros(sizes.size, np.int64)
    if n <= filled.size:
        counts[rng.choice(filled, n, replace=False)] = 1
        return counts
    counts[filled] = 1
    others = np.maximum(sizes - 1, 0)
    exact = (n - filled.size) * (others / max(1, others.sum()))
    counts += np.floor(exact).astype(np.int64)
    missing = n - int(counts.sum())
    # The largest remainders get what is left (never an array that has none).
    order = np.argsort(np.floor(exact) - exact, kind="stable")
    counts[order[:missing]] += 1
    return np.minimum(counts, sizes)
