"""The masked autoencoders that GMAE is compared with: the same encoder, and a decoder that predicts pixels.

A mask token takes the place of every hidden patch, and a ViT turns all tokens into the pixels of their patches.

Shapes: B pictures, N patches, V visible patches, P = 3 p^2 numbers for a patch of p x p px.

Source: MAE (arXiv 2111.06377).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gmae_tools.model import RGB_MEAN, RGB_STD, Autoencoder, AutoencoderConfig, init_normal, initialise
from gmae_tools.system.precision import working_dtype
from gmae_tools.vit import LayerNorm, ViTBlock, hidden_patches, visible_patches

_EPSILON = 1e-6  # added to a patch's variance


@dataclass(frozen=True)
class MAEConfig(AutoencoderConfig):
    """The configuration of an MAE.

    Args:
        normalise_targets: Whether to predict each patch minus its mean and divided by its standard deviation (MAE's
            `norm_pix_loss`). Features are better, but painting a picture then needs the statistics of the original.
    """

    normalise_targets: bool = False


@dataclass(frozen=True)
class RMAEConfig(MAEConfig):
    """The configuration of an R-MAE.

    Args:
        own_decoder: Whether the second view has a decoder d' of its own; otherwise both views share d.
    """

    own_decoder: bool = True


@dataclass(frozen=True)
class CMAEConfig(AutoencoderConfig):
    """The configuration of a C-MAE.

    Args:
        embedding: Number E of dimensions of an embedding.
        head: Module that computes an embedding from the encoder's tokens: MAE's `decoder`, with mask tokens for the
            hidden patches; or a `light` head of two layers, with mask tokens that enter the encoder.
    """

    embedding: int = 128
    head: Literal["decoder", "light"] = "decoder"


class PatchDecoder(nn.Module):
    """A ViT over the encoder's tokens and a mask token in place of every hidden patch; `outputs` values for each."""

    def __init__(self, config: AutoencoderConfig, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.decoder_width))
        self.blocks = nn.ModuleList(
            ViTBlock(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.norm = LayerNorm(config.decoder_width)
        self.head = nn.Linear(config.decoder_width, outputs)
        init_normal(self.mask_token)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        x = self.embed(tokens)  # [B, 1 + V, D']
        patches = x[:, 1:]
        if visible is not None:
            # MAE shuffles patches to hide some, and then unshuffles tokens. Here they stay in their order.
            places = visible[..., None].expand_as(patches)
            empty = self.mask_token.to(x.dtype).expand(len(x), len(positions), -1)
            patches = empty.scatter(1, places, patches)  # [B, N, D']
        x = torch.cat([x[:, :1], patches + positions], 1)  # [B, 1 + N, D']
        for block in self.blocks:
            x = block(x)
        outputs = self.head(self.norm(x)[:, 1:])  # [B, N, outputs]
        return outputs.to(working_dtype(outputs))


class MAE(Autoencoder):
    """Predicts the patches of pictures: `predictions = model(images, mask)`, `[B, N, P]`.

    Predictions approximate `patch_targets`; `paint_patches` turns them into pictures.
    """

    config: MAEConfig
    decoder: PatchDecoder

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config, partial(PatchDecoder, outputs=3 * config.patch_size**2))

    def decode(self, tokens: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Tensor:
        """Predictions `[B, N, P]` from features; `grid` and `mask` say which patch each token belongs to."""
        return self.decoder(tokens, self.positions(grid, self.config.decoder_width), _numbers(mask))


class RMAE(MAE):
    """An `MAE` with a second decoder d' for the second view, which is needed for training by R-MAE."""

    config: RMAEConfig

    def __init__(self, config: RMAEConfig) -> None:
        super().__init__(config)
        if config.own_decoder:  # made last, so that all else starts with the weights of an MAE of the same seed
            self.second_decoder = PatchDecoder(config, 3 * config.patch_size**2).float()
            self.second_decoder.apply(initialise)

    def forward(self, images: Tensor, mask: Tensor | None = None, second_view: bool = False) -> Tensor:
        """Predictions `[B, N, P]` of the decoder d, or of d' for the second view."""
        tokens, grid = self.encode(images, mask), self.grid(images)
        if not (second_view and self.config.own_decoder):
            return self.decode(tokens, grid, mask)
        return self.second_decoder(tokens, self.positions(grid, self.config.decoder_width), _numbers(mask))


class CMAE(Autoencoder):
    """Embeds pictures: `embeddings = model(images, mask)`, `[B, E]`; for C-MAE.

    MAE's decoder predicts E numbers for each patch instead of its pixels, and their mean is the picture's embedding.
    With the light head the encoder itself takes a learned mask token for every hidden patch, two layers map each of its
    tokens to E numbers, and the embedding is their mean.
    """

    config: CMAEConfig
    decoder: PatchDecoder | LightHead

    def __init__(self, config: CMAEConfig) -> None:
        light = config.head == "light"
        super().__init__(config, LightHead if light else partial(PatchDecoder, outputs=config.embedding))
        if light:
            self.encoder.mask_token = nn.Parameter(torch.zeros(1, 1, config.width, dtype=torch.float32))
            init_normal(self.encoder.mask_token)

    def decode(self, tokens: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Tensor:
        """Embeddings `[B, E]`; `grid` and `mask` say which patch each token belongs to."""
        if isinstance(self.decoder, LightHead):
            return self.decoder(tokens)
        return self.decoder(tokens, self.positions(grid, self.config.decoder_width), _numbers(mask)).mean(1)


class LightHead(nn.Module):
    """Two layers over the token of every patch, and the mean over the patches: `[B, 1 + N, D]` to `[B, E]`."""

    def __init__(self, config: CMAEConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.decoder_width)
        self.head = nn.Linear(config.decoder_width, config.embedding)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(nn.functional.gelu(self.hidden(tokens[:, 1:]))).float().mean(1)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines `[A, B]` between embeddings `[A, E]` and `[B, E]`."""
    return nn.functional.normalize(first, dim=1) @ nn.functional.normalize(second, dim=1).T


def _numbers(mask: Tensor | None) -> Tensor | None:
    """A mask as the numbers of the visible patches, int64 `[B, V]`."""
    return visible_patches(mask) if mask is not None and mask.dtype == torch.bool else mask


# --- pixels ------------------------------------------------------------------------------------------


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut pictures `[B, 3, H, W]` into patches `[B, N, P]`, row by row; a patch is row by row too, channels last."""
    squares = images.unfold(2, patch, patch).unfold(3, patch, patch)  # [B, 3, rows, columns, p, p]
    return squares.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join patches `[B, N, P]` to pictures `[B, 3, H, W]`, given the rows and columns of the grid."""
    rows, columns = grid
    patch = round((patches.shape[-1] / 3) ** 0.5)
    pixels = patches.view(len(patches), rows, columns, patch, patch, 3).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(len(patches), 3, rows * patch, columns * patch)


def patch_targets(images: Tensor, config: MAEConfig) -> Tensor:
    """The targets `[B, N, P]`: pixels in units of ImageNet's statistics, or normalised patch by patch.

    Args:
        images: RGB in [0, 1] `[B, 3, H, W]`.
    """
    patches = imagenet_patches(images, config.patch_size)
    if not config.normalise_targets:
        return patches
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def paint_patches(predictions: Tensor, images: Tensor, config: MAEConfig) -> Tensor:
    """Convert predictions for `images` to pictures `[B, 3, H, W]`, RGB around [0, 1].

    Normalised targets lack the brightness and contrast of a patch. Both are taken from `images`, as in the figures of
    MAE.
    """
    imagenet_mean, imagenet_deviation = _imagenet(images)
    if config.normalise_targets:
        mean, deviation = patch_statistics(imagenet_patches(images, config.patch_size))
        predictions = predictions * deviation + mean
    height, width = images.shape[-2:]
    pixels = unpatchify(predictions, (height // config.patch_size, width // config.patch_size))
    return pixels * imagenet_deviation + imagenet_mean


def _imagenet(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[3, 1, 1]` of ImageNet's pixels."""
    return images.new_tensor(RGB_MEAN)[:, None, None], images.new_tensor(RGB_STD)[:, None, None]


def imagenet_patches(images: Tensor, patch: int) -> Tensor:
    """Patches `[B, N, P]` of RGB pictures in [0, 1], normalised by ImageNet's statistics."""
    mean, deviation = _imagenet(images)
    return patchify((images - mean) / deviation, patch)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[B, N, 1]` of each patch `[B, N, P]`, by which MAE normalises targets."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + _EPSILON).sqrt()


def mae_loss(
    model: nn.Module,
    images: Tensor,
    mask: Tensor | None,
    config: MAEConfig,
    loss_on: Literal["all", "masked"] = "masked",
) -> Tensor:
    """Mean squared error of the predictions, over the hidden patches or over all.

    Args:
        model: An `MAE`, possibly wrapped by a trainer.
        images: RGB in [0, 1] `[B, 3, H, W]`.
        mask: Hidden or visible patches, as `MAE.forward` takes them. If no patch is hidden, all patches count.
        config: Configuration of the model.
        loss_on: `masked` for the hidden patches, as in the paper, or `all`.
    """
    error = (model(images, mask) - patch_targets(images, config)).square().mean(-1)  # [B, N]
    if mask is None or loss_on == "all":
        return error.mean()
    hidden = hidden_patches(mask, error.shape[1])
    counted = torch.where(hidden.any(), hidden, True)  # an `if` would wait for the GPU
    return (error * counted).sum() / counted.sum()
