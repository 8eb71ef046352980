"""The process's thread pool, as the other kernels see it.

Design: parallel.c holds the pool and knows no Python. This module is its only
instance (it is linked in here and nowhere else) and adds the two things that
need the interpreter. One is asking it, every 50 ms, whether a signal has come. Only
the main thread asks, because Python handles signals nowhere else, and because
taking the GIL in the middle of a kernel may cost a wait of milliseconds. The other
is carrying an exception, from a user's function that a task called on whatever
thread, to the thread that made the call: it waits in the Call, which has stopped.
"""

import os
import threading

import numpy as np

from cpython.exc cimport PyErr_Occurred
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef extern from "parallel.h" nogil:
    ctypedef int (*fanin_poll)() noexcept nogil
    void fanin_call_begin(Call *call, int n_threads, fanin_poll poll)
    int fanin_parallel_for(
        Call *call, Task task, void *context, Py_ssize_t n_tasks)
    int fanin_should_stop(Call *call)
    int fanin_pool_size()

cdef extern from "parallel_os.h" nogil:
    double fanin_fine_seconds()

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef unsigned long main_thread = threading.main_thread().ident


def _after_fork():
    # The thread that forked is the child's main thread.
    global main_thread
    main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef int poll_signals() noexcept nogil:
    # Declared noexcept on purpose: the exception stays set in this thread's
    # state, through the rest of the nogil section, for raise_pending().
    with gil:
        return PyErr_CheckSignals()


cdef void call_begin(Call *call, int n_threads) noexcept nogil:
    if PyThread_get_thread_ident() == main_thread:
        fanin_call_begin(call, n_threads, poll_signals)
    else:
        fanin_call_begin(call, n_threads, NULL)


cdef int parallel_for(
    Call *call, Task task, void *context, Py_ssize_t n_tasks
) noexcept nogil:
    return fanin_parallel_for(call, task, context, n_tasks)


cdef int raise_pending() except -1:
    if PyErr_Occurred() == NULL:
        raise RuntimeError(
            "a signal handler forked during a fanin call; the child cannot finish it")
    return -1


cdef bint call_should_stop(Call *call) noexcept nogil:
    # (Only a call of the main thread has a poll.)
    if (not call.stopped and call.poll != NULL
            and PyThread_get_thread_ident() == main_thread):
        return fanin_should_stop(call)
    return call.stopped


cdef void call_fail(Call *call, object error) noexcept:
    if call.error == NULL:
        Py_INCREF(error)
        call.error = <void *>error
    call.stopped = 1


cdef int raise_stopped(Call *call) except -1:
    cdef object error
    if call.error != NULL:
        error = <object>call.error
        Py_DECREF(error)
        call.error = NULL
        if PyErr_Occurred() == NULL:    # else Ctrl-C came as well, and goes first
            raise error
    return raise_pending()


def pool_size():
    """Return the number of worker threads started so far."""
    return fanin_pool_size()


# --- For the tests ------------------------------------------------------------

cdef struct Probe:
    Py_ssize_t n_inner
    double seconds
    long long *runs
    int *workers
    double *halves
    double *tiny


cdef void probe_inner(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef long long *row = <long long *>context
    row[i] += 1


cdef void probe_task(void *context, Py_ssize_t i, int worker) noexcept nogil:
    cdef Probe *probe = <Probe *>context
    cdef Call inner
    cdef double end
    if probe.seconds > 0:
        end = fanin_fine_seconds() + probe.seconds
        while fanin_fine_seconds() < end:
            pass
    probe.workers[i] = worker
    # The smallest normal number, halved: zero where subnormals are flushed.
    probe.halves[i] = probe.tiny[0] * 0.5
    if probe.n_inner == 1:
        probe.runs[i] += 1
    else:
        fanin_call_begin(&inner, 2, NULL)
        fanin_parallel_for(
            &inner, probe_inner, probe.runs + i * probe.n_inner, probe.n_inner)


def probe(Py_ssize_t n_tasks, int n_threads, *, Py_ssize_t n_inner=1,
          double seconds=0.0):
    """Run tasks that keep the pool busy, and say what became of them.

    Each of the `n_tasks` tasks spins for `seconds`; with `n_inner` > 1 it also
    runs that many tasks of its own in parallel. Returns three arrays: how often
    each (inner) task ran, (n_tasks, n_inner); the worker that ran the task,
    (n_tasks,); and half the smallest normal number as computed there, (n_tasks,).
    """
    if n_tasks < 1 or n_inner < 1:
        raise ValueError("n_tasks and n_inner must be at least 1")
    runs = np.zeros((n_tasks, n_inner), np.int64)
    workers = np.full(n_tasks, -1, np.intc)
    halves = np.zeros(n_tasks)
    tiny = np.array([np.finfo(np.float64).tiny])
    cdef long long[:, ::1] runs_view = runs
    cdef int[::1] workers_view = workers
    cdef double[::1] halves_view = halves, tiny_view = tiny
    cdef Probe context
    cdef Call call
    cdef int status
    context.n_inner = n_inner
    context.seconds = seconds
    context.runs = &runs_view[0, 0]
    context.workers = &workers_view[0]
    context.halves = &halves_view[0]
    context.tiny = &tiny_view[0]
    with nogil:
        call_begin(&call, n_threads)
        status = parallel_for(&call, probe_task, &context, n_tasks)
    if status != 0:
        raise_pending()
    return runs, workers, halves
