"""Gradients, non-maximum suppression and region merging, against slow and simple versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gmae_tools.zeroshot.contours import (
    Gradient,
    close_contours,
    gradient,
    jumps,
    merge_regions,
    merge_tree,
    suppress_nonmaxima,
    suppress_surround,
    thin_ridges,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


# --- gradient ----------------------------------------------------------------------------------------


def test_gradient_of_a_grey_picture_is_scipys() -> None:
    picture = noise(30, 40)
    slope = gradient(picture, 2.0)
    np.testing.assert_allclose(slope.magnitude, ndimage.gaussian_gradient_magnitude(picture, 2.0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_gradient_of_a_ramp_is_its_slope_and_direction(angle: float) -> None:
    y, x = np.mgrid[:40, :40]
    ramp = 0.03 * (np.cos(angle) * x + np.sin(angle) * y)
    slope = gradient(np.stack([ramp, -ramp, 2 * ramp], -1), 1.0)
    inside = np.s_[10:30, 10:30]
    np.testing.assert_allclose(slope.magnitude[inside], 0.03 * np.sqrt(6), rtol=1e-3)
    along = slope.dx[inside] * np.cos(angle) + slope.dy[inside] * np.sin(angle)
    np.testing.assert_allclose(np.abs(along), 1, rtol=1e-3)


# --- non-maximum suppression -------------------------------------------------------------------------


def suppress_by_scipy(slope: Gradient) -> np.ndarray:
    """The same rule with scipy's interpolation."""
    strength = slope.magnitude
    y, x = np.mgrid[: strength.shape[0], : strength.shape[1]].astype(float)
    ahead, behind = (
        ndimage.map_coordinates(strength, [y + sign * slope.dy, x + sign * slope.dx], order=1, mode="nearest")
        for sign in (1, -1)
    )
    return np.where((strength > ahead) & (strength >= behind), strength, 0)


def test_suppression_agrees_with_scipys_interpolation() -> None:
    angles = noise(50, 60, seed=1) * 2 * np.pi
    slope = Gradient(noise(50, 60).astype(np.float32), np.cos(angles), np.sin(angles))
    ours, theirs = suppress_nonmaxima(slope), suppress_by_scipy(slope)
    assert 0.1 < (theirs > 0).mean() < 0.5
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_soft_step_leaves_one_line_of_its_full_strength() -> None:
    step = ndimage.gaussian_filter1d((np.arange(40) >= 20).astype(float), 2.0)
    slope = gradient(np.tile(step, (30, 1)), 1.0)
    thin = suppress_nonmaxima(slope)
    assert ((thin > 0).sum(1) == 1).all()
    np.testing.assert_array_equal(thin.max(1), slope.magnitude.max(1))
    assert set(np.argmax(thin, 1)) <= {19, 20}


def test_nothing_rises_from_a_flat_picture() -> None:
    assert not suppress_nonmaxima(gradient(np.full((20, 30, 3), 0.4), 1.0)).any()


# --- jumps -------------------------------------------------------------------------------------------


def test_jumps_are_the_larger_difference_to_the_right_and_below() -> None:
    labels = np.array([[1, 1, 4], [1, 2, 4], [1, 2, 4]])
    np.testing.assert_array_equal(jumps(labels), [[0, 3, 0], [1, 2, 0], [1, 2, 0]])


# --- merging regions ---------------------------------------------------------------------------------


def mean_height(a: np.ndarray, b: np.ndarray, barrier: np.ndarray) -> float:
    """Mean of the barrier over the steps from one mask to the other."""
    heights = []
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        steps = (a[here] & b[there]) | (b[here] & a[there])
        heights.append(np.maximum(barrier[here], barrier[there])[steps])
    return float(np.concatenate(heights).mean())


def merge_slowly(
    labels: np.ndarray, features: np.ndarray, damping: float, barrier: np.ndarray | None = None
) -> np.ndarray:
    """Greedy merging word for word: look at all pairs each time, repaint the picture after every merge."""
    regions = {}
    for value in np.unique(labels):
        parts, count = ndimage.label(labels == value)
        regions |= {(value, number): parts == number for number in range(1, count + 1)}
    masks = list(regions.values())
    original = np.zeros(labels.shape, int)
    for number, mask in enumerate(masks):
        original[mask] = number

    def dissimilarity(a: np.ndarray, b: np.ndarray) -> float:
        smaller = min(a.sum(), b.sum())
        distance = np.linalg.norm(features[a].mean(0) - features[b].mean(0))
        if barrier is not None:
            distance += mean_height(a, b, barrier)
        return float(distance * np.sqrt(smaller / (smaller + damping)))

    cross = ndimage.generate_binary_structure(2, 1)
    contours, level = np.zeros(labels.shape), 0.0
    while len(masks) > 1:
        pairs = [
            (dissimilarity(a, b), i, j)
            for i, a in enumerate(masks)
            for j, b in enumerate(masks[:i])
            if (ndimage.binary_dilation(a, cross) & b).any()
        ]
        cheapest, i, j = min(pairs)
        level = max(level, cheapest)
        for first, second in ((masks[i], masks[j]), (masks[j], masks[i])):
            for shift in ((0, 1), (1, 0)):
                moved = np.zeros_like(second)
                moved[: second.shape[0] - shift[0], : second.shape[1] - shift[1]] = second[shift[0] :, shift[1] :]
                contours[first & moved] = np.maximum(contours[first & moved], level)
        merged = masks[i] | masks[j]
        masks = [mask for number, mask in enumerate(masks) if number not in (i, j)] + [merged]
    return contours


@given(seed=st.integers(0, 10_000), labels=st.integers(2, 6), damping=st.sampled_from([0.0, 3.0, 50.0]))
@settings(max_examples=15)
def test_merging_agrees_with_looking_at_all_pairs(seed: int, labels: int, damping: float) -> None:
    generator = np.random.default_rng(seed)
    partition = np.kron(generator.integers(0, labels, (4, 5)), np.ones((3, 2), int)) - 1  # -1: owned by nobody
    features = generator.random((*partition.shape, 3))
    expected = merge_slowly(partition, features, damping)
    np.testing.assert_allclose(merge_regions(partition, features, damping=damping), expected, rtol=1e-5)


@given(seed=st.integers(0, 10_000), damping=st.sampled_from([0.0, 30.0]), colored=st.booleans())
@settings(max_examples=15)
def test_barriers_count_by_their_mean_along_the_border(seed: int, damping: float, colored: bool) -> None:
    generator = np.random.default_rng(seed)
    partition = np.kron(np.arange(20).reshape(4, 5), np.ones((3, 2), int))
    features, barrier = colored * generator.random((*partition.shape, 2)), generator.random(partition.shape)
    expected = merge_slowly(partition, features, damping, barrier)
    tree = merge_tree(partition, features if colored else features[..., :0], barrier=barrier, damping=damping)
    levels = np.unique(np.float32(tree.levels[20:]))
    np.testing.assert_allclose(np.unique(expected)[1:], levels, rtol=1e-5)
    for count in range(2, 21):
        if tree.levels[39 - count] < tree.levels[40 - count] * (1 - 1e-6):
            drawn = expected >= tree.levels[40 - count] * (1 - 1e-6)
            np.testing.assert_array_equal(jumps(tree.partition(count)[partition]) > 0, drawn)


def test_what_closes_is_as_strong_as_the_mean_of_its_border() -> None:
    """A ring of which one half is strong: the weaker half has no other way to close, so both are worth their mean."""
    strength = np.zeros((41, 61))
    strength[10, 15:46] = strength[10:31, 15] = 0.9
    strength[30, 15:46] = strength[10:31, 45] = 0.5
    strength[5, 50:58] = 0.9  # closes nothing
    contours = close_contours(strength, 0.5)
    ring = [contours[9:12, 30].max(), contours[29:32, 30].max(), contours[20, 14:17].max(), contours[20, 44:47].max()]
    assert np.ptp(ring) == 0
    blurred = ndimage.gaussian_filter(strength.astype(np.float32), 0.5)
    assert ring[0] == pytest.approx((blurred[10, 30] + blurred[30, 30]) / 2, rel=0.05)
    assert contours[:9].max() < 0.5 * ring[0]


def test_closed_contours_of_small_regions_are_damped() -> None:
    """Against the figures of the inside of a ring without damping: its border counts by sqrt(s / (s + damping))."""
    strength = np.zeros((41, 61))
    strength[10, 15:46] = strength[30, 15:46] = strength[10:31, 15] = strength[10:31, 45] = 0.9
    whole, damped = (close_contours(strength, 0.5, damping=damping) for damping in (0.0, 400.0))
    inside = components(whole, whole[20, 14:17].max()) == components(whole, whole[20, 14:17].max())[20, 30]
    area = inside.sum()
    assert 19 * 29 <= area <= 22 * 32
    expected = whole[20, 14:17].max() * np.sqrt(area / (area + 400))
    assert damped[20, 14:17].max() == pytest.approx(expected, rel=2e-3)


def test_a_plain_has_no_contours() -> None:
    assert not close_contours(np.zeros((9, 12)), 1.0).any()
    assert not close_contours(np.full((9, 12), 0.7), 1.0).any()


def test_two_halves_merge_at_the_damped_difference_of_their_colors() -> None:
    partition = np.repeat([[0] * 3 + [7] * 9], 5, 0)
    features = np.where(partition[..., None] == 7, [0.5, 0.4, 0.0], [0.2, 0.0, 0.0])
    contours = merge_regions(partition, features, damping=45)
    expected = np.zeros((5, 12))
    expected[:, 2] = 0.5 * np.sqrt(15 / (15 + 45))
    np.testing.assert_allclose(contours, expected, rtol=1e-6)


def test_one_region_has_no_contours() -> None:
    assert not merge_regions(np.zeros((4, 5), int), noise(4, 5, 3)).any()


def test_thresholds_of_the_map_are_nested_partitions_with_closed_contours() -> None:
    """At any level the regions on both sides of a line that is left differ: no line ends inside a region."""
    generator = np.random.default_rng(3)
    partition = np.kron(generator.integers(0, 40, (8, 9)), np.ones((5, 5), int))
    contours = merge_regions(partition, generator.random((*partition.shape, 3)), damping=20)
    levels = np.unique(contours)[1:]
    assert len(levels) > 20
    for level in levels[::5]:
        pieces = components(contours, level)
        drawn = contours >= level
        assert (drawn == (jumps(pieces) > 0)).all()


def test_a_partition_into_so_many_parts_is_what_the_contours_leave_at_that_level() -> None:
    generator = np.random.default_rng(4)
    regions = np.kron(np.arange(42).reshape(6, 7), np.ones((3, 4), int))
    features = generator.random((*regions.shape, 3))
    contours = merge_regions(regions, features, damping=20)
    tree = merge_tree(regions, features, damping=20)
    assert (np.diff(tree.levels) >= 0).all() and len(tree.levels) == 83
    for count in range(1, 43):
        part = tree.partition(count)
        assert set(part) == set(range(count))
        next_level = tree.levels[83 - count + 1] if count > 1 else np.inf
        if tree.levels[83 - count] < next_level:  # else one level has several merges
            drawn = contours >= np.float32(next_level)
            np.testing.assert_array_equal(jumps(part[regions]) > 0, drawn)
    np.testing.assert_array_equal(tree.partition(100), np.arange(42))


def components(contours: np.ndarray, level: float) -> np.ndarray:
    """Connected pixels between which no line of at least this level is drawn, numbered."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = np.arange(contours.size).reshape(contours.shape)
    across = (number[:, :-1], number[:, 1:])
    down = (number[:-1], number[1:])
    # A pixel's value is the larger of its two lines: a link is open for sure where the value is below the level.
    open_links = [
        (first[contours[first // contours.shape[1], first % contours.shape[1]] < level], second)
        for first, second in (across, down)
    ]
    starts = np.concatenate([links for links, _ in open_links])
    steps = np.concatenate([np.full(len(open_links[0][0]), 1), np.full(len(open_links[1][0]), contours.shape[1])])
    graph = coo_array((np.ones(len(starts)), (starts, starts + steps)), shape=(contours.size,) * 2)
    return connected_components(graph, directed=False)[1].reshape(contours.shape)


# --- surround ----------------------------------------------------------------------------------------


def test_the_mean_strength_of_the_surround_divides() -> None:
    strength = np.random.default_rng(0).random((31, 47)).astype(np.float32)
    weights = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)  # three standard deviations of 3 px
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    around = ndimage.convolve(strength.astype(np.float64), kernel, mode="reflect")
    found = suppress_surround(strength, 3.0, 0.2)
    np.testing.assert_allclose(found, strength / (1 + around / 0.2), rtol=1e-5)
    assert found.dtype == np.float32
    uniform = suppress_surround(np.full((9, 9), 0.2), 2.0, 0.2)
    np.testing.assert_allclose(uniform, 0.1, rtol=1e-5)  # half is left where the mean is the half


# --- ridges ------------------------------------------------------------------------------------------


def test_lines_side_by_side_become_one_and_the_stronger_stay_stronger() -> None:
    strength = np.zeros((40, 60), np.float32)
    strength[:, 20] = strength[:, 22] = 0.6  # the same edge, seen a little apart
    strength[:, 40] = 0.3
    ridges = thin_ridges(strength, 1.0)
    rows = ridges[5:35]
    assert [list(np.flatnonzero(row)) for row in rows] == [[21, 40]] * 30
    np.testing.assert_allclose(rows[:, 40], 0.3 * ndimage.gaussian_filter1d(np.eye(9)[4], 1.0)[4], rtol=1e-3)
    assert rows[:, 21].min() > 2 * rows[:, 40].max()


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.0])
def test_a_slanted_line_stays_one_line(angle: float) -> None:
    y, x = np.mgrid[:60, :60] - 29.5
    line = (np.abs(np.cos(angle) * x + np.sin(angle) * y) < 1).astype(np.float32)
    ridge = thin_ridges(line, 1.0) > 0.3
    distance = np.abs(np.cos(angle) * x + np.sin(angle) * y)
    assert distance[ridge].max() < 1.1
    labels, count = ndimage.label(ridge[8:-8, 8:-8], np.ones((3, 3)))
    assert count == 1
    assert 40 <= (labels > 0).sum() <= 70


def test_no_ridges_on_a_plain() -> None:
    assert not thin_ridges(np.full((20, 20), 0.5, np.float32), 1.0).any()
