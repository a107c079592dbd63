"""Render a picture in strips of rows, so that memory does not grow with its height."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from gmae_tools.camera import Splats
from gmae_tools.splatting.rules import ALPHA_MIN

_LEAST_DETERMINANT = 1e-12  # as a share of the product of a conic's diagonal, for needles, as in the renderer
_MARGIN = 1.0  # px, so that no visible splat is left out because of rounding


def strips(
    splats: Splats, height: int, rows: int, *groupings: Sequence[int]
) -> Iterator[tuple[slice, Splats, tuple[list[int], ...]]]:
    """Cut a picture into strips of `rows` rows, from top to bottom; the last may have fewer.

    Args:
        splats: one set of K splats, nearest first, for a picture of `height` pixels.
        height: height of the picture in pixels.
        rows: height of a strip in pixels.
        groupings: for each grouping the sizes of consecutive groups of splats, which add up to K.

    Yields:
        The rows of a strip; the splats that reach into it, in their order; and for each grouping the sizes of its
        groups among these splats. The splats are moved, so that a picture of the height of the strip shows its rows.
    """
    if rows >= height:
        yield slice(0, height), splats, tuple(map(list, groupings))
        return
    y, reach = splats.means[0, :, 1].double(), _reach(splats)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        seen = ~((y + reach < top) | (y - reach > bottom))  # NaN is kept, so that the renderer refuses it
        seen[0] = True  # at least one splat is left, because the renderer takes no empty set
        index = seen.nonzero()[:, 0]
        left = tuple([int(part.sum()) for part in seen.split(list(sizes))] for sizes in groupings)
        strip = splats.map(partial(torch.index_select, dim=1, index=index))
        yield slice(top, bottom), replace(strip, means=strip.means - strip.means.new_tensor([0.0, top])), left


def _reach(splats: Splats) -> torch.Tensor:
    """Return half the height in px, `[K]`, of the ellipse in which a splat is strong enough to be rendered."""
    a, b, c = splats.conics[0].double().unbind(-1)
    fall = (splats.opacities[0].double() / ALPHA_MIN).clamp_min(1).log()  # of log(alpha), from centre to that ellipse
    determinant = torch.maximum(a * c - b * b, _LEAST_DETERMINANT * a * c)
    return (2 * fall * a / determinant).sqrt() + _MARGIN
