"""The benchmark runs and writes what it says; how fast anything is, a test on a busy machine cannot say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from evals.benchmarks import folders_speed
from evals.benchmarks.folders_speed import row
from evals.costs import Cost


def test_the_benchmark_prints_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "folders_speed.csv"
    options = ["--command", "export", "--photographs", "3", "--jobs", "2", "--rounds", "1", "--out", str(out)]
    result = CliRunner().invoke(folders_speed.main, options)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(out.open()))
    assert [(row["what"], row["jobs"]) for row in rows] == [("export", "1"), ("export", "2")]
    assert float(rows[0]["speedup"]) == 1 and all(float(row["megabytes"]) > 0 for row in rows)


def test_rates_are_those_after_the_start() -> None:
    one, slow, fast = Cost(3, 2.5, 100), Cost(11, 10.5, 150), Cost(7, 10.7, 200)
    found = row("layers", 2, [(one, fast)], [(one, slow)], 41)
    assert found["per_second"] == 10 and found["cpu"] == pytest.approx(0.205)
    assert found["speedup"] == 2 and found["megabytes"] == 200
