"""The uncertainty of the accuracy of one classifier, and of the difference between two."""

from __future__ import annotations

import math

import numpy as np

Z = 1.959963984540054  # 95 % of a normal distribution lie within this number of standard deviations


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of an accuracy (Wilson 1927), also for few pictures and accuracies near 0 and 1.

    Args:
        correct: Number of correct answers.
        total: Number of answers.

    Returns:
        Lower and upper bound in [0, 1].

    Raises:
        ValueError: There are no answers, or more correct answers than answers.
    """
    if not 0 <= correct <= total or not total:
        raise ValueError(f"{correct} right answers to {total} questions")
    share, weight = correct / total, Z**2 / total
    centre = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Difference between two accuracies, and half the width of its 95 % interval.

    Both classifiers answered the same questions, which makes the interval narrower than the intervals of both suggest.
    It is the normal approximation for the difference of matched proportions.

    Args:
        ours, theirs: Whether each answer is correct, bool `[n]`.

    Returns:
        The accuracy of `ours` minus that of `theirs`, and half the width of the interval.
    """
    difference = ours.astype(float) - theirs.astype(float)
    return float(difference.mean()), Z * float(difference.std()) / math.sqrt(len(difference))


def mean_class_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of the accuracy within each class: `correct` bool `[n]`, `labels` `[n]`."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))
