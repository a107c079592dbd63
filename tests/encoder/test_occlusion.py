"""What occlusions hide: so much, in that shape, and the same for a picture whenever it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gmae_tools.encoder.occlusion import Occlusion
from gmae_tools.errors import GmaeToolsError

GRID = (6, 9)
NUMBERS = np.arange(40)


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.95])
def test_hides_its_share_of_every_picture(kind: str, ratio: float) -> None:
    masks = Occlusion(kind, ratio).sample(GRID, NUMBERS)  # type: ignore[arg-type]
    assert masks.shape == (40, 54)
    assert set(masks.sum(1).tolist()) == {round(ratio * 54)}
    assert len({tuple(row) for row in masks.tolist()}) > (1 if kind == "block" else 10)


def test_scattered_patches_come_in_many_pieces_and_a_block_in_one() -> None:
    scattered, block = (
        Occlusion(kind, 0.3).sample(GRID, NUMBERS).numpy().reshape(-1, *GRID)  # type: ignore[arg-type]
        for kind in ("random", "block")
    )
    assert np.mean([ndimage.label(mask)[1] for mask in scattered]) > 3
    for mask in block:
        assert ndimage.label(mask)[1] == 1
        rows, columns = (np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (1, 0))
        assert max(rows, columns) <= np.sqrt(mask.sum()) + 2  # as square as can be, but for a ragged edge
    centres = np.array([np.argwhere(mask).mean(0) for mask in block])
    assert (np.ptp(centres, 0) > [1, 3]).all()  # anywhere in the picture


def test_halves() -> None:
    assert set(Occlusion("halves", 0.5).sample((3, 3), NUMBERS).sum(1).tolist()) == {4}


def test_follows_from_number_and_seed() -> None:
    for kind in ("random", "block", "halves"):
        occlusion = Occlusion(kind, 0.5)  # type: ignore[arg-type]
        masks = occlusion.sample(GRID, NUMBERS)
        assert (occlusion.sample(GRID, NUMBERS[[7, 3]]) == masks[[7, 3]]).all()
        assert not (occlusion.sample(GRID, NUMBERS, seed=1) == masks).all()


def test_what_is_hidden_stays_hidden_at_a_higher_ratio() -> None:
    low, high = (Occlusion("random", ratio).sample(GRID, NUMBERS) for ratio in (0.3, 0.8))
    assert (low <= high).all()


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, float("nan")])
def test_impossible_ratios(ratio: float) -> None:
    with pytest.raises(GmaeToolsError, match="between 0 and 1"):
        Occlusion("random", ratio)


def test_a_grid_too_coarse_is_refused() -> None:
    with pytest.raises(GmaeToolsError, match="hides 4 of 2 x 2 patches"):
        Occlusion("block", 0.95).sample((2, 2), NUMBERS)
