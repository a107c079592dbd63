"""How far a number would move with other photographs: resampling with replacement (Efron 1979), in pairs.

All functions of resamples draw the photographs alike for results of as many photographs, so that two of them can be
subtracted resample by resample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmae_tools.metrics.boundaries import BoundaryResult, best_point
from gmae_tools.metrics.regions import RegionResult

SAMPLES = 1000


def resamples(count: int) -> np.ndarray:
    """How often each of `count` photographs is in each resample, int `[SAMPLES, count]`; the same at every call."""
    chosen = np.random.default_rng(0).integers(0, count, (SAMPLES, count))
    return np.stack([np.bincount(sample, minlength=count) for sample in chosen])


# --- boundaries --------------------------------------------------------------------------------------


def resampled_ods(result: BoundaryResult, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """ODS `[samples]` with the counts of images weighted by `weights` `[samples, images]`."""
    counts = np.array([result.counts[name].arrays() for name in names])  # [images, 4, T]
    found, truth, hits, predicted = np.moveaxis(np.tensordot(weights, counts, 1), 1, 0)  # each [samples, T]
    recall, precision = found / np.maximum(truth, 1), hits / np.maximum(predicted, 1)
    return np.array([best_point(result.levels, p, r).f for p, r in zip(precision, recall, strict=True)])


def ods_error(result: BoundaryResult) -> float:
    """Standard error of ODS: its standard deviation over the resamples."""
    names = list(result.counts)
    return float(np.std(resampled_ods(result, names, resamples(len(names)))))


def ods_difference(result: BoundaryResult, baseline: BoundaryResult) -> tuple[float, float]:
    """Difference of the ODS of two results on the same images, and its standard deviation over the resamples."""
    names = list(result.counts)
    weights = resamples(len(names))
    ours, theirs = (resampled_ods(each, names, weights) for each in (result, baseline))
    return result.ods - baseline.ods, float(np.std(ours - theirs))


# --- regions -----------------------------------------------------------------------------------------


def resampled_regions(result: RegionResult) -> tuple[np.ndarray, np.ndarray]:
    """Max F-beta and IoU of the resamples, `[SAMPLES]` each."""
    weights = resamples(result.images) / result.images
    curves = np.stack([each.f_beta for each in result.metrics.values()])
    return (weights @ curves).max(1), weights @ np.array([each.iou for each in result.metrics.values()])


# --- accuracies --------------------------------------------------------------------------------------


def bootstrap_interval(values: np.ndarray, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean over runs and photographs, both resampled.

    With several runs it says what other photographs and other seeds would change; with one, other photographs only.

    Args:
        values: `[runs, photographs]`: right or wrong, or a difference of two models that share photographs and seeds.
        draws: number of resamples.

    Raises:
        ValueError: there is no run, or no photograph.
    """
    runs, photographs = values.shape
    if not values.size:
        raise ValueError("nothing to draw from")
    chance = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        chosen = np.bincount(chance.integers(runs, size=runs), minlength=runs) @ values / runs  # [photographs]
        means.append(float(chosen[chance.integers(photographs, size=photographs)].mean()))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
