"""Held-out figures of a model in training: reconstruction of whole and of masked pictures, and a look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import project
from gmae_tools.datasets.photos import PhotoStore, center_crop
from gmae_tools.images import write_image
from gmae_tools.model import GMAE
from gmae_tools.pretrain.objective import ObjectiveConfig, draw_masks, reconstruct
from gmae_tools.splatting import rasterize

_MASKED = 0.75
_SHOWN = 8


class HeldOut:
    """Photographs kept from training.

    Args:
        photos, indices: which photographs.
        count: how many of them to use for figures during training.
    """

    def __init__(self, photos: PhotoStore, indices: np.ndarray, count: int = 200) -> None:
        self.photos, self.indices = photos, indices[:: max(1, len(indices) // count)][:count]

    def psnr(self, model: GMAE, size: int, batch: int = 20) -> dict[str, float]:
        """Mean PSNR in dB over pictures of `size` px, unmasked and with 75 % of patches hidden; all pixels count."""
        figures: dict[str, list[Tensor]] = {"psnr": [], "psnr_masked": []}
        for start in range(0, len(self.indices), batch):
            numbers = np.arange(start, min(start + batch, len(self.indices)))
            images = self.pictures(numbers, size)
            for name, ratio in (("psnr", 0.0), ("psnr_masked", _MASKED)):
                error = (self.render(model, images, ratio, numbers) - images).square().mean((1, 2, 3))
                figures[name].append(-10 * torch.log10(error))
        return {name: float(torch.cat(values).mean()) for name, values in figures.items() if values}

    def contact_sheet(self, model: GMAE, size: int, path: Path) -> None:
        """Rows of photograph, masked photograph, its reconstruction, that of the whole, depth (near is bright)."""
        numbers = np.arange(min(_SHOWN, len(self.indices)))
        if not len(numbers):
            return
        images = self.pictures(numbers, size)
        patch = model.config.patch_size
        mask = draw_masks(ObjectiveConfig((_MASKED, _MASKED)), (size // patch) ** 2, 0, numbers, seed=0)
        side = size // patch
        hidden = mask.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        columns = [
            images,
            torch.where(hidden, 0.5, images),
            self.render(model, images, _MASKED, numbers),
            self.render(model, images, 0.0, numbers),
            self._depth(model, images),
        ]
        sheet = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # [3, rows * size, columns * size]
        write_image(path, sheet.permute(1, 2, 0).clamp(0, 1).numpy())

    def pictures(self, numbers: np.ndarray, size: int) -> Tensor:
        """The central squares of the photographs with these `numbers` `[b]`, `[b, 3, size, size]` in [0, 1]."""
        crops = [center_crop(self.photos.photo(int(self.indices[number])), size) for number in numbers]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def render(self, model: GMAE, images: Tensor, ratio: float, numbers: np.ndarray) -> Tensor:
        """Reconstructions on white `[b, 3, H, W]` with a share `ratio` of the patches hidden, chosen by the numbers."""
        patches = (images.shape[-1] // model.config.patch_size) ** 2
        masks = draw_masks(ObjectiveConfig((ratio, ratio)), patches, 0, numbers, seed=0)
        device = model.rgb_mean.device
        gaussians = model(images.to(device), masks.to(device))
        background = images.new_ones(3).to(device)
        height, width = images.shape[-2:]
        return reconstruct(gaussians, model.camera, height, width, background).clamp(0, 1).cpu()

    @torch.no_grad()
    def _depth(self, model: GMAE, images: Tensor) -> Tensor:
        """Expected depth stretched to [0, 1] in each picture, near bright, `[B, 3, H, W]`."""
        gaussians = model(images.to(model.rgb_mean.device))
        height, width = images.shape[-2:]
        depth = rasterize(project(gaussians, model.camera, height, width), height, width, depth=True).depth
        assert depth is not None
        low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
        return (1 - (depth - low) / (high - low).clamp_min(1e-6)).expand(-1, 3, -1, -1).cpu()
