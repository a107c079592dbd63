"""Reconstruction of pictures from their visible patches, by a GMAE or an MAE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import resize, to_tensor
from gmae_tools.mae import MAE, paint_patches
from gmae_tools.metrics.pictures import psnr, ssim
from gmae_tools.model import GMAE, Autoencoder, AutoencoderConfig
from gmae_tools.pretrain.sampling import sample_masks
from gmae_tools.splatting import Backend, rasterize


def reconstruct(model: Autoencoder, images: Tensor, mask: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """Rebuild pictures from their visible patches.

    The Gaussians of a GMAE are rendered over its own background, which is mostly white. An MAE predicts all patches;
    its predictions of visible patches are poor if its loss was on hidden patches alone. With normalised targets, each
    patch, hidden ones included, takes its brightness and its contrast from `images`.

    Args:
        model: A GMAE or an MAE.
        images: RGB in [0, 1] `[B, 3, H, W]`, on the model's device.
        mask: Hidden or visible patches, as `Autoencoder.forward` takes them.
        backend: Backend of `rasterize`.

    Returns:
        `[B, 3, H, W]`, clamped to [0, 1].

    Raises:
        GmaeToolsError: The model rebuilds no pictures.
    """
    if isinstance(model, MAE):
        return paint_patches(model(images, mask), images, model.config).clamp(0, 1)
    check_rebuilds(model, "this model")
    assert isinstance(model, GMAE)
    height, width = images.shape[-2:]
    background = torch.full((3,), float(model.config.background_grey), device=images.device)
    return render(model(images, mask), model.camera, height, width, background, backend).clamp(0, 1)


def check_rebuilds(model: Autoencoder, name: str) -> None:
    """Make sure that `reconstruct` takes this model.

    Raises:
        GmaeToolsError: It does not.
    """
    if not isinstance(model, (GMAE, MAE)):
        raise GmaeToolsError(f"{name}: compares pictures and rebuilds none; choose a GMAE or an MAE")


def render(
    gaussians: Gaussians, camera: Camera, height: int, width: int, background: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Render Gaussians as pictures `[B, 3, H, W]` over `background` (`[3]` or `[B, 3]`)."""
    splats = project(gaussians, camera, height, width)
    return rasterize(splats, height, width, background=background, backend=backend).image


def hidden_pixels(hidden: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Whether each pixel is in a hidden patch, bool `[B, 1, H, W]`, of hidden patches bool `[B, N]`."""
    grid = hidden.view(len(hidden), 1, height // patch, width // patch)
    return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def masked_out(images: Tensor, hidden: Tensor, patch: int) -> Tensor:
    """`images` `[B, 3, H, W]` with the hidden patches (bool `[B, N]`) in grey."""
    height, width = images.shape[-2:]
    return torch.where(hidden_pixels(hidden, height, width, patch), 0.5, images)


def psnr_of_hidden(pictures: Tensor, images: Tensor, hidden: Tensor, patch: int) -> Tensor:
    """PSNR in dB `[B]` over the pixels of the hidden patches (bool `[B, N]`); NaN where there are none."""
    height, width = images.shape[-2:]
    counted = hidden_pixels(hidden, height, width, patch)
    squares = ((pictures - images).square().mean(1, keepdim=True) * counted).sum((1, 2, 3))
    return -10 * torch.log10(squares / counted.sum((1, 2, 3)))


@dataclass(frozen=True)
class Reconstruction:
    """A photograph rebuilt from a part of its patches. Tensors are on the CPU.

    Attributes:
        config: Configuration of the model.
        mask_ratio: Requested share of hidden patches.
        image: The photograph, squeezed into the square of S x S px that the model was trained on, `[1, 3, S, S]`.
        hidden: Hidden patches, bool `[1, N]`.
        rebuilt: The reconstruction `[1, 3, S, S]`.
        metrics: `psnr` in dB and `ssim` of all pixels, `psnr_hidden` of the hidden patches.
    """

    config: AutoencoderConfig
    mask_ratio: float
    image: Tensor
    hidden: Tensor
    rebuilt: Tensor
    metrics: dict[str, float]


@torch.inference_mode()
def reconstruct_photo(
    model: Autoencoder, photo: np.ndarray, mask_ratio: float, *, seed: int = 0, backend: Backend = "auto"
) -> Reconstruction:
    """Hide patches of a photograph and rebuild it.

    Args:
        model: A GMAE or an MAE.
        photo: Photograph, uint8 RGB `[H, W, 3]`.
        mask_ratio: Share of hidden patches.
        seed: Seed of the choice of hidden patches, which is the same for all photographs.
        backend: Backend of `rasterize`.
    """
    side, device = model.config.image_size, model.rgb_mean.device
    image = to_tensor(resize(photo, side, side))
    rows, columns = model.grid(image)
    hidden = sample_masks((mask_ratio, mask_ratio), rows * columns, 0, np.zeros(1, np.int64), seed)
    rebuilt = reconstruct(model, image.to(device), hidden.to(device), backend).cpu()
    a, b = (picture[0].permute(1, 2, 0).numpy() for picture in (rebuilt, image))
    hidden_psnr = float(psnr_of_hidden(rebuilt, image, hidden, model.config.patch_size))
    metrics = {"psnr": psnr(a, b), "ssim": ssim(a, b), "psnr_hidden": hidden_psnr}
    return Reconstruction(model.config, mask_ratio, image, hidden, rebuilt, metrics)
