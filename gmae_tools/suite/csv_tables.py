"""CSV files as readable tables: numbers with as many decimals as are useful, the best of each column marked."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gmae_tools.suite.config import Table

MOST_DECIMALS, FEW_DECIMALS = 3, 4


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Column:
    """Name, whether it holds numbers, and whether `higher` or `lower` ones are better, empty for neither."""

    name: str
    numeric: bool
    better: str = ""


@dataclass(frozen=True)
class ReadableTable:
    """Columns, and rows of as many cells."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and rows of equal length."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        names, *rows = [line for line in csv.reader(file) if line] or [[]]
    return names, [(row + [""] * len(names))[: len(names)] for row in rows]


def readable_table(table: Table, path: Path) -> ReadableTable:
    """Read the file of a table, and mark the best numbers."""
    names, rows = read_csv(path)
    values = [[row[x] for row in rows] for x in range(len(names))]
    columns = [
        Column(name, _is_numeric(each), "higher" if name in table.higher else "lower" if name in table.lower else "")
        for name, each in zip(names, values, strict=True)
    ]
    decimals = [decimals_of(each) if column.numeric else None for column, each in zip(columns, values, strict=True)]
    best = set(_best_cells(table, columns, rows))
    cells = [
        [Cell(_shown(text, decimals[x]), (y, x) in best) for x, text in enumerate(row)] for y, row in enumerate(rows)
    ]
    return ReadableTable(columns, cells)


def decimals_of(values: Sequence[str]) -> int:
    """Number of decimals for a column of numbers: four significant digits of the median, without trailing zeros.

    At most three decimals are shown, unless the numbers are so small that this would leave fewer than two digits.
    Numbers that are written with few decimals, such as settings, keep two digits of the smallest one.
    """
    numbers = [abs(number) for number in map(_finite, values) if number]
    if not numbers:
        return 0
    middle, least = (math.floor(math.log10(number)) for number in (statistics.median(numbers), min(numbers)))
    wanted = max(0, min(3 - middle, max(MOST_DECIMALS, 1 - middle)))
    if any("e" in value.lower() for value in values):
        return wanted
    written = max(len(value.partition(".")[2].rstrip("0")) for value in values)
    return min(written, max(wanted, 1 - least) if written <= FEW_DECIMALS else wanted)


def _best_cells(table: Table, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Row and column of the best numbers among the rows that are compared, where at least two differ."""
    within = [x for x, column in enumerate(columns) if column.name in table.within]
    groups: dict[tuple[str, ...], list[int]] = {}
    for y, row in enumerate(rows):
        if row[0] not in table.apart:
            groups.setdefault(tuple(row[x] for x in within), []).append(y)
    for x, column in enumerate(columns):
        for group in groups.values() if column.better else ():
            numbers = {y: number for y in group if (number := _finite(rows[y][x])) is not None}
            if len(set(numbers.values())) > 1:
                winner = (max if column.better == "higher" else min)(numbers.values())
                yield from ((y, x) for y, number in numbers.items() if number == winner)


def _is_numeric(values: Sequence[str]) -> bool:
    given = [value for value in values if value]
    return bool(given) and all(_number(value) is not None for value in given)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(text: str) -> float | None:
    number = _number(text)
    return number if number is not None and math.isfinite(number) else None


def _shown(text: str, decimals: int | None) -> str:
    """A number with a typographic minus, a dash if it is missing; a text as it is (`decimals` None)."""
    if decimals is None:
        return text
    number = _number(text)
    return "–" if number is None else f"{number:.{decimals}f}".replace("-", "−")
