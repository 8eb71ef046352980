"""Pictures of a network's signals: of one report, and of a training run.

Every panel has the layers from left to right, as the signal goes forward; a gradient
goes from right to left. What is told apart by colour is also told apart by line or
marker.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fanin._signal_records import LayerRecord
    from fanin.diagnostics import SignalReport
    from fanin.monitor import Monitor

# Okabe and Ito.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, GREY, GRID = "#222222", "#666666", "#dddddd"
# Histograms, and their bins; layers whose names are written out.
MOST_HISTOGRAMS = 8
N_BINS = 51
# Between these quantiles a histogram is drawn: a few far values would leave no room.
MIDDLE = (0.0005, 0.9995)
MOST_NAMES = 12
LONGEST_NAME = 16

FORWARD = ("exploding_signal", "vanishing_signal", "collapsed_signal", "not_finite")
BACKWARD = ("exploding_gradients", "vanishing_gradients")
UNITS = ("dead_units", "saturated_units")


def pyplot_figure(size: tuple[float, float]) -> Any:
    """Return a new figure of pyplot's."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plot needs matplotlib: pip install "fanin[plot]"') from error
    return pyplot.figure(figsize=size, layout="constrained")


def space(
    figure: Any, *, width: float | None = None, height: float | None = None
) -> dict[str, Any]:
    """Return a grid's options: room for labels, where no layout engine makes it."""
    if figure.get_layout_engine() is not None:
        return {}
    return {"wspace": width, "hspace": height}


# --- a report -------------------------------------------------------------------------


def plot_report(report: SignalReport, figure: Any = None) -> Any:
    """Return the figure of `SignalReport.plot`."""
    layers = list(report.layers)
    shown = _subset(report, layers)
    n_rows = -(-len(shown) // 4)
    if figure is None:
        figure = pyplot_figure((11.0, 6.2 + 1.6 * n_rows))
    title = "\n".join(textwrap.wrap(report.verdict, 110, max_lines=3, placeholder=" …"))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    outer = figure.add_gridspec(
        2, 1, height_ratios=[4.4, 1.5 * max(n_rows, 1)], **space(figure, height=0.25)
    )
    panels = outer[0].subgridspec(2, 2, **space(figure, width=0.2, height=0.45))
    forward, backward, units, ratios = (
        figure.add_subplot(panels[i, j]) for i in (0, 1) for j in (0, 1)
    )
    at = np.arange(len(layers))  # X is at -1
    _forward(forward, at, layers, report)
    _backward(backward, at, layers, report)
    _units(units, at, layers)
    _ratios(ratios, at, layers)
    for ax, shows, kinds in (
        (forward, "rms", FORWARD),
        (backward, "backward_norm", BACKWARD),
        (units, "dead", UNITS),
        (ratios, "gradient_to_weight", ()),
    ):
        from_input = ax is forward and report.input is not None
        _layer_axis(ax, [layer.name for layer in layers], from_input)
        values = _column(layers, shows)
        _nothing(ax, values)
        if ax in (forward, backward, ratios):
            _gone(ax, [layers[i].name for i in np.flatnonzero(values == 0)])
        _starts(ax, report, layers, kinds)
        if ax is not ratios and ax.get_legend_handles_labels()[1]:
            where, columns = ("upper center", 3) if ax is units else ("best", 1)
            ax.legend(frameon=False, fontsize=8, ncols=columns, loc=where)
    if shown:
        grid = outer[1].subgridspec(n_rows, 4, **space(figure, width=0.2, height=0.6))
        for k, i in enumerate(shown):
            ax = figure.add_subplot(grid[k // 4, k % 4])
            _histogram(ax, layers[i])
            if k % 4 == 0:
                ax.set_ylabel("values")
    return figure


def _column(layers: Sequence[LayerRecord], name: str) -> NDArray[np.float64]:
    return np.array([getattr(layer, name) for layer in layers], np.float64)


def positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values to draw on a logarithmic axis, the others left out."""
    # (Beyond that matplotlib's own numbers overflow.)
    return np.where((values > 1e-150) & (values < 1e150), values, np.nan)


def _line(
    ax: Any, x: Any, y: Any, color: str, marker: str, line: Any, what: str
) -> None:
    known = np.isfinite(y)
    if known.any():
        ax.plot(
            x[known],
            y[known],
            color=color,
            linestyle=line,
            linewidth=1.6,
            marker=marker,
            markersize=4,
            markevery=max(1, int(known.sum()) // 25),
            label=what,
        )


def _log(ax: Any, least: float) -> None:
    """Take a logarithmic axis, of `least` decades at the least around what is drawn."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if not (0 < low < high < math.inf):
        return
    spare = (least - math.log10(high / low)) / 2
    if spare > 0:
        low, high = low / 10**spare, high * 10**spare
        ax.set_ylim(low, high)
    if low > 1e-3 and high < 1e4 and high / low < 1e3:
        # Plain numbers: powers of ten would be few, or not be read as what they are.
        from matplotlib.ticker import LogLocator, NullFormatter

        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())


def _forward(
    ax: Any, at: NDArray[Any], layers: list[LayerRecord], report: SignalReport
) -> None:
    rms, x = _column(layers, "rms"), at
    if report.input is not None:
        rms, x = np.append(report.input.rms, rms), np.append(-1, at)
    _line(ax, x, positive(rms), BLUE, "o", "-", "root mean square")
    _line(ax, at, positive(_column(layers, "std")), ORANGE, "s", "--", "std")
    _line(
        ax,
        at,
        positive(_column(layers, "sample_std")),
        GREEN,
        "^",
        ":",
        "std over samples",
    )
    growth = report.expected_forward
    if np.isfinite(growth).any():
        _theory(ax, x, _chained(rms, growth[-(len(x) - 1) :]))
    _log(ax, 3.0)
    ax.set_title("Forward: activations", loc="left", fontsize=10)
    ax.set_ylabel("size of activations")


def _chained(
    measured: NDArray[np.float64], growth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what theory makes of the first number, from one entry to the next.

    `growth` has an entry less. Where theory says nothing, it starts from what was
    measured.
    """
    found = measured.copy()
    for i, factor in enumerate(growth):
        if math.isfinite(factor) and math.isfinite(found[i]):
            found[i + 1] = found[i] * factor
    return found


def _theory(ax: Any, x: NDArray[Any], y: NDArray[np.float64]) -> None:
    ax.plot(
        x,
        positive(y),
        color=INK,
        linewidth=0.8,
        zorder=3,
        label="theory, independent weights",
    )


def _backward(
    ax: Any, at: NDArray[Any], layers: list[LayerRecord], report: SignalReport
) -> None:
    norms = _column(layers, "backward_norm")
    _line(ax, at, positive(norms), BLUE, "o", "-", "norm per sample")
    growth = report.expected_backward
    if np.isfinite(growth).any():
        # From the last layer to the first.
        _theory(ax, at, _chained(norms[::-1], growth[-2::-1])[::-1])
    _log(ax, 2.0)
    ax.set_title("Backward: gradients dL/dz", loc="left", fontsize=10)
    ax.set_ylabel("norm of the gradient")


def _units(ax: Any, at: NDArray[Any], layers: list[LayerRecord]) -> None:
    _line(ax, at, _column(layers, "saturated"), ORANGE, "s", "--", "saturated or off")
    _line(ax, at, _column(layers, "dead"), BLUE, "o", "-", "dead")
    rank = _column(layers, "effective_rank") / _column(layers, "n_units")
    _line(ax, at, rank, GREEN, "^", ":", "effective rank / units")
    # With room above for the legend.
    ax.set_ylim(-0.04, 1.5)
    ax.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    ax.set_title("Units", loc="left", fontsize=10)
    ax.set_ylabel("share")


def _ratios(ax: Any, at: NDArray[Any], layers: list[LayerRecord]) -> None:
    values = positive(_column(layers, "gradient_to_weight"))
    _line(ax, at, values, BLUE, "o", "-", "of the weight")
    _log(ax, 2.0)
    ax.set_title("Gradient over weight, as norms", loc="left", fontsize=10)
    ax.set_ylabel("gradient / weight")


def _layer_axis(ax: Any, names: list[str], from_input: bool) -> None:
    n = len(names)
    if n <= MOST_NAMES and max(map(len, names)) <= LONGEST_NAME:
        ticks, labels = list(range(n)), names
        if from_input:
            ticks, labels = [-1, *ticks], ["X", *labels]
        ax.set_xticks(ticks, labels, rotation=30, ha="right")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel(f"layer, from {names[0]} to {names[-1]}")
    ax.set_xlim(-1.3 if from_input else -0.5, n - 0.5)
    ax.tick_params(labelsize=8)
    ax.grid(color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _nothing(ax: Any, values: Any) -> None:
    """Say why a panel is empty: nothing is known, or all that is cannot be drawn."""
    if ax.lines:
        return
    known = np.asarray(values)[~np.isnan(values)]
    if known.size and (known == 0).all():
        what = "0 in all layers"
    else:
        what = "not finite" if known.size else "not measured"
    ax.text(
        0.5,
        0.5,
        what,
        transform=ax.transAxes,
        ha="center",
        va="center",
        color=GREY,
    )
    ax.set_yticks([])


def _gone(ax: Any, told: list[str]) -> None:
    """Say what is 0, which a logarithmic axis does not have."""
    if not told or not ax.lines:
        return
    more = f", and {len(told) - 3} more" if len(told) > 3 else ""
    ax.text(
        0.02,
        0.03,
        f"0, not drawn: {', '.join(told[:3])}{more}",
        transform=ax.transAxes,
        fontsize=7,
        color=INK,
    )


def _starts(
    ax: Any, report: SignalReport, layers: list[LayerRecord], kinds: Sequence[str]
) -> None:
    """Mark the layers where the problems that a panel shows start."""
    names = [layer.name for layer in layers]
    for problem in report.problems:
        if problem.kind in kinds and problem.layer in names:
            ax.axvline(
                names.index(problem.layer),
                color=INK,
                linestyle=(0, (4, 2)),
                linewidth=1,
                label=f"{problem.kind.replace('_', ' ')}, from {problem.layer}",
            )


def _subset(report: SignalReport, layers: list[LayerRecord]) -> list[int]:
    """Return the layers whose histograms are drawn: all, or some from end to end."""
    known = [i for i, layer in enumerate(layers) if layer.sample is not None]
    if len(known) <= MOST_HISTOGRAMS:
        return known
    names = {problem.layer for problem in report.problems}
    ends = [known[0], known[-1]]
    blamed = [i for i in known if layers[i].name in names and i not in ends]
    chosen = set(ends + blamed[: MOST_HISTOGRAMS - 2])
    for k in np.linspace(0, len(known) - 1, MOST_HISTOGRAMS).round().astype(int):
        if len(chosen) < MOST_HISTOGRAMS:
            chosen.add(known[k])
    return sorted(chosen)


def _histogram(ax: Any, layer: LayerRecord) -> None:
    """Draw the values of a layer's sample; in words, those that it does not show."""
    assert layer.sample is not None
    values = np.asarray(layer.sample, np.float64).ravel()
    finite, zero = np.isfinite(values), values == 0.0
    notes = []
    if zero.mean() > 0.01:  # those of ReLU would be all that one sees
        notes.append(f"{zero.mean():.0%} are 0")
    if not finite.all():
        share = 1 - finite.mean()
        told = "<1%" if share < 0.005 else f"{share:.0%}"
        notes.append(f"{told} not finite")
    rest = values[finite & ~zero]
    name = (
        layer.name if layer.activation is None else f"{layer.name}, {layer.activation}"
    )
    ax.set_title(name, loc="left", fontsize=8)
    if rest.size:
        # Of values that differ by less than their rounding, one bar.
        low, high = (float(end) for end in np.quantile(rest, MIDDLE))
        low, high = (min(low, 0.0), max(high, 0.0)) if zero.any() else (low, high)
        if not high - low > 1e-12 * max(abs(low), abs(high)):
            low, high = low - abs(low) / 2, high + abs(high) / 2
        ax.stairs(
            *np.histogram(rest, N_BINS, (low, high)),
            fill=True,
            color=BLUE,
            alpha=0.75,
            edgecolor=INK,
            linewidth=0.4,
        )
    if notes:
        ax.text(
            0.98,
            0.95,
            "\n".join(notes),
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=7,
            color=INK,
        )
    if rest.size:
        ax.locator_params(axis="x", nbins=4)
        ax.ticklabel_format(axis="x", scilimits=(-2, 3))
    else:
        ax.set_xticks([])
    ax.tick_params(labelsize=7)
    ax.xaxis.get_offset_text().set_fontsize(7)
    ax.set_yticks([])
    ax.spines[["top", "right", "left"]].set_visible(False)


# --- a training run -------------------------------------------------------------------

# Layers with lines of their own; markers beside the colour, which goes from dark (the
# first layer) to light.
MOST_LINES = 8
MARKERS = "os^Dv<>P"


def plot_monitor(monitor: Monitor, figure: Any = None) -> Any:
    """Return the figure of `Monitor.plot`."""
    epochs = monitor.epochs
    if epochs.size == 0:
        raise ValueError("the monitor holds no report: nothing to plot")
    last = monitor.reports[int(epochs[-1])]
    shown = _lines_of(monitor)
    if figure is None:
        figure = pyplot_figure((11.0, 7.2))
    names = [layer.name for layer in last.layers]
    panels = (
        ("Forward growth, per layer", monitor.forward_growth, True, 1.0),
        ("Backward growth, per layer", monitor.backward_growth, True, 1.0),
        ("Dead units, share", monitor.dead, False, None),
        ("Norm of the weight's gradient", monitor.weight_gradient_norm, True, None),
    )
    title = "\n".join(textwrap.wrap(monitor._title, 110, max_lines=3, placeholder=" …"))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    grid = figure.add_gridspec(2, 2, **space(figure, width=0.2, height=0.35))
    for k, (what, values, logarithmic, level) in enumerate(panels):
        ax = figure.add_subplot(grid[k // 2, k % 2])
        for j, i in enumerate(shown):
            y = positive(values[:, i]) if logarithmic else values[:, i]
            shade = 0.92 * j / max(1, len(shown) - 1)
            _line(ax, epochs, y, _viridis(shade), MARKERS[j], "-", names[i])
        if logarithmic:
            _log(ax, 1.0)
        else:
            ax.set_ylim(-0.03, 1.03)
        if level is not None:
            ax.axhline(level, color=GREY, linewidth=0.8, zorder=1)
        _first_problem(ax, monitor)
        ax.set_title(what, loc="left", fontsize=10)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if epochs.size == 1:
            ax.set_xticks(epochs)
        ax.tick_params(labelsize=8)
        ax.grid(color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        _zeros(ax, epochs, values[:, shown], [names[i] for i in shown], logarithmic)
        _nothing(ax, values[:, shown])
        if k == 2:  # where there is room as a rule
            ax.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def _zeros(
    ax: Any,
    epochs: NDArray[Any],
    values: NDArray[np.float64],
    names: list[str],
    logarithmic: bool,
) -> None:
    """Say which lines end because a logarithmic axis has no 0."""
    gone = [j for j in range(len(names)) if (values[:, j] == 0).any()]
    if not logarithmic or not gone:
        return
    _gone(ax, [f"{names[j]} from {epochs[np.argmax(values[:, j] == 0)]}" for j in gone])


def _viridis(place: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](place)


def _lines_of(monitor: Monitor) -> list[int]:
    """Return the layers to draw: those with weights, or some of them end to end."""
    known = np.isfinite(monitor.weight_gradient_norm).any(axis=0)
    layers = np.flatnonzero(known) if known.any() else np.arange(known.size)
    if layers.size > MOST_LINES:
        layers = layers[np.linspace(0, layers.size - 1, MOST_LINES).round().astype(int)]
    return [int(i) for i in layers]


def _first_problem(ax: Any, monitor: Monitor) -> None:
    """Mark the first report that is not healthy."""
    for epoch in monitor.epochs:
        problems = monitor.reports[int(epoch)].problems
        if problems:
            what = problems[0].kind.replace("_", " ")
            where = f", {problems[0].layer}" if problems[0].layer else ""
            ax.axvline(
                epoch,
                color=INK,
                linestyle=(0, (4, 2)),
                linewidth=1,
                label=f"{what}{where}",
            )
            return
