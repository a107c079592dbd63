"""Masked image modelling as a siamese method: R-MAE and C-MAE (arXiv 2208.04164).

That paper understands MAE as a method that makes the features of two complementary occlusions of a picture alike. Its
abstract and introduction are public, its equations were not available to us. The equations below are derived from the
text, in our own numbering, and the docstrings say where the choice is ours. One view of a picture x shows the patches
M, the other view the remaining patches 1 - M; f is the encoder and d a decoder; all norms are over the patches that M
hides:

    z1 = f(x M),  z2 = f(x (1 - M))
    (1)  MAE:      min over f, d of     E ||d(z1) - x||^2
    (2)  siamese:  min over f, d of     E ||d(z1) - d'(z2)||^2,  where d' = argmin E ||d'(z2) - x||^2
    (3)  R-MAE:    min over f, d, d' of E ||d(z1) - d'(z2)||^2 + w ||d'(z2) - x||^2
    (4)  C-MAE:    min over f, d of     InfoNCE of d(z1) and d(z2)

(2) replaces the picture by its reconstruction from the other view, which sees exactly these patches, and so becomes a
distance between z1 and z2 in a decoded space. Its condition is an optimisation inside an optimisation. (3) turns the
condition into a penalty and learns everything at once. The penalty is needed, because constant decoders make the first
term 0. It also prevents collapse: the best output of an unrestricted d' is (d(z1) + w x) / (1 + w), and with it (3)
equals w / (1 + w) times (1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import CMAE, RMAE, CMAEConfig, RMAEConfig, cosines, patch_targets
from gmae_tools.model import Autoencoder
from gmae_tools.pretrain.objectives.objective import Objective
from gmae_tools.pretrain.sampling import Batch, sample_masks
from gmae_tools.splatting import Backend
from gmae_tools.vit import complement


@dataclass(frozen=True)
class RMAEObjective(Objective):
    """Equation (3) for an `RMAE`, which is an MAE with a second decoder d' unless its configuration shares one.

    Our choices are: d' has the shape of d; gradients pass through both views unless they are stopped; the views do not
    change places, so that the first one always sees as little as MAE does; the value of w.

    Args:
        mask_ratio: Lowest and highest share of the patches that M hides.
        reconstruction_weight: The weight w.
        stop_gradient: Whether the first term trains d(z1) alone. The second view is then a target, and d' learns from
            the penalty only, as the condition of (2) requires.
    """

    reconstruction_weight: float = 1.0
    stop_gradient: bool = False

    name: ClassVar[str] = "r-mae"
    model: ClassVar[type[Autoencoder]] = RMAE
    model_config: ClassVar[type[RMAEConfig]] = RMAEConfig
    least_hidden: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reconstruction_weight > 0:
            problem = f"reconstruction weight {self.reconstruction_weight:g}: must be above 0"
            raise GmaeToolsError(f"{problem}, or constant predictions would be the best")

    def loss(
        self, model: nn.Module, batch: Batch, config: RMAEConfig, backend: Backend = "auto"
    ) -> tuple[Tensor, Tensor]:
        """Equation (3) as the loss, and MAE's error (1) for the log."""
        targets = patch_targets(batch.images, config)  # x, [B, N, P]
        rest = complement(batch.visible, targets.shape[1])  # what M hides, [B, N - V]
        first = _rows(model(batch.images, batch.visible), rest)  # d(z1), [B, N - V, P]
        second = _rows(model(batch.images, rest, second_view=True), rest)  # d'(z2)
        targets = _rows(targets, rest)
        aim = second.detach() if self.stop_gradient else second
        likeness, penalty = F.mse_loss(first, aim), F.mse_loss(second, targets)
        return likeness + self.reconstruction_weight * penalty, F.mse_loss(first.detach(), targets)


def _rows(x: Tensor, numbers: Tensor) -> Tensor:
    """The rows `[B, n, P]` of `x` `[B, N, P]` with these numbers `[B, n]`."""
    return x.gather(1, numbers[..., None].expand(-1, -1, x.shape[-1]))


@dataclass(frozen=True)
class CMAEObjective(Objective):
    """Equation (4): of all pictures of a step, the other view of the same picture has to be the most similar one.

    Similarity is the cosine of the embeddings over the temperature. The public text says that InfoNCE replaces the
    decoder, and that there are learnable mask tokens. The rest is our choice. By default the decoder of MAE stays, with
    a learned mask token for hidden patches, shared by both views, and without a further projection. With
    `CMAEConfig.head` `light` two layers replace the decoder, and mask tokens enter the encoder, whose features then
    cover all patches. Either way the outputs are averaged over the patches, so that pictures are compared, not patches;
    the two views take turns as the query; gradients pass through both; the negatives are the other pictures of the
    step, over all processes.

    All pictures of a step have the same patches hidden. With a mask for each picture, the masks alone would show which
    views belong together, because only the two views of one picture have no patch in common. (A nano model did not
    learn to exploit that in 1200 steps on identical grey pictures; a larger one might.)

    Args:
        mask_ratio: Lowest and highest share of the patches that M hides.
        temperature: Temperature of InfoNCE; its value is our choice.
    """

    temperature: float = 0.2

    name: ClassVar[str] = "c-mae"
    model: ClassVar[type[Autoencoder]] = CMAE
    model_config: ClassVar[type[CMAEConfig]] = CMAEConfig
    by_picture: ClassVar[bool] = False
    least_hidden: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise GmaeToolsError(f"temperature {self.temperature:g}: must be above 0")

    def masks(self, patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
        """The same hidden patches for all samples of a step."""
        return sample_masks(self.mask_ratio, patches, step, np.full_like(samples, step), seed)

    def loss(
        self, model: nn.Module, batch: Batch, config: CMAEConfig, backend: Backend = "auto"
    ) -> tuple[Tensor, Tensor]:
        """Equation (4), as the loss and for the log.

        Every process computes the loss of the whole step, with gradients for its own rows only. A trainer averages the
        gradients over the processes, so each loss is multiplied by their number.
        """
        rest = complement(batch.visible, (batch.size // config.patch_size) ** 2)
        first, second = (_of_all_processes(model(batch.images, visible)) for visible in (batch.visible, rest))
        loss = info_nce(first, second, self.temperature)
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        return loss * processes, loss.detach()

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("matched",)


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE (arXiv 1807.03748) in both directions, of embeddings `[B, E]` whose equal rows belong together."""
    logits = cosines(first, second) / temperature  # [B, B]
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _of_all_processes(embeddings: Tensor) -> Tensor:
    """Embeddings of all processes; gradients reach only the rows of this process."""
    if not distributed.is_initialized():
        return embeddings
    rows = [torch.empty_like(embeddings) for _ in range(distributed.get_world_size())]
    distributed.all_gather(rows, embeddings.detach())
    rows[distributed.get_rank()] = embeddings
    return torch.cat(rows)
