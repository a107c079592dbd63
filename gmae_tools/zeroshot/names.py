"""Names and defaults of the readouts, without torch: what a command line can say before anything is loaded."""

from __future__ import annotations

EDGE_READOUTS = (
    "layers", "layer-changes", "expected-depth", "regions", "combined", "render-gradient", "closed-regions",
)  # fmt: skip
FOREGROUND_METHODS = ("grouped", "depth")

PREFIXES = (32, 64, 128, 256, 512)  # numbers of nearest Gaussians that are rendered together, besides all
PREFIX_SHARES = (1, 3, 10, 30)  # the same in per cent, of scenes of more than `MANY` Gaussians
MANY = 4096
LAYERS = 16  # l@16: the number of depth groups of a single edge map
HIERARCHY = (32, 16, 8, 4)  # the numbers of depth groups of a hierarchy of edge maps

EDGE_SCALES = (3, 4)  # looks of an edge detector; the best on BSDS500 val: evals/studies/edge_choices.py
