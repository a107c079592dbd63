"""Files that are written whole or not at all, and folders that one run at a time writes to."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gmae_tools.errors import GmaeToolsError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.\w+)?")  # what `atomic_path` yields
_TURNOVER = 1.0  # seconds that what a killed run has started may take to end


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps the suffix of `path`, because many writers choose their format by it.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what killed runs had begun to write into these folders (not into those below); nobody else may write."""
    for folder in folders:
        for path in folder.glob(".*.tmp*"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def sole_run(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Keep other runs out of a folder until the context ends, or this process does in whatever way.

    Yields:
        A file descriptor; a process that inherits it keeps others out as long as it lives.

    Raises:
        GmaeToolsError: another run is in there.
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
        yield descriptor
    finally:
        os.close(descriptor)
