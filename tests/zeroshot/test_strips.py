"""A picture drawn in strips is, to the last bit, the picture drawn in one piece."""

from __future__ import annotations

import pytest
import torch

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize_groups
from gmae_tools.zeroshot import edges, layers
from gmae_tools.zeroshot.strips import strips
from tests.some_gaussians import some_gaussians

HEIGHT, WIDTH, K = 80, 48, 400


@pytest.fixture
def gaussians() -> Gaussians:
    """Small ones, needles among them, some hardly seen, some not in the picture."""
    some = some_gaussians(K)
    scales = some.scales * torch.tensor([0.2, 0.02, 1e-4])
    return Gaussians(some.means * 1.5, scales, some.quats, some.colors, some.opacities**4)


def splats_of(gaussians: Gaussians, blur: float = 0.3) -> Splats:
    return project(gaussians.sort_by_depth(), Camera("gmae", 8.0, 8.0, blur), HEIGHT, WIDTH)


@pytest.mark.parametrize("blur", [0.0, 0.3])
def test_a_strip_draws_its_rows(gaussians: Gaussians, blur: float) -> None:
    splats, sizes = splats_of(gaussians, blur), [100, 0, 250, 50]
    whole = rasterize_groups(splats, HEIGHT, WIDTH, sizes)
    fewer = 0
    for rows, strip, (left,) in strips(splats, HEIGHT, 16, sizes):
        part = rasterize_groups(strip, rows.stop - rows.start, WIDTH, left)
        assert torch.equal(part.images, whole.images[..., rows, :])
        assert torch.equal(part.alphas, whole.alphas[..., rows, :])
        assert sum(left) == strip.means.shape[1] and left[1] == 0
        fewer += sum(left) < K / 2
    assert fewer >= 4


def test_one_strip_is_everything(gaussians: Gaussians) -> None:
    splats = splats_of(gaussians)
    ((rows, strip, (left,)),) = strips(splats, HEIGHT, HEIGHT, [K])
    assert (rows, left) == (slice(0, HEIGHT), [K]) and strip is splats


def test_layers_and_edges_do_not_depend_on_strips(gaussians: Gaussians, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(gaussians, Camera("gmae", 8.0, 8.0), HEIGHT, WIDTH)
    whole = layers.render_layers(scene, [10, 399, 50], 7), edges.layer_index(scene, 9)
    monkeypatch.setattr(layers, "STRIP_PIXELS", 16 * WIDTH)
    monkeypatch.setattr(edges, "_STRIP_NUMBERS", 4 * 9 * WIDTH * 16)
    assert len(list(layers.layer_strips(scene, [10], 7))) == 5
    strips_ = layers.render_layers(scene, [10, 399, 50], 7), edges.layer_index(scene, 9)
    assert all(torch.equal(getattr(strips_[0], name), tensor) for name, tensor in vars(whole[0]).items())
    assert (strips_[1] == whole[1]).all()


def test_what_is_not_a_number_is_refused_in_every_strip(gaussians: Gaussians) -> None:
    splats = splats_of(gaussians)
    splats.means[0, 3, 1] = torch.nan
    splats.conics[0, 5] = torch.inf
    for _, strip, _ in strips(splats, HEIGHT, 16, [K]):
        assert strip.means.isnan().any() and strip.conics.isinf().any()
