# cython: boundscheck=False, wraparound=False
"""Batch normalization, forward and backward, from statistics that are known.

Design
a) The array is a table of rows (reduced) and columns (features), see source.h, cut into
   parts by shape and layout alone. A part is taken in blocks that lie in memory as the
   loops of simd/batch_norm.c want them: rows side by side, or (rows inner) columns
   side by side. Other blocks are gathered into a buffer, and the result scattered.
b) Narrow dense rows are laid end to end, `stack` of them, with the columns' parameters
   repeated, so that there is something to vectorize over.
c) Backward is two passes. The sums of each part are its own, and are merged in order,
   in waves so that they stay few: the bits do not depend on the number of threads.
   The pass for dx goes from the end of the arrays to the start, since the pass before
   has left the end in the cache; so does the forward pass, after the moments'.
d) Results much larger than a cache are written past it (simd/writer.h).

Cost: forward one read (and one before it for the moments) and one write; backward four
reads and one write (inference: three and one). 64 bytes per column for the parameters;
per thread two buffers of 32 KiB if blocks are gathered, and in the backward pass
16 bytes per column of each partial result.
"""

from cython cimport floating
from libc.math cimport INFINITY, NAN, isnan
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._simd cimport simd_level
from ._source cimport (
    FANIN_F32, Array, View, array_init, axis_order, block_address, block_copy,
    reduced_init, rows_inner, views_build)

cnp.import_array()

cdef extern from "norm_scale.h" nogil:
    void fanin_norm_settle(
        double *m, double *l, double *r, double *p, double mean, double lo, double var,
        int e, double eps)

cdef extern from "batch_norm.h" nogil:
    """
    #define FANIN_PICK_BATCH_NORM(level) FANIN_SELECT(batch_norm, level)
    """
    ctypedef void (*ColsApply)(
        void *y, Py_ssize_t y_stride, const void *x, Py_ssize_t x_stride,
        Py_ssize_t rows, Py_ssize_t w, NormCols s, int past) noexcept nogil
    ctypedef void (*RowsApply)(
        void *y, const void *x, Py_ssize_t rows, NormCols s, int past) noexcept nogil
    ctypedef void (*ColsSums)(
        double *s1, double *s2, const void *dy, Py_ssize_t dy_stride, const void *x,
        Py_ssize_t x_stride, Py_ssize_t rows, Py_ssize_t w, NormCols s) noexcept nogil
    ctypedef void (*RowsSums)(
        double *s1, double *s2, const void *dy, const void *x, Py_ssize_t rows,
        NormCols s) noexcept nogil
    ctypedef void (*ColsGradient)(
        void *dx, Py_ssize_t dx_stride, const void *dy, Py_ssize_t dy_stride,
        const void *x, Py_ssize_t x_stride, Py_ssize_t rows, Py_ssize_t w, NormCols s,
        int past) noexcept nogil
    ctypedef void (*RowsGradient)(
        void *dx, const void *dy, const void *x, Py_ssize_t rows, NormCols s,
        int past) noexcept nogil
    struct fanin_batch_norm:
        ColsApply cols_apply[2]
        RowsApply rows_apply[2]
        ColsSums cols_sums[2]
        RowsSums rows_sums[2]
        ColsGradient cols_gradient[2]
        RowsGradient rows_gradient[2]
    const fanin_batch_norm *FANIN_PICK_BATCH_NORM(int level)

cdef extern from "stream.h" nogil:
    int fanin_write_past_pays(Py_ssize_t bytes)
    void fanin_write_done()

cdef const fanin_batch_norm *kernels = FANIN_PICK_BATCH_NORM(simd_level())

cdef enum:
    TILE_COLUMNS = 2048
    INNER_COLUMNS = 32       # rows inner
    INNER_ROWS = 4096
    STACK_COLUMNS = 128      # narrower rows are laid end to end
    STACK_WIDTH = 1024
    BUFFER_BYTES = 32 * 1024
    TASK_BYTES = 1024 * 1024
    TASK_ROWS = 64
    PARTIAL_BYTES = 256 * 1024
    SMALL = 32 * 1024        # elements that are not worth a second thread

cdef enum Pass:
    APPLY, SUMS, GRADIENT

cdef struct Job:
    View x
    View y                   # the result: y or dx
    View dy
    Pass what
    int kind                 # 0: float, 1: double
    bint inner
    bint past
    bint direct              # blocks lie where they can be used: no gathering
    bint use_x               # the gradient depends on x (training)
    bint backward
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t tile
    Py_ssize_t n_tiles
    Py_ssize_t part          # rows of a task
    Py_ssize_t n_parts
    Py_ssize_t stack
    Py_ssize_t width         # of the parameters: n_cols stack
    NormCols cols
    double *sums             # dgamma, then dbeta
    double *partial          # of a wave: s1 and s2 of each part
    double *lanes            # per worker: s1 and s2 of a tile, stacked
    Py_ssize_t first         # part of this wave
    char *buffers            # two a worker


cdef NormCols cols_at(NormCols s, Py_ssize_t i) noexcept nogil:
    s.mean += i
    s.lo += i
    s.rstd += i
    s.scale += i
    s.slope += i
    s.beta += i
    s.c1 += i
    s.c2 += i
    return s


cdef bint is_direct(const View *v, bint inner, Py_ssize_t n_cols) noexcept nogil:
    if inner:
        return v.plain and (v.row_n[0] == 1 or v.row_s[0] == v.itemsize)
    return v.plain and (
        n_cols == 1 or (v.col_nd == 1 and v.col_s[0] == v.itemsize))


cdef void lay_grid(Job *job) noexcept nogil:
    cdef Py_ssize_t size = 8 if job.kind else 4
    job.inner = rows_inner(&job.x, job.n_rows, job.n_cols)
    job.stack = 1
    if job.inner:
        job.tile = min(job.n_cols, INNER_COLUMNS)
    else:
        job.n_tiles = (job.n_cols + TILE_COLUMNS - 1) // TILE_COLUMNS
        job.tile = (job.n_cols + job.n_tiles - 1) // job.n_tiles
        if job.n_tiles > 1:
            job.tile = (job.tile + 15) // 16 * 16
        if job.n_cols < STACK_COLUMNS:
            while ((job.stack + 1) * job.n_cols <= STACK_WIDTH
                   and (job.stack * job.n_cols < STACK_COLUMNS
                        or job.stack * job.n_cols % 16 != 0)):
                job.stack += 1
            job.stack = min(job.stack, max(1, job.n_rows // 4))
    job.n_tiles = (job.n_cols + job.tile - 1) // job.tile
    job.part = max(TASK_ROWS, TASK_BYTES // (job.tile * size))
    job.part = (job.part + job.stack * 4 - 1) // (job.stack * 4) * (job.stack * 4)
    job.n_parts = (job.n_rows + job.part - 1) // job.part
    job.width = job.n_cols * job.stack
    job.direct = is_direct(&job.x, job.inner, job.n_cols) and is_direct(
        &job.y, job.inner, job.n_cols)
    if job.backward:
        job.direct = job.direct and is_direct(&job.dy, job.inner, job.n_cols)
    job.past = job.past and is_direct(&job.y, job.inner, job.n_cols)


cdef void *place(
    const View *v, bint inner, char *buffer, bint read, Py_ssize_t row, Py_ssize_t rows,
    Py_ssize_t col, Py_ssize_t cols, Py_ssize_t *stride
) noexcept nogil:
    """Where a block lies, or `buffer`, into which it is gathered if it is `read`."""
    cdef void *found = block_address(v, inner, row, rows, col, cols, stride)
    if found != NULL:
        return found
    if read:
        block_copy(v, buffer, inner, row, rows, col, cols, False)
    stride[0] = rows if inner else cols
    return buffer


cdef void compute(
    const Job *job, double *s1, double *s2, void *y, Py_ssize_t y_stride,
    const void *dy, Py_ssize_t dy_stride, const void *x, Py_ssize_t x_stride,
    Py_ssize_t rows, Py_ssize_t cols, NormCols s, bint past
) noexcept nogil:
    """One block, in which every stride fits."""
    if job.inner:
        if job.what == APPLY:
            kernels.rows_apply[job.kind](y, x, rows, s, past)
        elif job.what == SUMS:
            kernels.rows_sums[job.kind](s1, s2, dy, x, rows, s)
        else:
            kernels.rows_gradient[job.kind](y, dy, x, rows, s, past)
    elif job.what == APPLY:
        kernels.cols_apply[job.kind](y, y_stride, x, x_stride, rows, cols, s, past)
    elif job.what == SUMS:
        kernels.cols_sums[job.kind](
            s1, s2, dy, dy_stride, x, x_stride, rows, cols, s)
    else:
        kernels.cols_gradient[job.kind](
            y, y_stride, dy, dy_stride, x, x_stride, rows, cols, s, past)


cdef void do_block(
    const Job *job, double *s1, double *s2, char *buffers, Py_ssize_t row,
    Py_ssize_t rows, Py_ssize_t col, Py_ssize_t cols
) noexcept nogil:
    cdef char *x_buffer = buffers
    cdef char *buffer = NULL if buffers == NULL else buffers + BUFFER_BYTES
    cdef Py_ssize_t size = 8 if job.kind else 4
    cdef Py_ssize_t x_stride = 0
    cdef Py_ssize_t dy_stride = 0
    cdef Py_ssize_t y_stride = 0
    cdef Py_ssize_t stack = job.stack
    cdef Py_ssize_t whole, left
    cdef bint fits = True
    cdef bint past = job.past
    cdef void *x = NULL
    cdef void *dy = NULL
    cdef void *y = NULL
    cdef NormCols s = cols_at(job.cols, col)
    if job.what != GRADIENT or job.use_x:
        x = place(
            &job.x, job.inner, x_buffer, True, row, rows, col, cols, &x_stride)
        fits = x_stride == cols
    if job.what != APPLY:
        dy = place(&job.dy, job.inner, buffer, True, row, rows, col, cols, &dy_stride)
        fits = fits and dy_stride == cols
    if job.what != SUMS:
        y = place(&job.y, job.inner, buffer, False, row, rows, col, cols, &y_stride)
        fits = fits and y_stride == cols
        past = past and y != buffer
    if stack == 1 or not fits or rows < stack:
        compute(job, s1, s2, y, y_stride, dy, dy_stride, x, x_stride, rows, cols, s,
                past)
    else:
        whole = rows // stack
        compute(job, s1, s2, y, y_stride * stack, dy, dy_stride * stack, x,
                x_stride * stack, whole, cols * stack, s, past)
        left = whole * stack * cols * size
        if rows % stack != 0:
            compute(
                job, s1, s2, NULL if y == NULL else <char *>y + left, cols,
                NULL if dy == NULL else <char *>dy + left, cols,
                NULL if x == NULL else <char *>x + left, cols, rows % stack, cols, s,
                past)
    if y != NULL and y == buffer:
        block_copy(&job.y, buffer, job.inner, row, rows, col, cols, True)


cdef void part_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t at = i
    cdef Py_ssize_t size = 8 if job.kind else 4
    cdef Py_ssize_t part, row, end, col, cols, rows, run, c, k
    cdef char *buffers = NULL
    cdef double *s1 = NULL
    cdef double *s2 = NULL
    cdef double *to
    if not job.direct:
        buffers = job.buffers + worker * 2 * <Py_ssize_t>BUFFER_BYTES
    if job.what != SUMS:
        at = job.n_parts * job.n_tiles - 1 - i
    part = at // job.n_tiles
    col = at % job.n_tiles * job.tile
    cols = min(job.tile, job.n_cols - col)
    if job.what == SUMS:
        s1 = job.lanes + worker * 2 * job.tile * job.stack
        s2 = s1 + job.tile * job.stack
        memset(s1, 0, <size_t>(2 * job.tile * job.stack) * sizeof(double))
        part += job.first
    row = part * job.part
    end = min(row + job.part, job.n_rows)
    while row < end:
        rows = end - row
        if job.inner:
            rows = min(rows, INNER_ROWS)
        if job.direct:
            run = job.x.row_n[0]
            rows = min(rows, run - row % run)
        elif not job.inner:
            rows = min(rows, max(1, BUFFER_BYTES // (cols * size)))
            if rows > job.stack:
                rows = rows // job.stack * job.stack
        if job.inner:
            for c in range(cols):
                do_block(job, NULL if s1 == NULL else s1 + c,
                         NULL if s2 == NULL else s2 + c, buffers, row, rows, col + c, 1)
        else:
            do_block(job, s1, s2, buffers, row, rows, col, cols)
        row += rows
    if job.what == SUMS:
        to = job.partial + 2 * ((part - job.first) * job.n_cols + col)
        for c in range(cols):
            to[2 * c] = s1[c]
            to[2 * c + 1] = s2[c]
            for k in range(1, job.stack):
                to[2 * c] += s1[k * cols + c]
                to[2 * c + 1] += s2[k * cols + c]
    elif job.past:
        fanin_write_done()


cdef Py_ssize_t workers_of(const Job *job, int n_threads) noexcept nogil:
    if job.n_rows * job.n_cols <= SMALL:
        return 1
    return min(<Py_ssize_t>n_threads, job.n_parts * job.n_tiles)


cdef double *lay_parameters(
    Job *job, const double *stats, const double *gamma, const double *beta
) noexcept nogil:
    """The columns' parameters, `stack` times; NULL without memory."""
    cdef Py_ssize_t w = job.width
    cdef Py_ssize_t n = job.n_cols
    cdef double *memory = <double *>malloc(<size_t>(8 * w) * sizeof(double))
    cdef Py_ssize_t i, c
    if memory == NULL:
        return NULL
    for c in range(n):
        for i in range(4):
            memory[i * w + c] = stats[i * n + c]
        memory[4 * w + c] = memory[w + c] * gamma[c]
        memory[5 * w + c] = 0.0 if beta == NULL else beta[c]
        memory[6 * w + c] = memory[7 * w + c] = 0.0
    repeat(memory, 6, n, w)
    job.cols.mean = memory
    job.cols.rstd = memory + w
    job.cols.lo = memory + 2 * w
    job.cols.scale = memory + 3 * w
    job.cols.slope = memory + 4 * w
    job.cols.beta = memory + 5 * w
    job.cols.c1 = memory + 6 * w
    job.cols.c2 = memory + 7 * w
    return memory


cdef void repeat(
    double *rows, Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t w
) noexcept nogil:
    """The first n of each of `n_rows` rows of w, again and again."""
    cdef Py_ssize_t i, c
    for i in range(n_rows):
        for c in range(n, w):
            rows[i * w + c] = rows[i * w + c - n]


cdef int run_forward(
    Job *job, const double *stats, const double *gamma, const double *beta,
    int n_threads
) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef Call call
    cdef int status
    cdef Py_ssize_t workers
    cdef double *parameters
    lay_grid(job)
    workers = workers_of(job, n_threads)
    parameters = lay_parameters(job, stats, gamma, beta)
    job.buffers = NULL
    if not job.direct:
        job.buffers = <char *>malloc(<size_t>(workers * 2 * <Py_ssize_t>BUFFER_BYTES))
    if parameters == NULL or (job.buffers == NULL and not job.direct):
        free(parameters)
        free(job.buffers)
        return -2
    job.what = APPLY
    call_begin(&call, <int>workers)
    status = parallel_for(&call, part_task, job, job.n_parts * job.n_tiles)
    free(parameters)
    free(job.buffers)
    return status


cdef int add_up(Job *job, Call *call, Py_ssize_t wave) noexcept nogil:
    """dgamma and dbeta: the parts' sums, merged in order."""
    cdef Py_ssize_t i, c, n_wave
    cdef Py_ssize_t n = job.n_cols
    cdef const double *from_
    job.what = SUMS
    job.first = 0
    while job.first < job.n_parts:
        n_wave = min(wave, job.n_parts - job.first)
        if parallel_for(call, part_task, job, n_wave * job.n_tiles) != 0:
            return -1
        for i in range(n_wave):
            from_ = job.partial + i * 2 * n
            for c in range(n):
                job.sums[n + c] += from_[2 * c]
                job.sums[c] += from_[2 * c + 1]
        job.first += n_wave
    return 0


cdef int run_backward(
    Job *job, const double *stats, const double *gamma, bint wanted, int n_threads
) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef Call call
    cdef int status = 0
    cdef Py_ssize_t workers, wave, lanes, c
    cdef double *parameters
    lay_grid(job)
    workers = workers_of(job, n_threads)
    wave = max(PARTIAL_BYTES // (16 * job.n_cols), 2 * workers)
    wave = min(wave, job.n_parts)
    lanes = workers * 2 * job.tile * job.stack
    parameters = lay_parameters(job, stats, gamma, NULL)
    job.partial = <double *>malloc(<size_t>(
        (wave * 2 * job.n_cols + lanes) * 8
        + (0 if job.direct else workers * 2 * <Py_ssize_t>BUFFER_BYTES)))
    if parameters == NULL or job.partial == NULL:
        free(parameters)
        free(job.partial)
        return -2
    job.lanes = job.partial + wave * 2 * job.n_cols
    job.buffers = <char *>(job.lanes + lanes)
    memset(job.sums, 0, <size_t>(2 * job.n_cols) * sizeof(double))
    call_begin(&call, <int>workers)
    if wanted or job.use_x:
        status = add_up(job, &call, wave)
    if status == 0:
        for c in range(job.n_cols):
            (<double *>job.cols.slope)[c] *= job.cols.scale[c]
            if job.use_x:
                (<double *>job.cols.c1)[c] = job.sums[job.n_cols + c] / job.n_rows
                (<double *>job.cols.c2)[c] = job.sums[c] / job.n_rows
        repeat(<double *>job.cols.slope, 1, job.n_cols, job.width)
        repeat(<double *>job.cols.c1, 2, job.n_cols, job.width)
        job.what = GRADIENT
        status = parallel_for(&call, part_task, job, job.n_parts * job.n_tiles)
    free(parameters)
    free(job.partial)
    return status


cdef double *data_of(object array) except NULL:
    return <double *>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef int describe(Job *job, Array *x, Array *y, Array *dy, object axes) except -1:
    """Fill the views of a job from arrays of one shape, not empty."""
    cdef char reduced[64]
    cdef int order[64]
    cdef View *views[3]
    cdef const Py_ssize_t *strides[3]
    cdef int d
    job.n_rows = reduced_init(reduced, x, axes)
    job.n_cols = 1
    for d in range(x.nd):
        if not reduced[d]:
            job.n_cols *= x.shape[d]
    axis_order(order, x.nd, x.strides)
    views[0] = &x.view
    views[1] = &y.view
    strides[0] = x.strides
    strides[1] = y.strides
    if dy != NULL:
        views[2] = &dy.view
        strides[2] = dy.strides
    views_build(
        views, 2 if dy == NULL else 3, x.nd, order, x.shape, strides, reduced)
    job.x = x.view
    job.y = y.view
    job.backward = dy != NULL
    job.kind = 0 if y.view.type == FANIN_F32 else 1
    job.past = fanin_write_past_pays(
        job.n_rows * job.n_cols * (8 if job.kind else 4))
    if y.view.data == x.view.data or (dy != NULL and y.view.data == dy.view.data):
        job.past = False
    if dy != NULL:
        job.dy = dy.view
    return 0


def norm_statistics(
    stats, const double[:, ::1] state, const int32_t[::1] exponent, double n_rows,
    double eps, bint centre
):
    """Turn the moments of columns into what normalization needs.

    Parameters
    ----------
    stats : array of shape (4, n_columns), float64, C-contiguous       # OUT
        mean, rstd, lo, scale: xhat = ((x scale - mean) - lo) rstd, where
        rstd = 1 / sqrt(var + eps); 0 where var + eps is 0.
    state, exponent : as in `_moments.moments_forward`                 # IN
        Where the count is not `n_rows` there is NaN, and all are NaN.
    n_rows, eps : float
    centre : bool
        Without it the mean is taken as 0, and the variance around 0.
    """
    cdef Py_ssize_t n = exponent.shape[0]
    cdef double *to = data_of(stats)
    with nogil:
        norm_settle(
            to, to + n, to + 2 * n, to + 3 * n, &state[0, 0], &exponent[0], n, n_rows,
            eps, centre)


cdef void norm_settle(
    double *mean, double *rstd, double *lo, double *scale, const double *state,
    const int32_t *exponent, Py_ssize_t n_cols, double n_rows, double eps, bint centre
) noexcept nogil:
    cdef Py_ssize_t c
    cdef double hi, low, var
    for c in range(n_cols):
        hi = state[n_cols + c]
        low = state[2 * n_cols + c]
        var = (state[3 * n_cols + c] + state[4 * n_cols + c]) / n_rows
        if state[c] != n_rows:
            hi = var = NAN
        elif not centre:
            # An infinite value leaves the mean infinite, or NaN, and M2 NaN.
            var = INFINITY if isnan(var) else var + hi * hi
        if centre:
            if isnan(var):
                hi = NAN if isnan(hi) else hi
                low = 0.0
            fanin_norm_settle(
                &mean[c], &lo[c], &rstd[c], &scale[c], hi, low, var, exponent[c], eps)
        else:
            fanin_norm_settle(
                &mean[c], &lo[c], &rstd[c], &scale[c], 0.0, 0.0, var, exponent[c], eps)


def batch_norm_forward(out, X, axes, stats, gamma, beta, int n_threads):
    """Write xhat * gamma + beta, column by column, to `out`.

    Parameters
    ----------
    out : array of X's shape; float32 for float16 and float32, else float64 # OUT
        May be X itself; any other overlap is the caller's to refuse.
    X : array of a real dtype, not empty                               # IN
    axes : sequence of int
        The axes that are rows; the columns are numbered as `_source.column_order`
        of X says.
    stats : as in `norm_statistics`                                    # IN
    gamma, beta : arrays of shape (n_columns,), float64, C-contiguous  # IN
    n_threads : int
    """
    cdef Array x
    cdef Array y
    cdef Job job
    cdef int status
    cdef const double *s = data_of(stats)
    cdef const double *g = data_of(gamma)
    cdef const double *b = data_of(beta)
    array_init(&x, X)
    array_init(&y, out)
    describe(&job, &x, &y, NULL, axes)
    with nogil:
        status = run_forward(&job, s, g, b, n_threads)
    if status == -1:
        raise_pending()
    if status == -2:
        raise MemoryError("batch_norm: no memory for the columns' parameters")


def batch_norm_backward(
    out, sums, dY, X, axes, stats, gamma, bint training, bint wanted, int n_threads
):
    """Write the gradient with respect to X to `out`, and dgamma and dbeta to `sums`.

    Parameters
    ----------
    out : as in `batch_norm_forward`                                   # OUT
        May be dY itself.
    sums : array of shape (2, n_columns), float64, C-contiguous        # OUT
        dgamma = sum of dY xhat over rows, dbeta = sum of dY; without `training` zeros
        unless `wanted`.
    dY : array of X's shape                                            # IN
        float16 or float32 if X is, else another real dtype.
    X, axes, stats, gamma : as in `batch_norm_forward`                 # IN
    training : bool
        The statistics are X's own; else they are constants.
    wanted : bool
    n_threads : int
    """
    cdef Array x
    cdef Array y
    cdef Array dy
    cdef Job job
    cdef int status
    cdef const double *s = data_of(stats)
    cdef const double *g = data_of(gamma)
    array_init(&x, X)
    array_init(&y, out)
    array_init(&dy, dY)
    describe(&job, &x, &y, &dy, axes)
    job.sums = data_of(sums)
    job.use_x = training
    with nogil:
        status = run_backward(&job, s, g, wanted, n_threads)
    if status == -1:
        raise_pending()
    if status == -2:
        raise MemoryError("batch_norm_backward: no memory for partial results")


cdef void batch_norm_rows(
    floating *y, Py_ssize_t ldy, const floating *x, Py_ssize_t ldx, Py_ssize_t rows,
    Py_ssize_t w, NormCols s
) noexcept nogil:
    kernels.cols_apply[0 if floating is float else 1](
        y, ldy, x, ldx, rows, w, s, False)


cdef void batch_norm_rows_sums(
    double *s1, double *s2, const floating *dy, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t w, NormCols s
) noexcept nogil:
    kernels.cols_sums[0 if floating is float else 1](
        s1, s2, dy, w, x, ldx, rows, w, s)


cdef void batch_norm_rows_gradient(
    floating *dx, const floating *dy, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t w, NormCols s
) noexcept nogil:
    kernels.cols_gradient[0 if floating is float else 1](
        dx, w, dy, w, x, ldx, rows, w, s, False)
