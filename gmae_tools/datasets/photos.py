"""Photographs for pretraining: folders, single files and tar shards, decoded once into a memory-mapped cache.

Decoding takes longer than a training step of a small model, and would be repeated every epoch. `PhotoStore.open`
therefore decodes every photograph once, downscaled, and later runs map the pixels at no cost. All runs share one folder
of such caches; see `photo_cache`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from gmae_tools.datasets.photo_cache import PhotoCache, cache_folder
from gmae_tools.datasets.tars import checked_members, open_tar
from gmae_tools.errors import GmaeToolsError
from gmae_tools.finding import is_special, matching_paths, report_skipped, walk
from gmae_tools.images import is_image_name, one_line, open_image, resize, to_rgb
from gmae_tools.system.files import file_sha256

Item = TypeVar("Item")
Result = TypeVar("Result")

CACHE_VERSION = 1
DECODING_CHUNK = 256  # photographs decoded ahead of the writer, to bound memory
_LARGE = 1 << 24  # photographs of more pixels are decoded one at a time, to bound memory
_PATIENCE = 2.0  # seconds before progress is shown
_ONE_LARGE = threading.Lock()


# --- sources and photographs ----------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file with photographs: an image, or a tar shard of images."""

    name: str
    path: Path


@dataclass(frozen=True)
class Photo:
    """Place of the encoded bytes of one photograph: a whole file, or a range of an uncompressed tar."""

    name: str
    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def find_sources(inputs: Sequence[str | Path]) -> list[Source]:
    """The images and shards in `inputs`, each once, sorted by name whatever the order of `inputs`.

    A warning counts, by suffix, the files in folders that are skipped.

    Raises:
        GmaeToolsError: An input is missing, compressed, a pipe, or contains no photographs.
    """
    found: list[tuple[Path, str]] = []
    for path in (path for text in inputs for path in expand(text)):
        if path.is_dir():
            found += ((file.resolve(), file.relative_to(path).as_posix()) for file in _walk(path))
        elif is_special(path):
            raise GmaeToolsError(f"{path}: is a pipe or a device, which cannot be read twice; save it as a file first")
        elif re.search(r"\.(tar\.\w+|tgz)$", path.name.lower()):
            raise GmaeToolsError(f"{path}: compressed shards cannot be read at random; decompress it to .tar")
        else:
            found.append((path.resolve(), path.name))
    if not found:
        raise GmaeToolsError(f"no photographs or .tar shards in: {', '.join(map(str, inputs)) or 'no input'}")
    names = dict(sorted(found))
    uses = Counter(names.values())
    sources = [Source(name if uses[name] == 1 else path.as_posix(), path) for path, name in names.items()]
    return sorted(sources, key=lambda source: source.name)


def expand(text: str | Path) -> list[Path]:
    """The paths of one input: a path, a glob, or a WebDataset range such as `photos-{000..012}.tar`.

    Raises:
        GmaeToolsError: There are none.
    """
    text = str(text)
    if (numbers := re.search(r"\{(\d+)\.\.(\d+)\}", text)) and not os.path.exists(text):
        first, last = numbers.groups()
        shards = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        head, tail = text[: numbers.start()], text[numbers.end() :]
        return [path for shard in shards for path in expand(f"{head}{shard}{tail}")]
    return matching_paths(text)


def _walk(folder: Path) -> Iterator[Path]:
    """Images and shards anywhere below `folder`, except hidden ones."""
    skipped: list[Path] = []
    for parent, files in walk(folder):
        for path in (parent / name for name in files):
            is_shard = path.suffix.lower() == ".tar" and not path.name.startswith(".")
            if (is_image_name(path.name) or is_shard) and not is_special(path):
                yield path
            else:
                skipped.append(path)
    report_skipped(str(folder), skipped, "picture, nor a .tar shard")


def list_photos(sources: Sequence[Source]) -> list[Photo]:
    """Every photograph of every source, sorted by name; other members of shards are logged as skipped."""
    photos: dict[str, Photo] = {}  # by name: of members with the same name the last one counts, as in any tar
    skipped: list[str] = []
    for source in sources:
        is_shard = source.path.suffix.lower() == ".tar"
        listed = _list_shard(source, skipped) if is_shard else [Photo(source.name, source.path)]
        photos.update((photo.name, photo) for photo in listed)
    report_skipped("shards", skipped)
    return [photos[name] for name in sorted(photos)]


def _list_shard(shard: Source, skipped: list[str]) -> list[Photo]:
    """The photographs in a shard. The names of its other files are added to `skipped`."""
    try:
        with open_tar(shard.path, "r:") as tar:
            members = list(checked_members(tar, str(shard.path)))
    except OSError as error:
        raise GmaeToolsError(f"{shard.path}: cannot be read ({error.strerror})") from None
    photos = []
    for member in members:
        name = member.name
        # Sparse members are no photographs, because they are not contiguous.
        if member.isreg() and not member.issparse() and is_image_name(name):
            place = f"{shard.name}/{name.removeprefix('./')}"
            photos.append(Photo(place, shard.path, member.offset_data, member.size))
        elif member.isreg() and not os.path.basename(name).startswith("."):
            skipped.append(name)
    return photos


# --- digests of sources ---------------------------------------------------------------------------


def sources_digest(sources: Sequence[Source], max_side: int) -> str:
    """A digest of names, sizes and dates of the sources, and of the way of decoding. No file is read."""
    found = [(source, source.path.stat()) for source in sources]
    return _key(
        [f"{source.name}\0{source.path}\0{status.st_size}\0{status.st_mtime_ns}" for source, status in found], max_side
    )


def state_of(sources: Sequence[Source], max_side: int) -> str:
    """A digest that, unlike `sources_digest`, also changes if a file is replaced by one of equal size and date.

    A program that copies or unpacks files can set the date, but neither the inode nor the time of the last change of
    status (ctime). No file is read.
    """
    statuses = [source.path.stat() for source in sources]
    return _key([sources_digest(sources, max_side), *(f"{s.st_ino} {s.st_ctime_ns}" for s in statuses)], max_side)


def content_of(sources: Sequence[Source], max_side: int, progress: bool = True) -> str:
    """A digest (24 digits) of names, contents and the way of decoding, wherever the files are. Reads all files."""
    digests = work_through(sources, _digest, "looking for these photographs in the cache", progress)
    return _key([f"{source.name}\0{found}" for source, found in zip(sources, digests, strict=True)], max_side)


def _key(lines: Sequence[str], max_side: int) -> str:
    text = "\n".join([f"{CACHE_VERSION} {max_side}", *lines])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _digest(source: Source) -> str:
    """The SHA-256 of a file, or the reason why it cannot be read."""
    try:
        return file_sha256(source.path)
    except OSError as error:
        return str(error.strerror)


# --- the store ------------------------------------------------------------------------------------


class PhotoStore:
    """Decoded photographs, mapped from one cache file; see `PhotoStore.open`.

    Attributes:
        names: Unique names, sorted: the path relative to the given folder, or `shard.tar/member`. Sources that would
            share a name have their full paths instead.
        skipped: `(name, reason)` of every photograph that could not be decoded.
        path: The cache file: the pixels, then the index (JSON), then the size of the index (8 bytes, little endian).
            It is a single file, so that one rename makes the whole cache appear at once.
        shapes: Heights and widths in pixels, `[N, 2]`.
        starts: Offset in bytes at which each photograph begins in the file, `[N]`.
        size: Size of all pixels in bytes.
        made: Whether this call has decoded them.
    """

    def __init__(self, path: Path, made: bool = False) -> None:
        self.made = made
        index = _read_index(path)
        self.path = path
        self.names: list[str] = index["names"]
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in index["skipped"]]
        self.shapes = np.array(index["shapes"], dtype=np.int64).reshape(-1, 2)
        ends = np.cumsum(self.shapes.prod(axis=1) * 3)
        self.starts = ends - self.shapes.prod(axis=1) * 3
        self.size = int(ends[-1])
        # A plain array over the map, because slicing np.memmap is ten times slower.
        self._pixels = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))

    @classmethod
    def open(
        cls,
        sources: Sequence[str | Path],
        cache_dir: str | Path | None = None,
        max_side: int = 256,
        progress: bool = True,
    ) -> PhotoStore:
        """Open the photographs of `sources`. They are decoded into a cache unless there is one already.

        A cache is used again if the names and contents of all source files and `max_side` are the same. The files are
        read for this comparison, unless they are untouched since the last time. A cache appears under its name when it
        is complete, so an interrupted one is built again. One process builds it while the others wait.

        Args:
            sources: Image files, folder trees of images and shards, shards, globs, ranges (`{00..12}.tar`).
            cache_dir: Folder for caches, made if missing; None for the user's, see `cache_folder`. A photograph takes
                up to `3 * max_side ** 2` bytes.
            max_side: Longest side in pixels; larger photographs are downscaled, smaller ones stay.
            progress: Whether progress is shown on stderr.

        Raises:
            GmaeToolsError: A source is missing or not readable, no photograph is found or none of them can be decoded,
                one was changed meanwhile, or the cache cannot be written.
        """
        files = find_sources(sources)
        cache = PhotoCache(cache_folder(cache_dir))
        state = state_of(files, max_side)
        if path := cache.find(state):
            return cls(path)
        photos = list_photos(files)
        if not photos:
            raise GmaeToolsError(f"no photographs inside: {', '.join(map(str, sources))}")

        def write(file: IO[bytes]) -> None:
            _write_cache(file, photos, max_side, progress)
            with suppress(OSError):  # a file has been removed
                if state_of(files, max_side) == state:
                    return
            raise GmaeToolsError("photographs were changed while they were decoded; start again")

        path = cache.path_of(content_of(files, max_side, progress))
        store = cls(path, cache.make(path, write))
        cache.remember(state, path, len(store), sources)
        return store

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, index: int) -> np.ndarray:
        """Photograph number `index`: uint8 RGB `[h, w, 3]`, a read-only view of the mapped file."""
        height, width = self.shapes[index]
        start = self.starts[index]
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)


def _write_cache(file: IO[bytes], photos: Sequence[Photo], max_side: int, progress: bool) -> None:
    names: list[str] = []
    shapes: list[tuple[int, int]] = []
    skipped: list[tuple[str, str]] = []
    all_decoded = work_through(photos, lambda photo: decode_photo(photo, max_side), "decoding photographs", progress)
    for photo, decoded in zip(photos, all_decoded, strict=True):
        if isinstance(decoded, str):
            skipped.append((photo.name, decoded))
            continue
        file.write(decoded.tobytes())
        names.append(photo.name)
        shapes.append((decoded.shape[0], decoded.shape[1]))
    if not names:
        name, reason = skipped[0]
        raise GmaeToolsError(f"none of {len(skipped)} photographs can be read; the first: {name}: {reason}")
    index = json.dumps({"names": names, "shapes": shapes, "skipped": skipped}).encode()
    file.write(index)
    file.write(len(index).to_bytes(8, "little"))


def _read_index(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            size = int.from_bytes(file.read(8), "little")
            file.seek(-8 - size, os.SEEK_END)
            return dict(json.loads(file.read(size)))
    except (OSError, ValueError) as error:
        raise GmaeToolsError(f"{path}: damaged cache ({error}); delete it to have it built again") from None


def work_through(
    photos: Sequence[Item], work: Callable[[Item], Result], label: str, progress: bool
) -> Iterator[Result]:
    """The results of `work` for every photograph or source, in order, by threads (Pillow and hashlib free the GIL)."""
    bar = tqdm(total=len(photos), desc=label, unit="photograph", disable=not progress, delay=_PATIENCE)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(photos), DECODING_CHUNK):
            chunk = photos[start : start + DECODING_CHUNK]
            yield from pool.map(work, chunk)
            bar.update(len(chunk))


def decode_photo(photo: Photo, max_side: int) -> np.ndarray | str:
    """The pixels, uint8 RGB `[h, w, 3]`, no side longer than `max_side`; or the reason why it cannot be read."""
    try:
        with open_image(io.BytesIO(photo.read()), side=max_side) as image:
            large = image.width * image.height > _LARGE
            with _ONE_LARGE if large else nullcontext():
                small = Image.fromarray(to_rgb(image))
                small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        return np.asarray(small)
    except (GmaeToolsError, OSError) as error:
        return one_line(error)


# --- the held-out photographs ---------------------------------------------------------------------


def held_out_split(names: Sequence[str], count: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Split photographs into training and held out, by their names alone.

    Held out are the `count` photographs (at most a tenth of all) whose base names (the last part of the name, with
    suffix, in UTF-8) have the smallest SHA-256 digests; ties are broken by the whole name. The split therefore does not
    depend on order, shards or machine.

    Args:
        names: Names as in `PhotoStore.names`.
        count: Number of photographs to hold out, >= 0.

    Returns:
        `(train, held_out)`: int64 indices into `names`, each ascending.
    """

    def key(index: int) -> tuple[bytes, str]:
        base = names[index].rpartition("/")[2]
        return hashlib.sha256(base.encode()).digest(), names[index]

    order = np.array(sorted(range(len(names)), key=key), dtype=np.int64)
    held_out = min(count, len(names) // 10)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


# --- pictures for models --------------------------------------------------------------------------


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The largest central square of `photo` (uint8 `[h, w, 3]`), resized to uint8 `[size, size, 3]`."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    # Cut before resizing, because Pillow's own `box` lets outside pixels bleed in and copies the whole photograph.
    return resize(photo[top : top + side, left : left + side], size, size)


def prefetch(items: Iterable[Item], depth: int = 4) -> Iterator[Item]:
    """The items in their order, computed by one background thread at most `depth` ahead.

    The thread starts when the first item is requested and ends with the iterator or its `close()`. An exception of
    `items` is raised at its place in the sequence.
    """
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        pending = deque(pool.submit(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]  # mypy cannot tell the sentinel apart
    finally:
        pool.shutdown(cancel_futures=True)
