"""check_gradient of some entries: samples, masks, directions, time limits, progress."""

from __future__ import annotations

import copy
import math
import pickle
import sys

import numpy as np
import pytest

from fanin import check_gradient, gradcheck
from fanin._directions import powers_of_two
from fanin._selection import amount, hidden_share

FAULTY = ("wrong", "suspicious")


def quadratic(rng, sizes):
    """A dict of arrays, with half the sum of their squares and its gradient."""
    params = {name: rng.normal(size=size) for name, size in sizes.items()}

    def fun(p):
        return sum(0.5 * np.dot(a.ravel(), a.ravel()) for a in p.values())

    return fun, params, {k: v.copy() for k, v in params.items()}


# --- which entries ------------------------------------------------------------------


def test_a_sample_has_a_share_of_each_array_and_one_of_the_smallest(rng):
    fun, params, g = quadratic(rng, {"W": (60, 50), "b": 50, "c": 1, "none": 0})
    report = check_gradient(fun, params, g, indices=305, rng=0)
    assert report.ok, str(report)
    counts = {name: block.n_checked for name, block in report.blocks.items()}
    assert sum(counts.values()) == report.n_checked == 305
    assert report.n_total == 3051
    assert report.n_evaluations == 2 * 305 + 2
    # Of 302 beyond one each, 2999/3048 and 49/3048.
    assert counts == {"W": 298, "b": 6, "c": 1, "none": 0}
    assert int(np.isfinite(report.numeric["W"]).sum()) == 298
    assert np.isfinite(report.analytic["W"]).all()
    np.testing.assert_allclose(
        report.numeric["W"][np.isfinite(report.numeric["W"])],
        params["W"][np.isfinite(report.numeric["W"])],
        rtol=1e-3,
        atol=1e-4,  # rounding of a sum near 1500, over 2e-7
    )


def test_each_entry_is_as_likely_as_another():
    # 400 samples of 6 of 20: each entry 120 times on average, deviation 9.2.
    x = np.ones(20)
    times = np.zeros(20)
    for seed in range(400):
        report = check_gradient(lambda x: x.sum(), x, x, indices=6, rng=seed)
        times += np.isfinite(report.numeric)
    assert times.sum() == 2400
    assert np.abs(times - 120).max() < 5 * 9.2


def test_more_than_there_are_is_all(rng):
    x = rng.normal(size=5)
    report = check_gradient(lambda x: x @ x, x, 2 * x, indices=5)
    assert report.n_checked == 5
    assert report.diagnosis == []
    assert check_gradient(lambda x: x @ x, x, 2 * x, indices=500).n_checked == 5


def test_fewer_than_the_arrays_leave_some_unchecked(rng):
    fun, params, g = quadratic(rng, dict.fromkeys("abcde", 4))
    report = check_gradient(fun, params, g, indices=2, rng=1)
    assert report.verdict == "inconclusive"
    verdicts = [block.verdict for block in report.blocks.values()]
    assert sorted(verdicts) == ["correct"] * 2 + ["unchecked"] * 3
    assert all(
        (b.worst is None) == (b.verdict == "unchecked") for b in report.blocks.values()
    )
    assert "of the entries of the 2 arrays looked at" in report.diagnosis[-2]
    assert "left no entry to check" in report.diagnosis[-1]


def test_the_same_seed_gives_the_same_sample(rng):
    x = rng.normal(size=100)

    def numeric(seed):
        report = check_gradient(lambda x: x @ x, x, 2 * x, indices=9, rng=seed)
        return report.numeric

    np.testing.assert_array_equal(numeric(4), numeric(4))
    np.testing.assert_array_equal(numeric(4), numeric(np.random.default_rng(4)))
    assert not np.array_equal(numeric(4), numeric(5), equal_nan=True)


@pytest.mark.parametrize("shape", ["structure", "flat", "indices", "list", "bools"])
def test_masks_and_indices_say_which(shape, rng):
    fun, params, g = quadratic(rng, {"a": (2, 3), "b": 4})
    flat = np.zeros(10, bool)
    flat[[1, 5, 7]] = True
    given = {
        "structure": {"a": flat[:6].reshape(2, 3), "b": flat[6:]},
        "flat": flat,
        "indices": np.array([7, 1, 5, 5]),
        "list": [1, 7, 5],
        "bools": flat.tolist(),
    }[shape]
    report = check_gradient(fun, params, g, indices=given)
    found = np.concatenate([report.numeric["a"].ravel(), report.numeric["b"]])
    np.testing.assert_array_equal(np.isfinite(found), flat)
    assert report.n_checked == 3
    assert report.diagnosis[-1] == "3 of 10 checked: nothing is known of the others"
    # Errors count where it is looked, and there alone.
    for i in range(10):
        wrong = copy.deepcopy(g)
        wrong["ab"[i > 5]].reshape(-1)[i - 6 * (i > 5)] += 1
        report = check_gradient(fun, params, wrong, indices=given)
        assert report.verdict == ("wrong" if flat[i] else "correct")
        assert len(report.worst(100)) == 3


def test_a_mask_of_one_array_has_its_shape(rng):
    x = rng.normal(size=(3, 4))
    mask = np.abs(x) > 0.5
    report = check_gradient(lambda x: (x**2).sum(), x, 2 * x, indices=mask)
    np.testing.assert_array_equal(np.isfinite(report.numeric), mask)
    z = x[0] + 1j
    report = check_gradient(lambda z: z.real.sum(), z, np.ones(4), indices=mask[0])
    assert report.n_checked == 2 * mask[0].sum()


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (0, ValueError, "at least 1; got 0"),
        (-3, ValueError, "at least 1"),
        (True, TypeError, "got a bool"),
        (2.5, TypeError, "flat indices; got float"),
        ("all", TypeError, "flat indices; got str"),
        (np.zeros(4, bool), ValueError, "names no entry"),
        ([], ValueError, r"names no entry|must have shape"),
        ([4], ValueError, "from 0 to 3, flat; got 4"),
        ([-1, 2], ValueError, "from 0 to 3, flat; got -1"),
        (np.ones(5, bool), ValueError, r"shape \(4,\); got \(5,\)"),
        (np.ones(4), TypeError, "Booleans; got dtype float64"),
        ({"a": True}, TypeError, "Booleans; got dict"),
    ],
)  # fmt: skip
def test_indices_that_make_no_sense_are_refused(indices, error, message):
    with pytest.raises(error, match=message):
        check_gradient(lambda x: x.sum(), np.ones(4), np.ones(4), indices=indices)


def test_a_second_look_stays_within_the_sample(rng):
    """It moves other entries, for noise and kinks; it judges none of them."""
    x = rng.normal(size=1000)
    before = x.copy()

    def fun(x):
        return np.float64(1e13) + x @ x  # all is rounding: every entry is examined

    report = check_gradient(fun, x, 2 * x, indices=[3, 500])
    assert report.verdict == "inconclusive"
    assert report.n_checked == 2
    assert np.flatnonzero(np.isfinite(report.numeric)).tolist() == [3, 500]
    assert report.n_evaluations < 1000
    np.testing.assert_array_equal(x, before)


# --- what it can show ---------------------------------------------------------------


def test_the_power_is_that_of_random_entries():
    assert hidden_share(5000) == pytest.approx(0.0006, rel=2e-3)
    for n in (1, 7, 5000):
        assert (1 - hidden_share(n)) ** n == pytest.approx(0.05)
    assert [amount(n) for n in (7, 5000, 999_999, 1_234_567)] == [
        "7", "5,000", "999,999", "1.23 M",
    ]  # fmt: skip


def test_a_sampled_check_states_its_power():
    x = np.ones(1_200_000)
    g = np.zeros(1_200_000)
    g[0] = 1
    report = check_gradient(lambda x: x[0], x, g, indices=200, rng=0)
    assert report.diagnosis[-1:] == [
        "200 of 1.2 M checked: a fault in more than 1.5 % of the entries would be seen "
        "with 95 % probability"
    ]
    assert "200 of 1200000 entries" in str(report)


def test_the_power_holds():
    # A fault in the share of entries that the sentence names is missed in at most
    # one of 20 samples: of 200, at most 10 + 4 deviations of 3.1.
    n, size = 40, 2000
    x = np.ones(size)
    k = math.ceil(hidden_share(n) * size)
    missed = 0
    for seed in range(200):
        g = np.ones(size)
        g[np.random.default_rng(seed).permutation(size)[:k]] = 2
        report = check_gradient(lambda x: x.sum(), x, g, indices=n, rng=seed)
        missed += report.ok
    assert missed <= 10 + 4 * 3.1


# --- directions ---------------------------------------------------------------------


def test_directions_agree_with_a_correct_gradient(rng):
    params = {"x": rng.normal(size=200), "y": [3.0, rng.normal(size=(2, 2)) * 1e4]}

    def fun(p):
        x, (s, y) = p["x"], p["y"]
        return np.sin(x).sum() * s + 1e-4 * (y * y).sum() / 2

    def grad(p):
        x, (s, y) = p["x"], p["y"]
        return {"x": s * np.cos(x), "y": [np.sin(x).sum(), 1e-4 * y]}

    report = check_gradient(fun, params, grad, directions=4, rng=0)
    assert report.ok, str(report)
    assert len(report.directions) == 4
    assert report.n_evaluations == 2 * 205 + 2 + 4 * 6
    for record in report.directions:
        assert isinstance(record, gradcheck.DirectionRecord)
        assert record.verdict == "correct"
        assert record.absolute <= 10 * record.error_estimate
        assert record.absolute == abs(record.numeric - record.analytic)
        assert record.step > 0
    assert len(report.to_dict()["directions"]) == 4


def test_a_direction_finds_a_fault_that_the_sample_missed():
    n = 20_000
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    for seed, i in enumerate((0, 777, n - 1)):
        g = x.copy()
        g[i] = 1.5 * x[i] + 0.1
        report = check_gradient(
            lambda x: x @ x / 2, x, g, indices=20, directions=1, rng=seed
        )
        assert report.verdict == "wrong", str(report)
        assert report.worst(1)[0].index == (i,)
        assert report.directions[0].verdict in FAULTY
        assert any(
            "random directional derivative led to" in s for s in report.diagnosis
        )
        assert report.n_evaluations < 1000
        assert np.isfinite(report.numeric[i])


def test_a_direction_names_the_array_of_a_systematic_fault(rng):
    fun, params, g = quadratic(rng, {"W": (40, 30), "b": 30})
    g["b"] *= 2
    mask = {"W": np.zeros((40, 30), bool), "b": np.zeros(30, bool)}
    mask["W"][0, 0] = True
    report = check_gradient(fun, params, g, indices=mask, directions=1, rng=0)
    assert report.verdict == report.blocks["b"].verdict == "wrong"
    assert report.blocks["W"].verdict == "correct"


def test_kinks_on_the_way_are_no_fault():
    # Every entry on a kink; the chain rule's gradient is a subgradient.
    x = np.zeros(50)
    x[::7] = 1.0
    report = check_gradient(
        lambda x: np.maximum(x, 0).sum(), x, (x > 0) * 1.0, directions=3, rng=0
    )
    assert report.verdict not in FAULTY, str(report)
    # One entry on a convex and one on a concave kink: no jump along (1, 1).
    x = np.zeros(2)
    for seed in range(8):
        report = check_gradient(
            lambda x: np.abs(x[0]) - np.abs(x[1]) + x.sum(),
            x,
            np.array([1.9, 0.2]),
            directions=2,
            rng=seed,
        )
        assert report.verdict not in FAULTY, str(report)


def test_noise_is_no_fault(rng):
    x = rng.normal(size=300)

    def fun(x):  # rounded to 10 digits
        return np.round(np.sin(x).sum(), 10)

    report = check_gradient(fun, x, np.cos(x), indices=5, directions=4, rng=0)
    assert report.verdict not in FAULTY, str(report)


def test_directions_in_float32(rng):
    x = rng.normal(size=500).astype(np.float32)
    report = check_gradient(lambda x: x @ x / 2, x, x, directions=3, rng=0)
    assert report.ok, str(report)
    wrong = x.copy()
    wrong[:250] *= 2
    report = check_gradient(
        lambda x: x @ x / 2, x, wrong, indices=[400], directions=3, rng=0
    )
    assert report.verdict in FAULTY


def test_the_moves_of_a_direction_are_exact(rng):
    theta = rng.normal(size=1000) * 10.0 ** rng.integers(-20, 20, size=1000)
    scale = np.maximum(1, np.abs(theta))
    delta = powers_of_two(rng.choice([-1.0, 1.0], 1000) * scale / math.sqrt(1e6))
    for step in (2.0**-13, 2.0**-16, 2.0**-19):
        with np.errstate(all="raise"):
            moved = theta + step * delta
        np.testing.assert_array_equal(moved - theta + theta, moved)
        large = np.abs(theta) >= 1e-6  # (else theta itself is rounded, not delta)
        np.testing.assert_array_equal((moved - theta)[large], (step * delta)[large])


# --- time limits and progress -------------------------------------------------------


class Clock:
    """A clock that a function moves on: no test depends on how fast the machine is."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("fanin._evaluate.time.perf_counter", lambda: self.now)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_time_limit_stops_and_says_so(monkeypatch, rng, n_threads):
    clock = Clock(monkeypatch)
    fun, params, g = quadratic(rng, {"W": (50, 40), "b": 20, "c": 1})

    def slow(p):
        clock.now += 0.01
        return fun(p)

    report = check_gradient(slow, params, g, time_limit=5.0, rng=0, n_threads=n_threads)
    assert report.ok, str(report)
    assert 200 <= report.n_checked <= 300
    assert report.n_total == 2021
    # All arrays are among the first.
    assert all(block.n_checked > 0 for block in report.blocks.values())
    said = report.diagnosis[-1]
    assert said.startswith(
        f"the time limit ended the check: {report.n_checked} of 2,021 checked: a fault "
        "in more than"
    )
    assert int(np.isfinite(report.numeric["W"]).sum()) == report.blocks["W"].n_checked


def test_a_time_limit_that_is_not_reached_changes_nothing(rng):
    fun, params, g = quadratic(rng, {"W": (30, 20), "b": 20})
    whole = check_gradient(fun, params, g)
    report = check_gradient(fun, params, g, time_limit=3600, rng=1)
    np.testing.assert_array_equal(report.numeric["W"], whole.numeric["W"])
    assert report.n_checked == 620
    assert report.diagnosis == whole.diagnosis


def test_at_least_one_piece_is_checked_however_short_the_time(monkeypatch, rng):
    clock = Clock(monkeypatch)
    x = rng.normal(size=50)

    def slow(x):
        clock.now += 10
        return x @ x

    report = check_gradient(slow, x, 2 * x, time_limit=1e-9)
    assert report.n_checked == 1
    assert report.ok


def test_a_time_limit_and_a_mask_go_together(monkeypatch, rng):
    clock = Clock(monkeypatch)
    x = rng.normal(size=1000)

    def slow(x):
        clock.now += 0.01
        return x @ x

    report = check_gradient(
        slow, x, 2 * x, time_limit=4, indices=np.arange(0, 1000, 2), rng=0
    )
    assert 0 < report.n_checked < 500
    assert not np.isfinite(report.numeric[1::2]).any()
    assert "of the 500 that `indices` names" in report.diagnosis[-1]


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, "1"])
def test_a_time_limit_is_a_positive_number(limit):
    with pytest.raises((ValueError, TypeError), match="time_limit"):
        check_gradient(lambda x: x.sum(), np.ones(2), np.ones(2), time_limit=limit)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_progress_counts_entries(monkeypatch, rng, n_threads):
    tqdm = pytest.importorskip("tqdm.auto")
    bars = []

    class Bar:
        def __init__(self, total, unit):
            self.total, self.unit, self.n, self.closed = total, unit, 0, False
            bars.append(self)

        def update(self, n):
            self.n += n

        def close(self):
            self.closed = True

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    x = rng.normal(size=300)
    report = check_gradient(
        lambda x: x @ x, x, 2 * x, progress=True, n_threads=n_threads
    )
    assert report.ok
    (bar,) = bars
    assert (bar.total, bar.unit, bar.n, bar.closed) == (300, "entry", 300, True)

    def fails(x):
        if not np.array_equal(x, before):
            raise ZeroDivisionError
        return 0.0

    before = x.copy()
    with pytest.raises(ZeroDivisionError):
        check_gradient(fails, x, x, progress=True, n_threads=n_threads)
    assert bars[1].closed


def test_progress_without_tqdm_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"fanin\[demo\]"):
        check_gradient(lambda x: x.sum(), np.ones(2), np.ones(2), progress=True)


# --- reports ------------------------------------------------------------------------


def test_reports_whose_tables_nobody_has_seen_can_be_copied(rng):
    x = rng.normal(size=4)
    for make in (copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))):
        report = make(check_gradient(lambda x: x @ x, x, 2 * x))
        assert report.verdict == "correct"
        assert report.blocks["params"].verdict == "correct"
        assert report.relative_error < 1e-7
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = report.nothing


@pytest.mark.parametrize("directions", [-1, 1.5, True])
def test_directions_are_a_number(directions):
    with pytest.raises((ValueError, TypeError), match="directions"):
        check_gradient(lambda x: x.sum(), np.ones(2), np.ones(2), directions=directions)


def test_rng_is_checked_even_where_nothing_is_random():
    with pytest.raises(TypeError, match="rng"):
        check_gradient(lambda x: x.sum(), np.ones(2), np.ones(2), rng="seed")
