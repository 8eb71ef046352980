# cython: boundscheck=False, wraparound=False, cdivision=True
"""The steps of a dense layer in a pass: tiles of its products.

Design
a) Equations. Samples are rows. Z = A_in W + b, A = f(Z). With D = dL/dZ, going
   backward: dW = A_in^T D, db = column sums of D, dL/dA_in = D W^T and, for the layer
   below, D_below = dL/dA_in * f'(Z_below) (Rumelhart, Hinton & Williams 1986, in
   matrix form). With a penalty l2/2 |W|^2, dW += l2 W.
b) Each step is one job of few, large tiles: for the forward step tiles of the output;
   for the backward step tiles of D_below and of dW together, for they do not depend on
   each other. A tile is cut along the longer side, since a product packs its operands,
   or one of them, once per call, and the bias, activation and derivative are applied to
   it by the thread that has just computed it. Products below MIN_TILE_FLOPS are one
   tile, and two of half of that stay on the calling thread.
c) Bias gradients are summed in double.

Cost on m samples and P weights: 2 m P flops forward, 4 m P backward, 2 m P without
dL/dA_in; beside the products, one read and one write of each activation and its
derivative.
"""
from cython cimport floating

from ._activations cimport activation_backward, activation_forward
from ._blas cimport gemm, gemv
from ._pass cimport ACTIVATION, DENSE, Operation, Pass
from ._simd cimport simd_level

cdef extern from "dense.h":
    struct fanin_dense:
        void (*column_sums_f32)(double *sums, const float *D, Py_ssize_t ldd,
                                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        void (*column_sums_f64)(double *sums, const double *D, Py_ssize_t ldd,
                                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        int (*all_finite_f32)(const float *A, Py_ssize_t lda, Py_ssize_t rows,
                              Py_ssize_t cols) noexcept nogil
        int (*all_finite_f64)(const double *A, Py_ssize_t lda, Py_ssize_t rows,
                              Py_ssize_t cols) noexcept nogil
        void (*drop_f32)(float *y, unsigned char *mask, const float *x,
                         const unsigned int *words, Py_ssize_t n,
                         unsigned long long threshold, double scale) noexcept nogil
        void (*drop_f64)(double *y, unsigned char *mask, const double *x,
                         const unsigned int *words, Py_ssize_t n,
                         unsigned long long threshold, double scale) noexcept nogil
        void (*drop_backward_f32)(float *D, const unsigned char *mask, Py_ssize_t n,
                                  double scale) noexcept nogil
        void (*drop_backward_f64)(double *D, const unsigned char *mask, Py_ssize_t n,
                                  double scale) noexcept nogil

cdef extern from *:
    """
    #define fanin_select_dense(level) FANIN_SELECT(dense, level)
    """
    const fanin_dense *fanin_select_dense(int level)

cdef const fanin_dense *kernels = fanin_select_dense(simd_level())

# A tile must outweigh handing it to another thread, which costs some microseconds.
cdef double MIN_TILE_FLOPS = 1e6
# And it must end soon, for Ctrl-C is looked at between tiles: some 20 to 50 ms.
cdef double MAX_TILE_FLOPS = 2e9


cdef int count_tiles(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, int n_threads
) noexcept nogil:
    cdef double worth = 2.0 * <double>m * <double>n * <double>k / MIN_TILE_FLOPS
    cdef Py_ssize_t side = m if m > n else n
    cdef int tiles = n_threads
    if tiles > worth:
        tiles = <int>worth
    if tiles < worth * (MIN_TILE_FLOPS / MAX_TILE_FLOPS):
        tiles = <int>min(1024.0, worth * (MIN_TILE_FLOPS / MAX_TILE_FLOPS))
    if tiles > (side + 31) // 32:
        tiles = <int>((side + 31) // 32)
    return tiles if tiles > 1 else 1


cdef bint is_slight(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Whether two such products take less time than handing one of them over."""
    return 4.0 * <double>m * <double>n * <double>k < MIN_TILE_FLOPS


cdef void tile_bounds(
    Py_ssize_t n, int n_tiles, Py_ssize_t tile, Py_ssize_t *start, Py_ssize_t *stop
) noexcept nogil:
    """Cut range(n) into n_tiles stretches whose starts are multiples of 16."""
    cdef Py_ssize_t step = ((n + n_tiles - 1) // n_tiles + 15) // 16 * 16
    start[0] = min(n, tile * step)
    stop[0] = min(n, (tile + 1) * step)


cdef void forward_part(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, Py_ssize_t col, Py_ssize_t n,
    floating *_
) noexcept nogil:
    """Rows [row, row + m) and columns [col, col + n) of layer at's f(A_in W + b)."""
    cdef const Operation *layer = &p.operations[at]
    cdef const floating *W = <const floating *>p.theta + layer.weight + col
    cdef const floating *bias = NULL
    cdef const floating *A_in = <const floating *>p.A[at]
    cdef Py_ssize_t ld_in = p.ld[at], ld = p.ld[at + 1]
    cdef floating *A = <floating *>p.A[at + 1] + row * ld + col
    cdef floating *Z = NULL
    cdef bint transposed = at == 0 and p.transposed
    A_in += row if transposed else row * ld_in
    if layer.bias >= 0:
        bias = <const floating *>p.theta + layer.bias + col
    if p.Z[at] != NULL:
        Z = <floating *>p.Z[at] + row * layer.n_out + col
    if m == 1 and not transposed:
        gemv(A, W, layer.n_out, True, layer.n_in, n, A_in, <floating>1, <floating>0)
    else:
        gemm(A, ld, A_in, ld_in, transposed, W, layer.n_out, False, m, n, layer.n_in,
             <floating>1, <floating>0)
    activation_forward(
        A, ld, <const floating *>A, ld, bias, Z, layer.n_out, m, n, &layer.activation,
        &p.call)


cdef void dense_forward_rows(
    Pass *p, int at, Py_ssize_t row, Py_ssize_t m, floating *_
) noexcept nogil:
    forward_part(p, at, row, m, 0, p.operations[at].n_out, _)


cdef void dense_forward_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    cdef Py_ssize_t m = p.rows, n = p.operations[p.at].n_out, start = 0, stop = 0
    if n >= m:
        tile_bounds(n, p.n_below, tile, &start, &stop)
        if start < stop:
            forward_part(p, p.at, 0, m, start, stop - start, _)
    else:
        tile_bounds(m, p.n_below, tile, &start, &stop)
        if start < stop:
            forward_part(p, p.at, start, stop - start, 0, n, _)


cdef void through_activation(
    Pass *p, int at, floating *D, Py_ssize_t ldd, Py_ssize_t row, Py_ssize_t m,
    Py_ssize_t col, Py_ssize_t n
) noexcept nogil:
    cdef const Operation *operation = &p.operations[at]
    cdef const floating *A = <const floating *>p.A[at + 1] + row * p.ld[at + 1] + col
    cdef const floating *Z = NULL
    cdef Py_ssize_t ldz = operation.n_out
    if operation.kind == ACTIVATION:
        ldz = p.ld[at]
        Z = <const floating *>p.A[at] + row * ldz + col
    elif operation.kind != DENSE:
        return
    elif p.Z[at] != NULL:
        Z = <const floating *>p.Z[at] + row * ldz + col
    activation_backward(
        D, ldd, A, p.ld[at + 1], Z, ldz, m, n, &operation.activation, &p.call)


cdef void dense_backward_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    if tile < p.n_below:
        below_tile(p, tile, _)
    else:
        weight_tile(p, tile - p.n_below, _)


cdef void below_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """D_below = (D W^T) * f'(below); for the first layer dX = D W^T."""
    cdef const Operation *layer = &p.operations[p.at]
    cdef const floating *W = <const floating *>p.theta + layer.weight
    cdef const floating *D = <const floating *>p.D
    cdef floating *below = <floating *>p.D_below
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out, ld = layer.n_in
    cdef Py_ssize_t m = p.rows, n = n_in, row = 0, col = 0, start, stop
    if p.at == 0:
        ld = p.ld_dX
        below = <floating *>p.dX + p.first * ld
    if n >= m:
        tile_bounds(n, p.n_below, tile, &start, &stop)
        col = start
        n = stop - start
    else:
        tile_bounds(m, p.n_below, tile, &start, &stop)
        row = start
        m = stop - start
    if start == stop:
        return
    below += row * ld + col
    gemm(below, ld, D + row * n_out, n_out, False, W + col * n_out, n_out, True, m, n,
         n_out, <floating>1, <floating>0)
    if p.at > 0:
        through_activation(p, p.at - 1, below, ld, row, m, col, n)


cdef void weight_tile(Pass *p, Py_ssize_t tile, floating *_) noexcept nogil:
    """A tile of dW, and its share of db."""
    cdef const Operation *layer = &p.operations[p.at]
    cdef const floating *W = <const floating *>p.theta + layer.weight
    cdef floating *dW = <floating *>p.gradient + layer.weight
    cdef const floating *D = <const floating *>p.D
    cdef const floating *A_in = <const floating *>p.A[p.at]
    cdef double *sums = p.sums + layer.sums
    cdef Py_ssize_t ld_in = p.ld[p.at], n_in = layer.n_in, n_out = layer.n_out
    cdef bint transposed = p.at == 0 and p.transposed
    cdef Py_ssize_t m = n_in, n = n_out, start, stop, i, j
    cdef floating l2 = <floating>layer.l2
    if layer.bias >= 0:
        tile_bounds(n_out, p.n_weight, tile, &start, &stop)
        if floating is float:
            kernels.column_sums_f32(
                sums + start, D + start, n_out, p.rows, stop - start)
        else:
            kernels.column_sums_f64(
                sums + start, D + start, n_out, p.rows, stop - start)
    if n > 2 * m:
        # (Of A_in^T, a BLAS takes a stretch of rows at full speed, other than of D a
        # stretch of columns: 4 to 6 % of the product.)
        tile_bounds(n, p.n_weight, tile, &start, &stop)
        D += start
        dW += start
        W += start
        n = stop - start
    else:
        tile_bounds(m, p.n_weight, tile, &start, &stop)
        A_in += start * ld_in if transposed else start
        dW += start * n_out
        W += start * n_out
        m = stop - start
    if start == stop:
        return
    gemm(dW, n_out, A_in, ld_in, not transposed, D, n_out, False, m, n, p.rows,
         <floating>1, <floating>(1 if p.accumulate else 0))
    # (The penalty is the loss's; a gradient that is given may be of anything.)
    if l2 != 0 and not p.accumulate and p.dA == NULL:
        for i in range(m):
            for j in range(n):
                dW[i * n_out + j] += l2 * W[i * n_out + j]
    if p.update != NULL and not all_finite(dW, n_out, m, n):
        p.not_finite = True


cdef bint all_finite(
    const floating *A, Py_ssize_t lda, Py_ssize_t rows, Py_ssize_t cols
) noexcept nogil:
    if floating is float:
        return kernels.all_finite_f32(A, lda, rows, cols)
    else:
        return kernels.all_finite_f64(A, lda, rows, cols)


cdef void drop(
    floating *y, unsigned char *mask, const floating *x, const unsigned int *words,
    Py_ssize_t n, unsigned long long threshold, double scale
) noexcept nogil:
    if floating is float:
        kernels.drop_f32(y, mask, x, words, n, threshold, scale)
    else:
        kernels.drop_f64(y, mask, x, words, n, threshold, scale)


cdef void drop_backward(
    floating *D, const unsigned char *mask, Py_ssize_t n, double scale
) noexcept nogil:
    if floating is float:
        kernels.drop_backward_f32(D, mask, n, scale)
    else:
        kernels.drop_backward_f64(D, mask, n, scale)
