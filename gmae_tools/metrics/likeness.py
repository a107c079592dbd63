"""PSNR and SSIM of pictures that arrive in strips of rows and are never held whole."""

from __future__ import annotations

import math

import numpy as np

from gmae_tools.metrics.pictures import SSIM_WINDOW, psnr, ssim


class Likeness:
    """Collects the likeness of two pictures strip by strip, equal to that of the whole pictures.

    Args:
        height, width: of the whole pictures in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        side = min(SSIM_WINDOW, height, width)
        self._window = side - 1 + side % 2  # as `ssim` chooses it for the whole pictures
        self._tail: tuple[np.ndarray, np.ndarray] | None = None  # rows that the next strip's windows begin in
        self._squares, self._samples = 0.0, 0
        self._ssim, self._window_rows = 0.0, 0

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add the next rows of both pictures, uint8 `[h, W, 3]`; the first strip has at least 7 or all."""
        pair = tuple(rows.astype(np.float32) / np.float32(255) for rows in (a, b))
        self._squares += 10 ** (-psnr(*pair) / 10) * a.size
        self._samples += a.size
        if self._window < 3:  # no structure to compare
            return
        if self._tail is not None:
            pair = tuple(np.concatenate(both) for both in zip(self._tail, pair, strict=True))
        rows = len(pair[0]) - self._window + 1
        self._ssim += ssim(*pair) * rows
        self._window_rows += rows
        self._tail = (pair[0][rows:], pair[1][rows:])

    def compute(self) -> tuple[float, float]:
        """PSNR in dB (`inf` for equal pictures) and SSIM (NaN where a side is under 3 px)."""
        peak_ratio = math.inf if self._squares == 0 else -10 * math.log10(self._squares / self._samples)
        return peak_ratio, self._ssim / self._window_rows if self._window_rows else math.nan
