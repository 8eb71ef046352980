/* Arrays of any rank, stride, byte order and dtype as blocks of rows x columns.
 *
 * Design. A reduction over some axes sees an array as a table: the reduced axes
 * together are its rows, the kept ones its columns. fanin_views_build sorts each
 * group by stride and joins axes that lie end to end, so that nearly every array
 * ends up with one row axis and one column axis. A block of such a table that is
 * one run of native, aligned float32 or float64 is read where it lies
 * (fanin_block_address); any other block is gathered, converted on the way, into
 * a small buffer (fanin_block_gather). A copy never outgrows one block.
 *
 * Integers, bool and float64 become double, float16 and float32 become float.
 */
#ifndef FANIN_SOURCE_H
#define FANIN_SOURCE_H

#include "elements.h"
#include "stream.h"

#define FANIN_MAXDIMS 64

/* The index of an array's axes in `n` and `s` is innermost first. */
typedef struct {
    char *data;
    int type;
    int swapped;               /* the other byte order */
    int plain;                 /* native, aligned float32 or float64 */
    ptrdiff_t itemsize;
    int row_nd, col_nd;
    ptrdiff_t row_n[FANIN_MAXDIMS], row_s[FANIN_MAXDIMS];   /* s in bytes */
    ptrdiff_t col_n[FANIN_MAXDIMS], col_s[FANIN_MAXDIMS];
} fanin_view;

static ptrdiff_t fanin_abs_(ptrdiff_t a) { return a < 0 ? -a : a; }

/* Axis numbers by falling |stride|, ties in the array's own order. */
static void fanin_axis_order(int *order, int nd, const ptrdiff_t *strides)
{
    for (int i = 0; i < nd; i++) {
        int j = i;
        for (; j > 0 && fanin_abs_(strides[order[j - 1]]) < fanin_abs_(strides[i]); j--) {
            order[j] = order[j - 1];
        }
        order[j] = i;
    }
}

/* Fill the axes of `n_views` views of the same shape: strides[k] are those of view
 * k, reduced[axis] tells rows from columns. Axes are joined where all views allow. */
static void fanin_views_build(fanin_view **views, int n_views, int nd,
                              const int *order, const ptrdiff_t *shape,
                              const ptrdiff_t *const *strides, const char *reduced)
{
    for (int k = 0; k < n_views; k++) {
        fanin_view *v = views[k];
        v->row_nd = v->col_nd = 0;
        v->plain = (v->type == FANIN_F32 || v->type == FANIN_F64) && !v->swapped
                   && (uintptr_t)v->data % (uintptr_t)v->itemsize == 0;
    }
    for (int i = nd - 1; i >= 0; i--) {
        int axis = order[i], rows = reduced[axis];
        if (shape[axis] == 1) {
            continue;
        }
        int at = rows ? views[0]->row_nd : views[0]->col_nd;
        int join = at > 0;
        for (int k = 0; k < n_views && join; k++) {
            const fanin_view *v = views[k];
            const ptrdiff_t *n = rows ? v->row_n : v->col_n;
            const ptrdiff_t *s = rows ? v->row_s : v->col_s;
            join = strides[k][axis] == n[at - 1] * s[at - 1];
        }
        for (int k = 0; k < n_views; k++) {
            fanin_view *v = views[k];
            ptrdiff_t *n = rows ? v->row_n : v->col_n;
            ptrdiff_t *s = rows ? v->row_s : v->col_s;
            if (join) {
                n[at - 1] *= shape[axis];
            } else {
                n[at] = shape[axis];
                s[at] = strides[k][axis];
                *(rows ? &v->row_nd : &v->col_nd) = at + 1;
            }
            v->plain = v->plain && strides[k][axis] % v->itemsize == 0;
        }
    }
    for (int k = 0; k < n_views; k++) {
        fanin_view *v = views[k];
        if (v->row_nd == 0) {
            v->row_nd = 1, v->row_n[0] = 1, v->row_s[0] = 0;
        }
        if (v->col_nd == 0) {
            v->col_nd = 1, v->col_n[0] = 1, v->col_s[0] = 0;
        }
    }
}

/* Whether to walk down the columns (1) or along the rows (0), as is better for
 * n_rows of them. */
static int fanin_rows_inner(const fanin_view *v, ptrdiff_t n_rows, ptrdiff_t n_cols)
{
    if (n_cols == 1) {
        return 1;
    }
    ptrdiff_t row = fanin_abs_(v->row_s[0]), col = fanin_abs_(v->col_s[0]);
    return n_rows >= 16 && row != 0 && row < col;
}

typedef struct {
    ptrdiff_t at[FANIN_MAXDIMS];
    ptrdiff_t offset;
} fanin_cursor;

static void fanin_seek(fanin_cursor *cursor, int nd, const ptrdiff_t *n,
                       const ptrdiff_t *s, ptrdiff_t index)
{
    cursor->offset = 0;
    for (int d = 0; d < nd; d++) {
        ptrdiff_t q = d == nd - 1 ? 0 : index / n[d];
        cursor->at[d] = index - q * n[d];
        cursor->offset += cursor->at[d] * s[d];
        index = q;
    }
}

/* Move `count` further inside the innermost axis, carrying at its end. */
static void fanin_step(fanin_cursor *cursor, int nd, const ptrdiff_t *n,
                       const ptrdiff_t *s, ptrdiff_t count)
{
    cursor->at[0] += count;
    cursor->offset += count * s[0];
    for (int d = 0; d < nd - 1 && cursor->at[d] == n[d]; d++) {
        cursor->offset += s[d + 1] - n[d] * s[d];
        cursor->at[d] = 0;
        cursor->at[d + 1]++;
    }
}

/* The address of a block that needs no gathering, else NULL. `stride` is, in
 * elements, from row to row (rows_inner: from column to column). */
static void *fanin_block_address(const fanin_view *v, int rows_inner, ptrdiff_t row,
                                 ptrdiff_t rows, ptrdiff_t col, ptrdiff_t cols,
                                 ptrdiff_t *stride)
{
    fanin_cursor r, c;
    if (!v->plain) {
        return NULL;
    }
    fanin_seek(&r, v->row_nd, v->row_n, v->row_s, row);
    fanin_seek(&c, v->col_nd, v->col_n, v->col_s, col);
    if (r.at[0] + rows > v->row_n[0] || c.at[0] + cols > v->col_n[0]) {
        return NULL;
    }
    if (rows_inner ? (rows > 1 && v->row_s[0] != v->itemsize)
                   : (cols > 1 && v->col_s[0] != v->itemsize)) {
        return NULL;
    }
    *stride = (rows_inner ? v->col_s[0] : v->row_s[0]) / v->itemsize;
    return v->data + r.offset + c.offset;
}

/* n elements, `stride` bytes apart, to a buffer at every step-th place. */
static void fanin_convert_run(void *buffer, ptrdiff_t step, const char *from,
                              ptrdiff_t stride, ptrdiff_t n, int type, int swapped)
{
    if (type == FANIN_F16 || type == FANIN_F32) {
        fanin_read_f32(buffer, step, from, stride, n, type, swapped);
    } else {
        fanin_read_f64(buffer, step, from, stride, n, type, swapped);
    }
}

/* The reverse, for native float32 and float64 only. */
static void fanin_store_run(char *to, ptrdiff_t stride, const void *buffer,
                            ptrdiff_t n, int type)
{
    if (type == FANIN_F32) {
        const float *from = buffer;
        for (ptrdiff_t i = 0; i < n; i++) {
            memcpy(to + i * stride, from + i, sizeof *from);
        }
    } else {
        const double *from = buffer;
        for (ptrdiff_t i = 0; i < n; i++) {
            memcpy(to + i * stride, from + i, sizeof *from);
        }
    }
}

/* Gather (or, with `store`, scatter) a block between the array and a dense buffer:
 * rows x cols, or cols x rows when rows_inner. */
static void fanin_block_copy(const fanin_view *v, void *buffer, int rows_inner,
                             ptrdiff_t row, ptrdiff_t rows, ptrdiff_t col,
                             ptrdiff_t cols, int store)
{
    int outer_nd = rows_inner ? v->col_nd : v->row_nd;
    int inner_nd = rows_inner ? v->row_nd : v->col_nd;
    const ptrdiff_t *outer_n = rows_inner ? v->col_n : v->row_n;
    const ptrdiff_t *outer_s = rows_inner ? v->col_s : v->row_s;
    const ptrdiff_t *inner_n = rows_inner ? v->row_n : v->col_n;
    const ptrdiff_t *inner_s = rows_inner ? v->row_s : v->col_s;
    ptrdiff_t n_outer = rows_inner ? cols : rows, n_inner = rows_inner ? rows : cols;
    ptrdiff_t size = v->type == FANIN_F16 || v->type == FANIN_F32 ? 4 : 8;
    fanin_cursor outer, inner, start;
    fanin_seek(&outer, outer_nd, outer_n, outer_s, rows_inner ? col : row);
    fanin_seek(&start, inner_nd, inner_n, inner_s, rows_inner ? row : col);
    char *dense = buffer;
    ptrdiff_t pitch = fanin_abs_(outer_s[0]);
    ptrdiff_t ahead = pitch == 0 ? 0 : (FANIN_AHEAD + pitch - 1) / pitch * outer_s[0];
    if (!store && inner_nd == 1 && n_outer > 1
        && outer.at[0] + n_outer <= outer_n[0]
        && fanin_abs_(outer_s[0]) < fanin_abs_(inner_s[0])) {
        /* A transposed source (few rows, column after column): read along its
         * own short stride. */
        for (ptrdiff_t i = 0; i < n_inner; i++) {
            fanin_convert_run(dense + i * size, n_inner,
                              v->data + outer.offset + start.offset + i * inner_s[0],
                              outer_s[0], n_outer, v->type, v->swapped);
        }
        return;
    }
    for (ptrdiff_t i = 0; i < n_outer; i++) {
        inner.offset = start.offset;
        memcpy(inner.at, start.at, sizeof *start.at * (size_t)inner_nd);
        for (ptrdiff_t done = 0; done < n_inner;) {
            ptrdiff_t run = inner_n[0] - inner.at[0];
            run = run < n_inner - done ? run : n_inner - done;
            char *place = v->data + outer.offset + inner.offset;
            if (fanin_abs_(inner_s[0]) <= FANIN_LINE) {
                /* No hardware looks this far ahead for runs with gaps. */
                for (ptrdiff_t k = 0; k < run * fanin_abs_(inner_s[0]); k += FANIN_LINE) {
                    fanin_read_ahead(inner_s[0] < 0 ? place - k : place + k, ahead);
                }
            }
            if (store) {
                fanin_store_run(place, inner_s[0], dense, run, v->type);
            } else {
                fanin_convert_run(dense, 1, place, inner_s[0], run, v->type, v->swapped);
            }
            dense += run * size;
            done += run;
            fanin_step(&inner, inner_nd, inner_n, inner_s, run);
        }
        fanin_step(&outer, outer_nd, outer_n, outer_s, 1);
    }
}

#endif
