"""Masks of patches: which are hidden and which stay visible, in both forms that the models take.

A mask says of every patch whether it is hidden (bool `[B, N]`), or names those that stay visible (int64 `[B, V]`,
ascending), which spares a GPU the counting.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError


def visible_patches(mask: Tensor) -> Tensor:
    """Numbers of the patches that a mask (bool `[B, N]`, True is hidden) leaves visible: int64 `[B, V]`, ascending.

    Raises:
        GmaeToolsError: the rows do not hide the same number of patches.
    """
    visible = (~mask).sum(1)
    if (visible != visible[:1]).any():
        raise GmaeToolsError("mask: every picture of a batch must hide the same number of patches")
    return (~mask).nonzero()[:, 1].view(len(mask), int(visible[0]))


def hidden_patches(mask: Tensor, patches: int) -> Tensor:
    """Which of so many patches are hidden, bool `[B, N]`; `mask` in either form that `Autoencoder.forward` takes."""
    if mask.dtype == torch.bool:
        return mask
    return torch.ones(len(mask), patches, dtype=torch.bool, device=mask.device).scatter_(1, mask, False)


def complement(mask: Tensor, patches: int) -> Tensor:
    """The complementary occlusion: numbers of the patches that `mask` hides, int64 `[B, N - V]`, ascending.

    Args:
        mask: the patches that are visible now, int64 `[B, V]`; see `visible_patches`.
        patches: N.
    """
    hidden = hidden_patches(mask, patches)
    return hidden.byte().argsort(dim=1, descending=True, stable=True)[:, : patches - mask.shape[1]]


def keep_visible(x: Tensor, mask: Tensor) -> Tensor:
    """The rows of `x` `[B, N, D]` that `mask` (see `Autoencoder.forward`) leaves visible, in order: `[B, V, D]`."""
    if mask.dtype == torch.bool and mask.shape == x.shape[:2]:
        mask = visible_patches(mask)
    elif mask.dtype != torch.int64 or len(mask) != len(x):
        raise GmaeToolsError(f"mask is {mask.dtype} {list(mask.shape)}, expected torch.bool {list(x.shape[:2])}")
    return x.gather(1, mask[..., None].expand(-1, -1, x.shape[-1]))
