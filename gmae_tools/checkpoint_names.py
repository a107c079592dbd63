"""The names of checkpoints. This does not import torch, so that commands refuse a wrong name at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gmae_tools.errors import GmaeToolsError

DEFAULT = "gmae-tiny"  # the default checkpoint
HUB_PREFIX, RANDOM_PREFIX, TIMM_PREFIX = "hf://", "random:", "timm:"
CONFIG_FILE = "config.json"
OFFICIAL_SUFFIXES, AUTHORS_SUFFIX = (".pth", ".pt"), ".ckpt"  # files of the authors of MAE and of GMAE
FILE_SUFFIXES = (*OFFICIAL_SUFFIXES, AUTHORS_SUFFIX)
LARGEST_JSON = 1 << 24  # bytes
_PACKAGE = Path(__file__).parent
EMBEDDED_ROOTS = (_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints")  # in a wheel, in a clone


def embedded() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    return sorted(_embedded())


def _embedded() -> dict[str, Path]:
    # A checkpoint in the package has priority over one beside the package's folder.
    files = [file for root in reversed(EMBEDDED_ROOTS) for file in root.glob(f"*/{CONFIG_FILE}")]
    return {file.parent.name: file.parent for file in files}


def local_path(name: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint that is not on the hub: the folder of an embedded one, or the given path.

    Raises:
        GmaeToolsError: there is no checkpoint of this name.
    """
    text = os.fspath(name)
    path = _embedded().get(text, Path(os.path.expanduser(text)))
    if not path.exists():
        if text.endswith(FILE_SUFFIXES):
            raise GmaeToolsError(f"{text}: no such file")
        known = ", ".join(embedded()) or "none embedded"
        raise GmaeToolsError(f"no checkpoint {text!r}: give a folder, {HUB_PREFIX}ORG/NAME, or one of: {known}")
    return path


def check(name: str) -> None:
    """Refuse a name that no model has, without loading it. Names on a hub are not checked.

    Names are those that `checkpoints.load_any`, `features.load_autoencoder` and `features.open_extractor` take.
    """
    name = name.removeprefix(RANDOM_PREFIX)
    if not name.startswith((HUB_PREFIX, TIMM_PREFIX)):
        local_path(name)


def number_of_gaussians(name: str) -> int | None:
    """Return K of a checkpoint from its configuration; None if only the loaded model can tell."""
    if name.startswith(HUB_PREFIX):
        return None
    path = local_path(name) / CONFIG_FILE
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:  # a pipe is refused, because it might never end
        return None
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        k = model["queries"] * model["gaussians_per_query"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return k if isinstance(k, int) else None
