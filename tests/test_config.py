"""show_config, the SIMD switch, and what importing fanin leaves alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import fanin
from fanin._kernels import _simd


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, without fanin's variables."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FANIN_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_show_config_returns_what_runs() -> None:
    config = fanin.show_config(mode="dicts")
    assert config["fanin"]["version"] == fanin.__version__
    assert config["fanin"]["numpy"] == np.__version__
    assert platform.python_version() in config["fanin"]["python"]
    assert config["simd"]["level"] in config["simd"]["available"]
    assert config["threads"]["n_threads"] == fanin.get_num_threads()
    assert config["threads"]["reason"]
    if config["blas"]["vendored"]:
        assert config["blas"]["name"] == "openblas"
        assert config["blas"]["version"].startswith("OpenBLAS 0.3.")
        assert config["blas"]["core"]
        assert os.path.isfile(config["blas"]["path"])


def test_show_config_prints_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert fanin.show_config() is None
    printed = capsys.readouterr().out
    for section, entries in fanin.show_config(mode="dicts").items():
        assert f"{section}\n" in printed
        for name in entries:
            assert f"  {name}:" in printed


def test_show_config_refuses_another_mode() -> None:
    with pytest.raises(ValueError, match=r"mode must be one of 'stdout', 'dicts'"):
        fanin.show_config(mode="json")  # type: ignore[call-overload]


SIMD = """
import fanin
config = fanin.show_config(mode="dicts")["simd"]
print(config["level"], "|", config["reason"])
"""


@pytest.mark.parametrize("level", _simd.available())
def test_fanin_simd_chooses_the_level(level: str) -> None:
    done = run(SIMD, FANIN_SIMD=level)
    assert done.stdout.strip() == f"{level} | FANIN_SIMD", done.stderr


def test_the_best_simd_level_is_the_default() -> None:
    done = run(SIMD)
    assert done.stdout.startswith(f"{_simd.available()[-1]} | the best"), done.stderr


def test_an_unknown_simd_level_is_an_error_that_lists_the_known() -> None:
    done = run("import fanin.network", FANIN_SIMD="avx1024")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: FANIN_SIMD='avx1024': this CPU runs baseline")


# Halving the smallest normal number, and multiplying a subnormal by one, give zero
# in a process whose flush-to-zero or denormals-are-zero flag is set. The arithmetic
# is NumPy's in the thread that imports, in one started before and in one started
# after; then C's, in the workers of fanin's pool.
FLOATING_POINT_MODE = """
import threading, queue
import numpy as np
def subnormals_live():
    for dtype in (np.float32, np.float64):
        tiny = np.full(64, np.finfo(dtype).tiny)
        small = np.full(64, np.finfo(dtype).smallest_subnormal)
        if not (np.all(tiny * dtype(0.5) > 0) and np.all(small * dtype(1) > 0)):
            return False
    return True
asked, answered = queue.Queue(), queue.Queue()
def before():
    asked.get()
    answered.put(subnormals_live())
thread = threading.Thread(target=before)
thread.start()
assert subnormals_live()
import fanin
from fanin._kernels import _blas, _parallel
A = np.ones((64, 64))
_blas.matmul(A, A)
asked.put(None)
thread.join()
assert answered.get(), "a thread that was there before"
assert subnormals_live(), "the importing thread"
thread = threading.Thread(target=lambda: answered.put(subnormals_live()))
thread.start()
thread.join()
assert answered.get(), "a thread started after"
_, workers, halves = _parallel.probe(64, 4, seconds=0.002)
assert len(set(workers.tolist())) > 1, "no helper took part"
assert np.all(halves == np.finfo(np.float64).tiny / 2), "the pool's workers"
print("subnormals live")
"""


@pytest.mark.parametrize("level", _simd.available())
def test_importing_fanin_leaves_the_floating_point_mode_alone(level: str) -> None:
    done = run(FLOATING_POINT_MODE, FANIN_SIMD=level)
    assert done.stdout.strip() == "subnormals live", done.stderr


def test_importing_fanin_imports_no_optional_dependency() -> None:
    optional = (
        "scipy sklearn matplotlib tqdm torch jax dask onnx pandas numpy.random html"
    )
    code = (
        "import sys, fanin\n"
        f"print([m for m in {optional!r}.split() if m in sys.modules])"
    )
    done = run(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_fanin_starts_no_thread() -> None:
    code = "import os, numpy\nprint(len(os.listdir('/proc/self/task')))\n"
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("threads are counted in Linux's /proc")
    # (Of fanin itself nothing is loaded before a name is asked for.)
    with_fanin = code.replace("numpy", "fanin.network, fanin.preprocessing")
    one = {"OPENBLAS_NUM_THREADS": "1"}
    assert run(with_fanin, **one).stdout == run(code, **one).stdout == "1\n"
    if fanin.show_config(mode="dicts")["blas"]["vendored"]:
        # A system BLAS starts the threads of its own setting; our copy none.
        assert run(with_fanin).stdout == run(code).stdout


def test_importing_fanin_leaves_the_environment_alone() -> None:
    code = (
        "import os, numpy\nbefore = dict(os.environ)\nimport fanin\n"
        "print(dict(os.environ) == before)"
    )
    assert run(code).stdout.strip() == "True"
    assert run(code, OPENBLAS_NUM_THREADS="3").stdout.strip() == "True"
