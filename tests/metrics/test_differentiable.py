"""SSIM as a loss, against `metrics.pictures.ssim` and finite differences."""

from __future__ import annotations

import pytest
import torch

from gmae_tools.metrics import pictures
from gmae_tools.metrics.differentiable import ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_the_metric_for_every_picture_of_a_batch() -> None:
    a = noise(2, 3, 19, 26)
    b = (a + 0.3 * noise(2, 3, 19, 26, seed=1)).clamp(0, 1)
    expected = [
        pictures.ssim(x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy()) for x, y in zip(a, b, strict=True)
    ]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-9)


def test_gradient() -> None:
    a, b = noise(1, 1, 8, 9).requires_grad_(), noise(1, 1, 8, 9, seed=1)
    assert torch.autograd.gradcheck(lambda x: ssim(x, b), a)
