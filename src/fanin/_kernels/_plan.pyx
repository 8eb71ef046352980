# cython: boundscheck=False, wraparound=False, cdivision=True
"""A network as a plan: one call without the GIL for a whole pass.

Design
a) The plan is a C array of operations with their sizes and their offsets into one
   flat parameter vector theta and one flat gradient. A pass walks it: forward, loss,
   backward, update, without the GIL and, after the first call of a given size,
   without allocating: the workspace is kept. What an operation computes is said in
   _dense.pyx and _operations.pyx; D, going backward, is dL/dz of the operation in
   work, already through its activation.
b) Rows are taken in chunks whose workspace stays below a fixed size, so that a
   million samples need no more memory than some thousands (in training with batch
   normalization a chunk is the batch). The gradient sums over chunks; gradients of
   biases, gammas and betas sum in double, losses in two of them.
c) Threads. Each step of the walk is one job of few, large tiles, or of blocks of rows
   (parallel.c). Without a gradient to come, many rows are cut into blocks instead,
   each of which goes through all layers while it is in cache, and no thread waits for
   another in between.
d) X is read where it lies if BLAS can address it (unit stride along one axis); if
   not, or if rows are picked by an index, a chunk of it is packed first.
e) The mean loss is sum(w l) / sum(w) over samples (and outputs), w the samples'
   weights, plus l2/2 |W|^2 of the layers that are penalized.
f) A forward pass that is to be followed by a backward one with the gradient of
   something else keeps its workspace in a Tape. If its rows were more than a chunk,
   the backward pass computes each chunk's forward pass again.
g) Watched, a pass takes the statistics of each output as soon as it is there, and of
   each D before it is carried on (_signals.pyx): nothing of either is kept.
h) The update comes last, and whole or not at all: the loss and the gradient are
   finite, and no Ctrl-C is looked at any more.

Cost of a pass on m samples: 2 m P flops forward, 4 m P backward less the first
layer's dL/dA_in, for P weights; beside the products, one read and one write of
each activation and its derivative.
"""
cimport cython
from cython cimport floating
from libc.math cimport NAN, fabs, fma, isfinite
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

import math

import numpy as np

from ._activations cimport activation_init, activation_needs_input
from ._dense cimport (
    all_finite, count_tiles, dense_backward_tile, dense_forward_rows,
    dense_forward_tile, is_slight, through_activation)
from ._losses cimport (
    LossSum, loss_forward, loss_init, loss_is_per_row, loss_link, loss_takes_labels)
from ._operations cimport (
    extra_bytes, keep_statistics, operation_backward, operation_forward,
    operation_forward_rows, prepare)
from ._optimizers cimport (
    UPDATE_ENTRIES, UPDATED, Update, update_init, update_tasks, update_walk)
from ._parallel cimport call_begin, parallel_for, raise_stopped
from ._pass cimport (
    ACTIVATION, BAD_TARGET, BATCH_NORM, BLOCK_ROWS, DENSE, DONE, DROPOUT, INTERRUPTED,
    LAYER_NORM, NOT_FINITE, RMS_NORM, Operation, Pass, Workspace)
from ._rows cimport F32, F64, Rows, pack, pack_i64, rows_from_array
from ._signals cimport (
    STATISTICS, Watch, Watched, parts_bytes, rows_of_matrix, watch_rows)

cnp.import_array()

cdef enum:
    ALIGNMENT = 64
    CHUNK_BYTES = 64 << 20      # workspace of a chunk of rows, about
    MIN_CHUNK_ROWS = 16
    MAX_CHUNK_ROWS = 16384
    MAX_STRETCH = 512           # rows that go through all layers together
    MAX_IDLE_BYTES = 256 << 20  # of one that is kept: a batch may be more than a chunk
    MAX_IDLE = 8                # workspaces kept for concurrent callers

KINDS = {
    "dense": DENSE, "activation": ACTIVATION, "dropout": DROPOUT,
    "batch_norm": BATCH_NORM, "layer_norm": LAYER_NORM, "rms_norm": RMS_NORM,
}


# --- the steps of a pass, as tasks ----------------------------------------------


cdef void pack_rows(
    Pass *p, Py_ssize_t start, Py_ssize_t rows, floating *_
) noexcept nogil:
    """Copy rows of the chunk of X to A[0]."""
    cdef Py_ssize_t n_in = p.operations[0].n_in
    cdef const Py_ssize_t *index = NULL
    if p.index != NULL:
        index = p.index + p.first + start
    pack(<floating *>p.A[0] + start * n_in, n_in, &p.X, index, p.first + start,
         rows, n_in)


cdef void forward_rows(Pass *p, Py_ssize_t block, floating *_) noexcept nogil:
    """All layers, for a block of rows."""
    cdef Py_ssize_t start = block * p.stretch
    cdef Py_ssize_t m = min(p.stretch, p.rows - start)
    cdef int at
    if not p.direct:
        pack_rows(p, start, m, _)
    for at in range(p.n_operations):
        if p.operations[at].kind == DENSE:
            dense_forward_rows(p, at, start, m, _)
        else:
            operation_forward_rows(p, at, start, m, _)


cdef void pick_labels(Pass *p, floating *_) noexcept nogil:
    """The column of each row's largest output, or of its first NaN, as np.argmax."""
    cdef Py_ssize_t n = p.operations[p.n_operations - 1].n_out, i, j, best
    cdef const floating *Z
    for i in range(p.rows):
        Z = <const floating *>p.A[p.n_operations] + i * p.ld[p.n_operations]
        best = 0
        for j in range(1, n):
            if Z[best] != Z[best]:
                break
            if not Z[j] <= Z[best]:
                best = j
        p.picked[p.first + i] = best


cdef void loss_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """The losses of a block of rows and D = dL/dz of the last operation."""
    cdef int last = p.n_operations - 1
    cdef Py_ssize_t start = tile * BLOCK_ROWS, n = p.operations[last].n_out, i
    cdef Py_ssize_t rows = min(BLOCK_ROWS, p.rows - start)
    cdef const Py_ssize_t *index = NULL
    cdef const floating *A = <const floating *>p.A[p.n_operations] + start * n
    cdef floating *D = <floating *>p.D + start * n
    cdef floating *dZ = NULL
    cdef floating *Y = NULL
    cdef int64_t *labels = NULL
    cdef const double *weights = NULL
    cdef double scale = 1.0 / p.total_weight
    if p.index != NULL:
        index = p.index + p.first + start
    if p.labels:
        labels = <int64_t *>p.targets + start
        pack_i64(labels, 1, &p.Y, index, p.first + start, rows, 1)
    else:
        Y = <floating *>p.targets + start * n
        pack(Y, n, &p.Y, index, p.first + start, rows, n)
    if p.weights != NULL:
        weights = p.weights + p.first + start
        if index != NULL:
            weights = p.block_weights + start
            for i in range(rows):
                p.block_weights[start + i] = p.weights[index[i]]
    if not loss_is_per_row(p.loss):
        scale /= <double>n
    if p.backward:
        dZ = D
    # D is scratch when no gradient is wanted.
    loss_forward(
        dZ, A, <const floating *>Y, <const int64_t *>labels, weights, rows, n, scale, D,
        &p.bad[tile], &p.partial[tile], p.loss, &p.call)
    if p.bad[tile] >= 0:
        p.bad[tile] += p.first + start
    if p.backward:
        through_activation(p, last, D, n, start, rows, 0, n)


cdef void given_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """D of the last operation from the gradient that the caller gives."""
    cdef int last = p.n_operations - 1
    cdef Py_ssize_t start = tile * BLOCK_ROWS, n = p.operations[last].n_out, i
    cdef Py_ssize_t rows = min(BLOCK_ROWS, p.rows - start)
    cdef floating *D = <floating *>p.D + start * n
    for i in range(rows):
        memcpy(D + i * n,
               <floating *>p.dA + (p.first + start + i) % p.n_dA * p.ld_dA,
               <size_t>n * sizeof(floating))
    through_activation(p, last, D, n, start, rows, 0, n)


cdef void penalty_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """The sum of l2/2 w^2 over a stretch of theta, in two words."""
    cdef Py_ssize_t first = tile * UPDATE_ENTRIES
    cdef Py_ssize_t last = min(first + UPDATE_ENTRIES, p.n_parameters)
    cdef const floating *theta = <const floating *>p.theta
    cdef const Operation *o
    cdef LossSum total
    cdef double sum
    cdef Py_ssize_t start, stop, i
    cdef int at
    total.hi = 0.0
    total.lo = 0.0
    for at in range(p.n_operations):
        o = &p.operations[at]
        if o.kind != DENSE or o.l2 == 0.0:
            continue
        start = max(first, o.weight)
        stop = min(last, o.weight + o.n_in * o.n_out)
        while start < stop:
            sum = 0.0
            for i in range(start, min(start + 64, stop)):
                sum += <double>theta[i] * <double>theta[i]
            add(&total, 0.5 * o.l2 * sum)
            start += 64
    p.squares[2 * tile] = total.hi
    p.squares[2 * tile + 1] = total.lo


ctypedef void (*TaskFunction)(void *, Py_ssize_t, int) noexcept nogil

cdef void pack_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    pack_rows(<Pass *>p, i * BLOCK_ROWS,
              min(BLOCK_ROWS, (<Pass *>p).rows - i * BLOCK_ROWS), <float *>NULL)

cdef void pack_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    pack_rows(<Pass *>p, i * BLOCK_ROWS,
              min(BLOCK_ROWS, (<Pass *>p).rows - i * BLOCK_ROWS), <double *>NULL)

cdef void rows_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_rows(<Pass *>p, i, <float *>NULL)

cdef void rows_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_rows(<Pass *>p, i, <double *>NULL)

cdef void forward_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    dense_forward_tile(<Pass *>p, i, <float *>NULL)

cdef void forward_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    dense_forward_tile(<Pass *>p, i, <double *>NULL)

cdef void loss_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    loss_tile(<Pass *>p, i, <float *>NULL)

cdef void loss_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    loss_tile(<Pass *>p, i, <double *>NULL)

cdef void given_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    given_tile(<Pass *>p, i, <float *>NULL)

cdef void given_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    given_tile(<Pass *>p, i, <double *>NULL)

cdef void backward_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    dense_backward_tile(<Pass *>p, i, <float *>NULL)

cdef void backward_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    dense_backward_tile(<Pass *>p, i, <double *>NULL)

cdef void penalty_f32(void *p, Py_ssize_t i, int worker) noexcept nogil:
    penalty_tile(<Pass *>p, i, <float *>NULL)

cdef void penalty_f64(void *p, Py_ssize_t i, int worker) noexcept nogil:
    penalty_tile(<Pass *>p, i, <double *>NULL)

cdef struct Tasks:
    TaskFunction pack
    TaskFunction rows
    TaskFunction forward
    TaskFunction loss
    TaskFunction given
    TaskFunction backward
    TaskFunction penalty

cdef Tasks tasks_f32, tasks_f64
tasks_f32.pack = pack_f32
tasks_f32.rows = rows_f32
tasks_f32.forward = forward_f32
tasks_f32.loss = loss_f32
tasks_f32.given = given_f32
tasks_f32.backward = backward_f32
tasks_f32.penalty = penalty_f32
tasks_f64.pack = pack_f64
tasks_f64.rows = rows_f64
tasks_f64.forward = forward_f64
tasks_f64.loss = loss_f64
tasks_f64.given = given_f64
tasks_f64.backward = backward_f64
tasks_f64.penalty = penalty_f64


# --- the walk -------------------------------------------------------------------


cdef void address_input(Pass *p, int itemsize) noexcept nogil:
    """Where the chunk's rows of X and of the output lie."""
    cdef Py_ssize_t offset
    if p.direct:
        offset = p.first * itemsize if p.transposed else p.first * p.X.row_stride
        p.A[0] = <char *>p.X.data + offset
        p.ld[0] = p.ld_x
    if p.out != NULL:
        p.A[p.n_operations] = p.out + p.first * p.ld_out * itemsize


cdef int forward_chunk(Pass *p, const Tasks *tasks, int itemsize) noexcept nogil:
    cdef int at
    cdef const Operation *o
    cdef Py_ssize_t n_out = p.operations[p.n_operations - 1].n_out
    cdef Py_ssize_t blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    address_input(p, itemsize)
    if not p.training and not p.backward and p.rows >= 2 * BLOCK_ROWS:
        # A product packs the weight for each stretch: as few as there are threads,
        # if what a stretch computes stays in the cache.
        p.stretch = (p.rows + p.call.n_threads - 1) // p.call.n_threads
        p.stretch = (min(max(p.stretch, BLOCK_ROWS), MAX_STRETCH) + 15) // 16 * 16
        blocks = (p.rows + p.stretch - 1) // p.stretch
        if parallel_for(&p.call, tasks.rows, p, blocks):
            return INTERRUPTED
    else:
        if not p.direct and parallel_for(&p.call, tasks.pack, p, blocks):
            return INTERRUPTED
        for at in range(p.n_operations):
            o = &p.operations[at]
            p.at = at
            if o.kind != DENSE:
                if operation_forward(p, at, itemsize):
                    return INTERRUPTED
            else:
                p.n_below = count_tiles(p.rows, o.n_out, o.n_in, p.call.n_threads)
                if parallel_for(&p.call, tasks.forward, p, p.n_below):
                    return INTERRUPTED
            if p.watch != NULL and watch_forward(p, at, itemsize):
                return INTERRUPTED
    if p.link:
        if itemsize == sizeof(float):
            loss_link(<float *>p.A[p.n_operations], p.rows, n_out, p.loss)
        else:
            loss_link(<double *>p.A[p.n_operations], p.rows, n_out, p.loss)
    if p.picked != NULL:
        if itemsize == sizeof(float):
            pick_labels(p, <float *>NULL)
        else:
            pick_labels(p, <double *>NULL)
    return DONE


cdef int watch_forward(Pass *p, int at, int itemsize) noexcept nogil:
    """Take the output of an operation into its statistics, and its sampled rows."""
    cdef Watch *watch = p.watch
    cdef Watched *w = &watch.forward[at]
    cdef const Operation *o = &p.operations[at]
    cdef Py_ssize_t size = o.n_out * itemsize, i, row
    cdef Rows A, Z
    if at == 0:
        # The caller's own numbers, whatever their dtype.
        A = p.X
        A.data += p.first * A.row_stride
        if watch_rows(
                &p.call, &watch.input, &A, &A, p.first, p.rows, o.n_in, watch.parts):
            return INTERRUPTED
    if w.statistics == NULL:
        return DONE
    rows_of_matrix(&A, p.A[at + 1], p.ld[at + 1], itemsize)
    Z = A
    if w.on_z and o.kind == DENSE:
        rows_of_matrix(&Z, p.Z[at], o.n_out, itemsize)
    elif w.on_z:
        rows_of_matrix(&Z, p.A[at], p.ld[at], itemsize)
    if watch_rows(&p.call, w, &A, &Z, p.first, p.rows, o.n_out, watch.parts):
        return INTERRUPTED
    for i in range(watch.n_taken, watch.n_sampled):
        row = watch.sampled[i] - p.first
        if row >= p.rows:
            break
        memcpy(w.sample + i * size, p.A[at + 1] + row * p.ld[at + 1] * itemsize, size)
    return DONE


cdef int watch_backward(Pass *p, int at, int itemsize) noexcept nogil:
    cdef Watched *w = &p.watch.backward[at]
    cdef Py_ssize_t n = p.operations[at].n_out
    cdef Rows D
    if w.statistics == NULL:
        return DONE
    rows_of_matrix(&D, p.D, n, itemsize)
    return watch_rows(&p.call, w, &D, &D, p.first, p.rows, n, p.watch.parts)


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


cdef int add_penalty(Pass *p, const Tasks *tasks) noexcept nogil:
    cdef Py_ssize_t i
    cdef Py_ssize_t tiles = (p.n_parameters + UPDATE_ENTRIES - 1) // UPDATE_ENTRIES
    cdef LossSum total
    if parallel_for(&p.call, tasks.penalty, p, tiles):
        return INTERRUPTED
    total.hi = p.total
    total.lo = p.total_low
    for i in range(tiles):
        add(&total, p.squares[2 * i])
        total.lo += p.squares[2 * i + 1]
    p.total = total.hi + total.lo
    p.total_low = 0.0
    if isfinite(p.total):
        p.total_low = (total.hi - p.total) + total.lo
    return DONE


cdef int backward_chunk(Pass *p, const Tasks *tasks, int itemsize) noexcept nogil:
    cdef int at, n_threads, outcome
    cdef const Operation *o
    cdef char *swap
    for at in range(p.n_operations - 1, -1, -1):
        o = &p.operations[at]
        p.at = at
        if p.watch != NULL and watch_backward(p, at, itemsize):
            return INTERRUPTED
        if o.kind != DENSE:
            if operation_backward(p, at, itemsize):
                return INTERRUPTED
            continue
        p.n_weight = 0
        if p.gradient != NULL:
            p.n_weight = count_tiles(o.n_in, o.n_out, p.rows, p.call.n_threads)
        p.n_below = 0
        if at > 0 or p.dX != NULL:
            p.n_below = count_tiles(p.rows, o.n_in, o.n_out, p.call.n_threads)
        n_threads = p.call.n_threads
        if p.n_below + p.n_weight == 2 and is_slight(p.rows, o.n_out, o.n_in):
            p.call.n_threads = 1
        outcome = parallel_for(&p.call, tasks.backward, p, p.n_below + p.n_weight)
        p.call.n_threads = n_threads
        if outcome:
            return INTERRUPTED
        swap = p.D
        p.D = p.D_below
        p.D_below = swap
    return DONE


cdef void finish_sums(Pass *p, floating *gradient) noexcept nogil:
    """Round the double sums of the gradients to the gradient's dtype."""
    cdef const Operation *o
    cdef const double *sums
    cdef Py_ssize_t n, j
    cdef int at
    for at in range(p.n_operations):
        o = &p.operations[at]
        n = o.n_out
        sums = p.sums + o.sums
        if o.kind != DENSE and o.weight >= 0:
            for j in range(n):
                gradient[o.weight + j] = <floating>sums[j]
            if not all_finite(gradient + o.weight, n, 1, n):
                p.not_finite = True
            sums += n
        if o.bias >= 0:
            for j in range(n):
                gradient[o.bias + j] = <floating>sums[j]
            if not all_finite(gradient + o.bias, n, 1, n):
                p.not_finite = True


cdef int run(Pass *p, int itemsize) noexcept nogil:
    """Walk the plan over all rows of the call; returns an Outcome."""
    cdef const Tasks *tasks = &tasks_f32 if itemsize == sizeof(float) else &tasks_f64
    cdef int outcome = DONE
    cdef char *D = p.D
    cdef char *D_below = p.D_below
    cdef Py_ssize_t blocks
    p.sum.hi = 0.0
    p.sum.lo = 0.0
    p.accumulate = False
    if p.gradient != NULL:
        memset(p.sums, 0, <size_t>p.n_sums * sizeof(double))
    if not p.resume:
        if itemsize == sizeof(float):
            prepare(p, <float *>NULL)
        else:
            prepare(p, <double *>NULL)
    p.first = 0
    while p.first < p.n_rows:
        p.rows = min(p.chunk_rows, p.n_rows - p.first)
        if not p.resume:
            outcome = forward_chunk(p, tasks, itemsize)
        if outcome == DONE and p.with_loss:
            outcome = loss_chunk(p, tasks)
        if outcome == DONE and p.dA != NULL:
            blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
            outcome = parallel_for(&p.call, tasks.given, p, blocks)
        if outcome == DONE and (p.gradient != NULL or p.dX != NULL):
            outcome = backward_chunk(p, tasks, itemsize)
            p.accumulate = True
        p.D = D
        p.D_below = D_below
        if outcome != DONE:
            return outcome
        p.first += p.rows
        while (p.watch != NULL and p.watch.n_taken < p.watch.n_sampled
                and p.watch.sampled[p.watch.n_taken] < p.first):
            p.watch.n_taken += 1
    if p.gradient != NULL:
        if itemsize == sizeof(float):
            finish_sums(p, <float *>p.gradient)
        else:
            finish_sums(p, <double *>p.gradient)
    if p.with_loss:
        mean_loss(p, p.total_weight * (
            1.0 if loss_is_per_row(p.loss)
            else <double>p.operations[p.n_operations - 1].n_out))
        if p.penalized and add_penalty(p, tasks):
            return INTERRUPTED
    if p.update != NULL:
        if p.not_finite or not isfinite(p.total):
            return NOT_FINITE
        if itemsize == sizeof(float):
            outcome = update_walk(
                &p.call, <float *>p.theta, <const float *>p.gradient,
                p.n_parameters, p.update, p.squares)
        else:
            outcome = update_walk(
                &p.call, <double *>p.theta, <const double *>p.gradient,
                p.n_parameters, p.update, p.squares)
        if outcome != UPDATED:
            return INTERRUPTED if outcome < 0 else NOT_FINITE
    if p.training and not p.keep_state:
        keep_statistics(p)
    return DONE


# --- the Python face --------------------------------------------------------------


cdef size_t aligned(size_t size) noexcept nogil:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef void *cut(char *base, size_t *at, size_t size) noexcept nogil:
    """Cut `size` bytes from memory at `base` (NULL: only count them)."""
    cdef void *place = NULL if base == NULL else base + at[0]
    at[0] += aligned(size)
    return place


cdef Py_ssize_t place(list blocks, str name, tuple shape) except -1:
    """Append an array to the blocks of a flat vector; returns where it starts."""
    start = end_of(blocks)
    stop = start + math.prod(shape)
    if stop > 10**18:
        raise ValueError("the network has more than 1e18 parameters")
    blocks.append((name, slice(start, stop), shape))
    return start


cdef object end_of(list blocks):
    return blocks[len(blocks) - 1][1].stop if blocks else 0


cdef class Plan:
    """The compiled form of a list of layers and a loss.

    Parameters
    ----------
    layers : list of dict
        Each with "kind" (one of KINDS) and what that kind has: "n_out" (dense),
        "activation" and "parameter" (dense, activation), "bias" and "l2" (dense),
        "eps" and "affine" (norms), "momentum" (batch_norm), "rate" (dropout).
    n_inputs : int
    loss : fanin.losses.Loss
    dtype : numpy.dtype
        float32 or float64.

    Notes
    -----
    Arguments of the methods have been checked by `fanin.network`: theta and
    gradient are contiguous vectors of the plan's dtype, X is (n_rows, n_inputs) of
    any real dtype, y is labels (n_rows,) or targets (n_rows, n_outputs), state is a
    vector of n_state float64 numbers: the running means of a batch normalization,
    then its running variances. What would make a kernel leave an array is checked
    here once more.

    blocks and state_blocks say where the layers' arrays lie in theta and in state: for
    each, in order, (name, slice, shape), as ("dense0.weight", slice(0, 6), (3, 2)).
    """

    def __cinit__(self, list layers, Py_ssize_t n_inputs, loss, dtype):
        cdef Py_ssize_t widest = 0, row = 0, n = n_inputs
        cdef int number
        cdef Operation *o
        self.itemsize = dtype.itemsize
        loss_init(&self.loss, loss._kernel, loss.parameter)
        self.declared = (layers, loss)
        quantiles = loss.quantiles
        if quantiles is not None:
            self.quantiles = np.array(quantiles, np.float64)
        self.n_inputs = n_inputs
        self.blocks = []
        self.state_blocks = []
        self.operations = <Operation *>calloc(len(layers), sizeof(Operation))
        self.inference = <Operation *>calloc(len(layers) + 1, sizeof(Operation))
        self.decayed = <Py_ssize_t *>calloc(2 * len(layers), sizeof(Py_ssize_t))
        if self.operations == NULL or self.inference == NULL or self.decayed == NULL:
            raise MemoryError
        for number, layer in enumerate(layers):
            o = &self.operations[number]
            name = f"{layer['kind']}{number}"
            o.kind = KINDS[layer["kind"]]
            o.number = number
            o.n_in = n
            if o.kind == DENSE:
                n = layer["n_out"]
            o.n_out = n
            o.weight = o.bias = o.state = -1
            o.sums = self.n_sums
            activation_init(
                &o.activation, layer.get("activation", "identity"),
                layer.get("parameter", 0.0))
            if o.kind == DENSE:
                o.keeps_input = activation_needs_input(&o.activation)
                o.l2 = layer["l2"]
                self.penalized = self.penalized or o.l2 != 0.0
                o.weight = place(self.blocks, f"{name}.weight", (o.n_in, n))
                self.decayed[2 * self.n_decayed] = o.weight
                self.decayed[2 * self.n_decayed + 1] = o.weight + o.n_in * n
                self.n_decayed += 1
                if layer["bias"]:
                    o.bias = place(self.blocks, f"{name}.bias", (n,))
                    self.n_sums += n
            elif o.kind == DROPOUT:
                o.rate = layer["rate"]
            elif o.kind != ACTIVATION:
                o.eps = layer["eps"]
                self.widest_norm = max(self.widest_norm, n)
                if layer["affine"]:
                    o.weight = place(self.blocks, f"{name}.gamma", (n,))
                    if o.kind != RMS_NORM:
                        o.bias = place(self.blocks, f"{name}.beta", (n,))
                    self.n_sums += 2 * n
                if o.kind == BATCH_NORM:
                    self.mixes_rows = True
                    o.momentum = layer["momentum"]
                    o.state = place(self.state_blocks, f"{name}.running_mean", (n,))
                    place(self.state_blocks, f"{name}.running_var", (n,))
            widest = max(widest, n)
            row += n * (2 if o.keeps_input else 1)
            if o.kind != DROPOUT:
                self.inference[self.n_inference] = o[0]
                self.n_inference += 1
        self.n_operations = len(layers)
        if self.n_inference == 0:   # nothing but dropout
            self.inference[0] = self.operations[0]
            self.inference[0].kind = ACTIVATION
            self.n_inference = 1
        self.n_parameters = end_of(self.blocks)
        self.n_state = end_of(self.state_blocks)
        self.n_outputs = n
        if self.quantiles is not None:
            if self.quantiles.shape != (n,):
                raise ValueError(
                    f"a loss of {self.quantiles.size} quantiles needs as many "
                    f"outputs; got {n}")
            self.loss.quantiles = <const double *>cnp.PyArray_DATA(self.quantiles)
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
        free(self.operations)
        free(self.inference)
        free(self.decayed)

    cdef int begin(self, Pass *p, object theta, object X, int n_threads) except -1:
        """Describe the plan and its input; nothing is wanted yet, in inference."""
        if cnp.PyArray_NDIM(X) != 2 or cnp.PyArray_DIM(X, 1) != self.n_inputs:
            raise ValueError(f"X must have {self.n_inputs} columns")
        self.check_vector(theta, "theta")
        memset(p, 0, sizeof(Pass))
        call_begin(&p.call, n_threads)
        p.operations = self.inference
        p.n_operations = self.n_inference
        p.loss = &self.loss
        p.n_parameters = self.n_parameters
        p.n_sums = self.n_sums
        p.chunk_rows = self.chunk_rows
        p.penalized = self.penalized
        p.theta = <char *>cnp.PyArray_DATA(theta)
        p.keep_state = True
        rows_from_array(&p.X, X)
        p.n_rows = cnp.PyArray_DIM(X, 0)
        return 0

    cdef int set_mode(
        self, Pass *p, object state, bint training, object key, object draw
    ) except -1:
        """Give the running statistics; choose training, with this draw of masks."""
        if self.n_state > 0:
            if (state is None or cnp.PyArray_NDIM(state) != 1
                    or cnp.PyArray_DIM(state, 0) != self.n_state
                    or cnp.PyArray_TYPE(state) != cnp.NPY_DOUBLE
                    or not cnp.PyArray_IS_C_CONTIGUOUS(state)):
                raise ValueError("state is not the running statistics of this plan")
            p.state = <double *>cnp.PyArray_DATA(state)
        p.training = training
        if training:
            p.operations = self.operations
            p.n_operations = self.n_operations
            if key is not None:
                p.key[0], p.key[1] = key
            p.draw = draw
        return 0

    cdef int set_index(self, Pass *p, object index) except -1:
        if index is not None:
            if (cnp.PyArray_NDIM(index) != 1 or cnp.PyArray_TYPE(index) != cnp.NPY_INTP
                    or not cnp.PyArray_IS_C_CONTIGUOUS(index)):
                raise ValueError("index must be a contiguous vector of intp")
            p.index = <const Py_ssize_t *>cnp.PyArray_DATA(index)
            p.n_rows = cnp.PyArray_DIM(index, 0)
        return 0

    cdef int check_vector(self, object v, str name) except -1:
        if (cnp.PyArray_NDIM(v) != 1 or cnp.PyArray_DIM(v, 0) != self.n_parameters
                or cnp.PyArray_ITEMSIZE(v) != self.itemsize
                or not cnp.PyArray_IS_C_CONTIGUOUS(v)
                or not cnp.PyArray_ISALIGNED(v)):
            raise ValueError(f"{name} is not a vector of this plan")
        return 0

    cdef int check_rows(
        self, object A, Py_ssize_t rows, Py_ssize_t cols, str name
    ) except -1:
        if (cnp.PyArray_NDIM(A) != 2 or cnp.PyArray_DIM(A, 0) != rows
                or cnp.PyArray_DIM(A, 1) != cols
                or cnp.PyArray_ITEMSIZE(A) != self.itemsize):
            raise ValueError(f"{name} is not a matrix of this plan")
        return 0

    cdef void choose_addressing(self, Pass *p, object X) noexcept:
        """Decide whether the first operation can read X where it lies."""
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
        elif (p.X.row_stride == size and p.n_rows > 1
                and p.operations[0].kind == DENSE):
            p.transposed = True
            p.ld_x = p.X.col_stride // size
            p.direct = (
                p.X.col_stride >= p.n_rows * size and p.X.col_stride % size == 0
                and p.X.col_stride < limit)
        else:
            p.direct = False
        if not p.direct:
            p.transposed = False

    cdef int set_targets(self, Pass *p, object y, object weights) except -1:
        cdef Py_ssize_t i
        p.with_loss = True
        p.labels = cnp.PyArray_NDIM(y) == 1
        if p.labels and not loss_takes_labels(&self.loss) or not p.labels and (
                cnp.PyArray_NDIM(y) != 2 or cnp.PyArray_DIM(y, 1) != self.n_outputs):
            raise ValueError("y is not a target of this plan")
        if p.index == NULL and cnp.PyArray_DIM(y, 0) != p.n_rows:
            raise ValueError(f"y must have {p.n_rows} rows")
        rows_from_array(&p.Y, y)
        p.total_weight = <double>p.n_rows
        if weights is not None:
            if (cnp.PyArray_NDIM(weights) != 1
                    or cnp.PyArray_DIM(weights, 0) != cnp.PyArray_DIM(y, 0)
                    or cnp.PyArray_TYPE(weights) != cnp.NPY_DOUBLE
                    or not cnp.PyArray_IS_C_CONTIGUOUS(weights)):
                raise ValueError("weights must be a float64 vector, one for each row")
            p.weights = <const double *>cnp.PyArray_DATA(weights)
            p.total_weight = 0.0
            for i in range(p.n_rows):
                p.total_weight += p.weights[i if p.index == NULL else p.index[i]]
        return 0

    cdef size_t layout(self, Pass *p, char *base) noexcept nogil:
        """Place the pass's buffers from `base` on; returns the bytes needed.

        With base NULL nothing is placed: the first call asks for the size only.
        """
        cdef size_t at = 0, size = self.itemsize
        cdef size_t rows = min(p.n_rows, p.chunk_rows)
        cdef size_t blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
        cdef size_t widest = 0
        cdef size_t tables = p.n_operations + 1
        cdef int i
        cdef const Operation *o
        cdef void *place
        p.A = <char **>cut(base, &at, tables * sizeof(char *))
        p.ld = <Py_ssize_t *>cut(base, &at, tables * sizeof(Py_ssize_t))
        p.Z = <char **>cut(base, &at, tables * sizeof(char *))
        p.extra = <char **>cut(base, &at, tables * sizeof(char *))
        if not p.direct:
            place = cut(base, &at, rows * self.n_inputs * size)
            if base != NULL:
                p.A[0] = <char *>place
                p.ld[0] = self.n_inputs
        for i in range(p.n_operations):
            o = &p.operations[i]
            if <size_t>o.n_out > widest:
                widest = o.n_out
            place = NULL
            if i < p.n_operations - 1 or p.out == NULL:
                place = cut(base, &at, rows * o.n_out * size)
            if base != NULL:
                p.A[i + 1] = <char *>place
                p.ld[i + 1] = o.n_out
                if i == p.n_operations - 1 and p.out != NULL:
                    p.ld[i + 1] = p.ld_out
            place = NULL
            if o.keeps_input and p.backward:
                place = cut(base, &at, rows * o.n_out * size)
            if base != NULL:
                p.Z[i] = <char *>place
            place = cut(base, &at, extra_bytes(o, rows, size, p.training))
            if base != NULL:
                p.extra[i] = <char *>place
        if p.backward or p.with_loss:
            p.D = <char *>cut(
                base, &at, rows * (widest if p.backward else self.n_outputs) * size)
        if p.with_loss:
            p.targets = <char *>cut(
                base, &at, rows * (sizeof(int64_t) if p.labels
                                   else self.n_outputs * size))
            p.partial = <LossSum *>cut(base, &at, blocks * sizeof(LossSum))
            p.bad = <Py_ssize_t *>cut(base, &at, blocks * sizeof(Py_ssize_t))
            if p.weights != NULL:
                p.block_weights = <double *>cut(base, &at, rows * sizeof(double))
            p.squares = <double *>cut(
                base, &at, 2 * sizeof(double) * update_tasks(self.n_parameters))
        if p.backward:
            p.D_below = <char *>cut(base, &at, rows * widest * size)
            p.sums = <double *>cut(base, &at, self.n_sums * sizeof(double))
            p.parts = <double *>cut(
                base, &at, 2 * blocks * self.widest_norm * sizeof(double))
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
        if n >= MAX_IDLE or workspace.size > MAX_IDLE_BYTES:
            free(workspace.base)
            free(workspace)
        else:
            workspace.next = self.idle
            self.idle = workspace

    cdef int choose_chunk(self, Pass *p) except -1:
        """Where rows are mixed a batch is one chunk."""
        if p.training and self.mixes_rows:
            if p.n_rows > 0x7fffffff:
                raise ValueError(
                    "a batch for batch normalization has at most 2147483647 rows; got "
                    f"{p.n_rows}")
            p.chunk_rows = p.n_rows
        return 0

    cdef int execute(self, Pass *p, object X) except? -2:
        """Run the pass in a workspace of its own; returns an Outcome."""
        cdef Workspace *workspace
        cdef int outcome
        if p.n_rows == 0:
            return DONE
        self.choose_chunk(p)
        self.choose_addressing(p, X)
        workspace = self.take(p)
        with nogil:
            outcome = run(p, self.itemsize)
        self.give_back(workspace)
        if outcome == INTERRUPTED:
            raise_stopped(&p.call)
        return outcome

    cdef int set_out(self, Pass *p, object out) except -1:
        self.check_rows(out, p.n_rows, self.n_outputs, "out")
        p.out = <char *>cnp.PyArray_DATA(out)
        p.ld_out = cnp.PyArray_STRIDE(out, 0) // self.itemsize
        return 0

    cdef int set_dX(self, Pass *p, object dX) except -1:
        self.check_rows(dX, p.n_rows, self.n_inputs, "dX")
        p.dX = <char *>cnp.PyArray_DATA(dX)
        p.ld_dX = cnp.PyArray_STRIDE(dX, 0) // self.itemsize
        p.backward = True
        return 0

    cdef int set_gradient(self, Pass *p, object gradient) except -1:
        self.check_vector(gradient, "gradient")
        p.gradient = <char *>cnp.PyArray_DATA(gradient)
        p.backward = True
        return 0

    def forward(
        self, theta, X, out, state=None, bint link=False, int n_threads=1
    ):
        """Write the network's output for X to `out`, rows contiguous.

        With `link` the output is turned into the loss's prediction (softmax,
        logistic or exp); `out` is then C-contiguous.
        """
        cdef Pass p
        self.begin(&p, theta, X, n_threads)
        self.set_mode(&p, state, False, None, None)
        self.set_out(&p, out)
        p.link = link
        self.execute(&p, X)

    def takes(self, X):
        """Whether X is what `begin` asks for, and nothing but an array.

        The shortest way for what comes most often: a row is predicted in a microsecond.
        """
        return (cnp.PyArray_CheckExact(X) and cnp.PyArray_NDIM(X) == 2
                and cnp.PyArray_DIM(X, 1) == self.n_inputs
                and cnp.PyArray_TYPE(X) in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE))

    def pick(self, theta, X, state=None, int n_threads=1):
        """Return the column of each row's largest output for X."""
        cdef Pass p
        cdef cnp.npy_intp n
        self.begin(&p, theta, X, n_threads)
        self.set_mode(&p, state, False, None, None)
        n = p.n_rows
        labels = cnp.PyArray_EMPTY(1, &n, cnp.NPY_INT64, 0)
        p.picked = <int64_t *>cnp.PyArray_DATA(labels)
        self.execute(&p, X)
        return labels

    def record(
        self, theta, X, out, state=None, bint training=False, key=None, draw=0,
        bint update_state=True, int n_threads=1, network=None
    ):
        """As `forward`, for a backward pass to follow; returns a Tape.

        In training the running statistics are updated, if `update_state`. The network
        gets the tape, and its draw is counted, before Ctrl-C can come in between.
        """
        cdef Tape tape = Tape.__new__(Tape)
        cdef Pass *p = &tape.p
        cdef int outcome
        self.begin(p, theta, X, n_threads)
        self.set_mode(p, state, training, key, draw)
        self.check_rows(out, p.n_rows, self.n_outputs, "out")
        tape.plan = self
        tape.arrays = (theta, X, state)
        if p.n_rows == 0:
            if network is not None:
                network._tape = tape
            return tape
        self.choose_chunk(p)
        self.choose_addressing(p, X)
        p.keep_state = not update_state
        if p.n_rows > p.chunk_rows:
            self.set_out(p, out)
            self.execute(p, X)
            p.out = NULL
        else:
            p.backward = True
            tape.workspace = self.take(p)
            with nogil:
                outcome = run(p, self.itemsize)
            if outcome == INTERRUPTED:
                raise_stopped(&p.call)
            # The caller may change `out` before the backward pass.
            tape.copy_output(p.n_operations - 1, out)
        p.keep_state = True
        if network is not None:
            network._draw += training
            network._tape = tape
        return tape

    def evaluate(
        self, theta, X, y, gradient=None, int n_threads=1, state=None,
        bint training=False, key=None, draw=0, weights=None, dX=None, index=None
    ):
        """Return (loss, first row with a bad target or -1); fill `gradient` and `dX`.

        `index` picks rows of X, y and weights. Nothing of the network changes, in
        training either.
        """
        cdef Pass p
        self.begin(&p, theta, X, n_threads)
        self.set_mode(&p, state, training, key, draw)
        self.set_index(&p, index)
        self.set_targets(&p, y, weights)
        if gradient is not None:
            self.set_gradient(&p, gradient)
        if dX is not None:
            self.set_dX(&p, dX)
        if self.execute(&p, X) == BAD_TARGET:
            return 0.0, p.bad_row
        return p.total, -1

    def step(
        self, theta, gradient, X, y, tuple update, index=None, int n_threads=1,
        optimizer=None, state=None, key=None, draw=0, weights=None, network=None
    ):
        """Forward, loss, backward and update, in training mode.

        Returns (loss, first row with a bad target or -1, whether it was taken):
        nothing is updated when a target is bad or the loss or gradient not finite.
        `index` picks rows of X, y and weights. A step that was taken is counted in
        `optimizer.n_steps` and `network._draw` here, and its loss left with the
        network, before Ctrl-C can come in between.
        """
        cdef Pass p
        cdef Update u
        cdef int outcome
        self.begin(&p, theta, X, n_threads)
        self.set_mode(&p, state, True, key, draw)
        p.keep_state = False
        self.set_index(&p, index)
        self.set_targets(&p, y, weights)
        self.set_gradient(&p, gradient)
        update_init(&u, update, self.n_parameters, self.itemsize)
        # Weight decay is for weight matrices: a bias or a scale does not overfit.
        u.decayed = self.decayed
        u.n_decayed = self.n_decayed
        p.update = &u
        outcome = self.execute(&p, X)
        if outcome == DONE:
            if optimizer is not None:
                optimizer.n_steps += 1
            if network is not None:
                network._draw += 1
                network._last_loss = p.total
                network._tape = None
        return p.total, p.bad_row if outcome == BAD_TARGET else -1, outcome == DONE

    def observe(
        self, theta, X, double[:, ::1] features, list outputs, list gradients,
        list samples, list bounds, Py_ssize_t[::1] sampled, gradient, y=None, dA=None,
        state=None, bint training=False, key=None, draw=0, int n_threads=1
    ):
        """Forward and backward, with the statistics of every signal on the way.

        Fills zeroed (7, n) arrays (see _signals.observe): `features` of X, and for each
        layer `outputs` of what it gives and `gradients` of dL/dz. samples[i] gets the
        layer's outputs for the rows `sampled`, ascending; bounds[i] is (low, high,
        whether they are z's). A layer that is nothing, dropout in inference, is left
        alone. L is the loss for `y`, or that of which `dA`, its rows repeated, is the
        gradient with respect to the output. Returns (loss or None, first row with a
        bad target or -1), and fills `gradient`. Nothing of the network changes.
        """
        cdef Pass p
        cdef Watch watch
        cdef Watched *w
        cdef const Operation *o
        cdef Py_ssize_t widest = self.n_inputs, i
        cdef int at, outcome
        self.begin(&p, theta, X, n_threads)
        self.set_mode(&p, state, training, key, draw)
        if y is not None:
            self.set_targets(&p, y, None)
        else:
            p.n_dA = cnp.PyArray_DIM(dA, 0)
            self.check_rows(dA, max(1, p.n_dA), self.n_outputs, "dA")
            p.dA = <char *>cnp.PyArray_DATA(dA)
            p.ld_dA = cnp.PyArray_STRIDE(dA, 0) // self.itemsize
        self.set_gradient(&p, gradient)
        memset(&watch, 0, sizeof(Watch))
        watch.n_sampled = sampled.shape[0]
        for i in range(watch.n_sampled):
            if not (sampled[i - 1] if i else -1) < sampled[i] < p.n_rows:
                raise ValueError("sampled must be ascending rows of X")
        if watch.n_sampled > 0:
            watch.sampled = &sampled[0]
        watch.input.statistics = statistics_of(features, self.n_inputs)
        watch.input.low = NAN
        watch.input.high = NAN
        watch.forward = <Watched *>calloc(2 * p.n_operations, sizeof(Watched))
        if watch.forward == NULL:
            raise MemoryError
        watch.backward = watch.forward + p.n_operations
        try:
            for at in range(p.n_operations):
                o = &p.operations[at]
                widest = max(widest, o.n_out)
                w = &watch.forward[at]
                w.statistics = statistics_of(outputs[o.number], o.n_out)
                w.low, w.high, w.on_z = bounds[o.number]
                self.check_rows(
                    samples[o.number], watch.n_sampled, o.n_out, "a sample")
                if not cnp.PyArray_IS_C_CONTIGUOUS(samples[o.number]):
                    raise ValueError("a sample must be contiguous")
                w.sample = <char *>cnp.PyArray_DATA(samples[o.number])
                w = &watch.backward[at]
                w.statistics = statistics_of(gradients[o.number], o.n_out)
                w.low = NAN
                w.high = NAN
            self.choose_chunk(&p)
            watch.parts = <double *>malloc(
                parts_bytes(min(p.n_rows, p.chunk_rows), widest))
            if watch.parts == NULL:
                raise MemoryError
            p.watch = &watch
            outcome = self.execute(&p, X)
        finally:
            free(watch.forward)
            free(watch.parts)
        if outcome == BAD_TARGET:
            return None, p.bad_row
        return p.total if p.with_loss else None, -1


cdef double *statistics_of(double[:, ::1] array, Py_ssize_t n) except NULL:
    if array.shape[0] != STATISTICS or array.shape[1] != n:
        raise ValueError(f"statistics must have shape ({STATISTICS}, {n})")
    return &array[0, 0]


# (Cleared by the garbage collector, it would have lost its plan before it is freed.)
@cython.no_gc_clear
cdef class Tape:
    """A forward pass whose memory is kept for a backward one."""

    def __dealloc__(self):
        if self.workspace != NULL:
            self.plan.give_back(self.workspace)

    @property
    def n_rows(self):
        return self.p.n_rows

    @property
    def X(self):
        return self.arrays[1]

    cdef int copy_output(self, int at, object out) except -1:
        cdef Pass *p = &self.p
        cdef Py_ssize_t size = self.plan.itemsize, n = p.operations[at].n_out, row
        cdef char *to = <char *>cnp.PyArray_DATA(out)
        for row in range(p.n_rows):
            memcpy(to + row * cnp.PyArray_STRIDE(out, 0),
                   p.A[at + 1] + row * p.ld[at + 1] * size, <size_t>(n * size))
        return 0

    def backward(self, dA, gradient=None, dX=None, int n_threads=1):
        """Fill `gradient` and `dX` from dA, the gradient with respect to the output.

        dA has contiguous rows. X and the parameters are as they were.
        """
        cdef Plan plan = self.plan
        cdef Pass p = self.p
        cdef Workspace *workspace = NULL
        cdef int outcome
        plan.check_rows(dA, p.n_rows, plan.n_outputs, "dA")
        call_begin(&p.call, n_threads)
        p.dA = <char *>cnp.PyArray_DATA(dA)
        p.ld_dA = cnp.PyArray_STRIDE(dA, 0) // plan.itemsize
        p.n_dA = p.n_rows
        p.backward = True
        if gradient is not None:
            plan.set_gradient(&p, gradient)
            if p.n_rows == 0:
                gradient[...] = 0
        if dX is not None:
            plan.set_dX(&p, dX)
        if p.n_rows == 0:
            return
        if self.running:
            raise RuntimeError("a backward pass of this network is under way")
        p.resume = self.workspace != NULL
        if not p.resume:
            workspace = plan.take(&p)
        self.running = True
        with nogil:
            outcome = run(&p, plan.itemsize)
        self.running = False
        if workspace != NULL:
            plan.give_back(workspace)
        if outcome == INTERRUPTED:
            raise_stopped(&p.call)

    def output(self, int layer):
        """Return a copy of the output of the plan's layer of that number.

        Of dropout in inference, which is nothing, that of the layer before; None if
        there is none, or if the rows were too many to be kept.
        """
        cdef Pass *p = &self.p
        cdef int at = -1, i
        if self.workspace == NULL:
            return None
        for i in range(p.n_operations):
            if p.operations[i].number <= layer:
                at = i
        if at < 0:
            return None
        out = np.empty(
            (p.n_rows, p.operations[at].n_out),
            np.float32 if self.plan.itemsize == 4 else np.float64)
        self.copy_output(at, out)
        return out
