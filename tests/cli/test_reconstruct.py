"""`gmae-tools reconstruct`, with small models of random weights, and the arithmetic behind it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image, resize, to_tensor
from gmae_tools.mae import CMAE, MAE, CMAEConfig, MAEConfig, paint_patches, patch_targets
from gmae_tools.pretrain.reconstruction import masked_out, psnr_of_hidden, reconstruct
from tests.oracles.mae import save_official
from tests.test_mae import config as official_like
from tests.test_mae import official

MAE_NANO = MAEConfig.preset("nano", patch_size=8, normalise_targets=True)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:37, :60]
    rgb = np.stack([x / 60, y / 37, (np.sin(x / 5) + 1) / 2], -1)
    Image.fromarray((rgb * 255).astype(np.uint8)).save(tmp_path / "waves.png")
    return tmp_path / "waves.png"


@pytest.fixture
def mae(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    checkpoints.save(MAE(MAE_NANO), tmp_path / "mae-run" / "model")
    return tmp_path / "mae-run" / "model"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["reconstruct", "--device", "cpu", *map(str, arguments)], catch_exceptions=False)


def test_gmae_and_mae_side_by_side(checkpoint: Path, mae: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(photo, "--checkpoint", checkpoint, "--checkpoint", mae, "-o", out, "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads(result.stdout)
    assert [row["checkpoint"] for row in rows] == ["nano-random", "mae-run"]
    assert {row["masked"] for row in rows} == {0.75} and {row["image"] for row in rows} == {str(photo)}
    with (out / "reconstruct.csv").open() as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == pytest.approx([row["psnr"] for row in rows])
    sheet = Image.open(out / "waves" / "reconstruction.png")
    assert sheet.width == 2 * 36 + 4 * 320 + 3 * 14  # four pictures in a row
    assert sheet.height > 2 * round(320 * 37 / 60)  # two rows


def test_figures_are_those_of_scikit_image(mae: Path, photo: Path, tmp_path: Path) -> None:
    row = json.loads(run(photo, "--checkpoint", mae, "-o", tmp_path, "--mask-ratio", "0.5", "--format", "json").stdout)
    images = to_tensor(resize(read_image(photo), 64, 64))
    first = [run_mask(seed) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    hidden = first[0]
    model = checkpoints.load_any(mae)
    with torch.no_grad():
        rebuilt = paint_patches(model(images, hidden), images, MAE_NANO).clamp(0, 1)
    a, b = (picture[0].permute(1, 2, 0).numpy() for picture in (images, rebuilt))
    assert row[0]["psnr"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-4)
    expected = structural_similarity(a.astype(float), b.astype(float), channel_axis=-1, data_range=1)
    assert row[0]["ssim"] == pytest.approx(expected, abs=1e-4)
    where = np.kron(hidden[0].view(8, 8).numpy(), np.ones((8, 8))).astype(bool)
    assert row[0]["psnr_hidden"] == pytest.approx(peak_signal_noise_ratio(a[where], b[where], data_range=1), abs=1e-4)


def run_mask(seed: int) -> torch.Tensor:
    """What half of 64 patches is hidden by a seed."""
    from gmae_tools.pretrain.sampling import sample_masks

    return sample_masks((0.5, 0.5), 64, 0, np.zeros(1, np.int64), seed)


def test_nothing_hidden(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    result = run(photo, "--checkpoint", checkpoint, "-o", tmp_path / "out", "--mask-ratio", "0", "--format", "json")
    assert result.exit_code == 0
    row = json.loads(result.stdout)[0]
    assert (row["masked"], row["psnr_hidden"]) == (0, None) and row["psnr"] > 0


def test_an_official_file_is_drawn(photo: Path, tmp_path: Path) -> None:
    """That its predictions are those of the published forward pass is checked in `test_checkpoints.py`."""
    like = official_like(width=64, heads=1, decoder_width=32, decoder_heads=16)
    save_official({"model": official(like).state_dict()}, tmp_path / "mae_visualize.pth")
    result = run(photo, "--checkpoint", tmp_path / "mae_visualize.pth", "-o", tmp_path / "out", "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)[0]["checkpoint"] == "mae_visualize.pth"
    assert (tmp_path / "out" / "waves" / "reconstruction.png").exists()


def test_perfect_predictions_are_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 64, 64)
    model = MAE(MAE_NANO)
    monkeypatch.setattr(model, "forward", lambda images, mask: patch_targets(images, MAE_NANO))
    torch.testing.assert_close(reconstruct(model, images), images, atol=1e-5, rtol=0)


def test_only_hidden_pixels_count() -> None:
    images, pictures = torch.zeros(2, 3, 16, 24), torch.zeros(2, 3, 16, 24)
    pictures[:, :, 8:, 16:] = 0.1  # the last of 2 x 3 patches
    pictures[:, :, :8, :8] = 0.5  # the first
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[0, 5] = hidden[1, 0] = True
    found = psnr_of_hidden(pictures, images, hidden, 8)
    torch.testing.assert_close(found, torch.tensor([20.0, -20 * np.log10(0.5)], dtype=torch.float32))
    grey = masked_out(images, hidden, 8)
    assert (grey[0, :, 8:, 16:] == 0.5).all() and grey[0].sum() == 0.5 * 3 * 64
    assert psnr_of_hidden(pictures, images, ~hidden & hidden, 8).isnan().all()


def test_what_cannot_be_drawn_is_refused_before_anything_is_written(photo: Path, tmp_path: Path) -> None:
    checkpoints.save(CMAE(CMAEConfig.preset("nano")), tmp_path / "contrastive")
    result = run(photo, "--checkpoint", tmp_path / "contrastive", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "error: contrastive: compares pictures and rebuilds none; choose a GMAE or an MAE\n"
    assert not (tmp_path / "out").exists()
    with pytest.raises(GmaeToolsError, match="rebuilds none"):
        reconstruct(CMAE(CMAEConfig.preset("nano")), torch.rand(1, 3, 64, 64))


def test_a_damaged_picture_is_reported_and_the_others_are_done(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    result = run(tmp_path / "bad.png", photo, "--checkpoint", checkpoint, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1 and "bad.png" in result.stderr
    assert (tmp_path / "out" / "waves" / "reconstruction.png").exists() and "waves.png" in result.stdout


@pytest.mark.parametrize("arguments", [["--mask-ratio", "0.99"], ["--mask-ratio", "-1"], ["--seed", "-1"], []])
def test_wrong_usage_exits_with_2(photo: Path, arguments: list[str]) -> None:
    assert run(*([photo, *arguments] if arguments else [])).exit_code == 2
