"""The benchmarks of layers run and write what they say; figures are for machines at rest and trained models."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from evals.benchmarks import layers_speed
from evals.studies import input_shape
from gmae_tools import checkpoints
from gmae_tools.model import GMAE, GMAEConfig


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    torch.manual_seed(0)
    checkpoints.save(GMAE(GMAEConfig.preset("nano")), tmp_path / "nano")
    return str(tmp_path / "nano")


def run_eval(script: ModuleType, *arguments: str) -> list[dict[str, str]]:
    """Rows of the table that the script writes into its `--out`, the last argument."""
    result = CliRunner().invoke(script.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    with open(arguments[-1], newline="") as file:
        return list(csv.DictReader(file))


def test_layers_speed(tmp_path: Path, checkpoint: str) -> None:
    out = str(tmp_path / "results" / "speed.csv")
    rows = run_eval(layers_speed, "--checkpoint", checkpoint, "--rounds", "1", "--out", out)
    assert [row["part"] for row in rows] == ["forward", "layers", "metrics", "files"]
    assert float(rows[0]["ratio"]) == 1
    assert all(float(row["milliseconds"]) > 0 for row in rows)


def test_input_shape(tmp_path: Path, checkpoint: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    out = str(tmp_path / "results" / "shape.csv")
    rows = run_eval(input_shape, str(tmp_path / "noise.png"), "--checkpoint", checkpoint, "--out", out)
    assert [row["input"] for row in rows] == ["square", "own shape"]
    assert all(3 < float(row["psnr"]) < 15 for row in rows)


def test_grids_keep_aspect_ratio_and_number_of_patches() -> None:
    config = GMAEConfig(image_size=224)
    assert input_shape.nearest_grid(config, 500, 500) == (224, 224)
    assert input_shape.nearest_grid(config, 321, 481) == (176, 272)
    assert input_shape.nearest_grid(config, 1, 10000) == (16, 22400)
