"""Maps that are enlarged along the edges of a picture."""

from __future__ import annotations

import numpy as np
import pytest

from gmae_tools.images import resize
from gmae_tools.zeroshot.guided_filter import enlarge, enlarge_along


def test_the_edge_of_a_map_moves_to_that_of_the_picture() -> None:
    """The edge lies between two pixels of the small picture, so that the small map cannot have it."""
    picture = np.full((120, 160, 3), 30, np.uint8)
    picture[:, 67:] = (200, 90, 150)
    small_picture = resize(picture, 30, 40)
    small = (small_picture[..., 0] > 100).astype(np.float32)
    found, plain = enlarge_along(small, small_picture, picture), enlarge(small, 120, 160)
    truth = np.broadcast_to(np.arange(160) >= 67, (120, 160))
    assert found.dtype == np.float32 and found.shape == (120, 160)
    assert ((found > 0.5) == truth).all() and not ((plain > 0.5) == truth).all()
    assert np.abs(found - truth).mean() < 0.5 * np.abs(plain - truth).mean()


def test_each_window_is_a_least_squares_fit_of_the_map_to_the_colors() -> None:
    """With one window's width of pixels, against ridge regression written out."""
    generator = np.random.default_rng(0)
    picture, small = generator.integers(0, 256, (9, 8, 3), np.uint8), generator.random((9, 8))
    colors = picture / 255
    slopes, offsets = np.zeros((9, 8, 3)), np.zeros((9, 8))
    for y in range(9):
        for x in range(8):
            rows, columns = np.clip([y - 1, y, y + 1], 0, 8), np.clip([x - 1, x, x + 1], 0, 7)
            near, values = colors[rows][:, columns].reshape(9, 3), small[rows][:, columns].ravel()
            centred = near - near.mean(0)
            system = centred.T @ centred / 9 + 0.01 * np.eye(3)
            slopes[y, x] = np.linalg.inv(system) @ (centred.T @ (values - values.mean()) / 9)
            offsets[y, x] = values.mean() - slopes[y, x] @ near.mean(0)
    expected = np.zeros((9, 8))
    for y in range(9):
        for x in range(8):
            rows, columns = np.clip([y - 1, y, y + 1], 0, 8), np.clip([x - 1, x, x + 1], 0, 7)
            slope, offset = slopes[rows][:, columns].reshape(9, 3).mean(0), offsets[rows][:, columns].mean()
            expected[y, x] = slope @ colors[y, x] + offset
    found = enlarge_along(small, picture, picture, radius=1, smoothness=0.01)
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_map_of_one_value_keeps_it(value: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    found = enlarge_along(np.full((20, 15), value), resize(picture, 20, 15), picture)
    np.testing.assert_allclose(found, value, atol=1e-6)
