"""The demo's picture: training, variance through depth, numeric against analytic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fanin import GradientReport, History
from fanin._demo.errors import DemoError, optional

__all__ = ["Picture"]

# Okabe and Ito's colours, told apart by colour-blind readers; shapes differ as well.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
# Beyond this many points a scatter is a blot, and slow.
MOST_POINTS = 4000


@dataclass
class Picture:
    """What the picture shows.

    Attributes
    ----------
    title, loss : str
        The picture's title; the name of the loss.
    history : History
        With validation losses.
    signal : dict of str to (float, list of float)
        By name: the scale C of Var(W) = C / fan_in, and the variance of every
        layer's output.
    correct, broken : GradientReport
        The check of the gradient, and of the one broken on purpose.
    """

    title: str
    loss: str
    history: History
    signal: dict[str, tuple[float, list[float]]]
    correct: GradientReport
    broken: GradientReport

    def write(self, path: str) -> None:
        """Draw and write the PNG."""
        figure_module = optional("matplotlib.figure", "matplotlib")
        agg = optional("matplotlib.backends.backend_agg", "matplotlib")
        figure = figure_module.Figure(figsize=(12, 9), dpi=120, layout="constrained")
        # No pyplot: nothing global is touched, and no display is needed.
        canvas = agg.FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        for ax in axes.flat:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(color="#dddddd", linewidth=0.6)
            ax.set_axisbelow(True)
        self._training(axes[0, 0])
        self._depth(axes[0, 1])
        self._gradient(axes[1, 0], self.correct, "The gradient is correct")
        self._gradient(axes[1, 1], self.broken, "Broken on purpose, and found")
        figure.suptitle(self.title, fontsize=14)
        try:
            canvas.print_png(path)
        except OSError as error:
            raise DemoError(
                f"cannot write {path}: {error.strerror or error}"
            ) from error

    def _training(self, ax: Any) -> None:
        epochs = np.arange(1, len(self.history.loss) + 1)
        curves = (
            ("training", self.history.loss, BLUE, "-", "o"),
            ("validation", self.history.validation_loss, ORANGE, "--", "s"),
        )
        for name, values, color, line, marker in curves:
            ax.plot(
                epochs,
                values,
                line,
                color=color,
                marker=marker if len(epochs) <= 40 else None,
                markersize=3.5,
                label=name,
            )
        ax.set_yscale("log")
        ax.set_xlabel("epoch")
        ax.set_ylabel(self.loss)
        ax.set_title("Training", loc="left")
        ax.legend(frameon=False)

    def _depth(self, ax: Any) -> None:
        styles = ((GREEN, "v", ":"), (BLUE, "o", "-"), (RED, "^", "--"))
        for (name, (_, values)), (color, marker, line) in zip(
            self.signal.items(), styles, strict=True
        ):
            layers = np.arange(1, len(values) + 1)
            ax.plot(layers, values, line, color=color, marker=marker, markersize=4)
            # Beside the line, on the side that its slope leaves free.
            middle = len(values) // 2
            slope = np.sign(round(np.log10((values[-1] or 1e-99) / values[0]) / 3))
            ax.annotate(
                name,
                (layers[middle], values[middle]),
                xytext=(-12 * slope, 12 if slope == 0 else 6),
                textcoords="offset points",
                color=color,
                ha={-1: "left", 0: "center", 1: "right"}[int(slope)],
                va="bottom",
            )
        ax.set_yscale("log")
        ax.set_xlabel("layer (ReLU)")
        ax.set_ylabel("variance of the layer's output")
        ax.set_title("Var(W) decides whether a signal survives depth", loc="left")
        ax.set_xticks([1, *range(5, len(values) + 1, 5)])

    def _gradient(self, ax: Any, report: GradientReport, title: str) -> None:
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for name, block in report.blocks.items():
            pair = np.stack(
                [report.analytic[name].ravel(), report.numeric[name].ravel()]
            )
            # Each array on its own scale, or the largest would be all one sees.
            pair /= float(np.abs(pair).max()) or 1.0
            groups[block.verdict == "correct"].append(pair)
        span = 1.08
        ax.plot([-span, span], [-span, span], color=GREY, linewidth=1, zorder=1)
        for fine, color, marker, z in ((False, RED, "x", 2), (True, BLUE, "o", 3)):
            if not groups[fine]:
                continue
            points = np.concatenate(groups[fine], axis=1)
            label = "correct arrays" if fine else "arrays the check calls wrong"
            if points.shape[1] > MOST_POINTS:
                chosen = np.random.default_rng(0).choice(
                    points.shape[1], MOST_POINTS, replace=False
                )
                label += f" ({MOST_POINTS} of {points.shape[1]} entries)"
                points = points[:, chosen]
            ax.scatter(
                *points,
                s=14 if fine else 12,
                c=color,
                marker=marker,
                linewidths=0.7,
                alpha=0.6,
                label=label,
                zorder=z,
                rasterized=True,
            )
        # Equal scales without equal aspect: the diagonal is drawn, and room is used.
        ax.set_xlim(-span, span)
        ax.set_ylim(-span, span)
        ax.set_xlabel("analytic (backpropagation), over its array's largest entry")
        ax.set_ylabel("numeric (perturb and evaluate), likewise")
        ax.set_title(f"{title}: relative error {report.relative_error:.1e}", loc="left")
        ax.legend(frameon=False, loc="upper left", fontsize=9)
