"""The statistics of a layer's signals, for the plan (see _signals.pyx)."""
from ._parallel cimport Call
from ._rows cimport Rows

cdef enum:
    STATISTICS = 7

# What is watched of one operation: its (7, n) statistics so far (see observe), and
# where its activation is flat; NaN for no bound.
cdef struct Watched:
    double *statistics          # NULL: not watched
    double low
    double high
    bint on_z                   # the bounds are for z, not for the output
    char *sample                # (n_sampled, n) outputs, or NULL

# What a pass is to watch while it goes (_plan.pyx).
cdef struct Watch:
    Watched *forward            # of each operation
    Watched *backward
    Watched input
    const Py_ssize_t *sampled   # rows whose outputs are wanted, ascending
    Py_ssize_t n_sampled
    Py_ssize_t n_taken          # of them, in the chunks so far
    double *parts               # parts_bytes of the widest operation

cdef size_t parts_bytes(Py_ssize_t rows, Py_ssize_t n) noexcept nogil

# Take the rows of A, after `before` others, into its statistics. B is where flat
# values are looked for, of A's shape and dtype. Returns 0, or -1 for Ctrl-C.
cdef int watch_rows(
    Call *call, Watched *w, const Rows *A, const Rows *B, Py_ssize_t before,
    Py_ssize_t rows, Py_ssize_t n, double *parts) noexcept nogil

cdef void rows_of_matrix(
    Rows *s, const char *data, Py_ssize_t ld, int itemsize) noexcept nogil
