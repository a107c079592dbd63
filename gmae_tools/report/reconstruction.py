"""The contact sheet of `gmae-tools reconstruct`: one photograph, rebuilt by several models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from gmae_tools.images import resize, write_image
from gmae_tools.mae import MAEConfig
from gmae_tools.pretrain.reconstruction import Reconstruction, hidden_pixels, masked_out
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet, panel_size
from gmae_tools.report.tables import Row

COLUMNS = {"image": None, "checkpoint": None, "masked": 2, "psnr": 2, "ssim": 4, "psnr_hidden": 2}

_PANEL = 320  # longest side of a picture on the sheet in px


def write_reconstructions(found: Mapping[str, Reconstruction], shape: tuple[int, int], path: Path, image: str) -> None:
    """Write a sheet with a row of pictures of one photograph for each model, by the models' names.

    The pictures take the proportions of the photograph, whose height and width are `shape`.
    """
    box, sections = panel_size(*shape, side=_PANEL), []
    for name, each in found.items():
        if isinstance(each.config, MAEConfig) and each.config.normalise_targets:
            name += " (mean and contrast of each patch are the photograph's)"
        sections.append(Section(name, list(_panels(each, box))))
    share = next(iter(found.values())).mask_ratio
    write_image(path, contact_sheet(Path(image).name, f"{share:.0%} of the patches hidden", sections))


def rows_of(found: Mapping[str, Reconstruction], image: str) -> list[Row]:
    """Rows of `COLUMNS` for one photograph, whose path is `image`."""
    return [
        {"image": image, "checkpoint": name, "masked": float(each.hidden.float().mean()), **each.metrics}
        for name, each in found.items()
    ]


def _panels(found: Reconstruction, box: tuple[int, int]) -> Iterator[Panel]:
    """The photograph, the same masked, the whole reconstruction, and the photograph with its hidden patches rebuilt."""
    patch, (height, width), hidden = found.config.patch_size, found.image.shape[-2:], found.hidden
    inserted = torch.where(hidden_pixels(hidden, height, width, patch), found.rebuilt, found.image)
    hidden_only = f"{found.metrics['psnr_hidden']:.2f} dB where hidden" if hidden.any() else "nothing was hidden"
    for picture, caption, note in (
        (found.image, "photograph", ""),
        (masked_out(found.image, hidden, patch), "visible patches", f"{int((~hidden).sum())} of {hidden.numel()}"),
        (found.rebuilt, "reconstruction", f"PSNR {found.metrics['psnr']:.2f} dB"),
        (inserted, "hidden patches filled in", hidden_only),
    ):
        pixels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
        yield Panel(resize(pixels, *box), caption, note)
