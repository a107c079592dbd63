"""Frozen features of photographs: of our encoders, of all their blocks, or of any model of timm.

A model is named as `checkpoints.load_any` has it, as `random:CHECKPOINT` (the same architecture with random weights,
against which everything learned has to be compared), or as `timm:NAME`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gmae_tools import checkpoints
from gmae_tools.checkpoint_names import RANDOM_PREFIX, TIMM_PREFIX
from gmae_tools.datasets.photos import Photo, center_crop, decode_photo, prefetch, work_through
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.timm import pretrained, require_timm
from gmae_tools.images import to_tensor
from gmae_tools.model import Autoencoder

_MAX_SIDE = 1024  # px; larger photographs are decoded downscaled
_AT_ONCE, _AT_ONCE_ON_CPU = 256, 32  # pictures


@dataclass(frozen=True)
class Extractor:
    """A frozen model that turns photographs into features.

    Attributes:
        name: of the model, for tables.
        weights: SHA-256 of its parameters.
        tokens: what the features are of, such as `class` and `mean` (of the patches); P of them.
        preparation: in words, how a photograph becomes the model's input.
        prepare: from a photograph, uint8 RGB `[H, W, 3]`, to the model's input `[3, S, S]`.
        extract: from inputs `[B, 3, S, S]` to features `[B, P, D]`.
        device: where inputs are wanted.
    """

    name: str
    weights: str
    tokens: tuple[str, ...]
    preparation: str
    prepare: Callable[[np.ndarray], Tensor]
    extract: Callable[[Tensor], Tensor]
    device: torch.device


def open_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """The model of this name as an extractor.

    An encoder of ours takes the central square of a photograph at the size it was trained at; its features are the
    class token and the mean of the patches' tokens, normalised as for the decoder. A model of timm takes photographs
    as its own evaluation prepares them; its features are those that its classifier would read.

    Raises:
        GmaeToolsError: there is no such model, or it cannot be loaded.
    """
    where = torch.device(device)
    if name.startswith(TIMM_PREFIX):
        require_timm()
        return _timm_extractor(name, where)
    return autoencoder_extractor(load_autoencoder(name), display_name(name), where)


def load_autoencoder(name: str) -> Autoencoder:
    """A checkpoint, or for `random:CHECKPOINT` its architecture with random weights; on the CPU, for evaluation.

    Raises:
        GmaeToolsError: there is no such checkpoint, or it is damaged.
    """
    model = checkpoints.load_any(name.removeprefix(RANDOM_PREFIX))
    return random_like(model) if name.startswith(RANDOM_PREFIX) else model


def random_like(model: Autoencoder, seed: int = 0) -> Autoencoder:
    """A model of the same architecture with the random weights that training starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(model.config).eval()  # type: ignore[call-arg]  # every subclass makes its own decoder


def display_name(name: str) -> str:
    """The name of a checkpoint in tables: the last part of its path; for `RUN/model` that of the run."""
    prefix = RANDOM_PREFIX if name.startswith(RANDOM_PREFIX) else ""
    path = Path(name.removeprefix(prefix))
    return prefix + (path.parent.name if path.name == "model" and path.parent.name else path.name)


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of checkpoints in one table: their `display_name`, or the full name where two would be the same."""
    short = [display_name(name) for name in names]
    return [each if short.count(each) == 1 else name for name, each in zip(names, short, strict=True)]


def autoencoder_extractor(model: Autoencoder, name: str, device: torch.device) -> Extractor:
    """The encoder of a masked autoencoder as an extractor."""
    model, size = model.to(device).eval(), model.config.image_size

    def extract(images: Tensor) -> Tensor:
        tokens = model.encode(images)  # [B, 1 + N, D]
        return torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], 1)

    return Extractor(
        name, weights_digest(model.encoder), ("class", "mean"), f"central square, bicubic, {size} px",
        lambda photo: _central_square(photo, size), extract, device,
    )  # fmt: skip


def _central_square(photo: np.ndarray, size: int) -> Tensor:
    return to_tensor(center_crop(photo, size))[0]


def _timm_extractor(name: str, device: torch.device) -> Extractor:
    model = pretrained(name, num_classes=0).to(device).eval()
    from timm.data import create_transform, resolve_model_data_config  # type: ignore[attr-defined]

    settings = resolve_model_data_config(model)
    transform = create_transform(**settings, is_training=False)
    preparation = f"timm's evaluation transform: {dict(sorted(settings.items()))}"
    return Extractor(
        name, weights_digest(model), ("pooled",), preparation, lambda photo: transform(Image.fromarray(photo)),
        lambda images: model(images)[:, None], device,
    )  # fmt: skip


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- photographs to features -----------------------------------------------------------------------------


def extract_features(extractor: Extractor, photos: Sequence[Photo]) -> np.ndarray:
    """Features float32 `[n, P, D]` of photographs; NaN for those that cannot be read.

    Raises:
        GmaeToolsError: none of them can be read.
    """
    size = _AT_ONCE_ON_CPU if extractor.device.type == "cpu" else _AT_ONCE
    batches = (_inputs(extractor, photos[start : start + size]) for start in range(0, len(photos), size))
    found: list[np.ndarray | None] = []
    for readable, inputs in prefetch(batches, depth=2):
        with torch.inference_mode():
            features = iter(extractor.extract(inputs.to(extractor.device)).float().cpu().numpy() if len(inputs) else [])
        found += [next(features) if here else None for here in readable]
    example = next((row for row in found if row is not None), None)
    if example is None:
        raise GmaeToolsError(f"none of {len(photos)} photographs can be read, such as {photos[0].name}")
    return np.stack([np.full_like(example, np.nan) if row is None else row for row in found])


def _inputs(extractor: Extractor, photos: Sequence[Photo]) -> tuple[list[bool], Tensor]:
    """Which photographs can be read, and the inputs `[b, 3, S, S]` of those."""

    def prepared(photo: Photo) -> Tensor | None:
        pixels = decode_photo(photo, _MAX_SIDE)
        return None if isinstance(pixels, str) else extractor.prepare(pixels)

    inputs = list(work_through(photos, prepared, "", progress=False))
    there = [each for each in inputs if each is not None]
    return [each is not None for each in inputs], torch.stack(there) if there else torch.empty(0)


def read_pictures(photos: Sequence[Photo], size: int) -> Tensor:
    """The central squares of photographs, RGB in [0, 1] `[n, 3, size, size]`.

    Raises:
        GmaeToolsError: one of them cannot be read.
    """

    def picture(photo: Photo) -> Tensor:
        pixels = decode_photo(photo, _MAX_SIDE)
        if isinstance(pixels, str):
            raise GmaeToolsError(f"{photo.name}: {pixels}; leave it out")
        return _central_square(pixels, size)

    return torch.stack(list(work_through(photos, picture, "", progress=False)))
