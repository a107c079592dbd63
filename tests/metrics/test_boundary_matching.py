"""The matching against scipy's assignment solver, and against itself reached by other ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics import boundary_matching as matching
from gmae_tools.metrics.boundary_matching import PREDICTION, TRUTH, Matching, Reach, match
from gmae_tools.metrics.thinning import thin
from tests.oracles.assignment import assign

seeds = st.integers(0, 2**32 - 1)


class Stage:
    """A map on which pixels of both sides come and go."""

    def __init__(self, shape: tuple[int, int], max_distance: float) -> None:
        self.pad = matching.margin(max_distance)
        self.shape = (shape[0] + 2 * self.pad, shape[1] + 2 * self.pad)
        size = self.shape[0] * self.shape[1]
        self.near: Reach = matching.reach(max_distance, self.shape[1])
        self.state: Matching = matching.empty_matching(size)
        self.work = matching.scratch(size)
        self.matches = 0

    def show(self, side: int, binary: np.ndarray) -> None:
        """Make `binary` the map of a side."""
        new, old = np.pad(binary, self.pad).ravel(), self.state.present[side]
        come, gone = np.flatnonzero(new & ~old), np.flatnonzero(old & ~new)
        self.matches += matching.insert(come, side, self.state, self.near, self.work)
        self.matches += matching.remove(gone, side, self.state, self.near, self.work)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Matched pixels [M, 2] of either side; checks that the partners agree."""
        ours, theirs = self.state.partner
        first = np.flatnonzero(ours >= 0)
        second = ours[first]
        np.testing.assert_array_equal(theirs[second], first)
        assert len(first) == self.matches == (theirs >= 0).sum()
        to_pixel = lambda flat: np.stack(np.unravel_index(flat, self.shape), 1) - self.pad  # noqa: E731
        return to_pixel(first), to_pixel(second)


def total_cost(pairs: tuple[np.ndarray, np.ndarray]) -> tuple[int, float]:
    """How many matches, and their summed cost."""
    return len(pairs[0]), float(np.rint(100 * np.hypot(*(pairs[0] - pairs[1]).T)).sum())


def random_map(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.random(shape) < rng.uniform(0.05, 0.6)


@given(seeds, st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 1.5, 2, 2.3, 3, 4.34, 6]))
def test_as_many_and_as_short_as_scipy(seed: int, height: int, width: int, max_distance: float) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = (random_map(rng, (height, width)) | np.eye(height, width, dtype=bool) for _ in "ab")
    stage = Stage((height, width), max_distance)
    stage.show(TRUTH, truth)
    stage.show(PREDICTION, prediction)
    expected = assign(prediction, truth, max_distance)
    pairs = stage.pairs()
    assert total_cost(pairs) == total_cost(expected)
    assert np.hypot(*(pairs[0] - pairs[1]).T).max() <= max_distance


@given(seeds, st.sampled_from([1, 2, 3, 4]))
def test_ties_are_broken_as_scipy_does_with_their_costs(seed: int, max_distance: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (7, 7)
    prediction, truth = (random_map(rng, shape) for _ in "ab")
    prediction[0, 0] = truth[0, 0] = True
    stage = Stage(shape, max_distance)
    stage.show(PREDICTION, prediction)
    stage.show(TRUTH, truth)
    order = lambda pairs: sorted(map(tuple, np.hstack(pairs)))  # noqa: E731
    assert order(stage.pairs()) == order(assign(prediction, truth, max_distance, ties=True))


@settings(max_examples=25)
@given(seeds, st.sampled_from([4.34, 5]))  # the farthest steps of the latter are not kept in bits
def test_every_way_leads_to_the_same_matching(seed: int, max_distance: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (25, 30)
    wandering = Stage(shape, max_distance)
    for _ in range(6):
        prediction, truth = random_map(rng, shape), random_map(rng, shape)
        sides = [(TRUTH, truth), (PREDICTION, prediction)]
        for turn in rng.permutation(2):
            wandering.show(*sides[turn])
        direct = match(prediction, truth, max_distance)
        pairs = wandering.pairs()
        for matched, pixels in zip(direct, pairs, strict=True):
            np.testing.assert_array_equal(np.argwhere(matched), np.array(sorted(map(tuple, pixels))))


@pytest.mark.parametrize(("shift", "share"), [(0, 1), (3, 1), (4, 1), (5, 0), (9, 0)])
def test_a_shifted_line_matches_within_the_distance(shift: int, share: int) -> None:
    prediction, truth = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    truth[:, 10] = True
    prediction[:, 10 + shift] = True
    matched_prediction, matched_truth = match(prediction, truth, 4.34)
    np.testing.assert_array_equal(matched_prediction, prediction * share)
    np.testing.assert_array_equal(matched_truth, truth * share)


def test_the_distance_is_inclusive_and_euclidean() -> None:
    corner, other = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    corner[0, 0] = other[3, 4] = True
    assert match(corner, other, 5.0)[0].sum() == 1
    assert match(corner, other, 4.99)[0].sum() == 0


def test_more_matches_come_before_shorter_ones() -> None:
    # Two predictions, two truths in a row (p t p . t): the near pair would leave one of each alone.
    prediction, truth = np.zeros((1, 9), bool), np.zeros((1, 9), bool)
    prediction[0, [1, 3]] = True
    truth[0, [2, 6]] = True
    assert match(prediction, truth, 3)[0].sum() == 2


def test_an_empty_side_matches_nothing() -> None:
    some, none = np.eye(6, dtype=bool), np.zeros((6, 6), bool)
    for first, second in [(some, none), (none, some), (none, none)]:
        assert not any(side.any() for side in match(first, second, 2))


def test_a_distance_beyond_the_arithmetic_is_refused() -> None:
    with pytest.raises(GmaeToolsError, match="too far"):
        matching.reach(1000.0, 5000)


def test_detector_maps_as_scipy(shared_data: Path) -> None:
    from scipy.io import loadmat

    demo = shared_data / "bsds-bench-demo"
    soft = np.asarray(Image.open(demo / "png" / "2018.png"))
    truth = loadmat(demo / "groundTruth" / "2018.mat")["groundTruth"][0, 0]["Boundaries"][0, 0] > 0
    max_distance = 0.0075 * float(np.hypot(*soft.shape))
    for level in (30, 60):
        prediction = thin(soft >= level)
        stage = Stage(soft.shape, max_distance)
        stage.show(TRUTH, truth)
        stage.show(PREDICTION, prediction)
        outcome = total_cost(stage.pairs())
        assert outcome == total_cost(assign(prediction, truth, max_distance))
        assert outcome[0] > 1000
