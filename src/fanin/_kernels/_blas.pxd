"""Matrix products for other kernels, row-major, in float32 and float64."""
from cython cimport floating

# C[m, n] = alpha * op(A) op(B) + beta * C, all row-major with leading dimensions
# lda, ldb, ldc; op transposes where the flag is set. Runs on the calling thread.
cdef void gemm(
    floating *C, Py_ssize_t ldc,
    const floating *A, Py_ssize_t lda, bint transpose_a,
    const floating *B, Py_ssize_t ldb, bint transpose_b,
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    floating alpha, floating beta) noexcept nogil

# y[m] = op(A) x with A (rows, cols) row-major; y has rows (or, transposed, cols)
# entries with unit stride.
cdef void gemv(
    floating *y, const floating *A, Py_ssize_t lda, bint transpose,
    Py_ssize_t rows, Py_ssize_t cols, const floating *x,
    floating alpha, floating beta) noexcept nogil
