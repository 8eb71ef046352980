"""Rows of `fanin.activations.apply` on arrays larger than a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from comparison.model import (
    Contender,
    Contenders,
    Row,
    Session,
    require,
    unit_roundoff,
)
from fanin import activations

NAMES = ("tanh", "logistic", "gelu", "gelu_tanh")
STEP = 1009  # every so many elements are held against float64
C = math.sqrt(2 / math.pi)

_erf = np.vectorize(math.erf, otypes=[np.float64])


def expected(name: str, X: Any) -> Any:
    """Return f of every STEP-th element in float64."""
    z = X.ravel()[::STEP].astype(np.float64)
    if name == "tanh":
        return np.tanh(z)
    if name == "logistic":
        return 1 / (1 + np.exp(-z))
    if name == "gelu":
        return z / 2 * (1 + _erf(z / math.sqrt(2)))
    return z / 2 * (1 + np.tanh(C * (z + 0.044715 * z**3)))


def check(wanted: Any, allowed: float, found: Any) -> None:
    """Hold what was found against float64, relative to max(1, |f|)."""
    found = np.asarray(found).ravel()[::STEP]
    error = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    require(float(error.max()), allowed, "largest difference")


def numpy_expression(name: str, X: Any) -> Callable[[], Any] | None:
    """Return what one writes; NumPy has no erf."""
    half, one, c, k = (X.dtype.type(v) for v in (0.5, 1, C, 0.044715))
    if name == "tanh":
        return lambda: np.tanh(X)
    if name == "logistic":
        return lambda: one / (one + np.exp(-X))
    if name == "gelu_tanh":
        return lambda: half * X * (one + np.tanh(c * (X + k * X * X * X)))
    return None


def scipy_expression(name: str, X: Any) -> Callable[[], Any] | None:
    from scipy import special

    if name == "logistic":
        return lambda: special.expit(X)
    if name == "gelu":
        half, one, r = (X.dtype.type(v) for v in (0.5, 1, math.sqrt(0.5)))
        return lambda: half * X * (one + special.erf(r * X))
    return None


def torch_call(torch: Any, name: str, X: Any) -> Callable[[], Any]:
    x = torch.from_numpy(X)
    out = torch.empty_like(x)
    if name in ("tanh", "logistic"):
        call = torch.tanh if name == "tanh" else torch.sigmoid
        return lambda: call(x, out=out)
    form = "none" if name == "gelu" else "tanh"
    return lambda: torch.ops.aten.gelu.out(x, approximate=form, out=out)


def jax_call(jax: Any, name: str, X: Any) -> Callable[[], Any]:
    call = {
        "tanh": jax.numpy.tanh,
        "logistic": jax.nn.sigmoid,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    }[name]
    compiled = jax.jit(call)
    x = jax.numpy.asarray(X)
    return lambda: compiled(x).block_until_ready()


def peers(name: str, X: Any, session: Session) -> Iterator[tuple[str, Any]]:
    yield "NumPy", numpy_expression(name, X)
    if session.has("SciPy"):
        yield "SciPy", scipy_expression(name, X)
    if session.has("PyTorch"):
        yield "PyTorch", torch_call(session["PyTorch"], name, X)
    if session.has("JAX"):
        yield "JAX", jax_call(session["JAX"], name, X)


def apply(name: str, n: int, dtype: Any, session: Session) -> Contenders:
    X = np.random.default_rng(6).standard_normal(n, dtype)
    X *= 2
    wanted = expected(name, X)
    # Half a dozen roundings; where 1 + erf or 1 + tanh is taken, whose error is
    # absolute, they are multiplied by |z| / 2, which is 5 or 6 at most.
    roundings = 32 if name.startswith("gelu") else 6
    hold = partial(check, wanted, roundings * unit_roundoff(dtype))
    out = np.empty_like(X)
    yield "floor", Contender(lambda: np.copyto(out, X))
    own = np.empty_like(X)
    yield "fanin", Contender(lambda: activations.apply(X, name, out=own), hold)
    for column, call in peers(name, X, session):
        if call is not None:
            yield column, Contender(call, hold)


def rows() -> list[Row]:
    note = (
        "floor: copyto on one thread; fanin and PyTorch with out=, NumPy's expression "
        "as it is written"
    )
    return [
        Row(
            f"{name} of {10**7:,} {dtype.__name__}",
            partial(apply, name, 10**7, dtype),
            note,
        )
        for name in NAMES
        for dtype in (np.float32, np.float64)
    ]
