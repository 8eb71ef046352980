"""batch_norm, layer_norm, rms_norm and their gradients."""

from __future__ import annotations

import ctypes
import importlib

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runtime_contracts import stamps_during

import fanin
from fanin import normalization
from fanin._kernels import _batch_norm, _layer_norm, _moments

FORWARD = {
    "batch_norm": fanin.batch_norm,
    "layer_norm": fanin.layer_norm,
    "rms_norm": fanin.rms_norm,
}
BACKWARD = {
    "batch_norm": fanin.batch_norm_backward,
    "layer_norm": fanin.layer_norm_backward,
    "rms_norm": fanin.rms_norm_backward,
}
KINDS = list(FORWARD)
DTYPES = [np.float32, np.float64]


def default_axis(kind):
    return 0 if kind == "batch_norm" else -1


def by_hand(kind, X, gamma, beta, axis, eps, dY=None):
    """Y, dX, dgamma and dbeta in long double, from the definitions.

    gamma and beta broadcast against X. The gradient is the chain rule through mean
    and variance, term by term, not the simplified formula of the kernels.
    """
    X = np.asarray(X, np.longdouble)
    n = X.size // np.mean(X, axis=axis, keepdims=True).size
    centre = kind != "rms_norm"
    mean = X.mean(axis=axis, keepdims=True) if centre else np.longdouble(0)
    d = X - mean
    var = (d * d).mean(axis=axis, keepdims=True)
    root = np.sqrt(var + np.longdouble(eps))
    xhat = d / root
    Y = xhat * gamma + beta
    if dY is None:
        return Y
    dY = np.asarray(dY, np.longdouble)
    dxhat = dY * gamma
    dvar = (dxhat * d).sum(axis=axis, keepdims=True) * -0.5 / root**3
    dd = dxhat / root + dvar * 2 * d / n
    dX = dd - dd.sum(axis=axis, keepdims=True) / n if centre else dd
    return Y, dX, dY * xhat, dY


def broadcast(values, shape, axis, kind):
    """gamma or beta as an array that broadcasts against X."""
    axes = tuple(a % len(shape) for a in np.atleast_1d(axis))
    full = [
        n if (d in axes) != (kind == "batch_norm") else 1 for d, n in enumerate(shape)
    ]
    return np.reshape(values, full)


def parameter_shape(shape, axis, kind):
    axes = tuple(a % len(shape) for a in np.atleast_1d(axis))
    return tuple(
        n for d, n in enumerate(shape) if (d in axes) != (kind == "batch_norm")
    )


def summed(values, shape, axis, kind):
    """The sum over all axes that gamma does not have."""
    axes = tuple(a % len(shape) for a in np.atleast_1d(axis))
    others = tuple(
        d for d in range(len(shape)) if (d in axes) == (kind == "batch_norm")
    )
    return values.sum(axis=others)


def bound(dtype, n, size=1.0):
    """The tolerance of a result made of terms up to `size`, from sums of n values.

    A result is rounded once to its dtype, half an ulp, and before that carries the
    errors of double: a few roundings of each term, and at most n / 8 additions in a
    row in a lane, or 512 where blocks are merged.
    """
    inner = (16 + min(n / 8, 512)) * 2**-53 * size
    eps = float(np.finfo(dtype).eps)
    return {"rtol": eps, "atol": inner + (0 if dtype == np.float64 else 2**-149)}


def assert_agrees(found, wanted, dtype, n, size=None):
    wanted = np.asarray(wanted)
    size = float(np.abs(wanted).max(initial=1.0)) if size is None else size
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.astype(np.longdouble), wanted, **bound(dtype, n, 4 * size)
    )


def unaligned(X):
    raw = np.empty(X.nbytes + 1, np.uint8)
    view = raw[1:].view(X.dtype).reshape(X.shape)
    view[...] = X
    return view


def every_second(X, axis):
    wide = np.repeat(X, 2, axis=axis)
    return wide[(slice(None),) * axis + (slice(None, None, 2),)]


def read_only(X):
    view = X.view()
    view.flags.writeable = False
    return view


LAYOUTS = {
    "C": lambda X: X.copy("C"),
    "Fortran": lambda X: X.copy("F"),
    "every second row": lambda X: every_second(X, 0),
    "every second column": lambda X: every_second(X, 1),
    "reversed rows": lambda X: X[::-1].copy()[::-1],
    "reversed columns": lambda X: X[:, ::-1].copy()[:, ::-1],
    "unaligned": unaligned,
    "byte-swapped": lambda X: X.astype(X.dtype.newbyteorder()),
    "read-only": read_only,
}
SHAPES = [(2, 5), (40, 1), (3, 700), (2_000, 3), (900, 50), (130, 2_100), (6, 17_000)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_written_where_it_lies(
    rng, kind, shape, layout, dtype
):
    axis = default_axis(kind)
    base = (rng.standard_normal(shape) * 3 + 5).astype(dtype)
    grad = rng.standard_normal(shape).astype(dtype)
    gamma, beta = rng.standard_normal((2, shape[1])).astype(dtype)
    X, dY = LAYOUTS[layout](base), LAYOUTS[layout](grad)
    before = X.tobytes(), dY.tobytes()
    Y, saved = FORWARD[kind](X, gamma, beta, eps=1e-3)
    dX, dgamma, dbeta = BACKWARD[kind](dY, saved)
    assert (X.tobytes(), dY.tobytes()) == before
    wanted, dx, dg, db = by_hand(kind, base, gamma, beta, axis, 1e-3, grad)
    n = max(shape)
    assert_agrees(Y, wanted, dtype, n)
    largest = float(np.abs(grad * gamma).max() * np.max(saved.rstd))
    assert_agrees(dX, dx, dtype, n, largest)
    for found, terms in ((dgamma, dg), (dbeta, db)):
        total = float(np.abs(terms).sum(axis=0).max())
        assert_agrees(found, terms.sum(axis=0), dtype, n, total)
    if layout in ("byte-swapped", "read-only"):
        return
    plain, plain_saved = FORWARD[kind](base, gamma, beta, eps=1e-3)
    out, dout = (LAYOUTS[layout](np.zeros_like(base)) for _ in "ab")
    Y_out, saved_out = FORWARD[kind](base, gamma, beta, eps=1e-3, out=out)
    assert Y_out is out
    assert np.array_equal(out, plain)
    assert BACKWARD[kind](grad, saved_out, out=dout)[0] is dout
    plain_dX = BACKWARD[kind](grad, plain_saved)[0]
    if kind == "batch_norm":  # the sums over samples are cut to fit the layout
        assert_agrees(dout, plain_dX.astype(float), dtype, n, largest)
    else:
        assert np.array_equal(dout, plain_dX)
    FORWARD[kind](X, gamma, beta, eps=1e-3, out=X[...])
    assert np.array_equal(X, Y)
    BACKWARD[kind](dY, plain_saved, out=dY)
    assert_agrees(dY, plain_dX.astype(float), dtype, n, largest)


@pytest.mark.parametrize("kind", KINDS)
def test_results_that_are_written_past_the_cache(rng, kind):
    # 18 MB of rows that begin at every place of a line, with a row's gap or without.
    base = rng.standard_normal((93_001, 50)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, 50))
    small = [FORWARD[kind](base[a : a + 3_000], gamma, beta)[0] for a in (0, 90_000)]
    room = np.zeros(93_001 * 51 + 8, np.float32)
    for shift, stride in ((0, 50), (3, 50), (1, 51)):
        room[:] = 7
        out = room[shift : shift + 93_001 * stride].reshape(-1, stride)[:, :50]
        saved = FORWARD[kind](base, gamma, beta, out=out)[1]
        if kind != "batch_norm":
            assert np.array_equal(out[:3_000], small[0])
            assert np.array_equal(out[90_000:93_000], small[1])
        wanted = by_hand(kind, base, gamma, beta, default_axis(kind), saved_eps(kind))
        assert_agrees(out, wanted, np.float32, 93_001)
        assert np.count_nonzero(room != 7) == base.size
        dX = BACKWARD[kind](base, saved)[0]
        room[:] = 7
        BACKWARD[kind](base, saved, out=out)
        assert np.array_equal(out, dX)
        assert np.count_nonzero(room != 7) == base.size


def saved_eps(kind):
    return np.finfo(np.float32).eps if kind == "rms_norm" else 1e-5


AXES = [0, 1, 2, -1, (0, 1), (0, 2), (1, 2), (2, 1), (0, 1, 2), None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_axis_of_any_order(rng, kind, axis, turn, dtype):
    X = (rng.standard_normal((6, 7, 90)) + 1).astype(dtype).transpose(turn)
    dY = rng.standard_normal(X.shape).astype(dtype)
    axes = (0, 1, 2) if axis is None else axis
    shape = parameter_shape(X.shape, axes, kind)
    gamma, beta = np.asarray(rng.standard_normal((2, *shape)))
    wide = [broadcast(p, X.shape, axes, kind) for p in (gamma, beta)]
    Y, saved = FORWARD[kind](X, gamma, beta, axis=axis, eps=1e-5)
    dX, dgamma, dbeta = BACKWARD[kind](dY, saved)
    over = tuple(np.atleast_1d(axes))
    wanted, dx, dg, db = by_hand(kind, X, *wide, over, 1e-5, dY)
    assert_agrees(Y, wanted, dtype, X.size)
    assert_agrees(dX, dx, dtype, X.size)
    assert dgamma.shape == dbeta.shape == shape
    for found, terms in ((dgamma, dg), (dbeta, db)):
        total = float(np.abs(terms).sum())
        assert_agrees(found, summed(terms, X.shape, axes, kind), "f8", X.size, total)
    kept = np.mean(X, axis=over).shape
    assert np.shape(saved.mean) == np.shape(saved.rstd) == kept
    mean = X.mean(axis=over, dtype=np.longdouble) if kind != "rms_norm" else 0
    np.testing.assert_allclose(saved.mean, np.broadcast_to(mean, kept), atol=1e-14)


def test_images_by_channel(rng):
    X = rng.standard_normal((8, 3, 70, 33)).astype(np.float32)
    dY = rng.standard_normal(X.shape).astype(np.float32)
    gamma, beta = rng.standard_normal((2, 3))
    wide = [p.reshape(1, 3, 1, 1) for p in (gamma, beta)]
    Y, saved = fanin.batch_norm(X, gamma, beta, axis=(0, 2, 3))
    dX, dgamma, dbeta = fanin.batch_norm_backward(dY, saved)
    wanted = by_hand("batch_norm", X, *wide, (0, 2, 3), 1e-5, dY)
    assert_agrees(Y, wanted[0], np.float32, X.size)
    assert_agrees(dX, wanted[1], np.float32, X.size)
    assert_agrees(dgamma, wanted[2].sum((0, 2, 3)), "f8", X.size, X.size)
    assert_agrees(dbeta, wanted[3].sum((0, 2, 3)), "f8", X.size, X.size)


@st.composite
def tables(draw):
    """A view of any rank, strides and real dtype, and some of its axes."""
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=ndim, max_size=ndim)))
    steps = [draw(st.sampled_from([1, 2, -1, -3, 0])) for _ in shape]
    dtype = draw(st.sampled_from(["<f4", "<f8", ">f8", "<i2", "<f2"]))
    seed = draw(st.integers(0, 2**32 - 1))
    base = np.random.default_rng(seed).normal(3, 20, [n * 3 for n in shape])
    base = np.asarray(base.astype(dtype), order=draw(st.sampled_from("CF")))
    cut = []
    for n, step in zip(shape, steps, strict=True):
        if step < 0:
            cut.append(slice(n * -step - 1, None, step))
        else:
            cut.append(slice(0, n * max(step, 1), max(step, 1)))
    X = base[tuple(cut)]
    X = np.lib.stride_tricks.as_strided(
        X, strides=[0 if p == 0 else s for p, s in zip(steps, X.strides, strict=True)]
    )
    X = X.transpose(draw(st.permutations(range(ndim))))
    axes = draw(st.sets(st.integers(0, ndim - 1)))
    return X, tuple(sorted(axes)), seed


@settings(max_examples=300, deadline=None)
@given(case=tables(), order=st.sampled_from("CF"), centre=st.booleans())
def test_any_strides_agree_with_the_twins(case, order, centre):
    X, axes, seed = case
    double = X.dtype.kind != "f" or X.dtype.itemsize == 8
    dtype = np.dtype(np.float64 if double else np.float32)
    n_cols = int(np.prod([X.shape[d] for d in axes]))
    n_rows = X.size // n_cols
    rng = np.random.default_rng(seed)
    dY = np.asarray(rng.standard_normal(X.shape).astype(dtype), order=order)

    def pair(*shape):
        return np.full(shape, np.nan), np.full(shape, np.nan)

    def outs():
        return [np.empty(X.shape, dtype, order=order) for _ in "ab"]

    gamma, beta = rng.standard_normal((2, n_cols))
    (Y, W), (s, t) = outs(), pair(4 if double else 2, n_rows)
    args = (X, axes, gamma, beta, 0.5, centre, False, 2)
    _layer_norm.layer_norm_forward(Y, s, *args)
    reference.layer_norm_forward(W, t, *args)
    np.testing.assert_allclose(s[:2], t[:2], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(Y, W, **bound(dtype, n_cols, 100))
    (dX, dW), (sums, wanted) = outs(), pair(2, n_cols)
    args = (dY, X, axes, s, gamma, centre, True, 2)
    _layer_norm.layer_norm_backward(dX, sums, *args)
    reference.layer_norm_backward(dW, wanted, *args)
    np.testing.assert_allclose(dX, dW, **bound(dtype, n_cols, 100))
    np.testing.assert_allclose(sums, wanted, rtol=1e-12, atol=1e-11)

    # The same table, the columns being samples and the axes reduced.
    state, exponent = np.zeros((5, n_rows)), np.zeros(n_rows, np.int32)
    _moments.moments_forward(state, exponent, X, axes, 1)
    s, t = pair(4, n_rows)
    _batch_norm.norm_statistics(s, state, exponent, float(n_cols), 0.5, centre)
    reference.norm_statistics(t, state, exponent, float(n_cols), 0.5, centre)
    np.testing.assert_allclose(s, t, rtol=1e-14, atol=0)
    gamma, beta = rng.standard_normal((2, n_rows))
    Y, W = outs()
    _batch_norm.batch_norm_forward(Y, X, axes, s, gamma, beta, 2)
    reference.batch_norm_forward(W, X, axes, s, gamma, beta, 2)
    np.testing.assert_allclose(Y, W, **bound(dtype, n_cols, 100))
    for training in (True, False):
        (dX, dW), (sums, wanted) = outs(), pair(2, n_rows)
        args = (dY, X, axes, s, gamma, training, True, 2)
        _batch_norm.batch_norm_backward(dX, sums, *args)
        reference.batch_norm_backward(dW, wanted, *args)
        np.testing.assert_allclose(dX, dW, **bound(dtype, n_cols, 100))
        np.testing.assert_allclose(sums, wanted, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "dtype", ["?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", ">i4", ">f2", ">u8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_real_dtypes_are_converted(rng, kind, dtype, order):
    X = np.asarray(rng.integers(0, 2 if dtype == "?" else 100, (800, 6)), dtype)
    X = np.asarray(X, order=order)
    same = X.astype(np.float32 if X.dtype.kind == "f" else np.float64)
    Y, saved = FORWARD[kind](X)
    wanted, plain = FORWARD[kind](same)
    assert Y.dtype == wanted.dtype
    assert np.array_equal(Y, wanted)
    dX = BACKWARD[kind](X, saved)[0]
    assert np.array_equal(dX, BACKWARD[kind](same, plain)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_map_is_read_and_written(rng, kind, tmp_path):
    base = rng.standard_normal((300, 20)).astype(np.float32)
    base.tofile(tmp_path / "x")
    X = np.memmap(tmp_path / "x", np.float32, "r", shape=base.shape)
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=base.shape)
    Y, saved = FORWARD[kind](X, out=out)
    assert Y is out
    assert np.array_equal(Y, FORWARD[kind](base)[0])
    dX = BACKWARD[kind](X, saved)[0]
    assert type(dX) is np.ndarray
    assert np.array_equal(dX, BACKWARD[kind](base, FORWARD[kind](base)[1])[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(60_000, 20), (700, 1_100), (9, 60_000)])
@pytest.mark.parametrize("n_threads", [2, 3, 16])
def test_threads_change_no_bit(rng, kind, shape, order, dtype, n_threads):
    X = np.asarray(rng.standard_normal(shape).astype(dtype), order=order)
    dY = np.asarray(rng.standard_normal(shape).astype(dtype), order=order)
    gamma, beta = rng.standard_normal((2, shape[1]))
    results = []
    for threads in (1, n_threads):
        Y, saved = FORWARD[kind](X, gamma, beta, n_threads=threads)
        arrays = (Y, saved.mean, saved.rstd)
        arrays += BACKWARD[kind](dY, saved, n_threads=threads)
        results.append([a.tobytes() for a in arrays])
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gil_is_released(rng, kind):
    X = np.broadcast_to(rng.standard_normal((1, 50)), (2_000_000, 50))
    out = np.empty(X.shape)
    saved = FORWARD[kind](X, out=out, n_threads=1)[1]
    for call in (
        lambda: FORWARD[kind](X, out=out, n_threads=1),
        lambda: BACKWARD[kind](X, saved, out=out, n_threads=1),
    ):
        assert stamps_during(call, lambda: sum(range(1000)))


# --- Gradients ---------------------------------------------------------------


def normalization_loss(kind, shape, axis, given, rng, **options):
    """A loss of X, gamma and beta, and its gradient by the backward pass."""
    params = {"X": rng.standard_normal(shape) * 2 + 1}
    where = parameter_shape(shape, axis, kind)
    for name in given:
        params[name] = np.asarray(rng.standard_normal(where))
    weights = rng.standard_normal(shape)

    def run(p):
        return FORWARD[kind](
            p["X"], p.get("gamma"), p.get("beta"), axis=axis, eps=0.1, **options
        )

    def loss(p):
        return float((weights * np.sin(run(p)[0])).sum())

    def gradient(p):
        Y, saved = run(p)
        dX, dgamma, dbeta = BACKWARD[kind](weights * np.cos(Y), saved)
        assert (dgamma is None) == ("gamma" not in p)
        assert (dbeta is None) == ("beta" not in p)
        found = {"X": dX, "gamma": dgamma, "beta": dbeta}
        return {name: found[name] for name in p}

    return params, loss, gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 5), 0), ((7, 5), 1), ((3, 4, 5), (0, 2)), ((6,), 0)]
)
@pytest.mark.parametrize("given", [("gamma", "beta"), ("gamma",), ("beta",), ()])
def test_gradients_agree_with_differences(rng, kind, shape, axis, given):
    params, loss, gradient = normalization_loss(kind, shape, axis, given, rng)
    report = fanin.check_gradient(loss, params, gradient)
    assert report.ok, report
    assert report.relative_error < 1e-7


def test_gradients_of_long_rows_agree_with_differences(rng):
    # Tiles of a long row: a row, its neighbours' places, and both ends of tiles.
    n = _layer_norm.LONG_ROW + 3
    X, W = rng.standard_normal((2, 3, n))
    gamma = rng.standard_normal(n)
    for kind in ("layer_norm", "rms_norm"):
        Y, saved = FORWARD[kind](X, gamma, gamma)
        dX, dgamma, _ = BACKWARD[kind](W, saved)
        for c in (0, 4_095, 4_096, n - 1):
            h = 1e-4
            values = []
            for sign in (1, -1):
                moved = X.copy()
                moved[1, c] += sign * h
                values.append(FORWARD[kind](moved, gamma, gamma)[0] - Y)
            numeric = ((values[0] - values[1]) * W).sum() / (2 * h)
            assert numeric == pytest.approx(dX[1, c], rel=1e-6, abs=1e-8)
            slope = (W[:, c] * (Y[:, c] - gamma[c])).sum() / gamma[c]
            assert slope == pytest.approx(dgamma[c], rel=1e-10)


def test_gradients_in_inference_agree_with_differences(rng):
    options = {
        "training": False,
        "running_mean": rng.standard_normal(5),
        "running_var": rng.random(5),
    }
    params, loss, gradient = normalization_loss(
        "batch_norm", (7, 5), 0, ("gamma", "beta"), rng, **options
    )
    report = fanin.check_gradient(loss, params, gradient)
    assert report.ok, report


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["X", "gamma", "beta"])
@pytest.mark.parametrize("fault", ["half", "one entry", "no means"])
def test_planted_wrong_gradients_are_rejected(rng, kind, name, fault):
    params, loss, gradient = normalization_loss(
        kind, (7, 5), default_axis(kind), ("gamma", "beta"), rng
    )
    right = gradient(params)
    if fault == "half":
        right[name] = right[name] / 2
    elif fault == "one entry":
        right[name].flat[2] += 1e-2
    elif name == "X":
        # What is left if mean and variance are taken as constants.
        axis = default_axis(kind)
        Y, saved = FORWARD[kind](params["X"], params["gamma"], params["beta"], eps=0.1)
        right["X"] = np.full_like(Y, 1.0) * np.expand_dims(saved.rstd, axis)
    else:
        right[name] = right[name] - right[name].mean()
    assert fanin.check_gradient(loss, params, right).verdict == "wrong"


# --- Against PyTorch ---------------------------------------------------------


def close(found, tensor, dtype):
    """Both are right to some ulp of the dtype; PyTorch sums in it."""
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(
        found, tensor.detach().numpy(), rtol=64 * eps, atol=256 * eps
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(33, 20), (4, 6, 50)])
def test_layer_and_rms_norm_agree_with_pytorch(rng, shape, dtype):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    arrays = [rng.standard_normal(s).astype(dtype) for s in (shape, shape[-1:]) * 2]
    X, gamma, dY, beta = arrays
    for kind, axes in (
        ("layer_norm", shape[-1:]),
        ("rms_norm", shape[-1:]),
        ("layer_norm", shape[-2:]),
    ):
        g, b = (np.broadcast_to(p, axes) for p in (gamma, beta))
        tx, tg, tb = (torch.tensor(a, requires_grad=True) for a in (X, g, b))
        if kind == "layer_norm":
            ty = F.layer_norm(tx, axes, tg, tb)
        else:
            ty = F.rms_norm(tx, axes, tg)
        ty.backward(torch.tensor(dY))
        axis = tuple(range(-len(axes), 0))
        Y, saved = FORWARD[kind](X, g, b if kind == "layer_norm" else None, axis=axis)
        dX, dgamma, dbeta = BACKWARD[kind](dY, saved)
        close(Y, ty, dtype)
        close(dX, tx.grad, dtype)
        close(dgamma, tg.grad, dtype)
        if kind == "layer_norm":
            close(dbeta, tb.grad, dtype)
        else:
            assert dbeta is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((33, 20), 0), ((5, 20, 4, 3), (0, 2, 3)), ((5, 20, 7), (0, 2))]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, 0.0])
def test_batch_norm_agrees_with_pytorch(rng, shape, axis, training, momentum, dtype):
    torch = pytest.importorskip("torch")
    X, dY = rng.standard_normal((2, *shape)).astype(dtype)
    gamma, beta, mean = rng.standard_normal((3, 20)).astype(dtype)
    var = rng.random(20).astype(dtype) + dtype(0.1)
    tx, tg, tb = (torch.tensor(a, requires_grad=True) for a in (X, gamma, beta))
    tm, tv = torch.tensor(mean), torch.tensor(var)
    ty = torch.nn.functional.batch_norm(tx, tm, tv, tg, tb, training, momentum)
    ty.backward(torch.tensor(dY))
    Y, saved = fanin.batch_norm(
        X,
        gamma,
        beta,
        axis=axis,
        training=training,
        running_mean=mean,
        running_var=var,
        momentum=momentum,
    )
    dX, dgamma, dbeta = fanin.batch_norm_backward(dY, saved)
    close(Y, ty, dtype)
    close(dX, tx.grad, dtype)
    close(dgamma, tg.grad, dtype)
    close(dbeta, tb.grad, dtype)
    close(mean, tm, dtype)
    close(var, tv, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [3, 20_000])
def test_nan_and_infinities_propagate_as_in_pytorch(rng, value, dtype, columns):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    X = rng.standard_normal((4, columns)).astype(dtype)
    X[1, 2] = value
    t = torch.tensor(X)
    mean, var = np.zeros(columns), np.ones(columns)
    tm, tv = torch.tensor(mean.copy()), torch.tensor(var.copy())
    found = [
        fanin.layer_norm(X)[0],
        fanin.rms_norm(X)[0],
        fanin.batch_norm(X, running_mean=mean, running_var=var)[0],
    ]
    wanted = [
        F.layer_norm(t, X.shape[1:]),
        F.rms_norm(t, X.shape[1:]),
        F.batch_norm(t.double(), tm, tv, training=True),
    ]
    for Y, ty in zip(found, wanted, strict=True):
        assert np.array_equal(np.isnan(Y), np.isnan(ty.numpy()))
        np.testing.assert_allclose(Y, ty.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, tm.numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(var, tv.numpy(), rtol=1e-6)


# --- What other compiled modules call ------------------------------------------


class NormRows(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("mean", "rstd", "lo", "scale")]


class NormCols(ctypes.Structure):
    _fields_ = [
        (n, ctypes.c_void_p)
        for n in ("mean", "lo", "rstd", "scale", "slope", "beta", "c1", "c2")
    ]


def exported(module, name, *argtypes):
    """The C function that a .pxd declares, as something to call from here."""
    capsule = module.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    signature = api.PyCapsule_GetName(capsule)
    assert signature.count(b",") + 1 == len(argtypes), signature
    address = api.PyCapsule_GetPointer(capsule, signature)
    return ctypes.CFUNCTYPE(None, *argtypes)(address)


def address(array):
    return None if array is None else array.ctypes.data


P, N, D, B = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_double, ctypes.c_int


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(200, 50), (3, 9_000), (1, 1)])
@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_row_kernels_for_other_modules(rng, kind, shape, dtype):
    fuse = f"__pyx_fuse_{int(dtype == np.float64)}"
    forward = exported(
        _layer_norm, f"{fuse}layer_norm_rows", P, N, NormRows, P, *(N, N, N), P, P, D, B
    )
    backward = exported(
        _layer_norm,
        f"{fuse}layer_norm_rows_backward",
        *(P, P, P, P, P, N, NormRows, N, N, P, B),
    )
    rows, w = shape
    X, dY = rng.standard_normal((2, *shape)).astype(dtype)
    gamma, beta = rng.standard_normal((2, w))
    centre = kind == "layer_norm"
    stats = np.full((4, rows), np.nan)
    pointers = [address(row) for row in stats]
    s = NormRows(*(pointers if dtype == np.float64 else [*pointers[:2], None, None]))
    # Rows further apart than they are long.
    Y, wide = np.empty((rows, w + 5), dtype), np.empty((rows, w + 3), dtype)
    wide[:, :w] = X
    dX, sums = np.empty_like(X), np.zeros((2, w))
    x, ldx, g = address(wide), w + 3, address(gamma)
    forward(address(Y), w + 5, s, x, ldx, rows, w, g, address(beta), 1e-3, centre)
    wanted, saved = FORWARD[kind](X, gamma, beta, eps=1e-3)
    assert np.array_equal(Y[:, :w], wanted)
    dy, total = address(dY), (address(sums[0]), address(sums[1]))
    backward(address(dX), *total, dy, x, ldx, s, rows, w, g, centre)
    dx, dgamma, dbeta = BACKWARD[kind](dY, saved)
    assert np.array_equal(dX, dx)
    np.testing.assert_allclose(sums, [dgamma, dbeta], rtol=1e-12, atol=1e-12)
    backward(dy, None, None, dy, x, ldx, s, rows, w, g, centre)  # in place
    largest = float(np.abs(dX).max())
    assert_agrees(dY, dx.astype(float), dtype, w, 4 * largest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_column_kernels_for_other_modules(rng, dtype):
    fuse = f"__pyx_fuse_{int(dtype == np.float64)}batch_norm_rows"
    forward = exported(_batch_norm, fuse, P, N, P, N, N, N, NormCols)
    sums = exported(_batch_norm, f"{fuse}_sums", P, P, P, P, N, N, N, NormCols)
    gradient = exported(_batch_norm, f"{fuse}_gradient", P, P, P, N, N, N, NormCols)
    settle = exported(
        _batch_norm, "norm_settle", P, P, P, P, P, P, N, D, D, ctypes.c_int
    )
    rows, w = 203, 50
    X, dY = rng.standard_normal((2, rows, w)).astype(dtype)
    gamma, beta = rng.standard_normal((2, w))
    state, exponent = np.zeros((5, w)), np.zeros(w, np.int32)
    _moments.moments_forward(state, exponent, X, (0,), 1)
    mean, rstd, lo, scale = stats = np.empty((4, w))
    settle(*map(address, (mean, rstd, lo, scale, state, exponent)), w, rows, 1e-5, True)
    Y, wide = np.empty((rows, w + 5), dtype), np.empty((rows, w + 3), dtype)
    wide[:, :w] = X
    dX, c = np.empty_like(X), np.zeros((2, w))
    slope = rstd * gamma
    s = NormCols(*map(address, (mean, lo, rstd, scale, slope, beta, c[0], c[1])))
    dy, x, ldx = address(dY), address(wide), w + 3
    forward(address(Y), w + 5, x, ldx, rows, w, s)
    wanted, saved = fanin.batch_norm(X, gamma, beta)
    assert_agrees(Y[:, :w], wanted.astype(float), dtype, rows)
    assert np.array_equal(stats[1] * stats[3], saved.rstd)
    sums(address(c[0]), address(c[1]), dy, x, ldx, rows, w, s)
    dx, dgamma, dbeta = fanin.batch_norm_backward(dY, saved)
    np.testing.assert_allclose(c, [dbeta, dgamma], rtol=1e-12, atol=1e-12)
    c /= rows
    gradient(address(dX), dy, x, ldx, rows, w, s)
    assert_agrees(dX, dx.astype(float), dtype, rows)
    gradient(address(dX), dy, None, 0, rows, w, s)
    assert_agrees(dX, dY * slope, dtype, 1)


# --- Precision and range -----------------------------------------------------


def test_float32_is_centred_with_more_than_float32():
    X = (2.0**24 + np.arange(0, 16, 2)).astype(np.float32)
    wanted = (np.arange(8) - 3.5) / np.sqrt(5.25)
    for Y in (
        fanin.layer_norm(X, eps=0.0)[0],
        fanin.batch_norm(X, eps=0.0)[0],
        fanin.layer_norm(np.repeat(X, 3_000), eps=0.0)[0][::3_000],
    ):
        np.testing.assert_allclose(Y, wanted, rtol=2**-23)
        assert Y.sum(dtype=float) == 0.0


@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("n", [50, 20_000])
def test_a_large_offset_costs_no_digits(rng, kind, n):
    X = rng.standard_normal((4, n)) + 1e9
    X = X.T.copy() if kind == "batch_norm" else X
    Y, saved = FORWARD[kind](X, eps=0.0)
    dY = rng.standard_normal(X.shape)
    axis = default_axis(kind)
    # (The difference is exact; a long double mean of X has only 5e-11.)
    wanted, dx, _, _ = by_hand(kind, X - 1e9, 1.0, 0.0, axis, 0.0, dY)
    np.testing.assert_allclose(Y, wanted.astype(float), rtol=0, atol=2e-14)
    dX = BACKWARD[kind](dY, saved)[0]
    np.testing.assert_allclose(dX, dx.astype(float), rtol=0, atol=5e-14)


@pytest.mark.parametrize("value", [5.0, 0.1, -7.3e30, 1e-40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 1_000, 20_000])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_constants_are_normalized_to_exactly_zero(value, dtype, n, eps):
    X = np.full((2, n), value, dtype)
    X[1] = 0
    for Y, saved in (fanin.layer_norm(X, eps=eps), fanin.batch_norm(X.T, eps=eps)):
        assert (Y == 0).all()
        if eps == 0:
            assert (np.asarray(saved.rstd) == 0).all()
        kind = saved._kind
        dX = BACKWARD[kind](np.ones(Y.shape, dtype), saved)[0]
        np.testing.assert_allclose(dX, 0, atol=1e-12 if eps else 0)
    assert (fanin.rms_norm(X, eps=eps)[0][1] == 0).all()


EXTREMES = {
    "huge": lambda rng, shape: rng.standard_normal(shape) * 1e200,
    "largest": lambda rng, shape: rng.choice([-1.7e308, 1.7e308, 1e308], shape),
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-200,
    "subnormal": lambda rng, shape: rng.integers(-99, 99, shape) * 5e-324,
    "huge and tiny": lambda rng, shape: rng.choice([1e300, 1e-300], shape),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", EXTREMES)
@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-310, 1e-250])
@pytest.mark.parametrize("n", [40, 20_000])
def test_values_whose_squares_leave_the_range(rng, kind, what, eps, n):
    """Exact where the result is a double, in the midst of ordinary samples."""
    shape = (5, n)
    X = rng.standard_normal(shape)
    X[2] = EXTREMES[what](rng, n)
    dY = rng.standard_normal(shape)
    axis = default_axis(kind)
    if kind == "batch_norm":
        X, dY = X.T.copy(), dY.T.copy()
    # Long double has the range, if products are taken in the right order.
    wanted, dx, dg, _ = by_hand(kind, X, 1.0, 0.0, axis, eps, dY)
    Y, saved = FORWARD[kind](X, np.ones(X.shape[1]), eps=eps)
    np.testing.assert_allclose(Y, wanted.astype(float), rtol=1e-12, atol=1e-13)
    dX, dgamma, _ = BACKWARD[kind](dY, saved)
    with np.errstate(over="ignore", under="ignore"):
        expected = dx.astype(float)
    fits = np.abs(dx) < 1e300
    size = np.abs(dx).max(axis=axis, keepdims=True)
    assert (np.abs(dX - dx)[fits] <= (1e-11 * size + 5e-324 + 0 * dx)[fits]).all()
    assert expected.shape == dX.shape
    np.testing.assert_allclose(
        dgamma, dg.sum(axis=0).astype(float), rtol=1e-11, atol=1e-11 * len(X)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_samples_spoil_no_other(rng, dtype):
    X = rng.standard_normal((9, 30)).astype(dtype)
    plain = fanin.layer_norm(X)[0]
    X[4, 3] = np.inf
    Y, saved = fanin.layer_norm(X, np.ones(30))
    assert np.isnan(Y[4]).all()
    keep = np.arange(9) != 4
    assert np.array_equal(Y[keep], plain[keep])
    dX = fanin.layer_norm_backward(np.ones((9, 30), dtype), saved)[0]
    assert np.isnan(dX[4]).all()
    assert np.isfinite(dX[keep]).all()


# --- Running statistics ------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8"])
@pytest.mark.parametrize("layout", ["plain", "strided", "reversed"])
def test_running_statistics_of_any_layout(rng, dtype, layout):
    X = rng.standard_normal((50, 4, 3)) * 3 + 1
    cut = {
        "plain": np.s_[:4, :3],
        "strided": np.s_[::2, ::2],
        "reversed": np.s_[3::-1, :3],
    }
    mean, var = (np.full((8, 6), v, dtype)[cut[layout]] for v in (1.0, 2.0))
    assert mean.shape == (4, 3)
    fanin.batch_norm(X, running_mean=mean, running_var=var, momentum=0.25)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, 0.75 + 0.25 * X.mean(0), rtol=4 * eps)
    np.testing.assert_allclose(var, 1.5 + 0.25 * X.var(0, ddof=1), rtol=4 * eps)
    Y = fanin.batch_norm(X, training=False, running_mean=mean, running_var=var)[0]
    m, v = mean.astype(float), var.astype(float)
    np.testing.assert_allclose(Y, (X - m) / np.sqrt(v + 1e-5), rtol=1e-12, atol=1e-14)


def test_inference_normalizes_one_row_and_integer_lists():
    Y, saved = fanin.batch_norm(
        [[3, 5]], training=False, running_mean=[1, 5], running_var=[4, 1], eps=0.0
    )
    np.testing.assert_array_equal(Y, [[1.0, 0.0]])
    dX, dgamma, dbeta = fanin.batch_norm_backward([[1, 1]], saved)
    np.testing.assert_array_equal(dX, [[0.5, 1.0]])
    assert dgamma is dbeta is None


def test_nothing_is_updated_by_a_call_that_is_refused(rng):
    X = rng.standard_normal((6, 3))
    mean, var = np.zeros(3), np.ones(3)
    wrong = [
        {"gamma": np.ones(2)},
        {"beta": np.ones((1, 3))},
        {"out": np.empty((6, 2))},
        {"eps": -1.0},
        {"momentum": 1.5},
        {"n_threads": 0},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match="must"):
            fanin.batch_norm(X, running_mean=mean, running_var=var, **options)
    assert (mean == 0).all()
    assert (var == 1).all()


# --- What is refused, and what saved remembers -------------------------------


@pytest.mark.parametrize("shape", [(1, 5), (0, 5), (1, 4, 5)])
def test_a_training_batch_of_one_row_is_refused(shape):
    with pytest.raises(ValueError, match=r"at least 2 values per feature; X of shape"):
        fanin.batch_norm(np.ones(shape))
    mean, var = np.zeros(shape[1:]), np.ones(shape[1:])
    Y, _ = fanin.batch_norm(
        np.ones(shape), training=False, running_mean=mean, running_var=var
    )
    assert Y.shape == shape


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"gamma": np.ones(4)}, ValueError, r"gamma must have shape \(3,\).*\(4,\)"),
        ({"beta": 1.0}, ValueError, r"beta must have shape \(3,\).*\(\)"),
        ({"gamma": np.ones(3, complex)}, TypeError, "gamma must be.*complex128"),
        ({"beta": ["a", "b", "c"]}, TypeError, "beta must be"),
        ({"eps": -1e-5}, ValueError, "eps must be"),
        ({"eps": np.nan}, ValueError, "eps must be"),
        ({"eps": "1"}, TypeError, "eps must be a real number; got str"),
        ({"axis": 2}, ValueError, "axis 2 is out of bounds"),
        ({"axis": (0, 0)}, ValueError, "axis names an axis twice"),
        ({"axis": 0.5}, TypeError, "axis must be an integer"),
        ({"n_threads": 0}, ValueError, "n_threads must be"),
        ({"out": np.empty((6, 3), "f4")}, TypeError, "out must have dtype float64"),
        ({"out": np.empty((3, 6))}, ValueError, "out must have.*shape"),
        ({"out": [1]}, TypeError, "out must be"),
        ({"out": np.broadcast_to(1.0, (6, 3))}, ValueError, "out"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_options_are_refused_by_name(rng, kind, options, error, match):
    X = rng.standard_normal((6, 3))
    before = X.copy()
    with pytest.raises(error, match=match):
        FORWARD[kind](X, **options)
    assert np.array_equal(X, before)


@pytest.mark.parametrize("bad", [1j, "a", object(), np.longdouble(1)])
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes_are_refused_by_name(kind, bad):
    X = np.array([[bad, bad], [bad, bad]])
    with pytest.raises(TypeError, match="X must be an array of real numbers"):
        FORWARD[kind](X)
    saved = FORWARD[kind](np.eye(2))[1]
    with pytest.raises(TypeError, match="dY must be an array of real numbers"):
        BACKWARD[kind](X, saved)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"running_mean": np.zeros(3)}, ValueError, "running_mean is given without"),
        ({"running_var": np.zeros(3)}, ValueError, "running_var is given without"),
        ({"training": False}, ValueError, "uses running_mean and running_var"),
        ({"training": 1}, TypeError, "training must be a bool; got int"),
        ({"momentum": -0.1}, ValueError, "momentum must be"),
        ({"momentum": None}, TypeError, "momentum must be a real number"),
    ],
)
def test_wrong_running_options_are_refused_by_name(rng, options, error, match):
    with pytest.raises(error, match=match):
        fanin.batch_norm(rng.standard_normal((6, 3)), **options)


@pytest.mark.parametrize("which", ["running_mean", "running_var"])
def test_wrong_running_arrays_are_refused_by_name(rng, which):
    X = rng.standard_normal((6, 3))
    other = {"running_mean": "running_var", "running_var": "running_mean"}[which]
    same = np.ones(3)
    cases = [
        (np.ones(4), ValueError, r"must have shape \(3,\).*\(4,\)"),
        (np.ones(3, int), TypeError, "must have dtype float32 or float64; got int64"),
        ([1.0, 1.0, 1.0], TypeError, "must be a NumPy array.*got list"),
        (read_only(np.ones(3)), ValueError, "is read-only"),
        (np.lib.stride_tricks.as_strided(np.ones(3), (3,), (0,)), ValueError, "share"),
        (X[0], ValueError, "overlaps X"),
        (same, ValueError, "overlaps"),
    ]
    for array, error, match in cases:
        with pytest.raises(error, match=f"{which}.*{match}|running_mean.*{match}"):
            fanin.batch_norm(X, **{which: array, other: same})
    gamma = np.ones(3)
    for name in ("gamma", "beta"):
        with pytest.raises(ValueError, match=f"{which} overlaps {name}"):
            fanin.batch_norm(X, **{which: gamma, other: same, name: gamma})
    out = np.empty((6, 3))
    with pytest.raises(ValueError, match=f"{which} overlaps out"):
        fanin.batch_norm(X, out=out, **{which: out[0], other: same})
    with pytest.raises(ValueError, match=r"running_var must not be negative; got -1"):
        fanin.batch_norm(
            X, training=False, running_mean=np.ones(3), running_var=np.full(3, -1.0)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_that_would_corrupt_are_refused(rng, kind):
    room = rng.standard_normal((8, 3))
    X, shifted = room[:6], room[2:]
    before = room.copy()
    with pytest.raises(ValueError, match="out overlaps X"):
        FORWARD[kind](X, out=shifted)
    saved = FORWARD[kind](X)[1]
    with pytest.raises(ValueError, match="out overlaps X, which saved holds"):
        BACKWARD[kind](np.ones((6, 3)), saved, out=X)
    grads = rng.standard_normal((8, 3))
    with pytest.raises(ValueError, match="out overlaps dY"):
        BACKWARD[kind](grads[:6], saved, out=grads[2:])
    assert np.array_equal(room, before)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_may_lie_in_out(rng, kind):
    X = rng.standard_normal((6, 4))
    out = rng.standard_normal((6, 4))
    wanted = FORWARD[kind](X, out[0].copy(), out[1].copy())[0]
    assert np.array_equal(FORWARD[kind](X, out[0], out[1], out=out)[0], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_never_goes_stale_unnoticed(rng, kind):
    X = rng.standard_normal((6, 3))
    dY = rng.standard_normal((6, 3))
    gamma = rng.standard_normal(3)
    _, saved = FORWARD[kind](X, gamma)
    wanted = BACKWARD[kind](dY, saved)
    gamma *= 2  # an optimizer's step
    for found, right in zip(BACKWARD[kind](dY, saved), wanted, strict=True):
        assert found is right is None or np.array_equal(found, right)
    _, in_place = FORWARD[kind](X, gamma, out=X)
    with pytest.raises(ValueError, match=f"saved comes from {kind} in place"):
        BACKWARD[kind](dY, in_place)
    assert "in place" in repr(in_place)
    assert "(6, 3)" in repr(saved)
    assert isinstance(saved, normalization.Saved)
    view = saved.mean
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_gradient_argument_is_refused_by_name(rng, kind):
    X = rng.standard_normal((6, 3)).astype(np.float32)
    saved = FORWARD[kind](X)[1]
    other = next(k for k in KINDS if k != kind)
    dY = np.ones((6, 3), np.float32)
    cases = [
        ((dY, None), {}, TypeError, f"saved must be what {kind} returned.*NoneType"),
        ((dY, FORWARD[other](X)[1]), {}, ValueError, f"it came from {other}"),
        ((dY[:5], saved), {}, ValueError, r"\(6, 3\); got shape \(5, 3\)"),
        ((dY.astype("f8"), saved), {}, TypeError, "float32.*got float64"),
        ((dY, saved), {"out": dY.astype("f8")}, TypeError, "out must have dtype"),
        ((dY, saved), {"out": read_only(dY)}, ValueError, "out is read-only"),
        ((dY, saved), {"n_threads": 0}, ValueError, "n_threads must be"),
    ]
    for args, options, error, match in cases:
        with pytest.raises(error, match=match):
            BACKWARD[kind](*args, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (0, 0), (3, 0, 2)])
def test_empty_arrays(kind, shape):
    X = np.empty(shape)
    axis = default_axis(kind)
    inner = parameter_shape(shape, axis, kind)
    gamma = beta = np.ones(inner)
    options = {}
    if kind == "batch_norm":
        options = {
            "training": shape[0] > 1,
            "running_mean": np.zeros(inner),
            "running_var": np.ones(inner),
        }
    Y, saved = FORWARD[kind](X, gamma, beta, **options)
    dX, dgamma, dbeta = BACKWARD[kind](X, saved)
    assert Y.shape == dX.shape == shape
    np.testing.assert_array_equal(dgamma, np.zeros(inner))
    np.testing.assert_array_equal(dbeta, np.zeros(inner))
    assert np.shape(saved.mean) == np.ones(shape).sum(axis=axis).shape


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_without_axes_needs_axis_none(kind):
    with pytest.raises(ValueError, match="out of bounds"):
        FORWARD[kind](np.float64(3.0))
    if kind == "layer_norm":
        assert fanin.layer_norm(3.0, axis=None)[0] == 0.0


def test_gradients_of_parameters_have_their_dtypes(rng):
    X = rng.standard_normal((6, 3)).astype(np.float32)
    for kind in KINDS:
        saved = FORWARD[kind](X, np.ones(3, np.float64), np.ones(3, np.float16))[1]
        _, dgamma, dbeta = BACKWARD[kind](X, saved)
        assert dgamma.dtype == np.float64
        assert dbeta.dtype == np.float32


def test_the_functions_are_those_of_the_module():
    module = importlib.import_module("fanin.normalization")
    for name in KINDS:
        assert getattr(fanin, name) is getattr(module, name)
        assert getattr(fanin, f"{name}_backward") is getattr(module, f"{name}_backward")


def test_a_neighbour_of_x_is_not_x():
    """An `out` that interleaves with X is not in place: backward works."""
    A = np.random.default_rng(5).standard_normal((6, 8))
    X = A[:, 4:].copy()
    Y, saved = fanin.layer_norm(A[:, 4:], out=A[:, :4])
    wanted, other = fanin.layer_norm(X)
    assert np.array_equal(Y, wanted)
    dY = np.arange(24.0).reshape(6, 4)
    dX, _, _ = fanin.layer_norm_backward(dY, saved)
    assert np.array_equal(dX, fanin.layer_norm_backward(dY, other)[0])


def test_saved_is_made_by_forward_passes_only():
    with pytest.raises(TypeError, match="made by batch_norm"):
        fanin.normalization.Saved()


def test_a_negative_running_variance_is_refused_beside_a_nan():
    with pytest.raises(ValueError, match="running_var must not be negative"):
        fanin.batch_norm(
            np.ones((2, 2)),
            training=False,
            running_mean=np.zeros(2),
            running_var=np.array([np.nan, -1.0]),
        )


def test_running_statistics_of_tiny_values_leak_no_numpy_errors():
    mean, var = np.zeros(1), np.zeros(1)
    with np.errstate(all="raise"):
        X = np.array([[1e-320], [3e-320], [4e-320]])
        _, saved = fanin.batch_norm(X, eps=0.0, running_mean=mean, running_var=var)
        assert np.isfinite(saved.mean).all()
    assert 0 < mean[0] < 1e-320
