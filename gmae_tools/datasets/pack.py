"""Packing photographs into tar shards, because a few large files are easier to copy and keep than a million small ones.

Photographs are downscaled, encoded again, and stored in the order of their names. A shard appears under its name when
it is complete. A later call continues after the last one and makes the same shards as an uninterrupted call.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image, features

from gmae_tools.datasets.photos import Photo, decode_photo, find_sources, list_photos, sources_digest, work_through
from gmae_tools.datasets.tars import checked_members, open_tar
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path, write_json

Kind = Literal["webp", "jpeg"]

MANIFEST = "pack.json"
_SUFFIXES: dict[Kind, str] = {"webp": ".webp", "jpeg": ".jpg"}
_SHARD = "photos-{:05d}.tar"
_END = tarfile.RECORDSIZE  # bytes with which a tar ends, at most


@dataclass(frozen=True)
class Packed:
    """Numbers of shards, from `photos-00000.tar` on, of photographs in them, and of those that could not be read."""

    shards: int
    photographs: int
    skipped: int
    example: tuple[str, str] | None = None  # name of one that was skipped and the reason, if this call met any


def pack(
    inputs: Sequence[str | Path],
    out: Path,
    *,
    shard_mb: float = 30.0,
    max_side: int = 192,
    kind: Kind = "webp",
    quality: int = 80,
    progress: bool = True,
) -> Packed:
    """Pack photographs into the folder `out`, or continue an interrupted call.

    Args:
        inputs: As for `PhotoStore.open`.
        out: Folder, made if missing. It must not contain shards of another call.
        shard_mb: Largest size of a shard in megabytes (of 1,000,000 bytes); a larger photograph has its own shard.
        max_side: Longest side in pixels; larger photographs are downscaled.
        kind: Format of the photographs in the shards.
        quality: Quality of the encoder, 1..100.
        progress: Whether a bar is shown on stderr.

    Raises:
        GmaeToolsError: No photograph can be read, `out` is inside an input or contains other shards, a setting is
            impossible, or the disk is full.
    """
    if not shard_mb > 0 or max_side < 1 or not 1 <= quality <= 100:
        raise GmaeToolsError("a shard's size and the longer side must be above 0, the quality within 1..100")
    if kind == "webp" and not features.check("webp"):
        raise GmaeToolsError("this Pillow cannot write WebP: use --format jpeg")
    for path in map(Path, inputs):
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise GmaeToolsError(f"{out}: lies inside {path}, whose photographs are to be packed; choose another --out")
    sources = find_sources(inputs)
    photos = list_photos(sources)
    encoding = {"shard_mb": shard_mb, "max_side": max_side, "format": kind, "quality": quality}
    shards = _claim(out, {"sources": sources_digest(sources, max_side), "photographs": len(photos), **encoding})
    members = _member_names(photos, _SUFFIXES[kind])
    done = 1 + members.index(_members(shards[-1])[-1]) if shards else 0
    encoded = work_through(photos[done:], lambda photo: _encode(photo, max_side, kind, quality), "packing", progress)
    skipped: list[tuple[str, str]] = []
    written = _write_shards(out, len(shards), _readable(photos[done:], members[done:], encoded, skipped), shard_mb)
    if not shards and not written:
        name, reason = skipped[0] if skipped else ("nothing", "no photographs inside")
        raise GmaeToolsError(f"none of {len(photos)} photographs can be read; the first: {name}: {reason}")
    everything = [*shards, *written]
    packed = sum(len(_members(shard)) for shard in everything)
    return Packed(len(everything), packed, len(photos) - packed, skipped[0] if skipped else None)


def _claim(out: Path, settings: dict[str, object]) -> list[Path]:
    """The shards that exist already, which must be of the same call."""
    out.mkdir(parents=True, exist_ok=True)
    shards = sorted(out.glob("photos-*.tar"))
    manifest = out / MANIFEST
    try:
        known = json.loads(manifest.read_text()) if manifest.exists() else None
    except ValueError:
        known = None
    if shards and known != settings:
        raise GmaeToolsError(f"{out}: holds shards of other photographs or settings; choose another --out")
    if [shard.name for shard in shards] != [_SHARD.format(number) for number in range(len(shards))]:
        raise GmaeToolsError(f"{out}: a shard is missing between the others; choose another --out")
    for leftover in out.glob(".photos-*.tmp.tar"):  # of a killed call
        leftover.unlink()
    write_json(manifest, settings)
    return shards


def _member_names(photos: Sequence[Photo], suffix: str) -> list[str]:
    """The photographs' names with another suffix; with a second suffix where two names would become equal."""
    names = [photo.name.lstrip("/") for photo in photos]
    short = [str(PurePosixPath(name).with_suffix(suffix)) for name in names]
    uses = Counter(short)
    return [other if uses[other] == 1 else name + suffix for name, other in zip(names, short, strict=True)]


def _encode(photo: Photo, max_side: int, kind: Kind, quality: int) -> bytes | str:
    """The downscaled photograph, or the reason why it cannot be read."""
    pixels = decode_photo(photo, max_side)
    if isinstance(pixels, str):
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=quality)
    return buffer.getvalue()


def _readable(
    photos: Sequence[Photo], names: Sequence[str], encoded: Iterator[bytes | str], skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the readable photographs; the others are added to `skipped`."""
    for photo, name, data in zip(photos, names, encoded, strict=True):
        if isinstance(data, str):
            skipped.append((photo.name, data))
        else:
            yield name, data


def _write_shards(out: Path, number: int, members: Iterator[tuple[str, bytes]], shard_mb: float) -> list[Path]:
    """Write shard `number` and the following ones, each as full as possible."""
    written: list[Path] = []
    waiting = next(members, None)
    while waiting is not None:
        path = out / _SHARD.format(number + len(written))
        room = int(shard_mb * 1e6) - _END
        with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
            while waiting is not None and (_space(*waiting) <= room or not tar.offset):
                name, data = waiting
                tar.addfile(_header(name, data), io.BytesIO(data))
                room -= _space(name, data)
                waiting = next(members, None)
        written.append(path)
    return written


def _header(name: str, data: bytes) -> tarfile.TarInfo:
    """A header without owner and time, so that the same photographs make the same shards."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header


def _space(name: str, data: bytes) -> int:
    """Bytes that a member takes in a tar."""
    blocks = -(-len(data) // tarfile.BLOCKSIZE)
    return len(_header(name, data).tobuf(tarfile.GNU_FORMAT)) + blocks * tarfile.BLOCKSIZE


def _members(shard: Path) -> list[str]:
    try:
        with open_tar(shard, "r:") as tar:
            return [member.name for member in checked_members(tar, str(shard))]
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{error}, or delete it and those that follow") from None
