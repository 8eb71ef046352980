"""Gradient checking: whether a hand-written gradient is right, and where not."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FunctionType
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fanin import _threads
from fanin import _validation as check
from fanin._evaluate import (
    THRESHOLDS32,
    THRESHOLDS64,
    Check,
    CompiledCheck,
    Function,
    refuse_change,
)
from fanin._report import (
    BlockRecord,
    DirectionRecord,
    EntryRecord,
    GradientError,
    GradientReport,
)
from fanin._selection import Selection
from fanin._structure import Parameters, flatten_gradient

__all__ = [
    "THRESHOLDS32",
    "THRESHOLDS64",
    "BlockRecord",
    "DirectionRecord",
    "EntryRecord",
    "GradientError",
    "GradientReport",
    "check_gradient",
]

METHODS = ("central", "complex")


def check_gradient(
    fun: Function,
    params: Any,
    grad: Any,
    *,
    eps: float | None = None,
    method: str = "central",
    indices: Any = None,
    directions: int = 0,
    vectorized: bool = False,
    n_threads: SupportsIndex | None = None,
    rng: Any = None,
    time_limit: float | None = None,
    progress: bool = False,
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
    if eps is not None:
        eps = check.real(eps, "eps", minimum=0.0, maximum=1.0, open_minimum=True)
    if thresholds is not None:
        thresholds = _check_thresholds(thresholds)
    check.choice(method, METHODS, "method")
    directions = check.integer(directions, "directions", minimum=0)
    if time_limit is not None:
        time_limit = check.real(time_limit, "time_limit", minimum=0, open_minimum=True)

    parameters = Parameters(params)
    try:
        looked, threads = _make_check(
            fun, parameters, eps, method, vectorized, n_threads
        )
        analytic, unit = _analytic(grad, parameters)
        selection = None
        if indices is not None or directions or time_limit is not None:
            generator = check.generator(rng)
            selection = Selection(indices, parameters, generator)
        elif rng is not None:
            check.generator(rng)
        report = looked.run(
            analytic,
            unit,
            thresholds,
            selection=selection,
            n_threads=threads,
            n_directions=directions,
            time_limit=time_limit,
            progress=progress,
        )
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
    error_estimate: NDArray[np.float64] | None = None,
    status: NDArray[np.int8] | None = None,
) -> GradientReport:
    """Check a gradient as `check_gradient` does, with differences by compiled code.

    ``differences(step, f_plus, f_minus, difference, span)`` fills the last four for
    all entries at once, without changing `params`; its ``difference`` may know more
    digits than ``f_plus - f_minus``. It may fill `error_estimate`, the typical error
    of each quotient, and `status` (KINK, say), which are looked at afterwards. `fun`
    serves for the second looks, before which ``gradient_noise()`` says how far
    rounding has moved each entry of `gradient`.
    """
    start = time.perf_counter()
    parameters = Parameters(params)
    try:
        analytic, unit = flatten_gradient(gradient, parameters, "gradient")
        looked = CompiledCheck(
            fun, parameters, eps, differences, gradient_noise, error_estimate, status
        )
        report = looked.run(analytic, unit, thresholds)
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
    low = check.real(low, "thresholds[0]", minimum=0.0, open_minimum=True)
    high = check.real(high, "thresholds[1]", maximum=1.0)
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
    refuse_change(parameters, "grad")
    return found


def _make_check(
    fun: Any,
    parameters: Parameters,
    eps: float | None,
    method: str,
    vectorized: bool,
    n_threads: SupportsIndex | None,
) -> tuple[Check, int]:
    """Return the check that serves this function, and how many threads it takes."""
    compiled = False
    if not isinstance(fun, FunctionType):
        from fanin._custom import is_compiled

        compiled = is_compiled(fun)
    if compiled or vectorized or method == "complex":
        from fanin import _methods

        said = {
            'method="complex"': method == "complex",
            "vectorized=True": vectorized,
            "a function in C": compiled,
        }
        both = [name for name, given in said.items() if given]
        if len(both) > 1:
            raise ValueError(f"{both[0]} and {both[1]} do not go together")
        if compiled:
            threads = _threads.resolve(n_threads)
            return _methods.CallbackCheck(fun, parameters, eps, threads), threads
        kind = _methods.VectorizedCheck if vectorized else _methods.ComplexCheck
    else:
        kind = Check
    if not callable(fun):
        raise TypeError(f"fun must be callable; got {type(fun).__name__}")
    threads = 1 if n_threads is None else _threads.resolve(n_threads)
    return kind(fun, parameters, eps), threads
