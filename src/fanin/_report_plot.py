"""A picture of a gradient report: numeric against analytic, and errors by array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fanin._report_text import ORDER

if TYPE_CHECKING:
    from fanin._report import GradientReport

# Panels for arrays, the most wrong of them; entries drawn in each.
MOST_PANELS = 8
MOST_POINTS = 5000
MOST_BARS = 40

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
COLORS = {
    "correct": BLUE,
    "suspicious": "#e69f00",
    "wrong": ORANGE,
    "inconclusive": GREY,
    "unchecked": "#cccccc",
}


def draw(report: GradientReport, figure: Any = None) -> Any:
    """Return the figure of `GradientReport.plot`."""
    panels = _panels(report)
    n_columns = max(1, min(4, len(panels)))
    n_rows = -(-len(panels) // n_columns)
    if figure is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError(
                'plot needs matplotlib: pip install "fanin[plot]"'
            ) from error
        figure = pyplot.figure(
            figsize=(max(3.3 * n_columns, 6.0), 3.2 * n_rows + 2.8),
            layout="constrained",
        )
    grid = figure.add_gridspec(
        n_rows + 1, n_columns, height_ratios=[1.0] * n_rows + [0.85]
    )
    for k, name in enumerate(panels):
        ax = figure.add_subplot(grid[k // n_columns, k % n_columns])
        _scatter(report, name, ax)
        if k % n_columns == 0:
            ax.set_ylabel("analytic")
        ax.set_xlabel("numeric")
        if k == 0:
            _legend(report, ax)
    _bars(report, figure.add_subplot(grid[n_rows, :]))
    return figure


def _legend(report: GradientReport, ax: Any) -> None:
    """Draw one for all panels, of the kinds of points that there are."""
    from matplotlib.lines import Line2D

    from fanin._report import KINK

    kinds = []
    agrees = np.isfinite(report._numeric) & np.isfinite(report._analytic)
    agrees &= ~report._wrong & (report._status != KINK)
    if report._checked is not None:
        agrees &= report._checked
    if agrees.any():
        kinds.append((BLUE, "agrees"))
    if report._wrong.any():
        kinds.append((ORANGE, "wrong"))
    if (report._status == KINK).any():
        kinds.append((GREY, "on a kink, left out"))
    if not kinds:
        return
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color=color)
        for color, _ in kinds
    ]
    ax.legend(
        handles,
        [what for _, what in kinds],
        fontsize=7,
        frameon=False,
        loc="lower right",
        handletextpad=0.1,
    )


def _panels(report: GradientReport) -> list[str]:
    """Return the arrays to draw: all, or the most wrong, in their order."""
    names = [
        name
        for name, record in report.blocks.items()
        if record.worst is not None and record.verdict != "unchecked"
    ]
    if len(names) > MOST_PANELS:
        scores = report._scores()
        rank = {
            name: (ORDER.index(report.blocks[name].verdict), -scores[name])
            for name in names
        }
        kept = set(sorted(names, key=lambda name: rank[name])[:MOST_PANELS])
        names = [name for name in names if name in kept]
    return names


def _scatter(report: GradientReport, name: str, ax: Any) -> None:
    x, a, wrong, left = _points(report, name)
    size = np.abs(np.concatenate([x, a]))
    largest = float(np.max(size, initial=0.0))
    limit = 1.15 * largest if largest > 0 else 1.0
    for mask, color, order in (
        (~wrong & ~left, BLUE, 2),
        (left, GREY, 3),
        (wrong, ORANGE, 4),
    ):
        if mask.any():
            ax.plot(
                x[mask],
                a[mask],
                linestyle="none",
                marker="o",
                markersize=4 if x.size < 500 else 2,
                markeredgewidth=0,
                alpha=0.8,
                color=color,
                zorder=order,
            )
    ax.plot([-limit, limit], [-limit, limit], color=GREY, linewidth=0.8, zorder=1)
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)
    if largest > 0 and float(np.median(size)) < 1e-2 * largest:
        # Most entries are small: logarithmic axes beyond a thousandth.
        ticks = [-largest, 0.0, largest]
        ax.set_xscale("symlog", linthresh=1e-3 * largest, linscale=0.5)
        ax.set_yscale("symlog", linthresh=1e-3 * largest, linscale=0.5)
        ax.set_xticks(ticks, [f"{t:.1e}" if t else "0" for t in ticks])
        ax.set_yticks(ticks, [f"{t:.1e}" if t else "0" for t in ticks])
        ax.minorticks_off()
    ax.tick_params(labelsize=7)
    ax.set_title(
        f"{name}: {report.blocks[name].verdict}",
        loc="left",
        fontsize=9,
        color=COLORS[report.blocks[name].verdict],
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#dddddd", linewidth=0.5)
    ax.set_axisbelow(True)
    if ax.get_xscale() == "linear":
        ax.locator_params(nbins=4)


def _points(
    report: GradientReport, name: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    from fanin._report import KINK

    where = next(place for other, place, _ in report._spans if other == name)
    x, a = report._numeric[where], report._analytic[where]
    wrong, left = report._wrong[where], report._status[where] == KINK
    shown = np.isfinite(x) & np.isfinite(a)
    if report._checked is not None:
        shown &= report._checked[where]
    chosen = np.flatnonzero(shown)
    if chosen.size > MOST_POINTS:
        # All of what is wrong, should it be little, and evenly some of the rest.
        bad = chosen[wrong[chosen]]
        rest = chosen[:: -(-chosen.size // MOST_POINTS)]
        few = bad[:: max(1, -(-bad.size // MOST_POINTS))]
        chosen = np.union1d(rest, few)
    return x[chosen], a[chosen], wrong[chosen], left[chosen] & ~wrong[chosen]


def _bars(report: GradientReport, ax: Any) -> None:
    records = [r for r in report.blocks.values() if r.verdict != "unchecked"]
    left = len(records) - MOST_BARS
    if left > 0:
        # (all of what is not correct comes before what is)
        ranked = sorted(
            range(len(records)), key=lambda i: (ORDER.index(records[i].verdict), i)
        )
        records = [records[i] for i in sorted(ranked[:MOST_BARS])]
    low, high = report.thresholds
    floor = min(low * 1e-3, 1e-12)
    heights = [
        r.relative_error if math.isfinite(r.relative_error) else 1.0 for r in records
    ]
    ax.bar(
        range(len(records)),
        [max(h, floor * 1.2) for h in heights],
        color=[COLORS[r.verdict] for r in records],
        width=0.6,
    )
    ax.set_yscale("log")
    ax.set_ylim(floor, 3.0)
    for value, what in ((low, "correct below"), (high, "wrong from")):
        ax.axhline(value, color=GREY, linestyle=":", linewidth=1)
        ax.text(
            1.0,
            value,
            f" {what} {value:g}",
            transform=ax.get_yaxis_transform(),
            fontsize=7,
            color=GREY,
            va="center",
        )
    ax.set_xticks(
        range(len(records)), [r.name for r in records], rotation=30, ha="right"
    )
    ax.tick_params(labelsize=7)
    ax.set_xlim(-0.6, max(len(records), 1) - 0.4)
    title = "relative error by array" if len(records) > 1 else "relative error"
    if left > 0:
        title += f" ({left} correct ones left out)"
    ax.set_title(title, loc="left", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
