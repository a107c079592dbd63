"""Does a model's depth follow the scene? How depth maps agree when the picture is mirrored or moved by a few pixels.

Depth that a model reads from a scene moves along with the scene. A pattern of the frame, such as the grid of the
queries, does not, and noise agrees with nothing. Maps are compared by rank correlation (`evals.depth_ranks`), pixel by
pixel of the scene. A pattern that is the same in all pictures agrees with itself, too, above all when it is mirrored;
the agreement of the depth maps of *different* photographs (`other`) shows how much that can be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evals.depth_ranks import rank_correlation
from gmae_tools.camera import Camera, project
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import GMAE
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend, rasterize

SHIFTS = (1, 2, 4, 8)  # px
LEAST_ALPHA = 0.5  # where less is covered, the depth is unknown


def depth_consistency(
    model: GMAE, images: Tensor, shifts: Sequence[int] = SHIFTS, *, backend: Backend = "auto"
) -> dict[str, np.ndarray]:
    """Rank correlation of the maps of expected depth of each picture with those of its changed versions.

    Args:
        model: on any device, in evaluation mode.
        images: RGB in [0, 1] `[B, 3, S + M, S + M]`: the model sees S x S px of it, a multiple of the patch size, and
            M, the largest shift, is the room to move in.
        shifts: in px, each to the right and down.
        backend: of `rasterize`.

    Returns:
        `flip`, `shift N` for each N (the mean of both directions), and `other` (with the next picture of the batch,
        the first after the last), float `[B]` each, in [-1, 1]; NaN where there is nothing to compare.
    """
    room = max(shifts)
    height, width = (side - room for side in images.shape[-2:])

    def depth(top: int = 0, left: int = 0) -> np.ndarray:
        return expected_depth(model, images[..., top : top + height, left : left + width], backend)

    still = depth()
    mirrored = expected_depth(model, images[..., :height, :width].flip(-1), backend)[..., ::-1]
    found = {"flip": _agreement(still, mirrored)}
    for shift in shifts:
        right = _agreement(still[..., shift:], depth(left=shift)[..., :-shift])
        down = _agreement(still[:, shift:], depth(top=shift)[:, :-shift])
        found[f"shift {shift}"] = (right + down) / 2
    return found | {"other": _agreement(still, np.roll(still, 1, 0))}


@torch.inference_mode()
def expected_depth(model: GMAE, images: Tensor, backend: Backend = "auto") -> np.ndarray:
    """Expected depth `[B, H, W]` of what a model predicts from `images` `[B, 3, H, W]`; see `depth_map`."""
    height, width = images.shape[-2:]
    return depth_map(model(images.to(model.rgb_mean.device)), model.camera, height, width, backend)


@torch.inference_mode()
def depth_map(
    gaussians: Gaussians, camera: Camera, height: int, width: int, backend: Backend = "auto", *,
    least_alpha: float = LEAST_ALPHA,
) -> np.ndarray:  # fmt: skip
    """Expected depth `[B, H, W]` of Gaussians, in scene units; NaN where less than `least_alpha` is covered."""
    raster = rasterize(project(gaussians, camera, height, width), height, width, depth=True, backend=backend)
    assert raster.depth is not None
    known = torch.where(raster.alpha >= least_alpha, raster.depth, torch.nan)
    return known[:, 0].cpu().numpy()


def scene_depth(scene: Scene) -> np.ndarray:
    """Expected depth `[H, W]` of a scene in its own size, however little is covered."""
    depth: np.ndarray = depth_map(scene.gaussians, scene.camera, scene.height, scene.width, least_alpha=0)[0]
    return depth


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rank correlations `[B]` of maps `[B, H, W]`."""
    return np.array([rank_correlation(a, b) for a, b in zip(first, second, strict=True)])
