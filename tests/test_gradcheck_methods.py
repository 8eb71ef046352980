"""check_gradient: complex numbers, the complex step, stacks, C, float64 for float32."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import reference
from scipy import LowLevelCallable, optimize

import fanin
from fanin import _shadow, check_gradient
from fanin._evaluate import Check
from fanin._kernels import _callback
from fanin._structure import Parameters, map_leaves

FAULTY = ("wrong", "suspicious")

# --- complex parameters -------------------------------------------------------------


def complex_layer(seed, dtype=np.complex128, order="C"):
    """|Z w|^2 with complex Z and real w: (fun, params, grad)."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))
    real = np.dtype(dtype).type(0).real.dtype
    params = {
        "Z": np.asarray(Z.astype(dtype), order=order),
        "w": rng.normal(size=4).astype(real),
    }

    def fun(p):
        return np.sum(np.abs(p["Z"] @ p["w"]) ** 2)

    def grad(p):
        y = p["Z"] @ p["w"]
        return {
            "Z": 2 * np.outer(y, p["w"]),
            "w": 2 * (p["Z"].conj() * y[:, None]).sum(axis=0).real,
        }

    return fun, params, grad


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_complex_arrays_are_checked_by_their_parts(dtype, order, n_threads):
    fun, params, grad = complex_layer(0, dtype, order)
    before = {k: v.tobytes() for k, v in params.items()}
    report = check_gradient(fun, params, grad, n_threads=n_threads)
    assert report.ok, str(report)
    assert list(report.blocks) == ["Z.real", "Z.imag", "w"]
    assert report.n_checked == 12 + 12 + 4
    assert report.numeric["Z"].dtype == np.complex128
    np.testing.assert_array_equal(report.analytic["Z"], grad(params)["Z"])
    error = np.abs(report.numeric["Z"] - grad(params)["Z"]).max()
    # (The thresholds: in float32 the difference is good to some 1e-4.)
    assert error < (1e-6 if dtype is np.complex128 else 1e-1)
    assert {k: v.tobytes() for k, v in params.items()} == before


def test_the_conjugate_gradient_is_wrong_in_the_imaginary_part():
    fun, params, grad = complex_layer(1)
    conjugate = grad(params)
    conjugate["Z"] = conjugate["Z"].conj()
    report = check_gradient(fun, params, conjugate)
    assert report.blocks["Z.imag"].verdict == "wrong"
    assert report.blocks["Z.real"].verdict == report.blocks["w"].verdict == "correct"


def test_one_wrong_part_of_one_entry_is_named():
    fun, params, grad = complex_layer(2)
    wrong = grad(params)
    wrong["Z"][1, 2] += 0.1j
    worst = check_gradient(fun, params, wrong).worst(1)[0]
    assert (worst.name, worst.index) == ("Z.imag", (1, 2))


def test_the_convention_is_pytorchs():
    torch = pytest.importorskip("torch")
    z = torch.tensor([1 + 2j, -0.5 + 1j], dtype=torch.complex128, requires_grad=True)
    (z * z * torch.tensor([1j, 2.0])).abs().sum().backward()
    point = z.detach().numpy().copy()
    report = check_gradient(
        lambda x: np.abs(x * x * np.array([1j, 2.0])).sum(), point, z.grad.numpy()
    )
    assert report.ok, str(report)


def test_views_of_complex_arrays_are_restored(rng):
    base = rng.normal(size=8) + 1j * rng.normal(size=8)
    for view in (base[::2], base[::-1], base.astype(">c16")):
        before = view.tobytes()
        report = check_gradient(lambda z: (abs(z) ** 2).sum(), view, 2 * view)
        assert report.ok, str(report)
        assert view.tobytes() == before
        assert set(report.blocks) == {"params.real", "params.imag"}


def test_a_real_gradient_serves_for_complex_parameters_and_not_the_other_way(rng):
    z = rng.normal(size=3) + 1j * rng.normal(size=3)
    assert check_gradient(lambda z: z.real.sum(), z, np.ones(3)).ok
    with pytest.raises(TypeError, match=r"grad must be an array of real .* complex128"):
        check_gradient(lambda x: x.sum(), np.ones(3), np.ones(3, complex))
    with pytest.raises(ValueError, match=r"grad must have shape \(3,\)"):
        check_gradient(lambda z: z.real.sum(), z, np.ones(2))
    with pytest.raises(ValueError, match=r"must be finite; got \(nan"):
        check_gradient(lambda z: 0.0, np.array([1, np.nan + 1j]), np.ones(2))


# --- the complex step ---------------------------------------------------------------


def test_the_complex_step_is_exact_to_rounding(rng):
    params = {"x": rng.normal(size=20), "y": [rng.normal(size=(2, 3))]}

    def fun(p):
        return optimize.rosen(p["x"]) + np.exp(p["y"][0]).sum() * np.sin(p["x"][0])

    def grad(p):
        e = np.exp(p["y"][0])
        g = optimize.rosen_der(p["x"])
        g[0] += e.sum() * np.cos(p["x"][0])
        return {"x": g, "y": [e * np.sin(p["x"][0])]}

    report = check_gradient(fun, params, grad, method="complex")
    assert report.ok
    # Each term is good to some units in the last place; sums have 4 of them.
    assert report.relative_error < 20 * np.finfo(float).eps
    assert report.n_evaluations == 26 + 1
    assert report.eps == 1e-20


def test_the_complex_step_leaves_the_callers_arrays_alone(rng):
    x = rng.normal(size=5)
    x.flags.writeable = True
    seen = []

    def fun(z):
        seen.append((z is x, z.dtype))
        assert not np.shares_memory(z, x)
        return (z**3).sum()

    wrong = 3 * x**2
    wrong[1] *= 2
    report = check_gradient(fun, x, wrong, method="complex")
    assert report.verdict == "wrong"
    assert not any(same for same, _ in seen)
    assert {dtype for _, dtype in seen} == {np.dtype(float), np.dtype(complex)}


def test_a_function_that_drops_the_imaginary_part_is_told_so(rng):
    x, W = rng.normal(size=3), rng.normal(size=3)
    with pytest.raises(TypeError, match="drops the imaginary part, or reads other"):
        check_gradient(lambda x: (x.real**2).sum(), x, 2 * x, method="complex")
    with pytest.raises(TypeError, match="drops the imaginary part, or reads other"):
        check_gradient(lambda _: (W**2).sum(), W, 2 * W, method="complex")
    with pytest.raises(TypeError, match=r"scalar; got an array of shape \(3,\)"):
        check_gradient(
            lambda x: x if x.dtype.kind == "c" else 0.0, x, x, method="complex"
        )


def test_a_function_that_is_not_analytic_is_no_wrong_gradient(rng):
    x = rng.normal(size=6)
    report = check_gradient(
        lambda x: (np.abs(x) * x * x).sum(), x, 3 * x * np.abs(x), method="complex"
    )
    assert report.verdict not in FAULTY, str(report)
    assert any("not analytic" in s for s in report.diagnosis)


def test_what_the_complex_step_is_not_for(rng):
    z = rng.normal(size=2) + 0j
    with pytest.raises(ValueError, match="real parameters"):
        check_gradient(lambda z: z.real.sum(), z, z, method="complex")
    with pytest.raises(TypeError, match="float cannot be perturbed by a complex step"):
        check_gradient(lambda p: p[0] ** 2, [0.5], [1.0], method="complex")
    with pytest.raises(ValueError, match="do not go together"):
        check_gradient(lambda x: x, z.real, z.real, method="complex", vectorized=True)
    with pytest.raises(ValueError, match="method must be"):
        check_gradient(lambda x: x, z.real, z.real, method="forward")


# --- stacks of points ---------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [None, 2])
def test_a_vectorized_function_gets_stacks(rng, n_threads):
    params = {"a": rng.normal(size=(2, 3)), "b": [0.5], "z": np.array([1 + 2j])}
    calls = []

    def fun(p):
        k = p["b"][0].shape[0]
        assert p["a"].shape == (k, 2, 3)
        assert p["z"].shape == (k, 1)
        calls.append(k)
        return (p["a"] ** 3).sum(axis=(1, 2)) + p["b"][0] ** 2 + abs(p["z"][:, 0]) ** 2

    g = {"a": 3 * params["a"] ** 2, "b": [1.0], "z": 2 * params["z"]}
    report = check_gradient(fun, params, g, vectorized=True, n_threads=n_threads)
    assert report.ok, str(report)
    assert len(calls) < 2 * 9
    plain = check_gradient(
        lambda p: (p["a"] ** 3).sum() + p["b"][0] ** 2 + abs(p["z"][0]) ** 2, params, g
    )
    np.testing.assert_allclose(
        report.numeric["a"], plain.numeric["a"], rtol=1e-7, atol=1e-7
    )
    wrong = {**g, "a": g["a"] * 1.5}
    report = check_gradient(fun, params, wrong, vectorized=True)
    assert {n for n, b in report.blocks.items() if b.verdict == "wrong"} == {"a"}


def test_a_stack_takes_some_megabytes(rng):
    x = rng.normal(size=3000)
    largest = []

    def fun(X):
        largest.append(X.nbytes)
        return (X**2).sum(axis=1)

    assert check_gradient(fun, x, 2 * x, vectorized=True).verdict not in FAULTY
    assert 3000 * 8 * 2 < max(largest) <= 4 << 20


def test_float32_stacks_are_float32(rng):
    x = rng.normal(size=6).astype(np.float32)
    kinds = set()

    def fun(X):
        kinds.add(X.dtype)
        return (X**2).sum(axis=1)

    assert check_gradient(fun, x, 2 * x, vectorized=True).ok
    assert kinds == {np.dtype(np.float32)}


def test_vectorized_functions_that_misbehave_are_told_so(rng):
    x = rng.normal(size=4)
    with pytest.raises(TypeError, match=r"one real value for each .* got shape \(\)"):
        check_gradient(lambda X: (X**2).sum(), x, 2 * x, vectorized=True)

    def writes(X):
        X[:, 0] = 3
        return X.sum(axis=1)

    before = x.tobytes()
    with pytest.raises(ValueError, match="fun modified params"):
        check_gradient(writes, x, np.ones(4), vectorized=True)
    assert x.tobytes() == before

    def writes_to_many(X):
        if len(X) > 1:
            X *= 2
        return X.sum(axis=1)

    with pytest.raises(ValueError, match="fun modified params"):
        check_gradient(writes_to_many, x, np.ones(4), vectorized=True)


def test_values_that_are_a_view_of_the_stack_are_copied(rng):
    x = rng.normal(size=4)
    assert check_gradient(lambda X: X[:, 2], x, np.eye(4)[2], vectorized=True).ok


# --- functions in C -----------------------------------------------------------------

SOURCE = r"""
#include <stdint.h>
#include <time.h>
#ifdef _WIN32
#define API __declspec(dllexport)
#else
#define API
#endif
static double seconds(void)
{ struct timespec t; timespec_get(&t, TIME_UTC); return t.tv_sec + 1e-9 * t.tv_nsec; }
API double rosen(const double *x, intptr_t n)
{ double s = 0;
  for (intptr_t i = 0; i + 1 < n; i++) {
    double a = x[i + 1] - x[i] * x[i], b = 1 - x[i]; s += 100 * a * a + b * b; }
  return s; }
API double scaled(const double *x, intptr_t n, void *c)
{ double s = 0;
  for (intptr_t i = 0; i < n; i++) s += x[i] * x[i];
  return s * *(double *)c; }
/* Waits, up to ten seconds, until as many threads are here as the data say. */
API double meets(const double *x, intptr_t n, void *data)
{ int *d = data; double end = seconds() + 10;
  if (d[0] && x[0] != d[2]) {
    __atomic_add_fetch(&d[1], 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&d[1], __ATOMIC_SEQ_CST) < d[0])
      if (seconds() > end) return 1e300; }
  return x[0]; }
API double slow(const double *x, intptr_t n, void *data)
{ double end = seconds() + 0.02; while (seconds() < end); return x[0]; }
API double writes(double *x, intptr_t n) { x[0] = 3; return x[0]; }
"""
POINTER = ctypes.POINTER(ctypes.c_double)
PLAIN = [POINTER, ctypes.c_ssize_t]


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs a C compiler called cc")
    folder = tmp_path_factory.mktemp("callback")
    (folder / "f.c").write_text(SOURCE)
    path = folder / "f.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", path, folder / "f.c"]
    subprocess.run(command, check=True)
    lib = ctypes.CDLL(str(path))
    for name in ("rosen", "writes", "scaled", "meets", "slow"):
        function = getattr(lib, name)
        function.restype = ctypes.c_double
        function.argtypes = PLAIN
        if name not in ("rosen", "writes"):
            function.argtypes = [*PLAIN, ctypes.c_void_p]
    return lib


@pytest.mark.parametrize("n_threads", [None, 1, 2, 3])
def test_a_ctypes_function_is_checked(c, rng, n_threads):
    x = rng.normal(size=101)
    before = x.tobytes()
    report = check_gradient(c.rosen, x, optimize.rosen_der, n_threads=n_threads)
    serial = check_gradient(c.rosen, x, optimize.rosen_der, n_threads=1)
    assert report.ok, str(report)
    np.testing.assert_array_equal(report.numeric, serial.numeric)
    wrong = optimize.rosen_der(x)
    wrong[70] *= 1.5
    report = check_gradient(c.rosen, x, wrong, n_threads=n_threads)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].index == (70,)
    assert x.tobytes() == before


def test_a_structure_is_one_vector_in_the_order_of_the_report(c, rng):
    x = rng.normal(size=7)
    params = {"b": x[:3].copy(), "a": [x[3:6].reshape(3, 1)[::-1], float(x[6])]}
    flat = np.concatenate([params["b"], params["a"][0].ravel(), [params["a"][1]]])
    g = optimize.rosen_der(flat)
    split = {"b": g[:3], "a": [g[3:6].reshape(3, 1), g[6]]}
    report = check_gradient(c.rosen, params, split)
    assert report.ok, str(report)
    assert list(report.blocks) == ["b", "a[0]", "a[1]"]


def test_a_low_level_callable_brings_its_data(c, rng):
    x = rng.normal(size=9)
    scale = ctypes.c_double(2.5)
    data = ctypes.cast(ctypes.pointer(scale), ctypes.c_void_p)
    fun = LowLevelCallable(c.scaled, data)
    assert check_gradient(fun, x, 5 * x).ok
    assert check_gradient(fun, x, 5 * x, indices=3, directions=2, rng=0).ok
    assert check_gradient(fun, x, 6 * x).verdict == "wrong"
    report = check_gradient(fun, x, 5 * x, time_limit=60)
    assert report.ok
    assert report.n_checked == 9


def test_a_numba_cfunc_is_checked(rng):
    numba = pytest.importorskip("numba")
    from numba import types

    @numba.cfunc(types.double(types.CPointer(types.double), types.intp))
    def f(theta, n):
        values = numba.carray(theta, (n,))
        return (values**3).sum()

    x = rng.normal(size=5)
    assert check_gradient(f, x, 3 * x**2).ok


def test_functions_in_c_run_at_once_without_the_gil(c):
    # [how many must meet, how many came, what the unperturbed first entry is]
    data = np.array([0, 0, 1], np.intc)
    fun = LowLevelCallable(c.meets, ctypes.cast(data.ctypes.data, ctypes.c_void_p))
    x = np.array([1.0, 2.0])
    assert check_gradient(fun, x, np.array([1.0, 0.0]), n_threads=2).ok
    callback = _callback.Callback(
        ctypes.cast(c.meets, ctypes.c_void_p).value, data.ctypes.data
    )
    data[0] = 2
    up, down = np.empty(2), np.empty(2)
    entries = np.zeros(2, np.int64)
    points = np.array([1.5, 2.5])
    callback.differences(up, down, x, entries, points, points - 1, 2)
    np.testing.assert_array_equal(up, points)  # 1e300 if one waited in vain


def test_the_kernel_is_its_twin(c, rng):
    x = rng.normal(size=40)
    entries = rng.permutation(40)[:33].astype(np.int64)
    plus, minus = x[entries] + 0.1, x[entries] - 0.2
    callback = _callback.Callback(ctypes.cast(c.rosen, ctypes.c_void_p).value, None)
    expected = reference.callback_differences(optimize.rosen, x, entries, plus, minus)
    for n_threads in (1, 2, 5):
        found = np.empty((2, 33))
        callback.differences(*found, x, entries, plus, minus, n_threads)
        # Sums of 39 terms, in another order.
        np.testing.assert_allclose(found, expected, rtol=39 * 2.3e-16)
    with pytest.raises(IndexError, match="entry 40 of 40"):
        callback.differences(*found, x, np.full(33, 40), plus, minus)
    with pytest.raises(ValueError, match="one value an entry"):
        callback.differences(*found, x, entries[1:], plus, minus)


def test_c_that_cannot_be_called_is_refused(c, rng):
    x = rng.normal(size=4)
    before = x.tobytes()
    with pytest.raises(ValueError, match="fun modified theta"):
        check_gradient(c.writes, x, x)
    assert x.tobytes() == before
    with pytest.raises(TypeError, match=r"params\['a'\] must be float64"):
        check_gradient(c.rosen, {"a": x.astype(np.float32)}, {"a": x})
    with pytest.raises(TypeError, match="params must be float64"):
        check_gradient(c.rosen, x + 0j, x)
    with pytest.raises(ValueError, match="a function in C do not go together"):
        check_gradient(c.rosen, x, x, vectorized=True)
    untyped = ctypes.CDLL(c._name).rosen
    with pytest.raises(TypeError, match="unknown prototype"):
        check_gradient(untyped, x, x)
    other = ctypes.CDLL(c._name).rosen
    other.restype, other.argtypes = ctypes.c_double, [ctypes.c_double]
    with pytest.raises(TypeError, match="must have the prototype double"):
        check_gradient(other, x, x)
    python = ctypes.CFUNCTYPE(ctypes.c_double, *PLAIN)(lambda x, n: 0.0)
    with pytest.raises(TypeError, match="swallow its exceptions"):
        check_gradient(python, x, x)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_ends_a_check_of_c_and_restores(c, rng, n_threads):
    x = rng.normal(size=10**5)
    before = x.tobytes()
    fun = LowLevelCallable(c.slow)
    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            check_gradient(fun, x, x, n_threads=n_threads)
    finally:
        timer.cancel()
        timer.join()
    assert x.tobytes() == before


# --- every method restores ----------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("options", [
    {"method": "complex"},
    {"vectorized": True},
    {"vectorized": True, "n_threads": 2},
    {"indices": 5, "rng": 0},
    {"directions": 3, "rng": 0},
    {"time_limit": 60.0, "rng": 0},
    {"indices": [0, 3, 6], "directions": 2, "n_threads": 2, "rng": 0},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("wrong", [False, True])
def test_an_exception_at_any_evaluation_restores(options, error, wrong):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(2, 3)), "b": [rng.normal(size=2)[::-1]]}
    arrays = [params["a"], params["b"][0]]
    before = [array.tobytes() for array in arrays]
    g = {"a": 2 * params["a"], "b": [2 * params["b"][0] * (1.5 if wrong else 1)]}
    calls = []
    limit = [-1]
    vectorized = options.get("vectorized", False)

    def fun(p):
        calls.append(1)
        if len(calls) == limit[0]:
            raise error
        axis = (1, 2) if vectorized else None
        last = 1 if vectorized else None
        return (p["a"] ** 2).sum(axis=axis) + (p["b"][0] ** 2).sum(axis=last)

    check_gradient(fun, params, g, **options)
    total = len(calls)
    for limit[0] in range(1, total + 1, 1 + total // 12):
        calls.clear()
        with pytest.raises(error):
            check_gradient(fun, params, g, **options)
        assert [array.tobytes() for array in arrays] == before
        assert params["b"][0] is arrays[1]


# --- float32 ------------------------------------------------------------------------


def test_float64_decides_what_float32_cannot(rng):
    x = rng.normal(size=6).astype(np.float32)

    def fun(x):
        return x @ x + x.dtype.type(3e4)

    report = check_gradient(fun, x, 2 * x)
    assert report.verdict == "correct"
    assert any("float64 copies" in s for s in report.diagnosis)
    assert report.relative_error < 1e-6

    def wrong(x):
        g = 2 * x
        g[2] *= 1.5
        return g

    report = check_gradient(fun, x, wrong)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].index == (2,)
    assert x.dtype == np.float32
    # Of numbers from float32 it is not known whether they are no better.
    report = check_gradient(lambda x: fun(x) + x.dtype.type(3e6), x, wrong(x))
    assert report.verdict == "inconclusive"
    assert any("check it in float64" in s for s in report.diagnosis)


def test_the_rounding_of_a_float32_gradient_is_no_fault(rng):
    # 1 - tanh^2 of large numbers has few digits in float32, or none.
    x = rng.uniform(6, 9, size=7).astype(np.float32)

    def fun(x):
        return np.tanh(x).sum()

    def grad(x):
        return 1 - np.tanh(x) ** 2

    for g in (grad, grad(x)):
        assert check_gradient(fun, x, g).verdict not in FAULTY


def test_a_float32_function_that_needs_no_help_gets_none(rng):
    x = rng.normal(size=6).astype(np.float32)
    kinds = set()

    def fun(x):
        kinds.add(x.dtype)
        return x @ x

    assert check_gradient(fun, x, 2 * x).ok
    assert kinds == {np.dtype(np.float32)}


def test_float64_copies_mislead_nobody_who_reads_other_arrays(rng):
    x = rng.normal(size=6).astype(np.float32)
    W = {"used": x, "read": rng.normal(size=4).astype(np.float32)}
    offset = 1e5

    def closed(_):
        return x @ x + np.float64(offset)  # float64 values of float32 accuracy

    def partly(p):
        read = (W["read"] ** 2).sum()
        return p["used"] @ p["used"] + p["used"].dtype.type(offset) + read

    def half(p):
        return p @ p + (x * x).sum() + p.dtype.type(offset)

    for fun, params, g in (
        (closed, x, 2 * x),
        (partly, W, {k: 2 * v for k, v in W.items()}),
        (half, x, 4 * x),
    ):
        report = check_gradient(fun, params, g)
        assert report.verdict not in FAULTY, str(report)


def test_a_function_that_refuses_float64_is_left_alone(rng):
    x = rng.normal(size=6).astype(np.float32)

    def fun(x):
        if x.dtype != np.float32:
            raise TypeError("float32 only")
        return x @ x + np.float32(1e6)

    assert check_gradient(fun, x, 2 * x).verdict == "inconclusive"


def test_a_cheap_function_is_not_given_to_threads(rng):
    threads = set()

    def fun(x):
        threads.add(threading.get_ident())
        return x @ x

    x = rng.normal(size=200)
    fanin.check_gradient(fun, x, 2 * x)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-3])
def test_a_float32_step_that_passes_kinks_is_no_alarm(scale):
    """Arguments far below the step of 4.9e-3: float64 copies have a smaller one."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = (scale * rng.normal(size=(40, 4))).astype(np.float32)
        y = rng.normal(size=(40, 1)).astype(np.float32)
        params = {
            "W1": (rng.normal(size=(4, 9)) / 2).astype(np.float32),
            "b1": np.zeros(9, np.float32),
            "W2": (rng.normal(size=(9, 1)) / 3).astype(np.float32),
        }

        def loss(p, X=X, y=y):
            return ((np.maximum(X @ p["W1"] + p["b1"], 0) @ p["W2"] - y) ** 2).mean()

        def gradient(p, X=X, y=y):
            Z = X @ p["W1"] + p["b1"]
            A = np.maximum(Z, 0)
            D = 2 * (A @ p["W2"] - y) / len(X)
            dZ = D @ p["W2"].T * (Z > 0)
            return {"W1": X.T @ dZ, "b1": dZ.sum(axis=0), "W2": A.T @ D}

        def broken(p, gradient=gradient):
            return {name: 2 * slope for name, slope in gradient(p).items()}

        assert check_gradient(loss, params, gradient).verdict == "correct"
        assert check_gradient(loss, params, broken).verdict == "wrong"


def test_what_adds_the_same_to_all_logits_hides_nothing_of_a_softmax():
    """Moves that change nothing but rounding do not show what the function reads."""
    rng = np.random.default_rng(0)
    for n in range(2, 5):
        labels = rng.integers(n, size=9)
        params = {f"b{k}": np.zeros(n, np.float32) for k in range(8)}

        def loss(p, labels=labels):
            z = sum(p.values())
            return np.log(np.exp(z).sum()) - z[labels].mean()

        parameters = Parameters(params)
        check = Check(loss, parameters, None)
        check.run(np.ones(parameters.size), np.full(parameters.size, 1e-7), None)
        shadow = Parameters(map_leaves(params, _shadow.double))
        assert _shadow._moves_alike(check, shadow, loss(shadow.structure)) is not None


def test_an_array_is_right_that_is_so_in_either_precision():
    """Numbers of float32: of a sum that cancels they hold the rounding of its terms."""
    params = {"w": np.zeros(1, np.float32), "b": np.zeros(2, np.float32)}

    def loss(p):
        # Kinks that the steps of float32 pass, and a derivative that is zero.
        near = np.float32(1e-5)
        kinked = p["w"] + 3 * np.clip(p["w"], -near, near)
        return kinked.sum() + np.cos(p["b"]).sum()

    gradient = {"w": np.float32([4]), "b": np.float32([3e-8, -3e-8])}
    report = check_gradient(loss, params, gradient)
    assert report.ok, str(report)
    assert "float64 copies" in " ".join(report.diagnosis)
    wrong = gradient | {"b": np.float32([3e-2, -3e-8])}
    assert check_gradient(loss, params, wrong).blocks["b"].verdict == "wrong"
