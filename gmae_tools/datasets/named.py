"""The data sets that figure and ground are measured on, by the name that a command line has for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from gmae_tools.datasets.boxed import BoxedPhoto
from gmae_tools.datasets.coco import COCO, COCO20K
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency, Split, of_split
from gmae_tools.datasets.voc import VOC
from gmae_tools.errors import GmaeToolsError

Root = str | os.PathLike[str] | None


class _NamedDataset(NamedTuple):
    """The split that is meant where none is named, and what reads one."""

    split: str
    read: Callable[[str, Root], list[BoxedPhoto] | list[PhotoAndMask]]


# Boxes of objects, on the splits that single-object discovery is reported on; and segmentations.
BOXED = {
    "voc07": _NamedDataset("trainval", lambda split, root: VOC("2007", root).boxed(split)),
    "voc12": _NamedDataset("trainval", lambda split, root: VOC("2012", root).boxed(split)),
    "coco": _NamedDataset("val2017", lambda split, root: COCO(root).boxed(split)),
    COCO20K: _NamedDataset(COCO20K, lambda split, root: COCO(root).boxed(split)),
}
SEGMENTED = {
    "voc07-seg": _NamedDataset("val", lambda split, root: VOC("2007", root).pairs(split)),
    "voc12-seg": _NamedDataset("val", lambda split, root: VOC("2012", root).pairs(split)),
}


class ListedSet:
    """A data set whose photographs are those of a list: `name` with the list's, such as `voc07:trainval`.

    Args:
        source: the name of one of `BOXED` or `SEGMENTED`; another split than its own after a colon.
        root: folder of the data sets, by default the environment variable GMAE_TOOLS_DATA.

    Raises:
        GmaeToolsError: it is not there, or damaged.
    """

    official_size = None  # the lists are the official ones

    def __init__(self, source: str, root: Root = None) -> None:
        kind, _, split = source.partition(":")
        found = {**BOXED, **SEGMENTED}[kind]
        self.name = f"{kind}:{split or found.split}"
        self.boxed = kind in BOXED
        self._photos = found.read(split or found.split, root)

    def pairs(self, split: Split = "all") -> list[PhotoAndMask] | list[BoxedPhoto]:
        """The photographs, or those with odd or with even numbers: with boxes if `boxed`, else with masks."""
        photos: list[Any] = self._photos
        return of_split(photos, split, self.name)


def open_dataset(source: str, root: Root = None) -> Saliency | ListedSet:
    """The data set of this name, or of this folder; see `Saliency` and `ListedSet`."""
    kind, colon, _ = source.partition(":")
    if kind in BOXED or kind in SEGMENTED:
        return ListedSet(source, root)
    if colon and not os.path.exists(source):
        raise GmaeToolsError(f"{source}: only {', '.join([*BOXED, *SEGMENTED])} have splits to be named")
    return Saliency(source, root)
