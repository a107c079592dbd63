"""Masks and boxes for `supervision`, which draws, filters, counts and saves detections."""

from __future__ import annotations

import numpy as np

from gmae_tools.zeroshot.boxes import boxes, pieces

try:
    from supervision import Detections
except ImportError:
    raise ImportError("supervision is missing; run pip install 'gmae-tools[supervision]'") from None


def detections(mask: np.ndarray, probability: np.ndarray | None = None) -> Detections:
    """The pieces of a mask, largest first.

    Args:
        mask: bool `[H, W]`.
        probability: of foreground, `[H, W]` in [0, 1]; its mean over a piece is the confidence in it.

    Returns:
        One detection a piece, of class 0: its mask, and its box, whose right and lower ends lie behind its last
        pixels.

    Example:
        >>> supervision.MaskAnnotator().annotate(photo, scene.mask().to_supervision())
    """
    masks = pieces(mask)
    confidence = None
    if probability is not None:
        confidence = np.array([probability[own].mean() for own in masks], np.float32)
    return Detections(
        xyxy=boxes(mask).astype(np.float32), mask=masks, confidence=confidence, class_id=np.zeros(len(masks), int)
    )
