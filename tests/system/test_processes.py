"""Processes that share work: each item is done once, and all know what all have found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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
