"""Thinning of binary maps to lines one pixel wide, as MATLAB's `bwmorph(map, 'thin', inf)` does it.

The rule is the one MATLAB documents: Lam, Lee and Suen, "Thinning methodologies: a comprehensive survey"
(1992), after the second algorithm of Guo and Hall, "Parallel thinning with two-subiteration algorithms"
(1989). Whether a pixel goes depends on its eight neighbours only, so each pixel carries them as one byte,
its neighbour code; after the first sweep only pixels with a changed code are judged again.
"""

from __future__ import annotations

import numpy as np

from gmae_tools.system.kernels import kernel

Array = np.ndarray

# The eight neighbours as (row, column), east first, then counter-clockwise as in the paper; bit i of a code
# is neighbour i.
NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _removable(code: int, second: bool) -> bool:
    """Whether the first or the second subiteration removes a pixel with these neighbours (G1, G2 and G3)."""
    x = [bool(code >> i & 1) for i in range(8)]
    x.append(x[0])
    crossings = sum(not x[i] and (x[i + 1] or x[i + 2]) for i in range(0, 8, 2))
    pairs = min(sum(x[i] or x[i + 1] for i in range(0, 8, 2)), sum(x[i] or x[i + 1] for i in range(1, 8, 2)))
    kept = (x[5] or x[6] or not x[3]) and x[4] if second else (x[1] or x[2] or not x[7]) and x[0]
    return crossings == 1 and 2 <= pairs <= 3 and not kept


REMOVABLE: Array = np.array([[_removable(code, second) for code in range(256)] for second in (False, True)])


def neighbour_steps(stride: int) -> Array:
    """Return the steps `[8]` to the eight neighbours in a flattened map with `stride` pixels a row."""
    return np.array([row * stride + column for row, column in NEIGHBOURS], np.int64)


@kernel()
def switch_on(pixels: Array, on: Array, codes: Array, steps: Array) -> None:
    """Add `pixels` (flat indices) to a flattened map `on` [N] bool and to its neighbour `codes` [N] uint8."""
    for pixel in pixels:
        on[pixel] = True
        for bit in range(8):  # the neighbour in direction `bit` sees this pixel in the opposite direction
            codes[pixel + steps[bit]] |= np.uint8(1 << (bit ^ 4))


@kernel()
def thin_in_place(on: Array, codes: Array, steps: Array) -> None:
    """Thin a flattened map `on` [N] bool with its neighbour `codes` [N] uint8; both are changed.

    The outermost pixels of the map must be off (the caller pads), so that every pixel has neighbours.
    """
    # waiting[k, :length[k]] are the pixels that subiteration k has yet to judge in their present state.
    waiting = np.empty((2, on.size), np.int32)
    is_waiting = np.zeros((2, on.size), np.bool_)
    length = np.zeros(2, np.int64)
    for pixel in range(on.size):
        if on[pixel] and codes[pixel] != 255:
            for k in range(2):
                waiting[k, length[k]] = pixel
                is_waiting[k, pixel] = True
                length[k] += 1
    removed = np.empty(on.size, np.int32)
    subiteration = 0
    while length[0] + length[1] > 0:
        # All pixels are judged on the same state, then removed together.
        n_removed = 0
        for pixel in waiting[subiteration, : length[subiteration]]:
            is_waiting[subiteration, pixel] = False
            if on[pixel] and REMOVABLE[subiteration, codes[pixel]]:
                removed[n_removed] = pixel
                n_removed += 1
        length[subiteration] = 0
        for pixel in removed[:n_removed]:
            on[pixel] = False
        for pixel in removed[:n_removed]:
            for bit in range(8):
                neighbour = pixel + steps[bit]
                codes[neighbour] &= np.uint8(255 ^ (1 << (bit ^ 4)))
                if on[neighbour]:
                    for k in range(2):
                        if not is_waiting[k, neighbour]:
                            is_waiting[k, neighbour] = True
                            waiting[k, length[k]] = neighbour
                            length[k] += 1
        subiteration = 1 - subiteration


def thin(binary: Array) -> Array:
    """Thin a binary map `[H, W]` to lines one pixel wide, bool `[H, W]`, as `bwmorph(binary, 'thin', inf)` does."""
    padded = np.pad(np.asarray(binary, bool), 1)
    stride = padded.shape[1]
    on, codes = np.zeros(padded.size, np.bool_), np.zeros(padded.size, np.uint8)
    steps = neighbour_steps(stride)
    switch_on(np.flatnonzero(padded), on, codes, steps)
    thin_in_place(on, codes, steps)
    return on.reshape(padded.shape)[1:-1, 1:-1]
