"""Projection and rasterisation against gsplat's own torch reference, which runs without a GPU.

Two things of it do not: one CUDA operation, which lists the splats that each pixel sees, and nerfacc's
compositing along rays. Both are stood in for below, by what their documentation and source say they do.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import rasterize

pytest.importorskip("gsplat", reason="gsplat is an oracle of this test only")
from gsplat.cuda import _torch_impl, _wrapper

HEIGHT, WIDTH, TILE = 40, 56, 16


def random_gaussians(k: int = 40) -> Gaussians:
    """Gaussians of all shapes within the view of every camera used here, the nearest first by chance only."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(1, k, *shape, generator=generator)

    return Gaussians(
        means=uniform(-0.9, 0.9, 3),
        scales=uniform(-4.0, -1.0, 3).exp(),
        quats=uniform(-1.0, 1.0, 4),
        colors=uniform(0.0, 1.0, 3),
        opacities=uniform(0.05, 1.0),
    )


def leaves(gaussians: Gaussians) -> Gaussians:
    return gaussians.map(lambda tensor: tensor.double().requires_grad_())


def gsplat_projection(gaussians: Gaussians, camera: Camera, model: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Radii, means, depths and conics of gsplat for the same view."""
    view = torch.eye(4, dtype=torch.float64)[None, None]
    view[..., 2, 3] = camera.distance
    half = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
    # gsplat's orthographic focal length maps scene units to pixels, whatever the distance.
    focal = half * (camera.focal if model == "pinhole" else 1.0)
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[[0, 1], [0, 1]] = focal
    intrinsics[:2, 2] = half
    covariances, _ = _torch_impl._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    radii, means, depths, conics, _ = _torch_impl._fully_fused_projection(
        gaussians.means, covariances, view, intrinsics[None, None], WIDTH, HEIGHT,
        eps2d=camera.blur, camera_model=model,
    )  # fmt: skip
    return radii[:, 0], means[:, 0], depths[:, 0], conics[:, 0]


@pytest.mark.parametrize(
    ("camera", "model"),
    [
        (Camera("pinhole", distance=4.0, focal=3.0), "pinhole"),
        (Camera("pinhole", distance=2.0, focal=1.5, blur=0.0), "pinhole"),
        (Camera("orthographic", distance=3.0, focal=3.0), "ortho"),
    ],
)
def test_projection_matches_gsplat(camera: Camera, model: str) -> None:
    ours, theirs = leaves(random_gaussians()), leaves(random_gaussians())
    splats = project(ours, camera, HEIGHT, WIDTH)
    _, means, depths, conics = gsplat_projection(theirs, camera, model)
    torch.testing.assert_close(splats.means, means)
    torch.testing.assert_close(splats.depths, depths)
    torch.testing.assert_close(splats.conics, conics)
    for tensors in ((splats.means, splats.depths, splats.conics), (means, depths, conics)):
        sum(tensor.square().sum() for tensor in tensors).backward()
    for field in ("means", "scales", "quats"):
        gradient = getattr(ours, field).grad
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, getattr(theirs, field).grad)


# ---------------------------------------------------------------- stand-ins for what needs a GPU or nerfacc


@torch.no_grad()
def rasterize_to_indices_in_range(
    start: int,
    _end: int,
    transmittances: Tensor,
    means: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile: int,
    offsets: Tensor,
    flat_ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One (splat, pixel, image) for every splat that a pixel composites, pixel by pixel, nearest first."""
    assert start == 0, "one step is enough for these scenes"
    count = means.shape[1]
    ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(flat_ids)])]).reshape(offsets.shape)
    found = []
    for image in range(means.shape[0]):
        for pixel in range(height * width):
            y, x = divmod(pixel, width)
            light = transmittances[image, y, x].item()
            box = image, y // tile, x // tile
            listed = flat_ids[offsets[box] : ends[box]].long() - image * count
            dx, dy = (torch.tensor([x + 0.5, y + 0.5]) - means[image, listed]).unbind(-1)
            a, b, c = conics[image, listed].unbind(-1)
            sigmas = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alphas = (opacities[image, listed] * torch.exp(-sigmas)).clamp(max=0.999)
            for splat, sigma, alpha in zip(listed.tolist(), sigmas.tolist(), alphas.tolist(), strict=True):
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if light * (1 - alpha) <= 1e-4:
                    break
                light *= 1 - alpha
                found.append((splat, pixel, image))
    splats, pixels, images = torch.tensor(found).unbind(-1)
    return splats, pixels, images


def render_weight_from_alpha(alphas: Tensor, *, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """alpha times the light that the earlier samples of the ray leave; samples come sorted by ray."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    place = torch.arange(len(alphas)) - (counts.cumsum(0) - counts)[ray_indices]
    padded = alphas.new_zeros(n_rays, int(counts.max()) + 1).index_put((ray_indices, place + 1), alphas)
    light = (1 - padded).cumprod(-1)[ray_indices, place]
    return alphas * light, light


def accumulate_along_rays(weights: Tensor, values: Tensor | None, *, ray_indices: Tensor, n_rays: int) -> Tensor:
    weighted = weights[:, None] if values is None else weights[:, None] * values
    return weighted.new_zeros(n_rays, weighted.shape[-1]).index_add(0, ray_indices, weighted)


@pytest.fixture
def gsplat_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nerfacc = types.ModuleType("nerfacc")
    nerfacc.render_weight_from_alpha = render_weight_from_alpha  # type: ignore[attr-defined]
    nerfacc.accumulate_along_rays = accumulate_along_rays  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nerfacc", nerfacc)
    monkeypatch.setattr(_wrapper, "rasterize_to_indices_in_range", rasterize_to_indices_in_range)


def gsplat_picture(splats: Splats, radii: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """gsplat's picture `[B, C, H, W]` and alpha of projected splats."""
    tiles_x, tiles_y = -(-WIDTH // TILE), -(-HEIGHT // TILE)
    _, ids, flat_ids = _torch_impl._isect_tiles(
        splats.means.detach(), radii, splats.depths.detach(), TILE, tiles_x, tiles_y
    )
    offsets = _torch_impl._isect_offset_encode(ids, len(splats.means), tiles_x, tiles_y)
    picture, alpha = _torch_impl._rasterize_to_pixels(
        splats.means, splats.conics, splats.colors, splats.opacities,
        WIDTH, HEIGHT, TILE, offsets, flat_ids, backgrounds=background,
    )  # fmt: skip
    return picture.movedim(-1, 1), alpha.movedim(-1, 1)


@pytest.mark.usefixtures("gsplat_without_gpu")
@pytest.mark.parametrize("backend", ["cpu", "dense"])
def test_pictures_and_gradients_match_gsplat(backend: str) -> None:
    """From 3-D Gaussians to the picture and back, each side with its own projection and rasterisation."""
    camera, background = Camera("pinhole", distance=4.0, focal=4.0), torch.tensor([[0.2, 0.5, 0.8]])
    ours, theirs = leaves(random_gaussians()), leaves(random_gaussians())
    projected = project(ours, camera, HEIGHT, WIDTH)
    raster = rasterize(projected, HEIGHT, WIDTH, background=background.to(projected.means), backend=backend)
    radii, means, depths, conics = gsplat_projection(theirs, camera, "pinhole")
    picture, alpha = gsplat_picture(
        Splats(means, conics, depths, theirs.colors, theirs.opacities), radii, background.double()
    )
    assert picture.std() > 0.05
    torch.testing.assert_close(raster.image.double(), picture.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(raster.alpha.double(), alpha.double(), atol=1e-5, rtol=0)

    weights = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    for image, coverage in ((raster.image, raster.alpha), (picture, alpha)):
        ((image.square().sum(1) + coverage[:, 0]) * weights).sum().backward()
    for field in ("means", "scales", "quats", "colors", "opacities"):
        expected = getattr(theirs, field).grad
        error = (getattr(ours, field).grad - expected).norm() / expected.norm()
        assert error < 1e-4, f"{field}: relative error {error:.2e}"
