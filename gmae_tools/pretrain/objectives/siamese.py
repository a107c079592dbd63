"""Masked image modelling as a siamese method: R-MAE and C-MAE (arXiv 2208.04164).

That paper reads MAE as one that makes features of two complementary occlusions of a picture alike. Its abstract, its
introduction and summaries are public, its equations were not at hand; what follows derives them from these in our own
numbering, and says where the choice was ours. Of a picture x one view shows the patches M, the other the rest 1 - M;
f is the encoder, d a decoder; all norms are over the patches that M hides:

    z1 = f(x M),  z2 = f(x (1 - M))
    (1)  MAE:      min over f, d of     E ||d(z1) - x||^2
    (2)  siamese:  min over f, d of     E ||d(z1) - d'(z2)||^2,  where d' = argmin E ||d'(z2) - x||^2
    (3)  R-MAE:    min over f, d, d' of E ||d(z1) - d'(z2)||^2 + w ||d'(z2) - x||^2
    (4)  C-MAE:    min over f, d of     InfoNCE of d(z1) and d(z2)

(2) puts the picture as decoded from the other view, which sees these very patches, in the place of the picture; what is
left is a distance of z1 and z2, measured in a decoded space. Its condition is an optimisation inside another one. (3)
takes it as a penalty and learns everything at once. The penalty cannot be left out, since constant decoders make the
first term 0. With it nothing collapses: for a d' that can say anything, the best is (d(z1) + w x) / (1 + w), for which
(3) is w / (1 + w) times (1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import CMAE, RMAE, CMAEConfig, RMAEConfig, patch_targets
from gmae_tools.model import Autoencoder
from gmae_tools.pretrain.objectives.mae import patch_columns
from gmae_tools.pretrain.objectives.objective import Objective, draw_masks
from gmae_tools.pretrain.reconstruction import masked_out
from gmae_tools.splatting import Backend
from gmae_tools.vit import complement

if TYPE_CHECKING:
    from gmae_tools.pretrain.batches import Batch
    from gmae_tools.pretrain.held_out import HeldOut


@dataclass(frozen=True)
class RMAEObjective(Objective):
    """Equation (3), trained as an `RMAE`: an MAE with a second decoder d', unless its configuration has them share one.

    Choices of ours: d' has the shape of d; gradients pass through both views, unless they are stopped; the views do
    not change places, so that the first one always sees as little as MAE's; the value of w.

    Args:
        mask_ratio: range of the share of patches that M hides, drawn once a step.
        reconstruction_weight: w.
        stop_gradient: let the first term teach d(z1) alone. The second view is then a target, and d' learns from the
            penalty only, as the condition of (2) has it.
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
        """(3), and for the log MAE's own error (1)."""
        targets = patch_targets(batch.images, config)  # x, [B, N, P]
        rest = complement(batch.visible, targets.shape[1])  # what M hides, [B, N - V]
        first = _rows(model(batch.images, batch.visible), rest)  # d(z1), [B, N - V, P]
        second = _rows(model(batch.images, rest, second_view=True), rest)  # d'(z2)
        targets = _rows(targets, rest)
        aim = second.detach() if self.stop_gradient else second
        likeness, penalty = F.mse_loss(first, aim), F.mse_loss(second, targets)
        return likeness + self.reconstruction_weight * penalty, F.mse_loss(first.detach(), targets)

    def figures(self, model: Autoencoder, held_out: HeldOut, size: int) -> dict[str, float]:
        return held_out.psnr(model, size, hidden_only=True)

    def columns(self, model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor) -> list[Tensor]:
        return patch_columns(model, held_out, numbers, images)


def _rows(x: Tensor, numbers: Tensor) -> Tensor:
    """The rows `[B, n, P]` of `x` `[B, N, P]` with these numbers `[B, n]`."""
    return x.gather(1, numbers[..., None].expand(-1, -1, x.shape[-1]))


@dataclass(frozen=True)
class CMAEObjective(Objective):
    """Equation (4): of all pictures of a step, the other view is to be the most similar one.

    Similarity is the cosine of embeddings over the temperature. What is public says that the decoder makes way for
    InfoNCE, and that there are learnable mask tokens. Choices of ours: by default the decoder stays, MAE's with a
    learned mask token in place of what is hidden, one for both views, and nothing is projected further; with
    `CMAEConfig.head` `light` two layers take its place, and mask tokens enter the encoder, so that its features are of
    all patches. Either way the outputs are averaged over the patches, so that pictures are compared and not patches;
    the two views take turns in being the query; gradients pass through both; the other pictures of the step, over all
    processes, are the negatives.

    All pictures of a step have the same patches hidden. With a mask for each, the masks alone would tell which views
    belong together, since only those of one picture have no patch in common. (A nano model did not learn to exploit it
    in 1200 steps on identical grey pictures; a larger one might.)

    Args:
        mask_ratio: range of the share of patches that M hides, drawn once a step.
        temperature: that of InfoNCE. Its value is our choice.
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
        return draw_masks(self.mask_ratio, patches, step, np.full_like(samples, step), seed)

    def loss(
        self, model: nn.Module, batch: Batch, config: CMAEConfig, backend: Backend = "auto"
    ) -> tuple[Tensor, Tensor]:
        """(4), and the same for the log.

        Every process computes the loss of the whole step, with gradients for its own rows. Their mean over processes,
        which a trainer takes, would be too small by the number of processes: so much larger is each.
        """
        rest = complement(batch.visible, (batch.size // config.patch_size) ** 2)
        first, second = (_of_all_processes(model(batch.images, visible)) for visible in (batch.visible, rest))
        loss = info_nce(first, second, self.temperature)
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        return loss * processes, loss.detach()

    def figures(self, model: Autoencoder, held_out: HeldOut, size: int) -> dict[str, float]:
        """`matched`: the share of held-out pictures whose other view is the most similar of all held-out ones."""
        pairs = [self._views(model, held_out, *batch) for batch in held_out.batches(model, size)]
        if not pairs:
            return {}
        first, second = (torch.cat(view) for view in zip(*pairs, strict=True))
        nearest = _similarities(first, second).argmax(1).cpu()
        return {"matched": float((nearest == torch.arange(len(nearest))).float().mean())}

    @torch.no_grad()
    def _views(
        self, model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings `[b, E]` of both views, all pictures with the same patches hidden."""
        hidden = held_out.hidden(model, images, np.zeros_like(numbers))
        return model(images, hidden), model(images, ~hidden)

    def columns(self, model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor) -> list[Tensor]:
        """Photograph, its two views, and the photograph among these whose second view is most similar to the first."""
        hidden = held_out.hidden(model, images, np.zeros_like(numbers))
        views = [masked_out(images, mask, model.config.patch_size) for mask in (hidden, ~hidden)]
        nearest = _similarities(*self._views(model, held_out, numbers, images)).argmax(1)
        return [images, *views, images[nearest]]


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE (arXiv 1807.03748) of embeddings `[B, E]` of which equal rows belong together, in both directions."""
    logits = _similarities(first, second) / temperature  # [B, B]
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _similarities(first: Tensor, second: Tensor) -> Tensor:
    """Cosines `[A, B]` between embeddings `[A, E]` and `[B, E]`."""
    return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T


def _of_all_processes(embeddings: Tensor) -> Tensor:
    """Rows of all processes; gradients reach this one's own."""
    if not distributed.is_initialized():
        return embeddings
    rows = [torch.empty_like(embeddings) for _ in range(distributed.get_world_size())]
    distributed.all_gather(rows, embeddings.detach())
    rows[distributed.get_rank()] = embeddings
    return torch.cat(rows)
