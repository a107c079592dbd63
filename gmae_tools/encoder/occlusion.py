"""Random masks that hide parts of pictures: scattered patches, one block, or two complementary halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError

Kind = Literal["random", "block", "halves"]


@dataclass(frozen=True)
class Occlusion:
    """A way to hide parts of a picture.

    Args:
        kind: `random`: patches anywhere; `block`: one block, as square as the number of patches allows, anywhere;
            `halves`: a random half of the patches, to be compared with the other half.
        ratio: share of the patches that is hidden, inside 0..1; one half for `halves`.
    """

    kind: Kind
    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise GmaeToolsError(f"ratio {self.ratio:g}: the share of hidden patches must lie between 0 and 1")

    def sample(self, grid: tuple[int, int], numbers: np.ndarray, seed: int = 0) -> Tensor:
        """Sample masks, bool `[B, N]`, True where a patch is hidden; every row hides the same number of patches.

        A picture's mask depends on its number and the seed alone. Scattered patches that a lower ratio hides stay
        hidden at a higher one.

        Args:
            grid: rows and columns of patches.
            numbers: int `[B]` of the pictures, any that tell them apart.
            seed: of the random numbers.

        Raises:
            GmaeToolsError: the grid is so coarse that nothing, or everything, would be hidden.
        """
        patches = grid[0] * grid[1]
        hidden = patches // 2 if self.kind == "halves" else round(self.ratio * patches)
        if not 0 < hidden < patches:
            size = f"{grid[0]} x {grid[1]} patches"
            raise GmaeToolsError(f"ratio {self.ratio:g} hides {hidden} of {size}: choose one further from 0 and 1")
        masks = np.zeros((len(numbers), patches), bool)
        for mask, number in zip(masks, numbers.tolist(), strict=True):
            rng = np.random.default_rng((seed, number))
            order = _from_a_place(grid, hidden, rng) if self.kind == "block" else rng.permutation(patches)
            mask[order[:hidden]] = True
        return torch.from_numpy(masks)


def _from_a_place(grid: tuple[int, int], hidden: int, rng: np.random.Generator) -> np.ndarray:
    """All patches, nearest first (by the larger of the distances in x and y), around a place where a square fits."""
    sides = np.array(grid, float)
    margin = np.minimum(np.sqrt(hidden), sides) / 2
    centre = margin + rng.random(2) * (sides - 2 * margin)
    places = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in grid), indexing="ij"), -1).reshape(-1, 2)
    return np.abs(places - centre).max(1).argsort(kind="stable")
