"""Saliency measures pixel by pixel, straight from their papers: slow, and nothing is shared with the package."""

from __future__ import annotations

import numpy as np

EPS = np.spacing(1)


def f_curve(soft: np.ndarray, truth: np.ndarray, thresholds: int) -> np.ndarray:
    """F-beta, beta^2 = 0.3, at thresholds k / 255 (Achanta et al., 2009)."""
    values = []
    for k in range(thresholds):
        mask = soft >= k / 255
        right = (mask & truth).sum()
        precision, recall = right / max(mask.sum(), 1), right / max(truth.sum(), 1)
        values.append(1.3 * precision * recall / (0.3 * precision + recall) if right else 0.0)
    return np.array(values)


def e_measure(mask: np.ndarray, truth: np.ndarray) -> float:
    """Enhanced-alignment measure of a binary mask (Fan et al., 2018, equations 1 to 5), divided by n - 1."""
    if not truth.any():
        enhanced = ~mask
    elif truth.all():
        enhanced = mask
    else:
        p, t = mask - mask.mean(), truth - truth.mean()
        enhanced = (2 * p * t / (p**2 + t**2 + EPS) + 1) ** 2 / 4
    return float(enhanced.sum() / (truth.size - 1))


def s_measure(soft: np.ndarray, truth: np.ndarray) -> float:
    """Structure measure (Fan et al., 2017) with alpha = 0.5 of a mask that has figure and ground.

    As in the authors' MATLAB: sums of squares are divided by n - 1 + eps, and a single number's standard deviation is
    0. Parts without pixels, of which it makes NaN, are left out.
    """
    ys, xs = np.nonzero(truth)
    y, x = round(float(ys.mean())) + 1, round(float(xs.mean())) + 1
    region = 0.0
    for part in np.s_[:y, :x], np.s_[:y, x:], np.s_[y:, :x], np.s_[y:, x:]:
        p, t = soft[part].ravel(), truth[part].ravel().astype(float)
        if not len(p):
            continue
        (variance_p, covariance), (_, variance_t) = np.cov(p, t, ddof=0) * len(p) / (len(p) - 1 + EPS)
        above = 4 * p.mean() * t.mean() * covariance
        below = (p.mean() ** 2 + t.mean() ** 2) * (variance_p + variance_t)
        likeness = above / (below + EPS) if above else float(below == 0)
        region += likeness * len(p) / truth.size
    objects = 0.0
    for values, share in ((soft[truth], truth.mean()), (1 - soft[~truth], 1 - truth.mean())):
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
        objects += share * 2 * values.mean() / (values.mean() ** 2 + 1 + deviation)
    return max(0.0, (region + objects) / 2)
