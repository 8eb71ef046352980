"""Checks of products: a layer's backward pass, and a Hessian times a vector."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanin import _report
from fanin._directions import DOUBLE, SINGLE, powers_of_two
from fanin._evaluate import (
    FLOAT32,
    THRESHOLDS32,
    THRESHOLDS64,
    Check,
    epsilon_of,
    refuse_change,
)
from fanin._report import KINK, PLAIN, GradientReport, norm
from fanin._second_look import EPS64
from fanin._selection import Selection
from fanin._structure import Parameters, flatten_gradient

Vector = NDArray[np.float64]

# Of the second cotangent on: entries and directions that are looked at.
FEW_ENTRIES, FEW_DIRECTIONS = 32, 2


# --- a layer's backward pass --------------------------------------------------------


def name_inputs(parameters: Parameters, forward: Callable[..., Any]) -> None:
    """Give the blocks the names of the arguments of `forward`, if it tells them."""
    n = len(parameters.structure)
    names = [f"input{k}" for k in range(n)]
    try:
        found = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # builtins tell nothing
        found = []
    for k, argument in enumerate(found[:n]):
        if argument.kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            break
        names[k] = argument.name
    for b, block in enumerate(parameters.blocks):
        for k, name in enumerate(names):
            head = f"[{k}]"
            if block.name.startswith(head):
                shown = name + block.name.removeprefix(head)
                parameters.blocks[b] = replace(block, name=shown)


def outputs_of(found: Any) -> tuple[NDArray[Any], ...]:
    """Return what a forward pass returned as a tuple of float arrays."""
    values = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    arrays = tuple(np.asarray(value) for value in values)
    for k, array in enumerate(arrays):
        if array.dtype.kind not in "fc":
            raise TypeError(
                "forward must return an array of floats, or a tuple of such; got dtype "
                f"{array.dtype}" + (f" in item {k}" if len(arrays) > 1 else "")
            )
    return arrays


def draw_like(
    arrays: tuple[NDArray[Any], ...], rng: np.random.Generator
) -> tuple[NDArray[Any], ...]:
    """Return standard normal numbers in the shapes and dtypes of some arrays."""

    def draw(array: NDArray[Any]) -> NDArray[Any]:
        found = rng.normal(size=array.shape)
        if array.dtype.kind == "c":
            return (found + 1j * rng.normal(size=array.shape)).astype(array.dtype)
        return np.asarray(found).astype(array.dtype)

    return tuple(draw(array) for array in arrays)


class ProductCheck(Check):
    """A check of f(inputs) = <cotangent, forward(*inputs)>."""

    def __init__(
        self,
        forward: Callable[..., Any],
        cotangent: tuple[NDArray[Any], ...],
        parameters: Parameters,
        eps: float | None,
    ) -> None:
        # In float64 whatever the outputs are: the sum adds no rounding of its own.
        kinds = [np.result_type(v.dtype, np.float64) for v in cotangent]
        weights = [
            v.astype(kind).ravel() for v, kind in zip(cotangent, kinds, strict=True)
        ]
        shapes = [v.shape for v in cotangent]
        self.precision = max(epsilon_of(v) for v in cotangent)

        def fun(inputs: Any) -> float:
            outputs = outputs_of(forward(*inputs))
            if [y.shape for y in outputs] != shapes:
                raise ValueError(
                    f"forward returned the shapes {[y.shape for y in outputs]} "
                    f"after {shapes}; they must not change"
                )
            return math.fsum(
                float(np.vdot(w, y.ravel().astype(w.dtype)).real)
                for w, y in zip(weights, outputs, strict=True)
            )

        super().__init__(fun, parameters, eps)

    def _epsilon(self, value: Any) -> float:
        return self.precision

    def _finish(self, report: GradientReport) -> None:
        report._layered = False  # the arrays are arguments
        super()._finish(report)


def product_report(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    parameters: Parameters,
    *,
    eps: float | None,
    n_cotangents: int,
    indices: Any,
    n_directions: int,
    n_threads: int,
    rng: np.random.Generator,
    time_limit: float | None,
    progress: bool,
    thresholds: tuple[float, float] | None,
) -> GradientReport:
    """Check a backward pass; see `fanin.check_vjp`."""
    inputs = parameters.structure
    outputs = outputs_of(forward(*inputs))
    refuse_change(parameters, "forward")

    def products(cotangent: tuple[NDArray[Any], ...]) -> tuple[Vector, Vector]:
        # (Copies: some backward passes work in place.)
        found = backward(*inputs, *(v.copy() for v in cotangent))
        if len(inputs) == 1 and not isinstance(found, (tuple, list)):
            found = (found,)
        vectors = flatten_gradient(found, parameters, "backward(...)")
        refuse_change(parameters, "backward")
        return vectors

    cotangents = [draw_like(outputs, rng) for _ in range(n_cotangents)]
    gradients = [products(v) for v in cotangents]
    reports = []
    for k, (v, (gradient, unit)) in enumerate(zip(cotangents, gradients, strict=True)):
        look = ProductCheck(forward, v, parameters, eps)
        few = min(max(FEW_ENTRIES, len(parameters.blocks)), parameters.size)
        try:
            report = look.run(
                gradient,
                unit,
                thresholds,
                selection=Selection(indices if k == 0 else few, parameters, rng),
                n_threads=n_threads,
                n_directions=n_directions if k == 0 else max(1, FEW_DIRECTIONS),
                time_limit=time_limit if k == 0 else None,
                progress=progress and k == 0,
            )
        finally:
            parameters.restore()
        reports.append(report)
    chosen, seen = reports[0], None
    for k, report in enumerate(reports):
        if not report.ok:
            chosen = report
            if k:
                seen = f"seen with random cotangent {k + 1} of {n_cotangents}"
            break
    chosen.n_evaluations = 1 + sum(report.n_evaluations for report in reports)
    _check_linear(chosen, parameters, products, cotangents, gradients)
    if seen is not None:
        chosen.diagnosis = [*chosen.diagnosis, seen]
    return chosen


def _check_linear(
    report: GradientReport,
    parameters: Parameters,
    products: Callable[[tuple[NDArray[Any], ...]], tuple[Vector, Vector]],
    cotangents: list[tuple[NDArray[Any], ...]],
    gradients: list[tuple[Vector, Vector]],
) -> None:
    """Find whether backward(v - u / 2) is backward(v) - backward(u) / 2."""
    if len(cotangents) < 2:
        return
    mixed = tuple(
        np.asarray(v - u / 2).astype(v.dtype)
        for v, u in zip(cotangents[0], cotangents[1], strict=True)
    )
    (first, _), (second, _) = gradients[:2]
    found, _ = products(mixed)
    bad = []
    for block in parameters.blocks:
        w = block.where
        with np.errstate(all="ignore"):
            off = norm(found[w] - (first[w] - second[w] / 2))
            size = norm(found[w]) + norm(first[w]) + norm(second[w])
        if off > report.thresholds[0] * size:  # (NaN is another finding)
            bad.append(block.name)
    if bad:
        report._find(
            "wrong",
            f"{', '.join(bad)}: backward is not linear in the cotangent, as every "
            "product with a Jacobian is: backward(v - u/2) is not backward(v) - "
            "backward(u)/2",
            bad,
        )


# --- second order -------------------------------------------------------------------


def hessian_report(
    gradient: Callable[[Any], Any],
    hessian_product: Callable[[Any, Any], Any],
    parameters: Parameters,
    *,
    eps: float | None,
    n_directions: int,
    rng: np.random.Generator,
    thresholds: tuple[float, float] | None,
) -> GradientReport:
    """Check H v; see `fanin.check_hessian_product`."""
    check = _HessianCheck(gradient, hessian_product, parameters, eps, thresholds)
    reports: list[GradientReport] = []
    pairs = []
    try:
        for _ in range(n_directions):
            v, product, report = check.direction(rng)
            pairs.append((v, product))
            reports.append(report)
    finally:
        parameters.restore()
    chosen = next((report for report in reports if not report.ok), reports[0])
    chosen.n_evaluations = check.n_evaluations
    for (u, hu), (v, hv) in combinations(pairs, 2):
        if _check_symmetry(chosen, u, hu, v, hv):
            break
    return chosen


def _check_symmetry(
    report: GradientReport, u: Vector, hu: Vector, v: Vector, hv: Vector
) -> bool:
    """Find whether u'Hv and v'Hu differ."""
    with np.errstate(all="ignore"):
        a, b = u * hv, v * hu
        off = abs(math.fsum(a) - math.fsum(b)) if np.isfinite(a + b).all() else 0.0
        size = norm(a) + norm(b)
    low, high = report.thresholds
    if off > low * size:
        report._find(
            "wrong" if off > high * size else "suspicious",
            f"the Hessian is not symmetric: u'Hv and v'Hu differ by {off / size:.1e} "
            "of their size, for two random vectors",
        )
        return True
    return False


class _HessianCheck:
    def __init__(
        self,
        gradient: Callable[[Any], Any],
        hessian_product: Callable[[Any, Any], Any],
        parameters: Parameters,
        eps: float | None,
        thresholds: tuple[float, float] | None,
    ) -> None:
        self.gradient, self.product = gradient, hessian_product
        self.parameters = parameters
        self.n_evaluations = 0
        self.base, unit = self.evaluate()
        refuse_change(parameters, "gradient")
        again, _ = self.evaluate()
        self.same = bool(np.array_equal(self.base, again, equal_nan=True))
        self.epsilon = float(unit.max())
        self.single = any(b.dtype == FLOAT32 for b in parameters.blocks)
        coarse = self.single or self.epsilon > EPS64
        if thresholds is None:
            thresholds = THRESHOLDS32 if coarse else THRESHOLDS64
        self.thresholds = thresholds
        step, self.ratio = SINGLE if coarse else DOUBLE
        self.step = step if eps is None else eps

    def evaluate(self) -> tuple[Vector, Vector]:
        self.n_evaluations += 1
        found = self.gradient(self.parameters.structure)
        return flatten_gradient(found, self.parameters, "gradient(params)")

    def at(self, vector: Vector) -> Vector:
        self.parameters.write(vector)
        found, _ = self.evaluate()
        self.parameters.restore()
        return found

    def scale(self, vector: Vector) -> Vector:
        """Return for every entry the largest of its array: what rounding goes by."""
        found = np.zeros(vector.size)
        for block in self.parameters.blocks:
            found[block.where] = np.max(np.abs(vector[block.where]), initial=0.0)
        return found

    def direction(
        self, rng: np.random.Generator
    ) -> tuple[Vector, Vector, GradientReport]:
        parameters, n = self.parameters, self.parameters.size
        # (Of different sizes, or two of them would often commute by chance.)
        signs = rng.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], n)
        theta = parameters.vector
        v = powers_of_two(signs * np.maximum(1.0, np.abs(theta)) / math.sqrt(n))
        found = self.product(parameters.structure, parameters.like(v))
        analytic, unit = flatten_gradient(found, parameters, "hessian_product(...)")
        refuse_change(parameters, "hessian_product")
        steps = [2.0 ** math.floor(math.log2(self.step))]
        steps += [steps[0] / self.ratio, steps[0] / self.ratio**2]
        pairs = [(self.at(theta + h * v), self.at(theta - h * v)) for h in steps]
        with np.errstate(all="ignore"):
            numeric, error, status = self.estimate(pairs, steps, analytic)
            error += unit * self.scale(analytic)
        report = GradientReport._from_vectors(
            analytic,
            numeric,
            [(block.name, block.where, block.shape) for block in parameters.blocks],
            eps=self.step,
            thresholds=self.thresholds,
            step=steps[1],
            f_plus=pairs[1][0],
            f_minus=pairs[1][1],
            error_estimate=error,
            status=status,
            deterministic=self.same,
            template=parameters.template,
        )
        report._layered = False  # no backward pass makes it layer by layer
        return v, analytic, report

    def estimate(
        self,
        pairs: list[tuple[Vector, Vector]],
        steps: list[float],
        analytic: Vector,
    ) -> tuple[Vector, Vector, NDArray[np.int8]]:
        """Return the best of the estimates per entry, its error, and the kinks."""
        size = self.scale(np.max(np.abs([g for pair in pairs for g in pair]), axis=0))
        (x0, x1, x2) = (
            (up - down) / (2 * h) for (up, down), h in zip(pairs, steps, strict=True)
        )
        e0, e1, e2 = (self.epsilon * size / h for h in steps)
        r = self.ratio**2
        r01, r12 = (r * x1 - x0) / (r - 1), (r * x2 - x1) / (r - 1)
        values = np.stack([r01, r12, x2])
        errors = np.stack(
            [
                (r * e1 + e0) / (r - 1) + np.abs(r01 - x1) / r,
                (r * e2 + e1) / (r - 1) + np.abs(r12 - r01) / r,
                e2 + np.abs(x2 - x1) / (r - 1),
            ]
        )
        best = np.argmin(np.where(np.isfinite(errors), errors, np.inf), axis=0)
        pick = (best, np.arange(best.size))
        # A gradient that jumps: slopes on both sides that do not approach each other.
        (up1, down1), (up2, down2) = pairs[1:]
        jump1 = np.abs(up1 - 2 * self.base + down1) / steps[1]
        slopes = np.stack([(up2 - self.base), (self.base - down2)]) / steps[2]
        jump2 = np.abs(slopes[0] - slopes[1])
        expected = jump1 / self.ratio
        slack = _report.ALLOWANCE * 2 * (e1 + e2) + 0.1 * np.maximum(expected, jump2)
        between = (slopes.min(0) - slack <= analytic) & (
            analytic <= slopes.max(0) + slack
        )
        kink = (np.abs(jump2 - expected) > slack) & between
        status = np.where(kink, KINK, PLAIN).astype(np.int8)
        return values[pick], errors[pick], status
