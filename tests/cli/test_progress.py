"""Progress on stderr for what takes longer than two seconds, on a terminal or not; results stay on stdout."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gmae_tools.cli import _progress, main
from gmae_tools.cli._progress import LateBar, busy, progress

COMMANDS = ("density", "edges", "export", "layers", "reconstruct", "segment", "view")


def test_quick_work_is_done_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), 3, "item")) == [0, 1, 2]
    with busy("thinking"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_bar_appears_during_the_first_long_item(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 0.05)
    items = progress(range(3), 3, "picture", "drawing")
    assert next(items) == 0
    time.sleep(0.4)
    assert "drawing:   0%" in (shown := capsys.readouterr().err) and "0/3 [00:0" in shown
    assert list(items) == [1, 2]
    shown = capsys.readouterr().err
    assert "3/3 [00:0" in shown and "picture" in shown and shown.endswith("\n")


def test_a_bar_counts_what_was_done_before_it_appeared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 0.3)
    bar = LateBar(9, "step")
    bar.update(4)
    assert capsys.readouterr().err == ""
    time.sleep(0.7)
    assert "4/9" in capsys.readouterr().err
    bar.close()


def test_what_cannot_be_counted_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 0.05)
    with busy("loading the model"):
        time.sleep(0.4)
    assert capsys.readouterr() == ("", "loading the model ...\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("count", [1, 2])
def test_every_command_shows_a_bar_over_its_pictures(
    command: str, count: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    for number in range(count):
        Image.fromarray(np.full((24, 30, 3), 90 + number, np.uint8)).save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in range(count)]
    arguments = [command, *pictures, "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert f"{count}/{count} [" in result.stderr and "picture" in result.stderr
    assert "picture/s" not in result.stdout


def test_a_terminal_shows_the_bar_too(tmp_path: Path) -> None:
    """Also one that has no size, as those of scripts."""
    code = (
        "import time\nfrom gmae_tools.cli import _progress\n_progress.PATIENCE = 0.05\n"
        "for _ in _progress.progress(range(4), 4, 'picture'):\n    time.sleep(0.1)\nprint('done')"
    )
    master, slave = pty.openpty()
    with open(tmp_path / "err", "wb") as file:
        for stderr in (slave, file):
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr, check=True)
            assert done.stdout == b"done\n"
    os.close(slave)
    assert b"4/4 [" in os.read(master, 1 << 16)
    os.close(master)
    assert b"4/4 [" in (tmp_path / "err").read_bytes()
