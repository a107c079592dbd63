"""`Scene`: Gaussians, and how to look at them. Whatever comes in becomes one; every analysis is a function of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import resize
from gmae_tools.splatting import Backend, rasterize


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """One set of Gaussians, the camera that looks at them, and the size of the picture it sees.

    Attributes:
        gaussians: a batch of one, in the units of `camera`.
        camera: through which they are seen.
        height, width: of the picture in pixels; `render` draws any other size, too.
        photo: the photograph that they rebuild, uint8 RGB `[H, W, 3]`; None where there is none.

    Raises:
        GmaeToolsError: there is not exactly one set, the picture has no pixels, or the photograph another shape.
    """

    gaussians: Gaussians
    camera: Camera
    height: int
    width: int
    photo: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.gaussians.batch_size != 1 or not self.gaussians.k:
            shape = f"{self.gaussians.batch_size} sets of {self.gaussians.k}"
            raise GmaeToolsError(f"a scene is one set of 1 Gaussian or more, not {shape}")
        for name in ("height", "width"):
            side = getattr(self, name)
            if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1:
                raise GmaeToolsError(f"a scene's {name} is a number of pixels, 1 or more, not {side!r}")
            object.__setattr__(self, name, int(side))
        if self.photo is not None and (
            self.photo.dtype != np.uint8 or self.photo.shape != (self.height, self.width, 3)
        ):
            raise GmaeToolsError(
                f"a scene's photograph is uint8 RGB [{self.height}, {self.width}, 3], "
                f"not {self.photo.dtype} {list(self.photo.shape)}"
            )

    @property
    def k(self) -> int:
        """K, the number of Gaussians."""
        return self.gaussians.k

    def __repr__(self) -> str:
        photo = ", with its photograph" if self.photo is not None else ""
        return f"Scene({self.k:,} Gaussians, {self.camera.kind} camera, {self.width} x {self.height} px{photo})"

    def splats(self, height: int | None = None, width: int | None = None) -> Splats:
        """The Gaussians projected onto the picture, of `height` x `width` pixels instead of its own if given."""
        return project(self.gaussians, self.camera, height or self.height, width or self.width)

    def resized(self, height: int, width: int) -> Scene:
        """The same view as a picture of another size in pixels, the photograph made smaller or larger with it."""
        photo = None if self.photo is None else resize(self.photo, height, width)
        return replace(self, height=height, width=width, photo=photo)

    def render(
        self,
        height: int | None = None,
        width: int | None = None,
        *,
        background: tuple[float, float, float] = (1.0, 1.0, 1.0),
        backend: Backend = "auto",
    ) -> Tensor:
        """The picture, RGB `[1, 3, H, W]`, in the scene's own size unless another is given; differentiable.

        Args:
            height, width: in pixels.
            background: RGB in [0, 1] behind the Gaussians.
            backend: that draws; see `splatting.rasterize`.
        """
        height, width = height or self.height, width or self.width
        color = torch.tensor(background, dtype=self.gaussians.means.dtype, device=self.gaussians.device)
        return rasterize(self.splats(height, width), height, width, background=color, backend=backend).image
