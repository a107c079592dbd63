"""Density and scale by depth, against plain counting."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from gmae_tools.camera import Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.zeroshot.density import Points, density_map, scale_by_depth, summary, weighted_quantiles


def some(k: int = 200, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(1, k, 3, generator=generator) * 2 - 1
    return Gaussians(
        means=means,
        scales=torch.rand(1, k, 3, generator=generator) + 0.1,
        quats=torch.ones(1, k, 4),
        colors=torch.zeros(1, k, 3),
        opacities=torch.rand(1, k, generator=generator),
    )


def points_of(gaussians: Gaussians, camera: Camera | None = None) -> Points:
    return Points.of(Scene(gaussians, camera or Camera(), 20, 30))


def test_points_are_the_gaussians() -> None:
    gaussians = some(k=5)
    points = points_of(gaussians)
    assert points.x.tolist() == gaussians.means[..., 0].flatten().tolist()
    assert points.y.tolist() == gaussians.means[..., 1].flatten().tolist()
    assert points.z.tolist() == gaussians.means[..., 2].flatten().tolist()
    assert points.opacity.tolist() == gaussians.opacities.flatten().tolist()
    volumes = gaussians.scales.prod(-1).flatten().tolist()
    assert points.scale == pytest.approx([volume ** (1 / 3) for volume in volumes])
    other = points_of(some(k=3, seed=1))
    joined = Points.join([points, other])
    for name, values in vars(points).items():
        assert np.array_equal(getattr(joined, name), np.concatenate([values, getattr(other, name)]))


def test_density_counts_opacity_in_cells() -> None:
    points = points_of(some())
    expected = np.zeros((4, 4))
    for x, y, opacity in zip(points.x, points.y, points.opacity, strict=True):
        expected[math.floor((y + 1) * 2), math.floor((x + 1) * 2)] += opacity
    density = density_map(points, 4)
    np.testing.assert_allclose(density, expected * 16 / points.opacity.sum())
    assert density.mean() == pytest.approx(1)


def test_density_outside_of_the_picture_and_of_nothing() -> None:
    point = Points(np.array([5.0]), np.array([-3.0]), np.zeros(1), np.ones(1), np.ones(1))
    density = density_map(point, 3)
    assert density[0, 2] == pytest.approx(9) and np.count_nonzero(density) == 1  # the top right corner
    assert not density_map(dataclasses.replace(point, opacity=np.zeros(1)), 3).any()


def test_weighted_quantiles_are_those_of_repeated_values() -> None:
    generator = np.random.default_rng(0)
    values, weights = generator.random(50), generator.integers(0, 5, 50)
    repeated = np.repeat(values, weights)
    shares = [0.0001, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
    expected = np.quantile(repeated, shares, method="inverted_cdf")
    assert weighted_quantiles(values, weights.astype(float), shares).tolist() == expected.tolist()
    assert weighted_quantiles(np.array([3.0, 1.0, 2.0]), np.zeros(3), [0.5]).tolist() == [2.0]


def test_scale_by_depth_sees_the_trend() -> None:
    z = np.linspace(-1, 1, 100)
    shuffled = np.random.default_rng(0).permutation(100)
    points = Points(z * 0, z * 0, z[shuffled], 2 + z[shuffled], np.ones(100))
    scales = scale_by_depth(points, 5)
    assert scales.count.tolist() == [20] * 5
    np.testing.assert_allclose(scales.depth, z[[9, 29, 49, 69, 89]])
    np.testing.assert_allclose(scales.quantiles[:, 2], 2 + scales.depth)
    assert (np.diff(scales.quantiles, axis=1) > 0).all()
    assert summary(points)["scale_depth"] == pytest.approx(1)
    assert summary(dataclasses.replace(points, scale=3 - points.z))["scale_depth"] == pytest.approx(-1)


def test_scale_by_depth_of_fewer_gaussians_than_groups() -> None:
    scales = scale_by_depth(points_of(some(k=3)), 16)
    assert scales.count.tolist() == [1, 1, 1]
    assert (np.diff(scales.depth) > 0).all()


def test_summary() -> None:
    points = Points(
        np.zeros(3), np.zeros(3), np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]), np.array([0, 0, 0.9])
    )
    found = summary(points)
    assert found["opacity"] == pytest.approx(0.3)
    assert (found["scale"], found["depth"]) == (3.0, 0.3)  # of what is to be seen
    assert math.isnan(summary(dataclasses.replace(points, z=np.ones(3)))["scale_depth"])


@pytest.mark.parametrize(("name", "value"), [("means", math.nan), ("opacities", math.inf), ("scales", 0.0)])
def test_broken_gaussians_are_refused(name: str, value: float) -> None:
    broken = dataclasses.replace(some(), **{name: getattr(some(), name) * value})
    with pytest.raises(GmaeToolsError, match="is the model broken"):
        points_of(broken)


# --- scenes that a pinhole sees -----------------------------------------------------------------------


def test_points_lie_where_a_pinhole_sees_them() -> None:
    """What it does not see has no opacity; its own picture is not square."""
    gaussians = some(k=40)
    gaussians.means[..., 2] *= 5  # some behind it
    camera = Camera("pinhole", 0.0, 1.5, focal_y=2.0, cx=0.1, cy=-0.2)
    points = points_of(gaussians, camera)
    x, y, z = gaussians.means[0].double().T.numpy()
    before = z > 0.01
    np.testing.assert_allclose(points.x[before], (1.5 * x / z + 0.1)[before], rtol=1e-4)
    np.testing.assert_allclose(points.y[before], (2.0 * y / z - 0.2)[before], rtol=1e-4, atol=1e-6)
    seen = before & (np.abs(points.x) <= 1) & (np.abs(points.y) <= 1)
    assert 0 < seen.sum() < before.sum() < 40
    np.testing.assert_allclose(points.opacity, gaussians.opacities[0].numpy() * seen, rtol=1e-6)
    np.testing.assert_array_equal(points.z, z)


def test_a_million_dots_are_thinned_out_and_the_figure_says_so() -> None:
    from gmae_tools.report.density import MOST_DOTS, plot_centres, plot_scales

    points = points_of(some(k=MOST_DOTS + 500))
    photo = np.zeros((20, 30, 3), np.uint8)
    figures = plot_centres(points, photo, "many"), plot_scales(points, scale_by_depth(points), "many", dots=True)
    for figure in figures:
        texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
        assert "many; 5,000 of them as dots" in texts
        dots = [part for part in figure.axes[0].collections if len(part.get_offsets()) > 1]
        assert [len(part.get_offsets()) for part in dots] == [MOST_DOTS]
    assert np.isin(points.some(100).x, points.x).all()
    assert points.some(len(points.x)) is points
