"""NumPy arrays as tables of rows (reduced axes) and columns (kept axes).

Design: source.h describes an array by pointer, strides and element type and knows
no Python. This module fills that description in.
"""

cimport numpy as cnp

cnp.import_array()

cdef dict TYPES = {
    "b1": 0, "i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "i8": 7, "u8": 8,
    "f2": 9, "f4": 10, "f8": 11,
}


cdef int array_init(Array *a, object X) except -1:
    cdef cnp.ndarray array = X
    cdef int number = cnp.PyArray_TYPE(array)
    cdef int d
    if number == cnp.NPY_FLOAT64:
        a.view.type = FANIN_F64
    elif number == cnp.NPY_FLOAT32:
        a.view.type = FANIN_F32
    else:
        a.view.type = TYPES[f"{array.dtype.kind}{array.dtype.itemsize}"]
    a.view.swapped = cnp.PyArray_ISBYTESWAPPED(array)
    a.view.itemsize = cnp.PyArray_ITEMSIZE(array)
    a.view.data = cnp.PyArray_BYTES(array)
    a.nd = cnp.PyArray_NDIM(array)
    for d in range(a.nd):
        a.shape[d] = cnp.PyArray_DIM(array, d)
        a.strides[d] = cnp.PyArray_STRIDE(array, d)
    return 0


cdef Py_ssize_t reduced_init(char *reduced, const Array *a, object axes) except -1:
    cdef Py_ssize_t rows = 1
    cdef int d
    for d in range(a.nd):
        reduced[d] = 0
    for d in axes:
        reduced[d] = 1
        rows *= a.shape[d]
    return rows


def column_order(X, axes):
    """Return the kept axes of X in the order in which the kernels number columns.

    `axes` are the reduced axes. With one kept axis or a C-contiguous array that is
    the array's own order; else the axis of the largest stride comes first.
    """
    cdef Array a
    cdef char reduced[64]
    cdef int order[64]
    cdef int i
    array_init(&a, X)
    reduced_init(reduced, &a, axes)
    axis_order(order, a.nd, a.strides)
    return tuple([order[i] for i in range(a.nd) if not reduced[order[i]]])


def row_order(X, axes):
    """Return the reduced axes of X in the order in which the kernels number rows.

    As `column_order`: the axis of the largest stride comes first.
    """
    cdef Array a
    cdef char reduced[64]
    cdef int order[64]
    cdef int i
    array_init(&a, X)
    reduced_init(reduced, &a, axes)
    axis_order(order, a.nd, a.strides)
    return tuple([order[i] for i in range(a.nd) if reduced[order[i]]])
