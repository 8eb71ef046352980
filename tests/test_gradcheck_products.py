"""check_vjp and check_hessian_product."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

import fanin
from fanin import check_hessian_product, check_vjp

FAULTY = ("wrong", "suspicious")


def dense(X, W, b):
    return np.tanh(X @ W + b), X @ W


def dense_backward(X, W, b, dA, dZ):
    slope = 1 - np.tanh(X @ W + b) ** 2
    d = dA * slope + dZ
    return d @ W.T, X.T @ d, (dA * slope).sum(axis=0)


def inputs(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = ((5, 3), (3, 2), (2,))
    return tuple(rng.normal(size=s).astype(dtype) for s in shapes)


# --- check_vjp ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_threads", [None, 2])
def test_a_correct_backward_pass_is_correct(dtype, n_threads):
    for seed in range(10):
        arrays = inputs(seed, dtype)
        before = [a.tobytes() for a in arrays]
        report = check_vjp(dense, dense_backward, arrays, rng=seed, n_threads=n_threads)
        assert report.ok, str(report)
        assert list(report.blocks) == ["X", "W", "b"]
        assert [a.tobytes() for a in arrays] == before
        assert isinstance(report.numeric, tuple)
        assert report.n_checked == 23


WRONG = {
    "the derivative is missing": (
        lambda X, W, b, dA, dZ: ((dA + dZ) @ W.T, X.T @ (dA + dZ), dA.sum(axis=0)),
        {"X", "W", "b"},
    ),
    "a mean for a sum": (
        lambda *a: (*dense_backward(*a)[:2], dense_backward(*a)[2] / 5),
        {"b"},
    ),
    "the second output is forgotten": (
        lambda X, W, b, dA, dZ: dense_backward(X, W, b, dA, 0 * dZ),
        {"X", "W"},
    ),
    "a sign": (
        lambda *a: (-dense_backward(*a)[0], *dense_backward(*a)[1:]),
        {"X"},
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_backward_pass_is_wrong_in_its_inputs(kind):
    backward, expected = WRONG[kind]
    for seed in range(5):
        report = check_vjp(dense, backward, inputs(seed), rng=seed)
        assert report.verdict == "wrong"
        found = {n for n, b in report.blocks.items() if b.verdict in FAULTY}
        assert found == expected


def test_a_single_wrong_entry_is_found():
    def backward(X, W, b, dA, dZ):
        dX, dW, db = dense_backward(X, W, b, dA, dZ)
        dW[2, 1] *= 1.1
        return dX, dW, db

    report = check_vjp(dense, backward, inputs(1), rng=0)
    assert report.verdict == "wrong"
    assert (report.worst(1)[0].name, report.worst(1)[0].index) == ("W", (2, 1))


def test_a_backward_pass_must_be_linear():
    # Right for the sign of this cotangent, which a single one might have.
    def backward(x, dy):
        return 2 * x * np.abs(dy)

    x = np.array([0.5, -1.0])
    for seed in range(5):
        report = check_vjp(lambda x: x * x, backward, x, rng=seed)
        assert report.verdict == "wrong"

    def bends(x, dy):
        return 2 * x * dy * (1 + 1e-5 * dy**2)

    report = check_vjp(lambda x: x * x, bends, x, rng=0)
    assert report.verdict == "wrong"
    assert "not linear in the cotangent" in report.diagnosis[0]
    assert report.blocks["x"].verdict == "wrong"


def test_a_fault_that_only_another_cotangent_shows():
    calls = []

    def backward(x, dy):
        calls.append(1)
        return 2 * x * dy * (1 if len(calls) != 2 else 3)

    x = np.array([0.5, -1.0, 2.0])
    report = check_vjp(lambda x: x * x, backward, x, rng=0)
    assert report.verdict == "wrong"
    assert any("cotangent 2 of 2" in s for s in report.diagnosis)


def test_one_input_and_one_output_need_no_tuples(rng):
    x = rng.normal(size=(3, 4))
    report = check_vjp(np.sin, lambda x, dy: np.cos(x) * dy, x)
    assert report.ok
    report = check_vjp(np.sin, lambda x, dy: (np.cos(x) * dy,), [x], cotangents=1)
    assert report.ok


def test_parameters_may_come_in_dicts(rng):
    p = {"W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    X = rng.normal(size=(4, 3))

    def forward(X, params):
        return X @ params["W"] + params["b"]

    def backward(X, params, dY):
        return dY @ params["W"].T, {"W": X.T @ dY, "b": 2 * dY.sum(axis=0)}

    report = check_vjp(forward, backward, (X, p), rng=0)
    verdicts = {name: block.verdict for name, block in report.blocks.items()}
    assert verdicts == {"X": "correct", "params.W": "correct", "params.b": "wrong"}


def test_complex_layers(rng):
    A = rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3))
    z = rng.normal(size=3) + 1j * rng.normal(size=3)
    # Of y = A z the gradient is A^H v.
    assert check_vjp(lambda z: A @ z, lambda z, v: A.conj().T @ v, z, rng=0).ok
    report = check_vjp(lambda z: A @ z, lambda z, v: A.T @ v, z, rng=0)
    assert report.verdict == "wrong"


def test_fanins_own_layers(rng):
    X, gamma, beta = rng.normal(size=(6, 4)), rng.normal(size=4), rng.normal(size=4)

    def forward(X, gamma, beta):
        return fanin.layer_norm(X, gamma, beta)[0]

    def backward(X, gamma, beta, dY):
        return fanin.layer_norm_backward(dY, fanin.layer_norm(X, gamma, beta)[1])

    assert check_vjp(forward, backward, (X, gamma, beta), rng=0).ok


def test_a_sample_and_directions_of_a_layer():
    report = check_vjp(dense, dense_backward, inputs(0), indices=4, directions=2, rng=0)
    assert report.ok
    assert report.n_checked == 4
    assert len(report.directions) == 2


def test_float32_outputs_of_float64_inputs_have_its_thresholds(rng):
    x = rng.normal(size=5)
    report = check_vjp(
        lambda x: np.sin(x).astype(np.float32),
        lambda x, dy: np.cos(x) * dy,
        x,
        eps=5e-3,
        rng=0,
    )
    assert report.thresholds == (1e-3, 1e-1)
    assert report.ok, str(report)


def test_what_is_no_layer_is_refused(rng):
    x = rng.normal(size=3)
    with pytest.raises(TypeError, match=r"forward must return .* int"):
        check_vjp(lambda x: np.arange(3), lambda x, v: v, x)
    with pytest.raises(TypeError, match="got dtype bool in item 1"):
        check_vjp(lambda x: (x, x > 0), lambda x, v, w: v, x)
    with pytest.raises(TypeError, match="backward must be callable"):
        check_vjp(np.sin, None, x)
    with pytest.raises(ValueError, match=r"backward\(...\).*shape \(3,\); got \(2,\)"):
        check_vjp(np.sin, lambda x, v: v[:2], x)
    with pytest.raises(ValueError, match="2 items like params; got 1"):
        check_vjp(lambda x, y: x * y, lambda x, y, v: (v,), (x, x.copy()))
    with pytest.raises(ValueError, match="cotangents must be at least 1"):
        check_vjp(np.sin, lambda x, v: v, x, cotangents=0)

    def writes(x, v):
        x *= 2
        return v

    before = x.tobytes()
    with pytest.raises(ValueError, match="backward modified inputs"):
        check_vjp(np.sin, writes, x)
    assert x.tobytes() == before


def test_backward_may_work_in_its_cotangent(rng):
    x = rng.normal(size=4)

    def backward(x, v):
        v *= np.cos(x)
        return v

    assert check_vjp(np.sin, backward, x, rng=0).ok


# --- check_hessian_product ----------------------------------------------------------


@pytest.mark.parametrize("n", [2, 10, 200])
def test_the_hessian_of_rosen_is_correct(n, rng):
    x = rng.normal(size=n)
    before = x.tobytes()
    report = check_hessian_product(
        optimize.rosen_der, optimize.rosen_hess_prod, x, rng=0
    )
    assert report.ok, str(report)
    assert report.relative_error < 1e-9
    assert report.n_evaluations == 2 + 3 * 6
    assert x.tobytes() == before


@pytest.mark.parametrize("entry", [(0, 0), (3, 4), (9, 2)])
def test_a_wrong_hessian_is_found_and_told(entry, rng):
    x = rng.normal(size=10)
    H = optimize.rosen_hess(x)
    H[entry] += 0.5 * np.abs(H).max()
    report = check_hessian_product(optimize.rosen_der, lambda x, v: H @ v, x, rng=0)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].index == (entry[0],)
    symmetric = any("not symmetric" in s for s in report.diagnosis)
    assert symmetric == (entry[0] != entry[1])


def test_products_of_structures(rng):
    p = {"a": rng.normal(size=(2, 3)), "b": [rng.normal(size=2), 0.5]}

    def gradient(p):
        s = p["a"].sum() + p["b"][1]
        return {
            "a": np.full((2, 3), 3 * s**2),
            "b": [np.exp(p["b"][0]), 3 * s**2],
        }

    def product(p, v):
        assert isinstance(v["b"][1], float)
        s, t = p["a"].sum() + p["b"][1], v["a"].sum() + v["b"][1]
        return {
            "a": np.full((2, 3), 6 * s * t),
            "b": [np.exp(p["b"][0]) * v["b"][0], 6 * s * t],
        }

    report = check_hessian_product(gradient, product, p, rng=0)
    assert report.ok, str(report)

    def wrong(p, v):
        found = product(p, v)
        found["b"][0] = 2 * found["b"][0]
        return found

    report = check_hessian_product(gradient, wrong, p, rng=0)
    assert report.blocks["b[0]"].verdict == report.verdict == "wrong"
    assert report.blocks["a"].verdict == "correct"


def test_products_in_float32_and_of_complex_numbers(rng):
    x = rng.normal(size=20).astype(np.float32)

    def product(x, v):
        assert v.dtype == np.float32
        return 12 * x**2 * v

    assert check_hessian_product(lambda x: 4 * x**3, product, x, rng=0).ok
    report = check_hessian_product(
        lambda x: 4 * x**3, lambda x, v: 8 * x**2 * v, x, rng=0
    )
    assert report.verdict == "wrong"
    z = rng.normal(size=4) + 1j * rng.normal(size=4)
    # f = |z|^4 / 4: gradient |z|^2 z, and its derivative along v.
    report = check_hessian_product(
        lambda z: abs(z) ** 2 * z,
        lambda z, v: abs(z) ** 2 * v + 2 * (z.conj() * v).real * z,
        z,
        rng=0,
    )
    assert report.ok, str(report)


def test_gradients_that_jump_are_kinks_not_faults():
    x = np.array([0.0, 1.0, -1.0, 1e-7, 2.0])
    report = check_hessian_product(
        lambda x: np.maximum(x, 0), lambda x, v: (x > 0) * v, x, rng=0
    )
    assert report.verdict not in FAULTY, str(report)
    assert any("kink" in s for s in report.diagnosis)


def test_a_random_gradient_is_inconclusive(rng):
    x = np.ones(3)
    report = check_hessian_product(lambda x: rng.normal(size=3), lambda x, v: v, x)
    assert report.verdict == "inconclusive"


def test_exceptions_in_either_restore(rng):
    x = rng.normal(size=6)
    before = x.tobytes()
    for limit in range(1, 9):
        calls = []

        def gradient(x, calls=calls, limit=limit):
            calls.append(1)
            if len(calls) == limit:
                raise KeyboardInterrupt
            return x

        with pytest.raises(KeyboardInterrupt):
            check_hessian_product(gradient, lambda x, v: v, x)
        assert x.tobytes() == before
    with pytest.raises(ValueError, match="hessian_product modified params"):
        check_hessian_product(lambda x: x.copy(), lambda x, v: x.__imul__(2), x)
    assert x.tobytes() == before
    with pytest.raises(TypeError, match="hessian_product must be callable"):
        check_hessian_product(np.sin, 3, x)
    with pytest.raises(ValueError, match="directions must be at least 1"):
        check_hessian_product(np.sin, np.multiply, x, directions=0)
