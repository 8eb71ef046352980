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


def test_overlapping_and_read_only_vectors_are_refused():
    b = np.arange(5.0)
    with pytest.raises(ValueError, match="parameters overlaps gradient"):
        fanin.optimizers.SGD().update(b[1:], b[:-1])


def test_adam_refuses_an_epsilon_that_its_dtype_cannot_hold():
    adam = fanin.optimizers.Adam(epsilon=1e-30)
    with pytest.raises(ValueError, match="epsilon must be at least 1e-18 for float32"):
        adam.update(np.ones(3, np.float32), np.zeros(3, np.float32))
    theta = np.ones(3)
    adam.update(theta, np.zeros(3))
    np.testing.assert_array_equal(theta, 1)


def test_momentum_may_be_changed_between_steps():
    theta, g = np.zeros(1), np.ones(1)
    sgd = fanin.optimizers.SGD(0.1)
    sgd.update(theta, g)
    sgd.momentum = 0.9
    sgd.update(theta, g)
    sgd.update(theta, g)
    assert theta[0] == pytest.approx(-0.1 - 0.1 - 0.19)


def test_shallow_copies_share_no_state():
    theta, g = np.zeros(2), np.ones(2)
    adam = fanin.optimizers.Adam()
    adam.update(theta, g)
    other = copy.copy(adam)
    other.update(theta.copy(), g)
    assert (adam._state["first"] != other._state["first"]).all()


def test_pickles_with_buffers_of_their_own_do_not_write_to_them():
    adam = fanin.optimizers.Adam()
    theta = np.zeros(1000)
    adam.update(theta, np.ones(1000))
    buffers = []
    data = pickle.dumps(adam, protocol=5, buffer_callback=buffers.append)
    frozen = [bytes(b.raw()) for b in buffers]
    kept = [bytes(bytearray(b)) for b in frozen]
    other = pickle.loads(data, buffers=frozen)
    other.update(theta, np.ones(1000))
    assert frozen == kept


def test_a_step_that_fails_binds_nothing():
    adam = fanin.optimizers.Adam()
    adam._prepare(np.zeros(3))
    adam.update(np.zeros(4), np.ones(4))
    assert adam.n_steps == 1
