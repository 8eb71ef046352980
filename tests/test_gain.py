"""The scale that keeps a signal level: quadrature, and gain against mpmath."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import fanin
from fanin import activations, initializers
from fanin._quadrature import (
    QuadratureError,
    _lobatto,
    gaussian_mean,
    mean_square_slope,
    slope_at_zero,
)


def test_the_rule_is_that_of_gauss_and_lobatto():
    nodes, weights = _lobatto()
    assert (nodes[0], nodes[-1], nodes.size) == (-1, 1, 16)
    # Exact for polynomials of degree 2 n - 3.
    for degree in range(30):
        exact = 2 / (degree + 1) if degree % 2 == 0 else 0.0
        assert weights @ nodes**degree == pytest.approx(exact, abs=1e-15)
    assert abs(weights @ nodes**30 - 2 / 31) > 1e-9


def upper(x: float) -> float:
    """P(u > x) for u standard normal."""
    return math.erfc(x / math.sqrt(2)) / 2


# --- quadrature ---------------------------------------------------------------------

# Panels are halved until they differ by 1e-13 together; twice that.
CLOSE = 2e-13

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
        (lambda z: 1 / abs(z), "must be finite; it is not at 0"),
        (lambda z: 1 / abs(z - 0.7), "must be one that quadrature can integrate"),
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


# --- slopes of functions that come without one --------------------------------------


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda z: np.maximum(z, 0), 0.5),
        (lambda z: np.clip(z, -1, 1), 1 - 2 * upper(1.0)),
        (lambda z: np.where(z > 0.3, 2 * z - 0.3, z), 1 + 3 * upper(0.3)),
        (lambda z: z * z, 4.0),
        (lambda z: 1e3 + z, 1.0),
        (np.ones_like, 0.0),
        (np.sin, (1 + math.exp(-2)) / 2),
    ],
)
def test_mean_square_slope(function, exact):
    assert mean_square_slope(function) == pytest.approx(exact, rel=1e-9)


def test_mean_square_slope_with_a_standard_deviation():
    # E[cos(2 s u)] = exp(-2 s^2)
    found = mean_square_slope(np.sin, 0.5)
    assert found == pytest.approx((1 + math.exp(-0.5)) / 2, rel=1e-9)


STEPS = [0.0, 0.3, 0.75, 6e-4, -1 / 3, 0.25 + 2**-40, 1.0, -2.0, 4.0, 1e-3, 1e-9, -3.7]


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize(
    "function",
    [
        lambda z: z > 0,
        lambda z: np.where(z > 0, z + 1e-2, z),
        lambda z: np.where(z > 0, np.sin(z) - 1, 0),
    ],
)
def test_a_function_with_a_step_has_no_mean_square_slope(function, at):
    # Also where no node comes near it: at the edge of a panel, or just beside one.
    with pytest.raises(
        QuadratureError, match=r"smooth but for some kinks, .* uncertain by"
    ):
        mean_square_slope(lambda z: function(z - at))


@pytest.mark.parametrize("at", STEPS)
def test_steps_and_kinks_anywhere_are_no_obstacle_to_a_mean(at):
    found = gaussian_mean(lambda z: z > at)
    assert found == pytest.approx(upper(at), rel=1e-12)
    found = gaussian_mean(lambda z: np.maximum(z - at, 0))
    density = math.exp(-at * at / 2) / math.sqrt(2 * math.pi)
    assert found == pytest.approx(density - at * upper(at), rel=1e-11)


@pytest.mark.parametrize("at", STEPS)
def test_a_kink_anywhere_is_no_obstacle(at):
    found = mean_square_slope(lambda z: np.maximum(z - at, 0))
    assert found == pytest.approx(upper(at), rel=1e-9)


@pytest.mark.parametrize(
    ("function", "left", "right"),
    [
        (np.abs, -1, 1),
        (np.tanh, 1, 1),
        (lambda z: np.tanh(100 * z), 100, 100),
        (lambda z: np.clip(z, -0.01, 0.01), 1, 1),
        (lambda z: z * z, 0, 0),
        (np.ones_like, 0, 0),
    ],
)
def test_slopes_beside_zero(function, left, right):
    assert slope_at_zero(function) == pytest.approx((left, right), rel=1e-8)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: np.sqrt(np.abs(z)),
        lambda z: np.float32(np.tanh(z)),
        lambda z: 1e8 + np.tanh(z),
    ],
)
def test_slopes_that_are_not_known_are_refused(function):
    with pytest.raises(QuadratureError, match="slope left of 0"):
        slope_at_zero(function)


# --- gain ---------------------------------------------------------------------------

CRITERIA = ("second_moment", "variance", "gradient", "slope", "rule")
LIKE_RELU = ("relu", "leaky_relu", "silu", "gelu", "gelu_tanh")
# Of functions that have a kink at 0: the slopes beside it are two.
KINKED = ("relu", "leaky_relu", "selu")


def oracles(mp):
    """Every built-in function and its derivative, in mpmath."""
    alpha = mp.mpf("1.6732632423543772848170429916717")
    scale = mp.mpf("1.0507009873554804934193349852946")
    c, d = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")

    def sigma(z):
        return 1 / (1 + mp.exp(-z))

    def inner(z):
        return mp.tanh(c * (z + d * z**3))

    return {
        "identity": (lambda z: z, lambda z: mp.mpf(1)),
        "logistic": (sigma, lambda z: sigma(z) * sigma(-z)),
        "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2),
        "relu": (lambda z: max(z, 0), lambda z: mp.mpf(z > 0)),
        "leaky_relu": (
            lambda z: z if z > 0 else mp.mpf(0.01) * z,
            lambda z: mp.mpf(1) if z > 0 else mp.mpf(0.01),
        ),
        "elu": (
            lambda z: z if z > 0 else mp.expm1(z),
            lambda z: mp.mpf(1) if z > 0 else mp.exp(z),
        ),
        "selu": (
            lambda z: scale * (z if z > 0 else alpha * mp.expm1(z)),
            lambda z: scale * (mp.mpf(1) if z > 0 else alpha * mp.exp(z)),
        ),
        "softplus": (lambda z: mp.log1p(mp.exp(z)), sigma),
        "silu": (
            lambda z: z * sigma(z),
            lambda z: sigma(z) + z * sigma(z) * sigma(-z),
        ),
        "gelu": (lambda z: z * mp.ncdf(z), lambda z: mp.ncdf(z) + z * mp.npdf(z)),
        "gelu_tanh": (
            lambda z: z / 2 * (1 + inner(z)),
            lambda z: (
                (1 + inner(z)) / 2
                + z / 2 * (1 - inner(z) ** 2) * c * (1 + 3 * d * z * z)
            ),
        ),
    }


@functools.cache
def exact_gains(name: str) -> dict[str, float]:
    import mpmath as mp

    f, slope = oracles(mp)[name]

    def mean(function):
        return mp.quad(
            lambda u: function(u) * mp.npdf(u), [-13, -6, -3, -1, 0, 1, 3, 6, 13]
        )

    with mp.workdps(25):
        second, first = mean(lambda u: f(u) ** 2), mean(f)
        found = {
            "second_moment": 1 / second,
            "variance": 1 / (second - first**2),
            "gradient": 1 / mean(lambda u: slope(u) ** 2),
            "rule": mp.mpf(2 if name in LIKE_RELU else 1),
        }
        if name not in KINKED:
            found["slope"] = 1 / slope(mp.mpf(0)) ** 2
        return {criterion: float(value) for criterion, value in found.items()}


def test_every_built_in_has_an_oracle():
    mp = pytest.importorskip("mpmath")
    assert set(oracles(mp)) == set(activations.NAMED)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", activations.NAMED)
def test_gain_of_every_built_in_by_every_criterion(name, criterion):
    pytest.importorskip("mpmath")
    if criterion == "slope" and name in KINKED:
        with pytest.raises(
            ValueError, match=rf"'{name}' has no gain by .*'slope': its"
        ):
            fanin.gain(name, criterion=criterion)
        return
    exact = exact_gains(name)[criterion]
    for activation in (name, activations.get(name)):
        found = fanin.gain(activation, criterion=criterion)
        assert type(found) is float
        # The functions are within some units in the last place.
        assert found == pytest.approx(exact, rel=1e-12)
    if criterion == "rule":
        with pytest.raises(ValueError, match="'rule' is for activations that have a"):
            fanin.gain(lambda z: z, criterion=criterion)
        return

    # The same as a plain function, whose derivative is taken numerically.
    def plain(z):
        return activations.apply(z, name)

    found = fanin.gain(plain, criterion=criterion)
    limit = 1e-8 if criterion in ("gradient", "slope") else 1e-12
    assert found == pytest.approx(exact, rel=limit)


def test_gain_is_second_moment_by_default():
    assert initializers.gain is fanin.gain
    assert fanin.gain("tanh") == fanin.gain("tanh", criterion="second_moment")


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.2, 1.0, 3.0])
def test_gain_of_leaky_rectifiers(slope):
    # He et al. 2015, equation 15: 2 / (1 + a^2).
    leaky = activations.LeakyReLU(slope)
    for criterion in ("second_moment", "gradient"):
        found = fanin.gain(leaky, criterion=criterion)
        assert found == pytest.approx(2 / (1 + slope**2), rel=1e-13)
    if slope == 1.0:
        assert fanin.gain(leaky, criterion="slope") == 1.0


def test_gain_of_the_self_normalizing_function_is_one():
    # Klambauer et al. 2017: mean 0 and variance 1 are a fixed point.
    assert fanin.gain("selu") == pytest.approx(1, rel=1e-13)
    assert fanin.gain("selu", criterion="variance") == pytest.approx(1, rel=1e-13)


def test_gain_of_parameters_and_of_a_custom_function():
    elu = activations.ELU(0.5)

    def function(z):
        return np.where(z > 0, z, 0.5 * np.expm1(np.minimum(z, 0)))

    def derivative(z):
        return np.where(z > 0, 1.0, 0.5 * np.exp(np.minimum(z, 0)))

    custom = activations.Custom(function, derivative)
    for criterion in ("second_moment", "variance", "gradient"):
        expected = fanin.gain(elu, criterion=criterion)
        assert fanin.gain(custom, criterion=criterion) == pytest.approx(
            expected, rel=1e-12
        )
    assert fanin.gain(custom, criterion="rule") == 1.0
    with pytest.raises(ValueError, match=r"is 0\.5 to the left and 1 to the right"):
        fanin.gain(custom, criterion="slope")
    assert fanin.gain(np.tanh) == pytest.approx(fanin.gain("tanh"), rel=1e-12)


def test_numbers_that_the_documentation_names():
    gain = fanin.gain
    assert gain("tanh") == pytest.approx(2.54, abs=0.005)
    assert gain("tanh") / gain("tanh", criterion="gradient") == pytest.approx(
        1.18, abs=0.005
    )
    assert math.sqrt(gain("tanh")) == pytest.approx(1.59, abs=0.005)
    assert gain("logistic") == pytest.approx(3.41, abs=0.005)
    offset = gain("logistic", criterion="variance")
    assert offset == pytest.approx(23.1, abs=0.05)
    assert math.sqrt(offset) == pytest.approx(4.80, abs=0.005)
    assert gain("logistic", criterion="slope") == 16.0
    torch = pytest.importorskip("torch")
    for name, theirs in [("relu", "relu"), ("identity", "linear")]:
        found = math.sqrt(gain(name))
        assert found == pytest.approx(torch.nn.init.calculate_gain(theirs), rel=1e-12)
    assert torch.nn.init.calculate_gain("tanh") == 5 / 3
    assert torch.nn.init.calculate_gain("sigmoid") == 1


@pytest.mark.parametrize("name", ["relu", "tanh", "selu"])
def test_the_gain_keeps_the_second_moment_through_wide_layers(name):
    def level(scale):
        init = functools.partial(initializers.variance_scaling, scale=scale)
        layers = [fanin.layers.Dense(500, name)] * 20
        net = fanin.Network(500, layers, loss="squared_error", init=init, rng=0)
        X = np.random.default_rng(0).standard_normal((200, 500))
        last = net.layer_outputs(X)[-1]
        # The outputs' second moment is E[f(u)^2] = 1 / C.
        return float(np.mean(np.square(last, dtype=np.float64))) * fanin.gain(name)

    # Each layer errs by some sqrt(5 / 500) (the fourth moment of relu's z is 3 / 2, of
    # its square 5), and 20 of them by 0.45 if nothing corrects it.
    scale = fanin.gain(name)
    kept = level(scale)
    assert 0.4 < kept < 2.5
    assert level(0.6 * scale) < 0.6 * kept


@pytest.mark.parametrize(
    ("activation", "criterion", "match"),
    [
        ("swish", "variance", "activation must be one of"),
        ("relu", "std", "criterion must be one of 'second_moment'.*got 'std'"),
        (np.zeros_like, "second_moment", "'zeros_like' has no gain by .* level is 0"),
        (np.ones_like, "variance", "'ones_like' has no gain .* kept level is 0"),
        (lambda z: 0 * z + 1 / 3, "variance", "has no gain .* kept level is 0"),
        (np.ones_like, "gradient", "has no gain .* kept level is 0"),
        (np.sign, "slope", "must have a slope left of 0"),
        (np.sign, "gradient", "slope is uncertain"),
        (np.cos, "slope", "has no gain .* kept level is 0"),
        (np.abs, "slope", "is -1 to the left and 1 to the right"),
        (lambda z: np.float32(np.tanh(z)), "gradient", "computed in float64"),
        (lambda z: z > 0.3, "gradient", "has no gain .* slope is uncertain"),
        (lambda z: np.exp(z * z), "second_moment", "must be finite"),
        (lambda z: 1.0, "second_moment", "of its argument's shape"),
    ],
)
def test_gain_refuses_what_has_none(activation, criterion, match):
    with pytest.raises(ValueError, match=match):
        fanin.gain(activation, criterion=criterion)


@pytest.mark.parametrize("activation", [3, None, ["relu"]])
def test_gain_refuses_what_is_no_activation(activation):
    with pytest.raises(TypeError, match="activation must be a name, an object of"):
        fanin.gain(activation)


def test_an_exception_in_a_users_activation_passes_through_gain():
    def broken(z):
        raise ValueError("mine")

    for criterion in ("second_moment", "variance", "gradient", "slope"):
        with pytest.raises(ValueError, match=r"^mine\b") as caught:
            fanin.gain(broken, criterion=criterion)
        assert caught.value.args == ("mine",)
        assert any("np.vectorize" in note for note in caught.value.__notes__)


def test_functions_that_return_small_integers():
    assert fanin.gain(lambda z: (z > 0).astype(np.uint8) * np.uint8(20)) == (
        pytest.approx(1 / 200, rel=1e-10)
    )
    signs = fanin.gain(lambda z: (100 * np.sign(z)).astype(np.int8))
    assert signs == pytest.approx(1e-4, rel=1e-10)


def test_a_class_is_no_activation():
    with pytest.raises(TypeError, match="got the class ReLU"):
        fanin.gain(fanin.activations.ReLU)
