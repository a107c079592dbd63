"""The script that measures large scenes, on a small one."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gmae_tools import formats


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest) -> dict[str, object]:
    return runpy.run_path(str(request.getfixturevalue("repository") / "evals" / "benchmarks" / "large_scenes.py"))


def test_the_scene_is_its_photograph(script: dict, tmp_path: Path) -> None:
    """Seen through the camera that its file says."""
    scene = script["make_scene"](96, 64, 96)
    formats.write(tmp_path / "some.ply", scene)
    back = formats.read(tmp_path / "some.ply")
    assert (back.k, back.height, back.width) == (2 * 96 * 96, 64, 96)
    photo = torch.tensor(scene.photo).movedim(-1, 0) / 255
    assert (back.render()[0] - photo).abs().mean() < 0.05


def test_every_step_runs(script: dict, tmp_path: Path) -> None:
    scene = script["make_scene"](16, 48, 72)
    for name, step in script["STEPS"].items():
        if name == "layers":  # asks for more of the nearest than there are
            continue
        step(scene, tmp_path)
    assert (tmp_path / "centres.png").exists()


def test_the_command_measures(script: dict, tmp_path: Path) -> None:
    """Here in one process, which spares the imports."""
    command = script["main"]
    command.callback.__globals__["_alone"] = lambda function, *arguments: function(*arguments)
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(command, ["--side", "20", "--step", "re", "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = list(csv.DictReader(out.open()))
    assert [(row["step"], row["gaussians"]) for row in rows] == [("read", "800"), ("render", "800")]
    assert all(float(row["seconds"]) > 0 and 0.1 < float(row["gigabytes"]) < 5 for row in rows)
