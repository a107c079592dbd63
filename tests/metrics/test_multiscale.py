"""MS-SSIM, against its definition written with torch's convolution and pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d

from gmae_tools.metrics.multiscale import ms_ssim


def pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Waves, and the same with noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 7), np.cos(y / 11), np.sin((x + y) / 23)], -1) / 2 + 0.5
    noise = np.random.default_rng(0).normal(0, 0.1, waves.shape)
    return waves, np.clip(waves + noise, 0, 1)


def by_torch(a: np.ndarray, b: np.ndarray) -> float:
    offsets = torch.arange(-5.0, 6.0, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / 4.5)
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def blur(x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, window)

    channels = []
    for channel in range(3):
        x, y = (torch.from_numpy(picture[..., channel])[None, None] for picture in (a, b))
        likeness = 1.0
        for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
            mean_x, mean_y = blur(x), blur(y)
            luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
            covariance = blur(x * y) - mean_x * mean_y
            variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
            structure = (2 * covariance + 9e-4) / (variances + 9e-4)
            likeness *= float((luminance * structure if weight == 0.1333 else structure).mean()) ** weight
            padding = [side % 2 for side in x.shape[2:]]
            x, y = (avg_pool2d(picture, 2, padding=padding) for picture in (x, y))
        channels.append(likeness)
    return float(np.mean(channels))


@pytest.mark.parametrize("size", [(161, 200), (200, 321)])
def test_equals_the_definition_written_in_torch(size: tuple[int, int]) -> None:
    assert ms_ssim(*pair(*size)) == pytest.approx(by_torch(*pair(*size)), abs=1e-9)


def test_equal_pictures_are_alike_and_opposites_are_not() -> None:
    waves, _ = pair(170, 170)
    assert ms_ssim(waves, waves) == pytest.approx(1)
    assert ms_ssim(waves, 1 - waves) < 0.1


def test_small_pictures_and_different_shapes_are_refused() -> None:
    for shape, other in (((160, 200, 3), (160, 200, 3)), ((200, 200), (200, 200)), ((200, 200, 3), (200, 201, 3))):
        with pytest.raises(ValueError, match="161 px"):
            ms_ssim(np.zeros(shape), np.zeros(other))
