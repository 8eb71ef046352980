"""Pictures of signals: what is drawn is what was measured, and what it is called."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

import fanin
from fanin import initializers
from fanin.propagation import expected_signals

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

# -- plot_initialization ---------------------------------------------------------------


def draw(**options):
    options = {"depth": 12, "width": 48, "n_samples": 64} | options
    return fanin.plot_initialization(figure=Figure(layout="constrained"), **options)


def lines(ax):
    """Return the data of the lines by label; theory's are unlabelled and in order."""
    named = {line.get_label(): line for line in ax.lines if line.get_label()[0] != "_"}
    theory = [line for line in ax.lines if line.get_label()[0] == "_"]
    return named, theory


@pytest.mark.parametrize(("activation", "rule"), [("relu", 2.0), ("tanh", 1.0)])
def test_what_is_measured_agrees_with_theory_as_far_as_the_width_allows(
    activation, rule
):
    """log(norm) is a sum over layers of terms of variance 5 / (4 n) at the most.

    That is ReLU's (Hanin & Nica 2020, with n units); so the mean growth of L layers
    has the standard deviation sqrt(5 / (4 n L)), beside what a sample has by itself.
    """
    depth, width = 20, 256
    figure = draw(
        depth=depth,
        width=width,
        n_samples=128,
        activation=activation,
        scales=[rule / 2, rule, 2 * rule],
    )
    allowed = 4 * math.sqrt(5 / (4 * width * depth))
    for ax, first in zip(figure.axes[:2], (0, -1), strict=True):
        named, theory = lines(ax)
        measured = [line for label, line in named.items() if "theory" not in label]
        assert len(measured) == len(theory) == 3
        for found, wide in zip(measured, theory, strict=True):
            np.testing.assert_array_equal(found.get_xdata(), wide.get_xdata())
            growth = np.log(found.get_ydata() / wide.get_ydata())
            assert abs(growth[first]) < 1e-12  # where both start
            assert abs(growth[-1 - first]) / depth < allowed


def test_the_thin_lines_are_the_theory():
    figure = draw(activation="tanh", scales=[0.5, 2.0])
    mean_square = lines(figure.axes[0])[1][0].get_ydata()[0] ** 2
    for k, scale in enumerate((0.5, 2.0)):
        wide = expected_signals("tanh", scale, 12, mean_square=mean_square)
        for ax, values in zip(
            figure.axes,
            (np.append(mean_square**0.5, wide.rms), wide.gradient_norm),
            strict=False,
        ):
            drawn = lines(ax)[1][k].get_ydata()
            np.testing.assert_allclose(drawn, values, rtol=1e-12)


def test_the_measured_lines_are_of_a_network_of_those_weights():
    """The same signals by NumPy, from the weights that the same initializer gives."""
    seen = []

    def init(shape, *, rng, dtype, out):
        initializers.variance_scaling(shape, scale=1.3, rng=rng, out=out)
        seen.append(out.copy())

    figure = draw(activation="tanh", scales=[init], depth=5)
    X_rms = lines(figure.axes[0])[0]["init"].get_ydata()[0]
    assert X_rms == pytest.approx(1.0, abs=4 / math.sqrt(2 * 64 * 48))
    # Without the input at hand: of the same weights, another input.
    A = np.random.default_rng(0).standard_normal((20000, 48))
    rms = []
    for W in seen:
        A = np.tanh(A @ W)
        rms.append(math.sqrt(np.mean(A * A)))
    found = lines(figure.axes[0])[0]["init"].get_ydata()[1:]
    np.testing.assert_allclose(found, rms, rtol=0.05)


def test_panels_say_what_they_show():
    figure = draw(activation="relu", scales=[1.0, 2.0, "glorot_uniform"])
    forward, backward, *rest = figure.axes
    histograms, below = rest[:-1], rest[-1]
    assert "the rule is C = 2" in figure.get_suptitle()
    assert "12 layers" in figure.get_suptitle()
    assert [ax.get_title(loc="left") for ax in histograms] == [
        "C = 1",
        "C = 2, the rule",
        "glorot_uniform",
    ]
    assert [text.get_text() for text in below.get_legend().get_texts()] == [
        "C = 1",
        "C = 2, the rule",
        "glorot_uniform",
        "theory, wide layers",
    ]
    for ax in (forward, backward):
        assert ax.get_yscale() == "log"
        assert "layer" in ax.get_xlabel()
        assert ax.get_ylabel()
    assert len(lines(forward)[1]) == 2  # no theory of glorot_uniform
    for ax in histograms:
        assert ax.get_xlim() == histograms[0].get_xlim()
        assert [text.get_text() for text in ax.get_yticklabels()][::3] == ["1", "12"]
    # Half of what ReLU gives is 0.
    assert any("are 0" in text.get_text() for text in histograms[0].texts)
    figure.canvas.draw()


def test_styles_differ_without_colour():
    figure = draw(scales=[0.1, 0.5, 0.9, 1.0, 1.1, 2.0], depth=3)
    styles = {
        (str(line.get_linestyle()), line.get_marker(), str(line._dash_pattern))
        for label, line in lines(figure.axes[0])[0].items()
        if "theory" not in label
    }
    assert len(styles) == 6


def test_the_same_seed_draws_the_same_picture():
    one, same, other = (draw(rng=rng, scales=[1.0]) for rng in (3, 3, 4))
    data = [
        lines(f.axes[1])[0]["C = 1, the rule"].get_ydata() for f in (one, same, other)
    ]
    np.testing.assert_array_equal(data[0], data[1])
    assert (data[0] != data[2]).any()


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
def test_signals_that_leave_the_range_are_drawn_as_far_as_they_go(activation):
    figure = draw(activation=activation, scales=[1e12, 0.0, 1e-12], depth=60)
    figure.canvas.draw()


def test_a_subfigure_will_do():
    whole = Figure(layout="constrained")
    left, _ = whole.subfigures(1, 2)
    options = {"depth": 4, "width": 8, "n_samples": 8}
    assert fanin.plot_initialization(figure=left, **options) is left
    assert len(left.axes) == 6
    whole.canvas.draw()


def test_a_new_figure_is_pyplots():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    figure = fanin.plot_initialization(depth=3, width=8, n_samples=8)
    assert len(pyplot.get_fignums()) == len(before) + 1
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"depth": 1}, ValueError, "depth must be at least 2"),
        ({"depth": 2.0}, TypeError, "depth must be an integer"),
        ({"activation": "step"}, ValueError, "activation must be one of"),
        ({"activation": np.tanh}, TypeError, "activation must be a name"),
        ({"scales": []}, ValueError, "scales must hold from 1 to 6 entries; got 0"),
        ({"scales": [1.0] * 7}, ValueError, "scales must hold from 1 to 6"),
        ({"scales": 2.0}, TypeError, "scales must be a sequence"),
        ({"scales": [1.0, -2.0]}, ValueError, r"scales\[1\] must be a finite number"),
        ({"scales": [None]}, TypeError, r"scales\[0\] must be a real number"),
        ({"scales": ["nope"]}, ValueError, r"scales\[0\].*'nope'"),
        ({"width": 0}, ValueError, "width must be at least 1"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1"),
        ({"rng": "x"}, TypeError, "rng"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_drawn(options, error, words):
    figure = Figure()
    with pytest.raises(error, match=words):
        fanin.plot_initialization(figure=figure, **options)
    assert figure.axes == []


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "fanin\[plot\]"'):
        fanin.plot_initialization(depth=2, width=2, n_samples=2)
