"""The layers of a pass that are not dense, for the plan."""
from cython cimport floating

from ._pass cimport Operation, Pass

# Bytes of p.extra for this operation and so many rows.
cdef size_t extra_bytes(
    const Operation *o, Py_ssize_t rows, int itemsize, bint training) noexcept nogil

# Once a pass, before the first chunk.
cdef void prepare(Pass *p, floating *_) noexcept nogil

# Rows [row, row + m) of the output; in training not for batch normalization.
cdef void operation_forward_rows(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, floating *_) noexcept nogil

# All rows of the chunk. Backward: p.D in place, through the layer below; dX for the
# first operation. Return INTERRUPTED or DONE.
cdef int operation_forward(Pass *p, int at, int itemsize) noexcept nogil
cdef int operation_backward(Pass *p, int at, int itemsize) noexcept nogil

# After a training pass that counts: update the running statistics.
cdef void keep_statistics(Pass *p) noexcept nogil
