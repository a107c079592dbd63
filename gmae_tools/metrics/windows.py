"""Sums over two pictures, compiled: of squared differences, and of the structural similarity of all windows."""

from __future__ import annotations

import numpy as np
from numba import njit

from gmae_tools.system.kernels import kernel

# Loops of few arrays, indexed from 0, are what compilers turn into vector instructions.


@njit(nogil=True, inline="always")
def _add_row(row_a: np.ndarray, row_b: np.ndarray, sign: float, columns: np.ndarray) -> None:
    """Add the products of two rows to the sums of columns, or subtract them (`sign` -1)."""
    sums_a, sums_b, squares, products = columns[0], columns[1], columns[2], columns[3]
    for i in range(len(row_a)):
        sums_a[i] += sign * row_a[i]
        sums_b[i] += sign * row_b[i]
    for i in range(len(row_a)):
        p, q = np.float64(row_a[i]), np.float64(row_b[i])
        squares[i] += sign * (p * p + q * q)
        products[i] += sign * (p * q)


@njit(nogil=True, inline="always")
def _sum_across(column: np.ndarray, channels: int, window: int, sums: np.ndarray) -> None:
    """Sums over windows of columns; the side of a window is odd."""
    count = len(sums)
    sums[:] = column[:count]
    for shift in range(channels, window * channels, 2 * channels):
        one, other = column[shift : shift + count], column[shift + channels : shift + channels + count]
        for i in range(count):
            sums[i] += one[i] + other[i]


@kernel()
def similarity_sum(a: np.ndarray, b: np.ndarray, channels: int, window: int, c1: float, c2: float) -> float:
    """Sum of SSIM over all windows that fit and all channels (Wang et al. 2004, eq. 13, with sample covariances).

    Sums down the columns of the windows are carried on from row to row, which is exact for integers.

    Args:
        a, b: `[H, W * channels]`, H and W no shorter than the window.
        channels: interleaved in a row.
        window: side of the square windows in pixels, an odd number.
        c1, c2: the constants, in the units of the pictures.
    """
    height, length = a.shape
    count = length - (window - 1) * channels  # windows in a row, of all channels
    share, unbiased = 1 / window**2, window**2 / (window**2 - 1)
    columns, windows = np.zeros((4, length)), np.zeros((4, count))  # sums of a, b, a * a + b * b and a * b
    similarity = np.zeros(count)
    for y in range(height):
        _add_row(a[y], b[y], 1.0, columns)
        if y >= window:
            _add_row(a[y - window], b[y - window], -1.0, columns)
        if y >= window - 1:
            for k in range(4):
                _sum_across(columns[k], channels, window, windows[k])
            for i in range(count):
                mean_a, mean_b = windows[0, i] * share, windows[1, i] * share
                square, product = windows[2, i] * share, windows[3, i] * share
                of_means, both = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
                variances, covariance = unbiased * (square - of_means), unbiased * (product - both)
                similarity[i] += (2 * both + c1) * (2 * covariance + c2) / ((of_means + c1) * (variances + c2))
    return similarity.sum()


@kernel()
def squared_difference(a: np.ndarray, b: np.ndarray) -> int:
    """Sum of the squared differences of two pictures, uint8 `[N]`."""
    total = np.int64(0)
    for i in range(len(a)):
        difference = np.int64(a[i]) - np.int64(b[i])
        total += difference * difference
    return int(total)
