"""Predict the scenes of photographs with a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmae_tools import checkpoints
from gmae_tools.arguments import picture_size
from gmae_tools.checkpoint_names import DEFAULT
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import MAX_PIXELS, resize, to_tensor
from gmae_tools.model import GMAE
from gmae_tools.photographs import Photograph, is_batch, photograph
from gmae_tools.scene import Scene
from gmae_tools.system.devices import has_bf16 as has_bf16  # for callers that import both from here
from gmae_tools.system.devices import resolve_device as resolve_device

_BATCH = 16  # number of photographs in a batch


@torch.inference_mode()
def _see(model: GMAE, pictures: Sequence[np.ndarray], size: tuple[int, int] | None) -> Gaussians:
    """Predict one set of Gaussians for each picture; the pictures may differ in size."""
    height, width = _size(model, size)
    images = torch.cat([to_tensor(resize(picture, height, width)) for picture in pictures])
    images = images.to(next(model.parameters()).device)
    with torch.autocast(images.device.type, torch.bfloat16) if model.precision == "bf16" else nullcontext():
        return model(images)


def predict_gaussians(model: GMAE, picture: np.ndarray, size: tuple[int, int] | None = None) -> Gaussians:
    """Predict the Gaussians of a photograph.

    Args:
        model: a model on any device, in evaluation mode.
        picture: uint8 RGB `[H, W, 3]` of any size and aspect ratio.
        size: height and width in pixels to which the photograph is resized for the model, multiples of the patch size.
            The default is the square of its training, whatever the aspect ratio: this reconstructs 3:2 photographs
            better than a grid of patches of their own shape (`evals/studies/input_shape.py` measures it).

    Returns:
        One set `[1, K, ...]` on the device of the model, in units of half the width and half the height of the picture,
        so that it can be rendered at any size.
    """
    return _see(model, [picture], size)


def predict_scene(model: GMAE, photo: np.ndarray, size: tuple[int, int] | None = None) -> Scene:
    """Predict the scene of a photograph: its Gaussians, the camera of the model, and the photograph in its own size.

    Args:
        model, size: as for `predict_gaussians`.
        photo: uint8 RGB `[H, W, 3]`.
    """
    return _scene(model, predict_gaussians(model, photo, size), photo)


def predict_scenes(model: GMAE, photos: Sequence[Photograph], size: tuple[int, int] | None = None) -> list[Scene]:
    """Predict the scenes of photographs of any sizes, in batches.

    Args:
        model, size: as for `predict_gaussians`.
        photos: photographs in any form that `photographs.photograph` takes.

    Raises:
        GmaeToolsError: a photograph cannot be read; if there are several, the message says which one.
    """
    scenes = []
    for start in range(0, len(photos), _BATCH):
        batch = range(start, min(start + _BATCH, len(photos)))
        pictures = [_numbered(photos[index], index, len(photos)) for index in batch]
        sets = _see(model, pictures, size)
        scenes += [_scene(model, sets[index], picture) for index, picture in enumerate(pictures)]
    return scenes


@overload
def predict(
    photos: str | os.PathLike[str] | Image.Image,
    model: GMAE | str | os.PathLike[str] = DEFAULT,
    *,
    size: tuple[int, int] | None = None,
) -> Scene: ...


@overload
def predict(
    photos: list[Any] | tuple[Any, ...],
    model: GMAE | str | os.PathLike[str] = DEFAULT,
    *,
    size: tuple[int, int] | None = None,
) -> list[Scene]: ...


@overload
def predict(
    photos: np.ndarray | Tensor, model: GMAE | str | os.PathLike[str] = DEFAULT, *, size: tuple[int, int] | None = None
) -> Any: ...


def predict(
    photos: Any, model: GMAE | str | os.PathLike[str] = DEFAULT, *, size: tuple[int, int] | None = None
) -> Scene | list[Scene]:
    """Predict the scene of a photograph, or the scenes of several photographs.

    Args:
        photos: one photograph, as a path, a PIL picture, an array `[H, W, 3]` or a tensor `[3, H, W]` (see
            `photographs.photograph` for their types); or several, as a list of these, which may differ in size, an
            array `[B, H, W, 3]`, or a tensor `[B, 3, H, W]`.
        model: a model in evaluation mode, or the name of a checkpoint, as for `load`. A name loads the model in each
            call, so load it once if there are many calls.
        size: as for `predict_gaussians`.

    Returns:
        The `Scene` of one photograph; for several a list of scenes in the same order.

    Raises:
        GmaeToolsError: a photograph cannot be read or is not a picture, or there is no such checkpoint.

    Example:
        >>> predict("photo.jpg")
        Scene(1,024 Gaussians, gmae camera, 481 x 321 px, with its photograph)
    """
    if not isinstance(model, GMAE):
        model = checkpoints.load(model)
    if is_batch(photos):
        return predict_scenes(model, photos, size)
    return predict_scene(model, photograph(photos), size)


def _scene(model: GMAE, gaussians: Gaussians, photo: np.ndarray) -> Scene:
    return Scene(gaussians, model.camera, photo.shape[0], photo.shape[1], photo)


def _size(model: GMAE, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width of pictures for the model, checked before any photograph is resized."""
    if size is None:
        return model.config.image_size, model.config.image_size
    height, width = picture_size(size)
    if height * width > MAX_PIXELS:
        raise GmaeToolsError(f"size is {size!r}: {MAX_PIXELS:,} pixels at most")
    return height, width


def _numbered(given: Photograph, index: int, count: int) -> np.ndarray:
    try:
        return photograph(given)
    except GmaeToolsError as error:
        if count == 1:
            raise
        raise GmaeToolsError(f"photograph {index + 1} of {count}: {error}") from None
