"""Photographs with labels, split into a training part and a validation part.

Labels are the names of folders (`CLASS/photo.jpg`, as in torchvision's ImageFolder), or the part of a file's name
before its last dash (`SOURCE-000123.webp`, in folders or tar shards).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from gmae_tools.datasets.photos import Photo, find_sources, list_photos
from gmae_tools.errors import GmaeToolsError

Labelling = Literal["folder", "prefix"]

_VALIDATION_SHARE = 0.2  # of a data set without a split of its own


@dataclass(frozen=True)
class LabelledPhotos:
    """A classification data set.

    Attributes:
        photos: Photographs, sorted by part and name.
        labels: Indices of `classes`, `[n]`.
        is_validation: Whether a photograph belongs to the validation part, bool `[n]`.
        classes: Names of the classes, sorted.
        split: How the photographs were split, in words.
        fingerprint: Digest of photographs, labels and parts.
    """

    photos: list[Photo]
    labels: np.ndarray
    is_validation: np.ndarray
    classes: list[str]
    split: str
    fingerprint: str

    @property
    def largest_class(self) -> float:
        """Accuracy on the validation part if the answer is always its most frequent class."""
        counts = np.bincount(self.labels[self.is_validation])
        return float(counts.max() / counts.sum())


def find_labelled(data: Sequence[str | Path], labelling: Labelling, limit: int | None = None) -> LabelledPhotos:
    """The photographs of `data` with their labels and parts. Nothing is decoded.

    Args:
        data: One folder with the parts `train/` and `val/`; or folder trees, shards and ranges, a fifth of which, by
            the digests of the names, is for validation.
        labelling: Where the labels are.
        limit: Largest number of photographs, which are chosen by the digests of their names.

    Raises:
        GmaeToolsError: There are no photographs, no labels, fewer than two classes, or a part is empty.
    """
    parts = _parts(data)
    found = [(part, photo) for part, inputs in parts.items() for photo in list_photos(find_sources(inputs))]
    if limit is not None:
        found = sorted(found, key=lambda each: (name_share("limit", each[1].name), *_key(each)))[:limit]
    found.sort(key=_key)
    photos = [photo for _, photo in found]
    names = [label_of(photo.name, labelling) for photo in photos]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise GmaeToolsError(f"labels by {labelling}: all photographs are {classes[0]!r}; a probe needs two classes")
    validation = [
        name_share("validation", PurePosixPath(photo.name).name) < _VALIDATION_SHARE if part == "" else part == "val"
        for part, photo in found
    ]
    if all(validation) or not any(validation):
        raise GmaeToolsError(f"{len(photos)} photographs are too few for a part to learn from and one for validation")
    split = "train/ and val/" if "val" in parts else f"{_VALIDATION_SHARE:.0%} for validation, by digests of the names"
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in names])
    return LabelledPhotos(photos, labels, np.array(validation), classes, split, _fingerprint(found, names))


def _parts(data: Sequence[str | Path]) -> dict[str, list[str | Path]]:
    """Inputs by part; one part with an empty name if the data set has no split of its own."""
    if len(data) == 1:
        folders = {part: Path(data[0]).expanduser() / part for part in ("train", "val")}
        if all(folder.is_dir() for folder in folders.values()):
            return {part: [folder] for part, folder in folders.items()}
    return {"": list(data)}


def label_of(name: str, labelling: Labelling) -> str:
    """The label in a photograph's name (a path with `/`).

    Raises:
        GmaeToolsError: There is none.
    """
    path = PurePosixPath(name)
    if labelling == "prefix":
        label, dash, _ = path.stem.rpartition("-")
        if not (label and dash):
            raise GmaeToolsError(f"{name}: no label before a dash, as in LABEL-0001.jpg; try --labels folder")
        return label
    folder = path.parent.name
    if not folder or folder.lower().endswith(".tar"):
        raise GmaeToolsError(f"{name}: lies in no folder that could be its label; try --labels prefix")
    return folder


def name_share(purpose: str, name: str) -> float:
    """A number in [0, 1) that is a function of the name; independent for different purposes."""
    digest = hashlib.sha256(f"{purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _key(each: tuple[str, Photo]) -> tuple[str, str]:
    part, photo = each
    return part, photo.name


def _fingerprint(found: Sequence[tuple[str, Photo]], labels: Sequence[str]) -> str:
    """SHA-256 of names, labels, and sizes and times of the files. No file is read."""
    times = {photo.path: photo.path.stat().st_mtime_ns for _, photo in found}
    digest = hashlib.sha256()
    for (part, photo), label in zip(found, labels, strict=True):
        line = f"{part}\0{photo.name}\0{label}\0{photo.offset}\0{photo.size}\0{times[photo.path]}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def describe(data: LabelledPhotos) -> str:
    """Sizes of the parts and of the largest classes, in words."""
    counts = Counter(data.labels.tolist()).most_common(5)
    shown = ", ".join(f"{data.classes[number]} {count}" for number, count in counts)
    more = ", ..." if len(data.classes) > len(counts) else ""
    validation = int(data.is_validation.sum())
    return f"{len(data.photos) - validation} to learn from, {validation} for validation; {shown}{more}"
