"""How a report's diagnosis is put together, from the most to the least important."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fanin import _diagnosis
from fanin._records import KINK

if TYPE_CHECKING:
    from fanin._report import GradientReport
    from fanin._taylor import Confirmation

# How near to 1 the slope of a Taylor remainder is, that of a wrong gradient.
SLOPE = 0.3


def compose(report: GradientReport) -> list[str]:
    """Return the diagnosis: what is wrong, or what limits the check."""
    said: list[str] = []
    if not report._deterministic:
        said.append(
            "random: two evaluations at the same point differ, so no difference "
            "of values means anything; freeze the random numbers (seed, dropout "
            "mask) and check again"
        )
    verdicts = {name: record.verdict for name, record in report._blocks.items()}
    guilty = [n for n, v in verdicts.items() if v in ("wrong", "suspicious")]
    kinds: dict[str, str] = {}
    places: dict[str, str] = {}
    factors: dict[str, float] = {}
    penalized: set[str] = set()
    for name, where, shape in report._spans:
        if name in guilty and report._deterministic:
            kind, place = _explain_block(report, name, where, shape, factors, penalized)
            if kind is not None:
                kinds[name] = kind
            if place is not None:
                places[name] = place
    causes = _causes(report, kinds)
    idle = frozenset(
        name for name, r in report._blocks.items() if not r.analytic_norm > 0.0
    )
    whole: list[str] = []
    # A cause outside the layers explains them all: it begins in none of them.
    if report._deterministic and not causes:
        shapes = {name: shape for name, _, shape in report._spans}
        whole = list(
            _diagnosis.Finding(
                verdicts,
                idle,
                factors,
                penalized=frozenset(penalized),
                layers=_diagnosis.layers_of(shapes) if report._layered else None,
                unused=frozenset(
                    n for n, k in kinds.items() if k.endswith(_diagnosis.INDEPENDENT)
                ),
            ).sentences()
        )
    each = _by_kind(kinds, places, causes)
    # What several arrays have in common comes before what each is like.
    said += [*whole, *each] if len(guilty) > 1 else [*each, *whole]
    for name, _, _ in report._spans:
        said += report._said[name]
    return [
        *report._found,
        *said,
        *report._confirmed,
        *_no_effect(report),
        *report._notes,
    ]


def _causes(report: GradientReport, kinds: Mapping[str, str]) -> list[str]:
    """Return what was found that concerns all arrays, such as a stale gradient."""
    known = getattr(report._hypotheses, "causes", None)
    if known is None:
        return []
    of_all = known()
    return [kind for kind in dict.fromkeys(kinds.values()) if kind in of_all]


def _by_kind(
    kinds: Mapping[str, str], places: Mapping[str, str], causes: Sequence[str]
) -> list[str]:
    """Return the sentences of the arrays, those that several share only once."""
    shared: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        shared.setdefault(kind, []).append(name)
    said = [f"{', '.join(shared[kind])}: {kind}" for kind in causes]
    for name in dict.fromkeys((*kinds, *places)):
        kind = kinds.get(name, "")
        if kind in causes:
            continue
        if kind and shared[kind][0] == name:
            said.append(f"{', '.join(shared[kind])}: {kind}")
        if name in places:
            said.append(f"{name}: {places[name]}")
    return said


def _explain_block(
    report: GradientReport,
    name: str,
    where: slice,
    shape: tuple[int, ...],
    factors: dict[str, float],
    penalized: set[str],
) -> tuple[str | None, str | None]:
    a, x = report._analytic[where], report._numeric[where]
    judged = np.isfinite(a) & np.isfinite(x)
    judged &= (report._status[where] != KINK) | report._wrong[where]
    if report._checked is not None:
        judged &= report._checked[where]
    sizes = np.abs(np.concatenate([a[judged], x[judged]]))
    unit = float(np.max(sizes, initial=0.0))
    if unit == 0.0 or (np.isfinite(x) & ~np.isfinite(a)).any():
        return None, None
    with np.errstate(all="ignore"):
        theta = None if report._theta is None else report._theta[where] / unit
        array = _diagnosis.Array(
            name=name,
            shape=shape,
            analytic=np.where(judged, a / unit, 0.0),
            numeric=np.where(judged, x / unit, 0.0),
            error=np.where(judged, report._error[where] / unit, 0.0),
            unit=unit,
            raw=a,
            wrong=report._wrong[where],
            judged=judged,
            theta=theta,
            tolerance=math.sqrt(report.thresholds[0] * report.thresholds[1]),
            sampled=report._checked is not None
            and not bool(report._checked[where].all()),
        )
        factor = _diagnosis.ratio_of(array, judged)
        if factor is None:
            factor = _diagnosis.ratio_of_rest(array)
            if factor is not None:
                penalized.add(name)
        if factor is not None:
            factors[name] = factor
    candidates = {} if report._hypotheses is None else report._hypotheses(name)
    others = {
        other: report._numeric[place].reshape(form)
        for other, place, form in report._spans
        if other != name and place.stop - place.start == a.size
    }
    return _diagnosis.explain_array(array, candidates, others)


def _no_effect(report: GradientReport) -> list[str]:
    """Say where neither gradient knows of any effect."""
    said = []
    zero = (report._analytic == 0) & (report._numeric == 0) & (report._error == 0)
    zero |= (report._analytic == 0) & (report._f_plus == report._f_minus)
    if report._checked is not None:
        zero &= report._checked
    for name, where, _ in report._spans:
        n = int(np.count_nonzero(zero[where]))
        size, known = where.stop - where.start, "entries"
        if report._checked is not None:
            size = int(np.count_nonzero(report._checked[where]))
            if size < where.stop - where.start:
                known = "entries that were checked"
        if n == 0:
            continue
        if n == size:
            said.append(
                f"{name}: no effect: the function does not depend on any of its "
                f"{n} {known} here, by both gradients"
            )
        else:
            said.append(
                f"{name}: no effect of {n} of {size} {known}: both gradients are "
                "exactly zero there"
            )
    return said


def confirm(report: GradientReport, found: Mapping[str, Confirmation]) -> None:
    """Take in what Taylor's remainders say of arrays that are wrong."""
    confirmed = []
    for name, what in found.items():
        record = report._blocks[name]
        if what.refuted:
            report._blocks[name] = replace(record, verdict="inconclusive")
            report._said[name].insert(
                0,
                f"{name}: differences find {record.n_wrong} of {record.n} entries "
                f"{record.verdict}, the Taylor remainder along them does not: all "
                "that is certain is that the differences depend on the step; try "
                "another eps, and look at the function's smoothness",
            )
        elif what.slope is not None and abs(what.slope - 1) < SLOPE:
            confirmed.append((what.slope, name))
    if confirmed:
        slopes = sorted(slope for slope, _ in confirmed)
        names = [name for _, name in confirmed]
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        report._confirmed = [
            f"confirmed without a step size ({shown}): the Taylor remainder falls "
            f"like t^{slopes[len(slopes) // 2]:.2f}, of a right gradient like t^2"
        ]
