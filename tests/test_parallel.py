"""The thread pool: every task once, nested and concurrent calls, fork, Ctrl-C.

A test that could hang runs in a process of its own, with a time limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import reference

from fanin._kernels import _parallel

TIMEOUT = 120


def run(code: str) -> str:
    """Run Python code in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 16])
@pytest.mark.parametrize("n_tasks", [1, 2, 3, 17, 1000])
def test_every_task_runs_once(n_tasks: int, n_threads: int) -> None:
    runs, workers, halves = _parallel.probe(n_tasks, n_threads)
    expected_runs, _, expected_halves = reference.probe(n_tasks, n_threads)
    np.testing.assert_array_equal(runs, expected_runs)
    np.testing.assert_array_equal(halves, expected_halves)
    assert workers.min() >= 0
    assert workers.max() < min(n_threads, n_tasks)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_tasks_may_run_tasks(n_threads: int) -> None:
    runs, workers, _ = _parallel.probe(50, n_threads, n_inner=33)
    np.testing.assert_array_equal(runs, reference.probe(50, n_threads, n_inner=33)[0])
    assert workers.max() < n_threads


def test_helpers_take_part() -> None:
    _, workers, _ = _parallel.probe(200, 4, seconds=0.001)
    assert len(set(workers.tolist())) > 1
    assert _parallel.pool_size() >= 3


def test_one_thread_starts_no_worker() -> None:
    code = (
        "from fanin._kernels import _parallel\n"
        "_parallel.probe(100, 1)\nprint(_parallel.pool_size())\n"
        "_parallel.probe(1, 8)\nprint(_parallel.pool_size())\n"
        "_parallel.probe(3, 8)\nprint(_parallel.pool_size())\n"
    )
    assert run(code).split() == ["0", "0", "2"]


def test_the_pool_is_reused() -> None:
    code = (
        "from fanin._kernels import _parallel\n"
        "for _ in range(2000): _parallel.probe(8, 4)\n"
        "print(_parallel.pool_size())\n"
    )
    assert run(code) == "3"


def test_concurrent_calls_keep_their_tasks_apart() -> None:
    errors: list[str] = []
    start = threading.Barrier(6)

    def calls(n_threads: int) -> None:
        start.wait()
        for repeat in range(150):
            n_tasks = 1 + (repeat * 7) % 40
            runs, workers, _ = _parallel.probe(
                n_tasks, n_threads, n_inner=1 + repeat % 3
            )
            if not (runs == 1).all() or workers.max() >= n_threads or workers.min() < 0:
                errors.append(f"{n_threads=} {n_tasks=} {runs=} {workers=}")

    threads = [threading.Thread(target=calls, args=(n,)) for n in (1, 2, 2, 3, 4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert errors == []


def test_a_call_leaves_the_interpreter_to_other_threads() -> None:
    # With a switch interval of a minute this thread gives the interpreter away
    # where it says so and nowhere else; a call that held it would let the other
    # thread do nothing. The other one hands it back at each of its short sleeps.
    done = threading.Event()
    rounds = [0]

    def count() -> None:
        while not done.is_set():
            rounds[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        thread.start()
        before = rounds[0]
        _parallel.probe(50, 1, seconds=0.01)
        during = rounds[0] - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join(TIMEOUT)
    assert during >= 3


def test_no_worker_can_be_started_and_the_work_is_done_all_the_same() -> None:
    pytest.importorskip("resource")
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the size of the process is read from Linux's /proc")
    code = (
        "import resource\n"
        "from fanin._kernels import _parallel\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        # Room for small things, not for a worker's stack of 8 MiB.
        "size = pages * resource.getpagesize() + (6 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "runs, workers, _ = _parallel.probe(100, 4)\n"
        "print((runs == 1).all(), workers.max(), _parallel.pool_size())\n"
    )
    assert run(code) == "True 0 0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_works_and_so_does_its_own_child() -> None:
    code = """
import os
from fanin._kernels import _parallel
def works():
    return (_parallel.probe(64, 4, n_inner=3)[0] == 1).all()
assert works()
child = os.fork()
if child == 0:
    assert _parallel.pool_size() == 0
    assert works() and _parallel.pool_size() == 3
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if works() else 1)
    _, status = os.waitpid(grandchild, 0)
    os._exit(os.waitstatus_to_exitcode(status))
_, status = os.waitpid(child, 0)
assert works()
print(os.waitstatus_to_exitcode(status))
"""
    assert run(code) == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forks_while_other_threads_keep_the_pool_busy() -> None:
    # Whatever lock the other threads hold at the moment of the fork, the child
    # must get through. alarm() ends a child that does not.
    code = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")   # newer Pythons warn of fork beside threads
from fanin._kernels import _parallel
stop = threading.Event()
def busy():
    while not stop.is_set():
        _parallel.probe(16, 3)
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
failed = 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if (_parallel.probe(32, 3)[0] == 1).all() else 1)
    _, status = os.waitpid(child, 0)
    failed += status != 0
stop.set()
for thread in threads:
    thread.join()
print(failed)
"""
    assert run(code) == "0"


INTERRUPT = """
import os, signal, threading, time
from fanin._kernels import _parallel
_parallel.probe(64, {n_threads})
sent = []
def interrupt():
    time.sleep(0.3)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    _parallel.probe({n_tasks}, {n_threads}, seconds={seconds})
except KeyboardInterrupt:
    # A bound on being interrupted at all, not a measurement: uninterrupted, the
    # call would take a minute or more.
    print("interrupted", time.monotonic() - sent[0] < 10)
runs, _, _ = _parallel.probe(64, {n_threads})
print((runs == 1).all())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_ctrl_c_ends_a_call_and_the_pool_works_on(n_threads: int) -> None:
    code = INTERRUPT.format(n_tasks=50_000, n_threads=n_threads, seconds=0.005)
    assert run(code).split() == ["interrupted", "True", "True"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_an_exception_of_a_signal_handler_passes_through() -> None:
    code = """
import signal
from fanin._kernels import _parallel
def handler(number, frame):
    raise LookupError("from the handler")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    _parallel.probe(50_000, 2, seconds=0.005)
except LookupError as error:
    print(error)
"""
    assert run(code) == "from the handler"


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_a_handler_that_returns_does_not_stop_the_call() -> None:
    code = """
import signal
from fanin._kernels import _parallel
seen = []
signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.1)
runs, _, _ = _parallel.probe(200, 2, seconds=0.005)
print(len(seen), (runs == 1).all())
"""
    assert run(code) == "1 True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_inside_a_signal_handler_stops_the_call_in_the_child() -> None:
    code = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from fanin._kernels import _parallel
children = []
def handler(number, frame):
    children.append(os.fork())
    if children[0] == 0:
        # Ended for good, not by this handler, should it hang.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    runs, _, _ = _parallel.probe(200, 4, seconds=0.005)
except RuntimeError as error:
    works = (_parallel.probe(64, 4)[0] == 1).all()
    os._exit(7 if children == [0] and works and "forked" in str(error) else 1)
if children == [0]:
    os._exit(2)
_, status = os.waitpid(children[0], 0)
print((runs == 1).all(), os.waitstatus_to_exitcode(status))
"""
    assert run(code) == "True 7"


def test_another_thread_than_the_main_one_is_not_interrupted() -> None:
    # Python runs signal handlers in the main thread alone; a call of another
    # thread must finish.
    code = """
import os, signal, threading, time
from fanin._kernels import _parallel
results = []
thread = threading.Thread(
    target=lambda: results.append(_parallel.probe(200, 2, seconds=0.005)[0]))
thread.start()
time.sleep(0.1)
try:
    signal.raise_signal(signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    pass
thread.join()
print((results[0] == 1).all())
"""
    assert run(code) == "True"


def test_probe_refuses_to_run_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _parallel.probe(0, 2)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the system has no affinity"
)
def test_workers_keep_the_affinity_of_the_process() -> None:
    """A worker that leaves its caller's CPU does so for a moment only."""
    code = """if True:
        import os, time
        from fanin._kernels import _parallel
        allowed = os.sched_getaffinity(0)
        for _ in range(20):
            _parallel.probe(8, 4, seconds=2e-4)
            time.sleep(2e-3)    # the workers fall asleep, and are woken again
        for thread in os.listdir("/proc/self/task"):
            assert os.sched_getaffinity(int(thread)) == allowed
        print(_parallel.pool_size())
    """
    assert run(code) == "3"
