"""Edges from Gaussians: l@N from depth layers, and the readouts to compare it with.

Each readout is a function of one set of Gaussians, and gives a soft map `[H, W]` in [0, 1] of lines one pixel wide,
whatever size the picture is drawn at. None of them looks at the photograph.

Source of l@N: GMAE (arXiv 2501.03229); what it calls a significant change is defined by `Significance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import Backend, rasterize, rasterize_groups
from gmae_tools.system.kernels import kernel
from gmae_tools.zeroshot.contours import gradient, jumps, merge_regions, suppress_nonmaxima
from gmae_tools.zeroshot.layers import layer_sizes
from gmae_tools.zeroshot.strips import strips

Order = Literal["back-to-front", "front-to-back"]
Measure = Literal["color", "alpha", "share"]

# Study of these choices: evals/studies/edge_choices.py.
DEPTH_SIGMA, RENDER_SIGMA = 1.0, 1.0  # of the Gaussian derivatives, px
# Strengths that become 0.5: scene units a px, RGB a px, and CIELAB / 100.
DEPTH_HALF, RENDER_HALF, REGION_HALF = 0.01, 0.05, 0.08
DAMPING = 0.001  # regions of this share of the picture count at half their squared difference
CLOSED_DAMPING = 0.01  # the same, where the joined views are closed

_STRIP_NUMBERS = 1 << 25  # floats in the pictures of all groups of a strip, 128 MB


@dataclass(frozen=True)
class Significance:
    """When a depth group counts as having changed a pixel.

    Attributes:
        measure: what is compared with the threshold. `color`: the largest difference of an RGB channel that drawing
            the group makes, over white. `alpha`: the share of the light from behind that the group takes
            (transmittance lost). `share`: the group's weight in the finished picture (alpha taken).
        thresholds: each in [0, 1]; a change must be larger. Several make the edges soft: what persists is strong.
        order: in which the groups are drawn, and so which is the last to change a pixel: of all that do, the nearest
            (`back-to-front`, as a painter works) or the farthest (`front-to-back`).
    """

    measure: Measure = "color"
    thresholds: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    order: Order = "back-to-front"

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure) or self.order not in get_args(Order):
            raise GmaeToolsError(f"significance: no measure {self.measure!r} or no order {self.order!r}")
        if not self.thresholds or not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise GmaeToolsError(f"significance: thresholds lie in [0, 1], not {list(self.thresholds)}")


DEFAULT_SIGNIFICANCE = Significance()


def layer_index(
    gaussians: Gaussians,
    camera: Camera,
    height: int,
    width: int,
    layers: int,
    significance: Significance = DEFAULT_SIGNIFICANCE,
    backend: Backend = "auto",
) -> np.ndarray:
    """Which of `layers` equal depth groups changed each pixel last, for each of T thresholds.

    Memory beyond the result does not grow with the height of the picture.

    Args:
        gaussians: a batch of one, in any order.
        layers: number N of groups, 1..K.
        backend: that draws; see `splatting.rasterize`.

    Returns:
        int16 `[T, H, W]`: 1 is the nearest group, N the farthest, N + 1 the background, where none changed anything.

    Raises:
        GmaeToolsError: `layers` does not fit, the batch is not one, or a parameter is not finite.
    """
    _check(gaussians, layers)
    splats = project(gaussians, camera, height, width)
    order = torch.argsort(splats.depths[0], stable=True)
    splats = Splats(*(getattr(splats, field.name)[:, order] for field in fields(Splats)))
    rows = max(16, _STRIP_NUMBERS // (4 * layers * width))
    parts = []
    for part, strip, (sizes,) in strips(splats, height, rows, layer_sizes(gaussians.k, layers)):
        groups = rasterize_groups(strip, part.stop - part.start, width, sizes, backend=backend)
        changes = _changes(groups.images[0], groups.alphas[0], significance)
        parts.append(_last_changes(changes.cpu().numpy(), significance))
    return np.concatenate(parts, 1)


def _check(gaussians: Gaussians, layers: int) -> None:
    if gaussians.batch_size != 1:
        raise GmaeToolsError(f"edges are of one set of Gaussians, not of {gaussians.batch_size}")
    if not 1 <= layers <= gaussians.k:
        raise GmaeToolsError(f"cannot cut {gaussians.k} Gaussians into {layers} layers")


def _changes(images: Tensor, alphas: Tensor, significance: Significance) -> Tensor:
    """How much each depth group changes each pixel when it is drawn, `[N, H, W]` in [0, 1].

    Args:
        images, alphas: what the groups, nearest first, contribute to the finished picture, `[N, 3, H, W]` and
            `[N, 1, H, W]`.
    """
    if significance.measure == "share":
        return alphas[:, 0]
    arriving = (1 - (_running_sum(alphas) - alphas)).clamp_min(1e-10)  # [N, 1, H, W], light that reaches each group
    if significance.measure == "alpha":
        return alphas[:, 0] / arriving[:, 0]
    if significance.order == "front-to-back":
        return (images - alphas).abs().amax(1)  # coloured light instead of white
    # What lies behind, on white, as seen without the nearer groups.
    farther = _running_sum(images.flip(0)).flip(0) - images + (1 - alphas.sum(0)).clamp_min(0)
    behind = farther / (arriving - alphas).clamp_min(1e-10)
    return ((images - alphas * behind) / arriving).abs().amax(1)


def _running_sum(maps: Tensor) -> Tensor:
    """`cumsum(0)`, an order of magnitude faster where the first axis is short and the others are long."""
    return torch.stack(list(accumulate(maps)))


def _last_changes(changes: np.ndarray, significance: Significance) -> np.ndarray:
    """Number of the group that changed a pixel last, int16 `[T, H, W]`."""
    layers = len(changes)
    thresholds = np.array(significance.thresholds, changes.dtype)
    if significance.order == "back-to-front":
        return _first_above(changes, thresholds) + np.int16(1)
    skipped = _first_above(changes[::-1], thresholds)
    return np.where(skipped < layers, layers - skipped, layers + 1).astype(np.int16)


@kernel()
def _first_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Along the first axis of `values` `[N, H, W]`: where each of T thresholds is first exceeded, N for nowhere."""
    count, height, width = values.shape
    first = np.full((len(thresholds), height, width), count, np.int16)
    for number in range(count - 1, -1, -1):
        for index in range(len(thresholds)):
            for y in range(height):
                for x in range(width):
                    if values[number, y, x] > thresholds[index]:
                        first[index, y, x] = number
    return first


# --- readouts ----------------------------------------------------------------------------------------


def layer_edges(
    gaussians: Gaussians,
    camera: Camera,
    height: int,
    width: int,
    layers: Sequence[int],
    significance: Significance = DEFAULT_SIGNIFICANCE,
    backend: Backend = "auto",
) -> np.ndarray:
    """l@N: where the index map of `layer_index` jumps, made soft by persistence.

    Args:
        layers: any numbers N of depth groups, 1..K; several are a hierarchy.

    Returns:
        float32 `[H, W]`: the share of all pairs of N and threshold at which the index jumps there.
    """
    counted = np.zeros((height, width), np.float32)
    for count in layers:
        for index in layer_index(gaussians, camera, height, width, count, significance, backend):
            counted += jumps(index) > 0
    return counted / (len(layers) * len(significance.thresholds))


def depth_edges(
    gaussians: Gaussians, camera: Camera, height: int, width: int, *, backend: Backend = "auto"
) -> np.ndarray:
    """Gradient of the expected depth: the mean of the Gaussians' depths, weighted by what is seen of them."""
    depth = rasterize(project(gaussians, camera, height, width), height, width, depth=True, backend=backend).depth
    assert depth is not None
    return _gradient_edges(depth[0].permute(1, 2, 0).cpu().numpy(), DEPTH_SIGMA, DEPTH_HALF)


def render_edges(
    gaussians: Gaussians, camera: Camera, height: int, width: int, *, backend: Backend = "auto"
) -> np.ndarray:
    """Gradient of the reconstruction's colours: what a render knows without depth. The baseline of the others."""
    return _gradient_edges(_render(gaussians, camera, height, width, backend)[0], RENDER_SIGMA, RENDER_HALF)


def region_edges(
    gaussians: Gaussians, camera: Camera, height: int, width: int, *, damping: float = DAMPING,
    backend: Backend = "auto",
) -> np.ndarray:  # fmt: skip
    """Ultrametric contour map of the regions that the Gaussians own.

    Each pixel belongs to its strongest Gaussian, which depth order and opacity decide; connected pixels of one owner
    are a region; neighbouring regions merge by the difference of their rendered colours (CIELAB), small ones first.
    The strength of a boundary is the level of the merge that removes it.

    Args:
        damping: regions of this share of the picture count at half their squared difference.
    """
    return _region_edges(*_render(gaussians, camera, height, width, backend), damping)


def combined_edges(
    gaussians: Gaussians, camera: Camera, height: int, width: int, *, backend: Backend = "auto"
) -> np.ndarray:
    """Mean of `region_edges` and `render_edges`: where colours change, and which regions that change keeps apart."""
    picture, owner = _render(gaussians, camera, height, width, backend)
    return (_region_edges(picture, owner, DAMPING) + _gradient_edges(picture, RENDER_SIGMA, RENDER_HALF)) / 2


class Readout(Protocol):
    """Gaussians, camera, height, width, numbers of layers -> soft map `[H, W]` in [0, 1]."""

    def __call__(
        self, gaussians: Gaussians, camera: Camera, height: int, width: int, layers: Sequence[int], *,
        backend: Backend = ...,
    ) -> np.ndarray: ...  # fmt: skip


def _without_layers(readout: Callable[..., np.ndarray]) -> Readout:
    """A readout that has no use for numbers of layers, with the signature of those that have."""

    def read(
        gaussians: Gaussians, camera: Camera, height: int, width: int, layers: Sequence[int], *,
        backend: Backend = "auto",
    ) -> np.ndarray:  # fmt: skip
        return readout(gaussians, camera, height, width, backend=backend)

    return read


# By name.
READOUTS: dict[str, Readout] = {
    "layers": layer_edges,
    "expected-depth": _without_layers(depth_edges),
    "regions": _without_layers(region_edges),
    "combined": _without_layers(combined_edges),
    "render-gradient": _without_layers(render_edges),
}
# The same, of those whose joined views are closed (`detectors.close`).
CLOSED: dict[str, Readout] = {
    "closed-regions": _without_layers(partial(region_edges, damping=CLOSED_DAMPING)),
}


def _render(
    gaussians: Gaussians, camera: Camera, height: int, width: int, backend: Backend
) -> tuple[np.ndarray, np.ndarray]:
    """The picture on white, RGB `[H, W, 3]` in [0, 1], and the index of each pixel's strongest Gaussian `[H, W]`."""
    splats = project(gaussians, camera, height, width)
    raster = rasterize(splats, height, width, background=torch.ones(3), owners=True, backend=backend)
    assert raster.owner is not None
    return raster.image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy(), raster.owner[0].cpu().numpy()


def _region_edges(picture: np.ndarray, owner: np.ndarray, damping: float) -> np.ndarray:
    from skimage.color import rgb2lab

    return _soften(merge_regions(owner, rgb2lab(picture) / 100, damping=damping * owner.size), REGION_HALF)


def _gradient_edges(picture: np.ndarray, sigma: float, half: float) -> np.ndarray:
    return _soften(suppress_nonmaxima(gradient(picture, sigma)), half)


def _soften(strength: np.ndarray, half: float) -> np.ndarray:
    """Strengths in [0, inf) as s / (s + half), in [0, 1): no strong edge is clipped, no weak one lost in rounding."""
    return (strength / (strength + half)).astype(np.float32)
