"""Score your own edge detector or segmenter on the data sets of the benchmarks, with one call.

results = evaluate_edges(my_detector, "bsds500", split="val")
results.to_pandas()
results.plot("curves.png")
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gmae_tools.arguments import path_name
from gmae_tools.benchmarks import boxes, edges, regions
from gmae_tools.benchmarks.edge_methods import EdgeMethod
from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.names import THRESHOLDS
from gmae_tools.benchmarks.pipeline import Predictor, RunOptions
from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.named import ListedSet, open_dataset
from gmae_tools.datasets.saliency import Split
from gmae_tools.errors import GmaeToolsError

Folder = str | os.PathLike[str]

EVALUATIONS = Path("evaluations")  # default folder of maps and scores
_log = logging.getLogger(__name__)


def evaluate_edges(
    detector: Predictor,
    dataset: str = "bsds500",
    *,
    split: str = "val",
    root: Folder | None = None,
    out: Folder | None = None,
    name: str | None = None,
    thresholds: int = THRESHOLDS,
    options: RunOptions | None = None,
) -> edges.EdgeResults:
    """Score an edge detector with the boundary benchmark: ODS, OIS, AP and R50.

    The maps are kept, so that an interrupted call continues where it stopped, and a later call only scores. If the
    detector has changed, use another name or `RunOptions(overwrite=True)`.

    Args:
        detector: function from a photograph, uint8 RGB `[H, W, 3]`, to a soft map `[H, W]` in [0, 1]. Maps are scored
            as they are, without non-maximum suppression.
        dataset: name of the data set; only `bsds500`.
        split: `train`, `val` or `test`.
        root: folder of the data sets, by default that in the environment variable GMAE_TOOLS_DATA.
        out: folder of maps and scores, by default `evaluations/<dataset>-<split>/<name>`.
        name: name of the detector, by default that of the function.
        thresholds: number of thresholds of the benchmark.
        options: how the benchmark is run, such as `RunOptions(every=10)` for a first impression.

    Raises:
        GmaeToolsError: the data set is missing, or the detector returns something other than a map.
    """
    _check_predictor(detector, "detector")
    if dataset != "bsds500":
        raise GmaeToolsError(f"evaluate_edges: there is no data set {dataset!r}; use bsds500")
    data, method = BSDS500(root), EdgeMethod(_name(detector, name), function=detector)
    folder, options = _prepare(out, f"{dataset}-{split}", method.name, options)
    return edges.run(data, split, {"": method}, folder, thresholds=thresholds, options=options)


def evaluate_masks(
    segmenter: Predictor,
    dataset: str = "ecssd",
    *,
    split: Split = "all",
    root: Folder | None = None,
    out: Folder | None = None,
    name: str | None = None,
    rules: regions.MaskRules | None = None,
    options: RunOptions | None = None,
) -> regions.RegionResults | boxes.BoxResults:
    """Score a segmenter on a data set with masks (F-beta, IoU, ...) or with boxes (CorLoc).

    The maps are kept, so that an interrupted call continues where it stopped, and a later call only scores. If the
    segmenter has changed, use another name or `RunOptions(overwrite=True)`.

    Args:
        segmenter: function from a photograph, uint8 RGB `[H, W, 3]`, to the probability of foreground `[H, W]` in
            [0, 1].
        dataset: name of a data set, such as `ecssd` or `voc07`, or a folder with images/ and masks/.
        split: photographs with `odd` numbers, with `even` numbers, or `all`.
        root: folder of the data sets, by default that in the environment variable GMAE_TOOLS_DATA.
        out: folder of maps and scores, by default `evaluations/<dataset>-<split>/<name>`.
        name: name of the segmenter, by default that of the function.
        rules: how maps become masks, and how they are scored.
        options: how the benchmark is run, such as `RunOptions(every=10)` for a first impression.

    Raises:
        GmaeToolsError: the data set is missing, or the segmenter returns something other than a map.
    """
    _check_predictor(segmenter, "segmenter")
    dataset = path_name(dataset, "a folder with images/ and masks/, or the name of a data set, such as ecssd")
    data, method = open_dataset(dataset, root), RegionMethod(_name(segmenter, name), function=segmenter)
    folder, options = _prepare(out, f"{Path(data.name).name}-{split}".replace(":", "-"), method.name, options)
    if isinstance(data, ListedSet) and data.boxed:
        return boxes.run(data, split, {"": method}, folder, rules=rules, options=options)
    return regions.run(data, split, {"": method}, folder, rules=rules, options=options)


def _check_predictor(given: object, what: str) -> None:
    if not callable(given):
        raise GmaeToolsError(
            f"the {what} is {type(given).__name__}: give a function from a photograph, uint8 RGB [H, W, 3], to a map "
            "[H, W] in [0, 1]"
        )


def _name(function: Callable[..., Any], given: str | None) -> str:
    name = str(given or getattr(function, "__name__", type(function).__name__))
    if given is None and not name.isidentifier():  # `<lambda>`
        raise GmaeToolsError(f"{name}: give it a name, such as name='mine'; its maps are kept under it")
    return name


def _prepare(out: Folder | None, benchmark: str, name: str, options: RunOptions | None) -> tuple[Path, RunOptions]:
    """Return the folder of an evaluation and its options, after removing old maps, or reporting that they are used."""
    folder = Path(out) if out is not None else EVALUATIONS / benchmark / name
    options = options or RunOptions()
    if (folder / MAPS).is_dir():
        if options.overwrite:
            shutil.rmtree(folder / MAPS)
        else:
            _log.warning("%s: the maps that %s made before are used again", folder, name)
    return folder, options
