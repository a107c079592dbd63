"""What each step of a run is given: pictures, masks and backgrounds, made ahead of it and sent to its device.

Everything follows from the numbers of the samples, so that neither the number of processes nor an interruption changes
what a sample looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.pretrain.crops import Cropper, draw_crops, send
from gmae_tools.pretrain.objectives import Objective
from gmae_tools.pretrain.sampling import Stream, uniforms
from gmae_tools.vit import visible_patches


@dataclass(frozen=True)
class Batch:
    """One process's share of a step, on its device.

    Attributes:
        pixels: RGB pictures, uint8 `[b, 3, S, S]`.
        visible: the patches that are not hidden, int64 `[b, V]`; see `visible_patches`.
        backgrounds: `[b, 3]` in [0, 1].
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


class BatchMaker:
    """Makes the batches of a run.

    Args:
        photos, indices: the photographs to train on.
        device: where batches are wanted.
        batch_size: samples a step, over all processes.
        process, processes: this one's number and how many there are; it makes every `processes`-th sample.
        seed: of the run.
        crop_scale: smallest and largest share of a photograph's area in a crop.
        objective: which patches to hide, and what lies behind.
        patch_size: side of a patch in pixels.
    """

    def __init__(
        self,
        photos: PhotoStore,
        indices: np.ndarray,
        device: torch.device,
        *,
        batch_size: int,
        process: int = 0,
        processes: int = 1,
        seed: int = 0,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        objective: Objective,
        patch_size: int,
    ) -> None:
        self.photos, self.indices, self.device = photos, indices, device
        self.batch_size, self.process, self.processes = batch_size, process, processes
        self.seed, self.crop_scale, self.objective, self.patch_size = seed, crop_scale, objective, patch_size
        self._cropper = Cropper(photos, device)
        self._orders: dict[int, np.ndarray] = {}

    def batches(self, first_step: int, size_of: Callable[[int], int]) -> Iterator[Batch]:
        """The batches of `first_step` and of all that follow; `size_of` tells the side of a step's pictures."""
        step = first_step
        # Without it a thread would lay its page-locked memory at the first GPU's door.
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            while True:
                yield self.batch(step, size_of(step))
                step += 1

    def batch(self, step: int, size: int) -> Batch:
        """This process's samples of a step, pictures of `size` px."""
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[self.process :: self.processes]
        photos = self.photos_of(samples)
        boxes, mirrored = draw_crops(self.photos.shapes[photos], samples, self.seed, self.crop_scale)
        masks = self.objective.masks((size // self.patch_size) ** 2, step, samples, self.seed)
        backgrounds = self.objective.backgrounds(samples, self.seed)
        return Batch(
            self._cropper.crops(photos, boxes, mirrored, size),
            send(visible_patches(masks), self.device),
            send(backgrounds, self.device),
        )

    def photos_of(self, samples: np.ndarray) -> np.ndarray:
        """Numbers of the photographs `[b]`: every epoch is its own permutation of those to train on."""
        epochs, positions = np.divmod(samples, len(self.indices))
        photos = np.empty_like(samples)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            photos[chosen] = self._order(int(epoch))[positions[chosen]]
        return photos

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders.pop(epoch - 2, None)
            chances = uniforms(self.seed, Stream.ORDER, np.array([epoch]), len(self.indices))[0]
            self._orders[epoch] = self.indices[chances.argsort()]
        return self._orders[epoch]
