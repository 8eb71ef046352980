"""The plan of a network, for the gradient check (see _plan.pyx)."""
from ._losses cimport LossFunction
from ._pass cimport Operation, Pass, Workspace


cdef class Plan:
    cdef Operation *operations      # as in training
    cdef int n_operations
    cdef Operation *inference       # without dropout
    cdef int n_inference
    cdef Py_ssize_t *decayed        # starts and stops of the weights in theta
    cdef Py_ssize_t n_decayed
    cdef LossFunction loss
    cdef object quantiles           # keeps loss.quantiles alive
    cdef tuple declared             # and the user's functions
    cdef Workspace *idle
    cdef Py_ssize_t n_sums
    cdef Py_ssize_t widest_norm
    cdef bint mixes_rows            # in training: batch normalization
    cdef bint penalized
    cdef readonly list blocks
    cdef readonly list state_blocks
    cdef readonly Py_ssize_t n_inputs
    cdef readonly Py_ssize_t n_outputs
    cdef readonly Py_ssize_t n_parameters
    cdef readonly Py_ssize_t n_state
    cdef readonly Py_ssize_t chunk_rows
    cdef readonly int itemsize

    cdef int begin(self, Pass *p, object theta, object X, int n_threads) except -1
    cdef int set_mode(
        self, Pass *p, object state, bint training, object key, object draw) except -1
    cdef int check_vector(self, object v, str name) except -1
    cdef int check_rows(
        self, object A, Py_ssize_t rows, Py_ssize_t cols, str name) except -1
    cdef int set_index(self, Pass *p, object index) except -1
    cdef int set_out(self, Pass *p, object out) except -1
    cdef int set_dX(self, Pass *p, object dX) except -1
    cdef int set_gradient(self, Pass *p, object gradient) except -1
    cdef int set_targets(self, Pass *p, object y, object weights) except -1
    cdef size_t layout(self, Pass *p, char *base) noexcept nogil
    cdef void choose_addressing(self, Pass *p, object X) noexcept
    cdef Workspace *take(self, Pass *p) except NULL
    cdef int choose_chunk(self, Pass *p) except -1
    cdef int execute(self, Pass *p, object X) except? -2
    cdef void give_back(self, Workspace *workspace) noexcept


cdef class Tape:
    cdef Pass p
    cdef Plan plan
    cdef Workspace *workspace
    cdef tuple arrays
    cdef bint running

    cdef int copy_output(self, int at, object out) except -1

cdef int run(Pass *p, int itemsize) noexcept nogil
