"""Folders of results with the settings by which they were made, so that no folder mixes results of several settings.

Results of other settings are refused. If only settings of the scoring change, the old scores are removed, and the
scored results stay.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from gmae_tools import __version__
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import write_json
from gmae_tools.system.processes import is_main, wait

SETTINGS = "settings.json"


def claim(
    folder: Path,
    settings: Mapping[str, object],
    *,
    scoring: Mapping[str, object] | None = None,
    parts: Sequence[str],
    scores: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Make sure that all results in `folder` were made by `settings`, and write the settings there.

    Args:
        folder: Folder of the results, made if missing.
        settings: Everything on which the results depend, in types of JSON; the version of this package is added. A
            setting of None is ignored, so that folders stay valid when new settings are introduced.
        scoring: Everything on which only the scores of the results depend.
        parts: Names of the folders and files in `folder` that depend on `settings`.
        scores: Names of those that depend on `scoring`, too.
        overwrite: Whether to remove results of other settings instead of refusing them.

    Raises:
        GmaeToolsError: The folder contains results of other or of unknown settings.
    """
    if is_main():
        wanted, rules = (json.loads(json.dumps(each)) for each in ({"version": __version__, **settings}, scoring or {}))
        found = _read_settings(folder / SETTINGS)
        if found is None or _given(found) != _given(wanted | rules):
            known = found and {name: value for name, value in found.items() if name not in rules}
            old = scores
            if not known or _given(known) != _given(wanted):
                old = (*parts, *scores)
                if not overwrite and (found is not None or any((folder / part).exists() for part in old)):
                    raise GmaeToolsError(f"{folder}: {_difference(known, wanted)}; use --overwrite, or another folder")
            for part in old:
                _remove(folder / part)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / SETTINGS, wanted | rules)
    wait()


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
