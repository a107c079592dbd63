"""Salient object data sets: photographs, each with a mask of its salient objects.

ECSSD (Yan et al., CVPR 2013; 1,000 photographs), PASCAL-S (Li et al., CVPR 2014; 850), the test half of DUTS (Wang et
al., CVPR 2017; 5,019), or any folder with `images/` and `masks/`. A mask belongs to the photograph with the same stem
(`images/12.jpg`, `masks/12.png`). A photograph without mask, or a mask without photograph, is refused.

Masks with grades (PASCAL-S) or noise (JPEG) are cut at one half. A mask may be empty, and may have another size than
the photograph.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np

from gmae_tools.datasets.boxed import data_root
from gmae_tools.errors import GmaeToolsError
from gmae_tools.finding import report_skipped
from gmae_tools.images import IMAGE_SUFFIXES, open_image, read_image

if TYPE_CHECKING:
    from gmae_tools.datasets.boxed import BoxedPhoto

Split = Literal["odd", "even", "all"]
Named = TypeVar("Named", "PhotoAndMask", "BoxedPhoto")

_COLOR = 16  # channels of a grey picture in JPEG differ by less, in levels of 255
_NAMES_SHOWN = 5


class _KnownDataset(NamedTuple):
    """Number of photographs, and folders of photographs and masks under the root, the official ones first."""

    images: int
    layouts: Sequence[tuple[str, str]]


KNOWN = {
    "ecssd": _KnownDataset(
        1000,
        [("ECSSD/images", "ECSSD/ground_truth_mask"), ("images", "ground_truth_mask"), ("ecssd/images", "ecssd/masks")],
    ),
    "pascal-s": _KnownDataset(
        850,
        [
            ("PASCAL-S/datasets/imgs/pascal", "PASCAL-S/datasets/masks/pascal"),
            ("salObj/datasets/imgs/pascal", "salObj/datasets/masks/pascal"),
            ("datasets/imgs/pascal", "datasets/masks/pascal"),
            ("imgs/pascal", "masks/pascal"),
            ("pascal-s/images", "pascal-s/masks"),
        ],
    ),
    "duts-te": _KnownDataset(
        5019,
        [
            ("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
            ("DUTS/DUTS-TE/DUTS-TE-Image", "DUTS/DUTS-TE/DUTS-TE-Mask"),
            ("DUTS-TE-Image", "DUTS-TE-Mask"),
            ("duts-te/images", "duts-te/masks"),
        ],
    ),
}
NAMES = tuple(KNOWN)


@dataclass(frozen=True)
class PhotoAndMask:
    """A photograph and its mask; `name` is their stem."""

    name: str
    photo: Path
    mask: Path

    def truth(self) -> np.ndarray:
        """The mask bool `[H, W]`; see `read_mask`."""
        return read_mask(self.mask)


class Saliency:
    """A data set: `name`, and the folders `images` and `masks`.

    Args:
        source: "ecssd", "pascal-s" or "duts-te", which is looked for under the root, or a folder with `images/` and
            `masks/`.
        root: Folder of the data sets, by default the environment variable GMAE_TOOLS_DATA.

    Raises:
        GmaeToolsError: It is not there; the message says what to do.
    """

    def __init__(self, source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
        if str(source) in KNOWN:
            self.name = str(source)
            self.images, self.masks = _find(self.name, root)
        else:
            folder = Path(source).expanduser()
            self.name = str(folder.resolve())
            self.images, self.masks = _inside(folder)

    @property
    def official_size(self) -> int | None:
        """Number of photographs of the whole data set, None for any other folder."""
        return KNOWN[self.name].images if self.name in KNOWN else None

    def pairs(self, split: Split = "all") -> list[PhotoAndMask]:
        """Photographs and masks by name: all, or those with `odd` or `even` ids, one half for development.

        Raises:
            GmaeToolsError: A photograph or a mask has no counterpart, a name has no number, or nothing is left.
        """
        photos, masks = pair_by_stem(self.images, self.masks, ("photograph", "mask"))
        pairs = [PhotoAndMask(name, photos[name], masks[name]) for name in photos]
        return of_split(pairs, split, self.images)


def _find(name: str, root: str | os.PathLike[str] | None) -> tuple[Path, Path]:
    chosen = data_root(name, root)
    for layout in KNOWN[name].layouts:
        images, masks = (chosen / part for part in layout)
        if images.is_dir() and masks.is_dir():
            return images, masks
    wanted = " and ".join(KNOWN[name].layouts[0])
    others = [str(path.parent) for path in sorted(chosen.glob("*/masks")) if (path.parent / "images").is_dir()]
    hint = f", such as {others[0]}" if others else ""
    raise GmaeToolsError(
        f"{name} not found under {chosen}: put it there as {wanted}, or give a folder with images/ and masks/{hint}"
    )


def _inside(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise GmaeToolsError(f"{folder} is neither a data set ({', '.join(NAMES)}) nor a folder")
    if (folder / "images").is_dir() and (folder / "ground_truth_mask").is_dir():  # ECSSD, as it is unpacked
        return folder / "images", folder / "ground_truth_mask"
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise GmaeToolsError(f"{folder} has no folder {part}/: photographs go into images/, masks into masks/")
    return folder / "images", folder / "masks"


def of_split(pairs: list[Named], split: Split, source: str | Path) -> list[Named]:
    """The photographs with odd or with even numbers in their names, or all.

    Raises:
        GmaeToolsError: A name has no number, or nothing is left of `source`.
    """
    chosen = [pair for pair in pairs if split == "all" or number(pair.name) % 2 == (split == "odd")]
    if not chosen:
        raise GmaeToolsError(f"{source}: no photographs with {split} ids")
    return chosen


def number(name: str) -> int:
    """The last number in a name, by which data sets are split; 12 for `img_0012`."""
    digits = re.findall(r"[0-9]+", name)
    if not digits:
        raise GmaeToolsError(f"{name} has no number, so that it is neither odd nor even: use --split all")
    return int(digits[-1])


def pair_by_stem(
    left: Path, right: Path, kinds: tuple[str, str], suffixes: Collection[str] = IMAGE_SUFFIXES
) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files of two folders by stem, sorted, the same stems in both.

    Args:
        left, right: The folders.
        kinds: Words for the files of either folder in messages.
        suffixes: Suffixes of the files to take, in lower case; hidden files are left out.

    Raises:
        GmaeToolsError: A file has no counterpart, two files have one stem, or there are none; the message names them.
    """
    ours, theirs = (_by_stem(folder, suffixes, kind) for folder, kind in zip((left, right), kinds, strict=True))
    for folder, kind, there, wanted in ((left, kinds[0], ours, theirs), (right, kinds[1], theirs, ours)):
        if alone := sorted(wanted.keys() - there.keys()):
            more = f" and {len(alone) - _NAMES_SHOWN} more" if len(alone) > _NAMES_SHOWN else ""
            raise GmaeToolsError(f"{folder} has no {kind} for {', '.join(alone[:_NAMES_SHOWN])}{more}")
    return ours, {name: theirs[name] for name in ours}


def _by_stem(folder: Path, suffixes: Collection[str], kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise GmaeToolsError(f"{folder} is no folder")
    files: dict[str, Path] = {}
    skipped = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stem):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() not in suffixes:
            skipped.append(path)
            continue
        if path.stem in files:
            raise GmaeToolsError(f"{files[path.stem]} and {path.name} are two files for one {kind}: keep one")
        files[path.stem] = path
    if not files:
        raise GmaeToolsError(f"{folder}: no {kind}s here; looked for {' '.join(sorted(suffixes))}")
    report_skipped(str(folder), skipped, kind)
    return files


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """A mask bool `[H, W]`: pixels of at least half of white, or the pixels of 1 in a mask of 0 and 1.

    Raises:
        GmaeToolsError: It cannot be read, or is ambiguous because it has colours or transparency.
    """
    grey = read_grey(path)
    labels = 0 < grey.max() <= 1 / 255
    return np.asarray(grey > 0 if labels else grey >= 0.5)


def read_grey(path: str | os.PathLike[str]) -> np.ndarray:
    """A grey picture of any format as float64 `[H, W]` in [0, 1].

    Raises:
        GmaeToolsError: It cannot be read, or has colours or transparency.
    """
    picture = read_image(path)
    if np.ptp(picture, axis=2).max() > _COLOR:
        raise GmaeToolsError(f"{path} is a colour picture: save it as grey, white for the figure")
    with open_image(path) as image:
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise GmaeToolsError(f"{path} is partly transparent: save it as grey, white for the figure")
    return picture.mean(2) / 255
