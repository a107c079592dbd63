"""Edge detectors on BSDS500, in two stages: a soft map of each photograph, then the scores of the maps.

    source = ModelSource("gmae-tiny")
    methods = {"regions": EdgeMethod("regions", source, Looks()), "canny": EdgeMethod("canny")}
    results = run(BSDS500("data"), "val", methods, Path("edges"))
    results.to_pandas()

Either stage goes on where it stopped. Processes that were launched together (`gmae_tools.system.processes`) share the
photographs and the counts, and all of them know the scores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmae_tools.benchmarks.edge_methods import EdgeMethod
from gmae_tools.benchmarks.map_files import MapAndTruth, count_files, count_human, pair_files, score
from gmae_tools.benchmarks.names import THRESHOLDS
from gmae_tools.benchmarks.pipeline import RunOptions, predict
from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.benchmarks.shown import ShownTable
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.metrics.boundaries import BoundaryProtocol, BoundaryResult
from gmae_tools.report.pr_curve import PrecisionRecallCurve, plot_pr_curves
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import gather, is_main, join, share
from gmae_tools.system.settings import claim

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COUNTS, HUMAN = "counts", "human"  # folders: what is matched in each map, and among the annotators
SCORES = ("scores.json", "images.csv", "curve.csv", "curve.png", "human.json")


@dataclass(frozen=True, repr=False)
class EdgeResults(ShownTable):
    """The scores of several detectors on a split, and how well the annotators agree on it.

    Attributes:
        split: of BSDS500.
        methods, results: by the names that `run` was given.
        human: agreement of the annotators; None if it was not asked for.
    """

    split: str
    methods: Mapping[str, EdgeMethod]
    results: Mapping[str, BoundaryResult]
    human: BoundaryResult | None = None

    def to_pandas(self) -> pd.DataFrame:
        """One row a detector with its scores, without the protocol."""
        import pandas as pd

        rows = [{"method": name or self.methods[name].label, **each.to_dict()} for name, each in self.results.items()]
        return pd.DataFrame(rows).drop(columns="protocol")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The precision-recall curves of all detectors in one figure, which is also written if there is a path."""
        curves = [curve_of(name or self.methods[name].label, each) for name, each in self.results.items()]
        return plot_pr_curves(path, curves, _human_point(self.human), self.caption(*self.results))

    def caption(self, *names: str) -> str:
        """What a figure of these detectors says about itself."""
        first = self.results[names[0]]
        models = dict.fromkeys(model for name in names if (model := self.methods[name].model))
        parts = [f"BSDS500 {self.split}: {first.images} images, {first.thresholds} thresholds"]
        return "; ".join(parts + [f"{model.name}, K = {model.k}" for model in models])


def run(
    data: BSDS500,
    split: str,
    methods: Mapping[str, EdgeMethod],
    out: Path,
    *,
    thresholds: int = THRESHOLDS,
    human: bool = True,
    options: RunOptions | None = None,
) -> EdgeResults:
    """Predict the maps of every detector, and score them.

    Args:
        split: `train`, `val` or `test`.
        methods: by the folder below `out` that receives maps, counts, scores and settings; `""` is `out` itself.
        thresholds: of the benchmark. When they change, the maps that are there are scored anew.
        human: whether the agreement of the annotators is taken, too.

    Raises:
        GmaeToolsError: a folder holds maps of other settings, a photograph cannot be read, or a map has no ground
            truth.
    """
    join()
    options = options or RunOptions()
    folders = {name: out / name for name in methods}
    for name, method in methods.items():
        claim(
            folders[name],
            {"dataset": "bsds500", "split": split, **method.settings()},
            scoring={"thresholds": thresholds},
            parts=(MAPS, COUNTS),
            scores=SCORES,
            overwrite=options.overwrite,
        )
    photos = data.images(split)[:: options.every]
    predict({folders[name]: method for name, method in methods.items()}, photos, options)
    names = {photo.stem for photo in photos}
    truths = data.ground_truth_folder(split)
    results: dict[str, BoundaryResult] = {}
    for name, method in methods.items():
        pairs = [
            pair
            for pair in pair_files(folders[name] / MAPS, truths, subset=options.every > 1)
            if pair.name in names  # the folder may hold more maps, of an earlier run with more photographs
        ]
        label = method.label if len(methods) > 1 else "scoring"
        results[name] = score_maps(pairs, thresholds, folders[name] / COUNTS, options, label)
        if method.suppression:
            results[name].protocol["non_maximum_suppression"] = method.suppression
    agreement = score_annotators(pairs, out / HUMAN, options) if human else None
    found = EdgeResults(split, methods, results, agreement)
    if is_main():
        for name, method in methods.items():
            write_scores(folders[name], method.label, results[name], agreement, found.caption(name))
    return found


def score_maps(
    pairs: Sequence[MapAndTruth], thresholds: int, cache: Path, options: RunOptions, label: str = "scoring"
) -> BoundaryResult:
    """Score maps against their ground truth; the counts of each image are kept in the folder `cache`."""
    protocol, own = BoundaryProtocol(thresholds), share(pairs)
    counts = count_files(own, protocol, jobs=options.jobs, cache=cache)
    return score(gather(list(options.progress(counts, len(own), label))), protocol)


def score_annotators(pairs: Sequence[MapAndTruth], cache: Path, options: RunOptions) -> BoundaryResult:
    """How well the annotators agree on the images of these pairs."""
    protocol, own = BoundaryProtocol(1), share(pairs)
    counts = count_human(own, protocol, jobs=options.jobs, cache=cache)
    return score(gather(list(options.progress(counts, len(own), "annotators"))), protocol)


def write_scores(
    folder: Path, name: str, result: BoundaryResult, human: BoundaryResult | None, caption: str = ""
) -> None:
    """Write the scores, the table of the images, the curve and, if given, the human agreement into `folder`.

    Args:
        name: of what was scored, for the legend of the figure.
    """
    texts = {
        "scores.json": json.dumps(result.to_dict(), indent=2) + "\n",
        "images.csv": result.to_pandas().to_csv(index=False),
        "curve.csv": result.curve().to_csv(index=False),
    }
    if human:
        agreement = {"f": human.ods, "precision": human.ods_precision, "recall": human.ods_recall}
        texts["human.json"] = json.dumps({**agreement, "images": human.images}, indent=2) + "\n"
    for file, text in texts.items():
        with atomic_path(folder / file) as temporary:
            temporary.write_text(text)
    plot_pr_curves(folder / "curve.png", [curve_of(name, result)], _human_point(human), caption)


def curve_of(name: str, result: BoundaryResult) -> PrecisionRecallCurve:
    """A result as a curve of the figure."""
    total = result.total
    return PrecisionRecallCurve(name, total.recall, total.precision, (result.ods_recall, result.ods_precision))


def _human_point(human: BoundaryResult | None) -> tuple[float, float] | None:
    return (human.ods_recall, human.ods_precision) if human else None
