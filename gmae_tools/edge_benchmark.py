"""Edge detectors on a data set, in two stages: one soft map a photograph, then the scores of the maps.

Either stage goes on where it stopped. The settings that the results depend on lie beside them, and other settings are
refused, so that a folder never holds a mixture.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gmae_tools import __version__
from gmae_tools.detectors import Detector
from gmae_tools.errors import GmaeToolsError
from gmae_tools.files import atomic_path
from gmae_tools.images import read_image, write_image
from gmae_tools.metrics.boundaries import BoundaryCounts, BoundaryResult, Protocol
from gmae_tools.metrics.boundary_files import count_files, count_human, pair_files, score

SETTINGS, MAPS, COUNTS = "settings.json", "maps", "counts"

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

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON."""
        return json.loads(json.dumps(asdict(self)))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def claim(folder: Path, settings: Settings, *, overwrite: bool = False) -> None:
    """Make sure that what `folder` holds, if anything, was made with `settings`, and note them there.

    Args:
        overwrite: remove the results of other settings instead of refusing.

    Raises:
        GmaeToolsError: the folder holds the results of other settings, or maps of which no settings are known.
    """
    path, wanted = folder / SETTINGS, {"version": __version__, **settings.to_dict()}
    found = _read_settings(path)
    if found == wanted:
        return
    if found is not None or (folder / MAPS).exists():
        if not overwrite:
            raise GmaeToolsError(f"{folder}: {_difference(found, wanted)}; use --overwrite, or another folder")
        for part in (MAPS, COUNTS):
            shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=2) + "\n")


def _read_settings(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _difference(found: dict[str, object] | None, wanted: dict[str, object]) -> str:
    if not found:
        return "holds maps of unknown settings"
    name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
    return f"holds results of {name} {found.get(name)}, not {wanted.get(name)}"


def predict_maps(photos: Iterable[Path], detectors: Mapping[Path, Detector]) -> Iterator[Path]:
    """Write the soft map of each photograph as `<folder>/maps/<stem>.png` (8 bits), unless it is there.

    Args:
        detectors: by the folder of their results; several of one `GaussianEdges` share its predictions.

    Yields:
        Each photograph when it is done.
    """
    for photo in photos:
        targets = {folder / MAPS / f"{photo.stem}.png": detect for folder, detect in detectors.items()}
        missing = {target: detect for target, detect in targets.items() if not target.exists()}
        picture = read_image(photo) if missing else None
        for target, detect in missing.items():
            assert picture is not None
            write_image(target, detect(picture))
        yield photo


def score_maps(
    folder: Path, truths: Path, thresholds: int, *, subset: bool = False, jobs: int | None = None, progress: Progress
) -> BoundaryResult:
    """Score the maps of a folder against ground truth; counts are kept beside the maps."""
    protocol = Protocol(thresholds)
    pairs = pair_files(folder / MAPS, truths, subset=subset)
    counts = count_files(pairs, protocol, jobs=jobs, cache=folder / COUNTS)
    return score(progress(counts, len(pairs), "scoring"), protocol)


def score_annotators(
    folder: Path, truths: Path, cache: Path, *, subset: bool = False, jobs: int | None = None, progress: Progress
) -> BoundaryResult:
    """How well the annotators agree on the photographs whose maps lie in a folder."""
    pairs = pair_files(folder / MAPS, truths, subset=subset)
    counts = count_human(pairs, Protocol(1), jobs=jobs, cache=cache)
    return score(progress(counts, len(pairs), "annotators"), Protocol(1))
