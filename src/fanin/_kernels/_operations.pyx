# cython: boundscheck=False, wraparound=False, cdivision=True
"""The layers of a pass that are not dense: normalizations, dropout, activations.

Design
a) Each works on whole rows, in blocks of BLOCK_ROWS: the formulas are those of
   simd/layer_norm.c, batch_norm.c, activations.c and dense.c. Backward they work in
   place: D, the gradient with respect to the output, becomes that with respect to the
   input, and at once goes through the activation of the layer below.
b) Batch normalization in training takes the moments of the whole batch (_moments), and
   backward the sums of dy and dy xhat, before it can treat a row; so a batch is one
   chunk then. In inference it is a slope and an offset per column.
c) Sums over rows (dgamma, dbeta) are taken block by block in double and added up in
   the order of the blocks: their bits do not depend on the number of threads.
d) Dropout's masks are Philox words (simd/fill.c) whose key is a function of the
   network's key, the number of the draw and the layer, and whose counter is the
   value's index in the batch: the same for any number of threads or chunks, and the
   same again as long as the draw has that number.
e) What a layer keeps between forward and backward, in p.extra:
     dropout        the mask, a byte a value;
     layer, RMS     gamma, beta; mean, rstd (and lo, scale) of each row;
     batch          mean, rstd, lo, scale, slope, beta, c1, c2; gamma; the moments.

Cost: as in the modules named, beside which the copies of gamma and beta to double are
nothing.
"""
from cython cimport floating
from libc.math cimport NAN, ldexp
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

import numpy as np

from ._activations cimport activation_forward
from ._batch_norm cimport (
    NormCols, batch_norm_rows, batch_norm_rows_gradient, batch_norm_rows_sums,
    norm_settle)
from ._dense cimport drop, drop_backward, through_activation
from ._fill cimport FANIN_LANES, source
from ._layer_norm cimport (
    NormRows, layer_norm_rows, layer_norm_rows_backward, norm_rows_at)
from ._moments cimport moments_rows
from ._parallel cimport Call, call_fail, parallel_for
from ._pass cimport (
    ACTIVATION, BATCH_NORM, BLOCK_ROWS, DONE, DROPOUT, INTERRUPTED, LAYER_NORM,
    RMS_NORM, Operation, Pass)

cdef extern from "norm_scale.h" nogil:
    double fanin_norm_rstd(double total)

cdef enum:
    SMALL = 32 * 1024        # values that are not worth a second thread
    WORDS = 256              # random words that one call gives
    # Rows of p.extra for batch normalization, in columns' numbers of doubles.
    MEAN = 0
    RSTD = 1
    LO = 2
    SCALE = 3
    SLOPE = 4
    BETA = 5
    C1 = 6
    C2 = 7
    GAMMA = 8
    MOMENTS = 9              # five of them, then the exponents
    EXPONENT = 14
    BATCH_ROWS = 15

ctypedef void (*TaskFunction)(void *, Py_ssize_t, int) noexcept nogil


cdef size_t extra_bytes(const Operation *o, Py_ssize_t rows, int itemsize,
                        bint training) noexcept nogil:
    if o.kind == DROPOUT:
        return <size_t>(rows * o.n_out)
    if o.kind == BATCH_NORM:
        return <size_t>(BATCH_ROWS * o.n_out) * sizeof(double)
    if o.kind == LAYER_NORM or o.kind == RMS_NORM:
        return <size_t>(2 * o.n_out + (2 if itemsize == 4 else 4) * rows) * sizeof(
            double)
    return 0


cdef void widen(
    double *to, const floating *theta, Py_ssize_t offset, Py_ssize_t n, double missing
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = missing if offset < 0 else <double>theta[offset + i]


cdef void prepare(Pass *p, floating *_) noexcept nogil:
    """Once a pass: gamma and beta in double, and inference's slopes."""
    cdef const floating *theta = <const floating *>p.theta
    cdef const Operation *o
    cdef double *extra
    cdef double *gamma
    cdef const double *state
    cdef Py_ssize_t n, c
    cdef int at
    for at in range(p.n_operations):
        o = &p.operations[at]
        n = o.n_out
        extra = <double *>p.extra[at]
        if o.kind == LAYER_NORM or o.kind == RMS_NORM:
            widen(extra, theta, o.weight, n, 1.0)
            widen(extra + n, theta, o.bias, n, 0.0)
        elif o.kind == BATCH_NORM:
            gamma = extra + GAMMA * n
            widen(gamma, theta, o.weight, n, 1.0)
            widen(extra + BETA * n, theta, o.bias, n, 0.0)
            memset(extra + C1 * n, 0, <size_t>(2 * n) * sizeof(double))
            if p.training:
                continue
            state = p.state + o.state
            for c in range(n):
                extra[MEAN * n + c] = state[c]
                extra[RSTD * n + c] = fanin_norm_rstd(state[n + c] + o.eps)
                extra[LO * n + c] = 0.0
                extra[SCALE * n + c] = 1.0
                extra[SLOPE * n + c] = extra[RSTD * n + c] * gamma[c]


cdef NormCols columns(const Operation *o, double *extra) noexcept nogil:
    cdef NormCols s
    cdef Py_ssize_t n = o.n_out
    s.mean = extra + MEAN * n
    s.rstd = extra + RSTD * n
    s.lo = extra + LO * n
    s.scale = extra + SCALE * n
    s.slope = extra + SLOPE * n
    s.beta = extra + BETA * n
    s.c1 = extra + C1 * n
    s.c2 = extra + C2 * n
    return s


cdef NormRows rows_of(
    Pass *p, const Operation *o, double *extra, bint is_float
) noexcept nogil:
    cdef NormRows s
    cdef Py_ssize_t rows = min(p.n_rows, p.chunk_rows)
    s.mean = extra + 2 * o.n_out
    s.rstd = s.mean + rows
    s.lo = NULL if is_float else s.rstd + rows
    s.scale = NULL if is_float else s.rstd + 2 * rows
    return s


cdef void drop_rows(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, floating *_
) noexcept nogil:
    cdef const Operation *o = &p.operations[at]
    cdef Py_ssize_t n = o.n_out, ld_in = p.ld[at], ld = p.ld[at + 1]
    cdef const floating *x = <const floating *>p.A[at]
    cdef floating *y = <floating *>p.A[at + 1]
    cdef unsigned char *mask = <unsigned char *>p.extra[at]
    cdef uint32_t words[4 * FANIN_LANES]
    cdef uint32_t key[4]
    # Place in the batch's stream, not in the chunk's.
    cdef uint64_t i = <uint64_t>((p.first + row) * n)
    cdef uint64_t group = <uint64_t>-1
    cdef Py_ssize_t r, c, some
    cdef double scale = 1.0 / (1.0 - o.rate) if o.rate < 1.0 else 0.0
    cdef uint64_t threshold = <uint64_t>(o.rate * 4294967296.0)
    key[0] = p.key[0]
    key[1] = p.key[1]
    key[2] = <uint32_t>o.number
    key[3] = 0x64726f70      # apart from what the initializers draw
    source.philox4x32(words, p.draw, key)
    key[0] = words[0]
    key[1] = words[FANIN_LANES]
    for r in range(row, row + m):
        c = 0
        while c < n:
            if i // WORDS != group:
                group = i // WORDS
                source.philox4x32(words, group * FANIN_LANES, key)
            some = min(n - c, <Py_ssize_t>(WORDS - i % WORDS))
            drop(y + r * ld + c, mask + r * n + c, x + r * ld_in + c,
                 words + i % WORDS, some, threshold, scale)
            c += some
            i += <uint64_t>some


def dropout_mask(key, draw, number, double rate, shape):
    """Return 1 / (1 - rate) for the values of a batch that dropout keeps, else 0."""
    cdef Pass p
    cdef Operation o
    cdef Py_ssize_t ld[2]
    cdef char *A[2]
    cdef char *extra
    cdef float[:, ::1] values = np.zeros(shape, np.float32)
    cdef unsigned char[:, ::1] mask = np.empty(shape, np.uint8)
    memset(&p, 0, sizeof(p))
    memset(&o, 0, sizeof(o))
    o.n_out = values.shape[1]
    o.number = number
    o.rate = rate
    p.operations = &o
    p.key[0], p.key[1] = key
    p.draw = draw
    p.ld = ld
    p.A = A
    p.extra = &extra
    if mask.size:
        ld[0] = ld[1] = o.n_out
        A[0] = A[1] = <char *>&values[0, 0]
        extra = <char *>&mask[0, 0]
        drop_rows(&p, 0, 0, values.shape[0], <float *>NULL)
    return np.asarray(mask).astype(np.bool_) * (
        1.0 / (1.0 - rate) if rate < 1.0 else 0.0)


cdef void operation_forward_rows(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, floating *_
) noexcept nogil:
    cdef const Operation *o = &p.operations[at]
    cdef double *extra = <double *>p.extra[at]
    cdef Py_ssize_t ld_in = p.ld[at], ld = p.ld[at + 1]
    cdef const floating *x = <const floating *>p.A[at] + row * ld_in
    cdef floating *y = <floating *>p.A[at + 1] + row * ld
    if o.kind == ACTIVATION:
        activation_forward(
            y, ld, x, ld_in, <const floating *>NULL, <floating *>NULL, 0, m, o.n_out,
            &o.activation, &p.call)
    elif o.kind == DROPOUT:
        drop_rows(p, at, row, m, _)
    elif o.kind == BATCH_NORM:
        batch_norm_rows(y, ld, x, ld_in, m, o.n_out, columns(o, extra))
    else:
        layer_norm_rows(
            y, ld, norm_rows_at(rows_of(p, o, extra, sizeof(floating) == 4), row), x,
            ld_in, m, o.n_out, extra, extra + o.n_out, o.eps, o.kind == LAYER_NORM)


cdef void forward_block(Pass *p, Py_ssize_t block, floating *_) noexcept nogil:
    cdef Py_ssize_t row = block * BLOCK_ROWS
    operation_forward_rows(p, p.at, row, min(BLOCK_ROWS, p.rows - row), _)


cdef void backward_block(Pass *p, Py_ssize_t block, floating *_) noexcept nogil:
    """D := the gradient with respect to the input, and through the layer below."""
    cdef int at = p.at
    cdef const Operation *o = &p.operations[at]
    cdef double *extra = <double *>p.extra[at]
    cdef Py_ssize_t n = o.n_out, row = block * BLOCK_ROWS, r, c
    cdef Py_ssize_t m = min(BLOCK_ROWS, p.rows - row)
    cdef const floating *x = <const floating *>p.A[at] + row * p.ld[at]
    cdef floating *D = <floating *>p.D + row * n
    cdef floating *dX
    cdef double *dgamma = NULL
    cdef double *dbeta = NULL
    # Also where only dX is wanted: so dX has the same bits.
    if p.phase == 0 and (o.weight >= 0 or o.kind == BATCH_NORM):
        dgamma = p.parts + 2 * block * n
        dbeta = dgamma + n
        memset(dgamma, 0, <size_t>(2 * n) * sizeof(double))
    if o.kind == DROPOUT:
        drop_backward(
            D, <unsigned char *>extra + row * n, m * n,
            1.0 / (1.0 - o.rate) if o.rate < 1.0 else 0.0)
    elif o.kind == BATCH_NORM:
        if p.phase == 0:
            batch_norm_rows_sums(
                dbeta, dgamma, D, x, p.ld[at], m, n, columns(o, extra))
            return
        batch_norm_rows_gradient(
            D, D, x if p.training else NULL, p.ld[at], m, n, columns(o, extra))
    elif o.kind != ACTIVATION:
        layer_norm_rows_backward(
            D, dgamma, dbeta, D, x, p.ld[at],
            norm_rows_at(rows_of(p, o, extra, sizeof(floating) == 4), row), m, n,
            extra, o.kind == LAYER_NORM)
    if at > 0:
        through_activation(p, at - 1, D, n, row, m, 0, n)
    elif p.dX != NULL:
        dX = <floating *>p.dX + (p.first + row) * p.ld_dX
        for r in range(m):
            for c in range(n):
                dX[r * p.ld_dX + c] = D[r * n + c]


cdef void forward_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_block(<Pass *>p, i, <float *>NULL)

cdef void forward_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_block(<Pass *>p, i, <double *>NULL)

cdef void backward_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    backward_block(<Pass *>p, i, <float *>NULL)

cdef void backward_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    backward_block(<Pass *>p, i, <double *>NULL)


cdef int over_blocks(Pass *p, TaskFunction task, Py_ssize_t cols) noexcept nogil:
    cdef Py_ssize_t i, blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    if p.rows * cols > SMALL:
        return parallel_for(&p.call, task, p, blocks)
    for i in range(blocks):
        task(p, i, 0)
    return INTERRUPTED if p.call.stopped else 0


cdef int operation_forward(Pass *p, int at, int itemsize) noexcept nogil:
    cdef const Operation *o = &p.operations[at]
    cdef bint is_float = itemsize == sizeof(float)
    cdef int status
    p.at = at
    if o.kind == BATCH_NORM and p.training:
        if is_float:
            status = batch_statistics(p, o, at, <float *>NULL)
        else:
            status = batch_statistics(p, o, at, <double *>NULL)
        if status != 0:
            return INTERRUPTED
    return over_blocks(
        p, forward_f32_task if is_float else forward_f64_task, o.n_out)


cdef void out_of_memory(Call *call) noexcept with gil:
    call_fail(call, MemoryError("batch normalization: no memory for partial results"))


cdef int batch_statistics(
    Pass *p, const Operation *o, int at, floating *_
) noexcept nogil:
    cdef double *extra = <double *>p.extra[at]
    cdef Py_ssize_t n = o.n_out, c
    cdef double *moments = extra + MOMENTS * n
    cdef int32_t *exponent = <int32_t *>(extra + EXPONENT * n)
    cdef int status = moments_rows(
        moments, exponent, <const floating *>p.A[at], p.ld[at], p.rows, n,
        p.call.n_threads)
    if status == -2:
        out_of_memory(&p.call)
    if status != 0:
        return status
    norm_settle(
        extra + MEAN * n, extra + RSTD * n, extra + LO * n, extra + SCALE * n, moments,
        exponent, n, <double>p.rows, o.eps, True)
    for c in range(n):
        extra[SLOPE * n + c] = extra[RSTD * n + c] * extra[GAMMA * n + c]
    return 0


cdef int operation_backward(Pass *p, int at, int itemsize) noexcept nogil:
    cdef const Operation *o = &p.operations[at]
    cdef TaskFunction task = (
        backward_f32_task if itemsize == sizeof(float) else backward_f64_task)
    cdef Py_ssize_t n = o.n_out, c
    cdef double *extra = <double *>p.extra[at]
    p.at = at
    p.phase = 0
    if o.kind != BATCH_NORM:
        if over_blocks(p, task, n) != 0:
            return INTERRUPTED
        if o.weight >= 0 and p.gradient != NULL:
            add_parts(p, p.sums + o.sums, n)
        return DONE
    if p.training or (o.weight >= 0 and p.gradient != NULL):
        if over_blocks(p, task, n) != 0:
            return INTERRUPTED
        if p.training:
            memset(extra + C1 * n, 0, <size_t>(2 * n) * sizeof(double))
            batch_means(p, extra + C1 * n, extra + C2 * n, n)
        if o.weight >= 0 and p.gradient != NULL:
            add_parts(p, p.sums + o.sums, n)
    for c in range(n):
        extra[SLOPE * n + c] = (
            extra[SCALE * n + c] * extra[RSTD * n + c] * extra[GAMMA * n + c])
    p.phase = 1
    return over_blocks(p, task, n)


cdef void add_parts(Pass *p, double *sums, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, c, blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    for i in range(blocks):
        for c in range(2 * n):
            sums[c] += p.parts[2 * i * n + c]


cdef void batch_means(Pass *p, double *c1, double *c2, Py_ssize_t n) noexcept nogil:
    """Means over the batch of dy and of dy xhat."""
    cdef Py_ssize_t i, c, blocks = (p.rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    for i in range(blocks):
        for c in range(n):
            c2[c] += p.parts[2 * i * n + c]
            c1[c] += p.parts[(2 * i + 1) * n + c]
    for c in range(n):
        c1[c] /= <double>p.rows
        c2[c] /= <double>p.rows


cdef void keep_statistics(Pass *p) noexcept nogil:
    """Move the running statistics towards the batch's, with its unbiased variance."""
    cdef const Operation *o
    cdef const double *moments
    cdef const double *extra
    cdef const int32_t *exponent
    cdef double *state
    cdef double mean, var
    cdef Py_ssize_t n, c
    cdef int at
    for at in range(p.n_operations):
        o = &p.operations[at]
        if o.kind != BATCH_NORM:
            continue
        n = o.n_out
        extra = <const double *>p.extra[at]
        moments = extra + MOMENTS * n
        exponent = <const int32_t *>(extra + EXPONENT * n)
        state = p.state + o.state
        for c in range(n):
            # (The scale is a power of two; NaN if there is one in the column.)
            mean = (extra[MEAN * n + c] + extra[LO * n + c]) / extra[SCALE * n + c]
            var = NAN
            if moments[c] == <double>p.n_rows:
                var = (moments[3 * n + c] + moments[4 * n + c]) / (moments[c] - 1.0)
                var = ldexp(var, 2 * exponent[c])
            # (Not by a difference: with momentum 1, what was there leaves no rounding.)
            state[c] = (1.0 - o.momentum) * state[c] + o.momentum * mean
            state[n + c] = (1.0 - o.momentum) * state[n + c] + o.momentum * var
