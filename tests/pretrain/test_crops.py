"""Random crops: boxes as torchvision draws them, pictures as Pillow resizes them, chance from (seed, number) alone."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.pretrain.crops import Cropper, bicubic_weights, resize_batch
from gmae_tools.pretrain.sampling import sample_crops
from gmae_tools.system.torchvision_ops import ensure_torchvision

CPU = torch.device("cpu")
WHOLE = (1.0, 1.0)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """By Pillow, columns first: in which order it would do both at once depends on its version."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    image = image.resize((size, image.height), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PhotoStore:
    """A dozen noisy photographs of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (40 + 3 * i, 75 - 4 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return PhotoStore.open([folder], folder / "cache", progress=False)


# --- boxes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(192, 192), (100, 250), (40, 30), (10, 200)])
def test_boxes_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    """Means of top, left, height, width within five standard errors of the original's."""
    ensure_torchvision()
    transforms = importlib.import_module("torchvision.transforms")
    torch.manual_seed(0)
    ours, _ = sample_crops(np.tile(shape, (4000, 1)), np.arange(4000), 0, (0.2, 1.0))
    blank = torch.empty(3, *shape)
    get_params = transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)


@pytest.mark.parametrize("shape", [(10, 400), (400, 10), (1, 1), (2, 1), (1, 50)])
def test_boxes_fit_pictures_of_any_shape(shape: tuple[int, int]) -> None:
    boxes, _ = sample_crops(np.tile(shape, (50, 1)), np.arange(50), 0, (0.9, 1.0))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= shape).all()


def test_where_no_try_fits_the_largest_central_crop_is_taken() -> None:
    assert sample_crops(np.array([[60, 300]]), np.array([0]), 0, WHOLE)[0].tolist() == [[0, 110, 60, 80]]
    assert sample_crops(np.array([[300, 60]]), np.array([0]), 0, WHOLE)[0].tolist() == [[110, 0, 80, 60]]


def test_half_of_the_crops_are_mirrored_whatever_the_box() -> None:
    boxes, mirrored = sample_crops(np.full((10_000, 2), 100), np.arange(10_000), 0, (0.2, 1.0))
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 100
    assert np.abs(np.corrcoef(mirrored, boxes.T)[0, 1:]).max() < 0.05


def test_a_crop_depends_on_seed_and_number_alone() -> None:
    shapes = np.random.default_rng(0).integers(20, 200, (12, 2))
    numbers = np.arange(100, 112)
    boxes, mirrored = sample_crops(shapes, numbers, 3, (0.2, 1.0))
    for part in (slice(0, 5), slice(1, 12, 3)):
        some, turned = sample_crops(shapes[part], numbers[part], 3, (0.2, 1.0))
        np.testing.assert_array_equal(some, boxes[part])
        np.testing.assert_array_equal(turned, mirrored[part])
    assert (sample_crops(shapes, numbers, 4, (0.2, 1.0))[0] != boxes).any(1).mean() > 0.9
    assert (sample_crops(shapes, numbers + 50, 3, (0.2, 1.0))[0] != boxes).any(1).mean() > 0.9


# --- pixels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 50, 200])
def test_the_filter_is_pillows(length: int) -> None:
    """Of a single bright pixel, in single precision: Pillow's answer is the column of weights."""
    weights = bicubic_weights(torch.tensor([length]), 32, length + 5)[0]
    assert weights.shape == (32, length + 5) and not weights[:, length:].any()
    for bright in {0, length // 2, length - 1}:
        row = np.zeros((1, length), np.float32)
        row[0, bright] = 1
        expected = np.asarray(Image.fromarray(row).resize((32, 1), Image.Resampling.BICUBIC))[0]
        np.testing.assert_allclose(weights[:, bright], expected, atol=2e-6)


@pytest.mark.parametrize("size", [16, 48, 224])
def test_a_batch_is_resized_as_pillow_would_one_by_one(size: int) -> None:
    """Noise, for which the order of rounding and clipping matters most. At most a pixel in 500 is off, by one level."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 90, 70, 3), dtype=np.uint8)  # what lies outside of a picture is noise, too
    sides = np.stack([rng.integers(1, 91, 8), rng.integers(1, 71, 8)], 1)
    mirrored = np.arange(8) % 2 == 1
    actual = resize_batch(*map(torch.from_numpy, (pixels, sides, mirrored)), size).permute(0, 2, 3, 1).numpy()
    for picture, whole, (height, width), turned in zip(actual, pixels, sides, mirrored, strict=True):
        expected = resized(whole[:height, :width], size)[:, :: -1 if turned else 1]
        difference = np.abs(picture.astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.002


@pytest.mark.parametrize("at_once", [1, 5, 512])
def test_cutting_on_the_host_and_on_the_device_agree(
    store: PhotoStore, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("gmae_tools.pretrain.crops._AT_ONCE_ON_CPU", at_once)
    indices = np.array([3, 0, 11, 3, 7, 5, 9])
    boxes, mirrored = sample_crops(store.shapes[indices], np.arange(7), 0, (0.2, 1.0))
    host, device = (Cropper(store, CPU, resident).crops(indices, boxes, mirrored, 32) for resident in (False, True))
    assert host.shape == (7, 3, 32, 32) and host.dtype == torch.uint8
    for picture, other, index, (top, left, h, w), turned in zip(host, device, indices, boxes, mirrored, strict=True):
        expected = resized(store.photo(index)[top : top + h, left : left + w], 32)[:, :: -1 if turned else 1]
        for actual in (picture, other):
            assert np.abs(actual.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


@pytest.mark.cuda
@pytest.mark.parametrize("resident", [False, True])
def test_a_gpu_makes_the_pictures_of_the_cpu(store: PhotoStore, resident: bool) -> None:
    """To one level: float32 products may be rounded to TF32 there."""
    indices = np.arange(700) % 12
    boxes, mirrored = sample_crops(store.shapes[indices], np.arange(700), 0, (0.2, 1.0))
    expected = Cropper(store, CPU).crops(indices, boxes, mirrored, 48)
    actual = Cropper(store, torch.device("cuda"), resident).crops(indices, boxes, mirrored, 48)
    assert actual.is_cuda
    difference = (actual.cpu().int() - expected.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.1


def test_photographs_stay_on_a_gpu_where_they_fit(store: PhotoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.device] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: sent.append(device) or tensor)
    for free in (3 * store.size, 5 * store.size):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        Cropper(store, torch.device("cuda"))
    assert sent == [torch.device("cuda")]  # only where there was room four times over
