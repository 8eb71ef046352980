"""Thread policy: affinity, container quota, environment, setting, argument."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fanin
from fanin import _threads


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the environment nor an earlier test decides."""
    monkeypatch.delenv("FANIN_NUM_THREADS", raising=False)
    fanin.set_num_threads(None)
    yield
    fanin.set_num_threads(None)


def quota(tmp_path: Path, membership: str, files: dict[str, str]) -> float | None:
    """Return what fanin reads from a made-up /sys/fs/cgroup and /proc/self/cgroup."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    own = tmp_path / "self"
    own.write_text(membership)
    return _threads._container_quota(root, own)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("400000 100000\n", 4.0)],
)
def test_version_2_quota_of_the_own_group(
    tmp_path: Path, line: str, expected: float | None
) -> None:
    assert quota(tmp_path, "0::/a\n", {"a/cpu.max": line}) == expected


def test_version_2_limits_nest_and_the_tightest_counts(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "200000 100000",
        "a/b/cpu.max": "max 100000",
        "a/b/c/cpu.max": "300000 100000",
        "elsewhere/cpu.max": "10000 100000",
    }
    assert quota(tmp_path, "0::/a/b/c\n", files) == 2.0


def test_version_2_inside_a_container_the_mount_point_is_the_group(
    tmp_path: Path,
) -> None:
    files = {"cpu.max": "50000 100000"}
    assert quota(tmp_path, "0::/../docker/0123\n", files) == 0.5


@pytest.mark.parametrize(
    ("value", "expected"), [("250000", 2.5), ("-1", None), ("0", None)]
)
def test_version_1_quota(tmp_path: Path, value: str, expected: float | None) -> None:
    membership = "5:memory:/m\n4:cpu,cpuacct:/a/b\n3:cpuset:/\n"
    files = {
        "cpu/a/b/cpu.cfs_quota_us": f"{value}\n",
        "cpu/a/b/cpu.cfs_period_us": "100000\n",
        "cpu/a/cpu.cfs_quota_us": "-1\n",
        "cpu/a/cpu.cfs_period_us": "100000\n",
        "memory/m/cpu.cfs_quota_us": "1\n",
    }
    assert quota(tmp_path, membership, files) == expected


@pytest.mark.parametrize(
    "text", ["", "nonsense", "1 2 3", "100000 0", "a b", "-5 100000"]
)
def test_an_unreadable_quota_is_no_quota(tmp_path: Path, text: str) -> None:
    assert quota(tmp_path, "0::/\n", {"cpu.max": text}) is None


@pytest.mark.parametrize("membership", ["", "0\n", "nothing:here\n", "0::\n"])
def test_an_odd_membership_is_no_quota(tmp_path: Path, membership: str) -> None:
    assert quota(tmp_path, membership, {}) is None


def test_no_control_groups_is_no_quota(tmp_path: Path) -> None:
    assert _threads._container_quota(tmp_path, tmp_path / "missing") is None


def test_a_group_name_in_another_encoding_is_read(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_bytes(b"0::/caf\xe9\n")
    (tmp_path / "cpu.max").write_text("100000 100000")
    assert _threads._container_quota(tmp_path, own) == 1.0


@pytest.mark.parametrize(
    ("cpus", "granted", "expected", "why"),
    [
        (8, None, 8, "8 CPUs in this process's affinity"),
        (1, None, 1, "1 CPU in this process's affinity"),
        (8, 2.0, 2, "a container quota of 2 CPUs"),
        (8, 1.5, 2, "a container quota of 1.5 CPUs"),
        (8, 0.25, 1, "a container quota of 0.25 CPUs"),
        (8, 1.0, 1, "a container quota of 1 CPU"),
        (2, 16.0, 2, "2 CPUs in this process's affinity"),
        (
            400,
            None,
            256,
            "fanin's limit of 256, with 400 CPUs in this process's affinity",
        ),
    ],
)
def test_the_smaller_of_affinity_and_quota_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    granted: float | None,
    expected: int,
    why: str,
) -> None:
    monkeypatch.setattr(_threads, "_affinity", lambda: cpus)
    monkeypatch.setattr(_threads, "_container_quota", lambda: granted)
    assert fanin.get_num_threads() == expected
    assert _threads.explain_num_threads() == why


def test_each_stronger_word_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "_affinity", lambda: 8)
    monkeypatch.setattr(_threads, "_container_quota", lambda: None)
    assert _threads.resolve(None) == 8
    monkeypatch.setenv("FANIN_NUM_THREADS", " 5 ")
    fanin.set_num_threads(None)
    assert _threads.resolve(None) == 5
    assert _threads.explain_num_threads() == "FANIN_NUM_THREADS"
    fanin.set_num_threads(3)
    assert _threads.resolve(None) == 3
    assert _threads.explain_num_threads() == "fanin.set_num_threads"
    assert _threads.resolve(7) == 7
    assert fanin.get_num_threads() == 3
    fanin.set_num_threads(None)
    assert fanin.get_num_threads() == 5


@pytest.mark.parametrize("text", ["0", "-1", "257", "two", "1.5", "1e1", "9" * 5000])
def test_a_wrong_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FANIN_NUM_THREADS", text)
    with pytest.raises(
        ValueError, match="FANIN_NUM_THREADS must be an integer from 1 to 256; got '"
    ):
        fanin.get_num_threads()
    # An argument does not look at it.
    assert _threads.resolve(2) == 2


def test_an_empty_environment_variable_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FANIN_NUM_THREADS", "")
    assert fanin.get_num_threads() == _threads._find_default()[0]


@pytest.mark.parametrize("n", [0, -1, 257, 10**30])
def test_a_number_out_of_range_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n_threads must be from 1 to 256; got {n}"):
        fanin.set_num_threads(n)
    with pytest.raises(ValueError, match="n_threads"):
        _threads.resolve(n)


@pytest.mark.parametrize("n", [1.0, "2", True, [1], np.bool_(True)])
def test_what_is_not_an_integer_is_refused(n: object) -> None:
    with pytest.raises(TypeError, match="n_threads must be an integer"):
        fanin.set_num_threads(n)  # type: ignore[arg-type]


def test_a_numpy_integer_is_an_integer() -> None:
    fanin.set_num_threads(np.int64(2))
    assert fanin.get_num_threads() == 2
    assert type(fanin.get_num_threads()) is int


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system has no CPU affinity"
)
def test_affinity_limits_the_default() -> None:
    code = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import fanin\n"
        "print(fanin.get_num_threads())"
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FANIN_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_finds_its_own_default() -> None:
    # In a process of its own: other libraries that a test has imported may have
    # threads here, and warn of forks.
    code = """if True:
        import os, sys
        import fanin
        from fanin import _threads
        _threads._container_quota = lambda: None
        _threads._affinity = lambda: 8
        assert fanin.get_num_threads() == 8
        _threads._affinity = lambda: 3
        assert fanin.get_num_threads() == 8
        child = os.fork()
        if child == 0:
            os._exit(fanin.get_num_threads())
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    """
    inherited = {k: v for k, v in os.environ.items() if k != "FANIN_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "3", done.stderr
