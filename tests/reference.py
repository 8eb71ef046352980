"""Plain NumPy twins of every kernel: same name, same arguments, no tricks.

They are written to be read, and to be believed; the tests hold the kernels to
them. tests/test_registry.py fails when a public function has no test, or when a
kernel has no twin here.
"""

from __future__ import annotations

import numpy as np

# --- _parallel ------------------------------------------------------------------------


def probe(n_tasks, n_threads, *, n_inner=1, seconds=0.0):
    runs = np.ones((n_tasks, n_inner), np.int64)
    workers = np.zeros(n_tasks, np.intc)
    halves = np.full(n_tasks, np.finfo(np.float64).tiny / 2)
    return runs, workers, halves


# --- _blas ----------------------------------------------------------------------------


def matmul(A, B):
    return (A.astype(np.float64) @ B.astype(np.float64)).astype(A.dtype)


def matvec(A, x, transpose=False):
    A = A.T if transpose else A
    return (A.astype(np.float64) @ x.astype(np.float64)).astype(A.dtype)
