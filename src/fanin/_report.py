"""What a gradient check found: numbers, a verdict, and where to look."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _explanation, _report_text
from fanin._records import (
    AGREES,
    ALLOWANCE,
    BLURRED,
    KINK,
    PLAIN,
    UNRESOLVED,
    WRONG,
    BlockRecord,
    DirectionRecord,
    EntryRecord,
)
from fanin._report_text import ORDER, show
from fanin._structure import rebuild

if TYPE_CHECKING:
    from fanin._diagnosis import Hypotheses
    from fanin._taylor import Confirmation

__all__ = [
    "AGREES",
    "ALLOWANCE",
    "BLURRED",
    "KINK",
    "PLAIN",
    "UNRESOLVED",
    "WRONG",
    "BlockRecord",
    "DirectionRecord",
    "EntryRecord",
    "GradientError",
    "GradientReport",
]

# What `_judge` makes, and a clean report has only when it is asked for.
_MADE_LATER = frozenset(
    (
        *("relative_error", "_said", "_blocks", "_excess", "_ratio", "_score"),
        *("_wrong", "_error", "_step", "_f_plus", "_f_minus"),
    )
)


# What is known of each entry.
_VECTORS = ("_numeric", "_step", "_f_plus", "_f_minus", "_error", "_status")


class GradientError(AssertionError):
    """A gradient was not found correct; the message is the report's table.

    Attributes
    ----------
    report : GradientReport or None
        The report itself.
    """

    report: GradientReport | None = None


def norm(values: NDArray[np.float64]) -> float:
    """Return the Euclidean norm, without overflow or underflow on the way."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    scaled = values / largest
    # (np.dot would wake NumPy's BLAS threads, which spin on when it is done.)
    return largest * math.sqrt(float(np.square(scaled, out=scaled).sum()))


class GradientReport:
    """The outcome of a gradient check; `fanin.check_gradient` makes it.

    Attributes
    ----------
    relative_error : float
        ``||numeric - analytic|| / (||numeric|| + ||analytic||)`` (Euclidean norms)
        over all entries that were judged, those on a kink not among them; 0 if both
        are zero, NaN if an entry is not finite.
    verdict : {"correct", "suspicious", "wrong", "inconclusive"}
        The strongest finding over the arrays, in the order wrong, suspicious,
        inconclusive, correct.
    ok : bool
        Whether the verdict is ``"correct"``.
    blocks : mapping of str to BlockRecord
        One record per array: its relative error, its verdict, its norms.
    diagnosis : list of str
        Plain sentences that say what is wrong, or what limits the check.
    numeric, analytic : array, list, tuple or dict of arrays
        The two gradients (float64), in the structure of the parameters; `numeric`
        is NaN where it was not checked.
    directions : list of DirectionRecord
        The random directional derivatives that were asked for.
    eps : float
        The relative step asked for.
    thresholds : tuple of float
        Below the first a relative error is correct, from the second it is wrong.
    n_checked, n_total : int
        Entries checked, and entries there are.
    n_evaluations : int
        Calls of the function.
    elapsed : float
        Seconds.
    """

    relative_error: float
    verdict: str
    _notes: list[str]
    _estimate: Any
    eps: float
    thresholds: tuple[float, float]
    n_checked: int
    n_total: int
    n_evaluations: int
    elapsed: float

    # Flat, in the order of the blocks.
    _analytic: NDArray[np.float64]
    _numeric: NDArray[np.float64]
    _step: NDArray[np.float64]
    _f_plus: NDArray[np.float64]
    _f_minus: NDArray[np.float64]
    _apart: NDArray[np.float64]
    _changes: tuple[NDArray[np.float64], NDArray[np.float64]]
    _f_base: float
    _error: NDArray[np.float64]
    _status: NDArray[np.int8]
    _excess: NDArray[np.float64]
    _ratio: NDArray[np.float64]
    _score: NDArray[np.float64]
    # Which entries are wrong, and by what factor an array is, if by one.
    _wrong: NDArray[np.bool_]
    _said: dict[str, list[str]]
    # What the diagnosis knows beside the numbers; see `_explain`.
    _theta: NDArray[np.float64] | None
    _hypotheses: Hypotheses | None
    _found: list[str]
    _confirmed: list[str]
    _sentences: list[str] | None
    _blocks: dict[str, BlockRecord]
    _spans: list[tuple[str, slice, tuple[int, ...]]]
    _template: Any
    _deterministic: bool
    # Whether the arrays can be those of layers that a gradient is passed through.
    _layered: bool = True
    # Which entries were checked; None: all of them.
    _checked: NDArray[np.bool_] | None
    _unknown: bool
    _unchecked_analytic: NDArray[np.float64]
    directions: list[DirectionRecord]

    def __init__(self) -> None:
        raise TypeError(
            "a GradientReport is made by fanin.check_gradient, not by its constructor"
        )

    @classmethod
    def _from_vectors(
        cls,
        analytic: ArrayLike,
        numeric: ArrayLike,
        blocks: Sequence[tuple[str, slice, tuple[int, ...]]],
        *,
        eps: float,
        thresholds: tuple[float, float] = (1e-7, 1e-3),
        step: ArrayLike | None = None,
        f_plus: ArrayLike | None = None,
        f_minus: ArrayLike | None = None,
        span: NDArray[np.float64] | None = None,
        f_base: float | None = None,
        error_estimate: ArrayLike | Callable[[], NDArray[np.float64]] | None = None,
        status: NDArray[np.int8] | None = None,
        deterministic: bool = True,
        template: Any = None,
        notes: Sequence[str] = (),
        n_evaluations: int = 0,
        n_total: int | None = None,
        checked: NDArray[np.bool_] | None = None,
        directions: Sequence[DirectionRecord] = (),
        clean: bool = False,
        unknown: bool = False,
        copy: bool = True,
        elapsed: float = 0.0,
    ) -> GradientReport:
        """Judge two gradients given as flat vectors.

        Parameters
        ----------
        analytic, numeric : (n,) float64
            The two gradients.
        blocks : sequence of (name, slice, shape)
            The arrays; the slices partition ``range(n)`` in order.
        eps, thresholds
            As in `fanin.check_gradient`.
        step, f_plus, f_minus : (n,) float64 or float, optional
            Shown in the records; `step` defaults to `eps`, the others to NaN.
        span : (n,) float64, optional
            Twice the `step`.
        f_base : float, optional
            What `f_plus` and `f_minus` are changes of.
        error_estimate : (n,) float64, float or function that returns it, optional
            The typical rounding error of each difference ``numeric - analytic``.
            By default that of a central difference of float64 values of the size of
            `f_plus` and `f_minus`; 0 if those are not given, which is right for
            increments computed without cancellation.
        status : (n,) int8, optional
            Per entry: PLAIN (judged by its numbers), AGREES (re-examined: right, the
            difference is the step's), KINK (left out), BLURRED (within the rounding of
            every step), UNRESOLVED (no step decides), WRONG (re-examined: wrong).
        deterministic : bool
            False if two evaluations at one point differed.
        template : optional
            `fanin._structure.Parameters.template`; by default `numeric` and
            `analytic` are dicts of arrays by block name.
        notes : sequence of str
            Sentences for `diagnosis`.
        n_evaluations, n_total, elapsed
            As in the report.
        checked : (n,) bool, optional
            The entries that were looked at: the others have no part in the verdict.
        directions : sequence of DirectionRecord
            Their verdicts count like those of arrays.
        clean : bool
            Every entry is known to agree within ``thresholds[0]``: the verdict is
            "correct", and the tables are made when they are asked for.
        unknown : bool
            An array that was to be checked was not: the verdict is not "correct".
        copy : bool
            False for gradients that nobody changes any more.
        """
        self = object.__new__(cls)
        a = np.array(analytic, np.float64, copy=copy or None)
        x = np.array(numeric, np.float64, copy=copy or None)
        n = a.size
        self._unchecked_analytic, self._checked = a, checked
        if checked is not None:
            # As if both were zero where nothing is known: that bears on no norm.
            a, x = np.where(checked, a, 0.0), np.where(checked, x, 0.0)
        self._analytic, self._numeric = a, x
        # (Some are made of others when they are asked for.)
        if span is not None:
            self._apart = span
        else:
            self._step = _vector(eps if step is None else step, n)
        nan = math.nan
        up = _vector(nan if f_plus is None else f_plus, n)
        down = _vector(nan if f_minus is None else f_minus, n)
        if f_base is None:
            self._f_plus, self._f_minus = up, down
        else:
            self._f_base, self._changes = f_base, (up, down)
        if error_estimate is None:
            if f_plus is None or f_minus is None:
                error_estimate = 0.0
            else:
                error_estimate = rounding_error(
                    self._f_plus, self._f_minus, 2 * self._step, np.finfo(float).eps
                )
        self._estimate = error_estimate
        self._status = np.zeros(n, np.int8) if status is None else status
        self._spans = [(name, where, tuple(shape)) for name, where, shape in blocks]
        if template is None:
            items = [
                (name, ("leaf", where, shape)) for name, where, shape in self._spans
            ]
            template = ("dict", dict, items)
        self._template = template
        self.eps = float(eps)
        self.thresholds = (float(thresholds[0]), float(thresholds[1]))
        self.n_checked = n if checked is None else int(np.count_nonzero(checked))
        self.n_total = n if n_total is None else n_total
        self.directions = list(directions)
        self.n_evaluations = n_evaluations
        self.elapsed = elapsed
        self._deterministic = deterministic
        self._notes = list(notes)
        self._theta, self._hypotheses = None, None
        self._found, self._confirmed, self._sentences = [], [], None
        self._unknown = unknown
        if clean and not directions and deterministic and not unknown:
            self.verdict = "correct"
        else:
            self._judge()
        return self

    def __getattr__(self, name: str) -> Any:
        # The tables of a clean check, most of which nobody looks at.
        if name in _MADE_LATER and "_notes" in self.__dict__:
            if name == "_error":
                self._make_error()
            elif name == "_step":
                self._step = self._apart / 2
            elif name in ("_f_plus", "_f_minus"):
                up, down = self._changes
                self._f_plus, self._f_minus = self._f_base + up, self._f_base + down
            else:
                self._judge()
            return self.__dict__[name]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def _make_error(self) -> None:
        estimate = self._estimate
        values = estimate() if callable(estimate) else estimate
        error = _vector(values, self._analytic.size)
        if self._checked is not None:
            error = np.where(self._checked, error, 0.0)
        self._error = error

    def __getstate__(self) -> dict[str, Any]:
        _ = self._error  # made of what need not be possible to pickle
        return self.__dict__ | {"_estimate": None}

    def _find(self, verdict: str, sentence: str, blocks: Sequence[str] = ()) -> None:
        """Add what was found otherwise, about these arrays or about the whole."""
        self._scores()  # (the tables are made before they are changed)
        for name in blocks:
            record = self._blocks[name]
            worse = min(record.verdict, verdict, key=ORDER.index)
            self._blocks[name] = replace(record, verdict=worse)
        self.verdict = min(self.verdict, verdict, key=ORDER.index)
        self._found.insert(0, sentence)
        self._sentences = None

    def _take(self, other: GradientReport, names: Sequence[str]) -> None:
        """Take over what another check of the same gradient found of the arrays named.

        Those that are correct here stay as they are.
        """
        places = [
            where
            for name, where, _ in self._spans
            if name in names and self.blocks[name].verdict != "correct"
        ]
        if not places:
            return
        for vector in _VECTORS:
            values = np.array(getattr(self, vector))
            for where in places:
                values[where] = getattr(other, vector)[where]
            setattr(self, vector, values)
        self._judge()
        self._confirmed, self._sentences = [], None

    # -- the verdict ---------------------------------------------------------------

    def _judge(self) -> None:
        a, x = self._analytic, self._numeric
        # Entries by how wrong they are, each on the scale of its own array.
        self._excess = np.zeros(a.size)
        self._ratio = np.zeros(a.size)
        self._score = np.zeros(a.size)
        self._wrong = np.zeros(a.size, np.bool_)
        finite = np.isfinite(a) & np.isfinite(x)
        largest = _largest(a[finite], x[finite])
        both = norm(_scaled(a[finite], largest)) + norm(_scaled(x[finite], largest))
        whole = (largest, both)
        # What is on a kink has no gradient that the numbers could be held against.
        judged = self._status != KINK
        self.relative_error = (
            _relative(a[judged], x[judged]) if finite.all() else math.nan
        )
        found: dict[str, BlockRecord] = {}
        self._said = {}
        for name, where, shape in self._spans:
            found[name], self._said[name] = self._judge_block(name, where, shape, whole)
        self._blocks = found
        self.verdict = self._strongest()
        if not self._deterministic:
            self.verdict = "inconclusive"

    def _strongest(self) -> str:
        """Return the strongest of all findings."""
        return min(
            (
                *(record.verdict for record in self._blocks.values()),
                *(direction.verdict for direction in self.directions),
                *(["inconclusive"] if self._unknown else []),
            ),
            key=ORDER.index,
            default="correct",
        )

    # -- the diagnosis -------------------------------------------------------------

    @property
    def diagnosis(self) -> list[str]:
        """Plain sentences that say what is wrong, or what limits the check."""
        if self._sentences is None:
            self._sentences = _explanation.compose(self)
        return self._sentences

    @diagnosis.setter
    def diagnosis(self, sentences: list[str]) -> None:
        self._sentences = sentences

    def _explain(
        self,
        theta: NDArray[np.float64] | None = None,
        *,
        confirmations: Mapping[str, Confirmation] | None = None,
        hypotheses: Hypotheses | None = None,
    ) -> None:
        """Take in what is known beside the numbers, and write the diagnosis.

        Parameters
        ----------
        theta : (n,) float64, optional
            The parameters: a penalty on them is recognized.
        confirmations : mapping, optional
            Of `_taylor.confirm`: what remainders say of the arrays that are wrong.
        hypotheses : callable, optional
            ``hypotheses(name)`` returns a dict: sentences, each with the gradient of
            that array under the mistake that the sentence names.
        """
        self._scores()  # (the tables are made before they are changed)
        if confirmations:
            _explanation.confirm(self, confirmations)
            self.verdict = self._strongest()
        self._theta, self._hypotheses = theta, hypotheses
        self._sentences = _explanation.compose(self)
        # Kept no longer: a report is to be stored and pickled.
        self._theta = self._hypotheses = None

    def _judge_block(
        self,
        name: str,
        where: slice,
        shape: tuple[int, ...],
        whole: tuple[float, float],
    ) -> tuple[BlockRecord, list[str]]:
        low, high = self.thresholds
        middle = math.sqrt(low * high)
        a, x = self._analytic[where], self._numeric[where]
        status = self._status[where]
        finite = np.isfinite(a) & np.isfinite(x)
        said: list[str] = []

        n = a.size
        if self._checked is not None:
            n = int(np.count_nonzero(self._checked[where]))

        # All in units of the array's largest entry: no square over- or underflows.
        unit = _largest(a[finite], x[finite])
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            a1 = np.where(finite, _scaled(a, unit), 0.0)
            x1 = np.where(finite, _scaled(x, unit), 0.0)
            e1 = np.where(finite, _scaled(self._error[where], unit), 0.0)
            difference = np.abs(x1 - a1)
            excess = np.maximum(difference - ALLOWANCE * e1, 0.0)
        excess[status == WRONG] = difference[status == WRONG]
        cleared = (status == AGREES) | (status == KINK) | (status == UNRESOLVED)
        excess[cleared | (status == BLURRED)] = 0.0
        size = np.abs(x1) + np.abs(a1)
        ratio = np.divide(excess, size, out=np.zeros(a.size), where=size > 0)
        scale = norm(a1) + norm(x1)
        rms = scale / math.sqrt(max(1, n))
        with np.errstate(invalid="ignore"):
            score = np.divide(excess, size + rms, out=np.zeros(a.size), where=size > 0)
        # A gradient that is not finite where the function is, is wrong.
        broken = ~np.isfinite(a) & np.isfinite(x)
        score[broken] = math.inf
        unknown = ~np.isfinite(x)
        self._excess[where], self._ratio[where], self._score[where] = (
            excess,
            ratio,
            score,
        )

        judged = status != KINK
        own = norm(a1[judged]) + norm(x1[judged])
        relative = norm(difference[judged]) / own if own > 0 else 0.0
        beyond = norm(excess) / scale if scale > 0 else 0.0
        # Errors of n entries add up like their root, not like their sum.
        blur = float(norm(np.minimum(e1, 1e300)[~cleared]))
        hidden = 3 * blur / scale if scale > 0 else 0.0
        worst_ratio = float(np.max(ratio, initial=0.0))
        counted = (ratio >= middle) | broken
        if beyond >= low and not counted.any():
            counted = excess > 0
        n_wrong = int(np.count_nonzero(counted))

        if broken.any():
            verdict = "wrong"
            index = _first(broken, shape)
            said.append(
                f"{name}: the analytic gradient is not finite at {show(index)} "
                f"({_count(broken)}), where the function is"
            )
        elif beyond >= high or worst_ratio >= high:
            verdict = "wrong"
        elif beyond >= low or worst_ratio >= middle:
            verdict = "suspicious"
        elif unknown.any():
            verdict = "inconclusive"
        elif (status == UNRESOLVED).any():
            verdict = "inconclusive"
            undecided = status == UNRESOLVED
            said.append(
                f"{name}: no step decides {show(_first(undecided, shape))} "
                f"({_count(undecided)}): the differences depend on the step as much as "
                "they differ from the analytic gradient; try another eps than "
                f"{self.eps:g}"
            )
        elif relative < low or scale == 0.0:
            verdict = "correct"
        elif hidden < high or self._negligible(blur, unit, whole, middle):
            verdict = "correct"
            if (status == AGREES).any():
                said.append(
                    f"{name}: a better step confirms {_count(status == AGREES)} that "
                    f"eps = {self.eps:g} does not resolve"
                )
            elif not (status == KINK).any():
                said.append(
                    f"{name}: rounding, not error: the relative error of "
                    f"{relative:.1e} is that of evaluating the function, which hides "
                    f"errors below {hidden:.0e}"
                )
        else:
            verdict = "inconclusive"
            said.append(
                f"{name}: rounding hides errors up to {_percent(hidden)} of this "
                f"gradient; the function's values are too coarse for eps = "
                f"{self.eps:g}, or the gradient is too near zero here: try a larger "
                "eps or another point"
            )
        if unknown.any():
            index = _first(unknown, shape)
            said.append(
                f"{name}: the function is not finite, or overflows, near "
                f"{show(index)} ({_count(unknown)})"
            )
        if (status == KINK).any():
            kinks = status == KINK
            rest = ""
            if not (size[~kinks] > 0).any():
                rest = (
                    "; that is all of this array, so that little is known of it: "
                    "check at a point that is off the kinks"
                )
            said.append(
                f"{name}: {_count(kinks)} on a kink, the first at "
                f"{show(_first(kinks, shape))}: the slopes on its sides disagree, "
                f"which explains the analytic value; left out of the verdict{rest}"
            )
        if not self._deterministic:
            verdict, said = "inconclusive", []
        if n == 0 and a.size:
            verdict, said = "unchecked", []
        if verdict in ("wrong", "suspicious"):
            self._wrong[where] = counted

        record = BlockRecord(
            name=name,
            shape=shape,
            n=a.size,
            relative_error=relative if finite.all() else math.nan,
            verdict=verdict,
            n_wrong=n_wrong,
            analytic_norm=norm(a) if np.isfinite(a).all() else math.nan,
            numeric_norm=norm(x) if np.isfinite(x).all() else math.nan,
            hidden=hidden,
            worst=self._record(self._order(where)[0], name, where, shape)
            if n
            else None,
            n_checked=n,
        )
        return record, said

    def _negligible(
        self, blur: float, unit: float, whole: tuple[float, float], share: float
    ) -> bool:
        """Whether all that rounding could hide is a small share of the gradient."""
        largest, both = whole
        if largest == 0.0:
            return False
        return 3 * blur * (unit / largest) < share * both

    # -- entries -------------------------------------------------------------------

    def _order(self, where: slice) -> NDArray[np.intp]:
        """Flat indices of a range, the most wrong entry first."""
        a, x = self._analytic[where], self._numeric[where]
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.abs(a) + np.abs(x)
            difference = np.abs(x - a)
            plain = np.divide(
                difference, size, out=np.zeros(a.size), where=difference > 0
            )
        plain = np.where(np.isnan(plain) | np.isnan(difference), math.inf, plain)
        # Below what rounding explains, order by how many error estimates it is.
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            estimates = np.divide(
                difference,
                self._error[where],
                out=plain.copy(),
                where=self._error[where] > 0,
            )
        estimates = np.where(np.isnan(estimates), math.inf, estimates)
        keys: list[NDArray[Any]] = [-estimates, -self._score[where]]
        if self._checked is not None:
            keys.append(~self._checked[where])  # last what is not known
        return np.lexsort(keys) + (where.start or 0)

    def _record(
        self, i: int, name: str, where: slice, shape: tuple[int, ...]
    ) -> EntryRecord:
        a, x = float(self._analytic[i]), float(self._numeric[i])
        index = np.unravel_index(int(i) - where.start, shape) if shape else ()
        difference = abs(x - a)
        size = abs(x) + abs(a)
        relative = 0.0 if difference == 0 else difference / size
        if difference > 0 and math.isinf(size) and math.isfinite(a + 0 * x):
            relative = abs(x / 4 - a / 4) / (abs(x / 4) + abs(a / 4))
        return EntryRecord(
            name=name,
            index=tuple(int(k) for k in index),
            analytic=a,
            numeric=x,
            absolute=difference,
            relative=relative,
            step=float(self._step[i]),
            f_plus=float(self._f_plus[i]),
            f_minus=float(self._f_minus[i]),
            error_estimate=float(self._error[i]),
        )

    def worst(self, k: int = 10) -> list[EntryRecord]:
        """Return records of the `k` most wrong entries, the most wrong first.

        An entry is the more wrong, the more its difference exceeds what rounding
        explains, on the scale of its own array: so a small array comes first if it
        is the wrong one.

        Parameters
        ----------
        k : int
            How many; all of them if there are fewer.

        Returns
        -------
        list of EntryRecord
            With `name`, `index`, `analytic`, `numeric`, `absolute`, `relative`,
            `step`, `f_plus`, `f_minus` and `error_estimate`.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> x = np.array([1.0, 2.0, 3.0])
        >>> report = fanin.check_gradient(lambda x: x @ x, x, [2.0, 4.0, 7.0])
        >>> report.worst(1)[0].index
        (2,)
        """
        try:
            k = operator.index(k)
        except TypeError:
            raise TypeError(f"k must be an integer; got {type(k).__name__}") from None
        if k < 0:
            raise ValueError(f"k must not be negative; got {k}")
        if k == 0:
            return []
        order = self._order(slice(0, self._analytic.size))[: min(k, self.n_checked)]
        starts = np.array([where.start for _, where, _ in self._spans])
        records = []
        for i in order:
            # Empty arrays share their start with the next one: take the last.
            span = self._spans[int(np.searchsorted(starts, i, side="right")) - 1]
            records.append(self._record(int(i), *span))
        return records

    @property
    def ok(self) -> bool:
        """Whether the verdict is ``"correct"``."""
        return self.verdict == "correct"

    @property
    def blocks(self) -> Mapping[str, BlockRecord]:
        """One record per array, by name; read-only."""
        return MappingProxyType(self._blocks)

    @property
    def numeric(self) -> Any:
        """The numeric gradient, in the structure of the parameters.

        NaN where it was not checked.
        """
        found = self._numeric
        if self._checked is not None:
            found = np.where(self._checked, found, math.nan)
        return rebuild(self._template, found)

    @property
    def analytic(self) -> Any:
        """The analytic gradient, in the structure of the parameters."""
        return rebuild(self._template, self._unchecked_analytic)

    def raise_if_wrong(self) -> None:
        """Raise unless the verdict is ``"correct"``.

        Raises
        ------
        GradientError
            An `AssertionError` whose message is the report's table; also for a
            suspicious or inconclusive check, which a test must not take for a pass.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> x = np.array([1.0, 2.0, 3.0])
        >>> fanin.check_gradient(lambda x: x @ x, x, 2 * x).raise_if_wrong()
        """
        if not self.ok:
            error = GradientError(str(self))
            error.report = self
            raise error

    def to_dict(self, k: int = 10) -> dict[str, Any]:
        """Return the report as plain Python objects that `json.dumps` takes.

        Parameters
        ----------
        k : int
            How many of the worst entries to include.

        Returns
        -------
        dict
            The report's attributes, with `blocks` as a list, `worst` as a list and
            no arrays. Numbers that are not finite, which JSON lacks, are None.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> x = np.array([1.0, 2.0, 3.0])
        >>> report = fanin.check_gradient(lambda x: x @ x, x, 2 * x)
        >>> report.to_dict()["verdict"]
        'correct'
        """
        return {
            "verdict": self.verdict,
            "ok": self.ok,
            "relative_error": _json(self.relative_error),
            "eps": self.eps,
            "thresholds": list(self.thresholds),
            "n_checked": self.n_checked,
            "n_total": self.n_total,
            "n_evaluations": self.n_evaluations,
            "elapsed": self.elapsed,
            "diagnosis": list(self.diagnosis),
            "blocks": [_json(asdict(record)) for record in self.blocks.values()],
            "worst": [_json(asdict(record)) for record in self.worst(k)],
            "directions": [_json(asdict(record)) for record in self.directions],
        }

    def plot(self, *, figure: Any = None) -> Any:
        """Draw numeric against analytic entries, and the errors by array.

        One panel for each array (of the most wrong, if there are many) with both
        gradients on axes that are linear around zero and logarithmic beyond, so that
        small entries show beside large ones; and the relative error of every array
        beside the thresholds, in the order of the parameters.

        Parameters
        ----------
        figure : matplotlib.figure.Figure, optional
            Where to draw; by default a new figure of pyplot's.

        Returns
        -------
        matplotlib.figure.Figure
            The figure; nothing is shown or saved.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> from matplotlib.figure import Figure
        >>> x = np.array([1.0, 2.0, 3.0])
        >>> report = fanin.check_gradient(lambda x: x @ x, x, -2 * x)
        >>> figure = report.plot(figure=Figure())
        >>> figure.axes[0].get_title(loc="left")
        'params: wrong'
        """
        from fanin import _report_plot

        return _report_plot.draw(self, figure)

    # -- printing ------------------------------------------------------------------

    @property
    def summary(self) -> str:
        """One sentence: the verdict, and where it comes from."""
        error = f"relative error {self.relative_error:.2g}"
        if self.verdict == "correct":
            return f"correct: {error} over {self.n_checked} entries"
        if not self._deterministic:
            return "inconclusive: the function is random"
        guilty = [r for r in self.blocks.values() if r.verdict == self.verdict]
        if not guilty and self.verdict == "inconclusive" and self._unknown:
            names = [n for n, r in self.blocks.items() if r.verdict == "unchecked"]
            rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            where = names[0] if names else "an array"
            return f"inconclusive: {where}{rest} not checked; {error}"
        if not guilty:  # then it is a direction
            return f"{self.verdict}: along a random direction; {error}"
        # The array that is most wrong first, as in `worst`.
        scores = self._scores()
        guilty.sort(key=lambda record: -scores[record.name])
        first = guilty[0]
        others = ""
        if len(guilty) > 1:
            others = f" (and {len(guilty) - 1} more)"
        if self.verdict == "inconclusive":
            return f"inconclusive: {first.name}{others}; {error}"
        worst = first.worst
        assert worst is not None
        return (
            f"{self.verdict}: {first.name}{others}, {first.n_wrong} of {first.n} "
            f"entries, worst at {show(worst.index)}: analytic {worst.analytic:.6g}, "
            f"numeric {worst.numeric:.6g}"
        )

    def _scores(self) -> dict[str, float]:
        """How wrong the most wrong entry of each array is."""
        return {
            name: float(np.max(self._score[where], initial=0.0))
            for name, where, _ in self._spans
        }

    def __str__(self) -> str:
        return _report_text.as_text(self)

    def __repr__(self) -> str:
        return (
            f"<GradientReport {self.verdict}: relative error "
            f"{self.relative_error:.2g}, {self.n_checked} entries>"
        )

    def _repr_html_(self) -> str:
        return _report_text.as_html(self)


def rounding_error(
    f_plus: NDArray[np.float64],
    f_minus: NDArray[np.float64],
    span: NDArray[np.float64],
    epsilon: float,
    noise: float = 0.0,
) -> NDArray[np.float64]:
    """Return the typical rounding error of ``(f_plus - f_minus) / span``.

    Each value is known to `epsilon` of itself at best, or to `noise` if that was
    measured to be more.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        size = np.maximum(np.abs(f_plus), np.abs(f_minus))
        # Below the normal numbers the spacing no longer shrinks with the value.
        value = np.maximum(epsilon * size, max(noise, 5e-324))
        return np.asarray(value / span)


def _vector(value: ArrayLike, n: int) -> NDArray[Any]:
    if isinstance(value, np.ndarray) and value.shape == (n,):
        return value
    return np.broadcast_to(value, (n,))


def _largest(a: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    return max(
        float(np.max(np.abs(a), initial=0.0)), float(np.max(np.abs(x), initial=0.0))
    )


def _scaled(values: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    return values / unit if unit > 0 else values


def _relative(a: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    unit = _largest(a, x)
    if unit == 0.0:
        return 0.0
    with np.errstate(under="ignore"):
        a1, x1 = a / unit, x / unit
    return norm(x1 - a1) / (norm(x1) + norm(a1))


def _first(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(int(np.argmax(mask)), shape))


def _count(mask: NDArray[np.bool_]) -> str:
    n = int(np.count_nonzero(mask))
    return f"{n} of {mask.size} entries"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else "all"


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return value
