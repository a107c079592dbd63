"""Scripts share modules, and import neither one another nor a command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for folder in ("benchmarks", "studies")
    for path in sorted((Path(__file__).parents[2] / "evals" / folder).glob("*.py"))
]


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, those inside of functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_scripts_import_no_script_and_no_command(path: Path) -> None:
    climbing = ("evals.benchmarks", "evals.studies", "gmae_tools.cli")
    assert [name for name in imported(path) if name.startswith(climbing)] == []


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 20
