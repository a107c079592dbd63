"""What the README says can be typed: marked blocks are run, and no command or option in it is made up.

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
README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(rf"^({re.escape(MARK)}\n+)?```(bash|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INPUTS = ("checkpoints", "evals", "gmae_tools")  # what commands in the README may refer to

pytestmark = pytest.mark.skipif(not README.exists(), reason="needs README.md, which an installed package lacks")


def blocks() -> list[tuple[bool, str, str]]:
    """(marked, language, text) of the README's code."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    return [(bool(mark), language, code) for mark, language, code in BLOCK.findall(text)]


def gmae_commands() -> list[str]:
    """Lines of shell blocks that call gmae-tools, continued lines joined, comments gone."""
    code = "\n".join(code for _, language, code in blocks() if language != "python").replace("\\\n", " ")
    return [
        " ".join(shlex.split(line, comments=True)) for line in code.splitlines() if re.match("gmae-tools [a-z]", line)
    ]


def test_the_readme_has_marked_blocks() -> None:
    assert any(marked for marked, _, _ in blocks())
    assert README.read_text(encoding="utf-8").count(MARK) == sum(marked for marked, _, _ in blocks())


@pytest.mark.parametrize(("language", "code"), [(language, code) for marked, language, code in blocks() if marked])
def test_marked_blocks_run(language: str, code: str, tmp_path: Path) -> None:
    """In a folder of their own, so that nothing is left in the checkout."""
    for name in INPUTS:
        (tmp_path / name).symlink_to(README.parent / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    interpreter = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(README.parent)}
    done = subprocess.run([*interpreter, code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", gmae_commands())
def test_commands_and_options_exist(line: str) -> None:
    command: click.Command | None = main
    arguments = line.split()[1:]
    while isinstance(command, click.Group):  # `gmae-tools score edges ...`
        name, *arguments = arguments
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"no such command: {line}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    used = {argument.split("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z]", argument)}
    assert used <= known
