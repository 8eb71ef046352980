"""Means of functions of a normal number, by quadrature.

E[f(s u)] for u standard normal is what an activation function does to the variance
of a wide layer. For smooth f, Gauss-Hermite quadrature has it from a hundred values.
For those with kinks or steps (ReLU off a straight line, hardtanh), or as steep as the
logistic at a large s, it converges too slowly to be of use: two orders then disagree,
and the integral is taken by Gauss-Legendre quadrature over panels instead, which are
halved until they agree. A kink costs some 50 halvings of the panel that has it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["gaussian_mean"]

# Two orders of Gauss-Hermite that agree to so much, relative to E|f|, are right; unless
# both have passed over a narrow place, where the first panels have nodes.
AGREES = 1e-12
ORDERS = (64, 96)
# The panels' differences from their halves, together, and that of one.
TOTAL = 1e-13
PANEL = 1e-16
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

Function = Callable[[NDArray[np.float64]], Any]


@functools.cache
def _hermite(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return nodes, weights / np.sqrt(2 * np.pi)


@functools.cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(NODES)


def _values(
    function: Function, std: float, u: NDArray[np.float64]
) -> NDArray[np.float64]:
    found = np.asarray(function(std * u))
    if found.shape != u.shape or found.dtype.kind not in "fiub":
        raise ValueError(
            "function must return an array of real numbers of its argument's shape, "
            f"{u.shape}; got shape {found.shape} and dtype {found.dtype}"
        )
    return found.astype(np.float64)


def _integrals(
    function: Function,
    std: float,
    left: NDArray[np.float64],
    right: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the integrals of f and abs(f) over panels, by one rule for each."""
    nodes, weights = _legendre()
    half = (right - left) / 2
    u = ((left + right) / 2)[:, np.newaxis] + half[:, np.newaxis] * nodes
    f = _values(function, std, u.ravel()).reshape(u.shape)
    if not np.isfinite(f).all():
        where = u[~np.isfinite(f)]
        raise ValueError(
            "function must be finite; it is not at "
            f"{std * float(where[np.abs(where).argmin()]):g}"
        )
    f *= np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    return half * (f @ weights), half * (np.abs(f) @ weights)


def _by_panels(
    function: Function,
    std: float,
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    size: float,
) -> tuple[float, float]:
    """Return the integrals of f and abs(f), halving panels until nothing changes."""
    whole, _ = _integrals(function, std, left, right)
    done, done_size, error, n_panels = 0.0, 0.0, 0.0, left.size
    for _ in range(MAX_HALVINGS):
        middle = (left + right) / 2
        n = left.size
        parts, sizes = _integrals(
            function, std, np.append(left, middle), np.append(middle, right)
        )
        difference = np.abs(whole - (parts[:n] + parts[n:]))
        total = max(size, done_size + float(sizes.sum()))
        # A panel of two neighbouring numbers has no middle.
        last = (middle <= left) | (middle >= right)
        good = (difference <= PANEL * total) | last
        done += float(parts[:n][good].sum() + parts[n:][good].sum())
        done_size += float(sizes[:n][good].sum() + sizes[n:][good].sum())
        error += float(difference[good].sum())
        bad = ~good
        rest = float(difference[bad].sum())
        if error + rest <= TOTAL * total:
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
    raise ValueError(
        "function must be one that quadrature can integrate: smooth but for some kinks "
        "and steps, and computed in float64; its mean is uncertain by "
        f"{(error + rest) / total:.0e} of itself"
    )


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
        The mean, with an error of some 1e-13 of the mean of the absolute value.

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
    with np.errstate(all="ignore"):
        inner = np.union1d(INNER, BENDS[std * INNER[-1] > BENDS] / std)
        ends = np.concatenate([-inner[:0:-1], inner])
        means = []
        for order in ORDERS:
            nodes, weights = _hermite(order)
            f = _values(function, std, nodes)
            means.append(float(weights @ f))
            size = float(weights @ np.abs(f))
        left, right = ends[:-1], ends[1:]
        # (Not so for NaN.)
        if abs(means[0] - means[1]) <= AGREES * size:
            parts, _ = _integrals(function, std, left, right)
            if abs(means[1] - float(parts.sum())) <= AGREES * size:
                return means[1]
        mean, size = _by_panels(function, std, left, right, 0.0)
        for side in (-1.0, 1.0):
            for near, far in itertools.pairwise(OUTER):
                low, high = sorted((side * near, side * far))
                more, more_size = _by_panels(
                    function, std, np.array([low]), np.array([high]), size
                )
                mean += more
                size += more_size
                if more_size <= NEGLIGIBLE * size:
                    break
            else:
                raise ValueError(
                    "function must have a mean: it grows too fast for one, as fast as "
                    f"the normal density falls, to {'minus ' * (side < 0)}infinity"
                )
    return mean
