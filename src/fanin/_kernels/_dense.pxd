"""The steps of a dense layer, for the plan."""
from cython cimport floating

from ._pass cimport Pass

# How many tiles an (m, n) product over k is worth.
cdef int count_tiles(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, int n_threads) noexcept nogil

# Whether two of them are best done by the calling thread.
cdef bint is_slight(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) noexcept nogil

# The layer p.at: rows [row, row + m) of f(A_in W + b), or one tile of them.
cdef void dense_forward_rows(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, floating *_) noexcept nogil
cdef void dense_forward_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil

# One tile of D_below = (D W^T) * f'(below), or of dW and db.
cdef void dense_backward_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil

# D *= f'(z), where D is the gradient with respect to columns [col, col + n) of rows
# [row, row + m) of the output of operation `at`: nothing if it has no activation.
cdef void through_activation(
    Pass *p, int at, floating *D, Py_ssize_t ldd, Py_ssize_t row, Py_ssize_t m,
    Py_ssize_t col, Py_ssize_t n) noexcept nogil

cdef bint all_finite(
    const floating *A, Py_ssize_t lda, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil

# y = x where kept, else 0, times scale; mask[i] says whether. A value is kept where
# its random word is not below `threshold`.
cdef void drop(
    floating *y, unsigned char *mask, const floating *x, const unsigned int *words,
    Py_ssize_t n, unsigned long long threshold, double scale) noexcept nogil
# D *= mask * scale.
cdef void drop_backward(
    floating *D, const unsigned char *mask, Py_ssize_t n, double scale) noexcept nogil
