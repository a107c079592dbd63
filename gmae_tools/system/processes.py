"""Work shared by the processes of one launch (`torchrun`, `accelerate launch`), on one machine or on several.

    join()
    for photo in share(photos):
        ...  # writes into a folder that all processes see
    wait()

Without a launcher, or without `join`, one process does everything, and these functions cost nothing. Within a process
`in_threads` and `in_processes` work on several items at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from threading import Thread
from typing import TypeVar

from gmae_tools.errors import GmaeToolsError
from gmae_tools.system import untrusted

T = TypeVar("T")
Result = TypeVar("Result")

# How long a process waits for slower ones. A process that fails ends the others at once.
_PATIENCE = timedelta(days=7)
_kept = ExitStack()  # contexts that last as long as a worker process
# Total bytes of the files that threads work on at the same time, or a single larger file. Decoded pictures take 10 to
# 50 times as much memory.
_MOST_AT_ONCE = 1 << 26
_thread = threading.local()  # in threads of `in_threads` it has `stop`, an event


def join() -> None:
    """Join the processes that were launched together, with a share of the cores and a GPU of its own for this one.

    They communicate through gloo, because they exchange little and not all of them need a GPU.
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
    """Return the number of cores for this process: its share of the cores of the machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def is_main() -> bool:
    """Return whether this process prints, and writes the files that the launch writes once."""
    return _rank() == 0


def is_first_of_launch() -> bool:
    """Return whether this process will be the main process after `join`."""
    return int(os.environ.get("RANK", "0")) == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Return the items that this process works on. Every item belongs to exactly one process."""
    return items[_rank() :: _count()]


def gather(items: Sequence[T]) -> list[T]:
    """Return the items of all processes to every process, in the order of the processes, not in that of `share`.

    Raises:
        GmaeToolsError: another process has ended.
    """
    if not _joined():
        return list(items)
    from accelerate.utils import gather_object

    with _lost_processes_refused():
        gathered: list[T] = gather_object(list(items))
    return gathered


def wait() -> None:
    """Wait until all processes have called this function.

    Raises:
        GmaeToolsError: another process has ended.
    """
    if _joined():
        from accelerate import PartialState

        with _lost_processes_refused():
            PartialState().wait_for_everyone()


def is_first_to_fail() -> bool:
    """Return whether no other process has called this before, so that a failure of all processes is reported once."""
    if not _joined():
        return True
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return bool(_get_default_store().add("gmae_tools/failures", 1) == 1)
    except RuntimeError:  # the process with the store has ended, so it has failed before
        return False


class Abandoned(BaseException):
    """Raised to end the work on an item whose result is not needed any more."""


def in_threads(
    function: Callable[[T], Result], items: Iterable[T], count: int, size: Callable[[T], int] = lambda _: 0
) -> Generator[Future[Result], None, None]:
    """Compute the result of a function, or its exception, for every item, in `count` threads.

    This is for functions that spend their time in compiled code without the interpreter's lock. When the iterator is
    closed (`contextlib.closing`), waiting items are dropped, and the work on others ends where `function` calls
    `go_on`. With a `count` of 1 the calling thread computes each item when its result is needed.

    Args:
        function: may run in several threads at once.
        items: its arguments. At most twice as many as there are threads are begun before their results are taken.
        count: number of threads.
        size: of the file behind an item in bytes. Items that are large together are not worked on at once.

    Yields:
        A finished future for each item, in order.
    """
    if count <= 1:
        yield from (_done(function, item) for item in items)
        return
    stop = threading.Event()
    executor = ThreadPoolExecutor(count, "work", setattr, (_thread, "stop", stop))
    begun: deque[tuple[Future[Result], int]] = deque()
    try:
        for item in items:
            own = size(item)
            while begun and (len(begun) >= 2 * count or own + sum(each for _, each in begun) > _MOST_AT_ONCE):
                yield _waited_for(begun.popleft()[0])
            begun.append((executor.submit(function, item), own))
        while begun:
            yield _waited_for(begun.popleft()[0])
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _done(function: Callable[[T], Result], item: T) -> Future[Result]:
    future: Future[Result] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _waited_for(future: Future[Result]) -> Future[Result]:
    future.exception()
    return future


def is_helper() -> bool:
    """Return whether this is a thread of `in_threads`, whose progress is not shown."""
    return hasattr(_thread, "stop")


def spare() -> int:
    """Return the number of threads that may share the work on one picture.

    It is the number of cores, but 1 in a thread of `in_threads`, because other pictures keep the other cores busy.
    """
    return 1 if is_helper() else cores()


def go_on() -> None:
    """End the work on an item if its result is not needed any more. Long work calls this from time to time.

    Raises:
        Abandoned: the result is not needed any more.
    """
    if is_helper() and _thread.stop.is_set():
        raise Abandoned


@contextmanager
def torch_threads(items: int) -> Iterator[None]:
    """Divide torch's threads among `items` that are worked on side by side, until the context ends.

    The number for each depends on how many there are and on the machine, but not on how many are worked on at a time,
    because results may depend on it in their last bits.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // max(1, items)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_processes(function: Callable[[T], Result], items: Iterable[T], count: int, chunk: int) -> Iterator[Result]:
    """Compute the results of a function for every item, in order, in `count` worker processes.

    The workers take `chunk` items at a time, and end when this process ends, even if it is killed. They ignore Ctrl-C,
    which this process handles; waiting items are then dropped. The function has to be one that can be pickled.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(count, context, _begin_work, (untrusted.is_protected(),))
    try:
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit it
        try:
            results = executor.map(function, items, chunksize=chunk)  # starts the workers
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        yield from results
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_work(protected: bool) -> None:
    end_with_parent()
    if protected:
        _kept.enter_context(untrusted.protected())


def end_with_parent() -> None:
    """Let this worker end when its parent process ends, because a killed parent would leave its workers waiting."""
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
    """Return whether there are other processes, without importing torch."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _rank() -> int:
    return int(sys.modules["torch.distributed"].get_rank()) if _joined() else 0


def _count() -> int:
    return int(sys.modules["torch.distributed"].get_world_size()) if _joined() else 1
