"""check_gradient on functions with known gradients, right and with planted errors.

The problems of Moré, Garbow and Hillstrom, "Testing unconstrained optimization
software", ACM TOMS 7 (1981) 17-41, by their numbers there: f = sum r_i^2, with the
residuals and their Jacobian as given, at the standard starting points.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from fanin import check_gradient

FAULTY = ("wrong", "suspicious")


def rosenbrock(x):  # 1
    r = [10 * (x[1] - x[0] ** 2), 1 - x[0]]
    return r, [[-20 * x[0], 10], [-1, 0]]


def freudenstein_roth(x):  # 2
    a, b = x
    r = [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b]
    return r, [[1, 10 * b - 3 * b**2 - 2], [1, 3 * b**2 + 2 * b - 14]]


def powell_badly_scaled(x):  # 3
    a, b = x
    e = np.exp(-x)
    return [1e4 * a * b - 1, e.sum() - 1.0001], [[1e4 * b, 1e4 * a], -e]


def brown_badly_scaled(x):  # 4
    a, b = x
    return [a - 1e6, b - 2e-6, a * b - 2], [[1, 0], [0, 1], [b, a]]


def beale(x):  # 5
    a, b = x
    y, i = np.array([1.5, 2.25, 2.625]), np.arange(1, 4)
    r = y - a * (1 - b**i)
    return r, np.stack([b**i - 1, a * i * b ** (i - 1)], axis=1)


def jennrich_sampson(x):  # 6
    i = np.arange(1, 11)
    e = np.exp(i[:, None] * x)
    return 2 + 2 * i - e.sum(axis=1), -i[:, None] * e


def helical_valley(x):  # 7
    a, b, c = x
    s = math.hypot(a, b)
    turn = math.atan(b / a) / (2 * math.pi) + (0.5 if a < 0 else 0)
    q = 100 / (2 * math.pi) / (a * a + b * b)
    r = [10 * (c - 10 * turn), 10 * (s - 1), c]
    return r, [[q * b, -q * a, 10], [10 * a / s, 10 * b / s, 0], [0, 0, 1]]


BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39)
BARD += (0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)


def bard(x):  # 8
    u = np.arange(1, 16)
    v = 16 - u
    w = np.minimum(u, v)
    d = v * x[1] + w * x[2]
    r = np.array(BARD) - (x[0] + u / d)
    return r, np.stack([-np.ones(15), u * v / d**2, u * w / d**2], axis=1)


GAUSS = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989)
GAUSS += GAUSS[-2::-1]


def gaussian(x):  # 9
    t = (8 - np.arange(1, 16)) / 2
    e = np.exp(-x[1] * (t - x[2]) ** 2 / 2)
    f = x[0] * e
    return f - np.array(GAUSS), np.stack(
        [e, -f * (t - x[2]) ** 2 / 2, f * x[1] * (t - x[2])], axis=1
    )


def powell_singular(x):  # 13
    a, b, c, d = x
    p, q = math.sqrt(5), math.sqrt(10)
    r = [a + 10 * b, p * (c - d), (b - 2 * c) ** 2, q * (a - d) ** 2]
    s, t = 2 * (b - 2 * c), 2 * q * (a - d)
    return r, [[1, 10, 0, 0], [0, 0, p, -p], [0, s, -2 * s, 0], [t, 0, 0, -t]]


def wood(x):  # 14
    a, b, c, d = x
    p, q, s = math.sqrt(90), math.sqrt(10), 1 / math.sqrt(10)
    r = [10 * (b - a * a), 1 - a, p * (d - c * c), 1 - c, q * (b + d - 2), s * (b - d)]
    return r, [
        [-20 * a, 10, 0, 0],
        [-1, 0, 0, 0],
        [0, 0, -2 * p * c, p],
        [0, 0, -1, 0],
        [0, q, 0, q],
        [0, s, 0, -s],
    ]


KOWALIK = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627)
KOWALIK += (0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
KOWALIK_U = (4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)


def kowalik_osborne(x):  # 15
    u = np.array(KOWALIK_U)
    top, bottom = u * u + u * x[1], u * u + u * x[2] + x[3]
    r = np.array(KOWALIK) - x[0] * top / bottom
    part = x[0] * top / bottom**2
    return r, np.stack([-top / bottom, -x[0] * u / bottom, part * u, part], axis=1)


def biggs_exp6(x):  # 18
    t = 0.1 * np.arange(1, 14)
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    e = np.exp(-np.outer(t, x[[0, 1, 4]]))
    r = x[2] * e[:, 0] - x[3] * e[:, 1] + x[5] * e[:, 2] - y
    columns = [-t * x[2] * e[:, 0], t * x[3] * e[:, 1], e[:, 0], -e[:, 1]]
    return r, np.stack([*columns, -t * x[5] * e[:, 2], e[:, 2]], axis=1)


def watson(x):  # 20
    n = x.size
    t, j = np.arange(1, 30)[:, None] / 29, np.arange(n)
    slope, value = j * t ** np.maximum(j - 1, 0), t**j
    s = value @ x
    r = slope @ x - s**2 - 1
    last = [x[0], x[1] - x[0] ** 2 - 1]
    e0, e1 = np.eye(n)[:2]
    J = np.vstack([slope - 2 * s[:, None] * value, e0, e1 - 2 * x[0] * e0])
    return np.concatenate([r, last]), J


def extended_rosenbrock(x):  # 21
    n = x.size
    J = np.zeros((n, n))
    odd, even = np.arange(0, n, 2), np.arange(1, n, 2)
    J[odd, odd], J[odd, even], J[even, odd] = -20 * x[odd], 10, -1
    r = np.empty(n)
    r[odd], r[even] = 10 * (x[even] - x[odd] ** 2), 1 - x[odd]
    return r, J


def penalty_one(x):  # 23
    a = math.sqrt(1e-5)
    return [*(a * (x - 1)), x @ x - 0.25], np.vstack([a * np.eye(x.size), 2 * x])


def variably_dimensioned(x):  # 25
    j = np.arange(1, x.size + 1)
    s = j @ (x - 1)
    return [*(x - 1), s, s * s], np.vstack([np.eye(x.size), j, 2 * s * j])


def trigonometric(x):  # 26
    n = x.size
    i = np.arange(1, n + 1)
    r = n - np.cos(x).sum() + i * (1 - np.cos(x)) - np.sin(x)
    J = np.tile(np.sin(x), (n, 1))
    return r, J + np.diag(i * np.sin(x) - np.cos(x))


def broyden_tridiagonal(x):  # 30
    n = x.size
    padded = np.concatenate([[0], x, [0]])
    r = (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1
    J = np.diag(3 - 4 * x) - np.eye(n, k=-1) - 2 * np.eye(n, k=1)
    return r, J


PROBLEMS = [
    (rosenbrock, [-1.2, 1]),
    (freudenstein_roth, [0.5, -2]),
    (powell_badly_scaled, [0, 1]),
    (brown_badly_scaled, [1, 1]),
    (beale, [1, 1]),
    (jennrich_sampson, [0.3, 0.4]),
    (helical_valley, [-1, 0, 0]),
    (bard, [1, 1, 1]),
    (gaussian, [0.4, 1, 0]),
    (powell_singular, [3, -1, 0, 1]),
    (wood, [-3, -1, -3, -1]),
    (kowalik_osborne, [0.25, 0.39, 0.415, 0.39]),
    (biggs_exp6, [1, 2, 1, 1, 1, 1]),
    (watson, [0] * 9),
    (extended_rosenbrock, [-1.2, 1] * 10),
    (penalty_one, list(range(1, 11))),
    (variably_dimensioned, [1 - j / 10 for j in range(1, 11)]),
    (trigonometric, [0.1] * 10),
    (broyden_tridiagonal, [-1] * 20),
]
NAMES = [problem.__name__ for problem, _ in PROBLEMS]


def function_and_gradient(problem):
    def fun(x):
        return float(np.sum(np.square(problem(x)[0])))

    def grad(x):
        r, J = map(np.asarray, problem(x))
        return 2 * J.T @ r

    return fun, grad


def points(start):
    """The standard starting point, and some around it."""
    rng = np.random.default_rng(3)
    start = np.array(start, float)
    yield start
    for spread in (1e-3, 0.1):
        yield start + spread * rng.normal(size=start.size)


@pytest.mark.parametrize(("problem", "start"), PROBLEMS, ids=NAMES)
def test_the_gradients_of_more_garbow_hillstrom_are_correct(problem, start):
    fun, grad = function_and_gradient(problem)
    for x in points(start):
        report = check_gradient(fun, x, grad)
        assert report.verdict == "correct", str(report)


@pytest.mark.parametrize(("problem", "start"), PROBLEMS, ids=NAMES)
def test_one_planted_error_in_them_is_found(problem, start):
    fun, grad = function_and_gradient(problem)
    for x in points(start):
        wrong = grad(x)
        i = int(np.argmax(np.abs(wrong)))
        for value in (-wrong[i], 0.0, 1.5 * wrong[i], 1.01 * wrong[i]):
            wrong[i], kept = value, wrong[i]
            report = check_gradient(fun, x, wrong)
            wrong[i] = kept
            assert report.verdict == "wrong", str(report)
            assert report.worst(1)[0].index == (i,)


@pytest.mark.parametrize("method", ["central", "complex"])
def test_rosen_is_right_and_wrong(method, rng):
    # (scipy.optimize.rosen sums by the same formula, also of complex numbers.)
    for x in (rng.normal(size=30), np.zeros(5), rng.normal(size=300)):
        report = check_gradient(optimize.rosen, x, optimize.rosen_der, method=method)
        assert report.ok, str(report)
    # At the minimum rounding is all there is.
    report = check_gradient(optimize.rosen, np.ones(9), optimize.rosen_der)
    assert report.verdict not in FAULTY, str(report)
    wrong = optimize.rosen_der(x)
    wrong[2] += 1
    assert check_gradient(optimize.rosen, x, wrong, method=method).verdict == "wrong"


# --- scales and regions -------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100, 1e150])
@pytest.mark.parametrize("method", ["central", "complex"])
def test_values_of_extreme_size(scale, method, rng):
    x = rng.normal(size=8)

    def fun(x):
        return scale * optimize.rosen(x)

    report = check_gradient(fun, x, lambda x: scale * optimize.rosen_der(x))
    assert report.ok, str(report)
    wrong = scale * optimize.rosen_der(x)
    wrong[3] *= 1.3
    report = check_gradient(fun, x, wrong, method=method)
    assert report.verdict == "wrong"
    assert report.worst(1)[0].index == (3,)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-20, 1e20, 1e150, 1e300])
def test_parameters_of_extreme_size(scale, rng):
    # f = sum g(theta / scale), whose gradient is g'(theta / scale) / scale.
    x = scale * rng.uniform(0.5, 2, size=6)

    def fun(x):
        return np.sum(np.sqrt(x / scale))

    def grad(x):
        return 0.5 / np.sqrt(x / scale) / scale

    report = check_gradient(fun, x, grad, method="complex")
    assert report.ok, str(report)
    # The real step has a floor, 1e-7, far above the smallest of these.
    with np.errstate(invalid="ignore"):
        report = check_gradient(fun, x, grad)
    assert report.verdict not in FAULTY, str(report)
    if scale >= 1:
        assert report.ok, str(report)


@pytest.mark.parametrize("value", [0.0, 1e-300, -1e-20, 1.0, -3e5, 1e150, 1e300, 1e308])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_points_are_representable_and_apart(value, dtype):
    with np.errstate(over="ignore"):
        x = np.array([value], dtype)
    if not np.isfinite(x[0]):
        pytest.skip("not a float32")
    seen = []

    def fun(x):
        seen.append(x[0].item())
        return 0.0

    report = check_gradient(fun, x, np.zeros(1))
    plus, minus = seen[1:3]
    theta = float(x[0])
    assert minus < theta < plus
    assert dtype(plus) == plus
    assert dtype(minus) == minus
    step = {np.float64: 1e-7, np.float32: float(np.finfo(np.float32).eps) ** (1 / 3)}
    expected = step[dtype] * max(1.0, abs(theta))
    # (Half a spacing either way; twice that above, where the spacing doubles.)
    slack = 2 * float(np.finfo(dtype).eps) * max(1.0, abs(theta))
    assert abs(plus - theta - expected) <= slack
    assert abs(theta - minus - expected) <= slack
    assert report.worst(1)[0].step == pytest.approx(expected, abs=slack)


def test_regions_without_values_are_named_and_do_not_hide_errors():
    x = np.array([0.5, 2e-8, 1.5, 0.7])  # 2e-8 - 1e-7 has no root

    def fun(x):
        return np.sum(np.sqrt(x))

    with np.errstate(all="ignore"):
        report = check_gradient(fun, x, lambda x: 0.5 / np.sqrt(x))
        assert report.verdict == "inconclusive"
        assert any("not finite" in s and "[1]" in s for s in report.diagnosis)
        wrong = 0.5 / np.sqrt(x)
        wrong[2] *= 2
        report = check_gradient(fun, x, wrong)
    assert report.verdict == "wrong"


# --- no false alarm -----------------------------------------------------------------

SMOOTH = [
    (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    (np.sin, np.cos),
    (lambda z: np.exp(z / 4), lambda z: np.exp(z / 4) / 4),
    (lambda z: z**3 / 8, lambda z: 3 * z**2 / 8),
    (lambda z: np.log1p(z * z), lambda z: 2 * z / (1 + z * z)),
    (lambda z: 1 / (1 + np.exp(-z)), lambda z: (1 - np.tanh(z / 2) ** 2) / 4),
]
KINKED = [
    (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    (np.abs, np.sign),
    (lambda z: np.maximum(z, 1) - np.minimum(z, 0), lambda z: (z > 1) * 1.0 - (z < 0)),
    (lambda z: np.clip(z, -1, 1), lambda z: (np.abs(z) < 1).astype(z.dtype)),
]


def random_function(seed, dtype):
    """sum c g(A x + b) + a maximum, with its gradient; some sit right on a kink."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 12)), int(rng.integers(1, 20))
    A, b, c = rng.normal(size=(m, n)), rng.normal(size=m), rng.normal(size=m)
    kinked = bool(rng.integers(2))
    choices = SMOOTH + KINKED if kinked else SMOOTH
    g, slope = choices[rng.integers(len(choices))]
    x = rng.normal(size=n) * 10.0 ** rng.integers(-2, 2)
    if kinked:  # convex: then what the chain rule gives at a kink is a subgradient
        c = np.abs(c)
    if kinked and rng.integers(2):
        x[rng.integers(n)] = 0.0
        b[:] = 0.0
    if rng.integers(2):
        x = np.round(x)  # many ties
    A, b, c, x = (v.astype(dtype) for v in (A, b, c, x))
    offset = dtype(10.0 ** rng.integers(-2, 3))
    largest = kinked and bool(rng.integers(2))

    def fun(x):
        value = (c * g(A @ x + b)).sum() + offset
        return value + x.max() if largest else value

    def grad(x):
        found = (A.T @ (c * slope(A @ x + b))).astype(dtype)
        if largest:
            found[np.argmax(x)] += 1
        return found

    return fun, x, grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", range(8))
def test_correct_plain_functions_raise_no_alarm(block, dtype):
    seeds = [*range(25 * block, 25 * block + 25)]  # 200 in all
    if block == 0:
        seeds.append(597)  # ties of a maximum, on a curved slope
    for seed in seeds:
        fun, x, grad = random_function(seed, dtype)
        before = x.tobytes()
        report = check_gradient(fun, x, grad, directions=seed % 2, rng=seed)
        assert report.verdict not in FAULTY, (seed, str(report), report.directions)
        assert x.tobytes() == before


def network_on_kinks(seed, dtype):
    """A small network by hand, many of whose arguments are 0, and its gradient.

    Its first weights, or a part of them, are zero, biases too; the derivative of the
    rectifier at 0 is 0, 1/2 or 1.
    """
    rng = np.random.default_rng([7, seed])
    n, depth = int(rng.integers(1, 12)), int(rng.integers(2, 4))
    sizes = [int(k) for k in rng.integers(1, 8, depth)] + [int(rng.integers(1, 5))]
    slope, at_kink = rng.choice([0, 0, 0.01, 0.2]), rng.choice([0, 0.5, 1])
    at_kink = slope + at_kink * (1 - slope)
    X = rng.normal(size=(n, sizes[0])) * 10.0 ** rng.integers(0, 2)
    params = {}
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), 1):
        params[f"W{k}"] = rng.normal(size=(fan_in, fan_out)) / math.sqrt(fan_in)
        params[f"b{k}"] = rng.normal(size=fan_out) * (rng.random(fan_out) < 0.3)
    if rng.integers(3):
        params["W1"][:] = 0
    else:
        params["W1"][:, rng.random(sizes[1]) < 0.5] = 0
    params["b1"][:] = 0
    X, params = X.astype(dtype), {name: p.astype(dtype) for name, p in params.items()}
    labels, softmax = rng.integers(sizes[-1], size=n), bool(rng.integers(2))
    Y = np.eye(sizes[-1], dtype=dtype)[labels]

    def forward(p):
        A = [X]
        Z = []
        for k in range(1, depth + 1):
            Z.append(A[-1] @ p[f"W{k}"] + p[f"b{k}"])
            A.append(np.where(Z[-1] > 0, Z[-1], dtype(slope) * Z[-1]))
        return Z, A

    def fun(p):
        out = forward(p)[0][-1]
        if softmax:
            top = out.max(axis=1, keepdims=True)
            return (np.log(np.exp(out - top).sum(axis=1)) + top[:, 0]).mean() - (
                (out * Y).sum(axis=1).mean()
            )
        return ((out - Y) ** 2).sum() / 2

    def grad(p):
        Z, A = forward(p)
        D = Z[-1] - Y
        if softmax:
            D = np.exp(Z[-1] - Z[-1].max(axis=1, keepdims=True))
            D = (D / D.sum(axis=1, keepdims=True) - Y) / n
        found = {}
        for k in range(depth, 0, -1):
            found[f"W{k}"], found[f"b{k}"] = A[k - 1].T @ D, D.sum(axis=0)
            z = Z[k - 2]
            factor = np.where(z > 0, 1, np.where(z < 0, slope, at_kink))
            D = D @ p[f"W{k}"].T * factor.astype(D.dtype) if k > 1 else D
        return {name: found[name] for name in p}

    return fun, params, grad


# These have, beside kinks that meet: a kink far away (159), a piece that curves, and
# one on which all units pass their argument on (15), a sum that cancels (397).
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_of_zero_are_no_false_alarm(dtype):
    for seed in (15, 159, 226, 397, *range(12)):
        fun, params, grad = network_on_kinks(seed, dtype)
        for gradient in (grad, grad(params)):
            report = check_gradient(fun, params, gradient)
            assert report.verdict not in FAULTY, (seed, str(report))


@pytest.mark.parametrize("seed", [0, 4, 8, 9, 12, 14])
def test_a_gradient_function_answers_for_itself_beside_kinks(seed):
    """Numbers may be half as large by the conventions of kinks, a function may not."""
    fun, params, grad = network_on_kinks(seed, np.float64)

    def half(p):
        return {name: g / 2 if name == "W1" else g for name, g in grad(p).items()}

    assert check_gradient(fun, params, half).blocks["W1"].verdict in FAULTY
    report = check_gradient(fun, params, half(params))
    assert report.verdict in FAULTY or "on a kink" in " ".join(report.diagnosis)


@pytest.mark.parametrize(("wrong", "verdict"), [(0.0, "inconclusive"), (1e-3, "wrong")])
def test_a_loss_that_never_leaves_zero_tells_nothing_of_tiny_slopes(wrong, verdict):
    """The loss of a certain softmax: log(e^70 + e^-70) - 70 is 0 here and around."""
    z = {"z": np.array([70.0, -70.0])}

    def loss(p):
        return math.log(np.exp(p["z"]).sum()) - p["z"][0]

    p = np.exp(-140.0)
    gradient = {"z": np.array([-p, p + wrong])}
    report = check_gradient(loss, z, gradient)
    assert report.verdict == verdict


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("callable_", [False, True])
def test_an_entry_that_is_not_finite_is_wrong_from_the_start(value, dtype, callable_):
    """The others agree to the last digit, and nothing has been printed yet."""
    gradient = np.array([2, 4, value], dtype)
    report = check_gradient(
        lambda p: float(np.sum(np.square(p, dtype=np.float64))),
        np.array([1, 2, 3], dtype),
        (lambda p: gradient) if callable_ else gradient,
    )
    assert (report.verdict, report.ok) == ("wrong", False)
    assert "not finite" in " ".join(report.diagnosis)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_direction_finds_an_entry_that_is_not_finite(value):
    point = np.arange(1.0, 400.0)
    gradient = 2 * point
    gradient[7] = value
    report = check_gradient(
        lambda p: float(np.sum(p**2)), point, gradient,
        indices=20, directions=1, rng=0,
    )  # fmt: skip
    assert report.verdict == "wrong"


@pytest.mark.parametrize("seed", [0, 2, 4, 9, 13, 24])
def test_one_wrong_entry_of_a_gradient_function_shows_beside_kinks(seed):
    """On its own kink it is between the slopes on both sides; beside it, it is not."""
    fun, params, grad = network_on_kinks(seed, np.float64)
    where = np.argmax(np.abs(grad(params)["W1"]))

    def wrong(p):
        found = grad(p)
        found["W1"].flat[where] *= 1.3
        return found

    assert check_gradient(fun, params, wrong).blocks["W1"].verdict in FAULTY
