"""`evals/studies/pretraining_choices.py` at toy size: trains what is missing, and compares it with the defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from evals.studies import pretraining_choices


def test_every_change_differs_from_the_defaults_and_is_possible() -> None:
    configs = [
        pretraining_choices.run_config(name, ("data",), "nano", None, 100, 4, 0) for name in pretraining_choices.CHANGES
    ]
    assert len({config.to_json() for config in configs}) == len(configs)
    twice = pretraining_choices.run_config(
        "twice the queries, half the Gaussians each", ("data",), "nano", None, 100, 4, 0
    ).model
    assert twice.k == configs[0].model.k and twice.queries == 2 * configs[0].model.queries
    assert (
        pretraining_choices.run_config("rates half as high", ("data",), "nano", None, 100, 4, 0).optimizer.muon_lr
        == 0.01
    )


@pytest.mark.slow
def test_trains_compares_and_goes_on(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(chance.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "data" / f"{number}.png")
    arguments = ["--data", tmp_path / "data", "--image-size", "32", "--samples", "128", "--seeds", "0,1",
                 "--change", "loss", "--held-out", "4", "--runs", tmp_path / "runs", "-o", tmp_path]  # fmt: skip
    result = CliRunner().invoke(pretraining_choices.main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "pretraining_choices_nano.csv").set_index("change")
    assert table.index.tolist() == ["defaults", "loss on hidden pixels", "loss: PSNR", "loss: gradients, weight 1"]
    assert np.isnan(table.difference["defaults"]) and table.seeds.tolist() == [2] * 4
    expected = table.psnr - table.psnr["defaults"]
    np.testing.assert_allclose(table.difference[1:], expected[1:], atol=0.011)
    assert table.spread[1:].min() > 0
    logs = {path: path.read_text() for path in (tmp_path / "runs").glob("*/log.jsonl")}
    assert len(logs) == 8
    again = CliRunner().invoke(pretraining_choices.main, list(map(str, arguments)), catch_exceptions=False)
    assert again.stdout == result.stdout and all(path.read_text() == log for path, log in logs.items())
    assert CliRunner().invoke(pretraining_choices.main, ["--data", "x", "--change", "?"]).exit_code == 2
