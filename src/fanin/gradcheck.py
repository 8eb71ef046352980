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
    Check,
    CompiledCheck,
    Differences,
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
    "BlockRecord",
    "DirectionRecord",
    "EntryRecord",
    "GradientError",
    "GradientReport",
    "check_gradient",
    "check_hessian_product",
    "check_vjp",
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
        modify its argument. Or a compiled function ``double f(const double *theta,
        intptr_t n[, void *user_data])``, as a SciPy `LowLevelCallable`, a ctypes
        function or a `numba.cfunc`: it gets all parameters, float64, as one vector,
        and runs without the GIL on all cores. One that takes user data must be a
        `scipy.LowLevelCallable(f, user_data)` (of a `numba.cfunc`, with its
        ``.ctypes``), which brings them.
    params : array, list, tuple or dict
        Where to check: a float32 or float64 array of any shape and layout, or a list,
        tuple or dict of such, nested as you like. Floats in a list or dict are
        parameters too. Of a complex array z = a + ib the real and the imaginary part
        are checked, as two arrays of the report; its gradient is
        :math:`\partial L/\partial a + i\,\partial L/\partial b`, as PyTorch has it
        (JAX returns the conjugate).
        `fun` receives this very object; its entries are **perturbed in place**, so that
        a function that reads the arrays without looking at its argument works as well,
        and are restored bit for bit whatever happens.
        An array must be writable and must appear once.
    grad : like `params`, or callable
        The gradient to check: the same structure and shapes, or a function of
        `params` that returns it.
    eps : float, optional
        The relative step, 1e-7 by default; for float32 parameters, or values of
        `fun` that are float32, 4.9e-3, the cube root of the machine epsilon; 1e-20
        for the complex step.
    method : {"central", "complex"}, default="central"
        "complex" takes :math:`d\theta^{approx}_i = \operatorname{Im}
        f(\theta + i h_i e_i) / h_i` (Squire & Trapp 1998), one evaluation an entry and
        no cancellation: 16 digits. `fun` gets complex128 copies of `params`, must use
        them and be made of functions that are analytic (no ``abs``, ``conj`` or
        ``real``); the caller's arrays are not touched. Real differences examine what
        disagrees.
    indices : int, mask or array of int, optional
        Which entries to check; by default all. An int is the size of a random sample
        with a share of each array like that of its size, at least one where the number
        allows; `diagnosis` says what share of faulty entries it would have found, and
        if it leaves out whole arrays the verdict is at best "inconclusive". A mask is
        built like `params` of Boolean arrays, or flat; integers are flat indices, in
        the order of the structure and C order in each array. `numeric` is NaN
        elsewhere.
    directions : int, default=0
        Random directional derivatives on top, with entries
        :math:`\pm\max(1, |\theta_i|)` for all entries, also those that are not
        checked, compared with the product of the analytic gradient. If one
        disagrees, the direction is halved until the entry at fault is found, which
        is then checked as well. They are in `report.directions`.
    vectorized : bool, default=False
        `fun` takes a stack of k points, each array with an axis of k in front (and
        each float an array of k), and returns k values: one call for many points. A
        stack takes some MB. Three points show first whether it mixes them.
    n_threads : int, optional
        How many threads call `fun` at once. The default is 1: most Python functions
        hold the GIL, and threads would only slow them down. With more, each thread
        has its own copy of `params`, so `fun` **must use its argument**. The report
        is the same, bit for bit. A function in C has all cores by default
        (`fanin.set_num_threads`).
    rng : None, int, SeedSequence or Generator, optional
        For the sample, the directions and the order under a time limit.
    time_limit : float, optional
        Seconds after which no more differences are taken. The order is then random,
        one entry of each array first, and `diagnosis` says what share of faulty
        entries those that were reached would have shown; an array of which none was
        reached makes the verdict "inconclusive". Second looks and directions, where
        they are needed, end after as long again.
    progress : bool, default=False
        Show a progress bar (needs tqdm).
    thresholds : (float, float), optional
        The relative errors below which a gradient is correct, and from which it is
        wrong: (1e-7, 1e-3) by default, (1e-3, 1e-1) if the parameters or the
        function's values are float32, whose precision cannot meet the former. Where
        rounding in float32 hides too much to decide, and `fun` (and `grad`, if it is a
        function) computes in float64 if its parameters are, float64 copies decide.

    Returns
    -------
    GradientReport
        `relative_error`, `verdict`, `ok`, `blocks` (one record per array),
        `worst(k)`, `diagnosis` and more; it prints as a table.

    Raises
    ------
    TypeError
        If a parameter is not float32, float64 or complex, if `fun` does not return a
        real scalar, if `grad` is not built like `params`; if `fun` returns real
        numbers for the complex step, or is compiled with another prototype.
    ValueError
        If a shape differs, an array is read-only, not finite or appears twice, or
        `fun` modifies its argument.
    ImportError
        If `progress` is asked for and tqdm is not installed.

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
    kink and are left out. So a correct gradient costs 2 n + 1 evaluations.

    References
    ----------
    J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM J. Sci.
    Comput. 33 (2011) 1292-1314.

    W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real
    functions", SIAM Review 40 (1998) 110-112.

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

    A sample, and two directional derivatives that see the rest:

    >>> X, y = rng.normal(size=(50, 4000)), rng.normal(size=50)
    >>> w = rng.normal(size=4000)
    >>> wrong = X.T @ (X @ w - y)
    >>> wrong[1234] *= 1.01
    >>> report = fanin.check_gradient(
    ...     lambda w: np.sum((X @ w - y) ** 2) / 2, w, wrong,
    ...     indices=100, directions=2, rng=0)
    >>> report.verdict, report.n_evaluations < 1000
    ('wrong', True)
    >>> report.worst(1)[0].index
    (1234,)
    """
    start = time.perf_counter()
    options = _options(eps, thresholds, directions, time_limit)
    eps = options.pop("eps")
    check.choice(method, METHODS, "method")

    parameters = Parameters(params)
    try:
        looked, threads = _make_check(
            fun, parameters, eps, method, vectorized, n_threads
        )
        analytic, unit = _analytic(grad, parameters)
        if callable(grad):
            looked.gradient_at = lambda: flatten_gradient(
                grad(parameters.structure), parameters
            )[0]
        selection = None
        if indices is not None or directions or time_limit is not None:
            generator = check.generator(rng)
            selection = Selection(indices, parameters, generator)
        elif rng is not None:
            check.generator(rng)
        report = looked.run(
            analytic,
            unit,
            selection=selection,
            n_threads=threads,
            progress=progress,
            **options,
        )
        if not report.ok and looked.may_be_shadowed(eps):
            from fanin._shadow import shadow_report

            n = len(looked.notes)
            found = shadow_report(looked, grad, unit, report)
            # Where float32 finds an error, float64 may say that there is none: the
            # large step has passed kinks, say. It adds nothing if it agrees.
            if report.verdict == "inconclusive":
                report.diagnosis += looked.notes[n:]
                report = found or report
            elif found is not None and found.ok:
                report = found
    finally:
        parameters.restore()
    report.elapsed = time.perf_counter() - start
    return report


def check_vjp(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Any,
    *,
    eps: float | None = None,
    cotangents: int = 2,
    indices: Any = None,
    directions: int = 0,
    n_threads: SupportsIndex | None = None,
    rng: Any = None,
    time_limit: float | None = None,
    progress: bool = False,
    thresholds: tuple[float, float] | None = None,
) -> GradientReport:
    r"""Check the backward pass of a layer, a function of arrays that returns arrays.

    A backward pass is the product of a cotangent v, an array like the outputs, with
    the Jacobian J of the forward pass. For a random v,

    .. math::

        f(x) = \langle v, \mathrm{forward}(x) \rangle
        \quad\text{has the gradient}\quad J^T v = \mathrm{backward}(x, v),

    which is checked as `check_gradient` checks any gradient (the dot-product test of
    Claerbout 2014, entry by entry). A wrong Jacobian shows with probability one.

    Parameters
    ----------
    forward : callable
        ``forward(*inputs)`` returns an array of floats, or a tuple of such.
    backward : callable
        ``backward(*inputs, *cotangents)``, with one cotangent for each output, in
        its shape and dtype, returns the gradients of all inputs: a tuple in their
        order, or an array if there is one input.
    inputs : tuple or list, or one array
        The arguments: float arrays, or lists or dicts of such (parameters). What is
        not to be differentiated, such as labels, the functions must know otherwise.
        They are perturbed in place and restored bit for bit.
    eps, indices, directions, n_threads, time_limit, progress, thresholds
        As in `check_gradient`. Outputs of float32 have the thresholds of float32.
    cotangents : int, default=2
        How many random v. The first is checked as described; the others at a few
        entries and along two random directions, and `backward` must be linear in v.
    rng : None, int, SeedSequence or Generator, optional
        For the cotangents, the sample of `indices` and the directions.

    Returns
    -------
    GradientReport
        Its arrays have the names of the arguments of `forward`. With several
        cotangents, the report of the first that shows a fault.

    Raises
    ------
    TypeError, ValueError
        As `check_gradient`; if the outputs are not floats; if `forward` or
        `backward` modify the inputs.

    References
    ----------
    J. F. Claerbout, "Geophysical image estimation by example", 2014.

    Examples
    --------
    >>> import numpy as np
    >>> import fanin
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    >>> def forward(X, W):
    ...     return np.tanh(X @ W)
    >>> def backward(X, W, dY):
    ...     dZ = dY * (1 - np.tanh(X @ W) ** 2)
    ...     return dZ @ W.T, X.T @ dY  # dZ is meant
    >>> report = fanin.check_vjp(forward, backward, (X, W), rng=0)
    >>> {name: block.verdict for name, block in report.blocks.items()}
    {'X': 'correct', 'W': 'wrong'}
    """
    from fanin._products import name_inputs, product_report

    start = time.perf_counter()
    for name, function in (("forward", forward), ("backward", backward)):
        if not callable(function):
            raise TypeError(f"{name} must be callable; got {type(function).__name__}")
    options = _options(eps, thresholds, directions, time_limit)
    cotangents = check.integer(cotangents, "cotangents", minimum=1)
    generator = check.generator(rng)
    if not isinstance(inputs, (tuple, list)):
        inputs = (inputs,)
    parameters = Parameters(inputs, "inputs")
    name_inputs(parameters, forward)
    threads = 1 if n_threads is None else _threads.resolve(n_threads)
    try:
        report = product_report(
            forward,
            backward,
            parameters,
            n_cotangents=cotangents,
            indices=indices,
            n_threads=threads,
            rng=generator,
            progress=progress,
            **options,
        )
    finally:
        parameters.restore()
    report.elapsed = time.perf_counter() - start
    return report


def check_hessian_product(
    gradient: Callable[[Any], Any],
    hessian_product: Callable[[Any, Any], Any],
    params: Any,
    *,
    eps: float | None = None,
    directions: int = 3,
    rng: Any = None,
    thresholds: tuple[float, float] | None = None,
) -> GradientReport:
    r"""Check the product of a Hessian and a vector against differences of gradients.

    Along random vectors v with entries :math:`\pm\max(1, |\theta_i|) / \sqrt n`
    times 1/2, 1 or 2, rounded to powers of two,

    .. math::

        H v \approx \frac{\nabla f(\theta + h v) - \nabla f(\theta - h v)}{2 h},

    with three steps h, of which two cancel the :math:`h^2` term of the error
    (Richardson's extrapolation) and how far they agree is its estimate. And a Hessian
    is symmetric: :math:`u^T H v = v^T H u`.

    Parameters
    ----------
    gradient : callable
        ``gradient(params)`` returns the gradient, built like `params`. It is taken to
        be right: check it with `check_gradient` first.
    hessian_product : callable
        ``hessian_product(params, v)``, with v built like `params` and of its dtypes,
        returns H v, built like `params`.
    params : array, list, tuple or dict
        As in `check_gradient`: perturbed in place and restored bit for bit.
    eps : float, optional
        The largest of the three steps, by default 2^-13 in float64, each of the others
        an eighth of the one before; 2^-7 and a half in float32.
    directions : int, default=3
        How many random vectors: each costs six gradients. From two on the symmetry
        is checked.
    rng : None, int, SeedSequence or Generator, optional
        For the vectors.
    thresholds : (float, float), optional
        As in `check_gradient`.

    Returns
    -------
    GradientReport
        `numeric` and `analytic` are H v of the first vector that shows a fault, or
        of the first; `f_plus` and `f_minus` of its records are entries of gradients,
        and `n_evaluations` counts gradients. Entries whose gradient jumps within the
        step (a ReLU) are left out, listed and counted.

    Raises
    ------
    TypeError, ValueError
        As `check_gradient`.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import rosen_der, rosen_hess_prod
    >>> import fanin
    >>> x = np.array([1.3, 0.7, 0.8, 1.9, 1.2])
    >>> fanin.check_hessian_product(rosen_der, rosen_hess_prod, x, rng=0).verdict
    'correct'
    """
    from fanin._products import hessian_report

    start = time.perf_counter()
    for name, function in (
        ("gradient", gradient),
        ("hessian_product", hessian_product),
    ):
        if not callable(function):
            raise TypeError(f"{name} must be callable; got {type(function).__name__}")
    options = _options(eps, thresholds, directions, None, least=1)
    del options["time_limit"]
    generator = check.generator(rng)
    parameters = Parameters(params)
    try:
        report = hessian_report(
            gradient, hessian_product, parameters, rng=generator, **options
        )
    finally:
        parameters.restore()
    report.elapsed = time.perf_counter() - start
    return report


def _options(
    eps: Any, thresholds: Any, directions: Any, time_limit: Any, least: int = 0
) -> dict[str, Any]:
    """Return the options that the checks have in common, themselves checked."""
    if eps is not None:
        eps = check.real(eps, "eps", minimum=0.0, maximum=1.0, open_minimum=True)
    if thresholds is not None:
        thresholds = check_thresholds(thresholds)
    directions = check.integer(directions, "directions", minimum=least)
    if time_limit is not None:
        time_limit = check.real(time_limit, "time_limit", minimum=0, open_minimum=True)
    return {
        "eps": eps,
        "thresholds": thresholds,
        "n_directions": directions,
        "time_limit": time_limit,
    }


def check_compiled(
    fun: Function,
    params: Any,
    gradient: Any,
    differences: Differences,
    gradient_noise: Callable[[], NDArray[np.float64]],
    *,
    eps: float,
    thresholds: tuple[float, float],
    status: NDArray[np.int8] | None = None,
) -> GradientReport:
    """Check a gradient as `check_gradient` does, with differences by compiled code.

    ``differences(step, f_plus, f_minus, difference, span)`` fills the last four for
    all entries at once, without changing `params`; its ``difference`` may know more
    digits than ``f_plus - f_minus``. It returns which entries it has filled, sentences
    about the others, and whether an array was not reached that should have been. It
    may fill `status` (KINK, say), which is looked at afterwards. `fun` serves for the
    second looks, before which ``gradient_noise()`` says how far rounding has moved
    each entry of `gradient`.
    """
    start = time.perf_counter()
    parameters = Parameters(params)
    try:
        analytic, unit = flatten_gradient(gradient, parameters, "gradient")
        looked = CompiledCheck(
            fun, parameters, eps, differences, gradient_noise, status
        )
        report = looked.run(analytic, unit, thresholds)
    finally:
        parameters.restore()
    report.elapsed = time.perf_counter() - start
    return report


def check_thresholds(thresholds: Any) -> tuple[float, float]:
    """Return the thresholds as two floats that increase."""
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
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and np.ndim(value[0]) == 0
        and not isinstance(value[0], dict)
        and not isinstance(parameters.structure, (list, tuple))
    ):
        raise TypeError(
            "grad(params) must return the gradient; got a tuple of two, the first a "
            "scalar: if that is (loss, gradient), pass lambda p: grad(p)[1]"
        )
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
    kind: type[Check] = Check
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
    if not callable(fun):
        raise TypeError(f"fun must be callable; got {type(fun).__name__}")
    threads = 1 if n_threads is None else _threads.resolve(n_threads)
    return kind(fun, parameters, eps), threads
