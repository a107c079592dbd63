"""What is left of a run that is killed, interrupted, run twice at once, or cut off from its folder or its disk?

A nano model with random weights; synthetic photographs of 96 x 64 px with outlines and masks; runs of seconds, in
processes that are forked from one which has the libraries loaded, so that what happens to them happens to their work.
Of each command an uninterrupted run comes first. Another run has the same results if its folder holds the same files
and no others (a temporary file would be one), with the same bytes, and if it prints the same (but for `report`, whose
table is about the run). Times are left out: in the log of `pretrain` `seconds`, `images_per_second` and `waiting`, in
its configuration and its state (of which every tensor is compared) `seconds`; of a report when, how long and in how
many runs a part was done.

- Killed: SIGKILL at 20 moments in each of `pretrain`, `edges --dataset`, `segment --dataset` and `report`, one in each
  twentieth of the duration, in chance order. The run is started again, and killed again, up to 5 times before it is let
  go on. It has to have the same results, and no process of the killed run may live on.
- Interrupted: SIGINT to all processes of a run that has its folder. The exit code is 130, one message says how to go
  on, and the same command (with `--resume` for `pretrain`) has the same results.
- Twice at once: while a run is stopped (SIGSTOP), a second one in its folder has to refuse in one line, and to leave
  the first one's results alone.
- A folder that cannot be written, as it is a file or read-only: one line, and nothing else is printed or done.
- A folder that vanishes (is renamed) in the middle: one line.
- A disk that is full in the middle: files are limited in size to what the uninterrupted run wrote less one byte,
  smallest first; and, where one can be mounted, the folder is a file system that is too small, but grows. Messages are
  lines, none a traceback, nothing temporary is left, and with room the same command has the same results.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from tests.reliability.outcome import Outcome, TimeBox
from tests.reliability.runs import OUT, Command, Run, commands, difference, leftovers, make_data, results

PART = "crashes"
KILLS, IN_A_ROW = 20, 5
INTERRUPTIONS, VANISHINGS, FULL = 4, 3, 4  # of each command
KILLED = ("pretrain", "edges --dataset", "segment --dataset", "report")
INTERRUPTED = (*KILLED, "layers", "layers --refine", "probe", "invariance", "datasets pack")
HINDERED = (*KILLED, "layers", "datasets pack")

_SOON = 60.0  # seconds within which a run has begun to do something
_TOO_LATE = 0.5  # seconds before its end that a run which has done everything no longer heeds Ctrl-C
_SERVED = 1 << 30  # bytes of a download
_LEAST = 4096  # bytes that fit on every disk which is not found to be full before the work starts


@dataclass
class Whole:
    """A command, and what came of an uninterrupted run: results, their sizes, what was printed, how long it takes."""

    command: Command
    results: Mapping[str, bytes]
    sizes: Sequence[int]
    stdout: str
    seconds: float


@dataclass
class Tried:
    """How often something was tried, what failed, in lines, and to how many runs, where one is tried several times."""

    times: int = 0
    failures: list[str] = field(default_factory=list)
    runs: int = 0

    def add(self, what: str, problem: str) -> None:
        """Count a try, which has failed if there is a problem."""
        self.times += 1
        if problem:
            self.failures.append(f"{what}: {problem}")


def run_whole(command: Command, folder: Path, times: int = 2) -> Whole:
    """Run a command to its end, twice: the first time whatever has to be compiled is compiled.

    Raises:
        RuntimeError: it fails.
    """
    for number in range(times):
        run = Run(command.arguments, folder / f"whole-{number}")
        if run.finish() != 0:
            raise RuntimeError(f"{command.name} ends with {run.code}: {run.last_words}")
        seconds = run.seconds
    out = run.folder / OUT
    sizes = sorted({path.stat().st_size for path in out.rglob("*") if path.is_file()})
    return Whole(command, results(out), sizes, run.stdout, seconds)


def in_the_middle(whole: Whole, folder: Path, moment: float) -> Run:
    """A fresh run at a moment, a share of its duration, or when its folder is there, if that is later.

    If it is done by then, the duration is found to be shorter, and another run is begun.
    """
    for number in itertools.count():
        run = Run(whole.command.arguments, folder / f"{number}")
        if not run.ends(moment * whole.seconds) or run.code != 0:
            break
        whole.seconds = min(run.seconds, 0.9 * whole.seconds)
    while not (run.folder / OUT).exists() and not run.ends(0):
        time.sleep(0.001)
    return run


def go_on(whole: Whole, folder: Path, begun: bool = True) -> Run:
    """Start a command again where it has begun before."""
    return Run([*whole.command.arguments, *(whole.command.again if begun else ())], folder)


def ends_as_whole(run: Run, whole: Whole) -> str:
    """What is wrong with a run that should end as the uninterrupted one did; empty if nothing is."""
    if run.finish() != 0:
        return f"ends with {run.code}: {run.last_words}"
    if run.stdout != whole.stdout and not whole.command.tells:
        return "prints something else"
    return difference(whole.results, results(run.folder / OUT))


def fails_in_a_line(run: Run, code: int = 1) -> str:
    """What is wrong with a run that should end with one message and without a traceback; empty if nothing is."""
    if run.finish() != code:
        return f"ends with {run.code}, not {code}: {run.last_words}"
    if "Traceback" in run.stderr or len(run.errors) != 1:
        return f"has {len(run.errors)} messages: {run.last_words}"
    return ""


def spread(count: int, chance: random.Random) -> list[float]:
    """So many moments in 0..1, one in each of as many equal parts, in chance order."""
    moments = [(number + chance.random()) / count for number in range(count)]
    chance.shuffle(moments)
    return moments


# --- killed ------------------------------------------------------------------------------------------


def kill(whole: Whole, folder: Path, moments: Sequence[float], box: TimeBox) -> Tried:
    """Kill a command at all `moments` (shares of its duration), several times in a row, and compare what it leaves.

    A moment that comes after the end, as a run that goes on is shorter, is tried again with a fresh run.
    """
    tried, waiting = Tried(), deque(moments)
    while waiting and not box.over():
        killed: list[float] = []
        while True:
            run = go_on(whole, folder / f"killed-{tried.runs}", begun=bool(killed))
            if not waiting or len(killed) == IN_A_ROW or run.ends(waiting[0] * whole.seconds):
                break
            run.kill()
            killed.append(round(run.seconds, 2))
            waiting.popleft()
            tried.add(f"killed after {killed} s", "processes of it live on" if run.leaves_processes() else "")
        tried.runs += 1
        if problem := ends_as_whole(run, whole):
            tried.failures.append(f"killed after {killed} s: {problem}")
        if not killed:  # durations differ
            if problem:
                break
            whole.seconds = min(run.seconds, 0.9 * whole.seconds)
    return tried


# --- interrupted -------------------------------------------------------------------------------------


def interrupt(whole: Whole, folder: Path, moments: Sequence[float], box: TimeBox) -> Tried:
    """Interrupt fresh runs of a command at `moments`, and let each go on."""
    tried = Tried()
    for number, moment in enumerate(moments):
        if box.over():
            break
        run = in_the_middle(whole, folder / f"interrupted-{number}", moment)
        sent = run.seconds
        run.send(signal.SIGINT)
        if run.finish() == 0 and run.seconds - sent < _TOO_LATE:
            continue
        problem = fails_in_a_line(run, 130)
        if not problem and not says_how_to_go_on(run.errors[0]):
            problem = f"does not say how to go on: {run.errors[0]}"
        if not problem and run.leaves_processes():
            problem = "processes of it live on"
        tried.add(f"interrupted after {sent:.2f} s", problem or ends_as_whole(go_on(whole, run.folder), whole))
    return tried


def interrupt_download(folder: Path) -> str:
    """Interrupt a download, and the one that goes on with it; what is wrong, empty if nothing is."""
    with slow_server() as (address, starts):
        for _ in range(2):
            before = size_of_parts(folder)
            run = Run(("datasets", "fetch", "bsds500", "--root", OUT, "--url", address), folder / "download")
            while size_of_parts(run.folder) <= before and not run.ends(0) and run.seconds < _SOON:
                time.sleep(0.01)
            run.send(signal.SIGINT)
            if problem := fails_in_a_line(run, 130):
                return problem
            if not says_how_to_go_on(run.errors[0]):
                return f"does not say how to go on: {run.errors[0]}"
            if starts[-1] != before:
                return f"asks for all from byte {starts[-1]} on, where {before} have arrived"
    return ""


def size_of_parts(folder: Path) -> int:
    """Bytes that have arrived."""
    return sum(path.stat().st_size for path in folder.rglob("*.part"))


@contextmanager
def slow_server() -> Iterator[tuple[str, list[int]]]:
    """The address of a file that is served bit by bit, and the bytes from which on it was asked for, as they come."""
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
            starts.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(_SERVED - start))
            self.send_header("Content-Range", f"bytes {start}-{_SERVED - 1}/{_SERVED}")
            self.end_headers()
            with suppress(OSError):  # nobody listens any more
                while True:
                    self.wfile.write(bytes(1 << 18))
                    time.sleep(0.1)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/archive.tgz", starts
        server.shutdown()


def says_how_to_go_on(message: str) -> bool:
    return message.startswith("error: interrupted") and ("same command" in message or "again" in message)


# --- twice at once -----------------------------------------------------------------------------------


def double(whole: Whole, folder: Path) -> str:
    """Start a command while another run of it is in its folder; what is wrong, empty if nothing is."""
    first = Run(whole.command.arguments, folder / "twice")
    end = time.monotonic() + _SOON
    while not is_locked(first.folder / OUT):
        if first.ends(0) or time.monotonic() > end:
            first.finish()
            return "keeps nobody out of its folder"
    first.send(signal.SIGSTOP)
    second = Run(whole.command.arguments, first.folder)
    problem = fails_in_a_line(second)
    if not problem and (second.stdout or second.stderr.count("\n") != 1 or "another run" not in second.stderr):
        problem = f"the second says: {second.stdout} {second.stderr}"
    first.send(signal.SIGCONT)
    late = ends_as_whole(first, whole)
    return problem or late


def is_locked(folder: Path) -> bool:
    """Whether a run is in a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- a folder that cannot be written, or vanishes ------------------------------------------------------


def refuse_file(command: Command, folder: Path) -> str:
    """Start a command with a file in place of its folder; what is wrong, empty if nothing is."""
    place = folder / "file"
    place.mkdir(parents=True)
    (place / OUT).write_text("mine")
    problem = refuses(Run(command.arguments, place))
    return problem or ("" if (place / OUT).read_text() == "mine" else "overwrites it")


def refuse_read_only(command: Command, folder: Path) -> str:
    """Start a command with a folder that it may not write; what is wrong, empty if nothing is."""
    out = folder / "read-only" / OUT
    out.mkdir(parents=True)
    with read_only(out):
        problem = refuses(Run(command.arguments, out.parent))
    return problem or ("writes there all the same" if list(out.iterdir()) else "")


def refuses(run: Run) -> str:
    """What is wrong with a run that should do nothing but say in one line that it cannot."""
    problem = fails_in_a_line(run)
    if not problem and (run.stdout or run.stderr.count("\n") != 1 or OUT not in run.stderr):
        problem = f"says more, or something else: {run.stdout} {run.stderr}"
    return problem


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written into a folder in this context, by the superuser neither."""
    folder.chmod(0o555)
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", folder], check=True)
        folder.chmod(0o755)


def can_be_read_only(folder: Path) -> bool:
    """Whether there is a way to make a folder read-only for this user."""
    folder.mkdir()
    try:
        with read_only(folder):
            return True
    except (OSError, subprocess.CalledProcessError):  # no chattr, or a file system without
        return False


def vanish(whole: Whole, folder: Path, moments: Sequence[float], box: TimeBox) -> Tried:
    """Take a command's folder away at `moments`; before and after all its work that may do no harm."""
    tried = Tried()
    for number, moment in enumerate(moments):
        if box.over():
            break
        run = in_the_middle(whole, folder / f"vanished-{number}", moment)
        out, gone = run.folder / OUT, run.folder / "gone"
        after = f"vanished after {run.seconds:.2f} s"
        out.rename(gone)
        run.finish()
        complete = run.code == 0 and whole.results in (results(gone), results(out))
        tried.add(after, "" if complete else fails_in_a_line(run))
    return tried


# --- a full disk -------------------------------------------------------------------------------------


def fill_files(whole: Whole, folder: Path, count: int, box: TimeBox) -> Tried:
    """Run a command with ever larger files allowed, then with all."""
    place = folder / "large-files"
    sizes = [size - 1 for size in whole.sizes if size > _LEAST]
    limits = [sizes[round(number * (len(sizes) - 1) / max(1, count - 1))] for number in range(count)] if sizes else []
    tried = Tried()
    for limit in sorted(set(limits)):
        if box.over():
            break
        run = Run(_arguments(whole, place), place, file_size=limit)
        if run.finish() != 0:
            tried.add(f"no file longer than {limit} bytes", fails_for_want_of_room(run))
    if tried.times and (problem := ends_as_whole(go_on(whole, place), whole)):
        tried.failures.append(f"with room after that: {problem}")
    return tried


def fill_disk(whole: Whole, folder: Path, count: int, box: TimeBox) -> Tried:
    """Run a command on ever larger file systems, the last of them large enough."""
    place = folder / "small-disk"
    (place / OUT).mkdir(parents=True)
    need = 4 * sum(-(-len(content) // 4096) + 1 for content in whole.results.values())  # KiB
    tried = Tried()
    with mounted(place / OUT):
        for number in range(1, count + 1):
            if box.over():
                break
            kilobytes = 4 + need * number // (count + 1)
            resize(place / OUT, kilobytes)
            run = Run(_arguments(whole, place), place)
            if run.finish() != 0:
                tried.add(f"a disk of {kilobytes} KiB", fails_for_want_of_room(run))
        resize(place / OUT, 1 << 20)
        if tried.times and (problem := ends_as_whole(go_on(whole, place), whole)):
            tried.failures.append(f"with room after that: {problem}")
    return tried


def _arguments(whole: Whole, place: Path) -> list[str]:
    """To begin, or to go on where something was begun."""
    begun = any((place / OUT).glob("*"))
    return [*whole.command.arguments, *(whole.command.again if begun else ())]


def fails_for_want_of_room(run: Run) -> str:
    """What is wrong with a run on a full disk; empty if nothing is."""
    if run.code != 1 or "Traceback" in run.stderr or not (run.errors or run.stdout):
        return f"ends with {run.code}: {run.last_words}"
    if left := leftovers(run.folder / OUT):
        return f"leaves {', '.join(left)}"
    return ""


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A file system in memory at a folder. Raises CalledProcessError where that is not allowed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def resize(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", folder], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether a file system can be mounted here."""
    folder.mkdir()
    try:
        with mounted(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


# --- the campaign ------------------------------------------------------------------------------------


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """All of it; no data are needed."""
    chance = random.Random(seed)
    with TemporaryDirectory(prefix="gmae-tools-crashes-") as name:
        folder = Path(name)
        make_data(folder / "data")
        lines = commands(folder / "data")

        @cache
        def whole(name: str) -> Whole:
            return run_whole(lines[name], folder / name)

        yield once("a file in place of the folder", {n: refuse_file(lines[n], folder / n) for n in lines})
        if can_be_read_only(folder / "read-only"):
            yield once("a read-only folder", {n: refuse_read_only(lines[n], folder / n) for n in lines})
        else:
            yield Outcome(PART, "a read-only folder", 0, (), "no way to make one for this user")
        for name, own in shares(box, 0.5, KILLED):
            killed = kill(whole(name), folder / name, spread(KILLS, chance), own)
            yield many("kill -9", whole(name), killed)
        yield once("two runs at once", {n: double(whole(n), folder / n) for n in KILLED})
        for name, own in shares(box, 0.4, INTERRUPTED):
            interrupted = interrupt(whole(name), folder / name, spread(INTERRUPTIONS, chance), own)
            yield many("Ctrl-C", whole(name), interrupted)
        yield once("Ctrl-C in a download", {"datasets fetch": interrupt_download(folder)})
        for name, own in shares(box, 0.4, HINDERED):
            vanished = vanish(whole(name), folder / name, spread(VANISHINGS, chance), own)
            yield many("the folder vanishes", whole(name), vanished)
        for name, own in shares(box, 0.5, HINDERED):
            yield many("files are limited in size", whole(name), fill_files(whole(name), folder / name, FULL, own))
        if can_mount(folder / "mount"):
            for name, own in shares(box, 1.0, HINDERED):
                yield many("the disk is full", whole(name), fill_disk(whole(name), folder / name, FULL, own))
        else:
            yield Outcome(PART, "the disk is full", 0, (), "no file system can be mounted here")


def shares(box: TimeBox, part: float, names: Sequence[str]) -> Iterator[tuple[str, TimeBox]]:
    """Names, each with its share of this part of the time that is left."""
    own = box.share(part)
    for number, name in enumerate(names):
        yield name, own.share(1 / (len(names) - number))


def many(what: str, whole: Whole, tried: Tried) -> Outcome:
    """What came of several tries with one command."""
    note = f"uninterrupted {whole.seconds:.1f} s" + (f", {tried.runs} runs" if tried.runs else "")
    return Outcome(PART, f"{whole.command.name}: {what}", tried.times, tuple(tried.failures), note)


def once(what: str, problems: Mapping[str, str]) -> Outcome:
    """What came of one try with each of several commands: their problems, empty where there is none."""
    failures = tuple(f"{name}: {problem}" for name, problem in problems.items() if problem)
    return Outcome(PART, what, len(problems), failures)
