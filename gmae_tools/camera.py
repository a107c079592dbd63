"""Cameras and `project()`, which turns 3-D Gaussians into 2-D splats; the renderers only know splats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.system.precision import working_dtype

CameraKind = Literal["gmae", "pinhole", "orthographic"]

# Marks settings that were added after the format of checkpoints. They are written only if they differ from the default,
# so that older versions can read every checkpoint whose model they can compute.
LATER = {"later": True}

_NEAREST_VISIBLE_Z = 0.01  # scene units in front of the camera; gsplat's near plane
_LARGEST = 1e6  # scale in scene units, or position in half pictures; no picture shows more
_LONGEST_AXIS = 1e8  # px, of a footprint: its fourth power is the largest number needed, and float32 ends at 3e38
_SHEAR_LIMIT = 1.3  # half pictures from the middle, beyond which shear grows no further; gsplat's
_DEGENERATE = 1e-12  # px^4, of the determinant of a covariance: a footprint without area, which only blur = 0 allows


@dataclass(frozen=True)
class Camera:
    """A fixed camera on the z axis, looking at the middle of the cube [-1, 1]^3.

    With x, y in [-1, 1], `z` the distance from the camera along its axis (`distance` + the Gaussian's own z), and the
    half sizes (W/2, H/2) of the picture in pixels:

    - `gmae`: Centres project orthographically, (x, y) -> (W/2 (x+1), H/2 (y+1)). Footprints shrink with distance,
      sigma_px = W/2 * focal * scale / z. Depth therefore gets a gradient and moves nothing sideways.
    - `pinhole`: Centres and footprints are in perspective, (x, y) -> (W/2 (focal x/z + 1), H/2 (focal_y y/z + 1)),
      by the local affine approximation of EWA splatting (Zwicker et al. 2001), which includes shear.
    - `orthographic`: Centres project as for `gmae`, and footprints as if all Gaussians were at `distance`. Depth only
      decides the order.

    Args:
        kind: Kind of projection, as described above.
        distance: Distance from the camera to the middle of the cube, in scene units (half picture widths). With more
            than 1, the whole cube is in front of the camera.
            A `pinhole` may have 0: it stands at the origin of its scene.
        focal: Focal length in half picture widths. A `pinhole` with focal = distance shows the cube's middle full size.
        blur: Variance in px^2 added to the diagonal of the 2-D covariance, as gsplat does (0.3).
        cx, cy: Point in which the camera's axis meets the picture, in half widths and half heights from its middle.
        shear: Whether the footprints of a `gmae` camera have the shear that a pinhole camera of the same focal length
            would give them, with x and y clamped to 1.3, as in the authors' code. A `pinhole` always has shear.
        focal_y: Focal length of a `pinhole` in half picture heights; None for the value of `focal`, whatever the aspect
            ratio.
        shear_limit: Distance from the middle, in half pictures, beyond which the shear of a `pinhole` grows no further;
            None for no limit. gsplat has 1.3. Without a limit, Gaussians that lie beside the picture smear over all of
            it if the camera stands inside its scene.
    """

    kind: CameraKind = "gmae"
    distance: float = 8.0
    focal: float = 1.0
    blur: float = 0.3
    cx: float = field(default=0.0, metadata=LATER)
    cy: float = field(default=0.0, metadata=LATER)
    shear: bool = field(default=False, metadata=LATER)
    focal_y: float | None = field(default=None, metadata=LATER)
    shear_limit: float | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.kind not in ("gmae", "pinhole", "orthographic"):
            raise GmaeToolsError(f"camera kind {self.kind!r} is unknown: use gmae, pinhole or orthographic")
        lengths = (self.distance, self.focal, self.blur)
        if any(isinstance(length, bool) or not isinstance(length, (int, float)) for length in lengths):
            raise GmaeToolsError("camera: distance, focal and blur must be numbers")
        if type(self.shear) is not bool or (self.shear and self.kind != "gmae"):
            raise GmaeToolsError(f"camera: shear is {self.shear!r}, must be false, or true for a gmae camera")
        for place in (self.cx, self.cy):
            if type(place) not in (int, float) or not abs(place) <= _LARGEST:
                raise GmaeToolsError(f"camera: cx and cy must be numbers, {_LARGEST:g} at most, not {place!r}")
        apart = 0 < self.distance <= _LARGEST or (self.kind == "pinhole" and self.distance == 0)
        if not (apart and 0 < self.focal <= _LARGEST and 0 <= self.blur <= _LARGEST):
            problem = "distance and focal must be positive, blur must not be negative"
            raise GmaeToolsError(f"camera: {problem}, all {_LARGEST:g} at most")
        for name in ("focal_y", "shear_limit"):
            value = getattr(self, name)
            positive = type(value) in (int, float) and 0 < value <= _LARGEST
            if value is not None and not (self.kind == "pinhole" and positive):
                raise GmaeToolsError(f"camera: {name} is {value!r}, must be None, or positive for a pinhole")


@dataclass(frozen=True)
class Splats:
    """2-D Gaussians on the picture plane, in the order of the Gaussians that were projected (not sorted).

    Attributes:
        means: Centres in pixels `[B, K, 2]`, x right and y down; the centre of the first pixel is (0.5, 0.5).
        conics: Inverse covariances (a, b, c) in 1/px^2 `[B, K, 3]`; sigma = (a dx^2 + c dy^2) / 2 + b dx dy.
        depths: Distances from the camera along its axis `[B, K]`.
        colors: Colours `[B, K, C]`, with any number of channels.
        opacities: Peak opacities in [0, 1] `[B, K]`.
    """

    means: Tensor
    conics: Tensor
    depths: Tensor
    colors: Tensor
    opacities: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Splats:
        """Apply `function` to each of the five tensors."""
        return Splats(*map(function, vars(self).values()))


def quats_to_rotations(quats: Tensor) -> Tensor:
    """Rotation matrices `[..., 3, 3]` of quaternions (w, x, y, z) `[..., 4]`, which need not have unit length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    )
    return torch.stack(rows, -2)


def project(gaussians: Gaussians, camera: Camera, height: int, width: int) -> Splats:
    """Project 3-D Gaussians onto a picture of `height` x `width` pixels; differentiable in every parameter.

    The normalised square [-1, 1]^2 is stretched over the picture, so a prediction renders at any size and aspect ratio.
    Invisible Gaussians keep their place in the order but get opacity 0: those behind the camera (their footprint is
    computed at the near plane, so that it stays finite) and, without blur, those whose footprint has no area. Numbers
    up to 1e30 are handled; quaternions longer than 1e19, or of length 0, rotate nothing; the sign of a scale has no
    effect. NaN and infinite values are kept, so that `rasterize` refuses them.

    Returns:
        Splats in the order of the Gaussians, with their colours; float32, or float64 if one of the tensors is.
    """
    dtype = working_dtype(*vars(gaussians).values())
    gaussians = gaussians.map(lambda tensor: tensor.to(dtype))
    half = gaussians.means.new_tensor([width / 2, height / 2])  # [2]
    z = camera.distance + gaussians.means[..., 2]  # [B, K]
    visible = z > _NEAREST_VISIBLE_Z
    safe_z = z.clamp_min(_NEAREST_VISIBLE_Z)
    scales = _clamped(gaussians.scales, _LARGEST)
    axes = quats_to_rotations(gaussians.quats) * scales[..., None, :]  # [B, K, 3, 3], columns = axes
    flat, footprint = project_vectors(gaussians.means, axes, safe_z, camera)
    means = half * (flat + 1)
    conics, determinant = _invert_covariance(_clamped(footprint * half[:, None], _LONGEST_AXIS), camera.blur)
    opacities = torch.where(visible & (determinant > _DEGENERATE), gaussians.opacities, 0.0)
    return Splats(means, conics, z, gaussians.colors, opacities)


def longest_axes(gaussians: Gaussians, camera: Camera, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The principal axis of each Gaussian whose projection is the longest on a picture of `height` x `width` pixels.

    Returns:
        The index of the axis `[B, K]`, and the offset in x and y `[B, K, 2]` that moves a Gaussian's projected centre
        by one standard deviation along that axis.
    """
    z = (camera.distance + gaussians.means[..., 2]).clamp_min(_NEAREST_VISIBLE_Z)
    axes = quats_to_rotations(gaussians.quats) * gaussians.scales[..., None, :]
    _, footprint = project_vectors(gaussians.means, axes, z, camera)
    half = footprint.new_tensor([[width / 2], [height / 2]])
    longest = (footprint * half).square().sum(-2).argmax(-1)  # [B, K]
    moves = axes[..., :2, :] if camera.kind == "pinhole" else footprint  # where centres are not in perspective
    return longest, moves.gather(-1, longest[..., None, None].expand(*longest.shape, 2, 1))[..., 0]


def project_vectors(means: Tensor, axes: Tensor, z: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Project centres and principal axes onto the picture plane, in units of half its width and half its height.

    Args:
        means: Centres `[B, K, 3]`.
        axes: Principal axes as columns, one standard deviation long, `[B, K, 3, 3]`.
        z: Distances from the camera along its axis `[B, K]`, positive.

    Returns:
        Centres `[B, K, 2]` and axes `[B, K, 2, 3]`.
    """
    centres, footprint = _project_centred(means, axes, z, camera)
    if camera.cx or camera.cy:
        centres = centres + centres.new_tensor([camera.cx, camera.cy])
    return centres, footprint


def _project_centred(means: Tensor, axes: Tensor, z: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    centres = means[..., :2]
    if camera.kind == "orthographic":
        return centres, axes[..., :2, :] * (camera.focal / camera.distance)
    inverse_z = (camera.focal / z)[..., None]  # [B, K, 1]
    if camera.focal_y is not None and camera.focal_y != camera.focal:
        inverse_z = torch.cat([inverse_z, (camera.focal_y / z)[..., None]], -1)  # [B, K, 2]
    footprint = axes[..., :2, :] * inverse_z[..., None]
    if camera.kind == "gmae":
        if camera.shear:
            footprint = footprint - _shear(centres.clamp(-_SHEAR_LIMIT, _SHEAR_LIMIT) * inverse_z, axes, z)
        return centres, footprint
    projected = centres * inverse_z
    sheared = projected
    if camera.shear_limit is not None:
        middle = projected.new_tensor([camera.cx, camera.cy])
        sheared = projected.clamp(-camera.shear_limit - middle, camera.shear_limit - middle)
    return projected, footprint - _shear(_clamped(sheared, _LARGEST), axes, z)


def _shear(projected: Tensor, axes: Tensor, z: Tensor) -> Tensor:
    """The second term of EWA's d(f x / z) = f/z dx - f x / z^2 dz, where `projected` `[B, K, 2]` is f x / z."""
    return projected[..., None] * (axes[..., 2:, :] / z[..., None, None])


def _clamped(lengths: Tensor, limit: float) -> Tensor:
    """Lengths of either sign, clamped to the limit. An infinite length becomes NaN, which `rasterize` refuses."""
    return lengths * (limit / lengths.detach().abs().clamp_min(limit))


def _invert_covariance(footprint: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """Conics `[B, K, 3]` and determinants `[B, K]` of M M^T + blur I, where M = `footprint` `[B, K, 2, 3]` in pixels.

    The determinant is summed from positive terms (Cauchy-Binet), since xx * yy - xy^2 cancels for needles.
    """
    row_x, row_y = footprint.unbind(-2)
    xx = (row_x * row_x).sum(-1)
    yy = (row_y * row_y).sum(-1)
    xy = (row_x * row_y).sum(-1)
    minors = torch.linalg.cross(row_x, row_y)
    determinant = (minors * minors).sum(-1) + blur * (xx + yy) + blur * blur
    safe = determinant.clamp_min(_DEGENERATE)
    return torch.stack([(yy + blur) / safe, -xy / safe, (xx + blur) / safe], -1), determinant
