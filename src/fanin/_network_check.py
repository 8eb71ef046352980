"""The gradient check of a network: by increments, or by whole forward passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _report, _taylor, _threads
from fanin import _validation as check
from fanin._evaluate import Differences, progress_bar
from fanin._increments import Case, LossChanges, Tell
from fanin._kernels._increments import quotients
from fanin._kernels._perturb import central_differences
from fanin._report import GradientReport
from fanin._second_look import EPS64
from fanin._selection import FIRST_ROUND, Entries, Selection
from fanin._structure import Parameters, flatten_gradient
from fanin.gradcheck import check_compiled, check_thresholds

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
    indices: Any,
    sample_weight: ArrayLike | None,
    training: bool,
    n_threads: int | None,
    rng: Any,
    time_limit: float | None,
    progress: bool,
    thresholds: tuple[float, float] | None,
) -> GradientReport:
    """Check a network's gradient; see `Network.check_gradient`."""
    start = time.perf_counter()
    eps = check.real(eps, "eps", minimum=0.0, maximum=1.0, open_minimum=True)
    method = check.choice(method, ("increments", "direct"), "method")
    if time_limit is not None:
        time_limit = check.real(time_limit, "time_limit", minimum=0, open_minimum=True)
    if thresholds is None:
        thresholds = THRESHOLDS[net.dtype]
    thresholds = check_thresholds(thresholds)
    generator = check.generator(rng)
    array, targets = net._batch(X, y)
    own = gradient is None
    if gradient is None:
        # On one thread, as all passes of a check: the report's bits then do not
        # depend on the number of threads.
        loss, gradient = net.loss_and_gradient(
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
    base = loss if own and net.dtype == np.float64 else at.loss()
    named = net.unflatten(at.theta), net.unflatten(np.asarray(gradient))
    parameters = Parameters(named[0], vector=at.theta)
    work = Work(
        Selection(indices, parameters, generator),
        None if time_limit is None else start + time_limit,
        progress,
    )
    # Where the loss is not finite there is nothing to add a change to.
    changes = LossChanges(at.case(), at.theta) if math.isfinite(base) else None
    status = np.zeros(parameters.size, np.int8)
    if changes is not None and changes.exact and method == "increments":
        vector = gradient
        if not own:
            vector, _ = flatten_gradient(named[1], parameters, "gradient")
        one = IncrementsCheck(
            changes,
            at,
            parameters,
            np.asarray(vector, np.float64),
            eps,
            thresholds,
            threads,
        )
        report = one.run(work, float(np.finfo(net.dtype).eps), base)
    else:
        report = check_compiled(
            at.loss,
            *named,
            at.direct(work, threads, changes, status)
            if changes is None or method == "direct"
            else _rounded(changes, base, work, threads),
            at.gradient_noise,
            eps=eps,
            thresholds=thresholds,
            status=status,
        )
    if not report.ok:
        from fanin._network_hypotheses import NetworkHypotheses

        report._explain(
            at.theta,
            hypotheses=NetworkHypotheses(
                net, array, targets, sample_weight=weights, training=training
            ),
        )
    report.elapsed = time.perf_counter() - start
    return report


def is_known(span: Array) -> NDArray[np.bool_]:
    """Return where two points are known to be apart: NaN and 0 stand for none."""
    return span > 0.0


class Work:
    """Which entries are to be checked, until when, and who is told."""

    def __init__(
        self, selection: Selection, deadline: float | None, progress: bool
    ) -> None:
        self.selection, self.deadline = selection, deadline
        self.progress = progress
        self.timed_out = False

    def do(
        self, compute: Callable[[Entries | None, Tell | None], None], span: Array
    ) -> NDArray[np.bool_]:
        """Let `compute` take the entries; return which it has given a `span`.

        ``compute(entries, tell)``, entries None for all, calls ``tell(n)`` now and
        then, if that is not None, and ends when it returns True.
        """
        entries = self.selection.entries
        if self.deadline is None and not self.progress:
            compute(entries, None)
            return is_known(span)
        total = span.size if entries is None else entries.size
        bar = progress_bar(total) if self.progress else None

        def tell(n: int) -> bool:
            if bar is not None:
                bar.update(n)
            late = self.deadline is not None and time.perf_counter() > self.deadline
            # (The first round, of all arrays, is taken in any case.)
            self.timed_out = late and rounds > 0
            return self.timed_out

        rounds = 0
        try:
            for some in [entries] if self.deadline is None else self._rounds():
                compute(some, tell)
                rounds += 1
                if tell(0):
                    break
        finally:
            if bar is not None:
                bar.close()
        done = is_known(span)
        self.timed_out = self.timed_out and int(done.sum()) < total
        return done

    def _rounds(self) -> Iterator[Entries]:
        """Yield the entries in a random order: first some of all arrays, then more."""
        chosen, rng = self.selection, self.selection.rng
        left = chosen.entries
        size = max(FIRST_ROUND, len(chosen.sizes))
        if left is None:
            left = np.arange(int(chosen.sizes.sum()))
        some = left
        if left.size > size:
            some = rng.choice(left, size, replace=False)
            if chosen.entries is None:
                some = chosen.sample(size)
        left = rng.permutation(np.setdiff1d(left, some, assume_unique=True))
        while some.size:
            yield np.sort(some)
            size *= 4
            some, left = left[:size], left[size:]

    def left_out(self, checked: NDArray[np.bool_]) -> bool:
        """Whether an array that was to be checked was not reached at all."""
        chosen = self.selection
        here = [np.count_nonzero(checked[b.where]) for b in chosen.parameters.blocks]
        return bool(chosen.missed(np.array(here)))

    def notes(self, checked: NDArray[np.bool_]) -> list[str]:
        """Say what is not known of entries that were left out."""
        return self.selection.notes(checked, self.timed_out)


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

    def mode(
        self, weights: Array | None
    ) -> tuple[Array, bool, tuple[int, int], int, Array | None]:
        """Return the arguments of a pass beside its arrays."""
        net = self.net
        return net._state, self.training, net._dropout_key, net._draw, weights

    def loss(self, _: object = None) -> float:
        return self.loss_at(self.theta)

    def loss_at(self, theta: Array) -> float:
        value, bad = self.plan.evaluate(
            theta, self.X, self.y, None, 1, *self.mode(self.weights)
        )
        if bad >= 0:
            raise ValueError(self.net.loss_function.bad_target(self.y, bad))
        return value

    def case(self) -> Case:
        net = self.net
        return Case(
            layers=net._specs(),
            arrays={k: at for k, at, _ in (*net._blocks, *net._state_blocks)},
            loss=net.loss_function,
            X=self.X,
            y=self.y,
            weights=self.weights,
            state=net._state,
            training=self.training,
            key=net._dropout_key,
            draw=net._draw,
        )

    def direct(
        self,
        work: Work,
        n_threads: int,
        changes: LossChanges | None,
        status: NDArray[np.int8],
    ) -> Differences:
        """Return what computes differences by whole forward passes.

        Changes know which entries passed a kink: they are left out.
        """

        def differences(
            step: Array, f_plus: Array, f_minus: Array, difference: Array, span: Array
        ) -> tuple[NDArray[np.bool_], list[str], bool]:
            def compute(entries: Entries | None, tell: Tell | None) -> None:
                if entries is None:
                    entries = np.arange(step.size)
                piece = entries.size if tell is None else 16 * n_threads
                for first in range(0, entries.size, max(1, piece)):
                    some = entries[first : first + piece]
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
                        entries=some,
                    )
                    if tell is not None and tell(some.size):
                        break

            checked = work.do(compute, span)
            if changes is not None and changes.exact:
                crossed = changes.run(step, n_threads, np.flatnonzero(checked))[3]
                status[crossed] = _report.KINK
            return checked, work.notes(checked), work.left_out(checked)

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
        most = digit * _report.norm(wide)
        rng = np.random.default_rng(0)
        given = np.ones(self.X.shape[0]) if weights is None else weights

        def moved(array: NDArray[Any]) -> NDArray[Any]:
            return array * (1.0 + 4.0 * digit * rng.uniform(-1.0, 1.0, array.size))

        with np.errstate(invalid="ignore"):  # of what is infinite nothing is known
            noise = np.minimum(np.abs(base - wide), most)
            for _ in range(8):
                theta = moved(net._parameters).astype(net.dtype)
                other = backward(net._plan, theta, moved(given))
                np.maximum(noise, np.abs(other - base), out=noise)
        return np.nan_to_num(noise, posinf=0.0)


def _rounded(
    changes: LossChanges, base: float, work: Work, n_threads: int
) -> Differences:
    """Return what computes differences by changes some of which were rounded."""

    def differences(
        step: Array, f_plus: Array, f_minus: Array, difference: Array, span: Array
    ) -> tuple[NDArray[np.bool_], list[str], bool]:
        def compute(entries: Entries | None, tell: Tell | None) -> None:
            plus, minus, apart, _ = changes.run(step, n_threads, entries, tell)
            done = is_known(apart)
            span[done] = apart[done]
            f_plus[done], f_minus[done] = base + plus[done], base + minus[done]
            difference[done] = plus[done] - minus[done]

        checked = work.do(compute, span)
        return checked, work.notes(checked), work.left_out(checked)

    return differences


def _last_digits(analytic: Array, digit: float, least: float) -> Array:
    return digit * np.abs(analytic) + least


class IncrementsCheck:
    """A check by changes of the loss that know all their digits."""

    def __init__(
        self,
        changes: LossChanges,
        at: _Point,
        parameters: Parameters,
        gradient: Array,
        eps: float,
        thresholds: tuple[float, float],
        n_threads: int,
    ) -> None:
        self.changes, self.at, self.eps = changes, at, eps
        self.thresholds, self.n_threads = thresholds, n_threads
        self.parameters, n = parameters, parameters.size
        self.analytic = gradient
        self.status = np.zeros(n, np.int8)
        self.crossed = np.zeros(n, np.bool_)
        self.notes: list[str] = []

    def run(self, work: Work, digit: float, base: float) -> GradientReport:
        """Return the report; `digit` is the epsilon of the gradient's arithmetic."""
        self.base = base
        # (All entries are written by the kernel's threads; some leave others out.)
        everything = work.selection.entries is None and work.deadline is None
        make = np.empty if everything else np.zeros
        self.plus, self.minus, self.span = make((3, self.parameters.size))
        self.checked = work.do(self._compute, self.span)
        self.unknown = work.left_out(self.checked)
        self.n_evaluations = 2 * int(self.checked.sum())
        if self.crossed.any():
            self._leave_kinks()
        # At best an entry is known to its last digit. What rounding leaves of terms
        # that cancel is first measured, then estimated from their sizes.
        self.numeric, near = quotients(
            self.plus,
            self.minus,
            self.span,
            self.analytic,
            self.thresholds[0],
            self.n_threads,
        )
        self.notes += work.notes(self.checked)
        # (A change of less than the least normal number has lost digits.)
        least = float(np.finfo(np.float64).tiny) / self.eps
        self.error: Any = partial(_last_digits, self.analytic, digit + EPS64, least)
        report = self._report(clean=near and not self.status.any())
        if report.ok:
            return report
        self.error = self.error() + self.at.gradient_noise()
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
        self._confirm(report)
        return report

    def _compute(self, entries: Entries | None, tell: Tell | None) -> None:
        self.changes.run(
            self.eps,
            self.n_threads,
            entries,
            tell,
            into=(self.plus, self.minus, self.span, self.crossed),
        )

    def _report(self, clean: bool = False) -> GradientReport:
        blocks = self.parameters.blocks
        return GradientReport._from_vectors(
            self.analytic,
            self.numeric,
            [(block.name, block.where, block.shape) for block in blocks],
            eps=self.eps,
            thresholds=self.thresholds,
            span=self.span,
            f_plus=self.plus,
            f_minus=self.minus,
            f_base=self.base,
            copy=False,
            error_estimate=self.error,
            status=self.status,
            checked=None if self.checked.all() else self.checked,
            template=self.parameters.template,
            notes=self.notes,
            n_evaluations=self.n_evaluations,
            n_total=self.parameters.size,
            clean=clean,
            unknown=self.unknown,
        )

    def _closer(self, entries: Entries, scale: float = CLOSER) -> tuple[Any, ...]:
        self.n_evaluations += 2 * entries.size
        step = scale * self.eps * np.maximum(1.0, np.abs(self.parameters.vector))
        return self.changes.run(step, self.n_threads, entries, representable=False)

    def _leave_kinks(self) -> None:
        """Take the entries that passed a kink with a step that does not.

        Those that pass one with any step lie on it: they are left out, unless they
        differ by more than any convention for the slopes there could make.
        """
        entries = np.flatnonzero(self.crossed)
        with np.errstate(invalid="ignore"):
            first = np.abs((self.plus - self.minus) / self.span)
        for scale in (CLOSER, CLOSER**4, CLOSER**16):
            plus, minus, span, still = self._closer(entries, scale)
            for mine, closer in (
                (self.plus, plus),
                (self.minus, minus),
                (self.span, span),
            ):
                mine[entries] = closer[entries]
            entries = np.flatnonzero(still)
            if entries.size == 0:
                break
        if entries.size:
            a = self.analytic[entries]
            x = (self.plus[entries] - self.minus[entries]) / self.span[entries]
            reach = self.changes.kink_reach()[entries] + 1e-3 * np.abs(a)
            # What is left of curvature falls with the step.
            curved = np.abs(x) <= CLOSER * first[entries]
            self.status[entries] = np.where(
                (np.abs(x - a) <= reach) | curved & (a == 0.0),
                _report.KINK,
                _report.WRONG,
            )
        moved = int(self.crossed.sum()) - entries.size
        if moved:
            self.notes.append(
                f"kink: {moved} of {int(self.checked.sum())} entries passed a kink "
                "within the step, and were taken with a smaller one that does not"
            )

    def _look_closer(self, report: GradientReport) -> None:
        """Clear the entries that differ by the step alone, or by a kink's side."""
        flagged = (report._excess > 0) & (self.status == _report.PLAIN)
        # (An argument may be on a kink but for its rounding.)
        gap = np.abs(self.numeric - self.analytic)
        reach = self.changes.kink_reach(beside=True)
        with np.errstate(invalid="ignore"):
            self.status[flagged & (gap <= reach)] = _report.KINK
        flagged &= self.status == _report.PLAIN
        if self._clear(self._worst(report, flagged)):
            self._clear(np.flatnonzero(flagged & (self.status == _report.PLAIN)))

    def _worst(self, report: GradientReport, flagged: NDArray[np.bool_]) -> Entries:
        """Return the most wrong entries of each array."""
        found = [
            here[np.argsort(-report._ratio[here])[:AGAIN]]
            for block in self.parameters.blocks
            for here in [np.flatnonzero(flagged[block.where]) + block.where.start]
        ]
        return np.sort(np.concatenate(found))

    def _clear(self, entries: Entries) -> bool:
        """Clear entries where a smaller step agrees; return whether there are any."""
        if entries.size == 0:
            return False
        # (Of terms that cancel the curvature of one may be left: beside a kink of
        # elu's second derivative it falls with the step, not with its square.)
        plus, minus, span, _ = self._closer(entries, CLOSER**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            numeric = ((plus - minus) / span)[entries]
        a = self.analytic[entries]
        slack = _report.ALLOWANCE * self.error[entries] + self.thresholds[0] * (
            np.abs(numeric) + np.abs(a)
        )
        agrees = np.abs(numeric - a) <= slack
        self.status[entries[agrees]] = _report.AGREES
        return bool(agrees.any())

    def _confirm(self, report: GradientReport) -> None:
        """Ask Taylor's remainder, by whole passes, about what is found wrong."""
        arrays = []
        for block in self.parameters.blocks:
            record = report.blocks[block.name]
            if record.verdict in ("wrong", "suspicious") and record.worst is not None:
                worst = np.ravel_multi_index(record.worst.index, record.shape)
                wrong = report._wrong[block.where]
                arrays.append((block.name, block.where, wrong, int(worst)))
        function = _taylor.Function(
            value=self.at.loss_at,
            place=lambda point: point,
            theta=self.parameters.vector,
            base=self.base,
            epsilon=EPS64,
            noise=0.0,
        )
        found = _taylor.confirm(function, self.analytic, self.numeric, arrays)
        # A change of the loss has no step that could mislead: it is not refuted.
        report._explain(
            self.parameters.vector,
            confirmations={n: c for n, c in found.items() if not c.refuted},
        )
