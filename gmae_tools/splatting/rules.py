"""The limits of compositing, and the options that every backend takes.

The limits are those of gsplat 1.5.3. The kernels, the gsplat backend and the page of `gmae-tools view` take them from
here. Only the oracles of the tests, including `dense`, state their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmae_tools.errors import GmaeToolsError

ALPHA_MAX = 0.999  # cap of a splat's alpha, which the kernels of gsplat cannot change
ALPHA_MIN = 1 / 255  # a splat is skipped where its alpha is below
CUTOFF = math.log(255)  # -log of ALPHA_MIN
TRANSMITTANCE_MIN = 1e-4  # a splat that would leave a pixel no more light than this ends the pixel and is skipped
TILE = 16  # px, side of the squares for which splats are listed
_MOST_PIXELS = 1 << 30  # of a picture; larger ones would not fit into memory


@dataclass(frozen=True)
class Rules:
    """Rules of compositing that can be chosen.

    Args:
        alpha_max: Cap of a splat's alpha, in (0, 1]: 0.999 in gsplat 1.5.3, 0.99 in its development version. The
            gsplat backend supports 0.999 only.
        order_temperature: Temperature of the occlusion gradient in units of depth (see `gmae_tools.splatting`); None
            for no gradient of the order.
    """

    alpha_max: float = ALPHA_MAX
    order_temperature: float | None = None


@dataclass(frozen=True)
class RasterOptions:
    """How splats become pictures.

    Args:
        height, width: Size of the picture in pixels.
        group_sizes: Sizes of consecutive groups in depth order, nearest first. Splats beyond their sum are not
            rendered.
        alpha_max: Cap of a splat's alpha, at most 1.
        owners: Whether to find the strongest splat of each pixel.
        order_temperature: Temperature of the occlusion gradient in units of depth; None for no gradient of the order.

    Raises:
        GmaeToolsError: A value is impossible.
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
