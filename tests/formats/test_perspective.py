"""An ordinary camera sees the picture that the model's own camera shows: by our pinhole, and by gsplat's."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from gmae_tools.camera import Camera, Splats, project, quats_to_rotations
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.perspective import PerspectiveView, in_perspective
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize

SIZES = [(48, 48), (40, 64), (64, 41)]
SHEARED = Camera("gmae", 4.0, cx=0.1, cy=-0.05, shear=True)
CAMERAS = [Camera(), Camera("gmae", 5.0, 2.0, 0.1), SHEARED, Camera("orthographic"), Camera("pinhole", 3.0, 2.5)]


def some(k: int = 60) -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(1, k, *shape, generator=generator)

    return Gaussians(
        means=uniform(-1.0, 1.0, 3),
        scales=uniform(-3.0, 0.5, 3).exp(),
        quats=uniform(-1.0, 1.0, 4),
        colors=uniform(0.0, 1.0, 3),
        opacities=uniform(0.05, 1.0),
    )


def seen_by_our_pinhole(exported: Gaussians, view: PerspectiveView, blur: float) -> Splats:
    """Through a square picture as large as the longer side, which our pinhole has square pixels for."""
    longer = max(view.height, view.width)
    splats = project(exported, Camera("pinhole", view.distance, view.distance, blur), longer, longer)
    margin = torch.tensor([(longer - view.width) / 2, (longer - view.height) / 2])
    return dataclasses.replace(splats, means=splats.means - margin)


@pytest.mark.parametrize("fov", [10.0, 50.0, 80.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: f"{camera.kind}-{camera.distance:g}")
def test_viewer_sees_the_picture(camera: Camera, height: int, width: int, fov: float) -> None:
    gaussians, view = some(), PerspectiveView(height, width, fov)
    exported = in_perspective(Scene(gaussians, camera, height, width), view)
    ours = rasterize(project(gaussians, camera, height, width), height, width).image
    splats = seen_by_our_pinhole(exported.gaussians, view, camera.blur)
    theirs = rasterize(splats, height, width).image
    assert ours.std() > 0.05
    psnr = -10 * (ours - theirs).square().mean().log10()
    assert psnr > 70


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_gsplat_sees_the_same_splats_from_where_the_json_says(height: int, width: int) -> None:
    pytest.importorskip("gsplat", reason="needs gsplat, an oracle of this test only")
    from gsplat.cuda import _torch_impl

    camera, view = Camera(), PerspectiveView(height, width, 60.0)
    gaussians = some()
    exported = in_perspective(Scene(gaussians, camera, height, width), view).gaussians.map(Tensor.double)
    said = view.to_dict()
    assert (said["look_at"], said["up"]) == ([0.0, 0.0, 0.0], [0.0, -1.0, 0.0])  # so the axes are the world's own
    extrinsic = torch.eye(4, dtype=torch.float64)[None, None]
    extrinsic[0, 0, :3, 3] = -torch.tensor(said["position"], dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64)
    for axis, side, fov in ((0, width, said["fov_x_degrees"]), (1, height, said["fov_y_degrees"])):
        assert isinstance(fov, float)
        intrinsics[axis, axis] = side / 2 / math.tan(math.radians(fov) / 2)
        intrinsics[axis, 2] = side / 2
    assert intrinsics[0, 0] == pytest.approx(intrinsics[1, 1])  # square pixels
    covariances, _ = _torch_impl._quat_scale_to_covar_preci(exported.quats, exported.scales, compute_preci=False)
    _, means, depths, conics, _ = _torch_impl._fully_fused_projection(
        exported.means, covariances, extrinsic, intrinsics[None, None], width, height, eps2d=camera.blur
    )
    ours = project(gaussians, camera, height, width)
    torch.testing.assert_close(means[:, 0].float(), ours.means, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(conics[:, 0].float(), ours.conics, atol=1e-6, rtol=1e-3)
    assert torch.equal(depths[:, 0].argsort(), ours.depths.argsort())


def test_the_viewer_of_the_models_own_distance_keeps_proportions() -> None:
    """In the middle of a square picture nothing is sheared: all scales shrink by focal / distance, axes stay."""
    gaussians = dataclasses.replace(some(), means=some().means * torch.tensor([0.0, 0.0, 1.0]))
    view = PerspectiveView(32, 32, 2 * math.degrees(math.atan(1 / 8)))
    assert view.distance == pytest.approx(8.0)
    exported = in_perspective(Scene(gaussians, Camera(), 32, 32), view).gaussians
    torch.testing.assert_close(exported.means, gaussians.means)
    torch.testing.assert_close(exported.scales, gaussians.scales.sort(descending=True).values / 8)
    torch.testing.assert_close(covariances(exported), covariances(gaussians) / 64, atol=1e-6, rtol=1e-4)


def covariances(gaussians: Gaussians) -> Tensor:
    axes = quats_to_rotations(gaussians.quats) * gaussians.scales[..., None, :]
    return axes @ axes.mT


def test_everything_but_geometry_stays() -> None:
    gaussians = some()
    exported = in_perspective(Scene(gaussians, Camera(), 30, 50), PerspectiveView(30, 50)).gaussians
    assert exported.colors is gaussians.colors and exported.opacities is gaussians.opacities
    torch.testing.assert_close(exported.means[..., 2], gaussians.means[..., 2])
    torch.testing.assert_close(exported.quats.norm(dim=-1), torch.ones(1, gaussians.k))
    assert {tensor.dtype for tensor in vars(exported).values()} == {torch.float32}


def test_fields_of_view_belong_to_their_sides() -> None:
    wide, tall = PerspectiveView(100, 200, 60.0), PerspectiveView(200, 100, 60.0)
    assert wide.fovs == pytest.approx((60.0, 2 * math.degrees(math.atan(math.tan(math.radians(30)) / 2))))
    assert tall.fovs == pytest.approx(wide.fovs[::-1])


@pytest.mark.parametrize("fov", [0.0, -1.0, 90.0, math.nan])
def test_impossible_fields_of_view(fov: float) -> None:
    with pytest.raises(GmaeToolsError, match="field of view"):
        PerspectiveView(10, 10, fov)


def test_what_no_viewer_can_show_is_refused() -> None:
    gaussians = some()
    behind = dataclasses.replace(gaussians, means=gaussians.means * 2)
    with pytest.raises(GmaeToolsError, match="use a smaller one"):
        in_perspective(Scene(behind, Camera(), 10, 10), PerspectiveView(10, 10, 80))
    broken = dataclasses.replace(gaussians, scales=gaussians.scales * torch.nan)
    with pytest.raises(GmaeToolsError, match="NaN"):
        in_perspective(Scene(broken, Camera(), 10, 10), PerspectiveView(10, 10))
    with pytest.raises(GmaeToolsError, match="needs a picture"):
        PerspectiveView(0, 10)
