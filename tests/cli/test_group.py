"""The group: finding commands, errors and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import gmae_tools
from gmae_tools import cli
from gmae_tools.cli import layers
from gmae_tools.images import MAX_PIXELS

# A command that fails in the way it is told to.
FAIL_SOME_HOW = """
import click
from gmae_tools.errors import GmaeToolsError

FAILURES = {
    "user": GmaeToolsError("no picture in 'x'\\nname a folder with pictures"),
    "disk": PermissionError(13, "Permission denied", "out"),
    "key": KeyboardInterrupt(),
    "disguised": SystemError("compiled code returned a result with an exception set"),
    "system": SystemError("ours, too"),
    "bug": ZeroDivisionError("ours"),
}

FAILURES["disguised"].__cause__ = KeyboardInterrupt()

@click.command()
@click.argument("how")
def command(how):
    '''Fail.'''
    raise FAILURES[how]
"""


@pytest.fixture
def fail_some_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the command `fail-some-how`, and a helper module that is none, to the group."""
    (tmp_path / "fail_some_how.py").write_text(FAIL_SOME_HOW)
    (tmp_path / "_helper.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "gmae_tools.cli.fail_some_how", raising=False)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def test_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"gmae-tools, version {gmae_tools.__version__}")


@pytest.mark.usefixtures("fail_some_how")
def test_help_lists_the_modules_as_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "fail-some-how" in result.stdout
    assert "helper" not in result.stdout


@pytest.mark.usefixtures("fail_some_how")
@pytest.mark.parametrize(
    ("how", "exit_code", "stderr"),
    [
        ("user", 1, "error: no picture in 'x' name a folder with pictures\n"),
        ("disk", 1, "error: [Errno 13] Permission denied: 'out'\n"),
        ("key", 130, "error: interrupted\n"),
        ("disguised", 130, "error: interrupted\n"),
    ],
)
def test_failures_end_in_one_line(how: str, exit_code: int, stderr: str) -> None:
    result = invoke("fail-some-how", how)
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, stderr, "")


# Ctrl-C in a callback of compiled code, where Python can but print what was raised.
LOST = """
import ctypes, os, signal, time
import click

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

@click.command()
def command():
    callback()
    time.sleep(20)
    print("went on")
"""


def test_ctrl_c_in_a_callback_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lose_it.py").write_text(LOST)
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    hook = sys.unraisablehook
    result = invoke("lose-it")
    assert (result.exit_code, result.stderr, result.stdout) == (130, "error: interrupted\n", "")
    assert sys.unraisablehook is hook


@pytest.mark.usefixtures("fail_some_how")
def test_a_bug_of_ours_keeps_its_traceback() -> None:
    assert isinstance(invoke("fail-some-how", "bug").exception, ZeroDivisionError)
    assert isinstance(invoke("fail-some-how", "system").exception, SystemError)


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"], ["_helper"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = """if True:
        import sys
        from gmae_tools.cli import main
        for name in main.list_commands(None):
            main([name, "--help"], standalone_mode=False)
        print(sorted({"torch", "numba", "matplotlib", "scipy", "pandas"} & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_names_of_files_do_nothing_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J\n\x07.jpg").write_text("no picture")
    result = CliRunner().invoke(cli.main, ["edges", str(tmp_path), "--readout", "sobel", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}/?[2J ?.jpg: not a picture in a known format\n"


@pytest.mark.parametrize("command", ["density", "edges", "export", "layers", "reconstruct", "segment", "view"])
@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"two\nlines $x^$.jpg"])
def test_names_of_files_may_be_of_any_bytes(command: str, name: bytes, checkpoint: Path, tmp_path: Path) -> None:
    photo = tmp_path / os.fsdecode(name)
    try:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photo)
    except OSError:
        pytest.skip("needs a file system that takes such names")
    arguments = [command, str(photo), "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    for table in (tmp_path / "out").rglob("*.csv"):
        table.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["density", "edges", "export", "layers", "reconstruct", "segment", "view"])
def test_large_pictures_are_refused_unless_allowed(command: str, checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "x.png")

    def run(limit: int) -> Result:
        paths = [str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
        return CliRunner().invoke(cli.main, [command, *paths, "--max-pixels", str(limit)])

    refused = run(599)
    limit = "30 x 20 is more than 599 pixels; downscale it first, or raise --max-pixels"
    assert (refused.exit_code, refused.stderr) == (1, f"error: {tmp_path / 'x.png'}: {limit}\n")
    assert run(600).exit_code == 0


def test_the_limit_on_the_command_line_is_that_of_the_reader() -> None:
    option = next(option for option in layers.command.params if option.name == "max_pixels")
    assert option.default == MAX_PIXELS
