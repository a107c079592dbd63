"""GMAE's objective: rebuild the picture from the Gaussians read out of its visible patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmae_tools.camera import Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.mae import imagenet_patches, patch_statistics
from gmae_tools.model import GMAE, Autoencoder, GMAEConfig, Order
from gmae_tools.pretrain.objectives.depth_priors import region_prior, size_prior
from gmae_tools.pretrain.objectives.objective import Objective
from gmae_tools.pretrain.sampling import Background, Batch, Stream, sample_backgrounds, uniforms
from gmae_tools.splatting import Backend, Rules, rasterize
from gmae_tools.vit import hidden_patches

_TYPICAL_ERROR = 10**-2.3  # mean squared error of pictures at 23 dB
_NESTED = (8, 4, 2)  # pictures are also rendered from the nearest 1/8, 1/4 and 1/2 of the Gaussians
_LEAST_ERROR = 1e-5  # 50 dB; keeps a plain picture, which is easy to rebuild, from outweighing the others


@dataclass(frozen=True)
class GMAEObjective(Objective):
    """The error of the rendered pictures, and optional terms that are added to it.

    Args:
        mask_ratio: Lowest and highest share of hidden patches; (0.75, 0.75) in the paper.
        whole: Share of the steps that hide no patches.
        error: `mse`, the mean squared error, as in the paper, or `psnr`, the negative mean PSNR of the pictures.
            Pictures rich in detail contribute most to the first; all pictures contribute alike to the second.
        loss_on: Pixels on which the error is computed: `all`, or those of the `masked` patches, as in the paper.
        background: Colour behind the Gaussians: `white`, as in the paper, `black`, or a `random` colour for every
            picture, which keeps the model from leaving regions to the background.
        slot_depth_weight: Weight of `slot_depth_spread`, which keeps the queries' grid out of depth maps.
        nested_weight: Weight of the mean error of pictures rendered from the nearest eighth, quarter and half of the
            Gaussians, so that the first K Gaussians alone make a picture (as Matryoshka representations, arXiv
            2205.13147).
        gradient_weight: Weight of the squared error of differences between neighbouring pixels, against blur (as the
            gradient difference loss, arXiv 1511.05440). It is added to the squared error of the pixels.
        occlusion_gradient: Temperature, in units of depth, of the gradient that depth gets from occlusion (the
            `order_temperature` of `Rules`); 0 for no such gradient, as in the paper.
        size_depth_weight: Weight of `size_prior`, which puts large footprints behind small ones.
        region_depth_weight: Weight of `region_prior`, which puts large regions of one colour behind small ones.
        normalise_targets: Whether the error is measured in units of each patch of the photograph; see
            `normalised_error`. The log records the error of the pixels either way.
    """

    mask_ratio: tuple[float, float] = (0.0, 0.75)
    whole: float = 0.0
    error: Literal["mse", "psnr"] = "mse"
    loss_on: Literal["all", "masked"] = "all"
    background: Background = "random"
    slot_depth_weight: float = 1e-3
    nested_weight: float = 0.0
    gradient_weight: float = 0.0
    occlusion_gradient: float = 0.05  # this and the next two: evals/studies/2026-11-28-depth.md
    size_depth_weight: float = 0.002
    region_depth_weight: float = 0.001
    normalise_targets: bool = False

    name: ClassVar[str] = "gmae"
    model: ClassVar[type[Autoencoder]] = GMAE
    model_config: ClassVar[type[GMAEConfig]] = GMAEConfig
    splats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.whole <= 1:
            raise GmaeToolsError(f"share of steps that hide nothing: {self.whole}, must lie within 0..1")
        for name in ("occlusion_gradient", "size_depth_weight", "region_depth_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise GmaeToolsError(f"{name.replace('_', '-')} {getattr(self, name)}: must not be negative")
        if self.normalise_targets and (self.error != "mse" or self.gradient_weight):
            raise GmaeToolsError("normalised targets go with the squared error of pixels alone: leave out the others")

    def masks(self, patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
        if uniforms(seed, Stream.WHOLE, np.array([step]), 1)[0, 0] < self.whole:
            return torch.zeros(len(samples), patches, dtype=torch.bool)
        return super().masks(patches, step, samples, seed)

    def backgrounds(self, samples: np.ndarray, seed: int) -> Tensor:
        return sample_backgrounds(self.background, samples, seed)

    def loss(
        self, model: nn.Module, batch: Batch, config: GMAEConfig, backend: Backend = "auto"
    ) -> tuple[Tensor, Tensor]:
        return gmae_loss(model, batch.images, batch.visible, batch.backgrounds, self, config, backend)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("psnr", "psnr_masked", "psnr_hidden")


def reconstruction_error(pictures: Tensor, images: Tensor, mask: Tensor | None, patch: int) -> Tensor:
    """Each picture's mean squared error per pixel and channel `[B]`.

    Args:
        pictures, images: The two to compare, `[B, 3, H, W]`.
        mask: Patches that count, bool `[B, N]` with rows of equal sums. All patches count if it is None or empty.
        patch: Side of a patch in pixels.
    """
    return _mean_error((pictures - images).square(), mask, patch)


def normalised_error(pictures: Tensor, images: Tensor, mask: Tensor | None, patch: int) -> Tensor:
    """Each picture's mean squared error `[B]` against patch-normalised targets, as MAE has them (`norm_pix_loss`).

    MAE predicts each patch of the photograph minus its mean and divided by its standard deviation. A rendered picture
    has colours in [0, 1], which cannot take such values. Therefore both pictures are shifted and scaled by the mean and
    the standard deviation of the photograph's patch before they are compared. The result is the squared error over the
    patch's variance, in which flat patches count most. The paper does not say how it compares them, so this is our
    choice. The arguments are those of `reconstruction_error`.
    """
    targets = imagenet_patches(images, patch)  # [B, N, P]
    deviation = patch_statistics(targets)[1]
    errors = ((imagenet_patches(pictures, patch) - targets) / deviation).square().mean(-1)  # [B, N]
    return _mean_over(errors, mask)


def gradient_error(pictures: Tensor, images: Tensor, mask: Tensor | None, patch: int) -> Tensor:
    """Each picture's mean squared error `[B]` of the differences between neighbouring pixels.

    Each pixel is compared with the pixel on its right and with the pixel below. The arguments are those of
    `reconstruction_error`.
    """
    difference = pictures - images
    across = functional.pad(difference.diff(dim=3), (0, 1)).square()
    down = functional.pad(difference.diff(dim=2), (0, 0, 0, 1)).square()
    return _mean_error(across + down, mask, patch)


def _mean_error(errors: Tensor, mask: Tensor | None, patch: int) -> Tensor:
    """Means `[B]` of errors `[B, C, H, W]` over the patches that count."""
    error = errors.mean(1)  # [B, H, W]
    if mask is None:
        return error.mean((1, 2))
    rows, columns = error.shape[1] // patch, error.shape[2] // patch
    by_patch = error.unflatten(2, (columns, patch)).unflatten(1, (rows, patch)).mean((2, 4)).flatten(1)  # [B, N]
    return _mean_over(by_patch, mask)


def _mean_over(by_patch: Tensor, mask: Tensor | None) -> Tensor:
    """Means `[B]` of patches' errors `[B, N]` over those that count."""
    if mask is None:
        return by_patch.mean(1)
    counted = torch.where(mask.any(), mask, True)  # an `if` would wait for the GPU
    return (by_patch * counted).sum(1) / counted.sum(1)


def negative_psnr(errors: Tensor) -> Tensor:
    """A loss that falls as the mean PSNR of pictures with these mean squared errors `[B]` rises.

    It is scaled so that its gradient at 23 dB is as long as that of the mean squared error. The weights of the other
    terms and the clipping of the gradient therefore suit both.
    """
    return _TYPICAL_ERROR * torch.log(errors + _LEAST_ERROR).mean()


def slot_depth_spread(gaussians: Gaussians, gaussians_per_query: int, order: Order = "queries") -> Tensor:
    """Share of the variance of depths that a Gaussian's slot within its query explains, averaged over pictures.

    With several Gaussians per query, some slots tend to lie in front all over a picture, and its depth map shows the
    grid of queries instead of the scene. The average over pictures does not depend on how a batch is cut over
    processes.

    Args:
        gaussians: K Gaussians of each of B pictures.
        gaussians_per_query: Number of slots.
        order: Order of the Gaussians; see `GMAEConfig`.
    """
    depths = gaussians.means[..., 2]
    if order == "slots":
        depths = depths.unflatten(1, (gaussians_per_query, -1)).transpose(1, 2)
    else:
        depths = depths.unflatten(1, (-1, gaussians_per_query))  # [B, Q, G], both
    between = depths.mean(1).var(1, correction=0)  # [B]
    return (between / (depths.var((1, 2), correction=0) + 1e-8)).mean()


def gmae_loss(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    backgrounds: Tensor,
    objective: GMAEObjective,
    config: GMAEConfig,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The loss to minimise, and the mean squared error of the pixels for the log.

    Args:
        model: A `GMAE`, possibly wrapped by a trainer.
        images: Pictures `[B, 3, H, W]` in [0, 1].
        masks: Hidden or visible patches, as `GMAE.forward` takes them.
        backgrounds: Background colours `[B, 3]` in [0, 1].
        objective: Error and terms.
        config: Configuration of the model.
        backend: Backend of `rasterize`.
    """
    height, width = images.shape[-2:]
    patches = height * width // config.patch_size**2
    counted = hidden_patches(masks, patches) if objective.loss_on == "masked" else None

    temperature = objective.occlusion_gradient or None

    def losses_of(splats: Splats) -> tuple[Tensor, Tensor]:
        """The loss of the pictures, and their mean squared errors `[B]`."""
        pictures = rasterize(
            splats, height, width, background=backgrounds, rules=Rules(order_temperature=temperature), backend=backend
        ).image
        squared = errors = reconstruction_error(pictures, images, counted, config.patch_size)
        if objective.gradient_weight:
            gradients = gradient_error(pictures, images, counted, config.patch_size)
            errors = errors + objective.gradient_weight * gradients
        if objective.normalise_targets:
            errors = normalised_error(pictures, images, counted, config.patch_size)
        return errors.mean() if objective.error == "mse" else negative_psnr(errors), squared

    gaussians: Gaussians = model(images, masks)
    splats = project(gaussians, config.camera, height, width)
    pixels, errors = losses_of(splats)
    spread = slot_depth_spread(gaussians, config.gaussians_per_query, config.order)
    loss = pixels + objective.slot_depth_weight * spread
    if objective.size_depth_weight:
        loss = loss + objective.size_depth_weight * size_prior(splats)
    if objective.region_depth_weight:
        loss = loss + objective.region_depth_weight * region_prior(splats, height, width)
    if objective.nested_weight:
        ordered = gaussians.sort_by_depth()
        parts = [ordered.select(slice(gaussians.k // part)) for part in _NESTED]
        nested = [losses_of(project(part, config.camera, height, width))[0] for part in parts]
        loss = loss + objective.nested_weight * torch.stack(nested).mean()
    return loss, errors.detach().mean()
