"""Whether soft maps were exported as they were meant: mistakes that scores would hide, found by the levels of the maps.

Edge maps and figure maps are checked alike. What can only be a mistake is refused; what may be one is warned of.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gmae_tools.errors import GmaeToolsError

FAINT = 1 / 255  # the brightest pixel of maps of 0 and 1 in 8 bits, and of 0 to 255 in 16
DIM = 0.25  # the brightest pixel of maps that leave most thresholds unused
_INVERTED_SHARE, _INVERTED_CONTRAST = 0.75, -0.05  # of maps that are darker on the truth than elsewhere, and how much
_BRIGHT = 0.5  # mean of a map of thin lines that is inverted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapLevels:
    """The levels of one map, in [0, 1].

    Attributes:
        lowest, highest, mean: over all pixels.
        contrast: mean on the truth less mean elsewhere; None where that was not looked at, or either is empty.
    """

    lowest: float
    highest: float
    mean: float
    contrast: float | None = None

    @classmethod
    def of(cls, soft: np.ndarray, truth: np.ndarray | None = None) -> MapLevels:
        """Measure a map `[H, W]`, and how it stands out on a mask, bool `[H, W]`."""
        contrast = None
        if truth is not None and truth.any() and not truth.all():
            contrast = float(soft[truth].mean() - soft[~truth].mean())
        return cls(float(soft.min()), float(soft.max()), float(soft.mean()), contrast)


def check_levels(levels: Mapping[str, MapLevels], *, thin: bool = False, stretched: bool = False) -> None:
    """Refuse or warn of maps that cannot be scored as they are meant; warnings are logged.

    Args:
        levels: of each map, by its name.
        thin: whether the maps are of thin lines, which cover little of a picture.
        stretched: whether each map is stretched to the whole range before it is scored.

    Raises:
        GmaeToolsError: no map is brighter than 1 of 255, which is so of maps of 0 and 1, and of 8 bits stored in 16.
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
    if _are_inverted(levels, thin):
        _log.warning("the maps look inverted (bright where nothing is): if so, save 1 - map, or 255 - map in 8 bits")


def _are_inverted(levels: Mapping[str, MapLevels], thin: bool) -> bool:
    shown = [each for each in levels.values() if each.lowest < each.highest]
    if thin:
        bright = sum(each.mean > _BRIGHT for each in shown)
        return bool(shown) and bright >= _INVERTED_SHARE * len(shown)
    contrasts = np.array([each.contrast for each in shown if each.contrast is not None])
    return bool(len(contrasts)) and bool(
        (contrasts < 0).mean() >= _INVERTED_SHARE and contrasts.mean() <= _INVERTED_CONTRAST
    )
