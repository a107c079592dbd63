"""Names and defaults of all methods that the benchmarks compare. Importing them does not load torch."""

from __future__ import annotations

from typing import Literal

from gmae_tools.zeroshot.names import EDGE_READOUTS, EDGE_SCALES, FOREGROUND_METHODS

EDGE_DETECTORS = ("sobel", "sobel-nms", "canny", "soft-canny", "histograms")  # these look at the photograph itself
EDGES = (*EDGE_READOUTS, *EDGE_DETECTORS)
FIRST_EDGES = ("layers", "closed-regions", "regions-and-photo")  # readouts that are shown of a photograph by default
WHOLE = (1,)  # the scales of a single view of the whole photograph

SEGMENTERS = ("centre-prior", "everything", "otsu", "otsu-border", "spectral-residual", "grabcut")  # so do these
MASKS = (*FOREGROUND_METHODS, *SEGMENTERS)

THRESHOLDS = 99  # number of thresholds of the boundary benchmark, as in the official code
# The threshold that turns each method's probability into a mask: a number, or `otsu` for Otsu's threshold of each map.
# The readouts of the Gaussians are calibrated so that 0.5 is Otsu's threshold of their scores.
MASK_THRESHOLDS: dict[str, float | Literal["otsu"]] = {**dict.fromkeys(MASKS, 0.5), "spectral-residual": "otsu"}


def scales_of(readout: str) -> tuple[int, ...]:
    """Return the default scales of a readout: the whole photograph for l@N, as published, and tiles for all others."""
    return WHOLE if readout == "layers" else EDGE_SCALES
