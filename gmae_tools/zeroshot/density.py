"""Where a model puts its Gaussians, and how large it makes them at which depth.

The centres on the xy-plane with their opacity, and the scale against the depth, are what the GMAE paper (arXiv
2501.03229) plots in its Figures 11 and 10. Densities and quantiles are weighted by opacity, so that invisible ones do
not count.
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

CELLS = 24  # of a density map along each side
DEPTH_GROUPS = 16
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Points:
    """What the figures show of each of K Gaussians, float64 `[K]`.

    Attributes:
        x, y: where its centre is seen, [-1, 1] in the picture; y points down.
        z: of its centre, in scene units away from the viewer.
        scale: geometric mean of its three scales, in scene units.
        opacity: in [0, 1].
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    scale: np.ndarray
    opacity: np.ndarray

    @staticmethod
    def of(scene: Scene) -> Points:
        """The points of a scene; Gaussians beside or behind the picture of a `pinhole` camera have opacity 0.

        Raises:
            GmaeToolsError: a parameter is not finite, or a scale not positive.
        """
        gaussians = scene.gaussians.detach()
        if scene.camera.kind == "pinhole":
            splats = project(gaussians, scene.camera, 2, 2)  # of 2 pixels: one is a unit
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
        """A random sample of `count` points, always the same and in their order; all points if there are no more."""
        if len(self.x) <= count:
            return self
        chosen = np.sort(np.random.default_rng(0).choice(len(self.x), count, replace=False))
        return Points(*(getattr(self, f.name)[chosen] for f in fields(Points)))

    @staticmethod
    def join(parts: Sequence[Points]) -> Points:
        """The points of several scenes together."""
        return Points(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Points)))


def density_map(points: Points, cells: int = CELLS) -> np.ndarray:
    """Opacity in each cell of the picture over that of an even spread `[cells, cells]`, rows from top to bottom.

    The mean is 1. Points outside of the picture count for the cells at its border.
    """
    x, y = np.clip(points.x, -1, 1), np.clip(points.y, -1, 1)
    total, _, _ = np.histogram2d(y, x, bins=cells, range=[[-1, 1], [-1, 1]], weights=points.opacity)
    density: np.ndarray = total / max(total.mean(), np.finfo(float).tiny)
    return density


@dataclass(frozen=True)
class ScaleByDepth:
    """Scales within G groups of neighbouring depths, as equal in number as can be, the nearest first.

    Attributes:
        depth: weighted median of the group's depths `[G]`.
        quantiles: weighted `QUANTILES` of its scales `[G, 5]`.
        count: of Gaussians `[G]`.
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
    """Weighted quantiles `[Q]`: the least values at or below which each share of the weight lies.

    Weights that are all 0 count as equal.
    """
    order = np.argsort(values, kind="stable")
    weights = weights[order] if weights.any() else np.ones(len(values))
    shares = np.cumsum(weights)
    found: np.ndarray = values[order][np.searchsorted(shares, np.multiply(quantiles, shares[-1]) * (1 - 1e-12))]
    return found


def summary(points: Points) -> dict[str, float]:
    """What the figures show, in numbers.

    Returns:
        `opacity`: mean. `scale`, `depth`: weighted medians. `scale_depth`: Spearman's rank correlation of scale and
        depth, positive where large Gaussians lie behind; NaN where one of them does not vary.
    """
    varies = np.ptp(points.z) > 0 and np.ptp(points.scale) > 0
    return {
        "opacity": float(points.opacity.mean()),
        "scale": float(weighted_quantiles(points.scale, points.opacity, [0.5])[0]),
        "depth": float(weighted_quantiles(points.z, points.opacity, [0.5])[0]),
        "scale_depth": float(spearmanr(points.scale, points.z).statistic) if varies else float("nan"),
    }
