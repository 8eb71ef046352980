"""Layer and RMS normalization of contiguous rows, for other kernels; the formulas are
in simd/layer_norm.c."""
from cython cimport floating

cdef extern from "layer_norm.h" nogil:
    # One of each per row: xhat = ((x scale - mean) - lo) rstd. For float32 rows lo and
    # scale are NULL.
    ctypedef struct NormRows "fanin_norm_rows":
        double *mean
        double *rstd
        double *lo
        double *scale
    NormRows norm_rows_at "fanin_norm_rows_at"(NormRows s, Py_ssize_t i)

# y := xhat gamma + beta for rows of w values, ldy and ldx apart, which fills `stats`;
# without `centre` (RMS) the mean is taken as 0. y may be x. Any block of rows may be
# given: rows do not depend on each other.
cdef void layer_norm_rows(
    floating *y, Py_ssize_t ldy, NormRows stats, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t w, const double *gamma, const double *beta, double eps,
    bint centre) noexcept nogil

# dx := the gradient of that, from dy; dgamma and dbeta (NULL: not wanted) are added to.
# dx may be dy; both are contiguous.
cdef void layer_norm_rows_backward(
    floating *dx, double *dgamma, double *dbeta, const floating *dy, const floating *x,
    Py_ssize_t ldx, NormRows stats, Py_ssize_t rows, Py_ssize_t w, const double *gamma,
    bint centre) noexcept nogil
