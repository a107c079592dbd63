"""Reading of tar archives from unknown sources, with checks that `tarfile` lacks.

An archive can state a negative size, which makes `tarfile` loop or read the same bytes again (CVE-2025-8194). It can
contain a name of gigabytes, which `tarfile` reads into memory, or a header on which its patterns take for ever
(CVE-2024-6232). An archive that is damaged in the middle seems to `tarfile` to end there.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line, printable

_MOST_MEMBERS = 1 << 21  # ImageNet in one shard has 1.3 million
_LONGEST_DESCRIPTION = 1 << 14  # bytes of the description of a member: long names, lists of properties
_DESCRIPTIONS = b"LKxgX"  # types of members: long name, long link, properties, those of all members, of Solaris


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise  # where archives end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if header.size < 0 or (header.type in _DESCRIPTIONS and header.size > _LONGEST_DESCRIPTION):
            raise tarfile.ReadError(f"a member of {header.size} bytes")
        return header


@contextmanager
def open_tar(path: str | os.PathLike[str], mode: Literal["r:*", "r:"] = "r:*") -> Iterator[tarfile.TarFile]:
    """Open an archive for reading. Errors of its content, until the context ends, become a one-line message.

    Raises:
        GmaeToolsError: It is damaged, or is no tar.
        OSError: The file system fails.
    """
    try:
        with tarfile.open(path, mode, tarinfo=_Header) as tar:
            yield tar
    except GmaeToolsError:
        raise
    except Exception as error:  # damage makes decompressors and parsers raise anything
        if isinstance(error, OSError) and error.errno:
            raise
        raise GmaeToolsError(f"{path}: damaged tar ({one_line(error)}); remove it and fetch it again") from None


def checked_members(tar: tarfile.TarFile, label: str) -> Iterator[tarfile.TarInfo]:
    """The members in the order of the archive.

    Raises:
        GmaeToolsError: The archive is malicious: a name leads out of the folder, a size is negative, or there are too
            many members.
    """
    for count, member in enumerate(tar):
        name = member.name
        if count == _MOST_MEMBERS:
            raise GmaeToolsError(f"{label}: refusing an archive of more than {_MOST_MEMBERS} members")
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise GmaeToolsError(f"{label}: refusing to unpack the name {printable(name)!r}")
        if member.size < 0:
            raise GmaeToolsError(f"{label}: refusing {printable(name)!r} of {member.size} bytes")
        yield member
