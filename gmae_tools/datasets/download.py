"""Resumable downloads with a checksum, and safe unpacking of archives."""

from __future__ import annotations

import http.client
import io
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

from gmae_tools.datasets.tars import checked_members, open_tar
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line, printable
from gmae_tools.system.files import file_sha256

Progress = Callable[[int, int | None], None]  # takes the received bytes, and the bytes in all (None if unknown)

_CHUNK = 1 << 18
_SPARE = 64 << 20  # bytes left free on the disk
_MOST_PADDING = 4 << 20  # bytes behind the last member of an archive


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
    max_bytes: int = 4 << 30,
) -> None:
    """Download `url` into the file `target`, which appears when it is complete.

    Received bytes are kept in `<target>.part`, from which a new connection or a later call continues.

    Args:
        url: An http or https address.
        target: The file; missing folders are made.
        sha256: Expected checksum in hexadecimal digits; a file with another one is removed.
        progress: Called with the bytes received so far and in all.
        attempts: Number of connections in a row that may break without a new byte.
        timeout: Seconds without a byte after which a connection counts as broken.
        max_bytes: Largest size that is accepted.

    Raises:
        GmaeToolsError: The server refuses or sends too much, the connection breaks too often, the disk is full, or the
            checksum is wrong.
    """
    if not _is_address(url):
        raise GmaeToolsError(f"{url!r} is no address: it should begin with https:// or http://")
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, progress, timeout, max_bytes)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                answer = printable(f"{error.code} {error.reason}")
                raise GmaeToolsError(f"{url}: the server answers {answer}") from None
            problem: Exception = error
        except (http.client.HTTPException, OSError) as error:  # of the connection; `_append` reports errors of the disk
            problem = error
        failures = 0 if _size(part) > before else failures + 1
        if failures >= attempts:
            raise GmaeToolsError(f"{url} cannot be fetched ({one_line(problem)}): run again to continue from there")
        time.sleep(min(0.1 * 2**failures, 10))
    if sha256 and file_sha256(part) != sha256.lower():
        part.unlink()
        raise GmaeToolsError(f"{url} has another checksum than {sha256}: run again, or name another source")
    os.replace(part, target)


def _is_address(url: str) -> bool:
    try:
        return bool(urlsplit(url).scheme)
    except ValueError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, progress: Progress | None, timeout: float, max_bytes: int) -> None:
    """Append the missing bytes to `part`, or begin again if the server cannot continue."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "gmae-tools"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        # There are no bytes beyond those in the part: it is complete, or of another file.
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        raise ConnectionError("the server has another file than before") from None
    with response:
        start, total = _extent(response, part, have)
        if start != have:
            have = 0
        most = max_bytes if total is None else min(total, max_bytes)
        _require_space(part, None if total is None else total - have)
        with _open_part(part, anew=not have) as file:
            while chunk := response.read(_CHUNK):
                have += len(chunk)
                if have > most:
                    raise GmaeToolsError(f"{url}: the server sends more than {most} bytes: remove {part}, try another")
                _append(file, chunk)
                if progress:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _open_part(part: Path, anew: bool) -> io.FileIO:
    try:
        return io.FileIO(part, "wb" if anew else "ab")
    except OSError as error:
        raise GmaeToolsError(f"{part}: cannot be written ({error.strerror})") from None


def _append(file: io.FileIO, chunk: bytes) -> None:
    """Write a chunk, or as much of it as the disk takes."""
    left = memoryview(chunk)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise GmaeToolsError(f"{file.name}: {error.strerror}: make room and run again to continue from there") from None


def _extent(response: http.client.HTTPResponse, part: Path, have: int) -> tuple[int, int | None]:
    """The offset in the file at which the response begins, and the size of the file if known."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            problem = f"the server sends another part of the file than the requested one: remove {part} and run again"
            raise GmaeToolsError(f"{response.url}: {problem}")
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _require_space(path: Path, size: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if size is not None and size + _SPARE > free:
        raise GmaeToolsError(f"{path.parent} has {free >> 20} MB free, {(size + _SPARE) >> 20} MB are needed")


def unpack_tar(
    archive: str | os.PathLike[str], folder: str | os.PathLike[str], *, inside: str = "", max_bytes: int = 4 << 30
) -> None:
    """Unpack a part of a tar archive into a new folder, which appears when everything is unpacked.

    Args:
        archive: The archive.
        folder: The folder, which must not exist yet.
        inside: The part to unpack, a path prefix such as "BSR/BSDS500/data".
        max_bytes: Largest size of all members.

    Raises:
        GmaeToolsError: The folder exists, the archive is damaged or too large, or contains anything else than files and
            folders with relative names (links, devices, absolute names, `..`, a name twice), or the disk is full.
    """
    folder = Path(folder)
    if folder.exists():
        raise GmaeToolsError(f"{folder} exists already: remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        try:
            with open_tar(archive) as tar:
                _unpack_members(tar, unpacked, PurePosixPath(inside), max_bytes, str(archive))
                _read_to_the_end(tar, str(archive))
        except OSError as error:  # of the disk, not of the archive
            raise GmaeToolsError(f"{archive} cannot be unpacked in {folder.parent}: {error.strerror}") from None
        if not any(unpacked.iterdir()):
            raise GmaeToolsError(f"{archive} holds no {inside or 'files'}: is it the right archive?")
        os.replace(unpacked, folder)


def _unpack_members(tar: tarfile.TarFile, folder: Path, inside: PurePosixPath, max_bytes: int, label: str) -> None:
    total = 0
    for member in checked_members(tar, label):
        total += member.size  # also of members that are not wanted, because all of them are decompressed
        if total > max_bytes:
            raise GmaeToolsError(f"{label}: refusing to unpack more than {max_bytes >> 20} MB")
        name = PurePosixPath(member.name)
        if not member.name.isprintable() or "\\" in member.name or ":" in member.name:
            raise GmaeToolsError(f"{label}: refusing to unpack the name {printable(member.name)!r}")
        if not name.is_relative_to(inside) or name == inside:
            continue
        if not (member.isreg() or member.isdir()):
            raise GmaeToolsError(f"{label}: refusing to unpack {member.name!r}, which is neither file nor folder")
        try:
            _unpack_member(tar, member, folder / name.relative_to(inside))
        except (FileExistsError, NotADirectoryError):
            raise GmaeToolsError(f"{label}: refusing to unpack {member.name!r}, whose place is taken") from None


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_space(target, member.size)
    source = tar.extractfile(member)
    assert source is not None  # it is a file
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)


def _read_to_the_end(tar: tarfile.TarFile, label: str) -> None:
    """Read the empty blocks after the last member, because a decompressor compares checksums only at the end."""
    assert tar.fileobj is not None
    for _ in range(_MOST_PADDING // _CHUNK):
        if not tar.fileobj.read(_CHUNK):
            return
    raise GmaeToolsError(f"{label}: refusing an archive with data after its end")
