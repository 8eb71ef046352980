"""Other ways to evaluate than one Python call for each of two points.

The complex step, one call for many points, and functions in C.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._custom import FUNCTION, compiled_function, is_low_level
from fanin._evaluate import Check, Function, Pieces
from fanin._second_look import EPS64, points
from fanin._selection import Entries, Selection
from fanin._structure import Parameters, map_leaves

# What the stack of points that a vectorized function gets may take.
STACK_BYTES = 4 << 20

# The complex step, relative to the entry: its square is nothing beside 1.
COMPLEX_STEP = 1e-20


class ComplexCheck(Check):
    """Derivatives by the complex step: Im f(theta + i h e) / h."""

    per_entry = 1

    def __init__(self, fun: Function, parameters: Parameters, eps: float | None):
        if parameters.is_complex:
            raise ValueError(
                'method="complex" is for real parameters; check complex arrays with '
                'method="central"'
            )
        # A copy, so that the caller's arrays are left alone in second looks too.
        super().__init__(fun, parameters.duplicate(), None)
        self.eps = COMPLEX_STEP if eps is None else eps

    def _coarsen(self) -> None:
        eps = self.eps
        super()._coarsen()
        self.eps = eps  # (what has changed is the step of second looks)

    def _in_threads(self, pieces: Pieces, n_threads: int) -> None:
        self._run_threads(pieces, n_threads)  # it always gets copies

    def _prepare(self, kind: type) -> None:
        super()._prepare(kind)
        self.slope = np.full(self.n, math.nan)
        # No cancellation, so that the step may be as small as the entry asks for; of
        # the smallest numbers 1e-8 is enough, its square being below the rounding.
        theta = np.abs(self.parameters.vector)
        least = np.minimum(1e-8 * theta, 1e-300)
        self.height = np.maximum(self.eps * theta, least)
        self.height[theta == 0] = 1e-100

    def _state(self, own: bool) -> Any:
        writers: list[NDArray[np.complex128]] = []

        def convert(leaf: Any) -> Any:
            if not isinstance(leaf, np.ndarray):
                raise TypeError(
                    f"a {type(leaf).__name__} cannot be perturbed by a complex step; "
                    f"pass an array such as numpy.array({leaf!r})"
                )
            found = np.array(leaf, np.complex128)
            writers.append(found.reshape(-1))
            return found

        return map_leaves(self.parameters.structure, convert), writers

    def _piece(self, state: Any, b: int, entries: slice | Entries) -> None:
        structure, writers = state
        slot, fun = writers[b], self.fun
        block = self.parameters.blocks[b]
        flat = np.arange(self.n)[entries] if isinstance(entries, slice) else entries
        for i in flat.tolist():
            j = i - block.where.start
            theta, h = float(self.parameters.vector[i]), float(self.height[i])
            slot[j] = complex(theta, h)
            value = complex_scalar(fun(structure))
            slot[j] = theta
            self.slope[i] = value.imag / h
            self.f_plus[i] = self.f_minus[i] = value.real
            self.span[i] = 2 * h
            if self.stopped:
                return

    def _quotient(self) -> NDArray[np.float64]:
        return self.slope

    def _rounding(self) -> NDArray[np.float64]:
        return EPS64 * np.abs(self.numeric)

    def _examine(self, report: Any) -> None:
        from fanin._report import AGREES

        super()._examine(report)
        n = int(np.count_nonzero(self.status == AGREES))
        if n:
            # What decides is what the report shows.
            for i, value in self.confirmed.items():
                if self.status[i] == AGREES:
                    self.numeric[i] = value
            self.notes.append(
                f"real differences confirm {n} entries that the complex step denies: "
                "fun is not analytic there (abs, a conjugate, a comparison), or loses "
                'imaginary parts; method="central" serves it'
            )


def complex_scalar(value: Any) -> complex:
    """Return what `fun` returned for complex parameters, or say what is wrong."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, (complex, np.complexfloating)):
        return complex(value)
    if np.ndim(value):
        raise TypeError(
            f"fun must return a scalar; got an array of shape {np.shape(value)}"
        )
    raise TypeError(
        f"fun returned a real number ({type(value).__name__}) for complex parameters, "
        "so that there is no complex step: it drops the imaginary part, or reads "
        'other arrays than its argument; use method="central"'
    )


class VectorizedCheck(Check):
    """A function that takes a stack of points, and returns their values."""

    def __init__(self, fun: Function, parameters: Parameters, eps: float | None):
        self.many = fun
        super().__init__(self._one, parameters, eps)

    def _one(self, structure: Any) -> Any:
        """Evaluate at one point."""

        def stack(leaf: Any) -> Any:
            return leaf[None] if isinstance(leaf, np.ndarray) else np.array([leaf])

        return self._values(map_leaves(structure, stack), 1)[0]

    def _values(self, stacks: Any, k: int) -> NDArray[Any]:
        found = self.many(stacks)
        values = np.asarray(found)
        if values.shape != (k,) or values.dtype.kind not in "fiu":
            amount = "the points" if k == 1 else f"the {k} points"
            raise TypeError(
                f"fun must return one real value for each of {amount} of a stack, of "
                f"shape ({k},); got shape {values.shape} and dtype {values.dtype}"
            )
        return values

    def _prepare(self, kind: type) -> None:
        super()._prepare(kind)
        self._refuse_mixing()

    def _refuse_mixing(self) -> None:
        """Raise if the value at a point is another where it is one of a stack."""

        def values_at(scale: float) -> tuple[NDArray[Any], NDArray[Any]]:
            moved = [self._moved(scale), self._moved(-scale)]
            alone = [self.base, *map(self._value_at, moved)]
            self.parameters.restore()
            stack = _Stack(self.parameters, 3)
            for block, table in zip(self.parameters.blocks, stack.tables, strict=True):
                table[1:] = [point[block.where] for point in moved]
            kept = [table.copy() for table in stack.tables]
            self.n_evaluations += 3
            together = np.array(self._values(stack.structure, 3), float)
            for block, table, before in zip(
                self.parameters.blocks, stack.tables, kept, strict=True
            ):
                if (table != before).any():
                    raise _modified(block.expression)
            return np.array(alone), together

        alone, together = self._at_moved(values_at)
        with np.errstate(all="ignore"):
            apart = np.abs(alone - together)
            # What the order of summation changes is far less, a move far more.
            size = np.abs(alone).max()
            mixed = np.flatnonzero(apart > math.sqrt(self.epsilon) * size)
        if mixed.size and self._is_deterministic():
            k = int(mixed[0])
            raise ValueError(
                "fun must return the value of each point by itself: of a stack of 3 "
                f"points it returned {together[k]:.6g} for number {k}, which alone "
                f"has {alone[k]:.6g}; it mixes the points (a sum over the first axis?)"
            )

    def _state(self, own: bool) -> Any:
        parameters = self.parameters
        size = sum(block.size * block.dtype.itemsize for block in parameters.blocks)
        pairs = max(1, min(STACK_BYTES // (2 * size), self.n))
        return _Stack(parameters, 2 * pairs)

    def _piece(self, state: Any, b: int, entries: slice | Entries) -> None:
        block = self.parameters.blocks[b]
        flat = np.arange(self.n)[entries] if isinstance(entries, slice) else entries
        pairs = state.k // 2
        for first in range(0, flat.size, pairs):
            here = flat[first : first + pairs]
            m = here.size
            theta = self.parameters.vector[here]
            plus, minus, self.span[here] = points(theta, self.step[here], block.dtype)
            rows, columns = np.arange(m), here - block.where.start
            table = state.tables[b]
            table[rows, columns] = plus
            table[rows + m, columns] = minus
            # (A copy: what it returns may be a view of the stack.)
            values = np.array(self._values(state.first(2 * m), 2 * m), np.float64)
            table[rows, columns] = theta
            table[rows + m, columns] = theta
            state.refuse_change(2 * m)
            self.f_plus[here], self.f_minus[here] = values[:m], values[m:]
            if self.stopped:
                return


def _modified(what: str) -> ValueError:
    return ValueError(
        f"fun modified {what}; it must leave its argument as it is (the parameters "
        "have been restored)"
    )


class _Stack:
    """Points of a vectorized function: each array has an axis of `k` in front."""

    def __init__(self, parameters: Parameters, k: int) -> None:
        self.parameters, self.k = parameters, k
        self.tables: list[NDArray[Any]] = []  # (k, size) for each block
        self.known = False

        def stack(leaf: Any) -> NDArray[Any]:
            leaf = np.asarray(leaf)
            found = np.empty((k, *leaf.shape), leaf.dtype.newbyteorder("="))
            found[...] = leaf
            table = found.reshape(k, leaf.size)
            parts = [table.real, table.imag] if table.dtype.kind == "c" else [table]
            self.tables.extend(parts)
            return found

        self.structure = map_leaves(parameters.structure, stack)

    def first(self, k: int) -> Any:
        """Return the first `k` points."""
        if k == self.k:
            return self.structure
        return map_leaves(self.structure, lambda stack: stack[:k])

    def refuse_change(self, k: int) -> None:
        """Raise if the function wrote to the first stack that it got."""
        if self.known:
            return
        self.known = True
        for block, table in zip(self.parameters.blocks, self.tables, strict=True):
            if (table[:k] != self.parameters.vector[block.where]).any():
                raise _modified(block.expression)


class CallbackCheck(Check):
    """A function in C, evaluated on all cores without the GIL."""

    def __init__(
        self, fun: Any, parameters: Parameters, eps: float | None, n_threads: int
    ):
        from fanin._kernels import _callback

        for block in parameters.blocks:
            if block.dtype != np.float64 or block.part:
                raise TypeError(
                    f"{block.expression.removesuffix('.real')} must be float64: a "
                    "function in C takes double"
                )
        address, data = compiled_function(fun, FUNCTION, None, "fun")
        if data == 0 and not is_low_level(fun):
            # Nothing says what it is: a null pointer would end the process.
            raise TypeError(
                "fun takes user data, a third argument, and a bare function in C "
                "brings none; pass scipy.LowLevelCallable(fun, user_data), of a "
                "numba.cfunc with its .ctypes"
            )
        self.owner = fun  # keeps the address valid
        self.callback = _callback.Callback(address, data)
        self.point = np.empty(parameters.size)
        self.threads = n_threads
        super().__init__(self._one, parameters, eps)

    def _one(self, structure: Any) -> float:
        return self.callback.evaluate(self.parameters.read(self.point))

    def _in_threads(self, pieces: Pieces, n_threads: int) -> None:
        self._work(pieces, own=False)  # the threads are within a piece

    def _differences(
        self,
        selection: Selection | None,
        n_threads: int,
        deadline: float | None,
        progress: bool,
    ) -> None:
        super()._differences(selection, 1, deadline, progress)

    def _piece(self, state: Any, b: int, entries: slice | Entries) -> None:
        flat = np.arange(self.n)[entries] if isinstance(entries, slice) else entries
        theta = self.parameters.vector
        plus, minus, self.span[entries] = points(
            theta[entries], self.step[entries], theta.dtype
        )
        up, down = np.empty(flat.size), np.empty(flat.size)
        self.callback.differences(
            up, down, theta, np.ascontiguousarray(flat), plus, minus, self.threads
        )
        self.f_plus[entries], self.f_minus[entries] = up, down
