"""MAE's objective: predict the pixels of the hidden patches (arXiv 2111.06377)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gmae_tools.mae import MAE, MAEConfig, mae_loss
from gmae_tools.model import Autoencoder
from gmae_tools.pretrain.objectives.objective import MASKED, Objective
from gmae_tools.pretrain.reconstruction import hidden_pixels, masked_out
from gmae_tools.splatting import Backend

if TYPE_CHECKING:
    from gmae_tools.pretrain.batches import Batch
    from gmae_tools.pretrain.held_out import HeldOut


@dataclass(frozen=True)
class MAEObjective(Objective):
    """What is hidden and what is asked for.

    Args:
        mask_ratio: range of the share of hidden patches, drawn once a step; the paper: (0.75, 0.75).
        loss_on: patches that count: the `masked` ones (the paper), or `all`.
    """

    loss_on: Literal["all", "masked"] = "masked"

    name: ClassVar[str] = "mae"
    model: ClassVar[type[Autoencoder]] = MAE
    model_config: ClassVar[type[MAEConfig]] = MAEConfig

    def loss(
        self, model: nn.Module, batch: Batch, config: MAEConfig, backend: Backend = "auto"
    ) -> tuple[Tensor, Tensor]:
        """The squared error in units of `patch_targets`, twice."""
        error = mae_loss(model, batch.images, batch.visible, config, self.loss_on)
        return error, error.detach()

    def figures(self, model: Autoencoder, held_out: HeldOut, size: int) -> dict[str, float]:
        return held_out.psnr(model, size, hidden_only=self.loss_on == "masked")

    def columns(self, model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor) -> list[Tensor]:
        return patch_columns(model, held_out, numbers, images)


def patch_columns(model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor) -> list[Tensor]:
    """Photograph, masked photograph, all predicted patches, those that are hidden in the midst of the visible ones."""
    hidden = held_out.hidden(model, images, numbers)
    patch, predicted = model.config.patch_size, held_out.render(model, images, MASKED, numbers)
    height, width = images.shape[-2:]
    inserted = torch.where(hidden_pixels(hidden, height, width, patch), predicted, images)
    return [images, masked_out(images, hidden, patch), predicted, inserted]
