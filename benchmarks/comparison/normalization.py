"""Rows of `fanin.standardize`, `fanin.moments` and the scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

import fanin
from comparison.model import (
    Contender,
    Contenders,
    Row,
    Session,
    require,
    sum_error,
    unit_roundoff,
)

MEAN, STD = 3.0, 2.0  # of the data: an offset, as real features have
ROWS_AT_ONCE = 1 << 14


def make_data(n_samples: int, n_features: int, dtype: Any, order: str) -> Any:
    rng = np.random.default_rng(1)
    X = np.empty((n_samples, n_features), dtype, order=order)
    for start in range(0, n_samples, ROWS_AT_ONCE):
        block = X[start : start + ROWS_AT_ONCE]
        block[...] = rng.standard_normal(block.shape, dtype) * STD + MEAN
    return X


def reference_moments(X: Any) -> tuple[Any, Any]:
    """Return mean and standard deviation from float64, blocks summed pairwise."""
    blocks = range(0, len(X), ROWS_AT_ONCE)
    rows = [X[i : i + ROWS_AT_ONCE].astype(np.float64) for i in blocks]
    mean = sum(b.sum(axis=0) for b in rows) / len(X)
    return mean, np.sqrt(sum(((b - mean) ** 2).sum(axis=0) for b in rows) / len(X))


def tolerance(n_samples: int, dtype: Any, sums: Any) -> float:
    """Return what an element of Z may be off by, for sums kept in dtype `sums`.

    The mean and the standard deviation carry the error of their sums, relative to
    the size of what is summed, |x| <= |mean| + 6 std in all but some 1e-9 of the
    data; the subtraction and the division round each to `dtype`.
    """
    size = (2 * MEAN + 6 * STD) / STD
    return size * (2 * sum_error(n_samples, sums) + 4 * unit_roundoff(dtype))


def check_standardized(X: Any, mean: Any, std: Any, allowed: float, Z: Any) -> None:
    Z = np.asarray(Z)
    require(float(Z.shape != X.shape), 0, f"shape {Z.shape}")
    require(float(Z.dtype != X.dtype), 0, f"dtype {Z.dtype}")
    for start in range(0, len(X), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        difference = X[rows].astype(np.float64)
        difference -= mean
        difference /= std
        difference -= Z[rows]
        np.abs(difference, out=difference)
        # Block by block: the largest of a NaN and a number is either, in Python.
        require(
            float(difference.max()), allowed, f"a difference in rows {start} and on"
        )


def numpy_moments(X: Any) -> tuple[Any, Any]:
    return X.mean(axis=0), X.var(axis=0)


def expression(X: Any) -> Any:
    """Standardize as it is written; X.std makes an array of its own."""
    return (X - X.mean(axis=0)) / X.std(axis=0)


def numpy_standardize(X: Any) -> Any:
    """Standardize in three passes and one array."""
    Z = np.subtract(X, X.mean(axis=0))
    variance = np.einsum("ij,ij->j", Z, Z)
    variance /= len(X)
    Z /= np.sqrt(variance)
    return Z


def standardize(
    n_samples: int,
    n_features: int,
    dtype: Any,
    order: str,
    given: bool,
    session: Session,
) -> Contenders:
    X = make_data(n_samples, n_features, dtype, order)
    mean, std = reference_moments(X)
    target = np.empty_like(X)
    out = np.empty_like(X) if given else None
    by_numpy = expression if given else numpy_standardize

    def checked(sums: Any) -> Callable[[Any], None]:
        allowed = tolerance(n_samples, dtype, sums)
        return partial(check_standardized, X, mean, std, allowed)

    yield "floor", Contender(lambda: np.copyto(target, X))
    double = checked(np.float64)
    single = checked(dtype)
    yield "fanin", Contender(lambda: fanin.standardize(X, out=out), double)
    yield "NumPy", Contender(lambda: by_numpy(X), single)
    if session.has("scikit-learn"):
        from sklearn.preprocessing import StandardScaler

        yield (
            "scikit-learn",
            Contender(lambda: StandardScaler().fit_transform(X), double),
        )
    if given:
        return
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        tensor = torch.from_numpy(X)

        # Faster than mean and std followed by arithmetic. It wants an epsilon; this
        # one is lost in the variance.
        def batch_norm() -> Any:
            with torch.inference_mode():
                return torch.nn.functional.batch_norm(
                    tensor, None, None, training=True, eps=1e-30
                )

        yield "PyTorch", Contender(batch_norm, lambda Z: single(Z.numpy()))
    if session.has("JAX") and order == "C":  # JAX's arrays have no order to choose
        jax = session["JAX"]

        @jax.jit
        def jitted(X: Any) -> Any:
            return (X - X.mean(axis=0)) / X.std(axis=0)

        on_device = jax.device_put(X)
        yield "JAX", Contender(lambda: jitted(on_device).block_until_ready(), single)


def make_view(kind: str, n_samples: int, n_features: int) -> Any:
    """Return a float32 view of this shape of an array that is twice as large."""
    if kind == "transposed":
        return make_data(n_features, n_samples, np.float32, "C").T
    rows = 2 if kind == "every second row" else 1
    columns = 2 if kind == "every second column" else 1
    base = make_data(rows * n_samples, columns * n_features, np.float32, "C")
    return base[::rows, ::columns]


def view(kind: str, n_samples: int, n_features: int, session: Session) -> Contenders:
    X = make_view(kind, n_samples, n_features)
    plain = make_data(n_samples, n_features, np.float32, "C")
    mean, std = reference_moments(X)
    allowed = tolerance(n_samples, np.float32, np.float64)
    out = np.empty_like(X)  # of its order, without its gaps
    target = np.empty_like(plain)
    yield "floor", Contender(lambda: fanin.standardize(plain, out=target))
    yield (
        "fanin",
        Contender(
            lambda: fanin.standardize(X, out=out),
            partial(check_standardized, X, mean, std, allowed),
        ),
    )
    yield "NumPy", Contender(lambda: expression(X))
    if session.has("scikit-learn"):
        from sklearn.preprocessing import StandardScaler

        yield "scikit-learn", Contender(lambda: StandardScaler().fit_transform(X))


def one_thread(n_samples: int, n_features: int, session: Session) -> Contenders:
    X = make_data(n_samples, n_features, np.float32, "C")
    out = np.empty_like(X)
    n = session.n_threads
    yield "floor", Contender(lambda: fanin.standardize(X, out=out, n_threads=n))
    yield "fanin", Contender(lambda: fanin.standardize(X, out=out, n_threads=1))


def one_row(n_features: int, dtype: Any, session: Session) -> Contenders:
    """Put a single row through stored parameters: what serving a model does."""
    rng = np.random.default_rng(3)
    data = rng.standard_normal((100, n_features)) * STD + MEAN
    row = data[:1].astype(dtype)
    mean, std = data.mean(axis=0), data.std(axis=0)
    allowed = tolerance(1, dtype, dtype)
    check = partial(check_standardized, row, mean, std, allowed)
    yield "fanin", Contender(lambda: fanin.standardize(row, mean=mean, std=std), check)
    low, high = mean.astype(dtype), std.astype(dtype)
    yield "NumPy", Contender(lambda: (row - low) / high, check)
    if session.has("scikit-learn"):
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(data)
        yield "scikit-learn", Contender(lambda: scaler.transform(row), check)
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        tensors = [torch.from_numpy(a) for a in (row, low, high)]

        def subtract() -> Any:
            with torch.inference_mode():
                return (tensors[0] - tensors[1]) / tensors[2]

        yield "PyTorch", Contender(subtract, lambda Z: check(Z.numpy()))


def estimator(n_samples: int, n_features: int, session: Session) -> Contenders:
    if not session.has("scikit-learn"):
        return
    from sklearn.preprocessing import StandardScaler

    import fanin.estimators

    X = make_data(n_samples, n_features, np.float32, "C")
    mean, std = reference_moments(X)
    allowed = tolerance(n_samples, np.float32, np.float64)
    check = partial(check_standardized, X, mean, std, allowed)
    target = np.empty_like(X)
    yield "floor", Contender(lambda: np.copyto(target, X))
    for column, module in (
        ("fanin", fanin.estimators.StandardScaler),
        ("scikit-learn", StandardScaler),
    ):
        yield column, Contender(partial(fit_transform, module, X), check)


def fit_transform(scaler: Any, X: Any) -> Any:
    return scaler().fit_transform(X)


def moments(
    n_samples: int, n_features: int, dtype: Any, order: str, session: Session
) -> Contenders:
    X = make_data(n_samples, n_features, dtype, order)
    mean, std = reference_moments(X)

    def checked(sums: Any) -> Callable[[tuple[Any, Any]], None]:
        allowed = tolerance(n_samples, sums, sums)

        def check(found: tuple[Any, Any]) -> None:
            m, v = (np.asarray(a, np.float64) for a in found)
            require(float(np.abs((m - mean) / std).max()), allowed, "mean")
            require(float(np.abs(v / std**2 - 1).max()), 2 * allowed, "variance")

        return check

    def own() -> tuple[Any, Any]:
        m = fanin.moments(X)
        return m.mean, m.var

    # The largest value of each part, a part a thread: the fastest that NumPy reads.
    parts = np.array_split(X.ravel(order="K"), session.n_threads)
    pool = ThreadPoolExecutor(session.n_threads)
    yield "floor", Contender(lambda: list(pool.map(np.max, parts)))
    yield "fanin", Contender(own, checked(np.float64))
    yield "NumPy", Contender(lambda: numpy_moments(X), checked(dtype))
    if session.has("scikit-learn"):
        from sklearn.preprocessing import StandardScaler

        def fit() -> tuple[Any, Any]:
            scaler = StandardScaler().fit(X)
            return scaler.mean_, scaler.var_

        yield "scikit-learn", Contender(fit, checked(np.float64))
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        tensor = torch.from_numpy(X)

        def var_mean() -> tuple[Any, Any]:
            variance, average = torch.var_mean(tensor, 0, correction=0)
            return average, variance

        yield "PyTorch", Contender(var_mean, checked(dtype))
    if session.has("JAX") and order == "C":
        jax = session["JAX"]
        jitted = jax.jit(lambda X: (X.mean(axis=0), X.var(axis=0)))
        on_device = jax.device_put(X)
        yield (
            "JAX",
            Contender(lambda: jax.block_until_ready(jitted(on_device)), checked(dtype)),
        )


def rows() -> list[Row]:
    f4, f8 = np.float32, np.float64
    found = []
    large = [(1_000_000, 50), (100_000, 1000)]
    for n, p, dtype, order, given in [
        *((n, p, d, o, True) for n, p in large for d in (f4, f8) for o in "CF"),
        (1_000_000, 50, f4, "C", False),
        (1_000_000, 50, f4, "F", False),
        (1_000_000, 50, f8, "C", False),
        (100_000, 1000, f4, "C", False),
        (1000, 20, f4, "C", False),
        (1000, 20, f4, "C", True),
        (1000, 20, f4, "F", False),
        (1000, 20, f4, "F", True),
    ]:
        name = f"standardize {n:,}×{p} {np.dtype(dtype).name}"
        name += ", Fortran order" * (order == "F") + ", out= given" * given
        note = "floor: copyto"
        if given:
            note += "; NumPy: (X - X.mean(axis=0)) / X.std(axis=0), and scikit-learn: "
            note += "fit_transform, into new arrays"
        found.append(Row(name, partial(standardize, n, p, dtype, order, given), note))
    for n, p in large:
        for kind in ("every second row", "every second column", "transposed"):
            name = f"standardize {n:,}×{p} float32, {kind}, out= given"
            note = "floor: fanin on a contiguous array of the same shape"
            found.append(Row(name, partial(view, kind, n, p), note))
    for n, p in large:
        name = f"standardize {n:,}×{p} float32, out= given, on one thread"
        note = "floor: fanin on all threads"
        found.append(Row(name, partial(one_thread, n, p), note))
    for dtype in (f4, f8):
        name = f"standardize one row of 64 {np.dtype(dtype).name}, stored mean and std"
        found.append(Row(name, partial(one_row, 64, dtype)))
    found.append(
        Row(
            "StandardScaler().fit_transform 1,000,000×50 float32",
            partial(estimator, 1_000_000, 50),
            "floor: copyto",
        )
    )
    for n, p, dtype, order in [
        (1_000_000, 50, f4, "C"),
        (1_000_000, 50, f8, "C"),
        (1_000_000, 50, f4, "F"),
        (100_000, 1000, f4, "C"),
        (1000, 20, f4, "C"),
    ]:
        name = f"moments {n:,}×{p} {np.dtype(dtype).name}"
        name += ", Fortran order" * (order == "F")
        note = "floor: the largest value, by np.max on as many threads"
        found.append(Row(name, partial(moments, n, p, dtype, order), note))
    return found
