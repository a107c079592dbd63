"""The pictures that a visitor of the demo sees of one photograph; all of them stay in memory."""

from __future__ import annotations

import io
import time
from base64 import b64decode
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import write
from gmae_tools.images import open_image, printable, resize, to_rgb
from gmae_tools.metrics.pictures import psnr
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_scene
from gmae_tools.refine import RefineOptions, refine_scene
from gmae_tools.report.contact_sheet import panel_size
from gmae_tools.report.edges import ink
from gmae_tools.report.figures import depth_colors, depth_range
from gmae_tools.report.page import PageRequest, page_size, render_page
from gmae_tools.report.segment import overlay
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend
from gmae_tools.zeroshot.layers import over, render_layers
from gmae_tools.zeroshot.names import EDGE_READOUTS, HIERARCHY

SIDE = 800  # px, longest side of a photograph that is kept; the page to download shows no more
MOST_BYTES = 20_000_000  # largest file that is accepted
LAYERS = 8  # number of depth groups on the strip
_LAYER_SIDE = 320  # px, longest side of a picture of one layer, and of the depth map

# The edge maps that can be chosen: l@N of each number of layers, and the other readouts.
EDGES = (*(name for name in reversed(EDGE_READOUTS) if name != "layers"), *(f"l@{n}" for n in HIERARCHY))


@dataclass(frozen=True)
class Workshop:
    """Takes photographs apart."""

    model: GMAE  # in evaluation mode
    checkpoint: str  # its name, for captions
    refine: int = 0  # number of steps of refinement after a prediction
    backend: Backend = "auto"
    max_pixels: int | None = None  # above which a photograph is refused

    def exhibit(self, photo: np.ndarray, name: str) -> Exhibit:
        """Take a photograph apart, uint8 RGB `[H, W, 3]`; one of more than `SIDE` pixels is made smaller."""
        begin = time.perf_counter()
        height, width = photo.shape[:2]
        small = page_size(height, width, SIDE)
        scene = predict_scene(self.model, photo if small == (height, width) else resize(photo, *small))
        if self.refine:
            scene = refine_scene(scene, self.refine, RefineOptions(backend=self.backend))
        scene = replace(scene, gaussians=scene.gaussians.detach().sort_by_depth())
        return Exhibit(scene, printable(name), (height, width), time.perf_counter() - begin, self)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One photograph taken apart. Its pictures are rendered when they are needed."""

    scene: Scene  # with its photograph; the Gaussians are sorted, the nearest first
    name: str  # of the photograph's file, in one line
    size: tuple[int, int]  # height and width of the original picture in pixels
    seconds: float  # duration of the prediction
    workshop: Workshop

    def nearest(self, k: int) -> tuple[np.ndarray, float]:
        """Render the nearest `k` Gaussians on white, uint8 RGB `[H, W, 3]`, and return also the PSNR in dB."""
        part = replace(self.scene, gaussians=self.scene.gaussians.select(slice(k)), photo=None)
        picture = part.picture(backend=self.workshop.backend)
        assert self.scene.photo is not None
        return picture, psnr(picture.astype(np.float32) / 255, self.scene.photo.astype(np.float32) / 255)

    def edges(self, name: str) -> np.ndarray:
        """Return one of `EDGES` as dark lines on white, uint8 RGB `[H, W, 3]`."""
        readout, _, count = name.partition("@")
        layers = [int(count)] if count else None
        found = self.scene.edges("layers" if count else readout, layers=layers, backend=self.workshop.backend)
        return ink(found.strength, self.scene.height, self.scene.width)

    def figure(self) -> tuple[np.ndarray, float]:
        """Return the photograph with its background faded, uint8 RGB `[H, W, 3]`, and the share of the foreground."""
        mask = self.scene.mask(backend=self.workshop.backend).mask
        return overlay(self.scene.picture(), mask), float(mask.mean())

    def layers(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Render small pictures of the depth groups alone on white, nearest first, and the depth map in colours."""
        small = self.scene.resized(*panel_size(self.scene.height, self.scene.width, side=_LAYER_SIDE))
        count = min(LAYERS, self.scene.k)
        rendered = render_layers(small, [], count, backend=self.workshop.backend)
        depth, alpha = rendered.depth.cpu().numpy(), rendered.alpha.cpu().numpy()
        alone = over(rendered.layers, rendered.layer_alphas, torch.ones(3))
        return list(alone), depth_colors(depth, alpha, *depth_range(depth, alpha))

    def ply(self) -> bytes:
        """Return the content of a `.ply` file of the Gaussians for 3-D viewers; its temporary file is removed."""
        with TemporaryDirectory(prefix="gmae-tools-") as folder:
            path = Path(folder) / "scene.ply"
            write(path, self.scene)
            return path.read_bytes()

    def page(self) -> bytes:
        """Return the page that `gmae-tools view` writes, in UTF-8."""
        request = PageRequest(
            self.workshop.checkpoint, min(LAYERS, self.scene.k), self.workshop.refine, self.workshop.backend
        )
        return render_page(self.scene, request, self.name).encode("utf-8")


def read_dropped(data: str, name: str, max_pixels: int | None = None) -> np.ndarray:
    """Decode a photograph from a visitor (its file in base 64), uint8 RGB `[H, W, 3]`; see `images.open_image`.

    Raises:
        GmaeToolsError: it is too large, damaged or not a picture; the message begins with the name of the file.
    """
    try:
        if len(data) > MOST_BYTES * 4 // 3 + 4:
            raise GmaeToolsError(f"more than {MOST_BYTES // 1_000_000} MB; make it smaller first")
        content = b64decode(data, validate=True)
        if not content:
            raise GmaeToolsError("the file is empty")
        with open_image(io.BytesIO(content), max_pixels=max_pixels, side=SIDE) as image:
            return to_rgb(image)
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{printable(name)}: {error}") from None
    except ValueError:  # of base 64
        raise GmaeToolsError(f"{printable(name)}: it did not arrive whole; drop it again") from None


def encoded(picture: np.ndarray, *, lines: bool = False) -> bytes:
    """Encode a picture, uint8 RGB `[H, W, 3]`, as JPEG in a few milliseconds; `lines` on white without loss, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png" if lines else "jpeg", quality=90, compress_level=3)
    return buffer.getvalue()
