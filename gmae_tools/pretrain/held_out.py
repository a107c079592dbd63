"""Held-out photographs of a run, and measurements of a model on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import project
from gmae_tools.datasets.photos import PhotoStore, center_crop
from gmae_tools.mae import cosines
from gmae_tools.model import GMAE, Autoencoder
from gmae_tools.pretrain.reconstruction import psnr_of_hidden, reconstruct
from gmae_tools.pretrain.sampling import MASKED, sample_masks
from gmae_tools.splatting import Backend, rasterize

_AT_ONCE, _AT_ONCE_ON_CPU = 100, 20


class HeldOut:
    """Photographs that a run is not trained on.

    Args:
        photos: All photographs.
        indices: Numbers of those that are held out, int64 `[N]`.
        count: Number of them to measure during training, spread over all.
        backend: Backend of `rasterize`.
    """

    def __init__(self, photos: PhotoStore, indices: np.ndarray, count: int = 200, *, backend: Backend = "auto") -> None:
        self.photos, self.indices = photos, indices[:: max(1, len(indices) // count)][:count]
        self.backend = backend

    # --- measurements ---------------------------------------------------------------------------------

    def metrics(self, model: Autoencoder, names: Sequence[str], size: int) -> dict[str, float]:
        """The measurements `names`, results of `psnr` or of `matched`, on pictures of `size` px; empty without any."""
        if "matched" in names:
            return self.matched(model, size)
        return self.psnr(model, size, hidden_only="psnr" not in names)

    def psnr(
        self, model: Autoencoder, size: int, batch: int | None = None, *, hidden_only: bool = False
    ) -> dict[str, float]:
        """Mean PSNR in dB over pictures of `size` px.

        Args:
            model: A model that `reconstruct` takes.
            size: Side of the pictures in pixels.
            batch: Number of pictures at once.
            hidden_only: Leave out `psnr` and `psnr_masked`, for a model that was not trained on visible patches.

        Returns:
            `psnr` of whole pictures; `psnr_masked` of all pixels with 75 % of the patches hidden; `psnr_hidden` of the
            pixels of the hidden patches alone. Empty if no photographs are held out.
        """
        found: dict[str, list[Tensor]] = {}
        for numbers, images in self.batches(model, size, batch):
            masked, hidden = self.render(model, images, MASKED, numbers), self.hidden(model, images, numbers)
            values = {"psnr_hidden": psnr_of_hidden(masked, images, hidden, model.config.patch_size)}
            if not hidden_only:
                whole = self.render(model, images, 0.0, numbers)
                values = {"psnr": _psnr(whole, images), "psnr_masked": _psnr(masked, images)} | values
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        return {name: float(torch.cat(values).mean()) for name, values in found.items()}

    def matched(self, model: Autoencoder, size: int) -> dict[str, float]:
        """`matched`: share of the pictures whose other view is the most similar one of all held-out pictures.

        Args:
            model: A model that embeds views, such as a `CMAE`.
            size: Side of the pictures in pixels.
        """
        views = [self.views(model, *batch) for batch in self.batches(model, size)]
        if not views:
            return {}
        first, second = (torch.cat(view) for view in zip(*views, strict=True))
        nearest = cosines(first, second).argmax(1).cpu()
        return {"matched": float((nearest == torch.arange(len(nearest))).float().mean())}

    # --- pictures -------------------------------------------------------------------------------------

    def batches(self, model: Autoencoder, size: int, batch: int | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The numbers `[b]` of pictures, and the pictures `[b, 3, size, size]` on the model's device."""
        device = model.rgb_mean.device
        batch = batch or (_AT_ONCE_ON_CPU if device.type == "cpu" else _AT_ONCE)
        for start in range(0, len(self.indices), batch):
            numbers = np.arange(start, min(start + batch, len(self.indices)))
            yield numbers, self.pictures(numbers, size).to(device)

    def pictures(self, numbers: np.ndarray, size: int) -> Tensor:
        """The central squares of the photographs with these `numbers` `[b]`, `[b, 3, size, size]` in [0, 1]."""
        crops = [center_crop(self.photos.photo(int(self.indices[number])), size) for number in numbers]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255

    # --- results of a model ---------------------------------------------------------------------------

    def hidden(self, model: Autoencoder, images: Tensor, numbers: np.ndarray, ratio: float = MASKED) -> Tensor:
        """Hidden patches of pictures, bool `[b, N]`; a share `ratio` of them, chosen by the numbers `[b]`."""
        rows, columns = model.grid(images)
        return sample_masks((ratio, ratio), rows * columns, 0, numbers, seed=0).to(images.device)

    @torch.no_grad()
    def render(self, model: Autoencoder, images: Tensor, ratio: float, numbers: np.ndarray) -> Tensor:
        """Reconstructions `[b, 3, H, W]` with a share `ratio` of the patches hidden, chosen by the numbers `[b]`.

        The result is on the device of `images`, which may differ from the model's.
        """
        hidden, device = self.hidden(model, images, numbers, ratio), model.rgb_mean.device
        return reconstruct(model, images.to(device), hidden.to(device), self.backend).to(images.device)

    @torch.no_grad()
    def views(self, model: Autoencoder, numbers: np.ndarray, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings `[b, E]` of two complementary views, for which all pictures have the same patches hidden."""
        hidden = self.hidden(model, images, np.zeros_like(numbers))
        return model(images, hidden), model(images, ~hidden)

    @torch.no_grad()
    def depth(self, model: GMAE, images: Tensor) -> Tensor:
        """Expected depth `[B, 3, H, W]`, stretched to [0, 1] in each picture; near is bright."""
        height, width = images.shape[-2:]
        splats = project(model(images), model.camera, height, width)
        depth = rasterize(splats, height, width, depth=True, backend=self.backend).depth
        assert depth is not None
        low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
        return (1 - (depth - low) / (high - low).clamp_min(1e-6)).expand(-1, 3, -1, -1)


def _psnr(pictures: Tensor, images: Tensor) -> Tensor:
    """PSNR in dB `[B]`."""
    return -10 * torch.log10((pictures - images).square().mean((1, 2, 3)))
