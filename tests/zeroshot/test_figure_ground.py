"""Figure and ground, on scenes whose figure is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csgraph

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from gmae_tools.zeroshot.figure_ground import (
    GRAPH_PIXELS,
    METHODS,
    Groups,
    _shortest_paths,
    balance_colors,
    build_graph,
    calibrate,
    color_regions,
    composite,
    foreground_mask,
    foreground_probability,
    found_in_regions,
    frame_scores,
    group_scores,
    near_and_central,
    render_owners,
    saliency,
)

CAMERA = Camera("orthographic", focal=8.0, blur=0.0)  # footprints do not change with depth
SIDE = 15  # of the grid of Gaussians
RED, BLUE = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.8])


def disc_on_ground(center: tuple[float, float] = (0.0, 0.0), radius: float = 0.5, depth: float = 0.5) -> Gaussians:
    """A red disc at this depth on blue ground at depth 0: a grid of round, opaque Gaussians, colours a little off."""
    generator = torch.Generator().manual_seed(0)
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    inside = torch.hypot(x - center[0], y - center[1]) < radius
    noise = 0.05 * torch.randn(SIDE * SIDE, 3, generator=generator)
    colors = (torch.where(inside[:, None], RED, BLUE) + noise).clamp(0, 1)
    means = torch.stack([x, y, depth * inside], 1)
    scales, opacities = torch.full((SIDE * SIDE, 3), 1.1 / SIDE), torch.full((SIDE * SIDE,), 0.95)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(SIDE * SIDE, 4)
    return Gaussians(*(tensor[None] for tensor in (means, scales, quats, colors, opacities)))


def disc(height: int, width: int, center: tuple[float, float] = (0.0, 0.0), radius: float = 0.5) -> np.ndarray:
    y, x = ((np.arange(side) + 0.5) / side * 2 - 1 for side in (height, width))
    return np.hypot(x - center[0], y[:, None] - center[1]) < radius


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


# --- what is found -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "depth"), [("grouped", -0.5), ("grouped", 0.5), ("depth", -0.5)])
@pytest.mark.parametrize(("height", "width"), [(90, 90), (60, 130)])
def test_a_disc_in_the_middle_is_the_figure_by_color_at_either_depth_and_by_depth_in_front(
    method: str, depth: float, height: int, width: int
) -> None:
    probability = foreground_probability(Scene(disc_on_ground(depth=depth), CAMERA, height, width), method=method)
    assert probability.shape == (height, width) and probability.dtype == np.float32
    assert 0 <= probability.min() < 0.1 and 0.9 < probability.max() <= 1
    assert iou(foreground_mask(probability), disc(height, width)) > 0.8


def test_depth_asks_what_is_near_and_not_for_colors() -> None:
    """A disc beside the middle is found in front, and left out behind, whatever its colour."""
    place, truth = (0.45, 0.0), disc(90, 90, (0.45, 0.0), 0.4)
    front, behind = (disc_on_ground(place, 0.4, depth) for depth in (-0.5, 0.5))
    found = foreground_mask(foreground_probability(Scene(front, CAMERA, 90, 90), method="depth"))
    assert found[truth].mean() > 0.7
    left = foreground_mask(foreground_probability(Scene(behind, CAMERA, 90, 90), method="depth"))
    assert left[truth].mean() < 0.3
    grey = replace(front, colors=torch.full_like(front.colors, 0.5))
    same = foreground_probability(Scene(grey, CAMERA, 90, 90), method="depth")
    np.testing.assert_array_equal(foreground_mask(same), found)


def test_grouping_follows_the_photograph_where_there_is_one() -> None:
    """The photograph shows the disc with a bite that the Gaussians do not have; without it they are all there is."""
    gaussians, whole = disc_on_ground(), disc(120, 120)
    bitten = whole & ~disc(120, 120, (0.5, 0.0), 0.3)
    noise = np.random.default_rng(0).normal(0, 5, (120, 120, 3))
    photo = (np.where(bitten[..., None], RED * 255, BLUE * 255) + noise).clip(0, 255).astype(np.uint8)
    with_it = foreground_mask(foreground_probability(Scene(gaussians, CAMERA, 120, 120, photo)))
    without = foreground_mask(foreground_probability(Scene(gaussians, CAMERA, 120, 120)))
    assert iou(with_it, bitten) > 0.95 and iou(without, whole) > 0.8
    assert without[whole & ~bitten].mean() > 0.5 > 0.1 > with_it[whole & ~bitten].mean()


def test_depth_does_not_look_at_the_photograph() -> None:
    scene = Scene(disc_on_ground(depth=-0.5), CAMERA, 40, 50)
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(
        foreground_probability(replace(scene, photo=photo), method="depth"),
        foreground_probability(scene, method="depth"),
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 2)])
def test_pictures_of_a_few_pixels_a_side_have_a_probability(height: int, width: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    probability = foreground_probability(Scene(disc_on_ground(), CAMERA, height, width, photo))
    assert probability.shape == (height, width) and np.isfinite(probability).all()


@pytest.mark.parametrize("center", [(-0.3, 0.3), (0.45, 0.0)])
def test_grouping_finds_the_figure_away_from_the_middle(center: tuple[float, float]) -> None:
    gaussians = disc_on_ground(center, 0.4)
    found = foreground_mask(foreground_probability(Scene(gaussians, CAMERA, 90, 90)))
    assert iou(found, disc(90, 90, center, 0.4)) > 0.75


def test_grouping_asks_for_color_and_not_for_depth() -> None:
    gaussians = disc_on_ground(depth=-0.5)
    flat = replace(gaussians, means=gaussians.means * torch.tensor([1.0, 1, 0]))
    assert iou(foreground_mask(foreground_probability(Scene(flat, CAMERA, 90, 90))), disc(90, 90)) > 0.8
    grey = replace(gaussians, colors=torch.full_like(gaussians.colors, 0.5))
    assert not foreground_mask(foreground_probability(Scene(flat, CAMERA, 90, 90), method="depth")).any()
    assert iou(foreground_mask(foreground_probability(Scene(grey, CAMERA, 90, 90), method="depth")), disc(90, 90)) > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_gaussians_and_mirroring_do_not_matter(method: str) -> None:
    torch.manual_seed(0)
    gaussians = disc_on_ground((0.2, -0.1))
    # Distinct depths, so that nothing hangs on ties.
    gaussians = replace(gaussians, means=gaussians.means + 1e-3 * torch.rand(gaussians.means.shape))
    expected = foreground_probability(Scene(gaussians, CAMERA, 80, 90), method=method)
    shuffled = gaussians.select(torch.randperm(gaussians.k))
    # Otsu's threshold is one of 256 levels: where it tips to the next, probabilities move by up to 0.01.
    np.testing.assert_allclose(
        foreground_probability(Scene(shuffled, CAMERA, 80, 90), method=method), expected, atol=0.011
    )
    mirrored = replace(gaussians, means=gaussians.means * torch.tensor([-1.0, 1, 1]))
    flipped = foreground_probability(Scene(mirrored, CAMERA, 80, 90), method=method)[:, ::-1]
    assert np.abs(flipped - expected).mean() < 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [0, 1, 2, SIDE * SIDE])
def test_nothing_is_figure_where_nothing_differs(method: str, k: int) -> None:
    """Also without any Gaussian in sight (k = 0 stands for transparent ones)."""
    gaussians = disc_on_ground(depth=0.0).select(slice(0, k or 5))
    gaussians = replace(
        gaussians,
        colors=torch.ones_like(gaussians.colors),
        opacities=gaussians.opacities * (k > 0),
        scales=gaussians.scales * 100,
    )
    probability = foreground_probability(Scene(gaussians, CAMERA, 20, 30), method=method)
    assert np.isfinite(probability).all() and not foreground_mask(probability).any()


def test_wrong_use_is_reported() -> None:
    with pytest.raises(GmaeToolsError, match="use grouped or depth"):
        foreground_probability(Scene(disc_on_ground(), CAMERA, 20, 20), method="magic")


# --- the parts ---------------------------------------------------------------------------------------


def test_a_composite_is_the_mean_of_the_scores_weighted_by_what_is_seen() -> None:
    gaussians = disc_on_ground()
    scores = np.random.default_rng(0).random(gaussians.k)
    scores[7] = np.nan
    drawn = composite(Scene(gaussians, CAMERA, 40, 50), scores)
    known = torch.from_numpy(np.isfinite(scores))
    rest = gaussians.select(known)
    colors = torch.from_numpy(scores)[known].float()[None, :, None]
    raster = rasterize(replace(project(rest, CAMERA, 40, 50), colors=colors), 40, 50, backend="dense")
    mean = (raster.image / raster.alpha)[0, 0].numpy()
    np.testing.assert_allclose(drawn, (mean - mean.min()) / np.ptp(mean), atol=1e-4)


def test_calibration_keeps_the_order_and_puts_otsus_threshold_at_one_half() -> None:
    from skimage.filters import threshold_otsu

    saliency_map = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30) ** 3
    probability = calibrate(saliency_map)
    assert (np.diff(probability.ravel()) >= 0).all()
    np.testing.assert_array_equal(foreground_mask(probability), saliency_map > threshold_otsu(saliency_map))
    # A tenth of the span above the threshold the odds are e to 1.
    odds = np.exp((saliency_map - threshold_otsu(saliency_map)) / 0.1)
    np.testing.assert_allclose(probability, odds / (1 + odds), atol=1e-5)


def test_nearness_counts_as_odds_beside_the_preference_for_the_middle() -> None:
    """Against sums over all pixels, written out."""
    generator = np.random.default_rng(0)
    nearness = generator.random((12, 9))
    sigma, weight = 0.2, 0.7
    spread = sigma * np.sqrt(nearness.size)
    rows, columns = (np.arange(-3 * side, 4 * side) for side in nearness.shape)
    smooth = np.zeros_like(nearness)
    for y in range(12):
        for x in range(9):
            down, across = (np.exp(-(((far - at) / spread) ** 2) / 2) for far, at in ((rows, y), (columns, x)))
            weights = np.outer(down, across)
            values = nearness[np.clip(rows, 0, 11)][:, np.clip(columns, 0, 8)]  # beyond the border as at it
            smooth[y, x] = (weights * values).sum() / weights.sum()
    expected = np.zeros_like(nearness)
    for y in range(12):
        for x in range(9):
            squared = (((y + 0.5) / 12 - 0.5) ** 2 + ((x + 0.5) / 9 - 0.5) ** 2) / 0.25**2
            expected[y, x] = np.exp(-squared / 2 + weight * (smooth[y, x] - smooth.mean()) / smooth.std())
    expected = (expected - expected.min()) / np.ptp(expected)
    found = near_and_central(nearness, weight=weight, sigma=sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)  # the filter stops at four standard deviations
    np.testing.assert_allclose(near_and_central(3 + 5 * nearness, weight=weight, sigma=sigma), found, atol=1e-5)
    assert not near_and_central(np.full((12, 9), 0.3)).any()


def test_colors_of_either_side_are_balanced_as_sums_over_pairs_say() -> None:
    generator = np.random.default_rng(1)
    n = 12
    area = generator.random(n) + 0.1
    area /= area.sum()
    color = generator.random((n, 3)) * 15
    beside = generator.random((n, n)) < 0.3
    beside = (beside | beside.T) & ~np.eye(n, dtype=bool)
    groups = Groups(area, generator.random(n), generator.random((n, 2)), color, beside)
    first = generator.random(n)

    expected = list(first)
    for _ in range(2):
        odds = []
        for i in range(n):
            near = [np.exp(-sum((color[i] - color[j]) ** 2) / (2 * 4.0**2)) for j in range(n)]
            figure = sum(near[j] * area[j] * expected[j] for j in range(n))
            ground = sum(near[j] * area[j] * (1 - expected[j]) for j in range(n))
            whole = sum(area[j] * expected[j] for j in range(n))
            ratio = (figure + 1e-4) / (ground + 1e-4) / ((whole + 1e-4) / (1 - whole + 1e-4))
            odds.append((first[i] + 1e-4) / (1 - first[i] + 1e-4) * ratio)
        wanted = [each / (1 + each) for each in odds]
        for _ in range(300):  # each group the mean of what it wants and of its neighbours, until nothing moves
            for i in range(n):
                bonds = [
                    beside[i, j] * (np.exp(-sum((color[i] - color[j]) ** 2) / (2 * 8.0**2)) + 0.2) for j in range(n)
                ]
                pulled = sum(bond * value for bond, value in zip(bonds, expected, strict=True))
                expected[i] = (n * area[i] * wanted[i] + pulled) / (n * area[i] + sum(bonds))
    found = balance_colors(groups, first, rounds=2, model_sigma=4.0, link=0.2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - first).max() > 0.1
    np.testing.assert_array_equal(balance_colors(groups, np.full(n, 0.3)), np.full(n, 0.3))


def test_scores_are_averaged_over_frames_outside_of_which_nothing_is_figure() -> None:
    owner = np.kron(np.arange(100).reshape(10, 10), np.ones((2, 2), int))
    color = np.random.default_rng(0).random((20, 20, 3)) * 50
    graph = build_graph(101, owner, color)
    found = frame_scores(graph, (1.0, 0.8, 0.6))
    singles = []
    for margin in (0, 2, 4):
        inner = slice(margin, 20 - margin)
        singles.append(group_scores(build_graph(101, owner[inner, inner], color[inner, inner])))
    assert np.isnan(singles[1]).sum() == 101 - 64 and np.isnan(singles[2]).sum() == 101 - 36
    assert np.isnan(found[100]) and np.isfinite(found[:100]).all()
    np.testing.assert_allclose(found[:100], np.nan_to_num(singles).mean(0)[:100])
    np.testing.assert_array_equal(frame_scores(graph, (1.0,)), singles[0])


def test_regions_have_one_probability_each_from_both_and_the_colors_of_either_side() -> None:
    picture = np.full((100, 100, 3), 40, np.uint8)
    picture[30:70, 30:70] = 200
    picture[45:55, 45:55] = 120
    regions = color_regions(picture)
    sizes = np.bincount(regions.ravel())
    assert sizes.min() >= 6 and len(sizes) < 20, "three parts and, after the blur, the edges between them"
    assert len({regions[0, 0], regions[35, 35], regions[50, 50]}) == 3
    square = picture[..., 0] > 40
    found = found_in_regions(picture, np.where(square, 0.9, 0.1))
    assert found.dtype == np.float32
    assert all(len(np.unique(found[regions == number])) == 1 for number in range(len(sizes)))
    assert found[square].min() > 0.6 > 0.4 > found[~square].max()
    against = found_in_regions(picture, np.where(square, 0.1, 0.9))
    assert against[square].max() < found[square].min() and against[~square].min() > found[~square].max()


def test_small_groups_of_the_graph_merge_early() -> None:
    """10 of 10,000 pixels are a thousandth of the picture, which counts at half its squared difference."""
    owner = np.zeros((100, 100), int)
    owner[40:42, 50:55] = 1
    color = np.where(owner[..., None] == 1, [80.0, 0.0, 0.0], [50.0, 0.0, 0.0])
    graph = build_graph(3, owner, color)
    assert graph.tree.levels[-1] == pytest.approx(30 / np.sqrt(2))


def test_scores_are_averaged_over_several_numbers_of_groups() -> None:
    owner = np.kron(np.arange(100).reshape(10, 10), np.ones((3, 4), int)) - 1  # -1: owned by nobody
    graph = build_graph(101, owner, np.random.default_rng(0).random((*owner.shape, 3)))

    def largest(groups: Groups) -> np.ndarray:
        return groups.area / groups.area.max()

    singles = [group_scores(graph, (count,), largest) for count in (10, 20, 40, 80)]
    assert all(len(np.unique(single[:99])) > 1 for single in singles)
    found = group_scores(graph, score=largest)
    assert np.isnan(found[99:]).all(), "which own no pixel"
    np.testing.assert_allclose(found[:99], np.mean(singles, 0)[:99])
    part = graph.tree.partition(10)
    sizes = np.bincount(part)[part]
    np.testing.assert_allclose(singles[0][:99], (sizes / sizes.max())[1:])


def test_groups_measure_what_their_pixels_do() -> None:
    owner, color = render_owners(Scene(disc_on_ground((0.3, 0.2)), CAMERA, 90, 120))
    graph = build_graph(SIDE * SIDE, owner, color)
    assert set(graph.gaussians) <= set(range(SIDE * SIDE)) and len(graph.gaussians) > 100
    part = graph.tree.partition(7)
    groups = graph.groups(part)
    assert groups.area.sum() == pytest.approx(1) and groups.border.sum() == pytest.approx(4)

    height, width = owner.shape
    assert height / width == pytest.approx(0.75, abs=0.01) and height * width == pytest.approx(GRAPH_PIXELS, rel=0.01)
    splats = project(disc_on_ground((0.3, 0.2)), CAMERA, height, width)
    raster = rasterize(splats, height, width, owners=True, backend="dense")
    assert raster.owner is not None and (raster.owner[0].numpy() == owner).mean() > 0.999  # rounding decides the rest
    place_of = {int(gaussian): node for node, gaussian in enumerate(graph.gaussians)}
    number = np.vectorize(lambda gaussian: part[place_of[int(gaussian)]])(owner)
    for index in range(7):
        y, x = np.nonzero(number == index)
        assert groups.area[index] == pytest.approx(len(y) / (height * width))
        assert groups.place[index] == pytest.approx(((x + 0.5).mean() / width, (y + 0.5).mean() / height))
        assert groups.color[index] == pytest.approx(color[y, x].mean(0))
        border = ((x == 0).sum() + (x == width - 1).sum()) / height + ((y == 0).sum() + (y == height - 1).sum()) / width
        assert groups.border[index] == pytest.approx(border)
        touched = {int(other) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
                   for other in number[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]}  # fmt: skip
        around = {int(other) for other in np.flatnonzero(groups.border)} if border else set()
        assert set(np.flatnonzero(groups.beside[index])) == (touched | around) - {index}
    reds = groups.color[:, 2] > 0  # b of CIELAB: blue is below
    assert iou(reds[number], disc(height, width, (0.3, 0.2))) > 0.8


def saliency_by_loops(groups: Groups) -> np.ndarray:
    """The same formulae, one pair at a time; paths by Floyd and Warshall, the balance by relaxation."""
    n = len(groups.area)
    difference = [[float(np.linalg.norm(groups.color[i] - groups.color[j])) for j in range(n)] for i in range(n)]
    paths = [[0 if i == j else difference[i][j] if groups.beside[i, j] else np.inf for j in range(n)] for i in range(n)]
    for via in range(n):
        for i in range(n):
            for j in range(n):
                paths[i][j] = min(paths[i][j], paths[i][via] + paths[via][j])
    ground, figure = [], []
    for i in range(n):
        border = sum(np.exp(-(paths[i][j] ** 2) / 200) * groups.border[j] for j in range(n))
        area = sum(np.exp(-(paths[i][j] ** 2) / 200) * groups.area[j] for j in range(n))
        ground.append(1 - np.exp(-((border / np.sqrt(area)) ** 2) / 2))
    for i in range(n):
        apart = [((groups.place[i] - groups.place[j]) ** 2).sum() for j in range(n)]
        contrast = sum(difference[i][j] * np.exp(-apart[j] * 8) * ground[j] * groups.area[j] for j in range(n))
        figure.append(contrast * np.exp(-((groups.place[i] - 0.5) ** 2).sum() * 8))
    figure = [(f - min(figure)) / (max(figure) - min(figure)) for f in figure]
    scores = np.zeros(n)
    for _ in range(300):
        for i in range(n):
            bonds = [np.exp(-(difference[i][j] ** 2) / 200) + 0.1 if groups.beside[i, j] else 0 for j in range(n)]
            weight = n * groups.area[i]
            pull = weight * figure[i] + sum(bond * score for bond, score in zip(bonds, scores, strict=True))
            scores[i] = pull / (sum(bonds) + weight * (ground[i] + figure[i]))
    return (scores - scores.min()) / np.ptp(scores)


def test_saliency_agrees_with_its_formulae_one_pair_at_a_time() -> None:
    generator = np.random.default_rng(1)
    graph = build_graph(SIDE * SIDE, *render_owners(Scene(disc_on_ground((0.3, 0.2)), CAMERA, 90, 120)))
    groups = graph.groups(graph.tree.partition(9))
    groups = replace(groups, color=groups.color / 3 + generator.normal(0, 4, (9, 3)))
    assert not groups.beside.all()
    np.testing.assert_allclose(saliency(groups), saliency_by_loops(groups), atol=1e-4)


def test_figure_and_ground_change_places_with_the_border() -> None:
    """Two colours, a square in a frame: whichever has the border is the ground."""
    groups = Groups(
        area=np.array([0.7, 0.3]),
        border=np.array([4.0, 0.0]),
        place=np.array([[0.5, 0.5], [0.5, 0.5]]),
        color=np.array([[30.0, 0, 0], [80.0, 0, 0]]),
        beside=~np.eye(2, dtype=bool),
    )
    assert saliency(groups).tolist() == [0, 1]
    assert saliency(replace(groups, border=groups.border[::-1])).tolist() == [1, 0]


def test_shortest_paths_are_scipys() -> None:
    generator = np.random.default_rng(0)
    for share in (0.02, 0.3):  # of the pairs that are neighbours; at 0.02 some groups cannot be reached
        lengths = np.where(generator.random((40, 40)) < share, generator.uniform(1, 9, (40, 40)), np.inf)
        lengths = np.minimum(lengths, lengths.T)
        expected = csgraph.floyd_warshall(csgraph.csgraph_from_dense(lengths, null_value=np.inf))
        np.testing.assert_allclose(_shortest_paths(lengths), expected, rtol=1e-12)
        assert np.isinf(expected).any() == (share < 0.1)
