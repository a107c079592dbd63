"""How to look at the Gaussians of a file: as the file says, as a file beside it says, or as the caller says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Camera, CameraKind
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import one_line

MOST_PIXELS = 1 << 28  # of a picture that a file may ask for; 3 GB of float RGB
_LONGEST_SIDECAR = 1 << 20  # bytes
_NATURAL_DISTANCE = {"gmae": 8.0, "pinhole": 0.0, "orthographic": 1.0}  # a pinhole stands at the origin of the scene


@dataclass(frozen=True)
class Viewpoint:
    """A camera, and the size of the picture that it sees in pixels.

    Raises:
        GmaeToolsError: the picture has no pixels, or too many.
    """

    camera: Camera
    height: int
    width: int

    def __post_init__(self) -> None:
        _check_size(self.height, self.width)

    @staticmethod
    def of_pixels(
        fx: float, fy: float, cx: float, cy: float, height: int, width: int, *,
        blur: float = 0.3, shear_limit: float | None = 1.3,
    ) -> Viewpoint:  # fmt: skip
        """A pinhole at the origin that looks along +z, x to the right and y downwards (OpenCV's axes).

        Args:
            fx, fy, cx, cy: focal lengths and principal point in pixels; the middle is (width / 2, height / 2).
            blur, shear_limit: as `Camera` has them; by default those of gsplat.
        """
        _check_size(height, width)
        across, down = 2 * fx / width, 2 * fy / height
        camera = Camera(
            "pinhole", 0.0, across, blur, cx=2 * cx / width - 1, cy=2 * cy / height - 1, focal_y=down,
            shear_limit=shear_limit,
        )  # fmt: skip
        return Viewpoint(camera, height, width)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise GmaeToolsError(f"a picture of {width} x {height} px cannot be drawn")


def chosen(kind: CameraKind, height: int, width: int, focal: float | None) -> Viewpoint:
    """The viewpoint that a caller asks for.

    Args:
        kind: `pinhole`: at the origin, looking along +z, x to the right and y downwards. `gmae` and `orthographic`: the
            picture spans [-1, 1] in x and y, as in what GMAE models predict.
        focal: in pixels, which are square for a `pinhole`, whose default is the longer side: 53 degrees. The other
            kinds have a default of their own, at which footprints are as a model's, or as large as the scales say.
    """
    _check_size(height, width)
    if focal is not None and not 0 < focal < math.inf:
        raise GmaeToolsError(f"focal length {focal:g}: use a number of pixels above 0")
    if kind == "pinhole":
        focal = focal or float(max(height, width))
        return Viewpoint.of_pixels(focal, focal, width / 2, height / 2, height, width)
    camera = Camera(kind, _NATURAL_DISTANCE.get(kind, 8.0), 2 * focal / width if focal else 1.0)
    return Viewpoint(camera, height, width)


# --- our own export ----------------------------------------------------------------------------------


def sidecar(path: Path) -> Path:
    """The JSON file that `gmae-tools export` writes beside `path`."""
    return path.with_suffix(".json")


def beside(path: Path) -> Viewpoint | None:
    """What the JSON file beside an export says; None if there is none, or if it is about something else.

    Raises:
        GmaeToolsError: it says that it is about this file, but not how to look at it.
    """
    try:
        with open(sidecar(path), "rb") as file:
            record = json.loads(file.read(_LONGEST_SIDECAR))
        if path.name not in record["files"]:
            return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # nothing of ours
    try:
        return _viewpoint(record, perspective=path.suffix.lower() != ".npz")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, GmaeToolsError) as error:
        raise GmaeToolsError(
            f"{sidecar(path)}: does not say how {path.name} is seen ({one_line(error)}); remove it"
        ) from None


def _viewpoint(record: dict[str, Any], *, perspective: bool) -> Viewpoint:
    camera, viewer = Camera(**record["camera"]), record["viewer"]
    height, width = int(viewer["height"]), int(viewer["width"])
    if perspective and camera.kind != "pinhole":  # what a pinhole sees was written as it is
        across, down = (1 / math.tan(math.radians(viewer[f"fov_{axis}_degrees"]) / 2) for axis in "xy")
        camera = Camera("pinhole", -float(viewer["position"][2]), across, camera.blur, focal_y=down)
    return Viewpoint(camera, height, width)


# --- poses -------------------------------------------------------------------------------------------


def moved(gaussians: Gaussians, extrinsic: np.ndarray) -> Gaussians:
    """Gaussians as a camera sees them that does not stand at the origin.

    Args:
        gaussians: in the world's axes.
        extrinsic: from the world to the camera, float64 `[4, 4]`: a rotation and a translation.

    Raises:
        ValueError: it is none.
    """
    rotation, shift = extrinsic[:3, :3], extrinsic[:3, 3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) and np.linalg.det(rotation) > 0
    if not (np.isfinite(extrinsic).all() and rigid and np.allclose(extrinsic[3], [0, 0, 0, 1], atol=1e-6)):
        raise ValueError("its extrinsic matrix is no rotation and translation")
    if np.array_equal(extrinsic, np.eye(4)):
        return gaussians
    from scipy.spatial.transform import Rotation

    turn = torch.from_numpy(np.roll(Rotation.from_matrix(rotation).as_quat(), 1))  # w, x, y, z
    means = gaussians.means.double() @ torch.from_numpy(rotation.T.copy()) + torch.from_numpy(shift.copy())
    return Gaussians(
        means.float(), gaussians.scales, _multiply(turn, gaussians.quats.double()).float(), gaussians.colors,
        gaussians.opacities,
    )  # fmt: skip


def _multiply(first: Tensor, second: Tensor) -> Tensor:
    """The product of quaternions (w, x, y, z): the rotation `second`, then `first`."""
    a, b, c, d = first.unbind(-1)
    w, x, y, z = second.unbind(-1)
    product = (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )
    return torch.stack(product, -1)
