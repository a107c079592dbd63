"""Figure and ground as pictures: overlays, cut-outs, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage

from gmae_tools.images import resize
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet, in_box, panel_size
from gmae_tools.report.figures import PALETTE, PAPER

OUTLINE, BOX = PALETTE[4], PALETTE[5]  # of the figure, of its box
_PAPER_SHARE = 0.6  # of the ground's colours in an overlay
_LINE = 1 / 250  # width of lines, of the longer side
_PANEL = 264  # longest side of a picture on the sheet, px
_COMPARED = 180  # the same where two pictures are compared
_CHECKS = 12  # px of the sheet behind a cut-out, a side of a square
_CHECK_COLORS = np.array([[255, 255, 255], [225, 225, 228]], np.uint8)


@dataclass(frozen=True)
class FigureRow:
    """A row of the sheet: its heading, and small pictures uint8 RGB `[H, W, 3]` by their captions."""

    name: str
    pictures: Mapping[str, np.ndarray]


def overlay(photo: np.ndarray, mask: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """The photograph with its ground faded to grey, the figure outlined, and its box; uint8 RGB `[H, W, 3]`."""
    grey = photo.mean(2, keepdims=True)
    faded = (1 - _PAPER_SHARE) * grey + _PAPER_SHARE * np.array(PAPER)
    picture = np.where(mask[..., None], photo, faded).astype(np.uint8)
    width = max(1, round(_LINE * max(mask.shape)))
    outside = ndimage.binary_dilation(mask, iterations=width) & ~mask
    picture[outside] = ImageColor.getrgb(OUTLINE)
    if box is None:
        return picture
    image = Image.fromarray(picture)
    x0, y0, x1, y1 = (int(side) for side in box)
    ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX, width=width)
    return np.asarray(image)


def cutout(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The figure alone, uint8 RGBA `[H, W, 4]`: the ground is transparent."""
    return np.dstack([photo, mask.astype(np.uint8) * 255])


def figure_row(
    name: str, photo: np.ndarray, probability: np.ndarray, mask: np.ndarray, box: np.ndarray | None
) -> FigureRow:
    """A photograph uint8 RGB `[H, W, 3]` with its probability of figure `[H, W]` in [0, 1], mask and box."""
    size = panel_size(*photo.shape[:2], side=_PANEL)
    grey = np.rint(probability * 255).astype(np.uint8)
    pictures = {
        "photograph": photo,
        "probability of figure": np.repeat(grey[..., None], 3, 2),
        "figure and box": overlay(photo, mask, box),
        "cut-out": cutout(photo, mask),
    }
    return FigureRow(name, {caption: _on_checks(resize(picture, *size)) for caption, picture in pictures.items()})


def figure_sheet(title: str, subtitle: str, rows: Sequence[FigureRow]) -> np.ndarray:
    """Draw a sheet, uint8 RGB `[H, W, 3]`: a row of pictures for each photograph."""
    box = _common_box([picture for row in rows for picture in row.pictures.values()])
    sections = [
        Section(row.name, [Panel(in_box(picture, box), caption) for caption, picture in row.pictures.items()])
        for row in rows
    ]
    return contact_sheet(title, subtitle, sections, columns=4)


@dataclass(frozen=True)
class Comparison:
    """A photograph uint8 RGB `[H, W, 3]`, its true mask and the one found, bool `[H, W]` each, and what to note."""

    name: str
    photo: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    note: str


def comparison_sheet(title: str, subtitle: str, items: Sequence[Comparison]) -> np.ndarray:
    """Draw a sheet, uint8 RGB `[H, W, 3]`: two photographs a row, each with the true figure and the one found."""
    drawn = []
    for item in items:
        size = panel_size(*item.photo.shape[:2], side=_COMPARED)
        drawn += [
            (resize(item.photo, *size), item.name, "photograph"),
            (resize(overlay(item.photo, item.truth), *size), "true figure", ""),
            (resize(overlay(item.photo, item.found), *size), "found", item.note),
        ]
    box = _common_box([picture for picture, _, _ in drawn])
    panels = [Panel(in_box(picture, box), caption, note) for picture, caption, note in drawn]
    return contact_sheet(title, subtitle, [Section(f"{len(items)} photographs", panels)], columns=6)


def _common_box(pictures: Sequence[np.ndarray]) -> tuple[int, int]:
    return max(picture.shape[0] for picture in pictures), max(picture.shape[1] for picture in pictures)


def _on_checks(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 `[H, W, 3]` or `[H, W, 4]` on a chequered page, which shows where it is transparent."""
    if picture.shape[2] == 3:
        return picture
    y, x = (np.arange(side) // _CHECKS for side in picture.shape[:2])
    alpha = picture[..., 3:] / 255
    page = _CHECK_COLORS[(y[:, None] + x) % 2]
    return np.rint(alpha * picture[..., :3] + (1 - alpha) * page).astype(np.uint8)
