"""Measure what fanin's calls add to the resident memory of the process, at the peak.

    python benchmarks/memory.py [--check]

The limit is 1 MB + 64 bytes x n_features x threads beyond the arrays that go in and
come out; for 10,000 training steps after the first ten, 256 KB, and 64 KB that
tracemalloc sees. The peak is the kernel's own (VmHWM, reset through
/proc/self/clear_refs), so Linux only. Every case runs in a process of its own, after a
first call on other data has started the threads and loaded the code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CASES = [
    (work, shape, dtype, order, n_threads)
    for n_threads in (1, 2)
    for work in ("moments", "standardize", "standardize in place")
    for shape, dtype, order in [
        ((1_000_000, 50), "float32", "C"),
        ((1_000_000, 50), "float64", "F"),
        ((100_000, 1000), "float32", "C"),
        ((1_000_000, 50), "int32", "C"),
        ((200, 200_000), "float32", "C"),
        ((200, 200_000), "float64", "F"),
        ((20, 1_000_000), "float32", "C"),
    ]
    if not (work == "standardize in place" and dtype == "int32")
]


def status(field: str) -> int:
    """Return a memory field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def measure(
    work: str, shape: tuple[int, int], dtype: str, order: str, n_threads: int
) -> int:
    """Return the bytes that one call added to what was resident, at its peak."""
    import numpy as np

    import fanin

    X = np.zeros(shape, dtype, order=order)
    X += np.arange(shape[0], dtype=dtype)[:, np.newaxis] % 7
    wide = np.float32 if dtype == "float32" else np.float64
    out = None if work == "moments" else np.zeros(shape, wide, order=order)
    if out is not None:
        out += 1  # zeros have no pages yet
    if work == "standardize in place":
        X = out

    def call(X: Any, out: Any) -> Any:
        if work == "moments":
            return fanin.moments(X, n_threads=n_threads)
        return fanin.standardize(X, out=out, n_threads=n_threads)

    rng = np.random.default_rng(0)
    call(rng.standard_normal((50_000, 3)), np.zeros((50_000, 3)))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = call(X, out)
    added = status("VmHWM") - before
    del result
    return added


STEPS = 10_000


def measure_steps() -> tuple[int, int]:
    """Return what 10,000 steps add at the peak: resident, and seen by tracemalloc."""
    import tracemalloc

    import numpy as np

    import fanin

    rng = np.random.default_rng(0)
    X = rng.standard_normal((32, 64), np.float32)
    y = rng.integers(0, 10, 32)
    layers = [
        fanin.layers.Dense(100, "gelu"),
        fanin.layers.BatchNorm(),
        fanin.layers.Dropout(0.2),
        fanin.layers.Dense(10),
    ]
    net = fanin.Network(64, layers, loss="softmax_cross_entropy", rng=0)
    adam = fanin.optimizers.Adam()

    def steps(n: int) -> None:
        for _ in range(n):
            net.train_step(X, y, adam)

    steps(10)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    steps(STEPS)
    added = status("VmHWM") - before
    tracemalloc.start()
    steps(10)
    tracemalloc.reset_peak()
    begun, _ = tracemalloc.get_traced_memory()
    steps(STEPS)
    _, peak = tracemalloc.get_traced_memory()
    return added, peak - begun


def limit(shape: tuple[int, int], n_threads: int) -> int:
    return 1024 * 1024 + 64 * shape[1] * n_threads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="fail above the limit")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case == "steps":
        print(*measure_steps())
        return 0
    if options.case:
        print(measure(*json.loads(options.case)))
        return 0
    above = 0
    print(f"{'work':<22}{'shape':<18}{'dtype':<10}threads  added MB  limit MB")
    for case in CASES:
        work, shape, dtype, order, n_threads = case
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        added = int(subprocess.run(command, check=True, capture_output=True).stdout)
        allowed = limit(shape, n_threads)
        above += added > allowed
        mark = "  ABOVE" * (added > allowed)
        print(
            f"{work:<22}{f'{shape[0]}x{shape[1]}':<18}{f'{dtype} {order}':<10}"
            f"{n_threads:>7}{added / 1e6:>10.2f}{allowed / 1e6:>10.2f}{mark}",
            flush=True,
        )
    command = [sys.executable, __file__, "--case", "steps"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    resident, traced = map(int, done.stdout.split())
    above += resident > 256 * 1024 or traced > 64 * 1024
    print(
        f"{STEPS} training steps: {resident / 1e3:.0f} KB resident, "
        f"{traced / 1e3:.1f} KB by tracemalloc (limits 262 and 66)"
    )
    return 1 if options.check and above else 0


if __name__ == "__main__":
    sys.exit(main())
