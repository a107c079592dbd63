"""Files of Gaussians: one module a format, which reads and writes it; `read` and `write` choose by the file.

`ply` and `splat` hold Gaussians as a perspective viewer wants them, `npz` as they are, `svg` the splats of a picture.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmae_tools.camera import Camera, CameraKind
    from gmae_tools.scene import Scene

READABLE = (".ply", ".splat", ".npz")  # suffixes of `read`
WRITABLE = (*READABLE, ".svg")  # of `write`
CAMERAS = ("pinhole", "gmae", "orthographic")  # the kinds of `camera.CameraKind`, for who does not load torch


def is_gaussians_name(name: str) -> bool:
    """Whether the last part of a path looks like a file of Gaussians; hidden files do not."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in READABLE


def read(
    path: str | os.PathLike[str],
    *,
    camera: Camera | CameraKind | None = None,
    size: tuple[int, int] | None = None,
    focal: float | None = None,
) -> Scene:
    """Read anyone's Gaussians: `.ply` (3-D Gaussian splatting, ml-sharp), `.splat`, or `.npz`.

    How they are seen is what the caller says, or else the file, or else the JSON file that `gmae-tools export` wrote
    beside it. Larger or smaller pictures of the same view come from `Scene.render`.

    Args:
        path: the file; its content decides the format, and the suffix that of `.splat`, which has no mark.
        camera: a kind, or a camera in full: of a `pinhole` that stands at the origin and looks along +z, x to the right
            and y downwards, or of Gaussians in [-1, 1]^3. Without it, and if nothing else says how they are seen, the
            kind is `pinhole`, and `gmae` for `.npz`.
        size: height and width of the picture in pixels.
        focal: focal length in pixels, for a kind of camera; by default as long as the longer side, for a `pinhole`.

    Raises:
        GmaeToolsError: the file is missing, damaged or not of Gaussians, nothing says how they are seen, or the
            arguments do not fit together.

    Example:
        >>> read("sharp.ply")
        Scene(1,179,648 Gaussians, pinhole camera, 1536 x 1024 px)
        >>> read("garden.ply", size=(480, 640), focal=500)
        Scene(5,834,784 Gaussians, pinhole camera, 640 x 480 px)
    """
    from gmae_tools.arguments import path_name, picture_size, positive_number
    from gmae_tools.camera import Camera
    from gmae_tools.errors import GmaeToolsError
    from gmae_tools.formats import npz, ply, splat
    from gmae_tools.formats.viewpoint import Viewpoint, beside, chosen
    from gmae_tools.scene import Scene

    path = Path(path_name(path, "a .ply, .splat or .npz of Gaussians"))
    size = None if size is None else picture_size(size)
    focal = None if focal is None else positive_number(focal, "the focal length")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror or error})") from None
    if start.startswith(ply.MAGIC):
        gaussians, found = ply.read(path)
    elif start == npz.MAGIC:
        gaussians, found = npz.read(path)
    elif path.suffix.lower() == ".splat":
        gaussians, found = splat.read(path), None
    else:
        raise GmaeToolsError(f"{path}: not a file of Gaussians: give a .ply, .splat or .npz")
    if found is None and (camera is None or size is None):
        found = beside(path)
    if isinstance(camera, Camera) and focal is not None:
        raise GmaeToolsError("a camera in full has a focal length; give a kind of camera with another")
    height, width = size or ((found.height, found.width) if found else (0, 0))
    if camera is None and focal is None and found:
        view = Viewpoint(found.camera, height, width)
    elif not height or not width:
        raise GmaeToolsError(f"{path}: nothing says how its Gaussians are seen: give the size of the picture, at least")
    elif isinstance(camera, Camera):
        view = Viewpoint(camera, height, width)
    else:
        view = chosen(camera or ("gmae" if start == npz.MAGIC else "pinhole"), height, width, focal)
    return Scene(gaussians, view.camera, view.height, view.width)


def write(path: str | os.PathLike[str], scene: Scene, *, fov: float = 50.0, title: str = "") -> None:
    """Write a scene as the suffix says, whole or not at all.

    `.npz` keeps all as it is. `.ply` and `.splat` are for perspective viewers: what a `pinhole` camera sees is written
    as it is, all else as `perspective.in_perspective` reshapes it. A `.ply` says how it is seen.

    Args:
        fov: of the perspective camera, in degrees along the longer side, unless the scene has one already.
        title: of an `.svg`.

    Raises:
        GmaeToolsError: no such format, or the Gaussians lie too near for `fov`.
    """
    from gmae_tools.arguments import path_name
    from gmae_tools.errors import GmaeToolsError
    from gmae_tools.formats import npz, ply, splat, svg
    from gmae_tools.formats.perspective import PerspectiveView, in_perspective
    from gmae_tools.formats.viewpoint import Viewpoint

    path = path_name(path, "the file to write")
    form = Path(path).suffix.lower()
    if form not in WRITABLE:
        raise GmaeToolsError(f"{path}: cannot be written; name it {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}")
    if form == ".npz":
        npz.write(path, scene.gaussians, Viewpoint(scene.camera, scene.height, scene.width))
    elif form == ".svg":
        svg.write(path, scene.splats(), scene.height, scene.width, title=title)
    else:
        if scene.camera.kind != "pinhole":
            scene = in_perspective(scene, PerspectiveView(scene.height, scene.width, fov))
        if form == ".ply":
            ply.write(path, scene.gaussians, Viewpoint(scene.camera, scene.height, scene.width))
        else:
            splat.write(path, scene.gaussians)
