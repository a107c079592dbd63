"""Options that choose a model and its use, and the objects that commands receive from them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools import checkpoint_names
from gmae_tools.cli._options import (
    backend_option,
    checkpoint_option,
    device_option,
    gathered,
    jobs_option,
    max_pixels_option,
    numbers,
    overwrite_option,
    precision_option,
    refine_option,
    unchecked_checkpoint_option,
)
from gmae_tools.cli._progress import busy, look_progress
from gmae_tools.cli._scores import progress
from gmae_tools.system.memory import imports_not_collected

if TYPE_CHECKING:
    from gmae_tools.benchmarks.pipeline import ModelSource, RunOptions
    from gmae_tools.cli._options import Decorator
    from gmae_tools.splatting import Backend
    from gmae_tools.system.precision import Precision
    from gmae_tools.zeroshot.views import Looks

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions:
    """The checkpoint (name, path or address), where it runs, and what is done to photographs before and after it.

    `precision` is the arithmetic of the model; `refine` the number of steps that fit the Gaussians to the photograph.
    """

    checkpoint: str
    device: str
    backend: Backend
    precision: Precision
    refine: int
    max_pixels: int

    @property
    def name(self) -> str:
        """The checkpoint's name without its folder."""
        return Path(self.checkpoint).name

    @property
    def refined(self) -> str:
        """A remark for captions, such as `, refined in 50 steps`; empty without refinement."""
        return f", refined in {self.refine} steps" if self.refine else ""

    def check(self) -> None:
        """Check the name of the checkpoint without loading torch; see `checkpoint_names.check`."""
        checkpoint_names.check(self.checkpoint)

    def open(self) -> ModelSource:
        """Load the model; see `ModelSource.model`."""
        with busy(f"loading {self.checkpoint}"):
            with imports_not_collected():  # the model itself is not to outlive its use
                from gmae_tools.benchmarks.pipeline import ModelSource

            source = ModelSource(self.checkpoint, self.device, self.backend, self.precision)
            _ = source.model  # loaded now
            return source


_FOLLOWING = (device_option, backend_option, precision_option, refine_option, max_pixels_option)
# The options of a model as one argument `model`, a `ModelOptions`. The name of the checkpoint is checked at once.
model_options = gathered("model", ModelOptions, checkpoint_option, *_FOLLOWING)
# Commands that may not need a model call `ModelOptions.check` instead.
optional_model_options = gathered("model", ModelOptions, unchecked_checkpoint_option, *_FOLLOWING)


@dataclass(frozen=True)
class LooksOptions:
    """The scales at which a model sees a photograph, and whether it also sees it mirrored."""

    scales: tuple[int, ...] | None
    flip: bool

    def looks(self, refine: int, scales: tuple[int, ...]) -> Looks:
        """The argument of `views.look`; tiles are refined in `refine` steps, and `scales` are used without --scales."""
        from gmae_tools.zeroshot.views import Looks

        return Looks(self.scales or scales, self.flip, refine)

    def warn_of_one_look(self) -> None:
        """Warn that --scales and --flip have no effect on files of Gaussians, if they are given."""
        if self.flip or self.scales not in (None, (1,)):
            _log.warning("--scales and --flip are for photographs: files of Gaussians are read in one look")


def looks_options(default: str) -> Decorator:
    """--scales and --flip as one argument `looks`, a `LooksOptions`; the help names `default` as that of --scales."""
    return gathered(
        "looks",
        LooksOptions,
        click.option(
            "--scales",
            type=numbers,
            metavar="S,S,...",
            help="Show the model S x S overlapping tiles of the photograph, and average over all S; 1 is the whole."
            f"  [default: {default}]",
        ),
        click.option("--flip", is_flag=True, help="Also show the model every tile mirrored, and average."),
    )


@dataclass(frozen=True)
class BenchmarkOptions:
    """The number of images that a benchmark scores at a time, and whether it removes results of other settings."""

    jobs: int | None
    overwrite: bool

    def of(self, model: ModelOptions) -> RunOptions:
        """The options of `benchmarks.edges.run` and `benchmarks.regions.run`, with progress bars on stderr."""
        from gmae_tools.benchmarks.pipeline import RunOptions

        return RunOptions(
            jobs=self.jobs,
            overwrite=self.overwrite,
            max_pixels=model.max_pixels,
            progress=progress,
            watch=look_progress(model.refine),
        )


# --jobs and --overwrite as one argument `run`, a `BenchmarkOptions`.
run_options = gathered("run", BenchmarkOptions, jobs_option, overwrite_option)
