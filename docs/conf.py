"""Sphinx configuration. Nothing is downloaded while the pages are built."""

from __future__ import annotations

import importlib
import pkgutil
import types

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import fanin

project = "fanin"
author = "the fanin developers"
copyright = "the fanin developers"
version = release = fanin.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "myst_parser",
]
myst_enable_extensions = ["amsmath", "dollarmath", "deflist"]
myst_heading_anchors = 3

exclude_patterns = ["_build", "benchmarks_table.md", "precision_table.md"]
templates_path = ["_templates"]
default_role = "autolink"
html_theme = "furo"
html_title = f"fanin {version}"

# The gallery's pictures are made while the pages are built.
plot_include_source = True
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 110)]

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def public_objects() -> dict[str, object]:
    """Every public function and class, by the shortest name it is imported by."""
    found: dict[str, object] = {}
    modules = ["fanin"] + [
        f"fanin.{module.name}"
        for module in pkgutil.iter_modules(fanin.__path__)
        if not module.name.startswith("_")
    ]
    for module_name in modules:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, (types.ModuleType, str)):
                continue
            if all(thing is not other for other in found.values()):
                found[f"{module_name}.{name}"] = thing
    return found


def report_missing_pages(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which fails the build, of public names that have no page."""
    documented = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in public_objects():
        if name not in documented:
            logging.getLogger(__name__).warning("%s is public and has no page", name)


def leave_to_scikit_learn(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Leave out what an estimator inherits: its text refers to pages that are not here.

    (scikit-learn also puts methods such as `set_fit_request` into each class.)
    """
    home = getattr(thing, "__module__", None) or ""
    return True if home.startswith("sklearn.") else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", leave_to_scikit_learn)
    app.connect("env-check-consistency", report_missing_pages)
