"""Measure fanin beside NumPy, SciPy, scikit-learn, PyTorch, JAX and ONNX Runtime.

    python benchmarks/compare.py [--rows PATTERN] [--quick] [--check]
                                 [--json FILE] [--markdown FILE]

A peer that is not installed leaves its column blank. Every result is compared with a
float64 reference before it is timed, with a tolerance that follows from its dtype
and size; a wrong one gets no time. Contenders are measured in turns, round after
round, and ratios are taken within a round: quote the ratios, not the times. "2.1×" in
a peer's column says that fanin is 2.1 times as fast, [1.9-2.2] being the quartiles
over the rounds.

A machine that is busy with other work does not slow all of them alike: a library
that waits for its slowest thread at every step suffers most. How many CPUs other
processes took is measured and printed; figures are for the record only where that is
next to none, or with ``--n-threads 1`` and a CPU to spare.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comparison.model import Session
    from comparison.timing import Outcome


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[2]
    )
    parser.add_argument(
        "--rows", metavar="PATTERN", default="", help="only rows that match this regex"
    )
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    parser.add_argument(
        "--peers", metavar="A,B", help="only these peers beside NumPy, by column name"
    )
    parser.add_argument(
        "--repeat", type=int, default=11, help="rounds of a row, at most (default 11)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="of a row's rounds, of which there are at least 5 (default 3)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds: for a look, not for a record"
    )
    parser.add_argument("--n-threads", type=int, metavar="N", help="for every library")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 if fanin is slower than NumPy on a row, beyond the spread",
    )
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    if options.n_threads is not None and options.n_threads < 1:
        parser.error("--n-threads must be at least 1")
    try:
        options.pattern = re.compile(options.rows)
    except re.error as error:
        parser.error(f"--rows: {error}")
    return options


def limit_cpus(n_threads: int | None) -> tuple[int, str]:
    """Confine the process to `n_threads` CPUs, which is what JAX goes by."""
    if not hasattr(os, "sched_setaffinity"):
        n = n_threads or os.cpu_count() or 1
        return n, f"{n} (the process cannot be confined to as many CPUs here)"
    cpus = sorted(os.sched_getaffinity(0))
    if n_threads is None or n_threads >= len(cpus):
        n = n_threads or len(cpus)
        return n, f"{n}, on {len(cpus)} CPUs"
    os.sched_setaffinity(0, cpus[:n_threads])
    return n_threads, f"{n_threads}, the process confined to as many CPUs"


# Others may use this share of the CPUs, or figures are not for the record.
QUIET = 0.05


def disturbance(outcomes: list[Outcome]) -> tuple[float, bool] | None:
    """Return the CPUs that others used, row by row in the mean, and if too many."""
    known = [o.others for o in outcomes if o.others is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    return mean, mean > QUIET * (os.cpu_count() or 1)


def load_average() -> float | None:
    with contextlib.suppress(AttributeError, OSError):
        return os.getloadavg()[0]
    return None


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        return name.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(session: Session, threads: str) -> dict[str, Any]:
    import fanin

    config = fanin.show_config("dicts")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": session.versions(),
        "not installed": session.missing,
        "threads": threads,
        "settings": session.settings,
        "pools": session.pools(),
        "simd": config["simd"]["level"],
        "blas core": config["blas"]["core"],
    }


def show_time(seconds: float) -> str:
    value, unit = seconds * 1e6, "µs"
    for larger in ("ms", "s"):
        if value >= 999.5:
            value, unit = value / 1e3, larger
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {unit}"


def show_ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.2g}"


def cell(outcome: Outcome, column: str) -> str:
    """Return time and ratio, ``wrong``, or nothing for a peer without such a call."""
    if column in outcome.wrong:
        return "wrong"
    if column not in outcome.seconds:
        return ""
    text = ("≈ " if column in outcome.sampled else "") + show_time(
        outcome.median(column)
    )
    if column == "fanin":
        if "floor" in outcome.seconds:
            text += f" ({show_ratio(outcome.ratio('fanin', 'floor')[0])} floors)"
    elif column != "floor" and "fanin" in outcome.seconds:
        middle, low, high = (show_ratio(r) for r in outcome.ratio(column))
        text += f" ({middle}× [{low}-{high}])"
    return text


def slower(outcome: Outcome) -> bool:
    """Whether fanin is slower than NumPy in three rounds of four or more."""
    if not {"fanin", "NumPy"} <= outcome.seconds.keys():
        return False
    return outcome.ratio("NumPy")[2] < 1


def columns_of(outcomes: list[Outcome]) -> list[str]:
    from comparison.model import COLUMNS

    used = {c for o in outcomes for c in (*o.seconds, *o.wrong)}
    return [c for c in COLUMNS if c in used]


def print_outcome(outcome: Outcome, repeat: int) -> None:
    from comparison.model import COLUMNS

    rounds = len(next(iter(outcome.seconds.values()), []))
    about = f"{rounds} rounds" + (" in its time" if rounds < repeat else "")
    if outcome.others is not None:
        about += f"; others used {outcome.others:.2f} CPUs"
    print(f"\n{outcome.name}  ({about})")
    for column in COLUMNS:
        text = cell(outcome, column)
        if text:
            print(f"  {column:<13} {text}")
    for column, why in outcome.wrong.items():
        print(f"  WRONG {column}: {why}")
    if slower(outcome):
        print("  SLOWER than NumPy")
    sys.stdout.flush()


def markdown(outcomes: list[Outcome], machine: dict[str, Any]) -> str:
    columns = columns_of(outcomes)
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    load = machine["load average"]
    others = machine["cpus used by others"]
    quiet = ""
    if others is not None:
        quiet = f" Other processes used {others:.2f} CPUs in the mean"
        quiet += ", **too many for the record**." if machine["disturbed"] else "."
    lines = [
        f"Measured on {machine['date']} on {machine['processor']}, "
        f"{machine['cpus']} CPUs, {machine['system']}, SIMD level {machine['simd']}; "
        f"threads: {machine['threads']}; CPython {machine['python']}; {versions}. "
        f"Load average before and after: {load[0]}, {load[1]}.{quiet}",
        "",
        "Medians. In brackets how many times as long as fanin a peer takes, and the "
        "quartiles of that ratio over the rounds; for fanin, its time over the "
        "floor's. An empty cell: the peer has no such call"
        + (", or is not installed." if machine["not installed"] else "."),
        "",
        "| Work | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    notes: list[str] = []
    for outcome in outcomes:
        mark = ""
        if outcome.note:
            if outcome.note not in notes:
                notes.append(outcome.note)
            mark = f" ({notes.index(outcome.note) + 1})"
        cells = [cell(outcome, c) for c in columns]
        lines.append(f"| {outcome.name}{mark} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"({i}) {note}.  " for i, note in enumerate(notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    n_threads, threads = limit_cpus(options.n_threads)

    # From here on: NumPy's BLAS counts the CPUs when it is imported.
    from comparison import all_rows
    from comparison.model import PEERS, Session
    from comparison.timing import Effort, run_row

    rows = [row for row in all_rows() if options.pattern.search(row.name)]
    if options.list:
        print(*(row.name for row in rows), sep="\n")
        return 0
    if not rows:
        print(f"no row matches {options.rows!r}; see --list", file=sys.stderr)
        return 2
    peers = options.peers.split(",") if options.peers is not None else None
    for name in peers or ():
        if name not in PEERS:
            known = ", ".join(PEERS)
            print(f"--peers: no peer {name!r}; there are {known}", file=sys.stderr)
            return 2
    effort = Effort(repeat=options.repeat, budget=options.budget)
    if options.quick:
        effort = Effort(repeat=3, minimum=2, budget=1.0, inner=0.004, loops=2)
    session = Session.start(n_threads, peers)
    machine = describe(session, threads)
    for key, value in machine.items():
        if isinstance(value, dict):
            value = [f"{k} {v}" for k, v in value.items()]
        if isinstance(value, list):
            separator = "\n" + " " * 15 if key in ("settings", "pools") else ", "
            value = separator.join(value) or "none"
        print(f"{key + ':':<14} {value}")
    before = load_average()
    print(f"{'load average:':<14} {before}")

    outcomes = []
    for row in rows:
        outcomes.append(run_row(row, session, effort))
        print_outcome(outcomes[-1], effort.repeat)
    machine["load average"] = [before, load_average()]
    print(f"\nload average:  {machine['load average'][1]}")
    noise = disturbance(outcomes)
    machine["cpus used by others"] = noise[0] if noise else None
    machine["disturbed"] = bool(noise and noise[1])
    if noise:
        print(f"other processes used {noise[0]:.2f} CPUs in the mean")
    if machine["disturbed"]:
        print(
            "that is too many: what waits for several threads is slowed out of "
            "proportion, so these ratios are not for the record"
        )

    if options.json:
        record = {"machine": machine, "rows": [o.as_dict() for o in outcomes]}
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False))
    if options.markdown:
        options.markdown.write_text(markdown(outcomes, machine), encoding="utf-8")

    wrong = [o.name for o in outcomes if "fanin" in o.wrong]
    for name in wrong:
        print(f"fanin's result is wrong: {name}", file=sys.stderr)
    behind = [o.name for o in outcomes if slower(o)]
    for name in behind:
        print(f"fanin is slower than NumPy: {name}", file=sys.stderr)
    return 1 if wrong or (options.check and behind) else 0


if __name__ == "__main__":
    sys.exit(main())
