"""A straightforward tiled renderer in PyTorch, the baseline of the speed comparison.

What most would write first and keep: a bounding box per splat, a list of splats per 16 x 16 tile, all pixels
of a tile against all splats of its list in one vectorised step, autograd for the backward pass. The boxes are
those of the first 3-D Gaussian splatting code (squares around the longest axis) or, on request, as tight as
gsplat's.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 16


def rasterize_tiled(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    height: int,
    width: int,
    alpha_max: float = 0.999,
    tight: bool = False,
) -> tuple[Tensor, Tensor]:
    """Composite splats sorted nearest first, `[B, K, ...]`: image `[B, C, H, W]` and alpha `[B, 1, H, W]`."""
    images, alphas = zip(
        *(
            _render(*splats, height, width, alpha_max, tight)
            for splats in zip(means, conics, colors, opacities, background, strict=True)
        ),
        strict=True,
    )
    return torch.stack(images).movedim(-1, 1), torch.stack(alphas)[:, None]


def _render(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    height: int,
    width: int,
    alpha_max: float,
    tight: bool,
) -> tuple[Tensor, Tensor]:
    reach = _tight_reach(conics, opacities) if tight else _square_reach(conics)
    low, high = means.detach() - reach, means.detach() + reach
    rows = []
    for top in range(0, height, TILE):
        bottom = min(top + TILE, height)
        in_row = (high[:, 1] > top) & (low[:, 1] < bottom)
        tiles = []
        for left in range(0, width, TILE):
            right = min(left + TILE, width)
            listed = (in_row & (high[:, 0] > left) & (low[:, 0] < right)).nonzero()[:, 0]
            ys, xs = torch.meshgrid(
                torch.arange(top, bottom, dtype=means.dtype) + 0.5,
                torch.arange(left, right, dtype=means.dtype) + 0.5,
                indexing="ij",
            )
            image, alpha = _render_tile(
                means[listed], conics[listed], colors[listed], opacities[listed], background,
                xs.reshape(-1, 1), ys.reshape(-1, 1), alpha_max,
            )  # fmt: skip
            tiles.append(torch.cat([image, alpha], -1).reshape(*xs.shape, -1))
        rows.append(torch.cat(tiles, 1))
    picture = torch.cat(rows, 0)
    return picture[..., :-1], picture[..., -1]


@torch.no_grad()
def _square_reach(conics: Tensor) -> Tensor:
    """Half size `[K, 1]` of a square that holds 3.33 standard deviations of the longest axis."""
    a, b, c = conics.unbind(-1)
    largest_precision = (a + c) / 2 + torch.hypot((a - c) / 2, b)  # times the smallest: the determinant
    return torch.ceil(3.33 * torch.sqrt(largest_precision / (a * c - b * b)))[:, None]


@torch.no_grad()
def _tight_reach(conics: Tensor, opacities: Tensor) -> Tensor:
    """Half size `[K, 2]` of the box in which alpha can reach 1/255 (a hair larger, against rounding)."""
    a, b, c = conics.unbind(-1)
    variances = torch.stack([c, a], -1) / (a * c - b * b)[:, None]
    return torch.sqrt(variances * 2 * torch.log(255 * opacities)[:, None]) + 1e-2  # NaN: never seen, in no tile


def _render_tile(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    xs: Tensor,
    ys: Tensor,
    alpha_max: float,
) -> tuple[Tensor, Tensor]:
    """Pixels `[P, 1]` against the splats `[n]` of the tile's list: image `[P, C]`, alpha `[P, 1]`."""
    dx, dy = xs - means[:, 0], ys - means[:, 1]
    a, b, c = conics.unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities * torch.exp(-sigma)).clamp(max=alpha_max)
    alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, 0.0)
    behind = torch.cumprod(1 - alpha, -1)
    before = torch.cat([torch.ones_like(xs), behind[:, :-1]], -1)[:, : len(means)]
    weights = torch.where(behind > 1e-4, alpha * before, 0.0)
    total = weights.sum(-1, keepdim=True)
    return weights @ colors + (1 - total) * background, total
