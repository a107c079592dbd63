"""Multi-scale structural similarity, the likeness that 2-D Gaussian picture codecs report beside PSNR."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

from gmae_tools.metrics.pictures import C1, C2

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
WINDOW, SIGMA = 11, 1.5  # px
LEAST_SIDE = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1

_OFFSETS = np.arange(WINDOW) - WINDOW // 2
_KERNEL = np.exp(-(_OFFSETS**2) / (2 * SIGMA**2)) / np.exp(-(_OFFSETS**2) / (2 * SIGMA**2)).sum()


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of two pictures, at most 1 (equal pictures); the mean over channels for colour.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003, with the choices
    of the usual code (pytorch-msssim): Gaussian windows that fit inside the picture only, halving by means of 2 x 2
    pixels, contrast and structure at all scales, luminance at the coarsest only, negative means taken as 0.

    Args:
        a: floating point in [0, 1], `[H, W, C]`, both sides of at least 161 px.
        b: the same shape and range.

    Raises:
        ValueError: shapes differ, or a side is too short.
    """
    if a.shape != b.shape or a.ndim != 3 or min(a.shape[:2]) < LEAST_SIDE:
        raise ValueError(f"pictures must be [H, W, C] of {LEAST_SIDE} px or more, both alike, not {a.shape}, {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    result = np.ones(a.shape[2])
    for scale, weight in enumerate(WEIGHTS, 1):
        luminance, structure = _similarities(a, b)
        likeness = luminance * structure if scale == len(WEIGHTS) else structure
        result *= np.maximum(likeness.mean((0, 1)), 0) ** weight
        a, b = _halve(a), _halve(b)
    return float(result.mean())


def _similarities(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast and structure, of every window that fits (Wang et al. 2004, eq. 6 and 9)."""
    mean_a, mean_b = _window_means(a), _window_means(b)
    squares, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances, covariance = _window_means(a * a + b * b) - squares, _window_means(a * b) - product
    return (2 * product + C1) / (squares + C1), (2 * covariance + C2) / (variances + C2)


def _window_means(x: np.ndarray) -> np.ndarray:
    margin = slice(WINDOW // 2, -(WINDOW // 2))
    blurred: np.ndarray = correlate1d(correlate1d(x, _KERNEL, 0), _KERNEL, 1)[margin, margin]
    return blurred


def _halve(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd side gets a black pixel at both ends, as in the usual code, and loses the last."""
    height, width = x.shape[:2]
    x = np.pad(x, ((height % 2,) * 2, (width % 2,) * 2, (0, 0)))
    x = x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
