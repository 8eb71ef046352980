"""Parameter updates for other kernels; the formulas are in simd/optimizers.c."""
from cython cimport floating

cdef enum:
    SGD = 0
    ADAM = 1

# What one step does: the numbers that an optimizer object computes in Python.
cdef struct Update:
    int kind
    double rate          # SGD: learning rate; Adam: rate / (1 - beta_1^t)
    double beta_1        # SGD: momentum
    double beta_2
    double correction_2  # sqrt(1 - beta_2^t)
    double epsilon
    int nesterov
    void *first          # SGD: velocity, NULL without momentum
    void *second

cdef void optimizer_update(
    floating *theta, const floating *gradient, Py_ssize_t start, Py_ssize_t stop,
    const Update *update) noexcept nogil
