"""Boxes from masks: one around each connected piece of the foreground."""

from __future__ import annotations

from typing import Any

import numpy as np

SMALL = 0.01  # share of the foreground's pixels; smaller pieces are noise


def boxes(mask: np.ndarray, *, small: float = SMALL) -> np.ndarray:
    """Compute the bounding boxes of the pieces of a mask, largest piece first.

    Pixels that touch at a side or a corner belong to one piece. Of two pieces of equal size, the one that begins higher
    up comes first.

    Args:
        mask: bool `[H, W]`.
        small: share of the mask's pixels, in [0, 1]. Smaller pieces are left out, except the largest; 0 keeps them all.

    Returns:
        int64 `[n, 4]`: x0, y0, x1, y1 in pixels, half-open (x1 - x0 is the width); n is 0 where the mask is empty.
    """
    kept = [piece.bbox for piece in _pieces(mask, small)]
    return np.array([(left, top, right, bottom) for top, left, bottom, right in kept], np.int64).reshape(-1, 4)


def pieces(mask: np.ndarray, *, small: float = SMALL) -> np.ndarray:
    """Split a mask into its pieces.

    Args:
        mask: bool `[H, W]`.
        small: as for `boxes`.

    Returns:
        bool `[n, H, W]`, in the order of `boxes`.
    """
    kept = _pieces(mask, small)
    found = np.zeros((len(kept), *mask.shape), bool)
    for own, piece in zip(found, kept, strict=True):
        own[piece.slice] = piece.image
    return found


def _pieces(mask: np.ndarray, small: float) -> list[Any]:
    from skimage.measure import label, regionprops

    found = sorted(regionprops(label(mask, connectivity=2)), key=lambda piece: -piece.area)
    least = small * np.count_nonzero(mask)
    return [piece for number, piece in enumerate(found) if number == 0 or piece.area >= least]


def largest_box(mask: np.ndarray) -> np.ndarray | None:
    """Return the box `[4]` of the largest piece of a mask, bool `[H, W]`; None if the mask is empty."""
    found = boxes(mask)
    return found[0] if len(found) else None
