"""The arrays that the page of `gmae-tools view` shows of a scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gmae_tools.camera import Splats
from gmae_tools.gaussians import Gaussians
from gmae_tools.simplify import simplify
from gmae_tools.splatting import Backend, rasterize
from gmae_tools.system.processes import in_threads, spare
from gmae_tools.zeroshot.edges import finish, layer_edges
from gmae_tools.zeroshot.figure_ground import foreground_mask, foreground_probability

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

_MOST_PIXELS = 1 << 21  # of a picture that several threads read out
_EDGE_SIGMA = 2.0  # px, about the distance between the lines that belong to one edge


@dataclass(frozen=True)
class PageContent:
    """The arrays of a page.

    Attributes:
        gaussians: the Gaussians on the page, nearest first; fewer than the scene has if it has very many.
        splats: these Gaussians projected onto a picture of the page.
        picture: the photograph, or the rendered picture on white if there is none, uint8 RGB `[H, W, 3]`.
        depth: expected depth of the Gaussians on the page in scene units, `[H, W]`.
        alpha: coverage by the Gaussians on the page, `[H, W]` in [0, 1].
        edges: for each N the crests of l@N, from all Gaussians of the scene, `[H, W]` in [0, 1].
        foreground: the foreground mask, from all Gaussians of the scene, bool `[H, W]`.
    """

    gaussians: Gaussians
    splats: Splats
    picture: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    edges: dict[int, np.ndarray]
    foreground: np.ndarray


def page_content(scene: Scene, layers: Sequence[int], *, most: int, backend: Backend = "auto") -> PageContent:
    """Compute the arrays of a page.

    Args:
        scene: a scene whose size is that of the pictures on the page.
        layers: numbers N of depth groups for l@N; numbers above K are left out.
        most: largest number of Gaussians on the page; a scene with more is simplified.
        backend: renderer, as for `splatting.rasterize`.
    """
    scene = replace(scene, gaussians=scene.gaussians.detach().sort_by_depth())
    shown = simplify(scene, most, backend=backend)
    if shown is not scene:
        shown = replace(shown, gaussians=shown.gaussians.sort_by_depth())
    splats = shown.splats()
    raster = rasterize(splats, scene.height, scene.width, depth=True, backend=backend)
    assert raster.depth is not None
    numbers = [n for n in layers if n <= scene.k]
    readouts: list[Callable[[], np.ndarray]] = [partial(_crests, scene, n, backend) for n in numbers]
    readouts.append(lambda: foreground_mask(foreground_probability(scene, backend=backend)))
    # A large picture is read out by one thread, because each readout has memory of its own.
    threads = spare() if scene.height * scene.width <= _MOST_PIXELS else 1
    with closing(in_threads(lambda readout: readout(), readouts, min(threads, len(readouts)))) as done:
        *edges, foreground = (outcome.result() for outcome in done)
    return PageContent(
        gaussians=shown.gaussians,
        splats=splats,
        picture=scene.picture(backend=backend),
        depth=raster.depth[0, 0].cpu().numpy(),
        alpha=raster.alpha[0, 0].cpu().numpy(),
        edges=dict(zip(numbers, edges, strict=True)),
        foreground=foreground,
    )


def _crests(scene: Scene, layers: int, backend: Backend) -> np.ndarray:
    return finish(layer_edges(scene, (layers,), backend=backend), _EDGE_SIGMA)
