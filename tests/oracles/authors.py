"""The image model of GMAE's authors, stated again from a description of it, and checkpoints in the layout of its code.

The parameters have the names of its checkpoints. OmegaConf is not needed: classes of its names are made up for
pickling.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gmae_tools.system.torchvision_ops import ensure_torchvision
from tests import needs
from tests.oracles.mae import position_embeddings

ensure_torchvision()
from timm.layers import PatchEmbed  # noqa: E402
from timm.models.vision_transformer import Block  # noqa: E402


class AuthorsGMAE(nn.Module):
    """For square pictures of `side` x `side` patches of 16 px that are already divided by ImageNet's statistics."""

    def __init__(
        self, side: int = 4, width: int = 64, decoder_width: int = 96, queries: int = 5, slots: int = 3
    ) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.slots = slots
        self.patch_embed = PatchEmbed(16 * side, 16, 3, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(position_embeddings(side, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, width // 64, 4, qkv_bias=True, norm_layer=norm) for _ in range(2))
        self.norm = norm(width)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(position_embeddings(side, decoder_width), requires_grad=False)
        self.decoder_pos_embed_gaussian = nn.Parameter(torch.randn(1, queries, decoder_width))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, decoder_width // 32, 4, qkv_bias=True, norm_layer=norm) for _ in range(1)
        )
        self.decoder_norm = norm(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, 768)
        self.linear_gaussian = nn.Linear(decoder_width, 14 * slots, bias=False)
        nn.init.normal_(self.linear_gaussian.weight, std=0.3)

    def forward(self, images: Tensor, hidden: Tensor, c: float) -> dict[str, Tensor]:
        """Activated Gaussians, slot by slot; patches that are `hidden` (bool `[B, N]`) are not seen."""
        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        rows = []
        for row, mask in zip(patches, hidden, strict=True):
            seen = [number for number in range(len(mask)) if not mask[number]]
            x = torch.stack([self.cls_token[0, 0], *(row[number] for number in seen)])[None]
            for block in self.blocks:
                x = block(x)
            x = self.decoder_embed(self.norm(x))[0]
            tokens = [token + self.decoder_pos_embed[0, number] for token, number in zip(x[1:], seen, strict=True)]
            queries = self.mask_token[0] + self.decoder_pos_embed_gaussian[0]
            x = torch.stack([x[0], *tokens, *queries])[None]
            for block in self.decoder_blocks:
                x = block(x)
            rows.append(self.linear_gaussian(self.decoder_norm(x)[0, -len(queries) :]))
        raw = torch.cat(torch.stack(rows).split(14, -1), 1)  # [B, G Q, 14]
        u, v, w = raw[..., 6:9].sigmoid().unbind(-1)
        v, w = 2 * torch.pi * v, 2 * torch.pi * w
        quats = [(1 - u).sqrt() * v.sin(), (1 - u).sqrt() * v.cos(), u.sqrt() * w.sin(), u.sqrt() * w.cos()]
        return {
            "means": 2 * raw[..., :3].sigmoid() - 1, "scales": c * raw[..., 3:6].sigmoid(),
            "quats": torch.stack(quats, -1), "colors": raw[..., 10:13].sigmoid(), "opacities": raw[..., 13].sigmoid(),
        }  # fmt: skip


def lightning(model: nn.Module, settings: Mapping[str, object], prefix: str = "encoder.") -> dict[str, Any]:
    """What a Lightning checkpoint holds, with a probe beside the model; `settings` become its configuration."""
    weights = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    probe = {"linear_layer.0.0.num_batches_tracked": torch.tensor(7), "linear_layer.0.1.weight": torch.zeros(10, 64)}
    return {
        "state_dict": {**weights, **probe}, "epoch": 399, "optimizer_states": [{"state": {}, "param_groups": []}],
        "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"cfg": dict_config(settings)},
    }  # fmt: skip


def save_lightning(document: object, path: Path) -> Path:
    """Write a checkpoint; the test is skipped where our package cannot read it."""
    needs.safe_torch()
    with omegaconf():
        torch.save(document, path)
    return path


# --- a pickled configuration -----------------------------------------------------------------------------


class DictConfig:
    pass


class ListConfig:
    pass


class ContainerMetadata:
    pass


class Metadata:
    pass


class AnyNode:
    pass


_PLACES = {"dictconfig": DictConfig, "listconfig": ListConfig, "base": ContainerMetadata, "nodes": AnyNode}
_CLASSES = (*_PLACES.values(), Metadata)


@contextmanager
def omegaconf() -> Iterator[None]:
    """While modules of these names can be imported, as pickling wants."""
    modules = {"omegaconf": ModuleType("omegaconf")}
    for name, kind in _PLACES.items():
        modules[f"omegaconf.{name}"] = module = ModuleType(f"omegaconf.{name}")
        module.__dict__[kind.__name__] = kind
        kind.__module__ = module.__name__
    modules["omegaconf.base"].__dict__["Metadata"] = Metadata
    Metadata.__module__ = "omegaconf.base"
    try:
        sys.modules.update(modules)
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for kind in _CLASSES:
            kind.__module__ = __name__


def dict_config(settings: Mapping[str, object]) -> DictConfig:
    """A configuration as OmegaConf keeps it: nodes that know their key and their parent."""
    config = DictConfig()
    content: dict[str, object] = {}
    cache: collections.defaultdict[type, dict[str, int]] = collections.defaultdict(dict, {dict: {"now": 3}})
    config.__dict__.update(
        _metadata=_with(ContainerMetadata(), ref_type=Any, object_type=dict, key_type=Any, resolver_cache=cache),
        _parent=None, _content=content,
    )  # fmt: skip
    for key, value in settings.items():
        kind = ListConfig() if isinstance(value, list) else AnyNode()
        metadata = _with(Metadata(), ref_type=Any, object_type=int, key=key)
        inside = {"_content": value} if isinstance(value, list) else {"_val": value}
        content[key] = _with(kind, _metadata=metadata, _parent=config, **inside)
    return config


def _with(thing: Any, **attributes: object) -> Any:
    thing.__dict__.update(attributes)
    return thing
