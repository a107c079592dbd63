"""Score edge detectors on BSDS500 in two stages: predict a soft map of each photograph, then score the maps.

    source = ModelSource("gmae-tiny")
    methods = {"regions": EdgeMethod("regions", source, Looks()), "canny": EdgeMethod("canny")}
    results = run(BSDS500("data"), "val", methods, Path("edges"))
    results.to_pandas()

An interrupted run continues in either stage. Processes that were launched together (`gmae_tools.system.processes`)
share the photographs and the counts, and all of them return the scores.
"""

from __future__ import annotations

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
from gmae_tools.system.files import write_json, write_text
from gmae_tools.system.processes import gather, is_main, join, share
from gmae_tools.system.settings import claim

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COUNTS, HUMAN = "counts", "human"  # folders of the counts of matched pixels: in each map, and between annotators
SCORES = ("scores.json", "images.csv", "curve.csv", "curve.png", "human.json")


@dataclass(frozen=True, repr=False)
class EdgeResults(ShownTable):
    """The scores of several detectors on a split, and how well the annotators agree on it.

    Attributes:
        split: split of BSDS500.
        methods, results: the detectors and their scores, by the names that `run` was given.
        human: agreement of the annotators; None if `run` was not asked for it.
    """

    split: str
    methods: Mapping[str, EdgeMethod]
    results: Mapping[str, BoundaryResult]
    human: BoundaryResult | None = None

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for each detector: its scores, without the protocol."""
        import pandas as pd

        rows = [{"method": name or self.methods[name].label, **each.to_dict()} for name, each in self.results.items()]
        return pd.DataFrame(rows).drop(columns="protocol")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plot the precision-recall curves of all detectors in a matplotlib figure; write it to `path` if given."""
        curves = [curve_of(name or self.methods[name].label, each) for name, each in self.results.items()]
        return plot_pr_curves(path, curves, _human_point(self.human), self.caption(*self.results))

    def caption(self, *names: str) -> str:
        """Return the caption of a plot of these detectors: the data set, the protocol and the models."""
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
        data: the data set.
        split: `train`, `val` or `test`.
        methods: detectors by the name of the folder below `out` that receives their maps, counts, scores and settings;
            `""` is `out` itself.
        out: folder of the results.
        thresholds: number of thresholds of the benchmark. If it changes, existing maps are scored again.
        human: whether the agreement of the annotators is measured, too.
        options: how the benchmark is run.

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
    """Score maps against their ground truth; the counts of each image are kept in the folder `cache`.

    `label` is the name of this step for `options.progress`.
    """
    protocol, own = BoundaryProtocol(thresholds), share(pairs)
    counts = count_files(own, protocol, jobs=options.jobs, cache=cache)
    return score(gather(list(options.progress(counts, len(own), label))), protocol)


def score_annotators(pairs: Sequence[MapAndTruth], cache: Path, options: RunOptions) -> BoundaryResult:
    """Measure how well the annotators of the images of these pairs agree; arguments as for `score_maps`."""
    protocol, own = BoundaryProtocol(1), share(pairs)
    counts = count_human(own, protocol, jobs=options.jobs, cache=cache)
    return score(gather(list(options.progress(counts, len(own), "annotators"))), protocol)


def write_scores(
    folder: Path, name: str, result: BoundaryResult, human: BoundaryResult | None, caption: str = ""
) -> None:
    """Write the scores, a table of the images, the precision-recall curve and the agreement of the annotators, if any.

    The plot of the curve has `name` in its legend, and a caption.
    """
    write_json(folder / "scores.json", result.to_dict())
    write_text(folder / "images.csv", result.to_pandas().to_csv(index=False))
    write_text(folder / "curve.csv", result.curve().to_csv(index=False))
    if human:
        agreement = {"f": human.ods, "precision": human.ods_precision, "recall": human.ods_recall}
        write_json(folder / "human.json", {**agreement, "images": human.images})
    plot_pr_curves(folder / "curve.png", [curve_of(name, result)], _human_point(human), caption)


def curve_of(name: str, result: BoundaryResult) -> PrecisionRecallCurve:
    """Turn a result into a curve of the plot, with the point of its ODS."""
    total = result.total
    return PrecisionRecallCurve(name, total.recall, total.precision, (result.ods_recall, result.ods_precision))


def _human_point(human: BoundaryResult | None) -> tuple[float, float] | None:
    return (human.ods_recall, human.ods_precision) if human else None
