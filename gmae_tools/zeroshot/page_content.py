"""Everything that a page about a scene shows, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gmae_tools.camera import Splats
from gmae_tools.gaussians import Gaussians
from gmae_tools.simplify import simplify
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
        gaussians: those on the page, nearest first; fewer than the scene's if that has very many.
        splats: of these Gaussians, on the page's pictures.
        picture: the photograph, or the rendered picture on white if there is none, uint8 RGB `[H, W, 3]`.
        depth: expected depth of these Gaussians, in scene units, `[H, W]`.
        alpha: coverage by these Gaussians, `[H, W]`.
        edges: crests of l@N of all Gaussians, `[H, W]` in [0, 1], by N.
        foreground: of all Gaussians, bool `[H, W]`.
    """

    gaussians: Gaussians
    splats: Splats
    picture: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    edges: dict[int, np.ndarray]
    foreground: np.ndarray


def page_content(scene: Scene, layers: Sequence[int], *, most: int, backend: Backend = "auto") -> PageContent:
    """Read a scene out for a page.

    Args:
        scene: in the size of the page's pictures.
        layers: the numbers N of l@N; those beyond K are left out.
        most: Gaussians on the page; a scene of more is simplified.
        backend: of `splatting.rasterize`.
    """
    scene = replace(scene, gaussians=scene.gaussians.detach().sort_by_depth())
    shown = simplify(scene, most, backend=backend)
    if shown is not scene:
        shown = replace(shown, gaussians=shown.gaussians.sort_by_depth())
    splats = shown.splats()
    raster = rasterize(splats, scene.height, scene.width, depth=True, backend=backend)
    assert raster.depth is not None
    return PageContent(
        gaussians=shown.gaussians,
        splats=splats,
        picture=scene.picture(backend=backend),
        depth=raster.depth[0, 0].cpu().numpy(),
        alpha=raster.alpha[0, 0].cpu().numpy(),
        edges={n: thin_ridges(layer_edges(scene, (n,), backend=backend), _EDGE_SIGMA) for n in layers if n <= scene.k},
        foreground=foreground_mask(foreground_probability(scene, backend=backend)),
    )
