"""Gradient checking: whether a hand-written gradient is right, and where not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fanin import _report, _threads
from fanin._report import BlockRecord, EntryRecord, GradientError, GradientReport
from fanin._structure import Parameters, flatten_gradient
from fanin._validation import real

__all__ = [
    "BlockRecord",
    "EntryRecord",
    "GradientError",
    "GradientReport",
    "check_gradient",
]

EPS64 = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)

# The default relative steps. float64: the textbook's 1e-7. float32: the cube root of
# the machine epsilon, where rounding (eps/h) and truncation (h^2) balance.
STEPS = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): EPS32 ** (1 / 3)}
# A float32 difference at that step is good to EPS32^(2/3) = 2.4e-5 of the function's
# value; 1e-3 leaves it the factor 50 that 1e-7 leaves a float64 one (2e-9).
THRESHOLDS64 = (1e-7, 1e-3)
THRESHOLDS32 = (1e-3, 1e-1)

# Entries whose Python floats are held at one time.
CHUNK = 4096
# Entries that are examined again: in an array that is found wrong, and in all (or a
# twelfth of them, which costs about as much as half of the check).
AGAIN = 16
AGAIN_IN_ALL = 64
# The other steps they are examined with, as multiples of the first. 64 times 1e-7 is
# about eps^(1/3), the best step of a central difference in float64.
FACTORS = (1 / 8, 1.0, 8.0, 64.0)
LARGEST_STEP = 0.05

Function = Callable[[Any], Any]

# Immutable types of exact value, kept as they are until the end of a chunk.
_PLAIN_TYPES = (float, np.float64, np.float32)


def check_gradient(
    fun: Function,
    params: Any,
    grad: Any,
    *,
    eps: float | None = None,
    n_threads: SupportsIndex | None = None,
    thresholds: tuple[float, float] | None = None,
) -> GradientReport:
    r"""Compare a gradient with central differences of the function, entry by entry.

    With :math:`e_i` the unit vector of entry i,

    .. math::

        d\theta^{approx}_i = \frac{f(\theta + h_i e_i) - f(\theta - h_i e_i)}
                                  {\theta^+_i - \theta^-_i},
        \qquad h_i = \varepsilon \max(1, |\theta_i|),

    where the denominator is the difference of the two representable numbers at which
    f was evaluated, and

    .. math::

        \mathrm{relative\ error} = \frac{\|d\theta^{approx} - d\theta\|_2}
            {\|d\theta^{approx}\|_2 + \|d\theta\|_2}.

    Parameters
    ----------
    fun : callable
        ``fun(params)`` returns a real scalar. It must be deterministic and must not
        modify its argument.
    params : array, list, tuple or dict
        Where to check: a float32 or float64 array of any shape and layout, or a list,
        tuple or dict of such, nested as you like. Floats in a list or dict are
        parameters too. `fun` receives this very object; its entries are **perturbed
        in place**, so that a function that reads the arrays without looking at its
        argument works as well, and are restored bit for bit whatever happens.
        An array must be writable and must appear once.
    grad : like `params`, or callable
        The gradient to check: the same structure and shapes, or a function of
        `params` that returns it.
    eps : float, optional
        The relative step, 1e-7 by default; for float32 parameters 4.9e-3, the cube
        root of the machine epsilon.
    n_threads : int, optional
        How many threads call `fun` at once. The default is 1: most Python functions
        hold the GIL, and threads would only slow them down. With more, each thread
        has its own copy of `params`, so `fun` **must use its argument**. The report
        is the same, bit for bit.
    thresholds : (float, float), optional
        The relative errors below which a gradient is correct, and from which it is
        wrong: (1e-7, 1e-3) by default, (1e-3, 1e-1) if the parameters or the
        function's values are float32, whose precision cannot meet the former.

    Returns
    -------
    GradientReport
        `relative_error`, `verdict`, `ok`, `blocks` (one record per array),
        `worst(k)`, `diagnosis` and more; it prints as a table.

    Raises
    ------
    TypeError
        If a parameter is not float32 or float64, if `fun` does not return a real
        scalar, if `grad` is not built like `params`.
    ValueError
        If a shape differs, an array is read-only, not finite or appears twice, or
        `fun` modifies its argument.

    Notes
    -----
    The verdict is the strongest finding over the arrays, so that a small array is not
    hidden by a large one: wrong, then suspicious, inconclusive, correct. Per array:

    1. Each entry has an error estimate, the rounding of two values of f over the
       distance of the points. Of a difference, ten times that is not held against
       the gradient; the rest is its *excess*.
    2. *wrong*: the norm of the excesses is at least ``thresholds[1]`` of the norms of
       both gradients, or one entry's excess is at least that share of the entry.
       *suspicious*: at least ``thresholds[0]`` of the norms, or the geometric mean of
       both thresholds (1e-5) of one entry.
    3. Otherwise *correct* if the relative error is below ``thresholds[0]``, or if
       rounding explains it and could hide less than ``thresholds[1]``;
       *inconclusive* if rounding could hide more, or values are not finite. A random
       function is always *inconclusive*.

    Before an array is called anything but correct, the noise of f is measured (Moré &
    Wild 2011) and its worst entries are examined with other steps and
    Richardson's extrapolation: those that agree were faults of the step; those where
    the one-sided differences disagree, with the analytic value between them, sit on a
    kink and are left out. So a correct gradient costs 2 n + 2 evaluations.

    References
    ----------
    J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM J. Sci.
    Comput. 33 (2011) 1292-1314.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    >>> params = {"w": rng.normal(size=3), "b": np.zeros(1)}
    >>> def loss(p):
    ...     return np.mean((X @ p["w"] + p["b"] - y) ** 2)
    >>> def gradient(p):
    ...     residual = X @ p["w"] + p["b"] - y
    ...     return {"w": X.T @ residual / 10, "b": residual.mean(keepdims=True)}
    >>> report = fanin.check_gradient(loss, params, gradient)
    >>> report.verdict, report.blocks["w"].verdict
    ('wrong', 'correct')
    >>> print(report.diagnosis[0])  # doctest: +ELLIPSIS
    b: numeric is 2 times analytic: a factor 2 is missing...
    """
    start = time.perf_counter()
    if not callable(fun):
        raise TypeError(f"fun must be callable; got {type(fun).__name__}")
    if eps is not None:
        eps = real(eps, "eps", minimum=0.0, maximum=1.0, open_minimum=True)
    if thresholds is not None:
        thresholds = _check_thresholds(thresholds)
    threads = 1 if n_threads is None else _threads.resolve(n_threads)

    parameters = Parameters(params)
    try:
        analytic, unit = _analytic(grad, parameters)
        check = _Check(fun, parameters, eps)
        report = check.run(analytic, unit, thresholds, threads)
    finally:
        parameters.restore()
    report.elapsed = time.perf_counter() - start
    return report


def check_compiled(
    fun: Function,
    params: Any,
    gradient: Any,
    differences: Callable[..., None],
    gradient_noise: Callable[[], NDArray[np.float64]],
    *,
    eps: float,
    thresholds: tuple[float, float],
) -> GradientReport:
    """Check a gradient as `check_gradient` does, with differences by compiled code.

    ``differences(step, f_plus, f_minus, difference, span)`` fills the last four for
    all entries at once, without changing `params`; its ``difference`` may know more
    digits than ``f_plus - f_minus``. `fun` serves for the second looks, before which
    ``gradient_noise()`` says how far rounding has moved each entry of `gradient`.
    """
    start = time.perf_counter()
    parameters = Parameters(params)
    try:
        analytic, unit = flatten_gradient(gradient, parameters, "gradient")
        check = _CompiledCheck(fun, parameters, eps, differences, gradient_noise)
        report = check.run(analytic, unit, thresholds, 1)
    finally:
        parameters.restore()
    report.elapsed = time.perf_counter() - start
    return report


def _check_thresholds(thresholds: Any) -> tuple[float, float]:
    try:
        low, high = thresholds
    except (TypeError, ValueError):
        raise ValueError(
            f"thresholds must be two numbers (correct below, wrong from); "
            f"got {thresholds!r}"
        ) from None
    low = real(low, "thresholds[0]", minimum=0.0, open_minimum=True)
    high = real(high, "thresholds[1]", maximum=1.0)
    if not low < high:
        raise ValueError(f"thresholds must increase; got ({low:g}, {high:g})")
    return low, high


def _analytic(
    grad: Any, parameters: Parameters
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not callable(grad):
        return flatten_gradient(grad, parameters)
    value = grad(parameters.structure)
    found = flatten_gradient(value, parameters, "grad(params)")
    _refuse_change(parameters, "grad")
    return found


def _refuse_change(parameters: Parameters, who: str) -> None:
    changed = parameters.changed()
    if changed is not None:
        raise ValueError(
            f"{who} modified {changed}; it must leave its argument as it is "
            "(the parameters have been restored)"
        )


def _scalar(value: Any) -> float:
    """Return what `fun` returned as a float, or say why it cannot be one."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if isinstance(value, np.ndarray):
        if value.size == 1 and value.dtype.kind in "fiu":
            return float(value.item())
        raise TypeError(
            "fun must return a real scalar; got an array of shape "
            f"{value.shape} and dtype {value.dtype}"
        )
    if not isinstance(
        value, (bool, np.bool_, str, bytes, complex, np.complexfloating)
    ) and hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"fun must return a real scalar; got {kind.__name__}")


def _epsilon_of(value: Any) -> float:
    """Return the machine epsilon of what `fun` returned."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return EPS64
    try:
        found = np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        return EPS32 if "float16" in str(dtype) else EPS64
    if found.kind != "f":
        return EPS64
    return max(EPS64, float(np.finfo(found).eps))


def _points(
    theta: NDArray[np.float64],
    step: NDArray[np.float64] | float,
    dtype: np.dtype[Any],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Return the representable points on both sides, and how far they are apart."""
    with np.errstate(over="ignore", under="ignore"):
        here = theta.astype(dtype)
        plus = (theta + step).astype(dtype)
        minus = (theta - step).astype(dtype)
        # Never no step at all, however small eps is.
        plus = np.where(plus > here, plus, np.nextafter(here, dtype.type(np.inf)))
        minus = np.where(minus < here, minus, np.nextafter(here, dtype.type(-np.inf)))
    return plus, minus, plus.astype(np.float64) - minus.astype(np.float64)


class _Check:
    """One check of one function: where it evaluates, and how often."""

    def __init__(self, fun: Function, parameters: Parameters, eps: float | None):
        self.fun, self.parameters = fun, parameters
        self.n = parameters.size
        theta = parameters.vector
        self.step = np.empty(self.n)
        dtypes = {block.dtype for block in parameters.blocks if block.size}
        # The step named in the report is the coarsest that was used.
        self.eps = max(STEPS[d] for d in dtypes) if eps is None else eps
        for block in parameters.blocks:
            relative = STEPS[block.dtype] if eps is None else eps
            self.step[block.where] = relative * np.maximum(
                1.0, np.abs(theta[block.where])
            )
        self.single = np.dtype(np.float32) in dtypes
        self.f_plus, self.f_minus = np.empty(self.n), np.empty(self.n)
        self.span = np.empty(self.n)
        self.n_evaluations = 0

    def run(
        self,
        analytic: NDArray[np.float64],
        unit: NDArray[np.float64],
        thresholds: tuple[float, float] | None,
        threads: int,
    ) -> GradientReport:
        parameters = self.parameters
        self.analytic = analytic
        value = self.fun(parameters.structure)
        self.base = _scalar(value)
        self.epsilon = _epsilon_of(value)
        _refuse_change(parameters, "fun")
        if thresholds is None:
            coarse = self.single or self.epsilon > EPS64
            thresholds = THRESHOLDS32 if coarse else THRESHOLDS64
        self.thresholds = thresholds

        self._differences(type(value), threads)
        again = _scalar(self.fun(parameters.structure))
        _refuse_change(parameters, "fun")
        self.n_evaluations = 2 * self.n + 2
        same = self.base == again or (math.isnan(self.base) and math.isnan(again))

        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            self.numeric = self._difference() / self.span
        self.own_error = unit * np.abs(analytic)
        self.status = np.zeros(self.n, np.int8)
        self.noise = 0.0
        report = self._report(same)
        if not same or report.ok or not math.isfinite(self.base):
            return report
        self.noise = self._measure_noise()
        self.own_error += self._gradient_noise()
        report = self._report(same)
        if not report.ok:
            self._examine(report)
            report = self._report(same)
        _refuse_change(parameters, "fun")
        return report

    def _difference(self) -> NDArray[np.float64]:
        return self.f_plus - self.f_minus

    def _gradient_noise(self) -> NDArray[np.float64] | float:
        """Return the error of the analytic entries beyond that of their last digit."""
        return 0.0

    def _report(self, deterministic: bool) -> GradientReport:
        blocks = self.parameters.blocks
        self.error = self.own_error + _report.rounding_error(
            self.f_plus, self.f_minus, self.span, self.epsilon, self.noise
        )
        return GradientReport._from_vectors(
            self.analytic,
            self.numeric,
            [(block.name, block.where, block.shape) for block in blocks],
            eps=self.eps,
            thresholds=self.thresholds,
            step=self.span / 2,
            f_plus=self.f_plus,
            f_minus=self.f_minus,
            error_estimate=self.error,
            status=self.status.copy(),
            deterministic=deterministic,
            template=self.parameters.template,
            n_evaluations=self.n_evaluations,
        )

    # -- the differences -----------------------------------------------------------

    def _chunks(self, threads: int) -> list[tuple[int, int, int]]:
        """Return (block, first, last) ranges; what they compute depends on no other."""
        size = CHUNK
        if threads > 1:  # enough pieces for threads to end together
            size = min(CHUNK, max(1, -(-self.n // (8 * threads))))
        return [
            (b, first, min(first + size, block.where.stop))
            for b, block in enumerate(self.parameters.blocks)
            for first in range(block.where.start, block.where.stop, size)
        ]

    def _differences(self, kind: type, threads: int) -> None:
        chunks = self._chunks(threads)
        threads = min(threads, len(chunks))
        stop = threading.Event()
        if threads == 1:
            for chunk in chunks:
                self._chunk(self.parameters, chunk, kind, stop)
            return

        local = threading.local()

        def task(chunk: tuple[int, int, int]) -> None:
            if stop.is_set():
                return
            if not hasattr(local, "parameters"):
                local.parameters = self.parameters.duplicate()
            try:
                self._chunk(local.parameters, chunk, kind, stop)
            except BaseException:
                stop.set()
                raise

        from concurrent.futures import Future, ThreadPoolExecutor  # slow to import

        with ThreadPoolExecutor(threads, "fanin-check") as pool:
            futures: list[Future[None]] = []
            try:
                futures.extend(pool.submit(task, chunk) for chunk in chunks)
                for future in futures:
                    future.result()
            finally:
                # Also after Ctrl-C here: the threads end with their evaluation.
                stop.set()
                for future in futures:
                    future.cancel()

    def _chunk(
        self,
        parameters: Parameters,
        chunk: tuple[int, int, int],
        kind: type,
        stop: threading.Event,
    ) -> None:
        b, first, last = chunk
        block = self.parameters.blocks[b]
        here = slice(first, last)
        theta = self.parameters.vector[here]
        plus, minus, span = _points(theta, self.step[here], block.dtype)
        self.span[here] = span
        points = zip(plus.tolist(), minus.tolist(), theta.tolist(), strict=True)
        above: list[Any] = []
        below: list[Any] = []

        # The lean loop: names are local, values of a type that is safe to keep are
        # converted at the end.
        fun, argument, slot = self.fun, parameters.structure, parameters.slots[b]
        if kind not in _PLAIN_TYPES:
            kind = float
        is_set = stop.is_set
        add_above, add_below = above.append, below.append
        for j, (up, down, back) in enumerate(points, first - block.where.start):
            slot[j] = up
            value = fun(argument)
            add_above(value if type(value) is kind else _scalar(value))
            slot[j] = down
            value = fun(argument)
            add_below(value if type(value) is kind else _scalar(value))
            slot[j] = back
            if is_set():
                return
        self.f_plus[here] = above
        self.f_minus[here] = below

    # -- second thoughts, taken before anything but "correct" is said --------------

    def _block_of(self, i: int) -> int:
        for b, block in enumerate(self.parameters.blocks):
            if block.where.start <= i < block.where.stop:
                return b
        raise IndexError(i)

    def _at(self, changes: list[tuple[int, int, float, float]]) -> float:
        """Evaluate with some entries changed: (block, entry, value, old value)."""
        slots = self.parameters.slots
        for b, j, value, _ in changes:
            slots[b][j] = value
        found = _scalar(self.fun(self.parameters.structure))
        for b, j, _, old in changes:
            slots[b][j] = old
        self.n_evaluations += 1
        return found

    def _measure_noise(self) -> float:
        """Return the standard deviation of the noise in f (Moré & Wild 2011, sec. 4).

        Along a short line the values of f are smooth up to rounding, and differences
        of order k of a noise with deviation s have the mean square s^2 (2k)!/(k!)^2.
        Two lines, through a few entries each, and the smallest of the estimates: a
        kink on a line makes its estimate too large, never too small.
        """
        rng = np.random.default_rng(0)
        estimates = []
        for _ in range(2):
            chosen = rng.choice(self.n, size=min(16, self.n), replace=False)
            places = []
            for i in chosen.tolist():
                b = self._block_of(i)
                block = self.parameters.blocks[b]
                places.append((b, i - block.where.start, i))
            signs = rng.choice([-1.0, 1.0], size=len(places))
            values = []
            for k in range(1, 9):
                changes = []
                for (b, j, i), sign in zip(places, signs.tolist(), strict=True):
                    old = float(self.parameters.vector[i])
                    move = sign * k * float(self.step[i]) / 4
                    # In steps of the dtype, as a NumPy scalar of it would be.
                    new = float(self.parameters.blocks[b].dtype.type(old + move))
                    changes.append((b, j, new, old))
                values.append(self._at(changes))
            if not np.isfinite(values).all():
                continue
            table = np.array(values)
            # Relative to the largest value, so that squares neither over- nor
            # underflow.
            unit = float(np.max(np.abs(table)))
            if unit == 0.0:
                return 0.0
            table = table / unit
            line = []
            for k in range(1, 6):
                table = np.diff(table)
                if k >= 3:  # lower orders still see the function's own curvature
                    gamma = math.factorial(k) ** 2 / math.factorial(2 * k)
                    line.append(math.sqrt(gamma * float(np.mean(table**2))) * unit)
            estimates.append(min(line))
        return min(estimates, default=0.0)

    def _examine(self, report: GradientReport) -> None:
        """Look at the worst entries of each array that is not correct once more."""
        budget = max(AGAIN_IN_ALL, self.n // 12)
        records = [r for r in report.blocks.values() if r.verdict != "correct"]
        # The strongest findings first, should the budget not reach all.
        scores = report._scores()
        records.sort(key=lambda record: -scores[record.name])
        by_name = {block.name: b for b, block in enumerate(self.parameters.blocks)}
        for record in records:
            b = by_name[record.name]
            where = self.parameters.blocks[b].where
            excess = report._excess[where]
            flagged = np.flatnonzero((excess > 0) & np.isfinite(self.numeric[where]))
            if flagged.size == 0:
                if not np.isfinite(self.numeric[where]).all():
                    continue
                flagged = np.arange(record.n)  # rounding hides all of it
            # The numeric norm may be the step's own nonsense.
            rms = record.analytic_norm / math.sqrt(record.n)
            outcomes: list[int] = []
            by_ratio = flagged[np.argsort(-report._ratio[where][flagged])]
            by_excess = flagged[np.argsort(-excess[flagged])]
            both = np.stack([by_ratio, by_excess], axis=1).ravel().tolist()
            for j in dict.fromkeys(both):
                if budget == 0:
                    break
                # Enough if the array is wrong; to clear it, all must be cleared.
                if len(outcomes) >= AGAIN and _report.WRONG in outcomes:
                    break
                budget -= 1
                outcomes.append(self._look_again(b, j, rms))
                self.status[where.start + j] = outcomes[-1]
            rest = flagged[self.status[where][flagged] == _report.PLAIN] + where.start
            if rest.size and outcomes and _report.WRONG not in outcomes:
                self._infer(rest, outcomes, record.relative_error)

    def _infer(
        self, rest: NDArray[np.intp], outcomes: list[int], relative_error: float
    ) -> None:
        """Give a status to the entries beyond the budget, whose worst are cleared."""
        if set(outcomes) == {_report.AGREES} and relative_error < self.thresholds[0]:
            # The step's own error showed in entries that are small, as it did in the
            # worst of them; the array as a whole agrees.
            self.status[rest] = _report.AGREES
            return
        self.status[rest] = (
            _report.BLURRED if _report.BLURRED in outcomes else _report.UNRESOLVED
        )
        if _report.KINK in outcomes:
            half = self.span[rest] / 2
            slopes = np.stack(
                [self.f_plus[rest] - self.base, self.base - self.f_minus[rest]]
            )
            slopes /= half
            slack = _report.ALLOWANCE * self.error[rest]
            a = self.analytic[rest]
            between = (slopes.min(0) - slack <= a) & (a <= slopes.max(0) + slack)
            self.status[rest[between]] = _report.KINK

    def _look_again(self, b: int, j: int, rms: float) -> int:
        """Examine one entry with other steps; return its status."""
        block = self.parameters.blocks[b]
        i = block.where.start + j
        theta = self.parameters.vector[i]
        a = float(self.analytic[i])
        low, high = self.thresholds
        first = float(self.step[i])
        size = max(1.0, abs(float(theta)))
        steps = [
            first * k for k in FACTORS if k <= 1 or first * k <= LARGEST_STEP * size
        ]
        own = STEPS[block.dtype] * abs(float(theta))
        if 0 < own < first / 4096:  # the floor of the step is far above the parameter
            steps[:0] = [own, own * 64]
        found = []  # (step, central, its error, forward, backward)
        for h in steps:
            plus, minus, _ = _points(theta, h, block.dtype)
            up, down, old = float(plus), float(minus), float(theta)
            if not (down < old < up):
                continue
            f_up = self._at([(b, j, up, old)])
            f_down = self._at([(b, j, down, old)])
            if not (math.isfinite(f_up - f_down) and math.isfinite(self.base)):
                continue
            # The noise was measured at steps like the first, which says nothing of
            # those that are smaller by many orders.
            size_here = max(abs(f_up), abs(f_down), abs(self.base))
            noise = self.noise if h >= first / 64 else 0.0
            value = max(self.epsilon * size_here, noise, 5e-324)
            found.append(
                (
                    h,
                    (f_up - f_down) / (up - down),
                    value / (up - down),
                    (f_up - self.base) / (up - old),
                    (self.base - f_down) / (old - down),
                )
            )
        if not found:
            return int(_report.UNRESOLVED)

        estimates = [(x, e) for _, x, e, _, _ in found]
        # Two steps cancel the h^2 term of the truncation error (Richardson).
        for (h, x, e, _, _), (h2, x2, e2, _, _) in pairwise(found):
            r = (h2 / h) ** 2
            if r > 1e6:
                continue
            estimates.append(
                (
                    (r * x - x2) / (r - 1),
                    (r * e + e2) / (r - 1) + EPS64 * (abs(x) + abs(x2)),
                )
            )
        own_error = float(self.own_error[i])
        original = abs(float(self.numeric[i]) - a)

        def slack(e: float) -> float:
            return _report.ALLOWANCE * (e + own_error)

        agree = [
            (x, e)
            for x, e in estimates
            if abs(x - a) <= slack(e) + low * (abs(x) + abs(a))
        ]
        # An estimate decides if it would have shown an error of the entry. One that
        # is noisier than the first must come nearer, not only be too vague to object.
        coarse = 2 * float(self.error[i])
        if any(
            slack(e) <= high * (abs(x) + abs(a))
            and (e <= coarse or abs(x - a) <= original / 4)
            for x, e in agree
        ):
            return int(_report.AGREES)
        # Values at two steps that agree with each other, not with the analytic one.
        if self._on_kink(found, a):
            return int(_report.KINK)
        for (_, x, e, _, _), (_, x2, e2, _, _) in pairwise(found):
            between = abs(x - x2) + e + e2
            nearest = min(abs(x - a), abs(x2 - a))
            if nearest > max(slack(e), slack(e2), 2 * between):
                return int(_report.WRONG)
        # A gradient near zero: no estimate shows it, but one shows that it is small
        # beside the array's typical entry, or the difference seen first.
        if any(slack(e) <= max(1e-3 * original, high * rms) for _, e in agree):
            return int(_report.AGREES)
        return int(_report.BLURRED if agree else _report.UNRESOLVED)

    def _on_kink(
        self, found: list[tuple[float, float, float, float, float]], a: float
    ) -> bool:
        """Whether the slopes on both sides are not those of one smooth function.

        Of a smooth function the slopes differ by h f'', so that a step eight times
        as large makes the difference eight times as large. A kink on one side
        leaves the slope on the other side what it is: the analytic value must be
        one of both, or lie between them, at the smallest step.
        """
        broken = False
        for (h, _, e, up, down), (h2, _, e2, up2, down2) in pairwise(found):
            jump, jump2 = abs(up - down), abs(up2 - down2)
            expected = jump2 * (h / h2)
            slack = _report.ALLOWANCE * (e + e2) + 0.1 * max(expected, jump)
            broken = broken or abs(jump - expected) > slack
        _, _, e, up, down = found[0]
        slack = _report.ALLOWANCE * e
        low, high = sorted((up, down))
        return broken and low - slack <= a <= high + slack


class _CompiledCheck(_Check):
    """A check whose differences come from compiled code, in one call."""

    def __init__(
        self,
        fun: Function,
        parameters: Parameters,
        eps: float | None,
        differences: Callable[..., None],
        gradient_noise: Callable[[], NDArray[np.float64]],
    ):
        super().__init__(fun, parameters, eps)
        self.differences = differences
        self._gradient_noise = gradient_noise  # type: ignore[method-assign]
        self.difference = np.empty(self.n)

    def _differences(self, kind: type, threads: int) -> None:
        self.differences(
            self.step, self.f_plus, self.f_minus, self.difference, self.span
        )

    def _difference(self) -> NDArray[np.float64]:
        return self.difference
