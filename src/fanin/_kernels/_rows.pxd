"""A caller's array as a kernel's source of rows (see rows.h)."""
from cython cimport floating
from libc.stdint cimport int64_t

cdef extern from "rows.h" nogil:
    ctypedef struct Rows "fanin_rows":
        const char *data
        Py_ssize_t row_stride
        Py_ssize_t col_stride
        int dtype
        int swapped
    void pack_f32 "fanin_pack_f32"(
        float *out, Py_ssize_t ld, const Rows *s, const Py_ssize_t *rows,
        Py_ssize_t first, Py_ssize_t n_rows, Py_ssize_t n_cols)
    void pack_f64 "fanin_pack_f64"(
        double *out, Py_ssize_t ld, const Rows *s, const Py_ssize_t *rows,
        Py_ssize_t first, Py_ssize_t n_rows, Py_ssize_t n_cols)
    void pack_i64 "fanin_pack_i64"(
        int64_t *out, Py_ssize_t ld, const Rows *s, const Py_ssize_t *rows,
        Py_ssize_t first, Py_ssize_t n_rows, Py_ssize_t n_cols)
    enum:
        F32 "FANIN_F32"
        F64 "FANIN_F64"

# out[i, j] = s[row(i), j], row(i) = rows[i] or, without rows, first + i.
cdef inline void pack(
    floating *out, Py_ssize_t ld, const Rows *s, const Py_ssize_t *rows,
    Py_ssize_t first, Py_ssize_t n_rows, Py_ssize_t n_cols
) noexcept nogil:
    if floating is float:
        pack_f32(out, ld, s, rows, first, n_rows, n_cols)
    else:
        pack_f64(out, ld, s, rows, first, n_rows, n_cols)

# Describe a 1-D or 2-D array of a real dtype; TypeError for any other dtype.
cdef int rows_from_array(Rows *s, object array) except -1
