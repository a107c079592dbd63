"""Segmenters: what the baselines make of simple pictures, and how those of a model share its predictions."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.color import rgb2gray
from skimage.filters import threshold_otsu

from gmae_tools.benchmarks import figure_methods
from gmae_tools.benchmarks.figure_methods import CLASSICAL, RegionMethod
from gmae_tools.benchmarks.names import MASK_THRESHOLDS, MASKS
from gmae_tools.benchmarks.pipeline import ModelSource, maps
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.regions import binarize
from gmae_tools.zeroshot.figure_ground import METHODS, foreground_mask, foreground_probability
from gmae_tools.zeroshot.names import FOREGROUND_METHODS
from gmae_tools.zeroshot.views import Looks, look

SHAPE = (60, 80)


def disk(bright: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A coloured disk with some texture, off the centre, on another colour; and its mask."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = np.hypot(y - 27, x - 44) < 15
    figure, ground = ([220, 200, 90], [30, 70, 80]) if bright else ([40, 30, 60], [210, 220, 200])
    photo = np.where(mask[..., None], figure, ground) + np.random.default_rng(0).integers(-12, 13, (*SHAPE, 3))
    return photo.clip(0, 255).astype(np.uint8), mask


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("shape", [SHAPE, (1, 1), (1, 9), (3, 200), (7, 5)])
def test_probabilities_of_any_picture(name: str, shape: tuple[int, int]) -> None:
    if name == "grabcut":
        pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
    for photo in (np.full((*shape, 3), 90, np.uint8), np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)):
        probability = CLASSICAL[name](photo)
        assert probability.shape == shape and probability.dtype == np.float32
        assert np.isfinite(probability).all() and probability.min() >= 0 and probability.max() <= 1


def test_every_name_has_a_method_and_a_threshold() -> None:
    assert tuple(METHODS) == FOREGROUND_METHODS
    assert set(MASK_THRESHOLDS) == set(MASKS) == {*METHODS, *CLASSICAL}


def test_the_centre_prior_is_a_blob_of_a_quarter() -> None:
    blob = figure_methods.centre_prior(np.zeros((101, 201, 3), np.uint8))
    assert blob[50, 100] == pytest.approx(1)
    # One sigma, a quarter of the height or width, from the centre of the middle pixel.
    assert np.interp(50.5 + 0.25 * 101, np.arange(101) + 0.5, blob[:, 100]) == pytest.approx(np.exp(-0.5), abs=1e-3)
    assert np.interp(100.5 + 0.25 * 201, np.arange(201) + 0.5, blob[50]) == pytest.approx(np.exp(-0.5), abs=1e-3)
    np.testing.assert_allclose(blob, blob[::-1, ::-1], atol=1e-6)


def test_otsu_and_its_two_rules_of_polarity() -> None:
    for bright in (True, False):
        photo, mask = disk(bright)
        grey = np.rint(rgb2gray(photo) * 255).astype(np.uint8)
        np.testing.assert_array_equal(figure_methods.otsu(photo) > 0, grey > threshold_otsu(grey))
        assert iou(figure_methods.otsu(photo) > 0, mask if bright else ~mask) > 0.95
        assert iou(figure_methods.otsu_border(photo) > 0, mask) > 0.95


def test_spectral_residual_finds_what_stands_out_of_a_texture() -> None:
    y, x = np.mgrid[:128, :192]
    texture = 128 + 60 * np.sin(x * np.pi / 8) * np.sin(y * np.pi / 8)  # whole periods: no edge where it wraps round
    texture[50:70, 110:135] = 230
    saliency = figure_methods.spectral_residual(np.repeat(texture[..., None], 3, 2).astype(np.uint8))
    assert saliency.max() == pytest.approx(1, abs=0.1)
    place = np.unravel_index(saliency.argmax(), saliency.shape)
    assert 45 <= place[0] <= 75 and 105 <= place[1] <= 140
    assert saliency[50:70, 110:135].mean() > 5 * saliency.mean()


def test_spectral_residual_resembles_that_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    if not hasattr(cv2, "saliency"):
        pytest.skip("needs the contributed modules of OpenCV: pip install opencv-contrib-python-headless")
    photo, _ = disk()
    found, theirs = cv2.saliency.StaticSaliencySpectralResidual_create().computeSaliency(photo)
    assert found
    assert np.corrcoef(theirs.ravel(), figure_methods.spectral_residual(photo).ravel())[0, 1] > 0.6


def test_grabcut_finds_the_figure_again_and_again() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
    photo, mask = disk(bright=False)
    first = figure_methods.grabcut(photo)
    assert iou(first > 0, mask) > 0.9
    np.testing.assert_array_equal(first, figure_methods.grabcut(photo))


def test_grabcut_says_how_to_get_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_opencv(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_opencv)
    with pytest.raises(GmaeToolsError, match=r"pip install 'gmae-tools\[opencv\]'"):
        figure_methods.grabcut(disk()[0])


def test_methods_of_one_model_share_its_predictions(checkpoint: Path) -> None:
    photo, _ = disk()
    source = ModelSource(str(checkpoint))
    calls: list[int] = []
    source.model.register_forward_hook(lambda _, inputs, __: calls.extend([1] * len(inputs[0])))  # one a tile
    grouped, depth = maps([RegionMethod(method, source, Looks((1, 2), flip=True)) for method in METHODS], photo)
    assert len(calls) == 10
    assert all(probability.shape == SHAPE and np.ptp(probability) > 0.2 for probability in (grouped, depth))
    assert not np.array_equal(grouped, depth)


@pytest.mark.parametrize("name", METHODS)
def test_the_whole_photograph_once_is_the_readout_itself(checkpoint: Path, name: str) -> None:
    photo, _ = disk()
    source = ModelSource(str(checkpoint))
    method = RegionMethod(name, source, Looks((1,)))
    (found,) = maps([method], photo)
    (view,) = look(source.model, photo, Looks((1,)))
    expected = foreground_probability(view.scene, method=name)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The mask of a map that was written with 8 bits is that of the readout.
    wanted = foreground_mask(expected)
    assert 0.02 < wanted.mean() < 0.98
    np.testing.assert_array_equal(binarize(found, method.threshold), wanted)
    np.testing.assert_array_equal(binarize(np.rint(found * 255) / 255, method.threshold), wanted)
