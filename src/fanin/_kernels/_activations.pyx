# cython: boundscheck=False, wraparound=False
"""Activation functions and their derivatives, on tiles and on arrays of any layout.

Design
a) simd/activations.c has the formulas and the loops; this module picks the SIMD
   level once and hands the loops to the other kernels (cimport) and, one matrix at a
   time, to the tests.
b) `apply` is one function over a whole array. The array is one list of elements in
   the order of X's strides (source.h with every axis a column), a task is about
   256 KiB of it. Where X and `out` both run on side by side, the loop runs on them as
   they lie; otherwise pieces of at most 64 KiB are gathered, converted on the way,
   changed and scattered. What a task writes depends on nothing else.
c) A result of 16 MiB or more that is not X itself is written past the cache, see
   simd/stream.h.

d) Functions of the user's are called in _custom.pyx.

Cost of `apply`: one read and one write of memory, which take longer than the
arithmetic on two cores; a 64 KiB buffer per thread where something is gathered.
"""
from cython cimport floating
from libc.stdlib cimport free, malloc

cimport numpy as cnp

from ._custom cimport Pair, custom_apply, custom_backward, custom_forward
from ._parallel cimport Call, call_begin, parallel_for, raise_stopped
from ._simd cimport simd_level
from ._source cimport (
    FANIN_F32, Array, View, array_init, axis_order, block_address, block_copy,
    reduced_init, views_build)

cdef extern from "activations.h" nogil:
    struct fanin_activations:
        void (*forward_f32)(
            float *A, Py_ssize_t lda, const float *P, Py_ssize_t ldp,
            const float *bias, float *Z, Py_ssize_t ldz, Py_ssize_t rows,
            Py_ssize_t cols, int activation, double parameter) noexcept nogil
        void (*forward_f64)(
            double *A, Py_ssize_t lda, const double *P, Py_ssize_t ldp,
            const double *bias, double *Z, Py_ssize_t ldz, Py_ssize_t rows,
            Py_ssize_t cols, int activation, double parameter) noexcept nogil
        void (*backward_f32)(
            float *D, Py_ssize_t ldd, const float *A, Py_ssize_t lda,
            const float *Z, Py_ssize_t ldz, Py_ssize_t rows, Py_ssize_t cols,
            int activation, double parameter) noexcept nogil
        void (*backward_f64)(
            double *D, Py_ssize_t ldd, const double *A, Py_ssize_t lda,
            const double *Z, Py_ssize_t ldz, Py_ssize_t rows, Py_ssize_t cols,
            int activation, double parameter) noexcept nogil
        void (*apply_f32)(
            float *y, const float *x, Py_ssize_t n, int activation,
            double parameter, int derivative, int past) noexcept nogil
        void (*apply_f64)(
            double *y, const double *x, Py_ssize_t n, int activation,
            double parameter, int derivative, int past) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_activations(level) FANIN_SELECT(activations, level)
    """
    const fanin_activations *fanin_select_activations(int level)

cdef extern from "stream.h" nogil:
    bint fanin_write_past_pays(Py_ssize_t bytes)

cdef const fanin_activations *kernels = fanin_select_activations(simd_level())

cnp.import_array()

ACTIVATIONS = {
    "identity": IDENTITY, "logistic": LOGISTIC, "tanh": TANH, "relu": RELU,
    "leaky_relu": LEAKY_RELU, "elu": ELU, "selu": SELU, "softplus": SOFTPLUS,
    "silu": SILU, "gelu": GELU, "gelu_tanh": GELU_TANH,
}

cdef enum:
    TASK_BYTES = 256 * 1024
    BUFFER_BYTES = 64 * 1024
    SHORT_RUN = 64           # elements that are better gathered with others
    SMALL = 32 * 1024        # elements that are not worth a second thread


cdef int activation_init(Activation *f, name, double parameter) except -1:
    f.custom = NULL
    f.parameter = parameter
    if isinstance(name, Pair):
        f.code = CUSTOM_ACTIVATION
        f.custom = &(<Pair>name).custom
        return 0
    code = ACTIVATIONS.get(name)
    if code is None:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}")
    f.code = code
    return 0


cdef void activation_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Activation *f, Call *call
) noexcept nogil:
    if f.custom != NULL:
        custom_forward(A, lda, P, ldp, bias, Z, ldz, rows, cols, f.custom, call)
    elif floating is float:
        kernels.forward_f32(
            A, lda, P, ldp, bias, Z, ldz, rows, cols, f.code, f.parameter)
    else:
        kernels.forward_f64(
            A, lda, P, ldp, bias, Z, ldz, rows, cols, f.code, f.parameter)


cdef void activation_backward(
    floating *D, Py_ssize_t ldd, const floating *A, Py_ssize_t lda,
    const floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Activation *f, Call *call
) noexcept nogil:
    if f.custom != NULL:
        custom_backward(D, ldd, Z, ldz, rows, cols, f.custom, call)
    elif floating is float:
        kernels.backward_f32(D, ldd, A, lda, Z, ldz, rows, cols, f.code, f.parameter)
    else:
        kernels.backward_f64(D, ldd, A, lda, Z, ldz, rows, cols, f.code, f.parameter)


# --- one matrix, for the tests ----------------------------------------------------


def forward(
    floating[:, :] A, activation, const floating[::1] bias=None,
    double parameter=0.0, const floating[:, :] P=None, floating[:, :] Z=None
):
    """A = f(P + bias), and Z = P + bias; without P, A is its own argument.

    Rows are contiguous, and may have gaps between them. The activation is a name or a
    Pair, here and below.
    """
    cdef Activation f
    cdef Call call
    cdef floating *a
    cdef floating *z = NULL
    cdef const floating *p
    cdef const floating *b = NULL
    cdef Py_ssize_t lda, ldp, ldz = 0
    activation_init(&f, activation, parameter)
    if A.shape[0] == 0 or A.shape[1] == 0:
        return
    a = &A[0, 0]
    lda = ldp = A.strides[0] // <Py_ssize_t>sizeof(floating)
    p = a
    if P is not None:
        p = &P[0, 0]
        ldp = P.strides[0] // <Py_ssize_t>sizeof(floating)
    if Z is not None:
        z = &Z[0, 0]
        ldz = Z.strides[0] // <Py_ssize_t>sizeof(floating)
    if bias is not None:
        b = &bias[0]
    with nogil:
        call_begin(&call, 1)
        activation_forward(
            a, lda, p, ldp, b, z, ldz, A.shape[0], A.shape[1], &f, &call)
    if call.stopped:
        raise_stopped(&call)


def backward(
    floating[:, :] dA, const floating[:, :] A, activation, double parameter=0.0,
    const floating[:, :] Z=None
):
    """Replace dA by dA * f'(z), where A = f(z) and, where it is needed, Z = z."""
    cdef Activation f
    cdef Call call
    cdef const floating *z = NULL
    cdef Py_ssize_t ldz = 0
    activation_init(&f, activation, parameter)
    if A.shape[0] == 0 or A.shape[1] == 0:
        return
    if Z is not None:
        z = &Z[0, 0]
        ldz = Z.strides[0] // <Py_ssize_t>sizeof(floating)
    elif activation_needs_input(&f):
        raise ValueError(f"the derivative of {activation} takes Z")
    with nogil:
        call_begin(&call, 1)
        activation_backward(
            &dA[0, 0], dA.strides[0] // <Py_ssize_t>sizeof(floating),
            &A[0, 0], A.strides[0] // <Py_ssize_t>sizeof(floating),
            z, ldz, A.shape[0], A.shape[1], &f, &call)
    if call.stopped:
        raise_stopped(&call)


def needs_input(activation, double parameter=0.0):
    """Return whether `backward` takes Z: where a = f(z) does not tell f'(z)."""
    cdef Activation f
    activation_init(&f, activation, parameter)
    return bool(activation_needs_input(&f))


# --- arrays of any layout ---------------------------------------------------------


cdef struct Job:
    Activation f
    bint derivative
    bint is_float
    bint past
    View x
    View y
    Py_ssize_t size
    Py_ssize_t part          # elements of a task
    char *buffers            # BUFFER_BYTES per worker, or NULL if all runs are long
    Call call


cdef void compute(
    Job *job, void *y, const void *x, Py_ssize_t n, bint past
) noexcept nogil:
    if job.f.custom != NULL:
        if job.is_float:
            custom_apply(<float *>y, <const float *>x, n, job.derivative, job.f.custom,
                         &job.call)
        else:
            custom_apply(<double *>y, <const double *>x, n, job.derivative,
                         job.f.custom, &job.call)
    elif job.is_float:
        kernels.apply_f32(
            <float *>y, <const float *>x, n, job.f.code, job.f.parameter,
            job.derivative, past)
    else:
        kernels.apply_f64(
            <double *>y, <const double *>x, n, job.f.code, job.f.parameter,
            job.derivative, past)


cdef void apply_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Job *job = <Job *>context
    cdef Py_ssize_t at = i * job.part
    cdef Py_ssize_t stop = min(job.size, at + job.part)
    cdef Py_ssize_t piece = BUFFER_BYTES // (4 if job.is_float else 8)
    cdef Py_ssize_t run = job.x.col_n[0]      # that of y as well
    cdef Py_ssize_t n, stride
    cdef char *buffer = NULL
    cdef void *x
    cdef void *y
    if job.buffers != NULL:
        buffer = job.buffers + worker * <Py_ssize_t>BUFFER_BYTES
    while at < stop:
        n = min(stop, (at // run + 1) * run) - at
        x = NULL
        y = NULL
        if n >= SHORT_RUN or job.buffers == NULL:
            x = block_address(&job.x, False, 0, 1, at, n, &stride)
            y = block_address(&job.y, False, 0, 1, at, n, &stride)
        if x != NULL and y != NULL:
            compute(job, y, x, n, job.past)
            at += n
            continue
        # At most to the run's end where one side lies well, for that needs one copy.
        if x == NULL and y == NULL:
            n = stop - at
        n = min(n, piece)
        if x == NULL:
            block_copy(&job.x, buffer, False, 0, 1, at, n, False)
            x = buffer
        if y == NULL:
            compute(job, buffer, x, n, False)
            block_copy(&job.y, buffer, False, 0, 1, at, n, True)
        else:
            compute(job, y, x, n, False)
        at += n


cdef int run_apply(Job *job, int n_threads) noexcept nogil:
    """0; -1 when interrupted; -2 when out of memory."""
    cdef int status
    cdef Py_ssize_t itemsize = 4 if job.is_float else 8
    cdef Py_ssize_t stride
    cdef Py_ssize_t n_tasks, workers
    cdef Py_ssize_t run = job.x.col_n[0]
    job.part = TASK_BYTES // itemsize
    n_tasks = (job.size + job.part - 1) // job.part
    workers = 1 if job.size <= SMALL else min(<Py_ssize_t>n_threads, n_tasks)
    job.buffers = NULL
    if (run < job.size and run < 4 * SHORT_RUN
            or block_address(&job.x, False, 0, 1, 0, run, &stride) == NULL
            or block_address(&job.y, False, 0, 1, 0, run, &stride) == NULL):
        job.buffers = <char *>malloc(<size_t>(workers * BUFFER_BYTES))
        if job.buffers == NULL:
            return -2
    job.past = job.x.data != job.y.data and fanin_write_past_pays(job.size * itemsize)
    call_begin(&job.call, <int>workers)
    status = parallel_for(&job.call, apply_task, job, n_tasks)
    free(job.buffers)
    return status


def apply(out, X, activation, double parameter, bint derivative, int n_threads):
    """Write f(X), or with `derivative` f'(X), to `out`.

    Parameters
    ----------
    out : array of X's shape; float32 for float16 and float32, else float64 # OUT
        May be X itself; any other overlap is the caller's to refuse.
    X : array of a real dtype, not empty                               # IN
    activation : str or Pair
    parameter : float
    derivative : bool
    n_threads : int
    """
    cdef Array x
    cdef Array y
    cdef Job job
    cdef char reduced[64]
    cdef int order[64]
    cdef View *views[2]
    cdef const Py_ssize_t *strides[2]
    cdef int status, axis
    activation_init(&job.f, activation, parameter)
    array_init(&x, X)
    array_init(&y, out)
    reduced_init(reduced, &x, ())
    axis_order(order, x.nd, x.strides)
    views[0] = &x.view
    views[1] = &y.view
    strides[0] = x.strides
    strides[1] = y.strides
    views_build(views, 2, x.nd, order, x.shape, strides, reduced)
    job.x = x.view
    job.y = y.view
    job.is_float = y.view.type == FANIN_F32
    job.derivative = derivative
    job.size = 1
    for axis in range(x.nd):
        job.size *= x.shape[axis]
    with nogil:
        status = run_apply(&job, n_threads)
    if status == -1:
        raise_stopped(&job.call)
    if status == -2:
        raise MemoryError("apply: no memory for the buffers of pieces")
