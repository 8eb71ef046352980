"""`History`: what a training run saw, epoch by epoch, and where it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self

from fanin import _validation as check

__all__ = ["History"]

FORMAT = "fanin.History"
VERSION = 1
# Why `Network.fit` came to an end.
ENDS = (
    "epochs",
    "early_stopping",
    "callback",
    "time_limit",
    "interrupted",
    "diverged",
    "optimizer",
)
# One number an epoch. The first two are of the training run itself.
CURVES = ("loss", "validation_loss", "seconds", "learning_rate")
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"  # Okabe and Ito


@dataclass
class History:
    """What `Network.fit` saw, epoch by epoch, and why it ended.

    Epochs and batches are numbered from 1, as in fanin's messages: the loss of epoch
    e is ``loss[e - 1]``. Only whole epochs are in the lists.

    Attributes
    ----------
    loss : list of float
        Mean loss of the epoch's batches, each taken before its step, weighted by
        their samples (or by the sum of their weights). With L-BFGS the loss after
        the iteration.
    validation_loss : list of float
        Loss on the validation set after the epoch, weighted as `Network.fit` says;
        empty without one.
    seconds : list of float
        Wall time of the epoch, validation and metrics included.
    metrics : dict of str to list of float
        By name: ``"validation_accuracy"`` on the validation set, ``"accuracy"`` on
        the training data.
    learning_rate : list of float
        Learning rate of the epoch's last step; empty for an optimizer without one.
    n_steps : list of int
        Steps that the optimizer had taken when the epoch ended; empty for L-BFGS.
    best_epoch : int or None
        With early stopping, the epoch whose monitored value was the best.
    stopped : str or None
        Why training ended: "epochs" (all were done), "early_stopping", "callback",
        "time_limit", "interrupted" (Ctrl-C), "diverged", or "optimizer" (L-BFGS came
        to an end by itself).
    message : str
        What there is to say about the end, such as which tensor was not finite.
    batches : int
        Batches done of an epoch that was not completed.

    See Also
    --------
    Network.fit : Returns a History, and continues from one with ``resume=``.

    Notes
    -----
    A history that `Network.fit` returned also holds what an exact continuation needs
    beside the network and the optimizer: the state of the random numbers, of early
    stopping, and the best parameters. Pickles and copies keep it; `to_dict`, which
    is for reading, does not.

    Examples
    --------
    >>> import fanin
    >>> fanin.History(loss=[0.5, 0.25], seconds=[0.1, 0.1])
    History(2 epochs, loss 0.5 -> 0.25)
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    n_steps: list[int] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str | None = None
    message: str = ""
    batches: int = 0
    # What `resume=` needs; set by fanin._training.
    _checkpoint: Any = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        n = len(self.loss)
        text = f"{n} epoch{'' if n == 1 else 's'}"
        if self.batches:
            text += f" and {self.batches} batch{'' if self.batches == 1 else 'es'}"
        if self.loss:
            text += f", loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}"
        if self.validation_loss:
            text += f", validation loss {self.validation_loss[-1]:.4g}"
        for name, values in self.metrics.items():
            if values:
                text += f", {name.replace('_', ' ')} {values[-1]:.4g}"
        if self.best_epoch is not None:
            text += f", best epoch {self.best_epoch}"
        if self.stopped not in (None, "epochs"):
            text += f", stopped: {self.stopped}"
        return f"History({text})"

    def _curves(self) -> list[list[Any]]:
        return [*(getattr(self, c) for c in CURVES), self.n_steps]

    def _trim(self, n_epochs: int) -> None:
        """Forget what belongs to no whole epoch."""
        for values in (*self._curves(), *self.metrics.values()):
            del values[n_epochs:]

    def _copy(self) -> History:
        """Return a history with lists of its own, as of a run that goes on."""
        copied = History(
            metrics={name: list(values) for name, values in self.metrics.items()},
            n_steps=list(self.n_steps),
            best_epoch=self.best_epoch,
        )
        for name in CURVES:
            setattr(copied, name, list(getattr(self, name)))
        return copied

    def to_dict(self) -> dict[str, Any]:
        """Return everything recorded as a dictionary that JSON can hold.

        Returns
        -------
        dict
            For `from_dict`. A number that is not finite is the string "nan", "inf"
            or "-inf", which JSON has no numbers for. What an exact continuation
            needs is not in it; pickle the history for that.

        Examples
        --------
        >>> import json
        >>> import fanin
        >>> history = fanin.History(loss=[0.5, 0.25], stopped="epochs")
        >>> text = json.dumps(history.to_dict())
        >>> fanin.History.from_dict(json.loads(text)) == history
        True
        """
        found: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        for name in CURVES:
            found[name] = [_encode(value) for value in getattr(self, name)]
        found["metrics"] = {
            name: [_encode(value) for value in values]
            for name, values in self.metrics.items()
        }
        found["n_steps"] = list(self.n_steps)
        for name in ("best_epoch", "stopped", "message", "batches"):
            found[name] = getattr(self, name)
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the history that `to_dict` described.

        Parameters
        ----------
        data : dict
            What `to_dict` returned, also after a way through JSON.

        Returns
        -------
        History
            Equal to the one described. Training cannot be resumed from it.

        Raises
        ------
        TypeError, ValueError
            If the dictionary is not one of a history; the entry is named.

        Examples
        --------
        >>> import fanin
        >>> fanin.History.from_dict(fanin.History(loss=[1.0, 0.5]).to_dict())
        History(2 epochs, loss 1 -> 0.5)
        """
        if not isinstance(data, dict):
            raise TypeError(
                f"from_dict needs a dict, as to_dict returns it; "
                f"got {type(data).__name__}"
            )
        if data.get("format") != FORMAT:
            raise ValueError(
                f"'format' must be {FORMAT!r}; got {data.get('format', 'none')!r}"
            )
        version = data.get("version")
        if isinstance(version, bool) or version != VERSION:
            raise ValueError(f"'version' must be {VERSION}; got {version!r}")
        wanted = {f.name for f in fields(cls) if not f.name.startswith("_")}
        found = set(data) - {"format", "version"}
        for problem, names in (
            ("lacks", wanted - found),
            ("has unknown", found - wanted),
        ):
            if names:
                listed = ", ".join(repr(name) for name in sorted(names, key=repr))
                raise ValueError(f"the dictionary of a history {problem} {listed}")
        metrics = data["metrics"]
        if not isinstance(metrics, dict):
            raise TypeError(f"'metrics' must be a dict; got {type(metrics).__name__}")
        for name in metrics:
            if not isinstance(name, str):
                raise TypeError(f"a name in 'metrics' must be a string; got {name!r}")
        best, stopped, message = data["best_epoch"], data["stopped"], data["message"]
        if not isinstance(message, str):
            raise TypeError(f"'message' must be a string; got {type(message).__name__}")
        return cls(
            metrics={name: _numbers(metrics[name], name) for name in metrics},
            n_steps=[
                check.integer(value, f"n_steps[{i}]", minimum=0)
                for i, value in enumerate(_list(data["n_steps"], "n_steps"))
            ],
            best_epoch=(
                None if best is None else check.integer(best, "best_epoch", minimum=1)
            ),
            stopped=None if stopped is None else check.choice(stopped, ENDS, "stopped"),
            message=message,
            batches=check.integer(data["batches"], "batches", minimum=0),
            **{name: _numbers(data[name], name) for name in CURVES},
        )

    def plot(self, *, figure: Any = None) -> Any:
        """Draw the losses and the metrics over the epochs.

        One panel each for the loss and every metric, training and validation
        together, and one for the learning rate if it changed. A dotted line marks the
        best epoch of early stopping.

        Parameters
        ----------
        figure : matplotlib.figure.Figure or SubFigure, optional
            Where to draw; by default a new figure of `matplotlib.pyplot`, which
            ``pyplot.show()`` shows.

        Returns
        -------
        matplotlib.figure.Figure or SubFigure
            The figure, with one axes a panel.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no whole epoch to draw.

        Examples
        --------
        >>> import fanin
        >>> from matplotlib.figure import Figure
        >>> history = fanin.History(loss=[1.0, 0.5], validation_loss=[1.1, 0.8])
        >>> figure = history.plot(figure=Figure())
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['training', 'validation']
        """
        n = len(self.loss)
        if n == 0:
            raise ValueError("the history holds no whole epoch: nothing to plot")
        if figure is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError(
                    'plot needs matplotlib: pip install "fanin[plot]"'
                ) from error
        panels: dict[str, dict[str, list[float]]] = {
            "loss": {"training": self.loss, "validation": self.validation_loss}
        }
        for name, values in self.metrics.items():
            base = name.removeprefix("validation_")
            which = "training" if name == base else "validation"
            panels.setdefault(base, {"training": [], "validation": []})[which] = values
        if len(set(self.learning_rate)) > 1:
            panels["learning_rate"] = {"training": self.learning_rate}
        if figure is None:
            figure = pyplot.figure(
                figsize=(5.0 * len(panels), 3.8), layout="constrained"
            )
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        epochs = range(1, n + 1)
        styles = {"training": (BLUE, "-", "o"), "validation": (ORANGE, "--", "s")}
        for ax, (name, curves) in zip(axes, panels.items(), strict=True):
            for which, values in curves.items():
                if len(values) == n:
                    color, line, marker = styles[which]
                    ax.plot(
                        epochs,
                        values,
                        line,
                        color=color,
                        marker=marker if n <= 40 else None,
                        markersize=3.5,
                        label=which,
                    )
            if self.best_epoch is not None:
                ax.axvline(
                    self.best_epoch,
                    color=GREY,
                    linestyle=":",
                    linewidth=1,
                    label="best epoch",
                )
            ax.set_xlabel("epoch")
            ax.set_title(name.replace("_", " "), loc="left")
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(color="#dddddd", linewidth=0.6)
            ax.set_axisbelow(True)
            ax.xaxis.get_major_locator().set_params(integer=True)
            if name != "learning_rate":
                ax.legend(frameon=False)
        return figure


def _encode(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _list(values: Any, name: str) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name!r} must be a list; got {type(values).__name__}")
    return list(values)


def _numbers(values: Any, name: str) -> list[float]:
    found = []
    for i, value in enumerate(_list(values, name)):
        if isinstance(value, str):
            if value not in NOT_FINITE:
                raise ValueError(
                    f"{name}[{i}] must be a number, 'nan', 'inf' or '-inf'; "
                    f"got {value!r}"
                )
            found.append(NOT_FINITE[value])
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(value)  # a dictionary that never was JSON
        else:
            found.append(check.real(value, f"{name}[{i}]"))
    return found
