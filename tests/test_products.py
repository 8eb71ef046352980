"""Matrix products of all shapes: those of simd/product.c, and OpenBLAS's beside them.

The bound is that of a sum of k products in any order, k eps times the sum of their
sizes (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.5).
"""

import numpy as np
import pytest
import reference

from fanin._kernels import _blas, _simd

own = pytest.mark.skipif(
    _simd.current() == "baseline", reason="at this SIMD level all products are BLAS's"
)


def check(A, B, got, **how):
    exact = reference.matmul(A.astype("f8"), B.astype("f8"), **how)
    how = {k: np.abs(v) if k in ("C", "alpha", "beta") else v for k, v in how.items()}
    sizes = reference.matmul(np.abs(A).astype("f8"), np.abs(B).astype("f8"), **how)
    k = A.shape[0 if how.get("transpose_a") else 1]
    bound = (k + 3) * np.finfo(A.dtype).eps * sizes
    assert got.dtype == A.dtype
    assert np.all(np.abs(got - exact) <= bound)


ORDERS = [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), ORDERS)
@pytest.mark.parametrize(
    "n", [1, 3, 4, 7, 8, 10, 15, 16, 17, 24, 31, 32, 48, 50, 64, 79, 80, 96, 101, 176]
)
def test_every_tile_is_right(rng, dtype, transpose_a, transpose_b, n):
    how = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    # Rows of a tile, of one below another and of a block; sums in one part and more.
    for m in [*range(1, 19), 134, 257]:
        for k in (1, 2, 15, 33, 129) if m < 19 else (3, 64, 128, 383, 385, 775):
            A = rng.uniform(-1, 1, (k, m) if transpose_a else (m, k)).astype(dtype)
            B = rng.uniform(-1, 1, (n, k) if transpose_b else (k, n)).astype(dtype)
            check(A, B, _blas.matmul(A, B, **how), **how)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("shape", [(7, 16, 5), (30, 64, 300), (9, 48, 600), (5, 6, 7)])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0.5, 1), (-2, 0.25)])
def test_rows_that_lie_apart(rng, dtype, transpose_a, transpose_b, shape, alpha, beta):
    m, n, k = shape

    def rows(r, c):
        return rng.uniform(-1, 1, (r, c + 9)).astype(dtype)[:, 3 : 3 + c]

    A = rows(k, m) if transpose_a else rows(m, k)
    B = rows(n, k) if transpose_b else rows(k, n)
    around = np.full((m + 2, n + 9), np.nan, dtype)
    C = around[1:-1, 3 : 3 + n]
    if beta != 0:
        C[:] = rng.uniform(-1, 1, (m, n))
    how = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    scales = {"alpha": alpha, "beta": beta}
    before = C.copy()
    assert _blas.matmul(A, B, C=C, **how, **scales) is C
    check(A, B, C, C=before, **how, **scales)
    C[:] = np.nan
    assert np.isnan(around).all()  # nothing was written beside it


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("n", [48, 53])
def test_what_is_not_finite_stays_in_its_row(rng, dtype, transpose_b, n):
    A = rng.uniform(-1, 1, (21, 300)).astype(dtype)
    B = rng.uniform(1, 2, (n, 300) if transpose_b else (300, n)).astype(dtype)
    A[4, 299], A[13, 0] = np.nan, np.inf
    got = _blas.matmul(A, B, transpose_b=transpose_b)
    rest = np.delete(np.arange(21), [4, 13])
    assert np.isnan(got[4]).all()
    assert np.isposinf(got[13]).all()
    assert np.isfinite(got[rest]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_columns_and_numbers_beyond_are_not_read(rng, dtype, transpose_b):
    """What lies beside A and B, in their arrays, is of no account."""
    beside = np.full((50, 50), np.nan, dtype)
    A = beside[:40, :21]
    A[:] = rng.uniform(-1, 1, (40, 21))
    around = np.full((80, 80), np.nan, dtype)
    B = around[:37, :21] if transpose_b else around[:21, :37]
    B[:] = rng.uniform(-1, 1, B.shape)
    for m in (3, 40):
        got = _blas.matmul(A[:m], B, transpose_b=transpose_b)
        check(A[:m], B, got, transpose_b=transpose_b)


@own
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), ORDERS)
@pytest.mark.parametrize("k", [32, 1000])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0.3, 0.7)])
def test_an_entry_does_not_depend_on_its_tile(
    rng, dtype, transpose_a, transpose_b, k, alpha, beta
):
    """Its products are added in one order, wherever a matrix is cut."""
    # Small products of a transposed A with AVX-512; with AVX2 deep ones, and all of a
    # transposed B.
    deep = k == 1000
    if _simd.current() == "avx512":
        blas = transpose_a and not deep
    else:
        blas = transpose_b or (transpose_a and deep)
    if blas:
        pytest.skip("at this SIMD level some of these products are BLAS's")
    how = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    how |= {"alpha": alpha, "beta": beta}
    A = rng.standard_normal((k, 40) if transpose_a else (40, k)).astype(dtype)
    B = rng.standard_normal((176, k) if transpose_b else (k, 176)).astype(dtype)
    C = rng.standard_normal((40, 176)).astype(dtype)
    whole = _blas.matmul(A, B, C=C.copy(), **how)
    for cut in (1, 5, 8, 17):
        some = A[:, cut:] if transpose_a else A[cut:]
        found = _blas.matmul(some, B, C=C[cut:].copy(), **how)
        np.testing.assert_array_equal(found, whole[cut:])
    for cut in (1, 16, 48, 101, 128):
        some = B[cut:] if transpose_b else B[:, cut:]
        found = _blas.matmul(A, some, C=C[:, cut:].copy(), **how)
        np.testing.assert_array_equal(found, whole[:, cut:])


def test_what_does_not_fit_is_refused():
    A = np.ones((2, 3))
    with pytest.raises(ValueError, match="cannot multiply"):
        _blas.matmul(A, A)
    with pytest.raises(ValueError, match="rows have gaps"):
        _blas.matmul(A, np.ones((3, 8))[:, ::2])
    with pytest.raises(ValueError, match="another shape"):
        _blas.matmul(A, np.ones((3, 8)), C=np.empty((2, 9)))
