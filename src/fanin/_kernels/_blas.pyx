"""The only file that names a BLAS symbol.

Design
a) The wheel carries its own OpenBLAS (a renamed scipy-openblas32, see
   vendor_openblas.py). It is opened by its full path and its functions are taken
   from that handle. Nothing is linked against it, because an ELF program has one
   flat namespace: after ``import scipy_openblas32``, which opens its library with
   RTLD_GLOBAL, a linked ``scipy_cblas_dgemm`` would be that other copy's.
   RTLD_DEEPBIND makes the calls *inside* our copy stay inside it, for the same
   reason (glibc only; macOS and Windows bind by library anyway).
b) Our copy starts no threads: fanin splits the work itself (parallel.c). OpenBLAS
   reads its thread count from the environment while it is being loaded, so the
   variable is set for just that moment.
c) ``-Dblas=NAME`` links a system CBLAS instead. It may be shared with NumPy, so
   its thread setting is left alone.

Row-major products map one to one to CBLAS. Dimensions are BLAS integers (32 bits
here); callers split rows well below that.
"""

import ctypes
import os
import pathlib

import numpy as np

from cython cimport floating

cdef extern from "blas_symbols.h":
    const char *fanin_system_blas
    void *fanin_system_symbol(const char *name)

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

cdef sgemm_t sgemm
cdef dgemm_t dgemm
cdef sgemv_t sgemv
cdef dgemv_t dgemv

_library = None


def _open_vendored():
    """Open our own OpenBLAS, single-threaded, and keep it open."""
    here = pathlib.Path(__file__).resolve().parent
    found = sorted(here.glob("libfanin_openblas.*"))
    if not found:
        # An editable install: the build directory holds it, see __init__ there.
        raise ImportError(
            f"fanin's own OpenBLAS is missing from {here}; reinstall fanin")
    mode = getattr(os, "RTLD_LOCAL", 0) | getattr(os, "RTLD_NOW", 0)
    if not os.environ.get("FANIN_NO_DEEPBIND"):
        # (AddressSanitizer refuses libraries opened with DEEPBIND.)
        mode |= getattr(os, "RTLD_DEEPBIND", 0)
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return ctypes.CDLL(str(found[0]), mode=mode)
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


cdef void gemm(
    floating *C, Py_ssize_t ldc,
    const floating *A, Py_ssize_t lda, bint transpose_a,
    const floating *B, Py_ssize_t ldb, bint transpose_b,
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    floating alpha, floating beta
) noexcept nogil:
    cdef int ta = TRANSPOSE if transpose_a else NO_TRANSPOSE
    cdef int tb = TRANSPOSE if transpose_b else NO_TRANSPOSE
    if floating is float:
        sgemm(ROW_MAJOR, ta, tb, <int>m, <int>n, <int>k, alpha, A, <int>lda,
              B, <int>ldb, beta, C, <int>ldc)
    else:
        dgemm(ROW_MAJOR, ta, tb, <int>m, <int>n, <int>k, alpha, A, <int>lda,
              B, <int>ldb, beta, C, <int>ldc)


cdef void gemv(
    floating *y, const floating *A, Py_ssize_t lda, bint transpose,
    Py_ssize_t rows, Py_ssize_t cols, const floating *x,
    floating alpha, floating beta
) noexcept nogil:
    cdef int ta = TRANSPOSE if transpose else NO_TRANSPOSE
    if floating is float:
        sgemv(ROW_MAJOR, ta, <int>rows, <int>cols, alpha, A, <int>lda, x, 1,
              beta, y, 1)
    else:
        dgemv(ROW_MAJOR, ta, <int>rows, <int>cols, alpha, A, <int>lda, x, 1,
              beta, y, 1)


def config():
    """Describe the BLAS in use: a dict of name, version text, core and path."""
    if _library is None:
        return {"name": (<bytes>fanin_system_blas).decode(), "vendored": False,
                "config": "", "core": "", "path": ""}
    _library.scipy_openblas_get_config.restype = ctypes.c_char_p
    _library.scipy_openblas_get_corename.restype = ctypes.c_char_p
    return {
        "name": "openblas",
        "vendored": True,
        "config": _library.scipy_openblas_get_config().decode(),
        "core": _library.scipy_openblas_get_corename().decode(),
        "path": _library._name,
    }


def matmul(const floating[:, ::1] A, const floating[:, ::1] B):
    """Return A @ B of two C-ordered matrices of one dtype, for the tests."""
    out = np.empty((A.shape[0], B.shape[1]), "f4" if floating is float else "f8")
    cdef floating[:, ::1] C = out
    with nogil:
        gemm(&C[0, 0], C.shape[1], &A[0, 0], A.shape[1], False, &B[0, 0],
             B.shape[1], False, A.shape[0], B.shape[1], A.shape[1],
             <floating>1, <floating>0)
    return out
