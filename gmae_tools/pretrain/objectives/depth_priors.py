"""Priors on the sign of depth. Without a prior, the reversed order of depth rebuilds a picture equally well.

Both priors move large things behind small ones. For the first one, the size of a Gaussian is the area of its footprint;
for the second one, it is the area around it that has its colour, so that layers tend to be objects. The second prior is
the stronger assumption: colours that are rare in their surroundings belong to the foreground, as in the literature on
saliency.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.splatting.backends import describe_backends

_ALIKE = 0.15  # standard deviation of colours in [0, 1] that count as the same
_NEARBY = 0.5  # standard deviation of the surroundings, in halves of the picture
_MOST_AROUND = 1024  # Gaussians that are compared with each
_LEAST_DETERMINANT = 1e-24  # px^-4, of a conic


def size_prior(splats: Splats) -> Tensor:
    """1 minus the correlation of depth with the logarithm of the footprint's area, in 0..2, averaged over pictures.

    Areas get no gradient, because the prior is on depth.

    Args:
        splats: Splats of B pictures; all Gaussians count alike.
    """
    return (1 - _correlation(splats.depths, _areas(splats).log())).mean()


def region_prior(splats: Splats, height: int, width: int) -> Tensor:
    """1 minus the correlation of depth with the logarithm of the area around a Gaussian that shares its colour.

    The result is in 0..2 and averaged over pictures. The area around Gaussian k is the sum over all j of
    w_kj opacity_j area_j, for colours c in [0, 1] and centres x in [-1, 1], with
    w_kj = exp(-|c_k - c_j|^2 / (2 0.15^2) - |x_k - x_j|^2 / (2 0.5^2)). It gets no gradient. Where K is larger
    than 1,024, the sum is over a fixed random choice of so many Gaussians, so that time grows with K and not with K^2.

    Args:
        splats: Splats of B pictures.
        height, width: Size of the pictures in pixels.
    """
    with torch.no_grad():
        half = splats.means.new_tensor([width / 2, height / 2])
        places = torch.cat([splats.colors / _ALIKE, splats.means / half / _NEARBY], -1).float()  # [B, K, 5]
        weights = (splats.opacities * _areas(splats)).float()
        others = _some(places.shape[1])
        triples = zip(places, places[:, others], weights[:, others], strict=True)  # of one picture at a time
        surroundings = torch.stack([_sum_alike(*triple) for triple in triples])
    return (1 - _correlation(splats.depths, (surroundings + 1e-6).log())).mean()


@lru_cache(maxsize=8)
def _some(k: int) -> slice | Tensor:
    """All of `k` Gaussians, or the fixed choice among them that stands for the surroundings."""
    if k <= _MOST_AROUND:
        return slice(None)
    return torch.randperm(k, generator=torch.Generator().manual_seed(0))[:_MOST_AROUND].sort().values


def _sum_alike(places: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """Sums `[K]` over j of exp(-|p_k - q_j|^2 / 2) w_j for places p `[K, 5]`, others q `[J, 5]` and weights w `[J]`."""
    if places.device.type == "cpu" and _has_kernels():
        from gmae_tools.pretrain.objectives.surroundings import sum_alike

        return torch.from_numpy(sum_alike(places.numpy(), others.numpy(), weights.numpy()))
    half_squares = places.square().sum(-1)[:, None] / 2 + others.square().sum(-1) / 2
    return torch.addmm(half_squares, places, others.T, alpha=-1).neg_().exp_() @ weights


@lru_cache
def _has_kernels() -> bool:
    """Whether numba can compile on this machine."""
    return any(status.name == "cpu" and status.usable for status in describe_backends())


@torch.no_grad()
def _areas(splats: Splats) -> Tensor:
    """Products of the footprints' principal standard deviations in px^2, `[B, K]`."""
    a, b, c = splats.conics.detach().double().unbind(-1)  # in single precision the terms of thin Gaussians cancel
    return (a * c - b * b).clamp_min(_LEAST_DETERMINANT).rsqrt().float()


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation over the last dimension; 0 where x or y is constant."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    spread = (x.square().mean(-1) * y.square().mean(-1) + 1e-12).sqrt()
    return (x * y).mean(-1) / spread
