"""Projection and rasterisation against gsplat's own torch reference, which runs without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import rasterize

pytest.importorskip("gsplat", reason="needs gsplat, an oracle of this test only")
from gsplat.cuda import _torch_impl

from tests.oracles import gsplat_cpu

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
    focals = half.new_tensor([camera.focal, camera.focal_y or camera.focal])
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[[0, 1], [0, 1]] = half * (focals if model == "pinhole" else 1.0)
    intrinsics[:2, 2] = half * (1 + half.new_tensor([camera.cx, camera.cy]))
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
        (Camera("pinhole", distance=3.0, focal=1.5, focal_y=2.5, cx=0.2, cy=-0.1), "pinhole"),
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


@pytest.mark.parametrize(
    "camera",
    [
        Camera("pinhole", 0.0, shear_limit=1.3),
        Camera("pinhole", 0.0, 0.7, focal_y=1.1, cx=0.4, cy=-0.3, shear_limit=1.3),
    ],
)
def test_projection_matches_gsplat_from_within_a_scene(camera: Camera) -> None:
    """Most of the Gaussians lie beside the picture, where the shear is cut."""
    gaussians = leaves(random_gaussians(400))
    splats = project(gaussians, camera, HEIGHT, WIDTH)
    _, means, depths, conics = gsplat_projection(gaussians, camera, "pinhole")
    before = splats.depths > 0.1
    beside = before & ((splats.means < -WIDTH).any(-1) | (splats.means > 2 * WIDTH).any(-1))
    assert 10 < beside.sum() < before.sum() < 300
    torch.testing.assert_close(splats.means[before], means[before])
    torch.testing.assert_close(splats.depths, depths)
    torch.testing.assert_close(splats.conics[before], conics[before])


@pytest.fixture
def gsplat_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_cpu.install(monkeypatch)


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
