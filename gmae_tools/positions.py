"""Places in a picture, and the fixed embedding that tells a transformer of them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def sincos_embedding(places: Tensor, width: int) -> Tensor:
    """Fixed 2-D sine-cosine embedding `[N, width]` of places `[N, 2]` (x, y) in patches, in MAE's channel order.

    The first half encodes the column (MAE's `get_2d_sincos_pos_embed` builds its mesh with w first), sines before
    cosines.
    """
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = places.double()[..., None] * frequencies  # [N, 2, quarter]
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1).float()


@lru_cache(maxsize=32)
def patch_positions(grid: tuple[int, int], side: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Position embeddings `[N, width]`: those of a `side` x `side` grid, between its points for other grids.

    Kept on the device, since a GPU that is sent them in every step is waited for.
    """
    y, x = ((torch.arange(count, dtype=torch.float32) + 0.5) * side / count - 0.5 for count in grid)
    return sincos_embedding(torch.cartesian_prod(y, x).flip(-1), width).to(device)  # places as (x, y)


def query_places(count: int) -> Tensor:
    """`[count, 2]` places in [-1, 1]^2, evenly spread: rows of a grid whose lengths differ by at most one."""
    rows = max(1, round(math.sqrt(count)))
    lengths = [count // rows + (row < count % rows) for row in range(rows)]
    places = [
        ((column + 0.5) / length, (row + 0.5) / rows) for row, length in enumerate(lengths) for column in range(length)
    ]
    return torch.tensor(places, dtype=torch.float32) * 2 - 1
