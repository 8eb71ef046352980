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
    assert report.ok
    assert report.relative_error < 1e-7
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


@pytest.mark.parametrize("options", [{}, {"indices": np.arange(10, 120)}])
def test_a_time_limit_takes_one_entry_of_each_array_first(options, rng):
    params = {"a": rng.normal(size=50), "b": rng.normal(size=70), "c": np.ones(1)}
    moved = []

    def fun(p):
        found = [k for k, v in p.items() if (v != start[k]).any()]
        moved.extend(found)
        return sum(float(v @ v) for v in p.values())

    start = {k: v.copy() for k, v in params.items()}
    grad = {k: 2 * v for k, v in params.items()}
    check_gradient(fun, params, grad, time_limit=1e3, rng=0, **options)
    wanted = {"a", "b", "c"} if not options else {"a", "b"}
    assert set(moved[: 2 * len(wanted)]) == wanted


def test_an_array_that_the_time_did_not_reach_is_inconclusive(rng):
    params = {"a": rng.normal(size=3), "b": rng.normal(size=5)}
    grad = {k: 2 * v for k, v in params.items()}

    def fun(p):
        return sum(float(v @ v) for v in p.values())

    report = check_gradient(fun, params, grad, time_limit=1e-9, rng=0)
    assert report.verdict == "inconclusive"
    assert "not checked" in report.summary
    assert any("left no entry to check" in said for said in report.diagnosis)
    report = check_gradient(fun, params, grad, indices=1, rng=0)
    assert report.verdict == "inconclusive"
    assert any("so small a sample left no entry" in said for said in report.diagnosis)
    mask = {"a": np.ones(3, bool), "b": np.zeros(5, bool)}
    assert check_gradient(fun, params, grad, indices=mask).ok


@pytest.mark.parametrize(
    ("slope", "ok"), [(0.0, True), (1.0, True), (0.5, True), (3.0, 0)]
)
def test_the_relative_error_leaves_out_what_lies_on_a_kink(slope, ok):
    report = check_gradient(
        lambda p: float(np.maximum(p, 0).sum()), np.zeros(4), np.full(4, slope)
    )
    assert report.ok == bool(ok)
    assert (report.relative_error == 0.0) == bool(ok)
    if ok and slope != 0.5:  # (that is the central difference)
        assert any("little is known" in said for said in report.diagnosis)


def test_worst_takes_a_number(rng):
    report = check_gradient(lambda x: x @ x, np.ones(3), np.full(3, 2.0))
    with pytest.raises(TypeError, match="k must be an integer; got float"):
        report.worst(2.5)
    with pytest.raises(ValueError, match="k must not be negative; got -1"):
        report.worst(-1)
    assert report.worst(0) == []


@pytest.mark.parametrize("directions", [0, 5])
def test_second_looks_end_with_the_time_too(monkeypatch, directions, rng):
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    params = {name: rng.normal(size=40) for name in "abcdef"}
    before = {k: v.tobytes() for k, v in params.items()}

    def fun(p):
        nonlocal now
        now += 0.01
        return float(sum(np.abs(v).sum() for v in p.values()))

    wrong = {k: 1.5 * np.sign(v) for k, v in params.items()}
    report = check_gradient(
        fun, params, wrong, time_limit=1.0, directions=directions, rng=0
    )
    assert now < 2.0 + 0.05
    assert report.verdict == "wrong"
    assert any("ended the second looks" in said for said in report.diagnosis)
    assert {k: v.tobytes() for k, v in params.items()} == before


def test_messages_name_what_is_meant(rng):
    w = rng.normal(size=4)

    def f(w):
        return w @ w

    with pytest.raises(TypeError, match=r"an int .* a mask or flat indices; got float"):
        check_gradient(f, w, 2 * w, indices=0.1)
    with pytest.raises(TypeError, match=r"\(loss, gradient\), pass lambda"):
        check_gradient(f, w, lambda w: (f(w), 2 * w))
    with pytest.raises(TypeError, match="its sum or mean, or see vectorized=True"):
        check_gradient(lambda w: w**2, w, 2 * w)
