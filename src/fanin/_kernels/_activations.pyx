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


cdef void activation_forward(
    floating *A, Py_ssize_t lda, const floating *bias,
    Py_ssize_t rows, Py_ssize_t cols, int activation
) noexcept nogil:
    if floating is float:
        kernels.forward_f32(A, lda, bias, rows, cols, activation)
    else:
        kernels.forward_f64(A, lda, bias, rows, cols, activation)


cdef void activation_backward(
    floating *dA, Py_ssize_t ldd, const floating *A, Py_ssize_t lda,
    Py_ssize_t rows, Py_ssize_t cols, int activation
) noexcept nogil:
    if floating is float:
        kernels.backward_f32(dA, ldd, A, lda, rows, cols, activation)
    else:
        kernels.backward_f64(dA, ldd, A, lda, rows, cols, activation)


def forward(floating[:, ::1] A, str activation, const floating[::1] bias=None):
    """Replace A by activation(A + bias)."""
    cdef int code = ACTIVATIONS[activation]
    if A.shape[0] == 0 or A.shape[1] == 0:
        return
    cdef const floating *b = NULL if bias is None else &bias[0]
    with nogil:
        activation_forward(&A[0, 0], A.shape[1], b, A.shape[0], A.shape[1], code)


def backward(floating[:, ::1] dA, const floating[:, ::1] A, str activation):
    """Replace dA by dA * activation'(z), where A = activation(z)."""
    cdef int code = ACTIVATIONS[activation]
    if A.shape[0] == 0 or A.shape[1] == 0:
        return
    with nogil:
        activation_backward(
            &dA[0, 0], dA.shape[1], &A[0, 0], A.shape[1], A.shape[0], A.shape[1], code)
