"""The package stays small, its imports run one way, and what stands outside the front rooms can be taken away."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from fmuc.paths import ROOT

PACKAGE = ROOT / "fmuc"
# The modules in the order of the paper: each imports only what stands above it.
ORDER = (
    "errors", "evidence", "paths", "machinery.atomic", "machinery.workers", "machinery.sound", "config", "metrics",
    "datasets", "experiments", "splits", "features", "augment", "model", "uncertainty", "selection", "pool", "devices",
    "fixmatch", "batches", "machinery.checkpoints", "records", "train", "machinery.parallel", "machinery.costs",
    "machinery.fetch", "claims", "tables", "analysis", "equal_quantity", "compare",
    "figures", "machinery.notebooks", "__main__")
SATELLITES = ("fast", "standins", "own", "teaching")
BETWEEN = {"teaching": {"standins"}}  # the notebooks render what they look at
ALLOWED = {"fixmatch": {"fast"}, "__main__": set(SATELLITES)}  # the only ways from the front rooms to a satellite
LATE = {"dask", "distributed", "fmuc", "ipykernel", "librosa", "matplotlib", "numba", "pandas", "papermill",
        "pretty_midi", "seaborn", "sklearn", "tinysoundfont", "torch"}  # slow to import, or optional


def module_name(path: Path) -> str:
    """``fmuc/own/check.py`` -> ``own.check``; a package's ``__init__`` has the name of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in ``tree``; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports, the functions' imports included."""
    found = set()
    for full in imports(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if full.startswith("fmuc."):
            parts = full.split(".")[1:]
            found |= {".".join(parts[:end]) for end in (1, 2) if ".".join(parts[:end]) in MODULES}
    return found - {name}


def test_the_front_rooms_are_those_of_the_plan():
    front = {name for name in MODULES if name.split(".")[0] not in SATELLITES}
    assert front == {*ORDER, "__init__", "machinery"}


@pytest.mark.parametrize("name", ORDER)
def test_a_front_room_imports_only_what_stands_above_it(name):
    above = set(ORDER[: ORDER.index(name)])
    satellites = {module for module in MODULES if module.split(".")[0] in ALLOWED.get(name, ())}
    assert own_imports(name) <= above | satellites | {"__init__", "machinery"}


@pytest.mark.parametrize("satellite", SATELLITES)
def test_satellites_are_independent_of_each_other_and_without_circles(satellite):
    members = {name: own_imports(name) for name in MODULES if name.split(".")[0] == satellite}
    others = {module for found in members.values() for module in found if module.split(".")[0] in SATELLITES}
    assert {module.split(".")[0] for module in others} <= {satellite} | BETWEEN.get(satellite, set())
    within = {name: found & members.keys() - {satellite} for name, found in members.items()}
    TopologicalSorter(within).prepare()  # raises CycleError


@pytest.mark.parametrize("name", MODULES)
def test_only_heavy_libraries_are_imported_within_functions(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = {full.split(".")[0] for function in functions for full in imports(function)}
    assert late <= LATE
