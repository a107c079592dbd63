"""Accuracy with its uncertainty: of one classifier, and of two on the same pictures."""

from __future__ import annotations

import math

import numpy as np

Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of an accuracy (Wilson 1927), which holds for few pictures and near 0 and 1, too.

    Raises:
        ValueError: there is no picture, or more right answers than pictures.
    """
    if not 0 <= correct <= total or not total:
        raise ValueError(f"{correct} right answers to {total} questions")
    share, weight = correct / total, Z**2 / total
    centre = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """By how much `ours` is the more accurate, and half the width of the 95 % interval of that difference.

    Both classifiers answered the same questions, which makes the interval narrower than those of each alone suggest
    (normal approximation of the difference of matched proportions).

    Args:
        ours, theirs: whether each answer was right, bool `[n]`.
    """
    difference = ours.astype(float) - theirs.astype(float)
    return float(difference.mean()), Z * float(difference.std()) / math.sqrt(len(difference))


def mean_class_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy within each class, averaged over the classes that there are: `correct` bool `[n]`, `labels` `[n]`."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))
