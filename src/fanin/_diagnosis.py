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
from itertools import combinations
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
# Of arrays of more dimensions only single axes are turned round.
MOST_AXES = 4

# Lines with fewer entries looked at say nothing of a line: a factor fits any two.
FEWEST = 3

INDEPENDENT = "the function does not depend on it here"

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
    sampled: bool = False  # whether there are entries that were not checked

    @property
    def square(self) -> bool:
        """Whether it is a square matrix."""
        return len(self.shape) == 2 and self.shape[0] == self.shape[1] > 1

    @property
    def whole(self) -> bool:
        """Whether every entry was judged, so that entries can change places."""
        return bool(self.judged.all())

    @property
    def counted(self) -> str:
        """The entries that sentences are about, as in "3 of ..."."""
        n = int(np.count_nonzero(self.judged))
        return f"the {n} entries checked" if self.sampled else f"{n} entries"

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
        where = " where it was checked" if array.sampled else ""
        return f"the analytic gradient is zero{where}, the numeric is not"
    return None


def no_dependence(array: Array) -> str | None:
    """Recognize what the function knows nothing of."""
    a, x = norm(array.analytic[array.judged]), norm(array.numeric[array.judged])
    # (A numeric gradient of zero has some rounding.)
    if x <= ALLOWANCE * norm(array.error[array.judged]) and a > 0.0 and x < 1e-3 * a:
        return f"the numeric gradient is zero, the analytic is not: {INDEPENDENT}"
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
    dimensions = max(len(array.shape), 1)
    longer = [axis for axis in range(dimensions) if x.shape[axis] > 1]
    for n in range(1, len(longer) + 1 if len(longer) <= MOST_AXES else 2):
        for turned in combinations(longer, n):
            if array.explains(
                np.flip(x, turned).ravel(), error=np.flip(e, turned).ravel()
            ):
                return (
                    "the analytic gradient has the order of its "
                    f"{_turned(turned, dimensions)} reversed"
                )
    if dimensions > 2:
        return None
    vector = dimensions == 1
    axes = range(dimensions)
    for axis in axes:
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


def _turned(axes: tuple[int, ...], dimensions: int) -> str:
    if dimensions == 1:
        return "entries"
    if dimensions == 2:
        return " and ".join(("rows", "columns")[axis] for axis in axes)
    named = " and ".join(str(axis) for axis in axes)
    return f"entries along {'axis' if len(axes) == 1 else 'axes'} {named}"


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
    # No permutation moves one entry; among very many values any is near another's.
    if np.count_nonzero(array.wrong) < 2:
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
    if (
        not 2 <= n < np.count_nonzero(array.judged)
        or not (np.abs(x[at]) > largest).any()
    ):
        return None
    if not array.explains(np.clip(x, -largest, largest)):
        return None
    return (
        f"the analytic values are clipped at {largest * array.unit:.6g} "
        f"({n} of {array.counted})"
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
            f"{' checked' if array.sampled else ''}"
        )
    return None


def signs(array: Array) -> str | None:
    """Recognize an absolute value."""
    # Less an absolute value is rare, and a few numbers are all negative by chance:
    # by a wrong sign in one row, say.
    for sign, what, fewest in ((1.0, "positive", 3), (-1.0, "negative", 8)):
        if np.count_nonzero(array.judged) >= fewest and array.explains(
            sign * np.abs(array.numeric)
        ):
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


def ratio_and_penalty(array: Array) -> tuple[float, float] | None:
    """Return c and w if numeric is c times analytic plus w times the parameters."""
    theta = array.theta
    if theta is None or np.count_nonzero(array.judged) < 6:
        return None
    basis = np.stack([array.analytic[array.judged], theta[array.judged]], axis=1)
    if not np.isfinite(basis).all():
        return None
    x = array.numeric[array.judged]
    (c, w), _, rank, _ = np.linalg.lstsq(basis, x, rcond=None)
    if rank < 2 or c == 0.0 or abs(c - 1) < 1e-3:
        return None
    if array.explains((array.numeric - w * theta) / c, error=array.error / abs(c)):
        return float(c), float(w)
    return None


def ratio_of_rest(array: Array) -> float | None:
    """Return c if all but a penalty is off by c, and the penalty is right."""
    found = ratio_and_penalty(array)
    # With d the gradient of the rest, analytic d / c + p theta and numeric
    # d + p theta: numeric is c times analytic plus p (1 - c) times theta.
    return found[0] if found is not None and found[1] * (1 - found[0]) > 0 else None


def factor_and_penalty(array: Array) -> str | None:
    """Recognize a factor and a term of the parameters, both."""
    found = ratio_and_penalty(array)
    if found is None:
        return None
    c, w = found
    if w * (1 - c) > 0:
        known = _known(c, array.judged, "")
        why = "" if known is None else ": " + known.partition(": ")[2]
        near = next((v for v, _ in NAMED_RATIOS if abs(c - v) <= 1e-3 * abs(v)), c)
        return (
            f"as if the penalty of {w / (1 - c):.4g} times the parameters were right "
            f"and all the rest had the factor {near:.6g} (numeric over analytic){why}"
        )
    return (
        f"numeric is {c:.6g} times analytic plus {w:.4g} times the "
        "parameters: a factor and a penalty"
    )


def by_line(array: Array) -> str | None:
    """Recognize a factor for each column, or for each row."""
    if len(array.shape) != 2:
        return _by_entry(array)
    # What concerns fewer lines is the likelier of two that hold.
    found = [_by_line_of(array, 0, "column"), _by_line_of(array, 1, "row")]
    return min((f for f in found if f is not None), default=(0, None))[1]


def _by_line_of(array: Array, axis: int, what: str) -> tuple[int, str] | None:
    """Return how many lines are wrong, and the sentence."""
    a, x, e, judged = (
        array.table(v)
        for v in (array.analytic, array.numeric, array.error, array.judged)
    )
    if a.shape[axis] < FEWEST or a.shape[1 - axis] < 2:
        return None
    aa = np.where(judged, a, 0.0)
    xx = np.where(judged, x, 0.0)
    square = (aa * aa).sum(axis)
    there = square > 0
    if not there.any():
        return None
    factor = np.divide((aa * xx).sum(axis), square, where=there, out=square * 0)
    full = np.expand_dims(factor, axis)
    if not array.explains((full * a).ravel(), target=array.numeric):
        return None
    found = factor[there]
    noise = ALLOWANCE * np.sqrt((e * e).sum(axis)[there] / square[there]) + 1e-3
    off = np.abs(found - 1) > noise
    n = int(np.count_nonzero(off))
    if n == 0 or (judged.sum(axis)[there][off] < FEWEST).any():
        return None
    signs = np.abs(np.abs(found) - 1) <= noise
    gone = np.abs(found) <= noise
    if (signs | gone).all() and gone.any() and (found > -0.5).all():
        return n, (
            f"numeric is zero in {_lines(_indices(gone, there), what)}, where "
            "analytic is not: a unit that is off passes nothing on; perhaps ReLU's "
            "derivative is missing"
        )
    if signs.all() and (found < 0).any():
        return n, f"the sign is wrong in {_lines(_indices(found < 0, there), what)}"
    if n == 1 and off.size > 1:
        line = _lines(_indices(off, there), what)
        return n, f"numeric is {found[off][0]:.3g} times analytic in {line}"
    each = f"each {what} is"
    if 2 * n <= off.size:
        each = f"{_lines(_indices(off, there), what)} are"
        found = found[off]
        noise = noise[off]
    if ((found > -noise) & (found <= 1 + noise)).all():
        return n, (
            f"{each} too large by a factor of its own (numeric over "
            f"analytic from {found.min():.3g} to {found.max():.3g}): perhaps the "
            "derivative of an activation such as tanh or logistic is missing"
        )
    return n, (
        f"{each} off by a factor of its own (numeric over analytic from "
        f"{found.min():.3g} to {found.max():.3g})"
    )


def _by_entry(array: Array) -> str | None:
    """Recognize zeros of the numeric gradient where analytic has none."""
    gone = array.wrong & (np.abs(array.numeric) <= ALLOWANCE * array.error)
    n = np.count_nonzero(array.wrong)
    some = n < np.count_nonzero(array.judged)
    if n > 1 and n == np.count_nonzero(gone) and some:
        return (
            f"numeric is zero in {n} of {n} wrong entries, where analytic is not: a "
            "unit that is off passes nothing on; perhaps ReLU's derivative is missing"
        )
    return None


def part_missing(array: Array) -> str | None:
    """Recognize zeros in the wrong entries, right values in the others."""
    wrong = array.wrong & array.judged
    n = np.count_nonzero(wrong)
    if n in (0, np.count_nonzero(array.judged)) or array.analytic[wrong].any():
        return None
    return (
        f"the analytic gradient is zero in {n} of {array.counted}, where "
        "numeric is not: only a part of it is filled in"
    )


def exchanged(array: Array) -> str | None:
    """Recognize wrong entries that have one another's values."""
    where = np.flatnonzero(array.wrong & array.judged)
    if not 2 <= where.size < np.count_nonzero(array.judged) or where.size > 1000:
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
    factor_and_penalty,
    known_ratio_of_part,
    part_missing,
    exchanged,
    rounded,
    by_line,
    general_ratio_of_part,
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
    wrong, judged = array.wrong, array.judged
    n = int(np.count_nonzero(wrong))
    if n == 0 or n == np.count_nonzero(judged) or not array.shape:
        return None
    if n == 1:
        index = np.unravel_index(int(np.argmax(wrong)), array.shape)
        of = f" of {array.counted}" if array.sampled else ""
        return f"one entry{of} is wrong, [{', '.join(str(int(k)) for k in index)}]"
    elsewhere = "elsewhere, of those checked" if array.sampled else "elsewhere"
    if len(array.shape) == 2:
        found = [_wrong_lines(array, 0, "column"), _wrong_lines(array, 1, "row")]
        named = min((f for f in found if f is not None), default=None)
        return None if named is None else f"wrong in {named[1]}, right {elsewhere}"
    places = np.flatnonzero(wrong)
    first, last = int(places[0]), int(places[-1])
    alone = np.count_nonzero(judged[first : last + 1]) == n
    known = not array.sampled or n >= FEWEST
    if len(array.shape) == 1 and 2 * n <= wrong.size and alone and known:
        if not (_there(array) & judged & ~wrong).any():
            return None
        return f"wrong from [{first}] to [{last}], right {elsewhere}"
    return None


def _there(array: Array) -> NDArray[np.bool_]:
    """Return where there is more than a zero or a penalty, which is right alone."""
    there = (array.analytic != 0) | (np.abs(array.numeric) > ALLOWANCE * array.error)
    return np.asarray(there & ~_penalty_alone(array))


def _penalty_alone(array: Array) -> NDArray[np.bool_]:
    """Return the right entries that are one multiple of the parameters.

    It is told from the median of the ratios: a multiple by chance is not that of many.
    """
    none = np.zeros(array.wrong.shape, np.bool_)
    if array.theta is None:
        return none
    right = array.judged & ~array.wrong & (array.theta != 0) & (array.analytic != 0)
    if np.count_nonzero(right) < FEWEST:
        return none
    ratio = array.analytic[right] / array.theta[right]
    common = float(np.median(ratio))
    if not math.isfinite(common):
        return none
    none[right] = np.abs(ratio - common) <= 1e-6 * abs(common)
    return none if np.count_nonzero(none) >= FEWEST else np.zeros_like(none)


def _wrong_lines(array: Array, axis: int, what: str) -> tuple[int, str] | None:
    """Return how many lines are wrong and which, if lines are, and others right."""
    if array.shape[axis] < 2 or array.shape[1 - axis] < 2:
        return None
    table, judged = array.table(array.wrong), array.table(array.judged)
    there = array.table(_there(array)) & judged
    lines = table.any(axis)
    if (lines & ~(table | ~there).all(axis)).any():
        return None
    # Enough of each was looked at, and others are right that are not just empty.
    enough = judged.sum(axis) >= min(FEWEST, array.shape[axis])
    if (lines & ~enough).any() or not (~lines & there.any(axis) & enough).any():
        return None
    return int(np.count_nonzero(lines)), _lines(np.flatnonzero(lines), what)


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
) -> tuple[str | None, str | None]:
    """Return two sentences, or None: what the mistake is like, and where it is."""
    if not array.judged.any() or norm(array.numeric[array.judged]) == math.inf:
        return None, None
    kind: str | None = None
    with np.errstate(all="ignore"):
        for k, test in enumerate(TESTS):
            if k == BEFORE:
                kind = supposed(array, candidates) or another(array, others)
            kind = kind or test(array)
            if kind is not None:
                break
        # (What changed places is wrong wherever it lands on another value.)
        place = None if kind is not None and "order" in kind else where_wrong(array)
    return kind, place


# -- all arrays ------------------------------------------------------------------------


@dataclass
class Finding:
    """What the whole says, from the verdicts and factors of the arrays."""

    verdicts: Mapping[str, str]
    idle: frozenset[str] = frozenset()  # arrays without any effect, which show nothing
    factors: dict[str, float] = field(default_factory=dict)
    penalized: frozenset[str] = frozenset()  # factors are of all but a right penalty
    layers: Sequence[Sequence[str]] | None = None  # forward; None: not known
    unused: frozenset[str] = frozenset()  # arrays that the function does not look at

    def sentences(self) -> Iterator[str]:
        """Say what arrays have in common, and where in the network it begins."""
        bad = [n for n, v in self.verdicts.items() if v in ("wrong", "suspicious")]
        common = self._common_factor(bad)
        if common is not None:
            yield common
            return
        # Of an array that the function does not use, all has been said.
        verdicts = {n: v for n, v in self.verdicts.items() if n not in self.unused}
        if self.layers is None:
            yield from which_wrong(verdicts, self.idle)
        else:
            layers = [[n for n in names if n in verdicts] for names in self.layers]
            yield from first_layer(verdicts, self.idle, [n for n in layers if n])

    def _common_factor(self, bad: list[str]) -> str | None:
        if len(bad) < 2 or set(bad) - set(self.factors):
            return None
        values = [self.factors[name] for name in bad]
        if max(abs(v - values[0]) for v in values) > 1e-3 * abs(values[0]):
            return None
        if set(self.verdicts) - set(bad) - self.idle:
            return None
        but = ", but for a penalty, which is right" if self.penalized else ""
        if self.layers is None:
            what = "in what they have in common"
        else:
            what = "in the loss, or in what it passes to the last layer, not in a layer"
        exact = next((name for name in bad if name not in self.penalized), bad[0])
        return (
            f"all arrays are wrong by the same factor ({self.factors[exact]:.6g})"
            f"{but}: the mistake is {what}"
        )


_PART = re.compile(r"\.(real|imag)$")
_OUTER = re.compile(r"^(?P<head>[^\[\]]*)\[(?P<index>\d+)\](?P<rest>.+)$")


def layers_of(
    shapes: Mapping[str, tuple[int, ...]],
) -> list[list[str]] | None:
    """Return the arrays by layers in forward order, None where names tell no layers.

    They do if all of them carry numbers (``W1`` and ``b1``, ``dense3.weight``), or all
    are items of items of one list (``[0][1]``, ``layers[2].W``).
    """
    names = {name: _PART.sub("", name) for name in shapes}
    nested = {name: _OUTER.match(plain) for name, plain in names.items()}
    found: dict[tuple[int, ...], list[str]] = {}
    if any("[" in plain for plain in names.values()):
        if len({m["head"] if m is not None else None for m in nested.values()}) != 1:
            return None
        for name, match in nested.items():
            if match is None:
                return None
            found.setdefault((int(match["index"]),), []).append(name)
        return [found[key] for key in sorted(found)]
    heads: dict[tuple[int, ...], set[str]] = {}
    stems: dict[tuple[int, ...], set[str]] = {}
    owners: set[str] = set()
    for name, plain in names.items():
        head, _, last = plain.rpartition(".")
        held = re.search(r"\d", head) is not None
        key = tuple(int(digits) for digits in re.findall(r"\d+", plain))
        if not key:
            return None
        # (Of those that carry numbers themselves one thing holds all.)
        owners.add("" if held else f"{head}.")
        found.setdefault(key, []).append(name)
        heads.setdefault(key, set()).add(head)
        if not held and len(shapes[name]) > 1:
            stems.setdefault(key, set()).add(last[:1].lower())
    # enc1.W and dec1.W, or enc1 and dec1, are of one number and of two layers.
    if any(len(v) > 1 for v in (*heads.values(), *stems.values())):
        return None
    if len(owners) > 1 or len({len(key) for key in found}) > 1:
        return None
    return [found[key] for key in sorted(found)]


def which_wrong(verdicts: Mapping[str, str], idle: frozenset[str]) -> Iterator[str]:
    """Say which arrays are wrong and which are not, where no more is known."""
    said = []
    for verdict in ("wrong", "suspicious", "correct"):
        names = [
            n
            for n, v in verdicts.items()
            if v == verdict and (v != "correct" or n not in idle)
        ]
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            said.append(f"{verdict}: {', '.join(names[:LISTED])}{more}")
    if len(said) > 1 and not said[0].startswith("correct"):
        yield "; ".join(said)


def first_layer(
    verdicts: Mapping[str, str],
    idle: frozenset[str],
    layers: Sequence[Sequence[str]],
) -> Iterator[str]:
    """Say where the gradient goes wrong, counted from the output."""
    if len(layers) < 2:
        return
    found = ("wrong", "suspicious")
    bad = [[n for n in names if verdicts[n] in found] for names in layers]
    guilty = [k for k, names in enumerate(bad) if names]
    if not guilty:
        return
    at = guilty[-1]
    if any(verdicts[n] != "correct" for names in layers[at + 1 :] for n in names):
        return  # nothing is known of what comes first
    named = _names(bad[at])
    if at + 1 < len(layers):
        start = (
            f"counted from the output, the gradient first goes wrong at {named}; the "
            "layers after it are correct"
        )
    else:
        start = f"the gradient is wrong from the last layer on, at {named}"
    # An array that is right has been passed the right thing.
    before = [n for names in layers[:at] for n in names if n not in idle]
    beyond = next((n for n in reversed(before) if verdicts[n] == "correct"), None)
    mate = next(
        (n for n in layers[at] if verdicts[n] == "correct" and n not in idle), None
    )
    if beyond is not None:
        yield (
            f"{start}; what it passes down is right, as {beyond} shows: look at how "
            f"the gradient of {named} itself is formed"
        )
        return
    too = bool(before) and all(verdicts[n] in found for n in before)
    wrong_too = ", and all before it are wrong too" if too else ""
    if mate is not None:
        down = ", and at what is passed down from there" if too else ""
        yield (
            f"{start}{wrong_too}; {mate} of the same layer is right: look at how the "
            f"gradient of {named} is formed{down}"
        )
    elif too:
        yield (
            f"{start}{wrong_too}: look at the derivative of the "
            "activation there, and at what is passed down to it"
        )
    else:
        yield start


def _names(names: Sequence[str]) -> str:
    return " and ".join(names[:2]) + (" ..." if len(names) > 2 else "")
