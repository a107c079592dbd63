"""Randomness by number: what is drawn for a sample follows from (seed, stream, sample) and from nothing else.

A generator per sample would do that, too, but take longer to set up than a fast GPU takes to train on the sample. So
numbers are drawn for a whole batch at once by hashing counters, with the mixing function of SplitMix64 (Steele, Lea and
Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). It is whole-number arithmetic, the same everywhere.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment: 2^64 over the golden ratio, odd


class Stream(IntEnum):
    """What numbers are drawn for; streams are independent of each other."""

    ORDER = 0  # of the photographs, for every epoch
    CROP = 1
    MASK = 2
    BACKGROUND = 3
    MASK_RATIO = 4  # for every step
    WHOLE = 5  # likewise: whether it hides nothing


def uniforms(seed: int, stream: Stream, numbers: np.ndarray, count: int) -> np.ndarray:
    """Independent numbers, uniform in [0, 1).

    Args:
        seed: of the run, 0 <= seed < 2^64.
        stream: what they are for.
        numbers: `[B]` of the samples (or steps, or epochs), >= 0.
        count: how many for each.

    Returns:
        float64 `[B, count]`, multiples of 2^-53.
    """
    key = _mix(_mix(np.array([seed], np.uint64)) + _GOLDEN * np.array([stream + 1], np.uint64))  # [1]
    rows = _mix(key + _GOLDEN * np.asarray(numbers).astype(np.uint64))  # [B]
    bits = _mix(rows[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))  # [B, count]
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's bijection of uint64 in which every bit of the input tells on every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
