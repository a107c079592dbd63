"""The style that all figures share: colours, type, and the colour scale of depth."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFont

from gmae_tools.images import printable
from gmae_tools.system.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of Okabe and Ito (2008), which colour-blind readers can distinguish, in the order in which figures use them.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")

# Widths of a column and of a page in inches; in figures of this width, type has the size that is usual in papers.
COLUMN, PAGE = 3.3, 6.9

# Settings of Matplotlib; see `style`.
STYLE = {
    "axes.linewidth": 0.6,
    "axes.prop_cycle": f"cycler(color={list(PALETTE)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # embeds fonts, so that text can be selected
    "savefig.dpi": 300,
    "svg.hashsalt": "gmae-tools",  # the same figure gives the same bytes
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}

# RGB colours of pictures that Pillow draws.
INK = (28, 28, 30)
MUTED = (110, 110, 115)
HAIRLINE = (205, 205, 210)
PAPER = (255, 255, 255)
NO_DEPTH = (190, 190, 195)  # a grey, which is not on the depth scale
COVERED = 0.5  # least coverage of a pixel that has a depth

_CAPTION = 6  # height of type in points
_LONGEST_CAPTION = 21  # characters per inch of width

_DEPTH_SCALE = Path(__file__).parent / "assets" / "inferno.png"


def style() -> Any:
    """A context, also usable as a decorator, in which Matplotlib figures have the settings `STYLE`."""
    from matplotlib import rc_context

    return rc_context(STYLE)  # type: ignore[arg-type]  # its keys are literals only in newer versions of Matplotlib


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a Matplotlib figure in the format of the suffix, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def add_caption(figure: Figure, caption: str) -> None:
    """Write a line below a Matplotlib figure; a line that is too long loses its beginning."""
    caption = printable(caption)
    longest = int(_LONGEST_CAPTION * figure.get_figwidth())
    if len(caption) > longest:  # callers put the most important part last
        caption = "…" + caption[1 - longest :]
    color = tuple(value / 255 for value in MUTED)
    figure.supxlabel(caption, fontsize=_CAPTION, color=color, parse_math=False)


def verbatim(name: str) -> str:
    """A name as a Matplotlib label, in which dollars would begin formulas."""
    return printable(name).replace("$", r"\$")


@lru_cache(maxsize=16)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The sans-serif font of Matplotlib for Pillow, `size` px high."""
    package = find_spec("matplotlib")  # found without importing it
    assert package is not None and package.origin is not None
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / name), size)


@lru_cache(maxsize=1)
def depth_scale() -> np.ndarray:
    """Colours from near (bright) to far (dark), uint8 RGB `[256, 3]`: Matplotlib's inferno, which the asset holds.

    The colormap is perceptually uniform, safe for colour-blind readers, and the usual one for depth.
    """
    return np.asarray(Image.open(_DEPTH_SCALE))[0].copy()


def depth_range(depth: np.ndarray, alpha: np.ndarray) -> tuple[float, float]:
    """Near and far end of the colour scale of a depth map `[H, W]` in any unit.

    They are the 0.01 and 0.99 quantiles of the pixels whose coverage `alpha` (`[H, W]` in [0, 1]) is one half or more.
    """
    depths = depth[alpha >= COVERED]
    if not len(depths):
        return 0.0, 1.0
    near, far = np.quantile(depths, [0.01, 0.99]).tolist()
    return near, far


def depth_colors(depth: np.ndarray, alpha: np.ndarray, near: float, far: float) -> np.ndarray:
    """A depth map as a picture, uint8 RGB `[H, W, 3]`: near is bright, and pixels covered by less than half are grey.

    Depths beyond `near` and `far` have the colours of these ends of the scale; see `depth_range`.
    """
    position = (depth - near) * (255 / max(far - near, 1e-6))
    colors = depth_scale()[np.clip(position, 0, 255).astype(np.uint8)]
    colors[alpha < COVERED] = NO_DEPTH
    return colors
