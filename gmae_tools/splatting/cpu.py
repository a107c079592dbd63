# mypy: allow-untyped-defs
"""The CPU backend: the numba kernels of `kernels.py` as one differentiable torch operation, on several threads.

Work is divided into bands of rows, and gradients are summed band by band in a fixed order. Results therefore have the
same bits for any number of threads and any division of a batch. The kernels know whole tiles only, so pictures of other
sizes are padded before and cropped after them.

The threads are Python threads, because the kernels release the interpreter lock. They do not spin between calls and do
not compete with the threads of torch. Small scenes run on the calling thread alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gmae_tools.camera import Splats
from gmae_tools.splatting.kernels import (
    BAND_TILES,
    GEOMETRY,
    apply_chain_rule,
    bin_splats,
    composite,
    composite_backward,
    pack,
)
from gmae_tools.splatting.rules import TILE, RasterOptions
from gmae_tools.system.kernels import is_compiled

log = logging.getLogger(__name__)

# Smaller numbers are processed on one thread, which is then faster than several.
_SMALL_SCENE = 8000  # pairs of splat and tile to composite
_FEW_SPLATS = 2000  # splats of all images to prepare


class SortedSplats(NamedTuple):
    """Depth-sorted splats of a batch in the layout of the kernels, contiguous.

    Attributes:
        shape: (centre x, centre y, a/2, b, c/2, -log(opacity)) of every splat, `[B, K, 6]`. The last value is infinite
            for splats that are invisible everywhere.
        colors: Colours `[B, K, C]`.
        group: Group of every rendered position `[<= K]`.
    """

    shape: np.ndarray
    colors: np.ndarray
    group: np.ndarray


class Bins(NamedTuple):
    """The splats that touch each tile of one image, as a list of visits, tile by tile.

    Attributes:
        starts: Visits `starts[t]` to `starts[t + 1]` belong to tile t (row-major), nearest splat first.
        splats: Sorted position of the splat of each visit.
        rows: The first row of the tile that the splat reaches, and one past the last row.
    """

    starts: np.ndarray
    splats: np.ndarray
    rows: np.ndarray


@lru_cache
def _announce() -> None:
    """Log, once in a process, that the kernels have to be compiled."""
    if not is_compiled(composite):
        log.warning("compiling the CPU renderer for this processor; this takes half a minute, but only the first time")


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="splatting")


def _run(jobs: Iterable[Callable[[], None]], threads: int) -> None:
    """Run jobs on up to `threads` threads, including this one; raises the first exception."""
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
    """An empty tensor for a kernel, of fixed dtype and device, because the caller may have changed torch's defaults."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _tiles(length: int) -> int:
    return -(-length // TILE)


def _bands(height: int) -> int:
    return -(-_tiles(height) // BAND_TILES)


def _whole_tiles(pictures: Tensor) -> Tensor:
    """Pictures `[..., H, W]` padded with zeros to whole tiles; unchanged if they are whole tiles."""
    height, width = pictures.shape[-2:]
    missing = (0, -width % TILE, 0, -height % TILE)
    return pad(pictures, missing) if any(missing) else pictures


def _spans(batch: int, bands: int, threads: int) -> list[tuple[int, tuple[int, int]]]:
    """Work items (image, bands): whole images if there are enough of them for the threads."""
    if threads == 1 or batch >= 4 * threads:
        return [(image, (0, bands)) for image in range(batch)]
    return [(image, (band, band + 1)) for image in range(batch) for band in range(bands)]


def _threads_for(bins: list[Bins]) -> int:
    visits = sum(b.splats.size for b in bins)
    return 1 if visits < _SMALL_SCENE else torch.get_num_threads()


def _prepare(tensors: tuple[Tensor, ...], order: np.ndarray, options: RasterOptions) -> tuple[SortedSplats, list[Bins]]:
    """Sort, pack and bin the splats of a batch, of which the first sum(group_sizes) in depth order are rendered.

    `tensors` are means, conics, colors and opacities, which the indices `order` `[B, K]` sort by depth.
    """
    inputs = [_array(tensor) for tensor in tensors]
    sizes = options.group_sizes
    group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    scene = SortedSplats(np.empty((*order.shape, 6), np.float32), np.empty(inputs[2].shape, np.float32), group)
    columns, rows = _tiles(options.width), _tiles(options.height)
    bins: dict[int, Bins] = {}

    def job(image: int) -> None:
        shape = scene.shape[image]
        pack(*(array[image] for array in inputs), order[image], shape, scene.colors[image])
        bins[image] = Bins(*bin_splats(shape, group.size, columns, rows))

    images = range(order.shape[0])
    _run((partial(job, image) for image in images), 1 if order.size < _FEW_SPLATS else torch.get_num_threads())
    return scene, [bins[image] for image in images]


def _gradients(
    sums: np.ndarray, order: np.ndarray, conics: Tensor, opacities: Tensor, temperature: float | None
) -> tuple[Tensor | None, ...]:
    """Gradients of means, conics, colors, opacities and depths (None without a temperature of the order).

    They are made of `sums` of `composite_backward`, which are overwritten: `[B, bands, K, 6 + C]`; with a temperature
    `[B, bands, K, 6 + C + 1]`. `order` `[B, K]` sorts the splats by depth.
    """
    channels = sums.shape[-1] - GEOMETRY - (temperature is not None)
    sizes = ((2,), (3,), (channels,), (), () if temperature else (0,))
    results = [np.empty((*order.shape, *size), np.float32) for size in sizes]
    inputs = [order, _array(conics), _array(opacities), *results]
    for image in range(order.shape[0]):
        apply_chain_rule(sums[image], *(array[image] for array in inputs))
    *gradients, depths = (torch.from_numpy(result).to(conics.dtype) for result in results)
    return *gradients, None if temperature is None else depths / temperature


class _Composite(torch.autograd.Function):
    """The kernels as a differentiable operation; see `composite_splats` for the arguments."""

    @staticmethod
    def forward(ctx, means, conics, colors, opacities, depths, background, plan):
        order, options = plan
        scene, bins = _prepare((means, conics, colors, opacities), order, options)
        height, width = options.height, options.width
        batch, channels, groups = order.shape[0], colors.shape[2], len(options.group_sizes)
        size = (_tiles(height) * TILE, _tiles(width) * TILE)
        images = _new(batch, groups, channels, *size)
        alphas = _new(batch, groups, *size)
        owner, owner_weight = _new(2, batch, *(size if options.owners else (0, 0)))
        outputs = [tensor.numpy() for tensor in (images, alphas, owner, owner_weight)]
        behind, cap = _array(background), np.float32(options.alpha_max)

        def job(image: int, span: tuple[int, int]) -> None:
            splats = (scene.shape[image], scene.colors[image], scene.group, *bins[image])
            composite(*splats, cap, span, behind[image], *(array[image] for array in outputs))

        threads = _threads_for(bins)
        _run((partial(job, *span) for span in _spans(batch, _bands(height), threads)), threads)
        images, alphas, owner, owner_weight = (
            picture[..., :height, :width].contiguous() for picture in (images, alphas, owner, owner_weight)
        )
        alphas, owner = alphas[:, :, None], owner.int()
        ctx.scene, ctx.bins, ctx.order, ctx.cap, ctx.temperature = scene, bins, order, cap, options.order_temperature
        ctx.save_for_backward(conics, opacities, depths, background, images, alphas)
        ctx.mark_non_differentiable(owner, owner_weight)
        return images, alphas, owner, owner_weight

    @staticmethod
    def backward(ctx, grad_images, grad_alphas, _grad_owner, _grad_owner_weight):
        conics, opacities, depths, background, images, alphas = ctx.saved_tensors
        scene, bins, order = ctx.scene, ctx.bins, ctx.order
        temperature = ctx.temperature if ctx.needs_input_grad[4] else None
        batch, _, channels, height, _ = images.shape
        kept = GEOMETRY + channels + (temperature is not None)
        sums = np.zeros((batch, _bands(height), order.shape[1], kept), np.float32)
        pictures = (images, alphas[:, :, 0], grad_images, grad_alphas[:, :, 0])
        arrays = [*(_array(_whole_tiles(picture)) for picture in pictures), sums]
        sorted_depths: list[None] | np.ndarray = [None] * batch
        quarter = np.float32(0)
        if temperature is not None:
            sorted_depths = np.take_along_axis(_array(depths), order, 1)
            quarter = np.float32(0.25 / temperature)

        def job(image: int, span: tuple[int, int]) -> None:
            splats = (scene.shape[image], scene.colors[image], scene.group, *bins[image])
            by_order = (sorted_depths[image], quarter)
            composite_backward(*splats, ctx.cap, span, *by_order, *(array[image] for array in arrays))

        threads = _threads_for(bins)
        _run((partial(job, *span) for span in _spans(batch, _bands(height), threads)), threads)
        grad_background = None
        if ctx.needs_input_grad[5]:  # the light that all groups leave reaches the background
            left = 1 - alphas[:, :, 0].sum(1)
            grad_background = torch.einsum("bchw,bhw->bc", grad_images[:, -1], left).to(background.dtype)
        return *_gradients(sums, order, conics, opacities, temperature), grad_background, None


def composite_splats(
    splats: Splats, background: Tensor, order: Tensor, options: RasterOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Composite unsorted splats on the CPU; differentiable in the splats and the background.

    Tensors on a GPU are copied, and the results are copied back. Depths get a gradient only with an
    `order_temperature`.

    Args:
        splats: Finite splats in any order.
        background: Colours `[B, C]`, added to the last group.
        order: Indices `[B, K]` that sort by depth.
        options: Size, groups and rules.

    Returns:
        images `[B, S, C, H, W]`, alphas `[B, S, 1, H, W]`, owner `[B, H, W]` (sorted position of the strongest splat,
        -1 for none, int32) and owner_weight `[B, H, W]` (both empty unless wanted); float32 but for owner.
    """
    _announce()
    tensors = (splats.means, splats.conics, splats.colors, splats.opacities, splats.depths, background)
    results = _Composite.apply(*(tensor.cpu() for tensor in tensors), (order.cpu().numpy(), options))
    images, alphas, owner, weight = (result.to(background.device) for result in results)
    return images, alphas, owner, weight
