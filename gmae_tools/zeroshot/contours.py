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
    """The steepest change of a picture at each pixel.

    Attributes:
        magnitude: change per pixel, float `[H, W]`, 0 or more.
        dx, dy: the unit vector in whose direction the picture changes most, float `[H, W]` each.
    """

    magnitude: Array
    dx: Array
    dy: Array


def gradient(picture: Array, sigma: float) -> Gradient:
    """Compute the gradient of a picture by Gaussian derivatives.

    Several channels are joined by their structure tensor: its larger eigenvalue is the squared magnitude, and the
    eigenvector the direction, whose sign has no meaning (Di Zenzo, "A note on the gradient of a multi-image", 1986).

    Args:
        picture: `[H, W]` or `[H, W, C]`, in any unit.
        sigma: standard deviation of the Gaussian in pixels.
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
    """Keep the magnitude of a gradient where it is a maximum along its own direction, and set it to 0 elsewhere.

    The neighbours one pixel ahead and behind are interpolated bilinearly. A pixel must be larger than the one ahead and
    at least as large as the one behind, so that a plateau two pixels wide leaves one line, and a flat region none.

    Returns:
        float32 `[H, W]`.
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
    """Interpolate `values` between pixels. Places beyond the border have the value of the nearest border pixel."""
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
    """Blur a soft map of lines and keep its crests, so that lines side by side become one.

    The direction across a ridge is that of the most negative second derivative.

    Args:
        strength: `[H, W]`, 0 or more.
        sigma: standard deviation of the Gaussian in pixels.

    Returns:
        float32 `[H, W]`: the blurred strength on crests, 0 elsewhere.
    """
    smooth, xx, yy, xy = (
        ndimage.gaussian_filter(strength.astype(np.float32), scale, order=order)
        for scale, order in ((sigma, (0, 0)), *((1.5 * sigma, order) for order in ((0, 2), (2, 0), (1, 1))))
    )
    angle = (np.arctan2(2 * xy, xx - yy) + np.pi) / 2
    return suppress_nonmaxima(Gradient(smooth, np.cos(angle), np.sin(angle)))


def suppress_surround(strength: Array, sigma: float, half: float) -> Array:
    """Weaken the lines of a soft map where there are many of them, as in texture, and keep those that stand alone.

    Each strength s becomes s / (1 + m / h), where m is the Gaussian-weighted mean of the strengths around it and h is
    `half`. The idea is that of Grigorescu, Petkov and Westenberg, "Contour detection based on nonclassical receptive
    field inhibition" (IEEE Transactions on Image Processing 12, 2003), with division in the place of subtraction.

    Args:
        strength: `[H, W]`, 0 or more.
        sigma: standard deviation of the Gaussian in pixels.
        half: mean strength of the surround at which a line loses half its strength, more than 0.

    Returns:
        float32 `[H, W]`, nowhere more than `strength`.
    """
    values = np.asarray(strength, np.float32)
    return values / (1 + ndimage.gaussian_filter(values, sigma, truncate=3) / half)


def jumps(labels: Array) -> Array:
    """Measure how much a map of numbers `[H, W]` changes from pixel to pixel.

    Returns:
        float32 `[H, W]`: the larger of a pixel's absolute differences from its right and its lower neighbour, 0 where
        nothing changes. Changes become lines one pixel wide. This is the convention of the BSDS ground truth
        (`seg2bdry` at image size).
    """
    values = np.asarray(labels, np.float32)
    size = np.zeros_like(values)
    size[:, :-1] = np.abs(np.diff(values, axis=1))
    np.maximum(size[:-1], np.abs(np.diff(values, axis=0)), out=size[:-1])
    return size


def merge_regions(labels: Array, features: Array, *, barrier: Array | None = None, damping: float = 0.0) -> Array:
    """Compute the ultrametric contour map of a partition: the level at which each boundary disappears.

    The two most similar neighbouring regions are merged, again and again. Their dissimilarity is the distance between
    their mean features times sqrt(s / (s + damping)), where s is the area of the smaller one, so that small regions are
    merged early. The level of a merge is the largest dissimilarity so far, so that thresholds of the map give nested
    partitions.

    Args:
        labels: int `[H, W]`; pixels of one label that touch at a side are one region.
        features: `[H, W, C]`, such as the colour in a perceptually uniform space.
        barrier: `[H, W]`, which also keeps regions apart; see `merge_tree`.
        damping: area in pixels at which a region counts at half its squared dissimilarity; 0 for no damping.

    Returns:
        float32 `[H, W]`, lines one pixel wide as those of `jumps`; 0 inside regions.
    """
    from skimage.measure import label

    regions = label(labels, background=np.min(labels) - 1, connectivity=1) - 1
    tree = merge_tree(regions, features, barrier=barrier, damping=damping)
    return _paint(regions, tree.parents, tree.levels)


def close_contours(strength: Array, sigma: float, *, damping: float = 0.0) -> Array:
    """Compute the ultrametric contour map of a soft map of lines.

    Lines that close around a region stay strong, and all others become weak: the basins of the blurred map merge by its
    mean along the border between them, as `merge_regions` merges by colour. The method follows Arbelaez et al.,
    "Contour detection and hierarchical image segmentation" (TPAMI 2011), whose strengths also have a direction.

    Args:
        strength: `[H, W]`, 0 or more.
        sigma: standard deviation of the Gaussian in pixels.
        damping: as for `merge_regions`.

    Returns:
        float32 `[H, W]`, lines one pixel wide as those of `merge_regions`.
    """
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(strength.astype(np.float32), sigma)
    regions = np.maximum(watershed(smooth).astype(np.int64) - 1, 0)  # a constant map has no basin, so label 0 only
    tree = merge_tree(regions, np.zeros((*smooth.shape, 0)), barrier=smooth, damping=damping)
    return _paint(regions, tree.parents, tree.levels)


class MergeTree(NamedTuple):
    """The merges of n regions down to one. The merges in order make the regions n to 2 n - 2.

    Attributes:
        pairs: neighbours among the n regions, int `[E, 2]`, each pair once, the smaller number first.
        parents: for each region the number of the merged region that it becomes part of, int `[2 n - 1]`; the last
            region is its own parent.
        levels: level of the merge that made each region, float `[2 n - 1]`, never less than that of the merge before;
            0 for the first n regions.
    """

    pairs: Array
    parents: Array
    levels: Array

    def partition(self, count: int) -> Array:
        """Return the part, 0 to count - 1, of each of the n regions when `count` parts are left, int `[n]`."""
        regions = (len(self.parents) + 1) // 2
        made = max(2 * regions - count, regions)
        part = np.where(self.parents[:made] < made, self.parents[:made], np.arange(made))
        while (part[part] != part).any():
            part = part[part]
        return np.unique(part[:regions], return_inverse=True)[1]


def merge_tree(regions: Array, features: Array, *, barrier: Array | None = None, damping: float = 0.0) -> MergeTree:
    """Merge a partition as `merge_regions` does, and keep the tree.

    Args:
        regions: int `[H, W]`, the numbers 0 to n - 1, each at least once; a region need not be in one piece.
        features: `[H, W, C]`; C may be 0.
        barrier: `[H, W]`, 0 or more: its mean along the border between two regions is added to the distance of their
            features. Between two pixels, the larger of their values counts.
        damping: as for `merge_regions`.
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
    """The borders between neighbouring regions.

    Attributes:
        pairs: the two regions of each border `[E, 2]`, the smaller number first.
        lengths: number of pairs of pixels that touch across each border `[E]`.
        heights: sum of the barrier over these pairs of pixels `[E]`.
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


class _Links(NamedTuple):
    """The neighbours of each region as a linked list of links to them.

    Attributes:
        head, tail: the first and the last link of each region, -1 for none, int64 `[2 n - 1]`.
        following: the next link after each, -1 for none, int64 `[2 E]`.
        neighbour: the region that each link leads to, int64 `[2 E]`.
        lengths, heights: of the border with that region, as in `_Borders`, float64 `[2 E]`.
    """

    head: Array
    tail: Array
    following: Array
    neighbour: Array
    lengths: Array
    heights: Array


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
    """Merge n regions until one is left, and return `parents` and `levels` of `MergeTree`."""
    count, channels = leaf_means.shape
    total = 2 * count - 1
    parents, roots, met = np.arange(total), np.arange(total), np.full(total, -1)
    levels, areas, means = np.zeros(total), np.zeros(total), np.zeros((total, channels))
    areas[:count], means[:count] = leaf_areas, leaf_means
    head, tail = np.full(total, -1), np.full(total, -1)
    following, neighbour = np.full(2 * len(pairs), -1), np.zeros(2 * len(pairs), np.int64)
    lengths, heights = np.repeat(border_lengths, 2), np.repeat(border_heights, 2)
    links = _Links(head, tail, following, neighbour, lengths, heights)
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
            continue  # one of them is part of a larger region by now, for which the heap has another entry
        level = max(level, cheapest)
        parents[a] = parents[b] = roots[a] = roots[b] = node
        levels[node], areas[node] = level, areas[a] + areas[b]
        means[node] = (means[a] * areas[a] + means[b] * areas[b]) / areas[node]
        following[tail[a]] = head[b]
        head[node], tail[node] = head[a], tail[b]
        for link in _tidy_links(node, links, roots, met):
            other, barrier = neighbour[link], heights[link] / lengths[link]
            heapq.heappush(heap, (_dissimilarity(node, other, barrier, means, areas, damping), other, node))
        node += 1
    return parents, levels


@kernel()
def _tidy_links(node: int, links: _Links, roots: Array, met: Array) -> list[int]:
    """Keep one link from a new region to each of its neighbours, and remove the links to its own parts.

    The link that is kept describes the whole border. `roots` leads from a region to the one it is part of by now, and
    is shortened on the way. `met`, -1 everywhere before and after the call, has the link that is kept to each region.
    Returns the links that are kept.
    """
    head, tail, following, neighbour, lengths, heights = links
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
    """Write the level of the lowest common ancestor at each boundary; a parent's number is larger than a child's."""
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
