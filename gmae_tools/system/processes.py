"""Work shared by the processes of one launch (`torchrun`, `accelerate launch`), on one machine or on several.

    join()
    for photo in share(photos):
        ...  # leaves something in a folder that all processes see
    wait()

Without a launcher, or without `join`, there is one process that does everything, and nothing here costs anything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import TypeVar

from gmae_tools.errors import GmaeToolsError

T = TypeVar("T")
Result = TypeVar("Result")

# With slower processes; one that fails ends the others at once, so that nobody waits in vain.
_PATIENCE = timedelta(days=7)


def join() -> None:
    """Make this process one of those that were launched together, with its share of the cores and a GPU of its own.

    They talk through gloo: little is said, and not all of them need a GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=True, backend="gloo", timeout=_PATIENCE)
    torch.set_num_threads(cores())
    if torch.cuda.is_available():
        torch.cuda.set_device(state.local_process_index % torch.cuda.device_count())


def cores() -> int:
    """How many cores this process may use, beside the others that were launched on this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def is_main() -> bool:
    """Whether this is the process that prints, and writes what there is once."""
    return _rank() == 0


def is_first_of_launch() -> bool:
    """What `is_main` will say after `join`."""
    return int(os.environ.get("RANK", "0")) == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Those of `items` that this process does; every item is done by one process, and none twice."""
    return items[_rank() :: _count()]


def gather(items: Sequence[T]) -> list[T]:
    """What all processes found, in every process; in the order of the processes, so that items need names."""
    if not _joined():
        return list(items)
    from accelerate.utils import gather_object

    with _lost_processes_refused():
        gathered: list[T] = gather_object(list(items))
    return gathered


def wait() -> None:
    """Until all processes are here."""
    if _joined():
        from accelerate import PartialState

        with _lost_processes_refused():
            PartialState().wait_for_everyone()


def is_first_to_fail() -> bool:
    """Whether no other process has asked this before: what ends all of them is reported once."""
    if not _joined():
        return True
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return bool(_get_default_store().add("gmae_tools/failures", 1) == 1)
    except RuntimeError:  # the process that kept the store is gone: it has failed before
        return False


def in_processes(
    function: Callable[[T], Result],
    items: Iterable[T],
    count: int,
    chunk: int,
    begin: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """What `function` makes of every item, in order, by `count` processes of this one, `chunk` items at a time.

    They end with this process in whatever way it ends, and leave Ctrl-C to it; what is not begun is left then. Each
    calls `begin`, if given, before its first item.
    """
    executor = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin_worker, (begin,))
    try:
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # is inherited
        try:
            results = executor.map(function, items, chunksize=chunk)  # starts them
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        yield from results
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_worker(begin: Callable[[], object] | None) -> None:
    end_with_parent()
    if begin is not None:
        begin()


def end_with_parent() -> None:
    """Have this worker end when the process that started it does; a killed one leaves its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


@contextmanager
def _lost_processes_refused() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # gloo's, of a closed connection
        raise GmaeToolsError("another process of this launch has ended before its work was done") from None


def _joined() -> bool:
    """Whether there are other processes; torch is not imported to find out."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _rank() -> int:
    return int(sys.modules["torch.distributed"].get_rank()) if _joined() else 0


def _count() -> int:
    return int(sys.modules["torch.distributed"].get_world_size()) if _joined() else 1
