"""The plan of a dense network, for the gradient check (see _dense.pyx)."""
from ._losses cimport LossSum
from ._optimizers cimport Update
from ._parallel cimport Call
from ._rows cimport Rows


cdef struct Layer:
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t weight       # offset of the (n_in, n_out) weight in theta
    Py_ssize_t bias         # offset of the bias, -1 without one
    Py_ssize_t bias_sums    # offset into the double sums of bias gradients
    int activation


# Memory that a running pass needs, kept by the plan between calls.
cdef struct Workspace:
    Workspace *next
    char *base
    size_t size


cdef struct Pass:
    Call call
    # the plan
    const Layer *layers
    int n_layers
    int loss
    Py_ssize_t n_parameters
    Py_ssize_t n_bias
    Py_ssize_t chunk_rows
    # the call: what to read and where to write; NULL for what is not wanted
    char *theta
    char *gradient
    Rows X
    Rows Y
    const Py_ssize_t *index     # rows of X and Y to take, or NULL for all
    Py_ssize_t n_rows
    bint with_loss
    bint labels                 # Y holds integer labels
    bint link                   # turn outputs into predictions
    char *out
    Py_ssize_t ld_out
    Update *update
    # how X is addressed: directly by BLAS (maybe as a transpose), or packed
    bint direct
    bint transposed
    Py_ssize_t ld_x
    # the chunk of rows in work
    Py_ssize_t first
    Py_ssize_t rows
    bint accumulate
    char **A                    # A[l] is the input of layer l, A[l + 1] its output
    Py_ssize_t *ld
    char *D                     # dZ of the layer in work, and of the one below
    char *D_below
    char *targets
    double *bias_sums
    double *norm_sums
    LossSum *partial
    Py_ssize_t *bad
    int layer
    int n_below                 # tiles of D_below, before those of the weight
    int n_weight
    # results
    double total                # the mean loss, and what its rounding left over
    double total_low
    LossSum sum
    Py_ssize_t bad_row
    bint not_finite             # of the gradient of a step


cdef enum Outcome:
    DONE = 0
    INTERRUPTED = -1
    BAD_TARGET = 1
    NOT_FINITE = 2


cdef class Plan:
    cdef Layer *layers
    cdef Py_ssize_t *decayed    # starts and stops of the weights in theta
    cdef int n_layers
    cdef int loss
    cdef Workspace *idle
    cdef Py_ssize_t n_bias
    cdef readonly Py_ssize_t n_inputs
    cdef readonly Py_ssize_t n_outputs
    cdef readonly Py_ssize_t n_parameters
    cdef readonly Py_ssize_t chunk_rows
    cdef readonly int itemsize

    cdef int begin(self, Pass *p, object theta, object X, int n_threads) except -1
    cdef int check_vector(self, object v, str name) except -1
    cdef int set_targets(self, Pass *p, object y) except -1
    cdef size_t layout(self, Pass *p, char *base) noexcept nogil
    cdef void choose_addressing(self, Pass *p, object X) noexcept
    cdef Workspace *take(self, Pass *p) except NULL
    cdef int execute(self, Pass *p, object X) except? -2
    cdef void give_back(self, Workspace *workspace) noexcept

cdef int run(Pass *p, int itemsize) noexcept nogil
