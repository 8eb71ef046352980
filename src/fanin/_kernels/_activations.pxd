"""Activations for other kernels; the formulas are in simd/activations.c."""
from cython cimport floating

cdef extern from "activations.h":
    enum:
        IDENTITY "FANIN_IDENTITY"
        LOGISTIC "FANIN_LOGISTIC"
        TANH "FANIN_TANH"
        RELU "FANIN_RELU"

# A = activation(A + bias) in place; bias may be NULL.
cdef void activation_forward(
    floating *A, Py_ssize_t lda, const floating *bias,
    Py_ssize_t rows, Py_ssize_t cols, int activation) noexcept nogil

# dA = dA * activation'(z) in place, where A = activation(z).
cdef void activation_backward(
    floating *dA, Py_ssize_t ldd, const floating *A, Py_ssize_t lda,
    Py_ssize_t rows, Py_ssize_t cols, int activation) noexcept nogil
