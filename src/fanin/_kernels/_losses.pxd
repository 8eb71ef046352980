"""Losses for other kernels; the formulas are in simd/losses.c."""
from cython cimport floating
from libc.stdint cimport int64_t

from ._parallel cimport Call

cdef extern from "losses.h":
    enum:
        SQUARED_ERROR "FANIN_SQUARED_ERROR"
        ABSOLUTE_ERROR "FANIN_ABSOLUTE_ERROR"
        HUBER "FANIN_HUBER"
        QUANTILE "FANIN_QUANTILE"
        POISSON "FANIN_POISSON"
        BINARY_CROSS_ENTROPY "FANIN_BINARY_CROSS_ENTROPY"
        SOFTMAX_CROSS_ENTROPY "FANIN_SOFTMAX_CROSS_ENTROPY"
        CUSTOM_LOSS "FANIN_CUSTOM_LOSS"
    # Which loss, and its number; quantiles, one for each output, may be NULL.
    ctypedef struct LossFunction "fanin_loss":
        int code
        double parameter
        const double *quantiles
        const void *custom      # a Custom, for a function of the user's, or NULL
    ctypedef struct LossSum "fanin_sum":
        double hi
        double lo

# Fill *f from the loss's name (ValueError if there is none) or from a Pair, which must
# outlive *f. quantiles becomes NULL:
# whoever has one for each output sets it, to memory that outlives *f.
cdef int loss_init(LossFunction *f, object name, double parameter) except -1

# Whether the mean is over rows (softmax, a user's), or over rows and outputs.
cdef bint loss_is_per_row(const LossFunction *f) noexcept nogil

# Whether integer labels are targets.
cdef bint loss_takes_labels(const LossFunction *f) noexcept nogil

# *total = the sum of the losses of `rows` samples, each times its weight (NULL: 1); dZ
# (may be NULL) gets scale * gradient, *bad the first row with an unacceptable target,
# or -1. Targets are labels if that is not NULL, else Y. All arrays are contiguous; dZ
# must not overlap Z. scratch holds `cols` values. A row of weight 0 counts for nothing
# whatever its Z, but its target is checked. A function of the user's that raises stops
# the call; it sees all targets.
cdef void loss_forward(
    floating *dZ, const floating *Z, const floating *Y, const int64_t *labels,
    const double *weight, Py_ssize_t rows, Py_ssize_t cols, double scale,
    floating *scratch, Py_ssize_t *bad, LossSum *total,
    const LossFunction *f, Call *call) noexcept nogil

# Z = the loss's prediction from Z, in place: softmax of rows, logistic or exponential
# of values, or Z itself.
cdef void loss_link(
    floating *Z, Py_ssize_t rows, Py_ssize_t cols,
    const LossFunction *f) noexcept nogil

# Add a sum to another; an infinite one stays infinite.
cdef void loss_add(LossSum *total, const LossSum *part) noexcept nogil
