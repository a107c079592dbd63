"""Gaussians by chance, for tests of what files hold."""

from __future__ import annotations

import torch
from torch import Tensor

from gmae_tools.gaussians import Gaussians

K = 50


def some_gaussians(k: int = K) -> Gaussians:
    """One set; always the same."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(1, k, *shape, generator=generator)

    return Gaussians(
        means=uniform(-1.0, 1.0, 3),
        scales=uniform(-3.0, 0.5, 3).exp(),
        quats=torch.nn.functional.normalize(uniform(-1.0, 1.0, 4), dim=-1),
        colors=uniform(0.0, 1.0, 3),
        opacities=uniform(0.01, 1.0),
    )
