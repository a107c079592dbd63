"""The README's table of results is the one that its script makes of `evals/results`."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from evals import readme_table
from evals.common import RESULTS
from evals.quoted import EDGES, FIGURES, TABLES, summary
from gmae_tools.errors import GmaeToolsError
from gmae_tools.zeroshot.names import EDGE_READOUTS, FOREGROUND_METHODS


def test_readme_has_the_table_that_the_script_makes(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert readme_table.with_table(text, summary()) == text, "run: python -m evals.readme_table"


def test_readme_fits_one_screen(repository: Path) -> None:
    assert len((repository / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_rectangular_and_full(name: str) -> None:
    lines = TABLES[name](RESULTS).splitlines()
    if name == "files":
        assert len(lines) == 1 and lines[0].count(".csv](") == len(list(RESULTS.glob("*.csv")))
        return
    assert len(lines) > 2
    assert len({line.count("|") for line in lines}) == 1


def test_the_script_follows_the_results(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(RESULTS, results)
    rows = list(csv.DictReader((results / "reconstruction.csv").open(encoding="utf-8")))
    rows[0]["psnr"] = "31.4159"
    with (results / "reconstruction.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\n<!-- results -->\nOF BEFORE\n<!-- /results -->\n\nThe end.\n", encoding="utf-8")
    done = CliRunner().invoke(readme_table.main, ["--results", str(results), "--readme", str(readme)])
    assert done.exit_code == 0, done.output
    text = readme.read_text(encoding="utf-8")
    assert "**31.4 dB**" in text and "OF BEFORE" not in text
    assert text.startswith("# Title\n\n<!-- results -->\n\n|") and text.endswith("|\n\n<!-- /results -->\n\nThe end.\n")


def test_every_readout_has_a_label_and_stands_in_its_guide(repository: Path) -> None:
    for names, labels, guide in (
        (EDGE_READOUTS, EDGES, "edges"),
        (FOREGROUND_METHODS, FIGURES, "figure-and-ground"),
    ):
        assert set(names) <= set(labels)
        text = (repository / "docs" / f"{guide}.md").read_text(encoding="utf-8")
        assert [name for name in names if f"`{name}`" not in text and f"--method {name}`" not in text] == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match=r"bsds500-val\.csv: there is no such table"):
        summary(tmp_path)
    with pytest.raises(GmaeToolsError, match="needs one pair of comments"):
        readme_table.with_table("# No place\n", "| |\n")
