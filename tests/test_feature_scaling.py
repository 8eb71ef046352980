"""The same network on raw and on standardized features, and what the report says."""

from __future__ import annotations

import numpy as np
import pytest

import fanin
from fanin.layers import Dense

datasets = pytest.importorskip("sklearn.datasets")

# Features that are at 10 times the median scale, by their names.
UNSCALED = {"wine": "proline", "breast_cancer": "worst area"}


def load(name: str):
    found = getattr(datasets, f"load_{name}")()
    rows = np.arange(found.target.size) % 4 != 0
    return found.data, found.target, rows, [str(f) for f in found.feature_names]


def make(activation: str, n_inputs: int, n_classes: int):
    layers = [Dense(32, activation), Dense(32, activation), Dense(n_classes)]
    return fanin.Network(n_inputs, layers, loss="softmax_cross_entropy", rng=0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_standardized_features_are_what_a_network_learns_from(
    name: str, activation: str
) -> None:
    X, y, rows, features = load(name)
    commonest = max(np.bincount(y[~rows])) / np.count_nonzero(~rows)
    standardized = fanin.standardize(X)
    accuracy, reports = {}, {}
    for kind, data in (("raw", X), ("standardized", standardized)):
        net = make(activation, X.shape[1], int(y.max()) + 1)
        reports[kind] = net.diagnose(data[rows], y[rows], feature_names=features)
        net.fit(
            data[rows],
            y[rows],
            optimizer=fanin.optimizers.SGD(0.05),
            epochs=30,
            batch_size=16,
            rng=0,
        )
        accuracy[kind] = float((net.predict(data[~rows]) == y[~rows]).mean())
    # On raw features it says what the commonest class is, or little more.
    assert accuracy["standardized"] > 0.93
    assert accuracy["raw"] < commonest + 0.1
    assert accuracy["standardized"] - accuracy["raw"] > 0.25

    raw = reports["raw"]
    assert raw.problems[0].kind == "unscaled_features"
    assert raw.starts_at == "X"
    column = features.index(UNSCALED[name])
    mean, std = X[rows, column].mean(), X[rows, column].std()
    assert f"{UNSCALED[name]!r} has mean {mean:.3g} and std {std:.3g}" in raw.verdict
    assert "standardize" in raw.verdict
    assert reports["standardized"].healthy, reports["standardized"].verdict
    if activation == "tanh":
        assert "saturated_units" in [p.kind for p in raw.problems]
        assert raw.layers[0].saturated > 0.9


def test_a_frame_gives_the_names() -> None:
    pytest.importorskip("pandas")
    frame = datasets.load_wine(as_frame=True)
    net = make("relu", 13, 3)
    assert "'proline'" in net.diagnose(frame.data, frame.target).verdict


def test_pixels_between_0_and_1_are_scaled() -> None:
    X, y = datasets.load_digits(return_X_y=True)
    net = make("relu", 64, 10)
    for data in (X / 16, fanin.standardize(X)):
        report = net.diagnose(data, y)
        assert report.healthy, report.verdict
        assert [note.kind for note in report.notes] == ["constant_features"]
        assert "(3 of 64)" in report.notes[0].sentence
