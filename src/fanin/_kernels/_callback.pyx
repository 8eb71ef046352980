# cython: boundscheck=False, wraparound=False
"""Central differences of a function in C, on all cores.

Design
a) f is `double (const double *theta, intptr_t n[, void *data])`. For each entry i of a
   list, f_plus = f(theta with theta_i = plus), f_minus = f(theta with theta_i = minus);
   the caller has chosen points that are representable, and divides by their distance.
b) Parallel over entries without the GIL, in tasks of a few, so that cheap functions do
   not pay for the pool at every call and slow ones are shared evenly. Each thread has
   its own copy of theta, in which one entry is changed and put back: an entry's bits
   depend neither on the number of threads nor on which thread did it.
c) Between evaluations the calling thread looks whether it is time to ask Python for
   signals (every 50 ms, _parallel.pyx); the others look at the flag that it sets.
d) A function that writes to its `const` argument would spoil what follows. The copies
   are compared with theta at the end, and the call fails.

Cost: 2 evaluations an entry, some 10 ns beside them; a copy of theta a thread.
"""
from libc.stdint cimport intptr_t, int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from ._parallel cimport (
    Call, call_begin, call_should_stop, parallel_for, raise_pending)

cdef enum:
    ENTRIES = 16    # of a task, where there are enough

ctypedef double (*Function)(const double *, intptr_t) noexcept nogil
ctypedef double (*FunctionData)(const double *, intptr_t, void *) noexcept nogil

cdef struct Target:
    void *address
    bint takes_data
    void *data

cdef struct Job:
    const Target *f
    Call *call
    double *copies          # one of theta for each thread
    Py_ssize_t n
    Py_ssize_t n_entries
    Py_ssize_t n_task
    const int64_t *entries
    const double *plus
    const double *minus
    double *f_plus
    double *f_minus


cdef inline double evaluate(
    const Target *f, const double *theta, Py_ssize_t n
) noexcept nogil:
    if f.takes_data:
        return (<FunctionData>f.address)(theta, n, f.data)
    return (<Function>f.address)(theta, n)


cdef void task(void *context, Py_ssize_t index, int worker) noexcept nogil:
    cdef Job *job = <Job *>context
    cdef double *theta = job.copies + worker * job.n
    cdef Py_ssize_t k, i
    cdef double kept
    for k in range(index * job.n_task,
                   min((index + 1) * job.n_task, job.n_entries)):
        i = job.entries[k]
        kept = theta[i]
        theta[i] = job.plus[k]
        job.f_plus[k] = evaluate(job.f, theta, job.n)
        if not call_should_stop(job.call):
            theta[i] = job.minus[k]
            job.f_minus[k] = evaluate(job.f, theta, job.n)
        theta[i] = kept
        if call_should_stop(job.call):
            return


cdef class Callback:
    """A function in C at an address; `data`: its last argument, None if it has none."""

    cdef Target target

    def __init__(self, address, data):
        self.target.address = <void *><uintptr_t>address
        self.target.takes_data = data is not None
        self.target.data = <void *><uintptr_t>(data or 0)

    def evaluate(self, const double[::1] theta):
        """Return f(theta)."""
        cdef double value
        with nogil:
            value = evaluate(&self.target, &theta[0], theta.shape[0])
        return value

    def differences(
        self, double[::1] f_plus, double[::1] f_minus, const double[::1] theta,
        const int64_t[::1] entries, const double[::1] plus, const double[::1] minus,
        int n_threads=1
    ):
        """Fill `f_plus` and `f_minus`, the values with one entry changed at a time."""
        cdef Job job
        cdef Call call
        cdef Py_ssize_t n = theta.shape[0], m = entries.shape[0], k, n_tasks
        cdef int status = 0, w
        cdef bint changed = False
        if not (f_plus.shape[0] == f_minus.shape[0] == plus.shape[0]
                == minus.shape[0] == m):
            raise ValueError("one value an entry")
        for k in range(m):
            if not 0 <= entries[k] < n:
                raise IndexError(f"entry {entries[k]} of {n}")
        if m == 0:
            return
        job.n_task = max(1, min(<Py_ssize_t>ENTRIES, m // (8 * n_threads)))
        n_tasks = (m + job.n_task - 1) // job.n_task
        n_threads = <int>min(<Py_ssize_t>n_threads, n_tasks)
        job.copies = <double *>malloc(<size_t>(n_threads * n) * sizeof(double))
        if job.copies == NULL:
            raise MemoryError("a copy of theta for each thread")
        job.f = &self.target
        job.call = &call
        job.n = n
        job.n_entries = m
        job.entries = &entries[0]
        job.plus = &plus[0]
        job.minus = &minus[0]
        job.f_plus = &f_plus[0]
        job.f_minus = &f_minus[0]
        with nogil:
            for w in range(n_threads):
                memcpy(job.copies + w * n, &theta[0], <size_t>n * sizeof(double))
            call_begin(&call, n_threads)
            status = parallel_for(&call, task, &job, n_tasks)
            for w in range(n_threads):
                changed = changed or memcmp(
                    job.copies + w * n, &theta[0], <size_t>n * sizeof(double)) != 0
            free(job.copies)
        if status:
            raise_pending()
        if changed:
            raise ValueError(
                "fun modified theta, which is const; it must leave its argument as it "
                "is (the parameters have been restored)")
