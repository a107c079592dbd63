"""PSNR and SSIM in strips, against scikit-image on whole pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gmae_tools.metrics.pictures import StreamingSimilarity

RNG = np.random.default_rng(0)


def pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    a = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise = RNG.normal(0, 20, a.shape)
    return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def measure(a: np.ndarray, b: np.ndarray, cuts: list[int]) -> tuple[float, float]:
    similarity = StreamingSimilarity(*a.shape[:2])
    for strips in zip(np.split(a, cuts), np.split(b, cuts), strict=True):
        similarity.update(*strips)
    return similarity.compute()


@pytest.mark.parametrize("width", [40, 5])
@pytest.mark.parametrize("cuts", [[], [16, 32], [7, 8, 30, 47]])
def test_strips_give_the_figures_of_the_whole(width: int, cuts: list[int]) -> None:
    a, b = pair(48, width)
    psnr, ssim = measure(a, b, cuts)
    assert psnr == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-4)
    window = min(7, width)
    expected = structural_similarity(a / 255.0, b / 255.0, channel_axis=-1, data_range=1.0, win_size=window)
    assert ssim == pytest.approx(expected, abs=1e-6)


def test_equal_pictures() -> None:
    a, _ = pair(20, 20)
    assert measure(a, a, [10]) == (math.inf, pytest.approx(1.0))


def test_no_structure_in_a_single_pixel() -> None:
    psnr, ssim = measure(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8), [])
    assert psnr == pytest.approx(0.0)
    assert math.isnan(ssim)


@pytest.mark.parametrize("other", [np.zeros((9, 20, 3), np.uint8), np.zeros((10, 20, 3))])
def test_strips_that_do_not_fit_are_refused(other: np.ndarray) -> None:
    with pytest.raises(ValueError, match="both alike"):
        StreamingSimilarity(10, 20).update(np.zeros((10, 20, 3), np.uint8), other)
