"""Arrows point down: no module that a scene is read out with imports something that imports it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "gmae_tools"
# What a scene is made of, and what reads it out, shows and writes it.
HOUSE = (
    "scene",
    "results",
    "refine",
    "simplify",
    "zeroshot",
    "report",
    "formats",
    "metrics",
    "splatting",
    "camera",
    "gaussians",
)
FRONT_DOOR = f"{PACKAGE}.scene"  # its methods call what stands above it, imported when they are called


def modules(repository: Path) -> dict[str, Path]:
    found = {}
    for path in sorted((repository / PACKAGE).rglob("*.py")):
        parts = path.relative_to(repository).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: dict[str, Path], *, lazy: bool) -> Iterator[str]:
    """The modules of the package that a module imports, with those for its types and, if `lazy`, in its functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef):
            yield from imports(node, known, lazy=lazy)


def runs_at_import(tree: ast.Module) -> ast.Module:
    """The tree without what is imported for types alone."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body, [])


def check(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_circle_of_imports(repository: Path) -> None:
    known = modules(repository)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()}
    check({name: set(imports(runs_at_import(tree), known, lazy=False)) & set(known) for name, tree in trees.items()})


def test_only_a_scene_calls_what_stands_above_it(repository: Path) -> None:
    known = modules(repository)
    house = {name for name in known if name.split(".")[1:2] and name.split(".")[1] in HOUSE}
    graph = {}
    for name in house:
        tree = ast.parse(known[name].read_text(encoding="utf-8"))
        seen = runs_at_import(tree) if name == FRONT_DOOR else tree
        graph[name] = set(imports(seen, known, lazy=name != FRONT_DOOR)) & house - {name}
    check(graph)
