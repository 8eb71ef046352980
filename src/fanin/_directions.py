"""Random directional derivatives: whether a fault is anywhere, and where.

One difference of two values of f sees all entries at once. If it does not agree with
the product of the analytic gradient and the direction, halving the direction again
and again finds an entry that is at fault, with some 6 log2(n) evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fanin import _report
from fanin._report import DirectionRecord
from fanin._second_look import SecondLook, points, scalar

# The first of three steps along a unit vector, and by how much each is smaller than
# the one before. In float64 around eps^(1/3); in float32 there is less room.
DOUBLE = (2.0**-13, 8.0)
SINGLE = (2.0**-7, 2.0)
# Entries that one direction may find to be no fault but a kink, before it gives up.
ROUNDS = 8


# The step, the central difference quotient, its rounding, and the one-sided quotients.
Slopes = tuple[float, float, float, float, float]


@dataclass
class _Along:
    """What was found along a direction."""

    analytic: float
    numeric: float
    step: float
    error: float
    excess: float  # of the difference, beyond what errors explain
    size: float  # what the excess is held against
    kink: bool  # one-sided slopes disagree, with the analytic value between them

    def record(self, verdict: str) -> DirectionRecord:
        absolute = abs(self.numeric - self.analytic)
        size = abs(self.numeric) + abs(self.analytic)
        return DirectionRecord(
            analytic=self.analytic,
            numeric=self.numeric,
            absolute=absolute,
            relative=0.0 if absolute == 0 else absolute / size,
            step=self.step,
            error_estimate=self.error,
            verdict=verdict,
        )


def powers_of_two(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the powers of two next below the entries of a vector, with their signs.

    Their sum with parameters of that size is exact, times any step that is a power of
    two: so the points lie exactly along one and the same vector at every step.
    """
    _, exponent = np.frexp(np.abs(vector))
    return np.asarray(np.ldexp(np.sign(vector), exponent - 1))


class Directions(SecondLook):
    """Second looks along random directions, on top of those at single entries."""

    directions: list[DirectionRecord]
    notes: list[str]
    single: bool  # some parameters are float32
    noise_known: bool

    def _look_along(
        self, n: int, rng: np.random.Generator, unit: NDArray[np.float64]
    ) -> None:
        scale = np.maximum(1.0, np.abs(self.parameters.vector))
        self.unit = unit
        for _ in range(n):
            signs = rng.choice([-1.0, 1.0], self.n)
            try:
                self.directions.append(self._one_direction(signs * scale))
            finally:
                self.parameters.restore()

    def _one_direction(self, direction: NDArray[np.float64]) -> DirectionRecord:
        # (What an earlier direction has found would be found again.)
        active = np.flatnonzero(self.status != _report.WRONG)
        if active.size == 0:
            active = np.arange(self.n)
        along = first = self._along(direction, active)
        for _ in range(ROUNDS):
            verdict = self._judge_along(along)
            if verdict in ("wrong", "suspicious") and not self.noise_known:
                self.noise, self.noise_known = self._measure_noise(), True
                along = first = self._along(direction, active)
                verdict = self._judge_along(along)
            if verdict in ("correct", "inconclusive"):
                if not math.isfinite(along.numeric):
                    self.notes.append(
                        "along a random direction the function is not finite"
                    )
                return first.record(verdict)
            i, kinks = self._locate(direction, active)
            if kinks:
                self.notes.append(
                    "a random direction leads over kinks; left out of the verdict"
                )
                return first.record("correct")
            if i is None:
                self.notes.append(
                    "a random directional derivative disagrees with the gradient: "
                    f"analytic {first.analytic:.6g}, numeric {first.numeric:.6g}; no "
                    "single entry shows it"
                )
                return first.record("suspicious")
            outcome = self._look_at(i)
            if outcome == _report.WRONG:
                self.notes.append(
                    f"a random directional derivative led to {self._name(i)}, which is "
                    "wrong"
                )
                return first.record(verdict)
            # A kink, or a difference of no account: what else is there?
            active = active[active != i]
            if active.size == 0:
                break
            along = self._along(direction, active)
        return first.record("inconclusive")

    def _judge_along(self, along: _Along) -> str:
        if not math.isfinite(along.numeric):
            return "inconclusive"
        if not math.isfinite(along.analytic):
            return "wrong"  # (an infinite excess is within any share of its size)
        if along.kink or along.excess <= self.thresholds[0] * along.size:
            return "correct"
        wrong = along.excess > self.thresholds[1] * along.size
        return "wrong" if wrong else "suspicious"

    def _locate(
        self, direction: NDArray[np.float64], active: NDArray[np.intp]
    ) -> tuple[int | None, bool]:
        """Return an entry at fault; None if it is lost on the way, in kinks or not."""
        while active.size > 1:
            halves = active[: active.size // 2], active[active.size // 2 :]
            kinks = False
            for half in halves:
                along = self._along(direction, half)
                kinks = kinks or along.kink
                if self._judge_along(along) in ("wrong", "suspicious"):
                    active = half
                    break
            else:
                return None, kinks
        return int(active[0]), False

    def _name(self, i: int) -> str:
        block = self.parameters.blocks[self._block_of(i)]
        index = np.unravel_index(i - block.where.start, block.shape)
        shown = ", ".join(str(int(k)) for k in index)
        return f"{block.name}[{shown}]" if index else block.name

    def _look_at(self, i: int) -> int:
        """Check one entry as all others are, and look at it again."""
        b = self._block_of(i)
        block = self.parameters.blocks[b]
        j = i - block.where.start
        theta = float(self.parameters.vector[i])
        if self.checked is None or self.checked[i]:
            if self.status[i] != _report.PLAIN:
                return int(self.status[i])
        else:
            plus, minus, span = points(
                self.parameters.vector[i : i + 1],
                self.step[i : i + 1],
                block.dtype,
            )
            self.f_plus[i] = self._at([(b, j, float(plus[0]), theta)])
            self.f_minus[i] = self._at([(b, j, float(minus[0]), theta)])
            self.span[i] = span[0]
            self.numeric[i] = (self.f_plus[i] - self.f_minus[i]) / span[0]
            self.checked[i] = True
        with np.errstate(all="ignore"):
            self.error = self.own_error + self._rounding()
        rms = _report.norm(self.analytic[block.where]) / math.sqrt(block.size)
        self.ratio = np.zeros(self.n)
        outcome = self._statuses(b, [j], rms)[0]
        self.status[i] = outcome
        return outcome

    def _rounding(self) -> NDArray[np.float64]:
        return _report.rounding_error(
            self.f_plus, self.f_minus, self.span, self.epsilon, self.noise
        )

    def _along(
        self, direction: NDArray[np.float64], active: NDArray[np.intp]
    ) -> _Along:
        """Compare the derivative along a unit vector through some of the entries."""
        theta = self.parameters.vector
        slope = self.analytic[active]
        found: list[Slopes] = []
        analytic = size = own = 0.0
        step, ratio = SINGLE if self.single else DOUBLE
        moved = powers_of_two(direction[active] / math.sqrt(active.size))
        for _ in range(3):
            delta = np.zeros(self.n)
            delta[active] = moved * step
            if not found:
                with np.errstate(all="ignore"):
                    terms = slope * moved
                    analytic = float(terms.sum())
                    size = _report.norm(terms)
                    own = float((self.unit[active] * np.abs(terms)).sum())
            up, down = self._value(theta + delta), self._value(theta - delta)
            rounding = max(abs(up), abs(down), abs(self.base))
            rounding = max(self.epsilon * rounding, self.noise, 5e-324) / step
            found.append(
                (
                    step,
                    (up - down) / (2 * step),
                    rounding / 2,
                    (up - self.base) / step,
                    (self.base - down) / step,
                )
            )
            step /= ratio
        return self._judge_steps(found, ratio * ratio, analytic, size, own)

    def _judge_steps(
        self,
        found: list[Slopes],
        r: float,
        analytic: float,
        size: float,
        own: float,
    ) -> _Along:
        best: _Along | None = None
        (_, x0, e0, *_), (h1, x1, e1, *_), (h2, x2, e2, *_) = found
        # Two steps cancel the h^2 term (Richardson), r being the square of their
        # ratio; how far two estimates differ is what their truncation may be.
        r01, r12 = (r * x1 - x0) / (r - 1), (r * x2 - x1) / (r - 1)
        estimates = [
            (h1, r01, (r * e1 + e0) / (r - 1) + abs(r01 - x1) / r),
            (h2, r12, (r * e2 + e1) / (r - 1) + abs(r12 - r01) / r),
            (h2, x2, e2 + abs(x2 - x1) / (r - 1)),
        ]
        for h, x, e in estimates:
            error = e + own
            excess = max(0.0, abs(x - analytic) - _report.ALLOWANCE * error)
            if not math.isfinite(x):
                continue
            held = max(size, abs(x) + abs(analytic))
            if best is None or excess < best.excess:
                best = _Along(analytic, x, h, error, excess, held, False)
        if best is None:
            return _Along(analytic, math.nan, h2, math.inf, 0.0, size, False)
        if best.excess > 0:
            best.kink = self._between(found[::-1], analytic)
        return best

    def _between(self, found: list[Slopes], a: float) -> bool:
        """Whether the slopes disagree as on a kink, with the analytic one between."""
        _, _, e, up, down = found[0]
        _, _, _, up2, down2 = found[1]
        # And what curvature adds to one-sided slopes.
        curved = abs(up - up2) + abs(down - down2)
        slack = _report.ALLOWANCE * e + min(curved, 0.01 * abs(up - down))
        return (
            self._is_broken(found)
            and min(up, down) - slack <= a <= max(up, down) + slack
        )

    def _value(self, vector: NDArray[np.float64]) -> float:
        self._be_in_time()
        self.parameters.write(vector)
        found = scalar(self.fun(self.parameters.structure))
        self.parameters.restore()
        self.n_evaluations += 1
        return found
