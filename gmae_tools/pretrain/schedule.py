"""The schedule of a run: learning rate and picture size as functions of its progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gmae_tools.errors import GmaeToolsError


@dataclass(frozen=True)
class Schedule:
    """Everything that changes during a run, as a function of progress in [0, 1].

    Progress is the share of `samples` that were seen or, with a `time_budget`, the share of it that has passed. With a
    time budget the schedule fits the clock, however fast the machine is.

    Args:
        samples: Number of pictures to train on; ignored with a time budget.
        time_budget: Seconds, or None.
        warmup: Share of the run in which the learning rate rises linearly.
        resolutions: Picture sizes in pixels, in the order of their use.
        grow_at: Progress at which each resolution but the first begins.
        cooldown: Share of the run at its end in which the learning rate falls linearly to 0, after a plateau. None for
            half a cosine over the whole run. A plateau can be extended: a longer run begins with the same steps.
    """

    samples: int
    time_budget: float | None = None
    warmup: float = 0.02
    resolutions: Sequence[int] = (224,)
    grow_at: Sequence[float] = ()
    cooldown: float | None = None

    def __post_init__(self) -> None:
        if not self.resolutions:
            raise GmaeToolsError("a run needs at least one resolution")
        if len(self.grow_at) != len(self.resolutions) - 1:
            raise GmaeToolsError(
                f"{len(self.resolutions)} resolutions need {len(self.resolutions) - 1} values of grow-at"
            )
        if list(self.grow_at) != sorted(self.grow_at) or any(not 0 < at < 1 for at in self.grow_at):
            raise GmaeToolsError("grow-at must be an increasing list of numbers between 0 and 1")
        if not 0 <= self.warmup < 1:
            raise GmaeToolsError(f"warm-up is {self.warmup}, must be a share of the run, at least 0 and below 1")
        if self.cooldown is not None and not 0 < self.cooldown <= 1 - self.warmup:
            raise GmaeToolsError(f"cooldown is {self.cooldown}, must be a share of the run above 0, beside the warm-up")
        if self.samples < 1 or (self.time_budget is not None and not self.time_budget > 0):
            raise GmaeToolsError("a run needs a positive number of samples or a positive time budget")

    def progress(self, samples: int, seconds: float) -> float:
        """Progress in [0, 1] after this number of samples and seconds."""
        done = samples / self.samples if self.time_budget is None else seconds / self.time_budget
        return min(done, 1.0)

    def learning_rate_factor(self, progress: float) -> float:
        """Factor in [0, 1]: a linear warm-up, then half a cosine to zero, or a plateau and a linear cooldown."""
        if progress < self.warmup:
            return progress / self.warmup
        if self.cooldown is not None:
            return min(1.0, (1 - progress) / self.cooldown)
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))

    def resolution(self, progress: float) -> int:
        """Side of the training pictures in pixels."""
        return self.resolutions[sum(progress >= at for at in self.grow_at)]
