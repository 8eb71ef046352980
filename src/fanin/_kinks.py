"""Kinks: whether a point lies on some, and what the function's slopes are beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import _report
from fanin._structure import Parameters

# The points beside at which slopes are looked at, and by how many times their range a
# value may lie outside of it where several kinks meet.
N_BESIDE = 16
BEYOND = 3.0


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
            + ("; take its sum or mean, or see vectorized=True" * (value.size > 1))
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


# Of an entry: the slopes on both sides, their error, whether they disagree.
Slopes = tuple[float, float, float, bool]


class OutOfTime(Exception):
    """The time for second looks is over."""


class Kinks:
    """A function, where it was evaluated, and its slopes on various sides of kinks."""

    fun: Callable[[Any], Any]
    parameters: Parameters
    thresholds: tuple[float, float]
    n: int
    n_evaluations: int
    base: float  # the function at the point
    last: float = math.inf  # until when second looks may go on
    epsilon: float  # the machine epsilon of its values
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
    # The gradient, flat, at the parameters as they are now; None if it is no function.
    gradient_at: Callable[[], NDArray[np.float64]] | None = None

    def _at(self, changes: list[tuple[int, int, float, float]]) -> float:
        """Evaluate with some entries changed: (block, entry, value, old value)."""
        self._be_in_time()
        slots = self.parameters.slots
        for b, j, value, _ in changes:
            slots[b][j] = value
        found = scalar(self.fun(self.parameters.structure))
        for b, j, _, old in changes:
            slots[b][j] = old
        self.n_evaluations += 1
        return found

    def _be_in_time(self) -> None:
        if time.perf_counter() > self.last:
            raise OutOfTime

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

    def _within_kinks(self, b: int, entries: list[int], slopes: list[Slopes]) -> Any:
        """Whether kinks that meet at the point explain the analytic values.

        Where several kinks meet, as in a network whose input is a row of zeros, the
        derivatives that a backward pass puts together need not lie between the slopes
        along one entry, and these may even be equal: it takes the convention of each
        kink, the slopes take the side to which the entry moves each argument. So the
        function is asked for its slopes at points beside this one, to which all
        parameters are moved, farther than the step: each shows the derivative of one
        of the smooth pieces that meet here. A smooth function has nearly one slope
        at all of them, the more so the nearer they are. And a gradient that is a
        function must have these slopes there.
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
            near = self._slopes_between(b, entries, 1 / 8, N_BESIDE // 2)
            moved = np.abs(near - middle).max(axis=0)
            maybe = broken | (moved > 1e-3 * np.abs(middle) + rounding)
            chosen = np.flatnonzero(maybe)
            if chosen.size == 0:
                return kinks
            few = [entries[k] for k in chosen.tolist()]
            wide, narrow = (
                self._slopes_between(b, few, scale) for scale in (1.0, 1 / 8)
            )
            # The spread of a smooth function shrinks eightfold. That of the middle half
            # is not hidden by kinks far away, which few of the wide points have passed.
            own = broken[chosen]
            for spread in (np.ptp, _middle_half):
                left = spread(narrow, axis=0)
                own = own | (
                    (left > spread(wide, axis=0) / 2) & (left > rounding[chosen])
                )
            seen = np.concatenate([sides[chosen].T, near[:, chosen], wide, narrow])
            low, high = seen.min(axis=0), seen.max(axis=0)
            # And the slopes of the pieces at the point itself, on the lines through
            # points on the same piece.
            curved = wide - narrow
            limits = narrow - np.where(
                np.abs(curved) <= 0.01 * (high - low), curved / 7, 0.0
            )
            seen = np.concatenate([seen, limits])
            low, high = seen.min(axis=0), seen.max(axis=0)
            a = self.analytic[index[chosen]]
            slack = rounding[chosen] + _report.ALLOWANCE * self.own_error[index[chosen]]
            # With slopes that are on neither side here, other kinks meet with the
            # entry's own, in combinations of which these few points may show some.
            apart = np.abs(seen - sides[chosen][:, 0]) > slack + 0.01 * (high - low)
            apart &= np.abs(seen - sides[chosen][:, 1]) > slack + 0.01 * (high - low)
            slack += np.where(apart.any(axis=0), BEYOND * (high - low), 0.0)
            kinks[chosen] = own & (low - slack <= a) & (a <= high + slack)
        explained = np.flatnonzero(kinks)
        if explained.size:
            votes = self._follows(b, index[explained])
            kinks[explained] = [vote is not False for vote in votes]
        return kinks

    def _reach(self) -> float:
        """Return how far "beside" may be: the logarithm of a multiple of the step."""
        size = np.maximum(1.0, np.abs(self.parameters.vector))
        return min(4.0, -3.0 - math.log10(float(np.max(self.step / size))))

    def _slopes_between(
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
        biases = sum(len(block.shape) <= 1 for block in blocks)
        for n, block in enumerate(blocks):
            # One sign for a whole array moves all units of a layer to one side;
            # farther in later arrays, so that they are not carried along.
            distance = 10.0 ** (1.5 + far * rng.uniform())
            sign = float(rng.choice([-1.0, 1.0]))
            if k % 4 < 2:
                sign = (-1.0, 1.0)[k % 4]
                distance = 10.0 ** (1.5 + far * (n + 1) / len(blocks))
                # Biases alone: weights of zero would move the units to both sides.
                # As far as it goes: a step of a weight may be that of a large input.
                if k % 8 >= 4:
                    distance = 10.0 ** (0.5 if len(block.shape) > 1 else 1.5 + far)
            elif k % 8 == 6:
                # And those of later layers farther, on one side, whatever the weights:
                # all units pass their argument on. Then on either side.
                sign, distance = 1.0, 10.0**0.5
                if len(block.shape) <= 1:
                    biases -= 1
                    distance = 10.0 ** max(1.5, 1.5 + far - biases / 2)
            move = distance * sign * rng.uniform(0.5, 1, block.size)
            if k % 4 == 3 or k == 14:
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
        differences, unless they are the slopes of a smooth piece that meets here, or
        the same kinks scale them all (a layer of one unit): then the smooth pieces
        scale them likewise, by less and by more.
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
            [
                self._slopes_between(b, (few - start).tolist(), scale)
                for scale in (1.0, 1 / 8)
            ]
        )
        a = self.analytic[few]
        apart = np.abs(pieces - a) > 1e-2 * np.abs(a)
        within = (pieces.min(axis=0) <= a) & (a <= pieces.max(axis=0))
        votes = [vote for vote in self._follows(b, few) if vote is not None]
        follows = not apart.all() or bool(within.all())
        if not (all(votes) if votes else follows):
            self.status[kinks] = _report.WRONG

    def _follows(self, b: int, entries: NDArray[np.intp]) -> list[bool | None]:
        """Whether entries of a gradient function are the slopes at points beside this.

        No convention has a say there. None if it is no function, or they tell nothing.
        """
        if self.gradient_at is None:
            return [None] * entries.size
        block = self.parameters.blocks[b]
        error = _report.ALLOWANCE * (self.error[entries] + self.own_error[entries])
        agree: list[list[bool]] = [[] for _ in entries]
        for k in range(N_BESIDE):
            point = self._beside(k, 1.0)
            try:
                self.parameters.write(point)
                there = self.gradient_at()[entries]
                here = self._at([])
                for i, slope, e, mine in zip(
                    entries.tolist(), there.tolist(), error.tolist(), agree, strict=True
                ):
                    j, old = i - block.where.start, float(point[i])
                    plus, minus, _ = points(point[i], float(self.step[i]), block.dtype)
                    up = self._at([(b, j, float(plus), old)]) - here
                    down = here - self._at([(b, j, float(minus), old)])
                    up, down = up / (float(plus) - old), down / (old - float(minus))
                    size = max(abs(up), abs(down), abs(slope))
                    # (Beside this kink another may be within the step.)
                    if 1e-2 * size > e and abs(up - down) <= 1e-2 * size:
                        mine.append(abs((up + down) / 2 - slope) <= 1e-2 * size)
            except OutOfTime:
                raise
            except Exception:  # at a point that nobody asked for it may refuse to work
                return [None] * entries.size
            finally:
                self.parameters.restore()
        return [2 * sum(mine) > len(mine) if len(mine) > 2 else None for mine in agree]


def _middle_half(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    low, high = np.percentile(values, (25, 75), axis=axis)
    return np.asarray(high - low)
