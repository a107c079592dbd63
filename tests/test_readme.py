"""What README and guides say can be typed: marked blocks are run, and no command or option in them is made up.

A block of commands that is quick and needs no network is run if the line before it is `<!-- tested -->`:

    <!-- tested -->
    ```bash
    gmae-tools layers gmae_tools/assets/demo.jpg --out demo-output
    ```
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gmae_tools.cli import main

MARK = "<!-- tested -->"
ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "checkpoints").glob("*/*.md"))]
DOCUMENTS += [*sorted((ROOT / "evals").glob("*.md")), ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(rf"^({re.escape(MARK)}\n+)?```(bash|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"^(?:.* -m gmae_tools|gmae-tools) (?=[a-z])")  # launched by torchrun, say, or itself
INPUTS = ("checkpoints", "evals", "gmae_tools")  # what commands in the documents may refer to

pytestmark = pytest.mark.skipif(not DOCUMENTS[0].exists(), reason="needs README.md, which an installed package lacks")


def blocks(document: Path) -> list[tuple[bool, str, str]]:
    """(marked, language, text) of a document's code."""
    text = document.read_text(encoding="utf-8") if document.exists() else ""
    return [(bool(mark), language, code) for mark, language, code in BLOCK.findall(text)]


def gmae_commands() -> list[str]:
    """What follows `gmae-tools` in shell blocks, continued lines joined, comments gone."""
    shell = [code for document in DOCUMENTS for _, language, code in blocks(document) if language != "python"]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [CALL.sub("", " ".join(shlex.split(line, comments=True))) for line in lines if CALL.match(line)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_mark_is_of_a_block_and_all_python_is_marked(document: Path) -> None:
    found = blocks(document)
    assert document.read_text(encoding="utf-8").count(MARK) == sum(marked for marked, _, _ in found)
    assert all(marked for marked, language, _ in found if language == "python")


def test_the_guides_have_marked_blocks() -> None:
    guides = [document.name for document in DOCUMENTS if any(marked for marked, _, _ in blocks(document))]
    assert {"README.md", "pretraining.md", "using-the-encoder.md"} <= set(guides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "code"),
    [(language, code) for document in DOCUMENTS for marked, language, code in blocks(document) if marked],
)
def test_marked_blocks_run(language: str, code: str, tmp_path: Path) -> None:
    """In a folder of their own, so that nothing is left in the checkout."""
    for name in INPUTS:
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    interpreter = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*interpreter, code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", gmae_commands())
def test_commands_and_options_exist(line: str) -> None:
    command: click.Command | None = main
    arguments = line.split()
    while isinstance(command, click.Group):  # `gmae-tools score edges ...`
        name, *arguments = arguments
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"no such command: {line}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    used = {argument.split("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z]", argument)}
    assert used <= known
