"""The command line: help, version, info, and what wrong arguments say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fanin
from fanin.__main__ import main


def run(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m fanin`` with warnings as errors."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FANIN_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fanin", *arguments],
        env=inherited | options,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_info_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    fanin.show_config()
    expected = capsys.readouterr().out
    assert main(["info"]) == 0
    assert capsys.readouterr().out == expected


def test_info_names_a_wrong_variable() -> None:
    done = run("info", FANIN_NUM_THREADS="many")
    assert done.returncode == 2
    assert re.fullmatch(r"fanin info: error: FANIN_NUM_THREADS .*\n", done.stderr)


def test_version_is_the_packages() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"fanin {fanin.__version__}\n")


def test_no_argument_prints_help_with_status_2() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: python -m fanin" in done.stderr
    assert "demo" in done.stderr
    assert "info" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "0"], r"argument --epochs: .*at least 1.*'0'"),
        (["--epochs", "many"], r"argument --epochs: .*'many'"),
        (["--batch-size", "-3"], r"argument --batch-size: .*'-3'"),
        (["--hidden", "10,x"], r"argument --hidden: .*'10,x'"),
        (["--hidden", "0"], r"argument --hidden: .*'0'"),
        (["--seed", "1.5"], r"argument --seed: .*'1\.5'"),
        (["--n-threads", "0"], r"argument --n-threads: .*'0'"),
        (["--bogus"], r"unrecognized arguments: --bogus"),
    ],
)
def test_wrong_options_get_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", *arguments])
    assert caught.value.code == 2
    assert re.fullmatch(f"fanin demo: error: {says}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("picture.jpg", r"a path ending in \.png is needed; got .*"),
        ("nowhere/picture.png", r"no such directory: .*nowhere"),
        ("folder.png", r".*folder\.png is a directory"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, path: str, says: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert main(["demo", "--output", str(tmp_path / path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(f"fanin demo: error: argument --output: {says}\n", printed.err)


def test_a_wrong_thread_variable_gets_one_line() -> None:
    done = run("demo", FANIN_NUM_THREADS="many")
    assert done.returncode == 2
    assert re.fullmatch(r"fanin demo: error: FANIN_NUM_THREADS .*\n", done.stderr)


@pytest.mark.parametrize("missing", ["sklearn.datasets", "matplotlib"])
def test_a_missing_package_names_the_extra(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    missing: str,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["demo", "--output", str(tmp_path / "p.png")]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r'fanin demo: error: the demo needs .*: pip install "fanin\[demo\]"\n', error
    )


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_ends_the_demo_with_status_130(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "".join(f"{i},{i * i}\n" for i in range(200)))
    arguments = ["--data", str(table), "--target", "y", "--epochs", "1000000"]
    picture = str(tmp_path / "p.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "fanin", "demo", *arguments, "--output", picture],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # The stages are printed as they happen, also into a pipe: wait for training.
    for line in process.stdout:
        if line.startswith("4."):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.strip() == "fanin: interrupted"


@pytest.mark.skipif(os.name == "nt", reason="uses a pipe of POSIX")
def test_a_reader_that_leaves_gets_no_traceback(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "".join(f"{i},{i * i}\n" for i in range(50)))
    arguments = ["--data", str(table), "--target", "y", "--epochs", "1"]
    picture = str(tmp_path / "p.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "fanin", "demo", *arguments, "--output", picture],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1
