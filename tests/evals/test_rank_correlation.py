"""Rank correlation of maps."""

from __future__ import annotations

import numpy as np
import pytest

from evals.depth_ranks import rank_correlation


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks by counting, ties shared."""
    flat = values.ravel()
    return np.array([(flat < value).sum() + (flat == value).sum() / 2 for value in flat])


def test_is_the_correlation_of_ranks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (6, 7)).astype(float), rng.normal(size=(6, 7))  # one with ties
    b += 0.2 * a
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1])


def test_sees_only_the_order() -> None:
    a = np.random.default_rng(1).normal(size=(5, 8))
    assert rank_correlation(a, np.exp(3 * a) + 7) == pytest.approx(1)
    assert rank_correlation(a, -(a**3)) == pytest.approx(-1)


def test_leaves_out_what_one_map_does_not_know() -> None:
    a = np.arange(12.0).reshape(3, 4)
    b = a.copy()
    b[0], a[2] = (5, -np.inf, np.nan, 9), np.nan
    assert rank_correlation(a[1:2], b[1:2]) == 1
    expected = rank_correlation(np.append(a[0, [0, 3]], a[1]), np.append(b[0, [0, 3]], b[1]))
    assert rank_correlation(a, b) == pytest.approx(expected)


def test_nothing_to_compare_is_nan() -> None:
    a = np.arange(6.0)
    assert np.isnan(rank_correlation(a, np.ones(6)))
    assert np.isnan(rank_correlation(a[:2], a[:2]))
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_correlation(a, a[:5])
