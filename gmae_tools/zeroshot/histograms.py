"""Edges of the picture itself: where the colours and the texture on two sides of a pixel are distributed differently.

Source: Martin, Fowlkes and Malik, "Learning to detect natural image boundaries using local brightness, color, and
texture cues" (TPAMI 2004). Here nothing is learned: two Gaussian windows take the place of half discs, and responses
of three fixed filters that of textons. All cues weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from scipy import ndimage

from gmae_tools.system.kernels import kernel

Array = np.ndarray

# Studies of these choices: the group `picture` of evals/studies/edge_choices.py.
COLOR_SIGMAS, TEXTURE_SIGMAS = (2.0,), (3.0, 6.0)  # px, standard deviations of the windows
BINS = 8  # of each histogram
DIRECTIONS = 8

_LIGHTNESS, _CHROMA, _RESPONSE = (0.0, 100.0), (-60.0, 60.0), (0.0, 3.0)  # ranges of the histograms
_LEAST = np.float32(1e-6)  # keeps the share of a bin that is empty on both sides from being divided by
_FILTER_SIGMA, _SURROUND_SIGMA = 1.0, 2.0  # px, of the filters for texture


def histogram_gradient(
    picture: Array, *, color_sigmas: Sequence[float] = COLOR_SIGMAS, texture_sigmas: Sequence[float] = TEXTURE_SIGMAS
) -> Array:
    """Measure how differently colours and texture are distributed on two sides of each pixel.

    Histograms of lightness, of the two chroma channels of CIELAB, and of three texture responses are taken in two
    windows, one standard deviation from the pixel on opposite sides, and compared by the chi-squared distance. The
    distances are averaged over cues and sizes of windows, and the direction with the largest mean counts.

    Args:
        picture: uint8 RGB `[H, W, 3]`.
        color_sigmas, texture_sigmas: standard deviations of the windows in pixels. Colour and texture weigh the same;
            either may be left out by giving none.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    from skimage.color import rgb2lab

    lab = np.moveaxis(rgb2lab(picture).astype(np.float32), -1, 0)
    colors = list(zip(lab, (_LIGHTNESS, _CHROMA, _CHROMA), strict=True))
    families = [(colors, color_sigmas), (_texture(lab[0]), texture_sigmas)]
    families = [(cues, sigmas) for cues, sigmas in families if sigmas]
    distances = np.zeros((DIRECTIONS, *picture.shape[:2]), np.float32)
    for cues, sigmas in families:
        weight = np.float32(1 / (2 * len(families) * len(cues) * len(sigmas)))
        for sigma, (values, limits) in product(sigmas, cues):
            for members in _memberships(values, *limits):
                if members.any():
                    share = ndimage.gaussian_filter(members, sigma, mode="nearest", truncate=2.5)
                    _add_chi_squared(distances, np.pad(share, math.ceil(sigma), "edge"), _steps(sigma), weight)
    return np.asarray(distances.max(0))


def _texture(lightness: Array) -> list[tuple[Array, tuple[float, float]]]:
    """Return what three small filters respond to lightness, on a logarithmic scale, each with its range."""
    slopes = [ndimage.gaussian_filter(lightness, _FILTER_SIGMA, order=order) for order in ((0, 1), (1, 0))]
    excess = lightness - ndimage.gaussian_filter(lightness, _SURROUND_SIGMA)
    low, high = _RESPONSE
    return [
        *((np.log1p(np.abs(slope)), (low, high)) for slope in slopes),
        (np.sign(excess) * np.log1p(np.abs(excess)), (-high, high)),
    ]


def _memberships(values: Array, low: float, high: float) -> Iterator[Array]:
    """Yield how much each pixel belongs to each bin, float32 `[H, W]`: linear between the centres of two bins."""
    place = (values.clip(low, high) - low) * np.float32((BINS - 1) / (high - low))
    for number in range(BINS):
        yield (1 - np.abs(place - number)).clip(0)


def _steps(length: float) -> Array:
    """Return whole steps (down, right) of about this length in directions around half a circle, int64 `[D, 2]`."""
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    return (length * np.stack([np.sin(angles), np.cos(angles)], 1)).round().astype(np.int64)


@kernel()
def _add_chi_squared(distances: Array, share: Array, steps: Array, weight: float) -> None:
    """Add what one bin contributes to the distances (p - q)^2 / (p + q) across each pixel.

    Args:
        distances: float32 `[D, H, W]`, added to.
        share: float32 `[H + 2 r, W + 2 r]`, contiguous: the share of the bin in the window around each pixel of the
            picture, and of a margin of r pixels.
        steps: from a pixel to the middle of one window, int64 `[D, 2]`, none longer than r; the other is opposite.
        weight: of the distances, float32.
    """
    directions, height, width = distances.shape
    margin = (share.shape[0] - height) // 2
    for number in range(directions):
        down, right = steps[number]
        for y in range(height):
            found = distances[number, y]
            ahead = share[margin + y + down, margin + right : margin + right + width]
            behind = share[margin + y - down, margin - right : margin - right + width]
            for x in range(width):
                p, q = ahead[x], behind[x]
                found[x] += weight * (p - q) * (p - q) / (p + q + _LEAST)
