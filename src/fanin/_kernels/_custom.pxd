"""Functions of the user's, for the kernels of activations and losses."""
from cython cimport floating

from ._parallel cimport Call

# A function and its derivative: addresses of C functions, or Python objects.
cdef struct Custom:
    bint compiled
    void *address[2]
    bint takes_data[2]      # whether the C function has a last argument, void *
    void *data[2]
    void *function[2]       # Python objects; the Pair owns them


cdef class Pair:
    cdef Custom custom
    cdef readonly tuple functions
    cdef readonly bint compiled
    cdef readonly tuple owners


# As activation_forward, activation_backward and loss_forward (without bad targets). A
# function that raises stops the call.
cdef void custom_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Custom *f, Call *call) noexcept nogil

cdef void custom_backward(
    floating *D, Py_ssize_t ldd, const floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Custom *f, Call *call) noexcept nogil

# y = f(x) or f'(x) of n values; y may be x.
cdef void custom_apply(
    floating *y, const floating *x, Py_ssize_t n, bint derivative, const Custom *f,
    Call *call) noexcept nogil

cdef void custom_loss(
    floating *dZ, const floating *Z, const floating *Y, const double *weight,
    Py_ssize_t rows, Py_ssize_t cols, double scale, double *total, double *remainder,
    const Custom *f, Call *call) noexcept nogil
