"""Edges from Gaussians: l@N from depth layers, and the readouts to compare it with.

Each readout is a function of a scene, and gives a soft map `[H, W]` in [0, 1] of lines one pixel wide, whatever its
size. None of them looks at the photograph. `finish` and `close` make the map that is written and scored.

Source of l@N: GMAE (arXiv 2501.03229); what it calls a significant change is defined by `Significance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting import Backend, rasterize, rasterize_groups
from gmae_tools.system.kernels import kernel
from gmae_tools.zeroshot.contours import (
    close_contours,
    gradient,
    jumps,
    merge_regions,
    suppress_nonmaxima,
    thin_ridges,
)
from gmae_tools.zeroshot.layers import layer_sizes
from gmae_tools.zeroshot.names import LAYERS
from gmae_tools.zeroshot.strips import strips

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

Order = Literal["back-to-front", "front-to-back"]
Measure = Literal["color", "alpha", "share"]

# Studies of these choices: evals/studies/edge_choices.py and readout_choices.py.
CHANGE_LAYERS = 4  # depth groups whose changes of the picture are joined
CHANGE_SIGMA, DEPTH_SIGMA, RENDER_SIGMA = 1.0, 1.0, 1.0  # of the Gaussian derivatives, px
# Strengths that become 0.5: CIELAB / 100 a px, scene units a px, RGB a px, and CIELAB / 100.
CHANGE_HALF, DEPTH_HALF, RENDER_HALF, REGION_HALF = 0.1, 0.01, 0.05, 0.08
DAMPING = 0.001  # regions of this share of the picture count at half their squared difference
CLOSED_DAMPING = 0.01  # that share where the joined views are closed
RIDGE_SIGMA = 1.5  # px; views of a photograph agree on an edge to about a pixel

_STRETCH_HALF = 0.25  # strength of a crest that stretching makes 0.625
_REACH = 2  # px between the crests and the contours of one map, at most
_STRIP_NUMBERS = 1 << 21  # floats in the pictures of all groups of a strip, 8 MB: four times as fast as 128 MB
_TILE = 16  # px; strips begin at rows of the renderer's tiles


@dataclass(frozen=True)
class Significance:
    """When a depth group counts as having changed a pixel.

    Attributes:
        measure: what is compared with the threshold. `color`: the largest change of an RGB channel when the
            group is rendered, over white. `alpha`: the share of the light from behind that the group takes
            (transmittance lost). `share`: the group's weight in the finished picture (alpha taken).
        thresholds: each in [0, 1]; a change must be larger. Several make the edges soft: edges at many
            thresholds are strong.
        order: in which the groups are rendered. Of all groups that change a pixel, the last one is the nearest
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
    scene: Scene, layers: int, *, significance: Significance = DEFAULT_SIGNIFICANCE, backend: Backend = "auto"
) -> np.ndarray:
    """Which of `layers` equal depth groups changed each pixel last, for each of T thresholds.

    Memory beyond the result does not grow with the height of the picture.

    Args:
        scene: its Gaussians may be in any order.
        layers: number N of groups, 1..K.
        significance: when a group counts as having changed a pixel, with T thresholds.
        backend: of `splatting.rasterize`.

    Returns:
        int16 `[T, H, W]`: 1 is the nearest group, N the farthest, and N + 1 the background, where no group counts.

    Raises:
        GmaeToolsError: `layers` does not fit, or a parameter is not finite.
    """
    if not 1 <= layers <= scene.k:
        raise GmaeToolsError(f"cannot cut {scene.k} Gaussians into {layers} layers")
    changes = (_changes(images, alphas, significance) for images, alphas in _groups(scene, layers, backend))
    return np.concatenate([_last_changes(strip.cpu().numpy(), significance) for strip in changes], 1)


def _groups(scene: Scene, layers: int, backend: Backend) -> Iterator[tuple[Tensor, Tensor]]:
    """Strip by strip from top to bottom, what each of N depth groups, nearest first, contributes to the picture.

    Yields:
        Colours `[N, 3, h, W]` and coverage `[N, 1, h, W]`.
    """
    height, width, splats = scene.height, scene.width, scene.splats()
    order = torch.argsort(splats.depths[0], stable=True)
    splats = Splats(*(getattr(splats, field.name)[:, order] for field in fields(Splats)))
    rows = max(_TILE, _STRIP_NUMBERS // (4 * layers * width) // _TILE * _TILE)
    for part, strip, (sizes,) in strips(splats, height, rows, layer_sizes(scene.k, layers)):
        groups = rasterize_groups(strip, part.stop - part.start, width, sizes, backend=backend)
        yield groups.images[0], groups.alphas[0]


def _changes(images: Tensor, alphas: Tensor, significance: Significance) -> Tensor:
    """How much each depth group changes each pixel when it is rendered, `[N, H, W]` in [0, 1].

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
    # The picture of the groups behind each group, on white, without the nearer groups.
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
    scene: Scene,
    layers: Sequence[int] = (LAYERS,),
    *,
    significance: Significance = DEFAULT_SIGNIFICANCE,
    backend: Backend = "auto",
) -> np.ndarray:
    """l@N: jumps of the index map of `layer_index`, which are the stronger the more thresholds they appear at.

    Args:
        layers: any numbers N of depth groups, 1..K; several are a hierarchy.

    Returns:
        float32 `[H, W]`: the share of all pairs of N and threshold at which the index jumps there.
    """
    counted = np.zeros((scene.height, scene.width), np.float32)
    for count in layers:
        for index in layer_index(scene, count, significance=significance, backend=backend):
            counted += jumps(index) > 0
    return counted / (len(layers) * len(significance.thresholds))


def change_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Joint gradient of how much each of a few depth groups changes the picture when it is painted over those behind.

    Where l@N asks which group changed a pixel last, this asks where the change that a group makes, in CIELAB, sets in.
    """
    count = min(CHANGE_LAYERS, scene.k)
    changes = np.concatenate([_color_changes(*strip) for strip in _groups(scene, count, backend)], 1)
    return _gradient_edges(np.moveaxis(changes, 0, -1), CHANGE_SIGMA, CHANGE_HALF)


def _color_changes(images: Tensor, alphas: Tensor) -> np.ndarray:
    """How far each group takes the picture of all groups behind it, on white, CIELAB / 100, float32 `[N, H, W]`.

    Args:
        images, alphas: as for `_changes`.
    """
    from skimage.color import rgb2lab

    arriving = (1 - (_running_sum(alphas) - alphas)).clamp_min(1e-10)
    light = _running_sum(images.flip(0)).flip(0) + (1 - alphas.sum(0)).clamp_min(0)
    painted = (light / arriving).clamp(0, 1).movedim(1, -1).cpu().numpy()  # each group and all behind it
    colors = rgb2lab(np.concatenate([painted, np.ones_like(painted[:1])])).astype(np.float32) / 100
    return np.asarray(np.linalg.norm(np.diff(colors, axis=0), axis=-1), np.float32)


def depth_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Gradient of the expected depth, the mean of the Gaussians' depths weighted by their shares of the pixel."""
    depth = rasterize(scene.splats(), scene.height, scene.width, depth=True, backend=backend).depth
    assert depth is not None
    return _gradient_edges(depth[0].permute(1, 2, 0).cpu().numpy(), DEPTH_SIGMA, DEPTH_HALF)


def render_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Gradient of the rendered colours, which takes nothing from depth: the baseline of the others."""
    return _gradient_edges(_render(scene, backend)[0], RENDER_SIGMA, RENDER_HALF)


def region_edges(
    scene: Scene, layers: Sequence[int] = (), *, damping: float = DAMPING, backend: Backend = "auto"
) -> np.ndarray:
    """Ultrametric contour map of the regions that the Gaussians own.

    Each pixel belongs to its strongest Gaussian, which depth order and opacity decide; connected pixels of one owner
    are a region; neighbouring regions merge by the difference of their rendered colours (CIELAB), small ones first.
    The strength of a boundary is the level of the merge that removes it.

    Args:
        damping: regions of this share of the picture count at half their squared difference.
    """
    return _region_edges(*_render(scene, backend), damping)


def combined_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Mean of `region_edges` and `render_edges`: where colours change, and which regions these changes keep apart."""
    picture, owner = _render(scene, backend)
    return (_region_edges(picture, owner, DAMPING) + _gradient_edges(picture, RENDER_SIGMA, RENDER_HALF)) / 2


class EdgeReadout(Protocol):
    """What turns a scene into a soft map `[H, W]` in [0, 1] of lines one pixel wide."""

    def __call__(self, scene: Scene, layers: Sequence[int] = ..., *, backend: Backend = ...) -> np.ndarray:
        """Read a scene.

        Args:
            layers: numbers of depth groups; only `layer_edges` has a use for them.
            backend: of `splatting.rasterize`.
        """


# Readouts by their names (`names.EDGE_READOUTS`); the joined views of `CLOSED` are closed, those of the others thinned.
READOUTS: dict[str, EdgeReadout] = {
    "layers": layer_edges,
    "layer-changes": change_edges,
    "expected-depth": depth_edges,
    "regions": region_edges,
    "combined": combined_edges,
    "render-gradient": render_edges,
}
CLOSED: dict[str, EdgeReadout] = {"closed-regions": partial(region_edges, damping=CLOSED_DAMPING)}


def _render(scene: Scene, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    """The picture on white, RGB `[H, W, 3]` in [0, 1], and the index of each pixel's strongest Gaussian `[H, W]`."""
    white = torch.ones(3)
    raster = rasterize(scene.splats(), scene.height, scene.width, background=white, owners=True, backend=backend)
    assert raster.owner is not None
    return raster.image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy(), raster.owner[0].cpu().numpy()


def _region_edges(picture: np.ndarray, owner: np.ndarray, damping: float) -> np.ndarray:
    from skimage.color import rgb2lab

    return _soften(merge_regions(owner, rgb2lab(picture) / 100, damping=damping * owner.size), REGION_HALF)


def _gradient_edges(picture: np.ndarray, sigma: float, half: float) -> np.ndarray:
    return _soften(suppress_nonmaxima(gradient(picture, sigma)), half)


def _soften(strength: np.ndarray, half: float) -> np.ndarray:
    """Map strengths s in [0, inf) to s / (s + half) in [0, 1), so that strong edges are not clipped."""
    return (strength / (strength + half)).astype(np.float32)


# --- from joined views to the map that is written and scored -------------------------------------------


def finish(strength: np.ndarray, sigma: float = RIDGE_SIGMA) -> np.ndarray:
    """Thin joined views `[H, W]` in [0, 1] to their crests, and stretch them.

    Stretching moves weak edges apart, which the benchmark's even thresholds would lump together; 0 and 1 stay.

    Args:
        sigma: of `contours.thin_ridges` in px.
    """
    return _stretch(thin_ridges(strength, sigma))


def close(strength: np.ndarray, sigma: float = RIDGE_SIGMA) -> np.ndarray:
    """Thin as `finish` does; then each crest is the mean of its own strength and of the closed contours around it.

    Contours close around regions of the whole photograph, so that edges which keep regions apart in all views gain.

    Args:
        sigma: of `finish` and of `contours.close_contours` in px.
    """
    crests = finish(strength, sigma)
    contours = _stretch(close_contours(strength, sigma, damping=DAMPING * strength.size))
    around = ndimage.maximum_filter(contours, 2 * _REACH + 1)
    return np.where(crests > 0, (crests + around) / 2, 0).astype(np.float32)


def _stretch(strength: np.ndarray) -> np.ndarray:
    return strength * (1 + _STRETCH_HALF) / (strength + _STRETCH_HALF)
