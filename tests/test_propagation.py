"""What theory expects of signals through depth, and the picture that shows it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fanin
from fanin import activations
from fanin.propagation import ExpectedSignals, expected_signals

mpmath = pytest.importorskip("mpmath")

# Quadrature has some 12 digits; q carries its error from layer to layer.
DIGITS = 1e-11


# -- closed forms ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0])
def test_relu_multiplies_both_squares_by_half_of_the_scale(scale):
    """He et al. 2015: E[max(z, 0)^2] = q / 2, and the slope is 1 for half of the z."""
    expected = expected_signals("relu", scale, 60, mean_square=3.0)
    powers = (scale / 2) ** np.arange(1, 61)
    np.testing.assert_allclose(expected.mean_square, 3.0 * powers, rtol=DIGITS)
    np.testing.assert_allclose(expected.variance, 6.0 * powers, rtol=DIGITS)
    np.testing.assert_allclose(expected.chi, scale / 2, rtol=DIGITS)
    np.testing.assert_allclose(
        expected.mean, np.sqrt(expected.variance / (2 * np.pi)), rtol=DIGITS
    )
    np.testing.assert_allclose(
        expected.forward_growth, math.sqrt(scale / 2), rtol=DIGITS
    )
    np.testing.assert_allclose(
        expected.gradient_norm,
        math.sqrt(scale / 2) ** np.arange(59, -1, -1),
        rtol=1e-10,
    )
    assert np.isnan(expected.backward_growth[-1])
    np.testing.assert_allclose(
        expected.backward_growth[:-1], math.sqrt(scale / 2), rtol=DIGITS
    )


@pytest.mark.parametrize("slope", [0.01, 0.3, -0.5])
def test_a_leaky_rectifier_keeps_the_mean_of_its_two_squares(slope):
    expected = expected_signals(activations.LeakyReLU(slope), 2.0, 10)
    factor = 1.0 + slope**2
    np.testing.assert_allclose(
        expected.mean_square, factor ** np.arange(1, 11), rtol=DIGITS
    )
    np.testing.assert_allclose(expected.chi, factor, rtol=DIGITS)


def test_the_identity_multiplies_by_the_scale():
    expected = expected_signals("identity", 0.7, 20)
    np.testing.assert_allclose(
        expected.mean_square, 0.7 ** np.arange(1, 21), rtol=DIGITS
    )
    np.testing.assert_allclose(expected.chi, 0.7, rtol=DIGITS)
    np.testing.assert_allclose(expected.mean, 0.0, atol=1e-15)
    np.testing.assert_array_equal(expected.std, expected.rms)


def erf_activation():
    scipy_special = pytest.importorskip("scipy.special")
    return activations.Custom(
        lambda z: scipy_special.erf(z),
        lambda z: 2 / math.sqrt(math.pi) * np.exp(-z * z),
    )


def test_the_error_function_has_williams_closed_form():
    """E[erf(z)^2] = (2 / pi) asin(2 q / (1 + 2 q)) (Williams 1998, equation 11)."""
    expected = expected_signals(erf_activation(), 1.5, 25, bias_variance=0.05)
    q, variances, squares, chis = 1.55, [], [], []
    for _ in range(25):
        variances.append(q)
        squares.append(2 / math.pi * math.asin(2 * q / (1 + 2 * q)))
        chis.append(1.5 * 4 / math.pi / math.sqrt(1 + 4 * q))
        q = 1.5 * squares[-1] + 0.05
    np.testing.assert_allclose(expected.variance, variances, rtol=DIGITS)
    np.testing.assert_allclose(expected.mean_square, squares, rtol=DIGITS)
    np.testing.assert_allclose(expected.chi, chis, rtol=DIGITS)


@pytest.mark.parametrize("q", ["0.001", "0.3", "1", "4", "100"])
def test_tanh_agrees_with_quadrature_of_many_digits(q):
    with mpmath.workdps(30):
        std = mpmath.sqrt(mpmath.mpf(q))

        def mean(f):
            ends = [-20, -8, -4, -2, -1, -0.25, 0, 0.25, 1, 2, 4, 8, 20]
            return mpmath.quad(lambda u: f(std * u) * mpmath.npdf(u), ends)

        square = float(mean(lambda z: mpmath.tanh(z) ** 2))
        slope = float(mean(lambda z: mpmath.sech(z) ** 4))
    expected = expected_signals("tanh", 1.0, 1, mean_square=float(q))
    assert expected.mean_square[0] == pytest.approx(square, rel=DIGITS)
    assert expected.chi[0] == pytest.approx(slope, rel=DIGITS)


def test_selu_keeps_mean_0_and_variance_1():
    """Klambauer et al. 2017, theorem 1, of which its constants are the solution."""
    expected = expected_signals("selu", 1.0, 30)
    np.testing.assert_allclose(expected.variance, 1.0, rtol=1e-10)
    np.testing.assert_allclose(expected.std, 1.0, rtol=1e-10)
    assert expected.fixed_point == pytest.approx(1.0, rel=1e-8)
    assert expected.fixed_point_chi > 1.0


# -- fixed points ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "scale", "bias_variance", "point", "chi"),
    [
        ("tanh", 0.5, 0.0, 0.0, 0.5),
        ("tanh", 1.0, 0.0, 0.0, 1.0),
        ("relu", 1.0, 0.0, 0.0, 0.5),
        ("relu", 2.0, 0.0, 2.0, 1.0),  # every q is one: it stays where it starts
        ("relu", 1.0, 0.1, 0.2, 0.5),  # q = q / 2 + 0.1
        ("relu", 4.0, 0.0, None, math.nan),
        ("identity", 1.0, 0.5, None, math.nan),
    ],
)
def test_the_fixed_point_is_the_one_that_is_approached(
    activation, scale, bias_variance, point, chi
):
    expected = expected_signals(activation, scale, 3, bias_variance=bias_variance)
    if point is None:
        assert expected.fixed_point is None
    else:
        assert expected.fixed_point == pytest.approx(point, rel=1e-9)
    assert expected.fixed_point_chi == pytest.approx(chi, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("mean_square", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("scale", [1.2, 2.0, 9.0])
def test_deep_layers_are_at_the_fixed_point_wherever_they_start(scale, mean_square):
    expected = expected_signals("tanh", scale, 400, mean_square=mean_square)
    assert expected.variance[-1] == pytest.approx(expected.fixed_point, rel=1e-9)
    assert expected.chi[-1] == pytest.approx(expected.fixed_point_chi, rel=1e-9)
    # Poole et al. 2016: without biases, tanh is chaotic from C = 1 on.
    assert expected.fixed_point_chi > 1.0


def test_at_the_rule_tanh_loses_its_signal_no_faster_than_one_over_depth():
    """q_(l+1) = q - 2 q^2 + ..., whose solution is q = 1 / (2 l)."""
    expected = expected_signals("tanh", 1.0, 4000)
    assert expected.variance[-1] * 2 * 4000 == pytest.approx(1.0, rel=0.02)


def test_a_decreasing_step_is_approached_from_both_sides():
    """f = exp(-z^2) makes less of more: E[f^2] = (1 + 4 q)^(-1/2)."""
    for mean_square in (0.0, 3.0):
        expected = expected_signals(
            lambda z: np.exp(-z * z), 30.0, 60, mean_square=mean_square
        )
        q = expected.fixed_point
        assert q * math.sqrt(1 + 4 * q) == pytest.approx(30.0, rel=1e-10)
        assert expected.variance[-1] == pytest.approx(q, rel=1e-9)


# -- functions of the user's -----------------------------------------------------------


def test_a_function_without_a_derivative_has_it_taken_by_differences():
    for own, name, digits in (
        (np.tanh, "tanh", 1e-8),
        (lambda z: np.maximum(z, 0.0), "relu", 1e-8),
        (lambda z: z, "identity", 1e-8),
    ):
        found = expected_signals(own, 1.7, 12)
        known = expected_signals(name, 1.7, 12)
        assert found.activation is own
        np.testing.assert_allclose(found.variance, known.variance, rtol=DIGITS)
        np.testing.assert_allclose(found.chi, known.chi, rtol=digits)


def test_the_slope_of_small_signals_is_that_at_zero():
    """1 / (1 + exp(-z)) has no digits left of z = 1e-9 u, and the slope 1/4."""

    def own(z):
        return 1 / (1 + np.exp(-z))

    for mean_square in (1e-18, 1e-6, 1e-3):
        found = expected_signals(own, 1.0, 1, mean_square=mean_square)
        known = expected_signals("logistic", 1.0, 1, mean_square=mean_square)
        assert found.chi[0] == pytest.approx(known.chi[0], rel=1e-4)


def test_kinks_away_from_zero_are_found():
    """hardtanh: the slope is 1 where |z| < 1, with probability erf(1 / sqrt(2 q))."""
    found = expected_signals(lambda z: np.clip(z, -1.0, 1.0), 1.0, 8)
    slopes = [math.erf(1 / math.sqrt(2 * q)) for q in found.variance]
    np.testing.assert_allclose(found.chi, slopes, rtol=1e-8)


def test_a_custom_activation_brings_its_derivative():
    softsign = activations.Custom(
        lambda z: z / (1 + np.abs(z)), lambda z: (1 + np.abs(z)) ** -2.0
    )
    own = expected_signals(lambda z: z / (1 + np.abs(z)), 1.0, 5)
    found = expected_signals(softsign, 1.0, 5)
    np.testing.assert_allclose(found.chi, own.chi, rtol=1e-7)


# -- ends of the range -----------------------------------------------------------------


def test_a_signal_that_leaves_the_range_is_infinite():
    expected = expected_signals("relu", 4.0, 1200)
    first = int(np.isinf(expected.variance).argmax())
    assert 990 < first < 1000  # 2^first > 1e300
    assert np.isfinite(expected.mean_square[:first]).all()
    for values in (expected.variance, expected.mean, expected.mean_square):
        assert np.isposinf(values[first:]).all()
    assert np.isnan(expected.chi[first:]).all()
    assert expected.fixed_point is None


def test_no_weights_no_signal():
    expected = expected_signals("tanh", 0.0, 3)
    assert expected.rms.tolist() == [0.0, 0.0, 0.0]
    assert expected.chi.tolist() == [0.0, 0.0, 0.0]
    assert expected.fixed_point == 0.0
    np.testing.assert_array_equal(expected.forward_growth, [0.0, np.nan, np.nan])
    # A logistic unit gives 1/2 of nothing.
    expected = expected_signals("logistic", 1.0, 2, mean_square=0.0)
    assert expected.mean_square[0] == 0.25
    assert expected.variance.tolist() == [0.0, 0.25]


def test_one_layer_is_enough():
    expected = expected_signals("tanh", 1.0, 1)
    assert expected.gradient_norm.tolist() == [1.0]
    assert expected.forward_growth[0] == expected.rms[0]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("nope", 1.0, 3), {}, ValueError, "activation must be one of"),
        ((3, 1.0, 3), {}, TypeError, "activation must be a name"),
        (("tanh", -1.0, 3), {}, ValueError, "scale must be a finite number in"),
        (("tanh", math.nan, 3), {}, ValueError, "scale must be a finite"),
        (("tanh", "1", 3), {}, TypeError, "scale must be a real number"),
        (("tanh", 1.0, 0), {}, ValueError, "depth must be at least 1"),
        (("tanh", 1.0, 2.5), {}, TypeError, "depth must be an integer"),
        (("tanh", 1.0, 3), {"mean_square": -1.0}, ValueError, "mean_square must be"),
        (("tanh", 1.0, 3), {"bias_variance": math.inf}, ValueError, "bias_variance"),
        ((lambda z: 1.0, 1.0, 3), {}, ValueError, "must return an array"),
        ((lambda z: np.exp(z * z), 1.0, 3), {}, ValueError, "function must"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, words):
    with pytest.raises(error, match=words):
        expected_signals(*arguments, **options)


def test_the_record_is_frozen_and_says_what_it_is():
    expected = expected_signals("tanh", 2.0, 4)
    assert isinstance(expected, ExpectedSignals)
    assert repr(expected).startswith("ExpectedSignals(tanh, scale=2, depth=4, ")
    assert repr(expected_signals(np.sin, 1.0, 2)).startswith("ExpectedSignals(sin, ")
    with pytest.raises(AttributeError):
        expected.scale = 3.0


def test_a_figure_that_is_none_is_refused():
    with pytest.raises(TypeError, match="figure must be a matplotlib Figure"):
        fanin.plot_initialization(figure=5)


def test_signals_of_any_size_can_be_drawn():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    fanin.plot_initialization(
        scales=[1e6], depth=120, width=8, activation="relu", figure=figure
    )
    figure.draw_without_rendering()


def test_an_input_of_zeros():
    expected = fanin.propagation.expected_signals("relu", 2.0, 3, mean_square=0.0)
    np.testing.assert_allclose(expected.chi, 1.0, rtol=1e-12)
    assert expected.fixed_point_chi == pytest.approx(1.0, rel=1e-12)
