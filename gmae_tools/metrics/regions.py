"""Scores of foreground maps by masks, as in saliency benchmarks: F-beta, MAE, S-measure, E-measure, IoU and accuracy.

    scores = RegionScores()
    for name, soft, truth in images:
        scores.update(name, soft, truth)
    result = scores.compute()
    result.max_f_beta, result.to_dict(), result.to_pandas(), result.curve()

Scores over thresholds are computed from one histogram of 256 levels per image. For an image whose mask has no
foreground, F-beta is 0, E-measure and S-measure depend on the background alone, as in their papers, IoU is 1 if nothing
is predicted and 0 otherwise, and CorLoc ignores the image.

Sources: F-beta, Achanta et al., CVPR 2009. S-measure, Fan et al., ICCV 2017. E-measure, Fan et al., IJCAI 2018. CorLoc,
Deselaers, Alexe and Ferrari, ECCV 2010. Conventions where papers leave a choice are those of PySODMetrics, with one
exception: the S-measure of a mask whose foreground or background is a single pixel, or in which one of the four parts
around the centre of the foreground is a single pixel or empty (the centre lies in the last row or column). There
PySODMetrics divides 0 by 0 and returns 0, even for a perfect map. Here the deviation of a single pixel is 0, as in the
MATLAB code of the S-measure's authors, and an empty part, for which that code returns NaN, has no weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Threshold = float | Literal["otsu"]

BETA_SQUARED = 0.3
LEVELS = 256  # of an 8-bit map
HIT = 0.5  # least IoU of a correct box
_EPS = float(np.spacing(1.0))


@dataclass(frozen=True)
class RegionProtocol:
    """Conventions of the benchmark.

    Attributes:
        min_max: Whether each map is first stretched to span 0 to 1 (as in PySODMetrics, but not in TokenCut's script).
        threshold: Least value of the pixels of the mask for IoU and accuracy, or `otsu` to compute it for each map.
        thresholds: Number n of thresholds k / 255, k = 0..n-1, for F-beta and E-measure; 256 in PySODMetrics.

    Raises:
        GmaeToolsError: A value is out of its range.
    """

    min_max: bool = False
    threshold: Threshold = 0.5
    thresholds: int = LEVELS - 1

    def __post_init__(self) -> None:
        if self.threshold != "otsu" and not 0 <= self.threshold <= 1:
            raise GmaeToolsError(f"the threshold of a mask lies in [0, 1] or is otsu, not {self.threshold}")
        if not 1 <= self.thresholds <= LEVELS:
            raise GmaeToolsError(f"the number of thresholds lies in 1 to {LEVELS}, not {self.thresholds}")

    def levels(self) -> Array:
        """The thresholds `[T]`, ascending, in [0, 1]."""
        return np.arange(self.thresholds) / (LEVELS - 1)

    def describe(self) -> dict[str, Any]:
        """The conventions in words and numbers, which are stored with a result."""
        return {
            "beta_squared": BETA_SQUARED,
            "thresholds": self.thresholds,
            "curves": "F-beta and E-measure averaged over images at each threshold k/255, then max or mean over k",
            "normalisation": "min-max, each map" if self.min_max else "none (maps scored as given)",
            "mask": "Otsu's threshold, each map" if self.threshold == "otsu" else f"map >= {self.threshold:g}",
            "overlap": "IoU of the figure, averaged over images; mean IoU: of figure and ground",
        }


def check_map(soft: Array) -> Array:
    """Check a map and return it as float64 `[H, W]`.

    Raises:
        GmaeToolsError: The array is not a map `[H, W]`, or has values that are not finite or not in [0, 1].
    """
    soft = np.asarray(soft, float)
    if soft.ndim != 2 or not soft.size:
        raise GmaeToolsError(f"a map has shape [H, W], this one {list(soft.shape)}")
    if not np.isfinite(soft).all():
        raise GmaeToolsError("the map has values that are not finite")
    if soft.min() < -1e-6 or soft.max() > 1 + 1e-6:
        raise GmaeToolsError(f"a map lies in [0, 1], this one in [{soft.min():g}, {soft.max():g}]: scale it")
    return np.clip(soft, 0, 1)


def stretch(soft: Array) -> Array:
    """A map `[H, W]` stretched so that it spans 0 to 1. A map of a single level does not change."""
    low, high = soft.min(), soft.max()
    return np.asarray((soft - low) / (high - low)) if high > low else soft


def binarize(soft: Array, threshold: Threshold) -> Array:
    """The mask bool `[H, W]` of the pixels of a map `[H, W]` in [0, 1] that are at or above the threshold.

    `otsu` splits the 256 levels of the map so that the variance between both parts is largest. A map of a single level
    is all foreground if that is at least 0.5, else all background.
    """
    if threshold != "otsu":
        return np.asarray(soft >= threshold)
    from skimage.filters import threshold_otsu

    levels = _quantize(soft)
    if levels.min() == levels.max():
        return np.asarray(soft >= 0.5)
    return np.asarray(levels > threshold_otsu(hist=np.bincount(levels.ravel(), minlength=LEVELS)))


def box_iou(box: Array, boxes: Array) -> Array:
    """IoU `[n]` of one box `[4]` with others `[n, 4]`; boxes are x0, y0, x1, y1 in pixels, half-open."""
    box, boxes = np.asarray(box, float), np.asarray(boxes, float).reshape(-1, 4)
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared
    return np.asarray(shared / np.maximum(union, _EPS))


# --- one image ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegionMetrics:
    """Scores of one image, all in [0, 1].

    Attributes:
        precision, recall, f_beta, e_measure: Curves `[T]` over the thresholds, ascending.
        e_adaptive: E-measure at twice the mean of the map (at most 1).
        mae: Mean absolute error of the map.
        s_measure: Structure measure of the map.
        iou, mean_iou: IoU of the foreground, and the mean of that and the IoU of the background.
        accuracy: Share of correct pixels of the mask.
        hit: Whether the predicted box is correct; None if there is no box to find.
    """

    precision: Array
    recall: Array
    f_beta: Array
    e_measure: Array
    e_adaptive: float
    mae: float
    s_measure: float
    iou: float
    mean_iou: float
    accuracy: float
    hit: bool | None = None


def score_regions(
    soft: Array,
    truth: Array,
    protocol: RegionProtocol | None = None,
    *,
    box: Array | None = None,
    truth_boxes: Array | None = None,
) -> RegionMetrics:
    """Score one map by its mask.

    Args:
        soft: Map `[H, W]` in [0, 1].
        truth: Mask, bool `[H, W]`.
        protocol: Conventions; None for the default ones.
        box: Predicted box `[4]` (x0, y0, x1, y1 in pixels, half-open); None if there is none.
        truth_boxes: Boxes `[n, 4]`, one of which has to be found; None to score no box.

    Raises:
        GmaeToolsError: Shapes differ, or the map is not finite or not in [0, 1].
    """
    protocol = protocol or RegionProtocol()
    soft, truth = _checked(soft, truth)
    if protocol.min_max:
        soft = stretch(soft)
    counts = np.bincount((_quantize(soft) + np.uint16(LEVELS) * truth).ravel(), minlength=2 * LEVELS)
    wrong, hits = counts.reshape(2, LEVELS)[:, ::-1].cumsum(1)[:, ::-1]  # pixels at or above each of the levels, [256]
    predicted, foreground, size = wrong + hits, int(truth.sum()), truth.size
    precision, recall = hits / np.maximum(predicted, 1), hits / max(foreground, 1)
    adaptive, mask = soft >= min(2 * soft.mean(), 1), binarize(soft, protocol.threshold)
    iou, hit = _iou(mask, truth), None
    if truth_boxes is not None and len(truth_boxes):
        hit = box is not None and bool(box_iou(box, truth_boxes).max() >= HIT)
    shown = slice(protocol.thresholds)
    return RegionMetrics(
        precision=precision[shown],
        recall=recall[shown],
        f_beta=f_beta(precision, recall)[shown],
        e_measure=_e_measure(hits, predicted, foreground, size)[shown],
        e_adaptive=float(_e_measure((adaptive & truth).sum(), adaptive.sum(), foreground, size)),
        mae=float(np.abs(soft - truth).mean()),
        s_measure=_s_measure(soft, truth),
        iou=iou,
        mean_iou=(iou + _iou(~mask, ~truth)) / 2,
        accuracy=float((mask == truth).mean()),
        hit=hit,
    )


def f_beta(precision: Array, recall: Array) -> Array:
    """F with beta^2 = 0.3, 0 where precision and recall are both 0."""
    weighted = BETA_SQUARED * precision + recall
    return (1 + BETA_SQUARED) * precision * recall / np.where(weighted == 0, 1, weighted)


def _checked(soft: Array, truth: Array) -> tuple[Array, Array]:
    soft, truth = check_map(soft), np.asarray(truth, bool)
    if soft.shape != truth.shape:
        raise GmaeToolsError(
            f"the map has shape {list(soft.shape)}, its mask {list(truth.shape)}: score it at the mask's size"
        )
    return soft, truth


def _quantize(soft: Array) -> Array:
    """Levels 0..255, rounded down: level >= k just where the map is >= k / 255."""
    return np.asarray((soft * (LEVELS - 1)).astype(np.uint8))


def _e_measure(hits: Array, predicted: Array, foreground: int, size: int) -> Array:
    """Enhanced alignment of binary masks with the truth, computed from numbers of pixels.

    `hits` are the predicted pixels of the foreground, `predicted` all predicted ones, both in any shape.
    """
    if foreground in (0, size):  # without two parts, the share of correct pixels
        aligned = (size - predicted) if foreground == 0 else predicted
        return np.asarray(aligned / max(size - 1, 1))
    here, there = predicted / size, foreground / size  # the means, which are subtracted from both masks
    total = np.zeros(np.shape(hits))
    for prediction, truth, pixels in (
        (1 - here, 1 - there, hits),
        (1 - here, -there, predicted - hits),
        (-here, 1 - there, foreground - hits),
        (-here, -there, size - foreground - predicted + hits),
    ):
        alignment = 2 * prediction * truth / (prediction**2 + truth**2 + _EPS)
        total += pixels * (alignment + 1) ** 2 / 4
    return np.asarray(total / (size - 1))


def _s_measure(soft: Array, truth: Array) -> float:
    """Structure measure with alpha = 0.5: mean of the similarities by object and by region."""
    share = truth.mean()
    if share in (0, 1):
        return float(1 - soft.mean() if share == 0 else soft.mean())
    objects = share * _uniformity(soft[truth]) + (1 - share) * _uniformity(1 - soft[~truth])
    return max(0.0, float((objects + _regions(soft, truth)) / 2))


def _uniformity(values: Array) -> float:
    """A measure of how close to 1 and how uniform the pixels of an object are."""
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    mean = values.mean()
    return float(2 * mean / (mean**2 + 1 + deviation + _EPS))


def _regions(soft: Array, truth: Array) -> float:
    """Structural similarity of the four parts around the foreground's centre, weighted by area; some may be empty."""
    y, x = (int(np.rint(places.mean())) + 1 for places in np.nonzero(truth))
    total = 0.0
    for rows in (slice(y), slice(y, None)):
        for columns in (slice(x), slice(x, None)):
            part = truth[rows, columns]
            if part.size:
                total += part.size / truth.size * _similarity(soft[rows, columns], part)
    return total


def _similarity(soft: Array, truth: Array) -> float:
    """SSIM of two parts of pictures as a whole, without its constants."""
    mean_soft, mean_truth = soft.mean(), truth.mean()
    from_soft, from_truth = soft - mean_soft, truth - mean_truth
    degrees = soft.size - 1 + _EPS
    above = 4 * mean_soft * mean_truth * (from_soft * from_truth).sum() / degrees
    below = (mean_soft**2 + mean_truth**2) * ((from_soft**2).sum() + (from_truth**2).sum()) / degrees
    if above != 0:
        return float(above / (below + _EPS))
    return 1.0 if below == 0 else 0.0


def _iou(mask: Array, truth: Array) -> float:
    union = int((mask | truth).sum())
    return float((mask & truth).sum() / union) if union else 1.0


# --- all images -----------------------------------------------------------------------------------

_MEANS = ("mae", "s_measure", "iou", "mean_iou", "accuracy")


@dataclass(frozen=True)
class RegionResult:
    """Scores of a set of images in [0, 1], and the number of images.

    Attributes:
        max_f_beta, mean_f_beta: Maximum and mean of F-beta over the thresholds.
        e_measure, e_measure_max, e_measure_adaptive: Mean and maximum of the E-measure over the thresholds, and its
            value at twice the mean of each map.
        mae, s_measure, iou, mean_iou, accuracy: Means over the images; see `RegionMetrics`.
        corloc: Share of correct boxes among the images with a box to find; None without such images.
        images: Number of images.
        protocol: The conventions; see `RegionProtocol.describe`.
        metrics: Scores of each image by its name.
        levels: The thresholds `[T]`.
    """

    max_f_beta: float
    mean_f_beta: float
    mae: float
    s_measure: float
    e_measure: float
    e_measure_max: float
    e_measure_adaptive: float
    iou: float
    mean_iou: float
    accuracy: float
    corloc: float | None
    images: int
    protocol: dict[str, Any]
    metrics: dict[str, RegionMetrics] = field(repr=False)
    levels: Array = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The scores and the protocol, without the metrics of the images."""
        behind = {"metrics", "levels"}
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in behind}

    def curve(self) -> pd.DataFrame:
        """Averages over the images, with a row for each threshold."""
        import pandas as pd

        names = ("precision", "recall", "f_beta", "e_measure")
        return pd.DataFrame({"threshold": self.levels, **{name: _average(self.metrics, name) for name in names}})

    def to_pandas(self) -> pd.DataFrame:
        """A row for each image, with `max_f_beta` at its best threshold; `hit` is empty if there is no box to find."""
        import pandas as pd

        rows = [
            {
                "image": name,
                "max_f_beta": each.f_beta.max(),
                "mean_f_beta": each.f_beta.mean(),
                "e_measure": each.e_measure.mean(),
                **{score: getattr(each, score) for score in _MEANS},
                "hit": each.hit,
            }
            for name, each in self.metrics.items()
        ]
        return pd.DataFrame(rows).astype({"hit": "boolean"})


class RegionScores:
    """Collects metrics image by image by `update`, `add` or `merge`; `compute` returns the scores."""

    def __init__(self, protocol: RegionProtocol | None = None) -> None:
        self.protocol = protocol or RegionProtocol()
        self._metrics: dict[str, RegionMetrics] = {}

    def update(self, name: str, soft: Array, truth: Array, **boxes: Array | None) -> None:
        """Score one image; see `score_regions`."""
        self.add(name, score_regions(soft, truth, self.protocol, **boxes))

    def add(self, name: str, metrics: RegionMetrics) -> None:
        """Add the metrics of an image that another process computed by the same protocol.

        Raises:
            GmaeToolsError: The image was added before, or the number of thresholds differs.
        """
        if name in self._metrics:
            raise GmaeToolsError(f"image {name} was already scored: every image counts once")
        if len(metrics.f_beta) != self.protocol.thresholds:
            raise GmaeToolsError(f"image {name} has {len(metrics.f_beta)} thresholds, not {self.protocol.thresholds}")
        self._metrics[name] = metrics

    def merge(self, other: RegionScores) -> None:
        """Add all metrics of another `RegionScores`."""
        if other.protocol != self.protocol:
            raise GmaeToolsError("scores of different protocols cannot be merged")
        for name, metrics in other._metrics.items():
            self.add(name, metrics)

    def compute(self) -> RegionResult:
        """The scores of all images so far.

        Raises:
            GmaeToolsError: There is no image.
        """
        if not self._metrics:
            raise GmaeToolsError("nothing to score: no image was counted")
        metrics = dict(sorted(self._metrics.items()))  # sums must not depend on the order in which images were scored
        f, e = _average(metrics, "f_beta"), _average(metrics, "e_measure")
        hits = [each.hit for each in metrics.values() if each.hit is not None]
        return RegionResult(
            max_f_beta=float(f.max()),
            mean_f_beta=float(f.mean()),
            e_measure=float(e.mean()),
            e_measure_max=float(e.max()),
            e_measure_adaptive=float(_average(metrics, "e_adaptive")),
            corloc=float(np.mean(hits)) if hits else None,
            images=len(metrics),
            protocol=self.protocol.describe(),
            metrics=metrics,
            levels=self.protocol.levels(),
            **{name: float(_average(metrics, name)) for name in _MEANS},
        )


def _average(metrics: Mapping[str, RegionMetrics], name: str) -> Array:
    """Mean over the images, `[T]` or a number."""
    return np.asarray(np.mean([getattr(each, name) for each in metrics.values()], axis=0))
