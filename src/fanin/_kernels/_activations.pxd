"""Activations for other kernels; the formulas are in simd/activations.c."""
from cython cimport floating

cdef extern from "activations.h":
    enum:
        IDENTITY "FANIN_IDENTITY"
        LOGISTIC "FANIN_LOGISTIC"
        TANH "FANIN_TANH"
        RELU "FANIN_RELU"

cdef struct Activation:
    int code
    double parameter

cdef int activation_init(Activation *f, object name, double parameter) except -1

cdef bint activation_needs_input(const Activation *f) noexcept nogil

cdef void activation_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz, Py_ssize_t rows,
    Py_ssize_t cols, const Activation *f) noexcept nogil

cdef void activation_backward(
    floating *D, Py_ssize_t ldd, const floating *A, Py_ssize_t lda, const floating *Z,
    Py_ssize_t ldz, Py_ssize_t rows, Py_ssize_t cols,
    const Activation *f) noexcept nogil
