# mypy: allow-untyped-defs
"""A numba kernel for sums over all pairs of Gaussians, which writes no matrix of pairs.

torch needs five passes over a matrix of four megabytes for each picture, and takes several times as long.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gmae_tools.splatting import simd
from gmae_tools.splatting.simd import LANES, full, lane_sum, load
from gmae_tools.system.kernels import kernel

PLACE = 5  # numbers of a place: a colour and a centre
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
_FARTHEST = np.float32(20)
_ZERO = np.float32(0)
# Taylor's series of exp(-x) at 0, the highest power first
_SERIES = tuple(np.float32(c) for c in (1 / 720, -1 / 120, 1 / 24, -1 / 6, 1 / 2, -1, 1))


@njit(**_OPTIONS, inline="always")
def _exp_minus(x):
    """exp(-x) of x >= 0 with a relative error below 1e-5, as the 64th power of exp(-x / 64); 2e-9 where x > 20."""
    x = min(x, _FARTHEST) * np.float32(1 / 64)
    power = x * _SERIES[0] + _SERIES[1]
    power = power * x + _SERIES[2]
    power = power * x + _SERIES[3]
    power = power * x + _SERIES[4]
    power = power * x + _SERIES[5]
    power = power * x + _SERIES[6]
    power = power * power
    power = power * power
    power = power * power
    power = power * power
    power = power * power
    return power * power


@kernel(depends_on=(simd,), **_OPTIONS)
def _sum_alike(places, others, weights, sums):
    for k in range(len(places)):
        total = full(_ZERO)
        for start in range(0, weights.size, LANES):
            squares = full(_ZERO)
            for number in range(PLACE):
                apart = load(others, (number, start)) - places[k, number]
                squares = squares + apart * apart
            total = total + _exp_minus(squares * np.float32(0.5)) * load(weights, start)
        sums[k] = lane_sum(total)


def sum_alike(places: np.ndarray, others: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums `[K]` over j of exp(-|p_k - q_j|^2 / 2) w_j for places p `[K, 5]`, others q `[J, 5]` and weights w `[J]`.

    All are float32. A relative error is below 1e-5, but for pairs further apart than |p - q|^2 = 40, which count as
    if they were that far apart.
    """
    missing = -len(others) % LANES
    turned = np.pad(others.T, ((0, 0), (0, missing)))  # [5, J'], C order
    sums = np.empty(len(places), np.float32)
    _sum_alike(np.ascontiguousarray(places), np.ascontiguousarray(turned), np.pad(weights, (0, missing)), sums)
    return sums
