"""Means of functions of a normal number, by quadrature.

E[f(s u)] for u standard normal is what an activation function does to the variance
of a wide layer. For smooth f, Gauss-Hermite quadrature has it from a hundred values.
For those with kinks or steps (ReLU off a straight line, hardtanh), or as steep as the
logistic at a large s, it converges too slowly to be of use: two orders then disagree,
and the integral is taken over panels instead, which are halved until they agree. A kink
costs some 50 halvings of the panel that has it. The rule for a panel is that of Gauss
and Lobatto, which has nodes at its ends: what lies beside an end, before the next node,
does not go unseen.

Slopes of a function that comes without a derivative are those of the polynomials that
interpolate it on the panels. Differences of values eps apart in a panel of width w give
a slope to eps / w, so that what a panel adds to the integral is as exact in a narrow
one as in a wide one: a kink is found by halving here, too.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "QuadratureError",
    "gaussian_mean",
    "mean_square_slope",
    "slope_at_zero",
    "values_of",
]

# Two orders of Gauss-Hermite that agree to so much, relative to E|f|, are right; unless
# both have passed over a narrow place, where the first panels have nodes.
AGREES = 1e-12
ORDERS = (64, 96)
NODES = 16
# Ends of the first panels, in standard deviations, and in arguments of the function:
# an activation bends at arguments near 1, however large the standard deviation is.
# Beyond 9 standard deviations there is 2e-19 of the normal: further panels, up to where
# its density underflows, are for functions that grow.
INNER = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0])
BENDS = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
OUTER = np.array([9.0, 11.0, 14.0, 18.0, 24.0, 31.0, 38.0])
NEGLIGIBLE = 1e-18
MAX_PANELS = 4096
MAX_HALVINGS = 60
# The slope at 0: widths of panels beside it, and what two of them agree to if it is
# right (differences of values eps apart, times the square of the degree, over width).
# (No power of 2: rounding would repeat itself.)
WIDTHS = 0.6 ** np.arange(1, 20)
SLOPES_AGREE = 1e-9

Function = Callable[[NDArray[np.float64]], Any]


class QuadratureError(ValueError):
    """The function has no such mean, or none that is to be had from its values."""


@functools.cache
def _hermite(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return nodes, weights / np.sqrt(2 * np.pi)


@functools.cache
def _lobatto() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes of Gauss-Lobatto quadrature on [-1, 1], and the weights."""
    legendre = np.polynomial.Legendre.basis(NODES - 1)
    slope, curvature = legendre.deriv(), legendre.deriv(2)
    # (Some versions of NumPy return real roots as complex numbers.)
    roots = np.sort(np.real(slope.roots()))
    roots = np.asarray(roots - slope(roots) / curvature(roots), np.float64)
    inside = (roots - roots[::-1]) / 2
    nodes = np.concatenate([[-1.0], inside, [1.0]])
    return nodes, 2 / (NODES * (NODES - 1) * legendre(nodes) ** 2)


def values_of(function: Function, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return function(z) as float64; an exception of the function's says how."""
    try:
        found = np.asarray(function(z))
    except Exception as error:
        error.add_note(
            "fanin calls the function with a vector of float64, for a result of the "
            "same shape; np.vectorize makes such a function of one of numbers"
        )
        raise
    if found.shape != z.shape or found.dtype.kind not in "fiub":
        raise QuadratureError(
            "function must return an array of real numbers of its argument's shape, "
            f"{z.shape}; got shape {found.shape} and dtype {found.dtype}"
        )
    return found.astype(np.float64)


@functools.cache
def _differentiation() -> NDArray[np.float64]:
    """Return D with D @ f the derivative, on [-1, 1], of the interpolant of f."""
    nodes, _ = _lobatto()
    apart = nodes[:, np.newaxis] - nodes
    np.fill_diagonal(apart, 1.0)
    product = apart.prod(axis=1)
    D = product[:, np.newaxis] / (product * apart)
    np.fill_diagonal(D, 0.0)
    # Rows sum to 0, for a constant has slope 0.
    np.fill_diagonal(D, -D.sum(axis=1))
    return np.asarray(D)


class Rule(NamedTuple):
    """What is integrated, and how exactly."""

    function: Function
    std: float
    slopes: bool = False
    # The panels' differences from their halves, together, and that of one.
    total: float = 1e-13
    panel: float = 1e-16

    def integrals(
        self, left: NDArray[np.float64], right: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the integrals of f (or f'^2) and abs(f) over panels, one rule each."""
        nodes, weights = _lobatto()
        half = (right - left) / 2
        u = ((left + right) / 2)[:, np.newaxis] + half[:, np.newaxis] * nodes
        f = values_of(self.function, self.std * u.ravel()).reshape(u.shape)
        if not np.isfinite(f).all():
            where = u[~np.isfinite(f)]
            raise QuadratureError(
                "function must be finite; it is not at "
                f"{self.std * float(where[np.abs(where).argmin()]):g}"
            )
        if self.slopes:
            f = (f - f[:, :1]) @ _differentiation().T
            f = (f / (self.std * half[:, np.newaxis])) ** 2
        f *= np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
        return half * (f @ weights), half * (np.abs(f) @ weights)


def _by_panels(
    rule: Rule, left: NDArray[np.float64], right: NDArray[np.float64], size: float
) -> tuple[float, float]:
    """Return the integrals of f and abs(f), halving panels until nothing changes."""
    whole, _ = rule.integrals(left, right)
    done, done_size, error, n_panels = 0.0, 0.0, 0.0, left.size
    for _ in range(MAX_HALVINGS):
        middle = (left + right) / 2
        n = left.size
        parts, sizes = rule.integrals(np.append(left, middle), np.append(middle, right))
        difference = np.abs(whole - (parts[:n] + parts[n:]))
        total = max(size, done_size + float(sizes.sum()))
        # A panel of two neighbouring numbers has no middle.
        last = (middle <= left) | (middle >= right)
        good = (difference <= rule.panel * total) | last
        done += float(parts[:n][good].sum() + parts[n:][good].sum())
        done_size += float(sizes[:n][good].sum() + sizes[n:][good].sum())
        error += float(difference[good].sum())
        bad = ~good
        rest = float(difference[bad].sum())
        if error + rest <= rule.total * total:
            done += float(parts[:n][bad].sum() + parts[n:][bad].sum())
            done_size += float(sizes[:n][bad].sum() + sizes[n:][bad].sum())
            return done, done_size
        n_panels += int(bad.sum())
        if not bad.any() or n_panels > MAX_PANELS:
            break
        whole = np.append(parts[:n][bad], parts[n:][bad])
        left, right = (
            np.append(left[bad], middle[bad]),
            np.append(middle[bad], right[bad]),
        )
    what = "mean square slope" if rule.slopes else "mean"
    shape = "some kinks" if rule.slopes else "some kinks and steps"
    share = (error + rest) / total if total > 0.0 else math.inf
    raise QuadratureError(
        f"function must be one that quadrature can integrate: smooth but for {shape}, "
        f"and computed in float64; its {what} is uncertain by {share:.0e} of itself"
    )


def _first_panels(
    std: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inner = np.union1d(INNER, BENDS[std * INNER[-1] > BENDS] / std)
    ends = np.concatenate([-inner[:0:-1], inner])
    return ends[:-1], ends[1:]


def _whole_line(rule: Rule) -> float:
    """Return the integral over all panels, outward until there is nothing more."""
    mean, size = _by_panels(rule, *_first_panels(rule.std), 0.0)
    for side in (-1.0, 1.0):
        for near, far in itertools.pairwise(OUTER):
            low, high = sorted((side * near, side * far))
            more, more_size = _by_panels(rule, np.array([low]), np.array([high]), size)
            mean += more
            size += more_size
            if more_size <= NEGLIGIBLE * size:
                break
        else:
            raise QuadratureError(
                "function must have a mean: it grows too fast for one, as fast as "
                f"the normal density falls, to {'minus ' * (side < 0)}infinity"
            )
    return mean


def gaussian_mean(function: Function, std: float = 1.0) -> float:
    """Return E[function(std * u)], u standard normal.

    Parameters
    ----------
    function : callable
        Takes a vector of float64 and returns one of that shape, element by element.
    std : float, default=1.0
        The standard deviation of its argument.

    Returns
    -------
    float
        The mean, with an error of some 1e-13 of the mean of the absolute value. What
        is narrower than a hundredth of a standard deviation, and away from 0 and from
        whole standard deviations, may go unseen.

    Raises
    ------
    ValueError
        If the function is not finite where the normal has weight, or its mean does
        not converge.

    Examples
    --------
    >>> from fanin._quadrature import gaussian_mean
    >>> import numpy as np
    >>> round(gaussian_mean(lambda z: np.maximum(z, 0) ** 2), 12)
    0.5
    """
    rule = Rule(function, std)
    with np.errstate(all="ignore"):
        means = []
        for order in ORDERS:
            nodes, weights = _hermite(order)
            f = values_of(function, std * nodes)
            means.append(float(weights @ f))
            size = float(weights @ np.abs(f))
        # (Not so for NaN.)
        if abs(means[0] - means[1]) <= AGREES * size:
            parts, _ = rule.integrals(*_first_panels(std))
            if abs(means[1] - float(parts.sum())) <= AGREES * size:
                return means[1]
        return _whole_line(rule)


def mean_square_slope(function: Function, std: float = 1.0) -> float:
    """Return E[function'(std * u)**2], u standard normal, from the function alone.

    Parameters
    ----------
    function, std
        As for `gaussian_mean`.

    Returns
    -------
    float
        The mean, to some 1e-10 of itself.

    Raises
    ------
    ValueError
        As `gaussian_mean`; a function with steps has no such mean.

    Examples
    --------
    >>> from fanin._quadrature import mean_square_slope
    >>> import numpy as np
    >>> round(mean_square_slope(lambda z: np.maximum(z, 0)), 9)
    0.5
    """
    with np.errstate(all="ignore"):
        return _whole_line(Rule(function, std, True, total=1e-11, panel=1e-14))


def slope_at_zero(function: Function) -> tuple[float, float]:
    """Return the slopes of a function to the left and to the right of 0.

    Parameters
    ----------
    function : callable
        As for `gaussian_mean`.

    Returns
    -------
    left, right : float
        To some 1e-9 of themselves; exactly 0 where the function is constant.

    Raises
    ------
    ValueError
        If a slope is not known to 1e-9.

    Examples
    --------
    >>> from fanin._quadrature import slope_at_zero
    >>> import numpy as np
    >>> tuple(round(slope, 9) for slope in slope_at_zero(np.abs))
    (-1.0, 1.0)
    """
    nodes, _ = _lobatto()
    at_end = _differentiation()[0]
    found = []
    with np.errstate(all="ignore"):
        for side in (-1.0, 1.0):
            u = side * WIDTHS[:, np.newaxis] * (nodes + 1) / 2
            f = values_of(function, u.ravel()).reshape(u.shape)
            slopes = ((f - f[:, :1]) @ at_end) * (2 * side / WIDTHS)
            size = np.maximum(np.abs(slopes[:-1]), np.abs(slopes[1:]))
            good = np.abs(np.diff(slopes)) <= SLOPES_AGREE * size
            # What rounding makes of a slope of 0.
            zero = size <= 1e-13 * np.abs(f).max(axis=1)[1:] / WIDTHS[1:]
            if not (good | zero).any():
                raise QuadratureError(
                    f"function must have a slope {'left' if side < 0 else 'right'} of "
                    "0, and be computed in float64; differences at several distances "
                    "disagree on it"
                )
            first = int((good | zero).argmax())
            found.append(0.0 if zero[first] else float(slopes[first]))
    return found[0], found[1]
