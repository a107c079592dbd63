"""The comparison of GMAE and MAE runs from photographs to its report, goes on where it stopped, and counts right."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from click.testing import CliRunner, Result
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from evals import encoders
from evals.benchmarks import gmae_vs_mae
from gmae_tools.encoder.probe import LinearConfig
from gmae_tools.mae import MAE, MAEConfig


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Details of two photographs, named by them."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("chelsea", "coffee"):
        photo = Image.open(Path(skimage.data_dir) / f"{name}.png").convert("RGB")
        for i in range(40):
            left, top = rng.integers(0, (photo.width - 100, photo.height - 100)).tolist()
            photo.crop((left, top, left + 100, top + 100)).resize((40, 40)).save(folder / f"{name}-{i:05}.png")
    return folder


def run(photographs: Path, folder: Path, *arguments: str) -> Result:
    common = ["--preset", "nano", "--samples", "96", "--batch-size", "16", "--held-out", "6",
              "--limit", "80", "--photographs", "16", "--neighbours", "3,5", "--rounds", "1",
              "--device", "cpu"]  # fmt: skip
    places = ["--data", str(photographs), "--runs", str(folder / "run"), "--out", str(folder / "out")]
    return CliRunner().invoke(gmae_vs_mae.main, [*common, *places, *arguments], catch_exceptions=False)


def rows(folder: Path, part: str) -> list[dict[str, str]]:
    with (folder / "out" / f"gmae_vs_mae-{part}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_from_photographs_to_the_report(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the figures of invariance and most of the linear probe, which have tests of their own."""
    monkeypatch.setattr("gmae_tools.report.invariance.plot_invariance", lambda path, *_: path.touch())
    monkeypatch.setattr(
        "gmae_tools.encoder.probe.LinearConfig", partial(LinearConfig, rates=(0.1,), epochs=2, warmup=1)
    )
    names = ["gmae", "mae", "c-mae"]
    objectives = [option for name in names for option in ("--objective", name)]
    result = run(photographs, tmp_path, *objectives)
    assert result.exit_code == 0, result.output
    found = rows(tmp_path, "reconstruction")
    assert [row["model"] for row in found] == ["gmae", "mae", "mean colour"]  # C-MAE draws nothing
    assert {row["photographs"] for row in found} == {"6"}
    assert not found[0]["difference"] and float(found[1]["difference"]) == pytest.approx(
        float(found[1]["psnr_hidden"]) - float(found[0]["psnr_hidden"]), abs=1e-4
    )
    assert [row["model"] for row in rows(tmp_path, "step")] == names
    assert float(rows(tmp_path, "step")[0]["ratio"]) == 1
    probed = {row["model"] for row in rows(tmp_path, "probe")}
    assert probed == {*names, "random:gmae"}
    assert probed <= {row["model"] for row in rows(tmp_path, "invariance")}
    page = (tmp_path / "out" / "gmae_vs_mae.md").read_text()
    assert all(f"## {part}" in page for part in ("Reconstruction", "Step", "Probe", "Invariance"))
    assert "96 samples of 74 photographs" in page
    assert len(list((tmp_path / "out").glob("*.png"))) == 3 + 3  # of reconstruction and of invariance
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("state.pt")}
    assert len(states) == 3
    assert run(photographs, tmp_path, *objectives).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in states} == states  # nothing was trained again
    assert rows(tmp_path, "reconstruction") == found


def test_all_models_see_the_same() -> None:
    training = encoders.Training(
        ("photos",), "nano", image_size=48, samples=100, batch_size=10, held_out=5, seed=3, device="cpu", run=Path()
    )
    configs = [training.config(name) for name in encoders.OBJECTIVES]
    for name in ("data", "schedule", "optimizer", "batch_size", "crop_scale", "seed", "held_out"):
        assert len({str(getattr(config, name)) for config in configs}) == 1
    for name in ("image_size", "patch_size", "width", "depth", "heads", "decoder_width", "decoder_depth"):
        assert len({getattr(config.model, name) for config in configs}) == 1
    assert {config.objective.mask_ratio for config in configs} == {(0.75, 0.75)}


def test_figures_are_of_hidden_patches_and_of_the_picture_with_them() -> None:
    images, rebuilt = (
        torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.full((2, 3, 32, 32), 0.5),
    )
    hidden = torch.tensor([[True, False, True, True], [False, True, True, True]])
    model = MAE(MAEConfig.preset("nano", image_size=32))
    for (of_hidden, whole, _), image, row in zip(
        gmae_vs_mae.figures_of(rebuilt, images, hidden, model), images, hidden.view(2, 2, 2).numpy(), strict=True
    ):
        where = np.kron(row, np.ones((16, 16))).astype(bool)
        pixels = image.permute(1, 2, 0).numpy()
        filled = np.where(where[..., None], np.float32(0.5), pixels)
        half = np.full_like(pixels[where], 0.5)
        assert of_hidden == pytest.approx(peak_signal_noise_ratio(pixels[where], half, data_range=1), abs=1e-3)
        assert whole == pytest.approx(peak_signal_noise_ratio(pixels, filled, data_range=1), abs=1e-3)


def test_intervals() -> None:
    figures = np.array([[20.0, 1, 1], [22, 1, 1], [24, 1, 1]])
    row = gmae_vs_mae.reconstruction_row("b", figures, figures - [[1, 0, 0], [2, 0, 0], [3, 0, 0]])
    assert row["within"] == pytest.approx(1.96 * 2 / 3**0.5)
    assert (row["difference"], row["difference_within"]) == (2, pytest.approx(1.96 / 3**0.5))
