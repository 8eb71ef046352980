# cython: boundscheck=False, wraparound=False
"""Mean and squared deviations of every feature, in one read of the data.

Design
a) The array is a table of rows (reduced) and columns (kept), see source.h. It is cut
   by a grid that depends on its shape and layout alone: tiles of columns; within a
   tile *groups* of rows of about 1 MiB, the tasks; within a group *blocks* of about
   256 KiB (a quarter of it), which stay in the L2 cache in case simd/moments.c has to
   pass over one again. Blocks are merged into their group in order, and groups into the
   total in order. So neither the number of threads nor which thread did what can
   change a bit, and neither does cutting the data between two groups.
b) Columns side by side in memory are vectorized over (*columns inner*); where a
   column's own values lie side by side, the kernel walks down one column after the
   other (*rows inner*). Everything else is gathered block by block into a small
   buffer in one of the two forms, and computed as if it had come so.
c) Groups are computed in waves, so that partial results stay small. With few tiles
   a wave is many groups, each with a partial result of its own, merged at its end.
   With many tiles a task takes one tile down several groups and merges on the way.
d) An update merges group after group into a total that is there already. Data that is
   cut between two groups therefore gives the same bits as the whole, and a total that
   starts empty those of a first call.
e) Weights lie in the order of the table's rows. Their kernels take the same blocks in
   the same order, without laying rows end to end.

State: five float64 per column, the rows of `state`: n, mean (hi, lo), M2 (hi, lo), and
an int32 `exponent` e; the mean is (hi + lo) 2^e, M2 is (hi + lo) 2^2e. With weights a
sixth row is the second word of n, and an optional seventh counts, during one update,
the NaN of positive weight.

Cost: one read of memory, 4 operations per element; 44 bytes per column and partial
result, and per thread 57 kB of scratch and, if blocks are gathered, 256 KiB.
"""

from libc.math cimport INFINITY, NAN, ldexp, sqrt
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._simd cimport simd_level
from ._source cimport (
    FANIN_F16, FANIN_F32, FANIN_F64, Array, View, array_init, axis_order, block_address,
    block_copy, reduced_init, rows_inner, views_build)

cdef extern from "moments.h" nogil:
    enum:
        FANIN_MOMENTS_WORK
        FANIN_MOMENTS_WIDTH
    ctypedef struct State "fanin_state":
        double *n
        double *hi
        double *lo
        double *m2
        double *m2l
        int32_t *e
        double *nl
        double *miss
    ctypedef struct Weights "fanin_weights":
        pass
    struct fanin_moments:
        Py_ssize_t (*cols_f32)(
            State out, const float *x, Py_ssize_t stride, Py_ssize_t rows,
            Py_ssize_t cols, Py_ssize_t stack, double *work, int careful) noexcept nogil
        Py_ssize_t (*cols_f64)(
            State out, const double *x, Py_ssize_t stride, Py_ssize_t rows,
            Py_ssize_t cols, Py_ssize_t stack, double *work, int careful) noexcept nogil
        void (*rows_f32)(
            State out, const float *x, Py_ssize_t stride, Py_ssize_t rows,
            Py_ssize_t cols) noexcept nogil
        void (*rows_f64)(
            State out, const double *x, Py_ssize_t stride, Py_ssize_t rows,
            Py_ssize_t cols) noexcept nogil
        Weights (*weights)(const double *weight, Py_ssize_t rows) noexcept nogil
        Py_ssize_t (*weighted_cols_f32)(
            State out, const float *x, Py_ssize_t stride, Py_ssize_t rows,
            Py_ssize_t cols, Weights u, double *work, int careful) noexcept nogil
        Py_ssize_t (*weighted_cols_f64)(
            State out, const double *x, Py_ssize_t stride, Py_ssize_t rows,
            Py_ssize_t cols, Weights u, double *work, int careful) noexcept nogil
        void (*weighted_rows_f32)(
            State out, const float *x, Py_ssize_t rows, Weights u,
            double *work) noexcept nogil
        void (*weighted_rows_f64)(
            State out, const double *x, Py_ssize_t rows, Weights u,
            double *work) noexcept nogil
        void (*merge)(State a, State b, Py_ssize_t n) noexcept nogil
    State state_at "fanin_state_at"(State s, Py_ssize_t i)

cdef extern from *:
    """
    #define FANIN_PICK_MOMENTS(level) FANIN_SELECT(moments, level)
    """
    const fanin_moments *FANIN_PICK_MOMENTS(int level) nogil

cdef const fanin_moments *kernels = FANIN_PICK_MOMENTS(simd_level())

cdef enum:
    BLOCK_BYTES = 256 * 1024
    GROUP_BLOCKS = 4
    TILE_COLUMNS = 512       # columns inner: runs of 2 or 4 KiB, 64 rows or more
    STACK_COLUMNS = 128      # below this, rows of gathered or dense data are stacked
    STACK_WIDTH = 512
    WIDE = 32                # from this on, rows with gaps are read where they lie
    COLUMN_ROWS = 4096       # rows inner: the length of a block
    COLUMN_TILE = 32
    WEIGHTED_BLOCK = 1024    # rows of a block with weights
    PARTIAL_BYTES = 256 * 1024
    SMALL = 32 * 1024        # elements that are not worth a second thread
    SWEEP = 8                # groups a task takes when tiles are many

cdef struct Grid:
    View view
    bint inner               # rows inner
    bint is_float
    Py_ssize_t n_rows
    Py_ssize_t n_cols
    Py_ssize_t tile          # columns of a tile
    Py_ssize_t n_tiles
    Py_ssize_t stack         # rows laid end to end
    Py_ssize_t block         # rows of a block
    Py_ssize_t group         # rows of a group
    Py_ssize_t n_groups
    const double *weights    # one per row, or NULL
    bint resume              # `total` holds moments already
    # The wave.
    Py_ssize_t first
    Py_ssize_t n_wave
    bint sweep
    State total
    State partial            # n_wave times n_cols (sweep: one tile per worker)
    State block_state        # one tile per worker
    double *work
    char *gathered


cdef Py_ssize_t stack_of(Py_ssize_t cols) noexcept nogil:
    """How many rows to lay end to end for STACK_WIDTH columns or so, in eights."""
    cdef Py_ssize_t stack = 1
    if cols >= STACK_COLUMNS:
        return 1
    while stack * cols < STACK_WIDTH or (stack * cols) % 8 != 0:
        stack += 1
    return stack


cdef void lay_grid(Grid *g) noexcept nogil:
    cdef Py_ssize_t itemsize = 4 if g.is_float else 8
    # By the strides alone: the last rows of a stream go the way of the others.
    g.inner = rows_inner(&g.view, 16, g.n_cols)
    g.stack = 1
    if g.inner:
        g.tile = min(
            g.n_cols, COLUMN_TILE * max(1, COLUMN_ROWS // max(1, g.n_rows)))
        g.block = COLUMN_ROWS
        g.group = g.block * max(
            1, GROUP_BLOCKS * BLOCK_BYTES // (g.block * g.tile * itemsize))
    else:
        g.n_tiles = (g.n_cols + TILE_COLUMNS - 1) // TILE_COLUMNS
        g.tile = (g.n_cols + g.n_tiles - 1) // g.n_tiles
        if g.n_tiles > 1:
            g.tile = (g.tile + 15) // 16 * 16
        g.stack = stack_of(g.n_cols)
        g.block = max(1, BLOCK_BYTES // (g.tile * g.stack * itemsize))
        # Eight rows an addition, so few in a row: rounding errors stay below the 14th
        # digit, see moments.c.
        g.block = min(g.block, 256) * g.stack
        g.group = g.block * max(
            1, GROUP_BLOCKS * BLOCK_BYTES // (g.block * g.tile * itemsize))
    g.n_tiles = (g.n_cols + g.tile - 1) // g.tile
    g.n_groups = (g.n_rows + g.group - 1) // g.group


cdef void group_columns_inner(
    Grid *g, State out, State spare, Py_ssize_t row, Py_ssize_t end, Py_ssize_t col,
    Py_ssize_t cols, double *work, char *gathered
) noexcept nogil:
    """The moments of rows [row, end) of a tile into `out`, block after block."""
    cdef Py_ssize_t rows, stride, stack, redone = 0
    cdef void *x
    cdef bint first = True
    while row < end:
        rows = min(g.block, end - row)
        stack = g.stack if rows >= g.stack else 1
        x = block_address(&g.view, False, row, rows, col, cols, &stride)
        if x != NULL and stride != cols and cols >= WIDE:
            stack = 1
        if x == NULL or (stack > 1 and stride != cols):
            block_copy(&g.view, gathered, False, row, rows, col, cols, False)
            x = gathered
            stride = cols
        if g.is_float:
            redone = kernels.cols_f32(
                out if first else spare, <float *>x, stride, rows, cols, stack, work,
                2 * redone > cols)
        else:
            redone = kernels.cols_f64(
                out if first else spare, <double *>x, stride, rows, cols, stack, work,
                2 * redone > cols)
        if not first:
            kernels.merge(out, spare, cols)
        first = False
        row += rows


cdef inline void rows_of(
    const Grid *g, State out, void *x, Py_ssize_t stride, Py_ssize_t rows,
    Py_ssize_t cols
) noexcept nogil:
    if g.is_float:
        kernels.rows_f32(out, <float *>x, stride, rows, cols)
    else:
        kernels.rows_f64(out, <double *>x, stride, rows, cols)


cdef void group_rows_inner(
    Grid *g, State out, State spare, Py_ssize_t row, Py_ssize_t end, Py_ssize_t col,
    Py_ssize_t cols, char *gathered
) noexcept nogil:
    """The same, column after column."""
    cdef Py_ssize_t c, r, rows, stride
    cdef void *x
    cdef State to
    cdef Py_ssize_t width = cols
    if end - row <= g.block:
        # Short columns, many at once.
        rows = end - row
        if block_address(&g.view, True, row, rows, col, cols, &stride) == NULL:
            width = max(1, BLOCK_BYTES // (rows * (4 if g.is_float else 8)))
        c = 0
        while c < cols:
            width = min(width, cols - c)
            x = block_address(&g.view, True, row, rows, col + c, width, &stride)
            if x == NULL:
                block_copy(&g.view, gathered, True, row, rows, col + c, width, False)
                x = gathered
                stride = rows
            rows_of(g, state_at(out, c), x, stride, rows, width)
            c += width
        return
    for c in range(cols):
        r = row
        while r < end:
            rows = min(g.block, end - r)
            x = block_address(&g.view, True, r, rows, col + c, 1, &stride)
            if x == NULL:
                block_copy(&g.view, gathered, True, r, rows, col + c, 1, False)
                x = gathered
            to = state_at(out, c) if r == row else spare
            rows_of(g, to, x, 0, rows, 1)
            if r != row:
                kernels.merge(state_at(out, c), spare, 1)
            r += rows


cdef void group_weighted(
    Grid *g, State out, State spare, Py_ssize_t row, Py_ssize_t end, Py_ssize_t col,
    Py_ssize_t cols, double *work, char *gathered
) noexcept nogil:
    """The same of either form, with weights."""
    cdef Py_ssize_t c, rows, stride, redone = 0
    cdef Py_ssize_t width = 1 if g.inner else cols
    cdef Py_ssize_t first = row
    cdef void *x
    cdef Weights u
    cdef State to
    while row < end:
        # Few additions in a row: sums of sums of some rows, see moments.c.
        rows = min(min(g.block, WEIGHTED_BLOCK), end - row)
        u = kernels.weights(g.weights + row, rows)
        c = 0
        while c < cols:
            x = block_address(&g.view, g.inner, row, rows, col + c, width, &stride)
            if x == NULL:
                block_copy(
                    &g.view, gathered, g.inner, row, rows, col + c, width, False)
                x = gathered
                stride = width
            to = state_at(out if row == first else spare, c)
            if g.inner and g.is_float:
                kernels.weighted_rows_f32(to, <float *>x, rows, u, work)
            elif g.inner:
                kernels.weighted_rows_f64(to, <double *>x, rows, u, work)
            elif g.is_float:
                redone = kernels.weighted_cols_f32(
                    to, <float *>x, stride, rows, cols, u, work, 2 * redone > cols)
            else:
                redone = kernels.weighted_cols_f64(
                    to, <double *>x, stride, rows, cols, u, work, 2 * redone > cols)
            c += width
        if row > first:
            kernels.merge(out, spare, cols)
        row += rows


cdef void do_group(
    Grid *g, State out, Py_ssize_t group, Py_ssize_t tile, int worker
) noexcept nogil:
    cdef Py_ssize_t row = group * g.group
    cdef Py_ssize_t end = min(row + g.group, g.n_rows)
    cdef Py_ssize_t col = tile * g.tile
    cdef Py_ssize_t cols = min(g.tile, g.n_cols - col)
    cdef State spare = state_at(g.block_state, worker * g.tile)
    cdef char *gathered = g.gathered + worker * <Py_ssize_t>BLOCK_BYTES
    if g.weights != NULL:
        group_weighted(
            g, out, spare, row, end, col, cols,
            g.work + worker * <Py_ssize_t>FANIN_MOMENTS_WORK, gathered)
    elif g.inner:
        group_rows_inner(g, out, spare, row, end, col, cols, gathered)
    else:
        group_columns_inner(
            g, out, spare, row, end, col, cols,
            g.work + worker * <Py_ssize_t>FANIN_MOMENTS_WORK, gathered)


cdef void wave_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Grid *g = <Grid *>context
    cdef Py_ssize_t tile, group
    cdef State total, out
    if g.sweep:
        tile = i
        total = state_at(g.total, tile * g.tile)
        out = state_at(g.partial, worker * g.tile)
        for group in range(g.first, g.first + g.n_wave):
            if group == 0 and not g.resume:
                do_group(g, total, 0, tile, worker)
            else:
                do_group(g, out, group, tile, worker)
                kernels.merge(total, out, min(g.tile, g.n_cols - tile * g.tile))
    else:
        group = i // g.n_tiles
        tile = i % g.n_tiles
        if g.first + group == 0 and not g.resume:
            out = g.total
        else:
            out = state_at(g.partial, group * g.n_cols)
        do_group(g, state_at(out, tile * g.tile), g.first + group, tile, worker)


cdef State lay_state(char **place, Py_ssize_t n, bint weighted) noexcept nogil:
    """Six or eight arrays of n, cut from memory at `place`, which moves on."""
    cdef State s
    s.n = <double *>place[0]
    s.hi = s.n + n
    s.lo = s.hi + n
    s.m2 = s.lo + n
    s.m2l = s.m2 + n
    s.e = <int32_t *>(s.m2l + n)
    place[0] += n * 40 + (n * 4 + 7) // 8 * 8
    s.nl = NULL
    s.miss = NULL
    if weighted:
        s.nl = <double *>place[0]
        s.miss = s.nl + n
        place[0] += n * 16
    return s


cdef int run(Grid *g, int n_threads) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef Call call
    cdef int status = 0
    cdef Py_ssize_t wave, slots, i, tiles
    cdef Py_ssize_t workers = n_threads
    cdef Py_ssize_t size = 48 if g.weights == NULL else 64
    cdef char *memory
    cdef char *place
    if g.n_rows * g.n_cols <= SMALL:
        workers = 1
    workers = min(workers, g.n_groups * g.n_tiles)
    g.sweep = g.n_tiles >= 4 * workers and g.n_groups > 1
    if g.sweep:
        wave = SWEEP
        slots = workers * g.tile
    else:
        wave = max(PARTIAL_BYTES // (44 * g.n_cols), 2 * workers)
        wave = min(wave, g.n_groups)
        slots = wave * g.n_cols if g.n_groups > 1 or g.resume else 0
    memory = <char *>malloc(
        <size_t>(slots * size + workers * g.tile * size + 64
                 + workers * (8 * <Py_ssize_t>FANIN_MOMENTS_WORK + BLOCK_BYTES)))
    if memory == NULL:
        return -2
    place = memory
    g.partial = lay_state(&place, slots, g.weights != NULL)
    g.block_state = lay_state(&place, workers * g.tile, g.weights != NULL)
    g.work = <double *>place
    g.gathered = place + workers * 8 * <Py_ssize_t>FANIN_MOMENTS_WORK
    call_begin(&call, <int>workers)
    g.first = 0
    while g.first < g.n_groups and status == 0:
        g.n_wave = min(wave, g.n_groups - g.first)
        tiles = g.n_tiles if g.sweep else g.n_tiles * g.n_wave
        status = parallel_for(&call, wave_task, g, tiles)
        if not g.sweep and status == 0:
            for i in range(0 if g.first > 0 or g.resume else 1, g.n_wave):
                kernels.merge(g.total, state_at(g.partial, i * g.n_cols), g.n_cols)
        g.first += g.n_wave
    free(memory)
    return status


cdef State state_of(double[:, ::1] state, int32_t[::1] exponent) noexcept:
    cdef State s
    cdef Py_ssize_t n = state.shape[1]
    s.n = &state[0, 0]
    s.hi = s.n + n
    s.lo = s.n + 2 * n
    s.m2 = s.n + 3 * n
    s.m2l = s.n + 4 * n
    s.e = &exponent[0]
    s.nl = s.n + 5 * n if state.shape[0] > 5 else NULL
    s.miss = s.n + 6 * n if state.shape[0] > 6 else NULL
    return s


cdef Py_ssize_t s_size(int32_t[::1] exponent) noexcept:
    return exponent.shape[0]


cdef int grid_init(Grid *g, X, axes) except -1:
    """Fill in the table of X and its grid, for no weights and an empty total."""
    cdef Array a
    cdef char reduced[64]
    cdef int order[64]
    cdef View *view = &a.view
    cdef const Py_ssize_t *strides = a.strides
    array_init(&a, X)
    g.n_rows = reduced_init(reduced, &a, axes)
    g.n_cols = X.size // max(1, g.n_rows)
    axis_order(order, a.nd, a.strides)
    views_build(&view, 1, a.nd, order, a.shape, &strides, reduced)
    g.view = a.view
    g.is_float = a.view.type == FANIN_F32 or a.view.type == FANIN_F16
    g.weights = NULL
    g.resume = False
    lay_grid(g)
    return 0


cdef int moments_rows(
    double *state, int32_t *exponent, const floating *x, Py_ssize_t ldx,
    Py_ssize_t rows, Py_ssize_t cols, int n_threads
) noexcept nogil:
    cdef Grid g
    cdef View *view = &g.view
    cdef char reduced[2]
    cdef int order[2]
    cdef Py_ssize_t shape[2]
    cdef Py_ssize_t strides[2]
    cdef const Py_ssize_t *all_strides = strides
    g.is_float = sizeof(floating) == sizeof(float)
    g.view.data = <char *>x
    g.view.type = FANIN_F32 if g.is_float else FANIN_F64
    g.view.swapped = False
    g.view.itemsize = sizeof(floating)
    reduced[0] = 1
    reduced[1] = 0
    order[0] = 0
    order[1] = 1
    shape[0] = rows
    shape[1] = cols
    strides[0] = ldx * <Py_ssize_t>sizeof(floating)
    strides[1] = sizeof(floating)
    views_build(&view, 1, 2, order, shape, &all_strides, reduced)
    g.n_rows = rows
    g.n_cols = cols
    g.weights = NULL
    g.resume = False
    g.total.n = state
    g.total.hi = state + cols
    g.total.lo = state + 2 * cols
    g.total.m2 = state + 3 * cols
    g.total.m2l = state + 4 * cols
    g.total.e = exponent
    g.total.nl = NULL
    g.total.miss = NULL
    lay_grid(&g)
    return run(&g, n_threads)


cdef int check_status(int status) except -1:
    if status == -1:
        raise_pending()
    if status == -2:
        raise MemoryError("moments: no memory for partial results")
    return 0


def moments_forward(state, exponent, X, axes, int n_threads):
    """Write the moments of X over `axes` to `state` and `exponent`.

    Parameters
    ----------
    state : array of shape (5, n_columns), float64                     # OUT
    exponent : array of shape (n_columns,), int32                      # OUT
        Columns are numbered as `_source.column_order` says.
    X : array of a real dtype, not empty                               # IN
    axes : sequence of int
        The axes to reduce, not negative.
    n_threads : int
    """
    cdef Grid g
    cdef int status
    grid_init(&g, X, axes)
    g.total = state_of(state, exponent)
    with nogil:
        status = run(&g, n_threads)
    check_status(status)


def moments_update(
    state, exponent, X, axes, const double[::1] weights, int n_threads
):
    """Merge the moments of X over `axes` into `state` and `exponent`.

    Parameters
    ----------
    state : array of shape (5, n_columns), (6, ...) or (7, ...), float64 # IN, OUT
        Six rows or seven where there are weights, or ever were; the seventh grows by
        the number of NaN of positive weight. Left in part if interrupted.
    exponent : array of shape (n_columns,), int32                      # IN, OUT
        Columns are numbered as `_source.column_order` says.
    X : array of a real dtype, not empty                               # IN
    axes : sequence of int
        The axes to reduce, not negative.
    weights : array of shape (n_rows,) or None                         # IN
        Finite, not negative; the rows are numbered as `_source.row_order` says.
    n_threads : int
    """
    cdef Grid g
    cdef int status
    grid_init(&g, X, axes)
    g.total = state_of(state, exponent)
    g.resume = True
    if weights is not None:
        g.weights = &weights[0]
    with nogil:
        status = run(&g, n_threads)
    check_status(status)


def first_bad_weight(const double[::1] weights):
    """Return the index of the first weight that is negative or not finite, or -1.

    Parameters
    ----------
    weights : array of shape (n_rows,), float64                        # IN
    """
    cdef Py_ssize_t i, j, n = weights.shape[0]
    cdef Py_ssize_t found = -1
    cdef bint good = True
    with nogil:
        for i in range(0, n, 1024):
            for j in range(i, min(i + 1024, n)):
                good = good & (weights[j] >= 0.0) & (weights[j] < INFINITY)
            if not good:
                for j in range(i, n):
                    if not (0.0 <= weights[j] < INFINITY):
                        found = j
                        break
                break
    return found


def group_rows(X, axes):
    """Return how many rows a group of X has over `axes`: the step of the block grid.

    Updates with chunks of any multiple of it, in order, and with a last one of any
    size, give the bits of the moments of the whole.
    """
    cdef Grid g
    grid_init(&g, X, axes)
    return g.group


def moments_finish(var, std, state, exponent, double ddof):
    """Write variance and standard deviation; return whether an exponent is not 0.

    var = M2 / (n - ddof); NaN where n <= ddof. std is right also where var, its
    square, leaves the range of a double.

    Parameters
    ----------
    var, std : arrays of shape (n_columns,), float64                   # OUT
        If they are one array it gets the standard deviation.
    state, exponent : as in `moments_forward`                          # IN
    ddof : float
    """
    cdef State s = state_of(state, exponent)
    cdef double[::1] v = var
    cdef double[::1] d = std
    cdef Py_ssize_t i
    cdef Py_ssize_t n = s_size(exponent)
    cdef double value, rest, root
    cdef bint scaled = False
    with nogil:
        for i in range(n):
            value = NAN
            rest = s.n[i] - ddof
            if s.nl != NULL:
                rest += s.nl[i]
            if rest > 0.0:
                value = (s.m2[i] + s.m2l[i]) / rest
            root = sqrt(value)
            if s.e[i] != 0:
                scaled = True
                value = ldexp(value, 2 * s.e[i])
                root = ldexp(root, s.e[i])
            v[i] = value
            d[i] = root
    return scaled


def moments_merge(state, exponent, state_b, exponent_b):
    """Replace moments by those of both sets of data together: a := a + b.

    Parameters
    ----------
    state, exponent : as in `moments_update`                           # IN, OUT
        With six rows, if the other has.
    state_b, exponent_b : the same of other data                       # IN
    """
    cdef State a = state_of(state, exponent)
    cdef State b = state_of(state_b, exponent_b)
    cdef Py_ssize_t n = s_size(exponent)
    with nogil:
        kernels.merge(a, b, n)
