"""The campaign's frame: shares of the time box, parts that fail or break, what is written."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """The script, with parts of our own: one that works, one that finds a failure, one that breaks, a silent one."""
    module = importlib.import_module("tests.reliability.__main__")
    outcome = importlib.import_module("tests.reliability.outcome")

    def works(box: object, seed: int, data: Path | None) -> Iterator[object]:
        yield outcome.Outcome("checkpoints", f"seed {seed}, data {data and data.name}", 7, (), "peak 3 MB")

    def fails(box: object, seed: int, data: Path | None) -> Iterator[object]:
        yield outcome.Outcome("renderer", "files", 3, ("file 2: crash", "file 3: <hang>"))

    def breaks(box: object, seed: int, data: Path | None) -> Iterator[object]:
        yield outcome.Outcome("pictures", "a first thing", 1, ())
        raise ZeroDivisionError("ours")

    def silent(box: object, seed: int, data: Path | None) -> Iterator[object]:
        yield from ()

    parts = {"checkpoints": works, "pictures": breaks, "renderer": fails, "downloads": silent}
    with pytest.MonkeyPatch.context() as patch:
        for name, campaign in parts.items():
            fake = ModuleType(f"tests.reliability.{name}", f"Asks much of {name}.")
            fake.campaign = campaign  # type: ignore[attr-defined]
            patch.setitem(sys.modules, fake.__name__, fake)
        patch.setattr(module, "PARTS", {"checkpoints": 1, "pictures": 2, "renderer": 1, "downloads": 4})
        yield module


def run(script: ModuleType, *arguments: object) -> Result:
    return CliRunner().invoke(script.main, list(map(str, arguments)))


def test_one_failure_is_the_exit_code_and_all_is_written(script: ModuleType, tmp_path: Path) -> None:
    result = run(script, "--seed", 5, "--data-root", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    page = (tmp_path / "out" / "reliability.md").read_text()
    assert result.stdout == page + "\n"
    assert f"seed 5, data {tmp_path.name}" in page and "Asks much of checkpoints." in page
    assert "- renderer, files: file 2: crash" in page and "ZeroDivisionError: ours" in page
    rows = list(csv.DictReader((tmp_path / "out" / "reliability.csv").open()))
    assert [(row["part"], row["times"], row["failures"]) for row in rows] == [
        ("checkpoints", "7", "0"), ("pictures", "1", "0"), ("pictures", "0", "1"), ("renderer", "3", "2"),
        ("downloads", "0", "1"),
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["reliability.csv", "reliability.md"]


def test_parts_alone_are_not_recorded(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    result = run(script, "--part", "checkpoints")
    assert result.exit_code == 0 and "Nothing failed." in result.stdout and "pictures" not in result.stdout
    assert "checkpoints: seed 0, data None, 7 times: ok (peak 3 MB)\n" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--part", "nothing"], ["--minutes", 0], ["--data-root", "no-such-folder"]])
def test_wrong_usage_exits_with_2(script: ModuleType, arguments: list[object]) -> None:
    assert run(script, *arguments).exit_code == 2


def test_parts_share_what_is_left(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = importlib.import_module("tests.reliability.outcome")
    now = [100.0]
    monkeypatch.setattr(outcome.time, "monotonic", lambda: now[0])
    given = {}
    for name in script.PARTS:

        def campaign(box: object, seed: int, data: Path | None, name: str = name) -> Iterator[object]:
            given[name] = box.left()  # type: ignore[attr-defined]
            now[0] += 10
            yield outcome.Outcome(name, "nothing", 0, ())

        monkeypatch.setattr(sys.modules[f"tests.reliability.{name}"], "campaign", campaign)
    list(script.run_parts(list(script.PARTS), outcome.TimeBox(160), 0, None))
    assert given == pytest.approx({"checkpoints": 20, "pictures": 300 / 7, "renderer": 28, "downloads": 130})
    box = outcome.TimeBox(1)
    assert not box.over()
    now[0] += 2
    assert box.over() and box.left() == 0 and box.share(0.5).over()
