"""How signals fare on their way through a deep network, in theory and measured.

In a wide network whose weights are independent with mean zero and variance
C / fan_in, every z of a layer is about normal, N(0, q). Mean-field theory follows q
from layer to layer, and from it the size of the gradient on its way back:
`expected_signals`. `plot_initialization` draws both beside a real network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fanin import _signal_plot, activations, initializers
from fanin import _validation as check
from fanin._quadrature import (
    QuadratureError,
    gaussian_mean,
    mean_square_slope,
    slope_at_zero,
    values_of,
)
from fanin._signal_plot import positive

if TYPE_CHECKING:
    from fanin._signals import UnitStatistics

__all__ = ["ExpectedSignals", "expected_signals", "plot_initialization"]

Function: TypeAlias = "Callable[[NDArray[np.float64]], NDArray[np.float64]]"

# A q that one layer changes by less than this, of itself, is a fixed point.
LEVEL = 1e-9
# q below this part of where it starts goes to zero, beyond that many times it to
# infinity, as far as a search for fixed points is concerned.
VANISHED = 1e-8
FAR = 1e12
# Quadrature looks at up to 38 standard deviations, and squares what it finds.
LARGEST = 1e300
# For the limit of a slope where z goes to 0 (ReLU has another one at 0 itself).
NEAR_ZERO = 1e-100
# Below this standard deviation, a slope may be taken for that at 0.
SMALL = 0.01


@dataclass(frozen=True, eq=False)
class ExpectedSignals:
    """What mean-field theory expects of the layers of a wide dense network.

    Layers are counted from 0, as in `fanin.Network`: entry l of an array is of layer
    l, of which there are `depth`. `expected_signals` makes it, and has the formulas.

    Attributes
    ----------
    activation : Activation or callable
        The function f of every layer.
    scale : float
        C in Var(W) = C / fan_in.
    depth : int
        Number of layers.
    input_mean_square : float
        Mean square of the network's input.
    bias_variance : float
        Variance of the biases.
    variance : ndarray, shape (depth,)
        q, the variance of the layer's z over units (and so over networks).
    mean : ndarray, shape (depth,)
        E[f(z)], the mean of the layer's outputs.
    mean_square : ndarray, shape (depth,)
        E[f(z)**2], the mean square of the layer's outputs.
    chi : ndarray, shape (depth,)
        C E[f'(z)**2]: the squared norm of dL/dz in this layer over that in the layer
        above it.
    fixed_point : float or None
        The q that the layers approach from where they start, or keep; 0 where the
        signal vanishes, None where it grows without bound.
    fixed_point_chi : float
        chi at the fixed point, the growth factor of the squared gradient deep in the
        network: above 1 it explodes on its way back, below 1 it vanishes. NaN without
        a fixed point.

    Examples
    --------
    >>> import fanin
    >>> expected = fanin.propagation.expected_signals("relu", 2.0, 50)
    >>> isinstance(expected, fanin.propagation.ExpectedSignals)
    True
    """

    activation: activations.Activation | Function
    scale: float
    depth: int
    input_mean_square: float
    bias_variance: float
    variance: NDArray[np.float64]
    mean: NDArray[np.float64]
    mean_square: NDArray[np.float64]
    chi: NDArray[np.float64]
    fixed_point: float | None
    fixed_point_chi: float

    @property
    def rms(self) -> NDArray[np.float64]:
        """Root mean square of each layer's outputs: the forward signal."""
        found: NDArray[np.float64] = np.sqrt(self.mean_square)
        return found

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of each layer's outputs."""
        # (Rounding may leave less than 0.)
        spread = np.maximum(self.mean_square - self.mean**2, 0.0)
        found: NDArray[np.float64] = np.sqrt(spread)
        return found

    @property
    def forward_growth(self) -> NDArray[np.float64]:
        """Each layer's rms over that of the layer before; the first over the input."""
        rms = self.rms
        before = np.append(math.sqrt(self.input_mean_square), rms[:-1])
        with np.errstate(divide="ignore", invalid="ignore"):
            found: NDArray[np.float64] = rms / before
        return found

    @property
    def gradient_norm(self) -> NDArray[np.float64]:
        """Norm of each layer's dL/dz over that of the last layer, whose entry is 1."""
        back = np.cumprod(np.append(1.0, np.sqrt(self.chi[-2::-1])))
        return back[::-1].copy()

    @property
    def backward_growth(self) -> NDArray[np.float64]:
        """Each layer's gradient norm over that of the layer above; NaN at the last."""
        return np.append(np.sqrt(self.chi[:-1]), np.nan)

    def __repr__(self) -> str:
        name = getattr(self.activation, "name", None) or _name(self.activation)
        point = "none" if self.fixed_point is None else f"{self.fixed_point:.4g}"
        return (
            f"ExpectedSignals({name}, scale={self.scale:g}, depth={self.depth}, "
            f"fixed_point={point}, fixed_point_chi={self.fixed_point_chi:.4g})"
        )


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _functions(
    activation: str | activations.Activation | Function,
) -> tuple[activations.Activation | Function, Function, Callable[[float], float]]:
    """Return the activation as it is kept, f, and std -> E[f'(std u)^2]."""
    if callable(activation) and not isinstance(activation, activations.Activation):
        function = activation

        def own(z: NDArray[np.float64]) -> NDArray[np.float64]:
            return values_of(function, z)

        return function, own, lambda std: _mean_square_slope(own, std)
    kept = activations.get(activation)
    return (
        kept,
        lambda z: activations.apply(z, kept, n_threads=1),
        lambda std: gaussian_mean(
            lambda z: activations.derivative(z, kept, n_threads=1) ** 2, std
        ),
    )


def _mean_square_slope(function: Function, std: float) -> float:
    """Return E[f'(std u)^2] from f alone."""
    if std >= SMALL:
        return mean_square_slope(function, std)
    if std >= SMALL**4:
        try:
            return mean_square_slope(function, std)
        except QuadratureError:
            pass  # f(z) - f(0) may have lost its digits beside f(0)
    left, right = slope_at_zero(function)
    return (left**2 + right**2) / 2


def expected_signals(
    activation: str | activations.Activation | Function,
    scale: float,
    depth: int,
    *,
    mean_square: float = 1.0,
    bias_variance: float = 0.0,
) -> ExpectedSignals:
    r"""Return the size of activations and gradients that theory expects of each layer.

    The layers are dense and wide, all with the activation f and with independent
    weights of mean zero and variance C / fan_in. Then a layer's z are normal with
    variance q [1]_:

    .. math::

        q_0 = C\,\overline{x^2} + \sigma_b^2, \qquad
        q_{l+1} = C\,\mathrm E\bigl[f(\sqrt{q_l}\,u)^2\bigr] + \sigma_b^2, \qquad
        \chi_l = C\,\mathrm E\bigl[f'(\sqrt{q_l}\,u)^2\bigr],

    with u standard normal. The squared norm of :math:`\partial L/\partial z` grows by
    :math:`\chi_l` from layer l+1 back to layer l [2]_.

    Parameters
    ----------
    activation : str, Activation or callable
        f: a name or an object of `fanin.activations`, or a function of a vector of
        float64 that returns one of the same shape.
    scale : float
        C, not negative: 2 for ReLU and 1 for tanh by the rule of the fan-in.
    depth : int
        Number of layers, at least 1.
    mean_square : float, default=1.0
        Mean square of the network's input over samples and features, not negative; 1
        for standardized features.
    bias_variance : float, default=0.0
        Variance of the biases, not negative.

    Returns
    -------
    ExpectedSignals
        One number per layer: ``variance`` (q), ``mean``, ``mean_square``, ``rms`` and
        ``std`` of the outputs, ``chi``, ``gradient_norm``, and the growth factors of
        both; ``fixed_point``, which q approaches.

    Raises
    ------
    ValueError
        If there is no such activation, a number is not finite or out of its range, or
        E[f(z)**2] does not exist or cannot be computed.
    TypeError
        If an argument has the wrong type.

    See Also
    --------
    plot_initialization : The same beside a real network, as a picture.

    Notes
    -----
    For ReLU both factors are C / 2 at every q [3]_: the rule C = 2 keeps every signal.
    For tanh without biases, :math:`q_{l+1} \approx C q_l (1 - 2 q_l)` for small q: C =
    1 has the fixed point 0, which it approaches as slowly as :math:`q_l \approx
    1 / 2l`; and with a larger C, q approaches a number where tanh saturates and
    :math:`\chi > 1`.

    Real networks scatter around these numbers: with n units in a layer the rms differs
    by some :math:`\sqrt{l / n}` of itself after l layers. Batch and layer
    normalization are not part of this theory.

    The means are taken by quadrature, to some 12 digits. The derivative of a function
    of your own, of which there is only the function, is taken numerically, to some 9
    digits; to 4 where z is below 0.01 and f(z) is lost in rounding beside f(0).

    Where q leaves the range of float64, it and what follows are infinite, and chi is
    NaN.

    References
    ----------
    .. [1] B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli, "Exponential
       expressivity in deep neural networks through transient chaos", NeurIPS 2016.
    .. [2] S. S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein, "Deep information
       propagation", ICLR 2017.
    .. [3] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015,
       section 2.2.

    Examples
    --------
    >>> from fanin.propagation import expected_signals
    >>> expected_signals("relu", 2.0, 50).rms[[0, -1]].round(6)  # level, for all depths
    array([1., 1.])
    >>> half = expected_signals("relu", 1.0, 50)
    >>> half.backward_growth[:2].round(4)                # sqrt(1 / 2) a layer
    array([0.7071, 0.7071])
    >>> expected_signals("tanh", 2.0, 50)
    ExpectedSignals(tanh, scale=2, depth=50, fixed_point=0.618, fixed_point_chi=1.106)
    """
    kept, function, slope = _functions(activation)
    scale = check.real(scale, "scale", minimum=0.0)
    depth = check.integer(depth, "depth", minimum=1)
    mean_square = check.real(mean_square, "mean_square", minimum=0.0)
    bias_variance = check.real(bias_variance, "bias_variance", minimum=0.0)

    def square(q: float) -> float:
        return gaussian_mean(lambda z: function(z) ** 2, math.sqrt(q))

    variance, mean, second, chi = (np.full(depth, np.inf) for _ in range(4))
    chi[...] = np.nan
    q = scale * mean_square + bias_variance
    for i in range(depth):
        if q > LARGEST:
            break
        variance[i] = q
        mean[i] = gaussian_mean(function, math.sqrt(q))
        second[i] = square(q)
        chi[i] = scale * slope(math.sqrt(q) or NEAR_ZERO)
        q = scale * second[i] + bias_variance
    fixed = _fixed_point(
        lambda q: scale * square(q) + bias_variance, scale * mean_square + bias_variance
    )
    return ExpectedSignals(
        activation=kept,
        scale=scale,
        depth=depth,
        input_mean_square=mean_square,
        bias_variance=bias_variance,
        variance=variance,
        mean=mean,
        mean_square=second,
        chi=chi,
        fixed_point=fixed,
        fixed_point_chi=(
            math.nan if fixed is None else scale * slope(math.sqrt(fixed) or NEAR_ZERO)
        ),
    )


def _fixed_point(step: Callable[[float], float], start: float) -> float | None:
    """Return the q = step(q) that is approached from `start`, or None.

    It is the first in the direction in which q goes. q cannot jump over it and away:
    d log E[f^2] / d log q = E[f^2 (u^2 - 1)] / (2 E[f^2]) is -1/2 at least, and so is
    the slope of the step at a fixed point.
    """
    if start > LARGEST:
        return None
    change = step(start) - start
    if abs(change) <= LEVEL * start:
        return start
    # Where q starts to go, as far as the first number that it would come back from.
    near, least = start or VANISHED, VANISHED * start
    while True:
        far = near * 2 if change > 0 else near / 2
        if far > FAR * max(start, 1.0) or far > LARGEST:
            return None
        if far < least:
            return 0.0 if step(0.0) == 0.0 else None
        if (step(far) - far > 0) != (change > 0):
            break
        near = far
    while abs(far - near) > 1e-13 * far and (middle := (near + far) / 2) != near:
        if (step(middle) - middle > 0) == (change > 0):
            near = middle
        else:
            far = middle
    return near


# --- the picture ----------------------------------------------------------------------

# Okabe and Ito's colours; lines and markers tell them apart in grey as well.
STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", (0, (1, 1)), "D"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#56B4E9", (0, (8, 2)), "P"),
)
INK, GREY, GRID = "#222222", "#666666", "#dddddd"
N_HISTOGRAMS = 4
N_BINS = 61


@dataclass
class _Measured:
    """Of one network: a number a layer, and samples of some layers' outputs."""

    rms: NDArray[np.float64]  # (depth + 1,), the input first
    gradient_norm: NDArray[np.float64]  # (depth,), of dL/dz, relative to the last
    samples: dict[int, NDArray[Any]]  # by layer, from 1


def _measure(
    layer_init: Any,
    function: activations.Activation,
    depth: int,
    width: int,
    X: NDArray[np.float64],
    rng: np.random.Generator,
    shown: Sequence[int],
) -> _Measured:
    from fanin import _signals
    from fanin.layers import Dense
    from fanin.network import Network

    layers = [Dense(width, function, init=layer_init)] * depth
    net = Network(width, layers, loss="squared_error", dtype=np.float64, rng=rng)
    found = _signals.measure(net, X)
    backward = []
    for layer in found.layers:
        assert layer.backward is not None  # there is no dropout
        backward.append(math.sqrt(_squares(layer.backward).sum()))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.array(backward) / backward[-1]
    forward = [found.input, *(layer.forward for layer in found.layers)]
    return _Measured(
        np.sqrt([_squares(statistics).mean() for statistics in forward]),
        relative,
        {i: found.layers[i - 1].sample for i in shown},
    )


def _squares(statistics: UnitStatistics) -> NDArray[np.float64]:
    """Return each unit's mean square."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float64] = statistics.std**2 + statistics.mean**2
    return found


def plot_initialization(
    *,
    depth: int = 30,
    activation: str | activations.Activation = "tanh",
    scales: Sequence[float | str | initializers.Initializer] = (0.5, 1.0, 2.0),
    width: int = 256,
    n_samples: int = 256,
    rng: initializers.RNG = 0,
    figure: Any = None,
) -> Any:
    """Draw how signals fare through a deep network under several scales of weights.

    For each scale C a network of `depth` layers of `width` units is initialized, with
    Var(W) = C / fan_in and biases of zero. Standard normal samples go forward through
    it, a standard normal gradient goes back. Three kinds of panels show, on logarithmic
    axes, the root mean square of each layer's activations; the norm of each layer's
    gradient dL/dz, over that of the last layer; and histograms of the activations of
    some layers. Thin lines are the theory of `expected_signals`.

    Parameters
    ----------
    depth : int, default=30
        Number of layers, at least 2.
    activation : str or Activation, default="tanh"
        As in `fanin.activations.get`.
    scales : sequence, default=(0.5, 1.0, 2.0)
        What to compare, one to six of them: numbers C, not negative; or initializers,
        by a name of `fanin.initializers` or as functions (there is no theory for
        these).
    width : int, default=256
        Units of a layer, and features of the input.
    n_samples : int, default=256
        Samples that are sent through.
    rng : None, int, SeedSequence or Generator, default=0
        Source of randomness of weights and input; the same weights, but for their size,
        for every scale. (The gradient is the same each time.)
    figure : matplotlib.figure.Figure or SubFigure, optional
        Where to draw; by default a new figure of `matplotlib.pyplot`, which
        ``pyplot.show()`` shows.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure
        The figure. Its axes are the forward panel, the backward panel, and one with
        histograms for each of `scales`.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        If an argument is not as described.

    See Also
    --------
    expected_signals : The theory alone, in numbers.

    Notes
    -----
    Histograms have their own height each. All have the same horizontal axis, which ends
    where one value in a thousand of the first layers' does; what lies beyond it is
    counted at its ends.

    Examples
    --------
    >>> import fanin
    >>> from matplotlib.figure import Figure
    >>> figure = fanin.plot_initialization(
    ...     depth=10, activation="relu", scales=[1.0, 2.0], width=64, figure=Figure())
    >>> [ax.get_title(loc="left") for ax in figure.axes[:2]]
    ['Forward: activations', 'Backward: gradients']
    """
    depth = check.integer(depth, "depth", minimum=2)
    function = activations.get(activation)
    entries = _entries(scales)
    width = check.integer(width, "width", minimum=1)
    n_samples = check.integer(n_samples, "n_samples", minimum=1)
    rule = initializers.gain(function, criterion="rule")
    seed = int(check.generator(rng).integers(2**63))
    if figure is not None and not hasattr(figure, "subplots"):
        raise TypeError(
            "figure must be a matplotlib Figure or SubFigure; got "
            f"{type(figure).__name__}"
        )
    if figure is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError(
                'plot_initialization needs matplotlib: pip install "fanin[plot]"'
            ) from error
        figure = pyplot.figure(
            figsize=(max(9.0, 2.8 * len(entries)), 7.6), layout="constrained"
        )

    shown = np.unique(np.geomspace(1, depth, N_HISTOGRAMS).round().astype(int)).tolist()
    X = np.random.default_rng([seed, 0]).standard_normal((n_samples, width))
    measured = [
        _measure(
            entry.init,
            function,
            depth,
            width,
            X,
            np.random.default_rng([seed, 1]),
            shown,
        )
        for entry in entries
    ]
    expected = [
        None
        if entry.scale is None
        else expected_signals(
            function, entry.scale, depth, mean_square=float(np.mean(X * X))
        )
        for entry in entries
    ]
    for entry in entries:
        if entry.scale is not None and entry.scale == rule:
            entry.label += ", the rule"
    figure.suptitle(
        f"Var(W) = C / fan_in decides whether a signal survives {depth} layers\n"
        f"{function.name}, {width} units a layer; the rule is C = {rule:g}",
        fontsize=13,
    )
    space = functools.partial(_signal_plot.space, figure)
    grid = figure.add_gridspec(
        3, 1, height_ratios=[1.0, 0.05, 0.95], **space(height=0.4)
    )
    curves = grid[0].subgridspec(1, 2, **space(width=0.25))
    forward, backward = figure.add_subplot(curves[0]), figure.add_subplot(curves[1])
    rows = grid[2].subgridspec(1, len(entries), **space(width=0.2))
    histograms = [figure.add_subplot(rows[i]) for i in range(len(entries))]
    _curves(forward, backward, entries, measured, expected, depth)
    _histograms(histograms, entries, measured, function)
    # A place of its own, where it hides no line.
    below = figure.add_subplot(grid[1])
    below.set_axis_off()
    handles, labels = forward.get_legend_handles_labels()
    below.legend(
        handles, labels, loc="center", ncols=len(labels), frameon=False, fontsize=9
    )
    return figure


@dataclass
class _Entry:
    """One of the scales to compare."""

    init: Any
    scale: float | None
    label: str


def _entries(scales: Any) -> list[_Entry]:
    """Return what `scales` asks for, checked."""
    values = check.sequence(scales, "scales")
    if not 1 <= len(values) <= len(STYLES):
        raise ValueError(
            f"scales must hold from 1 to {len(STYLES)} entries; got {len(values)}"
        )
    found = []
    for i, value in enumerate(values):
        if isinstance(value, str):
            try:
                init = initializers.get(value)
            except ValueError as error:
                text = str(error).removeprefix("initializer")
                raise ValueError(f"scales[{i}]{text}") from None
            found.append(_Entry(init, None, value))
        elif callable(value):
            found.append(_Entry(value, None, _name(value)))
        else:
            scale = check.real(value, f"scales[{i}]", minimum=0.0)
            init = functools.partial(initializers.variance_scaling, scale=scale)
            found.append(_Entry(init, scale, f"C = {scale:g}"))
    return found


def _curves(
    forward: Any,
    backward: Any,
    entries: list[_Entry],
    measured: list[_Measured],
    expected: list[ExpectedSignals | None],
    depth: int,
) -> None:
    layers = np.arange(depth + 1)
    marked = max(1, depth // 10)
    for entry, found, theory, (color, line, marker) in zip(
        entries, measured, expected, STYLES, strict=False
    ):
        style = {
            "color": color,
            "linestyle": line,
            "linewidth": 1.8,
            "marker": marker,
            "markersize": 4.5,
            "label": entry.label,
        }
        forward.plot(layers, positive(found.rms), markevery=marked, **style)
        backward.plot(
            layers[1:],
            positive(found.gradient_norm),
            markevery=marked,
            **style,
        )
        if theory is not None:
            thin = {"color": INK, "linewidth": 0.8, "zorder": 3}
            start = math.sqrt(theory.input_mean_square)
            forward.plot(layers, positive(np.append(start, theory.rms)), "-", **thin)
            backward.plot(layers[1:], positive(theory.gradient_norm), "-", **thin)
    if any(theory is not None for theory in expected):
        forward.plot([], [], "-", color=INK, linewidth=0.8, label="theory, wide layers")
    for ax in (forward, backward):
        ax.set_yscale("log")
        ax.set_xlim(0, depth)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_axisbelow(True)
        ax.grid(color=GRID, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        # A level signal must not look like noise magnified.
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.05), max(high, 20.0))
    forward.set_title("Forward: activations", loc="left")
    forward.set_xlabel("layer (0: the input)")
    forward.set_ylabel("rms of activations")
    backward.set_title("Backward: gradients", loc="left")
    backward.set_xlabel("layer (gradients go from right to left)")
    backward.set_ylabel("norm of dL/dz / last layer's")


def _histograms(
    axes: list[Any],
    entries: list[_Entry],
    measured: list[_Measured],
    function: activations.Activation,
) -> None:
    first = min(measured[0].samples)
    ends = np.array(
        [np.quantile(found.samples[first], [0.001, 0.999]) for found in measured]
    )
    low, high = min(0.0, float(ends[:, 0].min())), max(0.0, float(ends[:, 1].max()))
    if low == high:  # (all is 0)
        low, high = -1.0, 1.0
    edges = np.linspace(low, high, N_BINS + 1)
    for ax, entry, found, (color, _, _) in zip(
        axes, entries, measured, STYLES, strict=False
    ):
        layers = sorted(found.samples)
        for row, layer in enumerate(layers):
            base = -float(row)
            _histogram(ax, found.samples[layer].ravel(), edges, base, color)
        ax.set_yticks([-float(row) for row in range(len(layers))], layers)
        ax.set_ylim(-len(layers) + 0.9, 1.0)
        ax.set_xlim(low, high)
        ax.set_title(entry.label, loc="left", color=color, fontsize=10)
        ax.set_xlabel(f"activation, {function.name}")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylabel("layer")


def _histogram(
    ax: Any,
    values: NDArray[np.float64],
    edges: NDArray[np.float64],
    base: float,
    color: str,
) -> None:
    """Draw one, of height 0.85 above `base`, and in words what it does not show."""
    zero, beyond = values == 0.0, ~((values >= edges[0]) & (values <= edges[-1]))
    notes = []
    rest = values
    # The zeros of ReLU would be all that one sees.
    if zero.mean() > 0.01:
        notes.append(f"{zero.mean():.0%} are 0")
        rest = values[~zero]
    if beyond.mean() > 0.01:
        notes.append(f"{beyond.mean():.0%} beyond")
    inside = np.clip(rest[~np.isnan(rest)], edges[0], edges[-1])
    counts = np.histogram(inside, edges)[0]
    ax.stairs(
        base + 0.85 * counts / max(int(counts.max()), 1),
        edges,
        baseline=base,
        fill=True,
        color=color,
        alpha=0.75,
        edgecolor=INK,
        linewidth=0.4,
    )
    ax.axhline(base, color=GREY, linewidth=0.5)
    if notes:
        ax.text(
            0.96,
            base + 0.86,
            ", ".join(notes),
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="top",
            fontsize=8,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.7},
        )
