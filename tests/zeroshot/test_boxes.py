"""Boxes of masks, against flood filling by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmae_tools.zeroshot.boxes import boxes, largest_box


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The pieces of a mask as sets of (y, x), in the order of their first pixels."""
    left, pieces = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    for start in sorted(left):
        if start not in left:
            continue
        piece, todo = set(), [start]
        while todo:
            y, x = todo.pop()
            if (y, x) in left:
                left.remove((y, x))
                piece.add((y, x))
                todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        pieces.append(piece)
    return pieces


def outline(piece: set[tuple[int, int]]) -> list[int]:
    ys, xs = zip(*piece, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), density=st.floats(0, 0.6), height=st.integers(1, 12), width=st.integers(1, 12))
def test_boxes_are_those_of_a_flood_fill_largest_first(seed: int, density: float, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    pieces = sorted(flood(mask), key=lambda piece: -len(piece))
    assert boxes(mask, small=0).tolist() == [outline(piece) for piece in pieces]


def test_crumbs_are_left_out_by_their_share_of_the_figure() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:12, 3:12] = True  # 90 pixels
    mask[15, 20:29] = True  # 9
    mask[18, 1] = True  # 1, which is 0.01 of the 100
    assert boxes(mask).tolist() == [[3, 2, 12, 12], [20, 15, 29, 16], [1, 18, 2, 19]]
    assert boxes(mask, small=0.011).tolist() == [[3, 2, 12, 12], [20, 15, 29, 16]]
    assert boxes(mask, small=0.1).tolist() == [[3, 2, 12, 12]]
    assert boxes(mask, small=1.0).tolist() == [[3, 2, 12, 12]]


def test_without_figure_there_is_no_box() -> None:
    nothing = boxes(np.zeros((4, 5), bool))
    assert nothing.shape == (0, 4) and nothing.dtype == np.int64
    assert largest_box(np.zeros((4, 5), bool)) is None


@pytest.mark.parametrize("shape", [(1, 1), (7, 3)])
def test_all_figure_is_one_box(shape: tuple[int, int]) -> None:
    box = largest_box(np.ones(shape, bool))
    assert box is not None and box.tolist() == [0, 0, shape[1], shape[0]]
