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

from fanin import _report, _taylor
from fanin._report import GradientReport
from fanin._structure import Parameters

EPS64 = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)

# The default relative steps. float64: the textbook's 1e-7. float32: the cube root of
# the machine epsilon, where rounding (eps/h) and truncation (h^2) balance.
STEPS = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): EPS32 ** (1 / 3)}

# Entries that are examined again: of every array that is not found correct; and more
# of it, if these are cleared, up to so many in all (or a twelfth of all there are,
# which costs about as much as half of the check).
AGAIN = 16
AGAIN_IN_ALL = 64
# The other steps they are examined with, as multiples of the first. 64 times 1e-7 is
# about eps^(1/3), the best step of a central difference in float64.
FACTORS = (1 / 8, 1.0, 8.0, 64.0)
LARGEST_STEP = 0.05
N_BESIDE = 16
BEYOND = 3.0


def scalar(value: Any) -> float:
    """Return what `fun` returned as a float, or say why it cannot be one."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
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
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Return the representable points on both sides, and how far they are apart."""
    with np.errstate(over="ignore", under="ignore"):
        here = theta.astype(dtype)
        plus = (theta + step).astype(dtype)
        minus = (theta - step).astype(dtype)
        # Never no step at all, however small eps is.
        plus = np.where(plus > here, plus, np.nextafter(here, dtype.type(np.inf)))
        minus = np.where(minus < here, minus, np.nextafter(here, dtype.type(-np.inf)))
    return plus, minus, plus.astype(np.float64) - minus.astype(np.float64)


# Of an entry: the slopes on both sides, their error, whether they disagree.
Slopes = tuple[float, float, float, bool]


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
    ratio: NDArray[np.float64]
    checked: NDArray[np.bool_] | None = None  # None: all of them
    # The gradient, flat, at the parameters as they are now; None if it is no function.
    gradient_at: Callable[[], NDArray[np.float64]] | None = None

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
        for _ in range(2):
            chosen = rng.choice(self.n, size=min(16, self.n), replace=False)
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
        self.ratio = report._ratio
        records.sort(key=lambda record: -scores[record.name])
        by_name = {block.name: b for b, block in enumerate(self.parameters.blocks)}
        for record in records:
            b = by_name[record.name]
            where = self.parameters.blocks[b].where
            excess = report._excess[where]
            flagged = self._in_question(record, excess)
            if flagged.size == 0:
                continue
            # The numeric norm may be the step's own nonsense.
            rms = record.analytic_norm / math.sqrt(max(1, record.n_checked))
            outcomes: list[int] = []
            for first in range(0, flagged.size, AGAIN):
                # Enough if the array is wrong; to clear it, all must be cleared.
                if _report.WRONG in outcomes or (first > 0 and budget <= 0):
                    break
                entries = flagged[first : first + AGAIN].tolist()
                budget -= len(entries)
                found = self._statuses(b, entries, rms)
                self.status[where][entries] = found
                outcomes += found
            rest = flagged[self.status[where][flagged] == _report.PLAIN]
            if rest.size and _report.WRONG not in outcomes:
                if _report.KINK in outcomes:
                    self._infer_kinks(rest + where.start)
                    rest = rest[self.status[where][rest] == _report.PLAIN]
                rest = rest[excess[rest] > 0]
                self._infer(rest + where.start, outcomes, record.relative_error)
            self._revoke(b, flagged)

    def _finish(self, report: GradientReport) -> None:
        """Confirm what is found wrong without a step, and write the diagnosis."""
        arrays = []
        scores = report._scores()
        for block in sorted(self.parameters.blocks, key=lambda b: -scores[b.name]):
            record = report.blocks[block.name]
            if record.verdict in ("wrong", "suspicious") and record.worst is not None:
                worst = np.ravel_multi_index(record.worst.index, record.shape)
                wrong = report._wrong[block.where]
                arrays.append((block.name, block.where, wrong, int(worst)))
        try:
            confirmations = _taylor.confirm(
                _taylor.Function(
                    value=self._value_at,
                    place=self._representable,
                    theta=self.parameters.vector,
                    base=self.base,
                    epsilon=self.epsilon,
                    noise=self.noise,
                ),
                self.analytic,
                self.numeric,
                arrays,
            )
        finally:
            self.parameters.restore()
        if arrays and self._is_stale():
            report._notes.append(
                "grad returns the same values at other parameters: it is stale, "
                "computed before and kept, or it does not look at its argument"
            )
        report.n_evaluations = self.n_evaluations
        report._explain(self.parameters.vector, confirmations=confirmations)

    def _is_stale(self) -> bool:
        """Whether a gradient function does not follow parameters that matter to it."""
        if self.gradient_at is None:
            return False
        size = np.maximum(1.0, np.abs(self.parameters.vector))
        moved = self._representable(self.parameters.vector + 1e-2 * size)
        try:
            self.parameters.write(moved)
            there = self.gradient_at()
        except Exception:  # at a point that nobody asked for it may refuse to work
            return False
        finally:
            self.parameters.restore()
        if not np.array_equal(there, self.analytic):
            return False
        # (The gradient of a linear function is the same everywhere.)
        direction = self.step / np.sqrt(self.n)
        slopes = []
        try:
            for point in (self.parameters.vector, moved):
                values = [
                    self._value_at(self._representable(point + sign * 100 * direction))
                    for sign in (1.0, -1.0)
                ]
                slopes.append(values[0] - values[1])
        finally:
            self.parameters.restore()
        change = abs(slopes[1] - slopes[0])
        value = self.epsilon * max(abs(self.base), *map(abs, values)) + self.noise
        return change > 100 * value + 1e-6 * max(map(abs, slopes))

    def _value_at(self, point: NDArray[np.float64]) -> float:
        self.parameters.write(point)
        return self._at([])

    def _representable(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        for block in self.parameters.blocks:
            if block.dtype != np.float64:
                point[block.where] = point[block.where].astype(block.dtype)
        return point

    def _in_question(
        self, record: _report.BlockRecord, excess: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Return the entries of an array to look at, the most doubtful first."""
        block = next(b for b in self.parameters.blocks if b.name == record.name)
        where = block.where
        finite = np.isfinite(self.numeric[where])
        if self.checked is not None:
            finite &= self.checked[where]
        flagged = np.flatnonzero((excess > 0) & finite)
        ratio = self.ratio[where]
        by_ratio = flagged[np.argsort(-ratio[flagged])]
        by_excess = flagged[np.argsort(-excess[flagged])]
        both = np.stack([by_ratio, by_excess], axis=1).ravel()
        # And what rounding hides, those that it moves most first: a kink beside the
        # point moves a gradient as rounding does.
        error = _report.ALLOWANCE * self.error[where]
        size = np.abs(self.analytic[where]) + np.abs(self.numeric[where])
        hidden = np.flatnonzero((error > self.thresholds[1] * size) & finite)
        both = np.concatenate([both, hidden[np.argsort(-error[hidden])]])
        _, first = np.unique(both, return_index=True)
        return both[np.sort(first)]

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

    def _infer_kinks(self, rest: NDArray[np.intp]) -> None:
        """Leave out those whose analytic value lies between the slopes on both sides.

        The slopes of the check itself: they are apart by more than rounding explains.
        """
        up, down = self._sides(rest)
        slack = _report.ALLOWANCE * (self.error[rest] - self.own_error[rest])
        low, high = np.minimum(up, down), np.maximum(up, down)
        a = self.analytic[rest]
        kink = (low - slack <= a) & (a <= high + slack) & (high - low > slack)
        self.status[rest[kink]] = _report.KINK

    def _sides(
        self, entries: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the slopes on both sides, of the check's own step."""
        half = self.span[entries] / 2
        up = (self.f_plus[entries] - self.base) / half
        return up, (self.base - self.f_minus[entries]) / half

    def _statuses(self, b: int, entries: list[int], rms: float) -> list[int]:
        """Examine entries of one array with other steps; return their statuses."""
        looks = [self._look_again(b, j, rms) for j in entries]
        found = [outcome for outcome, _ in looks]
        doubt = [
            (k, j, slopes)
            for k, (j, (_, slopes)) in enumerate(zip(entries, looks, strict=True))
            if slopes is not None
        ]
        for first in range(0, len(doubt), 4):
            some = doubt[first : first + 4]
            kinks = self._within_kinks(
                b, [j for _, j, _ in some], [slopes for _, _, slopes in some]
            )
            for (k, _, _), kink in zip(some, kinks, strict=True):
                if kink:
                    found[k] = int(_report.KINK)
            # The array is wrong: no need to know what else there is.
            if any(found[k] == _report.WRONG for k, _, _ in some):
                break
        return found

    def _look_again(self, b: int, j: int, rms: float) -> tuple[int, Slopes | None]:
        """Examine one entry with other steps; return its status.

        And, unless that is settled, what shows whether it is on a kink.
        """
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
            return int(_report.UNRESOLVED), None

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
            return int(_report.AGREES), None
        # Values at two steps that agree with each other, not with the analytic one.
        _, _, e, up, down = found[0]
        broken = self._is_broken(found)
        slack_here = _report.ALLOWANCE * e
        if broken and min(up, down) - slack_here <= a <= max(up, down) + slack_here:
            return int(_report.KINK), None
        kink = (up, down, e, broken)
        for (_, x, e, _, _), (_, x2, e2, _, _) in pairwise(found):
            between = abs(x - x2) + e + e2
            nearest = min(abs(x - a), abs(x2 - a))
            if nearest > max(slack(e), slack(e2), 2 * between):
                return int(_report.WRONG), kink
        # A gradient near zero: no estimate shows it, but one shows that it is small
        # beside the array's typical entry, or the difference seen first.
        if any(slack(e) <= max(1e-3 * original, high * rms) for _, e in agree):
            return int(_report.AGREES), None
        return int(_report.BLURRED if agree else _report.UNRESOLVED), kink

    @staticmethod
    def _is_broken(found: list[tuple[float, float, float, float, float]]) -> bool:
        """Whether the slopes on both sides are not those of one smooth function.

        Of a smooth function the slopes differ by h f'', so that a step eight times
        as large makes the difference eight times as large.
        """
        for (h, _, e, up, down), (h2, _, e2, up2, down2) in pairwise(found):
            jump, jump2 = abs(up - down), abs(up2 - down2)
            expected = jump2 * (h / h2)
            slack = _report.ALLOWANCE * (e + e2) + 0.1 * max(expected, jump)
            if abs(jump - expected) > slack:
                return True
        return False

    def _within_kinks(self, b: int, entries: list[int], slopes: list[Slopes]) -> Any:
        """Whether kinks that meet at the point explain the analytic values.

        Where several kinks meet, as in a network whose input is a row of zeros, the
        derivatives that a backward pass puts together need not lie between the slopes
        along one entry, and these may even be equal: it takes the convention of each
        kink, the slopes take the side to which the entry moves each argument. So the
        function is asked for its slopes at points beside this one, to which all
        parameters are moved, farther than the step: each shows the derivative of one
        of the smooth pieces that meet here. A smooth function has nearly one slope
        at all of them, the more so the nearer they are.
        """
        where = self.parameters.blocks[b].where
        index = np.array(entries) + where.start
        sides = np.array([(up, down) for up, down, _, _ in slopes])
        error = np.array([e for _, _, e, _ in slopes])
        broken = np.array([found for _, _, _, found in slopes])
        rounding = _report.ALLOWANCE * error
        middle = sides.mean(axis=1)
        kinks = np.zeros(len(entries), np.bool_)
        if self._reach() < 2.0:
            return kinks  # no room between the step and what is far away
        with np.errstate(invalid="ignore", over="ignore"):
            # A first look, which finds most of what has no kink.
            near = self._pieces(b, entries, 1 / 8, N_BESIDE // 2)
            moved = np.abs(near - middle).max(axis=0)
            maybe = broken | (moved > 1e-3 * np.abs(middle) + rounding)
            chosen = np.flatnonzero(maybe)
            if chosen.size == 0:
                return kinks
            few = [entries[k] for k in chosen.tolist()]
            wide, narrow = (self._pieces(b, few, scale) for scale in (1.0, 1 / 8))
            # The spread of a smooth function shrinks eightfold.
            spread = np.ptp(narrow, axis=0)
            own = broken[chosen] | (
                (spread > np.ptp(wide, axis=0) / 2) & (spread > rounding[chosen])
            )
            seen = np.concatenate([sides[chosen].T, near[:, chosen], wide, narrow])
            low, high = seen.min(axis=0), seen.max(axis=0)
            a = self.analytic[index[chosen]]
            slack = rounding[chosen] + _report.ALLOWANCE * self.own_error[index[chosen]]
            # With slopes that are on neither side here other kinks meet with the entry's
            # own, in combinations of which these few points need not show all.
            apart = np.abs(seen - sides[chosen][:, 0]) > slack + 0.01 * (high - low)
            apart &= np.abs(seen - sides[chosen][:, 1]) > slack + 0.01 * (high - low)
            slack += np.where(apart.any(axis=0), BEYOND * (high - low), 0.0)
            kinks[chosen] = own & (low - slack <= a) & (a <= high + slack)
        return kinks

    def _reach(self) -> float:
        """Return how far "beside" may be: the logarithm of a multiple of the step."""
        size = np.maximum(1.0, np.abs(self.parameters.vector))
        return min(4.0, -3.0 - math.log10(float(np.max(self.step / size))))

    def _pieces(
        self, b: int, entries: list[int], scale: float, count: int = N_BESIDE
    ) -> NDArray[np.float64]:
        """Return the slopes along entries of an array at so many points beside."""
        default = self.numeric[
            np.array(entries) + self.parameters.blocks[b].where.start
        ]
        return np.stack(
            [
                self._slopes_at(b, entries, self._beside(k, scale), default)
                for k in range(count)
            ]
        )

    def _slopes_at(
        self,
        b: int,
        entries: list[int],
        point: NDArray[np.float64],
        default: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the slopes along some entries at another point."""
        block = self.parameters.blocks[b]
        found = np.array(default)
        try:
            self.parameters.write(point)
            for k, j in enumerate(entries):
                i = block.where.start + j
                plus, minus, _ = points(point[i], float(self.step[i]), block.dtype)
                up, down, old = float(plus), float(minus), float(point[i])
                f_up = self._at([(b, j, up, old)])
                slope = (f_up - self._at([(b, j, down, old)])) / (up - down)
                if math.isfinite(slope):
                    found[k] = slope
        finally:
            self.parameters.restore()
        return found

    def _beside(self, k: int, scale: float) -> NDArray[np.float64]:
        """Return one of several points near by, on various sides of the kinks here."""
        rng = np.random.default_rng([1, k])
        blocks = self.parameters.blocks
        point = np.empty(self.n)
        far = self._reach() - 1.5
        for n, block in enumerate(blocks):
            # One sign for a whole array moves all units of a layer to one side;
            # farther in later arrays, so that they are not carried along.
            distance = 10.0 ** (1.5 + far * rng.uniform())
            sign = float(rng.choice([-1.0, 1.0]))
            if k % 4 < 2:
                sign = (-1.0, 1.0)[k % 4]
                distance = 10.0 ** (1.5 + far * (n + 1) / len(blocks))
            move = distance * sign * rng.uniform(0.5, 1, block.size)
            if k % 4 == 3:
                move *= rng.choice([-1.0, 1.0], block.size)
            moved = (
                self.parameters.vector[block.where]
                + move * scale * (self.step[block.where])
            )
            point[block.where] = moved.astype(block.dtype)
        return point

    def _revoke(self, b: int, entries: NDArray[np.intp]) -> None:
        """Call wrong what kinks explain, if one factor explains all of it as well.

        The values that kinks make up are in no common ratio to the central
        differences, unless they are the slopes of a smooth piece that meets here.
        """
        start = self.parameters.blocks[b].where.start
        kinks = entries[self.status[entries + start] == _report.KINK] + start
        if kinks.size < 4 or self._reach() < 2.0:
            return
        a, x = self.analytic[kinks], self.numeric[kinks]
        # That of the differences alone: kinks make a gradient look noisy.
        error = _report.ALLOWANCE * (self.error[kinks] - self.own_error[kinks])
        slack = error + 1e-3 * np.abs(a)
        apart = np.ones(kinks.size, np.bool_)
        for slope in self._sides(kinks):
            apart &= np.abs(a - slope) > slack
        a, x, error, kinks = a[apart], x[apart], error[apart], kinks[apart]
        square = float(np.dot(a, a))
        if a.size < 4 or square == 0.0 or not math.isfinite(square):
            return
        c = float(np.dot(x, a)) / square
        # The coincidence must be close: to three digits of what the factor explains.
        explained = abs(c - 1) * math.sqrt(square / a.size)
        fits = np.abs(x - c * a) <= error + 1e-6 * np.abs(x)
        close = 1e3 * float(np.max(error)) <= explained
        if not (fits.all() and close and abs(c - 1) > self.thresholds[1]):
            return
        few = kinks[np.argsort(-np.abs(a))[:4]]
        pieces = np.concatenate(
            [self._pieces(b, (few - start).tolist(), scale) for scale in (1.0, 1 / 8)]
        )
        apart = np.abs(pieces - self.analytic[few]) > 1e-2 * np.abs(self.analytic[few])
        if apart.all():
            self.status[kinks] = _report.WRONG
