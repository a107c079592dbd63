"""The inputs of commands: photographs, whose Gaussians a model predicts, and files of Gaussians from any program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._inputs import Inputs, find_inputs, image_options
from gmae_tools.cli._models import ModelOptions
from gmae_tools.cli._options import Decorator, gathered
from gmae_tools.cli._progress import busy, look_progress, refine_with_progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import CAMERAS, READABLE, is_gaussians_name

if TYPE_CHECKING:
    import numpy as np

    from gmae_tools.benchmarks.pipeline import Method, ModelSource
    from gmae_tools.camera import CameraKind
    from gmae_tools.scene import Scene

ONE_LOOK = "Gaussians read from files: one look"  # for captions
_FROM_FILE = "read from the file"  # stands in captions in place of the name of a model
_SAME_SHAPE = 0.02  # largest relative difference of the aspect ratios of a photograph and a camera's picture


def size_of(text: str) -> tuple[int, int]:
    """`640x480`, width and height in pixels, as the tuple (height, width); type of an option."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text.lower())
    if not found:
        raise click.BadParameter(f"{text!r} is not a width and a height in pixels, such as 640x480")
    return int(found[2]), int(found[1])


@dataclass(frozen=True)
class SceneInputs(Inputs):
    """Photographs and files of Gaussians, and what replaces the camera, picture size and focal length (px) of a file.

    `size` is height and width in pixels; `photo` is the photograph that the Gaussians of the only input show.
    """

    camera: CameraKind | None
    size: tuple[int, int] | None
    focal: float | None
    photo: str | None

    def find(self, out: str | None = None) -> tuple[list[Path], int]:
        """Return the photographs and files of Gaussians, and the number of inputs without any; see `find_inputs`."""
        return find_inputs(self.images, recursive=self.recursive, out=out, others=READABLE)

    def refuse_views(self, reason: str) -> None:
        """Refuse each of the options for files of Gaussians that is given; the message ends with `reason`."""
        for name in ("camera", "size", "focal", "photo"):
            if getattr(self, name) is not None:
                raise GmaeToolsError(f"--{name}: {reason}")

    def check(self, paths: Sequence[Path], refine: int) -> None:
        """Refuse options that do not fit the inputs, without loading torch."""
        files = [path for path in paths if is_gaussians_name(path.name)]
        if not files:
            self.refuse_views(f"is for files of Gaussians ({', '.join(READABLE)}), and none is given")
        if self.photo is not None:
            if len(paths) > 1:
                raise GmaeToolsError(
                    f"--photo {self.photo}: belongs to one file of Gaussians, not to {len(paths)} inputs"
                )
            if self.size:
                raise GmaeToolsError("--size: the picture is as large as the photograph; leave one of them out")
            if not Path(self.photo).expanduser().is_file():
                raise GmaeToolsError(f"--photo {self.photo}: no such file")
        elif files and refine:
            raise GmaeToolsError(
                f"--refine fits Gaussians to a photograph: give that of {files[0]} with --photo, or leave --refine out"
            )

    def open(self, paths: Sequence[Path], model: ModelOptions, *, needed: bool = True) -> Scenes:
        """Call `check`, and load the model if it is `needed` and one of the inputs is a photograph."""
        self.check(paths, model.refine)
        photographs = not all(is_gaussians_name(path.name) for path in paths)
        return Scenes(self, model, model.open() if photographs and needed else None)


_VIEW = (
    click.option(
        "--camera",
        type=click.Choice(CAMERAS),
        help="Camera for files of Gaussians: a pinhole at the origin that looks along +z with y down, or a camera for"
        " Gaussians in [-1, 1]^3.  [default: that of the file or of the JSON file beside it, else gmae for .npz and"
        " pinhole for other files]",
    ),
    click.option(
        "--size",
        type=size_of,
        metavar="WxH",
        help="Width and height of the picture in pixels for files of Gaussians, such as 640x480."
        "  [default: that of the file or of --photo]",
    ),
    click.option(
        "--focal",
        type=click.FloatRange(0, min_open=True),
        metavar="PX",
        help="Focal length of the camera in pixels for files of Gaussians."
        "  [default: that of the file, or for a pinhole the longer side of the picture]",
    ),
    click.option(
        "--photo",
        metavar="IMG",
        help="Photograph that the Gaussians show, for scores and for --refine. IMG must be one file of Gaussians.",
    ),
)


def scene_options(*, required: bool = True) -> Decorator:
    """Make IMG, --recursive and the options for files of Gaussians one argument `inputs`, a `SceneInputs`."""
    return gathered("inputs", SceneInputs, *image_options(required=required), *_VIEW)


def _one_scene(image: str, **view: object) -> SceneInputs:
    return SceneInputs((image,), False, **view)  # type: ignore[arg-type]  # the options have checked them


one_scene_options = gathered("inputs", _one_scene, click.argument("image", metavar="IMG"), *_VIEW)


@dataclass(frozen=True)
class Scenes:
    """Makes scenes from inputs; `source` is None if no input is a photograph."""

    inputs: SceneInputs
    options: ModelOptions
    source: ModelSource | None

    def maker(self, path: Path) -> str:
        """Return the source of an input's Gaussians for captions: the name of the model, or `read from the file`."""
        return _FROM_FILE if is_gaussians_name(path.name) else self.options.name

    def makers(self, paths: Sequence[Path]) -> str:
        """Return the sources of the Gaussians of several inputs for captions."""
        return " and ".join(dict.fromkeys(map(self.maker, paths))).replace(_FROM_FILE, "read from files")

    def any_file(self, paths: Sequence[Path]) -> bool:
        """Return whether one of the inputs is a file of Gaussians."""
        return any(is_gaussians_name(path.name) for path in paths)

    def initial(self, path: Path, photo: np.ndarray | None = None) -> Scene:
        """Return the scene of an input before refinement: predicted from a photograph, or read from a file.

        `photo` is the photograph at that path if it has been read before, uint8 RGB `[H, W, 3]`.
        """
        if is_gaussians_name(path.name):
            return self._read(path)
        from gmae_tools.images import read_image
        from gmae_tools.prediction import predict_scene

        assert self.source is not None
        if photo is None:
            photo = read_image(path, max_pixels=self.options.max_pixels)
        return predict_scene(self.source.model, photo)

    def refine(self, scene: Scene, name: str, *, background: float = 1.0) -> Scene:
        """Refine a scene as the options say, over a grey background in [0, 1], with a progress bar if that is slow."""
        steps, backend = self.options.refine, self.options.backend
        if not steps:
            return scene
        return refine_with_progress(scene, steps, name=name, background=background, backend=backend)

    def scene(self, path: Path, photo: np.ndarray | None = None) -> Scene:
        """Return the scene of an input, refined as the options say; the arguments are those of `initial`."""
        return self.refine(self.initial(path, photo), path.name)

    def maps(self, path: Path, methods: Sequence[Method]) -> tuple[np.ndarray, bool, Iterator[np.ndarray]]:
        """Make the maps of an input by several methods.

        Gaussians from a file are one view, whatever views the methods ask for. Methods that look at a photograph get
        the rendered picture if there is no photograph.

        Returns:
            The photograph or the rendered picture, uint8 RGB `[H, W, 3]`; whether it is rendered; and the map of each
            method, `[H, W]` in [0, 1].
        """
        from gmae_tools.benchmarks import pipeline
        from gmae_tools.images import read_image
        from gmae_tools.zeroshot.views import Views

        if not is_gaussians_name(path.name):
            photo = read_image(path, max_pixels=self.options.max_pixels)
            return photo, False, pipeline.maps(methods, photo, look_progress(self.options.refine))
        scene = self.scene(path)
        views, picture = Views.of(scene, backend=self.options.backend), scene.picture(backend=self.options.backend)
        found = (each.of_views(views) if each.looks else each.of_photo(picture) for each in methods)
        return picture, scene.photo is None, found

    def _read(self, path: Path) -> Scene:
        with busy(f"reading {path}"):
            from gmae_tools import formats
            from gmae_tools.images import read_image
            from gmae_tools.prediction import resolve_device
            from gmae_tools.splatting import choose_backend

        device = resolve_device(self.options.device)
        choose_backend(self.options.backend, device)  # a backend that cannot render is refused before any work
        inputs = self.inputs
        photo = read_image(inputs.photo, max_pixels=self.options.max_pixels) if inputs.photo else None
        size = inputs.size if photo is None else (photo.shape[0], photo.shape[1])
        scene = formats.read(path, camera=inputs.camera, size=size, focal=inputs.focal)
        if photo is not None and not _square_pixels(scene):
            shape = f"{scene.width} x {scene.height} px"
            raise GmaeToolsError(
                f"--photo {inputs.photo}: its shape of {shape} is not that of the picture that {path} says it shows"
            )
        return replace(scene, gaussians=scene.gaussians.to(device), photo=photo)


def _square_pixels(scene: Scene) -> bool:
    """Return whether the pixels of a pinhole camera are about square, as in a picture of the right shape."""
    camera = scene.camera
    across, down = camera.focal * scene.width, (camera.focal_y or camera.focal) * scene.height
    return camera.kind != "pinhole" or abs(across - down) <= _SAME_SHAPE * down
