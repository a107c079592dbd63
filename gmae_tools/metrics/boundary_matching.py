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

from typing import NamedTuple

import numpy as np

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


class Reach(NamedTuple):
    """Which pixels may be matched: those one of `steps` [K] away in the flattened map, the nearest first."""

    steps: Array
    costs: Array  # int64 [K]: 100 per pixel of distance, shifted left by _SHIFT bits
    saving: int  # what a match saves, its cost not yet counted; in the same unit


class Matching(NamedTuple):
    """Two sets of pixels of a flattened map of N pixels and their best matching; axis 0 is the side."""

    present: Array  # bool [2, N]
    partner: Array  # int32 [2, N]: the pixel of the other side it is matched to, or -1
    dual: Array  # int64 [2, N]


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
    return Reach((rows * stride + columns)[near].astype(np.int64), costs << _SHIFT, outlier_cost << _SHIFT)


def empty_matching(size: int) -> Matching:
    """Return a matching of two empty sets in a map of `size` pixels."""
    shape = (2, size)
    return Matching(np.zeros(shape, bool), np.full(shape, -1, np.int32), np.zeros(shape, np.int64))


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


@kernel()
def _sift_up(work: Scratch, place: int) -> None:
    heap, distance, slot = work.heap, work.distance, work.slot
    pixel = heap[place]
    while place > 0:
        above = (place - 1) >> 1
        if distance[heap[above]] <= distance[pixel]:
            break
        heap[place] = heap[above]
        slot[heap[place]] = place
        place = above
    heap[place] = pixel
    slot[pixel] = place


@kernel()
def _pop(work: Scratch, length: int) -> int:
    """Take the nearest pixel off a heap of `length` pixels."""
    heap, distance, slot = work.heap, work.distance, work.slot
    first = heap[0]
    slot[first] = -1
    pixel = heap[length - 1]
    length -= 1
    place = 0
    while 2 * place + 1 < length:
        below = 2 * place + 1
        if below + 1 < length and distance[heap[below + 1]] < distance[heap[below]]:
            below += 1
        if distance[pixel] <= distance[heap[below]]:
            break
        heap[place] = heap[below]
        slot[heap[place]] = place
        place = below
    if length > 0:
        heap[place] = pixel
        slot[pixel] = place
    return first


@kernel()
def _resolve(start: int, side: int, matching: Matching, near: Reach, work: Scratch) -> int:
    """Make the matching optimal again when `start` is its only unmatched pixel with a positive dual value.

    Returns how many matches were gained (0 or 1).
    """
    present, partner, dual = matching.present[1 - side], matching.partner, matching.dual
    ours, theirs = dual[side], dual[1 - side]
    distance, parent, touched = work.distance, work.parent, work.touched
    n_touched = 0
    length = 0
    # The path may end by leaving a pixel of our side unmatched (the start itself, to begin with) or at an
    # unmatched pixel of the other side. `shortest` is the best end so far; nothing beyond it need be looked
    # at.
    shortest = ours[start]
    dropped, found, found_parent = start, -1, -1
    pixel, travelled = start, np.int64(0)
    while True:
        base = travelled + ours[pixel] - near.saving
        for k in range(near.steps.size):
            if base + near.costs[k] >= shortest:
                break  # the rest is farther away
            other = pixel + near.steps[k]
            if not present[other]:
                continue
            tie = _tie(pixel, other) if side == PREDICTION else _tie(other, pixel)
            length_of_path = base + theirs[other] + near.costs[k] + tie
            if length_of_path >= shortest or length_of_path >= distance[other]:
                continue
            if partner[1 - side, other] < 0:
                shortest, found, found_parent = length_of_path, other, pixel
                continue
            if distance[other] == _FAR:
                touched[n_touched] = other
                n_touched += 1
            distance[other] = length_of_path
            parent[other] = pixel
            if work.slot[other] < 0:
                work.heap[length] = other
                work.slot[other] = length
                length += 1
            _sift_up(work, work.slot[other])
        if length == 0 or distance[work.heap[0]] >= shortest:
            break
        other = _pop(work, length)
        length -= 1
        pixel, travelled = partner[1 - side, other], distance[other]
        if travelled + ours[pixel] < shortest:
            shortest, dropped, found = travelled + ours[pixel], pixel, -1
    for i in range(length):
        work.slot[work.heap[i]] = -1
    # Shift the dual values by what is left of the way, then shift the matches along the path.
    ours[start] -= shortest
    for i in range(n_touched):
        other = touched[i]
        left = shortest - distance[other]
        if left > 0:
            theirs[other] += left
            ours[partner[1 - side, other]] -= left
        distance[other] = _FAR
    if found >= 0:
        other, pixel = found, found_parent
    else:
        if dropped == start:
            return 0
        other = partner[side, dropped]
        partner[side, dropped] = -1
        pixel = parent[other]
    while True:
        before = partner[side, pixel]
        partner[side, pixel] = other
        partner[1 - side, other] = pixel
        if pixel == start:
            break
        other = before
        pixel = parent[other]
    return 1 if found >= 0 else 0


@kernel()
def insert(pixels: Array, side: int, matching: Matching, near: Reach, work: Scratch) -> int:
    """Add `pixels` (flat indices) to a side; returns the change in the number of matches."""
    gained = 0
    for pixel in pixels:
        matching.present[side, pixel] = True
        saving = np.int64(0)
        for k in range(near.steps.size):
            if near.saving - near.costs[k] <= saving:
                break  # the rest is farther away
            other = pixel + near.steps[k]
            if matching.present[1 - side, other]:
                tie = _tie(pixel, other) if side == PREDICTION else _tie(other, pixel)
                saving = max(saving, near.saving - near.costs[k] - tie - matching.dual[1 - side, other])
        matching.dual[side, pixel] = saving
        if saving > 0:
            gained += _resolve(pixel, side, matching, near, work)
    return gained


@kernel()
def remove(pixels: Array, side: int, matching: Matching, near: Reach, work: Scratch) -> int:
    """Take `pixels` (flat indices) out of a side; returns the change in the number of matches."""
    gained = 0
    for pixel in pixels:
        matching.present[side, pixel] = False
        matching.dual[side, pixel] = 0
        widowed = matching.partner[side, pixel]
        if widowed < 0:
            continue
        matching.partner[side, pixel] = -1
        matching.partner[1 - side, widowed] = -1
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
