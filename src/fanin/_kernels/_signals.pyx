# cython: boundscheck=False, wraparound=False, cdivision=True
"""Mean, spread, flat and zero values of every unit, from one read of an array.

Design
a) Rows are cut into stretches and columns into groups, on a fixed grid: each pair is
   a task, whatever the number of threads, so that the result has the same bits for
   any. A task walks blocks that fit the first cache (simd/signals.c), and adds each
   to its own columns' statistics of the stretch.
b) Means and deviations of two parts are merged as Chan, Golub & LeVeque (1983,
   equation 2.1) do, by roots of their squares, which may leave the range of a double;
   counts add up. Stretches are merged in their order when all are done, and after
   them the rows of the next call: a plan gives a chunk at a time.
c) A native array with unit stride along its rows is read where it lies. Any other is
   packed, a block at a time, to a buffer on the stack: as doubles, or as floats if it
   is float32.

Cost: one read of the array; see simd/signals.c.
"""
from libc.stdlib cimport free, malloc
from libc.math cimport fabs, hypot, isfinite, sqrt
from libc.stdint cimport uintptr_t
from libc.string cimport memset

cimport numpy as cnp

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._rows cimport F32, F64, Rows, pack, rows_from_array
from ._simd cimport simd_level

cdef extern from "signals.h" nogil:
    enum:
        BLOCK_ROWS "FANIN_SIGNAL_ROWS"
        BLOCK_COLS "FANIN_SIGNAL_COLS"
    ctypedef struct Kernels "struct fanin_signals":
        void (*f32)(
            double *out, const float *A, Py_ssize_t ld, const float *B,
            Py_ssize_t ldb, Py_ssize_t rows, Py_ssize_t n, double low,
            double high, const double *shift) noexcept nogil
        void (*f64)(
            double *out, const double *A, Py_ssize_t ld, const double *B,
            Py_ssize_t ldb, Py_ssize_t rows, Py_ssize_t n, double low,
            double high, const double *shift) noexcept nogil
    const Kernels *FANIN_SELECT_SIGNALS(int level)

cnp.import_array()

cdef enum:
    STRETCH_ROWS = 4096         # of a task; a multiple of BLOCK_ROWS
    GROUP_COLS = 256            # a multiple of BLOCK_COLS
    MEAN = 0                    # less the shift
    STD = 1
    FLAT = 2
    ZERO = 3
    LARGEST = 4
    NANS = 5
    SHIFT = 6
    MERGED = 6                  # of a stretch: all but the shift

cdef const Kernels *kernels = FANIN_SELECT_SIGNALS(simd_level())

cdef struct Job:
    const Watched *watched
    const Rows *A
    const Rows *B
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t n_groups
    double *parts               # (6, n) of each stretch


cdef void merge(
    double *into, Py_ssize_t ld, Py_ssize_t n_into, const double *other,
    Py_ssize_t ld_other, Py_ssize_t n_other, Py_ssize_t columns
) noexcept nogil:
    """Merge the statistics of n_other rows into those of n_into others."""
    cdef double total = <double>n_into + <double>n_other
    cdef double share = <double>n_other / total, d
    cdef double own = sqrt(1.0 - share), other_own = sqrt(share)
    cdef Py_ssize_t j
    for j in range(columns):
        if n_into == 0:
            into[j] = other[j]
            into[STD * ld + j] = other[STD * ld_other + j]
        else:
            d = other[j] - into[j]
            into[j] += d * share
            into[STD * ld + j] = hypot(
                hypot(own * into[STD * ld + j], other_own * other[STD * ld_other + j]),
                own * other_own * fabs(d))
        into[FLAT * ld + j] += other[FLAT * ld_other + j]
        into[ZERO * ld + j] += other[ZERO * ld_other + j]
        into[NANS * ld + j] += other[NANS * ld_other + j]
        if other[LARGEST * ld_other + j] > into[LARGEST * ld + j]:
            into[LARGEST * ld + j] = other[LARGEST * ld_other + j]


cdef bint readable(const Rows *s, int itemsize) noexcept nogil:
    """Whether blocks of it can be read where they lie."""
    return (
        not s.swapped and s.dtype == (F32 if itemsize == 4 else F64)
        and s.col_stride == itemsize and s.row_stride % itemsize == 0
        and <uintptr_t>s.data % <uintptr_t>itemsize == 0)


cdef void part_of(
    Rows *part, const Rows *s, Py_ssize_t row, Py_ssize_t col
) noexcept nogil:
    part[0] = s[0]
    part.data += row * s.row_stride + col * s.col_stride


cdef void take_block(
    double *out, const Job *job, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t col,
    Py_ssize_t n
) noexcept nogil:
    cdef double packed[BLOCK_ROWS * BLOCK_COLS]
    cdef int itemsize = 4 if job.A.dtype == F32 else 8
    cdef const Watched *w = job.watched
    cdef const double *shift = w.statistics + SHIFT * job.n + col
    cdef Rows A, B
    part_of(&A, job.A, row, col)
    part_of(&B, job.B, row, col)
    if not readable(&A, itemsize):
        # (Such an array is its own B.)
        if itemsize == 4:
            pack(<float *>packed, BLOCK_COLS, &A, NULL, 0, rows, n)
        else:
            pack(packed, BLOCK_COLS, &A, NULL, 0, rows, n)
        A.data = <const char *>packed
        A.row_stride = BLOCK_COLS * itemsize
        B = A
    if itemsize == 4:
        kernels.f32(
            out, <const float *>A.data, A.row_stride // 4, <const float *>B.data,
            B.row_stride // 4, rows, n, w.low, w.high,
            shift)
    else:
        kernels.f64(
            out, <const double *>A.data, A.row_stride // 8, <const double *>B.data,
            B.row_stride // 8, rows, n, w.low, w.high,
            shift)


cdef void task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef double block[MERGED * BLOCK_COLS]
    cdef Py_ssize_t start = i // job.n_groups * STRETCH_ROWS
    cdef Py_ssize_t stop = min(start + STRETCH_ROWS, job.rows)
    cdef Py_ssize_t first = i % job.n_groups * GROUP_COLS
    cdef Py_ssize_t last = min(first + GROUP_COLS, job.n)
    cdef double *part = job.parts + i // job.n_groups * MERGED * job.n
    cdef Py_ssize_t row, rows, col, n, s
    for s in range(MERGED):
        memset(part + s * job.n + first, 0, <size_t>(last - first) * sizeof(double))
    row = start
    while row < stop:
        rows = min(BLOCK_ROWS, stop - row)
        col = first
        while col < last:
            n = min(BLOCK_COLS, last - col)
            take_block(block, job, row, rows, col, n)
            merge(part + col, job.n, row - start, block, BLOCK_COLS, rows, n)
            col += n
        row += rows


cdef size_t parts_bytes(Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    cdef size_t stretches = (rows + STRETCH_ROWS - 1) // STRETCH_ROWS
    return stretches * MERGED * <size_t>n * sizeof(double)


cdef int watch_rows(
    Call *call, Watched *w, const Rows *A, const Rows *B, Py_ssize_t before,
    Py_ssize_t rows, Py_ssize_t n, double *parts
) noexcept nogil:
    cdef Job job
    cdef Py_ssize_t stretches = (rows + STRETCH_ROWS - 1) // STRETCH_ROWS, i
    cdef double *shift = w.statistics + SHIFT * n
    if before == 0:
        pack(shift, n, A, NULL, 0, 1, n)
        for i in range(n):
            if not isfinite(shift[i]):
                shift[i] = 0.0
    job.watched = w
    job.A = A
    job.B = B
    job.rows = rows
    job.n = n
    job.n_groups = (n + GROUP_COLS - 1) // GROUP_COLS
    job.parts = parts
    if parallel_for(call, task, &job, stretches * job.n_groups):
        return -1
    for i in range(stretches):
        merge(
            w.statistics, n, before + i * STRETCH_ROWS, parts + i * MERGED * n, n,
            min(STRETCH_ROWS, rows - i * STRETCH_ROWS), n)
    return 0


cdef void rows_of_matrix(
    Rows *s, const char *data, Py_ssize_t ld, int itemsize
) noexcept nogil:
    s.data = data
    s.row_stride = ld * itemsize
    s.col_stride = itemsize
    s.dtype = F32 if itemsize == 4 else F64
    s.swapped = False


def observe(double[:, ::1] statistics, A, double low, double high, int n_threads):
    """Fill the (7, n_columns) `statistics` of A, of any real dtype and any strides.

    They are zeros on entry. In their order: mean less a shift, standard deviation
    (by n), values <= low or >= high, zeros, largest magnitude,
    NaNs, and the shift. A has at least one row.
    """
    cdef Rows rows
    cdef Watched w
    cdef Call call
    cdef int status
    cdef Py_ssize_t n_rows = cnp.PyArray_DIM(A, 0), n = cnp.PyArray_DIM(A, 1)
    cdef double *parts
    if statistics.shape[0] != STATISTICS or statistics.shape[1] != n:
        raise ValueError(f"statistics must have shape ({STATISTICS}, {n})")
    if n_rows == 0 or n == 0:
        return
    rows_from_array(&rows, A)
    w.statistics = &statistics[0, 0]
    w.low = low
    w.high = high
    parts = <double *>malloc(parts_bytes(n_rows, n))
    if parts == NULL:
        raise MemoryError
    with nogil:
        call_begin(&call, n_threads)
        status = watch_rows(&call, &w, &rows, &rows, 0, n_rows, n, parts)
    free(parts)
    if status != 0:
        raise_pending()
