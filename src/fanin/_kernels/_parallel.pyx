"""The process's thread pool, as the other kernels see it.

Design: parallel.c holds the pool and knows no Python. This module is its only
instance (it is linked in here and nowhere else) and adds the one thing that
needs the interpreter: asking it, every 50 ms, whether a signal has come.
"""

cdef extern from "parallel.h" nogil:
    ctypedef int (*fanin_poll)() noexcept nogil
    void fanin_call_begin(Call *call, int n_threads, fanin_poll poll)
    int fanin_parallel_for(
        Call *call, Task task, void *context, Py_ssize_t n_tasks)
    int fanin_pool_size()

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept


cdef int poll_signals() noexcept nogil:
    # Declared noexcept on purpose: the exception stays set in this thread's
    # state, through the rest of the nogil section, for raise_pending().
    with gil:
        return PyErr_CheckSignals()


cdef void call_begin(Call *call, int n_threads) noexcept nogil:
    fanin_call_begin(call, n_threads, poll_signals)


cdef int parallel_for(
    Call *call, Task task, void *context, Py_ssize_t n_tasks
) noexcept nogil:
    return fanin_parallel_for(call, task, context, n_tasks)


cdef int raise_pending() except -1:
    return -1


def pool_size():
    """Return the number of worker threads started so far."""
    return fanin_pool_size()
