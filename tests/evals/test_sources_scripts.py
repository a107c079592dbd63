"""The scripts after the papers' tables and figures at toy size: they run, go on where they stopped, and count right."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from evals.benchmarks import finetuning, occlusion_invariance, paper_ablations
from evals.bootstrap import bootstrap_interval
from evals.common import read_table
from evals.encoders import OBJECTIVES, Training, recipe, recipe_name, training_options
from gmae_tools import checkpoints
from gmae_tools.encoder.finetune import FinetuneConfig
from gmae_tools.encoder.probe import LinearConfig
from gmae_tools.model import GMAE, GMAEConfig

SIZES = ["--preset", "nano", "--image-size", "32", "--samples", "32", "--held-out", "8"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty noisy pictures, dark ones and light ones, named by it."""
    folder, chance = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(80):
        pixels = chance.integers(0, 80, (40, 40, 3), dtype=np.uint8) + np.uint8(150 * (number % 2))
        Image.fromarray(pixels).save(folder / f"{('dark', 'light')[number % 2]}-{number:03}.png")
    return folder


def call(module: ModuleType, *arguments: object) -> Result:
    return CliRunner().invoke(module.main, list(map(str, arguments)), catch_exceptions=False)


@pytest.mark.slow
def test_the_papers_ablations(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_ablations, "LinearConfig", partial(LinearConfig, rates=(0.1,), epochs=2, warmup=1))
    arguments = ["--data", photographs, *SIZES, "--patch-size", "8", "--batch-size", "16", "--group", "loss",
                 "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--seeds", "0,1"]  # fmt: skip
    result = call(paper_ablations, *arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "paper_ablations.csv")
    assert table.value.tolist() == ["all", "masked", "masked, normalised"]
    assert table.published_linear.tolist() == [57.4, 61.9, 31.7] and set(table.seeds) == {2}
    assert np.isnan(table.difference[1]) and table.linear.between(table.linear_low, table.linear_high).all()
    assert Image.open(tmp_path / "out" / "paper_ablations.png").width > 300
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir() if (path / "log.jsonl").exists())
    assert len(runs) == 3 * 2 and "48-32-8-k256-c1-m0.75-masked-normalised-32-16-1" in runs  # the base is trained once
    monkeypatch.setattr(paper_ablations, "pretrain", None)
    assert call(paper_ablations, *arguments).stdout == result.stdout


def test_the_ablations_are_of_the_published_model() -> None:
    model = paper_ablations.paper_model("nano", 96, 12)
    assert (model.queries, model.gaussians_per_query, model.max_scale, model.width) == (256, 1, 1.0, 48)
    assert (model.image_size, model.patch_size) == (96, 12)
    assert paper_ablations.paper_model("nano", 64, 8, 64) == dataclasses.replace(
        model, image_size=64, patch_size=8, queries=64
    )
    assert {name: list(choices) for name, choices in paper_ablations.GROUPS.items()} == {
        "largest scale c": ["0.5", "1", "2"], "hidden patches": ["0.70", "0.75", "0.80"],
        "loss on": ["all", "masked", "masked, normalised"], "Gaussians K": ["64", "128", "256", "512"],
    }  # fmt: skip


def test_only_the_switches_that_are_named_are_run() -> None:
    assert list(paper_ablations.chosen(["loss", "gauss"])) == ["loss on", "Gaussians K"]
    assert paper_ablations.chosen([]) == paper_ablations.GROUPS
    with pytest.raises(click.UsageError, match="no switch begins with colour: there are largest scale c"):
        paper_ablations.chosen(["colour"])


def test_changes_of_the_preset_are_of_all_models(tmp_path: Path) -> None:
    given: list[Training] = []

    @click.command()
    @training_options()
    def command(training: Training) -> None:
        given.append(training)

    arguments = ["--data", "photos", "--preset", "nano", "--image-size", "32", "--set", "patch_size=8", "--set",
                 "depth=3"]  # fmt: skip
    assert CliRunner().invoke(command, arguments).exit_code == 0
    models = [given[0].config(name).model for name in OBJECTIVES]
    assert {(model.image_size, model.patch_size, model.depth, model.width) for model in models} == {(32, 8, 3, 48)}
    result = CliRunner().invoke(command, ["--data", "photos", "--set", "depth"])
    assert result.exit_code == 2 and "'depth' is not KEY=NUMBER" in result.output


def test_the_plain_recipe_only_crops() -> None:
    assert recipe(30, 64, 1e-3, plain=False) == FinetuneConfig(epochs=30, warmup=2)
    plain = recipe(30, 64, 0.01, plain=True)
    assert (plain.base_lr, plain.augment, plain.mixup, plain.cutmix) == (0.01, "none", 0, 0)
    assert (plain.erase, plain.drop_path, plain.smoothing) == (0, 0, 0.1)
    assert recipe_name(plain) == "plain-30-0.0025-0"


@pytest.mark.slow
def test_fine_tuned_encoders_are_compared(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(GMAE(GMAEConfig.preset("nano", image_size=32)), tmp_path / "other" / "model")
    arguments = ["--data", photographs, *SIZES, "--pretrain-batch-size", "16", "--objective", "gmae", "--objective",
                 "c-mae", "--checkpoint", tmp_path / "other" / "model", "--epochs", "1", "--batch-size", "16",
                 "--plain", "--lr", "0.01", "--seeds", "0,1", "--workers", "0", "--device", "cpu",
                 "--runs", tmp_path / "runs", "--out", tmp_path / "out"]  # fmt: skip
    result = call(finetuning, *arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "finetuning.csv")
    assert table.model.tolist() == ["random weights", "gmae", "c-mae", "other"] and set(table.seeds) == {2}
    assert table.difference.notna().tolist() == [False, True, True, True]
    assert type(checkpoints.load_any(tmp_path / "runs" / "c-mae" / "model").decoder).__name__ == "LightHead"
    monkeypatch.setattr("gmae_tools.encoder.finetune._train", None)
    assert call(finetuning, *arguments).stdout == result.stdout


@pytest.mark.slow
def test_invariance_of_all_objectives_in_one_figure(photographs: Path, tmp_path: Path) -> None:
    result = call(occlusion_invariance, "--data", photographs, *SIZES, "--batch-size", "16", "--photographs", "16",
                  "--cka-batch-size", "8", "--ratio", "0.5", "--device", "cpu", "--runs", tmp_path / "runs",
                  "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "occlusion_invariance.csv")
    assert table.model.unique().tolist() == ["mae", "random:mae", "r-mae", "c-mae", "gmae"]
    assert set(table.occlusion) == {"random", "block", "halves"}
    assert Image.open(tmp_path / "out" / "occlusion_invariance.png").width > 800
    curves = occlusion_invariance.curves_of(read_table(tmp_path / "out" / "occlusion_invariance.csv"))
    assert len(curves) == 5 * (2 * 3 + 2) and all(len(curve.cka) == 4 for curve in curves)


def test_bootstrap_intervals_are_those_of_the_normal_distribution_for_many() -> None:
    chance = np.random.default_rng(0)
    right = chance.random((1, 2000)) < 0.3
    low, high = bootstrap_interval(right)
    half = 1.96 * right.std() / 2000**0.5
    assert (low, high) == (pytest.approx(right.mean() - half, abs=0.003), pytest.approx(right.mean() + half, abs=0.003))
    runs = np.stack([np.ones(50), np.zeros(50)])  # seeds that differ widely
    assert bootstrap_interval(runs) == (0, 1) and bootstrap_interval(runs) == bootstrap_interval(runs)
    with pytest.raises(ValueError, match="nothing to draw from"):
        bootstrap_interval(np.zeros((1, 0)))
