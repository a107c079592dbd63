"""Enlarge a map along the edges of a picture: the fast guided filter.

Sources: He, Sun and Tang, "Guided image filtering" (ECCV 2010); He and Sun, "Fast guided filter" (arXiv:1505.00996).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

Array = np.ndarray

RADIUS = 2  # of the square windows, in pixels of the small map
SMOOTHNESS = 1e-3  # variance of colours in [0, 1] below which a window counts as uniform


def enlarge_along(small: Array, small_picture: Array, picture: Array) -> Array:
    """Enlarge a map so that its edges follow those of a picture.

    In each small window the map is fitted as a linear function of red, green and blue. The coefficients are averaged
    over the windows, enlarged, and applied to the large picture.

    Args:
        small: map `[h, w]` in [0, 1].
        small_picture: the picture in the size of the map, uint8 RGB `[h, w, 3]`.
        picture: the picture, uint8 RGB `[H, W, 3]`.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    colors = small_picture / 255.0
    color, mean = _window_mean(colors), _window_mean(small)
    shared = _window_mean(colors * small[..., None]) - color * mean[..., None]
    spread = _window_mean(colors[..., :, None] * colors[..., None, :]) - color[..., :, None] * color[..., None, :]
    slope = np.linalg.solve(spread + SMOOTHNESS * np.eye(3), shared[..., None])[..., 0]
    offset = mean - (slope * color).sum(-1)

    height, width = picture.shape[:2]
    large = enlarge(_window_mean(offset), height, width)
    for channel in range(3):
        large += enlarge(_window_mean(slope[..., channel]), height, width) * (picture[..., channel] / np.float32(255))
    return large.clip(0, 1)


def _window_mean(values: Array) -> Array:
    """Average values `[h, w, ...]` over the window around each pixel."""
    size = (2 * RADIUS + 1,) * 2 + (1,) * (values.ndim - 2)
    return np.asarray(ndimage.uniform_filter(values, size, mode="nearest"))


def enlarge(small: Array, height: int, width: int) -> Array:
    """Resize a map bilinearly to float32 `[height, width]`, an array that may be written to."""
    image = Image.fromarray(small.astype(np.float32))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))
