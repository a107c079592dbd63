"""Figure maps scored against masks: hand-made cases, an oracle pixel by pixel, and PySODMetrics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.regions import (
    RegionProtocol,
    RegionScores,
    binarize,
    box_iou,
    score_regions,
)
from tests.oracles import saliency

SHAPE = (37, 52)


def picture(seed: int, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A blob for a mask, and an 8-bit map that shows it through noise and does not span 0 to 255."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=shape), 6) > 0.01
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 2) * 2
    soft = np.clip(0.35 + 0.3 * truth + 0.3 * noise, 0.05, 0.93)
    return np.round(soft * 255) / 255, truth


def scored(*images: tuple[np.ndarray, np.ndarray], protocol: RegionProtocol | None = None) -> RegionScores:
    scores = RegionScores(protocol)
    for index, (soft, truth) in enumerate(images):
        scores.update(f"{index:03}", soft, truth)
    return scores


# --- against other implementations -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_papers_pixel_by_pixel(seed: int) -> None:
    soft, truth = picture(seed)
    figures = score_regions(soft, truth)
    np.testing.assert_allclose(figures.f_beta, saliency.f_curve(soft, truth, 255), atol=1e-12)
    e_curve = [saliency.e_measure(soft >= k / 255, truth) for k in range(255)]
    np.testing.assert_allclose(figures.e_measure, e_curve, atol=1e-12)
    assert figures.e_adaptive == pytest.approx(saliency.e_measure(soft >= 2 * soft.mean(), truth), abs=1e-12)
    assert figures.s_measure == pytest.approx(saliency.s_measure(soft, truth), abs=1e-12)
    assert figures.f_beta.std() > 0.05 and 0.3 < figures.s_measure < 0.95  # nothing degenerate


@pytest.mark.parametrize("min_max", [True, False])
def test_agrees_with_pysodmetrics(min_max: bool) -> None:
    sod = pytest.importorskip("py_sod_metrics", reason="needs pysodmetrics: pip install --no-deps pysodmetrics==1.5.1")
    images = [picture(seed, (30 + 7 * seed, 61)) for seed in range(8)]
    images += [(soft, np.full(soft.shape, full)) for (soft, _), full in zip(images[:2], (True, False), strict=True)]
    images.append((images[0][1].astype(float), images[0][1]))  # binary, and right
    images.append((np.full(SHAPE, 0.4), picture(0)[1]))  # constant
    f, mae, s, e = sod.Fmeasure(), sod.MAE(), sod.Smeasure(), sod.Emeasure()
    for soft, truth in images:
        for metric in (f, mae, s, e):
            if min_max:
                metric.step(np.round(soft * 255).astype(np.uint8), truth.astype(np.uint8) * 255)
            else:
                metric.step(soft, truth, normalize=False)
    result = scored(*images, protocol=RegionProtocol(min_max=min_max, thresholds=256)).compute()
    curve = result.curve()
    fm, em = f.get_results()["fm"]["curve"][::-1], e.get_results()["em"]
    np.testing.assert_allclose(curve["f_beta"], fm, atol=1e-9)
    np.testing.assert_allclose(curve["e_measure"], em["curve"][::-1], atol=1e-9)
    assert result.max_f_beta == pytest.approx(fm.max(), abs=1e-9)
    assert result.mean_f_beta == pytest.approx(fm.mean(), abs=1e-9)
    assert result.e_measure == pytest.approx(em["curve"].mean(), abs=1e-9)
    assert result.e_measure_max == pytest.approx(em["curve"].max(), abs=1e-9)
    assert result.e_measure_adaptive == pytest.approx(em["adp"], abs=1e-9)
    assert result.mae == pytest.approx(mae.get_results()["mae"], abs=1e-9)
    assert result.s_measure == pytest.approx(s.get_results()["sm"], abs=1e-9)
    # With the usual 255 thresholds only the very last one is missing.
    usual = scored(*images, protocol=RegionProtocol(min_max=min_max)).compute()
    np.testing.assert_allclose(usual.curve()["f_beta"], fm[:-1], atol=1e-9)
    assert usual.max_f_beta == pytest.approx(fm.max(), abs=1e-9)


def degenerate(shape: tuple[int, int] = (5, 6)) -> list[np.ndarray]:
    """Masks with a figure or a ground of one pixel, and such whose centre lies in the last rows or columns."""
    pixels = [np.arange(shape[0] * shape[1]).reshape(shape) == number for number in range(shape[0] * shape[1])]
    y, x = np.indices(shape)
    rims = [(y >= low, x >= low, (y >= low) | (x >= 5), (y >= low) & (x >= low)) for low in range(1, 6)]
    masks = [*pixels, *(~each for each in pixels), *(mask for four in rims for mask in four)]
    return [mask for mask in masks if mask.any() and not mask.all()]


def test_s_measure_where_a_part_has_one_pixel_or_none() -> None:
    """Differs from PySODMetrics just where that divides 0 by 0, and says 0."""
    sod = pytest.importorskip("py_sod_metrics", reason="needs pysodmetrics: pip install --no-deps pysodmetrics==1.5.1")
    rng = np.random.default_rng(0)
    same = other = 0
    for truth in degenerate():
        for soft in (rng.random(truth.shape), np.full(truth.shape, 0.4), truth.astype(float)):
            ours = score_regions(soft, truth).s_measure
            assert ours == pytest.approx(saliency.s_measure(soft, truth), abs=1e-12)
            measure = sod.Smeasure()
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
                parts = measure.object(soft, truth), measure.region(soft, truth)
                theirs = measure.cal_sm(soft, truth)
            if np.isnan(parts).any():
                assert theirs == 0 < ours
                other += 1
            else:
                assert ours == pytest.approx(theirs, abs=1e-12)
                same += 1
        assert ours == pytest.approx(1)  # of the mask itself
    assert same > 20 and other > 100


def test_s_measure_of_a_single_pixel_by_hand() -> None:
    """In the last corner, so that three of the four parts are empty; a constant map is like nothing there."""
    truth = np.zeros((4, 5), bool)
    truth[-1, -1] = True
    objects = (2 * 0.4 / (0.4**2 + 1) + 19 * 2 * 0.6 / (0.6**2 + 1)) / 20
    assert score_regions(np.full(truth.shape, 0.4), truth).s_measure == pytest.approx(objects / 2)


# --- by hand -----------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    truth = np.array([[1, 1, 0, 0]], bool)
    soft = np.array([[1.0, 0.4, 0.6, 0.0]])
    figures = score_regions(soft, truth)
    assert figures.mae == pytest.approx((0.6 + 0.6) / 4)
    # At 0.5: one right, one false alarm, one missed, one rightly left out.
    assert (figures.iou, figures.accuracy) == (pytest.approx(1 / 3), 0.5)
    assert figures.mean_iou == pytest.approx(1 / 3)
    assert score_regions(soft, truth, RegionProtocol(threshold=0.4)).iou == pytest.approx(2 / 3)
    # 0.4 is level 102: both pixels of the figure pass there, and one of the ground.
    assert (figures.precision[102], figures.recall[102]) == (pytest.approx(2 / 3), 1)
    assert (figures.precision[103], figures.recall[103]) == (0.5, 0.5)
    assert figures.f_beta[102] == pytest.approx(1.3 * (2 / 3) / (0.3 * 2 / 3 + 1))


def test_the_adaptive_threshold_is_one_at_most() -> None:
    """Twice the mean of a bright map would let nothing pass."""
    truth = np.array([[1, 1, 1, 0]], bool)
    bright = score_regions(np.array([[1.0, 1.0, 1.0, 0.2]]), truth)
    assert bright.e_adaptive == pytest.approx(saliency.e_measure(truth, truth))


def test_f_is_averaged_before_its_maximum() -> None:
    truth = np.array([[1, 0]], bool)
    low, high = np.array([[0.2, 0.1]]), np.array([[0.9, 0.8]])
    result = scored((low, truth), (high, truth)).compute()
    everything = 1.3 * 0.5 / (0.3 * 0.5 + 1)
    # Each image has a threshold at which it is perfect, but no threshold is that for both.
    assert result.max_f_beta == pytest.approx((1 + everything) / 2)
    assert list(result.to_pandas()["max_f_beta"]) == [1, 1]


def test_min_max_stretches_each_map() -> None:
    truth = np.array([[1, 1, 0, 0]], bool)
    soft = np.array([[0.3, 0.25, 0.1, 0.1]])
    assert score_regions(soft, truth).iou == 0
    stretched = RegionProtocol(min_max=True)
    assert score_regions(soft, truth, stretched).iou == 1
    assert score_regions(soft, truth, stretched).mae == pytest.approx(0.25 / 4)
    assert score_regions(np.full((1, 4), 0.6), truth, stretched).mae == pytest.approx(0.5)  # nothing to stretch
    assert "min-max" in stretched.describe()["normalisation"]
    assert "none" in RegionProtocol().describe()["normalisation"]


def test_masks_without_figure_or_without_ground() -> None:
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    soft = np.zeros((4, 5))
    soft[0] = 0.8
    missed = score_regions(soft, empty)
    assert missed.f_beta.max() == 0
    assert (missed.iou, missed.accuracy) == (0, 0.75)
    assert missed.s_measure == pytest.approx(1 - 0.2)
    assert missed.s_measure == pytest.approx(1 - soft.mean()) and missed.mae == pytest.approx(soft.mean())
    assert missed.e_measure[100] == pytest.approx(15 / 19)
    nothing = score_regions(np.zeros((4, 5)), empty)
    assert (nothing.iou, nothing.mean_iou, nothing.accuracy, nothing.mae) == (1, 1, 1, 0)
    everything = score_regions(np.ones((4, 5)), full)
    assert (everything.iou, everything.f_beta.min(), everything.s_measure) == (1, pytest.approx(1), 1)
    assert np.isfinite([each.s_measure for each in (missed, nothing, everything)]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 2)])
def test_tiny_pictures_have_finite_scores(shape: tuple[int, int]) -> None:
    truth = np.zeros(shape, bool)
    truth[-1, -1] = True
    for soft in (np.zeros(shape), np.ones(shape), np.linspace(0, 1, truth.size).reshape(shape)):
        figures = score_regions(soft, truth)
        values = [figures.mae, figures.s_measure, figures.iou, figures.e_adaptive, *figures.e_measure, *figures.f_beta]
        assert np.isfinite(values).all() and min(values) >= 0


def test_otsu_is_that_of_scikit_image_and_a_single_level_is_not_split() -> None:
    soft, _ = picture(3)
    levels = np.round(soft * 255).astype(np.uint8)
    np.testing.assert_array_equal(binarize(soft, "otsu"), levels > threshold_otsu(levels))
    assert 0.1 < binarize(soft, "otsu").mean() < 0.9
    assert binarize(np.full((2, 2), 0.6), "otsu").all() and binarize(np.full((2, 2), 0.5), "otsu").all()
    assert not binarize(np.full((2, 2), 0.4), "otsu").any()
    np.testing.assert_array_equal(binarize(np.array([[0.49, 0.5]]), 0.5), [[False, True]])


def test_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(box_iou(boxes[0], boxes), [1, 50 / 150, 0])
    assert box_iou(boxes[0], np.empty((0, 4))).shape == (0,)
    np.testing.assert_allclose(box_iou(np.zeros(4), np.zeros((1, 4))), [0])


def test_corloc_counts_images_with_a_box_to_find() -> None:
    soft, truth = picture(0)
    scores = RegionScores()
    wanted = np.array([[0, 0, 4, 4], [10, 10, 20, 20]])
    scores.update("any of them", soft, truth, box=np.array([10, 10, 20, 15]), truth_boxes=wanted)  # IoU just 0.5
    scores.update("not quite", soft, truth, box=np.array([10, 10, 20, 14]), truth_boxes=wanted)
    scores.update("none found", soft, truth, box=None, truth_boxes=wanted)
    scores.update("none to find", soft, truth, box=wanted[0], truth_boxes=np.empty((0, 4)))
    result = scores.compute()
    assert result.corloc == pytest.approx(1 / 3)
    hits = result.to_pandas().set_index("image")["hit"]
    assert hits["any of them"] and not hits["not quite"]
    assert hits.isna()["none to find"]
    assert scored((soft, truth)).compute().corloc is None


# --- gathering ---------------------------------------------------------------------------------------


def test_merging_gives_the_scores_of_all() -> None:
    images = [picture(seed) for seed in range(4)]
    whole, left, right = RegionScores(), RegionScores(), RegionScores()
    for index, (soft, truth) in enumerate(images):
        whole.update(str(index), soft, truth)
        (left if index in (3, 0) else right).update(str(index), soft, truth)
    left.merge(right)
    assert left.compute().to_dict() == whole.compute().to_dict()
    assert list(left.compute().to_pandas()["image"]) == ["0", "1", "2", "3"]
    with pytest.raises(GmaeToolsError, match="already scored"):
        left.merge(right)
    with pytest.raises(GmaeToolsError, match="different protocols"):
        left.merge(RegionScores(RegionProtocol(min_max=True)))


def test_results_as_tables() -> None:
    result = scored(picture(1), picture(2)).compute()
    figures = result.to_dict()
    assert figures["images"] == 2 and figures["protocol"]["thresholds"] == 255
    curve, images = result.curve(), result.to_pandas()
    assert len(curve) == 255 and curve["threshold"].iloc[-1] == pytest.approx(254 / 255)
    assert curve["f_beta"].max() == figures["max_f_beta"]
    assert images["iou"].mean() == pytest.approx(figures["iou"])
    assert images["mean_f_beta"].mean() == pytest.approx(figures["mean_f_beta"])


@pytest.mark.parametrize(
    ("soft", "truth", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3)), "has shape"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "score it at the mask's size"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "has shape"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "not finite"),
        (np.full((2, 3), 255.0), np.zeros((2, 3)), "scale it"),
        (np.full((2, 3), -0.1), np.zeros((2, 3)), "scale it"),
    ],
)
def test_refuses_what_it_cannot_score(soft: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        score_regions(soft, truth)


def test_refuses_odd_protocols_and_nothing() -> None:
    for wrong in ({"threshold": 1.5}, {"thresholds": 0}, {"thresholds": 257}):
        with pytest.raises(GmaeToolsError):
            RegionProtocol(**wrong)
    with pytest.raises(GmaeToolsError, match="nothing to score"):
        RegionScores().compute()
    with pytest.raises(GmaeToolsError, match="10 thresholds, not 255"):
        RegionScores().add("a", score_regions(*picture(0), RegionProtocol(thresholds=10)))
