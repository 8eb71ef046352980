"""The demo's stages: each does its work, checks it against NumPy, and says so."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fanin
from fanin._demo import numpy_version
from fanin._demo.data import Data, split
from fanin._demo.errors import DemoError
from fanin._demo.picture import Picture
from fanin.layers import Dense

__all__ = ["Options", "run"]

LEARNING_RATE = 0.001
# Steps that small and large data sets get alike, where --epochs is not given.
STEPS = 2200
# Rows of the gradient check: few, so that no entry's gradient averages out, and
# with it the relative error that rounding makes of it.
CHECK_ROWS = 25
# Entries that the loop over NumPy's forward pass takes; the rest is extrapolated.
NAIVE_ENTRIES = 500
# The stack that shows variance through depth.
DEPTH, WIDTH = 20, 256
SCALES = {
    "too small: 0.5 / fan_in": 0.5,
    "fan-in rule: 2 / fan_in": 2.0,
    "too large: 8 / fan_in": 8,
}


@dataclass
class Options:
    """What the command line asks for; None leaves the choice to the data."""

    output: str
    seed: int = 0
    hidden: tuple[int, ...] = (256,)
    epochs: int | None = None
    batch_size: int | None = None
    quiet: bool = False


def say(text: str, indent: str = "", first: str | None = None) -> None:
    """Print a paragraph, at most as wide as the terminal."""
    width = max(20, min(88, shutil.get_terminal_size().columns - 1))
    print(
        textwrap.fill(
            text,
            width,
            initial_indent=indent if first is None else first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ),
        flush=True,
    )


def head(number: int, text: str) -> None:
    """Announce a stage."""
    print(flush=True)
    say(f"{number}. {text}")


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall time of a call and its result.

    What takes less than 20 ms is called up to 15 times; the time is the median.
    """
    taken: list[float] = []
    while not taken or (len(taken) < 15 and taken[0] < 0.02):
        begun = time.perf_counter()
        result = function()
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken)), result


def duration(value: float) -> str:
    """Show a time in a unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def times(ours: float, numpy: float, how: str = "") -> None:
    """Print the two times of a stage."""
    ratio = numpy / ours
    relation = f"{ratio:.3g}x faster" if ratio >= 1 else f"{1 / ratio:.3g}x slower"
    say(
        f"time: fanin {duration(ours)}, NumPy {duration(numpy)}{how}: {relation}", "   "
    )


def agree(what: str, ours: Any, numpy: Any, *, rtol: float, atol: float = 0.0) -> None:
    """Stop unless both versions computed the same: times of other work mean nothing."""
    ours, numpy = np.asarray(ours), np.asarray(numpy)
    if not np.allclose(ours, numpy, rtol=rtol, atol=atol, equal_nan=True):
        difference = float(np.nanmax(np.abs(ours - numpy)))
        raise DemoError(
            f"fanin and the NumPy version disagree about {what} by {difference:.3g}; "
            "please report it",
            status=1,
        )


def flat(arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Join arrays in the order of a network's parameters."""
    names = [f"dense{i // 2}.{('weight', 'bias')[i % 2]}" for i in range(len(arrays))]
    return np.concatenate([np.ravel(arrays[name]) for name in names])


def run(data: Data, options: Options) -> None:
    """Run every stage on the data and write the picture."""
    begun = time.perf_counter()
    n_classes = 0 if data.classes is None else len(data.classes)
    n_missing = int(np.isnan(data.X).sum())
    say(f"fanin {fanin.__version__} on {data.name}: {data.X.shape[0]} rows, "
        f"{data.X.shape[1]} features")  # fmt: skip
    for note in data.notes:
        say(note, "   ")
    if n_missing:
        say(
            f"{n_missing} missing values stay NaN in standardizing and are then set "
            "to 0, the mean",
            "   ",
        )
    parts = split(data)
    say(
        f"{len(parts.X_train)} rows train, {len(parts.X_validation)} validate, "
        f"{len(parts.X_test)} test; {fanin.get_num_threads()} threads",
        "   ",
    )

    X_train, X_validation, X_test = _standardize(
        parts.X_train, parts.X_validation, parts.X_test
    )
    y = [parts.y_train, parts.y_validation, parts.y_test]
    if not n_classes:
        m = fanin.moments(y[0])
        if m.std == 0:
            raise DemoError("the target is constant in the training rows")
        y = [fanin.standardize(part, mean=m.mean, std=m.std) for part in y]

    layers = [fanin.layers.Dense(units, activation="relu") for units in options.hidden]
    layers.append(fanin.layers.Dense(max(1, n_classes)))
    network = functools.partial(
        fanin.Network,
        X_train.shape[1],
        layers,
        loss="softmax_cross_entropy" if n_classes else "squared_error",
    )
    net = network(dtype=np.float64, rng=options.seed)
    _initialize(net, options.seed)

    rows = slice(0, min(CHECK_ROWS, len(X_train)))
    order = np.random.default_rng(options.seed).permutation(len(X_train))[rows]
    batch = (X_train[order], y[0][order])
    correct = _check_gradient(net, *batch, options.seed)

    single = network(dtype=np.float32, rng=options.seed)
    single.parameters = net.parameters
    history = _train(
        single,
        [X.astype(np.float32) for X in (X_train, X_validation, X_test)],
        y if n_classes else [part.astype(np.float32) for part in y],
        options,
    )
    broken = _break(net, *batch, options.seed)
    signal = _signal(X_train[:500], options.seed)

    Picture(
        title=f"python -m fanin demo: {data.name}",
        history=history,
        loss="cross-entropy" if n_classes else "squared error",
        signal=signal,
        correct=correct,
        broken=broken,
    ).write(options.output)
    say(f"wrote {options.output}", "   ")
    print(flush=True)
    say(f"all of it took {duration(time.perf_counter() - begun)}")


def _standardize(*parts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    head(1, "Standardize the features by the training rows' mean and deviation")
    X = parts[0]

    def ours() -> list[NDArray[np.float64]]:
        train, m = fanin.standardize(X, return_moments=True)
        # A column without a value in the training rows has no mean.
        mean, std = np.nan_to_num(m.mean), np.nan_to_num(m.std)
        others = [fanin.standardize(P, mean=mean, std=std) for P in parts[1:]]
        return [train, *others]

    def plain() -> list[NDArray[np.float64]]:
        mean, std = numpy_version.moments(X)
        mean, std = np.nan_to_num(mean), np.nan_to_num(std, nan=1.0)
        return [numpy_version.standardize(P, mean, std) for P in parts]

    our_time, found = seconds(ours)
    numpy_time, expected = seconds(plain)
    for a, b in zip(found, expected, strict=True):
        # NumPy's own sums are good to some units of the offset over the spread.
        agree("the standardized features", a, b, rtol=1e-6, atol=1e-6)
    times(our_time, numpy_time)
    return [np.nan_to_num(A, copy=False, nan=0.0) for A in found]


def _units(net: fanin.Network) -> list[int]:
    return [layer.units for layer in net.layers if isinstance(layer, Dense)]


def _initialize(net: fanin.Network, seed: int) -> None:
    head(2, "Initialize by fan-in: Var(W) = 2 / fan_in for ReLU, 1 / fan_in at the end")
    widths = [net.n_inputs, *_units(net)]
    our_time, _ = seconds(lambda: net.initialize(seed))
    numpy_time, plain = seconds(lambda: numpy_version.initialize(widths, seed))
    named = net.named_parameters()
    print("   array          shape         variance asked      got  difference")
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        name = f"dense{i}.weight"
        asked = (2 if i < len(widths) - 2 else 1) / n_in
        # The mean square, as the mean is known to be 0.
        got, numpy_got = (float(np.mean(p[name] ** 2)) for p in (named, plain))
        print(
            f"   {name:<14} {f'{n_in}x{n_out}':<13} {asked:>14.6f} {got:>8.6f} "
            f"{got / asked - 1:>+10.1%}"
        )
        # Six standard errors of a variance from normal draws.
        bound = 6 * asked * math.sqrt(2 / (n_in * n_out))
        # Of a handful of draws it is skewed, and the bound means little.
        if n_in * n_out >= 100:
            agree(f"the variance of {name}", got, numpy_got, rtol=0, atol=2 * bound)
            agree(f"the variance of {name}", got, asked, rtol=0, atol=bound)
    times(our_time, numpy_time)


def _check_gradient(
    net: fanin.Network, X: NDArray[Any], y: NDArray[Any], seed: int
) -> fanin.GradientReport:
    head(
        3,
        f"Check every entry of the gradient in float64: {net.n_parameters} entries, "
        f"{len(X)} rows",
    )
    begun = time.perf_counter()
    report = net.check_gradient(X, y)
    our_time = time.perf_counter() - begun
    numpy_time, n = _naive(net, X, y, report, seed)
    print(_indented(str(report)), flush=True)
    if report.verdict in ("wrong", "suspicious"):
        raise DemoError(f"the gradient is not correct: {report.summary}", status=1)
    say(f"verdict: {report.verdict}, relative error {report.relative_error:.1e}", "   ")
    times(our_time, numpy_time, f" (extrapolated from {n} entries at random)")
    return report


def _naive(
    net: fanin.Network,
    X: NDArray[Any],
    y: NDArray[Any],
    report: fanin.GradientReport,
    seed: int,
) -> tuple[float, int]:
    """Return the time of NumPy's check, extrapolated, and from how many entries."""
    params = {name: a.copy() for name, a in net.named_parameters().items()}
    size = net.n_parameters
    n = min(NAIVE_ENTRIES, size)
    entries = np.sort(np.random.default_rng(seed).choice(size, n, replace=False))
    begun = time.perf_counter()
    value, gradient = numpy_version.loss_and_gradient(params, X, y)
    middle = time.perf_counter()
    numeric = numpy_version.numeric_gradient(params, X, y, entries)
    end = time.perf_counter()

    our_value, our_gradient = net.loss_and_gradient(X, y)
    largest = float(np.abs(our_gradient).max())
    agree("the loss", our_value, value, rtol=1e-10)
    agree("the gradient", our_gradient, flat(gradient), rtol=0, atol=1e-9 * largest)
    # Both round the loss to some units in its last place, over 2e-7.
    rounding = 50 * np.finfo(np.float64).eps * max(1.0, abs(value)) / 2e-7
    agree(
        "the numeric gradient",
        flat(report.numeric)[entries],
        numeric,
        rtol=0,
        atol=rounding,
    )
    return middle - begun + (end - middle) * size / n, n


def _train(
    net: fanin.Network,
    X: list[NDArray[Any]],
    y: list[NDArray[Any]],
    options: Options,
) -> fanin.History:
    n = len(X[0])
    batch_size = options.batch_size or (128 if n >= 1280 else 16)
    epochs = options.epochs
    if epochs is None:
        epochs = min(200, max(5, math.ceil(STEPS * batch_size / n)))
    head(
        4,
        f"Train in float32: {' -> '.join(map(str, _units(net)))} units, "
        f"{epochs} epochs, batches of {batch_size}, Adam({LEARNING_RATE:g})",
    )
    params = {name: a.copy() for name, a in net.named_parameters().items()}
    progress = not options.quiet and sys.stderr.isatty()
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "training was interrupted")
            history = net.fit(
                X[0],
                y[0],
                optimizer=fanin.optimizers.Adam(LEARNING_RATE),
                epochs=epochs,
                batch_size=batch_size,
                validation=(X[1], y[1]),
                progress=progress,
                rng=options.seed,
            )
    except FloatingPointError as error:
        raise DemoError(f"training diverged: {error}", status=1) from None
    if history.stopped == "interrupted":
        raise KeyboardInterrupt  # the demonstration ends as well
    our_time = time.perf_counter() - begun
    begun = time.perf_counter()
    losses, _ = numpy_version.train(
        params,
        X[0],
        y[0],
        (X[1], y[1]),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=LEARNING_RATE,
        seed=options.seed,
    )
    numpy_time = time.perf_counter() - begun
    # The same weights, batches and steps; float32 sums in another order drift apart,
    # so the first epoch is held close and the scores are shown beside each other.
    agree("the first epoch's loss", history.loss[0], losses[0], rtol=1e-3)
    say(
        f"training loss {history.loss[0]:.4f} -> {history.loss[-1]:.4f}, validation "
        f"loss {history.validation_loss[0]:.4f} -> {history.validation_loss[-1]:.4f}",
        "   ",
    )
    ours, numpy = net.predict(X[2]), numpy_version.forward(params, X[2])
    if y[2].dtype.kind == "f":
        scores = [_r2(y[2], Z) for Z in (ours, numpy[:, 0])]
        say(f"test R^2: {scores[0]:.3f} (NumPy version: {scores[1]:.3f})", "   ")
    else:
        right = [int(np.sum(k == y[2])) for k in (ours, numpy.argmax(axis=1))]
        m = len(y[2])
        say(
            f"test accuracy: {100 * right[0] / m:.2f} %, {right[0]} of {m} (NumPy "
            f"version: {100 * right[1] / m:.2f} %)",
            "   ",
        )
    times(our_time, numpy_time)
    return history


def _r2(y: NDArray[Any], prediction: NDArray[Any]) -> float:
    y, prediction = y.astype(np.float64), prediction.astype(np.float64)
    spread = float(np.sum((y - y.mean()) ** 2))
    return 1 - float(np.sum((y - prediction) ** 2)) / spread if spread else math.nan


def _break(
    net: fanin.Network, X: NDArray[Any], y: NDArray[Any], seed: int
) -> fanin.GradientReport:
    head(5, "Break the backward pass on purpose; the check is not told how")
    params = net.named_parameters()
    hidden = len(net.layers) - 2
    below = {f"dense{i}.{a}" for i in range(hidden + 1) for a in ("weight", "bias")}
    planted = {
        "derivative": (
            f"dense{hidden} forgets to multiply by the derivative of its ReLU",
            below,
        ),
        "mean": (
            f"dense{hidden + 1}.bias is summed over the {len(X)} rows, not averaged",
            {f"dense{hidden + 1}.bias"},
        ),
    }
    first = None
    our_time = numpy_time = 0.0
    for mistake, (what, arrays) in planted.items():
        say(f"planted: {what}", "   ")
        _, wrong = numpy_version.loss_and_gradient(params, X, y, mistake)
        _, right = numpy_version.loss_and_gradient(params, X, y)
        if np.array_equal(flat(wrong), flat(right)):
            # Say, a single unit that is active for every row.
            say(
                "it changes nothing in this network, so there is nothing to find", "   "
            )
            continue
        begun = time.perf_counter()
        report = net.check_gradient(X, y, gradient=flat(wrong))
        our_time += time.perf_counter() - begun
        numpy_time += _naive(net, X, y, report, seed)[0]
        blamed = [
            name
            for name, block in report.blocks.items()
            if block.verdict in ("wrong", "suspicious")
        ]
        if report.verdict != "wrong" or not arrays.issuperset(blamed):
            raise DemoError(
                f"the check did not find the planted mistake: {report.summary}",
                status=1,
            )
        if first is None:
            first = report
            print(_indented(str(report)), flush=True)
        else:
            say(report.summary, "   ")
            for sentence in report.diagnosis:
                if sentence.startswith(tuple(blamed)):
                    say(sentence, "     ", first="   - ")
        fine = [name for name in report.blocks if name not in blamed]
        say(f"found: {', '.join(blamed)}; correct: {', '.join(fine)}", "   ")
    if first is None:
        raise DemoError("no mistake could be planted in this network", status=1)
    times(our_time, numpy_time, " (extrapolated as before)")
    return first


def _signal(X: NDArray[Any], seed: int) -> dict[str, tuple[float, list[float]]]:
    head(
        6,
        f"Send {len(X)} rows through {DEPTH} ReLU layers of {WIDTH}, at three scales "
        "of Var(W)",
    )
    found = {}
    our_time = numpy_time = 0.0
    for name, scale in SCALES.items():
        init = functools.partial(fanin.initializers.variance_scaling, scale=scale)
        layer = fanin.layers.Dense(WIDTH, activation="relu", init=init)
        net = fanin.Network(
            X.shape[1],
            [layer] * DEPTH,
            loss="squared_error",
            dtype=np.float64,
            rng=seed,
        )
        params = net.named_parameters()
        our, outputs = seconds(functools.partial(net.layer_outputs, X))
        theirs, expected = seconds(
            functools.partial(numpy_version.outputs, params, X, last="relu")
        )
        for a, b in zip(outputs, expected, strict=True):
            agree("a layer's output", a, b, rtol=1e-8, atol=1e-10 * np.abs(b).max())
        our_time += our
        numpy_time += theirs
        variances = [float(A.var()) for A in outputs]
        found[name] = (scale, variances)
        say(
            f"{name + ':':<24} variance {variances[0]:.2g} after layer 1, "
            f"{variances[-1]:.2g} after layer {DEPTH}",
            "   ",
        )
    times(our_time, numpy_time)
    return found


def _indented(text: str) -> str:
    return textwrap.indent(text, "   ")
