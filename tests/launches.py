"""Several processes that find each other, as `torchrun` starts them, but within a test and without its waiting."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")

_SECONDS = 100
# The server that the processes are forked from imports these once; forking the tests' own process would copy its
# threads' locks.
_PRELOAD = [
    "accelerate",
    "gmae_tools.cli.edges",
    "gmae_tools.benchmarks.edge_methods",
    "gmae_tools.benchmarks.edges",
    "tests.launches",
]


def launch(count: int, function: Callable[..., T], *arguments: Any) -> list[T | None]:
    """What `function(*arguments)` returns in each of `count` processes on the CPU; None where one ends without.

    Args:
        function: of a module, so that it can be found by its name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running, ends = [], []
    for rank in range(count):
        names = {**common, "RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""}
        here, there = context.Pipe(duplex=False)
        environment = {name: str(value) for name, value in names.items()}
        process = context.Process(target=_run, args=(there, environment, function, arguments))
        process.start()
        there.close()
        running.append(process)
        ends.append(here)
    try:
        return [_received(end) for end in ends]
    finally:
        for process in running:
            process.kill()
            process.join()


def _run(
    there: Connection, environment: dict[str, str], function: Callable[..., T], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    from gmae_tools.cli import _progress

    _progress.PATIENCE = 3600.0  # what the fixture `unhurried` patches does not reach this process
    there.send(function(*arguments))


def _received(end: Connection) -> Any:
    assert end.poll(_SECONDS), "a process hangs"
    try:
        return end.recv()
    except EOFError:
        return None
