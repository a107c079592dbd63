"""The benchmark runs and writes what it says; how fast anything is, a test on a busy machine cannot say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from evals.benchmarks import splatting_speed


@pytest.mark.slow
def test_the_benchmark_prints_and_writes_its_table(tmp_path: Path) -> None:
    result = CliRunner().invoke(splatting_speed.main, ["--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "splatting_speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["measure"], row["k"]) for row in rows] == [
        ("forward", "16"),
        ("forward+backward", "16"),
        ("forward", "32"),
        ("forward+backward", "32"),
    ]
    assert all(float(row["cpu_ms"]) > 0 and float(row["tiled_ratio"]) > 0 for row in rows)
    report = (tmp_path / "splatting_speed.md").read_text()
    assert report.startswith("# Speed")
    assert report.strip() in result.stdout
