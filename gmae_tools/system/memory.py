"""Settings of the memory of a process, for command lines."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt; see its manual page
_MOST = 1 << 30


def keep_freed_memory() -> None:
    """Let the GNU C library keep freed memory for the next allocation; does nothing with other libraries.

    Each step of training on a CPU allocates tensors of many megabytes and frees them. By default such memory is given
    back to the system, which clears it page by page when it is needed again: that took 8 % of a step. The setting
    applies to the whole process, therefore only a command line should call this.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _MOST)
        library.mallopt(_TRIM_THRESHOLD, _MOST)


@contextmanager
def imports_not_collected() -> Iterator[None]:
    """Import modules inside this context without any search for cyclic garbage, and spare torch's objects later ones.

    The import of torch makes hundreds of thousands of objects that stay. The collector of garbage looks at them again
    and again, which took a tenth of the time of the import, and most of a second when the process ended. The setting
    applies to the whole process, therefore only a command line should use this, and only for imports: what is alive
    when torch has been imported for the first time is never collected.
    """
    enabled, known = gc.isenabled(), "torch" in sys.modules
    try:
        gc.disable()
        yield
    finally:
        if enabled:
            gc.enable()
        if not known and "torch" in sys.modules:
            gc.freeze()
