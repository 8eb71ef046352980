"""Moments of contiguous rows, for other kernels; the formulas are in simd/moments.c."""
from cython cimport floating
from libc.stdint cimport int32_t

# Five arrays of `cols` (count, mean in two words, sum of squared deviations in two
# words) and exponents, of rows `ldx` values apart; not empty. Returns 0, -1 when
# interrupted (with a Python exception pending), -2 when out of memory.
cdef int moments_rows(
    double *state, int32_t *exponent, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t cols, int n_threads) noexcept nogil
