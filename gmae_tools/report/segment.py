"""Pictures of foreground and ground: overlays, cut-outs, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage

from gmae_tools.report.contact_sheet import Panel, Section, common_box, contact_sheet, in_box, panel_size
from gmae_tools.report.figures import PALETTE, PAPER

OUTLINE, BOX = PALETTE[4], PALETTE[5]  # colours of the foreground's outline and of its box
_PAPER_SHARE = 0.6  # share of white in the ground of an overlay
_LINE = 1 / 250  # width of lines as a share of the longer side
_PANEL = 264  # longest side of a picture on the sheet, px
_CHECKS = 12  # side in px of a square of the chequered page behind a cut-out
_CHECK_COLORS = np.array([[255, 255, 255], [225, 225, 228]], np.uint8)


@dataclass(frozen=True)
class ForegroundRow:
    """A row of the sheet: its heading, and small pictures, uint8 RGB `[H, W, 3]`, by their captions."""

    name: str
    pictures: Mapping[str, np.ndarray]


def overlay(photo: np.ndarray, mask: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """The photograph with its ground in pale grey, the outline of the foreground, and its box; uint8 `[H, W, 3]`."""
    grey = photo[..., 0].astype(np.float32) + photo[..., 1] + photo[..., 2]  # a mean over the last axis is slower
    faded = (1 - _PAPER_SHARE) / 3 * grey + _PAPER_SHARE * PAPER[0]
    ground = Image.fromarray(faded.astype(np.uint8)).convert("RGB")
    image = Image.composite(Image.fromarray(photo), ground, Image.fromarray(mask))
    width = max(1, round(_LINE * max(mask.shape)))
    outside = ndimage.binary_dilation(mask, iterations=width) & ~mask
    image.paste(ImageColor.getrgb(OUTLINE), mask=Image.fromarray(outside))
    if box is not None:
        x0, y0, x1, y1 = (int(side) for side in box)
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX, width=width)
    return np.asarray(image)


def cutout(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The photograph with a transparent ground, uint8 RGBA `[H, W, 4]`."""
    return np.dstack([photo, mask.astype(np.uint8) * 255])


def foreground_row(name: str, pictures: Mapping[str, np.ndarray]) -> ForegroundRow:
    """A row of pictures of one photograph, uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]` each, by their captions."""
    return ForegroundRow(name, {caption: _thumbnail(picture) for caption, picture in pictures.items()})


def foreground_sheet(title: str, subtitle: str, rows: Sequence[ForegroundRow]) -> np.ndarray:
    """Lay out a sheet, uint8 RGB `[H, W, 3]`: a row of pictures for each photograph."""
    box = common_box(picture for row in rows for picture in row.pictures.values())
    sections = [
        Section(row.name, [Panel(in_box(picture, box), caption) for caption, picture in row.pictures.items()])
        for row in rows
    ]
    return contact_sheet(title, subtitle, sections, columns=max(len(row.pictures) for row in rows))


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    """A small copy, uint8 RGB `[H, W, 3]`; transparent pixels show a chequered page."""
    height, width = panel_size(*picture.shape[:2], side=_PANEL)
    # Pillow's quick filter for making pictures smaller; bicubic takes twice as long.
    small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.HAMMING))
    if small.ndim == 2:
        return np.repeat(small[..., None], 3, 2)
    if small.shape[2] == 3:
        return small
    y, x = (np.arange(side) // _CHECKS for side in small.shape[:2])
    page = Image.fromarray(_CHECK_COLORS[(y[:, None] + x) % 2])
    image = Image.fromarray(small)
    page.paste(image, mask=image)
    return np.asarray(page)
