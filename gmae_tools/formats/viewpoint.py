"""The camera and the picture size for the Gaussians of a file: from the file, a file beside it, or the caller."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gmae_tools.camera import Camera, CameraKind
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import one_line

MOST_PIXELS = 1 << 28  # largest picture that a file may ask for; as float RGB it takes 3 GB
_LONGEST_SIDECAR = 1 << 20  # bytes
_NATURAL_DISTANCE = {"gmae": 8.0, "pinhole": 0.0, "orthographic": 1.0}  # a pinhole stands at the origin of the scene


@dataclass(frozen=True)
class Viewpoint:
    """A camera, and the size of the picture that it sees.

    Attributes:
        camera: the camera.
        height, width: size of the picture in pixels.

    Raises:
        GmaeToolsError: the picture has no pixels, or too many.
    """

    camera: Camera
    height: int
    width: int

    def __post_init__(self) -> None:
        _check_size(self.height, self.width)

    @staticmethod
    def of_pixels(fx: float, fy: float, cx: float, cy: float, height: int, width: int) -> Viewpoint:
        """Make a pinhole camera at the origin that looks along +z, with x to the right and y downwards (OpenCV's axes).

        Its blur and its limit of the shear are those of gsplat.

        Args:
            fx, fy: focal lengths in pixels.
            cx, cy: principal point in pixels; the middle of the picture is (width / 2, height / 2).
            height, width: size of the picture in pixels.
        """
        _check_size(height, width)
        across, down, x, y = 2 * fx / width, 2 * fy / height, 2 * cx / width - 1, 2 * cy / height - 1
        camera = Camera("pinhole", 0.0, across, 0.3, cx=x, cy=y, focal_y=down, shear_limit=1.3)
        return Viewpoint(camera, height, width)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise GmaeToolsError(f"a picture of {width} x {height} px cannot be rendered")


def chosen(kind: CameraKind, height: int, width: int, focal: float | None) -> Viewpoint:
    """Make the viewpoint that a caller asks for.

    Args:
        kind: kind of the camera. A `pinhole` stands at the origin and looks along +z, with x to the right and y
            downwards. For `gmae` and `orthographic` the picture spans [-1, 1] in x and y, as for the Gaussians that
            GMAE models predict.
        height, width: size of the picture in pixels.
        focal: focal length in pixels. The default of a `pinhole` is the longer side, a field of view of 53 degrees. By
            default the splats of a `gmae` camera are as large as those of the models, and those of an `orthographic`
            camera as large as the scales say.

    Raises:
        GmaeToolsError: the picture has no pixels or too many, or the focal length is not a positive number.
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
    """Return the path of the JSON file that `gmae-tools export` writes beside `path`."""
    return path.with_suffix(".json")


def beside(path: Path) -> Viewpoint | None:
    """Read the viewpoint from the JSON file beside an exported file; None if there is none, or for another export.

    Raises:
        GmaeToolsError: the JSON file names this file, but does not have a valid camera and size.
    """
    try:
        with open(sidecar(path), "rb") as file:
            record = json.loads(file.read(_LONGEST_SIDECAR))
        if path.name not in record["files"]:
            return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # not a JSON file of `gmae-tools export`
    try:
        camera, viewer = Camera(**record["camera"]), record["viewer"]
        height, width = int(viewer["height"]), int(viewer["width"])
        if path.suffix.lower() != ".npz" and camera.kind != "pinhole":  # what a pinhole sees was written as it is
            across, down = (1 / math.tan(math.radians(viewer[f"fov_{axis}_degrees"]) / 2) for axis in "xy")
            camera = Camera("pinhole", -float(viewer["position"][2]), across, camera.blur, focal_y=down)
        return Viewpoint(camera, height, width)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, GmaeToolsError) as error:
        problem = f"does not say how {path.name} is seen ({one_line(error)}); remove it"
        raise GmaeToolsError(f"{sidecar(path)}: {problem}") from None


# --- poses -------------------------------------------------------------------------------------------


def moved(gaussians: Gaussians, extrinsic: np.ndarray) -> Gaussians:
    """Move Gaussians from the axes of the world to those of a camera by the matrix `extrinsic`, float64 `[4, 4]`.

    Raises:
        ValueError: the matrix is not a rotation and a translation.
    """
    rotation, shift = extrinsic[:3, :3], extrinsic[:3, 3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) and np.linalg.det(rotation) > 0
    if not (np.isfinite(extrinsic).all() and rigid and np.allclose(extrinsic[3], [0, 0, 0, 1], atol=1e-6)):
        raise ValueError("its extrinsic matrix is no rotation and translation")
    if np.array_equal(extrinsic, np.eye(4)):
        return gaussians
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    turn = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])  # multiplies quaternions
    means = gaussians.means.double() @ torch.from_numpy(rotation.T.copy()) + torch.from_numpy(shift.copy())
    return replace(gaussians, means=means.float(), quats=(gaussians.quats.double() @ turn.T).float())
