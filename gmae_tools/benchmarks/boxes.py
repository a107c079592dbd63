"""Segmenters on a data set with boxes: single-object discovery and class-agnostic detection.

A threshold turns each soft map into a mask. For discovery, the box of the mask's largest piece is used; for detection,
the boxes of all pieces, without classes, with the mean of the map inside a box as its confidence (`zeroshot.boxes`,
`metrics.detection`).

CorLoc is the share of the photographs with an object whose one box has an IoU of 0.5 or more with the box of any
object, as in LOST (arXiv 2109.14279) and TokenCut (arXiv 2202.11539).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.pipeline import RunOptions
from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.benchmarks.regions import MaskRules, detection, predict_all, read_map
from gmae_tools.benchmarks.shown import ShownTable
from gmae_tools.datasets.boxed import BoxedPhoto
from gmae_tools.datasets.named import ListedSet
from gmae_tools.datasets.saliency import Split
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.detection import Detections, detection_scores
from gmae_tools.metrics.regions import HIT, Threshold, binarize, box_iou, check_map, stretch
from gmae_tools.system.files import write_json
from gmae_tools.system.processes import cores, gather, in_processes, is_main, share
from gmae_tools.zeroshot.boxes import boxes

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 16  # number of images that a process takes at a time


@dataclass(frozen=True, repr=False)
class BoxResults(ShownTable):
    """The scores of several segmenters on a data set with boxes, as in `scores.json`, by the names given to `run`."""

    scores: Mapping[str, dict[str, Any]]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for each segmenter: its scores, without the protocol."""
        import pandas as pd

        rows = [{**each, "method": name or each["method"]} for name, each in self.scores.items()]
        return pd.DataFrame(rows).drop(columns="protocol").set_index("method").reset_index()


def run(
    data: ListedSet,
    split: Split,
    methods: Mapping[str, RegionMethod],
    out: Path,
    *,
    rules: MaskRules | None = None,
    options: RunOptions | None = None,
) -> BoxResults:
    """Predict the maps of every segmenter, and score the boxes that are found in them.

    Args:
        data: a data set that has boxes.
        split, methods, out, rules, options: as for `regions.run`, which scores data sets that have masks.

    Raises:
        GmaeToolsError: as for `regions.run`, or no photograph has an object.
    """
    rules, options = rules or MaskRules(), options or RunOptions()
    if rules.detection:
        detection([])  # reports a missing package now, and not at the end
    photos: list[Any] = data.pairs(split)[:: options.every]
    folders = predict_all(data.name, split, methods, out, [each.photo for each in photos], rules, options)
    scores: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        own, threshold = share(photos), rules.threshold_of(method)
        boxes_of_maps = find_boxes(own, folders[name], threshold, rules.min_max, options.jobs)
        found = gather(list(options.progress(boxes_of_maps, len(own), "boxes")))
        about = {"dataset": data.name, "split": split, "method": method.name, "checkpoint": method.checkpoint}
        protocol = {
            "threshold": threshold, "min_max": rules.min_max, "box": "of the mask's largest piece", "hit": "IoU >= 0.5",
        }  # fmt: skip
        scores[name] = {**box_scores(found, detection=rules.detection), **about, "protocol": protocol}
        if is_main():
            write_json(folders[name] / "scores.json", scores[name])
    return BoxResults(scores)


class FoundBoxes(NamedTuple):
    """The boxes of one image."""

    name: str
    found: Detections  # that of the largest piece first
    wanted: np.ndarray  # true boxes of the objects, [n, 4] in pixels: x0, y0, x1, y1

    @property
    def iou(self) -> float | None:
        """The largest IoU of the first box with an object, 0 without a box; None if the image has no object."""
        if not len(self.wanted):
            return None
        return float(box_iou(self.found.boxes[0], self.wanted).max()) if len(self.found.boxes) else 0.0


def find_boxes(
    photos: Sequence[BoxedPhoto], folder: Path, threshold: Threshold, min_max: bool = False, jobs: int | None = None
) -> Iterable[FoundBoxes]:
    """Find the boxes in the maps of photographs, in order, in `jobs` processes (by default one for each core).

    Args:
        photos: photographs with the boxes of their objects.
        folder: folder in which `pipeline.predict` wrote the maps.
        threshold: threshold that turns a map into a mask; see `metrics.regions.binarize`.
        min_max: whether each map is first stretched to span 0 to 1.
        jobs: number of processes.

    Raises:
        GmaeToolsError: a map is missing or cannot be read.
    """
    find = partial(find_in_map, folder=folder, threshold=threshold, min_max=min_max)
    jobs = min(jobs or cores(), -(-len(photos) // _CHUNK))
    return map(find, photos) if jobs <= 1 else in_processes(find, photos, jobs, _CHUNK)


def find_in_map(photo: BoxedPhoto, folder: Path, threshold: Threshold, min_max: bool = False) -> FoundBoxes:
    """Find the boxes in the map of one photograph; arguments and errors are those of `find_boxes`."""
    path = folder / MAPS / f"{photo.photo.stem}.png"
    soft = read_map(path)
    try:
        soft = stretch(check_map(soft)) if min_max else check_map(soft)
        found = boxes(binarize(soft, threshold))
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{path}: {error}") from None
    sureness = np.array([soft[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in found])
    return FoundBoxes(photo.name, Detections(found, sureness), photo.boxes)


def box_scores(found: Sequence[FoundBoxes], detection: bool = True) -> dict[str, Any]:
    """Score the boxes of all images.

    Returns:
        `corloc`, the numbers of images and objects and, with `detection`, the class-agnostic AP, AP50 and AR100; all
        scores are in [0, 1].

    Raises:
        GmaeToolsError: no photograph has an object, or AP is asked for without faster-coco-eval.
    """
    overlaps = [each.iou for each in found if each.iou is not None]
    if not overlaps:
        raise GmaeToolsError("no photograph has an object to be found")
    scores: dict[str, Any] = {"corloc": float(np.mean([overlap >= HIT for overlap in overlaps]))}
    if detection:
        wanted = {each.name: each.wanted for each in found}
        scores |= detection_scores({each.name: each.found for each in found}, wanted)
    return scores | {
        "images": len(found),
        "images_with_objects": len(overlaps),
        "objects": sum(len(each.wanted) for each in found),
    }
