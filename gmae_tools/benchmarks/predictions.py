"""A folder of predictions: one soft map a photograph, beside the settings that the maps and their scores depend on.

Maps of other settings are refused, so that a folder never holds a mixture. Scores of other settings are taken anew from
the maps that are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gmae_tools import __version__
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path, file_sha256
from gmae_tools.system.processes import is_main, wait

SETTINGS, MAPS = "settings.json", "maps"


def weights_of(checkpoint: str) -> str:
    """SHA-256 of a checkpoint's weights; where they come in pieces, of the pieces' own.

    Raises:
        GmaeToolsError: there is no such checkpoint, or a piece is missing.
    """
    from gmae_tools.checkpoints import file_of_others, find, weights_files  # loads torch, which nothing else here needs

    file = file_of_others(checkpoint)
    try:
        digests = [file_sha256(path) for path in ([file] if file else weights_files(find(checkpoint)))]
    except FileNotFoundError as error:
        raise GmaeToolsError(f"{error.filename}: missing; fetch the checkpoint again") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def claim(
    folder: Path,
    settings: Mapping[str, object],
    *,
    scoring: Mapping[str, object] | None = None,
    parts: Sequence[str] = (MAPS,),
    scores: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Make sure that what `folder` holds, if anything, was made with `settings`, and note them there.

    Args:
        settings: everything that the maps depend on, in the types of JSON; the version of this package is added. None
            is as good as not there, so that folders stay valid when there are new settings.
        scoring: everything that only the scores depend on. Where it has changed, the scores are removed and the maps
            stay.
        parts: names of the folders and files in `folder` that depend on `settings`.
        scores: names of those that depend on `scoring`, too.
        overwrite: remove the results of other settings instead of refusing them.

    Raises:
        GmaeToolsError: the folder holds results of other settings, or results of which no settings are known.
    """
    if is_main():
        wanted, rules = (json.loads(json.dumps(each)) for each in ({"version": __version__, **settings}, scoring or {}))
        found = _read_settings(folder / SETTINGS)
        known = None if found is None else _without(found, rules)
        if known is None or _given(known) != _given(wanted):
            everything = (*parts, *scores)
            _clear(folder, known, wanted, everything, overwrite)
        elif found is not None and _given(found) != _given(wanted | rules):
            for part in scores:
                _remove(folder / part)
        if found is None or _given(found) != _given(wanted | rules):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / SETTINGS) as temporary:
                temporary.write_text(json.dumps(wanted | rules, indent=2) + "\n")
    wait()


def _clear(
    folder: Path, found: dict[str, object] | None, wanted: dict[str, object], parts: Sequence[str], overwrite: bool
) -> None:
    """Remove the parts of `found` settings, None if there is no record of any; or refuse them."""
    if found is None and not any((folder / part).exists() for part in parts):
        return
    if not overwrite:
        raise GmaeToolsError(f"{folder}: {_difference(found, wanted)}; use --overwrite, or another folder")
    for part in parts:
        _remove(folder / part)


def _without(settings: dict[str, object], names: Iterable[str]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in set(names)}


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
