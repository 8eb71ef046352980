"""``python -m fanin demo``: its results, its picture, its data, its complaints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fanin
from fanin.__main__ import main
from fanin._demo import data, numpy_version, stages
from fanin._demo.errors import DemoError

matplotlib = pytest.importorskip("matplotlib")

SMALL = ["--quiet", "--hidden", "12", "--epochs", "3"]


def png_size(path: Path) -> tuple[int, int]:
    """Return width and height from the file's header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def good_rows(rng: np.random.Generator) -> list[str]:
    X = rng.normal(size=(60, 2))
    return [f"{a:.4f},{b:.4f},{int(a > 0)}" for a, b in X]


def test_the_digits_train_to_97_percent_with_everything_shown(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    picture = tmp_path / "fanin-demo.png"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fanin", "demo"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,  # where the picture goes by default
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    # No progress bar into a pipe; matplotlib may tell of its font cache.
    assert "epoch" not in done.stderr
    out = done.stdout
    found = re.search(r"test accuracy: ([\d.]+) %", out)
    assert found is not None
    assert float(found[1]) >= 97
    verdict = re.search(r"verdict: correct, relative error (\S+)\n", out)
    assert verdict is not None
    assert float(verdict[1]) < 1e-7
    assert "19210 entries" in out
    assert (
        "found: dense0.weight, dense0.bias; correct: dense1.weight, dense1.bias" in out
    )
    assert (
        "found: dense1.bias; correct: dense0.weight, dense0.bias, dense1.weight" in out
    )
    assert "dense1.bias: numeric is 1/25 times analytic" in out
    assert len(re.findall(r"time: fanin \S+ \S+, NumPy \S+", out)) == 6
    width, height = png_size(picture)
    assert width >= 1000
    assert height >= 700
    assert 30_000 < picture.stat().st_size < 2_000_000


def test_the_picture_draws_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_rows: list[str]
) -> None:
    made = []
    monkeypatch.setattr(stages.Picture, "write", lambda self, path: made.append(self))
    path = table(tmp_path / "t.csv", "a,b,y", good_rows)
    assert main(["demo", "--data", str(path), "--target", "y", *SMALL]) == 0
    (picture,) = made
    assert picture.correct.ok
    assert picture.broken.verdict == "wrong"
    assert len(picture.history.validation_loss) == 3
    ends = {scale: v[-1] / v[0] for scale, v in picture.signal.values()}
    # ReLU keeps C / 2 of the mean square at each of the 19 steps; the variance of a
    # random stack's outputs spreads about it, by less than a factor 100.
    for scale, ratio in ends.items():
        assert 1e-2 < ratio / (scale / 2) ** 19 < 1e2


@pytest.mark.parametrize("hidden", ["12", "9,7", "1"])
def test_a_table_with_named_classes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rng: np.random.Generator,
    hidden: str,
) -> None:
    X = rng.normal(size=(80, 3))
    rows = [f"{a},{'NA' if i % 9 == 0 else b},{'ja' if a > 0 else 'nein'},{c}"
            for i, (a, b, c) in enumerate(X)]  # fmt: skip
    path = table(tmp_path / "t.csv", "a,b,answer,c", rows)
    picture = tmp_path / "p.png"
    arguments = ["--data", str(path), "--target", "answer", "--output", str(picture)]
    assert (
        main(["demo", *arguments, "--quiet", "--epochs", "3", "--hidden", hidden]) == 0
    )
    out = capsys.readouterr().out
    assert "classification: 'answer' has 2 classes (ja, nein)" in out
    assert "9 missing values" in out
    assert "test accuracy" in out
    png_size(picture)


@pytest.mark.parametrize("target", ["price", "2", "-1"])
def test_a_table_with_numbers_is_a_regression(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rng: np.random.Generator,
    target: str,
) -> None:
    X = rng.normal(size=(300, 2))
    # In units that plain squared error would not survive.
    rows = [f"{a};{b};{1e6 + 1e5 * (a - b)}" for a, b in X]
    path = table(tmp_path / "t.csv", "a;b;price", rows)
    arguments = ["--data", str(path), "--target", target, "--quiet", "--hidden", "32"]
    assert main(["demo", *arguments, "--output", str(tmp_path / "p.png")]) == 0
    out = capsys.readouterr().out
    assert "regression: 'price' has 300 different numbers" in out
    found = re.search(r"test R\^2: ([\d.]+)", out)
    assert found is not None
    assert float(found[1]) > 0.9


def test_an_npz_with_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, X=rng.normal(size=(50, 3, 2)), label=np.arange(50) % 3)
    arguments = ["--data", str(path), "--target", "label"]
    arguments += ["--output", str(tmp_path / "p.png"), "--n-threads", "1"]
    assert main(["demo", *arguments, *SMALL]) == 0
    out = capsys.readouterr().out
    assert "50 rows, 6 features" in out
    assert "3 classes (0, 1, 2)" in out
    assert "1 threads" in out


GOOD = [f"{i},{i % 7},{i % 2}" for i in range(30)]


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        ("", "y", "t.csv is empty"),
        ("a,b,y\n", "y", "t.csv has a header but no rows"),
        ("\n".join(["a,b,y", *GOOD]), "z", "no column 'z'; it has 'a', 'b', 'y'"),
        ("\n".join(["a,b,y", *GOOD]), "3", "no column 3: it has 3 columns, 0 to 2"),
        ("\n".join(["a,b,y", *GOOD]), None, "--data needs --target"),
        ("\n".join(["y,y,c", *GOOD]), "y", "2 columns named 'y'"),
        ("\n".join(["a,city,y", *GOOD, "1,Oslo,0"]), "y",
         "column 'city', line 32: 'Oslo' is not a number"),
        ("\n".join(["a,b,y", *GOOD, "1,inf,0"]), "y",
         "column 'b', line 32: inf is not finite"),
        ("\n".join(["a,b,y", *GOOD, "1,2,nan"]), "y",
         "target 'y', line 32: the value is NaN"),
        ("\n".join(["a,b,y", *GOOD, "1,2,"]), "y",
         "target 'y', line 32: the value is empty"),
        ("\n".join(["a,b,y", *GOOD, "1,2"]), "y",
         "line 32: 2 values, where the header names 3 columns"),
        ("\n".join(["a,y", *(f"{i},5" for i in range(30))]), "y",
         "target 'y' has only one value, 5"),
        ("\n".join(["a,y", *(f"{i},n{i}" for i in range(30))]), "y",
         "30 different strings in 30 rows"),
        ("\n".join(["y", *(f"{i % 2}" for i in range(30))]), "y",
         "no column but the target 'y'"),
        ("\n".join(GOOD[1:]), "0", "the first line holds numbers"),
        ("a,y\n1,2\n2,3\n", "y", "2 rows; at least 10 are needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    target: str | None,
    says: str,
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    arguments = ["--data", str(path), "--output", str(tmp_path / "p.png")]
    if target is not None:
        arguments += ["--target", target]
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fanin demo: error: ")
    assert printed.err.count("\n") == 1
    assert says in printed.err
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"X": np.ones((20, 2))}, "no array 'y'; it has 'X'"),
        ({"A": np.ones((20, 2)), "B": np.ones(2), "y": np.ones(20)}, "no array 'X'"),
        ({"X": np.ones((20, 2)), "y": np.ones(19)}, "must have shape (20,)"),
        ({"X": np.ones(20), "y": np.ones(20)}, "(n_samples, n_features); got (20,)"),
        ({"X": np.ones((20, 2), complex), "y": np.ones(20)}, "dtype complex128"),
        ({"X": np.ones((20, 2)), "y": np.array([{}] * 20)}, "pickle"),
        ({"X": np.full((20, 2), np.inf), "y": np.arange(20)}, "X[0, 0] is not finite"),
        ({"X": np.ones((20, 2)), "y": np.full(20, np.nan)}, "target y[0] is nan"),
    ],
)
def test_what_is_wrong_with_an_npz_is_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arrays: dict[str, np.ndarray],
    says: str,
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    assert main(["demo", "--data", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fanin demo: error: ")
    assert error.count("\n") == 1
    assert says in error


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("no.csv", None, "no such file"),
        ("a.npz", b"a,b\n1,2\n", "is not an NPZ file"),
        ("a.npz", b"PK\x03\x04junk", "cannot read"),
        ("a.csv", b"\x89PNG\xff\xfe", "is not a text file in UTF-8"),
    ],
)
def test_a_file_that_is_none_gets_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    says: str,
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert main(["demo", "--data", str(path), "--target", "y"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_a_target_without_data_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--target", "y"]) == 2
    assert capsys.readouterr().err == "fanin demo: error: --target needs --data\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], good_rows: list[str]
) -> None:
    path = table(tmp_path / "t.csv", "a,b,y", good_rows)
    (tmp_path / "p.png").symlink_to("/dev/full")
    arguments = ["--data", str(path), "--target", "y"]
    arguments += ["--output", str(tmp_path / "p.png")]
    assert main(["demo", *arguments, *SMALL]) == 2
    assert re.fullmatch(
        r"fanin demo: error: cannot write \S+: .+\n", capsys.readouterr().err
    )


def test_a_row_index_is_not_a_feature(tmp_path: Path, good_rows: list[str]) -> None:
    rows = [f"{i},{row}" for i, row in enumerate(good_rows)]
    found = data.read(str(table(tmp_path / "t.csv", ",a,b,y", rows)), "y")
    assert found.X.shape == (60, 2)
    assert any("numbers the rows" in note for note in found.notes)


def test_the_split_is_stratified_and_without_overlap() -> None:
    y = np.repeat([0, 1, 2], [100, 50, 10])
    X = np.arange(160.0).reshape(-1, 1)
    parts = data.split(data.Data("", X, y, ["a", "b", "c"]))
    rows = [parts.X_train, parts.X_validation, parts.X_test]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows).ravel()), X[:, 0])
    assert np.bincount(parts.y_test).tolist() == [20, 10, 2]
    assert np.bincount(parts.y_validation).tolist() == [10, 5, 1]


def test_images_are_shifted_by_one_pixel_with_blank_edges() -> None:
    image = np.arange(1.0, 10.0)
    found = data._shifted(image[np.newaxis], (3, 3)).reshape(5, 3, 3)
    assert found[0].ravel().tolist() == image.tolist()
    assert found[1].tolist() == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    assert found[2].tolist() == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert found[3].tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert found[4].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("mistake", [None, "derivative", "mean"])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_numpy_version_is_right_unless_a_mistake_is_planted(
    rng: np.random.Generator, mistake: str | None, classes: int
) -> None:
    X = rng.normal(size=(12, 4))
    y = rng.integers(0, classes, 12) if classes else rng.normal(size=12)
    params = numpy_version.initialize([4, 6, 5, max(1, classes)], 0)
    _, gradient = numpy_version.loss_and_gradient(params, X, y, mistake)
    report = fanin.check_gradient(
        lambda p: numpy_version.loss(p, X, y), params, gradient
    )
    wrong = {name for name, b in report.blocks.items() if b.verdict == "wrong"}
    lower = {f"dense{i}.{a}" for i in (0, 1) for a in ("weight", "bias")}
    assert wrong == {None: set(), "derivative": lower, "mean": {"dense2.bias"}}[mistake]


def test_versions_that_disagree_are_not_timed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    good_rows: list[str],
) -> None:
    monkeypatch.setattr(numpy_version, "standardize", lambda X, mean, std: X - mean)
    path = table(tmp_path / "t.csv", "a,b,y", good_rows)
    arguments = ["--data", str(path), "--target", "y"]
    arguments += ["--output", str(tmp_path / "p.png")]
    assert main(["demo", *arguments, *SMALL]) == 1
    printed = capsys.readouterr()
    assert "disagree about the standardized features" in printed.err
    assert "time:" not in printed.out


def test_a_check_that_misses_the_planted_mistake_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    layers = [fanin.layers.Dense(5, activation="relu"), fanin.layers.Dense(1)]
    net = fanin.Network(3, layers, loss="squared_error", dtype=np.float64, rng=0)
    X, y = rng.normal(size=(9, 3)), rng.normal(size=9)
    right = net.check_gradient(X, y)
    monkeypatch.setattr(net, "check_gradient", lambda *_, **__: right)
    with pytest.raises(DemoError, match="did not find the planted mistake"):
        stages._break(net, X, y, 0)
