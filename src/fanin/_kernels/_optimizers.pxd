"""Parameter updates for other kernels; the formulas are in simd/optimizers.c.

A plan's step: `update_init` from what the optimizer prepared; `decayed` and
`n_decayed` set to the plan's own; then, without the GIL, `update_walk`.
"""
from cython cimport floating

from ._parallel cimport Call

cdef extern from "optimizers.h":
    # What one step does; the fields are described in optimizers.h.
    struct Update "fanin_update":
        int kind
        double rate
        double beta_1
        double beta_2
        double correction_2
        double epsilon
        double keep
        double max_norm
        double max_value
        double factor
        void *first
        void *second
        void *third
        const Py_ssize_t *decayed
        Py_ssize_t n_decayed

cdef enum:
    UPDATE_ENTRIES = 1 << 15    # parameters of a task

cdef enum UpdateOutcome:
    UPDATED = 0
    UPDATE_INTERRUPTED = -1
    UPDATE_NOT_FINITE = 2

# Read and check what an optimizer's _prepare returned. The arrays in `numbers` must
# outlive the update.
cdef int update_init(
    Update *u, object numbers, Py_ssize_t n_parameters, int itemsize) except -1

# How many doubles the walk over n parameters wants as scratch.
cdef Py_ssize_t update_tasks(Py_ssize_t n) noexcept nogil

# Clip, then update all n parameters; returns an UpdateOutcome. Whatever the number of
# threads, the result has the same bits. Nothing has changed unless it is UPDATED.
cdef int update_walk(
    Call *call, floating *theta, const floating *gradient, Py_ssize_t n, Update *u,
    double *scratch) noexcept nogil

# The parts of the walk: set u.factor from the gradient's norm; update a stretch.
cdef int update_clip(
    Call *call, const floating *gradient, Py_ssize_t n, Update *u, double *scratch
) noexcept nogil
cdef void optimizer_update(
    floating *theta, const floating *gradient, Py_ssize_t start, Py_ssize_t stop,
    const Update *u) noexcept nogil
cdef double gradient_square(
    const floating *gradient, Py_ssize_t start, Py_ssize_t stop) noexcept nogil
