"""One dense layer on the caller's arrays: forward and backward, in one call each.

Design
a) Equations. Samples are rows. Forward: Z = X W + b, A = f(Z). Backward, with
   D = dL/dA * f'(Z): dL/dX = D W^T, dL/dW = X^T D, dL/db = column sums of D
   (Rumelhart, Hinton & Williams 1986, in matrix form).
b) Operands lie where the caller has them. A matrix with unit stride along one axis
   goes to BLAS as it is, through its transpose flag; a result with unit stride down
   its columns is computed as its transpose, C^T = B^T A^T. Any other operand (another
   dtype or byte order, misaligned, doubly strided) is packed block by block, in the
   order of its shorter stride, into a buffer of the thread that needs the block.
c) Tiles. A product is cut into tiles that depend on its shape alone, so that the
   result has the same bits for any number of threads. A product packs its operands
   once per BLAS call, so few, large tiles are best: their number grows with the
   square root of the work. The thread that has computed a tile of the forward
   product applies bias and activation to it while it is in its cache.
d) Backward takes rows in chunks: D is all that it stores, CHUNK_BYTES at most, and
   not even that if f is the identity and BLAS can read dL/dA. Per chunk: Z, if the
   derivative takes it, or A, if it is not given, from X, W and b; then D; then the
   tiles of dL/dX and dL/dW and the column sums, all in one job. dL/dW sums over
   chunks in its own dtype, dL/db in double.

Cost: 2 m n k operations forward and 4 m n k backward for m samples, k inputs and n
outputs (6 m n k if Z or A is computed again); beside the products one read and one
write of A, and of D.
"""
from cython cimport floating
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from ._activations cimport (
    IDENTITY, Activation, activation_backward, activation_forward, activation_init,
    activation_needs_input)
from ._blas cimport gemm, gemv
from ._parallel cimport Call, call_begin, parallel_for, raise_stopped
from ._rows cimport F32, F64, Rows, pack, rows_from_array

cnp.import_array()

cdef enum:
    ALIGNMENT = 64
    BLOCK_ROWS = 256            # of a tile whose operands are packed
    BLOCK_COLS = 512
    BLOCK_DEPTH = 256           # of a packed block along the summed axis
    D_ROWS = 64                 # of a task that computes D
    D_COLS = 512
    SUM_COLS = 256              # of a task that sums columns
    CHUNK_BYTES = 16 << 20
    MIN_CHUNK_ROWS = 256
    MAX_CHUNK_ROWS = 16384
    MAX_LD = 0x7fffffff         # BLAS integers

# Operations from which a product is worth two tiles, and four; from there on twice
# as many tiles for four times the work. With these, on one thread of a CPU with
# AVX-512, cutting cost 1 to 8 % of a product; four tiles from 4e8 on cost 4 to 16 %.
cdef double TWO_TILES = 4e6
cdef double FOUR_TILES = 1e9
# And of a tile of a single row.
cdef double ROW_TILE = 1e6
# A tile must end soon, for Ctrl-C is looked at between tiles: some 20 to 50 ms.
cdef double MAX_TILE_FLOPS = 2e9


# --- matrices as BLAS sees them -----------------------------------------------------


cdef struct Matrix:
    Rows rows           # pointer, strides in bytes, dtype
    bint direct         # BLAS can read it where it lies ...
    bint transposed     # ... as the transpose of a row-major matrix, perhaps
    Py_ssize_t ld


cdef bint leading(
    Py_ssize_t *ld, Py_ssize_t n_outer, Py_ssize_t outer, Py_ssize_t n_inner,
    Py_ssize_t inner, Py_ssize_t size
) noexcept nogil:
    """Whether runs of n_inner entries, `outer` bytes apart, are rows to BLAS."""
    if n_inner > 1 and inner != size:
        return False
    if n_outer <= 1:
        ld[0] = n_inner
        return True
    ld[0] = outer // size
    return outer >= n_inner * size and outer % size == 0 and ld[0] <= MAX_LD


cdef int matrix_init(Matrix *a, object array, int itemsize) except -1:
    cdef Py_ssize_t m = cnp.PyArray_DIM(array, 0), n = cnp.PyArray_DIM(array, 1)
    rows_from_array(&a.rows, array)
    if m == 0 or n == 0:
        # Nothing will be read, whatever strides NumPy gave it.
        a.direct = True
        a.transposed = False
        a.ld = max(n, 1)
        return 0
    a.direct = (
        a.rows.dtype == (F32 if itemsize == sizeof(float) else F64)
        and not a.rows.swapped and cnp.PyArray_ISALIGNED(array))
    a.transposed = False
    if a.direct and not leading(
            &a.ld, m, a.rows.row_stride, n, a.rows.col_stride, itemsize):
        a.transposed = True
        a.direct = leading(
            &a.ld, n, a.rows.col_stride, m, a.rows.row_stride, itemsize)
    return 0


cdef Matrix transpose(Matrix a) noexcept nogil:
    a.rows.row_stride, a.rows.col_stride = a.rows.col_stride, a.rows.row_stride
    a.transposed = not a.transposed
    return a


cdef Matrix from_row(Matrix a, Py_ssize_t first) noexcept nogil:
    a.rows.data += first * a.rows.row_stride
    return a


cdef Matrix in_buffer(char *data, Py_ssize_t cols, int itemsize) noexcept nogil:
    """A row-major matrix of ours."""
    cdef Matrix a
    a.rows.data = data
    a.rows.row_stride = cols * itemsize
    a.rows.col_stride = itemsize
    a.rows.dtype = F32 if itemsize == sizeof(float) else F64
    a.rows.swapped = False
    a.direct = True
    a.transposed = False
    a.ld = cols
    return a


cdef inline Py_ssize_t distance(Py_ssize_t stride) noexcept nogil:
    return -stride if stride < 0 else stride


cdef const floating *block(
    Py_ssize_t *ld, bint *transposed, const Matrix *a, Py_ssize_t row,
    Py_ssize_t rows, Py_ssize_t col, Py_ssize_t cols, floating *buffer
) noexcept nogil:
    """A block of a matrix for BLAS: where it lies, or packed into the buffer."""
    cdef Rows part = a.rows
    cdef const floating *result
    part.data += row * part.row_stride + col * part.col_stride
    if a.direct:
        ld[0] = a.ld
        transposed[0] = a.transposed
        result = <const floating *>part.data
        return result
    transposed[0] = distance(part.row_stride) < distance(part.col_stride)
    if transposed[0]:
        part.row_stride, part.col_stride = part.col_stride, part.row_stride
        rows, cols = cols, rows
    ld[0] = cols
    pack(buffer, cols, &part, NULL, 0, rows, cols)
    result = buffer
    return result


# --- products -----------------------------------------------------------------------


cdef struct Product:
    # C = A B, or C += A B: (m, n) over k, with C row-major ...
    bint flipped        # ... which is the transpose of the caller's array
    char *C
    Py_ssize_t ldc
    Matrix A
    Matrix B
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    bint accumulate
    Py_ssize_t row_step
    Py_ssize_t col_step
    Py_ssize_t col_tiles
    Py_ssize_t n_tiles


cdef struct Tile:
    Py_ssize_t row
    Py_ssize_t rows
    Py_ssize_t col
    Py_ssize_t cols


cdef inline Py_ssize_t half(Py_ssize_t side) noexcept nogil:
    return ((side + 1) // 2 + 15) // 16 * 16


cdef void product_of(
    Product *p, Matrix A, Matrix B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k
) noexcept nogil:
    """Set the operands of a product whose result is known, and cut it."""
    if p.flipped:
        p.A, p.B = transpose(B), transpose(A)
        p.m, p.n = n, m
    else:
        p.A, p.B = A, B
        p.m, p.n = m, n
    p.k = k
    cut(p)


cdef void cut(Product *p) noexcept nogil:
    """Choose the tiles, by the shape and by whether something is packed."""
    cdef double k = <double>p.k
    cdef double work = 2.0 * <double>p.m * <double>p.n * k
    cdef double enough = work, limit = 4.0 * FOUR_TILES
    cdef Py_ssize_t rows = p.m, cols = p.n
    cdef bint packed = not (p.A.direct and p.B.direct)
    if p.m == 1:
        # A matrix-vector product packs nothing and waits for memory.
        enough = ROW_TILE
    elif work >= FOUR_TILES:
        enough = work / 4.0
        while work >= limit:
            limit *= 4.0
            enough /= 2.0
    elif work >= TWO_TILES:
        enough = work / 2.0
    enough = min(enough, MAX_TILE_FLOPS)
    while True:
        # A packed block must fit its buffer, whatever the work.
        if packed and cols > BLOCK_COLS:
            cols = half(cols)
        elif packed and rows > BLOCK_ROWS:
            rows = half(rows)
        elif 2.0 * <double>rows * <double>cols * k <= enough or max(rows, cols) <= 32:
            break
        elif cols >= rows:
            cols = half(cols)
        else:
            rows = half(rows)
    p.row_step = max(rows, 1)
    p.col_step = max(cols, 1)
    p.col_tiles = (p.n + p.col_step - 1) // p.col_step
    p.n_tiles = (p.m + p.row_step - 1) // p.row_step * p.col_tiles


cdef Tile tile_of(const Product *p, Py_ssize_t index) noexcept nogil:
    cdef Tile tile
    tile.row = index // p.col_tiles * p.row_step
    tile.col = index % p.col_tiles * p.col_step
    tile.rows = min(p.row_step, p.m - tile.row)
    tile.cols = min(p.col_step, p.n - tile.col)
    return tile


cdef void multiply(
    const Product *p, const Tile *tile, floating *scratch
) noexcept nogil:
    """One tile of the product."""
    cdef floating *C = <floating *>p.C + tile.row * p.ldc + tile.col
    cdef const floating *A
    cdef const floating *B
    cdef Py_ssize_t lda = 0, ldb = 0, at = 0, depth = p.k, i
    cdef bint ta = False, tb = False
    cdef floating beta = <floating>(1 if p.accumulate else 0)
    if p.k == 0:
        if not p.accumulate:
            for i in range(tile.rows):
                memset(C + i * p.ldc, 0, <size_t>tile.cols * sizeof(floating))
        return
    if not (p.A.direct and p.B.direct):
        depth = min(depth, BLOCK_DEPTH)
    while at < p.k:
        depth = min(depth, p.k - at)
        A = block(&lda, &ta, &p.A, tile.row, tile.rows, at, depth, scratch)
        B = block(&ldb, &tb, &p.B, at, depth, tile.col, tile.cols,
                  scratch + BLOCK_ROWS * BLOCK_DEPTH)
        if tile.rows == 1 and (not ta or lda == 1):
            if tb:
                gemv(C, B, ldb, False, tile.cols, depth, A, <floating>1, beta)
            else:
                gemv(C, B, ldb, True, depth, tile.cols, A, <floating>1, beta)
        else:
            gemm(C, p.ldc, A, lda, ta, B, ldb, tb, tile.rows, tile.cols, depth,
                 <floating>1, beta)
        beta = 1
        at += depth


# --- tasks --------------------------------------------------------------------------


cdef struct Layer:
    Call call
    int itemsize
    Activation f
    char *bias              # contiguous, of the working dtype, or NULL
    char *scratch           # one stretch per thread, to pack blocks into
    size_t scratch_bytes
    Product forward         # the result; or, backward, Z or A of a chunk
    Activation applied      # to that product: f, or the identity for Z
    # backward only: the chunk of rows in work
    Py_ssize_t rows
    Py_ssize_t n_out
    Matrix dA
    Matrix A
    bint with_D             # False: dA serves as D
    char *D_data
    Matrix D
    Py_ssize_t d_col_tiles
    Product below           # dX = D W^T
    Product weight          # dW += X^T D
    double *sums


cdef inline void *scratch_of(Layer *p, int worker) noexcept nogil:
    return p.scratch + <size_t>worker * p.scratch_bytes


cdef void forward_tile(
    Layer *p, Py_ssize_t index, int worker, floating *_
) noexcept nogil:
    """A tile of f(X W + b), or of Z for a derivative that takes it."""
    cdef Tile t = tile_of(&p.forward, index)
    cdef Py_ssize_t ld = p.forward.ldc
    cdef floating *C = <floating *>p.forward.C + t.row * ld + t.col
    cdef const floating *bias = NULL
    if p.bias != NULL:
        bias = <const floating *>p.bias + t.col
    multiply(&p.forward, &t, <floating *>scratch_of(p, worker))
    activation_forward(
        C, ld, <const floating *>C, ld, bias, <floating *>NULL, 0, t.rows, t.cols,
        &p.applied, &p.call)


cdef void d_tile(Layer *p, Py_ssize_t index, int worker, floating *_) noexcept nogil:
    """A block of D = dA * f'(Z)."""
    cdef Py_ssize_t row = index // p.d_col_tiles * D_ROWS
    cdef Py_ssize_t col = index % p.d_col_tiles * D_COLS
    cdef Py_ssize_t rows = min(D_ROWS, p.rows - row)
    cdef Py_ssize_t cols = min(D_COLS, p.n_out - col)
    cdef Py_ssize_t at = row * p.n_out + col, lda = p.n_out
    cdef floating *D = <floating *>p.D_data + at
    cdef const floating *A
    cdef Rows part = p.dA.rows
    part.data += row * part.row_stride + col * part.col_stride
    pack(D, p.n_out, &part, NULL, 0, rows, cols)
    if p.f.code == IDENTITY:
        return
    if p.forward.C != NULL:
        A = <const floating *>p.forward.C + at
    else:
        part = p.A.rows
        part.data += row * part.row_stride + col * part.col_stride
        if p.A.direct and not p.A.transposed:
            A = <const floating *>part.data
            lda = p.A.ld
        else:
            A = <const floating *>scratch_of(p, worker)
            lda = cols
            pack(<floating *>A, lda, &part, NULL, 0, rows, cols)
    # The same pointer is A or Z: the derivative takes one of them.
    activation_backward(D, p.n_out, A, lda, A, lda, rows, cols, &p.f, &p.call)


cdef void column_sums(
    double *sums, const floating *D, Py_ssize_t row_step, Py_ssize_t col_step,
    Py_ssize_t rows, Py_ssize_t cols
) noexcept nogil:
    """sums[j] += sum over rows of D[i, j], in double and in the order of rows."""
    cdef Py_ssize_t i, j
    cdef double total
    if col_step == 1:
        for i in range(rows):
            for j in range(cols):
                sums[j] += <double>D[i * row_step + j]
    else:
        for j in range(cols):
            total = sums[j]
            for i in range(rows):
                total += <double>D[i * row_step + j * col_step]
            sums[j] = total


cdef void backward_tile(
    Layer *p, Py_ssize_t index, int worker, floating *_
) noexcept nogil:
    """A tile of dX or of dW, or a stretch of the column sums of D."""
    cdef Tile t
    cdef floating *scratch = <floating *>scratch_of(p, worker)
    cdef Py_ssize_t col, row_step, col_step
    if index < p.below.n_tiles:
        t = tile_of(&p.below, index)
        multiply(&p.below, &t, scratch)
        return
    index -= p.below.n_tiles
    if index < p.weight.n_tiles:
        t = tile_of(&p.weight, index)
        multiply(&p.weight, &t, scratch)
        return
    col = (index - p.weight.n_tiles) * SUM_COLS
    row_step = p.D.rows.row_stride // <Py_ssize_t>sizeof(floating)
    col_step = p.D.rows.col_stride // <Py_ssize_t>sizeof(floating)
    column_sums(
        p.sums + col, <const floating *>p.D.rows.data + col * col_step, row_step,
        col_step, p.rows, min(SUM_COLS, p.n_out - col))


ctypedef void (*TaskFunction)(void *, Py_ssize_t, int) noexcept nogil

cdef void forward_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_tile(<Layer *>p, i, worker, <float *>NULL)

cdef void forward_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    forward_tile(<Layer *>p, i, worker, <double *>NULL)

cdef void d_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    d_tile(<Layer *>p, i, worker, <float *>NULL)

cdef void d_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    d_tile(<Layer *>p, i, worker, <double *>NULL)

cdef void backward_f32_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    backward_tile(<Layer *>p, i, worker, <float *>NULL)

cdef void backward_f64_task(void *p, Py_ssize_t i, int worker) noexcept nogil:
    backward_tile(<Layer *>p, i, worker, <double *>NULL)


# --- the calls ----------------------------------------------------------------------


cdef size_t aligned(size_t size) noexcept nogil:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef int forward_pass(Layer *p) noexcept nogil:
    return parallel_for(
        &p.call, forward_f32_task if p.itemsize == sizeof(float) else forward_f64_task,
        p, p.forward.n_tiles)


cdef int check_shape(
    object array, Py_ssize_t rows, Py_ssize_t cols, str name
) except -1:
    if (cnp.PyArray_NDIM(array) != 2 or cnp.PyArray_DIM(array, 0) != rows
            or cnp.PyArray_DIM(array, 1) != cols):
        raise ValueError(f"{name} must have shape {rows, cols}")
    return 0


cdef int result_init(Product *p, object out, int itemsize) except -1:
    """Let the product write to `out`, as a transpose if that is column-major."""
    cdef Matrix c
    matrix_init(&c, out, itemsize)
    if not c.direct:
        raise ValueError("out is not a matrix that BLAS can write")
    p.C = cnp.PyArray_BYTES(out)
    p.ldc = c.ld
    p.flipped = c.transposed
    return 0


cdef char *scratch_init(
    Layer *p, bint wanted, size_t others, int n_threads
) except? NULL:
    """Allocate `others` bytes and each thread's packing buffer behind them."""
    cdef size_t size
    cdef char *memory
    p.scratch_bytes = 0
    if wanted:
        p.scratch_bytes = aligned(
            <size_t>(BLOCK_DEPTH * (BLOCK_ROWS + BLOCK_COLS) * p.itemsize))
    size = others + p.scratch_bytes * <size_t>n_threads
    if size == 0:
        return NULL
    memory = <char *>malloc(size + ALIGNMENT)
    if memory == NULL:
        raise MemoryError(f"a workspace of {size} bytes")
    p.scratch = <char *>aligned(<uintptr_t>memory) + others
    return memory


cdef int bias_init(Layer *p, object bias, Py_ssize_t n_out) except -1:
    p.bias = NULL
    if bias is None:
        return 0
    if (cnp.PyArray_NDIM(bias) != 1 or cnp.PyArray_DIM(bias, 0) != n_out
            or cnp.PyArray_ITEMSIZE(bias) != p.itemsize
            or not cnp.PyArray_ISCARRAY_RO(bias)):
        raise ValueError("bias is not a vector of the working dtype")
    p.bias = cnp.PyArray_BYTES(bias)
    return 0


def dense_forward(
    out, X, weight, bias, activation, double parameter, int n_threads
):
    """Write activation(X @ weight + bias) to `out`.

    `out` is float32 or float64, the working dtype, and its rows are contiguous;
    X and weight are of any real dtype; bias is None or a contiguous vector of the
    working dtype.
    """
    cdef Layer p
    cdef Matrix A, B
    cdef Py_ssize_t m = cnp.PyArray_DIM(X, 0), k = cnp.PyArray_DIM(X, 1)
    cdef Py_ssize_t n = cnp.PyArray_DIM(weight, 1)
    cdef int outcome
    cdef char *memory
    memset(&p, 0, sizeof(Layer))
    p.itemsize = cnp.PyArray_ITEMSIZE(out)
    check_shape(weight, k, n, "weight")
    check_shape(out, m, n, "out")
    activation_init(&p.f, activation, parameter)
    p.applied = p.f
    bias_init(&p, bias, n)
    matrix_init(&A, X, p.itemsize)
    matrix_init(&B, weight, p.itemsize)
    result_init(&p.forward, out, p.itemsize)
    if p.forward.flipped:
        raise ValueError("the rows of out are not contiguous")
    if m == 0 or n == 0:
        return
    call_begin(&p.call, n_threads)
    product_of(&p.forward, A, B, m, n, k)
    memory = scratch_init(&p, not (A.direct and B.direct), 0, n_threads)
    with nogil:
        outcome = forward_pass(&p)
    free(memory)
    if outcome:
        raise_stopped(&p.call)


cdef struct Whole:
    # All rows of a backward pass, of which the layer holds a chunk.
    Matrix dA
    Matrix X
    Matrix weight
    Matrix A
    char *dX
    Py_ssize_t dX_stride    # bytes from row to row
    Py_ssize_t m
    Py_ssize_t n_in
    Py_ssize_t chunk_rows


cdef int backward_pass(Layer *p, Whole *w) noexcept nogil:
    """Walk over the chunks of rows."""
    cdef bint narrow = p.itemsize == sizeof(float)
    cdef Py_ssize_t first = 0, n_tasks, n_out = p.n_out
    cdef Matrix X
    p.weight.accumulate = False
    memset(p.sums, 0, <size_t>n_out * sizeof(double))
    while first < w.m:
        p.rows = min(w.chunk_rows, w.m - first)
        X = from_row(w.X, first)
        p.dA = from_row(w.dA, first)
        p.A = from_row(w.A, first)
        if p.forward.C != NULL:
            product_of(&p.forward, X, w.weight, p.rows, n_out, w.n_in)
            if forward_pass(p):
                return -1
        if p.with_D:
            p.D = in_buffer(p.D_data, n_out, p.itemsize)
            p.d_col_tiles = (n_out + D_COLS - 1) // D_COLS
            n_tasks = (p.rows + D_ROWS - 1) // D_ROWS * p.d_col_tiles
            if parallel_for(&p.call, d_f32_task if narrow else d_f64_task, p, n_tasks):
                return -1
        else:
            p.D = p.dA
        p.below.C = w.dX + first * w.dX_stride
        product_of(&p.below, p.D, transpose(w.weight), p.rows, w.n_in, n_out)
        product_of(&p.weight, transpose(X), p.D, w.n_in, n_out, p.rows)
        n_tasks = (n_out + SUM_COLS - 1) // SUM_COLS
        n_tasks += p.below.n_tiles + p.weight.n_tiles
        if parallel_for(&p.call, backward_f32_task if narrow else backward_f64_task,
                        p, n_tasks):
            return -1
        p.weight.accumulate = True
        first += p.rows
    return 0


def dense_backward(
    dX, dweight, sums, dA, X, weight, A, bias, activation, double parameter,
    int n_threads
):
    """Write the gradients with respect to X, weight and bias, given that for A.

    `dX` and `dweight` are of the working dtype, float32 or float64, and contiguous
    along one axis; `sums` is a contiguous vector of float64, for the bias. dA, X,
    weight and A are of any real dtype; without A, and where the derivative takes the
    layer's input, activation(X @ weight + bias) is computed again, with bias None or
    a contiguous vector of the working dtype.
    """
    cdef Layer p
    cdef Whole w
    cdef bint derived, recompute
    cdef int outcome, n_buffers
    cdef size_t bytes_of_D
    cdef char *memory
    cdef char *at
    memset(&p, 0, sizeof(Layer))
    memset(&w, 0, sizeof(Whole))
    p.itemsize = cnp.PyArray_ITEMSIZE(dX)
    w.m = cnp.PyArray_DIM(X, 0)
    w.n_in = cnp.PyArray_DIM(X, 1)
    p.n_out = cnp.PyArray_DIM(weight, 1)
    check_shape(weight, w.n_in, p.n_out, "weight")
    check_shape(dA, w.m, p.n_out, "dA")
    check_shape(dX, w.m, w.n_in, "dX")
    check_shape(dweight, w.n_in, p.n_out, "dweight")
    if (cnp.PyArray_NDIM(sums) != 1 or cnp.PyArray_DIM(sums, 0) != p.n_out
            or cnp.PyArray_TYPE(sums) != cnp.NPY_DOUBLE
            or not cnp.PyArray_ISCARRAY(sums)):
        raise ValueError("sums is not a vector of float64")
    activation_init(&p.f, activation, parameter)
    bias_init(&p, bias, p.n_out)
    matrix_init(&w.dA, dA, p.itemsize)
    matrix_init(&w.X, X, p.itemsize)
    matrix_init(&w.weight, weight, p.itemsize)
    result_init(&p.below, dX, p.itemsize)
    result_init(&p.weight, dweight, p.itemsize)
    w.dX = p.below.C
    w.dX_stride = cnp.PyArray_STRIDE(dX, 0)
    p.sums = <double *>cnp.PyArray_DATA(sums)
    derived = p.f.code != IDENTITY
    p.with_D = derived or not w.dA.direct
    recompute = derived and (A is None or activation_needs_input(&p.f))
    p.applied = p.f
    if activation_needs_input(&p.f):
        activation_init(&p.applied, "identity", 0.0)
    if derived and not recompute:
        check_shape(A, w.m, p.n_out, "A")
        matrix_init(&w.A, A, p.itemsize)
    if w.m == 0:
        dweight[...] = 0
        sums[...] = 0
        return
    n_buffers = p.with_D + recompute
    w.chunk_rows = MAX_CHUNK_ROWS
    if n_buffers and p.n_out:
        w.chunk_rows = CHUNK_BYTES // (n_buffers * p.n_out * p.itemsize)
        w.chunk_rows = w.chunk_rows // MIN_CHUNK_ROWS * MIN_CHUNK_ROWS
        w.chunk_rows = max(MIN_CHUNK_ROWS, min(w.chunk_rows, MAX_CHUNK_ROWS))
    bytes_of_D = aligned(<size_t>(min(w.m, w.chunk_rows) * p.n_out * p.itemsize))
    call_begin(&p.call, n_threads)
    # (A may have to be packed, too, to stand beside D.)
    memory = scratch_init(
        &p, not (w.X.direct and w.weight.direct
                 and (w.A.rows.data == NULL or w.A.direct and not w.A.transposed)),
        n_buffers * bytes_of_D, n_threads)
    at = p.scratch - n_buffers * bytes_of_D
    if p.with_D:
        p.D_data = at
    if recompute:
        p.forward.C = at + bytes_of_D
        p.forward.ldc = p.n_out
    with nogil:
        outcome = backward_pass(&p, &w)
    free(memory)
    if outcome:
        raise_stopped(&p.call)
