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


def test_another_checkout_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(what: str, photographs: Path, jobs: int | None, folder: Path, root: Path) -> Cost:
        calls.append((photographs.name, jobs, root))
        seconds = 1 + photographs.is_dir() * (4 / jobs if jobs else 12)
        return Cost(seconds, seconds, 100)

    monkeypatch.setattr(folders_speed, "run", run)
    out = tmp_path / "folders_speed.csv"
    options = ["--command", "layers", "--photographs", "5", "--jobs", "2", "--rounds", "2", "--against", str(tmp_path)]
    result = CliRunner().invoke(folders_speed.main, [*options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(out.open()))
    assert [(row["checkout"], row["jobs"], row["ratio"]) for row in rows] == [
        ("this", "1", "3.0"), ("this", "2", "6.0"), ("other", "", ""),
    ]  # fmt: skip
    assert [call[0] for call in calls] == ["000.jpg"] * 3 + ["000.jpg", "photographs"] * 6
    assert {root for _, jobs, root in calls if jobs is None} == {tmp_path}


def test_rates_are_those_after_the_start() -> None:
    one, slow, fast = Cost(3, 2.5, 100), Cost(11, 10.5, 150), Cost(7, 10.7, 200)
    found = row("layers", 2, [(one, fast)], [(one, slow)], [(Cost(5, 5, 90), Cost(17, 15, 95))], 41)
    assert found["per_second"] == 10 and found["cpu"] == pytest.approx(0.205)
    assert found["speedup"] == 2 and found["ratio"] == 3 and found["megabytes"] == 200
