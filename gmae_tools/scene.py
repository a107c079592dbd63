"""`Scene`: Gaussians, the camera that sees them, and the size of the picture. Every analysis is a function of a scene.

The methods call the modules that do the work, which are imported when they are first used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmae_tools.arguments import picture_size, whole_number, whole_numbers
from gmae_tools.camera import Camera, Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import resize
from gmae_tools.splatting import Backend, rasterize

if TYPE_CHECKING:
    from gmae_tools.results import Density, EdgeMap, Foreground, Layers


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """One set of Gaussians, the camera that looks at them, and the size of the picture it sees.

    Attributes:
        gaussians: a batch of one, in the units of `camera`.
        camera: the camera through which they are seen.
        height, width: size of the picture in pixels; `render` also takes other sizes.
        photo: the photograph that they reconstruct, uint8 RGB `[H, W, 3]`; None if there is none.

    Raises:
        GmaeToolsError: there is not exactly one set, the picture has no pixels, or the photograph has another shape.
    """

    gaussians: Gaussians
    camera: Camera
    height: int
    width: int
    photo: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.gaussians, Gaussians) or not isinstance(self.camera, Camera):
            given = f"{type(self.gaussians).__name__} and {type(self.camera).__name__}"
            raise GmaeToolsError(f"a scene is made of Gaussians and a Camera, not of {given}")
        if self.gaussians.batch_size != 1 or not self.gaussians.k:
            shape = f"{self.gaussians.batch_size} sets of {self.gaussians.k}"
            raise GmaeToolsError(f"a scene is one set of 1 Gaussian or more, not {shape}")
        for name in ("height", "width"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"a scene's {name} in pixels"))
        if self.photo is not None:
            is_array, wanted = isinstance(self.photo, np.ndarray), [self.height, self.width, 3]
            given = f"{self.photo.dtype} {list(self.photo.shape)}" if is_array else type(self.photo).__name__
            if given != f"uint8 {wanted}":
                raise GmaeToolsError(f"a scene's photograph is uint8 RGB {wanted}, not {given}")

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        return picture_size((self.height if height is None else height, self.width if width is None else width))

    @property
    def k(self) -> int:
        """K, the number of Gaussians."""
        return self.gaussians.k

    def __repr__(self) -> str:
        photo = ", with its photograph" if self.photo is not None else ""
        return f"Scene({self.k:,} Gaussians, {self.camera.kind} camera, {self.width} x {self.height} px{photo})"

    def splats(self, height: int | None = None, width: int | None = None) -> Splats:
        """Project the Gaussians onto the picture, in the scene's own size unless `height` or `width` is given."""
        return project(self.gaussians, self.camera, *self._size(height, width))

    def resized(self, height: int, width: int) -> Scene:
        """Return the same view with another size of the picture in pixels, and the photograph resized to it."""
        height, width = self._size(height, width)
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
        """Render the picture, differentiably, in the scene's own size unless another is given.

        Args:
            height, width: size of the picture in pixels.
            background: RGB in [0, 1] behind the Gaussians.
            backend: renderer, as for `splatting.rasterize`.
        """
        height, width = self._size(height, width)
        if isinstance(background, str) or not isinstance(background, Sequence) or len(background) != 3:
            raise GmaeToolsError(f"background is {background!r}: give red, green and blue in [0, 1], such as (1, 1, 1)")
        color = torch.tensor(background, dtype=self.gaussians.means.dtype, device=self.gaussians.device)
        return rasterize(self.splats(height, width), height, width, background=color, backend=backend).image

    def picture(self, *, backend: Backend = "auto") -> np.ndarray:
        """Return the photograph, or the rendered picture on white if there is none, uint8 RGB `[H, W, 3]`."""
        if self.photo is not None:
            return self.photo
        rendered = self.render(backend=backend)[0].detach().movedim(0, -1).clamp(0, 1)
        return (rendered * 255).round().byte().cpu().numpy()

    def layers(self, k: int | Sequence[int] | None = None, n: int = 8, *, backend: Backend = "auto") -> Layers:
        """Take the scene apart into depth layers.

        Args:
            k: numbers of nearest Gaussians to render together, 1 to K. The default is the powers of 2 from 32 to 512,
                or 1, 3, 10 and 30 per cent if there are more than 4,096 Gaussians, and all Gaussians.
            n: number of equal depth groups, each rendered alone, 1 to K.
            backend: renderer, as for `splatting.rasterize`.

        Example:
            >>> scene.layers(k=[32, 64], n=8).sheet().save("layers.png")
        """
        from gmae_tools import results

        return results.layers(self, _several(k, "k"), whole_number(n, "n"), backend)

    def edges(
        self, readout: str = "layers", *, layers: int | Sequence[int] | None = None, backend: Backend = "auto"
    ) -> EdgeMap:
        """The edge map that `gmae-tools edges --scales 1` writes: one look at the whole, thinned to its crests.

        Without `--scales` the command looks at tiles of the photograph, too, which needs a model: `GMAE.look`.

        Args:
            readout: one of `zeroshot.names.EDGE_READOUTS`; `layers` is l@N.
            layers: the number N of depth groups of l@N, or several, whose maps are averaged; 16 by default.
            backend: renderer, as for `splatting.rasterize`.

        Example:
            >>> scene.edges("closed-regions").strength.shape
            (321, 481)
        """
        from gmae_tools import results

        return results.edges(self, readout, _several(layers, "layers"), backend)

    def mask(self, method: str = "grouped", *, backend: Backend = "auto") -> Foreground:
        """Tell the foreground from the background.

        Args:
            method: one of `zeroshot.names.FOREGROUND_METHODS`.
            backend: renderer, as for `splatting.rasterize`.
        """
        from gmae_tools import results

        return results.foreground(self, method, backend)

    def boxes(self, method: str = "grouped", *, backend: Backend = "auto") -> np.ndarray:
        """Return boxes around the pieces of `mask`, the largest piece first.

        Args:
            method, backend: as for `mask`.

        Returns:
            int64 `[n, 4]`: x0, y0, x1, y1 in pixels, half-open.
        """
        return self.mask(method, backend=backend).boxes

    def density(self) -> Density:
        """Measure where the Gaussians lie, and how large they are at which depth."""
        from gmae_tools.results import Density
        from gmae_tools.zeroshot.density import Points

        return Density(self, Points.of(self))

    def refine(
        self, steps: int, *, progress: Callable[[int, float], None] | None = None, backend: Backend = "auto"
    ) -> Scene:
        """Fit the Gaussians to the photograph by gradient descent. A few dozen steps make a prediction sharp.

        Args:
            steps: largest number of steps, 0 or more.
            progress: function that is called after each step with the number of steps and the best PSNR so far in dB.
            backend: renderer, as for `splatting.rasterize`.

        Raises:
            GmaeToolsError: the scene has no photograph.
        """
        from gmae_tools.refine import RefineOptions, refine_scene

        return refine_scene(self, whole_number(steps, "steps", 0), RefineOptions(backend=backend), progress=progress)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the scene as a `.ply`, `.splat`, `.npz` or `.svg` file, as `formats.write` does."""
        from gmae_tools import formats

        formats.write(path, self)

    def show(self, *, backend: Backend = "auto") -> Path:
        """Open an interactive page that takes the scene apart in the browser, and return the path of the page.

        The page lies in the folder for temporary files, where a later call removes it after a day. Copy it to keep it.
        """
        from gmae_tools import results

        return results.show(self, backend)

    def _repr_html_(self) -> str:
        from gmae_tools import results

        return results.scene_html(self)


def _several(numbers: int | Sequence[int] | None, what: str) -> tuple[int, ...] | None:
    return None if numbers is None else whole_numbers(numbers, what)
