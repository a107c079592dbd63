"""The contact sheet of a run, `samples.png`: a few held-out photographs and their reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmae_tools.images import write_image
from gmae_tools.mae import CMAE, cosines
from gmae_tools.model import GMAE, Autoencoder
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.reconstruction import hidden_pixels, masked_out
from gmae_tools.pretrain.sampling import MASKED

_ROWS = 8


def write_sheet(model: Autoencoder, held_out: HeldOut, size: int, path: Path) -> None:
    """Write a row of pictures of `size` px for each of a few photographs. Nothing is written if none are held out."""
    for numbers, images in held_out.batches(model, size, _ROWS):
        columns = _columns(model, held_out, numbers, images)
        sheet = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # [3, rows * size, columns * size]
        write_image(path, sheet.clamp(0, 1))
        return


def _columns(model: Autoencoder, held_out: HeldOut, numbers: np.ndarray, images: Tensor) -> list[Tensor]:
    """The columns of the sheet, each `[b, 3, S, S]` in [0, 1], of pictures and their numbers `[b]`."""
    patch, size = model.config.patch_size, images.shape[-1]
    if isinstance(model, CMAE):  # photograph, two views, the photograph whose second view is nearest to the first one
        hidden = held_out.hidden(model, images, np.zeros_like(numbers))
        nearest = cosines(*held_out.views(model, numbers, images)).argmax(1)
        return [images, masked_out(images, hidden, patch), masked_out(images, ~hidden, patch), images[nearest]]
    hidden = held_out.hidden(model, images, numbers)
    masked, rebuilt = masked_out(images, hidden, patch), held_out.render(model, images, MASKED, numbers)
    if isinstance(model, GMAE):  # photograph, masked photograph, rebuilt from that, rebuilt from the whole, depth
        whole = held_out.render(model, images, 0.0, numbers)
        return [images, masked, rebuilt, whole, held_out.depth(model, images)]
    # Photograph, masked photograph, all predicted patches, predictions of hidden patches among the visible patches.
    inserted = torch.where(hidden_pixels(hidden, size, size, patch), rebuilt, images)
    return [images, masked, rebuilt, inserted]
