"""What a mistake in a gradient looks like, in words.

A list of small tests, each of which says what the analytic gradient would be under one
kind of mistake and compares: it fails unless that leaves next to nothing of the
difference. Of those that hold the first is said, from the most specific to the least:
a known factor is likelier than a coincidence of many numbers is.

What counts as next to nothing is derived from the error estimates of the entries, see
`Array.explains`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._records import ALLOWANCE

Float64 = NDArray[np.float64]

# By an array's name what its gradient would be under mistakes that are known of the
# function, each with its sentence.
Hypotheses = Callable[[str], Mapping[str, Any]]

# An explanation leaves at most this share of the difference that it explains.
REMAINDER = 0.1
# A sentence lists at most so many rows, columns or layers.
LISTED = 5

NAMED_RATIOS = (
    (-1.0, "the sign is wrong"),
    (2.0, "a factor 2 is missing, such as that of a square's derivative"),
    (0.5, "there is a factor 2 too many, such as that of a square's derivative"),
    (-2.0, "the sign is wrong, and a factor 2 is missing"),
    (-0.5, "the sign is wrong, and there is a factor 2 too many"),
)


def norm(values: Float64) -> float:
    """Return the Euclidean norm of values near 1."""
    return math.sqrt(float(np.dot(values, values)))


@dataclass(frozen=True)
class Array:
    """An array that is not correct, in units of its largest entry."""

    name: str
    shape: tuple[int, ...]
    analytic: Float64
    numeric: Float64
    error: Float64
    unit: float
    raw: Float64  # the analytic gradient as it came, to the last bit
    wrong: NDArray[np.bool_]  # the entries found wrong
    judged: NDArray[np.bool_]  # those that were: finite, checked and not on a kink
    theta: Float64 | None
    tolerance: float  # relative, below which an entry is as good as right

    @property
    def square(self) -> bool:
        """Whether it is a square matrix."""
        return len(self.shape) == 2 and self.shape[0] == self.shape[1] > 1

    @property
    def whole(self) -> bool:
        """Whether every entry was judged, so that entries can change places."""
        return bool(self.judged.all())

    def table(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of this array in its shape, of two dimensions at least."""
        return values.reshape(self.shape if len(self.shape) > 1 else (-1, 1))

    def explains(
        self,
        prediction: Float64,
        *,
        error: Float64 | None = None,
        where: NDArray[np.bool_] | None = None,
        target: Float64 | None = None,
    ) -> bool:
        """Whether the analytic gradient is `prediction`, as far as it is known.

        The prediction is made of numeric values, which are known to ``error`` each;
        ten times their norm and `tolerance` of the prediction are granted. And it
        must explain: what is left is a small share of the difference there was.
        """
        where = self.judged if where is None else where & self.judged
        a = (self.analytic if target is None else target)[where]
        p = prediction[where]
        e = (self.error if error is None else error)[where]
        left = norm(p - a)
        there = norm(self.numeric[where] - self.analytic[where])
        granted = ALLOWANCE * norm(e) + self.tolerance * norm(p)
        return left <= granted and left <= REMAINDER * there


# -- one array: what it is instead -----------------------------------------------------


def zero(array: Array) -> str | None:
    """Recognize nothing at all."""
    a, x = norm(array.analytic[array.judged]), norm(array.numeric[array.judged])
    if a == 0.0 and x > 0.0:
        return "the analytic gradient is zero, the numeric is not"
    return None


def no_dependence(array: Array) -> str | None:
    """Recognize what the function knows nothing of."""
    a, x = norm(array.analytic[array.judged]), norm(array.numeric[array.judged])
    # (A numeric gradient of zero has some rounding.)
    if x <= ALLOWANCE * norm(array.error[array.judged]) and a > 0.0 and x < 1e-3 * a:
        return (
            "the numeric gradient is zero, the analytic is not: the function does "
            "not depend on it here"
        )
    return None


def ratio_of(array: Array, where: NDArray[np.bool_]) -> float | None:
    """Return c if numeric is c times analytic in these entries."""
    where = where & array.judged
    a, x, e = array.analytic[where], array.numeric[where], array.error[where]
    square = float(np.dot(a, a))
    if square == 0.0:
        return None
    c = float(np.dot(x, a)) / square
    slack = 1e-3 * norm(x) + ALLOWANCE * norm(e)
    if ALLOWANCE * norm(e) > REMAINDER * norm(x - a):
        return None  # too blurred to name a factor
    if not math.isfinite(c) or c == 0.0 or norm(x - c * a) > slack:
        return None
    # And not by the large entries alone.
    if norm(x - c * a) > REMAINDER * norm(x - a):
        return None
    return c


def known_ratio(array: Array) -> str | None:
    """Recognize a factor that stands for a known mistake."""
    return _known(ratio_of(array, array.judged), array.judged, "")


def known_ratio_of_part(array: Array) -> str | None:
    """Recognize it in the wrong entries alone."""
    where = array.wrong & array.judged
    return _known(ratio_of(array, where), where, " in the wrong entries")


def general_ratio(array: Array) -> str | None:
    """Recognize any other factor."""
    return _any_factor(ratio_of(array, array.judged), array.judged, "")


def general_ratio_of_part(array: Array) -> str | None:
    """Recognize it in the wrong entries alone."""
    where = array.wrong & array.judged
    return _any_factor(ratio_of(array, where), where, " in the wrong entries")


def _known(c: float | None, where: NDArray[np.bool_], which: str) -> str | None:
    if c is None:
        return None
    for value, why in NAMED_RATIOS:
        if abs(c - value) <= 1e-3 * abs(value):
            return f"numeric is {value:g} times analytic{which}: {why}"
    # One entry is always a multiple of one entry: only a known factor counts.
    if np.count_nonzero(where) < 2:
        return None
    for m, what in ((c, f"{round(c)}"), (1 / c, f"1/{round(1 / c)}")):
        if abs(m) > 1.5 and abs(m - round(m)) <= min(0.01, 2e-3 * abs(m)):
            sign = " (and of the wrong sign)" if m < 0 else ""
            return (
                f"numeric is {what} times analytic{which}: perhaps a sum for a mean, "
                f"or a mean for a sum{sign}"
            )
    return None


def _any_factor(c: float | None, where: NDArray[np.bool_], which: str) -> str | None:
    if c is None or np.count_nonzero(where) < 2:
        return None
    return f"numeric is {c:.6g} times analytic{which}"


def transposed(array: Array) -> str | None:
    """Recognize rows for columns, or the entries in the other order."""
    if len(array.shape) != 2 or min(array.shape) < 2 or not array.whole:
        return None
    x, e = array.table(array.numeric), array.table(array.error)
    if array.square and array.explains(x.T.ravel(), error=e.T.ravel()):
        return "the analytic gradient is the transpose of the numeric one"
    if array.explains(x.T.ravel(), error=e.T.ravel()):
        return (
            "the analytic gradient has the entries of its transpose, one after the "
            "other: reshaped where it should be transposed, or in Fortran order"
        )
    # The other way round: what was taken for C order was Fortran's.
    other = x.ravel().reshape(x.shape[::-1]).T.ravel()
    swapped = e.ravel().reshape(x.shape[::-1]).T.ravel()
    if array.explains(other, error=swapped):
        return (
            "the analytic gradient has the entries of its transpose, one after the "
            "other: reshaped where it should be transposed, or in Fortran order"
        )
    return None


def reversed_or_shifted(array: Array) -> str | None:
    """Recognize what is turned round, or moved along, an axis."""
    if not array.whole:
        return None
    x, e = array.table(array.numeric), array.table(array.error)
    vector = len(array.shape) < 2
    axes = [(0, "the order of its entries" if vector else "the order of its rows")]
    if not vector:
        axes.append((1, "the order of its columns"))
    for axis, what in axes:
        if x.shape[axis] < 2:
            continue
        turned = np.flip(x, axis).ravel()
        if array.explains(turned, error=np.flip(e, axis).ravel()):
            return f"the analytic gradient has {what} reversed"
    if not vector and array.explains(np.flip(x).ravel(), error=np.flip(e).ravel()):
        return "the analytic gradient has the order of its rows and columns reversed"
    for axis, _ in axes:
        if x.shape[axis] < 3:
            continue
        shift = _shift(array.table(array.analytic), x, axis)
        moved = np.roll(x, shift, axis).ravel()
        if shift and array.explains(moved, error=np.roll(e, shift, axis).ravel()):
            by = shift if shift <= x.shape[axis] // 2 else shift - x.shape[axis]
            thing = "entries" if vector else ("rows", "columns")[axis]
            return (
                f"the analytic gradient is shifted by {abs(by)} among its {thing}, "
                f"towards the {'end' if by > 0 else 'beginning'}"
            )
    return None


def _shift(a: NDArray[Any], x: NDArray[Any], axis: int) -> int:
    """Return by how much the lines of x along an axis must move to become a's."""
    lines = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    first = np.moveaxis(a, axis, 0).reshape(x.shape[axis], -1)[0]
    nearest = int(np.argmin(np.abs(lines - first).sum(axis=1)))
    return -nearest % int(x.shape[axis])


def permuted(array: Array) -> str | None:
    """Recognize the right values in the wrong places."""
    if not array.whole or array.analytic.size < 3:
        return None
    a, x = array.table(array.analytic), array.table(array.numeric)
    e = array.table(array.error)
    by_a = np.argsort(array.analytic)
    by_x = np.argsort(array.numeric)
    placed, errors = np.empty_like(array.numeric), np.empty_like(array.error)
    placed[by_a], errors[by_a] = array.numeric[by_x], array.error[by_x]
    # The same values in all, else there is no need to look for rows.
    if not array.explains(placed, error=errors):
        return None
    if len(array.shape) < 2:
        return "the analytic gradient has the right values in another order" + (
            _moved(np.flatnonzero(array.wrong), "entries")
        )
    for axis, what in ((0, "rows"), (1, "columns")):
        order = _matching(a, x, axis)
        if order is None:
            continue
        if array.explains(
            np.take(x, order, axis).ravel(), error=np.take(e, order, axis).ravel()
        ):
            moved = np.flatnonzero(order != np.arange(order.size))
            return f"the analytic gradient has its {what} permuted" + (
                _moved(moved, what)
            )
    return "the analytic gradient has the right values in another order"


def _moved(places: NDArray[np.intp], what: str) -> str:
    if places.size == 2:
        return f": {what} {places[0]} and {places[1]} are exchanged"
    return ""


def _matching(a: NDArray[Any], x: NDArray[Any], axis: int) -> NDArray[np.intp] | None:
    """Return the line of x that each line of a is, by what they hold."""
    if a.ndim != 2:
        return None
    # A random projection tells lines apart, whatever they have in common.
    weight = np.random.default_rng(0).uniform(0.5, 1.5, a.shape[1 - axis])
    mine, theirs = (np.moveaxis(v, axis, 0) @ weight for v in (a, x))
    order = np.empty(mine.size, np.intp)
    order[np.argsort(mine)] = np.argsort(theirs)
    return order


def penalty(array: Array) -> str | None:
    """Recognize a term of the parameters themselves."""
    theta = array.theta
    if theta is None or np.count_nonzero(array.judged) < 3:
        return None
    for term, what in (
        (theta, "the parameters"),
        (np.sign(theta), "the parameters' signs"),
    ):
        t = term[array.judged]
        square = float(np.dot(t, t))
        difference = (array.numeric - array.analytic)[array.judged]
        if square == 0.0 or not math.isfinite(square):
            continue
        c = float(np.dot(difference, t)) / square
        # A constant array's penalty is a constant offset as well.
        if np.ptp(np.abs(t)) == 0.0 and what == "the parameters":
            continue
        if np.ptp(t) == 0.0:
            continue
        if array.explains(array.numeric - c * term):
            # (theta came in the array's unit, its signs did not)
            value = c if term is theta else c * array.unit
            if value > 0:
                why = "a penalty is missing in the gradient"
            else:
                why = (
                    "a penalty is counted twice, or of the wrong sign, or one that "
                    "the function does not have"
                )
            return f"numeric less analytic is {value:.4g} times {what}: {why}"
    return None


def clipped(array: Array) -> str | None:
    """Recognize capped values."""
    a, x = array.analytic, array.numeric
    largest = float(np.max(np.abs(a[array.judged]), initial=0.0))
    at = array.judged & (np.abs(a) == largest)
    # Equal to the last bit, which no two right entries are by chance.
    n = np.count_nonzero(at)
    if not 2 <= n < a.size or not (np.abs(x[at]) > largest).any():
        return None
    if not array.explains(np.clip(x, -largest, largest)):
        return None
    return (
        f"the analytic values are clipped at {largest * array.unit:.6g} "
        f"({n} of {a.size} entries)"
    )


def offset(array: Array) -> str | None:
    """Recognize a constant added."""
    if np.count_nonzero(array.judged) < 3:
        return None
    c = float(np.mean((array.analytic - array.numeric)[array.judged]))
    if array.explains(array.numeric + c):
        return (
            f"analytic is numeric {'plus' if c > 0 else 'less'} "
            f"{abs(c) * array.unit:.6g} in every entry"
        )
    return None


def signs(array: Array) -> str | None:
    """Recognize an absolute value."""
    if np.count_nonzero(array.judged) < 3:
        return None
    for sign, what in ((1.0, "positive"), (-1.0, "negative")):
        if array.explains(sign * np.abs(array.numeric)):
            return (
                f"the analytic values are right but for their signs: all are {what}, "
                "as if an absolute value were taken"
            )
    return None


def summed(array: Array) -> str | None:
    """Recognize a sum or a mean over the array itself for its entries."""
    if not array.whole or array.analytic.size < 2:
        return None
    x = array.table(array.numeric)
    vector = len(array.shape) < 2
    kinds = [(None, "of the whole array")]
    if not vector:
        kinds += [(0, "of its column"), (1, "of its row")]  # type: ignore[list-item]
    for axis, where in kinds:
        for function, what in ((np.sum, "sum"), (np.mean, "mean")):
            value = np.broadcast_to(function(x, axis=axis, keepdims=True), x.shape)
            if array.explains(np.ascontiguousarray(value).ravel()):
                return (
                    f"every analytic entry is the {what} {where} of the numeric "
                    "gradient: summed over the wrong axis, or broadcast"
                )
    return None


def rounded(array: Array) -> str | None:
    """Recognize digits lost on the way."""
    a, x = array.analytic[array.judged], array.numeric[array.judged]
    raw = array.raw[array.judged]
    size = np.maximum(np.abs(a), np.abs(x))
    difference = np.abs(x - a)
    granted = ALLOWANCE * array.error[array.judged]
    if norm(difference) <= 2 * norm(granted):
        return None
    for dtype, name in ((np.float16, "float16"), (np.float32, "float32")):
        with np.errstate(over="ignore"):
            same = np.isfinite(raw) & (raw.astype(dtype).astype(np.float64) == raw)
        info = np.finfo(dtype)
        least = float(info.smallest_subnormal) / array.unit
        near = difference <= float(info.eps) * size + least + granted
        if raw.size > 1 and same.all() and near.all():
            return f"the analytic values are rounded to {name}"
    # bfloat16, and float32 with fewer digits still.
    for digits in range(1, 8):
        grid = np.round(raw, digits)
        far = difference * array.unit > 0.51 * 10.0**-digits + granted * array.unit
        if (np.abs(grid - raw) <= 1e-15 * np.abs(raw)).all() and not far.any():
            return f"the analytic values are rounded to {digits} decimals"
    return None


def factor_and_penalty(array: Array) -> str | None:
    """Recognize a factor and a term of the parameters, both."""
    theta = array.theta
    if theta is None or np.count_nonzero(array.judged) < 6:
        return None
    basis = np.stack([array.analytic[array.judged], theta[array.judged]], axis=1)
    x = array.numeric[array.judged]
    (c, w), _, rank, _ = np.linalg.lstsq(basis, x, rcond=None)
    if rank < 2 or c == 0.0 or abs(c - 1) < 1e-3:
        return None
    if array.explains((array.numeric - w * theta) / c, error=array.error / abs(c)):
        return (
            f"numeric is {c:.6g} times analytic plus {w:.4g} times the "
            "parameters: a factor and a penalty"
        )
    return None


def by_line(array: Array) -> str | None:
    """Recognize a factor for each column, or for each row."""
    if len(array.shape) != 2:
        return _by_entry(array)
    a, x, e, judged = (
        array.table(v)
        for v in (array.analytic, array.numeric, array.error, array.judged)
    )
    for axis, what in ((0, "column"), (1, "row")):
        lines, length = a.shape[1 - axis], a.shape[axis]
        if length < 3 or lines < 2:
            continue
        aa = np.where(judged, a, 0.0)
        xx = np.where(judged, x, 0.0)
        square = (aa * aa).sum(axis)
        there = square > 0
        if not there.any():
            continue
        factor = np.divide((aa * xx).sum(axis), square, where=there, out=square * 0)
        full = np.expand_dims(factor, axis)
        if not array.explains((full * a).ravel(), target=array.numeric):
            continue
        found = factor[there]
        noise = ALLOWANCE * np.sqrt((e * e).sum(axis)[there] / square[there]) + 1e-3
        signs = np.abs(np.abs(found) - 1) <= noise
        gone = np.abs(found) <= noise
        if (signs | gone).all() and gone.any() and (found > -0.5).all():
            return (
                f"numeric is zero in {_lines(_indices(gone, there), what)}, where "
                "analytic is not: a unit that is off passes nothing on; perhaps ReLU's "
                "derivative is missing"
            )
        if signs.all() and (found < 0).any():
            return f"the sign is wrong in {_lines(_indices(found < 0, there), what)}"
        if ((found > -noise) & (found <= 1 + noise)).all():
            return (
                f"each {what} is too large by a factor of its own (numeric over "
                f"analytic from {found.min():.3g} to {found.max():.3g}): perhaps the "
                "derivative of an activation such as tanh or logistic is missing"
            )
        return (
            f"each {what} is off by a factor of its own (numeric over analytic from "
            f"{found.min():.3g} to {found.max():.3g})"
        )
    return None


def _by_entry(array: Array) -> str | None:
    """Recognize zeros of the numeric gradient where analytic has none."""
    gone = array.wrong & (np.abs(array.numeric) <= ALLOWANCE * array.error)
    n = np.count_nonzero(array.wrong)
    if n > 1 and n == np.count_nonzero(gone) and n < array.wrong.size:
        return (
            f"numeric is zero in {n} of {n} wrong entries, where analytic is not: a "
            "unit that is off passes nothing on; perhaps ReLU's derivative is missing"
        )
    return None


def part_missing(array: Array) -> str | None:
    """Recognize zeros in the wrong entries, right values in the others."""
    wrong = array.wrong & array.judged
    n = np.count_nonzero(wrong)
    if n == 0 or n == array.wrong.size or array.analytic[wrong].any():
        return None
    return (
        f"the analytic gradient is zero in {n} of {array.wrong.size} entries, where "
        "numeric is not: only a part of it is filled in"
    )


def exchanged(array: Array) -> str | None:
    """Recognize wrong entries that have one another's values."""
    where = np.flatnonzero(array.wrong & array.judged)
    if not 2 <= where.size < array.wrong.size or where.size > 1000:
        return None
    a, x, e = array.analytic[where], array.numeric[where], array.error[where]
    by_a, by_x = np.argsort(a), np.argsort(x)
    far = np.abs(a[by_a] - x[by_x]) > ALLOWANCE * e[by_x] + array.tolerance * np.abs(
        x[by_x]
    )
    if far.any():
        return None
    return f"the {where.size} wrong entries have one another's values"


TESTS: Sequence[Callable[[Array], str | None]] = (
    zero,
    known_ratio,
    # (here what is known of the function: see `explain_array`)
    no_dependence,
    transposed,
    reversed_or_shifted,
    permuted,
    summed,
    signs,
    clipped,
    general_ratio,
    penalty,
    offset,
    known_ratio_of_part,
    part_missing,
    exchanged,
    rounded,
    by_line,
    general_ratio_of_part,
    factor_and_penalty,
)
# How many come before what is known of the function, and of the other arrays.
BEFORE = 2


def another(array: Array, others: Mapping[str, Any]) -> str | None:
    """Recognize another array's gradient; `others` are the numeric ones."""
    if array.analytic.size < 2:
        return None
    for name, values in others.items():
        other = np.asarray(values)
        if name == array.name or other.size != array.analytic.size:
            continue
        flat = other.ravel() / array.unit
        same = array.explains(flat)
        if not same and other.ndim == 2:
            same = array.explains(other.T.ravel() / array.unit)
        if same:
            return f"the analytic gradient is that of {name}"
    return None


def supposed(array: Array, candidates: Mapping[str, Any]) -> str | None:
    """Recognize the gradient under a known mistake; return its sentence."""
    for sentence, values in candidates.items():
        flat = np.asarray(values, dtype=np.float64).ravel() / array.unit
        if flat.size == array.analytic.size and array.explains(flat):
            return sentence
    return None


def where_wrong(array: Array) -> str | None:
    """Which rows, columns or entries are wrong, if these are few or whole."""
    wrong = array.wrong
    n = int(np.count_nonzero(wrong))
    if n == 0 or n == wrong.size or not array.shape:
        return None
    if n == 1:
        index = np.unravel_index(int(np.argmax(wrong)), array.shape)
        return f"one entry is wrong, [{', '.join(str(int(k)) for k in index)}]"
    if len(array.shape) == 2:
        # An entry that is zero in both is wrong nowhere.
        there = (array.analytic != 0) | (
            np.abs(array.numeric) > ALLOWANCE * array.error
        )
        table, there = array.table(wrong), array.table(there)
        for axis, what in ((0, "column"), (1, "row")):
            if array.shape[axis] < 2 or array.shape[1 - axis] < 2:
                continue
            lines = table.any(axis)
            whole = (table | ~there).all(axis)
            if (lines == (lines & whole)).all() and not lines.all():
                return (
                    f"wrong in {_lines(np.flatnonzero(lines), what)}, right elsewhere"
                )
        return None
    places = np.flatnonzero(wrong)
    if len(array.shape) == 1 and 2 * n <= wrong.size and np.ptp(places) + 1 == n:
        return f"wrong from [{places[0]}] to [{places[-1]}], right elsewhere"
    return None


def _indices(found: NDArray[np.bool_], there: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.flatnonzero(there)[found]


def _lines(places: NDArray[np.intp], what: str) -> str:
    if places.size == 1:
        return f"{what} {places[0]}"
    if places[-1] - places[0] + 1 == places.size and places.size > 2:
        return f"{what}s {places[0]} to {places[-1]}"
    named = ", ".join(str(int(k)) for k in places[:LISTED])
    if places.size > LISTED:
        return f"{places.size} {what}s ({named}, ...)"
    return f"{what}s {named}"


def explain_array(
    array: Array, candidates: Mapping[str, Any], others: Mapping[str, Any]
) -> list[str]:
    """Return at most two sentences: what the mistake is like, and where it is."""
    if not array.judged.any() or norm(array.numeric[array.judged]) == math.inf:
        return []
    kind: str | None = None
    with np.errstate(all="ignore"):
        for k, test in enumerate(TESTS):
            if k == BEFORE:
                kind = supposed(array, candidates) or another(array, others)
            kind = kind or test(array)
            if kind is not None:
                break
        place = where_wrong(array)
    return [f"{array.name}: {said}" for said in (kind, place) if said is not None]


# -- all arrays ------------------------------------------------------------------------


@dataclass
class Finding:
    """What the whole says, from the verdicts and factors of the arrays."""

    verdicts: Mapping[str, str]
    idle: frozenset[str] = frozenset()  # arrays without any effect, which show nothing
    factors: dict[str, float] = field(default_factory=dict)

    def sentences(self) -> Iterator[str]:
        """Say what arrays have in common, and where in the network it begins."""
        bad = [n for n, v in self.verdicts.items() if v in ("wrong", "suspicious")]
        common = self._common_factor(bad)
        if common is not None:
            yield common
        yield from first_layer(self.verdicts, self.idle, common is not None)

    def _common_factor(self, bad: list[str]) -> str | None:
        if len(bad) < 2 or set(bad) - set(self.factors):
            return None
        values = [self.factors[name] for name in bad]
        if max(abs(v - values[0]) for v in values) > 1e-3 * abs(values[0]):
            return None
        if set(self.verdicts) - set(bad) - self.idle:
            return None
        return (
            f"all arrays are wrong by the same factor ({values[0]:.6g}): the mistake "
            "is in the loss, or in what it passes to the last layer, not in a layer"
        )


def layer_of(name: str) -> str:
    """Return the layer that an array belongs to, by its name.

    What precedes the last dot (``dense3.weight``); else the number that ends the name
    (``W1`` and ``b1``), else the name.
    """
    if "." in name:
        return name.rpartition(".")[0]
    number = re.search(r"\d+$", name)
    return number.group() if number else name


def first_layer(
    verdicts: Mapping[str, str], idle: frozenset[str], common: bool
) -> Iterator[str]:
    """Say where the gradient goes wrong, counted from the output."""
    layers: dict[str, list[str]] = {}
    for name in verdicts:
        layers.setdefault(layer_of(name), []).append(name)
    order = list(layers)
    if len(order) < 2:
        return
    bad = {
        key: [n for n in names if verdicts[n] in ("wrong", "suspicious")]
        for key, names in layers.items()
    }
    guilty = [key for key in order if bad[key]]
    if not guilty or common:
        return
    last = guilty[-1]
    at = order.index(last)
    if any(verdicts[n] != "correct" for key in order[at + 1 :] for n in layers[key]):
        return  # nothing is known of what comes first
    named = _names(bad[last])
    if at + 1 < len(order):
        start = (
            f"counted from the output, the gradient first goes wrong at {named}; the "
            "layers after it are correct"
        )
    else:
        start = f"the gradient is wrong from the last layer on, at {named}"
    before = [n for key in order[:at] for n in layers[key]]
    # An array that is right has been passed the right thing.
    before = [n for n in before if n not in idle]
    beyond = next((n for n in reversed(before) if verdicts[n] == "correct"), None)
    if not before:
        yield start
    elif beyond is not None:
        yield (
            f"{start}; what it passes down is right, as {beyond} shows: look at how "
            f"the gradient of {named} itself is formed"
        )
    else:
        yield (
            f"{start}, and all before it are wrong too: look at the derivative of the "
            "activation there, and at what is passed down to it"
        )


def _names(names: Sequence[str]) -> str:
    return " and ".join(names[:2]) + (" ..." if len(names) > 2 else "")
