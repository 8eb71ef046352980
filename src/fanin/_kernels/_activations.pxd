"""Activations for other kernels; the formulas are in simd/activations.c."""
from cython cimport floating

from ._custom cimport Custom
from ._parallel cimport Call

cdef extern from "activations.h" nogil:
    enum:
        IDENTITY "FANIN_IDENTITY"
        LOGISTIC "FANIN_LOGISTIC"
        TANH "FANIN_TANH"
        RELU "FANIN_RELU"
        LEAKY_RELU "FANIN_LEAKY_RELU"
        ELU "FANIN_ELU"
        SELU "FANIN_SELU"
        SOFTPLUS "FANIN_SOFTPLUS"
        SILU "FANIN_SILU"
        GELU "FANIN_GELU"
        GELU_TANH "FANIN_GELU_TANH"
        CUSTOM_ACTIVATION "FANIN_CUSTOM_ACTIVATION"
    bint fanin_activation_needs_input(int activation, double parameter)

# A function f; `parameter` is leaky_relu's slope or elu's alpha. `custom` is NULL but
# for a function of the user's.
cdef struct Activation:
    int code
    double parameter
    const Custom *custom

# Fill f from a kernel name, such as "gelu_tanh" (ValueError if there is none such), or
# from a Pair, which must outlive f.
cdef int activation_init(Activation *f, name, double parameter) except -1

# Whether activation_backward takes z: where a = f(z) does not tell f'(z).
cdef inline bint activation_needs_input(const Activation *f) noexcept nogil:
    return fanin_activation_needs_input(f.code, f.parameter)

# z = P + bias, A = f(z), Z = z. bias and Z may be NULL; P may be A or Z itself. A
# function of the user's that raises stops the call.
cdef void activation_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Activation *f, Call *call) noexcept nogil

# D = D * f'(z), from Z if activation_needs_input, else from A; the other is not read.
cdef void activation_backward(
    floating *D, Py_ssize_t ldd, const floating *A, Py_ssize_t lda,
    const floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Activation *f, Call *call) noexcept nogil
