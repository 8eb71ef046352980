"""Central differences of a network's loss, every parameter, on all cores.

Design
a) For each entry i of theta, with a step h_i from the caller,
     f_plus[i] = L(theta + h_i e_i), f_minus[i] = L(theta - h_i e_i),
   and span[i] = theta_i^+ - theta_i^-, the difference of the two numbers really
   used, so that dividing by it owes nothing to the rounding of theta + h. The
   losses come as two doubles each, and difference[i] = f_plus - f_minus is taken of
   both: of a mean rounded to one double the last bit alone would be an error of
   1e-16 / 1e-7 in every entry, some five times all the rest.
b) "direct": every evaluation is a whole forward pass over all samples, by the same
   code as `Network.loss` (never the backward code). 2 P passes for P parameters.
c) Parallel over parameters. Each thread perturbs its own copy of theta in its own
   workspace and runs its passes on one thread, so an entry's bits depend neither on
   the number of threads nor on which thread did it, and the caller's theta is never
   touched.

Cost: 4 m P^2 flops for P parameters and m samples; P + workspace memory a thread.
"""
from libc.math cimport INFINITY, nextafter
from cpython.ref cimport Py_DECREF
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cimport numpy as cnp

from ._pass cimport INTERRUPTED, Pass, Workspace
from ._plan cimport Plan, run
from ._parallel cimport Call, call_begin, call_fail, parallel_for, raise_stopped

cnp.import_array()

cdef struct Worker:
    Pass p
    Workspace *workspace
    double *theta

cdef struct Job:
    Worker *workers
    const double *theta
    const Py_ssize_t *entries   # which ones; NULL: all
    Py_ssize_t n_entries
    Py_ssize_t n_block
    const double *step
    double *f_plus
    double *f_minus
    double *difference
    double *span
    int n_workers
    bint stopped


cdef void stop(Job *job) noexcept nogil:
    """Let every worker's pass end at its next step."""
    cdef int w
    job.stopped = True
    for w in range(job.n_workers):
        job.workers[w].p.call.stopped = True


cdef void perturb_block(void *context, Py_ssize_t block, int w) noexcept nogil:
    cdef Job *job = <Job *>context
    cdef Worker *worker = &job.workers[w]
    cdef double *theta = worker.theta
    cdef Py_ssize_t e, i
    cdef Py_ssize_t end = min((block + 1) * job.n_block, job.n_entries)
    cdef double kept, plus, minus, low
    for e in range(block * job.n_block, end):
        if job.stopped:
            return
        i = e if job.entries == NULL else job.entries[e]
        kept = theta[i]
        plus = kept + job.step[i]
        minus = kept - job.step[i]
        if plus == kept:    # a step below the spacing of theta: take the spacing
            plus = nextafter(kept, INFINITY)
        if minus == kept:
            minus = nextafter(kept, -INFINITY)
        theta[i] = plus
        if run(&worker.p, sizeof(double)) == INTERRUPTED:
            stop(job)
            return
        job.f_plus[i] = worker.p.total
        low = worker.p.total_low
        theta[i] = minus
        if run(&worker.p, sizeof(double)) == INTERRUPTED:
            stop(job)
            return
        job.f_minus[i] = worker.p.total
        job.difference[i] = (
            (job.f_plus[i] - job.f_minus[i]) + (low - worker.p.total_low))
        theta[i] = kept
        job.span[i] = plus - minus


def central_differences(
    Plan plan, const double[::1] theta, X, y, const double[::1] step,
    double[::1] f_plus, double[::1] f_minus, double[::1] difference,
    double[::1] span, int n_threads=1, state=None, bint training=False, key=None,
    draw=0, weights=None, const Py_ssize_t[::1] entries=None
):
    """Fill `f_plus` to `span` for every entry of theta, or some; the plan is float64.

    The loss is that of `Plan.evaluate` with the same arguments.
    """
    cdef Job job
    cdef Call call
    cdef Worker *worker
    cdef int w, rc = 0
    cdef Py_ssize_t n = plan.n_parameters
    cdef Py_ssize_t n_entries = n if entries is None else entries.shape[0]
    cdef double work = 2.0 * <double>n * <double>X.shape[0]
    if plan.itemsize != sizeof(double):
        raise TypeError("central_differences needs a float64 plan")
    job.theta = &theta[0]
    job.n_entries = n_entries
    job.entries = NULL
    if n_entries == 0:
        return
    if entries is not None:
        job.entries = &entries[0]
    job.step = &step[0]
    job.f_plus = &f_plus[0]
    job.f_minus = &f_minus[0]
    job.difference = &difference[0]
    job.span = &span[0]
    # Blocks of about a millisecond; what they hold does not depend on their size.
    job.n_block = max(1, <Py_ssize_t>(1e6 / work))
    n_threads = <int>min(
        <Py_ssize_t>n_threads, (n_entries + job.n_block - 1) // job.n_block)
    job.n_workers = n_threads
    job.stopped = False
    job.workers = <Worker *>calloc(n_threads, sizeof(Worker))
    if job.workers == NULL:
        raise MemoryError
    try:
        for w in range(n_threads):
            worker = &job.workers[w]
            worker.theta = <double *>calloc(n, sizeof(double))
            if worker.theta == NULL:
                raise MemoryError
            memcpy(worker.theta, &theta[0], n * sizeof(double))
            plan.begin(&worker.p, theta.base, X, 1)
            if w > 0:   # the calling thread polls, in its passes and between blocks
                worker.p.call.poll = NULL
            worker.p.theta = <char *>worker.theta
            plan.set_mode(&worker.p, state, training, key, draw)
            plan.set_targets(&worker.p, y, weights)
            plan.choose_chunk(&worker.p)
            plan.choose_addressing(&worker.p, X)
            worker.workspace = plan.take(&worker.p)
        call_begin(&call, n_threads)
        with nogil:
            rc = parallel_for(
                &call, perturb_block, &job,
                (n_entries + job.n_block - 1) // job.n_block)
    finally:
        for w in range(n_threads):
            worker = &job.workers[w]
            if worker.p.call.error != NULL:
                call_fail(&call, <object>worker.p.call.error)
                Py_DECREF(<object>worker.p.call.error)
            free(worker.theta)
            if worker.workspace != NULL:
                plan.give_back(worker.workspace)
        free(job.workers)
    if rc or job.stopped:
        raise_stopped(&call)
