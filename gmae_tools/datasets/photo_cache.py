"""The folder of decoded photographs that all runs share: how caches are found, built, listed and removed.

A cache (`photos-KEY.cache`) is named by a digest of the contents of its photographs, so that runs over the same
photographs share it wherever these are. The first run reads all files for the digest. It then writes a small record
(`STATE.known`), named by a digest of the states of all files, of the cache that they belong to. As in git's index,
later runs read no file as long as no state changes. See `photos.state_of` and `photos.content_of`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.system.files import atomic_path, take_turns, write_text

_log = logging.getLogger(__name__)

ENVIRONMENT = "GMAE_TOOLS_CACHE"
ALL = "all"
_CACHE = re.compile(r"photos-([0-9a-f]{24})\.cache")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp\.(cache|known)")  # as `atomic_path` names them
_STALE_AFTER_SECONDS = 600.0  # without locks: a cache not written to for this long belongs to a dead process


def cache_folder(chosen: str | Path | None = None) -> Path:
    """The folder for decoded photographs: `chosen`, else that of GMAE_TOOLS_CACHE, else one in the user's cache folder.

    The last one is `$XDG_CACHE_HOME/gmae-tools/photographs`, by default `~/.cache/gmae-tools/photographs`.

    Raises:
        GmaeToolsError: None is chosen, and there is no home folder.
    """
    try:
        if folder := chosen or os.environ.get(ENVIRONMENT):
            return Path(folder).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gmae-tools" / "photographs"
    except RuntimeError:
        problem = "no home folder is known for the cache of decoded photographs"
        raise GmaeToolsError(f"{problem}: name a folder with --cache or {ENVIRONMENT}") from None


@dataclass(frozen=True)
class Entry:
    """A cache in the folder."""

    key: str  # digest of the contents, 24 hexadecimal digits
    path: Path
    size: int  # bytes
    photographs: int | None  # their number; None if no use is recorded
    data: str  # places of the photographs at the last use
    used: float  # time of the last use in seconds since 1970


class PhotoCache:
    """The caches in a folder, which may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, content: str) -> Path:
        """The path of the cache of these contents, whether or not it exists."""
        return self.folder / f"photos-{content}.cache"

    # --- which cache belongs to which files -----------------------------------------------------------

    def find(self, state: str) -> Path | None:
        """The cache of files in this state, if a record of them and the cache exist."""
        known = self._known(state)
        path = self._read(known)[0]
        if path is None or not path.exists():
            return None
        with suppress(OSError):  # the folder may be another user's
            os.utime(known)  # when it was last used
        return path

    def remember(self, state: str, path: Path, photographs: int, data: Sequence[str | Path]) -> None:
        """Record the cache of files in this state, and of what `data` (as given) and how many photographs it is.

        Without write permission nothing is recorded.
        """
        places = ", ".join(os.path.abspath(place) for place in data)
        record = {"cache": path.name, "photographs": photographs, "data": places}
        with suppress(OSError, GmaeToolsError):
            for leftover in self.folder.glob(f".{state}.*.tmp.known"):  # of a killed process
                leftover.unlink(missing_ok=True)
            write_text(self._known(state), json.dumps(record))

    def _known(self, state: str) -> Path:
        return self.folder / f"{state}.known"

    def _read(self, known: Path) -> tuple[Path | None, int | None, str]:
        """The cache, number of photographs and data of a record; no cache if the record is damaged."""
        try:
            record = json.loads(known.read_text())
            if _CACHE.fullmatch(record["cache"]):
                return self.folder / record["cache"], int(record["photographs"]), str(record["data"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None, None, ""

    # --- building ---------------------------------------------------------------------------------------

    def make(self, path: Path, write: Callable[[IO[bytes]], None]) -> bool:
        """Build the cache `path` with `write` unless it exists; returns whether `write` was called.

        One process at a time builds caches in the folder while others wait. Without locks in the file system, several
        may build the same one, and the last one stays. Files of killed processes are removed first.

        Raises:
            CannotWriteError: There is no permission, or the disk is full.
        """
        if path.exists():
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with take_turns(self.folder / "lock", self._say_waiting) as alone:
                self._remove_abandoned(alone)
                self._forget()
                if path.exists():
                    return False
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    write(file)
                return True
        except CannotWriteError as error:
            room = "`gmae-tools datasets cache` shows what can be removed"
            raise CannotWriteError(f"{error}; {room}, --cache DIR takes another folder") from None
        except OSError as error:
            problem = f"{self.folder}: cannot write the cache of photographs ({error.strerror})"
            raise CannotWriteError(f"{problem}; name another folder with --cache or {ENVIRONMENT}") from None

    def _say_waiting(self) -> None:
        _log.warning("another process is decoding photographs into %s; waiting for it", self.folder)

    def _remove_abandoned(self, alone: bool) -> None:
        for path in self._unfinished():
            with suppress(FileNotFoundError):  # another process may be renaming it now
                if alone or time.time() - path.stat().st_mtime > _STALE_AFTER_SECONDS:
                    path.unlink()

    def _forget(self) -> None:
        """Remove the records of caches that no longer exist."""
        for known in self.folder.glob("*.known"):
            path, *_ = self._read(known)
            if path is None or not path.exists():
                known.unlink(missing_ok=True)

    def _unfinished(self) -> list[Path]:
        return [path for path in self.folder.glob(".*.tmp.*") if _UNFINISHED.fullmatch(path.name)]

    # --- listing and removing -----------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All caches, the most recently used one first."""
        uses: dict[Path | None, tuple[float, int | None, str]] = {}
        for known in self.folder.glob("*.known"):
            path, photographs, data = self._read(known)
            with suppress(FileNotFoundError):  # another process may be removing it now
                used = known.stat().st_mtime
                if path not in uses or used > uses[path][0]:
                    uses[path] = used, photographs, data
        found = []
        for path in self.folder.glob("photos-*.cache"):
            if name := _CACHE.fullmatch(path.name):
                status = path.stat()
                used, photographs, data = uses.get(path, (status.st_mtime, None, ""))
                found.append(Entry(name[1], path, status.st_size, photographs, data, used))
        return sorted(found, key=lambda entry: -entry.used)

    def unfinished_size(self) -> int:
        """Bytes of caches that are being built or were left unfinished."""
        return sum(path.stat().st_size for path in self._unfinished())

    def remove(self, keys: Sequence[str]) -> list[Entry]:
        """Delete caches, and files of killed processes. Runs that use a cache can continue to use it.

        Args:
            keys: Keys of the caches, or their first digits; `all` for every cache.

        Raises:
            GmaeToolsError: A key matches no cache, or several.
        """
        entries = self.entries()
        chosen = list(dict.fromkeys(entry for key in keys for entry in _of_key(key, entries)))
        for entry in chosen:
            entry.path.unlink(missing_ok=True)
        self._forget()
        if (lock := self.folder / "lock").exists():
            with take_turns(lock, None) as alone:
                if alone:  # no process is building
                    self._remove_abandoned(alone)
        return chosen


def _of_key(key: str, entries: list[Entry]) -> list[Entry]:
    if key == ALL:
        return entries
    found = [entry for entry in entries if key and entry.key.startswith(key)]
    if len(found) != 1:
        problem = f"{len(found)} caches begin with {key!r}" if found else f"no cache begins with {key!r}"
        raise GmaeToolsError(f"--remove: {problem}; `gmae-tools datasets cache` lists their keys")
    return found
