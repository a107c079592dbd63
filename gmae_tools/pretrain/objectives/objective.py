"""An objective: what is hidden from the model, what it is asked for, and how well it does on held-out photographs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import Autoencoder, AutoencoderConfig
from gmae_tools.pretrain.sampling import Stream, uniforms
from gmae_tools.splatting import Backend

if TYPE_CHECKING:
    from gmae_tools.pretrain.batches import Batch
    from gmae_tools.pretrain.held_out import HeldOut

MASKED = 0.75  # share of hidden patches in held-out figures
_SHARES = 32  # of visible patches in a run, about, where they are drawn from a range

Background = Literal["white", "black", "random"]


@dataclass(frozen=True)
class Objective(ABC):
    """What a run asks of its model.

    Args:
        mask_ratio: range (lowest, highest) of the share of hidden patches, drawn once a step.

    Attributes:
        name: on the command line.
        model, model_config: of what is trained.
        splats: whether it draws Gaussians.
        by_picture: whether the loss is a mean over pictures. If not, a step's pictures are compared with each other,
            and cannot be worked on in parts.
        least_hidden: patches that must be hidden for the loss to mean anything.
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

    def build(self, config: AutoencoderConfig) -> Autoencoder:
        """The model to train, with random weights."""
        model: Any = self.model  # each has a decoder of its own
        built: Autoencoder = model(config)
        return built

    def masks(self, patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
        """Hidden patches of a step's samples, bool `[B, N]`."""
        return draw_masks(self.mask_ratio, patches, step, samples, seed)

    def backgrounds(self, samples: np.ndarray, seed: int) -> Tensor:
        """Colours `[B, 3]` behind what is drawn; where nothing is, black."""
        return draw_backgrounds("black", samples, seed)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, config: Any, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
        """The loss to minimise and, for the log, its part that tells most.

        Args:
            model: what `build` made, or what a trainer wrapped around it.
            batch: one process's pictures and masks.
            config: of the model.
            backend: of `rasterize`.
        """

    @abstractmethod
    def figures(self, model: Autoencoder, held_out: HeldOut, size: int) -> dict[str, float]:
        """How well the model does on held-out pictures of `size` px; empty if there are none."""

    @abstractmethod
    def columns(self, model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor) -> list[Tensor]:
        """What a contact sheet shows of held-out pictures side by side, each `[b, 3, S, S]` in [0, 1].

        Args:
            numbers: `[b]` of the pictures among those held out.
            images: the pictures themselves, on the model's device.
        """


def draw_masks(ratios: tuple[float, float], patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
    """Hidden patches, bool `[B, N]`: the share follows from (seed, step), the patches from (seed, sample number).

    Of a range of shares a run sees about `_SHARES` at most: kernels and memory are prepared, and kept, anew for each
    number of visible patches, by oneDNN on CPUs and by `torch.compile`.
    """
    low, high = ratios
    ratio = low + (high - low) * float(uniforms(seed, Stream.MASK_RATIO, np.array([step]), 1)[0, 0])
    hidden = int(ratio * patches)
    if low < high:
        grain = max(1, patches // _SHARES)
        nearest = (hidden + grain // 2) // grain * grain
        hidden = min(max(nearest, int(low * patches)), int(high * patches))
    masks = np.zeros((len(samples), patches), bool)
    first = uniforms(seed, Stream.MASK, samples, patches).argsort(1)[:, :hidden]
    np.put_along_axis(masks, first, True, 1)
    return torch.from_numpy(masks)


def draw_backgrounds(background: Background, samples: np.ndarray, seed: int) -> Tensor:
    """Background colours `[B, 3]` in [0, 1]."""
    if background != "random":
        return torch.full((len(samples), 3), float(background == "white"), dtype=torch.float32)
    return torch.from_numpy(uniforms(seed, Stream.BACKGROUND, samples, 3)).float()
