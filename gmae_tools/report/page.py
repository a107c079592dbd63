"""An interactive HTML page of one scene, which shows its layers in any browser without a network.

The page contains the scripts and styles of `assets/`, the pictures, and the splats, which the browser composites by the
rules of the renderer. Its content security policy allows nothing else.
"""

from __future__ import annotations

import html
import io
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import torch
from PIL import Image, ImageColor

from gmae_tools.camera import Splats
from gmae_tools.gaussians import Gaussians
from gmae_tools.report.contact_sheet import panel_size
from gmae_tools.report.edges import darkness
from gmae_tools.report.figures import COVERED, NO_DEPTH, PALETTE, PAPER, depth_range, depth_scale
from gmae_tools.report.web import asset, data_uri, encodable, policy, to_base64
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend
from gmae_tools.splatting.rules import ALPHA_MAX, CUTOFF, TILE, TRANSMITTANCE_MIN
from gmae_tools.system.files import atomic_path
from gmae_tools.zeroshot.names import HIERARCHY
from gmae_tools.zeroshot.page_content import page_content

# Rows of the table of numbers, which has a column for each Gaussian: its splat (centre in px, conic in 1/px^2, distance
# from the camera), and numbers that are only displayed.
FIELDS = (
    "x", "y", "a", "b", "c", "opacity", "red", "green", "blue", "depth",
    "scale_0", "scale_1", "scale_2", "quat_w", "quat_x", "quat_y", "quat_z",
)  # fmt: skip
RULES = {"alphaMax": ALPHA_MAX, "cutoff": CUTOFF, "transmittanceMin": TRANSMITTANCE_MIN, "tile": TILE}
SIDE = 800  # px, longest side of the pictures on the page
MOST_SPLATS = 20_000  # on the page, which take 2 MB; larger sets are simplified
EDGE_COLOR, FOREGROUND_COLOR = PALETTE[1], PALETTE[4]

_SCRIPTS = ("splats.js", "webgl.js", "page.js")
_EDGE_LEVELS = 16  # levels of the strength of edges, which take half a byte per pixel
_GROUND_COVER, _LINE = 0.65, 1 / 400  # opacity over the ground; width of the outline, of the longer side
_QUALITY = 88  # of the photograph as WebP


@dataclass(frozen=True)
class PageRequest:
    """What a page shows."""

    checkpoint: str  # or another source of the Gaussians
    layers: int = 8  # number N of depth groups that is selected at first
    refine: int = 0  # number of steps by which the prediction was refined
    backend: Backend = "auto"  # for depth, edges and foreground
    side: int = SIDE  # longest side of the pictures in px; smaller photographs keep their size


def write_page(scene: Scene, request: PageRequest, path: Path, name: str) -> int:
    """Write a page into a folder that exists, whole or not at all; returns its size in bytes.

    The page shows the rendered picture if the scene has no photograph, and `name` as the name of the picture.
    """
    page = render_page(scene, request, name).encode("utf-8")
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def render_page(scene: Scene, request: PageRequest, name: str) -> str:
    """The page as text, which is the same for the same input."""
    height, width = page_size(scene.height, scene.width, request.side)
    content = page_content(scene.resized(height, width), HIERARCHY, most=MOST_SPLATS, backend=request.backend)
    style = asset("theme.css") + _filled("page.css", edge_color=EDGE_COLOR, figure_color=FOREGROUND_COLOR)
    script = "\n".join(asset(file) for file in _SCRIPTS)
    near, far = depth_range(content.depth, content.alpha)
    data: dict[str, object] = {
        "checkpoint": request.checkpoint,
        "k": content.gaussians.k,
        "layers": request.layers,
        "width": width,
        "height": height,
        "distance": scene.camera.distance,
        "centre": [scene.camera.cx, scene.camera.cy],
        "depthScale": {
            "near": near, "far": max(far, near + 1e-6), "colors": to_base64(depth_scale().tobytes()),
            "none": NO_DEPTH, "covered": COVERED,
        },  # ends and colours of the scale of expected depth, and the colour of pixels without depth
        "rules": RULES,
        "fields": FIELDS,
        "table": to_base64(pack(content.gaussians, content.splats).tobytes()),
    }  # fmt: skip
    edges = {n: darkness(crests) for n, crests in content.edges.items()}
    return _filled(
        "page.html",
        policy=policy(style, script),
        name=_escape(name),
        caption=_escape(_caption(scene, content.gaussians.k, request)),
        style=style,
        script=script,
        data=_escape_json(data),
        photo=_picture(Image.fromarray(content.picture), "webp", quality=_QUALITY),
        overlays="\n      ".join(
            [*(_edge_layer(n, strength) for n, strength in edges.items()), _foreground_layer(content.foreground)]
        ),
        edge_options="".join(f"<option{' selected' * (n == request.layers)}>{n}</option>" for n in edges),
        edges_disabled="" if edges else " disabled",
        notes=_escape(_NOTES),
        width=str(width),
        height=str(height),
        k=str(content.gaussians.k),
        layers=str(request.layers),
    )


_NOTES = "Edges and figure are computed from all Gaussians, not from those chosen above. z grows away from the viewer."


def page_size(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """Height and width, at least 1, of the pictures on the page of a photograph of `height` x `width` px."""
    return panel_size(height, width, side=min(side, max(height, width)))


def pack(gaussians: Gaussians, splats: Splats) -> np.ndarray:
    """The numbers of one set as the renderer gets them, little-endian float32 `[len(FIELDS), K]`; see `FIELDS`."""
    splat = splats.means, splats.conics, splats.opacities[..., None], splats.colors, splats.depths[..., None]
    rotations = torch.nn.functional.normalize(gaussians.quats, dim=-1)
    table = torch.cat([*splat, gaussians.scales, rotations], -1)[0].T.cpu().numpy()
    return np.ascontiguousarray(table, "<f4")


def _caption(scene: Scene, shown: int, request: PageRequest) -> str:
    refined = f", refined in {request.refine} steps" if request.refine else ""
    fewer = f", joined to {shown:,} for this page" if shown < scene.k else ""
    size = f"{'picture' if scene.photo is None else 'photograph'} of {scene.width} × {scene.height} px"
    return f"{request.checkpoint}, K = {scene.k} Gaussians{refined}{fewer}; {size}"


# --- pictures ----------------------------------------------------------------------------------------


def _edge_layer(layers: int, strength: np.ndarray) -> str:
    """An HTML element that shows edges `[H, W]` in [0, 1]; stronger edges are less transparent."""
    levels = np.rint(strength * (_EDGE_LEVELS - 1)).astype(np.uint8)
    shades = [(EDGE_COLOR, level / (_EDGE_LEVELS - 1)) for level in range(_EDGE_LEVELS)]
    source = _stencil(levels, shades)
    return f'<img class="edges" data-layers="{layers}" src="{source}" alt="Edges at l@{layers}" hidden>'


def _foreground_layer(mask: np.ndarray) -> str:
    """An HTML element that outlines the foreground of a mask `[H, W]` and covers the ground."""
    from scipy import ndimage

    outline = ndimage.binary_dilation(mask, iterations=max(1, round(_LINE * max(mask.shape)))) & ~mask
    levels = np.where(outline, 2, ~mask).astype(np.uint8)
    shades = [("#000000", 0.0), (f"rgb{PAPER}", _GROUND_COVER), (FOREGROUND_COLOR, 1.0)]
    return f'<img class="figure" id="figure" src="{_stencil(levels, shades)}" alt="Figure and ground" hidden>'


def _stencil(levels: np.ndarray, shades: list[tuple[str, float]]) -> str:
    """A PNG as a data URI, given the number of the shade of each pixel; a shade is a colour and an opacity."""
    image = Image.fromarray(levels, "P")
    image.putpalette([channel for color, _ in shades for channel in ImageColor.getrgb(color)])
    return _picture(image, "png", transparency=bytes(round(255 * opacity) for _, opacity in shades))


def _picture(image: Image.Image, form: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return data_uri(buffer.getvalue(), f"image/{form}")


# --- text --------------------------------------------------------------------------------------------


def _filled(file: str, /, **values: str) -> str:
    """The text of a file in `assets/`, in which `$name` is replaced by the value of that name."""
    return Template(asset(file)).substitute(values)


def _escape(text: str) -> str:
    """Text with the special characters of HTML escaped."""
    return html.escape(encodable(text))


def _escape_json(value: object) -> str:
    """JSON that can stand in a script element, because it contains no `<`."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
