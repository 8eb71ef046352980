"""Where and how often a gradient check evaluates the function.

`Check` is one check of one Python function whose parameters are perturbed in place.
The other ways to evaluate (`_methods.py`) replace what it does for a piece of the
entries.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import _report
from fanin._directions import Directions
from fanin._kinks import OutOfTime
from fanin._report import GradientReport
from fanin._second_look import EPS32, EPS64, STEPS, points, scalar
from fanin._selection import Entries, Group, Selection
from fanin._structure import Parameters, all_true

# A float32 difference at that step is good to EPS32^(2/3) = 2.4e-5 of the function's
# value; 1e-3 leaves it the factor 50 that 1e-7 leaves a float64 one (2e-9).
THRESHOLDS64 = (1e-7, 1e-3)
THRESHOLDS32 = (1e-3, 1e-1)

FLOAT32 = np.dtype(np.float32)

# A relative step that leaves 16 numbers between the points.
COARSE = 32 * EPS64

# How far parameters are moved, relative to them, to see what a function looks at.
FAR = 1e-2

# Entries whose Python floats are held at one time.
CHUNK = 4096
# How long a piece of the work should take where somebody waits for its end.
PIECE_SECONDS = 0.02

Function = Callable[[Any], Any]
# Takes the steps and fills f_plus, f_minus, their difference and the distance of the
# points; returns which entries it has filled, what is to be said of the others, and
# whether an array was not reached that should have been.
Differences = Callable[..., tuple[NDArray[np.bool_], list[str], bool]]

# Immutable types of exact value, kept as they are until the end of a chunk.
_PLAIN_TYPES = (float, np.float64, np.float32)
_EPSILONS = {float: EPS64, np.float64: EPS64, np.float32: EPS32}


def epsilon_of(value: Any) -> float:
    """Return the machine epsilon of what a function returned."""
    known = _EPSILONS.get(type(value))
    if known is not None:
        return known
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return EPS64
    try:
        found = np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        return EPS32 if "float16" in str(dtype) else EPS64
    if found.kind not in "fc":
        return EPS64
    return max(EPS64, float(np.finfo(found).eps))


def refuse_change(parameters: Parameters, who: str) -> None:
    """Raise if a function of the user's has changed its argument."""
    changed = parameters.changed()
    if changed is not None:
        raise ValueError(
            f"{who} modified {changed}; it must leave its argument as it is "
            "(the parameters have been restored)"
        )


def progress_bar(total: int) -> Any:
    """Return a bar that counts entries."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            'progress=True needs tqdm: pip install tqdm, or "fanin[demo]"'
        ) from None
    return tqdm(total=total, unit="entry")


def _own_and_rounding(own: NDArray[np.float64], *values: Any) -> NDArray[np.float64]:
    return own + _report.rounding_error(*values)


class Pieces:
    """The entries to check, piece by piece, for one thread or several.

    Without anybody who waits (a bar, a time limit) pieces have `size` entries; else
    as many as take PIECE_SECONDS.
    """

    def __init__(
        self, groups: Iterable[Group], size: int, deadline: float | None, bar: Any
    ) -> None:
        self.groups: Iterator[Group] = iter(groups)
        self.group: tuple[int, Any, int, int] | None = None  # block, entries, at, n
        self.largest, self.deadline, self.bar = size, deadline, bar
        self.timed = deadline is not None or bar is not None
        self.size = 1 if self.timed else size
        self.given = False
        self.timed_out = False
        self.lock = threading.Lock()

    def take(self) -> Group | None:
        """Return the next piece, or None: the work is done, or the time is over."""
        with self.lock:
            if self.group is None:
                found = next(self.groups, None)
                if found is None:
                    return None
                b, entries = found
                if isinstance(entries, slice):
                    n = entries.stop - entries.start
                else:
                    n = entries.size
                self.group = (b, entries, 0, n)
            if self.deadline is not None and self.given:
                self.timed_out = self.timed_out or time.perf_counter() > self.deadline
                if self.timed_out:
                    return None
            b, entries, first, n = self.group
            last = min(n, first + self.size)
            self.group = (b, entries, last, n) if last < n else None
            self.given = True
            if isinstance(entries, slice):
                return b, slice(entries.start + first, entries.start + last)
            return b, entries[first:last]

    def done(self, n: int, seconds: float) -> None:
        """Note that a piece of `n` entries is done."""
        if not self.timed:
            return
        with self.lock:
            if seconds < PIECE_SECONDS / 2 and n >= self.size:
                self.size = min(self.largest, 2 * self.size)
            elif seconds > 2 * PIECE_SECONDS:
                self.size = max(1, n // 2)
            if self.bar is not None:
                self.bar.update(n)


class Check(Directions):
    """One check of one function: where it evaluates, and how often."""

    # Evaluations an entry takes.
    per_entry = 2

    def __init__(self, fun: Function, parameters: Parameters, eps: float | None):
        self.fun, self.parameters = fun, parameters
        self.n = parameters.size
        size = np.maximum(1.0, np.abs(parameters.vector))
        dtypes = {block.dtype for block in parameters.blocks if block.size}
        # The step named in the report is the coarsest that was used.
        self.eps = max(STEPS[d] for d in dtypes) if eps is None else eps
        if eps is not None or len(dtypes) == 1:
            self.step = self.eps * size
        else:
            self.step = size
            for block in parameters.blocks:
                self.step[block.where] *= STEPS[block.dtype]
        self.given_eps = eps
        self.unknown = False  # whether an array to be checked was not reached
        self.single = FLOAT32 in dtypes
        self.checked: NDArray[np.bool_] | None = None
        self.stopped = self.timed_out = False
        self.n_evaluations = 0
        self.directions: list[_report.DirectionRecord] = []
        self.notes: list[str] = []
        self.confirmed: dict[
            int, float
        ] = {}  # what other steps found, where they agree

    def run(
        self,
        analytic: NDArray[np.float64],
        unit: NDArray[np.float64],
        thresholds: tuple[float, float] | None,
        *,
        selection: Selection | None = None,
        n_threads: int = 1,
        n_directions: int = 0,
        time_limit: float | None = None,
        progress: bool = False,
    ) -> GradientReport:
        """Return the report: differences, and second looks where they are needed."""
        start = time.perf_counter()
        parameters = self.parameters
        self.analytic = analytic
        value = self.fun(parameters.structure)
        self.base = scalar(value)
        self.epsilon = self._epsilon(value)
        refuse_change(parameters, "fun")
        if self.given_eps is None and self.epsilon > EPS64:
            self._coarsen()
        if thresholds is None:
            coarse = self.single or self.epsilon > EPS64
            thresholds = THRESHOLDS32 if coarse else THRESHOLDS64
        self.thresholds = thresholds

        deadline = None if time_limit is None else start + time_limit
        self._prepare(type(value))
        self._differences(selection, n_threads, deadline, progress)
        if time_limit is not None:
            self.last = start + 2 * time_limit
        refuse_change(parameters, "fun")
        n = self.n
        if self.checked is not None:
            n = int(np.count_nonzero(self.checked))
        self.n_evaluations += self.per_entry * n + 1

        with np.errstate(all="ignore"):
            self.numeric = self._quotient()
            self.size = np.abs(analytic)
            self.own_error = unit * self.size
            clean = self._is_clean() and not n_directions
        # (A random function agrees with nothing.)
        same = clean or self._is_deterministic()
        self.deterministic = same
        self.status = self._first_status()
        self.noise, self.noise_known = 0.0, False
        report = self._report(same, clean)
        if not same or not math.isfinite(self.base):
            return report
        try:
            if n_directions:
                assert selection is not None
                self._look_along(n_directions, selection.rng, unit)
                report = self._report(same)
            if self._is_settled(report):
                return report
            if not self.noise_known:
                self.noise, self.noise_known = self._measure_noise(), True
            self.own_error += self._gradient_noise()
            report = self._report(same)
            if not self._is_settled(report):
                self._examine(report)
                report = self._report(same)
            if not self._is_settled(report):
                self._finish(report)
        except OutOfTime:
            parameters.restore()
            self.timed_out = True
            self.notes.append(
                "the time limit ended the second looks (the noise of fun, other steps, "
                "kinks, directions, Taylor remainders) before they were done: some of "
                "the findings rest on single differences"
            )
            report = self._report(same)
            report._explain(parameters.vector)
        refuse_change(parameters, "fun")
        return report

    @staticmethod
    def _is_settled(report: GradientReport) -> bool:
        """Whether a second look could change nothing."""
        if report.ok:
            return True
        verdicts = {record.verdict for record in report.blocks.values()}
        verdicts |= {record.verdict for record in report.directions}
        return verdicts <= {"correct", "unchecked"}

    def may_be_shadowed(self, eps: float | None) -> bool:
        """Whether a check in float64 may decide what this one, in float32, did not."""
        return (
            self.single
            and eps is None
            and type(self) is Check
            and self.deterministic
            and math.isfinite(self.base)
            and not self.timed_out
        )

    def _coarsen(self) -> None:
        """Take the step that suits values of float32, or fewer digits still."""
        eps = STEPS[FLOAT32] if self.epsilon <= EPS32 else self.epsilon ** (1 / 3)
        least = eps * np.maximum(1.0, np.abs(self.parameters.vector))
        if (self.step < least).any():
            self.step = np.maximum(self.step, least)
            self.eps = max(self.eps, eps)
            self.notes.append(
                f"fun returns fewer digits than float64 has, such as float32: eps is "
                f"{eps:.2g}, the cube root of what its values are known to; a function "
                "that computes in float64 is checked far more sharply"
            )

    def _moved(self, scale: float) -> NDArray[np.float64]:
        """Return the parameters, moved by that share of their size."""
        size = scale * np.maximum(1.0, np.abs(self.parameters.vector))
        signs = np.random.default_rng(0).choice([-1.0, 1.0], self.n)
        moved = self.parameters.vector + size * signs
        return self._representable(moved)

    def _at_moved(self, values_at: Callable[[float], Any]) -> Any:
        """Return ``values_at(scale)``, for a small scale if a large one will not do."""
        with np.errstate(all="ignore"):
            try:
                try:
                    return values_at(FAR)
                except (ArithmeticError, ValueError):  # not defined there, say
                    self.parameters.restore()
                    return values_at(self.eps)
            finally:
                self.parameters.restore()

    def _refuse_globals(self) -> None:
        """Raise if the function follows its own arrays and not its argument."""
        copy = self.parameters.duplicate()

        def values_at(scale: float) -> tuple[float, float]:
            moved = self._moved(scale)
            value = self._value_at(moved)
            self.parameters.restore()
            copy.write(moved)
            self.n_evaluations += 1
            return value, scalar(self.fun(copy.structure))

        value, other = self._at_moved(values_at)
        change = abs(value - self.base)
        if change > 0 and abs(value - other) > change / 2 and self._is_deterministic():
            raise ValueError(
                "fun must use its argument where n_threads is more than 1: each thread "
                "has its own copy of params, and fun does not follow a change there as "
                "it does in params itself; it reads other arrays"
            )

    def _is_deterministic(self) -> bool:
        again = scalar(self.fun(self.parameters.structure))
        refuse_change(self.parameters, "fun")
        self.n_evaluations += 1
        return self.base == again or (math.isnan(self.base) and math.isnan(again))

    # -- what other ways to evaluate replace ---------------------------------------

    def _epsilon(self, value: Any) -> float:
        return epsilon_of(value)

    def _quotient(self) -> NDArray[np.float64]:
        return (self.f_plus - self.f_minus) / self.span

    def _first_status(self) -> NDArray[np.int8]:
        return np.zeros(self.n, np.int8)

    def _gradient_noise(self) -> NDArray[np.float64] | float:
        """Return the error of the analytic entries beyond that of their last digit."""
        return 0.0

    def _state(self, own: bool) -> Any:
        """Return what a thread evaluates with; `own`: it is not alone."""
        return self.parameters.duplicate() if own else self.parameters

    def _piece(self, state: Any, b: int, entries: slice | Entries) -> None:
        """Evaluate on both sides of some entries of a block."""
        block = self.parameters.blocks[b]
        theta = self.parameters.vector[entries]
        plus, minus, span = points(
            theta, self.step[entries], block.dtype, self.eps > COARSE
        )
        self.span[entries] = span
        places: Iterable[int]
        if isinstance(entries, slice):
            first = block.where.start
            places = range(entries.start - first, entries.stop - first)
        else:
            places = (entries - block.where.start).tolist()
        moves = zip(places, plus.tolist(), minus.tolist(), theta.tolist(), strict=True)
        above: list[Any] = []
        below: list[Any] = []

        # The lean loop: names are local, values of a type that is safe to keep are
        # converted at the end.
        fun, argument, slot = self.fun, state.structure, state.slots[b]
        kind = self.kind
        add_above, add_below = above.append, below.append
        for j, up, down, back in moves:
            slot[j] = up
            value = fun(argument)
            add_above(value if type(value) is kind else scalar(value))
            slot[j] = down
            value = fun(argument)
            add_below(value if type(value) is kind else scalar(value))
            slot[j] = back
            if self.stopped:
                return
        self.f_plus[entries] = above
        self.f_minus[entries] = below

    # -- the order of the work -----------------------------------------------------

    def _prepare(self, kind: type) -> None:
        self.kind = kind if kind in _PLAIN_TYPES else float
        values = np.empty((3, self.n))
        values.fill(math.nan)
        self.f_plus, self.f_minus, self.span = values

    def _differences(
        self,
        selection: Selection | None,
        n_threads: int,
        deadline: float | None,
        progress: bool,
    ) -> None:
        groups: Iterable[Group]
        total = self.n
        if selection is None:
            assert deadline is None
            blocks = self.parameters.blocks
            groups = [(b, block.where) for b, block in enumerate(blocks) if block.size]
        else:
            groups = selection.groups() if deadline is None else selection.rounds()
            if selection.entries is not None:
                total = selection.entries.size
            if selection.entries is not None or deadline is not None:
                self.checked = np.zeros(self.n, np.bool_)
        size = CHUNK
        if n_threads > 1:  # enough pieces for threads to end together
            size = min(CHUNK, max(1, -(-total // (8 * n_threads))))
        bar = progress_bar(total) if progress else None
        if n_threads == 1 and deadline is None and bar is None:
            state = self._state(False)
            for b, entries in groups:
                self._pieces(state, b, entries)
                if self.checked is not None:
                    self.checked[entries] = True
            if selection is not None and self.checked is not None:
                self._note(selection, False)
            return
        pieces = Pieces(groups, size, deadline, bar)
        try:
            if n_threads == 1:
                self._work(pieces, own=False)
            else:
                self._in_threads(pieces, min(n_threads, total))
        finally:
            if bar is not None:
                bar.close()
        if selection is not None and self.checked is not None:
            self._note(selection, pieces.timed_out)

    def _note(self, selection: Selection, timed_out: bool) -> None:
        assert self.checked is not None
        self.timed_out = timed_out
        self.notes += selection.notes(self.checked, timed_out)
        here = np.array(
            [np.count_nonzero(self.checked[b.where]) for b in self.parameters.blocks]
        )
        self.unknown = bool(selection.missed(here))
        if self.checked.all():
            self.checked = None

    def _pieces(self, state: Any, b: int, entries: slice | Entries) -> None:
        """Evaluate all of a group, nobody waiting for its parts."""
        if isinstance(entries, slice):
            for first in range(entries.start, entries.stop, CHUNK):
                last = min(first + CHUNK, entries.stop)
                self._piece(state, b, slice(first, last))
        else:
            for first in range(0, entries.size, CHUNK):
                self._piece(state, b, entries[first : first + CHUNK])

    def _work(self, pieces: Pieces, own: bool) -> None:
        state = self._state(own)
        while (piece := pieces.take()) is not None:
            b, entries = piece
            begun = time.perf_counter()
            self._piece(state, b, entries)
            if self.stopped:
                return
            if self.checked is not None:
                self.checked[entries] = True
            if pieces.timed:
                n = self.span[entries].size
                pieces.done(n, time.perf_counter() - begun)

    def _in_threads(self, pieces: Pieces, n_threads: int) -> None:
        self._refuse_globals()
        self._run_threads(pieces, n_threads)

    def _run_threads(self, pieces: Pieces, n_threads: int) -> None:
        from concurrent.futures import Future, ThreadPoolExecutor  # slow to import

        def task() -> None:
            try:
                self._work(pieces, own=True)
            except BaseException:
                self.stopped = True
                raise

        with ThreadPoolExecutor(n_threads, "fanin-check") as pool:
            futures: list[Future[None]] = []
            try:
                futures.extend(pool.submit(task) for _ in range(n_threads))
                for future in futures:
                    future.result()
            finally:
                # Also after Ctrl-C here: the threads end with their evaluation.
                self.stopped = True
                for future in futures:
                    future.cancel()
        self.stopped = False

    # -- the report ----------------------------------------------------------------

    def _is_clean(self) -> bool:
        """Whether every entry agrees within the lower threshold, by itself."""
        gap = np.abs(self.numeric - self.analytic)
        # (Of an infinite value everything would be near.)
        near = (gap <= self.thresholds[0] * self.size) & (gap < np.inf)
        if self.checked is not None:
            near |= ~self.checked
        return all_true(near)

    def _report(self, deterministic: bool, clean: bool = False) -> GradientReport:
        blocks = self.parameters.blocks
        estimate: Any = partial(
            _own_and_rounding,
            self.own_error,
            self.f_plus,
            self.f_minus,
            self.span,
            self.epsilon,
        )
        if not clean or type(self)._rounding is not Check._rounding:
            self.error = estimate = self.own_error + self._rounding()
        return GradientReport._from_vectors(
            self.analytic,
            self.numeric,
            [(block.name, block.where, block.shape) for block in blocks],
            eps=self.eps,
            thresholds=self.thresholds,
            step=self.span / 2,
            f_plus=self.f_plus,
            f_minus=self.f_minus,
            error_estimate=estimate,
            status=self.status if clean else self.status.copy(),
            deterministic=deterministic,
            template=self.parameters.template,
            n_evaluations=self.n_evaluations,
            checked=None if self.checked is None else self.checked.copy(),
            directions=self.directions,
            notes=self.notes,
            clean=clean,
            unknown=self.unknown,
        )


class CompiledCheck(Check):
    """A check whose differences come from compiled code, in one call."""

    def __init__(
        self,
        fun: Function,
        parameters: Parameters,
        eps: float | None,
        differences: Differences,
        gradient_noise: Callable[[], NDArray[np.float64]],
        status: NDArray[np.int8] | None = None,
    ):
        super().__init__(fun, parameters, eps)
        self.differences = differences
        self._gradient_noise = gradient_noise  # type: ignore[method-assign]
        self.given_status = status

    def _differences(self, *_: Any) -> None:
        self.difference = np.full(self.n, math.nan)
        checked, notes, self.unknown = self.differences(
            self.step, self.f_plus, self.f_minus, self.difference, self.span
        )
        self.notes += notes
        if not checked.all():
            self.checked = checked

    def _quotient(self) -> NDArray[np.float64]:
        return self.difference / self.span

    def _first_status(self) -> NDArray[np.int8]:
        if self.given_status is not None:
            return self.given_status.copy()
        return super()._first_status()
