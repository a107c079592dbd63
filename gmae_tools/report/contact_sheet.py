"""Contact sheets: many small pictures with captions on one page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gmae_tools.images import printable
from gmae_tools.report.figures import HAIRLINE, INK, MUTED, PAPER, depth_scale, font

MOST_ROWS = 50  # photographs on one sheet

# Sizes in px.
_MARGIN, _GAP = 36, 14
_TITLE, _TEXT, _SMALL = 26, 17, 14  # heights of type
_HEADER = _TITLE + _SMALL + 16  # title and subtitle
_HEADING = 22 + _TEXT + 12  # heading of a section, with the space above and below
_CAPTION = 8 + _TEXT + 6 + _SMALL + 12  # caption and note, with the space between and below
_BAR = 10  # height of a depth scale
_LEAST_WIDTH = 480  # leaves room for headings


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet."""

    picture: np.ndarray  # uint8 RGB `[H, W, 3]`
    caption: str
    note: str = ""  # below the caption, in smaller type
    depth_scale: bool = False  # whether to show the colour scale of depth, from near to far, instead of the note


@dataclass(frozen=True)
class Section:
    """A heading, and panels that fill rows from left to right."""

    heading: str
    panels: Sequence[Panel]


def contact_sheet(title: str, subtitle: str, sections: Sequence[Section], columns: int = 8) -> np.ndarray:
    """Lay out a sheet, uint8 RGB `[H, W, 3]`, with at most so many `columns`.

    Title and subtitle are shortened to fit one line each. All panels must have the same size.
    """
    columns = min(columns, max(len(section.panels) for section in sections))
    panel_height, panel_width = sections[0].panels[0].picture.shape[:2]
    cell_width, cell_height = panel_width + _GAP, panel_height + _CAPTION
    inner_width = max(columns * cell_width - _GAP, _LEAST_WIDTH)
    rows = sum(-(-len(section.panels) // columns) for section in sections)
    height = 2 * _MARGIN + _HEADER + len(sections) * _HEADING + rows * cell_height
    page = Image.new("RGB", (2 * _MARGIN + inner_width, height - _MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(page)
    _line(draw, (_MARGIN, _MARGIN), title, font(_TITLE, bold=True), INK, inner_width)
    _line(draw, (_MARGIN, _MARGIN + _TITLE + 10), subtitle, font(_SMALL), MUTED, inner_width)
    top = _MARGIN + _HEADER
    for section in sections:
        heading_top = top + _HEADING - _TEXT - 12
        _line(draw, (_MARGIN, heading_top), section.heading, font(_TEXT, bold=True), INK, inner_width)
        top += _HEADING
        for start in range(0, len(section.panels), columns):
            for column, panel in enumerate(section.panels[start : start + columns]):
                _panel(page, draw, _MARGIN + column * cell_width, top, panel)
            top += cell_height
    return np.asarray(page)


def panel_size(height: int, width: int, *, side: int) -> tuple[int, int]:
    """Height and width in px of a picture that is scaled so that its longer side is `side` px."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def of_all(shown: Sequence[object], count: int) -> str:
    """The end of a subtitle if a sheet does not show all of `count` pictures; empty if it does."""
    return f"; the first {len(shown)} of {count:,} pictures" if len(shown) < count else ""


def common_box(pictures: Iterable[np.ndarray]) -> tuple[int, int]:
    """The least height and width in px that hold each of the pictures."""
    heights, widths = zip(*(picture.shape[:2] for picture in pictures), strict=True)
    return max(heights), max(widths)


def in_box(picture: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Centre a picture `[h, w, 3]` in a blank one of the size of the box, `[H, W, 3]`."""
    page = np.full((*box, 3), PAPER, np.uint8)
    top, left = (box[0] - picture.shape[0]) // 2, (box[1] - picture.shape[1]) // 2
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


def _panel(page: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, panel: Panel) -> None:
    height, width = panel.picture.shape[:2]
    page.paste(Image.fromarray(panel.picture), (left, top))
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=HAIRLINE)
    caption_top = top + height + 8
    _line(draw, (left + width // 2, caption_top), panel.caption, font(_TEXT), INK, width, anchor="ma")
    note_top = caption_top + _TEXT + 6
    if panel.depth_scale:
        _depth_bar(page, draw, left, note_top, width)
    else:
        _line(draw, (left + width // 2, note_top), panel.note, font(_SMALL), MUTED, width, anchor="ma")


def _depth_bar(page: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, width: int) -> None:
    """Draw `near`, the colour scale of depth, and `far` on one line of `width` px."""
    small = font(_SMALL)
    near, far = (round(draw.textlength(text, font=small)) + 8 for text in ("near", "far"))
    draw.text((left, top), "near", font=small, fill=MUTED)
    draw.text((left + width, top), "far", font=small, fill=MUTED, anchor="ra")
    length = max(1, width - near - far)
    bar = depth_scale()[np.linspace(0, 255, length).astype(int)]
    page.paste(Image.fromarray(np.tile(bar, (_BAR, 1, 1))), (left + near, top + (_SMALL - _BAR) // 2 + 1))


def _line(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    face: ImageFont.FreeTypeFont,
    color: tuple[int, int, int],
    width: int,
    anchor: str = "la",
) -> None:
    """Write one line of text below `at`; its end is cut off if it is longer than `width` px."""
    whole = text = printable(text)
    while whole and draw.textlength(text, font=face) > width:
        whole = whole[:-1]
        text = whole.rstrip() + "…"
    draw.text(at, text, font=face, fill=color, anchor=anchor)
