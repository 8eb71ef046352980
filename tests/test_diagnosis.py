"""What the diagnosis says, from numbers alone; each test of its can fail."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fanin import GradientReport, check_gradient, check_vjp
from fanin._diagnosis import first_layer, layers_of


def report_of(analytic, numeric, theta=None, hypotheses=None, **options):
    """A report of arrays by name; `numeric` is known to 1e-9 of its largest entry."""
    blocks, start = [], 0
    for name, values in numeric.items():
        blocks.append((name, slice(start, start + values.size), values.shape))
        start += values.size

    def flat(arrays):
        return np.concatenate([arrays[name].ravel() for name in numeric])

    options.setdefault("eps", 1e-7)
    options.setdefault("error_estimate", 1e-9 * np.abs(flat(numeric)).max())
    report = GradientReport._from_vectors(
        flat(analytic), flat(numeric), blocks, **options
    )
    if theta is not None or hypotheses is not None:
        report._explain(None if theta is None else flat(theta), hypotheses=hypotheses)
    return report


def said(analytic, numeric, **options):
    """What is said of one array; its numeric values are given some rounding."""
    rng = np.random.default_rng(0)
    size = np.abs(numeric).max()
    noisy = numeric + 1e-10 * size * rng.standard_normal(numeric.shape)
    theta = options.pop("theta", None)
    return report_of(
        {"W": analytic},
        {"W": noisy},
        theta=None if theta is None else {"W": theta},
        **options,
    ).diagnosis


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((6, 4))


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_patterns_at_any_scale(x, scale):
    x = scale * x
    square = x[:4]
    limit = np.sort(np.abs(x).ravel())[-5]
    for analytic, numeric, words in [
        (-x, x, "numeric is -1 times analytic: the sign is wrong"),
        (-x / 2, x, "numeric is -2 times analytic: the sign is wrong, and a factor 2"),
        (x / 7, x, "numeric is 7 times analytic: perhaps a sum for a mean"),
        (-x * 7, x, "mean for a sum (and of the wrong sign)"),
        (square.T, square, "is the transpose of the numeric one"),
        (x.T.reshape(6, 4), x, "has the entries of its transpose"),
        (x.ravel().reshape(4, 6).T, x, "has the entries of its transpose"),
        (x[::-1], x, "has the order of its rows reversed"),
        (x[:, ::-1], x, "has the order of its columns reversed"),
        (x[::-1, ::-1], x, "has the order of its rows and columns reversed"),
        (np.roll(x, 2, 0), x, "is shifted by 2 among its rows, towards the end"),
        (np.roll(x, -1, 1), x, "is shifted by 1 among its columns, towards the begin"),
        (x[[1, 0, 2, 3, 4, 5]], x, "rows permuted: rows 0 and 1 are exchanged"),
        (x[:, [2, 0, 3, 1]], x, "has its columns permuted"),
        (x + 0.1 * scale, x, "analytic is numeric plus "),
        (np.clip(x, -limit, limit), x, "the analytic values are clipped at "),
        (-np.abs(x), x, "all are negative, as if an absolute value were taken"),
        (np.full_like(x, x.sum()), x, "is the sum of the whole array"),
        (np.tile(x.mean(0), (6, 1)), x, "is the mean of its column"),
        (np.repeat(x.sum(1, keepdims=True), 4, 1), x, "is the sum of its row"),
        (x * [[1, -1, 1, -1]], x, "numeric is -1 times analytic in the wrong entries"),
        (x * [[2, 0.3, -4, 5]], x, "each column is off by a factor of its own"),
        (x * np.c_[[2, 3, 5, 7, 1.1, 2]], x, "each row is too large by a factor of"),
    ]:
        found = said(analytic, numeric)
        assert found[0].startswith("W: ")
        assert words in found[0], f"{words}: {found}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a[2, 1:2], "one entry is wrong, [2, 1]"),
        (lambda a: a[3], "wrong in row 3, right elsewhere"),
        (lambda a: a[:, 1:3], "wrong in columns 1, 2, right elsewhere"),
        (lambda a: a[1:5], "wrong in rows 1 to 4, right elsewhere"),
    ],
)
def test_the_place_of_what_is_wrong(x, change, words):
    a = x.copy()
    part = change(a)
    part += np.random.default_rng(1).standard_normal(part.shape)
    assert f"W: {words}" in said(a, x)


def test_the_place_in_a_vector():
    x = np.arange(1.0, 9.0)
    a = x.copy()
    a[2:5] = [0.5, -4.0, 9.0]
    assert "W: wrong from [2] to [4], right elsewhere" in said(a, x)


def test_a_penalty_is_named_with_its_coefficient(x):
    theta = np.random.default_rng(2).standard_normal(x.shape)
    assert said(x - 0.01 * theta, x, theta=theta)[0] == (
        "W: numeric less analytic is 0.01 times the parameters: a penalty is missing "
        "in the gradient"
    )
    found = said(x + 0.01 * np.sign(theta), x, theta=theta)[0]
    assert "numeric less analytic is -0.01 times the parameters' signs" in found
    found = said((x - 0.01 * theta) / 3.3, x, theta=theta)[0]
    assert "numeric is 3.3 times analytic plus 0.01 times the parameters" in found


def test_a_penalty_that_is_right_beside_a_wrong_rest_is_named(x):
    theta = np.random.default_rng(2).standard_normal(x.shape)
    for factor, why in [(-1.0, ": the sign is wrong"), (0.4, ""), (1 / 20, ": perh")]:
        # numeric is x + 0.01 theta, of which x is divided by the factor
        a = x / factor + 0.01 * theta
        found = said(a, x + 0.01 * theta, theta=theta)[0]
        assert found.startswith(
            "W: as if the penalty of 0.01 times the parameters were right and all the "
            f"rest had the factor {factor:g} (numeric over analytic){why}"
        )


def test_a_right_penalty_does_not_hide_what_all_arrays_share(x):
    rng = np.random.default_rng(2)
    theta = {"W1": rng.standard_normal(x.shape), "b1": np.ones(4)}
    data = {"W1": x, "b1": x[0]}
    penalty = {"W1": 0.01 * theta["W1"], "b1": 0.0}
    report = report_of(
        {n: -data[n] + penalty[n] for n in data},
        {n: data[n] + penalty[n] for n in data},
        theta=theta,
    )
    assert report.diagnosis[0].startswith(
        "all arrays are wrong by the same factor (-1), but for a penalty, which is "
        "right: the mistake is in"
    )


def test_a_sentence_that_arrays_share_is_said_once(x):
    numeric = {"W1": x, "b1": x[0], "W2": x.T, "b2": x[:, 0]}
    analytic = {"W1": 40 * x, "b1": 40 * x[0], "W2": x.T, "b2": 40 * x[:, 0]}
    found = report_of(analytic, numeric).diagnosis
    assert sum("numeric is 1/40 times analytic" in s for s in found) == 1
    assert any(s.startswith("W1, b1, b2: numeric is 1/40 times") for s in found)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_the_axes_that_are_reversed_are_named(axes):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    named = " and ".join(map(str, axes))
    which = "axis" if len(axes) == 1 else "axes"
    assert said(np.flip(x, axes), x) == [
        "W: the analytic gradient has the order of its entries along "
        f"{which} {named} reversed"
    ]


def test_a_reversed_product_names_the_axis_and_no_place():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((6, 4)), rng.standard_normal((4, 5))
    report = check_vjp(
        lambda x, W: x @ W, lambda x, W, v: (v @ W.T, (x.T @ v)[:, ::-1]), inputs
    )
    assert report.diagnosis[:2] == [
        "W: the analytic gradient has the order of its columns reversed",
        "wrong: W; correct: x",
    ]


# -- rows of nothing, and entries that were not checked --------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.02])
def test_rows_that_hold_nothing_or_a_penalty_are_not_called_right(penalty):
    rng = np.random.default_rng(0)
    theta, x = rng.standard_normal((2, 40, 5))
    x[9:] = 0
    wrong = np.where(x != 0, x + rng.standard_normal(x.shape), 0)
    found = said_exactly(wrong + penalty * theta, x + penalty * theta, theta)
    assert not any("right elsewhere" in s for s in found)
    # Rows that hold more than that are right.
    x[20:30] = 1.0 + rng.random((10, 5))
    wrong[20:30] = x[20:30]
    found = said_exactly(wrong + penalty * theta, x + penalty * theta, theta)
    assert "W: wrong in rows 0 to 8, right elsewhere" in found


def said_exactly(analytic, numeric, theta):
    """Of numeric values with no rounding but that of their own size."""
    return report_of(
        {"W": analytic}, {"W": numeric}, {"W": theta}, error_estimate=1e-14
    ).diagnosis


def sampled(analytic, numeric, n, seed=0):
    checked = np.zeros(numeric.size, np.bool_)
    rng = np.random.default_rng(seed)
    checked[rng.choice(numeric.size, n, replace=False)] = True
    return report_of({"W": analytic}, {"W": numeric}, checked=checked).diagnosis


def test_of_a_sample_the_row_is_named_that_is_wrong():
    x = np.random.default_rng(0).standard_normal((40, 4000))
    a = x.copy()
    a[7] *= 1.5
    assert sampled(a, x, 400) == [
        "W: numeric is 0.667 times analytic in row 7",
        "W: wrong in row 7, right elsewhere, of those checked",
    ]


def test_of_a_sample_no_line_is_named_of_which_little_was_seen():
    x = np.random.default_rng(0).standard_normal((300, 400))
    a = x * np.random.default_rng(1).uniform(0.3, 3, x.shape)
    a[:, 100:] = x[:, 100:]
    for seed in range(20):
        found = sampled(a, x, 60, seed)
        assert not any("row" in s or "column" in s for s in found), found


def test_of_a_sample_entries_checked_are_counted():
    x = np.random.default_rng(0).standard_normal((40, 50))
    a = x.copy()
    a[:, :25] = 0
    found = sampled(a, x, 200)[0]
    assert "of the 200 entries checked, where numeric is not" in found
    found = sampled(x + 0.3, x, 200)[0]
    assert found.endswith("in every entry checked")
    found = sampled(0 * x, x, 200)[0]
    assert "the analytic gradient is zero where it was checked" in found


def test_one_row_of_its_own_factor_is_told_from_every_column(x):
    a = x.copy()
    a[3] *= 1.5
    assert said(a, x) == [
        "W: numeric is 0.667 times analytic in row 3",
        "W: wrong in row 3, right elsewhere",
    ]


def test_lost_digits_are_named(x):
    options = {"thresholds": (1e-9, 1e-3), "error_estimate": 1e-12}
    for dtype in ("float32", "float16"):
        found = report_of({"W": x.astype(dtype)}, {"W": x}, **options).diagnosis
        assert found[0] == f"W: the analytic values are rounded to {dtype}"
    found = report_of({"W": x.round(2)}, {"W": x}, **options).diagnosis
    assert found[0] == "W: the analytic values are rounded to 2 decimals"


def test_another_arrays_gradient_is_named(x):
    y = np.random.default_rng(3).standard_normal((4, 6))
    numeric = {"W1": x, "W2": y}
    found = report_of({"W1": y.reshape(6, 4), "W2": y}, numeric).diagnosis
    assert "W1: the analytic gradient is that of W2" in found
    found = report_of({"W1": y.T, "W2": y}, numeric).diagnosis
    assert "W1: the analytic gradient is that of W2" in found


def test_nothing_is_named_where_there_is_nothing():
    """Noise of any size, over many shapes: no pattern, only a place."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(3, 9, rng.integers(1, 3)))
        x, theta = rng.standard_normal((2, *shape))
        a = x + 10.0 ** rng.uniform(-4, 1) * rng.standard_normal(shape)
        found = said(a, x, theta=theta)
        found = [
            s for s in found if "right elsewhere" not in s and "one entry" not in s
        ]
        assert found == [], f"{seed}: {found}"


def test_a_pattern_among_kinks_is_found_in_the_rest(x):
    from fanin._report import KINK

    status = np.zeros(x.size, np.int8)
    status[:5] = KINK
    a = 3.7 * x
    a.ravel()[:5] = 0.1
    found = said(a, x, status=status)
    assert any("numeric is 0.27027 times analytic" in s for s in found)
    assert any("5 of 24 entries on a kink" in s for s in found)


def test_what_has_no_effect_is_counted():
    x = np.array([1.0, 2.0, 3.0])
    unused = np.ones((2, 2))
    report = check_gradient(
        lambda p: p["x"][0] ** 2,
        {"x": x, "unused": unused},
        {"x": [2.0, 0.0, 0.0], "unused": np.zeros((2, 2))},
    )
    assert report.ok
    assert report.diagnosis == [
        "x: no effect of 2 of 3 entries: both gradients are exactly zero there",
        "unused: no effect: the function does not depend on any of its 4 entries here, "
        "by both gradients",
    ]


# -- what is known of the function -----------------------------------------------------


def test_hypotheses_are_compared_and_not_believed(x):
    other = np.random.default_rng(4).standard_normal(x.shape)
    asked = []

    def hypotheses(name):
        asked.append(name)
        return {"of another shape": other[:2], "it is mirrored": other}

    report = report_of({"W": other}, {"W": x}, hypotheses=hypotheses)
    assert "W: it is mirrored" in report.diagnosis
    assert asked == ["W"]
    report = report_of({"W": other + 0.1}, {"W": x}, hypotheses=hypotheses)
    assert not any("mirrored" in sentence for sentence in report.diagnosis)
    # The report is kept and sent: what it was made with is not part of it.
    again = pickle.loads(pickle.dumps(report))
    assert again.diagnosis == report.diagnosis


# -- layers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        ("W2 b2 W1 b1", ["W1 b1", "W2 b2"]),
        ("W10 W9 b9", ["W9 b9", "W10"]),
        ("dense1.weight dense1.bias relu0.x", ["relu0.x", "dense1.weight dense1.bias"]),
        ("layers.0.W layers.0.b layers.1.W", ["layers.0.W layers.0.b", "layers.1.W"]),
        ("net.W1 net.W2", ["net.W1", "net.W2"]),
        ("[1][0] [0][0] [0][1]", ["[0][0] [0][1]", "[1][0]"]),
        ("layers[0].W layers[1].W", ["layers[0].W", "layers[1].W"]),
        ("W1.real W1.imag W2.real", ["W1.real W1.imag", "W2.real"]),
        # What tells of no layers.
        ("dec dec_b enc enc_b", None),
        ("[0] [1] [2] [3]", None),
        ("W1 b1 Wout", None),
        ("enc1 dec1 enc2 dec2", None),
        ("enc1.W dec1.W", None),
        ("enc.W1 dec.W2", None),
        ("W[0] W[1] b[0] b[1]", None),
        ("block1.W1 W2", None),
        ("a1.W W2", None),
    ],
)
def test_arrays_belong_to_layers_by_numbers_in_their_names(names, layers):
    shapes = {n: (3,) if n.startswith("b") else (3, 2) for n in names.split()}
    found = layers_of(shapes)
    assert found == (None if layers is None else [v.split() for v in layers])


LAYERS = [["W1", "b1"], ["W2", "b2"], ["W3", "b3"]]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            "W1 b1",
            "counted from the output, the gradient first goes wrong at W1 and b1",
        ),
        (
            "W1 b1 W2",
            "first goes wrong at W2; the layers after it are correct, and all",
        ),
        (
            "W2",
            "goes wrong at W2; the layers after it are correct; what it passes down",
        ),
        ("W3 W2 b2 W1 b1", "the gradient is wrong from the last layer on, at W3, and"),
        ("b3", "the gradient is wrong from the last layer on, at b3; what it passes"),
        ("b1", "at b1; the layers after it are correct; W1 of the same layer is right"),
        ("W1", "b1 of the same layer is right: look at how the gradient of W1 is form"),
        ("W1 b1 W2", "all before it are wrong too; b2 of the same layer is right"),
        ("", None),
    ],
)
def test_the_first_layer_from_the_output_that_is_wrong(wrong, words):
    names = [name for layer in LAYERS for name in layer]
    verdicts = {n: "wrong" if n in wrong.split() else "correct" for n in names}
    found = list(first_layer(verdicts, frozenset(), LAYERS))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_no_layer_is_named_where_a_later_one_is_not_known():
    verdicts = {"W1": "wrong", "W2": "inconclusive"}
    assert list(first_layer(verdicts, frozenset(), [["W1"], ["W2"]])) == []


def test_nothing_is_said_of_layers_before_that_are_not_known():
    verdicts = {"W1": "inconclusive", "W2": "wrong", "W3": "correct"}
    found = list(first_layer(verdicts, frozenset(), [["W1"], ["W2"], ["W3"]]))
    assert found[0].endswith("wrong at W2; the layers after it are correct")


def layer_words(report):
    words = "counted from the output", "from the last layer", "same layer"
    return [s for s in report.diagnosis if any(w in s for w in words)]


def two_layers(names, build, mistake=True):
    """tanh's derivative left out below; arrays in an order and structure of `build`."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((9, 4)), rng.standard_normal((9, 2))
    W1, b1 = rng.standard_normal((4, 3)), rng.standard_normal(3)
    W2, b2 = rng.standard_normal((3, 2)), rng.standard_normal(2)

    def loss(p):
        W1, b1, W2, b2 = names(p)
        return 0.5 * np.sum((np.tanh(X @ W1 + b1) @ W2 + b2 - Y) ** 2)

    def gradient(p):
        W1, b1, W2, b2 = names(p)
        A = np.tanh(X @ W1 + b1)
        D = A @ W2 + b2 - Y
        E = D @ W2.T * (1 if mistake else 1 - A**2)
        return build(X.T @ E, E.sum(0), A.T @ D, D.sum(0))

    return check_gradient(loss, build(W1, b1, W2, b2), gradient)


def test_layers_are_in_the_order_of_their_numbers_not_of_the_arrays():
    report = two_layers(
        lambda p: (p["W1"], p["b1"], p["W2"], p["b2"]),
        lambda W1, b1, W2, b2: {"W2": W2, "b2": b2, "W1": W1, "b1": b1},
    )
    assert report.diagnosis[0] == (
        "counted from the output, the gradient first goes wrong at W1 and b1; the "
        "layers after it are correct"
    )


def test_a_nested_list_is_of_layers():
    report = two_layers(
        lambda p: (*p[0], *p[1]), lambda W1, b1, W2, b2: [[W1, b1], [W2, b2]]
    )
    assert "first goes wrong at [0][0] and [0][1]; the layers" in report.diagnosis[0]


def test_names_without_numbers_are_of_no_layers():
    report = two_layers(
        lambda p: (p["enc"], p["enc_b"], p["dec"], p["dec_b"]),
        lambda W1, b1, W2, b2: {"dec": W2, "dec_b": b2, "enc": W1, "enc_b": b1},
    )
    assert report.diagnosis[0] == "wrong: enc, enc_b; correct: dec, dec_b"
    assert layer_words(report) == []


def test_arguments_are_no_layers():
    rng = np.random.default_rng(0)
    x1, w2 = rng.standard_normal((5, 4)), rng.standard_normal((4, 3))
    report = check_vjp(
        lambda x1, w2: x1 @ w2, lambda x1, w2, v: (v @ w2.T, x1.T @ v * 1.3), (x1, w2)
    )
    assert report.verdict == "wrong"
    assert layer_words(report) == []
    assert "wrong: w2; correct: x1" in report.diagnosis


def test_an_array_that_is_not_used_is_not_formed_wrongly():
    x = np.arange(1.0, 5.0)
    report = check_gradient(
        lambda p: float(np.sum(p["W1"] ** 2) + np.sum(p["W2"] ** 2)),
        {"W1": x, "b1": np.ones(3), "W2": -x},
        lambda p: {"W1": 2 * x, "b1": np.ones(3), "W2": -2 * x},
    )
    assert any("does not depend on it here" in s for s in report.diagnosis)
    assert not any("look at how" in s for s in report.diagnosis)


# -- the picture -----------------------------------------------------------------------


def test_the_picture_has_a_panel_for_each_array_and_the_errors(x):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    numeric = {"W1": x, "b1": x[0], "W2": 1e-4 * x.T}
    analytic = numeric | {"b1": -x[0]}
    report = report_of(analytic, numeric)
    figure = report.plot(figure=Figure())
    panels, bars = figure.axes[:-1], figure.axes[-1]
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == ["W1: correct", "b1: wrong", "W2: correct"]
    drawn = panels[1].lines[0]
    np.testing.assert_allclose(drawn.get_xdata(), x[0], rtol=1e-8)
    np.testing.assert_allclose(drawn.get_ydata(), -x[0], rtol=1e-8)
    assert bars.get_yscale() == "log"
    assert bars.get_title(loc="left") == "relative error by array"
    heights = [bar.get_height() for bar in bars.patches]
    assert heights[1] == pytest.approx(1.0)
    assert max(heights[0], heights[2]) < 1e-7
    figure.canvas.draw()  # what cannot be drawn would show only now


@pytest.mark.parametrize(
    ("factor", "named"), [([-1.0], ["wrong"]), ([1.0, -1.0], ["agrees", "wrong"])]
)
def test_the_legend_has_the_kinds_of_points_that_there_are(factor, named):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    x = np.array([1.0, 2.0])
    axes = report_of({"W": x * factor}, {"W": x}).plot(figure=Figure()).axes
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == named
    assert axes[-1].get_title(loc="left") == "relative error"


def test_the_picture_shows_the_most_wrong_of_many_arrays():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    numeric = {f"W{k}": rng.standard_normal(7) for k in range(60)}
    analytic = numeric | {"W41": -numeric["W41"], "W3": numeric["W3"] * np.nan}
    figure = report_of(analytic, numeric).plot(figure=Figure())
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 9
    assert "W41: wrong" in titles
    assert "W3: wrong" in titles
    assert "20 correct ones left out" in titles[-1]
    figure.canvas.draw()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = report_of({"W": np.ones(2)}, {"W": np.ones(2)})
    with pytest.raises(ImportError, match=r'pip install "fanin\[plot\]"'):
        report.plot()
