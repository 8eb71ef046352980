# cython: boundscheck=False, wraparound=False
"""A user's function and its derivative, called from inside a pass.

Design
a) The pair is C functions or Python functions.
     activation   a = f(z), df(z) = f'(z), of one number (C) or of an array (Python)
     loss         of one row of z and y (C) or one number a row of arrays (Python), and
                  its gradient, of the shape of z; L = sum(w_i l_i) / sum(w_i)
   Both are functions of z alone, so the plan keeps z.
b) C functions are called without the GIL, on whatever thread has the tile, and take
   and give double; a float32 network converts on the way. Between CHECK_CALLS of them
   the calling thread looks at Ctrl-C.
c) Python functions get the GIL and a block of whole rows at a time, some BLOCK_BYTES,
   so that what NumPy makes of it stays in a cache. The caller of the pass waits without
   the GIL, so a thread of the pool that takes it cannot wait for its own caller. The
   arrays are the function's: it may keep them (a traceback does), or write to an
   activation's, so that they cannot be windows on the plan's memory, which is gone or
   something else by then. The copy is where the bias is added. What comes back must
   have the block's shape and a real dtype. The copying is done without the GIL, as is
   most of what NumPy does, so that threads overlap where a call has work enough.
d) An exception is kept in the Call and stops it (_parallel.pyx): all tasks that are
   left return at once, the pass unwinds as at Ctrl-C, and nothing is updated.

Cost: a call of C a value (about 2 ns beside its own work). In Python one call a block,
some 3 microseconds, and one copy in the cache each way.
"""
from cython cimport floating
from cpython.pycapsule cimport (
    PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer)
from libc.math cimport fabs, isfinite
from libc.stdint cimport intptr_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

import numpy as np

from ._parallel cimport Call, call_fail, call_should_stop

cnp.import_array()

cdef enum:
    BLOCK_BYTES = 1 << 18   # of values that a Python function gets at a time
    CHECK_CALLS = 256

ctypedef double (*Scalar)(double) noexcept nogil
ctypedef double (*ScalarData)(double, void *) noexcept nogil
ctypedef double (*RowLoss)(const double *, const double *, intptr_t) noexcept nogil
ctypedef double (*RowLossData)(
    const double *, const double *, intptr_t, void *) noexcept nogil
ctypedef void (*RowGradient)(
    double *, const double *, const double *, intptr_t) noexcept nogil
ctypedef void (*RowGradientData)(
    double *, const double *, const double *, intptr_t, void *) noexcept nogil

WHAT = ("function", "derivative")


cdef class Pair:
    """A function and its derivative, as the kernels call them.

    Parameters
    ----------
    functions : (callable, callable)
        Python functions on arrays; empty if there are addresses.
    addresses : ((int, int or None), (int, int or None))
        Where the C functions are, and what to give as their last argument, a pointer;
        None if they have none. Their prototypes have been checked.
    owners : tuple
        What keeps the addresses valid.
    """

    def __init__(self, tuple functions=(), tuple addresses=(), tuple owners=()):
        cdef int i
        if len(functions or addresses) != 2 or functions and addresses:
            raise ValueError("a pair is two functions or two addresses")
        self.functions = functions
        self.owners = owners
        self.compiled = bool(addresses)
        self.custom.compiled = self.compiled
        for i in range(2):
            if functions:
                self.custom.function[i] = <void *>functions[i]
                continue
            address, data = addresses[i]
            self.custom.address[i] = <void *><uintptr_t>address
            self.custom.takes_data[i] = data is not None
            self.custom.data[i] = <void *><uintptr_t>(data or 0)


def read_capsule(capsule):
    """Return (address, name, context) of a PyCapsule; SciPy's have a signature."""
    cdef const char *name = PyCapsule_GetName(capsule)
    return (
        <uintptr_t>PyCapsule_GetPointer(capsule, name),
        "" if name == NULL else name.decode(),
        <uintptr_t>PyCapsule_GetContext(capsule))


# --- activations in C ---------------------------------------------------------------


cdef inline double call_scalar(const Custom *f, int which, double z) noexcept nogil:
    if f.takes_data[which]:
        return (<ScalarData>f.address[which])(z, f.data[which])
    return (<Scalar>f.address[which])(z)


cdef bint too_many(Py_ssize_t *calls, Py_ssize_t more, Call *call) noexcept nogil:
    """Count calls of C, and say now and then whether to stop."""
    calls[0] += more
    if calls[0] < CHECK_CALLS:
        return False
    calls[0] = 0
    return call_should_stop(call)


cdef void custom_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Custom *f, Call *call
) noexcept nogil:
    cdef Py_ssize_t i, j, calls = 0
    cdef floating z
    if call.stopped or rows == 0 or cols == 0:
        return
    if not f.compiled:
        with gil:
            try:
                python_forward(A, lda, P, ldp, bias, Z, ldz, rows, cols, f, call)
            except BaseException as error:
                call_fail(call, error)
        return
    for i in range(rows):
        for j in range(cols):
            z = P[i * ldp + j]
            if bias != NULL:
                z += bias[j]
            if Z != NULL:
                Z[i * ldz + j] = z
            A[i * lda + j] = <floating>call_scalar(f, 0, <double>z)
            if too_many(&calls, 1, call):
                return


cdef void custom_backward(
    floating *D, Py_ssize_t ldd, const floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Custom *f, Call *call
) noexcept nogil:
    cdef Py_ssize_t i, j, calls = 0
    if call.stopped or rows == 0 or cols == 0:
        return
    if not f.compiled:
        with gil:
            try:
                python_backward(D, ldd, Z, ldz, rows, cols, f, call)
            except BaseException as error:
                call_fail(call, error)
        return
    for i in range(rows):
        for j in range(cols):
            D[i * ldd + j] *= <floating>call_scalar(f, 1, <double>Z[i * ldz + j])
            if too_many(&calls, 1, call):
                return


cdef void custom_apply(
    floating *y, const floating *x, Py_ssize_t n, bint derivative, const Custom *f,
    Call *call
) noexcept nogil:
    cdef Py_ssize_t i, calls = 0
    if call.stopped or n == 0:
        return
    if not f.compiled:
        with gil:
            try:
                python_apply(y, x, n, derivative, f, call)
            except BaseException as error:
                call_fail(call, error)
        return
    for i in range(n):
        y[i] = <floating>call_scalar(f, derivative, <double>x[i])
        if too_many(&calls, 1, call):
            return


# --- activations in Python ----------------------------------------------------------


cdef inline Py_ssize_t rows_of_block(Py_ssize_t cols, Py_ssize_t itemsize) noexcept:
    return max(1, BLOCK_BYTES // (cols * itemsize))


cdef cnp.ndarray new_block(Py_ssize_t rows, Py_ssize_t cols, int type_number):
    cdef cnp.npy_intp[2] shape
    shape[0] = rows
    shape[1] = cols
    return cnp.PyArray_EMPTY(2, shape, type_number, 0)


cdef void copy_rows(
    floating *to, Py_ssize_t ldt, const floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        memcpy(to + i * ldt, Z + i * ldz, <size_t>cols * sizeof(floating))


cdef void multiply_rows(
    floating *D, Py_ssize_t ldd, const floating *slope, Py_ssize_t rows,
    Py_ssize_t cols
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(cols):
            D[i * ldd + j] *= slope[i * cols + j]


cdef void add_bias(
    floating *z, const floating *bias, Py_ssize_t rows, Py_ssize_t cols
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(cols):
            z[i * cols + j] += bias[j]


cdef cnp.ndarray call_python(
    const Custom *f, int which, tuple arguments, tuple shape, int type_number
):
    """What the function makes of the blocks: of this shape, converted to this dtype."""
    found = (<object>f.function[which])(*arguments)
    if not isinstance(found, np.ndarray):
        raise TypeError(
            f"{WHAT[which]} must return an array of shape {shape}; got "
            f"{type(found).__name__}")
    if found.shape != shape:
        raise ValueError(
            f"{WHAT[which]} must return an array of shape {shape}; got {found.shape}")
    if (cnp.PyArray_TYPE(found) == type_number
            and cnp.PyArray_ISCARRAY_RO(found)):
        return found
    if found.dtype.kind not in "biuf":
        raise TypeError(
            f"{WHAT[which]} must return real numbers; got dtype {found.dtype}")
    with np.errstate(over="ignore", under="ignore"):
        return cnp.PyArray_FROM_OTF(
            found, type_number,
            cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED
            | cnp.NPY_ARRAY_NOTSWAPPED | cnp.NPY_ARRAY_FORCECAST)


cdef int python_forward(
    floating *A, Py_ssize_t lda, const floating *P, Py_ssize_t ldp,
    const floating *bias, floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Custom *f, Call *call
) except -1:
    cdef int number = cnp.NPY_FLOAT if sizeof(floating) == 4 else cnp.NPY_DOUBLE
    cdef Py_ssize_t step = rows_of_block(cols, sizeof(floating)), first = 0, m
    cdef cnp.ndarray block, found
    cdef floating *z
    cdef const floating *a
    while first < rows and not call.stopped:
        m = min(step, rows - first)
        block = new_block(m, cols, number)
        z = <floating *>cnp.PyArray_DATA(block)
        with nogil:
            copy_rows(z, cols, P + first * ldp, ldp, m, cols)
            if bias != NULL:
                add_bias(z, bias, m, cols)
            if Z != NULL:
                copy_rows(Z + first * ldz, ldz, <const floating *>z, cols, m, cols)
        found = call_python(f, 0, (block,), (m, cols), number)
        a = <const floating *>cnp.PyArray_DATA(found)
        with nogil:
            copy_rows(A + first * lda, lda, a, cols, m, cols)
        first += m
    return 0


cdef int python_backward(
    floating *D, Py_ssize_t ldd, const floating *Z, Py_ssize_t ldz,
    Py_ssize_t rows, Py_ssize_t cols, const Custom *f, Call *call
) except -1:
    cdef int number = cnp.NPY_FLOAT if sizeof(floating) == 4 else cnp.NPY_DOUBLE
    cdef Py_ssize_t step = rows_of_block(cols, sizeof(floating)), first = 0, m
    cdef cnp.ndarray block, found
    cdef floating *z
    cdef const floating *slope
    while first < rows and not call.stopped:
        m = min(step, rows - first)
        block = new_block(m, cols, number)
        z = <floating *>cnp.PyArray_DATA(block)
        with nogil:
            copy_rows(z, cols, Z + first * ldz, ldz, m, cols)
        found = call_python(f, 1, (block,), (m, cols), number)
        slope = <const floating *>cnp.PyArray_DATA(found)
        with nogil:
            multiply_rows(D + first * ldd, ldd, slope, m, cols)
        first += m
    return 0


cdef int python_apply(
    floating *y, const floating *x, Py_ssize_t n, bint derivative, const Custom *f,
    Call *call
) except -1:
    cdef int number = cnp.NPY_FLOAT if sizeof(floating) == 4 else cnp.NPY_DOUBLE
    cdef Py_ssize_t step = BLOCK_BYTES // <Py_ssize_t>sizeof(floating), first = 0, m
    cdef cnp.ndarray block, found
    cdef floating *z
    cdef const floating *value
    while first < n and not call.stopped:
        m = min(step, n - first)
        block = new_block(1, m, number)
        z = <floating *>cnp.PyArray_DATA(block)
        with nogil:
            copy_rows(z, m, x + first, m, 1, m)
        found = call_python(f, derivative, (block,), (1, m), number)
        value = <const floating *>cnp.PyArray_DATA(found)
        with nogil:
            copy_rows(y + first, m, value, m, 1, m)
        first += m
    return 0


# --- losses -------------------------------------------------------------------------


cdef void add(double *total, double *remainder, double term) noexcept nogil:
    """Add a term and keep what the addition rounds off (Neumaier 1974)."""
    cdef double sum = total[0] + term
    if not isfinite(sum):
        remainder[0] = 0.0      # inf - inf is no remainder
    elif fabs(total[0]) >= fabs(term):
        remainder[0] += (total[0] - sum) + term
    else:
        remainder[0] += (term - sum) + total[0]
    total[0] = sum


cdef void custom_loss(
    floating *dZ, const floating *Z, const floating *Y, const double *weight,
    Py_ssize_t rows, Py_ssize_t cols, double scale, double *total, double *remainder,
    const Custom *f, Call *call
) noexcept nogil:
    total[0] = 0.0
    remainder[0] = 0.0
    if call.stopped or rows == 0 or cols == 0:
        return
    if f.compiled:
        compiled_loss(
            dZ, Z, Y, weight, rows, cols, scale, total, remainder, f, call)
        return
    with gil:
        try:
            python_loss(dZ, Z, Y, weight, rows, cols, scale, total, remainder, f, call)
        except BaseException as error:
            call_fail(call, error)


cdef void compiled_loss(
    floating *dZ, const floating *Z, const floating *Y, const double *weight,
    Py_ssize_t rows, Py_ssize_t cols, double scale, double *total, double *remainder,
    const Custom *f, Call *call
) noexcept nogil:
    cdef Py_ssize_t i, j, calls = 0
    cdef double w, loss
    cdef double *z = <double *>malloc(<size_t>(3 * cols) * sizeof(double))
    cdef double *y = z + cols
    cdef double *dz = y + cols
    if z == NULL:
        with gil:
            call_fail(call, MemoryError("three rows of float64 for a loss"))
        return
    for i in range(rows):
        w = 1.0 if weight == NULL else weight[i]
        if w == 0.0:        # 0 times an infinite loss would be a NaN
            if dZ != NULL:
                memset(dZ + i * cols, 0, <size_t>cols * sizeof(floating))
            continue
        for j in range(cols):
            z[j] = <double>Z[i * cols + j]
            y[j] = <double>Y[i * cols + j]
        if f.takes_data[0]:
            loss = (<RowLossData>f.address[0])(z, y, cols, f.data[0])
        else:
            loss = (<RowLoss>f.address[0])(z, y, cols)
        add(total, remainder, w * loss)
        if dZ != NULL:
            # So that what it leaves out is at least always the same.
            memset(dz, 0, <size_t>cols * sizeof(double))
            if f.takes_data[1]:
                (<RowGradientData>f.address[1])(dz, z, y, cols, f.data[1])
            else:
                (<RowGradient>f.address[1])(dz, z, y, cols)
            for j in range(cols):
                dZ[i * cols + j] = <floating>(scale * w * dz[j])
        if too_many(&calls, cols, call):
            break
    free(z)


cdef int python_loss(
    floating *dZ, const floating *Z, const floating *Y, const double *weight,
    Py_ssize_t rows, Py_ssize_t cols, double scale, double *total, double *remainder,
    const Custom *f, Call *call
) except -1:
    cdef int number = cnp.NPY_FLOAT if sizeof(floating) == 4 else cnp.NPY_DOUBLE
    cdef Py_ssize_t step = rows_of_block(cols, sizeof(floating)), first = 0, m, i, j
    cdef cnp.ndarray z, y, found
    cdef const double *losses
    cdef const floating *dz
    cdef floating *to
    cdef double w
    while first < rows and not call.stopped:
        m = min(step, rows - first)
        # Read-only: both functions take the same arrays.
        z = new_block(m, cols, number)
        y = new_block(m, cols, number)
        to = <floating *>cnp.PyArray_DATA(z)
        copy_rows(to, cols, Z + first * cols, cols, m, cols)
        to = <floating *>cnp.PyArray_DATA(y)
        copy_rows(to, cols, Y + first * cols, cols, m, cols)
        z.flags.writeable = False
        y.flags.writeable = False
        found = call_python(f, 0, (z, y), (m,), cnp.NPY_DOUBLE)
        losses = <const double *>cnp.PyArray_DATA(found)
        for i in range(m):
            w = 1.0 if weight == NULL else weight[first + i]
            if w != 0.0:    # 0 times an infinite loss would be a NaN
                add(total, remainder, w * losses[i])
        if dZ != NULL:
            found = call_python(
                f, 1, (z, y), (m, cols), number)
            dz = <const floating *>cnp.PyArray_DATA(found)
            for i in range(m):
                w = 1.0 if weight == NULL else weight[first + i]
                for j in range(cols):
                    dZ[(first + i) * cols + j] = <floating>(
                        0.0 if w == 0.0 else scale * w * <double>dz[i * cols + j])
        first += m
    return 0
