"""Depth layers: against drawing every prefix and every group on its own with the reference renderer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from gmae_tools.zeroshot import layers as module
from gmae_tools.zeroshot.layers import LayerPictures, layer_sizes, layer_strips, over, render_layers

CAMERA = Camera()
HEIGHT, WIDTH = 50, 37


def some(k: int = 30, seed: int = 0) -> Gaussians:
    """Random Gaussians that cover most of the picture, in no order."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(1, k, *shape, generator=generator)

    return Gaussians(2 * uniform(3) - 1, 0.5 + 3 * uniform(3), uniform(4) - 0.5, uniform(3), 0.2 + 0.7 * uniform())


def seen(gaussians: Gaussians) -> Scene:
    return Scene(gaussians, CAMERA, HEIGHT, WIDTH)


def draw(gaussians: Gaussians, ranks: slice, depth: bool = False) -> torch.Tensor:
    """Gaussians of the given depth ranks, drawn by the reference: `[C + 1, H, W]`, alpha last."""
    order = sorted(range(gaussians.k), key=lambda index: float(gaussians.means[0, index, 2]))
    chosen = gaussians.select(torch.tensor(order[ranks]))
    raster = rasterize(project(chosen, CAMERA, HEIGHT, WIDTH), HEIGHT, WIDTH, depth=depth, backend="dense")
    assert raster.alpha.max() > 0.1
    colors = raster.depth if depth else raster.image
    assert colors is not None
    return torch.cat([colors, raster.alpha], 1)[0]


def test_prefixes_are_the_nearest_gaussians_in_the_order_asked_for() -> None:
    gaussians = some()
    pictures = render_layers(seen(gaussians), [7, 30, 1, 7], 2)
    for index, k in enumerate([7, 30, 1, 7]):
        found = torch.cat([pictures.firsts[index], pictures.first_alphas[index]])
        torch.testing.assert_close(found, draw(gaussians, slice(k)), atol=1e-5, rtol=0)


def test_gradients_of_prefixes_are_those_of_the_reference() -> None:
    """Pictures are added up in place only where no gradient needs the parts."""
    colors = some().colors.requires_grad_()
    gaussians = replace(some(), colors=colors)
    weights = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((render_layers(seen(gaussians), [7, 20], 2).firsts * weights).sum(), colors)
    drawn = torch.stack([draw(gaussians, slice(k))[:3] for k in (7, 20)])
    (expected,) = torch.autograd.grad((drawn * weights).sum(), colors)
    assert (expected.abs().sum(-1) > 0).sum() == 20
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 4, 7, 30])
def test_layers_are_consecutive_groups_each_alone(count: int) -> None:
    gaussians = some()
    pictures = render_layers(seen(gaussians), [], count)
    assert pictures.layers.shape == (count, 3, HEIGHT, WIDTH)
    start = 0
    for index, size in enumerate(layer_sizes(30, count)):
        found = torch.cat([pictures.layers[index], pictures.layer_alphas[index]])
        torch.testing.assert_close(found, draw(gaussians, slice(start, start + size)), atol=1e-5, rtol=0)
        start += size


def test_layers_laid_over_each_other_give_the_picture() -> None:
    pictures = render_layers(seen(some()), [30], 5)
    total = torch.zeros(3, HEIGHT, WIDTH)
    for image, alpha in zip(reversed(pictures.layers), reversed(pictures.layer_alphas), strict=True):
        total = image + (1 - alpha) * total
    torch.testing.assert_close(total, pictures.firsts[0], atol=2e-4, rtol=0)  # where rays end early: 1e-4


def test_depth_is_the_expected_distance() -> None:
    gaussians = some()
    pictures = render_layers(seen(gaussians), [3], 2)
    expected = draw(gaussians, slice(None), depth=True)
    torch.testing.assert_close(torch.stack([pictures.depth, pictures.alpha]), expected, atol=1e-4, rtol=0)


def test_order_of_the_gaussians_does_not_matter() -> None:
    gaussians = some()
    shuffled = gaussians.select(torch.randperm(30, generator=torch.Generator().manual_seed(1)))
    assert_same(*(render_layers(seen(g), [5, 20], 3) for g in (gaussians, shuffled)), 0)


def test_strips_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = render_layers(seen(some()), [5, 20], 3)
    monkeypatch.setattr(module, "STRIP_PIXELS", 20 * WIDTH)
    rows = [rows for rows, _ in layer_strips(seen(some()), [5, 20], 3)]
    assert rows == [slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 50)]
    assert_same(render_layers(seen(some()), [5, 20], 3), whole, 1e-5)


@pytest.mark.parametrize("kind", ["gmae", "pinhole", "orthographic"])
def test_every_camera_and_one_pixel(kind: str) -> None:
    pictures = render_layers(Scene(some(), Camera(kind=kind, focal=4.0), 1, 1), [30], 2)  # type: ignore[arg-type]
    assert 0 < float(pictures.alpha) <= 1
    assert 7 < float(pictures.depth) < 9


def test_over_adds_the_background_where_light_is_left() -> None:
    image, alpha = torch.full((1, 3, 1, 2), 0.25), torch.tensor([1.0, 0.5])[None, None, None]
    shown = over(image, alpha, torch.tensor([1.0, 0.5, 0.0]))
    assert shown.tolist() == [[[[64, 64, 64], [191, 128, 64]]]]  # 255 times 0.25, 0.75 and 0.5, rounded


def test_over_rounds_as_torch_does_and_cuts_off_what_is_too_bright() -> None:
    generator = torch.Generator().manual_seed(0)
    images, alphas = (torch.rand(2, count, 9, 17, generator=generator) for count in (3, 1))
    color = torch.tensor([0.9, 0.5, 0.1])
    whole = images + (1 - alphas) * color[:, None, None]
    assert whole.max() > 1
    expected = (whole * 255 + 0.5).clamp(0, 255).byte().permute(0, 2, 3, 1)
    assert torch.equal(torch.from_numpy(over(images, alphas, color)), expected)


def test_sizes_differ_by_at_most_one() -> None:
    assert layer_sizes(10, 4) == [3, 3, 2, 2]
    assert layer_sizes(8, 4) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("ks", "count", "message"),
    [([0], 2, "nearest 0 of 30"), ([31], 2, "nearest 31 of 30"), ([1], 0, "into 0"), ([1], 31, "into 31")],
)
def test_impossible_requests_are_refused(ks: list[int], count: int, message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        render_layers(seen(some()), ks, count)


def test_splats_share_their_fields_with_the_batch_of_groups() -> None:
    """The fill of short groups must stay invisible whatever fields splats have."""
    splats = project(some(5).sort_by_depth(), CAMERA, HEIGHT, WIDTH)
    groups: Splats = module._groups_as_batch(splats, [3, 2])
    assert groups.means.shape == (2, 3, 2)
    assert (groups.opacities == 0).tolist() == [[False, False, False], [False, False, True]]


def assert_same(a: LayerPictures, b: LayerPictures, tolerance: float) -> None:
    for name in ("firsts", "first_alphas", "layers", "layer_alphas", "depth", "alpha"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0)
