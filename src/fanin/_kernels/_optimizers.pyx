"""One optimizer step on the flat parameter vector.

Design
a) simd/optimizers.c has the formulas and the loops. A stretch of UPDATE_ENTRIES of
   theta, gradient and state is one task, so that threads share a step; what a task
   does depends on its index only.
b) Clipping of the norm (Pascanu, Mikolov & Bengio, ICML 2013, in the form PyTorch's
   clip_grad_norm_ uses): factor = min(1, max_norm / (norm + 1e-6)), where norm is that
   of the whole gradient. The squares are summed by the same tasks in double and
   the tasks' sums added in their order. A float64 gradient may be finite and its sum
   of squares not: the sum is then taken once more of 2^-600 g.
c) Decoupled decay concerns stretches of theta, the weight matrices. As starts and
   stops they cost nothing; a mask would be one more array to read. A task that
   crosses a border calls the kernel once for each side.

Cost: that of the kernel (see optimizers.c), and one read of the gradient for the norm.
"""
from cython cimport floating
from libc.math cimport isfinite, sqrt
from libc.stdlib cimport free, malloc

cimport numpy as cnp

from ._parallel cimport Call, call_begin, parallel_for, raise_pending
from ._simd cimport simd_level

cnp.import_array()

cdef extern from "optimizers.h":
    ctypedef void (*Kernel_f32)(
        float *theta, const float *gradient, float *first, float *second,
        float *third, Py_ssize_t n, double keep, const Update *u) noexcept nogil
    ctypedef void (*Kernel_f64)(
        double *theta, const double *gradient, double *first, double *second,
        double *third, Py_ssize_t n, double keep, const Update *u) noexcept nogil
    struct fanin_optimizers:
        Kernel_f32 sgd_f32
        Kernel_f64 sgd_f64
        Kernel_f32 nesterov_f32
        Kernel_f64 nesterov_f64
        Kernel_f32 rmsprop_f32
        Kernel_f64 rmsprop_f64
        Kernel_f32 adam_f32
        Kernel_f64 adam_f64
        double (*square_f32)(
            const float *gradient, Py_ssize_t n, double scale) noexcept nogil
        double (*square_f64)(
            const double *gradient, Py_ssize_t n, double scale) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_optimizers(level) FANIN_SELECT(optimizers, level)
    """
    const fanin_optimizers *fanin_select_optimizers(int level)

cdef const fanin_optimizers *kernels = fanin_select_optimizers(simd_level())

cdef enum:
    SGD = 0
    NESTEROV = 1
    RMSPROP = 2
    ADAM = 3

KINDS = {"sgd": SGD, "nesterov": NESTEROV, "rmsprop": RMSPROP, "adam": ADAM}

# PyTorch's, which keeps the quotient finite for a gradient of zero.
cdef double NORM_EPSILON = 1e-6
# Its square times the largest double's is finite, and times 2^63 of them.
cdef double SMALL = 2.0 ** -600


# --- what a step is -------------------------------------------------------------


cdef void *state_data(object array, Py_ssize_t n, int itemsize) except? NULL:
    """The address of an array of state; NULL for None."""
    if array is None:
        return NULL
    if (not cnp.PyArray_Check(array) or cnp.PyArray_NDIM(array) != 1
            or cnp.PyArray_DIM(array, 0) != n
            or not cnp.PyArray_ISFLOAT(array)
            or cnp.PyArray_ITEMSIZE(array) != itemsize
            or not cnp.PyArray_ISCARRAY(array)):
        raise ValueError("the optimizer's state does not fit the parameters")
    return cnp.PyArray_DATA(array)


cdef int update_init(
    Update *u, object numbers, Py_ssize_t n_parameters, int itemsize
) except -1:
    (kind, u.rate, u.beta_1, u.beta_2, u.correction_2, u.epsilon, u.keep, max_norm,
     max_value, first, second, third) = numbers
    u.kind = KINDS[kind]
    u.max_norm = 0.0 if max_norm is None else max_norm
    u.max_value = float("inf") if max_value is None else max_value
    u.factor = 1.0
    u.first = state_data(first, n_parameters, itemsize)
    u.second = state_data(second, n_parameters, itemsize)
    u.third = state_data(third, n_parameters, itemsize)
    u.decayed = NULL
    u.n_decayed = -1
    if n_parameters > 0 and (
            u.kind >= RMSPROP and u.second == NULL
            or u.kind in (NESTEROV, ADAM) and u.first == NULL):
        raise ValueError(f"the optimizer's state lacks an array that {kind} needs")
    return 0


# --- the stretches of a step ------------------------------------------------------


cdef void apply(
    floating *theta, const floating *gradient, Py_ssize_t start, Py_ssize_t stop,
    double keep, const Update *u
) noexcept nogil:
    cdef Py_ssize_t n = stop - start
    cdef floating *first = NULL
    cdef floating *second = NULL
    cdef floating *third = NULL
    if u.first != NULL:
        first = <floating *>u.first + start
    if u.second != NULL:
        second = <floating *>u.second + start
    if u.third != NULL:
        third = <floating *>u.third + start
    theta += start
    gradient += start
    if floating is float:
        if u.kind == SGD:
            kernels.sgd_f32(theta, gradient, first, second, third, n, keep, u)
        elif u.kind == NESTEROV:
            kernels.nesterov_f32(theta, gradient, first, second, third, n, keep, u)
        elif u.kind == RMSPROP:
            kernels.rmsprop_f32(theta, gradient, first, second, third, n, keep, u)
        else:
            kernels.adam_f32(theta, gradient, first, second, third, n, keep, u)
    else:
        if u.kind == SGD:
            kernels.sgd_f64(theta, gradient, first, second, third, n, keep, u)
        elif u.kind == NESTEROV:
            kernels.nesterov_f64(theta, gradient, first, second, third, n, keep, u)
        elif u.kind == RMSPROP:
            kernels.rmsprop_f64(theta, gradient, first, second, third, n, keep, u)
        else:
            kernels.adam_f64(theta, gradient, first, second, third, n, keep, u)


cdef void optimizer_update(
    floating *theta, const floating *gradient, Py_ssize_t start, Py_ssize_t stop,
    const Update *u
) noexcept nogil:
    cdef Py_ssize_t low = 0, high = u.n_decayed, middle, end
    if u.keep == 1.0 or u.n_decayed < 0:
        apply(theta, gradient, start, stop, u.keep, u)
        return
    while low < high:   # to the first decayed stretch that ends after start
        middle = (low + high) // 2
        if u.decayed[2 * middle + 1] <= start:
            low = middle + 1
        else:
            high = middle
    while start < stop:
        if low == u.n_decayed or u.decayed[2 * low] >= stop:
            apply(theta, gradient, start, stop, 1.0, u)
            return
        if u.decayed[2 * low] > start:
            apply(theta, gradient, start, u.decayed[2 * low], 1.0, u)
            start = u.decayed[2 * low]
        end = min(stop, u.decayed[2 * low + 1])
        apply(theta, gradient, start, end, u.keep, u)
        start = end
        low += 1


cdef double square(
    const floating *gradient, Py_ssize_t start, Py_ssize_t stop, double scale
) noexcept nogil:
    if floating is float:
        return kernels.square_f32(gradient + start, stop - start, scale)
    else:
        return kernels.square_f64(gradient + start, stop - start, scale)


cdef double gradient_square(
    const floating *gradient, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    return square(gradient, start, stop, 1.0)


# --- the walk over all of them ------------------------------------------------------


cdef struct Walk:
    char *theta
    const char *gradient
    Py_ssize_t n
    const Update *u
    double scale
    double *scratch


ctypedef void (*TaskFunction)(void *, Py_ssize_t, int) noexcept nogil


cdef void square_f32_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Walk *w = <Walk *>context
    w.scratch[i] = square(
        <const float *>w.gradient, i * UPDATE_ENTRIES,
        min(w.n, (i + 1) * UPDATE_ENTRIES), w.scale)

cdef void square_f64_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Walk *w = <Walk *>context
    w.scratch[i] = square(
        <const double *>w.gradient, i * UPDATE_ENTRIES,
        min(w.n, (i + 1) * UPDATE_ENTRIES), w.scale)

cdef void update_f32_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Walk *w = <Walk *>context
    optimizer_update(
        <float *>w.theta, <const float *>w.gradient, i * UPDATE_ENTRIES,
        min(w.n, (i + 1) * UPDATE_ENTRIES), w.u)

cdef void update_f64_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Walk *w = <Walk *>context
    optimizer_update(
        <double *>w.theta, <const double *>w.gradient, i * UPDATE_ENTRIES,
        min(w.n, (i + 1) * UPDATE_ENTRIES), w.u)


cdef Py_ssize_t update_tasks(Py_ssize_t n) noexcept nogil:
    return (n + UPDATE_ENTRIES - 1) // UPDATE_ENTRIES


cdef int gradient_norm(
    Call *call, const floating *gradient, Py_ssize_t n, double *scratch,
    double *norm, double *scale
) noexcept nogil:
    """norm = ||scale * gradient||, with a scale at which it is finite.

    It is not finite at any scale if an entry is not. Returns an UpdateOutcome.
    """
    cdef TaskFunction task = (
        square_f32_task if floating is float else square_f64_task)
    cdef Py_ssize_t i, n_tasks = update_tasks(n)
    cdef double sum
    cdef Walk w
    w.gradient = <const char *>gradient
    w.n = n
    w.scratch = scratch
    w.scale = 1.0
    while True:
        if parallel_for(call, task, &w, n_tasks):
            return UPDATE_INTERRUPTED
        sum = 0.0
        for i in range(n_tasks):
            sum += scratch[i]
        if isfinite(sum) or w.scale != 1.0 or floating is float:
            break
        w.scale = SMALL
    norm[0] = sqrt(sum)
    scale[0] = w.scale
    return UPDATED if isfinite(sum) else UPDATE_NOT_FINITE


cdef int update_clip(
    Call *call, const floating *gradient, Py_ssize_t n, Update *u, double *scratch
) noexcept nogil:
    cdef double norm = 0.0, scale = 1.0
    cdef int outcome = gradient_norm(call, gradient, n, scratch, &norm, &scale)
    if outcome == UPDATED and u.max_norm > 0.0:
        u.factor = min(1.0, u.max_norm * scale / (norm + NORM_EPSILON * scale))
    return outcome


cdef int update_walk(
    Call *call, floating *theta, const floating *gradient, Py_ssize_t n, Update *u,
    double *scratch
) noexcept nogil:
    cdef TaskFunction task = (
        update_f32_task if floating is float else update_f64_task)
    cdef int outcome
    cdef Walk w
    if u.max_norm > 0.0:
        outcome = update_clip(call, gradient, n, u, scratch)
        if outcome != UPDATED:
            return outcome
    w.theta = <char *>theta
    w.gradient = <const char *>gradient
    w.n = n
    w.u = u
    # From here on the step is taken whole: a stop between two stretches of theta
    # would leave parameters that no step ever produced.
    call.poll = NULL
    parallel_for(call, task, &w, update_tasks(n))
    return UPDATED


# --- the Python face ----------------------------------------------------------------


def norm(const floating[::1] gradient, int n_threads=1):
    """Return the Euclidean norm; infinite or NaN if an entry is.

    A norm beyond the largest double is infinite, too.
    """
    cdef Py_ssize_t n = gradient.shape[0]
    cdef double found = 0.0, scale = 1.0
    cdef double *scratch
    cdef int outcome
    cdef Call call
    if n == 0:
        return 0.0
    scratch = <double *>malloc(<size_t>update_tasks(n) * sizeof(double))
    if scratch == NULL:
        raise MemoryError
    call_begin(&call, n_threads)
    with nogil:
        outcome = gradient_norm(&call, &gradient[0], n, scratch, &found, &scale)
    free(scratch)
    if outcome == UPDATE_INTERRUPTED:
        raise_pending()
    return found / scale


def update(
    floating[::1] theta, const floating[::1] gradient, tuple numbers,
    const Py_ssize_t[:, ::1] decayed=None, int n_threads=1, optimizer=None
):
    """Take one step in place; return whether it was taken.

    It is not, and nothing changes, when the gradient is not finite. `numbers` is what
    the optimizer prepared: (kind, rate, beta_1, beta_2, correction_2, epsilon, keep,
    max_norm, max_value, first, second, third). `decayed` has a row [start, stop) for
    each stretch of theta that decays, in order; None: all of it does. The step is
    counted in `optimizer.n_steps` here, before Ctrl-C can come in between.
    """
    cdef Py_ssize_t n = theta.shape[0]
    cdef double *scratch
    cdef int outcome = UPDATED
    cdef Update u
    cdef Call call
    if gradient.shape[0] != n:
        raise ValueError("theta and gradient differ in size")
    update_init(&u, numbers, n, sizeof(floating))
    if decayed is not None:
        check_stretches(decayed, n)
        u.n_decayed = decayed.shape[0]
        u.decayed = &decayed[0, 0] if u.n_decayed > 0 else NULL
    if n > 0:
        scratch = <double *>malloc(<size_t>update_tasks(n) * sizeof(double))
        if scratch == NULL:
            raise MemoryError
        call_begin(&call, n_threads)
        with nogil:
            outcome = update_clip(&call, &gradient[0], n, &u, scratch)
            if outcome == UPDATED:
                u.max_norm = 0.0    # it is in u.factor
                update_walk(&call, &theta[0], &gradient[0], n, &u, scratch)
        free(scratch)
        if outcome == UPDATE_INTERRUPTED:
            raise_pending()
    if outcome == UPDATED and optimizer is not None:
        optimizer.n_steps += 1
    return outcome == UPDATED


cdef int check_stretches(const Py_ssize_t[:, ::1] decayed, Py_ssize_t n) except -1:
    cdef Py_ssize_t i, at = 0
    if decayed.shape[1] != 2:
        raise ValueError("decayed must have two columns")
    for i in range(decayed.shape[0]):
        if not at <= decayed[i, 0] <= decayed[i, 1] <= n:
            raise ValueError("decayed must be stretches of theta, in order")
        at = decayed[i, 1]
    return 0
