# mypy: allow-untyped-defs
"""The CPU backend: the numba kernels of `kernels.py` as one differentiable torch operation, on several threads.

Bands of rows are the unit of parallel work, and gradients are summed band by band in a fixed order, so results are
bitwise the same for any number of threads and any way of splitting a batch. Pictures that are not whole tiles are
padded and cropped around the kernels.

Threads are Python threads running kernels that release the interpreter lock: nothing spins between calls, nothing
fights torch's own threads, and small scenes run on the calling thread without paying for any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gmae_tools.splatting.kernels import (
    BAND_TILES,
    GEOMETRY,
    TILE,
    apply_chain_rule,
    bin_splats,
    composite,
    composite_backward,
    pack,
)

# Below these, threads cost more than they bring:
_SMALL_SCENE = 8000  # pairs of splat and tile to composite
_FEW_SPLATS = 2000  # splats of all images to prepare


class Scene(NamedTuple):
    """Depth-sorted splats of a batch as the kernels want them, contiguous.

    `shape` holds (centre x, centre y, a/2, b, c/2, -log(opacity)) for every splat, `[B, K, 6]`; -log(opacity) is
    infinite for splats that can never be seen. `colors` is `[B, K, C]`; `group` gives the group of every drawn
    position `[<= K]`.
    """

    shape: np.ndarray
    colors: np.ndarray
    group: np.ndarray


class Bins(NamedTuple):
    """For one image: visits `starts[t]` to `starts[t + 1]` belong to tile t (row-major), nearest splat first.

    `splats` holds the sorted position, `rows` the first and one past the last row of the tile that the splat
    reaches.
    """

    starts: np.ndarray
    splats: np.ndarray
    rows: np.ndarray


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="splatting")


def _run(jobs: Iterable[Callable[[], None]], threads: int) -> None:
    """Run jobs on up to `threads` threads, this one included; the first exception is raised."""
    waiting = list(jobs)
    queue = iter(waiting)

    def work() -> None:
        for job in queue:  # a list iterator hands out each item once, under the interpreter lock
            job()

    helpers = [_pool(threads - 1).submit(work) for _ in range(min(threads, len(waiting)) - 1)]
    work()
    for helper in helpers:
        helper.result()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def _new(*shape: int) -> Tensor:
    """A tensor for a kernel to fill. Torch's default dtype and device are the caller's: the kernels know one only."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _tiles(length: int) -> int:
    return -(-length // TILE)


def _bands(height: int) -> int:
    return -(-_tiles(height) // BAND_TILES)


def _whole_tiles(pictures: Tensor) -> Tensor:
    """Pictures `[..., H, W]` padded with zeros to whole tiles; themselves if nothing is missing."""
    height, width = pictures.shape[-2:]
    missing = (0, -width % TILE, 0, -height % TILE)
    return pad(pictures, missing) if any(missing) else pictures


def _spans(batch: int, bands: int, threads: int) -> list[tuple[int, tuple[int, int]]]:
    """Work items (image, bands): whole images where there are enough of them for the threads."""
    if threads == 1 or batch >= 4 * threads:
        return [(image, (0, bands)) for image in range(batch)]
    return [(image, (band, band + 1)) for image in range(batch) for band in range(bands)]


def _threads_for(bins: list[Bins]) -> int:
    visits = sum(b.splats.size for b in bins)
    return 1 if visits < _SMALL_SCENE else torch.get_num_threads()


def _prepare(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    order: np.ndarray,
    group_sizes: tuple[int, ...],
    height: int,
    width: int,
) -> tuple[Scene, list[Bins]]:
    """Sort, pack and bin the splats of a batch; only the first sum(group_sizes) in depth order are drawn."""
    inputs = [_array(tensor) for tensor in (means, conics, colors, opacities)]
    group = np.repeat(np.arange(len(group_sizes), dtype=np.int32), group_sizes)
    scene = Scene(np.empty((*order.shape, 6), np.float32), np.empty(colors.shape, np.float32), group)
    bins: dict[int, Bins] = {}

    def job(image: int) -> None:
        shape = scene.shape[image]
        pack(*(array[image] for array in inputs), order[image], shape, scene.colors[image])
        bins[image] = Bins(*bin_splats(shape, group.size, _tiles(width), _tiles(height)))

    images = range(order.shape[0])
    _run((partial(job, image) for image in images), 1 if order.size < _FEW_SPLATS else torch.get_num_threads())
    return scene, [bins[image] for image in images]


def _gradients(sums: np.ndarray, order: np.ndarray, conics: Tensor, opacities: Tensor) -> tuple[Tensor, ...]:
    """Gradients of means, conics, colors and opacities from `sums [B, bands, K, 6 + C]`, which it uses up."""
    sizes = ((2,), (3,), (sums.shape[-1] - GEOMETRY,), ())
    results = [np.empty((*order.shape, *size), np.float32) for size in sizes]
    inputs = [order, _array(conics), _array(opacities), *results]
    for image in range(order.shape[0]):
        apply_chain_rule(sums[image], *(array[image] for array in inputs))
    return tuple(torch.from_numpy(result).to(conics.dtype) for result in results)


class _Composite(torch.autograd.Function):
    """The kernels as a differentiable operation; see `composite_splats` for the arguments."""

    @staticmethod
    def forward(
        ctx,
        means,
        conics,
        colors,
        opacities,
        background,
        order,
        height,
        width,
        group_sizes,
        alpha_max,
        owners,
    ):
        scene, bins = _prepare(means, conics, colors, opacities, order, group_sizes, height, width)
        batch, channels, groups = order.shape[0], colors.shape[2], len(group_sizes)
        size = (_tiles(height) * TILE, _tiles(width) * TILE)
        images = _new(batch, groups, channels, *size)
        alphas = _new(batch, groups, *size)
        owner, owner_weight = _new(2, batch, *(size if owners else (0, 0)))
        outputs = [tensor.numpy() for tensor in (images, alphas, owner, owner_weight)]
        shine, cap = _array(background), np.float32(alpha_max)

        def job(image: int, span: tuple[int, int]) -> None:
            splats = (scene.shape[image], scene.colors[image], scene.group, *bins[image])
            composite(*splats, cap, span, shine[image], *(array[image] for array in outputs))

        threads = _threads_for(bins)
        _run((partial(job, *span) for span in _spans(batch, _bands(height), threads)), threads)
        images, alphas, owner, owner_weight = (
            picture[..., :height, :width].contiguous() for picture in (images, alphas, owner, owner_weight)
        )
        alphas, owner = alphas[:, :, None], owner.int()
        ctx.scene, ctx.bins, ctx.order, ctx.cap = scene, bins, order, cap
        ctx.save_for_backward(conics, opacities, background, images, alphas)
        ctx.mark_non_differentiable(owner, owner_weight)
        return images, alphas, owner, owner_weight

    @staticmethod
    def backward(ctx, grad_images, grad_alphas, _grad_owner, _grad_owner_weight):
        conics, opacities, background, images, alphas = ctx.saved_tensors
        scene, bins, order = ctx.scene, ctx.bins, ctx.order
        batch, _, channels, height, _ = images.shape
        sums = np.zeros((batch, _bands(height), order.shape[1], GEOMETRY + channels), np.float32)
        pictures = (images, alphas[:, :, 0], grad_images, grad_alphas[:, :, 0])
        arrays = [*(_array(_whole_tiles(picture)) for picture in pictures), sums]

        def job(image: int, span: tuple[int, int]) -> None:
            splats = (scene.shape[image], scene.colors[image], scene.group, *bins[image])
            composite_backward(*splats, ctx.cap, span, *(array[image] for array in arrays))

        threads = _threads_for(bins)
        _run((partial(job, *span) for span in _spans(batch, _bands(height), threads)), threads)
        grad_background = None
        if ctx.needs_input_grad[4]:  # it shines through what all groups leave
            left = 1 - alphas[:, :, 0].sum(1)
            grad_background = torch.einsum("bchw,bhw->bc", grad_images[:, -1], left).to(background.dtype)
        return *_gradients(sums, order, conics, opacities), grad_background, *(None,) * 6


def composite_splats(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    order: Tensor,
    height: int,
    width: int,
    group_sizes: tuple[int, ...],
    alpha_max: float,
    owners: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Composite unsorted splats on the CPU; differentiable in the first five arguments.

    What lies on a GPU is copied, and the results are copied back.

    Args:
        means `[B, K, 2]`, conics `[B, K, 3]`, colors `[B, K, C]`, opacities `[B, K]`: as in `Splats`, finite.
        background: `[B, C]`, added to the last group.
        order: `[B, K]` indices that sort by depth.
        group_sizes: sizes of consecutive groups in depth order; splats beyond their sum are not drawn.
        alpha_max: cap of a splat's alpha, at most 1.
        owners: whether to find each pixel's strongest splat.

    Returns:
        images `[B, S, C, H, W]`, alphas `[B, S, 1, H, W]`, owner `[B, H, W]` (sorted position of the strongest splat,
        -1 for none, int32) and owner_weight `[B, H, W]` (both empty unless wanted); float32 but for owner.
    """
    inputs = [tensor.cpu() for tensor in (means, conics, colors, opacities, background)]
    results = _Composite.apply(*inputs, order.cpu().numpy(), height, width, group_sizes, alpha_max, owners)
    images, alphas, owner, weight = (result.to(means.device) for result in results)
    return images, alphas, owner, weight
