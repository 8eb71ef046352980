"""Weights scaled by the data: layer-sequential unit variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _report_text, _signals, _threads, activations
from fanin import _validation as check
from fanin._statistics import Moments, moments
from fanin.functional import dense
from fanin.layers import (
    Activation,
    Dense,
    Dropout,
    Layer,
    activation_met,
    check_init,
    fill_weight,
)
from fanin.network import Network

__all__ = ["CalibrationRecord", "CalibrationReport", "calibrate"]

HEAD = ("layer", "std before", "std after", "factor", "iterations", "what was done")

# A unit whose values differ by no more than so many roundings is constant.
ROUNDINGS = 64.0
# Numbers that are converted between two looks for Ctrl-C.
PIECE = 1 << 22


@dataclass(frozen=True)
class CalibrationRecord:
    """What `calibrate` did to one dense layer.

    Attributes
    ----------
    name : str
        The layer, as in `fanin.Network.named_parameters`: "dense0" and so on.
    std_before, std_after : float
        The standard deviation of the layer's output before its activation, over all
        samples and units, with the layers before it calibrated already.
    factor : float
        What the weight was multiplied by.
    iterations : int
        How often it was.
    ok : bool
        Whether the variance is within the tolerance now.
    sentence : str
        The same in words, and the reason where nothing could be done.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
    >>> fanin.calibrate(net, np.ones((9, 3))).layers[0].sentence
    'all samples of X are the same: left as it is'
    """

    name: str
    std_before: float
    std_after: float
    factor: float
    iterations: int
    ok: bool
    sentence: str


@dataclass(frozen=True, repr=False)
class CalibrationReport:
    """What `calibrate` changed, layer by layer. It prints as a table.

    Attributes
    ----------
    layers : tuple of CalibrationRecord
        One for each dense layer, first to last.
    target, tol : float
        As given to `calibrate`.
    n_samples : int
        The samples that were looked at.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error", rng=0)
    >>> X = np.random.default_rng(0).standard_normal((100, 3))
    >>> report = fanin.calibrate(net, X)
    >>> report.ok, report.layers[0].name
    (True, 'dense0')
    """

    layers: tuple[CalibrationRecord, ...]
    target: float
    tol: float
    n_samples: int

    @property
    def ok(self) -> bool:
        """Whether the variance of every dense layer is within the tolerance."""
        return all(record.ok for record in self.layers)

    @property
    def summary(self) -> str:
        """One sentence: how many layers were scaled, and which could not be."""
        changed = sum(record.factor != 1.0 for record in self.layers)
        text = (
            f"{changed} of {len(self.layers)} dense layers scaled to variance "
            f"{self.target:g}"
        )
        left = [record.name for record in self.layers if not record.ok]
        if left:
            text += f"; not within {self.tol:g} of it: {', '.join(left[:5])}"
            text += f" and {len(left) - 5} more" if len(left) > 5 else ""
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain Python objects that `json.dumps` takes.

        Returns
        -------
        dict
            The report's attributes, with `layers` as a list of dictionaries.

        Examples
        --------
        >>> import numpy as np
        >>> import fanin
        >>> net = fanin.Network(3, [fanin.layers.Dense(2)], loss="squared_error")
        >>> report = fanin.calibrate(net, np.eye(3))
        >>> report.to_dict()["layers"][0]["name"]
        'dense0'
        """
        return {
            "ok": self.ok,
            "summary": self.summary,
            "target": self.target,
            "tol": self.tol,
            "n_samples": self.n_samples,
            "layers": [asdict(record) for record in self.layers],
        }

    def _rows(self) -> list[list[str]]:
        return [
            [
                record.name,
                f"{record.std_before:.4g}",
                f"{record.std_after:.4g}",
                f"{record.factor:.4g}",
                str(record.iterations),
                record.sentence,
            ]
            for record in self.layers
        ]

    def _foot(self) -> str:
        return (
            f"{self.n_samples} samples, target variance {self.target:g}, "
            f"tolerance {self.tol:g} of it"
        )

    def __repr__(self) -> str:
        table = _report_text.table(HEAD, self._rows())
        return "\n".join([self.summary, "", *table, "", self._foot()])

    def _repr_html_(self) -> str:
        import html  # for notebooks; not paid for at import

        return "\n".join(
            [
                f"<p><b>{html.escape(self.summary)}</b></p>",
                _report_text.html_table(HEAD, self._rows()),
                f"<p>{html.escape(self._foot())}</p>",
            ]
        )


def calibrate(
    net: Network,
    X: ArrayLike,
    *,
    init: str | Callable[..., Any] | None = None,
    target: float = 1.0,
    tol: float = 0.01,
    max_iter: int = 10,
    batch_statistics: bool = True,
    rng: Any = None,
    n_threads: int | None = None,
) -> CalibrationReport:
    """Scale the weights of a network so that data keeps unit variance through it.

    Layer-sequential unit variance (Mishkin & Matas 2016): from the first dense layer to
    the last, the weight is divided by the standard deviation of what the layer makes of
    the data before its activation, Z = A W + b, until the variance of Z over all
    samples and units is `target`. It corrects what the rule Var(W) = C / fan_in cannot
    know: features that are correlated or not standardized, activations that are no
    rectifier, narrow layers.

    Parameters
    ----------
    net : Network
        Its weights are changed; biases, normalizations and their running statistics are
        not.
    X : array_like of shape (n_samples, n_inputs)
        Real and finite, prepared as for training. Some hundred samples will do. It is
        not changed.
    init : str or callable, optional
        Draws new weights first, for all dense layers: an initializer as the network's
        own `init`; "orthogonal" is the paper's. None scales the weights that there are.
    target : float, default=1.0
        The variance, positive.
    tol : float, default=0.01
        How far the variance may be from the target, relative to it; positive.
    max_iter : int, default=10
        How often a weight is divided at most. Once is enough but for rounding: with the
        biases in the equation, the factor is exact.
    batch_statistics : bool, default=True
        Whether batch normalization normalizes by the statistics of `X`, as it will in
        training; if not, by its running ones, as in inference. Dropout passes on what
        it gets in either case.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Source of randomness for `init`.
    n_threads : int, optional
        Overrides `fanin.set_num_threads` for this call.

    Returns
    -------
    CalibrationReport
        What was changed, for each dense layer.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `X` has another number of features, fewer than two samples, or a value that
        is not finite; or an option is out of range.
    FloatingPointError
        If the output of a layer is not finite, although `X` is.

    Whatever is raised, an exception of the user's or Ctrl-C included, the parameters
    are as they were.

    See Also
    --------
    fanin.gain : The scale that theory gives.

    Notes
    -----
    The work is that of two or three forward passes, whatever the depth: the data is
    carried on from layer to layer. At most three arrays of (n_samples, units) are held,
    and `X` in the network's dtype if it has another.

    Left as they are, and named in the report, are layers that see nothing: all of them
    if all samples are the same, those behind units that are all dead, and those whose
    weight is 0; and a layer whose biases alone have more variance than is asked for.
    The variance includes that of the units' means, as the paper's: with some
    activations (the logistic function above all) a deep network makes all samples
    alike, and the report says where only the units still differ.

    References
    ----------
    .. [1] D. Mishkin, J. Matas, "All you need is a good init", ICLR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> X = np.random.default_rng(0).standard_normal((200, 10)) / 10
    >>> layers = [fanin.layers.Dense(50, "gelu") for _ in range(20)]
    >>> net = fanin.Network(10, layers, loss="squared_error", rng=0)
    >>> float(net.layer_outputs(X)[-1].std()) < 0.01
    True
    >>> report = fanin.calibrate(net, X, init="orthogonal", rng=1)
    >>> report.ok
    True
    """
    if not isinstance(net, Network):
        raise TypeError(f"net must be a fanin.Network; got {check.what(net)}")
    array = check.samples(X, net.n_inputs)
    if array.shape[0] < 2:
        raise ValueError(
            f"X must have at least 2 samples, to have a variance; got {array.shape[0]}"
        )
    if init is not None:
        check_init(init)
    target = check.real(target, "target", minimum=0.0, open_minimum=True)
    tol = check.real(tol, "tol", minimum=0.0, open_minimum=True)
    max_iter = check.integer(max_iter, "max_iter", minimum=1)
    if not isinstance(batch_statistics, bool):
        raise TypeError(
            f"batch_statistics must be True or False; got {batch_statistics!r}"
        )
    threads = _threads.resolve(n_threads)
    source = check.generator(rng)

    # In a vector of its own, for whatever fails must change nothing.
    vector = net.parameters.copy()
    arrays = net.unflatten(vector)
    buffers = net.named_buffers()
    A = _converted(array, net.dtype)
    found = moments(A, nan_policy="propagate", n_threads=threads)
    _finite_input(array, A, found)
    # (What is given is exact.)
    constant = alike = not _varies(found, net.dtype, 1.0)
    records = []
    for i, layer in enumerate(net.layers):
        name = f"{layer.kind}{i}"
        if isinstance(layer, Dense):
            W, b = arrays[f"{name}.weight"], arrays.get(f"{name}.bias")
            if init is not None:
                met = activation_met(net.layers, i)
                function = Dense(1, init=init).initializer(activation=met)
                fill_weight(function, W, source, f"init of {name}")
            if i > 0:
                found = moments(A, n_threads=threads)
                alike = alike or not _varies(found, net.dtype)
            step = _Layer(name, W, b, A, found, threads)
            records.append(step.calibrate(target, tol, max_iter, constant, alike))
            activation = activations.get(layer.activation)
            A = activations.apply(step.Z, activation, out=step.Z, n_threads=threads)
        elif isinstance(layer, Activation):
            inplace = A if A is not array else None
            A = activations.apply(A, layer.activation, out=inplace, n_threads=threads)
        elif not isinstance(layer, Dropout):
            A = _one_layer(layer, name, arrays, buffers, A, batch_statistics, threads)
    net.parameters[...] = vector
    net._tape = None
    return CalibrationReport(tuple(records), target, tol, array.shape[0])


def _converted(X: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return X in the network's dtype, converted by rows with Ctrl-C in between."""
    if X.dtype == dtype:
        return X
    found = np.empty(X.shape, dtype)
    step = max(1, PIECE // max(1, X.shape[1]))
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, X.shape[0], step):
            found[start : start + step] = X[start : start + step]
    return found


def _finite_input(X: NDArray[Any], A: NDArray[Any], found: Moments) -> None:
    if np.isfinite(found.mean).all():
        return
    for values, what in ((X, ""), (A, f" in {A.dtype}")):
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.unravel_index(int(bad.argmax()), bad.shape)
            raise ValueError(
                f"X must be finite; got {values[row, column]}{what} at "
                f"[{row}, {column}]"
            )


def _varies(found: Moments, dtype: np.dtype[Any], roundings: float = ROUNDINGS) -> bool:
    """Whether some unit's values differ between samples by more than rounding."""
    with np.errstate(over="ignore", under="ignore"):
        spread = roundings * float(np.finfo(dtype).eps) * np.abs(found.mean)
        return bool(np.any(found.std > spread))


def _one_layer(
    layer: Layer,
    name: str,
    arrays: dict[str, NDArray[Any]],
    buffers: dict[str, NDArray[np.float64]],
    A: NDArray[Any],
    batch_statistics: bool,
    n_threads: int,
) -> NDArray[Any]:
    """Return what a normalization makes of A, as a network of this one layer."""
    one = Network(A.shape[1], [layer], loss="squared_error", dtype=A.dtype)
    for own, values in (
        *one.named_parameters().items(),
        *one.named_buffers().items(),
    ):
        key = f"{name}.{own.partition('.')[2]}"
        values[...] = arrays[key] if key in arrays else buffers[key]
    training = batch_statistics and layer.kind == "batch_norm"
    return one.forward(A, training=training, n_threads=n_threads)


def _unit(*values: NDArray[np.float64]) -> float:
    """Return the largest size among numbers; 1 if all are 0."""
    largest = max(float(np.abs(v).max()) for v in values)
    return largest if largest != 0.0 else 1.0


class _Layer:
    """One dense layer at work: its weight, and what it makes of its input."""

    def __init__(
        self,
        name: str,
        W: NDArray[Any],
        b: NDArray[Any] | None,
        A: NDArray[Any],
        found: Moments,
        n_threads: int,
    ) -> None:
        self.name, self.W, self.A, self.n_threads = name, W, A, n_threads
        # The mean square of A, feature by feature.
        self.A_unit = _unit(found.mean, found.std)
        with np.errstate(invalid="ignore"):  # what is not finite shows in Z
            self.power = (found.mean / self.A_unit) ** 2
            self.power += (found.std / self.A_unit) ** 2
        self.b = b
        self.bias = np.zeros(W.shape[1]) if b is None else b.astype(np.float64)
        self.Z = np.empty((A.shape[0], W.shape[1]), W.dtype)
        self.measure()

    def measure(self) -> None:
        """Compute Z, the mean and deviation of each unit, and that of all of it."""
        with np.errstate(over="ignore"):
            dense(self.A, self.W, self.b, out=self.Z, n_threads=self.n_threads)
        found = moments(self.Z, nan_policy="propagate", n_threads=self.n_threads)
        self.mean, self.std_of_units = found.mean, found.std
        unit = _unit(self.mean, self.std_of_units)
        if not math.isfinite(unit):
            raise FloatingPointError(
                f"the output of {self.name} before its activation is not finite in "
                f"{self.Z.dtype}; calibrate has changed nothing"
            )
        self.std = unit * math.sqrt(
            float(np.mean((self.std_of_units / unit) ** 2))
            + float(np.var(self.mean / unit))
        )

    def close(self, target: float, tol: float) -> bool:
        """Whether the variance is within the tolerance."""
        return abs(self.std * self.std - target) <= tol * target

    def noise(self) -> float:
        """Return what rounding makes of a standard deviation of 0, by A and W."""
        rows = _signals.observe(self.W.T, n_threads=self.n_threads)
        largest = _unit(rows.largest)
        # The mean square of each row of W.
        squares = (rows.mean / largest) ** 2 + (rows.std / largest) ** 2
        size = math.sqrt(float(self.power @ squares))
        eps = float(np.finfo(self.W.dtype).eps)
        return ROUNDINGS * eps * (self.A_unit * largest * size)

    def holds(self, factor: float) -> bool:
        """Whether the dtype has the factor, and the largest weight times it."""
        limits = np.finfo(self.W.dtype)
        largest = float(
            _signals.observe(self.W, n_threads=self.n_threads).largest.max()
        )
        return all(
            float(limits.tiny) <= number <= float(limits.max)
            for number in (factor, factor * largest)
        )

    def factor(self, target: float) -> float | str:
        """Return what W is to be multiplied by, or why nothing would do.

        With the units' means m and standard deviations s without the biases b, and f
        the factor, the variance is f^2 (mean s^2 + var m) + 2 f cov(m, b) + var b. It
        is solved for f times the size of m and s, which may be as large or small as
        numbers are.
        """
        linear = self.mean - self.bias
        unit = _unit(linear, self.std_of_units)
        linear = linear / unit
        square = float(np.mean((self.std_of_units / unit) ** 2)) + float(linear.var())
        offset = float(self.bias.var())
        if not self.W.any():
            return "its weight is 0: left as it is"
        if unit * math.sqrt(square) <= self.noise():
            return "it makes the same of all data, but for rounding: left as it is"
        if offset >= target:
            return f"its biases alone have variance {offset:.3g}: left as it is"
        if offset == 0.0:
            return math.sqrt(target / square) / unit
        cross = float(np.mean((linear - linear.mean()) * self.bias))
        root = math.sqrt(cross * cross + square * (target - offset))
        if cross > 0.0:  # the form without cancellation
            return (target - offset) / (root + cross) / unit
        return (root - cross) / square / unit

    def calibrate(
        self, target: float, tol: float, max_iter: int, constant: bool, alike: bool
    ) -> CalibrationRecord:
        """Scale the weight, and say what was done."""
        before, total, iterations, sentence = self.std, 1.0, 0, ""
        while not self.close(target, tol):
            factor = self.factor(target)
            if constant:
                sentence = "all samples of X are the same: left as it is"
            elif isinstance(factor, str):
                sentence = factor
            elif iterations == max_iter:
                sentence = f"not reached in {max_iter} iterations"
            if sentence:
                break
            assert isinstance(factor, float)
            if not self.holds(factor):
                sentence = f"it would leave the range of {self.W.dtype}: left as it is"
                break
            with np.errstate(over="ignore", under="ignore"):
                self.W *= self.W.dtype.type(factor)
            total *= factor
            iterations += 1
            self.measure()
        if not sentence:
            done = f"multiplied by {total:.4g}"
            sentence = done if iterations else "as it should be already"
            if alike and not constant:
                sentence += "; its samples are all alike, only its units differ"
        return CalibrationRecord(
            name=self.name,
            std_before=before,
            std_after=self.std,
            factor=total,
            iterations=iterations,
            ok=self.close(target, tol),
            sentence=sentence,
        )
