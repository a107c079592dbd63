"""Tables of CSV files for readers: decimals, columns, the best numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmae_tools.suite.config import Table
from gmae_tools.suite.csv_tables import decimals_of, readable_table


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        (["0.519939", "0.508198"], 3),
        (["20.985767", "18.656102"], 2),
        (["431.9498", "229.1897"], 1),
        (["0.0", "0.75"], 2),
        (["768", "12"], 0),
        (["0.0075", "0.12", "4"], 4),
        (["0.007512", "0.124567", "0.2"], 3),
        (["1.0", "0.0"], 0),
        (["0.436501500189479", "1.30", "4548.2"], 3),
        (["", ""], 0),
        (["inf", "0.00001234"], 6),
        (["1e-05", "2e-05"], 6),
    ],
)
def test_decimals(values: list[str], decimals: int) -> None:
    assert decimals_of(values) == decimals


def best(tmp_path: Path, text: str, **ratings: tuple[str, ...]) -> list[str]:
    """The texts of the best cells."""
    path = tmp_path / "table.csv"
    path.write_text(text)
    return [cell.text for row in readable_table(Table("table.csv", **ratings), path).rows for cell in row if cell.best]


def test_the_best_is_among_rows_that_compete(tmp_path: Path) -> None:
    text = "name,k,psnr\na,1,20.5\nb,1,21.5\na,2,30.5\nb,2,29.5\nhuman,2,99.5\n"
    assert best(tmp_path, text, higher=("psnr",)) == ["99.5"]
    assert best(tmp_path, text, lower=("psnr",)) == ["20.5"]
    assert best(tmp_path, text, higher=("psnr",), within=("k",), apart=("human",)) == ["21.5", "30.5"]


def test_nothing_is_best_of_equals(tmp_path: Path) -> None:
    assert best(tmp_path, "a\n1\n1\n", higher=("a",)) == []
    assert best(tmp_path, "a\n1\n\n", higher=("a",)) == []
    assert best(tmp_path, "a\nnan\n2\n1\n2\n", higher=("a",)) == ["2", "2"]


def test_a_number_of_nothing_may_be_the_best(tmp_path: Path) -> None:
    assert best(tmp_path, "a\n0\n2\n", lower=("a",)) == ["0"]


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n", "a,b\n1\n1,2,3\n"])
def test_odd_files_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    table = readable_table(Table("table.csv"), path)
    assert all(len(row) == len(table.columns) for row in table.rows)
