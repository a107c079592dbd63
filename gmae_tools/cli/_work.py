"""Work on many pictures in parallel, and report results and failures in the order of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from gmae_tools.cli._options import folder_names, print_failure
from gmae_tools.cli._progress import progress_over
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.processes import cores, in_threads, torch_threads

Result = TypeVar("Result")


class Work:
    """The pictures, or files of Gaussians, that a command works through, with results in `folder`.

    `jobs` are worked on at the same time (None: one for each core); `failures` and `done` are the numbers of those that
    have failed, and of those that have been yielded, so far.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, jobs: int | None, failures: int = 0) -> None:
        self.failures, self.done = failures, 0
        self._items, self._folder = list(zip(paths, folder_names(paths), strict=True)), folder
        self._jobs = min(jobs or cores(), len(paths))

    def each(self, function: Callable[[Path, str], Result]) -> Iterator[tuple[Path, Result]]:
        """Call a function of path and name for results for every input in several threads; yield paths and results.

        An input that fails is reported on stderr and left out. Results are in the order of the paths, and the same for
        any number of jobs.

        Raises:
            CannotWriteError: results cannot be written any more.
        """
        with (
            torch_threads(len(self._items)),
            closing(in_threads(lambda item: function(*item), self._items, self._jobs, _size)) as outcomes,
            closing(progress_over(self._items, self._folder)) as shown,
        ):
            for (path, _), outcome in zip(shown, outcomes, strict=False):
                try:
                    result = outcome.result()
                except (GmaeToolsError, OSError) as error:
                    print_failure(path, error)
                    self.failures += 1
                    continue
                self.done += 1
                yield path, result


def _size(item: tuple[Path, str]) -> int:
    """Return the size of a file in bytes; 0 for a pipe, or for a missing file, which fails later."""
    try:
        return item[0].stat().st_size
    except OSError:
        return 0
