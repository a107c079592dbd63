"""Edges from Gaussians, on scenes whose edges are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_gradient_magnitude, maximum_filter
from skimage.color import rgb2lab

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from gmae_tools.zeroshot import edges
from gmae_tools.zeroshot.contours import close_contours, gradient, jumps, suppress_nonmaxima, thin_ridges
from gmae_tools.zeroshot.edges import (
    READOUTS,
    Significance,
    change_edges,
    close,
    finish,
    layer_edges,
    layer_index,
    region_edges,
)

SIZE = 96
CAMERA = Camera("orthographic", distance=8.0, focal=8.0, blur=0.0)  # sigma = SIZE / 2 * scale at any depth
RIM = 0.5  # opacity at which a disc ends
SIGMA = 12.0  # px
OPACITY = 0.95
RADIUS = SIGMA * np.sqrt(2 * np.log(OPACITY / RIM))  # where a Gaussian of this opacity has fallen to RIM
NEAR, FAR = (40.0, 44.0), (56.0, 50.0)  # centres of the discs, x and y in px


def discs(
    *centers: tuple[float, float], depths: tuple[float, ...], colors: tuple[tuple[float, float, float], ...]
) -> Gaussians:
    """One round Gaussian a disc."""
    count = len(centers)
    xy = torch.tensor(centers) / (SIZE / 2) - 1
    means = torch.cat([xy, torch.tensor(depths)[:, None]], 1)
    scales = torch.full((count, 3), SIGMA / (SIZE / 2))
    quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
    return Gaussians(*(t[None] for t in (means, scales, quats, torch.tensor(colors), torch.full((count,), OPACITY))))


def seen(gaussians: Gaussians) -> Scene:
    return Scene(gaussians, CAMERA, SIZE, SIZE)


def two_discs() -> Gaussians:
    """The farther one first: the order of the Gaussians must not matter."""
    return discs(FAR, NEAR, depths=(0.6, -0.6), colors=((0.1, 0.2, 0.9), (0.9, 0.1, 0.1)))


def disc(center: tuple[float, float]) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.hypot(x - center[0], y - center[1]) < RADIUS


def visible_index() -> np.ndarray:
    """1 on the near disc, 2 on what it leaves of the far one, 3 elsewhere: geometry, no rendering."""
    return np.where(disc(NEAR), 1, np.where(disc(FAR), 2, 3))


def outlines(index: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right or their lower neighbour, one by one."""
    lines = np.zeros(index.shape, bool)
    for y in range(SIZE):
        for x in range(SIZE):
            right = x + 1 < SIZE and index[y, x] != index[y, x + 1]
            below = y + 1 < SIZE and index[y, x] != index[y + 1, x]
            lines[y, x] = right or below
    return lines


def test_two_overlapping_discs_yield_exactly_their_visible_outlines() -> None:
    rim = Significance("alpha", (RIM,))
    index = layer_index(seen(two_discs()), 2, significance=rim)
    np.testing.assert_array_equal(index[0], visible_index())
    edges = layer_edges(seen(two_discs()), [2], significance=rim)
    expected = outlines(visible_index())
    assert 100 < expected.sum() < 250
    np.testing.assert_array_equal(edges, expected.astype(np.float32))
    hidden = outlines(disc(FAR).astype(int)) & disc(NEAR)
    assert hidden.sum() > 10
    assert not (edges.astype(bool) & hidden & ~outlines(disc(NEAR).astype(int))).any()


def test_by_color_only_what_can_be_told_from_its_background_has_an_outline() -> None:
    """Over white, black changes every channel by its alpha, and white changes nothing."""
    significance = Significance("color", (RIM,))
    black, white = (discs(NEAR, depths=(0.0,), colors=((level,) * 3,)) for level in (0.0, 1.0))
    index = layer_index(seen(black), 1, significance=significance)[0]
    np.testing.assert_array_equal(index, np.where(disc(NEAR), 1, 2))
    assert (layer_index(seen(white), 1, significance=significance) == 2).all()


@pytest.mark.parametrize("measure", ["color", "alpha", "share"])
@pytest.mark.parametrize("order", ["back-to-front", "front-to-back"])
def test_last_change_agrees_with_drawing_group_by_group(measure: str, order: str) -> None:
    """The definition word for word: draw one more group each time, compare the pictures."""
    gaussians = scattered(24)
    layers, threshold = 4, 0.15
    ordered = gaussians.sort_by_depth()
    groups = [ordered.select(slice(start, start + 6)) for start in range(0, 24, 6)]

    def draw(chosen: list[Gaussians]) -> tuple[torch.Tensor, torch.Tensor]:
        if not chosen:
            return torch.ones(3, SIZE, SIZE), torch.zeros(SIZE, SIZE)
        joined = Gaussians(*(torch.cat(parts, 1) for parts in zip(*(vars(g).values() for g in chosen), strict=True)))
        raster = rasterize(project(joined, CAMERA, SIZE, SIZE), SIZE, SIZE, background=torch.ones(3), backend="dense")
        return raster.image[0], raster.alpha[0, 0]

    expected = torch.full((SIZE, SIZE), layers + 1)
    numbers = range(layers) if order == "front-to-back" else range(layers - 1, -1, -1)
    for number in numbers:
        drawn, with_it = (groups[:number], groups[: number + 1])
        if order == "back-to-front":
            drawn, with_it = groups[number + 1 :], groups[number:]
        change = {
            "color": (draw(with_it)[0] - draw(drawn)[0]).abs().amax(0),
            "alpha": draw([groups[number]])[1],
            "share": draw(groups[: number + 1])[1] - draw(groups[:number])[1],
        }[measure]
        expected[change > threshold] = number + 1
    significance = Significance(measure, (threshold,), order)  # type: ignore[arg-type]
    index = layer_index(seen(gaussians), layers, significance=significance)[0]
    assert len(np.unique(expected)) == layers + 1
    assert (index != expected.numpy()).mean() < 0.001  # rounding right at the threshold


def test_layer_changes_are_the_joint_gradient_of_painting_group_by_group() -> None:
    """Paint one more group each time, compare the pictures in CIELAB, and take the gradient of all differences."""
    from skimage.color import rgb2lab

    gaussians = scattered(40)
    ordered = gaussians.sort_by_depth()
    pictures = [np.ones((SIZE, SIZE, 3), np.float32)]
    for start in range(30, -1, -10):
        raster = rasterize(
            project(ordered.select(slice(start, None)), CAMERA, SIZE, SIZE), SIZE, SIZE, background=torch.ones(3),
            backend="dense",
        )  # fmt: skip
        pictures.append(raster.image[0].movedim(0, -1).numpy())
    colors = [rgb2lab(picture) / 100 for picture in pictures]
    changes = np.stack([np.linalg.norm(b - a, axis=-1) for a, b in pairwise(colors)], -1)
    slope = suppress_nonmaxima(gradient(changes, edges.CHANGE_SIGMA))
    expected = slope / (slope + edges.CHANGE_HALF)
    found = change_edges(seen(gaussians))
    assert expected.max() > 0.1
    assert (np.abs(found - expected) > 0.01).mean() < 0.005  # where two maxima are equal but for rounding


def scattered(count: int, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(1, count, *shape, generator=generator) * (high - low) + low

    return Gaussians(
        uniform(3, low=-1, high=1), uniform(3, low=0.05, high=0.2), uniform(4, low=-1, high=1),
        uniform(3, low=0, high=1), uniform(low=0.3, high=0.99),
    )  # fmt: skip


def test_strength_is_persistence_over_thresholds_and_numbers_of_layers() -> None:
    gaussians = scattered(24)
    thresholds = (0.2, 0.5, 0.8)
    parts = [
        layer_edges(seen(gaussians), [layers], significance=Significance("alpha", (threshold,)))
        for layers in (3, 8)
        for threshold in thresholds
    ]
    assert all(set(np.unique(part)) == {0, 1} for part in parts)
    whole = layer_edges(seen(gaussians), [3, 8], significance=Significance("alpha", thresholds))
    np.testing.assert_allclose(whole, np.mean(parts, 0), atol=1e-6)
    assert len(np.unique(whole.round(4))) > 4


def test_tall_pictures_are_drawn_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = scattered(24)
    whole, changes = layer_index(seen(gaussians), 4), change_edges(seen(gaussians))
    monkeypatch.setattr("gmae_tools.zeroshot.edges._STRIP_NUMBERS", 1)
    np.testing.assert_array_equal(layer_index(seen(gaussians), 4), whole)
    np.testing.assert_allclose(change_edges(seen(gaussians)), changes, atol=1e-5)


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_finds_the_visible_outlines(name: str) -> None:
    """The strongest edges lie on the outlines or at most 3 px beside, as the discs' rims are soft."""
    nearly_hard = two_discs()
    strength = READOUTS[name](seen(nearly_hard), [2])
    assert strength.dtype == np.float32
    assert strength.shape == (SIZE, SIZE)
    assert 0 <= strength.min() < strength.max() <= 1
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    between = np.hypot(x - NEAR[0], y - NEAR[1]) - RADIUS  # crossing line of the discs, along the near one's rim
    crossing = disc(FAR) & (np.abs(between) < 3)
    assert strength[crossing].max() > 0.3 * strength.max()


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_say_the_same_of_a_mirrored_scene(name: str) -> None:
    gaussians = scattered(40, seed=2)
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    reflect = torch.tensor([1.0, 1.0, -1.0, -1.0])  # a rotation seen in the mirror of x
    mirrored = Gaussians(
        gaussians.means * mirror, gaussians.scales, gaussians.quats * reflect, gaussians.colors, gaussians.opacities
    )
    plain = READOUTS[name](seen(gaussians), [8])
    turned = READOUTS[name](seen(mirrored), [8])[:, ::-1]
    assert plain.max() > 0.1
    # Lines between two pixels are drawn on the left one, in the mirror on the right one.
    nearby = maximum_filter(turned, 3)
    assert (plain <= nearby + 0.1).mean() > 0.98


def strength(slope: float, half: float) -> float:
    return slope / (slope + half)


def halves() -> Scene:
    """Two wide Gaussians side by side, which own a half of the picture each."""
    sides = discs((16.0, 48.0), (80.0, 48.0), depths=(0.0, 0.1), colors=((0.9, 0.2, 0.1), (0.1, 0.3, 0.8)))
    return seen(replace(sides, scales=sides.scales * 2))


def test_gradients_become_one_half_at_their_own_strength() -> None:
    """0.05 of RGB a px, and 0.01 scene units a px; the steepest change of a grey picture by scipy, sigma 1 px."""
    scene = halves()
    scene = replace(scene, gaussians=replace(scene.gaussians, colors=torch.tensor([[[0.2] * 3, [0.7] * 3]])))
    drawn = rasterize(scene.splats(), SIZE, SIZE, background=torch.ones(3), depth=True, backend="dense")
    assert drawn.depth is not None
    colors = np.sqrt(3) * gaussian_gradient_magnitude(drawn.image[0, 0].numpy(), 1.0)
    depths = gaussian_gradient_magnitude(drawn.depth[0, 0].numpy(), 1.0)
    for name, slopes, half in (("render-gradient", colors, 0.05), ("expected-depth", depths, 0.01)):
        steepest = float(slopes.max())
        assert 0.1 * half < steepest < 10 * half
        assert READOUTS[name](scene).max() == pytest.approx(strength(steepest, half), rel=5e-3), name


def test_regions_become_one_half_at_a_difference_of_eight_in_cielab() -> None:
    """The difference of their mean colours, at half its square for a thousandth of the picture."""
    scene = halves()
    drawn = rasterize(scene.splats(), SIZE, SIZE, background=torch.ones(3), owners=True, backend="dense")
    assert drawn.owner is not None
    owner, lab = drawn.owner[0].numpy(), rgb2lab(drawn.image[0].permute(1, 2, 0).numpy())
    assert set(np.unique(owner)) == {0, 1}
    means = [lab[owner == number].mean(0) for number in (0, 1)]
    share = min((owner == number).mean() for number in (0, 1))
    for damping in (0.001, 0.01):
        expected = strength(float(np.linalg.norm(means[0] - means[1])) * np.sqrt(share / (share + damping)), 8.0)
        assert region_edges(scene, damping=damping).max() == pytest.approx(expected, abs=1e-3)
    np.testing.assert_array_equal(region_edges(scene), region_edges(scene, damping=0.001))
    mean = (region_edges(scene) + READOUTS["render-gradient"](scene)) / 2
    np.testing.assert_allclose(READOUTS["combined"](scene), mean, atol=1e-6)


def test_finishing_stretches_and_closing_averages() -> None:
    """A quarter becomes 0.625; closing takes the mean of a crest and of the strongest contour at most 2 px away."""
    lines = np.zeros((50, 70), np.float32)
    lines[12, 10:50] = lines[36, 10:50] = lines[12:37, 10] = lines[12:37, 49] = 0.8
    lines[12, 25:30] = 0.3
    lines[24, 56:64] = 0.6

    def stretched(soft: np.ndarray) -> np.ndarray:
        return 1.25 * soft / (soft + 0.25)

    crests = stretched(thin_ridges(lines, 1.5))
    np.testing.assert_allclose(finish(lines), crests, atol=1e-6)
    contours = stretched(close_contours(lines, 1.5, damping=0.001 * lines.size))
    closed = np.where(crests > 0, (crests + maximum_filter(contours, 5)) / 2, 0)
    np.testing.assert_allclose(close(lines), closed, atol=1e-6)
    assert 0.1 < close(lines)[24, 60] < finish(lines)[24, 60]


def test_nothing_drawn_has_no_edges() -> None:
    invisible = two_discs()
    invisible = Gaussians(*list(vars(invisible).values())[:4], torch.zeros(1, 2))
    for name, readout in READOUTS.items():
        assert not readout(Scene(invisible, CAMERA, 20, 30), [2]).any(), name


def test_jumps_of_the_index_are_the_outlines() -> None:
    np.testing.assert_array_equal(jumps(visible_index()) > 0, outlines(visible_index()))


@pytest.mark.parametrize(
    ("layers", "message"), [(0, "cut 2 Gaussians into 0 layers"), (3, "cut 2 Gaussians into 3 layers")]
)
def test_refuses_impossible_numbers_of_layers(layers: int, message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        layer_index(Scene(two_discs(), CAMERA, 8, 8), layers)


def test_refuses_unknown_significance() -> None:
    for wrong in ({"measure": "colour"}, {"order": "sideways"}, {"thresholds": ()}, {"thresholds": (1.5,)}):
        with pytest.raises(GmaeToolsError, match="significance"):
            Significance(**wrong)  # type: ignore[arg-type]
