"""The command that measures the embedded checkpoint anew: what it plans and writes, and what it does not repeat."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from evals import regenerate
from gmae_tools.suite.config import read_config

LIMIT = 25  # minutes without the benchmark of refinement


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders into which pictures would be drawn; a single small part is run."""
    folders: list[Path] = []
    monkeypatch.setattr(regenerate, "STEPS", (regenerate.Step("layers-speed", 3.0, "--rounds 1"),))
    monkeypatch.setattr(regenerate, "draw_pictures", lambda _checkpoint, images: folders.append(images) is None)
    return folders


def run(tmp_path: Path, checkpoint: Path, *options: str) -> Result:
    folders = ["--out", tmp_path / "out", "--results", tmp_path / "results", "--images", tmp_path / "images"]
    arguments = ["--checkpoint", checkpoint, *folders, *options]
    return CliRunner().invoke(regenerate.main, list(map(str, arguments)))


def test_every_step_is_a_part_of_the_report_and_its_arguments_exist() -> None:
    steps = regenerate.chosen_steps((), refinement=True)
    assert [step.name for step in steps][-1] == "refinement" and len(steps) == len(regenerate.STEPS) + 1
    whole = read_config(Path(regenerate.__file__).with_name("report.toml"))
    plain = {part.name: part for part in whole.parts}
    for part in regenerate.config_of(steps).parts:
        assert part.files == plain[part.name].files
        added = part.words(quick=False)[len(plain[part.name].words(quick=False)) :]
        text = part.script.read_text(encoding="utf-8")
        assert all(f'"{word}"' in text for word in added if word.startswith("--")), part.name
        assert not any("{" in word for word in added)


def test_the_plan_fits_and_runs_nothing(tmp_path: Path, checkpoint: Path) -> None:
    steps = regenerate.chosen_steps((), refinement=False)
    assert sum(step.minutes for step in steps) + regenerate.PICTURE_MINUTES < LIMIT
    for folder in ("bsds", "ecssd", "photos"):
        (tmp_path / folder).mkdir()
    places = [word for name in ("bsds", "ecssd", "photos") for word in (f"--{name}", str(tmp_path / name))]
    result = run(tmp_path, checkpoint, *places, "--dry-run")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()[2:]]
    assert [line[:2] for line in lines] == [[step.name, "pending"] for step in steps] + [["pictures", "pending"]]
    assert float(lines[-1][3]) == sum(float(line[2]) for line in lines)
    assert not (tmp_path / "results").exists() and not list((tmp_path / "out").iterdir())


def test_names_and_folders_that_cannot_be_meant(tmp_path: Path, checkpoint: Path) -> None:
    assert "there is no part edges; there are bsds500," in run(tmp_path, checkpoint, "--only", "edges").output
    result = CliRunner().invoke(regenerate.main, ["--quick"])
    assert result.exit_code == click.UsageError.exit_code and "not for evals/results" in result.output


def test_missing_data_are_named_and_everything_else_is_done(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regenerate, "draw_pictures", lambda *_: True)
    result = run(tmp_path, checkpoint, "--only", "reconstruction", "--only", "pictures")
    assert result.exit_code == 1 and "reconstruction: needs photographs: pass" in result.output


@pytest.mark.slow
def test_finished_parts_are_copied_and_not_run_again(tmp_path: Path, checkpoint: Path, drawn: list[Path]) -> None:
    assert run(tmp_path, checkpoint).exit_code == 0
    table = tmp_path / "results" / "layers_speed.csv"
    first = table.read_text()
    assert list(pd.read_csv(table)["part"]) == ["forward", "layers", "metrics", "files"]
    table.write_text("lost")
    result = run(tmp_path, checkpoint)
    assert result.exit_code == 0 and table.read_text() == first, "times would differ"
    assert "done" in result.output and drawn == [tmp_path / "images"] * 2
    assert run(tmp_path, checkpoint, "--only", "layers-speed").exit_code == 0 and len(drawn) == 2
