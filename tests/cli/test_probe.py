"""`gmae-tools probe` and `gmae-tools invariance` from the command line, with small models on drawn photographs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools.cli import main
from gmae_tools.encoder import features as features_module
from gmae_tools.encoder import probe as probe_module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coarse and fine stripes in train/ and val/, and one file that is no picture."""
    root = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 10)):
        for label, width in (("coarse", 16), ("fine", 2)):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                wave = 255 * (((np.arange(64) + chance.integers(width)) // width) % 2)
                picture = np.broadcast_to(wave[:, None, None], (64, 64, 3)) * chance.uniform(0.4, 1, 3)
                Image.fromarray(picture.astype(np.uint8)).save(root / part / label / f"{label}-{number}.png")
    (root / "val" / "fine" / "fine-99.png").write_bytes(b"no picture")
    return root


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


# --- probe -----------------------------------------------------------------------------------------------


def test_probe_writes_table_and_protocol(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "LinearConfig", partial(probe_module.LinearConfig, epochs=6, warmup=1))
    arguments = ["probe", data, "--checkpoint", checkpoint, "--checkpoint", f"random:{checkpoint}",
                 "--neighbours", "5,10", "-o", tmp_path / "out", "--device", "cpu"]  # fmt: skip
    result = call(*arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert "40 to learn from, 21 for validation" in result.stderr
    table = pd.read_csv(tmp_path / "out" / "probe.csv")
    assert result.stdout == (tmp_path / "out" / "probe.csv").read_text()
    assert len(table) == 2 * 2 * 3
    assert table.model.unique().tolist() == ["nano-random", "random:nano-random"]
    assert ((table.low <= table.top1) & (table.top1 <= table.high)).all() and table.top1.max() > 0.9
    record = json.loads((tmp_path / "out" / "probe.json").read_text())
    protocol = record["protocol"]
    assert protocol["split"] == "train/ and val/" and protocol["read"] == 20 and protocol["validation"] == 21
    assert protocol["largest_class"] == pytest.approx(11 / 21, abs=1e-6) and len(protocol["linear_rates"]) == 4
    assert len(record["results"]) == 12

    def nothing(*_: object) -> None:
        raise AssertionError("features are there")

    monkeypatch.setattr(probe_module, "extract_features", nothing)
    again = call(*arguments)
    assert again.exit_code == 0 and again.stdout.endswith("always the largest class: 0.524 of 21\n")


def test_probe_asks_by_default_for_what_there_are_photographs_for(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """40 to learn from: not for 100 and 200 neighbours."""
    result = call("probe", data, "--checkpoint", checkpoint, "--no-linear", "-o", tmp_path, "--format", "json")
    assert result.exit_code == 0, result.output
    assert {row["k"] for row in json.loads(result.stdout)} == {10, 20}
    assert "too few photographs for k = 100, 200: left out" in result.stderr


def test_probe_by_prefix_without_a_split(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = call("probe", data / "train", data / "val", "--labels", "prefix", "--checkpoint", checkpoint,
                  "--neighbours", "5", "--no-linear", "-o", tmp_path, "--format", "json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [(row["tokens"], row["k"]) for row in json.loads(result.stdout)] == [("class", 5), ("mean", 5)]
    assert "for validation, by digests" in json.loads((tmp_path / "probe.json").read_text())["protocol"]["split"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--neighbours", "41"], "40 photographs to learn from and 21 for validation are too few for k = 41"),
        (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
    ],
)
def test_probe_says_what_is_wrong(
    data: Path, checkpoint: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    result = call("probe", data, "--checkpoint", checkpoint, "-o", tmp_path, *changes)
    assert result.exit_code == 1 and message in result.stderr
    assert not (tmp_path / "probe.csv").exists()
    assert not list(tmp_path.glob("features/*"))  # nothing was computed before


# --- invariance ------------------------------------------------------------------------------------------


def test_invariance_writes_tables_and_figures_and_goes_on(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["invariance", data / "train", "--checkpoint", checkpoint, "--ratios", "0.5",
                 "--batch-size", "10", "-o", tmp_path, "--device", "cpu"]  # fmt: skip
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[-4:] == ["0", "1", "2", "norm"]
    table = pd.read_csv(tmp_path / "invariance.csv")
    assert len(table) == 2 * (2 * 3 + 2) * 4
    assert set(table.model) == {"nano-random", "random:nano-random"} and set(table.block) == {"0", "1", "2", "norm"}
    assert table[table.tokens == "mean"].cka.notna().all() and table.error.max() < 0.5
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "invariance-class.png", "invariance-mean.png", "invariance-shared.png",
    ]  # fmt: skip

    def nothing(*_: object) -> None:
        raise AssertionError("curves are there")

    monkeypatch.setattr(features_module, "read_pictures", nothing)
    assert call(*arguments).stdout == result.stdout
    changed = call(*arguments, "--seed", "1")
    assert changed.exit_code == 1 and "--overwrite" in changed.stderr


def test_invariance_compares_each_architecture_with_random_weights_once(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from gmae_tools import checkpoints
    from gmae_tools.mae import MAE, MAEConfig

    checkpoints.save(MAE(MAEConfig.preset("nano")), tmp_path / "mae" / "model")
    models = ["--checkpoint", checkpoint, "--checkpoint", tmp_path / "mae" / "model"]
    result = call("invariance", data / "val" / "coarse", *models, "--ratios", "0.5", "-o", tmp_path / "out",
                  "--format", "json")  # fmt: skip
    assert result.exit_code == 0, result.output
    shown = [row["model"] for row in json.loads(result.stdout)]
    assert list(dict.fromkeys(shown)) == ["nano-random", "random:nano-random", "mae"]


@pytest.mark.parametrize("ratios", ["0", "1", "0.5,x", ""])
def test_invariance_refuses_impossible_ratios(data: Path, tmp_path: Path, ratios: str) -> None:
    result = call("invariance", data, "--ratios", ratios, "-o", tmp_path)
    assert result.exit_code == 2 and "between 0 and 1" in result.stderr


def test_invariance_needs_pictures_that_can_be_read(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = call("invariance", data / "val" / "fine", "--checkpoint", checkpoint, "-o", tmp_path)
    assert result.exit_code == 1 and "fine-99.png: not a picture in a known format; leave it out" in result.stderr
