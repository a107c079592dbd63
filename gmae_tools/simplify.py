"""Reduce a scene to fewer Gaussians that look about the same, for pages that cannot show a million of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from gmae_tools.camera import Splats, project, quats_to_rotations
from gmae_tools.formats.perspective import principal_axes
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend, rasterize

_PIXELS = 1 << 19  # size of the picture on which the visible shares of the Gaussians are measured
_DEPTHS = 32  # number of depth groups with equal visible shares, within which Gaussians are joined
_DENSE = 0.95  # largest opacity of a joined Gaussian; one that would need more becomes larger
_LARGER = 3.0  # largest factor of its area; it is enough to leave no gaps between full cells of the grid
_FINER = 1.1  # ratio of one cell size of the grid to the next


def simplify(scene: Scene, count: int, *, backend: Backend = "auto") -> Scene:
    """Join Gaussians that lie together, in the picture and in depth, until there are no more than `count`.

    Gaussians in one cell of a grid over the picture and in one group of depth become one Gaussian with their mean,
    covariance and colour, weighted by their visible shares of the picture. Invisible Gaussians are left out.

    Args:
        scene: the scene.
        count: largest number of Gaussians, 1 or more.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        The new scene; `scene` itself if it has no more than `count` Gaussians.
    """
    if scene.k <= count:
        return scene
    shrink = min(1.0, math.sqrt(_PIXELS / (scene.height * scene.width)))
    height, width = max(1, round(scene.height * shrink)), max(1, round(scene.width * shrink))
    with torch.no_grad():
        splats = project(scene.gaussians, scene.camera, height, width)
    weights = _visible_shares(splats, height, width, backend)
    index = (weights > 0).nonzero()[:, 0]
    if not len(index):
        return replace(scene, gaussians=scene.gaussians.select(slice(0, 1)))
    some, weights = scene.gaussians.detach().select(index), weights[index]
    group = _groups(splats.means[0, index], splats.depths[0, index], weights, count, height, width)
    joined = _join(some, weights, group)
    # A joined Gaussian that shows through a gap is as opaque there as its parts, whatever their visible shares.
    masses = splats.opacities[0, index].double() / _peak(splats)[index]
    masses = torch.zeros(joined.k, dtype=masses.dtype, device=masses.device).index_add_(0, group, masses)
    dense = masses * _peak(project(joined, scene.camera, height, width)) / _DENSE
    scales = joined.scales * dense.clamp(1, _LARGER).sqrt().to(joined.scales)[None, :, None]
    opacities = (_DENSE * dense.clamp_max(1)).to(joined.opacities)[None]
    return replace(scene, gaussians=replace(joined, scales=scales, opacities=opacities))


def _peak(splats: Splats) -> Tensor:
    """Compute the density of each splat at its centre, if its integral over the picture is 1, float64 `[K]`."""
    a, b, c = splats.conics[0].double().unbind(-1)
    return (a * c - b * b).clamp_min(1e-30).sqrt() / (2 * math.pi)


def _visible_shares(splats: Splats, height: int, width: int, backend: Backend) -> Tensor:
    """Compute the visible area of each splat in pixels, float64 `[K]`, as the gradient of the picture's sum."""
    with torch.inference_mode(False), torch.enable_grad():
        copy = splats.map(Tensor.clone)  # because inference tensors have no gradients
        light = torch.ones_like(copy.opacities)[..., None].requires_grad_()
        image = rasterize(replace(copy, colors=light), height, width, backend=backend).image
        (gradient,) = torch.autograd.grad(image.sum(), light)
    return gradient[0, :, 0].double()


def _groups(means: Tensor, depths: Tensor, weights: Tensor, count: int, height: int, width: int) -> Tensor:
    """Return the number of the group of each splat, at most `count` - 1, int64 `[K]`."""
    order = depths.argsort(stable=True)
    depth = torch.empty_like(order)
    share = weights[order].cumsum(0) / weights.sum()
    depth[order] = (share * _DEPTHS).long().clamp_max(_DEPTHS - 1)
    side = math.sqrt(height * width / count)
    while True:
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        x = (means[:, 0] / side).long().clamp(0, columns - 1)
        y = (means[:, 1] / side).long().clamp(0, rows - 1)
        layers = depth if rows * columns > 1 else torch.zeros_like(depth)
        numbers, group = ((layers * rows + y) * columns + x).unique(return_inverse=True)
        if len(numbers) <= count:
            return group
        side *= _FINER


def _join(gaussians: Gaussians, weights: Tensor, group: Tensor) -> Gaussians:
    """Join the Gaussians of each group to one Gaussian with opacity 1."""
    totals = torch.zeros(int(group.max()) + 1, dtype=weights.dtype, device=weights.device).index_add_(0, group, weights)

    def mean(values: Tensor) -> Tensor:
        sums = totals.new_zeros(len(totals), values.shape[-1]).index_add_(0, group, values * weights[:, None])
        return sums / totals[:, None]

    means, colors = gaussians.means[0].double(), gaussians.colors[0].double()
    centres = mean(means)
    axes = quats_to_rotations(gaussians.quats[0].double()) * gaussians.scales[0].double()[:, None, :]
    offsets = (means - centres[group])[..., None]
    covariances = mean((axes @ axes.mT + offsets @ offsets.mT).flatten(1)).unflatten(-1, (3, 3))
    variances, directions = torch.linalg.eigh(covariances)
    scales, quats = principal_axes(directions * variances.clamp_min(0).sqrt()[:, None, :])
    arrays = (centres, scales, quats, mean(colors), torch.ones_like(totals))
    return Gaussians(*(array.to(gaussians.means.dtype)[None] for array in arrays))
