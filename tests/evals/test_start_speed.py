"""The benchmark runs and writes what it says; how fast anything is, a test on a busy machine cannot say."""

from __future__ import annotations

import csv
from pathlib import Path

from click.testing import CliRunner

from evals.benchmarks import start_speed


def test_the_benchmark_prints_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "start_speed.csv"
    result = CliRunner().invoke(start_speed.main, ["--command", "export", "--rounds", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(out.open()))
    assert [row["what"] for row in rows] == ["import torch", "import gmae_tools.model", "export"]
    assert float(rows[0]["ratio"]) == 1
    assert all(float(row[name]) > 0 for row in rows for name in ("seconds", "cpu", "megabytes"))
