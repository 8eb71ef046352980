"""SignalReport: the signals of a network, what theory expects, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import _report, _report_text, activations
from fanin import _signal_verdict as verdicts
from fanin._quadrature import QuadratureError, gaussian_mean
from fanin._signal_records import InputRecord, LayerRecord, ProblemRecord

__all__ = ["SignalReport", "SignalWarning", "Step"]


class SignalWarning(RuntimeWarning):
    """Warns of signals that vanish, explode or die while a network trains.

    `fanin.callbacks.Monitor` gives it.

    Examples
    --------
    >>> import fanin
    >>> issubclass(fanin.SignalWarning, RuntimeWarning)
    True
    """


@dataclass(frozen=True)
class Step:
    """What theory needs to know of a layer."""

    kind: str
    activation: activations.Activation | None
    scale: float
    bias_mean: float
    bias_variance: float


HEAD = (
    "layer",
    "activation",
    "mean",
    "std",
    "dead",
    "saturated",
    "rank",
    "scale",
    "growth",
    "|gradient|",
    "its growth",
    "gradient/weight",
)
MOST_ROWS = 40


class SignalReport:
    """The signals of a network, layer by layer, and what is wrong with them.

    `fanin.Network.diagnose` and `fanin.diagnose_signals` make it; it does not change.
    It prints as a table, also in a notebook.

    Attributes
    ----------
    layers : tuple of fanin.diagnostics.LayerRecord
        One record per layer, first to last.
    input : fanin.diagnostics.InputRecord or None
        Of the features of X; None if X was not given.
    forward_factor, backward_factor : float
        Geometric mean of the growth per layer: of the root mean square of the outputs
        from the first layer to the last, and of the gradient norms from the last to
        the first. A layer is here a dense layer and what follows it, up to the next.
        NaN where there is only one, or nothing was measured.
    problems : tuple of fanin.diagnostics.ProblemRecord
        What is wrong, in the order in which to look at it; empty if nothing is.
    notes : tuple of fanin.diagnostics.ProblemRecord
        What is worth to know and no problem.
    verdict : str
        In words: the first problem, how many others there are, or that all is well.
    healthy : bool
        Whether there is no problem.
    starts_at : str or None
        The name of the layer where the first problem starts, on the way of the signal:
        from the input for signals, from the output for gradients; "X" for the input.
        A gradient that shrinks between two layers does so in the weights of the upper
        or by the slope of the lower; named is the one farther from the rule.
    loss : float or None
        The loss for the targets, if there were any.
    n_samples : int
        Rows of the data.

    See Also
    --------
    fanin.Network.diagnose : Makes one of a network.
    fanin.diagnose_signals : Makes one of arrays.

    Notes
    -----
    A signal has vanished or exploded if a stretch of layers multiplies it by less than
    1/100 or more than 100. Units are dead where more of them pass no gradient than
    the half that would if all samples looked alike, and saturated where more than
    three quarters of the values are flat. Features are unscaled at 10 times the median
    standard deviation or root mean square.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> layers = [fanin.layers.Dense(64, "relu") for _ in range(20)]
    >>> net = fanin.Network(64, layers, loss="squared_error", rng=0)
    >>> for name, array in net.named_parameters().items():
    ...     array *= 0.5 ** 0.5
    >>> X = np.random.default_rng(0).standard_normal((200, 64))
    >>> report = net.diagnose(X)
    >>> report.healthy
    False
    >>> report.problems[0].kind
    'vanishing_gradients'
    """

    layers: tuple[LayerRecord, ...]
    input: InputRecord | None
    forward_factor: float
    backward_factor: float
    problems: tuple[ProblemRecord, ...]
    notes: tuple[ProblemRecord, ...]
    loss: float | None
    n_samples: int
    _steps: tuple[Step, ...] | None
    _unknown: tuple[str, ...]
    _expected: tuple[NDArray[np.float64], NDArray[np.float64]] | None

    def __init__(self) -> None:
        raise TypeError(
            "a SignalReport is made by Network.diagnose or fanin.diagnose_signals, "
            "not by its constructor"
        )

    @classmethod
    def _from_facts(
        cls, facts: verdicts.Facts, steps: Sequence[Step], loss: float | None
    ) -> SignalReport:
        self = object.__new__(cls)
        problems, notes = verdicts.judge(facts)
        forward, backward = verdicts.factors(facts)
        self.__dict__.update(
            layers=tuple(facts.records),
            input=facts.features,
            forward_factor=forward,
            backward_factor=backward,
            problems=tuple(problems),
            notes=tuple(notes),
            loss=loss,
            n_samples=facts.n_samples,
            _unknown=_unknown(facts.records),
            _steps=tuple(steps),
            _expected=None,
        )
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a SignalReport does not change: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a SignalReport does not change: {name} stays")

    def __getstate__(self) -> dict[str, Any]:
        # An activation of the user's need not be possible to pickle.
        self._theory()
        return self.__dict__ | {"_steps": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _thinned(self, n_values: int) -> SignalReport:
        """Return the same with at most so many sampled values of a layer."""
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        found.__dict__["layers"] = tuple(_thin(r, n_values) for r in self.layers)
        return found

    @property
    def healthy(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    @property
    def starts_at(self) -> str | None:
        """The layer where the first problem starts; "X" for the input."""
        return self.problems[0].layer if self.problems else None

    @property
    def verdict(self) -> str:
        """The first problem in words, or that there is none."""
        if not self.problems:
            said = [
                f"{name} {factor:.2f}"
                for name, factor in (
                    ("signals", self.forward_factor),
                    ("gradients", self.backward_factor),
                )
                if math.isfinite(factor)
            ]
            tail = f": growth per layer of {' and of '.join(said)}" if said else ""
            if self._unknown:
                tail += f" ({' and '.join(self._unknown)} not measured)"
            return f"healthy{tail}"
        first, *others = self.problems
        if not others:
            return first.sentence
        kinds = ", ".join(p.kind.replace("_", " ") for p in others)
        return f"{first.sentence} (also: {kinds})"

    def layer(self, name: str) -> LayerRecord:
        """Return the record of the layer of a name, as the verdict gives it.

        Parameters
        ----------
        name : str
            The layer's name, such as "dense3".

        Returns
        -------
        LayerRecord
            One of `layers`.

        Raises
        ------
        KeyError
            If there is no such layer.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> report = fanin.diagnose_signals({"h1": np.eye(3), "h2": np.ones((3, 2))})
        >>> report.layer("h2").n_units
        2
        """
        for record in self.layers:
            if record.name == name:
                return record
        names = ", ".join(record.name for record in self.layers)
        raise KeyError(f"there is no layer {name!r}; there are {names}")

    # -- theory ----------------------------------------------------------------------

    @property
    def expected_forward(self) -> NDArray[np.float64]:
        """Forward growth of each layer by mean-field theory, of shape (n_layers,).

        A wide layer of independent weights has z of variance ``q = C * rms**2 +
        var(bias)`` about ``m = mean(bias)``, with the measured C of its weights and the
        measured rms of its input, and outputs of mean square E[f(m + sqrt(q) u)**2], u
        standard normal (Poole et al. 2016). The growth is the root of that over the
        rms of the input.
        NaN where the theory has nothing to say: of normalizations and dropout, and
        where weights or inputs are not known.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(99, [fanin.layers.Dense(500, "tanh")] * 2,
        ...                     loss="squared_error", rng=0)
        >>> X = np.random.default_rng(0).standard_normal((500, 99))
        >>> net.diagnose(X).expected_forward.round(2)
        array([0.63, 0.77])
        """
        return self._theory()[0].copy()

    @property
    def expected_backward(self) -> NDArray[np.float64]:
        """Backward growth of each layer by mean-field theory, of shape (n_layers,).

        ``sqrt(C * E[f'(m + sqrt(q) u)**2])`` with the C of the layer above (Schoenholz
        et al. 2017). NaN for the last layer, and where the theory has nothing to say.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(99, [fanin.layers.Dense(500, "tanh")] * 2,
        ...                     loss="squared_error", rng=0)
        >>> X = np.random.default_rng(0).standard_normal((500, 99))
        >>> net.diagnose(X).expected_backward.round(2)
        array([0.68,  nan])
        """
        return self._theory()[1].copy()

    def _theory(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._expected is None:
            assert self._steps is not None
            before = self.input.rms if self.input is not None else math.nan
            found = _expect(self._steps, self.layers, before)
            self.__dict__["_expected"] = found
            return found
        return self._expected

    # -- showing ---------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can hold.

        Returns
        -------
        dict
            All attributes, the records as dictionaries, without the samples. A number
            that is not finite is None.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(9, [fanin.layers.Dense(9)], loss="squared_error", rng=0)
        >>> report = net.diagnose(np.random.default_rng(0).standard_normal((50, 9)))
        >>> report.to_dict()["healthy"]
        True
        """
        found: dict[str, Any] = {
            "healthy": self.healthy,
            "verdict": self.verdict,
            "starts_at": self.starts_at,
            "problems": [_as_dict(p) for p in self.problems],
            "notes": [_as_dict(p) for p in self.notes],
            "forward_factor": self.forward_factor,
            "backward_factor": self.backward_factor,
            "expected_forward": self.expected_forward.tolist(),
            "expected_backward": self.expected_backward.tolist(),
            "loss": self.loss,
            "n_samples": self.n_samples,
            "layers": [_as_dict(r) for r in self.layers],
            "input": None if self.input is None else _as_dict(self.input),
        }
        plain: dict[str, Any] = _report._json(found)
        return plain

    def plot(self, *, figure: Any = None) -> Any:
        """Draw the signals through depth, and how the values of each layer lie.

        Parameters
        ----------
        figure : matplotlib.figure.Figure or SubFigure, optional
            Where to draw; by default a new figure of `matplotlib.pyplot`.

        Returns
        -------
        matplotlib.figure.Figure or SubFigure
            The figure; nothing is shown or saved.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> from matplotlib.figure import Figure
        >>> net = fanin.Network(9, [fanin.layers.Dense(9, "tanh")] * 3,
        ...                     loss="squared_error", rng=0)
        >>> report = net.diagnose(np.random.default_rng(0).standard_normal((50, 9)))
        >>> len(report.plot(figure=Figure()).axes) > 0
        True
        """
        from fanin import _signal_plot

        return _signal_plot.plot_report(self, figure)

    def _rows(self) -> tuple[list[list[str]], int]:
        rows = [
            [
                r.name,
                r.activation or "",
                _number(r.mean),
                _number(r.std),
                _share(r.dead),
                _share(r.saturated),
                _rank(r),
                _number(r.scale),
                _number(r.forward_growth),
                _number(r.backward_norm),
                _number(r.backward_growth),
                _number(r.gradient_to_weight),
            ]
            for r in self.layers
        ]
        left = max(0, len(rows) - MOST_ROWS)
        if left:
            half = MOST_ROWS // 2
            rows = [*rows[:half], ["..."] + [""] * (len(HEAD) - 1), *rows[-half:]]
        return rows, left

    def _foot(self) -> str:
        parts = [f"{self.n_samples} sample{'s' if self.n_samples != 1 else ''}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        for name, factor in (
            ("forward", self.forward_factor),
            ("backward", self.backward_factor),
        ):
            if math.isfinite(factor):
                parts.append(f"growth per layer {name} {factor:.3g}")
        return ", ".join(parts)

    def _findings(self) -> list[str]:
        listed = self.problems if len(self.problems) > 1 else ()
        return [p.sentence for p in (*listed, *self.notes)]

    def __repr__(self) -> str:
        rows, left = self._rows()
        lines = [self.verdict, "", *_report_text.table(HEAD, rows)]
        if left:
            lines.append(f"({left} layers left out)")
        if self._findings():
            lines += ["", *(f"- {sentence}" for sentence in self._findings())]
        return "\n".join([*lines, "", self._foot()])

    def _repr_html_(self) -> str:
        import html  # for notebooks; not paid for at import

        rows, left = self._rows()
        parts = [f"<p><b>{html.escape(self.verdict)}</b></p>"]
        parts.append(_report_text.html_table(HEAD, rows))
        if left:
            parts.append(f"<p>({left} layers left out)</p>")
        if self._findings():
            items = "".join(f"<li>{html.escape(s)}</li>" for s in self._findings())
            parts.append(f"<ul>{items}</ul>")
        parts.append(f"<p>{html.escape(self._foot())}</p>")
        return "\n".join(parts)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _rank(record: LayerRecord) -> str:
    if math.isnan(record.effective_rank):
        return f"of {record.n_units}"
    return f"{record.effective_rank:.3g} of {record.n_units}"


def _unknown(records: Sequence[LayerRecord]) -> tuple[str, ...]:
    """Return what the arrays given did not tell, in words."""
    gradients = all(math.isnan(r.backward_norm) for r in records)
    hidden = records[:-1] or records
    saturation = any(math.isnan(r.saturated) for r in hidden)
    return ("gradients",) * gradients + ("saturation",) * saturation


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.3g} %"


def _as_dict(record: LayerRecord | InputRecord | ProblemRecord) -> dict[str, Any]:
    found = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.name != "sample":
            listed = isinstance(value, np.ndarray)
            found[item.name] = value.tolist() if listed else value
    return found


def _thin(record: LayerRecord, n_values: int) -> LayerRecord:
    if record.sample is None or record.sample.size <= n_values:
        return record
    rows = max(1, n_values // record.n_units)
    step = -(-record.sample.shape[0] // rows)
    sample = record.sample[::step].copy()
    sample.setflags(write=False)
    return replace(record, sample=sample)


# --- theory -------------------------------------------------------------------------


@np.errstate(all="ignore")
def _expect(
    steps: Sequence[Step], records: Sequence[LayerRecord], before: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the growths that mean-field theory expects, layer by layer."""
    n = len(steps)
    forward, backward = np.full(n, math.nan), np.full(n, math.nan)
    std = np.full(n, math.nan)  # of z
    for i, step in enumerate(steps):
        if step.kind == "dense":
            std[i] = math.sqrt(step.scale * before * before + step.bias_variance)
        elif step.kind == "activation":
            std[i] = before
        function = step.activation
        if function is not None and 0 < std[i] < math.inf and before > 0:
            mean = step.bias_mean if step.kind == "dense" else 0.0
            square = _mean_square(function, mean, std[i], False)
            forward[i] = math.sqrt(square) / before
        before = records[i].rms
    above = None
    for i in reversed(range(n)):
        if math.isnan(records[i].backward_norm):
            continue  # dropout that does nothing
        step, function = steps[i], steps[i].activation
        if above is not None and function is not None and 0 < std[i] < math.inf:
            mean = step.bias_mean if step.kind == "dense" else 0.0
            slope = math.sqrt(_mean_square(function, mean, std[i], True))
            if steps[above].kind == "dense":
                backward[i] = math.sqrt(steps[above].scale) * slope
            elif steps[above].kind == "activation":
                backward[i] = slope
        above = i
    return forward, backward


def _mean_square(
    function: activations.Activation, mean: float, std: float, slope: bool
) -> float:
    """Return E[f(mean + std u)**2], or of the slope; NaN where it cannot be had."""
    apply: Callable[..., NDArray[Any]]
    apply = activations.derivative if slope else activations.apply
    try:
        return gaussian_mean(lambda z: apply(mean + z, function, n_threads=1) ** 2, std)
    except QuadratureError:
        return math.nan
