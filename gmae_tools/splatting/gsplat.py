"""The CUDA backend: the tile functions of gsplat 1.5.3, arranged so that they follow the rules of `rasterize`.

For each tile of 16 px gsplat lists the splats whose box touches it, sorts each list by depth, and composites the lists,
forward and backward. Its kernels add gradients in no fixed order, so gradients differ in the last digits between runs.

- Boxes are those of the visible ellipses, cut to the picture. They agree with the reach of gsplat,
  ceil(min(3.33, sqrt(2 ln(255 o))) sigma), because no opacity of 1 or less is visible beyond 3.329 sigma.
- gsplat sorts by the bits of a float. It gets ranks instead of depths, so that splats of equal depth keep their order
  and depths may have any sign and size.
- Depth groups are rendered in one pass, each into channels of its own, in which the other groups are black. Rendering
  each group alone and compositing the pictures would be wrong, because the splat that finishes a pixel depends on the
  splats of all groups before it.
- At most 32 channels are rendered at a time, because with more the backward kernel needs more shared memory than many
  GPUs have.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting.rules import ALPHA_MAX, ALPHA_MIN, TILE, TRANSMITTANCE_MIN, RasterOptions

_CHANNELS = 32  # rendered in one pass
_CULL = 1e-3  # added to log(255 opacity), so that rounding makes no box too small
# Rounding may make the conic of a very long needle one of a hyperbola; the box of such a needle is that of a stripe.
_ROUNDED = 1 + 1e-5  # bound of the error of the products a c and b^2
_LEAST_DETERMINANT = 1e-12  # least determinant of a conic, as a share of a c
_KEY_BITS = 31  # bits for image and tile in the sorting key of gsplat
_VISITS = 1 << 31  # pairs of splat and tile that the kernels of gsplat can count
_NUMBERS = 1 << 32  # values of all pictures that they can count
_OWNER_NUMBERS = 1 << 25  # pairs of pixel and splat held at once in the search for owners


class _Shapes(NamedTuple):
    """Splats without their colours, nearest first, float32."""

    means: Tensor  # [B, K, 2]
    conics: Tensor  # [B, K, 3]
    opacities: Tensor  # [B, K]


class _Tiles(NamedTuple):
    """The list of the splats of each tile, nearest first."""

    offsets: Tensor  # start of each tile's list in `splats`, int32 [B, rows, columns]
    splats: Tensor  # of all lists, int32, numbered through the batch: image * K + position


def composite_sorted(
    splats: Splats, background: Tensor, options: RasterOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Composite splats that are sorted nearest first, on their CUDA GPU; differentiable in splats and background.

    Arguments and results are those of `cpu.composite_splats`, all on the GPU.

    Raises:
        GmaeToolsError: `alpha_max` differs from that of gsplat, or the pictures are too large for it.
    """
    if options.alpha_max != ALPHA_MAX:
        raise GmaeToolsError(
            f"gsplat caps alpha at {ALPHA_MAX}, not at {options.alpha_max}: use the backend cpu or dense"
        )
    height, width, sizes = options.height, options.width, options.group_sizes
    drawn = sum(sizes)
    shapes = _Shapes(*(t[:, :drawn].float() for t in (splats.means, splats.conics, splats.opacities)))
    colors, groups, channels = splats.colors[:, :drawn].float(), len(sizes), splats.colors.shape[-1]
    tiles = _list_by_tile(shapes, height, width)
    if groups == 1 and channels:
        picture, alpha = _render(shapes, colors, tiles, height, width)
        images, alphas = picture[:, None], alpha[:, None]
    else:  # also without channels, for which gsplat has no picture
        pictures, alpha = _render(shapes, _one_group_a_channel(colors, sizes), tiles, height, width)
        images, alphas = pictures.unflatten(1, (groups, channels + 1)).split([channels, 1], 2)
    behind = (1 - alpha) * background.float()[:, :, None, None]
    images = torch.cat([images[:, :-1], images[:, -1:] + behind[:, None]], 1)
    alphas = alphas.contiguous()
    if options.order_temperature is not None:
        depths = splats.depths[:, :drawn].float()
        images, alphas = _UncertainOrder.apply(images, alphas, depths, colors, shapes, tiles, options)
    if options.owners:
        return images, alphas, *_strongest(shapes, tiles, height, width)
    nobody = alpha.new_zeros(len(alpha), 0, 0)
    return images, alphas, nobody.int(), nobody


class _UncertainOrder(torch.autograd.Function):
    """Returns pictures unchanged, and gives depths `[B, K]` the gradient of the order; see `rasterize`.

    gsplat lists the splats that each pixel composites, nearest first. The rest is computed by torch.
    """

    @staticmethod
    def forward(ctx, images, alphas, depths, colors, shapes, tiles, options):  # type: ignore[no-untyped-def]
        ctx.shapes = _Shapes(*(tensor.detach() for tensor in shapes))
        ctx.tiles, ctx.options = tiles, options
        ctx.save_for_backward(depths, colors)
        return images.view_as(images), alphas.view_as(alphas)

    @staticmethod
    def backward(ctx, grad_images, grad_alphas):  # type: ignore[no-untyped-def]
        grad_depths = None
        if ctx.needs_input_grad[2]:
            depths, colors = ctx.saved_tensors
            grads = torch.cat([grad_images, grad_alphas], 2)  # [B, S, C + 1, H, W]
            grad_depths = _order_gradient(grads, depths, pad(colors, (0, 1), value=1.0), ctx)
        return grad_images, grad_alphas, grad_depths, None, None, None, None


def _order_gradient(grads: Tensor, depths: Tensor, colors: Tensor, ctx: Any) -> Tensor:
    """Gradient of depths `[B, K]`, given those of the groups' images and alphas; `colors` end with a 1 for alpha."""
    shapes, tiles, options = ctx.shapes, ctx.tiles, ctx.options
    gained = torch.zeros_like(depths).flatten()
    if not len(tiles.splats):
        return gained.view_as(depths)
    splats, pixels = _composited(shapes, tiles, options.height, options.width)  # [N] each, through the batch
    means, conics, opacities = (tensor.flatten(0, 1)[splats] for tensor in shapes)
    place = pixels % (options.height * options.width)
    centres = torch.stack([place % options.width, place // options.width], -1) + 0.5
    alpha = _alphas(means, conics, opacities, centres)
    light = torch.exp(_sum_before(torch.log1p(-alpha.double()), pixels)).float()
    member = torch.repeat_interleave(torch.tensor(options.group_sizes, device=splats.device))[splats % depths.shape[1]]
    image = pixels // (options.height * options.width)
    product = (grads.flatten(3)[image, member, :, place] * colors.flatten(0, 1)[splats]).sum(-1)
    z, tau = depths.flatten()[splats], options.order_temperature
    probability = torch.sigmoid((z[1:] - z[:-1]) / tau)
    share = probability * (1 - probability) / tau * (light * alpha)[:-1] * alpha[1:] * product.diff()
    share = share.where(pixels[1:] == pixels[:-1], 0.0)  # only neighbours at the same pixel change places
    return gained.index_add(0, splats[:-1], share).index_add(0, splats[1:], -share).view_as(depths)


def _sum_before(values: Tensor, pixels: Tensor) -> Tensor:
    """For each of the values `[N]`, sorted by pixel, the sum of those before it that belong to the same pixel."""
    before = values.cumsum(0) - values
    first = pixels.new_ones(len(pixels), dtype=torch.bool)
    first[1:] = pixels[1:] != pixels[:-1]
    return before - before[first].repeat_interleave(torch.unique_consecutive(pixels, return_counts=True)[1])


def _composited(shapes: _Shapes, tiles: _Tiles, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Splats and pixels `[N]`, both numbered through the batch, of all visible pairs, sorted by pixel and depth."""
    from gsplat.cuda._wrapper import rasterize_to_indices_in_range

    batch, count = shapes.opacities.shape
    light = shapes.opacities.new_ones(batch, height, width)
    splats, pixels, images = rasterize_to_indices_in_range(
        0, len(tiles.splats), light, shapes.means, shapes.conics, shapes.opacities, width, height, TILE, *tiles
    )
    return splats + images * count, pixels + images * height * width


def _alphas(means: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor) -> Tensor:
    """Alphas `[N]` of splats, each at one pixel centre."""
    dx, dy = (means - pixels).unbind(-1)
    a, b, c = conics.unbind(-1)
    return (opacities * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))).clamp_max(ALPHA_MAX)


def _one_group_a_channel(colors: Tensor, group_sizes: tuple[int, ...]) -> Tensor:
    """Colours `[B, K, S * (C + 1)]`: each splat has its own, and 1 for alpha, in the channels of its group, else 0."""
    group = torch.repeat_interleave(torch.tensor(group_sizes, device=colors.device))  # [K]
    member = torch.nn.functional.one_hot(group, len(group_sizes)).to(colors)  # [K, S]
    return (member[..., None] * pad(colors, (0, 1), value=1.0)[:, :, None]).flatten(2)


@torch.no_grad()
def _list_by_tile(shapes: _Shapes, height: int, width: int) -> _Tiles:
    """List the splats of each tile. Invisible ones are in no list."""
    batch, count = shapes.opacities.shape
    rows, columns = math.ceil(height / TILE), math.ceil(width / TILE)
    _check_size(batch.bit_length() + (rows * columns).bit_length() <= _KEY_BITS, batch, height, width)
    if not batch * count:
        nothing = shapes.opacities.new_zeros(0).int()
        return _Tiles(nothing.new_zeros(batch, rows, columns), nothing)
    from gsplat.cuda._wrapper import isect_offset_encode, isect_tiles

    centres, radii = _boxes(shapes, height, width)
    ranks = torch.arange(count, dtype=torch.float32, device=centres.device).expand(batch, count)
    _, keys, splats = isect_tiles(centres, radii, ranks, TILE, columns, rows)
    _check_size(len(splats) < _VISITS, batch, height, width)
    return _Tiles(isect_offset_encode(keys, batch, columns, rows), splats)


def _check_size(fits: bool, batch: int, height: int, width: int) -> None:
    if not fits:
        size = f"{batch} pictures of {height} x {width} px"
        raise GmaeToolsError(f"{size} are too many for one call of gsplat: render fewer at a time, or strips of them")


def _boxes(shapes: _Shapes, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes of the visible part of each splat: centres `[B, K, 2]` and half sizes, int32 `[B, K, 2]`, in px.

    If no part is visible, a half size is 0, and gsplat lists the splat for no tile.

    Source of the reach: gsplat 1.5.3, `ProjectionEWA3DGSFused.cu`.
    """
    means, conics, opacities = (tensor.double() for tensor in shapes)
    a, b, c = conics.unbind(-1)
    determinant = (a * c - b * b).clamp_min(_LEAST_DETERMINANT * a * c)
    level = 2 * (torch.log(255 * opacities) + _CULL)  # squared radius of the ellipse, in sigmas
    visible = (shapes.opacities >= ALPHA_MIN) & (a > 0) & (_ROUNDED * a * c > b * b)
    variances = torch.stack([c, a], -1) / determinant.where(visible, 1.0)[..., None]
    reach = (variances * level[..., None]).where(visible[..., None], 0.0).sqrt()
    zero, end = means.new_zeros(2), means.new_tensor([width, height])
    low, high = (torch.clamp(means + side * reach, zero, end) for side in (-1, 1))
    return ((low + high) / 2).float(), ((high - low) / 2).ceil().int()


def _render(shapes: _Shapes, colors: Tensor, tiles: _Tiles, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pictures `[B, C, H, W]` of colours `[B, K, C]`, without background, and their alpha `[B, 1, H, W]`."""
    batch, count, channels = colors.shape
    if not batch * count:
        return colors.new_zeros(batch, channels, height, width), colors.new_zeros(batch, 1, height, width)
    padded = min(2 * channels, _CHANNELS)  # gsplat has kernels for some numbers of channels only, and pads to the next
    _check_size(batch * height * width * padded < _NUMBERS, batch, height, width)
    from gsplat.cuda._wrapper import rasterize_to_pixels

    passes = [
        rasterize_to_pixels(shapes.means, shapes.conics, part, shapes.opacities, width, height, TILE, *tiles)
        for part in colors.split(_CHANNELS, -1)
    ]
    pictures, alphas = zip(*passes, strict=True)
    return torch.cat(pictures, -1).movedim(-1, 1).contiguous(), alphas[0].movedim(-1, 1).contiguous()


@torch.no_grad()
def _strongest(shapes: _Shapes, tiles: _Tiles, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Sorted position (-1 for none) and weight of the strongest splat of each pixel, int32 and float `[B, H, W]`.

    The kernels of gsplat return sums alone. Therefore torch composites the lists again, many tiles at a time.
    """
    batch, rows, columns = tiles.offsets.shape
    if not len(tiles.splats):
        weight = shapes.opacities.new_zeros(batch, height, width)
        return torch.full_like(weight, -1, dtype=torch.int32), weight
    means, conics, opacities = (tensor.flatten(0, 1) for tensor in shapes)
    starts = tiles.offsets.flatten().long()
    lengths = pad(starts[1:], (0, 1), value=len(tiles.splats)) - starts
    at_once = max(1, _OWNER_NUMBERS // (TILE * TILE * int(lengths.max())))
    found = []
    for tile in torch.arange(len(starts), device=starts.device).split(at_once):  # [T]
        place = torch.arange(max(1, int(lengths[tile].max())), device=starts.device)  # [L]
        splats = tiles.splats[(starts[tile, None] + place).clamp_max(len(tiles.splats) - 1)].long()  # [T, L]
        visible = opacities[splats] * (place < lengths[tile, None])
        weights = _weights(means[splats], conics[splats], visible, _pixel_centres(tile, rows, columns))
        weight, strongest = weights.max(-1)  # [T, P]; the first of equals
        position = splats.gather(1, strongest) % shapes.opacities.shape[1]
        found.append((position.where(weight > 0, -1).int(), weight))
    owner, weight = (_join_tiles(torch.cat(part), batch, rows, columns) for part in zip(*found, strict=True))
    return owner[:, :height, :width], weight[:, :height, :width]


def _join_tiles(values: Tensor, batch: int, rows: int, columns: int) -> Tensor:
    """Join the values `[T, P]` of the pixels of all tiles to pictures `[B, rows * TILE, columns * TILE]`."""
    return values.view(batch, rows, columns, TILE, TILE).transpose(2, 3).reshape(batch, rows * TILE, columns * TILE)


def _pixel_centres(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """Centres (x, y) in px of the pixels of tiles `[T]`, numbered through the batch: `[T, TILE * TILE, 2]`."""
    corners = TILE * torch.stack([tiles % columns, tiles // columns % rows], -1)  # [T, 2]
    inside = torch.arange(TILE * TILE, device=tiles.device)
    return corners[:, None] + torch.stack([inside % TILE, inside // TILE], -1) + 0.5


def _weights(means: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor) -> Tensor:
    """Weights `[T, P, L]` of the listed splats `[T, L, ...]` of tiles, nearest first, in their pixels `[T, P, 2]`."""
    dx, dy = (means[:, None] - pixels[:, :, None]).unbind(-1)  # [T, P, L]
    a, b, c = conics[:, None].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[:, None] * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    alpha = alpha.where((sigma >= 0) & (alpha >= ALPHA_MIN), 0.0)
    after = (1 - alpha).cumprod(-1)
    before = pad(after[..., :-1], (1, 0), value=1.0)
    return (alpha * before).where(after > TRANSMITTANCE_MIN, 0.0)
