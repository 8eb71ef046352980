"""Losses on a block of samples, with their gradients.

Design
a) simd/losses.c has the formulas and the loops; this module picks the SIMD level once
   and gives the network's passes one entry for all losses.
b) `forward` is that entry for arrays: blocks of rows, some 16,000 values each, are
   tasks of the pool. What lies as the loops want it is read in place; other layouts
   and dtypes are packed block by block into a buffer of the worker's. The sums of the
   blocks are added in their order, so that their number of threads is of no account.
c) Functions of the user's are called in _custom.pyx.

Cost beside the loops': a buffer of about 256 KiB a thread if anything is packed,
24 bytes a block.
"""
from cython cimport floating
from libc.math cimport fabs, isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp

import numpy as np

from ._custom cimport Custom, Pair, custom_loss
from ._parallel cimport Call, call_begin, parallel_for, raise_stopped
from ._rows cimport F32, F64, Rows, pack, pack_i64, rows_from_array
from ._simd cimport simd_level

cnp.import_array()

cdef extern from "losses.h":
    struct fanin_losses:
        void (*forward_f32)(
            float *dZ, const float *Z, const float *Y, const int64_t *labels,
            const double *weight, Py_ssize_t rows, Py_ssize_t cols, double scale,
            float *scratch, Py_ssize_t *bad, LossSum *total,
            const LossFunction *f) noexcept nogil
        void (*forward_f64)(
            double *dZ, const double *Z, const double *Y, const int64_t *labels,
            const double *weight, Py_ssize_t rows, Py_ssize_t cols, double scale,
            double *scratch, Py_ssize_t *bad, LossSum *total,
            const LossFunction *f) noexcept nogil
        void (*link_f32)(float *Z, Py_ssize_t rows, Py_ssize_t cols,
                         const LossFunction *f) noexcept nogil
        void (*link_f64)(double *Z, Py_ssize_t rows, Py_ssize_t cols,
                         const LossFunction *f) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_losses(level) FANIN_SELECT(losses, level)
    """
    const fanin_losses *fanin_select_losses(int level)

cdef const fanin_losses *kernels = fanin_select_losses(simd_level())

LOSSES = {
    "squared_error": SQUARED_ERROR,
    "absolute_error": ABSOLUTE_ERROR,
    "huber": HUBER,
    "quantile": QUANTILE,
    "poisson": POISSON,
    "binary_cross_entropy": BINARY_CROSS_ENTROPY,
    "softmax_cross_entropy": SOFTMAX_CROSS_ENTROPY,
}

cdef enum:
    BLOCK_VALUES = 1 << 14      # of Z in a task of `forward`
    ALIGNMENT = 64


cdef int loss_init(LossFunction *f, object name, double parameter) except -1:
    f.parameter = parameter
    f.quantiles = NULL
    f.custom = NULL
    if isinstance(name, Pair):
        f.code = CUSTOM_LOSS
        f.custom = &(<Pair>name).custom
        return 0
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {name!r}")
    f.code = LOSSES[name]
    return 0


cdef bint loss_is_per_row(const LossFunction *f) noexcept nogil:
    return f.code == SOFTMAX_CROSS_ENTROPY or f.code == CUSTOM_LOSS


cdef bint loss_takes_labels(const LossFunction *f) noexcept nogil:
    return f.code == SOFTMAX_CROSS_ENTROPY


cdef void loss_forward(
    floating *dZ, const floating *Z, const floating *Y, const int64_t *labels,
    const double *weight, Py_ssize_t rows, Py_ssize_t cols, double scale,
    floating *scratch, Py_ssize_t *bad, LossSum *total, const LossFunction *f,
    Call *call
) noexcept nogil:
    if f.custom != NULL:
        bad[0] = -1
        custom_loss(dZ, Z, Y, weight, rows, cols, scale, &total.hi, &total.lo,
                    <const Custom *>f.custom, call)
    elif floating is float:
        kernels.forward_f32(dZ, Z, Y, labels, weight, rows, cols, scale, scratch, bad,
                            total, f)
    else:
        kernels.forward_f64(dZ, Z, Y, labels, weight, rows, cols, scale, scratch, bad,
                            total, f)


cdef void loss_link(
    floating *Z, Py_ssize_t rows, Py_ssize_t cols, const LossFunction *f
) noexcept nogil:
    if f.custom != NULL:
        return
    if floating is float:
        kernels.link_f32(Z, rows, cols, f)
    else:
        kernels.link_f64(Z, rows, cols, f)


cdef void loss_add(LossSum *total, const LossSum *part) noexcept nogil:
    """Neumaier's addition (1974), of a term that has a second word."""
    cdef double sum = total.hi + part.hi
    if not isfinite(sum):
        total.lo = 0.0      # inf - inf is no remainder
    elif fabs(total.hi) >= fabs(part.hi):
        total.lo += ((total.hi - sum) + part.hi) + part.lo
    else:
        total.lo += ((part.hi - sum) + total.hi) + part.lo
    total.hi = sum


# --- the loss of arrays ---------------------------------------------------------------


cdef struct Job:
    LossFunction f
    Rows Z
    Rows Y
    bint z_direct           # to be read where it lies
    bint y_direct
    bint labels
    char *dZ
    const double *weight
    Py_ssize_t n_rows
    Py_ssize_t cols
    Py_ssize_t block        # rows of a task
    double scale
    char *room              # each worker's buffers: Z, Y or labels, a row of scratch
    size_t room_size
    LossSum *partial
    Py_ssize_t *bad
    Call call


cdef void forward_block(
    Job *job, Py_ssize_t task, int worker, floating *_
) noexcept nogil:
    cdef Py_ssize_t cols = job.cols, start = task * job.block
    cdef Py_ssize_t rows = min(job.block, job.n_rows - start)
    cdef floating *scratch = <floating *>(job.room + worker * job.room_size)
    cdef floating *z_room = scratch + cols
    cdef floating *y_room = z_room + (0 if job.z_direct else job.block * cols)
    cdef int64_t *label_room
    cdef const floating *Z = z_room
    cdef const floating *Y = NULL
    cdef const int64_t *labels = NULL
    cdef floating *dZ = NULL
    if job.z_direct:
        Z = <const floating *>job.Z.data + start * cols
    else:
        pack(z_room, cols, &job.Z, <const Py_ssize_t *>NULL, start, rows, cols)
    if job.labels:
        if job.y_direct:
            labels = <const int64_t *>job.Y.data + start
        else:
            # (In the room's last rows, which begin at a multiple of 8 bytes.)
            label_room = <int64_t *>(job.room + (worker + 1) * job.room_size) \
                - job.block
            pack_i64(label_room, 1, &job.Y, NULL, start, rows, 1)
            labels = label_room
    elif job.y_direct:
        Y = <const floating *>job.Y.data + start * cols
    else:
        pack(y_room, cols, &job.Y, <const Py_ssize_t *>NULL, start, rows, cols)
        Y = y_room
    if job.dZ != NULL:
        dZ = <floating *>job.dZ + start * cols
    loss_forward(
        dZ, Z, Y, labels, job.weight + start if job.weight != NULL else NULL, rows,
        cols, job.scale, scratch, &job.bad[task], &job.partial[task], &job.f, &job.call)


cdef void forward_f32_task(void *job, Py_ssize_t i, int worker) noexcept nogil:
    forward_block(<Job *>job, i, worker, <float *>NULL)


cdef void forward_f64_task(void *job, Py_ssize_t i, int worker) noexcept nogil:
    forward_block(<Job *>job, i, worker, <double *>NULL)


cdef bint is_plain(object array, int dtype, const Rows *rows) noexcept:
    """Whether the loops can read the array where it lies."""
    return (rows.dtype == dtype and not rows.swapped
            and cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ISALIGNED(array))


def forward(
    Z, Y, loss, double scale=1.0, double parameter=0.0, quantiles=None,
    const double[::1] weight=None, bint gradient=True, int n_threads=1
):
    """Return (sum of losses, scale * gradient or None, first bad row or -1).

    Z is (rows, cols) of any real dtype and layout, Y as well, or labels (rows,). The
    arithmetic and the gradient are float32 for float32 and float16 Z, else float64. The
    loss is a name or a Pair.
    """
    cdef Job job
    cdef Py_ssize_t i, n_tasks, bad = -1
    cdef int rc = 0, itemsize, own
    cdef LossSum total
    cdef const double[::1] quantile
    cdef Py_ssize_t rows = Z.shape[0], cols = Z.shape[1]
    loss_init(&job.f, loss, parameter)
    itemsize = 4 if Z.dtype.kind == "f" and Z.dtype.itemsize <= 4 else 8
    own = F32 if itemsize == 4 else F64
    if quantiles is not None:
        quantile = np.array(quantiles, np.float64)
        if quantile.shape[0] != cols:
            raise ValueError(
                f"a loss of {quantile.shape[0]} quantiles needs as many outputs; "
                f"got {cols}")
        job.f.quantiles = &quantile[0] if cols else NULL
    job.labels = Y.ndim == 1
    if (job.labels and not loss_takes_labels(&job.f) or Y.shape[0] != rows
            or not job.labels and Y.shape[1] != cols):
        raise ValueError(f"Y has no targets for Z; got shapes {Y.shape}, {Z.shape}")
    if weight is not None and weight.shape[0] != rows:
        raise ValueError(f"weight must have {rows} entries")
    dZ = np.empty((rows, cols), f"f{itemsize}") if gradient else None
    if rows == 0 or cols == 0:
        return 0.0, dZ, -1
    rows_from_array(&job.Z, Z)
    rows_from_array(&job.Y, Y)
    job.z_direct = is_plain(Z, own, &job.Z)
    job.y_direct = (
        Y.dtype == np.int64 and is_plain(Y, job.Y.dtype, &job.Y) if job.labels
        else is_plain(Y, own, &job.Y))
    job.dZ = cnp.PyArray_BYTES(dZ) if gradient else NULL
    job.weight = &weight[0] if weight is not None else NULL
    job.n_rows = rows
    job.cols = cols
    job.scale = scale
    job.block = max(1, BLOCK_VALUES // cols)
    n_tasks = (rows + job.block - 1) // job.block
    n_threads = <int>min(<Py_ssize_t>n_threads, n_tasks)
    job.block = min(job.block, rows)
    job.room_size = cols * itemsize
    if not job.z_direct:
        job.room_size += job.block * cols * itemsize
    if not job.y_direct:
        job.room_size += job.block * (8 if job.labels else cols * itemsize)
    job.room_size = (job.room_size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    job.room = <char *>malloc(n_threads * job.room_size)
    job.partial = <LossSum *>malloc(n_tasks * sizeof(LossSum))
    job.bad = <Py_ssize_t *>malloc(n_tasks * sizeof(Py_ssize_t))
    total.hi = 0.0
    total.lo = 0.0
    try:
        if job.room == NULL or job.partial == NULL or job.bad == NULL:
            raise MemoryError
        with nogil:
            call_begin(&job.call, n_threads)
            rc = parallel_for(
                &job.call, forward_f32_task if own == F32 else forward_f64_task, &job,
                n_tasks)
            if rc == 0:
                for i in range(n_tasks):
                    loss_add(&total, &job.partial[i])
                    if bad < 0 and job.bad[i] >= 0:
                        bad = i * job.block + job.bad[i]
    finally:
        free(job.room)
        free(job.partial)
        free(job.bad)
    if rc:
        raise_stopped(&job.call)
    return total.hi + total.lo, dZ, bad


def link(floating[:, ::1] Z, loss):
    """Replace Z by the prediction that the loss makes of it."""
    cdef LossFunction f
    loss_init(&f, loss, 0.0)
    if Z.shape[0] and Z.shape[1]:
        with nogil:
            loss_link(&Z[0, 0], Z.shape[0], Z.shape[1], &f)
