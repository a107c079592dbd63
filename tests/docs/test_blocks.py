"""What README and site say can be typed: blocks of code are run, and no command or option in them is made up.

The line before a block of the README or of `docs/` says what is done with it:

    <!-- tested -->                run, in a folder from which `INPUTS` are found
    <!-- tested on toy data -->    the same, with three drawn photographs as BSDS500 and as a data set with masks
    <!-- picture: ... -->          run by `evals.benchmarks.readme_pictures`, which has its own test
    <!-- not run: WHY -->          needs downloads, data, a GPU or hours; commands, options and names are checked

Other documents may leave the line out, which means that a block is not run.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest

import gmae_tools
from gmae_tools.cli import main
from gmae_tools.images import read_image
from tests.evals.toy_data import add_example

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [
    *sorted((ROOT / "checkpoints").glob("*/*.md")),
    *sorted((ROOT / "evals").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
]
DOCUMENTS = [*PAGES, *OTHERS]
MARK = re.compile(r"<!-- (tested|tested on toy data|picture: .+|not run: .+) -->")
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL, CODE = {"bash", "sh"}, {"bash", "sh", "python"}
CALL = re.compile(r"^(?:.* -m gmae_tools|gmae-tools) (?=[a-z])")  # launched by torchrun, say, or itself
SCRIPT = re.compile(r"^(?:.* )?python -m (evals\.\S+)(.*)")
INPUTS = ("checkpoints", "docs", "evals", "gmae_tools")  # what commands in the documents may refer to

pytestmark = pytest.mark.skipif(not PAGES[0].exists(), reason="needs README.md, which an installed package lacks")


class Block(NamedTuple):
    """A block of code: where it stands, what is done with it, its language, its text."""

    document: Path
    mark: str
    language: str
    code: str

    @property
    def name(self) -> str:
        first = self.code.splitlines()[0][:50]
        return f"{self.document.relative_to(ROOT)}: {first}"

    @property
    def lines(self) -> list[str]:
        """Lines of a shell block, continued ones joined, comments gone."""
        return [shlex.join(shlex.split(line, comments=True)) for line in self.code.replace("\\\n", " ").splitlines()]


def blocks(documents: list[Path]) -> list[Block]:
    """The blocks of code in documents."""
    texts = {document: document.read_text(encoding="utf-8") for document in documents if document.exists()}
    return [
        Block(document, found["mark"] or "", found["language"], found["code"])
        for document, text in texts.items()
        for found in BLOCK.finditer(text)
        if found["language"] in CODE
    ]


RUN = [block for block in blocks(DOCUMENTS) if block.mark.startswith("tested")]
SHELL_LINES = [line for block in blocks(DOCUMENTS) if block.language in SHELL for line in block.lines]


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_says_what_is_done_with_it(document: Path) -> None:
    found = blocks([document])
    assert [block.name for block in found if not MARK.fullmatch(f"<!-- {block.mark} -->")] == []
    marks = MARK.findall(document.read_text(encoding="utf-8"))
    assert len(marks) == len(found), "a mark stands directly before its block"


@pytest.mark.parametrize("document", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_marks_in_other_documents_are_of_a_block_and_all_python_is_run(document: Path) -> None:
    found = blocks([document])
    assert len(MARK.findall(document.read_text(encoding="utf-8"))) == sum(bool(block.mark) for block in found)
    assert all(block.mark for block in found if block.language == "python")


def test_most_pages_run_something() -> None:
    tested = {block.document.name for block in RUN}
    guides = {"start", "layers", "edges", "figure-and-ground", "gaussians", "pretraining", "using-the-encoder"}
    assert {"README.md", "conventions.md", *(f"{name}.md" for name in guides)} <= tested


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_marked_blocks_run(block: Block, tmp_path: Path) -> None:
    """In a folder of their own, so that nothing is left in the checkout."""
    for name in INPUTS:
        (tmp_path / name).symlink_to(ROOT / name)
    if block.mark == "tested on toy data":
        add_toy_data(tmp_path / "data")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    interpreter = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*interpreter, block.code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def add_toy_data(root: Path) -> None:
    """Three cuts of the bundled photograph, with a square for their only contour and figure."""
    photo = read_image(ROOT / "gmae_tools" / "assets" / "demo.jpg")[:96, :144]
    inside = np.zeros(photo.shape[:2], bool)
    inside[30:70, 40:100] = True
    lines = inside ^ np.pad(inside, 1)[2:, 1:-1]
    for number in (1, 2, 3):
        add_example(root, f"000{number}", np.roll(photo, 8 * number, 1), lines, inside)


@pytest.mark.parametrize("line", [CALL.sub("", line) for line in SHELL_LINES if CALL.match(line)])
def test_commands_and_options_exist(line: str) -> None:
    command: click.Command | None = main
    arguments = shlex.split(line)
    while isinstance(command, click.Group):  # `gmae-tools score edges ...`
        if arguments[0] in ("--version", "--help"):
            return
        name, *arguments = arguments
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"no such command: {line}"
    assert used_options(arguments) <= options_of(command)


@pytest.mark.parametrize("line", sorted({line for line in SHELL_LINES if SCRIPT.match(line)}))
def test_scripts_and_their_options_exist(line: str) -> None:
    found = SCRIPT.match(line)
    assert found is not None
    module = import_module(found[1])
    assert used_options(shlex.split(found[2])) <= options_of(module.main)


@pytest.mark.parametrize("line", sorted({line for line in SHELL_LINES if line.startswith("make ")}))
def test_targets_exist(line: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in shlex.split(line)[1:] if word.islower()} <= set(targets)


@pytest.mark.parametrize(
    "block", [block for block in blocks(PAGES) if block.language == "python"], ids=lambda block: block.name
)
def test_python_is_python_and_the_front_door_has_its_names(block: Block) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(block.code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gt"
    }
    assert used <= set(gmae_tools.__all__)


def used_options(arguments: list[str]) -> set[str]:
    return {argument.split("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z]", argument)}


def options_of(command: click.Command) -> set[str]:
    known = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    return {*known, "--help", "-h"}
