"""A dense network as a plan: one call without the GIL for a whole pass.

Design
a) Equations. Samples are rows. Layer l computes Z = A_in W + b, A = f(Z). With
   D = dL/dZ, going backward: dW = A_in^T D, db = column sums of D,
   dL/dA_in = D W^T and, for the layer below, D_below = dL/dA_in * f'(Z_below)
   (Rumelhart, Hinton & Williams 1986, in matrix form).
b) The plan is a C array of layers with their sizes and their offsets into one flat
   parameter vector theta and one flat gradient. A pass walks it: forward, loss,
   backward, update, without the GIL and, after the first call of a given size,
   without allocating: the workspace is kept.
c) Rows are taken in chunks whose workspace stays below a fixed size, so that a
   million samples need no more memory than some thousands. The gradient sums over
   chunks; bias gradients sum in double, losses in two of them.
d) Threads. Each step of the walk is one job of few, large tiles (parallel.c): for
   the forward step tiles of the output; for the backward step tiles of D_below and
   of dW together, for they do not depend on each other. A tile is cut along the
   longer side, since a product packs its operands once per call, and the bias,
   activation and derivative are applied to it by the thread that has just computed
   it. Products below MIN_TILE_FLOPS stay on the calling thread. Without a gradient
   to come, many rows are cut into blocks instead, each of which goes through all
   layers while it is in cache, and no thread waits for another in between.
e) X is read where it lies if BLAS can address it (unit stride along one axis); if
   not, or if rows are picked by an index, a chunk of it is packed first.

Cost of a pass on m samples: 2 m P flops forward, 4 m P backward less the first
layer's dL/dA_in, for P weights; beside the products, one read and one write of
each activation and its derivative.
"""
from cython cimport floating
from libc.math cimport fabs, fma, isfinite
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from ._activations cimport IDENTITY, activation_backward, activation_forward
from ._blas cimport gemm, gemv
from ._losses cimport SOFTMAX_CROSS_ENTROPY, LossSum, loss_forward, loss_link
from ._optimizers cimport UPDATED, Update, update_init, update_tasks, update_walk
from ._parallel cimport call_begin, parallel_for, raise_pending
from ._simd cimport simd_level
from ._rows cimport F32, F64, pack, pack_i64, rows_from_array

from ._activations import ACTIVATIONS
from ._losses import LOSSES

cnp.import_array()

cdef extern from "dense.h":
    struct fanin_dense:
        void (*column_sums_f32)(double *sums, const float *D, Py_ssize_t ldd,
                                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        void (*column_sums_f64)(double *sums, const double *D, Py_ssize_t ldd,
                                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        int (*all_finite_f32)(const float *A, Py_ssize_t lda, Py_ssize_t rows,
                              Py_ssize_t cols) noexcept nogil
        int (*all_finite_f64)(const double *A, Py_ssize_t lda, Py_ssize_t rows,
                              Py_ssize_t cols) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_dense(level) FANIN_SELECT(dense, level)
    """
    const fanin_dense *fanin_select_dense(int level)

cdef const fanin_dense *kernels = fanin_select_dense(simd_level())

cdef enum:
    ALIGNMENT = 64
    CHUNK_BYTES = 64 << 20      # workspace of a chunk of rows, about
    MIN_CHUNK_ROWS = 16
    MAX_CHUNK_ROWS = 16384
    BLOCK_ROWS = 256            # rows of a loss or packing task
    MAX_IDLE = 8                # workspaces kept for concurrent callers

# A tile must outweigh handing it to another thread, which costs some microseconds.
cdef double MIN_TILE_FLOPS = 1e6
# And it must end soon, for Ctrl-C is looked at between tiles: some 20 to 50 ms.
cdef double MAX_TILE_FLOPS = 2e9


# --- tiles --------------------------------------------------------------------


cdef int count_tiles(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, int n_threads
) noexcept nogil:
    """How many tiles an (m, n) product over k is worth."""
    cdef double worth = 2.0 * <double>m * <double>n * <double>k / MIN_TILE_FLOPS
    cdef Py_ssize_t side = m if m > n else n
    cdef int tiles = n_threads
    if tiles > worth:
        tiles = <int>worth
    if tiles < worth * (MIN_TILE_FLOPS / MAX_TILE_FLOPS):
        tiles = <int>min(1024.0, worth * (MIN_TILE_FLOPS / MAX_TILE_FLOPS))
    if tiles > (side + 31) // 32:
        tiles = <int>((side + 31) // 32)
    return tiles if tiles > 1 else 1


cdef void tile_bounds(
    Py_ssize_t n, int n_tiles, Py_ssize_t tile, Py_ssize_t *start, Py_ssize_t *stop
) noexcept nogil:
    """Cut range(n) into n_tiles stretches whose starts are multiples of 16."""
    cdef Py_ssize_t step = ((n + n_tiles - 1) // n_tiles + 15) // 16 * 16
    start[0] = min(n, tile * step)
    stop[0] = min(n, (tile + 1) * step)


# --- the steps of a pass, as tasks ----------------------------------------------


cdef void pack_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """Copy a block of the chunk's rows of X to A[0]."""
    cdef Py_ssize_t start = tile * BLOCK_ROWS
    cdef Py_ssize_t rows = min(BLOCK_ROWS, p.rows - start)
    cdef Py_ssize_t n_in = p.layers[0].n_in
    cdef const Py_ssize_t *index = NULL
    if p.index != NULL:
        index = p.index + p.first + start
    pack(<floating *>p.A[0] + start * n_in, n_in, &p.X, index, p.first + start,
         rows, n_in)


cdef void forward_part(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, Py_ssize_t col, Py_ssize_t n,
    floating *_
) noexcept nogil:
    """Rows [row, row + m) and columns [col, col + n) of layer at's f(A_in W + b)."""
    cdef const Layer *layer = &p.layers[at]
    cdef const floating *W = <const floating *>p.theta + layer.weight + col
    cdef const floating *bias = NULL
    cdef const floating *A_in = <const floating *>p.A[at]
    cdef Py_ssize_t ld_in = p.ld[at], ld = p.ld[at + 1]
    cdef floating *A = <floating *>p.A[at + 1] + row * ld + col
    cdef bint transposed = at == 0 and p.transposed
    A_in += row if transposed else row * ld_in
    if layer.bias >= 0:
        bias = <const floating *>p.theta + layer.bias + col
    if m == 1 and not transposed:
        gemv(A, W, layer.n_out, True, layer.n_in, n, A_in, <floating>1, <floating>0)
    else:
        gemm(A, ld, A_in, ld_in, transposed, W, layer.n_out, False, m, n, layer.n_in,
             <floating>1, <floating>0)
    activation_forward(A, ld, bias, m, n, layer.activation)


cdef void forward_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """One tile of a layer's output."""
    cdef Py_ssize_t m = p.rows, n = p.layers[p.layer].n_out, start = 0, stop = 0
    if n >= m:
        tile_bounds(n, p.n_below, tile, &start, &stop)
        if start < stop:
            forward_part(p, p.layer, 0, m, start, stop - start, _)
    else:
        tile_bounds(m, p.n_below, tile, &start, &stop)
        if start < stop:
            forward_part(p, p.layer, start, stop - start, 0, n, _)


cdef void forward_rows(Pass *p, Py_ssize_t block, floating *_) noexcept nogil:
    """All layers, for a block of rows."""
    cdef Py_ssize_t start = block * BLOCK_ROWS
    cdef Py_ssize_t m = min(BLOCK_ROWS, p.rows - start)
    cdef int at
    if not p.direct:
        pack_tile(p, block, _)
    for at in range(p.n_layers):
        forward_part(p, at, start, m, 0, p.layers[at].n_out, _)


cdef void loss_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """The losses of a block of rows and D = dL/dZ of the last layer."""
    cdef const Layer *layer = &p.layers[p.n_layers - 1]
    cdef Py_ssize_t start = tile * BLOCK_ROWS, n = layer.n_out
    cdef Py_ssize_t rows = min(BLOCK_ROWS, p.rows - start)
    cdef const Py_ssize_t *index = NULL
    cdef const floating *A = <const floating *>p.A[p.n_layers] + start * n
    cdef floating *D = <floating *>p.D + start * n
    cdef floating *dZ = NULL
    cdef floating *Y = NULL
    cdef int64_t *labels = NULL
    cdef double scale = 1.0 / <double>p.n_rows
    if p.index != NULL:
        index = p.index + p.first + start
    if p.labels:
        labels = <int64_t *>p.targets + start
        pack_i64(labels, 1, &p.Y, index, p.first + start, rows, 1)
    else:
        Y = <floating *>p.targets + start * n
        pack(Y, n, &p.Y, index, p.first + start, rows, n)
    if p.loss != SOFTMAX_CROSS_ENTROPY:
        scale /= <double>n
    if p.gradient != NULL:
        dZ = D
    # D is scratch when no gradient is wanted.
    loss_forward(
        dZ, A, <const floating *>Y, <const int64_t *>labels, rows, n, scale, D,
        &p.bad[tile], &p.partial[tile], p.loss)
    if p.bad[tile] >= 0:
        p.bad[tile] += p.first + start
    if p.gradient != NULL and layer.activation != IDENTITY:
        activation_backward(D, n, A, n, rows, n, layer.activation)


cdef void backward_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """One tile of D_below = (D W^T) * f'(Z_below), or of dW and db."""
    cdef const Layer *layer = &p.layers[p.layer]
    cdef const floating *W = <const floating *>p.theta + layer.weight
    cdef floating *dW = <floating *>p.gradient + layer.weight
    cdef const floating *D = <const floating *>p.D
    cdef floating *below = <floating *>p.D_below
    cdef const floating *A_in = <const floating *>p.A[p.layer]
    cdef Py_ssize_t ld_in = p.ld[p.layer]
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out, rows = p.rows
    cdef bint transposed = p.layer == 0 and p.transposed
    cdef Py_ssize_t m, n, start, stop
    if tile < p.n_below:
        m = rows
        n = n_in
        if n >= m:
            tile_bounds(n, p.n_below, tile, &start, &stop)
            W += start * n_out
            below += start
            A_in += start
            n = stop - start
        else:
            tile_bounds(m, p.n_below, tile, &start, &stop)
            D += start * n_out
            below += start * n_in
            A_in += start * ld_in
            m = stop - start
        if start == stop:
            return
        gemm(below, n_in, D, n_out, False, W, n_out, True, m, n, n_out,
             <floating>1, <floating>0)
        activation_backward(
            below, n_in, A_in, ld_in, m, n, p.layers[p.layer - 1].activation)
        return
    tile -= p.n_below
    if layer.bias >= 0:
        tile_bounds(n_out, p.n_weight, tile, &start, &stop)
        if floating is float:
            kernels.column_sums_f32(p.bias_sums + layer.bias_sums + start, D + start,
                                    n_out, rows, stop - start)
        else:
            kernels.column_sums_f64(p.bias_sums + layer.bias_sums + start, D + start,
                                    n_out, rows, stop - start)
    m = n_in
    n = n_out
    if n >= m:
        tile_bounds(n, p.n_weight, tile, &start, &stop)
        D += start
        dW += start
        n = stop - start
    else:
        tile_bounds(m, p.n_weight, tile, &start, &stop)
        A_in += start * ld_in if transposed else start
        dW += start * n_out
        m = stop - start
    if start == stop:
        return
    gemm(dW, n_out, A_in, ld_in, not transposed, D, n_out, False, m, n, rows,
         <floating>1, <floating>(1 if p.accumulate else 0))
    if p.update != NULL and not finite(dW, n_out, m, n):
        p.not_finite = True


cdef bint finite(
    const floating *A, Py_ssize_t lda, Py_ssize_t rows, Py_ssize_t cols
) noexcept nogil:
    if floating is float:
        return kernels.all_finite_f32(A, lda, rows, cols)
    else:
        return kernels.all_finite_f64(A, lda, rows, cols)


ctypedef void (*TaskFunction)(void *, Py_ssize_t, int) noexcept nogil

cdef void pack_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    pack_tile(<Pass *>p, i, <float *>NULL)

cdef void pack_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    pack_tile(<Pass *>p, i, <double *>NULL)

cdef void rows_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_rows(<Pass *>p, i, <float *>NULL)

cdef void rows_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_rows(<Pass *>p, i, <double *>NULL)

cdef void forward_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_tile(<Pass *>p, i, <float *>NULL)

cdef void forward_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_tile(<Pass *>p, i, <double *>NULL)

cdef void loss_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    loss_tile(<Pass *>p, i, <float *>NULL)

cdef void loss_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    loss_tile(<Pass *>p, i, <double *>NULL)

cdef void backward_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    backward_tile(<Pass *>p, i, <float *>NULL)

cdef void backward_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    backward_tile(<Pass *>p, i, <double *>NULL)

cdef struct Tasks:
    TaskFunction pack
    TaskFunction rows
    TaskFunction forward
    TaskFunction loss
    TaskFunction backward

cdef Tasks tasks_f32, tasks_f64
tasks_f32.pack = pack_f32_task
tasks_f32.rows = rows_f32_task
tasks_f32.forward = forward_f32_task
tasks_f32.loss = loss_f32_task
tasks_f32.backward = backward_f32_task
tasks_f64.pack = pack_f64_task
tasks_f64.rows = rows_f64_task
tasks_f64.forward = forward_f64_task
tasks_f64.loss = loss_f64_task
tasks_f64.backward = backward_f64_task


# --- the walk -------------------------------------------------------------------


cdef int forward_chunk(Pass *p, const Tasks *tasks, int itemsize) noexcept nogil:
    cdef int at
    cdef const Layer *layer
    cdef Py_ssize_t offset, n_out = p.layers[p.n_layers - 1].n_out
    cdef Py_ssize_t blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    if p.direct:
        offset = p.first * itemsize if p.transposed else p.first * p.X.row_stride
        p.A[0] = <char *>p.X.data + offset
        p.ld[0] = p.ld_x
    if p.out != NULL:
        p.A[p.n_layers] = p.out + p.first * p.ld_out * itemsize
    if p.gradient == NULL and p.rows >= 2 * BLOCK_ROWS:
        if parallel_for(&p.call, tasks.rows, p, blocks):
            return INTERRUPTED
    else:
        if not p.direct and parallel_for(&p.call, tasks.pack, p, blocks):
            return INTERRUPTED
        for at in range(p.n_layers):
            layer = &p.layers[at]
            p.layer = at
            p.n_below = count_tiles(p.rows, layer.n_out, layer.n_in, p.call.n_threads)
            if parallel_for(&p.call, tasks.forward, p, p.n_below):
                return INTERRUPTED
    if p.link:
        if itemsize == sizeof(float):
            loss_link(<float *>p.A[p.n_layers], p.rows, n_out, p.loss)
        else:
            loss_link(<double *>p.A[p.n_layers], p.rows, n_out, p.loss)
    return DONE


cdef int loss_chunk(Pass *p, const Tasks *tasks) noexcept nogil:
    cdef Py_ssize_t i, blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    if parallel_for(&p.call, tasks.loss, p, blocks):
        return INTERRUPTED
    for i in range(blocks):
        if p.bad[i] >= 0:
            p.bad_row = p.bad[i]
            return BAD_TARGET
        add(&p.sum, p.partial[i].hi)
        p.sum.lo += p.partial[i].lo
    return DONE


cdef void add(LossSum *total, double term) noexcept nogil:
    """Add a term and keep what the addition rounds off (Neumaier 1974)."""
    cdef double sum = total.hi + term
    if not isfinite(sum):
        pass    # inf - inf is no remainder
    elif fabs(total.hi) >= fabs(term):
        total.lo += (total.hi - sum) + term
    else:
        total.lo += (term - sum) + total.hi
    total.hi = sum


cdef void mean_loss(Pass *p, double count) noexcept nogil:
    """p.total + p.total_low = sum / count, to nearly twice a double's digits."""
    cdef double mean = (p.sum.hi + p.sum.lo) / count
    p.total = mean
    # The remainder of the division is exact in a fused multiply-add.
    p.total_low = 0.0
    if isfinite(mean):
        p.total_low = (fma(-mean, count, p.sum.hi) + p.sum.lo) / count


cdef int backward_chunk(Pass *p, const Tasks *tasks) noexcept nogil:
    cdef int at
    cdef const Layer *layer
    cdef char *swap
    for at in range(p.n_layers - 1, -1, -1):
        layer = &p.layers[at]
        p.layer = at
        p.n_weight = count_tiles(
            layer.n_in, layer.n_out, p.rows, p.call.n_threads)
        # Nobody asked for the gradient with respect to X.
        p.n_below = 0 if at == 0 else count_tiles(
            p.rows, layer.n_in, layer.n_out, p.call.n_threads)
        if parallel_for(&p.call, tasks.backward, p, p.n_below + p.n_weight):
            return INTERRUPTED
        swap = p.D
        p.D = p.D_below
        p.D_below = swap
    return DONE


cdef void finish_bias(Pass *p, floating *gradient) noexcept nogil:
    """Round the double sums of the bias gradients to the gradient's dtype."""
    cdef int at
    cdef Py_ssize_t j
    cdef const Layer *layer
    for at in range(p.n_layers):
        layer = &p.layers[at]
        if layer.bias >= 0:
            for j in range(layer.n_out):
                gradient[layer.bias + j] = <floating>p.bias_sums[layer.bias_sums + j]
            if not finite(gradient + layer.bias, layer.n_out, 1, layer.n_out):
                p.not_finite = True


cdef int run(Pass *p, int itemsize) noexcept nogil:
    """Walk the plan over all rows of the call; returns an Outcome."""
    cdef const Tasks *tasks = &tasks_f32 if itemsize == sizeof(float) else &tasks_f64
    cdef int outcome
    cdef char *D = p.D
    cdef char *D_below = p.D_below
    p.sum.hi = 0.0
    p.sum.lo = 0.0
    p.accumulate = False
    if p.gradient != NULL:
        memset(p.bias_sums, 0, <size_t>p.n_bias * sizeof(double))
    p.first = 0
    while p.first < p.n_rows:
        p.rows = min(p.chunk_rows, p.n_rows - p.first)
        outcome = forward_chunk(p, tasks, itemsize)
        if outcome == DONE and p.with_loss:
            outcome = loss_chunk(p, tasks)
        if outcome == DONE and p.gradient != NULL:
            outcome = backward_chunk(p, tasks)
            p.accumulate = True
        p.D = D
        p.D_below = D_below
        if outcome != DONE:
            return outcome
        p.first += p.rows
    if not p.with_loss:
        return DONE
    mean_loss(p, <double>p.n_rows * (
        1.0 if p.loss == SOFTMAX_CROSS_ENTROPY
        else <double>p.layers[p.n_layers - 1].n_out))
    if p.gradient != NULL:
        if itemsize == sizeof(float):
            finish_bias(p, <float *>p.gradient)
        else:
            finish_bias(p, <double *>p.gradient)
    if p.update != NULL:
        if p.not_finite or not isfinite(p.total):
            return NOT_FINITE
        if itemsize == sizeof(float):
            outcome = update_walk(
                &p.call, <float *>p.theta, <const float *>p.gradient,
                p.n_parameters, p.update, p.norm_sums)
        else:
            outcome = update_walk(
                &p.call, <double *>p.theta, <const double *>p.gradient,
                p.n_parameters, p.update, p.norm_sums)
        if outcome != UPDATED:
            return INTERRUPTED if outcome < 0 else NOT_FINITE
    return DONE


# --- the Python face --------------------------------------------------------------


cdef size_t aligned(size_t size) noexcept nogil:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef class Plan:
    """The compiled form of a list of dense layers and a loss.

    Parameters
    ----------
    layers : list of (n_in, n_out, activation name, has bias)
    loss : str
    dtype : numpy.dtype
        float32 or float64.

    Notes
    -----
    Arguments of the methods have been checked by `fanin.network`: theta and
    gradient are contiguous vectors of the plan's dtype, X is (n_rows, n_inputs) of
    any real dtype, y is labels (n_rows,) or targets (n_rows, n_outputs). What would
    make a kernel leave an array is checked here once more.
    """

    def __cinit__(self, list layers, str loss, dtype):
        cdef Py_ssize_t offset = 0, widest = 0, row = 0
        cdef int at
        self.itemsize = dtype.itemsize
        self.loss = LOSSES[loss]
        self.n_layers = len(layers)
        self.layers = <Layer *>malloc(self.n_layers * sizeof(Layer))
        self.decayed = <Py_ssize_t *>malloc(2 * self.n_layers * sizeof(Py_ssize_t))
        if self.layers == NULL or self.decayed == NULL:
            raise MemoryError
        for at, (n_in, n_out, activation, has_bias) in enumerate(layers):
            self.layers[at].n_in = n_in
            self.layers[at].n_out = n_out
            self.layers[at].activation = ACTIVATIONS[activation]
            self.layers[at].weight = offset
            self.decayed[2 * at] = offset
            offset += n_in * n_out
            self.decayed[2 * at + 1] = offset
            self.layers[at].bias = offset if has_bias else -1
            self.layers[at].bias_sums = self.n_bias
            if has_bias:
                offset += n_out
                self.n_bias += n_out
            widest = max(widest, <Py_ssize_t>n_out)
            row += n_out
        self.n_parameters = offset
        self.n_inputs = self.layers[0].n_in
        self.n_outputs = self.layers[self.n_layers - 1].n_out
        row = (row + self.n_inputs + 2 * widest + self.n_outputs) * self.itemsize
        self.chunk_rows = min(MAX_CHUNK_ROWS, CHUNK_BYTES // row)
        if self.chunk_rows >= BLOCK_ROWS:
            self.chunk_rows = self.chunk_rows // BLOCK_ROWS * BLOCK_ROWS
        else:
            self.chunk_rows = max(MIN_CHUNK_ROWS, self.chunk_rows)

    def __dealloc__(self):
        cdef Workspace *workspace
        while self.idle != NULL:
            workspace = self.idle
            self.idle = workspace.next
            free(workspace.base)
            free(workspace)
        free(self.layers)
        free(self.decayed)

    cdef int begin(self, Pass *p, object theta, object X, int n_threads) except -1:
        """Describe the plan and its input; nothing is wanted yet."""
        if cnp.PyArray_NDIM(X) != 2 or cnp.PyArray_DIM(X, 1) != self.n_inputs:
            raise ValueError(f"X must have {self.n_inputs} columns")
        self.check_vector(theta, "theta")
        memset(p, 0, sizeof(Pass))
        call_begin(&p.call, n_threads)
        p.layers = self.layers
        p.n_layers = self.n_layers
        p.loss = self.loss
        p.n_parameters = self.n_parameters
        p.n_bias = self.n_bias
        p.chunk_rows = self.chunk_rows
        p.theta = <char *>cnp.PyArray_DATA(theta)
        rows_from_array(&p.X, X)
        p.n_rows = cnp.PyArray_DIM(X, 0)
        return 0

    cdef int check_vector(self, object v, str name) except -1:
        if (cnp.PyArray_NDIM(v) != 1 or cnp.PyArray_DIM(v, 0) != self.n_parameters
                or cnp.PyArray_ITEMSIZE(v) != self.itemsize
                or not cnp.PyArray_IS_C_CONTIGUOUS(v)):
            raise ValueError(f"{name} is not a vector of this plan")
        return 0

    cdef void choose_addressing(self, Pass *p, object X) noexcept:
        """Decide whether BLAS can read X where it lies."""
        cdef Py_ssize_t size = self.itemsize, n = self.n_inputs
        cdef Py_ssize_t limit = <Py_ssize_t>0x7fffffff * size
        p.direct = (
            p.index == NULL
            and p.X.dtype == (F32 if size == sizeof(float) else F64)
            and not p.X.swapped
            and cnp.PyArray_ISALIGNED(X)
        )
        if not p.direct:
            return
        if p.X.col_stride == size or n == 1:
            p.ld_x = n if p.n_rows == 1 else p.X.row_stride // size
            p.direct = p.n_rows == 1 or (
                p.X.row_stride >= n * size and p.X.row_stride % size == 0
                and p.X.row_stride < limit)
        elif p.X.row_stride == size and p.n_rows > 1:
            p.transposed = True
            p.ld_x = p.X.col_stride // size
            p.direct = (
                p.X.col_stride >= p.n_rows * size and p.X.col_stride % size == 0
                and p.X.col_stride < limit)
        else:
            p.direct = False
        if not p.direct:
            p.transposed = False

    cdef int set_targets(self, Pass *p, object y) except -1:
        p.with_loss = True
        p.labels = cnp.PyArray_NDIM(y) == 1
        if p.labels and self.loss != SOFTMAX_CROSS_ENTROPY or not p.labels and (
                cnp.PyArray_NDIM(y) != 2 or cnp.PyArray_DIM(y, 1) != self.n_outputs):
            raise ValueError("y is not a target of this plan")
        if p.index == NULL and cnp.PyArray_DIM(y, 0) != p.n_rows:
            raise ValueError(f"y must have {p.n_rows} rows")
        rows_from_array(&p.Y, y)
        return 0

    cdef size_t layout(self, Pass *p, char *base) noexcept nogil:
        """Place the pass's buffers from `base` on; returns the bytes needed.

        With base NULL nothing is placed: the first call asks for the size only.
        """
        cdef size_t at = 0, size = self.itemsize
        cdef size_t rows = min(p.n_rows, self.chunk_rows)
        cdef size_t blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
        cdef size_t widest = 0
        cdef int layer
        if base != NULL:
            p.A = <char **>base
        at += aligned((self.n_layers + 1) * sizeof(char *))
        if base != NULL:
            p.ld = <Py_ssize_t *>(base + at)
        at += aligned((self.n_layers + 1) * sizeof(Py_ssize_t))
        if not p.direct:
            if base != NULL:
                p.A[0] = base + at
                p.ld[0] = self.n_inputs
            at += aligned(rows * self.n_inputs * size)
        for layer in range(self.n_layers):
            if <size_t>self.layers[layer].n_out > widest:
                widest = self.layers[layer].n_out
            if base != NULL:
                p.A[layer + 1] = base + at
                p.ld[layer + 1] = self.layers[layer].n_out
            if layer == self.n_layers - 1 and p.out != NULL:
                if base != NULL:
                    p.ld[layer + 1] = p.ld_out
            else:
                at += aligned(rows * self.layers[layer].n_out * size)
        if not p.with_loss:
            return at
        if base != NULL:
            p.D = base + at
        at += aligned(rows * (widest if p.gradient != NULL else self.n_outputs) * size)
        if base != NULL:
            p.targets = base + at
        at += aligned(rows * (sizeof(int64_t) if p.labels else self.n_outputs * size))
        if base != NULL:
            p.partial = <LossSum *>(base + at)
        at += aligned(blocks * sizeof(LossSum))
        if base != NULL:
            p.bad = <Py_ssize_t *>(base + at)
        at += aligned(blocks * sizeof(Py_ssize_t))
        if p.gradient != NULL:
            if base != NULL:
                p.D_below = base + at
            at += aligned(rows * widest * size)
            if base != NULL:
                p.bias_sums = <double *>(base + at)
            at += aligned(self.n_bias * sizeof(double))
        if p.update != NULL and p.update.max_norm > 0.0:
            if base != NULL:
                p.norm_sums = <double *>(base + at)
            at += aligned(update_tasks(self.n_parameters) * sizeof(double))
        return at

    cdef Workspace *take(self, Pass *p) except NULL:
        """Take an idle workspace, or a new one, and lay the pass out in it."""
        cdef Workspace *workspace = self.idle
        cdef size_t size = self.layout(p, NULL) + ALIGNMENT
        if workspace != NULL:
            self.idle = workspace.next
        else:
            workspace = <Workspace *>malloc(sizeof(Workspace))
            if workspace == NULL:
                raise MemoryError
            workspace.base = NULL
            workspace.size = 0
        if workspace.size < size:
            free(workspace.base)
            workspace.base = <char *>malloc(size)
            if workspace.base == NULL:
                free(workspace)
                raise MemoryError(f"a workspace of {size} bytes")
            workspace.size = size
        self.layout(p, <char *>aligned(<uintptr_t>workspace.base))
        return workspace

    cdef void give_back(self, Workspace *workspace) noexcept:
        cdef int n = 0
        cdef Workspace *other = self.idle
        while other != NULL:
            n += 1
            other = other.next
        if n >= MAX_IDLE:
            free(workspace.base)
            free(workspace)
        else:
            workspace.next = self.idle
            self.idle = workspace

    cdef int execute(self, Pass *p, object X) except? -2:
        """Run the pass in a workspace of its own; returns an Outcome."""
        cdef Workspace *workspace
        cdef int outcome
        if p.n_rows == 0:
            return DONE
        self.choose_addressing(p, X)
        workspace = self.take(p)
        with nogil:
            outcome = run(p, self.itemsize)
        self.give_back(workspace)
        if outcome == INTERRUPTED:
            raise_pending()
        return outcome

    def forward(self, theta, X, out, bint link=False, int n_threads=1):
        """Write the network's output for X to `out`, rows contiguous.

        With `link` the output is turned into the loss's prediction (softmax or
        logistic); `out` is then C-contiguous.
        """
        cdef Pass p
        self.begin(&p, theta, X, n_threads)
        if (cnp.PyArray_NDIM(out) != 2 or cnp.PyArray_DIM(out, 0) != p.n_rows
                or cnp.PyArray_DIM(out, 1) != self.n_outputs
                or cnp.PyArray_ITEMSIZE(out) != self.itemsize):
            raise ValueError("out is not a result of this plan")
        p.out = <char *>cnp.PyArray_DATA(out)
        p.ld_out = cnp.PyArray_STRIDE(out, 0) // self.itemsize
        p.link = link
        self.execute(&p, X)

    def evaluate(self, theta, X, y, gradient=None, int n_threads=1):
        """Return (loss, first row with a bad target or -1); fill `gradient`."""
        cdef Pass p
        self.begin(&p, theta, X, n_threads)
        self.set_targets(&p, y)
        if gradient is not None:
            self.check_vector(gradient, "gradient")
            p.gradient = <char *>cnp.PyArray_DATA(gradient)
        if self.execute(&p, X) == BAD_TARGET:
            return 0.0, p.bad_row
        return p.total, -1

    def step(
        self, theta, gradient, X, y, tuple update, index=None, int n_threads=1,
        optimizer=None
    ):
        """Forward, loss, backward and update.

        Returns (loss, first row with a bad target or -1, whether it was taken):
        nothing is updated when a target is bad or the loss or gradient not finite.
        `update` is what the optimizer prepared; `index` picks rows of X and y. A
        step that was taken is counted in `optimizer.n_steps` here, before Ctrl-C can
        come in between.
        """
        cdef Pass p
        cdef Update u
        cdef int outcome
        self.begin(&p, theta, X, n_threads)
        self.set_targets(&p, y)
        self.check_vector(gradient, "gradient")
        p.gradient = <char *>cnp.PyArray_DATA(gradient)
        update_init(&u, update, self.n_parameters, self.itemsize)
        # Weight decay is for weight matrices: a bias or a scale does not overfit.
        u.decayed = self.decayed
        u.n_decayed = self.n_layers
        p.update = &u
        if index is not None:
            p.index = <const Py_ssize_t *>cnp.PyArray_DATA(index)
            p.n_rows = cnp.PyArray_DIM(index, 0)
        outcome = self.execute(&p, X)
        if outcome == DONE and optimizer is not None:
            optimizer.n_steps += 1
        return p.total, p.bad_row if outcome == BAD_TARGET else -1, outcome == DONE
