# cython: boundscheck=False, wraparound=False
"""Layer and RMS normalization, forward and backward: each row read once.

Design
a) The array is a table (source.h) whose columns are the normalized axes. Rows are cut
   into tasks by the shape alone; a task takes them in blocks that fit the L1 cache and
   runs the passes of simd/layer_norm.c over each. Blocks that do not lie in memory as
   runs of native float32 or float64 are gathered into a buffer, and the result is
   scattered.
b) dgamma and dbeta are sums over all rows: each task adds to a partial result of its
   own, and the partial results are merged in order, in waves so that they stay few.
   So the bits do not depend on the number of threads.
c) Rows longer than LONG_ROW would not stay in the cache and would keep one thread for
   too long. Their statistics come from _moments (norm_statistics), and they are cut
   into tiles of columns: forward one pass that knows the statistics; backward, for a
   few rows at a time, the tiles' sums, their merging in order, and the gradient.
d) Results much larger than a cache are written past it (simd/writer.h).

Cost: forward one read, one write; backward two reads, one write (long rows: forward
two reads). Per thread: a block of 16 KiB or one row for each array that is gathered,
and in the backward pass 16 bytes per column of each partial result.
"""

from cython cimport floating
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._simd cimport simd_level
from ._source cimport (
    FANIN_F32, Array, View, array_init, axis_order, block_address, block_copy,
    views_build)

cnp.import_array()

cdef extern from "layer_norm.h" nogil:
    """
    #define FANIN_PICK_LAYER_NORM(level) FANIN_SELECT(layer_norm, level)
    """
    enum:
        BLOCK_ROWS "FANIN_LAYER_NORM_ROWS"
    ctypedef void (*Statistics)(
        NormRows to, const void *x, Py_ssize_t x_stride, Py_ssize_t rows, Py_ssize_t w,
        double eps, int centre) noexcept nogil
    ctypedef void (*Apply)(
        void *y, Py_ssize_t y_stride, const void *x, Py_ssize_t x_stride,
        Py_ssize_t rows, Py_ssize_t w, NormRows s, const double *gamma,
        const double *beta, int past) noexcept nogil
    ctypedef void (*Sums)(
        double *c1, double *c2, double *dgamma, double *dbeta, const void *dy,
        Py_ssize_t dy_stride, const void *x, Py_ssize_t x_stride, Py_ssize_t rows,
        Py_ssize_t w, NormRows s, const double *gamma) noexcept nogil
    ctypedef void (*Gradient)(
        void *dx, Py_ssize_t dx_stride, const void *dy, Py_ssize_t dy_stride,
        const void *x, Py_ssize_t x_stride, Py_ssize_t rows, Py_ssize_t w, NormRows s,
        const double *gamma, const double *c1, const double *c2, double n, int centre,
        int past) noexcept nogil
    ctypedef void (*Backward)(
        void *dx, Py_ssize_t dx_stride, double *dgamma, double *dbeta, const void *dy,
        Py_ssize_t dy_stride, const void *x, Py_ssize_t x_stride, Py_ssize_t rows,
        Py_ssize_t w, NormRows s, const double *gamma, int centre,
        int past) noexcept nogil
    struct fanin_layer_norm:
        Statistics statistics[2]
        Apply apply[2]
        Sums sums[2]
        Gradient gradient[2]
        Backward backward[2]
    const fanin_layer_norm *FANIN_PICK_LAYER_NORM(int level)

cdef extern from "stream.h" nogil:
    int fanin_write_past_pays(Py_ssize_t bytes)
    void fanin_write_done()

cdef const fanin_layer_norm *kernels = FANIN_PICK_LAYER_NORM(simd_level())

cdef enum:
    LONG = 16384             # columns
    TILE = 4096              # columns of a tile of a long row
    BLOCK_BYTES = 16 * 1024
    TASK_BYTES = 1024 * 1024
    TASK_ROWS = 16           # at least, so that merging stays small beside the work
    PARTIAL_BYTES = 256 * 1024
    SMALL = 32 * 1024        # elements that are not worth a second thread

# Rows of more elements than this need statistics that are known.
LONG_ROW = LONG

cdef struct Job:
    View x
    View y                   # the result: y or dx
    View dy
    int kind                 # 0: float, 1: double
    bint centre
    bint known               # the statistics are given
    bint past
    bint x_direct            # rows lie as runs: no gathering
    bint y_direct
    bint dy_direct
    bint wanted              # dgamma and dbeta
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t tile
    Py_ssize_t n_tiles
    Py_ssize_t block         # rows of a block
    Py_ssize_t part          # rows of a task
    Py_ssize_t n_parts
    NormRows stats
    double eps
    const double *gamma
    const double *beta
    # Backward.
    double *partial          # of a wave: dgamma and dbeta of each part
    Py_ssize_t first         # part (long rows: row) of this wave
    Py_ssize_t n_wave
    double *c                # long rows: sums of the wave's rows; per row and tile
    double *pieces
    double *total            # dgamma, then dbeta
    char *buffers
    Py_ssize_t buffer_bytes  # of one of two a worker


cdef bint is_direct(const View *v, Py_ssize_t n_cols) noexcept nogil:
    return v.plain and (
        n_cols == 1 or (v.col_nd == 1 and v.col_s[0] == v.itemsize))


cdef void lay_grid(Job *job) noexcept nogil:
    cdef Py_ssize_t size = 8 if job.kind else 4
    cdef Py_ssize_t row = job.n_cols * size
    job.tile = job.n_cols
    if job.known and job.n_cols > LONG:
        job.tile = TILE
    job.n_tiles = (job.n_cols + job.tile - 1) // job.tile
    job.block = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (job.tile * size)))
    job.part = max(TASK_ROWS, TASK_BYTES // row) if job.n_tiles == 1 else 1
    if job.part > job.block:
        job.part = job.part // job.block * job.block
    job.n_parts = (job.n_rows + job.part - 1) // job.part
    job.x_direct = is_direct(&job.x, job.n_cols)
    job.y_direct = is_direct(&job.y, job.n_cols)
    job.past = job.past and job.y_direct
    job.buffer_bytes = (job.block * job.tile * size + 63) // 64 * 64


cdef Py_ssize_t workers_of(
    const Job *job, int n_threads, Py_ssize_t n_tasks
) noexcept nogil:
    if job.n_rows * job.n_cols <= SMALL:
        return 1
    return min(<Py_ssize_t>n_threads, n_tasks)


cdef void *source(
    const View *v, bint direct, char *buffer, Py_ssize_t row, Py_ssize_t rows,
    Py_ssize_t col, Py_ssize_t cols, Py_ssize_t *stride
) noexcept nogil:
    """Where to read a block: where it lies, or gathered into `buffer`."""
    cdef void *place = NULL
    if direct:
        place = block_address(v, False, row, rows, col, cols, stride)
    if place == NULL:
        block_copy(v, buffer, False, row, rows, col, cols, False)
        stride[0] = cols
        return buffer
    return place


cdef void *destination(
    const View *v, bint direct, char *buffer, Py_ssize_t row, Py_ssize_t rows,
    Py_ssize_t col, Py_ssize_t cols, Py_ssize_t *stride
) noexcept nogil:
    """Where to write a block; in `buffer` it has to be scattered from there."""
    cdef void *place = NULL
    if direct:
        place = block_address(v, False, row, rows, col, cols, stride)
    if place == NULL:
        stride[0] = cols
        return buffer
    return place


cdef Py_ssize_t rows_ahead(
    const Job *job, Py_ssize_t row, Py_ssize_t end
) noexcept nogil:
    """How many rows from `row` a block takes: none that a jump in memory divides."""
    cdef Py_ssize_t inner = job.x.row_n[0]
    return min(min(job.block, end - row), inner - row % inner)


cdef void forward_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t row = i // job.n_tiles * job.part
    cdef Py_ssize_t end = min(row + job.part, job.n_rows)
    cdef Py_ssize_t col = i % job.n_tiles * job.tile
    cdef Py_ssize_t cols = min(job.tile, job.n_cols - col)
    cdef char *buffer = job.buffers + worker * job.buffer_bytes
    cdef Py_ssize_t rows
    cdef Py_ssize_t x_stride = 0
    cdef Py_ssize_t y_stride = 0
    cdef void *x
    cdef void *y
    cdef NormRows s
    while row < end:
        rows = rows_ahead(job, row, end)
        s = norm_rows_at(job.stats, row)
        x = source(&job.x, job.x_direct, buffer, row, rows, col, cols, &x_stride)
        y = destination(&job.y, job.y_direct, buffer, row, rows, col, cols, &y_stride)
        if not job.known:
            kernels.statistics[job.kind](
                s, x, x_stride, rows, cols, job.eps, job.centre)
        kernels.apply[job.kind](
            y, y_stride, x, x_stride, rows, cols, s, job.gamma + col, job.beta + col,
            job.past)
        if y == buffer:
            block_copy(&job.y, buffer, False, row, rows, col, cols, True)
        row += rows
    if job.past:
        fanin_write_done()


cdef int run_forward(Job *job, int n_threads) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef Call call
    cdef int status
    cdef Py_ssize_t workers
    lay_grid(job)
    workers = workers_of(job, n_threads, job.n_parts * job.n_tiles)
    job.buffers = NULL
    if job.x_direct and job.y_direct:
        job.buffer_bytes = 0
    else:
        job.buffers = <char *>malloc(<size_t>(workers * job.buffer_bytes))
        if job.buffers == NULL:
            return -2
    call_begin(&call, <int>workers)
    status = parallel_for(&call, forward_task, job, job.n_parts * job.n_tiles)
    free(job.buffers)
    return status


cdef void backward_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    """The gradient of a part, and its share of dgamma and dbeta."""
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t row = (job.first + i) * job.part
    cdef Py_ssize_t end = min(row + job.part, job.n_rows)
    cdef Py_ssize_t cols = job.n_cols
    cdef char *x_buffer = job.buffers + 2 * worker * job.buffer_bytes
    cdef char *buffer = x_buffer + job.buffer_bytes
    cdef double *dgamma = NULL
    cdef double *dbeta = NULL
    cdef Py_ssize_t rows
    cdef Py_ssize_t x_stride = 0
    cdef Py_ssize_t dy_stride = 0
    cdef Py_ssize_t y_stride = 0
    cdef void *x
    cdef void *y
    cdef void *dy
    cdef NormRows s
    if job.wanted:
        dgamma = job.partial + i * 2 * cols
        dbeta = dgamma + cols
        memset(dgamma, 0, <size_t>(2 * cols) * sizeof(double))
    while row < end:
        rows = rows_ahead(job, row, end)
        s = norm_rows_at(job.stats, row)
        x = source(&job.x, job.x_direct, x_buffer, row, rows, 0, cols, &x_stride)
        dy = source(&job.dy, job.dy_direct, buffer, row, rows, 0, cols, &dy_stride)
        y = destination(&job.y, job.y_direct, buffer, row, rows, 0, cols, &y_stride)
        kernels.backward[job.kind](
            y, y_stride, dgamma, dbeta, dy, dy_stride, x, x_stride, rows, cols, s,
            job.gamma, job.centre, job.past)
        if y == buffer:
            block_copy(&job.y, buffer, False, row, rows, 0, cols, True)
        row += rows
    if job.past:
        fanin_write_done()


cdef void long_sums_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    """The sums of one tile of the wave's rows; its dgamma and dbeta belong to it."""
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t col = i * job.tile
    cdef Py_ssize_t cols = min(job.tile, job.n_cols - col)
    cdef char *x_buffer = job.buffers + 2 * worker * job.buffer_bytes
    cdef char *buffer = x_buffer + job.buffer_bytes
    cdef Py_ssize_t r
    cdef Py_ssize_t x_stride = 0
    cdef Py_ssize_t dy_stride = 0
    cdef double *piece
    cdef void *x
    cdef void *dy
    for r in range(job.n_wave):
        x = source(
            &job.x, job.x_direct, x_buffer, job.first + r, 1, col, cols, &x_stride)
        dy = source(
            &job.dy, job.dy_direct, buffer, job.first + r, 1, col, cols, &dy_stride)
        piece = job.pieces + 2 * (r * job.n_tiles + i)
        kernels.sums[job.kind](
            piece, piece + 1, job.total + col if job.wanted else NULL,
            job.total + job.n_cols + col, dy, dy_stride, x, x_stride, 1, cols,
            norm_rows_at(job.stats, job.first + r), job.gamma + col)


cdef void long_gradient_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t r = i // job.n_tiles
    cdef Py_ssize_t col = i % job.n_tiles * job.tile
    cdef Py_ssize_t cols = min(job.tile, job.n_cols - col)
    cdef char *x_buffer = job.buffers + 2 * worker * job.buffer_bytes
    cdef char *buffer = x_buffer + job.buffer_bytes
    cdef Py_ssize_t row = job.first + r
    cdef Py_ssize_t x_stride = 0
    cdef Py_ssize_t dy_stride = 0
    cdef Py_ssize_t y_stride = 0
    cdef void *x = source(
        &job.x, job.x_direct, x_buffer, row, 1, col, cols, &x_stride)
    cdef void *dy = source(
        &job.dy, job.dy_direct, buffer, row, 1, col, cols, &dy_stride)
    cdef void *y = destination(
        &job.y, job.y_direct, buffer, row, 1, col, cols, &y_stride)
    kernels.gradient[job.kind](
        y, y_stride, dy, dy_stride, x, x_stride, 1, cols,
        norm_rows_at(job.stats, row), job.gamma + col, job.c + 2 * r,
        job.c + 2 * r + 1, <double>job.n_cols, job.centre, job.past)
    if y == buffer:
        block_copy(&job.y, buffer, False, row, 1, col, cols, True)
    if job.past:
        fanin_write_done()


cdef int run_backward(Job *job, int n_threads) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef Call call
    cdef int status = 0
    cdef Py_ssize_t size = 8 if job.kind else 4
    cdef Py_ssize_t wave, slots, i, k, workers
    cdef bint tiled
    job.known = True
    lay_grid(job)
    tiled = job.n_tiles > 1
    job.dy_direct = is_direct(&job.dy, job.n_cols)
    if job.x_direct and job.y_direct and job.dy_direct:
        job.buffer_bytes = 0
    if tiled:
        wave = max(1, TASK_BYTES // (job.n_cols * size))
        wave = min(wave, job.n_rows)
        slots = wave * 2 * (1 + job.n_tiles)
        workers = workers_of(job, n_threads, job.n_tiles * wave)
    else:
        workers = workers_of(job, n_threads, job.n_parts)
        wave = min(job.n_parts, max(PARTIAL_BYTES // (16 * job.n_cols), 2 * workers))
        slots = wave * 2 * job.n_cols if job.wanted else 0
    job.partial = <double *>malloc(<size_t>(
        slots * 8 + 64 + 2 * workers * job.buffer_bytes))
    if job.partial == NULL:
        return -2
    job.buffers = <char *>(job.partial + slots)
    job.c = job.partial
    job.pieces = job.partial + 2 * wave
    memset(job.total, 0, <size_t>(2 * job.n_cols) * sizeof(double))
    call_begin(&call, <int>workers)
    job.first = 0
    while status == 0 and job.first < (job.n_rows if tiled else job.n_parts):
        job.n_wave = min(wave, (job.n_rows if tiled else job.n_parts) - job.first)
        if tiled:
            status = parallel_for(&call, long_sums_task, job, job.n_tiles)
            for i in range(job.n_wave):
                job.c[2 * i] = job.c[2 * i + 1] = 0.0
                for k in range(job.n_tiles):
                    job.c[2 * i] += job.pieces[2 * (i * job.n_tiles + k)]
                    job.c[2 * i + 1] += job.pieces[2 * (i * job.n_tiles + k) + 1]
            if status == 0:
                status = parallel_for(
                    &call, long_gradient_task, job, job.n_wave * job.n_tiles)
        else:
            status = parallel_for(&call, backward_task, job, job.n_wave)
            if job.wanted and status == 0:
                for i in range(job.n_wave):
                    for k in range(2 * job.n_cols):
                        job.total[k] += job.partial[i * 2 * job.n_cols + k]
        job.first += job.n_wave
    free(job.partial)
    return status


cdef double *data_of(object array) except NULL:
    return <double *>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef NormRows stats_of(object stats, bint is_float) except *:
    cdef NormRows s
    cdef Py_ssize_t n = cnp.PyArray_DIM(<cnp.ndarray>stats, 1)
    s.mean = data_of(stats)
    s.rstd = s.mean + n
    s.lo = NULL if is_float else s.mean + 2 * n
    s.scale = NULL if is_float else s.mean + 3 * n
    return s


cdef int describe(Job *job, Array *x, Array *y, Array *dy, object axes) except -1:
    """Fill the views of a job from arrays of one shape; rows are all but `axes`."""
    cdef char row_axes[64]
    cdef int order[64]
    cdef View *views[3]
    cdef const Py_ssize_t *strides[3]
    cdef int d
    job.n_rows = job.n_cols = 1
    for d in range(x.nd):
        row_axes[d] = 1
    for d in axes:
        row_axes[d] = 0
        job.n_cols *= x.shape[d]
    for d in range(x.nd):
        if row_axes[d]:
            job.n_rows *= x.shape[d]
    axis_order(order, x.nd, x.strides)
    views[0] = &x.view
    views[1] = &y.view
    strides[0] = x.strides
    strides[1] = y.strides
    if dy != NULL:
        views[2] = &dy.view
        strides[2] = dy.strides
    views_build(
        views, 2 if dy == NULL else 3, x.nd, order, x.shape, strides, row_axes)
    job.x = x.view
    job.y = y.view
    job.kind = 0 if y.view.type == FANIN_F32 else 1
    job.past = fanin_write_past_pays(
        job.n_rows * job.n_cols * (8 if job.kind else 4))
    if y.view.data == x.view.data or (dy != NULL and y.view.data == dy.view.data):
        job.past = False
    if dy != NULL:
        job.dy = dy.view
    return 0


def layer_norm_forward(
    out, stats, X, axes, gamma, beta, double eps, bint centre, bint known,
    int n_threads
):
    """Write (X - mean) / sqrt(var + eps) * gamma + beta, row by row, to `out`.

    Parameters
    ----------
    out : array of X's shape; float32 for float16 and float32, else float64 # OUT
        May be X itself; any other overlap is the caller's to refuse.
    stats : array of shape (2 or 4, n_rows), float64, C-contiguous     # OUT
        mean and rstd of each row; float64 results: also lo and scale, so that
        xhat = ((x scale - mean) - lo) rstd. Rows are numbered as
        `_source.column_order(X, axes)` says.
    X : array of a real dtype, not empty                               # IN
    axes : sequence of int
        The normalized axes; each place along the others is a row.
    gamma, beta : arrays of shape (n_columns,), float64, C-contiguous  # IN
        Columns are numbered as `_source.column_order(X, other axes)` says.
    eps : float
    centre : bool
        Without it the mean is taken as 0: RMS normalization.
    known : bool
        `stats` is given. It has to be for rows of more than LONG_ROW values.
    n_threads : int
    """
    cdef Array x
    cdef Array y
    cdef Job job
    cdef int status
    array_init(&x, X)
    array_init(&y, out)
    describe(&job, &x, &y, NULL, axes)
    job.stats = stats_of(stats, job.kind == 0)
    job.gamma = data_of(gamma)
    job.beta = data_of(beta)
    job.eps = eps
    job.centre = centre
    job.known = known
    with nogil:
        status = run_forward(&job, n_threads)
    if status == -1:
        raise_pending()
    if status == -2:
        raise MemoryError("layer_norm: no memory to gather rows")


def layer_norm_backward(
    out, sums, dY, X, axes, stats, gamma, bint centre, bint wanted, int n_threads
):
    """Write the gradient with respect to X to `out`, and dgamma and dbeta to `sums`.

    Parameters
    ----------
    out : as in `layer_norm_forward`                                   # OUT
        May be dY itself.
    sums : array of shape (2, n_columns), float64, C-contiguous        # OUT
        dgamma = sum of dY xhat over rows, dbeta = sum of dY; zeros unless `wanted`.
    dY : array of X's shape                                            # IN
        float16 or float32 if X is, else another real dtype.
    X, axes, stats, gamma, centre : as in `layer_norm_forward`         # IN
    wanted : bool
    n_threads : int
    """
    cdef Array x
    cdef Array y
    cdef Array dy
    cdef Job job
    cdef int status
    array_init(&x, X)
    array_init(&y, out)
    array_init(&dy, dY)
    describe(&job, &x, &y, &dy, axes)
    job.stats = stats_of(stats, job.kind == 0)
    job.gamma = data_of(gamma)
    job.total = data_of(sums)
    job.centre = centre
    job.wanted = wanted
    with nogil:
        status = run_backward(&job, n_threads)
    if status == -1:
        raise_pending()
    if status == -2:
        raise MemoryError("layer_norm_backward: no memory for partial results")


cdef void layer_norm_rows(
    floating *y, Py_ssize_t ldy, NormRows stats, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t w, const double *gamma, const double *beta, double eps,
    bint centre
) noexcept nogil:
    cdef int kind = 0 if floating is float else 1
    cdef Py_ssize_t block = max(
        1, min(BLOCK_ROWS, BLOCK_BYTES // (w * <Py_ssize_t>sizeof(floating))))
    cdef Py_ssize_t r = 0
    cdef Py_ssize_t n
    cdef NormRows s
    while r < rows:
        n = min(block, rows - r)
        s = norm_rows_at(stats, r)
        kernels.statistics[kind](s, x + r * ldx, ldx, n, w, eps, centre)
        kernels.apply[kind](
            y + r * ldy, ldy, x + r * ldx, ldx, n, w, s, gamma, beta, False)
        r += n


cdef void layer_norm_rows_backward(
    floating *dx, double *dgamma, double *dbeta, const floating *dy, const floating *x,
    Py_ssize_t ldx, NormRows stats, Py_ssize_t rows, Py_ssize_t w, const double *gamma,
    bint centre
) noexcept nogil:
    cdef int kind = 0 if floating is float else 1
    cdef Py_ssize_t block = max(
        1, min(BLOCK_ROWS, BLOCK_BYTES // (w * <Py_ssize_t>sizeof(floating))))
    cdef Py_ssize_t r = 0
    cdef Py_ssize_t n
    cdef NormRows s
    while r < rows:
        n = min(block, rows - r)
        s = norm_rows_at(stats, r)
        kernels.backward[kind](
            dx + r * w, w, dgamma, dbeta, dy + r * w, w, x + r * ldx, ldx, n, w, s,
            gamma, centre, False)
        r += n
