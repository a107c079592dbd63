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
from gmae_tools.splatting import Backend, rasterize

_MASKED = 0.75
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

    def psnr(self, model: GMAE, size: int, batch: int | None = None) -> dict[str, float]:
        """Mean PSNR in dB over pictures of `size` px, unmasked and with 75 % of patches hidden; all pixels count."""
        device = model.rgb_mean.device
        batch = batch or (_AT_ONCE_ON_CPU if device.type == "cpu" else _AT_ONCE)
        figures: dict[str, list[Tensor]] = {"psnr": [], "psnr_masked": []}
        for start in range(0, len(self.indices), batch):
            numbers = np.arange(start, min(start + batch, len(self.indices)))
            images = self.pictures(numbers, size).to(device)
            for name, ratio in (("psnr", 0.0), ("psnr_masked", _MASKED)):
                error = (self.render(model, images, ratio, numbers) - images).square().mean((1, 2, 3))
                figures[name].append(-10 * torch.log10(error))
        return {name: float(torch.cat(values).mean()) for name, values in figures.items() if values}

    def contact_sheet(self, model: GMAE, size: int, path: Path) -> None:
        """Rows of photograph, masked photograph, its reconstruction, that of the whole, depth (near is bright)."""
        numbers = np.arange(min(_SHOWN, len(self.indices)))
        if not len(numbers):
            return
        images = self.pictures(numbers, size).to(model.rgb_mean.device)
        patch = model.config.patch_size
        side = size // patch
        mask = draw_masks(ObjectiveConfig((_MASKED, _MASKED)), side**2, 0, numbers, seed=0)
        hidden = mask.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        columns = [
            images,
            torch.where(hidden.to(images.device), 0.5, images),
            self.render(model, images, _MASKED, numbers),
            self.render(model, images, 0.0, numbers),
            self._depth(model, images),
        ]
        sheet = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # [3, rows * size, columns * size]
        write_image(path, sheet.clamp(0, 1))

    def pictures(self, numbers: np.ndarray, size: int) -> Tensor:
        """The central squares of the photographs with these `numbers` `[b]`, `[b, 3, size, size]` in [0, 1]."""
        crops = [center_crop(self.photos.photo(int(self.indices[number])), size) for number in numbers]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def render(self, model: GMAE, images: Tensor, ratio: float, numbers: np.ndarray) -> Tensor:
        """Reconstructions on white `[b, 3, H, W]` with a share `ratio` of the patches hidden, chosen by the numbers.

        They lie where `images` lie, which need not be where the model is.
        """
        height, width = images.shape[-2:]
        patches = height * width // model.config.patch_size**2
        masks = draw_masks(ObjectiveConfig((ratio, ratio)), patches, 0, numbers, seed=0)
        device = model.rgb_mean.device
        gaussians = model(images.to(device), masks.to(device))
        white = torch.ones(3, device=device)
        pictures = reconstruct(gaussians, model.camera, height, width, white, self.backend)
        return pictures.clamp(0, 1).to(images.device)

    @torch.no_grad()
    def _depth(self, model: GMAE, images: Tensor) -> Tensor:
        """Expected depth stretched to [0, 1] in each picture, near bright, `[B, 3, H, W]`."""
        height, width = images.shape[-2:]
        splats = project(model(images), model.camera, height, width)
        depth = rasterize(splats, height, width, depth=True, backend=self.backend).depth
        assert depth is not None
        low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
        return (1 - (depth - low) / (high - low).clamp_min(1e-6)).expand(-1, 3, -1, -1)
