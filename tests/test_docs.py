"""The documentation names what there is, and its examples run."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
import types
from pathlib import Path

import pytest

import fanin

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("the pages are not beside these tests", allow_module_level=True)

PUBLIC_MODULES = ["fanin"] + [
    f"fanin.{module.name}"
    for module in pkgutil.iter_modules(fanin.__path__)
    if not module.name.startswith("_")
]
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def public_objects():
    """Return [(module, name, object)], once for an object with several names."""
    found = []
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, (types.ModuleType, str)):
                continue
            if all(thing is not other for _, _, other in found):
                found.append((module_name, name, thing))
    return found


def find(name):
    """Return the object that a full name stands for."""
    thing = fanin
    for part in name.split(".")[1:]:
        thing = getattr(thing, part)
    return thing


def documented_names():
    """Return the names in the autosummary tables of the API page, in full."""
    listed = set()
    for block in re.findall(
        r"```\{eval-rst\}\n(.*?)```", (DOCS / "api.md").read_text("utf-8"), re.DOTALL
    ):
        listed |= set(re.findall(r"^   ([\w.]+)$", block, re.MULTILINE))
    return {f"fanin.{name}" for name in listed}


def test_every_public_module_says_what_is_public() -> None:
    assert {
        m for m in PUBLIC_MODULES if not importlib.import_module(m).__all__
    } == set()


def test_the_api_page_lists_exactly_the_public_names() -> None:
    public = {f"{module}.{name}" for module, name, _ in public_objects()}
    assert documented_names() == public


def test_every_listed_name_can_be_imported_by_it() -> None:
    for name in documented_names():
        assert find(name).__doc__


def test_the_readme_has_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert 'python -m pip install ".[demo]" && python -m fanin demo' in lines
    assert 'python -m pip install ".[test]" && python -m pytest' in lines


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text("utf-8")):
            outside = not target or "://" in target
            if not outside and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if re.search(r"^ *>>> ", p.read_text("utf-8"), re.MULTILINE)],
    ids=lambda page: page.name,
)
def test_the_examples_of_a_page_run(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")  # no windows
    for package in ("sklearn", "scipy", "safetensors", "matplotlib"):
        if package in page.read_text("utf-8"):
            pytest.importorskip(package)
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    assert attempted > 0
    assert failed == 0


@pytest.mark.skipif(
    not (ROOT / "src" / "fanin" / "_kernels" / "meson.build").exists(),
    reason="needs the source tree",
)
def test_the_design_page_maps_every_source_file() -> None:
    text = (DOCS / "design.md").read_text("utf-8")
    the_map = text.split("```text\n")[1].split("```")[0]
    unmapped = []
    for path in (ROOT / "src" / "fanin").rglob("*"):
        # A header goes with its .c file; stubs and declarations with their module;
        # the parts of a package of plain Python with the package.
        with_c = path.suffix == ".h" and path.with_suffix(".c").exists()
        in_package = path.suffix == ".py" and f" {path.parent.name}/ " in the_map
        is_source = path.suffix in (".py", ".pyx", ".c", ".h", ".in")
        if is_source and not (with_c or in_package or path.name in the_map):
            unmapped.append(path.name)
    assert unmapped == []


# Checks of numpydoc's that every public docstring passes: it has a summary in its own
# line, documents every parameter and what is returned, and has an example. (The codes
# are in numpydoc's documentation of validation. PR03 and PR04, order and types, are
# left out: parameters that several functions share are documented together, once.)
CHECKS = {
    *("GL03", "GL05", "GL06", "GL07", "GL08", "SS01", "SS02", "SS03", "SS04"),
    *("PR01", "PR02", "PR05", "PR07", "RT01", "RT03", "YD01", "EX01"),
}
# Made by the library rather than by its users, or a base class of theirs.
WITHOUT_EXAMPLE = {
    "fanin.GradientError",
    "fanin.GradientReport",
    "fanin.gradcheck.BlockRecord",
    "fanin.gradcheck.DirectionRecord",
    "fanin.gradcheck.EntryRecord",
    "fanin.losses.Loss",
    "fanin.optimizers.Optimizer",
    "fanin.schedules.Schedule",
}
# What `Network` calls, and a user has no occasion to: the summary is enough.
BETWEEN_PARTS = {"initializer", "targets", "bad_target"}


def docstrings():
    """Return the names of public objects, and of the classes' public methods."""
    names = []
    for module, name, thing in public_objects():
        names.append(f"{module}.{name}")
        if inspect.isclass(thing):
            names += [
                f"{module}.{name}.{method}"
                for method, value in vars(thing).items()
                if inspect.isfunction(value)
                and not method.startswith("_")
                and method not in BETWEEN_PARTS
            ]
    return names


@pytest.mark.parametrize("name", docstrings())
def test_a_public_docstring_is_complete(name: str) -> None:
    numpydoc = pytest.importorskip(
        "numpydoc.validate", reason="needs numpydoc, of the extra docs"
    )
    checks = set(CHECKS)
    if name in WITHOUT_EXAMPLE:
        checks.remove("EX01")
    if dataclasses.is_dataclass(find(name)):
        checks.remove("PR01")  # its fields are documented as attributes
    found = numpydoc.validate(name)["errors"]
    assert [f"{code}: {text}" for code, text in found if code in checks] == []
