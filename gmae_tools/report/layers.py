"""Everything `gmae-tools layers` writes about one photograph."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmae_tools.formats import npz
from gmae_tools.formats.viewpoint import Viewpoint
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import resize
from gmae_tools.metrics.likeness import Likeness
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet
from gmae_tools.report.figures import depth_colors, depth_range
from gmae_tools.report.page import PageRequest, write_page
from gmae_tools.report.tables import Row
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend
from gmae_tools.system.png import PngWriter, png_writer
from gmae_tools.zeroshot.layers import LayerPictures, layer_sizes, layer_strips, over, render_layers

# Columns of the table, and the decimals shown; `psnr_before` is there only for refined Gaussians.
COLUMNS = {"image": None, "k": None, "psnr_before": 2, "psnr": 2, "ssim": 4, "coverage": 4}

# Grey levels behind the Gaussians; transparent pictures are shown on the sheet and measured on white.
BACKGROUNDS = {"white": 1.0, "black": 0.0, "transparent": 1.0}

_PANEL, _NARROWEST_PANEL = 240, 24  # longest and least side of a picture on the sheet in px
_OWN_FILES = re.compile(r"(first_(\d+|all)|layer_\d+)\.png|view\.html")
_PAGE = "view.html"

Strips = Iterable[tuple[slice, LayerPictures]]


@dataclass(frozen=True)
class LayersRequest:
    """What to draw.

    Attributes:
        ks: numbers of nearest Gaussians to draw together, by their names in the table (`"32"`, `"all"`).
        layers: number N of depth groups to draw alone.
        background: one of `BACKGROUNDS`.
        checkpoint: its name, for the sheet.
        backend: that draws.
        refine: steps by which the prediction is refined.
        html: whether a page is written too.
    """

    ks: Mapping[str, int]
    layers: int
    background: str
    checkpoint: str
    backend: Backend = "auto"
    refine: int = 0
    html: bool = False

    @property
    def columns(self) -> dict[str, int | None]:
        """Those of `COLUMNS` that its table has."""
        return {name: decimals for name, decimals in COLUMNS.items() if self.refine or name != "psnr_before"}

    @property
    def transparent(self) -> bool:
        """Whether pictures keep their alpha."""
        return self.background == "transparent"

    @property
    def color(self) -> Tensor:
        """RGB `[3]` behind the Gaussians."""
        return torch.full((3,), BACKGROUNDS[self.background])

    def first_files(self) -> list[str]:
        """Names of the first-K pictures."""
        return [f"first_{name.zfill(3)}.png" for name in self.ks]

    def layer_files(self) -> list[str]:
        """Names of the layers' pictures, nearest first."""
        digits = max(2, len(str(self.layers)))
        return [f"layer_{number:0{digits}}.png" for number in range(1, self.layers + 1)]


def write_layers(
    scene: Scene,
    request: LayersRequest,
    folder: Path,
    image: str,
    *,
    progress: Callable[[Strips], Strips] = iter,
    before: Scene | None = None,
) -> list[Row]:
    """Write all pictures of one photograph, all of them or none; memory does not grow with its height.

    `first_<k>.png`, `layer_<n>.png` (1 is the nearest) and `depth.png` in the photograph's own size,
    `sheet.png`, `gaussians.npz` (nearest first, with the camera), and `view.html` if asked for. First-K and layer
    pictures and the page of an earlier request go.

    Args:
        scene: with its photograph, perhaps refined.
        folder: made if missing.
        image: the photograph's name in the table and on the sheet.
        progress: wraps the strips of rows as they are drawn.
        before: the scene before it was refined, if it was.

    Returns:
        A row of `request.columns` for each k. PSNR and SSIM compare the 8-bit pictures with the photograph; coverage
        is the mean alpha.
    """
    scene, photo = replace(scene, gaussians=scene.gaussians.sort_by_depth()), scene.photo
    assert photo is not None
    ks = list(request.ks.values())
    panel = scene.resized(*_panel_size(scene.height, scene.width))
    small = render_layers(panel, ks, request.layers, backend=request.backend)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files, ThreadPoolExecutor(torch.get_num_threads()) as pool:
        output = _Output(files, photo, request, folder, depth_range(*_depth_and_alpha(small)))
        strips = layer_strips(scene, ks, request.layers, backend=request.backend)
        for rows, strip in progress(strips):
            for done in [pool.submit(job) for job in output.jobs(rows, strip)]:
                done.result()
        table = output.table(image)
        if before is not None:
            psnrs = _prefix_psnrs(before, photo, request)
            table = [{**row, "psnr_before": psnr} for row, psnr in zip(table, psnrs, strict=True)]
        sheet = _sheet(photo, small, scene.gaussians, request, table)
        size = (sheet.shape[0], sheet.shape[1])
        files.enter_context(png_writer(folder / "sheet.png", *size, channels=3)).write(sheet)
        if request.html:
            page = PageRequest(request.checkpoint, request.layers, request.refine, request.backend)
            write_page(scene, page, folder / _PAGE, Path(image).name)
        npz.write(folder / "gaussians.npz", scene.gaussians, Viewpoint(scene.camera, scene.height, scene.width))
    _remove_earlier(folder, {*request.first_files(), *request.layer_files(), *([_PAGE] if request.html else [])})
    return table


def _prefix_psnrs(scene: Scene, photo: np.ndarray, request: LayersRequest) -> list[float]:
    """PSNR of each first-K picture, measured as those that are written."""
    likeness = [Likeness(scene.height, scene.width) for _ in request.ks]
    for rows, strip in layer_strips(scene, list(request.ks.values()), 1, backend=request.backend):
        for each, first in zip(likeness, pixels(over(strip.firsts, strip.first_alphas, request.color)), strict=True):
            each.update(first, photo[rows])
    return [each.compute()[0] for each in likeness]


class _Output:
    """The pictures of one photograph while they are written, and what is measured on the way.

    Args:
        files: the pictures appear when it closes, unless with an exception.
        depth_range: near and far end of the colour scale.
    """

    def __init__(
        self,
        files: ExitStack,
        photo: np.ndarray,
        request: LayersRequest,
        folder: Path,
        depth_range: tuple[float, float],
    ) -> None:
        height, width = photo.shape[:2]

        def new_file(name: str, channels: int) -> PngWriter:
            return files.enter_context(png_writer(folder / name, height, width, channels))

        self.photo, self.request, self.depth_range = photo, request, depth_range
        names = [*request.first_files(), *request.layer_files()]
        self.pictures = [new_file(name, 4 if request.transparent else 3) for name in names]
        self.depth = new_file("depth.png", 3)
        self.likeness = [Likeness(height, width) for _ in request.ks]
        self.covered = torch.zeros(len(request.ks), dtype=torch.float64)

    def jobs(self, rows: slice, strip: LayerPictures) -> list[Callable[[], None]]:
        """Independent pieces of work for the next strip of rows."""
        color = self.request.color
        firsts = pixels(over(strip.firsts, strip.first_alphas, color))
        if self.request.transparent:
            visible = (
                straight_alpha(strip.firsts, strip.first_alphas),
                straight_alpha(strip.layers, strip.layer_alphas),
            )
        else:
            visible = firsts, pixels(over(strip.layers, strip.layer_alphas, color))
        self.covered += strip.first_alphas.double().sum((1, 2, 3)).cpu()
        depth = depth_colors(*_depth_and_alpha(strip), *self.depth_range)
        files = zip([*self.pictures, self.depth], [*visible[0], *visible[1], depth], strict=True)
        return [
            *(partial(file.write, picture) for file, picture in files),
            *(partial(likeness.update, first, self.photo[rows])
              for likeness, first in zip(self.likeness, firsts, strict=True)),
        ]  # fmt: skip

    def table(self, image: str) -> list[Row]:
        """A row for each k, all columns but `psnr_before`, once all strips are done."""
        rows: list[Row] = []
        coverage = self.covered / (self.photo.shape[0] * self.photo.shape[1])
        for name, likeness, covered in zip(self.request.ks, self.likeness, coverage.tolist(), strict=True):
            k = name if name == "all" else int(name)
            psnr, ssim = likeness.compute()
            rows.append({"image": image, "k": k, "psnr": psnr, "ssim": ssim, "coverage": covered})
        return rows


def pixels(images: Tensor) -> np.ndarray:
    """Pictures `[n, C, H, W]` in [0, 1] as uint8 `[n, H, W, C]`."""
    levels = (images * 255 + 0.5).clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def straight_alpha(images: Tensor, alphas: Tensor) -> np.ndarray:
    """Premultiplied pictures as uint8 RGBA `[n, H, W, 4]` with straight alpha, as PNG wants it."""
    return pixels(torch.cat([images / alphas.clamp_min(1e-6), alphas], 1))


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """Gaussians can be drawn at any size: the sheet's pictures are drawn anew at their own."""
    scale = _PANEL / max(height, width)
    return max(_NARROWEST_PANEL, round(height * scale)), max(_NARROWEST_PANEL, round(width * scale))


def _depth_and_alpha(pictures: LayerPictures) -> tuple[np.ndarray, np.ndarray]:
    """Expected depth and coverage, `[H, W]` each."""
    return pictures.depth.cpu().numpy(), pictures.alpha.cpu().numpy()


def _sheet(
    photo: np.ndarray, small: LayerPictures, gaussians: Gaussians, request: LayersRequest, table: list[Row]
) -> np.ndarray:
    """All pictures on one page, as in the paper's Figures 6 and 7: first-K pictures above, layers below."""
    height, width = photo.shape[:2]
    sizes = layer_sizes(gaussians.k, request.layers)
    each = f"{sizes[-1]}" if sizes[0] == sizes[-1] else f"{sizes[-1]} to {sizes[0]}"
    depth_and_alpha = _depth_and_alpha(small)
    depth = depth_colors(*depth_and_alpha, *depth_range(*depth_and_alpha))
    depth_map = Panel(depth, "depth", depth_scale=True)
    photograph = Panel(resize(photo, *depth.shape[:2]), "photograph", f"{width} × {height} px")
    firsts = pixels(over(small.firsts, small.first_alphas, request.color))
    nearest = [
        Panel(picture, f"K = {row['k']}", f"{row['psnr']:.1f} dB, SSIM {row['ssim']:.2f}")
        for picture, row in zip(firsts, table, strict=True)
    ]
    layers = pixels(over(small.layers, small.layer_alphas, request.color))
    refined = f", refined in {request.refine} steps" if request.refine else ""
    return contact_sheet(
        Path(str(table[0]["image"])).name,
        f"{request.checkpoint}, K = {gaussians.k} Gaussians{refined}",
        [
            Section("The nearest K Gaussians", [photograph, *nearest, depth_map]),
            Section(
                f"N = {request.layers} depth layers of {each} Gaussians, each alone",
                [Panel(*panel) for panel in zip(layers, *_layer_captions(gaussians, sizes), strict=True)],
            ),
        ],
    )


def _layer_captions(gaussians: Gaussians, sizes: list[int]) -> tuple[list[str], list[str]]:
    """Number of each layer, and the depths (normalised units) of its nearest and its farthest centre."""
    captions = [str(number + 1) for number in range(len(sizes))]
    if len(sizes) > 1:
        captions[0] += " (nearest)"
        captions[-1] += " (farthest)"
    depths = gaussians.means[0, :, 2].split(sizes)
    return captions, [f"z = {_signed(group[0])} to {_signed(group[-1])}" for group in depths]


def _signed(value: Tensor) -> str:
    """Two decimals with a typographic minus, none before zero."""
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "−")


def _remove_earlier(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if _OWN_FILES.fullmatch(path.name) and path.name not in keep:
            path.unlink()
