"""Mistakes that are made in backward passes, planted in right gradients.

Every one must be reported, in the array where it is, and named where the diagnosis
has a name for it.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
import random_networks

import fanin
from fanin.layers import Dense

N_NETWORKS = 50
FOUND = ("wrong", "suspicious")


def large(arrays, accept=lambda array: True):
    """The name of the array with the largest gradient among those accepted."""
    names = [name for name, array in arrays.items() if accept(array)]
    if not names:
        return None
    return max(names, key=lambda name: np.linalg.norm(arrays[name]))


def matrix(array):
    return array.ndim == 2 and min(array.shape) >= 2


def several(array):
    return array.size >= 4 and np.count_nonzero(array) >= 4


def both(*conditions):
    return lambda array: all(condition(array) for condition in conditions)


class Skip(Exception):
    """The mistake cannot be made in this network."""


def pick(arrays, accept=several):
    name = large(arrays, accept)
    if name is None or np.linalg.norm(arrays[name]) < 1e-6:
        raise Skip
    return name


# Each takes the right gradient by arrays, changes it, and returns the name of the array
# that is wrong then. `problem` has the network, `rng` decides.


def scaled(factor):
    def plant(arrays, problem, rng):
        name = pick(arrays)
        arrays[name] *= factor
        return name

    return plant


def sum_for_mean(arrays, problem, rng):
    name = pick(arrays)
    arrays[name] *= problem.X.shape[0]
    if problem.X.shape[0] < 3:
        raise Skip
    return name


def mean_for_sum(arrays, problem, rng):
    name = pick(arrays)
    arrays[name] /= problem.X.shape[0]
    if problem.X.shape[0] < 3:
        raise Skip
    return name


def changed(transform, accept=several):
    """Replace an array, unless that makes no difference to speak of."""

    def plant(arrays, problem, rng):
        name = pick(arrays, accept)
        old = arrays[name].copy()
        arrays[name][...] = transform(old.copy(), rng)
        if np.linalg.norm(arrays[name] - old) < 0.05 * np.linalg.norm(old):
            raise Skip
        return name

    return plant


def exchange_rows(array, rng):
    i, j = rng.choice(array.shape[0], 2, replace=False)
    order = np.arange(array.shape[0])
    order[[i, j]] = j, i
    return array[order]


def no_ties(array):
    """No two lines of equal content, which permuting would not tell apart."""
    return all(
        len(np.unique(array.sum(axis), axis=0)) == array.shape[1 - axis]
        for axis in (0, 1)
    )


def one_row(array, rng):
    array[rng.choice(np.flatnonzero(np.abs(array).sum(axis=1)))] *= -1
    return array


def last_columns(array, rng):
    array[:, : array.shape[1] // 2] = 0
    return array


def clip(array, rng):
    size = np.sort(np.abs(array).ravel())
    limit = size[-min(array.size, max(3, array.size // 4))]
    return np.clip(array, -limit, limit)


def by_column(array, rng):
    return array / np.linspace(0.3, 0.9, array.shape[1])


def dead_columns(array, rng):
    array[:, 0] = np.abs(array).max()
    return array


def other_array(arrays, problem, rng):
    for name in arrays:
        for other in arrays:
            if (
                name != other
                and arrays[name].size == arrays[other].size >= 2
                and np.linalg.norm(arrays[other]) > 1e-4
                and not np.allclose(arrays[name].ravel(), arrays[other].ravel(), rtol=0.1)
            ):
                arrays[name][...] = arrays[other].reshape(arrays[name].shape)
                return name
    raise Skip


def penalty(coefficient):
    def plant(arrays, problem, rng):
        theta = problem.net.named_parameters()
        name = large(
            arrays, lambda array: array.size >= 4 and np.linalg.norm(array) > 1e-5
        )
        if name is None or np.ptp(theta[name]) == 0:
            raise Skip
        g, t = arrays[name].ravel(), theta[name].ravel()
        if abs(g @ t) > 0.9 * np.linalg.norm(g) * np.linalg.norm(t):
            raise Skip  # then it is a factor as well
        arrays[name] += coefficient * theta[name]
        return name

    return plant


def single(factor):
    def plant(arrays, problem, rng):
        name = pick(arrays, lambda array: array.size >= 8 and several(array))
        flat = arrays[name].reshape(-1)
        size = np.abs(flat)
        there = np.flatnonzero(size > 1e-5)
        if there.size < 4:
            raise Skip
        # The one of median size.
        i = there[np.argsort(size[there])[there.size // 2]]
        flat[i] *= factor
        return name

    return plant


def not_finite(arrays, problem, rng):
    name = pick(arrays)
    arrays[name].flat[rng.integers(arrays[name].size)] = np.nan
    return name


KINDS = {
    "sign": (scaled(-1.0), "numeric is -1 times analytic: the sign is wrong"),
    "twice": (scaled(2.0), "numeric is 0.5 times analytic: there is a factor 2"),
    "half": (scaled(0.5), "numeric is 2 times analytic: a factor 2 is missing"),
    "some factor": (scaled(1 / 0.73), "numeric is 0.73 times analytic"),
    "a permille": (scaled(1.001), r"numeric is 0\.999"),
    "sum for mean": (sum_for_mean, "perhaps a sum for a mean, or a mean for a sum"),
    "mean for sum": (mean_for_sum, "perhaps a sum for a mean, or a mean for a sum"),
    "zero": (scaled(0.0), "the analytic gradient is zero, the numeric is not"),
    "reversed": (
        changed(lambda a, rng: a[::-1], lambda a: a.ndim == 1 and a.size >= 4),
        "the order of its entries reversed",
    ),
    "shifted": (
        changed(lambda a, rng: np.roll(a, 1, 1), lambda a: matrix(a) and a.shape[1] > 3),
        "is shifted by 1 among its columns, towards the end",
    ),
    "Fortran's order": (
        changed(
            lambda a, rng: a.T.reshape(a.shape),
            lambda a: matrix(a) and a.shape[0] != a.shape[1] and no_ties(a),
        ),
        "has the entries of its transpose",
    ),
    "rows exchanged": (
        changed(
            exchange_rows, lambda a: matrix(a) and a.shape[0] >= 4 and no_ties(a)
        ),
        r"has its rows permuted: rows \d+ and \d+ are exchanged",
    ),
    "entries permuted": (
        changed(
            lambda a, rng: rng.permutation(a.ravel()).reshape(a.shape),
            lambda a: matrix(a) and a.size >= 12,
        ),
        "right values in another order",
    ),
    "a row's sign": (
        changed(one_row, lambda a: matrix(a) and a.shape[0] >= 3),
        "numeric is -1 times analytic in the wrong entries|the sign is wrong in row",
    ),
    "last columns only": (
        changed(last_columns, lambda a: matrix(a) and a.shape[1] >= 4),
        "only a part of it is filled in",
    ),
    "clipped": (
        changed(clip, lambda a: a.size >= 8 and several(a)),
        "the analytic values are clipped at",
    ),
    "no signs": (
        changed(
            lambda a, rng: np.abs(a),
            lambda a: several(a) and (a > 0).any() and (a < 0).any(),
        ),
        "all are positive",
    ),
    "an offset": (
        changed(lambda a, rng: a + np.abs(a).max() / 3),
        "analytic is numeric plus .* in every entry",
    ),
    "its mean": (
        changed(
            lambda a, rng: np.full_like(a, a.mean()),
            lambda a: several(a) and abs(a.mean()) > 1e-2 * np.abs(a).max(),
        ),
        "every analytic entry is the mean of the whole array",
    ),
    "another array's": (other_array, "the analytic gradient is that of "),
    "a factor by column": (
        changed(by_column, lambda a: matrix(a) and min(a.shape) >= 3),
        "each column is too large by a factor of its own",
    ),
    "penalty left out": (penalty(-0.3), r"numeric less analytic is 0\.3\d* times the"),
    "penalty twice": (penalty(0.3), r"numeric less analytic is -0\.3\d* times the"),
    "one entry by half": (single(0.5), "one entry is wrong, "),
    "one entry's sign": (single(-1.0), "one entry is wrong, "),
    "float16": (
        lambda arrays, problem, rng: _float16(arrays),
        "the analytic values are rounded to float16",
    ),
    "not finite": (not_finite, "the analytic gradient is not finite at"),
}


def _float16(arrays):
    name = pick(arrays, lambda a: a.size >= 4 and np.abs(a).max() > 1e-2)
    arrays[name][...] = arrays[name].astype(np.float16)
    return name


def check_planted(problem, plant, words, seed):
    """Plant, check, and return whether the mistake could be made at all."""
    net = problem.net
    mode = {"sample_weight": problem.sample_weight, "training": problem.training}
    _, gradient = net.loss_and_gradient(problem.X, problem.y, **mode)
    arrays = net.unflatten(gradient)
    try:
        name = plant(arrays, problem, np.random.default_rng(seed))
    except Skip:
        return False
    report = net.check_gradient(problem.X, problem.y, gradient=gradient, **mode)
    said = "\n".join(s for s in report.diagnosis if s.startswith(f"{name}: "))
    assert report.blocks[name].verdict in FOUND, f"{name}\n{report}"
    others = [r.name for r in report.blocks.values() if r.verdict in FOUND]
    assert others == [name], f"{others}, not {name}\n{report}"
    assert re.search(words, said), f"{words} of {name}\n{report}"
    return True


# -- mistakes inside the backward pass of a network -------------------------------------

SMOOTH = ["tanh", "logistic", "gelu", "softplus", "elu", "silu"]


def plain_network(seed):
    """A network of dense layers, whose backward pass `backward` writes out."""
    rng = np.random.default_rng([seed, 9])
    depth = int(rng.integers(1, 4))
    width = int(rng.integers(3, 9))
    names = [*SMOOTH, "relu", "leaky_relu", "selu"]
    hidden = [Dense(width, str(rng.choice(names))) for _ in range(depth)]
    n_out = int(rng.integers(2, 5))
    loss = ["squared_error", "softmax_cross_entropy", "huber"][seed % 3]
    net = fanin.Network(
        int(rng.integers(2, 7)),
        [*hidden, Dense(n_out)],
        loss=loss,
        l2=float(rng.choice([0.0, 0.05])),
        dtype=np.float64,
        rng=seed,
    )
    for name, array in net.named_parameters().items():
        if name.endswith("bias"):
            array[...] = rng.normal(0.0, 0.3, array.shape)
    m = int(rng.integers(4, 21))
    X = rng.standard_normal((m, net.n_inputs))
    y = rng.standard_normal((m, n_out)) if seed % 3 != 1 else rng.integers(0, n_out, m)
    return net, X, y


def backward(net, X, y, kind, layer):
    """A hand-written backward pass with a mistake of a kind at a layer."""
    arrays = net.named_parameters()
    dense = list(range(len(net.layers)))
    A, Z = [X], []
    for i in dense:
        Z.append(A[-1] @ arrays[f"dense{i}.weight"] + arrays[f"dense{i}.bias"])
        A.append(fanin.activations.apply(Z[-1], net.layers[i].activation))
    D = fanin.losses.evaluate(Z[-1], y, net.loss_function)[1]
    m = X.shape[0]
    if kind == "last samples":
        D = D * (np.arange(m) >= m - 3)[:, None]
    if kind == "first sample":
        D = D * (np.arange(m) < 1)[:, None]
    found = {}
    for i in reversed(dense):
        here = i == layer
        if i < dense[-1] and not (here and kind == "no derivative"):
            at = A[i + 1] if here and kind == "derivative of the output" else Z[i]
            D = D * fanin.activations.derivative(at, net.layers[i].activation)
        given = Z[i - 1] if here and kind == "before the activation" else A[i]
        W = arrays[f"dense{i}.weight"]
        found[f"dense{i}.weight"] = given.T @ D + net._l2 * W
        found[f"dense{i}.bias"] = D.sum(axis=0)
        if here and kind == "bias not summed":
            found[f"dense{i}.bias"] = m * D[-1]
        D = D @ (W if here and kind == "not transposed" else W.T)
    return np.concatenate(
        [found[name].ravel() for name in net.named_parameters()]
    )


BACKWARD = {
    # kind: (the layer it is made in, the array to look at, the words)
    "no derivative": (0, "dense0.weight", r"the derivative of \w+ in dense0 is missing"),
    "derivative of the output": (
        0,
        "dense0.bias",
        r"the derivative of \w+ in dense0 is taken of the layer's output",
    ),
    "not transposed": (
        1,
        "dense0.weight",
        "the weights of dense1 are not transposed in what is passed down",
    ),
    "before the activation": (
        1,
        "dense1.weight",
        "the layer's input is taken before its activation",
    ),
    "last samples": (None, "dense0.weight", r"only the last 3 of \d+ samples contribute"),
    "first sample": (None, "dense1.weight", r"only the first 1 of \d+ samples contribute"),
    "bias not summed": (0, "dense0.bias", "it is not summed over the samples"),
}


@pytest.mark.parametrize("kind", BACKWARD)
def test_a_mistake_in_the_backward_pass_is_found_and_named(kind):
    layer, name, words = BACKWARD[kind]
    done = 0
    for seed in range(100 * N_NETWORKS):
        net, X, y = plain_network(seed)
        _, right = net.loss_and_gradient(X, y)
        np.testing.assert_allclose(
            backward(net, X, y, None, None), right, rtol=1e-9, atol=1e-12
        )
        if kind == "not transposed" and len(net.layers) < 3:
            continue  # its second layer is not square
        gradient = backward(net, X, y, kind, layer)
        wrong, known = net.unflatten(gradient)[name], net.unflatten(right)[name]
        if np.linalg.norm(wrong - known) < 0.05 * np.linalg.norm(known) + 1e-6:
            continue  # a unit that is off, say
        report = net.check_gradient(X, y, gradient=gradient)
        said = "\n".join(s for s in report.diagnosis if s.startswith(f"{name}: "))
        assert report.blocks[name].verdict in FOUND, str(report)
        assert re.search(words, said), f"seed {seed}\n{net}\n{report}"
        done += 1
        if done == N_NETWORKS:
            break
    assert done == N_NETWORKS


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_mistake_is_found_and_named(kind):
    plant, words = KINDS[kind]
    done = 0
    for seed in range(100 * N_NETWORKS):
        problem = random_networks.problem(
            seed * 7 + zlib.crc32(kind.encode()) % 7, np.float64, max_units=8
        )
        done += check_planted(problem, plant, words, seed)
        if done == N_NETWORKS:
            break
    assert done == N_NETWORKS
