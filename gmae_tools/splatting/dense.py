"""Short differentiable renderer in plain torch: the oracle of the tests, and a backend for any device.

Every pixel is compared with every splat, so cost and memory grow with H x W x K. It shares no code with the
fast backends on purpose, and follows gsplat 1.5.3's rules in the order in which they are written there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

ALPHA_MIN = 1 / 255  # below this a splat is skipped
TRANSMITTANCE_MIN = 1e-4  # a splat that would leave no more light than this ends the pixel, undrawn
MAX_ELEMENTS = 2**22  # pixel-splat pairs held at once; more are drawn in bands of rows


class DenseRaster(NamedTuple):
    """What `rasterize_dense` draws; `S` groups."""

    images: Tensor  # [B, S, C, H, W]
    alphas: Tensor  # [B, S, 1, H, W] in [0, 1]
    owners: Tensor  # [B, H, W] int64: index (in depth order) of the splat with the largest weight, -1 = none
    owner_weights: Tensor  # [B, H, W] in [0, 1]


def rasterize_dense(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    height: int,
    width: int,
    group_sizes: Sequence[int],
    alpha_max: float = 0.999,
) -> DenseRaster:
    """Composite splats that are already sorted nearest first; differentiable in all five tensors.

    Args:
        means: `[B, K, 2]` centres (x, y) in pixels; the centre of the first pixel is (0.5, 0.5).
        conics: `[B, K, 3]` (a, b, c) in 1/px^2; sigma = (a dx^2 + c dy^2) / 2 + b dx dy.
        colors: `[B, K, C]`, any range and any number of channels.
        opacities: `[B, K]` in [0, 1].
        background: `[B, C]`, added to the last group with the light that no splat has taken.
        height, width: size of the picture in pixels.
        group_sizes: numbers of consecutive splats, at least one group; what is left of the K is not drawn.
        alpha_max: upper limit of a splat's alpha. Where it is reached only the colour gets a gradient.

    Returns:
        Each group's share of the composite: the sum over the groups is the whole picture.

    Source: gsplat 1.5.3, forward and backward rasterisation kernels (`rasterize_to_pixels_3dgs`).
    """
    drawn = sum(group_sizes)
    splats = (means[:, :drawn], conics[:, :drawn], colors[:, :drawn], opacities[:, :drawn])
    render_rows = partial(
        _render_rows, *splats, background, width=width, group_sizes=list(group_sizes), alpha_max=alpha_max
    )
    rows = max(1, MAX_ELEMENTS // max(1, means.shape[0] * width * drawn))
    if rows >= height:
        return DenseRaster(*render_rows(0, height))
    # Each band is computed again in the backward pass, so that only one is held in memory at a time.
    bands = [
        checkpoint(render_rows, top, min(top + rows, height), use_reentrant=False) for top in range(0, height, rows)
    ]
    images, alphas, owners, owner_weights = zip(*bands, strict=True)
    return DenseRaster(
        torch.cat(images, -2), torch.cat(alphas, -2), torch.cat(owners, -2), torch.cat(owner_weights, -2)
    )


def _render_rows(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    top: int,
    bottom: int,
    *,
    width: int,
    group_sizes: list[int],
    alpha_max: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`rasterize_dense` for the rows top <= y < bottom."""
    ys = torch.arange(top, bottom, dtype=means.dtype, device=means.device) + 0.5
    xs = torch.arange(width, dtype=means.dtype, device=means.device) + 0.5
    alpha = _alphas(means, conics, opacities, xs, ys, alpha_max)  # [B, H, W, K]
    with torch.no_grad():
        before_the_stop = (1 - alpha).cumprod(-1) > TRANSMITTANCE_MIN
    alpha = alpha * before_the_stop
    # The light that reaches each splat and, last, the background: [B, H, W, K + 1].
    light = pad((1 - alpha).cumprod(-1), (1, 0), value=1.0)
    weights = alpha * light[..., :-1]

    images, alphas = [], []
    for group_weights, group_colors in zip(
        torch.split(weights, group_sizes, -1), torch.split(colors, group_sizes, 1), strict=True
    ):
        images.append(torch.einsum("bhwk,bkc->bchw", group_weights, group_colors))
        alphas.append(group_weights.sum(-1)[:, None])
    images[-1] = images[-1] + background[:, :, None, None] * light[:, None, :, :, -1]

    # A leading weight of zero wins where no splat is drawn, because max() names the first of equals.
    owner_weights, owners = pad(weights.detach(), (1, 0)).max(-1)
    return torch.stack(images, 1), torch.stack(alphas, 1), owners - 1, owner_weights


def _alphas(means: Tensor, conics: Tensor, opacities: Tensor, xs: Tensor, ys: Tensor, alpha_max: float) -> Tensor:
    """Alpha `[B, H, W, K]` of each splat at pixel centres `xs` `[W]`, `ys` `[H]`; 0 where it is skipped."""
    dx = xs[None, None, :, None] - means[:, None, None, :, 0]  # [B, 1, W, K]
    dy = ys[None, :, None, None] - means[:, None, None, :, 1]  # [B, H, 1, K]
    a, b, c = conics[:, None, None].unbind(-1)  # [B, 1, 1, K] each
    sigma = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
    inside = sigma >= 0
    # Masked before the exponential: where sigma is negative, exp(-sigma) may overflow and spoil the gradient.
    alpha = opacities[:, None, None] * torch.exp(-sigma.where(inside, 0))
    alpha = alpha.clamp(max=alpha_max)
    return alpha.where(inside & (alpha >= ALPHA_MIN), 0)
