"""Optimizers: kernels against their twins, PyTorch, ownership of state, errors."""

from __future__ import annotations

import copy
import math
import pickle
import sys

import numpy as np
import pytest
import reference

import fanin
from fanin._kernels import _optimizers
from fanin.optimizers import LBFGS, SGD, Adam, AdamW, RMSProp

DTYPES = [np.float32, np.float64]

# Every form of a step: (kind, which of first, second and third it has).
FORMS = {
    "sgd": ("sgd", ()),
    "momentum": ("sgd", (0,)),
    "nesterov": ("nesterov", (0,)),
    "rmsprop": ("rmsprop", (1,)),
    "rmsprop_momentum": ("rmsprop", (0, 1)),
    "rmsprop_centered": ("rmsprop", (1, 2)),
    "rmsprop_both": ("rmsprop", (0, 1, 2)),
    "adam": ("adam", (0, 1)),
    "amsgrad": ("adam", (0, 1, 2)),
}

# The same, as objects: ours, and the name and options of PyTorch's.
PAIRS = {
    "sgd": (SGD, {}, "SGD", {}),
    "momentum": (SGD, {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    "nesterov": (
        SGD,
        {"momentum": 0.9, "nesterov": True},
        "SGD",
        {"momentum": 0.9, "nesterov": True},
    ),
    "rmsprop": (RMSProp, {}, "RMSprop", {}),
    "rmsprop_momentum": (
        RMSProp,
        {"momentum": 0.8, "alpha": 0.95},
        "RMSprop",
        {"momentum": 0.8, "alpha": 0.95},
    ),
    "rmsprop_centered": (RMSProp, {"centered": True}, "RMSprop", {"centered": True}),
    "rmsprop_both": (
        RMSProp,
        {"centered": True, "momentum": 0.8},
        "RMSprop",
        {"centered": True, "momentum": 0.8},
    ),
    "adam": (Adam, {}, "Adam", {}),
    "adam_options": (
        Adam,
        {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
        "Adam",
        {"betas": (0.8, 0.99), "eps": 1e-3},
    ),
    "amsgrad": (
        Adam,
        {"amsgrad": True, "beta_2": 0.9},
        "Adam",
        {"amsgrad": True, "betas": (0.9, 0.9)},
    ),
    "adamw": (AdamW, {"weight_decay": 0.3}, "AdamW", {"weight_decay": 0.3}),
    "adamw_default": (AdamW, {}, "AdamW", {}),
}


def numbers_and_state(form, n, dtype, rng, *, keep=1.0, max_norm=None, max_value=None):
    """Return a step as an optimizer prepares it, with a state as after many steps."""
    kind, used = FORMS[form]
    state = [
        rng.standard_normal(n) / 10 if kind == "rmsprop" else rng.standard_normal(n),
        rng.uniform(1, 2, size=n),
        # A mean well below the root of the mean square; a greatest square above some.
        rng.uniform(-0.5, 0.5, size=n)
        if kind == "rmsprop"
        else rng.uniform(1, 2, size=n),
    ]
    arrays = [s.astype(dtype) if i in used else None for i, s in enumerate(state)]
    numbers = (0.01, 0.9, 0.99, 0.5, 1e-8, keep, max_norm, max_value)
    return (kind, *numbers, *arrays)


def copied(numbers):
    return tuple(v.copy() if isinstance(v, np.ndarray) else v for v in numbers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 1000, 70_000])
@pytest.mark.parametrize("form", FORMS)
def test_an_update_equals_its_twin(form, n, dtype, rng):
    theta, g = rng.standard_normal((2, n)).astype(dtype)
    numbers = numbers_and_state(form, n, dtype, rng)
    expected = reference.optimizer_update(theta, g, copied(numbers))
    assert _optimizers.update(theta, g, numbers)
    # Values of order 1 to 10, each after at most eight roundings.
    atol = 16 * np.finfo(dtype).eps
    found = (theta, *numbers[-3:])
    for ours, wanted in zip(found, expected, strict=True):
        assert (ours is None) == (wanted is None)
        if ours is not None:
            assert wanted.dtype == dtype
            np.testing.assert_allclose(ours, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["rmsprop", "rmsprop_momentum", "adam", "amsgrad"])
def test_steps_of_any_size_have_their_digits(form, dtype, rng):
    """The division's own error counts, and its range: theta was 0, g and velocity are.

    Roundings of rate m (of m for rmsprop), beta v, the root, 1 / correction and its
    product, the sum with epsilon, the quotient (1 unit) and its product with the rate.
    """
    n, far = 1_003, 18 if dtype == np.float32 else 150
    kind, used = FORMS[form]
    arrays = [
        10 ** rng.uniform(-far, far, n) * rng.choice([-1, 1], n),
        10 ** rng.uniform(-2 * far, 2 * far, n),
        np.zeros(n),
    ]
    arrays[1][:4] = [0.0, np.inf, np.inf, 0.0]
    arrays[0][:4] = [1e-3, 1.0, -1e9, 0.0]
    first, second, third = [
        a.astype(dtype) if i in used else None for i, a in enumerate(arrays)
    ]
    g = np.zeros(n, dtype)
    if kind == "rmsprop":
        # (Its numerator is g, which enters v: where v is much larger, that is all.)
        g = (10 ** rng.uniform(-far, 0, n)).astype(dtype)
        second = np.maximum(second, dtype(1))
        first = None if first is None else np.zeros(n, dtype)
    theta = np.zeros(n, dtype)
    numbers = (kind, 0.01, 0.9, 0.99, 0.5, 1e-8, 1.0, None, None, first, second, third)
    wide = [None if a is None else a.astype(np.longdouble) for a in numbers[-3:]]
    beta_1, beta_2 = np.longdouble(dtype(0.9)), np.longdouble(dtype(0.99))
    if kind == "adam":
        top = dtype(0.01) * np.longdouble(1) * beta_1 * wide[0]
        below = np.sqrt(beta_2 * wide[1]) / np.longdouble(0.5)
    else:
        top = dtype(0.01) * g.astype(np.longdouble)
        below = np.sqrt(
            beta_2 * wide[1]
            + np.longdouble(dtype(1 - 0.99)) * g.astype(np.longdouble) ** 2
        )
    expected = -top / (below + np.longdouble(dtype(1e-8)))
    assert _optimizers.update(theta, g, numbers)
    tiny = np.finfo(dtype).tiny
    np.testing.assert_allclose(
        theta.astype(np.longdouble), expected, rtol=8 * np.finfo(dtype).eps, atol=tiny
    )
    assert kind == "rmsprop" or (theta[1:4] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_clipped_update_equals_its_twin(form, dtype, rng):
    theta, g = rng.standard_normal((2, 501)).astype(dtype)
    numbers = numbers_and_state(form, 501, dtype, rng, max_norm=15.0, max_value=0.5)
    expected = reference.optimizer_update(theta, g, copied(numbers))
    without = reference.optimizer_update(
        theta, g, copied((*numbers[:-5], None, None, *numbers[-3:]))
    )
    assert abs(expected[0] - without[0]).max() > 1e-4  # else nothing is clipped here
    assert _optimizers.update(theta, g, numbers)
    atol = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(theta, expected[0], rtol=0, atol=atol)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    "decayed",
    [
        [],
        [[0, 70_000]],
        [[5, 5], [5, 6], [6, 40_000]],
        [[0, 1], [32_768, 32_769], [65_536, 70_000]],
        [[32_760, 65_540]],
        [[i, i + 1] for i in range(0, 70_000, 2)],
    ],
    ids=["none", "all", "touching", "at borders", "across", "every second"],
)
def test_only_the_stretches_given_decay(decayed, n_threads, rng):
    n = 70_000
    theta, g = rng.standard_normal((2, n))
    numbers = numbers_and_state("adam", n, np.float64, rng, keep=0.75)
    stretches = np.array(decayed, dtype=np.intp).reshape(-1, 2)
    expected = reference.optimizer_update(theta, g, copied(numbers), stretches)
    plain = reference.optimizer_update(
        theta, g, copied((*numbers[:6], 1.0, *numbers[7:]))
    )
    assert _optimizers.update(theta, g, numbers, stretches, n_threads)
    np.testing.assert_allclose(theta, expected[0], rtol=0, atol=4e-15)
    kept = np.ones(n, bool)
    for start, stop in decayed:
        kept[start:stop] = False
    np.testing.assert_allclose(theta[kept], plain[0][kept], rtol=0, atol=4e-15)


@pytest.mark.parametrize("decayed", [[[0, 4]], [[2, 1]], [[-1, 2]], [[1, 2], [0, 1]]])
def test_stretches_outside_the_parameters_are_refused(decayed, rng):
    theta, g = np.ones(3), np.ones(3)
    numbers = numbers_and_state("adam", 3, np.float64, rng, keep=0.5)
    with pytest.raises(ValueError, match="stretches of theta, in order"):
        _optimizers.update(theta, g, numbers, np.array(decayed, np.intp))
    assert (theta == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, v: (m[:2], v), "does not fit"),
        (lambda m, v: (m.astype(np.float32), v), "does not fit"),
        (lambda m, v: (m.view(np.int64), v), "does not fit"),
        (lambda m, v: (np.repeat(m, 2)[::2], v), "does not fit"),
        (lambda m, v: (m.tolist(), v), "does not fit"),
        (lambda m, v: (None, v), "lacks an array that adam needs"),
        (lambda m, v: (m, None), "lacks an array that adam needs"),
    ],
)
def test_a_state_that_does_not_fit_never_reaches_the_kernel(change, message, rng):
    numbers = numbers_and_state("adam", 3, np.float64, rng)
    first, second = change(numbers[-3], numbers[-2])
    with pytest.raises(ValueError, match=message):
        _optimizers.update(np.ones(3), np.ones(3), (*numbers[:-3], first, second, None))
    frozen = numbers[-2]
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="does not fit"):
        _optimizers.update(np.ones(3), np.ones(3), numbers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_threads_does_not_change_a_bit(form, dtype, rng):
    n = 200_001
    theta, g = rng.standard_normal((2, n)).astype(dtype)
    numbers = numbers_and_state(form, n, dtype, rng, keep=0.9, max_norm=100.0)
    stretches = np.array([[10, 50_000], [60_000, n]])
    results = []
    for n_threads in (1, 2, 5):
        moved, own = theta.copy(), copied(numbers)
        assert _optimizers.update(moved, g, own, stretches, n_threads)
        results.append([moved, *(a for a in own[-3:] if a is not None)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


# --- the norm -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 1000, 100_000])
def test_the_norm_equals_its_twin(n, dtype, rng):
    g = rng.standard_normal(n).astype(dtype)
    norms = {_optimizers.norm(g, n_threads) for n_threads in (1, 2, 5)}
    assert len(norms) == 1
    # Squares and sums in float64: a rounding a term in a lane of the sum, at most.
    bound = np.finfo(np.float64).eps * (n + 4)
    assert norms.pop() == pytest.approx(reference.gradient_norm(g), rel=bound)


@pytest.mark.parametrize("scale", [1e-38, 1e38, 1e-160, 1e160, 1e300])
def test_the_norm_does_not_overflow_before_it_must(scale):
    dtype = np.float32 if 1e-40 < scale < 1e39 else np.float64
    g = np.array([3.0, 4.0] * 2, dtype) * dtype(scale / 2)
    expected = math.hypot(*(float(v) for v in g))
    found = _optimizers.norm(g)
    if scale > 1e-150:
        assert found == pytest.approx(expected, rel=1e-14)
    else:
        assert found <= expected  # what underflows is no reason to clip


def test_a_gradient_that_is_not_finite_has_no_norm():
    assert _optimizers.norm(np.array([1.0, np.inf])) == np.inf
    assert np.isnan(_optimizers.norm(np.array([1.0, np.nan])))
    # Finite entries, but a norm beyond the largest number.
    assert _optimizers.norm(np.full(9, 1e308)) == np.inf


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e150, 1e154, 1e307])
def test_clipping_leaves_the_norm_asked_for_at_any_magnitude(scale, rng):
    direction = rng.uniform(0.5, 1.0, 50)
    theta = np.zeros(50)
    SGD(1.0, clip_norm=2.0).update(theta, -scale * direction)
    length = np.linalg.norm(direction)
    wanted = min(scale, 2.0 / length) * direction
    # PyTorch's 1e-6 beside the norm: half a millionth, when it is 2 and clipped.
    rel = 1e-6 if 1e-3 < scale < 1e100 else 1e-13
    np.testing.assert_allclose(theta, wanted, rtol=rel)


# --- PyTorch ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [{}, {"clip_norm": 5.0}, {"clip_value": 0.7}])
@pytest.mark.parametrize("name", PAIRS)
def test_thirty_steps_equal_pytorch(name, clip, dtype, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    kind, options, theirs, their_options = PAIRS[name]
    theta = rng.standard_normal(50).astype(dtype)
    gradients = rng.standard_normal((30, 50)).astype(dtype)
    tensor = torch.tensor(theta.copy(), requires_grad=True)
    ours = kind(0.01, **options, **clip)
    optimizer = getattr(torch.optim, theirs)([tensor], lr=0.01, **their_options)
    for t, g in enumerate(gradients):
        ours.update(theta, g)
        tensor.grad = torch.tensor(g)
        if "clip_norm" in clip:
            torch.nn.utils.clip_grad_norm_([tensor], clip["clip_norm"])
        if "clip_value" in clip:
            torch.nn.utils.clip_grad_value_([tensor], clip["clip_value"])
        optimizer.step()
        # Parameters of order 1 and steps of order 0.1: some roundings a step, that add
        # up. (The centered variance loses a digit to cancellation in its early steps.)
        np.testing.assert_allclose(
            theta,
            tensor.detach().numpy(),
            rtol=0,
            atol=(t + 1) * 8 * np.finfo(dtype).eps,
        )
    assert ours.n_steps == 30


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_lets_its_weight_matrices_decay_as_pytorch_told_to(dtype, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    net = fanin.Network(
        5,
        [fanin.layers.Dense(7, activation="tanh"), fanin.layers.Dense(2)],
        loss="squared_error",
        dtype=dtype,
        rng=0,
    )
    net.parameters = rng.standard_normal(net.n_parameters)
    tensors = {
        name: torch.tensor(a.copy(), requires_grad=True)
        for name, a in net.named_parameters().items()
    }
    decays = [t for name, t in tensors.items() if name.endswith("weight")]
    others = [t for name, t in tensors.items() if name.endswith("bias")]
    groups = [{"params": decays}, {"params": others, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.05, weight_decay=0.4)
    ours = AdamW(0.05, weight_decay=0.4)
    X, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 2))
    for _ in range(10):
        net.train_step(X, y, ours)
        for name, g in net.unflatten(net.gradient).items():
            tensors[name].grad = torch.tensor(g.copy())
        theirs.step()
    for name, a in net.named_parameters().items():
        atol = 200 * np.finfo(dtype).eps  # ten steps, some roundings each
        np.testing.assert_allclose(a, tensors[name].detach().numpy(), rtol=0, atol=atol)


# --- in a network -------------------------------------------------------------


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.5}, {"clip_value": 0.01}])
@pytest.mark.parametrize("name", PAIRS)
def test_a_step_of_a_network_is_its_gradient_and_an_update(name, clip, rng):
    kind, options, _, _ = PAIRS[name]
    net = fanin.Network(
        6,
        [fanin.layers.Dense(9, activation="relu"), fanin.layers.Dense(3, bias=False)],
        loss="softmax_cross_entropy",
        rng=0,
    )
    X, y = rng.standard_normal((30, 6)), rng.integers(0, 3, 30)
    theta = net.parameters.copy()
    mask = np.zeros(theta.size, bool)
    net.unflatten(mask)["dense0.weight"][...] = True
    net.unflatten(mask)["dense1.weight"][...] = True
    ours, alone = kind(0.01, **options, **clip), kind(0.01, **options, **clip)
    for _ in range(3):
        net.train_step(X, y, ours)
        alone.update(theta, net.gradient, mask)
        np.testing.assert_array_equal(net.parameters, theta)
    assert ours.n_steps == alone.n_steps == 3


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, clip):
    theta, g = np.ones(4), np.ones(4)
    adam = Adam(0.1, **clip)
    adam.update(theta, g)
    before, state = theta.copy(), adam.state_dict()
    g[2] = bad
    with pytest.raises(
        FloatingPointError, match=r"gradient is not finite: -?\w+ at \[2\]"
    ):
        adam.update(theta, g)
    np.testing.assert_array_equal(theta, before)
    assert adam.n_steps == 1
    for name, array in adam.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}])
def test_clipping_does_not_let_a_network_step_along_nan(clip):
    net = fanin.Network(2, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
    optimizer = SGD(0.1, **clip)
    before = net.parameters.copy()
    with pytest.raises(
        FloatingPointError, match="first tensor that is not finite is X"
    ):
        net.train_step([[1.0, np.nan]], [1.0], optimizer)
    np.testing.assert_array_equal(net.parameters, before)
    assert optimizer.n_steps == 0


def test_clipping_tames_a_rate_that_diverges(rng):
    X = rng.standard_normal((100, 3)) * 100
    y = X @ [1.0, -1.0, 2.0]

    def train(**clip):
        net = fanin.Network(
            3, [fanin.layers.Dense(1)], loss="squared_error", dtype=np.float64, rng=0
        )
        optimizer = SGD(0.01, **clip)
        return net.fit(X, y, optimizer=optimizer, epochs=60, batch_size=10, rng=0)

    with pytest.raises(FloatingPointError):
        train()
    assert train(clip_norm=1.0).loss[-1] < 0.1 * train(clip_norm=1.0).loss[0]


def test_a_mask_that_does_not_fit_is_refused():
    theta, g = np.ones(3), np.ones(3)
    adam = AdamW()
    with pytest.raises(TypeError, match="decay_mask must be of bool; got dtype int64"):
        adam.update(theta, g, np.array([1, 0, 1], np.int64))
    with pytest.raises(ValueError, match=r"decay_mask must be of shape \(3,\)"):
        adam.update(theta, g, [True, False])
    assert adam.n_steps == 0
    assert (theta == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(momentum=0.9),
        lambda: SGD(momentum=0.9, nesterov=True),
        lambda: RMSProp(alpha=0.9, momentum=0.9, centered=True),
        lambda: Adam(beta_2=0.5),
    ],
)
def test_the_state_of_a_dead_unit_ends_at_zero(make, dtype):
    """It would else stay subnormal for ever: rounding keeps 0.9 of the smallest."""
    optimizer = make()
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
        (lambda: RMSProp(alpha=1.0), r"alpha must .* \[0, 1\)"),
        (lambda: RMSProp(epsilon=0), "epsilon"),
        (lambda: RMSProp(momentum=-1), "momentum"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay"),
        (lambda: SGD(clip_norm=0), r"clip_norm must be a finite number in \(0, inf\)"),
        (lambda: Adam(clip_value=-1), "clip_value must be a finite number"),
        (lambda: LBFGS(max_iter=0), "max_iter must be at least 1"),
        (lambda: LBFGS(history_size=0), "history_size must be at least 1"),
        (lambda: LBFGS(tolerance_grad=-1), "tolerance_grad"),
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


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.1, momentum=0.9, nesterov=1),
        lambda: RMSProp(centered="yes"),
        lambda: Adam(amsgrad=0),
        lambda: Adam("fast"),
        lambda: Adam(clip_norm=True),
        lambda: LBFGS(max_eval=10.0),
    ],
)
def test_options_of_a_wrong_type_are_refused(make):
    with pytest.raises(TypeError, match="must be"):
        make()


def test_an_optimizer_shows_how_it_was_made():
    for kind, options in (
        (SGD, {"momentum": 0.5, "nesterov": True, "clip_norm": 2.0}),
        (RMSProp, {"alpha": 0.5, "centered": True, "clip_value": 0.25}),
        (Adam, {"beta_1": 0.5, "amsgrad": True}),
        (AdamW, {"weight_decay": 0.125, "epsilon": 1e-6}),
    ):
        optimizer = kind(0.25, **options)
        again = eval(repr(optimizer))
        assert repr(again) == repr(optimizer)
        for name, value in options.items():
            assert getattr(again, name) == value
        assert again.learning_rate == 0.25
    bfgs = LBFGS(max_iter=7, max_eval=9, tolerance_grad=0.5, history_size=3)
    assert vars(eval(repr(bfgs))) == vars(bfgs)


# --- AMSGrad and centering ----------------------------------------------------


def test_centered_rmsprop_survives_a_gradient_that_does_not_vary():
    theta = np.zeros(3, np.float32)
    optimizer = RMSProp(1e-3, alpha=0.5, epsilon=1e-2, centered=True)
    for _ in range(200):  # until mean**2 and the mean square agree to rounding
        optimizer.update(theta, np.array([1.1, -0.3, 7.7], np.float32))
    assert np.isfinite(theta).all()


# --- saved states -------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_state_continues_to_the_last_bit(name, dtype, rng):
    kind, options, _, _ = PAIRS[name]
    rate = fanin.schedules.CosineDecay(0.1, 9)
    gradients = rng.standard_normal((8, 20)).astype(dtype)
    theta = rng.standard_normal(20).astype(dtype)
    whole = kind(rate, **options)
    for g in gradients[:5]:
        whole.update(theta, g)
    state, moved = whole.state_dict(), theta.copy()
    for g in gradients[5:]:
        whole.update(theta, g)
    resumed = kind(rate, **options)
    resumed.load_state_dict(state)
    for g in gradients[5:]:
        resumed.update(moved, g)
    np.testing.assert_array_equal(moved, theta)
    assert resumed.n_steps == 8
    assert state["n_steps"] == 5  # a copy, as its arrays are
    for key, array in resumed.state_dict().items():
        np.testing.assert_array_equal(array, whole.state_dict()[key])


def test_a_state_of_no_steps_can_be_loaded():
    adam = Adam()
    adam.update(np.ones(3), np.ones(3))
    adam.load_state_dict(Adam().state_dict())
    assert adam.n_steps == 0
    adam.update(np.ones(5), np.ones(5))


def test_a_loaded_state_fits_its_parameters_only():
    adam = Adam()
    adam.update(np.ones(3), np.ones(3))
    other = Adam()
    other.load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match="holds the state of 3 float64 parameters"):
        other.update(np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="holds the state of 3 float64 parameters"):
        other.update(np.ones(3, np.float32), np.ones(3, np.float32))


GOOD = {"n_steps": 2, "first": np.ones(3), "second": np.ones(3)}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([1, 2], TypeError, "state must be a mapping"),
        ({}, ValueError, "state has no n_steps"),
        (GOOD | {"n_steps": -1}, ValueError, r"state\['n_steps'\] must be at least 0"),
        (GOOD | {"n_steps": 10**400}, ValueError, "must be at most"),
        (GOOD | {"n_steps": 1.5}, TypeError, "must be an integer"),
        ({"n_steps": 2}, ValueError, "has the arrays first, second; got none"),
        (GOOD | {"velocity": np.ones(3)}, ValueError, "got first, second, velocity"),
        (GOOD | {"second": np.ones(4)}, ValueError, "one size and dtype"),
        (GOOD | {"second": np.ones(3, np.float32)}, ValueError, "one size and dtype"),
        (GOOD | {"second": np.ones((3, 1))}, ValueError, "one-dimensional"),
        (GOOD | {"first": np.ones(3, int)}, TypeError, "float32 or float64"),
        (GOOD | {"first": np.array([1, np.nan, 1])}, ValueError, "not finite"),
        (GOOD | {"second": np.array([1, -1.0, 1])}, ValueError, "not be negative"),
    ],
)
def test_a_state_that_is_none_is_refused(state, error, message):
    adam = Adam()
    adam.update(np.zeros(2), np.ones(2))
    before = adam.state_dict()
    with pytest.raises(error, match=message):
        adam.load_state_dict(state)
    assert adam.n_steps == 1
    np.testing.assert_array_equal(adam.state_dict()["first"], before["first"])


def test_a_state_with_other_options_is_refused():
    plain = SGD(0.1)
    plain.update(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="has the arrays velocity; got none"):
        SGD(0.1, momentum=0.9).load_state_dict(plain.state_dict())


# --- L-BFGS -------------------------------------------------------------------


def rosenbrock(x):
    optimize = pytest.importorskip("scipy.optimize")
    return optimize.rosen(x), optimize.rosen_der(x)


def test_lbfgs_takes_scipys_steps(rng):
    optimize = pytest.importorskip("scipy.optimize")
    start = rng.standard_normal(6)
    theta, seen = start.copy(), []
    bfgs = LBFGS(max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12)
    result = bfgs.minimize(rosenbrock, theta, lambda x: seen.append(x.copy()))
    theirs = optimize.minimize(
        optimize.rosen,
        start,
        jac=optimize.rosen_der,
        method="L-BFGS-B",
        options={"maxiter": 200, "gtol": 1e-9, "ftol": 1e-12, "maxcor": 10},
    )
    np.testing.assert_array_equal(theta, theirs.x)
    np.testing.assert_array_equal(theta, seen[-1])
    assert result.nit == theirs.nit == len(seen) == bfgs.n_steps
    assert result.fun == theirs.fun
    assert result.success
    np.testing.assert_allclose(theta, 1.0, atol=1e-5)


def test_lbfgs_stops_when_told_to():
    pytest.importorskip("scipy")
    theta, seen = np.zeros(4), []

    def callback(x):
        assert x is theta
        seen.append(x.copy())
        if len(seen) == 3:
            raise StopIteration

    LBFGS().minimize(rosenbrock, theta, callback)
    assert len(seen) == 3
    np.testing.assert_array_equal(theta, seen[-1])
    again = LBFGS(max_iter=2)
    assert again.minimize(rosenbrock, np.zeros(4)).nit == 2
    assert again.n_steps == 2
    assert LBFGS(max_eval=1).minimize(rosenbrock, np.zeros(4)).nit <= 2


def test_lbfgs_passes_an_error_on_and_keeps_what_it_has():
    pytest.importorskip("scipy")
    theta, seen = np.zeros(4), []

    def fails(x):
        if len(seen) == 4:
            raise RuntimeError("user")
        return rosenbrock(x)

    with pytest.raises(RuntimeError, match="user"):
        LBFGS().minimize(fails, theta, lambda x: seen.append(x.copy()))
    np.testing.assert_array_equal(theta, seen[-1])
    assert rosenbrock(theta)[0] < rosenbrock(seen[0])[0]


@pytest.mark.parametrize("outside", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_lbfgs_steps_back_from_where_the_loss_is_not_finite(outside, what):
    """x - log(x), whose minimum is at 1, has no value for x <= 0."""
    pytest.importorskip("scipy")
    refused = 0

    def barrier(x):
        nonlocal refused
        inside = (x > 0).all()
        refused += not inside
        safe = np.abs(x) + (x == 0)
        value, gradient = (safe - np.log(safe)).sum(), 1 - 1 / safe
        if not inside:
            if what == "loss":
                value = outside
            else:
                gradient = np.full_like(x, outside)
        return value, gradient

    theta = np.array([40.0, 3.0, 0.05])
    result = LBFGS(tolerance_grad=1e-8).minimize(barrier, theta)
    assert refused > 0  # else this tests nothing
    assert result.success
    np.testing.assert_allclose(theta, 1.0, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "gradient", "error", "message"),
    [
        (np.nan, np.ones(2), FloatingPointError, "the loss, nan, is not finite where"),
        (np.inf, np.ones(2), FloatingPointError, "the loss, inf, is not finite"),
        (1.0, np.array([1, np.nan]), FloatingPointError, "the gradient is not finite"),
        (1.0, np.ones(3), ValueError, r"gradient of shape \(2,\); got \(3,\)"),
    ],
)
def test_lbfgs_refuses_what_it_cannot_follow(value, gradient, error, message):
    pytest.importorskip("scipy")
    theta = np.zeros(2)
    with pytest.raises(error, match=message):
        LBFGS().minimize(lambda x: (value, gradient), theta)
    np.testing.assert_array_equal(theta, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lbfgs_fits_a_network_in_its_dtype(dtype, rng):
    pytest.importorskip("scipy")
    net = fanin.Network(
        3,
        [fanin.layers.Dense(8, activation="tanh"), fanin.layers.Dense(1)],
        loss="squared_error",
        dtype=dtype,
        rng=0,
    )
    X = rng.standard_normal((200, 3))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] / 4
    copy_of_net = copy.deepcopy(net)

    def objective(theta):
        assert theta.dtype == dtype
        assert theta is not net.parameters
        copy_of_net.parameters = theta
        return copy_of_net.loss_and_gradient(X, y)

    before = net.loss(X, y)
    result = LBFGS(max_iter=150).minimize(objective, net.parameters)
    assert net.loss(X, y) == pytest.approx(result.fun, rel=1e-6)
    assert net.loss(X, y) < 0.02 * before


def test_lbfgs_takes_no_single_steps():
    theta, g = np.ones(2), np.ones(2)
    with pytest.raises(TypeError, match="LBFGS takes no single steps"):
        LBFGS().update(theta, g)
    net = fanin.Network(2, [fanin.layers.Dense(1)], loss="squared_error", rng=0)
    with pytest.raises(TypeError, match="LBFGS takes no single steps"):
        net.train_step([[1.0, 2.0]], [1.0], LBFGS())


def test_lbfgs_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r'pip install "fanin\[scipy\]"'):
        LBFGS().minimize(lambda x: (0.0, x), np.zeros(2))


def test_lbfgs_can_be_copied_and_its_steps_saved():
    pytest.importorskip("scipy")
    bfgs = LBFGS(max_iter=3)
    bfgs.minimize(rosenbrock, np.zeros(4))
    other = pickle.loads(pickle.dumps(bfgs))
    assert other.state_dict() == {"n_steps": 3}
    fresh = LBFGS()
    fresh.load_state_dict(other.state_dict())
    assert fresh.n_steps == 3
