"""The data sets on which foregrounds are measured, by their names on the command line."""

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
    """The default split, and the function that reads a split."""

    split: str
    read: Callable[[str, Root], list[BoxedPhoto] | list[PhotoAndMask]]


# Data sets with boxes of objects, by default on the splits of single-object discovery, and with segmentations.
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
    """A data set of which a list names the photographs.

    Args:
        source: A name of `BOXED` or `SEGMENTED`, followed by a colon and a split if that is not the default one.
        root: Folder of the data sets, by default the environment variable GMAE_TOOLS_DATA.

    Attributes:
        name: Name with split, such as `voc07:trainval`.
        boxed: Whether the photographs come with boxes; else they come with masks.

    Raises:
        GmaeToolsError: It is not there, or damaged.
    """

    official_size = None  # the lists are the official ones

    def __init__(self, source: str, root: Root = None) -> None:
        kind, _, split = source.partition(":")
        found = {**BOXED, **SEGMENTED}[kind]
        self.name = f"{kind}:{split or found.split}"
        self.boxed = kind in BOXED
        self._photos = found.read(split or found.split, root)

    def pairs(self, split: Split = "all") -> list[PhotoAndMask] | list[BoxedPhoto]:
        """The photographs, all or those with odd or even numbers, with their boxes or masks."""
        photos: list[Any] = self._photos
        return of_split(photos, split, self.name)


def open_dataset(source: str, root: Root = None) -> Saliency | ListedSet:
    """The data set of this name, or of this folder; see `Saliency` and `ListedSet`."""
    kind, colon, _ = source.partition(":")
    if kind in BOXED or kind in SEGMENTED:
        return ListedSet(source, root)
    if colon and not os.path.exists(source):
        raise GmaeToolsError(f"{source}: only {', '.join([*BOXED, *SEGMENTED])} have splits")
    return Saliency(source, root)
