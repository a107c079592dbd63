"""The order of depth, and what it goes with: another map, brightness, the frame, what is in front.

Depth that a model learns from pictures alone has neither a scale nor an origin. Everything here is therefore
computed from ranks (`standard_ranks`), so that every picture has the same weight and stretching depth changes nothing.

A model may give every picture the same map, such as a bowl with the middle in front. That map already marks figures,
because figures tend to lie in the middle. To measure what depth says about *this* picture, the mean of the maps of
all *other* pictures is measured by itself (`mean_of_others`) and subtracted (`ranks - mean_of_others(ranks)`). For the
ranking inside a picture, subtracting the mean of the others is equivalent to subtracting the mean of all.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata, spearmanr

_LEAST_PIXELS = 3
_LEAST_PICTURES = 3  # to measure how much they differ


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps of one shape, in [-1, 1], over the pixels where both are finite.

    Depth maps have no scale and no origin of their own; only their order can be compared.

    Returns:
        NaN where there is nothing to compare: fewer than three such pixels, or a single value in all of them.

    Raises:
        ValueError: the maps differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of shapes {list(first.shape)} and {list(second.shape)} cannot be compared")
    known = np.isfinite(first) & np.isfinite(second)
    a, b = first[known], second[known]
    if a.size < _LEAST_PIXELS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def standard_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of the finite pixels of a map `[H, W]`, shifted and scaled to mean 0 and variance 1.

    Equal values share their mean rank. NaN stays NaN; a map of a single value has no order and becomes all NaN.
    """
    known = np.isfinite(values)
    ranks = np.full(values.shape, np.nan)
    if known.any() and np.ptp(values[known]) > 0:
        found = rankdata(values[known])
        ranks[known] = (found - found.mean()) / found.std()
    return ranks


def mean_of_others(maps: np.ndarray) -> np.ndarray:
    """For each of n maps `[n, H, W]` the mean of the n - 1 others, pixel by pixel over those that are finite there."""
    known = np.isfinite(maps)
    filled = np.where(known, maps, 0)
    others = known.sum(0) - known
    return np.asarray((filled.sum(0) - filled) / np.where(others > 0, others, np.nan))


def common_share(maps: np.ndarray) -> tuple[float, float]:
    """The share of the variance of maps that is the same in all pictures, and its standard error.

    It is the mean correlation of the maps of two different pictures: 1 if all are one map, about 0 if nothing depends
    on the frame. Unlike the variance of the mean map, it does not grow when there are few pictures. (It can be slightly
    negative by chance.) The standard error is that of a mean over pairs, by the share of each picture in it.

    Args:
        maps: `standard_ranks` of depth `[n, H, W]`, pixel for pixel of the same places in the frame.

    Returns:
        Both NaN for fewer than three maps that have an order.
    """
    maps = maps[np.isfinite(maps).any((1, 2))]
    if len(maps) < _LEAST_PICTURES:
        return float("nan"), float("nan")
    agreement = np.nanmean(maps * mean_of_others(maps), axis=(1, 2))
    return float(agreement.mean()), float(2 * agreement.std(ddof=1) / len(maps) ** 0.5)


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a pixel of the foreground scores higher than one of the
    background.

    Equal scores count half. (Mann and Whitney's U over the number of pairs.)

    Args:
        scores: any shape; NaN is left out.
        truth: bool, the same shape: which pixels are foreground.

    Returns:
        A number in [0, 1], 0.5 for uninformative scores; NaN where there is no foreground, or no background.

    Raises:
        ValueError: the shapes differ.
    """
    if scores.shape != truth.shape:
        raise ValueError(f"scores of shape {list(scores.shape)} do not fit a mask of shape {list(truth.shape)}")
    known = np.isfinite(scores)
    figure = truth[known]
    inside = int(figure.sum())
    outside = figure.size - inside
    if not inside or not outside:
        return float("nan")
    ranks = rankdata(scores[known])
    return float((ranks[figure].sum() - inside * (inside + 1) / 2) / (inside * outside))


def height_in_frame(height: int, width: int) -> np.ndarray:
    """How far up each pixel lies, `[H, W]` in (0, 1): 0 at the lower border, 1 at the upper one."""
    return np.broadcast_to(1 - (np.arange(height)[:, None] + 0.5) / height, (height, width))


def distance_to_centre(height: int, width: int) -> np.ndarray:
    """Distance of each pixel to the middle of the picture, `[H, W]`, in half widths and half heights."""
    y, x = (2 * (np.arange(side) + 0.5) / side - 1 for side in (height, width))
    return np.hypot(y[:, None], x[None])
