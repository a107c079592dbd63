"""Figure and ground from Gaussians, untrained: how likely each pixel belongs to what the picture is of.

Both methods are functions of one set of Gaussians; none of them looks at the photograph.

- `depth`: how far each Gaussian lies among all, composited. Which end of the depths is the figure is decided by the
  border of the picture, which mostly shows ground.
- `grouped`: the Gaussians are the nodes of a graph. They merge by colour into fewer and fewer groups; at several
  numbers of groups, what differs from the groups that hold on to the border, near the middle, is figure (after Zhu et
  al., "Saliency optimization from robust background detection", CVPR 2014, which has superpixels as nodes). The scores
  of the Gaussians are composited.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.csgraph import dijkstra

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import Backend, rasterize
from gmae_tools.zeroshot.contours import MergeTree, merge_tree

Array = np.ndarray
METHODS = ("grouped", "depth")

GRAPH_PIXELS = 112 * 112  # of the picture on which the graph is built
DAMPING = 0.001  # groups of this share of the picture count at half their squared difference


@dataclass(frozen=True)
class Grouping:
    """The constants of `grouped`. Study: evals/figure_ground_choices.py.

    Attributes:
        counts: numbers of groups; their scores are averaged.
        color_sigma: CIELAB units along a path of groups within which two count as one, and side by side are bound.
        border_sigma: sides of a square group of the same area that lie at the border: at this many it is ground, about.
        place_sigma: widths and heights of the picture, of the contrast between groups.
        centre_sigma: the same, of the preference for the middle; None for none.
        link: least strength with which neighbours are bound.
    """

    counts: tuple[int, ...] = (10, 20, 40, 80)
    color_sigma: float = 10.0
    border_sigma: float = 1.0
    place_sigma: float = 0.25
    centre_sigma: float | None = 0.25
    link: float = 0.1


DEFAULT_GROUPING = Grouping()


def figure_probability(
    gaussians: Gaussians,
    camera: Camera,
    height: int,
    width: int,
    *,
    method: str = "grouped",
    grouping: Grouping = DEFAULT_GROUPING,
    backend: Backend = "auto",
) -> Array:
    """How likely each pixel is figure, at any size of the picture.

    Args:
        gaussians: a batch of one, in any order.
        method: one of METHODS; see the head of this module.
        grouping: for `grouped`.
        backend: that draws; see `splatting.rasterize`.

    Returns:
        float32 `[H, W]` in [0, 1], spanning it wherever the Gaussians differ at all; 0 where no Gaussian is.

    Raises:
        GmaeToolsError: an unknown method, a batch of more than one, or a parameter that is not finite.
    """
    if gaussians.batch_size != 1:
        raise GmaeToolsError(f"figure and ground are of one set of Gaussians, not of {gaussians.batch_size}")
    if method == "depth":
        return _depth_figure(gaussians, camera, height, width, backend)
    if method != "grouped":
        raise GmaeToolsError(f"there is no method {method!r} of figure and ground: use {' or '.join(METHODS)}")
    scores = group_scores(gaussians, camera, height, width, grouping, backend)
    return composite(gaussians, camera, height, width, scores, backend)


def figure_mask(probability: Array) -> Array:
    """Figure, bool `[H, W]`: above Otsu's threshold of the map `[H, W]`; nothing where the map is the same all over."""
    from skimage.filters import threshold_otsu

    if probability.min() == probability.max():
        return np.zeros(probability.shape, bool)
    return np.asarray(probability > threshold_otsu(probability))


def composite(
    gaussians: Gaussians, camera: Camera, height: int, width: int, scores: Array, backend: Backend = "auto"
) -> Array:
    """A score `[K]` of each Gaussian, drawn as its colour and stretched to [0, 1], float32 `[H, W]`.

    Gaussians without a score (NaN) are left out.
    """
    known = torch.from_numpy(np.isfinite(scores)).to(gaussians.device)
    color = torch.from_numpy(np.nan_to_num(scores)).to(gaussians.means)[None, :, None]
    splats = project(gaussians, camera, height, width)
    splats = replace(splats, colors=color, opacities=splats.opacities * known)
    raster = rasterize(splats, height, width, backend=backend)
    image = raster.image[0, 0] / raster.alpha[0, 0].clamp_min(1e-6)
    return _unit(image.cpu().numpy())


def _unit(values: Array) -> Array:
    """Stretched to [0, 1], float32; 0 where nothing differs."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)


# --- depth -------------------------------------------------------------------------------------------


def _depth_figure(gaussians: Gaussians, camera: Camera, height: int, width: int, backend: Backend) -> Array:
    depths = gaussians.means[0, :, 2].double().cpu().numpy()
    farness = composite(gaussians, camera, height, width, depths, backend)
    return farness if far_is_figure(farness) else 1 - farness


def far_is_figure(farness: Array) -> bool:
    """The rule of the side: figure is the side of Otsu's threshold that has the smaller share of the border."""
    far = figure_mask(farness)
    border = np.concatenate([far[0], far[-1], far[1:-1, 0], far[1:-1, -1]])
    return bool(border.mean() <= 0.5)


# --- grouped -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """The Gaussians that are seen, as n nodes: each is the pixels of which it is the strongest Gaussian.

    Attributes:
        gaussians: number of each node's Gaussian, -1 for the pixels where none is, int `[n]`.
        sums: of its pixels, as shares of the picture `[n, 7]`: area; area times L, a, b, x and y (in picture widths and
            heights); and the share of the picture's border, of which each side counts as 1.
        tree: how the nodes merge by colour.
    """

    gaussians: Array
    sums: Array
    tree: MergeTree


def graph(gaussians: Gaussians, camera: Camera, height: int, width: int, backend: Backend = "auto") -> Graph:
    """Draw the Gaussians on white, and see which are neighbours, what colour they show and how they merge."""
    from skimage.color import rgb2lab

    shrink = np.sqrt(GRAPH_PIXELS / (height * width))
    height, width = max(2, round(height * shrink)), max(2, round(width * shrink))
    splats = project(gaussians, camera, height, width)
    white = gaussians.means.new_ones(3)
    raster = rasterize(splats, height, width, background=white, owners=True, backend=backend)
    assert raster.owner is not None
    owners, nodes = np.unique(raster.owner[0].cpu().numpy(), return_inverse=True)
    nodes = nodes.reshape(height, width)
    lab = rgb2lab(raster.image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy())
    tree = merge_tree(nodes, lab, damping=DAMPING * height * width)
    return Graph(owners, _sums(nodes, lab), tree)


def _sums(nodes: Array, lab: Array) -> Array:
    height, width = nodes.shape
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    border = np.zeros((height, width))
    border[[0, -1]] += 1 / width
    border[:, [0, -1]] += 1 / height
    pixel = 1 / (height * width)
    channels = [np.full((height, width), pixel), *np.moveaxis(lab * pixel, -1, 0), x * pixel, y * pixel, border]
    return np.stack([np.bincount(nodes.ravel(), channel.ravel()) for channel in channels], 1)


def group_scores(
    gaussians: Gaussians, camera: Camera, height: int, width: int, grouping: Grouping, backend: Backend = "auto"
) -> Array:
    """Score of each Gaussian, the mean over the numbers of groups, `[K]` in [0, 1]; NaN for those that own no pixel."""
    nodes = graph(gaussians, camera, height, width, backend)
    total = np.zeros(len(nodes.gaussians))
    for count in grouping.counts:
        part = nodes.tree.partition(count)
        total += _score_groups(part, nodes, grouping)[part]
    scores = np.full(gaussians.k, np.nan)
    seen = nodes.gaussians >= 0
    scores[nodes.gaussians[seen]] = total[seen] / len(grouping.counts)
    return scores


def _score_groups(part: Array, nodes: Graph, grouping: Grouping) -> Array:
    """Saliency in [0, 1] of the groups of a partition, `[n]`, after Zhu et al. (2014), equations 2 to 9."""
    count = int(part.max()) + 1
    sums = np.zeros((count, nodes.sums.shape[1]))
    np.add.at(sums, part, nodes.sums)
    area, border = sums[:, 0], sums[:, 6]
    lab, place = sums[:, 1:4] / area[:, None], sums[:, 4:6] / area[:, None]
    difference = _distances(lab)
    beside = np.zeros((count, count), bool)
    beside[tuple(part[nodes.tree.pairs].T)] = True
    beside |= beside.T | np.outer(border > 0, border > 0)
    np.fill_diagonal(beside, False)

    # Ground: much border for its area, area and border being those of all that looks alike on the way there.
    path = dijkstra(np.where(beside, difference + 1e-6, 0), directed=False)  # 0 would be no edge
    alike = _bell(path, grouping.color_sigma)
    ground = 1 - _bell((alike @ border) / np.sqrt(alike @ area), grouping.border_sigma)

    # Figure: differs from the ground around it, near the middle.
    figure = (difference * _bell(_distances(place), grouping.place_sigma)) @ (ground * area)
    if grouping.centre_sigma is not None:
        figure = figure * _bell(np.hypot(*(place - 0.5).T), grouping.centre_sigma)
    figure = _unit(figure)

    # Between the two the least squares, with neighbours of like colour bound together.
    bonds = np.where(beside, _bell(difference, grouping.color_sigma) + grouping.link, 0)
    weight = area * count
    system = np.diag(bonds.sum(1) + weight * (ground + figure)) - bonds
    return _unit(np.linalg.solve(system, weight * figure))


def _distances(points: Array) -> Array:
    """Euclidean distances `[n, n]` of points `[n, D]`."""
    return np.sqrt(((points[:, None] - points) ** 2).sum(-1))


def _bell(distance: Array, sigma: float) -> Array:
    return np.exp(-((distance / sigma) ** 2) / 2)
