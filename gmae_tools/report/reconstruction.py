"""What `gmae-tools reconstruct` writes about one photograph: what models make of a part of its patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmae_tools.images import resize, to_tensor, write_image
from gmae_tools.mae import MAE
from gmae_tools.metrics.pictures import psnr, ssim
from gmae_tools.model import Autoencoder
from gmae_tools.pretrain.reconstruction import check_draws, hidden_pixels, masked_out, psnr_of_hidden, reconstruct
from gmae_tools.pretrain.sampling import sample_masks
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet, panel_size
from gmae_tools.report.tables import Row
from gmae_tools.splatting import Backend

COLUMNS = {"image": None, "checkpoint": None, "masked": 2, "psnr": 2, "ssim": 4, "psnr_hidden": 2}

_PANEL = 320  # longest side of a picture on the sheet in px


@dataclass(frozen=True)
class ReconstructionRequest:
    """What to hide, and from whom.

    Attributes:
        models: by their names on the sheet and in the table.
        mask_ratio: share of hidden patches.
        seed: decides which; the same for all photographs.
        backend: that draws Gaussians.
    """

    models: Mapping[str, Autoencoder]
    mask_ratio: float
    seed: int = 0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name, model in self.models.items():
            check_draws(model, name)


def write_reconstructions(photo: np.ndarray, request: ReconstructionRequest, path: Path, image: str) -> list[Row]:
    """Write a sheet with a row for each model; returns rows of the table.

    The photograph is squeezed into the square that a model was trained on, and measured there. `psnr` and `ssim` count
    all pixels of the reconstruction, `psnr_hidden` those of the hidden patches alone.

    Args:
        photo: uint8 RGB `[H, W, 3]`.
        path: of the sheet.
        image: what it is called in the table.
    """
    sections: list[Section] = []
    rows: list[Row] = []
    for name, model in request.models.items():
        side = model.config.image_size
        images = to_tensor(resize(photo, side, side))
        hidden, rebuilt = _rebuilt(model, images, request)
        figures = _figures(rebuilt, images, hidden, model.config.patch_size)
        rows.append({"image": image, "checkpoint": name, "masked": float(hidden.float().mean()), **figures})
        box = panel_size(*photo.shape[:2], side=_PANEL)
        sections.append(Section(_heading(name, model), list(_panels(rebuilt, images, hidden, model, figures, box))))
    subtitle = f"{request.mask_ratio:.0%} of the patches hidden"
    write_image(path, contact_sheet(Path(image).name, subtitle, sections))
    return rows


@torch.inference_mode()
def _rebuilt(model: Autoencoder, images: Tensor, request: ReconstructionRequest) -> tuple[Tensor, Tensor]:
    """Which patches of a picture are hidden, bool `[1, N]`, and what the model makes of the others; on the CPU."""
    rows, columns = model.grid(images)
    ratios = (request.mask_ratio, request.mask_ratio)
    hidden = sample_masks(ratios, rows * columns, 0, np.zeros(1, np.int64), request.seed)
    device = model.rgb_mean.device
    return hidden, reconstruct(model, images.to(device), hidden.to(device), request.backend).cpu()


def _figures(rebuilt: Tensor, images: Tensor, hidden: Tensor, patch: int) -> dict[str, float]:
    a, b = (picture[0].permute(1, 2, 0).numpy() for picture in (rebuilt, images))
    return {
        "psnr": psnr(a, b),
        "ssim": ssim(a, b),
        "psnr_hidden": float(psnr_of_hidden(rebuilt, images, hidden, patch)),
    }


def _heading(name: str, model: Autoencoder) -> str:
    if isinstance(model, MAE) and model.config.normalise_targets:
        return f"{name} (mean and contrast of each patch are the photograph's)"
    return name


def _panels(
    rebuilt: Tensor, images: Tensor, hidden: Tensor, model: Autoencoder, figures: Mapping[str, float],
    box: tuple[int, int],
) -> Iterator[Panel]:  # fmt: skip
    """Photograph, its masked form, all that the model makes of it, and only what was hidden in the photograph."""
    patch, (height, width) = model.config.patch_size, images.shape[-2:]
    inserted = torch.where(hidden_pixels(hidden, height, width, patch), rebuilt, images)
    hidden_only = f"{figures['psnr_hidden']:.2f} dB where hidden" if hidden.any() else "nothing was hidden"
    for picture, caption, note in (
        (images, "photograph", ""),
        (masked_out(images, hidden, patch), "visible patches", f"{int((~hidden).sum())} of {hidden.numel()}"),
        (rebuilt, "reconstruction", f"PSNR {figures['psnr']:.2f} dB"),
        (inserted, "hidden patches filled in", hidden_only),
    ):
        pixels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
        yield Panel(resize(pixels, *box), caption, note)
