"""Finding the picture files that a path, a folder or a glob names, each once; skipped files are reported."""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import IMAGE_SUFFIXES, is_image_name, printable
from gmae_tools.system.processes import is_first_of_launch

_MOST_SUFFIXES = 6  # named in a message

_log = logging.getLogger(__name__)


def matching_paths(text: str | os.PathLike[str]) -> list[Path]:
    """The existing file or folder `text`, or else the sorted matches of a glob (`**` is recursive).

    Raises:
        GmaeToolsError: There is none.
    """
    path = Path(text).expanduser()
    if os.path.lexists(path):
        return [path]
    matches = sorted(set(_matches(path.parts)))
    if not matches:
        raise GmaeToolsError(f"{text}: no such file or folder")
    return [Path(match) for match in matches]


def _matches(parts: Sequence[str]) -> Iterator[str]:
    """The matches of a glob. Python's own glob would follow links to parent folders again and again."""
    if "**" not in parts:
        yield from glob.iglob(os.path.join(*parts)) if parts else ()
        return
    stars = parts.index("**")
    for top in glob.iglob(os.path.join(*parts[:stars])) if stars else [""]:
        for folder, files in walk(top or "."):
            if rest := parts[stars + 1 :]:
                yield from _matches((*Path(glob.escape(str(folder))).parts, *rest))
            else:
                yield from (str(folder / name) for name in files)


def walk(top: str | os.PathLike[str], without: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Every folder of a tree with the sorted names of its files, without hidden ones.

    Links to folders are followed last, and no folder is entered twice. The folder `without` is left out.
    """
    seen = {os.path.realpath(without)} if without and not _is_same(without, top) else set()
    waiting = deque([os.fspath(top)])
    while waiting:
        for parent, folders, files in os.walk(waiting.popleft()):
            place = os.path.realpath(parent)
            folders[:] = [] if place in seen else sorted(name for name in folders if not name.startswith("."))
            if place in seen:
                continue
            seen.add(place)
            yield Path(parent), sorted(name for name in files if not name.startswith("."))
            paths = (os.path.join(parent, name) for name in folders)
            waiting.extend(path for path in paths if os.path.islink(path))


def find_images(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    without: Path | None = None,
    others: tuple[str, ...] = (),
) -> list[Path]:
    """The pictures that command-line arguments name, in their order, each once even if several links lead to it.

    A file is taken whatever its name is. A folder stands for the pictures directly inside it, not for those of its
    subfolders, which may contain earlier results. A glob stands for its matches; `DIR/**/*.jpg` walks a tree. Pictures
    in folders and globs are recognised by suffix (`IMAGE_SUFFIXES`, in any case) and sorted. A warning counts the files
    that are skipped there, by suffix, and the folders that are not entered.

    Args:
        inputs: Files, folders and globs.
        recursive: Also take the pictures of all subfolders that are not hidden.
        without: A folder that is not entered, such as that of the results.
        others: Suffixes in lower case of other files that are taken like pictures.

    Raises:
        GmaeToolsError: An input matches no picture, or there is no input.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        for path in _images_of(text, recursive, without, others):
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise GmaeToolsError("no pictures given; name files, folders or globs")
    return list(found.values())


def _images_of(
    text: str | os.PathLike[str], recursive: bool, without: Path | None, others: tuple[str, ...]
) -> list[Path]:
    paths = matching_paths(text)
    named = Path(text).expanduser()
    if paths == [named]:
        if not named.is_dir():
            return paths
        paths = sorted(named.iterdir())
    folders = [path for path in paths if path.is_dir() and not path.name.startswith(".")]
    files = [path for path in paths if not path.is_dir() and not path.name.startswith(".")]
    if recursive:
        tops = [named] if named.is_dir() else folders
        files += (folder / name for top in tops for folder, names in walk(top, without) for name in names)
        files, folders = sorted(set(files)), []
    if without:
        folders = [folder for folder in folders if not _is_same(folder, without)]
    taken = [path for path in files if is_image_name(path.name) or path.suffix.lower() in others]
    images = [path for path in taken if not is_special(path)]
    several = f"{len(folders)} folders" if len(folders) > 1 else "the folder"
    if not images:
        looked = f"no pictures here; looked for {' '.join([*sorted(IMAGE_SUFFIXES), *others])}"
        hint = f"; -r also looks into {several} inside" if folders else ""
        raise GmaeToolsError(f"{text}: {looked}{hint}")
    report_skipped(str(text), sorted(set(files) - set(images)))
    if folders and "**" not in named.parts:
        _log.warning("%s: %s inside %s not entered; -r does that", text, several, "are" if len(folders) > 1 else "is")
    return images


def is_special(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device; reading one that was found in a folder could wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError:  # it is gone, or a broken link, which is reported when it is opened
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def report_skipped(where: str, skipped: Sequence[str | os.PathLike[str]], kind: str = "picture") -> None:
    """Log a warning that counts files that are no `kind` by suffix, unless there are none."""
    if not skipped or not is_first_of_launch():
        return
    suffixes = Counter(os.path.splitext(os.fspath(path))[1].lower() or "without suffix" for path in skipped)
    common = suffixes.most_common(_MOST_SUFFIXES)
    shown = [f"{count} {printable(suffix)}" for suffix, count in common]
    rest = len(skipped) - sum(count for _, count in common)
    _log.warning("%s: skipped what is no %s: %s", where, kind, ", ".join(shown + [f"{rest} others"] * bool(rest)))


def _is_same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
