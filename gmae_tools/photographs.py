"""Photographs in any form that a caller may have, converted to uint8 RGB arrays `[H, W, 3]`."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import from_array, from_pil, read_image

Photograph = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


def photograph(given: Photograph) -> np.ndarray:
    """Convert a photograph to uint8 RGB `[H, W, 3]`: upright, in its own size, composited over white.

    Args:
        given: One of the following:

            - the path of a file, as for `images.read_image`;
            - a PIL picture of any mode, which is not changed;
            - an array `[H, W]`, `[H, W, 1]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGB and straight alpha);
            - a tensor `[H, W]`, `[1, H, W]`, `[3, H, W]` or `[4, H, W]`, on any device.

            Arrays and tensors are uint8, or floating point in [0, 1], which is rounded to 8 bits. Values slightly
            outside, as interpolation produces them, are clipped.

    Raises:
        GmaeToolsError: It is none of these, its values are out of range, or the file cannot be read.
    """
    if isinstance(given, (str, os.PathLike)):
        return read_image(given)
    if isinstance(given, Image.Image):
        return from_pil(given)
    if isinstance(given, np.ndarray):
        return from_array(given)
    if isinstance(given, Tensor):
        return from_array(_channels_last(given))
    raise GmaeToolsError(
        f"{type(given).__name__} is no photograph: give a path, a PIL picture, an array [H, W, 3], a tensor "
        "[3, H, W], or a list of them"
    )


def is_batch(given: object) -> bool:
    """Whether these are several photographs: a list, a tuple, or an array or tensor of four dimensions."""
    return isinstance(given, (list, tuple)) or (isinstance(given, (np.ndarray, Tensor)) and given.ndim == 4)


def _channels_last(tensor: Tensor) -> np.ndarray:
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        raise GmaeToolsError(
            f"a photograph is a tensor [3, H, W] with its channels first, not {list(tensor.shape)}; "
            "tensor.movedim(-1, 0) moves them there from the end"
        )
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array
