"""Batches of a run: pictures, masks and backgrounds, prepared ahead of each step and sent to its device.

A batch follows from the numbers of its samples alone; see `sampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.pretrain.crops import Cropper, send
from gmae_tools.pretrain.objectives import Objective
from gmae_tools.pretrain.sampling import Batch, PhotoOrder, sample_crops
from gmae_tools.vit import visible_patches


@dataclass(frozen=True)
class BatchPlan:
    """What the batches of a run look like.

    Attributes:
        objective: Decides which patches are hidden, and the backgrounds.
        batch_size: Samples of a step, over all processes.
        patch_size: Side of a patch in pixels.
        seed: Seed of the run.
        crop_scale: Smallest and largest share of a photograph's area in a crop.
    """

    objective: Objective
    batch_size: int
    patch_size: int
    seed: int = 0
    crop_scale: tuple[float, float] = (0.2, 1.0)


@dataclass(frozen=True)
class Placement:
    """Where batches are made.

    Attributes:
        device: Device that receives them.
        process, processes: Number of this process, and how many there are. Each makes every `processes`-th sample.
    """

    device: torch.device
    process: int = 0
    processes: int = 1


class BatchMaker:
    """Makes the batches of a run.

    Args:
        photos: All photographs.
        indices: Numbers of those to train on, int64 `[N]`.
        plan: What the batches look like.
        place: Where they are made.
    """

    def __init__(self, photos: PhotoStore, indices: np.ndarray, plan: BatchPlan, place: Placement) -> None:
        self.photos, self.plan, self.place = photos, plan, place
        self._cropper = Cropper(photos, place.device)
        self._order = PhotoOrder(indices, plan.seed)

    def batches(self, first_step: int, size_of: Callable[[int], int]) -> Iterator[Batch]:
        """The batches of `first_step` and of all later steps; `size_of` returns the side of a step's pictures in px."""
        step, device = first_step, self.place.device
        # Otherwise the thread that calls this would allocate page-locked memory through the first GPU.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            while True:
                yield self.batch(step, size_of(step))
                step += 1

    def batch(self, step: int, size: int) -> Batch:
        """This process's samples of a step, as pictures of `size` px."""
        plan, device = self.plan, self.place.device
        samples = np.arange(step * plan.batch_size, (step + 1) * plan.batch_size)
        samples = samples[self.place.process :: self.place.processes]
        photos = self._order.photos_of(samples)
        boxes, mirrored = sample_crops(self.photos.shapes[photos], samples, plan.seed, plan.crop_scale)
        masks = plan.objective.masks((size // plan.patch_size) ** 2, step, samples, plan.seed)
        return Batch(
            self._cropper.crops(photos, boxes, mirrored, size),
            send(visible_patches(masks), device),
            send(plan.objective.backgrounds(samples, plan.seed), device),
        )
