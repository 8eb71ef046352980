"""scikit-learn's own tests, run on fanin's StandardScaler and scale."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("sklearn", minversion="1.5")

import sklearn.preprocessing
from sklearn.utils import estimator_checks

from fanin.estimators import StandardScaler

THEIRS = sklearn.preprocessing.StandardScaler
HERE = Path(__file__).parent
# The modules with tests of the two, and others that put a scaler to some use.
OWN = [
    "sklearn.preprocessing.tests.test_data",
    "sklearn.preprocessing.tests.test_common",
]
OTHERS = [
    "sklearn.tests.test_pipeline",
    "sklearn.tests.test_metaestimators",
    "sklearn.compose.tests.test_column_transformer",
    "sklearn.utils.tests.test_set_output",
]
# Of these the expectation is the list of the class's parameters, which has one more.
LISTS_PARAMETERS = {
    "test_column_transformer_get_set_params",
    "test_column_transformer_get_set_params_with_remainder",
}


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def run(whose: str, modules: list[str], directory: Path) -> tuple[dict, dict, str]:
    """Run scikit-learn's tests.

    Return {test: outcome}, {test: calls of fanin}, and what pytest said.
    """
    result = directory / f"{whose}.json"
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(directory / "pytest.ini")]
    command += ["--rootdir", str(Path(sklearn.__file__).parent)]
    command += ["-p", "sklearn_in_place", "--in-place", whose]
    command += ["--outcomes", str(result), "--pyargs", *modules]
    # In fanin's own process warnings are errors; here scikit-learn's tests decide.
    environment = {**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONWARNINGS": "ignore"}
    path = [str(HERE), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True
    )
    assert result.exists(), done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(result.read_text())
    return found["outcomes"], found["calls"], done.stdout[-8000:]


@pytest.mark.parametrize("modules", [OWN, OTHERS], ids=["own", "others"])
def test_what_passes_with_scikit_learns_class_passes_with_fanins(
    modules: list[str], tmp_path: Path
) -> None:
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        pytest.skip(f"this scikit-learn was installed without {', '.join(missing)}")
    theirs, none, _ = run("sklearn", modules, tmp_path)
    ours, calls, text = run("fanin", modules, tmp_path)
    assert set(ours) == set(theirs)
    differ = {
        test: (theirs[test], ours[test])
        for test in ours
        if ours[test] != theirs[test]
        and test.rpartition("::")[2] not in LISTS_PARAMETERS
    }
    assert differ == {}, text
    # An old scikit-learn beside a new library (polars, say) fails some by itself.
    count = Counter(theirs.values())
    assert count["failed"] <= (0 if modules is OWN else 0.1 * count["passed"])
    # That many there were, and it was fanin's code that ran.
    count = Counter(ours.values())
    assert none == {}
    used = sum(ours[test] == "passed" for test in calls)
    if modules is OWN:
        assert count["passed"] >= 240
        assert used >= 220
    else:
        assert count["passed"] >= 35
        assert used >= 25


def checks_of(estimator) -> Counter:
    """Run check_estimator; return how many checks of each name had which outcome."""
    found: Counter = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not hasattr(estimator_checks, "estimator_checks_generator"):  # before 1.6
            for one, check in estimator_checks.check_estimator(
                estimator, generate_only=True
            ):
                name = getattr(check, "func", check).__name__
                try:
                    check(one)
                except estimator_checks.SkipTest:
                    found[name, "skipped"] += 1
                else:
                    found[name, "passed"] += 1
            return found
        results = estimator_checks.check_estimator(
            estimator, on_skip=None, on_fail=None
        )
        for result in results:
            if result["status"] == "failed":
                raise result["exception"]
            found[result["check_name"], result["status"]] += 1
    return found


# (Not `copy=False`: the checks give an array to a scaler and then use it again.)
@pytest.mark.parametrize(
    "parameters", [{}, {"with_mean": False}, {"with_std": False}], ids=str
)
def test_check_estimator_passes_as_many_checks_as_for_scikit_learns(
    parameters: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sklearn.utils._test_common.instance_generator"
    if is_installed(name):
        # scikit-learn runs some checks of its own class with several parameters.
        listed = importlib.import_module(name).PER_ESTIMATOR_CHECK_PARAMS
        if THEIRS in listed:
            monkeypatch.setitem(listed, StandardScaler, listed[THEIRS])
    ours = checks_of(StandardScaler(**parameters))
    assert ours == checks_of(THEIRS(**parameters))
    assert {status for _, status in ours} <= {"passed", "skipped"}
    assert sum(n for (_, status), n in ours.items() if status == "passed") >= 40
