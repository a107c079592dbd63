"""`--refine` on the commands that look at photographs, with a small model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from gmae_tools.cli import main
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:37, :60]
    rgb = np.stack([x / 60, y / 37, (np.sin(x / 5) + 1) / 2], -1)
    Image.fromarray((rgb * 255).astype(np.uint8)).save(tmp_path / "waves.png")
    return tmp_path / "waves.png"


def run(command: str, checkpoint: Path, *arguments: str | Path) -> Result:
    words = [command, "--checkpoint", str(checkpoint), *map(str, arguments)]
    return CliRunner().invoke(main, words, catch_exceptions=False)


def test_layers_are_sharper_and_in_the_same_order(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    rows, depths = [], []
    for steps in ("0", "5"):
        out = tmp_path / steps
        result = run("layers", checkpoint, photo, "-o", out, "--k", "8,all", "--refine", steps, "--format", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        rows.append(json.loads(result.stdout))
        depths.append(Gaussians.load(out / "waves" / "gaussians.npz").means[..., 2])
    before, after = rows
    assert list(after[0]) == ["image", "k", "psnr_before", "psnr", "ssim", "coverage"]
    assert [row["psnr_before"] for row in after] == pytest.approx([row["psnr"] for row in before], abs=1e-4)
    assert after[1]["psnr"] > after[1]["psnr_before"] + 1
    picture = np.asarray(Image.open(tmp_path / "5" / "waves" / "first_all.png"))
    assert after[1]["psnr"] == pytest.approx(peak_signal_noise_ratio(read_image(photo), picture), abs=1e-3)
    assert (depths[0] == depths[1]).all()


def test_figures_are_read_from_the_refined_gaussians(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    maps = []
    for steps in ("0", "5"):
        result = run("segment", checkpoint, photo, "--refine", steps, "-o", tmp_path / steps)
        assert (result.exit_code, result.stderr) == (0, "")
        maps.append(np.asarray(Image.open(tmp_path / steps / "waves" / "probability.png")))
    assert not np.array_equal(*maps)


def test_edges_are_read_from_the_refined_gaussians(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    maps = []
    for steps in ("0", "5"):
        out = tmp_path / steps
        arguments = ("--readout", "render-gradient", "--scales", "1", "--refine", steps, "-o", out)
        result = run("edges", checkpoint, photo, *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        maps.append(np.asarray(Image.open(out / "waves" / "render-gradient.png")))
    assert not np.array_equal(*maps)


@pytest.mark.parametrize("command", ["layers", "edges", "segment"])
def test_steps_are_counted_from_0(command: str, checkpoint: Path, photo: Path) -> None:
    result = run(command, checkpoint, photo, "--refine", "-1")
    assert result.exit_code == 2
    assert "--refine" in result.stderr
