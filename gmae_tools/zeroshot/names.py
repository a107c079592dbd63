"""Names and defaults of the readouts. Importing them does not load torch, so that a command's help is quick."""

from __future__ import annotations

EDGE_READOUTS = (
    "layers",
    "layer-changes",
    "expected-depth",
    "regions",
    "combined",
    "render-gradient",
    "closed-regions",
    "regions-and-photo",
)
FOREGROUND_METHODS = ("grouped", "depth")

PREFIXES = (32, 64, 128, 256, 512)  # numbers of nearest Gaussians that are rendered together, besides all
PREFIX_SHARES = (1, 3, 10, 30)  # per cent of the Gaussians, instead of `PREFIXES` if there are more than `MANY`
MANY = 4096
LAYERS = 16  # l@16: the number of depth groups of a single edge map
HIERARCHY = (32, 16, 8, 4)  # the numbers of depth groups of a hierarchy of edge maps

EDGE_SCALES = (1, 2, 3, 4)  # the whole and tiles; they score best on BSDS500 val, see evals/studies/edge_choices.py
