"""Pictures of signals: what is drawn is what was measured, and what it is called."""

from __future__ import annotations

import functools
import math
import sys

import numpy as np
import pytest

import fanin
from fanin import initializers
from fanin.callbacks import Monitor
from fanin.layers import Dense
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


# -- a report --------------------------------------------------------------------------


def network(activation, depth, scale, width=40, **options):
    init = functools.partial(initializers.variance_scaling, scale=scale)
    layers = [Dense(width, activation) for _ in range(depth)]
    options = {"loss": "squared_error", "init": init, "rng": 0} | options
    return fanin.Network(width, layers, **options)


@pytest.fixture
def X():
    return np.random.default_rng(0).standard_normal((300, 40))


def panels(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def column(report, name):
    return [getattr(layer, name) for layer in report.layers]


def test_the_panels_of_a_report_hold_its_numbers(X):
    report = network("tanh", 5, 1.0).diagnose(X)
    found = panels(report.plot(figure=Figure(layout="constrained")))
    assert list(found)[:4] == [
        "Forward: activations",
        "Backward: gradients dL/dz",
        "Units",
        "Gradient over weight, as norms",
    ]
    forward = lines(found["Forward: activations"])[0]
    assert list(forward) == [
        "root mean square",
        "std",
        "std over samples",
        "theory, independent weights",
    ]
    rms = forward["root mean square"]
    assert rms.get_xdata().tolist() == [-1, 0, 1, 2, 3, 4]
    assert rms.get_ydata().tolist() == [report.input.rms, *column(report, "rms")]
    for label, name in (("std", "std"), ("std over samples", "sample_std")):
        assert forward[label].get_xdata().tolist() == [0, 1, 2, 3, 4]
        assert forward[label].get_ydata().tolist() == column(report, name)
    theory = forward["theory, independent weights"].get_ydata()
    chained = report.input.rms * np.cumprod(np.append(1.0, report.expected_forward))
    np.testing.assert_allclose(theory, chained, rtol=1e-14)

    backward = lines(found["Backward: gradients dL/dz"])[0]
    norms = backward["norm per sample"].get_ydata()
    assert norms.tolist() == column(report, "backward_norm")
    wide = backward["theory, independent weights"].get_ydata()
    assert wide[-1] == norms[-1]
    np.testing.assert_allclose(
        wide[:-1] / wide[1:], report.expected_backward[:-1], rtol=1e-13
    )
    units = lines(found["Units"])[0]
    assert units["dead"].get_ydata().tolist() == column(report, "dead")
    assert units["saturated or off"].get_ydata().tolist() == column(report, "saturated")
    rank = np.array(column(report, "effective_rank")) / 40
    assert units["effective rank / units"].get_ydata().tolist() == rank.tolist()
    ratios = found["Gradient over weight, as norms"].lines[0].get_ydata()
    assert ratios.tolist() == column(report, "gradient_to_weight")


def test_theory_starts_anew_after_a_layer_of_which_it_says_nothing(X):
    layers = [Dense(40), fanin.layers.BatchNorm(), fanin.layers.Activation("relu")]
    net = fanin.Network(40, layers * 2, loss="squared_error", rng=0)
    for _ in range(3):
        net.train_step(X, np.zeros((300, 40)), fanin.optimizers.SGD(0.01))
    report = net.diagnose(X)
    assert np.isnan(report.expected_forward[1])
    ax = panels(report.plot(figure=Figure()))["Forward: activations"]
    theory = lines(ax)[0]["theory, independent weights"].get_ydata()
    assert theory[2] == report.layers[1].rms
    assert theory[3] == theory[2] * report.expected_forward[2]


def test_the_title_is_the_verdict_and_lines_mark_where_it_starts(X):
    report = network("relu", 20, 0.5).diagnose(X)
    figure = report.plot(figure=Figure())
    said = figure.get_suptitle().replace("\n", " ")
    assert said == report.verdict
    found = panels(figure)
    names = column(report, "name")
    for problem, title in zip(
        report.problems,
        ("Backward: gradients dL/dz", "Forward: activations"),
        strict=True,
    ):
        label = f"{problem.kind.replace('_', ' ')}, from {problem.layer}"
        mark = lines(found[title])[0][label]
        assert mark.get_xdata()[0] == names.index(problem.layer)
    assert not any("from" in label for label in lines(found["Units"])[0])


def test_layers_are_named_and_of_many_some_have_histograms(X):
    few = network("tanh", 3, 1.0).diagnose(X).plot(figure=Figure())
    assert [ax.get_title(loc="left") for ax in few.axes[4:]] == [
        "dense0, tanh",
        "dense1, tanh",
        "dense2, tanh",
    ]
    assert [t.get_text() for t in few.axes[0].get_xticklabels()] == [
        "X",
        "dense0",
        "dense1",
        "dense2",
    ]
    report = network("tanh", 30, 0.3).diagnose(X)
    many = report.plot(figure=Figure())
    titles = [ax.get_title(loc="left") for ax in many.axes[4:]]
    assert len(titles) == 8
    assert titles[0] == "dense0, tanh"
    assert titles[-1] == "dense29, tanh"
    for problem in report.problems:
        assert f"{problem.layer}, tanh" in titles
    assert many.axes[1].get_xlabel() == "layer, from dense0 to dense29"


def test_histograms_hold_the_sample_but_for_zeros_and_far_ends(X):
    report = network("relu", 2, 2.0).diagnose(X)
    ax = report.plot(figure=Figure()).axes[4]
    values = report.layers[0].sample.ravel()
    counts, edges, _ = ax.patches[0].get_data()
    rest = values[values != 0]
    low, high = np.quantile(rest, [0.0005, 0.9995])
    assert counts.sum() == np.sum((rest >= min(low, 0.0)) & (rest <= high))
    assert edges[0] == 0.0
    assert edges[-1] == pytest.approx(high, rel=1e-6)
    assert ax.texts[0].get_text() == f"{np.mean(values == 0):.0%} are 0"


def test_signals_by_hand_are_drawn_without_what_is_not_known():
    rng = np.random.default_rng(0)
    report = fanin.diagnose_signals([np.maximum(rng.standard_normal((50, 9)), 0)])
    figure = report.plot(figure=Figure(layout="constrained"))
    found = panels(figure)
    for title in ("Backward: gradients dL/dz", "Gradient over weight, as norms"):
        assert [t.get_text() for t in found[title].texts] == ["not measured"]
    assert found["Forward: activations"].lines[0].get_xdata().tolist() == [0]
    figure.canvas.draw()


@pytest.mark.parametrize("fill", [0.0, 1e-300, 1e300, math.inf, math.nan])
def test_a_broken_network_is_drawn_as_far_as_it_goes(fill):
    A = np.random.default_rng(0).standard_normal((20, 5))
    B = np.full((20, 5), fill)
    figure = fanin.diagnose_signals([A, B], [B, A]).plot(figure=Figure())
    figure.canvas.draw()


def test_a_report_goes_into_a_subfigure(X):
    whole = Figure(figsize=(14, 8), layout="constrained")
    _, right = whole.subfigures(1, 2)
    assert network("tanh", 3, 1.0).diagnose(X).plot(figure=right) is right
    assert len(right.axes) == 7
    whole.canvas.draw()


def test_what_is_zero_is_not_called_unmeasured():
    A = np.zeros((20, 5))
    figure = fanin.diagnose_signals([A, A], [A, A]).plot(figure=Figure())
    for title in ("Forward: activations", "Backward: gradients dL/dz"):
        text = [t.get_text() for t in panels(figure)[title].texts]
        assert text == ["0 in all layers"]
    figure = fanin.diagnose_signals({"a": A + 1, "b": A}).plot(figure=Figure())
    text = [t.get_text() for t in panels(figure)["Forward: activations"].texts]
    assert text == ["0, not drawn: b"]
    A = np.ones((1797, 5))
    A[3, 2] = np.nan
    ax = fanin.diagnose_signals([A]).plot(figure=Figure()).axes[4]
    assert "<1% not finite" in [t.get_text() for t in ax.texts] or A.shape[0] > 1024


def test_long_names_are_numbered():
    names = ["encoder.block.attention.output.dense", "another_long_name_of_a_layer"]
    A = np.random.default_rng(0).standard_normal((20, 5))
    figure = fanin.diagnose_signals([A, A], names=names).plot(figure=Figure())
    assert figure.axes[0].get_xlabel() == f"layer, from {names[0]} to {names[1]}"


def test_a_monitor_says_which_lines_end_at_zero(X):
    class Kill:
        def on_epoch_end(self, state):
            if state.epoch == 2:
                state.network.named_parameters()["dense1.bias"][...] = -1e4

    monitor = Monitor(X, np.zeros((300, 40)), warn=False)
    network("relu", 3, 2.0).fit(
        X,
        np.zeros((300, 40)),
        optimizer=fanin.optimizers.SGD(1e-9),
        epochs=3,
        batch_size=300,
        callbacks=[Kill(), monitor],
        rng=0,
    )
    found = panels(monitor.plot(figure=Figure()))
    text = [t.get_text() for t in found["Norm of the weight's gradient"].texts]
    assert len(text) == 1
    assert text[0].startswith("0, not drawn: dense0 from 2")


# -- a monitor -------------------------------------------------------------------------


@pytest.fixture
def monitor(X):
    net = network("tanh", 10, 1.0)
    found = Monitor(X, np.zeros((300, 40)), every=2, warn=False)
    net.fit(
        X,
        np.zeros((300, 40)),
        optimizer=fanin.optimizers.SGD(0.1),
        epochs=6,
        batch_size=100,
        callbacks=found,
        rng=0,
    )
    return found


def test_the_panels_of_a_monitor_hold_its_record(monitor):
    figure = monitor.plot(figure=Figure(layout="constrained"))
    found = panels(figure)
    values = {
        "Forward growth, per layer": monitor.forward_growth,
        "Backward growth, per layer": monitor.backward_growth,
        "Dead units, share": monitor.dead,
        "Norm of the weight's gradient": monitor.weight_gradient_norm,
    }
    assert list(found) == list(values)
    for title, table in values.items():
        drawn = lines(found[title])[0]
        layers = [f"dense{i}" for i in np.linspace(0, 9, 8).round().astype(int)]
        known = [name for name in layers if np.isfinite(table[:, int(name[5:])]).any()]
        assert [label for label in drawn if label.startswith("dense")] == known
        for name in known:
            assert drawn[name].get_xdata().tolist() == [0, 2, 4, 6]
            assert drawn[name].get_ydata().tolist() == table[:, int(name[5:])].tolist()
        assert found[title].get_xlabel() == "epoch"
    legend = found["Dead units, share"].get_legend()
    assert [text.get_text() for text in legend.get_texts()][:2] == ["dense0", "dense1"]
    assert figure.get_suptitle().startswith("After epoch 6: ")
    figure.canvas.draw()


def test_the_first_report_with_a_problem_is_marked(X):
    found = Monitor(X, every=1, warn=False)
    network("relu", 20, 0.5).fit(
        X,
        np.zeros((300, 40)),
        optimizer=fanin.optimizers.SGD(1e-6),
        epochs=1,
        batch_size=300,
        callbacks=found,
        rng=0,
    )
    problem = found.reports[0].problems[0]
    label = f"{problem.kind.replace('_', ' ')}, {problem.layer}"
    for ax in found.plot(figure=Figure()).axes:
        assert lines(ax)[0][label].get_xdata()[0] == 0


def test_a_monitor_without_a_report_has_nothing_to_plot(X):
    with pytest.raises(ValueError, match="no report"):
        Monitor(X).plot()


def test_reports_and_monitors_make_figures_of_pyplots(X, monitor):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    figures = [network("tanh", 3, 1.0).diagnose(X).plot(), monitor.plot()]
    assert len(pyplot.get_fignums()) == len(before) + 2
    for figure in figures:
        pyplot.close(figure)


def test_reports_and_monitors_name_the_extra_too(X, monitor, monkeypatch):
    report = network("tanh", 3, 1.0).diagnose(X)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for thing in (report, monitor):
        with pytest.raises(ImportError, match=r'pip install "fanin\[plot\]"'):
            thing.plot()
