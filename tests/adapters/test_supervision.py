"""Masks as detections of `supervision`."""

from __future__ import annotations

import numpy as np
import pytest

from gmae_tools.camera import Camera
from gmae_tools.scene import Scene
from tests.some_gaussians import some_gaussians

pytest.importorskip("supervision", reason="needs the extra supervision")

from gmae_tools.adapters.supervision import detections


def test_two_pieces_with_their_boxes_masks_and_confidences() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:5, 3:7] = True  # 3 x 4
    mask[10:18, 10:25] = True
    mask[12:16, 12:20] = False  # a hole, in which a smaller piece lies
    mask[13:15, 14:16] = True
    found = detections(mask, np.where(mask, 0.75, 0.25))
    assert found.xyxy.tolist() == [[10, 10, 25, 18], [3, 2, 7, 5], [14, 13, 16, 15]]
    assert found.mask is not None and found.confidence is not None and found.class_id is not None
    assert [int(own.sum()) for own in found.mask] == [120 - 32, 12, 4]
    assert (found.mask.sum(0) == mask).all()
    np.testing.assert_allclose(found.confidence, 0.75)
    assert found.class_id.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.area, [88, 12, 4])


def test_an_empty_mask_has_no_detections() -> None:
    assert len(detections(np.zeros((20, 30), bool))) == 0


def test_a_foreground_gives_its_own() -> None:
    foreground = Scene(some_gaussians(), Camera("gmae", 8.0, 3.0), 24, 40).mask()
    found = foreground.to_supervision()
    np.testing.assert_array_equal(found.xyxy, foreground.boxes)
    assert found.confidence is not None and (found.confidence > 0.5).all()
