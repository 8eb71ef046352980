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
from fanin import _taylor
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
                and not np.allclose(
                    arrays[name].ravel(), arrays[other].ravel(), rtol=0.1
                )
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
        changed(
            lambda a, rng: np.roll(a, 1, 1), lambda a: matrix(a) and a.shape[1] > 3
        ),
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
        changed(exchange_rows, lambda a: matrix(a) and a.shape[0] >= 4 and no_ties(a)),
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


def about(report, name):
    """What is said of an array, alone or among others."""
    return "\n".join(
        s for s in report.diagnosis if name in s.partition(": ")[0].split(", ")
    )


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
    said = about(report, name)
    assert report.blocks[name].verdict in FOUND, f"{name}\n{report}"
    others = [r.name for r in report.blocks.values() if r.verdict in FOUND]
    assert others == [name], f"{others}, not {name}\n{report}"
    assert re.search(words, said), f"{words} of {name}\n{report}"
    return True


# -- mistakes inside the backward pass of a network ------------------------------------

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
    return np.concatenate([found[name].ravel() for name in net.named_parameters()])


BACKWARD = {
    # kind: (the layer it is made in, the array to look at, the words)
    "no derivative": (
        0,
        "dense0.weight",
        r"the derivative of \w+ in dense0 is missing",
    ),
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
    "last samples": (
        None,
        "dense0.weight",
        r"only the last 3 of \d+ samples contribute",
    ),
    "first sample": (
        None,
        "dense1.weight",
        r"only the first 1 of \d+ samples contribute",
    ),
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
        said = about(report, name)
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


# -- dictionaries and plain NumPy ------------------------------------------------------


def by_hand(seed, n_rows=None):
    """A two-layer network as one writes it: parameters, loss, gradient."""
    rng = np.random.default_rng([seed, 3])
    m = n_rows or int(rng.integers(5, 30))
    n, h, k = (int(v) for v in rng.integers(3, 9, 3))
    X = rng.standard_normal((m, n))
    Y = np.eye(k)[rng.integers(0, k, m)]
    params = {
        "W1": rng.standard_normal((n, h)) / np.sqrt(n),
        "b1": rng.normal(0, 0.2, h),
        "W2": rng.standard_normal((h, k)) / np.sqrt(h),
        "b2": rng.normal(0, 0.2, k),
    }
    penalty = 0.05

    def loss(p):
        A = np.tanh(X @ p["W1"] + p["b1"])
        Z = A @ p["W2"] + p["b2"]
        Z = Z - Z.max(axis=1, keepdims=True)
        cross = np.log(np.exp(Z).sum(axis=1)) - (Z * Y).sum(axis=1)
        return cross.mean() + penalty / 2 * (
            (p["W1"] ** 2).sum() + (p["W2"] ** 2).sum()
        )

    def gradient(p, mistake=""):
        A = np.tanh(X @ p["W1"] + p["b1"])
        Z = A @ p["W2"] + p["b2"]
        E = np.exp(Z - Z.max(axis=1, keepdims=True))
        D = (E / E.sum(axis=1, keepdims=True) - Y) / (1 if mistake == "sum" else m)
        g = {"W2": A.T @ D + penalty * p["W2"], "b2": D.sum(axis=0)}
        if mistake == "no penalty":
            g["W2"] = A.T @ D
        if mistake == "penalty twice":
            g["W2"] = A.T @ D + 2 * penalty * p["W2"]
        if mistake == "bias by mean":
            g["b2"] = D.mean(axis=0)
        back = D @ p["W2"].T
        D = back * (A if mistake == "wrong derivative" else 1 - A**2)
        if mistake == "no derivative":
            D = back
        g["W1"], g["b1"] = X.T @ D + penalty * p["W1"], D.sum(axis=0)
        if mistake == "wrong sign below":
            g["W1"], g["b1"] = -X.T @ D + penalty * p["W1"], -D.sum(axis=0)
        return {name: g[name] for name in p}

    return params, loss, gradient


DICTIONARIES = {
    # mistake: (arrays that are wrong, words somewhere in the diagnosis)
    "sum": ({"W1", "b1", "W2", "b2"}, r"b2: numeric is 1/\d+ times .*sum for a mean"),
    "no penalty": ({"W2"}, r"W2: numeric less analytic is 0\.05 times the parameters"),
    "penalty twice": ({"W2"}, r"W2: numeric less analytic is -0\.05 times the param"),
    "bias by mean": ({"b2"}, r"b2: numeric is \d+ times analytic: perhaps a sum for a"),
    "wrong derivative": (
        {"W1", "b1"},
        "counted from the output, the gradient first goes wrong at W1 and b1",
    ),
    "no derivative": (
        {"W1", "b1"},
        "counted from the output, the gradient first goes wrong at W1 and b1",
    ),
    "wrong sign below": ({"W1", "b1"}, "b1: numeric is -1 times analytic"),
}


@pytest.mark.parametrize("mistake", DICTIONARIES)
def test_a_mistake_in_a_hand_written_network_is_found_and_named(mistake):
    guilty, words = DICTIONARIES[mistake]
    for seed in range(N_NETWORKS):
        params, loss, gradient = by_hand(seed)
        report = fanin.check_gradient(loss, params, lambda p, g=gradient: g(p, mistake))
        found = {r.name for r in report.blocks.values() if r.verdict in FOUND}
        assert found == guilty, f"seed {seed}\n{report}"
        assert re.search(words, "\n".join(report.diagnosis)), f"{seed}\n{report}"


def test_the_missing_derivative_of_one_sample_is_suspected():
    """Of one sample each column has a factor of its own, that of the derivative."""
    for seed in range(10):
        params, loss, gradient = by_hand(seed, n_rows=1)
        known = gradient(params)
        bare = {n: g - 0.05 * params[n] * (g.ndim == 2) for n, g in known.items()}
        wrong = gradient(params, "no derivative")
        rest = {n: g - 0.05 * params[n] * (g.ndim == 2) for n, g in wrong.items()}

        def plain(p, loss=loss):
            weights = (p["W1"] ** 2).sum() + (p["W2"] ** 2).sum()
            return loss(p) - 0.05 / 2 * weights

        assert fanin.check_gradient(plain, params, bare).ok
        said = "\n".join(fanin.check_gradient(plain, params, rest).diagnosis)
        assert re.search(
            "W1: each column is too large .* the derivative of an activation such as "
            "tanh or logistic is missing",
            said,
        ), said


def test_relus_missing_derivative_is_suspected():
    rng = np.random.default_rng(0)
    for _ in range(10):
        x = rng.standard_normal(5)
        params = {"W": rng.standard_normal((5, 8)), "b": rng.standard_normal(8)}
        v = rng.standard_normal(8)

        def loss(p, x=x, v=v):
            return np.maximum(x @ p["W"] + p["b"], 0) @ v

        def gradient(p, x=x, v=v):
            return {"W": np.outer(x, v), "b": v}

        report = fanin.check_gradient(loss, params, gradient)
        said = "\n".join(report.diagnosis)
        assert re.search("W: numeric is zero in .*ReLU's derivative is missing", said)
        assert re.search("b: numeric is zero in .*ReLU's derivative is missing", said)


def test_a_gradient_of_all_arrays_off_by_one_factor_is_the_losss():
    params, loss, gradient = by_hand(0)
    right = gradient(params)
    report = fanin.check_gradient(
        loss, params, {name: 20 * g for name, g in right.items()}
    )
    assert report.diagnosis[0].startswith(
        "all arrays are wrong by the same factor (0.05)"
    )
    assert not any("first goes wrong" in s for s in report.diagnosis)


@pytest.mark.parametrize("factor", [0.5, -1.0, 1.01])
def test_a_single_entry_among_a_hundred_thousand_is_found(factor):
    rng = np.random.default_rng(1)
    theta = rng.standard_normal(100_000)
    scale = rng.uniform(0.5, 1.5, theta.size)
    right = scale * np.cos(theta)
    # Compiled code, as a network's: every difference is exact but for its rounding.
    h = 1e-7
    error = 1e-9

    def report_of(gradient):
        numeric = right + error * rng.standard_normal(theta.size)
        return fanin.GradientReport._from_vectors(
            gradient,
            numeric,
            [("theta", slice(0, theta.size), theta.shape)],
            eps=h,
            error_estimate=error,
        )

    assert report_of(right).ok
    wrong = right.copy()
    i = int(np.argsort(np.abs(right))[theta.size // 2])  # of median size
    wrong[i] *= factor
    report = report_of(wrong)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].index == (i,)
    assert f"theta: one entry is wrong, [{i}]" in report.diagnosis
    assert not any("another order" in s for s in report.diagnosis)


def test_a_single_entry_of_a_real_network_is_found():
    """Of a hundred thousand parameters, half of the median's size."""
    rng = np.random.default_rng(2)
    net = fanin.Network(
        100,
        [Dense(500, "tanh"), Dense(100, "tanh"), Dense(3)],
        loss="squared_error",
        dtype=np.float64,
        rng=0,
    )
    assert net.n_parameters > 1e5
    X, y = rng.standard_normal((2, 100)), rng.standard_normal((2, 3))
    _, gradient = net.loss_and_gradient(X, y)
    arrays = net.unflatten(gradient)
    flat = arrays["dense1.weight"].reshape(-1)
    i = int(np.argsort(np.abs(flat))[flat.size // 2])
    flat[i] *= 0.5
    report = net.check_gradient(X, y, gradient=gradient)
    assert report.verdict == "wrong", str(report)
    worst = report.worst(1)[0]
    assert worst.name == "dense1.weight"
    assert worst.index == np.unravel_index(i, arrays["dense1.weight"].shape)


@pytest.mark.parametrize("small", [1e-3, 1e-5])
def test_a_block_a_thousand_times_smaller_than_its_neighbours_is_not_hidden(small):
    for seed in range(N_NETWORKS):
        params, loss, gradient = by_hand(seed)
        # The function takes the small array times a constant: so is its gradient.
        scaled = {"b1": params.pop("b1") / small, **params}

        def fun(p, loss=loss):
            return loss({**p, "b1": p["b1"] * small})

        def grad(p, gradient=gradient):
            found = gradient(
                {name: p[name] * (small if name == "b1" else 1) for name in p}
            )
            return {**found, "b1": small * found["b1"]}

        report = fanin.check_gradient(fun, scaled, grad)
        assert report.ok, str(report)

        def wrong(p, grad=grad):
            return (found := grad(p)) | {"b1": -found["b1"]}

        report = fanin.check_gradient(fun, scaled, wrong)
        found = [r.name for r in report.blocks.values() if r.verdict in FOUND]
        assert found == ["b1"], str(report)


# -- what a network knows of itself ----------------------------------------------------


def trained(**options):
    rng = np.random.default_rng(4)
    net = fanin.Network(
        5,
        [Dense(6, "tanh"), *options.pop("between", ()), Dense(2)],
        loss="squared_error",
        dtype=np.float64,
        rng=4,
    )
    return net, rng.standard_normal((12, 5)), rng.standard_normal((12, 2)), rng


def test_a_stale_gradient_is_named():
    net, X, y, _ = trained()
    net.train_step(X, y, fanin.optimizers.SGD(0.1))
    report = net.check_gradient(X, y, gradient=net.gradient.copy())
    said = "the analytic gradient is stale: that of the last training step"
    # Once, first, and without a place: it begins in no layer.
    names = "dense0.weight, dense0.bias, dense1.weight, dense1.bias"
    assert report.diagnosis[0] == f"{names}: {said}"
    assert report.diagnosis[1].startswith("confirmed without a step size")
    assert len(report.diagnosis) == 2


def test_the_gradient_of_inference_is_named():
    net, X, y, _ = trained(between=[fanin.layers.Dropout(0.5)])
    _, gradient = net.loss_and_gradient(X, y, training=False)
    report = net.check_gradient(X, y, gradient=gradient)
    assert report.diagnosis[0].endswith(
        ": the analytic gradient is that of inference: dropout's mask left out"
    )
    assert report.diagnosis[1].startswith("confirmed without a step size")


def test_ignored_sample_weights_are_named():
    net, X, y, rng = trained()
    _, gradient = net.loss_and_gradient(X, y)
    report = net.check_gradient(
        X, y, gradient=gradient, sample_weight=rng.uniform(0.1, 2, 12)
    )
    assert report.diagnosis[0].endswith(
        "dense1.bias: the analytic gradient is that without the sample weights"
    )
    assert report.diagnosis[1].startswith("confirmed without a step size")


def test_a_gradient_that_does_not_follow_its_argument_is_stale():
    params, loss, gradient = by_hand(0)
    elsewhere = gradient({name: p + 0.1 for name, p in params.items()})
    report = fanin.check_gradient(loss, params, lambda p: elsewhere)
    assert any("the same values at other parameters" in s for s in report.diagnosis)
    # A right constant gradient is none.
    x = np.arange(1.0, 4.0)
    report = fanin.check_gradient(lambda x: x.sum(), x, lambda x: np.full(3, 2.0))
    assert not any("other parameters" in s for s in report.diagnosis)


# -- no false alarm --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_kinks_that_meet_are_no_false_alarm(seed):
    """Rows of zeros and biases of zero put many units of all layers on their kinks."""
    rng = np.random.default_rng([seed, 77])
    named = ["relu", "selu", "leaky_relu"]
    others = [
        fanin.activations.LeakyReLU(0.3),
        fanin.activations.ELU(0.5),
        fanin.activations.ELU(2.0),
    ]
    kinds = [*named, *others]
    one = kinds[rng.integers(len(kinds))]
    mixed = bool(rng.integers(2))
    hidden = [
        Dense(
            int(rng.integers(1, 10)), kinds[rng.integers(len(kinds))] if mixed else one
        )
        for _ in range(int(rng.integers(1, 5)))
    ]
    loss = ["squared_error", "absolute_error", "huber"][seed % 3]
    net = fanin.Network(3, [*hidden, Dense(2)], loss=loss, dtype=np.float64, rng=seed)
    m = int(rng.choice([1, 5, 11]))
    X, y = rng.standard_normal((m, 3)), rng.standard_normal((m, 2))
    X[::5] = 0
    if loss == "absolute_error" and seed % 2:
        y[: m // 2] = net.predict(X).reshape(m, 2)[: m // 2]  # residuals of zero
    report = net.check_gradient(X, y)
    assert report.ok, f"{net}\n{report}"


def test_gross_mistakes_show_although_most_entries_are_on_kinks():
    found = total = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        net = fanin.Network(
            3,
            [Dense(6, "selu"), Dense(6, "selu"), Dense(2)],
            loss="squared_error",
            dtype=np.float64,
            rng=seed,
        )
        X, y = rng.standard_normal((10, 3)), rng.standard_normal((10, 2))
        X[::5] = 0
        for name in ("dense0.bias", "dense1.bias"):
            _, gradient = net.loss_and_gradient(X, y)
            net.unflatten(gradient)[name][...] *= -10
            report = net.check_gradient(X, y, gradient=gradient)
            found += report.blocks[name].verdict in FOUND
            total += 1
    assert found >= 0.95 * total


# -- Taylor's remainder ----------------------------------------------------------------


def test_a_wrong_gradient_is_confirmed_without_a_step():
    params, loss, gradient = by_hand(0)
    report = fanin.check_gradient(loss, params, lambda p: gradient(p, "sum"))
    said = [s for s in report.diagnosis if s.startswith("confirmed without a step")]
    assert len(said) == 1
    slope = float(re.search(r"like t\^(\d\.\d+),", said[0]).group(1))
    assert slope == pytest.approx(1.0, abs=0.1)


def function_of(fun, theta, noise=0.0):
    return _taylor.Function(
        value=fun,
        place=lambda point: point,
        theta=theta,
        base=fun(theta),
        epsilon=2.0**-52,
        noise=noise,
    )


def test_remainders_tell_right_from_wrong_where_differences_are_mistaken():
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(50)

    def fun(t):
        return float(np.sin(t).sum() + (t @ t) ** 2)

    right = np.cos(theta) + 4 * (theta @ theta) * theta
    blocks = [("a", slice(0, 20)), ("b", slice(20, 50))]

    def outcome(gradient, numeric):
        arrays = []
        for name, where in blocks:
            wrong = np.abs(numeric - gradient)[where] > 0
            worst = int(np.argmax(np.abs(numeric - gradient)[where]))
            arrays.append((name, where, wrong, worst))
        return _taylor.confirm(function_of(fun, theta), gradient, numeric, arrays)

    # The differences are off, the gradient is right.
    assert outcome(right, 1.3 * right)["b"].refuted
    # The gradient is off, in all of an array or in one small entry of it.
    found = outcome(1.01 * right, right)
    assert not found["a"].refuted
    assert found["a"].slope == pytest.approx(1.0, abs=0.05)
    wrong = right.copy()
    small = int(np.argmin(np.abs(right)))
    wrong[small] *= 0.5
    name = "a" if small < 20 else "b"
    found = outcome(wrong, right)
    assert set(found) == {name}
    assert not found[name].refuted
    # One wrong entry among differences that are off themselves is not hidden by them.
    assert not outcome(wrong, 1.3 * right)[name].refuted or small == -1
    # A right gradient's remainder is of second order.
    line = _taylor.along(function_of(fun, theta), right, rng.standard_normal(50))
    assert line.slope == pytest.approx(2.0, abs=0.1)


def test_what_remainders_refute_is_inconclusive_and_says_so():
    report = fanin.GradientReport._from_vectors(
        [1.0, 2.0],
        [1.1, 2.2],
        [("a", slice(0, 1), (1,)), ("b", slice(1, 2), (1,))],
        eps=1e-7,
    )
    assert report.verdict == "wrong"
    found = {
        "a": _taylor.Confirmation(2.0, refuted=True),
        "b": _taylor.Confirmation(1.0, refuted=False),
    }
    report._explain(confirmations=found)
    assert report.blocks["a"].verdict == "inconclusive"
    assert report.verdict == "wrong"
    assert any(s.startswith("a: differences find 1 of 1") for s in report.diagnosis)
    report._explain(confirmations={"b": found["a"]})
    assert report.verdict == "inconclusive"
