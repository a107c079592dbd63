"""Fewer Gaussians draw about the same picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmae_tools.camera import Camera
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.simplify import simplify
from tests.some_gaussians import some_gaussians

SIDE = 60


def carpet(camera: Camera) -> Scene:
    """A smooth picture of 60 x 60 small Gaussians, which hide 60 x 60 green ones."""
    y, x = torch.meshgrid(*[(torch.arange(SIDE) + 0.5) / SIDE * 2 - 1] * 2, indexing="ij")
    colors = torch.stack([(x + 1) / 2, (y + 1) / 2, torch.zeros_like(x)], -1)
    green = torch.tensor([0.0, 1.0, 0.0]).expand_as(colors)
    depth = torch.zeros_like(x)
    means = torch.stack([torch.stack([x, y, depth], -1), torch.stack([x, y, depth + 0.5], -1)]).reshape(1, -1, 3)
    k = means.shape[1]
    scales = torch.full((1, k, 3), 1.5 / SIDE * camera.distance / camera.focal)
    return Scene(
        Gaussians(
            means, scales, torch.eye(4)[0].expand(1, k, 4), torch.stack([colors, green]).reshape(1, k, 3),
            torch.full((1, k), 0.95),
        ), camera, 90, 120,
    )  # fmt: skip


@pytest.mark.parametrize("camera", [Camera("orthographic", 8.0, 8.0), Camera("gmae", 8.0, 8.0)])
def test_fewer_draw_about_the_same(camera: Camera) -> None:
    scene = carpet(camera)
    fewer = simplify(scene, 500)
    assert 200 < fewer.k <= 500
    assert (fewer.camera, fewer.height, fewer.width) == (scene.camera, scene.height, scene.width)
    error = (fewer.render() - scene.render()).square().mean()
    assert -10 * error.log10() > 24
    again = simplify(scene, 500)
    assert all(torch.equal(getattr(again.gaussians, name), tensor) for name, tensor in vars(fewer.gaussians).items())


def test_depth_keeps_apart_what_lies_in_one_place() -> None:
    """A hole in the carpet shows the green one through and through."""
    scene = carpet(Camera("orthographic", 8.0, 8.0))
    means = scene.gaussians.means[0]
    hole = (means[:, 2] == 0) & (means[:, :2].abs() < 0.5).all(-1)
    seen = Scene(scene.gaussians.select(~hole), scene.camera, scene.height, scene.width)
    picture = simplify(seen, 800).render()[0, :, 40:50, 50:70]
    assert picture[1].mean() > 0.9 and picture[0].mean() < 0.15


def pair(first: float, second: float, apart: float = 0.0) -> Scene:
    """Two round Gaussians of these opacities, red and, `apart` to the right and farther away, blue."""
    means = torch.tensor([[[-apart / 2, 0.0, 0.0], [apart / 2, 0.0, 0.2]]])
    quats, colors = torch.eye(4)[0].expand(1, 2, 4), torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    camera = Camera("orthographic", 8.0, 8.0, blur=0.0)
    gaussians = Gaussians(means, torch.full((1, 2, 3), 0.3), quats, colors, torch.tensor([[first, second]]))
    return Scene(gaussians, camera, 64, 64)


@pytest.mark.parametrize(
    ("first", "second", "opacity", "area"),
    [(0.2, 0.3, 0.5, 1.0), (0.9, 0.8, 0.95, 1.7 / 0.95), (1.0, 1.0, 0.95, 2.0 / 0.95)],
)
def test_what_is_joined_is_as_opaque_as_its_parts_together(
    first: float, second: float, opacity: float, area: float
) -> None:
    """Up to 0.95: what would have to be more opaque becomes larger instead."""
    joined = simplify(pair(first, second), 1).gaussians
    assert joined.opacities.item() == pytest.approx(opacity, rel=1e-3)
    assert sorted(joined.scales[0, 0].tolist())[:2] == pytest.approx([0.3 * area**0.5] * 2, rel=1e-3)


def test_nothing_becomes_more_than_three_times_as_large() -> None:
    scene = pair(1.0, 1.0)
    many = Scene(Gaussians(*(t.repeat_interleave(4, 1) for t in vars(scene.gaussians).values())), scene.camera, 64, 64)
    joined = simplify(replace(many, gaussians=replace(many.gaussians, opacities=torch.full((1, 8), 0.6))), 1).gaussians
    assert joined.opacities.item() == pytest.approx(0.95)
    assert sorted(joined.scales[0, 0].tolist())[:2] == pytest.approx([0.3 * 3**0.5] * 2, rel=1e-3)


def test_mean_spread_and_color_are_weighted_by_what_is_seen() -> None:
    """Side by side half of the light is each one's; where the first hides the second, by the alphas of all pixels."""
    apart = simplify(pair(0.3, 0.3, apart=0.9), 1).gaussians
    assert apart.colors[0, 0].tolist() == pytest.approx([0.5, 0.0, 0.5], abs=0.01)
    assert apart.means[0, 0].tolist() == pytest.approx([0.0, 0.0, 0.1], abs=0.01)
    assert sorted(apart.scales[0, 0].tolist())[-1] == pytest.approx((0.3**2 + 0.45**2) ** 0.5, rel=0.02)

    y, x = ((side + 0.5) / 32 - 1 for side in torch.meshgrid(*[torch.arange(64)] * 2, indexing="ij"))
    bell = torch.exp(-(x**2 + y**2) / (2 * 0.3**2))
    near, far = (0.9 * bell).sum(), ((1 - 0.9 * bell) * 0.8 * bell).sum()
    hidden = simplify(pair(0.9, 0.8), 1).gaussians
    assert hidden.colors[0, 0, 2].item() == pytest.approx((far / (near + far)).item(), abs=0.01)


def test_few_stay_as_they_are() -> None:
    scene = Scene(some_gaussians(), Camera(), 20, 30)
    assert simplify(scene, 50) is scene


@pytest.mark.parametrize("count", [1, 2, 7])
def test_very_few_are_left(count: int) -> None:
    scene = Scene(some_gaussians(), Camera("gmae", 8.0, 3.0), 20, 30)
    fewer = simplify(scene, count)
    assert 1 <= fewer.k <= count
    assert all(tensor.isfinite().all() for tensor in vars(fewer.gaussians).values())


def test_nothing_to_be_seen() -> None:
    gaussians = some_gaussians()
    scene = Scene(Gaussians(**vars(gaussians) | {"opacities": torch.zeros(1, 50)}), Camera(), 20, 30)
    assert simplify(scene, 10).k == 1


def test_it_works_in_inference_mode() -> None:
    with torch.inference_mode():
        scene = Scene(some_gaussians(), Camera("gmae", 8.0, 3.0), 20, 30)
        assert simplify(scene, 9).k <= 9
