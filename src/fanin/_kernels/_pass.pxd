"""What a network's pass is made of, for the modules that run it (see _plan.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ._activations cimport Activation
from ._losses cimport LossFunction, LossSum
from ._optimizers cimport Update
from ._parallel cimport Call
from ._rows cimport Rows
from ._signals cimport Watch


cdef enum Kind:
    DENSE
    ACTIVATION
    DROPOUT
    BATCH_NORM
    LAYER_NORM
    RMS_NORM


# One layer, compiled. Offsets are -1 for what it does not have.
cdef struct Operation:
    Kind kind
    int number                  # among the plan's, inference or training
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t weight           # offset in theta of the (n_in, n_out) weight, or gamma
    Py_ssize_t bias             # and of the bias, or beta
    Py_ssize_t sums             # offset of the double sums of their gradients
    Py_ssize_t state            # offset in the state of running means, then variances
    Activation activation
    bint keeps_input            # the derivative of the activation takes z
    double l2                   # penalty: l2 / 2 times the sum of squared weights
    double eps
    double momentum
    double rate                 # of dropout


# Memory that a running pass needs, kept by the plan between calls.
cdef struct Workspace:
    Workspace *next
    char *base
    size_t size


cdef struct Pass:
    Call call
    # the plan
    const Operation *operations
    int n_operations
    const LossFunction *loss
    Py_ssize_t n_parameters
    Py_ssize_t n_sums
    Py_ssize_t chunk_rows
    bint penalized              # some l2 is not 0
    # the call: what to read and where to write; NULL for what is not wanted
    char *theta
    char *gradient
    double *state               # running statistics
    bint training
    bint keep_state             # training without changing the running statistics
    uint32_t key[2]             # of dropout's masks, and the number of the draw
    uint64_t draw
    Rows X
    Rows Y
    const Py_ssize_t *index     # rows of X, Y and weights to take, or NULL for all
    const double *weights       # of samples, or NULL
    double total_weight
    Py_ssize_t n_rows
    bint with_loss
    bint labels                 # Y holds integer labels
    bint link                   # turn outputs into predictions
    bint backward
    bint resume                 # the forward pass has been done, and its memory kept
    char *out
    Py_ssize_t ld_out
    int64_t *picked             # the label of each row's largest output
    char *dA                    # the gradient with respect to the output, if given
    Py_ssize_t ld_dA
    Py_ssize_t n_dA             # its rows, which are repeated
    char *dX
    Py_ssize_t ld_dX
    Update *update
    Watch *watch                # statistics of signals to be taken, or NULL
    # how X is addressed: directly by BLAS (maybe as a transpose), or packed
    bint direct
    bint transposed
    Py_ssize_t ld_x
    # the chunk of rows in work
    Py_ssize_t first
    Py_ssize_t rows
    Py_ssize_t stretch          # of rows that one task takes through all layers
    bint accumulate
    char **A                    # A[i] is the input of operation i, A[i + 1] its output
    Py_ssize_t *ld
    char **Z                    # before the activation, where its derivative takes that
    char **extra                # what else an operation keeps (see _layers.pyx)
    char *D                     # dL/dz of the operation in work, and of the one below
    char *D_below
    char *targets
    double *block_weights
    double *sums                # gradients of biases, gammas and betas
    double *parts               # of a normalization, block by block
    LossSum *partial
    double *squares             # of parameters or gradients, stretch by stretch
    Py_ssize_t *bad
    int at                      # the operation in work
    int n_below                 # tiles of D_below, before those of the weight
    int n_weight
    int phase
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


cdef enum:
    BLOCK_ROWS = 256            # rows of a task that takes whole rows
