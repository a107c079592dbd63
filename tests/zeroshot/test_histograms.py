"""Edges of a picture by what is distributed differently on two sides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2lab

from gmae_tools.zeroshot.histograms import BINS, DIRECTIONS, histogram_gradient

SIGMA = 2.0


def test_a_uniform_picture_has_no_edges() -> None:
    assert histogram_gradient(np.full((20, 30, 3), 90, np.uint8)).max() < 1e-5
    assert histogram_gradient(np.full((1, 1, 3), 90, np.uint8)).max() < 1e-5  # smaller than any window


@pytest.mark.parametrize("across", [False, True])
def test_an_edge_between_two_colors_is_strongest_on_the_edge(across: bool) -> None:
    picture = np.full((60, 60, 3), (150, 40, 60), np.uint8)
    picture[:, 30:] = (40, 90, 160)
    found = histogram_gradient(picture.transpose(1, 0, 2) if across else picture)
    found = found.T if across else found
    assert found.dtype == np.float32 and found.shape == (60, 60) and found.max() <= 1
    assert set(found.argmax(1)) <= {29, 30} and found[:, :10].max() < 0.02 * found.max()


def test_texture_of_the_same_mean_color_has_an_edge() -> None:
    """Stripes beside a plain field, which blurred colours cannot tell apart."""
    picture = np.full((80, 80, 3), 128, np.uint8)
    picture[:, :40] = np.where(np.arange(40) % 4 < 2, 88, 168)[:, None]
    texture = histogram_gradient(picture, color_sigmas=())
    assert np.abs(texture[20:60].mean(0).argmax() - 39.5) < 4
    assert texture[20:60, 36:44].max() > 3 * texture[20:60, 8:28].max()


def test_colors_are_compared_by_chi_squared_in_two_windows() -> None:
    """Against the formula written out, at a few pixels away from the border."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    lab, windows = rgb2lab(picture), []
    for channel, (low, high) in enumerate([(0, 100), (-60, 60), (-60, 60)]):
        place = (lab[..., channel].clip(low, high) - low) / (high - low) * (BINS - 1)
        members = np.maximum(0, 1 - np.abs(place - np.arange(BINS)[:, None, None]))
        windows.append([ndimage.gaussian_filter(each, SIGMA, mode="nearest", truncate=2.5) for each in members])
    share = np.array(windows)  # [channels, bins, H, W]
    found = histogram_gradient(picture, color_sigmas=(SIGMA,), texture_sigmas=())
    for y, x in ((12, 20), (20, 11), (27, 28)):
        distances = []
        for angle in np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
            down, right = round(SIGMA * np.sin(angle)), round(SIGMA * np.cos(angle))
            p, q = share[:, :, y + down, x + right], share[:, :, y - down, x - right]
            distances.append(((p - q) ** 2 / np.maximum(p + q, 1e-9) / 2).sum(1).mean())
        assert found[y, x] == pytest.approx(max(distances), abs=1e-4)


def test_a_mirrored_picture_has_mirrored_edges() -> None:
    picture = ndimage.gaussian_filter(np.random.default_rng(1).random((50, 70, 3)), (2, 2, 0))
    picture = (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)
    mirrored = histogram_gradient(np.ascontiguousarray(picture[:, ::-1]))[:, ::-1]
    np.testing.assert_allclose(histogram_gradient(picture), mirrored, atol=1e-4)
