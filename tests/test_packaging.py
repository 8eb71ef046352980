"""What is installed, and that fanin runs its own OpenBLAS whatever else is loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import reference

import fanin
from fanin._kernels import _blas

KERNELS = Path(_blas.__file__).parent
VENDORED = _blas.config()["vendored"]
needs_own_blas = pytest.mark.skipif(
    not VENDORED, reason="built against a system BLAS, which is not fanin's own"
)
needs_maps = pytest.mark.skipif(
    not os.path.exists("/proc/self/maps"), reason="reads Linux's /proc/self/maps"
)


# --- The distribution -----------------------------------------------------------------


def test_the_version_is_the_distributions() -> None:
    assert importlib.metadata.version("fanin") == fanin.__version__


def test_numpy_is_the_only_run_time_dependency() -> None:
    requires = importlib.metadata.requires("fanin") or []
    always = [r for r in requires if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r)[0] for r in always] == ["numpy"]


def test_every_module_that_is_installed_has_its_companions() -> None:
    files = {str(f) for f in importlib.metadata.files("fanin") or []}
    if "fanin/__init__.py" not in files:
        pytest.skip("an editable install records no files")
    assert "fanin/py.typed" in files
    modules = {f.split(".")[0] for f in files if re.search(r"\.(so|pyd)$", f)}
    modules = {m for m in modules if "libfanin" not in m}
    assert {f"fanin/_kernels/{m}" for m in ("_blas", "_parallel", "_simd")} <= modules
    assert {m for m in modules if f"{m}.pyi" not in files} == set()
    licences = [f for f in files if "dist-info" in f and f.endswith("LICENSE")]
    assert len(licences) == 1
    assert ("fanin/_kernels/LICENSE-openblas.txt" in files) == VENDORED
    assert not [f for f in files if f.endswith((".pyx", ".c", ".a", ".lib"))]


@needs_own_blas
def test_the_licences_of_what_is_vendored_lie_beside_it() -> None:
    text = (KERNELS / "LICENSE-openblas.txt").read_text(encoding="utf-8")
    for name in ("OpenBLAS", "LAPACK", "GCC runtime library"):
        assert f"Name: {name}" in text


def test_the_pinned_openblas_is_the_same_everywhere() -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    if not pyproject.exists():
        pytest.skip("the tests lie outside the source tree")
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    development = project["project"]["optional-dependencies"]["dev"]
    pins = [
        [r for r in requirements if r.startswith("scipy-openblas32")]
        for requirements in (project["build-system"]["requires"], development)
    ]
    assert len(pins[0]) == 1
    assert re.fullmatch(r"scipy-openblas32==[\d.]+", pins[0][0])
    assert pins[0] == pins[1]
    if VENDORED:
        # Four numbers of the wheel's version name the OpenBLAS that it holds.
        found = re.match(r"OpenBLAS ([\d.]+)", _blas.config()["config"])
        assert found is not None
        assert pins[0][0].removeprefix("scipy-openblas32==").startswith(found[1])


# --- Products -------------------------------------------------------------------------


def tolerance(dtype: type, length: int) -> float:
    """Error of a sum of `length` products of numbers below one: n eps n."""
    return float(length * length * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (64, 300, 17), (1, 40, 9)])
def test_products_are_right(
    rng: np.random.Generator, dtype: type, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    A = rng.uniform(-1, 1, (m, k)).astype(dtype)
    B = rng.uniform(-1, 1, (k, n)).astype(dtype)
    atol = tolerance(dtype, k)
    np.testing.assert_allclose(
        _blas.matmul(A, B), reference.matmul(A, B), rtol=0, atol=atol
    )
    x = np.ascontiguousarray(B[:, 0])
    np.testing.assert_allclose(
        _blas.matvec(A, x), reference.matvec(A, x), rtol=0, atol=atol
    )
    y = rng.uniform(-1, 1, m).astype(dtype)
    np.testing.assert_allclose(
        _blas.matvec(A, y, True),
        reference.matvec(A, y, True),
        rtol=0,
        atol=tolerance(dtype, m),
    )


@pytest.mark.parametrize("size", [150, 152])
def test_products_of_many_threads_do_not_mix(
    rng: np.random.Generator, size: int
) -> None:
    # More at once than cores, each with matrices of its own.
    A = rng.uniform(-1, 1, (12, size, size))
    expected = [_blas.matmul(a, a) for a in A]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(_blas.matmul(A[i], A[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(A))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for a, c in zip(A, expected, strict=True):
        np.testing.assert_allclose(c, a @ a, rtol=0, atol=tolerance(np.float64, size))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot multiply"):
        _blas.matmul(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="cannot multiply"):
        _blas.matvec(np.ones((2, 3)), np.ones(2))


# --- Whose OpenBLAS -------------------------------------------------------------------


def mapped_file(address: int) -> str:
    """Return the file that this address of the process is mapped from."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            low, high = (int(end, 16) for end in fields[0].split("-"))
            if low <= address < high:
                return fields[5].strip() if len(fields) > 5 else ""
    return ""


@needs_own_blas
@needs_maps
def test_the_functions_in_use_lie_in_our_own_library() -> None:
    own = os.path.realpath(KERNELS / "libfanin_openblas.so")
    files = {name: mapped_file(at) for name, at in _blas.addresses().items()}
    assert files == dict.fromkeys(
        ["cblas_sgemm", "cblas_dgemm", "cblas_sgemv", "cblas_dgemv"], own
    )


@needs_own_blas
def test_our_openblas_runs_on_the_calling_thread_whatever_the_environment() -> None:
    code = (
        "import ctypes\nfrom fanin._kernels import _blas\n"
        "library = ctypes.CDLL(_blas.config()['path'])\n"
        "print(library.scipy_openblas_get_num_threads())"
    )
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "3",
        "OMP_NUM_THREADS": "3",
        "GOTO_NUM_THREADS": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "1", done.stderr


# In one process: another scipy-openblas32 opened for everyone, as its own import
# does, before or after fanin; then products, checked without any BLAS.
BESIDE_ANOTHER = """
import ctypes, os, sys
import numpy as np
def another():
    import scipy_openblas32
    path = os.path.join(scipy_openblas32.get_lib_dir(),
                        scipy_openblas32.get_library(fullname=True))
    return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
def ours():
    from fanin._kernels import _blas
    return _blas
if {another_first}:
    other = another(); blas = ours()
else:
    blas = ours(); other = another()
rng = np.random.default_rng(0)
for dtype, product in (np.float32, "sgemm"), (np.float64, "dgemm"):
    A = rng.integers(-8, 8, (96, 200)).astype(dtype)
    B = rng.integers(-8, 8, (200, 64)).astype(dtype)
    # Small integers: every sum is exact in either precision.
    exact = np.einsum("ik,kj->ij", A.astype(np.int64), B.astype(np.int64))
    assert np.array_equal(blas.matmul(A, B), exact)
    assert np.array_equal(A @ B, exact)
address = ctypes.cast(other.scipy_cblas_dgemm, ctypes.c_void_p).value
assert address != blas.addresses()["cblas_dgemm"]
other.scipy_openblas_get_config.restype = ctypes.c_char_p
print(other._name)
print(other.scipy_openblas_get_config().decode())
print(blas.config()["path"])
print(blas.config()["config"])
"""


@needs_own_blas
@needs_maps
@pytest.mark.skipif(
    importlib.util.find_spec("scipy_openblas32") is None,
    reason="no scipy-openblas32 is installed to run beside",
)
@pytest.mark.parametrize("another_first", [True, False])
def test_no_call_crosses_to_another_openblas(
    tmp_path: Path, another_first: bool
) -> None:
    # The GNU loader writes down which library it bound each call to.
    environment = os.environ | {
        "LD_DEBUG": "bindings",
        "LD_DEBUG_OUTPUT": str(tmp_path / "bindings"),
        "LD_BIND_NOW": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_ANOTHER.format(another_first=another_first)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    other, other_version, own, own_version = done.stdout.splitlines()
    logs = [p.read_text(errors="replace") for p in tmp_path.glob("bindings.*")]
    bindings = re.findall(r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]", "".join(logs))
    if not bindings:
        pytest.skip("this loader does not say what it binds (LD_DEBUG)")
    inside = sum(a == own and b == own for a, b in bindings)
    assert inside > 1000, "an OpenBLAS makes thousands of calls to itself"
    # (Ours never binds to another's, NumPy's included, nor any of them to ours.)
    crossed = [
        (a, b)
        for a, b in bindings
        if a != b and own in (a, b) and "openblas" in a and "openblas" in b
    ]
    assert crossed == [], f"another is {other}"
    # What this run has shown depends on the versions; -rA prints them.
    print(f"ours: {own_version}; another: {other_version}")


@needs_own_blas
@needs_maps
def test_numpys_openblas_and_ours_are_two(rng: np.random.Generator) -> None:
    A = rng.uniform(-1, 1, (64, 64))
    np.testing.assert_allclose(
        _blas.matmul(A, A), A @ A, rtol=0, atol=tolerance(np.float64, 64)
    )
    own = os.path.realpath(KERNELS / "libfanin_openblas.so")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        files = {line.split(maxsplit=5)[-1].strip() for line in maps}
    loaded = {f for f in files if re.search(r"openblas[^/]*$", f)}
    assert own in loaded
    if "scipy-openblas" not in str(np.show_config(mode="dicts")):
        pytest.skip("this NumPy has another BLAS")
    assert loaded - {own}, "NumPy has an OpenBLAS of its own here"
