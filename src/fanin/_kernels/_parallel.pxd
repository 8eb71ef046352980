"""The thread pool for other kernels: see parallel.c for its design."""

cdef extern from "parallel.h" nogil:
    ctypedef void (*Task "fanin_task")(
        void *context, Py_ssize_t index, int worker) noexcept nogil
    ctypedef struct Call "fanin_call":
        int n_threads
        int stopped
        int (*poll)() noexcept nogil    # NULL: the call is not to be interrupted
        void *error

# Start a library call on at most `n_threads` threads. It can be interrupted by
# Ctrl-C if it comes from the main thread.
cdef void call_begin(Call *call, int n_threads) noexcept nogil

# Run task(context, i, worker) for i in range(n_tasks), in parallel. Returns 0,
# or -1 with a Python exception set (Ctrl-C): the kernel then unwinds and its
# Python-facing function says `raise_pending()`.
cdef int parallel_for(
    Call *call, Task task, void *context, Py_ssize_t n_tasks) noexcept nogil

# Whether a task that takes long should end early; any thread of the call may ask.
cdef bint call_should_stop(Call *call) noexcept nogil

# Stop the call because of an exception in one of its tasks; the first is kept.
cdef void call_fail(Call *call, object error) noexcept

cdef int raise_pending() except -1

# The same where tasks call functions of the user's: raise what stopped the call.
cdef int raise_stopped(Call *call) except -1
