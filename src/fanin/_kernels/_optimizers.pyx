"""One optimizer step on a stretch of the flat parameter vector.

Design: simd/optimizers.c has the formulas and the loops. A stretch [start, stop)
of theta, gradient and state is one task, so that threads share a step.
"""
from cython cimport floating

from ._simd cimport simd_level

cdef extern from "optimizers.h":
    struct fanin_optimizers:
        void (*sgd_f32)(float *theta, const float *gradient, float *velocity,
                        Py_ssize_t n, double learning_rate, double momentum,
                        int nesterov) noexcept nogil
        void (*sgd_f64)(double *theta, const double *gradient, double *velocity,
                        Py_ssize_t n, double learning_rate, double momentum,
                        int nesterov) noexcept nogil
        void (*adam_f32)(float *theta, const float *gradient, float *first,
                         float *second, Py_ssize_t n, double step, double beta_1,
                         double beta_2, double correction_2,
                         double epsilon) noexcept nogil
        void (*adam_f64)(double *theta, const double *gradient, double *first,
                         double *second, Py_ssize_t n, double step, double beta_1,
                         double beta_2, double correction_2,
                         double epsilon) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_optimizers(level) FANIN_SELECT(optimizers, level)
    """
    const fanin_optimizers *fanin_select_optimizers(int level)

cdef const fanin_optimizers *kernels = fanin_select_optimizers(simd_level())


cdef void optimizer_update(
    floating *theta, const floating *gradient, Py_ssize_t start, Py_ssize_t stop,
    const Update *update
) noexcept nogil:
    cdef Py_ssize_t n = stop - start
    cdef floating *first = NULL
    cdef floating *second = NULL
    if update.first != NULL:
        first = <floating *>update.first + start
    if update.second != NULL:
        second = <floating *>update.second + start
    if floating is float:
        if update.kind == SGD:
            kernels.sgd_f32(theta + start, gradient + start, first, n, update.rate,
                            update.beta_1, update.nesterov)
        else:
            kernels.adam_f32(theta + start, gradient + start, first, second, n,
                             update.rate, update.beta_1, update.beta_2,
                             update.correction_2, update.epsilon)
    else:
        if update.kind == SGD:
            kernels.sgd_f64(theta + start, gradient + start, first, n, update.rate,
                            update.beta_1, update.nesterov)
        else:
            kernels.adam_f64(theta + start, gradient + start, first, second, n,
                             update.rate, update.beta_1, update.beta_2,
                             update.correction_2, update.epsilon)


def sgd_update(
    floating[::1] theta, const floating[::1] gradient, floating[::1] velocity,
    double learning_rate, double momentum=0.0, bint nesterov=False, optimizer=None
):
    """Update theta and velocity (None without momentum) in place.

    The step is counted in `optimizer.n_steps` here, before Ctrl-C can come in between.
    """
    cdef Update update
    update.kind = SGD
    update.rate = learning_rate
    update.beta_1 = momentum
    update.nesterov = nesterov
    update.first = NULL
    update.second = NULL
    if theta.shape[0] == 0:
        if optimizer is not None:
            optimizer.n_steps += 1
        return
    if velocity is not None:
        update.first = &velocity[0]
    with nogil:
        optimizer_update(&theta[0], &gradient[0], 0, theta.shape[0], &update)
    if optimizer is not None:
        optimizer.n_steps += 1


def adam_update(
    floating[::1] theta, const floating[::1] gradient, floating[::1] first,
    floating[::1] second, double step, double beta_1, double beta_2,
    double correction_2, double epsilon, optimizer=None
):
    """Update theta and both moments in place; count the step as `sgd_update` does."""
    cdef Update update
    update.kind = ADAM
    update.rate = step
    update.beta_1 = beta_1
    update.beta_2 = beta_2
    update.correction_2 = correction_2
    update.epsilon = epsilon
    update.nesterov = 0
    if theta.shape[0] == 0:
        if optimizer is not None:
            optimizer.n_steps += 1
        return
    update.first = &first[0]
    update.second = &second[0]
    with nogil:
        optimizer_update(&theta[0], &gradient[0], 0, theta.shape[0], &update)
    if optimizer is not None:
        optimizer.n_steps += 1
