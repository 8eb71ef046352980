"""The scale that keeps a signal level: quadrature, and gain against mpmath."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fanin._quadrature import gaussian_mean


def upper(x: float) -> float:
    """P(u > x) for u standard normal."""
    return math.erfc(x / math.sqrt(2)) / 2


# --- quadrature ---------------------------------------------------------------------

# A few units in the last place for each of some thousand terms, which average out.
CLOSE = 1e-13

CLOSED_FORMS = {
    "constant": (np.ones_like, 1.0),
    "relu": (lambda z: np.maximum(z, 0), 1 / math.sqrt(2 * math.pi)),
    "relu squared": (lambda z: np.maximum(z, 0) ** 2, 0.5),
    "identity squared": (lambda z: z * z, 1.0),
    "fourth power": (lambda z: z**4, 3.0),
    "exp": (np.exp, math.exp(0.5)),
    "exp of 9 z": (lambda z: np.exp(9 * z), math.exp(40.5)),
    "exp of a square": (lambda z: np.exp(z * z / 4), math.sqrt(2)),
    "cosine": (lambda z: np.cos(3 * z), math.exp(-4.5)),
    "absolute": (np.abs, math.sqrt(2 / math.pi)),
    "step at 0.3": (lambda z: z > 0.3, upper(0.3)),
    "step at pi / 3": (lambda z: z > math.pi / 3, upper(math.pi / 3)),
    "step at 6": (lambda z: z > 6, upper(6.0)),
    "integers": (lambda z: np.sign(z).astype(int) + 1, 1.0),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_mean_of_a_function_with_a_closed_form(name):
    function, exact = CLOSED_FORMS[name]
    assert gaussian_mean(function) == pytest.approx(exact, rel=CLOSE)


@pytest.mark.parametrize("std", [1e-3, 0.3, 1.0, 3.0, 100.0])
def test_mean_with_a_standard_deviation(std):
    expected = std * math.sqrt(2 / math.pi)
    assert gaussian_mean(np.abs, std) == pytest.approx(expected, rel=CLOSE)
    expected = upper(0.3 / std)
    found = gaussian_mean(lambda z: z > 0.3, std)
    assert found == pytest.approx(expected, rel=CLOSE, abs=1e-20)


def test_mean_of_hardtanh_squared():
    # int_{-1}^{1} u^2 phi(u) du = P(|u| < 1) - 2 phi(1)
    inside = 1 - 2 * upper(1.0) - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi)
    found = gaussian_mean(lambda z: np.clip(z, -1, 1) ** 2)
    assert found == pytest.approx(inside + 2 * upper(1.0), rel=CLOSE)
    mp = pytest.importorskip("mpmath")
    exact = mp.quad(lambda u: u * u * mp.npdf(u), [-1, 1]) + 2 * mp.ncdf(-1)
    assert found == pytest.approx(float(exact), rel=CLOSE)


@pytest.mark.parametrize("std", [0.1, 1.0, 10.0, 1e2, 1e3, 1e6, 1e10])
def test_mean_of_a_function_far_steeper_than_the_normal(std):
    # 1 - tanh(s u)^2: all of it lies within 1 / s of 0, between the nodes of any
    # Gauss-Hermite rule.
    mp = pytest.importorskip("mpmath")
    with mp.workdps(30):
        ends = [x / std for x in (0.25, 0.5, 1, 2, 4, 8, 16, 40) if x / std < 12]
        exact = 2 * mp.quad(
            lambda u: mp.sech(mp.mpf(std) * u) ** 2 * mp.npdf(u), [0, *ends]
        )
        if ends[-1] * std < 40:
            exact += 2 * mp.quad(
                lambda u: mp.sech(mp.mpf(std) * u) ** 2 * mp.npdf(u), [ends[-1], 12]
            )
    found = gaussian_mean(lambda z: 1 / np.cosh(np.clip(z, -300, 300)) ** 2, std)
    assert found == pytest.approx(float(exact), rel=1e-12)
    found = gaussian_mean(lambda z: np.tanh(z) ** 2, std)
    assert found == pytest.approx(float(1 - exact), rel=CLOSE)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda z: np.exp(z * z), "must be finite; it is not at"),
        (lambda z: np.exp(z * z / 2), "must"),
        (lambda z: np.where(z > 0.2, np.nan, z), r"must be finite; it is not at 0\.2"),
        (lambda z: 1 / abs(z), "must be one that quadrature can integrate"),
        (lambda z: np.float32(np.tanh(z)) ** 2, "computed in float64; .* uncertain by"),
        (lambda z: 1.0, r"its argument's shape, \(\d+,\); got shape \(\)"),
        (lambda z: z + 0j, "real numbers .* complex128"),
        (lambda z: z.astype(str), "real numbers"),
    ],
)
def test_functions_without_a_mean_are_refused(function, match):
    def shifted(z):
        return function(z)

    with pytest.raises(ValueError, match=match):
        gaussian_mean(shifted)


def test_noise_is_refused():
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="uncertain by"):
        gaussian_mean(lambda z: rng.random(z.shape))


def test_an_exception_in_the_function_passes_through():
    def broken(z):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gaussian_mean(broken)
