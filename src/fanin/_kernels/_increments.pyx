# cython: boundscheck=False, wraparound=False, cdivision=True
"""Changes of a network's loss under changes of single parameters, by increments.

Design
a) A perturbed weight (j, k) of a dense layer moves one column of its output, by
   delta X[:, j]; a bias, a gamma or a beta likewise. The increments of that column go
   through activations, dropout and batch normalization as a column; the next dense
   layer spreads it, dZ = da W[k, :]; from there on the increments are dense and go on
   by matrix products. At the loss they are the change that is wanted. The formulas,
   none of which subtracts two values of a function, are in simd/increments.c: a
   step of 1e-7 costs no digits, and a kink that is passed is seen.
b) Only the forward functions are used, at one point; what they need of it comes in
   tables, made by fanin._increments (and never from code of the backward pass).
c) A task is rows of one output column of a layer's parameters, taken up to so many at
   once, both ways; their changes are the rows of one product. Samples are taken one at
   a time, so that all of that stays in the cache and a sample that a change does not
   reach (a zero in X, a ReLU that is off) costs nothing; all samples at once where a
   batch normalization lies ahead. Each task adds to entries of its own: its bits depend
   on no thread.
d) Of two dense layers with an activation between them all small changes of a column
   go along a line (simd/increments.c, d): the second product is made once for a column
   and its samples, not for each change, and kept for the column's next task.
e) A function of the user's has no formula: f(z + d) - f(z), with its rounding.

Cost for P weights of n_in x n_out before layers of n_1, n_2, ... outputs and m
samples: along a line 16 P m n_2 operations and 6 n_out m n_1 n_2, one by one
2 P m (10 n_1 + 2 n_1 n_2 + ...), beside 4 m P^2 of whole passes. For each thread
three rows of the widest layer for each change of a task, and six for each sample.
"""
from libc.math cimport INFINITY, fabs, nextafter
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

cimport numpy as cnp

import numpy as np

from ._activations cimport (
    IDENTITY, LEAKY_RELU, RELU, Activation, activation_forward, activation_init)
from ._blas cimport gemm
from ._custom cimport Pair
from ._losses cimport LossFunction, LossSum, loss_forward, loss_init
from ._parallel cimport Call, call_begin, parallel_for, raise_stopped
from ._simd cimport simd_level

cnp.import_array()

cdef extern from "increments.h" nogil:
    enum:
        SQUARED "FANIN_DELTA_SQUARED"
        SLOPES "FANIN_DELTA_SLOPES"
        HUBER "FANIN_DELTA_HUBER"
        POISSON "FANIN_DELTA_POISSON"
        LOGIT "FANIN_DELTA_LOGIT"
        SOFTMAX "FANIN_DELTA_SOFTMAX"
        LINE "FANIN_LINE"
    struct fanin_increments:
        void (*tables)(
            double *t, Py_ssize_t stride, const double *z, Py_ssize_t n,
            int activation, double parameter) noexcept nogil
        void (*activation)(
            double *D, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols,
            const double *t, Py_ssize_t stride, int activation, double parameter,
            unsigned char *crossed) noexcept nogil
        void (*spread)(
            double *D, Py_ssize_t ld, const double *c, Py_ssize_t rows,
            const double *w, Py_ssize_t cols, const double *t, Py_ssize_t stride,
            int activation, double parameter, unsigned char *crossed) noexcept nogil
        void (*cubics)(
            double *q, Py_ssize_t stride, const double *t, Py_ssize_t t_stride,
            Py_ssize_t n, int activation, double parameter) noexcept nogil
        double (*largest)(const double *x, Py_ssize_t n) noexcept nogil
        double (*line_scale)(const double *w, Py_ssize_t n) noexcept nogil
        double (*line_reach)(
            const double *z, const double *w, Py_ssize_t n, double scale,
            int activation) noexcept nogil
        void (*line_powers)(
            double *G, Py_ssize_t stride, const double *q, Py_ssize_t q_stride,
            const double *w, Py_ssize_t n, double scale, int order) noexcept nogil
        void (*line_rows)(
            double *out, const double *c, Py_ssize_t rows, double scale,
            const double *P, Py_ssize_t stride, Py_ssize_t outputs, int order
            ) noexcept nogil
        void (*line_softmax)(
            double *out, const double *c, Py_ssize_t rows, double scale,
            const double *P, Py_ssize_t stride, Py_ssize_t outputs, int order,
            const double *p, const double *target, double sum) noexcept nogil
        double (*line_limit)(
            const double *P, Py_ssize_t stride, Py_ssize_t outputs, int order
            ) noexcept nogil
        void (*norm)(
            double *D, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols,
            const double *xhat, double rstd, int centred) noexcept nogil
        void (*norm_columns)(
            double *D, Py_ssize_t ld, Py_ssize_t m, Py_ssize_t n, Py_ssize_t cols,
            const double *xhat, const double *rstd, double *scratch) noexcept nogil
        void (*loss)(
            double *out, const double *D, Py_ssize_t ld, Py_ssize_t rows,
            Py_ssize_t cols, const double *t, Py_ssize_t stride, double sum,
            Py_ssize_t reference, int loss, double parameter,
            unsigned char *crossed) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_increments(level) FANIN_SELECT(increments, level)
    """
    const fanin_increments *fanin_select_increments(int level)

cdef const fanin_increments *kernels = fanin_select_increments(simd_level())

cdef enum Kind:
    LINEAR
    ELEMENTS                    # an activation
    SCALE                       # a factor for each value, or each column
    ROW_NORM                    # layer and RMS normalization
    BATCH_NORM                  # in training: of the columns of the batch

cdef enum:
    TASK = 32                   # parameters, at most, that are perturbed at once
    COLUMN = 1024               # and by a task, where that is little work
    BUFFER = 1 << 18            # values of a thread's rows, about, where samples mix
    BLOCK = 64                  # samples whose lines are made at once

LOSSES = {
    "squared": SQUARED, "slopes": SLOPES, "huber": HUBER, "poisson": POISSON,
    "logit": LOGIT, "softmax": SOFTMAX,
}

# One step of the way to the loss. (m samples; "by columns": transposed.)
cdef struct Stage:
    Kind kind
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t weight           # offset in theta of the weight or gamma, or -1
    Py_ssize_t bias             # and of the bias or beta
    const double *source        # what a weight's change is multiplied by, by columns
    const double *W             # the weight, or gamma or NULL
    Activation f
    const double *t             # tables (m, n_out)
    const double *t_columns
    Py_ssize_t stride           # from one table to the next
    const double *cubics        # of an activation between two dense layers, or NULL
    Py_ssize_t row_stride       # 0 for one row that serves all samples
    const double *rstd          # of rows or columns
    bint centred

cdef struct Worker:
    double *column              # (changes, m)
    double *rows                # (samples x changes, widest), twice
    double *other
    double *scratch
    double *powers              # (order x samples, widest)
    double *lines               # likewise: the cubics of a column, see spread_lines
    double *reach               # of the samples of a block
    double scale
    int order
    int lines_of                # their stage, column and first sample, if not -1
    Py_ssize_t lines_k
    Py_ssize_t lines_first
    double *c
    double *out
    double *change              # of the loss, for each change of the task
    Py_ssize_t *active          # the changes that reach the sample
    unsigned char *crossed
    unsigned char *crossed_row

cdef struct Job:
    const Stage *stages
    int n_stages
    int last_mixing             # the last stage that mixes samples, or -1
    Py_ssize_t m
    Py_ssize_t n_outputs
    Py_ssize_t widest
    int loss
    int column_loss
    LossFunction custom
    double parameter
    const double *t
    const double *t_columns     # of the loss of one column (m, n_outputs)
    Py_ssize_t stride
    const double *sums
    const Py_ssize_t *reference
    const double *weight
    # the call
    const Py_ssize_t *tasks     # stage, column, first row and end, of each
    const Py_ssize_t *rows      # the rows' numbers; NULL: 0, 1, ...
    Py_ssize_t first
    Py_ssize_t at_once          # rows
    const double *theta
    const double *step          # of each entry; NULL: eps max(1, |theta|)
    double eps
    double *plus
    double *minus
    double *span
    unsigned char *crossed
    bint adds
    Worker *workers
    Call call


cdef bint mixes(const Job *job, int at) noexcept nogil:
    return job.last_mixing >= at


cdef void difference(
    Job *job, double *D, Py_ssize_t rows, Py_ssize_t cols, const double *z,
    const double *a, const Activation *f, double *scratch
) noexcept nogil:
    """D = f(z + D) - a of rows, for a function of the user's."""
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(cols):
            scratch[i * cols + j] = z[j] + D[i * cols + j]
    activation_forward(
        scratch, cols, scratch, cols, <const double *>NULL, <double *>NULL, 0, rows,
        cols, f, &job.call)
    for i in range(rows):
        for j in range(cols):
            D[i * cols + j] = scratch[i * cols + j] - a[j]


cdef void elements(
    Job *job, const Stage *s, Worker *w, double *D, Py_ssize_t rows, Py_ssize_t cols,
    const double *t, unsigned char *crossed
) noexcept nogil:
    if s.f.custom != NULL:
        difference(job, D, rows, cols, t, t + s.stride, &s.f, w.scratch)
    else:
        kernels.activation(
            D, cols, rows, cols, t, s.stride, s.f.code, s.f.parameter, crossed)


cdef void custom_losses(
    Job *job, Worker *w, const double *D, Py_ssize_t ld, Py_ssize_t rows,
    Py_ssize_t sample, Py_ssize_t column
) noexcept nogil:
    """w.out = the losses of a sample at z + D less that at z; of one column or all."""
    cdef Py_ssize_t n = job.n_outputs, i, j, bad
    cdef const double *z = job.t + sample * n
    cdef const double *y = z + job.stride
    cdef LossSum total
    for i in range(rows):
        for j in range(n):
            w.scratch[j] = z[j]
            if column < 0:
                w.scratch[j] += D[i * ld + j]
        if column >= 0:
            w.scratch[column] += D[i * ld]
        bad = -1
        loss_forward(
            <double *>NULL, w.scratch, y, <const int64_t *>NULL, <const double *>NULL,
            1, n, 1.0, w.scratch + n, &bad, &total, &job.custom, &job.call)
        w.out[i] = (total.hi - job.sums[sample]) + total.lo


cdef void losses(
    Job *job, Worker *w, const double *D, Py_ssize_t ld, Py_ssize_t rows,
    Py_ssize_t sample, Py_ssize_t column, unsigned char *crossed
) noexcept nogil:
    """w.out = the changes of a sample's loss; D is one column of it, or all."""
    cdef Py_ssize_t n = job.n_outputs, at = sample * n
    if job.custom.custom != NULL:
        custom_losses(job, w, D, ld, rows, sample, column)
    elif column >= 0:
        kernels.loss(
            w.out, D, ld, rows, 1, job.t_columns + at + column, job.stride,
            job.sums[sample], 0, job.column_loss, job.parameter, crossed)
    else:
        kernels.loss(
            w.out, D, ld, rows, n, job.t + at, job.stride, job.sums[sample],
            job.reference[sample], job.loss, job.parameter, crossed)


cdef int walk_column(
    Job *job, Worker *w, int at, Py_ssize_t k, Py_ssize_t n_changes
) noexcept nogil:
    """Take the column as far as it stays one; returns the stage that ends it."""
    cdef const Stage *s
    cdef Py_ssize_t m = job.m, i, v
    cdef double factor
    while at < job.n_stages:
        s = &job.stages[at]
        if s.kind == ELEMENTS:
            elements(
                job, s, w, w.column, n_changes, m, s.t_columns + k * m, w.crossed)
        elif s.kind == SCALE:
            for v in range(n_changes):
                for i in range(m):
                    w.column[v * m + i] *= (
                        s.t[k] if s.row_stride == 0 else s.t_columns[k * m + i])
        elif s.kind == BATCH_NORM:
            kernels.norm(
                w.column, m, n_changes, m, s.source + k * m, s.rstd[k], True)
            if s.W != NULL:
                factor = s.W[k]
                for i in range(n_changes * m):
                    w.column[i] *= factor
        else:
            break
        at += 1
    return at


cdef int after_spread(const Job *job, int at) noexcept nogil:
    """How many stages `spread` has done."""
    cdef const Stage *s = &job.stages[at]
    if s.kind != LINEAR:
        return 0
    if at + 1 < job.n_stages and (s + 1).kind == ELEMENTS and (s + 1).f.custom == NULL:
        return 2
    return 1


cdef int line_ends(const Job *job, int at) noexcept nogil:
    """The stage up to which the changes of a column go along a line, or `at`."""
    cdef const Stage *s = &job.stages[at]
    if (at + 3 <= job.n_stages and s.kind == LINEAR and (s + 1).kind == ELEMENTS
            and (s + 1).cubics != NULL):
        return at + 3
    if at + 1 == job.n_stages and s.kind == LINEAR and job.loss == SOFTMAX:
        return at + 1
    return at


cdef void spread_lines(
    Job *job, Worker *w, int at, Py_ssize_t k, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """The outputs at line_ends(job, at), for some samples, as cubics of the column.

    Those of a softmax less that of the reference.
    """
    cdef const Stage *s = &job.stages[at]
    cdef const Stage *f = s + 1
    cdef Py_ssize_t i, j, p, n = s.n_out, outputs = n
    cdef const double *weights = s.W + k * n
    cdef int end = line_ends(job, at)
    cdef double *P
    cdef double shift
    if w.lines_of == at and w.lines_k == k and w.lines_first == first:
        return
    w.lines_of = at
    w.lines_k = k
    w.lines_first = first
    if end == at + 1:
        w.order = 1
        w.scale = 1.0
        for i in range(count):
            w.reach[i] = INFINITY
            for j in range(n):
                w.lines[i * n + j] = weights[j]
    else:
        outputs = (s + 2).n_out
        w.order = 1 if f.f.code in (RELU, LEAKY_RELU) else 3
        w.scale = kernels.line_scale(weights, n)
        for i in range(count):
            w.reach[i] = kernels.line_reach(
                f.t + (first + i) * n, weights, n, w.scale, f.f.code)
            kernels.line_powers(
                w.powers + i * n, count * n, f.cubics + (first + i) * n, f.stride,
                weights, n, w.scale, w.order)
        gemm(w.lines, outputs, w.powers, n, False, (s + 2).W, outputs, False,
             w.order * count, outputs, n, 1.0, 0.0)
    if end == job.n_stages and job.loss == SOFTMAX:
        for i in range(count):
            for p in range(w.order):
                P = w.lines + (p * count + i) * outputs
                shift = P[job.reference[first + i]]
                for j in range(outputs):
                    P[j] -= shift
            P = w.lines + i * outputs
            w.reach[i] = min(w.reach[i], kernels.line_limit(
                P, count * outputs, outputs, w.order))


cdef int go_along_line(
    Job *job, Worker *w, int at, Py_ssize_t sample, Py_ssize_t count, Py_ssize_t active
) noexcept nogil:
    """Take a sample's changes along the lines made of `count` samples.

    Returns the stage whose inputs w.rows has then; n_stages + 1 if w.out has the
    losses; `at`, with nothing done, where the lines do not reach.
    """
    cdef int end = line_ends(job, at)
    cdef Py_ssize_t outputs = job.stages[end - 1].n_out, i = sample - w.lines_first
    cdef Py_ssize_t stride = count * outputs
    cdef const double *P = w.lines + i * outputs
    cdef const double *p = job.t + sample * job.n_outputs
    if not kernels.largest(w.c, active) * w.scale < w.reach[i]:
        return at
    if end == job.n_stages and job.loss == SOFTMAX:
        kernels.line_softmax(
            w.out, w.c, active, w.scale, P, stride, outputs, w.order, p,
            p + job.stride, job.sums[sample])
        return end + 1
    kernels.line_rows(w.rows, w.c, active, w.scale, P, stride, outputs, w.order)
    return end


cdef Py_ssize_t gather(
    Job *job, Worker *w, Py_ssize_t sample, Py_ssize_t n_changes
) noexcept nogil:
    """Those changes of the column that reach a sample: how many they are."""
    cdef Py_ssize_t v, m = job.m, active = 0
    cdef const double *column = w.column + sample
    cdef Py_ssize_t *which = w.active
    cdef double *c = w.c
    for v in range(n_changes):
        c[v] = column[v * m]
        which[v] = v
        active += c[v] != 0.0
    if 0 < active < n_changes:
        active = 0
        for v in range(n_changes):
            c[active] = column[v * m]
            which[active] = v
            active += c[active] != 0.0
    return active


cdef void add_losses(
    Job *job, Worker *w, Py_ssize_t sample, Py_ssize_t active, Py_ssize_t n_changes
) noexcept nogil:
    """Add w.out, the changes of a sample's loss, to those of the task."""
    cdef double weight = job.weight[sample]
    cdef const double *out = w.out
    cdef double *change = w.change
    cdef Py_ssize_t v
    if active == n_changes:
        for v in range(active):
            change[v] += weight * out[v]
    else:
        for v in range(active):
            change[w.active[v]] += weight * out[v]


cdef void spread(
    Job *job, Worker *w, int at, Py_ssize_t k, Py_ssize_t sample, Py_ssize_t samples,
    Py_ssize_t active
) noexcept nogil:
    """Make rows of the column's changes, through after_spread(job, at) stages.

    Of one sample those that were gathered; of several, all.
    """
    cdef const Stage *s = &job.stages[at]
    cdef Py_ssize_t m = job.m, n = s.n_out, i, v, row
    cdef const Stage *next = NULL
    cdef const double *t = NULL
    cdef int code = IDENTITY
    cdef double parameter = 0.0
    cdef Py_ssize_t stride = 0
    if after_spread(job, at) == 2:
        # At once through the activation, while a row is in the L1 cache.
        next = s + 1
        stride = next.stride
        code = next.f.code
        parameter = next.f.parameter
    for i in range(samples):
        if samples > 1:
            for v in range(active):
                w.active[v] = v
                w.c[v] = w.column[v * m + sample + i]
        memset(w.crossed_row, 0, active)
        if s.kind == LINEAR:
            if next != NULL:
                t = next.t + (sample + i) * n
            kernels.spread(
                w.rows + i * active * n, n, w.c, active, s.W + k * n, n, t, stride,
                code, parameter, w.crossed_row)
            for v in range(active):
                w.crossed[w.active[v]] |= w.crossed_row[v]
        else:
            memset(w.rows + i * active * n, 0, active * n * sizeof(double))
            for row in range(active):
                w.rows[(i * active + row) * n + k] = w.c[row]


cdef void walk_rows(
    Job *job, Worker *w, int at, Py_ssize_t sample, Py_ssize_t samples,
    Py_ssize_t active, Py_ssize_t n_changes
) noexcept nogil:
    """Take the rows of some samples from a stage on to the loss, and add that."""
    cdef const Stage *s
    cdef Py_ssize_t i, v, j, n = job.n_outputs, rows = samples * active
    cdef const double *factor
    cdef double *D
    while at < job.n_stages:
        s = &job.stages[at]
        n = s.n_out
        if s.kind == LINEAR:
            gemm(w.other, n, w.rows, s.n_in, False, s.W, n, False, rows, n, s.n_in,
                 1.0, 0.0)
            w.rows, w.other = w.other, w.rows
        elif s.kind == BATCH_NORM:
            kernels.norm_columns(
                w.rows, n, samples, active, n, s.t, s.rstd, w.scratch)
        else:
            for i in range(samples):
                D = w.rows + i * active * n
                if s.kind == ELEMENTS:
                    memset(w.crossed_row, 0, active)
                    elements(
                        job, s, w, D, active, n, s.t + (sample + i) * n, w.crossed_row)
                    for v in range(active):
                        w.crossed[w.active[v]] |= w.crossed_row[v]
                elif s.kind == ROW_NORM:
                    kernels.norm(
                        D, n, active, n, s.t + (sample + i) * n, s.rstd[sample + i],
                        s.centred)
                else:
                    factor = s.t + (sample + i) * s.row_stride
                    for v in range(active):
                        for j in range(n):
                            D[v * n + j] *= factor[j]
        if s.W != NULL and s.kind != LINEAR:
            for v in range(rows):
                for j in range(n):
                    w.rows[v * n + j] *= s.W[j]
        at += 1
    for i in range(samples):
        memset(w.crossed_row, 0, active)
        losses(job, w, w.rows + i * active * n, n, active, sample + i, -1,
               w.crossed_row)
        add_losses(job, w, sample + i, active, n_changes)
        for v in range(active):
            w.crossed[w.active[v]] |= w.crossed_row[v]


cdef Py_ssize_t n_weights(const Stage *s) noexcept nogil:
    """How many rows of a stage's parameters are weights, before that of the biases."""
    return s.n_in if s.kind == LINEAR else 1


cdef Py_ssize_t entry_of(
    const Job *job, const Stage *s, Py_ssize_t k, Py_ssize_t i
) noexcept nogil:
    """Where the i-th row of column k is in theta."""
    cdef Py_ssize_t row = i if job.rows == NULL else job.rows[i]
    return s.bias + k if row == n_weights(s) else s.weight + row * s.n_out + k


cdef void perturb(
    Job *job, Worker *w, int at, Py_ssize_t k, Py_ssize_t start, Py_ssize_t count
) noexcept nogil:
    """All changes of some parameters of one output column."""
    cdef Py_ssize_t n_changes = 2 * count, m = job.m, e, i, v, active, block = 0, entry
    cdef const Stage *s = &job.stages[at]
    cdef const double *source
    cdef double here, step, up, down
    cdef int past
    for e in range(count):
        entry = entry_of(job, s, k, start + e)
        here = job.theta[entry]
        if job.step != NULL:
            step = job.step[entry]
        else:
            step = job.eps * max(1.0, fabs(here))
        up = here + step
        down = here - step
        if up == here:      # a step below the spacing of theta: take the spacing
            up = nextafter(here, INFINITY)
        if down == here:
            down = nextafter(here, -INFINITY)
        job.span[entry] = up - down
        i = start + e if job.rows == NULL else job.rows[start + e]
        source = s.source + (i if s.kind == LINEAR else k) * m
        if i == n_weights(s):
            source = NULL
        for i in range(m):
            here = 1.0 if source == NULL else source[i]
            w.column[2 * e * m + i] = (up - job.theta[entry]) * here
            w.column[(2 * e + 1) * m + i] = (down - job.theta[entry]) * here
    memset(w.change, 0, n_changes * sizeof(double))
    memset(w.crossed, 0, n_changes)
    at = walk_column(job, w, at + 1, k, n_changes)
    if at == job.n_stages:
        for i in range(m):
            losses(job, w, w.column + i, m, n_changes, i, k, w.crossed)
            for v in range(n_changes):
                w.change[v] += job.weight[i] * w.out[v]
    elif mixes(job, at):
        spread(job, w, at, k, 0, m, n_changes)
        walk_rows(job, w, at + after_spread(job, at), 0, m, n_changes, n_changes)
    else:
        for i in range(m):
            past = at
            if line_ends(job, at) > at and i % BLOCK == 0:
                block = min(<Py_ssize_t>BLOCK, m - i)
                spread_lines(job, w, at, k, i, block)
            active = gather(job, w, i, n_changes)
            if active == 0:
                continue
            if block > 0:
                past = go_along_line(job, w, at, i, block, active)
            if past == at:
                spread(job, w, at, k, i, 1, active)
                past = at + after_spread(job, at)
            if past <= job.n_stages:
                walk_rows(job, w, past, i, 1, active, n_changes)
            else:
                add_losses(job, w, i, active, n_changes)
            if job.call.stopped:
                break
    for e in range(count):
        entry = entry_of(job, s, k, start + e)
        if not job.adds:
            # (Pages that are read first are mapped twice: all cores wait for that.)
            job.plus[entry] = job.minus[entry] = 0.0
        job.plus[entry] += w.change[2 * e]
        job.minus[entry] += w.change[2 * e + 1]
        job.crossed[entry] |= w.crossed[2 * e] | w.crossed[2 * e + 1]


cdef void task(void *context, Py_ssize_t index, int worker) noexcept nogil:
    cdef Job *job = <Job *>context
    cdef const Py_ssize_t *t = job.tasks + 4 * (job.first + index)
    cdef Py_ssize_t start = t[2], count
    while start < t[3] and not job.call.stopped:
        count = min(job.at_once, t[3] - start)
        perturb(job, &job.workers[worker], <int>t[0], t[1], start, count)
        start += count


cdef enum:
    PIECE = 1 << 14             # entries of a task of `quotients`

cdef struct Quotients:
    double *out
    const double *plus
    const double *minus
    const double *span
    const double *expected
    double near
    Py_ssize_t n
    unsigned char *far          # of each task


cdef void divide(void *context, Py_ssize_t index, int worker) noexcept nogil:
    cdef Quotients *q = <Quotients *>context
    cdef Py_ssize_t i, start = index * PIECE, stop = min(q.n, start + PIECE)
    cdef Py_ssize_t far = 0
    cdef double apart
    cdef double *out = q.out
    cdef const double *plus = q.plus
    cdef const double *minus = q.minus
    cdef const double *span = q.span
    cdef const double *expected = q.expected
    cdef double near = q.near
    for i in range(start, stop):
        out[i] = (plus[i] - minus[i]) / span[i]
        apart = fabs(out[i] - expected[i])
        # (Of an infinite value everything would be near.)
        far += not (apart <= near * fabs(expected[i]) and apart < INFINITY
                    or span[i] == 0.0)
    q.far[index] = far > 0


def quotients(
    const double[::1] plus, const double[::1] minus, const double[::1] span,
    const double[::1] expected, double near, int n_threads
):
    """Return (plus - minus) / span, and whether all are near what is expected.

    As near as ``|quotient - expected| <= near |expected|``, which are finite. An entry
    whose span is 0 was left out.
    """
    cdef Quotients q
    cdef Call call
    cdef int rc
    cdef Py_ssize_t n_tasks = (plus.shape[0] + PIECE - 1) // PIECE
    cdef double[::1] out = np.empty(plus.shape[0])
    cdef unsigned char[::1] far = np.empty(n_tasks, np.uint8)
    q.out = &out[0]
    q.plus = &plus[0]
    q.minus = &minus[0]
    q.span = &span[0]
    q.expected = &expected[0]
    q.near = near
    q.n = plus.shape[0]
    q.far = &far[0]
    call_begin(&call, n_threads)
    with nogil:
        rc = parallel_for(&call, divide, &q, n_tasks)
    if rc or call.stopped:
        raise_stopped(&call)
    return np.asarray(out), not np.any(far)


cdef class Increments:
    """The way from every parameter to the loss, at one point and for some samples.

    Parameters
    ----------
    m : int
        Number of samples.

    Notes
    -----
    The methods `linear`, `activation`, `scale` and `norm` append stages in the order
    of the forward pass, then `loss` or `custom_loss` ends it. All arrays are float64,
    C-contiguous and have a row for each sample, unless said otherwise; arguments have
    been checked by fanin._increments.
    """

    cdef Job job
    cdef Stage *stages
    cdef list kept

    def __cinit__(self, Py_ssize_t m):
        self.job.m = m
        self.job.last_mixing = -1
        self.kept = []

    def __dealloc__(self):
        free(self.stages)

    cdef Stage *append(self, Kind kind, Py_ssize_t n_in, Py_ssize_t n_out) except NULL:
        cdef Stage *grown = <Stage *>realloc(
            self.stages, (self.job.n_stages + 1) * sizeof(Stage))
        if grown == NULL:
            raise MemoryError
        self.stages = grown
        cdef Stage *s = &grown[self.job.n_stages]
        memset(s, 0, sizeof(Stage))
        s.kind = kind
        s.n_in = n_in
        s.n_out = n_out
        s.weight = s.bias = -1
        self.job.widest = max(self.job.widest, max(n_in, n_out))
        self.job.n_stages += 1
        return s

    cdef const double *keep(self, const double[:, ::1] array) except NULL:
        self.kept.append(array)
        return &array[0, 0]

    def linear(
        self, const double[:, ::1] W, const double[:, ::1] A, Py_ssize_t weight,
        Py_ssize_t bias
    ):
        """A W + b: offsets in theta; A is the input. Returns the stage's number."""
        cdef Stage *s = self.append(LINEAR, W.shape[0], W.shape[1])
        cdef Stage *f = s - 1
        cdef double[:, ::1] q
        # (To the first stage no column leads.)
        if (self.job.n_stages > 3 and f.kind == ELEMENTS and f.f.custom == NULL
                and (f - 1).kind == LINEAR):
            q = np.empty((3 * self.job.m, f.n_out))
            kernels.cubics(
                &q[0, 0], f.stride, f.t, f.stride, f.stride, f.f.code, f.f.parameter)
            f.cubics = self.keep(q)
        s.W = self.keep(W)
        s.source = self.keep(np.ascontiguousarray(np.asarray(A).T))
        s.weight = weight
        s.bias = bias
        return self.job.n_stages - 1

    def activation(
        self, const double[:, ::1] z, const double[:, ::1] a, name, double parameter
    ):
        """a = f(z); the name, or the Pair, of f."""
        cdef Stage *s = self.append(ELEMENTS, z.shape[1], z.shape[1])
        cdef Py_ssize_t n = z.shape[0] * z.shape[1]
        cdef double[:, ::1] t
        activation_init(&s.f, name, parameter)
        self.kept.append(name)
        if isinstance(name, Pair):
            t = np.concatenate([z, a])
        else:
            t = np.empty((3 * z.shape[0], z.shape[1]))
            kernels.tables(&t[0, 0], n, &z[0, 0], n, s.f.code, parameter)
        s.stride = n
        s.t = self.keep(t)
        s.t_columns = self.keep(_by_columns(t, z.shape[0]))

    def scale(self, const double[:, ::1] factor):
        """Factors, or one row of them for all samples."""
        cdef Stage *s = self.append(SCALE, factor.shape[1], factor.shape[1])
        s.t = self.keep(factor)
        if factor.shape[0] == self.job.m and self.job.m > 1:
            s.row_stride = factor.shape[1]
        s.t_columns = self.keep(np.ascontiguousarray(np.asarray(factor).T))

    def norm(
        self, kind, const double[:, ::1] xhat, const double[::1] rstd,
        const double[::1] gamma, Py_ssize_t weight, Py_ssize_t bias
    ):
        """gamma xhat + beta, xhat = (x - mean) rstd; offsets in theta, or -1.

        The kind is "layer", "rms" (rstd of rows), "batch" or "fixed" (of columns, of
        the batch or given). gamma may be None. Returns the stage's number.
        """
        cdef Py_ssize_t n = xhat.shape[1]
        cdef Stage *s = self.append(
            BATCH_NORM if kind == "batch" else SCALE if kind == "fixed" else ROW_NORM,
            n, n)
        s.centred = kind == "layer"
        s.t = self.keep(xhat)
        s.source = self.keep(np.ascontiguousarray(np.asarray(xhat).T))
        self.kept.append(rstd)
        s.rstd = &rstd[0]
        s.weight = weight
        s.bias = bias
        if kind == "batch":
            self.job.last_mixing = self.job.n_stages - 1
        if gamma is not None:
            self.kept.append(gamma)
            s.W = &gamma[0]
        if kind == "fixed":
            factor = np.asarray(rstd) if gamma is None else np.multiply(rstd, gamma)
            s.t = self.keep(factor[None])
            s.W = NULL
        return self.job.n_stages - 1

    def loss(
        self, kind, const double[:, ::1] tables, column_kind,
        const double[:, ::1] column_tables, const double[::1] sums,
        const Py_ssize_t[::1] reference, const double[::1] weight, double parameter
    ):
        """End with a loss: tables one below the other; `weight` of each sample."""
        self.end(tables, sums, weight)
        self.job.loss = LOSSES[kind]
        self.job.column_loss = LOSSES[column_kind]
        self.job.parameter = parameter
        self.job.t_columns = self.keep(column_tables)
        self.kept.append(reference)
        self.job.reference = &reference[0]

    def custom_loss(
        self, loss, const double[:, ::1] z, const double[:, ::1] y,
        const double[::1] losses, const double[::1] weight
    ):
        """End with a function of the user's, whose values at z are `losses`."""
        self.end(np.concatenate([z, y]), losses, weight)
        loss_init(&self.job.custom, loss, 0.0)
        self.kept.append(loss)

    cdef int end(
        self, const double[:, ::1] tables, const double[::1] sums,
        const double[::1] weight
    ) except -1:
        cdef Py_ssize_t rows
        self.job.n_outputs = tables.shape[1]
        self.job.stride = self.job.m * tables.shape[1]
        self.job.t = self.keep(tables)
        self.kept += [sums, weight]
        self.job.sums = &sums[0]
        self.job.weight = &weight[0]
        self.job.stages = self.stages
        self.job.at_once = TASK
        if self.job.last_mixing >= 0:
            rows = BUFFER // (self.job.m * self.job.widest)
            self.job.at_once = max(1, min(TASK, rows // 2))
        return 0

    def task_size(self, int stage):
        """How many rows of a stage's parameters a task should have, at most.

        A whole column's, where its changes go along one line to the loss: its cubics
        are made by each thread that takes some of them.
        """
        cdef int at = stage + 1
        while at < self.job.n_stages and self.stages[at].kind in (ELEMENTS, SCALE):
            at += 1
        if at == self.job.n_stages or line_ends(&self.job, at) == self.job.n_stages:
            return COLUMN
        return self.job.at_once

    def run(
        self, const Py_ssize_t[:, ::1] tasks, rows,
        Py_ssize_t first, Py_ssize_t last, const double[::1] theta,
        step, double[::1] plus, double[::1] minus, double[::1] span,
        unsigned char[::1] crossed, bint adds, int n_threads
    ):
        """Put the changes of the loss under +step and -step in `plus` and `minus`.

        Or add them to what is there, those for other samples.

        Of tasks first to last, (stage, column, start, end) each: of those rows of the
        stage's parameters, of which the biases are the last one; if `rows` is not None,
        of rows[start:end]. `step` is an array or a number, to be multiplied by
        max(1, |theta|). `span` gets the distance of both points, `crossed` a 1 where a
        kink was passed.
        """
        cdef Job *job = &self.job
        cdef Py_ssize_t changes = 2 * job.at_once
        # (line_softmax wants room for a multiple of LINE. Rows of whole batches have
        # none to spare.)
        cdef Py_ssize_t along = (changes + LINE - 1) // LINE * LINE
        cdef Py_ssize_t samples = job.m if job.last_mixing >= 0 else 1
        cdef Py_ssize_t size = changes * max(job.m, samples * job.widest)
        cdef Py_ssize_t block = min(<Py_ssize_t>BLOCK, job.m)
        cdef Py_ssize_t lines = 3 * block * job.widest
        cdef const double[::1] steps
        cdef const Py_ssize_t[::1] numbers
        cdef Worker *w
        cdef double *place
        cdef int i, rc = 0
        n_threads = <int>min(<Py_ssize_t>n_threads, last - first)
        if last <= first:
            return
        job.tasks = &tasks[0, 0]
        job.rows = NULL
        if rows is not None and rows.size:
            numbers = rows
            job.rows = &numbers[0]
        job.first = first
        job.theta = &theta[0]
        job.step = NULL
        if isinstance(step, float):
            job.eps = step
        else:
            steps = step
            job.step = &steps[0]
        job.plus = &plus[0]
        job.minus = &minus[0]
        job.span = &span[0]
        job.crossed = &crossed[0]
        job.adds = adds
        job.workers = <Worker *>calloc(n_threads, sizeof(Worker))
        if job.workers == NULL:
            raise MemoryError
        try:
            for i in range(n_threads):
                w = &job.workers[i]
                w.column = <double *>calloc(
                    changes * job.m + 3 * size + 2 * job.widest + 2 * along
                    + changes + 2 * lines + block, sizeof(double))
                w.active = <Py_ssize_t *>calloc(changes, sizeof(Py_ssize_t))
                w.crossed = <unsigned char *>calloc(2 * changes, 1)
                if w.column == NULL or w.active == NULL or w.crossed == NULL:
                    raise MemoryError
                place = w.column + changes * job.m
                w.rows = place
                w.other = place + size
                w.scratch = place + 2 * size
                place = place + 3 * size + 2 * job.widest
                w.c = place
                w.out = place + along
                w.change = place + 2 * along
                w.powers = w.change + changes
                w.lines = w.powers + lines
                w.reach = w.lines + lines
                w.lines_of = -1
                w.crossed_row = w.crossed + changes
            call_begin(&job.call, n_threads)
            with nogil:
                rc = parallel_for(&job.call, task, job, last - first)
        finally:
            for i in range(n_threads):
                free(job.workers[i].column)
                free(job.workers[i].active)
                free(job.workers[i].crossed)
            free(job.workers)
            job.workers = NULL
        if rc or job.call.stopped:
            raise_stopped(&job.call)


def _by_columns(t, m):
    """Transpose tables that lie one below the other, each."""
    t = np.asarray(t)
    return np.ascontiguousarray(
        t.reshape(-1, m, t.shape[1]).transpose(0, 2, 1)).reshape(-1, m)
