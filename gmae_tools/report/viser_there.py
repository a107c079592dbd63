"""What viser, which shows scenes in 3-D, can draw, and the check that it is installed; does not load torch."""

from __future__ import annotations

import importlib.util

from gmae_tools.errors import GmaeToolsError

MOST_SPLATS = 200_000  # which browsers draw smoothly


def require_viser() -> None:
    """Raise a GmaeToolsError unless viser is installed."""
    if importlib.util.find_spec("viser") is None:
        raise GmaeToolsError("the 3-D view needs viser: pip install 'gmae-tools[view3d]'")
