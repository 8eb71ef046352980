"""Second looks at a gradient check, before anything but "correct" is said.

What a central difference at one step cannot tell: whether an entry differs because
the gradient is wrong, because the step is too small or too large for the function, or
because the point lies on a kink. `SecondLook` measures the noise of the function and
examines the entries that differ with other steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import _report
from fanin._report import GradientReport
from fanin._structure import Parameters

EPS64 = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)

# The default relative steps. float64: the textbook's 1e-7. float32: the cube root of
# the machine epsilon, where rounding (eps/h) and truncation (h^2) balance.
STEPS = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): EPS32 ** (1 / 3)}

# Entries that are examined again: in an array that is found wrong, and in all (or a
# twelfth of them, which costs about as much as half of the check).
AGAIN = 16
AGAIN_IN_ALL = 64
# The other steps they are examined with, as multiples of the first. 64 times 1e-7 is
# about eps^(1/3), the best step of a central difference in float64.
FACTORS = (1 / 8, 1.0, 8.0, 64.0)
LARGEST_STEP = 0.05


def scalar(value: Any) -> float:
    """Return what `fun` returned as a float, or say why it cannot be one."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is np.float64:
        return float(value)
    if isinstance(value, np.ndarray):
        if value.size == 1 and value.dtype.kind in "fiu":
            return float(value.item())
        raise TypeError(
            "fun must return a real scalar; got an array of shape "
            f"{value.shape} and dtype {value.dtype}"
        )
    if not isinstance(
        value, (bool, np.bool_, str, bytes, complex, np.complexfloating)
    ) and hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"fun must return a real scalar; got {kind.__name__}")


def points(
    theta: NDArray[np.float64],
    step: NDArray[np.float64] | float,
    dtype: np.dtype[Any],
    coarse: bool = False,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Return the representable points on both sides, and how far they are apart.

    `coarse`: no step is below 16 times the spacing of the float64 numbers there.
    """
    with np.errstate(over="ignore", under="ignore"):
        if coarse and dtype == np.float64:
            plus, minus = theta + step, theta - step
            return plus, minus, plus - minus
        here = theta.astype(dtype)
        plus = (theta + step).astype(dtype)
        minus = (theta - step).astype(dtype)
        # Never no step at all, however small eps is.
        plus = np.where(plus > here, plus, np.nextafter(here, dtype.type(np.inf)))
        minus = np.where(minus < here, minus, np.nextafter(here, dtype.type(-np.inf)))
    return plus, minus, plus.astype(np.float64) - minus.astype(np.float64)


class SecondLook:
    """What `_Check` knows of a function, and how to look at its entries again."""

    fun: Callable[[Any], Any]
    parameters: Parameters
    thresholds: tuple[float, float]
    n: int
    n_evaluations: int
    base: float  # the function at the point
    epsilon: float  # the machine epsilon of its values
    noise: float  # and how noisy they were found to be
    # One for each entry:
    step: NDArray[np.float64]
    f_plus: NDArray[np.float64]
    f_minus: NDArray[np.float64]
    span: NDArray[np.float64]
    analytic: NDArray[np.float64]
    numeric: NDArray[np.float64]
    own_error: NDArray[np.float64]
    error: NDArray[np.float64]
    status: NDArray[np.int8]
    checked: NDArray[np.bool_] | None  # None: all of them

    def _block_of(self, i: int) -> int:
        for b, block in enumerate(self.parameters.blocks):
            if block.where.start <= i < block.where.stop:
                return b
        raise IndexError(i)

    def _at(self, changes: list[tuple[int, int, float, float]]) -> float:
        """Evaluate with some entries changed: (block, entry, value, old value)."""
        slots = self.parameters.slots
        for b, j, value, _ in changes:
            slots[b][j] = value
        found = scalar(self.fun(self.parameters.structure))
        for b, j, _, old in changes:
            slots[b][j] = old
        self.n_evaluations += 1
        return found

    def _measure_noise(self) -> float:
        """Return the standard deviation of the noise in f (Moré & Wild 2011, sec. 4).

        Along a short line the values of f are smooth up to rounding, and differences
        of order k of a noise with deviation s have the mean square s^2 (2k)!/(k!)^2.
        Two lines, through a few entries each, and the smallest of the estimates: a
        kink on a line makes its estimate too large, never too small.
        """
        rng = np.random.default_rng(0)
        estimates = []
        # Beside an entry where the function ends nothing looks smooth.
        known = np.flatnonzero(np.isfinite(self.numeric))
        if known.size == 0:
            return 0.0
        for _ in range(2):
            chosen = rng.choice(known, size=min(16, known.size), replace=False)
            places = []
            for i in chosen.tolist():
                b = self._block_of(i)
                block = self.parameters.blocks[b]
                places.append((b, i - block.where.start, i))
            signs = rng.choice([-1.0, 1.0], size=len(places))
            values = []
            for k in range(1, 9):
                changes = []
                for (b, j, i), sign in zip(places, signs.tolist(), strict=True):
                    old = float(self.parameters.vector[i])
                    move = sign * k * float(self.step[i]) / 4
                    # In steps of the dtype, as a NumPy scalar of it would be.
                    new = float(self.parameters.blocks[b].dtype.type(old + move))
                    changes.append((b, j, new, old))
                values.append(self._at(changes))
            if not np.isfinite(values).all():
                continue
            table = np.array(values)
            # Relative to the largest value, so that squares neither over- nor
            # underflow.
            unit = float(np.max(np.abs(table)))
            if unit == 0.0:
                return 0.0
            table = table / unit
            line = []
            for k in range(1, 6):
                table = np.diff(table)
                if k >= 3:  # lower orders still see the function's own curvature
                    gamma = math.factorial(k) ** 2 / math.factorial(2 * k)
                    line.append(math.sqrt(gamma * float(np.mean(table**2))) * unit)
            estimates.append(min(line))
        return min(estimates, default=0.0)

    def _examine(self, report: GradientReport) -> None:
        """Look at the worst entries of each array that is not correct once more."""
        budget = max(AGAIN_IN_ALL, report.n_checked // 12)
        records = [r for r in report.blocks.values() if r.verdict != "correct"]
        # The strongest findings first, should the budget not reach all.
        scores = report._scores()
        records.sort(key=lambda record: -scores[record.name])
        by_name = {block.name: b for b, block in enumerate(self.parameters.blocks)}
        for record in records:
            b = by_name[record.name]
            where = self.parameters.blocks[b].where
            excess = report._excess[where]
            flagged = np.flatnonzero((excess > 0) & np.isfinite(self.numeric[where]))
            if flagged.size == 0:
                if not np.isfinite(self.numeric[where]).all():
                    continue
                flagged = np.arange(record.n)  # rounding hides all of it
                if self.checked is not None:
                    flagged = np.flatnonzero(self.checked[where])
            # The numeric norm may be the step's own nonsense.
            rms = record.analytic_norm / math.sqrt(max(1, record.n_checked))
            outcomes: list[int] = []
            by_ratio = flagged[np.argsort(-report._ratio[where][flagged])]
            by_excess = flagged[np.argsort(-excess[flagged])]
            both = np.stack([by_ratio, by_excess], axis=1).ravel().tolist()
            for j in dict.fromkeys(both):
                if budget == 0:
                    break
                # Enough if the array is wrong; to clear it, all must be cleared.
                if len(outcomes) >= AGAIN and _report.WRONG in outcomes:
                    break
                budget -= 1
                outcomes.append(self._look_again(b, j, rms))
                self.status[where.start + j] = outcomes[-1]
            rest = flagged[self.status[where][flagged] == _report.PLAIN] + where.start
            if rest.size and outcomes and _report.WRONG not in outcomes:
                self._infer(rest, outcomes, record.relative_error)

    def _infer(
        self, rest: NDArray[np.intp], outcomes: list[int], relative_error: float
    ) -> None:
        """Give a status to the entries beyond the budget, whose worst are cleared."""
        if set(outcomes) == {_report.AGREES} and relative_error < self.thresholds[0]:
            # The step's own error showed in entries that are small, as it did in the
            # worst of them; the array as a whole agrees.
            self.status[rest] = _report.AGREES
            return
        self.status[rest] = (
            _report.BLURRED if _report.BLURRED in outcomes else _report.UNRESOLVED
        )
        if _report.KINK in outcomes:
            half = self.span[rest] / 2
            slopes = np.stack(
                [self.f_plus[rest] - self.base, self.base - self.f_minus[rest]]
            )
            slopes /= half
            slack = _report.ALLOWANCE * self.error[rest]
            a = self.analytic[rest]
            between = (slopes.min(0) - slack <= a) & (a <= slopes.max(0) + slack)
            self.status[rest[between]] = _report.KINK

    def _look_again(self, b: int, j: int, rms: float) -> int:
        """Examine one entry with other steps; return its status."""
        block = self.parameters.blocks[b]
        i = block.where.start + j
        theta = self.parameters.vector[i]
        a = float(self.analytic[i])
        low, high = self.thresholds
        first = float(self.step[i])
        size = max(1.0, abs(float(theta)))
        steps = [
            first * k for k in FACTORS if k <= 1 or first * k <= LARGEST_STEP * size
        ]
        own = STEPS[block.dtype] * abs(float(theta))
        if 0 < own < first / 4096:  # the floor of the step is far above the parameter
            steps[:0] = [own, own * 64]
        found = []  # (step, central, its error, forward, backward)
        for h in steps:
            plus, minus, _ = points(theta, h, block.dtype)
            up, down, old = float(plus), float(minus), float(theta)
            if not (down < old < up):
                continue
            f_up = self._at([(b, j, up, old)])
            f_down = self._at([(b, j, down, old)])
            if not (math.isfinite(f_up - f_down) and math.isfinite(self.base)):
                continue
            # The noise was measured at steps like the first, which says nothing of
            # those that are smaller by many orders.
            size_here = max(abs(f_up), abs(f_down), abs(self.base))
            noise = self.noise if h >= first / 64 else 0.0
            value = max(self.epsilon * size_here, noise, 5e-324)
            found.append(
                (
                    h,
                    (f_up - f_down) / (up - down),
                    value / (up - down),
                    (f_up - self.base) / (up - old),
                    (self.base - f_down) / (old - down),
                )
            )
        if not found:
            return int(_report.UNRESOLVED)

        estimates = [(x, e) for _, x, e, _, _ in found]
        # Two steps cancel the h^2 term of the truncation error (Richardson).
        for (h, x, e, _, _), (h2, x2, e2, _, _) in pairwise(found):
            r = (h2 / h) ** 2
            if r > 1e6:
                continue
            estimates.append(
                (
                    (r * x - x2) / (r - 1),
                    (r * e + e2) / (r - 1) + EPS64 * (abs(x) + abs(x2)),
                )
            )
        own_error = float(self.own_error[i])
        original = abs(float(self.numeric[i]) - a)

        def slack(e: float) -> float:
            return _report.ALLOWANCE * (e + own_error)

        agree = [
            (x, e)
            for x, e in estimates
            if abs(x - a) <= slack(e) + low * (abs(x) + abs(a))
        ]
        # An estimate decides if it would have shown an error of the entry. One that
        # is noisier than the first must come nearer, not only be too vague to object.
        coarse = 2 * float(self.error[i])
        if any(
            slack(e) <= high * (abs(x) + abs(a))
            and (e <= coarse or abs(x - a) <= original / 4)
            for x, e in agree
        ):
            return int(_report.AGREES)
        # Values at two steps that agree with each other, not with the analytic one.
        if self._on_kink(found, a):
            return int(_report.KINK)
        for (_, x, e, _, _), (_, x2, e2, _, _) in pairwise(found):
            between = abs(x - x2) + e + e2
            nearest = min(abs(x - a), abs(x2 - a))
            if nearest > max(slack(e), slack(e2), 2 * between):
                return int(_report.WRONG)
        # A gradient near zero: no estimate shows it, but one shows that it is small
        # beside the array's typical entry, or the difference seen first.
        if any(slack(e) <= max(1e-3 * original, high * rms) for _, e in agree):
            return int(_report.AGREES)
        return int(_report.BLURRED if agree else _report.UNRESOLVED)

    def _on_kink(
        self, found: list[tuple[float, float, float, float, float]], a: float
    ) -> bool:
        """Whether the slopes on both sides are not those of one smooth function.

        Of a smooth function the slopes differ by h f'', so that a step eight times
        as large makes the difference eight times as large. A kink on one side
        leaves the slope on the other side what it is: the analytic value must be
        one of both, or lie between them, at the smallest step.
        """
        broken = False
        for (h, _, e, up, down), (h2, _, e2, up2, down2) in pairwise(found):
            jump, jump2 = abs(up - down), abs(up2 - down2)
            expected = jump2 * (h / h2)
            slack = _report.ALLOWANCE * (e + e2) + 0.1 * max(expected, jump)
            broken = broken or abs(jump - expected) > slack
        _, _, e, up, down = found[0]
        slack = _report.ALLOWANCE * e
        if len(found) > 1:  # what curvature adds to one-sided slopes
            _, _, _, up2, down2 = found[1]
            curved = abs(up - up2) + abs(down - down2)
            slack += min(curved, 0.01 * abs(up - down))
        low, high = sorted((up, down))
        return broken and low - slack <= a <= high + slack
