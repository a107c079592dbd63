"""The files that `gmae-tools layers` writes for a scene: pictures, a contact sheet, Gaussians, a page."""

from __future__ import annotations

import re
from collections import deque
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
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet
from gmae_tools.report.figures import depth_colors, depth_range
from gmae_tools.report.tables import Row
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend
from gmae_tools.system.png import PngWriter, png_writer
from gmae_tools.zeroshot.layers import (
    LayerPictures,
    PrefixScore,
    PrefixScores,
    layer_sizes,
    layer_strips,
    over,
    render_layers,
    score_prefixes,
)

# Columns of the table with their decimals; only tables of refined Gaussians have `psnr_before`.
COLUMNS = {"image": None, "k": None, "psnr_before": 2, "psnr": 2, "ssim": 4, "coverage": 4}

# Grey levels behind the Gaussians. The sheet shows transparent pictures on white, on which they are measured, too.
BACKGROUNDS = {"white": 1.0, "black": 0.0, "transparent": 1.0}

_PANEL, _NARROWEST_PANEL = 240, 24  # longest side of a picture on the sheet in px, and the least one of any
_OWN_FILES = re.compile(r"(first_(\d+|all|[\d.]+pct)|layer_\d+)\.png|view\.html")
_PAGE = "view.html"

Strips = Iterable[tuple[slice, LayerPictures]]


@dataclass(frozen=True)
class LayersRequest:
    """Which pictures to write."""

    ks: Mapping[str, int]  # numbers of nearest Gaussians to render together, by their names ("32", "10%", "all")
    layers: int  # number of depth groups to render, each alone
    background: str  # a name in `BACKGROUNDS`
    checkpoint: str  # or another source of the Gaussians, for the sheet
    backend: Backend = "auto"
    refine: int = 0  # number of steps by which the prediction was refined
    html: bool = False  # whether to write a page, too

    @property
    def columns(self) -> dict[str, int | None]:
        """The columns of its table; see `COLUMNS`."""
        return {name: decimals for name, decimals in COLUMNS.items() if self.refine or name != "psnr_before"}

    @property
    def transparent(self) -> bool:
        """Whether pictures are written with their alpha."""
        return self.background == "transparent"

    @property
    def color(self) -> Tensor:
        """RGB `[3]` behind the Gaussians."""
        return torch.full((3,), BACKGROUNDS[self.background])

    def first_files(self) -> list[str]:
        """File names of the first-K pictures."""
        return [f"first_{name.zfill(3).replace('%', 'pct')}.png" for name in self.ks]

    def layer_files(self) -> list[str]:
        """File names of the pictures of layers, nearest first."""
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
    """Write all files of one scene, or none of them. The memory that is needed does not grow with its height.

    The files are `first_<k>.png`, `layer_<n>.png` (1 is the nearest) and `depth.png` in the size of the scene,
    `sheet.png`, `gaussians.npz` (nearest first, with the camera), and `view.html` if requested. First-K pictures,
    layers and the page of an earlier request are removed.

    Args:
        scene: The scene, refined or not, with or without photograph.
        request: Which pictures to write.
        folder: Folder of the files, made if missing.
        image: Path of the photograph or of the file of Gaussians, for the table and the sheet.
        progress: Function that wraps the iterator over strips of rows.
        before: The scene before it was refined; None if it was not.

    Returns:
        A row of `request.columns` for each k: the scores of its picture (`PrefixScore`).
    """
    scene = replace(scene, gaussians=scene.gaussians.sort_by_depth())
    ks = list(request.ks.values())
    scale = _PANEL / max(scene.height, scene.width)
    size = (max(_NARROWEST_PANEL, round(side * scale)) for side in (scene.height, scene.width))
    small = render_layers(scene.resized(*size), ks, request.layers, backend=request.backend)
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    with ExitStack() as files, ThreadPoolExecutor(threads) as pool:
        output = _Output(files, scene, request, folder, depth_range(*_depth_and_alpha(small)))
        strips = layer_strips(scene, ks, request.layers, backend=request.backend)
        for rows, strip in progress(strips):
            jobs = output.jobs(rows, strip)
            deque((pool.map if threads > 1 else map)(lambda job: job(), jobs), maxlen=0)
        scores = dict(zip(request.ks, output.scores.compute(), strict=True))
        table: list[Row] = [{"image": image, "k": int(k) if k.isdigit() else k, **vars(s)} for k, s in scores.items()]
        if before is not None:
            predicted = score_prefixes(before, ks, request.color, backend=request.backend)
            table = [{**row, "psnr_before": score.psnr} for row, score in zip(table, predicted, strict=True)]
        title, refined = Path(image).name, f", refined in {request.refine} steps" if request.refine else ""
        subtitle = f"{request.checkpoint}, K = {scene.k:,} Gaussians{refined}"
        captions = {f"{name} ({request.ks[name]:,})" if "%" in name else name: each for name, each in scores.items()}
        sheet = layers_sheet(title, subtitle, scene, small, captions, color=request.color)
        files.enter_context(png_writer(folder / "sheet.png", sheet.shape[0], sheet.shape[1], 3)).write(sheet)
        if request.html:
            from gmae_tools.report.page import PageRequest, write_page

            page = PageRequest(request.checkpoint, request.layers, request.refine, request.backend)
            write_page(scene, page, folder / _PAGE, Path(image).name)
        npz.write(folder / "gaussians.npz", scene.gaussians, Viewpoint(scene.camera, scene.height, scene.width))
    keep = {*request.first_files(), *request.layer_files(), *([_PAGE] if request.html else [])}
    for path in folder.iterdir():
        if _OWN_FILES.fullmatch(path.name) and path.name not in keep:
            path.unlink()
    return table


class _Output:
    """Writes the pictures of one scene strip by strip, and measures their scores.

    The pictures appear when `files` closes without an exception; `depth_range` are the ends of the colour scale.
    """

    def __init__(
        self, files: ExitStack, scene: Scene, request: LayersRequest, folder: Path, depth_range: tuple[float, float]
    ) -> None:
        def new_file(name: str, channels: int) -> PngWriter:
            return files.enter_context(png_writer(folder / name, scene.height, scene.width, channels))

        self.request, self.depth_range = request, depth_range
        names = [*request.first_files(), *request.layer_files()]
        self.pictures = [new_file(name, 4 if request.transparent else 3) for name in names]
        self.depth = new_file("depth.png", 3)
        self.scores = PrefixScores(scene, len(request.ks))

    def jobs(self, rows: slice, strip: LayerPictures) -> list[Callable[[], None]]:
        """Independent jobs that process the next strip of rows."""
        color = self.request.color
        firsts = over(strip.firsts, strip.first_alphas, color)
        layers = strip.layers, strip.layer_alphas
        if self.request.transparent:
            visible = [*straight_alpha(strip.firsts, strip.first_alphas), *straight_alpha(*layers)]
        else:
            visible = [*firsts, *over(*layers, color)]
        depth = depth_colors(*_depth_and_alpha(strip), *self.depth_range)
        files = zip([*self.pictures, self.depth], [*visible, depth], strict=True)
        writing = [partial(file.write, picture) for file, picture in files]
        return [*writing, *self.scores.jobs(rows, firsts, strip.first_alphas)]


def straight_alpha(images: Tensor, alphas: Tensor) -> np.ndarray:
    """Premultiplied pictures as uint8 RGBA `[n, H, W, 4]` with straight alpha, which PNG requires."""
    straight = torch.cat([images / alphas.clamp_min(1e-6), alphas], 1)
    return (straight * 255 + 0.5).clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _depth_and_alpha(pictures: LayerPictures) -> tuple[np.ndarray, np.ndarray]:
    """Expected depth and coverage, `[H, W]` each."""
    return pictures.depth.cpu().numpy(), pictures.alpha.cpu().numpy()


def layers_sheet(
    title: str, subtitle: str, scene: Scene, small: LayerPictures, scores: Mapping[str, PrefixScore], *, color: Tensor
) -> np.ndarray:
    """All pictures on one sheet, as in Figures 6 and 7 of the paper: first-K pictures above, layers below.

    Args:
        title, subtitle: Title and subtitle of the sheet.
        scene: The scene, its Gaussians nearest first.
        small: Its pictures in a smaller size.
        scores: Scores of the first-K pictures, by their names.
        color: Colour behind the Gaussians, RGB `[3]`.

    Returns:
        uint8 RGB `[H, W, 3]`.
    """
    count = len(small.layers)
    sizes = layer_sizes(scene.k, count)
    each = f"{sizes[-1]:,}" if sizes[0] == sizes[-1] else f"{sizes[-1]:,} to {sizes[0]:,}"
    depth_and_alpha = _depth_and_alpha(small)
    depth = depth_colors(*depth_and_alpha, *depth_range(*depth_and_alpha))
    firsts = over(small.firsts, small.first_alphas, color)
    first_row = []
    for picture, (name, score) in zip(firsts, scores.items(), strict=True):
        fidelity = None if score.psnr is None else f"{score.psnr:.1f} dB, SSIM {score.ssim:.2f}"
        first_row.append(Panel(picture, f"K = {name}", fidelity or f"coverage {score.coverage:.2f}"))
    if scene.photo is not None:
        photo = resize(scene.photo, *depth.shape[:2])
        first_row.insert(0, Panel(photo, "photograph", f"{scene.width} × {scene.height} px"))
    first_row.append(Panel(depth, "depth", depth_scale=True))
    layers = over(small.layers, small.layer_alphas, color)
    panels = map(Panel, layers, *_layer_captions(scene.gaussians, sizes))
    heading = f"N = {count} depth layers of {each} Gaussians, each alone"
    sections = [Section("The nearest K Gaussians", first_row), Section(heading, list(panels))]
    return contact_sheet(title, subtitle, sections)


def _layer_captions(gaussians: Gaussians, sizes: list[int]) -> tuple[list[str], list[str]]:
    """Number of each layer, and the depths of its nearest and its farthest centre, in scene units."""
    captions = [str(number + 1) for number in range(len(sizes))]
    if len(sizes) > 1:
        captions[0] += " (nearest)"
        captions[-1] += " (farthest)"
    depths = gaussians.means[0, :, 2].split(sizes)
    return captions, [f"z = {_signed(group[0])} to {_signed(group[-1])}" for group in depths]


def _signed(value: Tensor) -> str:
    """Two decimals with a typographic minus; zero has no sign."""
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "−")
