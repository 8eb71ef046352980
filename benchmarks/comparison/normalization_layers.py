"""Rows of `fanin.layer_norm`, `batch_norm`, `rms_norm` and their backward passes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import fanin
from comparison.model import (
    Contender,
    Contenders,
    Row,
    Session,
    require,
    sum_error,
    unit_roundoff,
)

EPS = 1e-5
CHECKED = 1 << 12  # rows that are held against float64


def make(n_samples: int, n_features: int) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((n_samples, n_features), np.float32) * 2 + 3
    dY = rng.standard_normal((n_samples, n_features), np.float32)
    gamma = rng.uniform(0.5, 2, n_features).astype(np.float32)
    return X, dY, gamma, rng.standard_normal(n_features).astype(np.float32)


def mean_and_rstd(X: Any, kind: str) -> tuple[Any, Any]:
    """Return the statistics in float64; for layer_norm of the first rows only."""
    if kind == "batch_norm":
        mean = X.mean(axis=0, dtype=np.float64)
        var = X.var(axis=0, dtype=np.float64)
    else:
        rows = X[:CHECKED].astype(np.float64)
        mean = rows.mean(axis=1, keepdims=True) * (kind == "layer_norm")
        var = ((rows - mean) ** 2).mean(axis=1, keepdims=True)
    return mean, 1 / np.sqrt(var + EPS)


def expected(kind: str, X: Any, gamma: Any, beta: Any) -> Any:
    mean, rstd = mean_and_rstd(X, kind)
    result = (X[:CHECKED].astype(np.float64) - mean) * rstd * gamma
    return result + beta if kind != "rms_norm" else result


def expected_gradient(kind: str, X: Any, dY: Any, gamma: Any) -> Any:
    mean, rstd = mean_and_rstd(X, kind)
    rows = slice(None) if kind == "batch_norm" else slice(CHECKED)
    axis = 0 if kind == "batch_norm" else 1
    xhat = (X[rows] - mean) * rstd
    g = dY[rows] * gamma.astype(np.float64)
    result = g - xhat * (g * xhat).mean(axis=axis, keepdims=True)
    if kind != "rms_norm":
        result -= g.mean(axis=axis, keepdims=True)
    return (rstd * result)[:CHECKED]


def tolerance(kind: str, n_samples: int, sums: Any) -> float:
    """Return what an element may be off by, for sums over samples in dtype `sums`."""
    # Some tens of roundings an element.
    own = 200 * unit_roundoff(np.float32)
    # The data has mean 3 and standard deviation 2: what is summed is below 6 of these.
    return own + 12 * sum_error(n_samples, sums) * (kind == "batch_norm")


def check(wanted: Any, allowed: float, found: Any) -> None:
    error = np.abs(np.asarray(found)[:CHECKED] - wanted).max()
    require(float(error), allowed, "largest difference")


def numpy_forward(kind: str, X: Any, gamma: Any, beta: Any) -> tuple[Any, Any, Any]:
    axis = 0 if kind == "batch_norm" else 1
    if kind == "rms_norm":
        xhat = X.copy()
    else:
        xhat = X - X.mean(axis=axis, keepdims=True)
    rstd = 1 / np.sqrt((xhat * xhat).mean(axis=axis, keepdims=True) + np.float32(EPS))
    xhat *= rstd
    Y = xhat * gamma
    if kind != "rms_norm":
        Y += beta
    return Y, xhat, rstd


def numpy_backward(kind: str, dY: Any, xhat: Any, rstd: Any, gamma: Any) -> Any:
    axis = 0 if kind == "batch_norm" else 1
    dgamma, dbeta = (dY * xhat).sum(axis=0), dY.sum(axis=0)
    dX = dY * gamma
    inner = xhat * (dX * xhat).mean(axis=axis, keepdims=True)
    if kind != "rms_norm":
        inner += dX.mean(axis=axis, keepdims=True)
    dX -= inner
    dX *= rstd
    return dX, dgamma, dbeta


def torch_call(torch: Any, kind: str, X: Any, gamma: Any, beta: Any) -> Any:
    F, shape = torch.nn.functional, X.shape[1:]
    if kind == "batch_norm":
        return F.batch_norm(X, None, None, gamma, beta, training=True, eps=EPS)
    if kind == "layer_norm":
        return F.layer_norm(X, shape, gamma, beta, eps=EPS)
    return F.rms_norm(X, shape, gamma, eps=EPS)


def own_call(kind: str, X: Any, gamma: Any, beta: Any, out: Any) -> Any:
    if kind == "rms_norm":
        return fanin.rms_norm(X, gamma, eps=EPS, out=out)
    return getattr(fanin, kind)(X, gamma, beta, eps=EPS, out=out)


def forward(kind: str, n: int, p: int, session: Session) -> Contenders:
    X, target, gamma, beta = make(n, p)
    wanted = expected(kind, X, gamma, beta)
    double, single = (tolerance(kind, n, sums) for sums in (np.float64, np.float32))
    out = np.empty_like(X)
    yield "floor", Contender(lambda: np.copyto(target, X))
    yield (
        "fanin",
        Contender(
            lambda: own_call(kind, X, gamma, beta, out),
            lambda r: check(wanted, double, r[0]),
        ),
    )
    yield (
        "NumPy",
        Contender(
            lambda: numpy_forward(kind, X, gamma, beta),
            lambda r: check(wanted, single, r[0]),
        ),
    )
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        tensors = [torch.from_numpy(a) for a in (X, gamma, beta)]

        def run() -> Any:
            with torch.inference_mode():
                return torch_call(torch, kind, *tensors)

        yield "PyTorch", Contender(run, lambda Y: check(wanted, single, Y.numpy()))


def backward(kind: str, n: int, p: int, session: Session) -> Contenders:
    X, dY, gamma, beta = make(n, p)
    wanted = expected_gradient(kind, X, dY, gamma)
    double, single = (tolerance(kind, n, sums) for sums in (np.float64, np.float32))
    out = np.empty_like(X)
    _, saved = own_call(kind, X, gamma, beta, None)
    run = getattr(fanin, kind + "_backward")
    yield "floor", Contender(lambda: np.copyto(out, X))
    yield (
        "fanin",
        Contender(
            lambda: run(dY, saved, out=out), lambda r: check(wanted, double, r[0])
        ),
    )
    _, xhat, rstd = numpy_forward(kind, X, gamma, beta)
    yield (
        "NumPy",
        Contender(
            lambda: numpy_backward(kind, dY, xhat, rstd, gamma),
            lambda r: check(wanted, single, r[0]),
        ),
    )
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        tensors = [torch.from_numpy(a).requires_grad_() for a in (X, gamma, beta)]
        given = tensors[:2] if kind == "rms_norm" else tensors
        Y, upstream = torch_call(torch, kind, *tensors), torch.from_numpy(dY)

        def differentiate() -> Any:
            return torch.autograd.grad(Y, given, upstream, retain_graph=True)

        yield (
            "PyTorch",
            Contender(differentiate, lambda r: check(wanted, single, r[0].numpy())),
        )


def rows() -> list[Row]:
    found = []
    for n, p in [(1_000_000, 50), (32, 64)]:
        for kind in ("layer_norm", "batch_norm", "rms_norm"):
            for name, build in (("forward", forward), ("backward", backward)):
                found.append(
                    Row(
                        f"{kind} {name} {n:,}×{p} float32",
                        partial(build, kind, n, p),
                        "floor: copyto; fanin with out=",
                    )
                )
    return found
