"""Misuse that a gradient check must name, not pass over."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from scipy import LowLevelCallable

from fanin import check_gradient


def cfunc():
    numba = pytest.importorskip("numba")
    types = numba.types
    signature = types.double(
        types.CPointer(types.double), types.intp, types.CPointer(types.double)
    )

    @numba.cfunc(signature)
    def f(theta, n, data):
        return theta[0] * data[0]

    return f


@pytest.mark.parametrize("as_ctypes", [True, False])
def test_c_that_takes_user_data_must_bring_it(as_ctypes):
    # Nobody calls it: it must be refused before.
    kind = ctypes.CFUNCTYPE(
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_double),
        ctypes.c_ssize_t,
        ctypes.c_void_p,
    )
    address = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value
    fun = kind(address) if as_ctypes else cfunc()
    with pytest.raises(TypeError, match=r"scipy\.LowLevelCallable\(fun, user_data\)"):
        check_gradient(fun, np.ones(3), np.ones(3))
    assert LowLevelCallable is not None


@pytest.mark.parametrize(
    "mixing",
    [
        lambda p: np.full(len(p["w"]), float(np.sum(p["w"] ** 2))),
        lambda p: np.full(len(p["w"]), np.sum(p["w"] ** 2) / len(p["w"])),
        lambda p: np.sum((p["w"] - p["w"].mean(axis=0)) ** 2, axis=1),
        lambda p: np.cumsum(np.sum(p["w"] ** 2, axis=1)),
    ],
)
def test_a_vectorized_function_that_mixes_its_points_is_refused(mixing, rng):
    params = {"w": rng.normal(size=6)}
    with pytest.raises(ValueError, match="fun must return the value of each point by"):
        check_gradient(mixing, params, params, vectorized=True)


def test_a_function_that_ignores_its_argument_is_no_function_for_threads(rng):
    w = rng.normal(size=31)
    with pytest.raises(ValueError, match="fun must use its argument"):
        check_gradient(lambda _: float(w @ w), w, 2 * w, n_threads=2)
    assert check_gradient(lambda _: float(w @ w), w, 2 * w).ok
    assert check_gradient(lambda w: float(w @ w), w, 2 * w, n_threads=2).ok


def test_values_that_the_complex_step_denies_are_shown_as_confirmed(rng):
    w = rng.normal(size=5)
    report = check_gradient(lambda w: np.vdot(w, w), w, 2 * w, method="complex")
    assert report.ok and report.relative_error < 1e-7
    np.testing.assert_allclose(report.numeric, 2 * w, rtol=1e-5)


@pytest.mark.parametrize("factor", [2.0, 2.1, 2.5])
def test_values_of_float32_have_the_step_of_float32(factor):
    for seed in range(5):
        w = np.random.default_rng(seed).normal(size=5)
        report = check_gradient(
            lambda w: np.sum(w.astype("f4") ** 2, dtype="f4"), w, lambda w: factor * w
        )
        assert report.ok == (factor == 2.0), report
        assert report.eps == pytest.approx(4.9e-3, rel=0.01)
        assert any("float32" in sentence for sentence in report.diagnosis)
