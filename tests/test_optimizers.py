"""Optimizers: kernels against their twins, PyTorch, ownership of state, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import reference

import fanin
from fanin._kernels import _optimizers

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0, False), (0.9, False), (0.9, 1)])
def test_sgd_equals_twin(n, momentum, nesterov, dtype, rng):
    theta, g, u = rng.standard_normal((3, n)).astype(dtype)
    u = u if momentum else None
    expected, velocity = reference.sgd_update(theta, g, u, 0.1, momentum, nesterov)
    _optimizers.sgd_update(theta, g, u, 0.1, momentum, bool(nesterov))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(theta, expected, rtol=0, atol=8 * eps)
    if momentum:
        np.testing.assert_allclose(u, velocity, rtol=0, atol=8 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_adam_equals_twin(n, dtype, rng):
    theta, g, first = rng.standard_normal((3, n)).astype(dtype)
    second = rng.uniform(size=n).astype(dtype)
    numbers = (0.01, 0.9, 0.999, 0.5, 1e-8)
    expected = reference.adam_update(theta, g, first, second, *numbers)
    _optimizers.adam_update(theta, g, first, second, *numbers)
    atol = 8 * np.finfo(dtype).eps
    for found, wanted in zip((theta, first, second), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "nesterov", "adam"])
def test_ten_steps_equal_pytorch(kind, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    theta = rng.standard_normal(50)
    gradients = rng.standard_normal((10, 50))
    tensor = torch.tensor(theta.copy(), requires_grad=True)
    if kind == "adam":
        ours, theirs = fanin.optimizers.Adam(0.01), torch.optim.Adam([tensor], 0.01)
    else:
        momentum = 0.0 if kind == "sgd" else 0.9
        nesterov = kind == "nesterov"
        ours = fanin.optimizers.SGD(0.01, momentum=momentum, nesterov=nesterov)
        theirs = torch.optim.SGD([tensor], 0.01, momentum=momentum, nesterov=nesterov)
    for g in gradients:
        ours.update(theta, g)
        tensor.grad = torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(theta, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)
    assert ours.n_steps == 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["adam", "momentum", "nesterov"])
def test_the_state_of_a_dead_unit_ends_at_zero(kind, dtype):
    """It would else stay subnormal for ever: rounding keeps 0.9 of the smallest."""
    if kind == "adam":
        optimizer = fanin.optimizers.Adam(beta_2=0.5)
    else:
        optimizer = fanin.optimizers.SGD(momentum=0.9, nesterov=kind == "nesterov")
    theta = np.ones(8, dtype)
    optimizer.update(theta, np.ones(8, dtype))
    for _ in range(8000):
        optimizer.update(theta, np.zeros(8, dtype))
    for array in optimizer._state.values():
        np.testing.assert_array_equal(array, 0)


def test_state_belongs_to_one_vector(rng):
    adam = fanin.optimizers.Adam()
    a, b, g = np.zeros(4), np.zeros(4), np.ones(4)
    adam.update(a, g)
    with pytest.raises(ValueError, match="state of another parameter vector"):
        adam.update(b, g)
    with pytest.raises(ValueError, match="holds the state of 4 float64 parameters"):
        adam.update(np.zeros(5), np.ones(5))
    assert adam.n_steps == 1
    adam.reset()
    adam.update(b, g)
    assert adam.n_steps == 1


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_a_copy_continues_exactly(clone, rng):
    theta = rng.standard_normal(6)
    gradients = rng.standard_normal((4, 6))
    adam = fanin.optimizers.Adam(0.1)
    for g in gradients[:2]:
        adam.update(theta, g)
    other, moved = clone(adam), theta.copy()
    for g in gradients[2:]:
        adam.update(theta, g)
        other.update(moved, g)
    np.testing.assert_array_equal(theta, moved)
    assert other.n_steps == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fanin.optimizers.SGD(0.0),
            r"learning_rate must be a finite number in",
        ),
        (lambda: fanin.optimizers.SGD(float("nan")), "learning_rate must be a finite"),
        (lambda: fanin.optimizers.SGD(0.1, momentum=1.0), r"momentum must .* \[0, 1\)"),
        (lambda: fanin.optimizers.SGD(0.1, nesterov=True), "needs momentum > 0"),
        (lambda: fanin.optimizers.Adam(beta_1=-0.1), "beta_1"),
        (lambda: fanin.optimizers.Adam(epsilon=0), "epsilon"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_vectors_are_refused():
    sgd = fanin.optimizers.SGD()
    theta = np.zeros(3)
    with pytest.raises(TypeError, match="gradient must have dtype float64"):
        sgd.update(theta, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"gradient must be of shape \(3,\)"):
        sgd.update(theta, np.zeros(4))
    with pytest.raises(ValueError, match="parameters must be contiguous"):
        sgd.update(np.zeros(6)[::2], theta)
    theta.flags.writeable = False
    with pytest.raises(ValueError, match="parameters is read-only"):
        sgd.update(theta, np.zeros(3))
    with pytest.raises(TypeError, match="must be float32 or float64"):
        sgd.update(np.zeros(3, int), np.zeros(3, int))
