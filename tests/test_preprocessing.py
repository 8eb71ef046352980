"""standardize, unstandardize and moments: layouts, options, hostile input."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import fanin
from fanin._kernels import _moments, _normalize, _source


def by_hand(X, axis=0, ddof=0):
    """Mean, std and standardized X in long double, NaN left out."""
    X = np.asarray(X, np.longdouble)
    known = ~np.isnan(X)
    n = known.sum(axis=axis, keepdims=True)
    with np.errstate(all="ignore"):
        mean = np.where(known, X, 0).sum(axis=axis, keepdims=True) / n
        d = np.where(known, X - mean, 0)
        std = np.sqrt((d * d).sum(axis=axis, keepdims=True) / (n - ddof))
        Z = (X - mean) / np.where(std == 0, 1, std)
    return np.squeeze(mean, axis), np.squeeze(std, axis), Z


def tolerance(dtype):
    """Bounds for standardized values up to about 10.

    float32 results are rounded once from double. In double, mean and std carry the
    rounding errors of at most 256 additions in a row, and the twin in long double
    none to speak of.
    """
    if dtype == np.float32:
        return {"rtol": 2**-23, "atol": 2**-23}
    return {"rtol": 256 * 2**-53, "atol": 256 * 2**-53}


def unaligned(X):
    raw = np.empty(X.nbytes + 1, np.uint8)
    view = raw[1:].view(X.dtype).reshape(X.shape)
    view[...] = X
    assert not view.flags.aligned
    return view


def every_second(X, axis):
    wide = np.repeat(X, 2, axis=axis)
    return wide[(slice(None),) * axis + (slice(None, None, 2),)]


def read_only(X):
    view = X.view()
    view.flags.writeable = False
    return view


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "every second row": lambda X: every_second(X, 0),
    "every second column": lambda X: every_second(X, 1),
    "reversed rows": lambda X: X[::-1].copy()[::-1],
    "reversed columns": lambda X: np.asfortranarray(X[:, ::-1])[:, ::-1],
    "unaligned": unaligned,
    "byte-swapped": lambda X: X.astype(X.dtype.newbyteorder()),
    "read-only": read_only,
}
# These are gathered into the same blocks as C order, and so give its very bits; rows
# with gaps, or in reverse, are not gathered unless they are short.
SAME_BITS = set(LAYOUTS) - {
    "Fortran",
    "reversed columns",
    "every second row",
    "reversed rows",
}

SHAPES = [(1, 5), (40, 1), (3, 700), (2_000, 3), (900, 50), (130, 1_100), (9_000, 2)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_where_it_lies(rng, shape, layout, dtype):
    base = (rng.standard_normal(shape) * 3 + 5).astype(dtype)
    X = LAYOUTS[layout](base)
    before = X.tobytes()
    Z, m = fanin.standardize(X, return_moments=True)
    mean, std, wanted = by_hand(base)
    assert X.tobytes() == before
    assert Z.dtype == dtype
    np.testing.assert_allclose(Z, wanted.astype(dtype), **tolerance(dtype))
    np.testing.assert_allclose(m.mean, mean.astype(float), **tolerance(np.float64))
    np.testing.assert_allclose(m.std, std.astype(float), **tolerance(np.float64))
    assert m == fanin.moments(X)
    plain, p = fanin.standardize(base, return_moments=True)
    if layout in SAME_BITS:
        assert m == p
        assert np.array_equal(Z, plain)
    out = LAYOUTS[layout](np.zeros_like(base))
    if layout not in ("byte-swapped", "read-only"):
        assert fanin.standardize(base, out=out) is out
        assert np.array_equal(out, plain)
        place = LAYOUTS[layout](base.copy())
        assert fanin.standardize(place, out=place) is place
        assert np.array_equal(place, Z)
    stored = fanin.standardize(X, mean=m.mean, std=m.std)
    np.testing.assert_allclose(stored, Z, **tolerance(dtype))
    back = fanin.unstandardize(Z, m.mean, m.std)
    np.testing.assert_allclose(back, base, rtol=8 * np.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("n_threads", [2, 3, 16])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(40_000, 20), (700, 1_100), (300_000,), (9, 60_000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_change_no_bit(rng, shape, order, dtype, n_threads):
    X = rng.standard_normal(shape).astype(dtype)
    X.flat[:: X.size // 50] = np.nan
    X = np.asarray(X, order=order)
    one, m = fanin.standardize(X, n_threads=1, return_moments=True)
    many, k = fanin.standardize(X, n_threads=n_threads, return_moments=True)
    assert one.tobytes() == many.tobytes()
    assert m == k
    assert m._state.tobytes() == k._state.tobytes()


@pytest.mark.parametrize("columns", [1, 7, 50, 300])
def test_data_cut_on_the_block_grid_gives_the_same_bits(rng, columns):
    X = rng.standard_normal((600_000 // columns, columns))
    whole, e = np.zeros((5, columns)), np.zeros(columns, np.int32)
    _moments.moments_forward(whole, e, X, (0,), 2)
    group = _moments.group_rows(X, (0,))
    assert group < len(X) // 2
    total, f = np.zeros((5, columns)), np.zeros(columns, np.int32)
    for start in range(0, len(X), 2 * group):
        # Chunks of one and of two groups in turn.
        for a, b in ((start, start + group), (start + group, start + 2 * group)):
            if a < len(X):
                part, g = np.zeros((5, columns)), np.zeros(columns, np.int32)
                _moments.moments_forward(part, g, X[a:b], (0,), 1)
                _moments.moments_merge(total, f, part, g)
    assert total.tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    "dtype", ["?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", ">i4", ">f2", ">u8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_real_dtypes_are_converted(rng, dtype, order):
    X = np.asarray(rng.integers(0, 2 if dtype == "?" else 100, (800, 6)), dtype)
    X = np.asarray(X, order=order)
    wanted = X.astype(np.float32 if X.dtype.kind == "f" else np.float64)
    Z, m = fanin.standardize(X, return_moments=True)
    assert Z.dtype == wanted.dtype
    assert m == fanin.moments(wanted)
    assert np.array_equal(Z, fanin.standardize(wanted))


def test_every_half_precision_number_is_converted_exactly():
    X = np.arange(2**16, dtype=np.uint16).view(np.float16)
    Z = fanin.standardize(X, mean=0.0, std=1.0)
    np.testing.assert_array_equal(Z, X.astype(np.float32))


@pytest.mark.parametrize(
    "bad", [1j, "a", object(), np.longdouble(1), np.datetime64(1, "s")]
)
def test_other_dtypes_are_refused_by_name(bad):
    X = np.array([bad, bad])
    with pytest.raises(TypeError, match=f"X must be.*{X.dtype}".replace("[", "\\[")):
        fanin.standardize(X)
    with pytest.raises(TypeError, match="X must be"):
        fanin.moments(X)


@pytest.mark.parametrize(
    "axis", [0, 1, 2, -1, (0, 1), (0, 2), (2, 1), (0, 1, 2), None, ()]
)
@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_any_axis_of_any_order(rng, axis, turn):
    X = rng.standard_normal((6, 7, 90)).transpose(turn)
    Z, m = fanin.standardize(X, axis=axis, return_moments=True)
    axes = tuple(range(3)) if axis is None else axis
    mean, std, wanted = by_hand(X, axes)
    assert np.shape(m.mean) == mean.shape
    np.testing.assert_allclose(m.mean, mean.astype(float), atol=1e-15, rtol=1e-14)
    np.testing.assert_allclose(m.std, std.astype(float), atol=1e-15, rtol=1e-14)
    np.testing.assert_allclose(Z, wanted.astype(float), atol=1e-13)
    applied = fanin.standardize(X, axis=axis, mean=m.mean, std=m.std)
    np.testing.assert_allclose(applied, Z, atol=1e-13)
    np.testing.assert_allclose(
        fanin.unstandardize(Z, m.mean, m.std, axis=axis), X, atol=1e-13
    )


@st.composite
def tables(draw):
    """A float view of any rank, any strides, and axes to reduce."""
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
    assert X.shape == shape
    X = np.lib.stride_tricks.as_strided(
        X, strides=[0 if p == 0 else s for p, s in zip(steps, X.strides, strict=True)]
    )
    X = X.transpose(draw(st.permutations(range(ndim))))
    axes = draw(st.sets(st.integers(0, ndim - 1)))
    return X, tuple(sorted(axes))


@settings(max_examples=300, deadline=None)
@given(case=tables(), out_order=st.sampled_from("CF"), ddof=st.sampled_from([0, 1]))
def test_any_strides_agree_with_the_twins(case, out_order, ddof):
    X, axes = case
    shape = tuple(n for d, n in enumerate(X.shape) if d not in axes)
    n = int(np.prod(shape))
    assert _source.column_order(X, axes) == reference.column_order(X, axes)
    found, e = np.zeros((5, n)), np.zeros(n, np.int32)
    wanted, f = np.zeros((5, n)), np.zeros(n, np.int32)
    _moments.moments_forward(found, e, X, axes, 2)
    reference.moments_forward(wanted, f, X, axes, 2)
    assert np.array_equal(e, f)
    np.testing.assert_allclose(found[:2], wanted[:2], rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(found[3], wanted[3], rtol=1e-13, atol=1e-28)
    std = np.sqrt(wanted[3] / wanted[0])
    std[std < 1e-9] = 0
    dtype = np.float32 if X.dtype.kind == "f" and X.dtype.itemsize < 8 else np.float64
    Z, Y = (np.empty(X.shape, dtype, order=out_order) for _ in "ZY")
    for zero, inverse in ((False, False), (True, False), (False, True)):
        args = (X, axes, wanted[1], wanted[2], std, None, zero, inverse, 1)
        _normalize.normalize_forward(Z, *args)
        reference.normalize_forward(Y, *args)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(Z, Y, rtol=2 * eps, atol=64 * 2**-53)
    result = fanin.standardize(X, axis=axes, ddof=ddof)
    _, by_std, expected = by_hand(X, axes, ddof)
    if np.all(by_std > 1e-6):
        np.testing.assert_allclose(result, expected.astype(dtype), **tolerance(dtype))


def test_agrees_with_scikit_learn(rng):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    X = rng.gamma(2.0, 3.0, (1_000, 30)) * 10.0 ** rng.integers(-5, 5, 30)
    X[rng.random(X.shape) < 0.05] = np.nan
    scaler = preprocessing.StandardScaler().fit(X)
    m = fanin.moments(X)
    np.testing.assert_allclose(m.mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(m.var, scaler.var_, rtol=1e-12)
    assert np.array_equal(m.count, scaler.n_samples_seen_)
    np.testing.assert_allclose(fanin.standardize(X), scaler.transform(X), atol=1e-11)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [1, 4, 200])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_nan_is_left_out_and_kept(rng, columns, share, order):
    X = rng.standard_normal((3_000, columns)) + 7
    missing = rng.random(X.shape) < share
    X[missing] = np.nan
    X = np.asarray(X, order=order)
    Z, m = fanin.standardize(X, return_moments=True)
    mean, std, wanted = by_hand(X)
    assert np.array_equal(m.count, (~missing).sum(axis=0))
    np.testing.assert_allclose(m.mean, mean.astype(float), rtol=1e-14)
    np.testing.assert_allclose(m.std, std.astype(float), rtol=1e-13)
    assert np.array_equal(np.isnan(Z), missing)
    np.testing.assert_allclose(Z, wanted.astype(float), atol=1e-12)


def test_nan_policies():
    X = np.array([[1.0, np.nan, 2.0], [3.0, 4.0, 2.0]])
    m = fanin.moments(X, nan_policy="propagate")
    assert m.count.tolist() == [2, 1, 2]
    np.testing.assert_array_equal(m.mean, [2, np.nan, 2])
    np.testing.assert_array_equal(m.var, [1, np.nan, 0])
    Z = fanin.standardize(X, nan_policy="propagate")
    np.testing.assert_array_equal(Z, [[-1, np.nan, 0], [1, np.nan, 0]])
    assert not np.isnan(fanin.standardize(X)[1, 1])
    before = X.copy()
    for call in (fanin.moments, fanin.standardize):
        with pytest.raises(ValueError, match=r'"raise": 1 of 3 .* index \(1,\)'):
            call(X, nan_policy="raise")
    with pytest.raises(ValueError, match="NaN"):
        fanin.standardize(X, mean=0.0, std=1.0, nan_policy="raise", out=X)
    np.testing.assert_array_equal(X, before)
    assert fanin.moments(X[:, [0]], nan_policy="raise").mean == [2.0]


def test_all_nan_features(rng):
    X = rng.standard_normal((500, 70))
    X[:, 5] = np.nan
    X[:400, 6] = np.nan
    for order in "CF":
        m = fanin.moments(np.asarray(X, order=order))
        assert m.count[5] == 0
        assert m.count[6] == 100
        assert np.isnan([m.mean[5], m.var[5], m.std[5]]).all()
        assert not m.constant.any()
        np.testing.assert_allclose(m.var[6], X[400:, 6].var(), rtol=1e-13)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 3, 200])
def test_infinities_give_what_numpy_gives_without_its_warnings(columns, dtype, order):
    X = np.random.default_rng(3).standard_normal((9_000, columns)).astype(dtype)
    cases = [(np.inf,), (-np.inf,), (np.inf, -np.inf)]
    for values in cases:
        Y = np.asarray(X.copy(), order=order)
        Y[[4_100 * i for i in range(len(values))], columns // 2] = values
        Z, m = fanin.standardize(Y, return_moments=True)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(m.mean, Y.mean(axis=0, dtype=float), rtol=1e-9)
            np.testing.assert_allclose(m.var, Y.var(axis=0, dtype=float), rtol=1e-12)
        assert np.isnan(Z[:, columns // 2]).all()
        assert np.isfinite(np.delete(Z, columns // 2, axis=1)).all()


def test_constant_features():
    X = np.array([[1.0, 7.1, np.nan], [3.0, 7.1, 0.3], [2.0, 7.1, 0.3]])
    m = fanin.moments(X)
    assert m.constant.tolist() == [False, True, True]
    assert fanin.standardize(X)[:, 1].tolist() == [0, 0, 0]
    stored = {"mean": [0.0, 7.0, 0.0], "std": [1.0, 0.0, 0.0]}
    keep = fanin.standardize(X, **stored)
    np.testing.assert_array_equal(keep, X - [0.0, 7.0, 0.0])
    zero = fanin.standardize(X, constant="zero", **stored)
    np.testing.assert_array_equal(zero[:, 1:], [[0, np.nan], [0, 0], [0, 0]])
    with pytest.warns(RuntimeWarning, match=r"2 of 3 .* index \(1,\)"):
        warned = fanin.standardize(X, constant="warn")
    np.testing.assert_array_equal(warned, fanin.standardize(X))
    before = X.copy()
    with pytest.raises(ValueError, match=r"2 of 3 features are constant"):
        fanin.standardize(X, constant="error", out=X)
    np.testing.assert_array_equal(X, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fanin.standardize(X[:, :1], constant="warn")
        fanin.standardize(X[:, :1], constant="error")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stored_mean_or_std_alone(rng, dtype):
    X = (rng.standard_normal((200, 4)) + 3).astype(dtype)
    m = fanin.moments(X)
    tol = tolerance(dtype)
    np.testing.assert_allclose(
        fanin.standardize(X, mean=0.0), X / m.std.astype(dtype), rtol=tol["rtol"] * 2
    )
    np.testing.assert_allclose(
        fanin.standardize(X, std=1.0), X - m.mean, rtol=0, atol=4 * tol["atol"]
    )
    out = X.copy()
    # The stored values may lie inside the array that is overwritten.
    wanted = fanin.standardize(X, mean=X[0].copy(), std=2.0)
    fanin.standardize(out, mean=out[0], std=2.0, out=out)
    np.testing.assert_array_equal(out, wanted)


def test_stored_values_at_the_edge_of_range():
    X = np.array([[1.7e308, 3e-310], [-1.7e308, -3e-310]])
    Z = fanin.standardize(X, mean=[-1.7e308, 0.0], std=[1.7e308, 1e-310])
    np.testing.assert_allclose(Z, [[2, 3], [0, -3]], rtol=1e-12)
    x = np.array([[1e-40], [2e-40]], np.float32)
    Z = fanin.standardize(x, mean=[0.0], std=[1e-310])
    np.testing.assert_array_equal(Z, np.inf)


def test_ddof():
    X = np.array([[1.0], [2.0], [6.0]])
    assert fanin.moments(X, ddof=1).var == [7.0]
    np.testing.assert_allclose(
        fanin.standardize(X, ddof=1), (X - 3) / np.sqrt(7.0), rtol=1e-15
    )
    assert np.isnan(fanin.moments(X[:1], ddof=1).var)
    for bad, error in ((-1, ValueError), ("1", TypeError), (np.nan, ValueError)):
        with pytest.raises(error, match="ddof"):
            fanin.moments(X, ddof=bad)


def test_empty_and_scalar_arrays():
    for shape in ((0, 3), (3, 0), (0, 0), (0,)):
        Z, m = fanin.standardize(np.empty(shape), return_moments=True)
        assert Z.shape == shape
        assert np.shape(m.mean) == shape[1:]
        assert np.all(np.isnan(m.mean))
        assert np.all(np.isnan(m.std))
        assert np.all(m.count == 0)
    assert fanin.standardize(np.empty((0, 3)), mean=np.zeros(3), std=1.0).size == 0
    Z, m = fanin.standardize(np.float64(3.5), axis=None, return_moments=True)
    assert Z.shape == ()
    assert (m.mean, m.std, m.count, m.constant) == (3.5, 0.0, 1, True)
    with pytest.raises(ValueError, match="axis 0 is out of bounds"):
        fanin.standardize(np.float64(3.5))
    one = fanin.moments([[1.0, 2.0]])
    assert one.constant.all()
    assert one.mean.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"axis": 2}, ValueError, "axis 2 is out of bounds.*2 dimensions"),
        ({"axis": -3}, ValueError, "axis -3"),
        ({"axis": (0, -2)}, ValueError, "axis names an axis twice"),
        ({"axis": 0.0}, TypeError, "axis must be an integer"),
        ({"axis": True}, TypeError, "axis"),
        ({"nan_policy": "ignore"}, ValueError, "nan_policy.*'omit'.*'ignore'"),
        ({"constant": 1}, ValueError, "constant"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"mean": np.zeros(4)}, ValueError, r"mean must have shape \(3,\).*\(4,\)"),
        ({"std": np.zeros((1, 3))}, ValueError, r"std must have shape \(3,\)"),
        ({"std": [1.0, -1.0, 1.0]}, ValueError, "std must not be negative"),
        ({"mean": "abc"}, TypeError, "mean must be"),
        ({"out": np.zeros((3, 2))}, ValueError, r"out must have shape \(2, 3\)"),
        ({"out": np.zeros((2, 3), "f4")}, TypeError, "out must have dtype float64"),
        ({"out": np.zeros((2, 3), ">f8")}, TypeError, "out must have dtype float64"),
        ({"out": [[0.0] * 3] * 2}, TypeError, "out must be a NumPy array"),
        ({"out": read_only(np.zeros((2, 3)))}, ValueError, "out is read-only"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    X = np.arange(6.0).reshape(2, 3)
    with pytest.raises(error, match=message):
        fanin.standardize(X, **options)
    if set(options) <= {"mean", "std", "axis", "out", "n_threads"}:
        with pytest.raises(error, match=message):
            fanin.unstandardize(X, **{"mean": 0.0, "std": 1.0, **options})


def test_an_overlapping_out_is_refused():
    memory = np.arange(40.0)
    X = memory[:20].reshape(10, 2)
    before = memory.copy()
    for out in (
        memory[2:22].reshape(10, 2),
        memory[:20].reshape(10, 2)[::-1],
        memory[:20].reshape(2, 10).T,
        memory[:40].reshape(10, 4)[:, ::2],
    ):
        with pytest.raises(ValueError, match="out overlaps X"):
            fanin.standardize(X, out=out)
        with pytest.raises(ValueError, match="out overlaps X"):
            fanin.unstandardize(X, 0.0, 1.0, out=out)
    shared = np.lib.stride_tricks.as_strided(np.zeros(30), (10, 2), (8, 8))
    with pytest.raises(ValueError, match="share memory"):
        fanin.standardize(X, out=shared)
    np.testing.assert_array_equal(memory, before)
    # Interleaved, but without a common element.
    pairs = memory.reshape(20, 2)
    wanted = fanin.standardize(pairs[:, :1].copy())
    fanin.standardize(pairs[:, :1], out=pairs[:, 1:])
    np.testing.assert_array_equal(pairs[:, 1:], wanted)
    # A view of its own that is the same array.
    wanted = fanin.standardize(X.copy())
    fanin.standardize(X, out=memory[:20].reshape(10, 2))
    np.testing.assert_array_equal(X, wanted)


def test_memory_mapped_files(tmp_path, rng):
    base = rng.standard_normal((5_000, 12)).astype(np.float32)
    path = tmp_path / "data.npy"
    np.save(path, base)
    mapped = np.load(path, mmap_mode="r")
    Z, m = fanin.standardize(mapped, return_moments=True)
    assert type(Z) is np.ndarray
    assert m == fanin.moments(base)
    assert np.array_equal(Z, fanin.standardize(base))
    writable = np.load(path, mmap_mode="r+")
    fanin.standardize(writable, out=writable)
    writable.flush()
    assert np.array_equal(np.load(path), Z)


@pytest.mark.parametrize(
    "layout", ["C", "Fortran", "every second column", "byte-swapped"]
)
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.float16])
def test_no_copy_the_size_of_the_data(layout, dtype):
    columns = 100
    X = LAYOUTS[layout](np.ones((100_000, columns), dtype))
    out = np.empty(X.shape, np.float32 if dtype == np.float16 else np.float64)
    fanin.standardize(X, out=out)
    limit = 2**20 + 64 * columns * 2
    assert limit < X.nbytes / 10
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        fanin.standardize(X, out=out, n_threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit
    # The kernels' own buffers do not pass through Python: peak resident memory, in
    # KiB, on a heap that has been used before.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < limit


def test_moments_object():
    X = np.array([[1.0, 5.0, 1e200], [3.0, 5.0, -1e200]])
    m = fanin.moments(X)
    assert m == fanin.moments(X)
    assert m != fanin.moments(X, ddof=1)
    assert m != fanin.moments(X[:, :2])
    assert m != fanin.moments(X + 1e-9)
    assert m != "m"
    assert fanin.moments([np.nan]) == fanin.moments([np.nan])
    with pytest.raises(TypeError, match="unhashable"):
        hash(m)
    text = repr(m)
    assert text.startswith("Moments(count=[2, 2, 2],")
    assert "mean=[2., 5., 0.]" in text
    assert m.var[2] == np.inf
    assert m.std[2] == 1e200
    assert m.count.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        m.mean[0] = 1.0
    assert "Moments(count=3" in repr(fanin.moments([1, 2, 3]))


def test_lists_and_subclasses():
    Z = fanin.standardize([[1, 2], [3, 6]])
    np.testing.assert_array_equal(Z, [[-1, -1], [1, 1]])
    matrix = np.ma.MaskedArray([[1.0], [3.0]])
    assert type(fanin.standardize(matrix)) is np.ndarray


@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    X = np.zeros((2**31 + 8, 1), np.int8)
    X[-1] = 1
    m = fanin.moments(X)
    assert m.count == [2**31 + 8]
    assert m.mean == [1 / (2**31 + 8)]


@pytest.mark.slow
def test_a_result_of_more_than_2_to_the_31_elements():
    """13 GB: halves in, floats out."""
    n = 2**31 + 8
    X = np.zeros((n // 2, 2), np.float16)
    X[-1, 1] = 1
    Z = fanin.standardize(X)
    mean = 2 / n
    std = np.sqrt(mean * (1 - mean))
    assert (Z[:, 0] == 0).all()
    low, high = np.float32((0 - mean) / std), np.float32((1 - mean) / std)
    assert (Z[:-1, 1] == low).all()
    assert Z[-1, 1] == high


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_last_chunk_of_any_size_gives_the_bits_of_the_whole(
    rng, dtype, order, weighted
):
    """Also one so short that it might be taken another way."""
    columns = 40
    probe = np.zeros((100_000, columns), dtype, order=order)
    step = fanin.Moments().block_rows(probe)
    for last in range(1, 17):
        X = np.asarray(rng.standard_normal((step + last, columns), dtype), order=order)
        w = rng.random(len(X)) if weighted else None
        m = fanin.Moments()
        for rows in (slice(0, step), slice(step, None)):
            part = np.asarray(X[rows], order=order)
            m.update(part, weights=None if w is None else w[rows])
        whole = fanin.moments(X, weights=w)
        assert np.array_equal(m._state, whole._state)


def test_a_negative_std_is_refused_beside_a_nan():
    X = [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"std must not be negative; got -1\.0"):
        fanin.standardize(X, mean=[0, 0], std=[np.nan, -1.0])
    with pytest.raises(ValueError, match=r"std must not be negative; got -1\.0"):
        fanin.unstandardize(X, [0, 0], [np.nan, -1.0])


def test_too_few_values_for_ddof_give_nan_at_any_magnitude():
    for size in (1.0, 1e200, 1e-200):
        Z = fanin.standardize(np.array([[size], [-size]]), ddof=2)
        assert np.isnan(Z).all()


def test_stored_values_may_lie_anywhere():
    stored = np.zeros(17, np.uint8)[1:].view(np.float64)
    assert not stored.flags.aligned
    stored[:] = [1, 2]
    X = np.arange(60.0).reshape(30, 2)
    Z = fanin.standardize(X, mean=stored, std=stored)
    assert np.array_equal(Z, (X - stored) / stored)


def test_masks_are_not_silently_dropped():
    X = np.ma.masked_array([[1.0], [2.0], [30.0]], mask=[[0], [0], [1]])
    with pytest.raises(TypeError, match="X is a masked array"):
        fanin.moments(X)
    assert fanin.moments(X.filled(np.nan)).mean == 1.5
    assert fanin.moments(np.ma.masked_array([1.0, 3.0])).mean == 2.0


def test_ddof_is_named_on_the_short_path_too():
    stored = {"mean": np.zeros(2), "std": np.ones(2)}
    with pytest.raises(TypeError, match="ddof"):
        fanin.standardize(np.ones((1, 2)), **stored, ddof=np.array([0, 0]))
