"""Losses on a block of samples, with their gradients.

Design: simd/losses.c has the formulas and the loops; this module picks the SIMD
level once and gives the network's passes one entry for all losses.
"""
from cython cimport floating
from libc.stdint cimport int64_t

import numpy as np

from ._activations cimport LOGISTIC, Activation, activation_forward
from ._simd cimport simd_level

cdef extern from "losses.h":
    struct fanin_losses:
        void (*squared_error_f32)(
            float *dZ, const float *Z, const float *Y, Py_ssize_t rows,
            Py_ssize_t cols, double scale, Py_ssize_t *bad,
            LossSum *total) noexcept nogil
        void (*squared_error_f64)(
            double *dZ, const double *Z, const double *Y, Py_ssize_t rows,
            Py_ssize_t cols, double scale, Py_ssize_t *bad,
            LossSum *total) noexcept nogil
        void (*binary_cross_entropy_f32)(
            float *dZ, const float *Z, const float *Y, Py_ssize_t rows,
            Py_ssize_t cols, double scale, Py_ssize_t *bad,
            LossSum *total) noexcept nogil
        void (*binary_cross_entropy_f64)(
            double *dZ, const double *Z, const double *Y, Py_ssize_t rows,
            Py_ssize_t cols, double scale, Py_ssize_t *bad,
            LossSum *total) noexcept nogil
        void (*softmax_cross_entropy_f32)(
            float *dZ, const float *Z, const float *Y, const int64_t *labels,
            Py_ssize_t rows, Py_ssize_t cols, double scale, float *scratch,
            Py_ssize_t *bad,
            LossSum *total) noexcept nogil
        void (*softmax_cross_entropy_f64)(
            double *dZ, const double *Z, const double *Y, const int64_t *labels,
            Py_ssize_t rows, Py_ssize_t cols, double scale, double *scratch,
            Py_ssize_t *bad,
            LossSum *total) noexcept nogil
        void (*softmax_f32)(float *Z, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        void (*softmax_f64)(double *Z, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_losses(level) FANIN_SELECT(losses, level)
    """
    const fanin_losses *fanin_select_losses(int level)

cdef const fanin_losses *kernels = fanin_select_losses(simd_level())

LOSSES = {
    "squared_error": SQUARED_ERROR,
    "binary_cross_entropy": BINARY_CROSS_ENTROPY,
    "softmax_cross_entropy": SOFTMAX_CROSS_ENTROPY,
}


cdef void loss_forward(
    floating *dZ, const floating *Z, const floating *Y, const int64_t *labels,
    Py_ssize_t rows, Py_ssize_t cols, double scale, floating *scratch,
    Py_ssize_t *bad, LossSum *total, int loss
) noexcept nogil:
    bad[0] = -1
    total.hi = 0.0
    total.lo = 0.0
    if floating is float:
        if loss == SQUARED_ERROR:
            kernels.squared_error_f32(dZ, Z, Y, rows, cols, scale, bad, total)
        elif loss == BINARY_CROSS_ENTROPY:
            kernels.binary_cross_entropy_f32(dZ, Z, Y, rows, cols, scale, bad, total)
        else:
            kernels.softmax_cross_entropy_f32(
                dZ, Z, Y, labels, rows, cols, scale, scratch, bad, total)
    else:
        if loss == SQUARED_ERROR:
            kernels.squared_error_f64(dZ, Z, Y, rows, cols, scale, bad, total)
        elif loss == BINARY_CROSS_ENTROPY:
            kernels.binary_cross_entropy_f64(dZ, Z, Y, rows, cols, scale, bad, total)
        else:
            kernels.softmax_cross_entropy_f64(
                dZ, Z, Y, labels, rows, cols, scale, scratch, bad, total)


cdef void loss_link(
    floating *Z, Py_ssize_t rows, Py_ssize_t cols, int loss
) noexcept nogil:
    cdef Activation logistic
    if loss == SOFTMAX_CROSS_ENTROPY:
        if floating is float:
            kernels.softmax_f32(Z, rows, cols)
        else:
            kernels.softmax_f64(Z, rows, cols)
    elif loss == BINARY_CROSS_ENTROPY:
        logistic.code = LOGISTIC
        logistic.parameter = 0.0
        activation_forward(
            Z, cols, <const floating *>Z, cols, <const floating *>NULL,
            <floating *>NULL, 0, rows, cols, &logistic)


def forward(
    const floating[:, ::1] Z, Y, str loss, double scale=1.0
):
    """Return (sum of losses, scale * gradient, first bad row or -1)."""
    cdef int code = LOSSES[loss]
    cdef Py_ssize_t rows = Z.shape[0], cols = Z.shape[1], bad = -1
    dtype = "f4" if floating is float else "f8"
    dZ = np.empty((rows, cols), dtype)
    cdef floating[:, ::1] d = dZ
    cdef floating[::1] scratch = np.empty(cols, dtype)
    cdef const floating[:, ::1] y
    cdef const int64_t[::1] labels
    cdef const floating *y_data = NULL
    cdef const int64_t *label_data = NULL
    cdef LossSum total
    if rows == 0 or cols == 0:
        return 0.0, dZ, -1
    if Y.ndim == 1 and code == SOFTMAX_CROSS_ENTROPY:
        labels = Y
        label_data = &labels[0]
    else:
        y = Y
        y_data = &y[0, 0]
    with nogil:
        loss_forward(
            &d[0, 0], &Z[0, 0], y_data, label_data, rows, cols, scale, &scratch[0],
            &bad, &total, code)
    return total.hi + total.lo, dZ, bad


def link(floating[:, ::1] Z, str loss):
    """Replace Z by the prediction that the loss makes of it."""
    cdef int code = LOSSES[loss]
    if Z.shape[0] and Z.shape[1]:
        with nogil:
            loss_link(&Z[0, 0], Z.shape[0], Z.shape[1], code)
