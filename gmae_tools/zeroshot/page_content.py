"""Everything that a page about a scene shows, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gmae_tools.camera import Splats
from gmae_tools.splatting import Backend, rasterize
from gmae_tools.zeroshot.contours import thin_ridges
from gmae_tools.zeroshot.edges import layer_edges
from gmae_tools.zeroshot.figure_ground import foreground_mask, foreground_probability

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

_EDGE_SIGMA = 2.0  # px; lines of one edge lie about so far apart


@dataclass(frozen=True)
class PageContent:
    """The arrays of a page.

    Attributes:
        scene: of the size of the page's pictures, its Gaussians nearest first.
        splats: of these Gaussians, on the page's pictures.
        picture: the photograph, or the rendered picture on white if there is none, uint8 RGB `[H, W, 3]`.
        depth: expected depth of all Gaussians, in scene units, `[H, W]`.
        alpha: coverage by all Gaussians, `[H, W]`.
        edges: crests of l@N `[H, W]` in [0, 1], by N.
        foreground: bool `[H, W]`.
    """

    scene: Scene
    splats: Splats
    picture: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    edges: dict[int, np.ndarray]
    foreground: np.ndarray


def page_content(
    scene: Scene, height: int, width: int, layers: Sequence[int], *, backend: Backend = "auto"
) -> PageContent:
    """Read a scene out for a page.

    Args:
        height, width: of the pictures on the page in pixels.
        layers: the numbers N of l@N; those beyond K are left out.
        backend: of `splatting.rasterize`.
    """
    scene = replace(scene, gaussians=scene.gaussians.detach().sort_by_depth()).resized(height, width)
    splats, white = scene.splats(), scene.gaussians.means.new_ones(3)
    raster = rasterize(splats, height, width, background=white, depth=True, backend=backend)
    assert raster.depth is not None
    picture = scene.photo
    if picture is None:
        picture = (raster.image[0].movedim(0, -1).clamp(0, 1) * 255).round().byte().cpu().numpy()
    return PageContent(
        scene=scene,
        splats=splats,
        picture=picture,
        depth=raster.depth[0, 0].cpu().numpy(),
        alpha=raster.alpha[0, 0].cpu().numpy(),
        edges={n: thin_ridges(layer_edges(scene, (n,), backend=backend), _EDGE_SIGMA) for n in layers if n <= scene.k},
        foreground=foreground_mask(foreground_probability(scene, backend=backend)),
    )
