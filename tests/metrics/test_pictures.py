"""PSNR and SSIM against scikit-image, whatever the size of the pictures and of the strips."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gmae_tools.metrics import pictures
from gmae_tools.metrics.pictures import psnr, ssim


def pair(height: int, width: int, *channels: int, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random picture and a noisy copy of it."""
    rng = np.random.default_rng(seed)
    a = rng.random((height, width, *channels)).cumsum(0).cumsum(1)
    a /= a.max()
    return a, np.clip(a + rng.normal(0, noise, a.shape), 0, 1)


@pytest.mark.parametrize("strip_rows", [1, 16, 1000])
@pytest.mark.parametrize("shape", [(61, 47, 3), (7, 7, 3), (7, 90, 3), (90, 8, 1), (33, 40)])
@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
def test_as_scikit_image(
    monkeypatch: pytest.MonkeyPatch, strip_rows: int, shape: tuple[int, ...], noise: float
) -> None:
    monkeypatch.setattr(pictures, "STRIP_PIXELS", strip_rows * 60)
    a, b = pair(*shape, noise=noise)
    axis = -1 if a.ndim == 3 else None
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-9)
    assert ssim(a, b) == pytest.approx(structural_similarity(a, b, channel_axis=axis, data_range=1), abs=1e-9)


def test_float32_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat bright pictures, where float32 variances would cancel."""
    rng = np.random.default_rng(0)
    a = (0.9 + 0.001 * rng.random((50, 60, 3))).astype(np.float32)
    b = (0.9 + 0.001 * rng.random((50, 60, 3))).astype(np.float32)
    oracle = structural_similarity(a.astype(float), b.astype(float), channel_axis=-1, data_range=1)
    assert ssim(a, b) == pytest.approx(oracle, abs=1e-9)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a.astype(float), b.astype(float), data_range=1))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_pictures_smaller_than_the_window(height: int, width: int, seed: int) -> None:
    a, b = pair(height, width, 3, seed=seed)
    window = max(size for size in (1, 3, 5, 7) if size <= min(height, width))
    if window < 3:
        assert math.isnan(ssim(a, b))
    else:
        oracle = structural_similarity(a, b, channel_axis=-1, data_range=1, win_size=window)
        assert ssim(a, b) == pytest.approx(oracle, abs=1e-9)


def test_known_values() -> None:
    a, b = pair(20, 30, 3)
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-12)
    assert psnr(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)) == pytest.approx(20.0)
    assert psnr(np.zeros((1, 1, 3)), np.ones((1, 1, 3))) == pytest.approx(0.0)
    assert ssim(np.zeros((9, 9)), np.ones((9, 9))) == pytest.approx(1e-4 / (1 + 1e-4))
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert ssim(a, b) < 0.9
    assert math.isnan(psnr(np.full((8, 8), np.nan), np.zeros((8, 8))))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_misuse_is_refused(metric) -> None:  # type: ignore[no-untyped-def]
    a = np.zeros((8, 8, 3))
    with pytest.raises(ValueError, match="both alike"):
        metric(a, np.zeros((8, 9, 3)))
    with pytest.raises(ValueError, match="both alike"):
        metric(np.zeros((0, 8, 3)), np.zeros((0, 8, 3)))
    with pytest.raises(ValueError, match="floating point"):
        metric(a, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_memory_is_bounded(metric) -> None:  # type: ignore[no-untyped-def]
    """Working memory stays far below one float64 copy of the picture (115 MB)."""
    a = np.zeros((2000, 2400, 3), np.float16)
    tracemalloc.start()
    metric(a, a)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
