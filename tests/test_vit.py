"""The parts of a plain vision transformer are timm's, to the bit: weights, outputs and gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from gmae_tools import vit
from gmae_tools.model import initialise
from gmae_tools.system.torchvision_ops import ensure_torchvision

ensure_torchvision()
from timm import layers  # noqa: E402
from timm.models import vision_transformer  # noqa: E402

WIDTH, HEADS, PATCH = 48, 3, 8


def timm_block() -> nn.Module:
    norm = partial(nn.LayerNorm, eps=1e-6)
    return vision_transformer.Block(WIDTH, HEADS, mlp_ratio=4, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]


def pair(ours: type[nn.Module], *arguments: int, theirs: nn.Module, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Our module and timm's, which both start from the random weights of a seed; timm's was made with that seed."""
    torch.manual_seed(seed)
    mine = ours(*arguments)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor), name
    return mine, theirs


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_block_is_timms(plain: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mine, theirs = pair(vit.ViTBlock, WIDTH, HEADS, theirs=timm_block())
    results = []
    for block, attention in ((mine, vit.Attention), (theirs, vision_transformer.Attention)):
        torch.manual_seed(1)
        block.apply(initialise).to(dtype)
        if plain:
            vit.use_plain_attention(block, attention)
        x = torch.randn(2, 17, WIDTH, dtype=dtype, requires_grad=True)
        y = block(x)
        y.square().sum().backward()
        results.append([y, x.grad, *(parameter.grad for parameter in block.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fused_and_plain_attention_agree() -> None:
    block, x = vit.ViTBlock(WIDTH, HEADS), torch.randn(2, 17, WIDTH)
    fused = block(x)
    vit.use_plain_attention(block)
    assert not block.attn.fused_attn
    torch.testing.assert_close(block(x), fused)


def test_the_patch_embedding_is_timms() -> None:
    torch.manual_seed(0)
    theirs = layers.PatchEmbed(None, PATCH, embed_dim=WIDTH, strict_img_size=False)
    mine, theirs = pair(vit.PatchEmbed, PATCH, WIDTH, theirs=theirs)
    images = torch.rand(2, 3, 24, 40)
    assert torch.equal(mine(images), theirs(images))
