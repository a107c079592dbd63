"""The scripts about refinement run, go on where they stopped, and compute what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from evals.benchmarks import refinement
from evals.studies import refined_readouts, refinement_rates
from gmae_tools.camera import Camera
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from tests.evals.toy_data import add_example

SIZE = (40, 56)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two photographs of a light square, with its outline and its area as ground truth."""
    for name, left in (("0001", 20), ("0003", 30)):
        inside = np.zeros(SIZE, bool)
        inside[10:30, left : left + 16] = True
        picture = np.where(inside[..., None], [220, 210, 90], [30, 60, 90]).astype(np.uint8)
        add_example(tmp_path / "data", name, picture, inside & ~np.roll(inside, 1, 1), inside)
    return tmp_path / "data"


@pytest.mark.slow
def test_compares_the_starts_and_goes_on(
    root: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "SPEED_SIZE", SIZE)
    monkeypatch.setattr(refinement, "SPEED_STEPS", 2)
    monkeypatch.setattr(refinement, "SPEED_K", 70)
    monkeypatch.setattr(refinement, "SHEET_STEPS", (0, 2))
    arguments = ["--root", root, "--photos", "2", "--ks", "32,80", "--steps", "2,4", "--no-peers", "--jobs", "1"]
    arguments += ["--checkpoint", pieces, "--out", tmp_path / "runs", "--results", tmp_path / "results"]
    pages = []
    for _ in range(2):
        result = CliRunner().invoke(refinement.main, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0
        pages.append((tmp_path / "results" / "refinement.md").read_text().partition("## Speed")[0])
    assert pages[0] == pages[1]  # with the seconds of the first time
    table = pd.read_csv(tmp_path / "results" / "refinement.csv")
    assert list(table.columns) == list(refinement.COLUMNS)
    starts = table.groupby("k")["start"].unique().map(list).to_dict()
    assert starts == {32: ["gmae", "grid", "grid+depth"], 80: ["gmae", "grid", "grid+depth", "grid, split"]}
    assert table.set_index(["start", "k"])["psnr"].groupby(level=(0, 1)).is_monotonic_increasing.all()
    assert table.loc[table["start"] == "gmae", "depth_kept"].between(-1, 1).all()
    for name in ("refinement.png", "refinement-pictures.png"):
        assert (tmp_path / "results" / name).stat().st_size > 5_000


def test_counts_the_steps_to_the_same_psnr() -> None:
    psnrs = {"gmae": {0: 20, 10: 24, 20: 25}, "grid": {0: 10, 10: 22, 20: 24.5, 40: 26}}
    rows = [
        {"start": start, "k": 8, "steps": steps, "psnr": psnr}
        for start, curve in psnrs.items()
        for steps, psnr in curve.items()
    ]
    assert refinement.steps_saved(rows, 8, "grid") == ["10: 5 (50%)", "20: 15 (75%)", "40: more than 20"]


def test_the_heaviest_gaussians_are_those_that_are_seen() -> None:
    places = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.5], [0.7, 0.7, 0.9]]])  # the second lies behind the first
    scales, quats = torch.tensor([[[3.0], [1.0], [1.0]]]).repeat(1, 1, 3), torch.tensor([1.0, 0, 0, 0]).repeat(1, 3, 1)
    hiding = Gaussians(places, scales, quats, torch.rand(1, 3, 3), torch.tensor([[1.0, 0.6, 0.9]]))
    kept = refinement.heaviest(Scene(hiding, Camera(), 32, 32), 2)
    assert kept.means[0, :, 0].tolist() == pytest.approx([0.0, 0.7])


def test_the_grid_takes_colours_and_depths_from_the_photograph() -> None:
    image = torch.rand(1, 3, 16, 16)
    depth = torch.arange(256.0).view(16, 16)
    found = refinement.grid(image, 256, depth)
    assert found.colors[0].T.reshape(3, 16, 16).equal(image[0])
    assert found.means[0, :, 2].equal(depth.flatten())


@pytest.mark.slow
def test_readouts_after_several_steps(root: Path, pieces: Path, tmp_path: Path) -> None:
    arguments = ["--root", root, "--ecssd", root / "ecssd-dev", "--steps", "0,2", "--jobs", "1"]
    arguments += ["--checkpoint", pieces, "--out", tmp_path / "runs", "--results", tmp_path / "results"]
    assert CliRunner().invoke(refined_readouts.main, list(map(str, arguments)), catch_exceptions=False).exit_code == 0
    for name, columns in (("edges", refined_readouts.EDGE_COLUMNS), ("figure", refined_readouts.FIGURE_COLUMNS)):
        table = pd.read_csv(tmp_path / "results" / f"refined_{name}.csv")
        assert list(table.columns) == list(columns)
        assert (table.loc[table["steps"] == 0, ["difference", "deviation"]] == 0).all(axis=None)
        assert (table.loc[table["steps"] == 2, "difference"] != 0).any()


@pytest.mark.slow
def test_studies_one_choice_at_a_time(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement_rates, "SIZE", SIZE)
    monkeypatch.setattr(refinement_rates, "STEPS", (1, 2))
    arguments = ["--root", root, "--every", "2", "--checkpoint", checkpoint, "--results", tmp_path]
    assert CliRunner().invoke(refinement_rates.main, list(map(str, arguments)), catch_exceptions=False).exit_code == 0
    table = pd.read_csv(tmp_path / "refinement_rates.csv")
    assert list(table.columns) == list(refinement_rates.COLUMNS)
    assert not table.duplicated(["choice", "value", "steps"]).any()
    assert {"means", "depth", "ssim_weight", "defaults"} <= set(table["choice"])
    last = table[table["steps"] == 2]
    assert last["psnr"].nunique() > 20
