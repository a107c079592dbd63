"""The script that measures large scenes, on a small one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from evals.benchmarks import large_scenes
from gmae_tools import formats


def test_the_scene_is_its_photograph(tmp_path: Path) -> None:
    """Seen through the camera that its file says."""
    scene = large_scenes.make_scene(96, 64, 96)
    formats.write(tmp_path / "some.ply", scene)
    back = formats.read(tmp_path / "some.ply")
    assert (back.k, back.height, back.width) == (2 * 96 * 96, 64, 96)
    photo = torch.tensor(scene.photo).movedim(-1, 0) / 255
    assert (back.render()[0] - photo).abs().mean() < 0.05


@pytest.mark.slow
def test_every_step_runs(tmp_path: Path) -> None:
    scene = large_scenes.make_scene(16, 48, 72)
    for name, step in large_scenes.STEPS.items():
        if name != large_scenes.MITSUBA or large_scenes.has_mitsuba():
            step(scene, tmp_path)
    assert {"layers", "centres.png", "view.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_command_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps run in one process, which saves the imports."""
    monkeypatch.setattr(large_scenes, "_alone", lambda function, *arguments: function(*arguments))
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(
        large_scenes.main, ["--side", "20", "--step", "re", "-o", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    rows = list(csv.DictReader(out.open()))
    assert [(row["step"], row["gaussians"]) for row in rows] == [("read", "800"), ("render", "800")]
    assert all(float(row["seconds"]) > 0 and 0.1 < float(row["gigabytes"]) < 5 for row in rows)
