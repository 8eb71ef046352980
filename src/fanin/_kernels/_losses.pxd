"""Losses for other kernels; the formulas are in simd/losses.c."""
from cython cimport floating
from libc.stdint cimport int64_t

cdef enum:
    SQUARED_ERROR = 0
    BINARY_CROSS_ENTROPY = 1
    SOFTMAX_CROSS_ENTROPY = 2

cdef extern from "losses.h":
    ctypedef struct LossSum "fanin_sum":
        double hi
        double lo

cdef struct LossFunction:
    int code
    double parameter
    const double *quantiles

cdef int loss_init(LossFunction *f, object name, double parameter) except -1
cdef bint loss_is_per_row(const LossFunction *f) noexcept nogil
cdef bint loss_takes_labels(const LossFunction *f) noexcept nogil
cdef void loss_forward(
    floating *dZ, const floating *Z, const floating *Y, const int64_t *labels,
    const double *weight, Py_ssize_t rows, Py_ssize_t cols, double scale,
    floating *scratch, Py_ssize_t *bad, LossSum *total,
    const LossFunction *f) noexcept nogil
cdef void loss_link(
    floating *Z, Py_ssize_t rows, Py_ssize_t cols, const LossFunction *f) noexcept nogil
