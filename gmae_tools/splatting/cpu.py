"""The CPU backend: numba kernels that composite sorted 2-D splats in 16-px tiles, and their analytic gradients.

How it is laid out. `bin_splats` lists, for every tile, the splats whose visible ellipse touches it, nearest first. A
*band* is `_BAND_TILES` rows of tiles; bands are the unit of parallel work, and gradients are summed band by band in a fixed
order, so results are bitwise the same for any number of threads and any way of splitting a batch.

Threads are Python threads running kernels that release the interpreter lock: nothing spins between calls, nothing fights
torch's own threads, and small scenes run on the calling thread without paying for any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from gmae_tools.splatting.simd import LANES, empty_rows, full, lane_numbers, lane_sum, load, store, where

TILE = LANES  # a row of a tile is one vector
_BAND_TILES = 4
_MIN_ALPHA = np.float32(1 / 255)
_MIN_TRANSMITTANCE = np.float32(1e-4)
_CUTOFF = np.float32(math.log(255))  # alpha >= 1/255 means -log(alpha) <= this
_CULL = np.float32(math.log(255) + 1e-3)  # culling stays on the safe side of rounding
_SMALL_SCENE = 3000  # (splat, tile) pairs below which threads cost more than they bring
_GEOMETRY = 6  # sums kept a splat for the gradients of mean, conic and opacity

# Contraction allows fused multiply-add. NaN and infinity keep their meaning: comparisons with them leave a pixel dark.
_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
_INLINE = {**_OPTIONS, "cache": False, "inline": "always"}


class Scene(NamedTuple):
    """Depth-sorted splats of a batch as the kernels want them, contiguous.

    `shape` holds (centre x, centre y, a/2, b, c/2, -log(opacity), half height of the visible ellipse) for every splat,
    `[B, K, 7]`; `colors` is `[B, K, C]`; `group` gives the group of every drawn position `[<= K]`.
    """

    shape: np.ndarray
    colors: np.ndarray
    group: np.ndarray


class Bins(NamedTuple):
    """For one image: `splats[starts[t]:starts[t + 1]]` are the sorted positions that touch tile t (row-major)."""

    starts: np.ndarray
    splats: np.ndarray


@njit(**_INLINE)
def _exp_minus(depth):
    """exp(-depth), relative error below 2e-6 where 0 <= depth <= log(255), above 1 where depth < 0.

    The eighth power of a minimax polynomial for exp(-depth / 8).
    """
    p = full(-1.7888673068405693e-07) * depth + 9.716052129938061e-06
    p = p * depth + -0.0003241949294212432
    p = p * depth + 0.007810715288453336
    p = p * depth + -0.12499909960308057
    p = p * depth + 0.9999999238550694
    p = p * p
    p = p * p
    return p * p


@njit(**_OPTIONS)
def _pack_shapes(means, conics, opacities, order, shape):
    """Fill `Scene.shape` of one image in depth order. Splats that can never be seen get half height -1."""
    for position in range(order.shape[0]):
        k = order[position]
        a, b, c = conics[k, 0], conics[k, 1], conics[k, 2]
        opacity = opacities[k]
        row = shape[position]
        row[0], row[1] = means[k, 0], means[k, 1]
        row[2], row[3], row[4] = np.float32(0.5) * a, b, np.float32(0.5) * c
        row[5], row[6] = np.float32(0), np.float32(-1)
        determinant = np.float64(a) * c - np.float64(b) * b
        if opacity >= _MIN_ALPHA and a > 0 and determinant > 0:
            row[5] = -math.log(opacity)
            row[6] = math.sqrt(2 * (_CULL - row[5]) * a / determinant)


@njit(**_INLINE)
def _tile_index(pixel, tiles):
    """Tile that holds a pixel coordinate, clipped to -1..tiles so that far-away splats do not overflow an integer."""
    return int(math.floor(min(max(pixel / TILE, -1.0), float(tiles))))


@njit(**_OPTIONS)
def _visit_tiles(shape, drawn, tiles_x, tiles_y, counts, splats, fill):
    """Count (fill False) or list (fill True) the splats that touch each tile.

    A row of tiles is crossed by the ellipse {sigma <= cutoff} between the extreme x it reaches inside the row: found in
    closed form, so that slanted needles enter only the tiles they cross. `counts` holds the next free slot when filling.
    """
    for position in range(drawn):
        half_height = np.float64(shape[position, 6])
        if half_height < 0:
            continue
        x, y = np.float64(shape[position, 0]), np.float64(shape[position, 1])
        a, b, c = (
            2 * np.float64(shape[position, 2]),
            np.float64(shape[position, 3]),
            2 * np.float64(shape[position, 4]),
        )
        level = 2 * (np.float64(_CULL) - shape[position, 5])
        determinant = a * c - b * b
        half_width = math.sqrt(level * c / determinant)
        first_row = max(_tile_index(y - half_height, tiles_y), 0)
        last_row = min(_tile_index(y + half_height, tiles_y), tiles_y - 1)
        for row in range(first_row, last_row + 1):
            top = max(row * TILE - y, -half_height)
            bottom = min((row + 1) * TILE - y, half_height)
            root_top = math.sqrt(max(0.0, a * level - determinant * top * top))
            root_bottom = math.sqrt(max(0.0, a * level - determinant * bottom * bottom))
            right = max((-b * top + root_top) / a, (-b * bottom + root_bottom) / a)
            left = min((-b * top - root_top) / a, (-b * bottom - root_bottom) / a)
            rightmost_at = -b * half_width / c
            if top <= rightmost_at <= bottom:
                right = half_width
            if top <= -rightmost_at <= bottom:
                left = -half_width
            first = max(_tile_index(x + left, tiles_x), 0)
            last = min(_tile_index(x + right, tiles_x), tiles_x - 1)
            for column in range(first, last + 1):
                tile = row * tiles_x + column
                if fill:
                    splats[counts[tile]] = position
                counts[tile] += 1


@njit(**_OPTIONS)
def bin_splats(shape, drawn, tiles_x, tiles_y):
    """`Bins` of one image: starts `[tiles + 1]` and sorted positions, for its first `drawn` splats."""
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    nothing = np.empty(0, np.int32)
    _visit_tiles(shape, drawn, tiles_x, tiles_y, starts[1:], nothing, False)
    for tile in range(tiles_x * tiles_y):
        starts[tile + 1] += starts[tile]
    splats = np.empty(starts[-1], np.int32)
    _visit_tiles(shape, drawn, tiles_x, tiles_y, starts[:-1].copy(), splats, True)
    return starts, splats


@njit(**_INLINE)
def _row_span(y, half_height, top, rows):
    """First and one past the last of a tile's `rows` pixel rows that a splat can reach."""
    first = math.floor(y - half_height - top - np.float32(0.5))
    last = math.ceil(y + half_height - top - np.float32(0.5))
    return int(max(first, np.float32(0))), int(min(last, np.float32(rows - 1))) + 1


@njit(**_INLINE)
def _row_is_dark(a, b_dy, rest, slope_dy, dx_first):
    """True if a splat is invisible along a whole row of the tile (dx falls from `dx_first` by 15)."""
    nearest = min(max(slope_dy, dx_first - np.float32(TILE - 1)), dx_first)
    return (a * nearest + b_dy) * nearest + rest > _CULL


@njit(**_INLINE)
def _write_group(images, alphas, index, total, left, left_before, background, top, side, rows, columns):
    """Store what one group contributed to a tile and make ready for the next; the last one gets the background."""
    groups, channels = images.shape[:2]
    for channel in range(channels):
        shine = background[channel] if index == groups - 1 else np.float32(0)
        for y in range(rows):
            for x in range(columns):
                images[index, channel, top + y, side + x] = (
                    total[y * channels + channel, x] + left[y, x] * shine
                )
    for y in range(rows):
        for x in range(columns):
            alphas[index, top + y, side + x] = left_before[y, x] - left[y, x]
    total[:] = np.float32(0)
    left_before[:] = left


@njit(**_INLINE)
def _all_dark(light):
    """True if no pixel of a tile can take more light."""
    brightest = load(light, 0)
    for y in range(1, TILE):
        brightest = max(brightest, load(light, y))
    return lane_sum(brightest) == np.float32(0)


@njit(**_OPTIONS)
def composite(shape, colors, group, starts, splats, alpha_max, background, first_band, last_band, images, alphas, owner, owner_weight):  # fmt: skip  # noqa: E501
    """Composite the tiles of bands [first_band, last_band) of one image, front to back.

    Args:
        shape, colors, group: one image of a `Scene`; starts, splats: its `Bins`.
        background: `[C]`, added to the last group with the transmittance that is left.
        images `[S, C, H, W]`, alphas `[S, H, W]`: written: what each group contributes.
        owner `[H, W]`, owner_weight `[H, W]`: written unless empty: the splat of the largest weight, and the weight.
    """
    groups, channels, height, width = images.shape
    tiles_x = (width + TILE - 1) // TILE
    light = empty_rows(TILE)  # transmittance; 0 once a pixel is finished
    left = empty_rows(TILE)  # transmittance that goes on to the background
    left_before = empty_rows(TILE)  # `left` where the current group began
    total = empty_rows(TILE * channels)
    best = empty_rows(TILE)
    best_at = empty_rows(TILE)  # positions as floats: exact up to 2^24
    want_owner = owner.size > 0
    for tile in range(
        first_band * _BAND_TILES * tiles_x, min(last_band * _BAND_TILES * tiles_x, starts.size - 1)
    ):
        top, side = tile // tiles_x * TILE, tile % tiles_x * TILE
        rows, columns = min(TILE, height - top), min(TILE, width - side)
        light[:] = np.float32(1)
        left[:] = np.float32(1)
        left_before[:] = np.float32(1)
        total[:] = np.float32(0)
        best[:] = np.float32(0)
        best_at[:] = -1
        current = 0
        for visit in range(starts[tile], starts[tile + 1]):
            position = splats[visit]
            while current < group[position]:
                _write_group(
                    images, alphas, current, total, left, left_before, background, top, side, rows, columns
                )
                current += 1
            center_y, half_height = shape[position, 1], shape[position, 6]
            a, b, c, offset = shape[position, 2], shape[position, 3], shape[position, 4], shape[position, 5]
            dx_first, slope = shape[position, 0] - np.float32(side + 0.5), np.float32(-0.5) * b / a
            dx = dx_first - lane_numbers()
            first, end = _row_span(center_y, half_height, np.float32(top), rows)
            for y in range(first, end):
                dy = center_y - np.float32(top + y + 0.5)
                b_dy, rest = b * dy, c * dy * dy + offset
                if _row_is_dark(a, b_dy, rest, slope * dy, dx_first):
                    continue
                depth = (a * dx + b_dy) * dx + rest  # -log(alpha)
                alpha = min(_exp_minus(depth), alpha_max)
                alpha = where((depth >= offset) & (depth <= _CUTOFF), alpha, 0.0)
                here = load(light, y)
                after = here - here * alpha
                lit = after > _MIN_TRANSMITTANCE
                weight = where(lit, alpha * here, 0.0)
                store(light, y, where(lit, after, 0.0))
                store(left, y, where(lit, after, load(left, y)))
                for channel in range(channels):
                    at = y * channels + channel
                    store(total, at, load(total, at) + weight * colors[position, channel])
                if want_owner:
                    stronger = weight > load(best, y)
                    store(best, y, where(stronger, weight, load(best, y)))
                    store(best_at, y, where(stronger, np.float32(position), load(best_at, y)))
            if (visit & 15) == 15 and _all_dark(light):
                break
        while current < groups:
            _write_group(
                images, alphas, current, total, left, left_before, background, top, side, rows, columns
            )
            current += 1
        if want_owner:
            for y in range(rows):
                for x in range(columns):
                    owner[top + y, side + x] = best_at[y, x]
                    owner_weight[top + y, side + x] = best[y, x]


@njit(**_INLINE)
def _load_group(grad_images, grad_alphas, index, grad, grad_alpha, top, side, rows, columns):
    """Bring the upstream gradients of one group for one tile into cache."""
    channels = grad_images.shape[1]
    for y in range(rows):
        for x in range(columns):
            grad_alpha[y, x] = grad_alphas[index, top + y, side + x]
        for channel in range(channels):
            for x in range(columns):
                grad[y * channels + channel, x] = grad_images[index, channel, top + y, side + x]


@njit(**_INLINE)
def _remainder(images, alphas, grad_images, grad_alphas, remainder, top, side, rows, columns):
    """Per pixel: the whole picture's product with its upstream gradient, background included."""
    groups, channels = images.shape[:2]
    for y in range(rows):
        for x in range(columns):
            value = np.float32(0)
            for index in range(groups):
                value += alphas[index, top + y, side + x] * grad_alphas[index, top + y, side + x]
                for channel in range(channels):
                    value += (
                        images[index, channel, top + y, side + x]
                        * grad_images[index, channel, top + y, side + x]
                    )
            remainder[y, x] = value


@njit(**_OPTIONS)
def composite_backward(shape, colors, group, starts, splats, alpha_max, first_band, last_band, images, alphas, grad_images, grad_alphas, sums):  # fmt: skip  # noqa: E501
    """Add to `sums[band] [K, 6 + C]` what the tiles of each band contribute to the gradients of the sorted splats.

    The six geometric sums are those of v, v dx, v dy, v dx^2, v dx dy, v dy^2, where v = dL/dsigma of a pixel; the rest is
    dL/dcolor. Walking front to back needs one scalar a pixel: the product of what is still to come with the upstream
    gradient starts as (picture . gradient) and loses each splat's share as it passes, so that
    dL/dalpha = T (color . gradient) - remainder / (1 - alpha).
    """
    groups, channels, height, width = images.shape
    tiles_x = (width + TILE - 1) // TILE
    light, remainder = empty_rows(TILE), empty_rows(TILE)
    grad, grad_alpha = empty_rows(TILE * channels), empty_rows(TILE)
    grad[:] = np.float32(0)
    grad_alpha[:] = np.float32(0)
    sum_color = empty_rows(channels)
    for tile in range(
        first_band * _BAND_TILES * tiles_x, min(last_band * _BAND_TILES * tiles_x, starts.size - 1)
    ):
        top, side = tile // tiles_x * TILE, tile % tiles_x * TILE
        rows, columns = min(TILE, height - top), min(TILE, width - side)
        into = sums[tile // tiles_x // _BAND_TILES]
        light[:] = np.float32(0)  # pixels outside the picture stay dark
        light[:rows, :columns] = np.float32(1)
        remainder[:] = np.float32(0)
        _remainder(images, alphas, grad_images, grad_alphas, remainder, top, side, rows, columns)
        current = -1
        for visit in range(starts[tile], starts[tile + 1]):
            position = splats[visit]
            if group[position] != current:
                current = group[position]
                _load_group(grad_images, grad_alphas, current, grad, grad_alpha, top, side, rows, columns)
            center_y, half_height = shape[position, 1], shape[position, 6]
            a, b, c, offset = shape[position, 2], shape[position, 3], shape[position, 4], shape[position, 5]
            dx_first, slope = shape[position, 0] - np.float32(side + 0.5), np.float32(-0.5) * b / a
            dx = dx_first - lane_numbers()
            first, end = _row_span(center_y, half_height, np.float32(top), rows)
            sum_v, sum_v_dy, sum_v_dy2 = full(0.0), full(0.0), full(0.0)
            for channel in range(channels):
                store(sum_color, channel, 0.0)
            for y in range(first, end):
                dy = center_y - np.float32(top + y + 0.5)
                b_dy, rest = b * dy, c * dy * dy + offset
                if _row_is_dark(a, b_dy, rest, slope * dy, dx_first):
                    continue
                product = load(grad_alpha, y)
                for channel in range(channels):
                    product = product + load(grad, y * channels + channel) * colors[position, channel]
                depth = (a * dx + b_dy) * dx + rest
                peak = _exp_minus(depth)
                alpha = where((depth >= offset) & (depth <= _CUTOFF), min(peak, alpha_max), 0.0)
                here = load(light, y)
                after = here - here * alpha
                lit = after > _MIN_TRANSMITTANCE
                weight = where(lit, alpha * here, 0.0)
                behind = load(remainder, y) - weight * product
                store(light, y, where(lit, after, 0.0))
                store(remainder, y, behind)
                d_alpha = here * product - behind / (1.0 - alpha)
                v = where(lit & (peak <= alpha_max), alpha * d_alpha, 0.0)
                sum_v = sum_v - v
                sum_v_dy = sum_v_dy - v * dy
                sum_v_dy2 = sum_v_dy2 - v * (dy * dy)
                for channel in range(channels):
                    share = weight * load(grad, y * channels + channel)
                    store(sum_color, channel, load(sum_color, channel) + share)
            into[position, 0] += lane_sum(sum_v)
            into[position, 1] += lane_sum(sum_v * dx)
            into[position, 2] += lane_sum(sum_v_dy)
            into[position, 3] += lane_sum(sum_v * dx * dx)
            into[position, 4] += lane_sum(sum_v_dy * dx)
            into[position, 5] += lane_sum(sum_v_dy2)
            for channel in range(channels):
                into[position, _GEOMETRY + channel] += lane_sum(load(sum_color, channel))
            if (visit & 15) == 15 and _all_dark(light):
                break


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="splatting")


def _run(jobs: Iterable[Callable[[], None]], threads: int) -> None:
    """Run jobs on `threads` threads, this one included; the first exception is raised."""
    if threads == 1:
        for job in jobs:
            job()
        return
    queue = iter(list(jobs))

    def work() -> None:
        for job in queue:  # a list iterator hands out each item once, under the interpreter lock
            job()

    helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        helper.result()


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def _bands(height: int) -> int:
    return -(-height // (TILE * _BAND_TILES))


def _spans(batch: int, bands: int, threads: int) -> list[tuple[int, int, int]]:
    """Work items (image, first band, last band): whole images where there are enough of them for the threads."""
    if threads == 1 or batch >= 4 * threads:
        return [(image, 0, bands) for image in range(batch)]
    return [(image, band, band + 1) for image in range(batch) for band in range(bands)]


def _prepare(means: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, order: np.ndarray, group_sizes: tuple[int, ...], height: int, width: int) -> tuple[Scene, list[Bins]]:  # fmt: skip  # noqa: E501
    """Sort, pack and bin the splats of a batch; only the first sum(group_sizes) in depth order are drawn."""
    shape = np.empty((*order.shape, 7), np.float32)
    plain = (_array(means), _array(conics), _array(opacities))
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    bins = []
    for image in range(order.shape[0]):
        _pack_shapes(*(array[image] for array in plain), order[image], shape[image])
        bins.append(Bins(*bin_splats(shape[image], sum(group_sizes), tiles_x, tiles_y)))
    sorted_colors = np.take_along_axis(_array(colors), order[..., None], axis=1)
    group = np.repeat(np.arange(len(group_sizes), dtype=np.int32), group_sizes)
    return Scene(shape, sorted_colors, group), bins


def _threads_for(bins: list[Bins]) -> int:
    pairs = sum(len(b.splats) for b in bins)
    return 1 if pairs < _SMALL_SCENE else torch.get_num_threads()


class _Composite(torch.autograd.Function):
    """The kernels as a differentiable operation; see `composite_splats` for the arguments."""

    @staticmethod
    def forward(ctx, means, conics, colors, opacities, background, order, height, width, group_sizes, alpha_max, owners):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
        scene, bins = _prepare(means, conics, colors, opacities, order, group_sizes, height, width)
        batch, channels, groups = order.shape[0], colors.shape[2], len(group_sizes)
        images = np.empty((batch, groups, channels, height, width), np.float32)
        alphas = np.empty((batch, groups, 1, height, width), np.float32)
        owner = np.empty((batch, height, width) if owners else (batch, 0, 0), np.int32)
        owner_weight = np.empty(owner.shape, np.float32)
        shine = _array(background)
        cap = np.float32(alpha_max)

        def job(image: int, first: int, last: int) -> None:
            composite(scene.shape[image], scene.colors[image], scene.group, *bins[image], cap, shine[image], first, last,
                      images[image], alphas[image, :, 0], owner[image], owner_weight[image])  # fmt: skip

        threads = _threads_for(bins)
        _run((lambda span=span: job(*span) for span in _spans(batch, _bands(height), threads)), threads)
        found = owner >= 0  # from sorted positions back to the caller's indices; -1 stays
        owner[found] = order[np.nonzero(found)[0], owner[found]]
        ctx.scene, ctx.bins, ctx.order, ctx.cap = scene, bins, order, cap
        results = tuple(torch.from_numpy(array) for array in (images, alphas, owner, owner_weight))
        ctx.save_for_backward(conics, opacities, background, *results[:2])
        ctx.mark_non_differentiable(*results[2:])
        return results

    @staticmethod
    def backward(ctx, grad_images, grad_alphas, _owner, _weight):  # type: ignore[no-untyped-def]
        conics, opacities, background, images, alphas = ctx.saved_tensors
        scene, bins, order = ctx.scene, ctx.bins, ctx.order
        batch, _, channels, height, _ = images.shape
        bands = _bands(height)
        sums = np.zeros((batch, bands, order.shape[1], _GEOMETRY + channels), np.float32)
        arrays = tuple(_array(t) for t in (images, alphas[:, :, 0], grad_images, grad_alphas[:, :, 0]))

        def job(image: int, first: int, last: int) -> None:
            composite_backward(scene.shape[image], scene.colors[image], scene.group, *bins[image], ctx.cap, first, last,
                               *(array[image] for array in arrays), sums[image])  # fmt: skip

        threads = _threads_for(bins)
        _run((lambda span=span: job(*span) for span in _spans(batch, bands, threads)), threads)
        unsorted = np.empty((batch, order.shape[1], _GEOMETRY + channels), np.float32)
        np.put_along_axis(unsorted, order[..., None], sums.sum(axis=1), axis=1)
        gradients = _geometry_gradients(torch.from_numpy(unsorted), conics, opacities)
        # The background shines through what all groups leave.
        through = 1 - alphas[:, :, 0].sum(1)
        grad_background = torch.einsum("bchw,bhw->bc", grad_images[:, -1], through).to(background.dtype)
        return *gradients, grad_background, None, None, None, None, None, None


def _geometry_gradients(sums: Tensor, conics: Tensor, opacities: Tensor) -> tuple[Tensor, ...]:
    """Gradients of means, conics, colors, opacities from the sums of `composite_backward` in the caller's order."""
    v, v_dx, v_dy, v_dx2, v_dxdy, v_dy2 = sums[..., :_GEOMETRY].unbind(-1)
    a, b, c = conics.unbind(-1)
    means = torch.stack([a * v_dx + b * v_dy, b * v_dx + c * v_dy], -1)
    shapes = torch.stack([0.5 * v_dx2, v_dxdy, 0.5 * v_dy2], -1)
    peaks = -v / opacities.clamp_min(1e-12)  # v is 0 where a splat is invisible
    colors = sums[..., _GEOMETRY:].contiguous()
    return means.to(conics.dtype), shapes.to(conics.dtype), colors.to(conics.dtype), peaks.to(opacities.dtype)


def composite_splats(means: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, background: Tensor, order: Tensor, height: int, width: int, group_sizes: tuple[int, ...], alpha_max: float, owners: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip  # noqa: E501
    """Composite unsorted splats on the CPU; differentiable in the first five arguments.

    Args:
        means `[B, K, 2]`, conics `[B, K, 3]`, colors `[B, K, C]`, opacities `[B, K]`: as in `Splats`, finite.
        background: `[B, C]`, added to the last group.
        order: `[B, K]` indices that sort by depth.
        group_sizes: sizes of consecutive groups in depth order; splats beyond their sum are not drawn.
        alpha_max: cap of a splat's alpha.
        owners: whether to find each pixel's strongest splat.

    Returns:
        images `[B, S, C, H, W]`, alphas `[B, S, 1, H, W]`, owner `[B, H, W]` int32, owner_weight `[B, H, W]`
        (the last two empty unless wanted), all float32 but owner.
    """
    return _Composite.apply(  # type: ignore[no-any-return,no-untyped-call]
        means,
        conics,
        colors,
        opacities,
        background,
        order.numpy(),
        height,
        width,
        group_sizes,
        alpha_max,
        owners,
    )
