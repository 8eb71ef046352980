"""A pytest plugin: put fanin's StandardScaler and scale in scikit-learn's place.

It replaces the two names before scikit-learn's test modules import them, keeps the
tests that use them (by name, or as a parameter), and writes what became of each test,
and how often each called fanin, to a JSON file. `test_estimators_sklearn.py` runs it
in a process of its own:

    python -m pytest -p sklearn_in_place --in-place=fanin --outcomes=FILE --pyargs ...

With ``--in-place=sklearn`` nothing is replaced: the same tests, of scikit-learn's own.
"""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path

import sklearn.preprocessing
import sklearn.preprocessing._data
from sklearn.preprocessing import StandardScaler

import fanin.estimators

NAMES = {"StandardScaler", "scale"}
outcomes: dict[str, str] = {}
calls: dict[str, int] = {}
running = [""]


def counted(function):
    """Return `function`, which counts its calls for the running test."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        calls[running[0]] = calls.get(running[0], 0) + 1
        return function(*args, **kwargs)

    return call


def put_in_place():
    fanin_class = fanin.estimators.StandardScaler
    # Every fit comes through here, and every transform and its inverse.
    for method in ("_partial_fit", "_transformed"):
        setattr(fanin_class, method, counted(getattr(fanin_class, method)))
    fanin_scale = counted(fanin.estimators.scale)
    for module in (sklearn.preprocessing, sklearn.preprocessing._data):
        module.StandardScaler = fanin_class
        module.scale = fanin_scale


def names_in(code):
    """Return the global names of a code object, and of functions inside it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            found |= names_in(constant)
    return found


def is_one(thing):
    scaler = thing if isinstance(thing, type) else type(thing)
    name = getattr(thing, "__name__", "")
    return issubclass(scaler, StandardScaler) or (callable(thing) and name == "scale")


def uses_them(item):
    if NAMES & names_in(inspect.unwrap(item.function).__code__):
        return True
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(is_one(value) for value in parameters)


def pytest_addoption(parser):
    parser.addoption("--in-place", choices=("fanin", "sklearn"), required=True)
    parser.addoption("--outcomes", required=True)


def pytest_configure(config):
    if config.getoption("--in-place") == "fanin":
        put_in_place()


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if hasattr(item, "function") and uses_them(item)]


def pytest_runtest_logstart(nodeid):
    running[0] = nodeid


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session):
    found = {"outcomes": outcomes, "calls": calls}
    Path(session.config.getoption("--outcomes")).write_text(json.dumps(found))
