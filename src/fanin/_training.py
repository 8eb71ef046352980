"""The loop of `Network.fit`: epochs of steps, and everything around a step.

Design
a) A batch costs one slice of the epoch's order, one call of `Network._step` and a few
   float additions. What is optional (callbacks, the clock, weights) is looked up
   before the loop; nothing of the size of the data is allocated in it.
b) Where the run stands is a handful of attributes of `_Run`. They are changed only in
   stretches of code without a call, which a signal cannot split (CPython looks for
   signals when calls return and loops turn), and an epoch's entries in the history
   count once `epoch` has moved past them. So Ctrl-C finds a state that can be resumed.
   A step that was taken although Ctrl-C hid its loss is known from the optimizer's
   count of steps, which the kernel advances.
c) Resuming draws the order of the epoch again from the generator's state at its start
   and goes on after the batches that were done: an index need not be kept.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanin import _metrics, _sampling, _threads, callbacks, losses
from fanin import _validation as check
from fanin._sampling import Samples
from fanin.history import History
from fanin.optimizers import Optimizer

if TYPE_CHECKING:
    from fanin.network import Network

# How often a progress bar tells of the batches within an epoch, in seconds.
REFRESH = 0.5


@dataclass
class Checkpoint:
    """What `resume=` needs beside the network and the optimizer."""

    setting: dict[str, Any]
    monitor: str | None
    source: np.random.Generator  # as at the start of the epoch
    split: Any  # state of its bit generator before rows were held out
    fingerprint: bytes  # of the network's parameters
    n_steps: int
    batch: int
    total: float
    mass: float
    elapsed: float
    best_value: float
    waited: int
    best: Any  # snapshots of the network
    last: Any


class _OutOfTime(Exception):
    """Leaves an optimizer's own loop."""


def fit(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: Any,
    epochs: int,
    batch_size: int | None,
    sample_weight: ArrayLike | None,
    class_weight: Any,
    validation: Sequence[ArrayLike | None] | None,
    validation_fraction: float,
    early_stopping: Any,
    metrics: Any,
    training_metrics: bool,
    callbacks: Any,
    shuffle: bool,
    progress: bool,
    time_limit: float | None,
    on_divergence: str,
    resume: History | None,
    rng: Any,
    n_threads: int | None,
) -> History:
    """Check the arguments of `Network.fit` and train."""
    run = _Run(network, X, y, optimizer, epochs, n_threads)
    run.set_options(
        shuffle, time_limit, on_divergence, early_stopping, callbacks, training_metrics
    )
    run.set_weights(sample_weight, class_weight)
    run.set_source(rng, resume)
    run.set_validation(validation, validation_fraction)
    run.set_metrics(metrics)
    run.set_batches(batch_size)
    if resume is not None:
        run.resume(resume)
    history = run.run(progress)
    # Here, so that the warning names the line that called fit.
    if history.stopped == "interrupted":
        warnings.warn(
            f"training was interrupted {history.message}; the history says so in "
            "stopped, and resume= continues",
            RuntimeWarning,
            stacklevel=3,
        )
    elif history.stopped == "diverged":
        warnings.warn(
            f"training diverged: {history.message}", RuntimeWarning, stacklevel=3
        )
    return history


# What helps where steps have led to numbers that are none.
REMEDY = "; try a smaller learning rate, or the optimizer's clip_norm"


def _in_the_data(message: str) -> bool:
    """Whether the first tensor that is not finite is what `fit` was given."""
    return any(f"not finite is {name}," in message for name in ("X", "y"))


class _Run:
    """One call of `fit`: what it was given, and where it stands."""

    def __init__(
        self,
        network: Network,
        X: ArrayLike,
        y: ArrayLike,
        optimizer: Any,
        epochs: int,
        n_threads: int | None,
    ) -> None:
        self.network = network
        self.X, self.y = network._batch(X, y)
        self.epochs = check.integer(epochs, "epochs", minimum=0)
        minimize = getattr(optimizer, "minimize", None)
        self.minimize = None
        if callable(minimize) and not isinstance(optimizer, type):
            self.minimize = minimize
        elif not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be a fanin.optimizers.Optimizer, such as Adam(); "
                f"got {check.what(optimizer)}"
            )
        if self.minimize is not None and (network._mixes_rows or network._draws):
            raise ValueError(
                f"{type(optimizer).__name__} needs a loss that is a function of the "
                "parameters alone; batch normalization and dropout change it on the way"
            )
        self.optimizer = optimizer
        self.threads = _threads.resolve(n_threads)
        self.check_targets(self.y)
        self.history = History()
        # Where the run stands. `total` and `mass` are of the epoch under way.
        self.epoch = 0
        self.batch = 0
        self.total = 0.0
        self.mass = 0.0
        self.share = 0.0  # of the step under way
        self.elapsed = 0.0
        self.known_steps = getattr(optimizer, "n_steps", 0)
        self.best_value = math.nan
        self.waited = 0
        self.best: Any = None
        self.last: Any = None  # to begin with, where the network was given the best
        self.failure: FloatingPointError | None = None
        self.bar: Any = None

    # --- what was given -----------------------------------------------------------

    def check_targets(self, y: NDArray[Any]) -> None:
        """Refuse a bad target now, not in the batch that it would be in."""
        net = self.network
        loss = net.loss_function
        bad = loss._first_bad(y, net.n_outputs, net.dtype, self.threads)
        if bad >= 0:
            raise ValueError(loss.bad_target(y, bad))

    def set_options(
        self,
        shuffle: bool,
        time_limit: float | None,
        on_divergence: str,
        early_stopping: Any,
        given_callbacks: Any,
        training_metrics: bool,
    ) -> None:
        for name, value in (
            ("shuffle", shuffle),
            ("training_metrics", training_metrics),
        ):
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False; got {value!r}")
        self.shuffle = bool(shuffle)
        self.training_metrics = bool(training_metrics)
        self.limit = None
        if time_limit is not None:
            self.limit = check.real(
                time_limit, "time_limit", minimum=0.0, open_minimum=True
            )
        check.choice(on_divergence, ("raise", "stop"), "on_divergence")
        self.raises = on_divergence == "raise"
        self.early = callbacks.early_stopping(early_stopping)
        self.hooks = callbacks.hooks(given_callbacks)

    def set_weights(self, sample_weight: ArrayLike | None, class_weight: Any) -> None:
        self.own_weight, self.weight = _sampling.sample_weights(
            sample_weight,
            class_weight,
            self.network.loss_function,
            self.y,
            self.network.n_outputs,
        )

    def set_source(self, rng: Any, resume: History | None) -> None:
        self.checkpoint: Checkpoint | None = None
        if resume is None:
            self.source = check.generator(rng)
            return
        if not isinstance(resume, History):
            raise TypeError(
                "resume must be the History of the fit to continue; "
                f"got {type(resume).__name__}"
            )
        if rng is not None:
            raise ValueError(
                "rng cannot be given with resume: the random state is the history's"
            )
        if resume._checkpoint is None:
            why = {
                "diverged": "its training diverged and the parameters were reset",
            }.get(
                resume.stopped or "",
                "only a History that fit returned, its copy or its pickle does, and "
                "none of L-BFGS, whose memory of curvatures SciPy keeps",
            )
            raise ValueError(f"resume holds no state to continue from: {why}")
        self.checkpoint = resume._checkpoint
        self.source = copy.deepcopy(self.checkpoint.source)

    def set_validation(
        self, validation: Sequence[ArrayLike | None] | None, fraction: float
    ) -> None:
        fraction = check.real(
            fraction, "validation_fraction", minimum=0.0, maximum=1.0, open_maximum=True
        )
        self.fraction = fraction
        self.rows: NDArray[np.intp] | None = None  # to train on; None: all
        self.held: Samples | None = None
        self.split = None
        if validation is not None:
            if fraction > 0:
                raise ValueError("give validation or validation_fraction, not both")
            self.held = self.given(validation)
        elif fraction > 0:
            source = self.source
            if self.checkpoint is not None:
                self.check_setting("n_samples", self.X.shape[0])
                self.check_setting("validation_fraction", fraction)
                source = copy.deepcopy(source)
                source.bit_generator.state = self.checkpoint.split
            self.split = source.bit_generator.state
            self.rows, held_rows = _sampling.hold_out(
                fraction, source, self.network.loss_function, self.y
            )
            self.held = self.samples(held_rows)
            if self.weight is not None:
                for rows, what in ((self.rows, "to train on"), (held_rows, "held out")):
                    check.weight_sum(
                        self.weight[rows], f"the weights of the samples {what}"
                    )
        self.epoch_state = self.source.bit_generator.state

    def given(self, validation: Any) -> Samples:
        """Check data to validate on that is not of the data to fit."""
        parts: tuple[Any, ...] = ()
        got = check.what(validation)
        if isinstance(validation, (tuple, list)):
            parts, got = tuple(validation), f"{got} of {len(validation)}"
        if len(parts) not in (2, 3):
            raise TypeError(
                f"validation must be a tuple (X, y) or (X, y, sample_weight); got {got}"
            )
        try:
            X, y = self.network._batch(*parts[:2])
            self.check_targets(y)
            weight = self.network._weights((*parts, None)[2], X.shape[0])
        except (TypeError, ValueError) as error:
            error.args = (f"validation {error}",)
            raise
        return Samples(X, y, None, weight, weight)

    def samples(self, rows: NDArray[np.intp] | None) -> Samples:
        """Name rows of the data to fit."""
        return Samples(self.X, self.y, rows, self.weight, self.own_weight)

    def set_metrics(self, metrics: Any) -> None:
        classifier = isinstance(
            self.network.loss_function,
            (losses.SoftmaxCrossEntropy, losses.BinaryCrossEntropy),
        )
        self.metrics = _metrics.resolve(metrics, classifier)
        if self.metrics and self.held is None and not self.training_metrics:
            raise ValueError(
                "metrics need validation or validation_fraction, or "
                "training_metrics=True to compute them on the training data"
            )
        names = [f"validation_{name}" for name in self.metrics if self.held is not None]
        if self.training_metrics:
            names += self.metrics
        self.history.metrics = {name: [] for name in names}
        if self.early is not None:
            known = ["loss", *(["validation_loss"] if self.held else []), *names]
            monitor = self.early.monitor
            if monitor not in known:
                hint = ""
                if monitor.startswith("validation_") and self.held is None:
                    hint = "; give validation or validation_fraction"
                raise ValueError(
                    f"early stopping monitors {monitor!r}, and there is "
                    f"{', '.join(repr(name) for name in known)}{hint}"
                )
            self.sign = _metrics.direction(monitor, self.early.mode)

    def set_batches(self, batch_size: int | None) -> None:
        n = self.X.shape[0] if self.rows is None else self.rows.size
        if batch_size is not None:
            batch_size = check.integer(batch_size, "batch_size", minimum=1)
            if self.minimize is not None and batch_size < n:
                raise ValueError(
                    f"{type(self.optimizer).__name__} needs all {n} samples in one "
                    f"batch: give batch_size=None; got {batch_size}"
                )
        # Batch normalization cannot take one row by itself: an epoch's last one waits
        # for an epoch whose order puts it elsewhere.
        self.least = 2 if self.network._mixes_rows else 1
        if min(n, n if batch_size is None else batch_size) < self.least:
            raise ValueError(
                "batch normalization needs batches of at least 2 samples; got "
                f"batch_size={batch_size} and {n} samples to train on"
            )
        self.n_train = n
        self.batch_size = n if batch_size is None else batch_size
        self.n_batches = -(-n // self.batch_size)

    def setting(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on as it was."""
        return {
            "n_samples": self.X.shape[0],
            "n_parameters": self.network.n_parameters,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "validation_fraction": self.fraction,
            "validation": self.held is not None,
            "metrics": sorted(self.history.metrics),
        }

    def check_setting(self, name: str, value: Any) -> None:
        assert self.checkpoint is not None
        before = self.checkpoint.setting[name]
        if value != before:
            raise ValueError(
                f"resume continues a fit with {name} {before}; got {value}. To train "
                "on in another way, call fit without resume"
            )

    def resume(self, given: History) -> None:
        """Take up the run that `given` tells of; it is not changed."""
        at = self.checkpoint
        assert at is not None
        if self.minimize is not None:
            raise ValueError(
                f"{type(self.optimizer).__name__} cannot resume: its state is SciPy's"
            )
        for name, value in self.setting().items():
            self.check_setting(name, value)
        if self.early is not None and at.monitor not in (None, self.early.monitor):
            raise ValueError(
                f"resume continues early stopping on {at.monitor!r}; "
                f"got {self.early.monitor!r}"
            )
        restores = self.early is not None and self.early.restore_best
        if restores and given.best_epoch is not None and at.best is None:
            raise ValueError(
                "resume continues a fit with restore_best=False: the parameters of its "
                f"best epoch, {given.best_epoch}, were not kept"
            )
        if self.known_steps != at.n_steps:
            raise ValueError(
                f"resume continues after {at.n_steps} steps of the optimizer; this "
                f"{type(self.optimizer).__name__} has taken {self.known_steps}. Give "
                "the optimizer of that fit, its copy or its pickle"
            )
        if _fingerprint(self.network) != at.fingerprint:
            raise ValueError(
                "resume continues with the parameters that the fit left; the network "
                "has others"
            )
        self.history = given._copy()
        self.epoch = len(given.loss)
        self.batch, self.total, self.mass = at.batch, at.total, at.mass
        self.elapsed = at.elapsed
        self.best_value, self.waited, self.best = at.best_value, at.waited, at.best
        self.last = at.last

    # --- the run ------------------------------------------------------------------

    def run(self, progress: bool) -> History:
        network, history = self.network, self.history
        self.state = callbacks.TrainingState(
            network, self.optimizer, history, self.epochs, self.n_batches, self.epoch
        )
        self.bar = _progress_bar(self.epochs, self.epoch) if progress else None
        # From here on nothing is refused any more.
        if self.last is not None:
            network._restore(self.last)
        self.begun = time.perf_counter()
        self.deadline = None if self.limit is None else self.begun + self.limit
        self.begun -= self.elapsed
        # The last parameters known to be finite.
        self.finite = network._snapshot() if _finite(network.parameters) else None
        try:
            try:
                reason = self.train()
            except KeyboardInterrupt:
                reason = "interrupted"
                # A step that was taken, but whose loss did not arrive here.
                missed = getattr(self.optimizer, "n_steps", 0) - self.known_steps
                if self.minimize is None and missed == 1:
                    self.batch += 1
                    self.known_steps += 1
                    self.total += self.share * network._last_loss
                    self.mass += self.share
                history._trim(self.epoch)
            resumable = self.minimize is None
            if reason == "diverged":
                assert self.failure is not None
                if not _finite(network.parameters) and self.finite is not None:
                    network._restore(self.finite)
                    self.batch, resumable = 0, False
                if self.raises:
                    raise self.failure
                history.message = str(self.failure)
            elif reason == "interrupted":
                history.message = f"in epoch {self.epoch + 1}, after batch {self.batch}"
            history.stopped = reason
            history.batches = self.batch
            self.finish(resumable)
        finally:
            if self.bar is not None:
                self.bar.close()
        return history

    def train(self) -> str:
        """Train to the end; returns why it ended, one of `fanin.history.ENDS`."""
        reason: str | None = None
        for hook in self.hooks["on_train_begin"]:
            if _asks_to_stop(hook(self.state)):
                reason = "callback"
        if reason is not None:
            return reason
        if self.epoch >= self.epochs and self.batch == 0:
            return "epochs"
        if self.early is not None and self.waited >= self.early.patience:
            return "early_stopping"
        if self.minimize is not None:
            return self.train_by_minimize()
        while self.epoch < self.epochs:
            within = self.train_batches()
            if self.batch < self.n_batches:
                assert within is not None
                return within
            reason = self.end_epoch()
            if reason is None and within == "callback":
                reason = within
            if reason is not None:
                return reason
            if within is not None and self.epoch < self.epochs:
                return within
        return "epochs"

    def train_batches(self) -> str | None:
        """Do the epoch's batches; returns why it ended before the last, or None."""
        network, X, y, optimizer = self.network, self.X, self.y, self.optimizer
        step, threads, weight = network._step, self.threads, self.weight
        hooks, state = self.hooks["on_batch_end"], self.state
        n, size, n_batches = self.n_train, self.batch_size, self.n_batches
        deadline, bar = self.deadline, self.bar
        watches_clock = deadline is not None or bar is not None
        shown = time.perf_counter()
        order: NDArray[np.intp] | None = self.rows
        if self.shuffle:
            order = self.source.permutation(n if order is None else order)
            order = order.astype(np.intp, copy=False)
        # In order, the index of a batch is that of the first, moved on.
        first = np.arange(min(size, n), dtype=np.intp) if order is None else None
        moved = np.empty_like(first) if first is not None else None
        batch, total, mass = self.batch, self.total, self.mass
        least, known = self.least, self.known_steps
        epoch = self.epoch + 1
        reason = None
        try:
            while batch < n_batches:
                start = batch * size
                if order is not None:
                    index = order[start : start + size]
                else:
                    assert first is not None
                    assert moved is not None
                    index = moved[: min(size, n - start)]
                    np.add(first[: index.size], start, out=index)
                if index.size < least:
                    batch += 1
                    continue
                share = float(index.size)
                if weight is not None:
                    share = float(weight[index].sum())
                    if share == 0.0:  # a mean over nothing
                        batch += 1
                        continue
                self.share = share
                when = f" at epoch {epoch}, batch {batch + 1}"
                try:
                    loss = step(X, y, optimizer, index, threads, when, weight)
                except FloatingPointError as error:
                    said = str(error)
                    if not _in_the_data(said):
                        error.args = (said + REMEDY,)
                    self.failure = error
                    return "diverged"
                # No call among these: they are done together or not at all.
                total += share * loss
                mass += share
                batch += 1
                known += 1
                if hooks:
                    state.epoch, state.batch, state.loss = epoch, batch, loss
                    self.batch = batch
                    for hook in hooks:
                        if _asks_to_stop(hook(state)):
                            reason = "callback"
                if watches_clock:
                    now = time.perf_counter()
                    if reason is None and deadline is not None and now >= deadline:
                        reason = "time_limit"
                    if bar is not None and now - shown >= REFRESH:
                        shown = now
                        bar.set_postfix_str(
                            f"batch {batch}/{n_batches}, loss {total / mass:.4f}"
                        )
                if reason is not None:
                    break
        finally:
            self.batch, self.total, self.mass = batch, total, mass
            self.known_steps = known
        return reason

    def end_epoch(self) -> str | None:
        """Evaluate and record the epoch; returns why to end, or None."""
        network, history = self.network, self.history
        number = self.epoch + 1
        unfit = _first_not_finite(network)
        if unfit is not None:
            self.failure = FloatingPointError(
                f"the parameters are not finite after epoch {number}, batch "
                f"{self.batch}: the first tensor that is not finite is {unfit}{REMEDY}"
            )
            return "diverged"
        snapshot = network._snapshot()
        loss = self.total / self.mass if self.mass > 0 else math.nan
        found = self.evaluate() | {"loss": loss}
        best_value, waited, best = self.best_value, self.waited, self.best
        best_epoch = history.best_epoch
        if self.early is not None:
            value = found[self.early.monitor]
            enough = _metrics.improves(
                value, best_value, self.sign, self.early.min_delta
            )
            waited = 0 if enough else waited + 1
            if _metrics.improves(value, best_value, self.sign):
                best_value, best_epoch = value, number
                best = snapshot if self.early.restore_best else None
        order_state = self.source.bit_generator.state
        rate = _learning_rate(self.optimizer)
        now = time.perf_counter()
        history.loss.append(loss)
        if "validation_loss" in found:
            history.validation_loss.append(found["validation_loss"])
        history.seconds.append(now - self.begun)
        for name, values in history.metrics.items():
            values.append(found[name])
        if rate is not None:
            history.learning_rate.append(rate)
        if self.minimize is None:
            history.n_steps.append(self.optimizer.n_steps)
        # From here on the epoch counts; no call among these lines.
        history.best_epoch = best_epoch
        self.best_value, self.waited, self.best = best_value, waited, best
        self.finite = snapshot
        self.epoch_state = order_state
        self.total, self.mass, self.elapsed, self.begun = 0.0, 0.0, 0.0, now
        self.state.epoch, self.state.batch = number, self.batch
        self.state.loss = loss
        self.epoch, self.batch = number, 0
        self.show(found)
        reason = None
        if self.early is not None and waited >= self.early.patience:
            reason = "early_stopping"
        for hook in self.hooks["on_epoch_end"]:
            if _asks_to_stop(hook(self.state)) and reason is None:
                reason = "callback"
        return reason

    def evaluate(self) -> dict[str, float]:
        """Return the losses and metrics after an epoch, by name."""
        network, found = self.network, {}
        if self.held is not None:
            held = self.held
            found["validation_loss"] = network._evaluate(
                held.X, held.y, None, held.rows, self.threads, held.weight
            )
            found |= self.measure("validation_", held)
        if self.training_metrics:
            found |= self.measure("", self.samples(self.rows))
        return found

    def measure(self, prefix: str, samples: Samples) -> dict[str, float]:
        if not self.metrics:
            return {}
        X, y, rows, _, weight = samples
        n = X.shape[0] if rows is None else rows.size
        prediction: NDArray[Any] | None = None
        for part in _sampling.blocks(n, X.itemsize * X.shape[1]):
            # Not named: one block would live on while the next is gathered.
            out = self.network.predict(
                X[part] if rows is None else X[rows[part]], n_threads=self.threads
            )
            if prediction is None:
                prediction = np.empty((n, *out.shape[1:]), out.dtype)
            prediction[part] = out
        assert prediction is not None
        truth = y if rows is None else y[rows]
        if weight is not None and rows is not None:
            weight = weight[rows]
        if truth.ndim == 2 and truth.shape[1] == 1 and prediction.ndim == 1:
            truth = truth[:, 0]
        return {
            prefix + name: _metrics.value(name, metric, truth, prediction, weight)
            for name, metric in self.metrics.items()
        }

    def show(self, found: dict[str, float]) -> None:
        if self.bar is not None:
            shown = {"loss": f"{found['loss']:.4f}"}
            for name, value in found.items():
                if name == "validation_loss":
                    shown["validation"] = f"{value:.4f}"
                elif name != "loss":
                    shown[name.replace("validation_", "")] = f"{value:.4f}"
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update()

    def finish(self, resumable: bool) -> None:
        """Leave the network and the history as the caller gets them."""
        network, history = self.network, self.history
        last = None
        if self.early is not None and self.early.restore_best and self.best is not None:
            if resumable and (self.epoch != history.best_epoch or self.batch > 0):
                last = network._snapshot()
            network._restore(self.best)
        for hook in self.hooks["on_train_end"]:
            hook(self.state)
        if not resumable:
            return
        source = copy.deepcopy(self.source)
        source.bit_generator.state = self.epoch_state
        history._checkpoint = Checkpoint(
            setting=self.setting(),
            monitor=None if self.early is None else self.early.monitor,
            source=source,
            split=self.split,
            fingerprint=_fingerprint(network),
            n_steps=self.optimizer.n_steps,
            batch=self.batch,
            total=self.total,
            mass=self.mass,
            elapsed=time.perf_counter() - self.begun,
            best_value=self.best_value,
            waited=self.waited,
            best=self.best,
            last=last,
        )

    # --- an optimizer with a loop of its own ----------------------------------------

    def train_by_minimize(self) -> str:
        """Let the optimizer minimize the loss over all samples; an epoch an iteration.

        It is called as ``minimize(fun_and_grad, theta, callback)`` with float64
        vectors, calls `callback(theta)` after each iteration, and ends when that
        raises StopIteration, as SciPy's optimizers do.
        """
        assert self.minimize is not None
        network = self.network
        gradient = network.gradient
        network._tape = None
        accepted = network.parameters.copy()
        loss = math.nan  # of the network's parameters as they are
        evaluated = False
        reason: str | None = None

        def function(theta: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
            nonlocal loss, evaluated
            if self.deadline is not None and time.perf_counter() >= self.deadline:
                raise _OutOfTime
            network._parameters[...] = theta
            loss = network._evaluate(
                self.X, self.y, gradient, self.rows, self.threads, self.weight
            )
            if not evaluated and not (math.isfinite(loss) and _finite(gradient)):
                # Later on it is for the line search to shorten its step.
                self.failure = FloatingPointError(
                    f"{_what(loss)} at epoch 1, batch 1: "
                    + self.first_not_finite_block()
                )
                raise self.failure
            evaluated = True
            return loss, gradient.astype(np.float64)

        def iterated(theta: NDArray[Any]) -> None:
            nonlocal accepted, reason
            at = np.asarray(theta).astype(network.dtype)
            if not np.array_equal(at, network.parameters):
                function(theta)
            if not math.isfinite(loss):
                self.failure = FloatingPointError(
                    f"{_what(loss)} at epoch {self.epoch + 1}, batch 1: "
                    + self.first_not_finite_block()
                )
                reason = "diverged"
                raise StopIteration
            accepted = at
            self.total, self.mass, self.batch = loss, 1.0, 1
            if self.hooks["on_batch_end"]:
                state = self.state
                state.epoch, state.batch, state.loss = self.epoch + 1, 1, loss
                for hook in self.hooks["on_batch_end"]:
                    if _asks_to_stop(hook(state)):
                        reason = "callback"
            found = self.end_epoch()
            reason = found or reason
            if reason is None and self.epoch >= self.epochs:
                reason = "epochs"
            if reason is not None:
                raise StopIteration

        try:
            result = self.minimize(
                function, network.parameters.astype(np.float64), iterated
            )
        except _OutOfTime:
            reason = "time_limit"
        except StopIteration:
            if reason is None:
                raise
        except FloatingPointError as error:
            if error is not self.failure:
                raise
            reason = "diverged"
        else:
            if reason is None:
                reason = "optimizer"
                message = getattr(result, "message", "")
                if isinstance(message, bytes):
                    message = message.decode()
                self.history.message = str(message)
        finally:
            # Not where the line search happened to be.
            network._parameters[...] = accepted
            network._tape = None
            self.batch = 0
        return reason

    def first_not_finite_block(self) -> str:
        """Name what is not finite, block by block: the data may not fit in memory."""
        network = self.network
        for part in _sampling.blocks(self.n_train, self.X.itemsize * self.X.shape[1]):
            index = np.arange(part.start, part.stop)
            if self.rows is not None:
                index = self.rows[part]
            gradient = network.gradient
            loss = network._evaluate(self.X, self.y, gradient, index, self.threads)
            if not (math.isfinite(loss) and _finite(gradient)):
                return network._first_not_finite(self.X, self.y, index)
        return "no block of samples has a loss or gradient that is not finite by itself"


# --- helpers ------------------------------------------------------------------------


def _what(loss: float) -> str:
    """Say in a few words what failed, as `Network._step` does."""
    return (
        "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
    )


def _asks_to_stop(answer: Any) -> bool:
    return answer is True or (isinstance(answer, np.bool_) and bool(answer))


def _finite(array: NDArray[Any]) -> bool:
    """Whether every number is finite; the sum tells, unless it overflows itself."""
    with np.errstate(all="ignore"):
        return math.isfinite(array.sum()) or bool(np.isfinite(array).all())


def _first_not_finite(network: Network) -> str | None:
    """Name the first parameter that is not finite, if any."""
    if _finite(network.parameters):
        return None
    for name, array in network.named_parameters().items():
        finite = np.isfinite(array)
        if not finite.all():
            where = [int(k) for k in np.unravel_index(finite.argmin(), array.shape)]
            return f"{name}, {array[tuple(where)]} at {where}"
    return None


def _fingerprint(network: Network) -> bytes:
    found = hashlib.blake2b(network.parameters.data, digest_size=16)
    found.update(network._state.data)
    found.update(b"%d" % network._draw)
    return found.digest()


def _learning_rate(optimizer: Any) -> float | None:
    """Return the learning rate of the last step, if there is such a thing."""
    rate = getattr(optimizer, "learning_rate", None)
    if callable(rate):  # a schedule, of the number of steps before
        rate = rate(max(0, optimizer.n_steps - 1))
    return None if rate is None else float(rate)


def _progress_bar(epochs: int, initial: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            'progress=True needs tqdm: pip install tqdm, or "fanin[demo]"'
        ) from error
    return tqdm(total=epochs, initial=initial, unit="epoch")
