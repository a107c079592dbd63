"""PSNR and SSIM of two pictures of any size, in a few megabytes of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

STRIP_PIXELS = 1 << 14  # of a strip of rows, which then stays in the cache: large pictures take a quarter of the time
STRIP_MIN_ROWS = 16  # of a strip; strips of SSIM overlap by 6 rows
SSIM_WINDOW = 7  # px; as C1 and C2 the default of skimage and of Wang et al. (2004) at data range 1
C1 = 0.01**2
C2 = 0.03**2


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1: higher is more similar, `inf` for equal pictures.

    Args:
        a, b: Pictures of one shape, `[H, W, C]` or `[H, W]`, floating point in [0, 1]. Channels have equal weights.

    Raises:
        ValueError: Shapes differ, or a picture is empty or not floating point.
    """
    _check(a, b)
    squares = 0.0
    for rows in _strips(a.shape[0], a.shape[1]):
        difference = a[rows].astype(np.float64) - b[rows]
        squares += float(np.vdot(difference, difference))
    return math.inf if squares == 0.0 else -10.0 * math.log10(squares / a.size)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity over windows and channels, at most 1, which equal pictures have.

    The result equals `skimage.metrics.structural_similarity(a, b, channel_axis=-1, data_range=1)` in float64: uniform
    windows of 7 x 7 pixels inside the picture, with sample covariances. If a side is shorter than 7 pixels, the window
    is the largest odd one that fits (5 for 6, 3 for 4). Below 3 pixels the result is NaN.

    Args:
        a, b: Pictures of one shape, `[H, W, C]` or `[H, W]`, floating point in [0, 1].

    Raises:
        ValueError: Shapes differ, or a picture is empty or not floating point.
    """
    _check(a, b)
    height, width = a.shape[:2]
    window = _window_side(height, width)
    if window < 3:
        return math.nan
    total: float = 0.0
    for rows in _strips(height - window + 1, width):
        overlapping = slice(rows.start, rows.stop + window - 1)
        total += float(_ssim_map(a[overlapping], b[overlapping], window).sum())
    windows = (height - window + 1) * (width - window + 1) * math.prod(a.shape[2:])
    return total / windows


class StreamingSimilarity:
    """PSNR and SSIM of two pictures that arrive in strips of rows and are never held whole.

    The results equal `psnr` and `ssim` of the whole pictures.

    Args:
        height, width: Size of the whole pictures in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._window = _window_side(height, width)
        self._tail: tuple[np.ndarray, np.ndarray] | None = None  # last rows, in which windows of the next strip begin
        self._squares, self._samples = 0.0, 0
        self._ssim, self._window_rows = 0.0, 0

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add the next rows of both pictures, uint8 `[h, W, 3]`; the first strip has at least 7 rows or all rows."""
        pair = tuple(rows.astype(np.float32) / np.float32(255) for rows in (a, b))
        self._squares += 10 ** (-psnr(*pair) / 10) * a.size
        self._samples += a.size
        if self._window < 3:  # SSIM is NaN
            return
        if self._tail is not None:
            pair = tuple(np.concatenate(both) for both in zip(self._tail, pair, strict=True))
        rows = len(pair[0]) - self._window + 1
        self._ssim += ssim(*pair) * rows
        self._window_rows += rows
        self._tail = (pair[0][rows:], pair[1][rows:])

    def compute(self) -> tuple[float, float]:
        """PSNR in dB (`inf` for equal pictures) and SSIM (NaN if a side is shorter than 3 px)."""
        peak_ratio = math.inf if self._squares == 0 else -10 * math.log10(self._squares / self._samples)
        return peak_ratio, self._ssim / self._window_rows if self._window_rows else math.nan


def _window_side(height: int, width: int) -> int:
    """Side of the windows of SSIM in pixels: the largest odd number up to `SSIM_WINDOW` that fits."""
    side = min(SSIM_WINDOW, height, width)
    return side - 1 + side % 2


def _ssim_map(a: np.ndarray, b: np.ndarray, window: int) -> np.ndarray:
    """SSIM of every window, `[H - window + 1, W - window + 1, ...]` (Wang et al. 2004, eq. 13)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = _window_means(a, window), _window_means(b, window)
    squares_of_means, product_of_means = mean_a**2 + mean_b**2, mean_a * mean_b
    unbiased = window**2 / (window**2 - 1)  # sample rather than population (co)variances
    variances = unbiased * (_window_means(a * a + b * b, window) - squares_of_means)
    covariance = unbiased * (_window_means(a * b, window) - product_of_means)
    luminance = (2 * product_of_means + C1) / (squares_of_means + C1)
    contrast_and_structure = (2 * covariance + C2) / (variances + C2)
    similarity: np.ndarray = luminance * contrast_and_structure
    return similarity


def _window_means(x: np.ndarray, window: int) -> np.ndarray:
    """Means over all windows, `[H - window + 1, W - window + 1, ...]`, of `x` `[H, W, ...]`."""
    height, width = x.shape[0] - window + 1, x.shape[1] - window + 1
    columns = x[:height].copy()
    for shift in range(1, window):
        columns += x[shift : shift + height]
    sums = columns[:, :width].copy()
    for shift in range(1, window):
        sums += columns[:, shift : shift + width]
    sums /= window**2
    return sums


def _strips(height: int, width: int) -> Iterator[slice]:
    """Slices of rows that cover `height` rows of `width` pixels, each of about `STRIP_PIXELS`."""
    rows = max(STRIP_MIN_ROWS, STRIP_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim not in (2, 3) or not a.size:
        raise ValueError(f"pictures must be [H, W, C] or [H, W], both alike, not {a.shape} and {b.shape}")
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        raise ValueError(f"pictures must be floating point in [0, 1], not {a.dtype} and {b.dtype}")
