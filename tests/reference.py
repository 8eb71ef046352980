"""Plain NumPy twins of every kernel: same name, same arguments, no tricks.

They are written to be read, and to be believed; the tests hold the kernels to
them. tests/test_registry.py fails when a public function has no test, or when a
kernel has no twin here.
"""

from __future__ import annotations

import numpy as np

# --- _source -------------------------------------------------------------------


def column_order(X, axes):
    """The kept axes by falling stride, ties in the array's own order."""
    kept = [d for d in range(X.ndim) if d not in axes]
    return tuple(sorted(kept, key=lambda d: -abs(X.strides[d])))


def _as_table(X, axes):
    """X as rows (reduced axes) by columns (kept axes, in `column_order`)."""
    kept = column_order(X, axes)
    table = X.transpose(tuple(axes) + kept)
    n_columns = int(np.prod([X.shape[d] for d in kept]))
    return table.reshape(-1, n_columns)


# --- _moments ------------------------------------------------------------------


def moments_forward(state, exponent, X, axes, n_threads):
    """Two plain passes in long double, which has digits and range to spare."""
    table = _as_table(X, axes).astype(np.longdouble)
    known = ~np.isnan(table)
    n = known.sum(axis=0)
    with np.errstate(all="ignore"):
        mean = np.where(known, table, 0).sum(axis=0) / n
        d = np.where(known, table - mean, 0)
        mean = mean + d.sum(axis=0) / n
        mean[n == 0] = 0
        m2 = np.where(known, (table - mean) ** 2, 0).sum(axis=0)
    size = np.frexp(np.max(np.abs(np.where(known, table, 0)), axis=0))[1]
    ordinary = (np.abs(size) < 300) | ~np.isfinite(m2)
    exponent[:] = np.where(ordinary, 0, size)
    with np.errstate(all="ignore"):
        mean = np.ldexp(mean, -exponent)
        m2 = np.ldexp(m2, -2 * exponent)
        state[0] = n
        state[1] = mean
        state[2] = np.where(np.isfinite(mean), mean - state[1], 0)
        state[3] = m2
        state[4] = np.where(np.isfinite(m2), m2 - state[3], 0)


def moments_finish(var, std, state, exponent, ddof):
    """Unscaled variance and standard deviation; whether any exponent is not 0."""
    n, _, _, m2, m2_lo = state
    with np.errstate(all="ignore"):
        scaled = np.where(n > ddof, (m2 + m2_lo) / (n - ddof), np.nan)
        var[:] = np.ldexp(scaled, 2 * exponent)
        std[:] = np.ldexp(np.sqrt(scaled), exponent)
    return bool(exponent.any())


def moments_merge(state, exponent, state_b, exponent_b):
    """Chan, Golub & LeVeque's merge in long double."""

    def long(s, e):
        n, hi, lo, m2, m2_lo = s.astype(np.longdouble)
        return n, np.ldexp(hi + lo, e), np.ldexp(m2 + m2_lo, 2 * e)

    na, ma, qa = long(state, exponent)
    nb, mb, qb = long(state_b, exponent_b)
    n = na + nb
    some = np.where(n > 0, n, 1)
    d = mb - ma
    mean = ma + d * nb / some
    m2 = qa + qb + d * d * na * nb / some
    state[0] = n
    state[1] = mean
    state[2] = mean - state[1]
    state[3] = m2
    state[4] = m2 - state[3]
    exponent[:] = 0


# --- _normalize ----------------------------------------------------------------


def normalize_forward(
    out, X, axes, mean, mean_lo, std, exponent, zero, inverse, n_threads
):
    """(x - mean) / std, or x std + mean, in long double."""
    kept = column_order(X, axes)
    order = tuple(axes) + kept
    source = X.transpose(order).astype(np.longdouble)
    shape = (1,) * len(axes) + tuple(X.shape[d] for d in kept)

    def across(values):
        return np.asarray(values, np.longdouble).reshape(shape)

    e = across(0 if exponent is None else exponent) if exponent is not None else None
    lo = across(mean_lo) if mean_lo is not None else np.longdouble(0)
    divisor = across(np.where(np.asarray(std) == 0, 1, std))
    with np.errstate(all="ignore"):
        if inverse:
            result = source * divisor + across(mean)
        else:
            if e is not None:
                source = np.ldexp(source, -e.astype(int))
            result = ((source - across(mean)) - lo) / divisor
            if zero:
                blank = across(std) == 0
                result = np.where(blank & ~np.isnan(result), 0, result)
        out.transpose(order)[...] = result
