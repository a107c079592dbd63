"""Runs of benchmarks, each in a process of its own. Finished benchmarks are not run again.

The name of a part's folder is a digest of everything on which the results depend: script, arguments, data, weights,
version of this package. Finished results are used again, an interrupted part continues as far as its script can, and
results of different settings never mix.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Literal

from gmae_tools import __version__, checkpoints
from gmae_tools.errors import GmaeToolsError
from gmae_tools.suite import keeper
from gmae_tools.suite.config import CHECKPOINT, RESULTS, WORK, Config, Part, fill
from gmae_tools.system.files import file_sha256, write_json

Status = Literal["done", "failed", "skipped", "pending"]

RUNS = "parts"  # folder of all runs
STATE, PRINTED, MESSAGES = "state.json", "stdout.txt", "stderr.txt"
_CHUNK = 1 << 14  # bytes


@dataclass(frozen=True)
class Request:
    """How parts are run."""

    folder: Path  # for everything; it exists
    checkpoint: str  # name, path or address
    weights: str  # SHA-256 of its weights
    quick: bool = False
    only: Collection[str] = ()  # names of the parts to run, empty for all; others are shown if they are finished
    again: bool = False  # whether finished parts are run again
    data: Mapping[str, Path] = field(default_factory=dict)  # the data sets by name
    missing: Mapping[str, str] = field(default_factory=dict)  # messages about data sets that are missing, by name

    def wants(self, part: Part) -> bool:
        return not self.only or part.name in self.only


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part."""

    part: Part
    status: Status  # skipped: for want of data
    command: tuple[str, ...] = ()  # that was, or would be, run
    weights: str | None = None  # SHA-256 of the weights that it used, None if it uses no checkpoint
    reason: str = ""  # why it failed or was skipped, in one line
    folder: Path | None = None  # of its run, None if it was not run
    seconds: float | None = None  # that the process took that finished it or failed
    runs: int = 0  # number of processes that were needed
    finished: str = ""  # time of its end, UTC, as ISO 8601
    reused: bool = False  # whether it was finished before

    @property
    def shown_command(self) -> str:
        """The command for a shell."""
        return shlex.join(["python", *self.command[1:]]) if self.command else ""

    @property
    def printed(self) -> str:
        """Its output on stdout, or on stderr if it failed."""
        return _text(self.folder / (MESSAGES if self.status == "failed" else PRINTED)) if self.folder else ""

    def result(self, file: str) -> Path:
        """The path of a file that it wrote."""
        assert self.folder is not None
        return self.folder / RESULTS / file


def run_parts(config: Config, request: Request, lock: int, on_start: Callable[[Part], None]) -> Iterator[list[Outcome]]:
    """Run all parts that are not finished, in their order. A part that fails does not stop the others.

    The processes inherit the file descriptor `lock`; `on_start` is called with each part before it is run. The outcomes
    known so far are yielded at first, and after each part that was run.
    """
    known = [_look_up(part, request) for part in config.parts]
    outcomes = [outcome for outcome in known if request.wants(outcome.part) or outcome.status == "done"]
    yield outcomes
    for number, outcome in enumerate(outcomes):
        if outcome.status == "pending":
            on_start(outcome.part)
            outcomes = [*outcomes[:number], _run(outcome, request, lock), *outcomes[number + 1 :]]
            yield outcomes


def _look_up(part: Part, request: Request) -> Outcome:
    """The outcome of a part before anything is run."""
    lacking = [text for name, text in request.missing.items() if name in part.uses]
    if lacking:
        return Outcome(part, "skipped", reason="; ".join(lacking))
    folder = _folder(part, request)
    state: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):  # none, or a damaged one
        state = dict(json.loads((folder / STATE).read_text(encoding="utf-8")))
    weights = request.weights if CHECKPOINT in part.uses else None
    outcome = Outcome(part, "pending", _command(part, request, folder), weights, runs=state.get("runs", 0))
    again = request.again and request.wants(part)
    if again or "finished" not in state or _not_written(part, folder):
        return outcome
    shutil.rmtree(folder / WORK, ignore_errors=True)  # if the run was killed between its last steps
    return replace(
        outcome, status="done", folder=folder, seconds=state["seconds"], finished=state["finished"], reused=True
    )


def _run(outcome: Outcome, request: Request, lock: int) -> Outcome:
    """Run a part to its end."""
    part, folder = outcome.part, _folder(outcome.part, request)
    settings, runs = _settings(part, request), outcome.runs + 1
    shutil.rmtree(folder / RESULTS, ignore_errors=True)
    for name in (RESULTS, WORK):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / STATE, {"settings": settings, "runs": runs})
    start = time.monotonic()
    code = _execute(outcome, folder, lock)
    outcome = replace(outcome, folder=folder, seconds=round(time.monotonic() - start, 2), runs=runs)
    problem = _failure(code, folder / MESSAGES) if code else _not_written(part, folder)
    if problem:
        return replace(outcome, status="failed", reason=problem)
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(folder / STATE, {"settings": settings, "runs": runs, "seconds": outcome.seconds, "finished": finished})
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return replace(outcome, status="done", finished=finished)


def _execute(outcome: Outcome, folder: Path, lock: int) -> int:
    """Run a command until it or this process ends, and return its exit code. Its messages also go to stderr."""
    paths = [Path(checkpoints.__file__).resolve().parents[1], outcome.part.root.resolve()]
    environment = {
        **os.environ,  # scripts import this very package, and modules what lies beside them
        "PYTHONPATH": os.pathsep.join(filter(None, [*map(str, paths), os.environ.get("PYTHONPATH")])),
        "TMPDIR": str((folder / WORK).resolve()),  # removed with it
    }
    with (folder / PRINTED).open("wb") as printed, (folder / MESSAGES).open("wb") as messages:
        process = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, *outcome.command],
            stdin=subprocess.PIPE,  # the keeper ends the command when it is closed
            stdout=printed,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,
        )
        with process:
            assert process.stderr is not None
            _copy(process.stderr, messages)
            return process.wait()


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy to a file and to stderr what arrives, as soon as it arrives."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while chunk := os.read(source.fileno(), _CHUNK):
        target.write(chunk)
        sys.stderr.write(decoder.decode(chunk))
        sys.stderr.flush()


def _command(part: Part, request: Request, folder: Path) -> tuple[str, ...]:
    """This Python, the module or script, and its arguments with all placeholders filled in."""
    values = {CHECKPOINT: request.checkpoint, RESULTS: str(folder / RESULTS), WORK: str(folder / WORK)}
    values |= {name: str(path) for name, path in request.data.items()}
    program = ("-m", part.module) if part.module else (_short(part.script),)
    return (sys.executable, *program, *(fill(word, values) for word in part.words(request.quick)))


def _short(path: Path) -> str:
    """A path relative to the current folder, if it lies below."""
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


# --- folders of runs ----------------------------------------------------------------------------------


def _folder(part: Part, request: Request) -> Path:
    settings = json.dumps(_settings(part, request), sort_keys=True)
    return request.folder / RUNS / f"{part.name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _settings(part: Part, request: Request) -> dict[str, object]:
    """Everything that the results depend on, as JSON; the name of the folder is a digest of it."""
    data = {name: str(path.resolve()) for name, path in request.data.items()}
    return {
        "script": part.script.name,
        "sha256": file_sha256(part.script),
        "arguments": [fill(word, data) for word in part.words(request.quick)],
        "weights": request.weights if CHECKPOINT in part.uses else None,
        "version": __version__,
    }


def _not_written(part: Part, folder: Path) -> str:
    """A message about files that a part should have written and has not; empty if all are there."""
    lacking = [file for file in part.files if not (folder / RESULTS / file).is_file()]
    return f"did not write {', '.join(lacking)}" if lacking else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _failure(code: int, messages: Path) -> str:
    """Why a script failed, in one line: its last message, if there is one."""
    if code > keeper.SIGNALLED:
        return f"ended by signal {code - keeper.SIGNALLED}"
    lines = [line.strip() for line in _text(messages).splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{GmaeToolsError.__module__}.GmaeToolsError: ") if lines else f"exit code {code}"
