"""Edges from Gaussians: l@N from depth layers, and the readouts to compare it with.

Each readout is a function of a scene and returns a soft map `[H, W]` in [0, 1] of lines that are one pixel wide at any
size of the picture. It looks at the Gaussians alone; for those in `WITH_PICTURE`, `join_picture` then adds what the
photograph itself shows. `outline` makes the map that is written and scored.

Source of l@N: GMAE (arXiv 2501.03229). `Significance` defines what that paper calls a significant change.
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
    suppress_surround,
    thin_ridges,
)
from gmae_tools.zeroshot.histograms import histogram_gradient
from gmae_tools.zeroshot.layers import layer_sizes
from gmae_tools.zeroshot.names import LAYERS
from gmae_tools.zeroshot.strips import strips

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

Order = Literal["back-to-front", "front-to-back"]
Measure = Literal["color", "alpha", "share"]

# Studies of these choices: evals/studies/edge_choices.py and readout_choices.py.
CHANGE_LAYERS = 4  # depth groups whose changes of the picture are joined
CHANGE_SIGMA, DEPTH_SIGMA, RENDER_SIGMA = 1.0, 1.0, 1.0  # px, standard deviations of the Gaussian derivatives
# Strengths that become 0.5, in CIELAB / 100 per px, scene units per px, RGB per px, and CIELAB / 100.
CHANGE_HALF, DEPTH_HALF, RENDER_HALF, REGION_HALF = 0.1, 0.01, 0.05, 0.08
DAMPING = 0.001  # regions of this share of the picture count at half their squared difference
CLOSED_DAMPING = 0.01  # the same share for the readout `closed-regions`
RIDGE_SIGMA = 1.5  # px; views of a photograph agree on an edge to about a pixel
SURROUND_SIGMA = 0.05  # of the root of the picture's area
PICTURE_WEIGHT = 0.6  # of the picture's own edges, beside those of the Gaussians
SURROUND_HALF = 0.1  # mean strength of the surround at which a line loses half its strength

_STRETCH_HALF = 0.25  # the strength that stretching turns into 0.625
_REACH = 2  # px, the largest distance between a crest and the contour that belongs to it
_STRIP_NUMBERS = 1 << 21  # floats in the pictures of all groups of a strip: 8 MB are four times as fast as 128 MB
_TILE = 16  # px, height of the renderer's tiles, at which strips begin


@dataclass(frozen=True)
class Significance:
    """When a depth group counts as having changed a pixel.

    Attributes:
        measure: the change that is compared with the thresholds. `color`: the largest change of an RGB channel when
            the group is rendered over what is there, at first white. `alpha`: the share of the light from behind that
            the group absorbs. `share`: the weight of the group in the finished picture.
        thresholds: numbers in [0, 1]; a change counts if it is larger. With several, an edge is the stronger the more
            thresholds it appears at.
        order: the order in which the groups are rendered. Of all groups that change a pixel, the last one is the
            nearest (`back-to-front`) or the farthest (`front-to-back`).

    Raises:
        GmaeToolsError: there is no such measure or order, or a threshold lies outside of [0, 1].
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
    """Find which of `layers` equal depth groups changed each pixel last, for each of T thresholds.

    Apart from the result, the memory does not grow with the height of the picture.

    Args:
        scene: a scene whose Gaussians may be in any order.
        layers: number N of groups, 1 to K.
        significance: when a group counts as having changed a pixel, with T thresholds.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        int16 `[T, H, W]`: 1 for the nearest group, N for the farthest, and N + 1 where no group changed the pixel.

    Raises:
        GmaeToolsError: `layers` is less than 1 or more than K, or a parameter is not finite.
    """
    if not 1 <= layers <= scene.k:
        raise GmaeToolsError(f"cannot cut {scene.k} Gaussians into {layers} layers")
    strips = _groups(scene, layers, backend)
    return np.concatenate([_last_changes(images, alphas, significance) for images, alphas in strips], 1)


def _groups(scene: Scene, layers: int, backend: Backend) -> Iterator[tuple[Tensor, Tensor]]:
    """Render what each of N depth groups, nearest first, contributes to the picture, in strips from top to bottom.

    Yields:
        For each strip of h rows the colours `[N, 3, h, W]` and the coverage `[N, 1, h, W]`.
    """
    height, width, splats = scene.height, scene.width, scene.splats()
    order = torch.argsort(splats.depths[0], stable=True)
    splats = Splats(*(getattr(splats, field.name)[:, order] for field in fields(Splats)))
    rows = max(_TILE, _STRIP_NUMBERS // (4 * layers * width) // _TILE * _TILE)
    for part, strip, (sizes,) in strips(splats, height, rows, layer_sizes(scene.k, layers)):
        groups = rasterize_groups(strip, part.stop - part.start, width, sizes, backend=backend)
        yield groups.images[0], groups.alphas[0]


def _last_changes(images: Tensor, alphas: Tensor, significance: Significance) -> np.ndarray:
    """Return the number of the group that changed each pixel last, int16 `[T, H, W]`.

    Args:
        images, alphas: what the groups, nearest first, contribute to the finished picture, `[N, 3, H, W]` and
            `[N, 1, H, W]`.
    """
    thresholds = np.array(significance.thresholds, np.float32)
    if significance.order == "back-to-front" and significance.measure == "color":
        bare = (1 - alphas.sum(0)).clamp_min(0)  # [1, H, W], light of the white background
        contiguous = (each.contiguous().cpu().numpy() for each in (images, alphas[:, 0], bare[0]))
        return _last_painted(*contiguous, thresholds) + np.int16(1)
    layers, changes = len(images), _changes(images, alphas, significance).cpu().numpy()
    if significance.order == "back-to-front":
        return _first_above(changes, thresholds) + np.int16(1)
    skipped = _first_above(changes[::-1], thresholds)
    return np.where(skipped < layers, layers - skipped, layers + 1).astype(np.int16)


def _changes(images: Tensor, alphas: Tensor, significance: Significance) -> Tensor:
    """Measure how much each depth group changes each pixel when it is rendered, `[N, H, W]` in [0, 1].

    `_last_painted` measures colours from back to front; arguments are those of `_last_changes`.
    """
    if significance.measure == "share":
        return alphas[:, 0]
    arriving = (1 - (_running_sum(alphas) - alphas)).clamp_min(1e-10)  # [N, 1, H, W], light that reaches each group
    if significance.measure == "alpha":
        return alphas[:, 0] / arriving[:, 0]
    return (images - alphas).abs().amax(1)  # coloured light instead of white


def _running_sum(maps: Tensor) -> Tensor:
    """Compute `maps.cumsum(0)`, ten times as fast as torch if the first axis is short and the others are long."""
    return torch.stack(list(accumulate(maps)))


@kernel()
def _last_painted(images: np.ndarray, alphas: np.ndarray, bare: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the nearest group whose colour changes what is behind it by more than each of T thresholds; N if none.

    Groups are rendered from back to front over white. All sums are float32, and run from group to group.

    Args:
        images, alphas: what the groups, nearest first, contribute to the finished picture, `[N, 3, H, W]` and
            `[N, H, W]`.
        bare: what the white background contributes, `[H, W]`.
        thresholds: float32 `[T]`.
    """
    count, _, height, width = images.shape
    one, least = np.float32(1), np.float32(1e-10)
    last = np.full((len(thresholds), height, width), count, np.int16)
    absorbed = np.empty((count, width), np.float32)  # by a group and all nearer ones
    light = np.empty((3, width), np.float32)  # of a group and all farther ones
    arriving, passing, largest = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        absorbed[0] = alphas[0, y]
        for number in range(1, count):
            for x in range(width):
                absorbed[number, x] = absorbed[number - 1, x] + alphas[number, y, x]
        light[:] = 0
        for number in range(count - 1, -1, -1):
            alpha, until = alphas[number, y], absorbed[number]
            for x in range(width):
                arriving[x] = max(one - (until[x] - alpha[x]), least)
                passing[x] = max(arriving[x] - alpha[x], least)
            largest[:] = 0
            for channel in range(3):
                own, lit, white = images[number, channel, y], light[channel], bare[y]
                for x in range(width):
                    lit[x] += own[x]
                    behind = (lit[x] - own[x] + white[x]) / passing[x]
                    largest[x] = max(largest[x], abs((own[x] - alpha[x] * behind) / arriving[x]))
            for index in range(len(thresholds)):
                row, threshold = last[index, y], thresholds[index]
                for x in range(width):
                    row[x] = number if largest[x] > threshold else row[x]
    return last


@kernel()
def _first_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the first index along `values` `[N, H, W]` at which each of T thresholds is exceeded; N if none is."""
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
    """Read out l@N: the places where the index map of `layer_index` jumps.

    Args:
        scene: a scene whose Gaussians may be in any order.
        layers: numbers N of depth groups, 1 to K each; the maps of several are averaged.
        significance: when a group counts as having changed a pixel.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        float32 `[H, W]`: the share of all pairs of N and threshold at which the index jumps at this pixel.

    Raises:
        GmaeToolsError: as for `layer_index`.
    """
    counted = np.zeros((scene.height, scene.width), np.float32)
    for count in layers:
        for index in layer_index(scene, count, significance=significance, backend=backend):
            counted += jumps(index) > 0
    return counted / (len(layers) * len(significance.thresholds))


def change_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Compute the joint gradient of the changes that a few depth groups make when each is rendered over those behind.

    l@N shows which group changed a pixel last; this readout shows where the change by a group, in CIELAB, begins.
    Arguments and result are those of `EdgeReadout`.
    """
    count = min(CHANGE_LAYERS, scene.k)
    changes = np.concatenate([_color_changes(*strip) for strip in _groups(scene, count, backend)], 1)
    return _gradient_edges(np.moveaxis(changes, 0, -1), CHANGE_SIGMA, CHANGE_HALF)


def _color_changes(images: Tensor, alphas: Tensor) -> np.ndarray:
    """Measure how much each group changes the picture of all groups behind it, on white.

    Args:
        images, alphas: as for `_changes`.

    Returns:
        Distances in CIELAB / 100, float32 `[N, H, W]`.
    """
    from skimage.color import rgb2lab

    arriving = (1 - (_running_sum(alphas) - alphas)).clamp_min(1e-10)
    light = _running_sum(images.flip(0)).flip(0) + (1 - alphas.sum(0)).clamp_min(0)
    painted = (light / arriving).clamp(0, 1).movedim(1, -1).cpu().numpy()  # each group and all behind it
    colors = rgb2lab(np.concatenate([painted, np.ones_like(painted[:1])])).astype(np.float32) / 100
    return np.asarray(np.linalg.norm(np.diff(colors, axis=0), axis=-1), np.float32)


def depth_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Compute the gradient of the expected depth; arguments and result are those of `EdgeReadout`.

    The expected depth of a pixel is the mean of the Gaussians' depths, weighted by their shares of the pixel.
    """
    depth = rasterize(scene.splats(), scene.height, scene.width, depth=True, backend=backend).depth
    assert depth is not None
    return _gradient_edges(depth[0].permute(1, 2, 0).cpu().numpy(), DEPTH_SIGMA, DEPTH_HALF)


def render_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Compute the gradient of the rendered colours; arguments and result are those of `EdgeReadout`.

    It does not use depth, and is the baseline for the other readouts.
    """
    return _gradient_edges(_render(scene, backend)[0], RENDER_SIGMA, RENDER_HALF)


def region_edges(
    scene: Scene, layers: Sequence[int] = (), *, damping: float = DAMPING, backend: Backend = "auto"
) -> np.ndarray:
    """Compute the ultrametric contour map of the regions in which one Gaussian is the strongest.

    Depth order and opacity decide which Gaussian has the largest share of a pixel. Connected pixels with the same
    strongest Gaussian are a region. Neighbouring regions are merged by the difference of their rendered colours
    (CIELAB), small ones first. The strength of a boundary is the level of the merge that removes it.

    Args:
        scene, layers, backend: as for `EdgeReadout`.
        damping: share of the picture; regions of this size count at half their squared difference.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    return _region_edges(*_render(scene, backend), damping)


def combined_edges(scene: Scene, layers: Sequence[int] = (), *, backend: Backend = "auto") -> np.ndarray:
    """Compute the mean of `region_edges` and `render_edges`; arguments and result are those of `EdgeReadout`."""
    picture, owner = _render(scene, backend)
    return (_region_edges(picture, owner, DAMPING) + _gradient_edges(picture, RENDER_SIGMA, RENDER_HALF)) / 2


class EdgeReadout(Protocol):
    """A function from a scene to a soft map `[H, W]` in [0, 1] of lines one pixel wide."""

    def __call__(self, scene: Scene, layers: Sequence[int] = ..., *, backend: Backend = ...) -> np.ndarray:
        """Read the edges of a scene.

        Args:
            scene: a scene whose Gaussians may be in any order.
            layers: numbers of depth groups; all readouts but `layer_edges` ignore them.
            backend: renderer, as for `splatting.rasterize`.

        Returns:
            float32 `[H, W]` in [0, 1].
        """


_closed_regions = partial(region_edges, damping=CLOSED_DAMPING)

# Readouts by their names (`names.EDGE_READOUTS`).
READOUTS: dict[str, EdgeReadout] = {
    "layers": layer_edges,
    "layer-changes": change_edges,
    "expected-depth": depth_edges,
    "regions": region_edges,
    "combined": combined_edges,
    "render-gradient": render_edges,
    "closed-regions": _closed_regions,
    "regions-and-photo": _closed_regions,
}
WITH_PICTURE = ("regions-and-photo",)


def _render(scene: Scene, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    """Render the picture on white, RGB `[H, W, 3]` in [0, 1], and each pixel's strongest Gaussian, int `[H, W]`."""
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


def join_picture(strength: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Average the joined map of all views with the edges of the picture itself, before both are outlined together.

    The group `picture` of evals/studies/edge_choices.py measures what each of them brings.

    Args:
        strength: `[H, W]` in [0, 1].
        picture: uint8 RGB `[H, W, 3]`.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    own = histogram_gradient(picture)
    return ((1 - PICTURE_WEIGHT) * strength + PICTURE_WEIGHT * own).astype(np.float32)


def outline(strength: np.ndarray) -> np.ndarray:
    """Make the map that is written and scored from the joined map of all views, whatever the readout.

    Texture is weakened by `contours.suppress_surround`; lines are thinned, and those that do not close are weakened, by
    `close`. The group `outlines` of evals/studies/edge_choices.py measures what each step brings.

    Args:
        strength: `[H, W]` in [0, 1].

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    return close(suppress_surround(strength, SURROUND_SIGMA * strength.size**0.5, SURROUND_HALF))


def finish(strength: np.ndarray, sigma: float = RIDGE_SIGMA) -> np.ndarray:
    """Thin the joined map of several views to its crests, and stretch the strengths.

    Stretching spreads the strengths of weak edges, because the evenly spaced thresholds of the benchmark would hardly
    tell them apart; 0 and 1 stay as they are.

    Args:
        strength: `[H, W]` in [0, 1].
        sigma: standard deviation of the blur in `contours.thin_ridges`, in pixels.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    return _stretch(thin_ridges(strength, sigma))


def close(strength: np.ndarray, sigma: float = RIDGE_SIGMA) -> np.ndarray:
    """Thin as `finish` does, and average each crest with the closed contours near it.

    The contours close around regions of the whole photograph, so that edges which separate regions in all views become
    stronger than others.

    Args:
        strength: `[H, W]` in [0, 1].
        sigma: standard deviation of the blur in `finish` and in `contours.close_contours`, in pixels.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    crests = finish(strength, sigma)
    contours = _stretch(close_contours(strength, sigma, damping=DAMPING * strength.size))
    around = ndimage.maximum_filter(contours, 2 * _REACH + 1)
    return np.where(crests > 0, (crests + around) / 2, 0).astype(np.float32)


def _stretch(strength: np.ndarray) -> np.ndarray:
    return strength * (1 + _STRETCH_HALF) / (strength + _STRETCH_HALF)
