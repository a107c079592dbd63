"""The base class of all objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import Autoencoder, AutoencoderConfig
from gmae_tools.pretrain.sampling import Batch, sample_backgrounds, sample_masks
from gmae_tools.splatting import Backend


@dataclass(frozen=True)
class Objective(ABC):
    """Which patches a run hides from its model, and which loss it minimises.

    Args:
        mask_ratio: Lowest and highest share of hidden patches; each step samples one share from this range.

    Attributes:
        name: Name on the command line.
        model, model_config: Classes of the model that is trained and of its configuration.
        splats: Whether the model's output is rendered as Gaussians.
        by_picture: Whether the loss is a mean over pictures. If not, the pictures of a step are compared with each
            other, and the step cannot be cut into parts.
        least_hidden: Number of patches that must be hidden for the loss to be defined.
    """

    mask_ratio: tuple[float, float] = (0.75, 0.75)

    name: ClassVar[str]
    model: ClassVar[type[Autoencoder]]
    model_config: ClassVar[type[AutoencoderConfig]]
    splats: ClassVar[bool] = False
    by_picture: ClassVar[bool] = True
    least_hidden: ClassVar[int] = 0

    def __post_init__(self) -> None:
        low, high = self.mask_ratio
        if not 0 <= low <= high <= 0.95:
            raise GmaeToolsError(f"masking ratio {low}..{high}: must lie within 0..0.95, the lower one first")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the held-out measurements that are meaningful for this objective; see `HeldOut.metrics`."""
        return ("psnr_hidden",)

    def build(self, config: AutoencoderConfig) -> Autoencoder:
        """The model to train, with random weights."""
        model: Any = self.model  # the constructors of the subclasses differ
        built: Autoencoder = model(config)
        return built

    def masks(self, patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
        """Hidden patches of a step's samples, bool `[B, N]`."""
        return sample_masks(self.mask_ratio, patches, step, samples, seed)

    def backgrounds(self, samples: np.ndarray, seed: int) -> Tensor:
        """Background colours `[B, 3]` in [0, 1]; black for objectives that render nothing."""
        return sample_backgrounds("black", samples, seed)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, config: Any, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
        """The loss to minimise, and the part of it that the log records.

        Args:
            model: What `build` returned, possibly wrapped by a trainer.
            batch: One process's pictures and masks.
            config: Configuration of the model.
            backend: Backend of `rasterize`.
        """
