"""No kernel without a twin in reference.py, no public name without a test."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import types
from pathlib import Path

import pytest
import reference

import fanin

KERNELS = Path(fanin.__file__).parent / "_kernels"
TESTS = Path(__file__).parent

# Kernel function, as its module's stub declares it: the twin in reference.py. A twin
# has the kernel's name and its arguments (outputs may be returned instead), but for
# the exceptions that MADE_OF explains.
TWINS = {
    "_activations.forward": "activation_forward",
    "_activations.apply": "activation_apply",
    "_activations.backward": "activation_backward",
    "_activations.needs_input": "needs_input",
    "_batch_norm.batch_norm_backward": "batch_norm_backward",
    "_batch_norm.batch_norm_forward": "batch_norm_forward",
    "_batch_norm.norm_statistics": "norm_statistics",
    "_blas.matmul": "matmul",
    "_blas.matvec": "matvec",
    "_plan.Plan.forward": "network_outputs",
    "_plan.Plan.pick": "network_outputs",
    "_plan.Plan.record": "network_outputs",
    "_plan.Tape.backward": "network_gradient",
    "_plan.Tape.output": "network_outputs",
    "_plan.Plan.evaluate": "loss_and_gradient",
    "_plan.Plan.observe": "network_signals",
    "_plan.Plan.step": "loss_and_gradient",
    "_callback.Callback.differences": "callback_differences",
    "_dense_layer.dense_backward": "dense_backward",
    "_dense_layer.dense_forward": "dense_forward",
    "_fill.fill": "fill",
    "_fill.philox4x32": "philox4x32",
    "_layer_norm.layer_norm_backward": "layer_norm_backward",
    "_layer_norm.layer_norm_forward": "layer_norm_forward",
    "_losses.forward": "loss_forward",
    "_losses.link": "loss_link",
    "_moments.moments_forward": "moments_forward",
    "_moments.moments_finish": "moments_finish",
    "_moments.moments_merge": "moments_merge",
    "_moments.moments_update": "moments_update",
    "_moments.first_bad_weight": "first_bad_weight",
    "_normalize.normalize_forward": "normalize_forward",
    "_normalize.normalize_small": "normalize_small",
    "_optimizers.norm": "gradient_norm",
    "_optimizers.update": "optimizer_update",
    "_parallel.probe": "probe",
    "_perturb.central_differences": "central_differences",
    "_increments.Increments.run": "loss_changes",
    "_increments.quotients": "quotients",
    "_operations.dropout_mask": "dropout_mask",
    "_signals.observe": "observe",
    "_source.column_order": "column_order",
    "_source.row_order": "row_order",
}
# Kernels that work on a compiled plan: their twins take its layers and its loss.
# A step is the gradient's twin, followed by that of the optimizer's update.
MODE = "state, training, key, draw"
MADE_OF = {
    "_plan.Plan.forward": f"layers, theta, X, {MODE}",
    "_plan.Plan.pick": f"layers, theta, X, {MODE}",
    "_plan.Plan.record": f"layers, theta, X, {MODE}",
    "_plan.Tape.backward": f"layers, theta, X, dA, {MODE}",
    "_plan.Tape.output": f"layers, theta, X, {MODE}",
    "_plan.Plan.evaluate": f"layers, theta, X, y, loss, {MODE}, weights",
    "_plan.Plan.observe": f"layers, theta, X, dA, {MODE}",
    "_plan.Plan.step": f"layers, theta, X, y, loss, {MODE}, weights",
    "_perturb.central_differences": "layers, theta, X, y, loss, step",
    "_increments.Increments.run": (
        f"layers, theta, X, y, loss, step, selected, {MODE}, weights"
    ),
    "_callback.Callback.differences": "fun, theta, entries, plus, minus",
}
# Functions that compute nothing.
NO_TWIN = {
    "_blas.addresses": "where functions lie in memory",
    "_blas.config": "a description of the BLAS",
    "_callback.Callback.evaluate": "one call of the user's function",
    "_custom.read_capsule": "what a capsule says it holds",
    "_increments.Increments.activation": "a stage's tables are kept",
    "_increments.Increments.custom_loss": "a loss's values are kept",
    "_increments.Increments.linear": "a stage's tables are kept",
    "_increments.Increments.loss": "a loss's tables are kept",
    "_increments.Increments.norm": "a stage's tables are kept",
    "_increments.Increments.scale": "a stage's tables are kept",
    "_increments.Increments.task_size": "a number of rows",
    "_moments.group_rows": "the size of a task",
    "_parallel.pool_size": "a count of threads",
    "_plan.Plan.takes": "a question about an array",
    "_simd.available": "names of levels",
    "_simd.current": "the name of a level",
}


def declared_kernels() -> dict[str, list[str]]:
    """Return {module.function or module.Class.method: names of its parameters}."""
    found = {}

    def add(prefix: str, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                add(f"{prefix}.{node.name}", node.body)
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                names = [a.arg for a in arguments if a.arg != "self"]
                found[f"{prefix}.{node.name}"] = names

    for stub in sorted(KERNELS.glob("_*.pyi")):
        add(stub.stem, ast.parse(stub.read_text("utf-8")).body)
    return found


@functools.cache
def uses() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that the tests use: as dotted chains, and in strings."""
    chains, strings = set(), set()

    def chain(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{chain(node.value)}.{node.attr}"
        return ""

    for path in TESTS.glob("test_*.py"):
        if path.stem in ("test_docs", "test_registry"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Name, ast.Attribute)):
                chains.add(chain(node))
            elif isinstance(node, ast.ImportFrom):
                chains |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
    return frozenset(chains), frozenset(strings)


def is_used(*suffixes: str) -> bool:
    chains, _ = uses()
    return any(f".{chain}".endswith(f".{s}") for chain in chains for s in suffixes)


def public_names() -> dict[str, tuple[str, ...]]:
    """Return {name: the endings of dotted chains that count as a use of it}."""
    modules = ["fanin"] + [
        f"fanin.{module.name}"
        for module in pkgutil.iter_modules(fanin.__path__)
        if not module.name.startswith("_")
    ]
    things: dict[int, tuple[object, list[str]]] = {}
    for module in modules:
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            if not isinstance(thing, (types.ModuleType, str)):
                place = f"{module.split('.')[-1]}.{name}"
                things.setdefault(id(thing), (thing, []))[1].append(place)
    found = {}
    for thing, places in things.values():
        found[places[0]] = tuple(places)
        if inspect.isclass(thing):
            for name, value in vars(thing).items():
                member = (types.FunctionType, property, classmethod, staticmethod)
                if isinstance(value, member) and not name.startswith("_"):
                    # Of what type an attribute's owner is, the source does not say.
                    found[f"{places[0]}.{name}"] = (name,)
    return found


def test_the_stubs_declare_every_function_that_is_compiled() -> None:
    missing = []
    for stub in KERNELS.glob("_*.pyi"):
        module = importlib.import_module(f"fanin._kernels.{stub.stem}")
        for name, value in vars(module).items():
            compiled = type(value).__name__ in (
                "cython_function_or_method",
                "builtin_function_or_method",
                "fused_cython_function",
            )
            own = getattr(value, "__module__", None) == module.__name__
            declared = f"{stub.stem}.{name}" in declared_kernels()
            if compiled and own and not name.startswith("_") and not declared:
                missing.append(f"{stub.stem}.{name}")
    assert missing == []


def test_every_kernel_function_has_an_entry() -> None:
    without = set(declared_kernels()) - set(TWINS) - set(NO_TWIN)
    assert without == set(), "enter these in TWINS (or in NO_TWIN, with a reason)"


def test_no_entry_outlives_its_kernel() -> None:
    assert set(TWINS) - set(declared_kernels()) == set()


@pytest.mark.parametrize("kernel", sorted(TWINS))
def test_a_kernel_has_a_twin_with_its_arguments(kernel: str) -> None:
    twin = getattr(reference, TWINS[kernel], None)
    assert callable(twin), f"reference.py has no {TWINS[kernel]}"
    found = list(inspect.signature(twin).parameters)
    if kernel in MADE_OF:
        assert found == MADE_OF[kernel].split(", ")
    else:
        assert found == declared_kernels()[kernel]


@pytest.mark.parametrize("twin", sorted(set(TWINS.values())))
def test_a_twin_is_held_against_something(twin: str) -> None:
    # By a test, or by another twin that a test uses.
    inside = ast.parse(Path(reference.__file__).read_text("utf-8"))
    called = {
        n.func.id
        for n in ast.walk(inside)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert is_used(f"reference.{twin}") or twin in called


@pytest.mark.parametrize("name", sorted(public_names()))
def test_a_public_name_is_used_in_a_test(name: str) -> None:
    endings = public_names()[name]
    last = name.rpartition(".")[2]
    # A name that is one thing's alone also counts in a string, for getattr.
    alone = sum(n.rpartition(".")[2] == last for n in public_names()) == 1
    assert is_used(*endings) or (alone and last in uses()[1])
