"""Rasterising 2-D splats. All backends (see `backends`) share one signature and the same rules.

The rules are those of gsplat 1.5.3. Pixel centres lie at +0.5. Alpha is min(alpha_max, opacity exp(-sigma)), and a
splat is skipped where it is below 1/255. A pixel is finished before its transmittance would fall to 1e-4. Splats are
composited by depth, and those of equal depth by index. A capped alpha passes no gradient to geometry and opacity. The
remaining light falls on the background.

The picture depends on depths through their order alone, which is a step function. With an `order_temperature` tau the
backward pass treats that order as uncertain. Take two splats that are neighbours at a pixel, i behind j, with u = (z_i
- z_j) / tau. The probability that i is in front is s(-u), where s is the logistic function. If it were, the pixel would
change by T_j a_j a_i (c_i - c_j). Therefore dC/dz_i = -s(u) s(-u) / tau T_j a_j a_i (c_i - c_j), and dC/dz_j is the
negative of that. The picture itself stays exact.
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
"""The default: the cap of alpha of gsplat, and no gradient of the order."""


@dataclass(frozen=True)
class Raster:
    """A composited picture.

    Attributes:
        image: Picture `[B, C, H, W]` over the background.
        alpha: Coverage `[B, 1, H, W]` in [0, 1].
        depth: Expected depth `[B, 1, H, W]`, the mean of the splats' depths weighted by their shares of the pixel; 0
            where there is no splat.
        owner: Index of the splat with the largest weight in each pixel, -1 where there is none, int32 `[B, H, W]`.
        owner_weight: The largest weight in each pixel, in [0, 1], `[B, H, W]`.
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
        images: Light of each group that reaches the viewer `[B, S, C, H, W]`, without a background.
        alphas: Coverage that each group adds `[B, S, 1, H, W]`.
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

    With an `order_temperature` it is differentiable in depths, too; see `gmae_tools.splatting`. Pictures are float32,
    or float64 if a tensor of the splats is; only `dense` also computes in float64. Autocast has no effect.

    Args:
        splats: Splats in any order, with any number of channels C. Pictures are on their device.
        height, width: Size of the picture in pixels.
        background: Colour behind the splats, `[C]` or `[B, C]`; None for 0.
        depth: Whether to return the expected depth, too.
        owners: Whether to return the strongest splat of each pixel, too.
        rules: The cap of alpha and the temperature of the order.
        backend: `cpu` (numba; splats on a GPU are copied), `gsplat` (CUDA), `dense` (the short reference) or `auto`.

    Raises:
        GmaeToolsError: A parameter is NaN or infinite, a shape does not fit, or the backend cannot render here.
    """
    splats = _of_one_dtype(splats)
    behind = _background(background, splats, splats.colors.shape[-1])
    if depth:
        splats = replace(splats, colors=torch.cat([splats.colors, splats.depths[..., None]], -1))
        behind = torch.nn.functional.pad(behind, (0, 1))
    sizes = (splats.means.shape[1],)
    options = RasterOptions(height, width, sizes, rules.alpha_max, owners, rules.order_temperature)
    images, alphas, owner, weight = _composite(splats, behind, options, backend)
    image, alpha = images[:, 0], alphas[:, 0]
    expected = image[:, -1:] / alpha.clamp_min(1e-10) if depth else None
    found = (owner, weight) if owners else (None, None)
    return Raster(image[:, :-1] if depth else image, alpha, expected, *found)


def rasterize_groups(
    splats: Splats,
    height: int,
    width: int,
    group_sizes: Sequence[int],
    *,
    rules: Rules = RULES,
    backend: Backend = "auto",
) -> GroupRaster:
    """Composite splats once and keep the contribution of each depth group. Sums of these are all first-K pictures.

    Args:
        splats, height, width: Arguments of `rasterize`.
        group_sizes: Sizes of consecutive groups in depth order, nearest first. Splats beyond their sum are not
            rendered.
        rules, backend: Arguments of `rasterize`.

    Raises:
        GmaeToolsError: `rasterize` raises an error, or the groups have more splats than there are.
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
    return splats.map(lambda tensor: tensor.to(dtype))


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
    """Convert sorted positions `[B, H, W]` to the caller's indices, given the `order` `[B, K]`; -1 stays -1."""
    padded = torch.nn.functional.pad(order, (0, 1), value=-1)  # position -1 finds the padding
    return padded.gather(1, (owner.long() % padded.shape[1]).flatten(1)).view_as(owner).int()


def _composite(
    splats: Splats, background: Tensor, options: RasterOptions, backend: Backend
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check and sort splats, and composite them by the backend; returns images, alphas, owner, owner weight."""
    _check_shapes(splats)
    _check_finite(splats, background)
    order = torch.argsort(splats.depths.detach(), dim=1, stable=True)
    renderer = choose_backend(backend, splats.means.device)
    if renderer == "cpu":
        from gmae_tools.splatting.cpu import composite_splats

        images, alphas, owner, weight = composite_splats(splats, background, order, options)
    else:
        means, conics, colors = (
            t.take_along_dim(order[..., None], 1) for t in (splats.means, splats.conics, splats.colors)
        )
        depths, opacities = (t.take_along_dim(order, 1) for t in (splats.depths, splats.opacities))
        by_depth = Splats(means, conics, depths, colors, opacities)
        if renderer == "gsplat":
            from gmae_tools.splatting.gsplat import composite_sorted

            images, alphas, owner, weight = composite_sorted(by_depth, background, options)
        else:
            from gmae_tools.splatting.dense import rasterize_dense

            with torch.autocast(splats.means.device.type, enabled=False):  # which would halve the precision of the sums
                images, alphas, owner, weight = rasterize_dense(by_depth, background, options)
    images, alphas, weight = (result.to(splats.means.dtype) for result in (images, alphas, weight))
    return images, alphas, unsort(owner, order) if options.owners else owner, weight


def _check_shapes(splats: Splats) -> None:
    """Raise an error that names a tensor of the wrong shape, for which kernels would read beyond an array."""
    last = {"means": (2,), "conics": (3,), "depths": (), "opacities": (), "colors": splats.colors.shape[-1:]}
    for name, sizes in last.items():
        shape, expected = list(getattr(splats, name).shape), [*splats.means.shape[:2], *sizes]
        if shape != expected:
            raise GmaeToolsError(f"splats: {name} has shape {shape}, expected {expected}")


def _check_finite(splats: Splats, background: Tensor) -> None:
    """Raise an error that names a tensor with values that are not finite in float32, in which most backends compute.

    All tensors are checked before the CPU waits for the GPU once.
    """
    named = {
        "means": splats.means, "conics (from scales and quats)": splats.conics, "depths": splats.depths,
        "opacities": splats.opacities, "colors": splats.colors, "background": background,
    }  # fmt: skip
    finite = torch.stack([torch.isfinite(tensor.float()).all() for tensor in named.values()]).tolist()
    for name, good in zip(named, finite, strict=True):
        if not good:
            raise GmaeToolsError(f"splats: {name} has NaN or infinite values; is the model or the scene broken?")
