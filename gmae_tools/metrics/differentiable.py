"""SSIM of tensors with gradients, for use in a loss."""

from __future__ import annotations

from torch import Tensor

from gmae_tools.metrics.pictures import C1, C2, SSIM_WINDOW


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair of pictures `[B]`, equal to `metrics.pictures.ssim`.

    Args:
        a, b: Pictures `[B, C, H, W]` in [0, 1], with sides of at least 7 px.
    """
    mean_a, mean_b = _window_means(a), _window_means(b)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    squares, product = mean_a.square() + mean_b.square(), mean_a * mean_b
    variances = unbiased * (_window_means(a.square() + b.square()) - squares)
    covariance = unbiased * (_window_means(a * b) - product)
    similarity = (2 * product + C1) / (squares + C1) * (2 * covariance + C2) / (variances + C2)
    return similarity.mean((1, 2, 3))


def _window_means(x: Tensor) -> Tensor:
    """Means over all windows. Sums of shifted pictures are faster than torch's pooling and convolution."""
    for side in (-2, -1):
        fits = x.shape[side] - SSIM_WINDOW + 1
        shifted = (x.narrow(side, shift, fits) for shift in range(1, SSIM_WINDOW))
        x = sum(shifted, x.narrow(side, 0, fits)) / SSIM_WINDOW
    return x
