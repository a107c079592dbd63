"""MAE's forward pass and loss (arXiv 2111.06377), stated again in the order of its public description.

Patches are shuffled by sorting noise, the first ones are encoded, mask tokens are appended, and all is unshuffled. The
parameters have the names of the official checkpoints.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gmae_tools.system.torchvision_ops import ensure_torchvision
from tests import needs

ensure_torchvision()
from timm.layers import PatchEmbed  # noqa: E402
from timm.models.vision_transformer import Block  # noqa: E402


class OfficialMAE(nn.Module):
    """For pictures of `side` x `side` patches that are already divided by ImageNet's statistics."""

    def __init__(
        self, side: int, patch: int, width: int, depth: int, heads: int, decoder_width: int, decoder_depth: int,
        decoder_heads: int, norm_pix_loss: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.patch, self.norm_pix_loss = patch, norm_pix_loss
        self.patch_embed = PatchEmbed(side * patch, patch, 3, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(position_embeddings(side, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads, 4, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(position_embeddings(side, decoder_width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, decoder_heads, 4, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth)
        )
        self.decoder_norm = norm(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, patch * patch * 3)

    def forward(self, images: Tensor, noise: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, predictions `[B, N, 3 p^2]` and mask `[B, N]` (1 is hidden); the `keep` lowest of `noise` are seen."""
        shuffle = noise.argsort(1)
        restore = shuffle.argsort(1)
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x = torch.stack([row[order[:keep]] for row, order in zip(x, shuffle, strict=True)])
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).repeat(len(x), 1, 1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        tokens = torch.cat([x[:, 1:], self.mask_token.repeat(len(x), noise.shape[1] - keep, 1)], 1)
        tokens = torch.stack([row[order] for row, order in zip(tokens, restore, strict=True)])
        x = torch.cat([x[:, :1], tokens], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        predictions = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        mask = (restore >= keep).float()
        error = ((predictions - self.targets(images)) ** 2).mean(-1)
        return (error * mask).sum() / mask.sum(), predictions, mask

    def targets(self, images: Tensor) -> Tensor:
        """Patch by patch: pixel rows, channels last; perhaps less their mean and over their deviation."""
        side = images.shape[-1] // self.patch
        squares = [
            images[:, :, self.patch * row : self.patch * (row + 1), self.patch * column : self.patch * (column + 1)]
            for row in range(side)
            for column in range(side)
        ]
        targets = torch.stack([square.permute(0, 2, 3, 1).flatten(1) for square in squares], 1)
        if self.norm_pix_loss:
            targets = (targets - targets.mean(-1, keepdim=True)) / (targets.var(-1, keepdim=True) + 1e-6) ** 0.5
        return targets


def position_embeddings(side: int, width: int) -> Tensor:
    """`[1, 1 + side^2, width]`: zeros for the class token, then sines and cosines of column and row."""
    table = np.zeros((1 + side * side, width))
    quarter = width // 4
    for row in range(side):
        for column in range(side):
            for i in range(quarter):
                frequency = 1 / 10000 ** (i / quarter)
                values = table[1 + row * side + column]
                values[i], values[quarter + i] = np.sin(column * frequency), np.cos(column * frequency)
                values[2 * quarter + i], values[3 * quarter + i] = np.sin(row * frequency), np.cos(row * frequency)
    return torch.from_numpy(table).float()[None]


def save_official(content: object, path: Path) -> None:
    """Write an official file; the test is skipped where torch is too old for our package to read it."""
    needs.safe_torch()
    torch.save(content, path)
