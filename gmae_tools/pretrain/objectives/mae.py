"""MAE's objective: predict the pixels of the hidden patches (arXiv 2111.06377)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from gmae_tools.mae import MAE, MAEConfig, mae_loss
from gmae_tools.model import Autoencoder
from gmae_tools.pretrain.objectives.objective import Objective
from gmae_tools.pretrain.sampling import Batch
from gmae_tools.splatting import Backend


@dataclass(frozen=True)
class MAEObjective(Objective):
    """The mean squared error of predicted patches.

    Args:
        mask_ratio: Lowest and highest share of hidden patches; the paper has (0.75, 0.75).
        loss_on: Patches that count: the `masked` ones, as in the paper, or `all`.
    """

    loss_on: Literal["all", "masked"] = "masked"

    name: ClassVar[str] = "mae"
    model: ClassVar[type[Autoencoder]] = MAE
    model_config: ClassVar[type[MAEConfig]] = MAEConfig

    def loss(
        self, model: nn.Module, batch: Batch, config: MAEConfig, backend: Backend = "auto"
    ) -> tuple[Tensor, Tensor]:
        """The mean squared error of the predicted `patch_targets`, as the loss and for the log."""
        error = mae_loss(model, batch.images, batch.visible, config, self.loss_on)
        return error, error.detach()

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("psnr_hidden",) if self.loss_on == "masked" else ("psnr", "psnr_masked", "psnr_hidden")
