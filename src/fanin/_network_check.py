"""The gradient check of a network: by increments, or by whole forward passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _report, _threads
from fanin import _validation as check
from fanin._increments import Case, LossChanges
from fanin._kernels._perturb import central_differences
from fanin._report import GradientReport
from fanin._second_look import EPS64
from fanin._structure import Parameters, flatten_gradient
from fanin.gradcheck import check_compiled

if TYPE_CHECKING:
    from fanin._kernels._plan import Plan
    from fanin.network import Network

Array = NDArray[np.float64]

# Relative errors below which a gradient is correct, and from which it is wrong.
# Backpropagation in float32 rounds each entry to some units of 6e-8 and sums over
# samples and units, which makes 1e-7 to 1e-5 in all; the losses it is held against
# are float64 in either case.
THRESHOLDS = {
    np.dtype(np.float64): (1e-7, 1e-3),
    np.dtype(np.float32): (1e-4, 1e-2),
}

# Steps so much smaller tell whether a kink, or the curvature, lay within the step.
# Increments lose nothing by it.
CLOSER = 2.0**-20
# The most that an estimate of rounding may say, in last digits of the whole gradient.
MOST_DIGITS = 64.0
# Entries that are looked at closer before it is said that a whole array differs.
AGAIN = 64


def check_network(
    net: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    gradient: NDArray[Any] | None,
    eps: float,
    method: str,
    sample_weight: ArrayLike | None,
    training: bool,
    n_threads: int | None,
) -> GradientReport:
    """Check a network's gradient; see `Network.check_gradient`."""
    eps = check.real(eps, "eps", minimum=0.0, maximum=1.0, open_minimum=True)
    method = check.choice(method, ("increments", "direct"), "method")
    array, targets = net._batch(X, y)
    if gradient is None:
        # On one thread, as all passes of a check: the report's bits then do not
        # depend on the number of threads.
        _, gradient = net.loss_and_gradient(
            array, targets, sample_weight=sample_weight, training=training, n_threads=1
        )
    elif np.shape(gradient) != (net.n_parameters,):
        raise ValueError(
            f"gradient must have shape ({net.n_parameters},); got {np.shape(gradient)}"
        )
    threads = _threads.resolve(n_threads)
    weights = net._weights(sample_weight, array.shape[0])
    training = net._training(training, array.shape[0])
    at = _Point(net, array, targets, weights, training)
    base = at.loss()
    named = net.unflatten(at.theta), net.unflatten(np.asarray(gradient))
    thresholds = THRESHOLDS[net.dtype]
    differences = at.direct(threads)
    # Where the loss is not finite there is nothing to add a change to.
    if method == "increments" and math.isfinite(base):
        changes = LossChanges(at.case(), at.theta)
        if changes.exact:
            return check_by_increments(
                changes,
                base,
                *named,
                at.gradient_noise,
                digit=float(np.finfo(net.dtype).eps),
                eps=eps,
                thresholds=thresholds,
                n_threads=threads,
            )
        differences = _rounded(changes, base, threads)
    return check_compiled(
        at.loss,
        *named,
        differences,
        at.gradient_noise,
        eps=eps,
        thresholds=thresholds,
    )


class _Point:
    """The network's loss in float64, at the parameters that are checked."""

    def __init__(
        self,
        net: Network,
        X: NDArray[Any],
        y: NDArray[Any],
        weights: Array | None,
        training: bool,
    ) -> None:
        self.net, self.X, self.y, self.weights = net, X, y, weights
        double = np.dtype(np.float64)
        self.plan = net._plan if net.dtype == double else net._make_plan(double)
        self.theta = net._parameters.astype(double)
        # Without layers to which it matters the quicker pass will do.
        self.training = training and (net._mixes_rows or net._draws)

    def mode(self, weights: Array | None) -> tuple[Any, ...]:
        """Return the arguments of a pass beside its arrays."""
        net = self.net
        return net._state, self.training, net._dropout_key, net._draw, weights

    def loss(self, _: object = None) -> float:
        value, bad = self.plan.evaluate(
            self.theta, self.X, self.y, None, 1, *self.mode(self.weights)
        )
        if bad >= 0:
            raise ValueError(self.net.loss_function.bad_target(self.y, bad))
        return value

    def case(self) -> Case:
        net = self.net
        return Case(
            layers=net._specs(),
            loss=net.loss_function,
            X=self.X,
            y=self.y,
            weights=self.weights,
            state=net._state,
            training=self.training,
            key=net._dropout_key,
            draw=net._draw,
        )

    def direct(self, n_threads: int) -> Callable[..., None]:
        """Return what computes differences by whole forward passes."""

        def differences(
            step: Array, f_plus: Array, f_minus: Array, difference: Array, span: Array
        ) -> None:
            central_differences(
                self.plan,
                self.theta,
                self.X,
                self.y,
                step,
                f_plus,
                f_minus,
                difference,
                span,
                n_threads,
                *self.mode(self.weights),
            )

        return differences

    def gradient_noise(self) -> NDArray[np.float64]:
        """Return how far rounding moves each entry of a gradient by backpropagation.

        An entry is a sum of terms that may cancel, those of a bias before batch
        normalization wholly: it is then what their rounding leaves, of which its own
        size says nothing. Two samples of that, of which the larger counts:

        - How the gradient changes when parameters and samples' weights move by some of
          their last digits, and all that follows is rounded otherwise (stochastic
          arithmetic: Parker, Pierce & Eggert, Comput. Sci. Eng. 2 (2000) 58). A zero
          stays zero, so that no argument that is on a kink leaves it.
        - How far it is from that of the same pass in double, if no farther than the
          last digit of the whole gradient's norm. So far are entries behind a
          saturated tanh or logistic, whose outputs of nearly 1 do not move.

        A wrong derivative is as wrong at other parameters, and in double.
        """
        net, weights = self.net, self.weights
        digit = float(np.finfo(net.dtype).eps)

        def backward(
            plan: Plan, theta: NDArray[Any], weight: NDArray[np.float64] | None
        ) -> NDArray[np.float64]:
            gradient = np.empty_like(theta)
            plan.evaluate(theta, self.X, self.y, gradient, 1, *self.mode(weight))
            return gradient.astype(np.float64)

        base = backward(net._plan, net._parameters, self.weights)
        wide = backward(self.plan, self.theta, self.weights)
        noise = np.minimum(np.abs(base - wide), digit * float(np.linalg.norm(wide)))
        rng = np.random.default_rng(0)
        given = np.ones(self.X.shape[0]) if weights is None else weights

        def moved(array: NDArray[Any]) -> NDArray[Any]:
            return array * (1.0 + 4.0 * digit * rng.uniform(-1.0, 1.0, array.size))

        for _ in range(8):
            theta = moved(net._parameters).astype(net.dtype)
            other = backward(net._plan, theta, moved(given))
            np.maximum(noise, np.abs(other - base), out=noise)
        return np.nan_to_num(noise, posinf=0.0)


def _rounded(changes: LossChanges, base: float, n_threads: int) -> Callable[..., None]:
    """Return what computes differences by changes some of which were rounded."""

    def differences(
        step: Array, f_plus: Array, f_minus: Array, difference: Array, span: Array
    ) -> None:
        plus, minus, span[...], _ = changes.run(step, n_threads)
        f_plus[...], f_minus[...] = base + plus, base + minus
        difference[...] = plus - minus

    return differences


def check_by_increments(
    changes: LossChanges,
    base: float,
    parameters: Any,
    gradient: Any,
    gradient_noise: Callable[[], Array],
    *,
    digit: float,
    eps: float,
    thresholds: tuple[float, float],
    n_threads: int,
) -> GradientReport:
    """Judge a gradient by changes of the loss that know all their digits.

    `base` is the loss itself, `digit` the epsilon of the arithmetic that the gradient
    comes from, and ``gradient_noise()`` how far rounding was seen to move it.
    """
    start = time.perf_counter()
    check = _Check(changes, base, parameters, gradient, eps, thresholds, n_threads)
    report = check.run(digit, gradient_noise)
    report.elapsed = time.perf_counter() - start
    return report


class _Check:
    def __init__(
        self,
        changes: LossChanges,
        base: float,
        parameters: Any,
        gradient: Any,
        eps: float,
        thresholds: tuple[float, float],
        n_threads: int,
    ) -> None:
        self.changes, self.base, self.eps = changes, base, eps
        self.thresholds, self.n_threads = thresholds, n_threads
        self.parameters = Parameters(parameters)
        self.analytic, _ = flatten_gradient(gradient, self.parameters, "gradient")
        self.step = eps * np.maximum(1.0, np.abs(self.parameters.vector))
        self.status = np.zeros(self.parameters.size, np.int8)
        self.notes: list[str] = []

    def run(self, digit: float, gradient_noise: Callable[[], Array]) -> GradientReport:
        self.plus, self.minus, self.span, crossed = self.changes.run(
            self.step, self.n_threads
        )
        self.n_evaluations = 2 * self.parameters.size
        if crossed.any():
            self._leave_kinks(crossed)
        with np.errstate(invalid="ignore", over="ignore"):
            self.numeric = (self.plus - self.minus) / self.span
            # At best an entry is known to its last digit. What rounding leaves of
            # terms that cancel is first measured, then estimated from their sizes.
            self.error = (digit + EPS64) * np.abs(self.analytic)
        report = self._report()
        if not report.ok:
            self.error = self.error + gradient_noise()
            report = self._report()
        if report.verdict in ("wrong", "suspicious"):
            # (The estimate knows no correlations: behind normalizations of two or
            # three numbers it is far too large.)
            estimate = (digit + EPS64) * np.minimum(
                self.changes.rounding(), MOST_DIGITS * _report.norm(self.analytic)
            )
            self.error = np.maximum(self.error, estimate)
            report = self._report()
        if report.verdict in ("wrong", "suspicious"):
            self._look_closer(report)
            report = self._report()
        return report

    def _report(self) -> GradientReport:
        blocks = self.parameters.blocks
        return GradientReport._from_vectors(
            self.analytic,
            self.numeric,
            [(block.name, block.where, block.shape) for block in blocks],
            eps=self.eps,
            thresholds=self.thresholds,
            step=self.span / 2,
            f_plus=self.base + self.plus,
            f_minus=self.base + self.minus,
            error_estimate=self.error,
            status=self.status,
            template=self.parameters.template,
            notes=self.notes,
            n_evaluations=self.n_evaluations,
        )

    def _closer(self, selected: NDArray[np.bool_]) -> tuple[Any, ...]:
        self.n_evaluations += 2 * int(selected.sum())
        return self.changes.run(CLOSER * self.step, self.n_threads, selected)

    def _leave_kinks(self, crossed: NDArray[np.bool_]) -> None:
        """Take the entries that passed a kink with a step that does not.

        Those that still pass one lie on it: they are left out.
        """
        plus, minus, span, still = self._closer(crossed)
        for mine, closer in (
            (self.plus, plus),
            (self.minus, minus),
            (self.span, span),
        ):
            mine[crossed] = closer[crossed]
        self.status[still] = _report.KINK
        moved = int((crossed & ~still).sum())
        if moved:
            self.notes.append(
                f"kink: {moved} of {crossed.size} entries passed a kink within the "
                "step, and were taken with a smaller one that does not"
            )

    def _look_closer(self, report: GradientReport) -> None:
        """Clear the entries that differ by the step alone."""
        flagged = (report._excess > 0) & (self.status == _report.PLAIN)
        if self._clear(self._worst(report, flagged)):
            self._clear(flagged & (self.status == _report.PLAIN))

    def _worst(
        self, report: GradientReport, flagged: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return the most wrong entries of each array."""
        found = np.zeros_like(flagged)
        for block in self.parameters.blocks:
            here = np.flatnonzero(flagged[block.where]) + block.where.start
            found[here[np.argsort(-report._ratio[here])[:AGAIN]]] = True
        return found

    def _clear(self, selected: NDArray[np.bool_]) -> bool:
        """Clear entries where a smaller step agrees; return whether there are any."""
        if not selected.any():
            return False
        plus, minus, span, _ = self._closer(selected)
        with np.errstate(invalid="ignore", divide="ignore"):
            numeric = (plus - minus) / span
        a = self.analytic
        slack = _report.ALLOWANCE * self.error + self.thresholds[0] * (
            np.abs(numeric) + np.abs(a)
        )
        agrees = selected & (np.abs(numeric - a) <= slack)
        self.status[agrees] = _report.AGREES
        return bool(agrees.any())
