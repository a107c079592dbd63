"""What a step is given: the same samples however it is cut over processes, the right photographs in every epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.pretrain.batches import BatchMaker, BatchPlan, Placement
from gmae_tools.pretrain.crops import Cropper
from gmae_tools.pretrain.objectives import GMAEObjective
from gmae_tools.pretrain.sampling import Batch, PhotoOrder, sample_crops
from gmae_tools.vit import visible_patches

CPU = torch.device("cpu")
PLACE = Placement(CPU)
OBJECTIVE = GMAEObjective((0.2, 0.7))
INDICES = np.array([0, 2, 3, 5, 6])  # of seven photographs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PhotoStore:
    """Seven noisy photographs, each with a colour of its own."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(30 * i, 30 * i + 20, (40 + i, 50 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return PhotoStore.open([folder], folder / "cache", progress=False)


def maker(store: PhotoStore, place: Placement = PLACE, **changes: Any) -> BatchMaker:
    return BatchMaker(store, INDICES, BatchPlan(OBJECTIVE, batch_size=8, patch_size=8, **changes), place)


def shown(batch: Batch) -> list[int]:
    """Which photograph each picture is of."""
    return (batch.pixels.float().mean((1, 2, 3)) / 30).floor().int().tolist()


def test_every_epoch_shows_every_photograph_once_in_an_order_of_its_own(store: PhotoStore) -> None:
    """Batches of 8 of 5 photographs: epochs begin within batches."""
    order = [photo for step in range(5) for photo in shown(maker(store).batch(step, 16))]
    epochs = [tuple(order[start : start + 5]) for start in range(0, 40, 5)]
    assert all(sorted(epoch) == INDICES.tolist() for epoch in epochs)
    assert len(set(epochs)) > 5
    assert order != [photo for step in range(5) for photo in shown(maker(store, seed=1).batch(step, 16))]


def test_a_batch_is_what_its_parts_make(store: PhotoStore) -> None:
    batch = maker(store, seed=3, crop_scale=(0.4, 0.9)).batch(2, 24)
    samples = np.arange(16, 24)
    photos = PhotoOrder(INDICES, seed=3).photos_of(samples)
    crops = sample_crops(store.shapes[photos], samples, 3, (0.4, 0.9))
    assert batch.size == 24
    assert torch.equal(batch.pixels, Cropper(store, CPU).crops(photos, *crops, 24))
    assert torch.equal(batch.visible, visible_patches(OBJECTIVE.masks(9, 2, samples, 3)))
    assert torch.equal(batch.backgrounds, OBJECTIVE.backgrounds(samples, 3))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_step_without_gaps_or_padding(store: PhotoStore, processes: int) -> None:
    whole = maker(store).batch(1, 16)
    shares = [maker(store, Placement(CPU, i, processes)).batch(1, 16) for i in range(processes)]
    for name in ("pixels", "visible", "backgrounds"):
        dealt = torch.stack([getattr(share, name) for share in shares], 1).flatten(0, 1)
        assert torch.equal(dealt, getattr(whole, name))


def test_parts_are_the_batch(store: PhotoStore) -> None:
    whole = maker(store).batch(1, 16)
    parts = [whole.part(number, 4) for number in range(4)]
    for name in ("pixels", "visible", "backgrounds"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert {len(part.pixels) for part in parts} == {2}


def test_batches_go_on_from_any_step_at_the_size_that_is_due(store: PhotoStore) -> None:
    batches = maker(store).batches(3, lambda step: 16 if step < 5 else 32)
    for step, size in ((3, 16), (4, 16), (5, 32)):
        batch, expected = next(batches), maker(store).batch(step, size)
        assert torch.equal(batch.pixels, expected.pixels) and torch.equal(batch.visible, expected.visible)
