"""COCO in the official layout: boxes of objects, from `annotations/instances_*.json`.

Photographs are in a folder named after the split (`val2017/`, `train2014/`), which may itself be in `images/`. Regions
marked as crowds do not count as objects, as in LOST (arXiv 2109.14279). COCO20k, the part of train2014 on which
single-object discovery is reported, is a list of files (`coco_20k_filenames.txt`) beside the annotations.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

import numpy as np

from gmae_tools.datasets.boxed import BoxedPhoto, data_root, first_folder
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line

COCO20K, _LIST = "coco20k", "coco_20k_filenames.txt"


class COCO:
    """COCO of any year.

    Args:
        root: Folder of the data sets that contains `coco/` or its content; by default the environment variable
            GMAE_TOOLS_DATA.

    Raises:
        GmaeToolsError: It is not there; the message says what to do.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.folder = first_folder("COCO", data_root("COCO", root), ["coco", "COCO", "."], "annotations")

    def boxed(self, split: str = "val2017") -> list[BoxedPhoto]:
        """The photographs of a split (`val2017`, `train2014`, ..., `coco20k`) by file name, with all boxes.

        Raises:
            GmaeToolsError: Annotations, photographs or the list of COCO20k are missing or damaged.
        """
        year = "train2014" if split == COCO20K else split
        path = self.folder / "annotations" / f"instances_{year}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            files = {int(image["id"]): str(image["file_name"]) for image in document["images"]}
            boxes: dict[int, list[list[float]]] = {number: [] for number in files}
            for each in document["annotations"]:
                if not each.get("iscrowd", 0):
                    x, y, width, height = map(float, each["bbox"])
                    boxes[int(each["image_id"])].append([x, y, x + width, y + height])
        except FileNotFoundError:
            there = ", ".join(sorted(each.stem.removeprefix("instances_") for each in path.parent.glob("instances_*")))
            raise GmaeToolsError(f"{path}: missing; splits that are there: {there or 'none'}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GmaeToolsError(f"{path}: not the annotations of COCO ({one_line(error)})") from None
        wanted = self._listed() if split == COCO20K else set(files.values())
        if strange := sorted(wanted - set(files.values())):
            raise GmaeToolsError(f"{self.folder / _LIST}: {strange[0]} is not in {path.name}")
        folder = self._photos(year)
        found = [
            BoxedPhoto(PurePosixPath(file).stem, folder / file, np.array(boxes[number], float).reshape(-1, 4))
            for number, file in files.items() if file in wanted
        ]  # fmt: skip
        if not found:
            raise GmaeToolsError(f"{path}: names no photographs")
        return sorted(found, key=lambda each: each.name)

    def _photos(self, year: str) -> Path:
        for folder in (self.folder / year, self.folder / "images" / year):
            if folder.is_dir():
                return folder
        raise GmaeToolsError(f"{self.folder}: has no folder {year}/ or images/{year}/ with the photographs")

    def _listed(self) -> set[str]:
        path = self.folder / "annotations" / _LIST
        try:
            lines = path.read_text().split()
        except OSError:
            raise GmaeToolsError(f"{path}: missing; COCO20k is that list of the files of train2014") from None
        return {PurePosixPath(line).name for line in lines}
