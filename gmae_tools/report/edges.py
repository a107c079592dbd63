"""Contact sheets of edge maps, as on the project page of GMAE: photograph, ground truth, then the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gmae_tools.images import resize
from gmae_tools.report.contact_sheet import Panel, Section, common_box, contact_sheet, in_box, panel_size
from gmae_tools.report.figures import PAPER

_PANEL = 264  # longest side of a picture on the sheet, px
_FULL_INK = 0.99  # edges at or above this quantile of a map are black
_CONTRAST = 3.0  # exponent that makes weak edges paler; the maps are stretched, which makes texture strong


@dataclass(frozen=True)
class EdgeRow:
    """A row of the sheet: its heading, and small pictures, uint8 RGB `[h, w, 3]` of one size, by their captions."""

    name: str
    pictures: Mapping[str, np.ndarray]
    rendered: bool = False  # whether the first picture, called `photograph`, is rendered from Gaussians

    def caption(self, name: str) -> str:
        """The caption that the sheet shows for a picture."""
        return "rendered" if self.rendered and name == "photograph" else name


def edge_row(name: str, photo: np.ndarray, maps: Mapping[str, np.ndarray], *, rendered: bool = False) -> EdgeRow:
    """The row of a photograph or rendering, uint8 RGB `[H, W, 3]`, and of maps in [0, 1] `[H, W]` by their captions."""
    size = panel_size(*photo.shape[:2], side=_PANEL)
    lines = {caption: ink(strength, *size) for caption, strength in maps.items()}
    return EdgeRow(name, {"photograph": resize(photo, *size), **lines}, rendered)


def edge_sheet(title: str, subtitle: str, rows: Sequence[EdgeRow]) -> np.ndarray:
    """Lay out a sheet, uint8 RGB `[H, W, 3]`: a row of pictures for each photograph."""
    box = common_box(picture for row in rows for picture in row.pictures.values())
    captions = max((list(row.pictures) for row in rows), key=len)
    nothing = np.full((*box, 3), PAPER, np.uint8)
    sections = []
    for row in rows:
        panels = [
            Panel(in_box(row.pictures[caption], box), row.caption(caption))
            if caption in row.pictures
            else Panel(nothing, f"no {caption}")  # leaves the place of missing ground truth empty
            for caption in captions
        ]
        sections.append(Section(row.name, panels))
    return contact_sheet(title, subtitle, sections, columns=len(captions))


def ink(strength: np.ndarray, height: int, width: int) -> np.ndarray:
    """A soft map as dark lines on white, uint8 `[height, width, 3]`. Shrinking does not make the lines paler."""
    shrink = (max(1, round(strength.shape[0] / height)), max(1, round(strength.shape[1] / width)))
    rows, columns = (
        np.minimum((np.arange(count) + 0.5) * length / count, length - 1).astype(int)
        for count, length in zip((height, width), strength.shape, strict=True)
    )
    from scipy import ndimage  # takes 0.2 s to import, and pages do not need it

    small = ndimage.maximum_filter(darkness(strength), size=shrink)[np.ix_(rows, columns)]
    grey = (255 * (1 - small)).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


def darkness(strength: np.ndarray) -> np.ndarray:
    """Darkness in [0, 1] of the lines of a soft map `[H, W]`: the strongest ones are black, weak ones pale."""
    edges = strength[strength > 0]
    full = float(np.quantile(edges, _FULL_INK)) if len(edges) else 1.0
    return np.asarray(np.clip(strength / full, 0, 1) ** _CONTRAST)
