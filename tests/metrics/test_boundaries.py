"""The benchmark's scores: the official demo, cases with known answers, MATLAB's formulas in plain loops."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.morphology import thin

from gmae_tools.datasets.bsds500 import read_boundaries
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.boundaries import (
    BoundaryCounts,
    BoundaryProtocol,
    BoundaryScores,
    average_precision,
    best_point,
    count_agreement,
    count_boundaries,
    recall_at_half_precision,
)
from gmae_tools.metrics.boundary_matching import match

SHAPE = (60, 80)  # diagonal 100 px, so that max_distance 0.03 allows 3 px


def line(column: int) -> np.ndarray:
    lines = np.zeros(SHAPE, bool)
    lines[:, column] = True
    return lines


def scores_of(soft: np.ndarray, truths: list[np.ndarray], **protocol: float) -> BoundaryScores:
    scores = BoundaryScores(BoundaryProtocol(**{"thresholds": 9, "max_distance": 0.03, **protocol}))
    scores.update("image", soft, truths)
    return scores


def test_official_demo(shared_data: Path) -> None:
    """Every figure of the official output within 0.001 (the official solver is random, ours exact)."""
    demo = shared_data / "bsds-bench-demo"
    scores = BoundaryScores(BoundaryProtocol(thresholds=5))
    for path in sorted((demo / "png").glob("*.png")):
        truths = read_boundaries(demo / "groundTruth" / f"{path.stem}.mat")
        scores.update(path.stem, np.asarray(Image.open(path)) / 255, truths)
    result = scores.compute()

    ours = [result.ods_threshold, result.ods_recall, result.ods_precision, result.ods]
    ours += [result.ois_recall, result.ois_precision, result.ois, result.ap]
    np.testing.assert_allclose(ours, np.loadtxt(demo / "expected" / "eval_bdry.txt"), atol=1e-3)
    np.testing.assert_allclose(result.curve(), np.loadtxt(demo / "expected" / "eval_bdry_thr.txt"), atol=1e-3)
    per_image = result.to_pandas().drop(columns="image")
    expected = np.loadtxt(demo / "expected" / "eval_bdry_img.txt")[:, 1:]
    np.testing.assert_allclose(per_image, expected, atol=2e-3)


def test_a_perfect_map_scores_one() -> None:
    truth = line(20) | line(50)
    result = scores_of(truth.astype(float), [truth]).compute()
    assert (result.ods, result.ois, result.r50) == (1, 1, 1)
    assert (result.ods_precision, result.ods_recall) == (1, 1)


@pytest.mark.filterwarnings("error")
def test_an_empty_map_scores_zero_without_warnings() -> None:
    result = scores_of(np.zeros(SHAPE), [line(20)]).compute()
    assert (result.ods, result.ois, result.ap, result.r50) == (0, 0, 0, 0)
    result = scores_of(line(20).astype(float), [np.zeros(SHAPE, bool)]).compute()
    assert (result.ods, result.ods_precision, result.ods_recall) == (0, 0, 0)


@pytest.mark.parametrize(("shift", "f"), [(2, 1), (3, 1), (4, 0)])
def test_a_shifted_map_scores_what_the_tolerance_says(shift: int, f: int) -> None:
    result = scores_of(line(20 + shift).astype(float), [line(20)]).compute()
    assert result.ods == f


def test_counts_of_two_annotators_and_two_strengths() -> None:
    # The strong line is everybody's, the weak one the second annotator's, a third annotated line is missed.
    soft = np.maximum(0.8 * line(20), 0.4 * line(40))
    counts = count_boundaries(soft, [line(20), line(20) | line(40) | line(60)], BoundaryProtocol(3, 0.03))
    height = SHAPE[0]
    np.testing.assert_array_equal(counts.truth, [4 * height] * 3)
    np.testing.assert_array_equal(counts.matched_truth, [3 * height, 2 * height, 2 * height])
    np.testing.assert_array_equal(counts.prediction, [2 * height, height, height])
    np.testing.assert_array_equal(counts.matched_prediction, [2 * height, height, height])


def test_a_truth_pixel_matches_once_but_a_prediction_once_per_annotator() -> None:
    soft = (line(20) | line(22)).astype(float)  # two lines compete for one
    counts = count_boundaries(soft, [line(21)], BoundaryProtocol(1, 0.03))
    assert counts.matched_truth[0] == counts.matched_prediction[0] == SHAPE[0]
    counts = count_boundaries(soft, [line(20), line(22)], BoundaryProtocol(1, 0.01))
    assert counts.matched_prediction[0] == 2 * SHAPE[0]


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_counts_do_not_depend_on_the_other_thresholds(seed: int, thinned: bool) -> None:
    """Incremental counting equals thinning and matching every threshold by itself."""
    rng = np.random.default_rng(seed)
    soft = rng.random((24, 32)) * (rng.random((24, 32)) < 0.5)
    truths = [rng.random(soft.shape) < 0.15 for _ in range(3)]
    protocol = BoundaryProtocol(6, 0.06, thin=thinned)
    counts = count_boundaries(soft, truths, protocol)
    for index, level in enumerate(protocol.levels()):
        binary = thin(soft >= level) if thinned else soft >= level
        pairs = [match(binary, truth, 0.06 * 40) for truth in truths]
        assert counts.prediction[index] == binary.sum()
        assert counts.matched_truth[index] == sum(truth.sum() for _, truth in pairs)
        assert counts.matched_prediction[index] == np.any([hit for hit, _ in pairs], axis=0).sum()


def test_thick_maps_are_thinned_unless_told_otherwise() -> None:
    thick = (line(20) | line(21) | line(22)).astype(float)
    assert scores_of(thick, [line(21)]).compute().ods_precision == 1
    untouched = scores_of(thick, [line(21)], thin=False).compute()
    assert untouched.ods_precision == pytest.approx(1 / 3)
    assert untouched.protocol["deviations"] == [
        "max_distance 0.03 instead of 0.0075",
        "binary maps not thinned",
    ]


def test_agreement_pools_every_annotator_against_the_others() -> None:
    counts = count_agreement([line(20), line(20), line(50)], BoundaryProtocol(max_distance=0.03))
    height = SHAPE[0]
    assert [int(each[0]) for each in counts.arrays()] == [2 * height, 6 * height, 2 * height, 3 * height]


def test_a_single_annotator_has_nobody_to_agree_with() -> None:
    assert not np.any(count_agreement([line(20)]).arrays())


def matlab_best(levels: np.ndarray, precision: np.ndarray, recall: np.ndarray) -> tuple[float, ...]:
    """`maxF`, line by line."""

    def f(r: float, p: float) -> float:
        return 2 * p * r / (p + r + ((p + r) == 0))

    best = (levels[0], precision[0], recall[0], f(recall[0], precision[0]))
    for i in range(1, len(levels)):
        for d in np.linspace(0, 1, 100):
            t, r, p = (x[i] * d + x[i - 1] * (1 - d) for x in (levels, recall, precision))
            if f(r, p) > best[3]:
                best = (t, p, r, f(r, p))
    return tuple(map(float, best))


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_best_point_as_in_matlab(seed: int, thresholds: int) -> None:
    rng = np.random.default_rng(seed)
    levels = BoundaryProtocol(thresholds).levels()
    precision, recall = (
        np.sort(rng.random(thresholds).round(1)),
        np.sort(rng.random(thresholds).round(1))[::-1],
    )
    point = best_point(levels, precision, recall)
    np.testing.assert_allclose(
        (point.threshold, point.precision, point.recall, point.f), matlab_best(levels, precision, recall)
    )


def test_average_precision_by_hand() -> None:
    # Precision 1 from recall 0.2 to 0.6: the 41 points 0.20, 0.21, ..., 0.60.
    assert average_precision(np.array([1.0, 1.0]), np.array([0.6, 0.2])) == pytest.approx(0.41)
    # A line from (0, 1) to (1, 0): the mean of the 101 points is a half.
    assert average_precision(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(0.505)
    assert average_precision(np.array([1.0, 1.0]), np.array([0.7, 0.7])) == 0


def test_recall_at_half_precision_by_hand() -> None:
    assert recall_at_half_precision(np.array([0.4, 0.8]), np.array([0.9, 0.5])) == pytest.approx(0.8)
    assert recall_at_half_precision(np.array([0.6, 0.8]), np.array([0.9, 0.5])) == pytest.approx(0.9)
    assert recall_at_half_precision(np.array([0.1, 0.3]), np.array([0.9, 0.5])) == 0


def test_ois_takes_each_image_at_its_own_best_threshold() -> None:
    # One image is right at the lower threshold only, the other at the higher one only.
    scores = BoundaryScores(BoundaryProtocol(2))
    full, half, none = np.array([10, 10]), np.array([10, 5]), np.array([5, 10])
    scores.add("low", BoundaryCounts(half, full, half, full))
    scores.add("high", BoundaryCounts(none, full, none, full))
    result = scores.compute()
    assert result.ois == 1
    assert result.ods == pytest.approx(0.75)


def test_result_as_dictionary_and_tables() -> None:
    result = scores_of(np.maximum(0.8 * line(20), 0.3 * line(30)), [line(20)]).compute()
    assert list(result.to_dict()) == [
        *("ods", "ods_threshold", "ods_precision", "ods_recall", "ois", "ois_precision", "ois_recall"),
        *("ap", "r50", "images", "thresholds", "protocol"),
    ]
    assert list(result.to_pandas().columns) == ["image", "threshold", "recall", "precision", "f"]
    assert result.curve().shape == (9, 4)
    assert result.curve()["precision"].iloc[0] == pytest.approx(0.5)


def test_tied_eight_bit_values_follow_the_official_rounding() -> None:
    assert BoundaryProtocol(5).levels()[1] > 85 / 255
    np.testing.assert_allclose(BoundaryProtocol(99).levels(), np.arange(1, 100) / 100)


@pytest.mark.parametrize(
    ("soft", "truths", "message"),
    [
        (np.zeros((4, 4, 3)), [np.zeros((4, 4), bool)], "shape"),
        (np.zeros((4, 4)), [np.zeros((4, 5), bool)], r"\[4, 4\].*\[4, 5\]"),
        (np.zeros((4, 4)), [], "no ground truth"),
        (np.full((4, 4), np.nan), [np.zeros((4, 4), bool)], "not finite"),
        (np.full((4, 4), 255.0), [np.zeros((4, 4), bool)], r"in \[0, 1\].*255"),
        (np.full((4, 4), -0.1), [np.zeros((4, 4), bool)], r"in \[0, 1\].*-0.1"),
    ],
)
def test_bad_maps_are_refused(soft: np.ndarray, truths: list[np.ndarray], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        count_boundaries(soft, truths)


def test_bad_protocols_and_counts_are_refused() -> None:
    for wrong in ({"thresholds": 0}, {"max_distance": 0.0}, {"max_distance": 4.3}):
        with pytest.raises(GmaeToolsError):
            BoundaryProtocol(**wrong)
    scores = BoundaryScores(BoundaryProtocol(2))
    with pytest.raises(GmaeToolsError, match="nothing to score"):
        scores.compute()
    scores.add("a", BoundaryCounts(*np.ones((4, 2), int)))
    with pytest.raises(GmaeToolsError, match="already"):
        scores.add("a", BoundaryCounts(*np.ones((4, 2), int)))
    with pytest.raises(GmaeToolsError, match="3 thresholds"):
        scores.add("b", BoundaryCounts(*np.ones((4, 3), int)))


def test_no_pixels_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = count_boundaries(np.zeros((0, 5)), [np.zeros((0, 5), bool)], BoundaryProtocol(3))
    assert counts.prediction.tolist() == [0, 0, 0]
