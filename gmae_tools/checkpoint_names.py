"""What the name of a checkpoint stands for, without importing torch, so that commands refuse a wrong name at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gmae_tools.errors import GmaeToolsError

DEFAULT = "gmae-tiny"  # the checkpoint where none is named
HUB_PREFIX, RANDOM_PREFIX, TIMM_PREFIX = "hf://", "random:", "timm:"
CONFIG_FILE = "config.json"
OFFICIAL_SUFFIXES, AUTHORS_SUFFIX = (".pth", ".pt"), ".ckpt"  # of MAE's authors, and of GMAE's
FILE_SUFFIXES = (*OFFICIAL_SUFFIXES, AUTHORS_SUFFIX)
LARGEST_JSON = 1 << 24  # bytes
_PACKAGE = Path(__file__).parent
EMBEDDED_ROOTS = (_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints")  # of a wheel, of a clone


def embedded() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(_embedded())


def _embedded() -> dict[str, Path]:
    # What the package brings along comes before a neighbour of its folder.
    files = [file for root in reversed(EMBEDDED_ROOTS) for file in root.glob(f"*/{CONFIG_FILE}")]
    return {file.parent.name: file.parent for file in files}


def local_path(name: str | os.PathLike[str]) -> Path:
    """Where a checkpoint lies that is not on the hub: the folder of an embedded one, or the path that was given.

    Raises:
        GmaeToolsError: there is nothing of that name.
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
    """Make sure that there is a model of this name, as far as can be told without loading it or asking a hub.

    Args:
        name: as for `checkpoints.load_any`, `features.load_autoencoder` or `features.open_extractor`.

    Raises:
        GmaeToolsError: there is nothing of that name.
    """
    name = name.removeprefix(RANDOM_PREFIX)
    if not name.startswith((HUB_PREFIX, TIMM_PREFIX)):
        local_path(name)


def number_of_gaussians(name: str) -> int | None:
    """K of a checkpoint by its configuration alone; None where only loading the model can tell."""
    if name.startswith(HUB_PREFIX):
        return None
    path = local_path(name) / CONFIG_FILE
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:  # nor a pipe, which might never end
        return None
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        k = model["queries"] * model["gaussians_per_query"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return k if isinstance(k, int) else None
