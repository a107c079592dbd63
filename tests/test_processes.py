"""Processes that share work: each item is done once, and all know what all have found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gmae_tools import processes
from gmae_tools.errors import GmaeToolsError
from gmae_tools.processes import gather, is_first_to_fail, is_main, join, share, wait
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
    script = "import sys; from gmae_tools import processes as p; p.join(); p.share([]); p.wait(); print(*sys.modules)"
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
