"""NumPy archives (`.npz`) of Gaussians: 3-D Gaussians as a model predicts them, or 2-D Gaussians without depth.

An archive of 3-D Gaussians has the arrays of `Gaussians`, with or without the leading 1:

- `means` `[K, 3]`, `scales` `[K, 3]`, `quats` (w, x, y, z) `[K, 4]`, `colors` RGB in [0, 1] `[K, 3]`, `opacities` in
  [0, 1] `[K]`;
- optionally `camera`, a string of JSON with the fields of `Camera`, and `height` and `width` in pixels.

An archive of 2-D Gaussians, such as those of GaussianImage (Zhang et al. 2024) or Image-GS (Zhang et al. 2025), has the
following arrays. The order in the file stands for depth, the nearest first.

- `means` `[K, 2]`: centres in pixels, x to the right and y downwards; the middle of the first pixel is (0.5, 0.5);
- `covariances` `[K, 2, 2]` in px^2, or `scales` `[K, 2]`, standard deviations in pixels, with optional `angles` `[K]`
  in radians by which the first axis is turned from x towards y (default 0);
- `colors` RGB in [0, 1] `[K, 3]`, and optional `opacities` in [0, 1] `[K]` (default 1);
- `height` and `width` of the picture in pixels.

Gaussians cover each other here, while those two methods add their colours up. Where many of them overlap, the picture
therefore differs from that of the method.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from typing import Any

import numpy as np
import torch

from gmae_tools.camera import Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.ply import MOST_GAUSSIANS
from gmae_tools.formats.viewpoint import Viewpoint
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import one_line
from gmae_tools.system.files import atomic_path

MAGIC = b"PK\x03\x04"
_LONGEST_TEXT = 4096  # characters of the JSON of a camera
_THIN = 1e-6  # scene units, scale of 2-D Gaussians along the line of sight
_FLAT = Camera("orthographic", 2.0, 2.0, 0.0)  # renders 2-D Gaussians in their own size


def write(path: str | os.PathLike[str], gaussians: Gaussians, viewpoint: Viewpoint | None = None) -> None:
    """Write one set of Gaussians, as `Gaussians.save` does, with the camera and the size of the picture if given.

    Raises:
        GmaeToolsError: there is not exactly one set.
    """
    if gaussians.batch_size != 1:
        raise GmaeToolsError(f"a file holds one set of Gaussians, not {gaussians.batch_size}")
    arrays: dict[str, Any] = {
        name: tensor.detach().cpu().float().numpy() for name, tensor in vars(gaussians).items()
    }  # fmt: skip
    if viewpoint is not None:
        camera = json.dumps(dataclasses.asdict(viewpoint.camera))
        arrays |= {"camera": np.array(camera), "height": viewpoint.height, "width": viewpoint.width}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read(path: str | os.PathLike[str]) -> tuple[Gaussians, Viewpoint | None]:
    """Read an archive of 3-D or 2-D Gaussians. Nothing in it is executed.

    Returns:
        One set `[1, K]`, and the camera and the size of the picture, None if the archive does not have them. 2-D
        Gaussians lie in [-1, 1]^3, in front of an orthographic camera without blur.

    Raises:
        GmaeToolsError: the file is missing, damaged, or does not hold Gaussians.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _Arrays(archive)
            return _read_flat(arrays) if arrays.shape("means")[-1:] == (2,) else _read_solid(arrays)
    except FileNotFoundError:
        raise GmaeToolsError(f"{path}: no such file") from None
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except (
        ValueError, TypeError, EOFError, KeyError, OverflowError, RuntimeError, NotImplementedError, RecursionError,
        MemoryError, zipfile.BadZipFile, zlib.error, GmaeToolsError,
    ) as error:  # fmt: skip
        raise GmaeToolsError(f"{path}: not an .npz of Gaussians ({one_line(error)})") from None


def _read_solid(arrays: _Arrays) -> tuple[Gaussians, Viewpoint | None]:
    shape = arrays.shape("means")
    k = shape[1] if len(shape) == 3 else shape[0]
    means, scales, quats, colors = (
        arrays.get(name, k, last) for name, last in (("means", 3), ("scales", 3), ("quats", 4), ("colors", 3))
    )
    gaussians = _gaussians(means, scales, quats, colors, arrays.get("opacities", k))
    if not {"camera", "height", "width"} <= arrays.names:
        return gaussians, None
    camera = Camera(**json.loads(arrays.text("camera")))
    return gaussians, Viewpoint(camera, arrays.count("height"), arrays.count("width"))


def _read_flat(arrays: _Arrays) -> tuple[Gaussians, Viewpoint]:
    k, size = arrays.shape("means")[0], np.array([arrays.count("width"), arrays.count("height")])
    means = arrays.get("means", k, 2) * 2 / size - 1  # [K, 2]
    if "covariances" in arrays.names:
        covariances = arrays.get("covariances", k, 2, 2)
    else:
        angles = arrays.get("angles", k) if "angles" in arrays.names else np.zeros(k)
        cos, sin = np.cos(angles), np.sin(angles)
        axes = np.stack([cos, -sin, sin, cos], -1).reshape(k, 2, 2) * _positive(arrays.get("scales", k, 2))[:, None]
        covariances = axes @ axes.transpose(0, 2, 1)
    # The axes are those of the ellipse in half widths and half heights, which are not its axes in pixels.
    variances, axes = np.linalg.eigh(covariances * (2 / size)[:, None] * (2 / size))
    if variances.min() < -1e-6 * np.abs(variances).max():
        raise ValueError("covariances that are not positive")
    half = np.arctan2(axes[:, 1, 0], axes[:, 0, 0]) / 2
    zero = np.zeros(k)
    depths = 2 * np.arange(k) / k - 1
    gaussians = _gaussians(
        np.column_stack([means, depths]),
        np.column_stack([np.sqrt(np.maximum(variances, 0)), np.full(k, _THIN)]),
        np.column_stack([np.cos(half), zero, zero, np.sin(half)]),
        arrays.get("colors", k, 3),
        arrays.get("opacities", k) if "opacities" in arrays.names else np.ones(k),
    )
    return gaussians, Viewpoint(_FLAT, int(size[1]), int(size[0]))


def _positive(scales: np.ndarray) -> np.ndarray:
    if (scales < 0).any():
        raise ValueError("scales below 0; they may be logarithms")
    return scales


def _gaussians(*arrays: np.ndarray) -> Gaussians:
    """Make Gaussians from arrays `[K, ...]` in the order of the fields of `Gaussians`."""
    _, scales, _, colors, opacities = arrays
    _positive(scales)
    for name, values in (("colors", colors), ("opacities", opacities)):
        if values.min() < -1e-6 or values.max() > 1 + 1e-6:
            raise ValueError(f"{name} beyond 0 to 1; they may not be activated")
    return Gaussians(*(torch.from_numpy(np.asarray(array, np.float32, "C"))[None] for array in arrays))


class _Arrays:
    """The arrays of an archive. Their shapes are checked before memory is allocated for their values."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array of numbers or a string."""
        return self._open(name)[0]

    def get(self, name: str, k: int, *last: int) -> np.ndarray:
        """Read finite numbers of shape `[k, *last]`, which may have a leading 1 in the file."""
        _, values = self._open(name, f"[{', '.join(map(str, (k, *last)))}]", ((k, *last), (1, k, *last)))
        with np.errstate(over="ignore"):
            numbers = values.reshape(k, *last).astype(np.float32 if values.dtype.itemsize < 8 else np.float64)
            finite = np.isfinite(numbers.astype(np.float32)).all()
        if not finite:
            raise ValueError(f"{name} has NaN or infinite values")
        return numbers

    def count(self, name: str) -> int:
        """Read a single whole number."""
        value = float(self._open(name, "a single number", ((), (1,)))[1].reshape(()))
        if value != int(value):
            raise ValueError(f"{name} is {value:g}")
        return int(value)

    def text(self, name: str) -> str:
        """Read a single string."""
        return str(self._open(name, "a text", ((),))[1])

    def _open(
        self, name: str, wanted: str = "", shapes: tuple[tuple[int, ...], ...] | None = None
    ) -> tuple[tuple[int, ...], np.ndarray]:
        """Read the shape of an array, and its values if the shape is one of `shapes`; no values if that is None."""
        if name not in self.names:
            raise ValueError(f"no array {name!r}")
        with self._archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"{name} has an unknown version")
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            is_text = dtype.kind == "U" and shape == () and dtype.itemsize <= 4 * _LONGEST_TEXT
            if not (dtype.kind in "fiu" or is_text) or max(shape, default=0) > MOST_GAUSSIANS or 0 in shape:
                raise ValueError(f"{name} is {dtype} {list(shape)}; from 1 to {MOST_GAUSSIANS:,} Gaussians can be read")
            if shapes is None:
                return shape, np.empty(0)
            if shape not in shapes:
                raise ValueError(f"{name} has shape {list(shape)}, expected {wanted}")
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{name} ends early")
        return shape, np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
