"""Every script is in the lab book, and says what it measures, how long that takes and what it needs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.evals.test_imports import SCRIPTS

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SCRIPTS if path.stem != "__init__"
]  # fmt: skip


@pytest.mark.parametrize("name", [*MODULES, "evals.regenerate"])
def test_help_says_what_is_measured_and_the_lab_book_lists_it(name: str) -> None:
    module = importlib.import_module(name)
    command: click.Command = module.main
    result = CliRunner().invoke(command, ["--help"], terminal_width=120)
    assert result.exit_code == 0 and "--help" in result.output
    said = " ".join(result.output.split())
    if "@script(" in Path(module.__file__ or "").read_text(encoding="utf-8"):
        assert " ".join((module.__doc__ or "").partition("\n")[0].split()) in said
        assert re.search(r"The head of the script states the protocol\. Takes .+\. Needs .+\.", said)
    book = (ROOT / "evals" / "README.md").read_text(encoding="utf-8")
    assert f"python -m {name}" in book or (name == "evals.benchmarks.splatting_speed" and "`make bench`" in book)
