"""Vectors of 16 floats in kernels: what numba's bounds checks see of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numba import njit

from gmae_tools.splatting.rules import TILE
from gmae_tools.splatting.simd import LANES, lane_sum, load, store

SHAPE = (3, LANES + 4)


@njit(boundscheck=True)
def read(array, row: int, column: int):  # type: ignore[no-untyped-def]
    """Sum of 16 values."""
    return lane_sum(load(array, (row, column)))


@njit(boundscheck=True)
def write(array, row: int, column: int) -> None:  # type: ignore[no-untyped-def]
    """Make 16 values ones."""
    store(array, (row, column), 1.0)


def test_a_row_of_a_tile_is_one_vector() -> None:
    assert TILE == LANES


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 4), (1, 3)])
def test_what_lies_inside_may_be_read_and_written(row: int, column: int) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    assert read(values, row, column) == values[row, column : column + LANES].sum()
    expected = values.copy()
    expected[row, column : column + LANES] = 1
    write(values, row, column)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(("row", "column"), [(3, 0), (-1, 0), (0, 5), (0, LANES), (0, -1), (2, 5)])
@pytest.mark.parametrize("access", [read, write])
def test_bounds_checks_cover_every_lane(access: Callable[..., object], row: int, column: int) -> None:
    """Also where only the last lane lies beyond the end of a row; an access unchecked would hit the margin here."""
    margin = np.zeros((9, SHAPE[1]), np.float32)
    with pytest.raises(IndexError, match="out of bounds"):
        access(margin[3:6], row, column)
    assert not margin.any()
