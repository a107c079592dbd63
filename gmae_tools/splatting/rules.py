"""The limits within which splats are composited, and what every backend is asked for.

The limits are those of gsplat 1.5.3. They are written once, here, for the kernels, for gsplat's backend and for the
page that `gmae-tools view` writes; only the oracles of the tests, `dense` among them, state their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmae_tools.errors import GmaeToolsError

ALPHA_MAX = 0.999  # cap of a splat's alpha; gsplat's kernels know no other
ALPHA_MIN = 1 / 255  # a splat is skipped where its alpha is below
CUTOFF = math.log(255)  # -log of ALPHA_MIN
TRANSMITTANCE_MIN = 1e-4  # a splat that would leave a pixel no more light than this ends the pixel and is skipped
TILE = 16  # px, side of the squares for which splats are listed
_MOST_PIXELS = 1 << 30  # of a picture: more is a mistake, and would not fit into memory


@dataclass(frozen=True)
class Rules:
    """What may be chosen about compositing.

    Args:
        alpha_max: cap of a splat's alpha, in (0, 1]: 0.999 in gsplat 1.5.3, 0.99 in its development version. The
            backend gsplat has no other than 0.999.
        order_temperature: temperature of the occlusion gradient in units of depth (see `gmae_tools.splatting`); None
            for no gradient of the order.
    """

    alpha_max: float = ALPHA_MAX
    order_temperature: float | None = None


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
