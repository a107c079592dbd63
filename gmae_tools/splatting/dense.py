"""A short differentiable renderer in plain torch: the oracle of the tests, and a backend for any device.

Every pixel is compared with every splat, so cost and memory grow with H x W x K. The renderer deliberately shares no
code with the fast backends. It follows the rules of gsplat 1.5.3 in the order in which gsplat applies them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from gmae_tools.camera import Splats
from gmae_tools.splatting.rules import RasterOptions

ALPHA_MIN = 1 / 255  # below this a splat is skipped
TRANSMITTANCE_MIN = 1e-4  # a splat that would leave no more light than this is skipped and ends the pixel
MAX_ELEMENTS = 2**22  # pairs of pixel and splat held at once; more are rendered in bands of rows


class DenseRaster(NamedTuple):
    """The result of `rasterize_dense` for S groups."""

    images: Tensor  # [B, S, C, H, W]
    alphas: Tensor  # [B, S, 1, H, W] in [0, 1]
    owners: Tensor  # [B, H, W] int64: index (in depth order) of the splat with the largest weight, -1 = none
    owner_weights: Tensor  # [B, H, W] in [0, 1]


def rasterize_dense(splats: Splats, background: Tensor, options: RasterOptions) -> DenseRaster:
    """Composite splats that are already sorted nearest first; differentiable in all their tensors and the background.

    Args:
        splats: Sorted splats with any number of channels and any range of colours. Depths have an effect only on
            gradients, with an `order_temperature`.
        background: Colours `[B, C]`, added to the last group with the light that no splat has absorbed.
        options: Size, groups and rules. Owners are always computed.

    Returns:
        The share of each group in the picture, which is the sum of them.

    Source: gsplat 1.5.3, forward and backward rasterisation kernels (`rasterize_to_pixels_3dgs`).
    """
    drawn, height = sum(options.group_sizes), options.height
    render_rows = partial(_render_rows, splats.map(lambda tensor: tensor[:, :drawn]), background, options)
    rows = max(1, MAX_ELEMENTS // max(1, len(splats.means) * options.width * drawn))
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
    splats: Splats, background: Tensor, options: RasterOptions, top: int, bottom: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`rasterize_dense` for the rows top <= y < bottom."""
    means = splats.means
    ys = torch.arange(top, bottom, dtype=means.dtype, device=means.device) + 0.5
    xs = torch.arange(options.width, dtype=means.dtype, device=means.device) + 0.5
    alpha = _alphas(splats, xs, ys, options.alpha_max)  # [B, H, W, K]
    with torch.no_grad():
        before_the_stop = (1 - alpha).cumprod(-1) > TRANSMITTANCE_MIN
    alpha = alpha * before_the_stop
    # The light that reaches each splat and, last, the background: [B, H, W, K + 1].
    light = pad((1 - alpha).cumprod(-1), (1, 0), value=1.0)
    weights = alpha * light[..., :-1]
    if options.order_temperature is not None:
        weights = _with_uncertain_order(weights, alpha, splats.depths, options.order_temperature)

    images, alphas = [], []
    sizes = list(options.group_sizes)
    for group_weights, group_colors in zip(
        torch.split(weights, sizes, -1), torch.split(splats.colors, sizes, 1), strict=True
    ):
        images.append(torch.einsum("bhwk,bkc->bchw", group_weights, group_colors))
        alphas.append(group_weights.sum(-1)[:, None])
    images[-1] = images[-1] + background[:, :, None, None] * light[:, None, :, :, -1]

    # A leading weight of zero wins where no splat is drawn, because max() names the first of equals.
    owner_weights, owners = pad(weights.detach(), (1, 0)).max(-1)
    return torch.stack(images, 1), torch.stack(alphas, 1), owners - 1, owner_weights


def _with_uncertain_order(weights: Tensor, alpha: Tensor, depths: Tensor, temperature: float) -> Tensor:
    """The same weights `[B, H, W, K]`, with gradients for the depths `[B, K]`.

    A splat that moves back loses weight to the visible splat in front of it: the slope of the logistic function times
    the weight T_j alpha_j alpha_i that the other gains when the two change places.
    """
    with torch.no_grad():
        places = torch.arange(alpha.shape[-1], device=alpha.device)
        seen = places.where(alpha > 0, -1).cummax(-1).values
        front = pad(seen[..., :-1], (1, 0), value=-1)  # the last visible splat before each, -1 for none
        paired = (alpha > 0) & (front >= 0)
        front = front.clamp_min(0)
        gained = weights.gather(-1, front) * alpha
    behind = depths[:, None, None, :].expand_as(alpha)
    apart = behind - behind.gather(-1, front)
    with torch.no_grad():
        probability = torch.sigmoid(apart / temperature)
        slope = probability * (1 - probability) / temperature
    moved = (slope * gained * (apart - apart.detach())).where(paired, 0)  # its value is 0, its derivative is not
    return weights - moved + torch.zeros_like(moved).scatter_add(-1, front, moved)


def _alphas(splats: Splats, xs: Tensor, ys: Tensor, alpha_max: float) -> Tensor:
    """Alpha `[B, H, W, K]` of each splat at pixel centres `xs` `[W]`, `ys` `[H]`; 0 where it is skipped."""
    dx = xs[None, None, :, None] - splats.means[:, None, None, :, 0]  # [B, 1, W, K]
    dy = ys[None, :, None, None] - splats.means[:, None, None, :, 1]  # [B, H, 1, K]
    a, b, c = splats.conics[:, None, None].unbind(-1)  # [B, 1, 1, K] each
    sigma = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
    inside = sigma >= 0
    # Masked before the exponential: where sigma is negative, exp(-sigma) may overflow and spoil the gradient.
    alpha = splats.opacities[:, None, None] * torch.exp(-sigma.where(inside, 0))
    alpha = alpha.clamp(max=alpha_max)
    return alpha.where(inside & (alpha >= ALPHA_MIN), 0)
