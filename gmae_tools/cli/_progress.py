"""Progress on stderr, which may be no terminal, of everything that takes longer than two seconds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from tqdm import tqdm

from gmae_tools.cli._options import when_interrupted
from gmae_tools.system.files import still_there
from gmae_tools.system.memory import imports_not_collected
from gmae_tools.system.processes import go_on, is_helper

if TYPE_CHECKING:
    from gmae_tools.report.layers import Strips
    from gmae_tools.scene import Scene
    from gmae_tools.splatting import Backend

T = TypeVar("T")

PATIENCE = 2.0  # seconds before progress is shown
LARGE = 1 << 22  # pixels of a picture that has a progress bar of its own
LONG = 1 << 24  # pixels times steps of a refinement that has one; it takes a few seconds


def bar_size() -> dict[str, int]:
    """Arguments that tqdm needs to show a bar on a terminal of unknown size, as in scripts; else none."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # no terminal
        known = True
    return {} if known else {"ncols": 80, "nrows": 24}


class LateBar:
    """A progress bar that appears after `PATIENCE` seconds, also during the first, long item (a `unit`)."""

    def __init__(self, total: int, unit: str, label: str | None = None) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.done = 0
        self._bar: tqdm | None = None
        self._closed = False
        self._start, self._lock = time.time(), threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _show(self) -> None:
        pause = 0.5 if sys.stderr.isatty() else PATIENCE  # fewer lines in a log
        with self._lock:
            if self._closed:
                return
            size = {"delay": 1e-9, **bar_size()}  # the delay shows nothing before the start time is set
            bar = self._bar = tqdm(total=self.total, unit=self.unit, desc=self.label, mininterval=pause, **size)
            bar.n, bar.start_t = self.done, self._start
            bar.refresh()

    def update(self, count: int = 1) -> None:
        """Add finished items."""
        with self._lock:
            self.done += count
            if self._bar is not None:
                self._bar.update(count)

    def close(self) -> None:
        """End the bar. If it was shown, it stays on the screen."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.close()


def progress(items: Iterable[T], total: int, unit: str, label: str | None = None) -> Iterator[T]:
    """Yield the items, with a bar if they take long; the other arguments are those of `LateBar`."""
    bar = LateBar(total, unit, label)
    try:
        for item in items:
            yield item
            bar.update()
    finally:
        bar.close()


def progress_over(items: list[T], folder: Path) -> Generator[T, None, None]:
    """Yield pictures (paths, or tuples that begin with one), with a bar, while files can be written into the folder.

    The message after Ctrl-C names the picture.
    """
    check = still_there(folder)
    for number, item in enumerate(progress(items, len(items), "picture"), start=1):
        path = item[0] if isinstance(item, tuple) else item
        done = "those before it are done; " if number > 1 else ""
        check()
        when_interrupted(f"at picture {number} of {len(items)}, {path}; {done}give this one and those after it again")
        yield item
    check()
    when_interrupted("all pictures are done, what sums them up is not; give them again")


@contextmanager
def busy(label: str) -> Iterator[None]:
    """Print the label of uncountable work if it takes long."""
    timer = threading.Timer(PATIENCE, click.echo, (f"{label} ...",), {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Import slow modules inside this context, faster than elsewhere; see `imports_not_collected`."""
    with busy(f"loading {what}"), imports_not_collected():
        yield


def chunk_progress(label: str) -> Callable[[Iterable[int], int], Iterable[int]]:
    """A bar on stderr over chunks of photographs while their features are computed."""

    return lambda chunks, count: tqdm(chunks, total=count, desc=f"features of {label}", unit="chunk")


# --- within one picture; on terminals alone, where a bar inside of another one can be drawn, and not where pictures are
# worked on side by side: there these functions see to it that work ends soon after it is abandoned ------------------


def _hidden(short: bool) -> bool | None:
    """Argument `disable` of tqdm: None, so not where stderr is no terminal, unless the work is short or one of many."""
    return True if short or is_helper() else None


def look_progress(refine: int) -> Callable[[Iterable[T]], Iterator[T]]:
    """A progress bar over the looks at a photograph if they are refined, which takes a while."""

    def wrap(places: Iterable[T]) -> Iterator[T]:
        for place in tqdm(places, unit="look", leave=False, disable=_hidden(not refine)):
            go_on()
            yield place

    return wrap


def strip_progress(height: int, width: int, name: str) -> Callable[[Strips], Strips]:
    """A progress bar over the strips of rows of a picture of this size, if it is large."""

    def wrap(strips: Strips) -> Strips:
        with tqdm(total=height, unit="row", desc=name, leave=False, disable=_hidden(height * width < LARGE)) as bar:
            for rows, pictures in strips:
                go_on()
                yield rows, pictures
                bar.update(rows.stop - rows.start)

    return wrap


def refine_with_progress(
    scene: Scene, steps: int, *, name: str, background: float = 1.0, backend: Backend = "auto"
) -> Scene:
    """Refine a scene, with a progress bar if that takes long; see `refine_scene` and `RefineOptions`."""
    from gmae_tools.refine import MAX_PIXELS, RefineOptions, refine_scene

    work = min(scene.height * scene.width, MAX_PIXELS) * steps
    options = RefineOptions(background=background, backend=backend)
    with tqdm(total=steps, unit="step", desc=name, leave=False, disable=_hidden(work < LONG)) as bar:

        def advance(_: int, psnr: float) -> None:
            go_on()
            bar.set_postfix_str(f"{psnr:.2f} dB", refresh=False)
            bar.update()

        return refine_scene(scene, steps, options, progress=advance)
