"""Activations: against their twins, in units in the last place, on any array."""

from __future__ import annotations

import functools
import pickle

import mpmath
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import fanin
from fanin import activations
from fanin._kernels import _activations
from fanin.activations import (
    ELU,
    GELU,
    SELU,
    Activation,
    Identity,
    LeakyReLU,
    Logistic,
    ReLU,
    SiLU,
    Softplus,
    Tanh,
)

# Every kernel, with parameters of either sign where there is one.
CASES = [
    ("identity", 0.0),
    ("logistic", 0.0),
    ("tanh", 0.0),
    ("relu", 0.0),
    ("leaky_relu", 0.01),
    ("leaky_relu", 0.0),
    ("leaky_relu", -0.5),
    ("elu", 1.0),
    ("elu", 0.3),
    ("elu", -0.7),
    ("selu", 0.0),
    ("softplus", 0.0),
    ("silu", 0.0),
    ("gelu", 0.0),
    ("gelu_tanh", 0.0),
]
DTYPES = [np.float32, np.float64]
OBJECTS = [
    Identity(),
    Logistic(),
    Tanh(),
    ReLU(),
    LeakyReLU(),
    LeakyReLU(-0.3),
    ELU(),
    ELU(0.5),
    SELU(),
    Softplus(),
    SiLU(),
    GELU(),
    GELU("tanh"),
]
KINKED = ("relu", "leaky_relu", "elu", "selu")


def unit(dtype):
    """The distance from 1 to the next number."""
    return float(np.finfo(dtype).eps)


def activate(z, name, parameter=0.0):
    """f(z) of a vector."""
    A = np.array(z)[np.newaxis]
    _activations.forward(A, name, None, parameter)
    return A[0]


# --- the kernels on tiles, against the twins --------------------------------------


def test_every_kernel_is_among_the_cases():
    assert {name for name, _ in CASES} == set(_activations.ACTIVATIONS)
    assert {a.name for a in OBJECTS} == set(_activations.ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameter"), CASES)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 5), (7, 64), (33, 17), (3, 2100), (300, 11), (0, 4), (4, 0)]
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_forward_equals_twin(name, parameter, dtype, shape, with_bias, rng):
    A = rng.standard_normal(shape).astype(dtype)
    bias = rng.standard_normal(shape[1]).astype(dtype) if with_bias else None
    expected = reference.activation_forward(A, name, bias, parameter)
    found = A.copy()
    _activations.forward(found, name, bias, parameter)
    # A few units in the last place (the twin adds the bias in the same dtype).
    limit = 8 * unit(dtype)
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit / 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameter"), CASES)
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("source", ["A", "Z", "apart"])
def test_forward_also_writes_z(name, parameter, dtype, gap, with_bias, source, rng):
    rows, cols = 37, 61
    P = rng.standard_normal((rows, cols)).astype(dtype)
    bias = rng.standard_normal(cols).astype(dtype) if with_bias else None
    z = P if bias is None else P + bias
    expected = z.copy()
    _activations.forward(expected, name, None, parameter)
    wide = [np.full((rows, cols + gap), 77, dtype) for _ in range(3)]
    A, Z, apart = (w[:, :cols] for w in wide)
    given = {"A": A, "Z": Z, "apart": apart}[source]
    given[...] = P
    _activations.forward(A, name, bias, parameter, given, Z)
    np.testing.assert_array_equal(A, expected)
    np.testing.assert_array_equal(Z, z)
    assert all((w[:, cols:] == 77).all() for w in wide)
    if source == "apart":
        np.testing.assert_array_equal(apart, P)
        A[...] = 0
        _activations.forward(A, name, bias, parameter, apart)
        np.testing.assert_array_equal(A, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameter"), CASES)
@pytest.mark.parametrize("gap", [0, 3])
def test_backward_equals_twin(name, parameter, dtype, gap, rng):
    Z = rng.standard_normal((9, 21 + gap)).astype(dtype)[:, :21]
    A = reference.activation_forward(Z, name, None, parameter)
    wide = rng.standard_normal((9, 21 + gap)).astype(dtype)
    before = wide.copy()
    expected = reference.activation_backward(before[:, :21], A, name, parameter, Z)
    needed = Z if _activations.needs_input(name, parameter) else None
    _activations.backward(wide[:, :21], A, name, parameter, needed)
    # |f'| < 1.8 and a product with |d| < 5, after some roundings.
    limit = 16 * unit(dtype)
    np.testing.assert_allclose(wide[:, :21], expected, rtol=limit, atol=limit)
    np.testing.assert_array_equal(wide[:, 21:], before[:, 21:])


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_backward_takes_the_input_where_the_value_does_not_tell(name, parameter):
    assert _activations.needs_input(name, parameter) == reference.needs_input(
        name, parameter
    )
    if _activations.needs_input(name, parameter):
        with pytest.raises(ValueError, match="takes Z"):
            _activations.backward(np.ones((1, 1)), np.ones((1, 1)), name, parameter)


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_backward_agrees_with_differences_of_forward(name, parameter, rng):
    z = rng.uniform(-6, 6, 4000)
    h = 1e-3
    if name in KINKED:
        z = z[np.abs(z) > 2 * h]

    def f(x):
        return activate(x, name, parameter)

    # Of fourth order: the error is h**4 / 30 of the fifth derivative, which is at most
    # 17 (tanh), plus 1.5 times the rounding of f, |f| <= 11, over h.
    numeric = (8 * (f(z + h) - f(z - h)) - (f(z + 2 * h) - f(z - 2 * h))) / (12 * h)
    limit = 17 * h**4 / 30 + 1.5 * 8 * 11 * unit(np.float64) / h
    D = np.ones((1, z.size))
    _activations.backward(
        D, f(z)[np.newaxis], name, parameter, np.ascontiguousarray(z[np.newaxis])
    )
    np.testing.assert_allclose(D[0], numeric, rtol=0, atol=limit)
    found = np.empty_like(z)
    _activations.apply(found, z, name, parameter, True, 1)
    np.testing.assert_allclose(found, numeric, rtol=0, atol=limit)


# --- accuracy, against mpmath -------------------------------------------------------

SCALE = "1.0507009873554804934193349852946"
ALPHA = "1.6732632423543772848170429916717"


def s(z):
    return 1 / (1 + mpmath.exp(-z))


def u(z):
    return mpmath.sqrt(8 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3)


def du(z):
    return mpmath.sqrt(8 / mpmath.pi) * (1 + 3 * mpmath.mpf("0.044715") * z**2)


def phi(z):
    return mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi)


def below(z):
    return mpmath.erfc(-z / mpmath.sqrt(2)) / 2


def selu(z):
    return mpmath.mpf(SCALE) * (z if z > 0 else mpmath.mpf(ALPHA) * mpmath.expm1(z))


def selu_slope(z):
    return mpmath.mpf(SCALE) * (1 if z > 0 else mpmath.mpf(ALPHA) * mpmath.exp(z))


# f, f', the limit of f's error and that of f' in units in the last place (None: f' has
# a zero, near which only its absolute error is bounded).
#
# Logistic and tanh are held to what is promised. The others: exp (1 unit), a rounding
# each of the sum, the division and the product with z or alpha, 1/2 unit each, with a
# factor of up to 2 where the relative error of a number just above a power of two
# becomes that of one just below. gelu: two polynomials of at most ten steps, each
# step's rounding damped by the next, are below 2 units each. gelu_tanh: see below.
EXACT = {
    "logistic": (s, lambda z: s(z) * s(-z), 2, 6),
    "tanh": (mpmath.tanh, lambda z: 4 * s(2 * z) * s(-2 * z), 2, 6),
    "elu": (
        lambda z: z if z > 0 else mpmath.expm1(z),
        lambda z: mpmath.mpf(1) if z > 0 else mpmath.exp(z),
        2,
        2,
    ),
    "selu": (selu, selu_slope, 3, 3),
    "softplus": (lambda z: mpmath.log1p(mpmath.exp(z)), s, 3, 2),
    "silu": (lambda z: z * s(z), lambda z: s(z) * (1 + z * s(-z)), 3, None),
    "gelu": (lambda z: z * below(z), lambda z: below(z) + z * phi(z), 8, None),
    "gelu_tanh": (
        lambda z: z * s(u(z)),
        lambda z: s(u(z)) * (1 + z * s(-u(z)) * du(z)),
        4,
        None,
    ),
}


@functools.cache
def arguments(dtype):
    """Ordinary, tiny, huge and subnormal ones, and those with subnormal results."""
    rng = np.random.default_rng(7)
    info = np.finfo(dtype)
    far = 110.0 if dtype == np.float32 else 752.0
    smallest = np.log10(float(info.smallest_subnormal))
    parts = [
        rng.uniform(-1, 1, 300),
        rng.uniform(-9, 9, 500),
        rng.uniform(-40, 40, 200),
        rng.uniform(-far, -0.8 * far, 200),
        10 ** rng.uniform(smallest, 3, 300) * rng.choice([-1, 1], 300),
        [info.tiny, -info.tiny, 1e5, -1e5, info.smallest_subnormal],
        [-info.smallest_subnormal, 88.0, -88.0, 104.0, -104.0, 746.0, -746.0],
    ]
    return np.concatenate(parts).astype(dtype)


@functools.cache
def exact_values(name, slope, dtype):
    with mpmath.workprec(160):
        return [EXACT[name][slope](mpmath.mpf(float(z))) for z in arguments(dtype)]


def ulps(found, exact, dtype):
    """Distances in units in the last place of the exact values."""
    info = np.finfo(dtype)
    distances = []
    with mpmath.workprec(160):
        for a, e in zip(found, exact, strict=True):
            exponent = mpmath.frexp(e)[1] - 1 if e else info.minexp
            last = mpmath.ldexp(1, max(int(exponent), info.minexp) - info.nmant)
            distances.append(float(abs(mpmath.mpf(float(a)) - e) / last))
    return np.array(distances)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_forward_is_accurate_to_ulps(name, dtype):
    z = arguments(dtype)
    limit = np.full(z.shape, float(EXACT[name][2]))
    if name == "gelu_tanh":
        # exp(u) has the rounding errors of u: four, of half a unit each relative to u,
        # each a unit of exp(u) at most.
        limit += 4 * np.minimum(np.abs([float(u(float(x))) for x in z]), 1e3)
    parameter = 1.0 if name == "elu" else 0.0
    found = activate(z, name, parameter)
    assert np.isfinite(found).all()
    assert (ulps(found, exact_values(name, 0, dtype), dtype) <= limit).all()


# Also where many more arguments can be had from float64, whose error is nothing here.
MANY = {
    "logistic": (lambda z: 1 / (1 + np.exp(-z)), 2),
    "tanh": (np.tanh, 2),
    "gelu": (lambda z: z / 2 * reference.erfc(-z / np.sqrt(2)), 8),
}


@pytest.mark.parametrize("name", MANY)
def test_float32_is_accurate_for_many_arguments(name, rng):
    f, limit = MANY[name]
    size = 100_000 if name == "gelu" else 500_000
    sizes = np.concatenate([10 ** rng.uniform(-4, 2, size), rng.uniform(0, 10, size)])
    z = (sizes * rng.choice([-1, 1], 2 * size)).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        exact = f(z.astype(np.float64))
    info = np.finfo(np.float32)
    exponent = np.maximum(np.frexp(exact)[1] - 1, info.minexp)
    found = activate(z, name)
    error = np.abs(found - exact) / np.ldexp(1.0, exponent - info.nmant)
    assert error.max() <= limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_derivative_is_accurate(name, dtype):
    z = arguments(dtype)
    activation = ELU() if name == "elu" else name
    found = activations.derivative(z, activation)
    exact = exact_values(name, 1, dtype)
    assert np.isfinite(found).all()
    limit = EXACT[name][3]
    if limit is not None:
        assert ulps(found, exact, dtype).max() <= limit
    # Sums of two terms below 1.2, after half a dozen roundings each.
    error = [abs(mpmath.mpf(float(a)) - e) for a, e in zip(found, exact, strict=True)]
    assert max(error) <= 6 * unit(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_limits_and_nan(name, parameter, dtype):
    inf, nan = np.inf, np.nan
    above, slope = ({"selu": float(SCALE)}.get(name, 1.0), 0.0)
    low, zero, slope_low, slope_above = 0.0, 0.0, 0.0, above
    if name in ("logistic", "tanh"):
        slope_above = 0.0
    if name == "identity":
        low, slope_low = -inf, 1.0
    elif name == "logistic":
        zero = 0.5
    elif name == "tanh":
        low = -1.0
    elif name == "leaky_relu":
        low = nan if parameter == 0 else -inf * parameter
        slope = slope_low = parameter
    elif name == "elu":
        low = -parameter
    elif name == "selu":
        low = -float(SCALE) * float(ALPHA)
    elif name == "softplus":
        zero = np.log(2.0)
    high = 1.0 if name in ("logistic", "tanh") else inf
    huge = np.finfo(dtype).max / 4
    z = np.array([inf, -inf, nan, 0.0, -0.0], dtype)
    expected = np.array([high, low, nan, zero, zero], dtype)
    np.testing.assert_array_max_ulp(activate(z, name, parameter), expected, 1)
    far = {"identity": -huge, "leaky_relu": parameter * -huge}.get(name, low)
    expected = [min(high, above * huge), far]
    found = activate(np.array([huge, -huge], dtype), name, parameter)
    np.testing.assert_array_max_ulp(found, np.array(expected, dtype), 1)
    found = np.empty_like(z)
    _activations.apply(found, z, name, parameter, True, 1)
    lost = slope if name in ("relu", "leaky_relu") else nan
    lost = 1.0 if name == "identity" else lost
    expected = np.array([slope_above, slope_low, lost], dtype)
    np.testing.assert_array_max_ulp(found[:3], expected, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd_and_keeps_the_sign_of_zero(dtype):
    z = np.concatenate([arguments(dtype), np.array([0.0, -0.0, np.inf], dtype)])
    plus, minus = activate(z, "tanh"), activate(-z, "tanh")
    np.testing.assert_array_equal(plus, -minus)
    np.testing.assert_array_equal(np.signbit(plus), np.signbit(z))


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"must be one of identity, .*swish"):
        _activations.forward(np.zeros((1, 1)), "swish")


# --- the declarations ---------------------------------------------------------------


def test_names_stand_for_the_classes_with_their_defaults():
    for a in OBJECTS:
        assert isinstance(a, Activation)
        assert activations.get(a) is a
        assert pickle.loads(pickle.dumps(a)) == a
        assert eval(repr(a)) == a
        assert len({a, eval(repr(a))}) == 1
    for name in _activations.ACTIVATIONS:
        assert activations.get(name).name == name
    assert activations.get("leaky_relu").parameter == 0.01
    assert activations.get("elu").parameter == 1.0
    assert activations.get("tanh").parameter == 0.0
    assert activations.get("gelu_tanh") == GELU("tanh") != GELU()
    assert LeakyReLU(1).slope == 1.0
    assert LeakyReLU(0.2) != LeakyReLU(0.3)
    assert ReLU() != Tanh()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: activations.get("swish"), ValueError, "activation must be one of"),
        (lambda: activations.get(3), TypeError, "activation must be a name or an"),
        (lambda: activations.get(ReLU), TypeError, "activation must be a name or an"),
        (lambda: LeakyReLU("a"), TypeError, "slope must be a real number; got str"),
        (lambda: LeakyReLU(np.inf), ValueError, "slope must be a finite number"),
        (lambda: ELU(np.nan), ValueError, "alpha must be a finite number"),
        (lambda: ELU(True), TypeError, "alpha must be a real number; got bool"),
        (lambda: GELU("erf"), ValueError, "approximate must be one of 'none', 'tanh'"),
        (Activation, TypeError, "abstract"),
    ],
)
def test_wrong_declarations_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- arrays of any layout -----------------------------------------------------------


def both(Z, activation, **options):
    return [
        activations.apply(Z, activation, **options),
        activations.derivative(Z, activation, **options),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", OBJECTS, ids=repr)
def test_apply_equals_twin(activation, dtype, rng):
    Z = rng.standard_normal((50, 33)).astype(dtype) * 3
    for slope, found in enumerate(both(Z, activation)):
        expected = reference.activation_apply(
            Z, Z, activation.name, activation.parameter, slope, 1
        )
        assert found.dtype == dtype
        limit = 16 * unit(dtype)
        np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)
    named = activations.apply(Z, activations.get(activation.name))
    np.testing.assert_array_equal(activations.apply(Z, activation.name), named)


def layouts(dtype, rng):
    """Views of every kind, each with the values of a plain array."""
    data = (rng.standard_normal((3, 40, 70)) * 3).astype(dtype)
    pad = np.zeros(data.nbytes + 1, np.uint8)
    misaligned = pad[1:].view(dtype).reshape(data.shape)
    misaligned[...] = data
    read_only = data.copy()
    read_only.flags.writeable = False
    long = (rng.standard_normal((40, 700)) * 3).astype(dtype)
    return {
        "C": data,
        "F": np.asfortranarray(data),
        "transposed": data.transpose(2, 0, 1),
        "rows with gaps": data[:, :, :69],
        "long rows with gaps": long[:, 3:690],
        "every second": data[:, ::2, ::2],
        "backward": data[::-1, :, ::-1],
        "broadcast": np.broadcast_to(data[0, :, :1], (5, 40, 9)),
        "misaligned": misaligned,
        "swapped": data.astype(data.dtype.newbyteorder()),
        "read-only": read_only,
        "one axis of stride 0": np.broadcast_to(data[0, 0], (200, 70)),
        "a number": data[0, 0, 0],
        "empty": data[:, :0],
    }


@pytest.mark.parametrize("dtype", [*DTYPES, np.float16, np.int16, np.uint8, np.bool_])
def test_any_layout_and_dtype_gives_the_same_bits(dtype, rng):
    for kind, Z in layouts(dtype, rng).items():
        if dtype in (np.uint8, np.bool_) and kind == "swapped":
            continue
        result = np.float32 if dtype in (np.float16, np.float32) else np.float64
        plain = np.ascontiguousarray(Z).astype(result).ravel()
        for activation in ("gelu", "leaky_relu"):
            wanted = both(plain, activation, n_threads=1)
            for found, expected in zip(both(Z, activation), wanted, strict=True):
                assert found.dtype == result
                assert found.shape == np.shape(Z)
                np.testing.assert_array_equal(found.ravel(), expected, err_msg=kind)


def test_out_is_written_in_any_layout(rng):
    Z = rng.standard_normal((40, 70))
    wanted = both(Z, "silu")
    wide = np.full((80, 150), 77.0)
    pad = np.zeros(Z.nbytes + 1, np.uint8)
    targets = [
        np.empty((40, 70), order="F"),
        wide[::2, :70],
        wide[1::2, 149:9:-2],
        pad[1:].view(np.float64).reshape(40, 70),
        np.empty(Z.shape, np.float64)[::-1, ::-1],
    ]
    for target in targets:
        for call, expected in zip(
            (activations.apply, activations.derivative), wanted, strict=True
        ):
            target[...] = 0
            assert call(Z, "silu", out=target) is target
            np.testing.assert_array_equal(target, expected)
    assert (wide[1::2, 0:9] == 77).all()
    assert (wide[::2, 70:] == 77).all()


@pytest.mark.parametrize("view", ["C", "rows with gaps", "every second", "misaligned"])
@pytest.mark.parametrize("activation", OBJECTS, ids=repr)
def test_in_place(view, activation, rng):
    for slope in (False, True):
        Z = layouts(np.float32, rng)[view]
        wanted = both(Z, activation)[slope]
        call = activations.derivative if slope else activations.apply
        assert call(Z, activation, out=Z) is Z
        np.testing.assert_array_equal(Z, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("offset", "name"),
    [(0, "tanh"), (1, "tanh"), (5, "tanh"), (5, "silu"), (5, "gelu"), (11, "logistic")],
)
def test_large_results_that_go_past_the_cache(dtype, offset, name, rng):
    n = (17 << 20) // np.dtype(dtype).itemsize + 3
    Z = rng.standard_normal(n).astype(dtype)
    room = np.full(n + 32, 77, dtype)
    out = room[offset : offset + n]
    for call in (activations.apply, activations.derivative):
        call(Z, name, out=out)
        for start in range(0, n, 100_003):  # in parts, of which none is large
            part = slice(start, start + 100_003)
            np.testing.assert_array_equal(call(Z[part], name), out[part])
        assert (room[:offset] == 77).all()
        assert (room[offset + n :] == 77).all()
    square = room[: (n // 2048) * 2048].reshape(-1, 2048)[:, 9:2040]
    square[...] = 0
    source = Z[: square.size].reshape(square.shape)
    activations.apply(source, name, out=square)
    np.testing.assert_array_equal(square, activations.apply(source, name))


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
def test_the_result_does_not_depend_on_the_threads(activation, rng):
    Z = rng.standard_normal((300, 1001)).astype(np.float32)
    wanted = both(Z, activation, n_threads=1)
    for n_threads in (2, 3, 16):
        for view in (Z, Z[:, ::-1], Z.T):
            for found, expected in zip(
                both(view, activation, n_threads=n_threads), wanted, strict=True
            ):
                same = found[:, ::-1] if view.base is not None else found
                same = found.T if view.shape != Z.shape else same
                same = found if view is Z else same
                np.testing.assert_array_equal(same, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", OBJECTS, ids=repr)
def test_the_result_does_not_depend_on_the_place(activation, dtype, rng):
    z = (rng.standard_normal(99) * 3).astype(dtype)
    name, parameter = activation.name, activation.parameter
    wanted = np.array([activate(z[i : i + 1], name, parameter)[0] for i in range(99)])
    for start in (0, 1, 2, 7, 15):
        for stop in (start + 1, start + 8, start + 17, start + 33, 70, 99):
            found = activate(z[start:stop], name, parameter)
            np.testing.assert_array_equal(found, wanted[start:stop])
    np.testing.assert_array_equal(activations.apply(z, activation), wanted)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    order=st.integers(0, 23),
    steps=st.lists(st.sampled_from([1, 2, -1, -3]), min_size=4, max_size=4),
    dtype=st.sampled_from(["f4", "f8", ">f4", "f2", "i4"]),
    activation=st.sampled_from(OBJECTS),
)
def test_any_view_equals_its_plain_copy(shape, order, steps, dtype, activation):
    axes = np.random.default_rng(order).permutation(len(shape))
    room = tuple(3 * shape[i] for i in axes)
    data = (np.arange(np.prod(room, dtype=int)) % 17 - 8.0).astype(dtype).reshape(room)
    Z = data.transpose(np.argsort(axes))
    Z = Z[tuple(slice(None, None, step) for step in steps[: Z.ndim])]
    Z = Z[tuple(slice(0, n) for n in shape)]
    before = data.copy()
    plain = np.ascontiguousarray(Z).astype(activations.apply(Z, "relu").dtype)
    for found, wanted in zip(both(Z, activation), both(plain, activation), strict=True):
        np.testing.assert_array_equal(found.reshape(-1), wanted.reshape(-1))
    np.testing.assert_array_equal(data, before)


def test_a_list_and_a_number_are_arrays():
    assert activations.apply([[0, 1]], "relu").tolist() == [[0.0, 1.0]]
    assert activations.apply(-2.0, "leaky_relu").shape == ()
    assert activations.derivative(-2.0, LeakyReLU(0.5)) == 0.5
    assert fanin.activations is activations


@pytest.mark.parametrize("call", [activations.apply, activations.derivative])
def test_wrong_arrays_are_refused(call):
    Z = np.zeros((4, 5))
    frozen = np.zeros((4, 5))
    frozen.flags.writeable = False
    room = np.zeros(21)
    windows = np.lib.stride_tricks.as_strided(np.zeros(9), (4, 5), (8, 8))
    for error, message, Z_given, out in [
        (TypeError, "Z must be an array of real numbers .*complex128", Z * 1j, None),
        (TypeError, "Z must be an array of real numbers .*object", [None], None),
        (TypeError, "Z must be an array of real numbers .*<U1", ["a"], None),
        (TypeError, "out must be a NumPy array; got list", Z, [0.0]),
        (
            TypeError,
            "out must have dtype float64; got float32",
            Z,
            np.zeros((4, 5), "f4"),
        ),
        (
            ValueError,
            r"out must have shape \(4, 5\); got \(5, 4\)",
            Z,
            np.zeros((5, 4)),
        ),
        (ValueError, "out is read-only", Z, frozen),
        (ValueError, "out has elements that share memory", Z, windows),
        (ValueError, "out overlaps Z", room[:20], room[1:]),
        (ValueError, "out overlaps Z", Z, Z[::-1]),
    ]:
        with pytest.raises(error, match=message):
            call(Z_given, "tanh", out=out)
    with pytest.raises(ValueError, match=r"activation must be one of .*'swish'"):
        call(Z, "swish")
    with pytest.raises(ValueError, match="n_threads must be from 1"):
        call(Z, "tanh", n_threads=0)
    assert (Z == 0).all()


@pytest.mark.parametrize(
    ("name", "here"), [("sigmoid", "logistic"), ("swish", "silu"), ("ReLU", "relu")]
)
def test_names_of_other_libraries_are_told(name, here):
    with pytest.raises(ValueError, match=f"'{name}' is called '{here}' here"):
        fanin.layers.Dense(3, name)
