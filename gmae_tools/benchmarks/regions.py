"""Score segmenters on a data set with masks in two stages: predict a soft map of each photograph, then score the maps.

    source = ModelSource("gmae-tiny")
    methods = {"grouped": RegionMethod("grouped", source, Looks((1,))), "otsu": RegionMethod("otsu")}
    results = run(Saliency("ecssd", "data"), "odd", methods, Path("masks"))
    results.to_pandas()

An interrupted first stage continues where it stopped. The second stage is quick, and also scores maps from other
programs. Processes that were launched together (`gmae_tools.system.processes`) share the photographs, and all of them
return the scores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.pipeline import RunOptions, predict
from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.benchmarks.shown import ShownTable
from gmae_tools.datasets.named import ListedSet
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency, Split, pair_by_stem, read_grey
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import IMAGE_SUFFIXES
from gmae_tools.metrics.detection import Detections, detection_scores
from gmae_tools.metrics.map_levels import MapLevels, check_levels
from gmae_tools.metrics.regions import (
    RegionMetrics,
    RegionProtocol,
    RegionResult,
    RegionScores,
    Threshold,
    binarize,
    check_map,
    score_regions,
    stretch,
)
from gmae_tools.system.files import write_json, write_text
from gmae_tools.system.processes import cores, gather, in_processes, is_main, join, share
from gmae_tools.system.settings import claim
from gmae_tools.zeroshot.boxes import boxes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAP_SUFFIXES = IMAGE_SUFFIXES | {".npy"}
SCORES = ("scores.json", "images.csv", "curve.csv")

_CHUNK = 16  # number of images that a process takes at a time; starting a process does not pay for fewer


@dataclass(frozen=True)
class MaskRules:
    """How probabilities of foreground become masks and are scored.

    Attributes:
        threshold: threshold that turns a map into a mask: a number in [0, 1], or `otsu` for Otsu's threshold of each
            map; None for the default of each method.
        min_max: whether every map is stretched to span 0 to 1 before it is scored.
        detection: whether all boxes are also scored as detections, which needs faster-coco-eval.
    """

    threshold: Threshold | None = None
    min_max: bool = False
    detection: bool = False

    def threshold_of(self, method: RegionMethod) -> Threshold:
        """Return the threshold for the maps of a method."""
        return method.threshold if self.threshold is None else self.threshold


@dataclass(frozen=True, repr=False)
class RegionResults(ShownTable):
    """The scores of several segmenters on a data set.

    Attributes:
        methods, results: the segmenters and their scores, by the names that `run` was given.
        scores: content of `scores.json` for each of them.
    """

    methods: Mapping[str, RegionMethod]
    results: Mapping[str, RegionResult]
    scores: Mapping[str, dict[str, Any]]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for each segmenter: its scores, without the protocol."""
        import pandas as pd

        rows = [{**each, "method": name or self.methods[name].name} for name, each in self.scores.items()]
        return pd.DataFrame(rows).drop(columns="protocol").set_index("method").reset_index()

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plot F-beta against the threshold for all segmenters in a matplotlib figure; write it to `path` if given."""
        from gmae_tools.report.region_curve import plot_f_beta

        curves = {name or self.methods[name].name: each.curve() for name, each in self.results.items()}
        about = next(iter(self.scores.values()))
        return plot_f_beta(path, curves, f"{about['dataset']}, split {about['split']}: {about['images']} images")


def run(
    data: Saliency | ListedSet,
    split: Split,
    methods: Mapping[str, RegionMethod],
    out: Path,
    *,
    rules: MaskRules | None = None,
    options: RunOptions | None = None,
) -> RegionResults:
    """Predict the maps of every segmenter, and score them against masks.

    Args:
        data: a data set that has masks; `boxes.run` takes those that have boxes.
        split: photographs with `odd` numbers, with `even` numbers, or `all`.
        methods: segmenters by the name of the folder below `out` that receives their maps, scores and settings; `""` is
            `out` itself.
        out: folder of the results.
        rules: how maps become masks and are scored. If they change, existing maps are scored again.
        options: how the benchmark is run.

    Raises:
        GmaeToolsError: a folder holds maps of other settings, a photograph or a mask cannot be read, or AP is asked for
            without faster-coco-eval.
    """
    rules, options = rules or MaskRules(), options or RunOptions()
    if rules.detection:
        detection([])  # reports a missing package now, and not at the end
    pairs: list[Any] = data.pairs(split)[:: options.every]
    folders = predict_all(data.name, split, methods, out, [pair.photo for pair in pairs], rules, options)
    results: dict[str, RegionResult] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        own, protocol = share(maps_of(folders[name], pairs)), RegionProtocol(rules.min_max, rules.threshold_of(method))
        scored = gather(list(options.progress(score_pairs(own, protocol, options.jobs), len(own), "scoring")))
        result = results[name] = summarize(scored, protocol)
        about = {"dataset": data.name, "split": split, "method": method.name, "checkpoint": method.checkpoint}
        scores[name] = result.to_dict() | about
        whole = data.official_size
        if whole and split == "all" and whole != len(pairs):
            scores[name]["protocol"]["deviation"] = f"{len(pairs)} of the {whole} photographs of {data.name}"
        if rules.detection:
            scores[name] |= detection(scored)
        if is_main():
            write_scores(folders[name], result, scores[name])
    return RegionResults(methods, results, scores)


def predict_all(
    dataset: str,
    split: Split,
    methods: Mapping[str, RegionMethod],
    out: Path,
    photos: Sequence[Path],
    rules: MaskRules,
    options: RunOptions,
) -> dict[str, Path]:
    """Run the first stage: write the maps and the settings of every segmenter; returns their folders by name.

    Args:
        dataset: name of the data set, for the settings.
        photos: photographs of the split.
        split, methods, out, rules, options: as for `run`.
    """
    join()
    folders = {name: out / name for name in methods}
    for name, method in methods.items():
        claim(
            folders[name],
            {"dataset": dataset, "split": split, **method.settings()},
            scoring={"threshold": rules.threshold_of(method), "min_max": rules.min_max},
            parts=(MAPS,),
            scores=SCORES,
            overwrite=options.overwrite,
        )
    predict({folders[name]: method for name, method in methods.items()}, photos, options)
    return folders


def write_scores(folder: Path, result: RegionResult, scores: Mapping[str, Any]) -> None:
    """Write the scores of a segmenter, its curves over the thresholds and a table of the images to a folder."""
    write_text(folder / "images.csv", result.to_pandas().to_csv(index=False))
    write_text(folder / "curve.csv", result.curve().to_csv(index=False))
    write_json(folder / "scores.json", scores)


class ScoredPair(NamedTuple):
    """The scores of one image."""

    name: str
    figures: RegionMetrics
    found: Detections  # boxes of the map's mask; the confidence in a box is the mean of the map inside
    wanted: np.ndarray  # boxes of the true mask, [n, 4] in pixels: x0, y0, x1, y1
    levels: MapLevels  # of the map, inside and outside of the true mask
    resized: bool  # whether the map had another size than the mask


def read_map(path: Path) -> np.ndarray:
    """Read a map of foreground `[H, W]` in [0, 1]: a grey picture in any format, with 8 bits, or an array in `.npy`."""
    if path.suffix.lower() != ".npy":
        return read_grey(path)
    from gmae_tools.benchmarks.map_files import read_soft_map

    return read_soft_map(path)


def pair_maps(maps: Path, masks: Path) -> list[PhotoAndMask]:
    """Match the files of a folder of maps with those of a folder of masks by their stems.

    Returns:
        The files of each image, where `photo` is the map.

    Raises:
        GmaeToolsError: a map has no mask, or a mask has no map; the message names them.
    """
    ours, theirs = pair_by_stem(maps, masks, ("map", "mask"), MAP_SUFFIXES)
    return [PhotoAndMask(name, ours[name], theirs[name]) for name in ours]


def maps_of(folder: Path, pairs: Sequence[PhotoAndMask]) -> list[PhotoAndMask]:
    """Return the maps that a segmenter wrote to a folder, as `photo`, with the masks of a data set."""
    return [replace(pair, photo=folder / MAPS / f"{pair.name}.png") for pair in pairs]


def score_pairs(
    pairs: Sequence[PhotoAndMask], protocol: RegionProtocol, jobs: int | None = None
) -> Iterator[ScoredPair]:
    """Score the map `photo` of each pair against its mask, in `jobs` processes (by default one for each core)."""
    score_one = partial(score_pair, protocol=protocol)
    jobs = min(jobs or cores(), -(-len(pairs) // _CHUNK))
    yield from in_processes(score_one, pairs, jobs, _CHUNK) if jobs > 1 else map(score_one, pairs)


def score_pair(pair: PhotoAndMask, protocol: RegionProtocol) -> ScoredPair:
    """Score one map at the size of its mask, and the box of the largest region of its binary mask.

    Raises:
        GmaeToolsError: a file cannot be read, or does not hold a map or a mask.
    """
    truth, given = pair.truth(), read_map(pair.photo)
    try:
        soft = fit(check_map(given), *truth.shape)
        levels = MapLevels.of(soft, truth)
        if protocol.min_max:
            soft = stretch(soft)
        wanted, found = boxes(truth), boxes(binarize(soft, protocol.threshold))
        largest = found[0] if len(found) else None
        figures = score_regions(soft, truth, protocol, box=largest, truth_boxes=wanted)
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{pair.photo}: {error}") from None
    sureness = np.array([soft[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in found])
    resized = given.shape != truth.shape
    return ScoredPair(pair.name, figures, Detections(found, sureness), wanted, levels, resized)


def fit(soft: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a map `[H, W]` bilinearly to `[height, width]`, with antialiasing if it becomes smaller."""
    if soft.shape == (height, width):
        return soft
    from PIL import Image

    image = Image.fromarray(soft.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), float)


def summarize(scored: Sequence[ScoredPair], protocol: RegionProtocol) -> RegionResult:
    """Compute the scores of all images. The protocol has the number of resized maps and of empty masks.

    Suspicious maps, such as inverted ones, are logged as warnings.

    Raises:
        GmaeToolsError: there is no image, or the maps hold 0 and 1 instead of 0 and 255.
    """
    check_levels({each.name: each.levels for each in scored}, stretched=protocol.min_max)
    scores = RegionScores(protocol)
    for each in scored:
        scores.add(each.name, each.figures)
    result = scores.compute()
    resized = sum(each.resized for each in scored)
    result.protocol["resized"] = f"{resized} maps, bilinear, to their masks' size" if resized else "none"
    result.protocol["empty_masks"] = sum(not len(each.wanted) for each in scored)
    return result


def detection(scored: Iterable[ScoredPair]) -> dict[str, float | None]:
    """Compute AP, AP50 and AR100 of all boxes; see `metrics.detection`."""
    scored = list(scored)
    return detection_scores({each.name: each.found for each in scored}, {each.name: each.wanted for each in scored})
