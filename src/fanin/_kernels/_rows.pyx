"""From a NumPy array of any real dtype to the C description of its rows.

Design: rows.h packs blocks; this module translates dtype, byte order and strides
once per call.
"""
cimport numpy as cnp

cnp.import_array()

cdef extern from "rows.h":
    enum:
        FANIN_I8
        FANIN_U8
        FANIN_I16
        FANIN_U16
        FANIN_I32
        FANIN_U32
        FANIN_I64
        FANIN_U64
        FANIN_F16
        FANIN_F32
        FANIN_F64
        FANIN_BOOL


cdef int dtype_code(int type_number, int itemsize) noexcept nogil:
    """Return the fanin_dtype, or -1 for a dtype that is not real."""
    if type_number == cnp.NPY_FLOAT:
        return FANIN_F32
    if type_number == cnp.NPY_DOUBLE:
        return FANIN_F64
    if type_number == cnp.NPY_FLOAT16:
        return FANIN_F16
    if type_number == cnp.NPY_BOOL:
        return FANIN_BOOL
    if (type_number == cnp.NPY_BYTE or type_number == cnp.NPY_SHORT
            or type_number == cnp.NPY_INT or type_number == cnp.NPY_LONG
            or type_number == cnp.NPY_LONGLONG):
        if itemsize == 1:
            return FANIN_I8
        if itemsize == 2:
            return FANIN_I16
        return FANIN_I32 if itemsize == 4 else FANIN_I64
    if (type_number == cnp.NPY_UBYTE or type_number == cnp.NPY_USHORT
            or type_number == cnp.NPY_UINT or type_number == cnp.NPY_ULONG
            or type_number == cnp.NPY_ULONGLONG):
        if itemsize == 1:
            return FANIN_U8
        if itemsize == 2:
            return FANIN_U16
        return FANIN_U32 if itemsize == 4 else FANIN_U64
    return -1


cdef int rows_from_array(Rows *s, object array) except -1:
    cdef cnp.ndarray a = array
    cdef int ndim = cnp.PyArray_NDIM(a)
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(a)
    s.data = <const char *>cnp.PyArray_DATA(a)
    s.row_stride = strides[0]
    s.col_stride = strides[1] if ndim > 1 else 0
    s.dtype = dtype_code(cnp.PyArray_TYPE(a), <int>cnp.PyArray_ITEMSIZE(a))
    s.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    if s.dtype < 0:
        raise TypeError(f"dtype {array.dtype} is not a real dtype that fanin reads")
    return 0
