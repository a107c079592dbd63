"""Segmenters on a data set, in two stages: one soft map a photograph, then the scores of the maps.

The first stage is that of every prediction (`prediction_folder`), and goes on where it stopped; here is the second,
which is quick, and serves for anyone's maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.datasets.saliency import PhotoAndMask, pair_by_stem, read_grey
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
from gmae_tools.system.processes import cores, in_processes
from gmae_tools.zeroshot.boxes import boxes

MAP_SUFFIXES = IMAGE_SUFFIXES | {".npy"}

_CHUNK = 16  # images that a process is given at a time; fewer are not worth starting one


@dataclass(frozen=True)
class Settings:
    """Everything that the results in a folder depend on; None where a segmenter has no use for it.

    Attributes:
        dataset, split: of the photographs.
        method: name of the segmenter.
        threshold: of the binary masks.
        min_max: whether maps are stretched before they are scored.
        checkpoint, weights: name of the model, and the SHA-256 of its weights.
        scales, flip: how the photograph is looked at.
        refine: steps of refinement, None for no refinement.
    """

    dataset: str
    split: str
    method: str
    threshold: Threshold
    min_max: bool
    checkpoint: str | None
    weights: str | None
    scales: tuple[int, ...] | None
    flip: bool | None
    refine: int | None = None


class ScoredPair(NamedTuple):
    """What one image adds to the scores.

    Attributes:
        name: of the image.
        figures: its scores.
        found, wanted: the boxes of the map's mask, surest by the map's mean inside, and those of the true mask.
        levels: of the map, and how it stands out on the mask.
        resized: whether the map had another size than the mask.
    """

    name: str
    figures: RegionMetrics
    found: Detections
    wanted: np.ndarray
    levels: MapLevels
    resized: bool


def read_map(path: Path) -> np.ndarray:
    """A figure map `[H, W]` in [0, 1]: a grey picture of any format, at 8 bits, or an array in `.npy`."""
    if path.suffix.lower() != ".npy":
        return read_grey(path)
    from gmae_tools.benchmarks.map_files import read_soft_map

    return read_soft_map(path)


def pair_maps(maps: Path, masks: Path) -> list[PhotoAndMask]:
    """The files of a folder of maps (as `photo`) and of a folder of masks, by stem.

    Raises:
        GmaeToolsError: a map has no mask, or the other way round; the message names them.
    """
    ours, theirs = pair_by_stem(maps, masks, ("map", "mask"), MAP_SUFFIXES)
    return [PhotoAndMask(name, ours[name], theirs[name]) for name in ours]


def maps_of(folder: Path, pairs: Sequence[PhotoAndMask]) -> list[PhotoAndMask]:
    """The maps that a segmenter left in a folder (as `photo`), with the masks of a data set."""
    return [replace(pair, photo=folder / MAPS / f"{pair.name}.png") for pair in pairs]


def score_pairs(
    pairs: Sequence[PhotoAndMask], protocol: RegionProtocol, jobs: int | None = None
) -> Iterator[ScoredPair]:
    """Score the map `photo` of each pair against its mask, in `jobs` processes (by default one a core)."""
    score_one = partial(score_pair, protocol=protocol)
    jobs = min(jobs or cores(), -(-len(pairs) // _CHUNK))
    if jobs <= 1:
        yield from map(score_one, pairs)
        return
    yield from in_processes(score_one, pairs, jobs, _CHUNK)


def score_pair(pair: PhotoAndMask, protocol: RegionProtocol) -> ScoredPair:
    """Score one map at the size of its mask, and the box of the largest region of its binary mask.

    Raises:
        GmaeToolsError: a file cannot be read, or holds neither a map nor a mask.
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
    """A map `[H, W]` resized to `height` x `width`, bilinear (antialiased where it shrinks)."""
    if soft.shape == (height, width):
        return soft
    from PIL import Image

    image = Image.fromarray(soft.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), float)


def summarize(scored: Sequence[ScoredPair], protocol: RegionProtocol) -> RegionResult:
    """The scores of all images; the protocol says how many maps had to be resized, and how many masks are empty.

    Raises:
        GmaeToolsError: no image, or maps of 0 and 1 where 0 and 255 are meant; what else may be a mistake is logged.
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
    """AP, AP50 and AR100 of all boxes; see `metrics.detection`."""
    scored = list(scored)
    return detection_scores({each.name: each.found for each in scored}, {each.name: each.wanted for each in scored})
