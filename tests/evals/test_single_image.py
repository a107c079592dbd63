"""`evals/studies/single_image.py` at toy size: trains what is missing, and compares it with random weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from evals.studies import single_image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    for number in range(80):
        folder = tmp_path / "data" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 80, (40, 40, 3), dtype=np.uint8) + np.uint8(150 * (number % 2))
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return tmp_path / "data"


@pytest.mark.slow
def test_trains_on_one_photograph_and_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_image, "LinearConfig", partial(single_image.LinearConfig, epochs=3, warmup=1))
    arguments = ["--data", data, "--image", data / "dark" / "000.png", "--samples", "64", "--seeds", "0",
                 "--image-size", "32", "--neighbours", "5", "--objective", "gmae", "--objective", "mae",
                 "--out", tmp_path / "runs", "--results", tmp_path / "results"]  # fmt: skip
    result = CliRunner().invoke(single_image.main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "results" / "single_image_nano.csv")
    assert table.model.unique().tolist() == [
        "random, seed 0", "pixels", "gmae of 000.png, seed 0", "mae of 000.png, seed 0",
    ]  # fmt: skip
    assert table[table.model == "pixels"].top1.min() == 1.0  # dark and light are told apart by their colours
    assert table.difference.notna().sum() == 8
    logs = {path: path.read_text() for path in (tmp_path / "runs").glob("*/log.jsonl")}
    assert len(logs) == 2 and not (tmp_path / "results" / "single_image_nano_finetuned.csv").exists()
    again = CliRunner().invoke(single_image.main, list(map(str, arguments)), catch_exceptions=False)
    assert again.stdout == result.stdout and all(path.read_text() == log for path, log in logs.items())


@pytest.mark.slow
def test_fine_tunes_what_was_trained_on_one_photograph(data: Path, tmp_path: Path) -> None:
    arguments = ["--data", data, "--image", data / "dark" / "000.png", "--samples", "64", "--seeds", "0,1",
                 "--image-size", "32", "--neighbours", "5", "--fine-tune", "2", "--batch-size", "16",
                 "--out", tmp_path / "runs", "--results", tmp_path / "results"]  # fmt: skip
    result = CliRunner().invoke(single_image.main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "results" / "single_image_nano_finetuned.csv")
    assert table.model.tolist() == ["random weights", "gmae of 000.png"] and set(table.seeds) == {2}
    assert np.isnan(table.difference[0]) and table.difference_low[1] <= table.difference[1] <= table.difference_high[1]
    assert "Fine-tuned, 2 epochs" in result.stdout
