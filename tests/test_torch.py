"""Networks at random against PyTorch: loss, gradients, dX, steps, running statistics.

What "equal" means. `TOLERANCE` is relative to the norm of each array (a parameter's
gradient, dX, ...), as long as rounding allows it. Gradients cancel: that of a bias
before batch normalization is 0, and of either library one gets what rounding leaves of
its terms. So the tolerance of an array is

    max(TOLERANCE * |a|, 2 n u S),     u = eps / 2,

where S, the array's sensitivity, is what it changes by for a relative change of 1 of
every intermediate value of the pass, forward and backward, and for a change by 1 of
every slope of a curved activation: measured in PyTorch alone, in double, by
multiplying each by ``1 + DELTA * normal`` and dividing by DELTA (stochastic
arithmetic: Parker, Pierce & Eggert, Comput. Sci. Eng. 2 (2000) 58). A sum of n
products x_i y_i in any order has an error of about sqrt(n) u sum |x_i y_i| (Higham &
Mary, SIAM J. Sci. Comput. 41 (2019) A2815), which is at most n u times the root of the
sum of their squares, which is what S counts; n is the longest sum of the network, and
there are two libraries. `test_the_tolerances_are_sharp` holds the second term to be
the exception.

Where the argument of a function with a kink (relu and its like at 0, an absolute error)
lies within that of the kink, its sign and thus the gradient are rounding's choice: the
problem is drawn again (in double about never, in single one network of a hundred), as
where a value exceeds `LARGEST`, which an exponential soon does. Nothing else is left
out: a batch normalization of two rows, say, has its sensitivity.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import random_networks
import reference

import fanin
from fanin import optimizers

torch = pytest.importorskip("torch", minversion="2.4")
F = torch.nn.functional

TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}
DELTA = 1e-8
SAMPLES = 3
LARGEST = 1e6
N_PROBLEMS = 300


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """So small are the arrays that PyTorch's threads only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


# --- the network in PyTorch ---------------------------------------------------------


class _Jitter(torch.autograd.Function):
    """x and its gradient, each entry times 1 + DELTA * normal."""

    @staticmethod
    def forward(ctx, x, generator):
        ctx.generator = generator
        return x * _factors(x, generator)

    @staticmethod
    def backward(ctx, g):
        return g * _factors(g, ctx.generator), None


class _JitteredNorm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) by the closed form, each term off by itself.

    (Differentiated step by step, terms that are off would still cancel each other.)
    """

    @staticmethod
    def forward(ctx, x, generator, axis, centre, eps):
        ctx.off = off = lambda a: a * _factors(a, generator)
        ctx.axis, ctx.centre = axis, centre
        centred = x - off(off(x).mean(axis, True)) if centre else x
        rstd = off(torch.rsqrt((off(centred) ** 2).mean(axis, True) + eps))
        xhat = off(centred) * rstd
        ctx.save_for_backward(xhat, rstd)
        return xhat

    @staticmethod
    def backward(ctx, g):
        xhat, rstd = ctx.saved_tensors
        off = ctx.off
        D = off(g) - off(xhat) * off(off(g * xhat).mean(ctx.axis, True))
        if ctx.centre:
            D = D - off(off(g).mean(ctx.axis, True))
        return rstd * D, None, None, None, None


def _factors(x, generator):
    return 1 + DELTA * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def activation(function, z, kinks):
    """The function of `fanin.activations` as PyTorch has it."""
    name, parameter = function.name, function.parameter
    smooth_elu = name == "elu" and parameter == 1.0
    if name in ("relu", "leaky_relu", "elu", "selu") and not smooth_elu:
        kinks.append(z)
    return {
        "identity": lambda: z,
        "logistic": lambda: torch.sigmoid(z),
        "tanh": lambda: torch.tanh(z),
        "relu": lambda: torch.relu(z),
        "leaky_relu": lambda: F.leaky_relu(z, parameter),
        "elu": lambda: F.elu(z, parameter),
        "selu": lambda: F.selu(z),
        # (By default PyTorch's is z from z = 20 on, which is off by 2e-9.)
        "softplus": lambda: F.softplus(z, threshold=40),
        "silu": lambda: F.silu(z),
        "gelu": lambda: F.gelu(z),
        "gelu_tanh": lambda: F.gelu(z, approximate="tanh"),
    }[name]()


def loss_of(loss, Z, y, weight, kinks):
    """The loss of `fanin.losses` as PyTorch has it; the weighted mean is ours."""
    name = loss.name
    if name != "softmax_cross_entropy" and y.ndim == 1:
        y = y[:, None].expand_as(Z)
    if name in ("absolute_error", "quantile"):
        kinks.append(Z - y)
    options = {"reduction": "mean" if weight is None else "none"}
    if name == "quantile":  # PyTorch has none
        q = torch.tensor(loss.quantiles or loss.parameter, dtype=Z.dtype)
        value = torch.maximum(q * (y - Z), (q - 1) * (y - Z))
        value = value.mean() if weight is None else value
    elif name == "softmax_cross_entropy":
        value = F.cross_entropy(Z, y, label_smoothing=loss.parameter, **options)
    elif name == "huber":
        value = F.huber_loss(Z, y, delta=loss.parameter, **options)
    else:
        value = {
            "squared_error": F.mse_loss,
            "absolute_error": F.l1_loss,
            "poisson": F.poisson_nll_loss,
            "binary_cross_entropy": F.binary_cross_entropy_with_logits,
        }[name](Z, y, **options)
    if weight is None:
        return value
    rows = value.reshape(Z.shape[0], -1).mean(dim=1)
    return (weight * rows).sum() / weight.sum()


class TorchNetwork:
    """The layers of a `fanin.Network` with copies of its parameters, in PyTorch."""

    def __init__(self, net, dtype, jitter=None):
        self.net, self.dtype, self.generator = net, dtype, None
        if jitter is not None:
            self.generator = torch.Generator().manual_seed(jitter)
        self.parameters = {
            name: torch.tensor(array, dtype=dtype, requires_grad=True)
            for name, array in net.named_parameters().items()
        }
        self.buffers = {
            name: torch.tensor(array, dtype=dtype)
            for name, array in net.named_buffers().items()
        }
        self.key, self.draw = net._dropout_key, net._draw
        self.kinks: list[Any] = []

    def jitter(self, x):
        if x is None or self.generator is None:
            return x
        return _Jitter.apply(x, self.generator)

    def forward(self, X, training):
        A = self.jitter(X)
        for i, layer in enumerate(self.net.layers):
            own = {
                name: self.jitter(self.parameters.get(f"{layer.kind}{i}.{name}"))
                for name in ("weight", "bias", "gamma", "beta")
            }
            if layer.kind == "dense":
                z = self.jitter(F.linear(A, own["weight"].T, own["bias"]))
                A = self.activate(layer, z)
            elif layer.kind == "activation":
                A = self.activate(layer, A)
            elif layer.kind != "dropout":
                A = self.normalize(i, layer, A, own["gamma"], own["beta"], training)
            elif training:
                mask = reference.dropout_mask(
                    self.key, self.draw, i, layer.rate, tuple(A.shape)
                )
                A = A * torch.tensor(mask, dtype=self.dtype)
            A = self.jitter(A)
        return A

    def activate(self, layer, z):
        function = fanin.activations.get(layer.activation)
        A = activation(function, z, self.kinks)
        exact = function.name in ("identity", "relu", "leaky_relu")
        if self.generator is not None and not exact:
            # A slope is off by a part of the largest, not of itself: 1 - a**2 is.
            A = A + (_factors(z, self.generator) - 1) * (z - z.detach())
        return A

    def normalize(self, i, layer, A, gamma, beta, training):
        # None means the network's own, also where it is followed in double.
        eps = np.finfo(self.net.dtype).eps if layer.eps is None else layer.eps
        kind = layer.kind
        if kind == "batch_norm":
            running = [
                self.buffers[f"{kind}{i}.running_{what}"] for what in ("mean", "var")
            ]
            found = F.batch_norm(
                A, *running, gamma, beta, training, layer.momentum, eps
            )
            if not training:
                return found
        if self.generator is None:
            if kind == "batch_norm":
                return found
            if kind == "rms_norm":
                return F.rms_norm(A, A.shape[1:], gamma, float(eps))
            return F.layer_norm(A, A.shape[1:], gamma, beta, eps)
        xhat = _JitteredNorm.apply(
            A, self.generator, int(kind != "batch_norm"), kind != "rms_norm", eps
        )
        xhat = self.jitter(xhat)
        xhat = xhat if gamma is None else self.jitter(xhat * gamma)
        return xhat if beta is None else xhat + beta

    def penalty(self):
        total = 0.0
        for i, layer in enumerate(self.net.layers):
            if layer.kind == "dense":
                l2 = self.net._l2 if layer.l2 is None else layer.l2
                weight = self.jitter(self.parameters[f"dense{i}.weight"])
                total = total + l2 / 2 * (weight**2).sum()
        return total

    def batch(self, problem):
        X = torch.tensor(np.ascontiguousarray(problem.X), dtype=self.dtype)
        y = torch.tensor(problem.y)
        if y.dtype != torch.int64 or problem.net.loss_function.name == "poisson":
            y = y.to(self.dtype)
        weight = problem.sample_weight
        if weight is not None:
            weight = torch.tensor(weight, dtype=self.dtype)
        return X.requires_grad_(), y, weight

    def loss(self, X, y, weight, training):
        Z = self.forward(X, training)
        loss = self.net.loss_function
        return loss_of(loss, Z, y, weight, self.kinks) + self.penalty()


# --- what is compared ---------------------------------------------------------------


def pytorch_gradients(problem, dtype, jitter=None):
    """Loss, gradients and dX of one pass."""
    twin = TorchNetwork(problem.net, dtype, jitter)
    X, y, weight = twin.batch(problem)
    value = twin.loss(X, y, weight, problem.training)
    value.backward()
    found = {"loss": value.detach().numpy(), "dX": X.grad.numpy()}
    for name, p in twin.parameters.items():
        found[name] = p.grad.numpy()
    return SimpleNamespace(arrays=found, kinks=[z.detach() for z in twin.kinks])


def pytorch_block(problem, dtype, jitter=None):
    """The network as a block: the output, and what a gradient of it becomes."""
    twin = TorchNetwork(problem.net, dtype, jitter)
    X, _, _ = twin.batch(problem)
    Z = twin.forward(X, problem.training)
    dA = twin.jitter(torch.tensor(block_gradient(problem), dtype=dtype))
    Z.backward(dA)
    found = {"output": Z.detach().numpy(), "dX": X.grad.numpy()}
    for name, p in twin.parameters.items():
        found[name] = p.grad.numpy()
    for name, buffer in twin.buffers.items():
        found[name] = buffer.numpy()
    return SimpleNamespace(arrays=found, kinks=[z.detach() for z in twin.kinks])


def fanin_gradients(problem):
    """The same of the network itself."""
    net, X, y = problem.net, problem.X, problem.y
    mode = {"sample_weight": problem.sample_weight, "training": problem.training}
    loss, gradient = net.loss_and_gradient(X, y, **mode)
    dX = net.input_gradient(X, y, **mode)
    return {"loss": loss, "dX": dX, **net.unflatten(gradient)}


def block_gradient(problem):
    rng = np.random.default_rng(0)
    shape = (problem.X.shape[0], problem.net.n_outputs)
    return rng.standard_normal(shape).astype(problem.net.dtype)


def an_optimizer(seed):
    """An optimizer of ours, and the function that makes PyTorch's."""
    rng = np.random.default_rng([seed, 6])
    clip = {
        "clip_norm": [None, 0.05, 0.5, 100.0][rng.integers(4)],
        "clip_value": [None, None, 0.02][rng.integers(3)],
    }
    flag = bool(rng.integers(2))
    # (An epsilon of 1e-8 makes a step of full size of what rounding leaves of a
    # gradient of 0: there would be nothing to compare.)
    epsilon = float(rng.choice([1e-3, 1e-2]))
    rates = [float(r) for r in rng.uniform(0.003, 0.03, 3)]
    kind = seed % 4
    if kind == 0:
        momentum = float(rng.choice([0.0, 0.9]))
        nesterov = flag and momentum > 0
        ours = optimizers.SGD(momentum=momentum, nesterov=nesterov, **clip)

        def make(groups):
            return torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov)
    elif kind == 1:
        momentum, alpha = float(rng.choice([0.0, 0.9])), 0.9
        ours = optimizers.RMSProp(
            alpha=alpha, epsilon=epsilon, momentum=momentum, centered=flag, **clip
        )

        def make(groups):
            return torch.optim.RMSprop(
                groups, alpha=alpha, eps=epsilon, momentum=momentum, centered=flag
            )
    elif kind == 2:
        ours = optimizers.Adam(beta_1=0.8, epsilon=epsilon, amsgrad=flag, **clip)

        def make(groups):
            return torch.optim.Adam(
                groups, betas=(0.8, 0.999), eps=epsilon, amsgrad=flag
            )
    else:
        ours = optimizers.AdamW(weight_decay=0.3, epsilon=epsilon, amsgrad=flag, **clip)

        def make(groups):
            for group, decay in zip(groups, (0.3, 0.0), strict=True):
                group["weight_decay"] = decay
            return torch.optim.AdamW(groups, eps=epsilon, amsgrad=flag)

    ours.learning_rate = rates.__getitem__
    return ours, make


def pytorch_steps(problem, seed, n_steps, dtype, jitter=None):
    """Losses and gradients of some steps; parameters and statistics after them."""
    twin = TorchNetwork(problem.net, dtype, jitter)
    ours, make = an_optimizer(seed)
    weights = [p for name, p in twin.parameters.items() if name.endswith("weight")]
    others = [p for name, p in twin.parameters.items() if not name.endswith("weight")]
    optimizer = make([{"params": weights}, {"params": others}])
    X, y, weight = twin.batch(problem)
    found = {}
    for t in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = ours.learning_rate(t)
        optimizer.zero_grad()
        value = twin.loss(X, y, weight, True)
        value.backward()
        found[f"loss of step {t}"] = value.detach().numpy()
        for name, p in twin.parameters.items():
            found[f"gradient of {name} of step {t}"] = p.grad.numpy().copy()
        if ours.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(twin.parameters.values(), ours.clip_norm)
        if ours.clip_value is not None:
            torch.nn.utils.clip_grad_value_(twin.parameters.values(), ours.clip_value)
        optimizer.step()
        twin.draw += 1
    for name, p in twin.parameters.items():
        found[name] = p.detach().numpy()
    for name, buffer in twin.buffers.items():
        found[name] = buffer.numpy()
    return SimpleNamespace(arrays=found, kinks=[z.detach() for z in twin.kinks])


# --- how it is compared -------------------------------------------------------------


class Redraw(Exception):
    """A problem of no use: near a kink, or near overflow."""


def size(array):
    return float(np.linalg.norm(np.ravel(array)))


def wanted_of(problem, run):
    """PyTorch's arrays in the network's dtype, and the sensitivity of each.

    ``run(problem, dtype, jitter)`` is one of the functions above.
    """
    exact = run(problem, torch.float64)
    if not all(np.abs(a).max(initial=0.0) < LARGEST for a in exact.arrays.values()):
        raise Redraw
    jittered = [run(problem, torch.float64, k) for k in range(SAMPLES)]
    n_u = problem.longest_sum * float(np.finfo(problem.net.dtype).eps)
    for z, *others in zip(exact.kinks, *(j.kinks for j in jittered), strict=True):
        change = torch.stack([(other - z) ** 2 for other in others]).mean(dim=0)
        change = torch.sqrt(change) / DELTA
        if ((z.abs() <= n_u * change) & (change > 0)).any():
            raise Redraw
    sensitivity = {
        name: np.sqrt(np.mean([size(j.arrays[name] - a) ** 2 for j in jittered]))
        / DELTA
        for name, a in exact.arrays.items()
    }
    if problem.net.dtype == np.float64:
        return exact.arrays, sensitivity
    return run(problem, torch.float32).arrays, sensitivity


def drawn(seed, dtype, run, **options):
    """The problem of this number, or the next of it that is not near a kink."""
    for attempt in itertools.count():
        problem = random_networks.problem(seed, dtype, attempt, **options)
        try:
            return problem, *wanted_of(problem, run)
        except Redraw:
            assert attempt < 100, "no such problem is of use"
    raise AssertionError


def limits(problem, wanted, sensitivity):
    """Return (what PyTorch's array may differ by, TOLERANCE's part of that)."""
    dtype = problem.net.dtype.type
    n_u = problem.longest_sum * float(np.finfo(dtype).eps)
    found = {}
    for name, array in wanted.items():
        strict = TOLERANCE[dtype] * size(array)
        found[name] = max(strict, n_u * sensitivity[name]), strict
    return found


def compare(problem, found, wanted, sensitivity):
    assert found.keys() == wanted.keys()
    for name, (limit, _) in limits(problem, wanted, sensitivity).items():
        assert np.isfinite(wanted[name]).all(), f"{name}: a problem of no use"
        error = size(found[name] - np.asarray(wanted[name], np.float64))
        assert error <= limit, f"{name}: {error:.2e}, allowed {limit:.2e}"


cases = pytest.mark.parametrize("seed", range(N_PROBLEMS))
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@dtypes
@cases
def test_loss_and_gradients_equal_pytorch(seed, dtype):
    problem, wanted, sensitivity = drawn(seed, dtype, pytorch_gradients)
    compare(problem, fanin_gradients(problem), wanted, sensitivity)


@dtypes
@pytest.mark.parametrize("seed", range(0, N_PROBLEMS, 3))
def test_a_block_equals_pytorch(seed, dtype):
    """Forward, then backward of a given gradient; running statistics after it."""
    problem, wanted, sensitivity = drawn(seed, dtype, pytorch_block)
    net = problem.net
    output = net.forward(problem.X, training=problem.training)
    dX = net.backward(block_gradient(problem))
    found = {"output": output, "dX": dX, **net.unflatten(net.gradient)}
    compare(problem, found | net.named_buffers(), wanted, sensitivity)


@dtypes
@pytest.mark.parametrize("seed", range(1, N_PROBLEMS, 3))
def test_steps_equal_pytorch(seed, dtype):
    """One to three steps of an optimizer, each of which moves the statistics."""
    n_steps = 1 + seed // 3 % 3

    def run(problem, dtype, jitter=None):
        return pytorch_steps(problem, seed, n_steps, dtype, jitter)

    problem, wanted, sensitivity = drawn(seed, dtype, run, training=True)
    net, (optimizer, _) = problem.net, an_optimizer(seed)
    found = {}
    for t in range(n_steps):
        found[f"loss of step {t}"] = net.train_step(
            problem.X, problem.y, optimizer, problem.sample_weight
        )
        for name, array in net.unflatten(net.gradient.copy()).items():
            found[f"gradient of {name} of step {t}"] = array
    found |= net.named_parameters() | net.named_buffers()
    compare(problem, found, wanted, sensitivity)


@dtypes
def test_the_tolerances_are_sharp(dtype):
    """Nearly all arrays differ by less than `TOLERANCE` of their norm.

    And of nine in ten no more is allowed than ten times that, so that an error of one
    digit in 1e-10 (or 1e-3) would not pass for rounding.
    """
    within, allowed = [], []
    for seed in range(60):
        problem, wanted, sensitivity = drawn(seed, dtype, pytorch_gradients)
        found = fanin_gradients(problem)
        for name, (limit, strict) in limits(problem, wanted, sensitivity).items():
            error = size(found[name] - np.asarray(wanted[name], np.float64))
            within.append(error <= strict)
            allowed.append(limit <= 10 * strict)
    assert np.mean(within) > 0.95
    assert np.mean(allowed) > 0.9
