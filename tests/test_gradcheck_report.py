"""GradientReport: what it says, in numbers, words, JSON and HTML."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest

from fanin import GradientError, GradientReport, check_gradient
from fanin import _report as internal


def parts(*sizes):
    blocks, start = [], 0
    for k, n in enumerate(sizes):
        blocks.append((f"p{k}", slice(start, start + n), (n,)))
        start += n
    return blocks


def report_of(analytic, numeric, blocks=None, **options):
    blocks = parts(len(analytic)) if blocks is None else blocks
    options.setdefault("eps", 1e-7)
    return GradientReport._from_vectors(analytic, numeric, blocks, **options)


# -- the verdict, from numbers alone --------------------------------------------------


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (0.0, "correct"),
        (1e-8, "correct"),
        (1e-6, "suspicious"),
        (1e-4, "suspicious"),
        (1e-2, "wrong"),
        (1.0, "wrong"),
    ],
)
@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_verdicts_by_relative_error_at_any_scale(rng, error, verdict, scale):
    x = rng.normal(size=50) * scale
    report = report_of(x * (1 + 2 * error), x)
    assert report.verdict == verdict
    assert report.ok == (verdict == "correct")
    # ||2 e x|| / (||x|| + ||(1 + 2 e) x||) = e / (1 + e)
    assert report.relative_error == pytest.approx(error / (1 + error), abs=1e-15)


@pytest.mark.parametrize("value", [1.7e308, 5e-324])
def test_the_ends_of_the_floating_point_range(value):
    x = np.full(10, value)
    assert report_of(x, x).ok
    report = report_of(-x, x)
    assert report.relative_error == pytest.approx(1, rel=1e-15)
    assert report.verdict == "wrong"
    assert str(report)
    assert report.worst(1)[0].relative == pytest.approx(1)


def test_both_zero_is_no_error():
    report = report_of(np.zeros(3), np.zeros(3))
    assert report.relative_error == 0.0
    assert report.ok


def test_the_overall_verdict_is_the_strongest_finding():
    x = np.ones(4)
    blocks = parts(1, 1, 1, 1)
    a = np.array([1, 1 + 1e-5, 1, 2.0])
    assert report_of(a, x, blocks).verdict == "wrong"
    a[3] = 1
    assert report_of(a, x, blocks).verdict == "suspicious"
    bad = x.copy()
    bad[2] = np.nan
    assert report_of(a, bad, blocks).verdict == "suspicious"
    a[1] = 1
    assert report_of(a, bad, blocks).verdict == "inconclusive"
    assert report_of(a, x, blocks).verdict == "correct"
    verdicts = [r.verdict for r in report_of(a, bad, blocks).blocks.values()]
    assert verdicts == ["correct", "correct", "inconclusive", "correct"]


def test_noise_within_the_error_estimate_is_not_held_against_the_gradient():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=2000)
        sigma = 1e-6
        noisy = x + sigma * rng.normal(size=2000)
        report = report_of(x, noisy, error_estimate=sigma)
        assert report.ok, str(report)
        assert report.relative_error > 1e-7
        # The same noise with nothing to explain it.
        assert not report_of(x, noisy).ok


def test_an_error_that_noise_could_hide_is_inconclusive(rng):
    x = rng.normal(size=100)
    report = report_of(x, x + 0.1 * rng.normal(size=100), error_estimate=0.1)
    assert report.verdict == "inconclusive"
    assert report.blocks["p0"].hidden > 1e-3


def test_one_wrong_entry_among_many_is_wrong(rng):
    x = rng.normal(size=10**6)
    a = x.copy()
    a[123_456] *= 0.5
    report = report_of(a, x)
    assert report.verdict == "wrong"
    assert report.blocks["p0"].n_wrong == 1
    assert report.worst(1)[0].index == (123_456,)


def test_the_default_error_estimate_comes_from_the_values(rng):
    x = rng.normal(size=10)
    h = 1e-7
    report = report_of(
        x, x + 1e-9, f_plus=np.full(10, 8.0), f_minus=np.full(10, 8.0), step=h
    )
    expected = 8 * 2.0**-52 / (2 * h)
    assert report.worst(1)[0].error_estimate == pytest.approx(expected)
    assert report.worst(1)[0].f_plus == 8.0


def test_the_status_of_re_examined_entries_counts():
    x, a = np.ones(3), np.array([1.0, 1.0, 3.0])
    for status, verdict in [
        (internal.PLAIN, "wrong"),
        (internal.WRONG, "wrong"),
        (internal.AGREES, "correct"),
        (internal.KINK, "correct"),
        (internal.UNRESOLVED, "inconclusive"),
    ]:
        marks = np.array([0, 0, status], np.int8)
        report = report_of(a, x, status=marks)
        assert report.verdict == verdict
        if status >= internal.AGREES and status != internal.WRONG:
            assert report.diagnosis
            assert "1 of 3 entries" in report.diagnosis[0]


# -- what it says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, "numeric is -1 times analytic: the sign is wrong"),
        (2.0, "numeric is 2 times analytic: a factor 2 is missing"),
        (0.5, "numeric is 0.5 times analytic: there is a factor 2 too many"),
        (32.0, "numeric is 32 times analytic: perhaps a sum for a mean"),
        (1 / 32, "numeric is 1/32 times analytic: perhaps a sum for a mean"),
        (0.73, "numeric is 0.73 times analytic"),
        (5093.4, "numeric is 5093.4 times analytic"),
    ],
)
def test_constant_factors_are_named(rng, factor, words):
    x = rng.normal(size=20)
    report = report_of(x, factor * x)
    assert report.diagnosis[0].startswith(f"p0: {words}")


def test_a_sign_error_in_some_entries_is_named(rng):
    x = rng.normal(size=(100, 64))
    a = x.copy()
    a[3] *= -1
    report = report_of(
        a.ravel(), x.ravel(), [("dense0.weight", slice(0, 6400), x.shape)]
    )
    worst = report.worst(1)[0]
    assert report.summary == (
        f"wrong: dense0.weight, 64 of 6400 entries, worst at {list(worst.index)}: "
        f"analytic {worst.analytic:.6g}, numeric {worst.numeric:.6g}"
    )
    assert worst.index[0] == 3
    assert "numeric is -1 times analytic in the wrong entries" in report.diagnosis[0]


def test_a_zero_gradient_is_named(rng):
    x = rng.normal(size=5)
    assert "the analytic gradient is zero" in report_of(0 * x, x).diagnosis[0]
    assert "the numeric gradient is zero" in report_of(x, 0 * x).diagnosis[0]


def test_no_factor_is_named_where_there_is_none(rng):
    assert report_of(rng.normal(size=9), rng.normal(size=9)).diagnosis == []
    assert report_of([1.0], [1.37]).diagnosis == []


def test_worst_is_sorted_and_complete(rng):
    x = rng.normal(size=12)
    a = x.copy()
    a[7] = -a[7]
    a[2] += 1e-3 * abs(a[2])
    report = report_of(a, x, parts(5, 0, 7))
    first, second = report.worst(2)
    assert (first.name, first.index) == ("p2", (2,))
    assert (second.name, second.index) == ("p0", (2,))
    assert len(report.worst(100)) == 12
    assert report.worst(0) == []
    assert first.analytic == a[7]
    assert first.numeric == x[7]
    assert first.absolute == abs(x[7] - a[7])
    assert first.relative == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.analytic = 0.0


def test_blocks_is_read_only_and_complete():
    report = report_of(np.ones(3), np.ones(3), [("w", slice(0, 3), (3,))])
    record = report.blocks["w"]
    assert (record.n, record.shape, record.n_wrong) == (3, (3,), 0)
    assert record.relative_error == 0.0
    assert record.analytic_norm == pytest.approx(3**0.5)
    with pytest.raises(TypeError):
        report.blocks["w"] = record


def test_empty_arrays_are_correct():
    report = report_of(np.ones(2), np.ones(2), parts(0, 2, 0))
    assert report.ok
    assert report.blocks["p0"].worst is None
    assert str(report)


def test_without_a_template_the_gradients_are_dicts(rng):
    x = rng.normal(size=6)
    report = report_of(x, 2 * x, [("w", slice(0, 4), (2, 2)), ("b", slice(4, 6), (2,))])
    np.testing.assert_array_equal(report.analytic["w"], x[:4].reshape(2, 2))
    np.testing.assert_array_equal(report.numeric["b"], 2 * x[4:])
    report.numeric["b"][:] = 0  # a copy
    np.testing.assert_array_equal(report.numeric["b"], 2 * x[4:])


# -- how it prints ------------------------------------------------------------------


def wrong_report():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    params = {"<W&>": x, "b": np.ones(2)}
    return check_gradient(
        lambda p: (p["<W&>"] ** 2).sum() + p["b"].sum(),
        params,
        {"<W&>": -2 * x, "b": np.ones(2)},
    )


def test_the_table_names_what_is_wrong_and_where():
    report = wrong_report()
    lines = str(report).splitlines()
    assert lines[0].startswith("wrong: <W&>, 4 of 4 entries, worst at [")
    assert any(
        line.startswith("<W&>") and "2x2" in line and line.endswith("wrong")
        for line in lines
    )
    assert any(line.startswith("b ") and line.endswith("correct") for line in lines)
    assert "- <W&>: numeric is -1 times analytic: the sign is wrong" in lines
    assert f"6 entries, {report.n_evaluations} evaluations" in lines[-1]
    assert max(map(len, lines)) < 120
    assert repr(report) == (
        f"<GradientReport wrong: relative error {report.relative_error:.2g}, 6 entries>"
    )


def test_a_correct_report_prints_no_entries():
    report = report_of(np.ones(3), np.ones(3))
    assert str(report).startswith("correct: relative error 0 over 3 entries")
    assert "analytic   " not in str(report)


def test_long_tables_show_the_wrong_arrays():
    n = 300
    x = np.ones(n)
    a = x.copy()
    a[257] = 2
    text = str(report_of(a, x, parts(*[1] * n)))
    assert "p257" in text
    assert "... and 260 more arrays" in text
    assert len(text.splitlines()) < 70


def test_html_escapes_names():
    page = wrong_report()._repr_html_()
    assert "&lt;W&amp;&gt;" in page
    assert "<W&>" not in page
    assert page.count("<table>") == page.count("</table>") == 2
    assert page.count("<tr>") == page.count("</tr>")


def test_to_dict_goes_through_json():
    report = wrong_report()
    record = json.loads(json.dumps(report.to_dict(3), allow_nan=False))
    assert record["verdict"] == "wrong"
    assert record["ok"] is False
    assert record["relative_error"] == report.relative_error
    assert [b["name"] for b in record["blocks"]] == ["<W&>", "b"]
    assert record["blocks"][0]["worst"]["index"] == list(report.worst(1)[0].index)
    assert len(record["worst"]) == 3
    assert record["worst"][0]["analytic"] == report.worst(1)[0].analytic
    assert record["diagnosis"] == report.diagnosis
    assert record["n_evaluations"] == report.n_evaluations
    assert record["elapsed"] > 0


def test_to_dict_of_what_is_not_finite():
    report = report_of([1.0, np.nan], [np.nan, np.inf])
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["relative_error"] is None
    assert record["verdict"] == "inconclusive"


def test_raise_if_wrong():
    report_of(np.ones(3), np.ones(3)).raise_if_wrong()
    report = wrong_report()
    with pytest.raises(AssertionError) as caught:
        report.raise_if_wrong()
    assert type(caught.value) is GradientError
    assert str(caught.value) == str(report)
    # Neither a suspicious nor an inconclusive check passes for a right gradient.
    with pytest.raises(GradientError, match="suspicious"):
        report_of([1.0], [1 + 1e-5]).raise_if_wrong()
    with pytest.raises(GradientError, match="inconclusive"):
        report_of([1.0], [np.nan]).raise_if_wrong()


def test_notes_come_last_in_the_diagnosis():
    report = report_of([1.0, 2], [2.0, 4.0], notes=["done by increments"])
    assert report.diagnosis[-1] == "done by increments"
    assert len(report.diagnosis) == 2


def test_a_sampled_check_says_how_many():
    report = report_of(np.ones(3), np.ones(3), n_total=10)
    assert (report.n_checked, report.n_total) == (3, 10)
    assert "3 of 10 entries" in str(report)


def test_a_report_survives_pickling():
    report = wrong_report()
    again = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report)
    np.testing.assert_array_equal(again.numeric["<W&>"], report.numeric["<W&>"])


def test_reports_are_not_made_by_hand():
    with pytest.raises(TypeError, match="check_gradient"):
        GradientReport()
