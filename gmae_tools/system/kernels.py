"""numba kernels that are compiled once on a machine: `@kernel()` is `@numba.njit(cache=True, nogil=True)`.

numba keeps compiled kernels in `NUMBA_CACHE_DIR` if that is set, else beside the source, else, if that folder is
read-only, in the user's cache folder. If none of them can be written, `kernel` compiles again in every process.
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
    """A decorator that compiles a function by `numba.njit`; it releases the interpreter lock and is cached on disk.

    Args:
        depends_on: Other modules whose code or constants are part of the compiled kernel. numba only notices changes of
            the kernel's own file. A digest of these modules is therefore part of the kernel's name, and of its file
            in the cache.
        options: Further arguments of `numba.njit`.
    """
    sources = "".join(inspect.getsource(module) for module in depends_on)
    suffix = f"_{hashlib.sha256(sources.encode()).hexdigest()[:8]}" if sources else ""

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += suffix
        try:
            return numba.njit(cache=True, **{"nogil": True, **options})(function)
        except RuntimeError:  # numba finds no folder for the cache
            return numba.njit(**{"nogil": True, **options})(function)

    return decorate


def is_compiled(kernel: Any) -> bool:
    """Whether the cache on disk contains a version of a kernel, so that a call does not compile it."""
    folder = kernel.stats.cache_path
    return folder is not None and any(Path(folder).glob(f"*.{kernel.py_func.__qualname__}-*.nbi"))
