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

# *total = the sum of the losses of `rows` samples; dZ (may be NULL) gets scale *
# gradient, *bad the first row with an unacceptable target. Targets are labels if
# that is not NULL, else Y. scratch holds `cols` values.
cdef void loss_forward(
    floating *dZ, const floating *Z, const floating *Y, const int64_t *labels,
    Py_ssize_t rows, Py_ssize_t cols, double scale, floating *scratch,
    Py_ssize_t *bad, LossSum *total, int loss) noexcept nogil

# Z = the loss's prediction from Z, in place: softmax of rows or logistic of values.
cdef void loss_link(
    floating *Z, Py_ssize_t rows, Py_ssize_t cols, int loss) noexcept nogil
