"""Any array as a table of blocks, for other kernels: see source.h for its design."""

cdef extern from "source.h" nogil:
    int FANIN_MAXDIMS
    int FANIN_F16, FANIN_F32, FANIN_F64
    ctypedef struct View "fanin_view":
        char *data
        int type
        int swapped
        int plain
        Py_ssize_t itemsize
        int row_nd
        int col_nd
        Py_ssize_t *row_n
        Py_ssize_t *row_s
        Py_ssize_t *col_n
        Py_ssize_t *col_s
    void axis_order "fanin_axis_order"(
        int *order, int nd, const Py_ssize_t *strides)
    void views_build "fanin_views_build"(
        View **views, int n_views, int nd, const int *order, const Py_ssize_t *shape,
        const Py_ssize_t **strides, const char *reduced)
    bint rows_inner "fanin_rows_inner"(
        const View *v, Py_ssize_t n_rows, Py_ssize_t n_cols)
    void *block_address "fanin_block_address"(
        const View *v, bint rows_inner, Py_ssize_t row, Py_ssize_t rows,
        Py_ssize_t col, Py_ssize_t cols, Py_ssize_t *stride)
    void block_copy "fanin_block_copy"(
        const View *v, void *buffer, bint rows_inner, Py_ssize_t row, Py_ssize_t rows,
        Py_ssize_t col, Py_ssize_t cols, bint store)


# What source.h needs of an array, taken once while the interpreter's lock is held.
cdef struct Array:
    View view
    int nd
    Py_ssize_t shape[64]
    Py_ssize_t strides[64]

# Fill `a` from a NumPy array of a real dtype of at most 64 bits.
cdef int array_init(Array *a, object X) except -1

# Fill reduced[axis] from a sequence of axes, and return the number of rows.
cdef Py_ssize_t reduced_init(char *reduced, const Array *a, object axes) except -1
