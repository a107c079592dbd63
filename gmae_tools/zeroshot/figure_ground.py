"""Foreground and background from Gaussians, without training: how likely each pixel belongs to the foreground.

Both methods are functions of a scene:

- `depth`: The nearness of the Gaussians is rendered and blurred, and counts as odds of foreground, together with the
  preference for the middle of the picture that `grouped` has, too. Colours are not used, and the photograph is not
  looked at. What is near is always foreground. This holds by definition for measured geometry, and for GMAE models
  whose depth is trained with priors that prefer this side. In models without these priors either side may be the near
  one.
- `grouped`: The Gaussians are the nodes of a graph. They are merged by colour into fewer and fewer groups. At several
  numbers of groups, those that lie near the middle and differ from the groups at the border are foreground, as in Zhu
  et al., "Saliency optimization from robust background detection" (CVPR 2014), where the nodes are superpixels. The
  same is done with small regions of uniform colour in the picture, which is the photograph or, in scenes without one,
  what the Gaussians render. The mean of both is a first probability of foreground. It is then combined with the colours
  of foreground and background, which are learned from it, as GrabCut does with pixels. Depth only decides which
  Gaussian covers which; using it for more did not help.

The studies of these choices are evals/studies/figure_ground_choices.py, evals/studies/grouping_choices.py and, for
`depth`, evals/studies/readout_choices.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import resize
from gmae_tools.splatting import Backend, rasterize
from gmae_tools.system.kernels import kernel
from gmae_tools.zeroshot.contours import MergeTree, merge_tree
from gmae_tools.zeroshot.guided_filter import enlarge, enlarge_along
from gmae_tools.zeroshot.names import FOREGROUND_METHODS

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

Array = np.ndarray

METHODS = FOREGROUND_METHODS

CENTRE_SIGMA = 0.25  # width of the preference for the middle, in widths and heights of the picture
SOFTNESS = 0.1  # distance from the threshold at which the odds are e to 1, as a share of the map's span
GRAPH_PIXELS = 112 * 112  # size of the picture on which the graph is built
DAMPING = 0.001  # share of the picture; see `build_graph`
COUNTS = (10, 20, 40, 80)  # numbers of groups, whose scores are averaged
FRAMES = (1.0, 0.9, 0.8)  # shares of the picture's sides; what lies at the border of a frame counts as background
REGION_SCALE, REGION_BLUR, REGION_PIXELS = 20.0, 0.5, 6  # of `color_regions`; for the picture of the graph
MODEL_SIGMA = 5.0  # CIELAB units within which colours count as alike
ROUNDS = 3  # how often the colours of foreground and background are learned
NEAR_WEIGHT = 0.35  # log odds of foreground for each standard deviation by which a pixel is nearer than the mean
NEAR_SIGMA = 0.04  # standard deviation of the blur of nearness, in square roots of the picture's area


def foreground_probability(scene: Scene, *, method: str = "grouped", backend: Backend = "auto") -> Array:
    """Compute how likely each pixel is foreground.

    Args:
        scene: a scene whose Gaussians may be in any order.
        method: one of `METHODS`, which the docstring of this module explains.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        float32 `[H, W]` in [0, 1]; 0 everywhere if the Gaussians do not differ.

    Raises:
        GmaeToolsError: there is no such method, or a parameter is not finite.
    """
    if method == "grouped":
        picture = scene.picture(backend=backend)
        owner, color = render_owners(scene, backend=backend)
        small = resize(picture, *owner.shape)
        scores = frame_scores(build_graph(scene.k, owner, color))
        by_gaussians = composite(_without_photo(scene, *owner.shape), scores, backend=backend)
        return enlarge_along(found_in_regions(small, calibrate(by_gaussians)), small, picture)
    if method == "depth":
        z = scene.gaussians.means[0, :, 2].double().cpu().numpy()
        nearness = composite(_without_photo(scene, *_small(scene)), -z, backend=backend)
        return calibrate(enlarge(near_and_central(nearness), scene.height, scene.width))
    raise GmaeToolsError(f"there is no method {method!r} of figure and ground: use {' or '.join(METHODS)}")


def found_in_regions(picture: Array, by_gaussians: Array) -> Array:
    """Join the probability of foreground from Gaussians with that from the picture's own regions of uniform colour.

    Args:
        picture: uint8 RGB `[h, w, 3]`, of about `GRAPH_PIXELS` pixels.
        by_gaussians: probability of foreground `[h, w]` in [0, 1].

    Returns:
        float32 `[h, w]` in [0, 1], equal in all pixels of a region.
    """
    from skimage.color import rgb2lab

    regions = color_regions(picture)
    graph = build_graph(int(regions.max()) + 1, regions, rgb2lab(picture))
    first = (by_gaussians + calibrate(_unit(frame_scores(graph)[regions]))) / 2
    found = balance_colors(graph.groups(np.arange(graph.n)), graph.means(first))
    return found[regions].astype(np.float32)


def color_regions(picture: Array) -> Array:
    """Divide a small picture, uint8 RGB `[h, w, 3]`, into regions of uniform colour.

    Source: Felzenszwalb and Huttenlocher, "Efficient graph-based image segmentation" (IJCV 2004).

    Returns:
        The number of the region of each pixel, from 0, int `[h, w]`. A region has at least `REGION_PIXELS` pixels.
    """
    from skimage.segmentation import felzenszwalb

    regions: Array = felzenszwalb(picture, scale=REGION_SCALE, sigma=REGION_BLUR, min_size=REGION_PIXELS)
    return regions


def foreground_mask(probability: Array) -> Array:
    """Return the foreground, bool `[H, W]`: where a probability of foreground `[H, W]` is above 0.5."""
    return np.asarray(probability > 0.5)


def calibrate(saliency: Array) -> Array:
    """Turn a map `[H, W]` in [0, 1] into probabilities: the logistic function of the distance to Otsu's threshold."""
    from skimage.filters import threshold_otsu

    if saliency.min() == saliency.max():
        return np.zeros_like(saliency)
    return 1 / (1 + np.exp((threshold_otsu(saliency) - saliency) / np.float32(SOFTNESS)))


def near_and_central(nearness: Array, *, weight: float = NEAR_WEIGHT, sigma: float = NEAR_SIGMA) -> Array:
    """Multiply the preference for the middle by exp(weight x blurred nearness), and stretch the map to [0, 1].

    Args:
        nearness: `[H, W]`, in any unit, because the blurred map is standardised to mean 0 and deviation 1.
        weight: log odds for each standard deviation; with 0 only the preference for the middle is left.
        sigma: standard deviation of the blur, in square roots of the picture's area.

    Returns:
        float32 `[H, W]` in [0, 1]; 0 everywhere if the nearness is the same everywhere.
    """
    height, width = nearness.shape
    smooth = ndimage.gaussian_filter(nearness.astype(np.float64), sigma * np.sqrt(nearness.size), mode="nearest")
    deviation = smooth.std()
    if deviation < 1e-6 * max(1e-6, float(np.abs(smooth).max())):
        return np.zeros((height, width), np.float32)
    y, x = (_gaussian_weight((np.arange(side) + 0.5) / side - 0.5, CENTRE_SIGMA) for side in (height, width))
    return _unit(np.outer(y, x) * np.exp(weight * (smooth - smooth.mean()) / deviation))


def composite(scene: Scene, scores: Array, *, backend: Backend = "auto") -> Array:
    """Render the Gaussians with a score each in place of their colours, and stretch the map to [0, 1].

    The value of a pixel is the mean of the scores, weighted by the Gaussians' shares of the pixel. Pixels without any
    Gaussian have the lowest score.

    Args:
        scene: a scene with K Gaussians in any order.
        scores: `[K]`, in any unit; Gaussians whose score is NaN are left out.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    known = np.isfinite(scores)
    if not known.any():
        return np.zeros((scene.height, scene.width), np.float32)
    unit = _unit(np.where(known, scores, scores[known].min()))
    splats = scene.splats()
    opacities = splats.opacities * torch.from_numpy(known).to(splats.opacities)
    color = torch.from_numpy(unit).to(splats.colors)[None, :, None]
    splats = replace(splats, colors=color, opacities=opacities)
    raster = rasterize(splats, scene.height, scene.width, backend=backend)
    return _unit((raster.image / raster.alpha.clamp_min(1e-6))[0, 0].cpu().numpy())


def _unit(values: Array) -> Array:
    """Stretch values to [0, 1], as float32; all become 0 if they are equal."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)


# --- the graph of Gaussians --------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """n groups of Gaussians.

    Attributes:
        area: share of the picture, `[n]`.
        border: length along the border of the picture, in sides of the picture (the sum over all groups is 4), `[n]`.
        place: mean x and y in widths and heights of the picture, `[n, 2]`.
        color: mean of the rendered colours in CIELAB, `[n, C]`; C is more than 3 if there are further features.
        beside: whether two groups touch each other, or both touch the border, bool `[n, n]`; False on the diagonal.
    """

    area: Array
    border: Array
    place: Array
    color: Array
    beside: Array


@dataclass(frozen=True)
class Graph:
    """The visible Gaussians as n nodes. A node has the pixels in which its Gaussian has the largest share.

    Attributes:
        k: number of all Gaussians, visible or not.
        gaussians: index of the Gaussian of each node, int `[n]`; -1 for the node of the pixels without any Gaussian.
        nodes: the node of each pixel, int `[h, w]`.
        color: the picture in CIELAB, `[h, w, C]`.
        sums: area, border, area times place, and area times colour of each node, as in `Groups`, `[n, 4 + C]`.
        tree: how the nodes merge by colour, and which of them are neighbours.
    """

    k: int
    gaussians: Array
    nodes: Array
    color: Array
    sums: Array
    tree: MergeTree

    @property
    def n(self) -> int:
        """The number of nodes."""
        return len(self.gaussians)

    def framed(self, share: float) -> Graph:
        """Return the graph of a frame around the middle, whose sides are this share of those of the picture."""
        if share == 1:
            return self
        rows, columns = (slice(margin := round(side * (1 - share) / 2), side - margin) for side in self.nodes.shape)
        return build_graph(self.k, self.gaussians[self.nodes[rows, columns]], self.color[rows, columns])

    def means(self, values: Array) -> Array:
        """Average a map `[h, w]` over the pixels of each node, `[n]`."""
        return np.bincount(self.nodes.ravel(), values.ravel()) / np.bincount(self.nodes.ravel())

    def spread(self, values: Array) -> Array:
        """Turn values of the nodes `[n]` into values of all Gaussians `[K]`; NaN for Gaussians without a node."""
        seen = self.gaussians >= 0
        spread = np.full(self.k, np.nan)
        spread[self.gaussians[seen]] = values[seen]
        return spread

    def groups(self, part: Array) -> Groups:
        """Join the nodes of each part into a group.

        Args:
            part: number of the part of each node, int `[n]`, as `tree.partition` returns it.
        """
        sums = np.stack([np.bincount(part, column) for column in self.sums.T], 1)
        means = sums[:, 2:] / sums[:, :1]
        border = sums[:, 1]
        beside = np.outer(border > 0, border > 0)
        first, second = part[self.tree.pairs].T
        beside[first, second] = beside[second, first] = True
        np.fill_diagonal(beside, False)
        return Groups(sums[:, 0], border, means[:, :2], means[:, 2:], beside)


def render_owners(scene: Scene, pixels: int = GRAPH_PIXELS, *, backend: Backend = "auto") -> tuple[Array, Array]:
    """Render a small picture on white, and find the Gaussian with the largest share of each of its pixels.

    The picture has the aspect ratio of the scene and a fixed area, so that the cost does not grow with its size.

    Args:
        scene: a scene whose Gaussians may be in any order.
        pixels: approximate number of pixels of the picture.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        The index of the strongest Gaussian of each pixel, int `[h, w]`, -1 for none; and the picture in CIELAB,
        `[h, w, 3]`.
    """
    from skimage.color import rgb2lab

    height, width = _small(scene, pixels)
    white = scene.gaussians.means.new_ones(3)
    raster = rasterize(scene.splats(height, width), height, width, background=white, owners=True, backend=backend)
    assert raster.owner is not None
    picture = raster.image[0].permute(1, 2, 0).clamp(0, 1)
    return raster.owner[0].cpu().numpy(), rgb2lab(picture.cpu().numpy())


def _without_photo(scene: Scene, height: int, width: int) -> Scene:
    """Return the scene in another size, for maps of its Gaussians."""
    return replace(scene, height=height, width=width, photo=None)


def _small(scene: Scene, pixels: int = GRAPH_PIXELS) -> tuple[int, int]:
    """Return the height and width of a picture with about this many pixels and the scene's aspect ratio."""
    shrink = np.sqrt(pixels / (scene.height * scene.width))
    return max(2, round(scene.height * shrink)), max(2, round(scene.width * shrink))


def build_graph(k: int, owner: Array, color: Array, damping: float = DAMPING) -> Graph:
    """Build the graph of the Gaussians, with their sizes and colours, their neighbours, and how they merge.

    Args:
        k: number of Gaussians.
        owner, color: as `render_owners` returns them; colours may have any number of channels.
        damping: share of the picture; groups of this size count at half their squared difference.
    """
    seen = np.bincount(owner.ravel() + 1) > 0
    numbers, nodes = np.flatnonzero(seen) - 1, (np.cumsum(seen) - 1)[owner + 1]
    tree = merge_tree(nodes, color, damping=damping * nodes.size)
    return Graph(k, numbers, nodes, color, _sums(nodes, color), tree)


def _sums(nodes: Array, color: Array) -> Array:
    height, width = nodes.shape
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    border = np.zeros((height, width))
    border[[0, -1]] += 1 / width
    border[:, [0, -1]] += 1 / height
    pixel = np.full((height, width), 1 / (height * width))
    channels = [pixel, border, pixel * x, pixel * y, *np.moveaxis(pixel[..., None] * color, -1, 0)]
    return np.stack([np.bincount(nodes.ravel(), channel.ravel()) for channel in channels], 1)


# --- scores ------------------------------------------------------------------------------------------


def saliency(
    groups: Groups,
    *,
    color_sigma: float = 10.0,
    border_sigma: float = 1.0,
    place_sigma: float = 0.25,
    centre_sigma: float = CENTRE_SIGMA,
    link: float = 0.1,
) -> Array:
    """Score how much groups look like foreground: Zhu et al. (CVPR 2014), equations 2 to 9, and nearness to the middle.

    Args:
        groups: n groups of Gaussians.
        color_sigma: difference of colours in CIELAB units within which groups count as alike; a path through
            neighbouring groups adds their differences up.
        border_sigma: border connectivity above which a group counts as background. A square that has one of its sides
            at the border has connectivity 1.
        place_sigma: distance within which a group is compared with others, in widths and heights of the picture.
        centre_sigma: width of the preference for the middle, in widths and heights of the picture; infinite for none.
        link: strength of the bond between neighbours of any colour.

    Returns:
        `[n]` in [0, 1].
    """
    difference = cdist(groups.color, groups.color)
    # Background has much border for its area. Both are summed over all groups that a path of like colours reaches.
    alike = _gaussian_weight(_shortest_paths(np.where(groups.beside, difference, np.inf)), color_sigma)
    connectivity = (alike @ groups.border) / np.sqrt(alike @ groups.area)
    ground = 1 - _gaussian_weight(connectivity, border_sigma)
    # Foreground differs from the background around it, and lies near the middle.
    near = _gaussian_weight(cdist(groups.place, groups.place), place_sigma)
    centre = _gaussian_weight(np.hypot(*(groups.place - 0.5).T), centre_sigma)
    foreground = _unit(centre * ((difference * near) @ (ground * groups.area)))
    # Both are balanced by least squares, in which neighbours of like colour get like scores.
    bonds = np.where(groups.beside, _gaussian_weight(difference, color_sigma) + link, 0)
    weight = len(groups.area) * groups.area
    system = np.diag(bonds.sum(1) + weight * (ground + foreground)) - bonds
    return _unit(np.linalg.solve(system, weight * foreground))


def group_scores(graph: Graph, counts: Sequence[int] = COUNTS, score: Callable[[Groups], Array] = saliency) -> Array:
    """Score each Gaussian by its group, averaged over several numbers of groups.

    Args:
        graph: the graph of K Gaussians.
        counts: numbers of groups.
        score: function from n groups to their scores `[n]`.

    Returns:
        `[K]`; NaN for Gaussians without a node.
    """
    parts = [graph.tree.partition(count) for count in counts]
    return graph.spread(np.mean([score(graph.groups(part))[part] for part in parts], 0))


def frame_scores(graph: Graph, frames: Sequence[float] = FRAMES) -> Array:
    """Average `group_scores` over frames around the middle of the picture.

    A figure that reaches the border of the picture, or ground that does not, is often told apart in a smaller frame.

    Args:
        graph: the graph of K Gaussians, or of K regions.
        frames: heights and widths of the frames as shares of those of the picture, the first of which is 1.

    Returns:
        `[K]`; what lies outside of a frame has the score 0 in it; NaN for what owns no pixel of the picture.
    """
    scores = [group_scores(graph.framed(frame)) for frame in frames]
    return np.where(np.isnan(scores[0]), np.nan, np.mean(np.nan_to_num(scores), 0))


def balance_colors(
    groups: Groups, probability: Array, *, rounds: int = ROUNDS, model_sigma: float = MODEL_SIGMA, link: float = 0.1
) -> Array:
    """Improve probabilities of foreground by the colours of foreground and background.

    In each round the odds of a group are its first odds, times the odds of foreground among all groups of its colour,
    divided by the odds of foreground in the whole picture. These are two densities of colours, as in GrabCut (Rother et
    al., 2004), but weighted by probability instead of cut into two sets. Then neighbours of like colour get similar
    probabilities by least squares, as in `saliency`.

    Args:
        groups: n groups of Gaussians.
        probability: first probability of foreground of each group, `[n]` in [0, 1].
        rounds: how often the colours are learned.
        model_sigma: standard deviation of the kernels of the densities, in CIELAB units.
        link: strength of the bond between neighbours of any colour.

    Returns:
        `[n]` in [0, 1]; probabilities that are all equal are returned unchanged.
    """
    if np.ptp(probability) == 0:
        return probability
    area = groups.area
    difference = cdist(groups.color, groups.color).astype(np.float32)  # halves the time of the hundreds of groups
    alike = _gaussian_weight(difference, model_sigma)
    bonds = np.zeros_like(difference)
    bonds[groups.beside] = _gaussian_weight(difference[groups.beside], 2 * model_sigma) + link
    weight = len(area) * area
    system = cho_factor(np.diag(bonds.sum(1) + weight) - bonds, overwrite_a=True, check_finite=False)
    first, found = _log_odds(probability, 1 - probability), probability
    for _ in range(rounds):
        figure, ground = area * found, area * (1 - found)
        colors = _log_odds(alike @ figure, alike @ ground) - _log_odds(figure.sum(), ground.sum())
        found = cho_solve(system, weight / (1 + np.exp(-first - colors)), check_finite=False)
    return np.asarray(found)


def _log_odds(of: Array, against: Array) -> Array:
    """Compute log odds after adding 1e-4 to both numbers, so that neither is 0."""
    return np.asarray(np.log((of + 1e-4) / (against + 1e-4)))


@kernel()
def _shortest_paths(lengths: Array) -> Array:
    """Compute the lengths of all shortest paths from those of the edges, infinite for none, by Floyd: `[n, n]`."""
    count, paths = len(lengths), lengths.copy()
    for node in range(count):
        paths[node, node] = 0
    for middle in range(count):
        for start in range(count):
            for end in range(count):
                paths[start, end] = min(paths[start, end], paths[start, middle] + paths[middle, end])
    return paths


def _gaussian_weight(distance: Array, sigma: float) -> Array:
    """The weight has the type of the distance, float32 or float64."""
    return np.exp(distance * distance * (-0.5 / sigma**2))
