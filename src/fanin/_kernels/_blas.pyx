"""The only file that names a BLAS symbol.

Design
a) The wheel carries its own OpenBLAS (a renamed scipy-openblas32, see
   vendor_openblas.py). It is opened by its full path and its functions are taken
   from that handle. Nothing is linked against it, because an ELF program has one
   flat namespace: after ``import scipy_openblas32``, which opens its library with
   RTLD_GLOBAL, a linked ``scipy_cblas_dgemm`` would be that other copy's.
   The calls *inside* our copy stay inside it because it is marked DT_SYMBOLIC
   (macOS and Windows bind by library anyway).
b) Our copy starts no threads: fanin splits the work itself (parallel.c). OpenBLAS
   reads its thread count from the environment while it is being loaded, so the
   variable is set for just that moment.
c) ``-Dblas=NAME`` links a system CBLAS instead. It may be shared with NumPy, so
   its thread setting is left alone.

d) Products of all but large matrices are simd/product.c's: a BLAS spends a good part
   of its time on copies of them.

Other row-major products map one to one to CBLAS, but for one: OpenBLAS's sgemm of two
transposed matrices of M N K <= 100^3 keeps a pointer or size in static memory in its
AVX-512 kernel (found in 0.3.34, by two threads that each multiplied matrices of their
own: entries of the one's product were written behind the other's result). Where it
could be chosen, A is packed untransposed instead, a block at a time: m k more reads
and writes for 2 m n k operations. Dimensions are BLAS integers (32 bits
here); callers split rows well below that. CBLAS wants leading dimensions of at
least 1 even where a matrix is empty, so those are raised to 1.
"""

import ctypes
import os
import sys

import numpy as np

cimport cython
from cython cimport floating

from ._simd cimport simd_level

cdef extern from "product.h" nogil:
    """
    #define FANIN_PICK_PRODUCT(level) FANIN_SELECT(product, level)
    """
    enum:
        FANIN_PRODUCT_NARROW
        FANIN_PRODUCT_B
    struct fanin_product:
        void (*f32)(
            float *C, Py_ssize_t ldc, const float *A, Py_ssize_t row,
            Py_ssize_t depth, const float *B, Py_ssize_t ldb, bint transposed,
            Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, float alpha,
            float beta) noexcept nogil
        void (*f64)(
            double *C, Py_ssize_t ldc, const double *A, Py_ssize_t row,
            Py_ssize_t depth, const double *B, Py_ssize_t ldb, bint transposed,
            Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, double alpha,
            double beta) noexcept nogil
        Py_ssize_t rows
        Py_ssize_t turned
        Py_ssize_t depth
        Py_ssize_t small
        Py_ssize_t products
    const fanin_product *FANIN_PICK_PRODUCT(int level)

cdef extern from "blas_symbols.h":
    const char *fanin_system_blas
    void *fanin_system_symbol(const char *name)
    const char *fanin_library_of(void *address)

ctypedef void (*sgemm_t)(
    int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
    int lda, const float *b, int ldb, float beta, float *c, int ldc) noexcept nogil
ctypedef void (*dgemm_t)(
    int order, int ta, int tb, int m, int n, int k, double alpha, const double *a,
    int lda, const double *b, int ldb, double beta, double *c, int ldc) noexcept nogil
ctypedef void (*sgemv_t)(
    int order, int ta, int m, int n, float alpha, const float *a, int lda,
    const float *x, int incx, float beta, float *y, int incy) noexcept nogil
ctypedef void (*dgemv_t)(
    int order, int ta, int m, int n, double alpha, const double *a, int lda,
    const double *x, int incx, double beta, double *y, int incy) noexcept nogil

cdef enum:
    ROW_MAJOR = 101
    NO_TRANSPOSE = 111
    TRANSPOSE = 112

cdef const fanin_product *kernels = FANIN_PICK_PRODUCT(simd_level())
cdef sgemm_t sgemm
cdef dgemm_t dgemm
cdef sgemv_t sgemv
cdef dgemv_t dgemv

_library = None


def _open_vendored():
    """Open our own OpenBLAS, single-threaded, and keep it open."""
    # (In an editable install this is the build directory, which holds it too.)
    here = os.path.dirname(os.path.realpath(__file__))
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    path = os.path.join(here, "libfanin_openblas" + suffix)
    if not os.path.exists(path):
        raise ImportError(f"fanin's own OpenBLAS is missing: {path}; reinstall fanin")
    # RTLD_LOCAL and RTLD_NOW; Windows has neither.
    mode = getattr(os, "RTLD_LOCAL", 0) | getattr(os, "RTLD_NOW", 0)
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return ctypes.CDLL(path, mode=mode)
    except OSError as error:
        raise ImportError(f"fanin's own OpenBLAS cannot be loaded: {error}") from error
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


cdef void *find(str name) except NULL:
    cdef size_t address
    cdef bytes encoded = name.encode()
    if _library is None:
        address = <size_t>fanin_system_symbol(encoded)
    else:
        function = getattr(_library, "scipy_" + name)
        address = ctypes.cast(function, ctypes.c_void_p).value
    return <void *>address


if fanin_system_blas == NULL:
    _library = _open_vendored()
sgemm = <sgemm_t>find("cblas_sgemm")
dgemm = <dgemm_t>find("cblas_dgemm")
sgemv = <sgemv_t>find("cblas_sgemv")
dgemv = <dgemv_t>find("cblas_dgemv")


cdef enum:
    SMALL_PRODUCT = 1 << 20     # M N K; above, the static memory is not used
    PACKED_ROWS = 32            # of a packed block: 16 KB, on the stack
    PACKED_DEPTH = 128


cdef inline int leading(Py_ssize_t stride) noexcept nogil:
    return <int>stride if stride > 1 else 1


cdef inline bint is_ours(
    bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    Py_ssize_t size
) noexcept nogil:
    """Whether simd/product.c is the faster one, for entries of `size` bytes."""
    if kernels.rows == 0 or m < 1 or k < 1 or n * size <= FANIN_PRODUCT_NARROW:
        return False
    if transpose_a:
        return (not transpose_b
                and (k <= kernels.depth or k <= kernels.small // (m * size))
                and m > kernels.products // (n * k))
    if transpose_b and (kernels.turned == 0 or m < kernels.turned):
        return False
    return m <= kernels.rows and k <= FANIN_PRODUCT_B // (n * size)


cdef void gemm(
    floating *C, Py_ssize_t ldc,
    const floating *A, Py_ssize_t lda, bint transpose_a,
    const floating *B, Py_ssize_t ldb, bint transpose_b,
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    floating alpha, floating beta
) noexcept nogil:
    cdef int ta = TRANSPOSE if transpose_a else NO_TRANSPOSE
    cdef int tb = TRANSPOSE if transpose_b else NO_TRANSPOSE
    cdef double size = <double>m * <double>n * <double>k
    if is_ours(transpose_a, transpose_b, m, n, k, sizeof(floating)):
        if floating is float:
            kernels.f32(
                C, ldc, A, 1 if transpose_a else lda, lda if transpose_a else 1, B, ldb,
                transpose_b, m, n, k, alpha, beta)
        else:
            kernels.f64(
                C, ldc, A, 1 if transpose_a else lda, lda if transpose_a else 1, B, ldb,
                transpose_b, m, n, k, alpha, beta)
    elif floating is float:
        if transpose_a and transpose_b and 0 < size <= SMALL_PRODUCT:
            sgemm_of_transposes(C, ldc, A, lda, B, ldb, m, n, k, alpha, beta)
            return
        sgemm(ROW_MAJOR, ta, tb, <int>m, <int>n, <int>k, alpha, A, leading(lda),
              B, leading(ldb), beta, C, leading(ldc))
    else:
        dgemm(ROW_MAJOR, ta, tb, <int>m, <int>n, <int>k, alpha, A, leading(lda),
              B, leading(ldb), beta, C, leading(ldc))


cdef void sgemm_of_transposes(
    float *C, Py_ssize_t ldc, const float *A, Py_ssize_t lda,
    const float *B, Py_ssize_t ldb, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    float alpha, float beta
) noexcept nogil:
    """C = alpha A^T B^T + beta C by products that keep nothing in static memory."""
    cdef float packed[PACKED_ROWS * PACKED_DEPTH]
    cdef Py_ssize_t row = 0, rows, at, depth, i, j
    cdef const float *source
    while row < m:
        rows = min(PACKED_ROWS, m - row)
        at = 0
        while at < k:
            depth = min(PACKED_DEPTH, k - at)
            for j in range(depth):
                source = A + (at + j) * lda + row
                for i in range(rows):
                    packed[i * depth + j] = source[i]
            sgemm(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, <int>rows, <int>n, <int>depth,
                  alpha, packed, <int>depth, B + at, leading(ldb),
                  beta if at == 0 else <float>1, C + row * ldc, leading(ldc))
            at += depth
        row += rows


cdef void gemv(
    floating *y, const floating *A, Py_ssize_t lda, bint transpose,
    Py_ssize_t rows, Py_ssize_t cols, const floating *x,
    floating alpha, floating beta
) noexcept nogil:
    cdef int ta = TRANSPOSE if transpose else NO_TRANSPOSE
    if floating is float:
        sgemv(ROW_MAJOR, ta, <int>rows, <int>cols, alpha, A, leading(lda), x, 1,
              beta, y, 1)
    else:
        dgemv(ROW_MAJOR, ta, <int>rows, <int>cols, alpha, A, leading(lda), x, 1,
              beta, y, 1)


_FUNCTIONS = {
    "cblas_sgemm": <size_t>sgemm,
    "cblas_dgemm": <size_t>dgemm,
    "cblas_sgemv": <size_t>sgemv,
    "cblas_dgemv": <size_t>dgemv,
}


def addresses():
    """Return where each BLAS function in use lies in memory: a dict by name."""
    return dict(_FUNCTIONS)


def config():
    """Describe the BLAS in use: name, vendored or not, version text, core, path."""
    if _library is None:
        # Names that OpenBLAS has and other libraries do not; looked up through
        # this module, whose dependencies the BLAS is one of.
        library, prefix = ctypes.CDLL(__file__), ""
        name = (<bytes>fanin_system_blas).decode()
    else:
        library, prefix, name = _library, "scipy_", "openblas"

    def text(what):
        function = getattr(library, f"{prefix}openblas_get_{what}", None)
        if function is None:
            return ""
        function.restype = ctypes.c_char_p
        return function().decode()

    cdef const char *path = fanin_library_of(<void *>dgemm)
    return {
        "name": name,
        "vendored": _library is not None,
        "config": text("config"),
        "core": text("corename"),
        "path": path.decode() if path != NULL else getattr(_library, "_name", ""),
    }


@cython.boundscheck(False)
@cython.wraparound(False)
def matmul(
    const floating[:, :] A, const floating[:, :] B, bint transpose_a=False,
    bint transpose_b=False, C=None, floating alpha=1, floating beta=0
):
    """Return alpha op(A) op(B) + beta C, in C if that is given, for the tests.

    The matrices have one dtype, and rows without gaps.
    """
    cdef Py_ssize_t m = A.shape[1 if transpose_a else 0]
    cdef Py_ssize_t k = A.shape[0 if transpose_a else 1]
    cdef Py_ssize_t n = B.shape[0 if transpose_b else 1]
    if B.shape[1 if transpose_b else 0] != k or 0 in (m, n, k):
        raise ValueError(f"cannot multiply {A.shape[0], A.shape[1]} by "
                         f"{B.shape[0], B.shape[1]}")
    if C is None:
        C = np.empty((m, n), "f4" if floating is float else "f8")
    cdef floating[:, :] out = C
    cdef Py_ssize_t size = sizeof(floating)
    if (A.strides[1] != size or B.strides[1] != size or out.strides[1] != size
            or out.shape[0] != m or out.shape[1] != n):
        raise ValueError("rows have gaps, or C has another shape")
    with nogil:
        gemm(&out[0, 0], out.strides[0] // size, &A[0, 0], A.strides[0] // size,
             transpose_a, &B[0, 0], B.strides[0] // size, transpose_b, m, n, k,
             alpha, beta)
    return C


@cython.boundscheck(False)
def matvec(const floating[:, ::1] A, const floating[::1] x, bint transpose=False):
    """Return A @ x, or A.T @ x, for the tests."""
    cdef Py_ssize_t rows = A.shape[0], cols = A.shape[1]
    if rows == 0 or cols == 0 or x.shape[0] != (rows if transpose else cols):
        raise ValueError(f"cannot multiply {rows, cols} by {x.shape[0]} entries")
    out = np.empty(cols if transpose else rows, "f4" if floating is float else "f8")
    cdef floating[::1] y = out
    with nogil:
        gemv(&y[0], &A[0, 0], cols, transpose, rows, cols, &x[0],
             <floating>1, <floating>0)
    return out
