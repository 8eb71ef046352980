"""Second looks at a gradient check, before anything but "correct" is said.

What a central difference at one step cannot tell: whether an entry differs because
the gradient is wrong, because the step is too small or too large for the function, or
because the point lies on a kink. `SecondLook` measures the noise of the function and
examines the entries that differ with other steps.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fanin import _report, _taylor
from fanin._kinks import Kinks, Slopes, points, scalar
from fanin._report import GradientReport

__all__ = ["EPS32", "EPS64", "STEPS", "SecondLook", "points", "scalar"]

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


class SecondLook(Kinks):
    """What a check knows of a function, and how to look at its entries again."""

    thresholds: tuple[float, float]
    noise: float  # how noisy the function's values were found to be
    ratio: NDArray[np.float64]
    confirmed: dict[int, float]  # what other steps found where they agree
    checked: NDArray[np.bool_] | None = None  # None: all of them

    def _block_of(self, i: int) -> int:
        for b, block in enumerate(self.parameters.blocks):
            if block.where.start <= i < block.where.stop:
                return b
        raise IndexError(i)

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
                # Where nothing ever moves a function from 0 its terms cancel, like
                # the logarithms of a certain softmax; they are taken to be about 1.
                still = not (np.any(self.f_plus) or np.any(self.f_minus))
                return self.epsilon if still else 0.0
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

    def _statuses(self, b: int, entries: list[int], rms: float) -> list[int]:
        """Examine entries of one array with other steps; return their statuses."""
        looks = [self._look_again(b, j, rms) for j in entries]
        found = [outcome for outcome, _ in looks]
        # What a kink of its own may explain has to be right beside it.
        own = [k for k, outcome in enumerate(found) if outcome == _report.KINK]
        if own:
            start = self.parameters.blocks[b].where.start
            votes = self._follows(b, start + np.array([entries[k] for k in own]))
            for k, vote in zip(own, votes, strict=True):
                if vote is False:
                    found[k] = int(_report.WRONG)
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
        if agree:
            self.confirmed[i] = min(agree, key=lambda found: found[1])[0]
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
        if len(found) > 1:  # what curvature adds to one-sided slopes
            _, _, _, up2, down2 = found[1]
            curved = abs(up - up2) + abs(down - down2)
            slack_here += min(curved, 0.01 * abs(up - down))
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
