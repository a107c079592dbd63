"""Edge detectors on a data set, in two stages: one soft map a photograph, then the scores of the maps.

The first stage is that of every prediction (`prediction_folder`); here is what is about edges. Either stage goes on
where it stopped. Processes that were launched together share the maps and the counts, and all know the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gmae_tools.benchmarks import predictions
from gmae_tools.benchmarks.map_files import count_files, count_human, pair_files, score
from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.metrics.boundaries import BoundaryCounts, BoundaryResult, Protocol
from gmae_tools.system.processes import gather, share

COUNTS = "counts"
RESULTS = (MAPS, COUNTS, "scores.json", "images.csv", "curve.csv", "curve.png", "human.json")  # of some settings

Counted = tuple[str, BoundaryCounts]
Progress = Callable[[Iterable[Counted], int, str], Iterator[Counted]]  # items, how many, what they are -> the items


@dataclass(frozen=True)
class Settings:
    """Everything that the results in a folder depend on; None where a detector has no use for it.

    Attributes:
        dataset, split: of the photographs.
        readout: name of the detector.
        layers: numbers of depth groups.
        checkpoint, weights: name of the model, and the SHA-256 of its weights.
        scales, flip: how the photograph is looked at.
        thresholds: of the benchmark.
        refine: steps of refinement, None for no refinement.
    """

    dataset: str
    split: str
    readout: str
    layers: tuple[int, ...] | None
    checkpoint: str | None
    weights: str | None
    scales: tuple[int, ...] | None
    flip: bool | None
    thresholds: int
    refine: int | None = None


def claim(folder: Path, settings: Settings, *, overwrite: bool = False) -> None:
    """Make sure that a folder holds nothing of other settings; see `prediction_folder.claim`."""
    predictions.claim(folder, asdict(settings), parts=RESULTS, overwrite=overwrite)


def score_maps(
    folder: Path, truths: Path, thresholds: int, *, subset: bool = False, jobs: int | None = None, progress: Progress
) -> BoundaryResult:
    """Score the maps of a folder against ground truth; counts are kept beside the maps."""
    protocol = Protocol(thresholds)
    pairs = share(pair_files(folder / MAPS, truths, subset=subset))
    counts = count_files(pairs, protocol, jobs=jobs, cache=folder / COUNTS)
    return score(gather(list(progress(counts, len(pairs), "scoring"))), protocol)


def score_annotators(
    folder: Path, truths: Path, cache: Path, *, subset: bool = False, jobs: int | None = None, progress: Progress
) -> BoundaryResult:
    """How well the annotators agree on the photographs whose maps lie in a folder."""
    pairs = share(pair_files(folder / MAPS, truths, subset=subset))
    counts = count_human(pairs, Protocol(1), jobs=jobs, cache=cache)
    return score(gather(list(progress(counts, len(pairs), "annotators"))), Protocol(1))
