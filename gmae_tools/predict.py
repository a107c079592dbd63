"""From a photograph to the Gaussians that a model predicts for it."""

from __future__ import annotations

import numpy as np
import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import resize, to_tensor
from gmae_tools.model import GMAE
from gmae_tools.scene import Scene


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a CUDA GPU where there is one, and the CPU elsewhere.

    Raises:
        GmaeToolsError: no such device here; the message names those that there are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise GmaeToolsError(f"device {name!r} is not available here: {_devices()}") from None
    return device


def _devices() -> str:
    """Advice on which devices there are, for a message about one that there is not."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA; use auto or cpu"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU (check its driver with nvidia-smi); use auto or cpu"
    last = torch.cuda.device_count() - 1
    return f"use auto, cpu or cuda{f':0 to cuda:{last}' if last > 0 else ''}"


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16; where torch merely emulates it, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@torch.inference_mode()
def predict(model: GMAE, picture: np.ndarray, size: tuple[int, int] | None = None) -> Gaussians:
    """Gaussians of a photograph.

    Args:
        model: on any device, in evaluation mode.
        picture: uint8 RGB `[H, W, 3]` of any size and aspect ratio.
        size: height and width in pixels at which the model sees it, multiples of the patch size. By default the
            square that the model was trained on, into which the photograph is squeezed: that rebuilds 3:2
            photographs better than a grid of patches of their own shape (measured by `evals/studies/input_shape.py`).

    Returns:
        One set `[1, K, ...]` on the model's device, in units of the picture's half width and half height: it can be
        rendered at any size, the photograph's own first of all.
    """
    height, width = size or (model.config.image_size, model.config.image_size)
    device = next(model.parameters()).device
    gaussians: Gaussians = model(to_tensor(resize(picture, height, width)).to(device))
    return gaussians


def predict_scene(model: GMAE, photo: np.ndarray, size: tuple[int, int] | None = None) -> Scene:
    """The scene of a photograph: what `predict` says, the model's camera, and the photograph in its own size.

    Args:
        model, size: of `predict`.
        photo: uint8 RGB `[H, W, 3]`.
    """
    return Scene(predict(model, photo, size), model.camera, photo.shape[0], photo.shape[1], photo)
