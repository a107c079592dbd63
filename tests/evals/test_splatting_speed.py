"""The benchmark runs and writes what it says; how fast anything is, a test on a busy machine cannot say."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import torch
from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "evals" / "benchmarks" / "splatting_speed.py"


def test_the_benchmark_prints_and_writes_its_table(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        result = CliRunner().invoke(runpy.run_path(str(SCRIPT))["main"], ["--quick", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
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
