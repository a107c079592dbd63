"""Figure and ground from Gaussians, untrained: how likely each pixel belongs to what the picture is of, the foreground.

Both methods are functions of a scene; neither looks at the photograph.

- `depth`: how near the Gaussians lie, composited and blurred, as odds beside the preference for the middle that
  `grouped` has, too. Colours play no part. Near is foreground, always: in geometry by its meaning, in GMAE models since
  depth is trained with priors on its side. (In models without these priors the side is chance, and may be wrong.)
- `grouped`: the Gaussians are the nodes of a graph. They merge by colour into fewer and fewer groups; at several
  numbers of groups, what lies near the middle and differs from the groups that touch the border is foreground (after
  Zhu et al., "Saliency optimization from robust background detection", CVPR 2014, which has superpixels as nodes). What
  this says of each Gaussian is then balanced with the colours of either side, which are learned from it, as GrabCut
  does with pixels; and composited. Depth decides only which Gaussian covers which: more than that did not help.

Studies of these choices: evals/studies/figure_ground_choices.py, and of nearness evals/studies/readout_choices.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist

from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting import Backend, rasterize
from gmae_tools.zeroshot.contours import MergeTree, merge_tree
from gmae_tools.zeroshot.names import FOREGROUND_METHODS

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

Array = np.ndarray

METHODS = FOREGROUND_METHODS

CENTRE_SIGMA = 0.25  # of the preference for the middle, in widths and heights of the picture
SOFTNESS = 0.1  # distance from the threshold at which the odds are e to 1, as a share of the map's span
GRAPH_PIXELS = 112 * 112  # of the picture on which the graph is built
DAMPING = 0.001  # share of the picture; see `build_graph`
COUNTS = (10, 20, 40, 80)  # of groups; their scores are averaged
MODEL_SIGMA = 5.0  # CIELAB units within which the colours of foreground and ground count as alike
ROUNDS = 3  # in which they are learned
NEAR_WEIGHT = 0.35  # log odds of foreground for each standard deviation by which a pixel is nearer than the mean
NEAR_SIGMA = 0.04  # of the blur of nearness, in square roots of the picture's area


def foreground_probability(scene: Scene, *, method: str = "grouped", backend: Backend = "auto") -> Array:
    """How likely each pixel is foreground, in any size of the picture; 0.5 is the map's own threshold by Otsu's method.

    Args:
        scene: its Gaussians may be in any order.
        method: one of `METHODS`; see the head of this module.
        backend: of `splatting.rasterize`.

    Returns:
        float32 `[H, W]` in [0, 1]; 0 all over where nothing tells the Gaussians apart.

    Raises:
        GmaeToolsError: an unknown method, or a parameter that is not finite.
    """
    if method == "grouped":
        owner, color = render_owners(scene, backend=backend)
        graph = build_graph(scene.k, owner, color)
        small = replace(scene, height=owner.shape[0], width=owner.shape[1], photo=None)
        first = calibrate(composite(small, group_scores(graph), backend=backend))
        scores = graph.spread(balance_colors(graph.groups(np.arange(graph.n)), graph.means(first, owner)))
    elif method == "depth":
        height, width = _small(scene)
        small = replace(scene, height=height, width=width, photo=None)
        nearness = composite(small, -scene.gaussians.means[0, :, 2].double().cpu().numpy(), backend=backend)
        return calibrate(_enlarge(near_and_central(nearness), scene.height, scene.width))
    else:
        raise GmaeToolsError(f"there is no method {method!r} of figure and ground: use {' or '.join(METHODS)}")
    return calibrate(composite(scene, scores, backend=backend))


def foreground_mask(probability: Array) -> Array:
    """Foreground, bool `[H, W]`: where `foreground_probability`, or a mean of several looks, is above 0.5."""
    return np.asarray(probability > 0.5)


def calibrate(saliency: Array) -> Array:
    """A map `[H, W]` in [0, 1] as probabilities: the logistic function of the distance to Otsu's threshold."""
    from skimage.filters import threshold_otsu

    if saliency.min() == saliency.max():
        return np.zeros_like(saliency)
    return 1 / (1 + np.exp((threshold_otsu(saliency) - saliency) / np.float32(SOFTNESS)))


def near_and_central(nearness: Array, *, weight: float = NEAR_WEIGHT, sigma: float = NEAR_SIGMA) -> Array:
    """The preference for the middle times exp(weight x blurred nearness), float32 `[H, W]`, stretched to [0, 1].

    Args:
        nearness: `[H, W]`, in any unit: after blurring only its standard scores count.
        weight: of one standard deviation, in log odds; 0 leaves the preference for the middle.
        sigma: of the blur in square roots of the picture's area.

    Returns:
        0 all over where the nearness is the same everywhere.
    """
    height, width = nearness.shape
    smooth = ndimage.gaussian_filter(nearness.astype(np.float64), sigma * np.sqrt(nearness.size), mode="nearest")
    deviation = smooth.std()
    if deviation < 1e-6 * max(1e-6, float(np.abs(smooth).max())):
        return np.zeros((height, width), np.float32)
    y, x = (_gaussian_weight((np.arange(side) + 0.5) / side - 0.5, CENTRE_SIGMA) for side in (height, width))
    return _unit(np.outer(y, x) * np.exp(weight * (smooth - smooth.mean()) / deviation))


def _enlarge(small: Array, height: int, width: int) -> Array:
    """A map resized bilinearly, float32 `[height, width]`."""
    from PIL import Image

    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def composite(scene: Scene, scores: Array, *, backend: Backend = "auto") -> Array:
    """Render a score `[K]` of each Gaussian as its colour, stretched to [0, 1], float32 `[H, W]`.

    A pixel is the mean of the scores, weighted by the Gaussians' shares of it. Gaussians without a score (NaN) are left
    out, and where there are none the score is the lowest.
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
    """Stretched to [0, 1], float32; 0 where nothing differs."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)


# --- the graph of Gaussians --------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """n groups of Gaussians.

    Attributes:
        area: share of the picture, `[n]`.
        border: length along the picture's border, in sides of the picture (the sum is 4), `[n]`.
        place: mean x and y in widths and heights of the picture, `[n, 2]`.
        color: mean of the rendered colours in CIELAB, `[n, C]`; C is 3 unless there are further features.
        beside: which groups touch each other, or both touch the border, bool `[n, n]`; False on the diagonal.
    """

    area: Array
    border: Array
    place: Array
    color: Array
    beside: Array


@dataclass(frozen=True)
class Graph:
    """The visible Gaussians as n nodes; each stands for the pixels in which it is the strongest Gaussian.

    Attributes:
        k: number of Gaussians, visible or not.
        gaussians: which Gaussian each node is, -1 for the pixels without any, int `[n]`.
        sums: of area, border, area times place and area times colour, as in `Groups`, `[n, 4 + C]`.
        tree: how the nodes merge by colour, and which are neighbours.
    """

    k: int
    gaussians: Array
    sums: Array
    tree: MergeTree

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.gaussians)

    def means(self, values: Array, owner: Array) -> Array:
        """Mean of a map over the pixels of each node, `[n]`; `owner` is the map that the graph was built of."""
        nodes = np.searchsorted(self.gaussians, owner.ravel())
        return np.bincount(nodes, values.ravel()) / np.bincount(nodes)

    def spread(self, values: Array) -> Array:
        """Values of the nodes `[n]` as values of all Gaussians `[K]`; NaN for those that own no pixel."""
        seen = self.gaussians >= 0
        spread = np.full(self.k, np.nan)
        spread[self.gaussians[seen]] = values[seen]
        return spread

    def groups(self, part: Array) -> Groups:
        """Join the nodes of each part; `part` is the part of each node, int `[n]`, as `tree.partition` returns it."""
        sums = np.stack([np.bincount(part, column) for column in self.sums.T], 1)
        means = sums[:, 2:] / sums[:, :1]
        border = sums[:, 1]
        beside = np.outer(border > 0, border > 0)
        beside[tuple(part[self.tree.pairs].T)] = True
        beside |= beside.T
        np.fill_diagonal(beside, False)
        return Groups(sums[:, 0], border, means[:, :2], means[:, 2:], beside)


def render_owners(scene: Scene, pixels: int = GRAPH_PIXELS, *, backend: Backend = "auto") -> tuple[Array, Array]:
    """Render the strongest Gaussian of each pixel, `[h, w]`, -1 for none, and the picture on white, CIELAB `[h, w, 3]`.

    Both are small, in the scene's own aspect ratio, so that the cost does not grow with its size.

    Args:
        pixels: about how many they have.
        backend: of `splatting.rasterize`.
    """
    from skimage.color import rgb2lab

    height, width = _small(scene, pixels)
    white = scene.gaussians.means.new_ones(3)
    raster = rasterize(scene.splats(height, width), height, width, background=white, owners=True, backend=backend)
    assert raster.owner is not None
    picture = raster.image[0].permute(1, 2, 0).clamp(0, 1)
    return raster.owner[0].cpu().numpy(), rgb2lab(picture.cpu().numpy())


def _small(scene: Scene, pixels: int = GRAPH_PIXELS) -> tuple[int, int]:
    """Height and width of about this many pixels, in the scene's own aspect ratio."""
    shrink = np.sqrt(pixels / (scene.height * scene.width))
    return max(2, round(scene.height * shrink)), max(2, round(scene.width * shrink))


def build_graph(k: int, owner: Array, color: Array, damping: float = DAMPING) -> Graph:
    """Build the graph of the Gaussians: sizes and colours, neighbours, and how they merge.

    Args:
        k: number of Gaussians.
        owner, color: as `render_owners` makes them; colours may have any number of channels.
        damping: groups of this share of the picture count at half their squared difference.
    """
    numbers, nodes = np.unique(owner, return_inverse=True)
    nodes = nodes.reshape(owner.shape)
    tree = merge_tree(nodes, color, damping=damping * nodes.size)
    return Graph(k, numbers, _sums(nodes, color), tree)


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
    """Score of groups, `[n]` in [0, 1]: Zhu et al. (CVPR 2014), equations 2 to 9, with a preference for the middle.

    Args:
        color_sigma: in CIELAB units. Groups whose path from one to the next is longer hardly count as one, and
            neighbours that differ more are hardly bound to each other.
        border_sigma: of the border connectivity, which is 1 for a square with one whole side at the border.
        place_sigma: of the neighbourhood that a group is compared with, in widths and heights of the picture.
        centre_sigma: of the preference for the middle, in widths and heights of the picture; infinite for none.
        link: strength of the bond between neighbours of any colour.
    """
    difference = _distances(groups.color)
    # Ground has much border for its area, both summed over all groups along paths of like colour.
    paths = dijkstra(np.where(groups.beside, difference + 1e-6, 0), directed=False)  # 0 would be no edge
    alike = _gaussian_weight(paths, color_sigma)
    connectivity = (alike @ groups.border) / np.sqrt(alike @ groups.area)
    ground = 1 - _gaussian_weight(connectivity, border_sigma)
    # Foreground is unlike the ground around it, and near the middle.
    near = _gaussian_weight(_distances(groups.place), place_sigma)
    centre = _gaussian_weight(np.hypot(*(groups.place - 0.5).T), centre_sigma)
    foreground = _unit(centre * ((difference * near) @ (ground * groups.area)))
    # Both are balanced by least squares, in which neighbours of like colour get like scores.
    bonds = np.where(groups.beside, _gaussian_weight(difference, color_sigma) + link, 0)
    weight = len(groups.area) * groups.area
    system = np.diag(bonds.sum(1) + weight * (ground + foreground)) - bonds
    return _unit(np.linalg.solve(system, weight * foreground))


def group_scores(graph: Graph, counts: Sequence[int] = COUNTS, score: Callable[[Groups], Array] = saliency) -> Array:
    """Score of each Gaussian `[K]`, averaged over several numbers of groups; NaN for Gaussians that own no pixel."""
    parts = [graph.tree.partition(count) for count in counts]
    return graph.spread(np.mean([score(graph.groups(part))[part] for part in parts], 0))


def balance_colors(
    groups: Groups, probability: Array, *, rounds: int = ROUNDS, model_sigma: float = MODEL_SIGMA, link: float = 0.1
) -> Array:
    """Balance first probabilities of foreground with the colours of either side, and neighbours of like colour.

    In each round the odds of a group are its first ones, times the odds of foreground among all that has its colour,
    over those in the whole picture: two densities of colours, as in GrabCut (Rother et al., 2004), weighted by
    probability instead of cut. Least squares then bind neighbours, as in `saliency`.

    Args:
        probability: of each group to be foreground, `[n]`.
        rounds: how often the colours are learned anew.
        model_sigma: of the Gaussians that make the densities, in CIELAB units.
        link: strength of the bond between neighbours of any colour.

    Returns:
        `[n]` in [0, 1]; probabilities that are all the same come back as they are.
    """
    if np.ptp(probability) == 0:
        return probability
    difference, area = cdist(groups.color, groups.color), groups.area
    alike = _gaussian_weight(difference, model_sigma)
    bonds = np.where(groups.beside, _gaussian_weight(difference, 2 * model_sigma) + link, 0)
    weight = len(area) * area
    system = cho_factor(np.diag(bonds.sum(1) + weight) - bonds)
    first, found = _log_odds(probability, 1 - probability), probability
    for _ in range(rounds):
        figure, ground = area * found, area * (1 - found)
        colors = _log_odds(alike @ figure, alike @ ground) - _log_odds(figure.sum(), ground.sum())
        found = cho_solve(system, weight / (1 + np.exp(-first - colors)))
    return np.asarray(found)


def _log_odds(of: Array, against: Array) -> Array:
    """With a floor of 1e-4 under both."""
    return np.asarray(np.log((of + 1e-4) / (against + 1e-4)))


def _distances(points: Array) -> Array:
    """Euclidean distances `[n, n]` of points `[n, D]`."""
    return np.sqrt(((points[:, None] - points) ** 2).sum(-1))


def _gaussian_weight(distance: Array, sigma: float) -> Array:
    return np.exp(-((distance / sigma) ** 2) / 2)
