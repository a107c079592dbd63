"""Held-out photographs of a run: the pictures, what is hidden of them, and how well a model rebuilds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import project
from gmae_tools.datasets.photos import PhotoStore, center_crop
from gmae_tools.images import write_image
from gmae_tools.model import GMAE, Autoencoder
from gmae_tools.pretrain.objectives.objective import MASKED, draw_masks
from gmae_tools.pretrain.reconstruction import psnr_of_hidden, reconstruct
from gmae_tools.splatting import Backend, rasterize

if TYPE_CHECKING:
    from gmae_tools.pretrain.objectives import Objective

_SHOWN = 8
_AT_ONCE, _AT_ONCE_ON_CPU = 100, 20


class HeldOut:
    """Photographs kept from training.

    Args:
        photos, indices: which photographs.
        count: how many of them to use for figures during training.
        backend: of `rasterize`.
    """

    def __init__(self, photos: PhotoStore, indices: np.ndarray, count: int = 200, *, backend: Backend = "auto") -> None:
        self.photos, self.indices = photos, indices[:: max(1, len(indices) // count)][:count]
        self.backend = backend

    def psnr(
        self, model: Autoencoder, size: int, batch: int | None = None, *, hidden_only: bool = False
    ) -> dict[str, float]:
        """Mean PSNR in dB over pictures of `size` px: `psnr` of whole ones; `psnr_masked` with 75 % of the patches
        hidden, all pixels count; `psnr_hidden` the same, pixels of the hidden patches count.

        Args:
            hidden_only: leave out the first two, for a model that was not asked for what it sees.
        """
        figures: dict[str, list[Tensor]] = {}
        for numbers, images in self.batches(model, size, batch):
            masked, hidden = self.render(model, images, MASKED, numbers), self.hidden(model, images, numbers)
            found = {"psnr_hidden": psnr_of_hidden(masked, images, hidden, model.config.patch_size)}
            if not hidden_only:
                whole = self.render(model, images, 0.0, numbers)
                found = {"psnr": _psnr(whole, images), "psnr_masked": _psnr(masked, images)} | found
            for name, values in found.items():
                figures.setdefault(name, []).append(values)
        return {name: float(torch.cat(values).mean()) for name, values in figures.items()}

    def contact_sheet(self, model: Autoencoder, objective: Objective, size: int, path: Path) -> None:
        """A row for each of a few photographs, of what the objective wants to be seen side by side."""
        for numbers, images in self.batches(model, size, _SHOWN):
            columns = objective.columns(model, self, numbers, images)
            sheet = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # [3, rows * size, columns * size]
            write_image(path, sheet.clamp(0, 1))
            return

    def batches(self, model: Autoencoder, size: int, batch: int | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The numbers `[b]` of the pictures, and the pictures on the model's device."""
        device = model.rgb_mean.device
        batch = batch or (_AT_ONCE_ON_CPU if device.type == "cpu" else _AT_ONCE)
        for start in range(0, len(self.indices), batch):
            numbers = np.arange(start, min(start + batch, len(self.indices)))
            yield numbers, self.pictures(numbers, size).to(device)

    def pictures(self, numbers: np.ndarray, size: int) -> Tensor:
        """The central squares of the photographs with these `numbers` `[b]`, `[b, 3, size, size]` in [0, 1]."""
        crops = [center_crop(self.photos.photo(int(self.indices[number])), size) for number in numbers]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255

    def hidden(self, model: Autoencoder, images: Tensor, numbers: np.ndarray, ratio: float = MASKED) -> Tensor:
        """Which patches of pictures are hidden, bool `[b, N]`; it follows from their numbers."""
        rows, columns = model.grid(images)
        return draw_masks((ratio, ratio), rows * columns, 0, numbers, seed=0).to(images.device)

    @torch.no_grad()
    def render(self, model: Autoencoder, images: Tensor, ratio: float, numbers: np.ndarray) -> Tensor:
        """Reconstructions `[b, 3, H, W]` with a share `ratio` of the patches hidden, chosen by the numbers.

        They lie where `images` lie, which need not be where the model is.
        """
        hidden, device = self.hidden(model, images, numbers, ratio), model.rgb_mean.device
        return reconstruct(model, images.to(device), hidden.to(device), self.backend).to(images.device)

    @torch.no_grad()
    def depth(self, model: GMAE, images: Tensor) -> Tensor:
        """Expected depth stretched to [0, 1] in each picture, near bright, `[B, 3, H, W]`."""
        height, width = images.shape[-2:]
        splats = project(model(images), model.camera, height, width)
        depth = rasterize(splats, height, width, depth=True, backend=self.backend).depth
        assert depth is not None
        low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
        return (1 - (depth - low) / (high - low).clamp_min(1e-6)).expand(-1, 3, -1, -1)


def _psnr(pictures: Tensor, images: Tensor) -> Tensor:
    """PSNR in dB `[B]`."""
    return -10 * torch.log10((pictures - images).square().mean((1, 2, 3)))
