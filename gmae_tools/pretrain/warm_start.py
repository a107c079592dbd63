"""Starting the encoder from a masked autoencoder that others trained."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE

_TIMM_PREFIX = "timm:"
# Fixed position embeddings are ours to compute; the rest belongs to MAE's decoder or to a classifier.
_NOT_THE_ENCODERS = ("pos_embed", "decoder_", "mask_token", "head", "fc_norm")


def warm_start(model: GMAE, source: str | os.PathLike[str]) -> None:
    """Copy the weights of an MAE encoder into `model.encoder`; the decoder keeps its random start.

    Args:
        source: the official MAE `.pth` (a dict with `model`, or the bare state dict; read without running code), or
            `timm:NAME` such as `timm:vit_base_patch16_224.mae`.

    Raises:
        GmaeToolsError: the file cannot be read, or its encoder has another shape than the model's.
    """
    weights = _timm_weights(str(source)) if str(source).startswith(_TIMM_PREFIX) else _file_weights(Path(source))
    encoder = {name: tensor for name, tensor in weights.items() if not name.startswith(_NOT_THE_ENCODERS)}
    wanted = model.encoder.state_dict()
    unfit = sorted(
        name for name in wanted.keys() | encoder.keys()
        if name not in wanted or name not in encoder or wanted[name].shape != encoder[name].shape
    )  # fmt: skip
    if unfit:
        raise GmaeToolsError(
            f"{source}: {len(unfit)} tensors do not fit this encoder, such as {unfit[0]}; "
            "choose the preset (width, depth, patch size) of that model"
        )
    model.encoder.load_state_dict(encoder)


def _file_weights(path: Path) -> dict[str, Tensor]:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise GmaeToolsError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises anything on a damaged or hostile file
        raise GmaeToolsError(f"{path}: not a file of plain weights ({_first_line(error)})") from None
    weights = document.get("model", document) if isinstance(document, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise GmaeToolsError(f"{path}: holds no state dict; expected the layout of the official MAE checkpoints")
    return weights


def _timm_weights(source: str) -> dict[str, Tensor]:
    import timm

    name = source.removeprefix(_TIMM_PREFIX)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # unknown name, no network, a hub that refuses
        raise GmaeToolsError(f"{source}: cannot be loaded by timm ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    """torch and timm add pages of advice."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
