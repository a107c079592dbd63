"""Where a model puts its Gaussians, and how large it makes them at which depth.

The GMAE paper (arXiv 2501.03229) plots the centres on the xy-plane with their opacity in its Figure 11, and the scale
against the depth in its Figure 10. Densities and quantiles are weighted by opacity, so that invisible Gaussians do not
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr

from gmae_tools.camera import project
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

CELLS = 24  # number of cells of a density map along each side
DEPTH_GROUPS = 16
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Points:
    """Centre, scale and opacity of each of K Gaussians, float64 `[K]`.

    Attributes:
        x, y: place of the centre in the picture, which spans [-1, 1] in both; y points down.
        z: depth of the centre in scene units, larger for what is farther away.
        scale: geometric mean of the three scales, in scene units.
        opacity: opacity at the centre, in [0, 1].
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    scale: np.ndarray
    opacity: np.ndarray

    @staticmethod
    def of(scene: Scene) -> Points:
        """Return the points of a scene. Gaussians that a `pinhole` camera does not see have opacity 0.

        Raises:
            GmaeToolsError: a parameter is not finite, or a scale not positive.
        """
        gaussians = scene.gaussians.detach()
        if scene.camera.kind == "pinhole":
            splats = project(gaussians, scene.camera, 2, 2)  # in this picture a pixel is a unit of x and y
            place = splats.means - 1
            seen = splats.opacities * (place.abs() <= 1).all(-1)
            means = torch.cat([place, gaussians.means[..., 2:]], -1)
            gaussians = replace(gaussians, means=means, opacities=seen)
        one = gaussians.map(lambda tensor: tensor.cpu().double())
        x, y, z = one.means.reshape(-1, 3).T.numpy()
        with np.errstate(all="ignore"):
            scale = np.exp(np.log(one.scales.numpy()).mean(-1).ravel())
        points = Points(x, y, z, scale, one.opacities.numpy().ravel())
        if not all(np.isfinite(values).all() for values in vars(points).values()) or (scale <= 0).any():
            raise GmaeToolsError("Gaussians have values that are not finite, or scales of 0; is the model broken?")
        return points

    def some(self, count: int) -> Points:
        """Choose `count` points at random, with a fixed seed and in their order; all points if there are no more."""
        if len(self.x) <= count:
            return self
        chosen = np.sort(np.random.default_rng(0).choice(len(self.x), count, replace=False))
        return Points(*(getattr(self, f.name)[chosen] for f in fields(Points)))

    @staticmethod
    def join(parts: Sequence[Points]) -> Points:
        """Join the points of several scenes."""
        return Points(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Points)))


def density_map(points: Points, cells: int = CELLS) -> np.ndarray:
    """Divide the sum of the opacities in each cell of the picture by its mean over all cells.

    Points outside of the picture count in the cells at its border.

    Returns:
        float64 `[cells, cells]`, rows from top to bottom, with mean 1.
    """
    x, y = np.clip(points.x, -1, 1), np.clip(points.y, -1, 1)
    total, _, _ = np.histogram2d(y, x, bins=cells, range=[[-1, 1], [-1, 1]], weights=points.opacity)
    return total / max(total.mean(), np.finfo(float).tiny)


@dataclass(frozen=True)
class ScaleByDepth:
    """Scales within G groups of neighbouring depths, the nearest first, with as equal numbers as possible.

    Attributes:
        depth: weighted median of the depths of each group, in scene units `[G]`.
        quantiles: weighted `QUANTILES` of the scales of each group, in scene units `[G, 5]`.
        count: number of Gaussians of each group `[G]`.
    """

    depth: np.ndarray
    quantiles: np.ndarray
    count: np.ndarray


def scale_by_depth(points: Points, groups: int = DEPTH_GROUPS) -> ScaleByDepth:
    """Group points into `groups` groups of depth, or into as many as there are points."""
    order = np.argsort(points.z, kind="stable")
    parts = np.array_split(order, min(groups, len(order)))
    depths = [weighted_quantiles(points.z[part], points.opacity[part], [0.5])[0] for part in parts]
    quantiles = [weighted_quantiles(points.scale[part], points.opacity[part], QUANTILES) for part in parts]
    return ScaleByDepth(np.array(depths), np.array(quantiles), np.array([len(part) for part in parts]))


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Compute weighted quantiles.

    Args:
        values: `[n]`, in any order.
        weights: `[n]`, 0 or more; if all are 0, they count as equal.
        quantiles: Q shares in [0, 1].

    Returns:
        `[Q]`: for each quantile, the least of the values at or below which this share of the weight lies.
    """
    order = np.argsort(values, kind="stable")
    weights = weights[order] if weights.any() else np.ones(len(values))
    shares = np.cumsum(weights)
    return values[order][np.searchsorted(shares, np.multiply(quantiles, shares[-1]) * (1 - 1e-12))]


def summary(points: Points) -> dict[str, float]:
    """Summarise points in four numbers.

    Returns:
        `opacity`: the mean. `scale` and `depth`: medians weighted by opacity, in scene units. `scale_depth`: Spearman's
        rank correlation of scale and depth, positive if large Gaussians lie behind; NaN if one of them does not vary.
    """
    varies = np.ptp(points.z) > 0 and np.ptp(points.scale) > 0
    return {
        "opacity": float(points.opacity.mean()),
        "scale": float(weighted_quantiles(points.scale, points.opacity, [0.5])[0]),
        "depth": float(weighted_quantiles(points.z, points.opacity, [0.5])[0]),
        "scale_depth": float(spearmanr(points.scale, points.z).statistic) if varies else float("nan"),
    }
