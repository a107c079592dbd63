"""Pixels that rounding decides: where a splat is barely drawn or not, pictures of equal splats may differ visibly."""

from __future__ import annotations

import torch
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.splatting.rules import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN


def assert_equal_but_at_thresholds(actual: Tensor, expected: Tensor, splats: Splats, atol: float) -> None:
    """Compare pictures `[B, 3, H, W]`; other pixels than those near one of the renderer's thresholds must be close.

    The thresholds are the alpha of 1/255 below which a splat is skipped, and the light of 1e-4 that ends a pixel.
    No more than one pixel of a thousand may be left to them.
    """
    difference = (actual - expected).abs().amax(1)
    apart = (difference > atol).nonzero()
    assert len(apart) <= difference.numel() / 1000, f"{len(apart)} of {difference.numel()} pixels differ"
    for picture, y, x in apart.tolist():
        doubt = _nearest_threshold(splats, picture, y, x)
        assert doubt < 1e-3, f"{difference[picture, y, x]:g} in picture {picture} at {x}, {y}"


def _nearest_threshold(splats: Splats, picture: int, y: int, x: int) -> float:
    """The least relative distance of an alpha or of the light from its threshold at one pixel."""
    order = splats.depths[picture].argsort(stable=True)
    a, b, c = splats.conics[picture, order].double().unbind(-1)
    dx, dy = (torch.tensor([x, y]) + 0.5 - splats.means[picture, order].double()).unbind(-1)
    alphas = splats.opacities[picture, order].double() * torch.exp(-(a * dx * dx + c * dy * dy) / 2 - b * dx * dy)
    light = torch.cumprod(1 - torch.where(alphas < ALPHA_MIN, 0, alphas.clamp_max(ALPHA_MAX)), 0)
    return min(float((alphas / ALPHA_MIN - 1).abs().min()), float((light / TRANSMITTANCE_MIN - 1).abs().min()))
