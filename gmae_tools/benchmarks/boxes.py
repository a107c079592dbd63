"""Segmenters on a data set with boxes: single-object discovery and class-agnostic detection.

A threshold makes each soft map a mask. The box of its largest piece is the one found for discovery; those of all pieces
are detections without classes, surer the higher the map's mean inside (`zeroshot.boxes`, `metrics.detection`).

CorLoc: share of the photographs with an object on which that one box has an IoU of 0.5 or more with any object's, as in
LOST (arXiv 2109.14279) and TokenCut (arXiv 2202.11539).
"""

from __future__ import annotations

import json
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
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores, gather, in_processes, is_main, share
from gmae_tools.zeroshot.boxes import boxes

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 16  # images that a process is given at a time


@dataclass(frozen=True, repr=False)
class BoxResults(ShownTable):
    """The scores of several segmenters on a data set with boxes: `scores` by the names that `run` was given."""

    scores: Mapping[str, dict[str, Any]]

    def to_pandas(self) -> pd.DataFrame:
        """One row a segmenter with its scores, without the protocol."""
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
        data: a data set that has boxes; see `regions.run` for those that have masks, and for the other arguments.
    """
    rules, options = rules or MaskRules(), options or RunOptions()
    if rules.detection:
        detection([])  # says now, not at the end, if something has to be installed
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
            with atomic_path(folders[name] / "scores.json") as temporary:
                temporary.write_text(json.dumps(scores[name], indent=2) + "\n")
    return BoxResults(scores)


class FoundBoxes(NamedTuple):
    """What was found in an image.

    Attributes:
        name: of the image.
        found: its boxes, the largest piece's first.
        wanted: those of its objects `[n, 4]`.
    """

    name: str
    found: Detections
    wanted: np.ndarray

    @property
    def iou(self) -> float | None:
        """IoU of the first box with the object that it fits best; None where there is no object."""
        if not len(self.wanted):
            return None
        return float(box_iou(self.found.boxes[0], self.wanted).max()) if len(self.found.boxes) else 0.0


def find_boxes(
    photos: Sequence[BoxedPhoto], folder: Path, threshold: Threshold, min_max: bool = False, jobs: int | None = None
) -> Iterable[FoundBoxes]:
    """Find the boxes in the maps of photographs, which lie in a folder as `pipeline.predict` leaves them.

    Args:
        threshold: makes a map a mask; see `metrics.regions.binarize`.
        min_max: stretch each map to span 0 to 1 before.
        jobs: processes, by default one a core.

    Raises:
        GmaeToolsError: a map is missing or cannot be read.
    """
    find = partial(find_in_map, folder=folder, threshold=threshold, min_max=min_max)
    jobs = min(jobs or cores(), -(-len(photos) // _CHUNK))
    return map(find, photos) if jobs <= 1 else in_processes(find, photos, jobs, _CHUNK)


def find_in_map(photo: BoxedPhoto, folder: Path, threshold: Threshold, min_max: bool = False) -> FoundBoxes:
    """Find the boxes in the map of one photograph."""
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
    """CorLoc, the numbers of images and objects and, with `detection`, class-agnostic AP, AP50 and AR100.

    Raises:
        GmaeToolsError: no photograph has an object, or AP is asked for without faster-coco-eval.
    """
    overlaps = [each.iou for each in found if each.iou is not None]
    if not overlaps:
        raise GmaeToolsError("no photograph has an object to be found")
    scores: dict[str, Any] = {"corloc": float(np.mean([overlap >= HIT for overlap in overlaps]))}
    if detection:
        by_name = {each.name: each for each in found}
        wanted = {name: each.wanted for name, each in by_name.items()}
        scores |= detection_scores({name: each.found for name, each in by_name.items()}, wanted)
    return scores | {
        "images": len(found), "images_with_objects": len(overlaps), "objects": sum(len(each.wanted) for each in found),
    }  # fmt: skip
