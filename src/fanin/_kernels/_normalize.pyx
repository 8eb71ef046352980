# cython: boundscheck=False, wraparound=False
"""x := (x - mean) / std for every feature, and its inverse: one read, one write.

Design
a) The array is a table of rows and columns, see source.h; a task is a part of it of
   about 512 KiB. What a task writes does not depend on any other, so the split is
   free to follow the layout.
b) Where both arrays have the columns (or the rows) of a part side by side, the loops
   of simd/normalize.c run on them as they lie. Otherwise pieces of at most 64 KiB are
   gathered into a buffer, changed there and scattered.
c) Tasks run from the end of the array to its start: the pass before this one, which
   computed the moments, has left the end in the cache.
d) Arrays of a megabyte are read ahead of the cache, and a result of 16 MiB that is
   not X itself is written past it, see simd/stream.h.
e) Each task lays the parameters of its columns out once: what a std of 0 becomes,
   1 / std for float32, and a power-of-two scale for the rare column whose numbers
   would leave the range of a double on the way.

Cost: one read and one write of memory, 2 or 3 operations per element; 32 kB of
scratch and a 64 KiB buffer per thread.
"""

cimport numpy as cnp
from libc.math cimport INFINITY, fabs, frexp, ldexp
from libc.stdint cimport int32_t
from libc.stdlib cimport free, labs, malloc

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._simd cimport simd_level
from ._source cimport (
    FANIN_F32, Array, View, array_init, axis_order, block_address, block_copy,
    reduced_init, rows_inner, views_build)

cdef extern from "normalize.h" nogil:
    """
    #define FANIN_PICK_NORMALIZE(level) FANIN_SELECT(normalize, level)
    """
    enum:
        FANIN_IN_CACHE
        FANIN_READ_AHEAD
        FANIN_WRITE_PAST
    ctypedef struct Affine "fanin_affine":
        const double *mean
        const double *mean_lo
        const double *std
        const double *scale
    struct fanin_normalize:
        void (*cols_f32)(
            float *y, Py_ssize_t y_stride, const float *x, Py_ssize_t x_stride,
            Py_ssize_t rows, Py_ssize_t w, Affine a, int inverse,
            int stream) noexcept nogil
        void (*cols_f64)(
            double *y, Py_ssize_t y_stride, const double *x, Py_ssize_t x_stride,
            Py_ssize_t rows, Py_ssize_t w, Affine a, int inverse,
            int stream) noexcept nogil
        void (*rows_f32)(
            float *y, Py_ssize_t y_stride, const float *x, Py_ssize_t x_stride,
            Py_ssize_t rows, Py_ssize_t cols, Affine a, int inverse,
            int stream) noexcept nogil
        void (*rows_f64)(
            double *y, Py_ssize_t y_stride, const double *x, Py_ssize_t x_stride,
            Py_ssize_t rows, Py_ssize_t cols, Affine a, int inverse,
            int stream) noexcept nogil
    const fanin_normalize *FANIN_PICK_NORMALIZE(int level)

cdef extern from "stream.h" nogil:
    enum:
        FANIN_LINE
    bint fanin_write_past_pays(Py_ssize_t bytes)

cdef const fanin_normalize *kernels = FANIN_PICK_NORMALIZE(simd_level())

cnp.import_array()

cdef enum:
    TASK_BYTES = 512 * 1024
    WIDTH = 1024             # of a tile's, or a stacked row's, parameters
    NARROW = 128             # rows shorter than this are stacked; divides BUFFER
    COLUMN_TILE = 32         # rows inner
    BUFFER = 8192            # elements of a gathered piece
    PIECE_COLUMNS = 64
    LONG_PIECE = 512
    READ_AHEAD_BYTES = 1024 * 1024
    SMALL = 32 * 1024        # elements that are not worth a second thread
    SHORT = 4096             # nor worth letting go of the interpreter's lock

cdef struct Job:
    View x
    View y
    bint inner
    bint is_float
    bint inverse
    bint zero
    bint scaled              # some column needs a scale
    int stream               # how to go through memory, see normalize.h
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t tile
    Py_ssize_t n_tiles
    Py_ssize_t part          # rows of a task
    Py_ssize_t n_parts
    const double *mean
    const double *mean_lo    # or NULL
    const double *std
    const int32_t *exponent  # or NULL
    double *work             # 4 * WIDTH + BUFFER per worker


cdef int scale_exponent(const Job *job, Py_ssize_t c) noexcept nogil:
    """e such that x 2^-e, mean and std of it are safe to compute with; mostly 0."""
    cdef double mean = fabs(job.mean[c])
    cdef double std = fabs(job.std[c])
    cdef int e, limit
    if job.exponent != NULL and job.exponent[c] != 0:
        return job.exponent[c]
    if job.inverse:
        return 0
    if mean > 1e300 or std > 1e300:
        return 20
    if std >= 1e-290 or std == 0.0:
        return 0
    frexp(std, &e)
    frexp(mean, &limit)
    e = max(e, -1000)
    return e if mean == 0.0 else max(e, limit - 1000)


cdef Affine parameters(
    const Job *job, double *work, Py_ssize_t col, Py_ssize_t cols, Py_ssize_t stack
) noexcept nogil:
    """The parameters of a tile, laid end to end `stack` times."""
    cdef Affine a
    cdef double *mean = work
    cdef double *lo = work + WIDTH
    cdef double *std = work + 2 * WIDTH
    cdef double *scale = work + 3 * WIDTH
    cdef Py_ssize_t c, i
    cdef int e
    cdef double s
    for c in range(cols):
        i = col + c
        mean[c] = job.mean[i]
        lo[c] = 0.0 if job.mean_lo == NULL else job.mean_lo[i]
        s = job.std[i]
        if job.scaled:
            e = scale_exponent(job, i)
            scale[c] = ldexp(1.0, -e)
            if job.exponent == NULL or job.exponent[i] == 0:
                # Given as they are; a state with an exponent is scaled already.
                mean[c] *= scale[c]
                lo[c] *= scale[c]
                s *= scale[c]
        if s == 0.0:
            s = 1.0
            if job.zero:
                s = INFINITY
            elif job.scaled:
                s = scale[c]
        if job.is_float and not job.scaled and not job.inverse:
            s = 1.0 / s
        std[c] = s
    for c in range(cols, cols * stack):
        mean[c] = mean[c - cols]
        lo[c] = lo[c - cols]
        std[c] = std[c - cols]
        if job.scaled:
            scale[c] = scale[c - cols]
    a.mean = mean
    a.mean_lo = lo
    a.std = std
    a.scale = scale if job.scaled else NULL
    return a


cdef Affine moved(Affine a, Py_ssize_t i) noexcept nogil:
    a.mean += i
    a.mean_lo += i
    a.std += i
    if a.scale != NULL:
        a.scale += i
    return a


cdef void compute(
    const Job *job, void *y, Py_ssize_t y_stride, const void *x, Py_ssize_t x_stride,
    Py_ssize_t rows, Py_ssize_t cols, Affine a
) noexcept nogil:
    if job.inner and job.is_float:
        kernels.rows_f32(
            <float *>y, y_stride, <const float *>x, x_stride, rows, cols, a,
            job.inverse, job.stream)
    elif job.inner:
        kernels.rows_f64(
            <double *>y, y_stride, <const double *>x, x_stride, rows, cols, a,
            job.inverse, job.stream)
    elif job.is_float:
        kernels.cols_f32(
            <float *>y, y_stride, <const float *>x, x_stride, rows, cols, a,
            job.inverse, job.stream)
    else:
        kernels.cols_f64(
            <double *>y, y_stride, <const double *>x, x_stride, rows, cols, a,
            job.inverse, job.stream)


cdef Py_ssize_t piece_columns(const Job *job) noexcept nogil:
    """The width of a gathered piece: long runs, but square where one side lies the
    other way."""
    if job.inner:
        return COLUMN_TILE
    if (labs(job.x.col_s[0]) <= FANIN_LINE and labs(job.y.col_s[0]) <= FANIN_LINE):
        return LONG_PIECE
    return PIECE_COLUMNS


cdef void piecewise(
    const Job *job, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t col, Py_ssize_t cols,
    Affine a, void *buffer
) noexcept nogil:
    """A part that is not one plain block in both arrays."""
    cdef Py_ssize_t width = min(cols, piece_columns(job))
    cdef Py_ssize_t height = BUFFER // width
    cdef Py_ssize_t r, c, n_r, n_c, x_stride, y_stride, dense
    cdef void *x
    cdef void *y
    r = row
    while r < row + rows:
        n_r = min(height, row + rows - r)
        c = col
        while c < col + cols:
            n_c = min(width, col + cols - c)
            dense = n_r if job.inner else n_c
            x = block_address(&job.x, job.inner, r, n_r, c, n_c, &x_stride)
            y = block_address(&job.y, job.inner, r, n_r, c, n_c, &y_stride)
            if x == NULL:
                block_copy(&job.x, buffer, job.inner, r, n_r, c, n_c, False)
                x = buffer
                x_stride = dense
            if y == NULL:
                compute(job, buffer, dense, x, x_stride, n_r, n_c, moved(a, c - col))
                block_copy(&job.y, buffer, job.inner, r, n_r, c, n_c, True)
            else:
                compute(job, y, y_stride, x, x_stride, n_r, n_c, moved(a, c - col))
            c += n_c
        r += n_r


cdef Py_ssize_t stack_of(Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """How many short rows make one that is worth vectorizing."""
    cdef Py_ssize_t stack = 1
    if cols >= NARROW:
        return 1
    while (stack < rows and (stack + 1) * cols <= WIDTH
           and (stack * cols < NARROW or stack * cols % 16 != 0)):
        stack += 1
    return min(stack, max(1, rows // 4))


cdef void stacked(
    const Job *job, char *y, Py_ssize_t y_stride, const char *x, Py_ssize_t x_stride,
    Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stack, Affine a
) noexcept nogil:
    """A plain block in both arrays, whose rows lie end to end if stack > 1."""
    cdef Py_ssize_t at = rows // stack * stack * cols * (4 if job.is_float else 8)
    compute(
        job, y, y_stride * stack, x, x_stride * stack, rows // stack, cols * stack, a)
    if rows % stack != 0:
        compute(job, y + at, 0, x + at, 0, 1, rows % stack * cols, a)


cdef void dense_part(
    const Job *job, char *y, Py_ssize_t y_stride, const char *x, Py_ssize_t x_stride,
    Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t col, double *work
) noexcept nogil:
    """A part that is one plain block in both arrays."""
    cdef Py_ssize_t stack = 1
    if not job.inner and x_stride == cols and y_stride == cols:
        stack = stack_of(rows, cols)
    stacked(
        job, y, y_stride, x, x_stride, rows, cols, stack,
        parameters(job, work, col, cols, stack))


cdef void narrow_part(
    const Job *job, char *y, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t col,
    Py_ssize_t cols, double *work
) noexcept nogil:
    """Short rows with gaps that go to rows without: gathered, they can be stacked."""
    cdef Py_ssize_t size = 4 if job.is_float else 8
    cdef Py_ssize_t height = BUFFER // cols // 64 * 64
    cdef Py_ssize_t stack = stack_of(min(height, rows), cols)
    cdef Py_ssize_t r = 0
    cdef Py_ssize_t n
    cdef char *buffer = <char *>(work + 4 * WIDTH)
    cdef Affine a = parameters(job, work, col, cols, stack)
    while r < rows:
        n = min(height, rows - r)
        block_copy(&job.x, buffer, False, row + r, n, col, cols, False)
        stacked(job, y + r * cols * size, cols, buffer, cols, n, cols, stack, a)
        r += n


cdef void part_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t at = job.n_parts * job.n_tiles - 1 - i
    cdef Py_ssize_t row = at // job.n_tiles * job.part
    cdef Py_ssize_t col = at % job.n_tiles * job.tile
    cdef Py_ssize_t rows = min(job.part, job.n_rows - row)
    cdef Py_ssize_t cols = min(job.tile, job.n_cols - col)
    cdef Py_ssize_t x_stride = 0
    cdef Py_ssize_t y_stride = 0
    cdef double *work = job.work + worker * <Py_ssize_t>(4 * WIDTH + BUFFER)
    cdef char *x = <char *>block_address(
        &job.x, job.inner, row, rows, col, cols, &x_stride)
    cdef char *y = <char *>block_address(
        &job.y, job.inner, row, rows, col, cols, &y_stride)
    cdef Affine a
    if y != NULL and y_stride == cols and cols < NARROW and not job.inner and (
            x == NULL or x_stride != cols):
        narrow_part(job, y, row, rows, col, cols, work)
        return
    if x == NULL or y == NULL:
        a = parameters(job, work, col, cols, 1)
        piecewise(job, row, rows, col, cols, a, work + 4 * WIDTH)
        return
    dense_part(job, y, y_stride, x, x_stride, rows, cols, col, work)


cdef void lay_tiles(Job *job, Py_ssize_t size) noexcept nogil:
    """The columns of a task: a tile as wide as its parameters have room for."""
    cdef Py_ssize_t stride
    cdef Py_ssize_t tasks = 1
    job.inner = rows_inner(&job.x, job.n_rows, job.n_cols)
    if job.inner:
        job.tile = COLUMN_TILE
        if (block_address(&job.x, True, 0, job.n_rows, 0, 1, &stride) != NULL
                and block_address(&job.y, True, 0, job.n_rows, 0, 1, &stride) != NULL):
            # Whole columns, for long runs through memory.
            job.tile = max(1, min(WIDTH, TASK_BYTES // (job.n_rows * size)))
        job.tile = min(job.tile, job.n_cols)
    else:
        tasks = (job.n_cols + WIDTH - 1) // WIDTH
        job.tile = (job.n_cols + tasks - 1) // tasks
        if tasks > 1:
            job.tile = (job.tile + 15) // 16 * 16
    job.n_tiles = (job.n_cols + job.tile - 1) // job.tile


cdef int run(Job *job, int n_threads) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef Call call
    cdef int status
    cdef Py_ssize_t c
    cdef Py_ssize_t size = 4 if job.is_float else 8
    cdef Py_ssize_t workers = 1 if job.n_rows * job.n_cols <= SMALL else n_threads
    cdef Py_ssize_t bytes = job.n_rows * job.n_cols * size
    lay_tiles(job, size)
    job.stream = FANIN_IN_CACHE
    if bytes >= READ_AHEAD_BYTES:
        job.stream = FANIN_READ_AHEAD
    if job.x.data != job.y.data and fanin_write_past_pays(bytes):
        job.stream = FANIN_WRITE_PAST
    job.part = max(1, TASK_BYTES // (job.tile * size))
    if job.part >= 64:
        job.part = job.part // 64 * 64
    job.n_parts = (job.n_rows + job.part - 1) // job.part
    workers = min(workers, job.n_parts * job.n_tiles)
    job.scaled = False
    for c in range(job.n_cols):
        if scale_exponent(job, c) != 0:
            job.scaled = True
            break
    job.work = <double *>malloc(<size_t>(workers * (4 * WIDTH + BUFFER) * 8))
    if job.work == NULL:
        return -2
    call_begin(&call, <int>workers)
    status = parallel_for(&call, part_task, job, job.n_parts * job.n_tiles)
    free(job.work)
    return status


def normalize_forward(
    out, X, axes, const double[::1] mean, const double[::1] mean_lo,
    const double[::1] std, const int32_t[::1] exponent, bint zero, bint inverse,
    int n_threads
):
    """Write (X - mean) / std, or with `inverse` X * std + mean, to `out`.

    Parameters
    ----------
    out : array of X's shape; float32 for float16 and float32, else float64 # OUT
        May be X itself; any other overlap is the caller's to refuse.
    X : array of a real dtype, not empty                               # IN
    axes : sequence of int
        The axes that are rows; the columns are numbered as `_source.column_order`
        of X says.
    mean, std : arrays of shape (n_columns,)                           # IN
        Where std is 0, the column is divided by 1.
    mean_lo : array of shape (n_columns,) or None                      # IN
        The part of the mean that a double has no room for.
    exponent : array of shape (n_columns,) or None                     # IN
        Mean and std of a column are given times 2^-exponent.
    zero : bool
        Write 0 where std is 0, instead.
    inverse : bool
    n_threads : int
    """
    cdef Array x
    cdef Array y
    cdef Job job
    cdef char reduced[64]
    cdef int order[64]
    cdef View *views[2]
    cdef const Py_ssize_t *strides[2]
    cdef int status
    array_init(&x, X)
    array_init(&y, out)
    job.n_rows = reduced_init(reduced, &x, axes)
    job.n_cols = mean.shape[0]
    axis_order(order, x.nd, x.strides)
    views[0] = &x.view
    views[1] = &y.view
    strides[0] = x.strides
    strides[1] = y.strides
    views_build(views, 2, x.nd, order, x.shape, strides, reduced)
    job.x = x.view
    job.y = y.view
    job.is_float = y.view.type == FANIN_F32
    job.zero = zero
    job.inverse = inverse
    job.mean = &mean[0]
    job.std = &std[0]
    job.mean_lo = NULL if mean_lo is None else &mean_lo[0]
    job.exponent = NULL if exponent is None else &exponent[0]
    with nogil:
        status = run(&job, n_threads)
    if status == -1:
        raise_pending()
    if status == -2:
        raise MemoryError("normalize: no memory for the parameters of a part")


cdef bint is_plain(object array, int type) noexcept:
    """Whether an object is an array that the kernels can index by itself."""
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(array) == type
            and cnp.PyArray_ISCARRAY_RO(array))


cdef bint are_apart(object a, object b) noexcept:
    cdef char *p = cnp.PyArray_BYTES(a)
    cdef char *q = cnp.PyArray_BYTES(b)
    return p + cnp.PyArray_NBYTES(a) <= q or q + cnp.PyArray_NBYTES(b) <= p


cdef bint is_feature_wise(object values, object X) noexcept:
    """Whether `values` are plain float64 in the shape of X's rows."""
    cdef int d
    if not is_plain(values, cnp.NPY_FLOAT64):
        return False
    if cnp.PyArray_NDIM(values) != cnp.PyArray_NDIM(X) - 1:
        return False
    for d in range(cnp.PyArray_NDIM(values)):
        if cnp.PyArray_DIM(values, d) != cnp.PyArray_DIM(X, d + 1):
            return False
    return True


def normalize_small(out, X, mean, std, bint zero, bint inverse):
    """Return what `normalize_forward` writes for axis 0, or None if X is not simple.

    Checks and computes in one call, for data so small that time goes into checking:
    at most 32,768 elements and 1,024 columns, exact arrays in C order and native byte
    order, float32 or float64, no overlap, nothing close to the ends of a double's
    range. Whatever is otherwise, or wrong, is the caller's.

    Parameters
    ----------
    out : array, or None for a new one                                 # OUT
    X : any object                                                     # IN
    mean, std : any objects                                            # IN
    zero, inverse : bool
        As in `normalize_forward`.
    """
    cdef Job job
    cdef double work[4 * WIDTH]
    cdef int type = cnp.NPY_FLOAT64
    cdef Py_ssize_t size, c, d
    cdef double m, s
    if not is_plain(X, type):
        type = cnp.NPY_FLOAT32
        if not is_plain(X, type):
            return None
    size = cnp.PyArray_SIZE(X)
    if (size == 0 or size > SMALL or cnp.PyArray_NDIM(X) == 0
            or not is_feature_wise(mean, X) or not is_feature_wise(std, X)):
        return None
    job.n_rows = cnp.PyArray_DIM(X, 0)
    job.n_cols = size // job.n_rows
    if job.n_cols > WIDTH:
        return None
    job.mean = <const double *>cnp.PyArray_BYTES(mean)
    job.std = <const double *>cnp.PyArray_BYTES(std)
    for c in range(job.n_cols):
        m = fabs(job.mean[c])
        s = job.std[c]
        if m > 1e300 or s > 1e300 or (s < 1e-290 and s != 0.0):
            return None
    if out is None:
        out = cnp.PyArray_EMPTY(
            cnp.PyArray_NDIM(X), cnp.PyArray_DIMS(X), type, False)
    else:
        if (not is_plain(out, type) or not cnp.PyArray_ISWRITEABLE(out)
                or cnp.PyArray_NDIM(out) != cnp.PyArray_NDIM(X)
                or not are_apart(out, mean) or not are_apart(out, std)):
            return None
        for d in range(cnp.PyArray_NDIM(X)):
            if cnp.PyArray_DIM(out, <int>d) != cnp.PyArray_DIM(X, <int>d):
                return None
        if (cnp.PyArray_BYTES(out) != cnp.PyArray_BYTES(X)
                and not are_apart(out, X)):
            return None
    job.mean_lo = NULL
    job.exponent = NULL
    job.inner = False
    job.is_float = type == cnp.NPY_FLOAT32
    job.zero = zero
    job.inverse = inverse
    job.scaled = False
    job.stream = FANIN_IN_CACHE
    cdef char *y = cnp.PyArray_BYTES(out)
    cdef char *x = cnp.PyArray_BYTES(X)
    if size > SHORT:
        with nogil:
            dense_part(
                &job, y, job.n_cols, x, job.n_cols, job.n_rows, job.n_cols, 0, work)
    else:
        dense_part(
            &job, y, job.n_cols, x, job.n_cols, job.n_rows, job.n_cols, 0, work)
    return out
