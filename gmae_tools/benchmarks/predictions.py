"""A folder of predictions: one soft map a photograph, beside the settings that the maps depend on.

An interrupted run goes on where it stopped, and other settings are refused, so that a folder never holds a mixture.
What is counted in the maps, or scored, may lie in the same folder. Processes that were launched together
(`gmae_tools.system.processes`) share the photographs; they must see the same folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from gmae_tools import __version__
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image, write_image
from gmae_tools.system.files import atomic_path, check_writable
from gmae_tools.system.processes import is_main, share, wait

SETTINGS, MAPS = "settings.json", "maps"

Predictor = Callable[[np.ndarray], np.ndarray]  # photograph, uint8 RGB [H, W, 3] -> soft map [H, W] in [0, 1]


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_of(checkpoint: str) -> str:
    """SHA-256 of a checkpoint's weights; where they come in pieces, of the pieces' own.

    Raises:
        GmaeToolsError: there is no such checkpoint, or a piece is missing.
    """
    from gmae_tools.checkpoints import (
        file_of_others,
        find,
        weights_files,
    )  # imports torch, which little else here needs

    file = file_of_others(checkpoint)
    try:
        digests = [fingerprint(path) for path in ([file] if file else weights_files(find(checkpoint)))]
    except FileNotFoundError as error:
        raise GmaeToolsError(f"{error.filename}: missing; fetch the checkpoint again") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def claim(
    folder: Path, settings: Mapping[str, object], *, parts: Sequence[str] = (MAPS,), overwrite: bool = False
) -> None:
    """Make sure that what `folder` holds, if anything, was made with `settings`, and note them there.

    Args:
        settings: everything that the results depend on, in the types of JSON; the version of this package is added.
            None is as good as not there, so that folders stay valid when there are new settings.
        parts: names of the folders and files in `folder` that depend on the settings.
        overwrite: remove the parts of other settings instead of refusing.

    Raises:
        GmaeToolsError: the folder holds the results of other settings, or parts of which no settings are known.
    """
    if is_main():
        _claim(folder, json.loads(json.dumps({"version": __version__, **settings})), parts, overwrite)
    wait()


def _claim(folder: Path, wanted: dict[str, object], parts: Sequence[str], overwrite: bool) -> None:
    """The same, with `wanted` settings as JSON reads them back: lists, no tuples."""
    path = folder / SETTINGS
    found = _read_settings(path)
    if found is not None and _given(found) == _given(wanted):
        return
    if found is not None or any((folder / part).exists() for part in parts):
        if not overwrite:
            raise GmaeToolsError(f"{folder}: {_difference(found, wanted)}; use --overwrite, or another folder")
        for part in parts:
            _remove(folder / part)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=2) + "\n")


def _given(settings: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


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
        return "holds results of unknown settings"
    name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
    return f"holds results of {name} {found.get(name)}, not {wanted.get(name)}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def predict_maps(
    photos: Sequence[Path], predictors: Mapping[Path, Predictor], max_pixels: int | None = None
) -> Iterator[Path]:
    """Write the soft map of each photograph as `<folder>/maps/<stem>.png` (8 bits), unless it is there.

    Args:
        photos: of different stems, the same in every process.
        predictors: by the folder of their results, which exists; several of one model can share what it predicts.
        max_pixels: as `read_image` takes it.

    Yields:
        Each photograph when it is done, or left to another process. At the end all maps are there.

    Raises:
        GmaeToolsError: a photograph cannot be read, or nothing can be written any more.
    """
    own = set(share(photos))
    for folder in predictors:
        (folder / MAPS).mkdir(exist_ok=True)
    for photo in photos:
        if photo in own:
            _predict_map(photo, predictors, max_pixels)
        yield photo
    wait()


def _predict_map(photo: Path, predictors: Mapping[Path, Predictor], max_pixels: int | None) -> None:
    targets = {folder / MAPS / f"{photo.stem}.png": predict for folder, predict in predictors.items()}
    missing = {target: predict for target, predict in targets.items() if not target.exists()}
    if missing:
        picture = read_image(photo, max_pixels=max_pixels)
        for target, predict in missing.items():
            soft = predict(picture)
            check_writable(target.parent)  # not made again: results would be without those that lay there
            write_image(target, soft)
