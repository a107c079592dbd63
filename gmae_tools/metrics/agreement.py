"""How far two maps of the same scene agree on what lies before what."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

_LEAST_PIXELS = 3


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps of one shape, in [-1, 1], over the pixels where both are finite.

    Maps of depth have no scale and no origin of their own; only their order can be compared. NaN where a map has
    nothing to compare: fewer than three such pixels, or a single value in all of them.

    Raises:
        ValueError: the maps differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of shapes {list(first.shape)} and {list(second.shape)} cannot be compared")
    known = np.isfinite(first) & np.isfinite(second)
    a, b = first[known], second[known]
    if a.size < _LEAST_PIXELS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
