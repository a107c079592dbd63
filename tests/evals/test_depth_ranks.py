"""Ranks of depth, what is the same in all pictures, and the area under the ROC curve, against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from evals.depth_ranks import (
    area_under_curve,
    common_share,
    distance_to_centre,
    height_in_frame,
    mean_of_others,
    standard_ranks,
)


def test_products_of_standard_ranks_are_rank_correlations() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (6, 7)).astype(float), rng.normal(size=(6, 7))  # one with ties
    found = (standard_ranks(a) * standard_ranks(b)).mean()
    assert found == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    np.testing.assert_array_equal(standard_ranks(b), standard_ranks(np.exp(b)))


def test_ranks_leave_out_what_is_not_known() -> None:
    ranks = standard_ranks(np.array([[3.0, np.nan], [1.0, 2.0]]))
    np.testing.assert_allclose(ranks, [[1.5**0.5, np.nan], [-(1.5**0.5), 0]])
    assert np.isnan(standard_ranks(np.full((3, 3), 2.0))).all()
    assert np.isnan(standard_ranks(np.full((3, 3), np.nan))).all()


def test_the_mean_of_the_others_leaves_out_oneself_and_the_unknown() -> None:
    maps = np.arange(24.0).reshape(4, 2, 3)
    maps[1, 0, 0] = np.nan
    maps[:3, 1, 2] = np.nan
    found = mean_of_others(maps)
    for number in range(4):
        others = np.delete(maps, number, 0)
        for place in np.ndindex(2, 3):
            known = [each[place] for each in others if np.isfinite(each[place])]
            assert found[number][place] == pytest.approx(np.mean(known) if known else np.nan, nan_ok=True)


def test_taking_away_the_others_or_all_leaves_the_same_order() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 6, 7))
    ours, all_ = maps - mean_of_others(maps), maps - maps.mean(0)
    for a, b in zip(ours, all_, strict=True):
        np.testing.assert_array_equal(standard_ranks(a), standard_ranks(b))


def test_the_common_share_is_the_mean_correlation_of_pairs() -> None:
    rng = np.random.default_rng(0)
    maps = np.stack([standard_ranks(each) for each in rng.normal(size=(7, 5, 6)) + rng.normal(size=(5, 6))])
    pairs = [(a * b).mean() for a, b in combinations(maps, 2)]
    assert common_share(maps)[0] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.0), (1.0, 0.5), (3.0, 0.9)])
def test_the_common_share_is_one_of_variance_however_few_pictures(weight: float, share: float) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(30):
        mixed = weight * rng.normal(size=(40, 40)) + rng.normal(size=(4, 40, 40))
        found.append(common_share(np.stack([standard_ranks(each) for each in mixed]))[0])
    assert np.mean(found) == pytest.approx(share, abs=0.03)  # ranks of a normal variable bend a little


def test_the_standard_error_of_the_common_share_is_how_much_it_varies() -> None:
    rng = np.random.default_rng(0)
    bowl = rng.normal(size=(6, 6))
    found = []
    for _ in range(300):
        mixed = rng.normal(1.0, 1.0, (30, 1, 1)) * bowl + rng.normal(size=(30, 6, 6))  # some go with it, some do not
        found.append(common_share(np.stack([standard_ranks(each) for each in mixed])))
    shares, errors = np.array(found).T
    assert errors.mean() == pytest.approx(shares.std(), rel=0.15)


def test_the_common_share_of_few_or_flat_maps_is_unknown() -> None:
    flat = np.full((5, 4, 4), np.nan)
    assert np.isnan(common_share(flat)).all()
    flat[:2] = np.random.default_rng(0).normal(size=(2, 4, 4))
    assert np.isnan(common_share(flat)).all()


def test_the_area_under_the_curve_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, (7, 8)).astype(float), rng.random((7, 8)) < 0.3  # many ties
    scores[0, :3] = np.nan
    known = np.isfinite(scores)
    figure, ground = scores[truth & known], scores[~truth & known]
    wins = np.mean([(a > b) + (a == b) / 2 for a in figure for b in ground])
    assert area_under_curve(scores, truth) == pytest.approx(wins)
    assert area_under_curve(-scores, truth) == pytest.approx(1 - wins)
    assert area_under_curve(truth.astype(float), truth) == 1


def test_without_figure_or_ground_there_is_no_curve() -> None:
    scores = np.arange(6.0).reshape(2, 3)
    assert np.isnan(area_under_curve(scores, np.zeros((2, 3), bool)))
    assert np.isnan(area_under_curve(scores, np.ones((2, 3), bool)))
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[3, 2\]"):
        area_under_curve(scores, np.zeros((3, 2), bool))


def test_places_in_the_frame() -> None:
    up, centre = height_in_frame(2, 3), distance_to_centre(2, 3)
    np.testing.assert_allclose(up, [[0.75] * 3, [0.25] * 3])
    np.testing.assert_allclose(centre[0], [np.hypot(0.5, 2 / 3), 0.5, np.hypot(0.5, 2 / 3)])
    np.testing.assert_allclose(centre, centre[::-1, ::-1])
