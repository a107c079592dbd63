"""What a process takes: seconds, processor seconds and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What one process took: seconds by the clock, seconds of processors, and megabytes at its peak."""

    seconds: float
    cpu: float
    megabytes: float


def cost_of(arguments: list[str], root: Path, folder: Path, *, one_thread: bool = True) -> Cost:
    """The cost of Python with the package of a checkout; OMP_NUM_THREADS is 1 with `one_thread`, else not set.

    Raises:
        RuntimeError: it fails; the message is what it said.
    """
    environment = os.environ | {"PYTHONPATH": str(root)}
    environment.pop("OMP_NUM_THREADS", None)
    if one_thread:
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read())
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)
