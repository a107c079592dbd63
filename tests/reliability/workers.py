"""Attempts with hostile files, in processes that may use only so much memory and time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from unittest.mock import patch

from gmae_tools.system.untrusted import protected
from tests.reliability.outcome import TimeBox

_CONTEXT = multiprocessing.get_context("spawn")
_START = 120.0  # seconds that a process may take to begin


@dataclass(frozen=True)
class Attempt:
    """What came of one: `answer` in a word or two, to be counted; `failure`, if it is one, in a line."""

    answer: str
    failure: str = ""


@dataclass
class Tally:
    """What came of many.

    answers: how often each answer was given, by kind; failures: lines by kind; peak: the most memory that a process
    had in use, in MB (of 1,000,000 bytes).
    """

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    peak: int = 0

    def times(self, kind: str) -> int:
        """How many attempts of this kind there were."""
        return sum(count for (each, _), count in self.answers.items() if each == kind)

    def failures_of(self, kind: str) -> tuple[str, ...]:
        """Those of a kind."""
        return tuple(failure for each, failure in self.failures if each == kind)

    def note(self, kind: str) -> str:
        """The answers of a kind in words: `read 12, refused 30`."""
        answers = sorted((answer, count) for (each, answer), count in self.answers.items() if each == kind)
        return ", ".join(f"{answer} {count:,}" for answer, count in answers)

    def add(self, kind: str, number: int, attempt: Attempt) -> None:
        """Count one."""
        self.answers[kind, attempt.answer] += 1
        if attempt.failure:
            self.failures.append((kind, f"number {number} ({kind}): {attempt.failure}"))


def attempts(
    task: Callable[[int], Attempt],
    kind: Callable[[int], str],
    count: int,
    box: TimeBox,
    folder: Path,
    *,
    memory: int,
    seconds: float,
    processes: int = 2,
) -> Tally:
    """Try `task` on the numbers below `count` while there is time.

    An attempt fails if it says so, raises, prints anything, ends its process, or takes longer than `seconds`.

    Args:
        task: of a number; has to be pickled.
        kind: of a number, under which its attempt is counted.
        folder: for logs.
        memory: bytes that a process may map beyond what it has mapped when it begins (on Linux).
    """
    tally = Tally()
    workers = [_Worker(task, first, processes, count, folder, memory) for first in range(min(processes, count))]
    try:
        while workers and not box.over():
            ready = wait([worker.connection for worker in workers], timeout=min(1.0, box.left()))
            for worker in list(workers):
                ended = worker.connection in ready and not _receive(worker, tally, kind)
                hung = not ended and worker.waited > (seconds if worker.began else _START)
                if not (ended or hung):
                    continue
                workers.remove(worker)
                worker.end()
                if worker.number < count:
                    failure = f"no answer in {seconds:g} s" if hung else f"its process ended with {worker.code}"
                    tally.add(kind(worker.number), worker.number, Attempt("hung" if hung else "crashed", failure))
                    rest = worker.number + processes
                    workers += [_Worker(task, rest, processes, count, folder, memory)] if rest < count else []
    finally:
        for worker in workers:
            worker.end()
    return tally


class _Worker:
    """A process that tries `first`, `first + step`, and so on."""

    def __init__(
        self, task: Callable[[int], Attempt], first: int, step: int, count: int, folder: Path, memory: int
    ) -> None:
        self.number, self.began = first, False
        self._step = step
        self.connection, there = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=_work, args=(there, task, range(first, count, step), folder / f"log-{first}", memory), daemon=True
        )
        with patch.dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1"):
            self._process.start()
        there.close()
        self._heard = time.monotonic()

    @property
    def waited(self) -> float:
        """Seconds since it was last heard of."""
        return time.monotonic() - self._heard

    @property
    def code(self) -> int | None:
        """How it ended, negative if by a signal."""
        return self._process.exitcode

    def heard(self, attempt: Attempt | None) -> None:
        """Note that it answered, or began."""
        self._heard = time.monotonic()
        self.number += self._step if attempt else 0
        self.began = True

    def end(self) -> None:
        """Make sure that it has ended."""
        self._process.join(1.0)
        self._process.kill()
        self._process.join()
        self.connection.close()


def _receive(worker: _Worker, tally: Tally, kind: Callable[[int], str]) -> bool:
    """Take in what a worker has sent; False if it has ended."""
    try:
        while worker.connection.poll():
            attempt, peak = worker.connection.recv()
            if attempt:
                tally.add(kind(worker.number), worker.number, attempt)
                tally.peak = max(tally.peak, peak)
            worker.heard(attempt)
    except EOFError:
        return False
    return True


def _work(connection: Connection, task: Callable[[int], Attempt], numbers: range, log: Path, memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to the end
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    limit_memory(memory)
    connection.send((None, 0))
    for number in numbers:
        before = os.fstat(descriptor).st_size
        attempt = _tried(task, number)
        if not attempt.failure and os.fstat(descriptor).st_size > before:
            printed = log.read_bytes()[before:].decode(errors="replace").split("\n")[0]
            attempt = Attempt(attempt.answer, f"printed {printed!r}")
        with suppress(BrokenPipeError):
            connection.send((attempt, peak_memory() // 1_000_000))


def _tried(task: Callable[[int], Attempt], number: int) -> Attempt:
    try:
        with protected():  # as a command is
            return task(number)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Attempt("raised", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")


def peak_memory() -> int:
    """The most bytes that this process has had in use.

    On Linux from `/proc`, since `getrusage` counts what the process had been before it became this program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory(memory: int) -> None:
    """Let this process map only so many bytes more than it has mapped, on Linux."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))


def fault_of(message: str, path: Path) -> str:
    """What is wrong with an error that should name `path` in one line, if anything."""
    if not message.startswith(f"{path}: "):
        return f"does not begin with the file: {message[:200]!r}"
    if not message.isprintable() or len(message) > len(str(path)) + 500:
        return f"not a line of a sensible length: {message[:200]!r}"
    return ""
