"""What fanin costs before it does anything: the size of its wheel, and its import.

    python benchmarks/footprint.py [--wheel FILE] [--check] [--repeats N]

Without ``--wheel`` the wheel is built from the source tree around this file. The
import is measured from the wheel's own files, unpacked into a temporary directory,
never from an installed or editable fanin: the time of ``import fanin`` in a fresh
interpreter that has imported NumPy, as the median of the repeats; and, since names
are imported when they are asked for, that of asking for all of them. With ``--check``
the exit status is 1 if a figure is above its limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MAX_WHEEL_MB = 12.0
MAX_IMPORT_MS = 25.0

IMPORT = """
import sys, time
sys.path[:0] = sys.argv[1:]
start = time.perf_counter()
import numpy
between = time.perf_counter()
import fanin
end = time.perf_counter()
for name in fanin.__all__:
    getattr(fanin, name)
everything = time.perf_counter()
assert fanin.__file__.startswith(sys.argv[1]), fanin.__file__
print(1e3 * (between - start), 1e3 * (end - between), 1e3 * (everything - between))
"""


def build_wheel(directory: Path) -> Path:
    source = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "-w", str(directory), str(source)], check=True)
    (wheel,) = directory.glob("fanin-*.whl")
    return wheel


def import_milliseconds(unpacked: Path, repeats: int) -> tuple[float, ...]:
    """Return the medians for NumPy, for fanin after it, and for all of its names."""
    import numpy

    # -S leaves out site-packages, and with it any editable install of fanin.
    places = [str(unpacked), str(Path(numpy.__file__).parents[1])]
    command = [sys.executable, "-I", "-S", "-c", IMPORT, *places]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FANIN_")}
    times = []
    for repeat in range(repeats + 2):
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        )
        if repeat >= 2:  # the first ones write .pyc files and fill the page cache
            times.append([float(field) for field in done.stdout.split()])
    return tuple(map(statistics.median, zip(*times, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="measure this wheel")
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.wheel is not None and not options.wheel.is_file():
        parser.error(f"--wheel: no such file: {options.wheel}")

    with tempfile.TemporaryDirectory() as directory:
        wheel = options.wheel or build_wheel(Path(directory))
        unpacked = Path(directory, "unpacked").resolve()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        megabytes = wheel.stat().st_size / 1e6
        of_numpy, of_fanin, of_all = import_milliseconds(unpacked, options.repeats)
        print(f"wheel {wheel.name}")

    lines = [
        ("size of the wheel", megabytes, "MB", MAX_WHEEL_MB),
        ("import fanin, after NumPy", of_fanin, "ms", MAX_IMPORT_MS),
    ]
    for name, value, unit, limit in lines:
        verdict = "ok" if value <= limit else "TOO MUCH"
        print(f"{name:<28}{value:7.1f} {unit}  (limit {limit:g} {unit}: {verdict})")
    print(f"{'every name of fanin':<28}{of_all:7.1f} ms")
    print(f"{'import numpy, for scale':<28}{of_numpy:7.1f} ms")
    exceeded = any(value > limit for _, value, _, limit in lines)
    return int(options.check and exceeded)


if __name__ == "__main__":
    sys.exit(main())
