"""Checks of the levels of soft maps, which find mistakes of export that scores would hide.

Maps of edges and of foregrounds are checked. Certain mistakes are refused, and possible ones logged as warnings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gmae_tools.errors import GmaeToolsError

FAINT = 1 / 255  # brightest pixel of maps of 0 and 1 in 8 bits, and of 0 to 255 in 16 bits
DIM = 0.25  # brightest pixel of maps with which most thresholds find nothing
_INVERTED_SHARE, _INVERTED_CONTRAST = 0.75, -0.05  # least share of darker maps, and largest contrast, if inverted
_BRIGHT = 0.5  # least mean of an inverted map of thin lines

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapLevels:
    """The levels of one map, in [0, 1].

    Attributes:
        lowest, highest, mean: Values over all pixels.
        contrast: Mean inside the mask minus mean outside; None without a mask, or if either part is empty.
    """

    lowest: float
    highest: float
    mean: float
    contrast: float | None = None

    @classmethod
    def of(cls, soft: np.ndarray, truth: np.ndarray | None = None) -> MapLevels:
        """Measure a map `[H, W]`, and its contrast on a mask, bool `[H, W]`."""
        contrast = None
        if truth is not None and truth.any() and not truth.all():
            contrast = float(soft[truth].mean() - soft[~truth].mean())
        return cls(float(soft.min()), float(soft.max()), float(soft.mean()), contrast)


def check_levels(levels: Mapping[str, MapLevels], *, thin: bool = False, stretched: bool = False) -> None:
    """Refuse maps that were certainly exported wrongly, and log warnings of maps that may have been.

    Args:
        levels: Levels of each map by its name.
        thin: Whether the maps contain thin lines, which cover a small part of a picture.
        stretched: Whether each map is stretched to the whole range before it is scored.

    Raises:
        GmaeToolsError: No map is brighter than 1 of 255, as with maps of 0 and 1, or with 8 bits stored in 16.
    """
    if not levels:
        return
    count = len(levels)
    peak = max(each.highest for each in levels.values())
    if 0 < peak <= FAINT and not stretched:
        advice = "if they hold 0 and 1, save them as 0 and 255; if 0 to 255 in 16 bits, save them in 8"
        raise GmaeToolsError(f"no map is brighter than 1 of 255: {advice}")
    if FAINT < peak <= DIM and not stretched:
        advice = "stretch them to the whole range, or most thresholds find nothing"
        _log.warning("no map is brighter than %.2f of 1: %s", peak, advice)
    flat = sorted(name for name, each in levels.items() if each.lowest == each.highest)
    if flat:
        example = f"such as {flat[0]}; were they written as they were meant?"
        _log.warning("%d of %d maps have the same level everywhere, %s", len(flat), count, example)
    shown = [each for each in levels.values() if each.lowest < each.highest]
    contrasts = [each.contrast for each in shown if each.contrast is not None]
    inverted = np.array([each.mean > _BRIGHT for each in shown]) if thin else np.less(contrasts, 0)
    clear = thin or (contrasts and np.mean(contrasts) <= _INVERTED_CONTRAST)
    if len(inverted) and inverted.mean() >= _INVERTED_SHARE and clear:
        _log.warning("the maps look inverted (bright where nothing is): if so, save 1 - map, or 255 - map in 8 bits")
