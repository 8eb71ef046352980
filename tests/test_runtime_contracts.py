"""What holds for every long call: the GIL, threads, fork, Ctrl-C, the FP mode.

A case is Python source that defines `call(n_threads)`, one call of the library that
takes some tenths of a second, and returns something to compare. CASES are cut short
by nothing; LONG_CASES take many seconds and exist to be interrupted. Arrays of stride
0 are as long as one likes and cost no memory. Add a case, and every contract is
checked for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

CASES = {
    "moments": """
        X = np.broadcast_to(np.arange(4.0), (30_000_000, 4))
        def call(n_threads):
            return fanin.moments(X, n_threads=n_threads).mean.tobytes()
    """,
    "update": """
        X = np.broadcast_to(np.arange(4.0), (10_000_000, 4))
        w = np.broadcast_to(0.1, 10_000_000)
        def call(n_threads):
            m = fanin.Moments()
            m.update(X, weights=w, n_threads=n_threads)
            return m.update(X, n_threads=n_threads)._state.tobytes()
    """,
    "standardize": """
        X = np.broadcast_to(np.arange(40_000, dtype=np.int16)[:, None], (40_000, 400))
        def call(n_threads):
            Z, m = fanin.standardize(X, n_threads=n_threads, return_moments=True)
            return Z[:, ::1000].tobytes() + m.mean.tobytes()
    """,
    "layer_norm": """
        X = np.broadcast_to(np.arange(400, dtype=np.int16), (40_000, 400))
        def call(n_threads):
            Y, saved = fanin.layer_norm(X, np.ones(400), n_threads=n_threads)
            dX, dgamma, _ = fanin.layer_norm_backward(Y, saved, n_threads=n_threads)
            return dX[::1000].tobytes() + dgamma.tobytes()
    """,
    "batch_norm": """
        X = np.broadcast_to(np.arange(40_000, dtype=np.int16)[:, None], (40_000, 400))
        def call(n_threads):
            Y, saved = fanin.batch_norm(X, np.ones(400), n_threads=n_threads)
            dX, dgamma, _ = fanin.batch_norm_backward(Y, saved, n_threads=n_threads)
            return dX[::1000].tobytes() + dgamma.tobytes()
    """,
    "diagnose": """
        layers = [fanin.layers.Dense(200, "tanh"), fanin.layers.Dense(4)]
        net = fanin.Network(300, layers, loss="squared_error", rng=0)
        X = np.broadcast_to(np.linspace(-1, 1, 300, dtype=np.float32), (200_000, 300))
        def call(n_threads):
            report = net.diagnose(X, n_threads=n_threads)
            return report.layers[0].rms.hex()
    """,
    "evaluate": """
        Z = np.broadcast_to(np.linspace(-9, 9, 100, dtype=np.float32), (400_000, 100))
        y = np.broadcast_to(True, (400_000, 100))
        def call(n_threads):
            loss, dZ = fanin.losses.evaluate(
                Z, y, "binary_cross_entropy", n_threads=n_threads)
            return f"{loss!r}".encode() + dZ[::1000].tobytes()
    """,
    "dense": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (200_000, 50))
        W = np.linspace(-1, 1, 5000).reshape(50, 100)
        def call(n_threads):
            A = fanin.dense(X, W, activation="tanh", n_threads=n_threads)
            found = fanin.dense_backward(A, X, W, A, "tanh", n_threads=n_threads)
            return A[::1000].tobytes() + found[1].tobytes() + found[2].tobytes()
    """,
    "activation": """
        X = np.broadcast_to(np.arange(40_000, dtype=np.int16)[:, None], (40_000, 400))
        def call(n_threads):
            Y = fanin.activations.apply(X, "softplus", n_threads=n_threads)
            fanin.activations.derivative(Y, "gelu", out=Y, n_threads=n_threads)
            return Y[:, ::100].tobytes()
    """,
    # Products may round differently with another split: seven digits are compared.
    "loss": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (300_000, 50))
        y = np.broadcast_to(3, 300_000)
        layers = [fanin.layers.Dense(100, "tanh"), fanin.layers.Dense(10)]
        net = fanin.Network(50, layers, loss="softmax_cross_entropy", dtype="f8", rng=0)
        def call(n_threads):
            return f"{net.loss(X, y, n_threads=n_threads):.7g}".encode()
    """,
    "train_step": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (200_000, 50))
        y = np.broadcast_to(3, 200_000)
        layers = [fanin.layers.Dense(100, "relu"), fanin.layers.Dense(10)]
        def call(n_threads):
            net = fanin.Network(
                50, layers, loss="softmax_cross_entropy", dtype="f8", rng=0)
            sgd = fanin.optimizers.SGD(0.1)
            loss = net.train_step(X, y, sgd, n_threads=n_threads)
            return f"{loss:.7g} {net.parameters.sum():.7g}".encode()
    """,
    "check_gradient": """
        X = np.linspace(-1, 1, 20_000).reshape(100, 200)
        y = np.arange(100) % 10
        layers = [fanin.layers.Dense(200, "tanh"), fanin.layers.Dense(10)]
        net = fanin.Network(
            200, layers, loss="softmax_cross_entropy", dtype="f8", rng=0)
        def call(n_threads):
            report = net.check_gradient(X, y, n_threads=n_threads)
            return b"".join(a.tobytes() for a in report.numeric.values())
    """,
}

# No kernel of these contracts or reorders, so SIMD levels do not even round apart.
SAME_AT_EVERY_LEVEL = ["moments", "update", "standardize"]

LONG_CASES = {
    "diagnose": """
        layers = [fanin.layers.Dense(200, "tanh"), fanin.layers.Dense(4)]
        net = fanin.Network(300, layers, loss="squared_error", rng=0)
        X = np.broadcast_to(np.linspace(-1, 1, 300, dtype=np.float32), (9_000_000, 300))
        def call(n_threads):
            net.diagnose(X, n_threads=n_threads)
    """,
    "evaluate": """
        # (Of the 3 GB of the gradient, next to none are ever written.)
        Z = np.broadcast_to(np.linspace(-9, 9, 100, dtype=np.float32), (8_000_000, 100))
        y = np.broadcast_to(True, (8_000_000, 100))
        def call(n_threads):
            fanin.losses.evaluate(Z, y, "binary_cross_entropy", n_threads=n_threads)
    """,
    "moments": """
        X = np.broadcast_to(np.arange(4.0), (2_000_000_000, 4))
        def call(n_threads):
            fanin.moments(X, n_threads=n_threads)
    """,
    "standardize": """
        # NaN takes long, and the 3 GB of the result are never written.
        row = np.array([0, 1, np.nan, 3], np.float16)
        X = np.broadcast_to(row, (200_000_000, 4))
        def call(n_threads):
            fanin.standardize(X, n_threads=n_threads)
    """,
    "layer_norm": """
        X = np.broadcast_to(np.arange(400, dtype=np.int16), (2_000_000, 400))
        def call(n_threads):
            fanin.layer_norm(X, n_threads=n_threads)
    """,
    "dense": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (200_000_000, 50))
        W = np.linspace(-1, 1, 500).reshape(50, 10)
        def call(n_threads):
            fanin.dense(X, W, activation="tanh", n_threads=n_threads)
    """,
    "dense_backward": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (50_000_000, 50))
        dA = np.broadcast_to(0.5, (50_000_000, 10))
        W = np.linspace(-1, 1, 500).reshape(50, 10)
        def call(n_threads):
            fanin.dense_backward(dA, X, W, None, "tanh", n_threads=n_threads)
    """,
    "activation": """
        X = np.broadcast_to(np.arange(400, dtype=np.int16), (4_000_000, 400))
        def call(n_threads):
            fanin.activations.apply(X, "gelu", n_threads=n_threads)
    """,
    "loss": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (500_000_000, 50))
        y = np.broadcast_to(3, 500_000_000)
        layers = [fanin.layers.Dense(100, "tanh"), fanin.layers.Dense(10)]
        net = fanin.Network(50, layers, loss="softmax_cross_entropy", rng=0)
        def call(n_threads):
            net.loss(X, y, n_threads=n_threads)
    """,
    "fit": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (2_000_000, 50))
        y = np.broadcast_to(3, 2_000_000)
        layers = [fanin.layers.Dense(100, "tanh"), fanin.layers.Dense(10)]
        net = fanin.Network(50, layers, loss="softmax_cross_entropy", rng=0)
        adam = fanin.optimizers.Adam()
        def call(n_threads):
            # fit returns what was learned; everything else raises.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "training was interrupted")
                history = net.fit(X, y, optimizer=adam, epochs=1000,
                                  batch_size=100_000, n_threads=n_threads)
            if history.stopped == "interrupted":
                raise KeyboardInterrupt
    """,
    "forward, wide": """
        X = np.broadcast_to(np.float32(0.5), (1000, 6000))
        net = fanin.Network(
            6000, [fanin.layers.Dense(6000) for _ in range(12)], loss="squared_error",
            rng=0)
        def call(n_threads):
            for _ in range(100):
                net.forward(X, n_threads=n_threads)
    """,
    "check_gradient, many rows": """
        X = np.broadcast_to(np.linspace(-1, 1, 50), (2_000_000, 50))
        y = np.broadcast_to(3, 2_000_000)
        layers = [fanin.layers.Dense(50, "tanh"), fanin.layers.Dense(10)]
        net = fanin.Network(50, layers, loss="softmax_cross_entropy", rng=0)
        gradient = net.gradient
        def call(n_threads):
            net.check_gradient(X, y, gradient=gradient, n_threads=n_threads)
    """,
    "check_gradient": """
        X = np.linspace(-1, 1, 512_000).reshape(512, 1000)
        y = np.arange(512) % 10
        layers = [fanin.layers.Dense(1000, "tanh"), fanin.layers.Dense(10)]
        net = fanin.Network(1000, layers, loss="softmax_cross_entropy", rng=0)
        def call(n_threads):
            net.check_gradient(X, y, n_threads=n_threads)
    """,
}

PRELUDE = (
    "import os, signal, sys, threading, time, warnings\nimport numpy as np, fanin\n"
)


def source_of(case, cases=CASES):
    return PRELUDE + textwrap.dedent(cases[case])


def call_of(case):
    names = {}
    exec(source_of(case), names)
    return names["call"]


def run(source, *, timeout=60, options=("-W", "error")):
    """Run Python source in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, *options, "-c", source],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def stamps_during(call, other):
    """The times at which `other` returned, in the middle half of one `call()`.

    A call that held the interpreter's lock would leave that time empty: `other`
    runs in another Python thread, and could take turns only before and after.
    """
    stamps, stop, started = [], threading.Event(), threading.Event()

    def repeat():
        while not stop.is_set():
            other()
            stamps.append(time.perf_counter())
            started.set()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        assert started.wait(60)
        begin = time.perf_counter()
        call()
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    quarter = (end - begin) / 4
    return [t for t in stamps if begin + quarter < t < end - quarter]


@pytest.mark.parametrize("case", CASES)
def test_the_gil_is_released(case):
    call = call_of(case)
    assert stamps_during(lambda: call(1), lambda: sum(range(1000)))


def test_the_gil_test_can_fail():
    """A C loop that holds the lock: a sum of Python integers by the interpreter."""
    numbers = [1] * 20_000_000
    assert not stamps_during(lambda: sum(numbers), lambda: sum(range(1000)))


@pytest.mark.parametrize("case", CASES)
def test_two_python_threads_overlap(case):
    """Calls return in one thread while a single call of the other is under way."""
    call = call_of(case)
    import numpy as np

    import fanin

    X = np.arange(12_000.0).reshape(-1, 4)
    wanted, results = fanin.standardize(X), []
    stamps = stamps_during(
        lambda: call(1), lambda: results.append(fanin.standardize(X, n_threads=1))
    )
    assert stamps
    assert all(np.array_equal(found, wanted) for found in results)


@pytest.mark.parametrize("case", CASES)
def test_many_python_threads_at_once(case):
    call = call_of(case)
    wanted, results = call(1), [b""] * 4

    def work(i):
        results[i] = call(1 + i % 3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found == wanted for found in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("case", CASES)
def test_a_forked_child_works(case):
    """The parent's pool is running; the child computes the same and ends."""
    source = source_of(case) + textwrap.dedent("""
        wanted = call(2)
        child = os.fork()
        if child == 0:
            ok = call(2) == wanted and call(1) == wanted
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert call(2) == wanted
        print(os.waitstatus_to_exitcode(status))
    """)
    # Python 3.12 and later warn of any fork of a process with threads.
    assert run(source, options=("-W", "ignore::DeprecationWarning")) == "0"


@pytest.mark.skipif(os.name == "nt", reason="os.kill sends no Ctrl-C on Windows")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("case", LONG_CASES)
def test_ctrl_c_ends_a_call_within_a_quarter_of_a_second(case, n_threads):
    source = source_of(case, LONG_CASES) + textwrap.dedent(f"""
        def interrupt():
            global sent
            sent = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Timer(0.3, interrupt).start()
        try:
            call({n_threads})
        except KeyboardInterrupt:
            took = time.perf_counter() - sent
        assert fanin.moments([1.0, 3.0]).mean == 2.0    # and the library still works
        print(took)
    """)
    # The contract is a time. A machine busy with other work gets three chances.
    took = []
    for _ in range(3):
        took.append(float(run(source)))
        if took[-1] < 0.25:
            break
    assert min(took) < 0.25


def test_importing_leaves_the_floating_point_mode_alone():
    run("import fanin, numpy as np; assert np.float64(5e-324) * 1.0 > 0.0")
    run(
        "import fanin; X = [[5e-324], [15e-324]]; m = fanin.moments(X)\n"
        "assert m.mean[0] == 10e-324 and m.std[0] == 5e-324"
    )


@pytest.mark.parametrize("case", SAME_AT_EVERY_LEVEL)
def test_the_baseline_build_gives_the_same_bits(case):
    source = source_of(case) + "import hashlib\n"
    source += "print(hashlib.sha256(call(2)).hexdigest())"
    here = run(source)
    there = run("import os; os.environ['FANIN_SIMD'] = 'baseline'\n" + source)
    assert here == there
