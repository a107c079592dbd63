"""BSDS500, the Berkeley segmentation data set: photographs with boundaries drawn by several annotators.

Arbelaez, Maire, Fowlkes and Malik, "Contour detection and hierarchical image segmentation", TPAMI 2011.
200 images to train on, 100 to validate, 200 to test; 321 x 481 or 481 x 321 pixels; 4 to 9 annotators each.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gmae_tools.datasets.download import Progress, download, unpack_tar
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import open_image
from gmae_tools.system.files import file_sha256

URL = "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz"
SHA256 = "97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e"  # of the 70,763,455 bytes there

SPLITS = {"train": 200, "val": 100, "test": 200}  # name -> number of images

# Where the data may lie under the root: as the official archive unpacks, or the short way.
LAYOUTS = ("BSR/BSDS500/data", "bsds500", "BSDS500/data", ".")

HOW_TO_GET = "run `gmae-tools datasets fetch bsds500 --root DIR`, or name the folder with --root or GMAE_TOOLS_DATA"


class BSDS500:
    """The data set in a folder.

    Args:
        root: Folder that contains `BSR/BSDS500/data` or `bsds500`, or the folder of `images` and `groundTruth` itself;
            by default the environment variable GMAE_TOOLS_DATA.

    Raises:
        GmaeToolsError: It is not there; the message says what to run.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        chosen = root or os.environ.get("GMAE_TOOLS_DATA")
        if not chosen:
            raise GmaeToolsError(f"BSDS500 not found, no data folder was named: {HOW_TO_GET}")
        for layout in LAYOUTS:
            folder = Path(chosen) / layout
            if (folder / "images").is_dir() and (folder / "groundTruth").is_dir():
                self.folder = folder
                return
        raise GmaeToolsError(f"BSDS500 not found under {chosen}: {HOW_TO_GET}")

    def images(self, split: str) -> list[Path]:
        """The photographs of a split ("train", "val" or "test"), by name."""
        return self._files("images", split, ".jpg")

    def ground_truth(self, split: str) -> list[Path]:
        """The ground-truth files of a split, by name: one `<id>.mat` for each photograph `<id>.jpg`."""
        return self._files("groundTruth", split, ".mat")

    def ground_truth_folder(self, split: str) -> Path:
        """The folder with the ground-truth files of a split."""
        return self._folder("groundTruth", split)

    def boundaries(self, name: str) -> list[np.ndarray]:
        """The annotators' boundary maps of one image, bool `[H, W]` each; `name` is its id, such as "3063"."""
        for split in SPLITS:
            path = self.folder / "groundTruth" / split / f"{name}.mat"
            if path.is_file():
                return read_boundaries(path)
        raise GmaeToolsError(f"no ground truth for image {name} in {self.folder / 'groundTruth'}")

    def check(self, progress: Callable[[Iterable[str], int], Iterable[str]] | None = None) -> dict[str, int]:
        """Read every file; returns the number of images of each split that is there.

        `progress` is called with the names of a split's images and their number, and yields the names.

        Raises:
            GmaeToolsError: A file is missing, surplus, damaged or of the wrong size; the message names the first one.
        """
        there = [split for split in SPLITS if (self.folder / "images" / split).is_dir()]
        found = {split: self._check_split(split, progress) for split in there}
        if not found:
            raise GmaeToolsError(f"no split of BSDS500 in {self.folder}: {HOW_TO_GET}")
        return found

    def _check_split(self, split: str, progress: Callable[[Iterable[str], int], Iterable[str]] | None) -> int:
        photographs = {path.stem: path for path in self.images(split)}
        truths = {path.stem: path for path in self.ground_truth(split)}
        if odd := sorted(photographs.keys() ^ truths.keys()):
            raise GmaeToolsError(f"{split}: {odd[0]} lacks its photograph or its ground truth: {HOW_TO_GET}")
        if len(photographs) != SPLITS[split]:
            raise GmaeToolsError(f"{split}: {len(photographs)} images instead of {SPLITS[split]}: {HOW_TO_GET}")
        for name in progress(photographs, len(photographs)) if progress else photographs:
            path = photographs[name]
            try:
                with open_image(path) as image:
                    image.load()
                    width, height = image.size
            except GmaeToolsError as error:
                raise GmaeToolsError(f"{error}: {HOW_TO_GET}") from None
            for boundaries in read_boundaries(truths[name]):
                if boundaries.shape != (height, width):
                    raise GmaeToolsError(f"{truths[name]} is not of the size of {path}: {HOW_TO_GET}")
        return len(photographs)

    def _files(self, kind: str, split: str, suffix: str) -> list[Path]:
        return sorted(path for path in self._folder(kind, split).iterdir() if path.suffix.lower() == suffix)

    def _folder(self, kind: str, split: str) -> Path:
        if split not in SPLITS:
            raise GmaeToolsError(f"BSDS500 has the splits {', '.join(SPLITS)}, not {split!r}")
        folder = self.folder / kind / split
        if not folder.is_dir():
            raise GmaeToolsError(f"the {split} split of BSDS500 is missing in {self.folder}: {HOW_TO_GET}")
        return folder


def fetch(
    root: str | os.PathLike[str],
    *,
    url: str | None = None,
    keep_archive: bool = False,
    progress: Progress | None = None,
) -> BSDS500:
    """Download the official archive, compare its checksum and unpack `BSR/BSDS500/data`, unless that was done before.

    `url` is another source of the same archive; see `download` for `progress`.
    """
    with suppress(GmaeToolsError):
        return BSDS500(root)
    archive = Path(root) / "BSR_bsds500.tgz"
    if not (archive.is_file() and file_sha256(archive) == SHA256):
        download(url or URL, archive, sha256=SHA256, progress=progress)
    inside = LAYOUTS[0]
    unpack_tar(archive, Path(root) / inside, inside=inside)
    if not keep_archive:
        archive.unlink()
    return BSDS500(root)


def read_mat(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The variables of a MATLAB file (version 7.2 or older); GmaeToolsError if it cannot be read."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    damage = (MatReadError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, zlib.error)
    try:
        with open(path, "rb") as file:
            variables: dict[str, Any] = loadmat(file)
    except NotImplementedError:
        raise GmaeToolsError(f"{path} is a MATLAB 7.3 file: save it with the option -v7") from None
    except OSError as error:
        raise GmaeToolsError(f"{path} cannot be read ({error.strerror or error})") from None
    except damage as error:
        raise GmaeToolsError(f"{path} is no MATLAB file, or a damaged one ({error})") from None
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def read_boundaries(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """The annotators' boundary maps in a BSDS-style file, bool `[H, W]` each.

    The file contains a cell array `groundTruth` of structures with a field `Boundaries`.
    """
    variables = read_mat(path)
    if "groundTruth" not in variables:
        raise GmaeToolsError(f"{path} holds no `groundTruth`: it is no BSDS-style ground-truth file")
    try:
        annotations = variables["groundTruth"].ravel()
        maps = [np.asarray(annotation["Boundaries"][0, 0]) > 0 for annotation in annotations]
    except (ValueError, TypeError, IndexError) as error:
        raise GmaeToolsError(f"{path}: `groundTruth` has no `Boundaries` ({error})") from None
    if not maps:
        raise GmaeToolsError(f"{path} holds no annotation")
    return maps
