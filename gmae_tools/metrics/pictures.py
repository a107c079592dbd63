"""PSNR and SSIM of two pictures of any size, in a few megabytes of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

STRIP_PIXELS = 1 << 14  # of a strip of rows, which then stays in the cache
SSIM_WINDOW = 7  # px; as C1 and C2 the default of skimage and of Wang et al. (2004) at data range 1
C1 = 0.01**2
C2 = 0.03**2
_SSIM_PIXELS = 1 << 18  # of a strip of SSIM; strips overlap by 6 rows
_LEVELS = 255.0  # the peak of 8-bit pictures


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1: higher is more similar, `inf` for equal pictures.

    Args:
        a, b: Pictures of one shape, `[H, W, C]` or `[H, W]`, floating point in [0, 1]. Channels have equal weights.

    Raises:
        ValueError: Shapes differ, or a picture is empty or not floating point.
    """
    _check(a, b)
    squares = 0.0
    for rows in _strips(a.shape[0], a.shape[1], STRIP_PIXELS):
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
    windows = (height - window + 1) * (width - window + 1) * math.prod(a.shape[2:])
    total = 0.0
    for rows in _strips(height - window + 1, width, _SSIM_PIXELS):
        overlapping = slice(rows.start, rows.stop + window - 1)
        total += _similarity_sum(a[overlapping], b[overlapping], window, 1.0)
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
        self._ssim, self._windows = 0.0, 0

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add the next rows of both pictures, uint8 `[h, W, 3]`; the first strip has at least 7 rows or all rows.

        Raises:
            ValueError: The strips are not of one shape, or not uint8.
        """
        from gmae_tools.metrics.windows import squared_difference  # needs numba, without which much else works

        if a.shape != b.shape or not a.dtype == b.dtype == np.uint8:
            raise ValueError(f"strips must be uint8, both alike, not {a.dtype} {a.shape} and {b.dtype} {b.shape}")
        self._squares += squared_difference(a.ravel(), b.ravel()) / _LEVELS**2
        self._samples += a.size
        if self._window < 3:  # no structure to compare
            return
        if self._tail is not None:
            a, b = (np.concatenate(both) for both in zip(self._tail, (a, b), strict=True))
        rows = len(a) - self._window + 1
        self._ssim += _similarity_sum(a, b, self._window, _LEVELS)
        self._windows += rows * (a.shape[1] - self._window + 1) * a.shape[2]
        self._tail = (a[rows:], b[rows:])

    def compute(self) -> tuple[float, float]:
        """PSNR in dB (`inf` for equal pictures) and SSIM (NaN if a side is shorter than 3 px)."""
        peak_ratio = math.inf if self._squares == 0 else -10 * math.log10(self._squares / self._samples)
        return peak_ratio, self._ssim / self._windows if self._windows else math.nan


def _window_side(height: int, width: int) -> int:
    """Side of the windows of SSIM in pixels: the largest odd number up to `SSIM_WINDOW` that fits."""
    side = min(SSIM_WINDOW, height, width)
    return side - 1 + side % 2


def _similarity_sum(a: np.ndarray, b: np.ndarray, window: int, peak: float) -> float:
    """Sum of SSIM over all windows that fit, of pictures in [0, peak]."""
    from gmae_tools.metrics.windows import similarity_sum  # needs numba, without which much else works

    if a.dtype == np.float16 or b.dtype == np.float16:  # which kernels do not take
        a, b = a.astype(np.float32), b.astype(np.float32)
    first, second = (np.ascontiguousarray(picture).reshape(len(picture), -1) for picture in (a, b))
    channels = math.prod(a.shape[2:])
    return float(similarity_sum(first, second, channels, window, C1 * peak**2, C2 * peak**2))


def _strips(height: int, width: int, pixels: int) -> Iterator[slice]:
    """Slices of rows that cover `height` rows of `width` pixels, each of about `pixels`."""
    rows = max(1, pixels // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim not in (2, 3) or not a.size:
        raise ValueError(f"pictures must be [H, W, C] or [H, W], both alike, not {a.shape} and {b.shape}")
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        raise ValueError(f"pictures must be floating point in [0, 1], not {a.dtype} and {b.dtype}")
