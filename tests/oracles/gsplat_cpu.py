"""gsplat's CUDA operations on the CPU, so that what is built on gsplat can be tested without a GPU.

gsplat 1.5.3 brings references in PyTorch for most of its operations. Two things they need are missing: one CUDA
operation, which lists the splats that each pixel composites, and nerfacc's compositing along rays. Both are stood in
for below, by what their documentation and source say they do.

`install` puts the references where gsplat's own Python functions call the compiled ones; so their checks of shapes and
their padding of channels run as on a GPU. What the compiled ones check themselves (layout, types) is checked here.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
from gsplat.cuda import _torch_impl, _wrapper
from torch import Tensor

KERNEL_CHANNELS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
SHARED_MEMORY = 99 << 10  # bytes a block that a GPU of compute capability 8.6 or 8.9 has for the backward kernel


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gsplat draw on the CPU for the length of a test."""
    nerfacc = types.ModuleType("nerfacc")
    nerfacc.render_weight_from_alpha = render_weight_from_alpha  # type: ignore[attr-defined]
    nerfacc.accumulate_along_rays = accumulate_along_rays  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nerfacc", nerfacc)
    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_func", OPERATIONS.__getitem__)


def check(tensor: Tensor, dtype: torch.dtype) -> None:
    """What the compiled operations ask of every tensor."""
    assert tensor.is_contiguous() and tensor.dtype == dtype


# ---------------------------------------------------------------- the operations


def intersect_tile(
    means: Tensor, radii: Tensor, depths: Tensor, image_ids: None, gaussian_ids: None,
    images: int, tile: int, columns: int, rows: int, sort: bool, segmented: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    assert means.ndim == 3 and image_ids is gaussian_ids is None and sort and not segmented
    assert len(means) == images
    for tensor, dtype in ((means, torch.float32), (radii, torch.int32), (depths, torch.float32)):
        check(tensor, dtype)
    return _torch_impl._isect_tiles(means, radii, depths, tile, columns, rows)


def intersect_offset(keys: Tensor, images: int, columns: int, rows: int) -> Tensor:
    check(keys, torch.int64)
    return _torch_impl._isect_offset_encode(keys, images, columns, rows)


def rasterize_forward(
    means: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None, masks: None,
    width: int, height: int, tile: int, offsets: Tensor, splats: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    assert masks is None
    for tensor in (means, conics, colors, opacities):
        check(tensor, torch.float32)
    for tensor in (offsets, splats):
        check(tensor, torch.int32)
    assert colors.shape[-1] in KERNEL_CHANNELS
    assert tile * tile * (4 + 12 + 12 + 4 * colors.shape[-1]) <= SHARED_MEMORY, "too many channels for most GPUs"
    images, alphas = _torch_impl._rasterize_to_pixels(
        means, conics, colors, opacities, width, height, tile, offsets, splats, backgrounds=backgrounds
    )
    return images, alphas, torch.zeros_like(alphas[..., 0], dtype=torch.int32)


def rasterize_backward(
    means: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None, masks: None,
    width: int, height: int, tile: int, offsets: Tensor, splats: Tensor, _alphas: Tensor, _last: Tensor,
    grad_images: Tensor, grad_alphas: Tensor, absgrad: bool,
) -> tuple[None, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    assert not absgrad
    for tensor in (grad_images, grad_alphas):
        check(tensor, torch.float32)
    leaves = [tensor.detach().requires_grad_() for tensor in (means, conics, colors, opacities)]
    with torch.enable_grad():
        images, alphas, _ = rasterize_forward(*leaves, backgrounds, masks, width, height, tile, offsets, splats)
        loss = (images * grad_images).sum() + (alphas * grad_alphas).sum()
    if not loss.requires_grad:  # no splat anywhere
        return None, *(torch.zeros_like(leaf) for leaf in leaves)
    return None, *torch.autograd.grad(loss, leaves)


@torch.no_grad()
def rasterize_to_indices(
    start: int, _end: int, transmittances: Tensor, means: Tensor, conics: Tensor, opacities: Tensor,
    width: int, height: int, tile: int, offsets: Tensor, splats: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A splat and a pixel, counted through the batch, for all that pixels composite: pixel by pixel, nearest first."""
    assert start == 0, "one step is enough for these scenes"
    count, columns = means.shape[1], offsets.shape[-1]
    ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(splats)])])
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = []
    for image in range(len(means)):
        for number in range(offsets[image].numel()):
            row, column = divmod(number, columns)
            here = (ys // tile == row) & (xs // tile == column)
            x, y, light = xs[here], ys[here], transmittances[image][here]
            listed = splats[offsets[image, row, column] : ends[image * offsets[0].numel() + number]].long()
            listed -= image * count
            dx, dy = (torch.stack([x, y], -1)[:, None] + 0.5 - means[image, listed]).unbind(-1)  # [pixels, listed]
            a, b, c = conics[image, listed].unbind(-1)
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = (opacities[image, listed] * torch.exp(-sigma)).clamp(max=0.999)
            seen = (sigma >= 0) & (alpha >= 1 / 255)
            after = light[:, None] * torch.cumprod(1 - alpha.where(seen, 0.0), 1)
            pixel, place = (seen & (after > 1e-4)).nonzero(as_tuple=True)
            found.append(torch.stack([listed[place], image * height * width + (y * width + x)[pixel]]))
    pairs = torch.cat(found, 1)
    ids, pixels = pairs[:, pairs[1].argsort(stable=True)]
    return ids, pixels


OPERATIONS = {
    "intersect_tile": intersect_tile,
    "intersect_offset": intersect_offset,
    "rasterize_to_pixels_3dgs_fwd": rasterize_forward,
    "rasterize_to_pixels_3dgs_bwd": rasterize_backward,
    "rasterize_to_indices_3dgs": rasterize_to_indices,
}


# ---------------------------------------------------------------- nerfacc


def render_weight_from_alpha(alphas: Tensor, *, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """alpha times the light that the earlier samples of the ray leave; samples come sorted by ray."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    place = torch.arange(len(alphas)) - (counts.cumsum(0) - counts)[ray_indices]
    padded = alphas.new_zeros(n_rays, int(counts.max()) + 1).index_put((ray_indices, place + 1), alphas)
    light = (1 - padded).cumprod(-1)[ray_indices, place]
    return alphas * light, light


def accumulate_along_rays(weights: Tensor, values: Tensor | None, *, ray_indices: Tensor, n_rays: int) -> Tensor:
    weighted = weights[:, None] if values is None else weights[:, None] * values
    return weighted.new_zeros(n_rays, weighted.shape[-1]).index_add(0, ray_indices, weighted)
