"""Photographs with boxes of objects, and the search for the folders of data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gmae_tools.errors import GmaeToolsError


@dataclass(frozen=True)
class BoxedPhoto:
    """A photograph, and the boxes of the objects in it.

    Attributes:
        name: Name of the photograph, unique in its data set.
        photo: Its file.
        boxes: float64 `[n, 4]`: x0, y0, x1, y1 in pixels, half-open (x1 - x0 is the width); n may be 0.
    """

    name: str
    photo: Path
    boxes: np.ndarray = field(repr=False)


def data_root(name: str, root: str | os.PathLike[str] | None) -> Path:
    """The folder of the data sets, by default the environment variable GMAE_TOOLS_DATA.

    Raises:
        GmaeToolsError: Neither is given.
    """
    chosen = root or os.environ.get("GMAE_TOOLS_DATA")
    if not chosen:
        raise GmaeToolsError(f"{name}: name the folder of the data sets with --root or GMAE_TOOLS_DATA")
    return Path(chosen).expanduser()


def first_folder(name: str, root: Path, layouts: Sequence[str], part: str) -> Path:
    """The first of the folders `layouts` under the root that contains `part`.

    Raises:
        GmaeToolsError: None of them does; the message says where the data set belongs.
    """
    for layout in layouts:
        if (root / layout / part).exists():
            return root / layout
    raise GmaeToolsError(f"{name} not found under {root}: put it there, so that there is {layouts[0]}/{part}")
