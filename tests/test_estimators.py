"""fanin.estimators, beyond what scikit-learn's own tests ask of the two."""

from __future__ import annotations

import copy
import math
import pickle
import re
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.5")

import sklearn.preprocessing
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import fanin
import fanin.estimators
from fanin.estimators import StandardScaler, scale

THEIRS = sklearn.preprocessing.StandardScaler

# scikit-learn's variance and mean may be off by some hundred roundings of a double,
# and its float32 results by a few of a float32.
CLOSE = {
    "float64": {"rtol": 1e-12, "atol": 1e-12},
    "float32": {"rtol": 1e-5, "atol": 1e-5},
}


def data(rng, n=200, k=4):
    return rng.standard_normal((n, k)) * [1.0, 10.0, 0.1, 3.0][:k] + 5.0


def error(found, wanted):
    """Relative error of a double against a fraction."""
    if wanted == 0:
        return 0.0 if found == 0 else math.inf
    return float(abs(Fraction(float(found)) - wanted) / abs(wanted))


def exact(column):
    values = [Fraction(float(v)) for v in column]
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


def assert_same_state(a, b):
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# ---------------------------------------------------------------- import and module


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_fanin_does_not_import_scikit_learn():
    code = (
        "import sys, fanin\n"
        "assert 'sklearn' not in sys.modules and 'scipy' not in sys.modules\n"
        "assert fanin.estimators.StandardScaler().copy\n"
        "assert 'sklearn' in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_without_scikit_learn_the_error_names_the_extra():
    code = "import sys\nsys.modules['sklearn'] = None\nimport fanin.estimators"
    done = run_python(code)
    assert done.returncode != 0
    assert "ImportError: fanin.estimators needs scikit-learn" in done.stderr
    assert 'pip install "fanin[sklearn]"' in done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'fanin' has no attribute 'nothing'"):
        fanin.nothing  # noqa: B018


# ---------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
@pytest.mark.parametrize("nan", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_attributes_and_results_are_scikit_learns(
    rng, dtype, with_mean, with_std, nan, weights
):
    X = data(rng).astype(dtype)
    if nan:
        X[rng.random(X.shape) < 0.1] = np.nan
    w = rng.random(len(X)).astype(dtype).astype("float64") if weights else None
    options = {"with_mean": with_mean, "with_std": with_std}
    ours = StandardScaler(**options).fit(X, sample_weight=w)
    theirs = THEIRS(**options).fit(X.astype("float64"), sample_weight=w)
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if b is None:
            assert a is None
            continue
        np.testing.assert_allclose(a, b, rtol=1e-12)
        assert np.shape(a) == np.shape(b)
        if name != "n_samples_seen_":
            assert a.dtype == b.dtype == np.float64
            assert a.flags.writeable
    # An integer, as scikit-learn documents it (some of its versions give a float).
    kind = np.asarray(ours.n_samples_seen_).dtype.kind
    assert kind == ("f" if weights else "i")
    Z = ours.transform(X)
    wanted = theirs.transform(X.astype("float64"))
    assert Z.dtype == X.dtype
    np.testing.assert_allclose(Z, wanted, **CLOSE[dtype])
    again = StandardScaler(**options).fit_transform(X, sample_weight=w)
    np.testing.assert_array_equal(again, Z)
    back = ours.inverse_transform(Z)
    assert back.dtype == X.dtype
    np.testing.assert_allclose(back, X, **CLOSE[dtype])


@pytest.mark.parametrize(
    "dtype", ["float16", "int8", "int64", "uint16", "bool", ">f8", ">f4", "longdouble"]
)
def test_other_dtypes_come_out_as_scikit_learns(rng, dtype):
    X = (rng.random((70_000, 2)) * 3).astype(dtype)
    wanted = THEIRS().fit_transform(X)
    for copy_ in (True, False):
        Y = X.copy()
        Z = StandardScaler(copy=copy_).fit_transform(Y)
        assert Z.dtype == wanted.dtype
        # Three times the spacing of float16 where the values lie, below 4.
        tolerance = 3 * 2**-9 if dtype == "float16" else 1e-12
        np.testing.assert_allclose(
            Z.astype("f8"), wanted.astype("f8"), rtol=0, atol=tolerance
        )
        scaler = StandardScaler(copy=copy_).fit(X)
        np.testing.assert_array_equal(scaler.transform(X.copy()), Z)
        assert scaler.inverse_transform(Z.copy()).dtype == wanted.dtype
        if copy_:
            np.testing.assert_array_equal(Y, X)
        elif dtype == "float16":
            np.testing.assert_array_equal(Y, Z)


def test_float16_is_written_in_place_and_along_either_axis(rng):
    X = rng.random((300, 7)).astype("float16")
    for axis in (0, 1):
        Y = X.copy()
        assert scale(Y, axis=axis, copy=False) is Y
        wanted = fanin.standardize(X, axis=axis).astype("float16")
        # Results of float32 that were rounded once; its own rounding may tip that.
        np.testing.assert_allclose(Y, wanted, rtol=2**-10, atol=2**-16)


def test_lists_are_taken_and_left_alone():
    X = [[1.0, 2.0], [3.0, 6.0]]
    Z = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(Z, [[-1, -1], [1, 1]])
    assert X == [[1.0, 2.0], [3.0, 6.0]]


class Wrapped:
    """An object that gives out its own array."""

    def __init__(self, values):
        self.values = values
        self.shape = values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype, copy=False)

    def __len__(self):
        return len(self.values)


def test_the_array_inside_an_array_like_is_left_alone(rng):
    X = data(rng)
    inside = X.copy()
    StandardScaler().fit_transform(Wrapped(inside))
    scale(Wrapped(inside))
    np.testing.assert_array_equal(inside, X)


# ---------------------------------------------------------------- precision and range


def test_float32_is_centred_with_the_mean_in_double():
    X = (2.0**24 + np.arange(0, 16, 2)).astype("float32")[:, None]
    for Z in (
        StandardScaler().fit_transform(X),
        StandardScaler().fit(X).transform(X),
        scale(X),
    ):
        assert Z.dtype == np.float32
        assert Z.sum(dtype=np.float64) == 0.0
        assert Z[0] == -Z[-1]


def peers_data(name):
    rng = np.random.default_rng(12)
    if name == "alternating":
        return np.array([10000000.2] + [10000000.1, 10000000.3] * 500)[:, None]
    if name == "wild":
        rows = rng.standard_normal((100, 20))
        return rows * rng.uniform(1e3, 1e6, 20) + rng.uniform(-1e15, 1e15, 20)
    return np.r_[np.full(5000, 1e8), np.full(5000, math.log(1e-5))][:, None]


def batches(X, size):
    return [X[i : i + size] for i in range(0, len(X), size)]


@pytest.mark.parametrize("name", ["alternating", "wild", "step"])
@pytest.mark.parametrize("way", ["rows", "tens", "merged", "added", "weighted"])
def test_variance_has_14_digits_however_the_data_is_cut(name, way):
    X = peers_data(name)
    if way == "merged":
        scaler = StandardScaler().fit(X[:7])
        for part in batches(X[7:], 31):
            scaler.merge(StandardScaler().fit(part))
    elif way == "added":
        parts = [StandardScaler().fit(part) for part in batches(X, 97)]
        scaler = parts[-1]
        for part in parts[:-1]:
            scaler = part + scaler
    else:
        scaler = StandardScaler()
        for part in batches(X, 1 if way == "rows" else 10):
            weights = np.ones(len(part)) if way == "weighted" else None
            scaler.partial_fit(part, sample_weight=weights)
    assert scaler.n_samples_seen_ == len(X)
    for c in {0, X.shape[1] - 1}:
        mean, var = exact(X[:, c])
        assert error(scaler.var_[c], var) < 1e-14
        # Once rounded, but for what the merges of two-word means leave.
        assert error(scaler.mean_[c], mean) <= 2**-52


def test_rows_by_rows_is_the_whole_to_14_digits(rng):
    X = 1e9 + data(rng, 500)
    X[rng.random(X.shape) < 0.05] = np.nan
    w = rng.random(len(X))
    whole = StandardScaler().fit(X, sample_weight=w)
    stream = StandardScaler()
    for i in range(len(X)):
        stream.partial_fit(X[i : i + 1], sample_weight=w[i : i + 1])
    np.testing.assert_allclose(stream.var_, whole.var_, rtol=1e-14)
    np.testing.assert_allclose(stream.n_samples_seen_, whole.n_samples_seen_, 1e-15)


def test_constants_of_1e305_are_scaled_without_a_warning():
    X = np.full((4000, 2), 1e305)
    stream = StandardScaler()
    for part in batches(X, 100):
        stream.partial_fit(part)
    for scaler in (StandardScaler().fit(X), stream):
        np.testing.assert_array_equal(scaler.mean_, 1e305)
        np.testing.assert_array_equal(scaler.var_, 0.0)
        np.testing.assert_array_equal(scaler.scale_, 1.0)
        np.testing.assert_array_equal(scaler.transform(X), 0.0)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e-310])
def test_scale_is_right_where_the_variance_overflows_or_underflows(size):
    X = np.array([[-size], [size]] * 50)
    scaler = StandardScaler().fit(X)
    np.testing.assert_allclose(scaler.scale_, size, rtol=1e-14)
    np.testing.assert_allclose(scaler.transform(X), np.sign(X), rtol=1e-14)
    np.testing.assert_allclose(scale(X), np.sign(X), rtol=1e-14)


def test_nearly_constant_features_follow_scikit_learns_rule():
    n, eps = 100, np.finfo(float).eps
    edge = n * eps  # of the standard deviation, where the mean is 1
    for factor, nearly in ((0.5, True), (0.9, True), (1.2, False), (2.0, False)):
        X = np.ones((n, 1))
        X[::2] += factor * edge
        X[1::2] -= factor * edge
        ours, theirs = StandardScaler().fit(X), THEIRS().fit(X)
        assert (ours.scale_[0] == 1.0) == nearly
        np.testing.assert_allclose(ours.scale_, theirs.scale_, rtol=1e-3)
        assert ours.var_[0] > 0


def test_a_feature_without_values_gets_some_later(rng):
    X = data(rng)
    empty = X.copy()
    empty[:, 0] = np.nan
    scaler = StandardScaler().fit(empty)
    assert np.isnan(scaler.mean_[0])
    assert np.isnan(scaler.transform(X)[:, 0]).all()
    np.testing.assert_array_equal(scaler.n_samples_seen_, [0, 200, 200, 200])
    scaler.partial_fit(X)
    np.testing.assert_allclose(scaler.mean_, np.mean(X, axis=0), rtol=1e-14)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_result_does_not_depend_on_the_number_of_threads(rng, n_threads):
    X = data(rng, 60_000)
    one, many = StandardScaler(n_threads=1), StandardScaler(n_threads=n_threads)
    np.testing.assert_array_equal(one.fit_transform(X), many.fit_transform(X))
    assert_same_state(one, many)
    np.testing.assert_array_equal(one.inverse_transform(X), many.inverse_transform(X))
    np.testing.assert_array_equal(scale(X, n_threads=1), scale(X, n_threads=n_threads))


# ---------------------------------------------------------------- infinite values


@pytest.mark.parametrize("n", [10, 40_000])  # below and above SMALL
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("nan", [False, True])
def test_infinite_values_are_refused_as_scikit_learn_does(rng, n, dtype, bad, nan):
    good = rng.random((n, 3)).astype(dtype)
    X = good.copy()
    if nan:
        X[::3, 1] = good[::3, 1] = np.nan
    X[n // 2, 1 if nan else 2] = bad
    theirs = THEIRS().fit(good)
    fitted = StandardScaler(copy=False).fit(good)
    state = copy.deepcopy(fitted)
    calls = {
        "fit": lambda scaler, X: clone(scaler).fit(X),
        "fit_transform": lambda scaler, X: clone(scaler).fit_transform(X),
        "partial_fit": lambda scaler, X: scaler.partial_fit(X),
        "transform": lambda scaler, X: scaler.transform(X),
        "inverse_transform": lambda scaler, X: scaler.inverse_transform(X),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match="infinity") as wanted:
            call(theirs, X)
        before = X.copy()
        with pytest.raises(ValueError, match=re.escape(str(wanted.value))):
            call(fitted, X)
        np.testing.assert_array_equal(X, before)
    assert_same_state(fitted, state)
    with pytest.raises(ValueError, match="infinity") as wanted:
        sklearn.preprocessing.scale(X)
    with pytest.raises(ValueError, match=re.escape(str(wanted.value))):
        scale(X, copy=False)
    np.testing.assert_array_equal(X, before)


def test_a_failed_first_fit_leaves_the_scaler_unfitted():
    scaler = StandardScaler()
    with pytest.raises(ValueError, match="infinity"):
        scaler.fit([[1.0, np.inf]])
    assert vars(scaler) == vars(StandardScaler())
    with pytest.raises(NotFittedError):
        scaler.transform([[1.0, 2.0]])


def test_an_infinite_value_of_weight_zero_is_refused_as_well():
    X = np.array([[1.0], [np.inf], [2.0]])
    with pytest.raises(ValueError, match="infinity"):
        StandardScaler().fit(X, sample_weight=[1.0, 0.0, 1.0])


def test_assume_finite_lets_infinite_values_pass():
    X = np.array([[1.0, 1.0], [np.inf, 3.0]])
    with sklearn.config_context(assume_finite=True):
        Z = StandardScaler().fit(X).transform(X)
    np.testing.assert_array_equal(Z[:, 1], [-1, 1])


def test_sums_that_overflow_are_no_infinite_values():
    X = np.full((10, 2), 1.7e308)
    np.testing.assert_array_equal(StandardScaler().fit(X).transform(X), 0.0)
    X = np.full((10, 2), 3e38, "float32")
    np.testing.assert_array_equal(StandardScaler().fit_transform(X), 0.0)


# ---------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        np.zeros(3),
        np.array(1.0),
        np.zeros((2, 3, 4)),
        np.zeros((2, 3), complex),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([[object(), 1.0]]),
        np.asarray([[1.0, 2.0]]).view(np.matrix),
        [[1.0, 2.0], [3.0]],
        None,
        "text",
    ],
    ids=lambda X: f"{type(X).__name__}{getattr(X, 'shape', '')}",
)
def test_what_scikit_learn_refuses_is_refused_with_its_message(X):
    for method in ("fit", "fit_transform", "transform", "inverse_transform"):
        ours = StandardScaler().fit(np.arange(6.0).reshape(2, 3))
        theirs = THEIRS().fit(np.arange(6.0).reshape(2, 3))
        with pytest.raises((ValueError, TypeError)) as wanted:
            getattr(theirs, method)(X)
        with pytest.raises(type(wanted.value)) as found:
            getattr(ours, method)(X)
        assert str(found.value) == str(wanted.value)


def test_another_number_of_features_is_refused(rng):
    scaler = StandardScaler().fit(data(rng))
    message = "X has 3 features, but StandardScaler is expecting 4 features as input"
    for method in ("transform", "partial_fit", "inverse_transform"):
        with pytest.raises(ValueError, match=message):
            getattr(scaler, method)(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -1.0, 1.0], "Negative values"),
        ([1.0, np.nan, 1.0], "NaN"),
        ([1.0, np.inf, 1.0], "infinity"),
        ([1.0, 1.0], "shape"),
        ([[1.0], [1.0], [1.0]], "1D array"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        StandardScaler().fit(np.arange(6.0).reshape(3, 2), sample_weight=weights)


def test_a_weight_of_two_is_a_repeated_row(rng):
    X = data(rng, 50)
    w = rng.integers(0, 4, 50)
    weighted = StandardScaler().fit(X, sample_weight=w)
    repeated = StandardScaler().fit(np.repeat(X, w, axis=0))
    np.testing.assert_allclose(weighted.var_, repeated.var_, rtol=1e-14)
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, rtol=1e-14)
    assert weighted.n_samples_seen_ == w.sum()


@pytest.mark.parametrize("n_threads", [0, 257, 1.5, "2"])
def test_n_threads_is_validated(n_threads):
    message = "The 'n_threads' parameter of {} must be an int in the range"
    with pytest.raises(ValueError, match=message.format("StandardScaler")):
        StandardScaler(n_threads=n_threads).fit([[1.0]])
    with pytest.raises(ValueError, match=message.format("StandardScaler")):
        StandardScaler(n_threads=n_threads).fit_transform([[1.0]])
    with pytest.raises(ValueError, match=message.format("scale")):
        scale([[1.0]], n_threads=n_threads)


@pytest.mark.parametrize("name", ["copy", "with_mean", "with_std"])
def test_the_other_parameters_are_validated(name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of StandardScaler"):
        StandardScaler(**{name: "yes"}).fit([[1.0]])
    with pytest.raises(ValueError, match=f"The '{name}' parameter of scale"):
        scale([[1.0]], **{name: "yes"})


@pytest.mark.parametrize("name", ["with_mean", "with_std"])
def test_statistics_that_a_fit_did_not_keep_are_missed(name):
    scaler = StandardScaler(with_mean=False, with_std=False).fit([[1.0], [2.0]])
    scaler.set_params(**{name: True})
    for method in ("transform", "inverse_transform"):
        with pytest.raises(NotFittedError, match=f"{name} is True"):
            getattr(scaler, method)([[1.0]])


# ---------------------------------------------------------------- memory


def layouts(X):
    readonly = X.copy()
    readonly.flags.writeable = False
    unaligned = np.empty(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
    unaligned[...] = X
    return {
        "C": X,
        "F": np.asfortranarray(X),
        "every second row": np.repeat(X, 2, axis=0)[::2],
        "every second column": np.repeat(X, 2, axis=1)[:, ::2],
        "backwards": X[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": readonly,
        "unaligned": unaligned,
    }


@pytest.mark.parametrize(
    "layout",
    [
        "C",
        "F",
        "every second row",
        "every second column",
        "backwards",
        "read-only",
        "unaligned",
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_layout_gives_the_same_and_is_left_alone(rng, layout, dtype):
    X = data(rng, 3000).astype(dtype)
    wanted = StandardScaler().fit_transform(X)
    Y = layouts(X)[layout]
    scaler = StandardScaler()
    Z = scaler.fit_transform(Y)
    # Blocks follow the layout: the same to a rounding or two.
    # Layouts have grids of their own: their means may differ by an ulp.
    rtol = 1e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(Z, wanted, rtol=rtol, atol=4e-16)
    np.testing.assert_array_equal(scaler.transform(Y), Z)
    np.testing.assert_array_equal(Y, X)
    in_place = StandardScaler(copy=False).fit(Y).transform(Y)
    np.testing.assert_array_equal(in_place, Z)
    assert (in_place is Y) == (layout != "read-only")


def test_fit_transform_without_copy_writes_over_x(rng):
    X = data(rng)
    wanted = StandardScaler().fit_transform(X)
    scaler = StandardScaler(copy=False)
    Z = scaler.fit_transform(X)
    assert Z is X
    np.testing.assert_array_equal(X, wanted)
    assert scaler.inverse_transform(X) is X
    assert scaler.transform(X, copy=True) is not X
    assert StandardScaler().fit(X).transform(X, copy=False) is X
    assert StandardScaler().fit(X).inverse_transform(X, copy=False) is X


def test_elements_that_share_memory_are_not_written_over(rng):
    X = np.lib.stride_tricks.as_strided(np.arange(10.0), (4, 3), (8, 8))
    before = X.copy()
    Z = StandardScaler(copy=False).fit_transform(X)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(Z, StandardScaler().fit_transform(before))


def test_a_memory_map_is_read_where_it_lies_and_written_if_asked(rng, tmp_path):
    X = data(rng, 1000).astype("float32")
    X.tofile(tmp_path / "x")
    wanted = StandardScaler().fit_transform(X)
    for mode in ("r", "c", "r+"):
        mapped = np.memmap(tmp_path / "x", "float32", mode, shape=X.shape)
        np.testing.assert_array_equal(StandardScaler().fit_transform(mapped), wanted)
    Z = StandardScaler(copy=False).fit_transform(mapped)
    assert np.shares_memory(Z, mapped)
    mapped.flush()
    found = np.fromfile(tmp_path / "x", "float32").reshape(X.shape)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_data_is_not_copied(rng, dtype, order):
    X = np.asarray((rng.random((100_000, 20)) * 100), dtype, order=order)
    scaler = StandardScaler(n_threads=1).fit(X)

    def peak(call):
        tracemalloc.start()
        result = call()  # kept while the peak is taken
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found - (result.nbytes if isinstance(result, np.ndarray) else 0)

    assert peak(lambda: StandardScaler(n_threads=1).fit(X)) < 2**20
    assert peak(lambda: StandardScaler(n_threads=1).fit_transform(X)) < 2**20
    assert peak(lambda: scaler.transform(X)) < 2**20
    assert peak(lambda: scaler.inverse_transform(X)) < 2**20
    assert peak(lambda: scale(X, n_threads=1)) < 2**20


# ---------------------------------------------------------------- frames and names


@pytest.fixture
def frame(rng):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(data(rng), columns=list("abcd"))


def test_a_frame_gives_names_and_takes_them(frame):
    scaler = StandardScaler()
    Z = scaler.fit_transform(frame)
    assert isinstance(Z, np.ndarray)
    np.testing.assert_array_equal(scaler.feature_names_in_, list("abcd"))
    np.testing.assert_array_equal(scaler.get_feature_names_out(), list("abcd"))
    np.testing.assert_array_equal(Z, StandardScaler().fit_transform(frame.to_numpy()))
    with pytest.raises(ValueError, match="feature names should match"):
        scaler.transform(frame[list("abdc")])
    with pytest.raises(ValueError, match="feature names should match"):
        scaler.partial_fit(frame.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        found = scaler.transform(frame.to_numpy())
    np.testing.assert_array_equal(found, Z)


@pytest.mark.parametrize("copy_", [True, False])
def test_set_output_gives_pandas_frames(frame, copy_):
    before = frame.copy()
    scaler = StandardScaler(copy=copy_).set_output(transform="pandas")
    wanted = StandardScaler().fit_transform(frame)
    Z = scaler.fit_transform(frame)
    assert list(Z.columns) == list("abcd")
    assert Z.index.equals(frame.index)
    np.testing.assert_array_equal(Z.to_numpy(), wanted)
    if copy_:
        assert frame.equals(before)
        assert scaler.transform(frame).equals(Z)


def test_frames_of_many_dtypes(rng):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "f": rng.random(50).astype("float32"),
            "i": rng.integers(0, 9, 50),
            "b": rng.random(50) < 0.5,
            "n": pd.array([1, None] * 25, dtype="Int64"),
        }
    )
    before = frame.copy()
    wanted = THEIRS().fit_transform(frame)
    Z = StandardScaler().fit_transform(frame)
    assert Z.dtype == wanted.dtype
    np.testing.assert_allclose(Z, wanted, rtol=1e-12, atol=1e-12)
    assert frame.equals(before)


def test_a_frame_of_sparse_columns_is_a_sparse_matrix():
    pd = pytest.importorskip("pandas")
    S = sparse.random(50, 3, 0.5, format="csr", random_state=0)
    frame = pd.DataFrame.sparse.from_spmatrix(S)
    frame.columns = list("abc")
    ours = StandardScaler(with_mean=False)
    theirs = THEIRS(with_mean=False)
    Z, wanted = ours.fit_transform(frame), theirs.fit_transform(frame)
    assert sparse.issparse(Z)
    np.testing.assert_array_equal(Z.toarray(), wanted.toarray())
    np.testing.assert_array_equal(ours.feature_names_in_, list("abc"))
    assert sparse.issparse(ours.inverse_transform(frame))


def test_polars_frames(rng):
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": rng.random(20), "b": rng.random(20)})
    wanted = StandardScaler().fit_transform(frame.to_numpy())
    scaler = StandardScaler()
    np.testing.assert_array_equal(scaler.fit_transform(frame), wanted)
    if not hasattr(THEIRS().fit(frame), "feature_names_in_"):
        pytest.skip("this scikit-learn does not know the names of this polars")
    np.testing.assert_array_equal(scaler.feature_names_in_, ["a", "b"])
    Z = StandardScaler().set_output(transform="polars").fit_transform(frame)
    assert isinstance(Z, pl.DataFrame)
    assert Z.columns == ["a", "b"]
    np.testing.assert_array_equal(Z.to_numpy(), wanted)


# ---------------------------------------------------------------- sparse


@pytest.mark.parametrize("format_", ["csr", "csc"])
def test_sparse_matrices_are_scaled_and_never_centred(rng, format_):
    S = sparse.random(100, 4, 0.3, format=format_, random_state=0)
    ours = StandardScaler(with_mean=False)
    Z = ours.fit_transform(S)
    assert sparse.issparse(Z)
    np.testing.assert_array_equal(
        Z.toarray(), THEIRS(with_mean=False).fit_transform(S).toarray()
    )
    np.testing.assert_allclose(ours.inverse_transform(Z).toarray(), S.toarray())
    dense = StandardScaler(with_mean=False).fit(S.toarray())
    np.testing.assert_allclose(dense.var_, ours.var_, rtol=1e-12)
    np.testing.assert_array_equal(
        scale(S, with_mean=False).toarray(),
        sklearn.preprocessing.scale(S, with_mean=False).toarray(),
    )
    for call in (StandardScaler().fit, StandardScaler().fit_transform, scale):
        with pytest.raises(ValueError, match="Cannot center sparse matrices"):
            call(S)


def test_dense_and_sparse_batches_may_follow_each_other(rng):
    X = data(rng) * (rng.random((200, 4)) < 0.5)
    scaler = StandardScaler(with_mean=False)
    for i, part in enumerate(batches(X, 40)):
        scaler.partial_fit(sparse.csr_matrix(part) if i % 2 else part)
    wanted = StandardScaler(with_mean=False).fit(X)
    # The sparse steps are scikit-learn's: some roundings each.
    np.testing.assert_allclose(scaler.var_, wanted.var_, rtol=1e-13)
    np.testing.assert_allclose(scaler.mean_, wanted.mean_, rtol=1e-13)
    assert scaler.n_samples_seen_ == 200
    parts = [
        StandardScaler(with_mean=False).fit(sparse.csr_matrix(part))
        for part in batches(X, 100)
    ]
    np.testing.assert_allclose((parts[0] + parts[1]).var_, wanted.var_, rtol=1e-13)


# ---------------------------------------------------------------- merging


def test_scalers_of_parts_add_up_to_that_of_the_whole(rng):
    X = 1e8 + data(rng, 1000)
    X[rng.random(X.shape) < 0.02] = np.nan
    w = rng.random(1000)
    for weights in (None, w):
        whole = StandardScaler().fit(X, sample_weight=weights)
        halves = [slice(0, 137), slice(137, 1000)]
        a, b = (
            StandardScaler().fit(
                X[h], sample_weight=None if weights is None else weights[h]
            )
            for h in halves
        )
        before = copy.deepcopy(a), copy.deepcopy(b)
        total = a + b
        np.testing.assert_allclose(total.var_, whole.var_, rtol=1e-14)
        np.testing.assert_allclose(total.mean_, whole.mean_, rtol=1e-15)
        np.testing.assert_allclose(total.n_samples_seen_, whole.n_samples_seen_, 1e-15)
        assert np.asarray(total.n_samples_seen_).dtype.kind == (
            "i" if weights is None else "f"
        )
        for scaler, old in zip((a, b), before, strict=True):
            assert_same_state(scaler, old)
        assert a.merge(b) is a
        assert_same_state(a, total)
        np.testing.assert_allclose(
            total.transform(X), whole.transform(X), rtol=1e-9, atol=1e-9
        )


def test_a_sum_has_the_parameters_and_settings_of_the_first(frame):
    a = StandardScaler(copy=False, n_threads=1).set_output(transform="pandas")
    total = a.fit(frame.copy()) + StandardScaler().fit(frame)
    assert total.get_params() == a.get_params()
    assert list(total.transform(frame.copy()).columns) == list("abcd")
    np.testing.assert_array_equal(total.feature_names_in_, list("abcd"))
    assert total.n_features_in_ == 4
    assert type(total) is StandardScaler


def test_merging_needs_the_same_feature_names(frame):
    a = StandardScaler().fit(frame)
    with pytest.raises(
        ValueError, match=r"only in the first: a; only in the second: z"
    ):
        a + StandardScaler().fit(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="in a different order"):
        a.merge(StandardScaler().fit(frame[list("abdc")]))
    nameless = StandardScaler().fit(frame.to_numpy())
    for one, two in ((a, nameless), (nameless, a)):
        with pytest.warns(UserWarning, match="only one of the two"):
            total = one + two
        np.testing.assert_array_equal(total.feature_names_in_, list("abcd"))
    assert a.n_samples_seen_ == 200


def test_merging_refuses_what_does_not_fit(rng):
    X = data(rng)
    a = StandardScaler().fit(X)
    with pytest.raises(ValueError, match="got 4 and 3 of them"):
        a.merge(StandardScaler().fit(X[:, :3]))
    with pytest.raises(ValueError, match="if with_std is the same; got True and False"):
        a + StandardScaler(with_std=False).fit(X)
    with pytest.raises(ValueError, match="if with_mean is the same"):
        a + StandardScaler(with_mean=False).fit(X)
    with pytest.raises(TypeError, match="must be a fitted StandardScaler; got int"):
        a.merge(1)
    with pytest.raises(TypeError, match="unsupported operand"):
        a + 1
    for one, two in ((a, StandardScaler()), (StandardScaler(), a)):
        with pytest.raises(NotFittedError):
            one + two
        with pytest.raises(NotFittedError):
            one.merge(two)


def test_a_scaler_merges_with_itself_and_with_scikit_learns(rng):
    X = data(rng)
    a = StandardScaler().fit(X)
    twice = a + a
    assert twice.n_samples_seen_ == 400
    np.testing.assert_allclose(twice.var_, a.var_, rtol=1e-15)
    total = a + THEIRS().fit(X[:50])
    wanted = StandardScaler().fit(np.vstack([X, X[:50]]))
    np.testing.assert_allclose(total.var_, wanted.var_, rtol=1e-12)
    assert total.n_samples_seen_ == 250


@pytest.mark.parametrize(
    "options", [{"with_std": False}, {"with_mean": False, "with_std": False}]
)
def test_scalers_without_all_statistics_merge(rng, options):
    X = data(rng)
    X[3, 0] = np.nan
    total = StandardScaler(**options).fit(X[:90]) + StandardScaler(**options).fit(
        X[90:]
    )
    whole = StandardScaler(**options).fit(X)
    np.testing.assert_array_equal(total.n_samples_seen_, whole.n_samples_seen_)
    assert total.var_ is None
    assert total.scale_ is None
    if "with_mean" in options:
        assert total.mean_ is None
    else:
        np.testing.assert_allclose(total.mean_, whole.mean_, rtol=1e-15)


# ---------------------------------------------------------------- state


def test_pickle_and_deepcopy_keep_every_digit(rng):
    X = 1e9 + data(rng)
    scaler = StandardScaler(n_threads=1).fit(X[:100])
    again = pickle.loads(pickle.dumps(scaler))
    twin = copy.deepcopy(scaler)
    assert_same_state(again, scaler)
    assert again.get_params() == scaler.get_params()
    for one in (scaler, again, twin):
        one.partial_fit(X[100:])
    assert_same_state(again, scaler)
    assert_same_state(twin, scaler)
    np.testing.assert_array_equal(again.transform(X), scaler.transform(X))


@pytest.mark.parametrize("nan", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_state_without_the_moments_goes_on_from_the_attributes(rng, nan, weights):
    X = data(rng)
    if nan:
        X[rng.random(X.shape) < 0.1] = np.nan
        X[:100, 0] = np.nan
    w = rng.random(200) if weights else None
    first, second = slice(0, 100), slice(100, 200)

    def part(s):
        return {"sample_weight": None if w is None else w[s]}

    whole = StandardScaler().fit(X, sample_weight=w)
    scaler = StandardScaler().fit(X[first], **part(first))
    state = scaler.__getstate__()
    del state["_moments"]
    old = StandardScaler()
    old.__setstate__(state)
    # Also the attributes of scikit-learn's class (which warns of the empty feature).
    with np.errstate(invalid="ignore"):
        theirs = THEIRS().fit(X[first], **part(first))
    other = StandardScaler()
    vars(other).update(vars(theirs))
    for one in (old, other):
        one.partial_fit(X[second], **part(second))
        np.testing.assert_allclose(one.var_, whole.var_, rtol=1e-12)
        np.testing.assert_allclose(one.mean_, whole.mean_, rtol=1e-12)
        np.testing.assert_allclose(one.n_samples_seen_, whole.n_samples_seen_, 1e-12)


def test_attributes_that_are_set_by_hand_rule(rng):
    X = data(rng)
    scaler = StandardScaler().fit(X)
    scaler.mean_ = np.zeros(4)
    scaler.scale_ = np.full(4, 2.0)
    np.testing.assert_array_equal(scaler.transform(X), X / 2)
    scaler.n_samples_seen_ = 1
    scaler.var_ = np.zeros(4)
    scaler.partial_fit(np.full((1, 4), 2.0))
    np.testing.assert_array_equal(scaler.mean_, 1.0)
    np.testing.assert_array_equal(scaler.var_, 1.0)
    made = StandardScaler()
    made.mean_, made.scale_ = np.zeros(4), np.full(4, 2.0)
    np.testing.assert_array_equal(made.transform(X), X / 2)


def test_a_clone_is_unfitted_and_equal_in_parameters(rng):
    scaler = StandardScaler(copy=False, with_mean=False, n_threads=2).fit(data(rng))
    twin = clone(scaler)
    assert twin.get_params() == {
        "copy": False,
        "n_threads": 2,
        "with_mean": False,
        "with_std": True,
    }
    with pytest.raises(NotFittedError, match="This StandardScaler instance is not"):
        twin.transform([[1.0]])
    with pytest.raises(NotFittedError):
        twin.inverse_transform([[1.0]])


def test_a_new_fit_forgets_the_old_one(rng):
    X = data(rng)
    scaler = StandardScaler().fit(X).fit(X[:10, :2])
    assert_same_state(scaler, StandardScaler().fit(X[:10, :2]))
    assert scaler.fit_transform(X).shape == X.shape
    assert scaler.n_samples_seen_ == 200


def test_a_subclass_that_overrides_transform_is_asked(rng):
    class Doubled(StandardScaler):
        def transform(self, X, copy=None):
            return 2 * super().transform(X, copy)

    X = data(rng)
    wanted = 2 * StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(Doubled().fit_transform(X), wanted)


# ---------------------------------------------------------------- within scikit-learn


def test_it_is_scikit_learns_class_to_those_who_ask():
    assert issubclass(StandardScaler, THEIRS)
    assert repr(StandardScaler(n_threads=2)) == "StandardScaler(n_threads=2)"
    html = StandardScaler(n_threads=2)._repr_html_()
    assert "StandardScaler" in html
    assert "n_threads" in html


def test_in_a_pipeline_and_a_column_transformer(frame):
    y = (frame["a"] > frame["a"].median()).to_numpy()
    ours = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, y)
    theirs = make_pipeline(THEIRS(), LogisticRegression()).fit(frame, y)
    np.testing.assert_allclose(
        ours.predict_proba(frame), theirs.predict_proba(frame), rtol=1e-6
    )
    both = ColumnTransformer(
        [
            ("one", StandardScaler(), ["a"]),
            ("two", StandardScaler(with_std=False), ["b", "c"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    Z = both.fit_transform(frame)
    assert list(Z.columns) == ["a", "b", "c"]
    np.testing.assert_allclose(Z.mean(), 0.0, atol=1e-13)
    np.testing.assert_allclose(Z["a"].std(ddof=0), 1.0)


def test_weights_are_routed(rng):
    X = data(rng)
    w = rng.random(200)
    y = X[:, 0] > 5
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        model = LogisticRegression().set_fit_request(sample_weight=False)
        pipe = make_pipeline(scaler, model).fit(X, y, sample_weight=w)
        with pytest.raises(Exception, match="sample_weight"):
            make_pipeline(StandardScaler(), LogisticRegression()).fit(
                X, y, sample_weight=w
            )
    wanted = StandardScaler().fit(X, sample_weight=w)
    assert_same_state(pipe[0], wanted)


def test_fit_transform_takes_what_fit_takes(rng):
    X = data(rng)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        StandardScaler().fit_transform(X, weights=np.ones(200))
    np.testing.assert_array_equal(
        StandardScaler().fit_transform(X, np.ones(200)), scale(X)
    )


# ---------------------------------------------------------------- scale


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_scale_is_scikit_learns(rng, axis, with_mean, with_std):
    X = data(rng)
    X[rng.random(X.shape) < 0.1] = np.nan
    options = {"axis": axis, "with_mean": with_mean, "with_std": with_std}
    before = X.copy()
    Z = scale(X, **options)
    np.testing.assert_array_equal(X, before)
    wanted = sklearn.preprocessing.scale(X, **options)
    np.testing.assert_allclose(Z, wanted, rtol=1e-12, atol=1e-12)
    assert scale(X, copy=False, **options) is X
    np.testing.assert_array_equal(X, Z)


def test_scale_agrees_with_the_scaler_also_for_tiny_values(rng):
    X = data(rng) * 1e-20
    np.testing.assert_array_equal(scale(X), StandardScaler().fit_transform(X))
    np.testing.assert_allclose(np.std(scale(X), axis=0), 1.0)


def test_scale_takes_one_dimension_and_frames(frame):
    np.testing.assert_allclose(scale([1.0, 3.0]), [-1.0, 1.0])
    np.testing.assert_array_equal(scale(frame), scale(frame.to_numpy()))
    np.testing.assert_array_equal(scale(frame["a"]), scale(frame[["a"]])[:, 0])
    with pytest.raises(ValueError, match="axis 1"):
        scale([1.0, 3.0], axis=1)


def test_scale_warns_of_a_constant_as_scikit_learn_does():
    X = np.full((10, 3), [1.0, 0.0, 1e100])
    with pytest.warns(UserWarning, match="too large values"):
        np.testing.assert_array_equal(scale(X), 0.0)
    with pytest.warns(UserWarning, match="too large values"):
        scale(X.T, axis=1)


def test_statistics_whose_square_leaves_the_range_are_rebuilt_from_scale() -> None:
    for size in (1e200, 1e-200):
        scaler = StandardScaler().fit([[size], [3 * size]])
        wanted = StandardScaler().fit([[size], [3 * size]] * 2)
        del scaler.__dict__["_moments"]
        scaler.partial_fit([[size], [3 * size]])
        np.testing.assert_allclose(scaler.scale_, wanted.scale_, rtol=1e-14)
        np.testing.assert_allclose(scaler.mean_, wanted.mean_, rtol=1e-14)


def test_infinite_statistics_are_not_merged() -> None:
    other = sklearn.preprocessing.StandardScaler()
    with np.errstate(all="ignore"):
        other.fit([[1e200], [-1e200]])
    assert np.isinf(other.var_)
    with pytest.raises(ValueError, match="infinite var_"):
        StandardScaler().fit([[1e200], [-1e200]]).merge(other)
