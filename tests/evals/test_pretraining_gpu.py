"""The GPU session at nano scale on the CPU: it measures, chooses, trains, brings back, and does nothing twice."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import skimage
from click.testing import CliRunner, Result
from PIL import Image

from evals.benchmarks import pretraining_gpu
from gmae_tools import checkpoints


def row(batch_size: int, precision: str, rate: float) -> dict[str, Any]:
    return {"batch_size": batch_size, "precision": precision, "images_per_second": rate}


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({(256, "bf16"): 500.0, (1024, "bf16"): 950.0, (4096, "bf16"): 1000.0}, (1024, "bf16")),
        ({(256, "bf16"): 890.0, (1024, "bf16"): 950.0, (4096, "bf16"): 1000.0}, (1024, "bf16")),
        ({(256, "bf16"): 910.0, (256, "float32"): 920.0, (1024, "bf16"): 1000.0}, (256, "float32")),
        ({(256, "bf16"): 100.0, (1024, "bf16"): math.nan}, (256, "bf16")),
    ],
)
def test_the_smallest_batch_that_is_nearly_the_fastest(
    rates: dict[tuple[int, str], float], chosen: tuple[int, str]
) -> None:
    assert pretraining_gpu.choose([row(*case, rate) for case, rate in rates.items()]) == chosen


@pytest.mark.slow
def test_a_session_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo = Image.open(Path(skimage.data_dir) / "astronaut.png").convert("RGB")
    for i in range(12):
        photo.crop((20 * i, 10 * i, 20 * i + 200, 10 * i + 200)).save(tmp_path / "photos" / f"{i:02}.jpg")

    def session() -> Result:
        return CliRunner().invoke(
            pretraining_gpu.main,
            ["--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run"),
             "--preset", "nano", "--resolution", "32,64", "--batch-sizes", "4,8", "--speed-seconds", "1",
             "--minutes", "0.06", "--shard-mb", "0.15", "--device", "cpu"],
            catch_exceptions=False,
        )  # fmt: skip

    assert session().exit_code == 0
    with (tmp_path / "out" / "speed.csv").open(newline="") as file:
        speeds = list(csv.DictReader(file))
    assert [(line["batch_size"], line["precision"]) for line in speeds] == [
        ("4", "bf16"), ("4", "float32"), ("8", "bf16"), ("8", "float32")
    ]  # fmt: skip
    assert all(float(line["images_per_second"]) > 0 and 0 <= float(line["waiting"]) <= 1 for line in speeds)
    assert checkpoints.load(tmp_path / "out").config.width == 48
    assert max(file.stat().st_size for file in (tmp_path / "out").glob("model-*")) <= 150_000
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["seconds"] >= 0.06 * 60 and "psnr" in log[-1] and {line["size"] for line in log} == {32, 64}
    assert (tmp_path / "out" / "samples.png").exists()

    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert session().exit_code == 0  # everything is there: nothing is measured or trained again
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
