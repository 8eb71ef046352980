"""Learning-rate schedules: the rate of each step of an optimizer.

A schedule is any callable that takes the number of steps taken so far, 0 before the
first, and returns the rate of the next one. Those of this module are closed formulas
of that number: they hold no state, so that training continues where it stopped as soon
as the optimizer's ``n_steps`` does. A step is a batch, not an epoch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fanin import _validation as check

__all__ = [
    "Constant",
    "CosineDecay",
    "ExponentialDecay",
    "LinearWarmup",
    "OneCycle",
    "PiecewiseConstant",
    "Schedule",
    "StepDecay",
]

Function: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Schedule:
    """A learning rate that is a function of the number of steps taken.

    The base class of this module's schedules. One of your own need not be derived
    from it: a function will do.
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        raise TypeError("use a subclass of Schedule, such as CosineDecay")

    def _check(self, **bounds: tuple[float, float, bool, bool]) -> None:
        """Check real fields: (minimum, maximum, open minimum, open maximum)."""
        for name, (low, high, open_low, open_high) in bounds.items():
            value = check.real(
                getattr(self, name),
                name,
                minimum=low,
                maximum=high,
                open_minimum=open_low,
                open_maximum=open_high,
            )
            object.__setattr__(self, name, value)

    def _check_steps(self, *names: str) -> None:
        for name in names:
            value = check.integer(getattr(self, name), name, minimum=1)
            object.__setattr__(self, name, value)


POSITIVE = (0.0, math.inf, True, False)
NOT_NEGATIVE = (0.0, math.inf, False, False)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step.

    Parameters
    ----------
    rate : float
        The learning rate, > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> fanin.schedules.Constant(0.01)(1000)
    0.01
    """

    rate: float

    def __post_init__(self) -> None:
        self._check(rate=POSITIVE)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        return self.rate


@dataclass(frozen=True)
class StepDecay(Schedule):
    """A rate that is multiplied by a factor every so many steps.

    ``rate * factor ** (step // every)``: PyTorch's ``StepLR``.

    Parameters
    ----------
    rate : float
        The first learning rate, > 0.
    every : int
        Steps from one change to the next, >= 1.
    factor : float, default=0.1
        In (0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> halved = fanin.schedules.StepDecay(0.1, every=100, factor=0.5)
    >>> [halved(step) for step in (0, 99, 100, 250)]
    [0.1, 0.1, 0.05, 0.025]
    """

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        self._check(rate=POSITIVE, factor=(0.0, 1.0, True, False))
        self._check_steps("every")

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        return self.rate * self.factor ** (step // self.every)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """A rate that shrinks by the same factor over any stretch of steps.

    ``rate * factor ** (step / every)``: PyTorch's ``ExponentialLR``, for which `every`
    is 1.

    Parameters
    ----------
    rate : float
        The first learning rate, > 0.
    factor : float
        In (0, 1].
    every : int, default=1
        Steps in which the rate shrinks by `factor`, >= 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> schedule = fanin.schedules.ExponentialDecay(0.1, 0.25, every=100)
    >>> [schedule(step) for step in (0, 50, 100)]
    [0.1, 0.05, 0.025]
    """

    rate: float
    factor: float
    every: int = 1

    def __post_init__(self) -> None:
        self._check(rate=POSITIVE, factor=(0.0, 1.0, True, False))
        self._check_steps("every")

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        return float(self.rate * self.factor ** (step / self.every))


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """A rate that falls along half a wave of the cosine.

    ``final + (rate - final) * (1 + cos(pi * step / n_steps)) / 2``, and `final` from
    step `n_steps` on (Loshchilov & Hutter, ICLR 2017, without restarts): PyTorch's
    ``CosineAnnealingLR`` up to its ``T_max``.

    Parameters
    ----------
    rate : float
        The first learning rate, > 0.
    n_steps : int
        Steps until `final` is reached, >= 1.
    final : float, default=0.0
        The last learning rate, in [0, `rate`].

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> schedule = fanin.schedules.CosineDecay(0.1, 1000)
    >>> [round(schedule(step), 4) for step in (0, 500, 1000, 2000)]
    [0.1, 0.05, 0.0, 0.0]
    """

    rate: float
    n_steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        self._check(rate=POSITIVE)
        self._check(final=(0.0, self.rate, False, False))
        self._check_steps("n_steps")

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        if step >= self.n_steps:
            return self.final
        return _half_wave(self.rate, self.final, step / self.n_steps)


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """A rate that changes at given steps.

    ``rates[i]`` from step ``boundaries[i - 1]`` on and before ``boundaries[i]``:
    PyTorch's ``MultiStepLR``, with the rates themselves in place of a factor.

    Parameters
    ----------
    boundaries : sequence of int
        The steps from which a new rate holds, >= 1, each larger than the one before.
    rates : sequence of float
        The learning rates, >= 0, one more than there are boundaries.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> schedule = fanin.schedules.PiecewiseConstant([100, 200], [0.1, 0.01, 0.001])
    >>> [schedule(step) for step in (0, 99, 100, 200)]
    [0.1, 0.1, 0.01, 0.001]
    """

    boundaries: Sequence[int]
    rates: Sequence[float]

    def __post_init__(self) -> None:
        boundaries = check.sequence(self.boundaries, "boundaries")
        rates = check.sequence(self.rates, "rates")
        if len(rates) != len(boundaries) + 1:
            raise ValueError(
                f"rates must have one entry more than boundaries, {len(boundaries)}; "
                f"got {len(rates)}"
            )
        found = tuple(
            check.integer(b, f"boundaries[{i}]", minimum=1)
            for i, b in enumerate(boundaries)
        )
        for i in range(1, len(found)):
            if found[i] <= found[i - 1]:
                raise ValueError(
                    f"boundaries must increase; got {found[i - 1]}, {found[i]}"
                )
        object.__setattr__(self, "boundaries", found)
        values = tuple(
            check.real(r, f"rates[{i}]", minimum=0.0) for i, r in enumerate(rates)
        )
        object.__setattr__(self, "rates", values)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        return self.rates[bisect_right(self.boundaries, step)]


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """A rate that rises linearly to the first one of another schedule.

    ``schedule(0) * (start_factor + (1 - start_factor) * step / n_steps)`` before step
    `n_steps`, and ``schedule(step - n_steps)`` from there on (Goyal et al. 2017):
    PyTorch's ``LinearLR`` followed, by ``SequentialLR``, by another scheduler.

    Parameters
    ----------
    schedule : float or callable
        What follows: a learning rate, or a schedule.
    n_steps : int
        Steps of the rise, >= 1.
    start_factor : float, default=0.0
        The rate of the first step, as a part of ``schedule(0)``, in [0, 1]. With 0 the
        first step leaves the parameters as they are, and only an optimizer's moments
        learn from it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> schedule = fanin.schedules.LinearWarmup(
    ...     fanin.schedules.StepDecay(0.5, every=100), n_steps=4)
    >>> [schedule(step) for step in (0, 1, 2, 3, 4, 104)]
    [0.0, 0.125, 0.25, 0.375, 0.5, 0.05]
    """

    schedule: float | Function
    n_steps: int
    start_factor: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            self._check(schedule=POSITIVE)
        self._check_steps("n_steps")
        self._check(start_factor=(0.0, 1.0, False, False))

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        after = max(0, step - self.n_steps)
        rate = self.schedule(after) if callable(self.schedule) else self.schedule
        if step >= self.n_steps:
            return rate
        risen = self.start_factor + (1.0 - self.start_factor) * step / self.n_steps
        return rate * risen


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A rate that rises to a maximum and falls far below where it began.

    Both ways along half a wave of the cosine (Smith & Topin 2019): from
    ``max_rate / div_factor`` at step 0 to `max_rate` at step
    ``pct_start * n_steps - 1``, from there to
    ``max_rate / (div_factor * final_div_factor)`` at step ``n_steps - 1``, where it
    stays: PyTorch's ``OneCycleLR`` (without its cycle of the momentum).

    Parameters
    ----------
    max_rate : float
        The greatest learning rate, > 0.
    n_steps : int
        Steps of the cycle, >= 2.
    pct_start : float, default=0.3
        The part of the cycle in which the rate rises, in [0, 1).
    div_factor : float, default=25.0
        `max_rate` divided by the first rate, >= 1.
    final_div_factor : float, default=1e4
        The first rate divided by the last one, >= 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import fanin
    >>> schedule = fanin.schedules.OneCycle(0.1, n_steps=100)
    >>> [round(schedule(step), 4) for step in (0, 29, 64, 99)]
    [0.004, 0.1, 0.05, 0.0]
    """

    max_rate: float
    n_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        self._check(
            max_rate=POSITIVE,
            pct_start=(0.0, 1.0, False, True),
            div_factor=(1.0, math.inf, False, False),
            final_div_factor=(1.0, math.inf, False, False),
        )
        steps = check.integer(self.n_steps, "n_steps", minimum=2)
        object.__setattr__(self, "n_steps", steps)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        top = max(0.0, self.pct_start * self.n_steps - 1.0)
        last = self.n_steps - 1
        first_rate = self.max_rate / self.div_factor
        if step < top:
            return _half_wave(first_rate, self.max_rate, step / top)
        last_rate = first_rate / self.final_div_factor
        if step >= last:
            return last_rate
        return _half_wave(self.max_rate, last_rate, (step - top) / (last - top))


def _half_wave(start: float, end: float, part: float) -> float:
    # In this form exact at both ends.
    left = (1.0 + math.cos(math.pi * part)) / 2.0
    return start * left + end * (1.0 - left)
