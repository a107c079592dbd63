"""Enlarge a map along the edges of a picture: the fast guided filter.

Sources: He, Sun and Tang, "Guided image filtering" (ECCV 2010); He and Sun, "Fast guided filter" (arXiv:1505.00996).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

Array = np.ndarray

RADIUS, SMOOTHNESS = 2, 1e-3


def enlarge_along(
    small: Array, small_picture: Array, picture: Array, *, radius: int = RADIUS, smoothness: float = SMOOTHNESS
) -> Array:
    """Enlarge a map so that its edges follow those of a picture.

    In each small window the map is fitted as a linear function of red, green and blue. The coefficients are averaged
    over the windows, enlarged, and applied to the large picture.

    Args:
        small: map `[h, w]` in [0, 1].
        small_picture: the picture in the size of the map, uint8 RGB `[h, w, 3]`.
        picture: the picture, uint8 RGB `[H, W, 3]`.
        radius: of the square windows, in pixels of the small map; a window has 2 radius + 1 pixels a side.
        smoothness: variance of colours in [0, 1] below which a window counts as uniform.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    red, green, blue = colors = np.moveaxis(small_picture / 255.0, -1, 0)
    products = red * red, red * green, red * blue, green * green, green * blue, blue * blue
    means = _window_means(np.stack([*products, *colors * small, *colors, small]), radius)
    color, mean = means[9:12], means[12]
    rows = means[:6][[[0, 1, 2], [1, 3, 4], [2, 4, 5]]] - color[:, None] * color  # of the windows' covariances
    rows[[0, 1, 2], [0, 1, 2]] += smoothness
    adjugate = np.stack([np.cross(rows[a], rows[b], axis=0) for a, b in ((1, 2), (2, 0), (0, 1))])
    slope = (adjugate * (means[6:9] - color * mean)[:, None]).sum(0) / (rows[0] * adjugate[0]).sum(0)
    offset = mean - (slope * color).sum(0)

    height, width = picture.shape[:2]
    *slope, offset = _window_means(np.stack([*slope, offset]), radius)
    large = enlarge(offset, height, width)
    for channel in range(3):
        large += enlarge(slope[channel], height, width) * (picture[..., channel] / np.float32(255))
    return large.clip(0, 1)


def _window_means(maps: Array, radius: int) -> Array:
    """Average maps `[C, h, w]` over the window around each pixel."""
    size = 2 * radius + 1
    return np.asarray(ndimage.uniform_filter(maps, (1, size, size), mode="nearest"))


def enlarge(small: Array, height: int, width: int) -> Array:
    """Resize a map bilinearly to float32 `[height, width]`, an array that may be written to."""
    image = Image.fromarray(small.astype(np.float32))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))
