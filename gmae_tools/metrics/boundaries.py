"""The BSDS boundary benchmark: ODS, OIS, AP and R50 of soft boundary maps, as computed by the official code.

At every threshold the soft map is made binary, thinned, and matched with the map of each annotator. The scores follow
from four counts for each image and threshold:

    scores = BoundaryScores()
    for name, soft, truths in images:
        scores.update(name, soft, truths)
    result = scores.compute()
    result.ods, result.to_dict(), result.to_pandas(), result.curve()

Source: `boundaryBench.m`, `evaluation_bdry_image.m` and `collect_eval_bdry.m` of the BSDS500 benchmark
(Arbelaez, Maire, Fowlkes and Malik, "Contour detection and hierarchical image segmentation", TPAMI 2011); R50
as in Dollar's `edgesEvalDir.m`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics import boundary_matching as matching
from gmae_tools.metrics.thinning import neighbour_steps, switch_on, thin_in_place

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

OFFICIAL_MAX_DISTANCE = 0.0075


@dataclass(frozen=True)
class BoundaryProtocol:
    """Conventions of the benchmark; the defaults are the official ones.

    Attributes:
        thresholds: Number n of thresholds k / (n + 1), k = 1..n.
        max_distance: Largest distance of matched pixels, as a share of the image diagonal.
        thin: Whether binary maps are thinned before they are matched.

    Raises:
        GmaeToolsError: A value is out of its range.
    """

    thresholds: int = 99
    max_distance: float = OFFICIAL_MAX_DISTANCE
    thin: bool = True

    def __post_init__(self) -> None:
        if self.thresholds < 1:
            raise GmaeToolsError(f"the number of thresholds must be at least 1, not {self.thresholds}")
        if not 0 < self.max_distance < 1:
            raise GmaeToolsError(f"max_distance is a fraction of the diagonal such as 0.0075, not {self.max_distance}")

    def levels(self) -> Array:
        """The thresholds `[n]`, ascending, with the rounding of the official `linspace`.

        Rounding decides ties: the second of 5 thresholds lies just above 1/3, and a level of 85 in 8 bits is below it.
        """
        return np.linspace(1 / (self.thresholds + 1), 1 - 1 / (self.thresholds + 1), self.thresholds)

    def describe(self) -> dict[str, Any]:
        """The conventions in words and numbers, which are stored with a result."""
        deviations = []
        if self.max_distance != OFFICIAL_MAX_DISTANCE:
            deviations.append(f"max_distance {self.max_distance:g} instead of {OFFICIAL_MAX_DISTANCE:g}")
        if not self.thin:
            deviations.append("binary maps not thinned")
        return {
            "benchmark": "BSDS500 boundaryBench",
            "max_distance": self.max_distance,
            "thinning": "bwmorph(map, 'thin', inf)" if self.thin else "none",
            "matching": "exact minimum cost, ties broken by position",
            "non_maximum_suppression": "none (maps scored as given)",
            "deviations": deviations,
        }


@dataclass(frozen=True)
class BoundaryCounts:
    """Counts of pixels of one image, or sums over images: int arrays `[T]`, one entry per threshold, ascending.

    Attributes:
        matched_truth: Matched ground-truth pixels, summed over the annotators (cntR in the official code).
        truth: All ground-truth pixels, summed over the annotators (sumR).
        matched_prediction: Predicted pixels that match any annotator (cntP).
        prediction: All predicted pixels (sumP).
    """

    matched_truth: Array
    truth: Array
    matched_prediction: Array
    prediction: Array

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(*(mine + its for mine, its in zip(self.arrays(), other.arrays(), strict=True)))

    def arrays(self) -> tuple[Array, Array, Array, Array]:
        return self.matched_truth, self.truth, self.matched_prediction, self.prediction

    def at(self, index: int) -> BoundaryCounts:
        """The counts at one threshold, as arrays `[1]`."""
        return BoundaryCounts(*(values[index : index + 1] for values in self.arrays()))

    @property
    def recall(self) -> Array:
        """Recall `[T]` in [0, 1]; 0 if there is no ground truth."""
        return self.matched_truth / np.maximum(self.truth, 1)

    @property
    def precision(self) -> Array:
        """Precision `[T]` in [0, 1]; 0 if nothing is predicted."""
        return self.matched_prediction / np.maximum(self.prediction, 1)

    @property
    def f(self) -> Array:
        """F measure `[T]` in [0, 1]."""
        return f_measure(self.precision, self.recall)


def f_measure(precision: Array, recall: Array) -> Array:
    """Harmonic mean of precision and recall, 0 where both are 0."""
    total = precision + recall
    return 2 * precision * recall / np.where(total == 0, 1, total)


# --- counting -------------------------------------------------------------------------------------


def count_boundaries(soft: Array, truths: Sequence[Array], protocol: BoundaryProtocol | None = None) -> BoundaryCounts:
    """Match one soft map with the maps of the annotators at every threshold.

    Args:
        soft: Soft map `[H, W]` in [0, 1].
        truths: Boundary maps of the annotators, bool `[H, W]` each.
        protocol: Conventions; None for the official ones.

    Raises:
        GmaeToolsError: Shapes differ, `truths` is empty, or the soft map is not finite or not in [0, 1].
    """
    protocol = protocol or BoundaryProtocol()
    soft, truths = _checked(soft, truths)
    distance = protocol.max_distance * float(np.hypot(*soft.shape))
    pad = matching.margin(distance)
    changes = list(_changes(_binary_maps(soft, protocol, pad)))
    matched_truth, matched_prediction = _match(changes, truths, distance, pad)
    prediction = np.array([len(change.pixels) for change in changes])
    truth = np.full(len(changes), sum(int(each.sum()) for each in truths))
    # Pixels are counted from the highest threshold down and reported from the lowest up.
    return BoundaryCounts(matched_truth[::-1], truth, matched_prediction[::-1], prediction[::-1])


def count_agreement(truths: Sequence[Array], protocol: BoundaryProtocol | None = None) -> BoundaryCounts:
    """Match the thinned map of every annotator with those of the others, and sum the counts (arrays `[1]`).

    Args:
        truths: Boundary maps of the annotators, bool `[H, W]` each. All counts are 0 for a single annotator.
        protocol: Conventions, of which the thresholds are ignored; None for the official ones.
    """
    once = replace(protocol or BoundaryProtocol(), thresholds=1)
    total = BoundaryCounts(*np.zeros((4, 1), int))
    for index, held_out in enumerate(truths):
        others = [*truths[:index], *truths[index + 1 :]]
        if others:
            total = total + count_boundaries(held_out, others, once)
    return total


def _checked(soft: Array, truths: Sequence[Array]) -> tuple[Array, list[Array]]:
    soft = np.asarray(soft, float)
    if soft.ndim != 2:
        raise GmaeToolsError(f"a soft boundary map has shape [H, W], this one {list(soft.shape)}")
    if not truths:
        raise GmaeToolsError("no ground truth: at least one annotator's boundary map is needed")
    if not np.isfinite(soft).all():
        raise GmaeToolsError("the soft boundary map has values that are not finite")
    if soft.size and (soft.min() < -1e-6 or soft.max() > 1 + 1e-6):
        raise GmaeToolsError(
            f"a soft boundary map lies in [0, 1], this one in [{soft.min():g}, {soft.max():g}]: scale it"
        )
    checked = [np.asarray(truth, bool) for truth in truths]
    for truth in checked:
        if truth.shape != soft.shape:
            mine, its = list(soft.shape), list(truth.shape)
            raise GmaeToolsError(f"the map has shape {mine}, its ground truth {its}: score it at the image's size")
    return soft, checked


def _binary_maps(soft: Array, protocol: BoundaryProtocol, pad: int) -> Iterator[Array]:
    """The (thinned) binary maps, padded and flattened, from the highest threshold down.

    If no further pixel passes a threshold, the same array is yielded again.
    """
    passed = np.pad(np.searchsorted(protocol.levels(), soft, side="right"), pad)
    steps = neighbour_steps(passed.shape[1])
    passed = passed.ravel()
    order = np.argsort(-passed, kind="stable")  # the pixels in the order in which they pass the falling threshold
    ends = np.searchsorted(-passed[order], -np.arange(protocol.thresholds, 0, -1), side="right")
    on, codes = np.zeros(passed.size, bool), np.zeros(passed.size, np.uint8)
    binary = on.copy()
    start = 0
    for end in ends:
        if end > start:
            switch_on(order[start:end], on, codes, steps)
            binary = on.copy()
            if protocol.thin:
                thin_in_place(binary, codes.copy(), steps)
        yield binary
        start = end


class _Change(NamedTuple):
    """The pixels of a binary map (flat indices), and those that were added and removed since the map before."""

    pixels: Array
    come: Array
    gone: Array


def _changes(maps: Iterator[Array]) -> Iterator[_Change]:
    before = np.zeros(1, bool)
    for binary in maps:
        come, gone = np.flatnonzero(binary & ~before), np.flatnonzero(before & ~binary)
        yield _Change(np.flatnonzero(binary), come, gone)
        before = binary


def _match(changes: list[_Change], truths: list[Array], distance: float, pad: int) -> tuple[Array, Array]:
    """Match each binary map with every annotator: (matched_truth `[T]`, matched_prediction `[T]`).

    Annotators are processed one after the other, to save memory. Only changes from map to map are matched again.
    """
    padded = [np.pad(truth, pad) for truth in truths]
    size = padded[0].size
    near = matching.reach(distance, padded[0].shape[1])
    work = matching.scratch(size)
    matched_truth = np.zeros(len(changes), int)
    hits = [np.zeros(len(change.pixels), bool) for change in changes]
    for truth in padded:
        state = matching.empty_matching(size)
        matching.insert(np.flatnonzero(truth), matching.TRUTH, state, near, work)
        matches = 0
        for index, change in enumerate(changes):
            # Additions come first, because they often replace the pixels that are removed, which keeps paths short.
            matches += matching.insert(change.come, matching.PREDICTION, state, near, work)
            matches += matching.remove(change.gone, matching.PREDICTION, state, near, work)
            matched_truth[index] += matches
            hits[index] |= state.partner[matching.PREDICTION, change.pixels] >= 0
    return matched_truth, np.array([hit.sum() for hit in hits])


# --- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatingPoint:
    """A point of a precision-recall curve: threshold, precision, recall and F measure, all in [0, 1]."""

    threshold: float
    precision: float
    recall: float
    f: float


def best_point(levels: Array, precision: Array, recall: Array) -> OperatingPoint:
    """The point of the largest F of a curve `[T]`, among 100 interpolated points between neighbouring thresholds.

    Source: `maxF` in `collect_eval_bdry.m`.
    """
    share = np.linspace(0, 1, 100)

    def between(values: Array) -> Array:
        if len(values) == 1:
            return values
        return (values[1:, None] * share + values[:-1, None] * (1 - share)).ravel()

    t, p, r = between(levels), between(precision), between(recall)
    best = int(np.argmax(f_measure(p, r)))
    return OperatingPoint(float(t[best]), float(p[best]), float(r[best]), float(f_measure(p[best], r[best])))


def average_precision(precision: Array, recall: Array) -> float:
    """AP: 0.01 times the sum of the precision interpolated at recall 0, 0.01, ..., 1 (0 outside the curve).

    The official code has 101 points, too, so that precision 1 everywhere gives 1.01. A curve with a single value of
    recall gives 0. Both are kept so that scores can be compared.
    """
    recalls, first = np.unique(recall, return_index=True)
    if len(recalls) < 2:
        return 0.0
    grid = np.arange(101) * 0.01
    return float(np.interp(grid, recalls, precision[first], left=0, right=0).sum() * 0.01)


def recall_at_half_precision(precision: Array, recall: Array) -> float:
    """R50: recall interpolated at precision 0.5, or at the lowest precision if that is higher; 0 if none is as high.

    A threshold that no pixel passes counts as a point of precision and recall 0, as in `edgesEvalDir.m`.
    """
    recalls, first = np.unique(recall, return_index=True)
    precisions, again = np.unique(precision[first], return_index=True)
    return float(np.interp(max(precisions[0], 0.5), precisions, recalls[again], right=0))


@dataclass(frozen=True)
class BoundaryResult:
    """Scores of a set of images in [0, 1], and the numbers of images and thresholds.

    Attributes:
        ods, ods_threshold, ods_precision, ods_recall: F with the best threshold for all images, and its point.
        ois, ois_precision, ois_recall: F with the best threshold for each image.
        ap: Average precision; see `average_precision`.
        r50: Recall at precision 0.5; see `recall_at_half_precision`.
        images, thresholds: Numbers of images and of thresholds.
        protocol: The conventions; see `BoundaryProtocol.describe`.
        total: Sums of the counts over the images.
        counts: Counts of each image by its name.
        levels: The thresholds `[T]`.
    """

    ods: float
    ods_threshold: float
    ods_precision: float
    ods_recall: float
    ois: float
    ois_precision: float
    ois_recall: float
    ap: float
    r50: float
    images: int
    thresholds: int
    protocol: dict[str, Any]
    total: BoundaryCounts = field(repr=False)
    counts: dict[str, BoundaryCounts] = field(repr=False)
    levels: Array = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The scores and the protocol, without counts and levels."""
        behind = {"total", "counts", "levels"}
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in behind}

    def curve(self) -> pd.DataFrame:
        """The precision-recall curve, with a row for each threshold."""
        import pandas as pd

        columns = {"threshold": self.levels, "recall": self.total.recall, "precision": self.total.precision}
        return pd.DataFrame({**columns, "f": self.total.f})

    def to_pandas(self) -> pd.DataFrame:
        """A row for each image: the best point of its curve, interpolated as in `eval_bdry_img.txt`."""
        import pandas as pd

        points = {name: best_point(self.levels, each.precision, each.recall) for name, each in self.counts.items()}
        rows = [{"image": name, **asdict(point)} for name, point in points.items()]
        return pd.DataFrame(rows, columns=["image", "threshold", "recall", "precision", "f"])


class BoundaryScores:
    """Collects counts image by image by `update` or `add`; `compute` returns the scores."""

    def __init__(self, protocol: BoundaryProtocol | None = None) -> None:
        self.protocol = protocol or BoundaryProtocol()
        self._counts: dict[str, BoundaryCounts] = {}

    def update(self, name: str, soft: Array, truths: Sequence[Array]) -> None:
        """Count one image, given its soft map `[H, W]` in [0, 1] and the maps of its annotators, bool `[H, W]`."""
        self.add(name, count_boundaries(soft, truths, self.protocol))

    def add(self, name: str, counts: BoundaryCounts) -> None:
        """Add the counts of an image that another process or an earlier run made by the same protocol.

        Raises:
            GmaeToolsError: The image was added before, or the number of thresholds differs.
        """
        if name in self._counts:
            raise GmaeToolsError(f"image {name} was already counted: every image counts once")
        if len(counts.prediction) != self.protocol.thresholds:
            found = len(counts.prediction)
            raise GmaeToolsError(f"image {name} has {found} thresholds, not {self.protocol.thresholds}")
        self._counts[name] = counts

    def compute(self) -> BoundaryResult:
        """The scores of all images so far.

        Raises:
            GmaeToolsError: There are no images.
        """
        if not self._counts:
            raise GmaeToolsError("nothing to score: no image was counted")
        counts = dict(sorted(self._counts.items()))
        levels = self.protocol.levels()
        total = reduce(operator.add, counts.values())
        best = best_point(levels, total.precision, total.recall)
        own_best = reduce(operator.add, (each.at(int(np.argmax(each.f))) for each in counts.values()))
        return BoundaryResult(
            ods=best.f,
            ods_threshold=best.threshold,
            ods_precision=best.precision,
            ods_recall=best.recall,
            ois=float(own_best.f[0]),
            ois_precision=float(own_best.precision[0]),
            ois_recall=float(own_best.recall[0]),
            ap=average_precision(total.precision, total.recall),
            r50=recall_at_half_precision(total.precision, total.recall),
            images=len(counts),
            thresholds=self.protocol.thresholds,
            protocol=self.protocol.describe(),
            total=total,
            counts=counts,
            levels=levels,
        )
