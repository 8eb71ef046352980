"""Activation kernels: against their twins, in units in the last place, at limits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import reference

from fanin._kernels import _activations

NAMES = sorted(_activations.ACTIVATIONS)
DTYPES = [np.float32, np.float64]


def values(dtype, rng):
    """Ordinary, tiny, huge and special arguments."""
    info = np.finfo(dtype)
    ordinary = rng.standard_normal(2000) * np.repeat([1e-3, 0.1, 1.0, 10.0], 500)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, info.tiny, -info.tiny, info.max]
    special += [info.smallest_subnormal, -info.max, 88.0, -88.0, 104.0, -104.0, 746.0]
    return np.concatenate([ordinary, special]).astype(dtype)


def ulps(found, exact, dtype):
    """Distance in units in the last place of the exact value."""
    spacing = np.spacing(np.abs(exact.astype(dtype))).astype(np.float64)
    return np.abs(found.astype(np.float64) - exact) / spacing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 64), (33, 17), (0, 4), (4, 0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_forward_equals_twin(name, dtype, shape, with_bias, rng):
    A = rng.standard_normal(shape).astype(dtype)
    bias = rng.standard_normal(shape[1]).astype(dtype) if with_bias else None
    expected = reference.activation_forward(A, name, bias)
    found = A.copy()
    _activations.forward(found, name, bias)
    # A few units in the last place of values of size one (twin and kernel may
    # round the sum with the bias differently: one fused, one not).
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_backward_equals_twin(name, dtype, rng):
    A = reference.activation_forward(rng.standard_normal((9, 21)).astype(dtype), name)
    dA = rng.standard_normal((9, 21)).astype(dtype)
    expected = reference.activation_backward(dA, A, name)
    found = dA.copy()
    _activations.backward(found, A, name)
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 3.0), (np.float64, 4.0)])
@pytest.mark.parametrize("name", ["tanh", "logistic"])
def test_forward_is_accurate_to_ulps(name, dtype, limit, rng):
    z = values(dtype, rng)
    z = z[np.isfinite(z)]
    found = z[np.newaxis].copy()
    _activations.forward(found, name)
    mpmath.mp.prec = 120
    function = mpmath.tanh if name == "tanh" else lambda x: 1 / (1 + mpmath.exp(-x))
    exact = np.array([float(function(mpmath.mpf(float(x)))) for x in z])
    assert ulps(found[0], exact, dtype).max() <= limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_limits_and_nan(name, dtype):
    z = np.array([[np.inf, -np.inf, np.nan, 0.0]], dtype=dtype)
    expected = {
        "identity": [np.inf, -np.inf, np.nan, 0.0],
        "logistic": [1.0, 0.0, np.nan, 0.5],
        "tanh": [1.0, -1.0, np.nan, 0.0],
        "relu": [np.inf, 0.0, np.nan, 0.0],
    }[name]
    _activations.forward(z, name)
    if name == "logistic":  # exp(-104) is the smallest float32 number, not 0
        assert z[0, 1] < 1e-44
        z[0, 1] = 0.0
    np.testing.assert_array_equal(z[0], np.array(expected, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd_and_keeps_the_sign_of_zero(dtype, rng):
    z = values(dtype, rng)
    z = z[~np.isnan(z)]
    plus, minus = z[np.newaxis].copy(), -z[np.newaxis]
    _activations.forward(plus, "tanh")
    _activations.forward(minus, "tanh")
    np.testing.assert_array_equal(plus, -minus)
    assert np.signbit(minus[0, z == 0]).tolist() == (~np.signbit(z[z == 0])).tolist()


def test_unknown_activation_is_refused():
    with pytest.raises(KeyError):
        _activations.forward(np.zeros((1, 1)), "swish")
