"""Read the official checkpoints of MAE: `.pth` files with an encoder and, in `mae_visualize_*`, also a decoder.

A file is a dict with the state dict under `model` and sometimes the settings of its training under `args`, or the bare
state dict. It is read without running code. The parameters of the encoder have the same names here.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping

from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.torch_files import check_plain, read_torch
from gmae_tools.mae import MAEConfig

KNOWN = [argparse.Namespace]
"""The classes that `read_torch` accepts in the settings."""

_COMPUTED = ("pos_embed", "decoder_pos_embed")
_NAMES = {
    "mask_token": "decoder.mask_token",
    "decoder_embed.": "decoder.embed.",
    "decoder_blocks.": "decoder.blocks.",
    "decoder_norm.": "decoder.norm.",
    "decoder_pred.": "decoder.head.",
}
_HEADS, _HEAD_WIDTH, _DECODER_HEADS = {1280: 16}, 64, 16  # ViT-H, 1280 wide, has 16 heads; all others are 64 wide


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], argparse.Namespace]:
    """Read the state dict of an official checkpoint and the settings of its training, which are often empty.

    Raises:
        GmaeToolsError: the file is missing, holds other objects than plain weights, or has no state dict; or this
            version of torch does not read such files safely.
    """
    return parts(read_torch(path, KNOWN), path)


def parts(document: object, path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], argparse.Namespace]:
    """Find the state dict and the settings in the content of a file, as `read_torch` returns it.

    Raises:
        GmaeToolsError: there is no state dict.
    """
    whole = document if isinstance(document, dict) else {}
    weights, settings = whole.get("model", document), whole.get("args")
    named = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
    if not named or not check_plain(weights.values(), path):
        raise GmaeToolsError(f"{path}: holds no state dict; expected the layout of the official MAE checkpoints")
    return weights, settings if isinstance(settings, argparse.Namespace) else argparse.Namespace()


def from_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the state dict of an official checkpoint into that of a `MAE`, encoder and decoder.

    The position embeddings are left out, because `MAE` computes them.
    """
    return {our_name(name, _NAMES): tensor for name, tensor in weights.items() if name not in _COMPUTED}


def official_config(weights: Mapping[str, Tensor], *, normalise_targets: bool = False) -> MAEConfig:
    """Derive the configuration of an official checkpoint's model from the shapes of its weights.

    The shapes do not tell the number of heads. In the official models the heads of the encoder are 64 wide, those of
    ViT-H 80 wide, and the decoder has 16 heads; the same is assumed here.

    Args:
        weights: the state dict of an official checkpoint.
        normalise_targets: whether the model predicts normalised patches, which the weights do not tell. It is False for
            the published `mae_visualize_*.pth`.

    Raises:
        GmaeToolsError: these are not the weights of an encoder and a decoder.
    """
    try:
        width, decoder_width = (weights[name].shape[-1] for name in ("cls_token", "mask_token"))
        patch = weights["patch_embed.proj.weight"].shape[-1]
        grid = math.isqrt(weights["pos_embed"].shape[1] - 1)
    except (KeyError, IndexError, ValueError) as error:
        problem = f"no weights of a whole MAE ({error}); an encoder alone makes no pictures: take a mae_visualize_*.pth"
        raise GmaeToolsError(problem) from None
    return MAEConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=count_blocks(weights, "blocks"),
        heads=_HEADS.get(width, max(1, width // _HEAD_WIDTH)),
        decoder_width=decoder_width,
        decoder_depth=count_blocks(weights, "decoder_blocks"),
        decoder_heads=_DECODER_HEADS,
        normalise_targets=normalise_targets,
    )


def count_blocks(weights: Mapping[str, Tensor], blocks: str) -> int:
    """Count the transformer blocks whose names begin with `blocks`."""
    return sum(name.startswith(f"{blocks}.") and name.endswith(".norm1.weight") for name in weights)


def our_name(name: str, names: Mapping[str, str]) -> str:
    """Translate the name of a parameter of another program by its prefix. Others belong to the encoder."""
    for theirs, ours in names.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"encoder.{name}"
