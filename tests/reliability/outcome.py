"""What every part of the reliability campaign yields, and the time it is given."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One thing that was tried, how often, and what failed.

    part: the campaign's part, e.g. "pictures"; tried: a short sentence, e.g. "mutated JPEG files";
    times: how often it was tried; failures: one line for each failure, enough to repeat it;
    note: anything measured beside, e.g. "peak 312 MB".
    """

    part: str
    tried: str
    times: int
    failures: tuple[str, ...]
    note: str = ""


class TimeBox:
    """So many seconds of wall-clock time, beginning now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Whether the time is spent."""
        return self.left() == 0.0

    def share(self, fraction: float) -> "TimeBox":
        """A box that begins now and lasts this fraction (0..1) of what is left."""
        return TimeBox(fraction * self.left())
