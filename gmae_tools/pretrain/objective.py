"""GMAE's objective: rebuild the picture from the Gaussians read out of its visible patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import GMAEConfig
from gmae_tools.pretrain.chance import Stream, uniforms
from gmae_tools.splatting import Backend, rasterize


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is hidden and what is asked for.

    Args:
        mask_ratio: range (lowest, highest) of the share of hidden patches, drawn once a step; the paper: (0.75, 0.75).
        loss_on: pixels that count: `all`, or those of the `masked` patches (the paper).
        background: behind the Gaussians: `white` (the paper), `black`, or a `random` colour for every picture, which
            leaves no region to the background.
        slot_depth_weight: weight of `slot_depth_spread`, against the queries' grid showing in depth maps.
    """

    mask_ratio: tuple[float, float] = (0.0, 0.75)
    loss_on: Literal["all", "masked"] = "all"
    background: Literal["white", "black", "random"] = "random"
    slot_depth_weight: float = 1e-3

    def __post_init__(self) -> None:
        low, high = self.mask_ratio
        if not 0 <= low <= high <= 0.95:
            raise GmaeToolsError(f"masking ratio {low}..{high}: must lie within 0..0.95, the lower one first")


def draw_masks(config: ObjectiveConfig, patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
    """Hidden patches, bool `[B, N]`: the share follows from (seed, step), the patches from (seed, sample number)."""
    low, high = config.mask_ratio
    ratio = low + (high - low) * float(uniforms(seed, Stream.MASK_RATIO, np.array([step]), 1)[0, 0])
    masks = np.zeros((len(samples), patches), bool)
    first = uniforms(seed, Stream.MASK, samples, patches).argsort(1)[:, : int(ratio * patches)]
    np.put_along_axis(masks, first, True, 1)
    return torch.from_numpy(masks)


def draw_backgrounds(config: ObjectiveConfig, samples: np.ndarray, seed: int) -> Tensor:
    """Background colours `[B, 3]` in [0, 1]."""
    if config.background != "random":
        return torch.full((len(samples), 3), float(config.background == "white"))
    return torch.from_numpy(uniforms(seed, Stream.BACKGROUND, samples, 3)).float()


def reconstruct(
    gaussians: Gaussians, camera: Camera, height: int, width: int, background: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Pictures `[B, 3, H, W]` of Gaussians over `background` (`[3]` or `[B, 3]`)."""
    splats = project(gaussians, camera, height, width)
    return rasterize(splats, height, width, background=background, backend=backend).image


def reconstruction_loss(pictures: Tensor, images: Tensor, mask: Tensor | None, patch: int) -> Tensor:
    """Mean squared error per pixel and channel; over the masked patches only if a `mask` `[B, N]` hides any."""
    error = (pictures - images).square().mean(1)  # [B, H, W]
    if mask is None:
        return error.mean()
    rows, columns = error.shape[1] // patch, error.shape[2] // patch
    by_patch = error.unflatten(2, (columns, patch)).unflatten(1, (rows, patch)).mean((2, 4)).flatten(1)  # [B, N]
    counted = torch.where(mask.any(), mask, True)  # no `if`: it would wait for the GPU
    return (by_patch * counted).sum() / counted.sum()


def slot_depth_spread(gaussians: Gaussians, gaussians_per_query: int) -> Tensor:
    """Share of a picture's variance of depths that is fixed by a Gaussian's slot within its query; the pictures' mean.

    With several Gaussians a query some slots tend to lie in front all over a picture; its depth map then shows the grid
    of queries instead of the scene. A mean over pictures is the same however a batch is cut over processes.
    """
    depths = gaussians.means[..., 2].unflatten(1, (-1, gaussians_per_query))  # [B, Q, G]
    between = depths.mean(1).var(1, correction=0)  # [B]
    return (between / (depths.var((1, 2), correction=0) + 1e-8)).mean()


def gmae_loss(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    backgrounds: Tensor,
    config: ObjectiveConfig,
    model_config: GMAEConfig,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The loss to minimise and, for the log, the mean squared error in it.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        masks: hidden patches or the visible ones, as `GMAE.forward` takes them.
        backgrounds: `[B, 3]`.
        backend: of `rasterize`.
    """
    gaussians = model(images, masks)
    height, width = images.shape[-2:]
    pictures = reconstruct(gaussians, model_config.camera, height, width, backgrounds, backend)
    patches = height * width // model_config.patch_size**2
    counted = _hidden(masks, patches) if config.loss_on == "masked" else None
    error = reconstruction_loss(pictures, images, counted, model_config.patch_size)
    spread = slot_depth_spread(gaussians, model_config.gaussians_per_query)
    return error + config.slot_depth_weight * spread, error.detach()


def _hidden(masks: Tensor, patches: int) -> Tensor:
    """Hidden patches, bool `[B, N]`, however they were given."""
    if masks.dtype == torch.bool:
        return masks
    return torch.ones(len(masks), patches, dtype=torch.bool, device=masks.device).scatter_(1, masks, False)
