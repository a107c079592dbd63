"""Read image checkpoints of the GMAE authors' code: a `.ckpt` of Lightning, or the bare state dict.

The architecture is the same. Names and conventions differ, and `GMAEConfig` and `Camera` can express them:

- The decoder reads its positions from a table whose first row belongs to the class token, without skipping that row, so
  that every patch has the position of the patch before it.
- Rotations are Shoemake's map of three sigmoids. The Gaussians of one query lie side by side. The head has no bias, and
  its queries are the sum of a mask token and an embedding.
- The camera shears footprints, and its renderer (gsplat 0.1.0) shifts the picture to the right and down, by one pixel
  of the pictures in training. The background is white.

The settings beside the weights are a pickled configuration of OmegaConf, of which only a number is used. Every class
that it may name is replaced by one that does nothing; a file that names other classes is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gmae_tools.camera import Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.official_mae import count_blocks, our_name
from gmae_tools.gaussians import PACKED
from gmae_tools.images import printable
from gmae_tools.model import GMAEConfig
from gmae_tools.vit import patch_positions

_WRAPPERS = ("_orig_mod", "_forward_module", "module")  # added by torch.compile, Lightning's strategies, and DDP
_MODEL = "encoder."  # the name of the whole autoencoder in the training module
_IGNORED = ("linear_layer.", "test_rfid.", "decoder_pred.")  # a probe, a metric, and the head of MAE, which is not used
_TABLES = {"pos_embed": "width", "decoder_pos_embed": "decoder_width"}
_QUERIES, _MASK_TOKEN, _HEAD = "decoder_pos_embed_gaussian", "mask_token", "linear_gaussian.weight"
_NAMES = {
    "decoder_embed.": "decoder.embed.",
    "decoder_blocks.": "decoder.blocks.",
    "decoder_norm.": "decoder.norm.",
    _HEAD: "decoder.head.weight",
}  # all other parameters belong to the encoder, and have the same names here
_VIDEO = "pos_embed_t"
_HEAD_WIDTH, _DECODER_HEAD_WIDTH = 64, 32
_ROUNDING = 1e-2  # largest rounding error of a table of sines in bfloat16


class _Inert:
    """Replaces a class of the settings: it takes any arguments from a pickle and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)


def _empty(*_: object) -> dict[object, object]:
    """Replaces `defaultdict`, whose instances a pickle fills after making them."""
    return {}


KNOWN: list[tuple[Any, str]] = [
    *((_Inert, f"omegaconf.{name}") for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata",
    )),
    *((_Inert, f"omegaconf.nodes.{kind}Node") for kind in (
        "Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "InterpolationResult", "Path", "String",
    )),
    *((_Inert, f"builtins.{name}") for name in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")),
    (_Inert, "typing.Any"),
    (_Inert, "pathlib.PosixPath"),
    (_Inert, "lightning.fabric.utilities.data.AttributeDict"),
    (_Inert, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (_empty, "collections.defaultdict"),
]  # fmt: skip
"""What `read_torch` accepts in the settings: pairs of a replacement and the name of a class."""


def is_authors(document: object) -> bool:
    """Return whether the content of a file is weights of the authors' code, for images or for video."""
    return any(name == _HEAD or _VIDEO in name for name in _state_dict(document))


def from_authors(document: object) -> tuple[GMAEConfig, dict[str, Tensor]]:
    """Return the configuration and the state dict of a `GMAE` that computes the same as the authors' model.

    Args:
        document: content of the file, as `read_torch` returns it; its tensors are plain.

    Raises:
        GmaeToolsError: the file holds another model, or only a part of this one.
    """
    weights = _state_dict(document)
    _check_layout(weights)
    try:
        config = _config(weights, _scale(document))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise GmaeToolsError(f"lacks a part of the authors' model ({printable(str(error))})") from None
    for name, width in _TABLES.items():
        _check_table(weights[name], config, getattr(config, width), name)
    others = (*_TABLES, _QUERIES, _MASK_TOKEN)
    result = {our_name(name, _NAMES): tensor for name, tensor in weights.items() if name not in others}
    result["decoder.bias"] = torch.zeros(PACKED)  # the authors' model has no bias
    result["decoder.queries"] = weights[_MASK_TOKEN].float() + weights[_QUERIES].float()
    return config, result


def state_tensors(document: object) -> list[object]:
    """Return the weights that `from_authors` would use, of any type."""
    return list(_state_dict(document).values())


def _state_dict(document: object) -> dict[str, Any]:
    """Return the model's weights by their names in the model, without other modules; an empty dict if it has none."""
    found = document.get("state_dict", document) if isinstance(document, Mapping) else {}
    if not isinstance(found, Mapping):
        return {}
    plain = {".".join(part for part in str(name).split(".") if part not in _WRAPPERS): name for name in found}
    own = {plain_name.removeprefix(_MODEL): found[name] for plain_name, name in plain.items()}
    return {name: value for name, value in own.items() if not name.startswith(_IGNORED)}


def _check_layout(weights: Mapping[str, Any]) -> None:
    """Refuse the weights of other models, with an error that says what they are."""
    expected = "only the authors' image model can be read"
    if not weights:
        raise GmaeToolsError(f"holds no state dict; {expected}")
    if any(_VIDEO in name for name in weights):
        raise GmaeToolsError(f"weights of the authors' video model ({_VIDEO}), which sees clips; {expected}")
    if _HEAD not in weights:
        what = f"something else (such as {printable(min(weights))})"
        if "patch_embed.proj.weight" in weights:
            mae = _MASK_TOKEN in weights
            what = "an MAE, which predicts pixels" if mae else "an encoder alone, which predicts no Gaussians"
        raise GmaeToolsError(f"weights of {what}; {expected}")


def _config(weights: Mapping[str, Tensor], max_scale: float) -> GMAEConfig:
    """Derive the configuration from the shapes of the weights.

    They do not tell the number of heads. The encoder's heads in the authors' code are 64 wide, the decoder's 32. Shapes
    of another model raise KeyError, IndexError, ValueError or ZeroDivisionError.
    """
    _, tokens, width = weights["pos_embed"].shape
    _, queries, decoder_width = weights[_QUERIES].shape
    patch = weights["patch_embed.proj.weight"].shape[-1]
    outputs, _ = weights[_HEAD].shape
    if tuple(weights[_MASK_TOKEN].shape) != (1, 1, decoder_width) or len(weights[_QUERIES]) != 1:
        raise ValueError(f"{_MASK_TOKEN} has shape {list(weights[_MASK_TOKEN].shape)}")
    if outputs % PACKED:
        raise ValueError(f"{_HEAD} has {outputs} rows, no multiple of {PACKED}")
    side = math.isqrt(tokens - 1) * patch
    camera = Camera("gmae", distance=8.0, focal=1.0, blur=0.3, cx=2 / side, cy=2 / side, shear=True)
    return GMAEConfig(
        image_size=side, patch_size=patch,
        width=width, depth=count_blocks(weights, "blocks"), heads=width // _HEAD_WIDTH,
        decoder_width=decoder_width, decoder_depth=count_blocks(weights, "decoder_blocks"),
        decoder_heads=decoder_width // _DECODER_HEAD_WIDTH, queries=queries,
        gaussians_per_query=outputs // PACKED, max_scale=max_scale, query_start="random", rotations="shoemake",
        decoder_positions="previous", order="slots", camera=camera,
    )  # fmt: skip


def _scale(document: object) -> float:
    """Return the largest scale, c, from the settings; the default of the authors is 1."""
    settings = _inside(document).get("hyper_parameters")
    value = 1.0
    for place in (settings, _inside(settings).get("cfg")):
        value = _inside(place).get("scale_factor", value)
    value = getattr(value, "_val", value)  # unwraps a node of OmegaConf
    if type(value) not in (int, float):
        raise GmaeToolsError(f"its setting scale_factor is {printable(str(value))}, no number")
    return float(value)


def _inside(container: Any) -> Mapping[str, Any]:
    """Return the entries of a dict or of a container of OmegaConf; no entries for anything else."""
    entries = getattr(container, "_content", container)
    return entries if isinstance(entries, Mapping) else {}


def _check_table(table: Tensor, config: GMAEConfig, width: int, name: str) -> None:
    """Refuse a table of positions that is not the one that `GMAE` computes."""
    side = config.image_size // config.patch_size
    if table.shape == (1, 1 + side * side, width):  # a wrong shape could demand any amount of memory
        positions = patch_positions((side, side), side, width)
        expected = torch.cat([torch.zeros_like(positions[:1]), positions])[None]
        if torch.allclose(table.float(), expected, rtol=0, atol=_ROUNDING):
            return
    raise GmaeToolsError(f"{name} is not the fixed table of a {side} x {side} grid; learned ones cannot be used")
