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
        # The last layer's weight and bias are the sample.
        for p in model.parameters():
            p.requires_grad_(False)
        head = model[-1]
        hidden = model[:-1]
        inputs = (
            head.weight.detach().clone().requires_grad_(),
            head.bias.detach().clone().requires_grad_(),
        )

        def torch_loss(weight: Any, bias: Any) -> Any:
            Z = torch.nn.functional.linear(hidden(tensor), weight, bias)
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


def naive_sample(
    sizes: list[int], n_rows: int, sample: int, session: Session
) -> Contenders:
    """Compare plain differences of the loss, for networks too large for more.

    fanin's are those of `fanin.check_gradient` over `Network.loss`, for the bias of
    the layer before the last (its parameters are views into the network's); NumPy's
    are as many entries spread over all parameters.
    """
    X, y = make_batch(sizes, n_rows, np.float64)
    net = fanin_network(sizes, np.float64)
    theta = net.parameters.copy()
    n = theta.size
    loss, gradient = net.loss_and_gradient(X, y)
    name = f"dense{len(sizes) - 3}.bias"
    bias = net.named_parameters()[name][:sample]
    right = net.unflatten(gradient)[name][:sample]
    yield (
        "fanin",
        Contender(
            lambda: fanin.check_gradient(lambda _: net.loss(X, y), bias, right),
            check_report,
            scale=n / bias.size,
        ),
    )
    hand = NumpyNetwork(sizes, np.float64)
    hand.theta[...] = theta
    entries = np.linspace(0, n - 1, bias.size).astype(int)
    yield (
        "NumPy",
        Contender(
            lambda: differences_by_hand(
                lambda: hand.loss(X, y), hand.theta, entries, EPS
            ),
            partial(check_differences, gradient, loss, len(sizes), entries, EPS),
            scale=n / len(entries),
        ),
    )


def rows() -> list[Row]:
    sizes, large = [64, 100, 50, 10], [784, 1024, 256, 10]
    return [
        Row(
            f"check every gradient entry, {name_of(sizes)}, batch 64 "
            "(12,060 parameters, float64)",
            partial(every_entry, sizes, 64, 402),
            "NumPy, SciPy: 402 entries measured; PyTorch: the last layer's 510; "
            "times are for all 12,060",
        ),
        Row(
            f"the same, plain loop over the loss, {name_of(large)}, batch 32 "
            "(1,068,810 parameters, float64)",
            partial(naive_sample, large, 32, 100),
            "100 entries measured; times are for all 1,068,810",
        ),
    ]
