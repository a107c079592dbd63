"""Names and defaults of everything that the benchmarks compare, written once; importing them does not load torch."""

from __future__ import annotations

from typing import Literal

from gmae_tools.zeroshot.names import EDGE_READOUTS, EDGE_SCALES, FOREGROUND_METHODS

EDGE_DETECTORS = ("sobel", "sobel-nms", "canny", "soft-canny")  # these look at the photograph itself
EDGES = (*EDGE_READOUTS, *EDGE_DETECTORS)
FIRST_EDGES = ("layers", "closed-regions")  # what is shown of a photograph unless a readout is named
WHOLE = (1,)  # scales of one look at the whole photograph

SEGMENTERS = ("centre-prior", "everything", "otsu", "otsu-border", "spectral-residual", "grabcut")  # likewise
MASKS = (*FOREGROUND_METHODS, *SEGMENTERS)

THRESHOLDS = 99  # of the boundary benchmark, as in the official code
# The threshold that makes each method's probability its mask: a level, or Otsu's of each map. The readouts of the
# Gaussians are calibrated so that 0.5 is Otsu's threshold of their scores.
MASK_THRESHOLDS: dict[str, float | Literal["otsu"]] = {**dict.fromkeys(MASKS, 0.5), "spectral-residual": "otsu"}


def scales_of(readout: str) -> tuple[int, ...]:
    """The scales at which a readout looks by default: l@N, as published, at the whole photograph, others at tiles."""
    return WHOLE if readout == "layers" else EDGE_SCALES
