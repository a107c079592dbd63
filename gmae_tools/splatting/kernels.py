# mypy: allow-untyped-defs
"""numba kernels of the CPU backend: they composite sorted 2-D splats in tiles of 16 px, and compute gradients.

`bin_splats` lists, for every tile, the splats whose visible ellipse touches it, nearest first. `composite` and
`composite_backward` process the tiles of a few bands; a band is `BAND_TILES` rows of tiles. A tile is composited row by
row, and a row of 16 pixels is one vector of `simd.py`. All pictures are whole tiles.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gmae_tools.splatting import rules, simd
from gmae_tools.splatting.rules import ALPHA_MIN, CUTOFF, TILE, TRANSMITTANCE_MIN
from gmae_tools.splatting.simd import empty_rows, full, lane_numbers, lane_sum, load, store, where
from gmae_tools.system.kernels import kernel

BAND_TILES = 4
GEOMETRY = 6  # sums kept a splat for the gradients of mean, conic and opacity
_FARTHEST = CUTOFF  # in units of four temperatures; the probability that splats so far apart change places is about 0
_MIN_ALPHA = np.float32(ALPHA_MIN)
_MIN_TRANSMITTANCE = np.float32(TRANSMITTANCE_MIN)
_CUTOFF = np.float32(CUTOFF)
_CULL = CUTOFF + 1e-3  # so that rounding culls no visible splat
# Rounding may make the conic of a very long needle one of a hyperbola; such a needle touches the tiles of a stripe.
_ROUNDED = 1 + 1e-5  # bound of the error of the products a c and b^2
_LEAST_DETERMINANT = 1e-12  # least determinant of a conic, as a share of a c

# `contract` allows fused multiply-add. NaN and infinity keep their meaning, because comparisons with them decide.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
_INLINE = {**_OPTIONS, "inline": "always"}
_compiled = kernel(depends_on=(rules, simd), **_OPTIONS)


@_compiled
def pack(means, conics, colors, opacities, order, shape, sorted_colors):
    """Fill `SortedSplats.shape` and `SortedSplats.colors` of one image in depth order."""
    for position in range(order.size):
        k = order[position]
        row = shape[position]
        row[0], row[1] = means[k, 0], means[k, 1]
        row[2], row[3], row[4] = np.float32(0.5) * conics[k, 0], conics[k, 1], np.float32(0.5) * conics[k, 2]
        is_ellipse = row[2] > 0 and _ROUNDED * np.float64(row[2]) * row[4] > 0.25 * np.float64(row[3]) * row[3]
        row[5] = -math.log(opacities[k]) if is_ellipse and opacities[k] >= _MIN_ALPHA else np.inf
        for channel in range(colors.shape[1]):
            sorted_colors[position, channel] = colors[k, channel]


@njit(**_INLINE)
def _reach(a, b, c, level, low, high):
    """Least and greatest x of the ellipse a x^2 + 2 b x y + c y^2 <= level within low <= y <= high."""
    determinant = max(a * c - b * b, _LEAST_DETERMINANT * a * c)
    half_width, half_height = math.sqrt(level * c / determinant), math.sqrt(level * a / determinant)
    middle, rightmost_at = -b / a, -b * half_width / c
    widest, narrowing = level / a, determinant / (a * a)  # of the squared half chord at height y
    low, high = max(low, -half_height), min(high, half_height)
    half_low = math.sqrt(max(0.0, widest - narrowing * low * low))
    half_high = math.sqrt(max(0.0, widest - narrowing * high * high))
    least = min(middle * low - half_low, middle * high - half_high)
    greatest = max(middle * low + half_low, middle * high + half_high)
    return (
        -half_width if low <= -rightmost_at <= high else least,
        half_width if low <= rightmost_at <= high else greatest,
    )


@njit(**_INLINE)
def _span(low, high, count):
    """The first of the `count` unit intervals from 0 on that low..high touches, and one past the last."""
    return math.floor(min(max(low, 0.0), float(count))), math.floor(min(max(high + 1.0, 0.0), float(count)))


@_compiled
def _visit_tiles(shape, drawn, tiles_x, tiles_y, slots, splats, rows, fill):
    """Count (fill False) or list (fill True) the splats that touch each tile; each adds 1 to `slots[tile]`.

    The bounds of the ellipse {sigma <= cutoff} are computed in double precision for every row of tiles and for the rows
    of pixels of every tile, so that slanted needles are listed only for the tiles that they cross.
    """
    for position in range(drawn):
        level = _CULL - np.float64(shape[position, 5])
        if level <= 0:
            continue
        x, y = np.float64(shape[position, 0]), np.float64(shape[position, 1])
        a, b, c = np.float64(shape[position, 2]), 0.5 * shape[position, 3], np.float64(shape[position, 4])
        half_height = math.sqrt(level * a / max(a * c - b * b, _LEAST_DETERMINANT * a * c))
        first_row, end_row = _span((y - half_height) / TILE, (y + half_height) / TILE, tiles_y)
        for tile_y in range(first_row, end_row):
            top = tile_y * TILE - y
            left, right = _reach(a, b, c, level, top, top + TILE)
            first_column, end_column = _span((x + left) / TILE, (x + right) / TILE, tiles_x)
            for tile_x in range(first_column, end_column):
                tile = tile_y * tiles_x + tile_x
                if fill:
                    slot, side = slots[tile], tile_x * TILE - x
                    upper, lower = _reach(c, b, a, level, side, side + TILE)
                    splats[slot] = position
                    rows[slot, 0], rows[slot, 1] = _span(upper - top - 0.5, lower - top - 0.5, TILE)
                slots[tile] += 1


@_compiled
def bin_splats(shape, drawn, tiles_x, tiles_y):
    """`Bins` of one image, for its first `drawn` splats."""
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    splats, rows = np.empty(0, np.int32), np.empty((0, 2), np.uint8)
    _visit_tiles(shape, drawn, tiles_x, tiles_y, starts[1:], splats, rows, False)
    for tile in range(tiles_x * tiles_y):
        starts[tile + 1] += starts[tile]
    splats, rows = np.empty(starts[-1], np.int32), np.empty((starts[-1], 2), np.uint8)
    _visit_tiles(shape, drawn, tiles_x, tiles_y, starts[:-1].copy(), splats, rows, True)
    return starts, splats, rows


@njit(**_INLINE)
def _enter_tile(splat, top, side):
    """dx `[x]`, dy of the first row, and c, b dx and a dx^2 - log(opacity), of which -log(alpha) is composed.

    -log(alpha) = (c dy + b dx) dy + (a dx^2 - log(opacity)).
    """
    dx = splat[0] - np.float32(side + 0.5) - lane_numbers()
    return dx, splat[1] - np.float32(top + 0.5), splat[4], splat[3] * dx, splat[2] * dx * dx + splat[5]


@njit(**_INLINE)
def _exp_minus(depth):
    """exp(-depth) with a relative error below 2e-6 where 0 <= depth <= log(255); above 1 where depth < 0.

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


@njit(**_INLINE)
def _absorb(light, depth, offset, alpha_max):
    """The effect of a splat on a row of pixels.

    Args:
        light: Light that reaches the splat `[x]`.
        depth: -log(alpha) before the cap `[x]`.
        offset: The value of `depth` at the centre of the splat.
        alpha_max: Cap of alpha.

    Returns:
        Alpha before the cap; alpha after it, 0 where the splat is invisible; the remaining light; and where enough
        light remains for the splat to count.
    """
    peak = _exp_minus(depth)
    alpha = where((depth >= offset) & (depth <= _CUTOFF), min(peak, alpha_max), 0.0)
    after = light - light * alpha
    return peak, alpha, after, after > _MIN_TRANSMITTANCE


@njit(**_INLINE)
def _all_finished(light):
    """Whether no pixel of a tile has light left."""
    brightest = full(0.0)
    for y in range(TILE):
        brightest = max(brightest, load(light, y))
    return lane_sum(brightest) == np.float32(0)


@njit(**_INLINE)
def _write_group(images, alphas, group, top, side, total, light, light_before, background):
    """Store the contribution of one group to a tile, and prepare the next group; the last one gets the background."""
    groups, channels = images.shape[:2]
    for y in range(TILE):
        left = load(light, y)
        left = max(left, 0.0 - left)
        store(alphas, (group, top + y, side), load(light_before, y) - left)
        store(light_before, y, left)
        for channel in range(channels):
            value = load(total, y * channels + channel)
            if group == groups - 1:
                value = value + left * background[channel]
            store(images, (group, channel, top + y, side), value)
            store(total, y * channels + channel, 0.0)


@_compiled
def composite(
    shape, colors, group, starts, splats, rows, alpha_max, bands, background, images, alphas, owner, owner_weight
):
    """Composite the tiles of bands [bands[0], bands[1]) of one image, front to back.

    Args:
        shape, colors, group: One image of a `SortedSplats`.
        starts, splats, rows: The `Bins` of the image.
        alpha_max: Cap of alpha.
        bands: The first band, and one past the last.
        background: Colour `[C]`, added to the last group with the remaining transmittance.
        images, alphas: Output: the contribution of each group, `[S, C, H, W]` and `[S, H, W]`, in whole tiles.
        owner, owner_weight: Output unless empty: sorted position (as a float, exact up to 2^24; -1 for none) and weight
            of the splat with the largest weight, `[H, W]`.
    """
    groups, channels, _, width = images.shape
    tiles_x = width // TILE
    light = empty_rows(TILE)  # transmittance; negative once a pixel is finished
    light_before = empty_rows(TILE)  # where the current group began
    total = empty_rows(TILE * channels)
    total[:] = np.float32(0)
    for tile in range(bands[0] * BAND_TILES * tiles_x, min(bands[1] * BAND_TILES * tiles_x, starts.size - 1)):
        top, side = tile // tiles_x * TILE, tile % tiles_x * TILE
        light[:] = np.float32(1)
        light_before[:] = np.float32(1)
        if owner.size > 0:
            owner[top : top + TILE, side : side + TILE] = np.float32(-1)
            owner_weight[top : top + TILE, side : side + TILE] = np.float32(0)
        current = 0
        for visit in range(starts[tile], starts[tile + 1]):
            position = splats[visit]
            while current < group[position]:
                _write_group(images, alphas, current, top, side, total, light, light_before, background)
                current += 1
            offset = shape[position, 5]
            _, dy_first, c, b_dx, a_dx2 = _enter_tile(shape[position], top, side)
            for y in range(rows[visit, 0], rows[visit, 1]):
                dy = full(dy_first - np.float32(y))
                left = load(light, y)
                here = max(left, 0.0)
                _, alpha, after, lit = _absorb(here, (dy * c + b_dx) * dy + a_dx2, offset, alpha_max)
                weight = where(lit, alpha * here, 0.0)
                store(light, y, where(lit, after, min(left, 0.0 - left)))
                for channel in range(channels):
                    at = y * channels + channel
                    store(total, at, load(total, at) + weight * colors[position, channel])
                if owner.size > 0:
                    best = load(owner_weight, (top + y, side))
                    best_at = load(owner, (top + y, side))
                    store(owner_weight, (top + y, side), max(weight, best))
                    store(owner, (top + y, side), where(weight > best, np.float32(position), best_at))
            if (visit & 15) == 15 and _all_finished(light):
                break
        for index in range(current, groups):
            _write_group(images, alphas, index, top, side, total, light, light_before, background)


@njit(**_INLINE)
def _load_group(grad_images, grad_alphas, group, top, side, grad, grad_alpha):
    """Copy the upstream gradients of one group and one tile, so that they lie close together in memory."""
    channels = grad_images.shape[1]
    for y in range(TILE):
        store(grad_alpha, y, load(grad_alphas, (group, top + y, side)))
        for channel in range(channels):
            store(grad, y * channels + channel, load(grad_images, (group, channel, top + y, side)))


@njit(**_INLINE)
def _set_remainder(images, alphas, grad_images, grad_alphas, top, side, remainder):
    """Set `remainder` to the product of each pixel, background included, with its upstream gradient."""
    groups, channels = images.shape[:2]
    for y in range(TILE):
        product = full(0.0)
        for group in range(groups):
            at = (group, top + y, side)
            product = product + load(alphas, at) * load(grad_alphas, at)
            for channel in range(channels):
                here = (group, channel, top + y, side)
                product = product + load(images, here) * load(grad_images, here)
        store(remainder, y, product)


@njit(**_INLINE)
def _exchange(apart):
    """Slope of the probability that a splat lies behind another, times the temperature of the order.

    The logistic function s of u = 4 `apart` has the slope s(u) s(-u) = (h / (1 + h^2))^2 with h = exp(-u / 2).
    """
    half = _exp_minus(min(max(apart, 0.0), _FARTHEST))
    half = half * half
    root = half / (half * half + 1.0)
    return root * root


@njit(**_INLINE)
def _add_order_sums(starts, splats, rows, tile, end, shares, ahead, into, column):
    """Add the gradient of the order of the visits before `end` of a tile, back to front.

    At each pixel a splat loses its own share to the visible splat in front of it, and gains the share of the one behind
    it, which `ahead` holds for each pixel.
    """
    ahead[:] = np.float32(0)
    for visit in range(end - 1, starts[tile] - 1, -1):
        total = full(0.0)
        for y in range(rows[visit, 0], rows[visit, 1]):
            share, gain = load(shares, (visit - starts[tile]) * TILE + y), load(ahead, y)
            visible = share <= share  # not where it is NaN
            total = total + where(visible, gain - share, 0.0)
            store(ahead, y, where(visible, share, gain))
        into[splats[visit], column] += lane_sum(total)


@_compiled
def composite_backward(
    shape,
    colors,
    group,
    starts,
    splats,
    rows,
    alpha_max,
    bands,
    depths,
    quarter,
    images,
    alphas,
    grad_images,
    grad_alphas,
    sums,
):
    """Add the contributions of the tiles of each band to the gradients of the sorted splats, `sums[band] [K, 6 + C]`.

    The six geometric sums are those of v, v dx, v dy, v dx^2, v dx dy, v dy^2, where v = dL/dsigma of a pixel; the
    others are dL/dcolor. Tiles are processed front to back with one number per pixel, the remainder: the product of the
    splats behind with the upstream gradient. It starts as (picture . gradient), and each splat subtracts its share, so
    that dL/dalpha = T (color . gradient) - remainder / (1 - alpha).

    With `depths` there is one more sum, the temperature times dL/ddepth. If two neighbours at a pixel changed places,
    i from behind j to its front, the pixel would change by T_j alpha_j alpha_i (color_i - color_j). The product of that
    with the upstream gradient and the slope of the probability of the change is the share that i loses and j gains. The
    splat j differs from pixel to pixel, so shares are kept and added in a pass back to front through the tile's list.

    Args:
        shape, colors, group, starts, splats, rows, alpha_max, bands: Arguments of `composite`.
        depths: Depths of the sorted splats, float32 `[K]`; None for no gradient of the order.
        quarter: 1 / (4 temperature), float32.
        images, alphas: Results of `composite`.
        grad_images, grad_alphas: Upstream gradients of both.
        sums: Output, `[bands, K, 6 + C]`, with `depths` `[bands, K, 6 + C + 1]`.
    """
    _, channels, _, width = images.shape
    tiles_x = width // TILE
    light = empty_rows(TILE)  # transmittance; 0 once a pixel is finished
    remainder = empty_rows(TILE)
    grad, grad_alpha = empty_rows(TILE * channels), empty_rows(TILE)
    sum_color = empty_rows(channels)
    if depths is not None:
        longest = 0
        for tile in range(bands[0] * BAND_TILES * tiles_x, min(bands[1] * BAND_TILES * tiles_x, starts.size - 1)):
            longest = max(longest, starts[tile + 1] - starts[tile])
        shares = empty_rows(longest * TILE)  # of the rows of each visit; NaN where the splat is invisible
        ahead = empty_rows(TILE)
        # Weight, product with the upstream gradient, and depth of the last visible splat of each pixel.
        last_weight, last_product, last_depth = empty_rows(TILE), empty_rows(TILE), empty_rows(TILE)
    for tile in range(bands[0] * BAND_TILES * tiles_x, min(bands[1] * BAND_TILES * tiles_x, starts.size - 1)):
        top, side = tile // tiles_x * TILE, tile % tiles_x * TILE
        into = sums[tile // tiles_x // BAND_TILES]
        light[:] = np.float32(1)
        _set_remainder(images, alphas, grad_images, grad_alphas, top, side, remainder)
        if depths is not None:
            last_weight[:], last_product[:], last_depth[:] = np.float32(0), np.float32(0), np.float32(0)
        current, end = -1, starts[tile]
        for visit in range(starts[tile], starts[tile + 1]):
            position = splats[visit]
            if group[position] != current:
                current = group[position]
                _load_group(grad_images, grad_alphas, current, top, side, grad, grad_alpha)
            offset = shape[position, 5]
            dx, dy_first, c, b_dx, a_dx2 = _enter_tile(shape[position], top, side)
            sum_v, sum_v_dy, sum_v_dy2 = (
                full(0.0),
                full(0.0),
                full(0.0),
            )  # dx differs by lane and is multiplied at the end
            for channel in range(channels):
                store(sum_color, channel, 0.0)
            for y in range(rows[visit, 0], rows[visit, 1]):
                product = load(grad_alpha, y)
                for channel in range(channels):
                    product = product + load(grad, y * channels + channel) * colors[position, channel]
                dy = full(dy_first - np.float32(y))
                here = load(light, y)
                peak, alpha, after, lit = _absorb(here, (dy * c + b_dx) * dy + a_dx2, offset, alpha_max)
                weight = where(lit, alpha * here, 0.0)
                behind = load(remainder, y) - weight * product
                store(light, y, where(lit, after, 0.0))
                store(remainder, y, behind)
                d_alpha = here * product - behind / (1.0 - alpha)
                if depths is not None:
                    visible = lit & (alpha > 0.0)
                    before, product_before, depth_before = (
                        load(last_weight, y),
                        load(last_product, y),
                        load(last_depth, y),
                    )
                    apart = (full(depths[position]) - depth_before) * quarter
                    share = _exchange(apart) * before * alpha * (product - product_before)
                    store(shares, (visit - starts[tile]) * TILE + y, where(visible, share, np.nan))
                    store(last_weight, y, where(visible, weight, before))
                    store(last_product, y, where(visible, product, product_before))
                    store(last_depth, y, where(visible, full(depths[position]), depth_before))
                v = where(lit & (peak <= alpha_max), alpha * d_alpha, 0.0)
                sum_v = sum_v - v
                sum_v_dy = sum_v_dy - v * dy
                sum_v_dy2 = sum_v_dy2 - v * dy * dy
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
                into[position, GEOMETRY + channel] += lane_sum(load(sum_color, channel))
            end = visit + 1
            if (visit & 15) == 15 and _all_finished(light):
                break
        if depths is not None:
            _add_order_sums(starts, splats, rows, tile, end, shares, ahead, into, GEOMETRY + channels)


@_compiled
def apply_chain_rule(sums, order, conics, opacities, to_means, to_conics, to_colors, to_opacities, to_depths):
    """Write the gradients of the splats of one image, in the caller's order, given `sums [bands, K, 6 + C]`.

    If `to_depths` is not empty, its gradient is one more sum, `sums [bands, K, 6 + C + 1]`.
    """
    for position in range(order.size):
        k = order[position]
        for band in range(1, sums.shape[0]):
            for index in range(sums.shape[2]):
                sums[0, position, index] += sums[band, position, index]
        total = sums[0, position]
        a, b, c = conics[k, 0], conics[k, 1], conics[k, 2]
        to_means[k, 0], to_means[k, 1] = a * total[1] + b * total[2], b * total[1] + c * total[2]
        to_conics[k, 0], to_conics[k, 1], to_conics[k, 2] = total[3] / 2, total[4], total[5] / 2
        to_opacities[k] = -total[0] / max(opacities[k], _MIN_ALPHA)  # the sum is 0 where a splat is invisible
        for channel in range(to_colors.shape[1]):
            to_colors[k, channel] = total[GEOMETRY + channel]
        if to_depths.size > 0:
            to_depths[k] = total[GEOMETRY + to_colors.shape[1]]
