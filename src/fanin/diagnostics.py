"""The health of signals through depth: what each layer does to them, and a verdict.

In a deep network the scale of activations and gradients multiplies layer by layer.
`fanin.Network.diagnose` measures it on data in one pass; `diagnose_signals` does the
same for arrays of a network written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _report, _report_text, _signals, _threads, activations
from fanin import _signal_verdict as verdicts
from fanin import _validation as check
from fanin._quadrature import gaussian_mean
from fanin._signal_records import InputRecord, LayerRecord, ProblemRecord
from fanin.functional import dense

if TYPE_CHECKING:
    from fanin.network import Network

__all__ = [
    "InputRecord",
    "LayerRecord",
    "ProblemRecord",
    "SignalReport",
    "SignalWarning",
    "diagnose_signals",
]


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
class _Step:
    """What theory needs to know of a layer."""

    kind: str
    activation: activations.Activation | None
    scale: float
    bias: float  # its mean square


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
    _steps: tuple[_Step, ...] | None
    _expected: tuple[NDArray[np.float64], NDArray[np.float64]] | None

    def __init__(self) -> None:
        raise TypeError(
            "a SignalReport is made by Network.diagnose or fanin.diagnose_signals, "
            "not by its constructor"
        )

    @classmethod
    def _from_facts(
        cls, facts: verdicts.Facts, steps: Sequence[_Step], loss: float | None
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
            return f"healthy{tail}"
        first, *others = self.problems
        if not others:
            return first.sentence
        kinds = ", ".join(p.kind.replace("_", " ") for p in others)
        return f"{first.sentence} (also: {kinds})"

    # -- theory ----------------------------------------------------------------------

    @property
    def expected_forward(self) -> NDArray[np.float64]:
        """Forward growth of each layer by mean-field theory, of shape (n_layers,).

        A wide layer of independent weights has z of variance ``q = C * rms**2 +
        mean(bias**2)``, with the measured C of its weights and the measured rms of its
        input, and outputs of mean square E[f(sqrt(q) u)**2], u standard normal
        (Poole et al. 2016). The growth is the root of that over the rms of the input.
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

        ``sqrt(C * E[f'(sqrt(q) u)**2])`` with the C of the layer above (Schoenholz et
        al. 2017). NaN for the last layer, and where the theory has nothing to say.

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
                _number(r.effective_rank),
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
    return replace(record, sample=record.sample[::step].copy())


# --- theory -------------------------------------------------------------------------


@np.errstate(all="ignore")
def _expect(
    steps: Sequence[_Step], records: Sequence[LayerRecord], before: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the growths that mean-field theory expects, layer by layer."""
    n = len(steps)
    forward, backward = np.full(n, math.nan), np.full(n, math.nan)
    std = np.full(n, math.nan)  # of z
    for i, step in enumerate(steps):
        if step.kind == "dense":
            std[i] = math.sqrt(step.scale * before * before + step.bias)
        elif step.kind == "activation":
            std[i] = before
        function = step.activation
        if function is not None and 0 < std[i] < math.inf and before > 0:
            forward[i] = math.sqrt(_mean_square(function, std[i], False)) / before
        before = records[i].rms
    above = None
    for i in reversed(range(n)):
        if math.isnan(records[i].backward_norm):
            continue  # dropout that does nothing
        step, function = steps[i], steps[i].activation
        if above is not None and function is not None and 0 < std[i] < math.inf:
            slope = math.sqrt(_mean_square(function, std[i], True))
            if steps[above].kind == "dense":
                backward[i] = math.sqrt(steps[above].scale) * slope
            elif steps[above].kind == "activation":
                backward[i] = slope
        above = i
    return forward, backward


def _mean_square(function: activations.Activation, std: float, slope: bool) -> float:
    """Return E[f(std u)**2], or of the slope; NaN where it cannot be had."""
    apply: Callable[..., NDArray[Any]]
    apply = activations.derivative if slope else activations.apply
    try:
        return gaussian_mean(lambda z: apply(z, function, n_threads=1) ** 2, std)
    except ValueError:
        return math.nan


# --- making a report ----------------------------------------------------------------


def _root_mean_square(s: _signals.UnitStatistics) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(float(np.mean(s.m2 / s.n + s.mean**2)))


def _norm_of(array: NDArray[Any], n_threads: int) -> tuple[float, bool]:
    """Return the Euclidean norm of a matrix or vector, and whether it is not finite."""
    if array.size == 0:
        return 0.0, False
    s = _signals.observe(array.reshape(-1, array.shape[-1]), n_threads=n_threads)
    bad = not np.isfinite(s.largest).all()
    return math.nan if bad else _root_mean_square(s) * math.sqrt(array.size), bad


@np.errstate(all="ignore")
def effective_rank(sample: NDArray[Any], n_threads: int) -> float:
    """Return tr(S)^2 / tr(S S) of the covariance S of the columns."""
    if sample.shape[0] < 2 or not np.isfinite(sample).all():
        return math.nan
    A = np.asarray(sample, np.float64)
    A = A - A.mean(axis=0)
    largest = float(np.max(np.abs(A), initial=0.0))
    if largest == 0.0:
        return 0.0
    A /= largest
    # (fanin's product, for NumPy's would start threads of its own.)
    left = A if A.shape[0] < A.shape[1] else A.T
    gram = dense(left, left.T, n_threads=n_threads)
    return float(np.trace(gram) ** 2 / np.sum(gram * gram))


def _record(
    name: str,
    activation: activations.Activation | None,
    forward: _signals.UnitStatistics,
    backward: _signals.UnitStatistics | None,
    sample: NDArray[Any],
    *,
    flat_known: bool,
    before: float,
    above: float,
    scale: float,
    weight_norm: float,
    weight_gradient_norm: float,
    n_threads: int,
) -> LayerRecord:
    n, units = forward.n, forward.mean.size
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.mean(forward.mean))
        sample_variance = float(np.mean(forward.m2)) / n
        variance = sample_variance + float(np.mean((forward.mean - mean) ** 2))
        rms = _root_mean_square(forward)
        norm = math.nan
        if backward is not None:
            norm = _root_mean_square(backward) * math.sqrt(units)
        counted = forward.flat if flat_known else forward.zero
        return LayerRecord(
            name=name,
            activation=None if activation is None else activation.name,
            n_units=units,
            mean=mean,
            std=math.sqrt(variance),
            rms=rms,
            sample_std=math.sqrt(sample_variance),
            dead=float(np.mean(counted == n)),
            saturated=float(np.mean(forward.flat) / n) if flat_known else math.nan,
            effective_rank=effective_rank(sample, n_threads),
            scale=scale,
            forward_growth=_ratio(rms, before),
            backward_norm=norm,
            backward_growth=_ratio(norm, above),
            weight_norm=weight_norm,
            weight_gradient_norm=weight_gradient_norm,
            gradient_to_weight=_ratio(weight_gradient_norm, weight_norm),
            sample=sample,
        )


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _largest(s: _signals.UnitStatistics | None) -> float:
    return 0.0 if s is None or not s.largest.size else float(np.max(s.largest))


def _input_record(s: _signals.UnitStatistics, names: tuple[str, ...]) -> InputRecord:
    with np.errstate(over="ignore", invalid="ignore"):
        std = np.sqrt(s.m2 / s.n)
    return InputRecord(
        s.n, s.mean.size, names, s.mean, std, s.largest, _root_mean_square(s)
    )


def _feature_names(X: Any, given: Any, n_features: int) -> tuple[str, ...]:
    """Return the names asked for, those of a frame's columns, or numbers."""
    if given is None:
        columns = None if isinstance(X, np.ndarray) else getattr(X, "columns", None)
        if columns is not None and not callable(columns):
            found = tuple(str(name) for name in columns)
            if len(found) == n_features:
                return found
        return tuple(f"feature {j}" for j in range(n_features))
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(
            f"feature_names must be a sequence of strings; got {check.what(given)}"
        )
    listed = tuple(given)
    for j, name in enumerate(listed):
        if not isinstance(name, str):
            raise TypeError(
                f"feature_names[{j}] must be a string; got {check.what(name)}"
            )
    if len(listed) != n_features:
        raise ValueError(
            f"feature_names must hold a name for each of the {n_features} features; "
            f"got {len(listed)}"
        )
    return tuple(str(name) for name in listed)


def diagnose_network(
    network: Network,
    X: ArrayLike,
    y: ArrayLike | None,
    *,
    training: bool,
    feature_names: Sequence[str] | None,
    n_threads: int | None,
) -> SignalReport:
    """Return the report of `fanin.Network.diagnose`."""
    threads = _threads.resolve(n_threads)
    array = check.samples(X, network.n_inputs)
    names = _feature_names(X, feature_names, network.n_inputs)
    found = _signals.measure(network, array, y, training=training, n_threads=n_threads)
    parameters = network.named_parameters()
    gradients = network.unflatten(found.gradient)
    features = _input_record(found.input, names)
    norms = [
        math.nan
        if s.backward is None
        else _root_mean_square(s.backward) * math.sqrt(s.backward.mean.size)
        for s in found.layers
    ]
    records, steps, bad = [], [], []
    before = features.rms
    for i, signal in enumerate(found.layers):
        weight_name = f"{signal.name}.weight"
        if weight_name not in parameters:
            weight_name = f"{signal.name}.gamma"
        scale = norm = gradient_norm = math.nan
        broken = False
        if weight_name in parameters:
            weight = parameters[weight_name]
            norm, broken = _norm_of(weight, threads)
            gradient_norm = _norm_of(gradients[weight_name], threads)[0]
            if signal.layer.kind == "dense":
                scale = norm * norm / weight.shape[1]
        bias = parameters.get(f"{signal.name}.bias")
        if bias is None:
            bias = parameters.get(f"{signal.name}.beta")
        bias_norm = 0.0
        if bias is not None:
            bias_norm, bad_bias = _norm_of(bias, threads)
            broken = broken or bad_bias
        above = next((v for v in norms[i + 1 :] if not math.isnan(v)), math.nan)
        records.append(
            _record(
                signal.name,
                signal.activation,
                signal.forward,
                signal.backward,
                signal.sample,
                flat_known=True,
                before=before,
                above=above,
                scale=scale,
                weight_norm=norm,
                weight_gradient_norm=gradient_norm,
                n_threads=threads,
            )
        )
        before = records[-1].rms
        kind = signal.layer.kind
        steps.append(
            _Step(
                kind,
                signal.activation,
                scale,
                bias_norm * bias_norm / records[-1].n_units,
            )
        )
        bad.append(broken)
    facts = verdicts.Facts(
        records,
        [signal.layer.kind for signal in found.layers],
        [signal.activation for signal in found.layers],
        [_largest(signal.forward) for signal in found.layers],
        [_largest(signal.backward) for signal in found.layers],
        bad,
        features,
        effective_rank(array[_signals.sampled_rows(found.n_samples)], threads),
        found.n_samples,
    )
    return SignalReport._from_facts(facts, steps, found.loss)


def _named_arrays(values: Any, name: str) -> tuple[list[str] | None, list[Any]]:
    """Return the names of a mapping, or None, and the arrays."""
    if isinstance(values, Mapping):
        for key in values:
            if not isinstance(key, str):
                raise TypeError(f"a key of {name} must be a string; got {key!r}")
        return list(values), list(values.values())
    if isinstance(values, (list, tuple)):
        return None, list(values)
    raise TypeError(
        f"{name} must be a list or a dict of arrays; got {check.what(values)}"
    )


def _matched(
    values: Any, name: str, keys: list[str] | None, n_layers: int
) -> list[Any]:
    """Return what belongs to each layer of `activations`; None where nothing does."""
    if values is None:
        return [None] * n_layers
    found_keys, found = _named_arrays(values, name)
    if found_keys is not None:
        if keys is None:
            raise TypeError(f"{name} is a dict, so activations must be one, too")
        unknown = [key for key in found_keys if key not in keys]
        if unknown:
            raise ValueError(f"{name} has {unknown[0]!r}, which activations has not")
        return [values.get(key) for key in keys]
    if len(found) != n_layers:
        raise ValueError(
            f"{name} must hold one entry for each of the {n_layers} activations; "
            f"got {len(found)}"
        )
    return found


def _matrix(value: Any, name: str) -> NDArray[Any]:
    array = check.real_array(value, name)
    if array.ndim != 2:
        raise ValueError(
            f"{name} must have shape (n_samples, n_units); got {array.shape}"
        )
    if array.shape[1] == 0:
        raise ValueError(f"{name} has no columns: got shape {array.shape}")
    return array


def diagnose_signals(
    activations: Sequence[ArrayLike] | Mapping[str, ArrayLike],
    gradients: Sequence[ArrayLike | None] | Mapping[str, ArrayLike] | None = None,
    *,
    weights: Sequence[ArrayLike | None] | Mapping[str, ArrayLike] | None = None,
    weight_gradients: Sequence[ArrayLike | None]
    | Mapping[str, ArrayLike]
    | None = None,
    activation: Any = None,
    names: Sequence[str] | None = None,
    X: ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    n_threads: int | None = None,
) -> SignalReport:
    r"""Say how the signals of a network written by hand fare through depth.

    What `fanin.Network.diagnose` says of a `fanin.Network`, from the arrays of one
    forward and one backward pass: the growth of the signals from layer to layer, dead
    and saturated units, effective ranks, and a verdict. With samples in rows,

    .. math:: Z_l = A_{l-1} W_l + b_l, \quad A_l = f(Z_l), \quad
              C_l = \text{fan\_in} \cdot \text{mean}(W_l^2).

    Parameters
    ----------
    activations : sequence or dict of array_like of shape (n_samples, n_units)
        The outputs A of each layer, first to last; a dict has them by name. Real
        numbers of any strides, read once where they lie.
    gradients : sequence or dict of array_like, optional
        The gradients dL/dZ of each layer, in the shapes of the activations; None
        within a sequence (or a name missing in a dict) where there is none. dL/dA
        serves as well, if all are of that kind.
    weights : sequence or dict of array_like of shape (n_in, n_out), optional
        The weights W of each layer; None for a layer without.
    weight_gradients : sequence or dict of array_like, optional
        dL/dW, in the shapes of `weights`, which it needs.
    activation : str, fanin.activations.Activation, or sequence of them, optional
        The function f: one for all layers, or one for each. Without it nothing is
        known of saturation: `saturated` is NaN, and a unit that is 0 for all samples
        is dead. The same holds of silu and gelu, whose outputs do not tell.
    names : sequence of str, optional
        Names of the layers; by default "layer0", "layer1" and so on, or the keys of
        the dict.
    X : array_like of shape (n_samples, n_features), optional
        The input, to know the first layer's growth and unscaled features.
    feature_names : sequence of str, optional
        Names of the features; by default a data frame's columns, or "feature 0" and
        so on.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for this call.

    Returns
    -------
    SignalReport
        Growth factors, records by layer, problems and a verdict in words.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong shape, dtype or value; the array is named.

    See Also
    --------
    fanin.Network.diagnose : The same for a network of fanin, in one pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> rng = np.random.default_rng(0)
    >>> A, outputs = rng.standard_normal((300, 100)), {}
    >>> for layer in range(20):
    ...     W = rng.standard_normal((100, 100)) * (1 / 100) ** 0.5
    ...     A = np.maximum(A @ W, 0)
    ...     outputs[f"h{layer}"] = A
    >>> report = fanin.diagnose_signals(outputs, activation="relu")
    >>> for part in report.verdict.split("; "):
    ...     print(part)
    the signal shrinks by 0.72 per layer: after 19 layers 2e-03
    weights with variance 2 / fan_in keep them level for relu
    """
    threads = _threads.resolve(n_threads)
    keys, outputs = _named_arrays(activations, "activations")
    n_layers = len(outputs)
    if n_layers == 0:
        raise ValueError("activations must hold the outputs of at least one layer")
    labels = keys or [f"layer{i}" for i in range(n_layers)]
    if names is not None:
        labels = list(check.sequence(names, "names"))
        if len(labels) != n_layers or not all(isinstance(s, str) for s in labels):
            raise ValueError(
                f"names must hold {n_layers} strings, one for each layer; got {names!r}"
            )
        if len(set(labels)) != n_layers:
            raise ValueError(f"names must differ from each other; got {names!r}")

    def place(name: str, i: int) -> str:
        return f"{name}[{keys[i]!r}]" if keys is not None else f"{name}[{i}]"

    arrays = [_matrix(a, place("activations", i)) for i, a in enumerate(outputs)]
    n = arrays[0].shape[0]
    if n == 0:
        raise ValueError(
            f"{place('activations', 0)} has no rows: there is no signal to measure"
        )
    for i, array in enumerate(arrays):
        if array.shape[0] != n:
            raise ValueError(
                f"{place('activations', i)} must have {n} rows as "
                f"{place('activations', 0)} has; got shape {array.shape}"
            )
    functions = _functions(activation, n_layers)
    features, width, input_rank = None, None, math.nan
    if X is not None:
        given = _matrix(X, "X")
        if given.shape[0] != n:
            raise ValueError(
                f"X must have {n} rows as the activations have; got {given.shape}"
            )
        width = given.shape[1]
        features = _input_record(
            _signals.observe(given, n_threads=threads),
            _feature_names(X, feature_names, width),
        )
        input_rank = effective_rank(given[_signals.sampled_rows(n)], threads)
    elif feature_names is not None:
        raise ValueError("feature_names needs X")
    if weight_gradients is not None and weights is None:
        raise ValueError("weight_gradients needs weights")

    backward: list[_signals.UnitStatistics | None] = []
    for i, one in enumerate(_matched(gradients, "gradients", keys, n_layers)):
        if one is None:
            backward.append(None)
            continue
        g = _matrix(one, place("gradients", i))
        if g.shape != arrays[i].shape:
            raise ValueError(
                f"{place('gradients', i)} must have the shape of "
                f"{place('activations', i)}, {arrays[i].shape}; got {g.shape}"
            )
        backward.append(_signals.observe(g, n_threads=threads))
    norms = [
        math.nan if s is None else _root_mean_square(s) * math.sqrt(s.mean.size)
        for s in backward
    ]
    matched = _matched(weights, "weights", keys, n_layers)
    slopes = _matched(weight_gradients, "weight_gradients", keys, n_layers)
    records, steps, bad, largest = [], [], [], []
    before = math.nan if features is None else features.rms
    rows = _signals.sampled_rows(n)
    for i, array in enumerate(arrays):
        scale = norm = gradient_norm = math.nan
        broken = False
        if matched[i] is not None:
            W = _weight(matched[i], place("weights", i), width, array.shape[1], i == 0)
            norm, broken = _norm_of(W, threads)
            scale = norm * norm / W.shape[1]
            if slopes[i] is not None:
                dW = _matrix(slopes[i], place("weight_gradients", i))
                if dW.shape != W.shape:
                    raise ValueError(
                        f"{place('weight_gradients', i)} must have the shape of "
                        f"{place('weights', i)}, {W.shape}; got {dW.shape}"
                    )
                gradient_norm = _norm_of(dW, threads)[0]
        elif slopes[i] is not None:
            raise ValueError(
                f"{place('weight_gradients', i)} needs {place('weights', i)}"
            )
        low, high, on_z = _signals.flat_bounds(functions[i])
        # What fanin knows nothing of, it does not call unsaturated.
        flat_known = functions[i] is not None and not on_z
        forward = _signals.observe(array, low, high, threads)
        above = next((v for v in norms[i + 1 :] if not math.isnan(v)), math.nan)
        records.append(
            _record(
                labels[i],
                functions[i],
                forward,
                backward[i],
                np.array(array[rows]),
                flat_known=flat_known,
                before=before,
                above=above,
                scale=scale,
                weight_norm=norm,
                weight_gradient_norm=gradient_norm,
                n_threads=threads,
            )
        )
        steps.append(_Step("dense", functions[i], scale, 0.0))
        bad.append(broken)
        largest.append(_largest(forward))
        before, width = records[-1].rms, array.shape[1]
    facts = verdicts.Facts(
        records,
        ["dense"] * n_layers,
        functions,
        largest,
        [_largest(s) for s in backward],
        bad,
        features,
        input_rank,
        n,
    )
    return SignalReport._from_facts(facts, steps, None)


def _weight(
    value: Any, name: str, n_in: int | None, n_out: int, first: bool
) -> NDArray[Any]:
    W = check.real_array(value, name)
    wanted = (W.shape[0] if n_in is None and W.ndim else n_in, n_out)
    if W.ndim != 2 or W.shape != wanted or W.size == 0:
        hint = ""
        if W.ndim == 2 and W.shape[0] == n_out and n_in in (None, W.shape[1]):
            hint = f"; samples are in rows, so pass {name}.T"
        asked = "n_in" if n_in is None else n_in
        raise ValueError(
            f"{name} must have shape ({asked}, {n_out}), inputs by outputs of the "
            f"layer; got {W.shape}{hint}"
        )
    return W


def _functions(given: Any, n_layers: int) -> list[activations.Activation | None]:
    if given is None or isinstance(given, (str, activations.Activation)):
        one = None if given is None else activations.get(given)
        return [one] * n_layers
    listed = check.sequence(given, "activation")
    if len(listed) != n_layers:
        raise ValueError(
            f"activation must be one function or one for each of the {n_layers} "
            f"layers; got {len(listed)}"
        )
    return [None if f is None else activations.get(f) for f in listed]
