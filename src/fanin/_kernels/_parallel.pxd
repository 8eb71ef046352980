"""The thread pool for other kernels: see parallel.c for its design."""

cdef extern from "parallel.h" nogil:
    ctypedef void (*Task "fanin_task")(
        void *context, Py_ssize_t index, int worker) noexcept nogil
    ctypedef struct Call "fanin_call":
        int n_threads
        int stopped
        int (*poll)() noexcept nogil    # NULL: the call is not to be interrupted

# Start a library call on at most `n_threads` threads. It can be interrupted by
# Ctrl-C if it comes from the main thread.
cdef void call_begin(Call *call, int n_threads) noexcept nogil

# Run task(context, i, worker) for i in range(n_tasks), in parallel. Returns 0,
# or -1 with a Python exception set (Ctrl-C): the kernel then unwinds and its
# Python-facing function says `raise_pending()`.
cdef int parallel_for(
    Call *call, Task task, void *context, Py_ssize_t n_tasks) noexcept nogil

cdef int raise_pending() except -1
