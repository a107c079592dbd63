"""Rasterising 2-D splats: one signature, several backends (see `backends`), the same rules.

The rules are gsplat's (1.5.3): pixel centres at +0.5; alpha = min(alpha_max, opacity exp(-sigma)), skipped below
1/255; a pixel is finished before its transmittance would fall to 1e-4; splats are composited by depth, ties by index; a
capped alpha passes no gradient to geometry and opacity; what light is left falls on the background.

The picture depends on depths only through their order, which is a step function. With an `order_temperature` tau the
backward pass treats that order as uncertain: of two splats that are neighbours at a pixel, i behind j, with depths
u = (z_i - z_j) / tau apart, i would be in front with probability s(-u), s the logistic function, which would change the
pixel by T_j a_j a_i (c_i - c_j). So dC/dz_i = -s(u) s(-u) / tau T_j a_j a_i (c_i - c_j), and dC/dz_j is the opposite.
The picture itself stays the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting.backends import Backend, Renderer, choose_backend
from gmae_tools.splatting.rules import RasterOptions, Rules
from gmae_tools.system.precision import working_dtype

__all__ = ["Backend", "GroupRaster", "Raster", "Renderer", "Rules", "choose_backend", "rasterize", "rasterize_groups"]

RULES = Rules()
"""gsplat's cap of alpha, and no gradient of the order."""


@dataclass(frozen=True)
class Raster:
    """A composited picture.

    Attributes:
        image: `[B, C, H, W]` over the background.
        alpha: coverage `[B, 1, H, W]` in [0, 1].
        depth: expected depth `[B, 1, H, W]`: the mean of the splats' depths, weighted by their shares of the pixel; 0
            where no splat is.
        owner: index of the splat with the largest weight in each pixel, -1 where there is none, int32 `[B, H, W]`.
        owner_weight: that weight, `[B, H, W]`.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    owner: Tensor | None = None
    owner_weight: Tensor | None = None


@dataclass(frozen=True)
class GroupRaster:
    """The contributions of consecutive groups of splats, nearest first, to one composited picture.

    The picture of the first s + 1 groups is `images[:, : s + 1].sum(1) + (1 - alphas[:, : s + 1].sum(1)) * background`.

    Attributes:
        images: light from each group that reaches the viewer `[B, S, C, H, W]`, no background.
        alphas: coverage that each group adds `[B, S, 1, H, W]`.
    """

    images: Tensor
    alphas: Tensor


def rasterize(
    splats: Splats,
    height: int,
    width: int,
    *,
    background: Tensor | None = None,
    depth: bool = False,
    owners: bool = False,
    rules: Rules = RULES,
    backend: Backend = "auto",
) -> Raster:
    """Composite splats by depth; differentiable in means, conics, colors, opacities and background.

    With an `order_temperature` it is differentiable in depths, too: see above.

    Pictures are float32, or float64 if a tensor of the splats is, which only `dense` computes with. Autocast changes
    nothing.

    Args:
        splats: any order, any number of channels C; the pictures will be on their device.
        height, width: of the picture in pixels.
        background: `[C]` or `[B, C]`; None is 0.
        depth: also return the expected depth.
        owners: also return each pixel's strongest splat.
        rules: the cap of alpha and the temperature of the order.
        backend: `cpu` (numba; splats on a GPU are copied), `gsplat` (CUDA), `dense` (the short reference) or `auto`.

    Raises:
        GmaeToolsError: a parameter is NaN or infinite, a shape does not fit, or the backend cannot draw here.
    """
    splats = _of_one_dtype(splats)
    behind = _background(background, splats, splats.colors.shape[-1])
    drawn = splats
    if depth:
        drawn = replace(splats, colors=torch.cat([splats.colors, splats.depths[..., None]], -1))
        behind = torch.nn.functional.pad(behind, (0, 1))
    sizes = (splats.means.shape[1],)
    options = RasterOptions(height, width, sizes, rules.alpha_max, owners, rules.order_temperature)
    images, alphas, owner, weight = _composite(drawn, behind, options, backend)
    image, alpha = images[:, 0], alphas[:, 0]
    expected = image[:, -1:] / alpha.clamp_min(1e-10) if depth else None
    return Raster(
        image[:, :-1] if depth else image,
        alpha,
        expected,
        owner if owners else None,
        weight if owners else None,
    )


def rasterize_groups(
    splats: Splats,
    height: int,
    width: int,
    group_sizes: Sequence[int],
    *,
    rules: Rules = RULES,
    backend: Backend = "auto",
) -> GroupRaster:
    """Composite splats once and keep each depth group's contribution, from which all first-K pictures follow by sums.

    Args:
        group_sizes: sizes of consecutive groups in depth order, nearest first. Splats beyond their sum are not drawn.
        rules, backend: as for `rasterize`.

    Raises:
        GmaeToolsError: as `rasterize`, or the groups ask for more splats than there are.
    """
    if not group_sizes or min(group_sizes) < 0 or sum(group_sizes) > splats.means.shape[1]:
        raise GmaeToolsError(f"group sizes {list(group_sizes)} do not cut {splats.means.shape[1]} splats")
    splats = _of_one_dtype(splats)
    behind = _background(None, splats, splats.colors.shape[-1])
    sizes, temperature = tuple(group_sizes), rules.order_temperature
    options = RasterOptions(height, width, sizes, rules.alpha_max, order_temperature=temperature)
    images, alphas, _, _ = _composite(splats, behind, options, backend)
    return GroupRaster(images, alphas)


def _of_one_dtype(splats: Splats) -> Splats:
    dtype = working_dtype(*vars(splats).values())
    return Splats(**{name: tensor.to(dtype) for name, tensor in vars(splats).items()})


def _background(background: Tensor | None, splats: Splats, channels: int) -> Tensor:
    batch = splats.means.shape[0]
    if background is None:
        return splats.means.new_zeros(batch, channels)
    if background.shape not in ((channels,), (batch, channels)):
        raise GmaeToolsError(
            f"background has shape {list(background.shape)}, expected [{channels}] or [{batch}, {channels}]"
        )
    return background.to(splats.means).expand(batch, channels)


def unsort(owner: Tensor, order: Tensor) -> Tensor:
    """Turn sorted positions `[B, H, W]` into the caller's indices by `order` `[B, K]`; -1 stays."""
    padded = torch.nn.functional.pad(order, (0, 1), value=-1)  # position -1 finds the padding
    return padded.gather(1, (owner.long() % padded.shape[1]).flatten(1)).view_as(owner).int()


def _composite(
    splats: Splats, background: Tensor, options: RasterOptions, backend: Backend
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check, sort and hand over to the backend; returns images, alphas, owner, owner weight."""
    _check_shapes(splats)
    _check_finite(splats, background)
    order = torch.argsort(splats.depths.detach(), dim=1, stable=True)
    drawer = choose_backend(backend, splats.means.device)
    if drawer == "cpu":
        from gmae_tools.splatting.cpu import composite_splats

        images, alphas, owner, weight = composite_splats(splats, background, order, options)
    else:
        by_depth = _sorted(splats, order)
        if drawer == "gsplat":
            from gmae_tools.splatting.gsplat import composite_sorted

            images, alphas, owner, weight = composite_sorted(by_depth, background, options)
        else:
            from gmae_tools.splatting.dense import rasterize_dense

            with torch.autocast(splats.means.device.type, enabled=False):  # it would halve the precision of its sums
                images, alphas, owner, weight = rasterize_dense(by_depth, background, options)
    images, alphas, weight = (result.to(splats.means.dtype) for result in (images, alphas, weight))
    return images, alphas, unsort(owner, order) if options.owners else owner, weight


def _sorted(splats: Splats, order: Tensor) -> Splats:
    """The splats in the order `[B, K]`."""
    means, conics, colors = (
        t.take_along_dim(order[..., None], 1) for t in (splats.means, splats.conics, splats.colors)
    )
    depths, opacities = (t.take_along_dim(order, 1) for t in (splats.depths, splats.opacities))
    return Splats(means, conics, depths, colors, opacities)


def _check_shapes(splats: Splats) -> None:
    """Raise an error that names what does not fit: kernels trust shapes, and would read beyond an array."""
    last = {"means": (2,), "conics": (3,), "depths": (), "opacities": (), "colors": splats.colors.shape[-1:]}
    for name, sizes in last.items():
        shape, expected = list(getattr(splats, name).shape), [*splats.means.shape[:2], *sizes]
        if shape != expected:
            raise GmaeToolsError(f"splats: {name} has shape {shape}, expected {expected}")


def _check_finite(splats: Splats, background: Tensor) -> None:
    """Raise an error that names what is not finite in float32, with which most backends draw.

    One answer for all, because a GPU has to be waited for.
    """
    named = {
        "means": splats.means,
        "conics (from scales and quats)": splats.conics,
        "depths": splats.depths,
        "opacities": splats.opacities,
        "colors": splats.colors,
        "background": background,
    }
    finite = torch.stack([torch.isfinite(tensor.float()).all() for tensor in named.values()]).tolist()
    for name, good in zip(named, finite, strict=True):
        if not good:
            raise GmaeToolsError(f"splats: {name} has NaN or infinite values; is the model or the scene broken?")
