"""Commands that do the same with each of many pictures: several at a time, reported and counted in order."""

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
    """The pictures, or files of Gaussians, that a command works through.

    Args:
        paths: of the inputs.
        folder: of the results.
        jobs: how many are worked on at a time; None for one a core.
        failures: inputs that have failed before.

    Attributes:
        failures: inputs that have failed by now.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, jobs: int | None, failures: int = 0) -> None:
        self.failures = failures
        self._items, self._folder = list(zip(paths, folder_names(paths), strict=True)), folder
        self._jobs = min(jobs or cores(), len(paths))

    def each(self, function: Callable[[Path, str], Result]) -> Iterator[tuple[Path, Result]]:
        """The results of `function`, a path and the name of its results to anything, in the order of the paths.

        It runs in several threads. An input that fails is reported on stderr and left out. Results are the same for
        any number of jobs.

        Raises:
            CannotWriteError: nothing can be written any more.
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
                yield path, result


def _size(item: tuple[Path, str]) -> int:
    """Bytes of a file; 0 for what is none, which fails later or is a pipe."""
    try:
        return item[0].stat().st_size
    except OSError:
        return 0
