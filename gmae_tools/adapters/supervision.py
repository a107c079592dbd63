"""Masks and boxes for `supervision`, a library that shows, filters, counts and saves detections."""

from __future__ import annotations

import numpy as np

from gmae_tools.zeroshot.boxes import boxes, pieces

try:
    from supervision import Detections
except ImportError:
    raise ImportError("supervision is missing; run pip install 'gmae-tools[supervision]'") from None


def detections(mask: np.ndarray, probability: np.ndarray | None = None) -> Detections:
    """Turn the pieces of a mask into detections, the largest piece first.

    Args:
        mask: bool `[H, W]`.
        probability: probability of foreground, `[H, W]` in [0, 1]; its mean over a piece is the confidence.

    Returns:
        One detection of class 0 for each piece, with its mask and its box. Boxes are half-open: x1 and y1 are one more
        than the last column and row of the piece.

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
