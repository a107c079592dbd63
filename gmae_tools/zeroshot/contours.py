"""Contours of pictures and partitions: gradients, non-maximum suppression, region merging.

All functions take NumPy arrays in pixels, and none needs Gaussians or a model.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gmae_tools.system.kernels import kernel

Array = np.ndarray


class Gradient(NamedTuple):
    """Steepest change of a picture: `magnitude` per px and direction, unit vectors (`dx`, `dy`); all `[H, W]`."""

    magnitude: Array
    dx: Array
    dy: Array


def gradient(picture: Array, sigma: float) -> Gradient:
    """Gradient of a picture by Gaussian derivatives.

    Several channels are joined by their structure tensor: its larger eigenvalue is the squared magnitude, and the
    eigenvector the direction, whose sign has no meaning (Di Zenzo, "A note on the gradient of a multi-image", 1986).

    Args:
        picture: `[H, W]` or `[H, W, C]`.
        sigma: of the Gaussian in px.
    """
    channels = np.atleast_3d(np.asarray(picture, np.float32))
    xx = yy = xy = np.zeros(channels.shape[:2], np.float32)
    for channel in np.moveaxis(channels, -1, 0):
        across = ndimage.gaussian_filter(channel, sigma, order=(0, 1))
        down = ndimage.gaussian_filter(channel, sigma, order=(1, 0))
        xx, yy, xy = xx + across * across, yy + down * down, xy + across * down
    largest = (xx + yy + np.hypot(xx - yy, 2 * xy)) / 2
    angle = np.arctan2(2 * xy, xx - yy) / 2
    return Gradient(np.sqrt(largest), np.cos(angle), np.sin(angle))


def suppress_nonmaxima(slope: Gradient) -> Array:
    """The magnitude `[H, W]` where it is a maximum along its own direction, 0 elsewhere.

    Neighbours one pixel away are interpolated bilinearly. Of two equal neighbours the one up the direction is kept, so
    that plateaus two pixels wide leave one line and a flat region none.
    """
    return _suppress(*(np.ascontiguousarray(array, np.float32) for array in slope))


@kernel()
def _suppress(strength: Array, dx: Array, dy: Array) -> Array:
    height, width = strength.shape
    kept = np.zeros_like(strength)
    for y in range(height):
        for x in range(width):
            s = strength[y, x]
            ahead = _bilinear(strength, y + dy[y, x], x + dx[y, x])
            behind = _bilinear(strength, y - dy[y, x], x - dx[y, x])
            if s > ahead and s >= behind:
                kept[y, x] = s
    return kept


@kernel()
def _bilinear(values: Array, y: float, x: float) -> float:
    """`values` between pixels; beyond the border those of the nearest border pixel."""
    height, width = values.shape
    y = min(max(y, 0.0), height - 1.0)
    x = min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = (1 - u) * values[top, left] + u * values[top, right]
    lower = (1 - u) * values[bottom, left] + u * values[bottom, right]
    return (1 - v) * upper + v * lower


def thin_ridges(strength: Array, sigma: float) -> Array:
    """Blur a soft map `[H, W]` of lines, and keep the crests: lines side by side become one, strong ones stay strong.

    The direction across a ridge is that of the most negative second derivative.

    Args:
        sigma: of the Gaussian in px.
    """
    smooth, xx, yy, xy = (
        ndimage.gaussian_filter(strength.astype(np.float32), scale, order=order)
        for scale, order in ((sigma, (0, 0)), *((1.5 * sigma, order) for order in ((0, 2), (2, 0), (1, 1))))
    )
    angle = (np.arctan2(2 * xy, xx - yy) + np.pi) / 2
    return suppress_nonmaxima(Gradient(smooth, np.cos(angle), np.sin(angle)))


def jumps(labels: Array) -> Array:
    """Size of the jumps of a map of numbers `[H, W]`: lines one pixel wide, 0 where nothing changes.

    A pixel holds the larger difference to its right and lower neighbours (the convention of the BSDS ground truth,
    `seg2bdry` at image size).
    """
    values = np.asarray(labels, np.float32)
    size = np.zeros_like(values)
    size[:, :-1] = np.abs(np.diff(values, axis=1))
    np.maximum(size[:-1], np.abs(np.diff(values, axis=0)), out=size[:-1])
    return size


def merge_regions(labels: Array, features: Array, *, barrier: Array | None = None, damping: float = 0.0) -> Array:
    """Ultrametric contour map of a partition: at which level the regions on both sides of a boundary become one.

    The two neighbouring regions most alike are merged, again and again. Their dissimilarity is the distance of their
    mean features times sqrt(s / (s + damping)), s the area of the smaller one: small regions go early. The level of a
    merge is the largest dissimilarity so far, so that thresholds of the map give nested partitions.

    Args:
        labels: int `[H, W]`; pixels of one label that touch at a side are one region.
        features: `[H, W, C]`, such as the colour in a perceptually uniform space.
        barrier: `[H, W]`, what else keeps regions apart; see `merge_tree`.
        damping: area in px at which a region's weight is halved (squared); 0 for none.

    Returns:
        float32 `[H, W]`, one pixel wide lines as `jumps` makes them; 0 inside regions.
    """
    from skimage.measure import label

    regions = label(labels, background=np.min(labels) - 1, connectivity=1) - 1
    tree = merge_tree(regions, features, barrier=barrier, damping=damping)
    return _paint(regions, tree.parents, tree.levels)


def close_contours(strength: Array, sigma: float, *, damping: float = 0.0) -> Array:
    """Ultrametric contour map of a soft map of lines: what closes around a region stays strong, what does not fades.

    The basins of the blurred map merge by its mean along the border between them, as `merge_regions` merges by colour.
    After Arbelaez et al., "Contour detection and hierarchical image segmentation" (TPAMI 2011), whose strengths
    also have a direction.

    Args:
        strength: `[H, W]`, 0 or more.
        sigma: of the Gaussian in px.
        damping: as for `merge_regions`.

    Returns:
        float32 `[H, W]`, lines as `merge_regions` makes them.
    """
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(strength.astype(np.float32), sigma)
    regions = np.maximum(watershed(smooth).astype(np.int64) - 1, 0)  # a plain has no basin, and so no labels
    tree = merge_tree(regions, np.zeros((*smooth.shape, 0)), barrier=smooth, damping=damping)
    return _paint(regions, tree.parents, tree.levels)


class MergeTree(NamedTuple):
    """The merges of n regions down to one; regions that a merge makes are numbered on from n, in order.

    Attributes:
        pairs: neighbours among the n regions `[E, 2]`, each pair once, the smaller number first.
        parents: the region that each becomes part of `[2 n - 1]`; the last is its own.
        levels: at which each was made `[2 n - 1]`, never falling from merge to merge; 0 for the n regions.
    """

    pairs: Array
    parents: Array
    levels: Array

    def partition(self, count: int) -> Array:
        """The part, 0..count - 1, that each of the n regions belongs to when `count` are left, int `[n]`."""
        regions = (len(self.parents) + 1) // 2
        made = max(2 * regions - count, regions)
        part = np.where(self.parents[:made] < made, self.parents[:made], np.arange(made))
        while (part[part] != part).any():
            part = part[part]
        return np.unique(part[:regions], return_inverse=True)[1]


def merge_tree(regions: Array, features: Array, *, barrier: Array | None = None, damping: float = 0.0) -> MergeTree:
    """Merge a partition as `merge_regions` does, and keep the tree.

    Args:
        regions: int `[H, W]`, 0..n - 1, each of them somewhere; a region need not be in one piece.
        features: `[H, W, C]`, C may be 0.
        barrier: `[H, W]`, 0 or more: its mean along the border between two regions is added to the distance of their
            features. At each step from pixel to pixel the larger of both counts.
        damping: area in px.
    """
    regions = regions.astype(np.int64)
    count = int(regions.max()) + 1
    areas = np.bincount(regions.ravel(), minlength=count).astype(np.float64)
    means = np.zeros((count, features.shape[-1]))
    for channel in range(features.shape[-1]):
        means[:, channel] = np.bincount(regions.ravel(), features[..., channel].ravel(), count) / areas
    borders = _borders(regions, count, np.zeros(regions.shape) if barrier is None else barrier)
    return MergeTree(borders.pairs, *_merge(*borders, means, areas, damping))


class _Borders(NamedTuple):
    """Pairs of neighbouring regions `[E, 2]`, each once, the smaller number first; of each border the number of steps
    across, and the sum of the barrier at them, `[E]`.
    """

    pairs: Array
    lengths: Array
    heights: Array


def _borders(regions: Array, count: int, barrier: Array) -> _Borders:
    first, second, height = (
        np.concatenate([across.ravel(), down.ravel()])
        for across, down in (
            (regions[:, :-1], regions[:-1]),
            (regions[:, 1:], regions[1:]),
            (np.maximum(barrier[:, :-1], barrier[:, 1:]), np.maximum(barrier[:-1], barrier[1:])),
        )
    )
    apart = first != second
    keys = np.minimum(first, second) * count + np.maximum(first, second)
    unique, border = np.unique(keys[apart], return_inverse=True)
    pairs = np.stack([unique // count, unique % count], 1)
    sizes = (np.bincount(border, weights, len(unique)) for weights in (np.ones(len(border)), height[apart]))
    return _Borders(pairs, *sizes)


@kernel()
def _dissimilarity(a: int, b: int, barrier: float, means: Array, areas: Array, damping: float) -> float:
    squared = 0.0
    for channel in range(means.shape[1]):
        squared += (means[a, channel] - means[b, channel]) ** 2
    smaller = min(areas[a], areas[b])
    share = smaller / (smaller + damping)
    return np.sqrt(squared * share) + barrier * np.sqrt(share)


@kernel()
def _merge(
    pairs: Array, border_lengths: Array, border_heights: Array, leaf_means: Array, leaf_areas: Array, damping: float
) -> tuple[Array, Array]:
    """Merge to the end. Returns the tree: `parents` [2 n - 1] (n leaves, then the merges in order) and `levels` of all.

    The neighbours of a region are a linked list: link l leads to region `neighbour[l]` and on to link `following[l]`,
    and keeps what is known of the border with it.
    """
    count, channels = leaf_means.shape
    total = 2 * count - 1
    parents, roots, met = np.arange(total), np.arange(total), np.full(total, -1)
    levels, areas, means = np.zeros(total), np.zeros(total), np.zeros((total, channels))
    areas[:count], means[:count] = leaf_areas, leaf_means
    head, tail = np.full(total, -1), np.full(total, -1)
    following, neighbour = np.full(2 * len(pairs), -1), np.zeros(2 * len(pairs), np.int64)
    lengths, heights = np.repeat(border_lengths, 2), np.repeat(border_heights, 2)
    heap = [(0.0, 0, 0) for _ in range(0)]
    for index in range(len(pairs)):
        a, b = pairs[index]
        barrier = border_heights[index] / border_lengths[index]
        heap.append((_dissimilarity(a, b, barrier, means, areas, damping), a, b))
        for link, mine, other in ((2 * index, a, b), (2 * index + 1, b, a)):
            neighbour[link], following[link] = other, head[mine]
            if head[mine] < 0:
                tail[mine] = link
            head[mine] = link
    heapq.heapify(heap)
    node, level = count, 0.0
    while heap:
        cheapest, a, b = heapq.heappop(heap)
        if roots[a] != a or roots[b] != b:
            continue  # one of them is part of something larger by now, for which there is another entry
        level = max(level, cheapest)
        parents[a] = parents[b] = roots[a] = roots[b] = node
        levels[node], areas[node] = level, areas[a] + areas[b]
        means[node] = (means[a] * areas[a] + means[b] * areas[b]) / areas[node]
        following[tail[a]] = head[b]
        head[node], tail[node] = head[a], tail[b]
        for link in _tidy_links(node, head, tail, following, neighbour, lengths, heights, roots, met):
            other, barrier = neighbour[link], heights[link] / lengths[link]
            heapq.heappush(heap, (_dissimilarity(node, other, barrier, means, areas, damping), other, node))
        node += 1
    return parents, levels


@kernel()
def _tidy_links(
    node: int, head: Array, tail: Array, following: Array, neighbour: Array, lengths: Array, heights: Array,
    roots: Array, met: Array,
) -> list[int]:  # fmt: skip
    """Leave one link from a new region to each beside it, for the whole border; links back into it are taken out.

    `roots` leads from a region to the one it is part of by now, with shortcuts; `met`, -1 everywhere before and after,
    has the link that is left to each region. Returns the links that are left.
    """
    left = [0 for _ in range(0)]
    before, link = -1, int(head[node])
    while link >= 0:
        other = neighbour[link]
        while roots[other] != other:
            roots[other] = roots[roots[other]]
            other = roots[other]
        neighbour[link] = other
        if other != node and met[other] < 0:
            met[other] = link
            left.append(link)
            before = link
        else:
            if other != node:
                lengths[met[other]] += lengths[link]
                heights[met[other]] += heights[link]
            if before < 0:
                head[node] = following[link]
            else:
                following[before] = following[link]
        link = int(following[link])
    tail[node] = before
    for kept in left:
        met[neighbour[kept]] = -1
    return left


@kernel()
def _paint(regions: Array, parents: Array, levels: Array) -> Array:
    """At each boundary the level of the lowest common ancestor: a parent's number is always the larger."""
    height, width = regions.shape
    contours = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            for below, right in ((0, 1), (1, 0)):
                if y + below < height and x + right < width:
                    a, b = regions[y, x], regions[y + below, x + right]
                    while a != b:
                        if a < b:
                            a = parents[a]
                        else:
                            b = parents[b]
                    contours[y, x] = max(contours[y, x], levels[a])  # 0 for a leaf: no boundary
    return contours
