"""What the methods of a `Scene` return: arrays, with pictures of them that a notebook shows."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
import webbrowser
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from gmae_tools.report.contact_sheet import panel_size
from gmae_tools.report.density import plot_centres, plot_scales
from gmae_tools.report.edges import ink
from gmae_tools.report.layers import layers_sheet
from gmae_tools.report.page import PageRequest, write_page
from gmae_tools.report.segment import overlay
from gmae_tools.report.web import data_uri
from gmae_tools.splatting import Backend
from gmae_tools.zeroshot import boxes as boxes_module
from gmae_tools.zeroshot.density import Points, ScaleByDepth, density_map, scale_by_depth, summary
from gmae_tools.zeroshot.figure_ground import foreground_mask
from gmae_tools.zeroshot.layers import LayerPictures, PrefixScore, PrefixScores, over, render_layers
from gmae_tools.zeroshot.names import LAYERS, MANY, PREFIX_SHARES, PREFIXES
from gmae_tools.zeroshot.views import Views

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from supervision import Detections

    from gmae_tools.scene import Scene

_SIDE = 264  # px, longest side of a picture on a sheet
_PAGES = "gmae-tools-page-"  # prefix of the names of the folders that `show` makes
_KEPT = 24 * 60 * 60  # seconds for which these folders are kept at least


class Shown(ABC):
    """A result with a sheet that shows it in one picture."""

    @abstractmethod
    def sheet(self) -> Image.Image:
        """Return the result as a picture; `sheet().save("sheet.png")` writes it."""

    def _repr_html_(self) -> str:
        return _html(self.sheet(), str(self))


@dataclass(frozen=True, repr=False)
class Layers(Shown):
    """A scene taken apart into depth layers.

    Attributes:
        scene: the scene, with its Gaussians sorted, the nearest first.
        ks: numbers of nearest Gaussians that are rendered together.
        pictures: the rendered pictures, in the size of the scene.
        scores: the scores of the picture on white for each of `ks`.
    """

    scene: Scene
    ks: tuple[int, ...]
    pictures: LayerPictures
    scores: tuple[PrefixScore, ...]

    def __repr__(self) -> str:
        return f"Layers(k={list(self.ks)}, n={len(self.pictures.layers)}, {self.scene.width} x {self.scene.height} px)"

    def sheet(self) -> Image.Image:
        """Return the contact sheet that `gmae-tools layers` writes."""
        small = self.scene.resized(*panel_size(self.scene.height, self.scene.width, side=_SIDE))
        pictures = render_layers(small, self.ks, len(self.pictures.layers))
        scores = {str(k): score for k, score in zip(self.ks, self.scores, strict=True)}
        subtitle = f"K = {self.scene.k:,} Gaussians"
        return Image.fromarray(layers_sheet("Depth layers", subtitle, self.scene, pictures, scores, color=_white()))


def layers(scene: Scene, ks: Sequence[int] | None, count: int, backend: Backend) -> Layers:
    """Render the nearest Gaussians and the depth groups of a scene; `Scene.layers` documents it."""
    scene = replace(scene, gaussians=scene.gaussians.detach().sort_by_depth())
    if ks is None:
        shares = [round(scene.k * share / 100) for share in PREFIX_SHARES]
        ks = [*(shares if scene.k > MANY else [k for k in PREFIXES if k < scene.k]), scene.k]
    chosen = tuple(ks)
    pictures = render_layers(scene, chosen, count, backend=backend)
    scores = PrefixScores(scene, len(chosen))
    firsts = over(pictures.firsts, pictures.first_alphas, _white())
    for job in scores.jobs(slice(0, scene.height), firsts, pictures.first_alphas):
        job()
    return Layers(scene, chosen, pictures, tuple(scores.compute()))


@dataclass(frozen=True, repr=False)
class EdgeMap(Shown):
    """Edges of a scene; `numpy.asarray` gives the map.

    Attributes:
        strength: float32 `[H, W]` in [0, 1], thinned to crests.
        readout: name of the readout, such as `l@16` or `regions`.
    """

    strength: np.ndarray
    readout: str

    def __repr__(self) -> str:
        return f"EdgeMap({self.readout}, {self.strength.shape[1]} x {self.strength.shape[0]} px)"

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.strength, dtype, copy=copy is not False)

    def sheet(self) -> Image.Image:
        """Return the edges as dark lines on white, in the size of the map."""
        return Image.fromarray(ink(self.strength, *self.strength.shape))


def edges(scene: Scene, readout: str, layers: Sequence[int] | None, backend: Backend) -> EdgeMap:
    """Read the edges of a scene; `Scene.edges` documents it."""
    layers = (LAYERS,) if layers is None else layers
    name = f"l@{','.join(map(str, layers))}" if readout == "layers" else readout
    return EdgeMap(Views.of(scene, backend=backend).edges(readout, layers), name)


@dataclass(frozen=True, repr=False)
class Foreground(Shown):
    """Foreground and background of a scene; `numpy.asarray` gives the mask.

    Attributes:
        scene: the scene.
        probability: probability of foreground, float32 `[H, W]` in [0, 1].
    """

    scene: Scene
    probability: np.ndarray

    def __repr__(self) -> str:
        share = f"{self.mask.mean():.0%} of {self.scene.width} x {self.scene.height} px"
        return f"Foreground({share}, {len(self.boxes)} box{'' if len(self.boxes) == 1 else 'es'})"

    @cached_property
    def mask(self) -> np.ndarray:
        """The foreground, bool `[H, W]`: where the probability is above 0.5."""
        return foreground_mask(self.probability)

    @cached_property
    def boxes(self) -> np.ndarray:
        """The boxes of the mask's pieces, largest first, int64 `[n, 4]`: x0, y0, x1, y1 in pixels, half-open."""
        return boxes_module.boxes(self.mask)

    def to_supervision(self) -> Detections:
        """Return the pieces of the mask as `supervision.Detections`; this needs the extra `supervision`."""
        from gmae_tools.adapters.supervision import detections

        return detections(self.mask, self.probability)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.mask, dtype, copy=copy is not False)

    def sheet(self) -> Image.Image:
        """Return the picture with the background faded, the foreground outlined, and the largest box."""
        return Image.fromarray(overlay(self.scene.picture(), self.mask, self.boxes[0] if len(self.boxes) else None))


def foreground(scene: Scene, method: str, backend: Backend) -> Foreground:
    """Tell the foreground from the background; `Scene.mask` documents it."""
    return Foreground(scene, Views.of(scene, backend=backend).foreground(method))


@dataclass(frozen=True, repr=False)
class Density(Shown):
    """Where the Gaussians of a scene lie, and how large they are.

    Attributes:
        scene: the scene.
        points: centre, scale and opacity of each Gaussian.
    """

    scene: Scene
    points: Points

    def __repr__(self) -> str:
        return f"Density({', '.join(f'{name} {value:.3f}' for name, value in self.summary.items())})"

    @cached_property
    def map(self) -> np.ndarray:
        """The opacity in each cell of the picture, relative to the mean of all cells, `[cells, cells]`."""
        return density_map(self.points)

    @cached_property
    def scales(self) -> ScaleByDepth:
        """The scales within groups of neighbouring depths."""
        return scale_by_depth(self.points)

    @cached_property
    def summary(self) -> dict[str, float]:
        """The mean opacity, the weighted medians of scale and depth, and their rank correlation."""
        return summary(self.points)

    def figures(self) -> tuple[Figure, Figure]:
        """Return matplotlib figures of the centres on the picture and of the scales against depth."""
        caption = f"K = {self.scene.k:,} Gaussians"
        centres = plot_centres(self.points, self.scene.picture(), caption)
        return centres, plot_scales(self.points, self.scales, caption, dots=True)

    def sheet(self) -> Image.Image:
        """Return both figures side by side."""
        first, second = map(_as_picture, self.figures())
        page = Image.new("RGB", (first.width + second.width, max(first.height, second.height)), "white")
        page.paste(first, (0, 0))
        page.paste(second, (first.width, 0))
        return page


def show(scene: Scene, backend: Backend) -> Path:
    """Write the page of a scene into a folder for temporary files, and open it; `Scene.show` documents it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PAGES}*"):
        with suppress(OSError):  # the folder belongs to another user, or has been removed
            if time.time() - folder.stat().st_mtime > _KEPT:  # browsers may read a page after its process has ended
                shutil.rmtree(folder, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=_PAGES)) / "scene.html"
    write_page(scene, PageRequest("scene", layers=min(8, scene.k), backend=backend), path, "scene")
    webbrowser.open(path.as_uri())
    return path


def scene_html(scene: Scene) -> str:
    """Return the HTML that a notebook shows: the rendered picture, beside the photograph if there is one."""
    height, width = panel_size(scene.height, scene.width, side=_SIDE)
    small = scene.resized(height, width)
    pictures = [small.photo] if small.photo is not None else []
    pictures.append(replace(small, photo=None).picture())
    return _html(Image.fromarray(np.concatenate(pictures, 1)), repr(scene))


def _html(picture: Image.Image, text: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return f'<img src="{data_uri(buffer.getvalue(), "image/png")}" alt="{text}">'


def _white() -> torch.Tensor:
    return torch.ones(3)


def _as_picture(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer).convert("RGB")
