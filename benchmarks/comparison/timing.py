"""Interleaved timing: A B C, B C A, ..., so that a busy machine is busy for all."""

from __future__ import annotations

import gc
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparison.model import Contender, Row, Session, Wrong

# Workers go on spinning after a call, NumPy's OpenBLAS for more than 100 ms: the next
# contender would be timed on what they leave of the CPUs. So each waits until this
# process has used next to none of a window of time; an idle pool of its own that never
# came to rest would end the wait at the limit.
WINDOW = 0.01
LIMIT = 1.0


@dataclass
class Effort:
    """How long to measure."""

    repeat: int = 11  # rounds of a row, at most
    # And at least, whatever the budget: the median has to survive two rounds in which
    # the system had no pages at hand for a new array of hundreds of megabytes.
    minimum: int = 5
    budget: float = 3.0  # seconds of a row's rounds
    inner: float = 0.012  # seconds that an inner loop lasts at least
    loops: int = 3  # inner loops a round, of which the fastest counts
    long: float = 0.05  # a call that takes as long is measured once a round


@dataclass
class Outcome:
    """What came of a row: seconds per round and column, and who was wrong."""

    name: str
    note: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    sampled: dict[str, float] = field(default_factory=dict)
    # CPUs that other processes kept busy meanwhile; None where it cannot be known.
    others: float | None = None

    def median(self, column: str) -> float:
        return statistics.median(self.seconds[column])

    def ratio(self, column: str, to: str = "fanin") -> tuple[float, float, float]:
        """Return median and quartiles of the ratios within each round."""
        pairs = zip(self.seconds[column], self.seconds[to], strict=True)
        return quartiles([a / b for a, b in pairs])

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "note": self.note,
            "seconds": self.seconds,
            "median": {c: self.median(c) for c in self.seconds},
            "ratio_to_fanin": {
                c: dict(zip(("median", "q1", "q3"), self.ratio(c), strict=True))
                for c in self.seconds
                if c != "fanin" and "fanin" in self.seconds
            },
            "wrong": self.wrong,
            "extrapolated_by": self.sampled,
            "cpus_used_by_others": self.others,
        }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return (median, first quartile, third quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def _busy_seconds() -> float | None:
    """Return the CPU time that all processes but this one have used (Linux)."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = [int(t) for t in first[1:9]]
    used = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return used - time.process_time()


def _elapsed(contender: Contender, number: int) -> float:
    run = contender.run
    start = time.perf_counter()
    for _ in range(number):
        run()
    return time.perf_counter() - start


def _inner_number(contender: Contender, effort: Effort) -> int:
    """Return how many calls an inner loop needs to last, as timeit finds it.

    0 is for a long call.
    """
    number = 1
    while True:
        if contender.prepare:
            contender.prepare()
        took = _elapsed(contender, number)
        if took >= effort.inner:
            return 0 if took / number >= effort.long else number
        number = max(2 * number, int(1.2 * number * effort.inner / max(took, 1e-7)))


def _settle() -> None:
    """Wait until no thread of this process spins any more."""
    limit = time.perf_counter() + LIMIT
    while time.perf_counter() < limit:
        used = time.process_time()
        time.sleep(WINDOW)
        if time.process_time() - used < 0.1 * WINDOW:
            return


def _measure(contender: Contender, number: int, loops: int) -> float:
    """Return seconds a call: for short calls the fastest of some inner loops.

    The first call after a rest wakes threads and a slow clock, so it does not count
    for those.
    """
    if contender.prepare:
        contender.prepare()
    _settle()
    if number == 0:
        return _elapsed(contender, 1) * contender.scale
    contender.run()
    best = min(_elapsed(contender, number) for _ in range(loops))
    return best / number * contender.scale


def run_row(row: Row, session: Session, effort: Effort) -> Outcome:
    """Check every contender of a row, then time those that are right."""
    outcome = Outcome(row.name, row.note)
    contenders: dict[str, Contender] = {}
    for column, contender in row.build(session):
        if contender.prepare:
            contender.prepare()
        try:
            result = contender.run()
            if contender.check:
                contender.check(result)
        except Wrong as error:
            outcome.wrong[column] = str(error)
            continue
        except Exception as error:  # a peer that fails must not cost the table
            outcome.wrong[column] = f"{type(error).__name__}: {error}"
            continue
        del result
        contenders[column] = contender
        if contender.scale != 1.0:
            outcome.sampled[column] = contender.scale
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        numbers = {c: _inner_number(it, effort) for c, it in contenders.items()}
        outcome.seconds = {column: [] for column in contenders}
        columns = list(contenders)
        start, busy = time.perf_counter(), _busy_seconds()
        for i in range(effort.repeat):
            if i >= effort.minimum and time.perf_counter() - start > effort.budget:
                break
            turn = i % len(columns)
            for column in columns[turn:] + columns[:turn]:
                outcome.seconds[column].append(
                    _measure(contenders[column], numbers[column], effort.loops)
                )
            gc.collect()
        busy_after, took = _busy_seconds(), time.perf_counter() - start
        if busy is not None and busy_after is not None:
            outcome.others = max(0.0, (busy_after - busy) / took)
    finally:
        if collecting:
            gc.enable()
    return outcome
