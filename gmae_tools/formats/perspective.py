"""Gaussians for perspective viewers: moved and reshaped so that a perspective camera sees the model's own picture.

The model's camera (`Camera`) does not move centres with depth, and its pixels are square only on square pictures; no
viewer of Gaussians has such a camera. Let a Gaussian have the axes a and the depth z. On the picture plane
(`project_vectors`) the model's camera sees its centre at c and its axes as G. S = diag(W, H) / max(W, H) makes pixels
square. A pinhole camera of focal length F, which stands at the distance F in front of the origin, sees a centre (P, Z)
at F P / Z, and axes A as F / Z (A_xy - P A_z / Z). This is the affine approximation that all splatting uses (Zwicker et
al. 2001). With Z = F + z - distance,

    P = Z / F S c,    A_xy = Z / F S G + P A_z / Z

it sees the same splats at the same depths. This holds for any A_z, because the extent along the line of sight is not
visible. A_z = (Z / F) (focal / z) a_z keeps the proportions of a Gaussian in the middle of a square picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Camera, project_vectors, quats_to_rotations
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

DEFAULT_FOV = 50.0  # degrees, about the default of most viewers
_NEAREST = 0.05  # scene units, smallest depth in front of the camera


@dataclass(frozen=True)
class PerspectiveView:
    """The camera from which exported Gaussians look like the picture.

    It stands at (0, 0, -distance) and looks along +z at the origin, with x to the right and y downwards (OpenCV's
    axes). A scene unit is half the longer side of the picture that it sees at the origin.

    Attributes:
        height, width: size of the picture in pixels.
        fov: field of view along the longer side in degrees, above 0 and below 90.

    Raises:
        GmaeToolsError: the field of view is out of range, or the picture has no pixels.
    """

    height: int
    width: int
    fov: float = DEFAULT_FOV

    def __post_init__(self) -> None:
        if not 0 < self.fov < 90:
            raise GmaeToolsError(f"field of view {self.fov:g}: use more than 0 and less than 90 degrees")
        if min(self.height, self.width) < 1:
            raise GmaeToolsError(f"a perspective view needs a picture, not {self.height} x {self.width} pixels")

    @property
    def distance(self) -> float:
        """The distance from the origin, which is also the focal length, in scene units."""
        return 1 / math.tan(math.radians(self.fov) / 2)

    @property
    def sides(self) -> tuple[float, float]:
        """The width and the height of the picture, both divided by its longer side."""
        longer = max(self.height, self.width)
        return self.width / longer, self.height / longer

    @property
    def fovs(self) -> tuple[float, float]:
        """The horizontal and the vertical field of view in degrees."""
        across, down = (math.degrees(2 * math.atan(side / self.distance)) for side in self.sides)
        return across, down

    def camera(self, blur: float = 0.3) -> Camera:
        """Return the camera of this view, with the `blur` of `Camera`."""
        across, down = (self.distance / side for side in self.sides)
        return Camera("pinhole", self.distance, across, blur, focal_y=down)

    def to_dict(self) -> dict[str, object]:
        """Return the view as plain types for JSON."""
        return _described(self.height, self.width, self.fovs, self.distance, 0.0)


def _described(height: int, width: int, fovs: Sequence[float], distance: float, aim: float) -> dict[str, object]:
    """Describe a camera at (0, 0, -distance) that looks at (0, 0, aim)."""
    return {
        "width": width, "height": height, "fov_x_degrees": fovs[0], "fov_y_degrees": fovs[1],
        "position": [0.0, 0.0, -distance], "look_at": [0.0, 0.0, aim], "up": [0.0, -1.0, 0.0],
    }  # fmt: skip


def in_perspective(scene: Scene, view: PerspectiveView) -> Scene:
    """Reshape a scene so that the camera of `view` sees the same picture. The module's docstring derives how.

    Args:
        scene: a scene with any camera.
        view: a view with the height and width of the scene.

    Returns:
        A scene with as many Gaussians, in scene units of the view, in the same order, with unit quaternions.

    Raises:
        GmaeToolsError: a Gaussian lies behind one of the cameras, or a parameter is not finite.
    """
    gaussians, camera = scene.gaussians, scene.camera
    means, scales, quats = (tensor.double() for tensor in (gaussians.means, gaussians.scales, gaussians.quats))
    depths = camera.distance + means[..., 2]  # [B, K]
    far = view.distance + means[..., 2]
    if not all(torch.isfinite(tensor).all() for tensor in vars(gaussians).values()):
        raise GmaeToolsError("Gaussians have NaN or infinite values; is the model broken?")
    if depths.min() <= 0 or far.min() < _NEAREST:
        raise GmaeToolsError(f"Gaussians lie too near for a field of view of {view.fov:g} degrees: use a smaller one")
    sides = means.new_tensor(view.sides)  # [2]
    scale = far / view.distance  # [B, K]
    axes = quats_to_rotations(quats) * scales[..., None, :]  # [B, K, 3, 3], columns = axes
    flat, footprint = project_vectors(means, axes, depths, camera)
    moved = flat * sides * scale[..., None]
    along = axes[..., 2, :] * (scale * camera.focal / depths)[..., None]  # [B, K, 3]
    shear = moved[..., None] * (along / far[..., None])[..., None, :]  # [B, K, 2, 3]
    across = footprint * sides[:, None] * scale[..., None, None] + shear
    scales, quats = principal_axes(torch.cat([across, along[..., None, :]], -2))
    means = torch.cat([moved, means[..., 2:]], -1)
    reshaped = Gaussians(means.float(), scales.float(), quats.float(), gaussians.colors, gaussians.opacities)
    return replace(scene, gaussians=reshaped, camera=view.camera(camera.blur))


def describe_view(scene: Scene, fov: float) -> dict[str, object]:
    """Describe the perspective camera for which `formats.write` writes a scene, as plain types for JSON.

    If the principal point of a `pinhole` camera is not in the middle of the picture, the fields of view are those of
    the same camera with its principal point in the middle. `fov` (degrees, along the longer side) is for other cameras.
    """
    if scene.camera.kind != "pinhole":
        return PerspectiveView(scene.height, scene.width, fov).to_dict()
    focals = scene.camera.focal, scene.camera.focal_y or scene.camera.focal
    fovs = [math.degrees(2 * math.atan(1 / focal)) for focal in focals]
    return _described(scene.height, scene.width, fovs, scene.camera.distance, 1.0 - scene.camera.distance)


def for_viewers(scene: Scene, fov: float = DEFAULT_FOV) -> tuple[Scene, PerspectiveView]:
    """Prepare a scene for perspective viewers.

    The scene of a `pinhole` camera with square pixels keeps its shape: it is only moved and scaled, so that its median
    depth in front of the camera becomes that of the origin, and the view has the field of view of this camera. Other
    scenes are reshaped by `in_perspective`.

    Args:
        scene: a scene with any camera.
        fov: field of view along the longer side in degrees, for scenes that are reshaped.

    Returns:
        The scene for viewers, and the view from which it looks like the picture of `scene`.

    Raises:
        GmaeToolsError: as for `in_perspective`.
    """
    gaussians, camera, height, width = scene.gaussians, scene.camera, scene.height, scene.width
    focal = camera.focal * width / max(height, width)  # in halves of the longer side
    focal_y = (camera.focal_y or camera.focal) * height / max(height, width)
    plain = camera.kind == "pinhole" and not camera.cx and not camera.cy and math.isclose(focal, focal_y, rel_tol=1e-4)
    depths = camera.distance + gaussians.means[..., 2:]  # [B, K, 1]
    before = depths[depths > _NEAREST]
    if not plain or focal <= 1 or not len(before):
        view = PerspectiveView(height, width, fov)
        return in_perspective(scene, view), view
    view = PerspectiveView(height, width, math.degrees(2 * math.atan(1 / focal)))
    scale = view.distance / before.median()
    means = torch.cat([gaussians.means[..., :2], depths], -1) * scale
    means = means - means.new_tensor([0.0, 0.0, view.distance])
    moved = replace(gaussians, means=means, scales=gaussians.scales * scale)
    return replace(scene, gaussians=moved, camera=view.camera(camera.blur)), view


def principal_axes(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Compute scales `[..., 3]` and unit quaternions (w, x, y, z) `[..., 4]` of covariances M M^T, M `[..., 3, 3]`."""
    from scipy.spatial.transform import Rotation

    rotations, scales, _ = torch.linalg.svd(matrices)
    rotations = rotations * torch.linalg.det(rotations)[..., None, None]  # mirrored axes span the same ellipsoid
    xyzw = Rotation.from_matrix(rotations.reshape(-1, 3, 3).cpu().numpy()).as_quat()
    quats = torch.from_numpy(np.roll(xyzw, 1, axis=-1)).to(matrices).reshape(*matrices.shape[:-2], 4)
    return scales, quats
