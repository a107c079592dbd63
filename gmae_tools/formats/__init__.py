"""Files of Gaussians. Each format has a module that reads and writes it; `read` and `write` choose the module.

`ply` and `splat` files hold Gaussians for perspective viewers, `npz` files hold them unchanged, and `svg` files hold
the splats of a picture.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmae_tools.camera import Camera, CameraKind
    from gmae_tools.scene import Scene

READABLE = (".ply", ".splat", ".npz")  # suffixes that `read` takes
WRITABLE = (*READABLE, ".svg")  # suffixes that `write` takes
CAMERAS = ("pinhole", "gmae", "orthographic")  # the kinds of `camera.CameraKind`, for code that does not load torch


def is_gaussians_name(name: str) -> bool:
    """Return whether a path has the suffix of a file of Gaussians; hidden files do not count."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in READABLE


def read(
    path: str | os.PathLike[str],
    *,
    camera: Camera | CameraKind | None = None,
    size: tuple[int, int] | None = None,
    focal: float | None = None,
) -> Scene:
    """Read Gaussians from any program: `.ply` (3-D Gaussian splatting, ml-sharp), `.splat`, or `.npz`.

    The camera and the size of the picture come from the arguments. Without them they come from the file, or else from
    the JSON file that `gmae-tools export` wrote beside it. `Scene.render` makes larger or smaller pictures of the same
    view.

    Args:
        path: the file. Its content decides the format; only `.splat` files are recognised by their suffix.
        camera: a `Camera`, or the kind of a camera. A `pinhole` stands at the origin and looks along +z, with x to the
            right and y downwards; the other kinds see Gaussians in [-1, 1]^3. If neither the argument nor a file gives
            a camera, the kind is `gmae` for `.npz` and `pinhole` for all others.
        size: height and width of the picture in pixels.
        focal: focal length in pixels, if `camera` is a kind. The default for a `pinhole` is the longer side of the
            picture.

    Raises:
        GmaeToolsError: the file is missing, damaged or does not hold Gaussians, the size of the picture is not known,
            or the arguments do not fit together.

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
        raise GmaeToolsError("a Camera has its own focal length; give focal only with a kind, such as 'pinhole'")
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
    """Write a scene in the format of the suffix. The file is written whole or not at all.

    An `.npz` file holds the Gaussians unchanged. Files of `.ply` and `.splat` are for perspective viewers: the
    Gaussians of a `pinhole` camera are written unchanged, and all others as `perspective.in_perspective` reshapes them.
    Files of `.npz` and `.ply` also hold the camera and the size of the picture.

    Args:
        path: the file to write: `.ply`, `.splat`, `.npz` or `.svg`.
        scene: the scene; its photograph is not written.
        fov: field of view of the perspective camera along the longer side, in degrees, above 0 and below 90; ignored if
            the scene has a `pinhole` camera.
        title: title of an `.svg`; ignored for other formats.

    Raises:
        GmaeToolsError: there is no such format, or the Gaussians lie too near for this field of view.
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
