"""The models that commands work with: their options, and how they are opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools import checkpoint_names
from gmae_tools.cli._options import (
    Numbers,
    backend_option,
    checkpoint_option,
    device_option,
    gathered,
    jobs_option,
    max_pixels_option,
    overwrite_option,
    refine_option,
    unchecked_checkpoint_option,
)
from gmae_tools.cli._progress import busy, look_progress
from gmae_tools.cli._scores import progress

if TYPE_CHECKING:
    from gmae_tools.benchmarks.pipeline import ModelSource, RunOptions
    from gmae_tools.cli._options import Decorator
    from gmae_tools.model import GMAE
    from gmae_tools.splatting import Backend
    from gmae_tools.zeroshot.views import Looks


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions:
    """Which model, where it runs, and what is done with photographs before and after it sees them.

    Attributes:
        checkpoint: name, path or address.
        device, backend: where Gaussians are predicted, and what renders them.
        refine: steps by which the Gaussians are fitted to the photograph.
        max_pixels: pixels of a photograph above which it is refused.
    """

    checkpoint: str
    device: str
    backend: Backend
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
        """Refuse a wrong name without loading torch; see `checkpoint_names.check`."""
        checkpoint_names.check(self.checkpoint)

    def open(self) -> OpenModel:
        """Load the model.

        Raises:
            GmaeToolsError: there is no such device, the backend cannot render there, or the checkpoint cannot be read.
        """
        with busy(f"loading {self.checkpoint}"):
            from gmae_tools.benchmarks.pipeline import ModelSource

            source = ModelSource(self.checkpoint, self.device, self.backend)
            return OpenModel(source, source.model, self)


@dataclass(frozen=True)
class OpenModel:
    """A loaded model, and the options that asked for it."""

    source: ModelSource
    model: GMAE
    options: ModelOptions

    @property
    def k(self) -> int:
        """K, the number of its Gaussians."""
        return self.model.config.k


_FOLLOWING = (device_option, backend_option, refine_option, max_pixels_option)
# The options of a model as one argument `model`, a `ModelOptions`; a wrong --checkpoint is refused at once ...
model_options = gathered("model", ModelOptions, checkpoint_option, *_FOLLOWING)
# ... or by `ModelOptions.check`, in commands that may do without a model.
optional_model_options = gathered("model", ModelOptions, unchecked_checkpoint_option, *_FOLLOWING)


@dataclass(frozen=True)
class LooksOptions:
    """How photographs are shown to a model: at which scales, and whether also mirrored."""

    scales: tuple[int, ...] | None
    flip: bool

    def looks(self, refine: int, scales: tuple[int, ...]) -> Looks:
        """The argument of `views.look`; each tile is refined by `refine` steps, and `scales` are the default."""
        from gmae_tools.zeroshot.views import Looks

        return Looks(self.scales or scales, self.flip, refine)

    def warn_of_one_look(self) -> None:
        """Say that files of Gaussians are seen in one look, if --scales or --flip ask for others."""
        if self.flip or self.scales not in (None, (1,)):
            _log.warning("--scales and --flip are for photographs: files of Gaussians are read in one look")


def looks_options(default: str) -> Decorator:
    """--scales and --flip as one argument `looks`, a `LooksOptions`; `default` says what no --scales stands for."""
    return gathered(
        "looks",
        LooksOptions,
        click.option(
            "--scales", type=Numbers(), metavar="S,S,...",
            help="Look at S x S overlapping tiles of the photograph, and average over several S; 1 is the whole."
            f"  [default: {default}]",
        ),
        click.option("--flip", is_flag=True, help="Look at everything mirrored too, and average."),
    )  # fmt: skip


@dataclass(frozen=True)
class BenchmarkOptions:
    """How a benchmark is run: how many pictures are worked on at a time, and whether other results are removed."""

    jobs: int | None
    overwrite: bool

    def of(self, model: ModelOptions) -> RunOptions:
        """The argument of `benchmarks.edges.run` and `benchmarks.regions.run`; bars on stderr show the progress."""
        from gmae_tools.benchmarks.pipeline import RunOptions

        return RunOptions(
            jobs=self.jobs, overwrite=self.overwrite, max_pixels=model.max_pixels, progress=progress,
            watch=look_progress(model.refine),
        )  # fmt: skip


# --jobs and --overwrite as one argument `run`, a `BenchmarkOptions`.
run_options = gathered("run", BenchmarkOptions, jobs_option, overwrite_option)
