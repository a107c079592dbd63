"""Warm starts: the weights of a trained encoder or model are copied, and a GMAE may grow."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from gmae_tools import checkpoints
from gmae_tools.checkpoint_names import OFFICIAL_SUFFIXES, TIMM_PREFIX
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import official_mae
from gmae_tools.images import one_line
from gmae_tools.model import GMAE, Autoencoder, Encoder
from gmae_tools.system.torchvision_ops import ensure_torchvision

# Fixed position embeddings are computed; the other tensors belong to a decoder or to a classifier.
_NOT_THE_ENCODERS = ("pos_embed", "decoder_", "mask_token", "head", "fc_norm", "linear_")
_HEAD, _ANCHORS = "decoder.head.weight", "decoder.anchors"
_APART = 0.1  # noise that separates a copied Gaussian from its original, in standard deviations of the weights


def warm_start(model: Autoencoder, source: str | os.PathLike[str]) -> None:
    """Copy trained weights into `model`: those of an encoder, or all from a model of its own kind.

    Args:
        model: The model to start, whose decoder keeps its random weights unless the source is a model of its kind.
        source: An official MAE `.pth` (a dict with `model`, or the bare state dict; read without running code),
            `timm:NAME` such as `timm:vit_base_patch16_224.mae`, or a checkpoint of any objective as
            `checkpoints.load_any` takes it. A GMAE may start from a GMAE with fewer blocks, with fewer Gaussians a
            query, or with queries without places on a grid.

    Raises:
        GmaeToolsError: The source cannot be read, or the shapes of its weights differ from the model's.
    """
    name = str(source)
    if name.startswith(TIMM_PREFIX):
        _copy(_encoder_of(_timm_weights(name)), model.encoder, name)
    elif name.endswith(OFFICIAL_SUFFIXES):
        _copy(_encoder_of(official_mae.read(name)[0]), model.encoder, name)
    elif not _is_alike(trained := checkpoints.load_any(name), model):
        _copy(_encoder_of(trained.encoder.state_dict()), model.encoder, name)
    elif isinstance(trained, GMAE) and isinstance(model, GMAE):
        if trained.decoder.anchors is not None and model.decoder.anchors is None:
            problem = f"{name}: its queries have places on a grid, which query_start=random does without"
            raise GmaeToolsError(f"{problem}; leave that out, or warm-start from a model that was trained with it")
        _copy(grown(trained, model), model, name)
    else:
        _copy(trained.state_dict(), model, name)


def _is_alike(trained: Autoencoder, model: Autoencoder) -> bool:
    """Whether the two models are of one kind and conventions, so that the decoder's weights can be used."""
    if isinstance(trained, GMAE) and isinstance(model, GMAE):
        return trained.config.conventions == model.config.conventions
    return type(trained) is type(model)


def _encoder_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(_NOT_THE_ENCODERS)}


def _copy(weights: dict[str, Tensor], module: nn.Module, source: str) -> None:
    wanted = module.state_dict()
    if isinstance(module, Encoder) and module.mask_token is not None:
        weights = {"mask_token": wanted["mask_token"], **weights}  # published encoders have none
    ours, theirs = ({name: tensor.shape for name, tensor in each.items()} for each in (wanted, weights))
    unfit = sorted({name for name, _ in ours.items() ^ theirs.items()})
    if unfit:
        raise GmaeToolsError(
            f"{source}: {len(unfit)} tensors do not fit this model, such as {unfit[0]}; "
            "choose the preset (width, depth, patch size) of that model"
        )
    module.load_state_dict({name: checkpoints.finite(weights[name], f"{source}: {name}") for name in weights})


def grown(trained: GMAE, model: GMAE) -> dict[str, Tensor]:
    """The weights of `trained`, with further weights for the parts that only `model` has. The output hardly changes.

    A further block adds 0 to the residual stream at first, so it starts as the identity. Further anchors are 0, too. A
    further Gaussian of a query starts beside an existing one, because a random one would hide parts of the picture.
    """
    weights, wanted = trained.state_dict(), model.state_dict()
    for name in wanted.keys() - weights.keys():
        adds = ".attn.proj." in name or ".mlp.fc2." in name or name == _ANCHORS
        weights[name] = torch.zeros_like(wanted[name]) if adds else wanted[name]
    old, new = trained.config.gaussians_per_query, model.config.gaussians_per_query
    if new > old:
        head = weights[_HEAD].unflatten(0, (old, -1))  # [G, 14, D']
        copies = head[torch.arange(old, new) % old]
        noise = torch.randn_like(copies) * _APART * head.std()
        weights[_HEAD] = torch.cat([head, copies + noise]).flatten(0, 1)
    return weights


def _timm_weights(source: str) -> dict[str, Tensor]:
    ensure_torchvision()
    import timm

    name = source.removeprefix(TIMM_PREFIX)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # unknown name, no network, a hub that refuses
        raise GmaeToolsError(f"{source}: cannot be loaded by timm ({one_line(error)})") from None
