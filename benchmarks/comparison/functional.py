"""Rows of `fanin.dense` and `fanin.dense_backward`: one layer on one's own arrays."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

import fanin
from comparison.model import CONFIDENCE, Contender, Contenders, Row, Session, require
from comparison.model import unit_roundoff as u


def forward_and_backward(
    n_rows: int, n_in: int, n_out: int, dtype: Any, session: Session
) -> Contenders:
    """Yield a ReLU layer; NumPy multiplies and does the rest, into buffers."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((n_rows, n_in)).astype(dtype)
    W = (rng.standard_normal((n_in, n_out)) * math.sqrt(2 / n_in)).astype(dtype)
    b = rng.standard_normal(n_out).astype(dtype)
    dA = rng.standard_normal((n_rows, n_out)).astype(dtype)
    wide = [a.astype(np.float64) for a in (X, W, b, dA)]
    Z = wide[0] @ wide[1] + wide[2]
    # See `networks.Reference`: a pre-activation is off by delta of its size, and one
    # nearer to 0 than that may have either sign, which changes gradients by the root
    # of the share of such entries.
    delta = CONFIDENCE * u(dtype) * math.sqrt(max(X.shape + W.shape))
    near = float((np.abs(Z) < delta * math.sqrt((Z * Z).mean())).mean())
    D = np.where(Z > 0, wide[3], 0)
    wanted = np.maximum(Z, 0), D @ wide[1].T, wide[0].T @ D, D.sum(axis=0)

    def check(found: tuple[Any, ...]) -> None:
        names = ("A", "dX", "dweight", "dbias")
        for name, one, right in zip(names, found, wanted, strict=True):
            error = np.linalg.norm(np.asarray(one, np.float64) - right)
            allowed = 4 * delta + (0 if name == "A" else 2 * math.sqrt(near))
            require(float(error / np.linalg.norm(right)), allowed, name)

    A, dX, dW, db = (np.empty_like(a) for a in (dA, X, W, b))
    B = np.empty_like(dA)

    def bare() -> None:
        np.matmul(X, W, out=A)
        np.matmul(dA, W.T, out=dX)
        np.matmul(X.T, dA, out=dW)

    def ours() -> tuple[Any, ...]:
        fanin.dense(X, W, b, "relu", out=A)
        return A, *fanin.dense_backward(dA, X, W, A, "relu", out=(dX, dW, db))

    def numpy() -> tuple[Any, ...]:
        np.matmul(X, W, out=A)
        np.add(A, b, out=A)
        np.maximum(A, 0, out=A)
        np.multiply(dA, A > 0, out=B)
        np.matmul(B, W.T, out=dX)
        np.matmul(X.T, B, out=dW)
        np.sum(B, axis=0, out=db)
        return A, dX, dW, db

    yield "floor", Contender(bare)
    yield "fanin", Contender(ours, check)
    yield "NumPy", Contender(numpy, check)
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        x, w, c, g = (torch.from_numpy(a) for a in (X, W, b, dA))
        w, c = w.T.requires_grad_(), c.requires_grad_()
        x.requires_grad_()

        def pytorch() -> tuple[Any, ...]:
            out = torch.relu(torch.nn.functional.linear(x, w, c))
            gradients = torch.autograd.grad(out, (x, w, c), g)
            return out, gradients[0], gradients[1].T, gradients[2]

        def check_pytorch(found: tuple[Any, ...]) -> None:
            check(tuple(t.detach().numpy() for t in found))

        yield "PyTorch", Contender(pytorch, check_pytorch)


def rows() -> list[Row]:
    """Return the rows of this part."""
    return [
        Row(
            f"dense and dense_backward, {n_rows}×{n_in}-{n_out} ReLU, float32",
            partial(forward_and_backward, n_rows, n_in, n_out, np.float32),
            "the floor: NumPy's three matrix products alone",
        )
        for n_rows, n_in, n_out in ((1, 784, 1024), (256, 784, 1024))
    ]
