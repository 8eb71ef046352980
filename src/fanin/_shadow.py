"""float32 functions that take float64 as well, where float32 decides nothing.

Rounding in float32 may hide so much of a gradient that its check is inconclusive, and
its large step passes kinks that make a right gradient look wrong. If the function
computes in float64 when its parameters are float64, differences there decide. That is
safe only if it reads no other arrays than its argument. Two evaluations for each array
look: the same move, in place and in the copy, must change both values by the same.
Where rounding hides that, too, float64 may say that the gradient is right, not that it
is wrong; nor of numbers that were computed in float32, whose own rounding may be all
that is wrong with them: of their arrays each is right that is so in either precision.
A gradient that is a function is called in float64 as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin._evaluate import Check, epsilon_of
from fanin._report import ALLOWANCE, GradientReport
from fanin._second_look import EPS32, EPS64, scalar
from fanin._selection import Selection
from fanin._structure import Parameters, flatten_gradient, map_leaves

# How far the entries of an array are moved, relative to them: far above the rounding.
MOVE = 2.0**-2
# The share of its effect to which a move must be known to show what the function reads.
KNOWN = 0.1
# What float32 may lose of a value that is the sum of many.
TOLERANCE = 1e-3


def double(leaf: Any) -> Any:
    """Return a leaf in float64, or complex128."""
    if isinstance(leaf, np.ndarray):
        kind = np.complex128 if leaf.dtype.kind == "c" else np.float64
        return leaf.astype(kind)
    return float(leaf)


def shadow_report(
    check: Check, grad: Any, unit: NDArray[np.float64], first: GradientReport
) -> GradientReport | None:
    """Return the report of a check in float64; None if it would not be safe.

    `first` is that of float32.
    """
    notes, analytic, exact = list(check.notes), check.analytic, False
    shadow = Parameters(map_leaves(check.parameters.structure, double))
    try:
        value = check.fun(shadow.structure)
        found = scalar(value)
    except Exception:  # it does not take float64
        return None
    size = max(abs(found), abs(check.base))
    if epsilon_of(value) > EPS64 or not abs(found - check.base) <= TOLERANCE * size:
        return None
    alike = _moves_alike(check, shadow, found)
    if alike is None:
        return None
    if callable(grad):
        try:
            wide, digits = flatten_gradient(grad(shadow.structure), shadow)
        except Exception:  # nor does this
            wide, digits = analytic, unit
        if digits.max() <= EPS64:
            analytic, unit, exact = wide, digits, True
    looked = Check(check.fun, shadow, None)
    if exact:
        looked.gradient_at = lambda: flatten_gradient(grad(shadow.structure), shadow)[0]
    selection = None
    if check.checked is not None:
        rng = np.random.default_rng(0)
        selection = Selection(np.flatnonzero(check.checked), shadow, rng)
    try:
        report = looked.run(analytic, unit, check.thresholds, selection=selection)
    finally:
        shadow.restore()
    if not report.ok and not exact:
        # Sums that cancel leave the rounding of their terms, which float32 allows for.
        report._take(
            first, [name for name, r in first.blocks.items() if r.verdict == "correct"]
        )
    if not (report.ok or (alike and exact)):
        check.notes.append(
            f"in float64 copies of the parameters the gradient is {report.verdict}: "
            "that is its rounding, or fun reads other arrays than its argument, or an "
            "error; check it in float64"
        )
        return None
    report.n_evaluations += check.n_evaluations
    said = "float64 copies of the parameters decided, where float32 is too coarse"
    report.diagnosis = [*_found(report, looked), said, *notes]
    return report


def _found(report: GradientReport, looked: Check) -> list[str]:
    return [s for s in report.diagnosis if s not in looked.notes]


def _moves_alike(check: Check, shadow: Parameters, value: float) -> bool | None:
    """Whether a function changes alike when either copy of its parameters is moved.

    None if it does not, False if rounding hides it.
    """
    known = True
    theta = check.parameters.vector
    rng = np.random.default_rng(0)
    # Of different sizes: to add the same number to all logits changes no softmax.
    signs = rng.choice([-1.0, 1.0], theta.size) * rng.uniform(0.5, 1.0, theta.size)
    try:
        for block in check.parameters.blocks:
            moved = theta.copy()
            here = theta[block.where]
            step = MOVE * np.maximum(1.0, np.abs(here)) * signs[block.where]
            moved[block.where] = (here + step).astype(block.dtype)
            check.parameters.write(moved)
            single = scalar(check.fun(check.parameters.structure)) - check.base
            check.parameters.restore()
            shadow.write(moved)
            wide = scalar(check.fun(shadow.structure)) - value
            shadow.restore()
            check.n_evaluations += 2
            if wide == 0.0 and single != 0.0:
                return None
            rounding = max(abs(check.base), abs(value), abs(single)) * EPS32
            slack = ALLOWANCE * max(rounding, check.noise) + TOLERANCE * abs(wide)
            if not (math.isfinite(wide) and abs(single - wide) <= slack):
                return None
            known = known and slack <= KNOWN * abs(wide)
    finally:
        check.parameters.restore()
    return known
