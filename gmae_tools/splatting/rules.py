"""What every backend is asked for, and the limits within which pictures are composited."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmae_tools.errors import GmaeToolsError

ALPHA_MAX = 0.999  # cap of a splat's alpha; gsplat's kernels know no other
_MOST_PIXELS = 1 << 30  # of a picture: more is a mistake, and would not fit into memory


@dataclass(frozen=True)
class RasterOptions:
    """How splats become pictures.

    Args:
        height, width: of the picture in pixels.
        group_sizes: sizes of consecutive groups in depth order, nearest first; splats beyond their sum are not drawn.
        alpha_max: cap of a splat's alpha, at most 1.
        owners: whether to find each pixel's strongest splat.
        order_temperature: temperature of the occlusion gradient in units of depth; None for no gradient of the order.

    Raises:
        GmaeToolsError: a value is impossible.
    """

    height: int
    width: int
    group_sizes: tuple[int, ...]
    alpha_max: float = ALPHA_MAX
    owners: bool = False
    order_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.height * self.width > _MOST_PIXELS:
            raise GmaeToolsError(f"cannot render a picture of {self.height} x {self.width} pixels")
        if not 0 < self.alpha_max <= 1:
            raise GmaeToolsError(f"alpha_max {self.alpha_max} is not within 0..1")
        temperature = self.order_temperature
        if temperature is not None and not 0 < temperature < math.inf:
            raise GmaeToolsError(
                f"order_temperature {temperature} must be above 0, or None for no gradient of the order"
            )
