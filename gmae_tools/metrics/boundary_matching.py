"""Exact minimum-cost matching of two boundary maps, kept optimal while pixels come and go.

The problem is that of the BSDS benchmark (`match.cc` behind `correspondPixels`): a predicted and a
ground-truth pixel may be matched when they are at most `max_distance` apart, at a cost of round(100 *
distance); every match saves one outlier, which costs ceil(100 * 100 * max_distance). In practice the number
of matches comes first and their length second.

The official solver attaches random outlier links and is not reproducible, and even the exact problem has
many equally good solutions, which match different predicted pixels. Here every pair of pixels also carries
a tiny cost of its own (`_tie`), a fixed function of the two positions, too small to change which solutions
are best: that leaves one solution, whichever way it is reached.

So it may be reached step by step. From one threshold to the next only a part of the thinned map changes; a
pixel that comes or goes is one shortest augmenting path on reduced costs (the Hungarian method on the
sparse graph), which rarely leads further than a few pixels. The dual values stay feasible throughout: where
a match of p and q is worth saving - cost(p, q),

    dual[p] + dual[q] >= saving - cost(p, q), with equality where p and q are matched;
    dual[p] >= 0, with equality where p is unmatched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.kernels import kernel

Array = np.ndarray

DISTANCE_UNITS = 100  # a distance of 1 px costs 100, rounded (match.cc: multiplier)
OUTLIER_DISTANCE = 100  # an outlier costs 100 times as much as the largest distance (correspondPixels.cc)

# Costs are integers shifted left by _SHIFT bits; below lies the pair's own tie-breaking cost of _TIE_BITS
# bits. Solutions that differ in up to 2 ** (_SHIFT - _TIE_BITS) = 4,096 pairs cannot trade a unit of
# distance for it.
_SHIFT = 40
_TIE_BITS = 28
_MAX_OUTLIER_COST = 1 << 21  # keeps the sum of two dual values within 63 bits; a distance of 209 px

PREDICTION, TRUTH = 0, 1  # the two sides of the matching

# Steps whose pixels are found by the bits of a word: all up to 4.24 px, so that with each there is the one back. The
# benchmark at BSDS's size has no others.
_NEAR = 61
_at = np.uint64  # of an index that is not negative, so that numba does not test for one that counts from the end
_ONE = np.uint64(1)


class Reach(NamedTuple):
    """Which pixels may be matched: those one of `steps` [K] away in the flattened map, the nearest first."""

    steps: Array  # int64 [K]
    costs: Array  # int64 [K]: 100 per pixel of distance, shifted left by _SHIFT bits
    back: Array  # uint64 [min(K, _NEAR)]: the bit in `Matching.around` of the opposite of a step
    saving: int  # what a match saves, its cost not yet counted; in the same unit


class Matching(NamedTuple):
    """Two sets of pixels of a flattened map of N pixels and their best matching; axis 0 is the side."""

    present: Array  # bool [2, N]
    partner: Array  # int32 [2, N]: the pixel of the other side it is matched to, or -1
    dual: Array  # int64 [2, N]
    around: Array  # uint64 [2, N]: bit k of a present pixel: whether the other side is present at its step k < _NEAR


class Scratch(NamedTuple):
    """Memory of one search, [N] each; between searches `distance` is _FAR and `slot` -1 everywhere."""

    distance: Array  # int64: length of the shortest alternating path to a pixel of the other side
    parent: Array  # int32: the pixel of the start's side before it on that path
    heap: Array  # int32: pixels of the other side, the nearest first
    slot: Array  # int32: place in the heap
    touched: Array  # int32: pixels with a finite distance


_FAR = np.iinfo(np.int64).max


def margin(max_distance: float) -> int:
    """Return the number of pixels of padding that a map needs on every side, so that no step leaves it."""
    return int(max_distance) + 1


def reach(max_distance: float, stride: int) -> Reach:
    """Return the steps between pixels that are at most `max_distance` px apart in a map with `stride` pixels a row.

    Raises:
        GmaeToolsError: the distance is too large for the range of the costs.
    """
    outlier_cost = int(np.ceil(OUTLIER_DISTANCE * max_distance * DISTANCE_UNITS))
    if outlier_cost > _MAX_OUTLIER_COST:
        raise GmaeToolsError(f"matching over {max_distance:.0f} px is too far: lower the distance or the image size")
    radius = int(max_distance)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    squared = rows**2 + columns**2
    near = np.argsort(squared, kind="stable")
    near = near[squared[near] <= max_distance**2]
    costs = np.rint(DISTANCE_UNITS * np.sqrt(squared[near])).astype(np.int64)
    steps = (rows * stride + columns)[near].astype(np.int64)
    opposite = np.empty(len(steps), np.uint64)
    opposite[np.argsort(-steps)] = np.argsort(steps)
    return Reach(steps, costs << _SHIFT, _ONE << opposite[:_NEAR], outlier_cost << _SHIFT)


def empty_matching(size: int) -> Matching:
    """Return a matching of two empty sets in a map of `size` pixels."""
    shape = (2, size)
    return Matching(
        np.zeros(shape, bool), np.full(shape, -1, np.int32), np.zeros(shape, np.int64), np.zeros(shape, np.uint64)
    )


def scratch(size: int) -> Scratch:
    """Allocate the memory for searches in a map of `size` pixels."""
    heap, slot, parent, touched = np.full((4, size), -1, np.int32)
    return Scratch(np.full(size, _FAR), parent, heap, slot, touched)


@kernel(inline="always")
def _tie(prediction: int, truth: int) -> int:
    """The own cost of a pair of flat indices, in [0, 2 ** _TIE_BITS): a multiplicative hash."""
    mixed = np.uint64(prediction) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(truth) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return int(mixed >> np.uint64(64 - _TIE_BITS))


@kernel(inline="always")
def _tie_of(side: int, pixel: int, other: int) -> int:
    """The own cost of a pixel of a side and one of the other side."""
    if side == PREDICTION:
        return int(_tie(pixel, other))
    return int(_tie(other, pixel))


@intrinsic
def _lowest_bit(_typing: Any, word: Any) -> Any:
    """The number of the lowest bit that is set in a word that is not 0."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), build


@kernel()
def _resolve(start: int, side: int, matching: Matching, near: Reach, work: Scratch) -> int:
    """Make the matching optimal again when `start` is its only unmatched pixel with a positive dual value.

    Returns how many matches were gained (0 or 1).
    """
    # The binary heap is written out here, because numba counts references to the arrays in every call of a function,
    # which took a third of the time.
    present, around = matching.present[1 - side], matching.around[side]
    partner, their_partner = matching.partner[side], matching.partner[1 - side]
    ours, theirs = matching.dual[side], matching.dual[1 - side]
    distance, parent, heap, slot, touched = work.distance, work.parent, work.heap, work.slot, work.touched
    steps, costs = near.steps, near.costs
    pixel: Any
    other: Any
    place: Any  # these are np.int64, whatever type NumPy declares for an element
    n_touched = 0
    length = 0
    # The path may end by leaving a pixel of our side unmatched (the start itself, to begin with) or at an
    # unmatched pixel of the other side. `shortest` is the best end so far; nothing beyond it need be looked
    # at.
    shortest = ours[_at(start)]
    dropped, found, found_parent = start, -1, -1
    pixel, travelled = start, np.int64(0)
    while True:
        base = travelled + ours[_at(pixel)] - near.saving
        bits, far = around[_at(pixel)], _NEAR
        while True:
            if bits:
                k = _lowest_bit(bits)
                bits &= bits - _ONE
            else:
                while far < steps.size and base + costs[far] < shortest and not present[pixel + steps[far]]:
                    far += 1
                if far >= steps.size or base + costs[far] >= shortest:
                    break  # the rest is farther away
                k = _at(far)
                far += 1
            other = pixel + steps[k]
            length_of_path = base + theirs[_at(other)] + costs[k] + _tie_of(side, pixel, other)
            if length_of_path >= shortest or length_of_path >= distance[_at(other)]:
                continue
            if their_partner[_at(other)] < 0:
                shortest, found, found_parent = length_of_path, other, pixel
                continue
            if distance[_at(other)] == _FAR:
                touched[_at(n_touched)] = other
                n_touched += 1
            distance[_at(other)] = length_of_path
            parent[_at(other)] = pixel
            place = np.int64(slot[_at(other)])
            if place < 0:
                place = length
                length += 1
            while place > 0:  # up the heap
                above = (place - 1) >> 1
                nearer = heap[_at(above)]
                if distance[_at(nearer)] <= length_of_path:
                    break
                heap[_at(place)] = nearer
                slot[_at(nearer)] = place
                place = above
            heap[_at(place)] = other
            slot[_at(other)] = place
        if length == 0 or distance[_at(heap[0])] >= shortest:
            break
        other = np.int64(heap[0])  # comes off the heap; the last pixel fills the gap, and goes down
        length -= 1
        slot[_at(other)] = -1
        last = heap[_at(length)]
        its_distance = distance[_at(last)]
        place = 0
        while 2 * place + 1 < length:
            below = 2 * place + 1
            if below + 1 < length and distance[_at(heap[_at(below + 1)])] < distance[_at(heap[_at(below)])]:
                below += 1
            if its_distance <= distance[_at(heap[_at(below)])]:
                break
            heap[_at(place)] = heap[_at(below)]
            slot[_at(heap[_at(place)])] = place
            place = below
        if length > 0:
            heap[_at(place)] = last
            slot[_at(last)] = place
        pixel, travelled = np.int64(their_partner[_at(other)]), distance[_at(other)]
        if travelled + ours[_at(pixel)] < shortest:
            shortest, dropped, found = travelled + ours[_at(pixel)], pixel, -1
    for i in range(length):
        slot[heap[i]] = -1
    # Shift the dual values by what is left of the way, then shift the matches along the path.
    ours[start] -= shortest
    for i in range(n_touched):
        other = np.int64(touched[i])
        left = shortest - distance[_at(other)]
        if left > 0:
            theirs[_at(other)] += left
            ours[_at(their_partner[_at(other)])] -= left
        distance[_at(other)] = _FAR
    if found >= 0:
        other, pixel = found, found_parent
    else:
        if dropped == start:
            return 0
        other = np.int64(partner[dropped])
        partner[dropped] = -1
        pixel = np.int64(parent[other])
    while True:
        before = partner[pixel]
        partner[pixel] = other
        their_partner[other] = pixel
        if pixel == start:
            break
        other = np.int64(before)
        pixel = np.int64(parent[other])
    return 1 if found >= 0 else 0


@kernel()
def insert(pixels: Array, side: int, matching: Matching, near: Reach, work: Scratch) -> int:
    """Add `pixels` (flat indices) to a side; returns the change in the number of matches."""
    present, theirs, around = matching.present[1 - side], matching.dual[1 - side], matching.around[1 - side]
    steps, costs = near.steps, near.costs
    gained = 0
    for pixel in pixels:
        matching.present[side, pixel] = True
        bits = np.uint64(0)
        for k in range(min(_NEAR, steps.size)):
            bits |= np.uint64(present[_at(pixel + steps[_at(k)])]) << np.uint64(k)
        matching.around[side, pixel] = bits
        saving = np.int64(0)
        while bits:
            k = _lowest_bit(bits)
            bits &= bits - _ONE
            other = pixel + steps[k]
            around[_at(other)] |= near.back[k]
            saving = max(saving, near.saving - costs[k] - _tie_of(side, pixel, other) - theirs[_at(other)])
        for far in range(_NEAR, steps.size):
            if near.saving - costs[far] <= saving:
                break  # the rest is farther away
            other = pixel + steps[far]
            if present[other]:
                saving = max(saving, near.saving - costs[far] - _tie_of(side, pixel, other) - theirs[other])
        matching.dual[side, pixel] = saving
        if saving > 0:
            gained += _resolve(pixel, side, matching, near, work)
    return gained


@kernel()
def remove(pixels: Array, side: int, matching: Matching, near: Reach, work: Scratch) -> int:
    """Take `pixels` (flat indices) out of a side; returns the change in the number of matches."""
    around, partner, their_partner = matching.around[1 - side], matching.partner[side], matching.partner[1 - side]
    gained = 0
    for pixel in pixels:
        matching.present[side, pixel] = False
        matching.dual[side, pixel] = 0
        bits = matching.around[side, pixel]
        while bits:
            k = _lowest_bit(bits)
            bits &= bits - _ONE
            around[_at(pixel + near.steps[k])] ^= near.back[k]
        widowed = partner[pixel]
        if widowed < 0:
            continue
        partner[pixel] = -1
        their_partner[widowed] = -1
        gained -= 1
        if matching.dual[1 - side, widowed] > 0:
            gained += _resolve(widowed, 1 - side, matching, near, work)
    return gained


def match(prediction: Array, truth: Array, max_distance: float) -> tuple[Array, Array]:
    """Match the pixels of two binary maps with the most matches, and among these the shortest distances.

    Args:
        prediction, truth: bool `[H, W]`.
        max_distance: largest distance of two matched pixels in pixels; each pixel is matched at most once.

    Returns:
        The matched pixels of the prediction and those of the truth, bool `[H, W]` each.

    Raises:
        GmaeToolsError: the distance is too large.
    """
    pad = margin(max_distance)
    first, second = (np.pad(np.asarray(binary, bool), pad) for binary in (prediction, truth))
    near = reach(max_distance, first.shape[1])
    matching = empty_matching(first.size)
    work = scratch(first.size)
    insert(np.flatnonzero(second), TRUTH, matching, near, work)
    insert(np.flatnonzero(first), PREDICTION, matching, near, work)
    inner = np.s_[pad : first.shape[0] - pad, pad : first.shape[1] - pad]
    matched = matching.partner.reshape(2, *first.shape) >= 0
    return matched[PREDICTION][inner], matched[TRUTH][inner]
