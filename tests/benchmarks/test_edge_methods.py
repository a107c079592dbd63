"""Classical edge detectors and those of a model, on pictures whose edges are known."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.filters import sobel as skimage_sobel

from gmae_tools.benchmarks import edge_methods
from gmae_tools.benchmarks.edge_methods import CLASSICAL, SUPPRESSION, EdgeMethod
from gmae_tools.benchmarks.names import EDGES
from gmae_tools.benchmarks.pipeline import ModelSource, maps
from gmae_tools.errors import GmaeToolsError
from gmae_tools.zeroshot.edges import (
    CLOSED_DAMPING,
    READOUTS,
    close,
    finish,
    join_picture,
    layer_edges,
    outline,
    region_edges,
)
from gmae_tools.zeroshot.histograms import histogram_gradient
from gmae_tools.zeroshot.names import EDGE_READOUTS
from gmae_tools.zeroshot.views import Looks, look


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """A light square on dark ground, with soft rims and some noise."""
    light = np.zeros((60, 80))
    light[20:40, 30:60] = 1
    light = ndimage.gaussian_filter(light, 1.0) * 180 + 40
    noise = np.random.default_rng(0).normal(0, 1.5, (60, 80, 3))
    return np.clip(light[..., None] + noise, 0, 255).astype(np.uint8)


def test_every_name_has_a_readout_or_a_detector() -> None:
    assert tuple(READOUTS) == EDGE_READOUTS
    assert set(EDGES) == set(SUPPRESSION) == {*READOUTS, *CLASSICAL}


def test_histograms_are_outlined_as_readouts_are(square: np.ndarray) -> None:
    np.testing.assert_array_equal(CLASSICAL["histograms"](square), outline(histogram_gradient(square)))


@pytest.mark.parametrize("name", [name for name in CLASSICAL if name != "histograms"])  # which has a plateau of 6 px
def test_the_strongest_edges_are_the_outline(name: str, square: np.ndarray) -> None:
    strength = CLASSICAL[name](square)
    assert strength.shape == square.shape[:2]
    assert strength.dtype == np.float32
    assert 0 <= strength.min() < strength.max() <= 1
    inside = np.zeros(square.shape[:2], bool)
    inside[20:40, 30:60] = True
    distance = np.minimum(ndimage.distance_transform_edt(inside), 99) + ndimage.distance_transform_edt(~inside)
    strong = strength > 0.5 * strength.max()
    assert strong.sum() >= 80
    assert distance[strong].max() <= 2.5


def test_soft_canny_and_sobel_are_the_filters_of_their_libraries(square: np.ndarray) -> None:
    grey = rgb2gray(square)
    np.testing.assert_allclose(edge_methods.sobel(square), np.clip(2 * skimage_sobel(grey), 0, 1), atol=1e-6)
    magnitude = np.clip(5 * ndimage.gaussian_gradient_magnitude(grey, 2.0), 0, 1)
    for thin, full in (
        (edge_methods.soft_canny(square), magnitude),
        (edge_methods.sobel_nms(square), edge_methods.sobel(square)),
    ):
        kept = thin > 0
        assert 0.02 < kept.mean() < 0.5
        np.testing.assert_allclose(thin[kept], full[kept], rtol=1e-3, atol=1e-5)


def test_canny_holds_the_highest_threshold_of_each_pixel(square: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
    strength = edge_methods.canny(square)
    smooth = cv2.GaussianBlur(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), (0, 0), 1.4)
    for level in (0.02, 0.1, 0.29, 0.6):
        np.testing.assert_array_equal(strength >= level, cv2.Canny(smooth, 200 * level, 500 * level) > 0)


def test_canny_says_how_to_get_opencv(square: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_opencv(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_opencv)
    with pytest.raises(GmaeToolsError, match=r"pip install 'gmae-tools\[opencv\]'"):
        edge_methods.canny(square)


def test_methods_of_one_model_and_the_same_looks_share_its_predictions(square: np.ndarray, checkpoint: Path) -> None:
    source = ModelSource(str(checkpoint))
    calls: list[int] = []
    source.model.register_forward_hook(lambda _, inputs, __: calls.extend([1] * len(inputs[0])))  # one a tile
    methods = [EdgeMethod.named(name, source, Looks((1, 2)), (4,)) for name in EDGE_READOUTS]
    found = list(maps(methods, square))
    assert len(calls) == 5
    assert all(strength.shape == square.shape[:2] for strength in found)
    (whole,) = maps([EdgeMethod.named("layers", source, Looks((1,)), (4,))], square)
    assert len(calls) == 6
    assert not np.array_equal(whole, found[0])


def test_a_hierarchy_is_the_mean_of_its_levels(square: np.ndarray, checkpoint: Path) -> None:
    source = ModelSource(str(checkpoint))
    (view,) = look(source.model, square, Looks((1,)))
    whole = layer_edges(view.scene, [8, 4])
    assert whole.max() > 0
    method = EdgeMethod.named("layers", source, Looks((1,)), (8, 4))
    assert method.label == "l@8,4"
    np.testing.assert_allclose(next(maps([method], square)), outline(whole), atol=1e-6)


def test_closing_prefers_what_keeps_regions_apart() -> None:
    """A square and a row of dashes, drawn equally strong."""
    strength = np.zeros((60, 100))
    strength[15, 10:41] = strength[45, 10:41] = strength[15:46, 10] = strength[15:46, 40] = 0.6
    for column in range(55, 95, 8):
        strength[30, column : column + 4] = 0.6
    crests, closed = finish(strength), close(strength)
    np.testing.assert_array_equal(closed > 0, crests > 0)
    assert crests[30, 50:].max() > 0.85 * crests[30, 40]
    assert closed[30, 50:].max() < 0.75 * closed[30, 40]
    assert closed.dtype == np.float32 and closed.max() <= 1
    assert not close(np.zeros((20, 30))).any()


def test_an_outline_is_closed_and_stands_out_from_texture() -> None:
    """Two squares, drawn equally strong, one of them between narrow stripes."""
    strength = np.zeros((120, 240))
    strength[:, 121::6] = 0.6
    for left in (30, 160):
        strength[40:81, left : left + 41] = 0
        strength[[40, 80], left : left + 41] = strength[40:81, [left, left + 40]] = 0.6
    plain, outlined = close(strength), outline(strength)
    alone, crowded = np.s_[42:79, 28:33], np.s_[42:79, 158:163]
    assert outlined[crowded].max() / outlined[alone].max() < 0.8 * plain[crowded].max() / plain[alone].max()
    assert outlined.dtype == np.float32 and outlined.max() <= 1
    assert not outline(np.zeros((20, 30))).any()


def test_closed_regions_are_damped_and_joined_with_the_photograph(square: np.ndarray, checkpoint: Path) -> None:
    source = ModelSource(str(checkpoint))
    (view,) = look(source.model, square, Looks((1,)))
    damped = region_edges(view.scene, damping=CLOSED_DAMPING)
    names = ("regions-and-photo", "closed-regions", "regions")
    joined, closed, regions = maps([EdgeMethod.named(name, source, Looks((1,))) for name in names], square)
    np.testing.assert_allclose(closed, outline(damped), atol=1e-6)
    np.testing.assert_allclose(joined, outline(join_picture(damped, square)), atol=1e-6)
    assert (closed != regions).any()


def test_settings_are_those_that_folders_of_before_hold(checkpoint: Path) -> None:
    source = ModelSource(str(checkpoint))
    assert EdgeMethod.named("layers", source, Looks((3, 4), refine=5), (16,)).settings() == {
        "readout": "layers", "layers": (16,), "checkpoint": checkpoint.name, "weights": source.weights,
        "precision": None, "scales": (3, 4), "flip": False, "refine": 5,
    }  # fmt: skip
    others = ("layers", "checkpoint", "weights", "precision", "scales", "flip", "refine")
    assert EdgeMethod.named("canny", source, Looks()).settings() == {"readout": "canny", **dict.fromkeys(others)}
