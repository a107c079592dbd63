"""Processes that share work: each item is done once, and all know what all have found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.system import processes
from gmae_tools.system.processes import gather, is_first_to_fail, is_main, join, share, wait
from tests.launches import launch


def exchange(folder: Path) -> dict[str, Any]:
    """Share seven items; then rank 1 fails, and says so if it is the first."""
    join()
    own = share("abcdefg")
    for item in own:
        (folder / item).touch()
    wait()
    found = {"main": is_main(), "own": own, "seen": len(list(folder.iterdir())), "all": gather(list(own))}
    try:
        if not found["main"]:
            raise GmaeToolsError("rank 1 is unwell")
        wait()
    except GmaeToolsError as error:
        found["error"] = str(error) if is_first_to_fail() else "said"
    return found


def vanish() -> str:
    join()
    if not is_main():
        os._exit(9)
    try:
        wait()
    except GmaeToolsError as error:
        return str(error)
    return ""


def test_alone_everything_is_ones_own() -> None:
    assert processes.is_main()
    assert processes.share("abc") == "abc"
    assert processes.gather("abc") == ["a", "b", "c"]
    assert processes.is_first_to_fail() and processes.is_first_to_fail()
    processes.wait()


def test_alone_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; from gmae_tools.system import processes as p; p.join(); p.share([]); p.wait(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "accelerate", "numpy"} & set(done.stdout.split())


def test_cores_are_divided_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    assert processes.cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert processes.cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "9")
    assert processes.cores() == 1


def test_processes_divide_and_exchange_and_a_failure_is_said_once(tmp_path: Path) -> None:
    first, second = launch(2, exchange, tmp_path)
    assert first and second
    assert (first["main"], second["main"]) == (True, False)
    assert (first["own"], second["own"]) == ("aceg", "bdf")
    assert first["all"] == second["all"] == list("acegbdf")
    assert first["seen"] == second["seen"] == 7  # nobody went on before all were done
    assert (first["error"], second["error"]) == ("said", "rank 1 is unwell")


def test_a_process_that_vanishes_ends_the_others() -> None:
    assert launch(2, vanish) == ["another process of this launch has ended before its work was done", None]


# --- threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_results_and_exceptions_come_in_the_order_of_the_items(count: int) -> None:
    def invert(number: int) -> float:
        time.sleep(0.02 if number == -2 else 0)  # the first ones end last
        return 1 / number

    with closing(processes.in_threads(invert, range(-2, 3), count)) as outcomes:
        found = [each.exception() or each.result() for each in outcomes]
    assert found[:2] == [-0.5, -1.0] and found[3:] == [1.0, 0.5]
    assert isinstance(found[2], ZeroDivisionError)


def test_no_more_than_twice_as_many_are_begun_as_there_are_threads() -> None:
    begun: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(50):
            begun.append(number)
            yield number

    with closing(processes.in_threads(abs, numbers(), 2)) as outcomes:
        for taken, outcome in enumerate(outcomes):
            assert outcome.result() == taken
            assert len(begun) <= taken + 5


def test_large_files_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_MOST_AT_ONCE", 10)
    lock, at_work, most = threading.Lock(), set[int](), [0]

    def weigh(size: int) -> None:
        with lock:
            at_work.add(size)
            most[0] = max(most[0], sum(at_work))
        time.sleep(0.01)
        with lock:
            at_work.remove(size)

    with closing(processes.in_threads(weigh, [6, 5, 4, 30, 3], 4, size=int)) as outcomes:
        assert len(list(outcomes)) == 5
    assert most == [30]  # the large one alone, the others ten at most


def test_what_is_begun_ends_early_and_the_rest_is_dropped() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        while number:
            processes.go_on()
            time.sleep(0.001)

    assert not processes.is_helper()
    processes.go_on()  # elsewhere it does nothing
    with closing(processes.in_threads(work, range(20), 2)) as outcomes:
        next(outcomes).result()
    assert len(begun) <= 3


def test_torchs_threads_are_divided_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for items, expected in ((1, 4), (2, 2), (3, 1), (40, 1), (0, 4)):
            with processes.torch_threads(items):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


# --- processes of one's own ------------------------------------------------------------------------------

# Says which processes work for it, for so many seconds an item, and after Ctrl-C that it was interrupted.
NAPPING = """
import os, sys, time
from gmae_tools.system.processes import in_processes

def nap(seconds):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(seconds)

if __name__ == "__main__":
    try:
        list(in_processes(nap, 20 * [float(sys.argv[1])], 2, 1))
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def lives(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "Z (zombie)" not in status.read_text()


def test_the_items_come_in_order() -> None:
    assert list(processes.in_processes(abs, range(-5, 0), 2, 2)) == [5, 4, 3, 2, 1]


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 100), (signal.SIGINT, 1)])
def test_they_end_with_the_one_they_work_for(tmp_path: Path, number: signal.Signals, seconds: float) -> None:
    (tmp_path / "napping.py").write_text(NAPPING)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "napping.py", str(seconds)], cwd=Path(__file__).parents[2], start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("w"), text=True,
    )  # fmt: skip
    assert process.stdout
    workers = {int(process.stdout.readline()) for _ in range(2)}
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.wait(timeout=30)
    end = time.monotonic() + 20
    while any(map(lives, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)
    if number == signal.SIGINT:
        assert (tmp_path / "stderr").read_text() == "interrupted\n"
