"""The benchmark runs and writes what it says; how fast anything is, a test on a busy machine cannot say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from evals.benchmarks import pretraining_speed
from gmae_tools import checkpoints
from gmae_tools.mae import MAEConfig
from gmae_tools.model import GMAEConfig


@pytest.mark.slow
def test_the_benchmark_prints_and_writes_its_table(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        pretraining_speed.main, ["--quick", "--device", "cpu", "--checkpoint", str(checkpoint), "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    with (tmp_path / "pretraining_speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["k"], row["footprint"]) for row in rows] == [
        ("mae", "", ""),
        ("gmae", "32", "fresh"),
        ("gmae", "32", "trained"),
        ("gmae", "64", "fresh"),
        ("gmae", "64", "trained"),
        ("gmae", "64", "checkpoint"),
    ]
    assert all(float(row["step_ms"]) > 0 and float(row["images_per_s"]) > 0 for row in rows)
    assert float(rows[0]["ratio"]) == float(rows[1]["growth"]) == 1
    assert [bool(row["share"]) for row in rows] == [False] + [True] * 5
    page = (tmp_path / "pretraining_speed.md").read_text()
    assert page.startswith("# Speed of pretraining") and page.strip() in result.stdout
    assert page.count("of a step") == 3 and page.count("the bar of 2") == 2


def test_trained_footprints_cover_what_the_checkpoints_do(checkpoint: Path) -> None:
    model = checkpoints.load(checkpoint)
    model.config = GMAEConfig.preset("nano", max_scale=6.0)
    torch.nn.init.normal_(model.decoder.head.weight, std=0.02)
    bench = pretraining_speed.make_bench(64, 16, 2, 0.75, torch.device("cpu"), False)
    found = pretraining_speed.contenders("nano", 16, [48, 96], model, bench)
    area = model.config.k * found[-2].sigma(bench) ** 2
    trained = [each for each in found if each.footprint == "trained"]
    assert [each.k for each in trained] == [48, 96]
    for each in trained:
        assert each.k * each.sigma(bench) ** 2 == pytest.approx(area, rel=0.1)


def test_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every round times the same, and footprints stay what they are."""
    bench = pretraining_speed.make_bench(64, 16, 2, 0.5, torch.device("cpu"), False)
    assert bench.visible.shape == (2, 8)
    contender = pretraining_speed.Contender(GMAEConfig.preset("nano"), "fresh")
    model = contender.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(pretraining_speed.Contender, "build", lambda _self: model)
    pretraining_speed.training(contender, bench)()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.encoder.cls_token.grad.abs().max() > 0


def test_both_models_have_the_same_transformers() -> None:
    mae = pretraining_speed.Contender(MAEConfig.preset("tiny")).build()
    gmae = pretraining_speed.Contender(GMAEConfig.preset("tiny", queries=128, gaussians_per_query=2)).build()
    assert mae.encoder.state_dict().keys() == gmae.encoder.state_dict().keys()
    for ours, theirs in zip(gmae.decoder.blocks.parameters(), mae.decoder.blocks.parameters(), strict=True):
        assert ours.shape == theirs.shape
