"""Activations and losses of the user's own: what is taken, refused, and survived."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import shutil
import subprocess
import sys
import threading
import types
import weakref

import numpy as np
import pytest

import fanin
from fanin import activations, functional, losses
from fanin._kernels import _custom
from fanin.layers import Activation, BatchNorm, Dense, Dropout

DTYPES = [np.float32, np.float64]
# Rounding of a value computed in another order, as a share of it: some operations.
CLOSE = {np.float32: 1e-5, np.float64: 1e-13}


# --- pairs --------------------------------------------------------------------------


def softsign(z):
    return z / (1 + abs(z))


def softsign_slope(z):
    return (1 + abs(z)) ** -2.0


def tanh_slope(z):
    return 1 - np.tanh(z) ** 2


def relu(z):
    return np.maximum(z, 0)


def square_loss(Z, Y):
    return ((Z - Y) ** 2).mean(axis=1)


def square_gradient(Z, Y):
    return 2 * (Z - Y) / Z.shape[1]


C_SOURCE = r"""
#include <math.h>
#include <stdint.h>
#include <time.h>
double softsign(double z) { return z / (1 + fabs(z)); }
double softsign_slope(double z) { return 1 / ((1 + fabs(z)) * (1 + fabs(z))); }
double power(double z, void *p) { return pow(fabs(z), *(double *)p); }
double power_slope(double z, void *p)
{ double n = *(double *)p; return n * pow(fabs(z), n - 1) * (z < 0 ? -1 : 1); }
double loss(const double *z, const double *y, intptr_t n)
{ double s = 0; for (intptr_t i = 0; i < n; i++) s += (z[i] - y[i]) * (z[i] - y[i]);
  return s / n; }
void gradient(double *dz, const double *z, const double *y, intptr_t n)
{ for (intptr_t i = 0; i < n; i++) dz[i] = 2 * (z[i] - y[i]) / n; }
void half(double *dz, const double *z, const double *y, intptr_t n)
{ for (intptr_t i = 0; i < n; i++) dz[i] = (z[i] - y[i]) / n; }
double scaled(const double *z, const double *y, intptr_t n, void *p)
{ return *(double *)p * loss(z, y, n); }
void scaled_gradient(double *dz, const double *z, const double *y, intptr_t n, void *p)
{ gradient(dz, z, y, n); for (intptr_t i = 0; i < n; i++) dz[i] *= *(double *)p; }
static double seconds(void)
{ struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec; }
/* Waits, up to ten seconds, for another thread to set the flag. */
double waits(double z, void *flag)
{ double end = seconds() + 10;
  while (!*(volatile int *)flag) if (seconds() > end) return -1e9;
  return z; }
double one(double z, void *flag) { return 1; }
/* 100 microseconds of work, once there is something in *on. */
double slow(double z, void *on)
{ double end = seconds() + 1e-4; while (*(int *)on && seconds() < end); return z; }
"""
POINTER = ctypes.POINTER(ctypes.c_double)
SCALAR = (ctypes.c_double, [ctypes.c_double])
SCALAR_DATA = (ctypes.c_double, [ctypes.c_double, ctypes.c_void_p])
ROW = (ctypes.c_double, [POINTER, POINTER, ctypes.c_ssize_t])
ROW_GRADIENT = (None, [POINTER, POINTER, POINTER, ctypes.c_ssize_t])
PROTOTYPES = {
    "softsign": SCALAR,
    "softsign_slope": SCALAR,
    "power": SCALAR_DATA,
    "power_slope": SCALAR_DATA,
    "loss": ROW,
    "gradient": ROW_GRADIENT,
    "half": ROW_GRADIENT,
    "scaled": (ROW[0], [*ROW[1], ctypes.c_void_p]),
    "scaled_gradient": (None, [*ROW_GRADIENT[1], ctypes.c_void_p]),
    "waits": SCALAR_DATA,
    "one": SCALAR_DATA,
    "slow": SCALAR_DATA,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return the path of C_SOURCE, compiled."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs a C compiler called cc")
    folder = tmp_path_factory.mktemp("custom")
    (folder / "custom.c").write_text(C_SOURCE)
    path = folder / "custom.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", path, folder / "custom.c"]
    subprocess.run([*map(str, command), "-lm"], check=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def c(library):
    """Return the functions of C_SOURCE, by ctypes."""
    loaded = ctypes.CDLL(str(library))
    functions = types.SimpleNamespace()
    for name, (result, arguments) in PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
        setattr(functions, name, function)
    return functions


def numba_pair():
    numba = pytest.importorskip("numba")
    kind = "float64(float64)"
    return (
        numba.cfunc(kind)(lambda z: z / (1 + abs(z))),
        numba.cfunc(kind)(lambda z: 1 / (1 + abs(z)) ** 2),
    )


def numba_loss():
    numba = pytest.importorskip("numba")
    from numba import types as t

    pointer = t.CPointer(t.float64)

    def loss(z, y, n):
        s = 0.0
        for i in range(n):
            s += (z[i] - y[i]) ** 2
        return s / n

    def gradient(dz, z, y, n):
        for i in range(n):
            dz[i] = 2 * (z[i] - y[i]) / n

    return (
        numba.cfunc(t.float64(pointer, pointer, t.intp))(loss),
        numba.cfunc(t.void(pointer, pointer, pointer, t.intp))(gradient),
    )


KINDS = ["python", "ctypes", "low-level", "numba"]


@pytest.fixture(params=KINDS)
def activation(request):
    """Return softsign, as functions of every kind."""
    if request.param == "python":
        return activations.Custom(softsign, softsign_slope)
    if request.param == "numba":
        return activations.Custom(*numba_pair())
    c = request.getfixturevalue("c")
    pair = (c.softsign, c.softsign_slope)
    if request.param == "low-level":
        scipy = pytest.importorskip("scipy")
        pair = tuple(map(scipy.LowLevelCallable, pair))
    return activations.Custom(*pair)


@pytest.fixture(params=KINDS)
def loss(request):
    """Return the squared error, as functions of every kind."""
    if request.param == "python":
        return losses.Custom(square_loss, square_gradient)
    if request.param == "numba":
        return losses.Custom(*numba_loss())
    c = request.getfixturevalue("c")
    pair = (c.loss, c.gradient)
    if request.param == "low-level":
        scipy = pytest.importorskip("scipy")
        pair = tuple(map(scipy.LowLevelCallable, pair))
    return losses.Custom(*pair)


# --- on arrays ----------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_and_derivative_are_the_functions(activation, dtype, n_threads, rng):
    for Z in (
        rng.standard_normal(7).astype(dtype),
        rng.standard_normal((301, 500)).astype(dtype),
        rng.standard_normal((64, 60)).astype(dtype)[::2, ::3],
        rng.standard_normal((20, 3)).astype(dtype).T,
        np.zeros((0, 3), dtype),
    ):
        kept = Z.copy()
        for compute, expected in (
            (activations.apply, softsign(Z.astype(np.float64))),
            (activations.derivative, softsign_slope(Z.astype(np.float64))),
        ):
            found = compute(Z, activation, n_threads=n_threads)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=CLOSE[dtype], atol=0)
        assert np.array_equal(Z, kept)
    in_place = kept = rng.standard_normal((50, 9)).astype(dtype)
    kept = in_place.copy()
    activations.apply(in_place, activation, out=in_place)
    np.testing.assert_allclose(in_place, softsign(kept), rtol=CLOSE[dtype])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluate_is_the_squared_error(loss, dtype, weighted, rng):
    for shape in ((1, 1), (5, 3), (9000, 4), (3, 70_000)):
        Z = rng.standard_normal(shape).astype(dtype)
        Y = rng.standard_normal(shape).astype(dtype)
        weight = rng.integers(0, 3, shape[0]) + 0.5 if weighted else None
        expected, gradient = losses.evaluate(
            Z, Y, "squared_error", sample_weight=weight
        )
        for n_threads in (1, 2):
            value, dZ = losses.evaluate(
                Z, Y, loss, sample_weight=weight, n_threads=n_threads
            )
            # A Python loss is in the dtype of its arrays.
            assert value == pytest.approx(expected, rel=CLOSE[dtype])
            assert dZ.dtype == dtype
            np.testing.assert_allclose(dZ, gradient, rtol=2 * CLOSE[dtype], atol=0)


def test_a_row_of_no_weight_counts_for_nothing(loss):
    Z, y = [[1.0, 1e200], [2.0, 0.0]], [[0.0, -1e200], [0.0, 0.0]]
    with np.errstate(over="ignore"):
        value, dZ = losses.evaluate(Z, y, loss, sample_weight=[0.0, 3.0])
    assert value == 2.0
    assert dZ.tolist() == [[0.0, 0.0], [2.0, 0.0]]


def test_one_target_serves_all_outputs(loss):
    for y in ([1.0, 2.0], [[1.0], [2.0]], [[1.0, 1.0], [2.0, 2.0]]):
        assert losses.evaluate([[1.0, 3.0], [2.0, 2.0]], y, loss)[0] == 1.0
    with pytest.raises(ValueError, match=r"y must have shape \(2,\), for all outputs"):
        losses.evaluate([[1.0, 3.0], [2.0, 2.0]], [[1.0, 1.0, 1.0]] * 2, loss)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dense_functions_take_it(activation, dtype, rng):
    X, W, b, dA = (
        rng.standard_normal(shape).astype(dtype)
        for shape in ((300, 20), (20, 40), (40,), (300, 40))
    )
    A = functional.dense(X, W, b, activation)
    Z = X.astype(float) @ W + b
    np.testing.assert_allclose(A, softsign(Z), atol=20 * CLOSE[dtype])
    dX, dW, db = functional.dense_backward(dA, X, W, A, activation, bias=b)
    D = dA * softsign_slope(Z)
    np.testing.assert_allclose(dX, D @ W.T, atol=200 * CLOSE[dtype])
    np.testing.assert_allclose(dW, X.T @ D, atol=1000 * CLOSE[dtype])
    np.testing.assert_allclose(db, D.sum(0), atol=1000 * CLOSE[dtype])


# --- in a network -------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_with_them_is_the_one_with_the_own(
    dtype, n_threads, training, loss, rng
):
    tanh = activations.Custom(np.tanh, tanh_slope)

    def network(f, of_loss):
        layers = [
            Dense(64, f), BatchNorm(), Activation(f), Dropout(0.3), Dense(9, f)
        ]  # fmt: skip
        net = fanin.Network(20, layers, loss=of_loss, dtype=dtype, rng=0)
        net.named_parameters()["dense0.bias"][:] = np.linspace(-1, 1, 64)
        return net

    own, custom = network("tanh", "squared_error"), network(tanh, loss)
    X = rng.standard_normal((1000, 20)).astype(dtype)
    y = rng.standard_normal((1000, 9)).astype(dtype)
    weight = rng.uniform(size=1000)
    options = {"training": training, "n_threads": n_threads}
    expected, gradient = own.loss_and_gradient(X, y, sample_weight=weight, **options)
    value, found = custom.loss_and_gradient(X, y, sample_weight=weight, **options)
    assert value == pytest.approx(expected, rel=CLOSE[dtype])
    scale = abs(gradient).max()
    np.testing.assert_allclose(found, gradient, atol=10 * CLOSE[dtype] * scale)
    np.testing.assert_allclose(
        custom.input_gradient(X, y), own.input_gradient(X, y), atol=CLOSE[dtype]
    )
    for many in (X, X[:1], X[:300]):
        np.testing.assert_allclose(
            custom.predict(many, n_threads=n_threads),
            own.predict(many),
            atol=10 * CLOSE[dtype],
        )


def test_check_gradient_says_correct(activation, loss, rng):
    net = fanin.Network(
        3, [Dense(4, activation), Activation(activation), Dense(2)], loss=loss,
        dtype=np.float64, rng=0,
    )  # fmt: skip
    X, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    assert net.check_gradient(X, y).verdict == "correct"
    wrong = net.loss_and_gradient(X, y)[1] * 1.01
    assert net.check_gradient(X, y, gradient=wrong).verdict == "wrong"


def test_it_trains(rng):
    X = rng.standard_normal((500, 3))
    y = X @ [1.0, -2.0, 0.5]
    net = fanin.Network(
        3,
        [Dense(16, activations.Custom(softsign, softsign_slope)), Dense(1)],
        loss=losses.Custom(square_loss, square_gradient, n_outputs=1),
        rng=0,
    )
    before = net.loss(X, y)
    net.fit(
        X, y, optimizer=fanin.optimizers.Adam(0.01), epochs=20, batch_size=32, rng=0
    )
    assert net.loss(X, y) < before / 20
    assert net.predict(X).shape == (500,)
    with pytest.raises(AttributeError, match="predict_proba"):
        net.predict_proba(X)


def test_the_blocks_are_the_functions_own(rng):
    kept, sizes = [], []

    def keeps(z):
        kept.append(z)
        return np.tanh(z, out=z)  # in place, too

    def slope(z):
        sizes.append(z.size)
        return tanh_slope(z)

    net = fanin.Network(
        10,
        [Dense(300, activations.Custom(keeps, slope)), Dense(1)],
        loss="squared_error",
        rng=0,
    )
    X = rng.standard_normal((2000, 10)).astype(np.float32)
    expected = fanin.dense(X, net.named_parameters()["dense0.weight"], None, "tanh")
    kept.clear()
    net.loss_and_gradient(X, np.zeros(2000), n_threads=1)
    net.loss(np.ones((2000, 10)), np.zeros(2000))
    del net
    found = np.concatenate([z for z in kept if z.dtype == np.float32])[:2000]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert all(z.ndim == 2 and z.flags.c_contiguous for z in kept)
    assert max(sizes) <= 65536


def test_the_blocks_of_a_loss_are_read_only():
    def writes(Z, Y):
        Z -= Y
        return (Z**2).sum(axis=1)

    with pytest.raises(ValueError, match="read-only"):
        losses.Custom(writes, lambda Z, Y: 2 * (Z - Y))


@pytest.mark.parametrize("kind", ["bool", "int", "float32", "float64", "big"])
def test_results_of_any_real_dtype_are_converted(kind):
    def slope(z):
        found = (z > 0).astype(bool)
        dtype = ">f8" if kind == "big" else kind
        return found if kind == "bool" else found.astype(dtype)

    made = activations.Custom(relu, slope)
    Z = np.array([-1.0, 2.0], np.float32)
    assert activations.derivative(Z, made).tolist() == [0.0, 1.0]


# --- what is right, and what is refused ---------------------------------------------

RIGHT = {
    "sin": (np.sin, np.cos),
    "tanh": (np.tanh, tanh_slope),
    "exp, which overflows": (np.exp, np.exp),
    "exp of squares, which is infinite for large z": (
        lambda z: np.exp(z**2),
        lambda z: 2 * z * np.exp(z**2),
    ),
    "cube": (lambda z: z**3, lambda z: 3 * z**2),
    "bump, flat far away": (
        lambda z: np.exp(-(z**2)), lambda z: -2 * z * np.exp(-(z**2))
    ),
    "constant": (lambda z: 0 * z + 3, lambda z: 0 * z),
    "relu": (relu, lambda z: z > 0),
    "relu, the other side of the kink": (relu, lambda z: z >= 0),
    "absolute": (np.abs, np.sign),
    "hard tanh": (lambda z: np.clip(z, -1, 1), lambda z: abs(z) < 1),
    "hard logistic": (lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: (abs(z) < 3) / 6),
    "logistic": (
        lambda z: 1 / (1 + np.exp(-z)),
        lambda z: np.exp(-abs(z)) / (1 + np.exp(-abs(z))) ** 2,
    ),
    "tanh in float32": (
        lambda z: np.tanh(z.astype(np.float32)),
        lambda z: tanh_slope(z.astype(np.float32)),
    ),
}  # fmt: skip
WRONG = {
    "another function": (np.sin, np.sin),
    "the sign": (np.cos, np.sin),
    "a factor 2": (lambda z: z**2, lambda z: z),
    "of a, not of z": (np.tanh, lambda z: 1 - z**2),
    "by 1e-5": (np.tanh, lambda z: tanh_slope(z) * (1 + 1e-5)),
    "by 1e-6 where it is flat": (np.tanh, lambda z: tanh_slope(z) + 1e-6),
    "the kink elsewhere": (relu, lambda z: z > 0.5),
    "for large z only": (np.sin, lambda z: np.where(abs(z) > 50, 0, np.cos(z))),
    "in float32": (
        lambda z: np.tanh(z.astype(np.float32)),
        lambda z: 1.03 * tanh_slope(z.astype(np.float32)),
    ),
    "nan": (np.tanh, lambda z: tanh_slope(z) * np.where(z == 0, np.nan, 1)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_derivative_is_accepted(case):
    with np.errstate(all="ignore"):
        made = activations.Custom(*RIGHT[case], name=f"my {case}")
        assert made.name == f"my {case}"
        value = activations.apply([0.5], made)
        assert value == RIGHT[case][0](np.array([[0.5]])).ravel()


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_derivative_is_refused_with_the_report(case):
    with pytest.raises(fanin.GradientError, match="'it' was refused") as caught:
        activations.Custom(*WRONG[case], name="it")
    report = caught.value.report
    assert isinstance(report, fanin.GradientReport)
    assert report.verdict in ("wrong", "suspicious")
    assert str(report) in str(caught.value)


def test_a_wrong_gradient_of_a_loss_is_refused_with_the_report():
    with pytest.raises(fanin.GradientError, match="loss 'it' was refused") as caught:
        losses.Custom(square_loss, lambda Z, Y: Z - Y, name="it")
    assert caught.value.report.verdict == "wrong"
    assert caught.value.report.analytic["Z"].shape == (21, 3)
    with pytest.raises(fanin.GradientError):
        losses.Custom(square_loss, lambda Z, Y: 2 * (Y - Z) / 3)
    # Only where the last output is concerned.
    with pytest.raises(fanin.GradientError):
        losses.Custom(square_loss, lambda Z, Y: square_gradient(Z, Y) * [1, 1, 0])


def test_wrong_compiled_pairs_are_refused(c):
    with pytest.raises(fanin.GradientError):
        activations.Custom(c.softsign, c.softsign)
    with pytest.raises(fanin.GradientError):
        losses.Custom(c.loss, c.half)


def test_a_random_function_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(fanin.GradientError, match="random"):
        activations.Custom(lambda z: z + rng.standard_normal(z.shape), np.ones_like)


def test_what_mixes_elements_or_rows_is_refused():
    with pytest.raises(ValueError, match="must treat each element by itself"):
        activations.Custom(lambda z: z - z.mean(), np.ones_like)
    with pytest.raises(ValueError, match="must treat each row by itself"):
        losses.Custom(
            lambda Z, Y: ((Z - Y.mean(axis=0)) ** 2).sum(axis=1),
            lambda Z, Y: 2 * (Z - Y.mean(axis=0)),
        )


def test_what_is_not_defined_asks_for_a_sample():
    with np.errstate(invalid="ignore"):
        with pytest.raises(ValueError, match=r"'sqrt' is nan at z = -4\.3"):
            activations.Custom(np.sqrt, lambda z: 0.5 / np.sqrt(z))

        def loss(Z, Y):  # of a rate, with the constant that only counts have
            return (np.exp(Z) - Y * Z + np.log(Y)).sum(axis=1)

        def gradient(Z, Y):
            return np.exp(Z) - Y

        with pytest.raises(ValueError, match="give `sample_targets`"):
            losses.Custom(loss, gradient)
    for sample in (np.arange(1, 9), np.arange(1, 9).reshape(4, 2)):
        made = losses.Custom(loss, gradient, sample_targets=sample)
        assert losses.evaluate([0.0], [1.0], made)[0] == 1.0
    made = losses.Custom(loss, gradient, sample_targets=[3, 5], n_outputs=4)
    assert losses.evaluate([0.0], [1.0], made)[0] == 1.0


@pytest.mark.parametrize(
    ("derivative", "error", "message"),
    [
        (lambda z: 1.0, TypeError, r"must return an array of shape .*; got float"),
        (lambda z: z[:1, :1], ValueError, r"derivative must return .*; got \(1, 1\)"),
        (lambda z: z.astype(complex), TypeError, "got dtype complex128"),
        (lambda z: z.astype(object), TypeError, "got dtype object"),
        (lambda z: {}["gone"], KeyError, "gone"),
        ("tanh", TypeError, "derivative must be a Python function on arrays"),
    ],
)
def test_what_is_no_derivative_is_refused(derivative, error, message):
    with pytest.raises(error, match=message):
        activations.Custom(np.sin, derivative)


def test_what_is_no_loss_is_refused():
    with pytest.raises(ValueError, match=r"function must return .* shape \(1,\)"):
        losses.Custom(lambda Z, Y: (Z - Y) ** 2, square_gradient)
    for sample in (np.ones((2, 2, 2)), []):
        with pytest.raises(ValueError, match="sample_targets must have shape"):
            losses.Custom(square_loss, square_gradient, sample_targets=sample)
    with pytest.raises(ValueError, match="n_outputs"):
        losses.Custom(square_loss, square_gradient, n_outputs=0)


def test_names():
    made = activations.Custom(softsign, softsign_slope)
    assert made.name == "softsign"
    assert repr(made) == "Custom(name='softsign')"
    assert made.parameter == 0.0
    # A name of fanin's own would be taken for its function.
    assert activations.Custom(np.tanh, tanh_slope).name == "custom"
    for name in ("tanh", ""):
        with pytest.raises(ValueError, match="name must be one that fanin does not"):
            activations.Custom(np.tanh, tanh_slope, name=name)
    with pytest.raises(ValueError, match="name must be one that fanin does not"):
        losses.Custom(square_loss, square_gradient, name="squared_error")
    with pytest.raises(TypeError, match="name must be a string; got int"):
        losses.Custom(square_loss, square_gradient, name=3)


# --- compiled functions -------------------------------------------------------------


def test_a_function_of_unknown_prototype_is_refused(library):
    loaded = ctypes.CDLL(str(library))
    with pytest.raises(TypeError, match="set its restype and argtypes"):
        activations.Custom(loaded.softsign, loaded.softsign_slope)


def test_a_function_of_another_prototype_is_refused(library, c):
    scipy = pytest.importorskip("scipy")
    wrong = ctypes.CDLL(str(library)).softsign
    for result, arguments in (
        (ctypes.c_float, [ctypes.c_double]),
        (ctypes.c_double, [ctypes.c_float]),
        (ctypes.c_double, []),
        (ctypes.c_double, [ctypes.c_double, ctypes.c_double]),
        (ctypes.c_double, [ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p]),
        (None, [ctypes.c_double]),
    ):
        wrong.restype, wrong.argtypes = result, arguments
        for pair in ((wrong, c.softsign_slope), (c.softsign, wrong)):
            with pytest.raises(TypeError, match=r"must have the prototype double \("):
                activations.Custom(*pair)
            with pytest.raises(TypeError, match=r"must have the prototype double \("):
                activations.Custom(*map(scipy.LowLevelCallable, pair))
    with pytest.raises(TypeError, match=r"derivative must have the prototype void \("):
        losses.Custom(c.loss, c.loss)


def test_signatures_of_low_level_callables(c):
    scipy = pytest.importorskip("scipy")
    for signature in (
        "double (const double *, const double *, intptr_t)",
        "double (double const *, double const *, Py_ssize_t)",
        "double (double*, double*, npy_intp)",
        "double(void *, double *, ptrdiff_t)",
    ):
        function = scipy.LowLevelCallable(c.loss, signature=signature)
        losses.Custom(function, c.gradient)
    for signature in ("double (double *, double *, int)", "double", "int (double)"):
        function = scipy.LowLevelCallable(c.loss, signature=signature)
        with pytest.raises(TypeError, match="function must have the prototype double"):
            losses.Custom(function, c.gradient)


def test_user_data(c):
    scipy = pytest.importorskip("scipy")
    Z = np.array([-1.5, 0.25, 2.0])
    number = ctypes.c_double(3.0)
    given = {
        "an array": np.array([3.0]),
        "a ctypes array": (ctypes.c_double * 1)(3.0),
        "a pointer": ctypes.pointer(number),
        "a void pointer": ctypes.cast(ctypes.pointer(number), ctypes.c_void_p),
    }
    for what, data in given.items():
        made = activations.Custom(c.power, c.power_slope, user_data=data)
        found = activations.derivative(Z, made)
        np.testing.assert_allclose(found, 3 * Z * abs(Z), rtol=1e-14, err_msg=what)
    pointer = given["a void pointer"]
    own = [scipy.LowLevelCallable(f, pointer) for f in (c.power, c.power_slope)]
    found = activations.apply(Z, activations.Custom(*own))
    np.testing.assert_allclose(found, abs(Z) ** 3, rtol=1e-14)
    with pytest.raises(ValueError, match="function has its own"):
        activations.Custom(*own, user_data=np.array([3.0]))
    with pytest.raises(ValueError, match="does not take it"):
        activations.Custom(c.softsign, c.softsign_slope, user_data=np.array([3.0]))
    with pytest.raises(ValueError, match="user_data is for compiled functions"):
        activations.Custom(softsign, softsign_slope, user_data=np.array([3.0]))
    with pytest.raises(TypeError, match="user_data must be a NumPy array or a ctypes"):
        activations.Custom(c.power, c.power_slope, user_data=3.0)
    double = losses.Custom(c.scaled, c.scaled_gradient, user_data=np.array([2.0]))
    value, dZ = losses.evaluate([3.0], [0.0], double)
    assert (value, dZ.tolist()) == (18.0, [12.0])


def test_pairs_are_of_one_kind(c):
    with pytest.raises(TypeError, match="function is compiled, derivative is a Python"):
        activations.Custom(c.softsign, softsign_slope)
    with pytest.raises(TypeError, match="function is a Python function, derivative is"):
        losses.Custom(square_loss, c.gradient)


def test_what_would_need_the_gil_is_refused(c):
    kind = ctypes.PYFUNCTYPE(ctypes.c_double, ctypes.c_double)
    with pytest.raises(TypeError, match="needs the GIL"):
        activations.Custom(kind(("PyFloat_FromDouble", ctypes.pythonapi)), c.softsign)
    behind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(softsign)
    with pytest.raises(TypeError, match="Python function behind a ctypes pointer"):
        activations.Custom(behind, behind)


def test_the_functions_live_as_long_as_the_plan(rng):
    class Function:
        def __call__(self, z):
            return np.tanh(z)

    function = Function()
    alive = weakref.ref(function)
    net = fanin.Network(
        3,
        [Dense(2, activations.Custom(function, tanh_slope)), Dense(1)],
        loss="squared_error",
        rng=0,
    )
    plan = net._plan
    del function, net
    gc.collect()
    assert alive() is not None
    del plan
    gc.collect()
    assert alive() is None


def test_a_pair_is_two_functions_or_two_addresses():
    made = _custom.Pair((softsign, softsign_slope))
    assert made.functions == (softsign, softsign_slope)
    assert not made.compiled
    assert made.owners == ()
    for arguments in (((softsign,),), ((), ()), ((softsign,) * 2, ((1, None),) * 2)):
        with pytest.raises(ValueError, match="a pair is"):
            _custom.Pair(*arguments)


def test_a_capsule_is_read(c):
    scipy = pytest.importorskip("scipy")
    made = scipy.LowLevelCallable(c.softsign)
    address, name, context = _custom.read_capsule(tuple.__getitem__(made, 0))
    assert address == ctypes.cast(c.softsign, ctypes.c_void_p).value
    assert (name, context) == ("double (double)", 0)
    with pytest.raises((TypeError, ValueError)):
        _custom.read_capsule(3)


# --- copies -------------------------------------------------------------------------


def test_equality_and_copies():
    made = activations.Custom(softsign, softsign_slope)
    assert made == activations.Custom(softsign, softsign_slope)
    assert hash(made) == hash(activations.Custom(softsign, softsign_slope))
    assert made != activations.Custom(softsign, softsign_slope, name="other")
    assert made != activations.Custom(np.tanh, tanh_slope)
    assert made != losses.Custom(square_loss, square_gradient)
    assert copy.copy(made) is made
    assert copy.deepcopy(made) is made
    with pytest.raises(AttributeError):
        made.function = np.tanh
    assert activations.get(made) is made
    with pytest.raises(ValueError, match="activation must be one of"):
        activations.get("softsign")


def test_pickles_of_python_functions(rng):
    net = fanin.Network(
        3,
        [Dense(2, activations.Custom(softsign, softsign_slope))],
        loss=losses.Custom(square_loss, square_gradient),
        rng=0,
    )
    X, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other.loss(X, y) == net.loss(X, y)
        assert other.layers == net.layers
        assert other.loss_function == net.loss_function
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(activations.Custom(lambda z: z, np.ones_like))


def test_addresses_are_not_pickled(c):
    made = activations.Custom(c.softsign, c.softsign_slope)
    with pytest.raises(TypeError, match=r"'softsign' cannot be pickled.*addresses"):
        pickle.dumps(made)
    with pytest.raises(TypeError, match="'loss' cannot be pickled"):
        pickle.dumps(losses.Custom(c.loss, c.gradient))
    net = fanin.Network(3, [Dense(2, made)], loss="squared_error", rng=0)
    assert copy.deepcopy(net).predict(np.ones((1, 3))) == pytest.approx(
        net.predict(np.ones((1, 3)))
    )


def test_they_are_not_saved(tmp_path, activation, loss):
    path = tmp_path / "net.safetensors"
    for net in (
        fanin.Network(2, [Dense(2, activation)], loss="squared_error"),
        fanin.Network(2, [Dense(2)], loss=loss),
    ):
        with pytest.raises(TypeError, match="cannot be saved: it is a Custom"):
            net.save(path)
    assert not path.exists()


# --- exceptions ---------------------------------------------------------------------


class Refusal(Exception):
    pass


class Fuse:
    """tanh, until it has been called so many times."""

    def __init__(self):
        self.left = 10**9
        self.error = Refusal("the fuse")

    def __call__(self, z):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return np.tanh(z)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("where", ["function", "derivative", "loss", "gradient"])
def test_an_exception_passes_through_and_nothing_is_updated(where, n_threads, rng):
    fuse = Fuse()
    pairs = {
        "function": (fuse, tanh_slope),
        "derivative": (np.tanh, lambda z: 1 - fuse(z) ** 2),
        "loss": (lambda Z, Y: square_loss(Z, Y) + 0 * fuse(Z[:, 0]), square_gradient),
        "gradient": (square_loss, lambda Z, Y: square_gradient(Z, Y) + 0 * fuse(Z)),
    }
    in_loss = where in ("loss", "gradient")
    f = activations.Custom(*((np.tanh, tanh_slope) if in_loss else pairs[where]))
    of_loss = pairs[where] if in_loss else (square_loss, square_gradient)
    net = fanin.Network(
        20,
        [Dense(300, f), BatchNorm(), Dense(200, f), Activation(f), Dense(5)],
        loss=losses.Custom(*of_loss, n_outputs=5),
        rng=0,
    )
    X, y = rng.standard_normal((3000, 20)), rng.standard_normal((3000, 5))
    optimizer = fanin.optimizers.Adam()
    before, buffers = net.parameters.copy(), copy.deepcopy(net.named_buffers())
    # How often it is called in a step, the first of which is taken.
    fuse.left = 10**9
    net.train_step(X, y, optimizer, n_threads=n_threads)
    n_calls = 10**9 - fuse.left
    assert n_calls >= 12  # blocks of 256 rows
    for left in {0, 1, n_calls // 2, n_calls - 1}:
        net.parameters = before
        for name, buffer in net.named_buffers().items():
            buffer[...] = buffers[name]
        fuse.left = left
        with pytest.raises(Refusal, match="the fuse") as caught:
            net.train_step(X, y, optimizer, n_threads=n_threads)
        assert caught.value is fuse.error
        assert np.array_equal(net.parameters, before)
        assert optimizer.n_steps == 1
        for name, buffer in net.named_buffers().items():
            assert np.array_equal(buffer, buffers[name])
    fuse.left = 10**9
    net.train_step(X, y, optimizer, n_threads=n_threads)
    assert optimizer.n_steps == 2


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_exception_passes_through_the_other_calls(n_threads, rng):
    fuse = Fuse()
    f = activations.Custom(fuse, tanh_slope)
    loss = losses.Custom(
        lambda Z, Y: square_loss(Z, Y) + 0 * fuse(Z[:, 0]), square_gradient
    )
    X = rng.standard_normal((600, 500))
    W = rng.standard_normal((500, 300))
    net = fanin.Network(5, [Dense(4, f), Dense(3)], loss=loss, dtype=float, rng=0)
    x, y = X[:20, :5], X[:20, :3]
    options = {"n_threads": n_threads}
    for left, call in (
        (0, lambda: activations.apply(X, f, **options)),
        (3, lambda: activations.apply(X, f, **options)),
        (0, lambda: functional.dense(X, W, None, f, **options)),
        (0, lambda: losses.evaluate(X, X, loss, **options)),
        (0, lambda: net.predict(x, **options)),
        (0, lambda: net.layer_outputs(x)),
        (50, lambda: net.check_gradient(x, y, **options)),
    ):
        fuse.left = left
        with pytest.raises(Refusal, match="the fuse") as caught:
            call()
        assert caught.value is fuse.error
        # What raised is in the traceback.
        assert caught.traceback[-1].name == "__call__"
        fuse.left = 10**9
    assert net.check_gradient(x, y, **options).ok


def test_an_exception_is_that_of_its_own_call(rng):
    def picky(z):
        if (z > 1e3).any():
            raise Refusal
        return np.tanh(z)

    f = activations.Custom(picky, tanh_slope)
    net = fanin.Network(5, [Dense(400, f), Dense(1)], loss="squared_error", rng=0)
    net.named_parameters()["dense0.weight"][0] = 1.0
    good = rng.standard_normal((700, 5)).astype(np.float32)
    bad = good.copy()
    bad[-1, 0] = 1e6
    expected = net.predict(good, n_threads=2)
    outcomes: dict[str, list[bool]] = {"good": [], "bad": []}

    def work(name, X):
        for _ in range(30):
            try:
                found = net.predict(X, n_threads=2)
                outcomes[name].append(bool(np.allclose(found, expected, atol=1e-6)))
            except Refusal:
                outcomes[name].append(False)

    threads = [
        threading.Thread(target=work, args=args)
        for args in (("good", good), ("bad", bad), ("good", good))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert outcomes["good"] == [True] * 60
    assert outcomes["bad"] == [False] * 30


# --- the GIL, Ctrl-C and fork -------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2])
def test_compiled_functions_run_without_the_gil(c, n_threads):
    flag = np.ones(1, np.intc)
    f = activations.Custom(c.waits, c.one, user_data=flag)
    net = fanin.Network(3, [Dense(2, f)], loss="squared_error", rng=0)
    for call in (
        lambda: net.predict(np.ones((1, 3)), n_threads=n_threads),
        lambda: activations.apply(np.ones(100_000), f, n_threads=n_threads),
    ):
        flag[0] = 0
        begun = threading.Event()

        def release(begun=begun):
            begun.wait()
            flag[0] = 1  # which no thread can do while another holds the GIL

        thread = threading.Thread(target=release)
        thread.start()
        begun.set()
        found = call()
        thread.join()
        assert (np.asarray(found) > -1e8).all()


def run_script(script: str, *arguments: str) -> str:
    """Run a script in a process of its own, which a deadlock cannot keep."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PREAMBLE = """
import os, signal, sys, threading, time
import numpy as np
import fanin
from fanin import activations, losses
from fanin.layers import Dense, Activation
def slope(z):
    return 1 - np.tanh(z) ** 2
def network(f, loss="squared_error"):
    return fanin.Network(20, [Dense(200, f), Activation(f), Dense(3)], loss=loss, rng=0)
X = np.random.default_rng(0).standard_normal((2000, 20)).astype(np.float32)
y = X[:, :3]
"""

INTERRUPT = """
class Timer(threading.Thread):
    def run(self):
        started.wait()
        time.sleep(0.3)
        self.sent = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)
started = threading.Event()
timer = Timer(daemon=True)
timer.start()
net = network(f)
optimizer = fanin.optimizers.SGD(1e-3)
try:
    ready()
    started.set()
    while True:
        before, steps = net.parameters.copy(), optimizer.n_steps
        net.train_step(X, y, optimizer, n_threads=int(sys.argv[1]))
except KeyboardInterrupt:
    late = time.perf_counter() - timer.sent
assert np.array_equal(net.parameters, before) or optimizer.n_steps == steps + 1
unready()
net.train_step(X, y, optimizer)
print(late)
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="sends a signal, or forks")


@posix
@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_ctrl_c_ends_python_functions(n_threads):
    script = """
slow = False
def function(z):
    if slow:
        time.sleep(0.02)
    return np.tanh(z)
f = activations.Custom(function, slope)
def ready():
    global slow
    slow = True
def unready():
    global slow
    slow = False
"""
    # A quarter of a second is the contract, on a machine that is not overloaded.
    assert float(run_script(PREAMBLE + script + INTERRUPT, n_threads)) < 5


@posix
@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_ctrl_c_ends_compiled_functions(library, n_threads):
    script = """
import ctypes
loaded = ctypes.CDLL(sys.argv[2])
for function in (loaded.slow, loaded.one):
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_double, ctypes.c_void_p]
on = np.zeros(1, np.intc)
f = activations.Custom(loaded.slow, loaded.one, user_data=on)
def ready():
    on[0] = 1
def unready():
    on[0] = 0
"""
    # All of a step would take 80 seconds.
    done = run_script(PREAMBLE + script + INTERRUPT, n_threads, str(library))
    assert float(done) < 5


@posix
def test_threads_and_forks_do_not_wait_for_each_other():
    script = """
f = activations.Custom(np.tanh, slope)
loss = losses.Custom(lambda Z, Y: ((Z - Y) ** 2).mean(1), lambda Z, Y: 2 * (Z - Y) / 3)
nets = [network(f, loss) for _ in range(4)]
expected = nets[0].predict(X, n_threads=1)
results = []
def work(net):
    for _ in range(10):
        net.loss_and_gradient(X, y, n_threads=4)
        results.append(np.allclose(net.predict(X, n_threads=4), expected, atol=1e-5))
def children():
    for _ in range(3):
        child = os.fork()
        if child == 0:
            found = nets[0].predict(X, n_threads=4)
            os._exit(0 if np.allclose(found, expected, atol=1e-5) else 1)
        assert os.waitpid(child, 0)[1] == 0
threads = [threading.Thread(target=work, args=(net,)) for net in nets]
for thread in threads:
    thread.start()
children()
for thread in threads:
    thread.join()
children()
assert results == [True] * 40
"""
    run_script(PREAMBLE + script)
