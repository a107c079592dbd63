"""All randomness of pretraining. Every random choice is a function of (seed, stream, sample number) alone.

A run therefore sees the same samples however many processes share it and wherever it was interrupted.

A generator per sample would have the same property, but setting one up takes longer than a fast GPU trains on a sample.
Random numbers are therefore made for a whole batch at once by hashing counters with the mixing function of SplitMix64
(Steele, Lea and Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). This is integer arithmetic, which
gives the same bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Background = Literal["white", "black", "random"]

MASKED = 0.75  # share of the patches that is hidden where held-out pictures are measured

_SHARES = 32  # about how many numbers of visible patches a run sees if its masking ratio is a range
_TRIES = 10  # crops tried before the central one is taken
_ASPECTS = (3 / 4, 4 / 3)  # smallest and largest width of a crop over its height
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment: 2^64 over the golden ratio, odd


class Stream(IntEnum):
    """What random numbers are for. Streams are independent of each other."""

    ORDER = 0  # order of the photographs, by epoch
    CROP = 1  # by sample
    MASK = 2  # by sample
    BACKGROUND = 3  # by sample
    MASK_RATIO = 4  # by step
    WHOLE = 5  # whether a step hides nothing, by step


def uniforms(seed: int, stream: Stream, numbers: np.ndarray, count: int) -> np.ndarray:
    """Independent random numbers, uniform in [0, 1).

    Args:
        seed: Seed of the run, 0 <= seed < 2^64.
        stream: What the numbers are for.
        numbers: Sample numbers (or steps, or epochs) `[B]`, >= 0.
        count: How many random numbers each of them gets.

    Returns:
        float64 `[B, count]`, multiples of 2^-53.
    """
    key = _mix(_mix(np.array([seed], np.uint64)) + _GOLDEN * np.array([stream + 1], np.uint64))  # [1]
    rows = _mix(key + _GOLDEN * np.asarray(numbers).astype(np.uint64))  # [B]
    bits = _mix(rows[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))  # [B, count]
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of uint64 in which every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# --- photographs and crops ---------------------------------------------------------------------------


class PhotoOrder:
    """Which photograph each sample shows. Every epoch is a permutation of its own.

    Args:
        indices: Numbers of the photographs to train on, int64 `[N]`.
        seed: Seed of the run.
    """

    def __init__(self, indices: np.ndarray, seed: int) -> None:
        self.indices, self.seed = indices, seed
        self._epochs: dict[int, np.ndarray] = {}

    def photos_of(self, samples: np.ndarray) -> np.ndarray:
        """Numbers of the photographs `[B]` that these samples `[B]` show."""
        epochs, positions = np.divmod(samples, len(self.indices))
        photos = np.empty_like(samples)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            photos[chosen] = self._permutation(int(epoch))[positions[chosen]]
        return photos

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs.pop(epoch - 2, None)
            ranks = uniforms(self.seed, Stream.ORDER, np.array([epoch]), len(self.indices))[0]
            self._epochs[epoch] = self.indices[ranks.argsort()]
        return self._epochs[epoch]


def sample_crops(
    shapes: np.ndarray, samples: np.ndarray, seed: int, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Random crops by the rule of torchvision's `RandomResizedCrop`; half of them are mirrored.

    The share of the area is uniform in `scale` and the aspect ratio (width over height) log-uniform in 3/4..4/3. The
    first of ten tries that fits into the photograph is taken. If none fits, it is the largest central crop whose aspect
    ratio lies in that range.

    Args:
        shapes: Heights and widths of the photographs in pixels, `[B, 2]`.
        samples: Sample numbers `[B]`.
        seed: Seed of the run.
        scale: Smallest and largest share of the area.

    Returns:
        Boxes int64 `[B, 4]` (top, left, height, width) in pixels, and bool `[B]`, True where the picture is mirrored.
    """
    random = uniforms(seed, Stream.CROP, samples, 2 * _TRIES + 3)
    height, width = shapes[:, :1], shapes[:, 1:]  # [B, 1]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * random[:, :_TRIES])  # [B, tries]
    low, high = np.log(_ASPECTS)
    aspect = np.exp(low + (high - low) * random[:, _TRIES : 2 * _TRIES])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    row, first = np.arange(len(shapes)), fits.argmax(1)
    fitting = np.stack([h[row, first], w[row, first]], 1)  # [B, 2]
    largest = np.rint(np.concatenate([width / _ASPECTS[0], height * _ASPECTS[1]], 1))
    sides = np.where(fits.any(1)[:, None], fitting, largest.clip(1, shapes)).astype(np.int64)
    room = shapes - sides
    places = np.floor(random[:, -3:-1] * (room + 1)).astype(np.int64)
    corners = np.where(fits.any(1)[:, None], places, room // 2)
    return np.concatenate([corners, sides], 1), random[:, -1] < 0.5


# --- masks and backgrounds ---------------------------------------------------------------------------


def sample_masks(ratios: tuple[float, float], patches: int, step: int, samples: np.ndarray, seed: int) -> Tensor:
    """Hidden patches, bool `[B, N]`. The masking ratio follows from (seed, step), the patches from (seed, sample).

    A range of ratios gives at most about `_SHARES` different numbers of hidden patches in a run, because oneDNN on CPUs
    and `torch.compile` prepare, and keep, kernels and memory for each number of visible patches.

    Args:
        ratios: Lowest and highest share of hidden patches.
        patches: Number of patches N of a picture.
        step: Number of the step.
        samples: Sample numbers `[B]`.
        seed: Seed of the run.
    """
    low, high = ratios
    ratio = low + (high - low) * float(uniforms(seed, Stream.MASK_RATIO, np.array([step]), 1)[0, 0])
    hidden = int(ratio * patches)
    if low < high:
        grain = max(1, patches // _SHARES)
        nearest = (hidden + grain // 2) // grain * grain
        hidden = min(max(nearest, int(low * patches)), int(high * patches))
    masks = np.zeros((len(samples), patches), bool)
    first = uniforms(seed, Stream.MASK, samples, patches).argsort(1)[:, :hidden]
    np.put_along_axis(masks, first, True, 1)
    return torch.from_numpy(masks)


def sample_backgrounds(background: Background, samples: np.ndarray, seed: int) -> Tensor:
    """Background colours float32 `[B, 3]` in [0, 1]; random ones follow from (seed, sample)."""
    if background != "random":
        return torch.full((len(samples), 3), float(background == "white"), dtype=torch.float32)
    return torch.from_numpy(uniforms(seed, Stream.BACKGROUND, samples, 3)).float()


# --- batches -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One process's share of a step, on its device.

    Attributes:
        pixels: RGB pictures, uint8 `[b, 3, S, S]`.
        visible: Numbers of the patches that are not hidden, int64 `[b, V]`; see `visible_patches`.
        backgrounds: Background colours `[b, 3]` in [0, 1].
    """

    pixels: Tensor
    visible: Tensor
    backgrounds: Tensor

    @cached_property
    def images(self) -> Tensor:
        """The pictures in [0, 1], float32 `[b, 3, S, S]`."""
        return self.pixels.float() / 255

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.pixels.shape[-1]

    def part(self, number: int, parts: int) -> Batch:
        """Part `number` of `parts` of equal size."""
        size = len(self.pixels) // parts
        rows = slice(number * size, (number + 1) * size)
        return Batch(self.pixels[rows], self.visible[rows], self.backgrounds[rows])
