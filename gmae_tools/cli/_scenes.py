"""What commands take apart: photographs, whose Gaussians a model predicts, and files of anyone's Gaussians."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._inputs import Inputs, find_inputs, image_options
from gmae_tools.cli._models import ModelOptions, OpenModel
from gmae_tools.cli._options import Decorator, gathered
from gmae_tools.cli._progress import busy, look_progress, refine_with_progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import CAMERAS, READABLE, is_gaussians_name

if TYPE_CHECKING:
    import numpy as np

    from gmae_tools.benchmarks.pipeline import Method
    from gmae_tools.camera import CameraKind
    from gmae_tools.scene import Scene

ONE_LOOK = "Gaussians read from files: one look"  # for captions
_FROM_FILE = "read from the file"  # where captions have the name of a model
_SAME_SHAPE = 0.02  # relative difference up to which a photograph may be wider or higher than what a camera sees


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """`640x480`, width and height in pixels, as the tuple (height, width)."""

    name = "size"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", value.lower())
        if not found:
            self.fail(f"{value!r} is not a width and a height in pixels, such as 640x480", param, ctx)
        return int(found[2]), int(found[1])


@dataclass(frozen=True)
class SceneInputs(Inputs):
    """Photographs and files of Gaussians, and how to look at Gaussians whose file does not say it.

    Attributes:
        camera: kind of the camera; None for what the file says.
        size: height and width of the picture in pixels; None for what the file says.
        focal: focal length in pixels; None for what the file says.
        photo: the photograph that the Gaussians of the only input show; None if there is none.
    """

    camera: CameraKind | None
    size: tuple[int, int] | None
    focal: float | None
    photo: str | None

    def find(self, out: str | None = None) -> tuple[list[Path], int]:
        """Return photographs and files of Gaussians, and how many inputs name none; see `find_inputs`."""
        return find_inputs(self.images, recursive=self.recursive, out=out, others=READABLE)

    def refuse_views(self, reason: str) -> None:
        """Refuse the options that say how to look at Gaussians.

        Raises:
            GmaeToolsError: one of them is given; `reason` says why it must not be.
        """
        for name in ("camera", "size", "focal", "photo"):
            if getattr(self, name) is not None:
                raise GmaeToolsError(f"--{name}: {reason}")

    def check(self, paths: Sequence[Path], refine: int) -> None:
        """Refuse options that do not fit the inputs that are found, without loading torch.

        Raises:
            GmaeToolsError: an option for Gaussians is given without a file of them, --photo does not fit, or Gaussians
                are to be refined without it.
        """
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
        """Load the model if one of the inputs is a photograph and if it is `needed`, after `check`."""
        self.check(paths, model.refine)
        photographs = not all(is_gaussians_name(path.name) for path in paths)
        return Scenes(self, model, model.open() if photographs and needed else None)


_VIEW = (
    click.option(
        "--camera", type=click.Choice(CAMERAS),
        help="Of a file of Gaussians: a pinhole at the origin that looks along +z with y down, or one of Gaussians in"
        " [-1, 1]^3.  [default: as the file or the JSON file beside it says; gmae for .npz, else pinhole]",
    ),
    click.option(
        "--size", type=Size(), metavar="WxH",
        help="Of the picture of a file of Gaussians: width and height in pixels, such as 640x480."
        "  [default: as the file says, or that of --photo]",
    ),
    click.option(
        "--focal", type=click.FloatRange(0, min_open=True), metavar="PX",
        help="Of the camera of a file of Gaussians: focal length in pixels."
        "  [default: as the file says; of a pinhole, the longer side]",
    ),
    click.option(
        "--photo", metavar="IMG",
        help="The photograph that the only input, a file of Gaussians, shows: to compare with, and to refine to.",
    ),
)  # fmt: skip


def scene_options(*, required: bool = True) -> Decorator:
    """IMG, --recursive and how to look at files of Gaussians as one argument `inputs`, a `SceneInputs`."""
    return gathered("inputs", SceneInputs, *image_options(required=required), *_VIEW)


def _one_scene(image: str, **view: object) -> SceneInputs:
    return SceneInputs((image,), False, **view)  # type: ignore[arg-type]  # the options have checked them


one_scene_options = gathered("inputs", _one_scene, click.argument("image", metavar="IMG"), *_VIEW)


@dataclass(frozen=True)
class Scenes:
    """Makes scenes of inputs.

    Attributes:
        inputs: how to look at Gaussians.
        options: of the model, and where Gaussians are rendered.
        opened: the model; None if there is no photograph.
    """

    inputs: SceneInputs
    options: ModelOptions
    opened: OpenModel | None

    def maker(self, path: Path) -> str:
        """Who made the Gaussians of an input, for captions: the model's name, or that they come from a file."""
        return _FROM_FILE if is_gaussians_name(path.name) else self.options.name

    def makers(self, paths: Sequence[Path]) -> str:
        """Who made the Gaussians of several inputs, for captions."""
        return " and ".join(dict.fromkeys(map(self.maker, paths))).replace(_FROM_FILE, "read from files")

    def any_file(self, paths: Sequence[Path]) -> bool:
        """Whether one of the inputs is a file of Gaussians."""
        return any(is_gaussians_name(path.name) for path in paths)

    def initial(self, path: Path, photo: np.ndarray | None = None) -> Scene:
        """The scene of an input before it is refined: predicted from a photograph, or read from a file.

        Args:
            photo: the photograph of that path if it is read already, uint8 RGB `[H, W, 3]`.
        """
        if is_gaussians_name(path.name):
            return self._read(path)
        from gmae_tools.images import read_image
        from gmae_tools.prediction import predict_scene

        assert self.opened is not None
        if photo is None:
            photo = read_image(path, max_pixels=self.options.max_pixels)
        return predict_scene(self.opened.model, photo)

    def refine(self, scene: Scene, name: str, *, background: float = 1.0) -> Scene:
        """Refine a scene as the options ask, over a grey background, with a bar if that takes long."""
        steps, backend = self.options.refine, self.options.backend
        if not steps:
            return scene
        return refine_with_progress(scene, steps, name=name, background=background, backend=backend)

    def scene(self, path: Path, photo: np.ndarray | None = None) -> Scene:
        """The scene of an input, refined if the options ask for it; the arguments are those of `initial`."""
        return self.refine(self.initial(path, photo), path.name)

    def maps(self, path: Path, methods: Sequence[Method]) -> tuple[np.ndarray, bool, Iterator[np.ndarray]]:
        """Read an input out in several ways.

        Gaussians of a file are seen in one look, whatever the methods' own looks are. Methods that look at a photograph
        see the picture of the Gaussians if there is no photograph.

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
    """Whether the pixels of a pinhole camera are about square, as they are in a picture of its own shape."""
    camera = scene.camera
    across, down = camera.focal * scene.width, (camera.focal_y or camera.focal) * scene.height
    return camera.kind != "pinhole" or abs(across - down) <= _SAME_SHAPE * down
