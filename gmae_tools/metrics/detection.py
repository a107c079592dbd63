"""Class-agnostic detection scores of boxes as in COCO (`useCats = 0`), computed by faster-coco-eval.

Source: Lin et al., "Microsoft COCO: Common objects in context", ECCV 2014, and its `cocoeval.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gmae_tools.errors import GmaeToolsError

_KEYS = {"ap": 0, "ap50": 1, "ar100": 8}  # positions in the list of COCO's scores


class Detections(NamedTuple):
    """The detections in an image.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, half-open, `[n, 4]`.
        scores: Confidences `[n]`, of which only the order among all images matters.
    """

    boxes: np.ndarray
    scores: np.ndarray


def detection_scores(found: Mapping[str, Detections], truths: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """AP (mean over IoU 0.5, 0.55, ..., 0.95), AP50 and AR100 of boxes without classes, each in [0, 1].

    Args:
        found: Detections by image id. An image without entry has no detections.
        truths: Boxes to find, `[n, 4]`, by image id.

    Returns:
        `{"ap": ..., "ap50": ..., "ar100": ...}`; None if there is no box to find in any image.

    Raises:
        GmaeToolsError: `faster-coco-eval` is not installed, or detections are of an image that is not among the truths.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        problem = "AP of boxes needs faster-coco-eval: pip install 'gmae-tools[detection]'"
        raise GmaeToolsError(problem) from None
    if strange := sorted(found.keys() - truths.keys()):
        raise GmaeToolsError(f"image {strange[0]} has detections but no ground truth")
    numbers = {name: number for number, name in enumerate(sorted(truths), 1)}
    if not any(len(boxes) for boxes in truths.values()):
        return dict.fromkeys(_KEYS)
    wanted = ((name, box) for name in numbers for box in truths[name])
    annotations = [{**_annotation(box, numbers[name]), "id": i} for i, (name, box) in enumerate(wanted, 1)]
    detections = [
        {**_annotation(box, numbers[name]), "score": float(score)}
        for name, each in found.items()
        for box, score in zip(*each, strict=True)
    ]
    if not detections:
        return dict.fromkeys(_KEYS, 0.0)
    images, categories = [{"id": number} for number in numbers.values()], [{"id": 1, "name": "object"}]
    truth = COCO({"images": images, "annotations": annotations, "categories": categories})
    evaluation = COCOeval_faster(truth, truth.loadRes(detections), "bbox")
    evaluation.params.useCats = 0
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {key: float(evaluation.stats[place]) for key, place in _KEYS.items()}


def _annotation(box: np.ndarray, image: int) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(side) for side in box)
    size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    return {"image_id": image, "category_id": 1, "iscrowd": 0, **size}
