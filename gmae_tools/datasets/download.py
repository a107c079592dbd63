"""Fetch archives: a download that goes on where it stopped, a checksum, and unpacking that trusts nothing."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from gmae_tools.errors import GmaeToolsError

Progress = Callable[[int, int | None], None]  # bytes there, bytes in all (None: not known)

_CHUNK = 1 << 18
_SPARE = 64 << 20  # bytes left free on the disk


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
) -> None:
    """Download `url` into the file `target`.

    What has arrived is kept in `<target>.part`: a broken connection, and a later call, go on from there.
    The file gets its name when it is complete and, if `sha256` (hex) is given, has that checksum. Raises
    GmaeToolsError when the server refuses, the connection breaks `attempts` times without bringing anything
    new, the disk is full, or the checksum is wrong (the part is removed then).
    """
    if not urlsplit(url).scheme:
        raise GmaeToolsError(f"{url!r} is no address: it should begin with https:// or http://")
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise GmaeToolsError(f"{url}: the server answers {error.code} {error.reason}") from None
            problem: Exception = error
        except (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
            problem = error
        failures = 0 if _size(part) > before else failures + 1
        if failures >= attempts:
            raise GmaeToolsError(f"{url} cannot be fetched ({problem}): run again, it goes on from there")
        time.sleep(min(0.1 * 2**failures, 10))
    if sha256 and checksum(part) != sha256.lower():
        part.unlink()
        raise GmaeToolsError(f"{url} has another checksum than {sha256}: run again, or name another source")
    os.replace(part, target)


def checksum(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Append what is missing to `part`, or begin anew where the server cannot continue."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "gmae-tools"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        # Nothing lies beyond what we have: it is all there, or it is not this file.
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        raise ConnectionError("the server has another file than before") from None
    with response:
        start, total = _extent(response, have)
        if start != have:
            have = 0
        _require_space(part, None if total is None else total - have)
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer begins in the file, and the size of the file if known."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            raise GmaeToolsError(f"{response.url}: the server answers with another part than asked for")
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _require_space(path: Path, size: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if size is not None and size + _SPARE > free:
        raise GmaeToolsError(f"{path.parent} has {free >> 20} MB free, {(size + _SPARE) >> 20} MB are needed")


def unpack_tar(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    inside: str = "",
    max_bytes: int = 4 << 30,
) -> None:
    """Unpack the part `inside` (a path prefix such as "BSR/BSDS500/data") of a tar archive into a new
    `folder`.

    `folder` appears when everything is unpacked, or not at all; it must not exist. Only files and folders
    with relative names below `inside` are accepted: an archive with anything else there (links, devices,
    absolute names, `..`), with more than `max_bytes`, or damaged, is refused with a GmaeToolsError.
    """
    folder = Path(folder)
    if folder.exists():
        raise GmaeToolsError(f"{folder} exists already: remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        try:
            with tarfile.open(archive) as tar:
                _unpack_members(tar, unpacked, PurePosixPath(inside), max_bytes, str(archive))
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # the disk's fault, not the archive's
                raise
            raise GmaeToolsError(f"{archive} is damaged ({error}): remove it and fetch it again") from None
        if not any(unpacked.iterdir()):
            raise GmaeToolsError(f"{archive} holds no {inside or 'files'}: is it the right archive?")
        os.replace(unpacked, folder)


def _unpack_members(tar: tarfile.TarFile, folder: Path, inside: PurePosixPath, max_bytes: int, label: str) -> None:
    total = 0
    for member in tar:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
            raise GmaeToolsError(f"{label}: refusing to unpack the name {member.name!r}")
        if not name.is_relative_to(inside) or name == inside:
            continue
        target = folder / name.relative_to(inside)
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        source = tar.extractfile(member) if member.isreg() else None
        if source is None:
            raise GmaeToolsError(f"{label}: refusing to unpack {member.name!r}, which is neither file nor folder")
        total += member.size
        if total > max_bytes:
            raise GmaeToolsError(f"{label}: refusing to unpack more than {max_bytes >> 20} MB")
        _require_space(target if target.parent.exists() else folder / "file", member.size)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
