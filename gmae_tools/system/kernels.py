"""numba kernels that are compiled once on a machine: `@kernel()` stands for `@numba.njit(cache=True, nogil=True)`.

numba keeps what it compiles in `NUMBA_CACHE_DIR` where that is set, else beside the source, else, if that folder is
read-only, in the user's cache folder. Where none of them can be written, `kernel` compiles again in every process.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numba


def kernel(*, depends_on: Sequence[ModuleType] = (), **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function by `numba.njit`, without the interpreter lock and with a cache on disk.

    Args:
        depends_on: other modules whose code or constants go into the compiled kernel. numba only notices changes in the
            kernel's own file, so a digest of these becomes a part of the kernel's name, and so of its file in the
            cache.
        options: of `numba.njit`.
    """
    sources = "".join(inspect.getsource(module) for module in depends_on)
    suffix = f"_{hashlib.sha256(sources.encode()).hexdigest()[:8]}" if sources else ""

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += suffix
        try:
            return numba.njit(cache=True, **{"nogil": True, **options})(function)
        except RuntimeError:  # numba's answer where it finds no folder for the cache
            return numba.njit(**{"nogil": True, **options})(function)

    return decorate


def is_compiled(kernel: Any) -> bool:
    """Whether the cache on disk holds a version of a kernel, so that calling it need not compile."""
    folder = kernel.stats.cache_path
    return folder is not None and any(Path(folder).glob(f"*.{kernel.py_func.__qualname__}-*.nbi"))
