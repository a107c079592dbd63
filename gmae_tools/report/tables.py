"""Tables as text: aligned columns, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("table", "csv", "json")

Row = Mapping[str, str | int | float | None]

_DECIMALS = 6  # of numbers in CSV and JSON


def format_rows(rows: Sequence[Row], columns: Mapping[str, int | None], form: str) -> str:
    """Rows as text, with a line break at the end.

    Args:
        rows: Rows with the same keys.
        columns: Keys in their order, each with the number of decimals in a `table`; None for texts and whole numbers.
        form: `table` (aligned), `csv`, or `json` (a list of objects). CSV and JSON have six decimals. NaN is `-` in a
            table, empty in CSV, and null in JSON, where infinity is null, too.
    """
    if form == "json":
        return json.dumps([{key: _json_value(row[key]) for key in columns} for row in rows], indent=2) + "\n"
    if form == "csv":
        text = io.StringIO()
        write_csv(text, rows, columns)
        return text.getvalue()
    cells = [[_table_value(row[key], decimals) for key, decimals in columns.items()] for row in rows]
    return _aligned([list(columns), *cells], [decimals is None for decimals in columns.values()])


def write_csv(file: TextIO, rows: Iterable[Row], columns: Iterable[str]) -> None:
    """Write rows as CSV like `format_rows`, one at a time, so that they need not fit into memory."""
    columns = list(columns)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_value(row[key]) for key in columns] for row in rows)


def write_csv_columns(file: TextIO, name: str, columns: Sequence[np.ndarray]) -> None:
    """Rows of `write_csv` with `name` and then many finite numbers, float `[N]` each, in a third of its time."""
    rounded = [column.astype(float).round(_DECIMALS).tolist() for column in columns]
    csv.writer(file, lineterminator="\n").writerows(zip(repeat(_csv_value(name)), *rounded, strict=False))


def _json_value(value: str | int | float | None) -> str | int | float | None:
    if isinstance(value, float):
        return round(value, _DECIMALS) if math.isfinite(value) else None
    return value


def _csv_value(value: str | int | float | None) -> str | int | float | None:
    if isinstance(value, str):  # names of files may not be UTF-8; JSON escapes them alike
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, _DECIMALS)
    return value


def _table_value(value: str | int | float | None, decimals: int | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{decimals}f}" if isinstance(value, float) and decimals is not None else str(value)


def _aligned(lines: list[list[str]], left: list[bool]) -> str:
    """Columns two spaces apart, text aligned left and numbers right, with a rule below the first line."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    justify = [str.ljust if to_left else str.rjust for to_left in left]
    rows = (
        "  ".join(to_side(cell, width) for to_side, cell, width in zip(justify, line, widths, strict=True))
        for line in lines
    )
    return "".join(row.rstrip() + "\n" for row in rows)
