"""One dense layer on the caller's arrays: its values, layouts, dtypes and refusals."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import fanin
from fanin._kernels import _dense_layer
from fanin._kernels._activations import ACTIVATIONS

ACTIVATION_NAMES = sorted(ACTIVATIONS)
# (n_samples, n_in, n_out): one row, one input, one output, more than a block of each
# kind, more than one chunk of rows, products of one, two and four tiles.
SHAPES = [
    (1, 7, 9),
    (1, 600, 1),
    (5, 1, 3),
    (33, 20, 17),
    (300, 40, 530),
    (150, 300, 700),
    (2, 1100, 5),
]


def layer(m, n_in, n_out, dtype, seed=0):
    """Return X, weight, bias and dA, with outputs of size 1."""
    rng = np.random.default_rng(seed)
    return [
        a.astype(dtype)
        for a in (
            rng.standard_normal((m, n_in)),
            rng.standard_normal((n_in, n_out)) / np.sqrt(n_in),
            rng.standard_normal(n_out),
            rng.standard_normal((m, n_out)),
        )
    ]


def bound(dtype, *lengths):
    """Absolute error of a sum of terms of size 1, relative to its root mean square.

    A sum of n terms is off by confidence * sqrt(n) * u times its terms, with 8 a
    confidence of 1 - 3e-14 (Higham & Mary 2019), and its size is sqrt(n); the
    activation and the twin's own sum add as much again.
    """
    return 4 * 8 * np.finfo(dtype).eps / 2 * np.sqrt(max(lengths))


def assert_close(found, wanted, limit, what=""):
    assert found.shape == wanted.shape, what
    if wanted.size:
        size = max(1.0, float(np.sqrt((wanted.astype(float) ** 2).mean())))
        assert np.abs(found.astype(float) - wanted).max() <= limit * size, what


def twin(X, weight, bias, dA, activation, A=None):
    """Return A, dX, dweight, dbias by the twins, in float64."""
    wide = [a.astype(float) for a in (X, weight, bias)]
    out = np.empty((X.shape[0], weight.shape[1]))
    function = fanin.activations.get(activation)
    name, parameter = function.name, function.parameter
    reference.dense_forward(out, *wide, name, parameter, 1)
    dX, dweight, sums = np.empty(X.shape), np.empty(weight.shape), np.empty(len(bias))
    given = out if A is None else A.astype(float)
    reference.dense_backward(
        dX, dweight, sums, dA.astype(float), *wide[:2], given, wide[2], name, parameter,
        1)  # fmt: skip
    return out, dX, dweight, sums


def layouts(X):
    """The same numbers in every layout the contract names."""
    m, n = X.shape
    yield "C", X
    yield "F", np.asfortranarray(X)
    wide = np.zeros((m, n + 3), X.dtype)
    wide[:, 1 : n + 1] = X
    yield "padded rows", wide[:, 1 : n + 1]
    yield "padded columns", np.asfortranarray(wide)[:, 1 : n + 1]
    yield "every second row", np.repeat(X, 2, axis=0)[::2]
    yield "every second column", np.repeat(X, 2, axis=1)[:, ::2]
    yield "F, every second column", np.asfortranarray(np.repeat(X, 2, axis=1))[:, ::2]
    yield "F, every second row", np.asfortranarray(np.repeat(X, 2, axis=0))[::2]
    yield "negative strides", np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1]
    raw = np.zeros(X.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(X.dtype).reshape(X.shape)
    unaligned[...] = X
    yield "unaligned", unaligned
    yield "byte-swapped", X.astype(X.dtype.newbyteorder())
    yield "byte-swapped, F", np.asfortranarray(X.astype(X.dtype.newbyteorder()))
    frozen = X.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


# --- values -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_passes_equal_the_twin(shape, activation, dtype):
    X, W, b, dA = layer(*shape, dtype)
    A = fanin.dense(X, W, b, activation)
    assert A.dtype == dtype
    assert_close(A, twin(X, W, b, dA, activation)[0], bound(dtype, shape[1]))
    # From fanin's own A, so that no rounding decides the side of a kink.
    wanted = twin(X, W, b, dA, activation, A)[1:]
    limits = bound(dtype, shape[2]), bound(dtype, shape[0]), bound(dtype, shape[0])
    for kept in (A, None):
        found = fanin.dense_backward(dA, X, W, kept, activation, bias=b)
        for one, right, limit in zip(found, wanted, limits, strict=True):
            assert one.dtype == dtype
            assert_close(one, right, limit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kept", [True, False], ids=["A given", "A computed again"])
@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_more_rows_than_a_chunk(activation, kept, dtype):
    shape = 33_000, 3, 130
    X, W, b, dA = layer(*shape, dtype)
    A = fanin.dense(X, W, b, activation)
    wanted = twin(X, W, b, dA, activation, A)
    assert_close(A, wanted[0], bound(dtype, shape[1]))
    found = fanin.dense_backward(dA, X, W, A if kept else None, activation, bias=b)
    for one, right in zip(found, wanted[1:], strict=True):
        assert_close(one, right, bound(dtype, *shape))


def test_without_a_bias():
    X, W, _, dA = layer(9, 5, 4, np.float64)
    zero = np.zeros(4)
    A = fanin.dense(X, W, activation="tanh")
    np.testing.assert_array_equal(A, fanin.dense(X, W, zero, "tanh"))
    for kept in (A, None):
        found = fanin.dense_backward(dA, X, W, kept, "tanh")
        wanted = fanin.dense_backward(dA, X, W, kept, "tanh", bias=zero)
        for one, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, right)


def test_the_gradients_are_those_of_the_forward_pass():
    X, W, b, dA = layer(6, 4, 3, np.float64)
    for activation in ACTIVATION_NAMES:
        A = fanin.dense(X, W, b, activation)
        gradients = fanin.dense_backward(dA, X, W, A, activation, bias=b)
        report = fanin.check_gradient(
            lambda p, name=activation: float((fanin.dense(*p, name) * dA).sum()),
            [X.copy(), W.copy(), b.copy()],
            list(gradients),
        )
        assert report.verdict == "correct", report


def test_the_sum_of_a_bias_gradient_is_taken_in_double():
    m = 40_000
    dA = np.full((m, 1), 0.1, np.float32)
    X, W = np.zeros((m, 1), np.float32), np.zeros((1, 1), np.float32)
    _, _, dbias = fanin.dense_backward(dA, X, W, None)
    assert dbias[0] == np.float32(m * np.float64(np.float32(0.1)))
    assert dA[:, 0].cumsum(dtype=np.float32)[-1] != dbias[0]


@given(
    m=st.integers(0, 70),
    n_in=st.integers(0, 40),
    n_out=st.integers(0, 40),
    activation=st.sampled_from(ACTIVATION_NAMES),
    n_threads=st.integers(1, 3),
    recompute=st.booleans(),
)
def test_any_shape_equals_the_twin(m, n_in, n_out, activation, n_threads, recompute):
    rng = np.random.default_rng(m)
    X, W = rng.uniform(-1, 1, (m, n_in)), rng.uniform(-1, 1, (n_in, n_out))
    b, dA = rng.uniform(-1, 1, n_out), rng.uniform(-1, 1, (m, n_out))
    A = fanin.dense(X, W, b, activation, n_threads=n_threads)
    wanted = twin(X, W, b, dA, activation, A)
    assert_close(A, wanted[0], bound(float, n_in, 1))
    found = fanin.dense_backward(
        dA, X, W, None if recompute else A, activation, bias=b, n_threads=n_threads
    )
    for one, right in zip(found, wanted[1:], strict=True):
        assert_close(one, right, bound(float, m, n_out, 1))


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_zero_rows_give_zero_gradients(activation):
    X, W, b, dA = layer(0, 3, 2, np.float32)
    assert fanin.dense(X, W, b, activation).shape == (0, 2)
    out = [None, np.full((3, 2), np.nan, np.float32), np.full(2, np.nan, np.float32)]
    for A in (dA, None):
        dX, dweight, dbias = fanin.dense_backward(dA, X, W, A, activation, out=out)
        assert dX.shape == (0, 3)
        assert not dweight.any()
        assert not dbias.any()


def test_no_inputs_leave_the_bias():
    A = fanin.dense(np.empty((2, 0)), np.empty((0, 3)), [-1.0, 0.0, 2.0], "relu")
    assert A.tolist() == [[0, 0, 2], [0, 0, 2]]


def test_values_that_are_not_finite_pass_through():
    X = np.array([[np.inf], [np.nan], [-np.inf], [1.0]])
    A = fanin.dense(X, [[1.0]], activation="tanh")
    np.testing.assert_array_equal(A[[0, 2], 0], [1, -1])
    assert np.isnan(A[1, 0])


# --- an oracle that fanin did not write ---------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
@pytest.mark.parametrize("m", [1, 40])
def test_pytorch_agrees(m, activation, dtype):
    torch = pytest.importorskip("torch")
    functions = {
        "identity": lambda z: z,
        "logistic": torch.sigmoid,
        "gelu_tanh": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    }
    function = functions.get(activation) or getattr(torch.nn.functional, activation)
    torch.manual_seed(0)
    linear = torch.nn.Linear(30, 20, dtype=getattr(torch, dtype))
    X = torch.randn(m, 30, dtype=linear.weight.dtype, requires_grad=True)
    dA = torch.randn(m, 20, dtype=linear.weight.dtype)
    theirs = function(linear(X))
    theirs.backward(dA)
    # Its weight is (out, in): the transpose is a view.
    W, b = linear.weight.detach().numpy().T, linear.bias.detach().numpy()
    A = fanin.dense(X.detach().numpy(), W, b, activation)
    limit = bound(dtype, 30)
    assert_close(A, theirs.detach().numpy(), limit)
    found = fanin.dense_backward(
        dA.numpy(), X.detach().numpy(), W, A, activation, bias=b
    )
    wanted = X.grad.numpy(), linear.weight.grad.numpy().T, linear.bias.grad.numpy()
    for one, right in zip(found, wanted, strict=True):
        assert_close(one, right, bound(dtype, 40))


def test_gradients_go_where_pytorch_keeps_them():
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(30, 20)
    X, _, _, dA = layer(8, 30, 20, np.float32)
    W = linear.weight.detach().numpy().T
    grad = torch.zeros(20, 30)
    _, dweight, _ = fanin.dense_backward(
        dA, X, W, None, out=(None, grad.numpy().T, None)
    )
    assert np.shares_memory(dweight, grad.numpy())
    linear(torch.from_numpy(X)).backward(torch.from_numpy(dA))
    assert_close(grad.numpy(), linear.weight.grad.numpy(), bound(np.float32, 8))


# --- layouts and dtypes -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 9, 12), (40, 25, 18), (300, 270, 520)], ids=str)
def test_any_layout_gives_the_same_result(shape, dtype):
    X, W, b, dA = layer(*shape, dtype)
    A = fanin.dense(X, W, b, "tanh")
    wanted = fanin.dense_backward(dA, X, W, A, "tanh")
    limit = bound(dtype, *shape)
    for which, original in enumerate((dA, X, W, A)):
        for name, array in layouts(original):
            before = array.copy()
            arrays = [dA, X, W, A]
            arrays[which] = array
            again = fanin.dense(*arrays[1:3], b, "tanh")
            assert_close(again, A, limit, f"{name} of array {which}")
            for f, kept in (("tanh", arrays[3]), ("tanh", None), ("identity", None)):
                found = fanin.dense_backward(*arrays[:3], kept, f, bias=b)
                if f == "identity":
                    right = fanin.dense_backward(dA, X, W, None, f)
                else:
                    right = wanted
                for one, other in zip(found, right, strict=True):
                    assert_close(one, other, limit, f"{name} of array {which}, {f}")
            np.testing.assert_array_equal(array, before, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 12, 9), (50, 150, 40)], ids=str)
def test_both_operands_in_every_layout_at_once(shape, dtype):
    X, W, b, dA = layer(*shape, dtype)
    wanted = fanin.dense(X, W, b, "relu")
    gradients = fanin.dense_backward(dA, X, W, wanted, "relu")
    limit = bound(dtype, *shape)
    for (_, x), (_, w) in itertools.product(layouts(X), layouts(W)):
        assert_close(fanin.dense(x, w, b, "relu"), wanted, limit)
        found = fanin.dense_backward(dA, x, w, wanted, "relu")
        for one, other in zip(found, gradients, strict=True):
            assert_close(one, other, limit)


def test_products_of_transposes_at_once_keep_apart():
    """OpenBLAS's AVX-512 kernel for them writes to another thread's result.

    Without the workaround in _blas.pyx about one call in 300 did, on two CPUs.
    """
    X, W, _, dA = layer(40, 25, 18, np.float32)
    dA = np.asfortranarray(dA)  # dX = dA W^T and dW = X^T dA, both of transposes
    wanted = dA @ W.T, X.T @ dA
    memory = [np.full(a.size + 2048, 7.25, np.float32) for a in wanted]
    inner = [slice(1024, 1024 + a.size) for a in wanted]
    out = [m[i].reshape(a.shape) for m, i, a in zip(memory, inner, wanted, strict=True)]
    for _ in range(5000):
        fanin.dense_backward(dA, X, W, None, out=(*out, None), n_threads=2)
        for found, right in zip(out, wanted, strict=True):
            assert_close(found, right, bound(np.float32, 40))
    for m, i in zip(memory, inner, strict=True):
        m[i] = 7.25
        assert (m == 7.25).all()


def test_a_broadcast_array_is_read():
    X = np.broadcast_to(np.arange(4.0), (7, 4))
    W = np.broadcast_to(2.0, (4, 3))
    np.testing.assert_array_equal(fanin.dense(X, W), np.full((7, 3), 12.0))
    dX, dweight, dbias = fanin.dense_backward(np.broadcast_to(1.0, (7, 3)), X, W, None)
    np.testing.assert_array_equal(dX, np.full((7, 4), 6.0))
    np.testing.assert_array_equal(dweight, np.outer(7 * np.arange(4.0), np.ones(3)))
    np.testing.assert_array_equal(dbias, np.full(3, 7.0))


@pytest.mark.parametrize(
    ("X_dtype", "W_dtype", "expected"),
    [
        ("f4", "f4", "f4"),
        ("f8", "f8", "f8"),
        ("f4", "f8", "f8"),
        ("f8", "f4", "f8"),
        ("f2", "f2", "f4"),
        ("f2", "f4", "f4"),
        ("u1", "f4", "f4"),
        ("i8", "f4", "f4"),
        ("?", "f2", "f4"),
        ("f4", "i2", "f4"),
        ("i4", "f8", "f8"),
        ("u1", "i1", "f8"),
        ("?", "?", "f8"),
        (">f4", "f4", "f4"),
        (">f8", ">i4", "f8"),
    ],
)
def test_the_floats_decide_the_dtype(X_dtype, W_dtype, expected):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (20, 6)).astype(X_dtype)
    W = rng.integers(0, 2, (6, 5)).astype(W_dtype)
    A = fanin.dense(X, W, [1, 2, 3, 4, 5])
    assert A.dtype == np.dtype(expected)
    right = X.astype(float) @ W.astype(float) + [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(A, right)  # small integers: exact
    for dA in (right, right.astype(np.int8), right.astype(np.float16)):
        found = fanin.dense_backward(dA, X, W, right.astype("i8"), "relu")
        wanted = right @ W.T.astype(float), X.T.astype(float) @ right, right.sum(axis=0)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == np.dtype(expected)
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 300, 200), (300, 270, 520), (1000, 9, 7)])
def test_threads_give_the_same_bits(shape, dtype):
    X, W, b, dA = layer(*shape, dtype)
    for x, w in ((X, W), (np.asfortranarray(X), np.asfortranarray(W))):
        for x_ in (x, (x * 9).astype(np.int8)):
            A = fanin.dense(x_, w, b, "tanh", n_threads=1)
            wanted = [A, *fanin.dense_backward(dA, x_, w, A, "tanh", n_threads=1)]
            for n in (2, 3, 16):
                again = fanin.dense(x_, w, b, "tanh", n_threads=n)
                gradients = fanin.dense_backward(dA, x_, w, A, "tanh", n_threads=n)
                for one, other in zip([again, *gradients], wanted, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_nothing_of_data_size_is_allocated():
    """2 MB of results in `out`, 20 MB of data that must be packed."""
    m = 50_000
    X = np.zeros((m, 100), np.int32)
    W, b = np.ones((100, 10), np.float32), np.zeros(10, np.float32)
    A, dX = np.empty((m, 10), np.float32), np.empty((m, 100), np.float32)
    dA = np.ones((m, 10), np.float16)
    tracemalloc.start()
    try:
        fanin.dense(X, W, b, "relu", out=A)
        fanin.dense_backward(dA, X, W, A, "relu", out=(dX, None, None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


# --- out ----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("X_dtype", [np.float64, np.int16])
def test_results_go_into_views_and_nowhere_else(activation, columns, X_dtype):
    shape = 20, 11, 7
    X, W, b, dA = layer(*shape, np.float64)
    X = (4 * X).astype(X_dtype)
    A = fanin.dense(X, W, b, activation)
    wanted = fanin.dense_backward(dA, X, W, A, activation)

    def room(m, n):
        if columns:
            base = np.full((n + 2, m + 4), 9.5)
            return base, base.T[2:-2, 1:-1]
        base = np.full((m + 2, n + 4), 9.5)
        return base, base[1:-1, 2:-2]

    base, out = room(20, 7)
    if columns:
        with pytest.raises(ValueError, match="contiguous rows"):
            fanin.dense(X, W, b, activation, out=out)
        assert (base == 9.5).all()
    else:
        assert fanin.dense(X, W, b, activation, out=out) is out
        np.testing.assert_array_equal(out, A)
        out[...] = 9.5
        assert (base == 9.5).all()
    bases, outs = zip(room(20, 11), room(11, 7), strict=True)
    dbias = np.full(14, 9.5)
    outs = [*outs, dbias[::2]]
    found = fanin.dense_backward(dA, X, W, A, activation, out=outs)
    for one, out, right in zip(found, outs, wanted, strict=True):
        assert one is out
        assert_close(out, right, bound(float, 20))
        out[...] = 9.5
    for base in (*bases, dbias):
        assert (base == 9.5).all()


def test_out_may_be_given_in_part():
    X, W, b, dA = layer(4, 3, 2, np.float32)
    dweight = np.empty((3, 2), np.float32)
    found = fanin.dense_backward(dA, X, W, None, out=[None, dweight, None])
    assert found[1] is dweight
    for one, other in zip(
        found, fanin.dense_backward(dA, X, W, None, bias=b), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_overlaps_are_refused():
    memory = np.zeros(200)
    X, W, b = memory[:12].reshape(4, 3), np.ones((3, 3)), np.zeros(3)
    out = memory[6:18].reshape(4, 3)
    with pytest.raises(ValueError, match="out overlaps X"):
        fanin.dense(X, W, b, out=out)
    with pytest.raises(ValueError, match="out overlaps X"):
        fanin.dense(X, W, b, out=X)
    with pytest.raises(ValueError, match="out overlaps weight"):
        fanin.dense(np.ones((3, 3)), W, b, out=W)
    with pytest.raises(ValueError, match="out overlaps bias"):
        fanin.dense(np.ones((1, 3)), W, memory[:3], out=memory[:3].reshape(1, 3))
    dA, A = np.ones((4, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match=r"out\[0\] \(dX\) overlaps dA"):
        fanin.dense_backward(dA, X, W, A, "tanh", out=(dA, None, None))
    with pytest.raises(ValueError, match=r"out\[0\] \(dX\) overlaps A"):
        fanin.dense_backward(dA, X, W, A, "tanh", out=(A, None, None))
    with pytest.raises(ValueError, match=r"out\[0\] \(dX\) overlaps X"):
        fanin.dense_backward(dA, X, W, A, "tanh", out=(X, None, None))
    with pytest.raises(ValueError, match=r"out\[1\] \(dweight\) overlaps weight"):
        fanin.dense_backward(dA, X, W, A, "tanh", out=(None, W, None))
    with pytest.raises(ValueError, match=r"out\[2\] \(dbias\) overlaps bias"):
        fanin.dense_backward(dA, X, W, None, "tanh", bias=b, out=(None, None, b))
    both = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"dbias\) overlaps out\[1\] \(dweight\)"):
        fanin.dense_backward(dA, X, W, A, "tanh", out=(None, both, both[0]))
    assert not memory.any()


# --- errors -------------------------------------------------------------------------

X, W, B = np.ones((4, 3)), np.ones((3, 2)), np.ones(2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], W), ValueError, r"X must have shape \(n_samples, 3\); .*reshape"),
        ((X[:, :2], W), ValueError, r"given as weight\.T"),
        (
            (X, W[:, [0, 0, 1]].T[1:]),
            ValueError,
            r"\(n_samples, 2\).*given as weight\.T",
        ),
        ((X, B), ValueError, r"weight must have shape \(n_in, n_out\).*\(2,\)"),
        ((X, W, X[0]), ValueError, r"bias must have shape \(2,\); got \(3,\)"),
        ((X, W, B, "swiss"), ValueError, "activation must be one of .*'swiss'"),
        ((X * 1j, W), TypeError, "X must be .*complex128"),
        ((X, W.astype(object)), TypeError, "weight must be .*object"),
        ((X, W, ["a", "b"]), TypeError, "bias must be .*<U1"),
        ((np.longdouble(X), W), TypeError, "X must be"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        fanin.dense(*arguments)
    dA = np.ones((4, 2))
    bias = arguments[2] if len(arguments) > 2 else None
    with pytest.raises(error, match=message):
        fanin.dense_backward(dA, *arguments[:2], None, *arguments[3:], bias=bias)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([[0.0, 0.0]] * 4, TypeError, "out must be a NumPy array; got list"),
        (np.empty((4, 3)), ValueError, r"out must have shape \(4, 2\)"),
        (np.empty((4, 2), "f4"), TypeError, "out must have dtype float64; got float32"),
        (np.empty((4, 2), ">f8"), TypeError, "out must have dtype float64; got >f8"),
        (np.empty((4, 4))[:, ::2], ValueError, "out must have contiguous rows"),
        (np.empty((4, 2))[::-1], ValueError, "out must have contiguous rows"),
        (np.broadcast_to(0.0, (4, 2)), ValueError, "read-only"),
    ],
)
def test_a_bad_out_is_refused(out, error, message):
    with pytest.raises(error, match=message):
        fanin.dense(X, W, B, out=out)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((3, 2)), TypeError, "sequence of three .* got ndarray"),
        (None.__class__, TypeError, "sequence of three .* got type"),
        ((None, None), ValueError, "three .* got 2"),
        ((np.empty((4, 2)), None, None), ValueError, r"out\[0\] \(dX\) .*\(4, 3\)"),
        ((None, np.empty((3, 4))[:, ::2], None), ValueError, r"out\[1\] .*rows or col"),
        ((None, np.empty((3, 2), "f4"), None), TypeError, r"out\[1\] .*float64"),
        ((None, None, [0.0, 0.0]), TypeError, r"out\[2\] \(dbias\) .*got list"),
        ((None, None, np.empty(3)), ValueError, r"out\[2\] \(dbias\) .*\(2,\)"),
    ],
)
def test_a_bad_out_of_the_backward_pass_is_refused(out, error, message):
    with pytest.raises(error, match=message):
        fanin.dense_backward(np.ones((4, 2)), X, W, None, out=out)


def test_gradients_and_outputs_of_another_shape_are_refused():
    good, bad = np.ones((4, 2)), np.ones((4, 3))
    with pytest.raises(ValueError, match=r"dA must have shape \(4, 2\)"):
        fanin.dense_backward(bad, X, W, good)
    with pytest.raises(ValueError, match=r"A must have shape \(4, 2\)"):
        fanin.dense_backward(good, X, W, bad)
    with pytest.raises(TypeError, match=r"dA must be .*complex"):
        fanin.dense_backward(good * 1j, X, W, good)


def test_the_kernel_checks_what_it_would_write_beyond():
    X, W, out = np.ones((4, 3)), np.ones((3, 2)), np.empty((4, 2))
    forward, backward = _dense_layer.dense_forward, _dense_layer.dense_backward
    with pytest.raises(ValueError, match="weight"):
        forward(out, X, np.ones((2, 2)), None, "tanh", 0.0, 1)
    with pytest.raises(ValueError, match="out"):
        forward(out[:3], X, W, None, "tanh", 0.0, 1)
    with pytest.raises(ValueError, match="rows of out"):
        forward(np.asfortranarray(out), X, W, None, "tanh", 0.0, 1)
    with pytest.raises(ValueError, match="bias"):
        forward(out, X, W, np.ones(3), "tanh", 0.0, 1)
    dX, dW, sums = np.empty((4, 3)), np.empty((3, 2)), np.empty(2)
    for wrong in range(6):
        arrays = [dX, dW, sums, out, X, W]
        arrays[wrong] = arrays[wrong][:1]
        with pytest.raises(ValueError, match=r"must have shape|not a vector"):
            backward(*arrays, None, None, "tanh", 0.0, 1)
    with pytest.raises(ValueError, match="A must"):
        backward(dX, dW, sums, out, X, W, out[:1], None, "tanh", 0.0, 1)
