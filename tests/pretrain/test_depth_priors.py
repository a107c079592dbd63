"""Priors on the side of depth: against plain loops, and against what they are for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain.objectives import depth_priors
from gmae_tools.pretrain.objectives.depth_priors import region_prior, size_prior
from gmae_tools.pretrain.objectives.gmae import GMAEObjective, gmae_loss
from tests.splatting.test_splatting import random_splats

NO_DEPTH = {"occlusion_gradient": 0.0, "size_depth_weight": 0.0, "region_depth_weight": 0.0}


def with_depths(splats: Splats) -> Splats:
    """A copy all of whose tensors collect gradients."""
    return Splats(*(getattr(splats, f.name).clone().requires_grad_() for f in dataclasses.fields(Splats)))


def areas(splats: Splats) -> np.ndarray:
    """sqrt(det(covariance)) `[B, K]`."""
    a, b, c = splats.conics.detach().double().numpy().transpose(2, 0, 1)
    return 1 / np.sqrt(a * c - b * b)


def test_the_size_prior_is_a_correlation() -> None:
    splats = random_splats(1)
    expected = [1 - np.corrcoef(z, np.log(area))[0, 1] for z, area in zip(splats.depths, areas(splats), strict=True)]
    assert float(size_prior(splats)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_region_prior_is_a_correlation() -> None:
    """In loops over pairs of Gaussians."""
    splats, expected = random_splats(2, k=20), []
    for image, area in enumerate(areas(splats)):
        centres = splats.means[image].double().numpy() / [32, 24]  # 64 x 48 px span 2 x 2
        colors, opacities = splats.colors[image].double().numpy(), splats.opacities[image].double().numpy()
        t = []
        for k in range(20):
            total = 0.0
            for j in range(20):
                unlike = ((colors[k] - colors[j]) ** 2).sum() / (2 * 0.15**2)
                apart = ((centres[k] - centres[j]) ** 2).sum() / (2 * 0.5**2)
                total += math.exp(-unlike - apart) * opacities[j] * area[j]
            t.append(math.log(total))
        expected.append(1 - np.corrcoef(splats.depths[image], t)[0, 1])
    assert float(region_prior(splats, 48, 64)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_surroundings_of_many_gaussians_are_a_choice_of_them() -> None:
    """The prior of four thousand is close to that of all pairs, and the same at every call."""
    splats = random_splats(6, batch=1, k=4096)
    found = float(region_prior(splats, 48, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth_priors, "_some", lambda _k: slice(None))
        exact = float(region_prior(splats, 48, 64))
    assert found == pytest.approx(exact, abs=0.02) and found != exact
    assert float(region_prior(splats, 48, 64)) == found


@pytest.mark.parametrize("k", [1, 16, 45])
def test_the_kernel_sums_as_torch_does(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(k)
    places = 2 * torch.randn(30, 5, generator=generator)
    others = 2 * torch.randn(k, 5, generator=generator)
    weights = torch.rand(k, generator=generator)
    by_kernel = depth_priors._sum_alike(places, others, weights)
    monkeypatch.setattr(depth_priors, "_has_kernels", lambda: False)
    torch.testing.assert_close(by_kernel, depth_priors._sum_alike(places, others, weights), rtol=2e-5, atol=1e-7)


def test_priors_move_depths_alone() -> None:
    for prior in (size_prior, lambda splats: region_prior(splats, 48, 64)):
        splats = with_depths(random_splats(3))
        prior(splats).backward()
        assert splats.depths.grad.abs().max() > 0
        assert all(getattr(splats, name).grad is None for name in ("means", "conics", "colors", "opacities"))


def test_what_is_constant_has_no_correlation() -> None:
    splats = random_splats(4)
    flat = dataclasses.replace(
        splats, depths=torch.full_like(splats.depths, 8.0), conics=splats.conics[:, :1].expand(2, 60, 3)
    )
    assert float(size_prior(flat)) == pytest.approx(1)
    assert float(region_prior(flat, 48, 64)) == pytest.approx(1)


def test_priors_put_large_things_behind() -> None:
    """Following their gradients orders Gaussians by size, and by the size of their region."""
    splats = random_splats(5)
    for prior in (size_prior, lambda splats: region_prior(splats, 48, 64)):
        depths = splats.depths.clone().requires_grad_()
        optimizer = torch.optim.Adam([depths], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            prior(dataclasses.replace(splats, depths=depths)).backward()
            optimizer.step()
        assert float(prior(dataclasses.replace(splats, depths=depths)).detach()) < 0.01


@pytest.mark.parametrize("camera", ["gmae", "orthographic"])
def test_the_objective_adds_its_priors_and_the_gradient_of_the_order(camera: str) -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", image_size=32, camera=Camera(camera)))  # type: ignore[arg-type]
    images, visible = torch.rand(2, 3, 32, 32), torch.zeros(2, 4, dtype=torch.bool)
    backgrounds = torch.rand(2, 3)
    plain = GMAEObjective(slot_depth_weight=0.0, **NO_DEPTH)
    with torch.no_grad():
        splats = project(model(images, visible), model.config.camera, 32, 32)

    def loss_and_depth_gradient(objective: GMAEObjective) -> tuple[float, float]:
        loss, _ = gmae_loss(model, images, visible, backgrounds, objective, model.config)
        model.zero_grad()
        loss.backward()
        return float(loss.detach()), float(model.decoder.bias.grad[2])  # raw z

    base, slope = loss_and_depth_gradient(plain)
    assert (slope == 0) == (camera == "orthographic")
    ordered, by_order = loss_and_depth_gradient(dataclasses.replace(plain, occlusion_gradient=0.05))
    assert ordered == base and by_order != slope
    sized, _ = loss_and_depth_gradient(dataclasses.replace(plain, size_depth_weight=0.3))
    assert sized - base == pytest.approx(0.3 * float(size_prior(splats)), rel=1e-3)
    regional, _ = loss_and_depth_gradient(dataclasses.replace(plain, region_depth_weight=0.2))
    assert regional - base == pytest.approx(0.2 * float(region_prior(splats, 32, 32)), rel=1e-3)


@pytest.mark.parametrize("name", ["occlusion_gradient", "size_depth_weight", "region_depth_weight"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_weights_are_refused(name: str, value: float) -> None:
    with pytest.raises(GmaeToolsError, match=name.replace("_", "-")):
        GMAEObjective(**{name: value})
