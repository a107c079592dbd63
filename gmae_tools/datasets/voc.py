"""PASCAL VOC 2007 and 2012 in the official layout: boxes of objects, and segmentations as foreground and background.

`VOCdevkit/VOC2007` and `VOCdevkit/VOC2012` contain `JPEGImages/`, `Annotations/` (an XML file for each photograph), the
lists in `ImageSets/Main/` and `ImageSets/Segmentation/`, and `SegmentationClass/` (a picture for each photograph, with
the number of a class in each pixel; 0 is the background, 255 is not labelled).

The files count pixels from 1 and include the last one. Here boxes are half-open and count from 0, so a photograph of
W x H px is the box (0, 0, W, H). Objects marked as difficult or truncated count, as in LOST (arXiv 2109.14279) and
TokenCut (arXiv 2202.11539).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from gmae_tools.datasets.boxed import BoxedPhoto, data_root, first_folder
from gmae_tools.datasets.saliency import PhotoAndMask
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line, open_image

Year = Literal["2007", "2012"]

UNLABELLED = 255
_LARGEST_XML = 1 << 20  # bytes


@dataclass(frozen=True)
class VOCPhotoAndMask(PhotoAndMask):
    """A photograph and its segmentation. Pixels of any class are foreground; pixels without label are background."""

    def truth(self) -> np.ndarray:
        labels = read_labels(self.mask)
        return np.asarray((labels > 0) & (labels != UNLABELLED))


class VOC:
    """PASCAL VOC of one year.

    Args:
        year: "2007" or "2012".
        root: Folder of the data sets that contains `VOCdevkit/` or its content; by default the environment variable
            GMAE_TOOLS_DATA.

    Raises:
        GmaeToolsError: It is not there; the message says what to do.
    """

    def __init__(self, year: Year, root: str | os.PathLike[str] | None = None) -> None:
        name = f"VOC{year}"
        layouts = [f"VOCdevkit/{name}", name, f"voc/VOCdevkit/{name}", f"voc/{name}", f"{name}/VOCdevkit/{name}"]
        self.folder = first_folder(name, data_root(name, root), layouts, "JPEGImages")

    def names(self, split: str, task: Literal["Main", "Segmentation"] = "Main") -> list[str]:
        """Names of the photographs of a split, such as trainval, in the order of its list.

        Raises:
            GmaeToolsError: There is no such list, or it is empty.
        """
        path = self.folder / "ImageSets" / task / f"{split}.txt"
        try:
            found = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except OSError:
            there = ", ".join(sorted(each.stem for each in path.parent.glob("*.txt") if "_" not in each.stem))
            raise GmaeToolsError(f"{path}: missing; splits that are there: {there or 'none'}") from None
        if not found:
            raise GmaeToolsError(f"{path}: names no photographs")
        return found

    def boxed(self, split: str = "trainval") -> list[BoxedPhoto]:
        """The photographs of a split with the boxes of all their objects.

        Raises:
            GmaeToolsError: An annotation is missing or damaged.
        """
        annotations = self.folder / "Annotations"
        return [BoxedPhoto(name, self._photo(name), read_boxes(annotations / f"{name}.xml"))
                for name in self.names(split)]  # fmt: skip

    def pairs(self, split: str = "val") -> list[PhotoAndMask]:
        """The photographs of a split with their segmentations."""
        masks = self.folder / "SegmentationClass"
        return [
            VOCPhotoAndMask(name, self._photo(name), masks / f"{name}.png")
            for name in self.names(split, "Segmentation")
        ]

    def _photo(self, name: str) -> Path:
        return self.folder / "JPEGImages" / f"{name}.jpg"


def read_boxes(path: str | os.PathLike[str]) -> np.ndarray:
    """The boxes float64 `[n, 4]` of a VOC annotation, half-open, counted from 0.

    Raises:
        GmaeToolsError: It is missing, no VOC annotation, or contains an empty box.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_XML:
            raise ValueError("too large")
        objects = ElementTree.parse(path).getroot().findall("object")
        boxes = [[float(each.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
                 for each in objects]  # fmt: skip
    except FileNotFoundError:
        raise GmaeToolsError(f"{path}: missing; unpack the data set again") from None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise GmaeToolsError(f"{path}: not an annotation of PASCAL VOC ({one_line(error)})") from None
    found = np.array(boxes).reshape(-1, 4) - [1, 1, 0, 0]
    if not (found[:, :2] < found[:, 2:]).all():
        raise GmaeToolsError(f"{path}: has an empty box")
    return np.asarray(found)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """The class of each pixel of a segmentation, uint8 `[H, W]`: its palette indices, not its colours.

    Raises:
        GmaeToolsError: It cannot be read, or is no picture with a palette.
    """
    if not Path(path).is_file():
        raise GmaeToolsError(f"{path}: missing; unpack the data set again")
    with open_image(path) as image:
        if image.mode not in ("P", "L"):
            raise GmaeToolsError(f"{path}: holds colours ({image.mode}), not the numbers of classes")
        return np.asarray(image)
