"""Tables of CSV files as people read them: numbers with as many decimals as help, the best of each column marked."""

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
    """Text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Column:
    """Its name, whether it holds numbers, and whether the `higher` or the `lower` ones are better, if any."""

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
        lines = [line for line in csv.reader(file) if line] or [[]]
    names, *rows = lines
    return names, [(row + [""] * len(names))[: len(names)] for row in rows]


def readable_table(table: Table, path: Path) -> ReadableTable:
    """Read the file of a table, and mark the best numbers."""
    names, rows = read_csv(path)
    columns = [
        Column(name, _is_numeric(values), _better(table, name))
        for name, values in zip(names, _transposed(names, rows), strict=True)
    ]
    decimals = [decimals_of(values) for values in _transposed(names, rows)]
    best = set(_best_cells(table, columns, rows))
    cells = [
        [
            Cell(_shown(text, decimals[x]) if column.numeric else text, (y, x) in best)
            for x, (column, text) in enumerate(zip(columns, row, strict=True))
        ]
        for y, row in enumerate(rows)
    ]
    return ReadableTable(columns, cells)


def decimals_of(values: Sequence[str]) -> int:
    """How many decimals a column of numbers needs: four digits of the middle one, without zeros that say nothing.

    Three decimals are the most, unless the numbers are so small that these would show less than two digits. What was
    written with few decimals, such as settings, keeps two digits of the smallest one.
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


def _transposed(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[row[x] for row in rows] for x in range(len(names))]


def _better(table: Table, name: str) -> str:
    return "higher" if name in table.higher else "lower" if name in table.lower else ""


def _best_cells(table: Table, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Row and column of the best numbers among rows that compete, if at least two differ."""
    within = [x for x, column in enumerate(columns) if column.name in table.within]
    groups: dict[tuple[str, ...], list[int]] = {}
    for y, row in enumerate(rows):
        if row[0] not in table.apart:
            groups.setdefault(tuple(row[x] for x in within), []).append(y)
    for x, column in enumerate(columns):
        if not column.better:
            continue
        for group in groups.values():
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


def _shown(text: str, decimals: int) -> str:
    """A number with a typographic minus; a nothing as a dash."""
    number = _number(text)
    if number is None:
        return "–"
    return f"{number:.{decimals}f}".replace("-", "−")
