"""Activation functions and their derivatives, on matrices.

Design: simd/activations.c has the formulas and the loops; this module picks the
SIMD level once and hands the loops to the other kernels (cimport) and, one matrix
at a time, to the tests.
"""
from cython cimport floating

from ._simd cimport simd_level

cdef extern from "activations.h":
    struct fanin_activations:
        void (*forward_f32)(float *A, Py_ssize_t lda, const float *bias,
                            Py_ssize_t rows, Py_ssize_t cols,
                            int activation) noexcept nogil
        void (*forward_f64)(double *A, Py_ssize_t lda, const double *bias,
                            Py_ssize_t rows, Py_ssize_t cols,
                            int activation) noexcept nogil
        void (*backward_f32)(float *dA, Py_ssize_t ldd, const float *A,
                             Py_ssize_t lda, Py_ssize_t rows, Py_ssize_t cols,
                             int activation) noexcept nogil
        void (*backward_f64)(double *dA, Py_ssize_t ldd, const double *A,
                             Py_ssize_t lda, Py_ssize_t rows, Py_ssize_t cols,
                             int activation) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_activations(level) FANIN_SELECT(activations, level)
    """
    const fanin_activations *fanin_select_activations(int level)

cdef const fanin_activations *kernels = fanin_select_activations(simd_level())

ACTIVATIONS = {
    "identity": IDENTITY, "logistic": LOGISTIC, "tanh": TANH, "relu": RELU,
}


cdef int activation_init(Activation *f, object name, double parameter) except -1:
    f.code = ACTIVATIONS[name]
    f.parameter = parameter
    return 0

cdef bint activation_needs_input(const Activation *f) noexcept nogil:
    return False

cdef void activation_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz, Py_ssize_t rows,
    Py_ssize_t cols, const Activation *f) noexcept nogil:
    cdef Py_ssize_t i, j
    if A != P:
        for i in range(rows):
            for j in range(cols):
                A[i * lda + j] = P[i * ldp + j]
    if floating is float:
        kernels.forward_f32(A, lda, bias, rows, cols, f.code)
    else:
        kernels.forward_f64(A, lda, bias, rows, cols, f.code)


cdef void activation_backward(
    floating *D, Py_ssize_t ldd, const floating *A, Py_ssize_t lda, const floating *Z,
    Py_ssize_t ldz, Py_ssize_t rows, Py_ssize_t cols,
    const Activation *f) noexcept nogil:
    if floating is float:
        kernels.backward_f32(D, ldd, A, lda, rows, cols, f.code)
    else:
        kernels.backward_f64(D, ldd, A, lda, rows, cols, f.code)


def forward(floating[:, ::1] A, str activation, const floating[::1] bias=None):
    """Replace A by activation(A + bias)."""
    cdef Activation f
    activation_init(&f, activation, 0.0)
    if A.shape[0] == 0 or A.shape[1] == 0:
        return
    cdef const floating *b = NULL if bias is None else &bias[0]
    with nogil:
        activation_forward(&A[0, 0], A.shape[1], <const floating *>&A[0, 0], A.shape[1], b, <floating *>NULL, 0, A.shape[0], A.shape[1], &f)


def backward(floating[:, ::1] dA, const floating[:, ::1] A, str activation):
    """Replace dA by dA * activation'(z), where A = activation(z)."""
    cdef Activation f
    activation_init(&f, activation, 0.0)
    if A.shape[0] == 0 or A.shape[1] == 0:
        return
    with nogil:
        activation_backward(
            &dA[0, 0], dA.shape[1], &A[0, 0], A.shape[1], <const floating *>NULL, 0, A.shape[0], A.shape[1], &f)
