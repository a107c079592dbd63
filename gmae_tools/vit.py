"""The parts of a plain vision transformer: patches, positions, blocks, and masks.

The blocks give the same bits as those of timm. Their parameters have the same names as in timm and in the official MAE
files. They are implemented here because `import timm` imports torchvision and every architecture of timm, which takes
longer than a prediction of a small model. `tests/test_vit.py` compares the two.

Shapes: B pictures, N patches, V visible patches, D channels. A mask has one of two forms: whether each patch is hidden
(bool `[B, N]`), or the numbers of the visible patches (int64 `[B, V]`, ascending). With the second form a GPU need not
count, and the CPU need not wait for it.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmae_tools.errors import GmaeToolsError

LayerNorm = partial(nn.LayerNorm, eps=1e-6)  # MAE's and timm's epsilon, not torch's

# --- blocks ------------------------------------------------------------------------------------------


class PatchEmbed(nn.Module):
    """A linear map of every patch: pictures `[B, 3, H, W]` to tokens `[B, N, width]` in row-major order."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with several heads, `[B, N, width]` to `[B, N, width]`.

    Attributes:
        fused_attn: Whether attention is computed by torch's fused kernels or by matrix products; named as in timm.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.fused_attn = heads, True
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, N, d]
        if self.fused_attn:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between them; the hidden layer is four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class ViTBlock(nn.Module):
    """A block of a pre-norm transformer, as in ViT and MAE."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def use_plain_attention(model: nn.Module, kind: type[nn.Module] = Attention) -> None:
    """Make a model compute attention by matrix products, for training on a CPU.

    The backward pass of torch's fused kernels is several times slower there in bf16.

    Args:
        model: Model to change in place.
        kind: Class of its attention layers: the one of this module, or that of timm.
    """
    for module in model.modules():
        if isinstance(module, kind):
            module.fused_attn = False  # type: ignore[assignment]


# --- positions ---------------------------------------------------------------------------------------


def sincos_embedding(places: Tensor, width: int) -> Tensor:
    """Fixed 2-D sine-cosine embedding `[N, width]` of places `[N, 2]` (x, y) in patches, in MAE's channel order.

    The first half encodes the column (MAE's `get_2d_sincos_pos_embed` builds its mesh with w first), sines before
    cosines.
    """
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = places.double()[..., None] * frequencies  # [N, 2, quarter]
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1).float()


@lru_cache(maxsize=32)
def patch_positions(grid: tuple[int, int], side: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Position embeddings `[N, width]` of the patches of a grid of (rows, columns).

    A grid of `side` x `side` patches, for which the model was trained, is stretched over the picture. Patches of other
    grids lie between its points. The result is cached on the device, because a step that sends it to a GPU waits.
    """
    y, x = ((torch.arange(count, dtype=torch.float32) + 0.5) * side / count - 0.5 for count in grid)
    return sincos_embedding(torch.cartesian_prod(y, x).flip(-1), width).to(device)  # places as (x, y)


def query_places(count: int) -> Tensor:
    """Evenly spread places in [-1, 1]^2, `[count, 2]`: a grid whose rows differ by at most one in length."""
    rows = max(1, round(math.sqrt(count)))
    lengths = [count // rows + (row < count % rows) for row in range(rows)]
    places = [
        ((column + 0.5) / length, (row + 0.5) / rows) for row, length in enumerate(lengths) for column in range(length)
    ]
    return torch.tensor(places, dtype=torch.float32) * 2 - 1


# --- visible patches ---------------------------------------------------------------------------------


def visible_patches(mask: Tensor) -> Tensor:
    """Numbers of the patches that a mask (bool `[B, N]`, True if hidden) leaves visible: int64 `[B, V]`, ascending.

    Raises:
        GmaeToolsError: The rows do not hide the same number of patches.
    """
    visible = (~mask).sum(1)
    if (visible != visible[:1]).any():
        raise GmaeToolsError("mask: every picture of a batch must hide the same number of patches")
    return (~mask).nonzero()[:, 1].view(len(mask), int(visible[0]))


def hidden_patches(mask: Tensor, patches: int) -> Tensor:
    """Which of N = `patches` patches are hidden, bool `[B, N]`, by a mask of either form."""
    if mask.dtype == torch.bool:
        return mask
    return torch.ones(len(mask), patches, dtype=torch.bool, device=mask.device).scatter_(1, mask, False)


def complement(mask: Tensor, patches: int) -> Tensor:
    """The complementary mask: numbers of the patches that `mask` hides, int64 `[B, N - V]`, ascending.

    Args:
        mask: Numbers of the visible patches, int64 `[B, V]`; see `visible_patches`.
        patches: Number N of all patches.
    """
    hidden = hidden_patches(mask, patches)
    return hidden.byte().argsort(dim=1, descending=True, stable=True)[:, : patches - mask.shape[1]]


def keep_visible(x: Tensor, mask: Tensor) -> Tensor:
    """The rows of `x` `[B, N, D]` of the patches that a mask of either form leaves visible, in order: `[B, V, D]`.

    Raises:
        GmaeToolsError: The mask does not fit `x`.
    """
    if mask.dtype == torch.bool and mask.shape == x.shape[:2]:
        mask = visible_patches(mask)
    elif mask.dtype != torch.int64 or len(mask) != len(x):
        raise GmaeToolsError(f"mask is {mask.dtype} {list(mask.shape)}, expected torch.bool {list(x.shape[:2])}")
    return x.gather(1, mask[..., None].expand(-1, -1, x.shape[-1]))
