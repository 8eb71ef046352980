# cython: boundscheck=False, wraparound=False, cdivision=True
"""Fill an array with random weights, each a function of the seed and its index.

Design:

a) The number at C-order index i of `out` is a function of the key, i, the
   distribution and the dtype alone (simd/fill.c: Philox4x32-10, 1024 bytes of
   numbers from each 64 counters). Threads, layout and SIMD level do not enter.
b) A task makes 64 such groups (64 KiB): 16,384 float32 or 8,192 float64 values,
   20 to 50 microseconds. Eight tasks or fewer stay on the calling thread, since a
   helper takes about as long as that to wake up.
c) A contiguous aligned `out` is written directly. Any other layout goes through
   one group's buffer on the stack and is scattered from there, which needs no
   alignment. Those tasks are 16 times as large: neighbours in memory (a Fortran
   array's columns) are then mostly written by the same thread.

Cost: see simd/fill.c. No memory is allocated.
"""

from cpython.buffer cimport (
    PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._simd cimport simd_level

cdef extern from "fill.h" nogil:
    const fanin_fill *FANIN_SELECT_FILL(int level)

cdef enum:
    MAX_DIMS = 64           # NumPy's own limit
    GROUP_BYTES = 1024      # 64 counters of 16 bytes
    GROUP_DOUBLES = 128
    GROUPS_PER_TASK = 64
    GROUPS_PER_SCATTERED_TASK = 1024
    TASKS_ON_CALLER = 8

DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")

source = FANIN_SELECT_FILL(simd_level())

cdef struct Job:
    char *out
    int ndim                         # after merging; 0 if out can be written directly
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t strides[MAX_DIMS]
    Py_ssize_t n_values
    Py_ssize_t itemsize
    Py_ssize_t groups_per_task
    FillGroups groups
    const uint32_t *key
    uint64_t first
    double scale


cdef void scatter(
    const Job *job, Py_ssize_t start, Py_ssize_t n, const char *values
) noexcept nogil:
    """Write `n` values to C-order indices start, ..., start + n - 1."""
    cdef Py_ssize_t index[MAX_DIMS]
    cdef Py_ssize_t rest = start, run, k, step
    cdef char *to = job.out
    cdef int d, last = job.ndim - 1
    for d in range(last, -1, -1):
        index[d] = rest % job.shape[d]
        rest //= job.shape[d]
        to += index[d] * job.strides[d]
    step = job.strides[last]
    while n > 0:
        run = min(n, job.shape[last] - index[last])
        if job.itemsize == 4:
            for k in range(run):
                memcpy(to + k * step, values + 4 * k, 4)
        else:
            for k in range(run):
                memcpy(to + k * step, values + 8 * k, 8)
        values += run * job.itemsize
        n -= run
        # On to the next row: carry from the last axis but one.
        to -= index[last] * step
        index[last] = 0
        d = last - 1
        while d >= 0:
            to += job.strides[d]
            index[d] += 1
            if index[d] < job.shape[d]:
                break
            to -= index[d] * job.strides[d]
            index[d] = 0
            d -= 1


cdef void task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Job *job = <Job *>context
    cdef double buffer[GROUP_DOUBLES]
    cdef Py_ssize_t per_group = GROUP_BYTES // job.itemsize
    cdef Py_ssize_t group = i * job.groups_per_task
    cdef Py_ssize_t start = group * per_group
    cdef Py_ssize_t n = min(job.groups_per_task * per_group, job.n_values - start)
    cdef Py_ssize_t whole
    if job.ndim == 0:
        whole = n // per_group
        job.groups(job.out + start * job.itemsize, whole, job.first + group,
                   job.key, job.scale)
        n -= whole * per_group
        if n > 0:
            job.groups(
                buffer, 1, job.first + group + whole, job.key, job.scale)
            memcpy(job.out + (start + whole * per_group) * job.itemsize, buffer,
                   n * job.itemsize)
        return
    while n > 0:
        job.groups(buffer, 1, job.first + group, job.key, job.scale)
        scatter(job, start, min(n, per_group), <const char *>buffer)
        group += 1
        start += per_group
        n -= per_group


cdef void merge_axes(
    Job *job, int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides
) noexcept nogil:
    """Drop axes of length one and join those that one stride walks through."""
    cdef int d
    job.ndim = 0
    for d in range(ndim):
        if shape[d] == 1:
            continue
        if (job.ndim > 0
                and job.strides[job.ndim - 1] == strides[d] * shape[d]):
            job.shape[job.ndim - 1] *= shape[d]
            job.strides[job.ndim - 1] = strides[d]
        else:
            job.shape[job.ndim] = shape[d]
            job.strides[job.ndim] = strides[d]
            job.ndim += 1
    if job.ndim == 0:
        job.shape[0] = 1
        job.strides[0] = job.itemsize
        job.ndim = 1
    if (job.ndim == 1 and job.strides[0] == job.itemsize
            and <uintptr_t>job.out % <uintptr_t>job.itemsize == 0):
        job.ndim = 0


def philox4x32(uint32_t[:, ::1] out, uint64_t first, const uint32_t[::1] key):
    """Write word j of the counters first, ..., first + 63 to out[j], j < 4.

    `key` holds Philox's key (two words) and the upper half of the counter.
    """
    assert out.shape[0] == 4 and out.shape[1] == FANIN_LANES and key.shape[0] == 4
    with nogil:
        source.philox4x32(&out[0, 0], first, &key[0])


def fill(
    out, int distribution, double scale, uint64_t first, const uint32_t[::1] key,
    int n_threads,
):
    """Fill `out` (float32 or float64, writable, any strides) in C order of index.

    `distribution` indexes DISTRIBUTIONS; `scale` is the uniform's limit, or the
    normal's standard deviation (the truncated one's before truncation). The
    stream is taken from its group number `first` on.
    """
    assert 0 <= distribution < 3 and key.shape[0] == 4
    cdef Py_buffer view
    cdef Job job
    cdef Call call
    cdef Py_ssize_t n_groups
    cdef int status = 0
    PyObject_GetBuffer(out, &view, PyBUF_STRIDES | PyBUF_WRITABLE)
    try:
        assert view.itemsize in (4, 8)
        if view.len > 0:
            job.out = <char *>view.buf
            job.itemsize = view.itemsize
            job.n_values = view.len // view.itemsize
            job.key = &key[0]
            job.scale = scale
            job.first = first
            job.groups = (source.f32[distribution] if view.itemsize == 4
                          else source.f64[distribution])
            merge_axes(&job, view.ndim, view.shape, view.strides)
            job.groups_per_task = (
                GROUPS_PER_TASK if job.ndim == 0 else GROUPS_PER_SCATTERED_TASK)
            n_groups = (view.len + GROUP_BYTES - 1) // GROUP_BYTES
            if n_groups <= TASKS_ON_CALLER * GROUPS_PER_TASK:
                n_threads = 1
            with nogil:
                call_begin(&call, n_threads)
                status = parallel_for(
                    &call, task, &job,
                    (n_groups + job.groups_per_task - 1) // job.groups_per_task)
    finally:
        PyBuffer_Release(&view)
    if status != 0:
        raise_pending()
