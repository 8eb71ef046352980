"""Loss kernels: against their twins, differences, PyTorch; bad targets."""

from __future__ import annotations

import numpy as np
import pytest
import reference

import fanin
from fanin._kernels import _losses

DTYPES = [np.float32, np.float64]


def targets(loss, rows, cols, dtype, rng, labels=True):
    if loss == "squared_error":
        return rng.standard_normal((rows, cols)).astype(dtype)
    if loss == "binary_cross_entropy":
        return rng.uniform(size=(rows, cols)).astype(dtype)
    if labels:
        return rng.integers(0, cols, rows)
    return reference.softmax(rng.standard_normal((rows, cols))).astype(dtype)


CASES = [
    ("squared_error", False),
    ("binary_cross_entropy", False),
    ("softmax_cross_entropy", True),
    ("softmax_cross_entropy", False),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "labels"), CASES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (17, 10), (4, 100), (0, 3)])
def test_forward_equals_twin(loss, labels, shape, dtype, rng):
    Z = (3 * rng.standard_normal(shape)).astype(dtype)
    Y = targets(loss, *shape, dtype, rng, labels)
    total, dZ, bad = _losses.forward(Z, Y, loss, 0.25)
    expected, gradient = reference.loss_forward(Z, Y, loss, 0.25)
    eps = np.finfo(dtype).eps
    assert bad == -1
    # Each sample's terms are computed in the dtype (errors of a few eps of the
    # largest logit, here below 20), their sum in float64.
    assert abs(total - expected) <= 20 * eps * (shape[0] * shape[1] + abs(expected))
    np.testing.assert_allclose(dZ, gradient, rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize(("loss", "labels"), CASES)
def test_gradient_equals_differences(loss, labels, rng):
    Z = rng.standard_normal((6, 4))
    Y = targets(loss, 6, 4, np.float64, rng, labels)
    _, dZ, _ = _losses.forward(Z, Y, loss, 1.0)
    report = fanin.check_gradient(lambda z: _losses.forward(z, Y, loss)[0], Z, dZ)
    assert report.ok, str(report)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits_neither_overflow_nor_lose_the_loss(loss, dtype):
    Z = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], dtype=dtype)
    if loss == "softmax_cross_entropy":
        total, dZ, _ = _losses.forward(Z, np.array([0, 0]), loss)
        expected = [[0, 0], [-1, 1]]
        assert total == 2000.0
    else:
        total, dZ, _ = _losses.forward(Z, np.zeros((2, 2), dtype), loss)
        expected = [[1, 0], [0, 1]]
        assert total == 2000.0
    np.testing.assert_allclose(dZ, expected, atol=1e-37)


@pytest.mark.parametrize(
    ("loss", "Y", "row"),
    [
        ("softmax_cross_entropy", np.array([0, 1, 3]), 2),
        ("softmax_cross_entropy", np.array([0, -1, 3]), 1),
        ("softmax_cross_entropy", np.array([[1.0, 0, 0], [0.5, 0, 0], [0, 0, 1]]), 1),
        ("softmax_cross_entropy", np.array([[2.0, -1, 0], [1, 0, 0], [0, 0, 1]]), 0),
        ("softmax_cross_entropy", np.array([[1.0, 0, 0]] * 2 + [[np.nan] * 3]), 2),
        ("binary_cross_entropy", np.array([[0.0, 1, 1], [0, 1, 1.5], [0, 0, 0]]), 1),
        ("binary_cross_entropy", np.array([[0.0, 1, np.nan]] * 3), 0),
        ("squared_error", np.array([[0.0, 1, 1], [0, 0, 0], [0, np.nan, 0]]), 2),
    ],
)
def test_first_bad_target_is_found(loss, Y, row):
    assert _losses.forward(np.zeros((3, 3)), Y, loss)[2] == row


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", sorted(_losses.LOSSES))
def test_link_equals_twin(loss, dtype, rng):
    Z = (5 * rng.standard_normal((13, 7))).astype(dtype)
    expected = reference.loss_link(Z, loss)
    _losses.link(Z, loss)
    np.testing.assert_allclose(Z, expected, rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("loss", "labels"), CASES)
def test_equals_pytorch(loss, labels, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    Z = rng.standard_normal((8, 5))
    Y = targets(loss, 8, 5, np.float64, rng, labels)
    module = {
        "squared_error": torch.nn.MSELoss(reduction="sum"),
        "binary_cross_entropy": torch.nn.BCEWithLogitsLoss(reduction="sum"),
        "softmax_cross_entropy": torch.nn.CrossEntropyLoss(reduction="sum"),
    }[loss]
    tensor = torch.tensor(Z, requires_grad=True)
    value = module(tensor, torch.tensor(Y))
    value.backward()
    total, dZ, _ = _losses.forward(Z, Y, loss)
    np.testing.assert_allclose(total, value.item(), rtol=1e-13)
    np.testing.assert_allclose(dZ, tensor.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_get_finds_by_name_and_refuses_others():
    for name in _losses.LOSSES:
        assert fanin.losses.get(name).name == name
        assert fanin.losses.get(fanin.losses.get(name)).name == name
    with pytest.raises(ValueError, match="loss must be one of 'squared_error'"):
        fanin.losses.get("hinge")


def test_softmax_cross_entropy_keeps_its_digits():
    """Against exact values: large logits, and a loss far below 1."""
    import mpmath

    mpmath.mp.prec = 2400  # 1 + exp(-700) needs more than a thousand bits
    for Z in ([1e8 + 1, 1e8], [30.0, 0.0], [0.5, 700.0], [-3.0, 2.0]):
        for label in (0, 1):
            total, _, _ = _losses.forward(
                np.array([Z]), np.array([label]), "softmax_cross_entropy"
            )
            z = [mpmath.mpf(v) for v in Z]
            exact = mpmath.log(sum(mpmath.exp(v - z[label]) for v in z))
            assert abs(total - exact) <= 4 * np.finfo(float).eps * exact
            one_hot = np.eye(2)[[label]]
            soft, _, _ = _losses.forward(
                np.array([Z]), one_hot, "softmax_cross_entropy"
            )
            assert soft == total


def test_a_loss_that_overflows_is_infinite_not_nan():
    Z, Y = np.full((3, 1), 1e200), np.zeros((3, 1))
    assert _losses.forward(Z, Y, "squared_error")[0] == np.inf
    Z = np.array([[0.0, -np.inf]])
    assert _losses.forward(Z, np.array([1]), "softmax_cross_entropy")[0] == np.inf


def test_a_loss_of_another_class_is_refused():
    class Mine(fanin.losses.SquaredError):
        pass

    for loss in (Mine(), fanin.losses.Loss()):
        with pytest.raises(TypeError, match="which the kernels do not know"):
            fanin.losses.get(loss)
