"""Batch normalization of contiguous rows, for other kernels; the formulas are in
simd/batch_norm.c."""
from cython cimport floating
from libc.stdint cimport int32_t

cdef extern from "batch_norm.h" nogil:
    # One of each per column: xhat = ((x scale - mean) - lo) rstd and
    # y = xhat gamma + beta. Forward, slope = rstd gamma; backward, slope = scale rstd
    # gamma, and c1, c2 are the means over rows of dy and dy xhat. (float32 data needs
    # no lo and no scale.)
    ctypedef struct NormCols "fanin_norm_cols":
        const double *mean
        const double *lo
        const double *rstd
        const double *scale
        const double *slope
        const double *beta
        const double *c1
        const double *c2

# Rows of w values, ldy and ldx apart; dy and dx are contiguous. Any block of rows may
# be given.

# y := xhat gamma + beta. y may be x.
cdef void batch_norm_rows(
    floating *y, Py_ssize_t ldy, const floating *x, Py_ssize_t ldx, Py_ssize_t rows,
    Py_ssize_t w, NormCols s) noexcept nogil

# s1 += sum over rows of dy, s2 += sum over rows of dy xhat.
cdef void batch_norm_rows_sums(
    double *s1, double *s2, const floating *dy, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t w, NormCols s) noexcept nogil

# dx := slope (dy - c1 - xhat c2), or without x (inference) slope dy. dx may be dy.
cdef void batch_norm_rows_gradient(
    floating *dx, const floating *dy, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t w, NormCols s) noexcept nogil

# mean, lo, rstd and scale of n_cols columns from the state that _moments computes
# (five arrays of n_cols, and exponents). A column whose count is not n_rows has NaN in
# it; without `centre` the mean is taken as 0.
cdef void norm_settle(
    double *mean, double *rstd, double *lo, double *scale, const double *state,
    const int32_t *exponent, Py_ssize_t n_cols, double n_rows, double eps,
    bint centre) noexcept nogil
