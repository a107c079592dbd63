"""Pictures rebuilt from their visible patches, by any model that draws."""

from __future__ import annotations

import torch
from torch import Tensor

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.mae import MAE, paint_patches
from gmae_tools.model import GMAE, Autoencoder
from gmae_tools.splatting import Backend, rasterize


def reconstruct(model: Autoencoder, images: Tensor, mask: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """Pictures `[B, 3, H, W]`, clamped to [0, 1], of what the model makes of the visible patches.

    A GMAE draws its Gaussians on its own background, mostly white. An MAE draws its predictions of all patches; those
    that it sees are worth little if its loss was on hidden patches alone. With normalised targets each patch takes its
    brightness and its contrast from `images`, the hidden ones too.

    Args:
        images: RGB in [0, 1] `[B, 3, H, W]`, on the model's device.
        mask: as `Autoencoder.forward` takes it.
        backend: of `rasterize`.

    Raises:
        GmaeToolsError: the model draws nothing.
    """
    if isinstance(model, MAE):
        return paint_patches(model(images, mask), images, model.config).clamp(0, 1)
    check_draws(model, "this model")
    assert isinstance(model, GMAE)
    height, width = images.shape[-2:]
    background = torch.full((3,), float(model.config.background_grey), device=images.device)
    return render(model(images, mask), model.camera, height, width, background, backend).clamp(0, 1)


def check_draws(model: Autoencoder, name: str) -> None:
    """Whether `reconstruct` takes this model.

    Raises:
        GmaeToolsError: it does not.
    """
    if not isinstance(model, (GMAE, MAE)):
        raise GmaeToolsError(f"{name}: tells pictures apart, and draws none; choose a GMAE or an MAE")


def render(
    gaussians: Gaussians, camera: Camera, height: int, width: int, background: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Pictures `[B, 3, H, W]` of Gaussians over `background` (`[3]` or `[B, 3]`)."""
    splats = project(gaussians, camera, height, width)
    return rasterize(splats, height, width, background=background, backend=backend).image


def hidden_pixels(hidden: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Whether each pixel lies in a hidden patch, bool `[B, 1, H, W]`; `hidden` bool `[B, N]`."""
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
