"""Write the encoder for other programs, as a file that timm loads as one of its plain vision transformers.

Parameters have timm's names, which are also those of the official MAE files. The position embeddings, which `GMAE`
computes, are written as `pos_embed`, with a row of zeros for the class token, which has no position. `GMAE` also
normalises pictures by ImageNet's mean and standard deviation; with the exported encoder the user has to do that.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from gmae_tools.checkpoint_names import TIMM_PREFIX
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line
from gmae_tools.model import RGB_MEAN, RGB_STD, Autoencoder
from gmae_tools.system.files import atomic_path
from gmae_tools.system.torchvision_ops import ensure_torchvision

# timm's plain transformers with 16 px patches at 224 px: width, depth, heads.
_KNOWN = {
    "vit_tiny_patch16_224": (192, 12, 3),
    "vit_small_patch16_224": (384, 12, 6),
    "vit_base_patch16_224": (768, 12, 12),
    "vit_large_patch16_224": (1024, 24, 16),
}
_NAMES = ("embed_dim", "depth", "num_heads", "patch_size", "img_size")
SUFFIXES = (".safetensors", ".pth")
_NEEDED = (1, 0)  # version of timm; older ones read the configurations of data by other functions

_SHIM = """\
# The torchvision that is installed here is not built for its torch, and timm imports it. Elsewhere, leave this out.
from gmae_tools.system.torchvision_ops import ensure_torchvision

ensure_torchvision()
"""


def require_timm() -> None:
    """Make sure that timm is new enough for its own models and for fine-tuning.

    Raises:
        GmaeToolsError: The installed version is older than 1.0. Other packages may ask for such a version.
    """
    version = importlib.metadata.version("timm")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _NEEDED:
        raise GmaeToolsError(f"timm {version} is too old for this: run pip install --upgrade 'timm>=1.0'")


def pretrained(name: str, **options: Any) -> nn.Module:
    """Load one of timm's pretrained models, `timm:NAME`, with options of `timm.create_model`.

    Raises:
        GmaeToolsError: timm does not know the name or an option, or cannot fetch the weights.
    """
    ensure_torchvision()
    import timm

    try:
        return timm.create_model(name.removeprefix(TIMM_PREFIX), pretrained=True, **options)
    except Exception as error:  # unknown name, no network, a hub that refuses, an architecture without drop path
        raise GmaeToolsError(f"{name}: cannot be loaded by timm ({one_line(error)[:200]})") from None


def timm_arguments(model: Autoencoder, image_size: int | None = None) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` for an encoder: the nearest of timm's names, and the differences.

    Args:
        model: the model with the encoder.
        image_size: side in pixels of the square pictures that the encoder will get, by default that in training.
    """
    config = model.config
    ours = (config.width, config.depth, config.heads, config.patch_size, image_size or config.image_size)
    name = next((name for name, (width, *_) in _KNOWN.items() if width == config.width), "vit_base_patch16_224")
    theirs = (*_KNOWN[name], 16, 224)
    differing = {key: a for key, a, b in zip(_NAMES, ours, theirs, strict=True) if a != b}
    statistics = {"mean": RGB_MEAN, "std": RGB_STD}  # timm's own, for these names, are 0.5
    return {"model_name": name, **differing, "num_classes": 0, "pretrained_cfg_overlay": statistics}


def timm_weights(model: Autoencoder, image_size: int | None = None) -> dict[str, Tensor]:
    """Return the state dict for timm's model, float32 on the CPU; arguments as for `timm_arguments`.

    Raises:
        GmaeToolsError: `image_size` is not a multiple of the patch size.
    """
    size = image_size or model.config.image_size
    positions = model.positions(model.grid(torch.empty(1, 3, size, size)), model.config.width)  # [N, D]
    table = torch.cat([torch.zeros_like(positions[:1]), positions])[None]  # [1, 1 + N, D]
    weights = {**model.encoder.state_dict(), "pos_embed": table}
    weights.pop("mask_token", None)  # a plain transformer has no mask tokens
    return {name: tensor.detach().cpu().float().contiguous() for name, tensor in weights.items()}


def export_timm(model: Autoencoder, path: str | os.PathLike[str], image_size: int | None = None) -> None:
    """Write the encoder for `timm.create_model(**timm_arguments(model), checkpoint_path=path)`.

    Args:
        model: the model with the encoder.
        path: `.safetensors`, or `.pth` in the layout of the official MAE files (a dict with `model`), for programs that
            read those.
        image_size: side in pixels of the square pictures that the encoder will get, by default that in training. The
            table of positions is computed for this size, and not interpolated.

    Raises:
        GmaeToolsError: the file has another suffix, or `image_size` is not a multiple of the patch size.
    """
    ensure_torchvision()  # for code that then loads the file with timm in this process
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise GmaeToolsError(f"{path}: name it {' or '.join('*' + suffix for suffix in SUFFIXES)}")
    weights = timm_weights(model, image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        if path.suffix == ".pth":
            torch.save({"model": weights}, temporary)
        else:
            arguments = json.dumps(timm_arguments(model, image_size))
            temporary.write_bytes(save(weights, metadata={"format": "pt", "timm": arguments}))


def loading_code(model: Autoencoder, path: str | os.PathLike[str], image_size: int | None = None) -> str:
    """Return a Python program that loads the file as `encoder`, wherever timm can be imported.

    The arguments are those of `export_timm`.
    """
    arguments = timm_arguments(model, image_size)
    name, rest = repr(arguments.pop("model_name")), [f"{key}={value!r}" for key, value in arguments.items()]
    call = f"timm.create_model({', '.join([name, *rest, f'checkpoint_path={os.fspath(path)!r}'])})"
    shim = "" if ensure_torchvision() else _SHIM
    return f"{shim}import timm\n\nencoder = {call}"
