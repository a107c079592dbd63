"""Intervals of accuracies, against scipy and against resampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from gmae_tools.metrics.accuracy import mean_class_accuracy, paired_difference, wilson_interval


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (0, 30), (7, 30), (30, 30), (612, 1000)])
def test_wilson_is_scipys(correct: int, total: int) -> None:
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_nothing_asked(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="right answers"):
        wilson_interval(correct, total)


def test_paired_difference_is_that_of_resampling() -> None:
    chance = np.random.default_rng(0)
    hard = chance.random(500)
    ours, theirs = hard < 0.7, hard + chance.normal(0, 0.1, 500) < 0.6
    difference, within = paired_difference(ours, theirs)
    draws = chance.integers(0, 500, (4000, 500))
    resampled = ours[draws].mean(1) - theirs[draws].mean(1)
    assert difference == pytest.approx(ours.mean() - theirs.mean())
    assert within == pytest.approx(1.96 * resampled.std(), rel=0.05)
    alone = np.hypot(*(np.subtract(*wilson_interval(int(each.sum()), 500)) / 2 for each in (ours, theirs)))
    assert within < 0.8 * alone  # what pairing is for


def test_every_class_counts_alike() -> None:
    labels = np.array([0] * 8 + [3] * 2)
    assert mean_class_accuracy(labels == 0, labels) == 0.5
