"""Files that are written whole or not at all, and folders that one run at a time writes to."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from gmae_tools.errors import CannotWriteError, GmaeToolsError

_log = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.\w+)?")  # what `atomic_path` yields
_ROOM = 1 << 12  # bytes that a disk takes unless it is full
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TURNOVER = 1.0  # seconds within which the processes that a killed run has started end
_BLOCK = 1 << 20  # bytes read at a time


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps the suffix of `path`, because many writers choose their format by it.

    Raises:
        CannotWriteError: The disk is full or the folder is gone, whichever exception the writer raised for that.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except GmaeToolsError:
        raise
    except Exception as error:  # torch and safetensors raise their own
        if reason := _want_of_room(error) or _refusal(partial(temporary.open, "ab")):
            problem = f"{target}: cannot be written ({reason}); see to its disk, and start again"
            raise CannotWriteError(problem) from None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, whole or not at all; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: object, indent: int | None = 2) -> None:
    """Write a value as JSON, whole or not at all; see `atomic_path`."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def check_writable(folder: Path) -> None:
    """Raise a CannotWriteError if the folder is missing, there is no permission, or the disk is full."""
    if reason := _refusal(partial(tempfile.TemporaryFile, dir=folder)):
        raise CannotWriteError(f"{folder}: cannot write there ({reason}); choose another folder")


def still_there(folder: Path) -> Callable[[], None]:
    """A function that raises CannotWriteError once the folder has been replaced or cannot be written any more.

    Writers of pictures make the folders that they need. A folder that was removed may therefore exist again, without
    the files that were written before.
    """
    before = folder.stat()

    def check() -> None:
        check_writable(folder)
        if not os.path.samestat(before, folder.stat()):
            raise CannotWriteError(f"{folder}: has vanished, and with it what was written before; start again")

    return check


def _want_of_room(error: Exception) -> str | None:
    """The operating system's message about a full disk, from an exception of Python or Rust; None for other errors."""
    rust = re.search(r"\(os error (\d+)\)", str(error))
    number = int(rust[1]) if rust else getattr(error, "errno", None)
    return os.strerror(number) if number in _FULL else None


def _refusal(open_file: Callable[[], IO[Any]]) -> str | None:
    """Why nothing can be written to a file; None if writing works."""
    try:
        with open_file() as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        return error.strerror or str(error)
    return None


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove files that killed runs left half written in these folders (not below), where no other run may be."""
    for folder in folders:
        for path in folder.glob(".*.tmp*"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def sole_run(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Lock a folder against other runs until the context or this process ends.

    On a file system without locks of folders (NFS) a warning is logged, and no run is refused.

    Yields:
        A file descriptor. A process that inherits it holds the lock as long as it lives.

    Raises:
        GmaeToolsError: Another run holds the lock.
    """
    import fcntl  # of POSIX systems

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        patience = time.monotonic() + _TURNOVER
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    problem = f"{folder}: another run is writing there; wait for its end, or choose another folder"
                    raise GmaeToolsError(problem) from None
                time.sleep(0.05)
            except OSError as error:
                _log.warning("%s cannot be locked (%s): see that no other run writes there", folder, error.strerror)
                break
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def take_turns(path: Path, wait: Callable[[], None] | None) -> Iterator[bool]:
    """Hold a lock file, made if missing, which one process at a time can hold, until the context or this process ends.

    `wait` is called once before waiting for another process that holds it; with None there is no waiting.

    Yields:
        Whether it is held. It is not if another process holds it and `wait` is None, or without locks (NFS).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only what can be written
    try:
        yield _locked(descriptor, wait)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, wait: Callable[[], None] | None) -> bool:
    import fcntl  # of POSIX systems

    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                return False
            wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
