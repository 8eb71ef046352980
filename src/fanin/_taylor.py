"""The remainder of the Taylor series: a test of a gradient that needs no step size.

With g the gradient of f at theta, and v a direction,

    R(t) = f(theta + t v) - f(theta) - t g.v

falls like t^2, a wrong g leaves the first power of t. So the slope of log R over log t
tells them apart, at all t at which R is more than rounding and its leading term is
what counts: from the smallest of these on. Differences at a step may be misled by the
step; this is what they are confirmed with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# t runs through these: 0.1 down to 2e-8.
LENGTHS = tuple(0.1 / 4.0**k for k in range(12))
# A remainder counts from so many times the rounding of its terms on.
CLEAR = 30.0
# The slope is fitted to so many remainders, over a factor of 64 in t.
FITTED = 4
# Arrays that are confirmed, the most wrong first: some dozen evaluations each.
MOST_ARRAYS = 8


@dataclass(frozen=True)
class Line:
    """A function along one direction."""

    slope: float | None  # of log R over log t; None if rounding leaves too little
    bound: float  # |g.v less the true derivative| is not more than that


@dataclass(frozen=True)
class Confirmation:
    """What the remainders say of an array that differences find wrong."""

    slope: float | None
    refuted: bool


@dataclass(frozen=True)
class Function:
    """A function of a flat vector, and how exactly it is known."""

    value: Callable[[Float64], float]
    place: Callable[[Float64], Float64]  # the representable point next to one
    theta: Float64
    base: float
    epsilon: float
    noise: float


def along(function: Function, gradient: Float64, direction: Float64) -> Line:
    """Return how the remainder falls along a direction."""
    found: list[tuple[float, float]] = []  # (t, |R|), smaller and smaller t
    bound = math.inf
    support = np.flatnonzero(direction)
    for t in LENGTHS:
        point = function.theta.copy()
        point[support] += t * direction[support]
        point = function.place(point)
        move = point[support] - function.theta[support]
        if not move.any():
            continue
        value = function.value(point)
        first = float(np.dot(gradient[support], move))
        remainder = abs(value - function.base - first)
        if not math.isfinite(remainder):
            continue
        size = max(abs(value), abs(function.base))
        rounding = function.epsilon * (size + abs(first)) + function.noise + 5e-324
        bound = min(bound, (remainder + rounding) / t)
        if remainder > CLEAR * rounding:
            found.append((t, remainder))
    last = found[-FITTED:]
    if len(last) < 3:
        return Line(None, bound)
    log_t, log_r = np.log(np.array(last)).T
    slope = float(np.polyfit(log_t, log_r, 1)[0])
    return Line(slope, bound)


def confirm(
    function: Function,
    gradient: Float64,
    numeric: Float64,
    arrays: Sequence[tuple[str, slice, NDArray[np.bool_], int]],
) -> dict[str, Confirmation]:
    """Return what the remainders say of arrays: (name, place, wrong entries, worst).

    Three directions for each: into all of its wrong entries, into the worst of them
    alone, and into the whole array at random. The array is cleared only if none of
    them shows the error, and the first two would have.
    """
    rng = np.random.default_rng(0)
    size = np.maximum(1.0, np.abs(function.theta))
    outcome: dict[str, Confirmation] = {}
    for name, where, wrong, worst in arrays[:MOST_ARRAYS]:
        error = (numeric - gradient)[where]
        if not np.isfinite(error[wrong]).all() or not wrong.any():
            continue
        here = np.zeros(function.theta.size)
        # Errors add up along it, whatever their signs.
        here[where] = np.where(wrong, np.sign(error), 0.0) * rng.uniform(
            0.5, 1.0, error.size
        )
        alone = np.zeros(function.theta.size)
        alone[where.start + worst] = 1.0
        refuted, slopes = True, []
        for direction in (here * size, alone * size):
            line = along(function, gradient, direction)
            expected = abs(float(np.dot(error, direction[where])))
            refuted = refuted and line.bound <= expected / 4
            slopes.append(line.slope)
            if not refuted:
                break
        if refuted:
            whole = np.zeros(function.theta.size)
            whole[where] = rng.choice([-1.0, 1.0], error.size)
            line = along(function, gradient, whole * size)
            refuted = line.slope is None or line.slope > 1.5
        outcome[name] = Confirmation(slopes[0], refuted)
    return outcome
