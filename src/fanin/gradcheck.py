"""Gradient checking: whether a hand-written gradient is right, and where not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fanin import _report, _threads
from fanin._report import BlockRecord, EntryRecord, GradientError, GradientReport
from fanin._second_look import EPS32, EPS64, STEPS, SecondLook, points, scalar
from fanin._structure import Parameters, flatten_gradient
from fanin._validation import real

__all__ = [
    "BlockRecord",
    "EntryRecord",
    "GradientError",
    "GradientReport",
    "check_gradient",
]

# A float32 difference at that step is good to EPS32^(2/3) = 2.4e-5 of the function's
# value; 1e-3 leaves it the factor 50 that 1e-7 leaves a float64 one (2e-9).
THRESHOLDS64 = (1e-7, 1e-3)
THRESHOLDS32 = (1e-3, 1e-1)

# Entries whose Python floats are held at one time.
CHUNK = 4096

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
        if callable(grad):
            check.gradient_at = lambda: flatten_gradient(
                grad(parameters.structure), parameters
            )[0]
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


class _Check(SecondLook):
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
        self.base = scalar(value)
        self.epsilon = _epsilon_of(value)
        _refuse_change(parameters, "fun")
        if thresholds is None:
            coarse = self.single or self.epsilon > EPS64
            thresholds = THRESHOLDS32 if coarse else THRESHOLDS64
        self.thresholds = thresholds

        self._differences(type(value), threads)
        again = scalar(self.fun(parameters.structure))
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
        if not report.ok:
            self._finish(report)
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
        plus, minus, span = points(theta, self.step[here], block.dtype)
        self.span[here] = span
        triples = zip(plus.tolist(), minus.tolist(), theta.tolist(), strict=True)
        above: list[Any] = []
        below: list[Any] = []

        # The lean loop: names are local, values of a type that is safe to keep are
        # converted at the end.
        fun, argument, slot = self.fun, parameters.structure, parameters.slots[b]
        if kind not in _PLAIN_TYPES:
            kind = float
        is_set = stop.is_set
        add_above, add_below = above.append, below.append
        for j, (up, down, back) in enumerate(triples, first - block.where.start):
            slot[j] = up
            value = fun(argument)
            add_above(value if type(value) is kind else scalar(value))
            slot[j] = down
            value = fun(argument)
            add_below(value if type(value) is kind else scalar(value))
            slot[j] = back
            if is_set():
                return
        self.f_plus[here] = above
        self.f_minus[here] = below


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
