"""Rows of gradient checking, every entry by central differences in float64.

Where a whole check takes too long, a stated sample of the entries is checked and the
time multiplied by the share: every entry costs two evaluations of the loss, whichever
it is. Only the time is extrapolated; the entries sampled are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fanin
from comparison.model import (
    CONFIDENCE,
    Contender,
    Contenders,
    Row,
    Session,
    require,
    unit_roundoff,
)
from comparison.networks import fanin_network, make_batch, name_of, torch_network
from comparison.numpy_network import NumpyNetwork

EPS = 1e-7


def differences_by_hand(
    loss: Callable[[], float], theta: Any, entries: Any, eps: float
) -> Any:
    """Return the central differences of `loss` for some entries of `theta`."""
    numeric = np.empty(len(entries))
    for k, i in enumerate(entries):
        kept = theta[i]
        step = eps * max(1.0, abs(kept))
        theta[i] = kept + step
        above = loss()
        theta[i] = kept - step
        below = loss()
        theta[i] = kept
        numeric[k] = (above - below) / (2 * step)
    return numeric


def check_differences(
    gradient: Any, loss: float, depth: int, entries: Any, step: float, numeric: Any
) -> None:
    """Compare differences with the gradient.

    A difference carries the rounding of two losses over twice the step, and the
    samples whose ReLU flips in between: a share of about `step` of them, which by
    the reasoning of `networks.Reference` is sqrt(step) of the norm if there are any;
    with steps of 1e-7 and some thousand samples there are none.
    """
    right = gradient[entries]
    rounding = 2 * depth * CONFIDENCE * unit_roundoff(np.float64) * loss / step
    allowed = rounding * math.sqrt(len(right)) / float(np.linalg.norm(right))
    if step > 10 * EPS:
        allowed += math.sqrt(step)
    error = float(np.linalg.norm(numeric - right) / np.linalg.norm(right))
    require(error, allowed, "relative error of the differences")


def check_report(report: fanin.GradientReport) -> None:
    require(float(not report.ok), 0, f"verdict {report.verdict}")


def every_entry(
    sizes: list[int], n_rows: int, sample: int, session: Session
) -> Contenders:
    X, y = make_batch(sizes, n_rows, np.float64)
    net = fanin_network(sizes, np.float64)
    theta = net.parameters.copy()
    n = theta.size
    loss, gradient = net.loss_and_gradient(X, y)
    entries = np.linspace(0, n - 1, min(sample, n)).astype(int)
    check = partial(check_differences, gradient, loss, len(sizes), entries)

    yield "fanin", Contender(lambda: net.check_gradient(X, y), check_report)

    hand = NumpyNetwork(sizes, np.float64)
    hand.theta[...] = theta

    def value() -> float:
        return hand.loss(X, y)

    share = n / len(entries)
    yield (
        "NumPy",
        Contender(
            lambda: differences_by_hand(value, hand.theta, entries, EPS),
            partial(check, EPS),
            scale=share,
        ),
    )
    if session.has("SciPy"):
        approx_derivative: Any = _approx_derivative()
        if approx_derivative is not None:

            def of(x: Any) -> float:
                hand.theta[entries] = x
                return hand.loss(X, y)

            def scipy_differences() -> Any:
                found = approx_derivative(of, theta[entries], method="3-point")
                hand.theta[...] = theta
                return found

            third = unit_roundoff(np.float64) ** (1 / 3)  # its step
            yield (
                "SciPy",
                Contender(scipy_differences, partial(check, third), scale=share),
            )
    if session.has("PyTorch"):
        torch = session["PyTorch"]
        model = torch_network(torch, sizes, theta)
        tensor, target = torch.from_numpy(X), torch.from_numpy(y)
        # The second layer's weight is the sample: every call is a whole pass.
        for p in model.parameters():
            p.requires_grad_(False)
        named = dict(model.named_parameters())
        inputs = (named["2.weight"].detach().clone().requires_grad_(),)

        def torch_loss(weight: Any) -> Any:
            Z = torch.func.functional_call(model, {"2.weight": weight}, (tensor,))
            return torch.nn.functional.cross_entropy(Z, target)

        yield (
            "PyTorch",
            Contender(
                lambda: torch.autograd.gradcheck(torch_loss, inputs, eps=EPS),
                lambda right: require(float(right is not True), 0, "gradcheck"),
                scale=n / sum(p.numel() for p in inputs),
            ),
        )


def _approx_derivative() -> Any:
    """Return SciPy's function, which has no public name, if it is where it was."""
    try:
        from scipy.optimize._numdiff import approx_derivative
    except ImportError:
        return None
    return approx_derivative


def plain_loss(layers: Any, activation: Any, X: Any, y: Any) -> float:
    """Return the loss as a loop over the layers gives it."""
    A = X
    for weight, bias in layers[:-1]:
        A = activation(A @ weight + bias)
    weight, bias = layers[-1]
    Z = A @ weight + bias
    Z -= Z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(y)), y]).mean())


def million(
    sizes: list[int],
    n_rows: int,
    activation: str,
    sample: int,
    session: Session,
) -> Contenders:
    """Yield a check of every entry, and the loop over some entries by hand."""
    X, y = make_batch(sizes, n_rows, np.float64)
    net = fanin_network(sizes, np.float64, activation)
    theta = net.parameters.copy()
    loss, gradient = net.loss_and_gradient(X, y)
    yield ("fanin", Contender(lambda: net.check_gradient(X, y), check_report))
    function = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0.0)}[activation]
    layers = NumpyNetwork(sizes, np.float64).views(theta)
    entries = np.linspace(0, theta.size - 1, sample).astype(int)
    yield (
        "NumPy",
        Contender(
            lambda: differences_by_hand(
                lambda: plain_loss(layers, function, X, y), theta, entries, EPS
            ),
            partial(check_differences, gradient, loss, len(sizes), entries, EPS),
            scale=theta.size / len(entries),
        ),
    )


def on_one_thread(
    sizes: list[int], n_rows: int, activation: str, session: Session
) -> Contenders:
    """Yield the same check on all threads and on one."""
    X, y = make_batch(sizes, n_rows, np.float64)
    net = fanin_network(sizes, np.float64, activation)
    for name, n_threads in (("floor", None), ("fanin", 1)):
        check = partial(net.check_gradient, X, y, n_threads=n_threads)
        yield (name, Contender(check, check_report))


def of_a_function(n: int, session: Session) -> Contenders:
    """Yield differences of a Python function of an array, serial."""
    x = np.random.default_rng(6).uniform(-1.0, 1.0, n)
    right = rosen_gradient(x)
    yield (
        "fanin",
        Contender(lambda: fanin.check_gradient(rosen, x, right), check_report),
    )
    yield (
        "NumPy",
        Contender(
            lambda: differences_by_hand(lambda: rosen(x), x, range(n), EPS),
            partial(check_differences, right, rosen(x), 2, slice(None), EPS),
        ),
    )
    approx_derivative: Any = _approx_derivative() if session.has("SciPy") else None
    if approx_derivative is not None:
        third = unit_roundoff(np.float64) ** (1 / 3)  # its step
        yield (
            "SciPy",
            Contender(
                lambda: approx_derivative(rosen, x, method="3-point"),
                partial(check_differences, right, rosen(x), 2, slice(None), third),
            ),
        )


def rosen(x: Any) -> float:
    """Return Rosenbrock's function, extended (Moré, Garbow & Hillstrom 1981)."""
    return float((100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum())


def rosen_gradient(x: Any) -> Any:
    gradient = np.zeros_like(x)
    inner = x[1:] - x[:-1] ** 2
    gradient[:-1] = -400.0 * x[:-1] * inner - 2.0 * (1.0 - x[:-1])
    gradient[1:] += 200.0 * inner
    return gradient


def rows() -> list[Row]:
    sizes, large = [64, 100, 50, 10], [784, 1024, 256, 10]
    found = [
        Row(
            f"check every gradient entry, {name_of(sizes)}, batch 64 "
            "(12,060 parameters, float64)",
            partial(every_entry, sizes, 64, 402),
            "NumPy, SciPy: 402 entries measured; PyTorch: the second layer's 5,000 "
            "weights; times are for all 12,060",
        ),
    ]
    for activation in ("tanh", "relu"):
        name = f"check every gradient entry, {name_of(large)}, {activation}, batch 32 "
        name += "(1,068,810 parameters, float64)"
        found += [
            Row(
                name,
                partial(million, large, 32, activation, 100),
                "NumPy: 100 entries measured; time for all 1,068,810",
            ),
            Row(
                f"{name}, on one thread",
                partial(on_one_thread, large, 32, activation),
                "floor: fanin on all threads",
            ),
        ]
    for n in (3, 100, 1000):
        found.append(
            Row(
                f"check_gradient of a Python function of {n} numbers (rosen)",
                partial(of_a_function, n),
                "SciPy: approx_derivative, 3-point, which compares nothing",
            )
        )
    return found
