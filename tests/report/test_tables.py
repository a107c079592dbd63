"""Tables as text."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np

from gmae_tools.report.tables import format_rows, write_csv_columns

COLUMNS = {"image": None, "k": None, "psnr": 2}
ROWS = [
    {"image": 'a "b", c.jpg', "k": 32, "psnr": 12.3456789},
    {"image": "d.jpg", "k": "all", "psnr": math.inf},
    {"image": "é.jpg", "k": 7, "psnr": math.nan},
]


def test_table_aligns_text_left_and_numbers_right() -> None:
    assert format_rows(ROWS, COLUMNS, "table") == (
        "image         k     psnr\n"
        "------------  ---  -----\n"
        'a "b", c.jpg  32   12.35\n'
        "d.jpg         all    inf\n"
        "é.jpg         7        -\n"
    )


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(format_rows(ROWS, COLUMNS, "csv"))))
    assert rows == [
        {"image": 'a "b", c.jpg', "k": "32", "psnr": "12.345679"},
        {"image": "d.jpg", "k": "all", "psnr": "inf"},
        {"image": "é.jpg", "k": "7", "psnr": ""},
    ]


def test_columns_are_written_as_rows_are() -> None:
    numbers = np.random.default_rng(0).normal(size=(3, 500)) * [[1e-6], [1.0], [1e5]]
    rows = [{"image": 'a "b", c.jpg', "x": x, "y": y, "z": z} for x, y, z in numbers.T.tolist()]
    text = io.StringIO()
    write_csv_columns(text, 'a "b", c.jpg', list(numbers))
    assert "image,x,y,z\n" + text.getvalue() == format_rows(rows, dict.fromkeys(["image", "x", "y", "z"]), "csv")


def test_csv_and_json_hold_names_that_are_not_utf_8() -> None:
    row: dict[str, str | int | float | None] = {"image": "caf\udce9.jpg"}
    assert format_rows([row], {"image": None}, "csv") == "image\ncaf\\udce9.jpg\n"
    assert "caf\\udce9.jpg" in format_rows([row], {"image": None}, "json")


def test_json_is_a_list_of_objects_in_strict_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(format_rows(ROWS, COLUMNS, "json"), parse_constant=refuse) == [
        {"image": 'a "b", c.jpg', "k": 32, "psnr": 12.345679},
        {"image": "d.jpg", "k": "all", "psnr": None},
        {"image": "é.jpg", "k": 7, "psnr": None},
    ]


def test_without_rows_the_header_remains() -> None:
    assert format_rows([], COLUMNS, "table") == "image  k  psnr\n-----  -  ----\n"
    assert format_rows([], COLUMNS, "csv") == "image,k,psnr\n"
    assert format_rows([], COLUMNS, "json") == "[]\n"
