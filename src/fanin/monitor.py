"""`Monitor`: a callback that watches the signals of a network while it trains."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _signal_verdict as verdicts
from fanin import _threads
from fanin import _validation as check
from fanin.callbacks import Callback, TrainingState
from fanin.diagnostics import SignalReport, SignalWarning, diagnose_network

if TYPE_CHECKING:
    from fanin.diagnostics import LayerRecord
    from fanin.network import Network

__all__ = ["Monitor"]

# What a trend is seen in: so many reports, each of which goes the same way by at least
# the third part of their mean, and it is told if its end is so many reports ahead.
TREND = 4
STEADY = 1 / 3
AHEAD = 5
# What a report's layers keep of their sampled values.
KEPT = 2048
# Functions that are flat on both sides.
BOUNDED = ("tanh", "logistic")
# Problems that are warned of as such.
URGENT = (
    "not_finite",
    "exploding_gradients",
    "vanishing_gradients",
    "exploding_signal",
    "dead_units",
    "saturated_units",
)


class Monitor(Callback):
    """Record the health of the signals while `fanin.Network.fit` trains, and warn.

    At the start, and after every `every` epochs, the monitor takes the report of
    `fanin.Network.diagnose` for the samples it was given. It warns, once for each kind
    of problem and layer, of what the report finds, and earlier than that of what the
    reports are heading for: of units that die, and of gradients that grow or shrink
    from report to report by a steady factor which will reach the limit soon.

    Parameters
    ----------
    X : array_like of shape (n_samples, n_inputs)
        Samples to look at: some hundred, of the training or of the validation data. A
        report costs about one pass over thousands of samples, forward and backward;
        over a few hundred, what is made of them costs more than the pass.
    y : array_like of shape (n_samples,) or (n_samples, n_outputs), optional
        Their targets. Without them the gradient at the output is a random one, the
        same each time, and absolute gradient norms mean little.
    every : int, default=1
        Epochs from one report to the next, >= 1.
    warn : bool, default=True
        Whether to warn.
    training : bool, optional
        Whether dropout drops and batch normalization takes the statistics of X; by
        default, as `fanin.Network.diagnose` has it: only as long as no training step
        has moved the running ones.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for the reports.

    Attributes
    ----------
    reports : dict of int to SignalReport
        By epoch, 0 being the start. Of each layer's sampled outputs some 2000 are
        kept.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; if X or y does not fit the network, when
        training begins.

    Warns
    -----
    SignalWarning
        Of exploding or vanishing gradients, signals that explode, dying or saturated
        units, and numbers that are not finite.

    Notes
    -----
    Training is the same with a monitor and without, bit for bit. A fit that starts
    afresh starts the records afresh; one with ``resume=`` goes on with them.

    Four reports make a trend: for units that die, each with more dead units than the
    one before; for gradients, each with a logarithm that has moved the same way, by a
    third of the mean step at least. What is watched for vanishing is the gradient of
    each layer over that of the last one, which a falling loss does not change, and for
    exploding also the gradient norm itself, over that of the first report.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5))
    >>> y = X @ [1.0, 2.0, 0.0, -1.0, 0.5]
    >>> layers = [fanin.layers.Dense(20, "relu"), fanin.layers.Dense(1)]
    >>> net = fanin.Network(5, layers, loss="squared_error", rng=0)
    >>> monitor = fanin.callbacks.Monitor(X, y, every=2)
    >>> history = net.fit(X, y, optimizer=fanin.optimizers.Adam(), epochs=4,
    ...                   batch_size=20, callbacks=monitor, rng=0)
    >>> list(monitor.reports)
    [0, 2, 4]
    >>> monitor.dead.shape
    (3, 2)
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        every: int = 1,
        warn: bool = True,
        training: bool | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.X = X
        self.y = y
        self.every = check.integer(every, "every", minimum=1)
        if not isinstance(warn, bool):
            raise TypeError(f"warn must be True or False; got {warn!r}")
        if training is not None and not isinstance(training, bool):
            raise TypeError(f"training must be True, False or None; got {training!r}")
        if n_threads is not None:
            _threads.resolve(n_threads)
        self.warn = warn
        self.training = training
        self.n_threads = n_threads
        self.reports: dict[int, SignalReport] = {}
        self._warned: set[tuple[str, str | None]] = set()
        self._ended: str | None = None

    def __repr__(self) -> str:
        n = len(self.reports)
        return f"Monitor(every={self.every}, {n} report{'' if n == 1 else 's'})"

    # -- what was recorded -----------------------------------------------------------

    @property
    def epochs(self) -> NDArray[np.int64]:
        """The epochs that there are reports of, in order."""
        return np.array(sorted(self.reports), np.int64)

    def _over_epochs(
        self, value: Callable[[LayerRecord], float]
    ) -> NDArray[np.float64]:
        reports = [self.reports[int(e)] for e in self.epochs]
        width = len(reports[0].layers) if reports else 0
        table = [[value(record) for record in r.layers] for r in reports]
        return np.array(table, np.float64).reshape(len(reports), width)

    @property
    def forward_growth(self) -> NDArray[np.float64]:
        """Forward growth by layer, of shape (n_reports, n_layers)."""
        return self._over_epochs(lambda r: r.forward_growth)

    @property
    def backward_growth(self) -> NDArray[np.float64]:
        """Backward growth by layer, of shape (n_reports, n_layers)."""
        return self._over_epochs(lambda r: r.backward_growth)

    @property
    def dead(self) -> NDArray[np.float64]:
        """Share of dead units by layer, of shape (n_reports, n_layers)."""
        return self._over_epochs(lambda r: r.dead)

    @property
    def saturated(self) -> NDArray[np.float64]:
        """Share of flat values by layer, of shape (n_reports, n_layers)."""
        return self._over_epochs(lambda r: r.saturated)

    @property
    def weight_gradient_norm(self) -> NDArray[np.float64]:
        """Norm of each weight's gradient, of shape (n_reports, n_layers)."""
        return self._over_epochs(lambda r: r.weight_gradient_norm)

    def plot(self, *, figure: Any = None) -> Any:
        """Draw growth, dead units and gradient norms by layer over the epochs.

        Of a deep network some layers are drawn, from end to end. A dashed line marks
        the first report with a problem.

        Parameters
        ----------
        figure : matplotlib.figure.Figure or SubFigure, optional
            Where to draw; by default a new figure of `matplotlib.pyplot`.

        Returns
        -------
        matplotlib.figure.Figure or SubFigure
            The figure, with four axes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no report yet.

        Examples
        --------
        >>> import fanin
        >>> from matplotlib.figure import Figure
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> monitor = fanin.callbacks.Monitor([[1.0], [2.0]])
        >>> history = net.fit([[1.0]], [1.0], optimizer=fanin.optimizers.SGD(),
        ...                   epochs=3, batch_size=1, callbacks=monitor)
        >>> [ax.get_title(loc="left") for ax in monitor.plot(figure=Figure()).axes[:2]]
        ['Forward growth, per layer', 'Backward growth, per layer']
        """
        from fanin import _signal_plot

        return _signal_plot.plot_monitor(self, figure)

    # -- the callback ----------------------------------------------------------------

    def on_train_begin(self, state: TrainingState) -> bool | None:
        """Take the report of the start, or of the epoch where training resumes.

        Parameters
        ----------
        state : TrainingState
            Where the training stands.

        Returns
        -------
        None
            Training goes on.

        Examples
        --------
        >>> import fanin
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> monitor = fanin.callbacks.Monitor([[1.0], [2.0]])
        >>> history = net.fit([[1.0]], [1.0], optimizer=fanin.optimizers.SGD(),
        ...                   epochs=0, batch_size=1, callbacks=monitor)
        >>> monitor
        Monitor(every=1, 1 report)
        """
        self._ended = None
        if state.epoch == 0:
            self.reports = {}
            self._warned = set()
        if state.epoch not in self.reports:
            self._take(state)
        return None

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """Take a report if it is time for one, and warn of what it shows.

        Parameters
        ----------
        state : TrainingState
            Where the training stands.

        Returns
        -------
        None
            Training goes on.

        Examples
        --------
        >>> import fanin
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> monitor = fanin.callbacks.Monitor([[1.0], [2.0]], every=3)
        >>> history = net.fit([[1.0]], [1.0], optimizer=fanin.optimizers.SGD(),
        ...                   epochs=7, batch_size=1, callbacks=monitor)
        >>> monitor.epochs.tolist()
        [0, 3, 6]
        """
        if state.epoch % self.every == 0:
            self._take(state)
        return None

    def on_train_end(self, state: TrainingState) -> None:
        """Note how the training ended, which the plot says.

        It is not called if `fanin.Network.fit` raises.

        Parameters
        ----------
        state : TrainingState
            Where the training stands.

        Examples
        --------
        >>> import fanin
        >>> from matplotlib.figure import Figure
        >>> net = fanin.Network(1, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
        >>> monitor = fanin.callbacks.Monitor([[1.0], [2.0]])
        >>> history = net.fit([[1.0]], [1.0], optimizer=fanin.optimizers.SGD(),
        ...                   epochs=1, batch_size=1, callbacks=monitor)
        >>> monitor.plot(figure=Figure()).get_suptitle().partition(":")[0]
        'After epoch 1'
        """
        self._ended = getattr(state.history, "stopped", None) or "epochs"

    @property
    def _title(self) -> str:
        """What a plot says above: the last report, and whether more was to come."""
        epoch = int(self.epochs[-1])
        when = f"After epoch {epoch}" if epoch else "As made"
        end = {"diverged": ", before training diverged", None: ", the last report of a "
               "run that did not come to its end"}.get(self._ended, "")  # fmt: skip
        return f"{when}{end}: {self.reports[epoch].verdict}"

    def _take(self, state: TrainingState) -> None:
        network: Network = state.network
        # With what a network began without, its steps are to be blamed.
        start = self.reports.get(0) if state.epoch else None
        report = diagnose_network(
            network,
            self.X,
            self.y,
            training=self.training,
            feature_names=None,
            n_threads=self.n_threads,
            at_start=None
            if start is None
            else frozenset(p.kind for p in start.problems),
        )
        self.reports[state.epoch] = report._thinned(KEPT)
        if not self.warn:
            return
        # What the output reads saturates as a classifier becomes sure of itself.
        sure = report.layers[-2].name if state.epoch and len(report.layers) > 1 else ""
        for problem in report.problems:
            if problem.kind == "saturated_units" and problem.layer == sure:
                continue
            if problem.kind in URGENT:
                self._say(problem.kind, problem.layer, state.epoch, problem.sentence)
        if len(self.reports) >= TREND:
            self._look_ahead(state.epoch)

    def _say(self, kind: str, layer: str | None, epoch: int, sentence: str) -> None:
        if (kind, layer) in self._warned:
            return
        self._warned.add((kind, layer))
        when = f"after epoch {epoch}" if epoch else "before training"
        warnings.warn(f"{when}: {sentence}", SignalWarning, stacklevel=_outside())

    # -- trends ----------------------------------------------------------------------

    def _look_ahead(self, epoch: int) -> None:
        """Warn of what the last reports are heading for."""
        epochs = self.epochs[-TREND:]
        reports = [self.reports[int(e)] for e in epochs]
        spacing = float(epochs[-1] - epochs[0]) / (TREND - 1)
        last = reports[-1].layers
        for i, record in enumerate(last[:-1] or last):
            if record.activation in BOUNDED:
                continue  # saturated, which is another finding
            shares = [r.layers[i].dead for r in reports]
            step = _steady(shares)
            bound = verdicts.limit(record.n_units)
            if step > 0 and shares[-1] <= bound <= shares[-1] + AHEAD * step:
                left = math.ceil(max(0.0, bound - shares[-1]) / step * spacing)
                leaky = ", or leaky_relu" if record.activation == "relu" else ""
                self._say(
                    "dead_units",
                    record.name,
                    epoch,
                    f"units of {record.name} are dying: {_percent(shares[0])} were "
                    f"dead after epoch {epochs[0]}, {_percent(shares[-1])} are, and "
                    f"{_percent(bound)} will be in {left} epochs at that rate; try a "
                    f"smaller learning rate{leaky}",
                )
        self._look_at_gradients(epoch, epochs, reports, spacing)

    def _look_at_gradients(
        self,
        epoch: int,
        epochs: NDArray[np.int64],
        reports: list[SignalReport],
        spacing: float,
    ) -> None:
        limit = math.log(verdicts.SPAN)
        known = [
            i
            for i, record in enumerate(reports[-1].layers)
            if all(0 < r.layers[i].backward_norm < math.inf for r in reports)
            and not math.isnan(record.scale)
        ]
        if known:
            top = known[-1]
            found: list[tuple[float, float, float, str]] = []
            for i in known[:-1]:
                logs = [
                    math.log(r.layers[i].backward_norm / r.layers[top].backward_norm)
                    for r in reports
                ]
                step, at = _steady(logs), logs[-1]
                sign = math.copysign(1.0, step)
                ahead = sign * at + AHEAD * abs(step)
                # (On the way back to level there is nothing to extrapolate.)
                if min(sign * log for log in logs) < 0:
                    continue
                if step and 0 < sign * at <= limit <= ahead:
                    left = (limit - sign * at) / abs(step)
                    found.append((left, step, at, reports[-1].layers[i].name))
            if found:
                left, step, at, name = min(found)
                shrinking = step < 0
                self._say(
                    "vanishing_gradients" if shrinking else "exploding_gradients",
                    name,
                    epoch,
                    f"gradients {'vanish' if shrinking else 'explode'} on their way to "
                    f"{name}: they arrive with {math.exp(at):.2g} of their norm at the "
                    f"output, a share that changes by {math.exp(step / spacing):.3g} "
                    f"per epoch; in {math.ceil(left * spacing)} epochs it is "
                    f"{math.exp(math.copysign(limit, step)):.2g}",
                )
        if self.y is None:
            return
        totals = [_total(r) for r in reports]
        start = _total(self.reports[int(self.epochs[0])])
        if not all(0 < t < math.inf for t in (*totals, start)):
            return
        logs = [math.log(t / start) for t in totals]
        step = _steady(logs)
        if step > 0 and logs[-1] > 0 and logs[-1] + AHEAD * step >= limit:
            factor = math.exp(step / spacing)
            self._say(
                "exploding_gradients",
                None,
                epoch,
                f"the gradient grows by {factor:.3g} per epoch: its norm is "
                f"{math.exp(logs[-1]):.3g} times that at the start; try a smaller "
                "learning rate, or the optimizer's clipping by the norm",
            )


def _outside() -> int:
    """Return the `stacklevel` with which the caller warns of the line outside fanin."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _ours(module: str) -> bool:
    return module == "fanin" or module.startswith("fanin.")


def _total(report: SignalReport) -> float:
    """Return the norm of the gradient of all weights."""
    norms = [r.weight_gradient_norm for r in report.layers]
    return math.hypot(*(norm for norm in norms if not math.isnan(norm)))


def _steady(values: list[float]) -> float:
    """Return the mean step of values that go one way; 0 if they do not."""
    steps = np.diff(values)
    mean = float(np.mean(steps))
    if math.isfinite(mean) and (steps * mean >= STEADY * mean * mean).all():
        return mean
    return 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
