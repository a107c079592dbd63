"""The campaign of kills and hindrances, in small; and that it notices what it should."""

from __future__ import annotations

import dataclasses
import importlib
import random
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from gmae_tools.cli import main
from gmae_tools.system import files
from gmae_tools.system.files import sole_run

KILLED = ["pretrain", "edges --dataset", "segment --dataset", "report"]
EVERYTHING = [
    *KILLED, "layers", "layers --refine", "probe", "invariance", "datasets pack", "edges", "segment", "reconstruct",
    "export", "density", "view", "score edges", "score masks",
]  # fmt: skip


@pytest.fixture(scope="module")
def crashes() -> ModuleType:
    return importlib.import_module("tests.reliability.crashes")


@pytest.fixture(scope="module")
def commands(crashes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All commands, on a few photographs."""
    data = tmp_path_factory.mktemp("crashes") / "data"
    crashes.make_data(data, 6)
    found: dict[str, Any] = crashes.commands(data, steps=10)
    assert list(found) == EVERYTHING
    return found


@pytest.fixture(scope="module")
def wholes(crashes: ModuleType, commands: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs by name, when they are asked for."""

    class Wholes(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            self[name] = crashes.run_whole(commands[name], tmp_path_factory.mktemp("whole"), times=1)
            return self[name]

    return Wholes()


@pytest.mark.parametrize("name", ["edges --dataset", "segment --dataset"])  # the others: test_cli_pretrain, _report
def test_a_killed_run_goes_on_to_the_same_results(crashes: ModuleType, wholes: Any, name: str, tmp_path: Path) -> None:
    tried = crashes.kill(wholes[name], tmp_path, [0.6], crashes.TimeBox(100))
    assert tried.times == 1 and not tried.failures


def test_ctrl_c_says_how_to_go_on(crashes: ModuleType, wholes: Any, tmp_path: Path) -> None:
    tried = crashes.interrupt(wholes["segment --dataset"], tmp_path, [0.4], crashes.TimeBox(100))
    assert tried.times == 1 and not tried.failures


def test_ctrl_c_in_a_download(crashes: ModuleType, tmp_path: Path) -> None:
    assert crashes.interrupt_download(tmp_path) == ""


def test_a_second_run_leaves_the_first_alone(crashes: ModuleType, wholes: Any, tmp_path: Path) -> None:
    assert crashes.double(wholes["edges --dataset"], tmp_path) == ""


def test_a_folder_that_vanishes(crashes: ModuleType, wholes: Any, tmp_path: Path) -> None:
    tried = crashes.vanish(wholes["edges --dataset"], tmp_path, [0.5], crashes.TimeBox(100))
    assert tried.times == 1 and not tried.failures


def test_files_that_are_too_large_for_the_disk(crashes: ModuleType, wholes: Any, tmp_path: Path) -> None:
    tried = crashes.fill_files(wholes["pretrain"], tmp_path, 2, crashes.TimeBox(100))
    assert tried.times == 2 and not tried.failures


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_command_refuses_a_folder_that_it_cannot_have(
    commands: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "_TURNOVER", 0.0)
    (tmp_path / "out").write_text("mine")
    refused = CliRunner().invoke(main, commands[name].arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "error: --out out: cannot write there (File exists); choose another folder\n"
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    with sole_run(tmp_path / "out"):
        refused = CliRunner().invoke(main, commands[name].arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: out: another run is writing there") and refused.stderr.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


# --- the campaign notices ----------------------------------------------------------------------------


def test_other_results_are_noticed(crashes: ModuleType, wholes: Any, tmp_path: Path) -> None:
    whole = wholes["report"]
    other = dict(whole.results) | {"tables/first.csv": b"other", "more": b""}
    del other["report.json"]
    tried = crashes.kill(dataclasses.replace(whole, results=other), tmp_path, [0.3], crashes.TimeBox(100))
    (failure,) = tried.failures
    assert failure.endswith("s: lacks more; has also report.json; has another tables/first.csv")


def test_a_run_that_lets_others_in_is_noticed(
    crashes: ModuleType, wholes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "is_locked", lambda folder: True)  # and so it is stopped before it is in there
    assert crashes.double(wholes["report"], tmp_path).startswith("ends with 0, not 1")


def test_moments_are_spread(crashes: ModuleType) -> None:
    moments = crashes.spread(20, random.Random(0))
    assert sorted(int(20 * moment) for moment in moments) == list(range(20)) and moments != sorted(moments)


def test_read_only_folders_are_read_only(crashes: ModuleType, tmp_path: Path) -> None:
    if not crashes.can_be_read_only(tmp_path / "trial"):
        pytest.skip("needs a user for whom a folder can be made read-only")
    (tmp_path / "folder").mkdir()
    with crashes.read_only(tmp_path / "folder"), pytest.raises(PermissionError):
        (tmp_path / "folder" / "file").touch()
    shutil.rmtree(tmp_path / "folder")
