"""Starting from weights that were trained before: the encoder of an MAE, or a whole GMAE, grown where asked."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE

_TIMM_PREFIX = "timm:"
# Fixed position embeddings are ours to compute; the rest belongs to MAE's decoder or to a classifier.
_NOT_THE_ENCODERS = ("pos_embed", "decoder_", "mask_token", "head", "fc_norm")
_HEAD = "decoder.head.weight"
_APART = 0.1  # of the weights' spread: enough for twins to part


def warm_start(model: GMAE, source: str | os.PathLike[str]) -> None:
    """Copy trained weights into `model`: those of an MAE's encoder, or of a whole GMAE.

    Args:
        source: the official MAE `.pth` (a dict with `model`, or the bare state dict; read without running code);
            `timm:NAME` such as `timm:vit_base_patch16_224.mae`; or a GMAE checkpoint as `checkpoints.load` takes it.
            An MAE leaves the decoder its random start. A GMAE may have fewer blocks and fewer Gaussians a query.

    Raises:
        GmaeToolsError: the source cannot be read, or its weights have other shapes than the model's.
    """
    name = str(source)
    if name.startswith(_TIMM_PREFIX):
        _copy(_encoder_of(_timm_weights(name)), model.encoder, name)
    elif name.endswith((".pth", ".pt")):
        _copy(_encoder_of(_file_weights(Path(name))), model.encoder, name)
    else:
        _copy(grown(checkpoints.load(name), model), model, name)


def _encoder_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(_NOT_THE_ENCODERS)}


def _copy(weights: dict[str, Tensor], module: nn.Module, source: str) -> None:
    wanted = module.state_dict()
    unfit = sorted(
        name for name in wanted.keys() | weights.keys()
        if name not in wanted or name not in weights or wanted[name].shape != weights[name].shape
    )  # fmt: skip
    if unfit:
        raise GmaeToolsError(
            f"{source}: {len(unfit)} tensors do not fit this model, such as {unfit[0]}; "
            "choose the preset (width, depth, patch size) of that model"
        )
    module.load_state_dict(weights)


def grown(trained: GMAE, model: GMAE) -> dict[str, Tensor]:
    """The weights of `trained` with what only `model` has, so that the function computed hardly changes.

    A further block starts as the identity: what it adds to the residual stream is 0. A further Gaussian of a query
    starts beside one that is already there, since one that starts from chance would lie in front of a good picture.
    """
    weights, wanted = trained.state_dict(), model.state_dict()
    for name in wanted.keys() - weights.keys():
        adds = ".attn.proj." in name or ".mlp.fc2." in name
        weights[name] = torch.zeros_like(wanted[name]) if adds else wanted[name]
    old, new = trained.config.gaussians_per_query, model.config.gaussians_per_query
    if new > old:
        head = weights[_HEAD].unflatten(0, (old, -1))  # [G, 14, D']
        copies = head[torch.arange(old, new) % old]
        noise = torch.randn_like(copies) * _APART * head.std()
        weights[_HEAD] = torch.cat([head, copies + noise]).flatten(0, 1)
    return weights


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
