"""The boundary matching as one assignment problem for scipy, with an outlier node of its own for every pixel.

The graph of the BSDS benchmark's `match.cc`, without its random part: pixels on either side, each with a
private outlier on the other side; outliers are joined where their pixels are, so that a perfect matching
always exists. Only pixels with a partner in range become nodes.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from gmae_tools.metrics import boundary_matching


def assign(
    prediction: np.ndarray, truth: np.ndarray, max_distance: float, *, ties: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Matched pairs as two arrays [M, 2] of (row, column): predicted pixels and their ground-truth partners.

    ties: also charge each pair's tie-breaking cost. Only for small maps, where it is exact in float64 (at most
    49 pixels a side, and `max_distance` at most 4).
    """
    ours, theirs = np.argwhere(prediction), np.argwhere(truth)
    near = cKDTree(ours).sparse_distance_matrix(cKDTree(theirs), max_distance + 1e-6, output_type="ndarray")
    pairs = np.stack([ours[near["i"]], theirs[near["j"]]])
    squared = ((pairs[0] - pairs[1]) ** 2).sum(-1)
    pairs, squared = pairs[:, squared <= max_distance**2], squared[squared <= max_distance**2]
    if not len(squared):
        return pairs[0], pairs[1]
    ours, i = np.unique(pairs[0], axis=0, return_inverse=True)
    theirs, j = np.unique(pairs[1], axis=0, return_inverse=True)
    n, m = len(ours), len(theirs)
    cost = np.rint(100 * np.sqrt(squared))
    outlier = np.ceil(100 * 100 * max_distance)
    if ties:
        # A lower price of outliers still puts the number of matches first here, and leaves room for the ties.
        assert n <= 49 and m <= 49 and max_distance <= 4
        outlier = 2.0**14
        pad, stride = boundary_matching.margin(max_distance), prediction.shape[1]
        first, second = (pairs + pad) @ np.array([stride + 2 * pad, 1])
        tie = [boundary_matching._tie(p, q) for p, q in zip(first, second, strict=True)]
        cost, outlier = cost * 2.0**34 + np.array(tie, float), outlier * 2.0**34
    rows = np.concatenate([i, np.arange(n), n + np.arange(m), n + j])
    columns = np.concatenate([j, m + np.arange(n), np.arange(m), m + i])
    # An explicit zero would be taken for a missing edge: every edge costs 1 more.
    costs = np.concatenate([cost, np.full(n + m + len(cost), outlier)]) + 1
    places = (rows.astype(np.int32), columns.astype(np.int32))  # older versions know no others
    row, column = min_weight_full_bipartite_matching(csr_array((costs, places), shape=(n + m, n + m)))
    real = (row < n) & (column < m)
    return ours[row[real]], theirs[column[real]]
