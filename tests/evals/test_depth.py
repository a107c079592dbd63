"""`evals/benchmarks/depth.py` and `evals/studies/depth_choices.py` at toy size."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from evals import depth_cells
from evals.benchmarks import depth
from evals.measurements import Development
from evals.studies import depth_choices
from gmae_tools import checkpoints
from gmae_tools.cli.pretrain import command as pretrain
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image
from gmae_tools.report.tables import format_rows
from gmae_tools.system.files import atomic_path
from tests.evals.toy_data import add_example

SHAPE = (48, 64)
PHOTOGRAPHS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of a light square at chance places, with its outline and its area as ground truth."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        top, left = int(rng.integers(2, 20)), int(rng.integers(2, 38))
        inside = np.zeros(SHAPE, bool)
        inside[top : top + 24, left : left + 24] = True
        noise = rng.integers(0, 60, SHAPE)
        picture = np.repeat((inside * 190 + noise).astype(np.uint8)[..., None], 3, 2)
        Image.fromarray(picture).save(folder / "photos" / f"{number:04}.jpg", quality=95)
        if number < 2 * PHOTOGRAPHS:
            add_example(folder, f"{number:04}", picture, inside ^ np.roll(inside, 1, 1), inside)
    return folder


class Oracle(torch.nn.Module):
    """A grid of small Gaussians that are the nearer, the brighter the picture is there (or the other way round)."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        base = checkpoints.load("gmae-tiny")
        self.config, self.camera, self.precision, self.sign = base.config, base.camera, base.precision, sign
        self.place = torch.nn.Parameter((torch.arange(32) + 0.5) / 16 - 1)

    def forward(self, images: torch.Tensor) -> Gaussians:
        brightness = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 32).flatten(1)
        y, x = torch.meshgrid(self.place, self.place, indexing="ij")
        z = -self.sign * brightness[0]
        means = torch.stack([x.flatten(), y.flatten(), z], -1)[None]
        k = means.shape[1]
        quats = torch.tensor([1.0, 0, 0, 0]).expand(1, k, 4)
        return Gaussians(means, torch.full((1, k, 3), 0.4), quats, torch.zeros(1, k, 3), torch.full((1, k), 0.99))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_depth_that_is_brightness_is_found_out(root: Path, sign: float) -> None:
    source = SimpleNamespace(model=Oracle(sign))
    with torch.inference_mode():
        maps = depth_cells.DepthMaps(Development(str(root))).measure(source, root).figures
        near = depth_cells.Nearness(str(root / "ecssd-dev")).measure(source, root)
    assert -sign * maps["luminance"] > 0.6  # noise, and the blur of the Gaussians, take the rest
    assert abs(maps["common"]) < 0.6
    assert len(near.samples["auc"]) == PHOTOGRAPHS
    assert sign * (near.figures["auc"] - 0.5) > 0.35 and sign * (near.figures["auc_rest"] - 0.5) > 0.2
    assert near.figures["auc_se"] == pytest.approx(np.std(near.samples["auc"], ddof=1) / PHOTOGRAPHS**0.5)


def run(script: ModuleType, *arguments: object) -> Result:
    return CliRunner().invoke(script.main, list(map(str, arguments)))


@pytest.mark.slow
def test_writes_a_column_for_each_checkpoint(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    data = ["--bsds", root, "--ecssd", root / "ecssd-dev", "--photos", root / "photos", "--cache", tmp_path / "cache"]
    both = ["--checkpoint", f"a={checkpoint}", "--checkpoint", f"b={checkpoint}"]
    places = ["--out", tmp_path / "runs", "--results", tmp_path, "--sheet", tmp_path / "sheet.png"]
    result = run(depth, *data, *both, *places, "--quick", "--every", "4", "--scales", "1,2")
    assert result.exit_code == 0, result.output
    assert "| measure | a | b |" in result.output and "| psnr_masked |" in result.output
    table = pd.read_csv(tmp_path / "depth.csv").set_index("candidate")
    assert list(table.columns) == [name for name in depth_cells.COLUMNS if name != "candidate"]
    assert table.notna().all().all() and (table.loc["a"] == table.loc["b"]).all()
    assert table.loc["a", ["every", "thresholds", "looks"]].tolist() == [4, 15, "1,2"]
    assert "area under the ROC curve" in (tmp_path / "depth.md").read_text()
    sheet = read_image(tmp_path / "sheet-a.png")
    assert sheet.shape[1] > 9 * depth.PANEL and (tmp_path / "sheet-b.png").exists()

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    again = run(depth, *data, "--checkpoint", checkpoint, "--out", tmp_path / "runs", "--quick", "--every", "4",
                "--scales", "1,2")  # fmt: skip
    assert again.exit_code == 0 and all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_variants_differ_and_say_so() -> None:
    commands = {
        name: " ".join(map(str, depth_choices.pretrain_command(each, 100, 0)))
        for name, each in depth_choices.VARIANTS.items()
    }
    assert len(commands) == len(set(commands.values())) == 16 + 9
    assert "--occlusion-gradient 0 " in commands["plain"] and "--camera gmae" in commands["plain"]
    assert "--size-depth-weight 0.0015 --region-depth-weight 0.0015" in commands["occlusion-both"]
    assert commands["random-queries"].count("--set") == len(depth_choices.MODEL) + 1


def test_every_option_of_the_variants_is_one_of_pretrain() -> None:
    known = {name for parameter in pretrain.params for name in parameter.opts}
    asked = {f"--{name}" for each in depth_choices.VARIANTS.values() for name in depth_choices.BASE | each}
    assert asked <= known


def test_runs_what_is_missing_and_collects(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def pretend(self: object, command: Sequence[object], log: Path) -> None:
        words = list(map(str, command))
        called.append(f"{'pretrain' if 'pretrain' in words else 'measure'} {log.parent.name}")
        if words[-1] == "--broken":
            raise depth_choices.click.ClickException("it failed")
        if "pretrain" not in words:
            row = dict.fromkeys(depth_cells.COLUMNS) | {"candidate": "x", "psnr": 20.5, "every": 6, "looks": "3,4"}
            with atomic_path(log.parent / "depth.csv") as whole:  # another thread may read it
                whole.write_text(format_rows([row], depth_cells.COLUMNS, "csv"))

    monkeypatch.setattr(depth_choices.Processes, "run", pretend)
    data = ["--data", root / "photos", "--bsds", root, "--ecssd", root / "ecssd-dev", "--out", tmp_path / "runs"]
    some = ["--variant", "size", "--variant", "plain", "--samples", "64"]
    result = run(depth_choices, *data, *some, "--seed", "0", "--seed", "1", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert sorted(called) == sorted(
        f"{what} {name}-64-{seed}" for what in ("pretrain", "measure") for name in ("plain", "size") for seed in (0, 1)
    )
    table = pd.read_csv(tmp_path / "runs" / "depth_choices.csv")
    assert table[["variant", "seed"]].to_numpy().tolist() == [["plain", 0], ["plain", 1], ["size", 0], ["size", 1]]
    assert (table["psnr"] == 20.5).all() and (table["looks"] == "3,4").all() and table["luminance"].isna().all()

    (tmp_path / "runs" / "size-64-1" / "depth.csv").unlink()
    called.clear()
    assert run(depth_choices, *data, *some, "--seed", "1").exit_code == 0
    assert called == ["pretrain size-64-1", "measure size-64-1"]


def test_a_run_that_fails_is_named_and_the_others_are_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; print('no disk'); sys.exit(3)"
    monkeypatch.setattr(depth_choices, "pretrain_command", lambda changes, *_: [sys.executable, "-c", code])
    data = ["--data", root / "photos", "--bsds", root, "--ecssd", root / "ecssd-dev", "--out", tmp_path]
    result = run(depth_choices, *data, "--variant", "plain", "--variant", "size", "--samples", "64")
    assert result.exit_code == 1
    assert "plain, seed 0: no disk" in result.output and "size, seed 0: no disk" in result.output
