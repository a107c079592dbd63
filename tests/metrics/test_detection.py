"""Class-agnostic AP, AP50 and AR100: by hand, and against pycocotools."""

from __future__ import annotations

import builtins
import contextlib
import io
from typing import Any

import numpy as np
import pytest

from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.detection import Detections, detection_scores

NEEDED = "needs faster-coco-eval: pip install 'gmae-tools[detection]'"
BOX = np.array([[10, 10, 50, 40]])


def found(boxes: Any, *scores: float) -> Detections:
    return Detections(np.array(boxes), np.array(scores))


def random_images(count: int) -> tuple[dict[str, Detections], dict[str, np.ndarray]]:
    """Boxes, and detections that are off by some pixels, doubled, or of nothing; some images have neither."""
    rng = np.random.default_rng(0)
    truths, detections = {}, {}
    for index in range(count):
        n = rng.integers(0, 4)
        corners = rng.integers(0, 60, (n, 2))
        boxes = np.concatenate([corners, corners + rng.integers(20, 100, (n, 2))], 1)
        truths[f"image {index}"] = boxes
        guesses = np.concatenate([boxes + rng.integers(-6, 7, boxes.shape), boxes[:1], [[0, 0, 9, 9]]])
        if index % 5:
            detections[f"image {index}"] = Detections(guesses, rng.random(len(guesses)))
    return detections, truths


def test_by_hand() -> None:
    pytest.importorskip("faster_coco_eval", reason=NEEDED)
    perfect = {"a": found(BOX, 0.9), "b": found(BOX, 0.8)}
    truths = {"a": BOX, "b": BOX}
    assert detection_scores(perfect, truths) == pytest.approx({"ap": 1, "ap50": 1, "ar100": 1})
    # An IoU of 0.75 passes six of the ten thresholds (0.5, ..., 0.75).
    narrow = {name: found([[10, 10, 40, 40]], 0.5) for name in truths}
    assert detection_scores(narrow, truths) == pytest.approx({"ap": 0.6, "ap50": 1, "ar100": 0.6})
    assert detection_scores({}, truths) == {"ap": 0, "ap50": 0, "ar100": 0}
    assert detection_scores({}, {"a": np.empty((0, 4))}) == {"ap": None, "ap50": None, "ar100": None}


def test_agrees_with_pycocotools() -> None:
    pytest.importorskip("faster_coco_eval", reason=NEEDED)
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections, truths = random_images(40)
    numbers = {name: index for index, name in enumerate(truths, 1)}
    data: dict[str, Any] = {"images": [{"id": n} for n in numbers.values()], "categories": [{"id": 7}]}
    data["annotations"] = []
    for name, boxes in truths.items():
        for x0, y0, x1, y1 in boxes.tolist():
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "category_id": 7}
            data["annotations"].append({"id": len(data["annotations"]) + 1, "image_id": numbers[name], **box})
    rows = [
        [numbers[name], x0, y0, x1 - x0, y1 - y0, score, 7]
        for name, each in detections.items()
        for (x0, y0, x1, y1), score in zip(each.boxes.tolist(), each.scores.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = data
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(np.array(rows, float)), "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = {"ap": evaluation.stats[0], "ap50": evaluation.stats[1], "ar100": evaluation.stats[8]}
    assert 0.1 < expected["ap"] < 0.9
    assert detection_scores(detections, truths) == pytest.approx(expected, abs=1e-6)


def test_detections_of_unknown_images_are_refused() -> None:
    pytest.importorskip("faster_coco_eval", reason=NEEDED)
    with pytest.raises(GmaeToolsError, match="image b has detections but no ground truth"):
        detection_scores({"b": found(BOX, 1.0)}, {"a": BOX})


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "faster_coco_eval":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GmaeToolsError, match=r"pip install 'gmae-tools\[detection\]'"):
        detection_scores({}, {"a": BOX})
