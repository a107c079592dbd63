"""Gaussians for perspective viewers: moved and reshaped so that an ordinary camera sees the model's own picture.

The model's camera (`Camera`) does not move centres with depth, and its pixels are square only on square pictures; no
viewer of Gaussians has such a camera. Let it see a Gaussian of axes a at the depth z, with its centre at c and its axes
as G on the picture plane (`project_vectors`), and let S = diag(W, H) / max(W, H) make pixels square. A pinhole of focal
length F at the distance F before the origin shows a centre (P, Z) at F P / Z, and axes A at F / Z (A_xy - P A_z / Z),
the affine approximation with which all splatting is done (Zwicker et al. 2001). So with Z = F + z - distance,

    P = Z / F S c,    A_xy = Z / F S G + P A_z / Z

make it see the same splats, at the same depths, whatever A_z is, since extent along the line of sight is invisible.
A_z = (Z / F) (focal / z) a_z keeps the proportions of a Gaussian in the middle of a square picture.
"""

from __future__ import annotations

import math
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

DEFAULT_FOV = 50.0  # degrees; about what viewers begin with
_NEAREST = 0.05  # scene units in front of the camera


@dataclass(frozen=True)
class PerspectiveView:
    """The camera from which exported Gaussians look like the picture.

    It stands at (0, 0, -distance) and looks along +z at the origin, with x to the right and y downwards (OpenCV's
    axes). A scene unit is half the longer side of the picture, which it sees full size at the origin.

    Args:
        height, width: of the picture in pixels.
        fov: field of view along the longer side in degrees.
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
        """Distance from the origin, which is the focal length, too, in scene units."""
        return 1 / math.tan(math.radians(self.fov) / 2)

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height of the picture over its longer side."""
        longer = max(self.height, self.width)
        return self.width / longer, self.height / longer

    @property
    def fovs(self) -> tuple[float, float]:
        """Fields of view across and down in degrees."""
        across, down = (math.degrees(2 * math.atan(side / self.distance)) for side in self.sides)
        return across, down

    def camera(self, blur: float = 0.3) -> Camera:
        """The camera of this view, with `blur` as `Camera` has it."""
        across, down = (self.distance / side for side in self.sides)
        return Camera("pinhole", self.distance, across, blur, focal_y=down)

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON."""
        return {
            "width": self.width,
            "height": self.height,
            "fov_x_degrees": self.fovs[0],
            "fov_y_degrees": self.fovs[1],
            "position": [0.0, 0.0, -self.distance],
            "look_at": [0.0, 0.0, 0.0],
            "up": [0.0, -1.0, 0.0],
        }


def in_perspective(scene: Scene, view: PerspectiveView) -> Scene:
    """The scene whose picture through the camera of `view` is that of `scene`, as the head of this module derives.

    Args:
        view: of the scene's own height and width.

    Returns:
        A scene with as many Gaussians in scene units of the view, in the same order, with unit quaternions.

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
    """The perspective camera for which `formats.write` writes a scene, as plain types for JSON.

    Args:
        fov: in degrees along the longer side, unless the scene has a `pinhole` camera. Where its principal point is not
            in the middle, the fields of view are those of a camera whose point is.
    """
    if scene.camera.kind != "pinhole":
        return PerspectiveView(scene.height, scene.width, fov).to_dict()
    across, down = scene.camera.focal, scene.camera.focal_y or scene.camera.focal
    return {
        "width": scene.width,
        "height": scene.height,
        "fov_x_degrees": math.degrees(2 * math.atan(1 / across)),
        "fov_y_degrees": math.degrees(2 * math.atan(1 / down)),
        "position": [0.0, 0.0, -scene.camera.distance],
        "look_at": [0.0, 0.0, 1.0 - scene.camera.distance],
        "up": [0.0, -1.0, 0.0],
    }


def for_viewers(scene: Scene, fov: float = DEFAULT_FOV) -> tuple[Scene, PerspectiveView]:
    """The scene for perspective viewers, and the view through which it looks like its picture.

    The scene of a pinhole camera with square pixels keeps its shape: it is only moved and scaled, so that the median
    depth in front of the camera comes to the origin, and the view has the camera's own field of view. Other scenes
    are reshaped by `in_perspective`.

    Args:
        fov: of the view in degrees, where the camera does not decide.

    Raises:
        GmaeToolsError: as `in_perspective`.
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
    """Scales `[..., 3]` and unit quaternions (w, x, y, z) `[..., 4]` of the Gaussians with covariance M M^T."""
    from scipy.spatial.transform import Rotation

    rotations, scales, _ = torch.linalg.svd(matrices)
    rotations = rotations * torch.linalg.det(rotations)[..., None, None]  # mirrored axes span the same ellipsoid
    xyzw = Rotation.from_matrix(rotations.reshape(-1, 3, 3).cpu().numpy()).as_quat()
    quats = torch.from_numpy(np.roll(xyzw, 1, axis=-1)).to(matrices).reshape(*matrices.shape[:-2], 4)
    return scales, quats
