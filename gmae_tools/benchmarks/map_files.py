"""Score a folder of soft maps, one for each image, against ground truth in the format of BSDS500.

Images are scored on several cores, and an interrupted run continues with the images that are left.

pairs = pair_files("predictions", "groundTruth/test")
result = score(count_files(pairs, protocol, cache="counts"), protocol)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from gmae_tools.datasets.bsds500 import read_boundaries, read_mat
from gmae_tools.errors import GmaeToolsError
from gmae_tools.finding import report_skipped
from gmae_tools.images import open_image
from gmae_tools.metrics.boundaries import (
    BoundaryCounts,
    BoundaryProtocol,
    BoundaryResult,
    BoundaryScores,
    count_agreement,
    count_boundaries,
)
from gmae_tools.metrics.map_levels import MapLevels
from gmae_tools.system.files import write_json
from gmae_tools.system.processes import cores, in_threads

SOFT_MAP_SUFFIXES = (".png", ".npy", ".mat")

_CACHE_VERSION = 1  # raise it whenever the same input may give other counts


@dataclass(frozen=True)
class MapAndTruth:
    """The files of one image: the soft map (None if only the annotators are compared), and the ground truth."""

    name: str
    prediction: Path | None
    truth: Path


# --- reading --------------------------------------------------------------------------------------


def read_soft_map(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a soft boundary map, float64 `[H, W]` in [0, 1].

    A PNG is grey, of 8 bits (divided by 255) or 16 (by 65535). A `.npy` file holds one array. A `.mat` file holds a
    contour map `ucm2` of twice the image's size, read at `ucm2(3:2:end, 3:2:end)` as in the official code, or a single
    array. Integer and boolean arrays are scaled by the range of their type.

    Raises:
        GmaeToolsError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    readers = {".png": _read_png, ".npy": _read_npy, ".mat": _read_soft_mat}
    if path.suffix.lower() not in readers:
        raise GmaeToolsError(f"{path}: a soft map is a {', '.join(SOFT_MAP_SUFFIXES)} file")
    values = readers[path.suffix.lower()](path)
    if values.ndim != 2:
        raise GmaeToolsError(f"{path} has shape {list(values.shape)}: a soft map has shape [height, width]")
    if values.dtype.kind in "iu":
        return values / float(np.iinfo(values.dtype).max)
    if values.dtype.kind not in "bf":
        raise GmaeToolsError(f"{path} holds {values.dtype} values: a soft map holds numbers")
    return values.astype(np.float64)


def _read_png(path: Path) -> np.ndarray:
    with open_image(path) as image:
        deep = image.mode.startswith("I")  # 16 bits, which some versions of Pillow store in 32
        values = np.asarray(image.convert("L") if image.mode in ("P", "LA", "1") else image)
    if deep:
        return values.astype(np.uint16)
    if values.ndim == 3:
        if (values[..., :3] != values[..., :1]).any():
            raise GmaeToolsError(f"{path} is a colour picture: save soft maps as grey")
        values = values[..., 0]
    return values


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise GmaeToolsError(f"{path} cannot be read as a NumPy array ({error})") from None


def _read_soft_mat(path: Path) -> np.ndarray:
    variables = read_mat(path)
    if "ucm2" in variables:
        return np.asarray(variables["ucm2"][2::2, 2::2])
    arrays = [value for value in variables.values() if isinstance(value, np.ndarray) and value.size > 1]
    if len(arrays) != 1:
        found = ", ".join(variables) or "nothing"
        raise GmaeToolsError(f"{path} holds {found}: it must hold `ucm2` or a single array")
    return arrays[0]


def pair_files(
    predictions: str | os.PathLike[str], truths: str | os.PathLike[str], *, subset: bool = False
) -> list[MapAndTruth]:
    """Match the soft maps of one folder with the ground-truth files (`.mat`) of another by their stems.

    The images are sorted by name. With `subset` only those that have both files are used, instead of refusing a file
    without a counterpart.

    Raises:
        GmaeToolsError: a folder is missing or has no such files, a file has no counterpart, or two files have the same
            stem.
    """
    ours = _by_stem(Path(predictions), SOFT_MAP_SUFFIXES)
    theirs = _by_stem(Path(truths), (".mat",))
    if not subset:
        _refuse(sorted(theirs.keys() - ours.keys()), "has no soft map in", predictions)
        _refuse(sorted(ours.keys() - theirs.keys()), "has no ground truth in", truths)
    pairs = [MapAndTruth(name, ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        raise GmaeToolsError(f"no image has both a soft map in {predictions} and ground truth in {truths}")
    return pairs


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise GmaeToolsError(f"{folder} is no folder")
    kinds = " or ".join(suffixes)
    files: dict[str, Path] = {}
    skipped = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() not in suffixes:
            skipped.append(path)
            continue
        if path.stem in files:
            raise GmaeToolsError(f"{files[path.stem]} and {path} are two files for one image: keep one")
        files[path.stem] = path
    if not files:
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f" (is it one of its folders {', '.join(inner[:3])}?)" if inner else ""
        raise GmaeToolsError(f"no {kinds} files in {folder}{hint}")
    report_skipped(str(folder), skipped, f"{kinds} file")
    return files


def _refuse(names: list[str], what: str, folder: str | os.PathLike[str]) -> None:
    if names:
        others = f" (nor have {len(names) - 1} others)" if len(names) > 1 else ""
        raise GmaeToolsError(f"image {names[0]} {what} {folder}{others}; --subset scores what both folders have")


def read_levels(pairs: Sequence[MapAndTruth]) -> Iterator[tuple[str, MapLevels]]:
    """Read the levels of every soft map, with the name of its image, for `metrics.map_levels.check_levels`."""
    for pair in pairs:
        if pair.prediction is not None and (soft := read_soft_map(pair.prediction)).size:
            yield pair.name, MapLevels.of(soft)


# --- counting -------------------------------------------------------------------------------------


def count_files(
    pairs: Sequence[MapAndTruth],
    protocol: BoundaryProtocol,
    *,
    jobs: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, BoundaryCounts]]:
    """Count the matched pixels of every image, in several threads.

    Args:
        pairs: the files of each image.
        protocol: how pixels are matched and counted.
        jobs: number of images that are counted at the same time, by default one for each core.
        cache: folder for the counts of each image, which are reused as long as its files and the protocol do not
            change; its parent folder exists.

    Yields:
        The name and the counts of each image, in order.

    Raises:
        GmaeToolsError: a file cannot be read, or a map does not fit its ground truth.
    """
    if cache is not None:
        Path(cache).mkdir(exist_ok=True)  # fails if its parent folder has been removed
    with closing(in_threads(lambda pair: _cached(pair, protocol, cache), pairs, jobs or cores())) as counted:
        for pair, counts in zip(pairs, counted, strict=True):
            yield pair.name, counts.result()


def count_human(
    pairs: Sequence[MapAndTruth],
    protocol: BoundaryProtocol,
    *,
    jobs: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, BoundaryCounts]]:
    """Count how well the annotators of every image agree (`count_agreement`); arguments as for `count_files`."""
    yield from count_files(
        [MapAndTruth(pair.name, None, pair.truth) for pair in pairs], protocol, jobs=jobs, cache=cache
    )


def score(counts: Iterable[tuple[str, BoundaryCounts]], protocol: BoundaryProtocol) -> BoundaryResult:
    """Compute the scores of all images from the name and the counts of each."""
    scores = BoundaryScores(protocol)
    for name, each in counts:
        scores.add(name, each)
    return scores.compute()


def _cached(pair: MapAndTruth, protocol: BoundaryProtocol, cache: str | os.PathLike[str] | None) -> BoundaryCounts:
    if cache is None:
        return _count(pair, protocol)
    path = Path(cache) / f"{pair.name}.json"
    key = _key(pair, protocol)
    counts = _load(path, key)
    if counts is None:
        counts = _count(pair, protocol)
        write_json(path, {"key": key, **{name: array.tolist() for name, array in vars(counts).items()}}, indent=None)
    return counts


def _count(pair: MapAndTruth, protocol: BoundaryProtocol) -> BoundaryCounts:
    truths = read_boundaries(pair.truth)
    if pair.prediction is None:
        return count_agreement(truths, protocol)
    soft = read_soft_map(pair.prediction)
    try:
        return count_boundaries(soft, truths, protocol)
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{pair.prediction}: {error}") from None


def _key(pair: MapAndTruth, protocol: BoundaryProtocol) -> str:
    """Compute a digest of all that the counts depend on: the protocol and the content of both files."""
    digest = hashlib.sha256(repr((_CACHE_VERSION, astuple(protocol))).encode())
    for path in (pair.prediction, pair.truth):
        suffix, content = (path.suffix.lower(), path.read_bytes()) if path else ("", b"")
        digest.update(f"{suffix} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _load(path: Path, key: str) -> BoundaryCounts | None:
    """Read the counts from a file of the cache; None if it is missing, damaged or has another key."""
    try:
        stored = json.loads(path.read_text())
        if stored.pop("key") != key:
            return None
        return BoundaryCounts(**{name: np.array(values) for name, values in stored.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the file is missing or invalid, so that the image is counted again
