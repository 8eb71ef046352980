"""A network's loss under changes of single parameters, for its gradient check.

The forward pass of a batch, in float64, and from it the tables that
`_kernels._increments` needs to carry increments from every parameter to the loss. No
line of the backward pass is used. Beside it, how well rounding lets the two gradients
agree: a second, statistical propagation, see `rounding`.

Products are fanin's: the threads of NumPy's BLAS would go on spinning, on the cores
that the increments need, when theirs are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import losses
from fanin._kernels._activations import apply as apply_activation
from fanin._kernels._increments import Increments
from fanin._kernels._losses import forward as loss_forward
from fanin._kernels._operations import dropout_mask
from fanin.functional import dense

Array = NDArray[np.float64]
# Is told how many entries more are done; returns True to stop.
Tell = Callable[[int], bool]

# Rows of a batch that are taken at a time, where no layer mixes them: their tables
# and columns stay in a core's cache.
CHUNK_ROWS = 64
# Seconds of work between two looks at the clock, about.
SLICE = 0.1
# An argument that is this near to a kink, in units of its rounding, is on it.
NEAR = 16.0 * float(np.finfo(np.float64).eps)
# One that is so near is on it, whatever its rounding: no step is small enough.
NEAREST = 1e-90
# For the slope of an activation, which the estimate of rounding needs roughly.
NUDGE = 1e-5


@dataclass(frozen=True)
class Case:
    """What the loss is a function of, beside the parameters: one call of it."""

    layers: Sequence[dict[str, Any]]  # as the plan is made of
    # Where their arrays lie in the parameters and in the state: "dense0.weight", ...
    arrays: Mapping[str, slice]
    loss: losses.Loss
    X: NDArray[Any]
    y: NDArray[Any]
    weights: Array | None
    state: Array
    training: bool
    key: tuple[int, int]
    draw: int


@dataclass
class Step:
    """One stage of the way to the loss, at the point."""

    kind: str
    A: Array  # its input, or xhat of a normalization
    out: Array
    n_in: int
    W: Array | None = None  # weight or gamma
    weight: int = -1  # offsets in theta
    bias: int = -1
    function: tuple[Any, float] = ("identity", 0.0)
    factor: Array | None = None  # of dropout
    rstd: Array | None = None
    stage: int = -1  # the kernel's
    l2: float = 0.0


@dataclass
class Stretch:
    """The stages for some rows of the batch."""

    steps: list[Step]
    z: Array  # the network's output
    y: NDArray[Any]
    weight: Array  # of each row in the mean loss
    kernel: Increments = field(init=False)


# Changes up, changes down, distances of the points, kinks that were passed.
Changes = tuple[Array, Array, Array, NDArray[np.bool_]]


def steps(step: Array | float, theta: Array, where: NDArray[np.intp]) -> Array:
    """Return the steps of some entries, as the kernel takes them."""
    if isinstance(step, float):
        return step * np.maximum(1.0, np.abs(theta[where]))
    return step[where]


class LossChanges:
    """The changes of the loss under changes of single parameters.

    Attributes
    ----------
    exact : bool
        Whether every function on the way has a formula, so that nothing cancels.
    """

    def __init__(self, case: Case, theta: Array) -> None:
        self.case, self.theta = case, theta
        specs = case.layers
        self.exact = isinstance(case.loss._kernel, str) and all(
            isinstance(spec.get("activation", ""), str) for spec in specs
        )
        rows = case.X.shape[0]
        mixes = case.training and any(spec["kind"] == "batch_norm" for spec in specs)
        self.masks = {
            i: dropout_mask(
                case.key, case.draw, i, spec["rate"], (rows, self._width(i))
            )
            for i, spec in enumerate(specs)
            if spec["kind"] == "dropout" and case.training
        }
        weights = np.ones(rows) if case.weights is None else case.weights
        share = weights / weights.sum()
        size = rows if mixes else CHUNK_ROWS
        self.stretches = []
        for first in range(0, rows, size):
            here = slice(first, min(first + size, rows))
            kept = np.flatnonzero(share[here])
            if mixes:  # a row of weight 0 counts in the batch's statistics
                kept = np.arange(rows)
            if kept.size:
                self.stretches.append(self._stretch(first + kept, share))
        for stretch in self.stretches:
            stretch.kernel = self._kernel(stretch)

    def _width(self, number: int) -> int:
        """Return the number of outputs of a layer."""
        width = int(self.case.X.shape[1])
        for spec in self.case.layers[: number + 1]:
            width = int(spec.get("n_out", width))
        return width

    # -- the forward pass ------------------------------------------------------------

    def _stretch(self, rows: NDArray[np.intp], share: Array) -> Stretch:
        case, theta = self.case, self.theta
        A = np.ascontiguousarray(case.X[rows], np.float64)
        steps: list[Step] = []
        for number, spec in enumerate(case.layers):
            kind = spec["kind"]
            name = f"{kind}{number}"
            step = Step(kind, A, A, A.shape[1])
            if kind == "dense":
                where = case.arrays[f"{name}.weight"]
                step.W = theta[where].reshape(step.n_in, spec["n_out"])
                step.weight, step.l2 = where.start, spec["l2"]
                step.out = dense(A, step.W)
                if spec["bias"]:
                    where = case.arrays[f"{name}.bias"]
                    step.bias = where.start
                    step.out += theta[where]
            elif kind == "dropout":
                if number in self.masks:
                    step.factor = np.ascontiguousarray(self.masks[number][rows])
                    step.out = A * step.factor
            elif kind != "activation":
                self._normalize(step, spec, name)
            if kind != "activation":
                steps.append(step)
            A = step.out
            if spec.get("activation", "identity") != "identity":
                function = (spec["activation"], spec["parameter"])
                out = _apply(A, *function)
                steps.append(Step("activation", A, out, A.shape[1]))
                steps[-1].function = function
                A = out
        return Stretch(steps, A, case.y[rows], share[rows])

    def _normalize(self, step: Step, spec: dict[str, Any], name: str) -> None:
        """Fill in a normalization's step."""
        case, x = self.case, step.A
        axis = 0 if step.kind == "batch_norm" else 1
        if step.kind == "batch_norm" and not case.training:
            step.kind = "fixed"
            mean = case.state[case.arrays[f"{name}.running_mean"]][None]
            var = case.state[case.arrays[f"{name}.running_var"]][None]
        else:
            mean = x.mean(axis, keepdims=True)
            if step.kind == "rms_norm":
                mean = np.zeros_like(mean)
            var = ((x - mean) ** 2).mean(axis, keepdims=True)
        rstd = 1.0 / np.sqrt(var + spec["eps"])
        step.rstd = rstd.ravel()
        step.A = np.ascontiguousarray((x - mean) * rstd)
        step.out = step.A
        if spec["affine"]:
            where = case.arrays[f"{name}.gamma"]
            step.W, step.weight = self.theta[where], where.start
            step.out = step.A * step.W
            if spec["kind"] != "rms_norm":
                where = case.arrays[f"{name}.beta"]
                step.bias = where.start
                step.out = step.out + self.theta[where]

    # -- the kernel's tables -----------------------------------------------------------

    def _kernel(self, stretch: Stretch) -> Increments:
        kernel = Increments(stretch.z.shape[0])
        for step in stretch.steps:
            if step.kind == "dense":
                assert step.W is not None
                step.stage = kernel.linear(step.W, step.A, step.weight, step.bias)
            elif step.kind == "activation":
                kernel.activation(step.A, step.out, *step.function)
            elif step.factor is not None:
                kernel.scale(step.factor)
            elif step.rstd is not None:
                kind = step.kind.removesuffix("_norm")
                step.stage = kernel.norm(
                    kind, step.A, step.rstd, step.W, step.weight, step.bias
                )
        self._end(kernel, stretch)
        return kernel

    def _end(self, kernel: Increments, stretch: Stretch) -> None:
        loss, z, weight = self.case.loss, stretch.z, stretch.weight
        m, n = z.shape
        ones, first = np.ones(m), np.zeros(m, np.intp)
        if not isinstance(loss._kernel, str):
            y = np.ascontiguousarray(stretch.y, np.float64)
            at_z = np.array(
                [
                    loss_forward(
                        z[i : i + 1], y[i : i + 1], loss._kernel, gradient=False
                    )[0]
                    for i in range(m)
                ]
            )
            kernel.custom_loss(loss._kernel, z, y, at_z, weight)
            return
        if loss.name == "softmax_cross_entropy":
            y = self._probabilities(stretch)
            p = _softmax(z)
            best = p.argmax(axis=1)
            rows = np.arange(m)
            others, rest = p.copy(), y.copy()
            others[rows, best] = rest[rows, best] = 0.0
            # A change of the most probable class alone is one of all others.
            columns = [p.copy(), y.copy(), np.ones_like(p)]
            columns[0][rows, best] = others.sum(axis=1)
            columns[1][rows, best] = rest.sum(axis=1)
            columns[2][rows, best] = -1.0
            kernel.loss(
                "softmax",
                _below(others, rest, rest),
                "logit",
                _below(*columns),
                y.sum(axis=1),
                best.astype(np.intp),
                weight,
                0.0,
            )
            return
        weight = weight / n
        y = np.asarray(stretch.y, np.float64)
        r = z - y
        parameter = loss.parameter
        if loss.name == "squared_error":
            kind, tables = "squared", (r, r, r)
        elif loss.name == "huber":
            kind, tables = "huber", (r, r, r)
        elif loss.name == "poisson":
            rate = np.exp(z)
            kind, tables = "poisson", (rate, rate - y, r)
        elif loss.name == "binary_cross_entropy":
            sign = np.where(z > 0, -1.0, 1.0)
            kind = "logit"
            e = np.exp(-np.abs(z))
            tables = (e / (1 + e), np.where(z > 0, 1 - y, y), sign)
        else:
            up, down = np.array(1.0), np.array(-1.0)
            if loss.name == "quantile":
                q = np.array(
                    loss.parameter if loss.quantiles is None else loss.quantiles
                )
                up, down = 1.0 - q, -q
            kind = "slopes"
            tables = (r, np.broadcast_to(up, r.shape), np.broadcast_to(down, r.shape))
        stacked = _below(*tables)
        kernel.loss(kind, stacked, kind, stacked, ones, first, weight, parameter)

    def _probabilities(self, stretch: Stretch) -> Array:
        """Targets of a softmax as a row of probabilities, smoothed."""
        y, n = stretch.y, stretch.z.shape[1]
        if y.ndim == 1:
            dense = np.zeros(stretch.z.shape)
            dense[np.arange(y.size), y.astype(np.intp)] = 1.0
        else:
            dense = np.array(y, np.float64)
        smoothing = self.case.loss.parameter
        smoothed: Array = (1.0 - smoothing) * dense + smoothing / n
        return smoothed

    # -- all parameters ----------------------------------------------------------------

    def _tasks(
        self, selected: NDArray[np.intp] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
        """Return the kernels' tasks and, of selected entries, the rows' numbers."""
        chosen = None
        if selected is not None:
            chosen = np.zeros(self.theta.size, np.bool_)
            chosen[selected] = True
        tasks, rows = [np.empty((0, 4), np.intp)], [np.empty(0, np.intp)]
        before = 0
        for step in self.stretches[0].steps:
            if step.weight < 0:
                continue
            n = step.out.shape[1]
            n_weights = step.n_in if step.kind == "dense" else 1
            counts = np.full(n, n_weights + (step.bias >= 0))
            start = np.zeros(n, np.intp)  # of each column's rows
            if chosen is not None:
                parts = [chosen[step.weight : step.weight + n_weights * n]]
                if step.bias >= 0:
                    parts.append(chosen[step.bias : step.bias + n])
                table = np.concatenate(parts).reshape(-1, n).T
                counts = table.sum(axis=1)
                rows.append(np.nonzero(table)[1])
                start = before + np.cumsum(counts) - counts
                before += rows[-1].size
            size = self.stretches[0].kernel.task_size(step.stage)
            pieces = -(-counts // size)
            column = np.repeat(np.arange(n), pieces)
            number = np.arange(column.size) - (np.cumsum(pieces) - pieces)[column]
            first = number * size
            last = np.minimum(first + size, counts[column])
            stage = np.full(column.size, step.stage)
            ranges = [stage, column, start[column] + first, start[column] + last]
            tasks.append(np.stack(ranges, axis=1))
        numbers = None if selected is None else np.concatenate(rows)
        return np.concatenate(tasks), numbers

    def run(
        self,
        step: Array | float,
        n_threads: int,
        selected: NDArray[np.intp] | None = None,
        progress: Tell | None = None,
        representable: bool = True,
        into: Changes | None = None,
    ) -> Changes:
        """Return the changes of the loss under +step and -step.

        A number for a step is multiplied by max(1, |theta|). Of every entry, or those
        that are `selected`: changes up, changes down, the distance of the two points
        (0 for entries left out), and whether a kink was passed. The points are
        numbers of the machine, unless not `representable`: a change knows no point, and
        its step may be smaller than their spacing. `into` is what was returned for
        other entries, to be filled in.
        """
        n = self.theta.size
        theta = self.theta if representable else np.zeros(n)
        if into is None:
            into = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, np.bool_)
        plus, minus, span, crossed = into
        tasks, rows = self._tasks(selected)
        first, n_tasks, some = 0, len(tasks), 16 * n_threads
        if progress is None:
            some = n_tasks
        while first < n_tasks:
            last = min(first + some, n_tasks)
            start = time.perf_counter()
            for number, stretch in enumerate(self.stretches):
                stretch.kernel.run(
                    tasks,
                    rows,
                    first,
                    last,
                    theta,
                    step,
                    plus,
                    minus,
                    span,
                    crossed.view(np.uint8),
                    number > 0,
                    n_threads,
                )
            seconds = max(time.perf_counter() - start, 1e-6)
            done, first = tasks[first:last], last
            if progress is not None and progress(int((done[:, 3] - done[:, 2]).sum())):
                break
            some = max(n_threads, int(some * min(4.0, SLICE / seconds)))
        for at in self.stretches[0].steps:
            if at.l2 != 0.0:
                self._penalize(at, theta, step, into, selected)
        return into

    def _penalize(
        self,
        at: Step,
        origin: Array,
        step: Array | float,
        into: Changes,
        selected: NDArray[np.intp] | None,
    ) -> None:
        """Add the changes of l2 / 2 |W|^2; steps are those of numbers at `origin`."""
        assert at.W is not None
        plus, minus, span, _ = into
        where = np.arange(at.weight, at.weight + at.W.size)
        if selected is not None:
            where = np.intersect1d(where, selected, assume_unique=True)
        where = where[span[where] > 0.0]  # (the others are left out)
        theta = self.theta[where]
        size = steps(step, self.theta, where)
        here = origin[where]
        for changes, sign in ((plus, 1.0), (minus, -1.0)):
            there = here + sign * size
            # (Of a step below the spacing the kernel makes the spacing.)
            there = np.where(there == here, np.nextafter(here, sign * np.inf), there)
            h = there - here
            changes[where] += at.l2 * h * (theta + 0.5 * h)

    # -- how well two right gradients can agree ----------------------------------------

    def rounding(self) -> Array:
        """Return the typical rounding error of each entry, in units of epsilon.

        Of a gradient by any method that carries changes or derivatives through these
        layers with one rounding an operation. Errors of single roundings are taken
        as independent, so that their mean squares add: the squares of the derivatives
        (G), of their errors (E) and of those of the forward values (F) go through
        the layers, by the squares of the weights. The sizes of an entry's terms
        count then, of which the entry itself, where they cancel, says nothing.
        """
        squares = np.zeros(self.theta.size)
        for stretch in self.stretches:
            self._add_rounding(squares, stretch)
        for step in self.stretches[0].steps:
            if step.l2 != 0.0:
                assert step.W is not None
                where = slice(step.weight, step.weight + step.W.size)
                squares[where] += (step.l2 * self.theta[where]) ** 2
        return np.sqrt(squares)

    def _add_rounding(self, squares: Array, stretch: Stretch) -> None:
        values, slopes = _forward_rounding(stretch)
        G, E = self._loss_terms(stretch, values[-1])
        for step, F, (slope, curvature) in zip(
            reversed(stretch.steps), values[-2::-1], reversed(slopes), strict=True
        ):
            if step.weight >= 0:
                if step.kind == "dense":
                    terms = (dense((step.A**2).T, E + G) + dense(F.T, G)).ravel()
                else:
                    assert step.rstd is not None
                    columns = step.kind in ("batch_norm", "fixed")
                    rstd = step.rstd if columns else step.rstd[:, None]
                    terms = (step.A**2 * (E + G) + rstd**2 * F * G).sum(axis=0)
                squares[step.weight : step.weight + terms.size] += terms
            if step.bias >= 0:
                squares[step.bias : step.bias + step.out.shape[1]] += (E + G).sum(
                    axis=0
                )
            if step.kind == "dense":
                assert step.W is not None
                squared = (step.W**2).T
                E, G = dense(E + G, squared), dense(G, squared)
            elif step.kind == "activation":
                # The slope of a ReLU is exact, one that is 1 - a^2 is known to an
                # epsilon of 1, and where a unit is saturated that is all there is.
                own = 1.0
                if step.function[0] in ("relu", "leaky_relu"):
                    own = slope**2
                E = E * slope**2 + G * (own + curvature**2 * F)
                G = G * slope**2
            elif step.factor is not None:
                E, G = E * step.factor**2, G * step.factor**2
            elif step.rstd is not None:
                E, G = _through_norm(step, E + 4.0 * G, F), _through_norm(step, G)

    def _loss_terms(self, stretch: Stretch, F: Array) -> tuple[Array, Array]:
        """Return the squares of dl/dz and of its error, each row with its weight."""
        loss, z = self.case.loss, stretch.z
        if not isinstance(loss._kernel, str):
            # A slope of no more than the loss's own size is all that is known.
            slope = second = size = np.ones_like(z)
        elif loss.name == "softmax_cross_entropy":
            y = self._probabilities(stretch)
            p = _softmax(z)
            slope, second, size = p - y, p, p + y
        else:
            y = np.asarray(stretch.y, np.float64)
            r = z - y
            if loss.name == "squared_error":
                slope, second, size = 2.0 * r, np.full_like(z, 2.0), 2.0 * np.abs(r)
            elif loss.name == "huber":
                slope = np.clip(r, -loss.parameter, loss.parameter)
                second, size = (slope == r) * 1.0, np.abs(slope)
            elif loss.name == "poisson":
                rate = np.exp(z)
                slope, second, size = rate - y, rate, rate + y
            elif loss.name == "binary_cross_entropy":
                p = 0.5 + 0.5 * np.tanh(0.5 * z)
                slope, second, size = p - y, p * (1.0 - p), p + y
            else:
                slope = size = np.ones_like(z)
                second = np.zeros_like(z)
            slope, second, size = (v / z.shape[1] for v in (slope, second, size))
        w = stretch.weight[:, None]
        return (w * slope) ** 2, (w * size) ** 2 + (w * second) ** 2 * F

    # -- what kinks leave open ---------------------------------------------------------

    def kink_reach(self, beside: bool = False) -> Array:
        """Return how far apart two gradients can be that take kinks differently.

        A sample of which some argument is on a kink, as far as rounding tells, has no
        derivative: a backward pass takes one by convention, of each function that
        meets there. Of such samples the sizes of all terms of an entry are added up,
        with the steeper slope of both sides; others count for nothing. Two gradients
        differ by that at most, by twice that if slopes on both sides of a kink have
        opposite signs. With `beside` only of arguments that are not exactly on a
        kink: what does not move one that is, does not see that kink.
        """
        reach = np.zeros(self.theta.size)
        most = 1.0
        for stretch in self.stretches:
            values, _ = _forward_rounding(stretch)
            sides = [_sides(step) for step in stretch.steps]
            open_ = np.zeros(stretch.z.shape[0], np.bool_)
            for step, F, slope in zip(stretch.steps, values[:-1], sides, strict=True):
                if slope is not None:
                    near = np.abs(step.A) <= np.maximum(NEAR * np.sqrt(F), NEAREST)
                    if beside:
                        near &= step.A != 0.0
                    kink = near & (slope[0] != slope[1])
                    open_ |= kink.any(axis=1)
                    if (kink & (slope[0] * slope[1] < 0.0)).any():
                        most = 2.0
            if self.case.loss.name in ("absolute_error", "quantile"):
                r = stretch.z - stretch.y.reshape(stretch.z.shape)
                near = np.abs(r) <= np.maximum(NEAR * np.sqrt(values[-1]), NEAREST)
                if beside:
                    near &= r != 0.0
                open_ |= near.any(axis=1)
                if near.any():
                    most = 2.0
            if any(step.kind == "batch_norm" for step in stretch.steps):
                open_[:] = open_.any()
            B = np.sqrt(self._loss_terms(stretch, np.zeros_like(stretch.z))[0])
            self._add_reach(reach, stretch, B * open_[:, None], sides)
        return most * reach

    def _add_reach(
        self,
        reach: Array,
        stretch: Stretch,
        B: Array,
        sides: list[tuple[Array, Array] | None],
    ) -> None:
        for step, slope in zip(reversed(stretch.steps), reversed(sides), strict=True):
            if step.weight >= 0:
                terms = np.abs(step.A)
                if step.kind == "dense":
                    terms = dense(terms.T, B).ravel()
                else:
                    terms = (terms * B).sum(axis=0)
                reach[step.weight : step.weight + terms.size] += terms
            if step.bias >= 0:
                reach[step.bias : step.bias + B.shape[1]] += B.sum(axis=0)
            if step.kind == "dense":
                assert step.W is not None
                B = dense(B, np.abs(step.W).T)
            elif slope is not None:
                B = B * np.maximum(np.abs(slope[0]), np.abs(slope[1]))
            elif step.factor is not None:
                B = B * step.factor
            elif step.rstd is not None:
                # (The root of three squares is at most their roots' sum.)
                B = 2.0 * np.sqrt(_through_norm(step, B**2))


def _forward_rounding(stretch: Stretch) -> tuple[list[Array], list[tuple[Any, Any]]]:
    """Return the squares of the rounding of each step's input, then of the output.

    In units of epsilon; and the slope and curvature of each activation.
    """
    values = [stretch.steps[0].A ** 2] if stretch.steps else [stretch.z**2]
    slopes: list[tuple[Any, Any]] = []
    for step in stretch.steps:
        F, out = values[-1], step.out**2
        slope = curvature = None
        if step.kind == "dense":
            assert step.W is not None
            F = dense(F + step.A**2, step.W**2)
        elif step.kind == "activation":
            slope, curvature = _slopes(step)
            F = F * slope**2
        elif step.factor is not None:
            F = F * step.factor**2
        elif step.rstd is not None:
            F = _through_norm(step, F)
        slopes.append((slope, curvature))
        values.append(F + out)
    return values, slopes


def _softmax(z: Array) -> Array:
    p: Array = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def _one_sided(step: Step) -> tuple[Array, Array]:
    up, down = (_apply(step.A + d, *step.function) for d in (NUDGE, -NUDGE))
    return (step.out - down) / NUDGE, (up - step.out) / NUDGE


def _sides(step: Step) -> tuple[Array, Array] | None:
    """Return an activation's slopes to the left and to the right."""
    if step.kind != "activation":
        return None
    left, right = _one_sided(step)
    # (Of a smooth function they differ by the curvature times the distance.)
    return left, np.where(np.abs(right - left) < 1e-3, left, right)


def _through_norm(step: Step, squares: Array, F: Array | None = None) -> Array:
    """Take squares of changes, or of derivatives, through a normalization."""
    rstd, xhat = step.rstd, step.A
    assert rstd is not None
    gamma = 1.0 if step.W is None else step.W**2
    if step.kind == "fixed":
        return squares * rstd**2 * gamma
    axis = 0 if step.kind == "batch_norm" else 1
    scale = rstd[None, :] ** 2 if axis == 0 else rstd[:, None] ** 2
    squares = squares * gamma
    moved = xhat**2 if F is None else xhat**2 + scale * F
    both = squares.mean(axis, keepdims=True)
    both = both + moved * (squares * moved).mean(axis, keepdims=True)
    result: Array = scale * (squares + both)
    return result


def _slopes(step: Step) -> tuple[Array, Array]:
    """Return an activation's slope and curvature, roughly."""
    left, right = _one_sided(step)
    slope = 0.5 * (left + right)
    curvature = (right - left) / NUDGE
    # Of a kink that is nearby there is none.
    return slope, np.where(np.abs(curvature) * NUDGE < 0.01, curvature, 0.0)


def _apply(z: Array, name: Any, parameter: float) -> Array:
    out = np.empty_like(z)
    apply_activation(out, z, name, parameter, False, 1)
    return out


def _below(*tables: Array) -> Array:
    return np.ascontiguousarray(np.concatenate(tables))
