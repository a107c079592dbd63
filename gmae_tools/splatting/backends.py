"""Which backends can render on this machine, why others cannot, and which one is chosen.

Finding out never compiles anything. The kernels of gsplat are compiled when they are first used, once for each version
of torch and of CUDA, unless gsplat was installed prebuilt.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line

Backend = Literal["auto", "cpu", "gsplat", "dense"]
Renderer = Literal["cpu", "gsplat", "dense"]  # a backend once `auto` is resolved

GSPLAT_VERSION = (1, 5, 3)  # the oldest whose functions have the signatures used here
_EXTENSION = "gsplat_cuda"  # name of the extension that gsplat compiles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can render on this machine.

    Attributes:
        name: Name of the backend.
        usable: Whether it can render, as far as can be told without compiling.
        reason: What it renders with; if it is not usable, what is missing and what to install.
    """

    name: Renderer
    usable: bool
    reason: str


def describe_backends() -> list[BackendStatus]:
    """All backends, first the default on machines without a GPU."""
    missing = _missing_for_cpu()
    cpu = BackendStatus("cpu", missing is None, missing or "numba kernels")
    return [cpu, _gsplat_status(), BackendStatus("dense", True, "plain torch, the slow reference")]


@lru_cache
def choose_backend(backend: Backend, device: torch.device | str) -> Renderer:
    """The backend that renders splats on `device`; `auto` is gsplat on CUDA if it is usable, else `cpu`.

    Every choice is logged once, as a warning if `auto` cannot use gsplat on CUDA. The first choice of gsplat loads its
    kernels, and may compile them.

    Raises:
        GmaeToolsError: The backend is unknown, or cannot render here.
    """
    if backend not in ("auto", "cpu", "gsplat", "dense"):
        raise GmaeToolsError(f"splatting backend {backend!r} is unknown: use auto, cpu, gsplat or dense")
    on_cuda = torch.device(device).type == "cuda"
    if backend == "gsplat" and not on_cuda:
        advice = _missing_for_gsplat() or "use --device cuda"
        raise GmaeToolsError(f"splatting backend gsplat renders on a CUDA GPU, not on {device}: {advice}")
    renderer: Renderer = ("gsplat" if on_cuda else "cpu") if backend == "auto" else backend
    if renderer == "gsplat" and (reason := _gsplat_problem()):
        problem = f"splatting backend gsplat cannot render here: {reason}"
        if backend == "gsplat":
            raise GmaeToolsError(problem)
        _check_cpu()
        log.warning("splatting by cpu, although the Gaussians are on %s: %s", device, problem)
        return "cpu"
    if renderer == "cpu":
        _check_cpu()
    why = f": the Gaussians are on {device}" if backend == "auto" else ", as requested"
    log.info("splatting by %s%s", renderer, why)
    return renderer


def _missing_for_cpu() -> str | None:
    """Why numba cannot compile the kernels; None if no reason is known."""
    try:
        import numba
    except Exception as error:  # it refuses versions of numpy, and settings, in many ways
        return f"numba cannot be loaded ({one_line(error)})"
    if numba.config.DISABLE_JIT:
        return "numba is told not to compile: unset NUMBA_DISABLE_JIT"
    return None


def _check_cpu() -> None:
    """Raise an error with the reason if the CPU backend cannot render here."""
    if missing := _missing_for_cpu():
        raise GmaeToolsError(f"splatting backend cpu cannot render here: {missing}; --backend dense is slow, but works")


def _gsplat_status() -> BackendStatus:
    missing = _missing_for_gsplat()
    if missing:
        return BackendStatus("gsplat", False, missing)
    later = "compiles at first use, which takes minutes"
    state = "prebuilt" if _is_prebuilt() else "compiled" if _is_compiled() else later
    return BackendStatus("gsplat", True, f"gsplat {importlib.metadata.version('gsplat')}, {state}")


def _missing_for_gsplat() -> str | None:
    """Why the kernels of gsplat cannot be used, and what to install; None if no reason is known."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA: install a CUDA build of it (pytorch.org/get-started)"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU: check its driver with nvidia-smi"
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed: pip install 'gmae-tools[cuda]'"
    found = importlib.metadata.version("gsplat")
    if tuple(int(part) for part in found.split("+")[0].split(".")[:3] if part.isdigit()) < GSPLAT_VERSION:
        wanted = ".".join(map(str, GSPLAT_VERSION))
        return f"gsplat {found} is too old: pip install 'gsplat>={wanted}'"
    return None if _is_prebuilt() else _missing_to_compile()


def _missing_to_compile() -> str | None:
    from torch.utils.cpp_extension import is_ninja_available

    if not find_nvcc():
        toolkit = f"the CUDA {torch.version.cuda} toolkit and set CUDA_HOME"
        return f"gsplat has to be compiled, but there is no nvcc: install {toolkit}, or a prebuilt gsplat"
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        return f"gsplat has to be compiled, but there is no C++ compiler {compiler!r}: install g++"
    if not is_ninja_available():
        return "gsplat has to be compiled, but there is no ninja: pip install ninja"
    return None


def find_nvcc() -> str | None:
    """The path of the CUDA compiler that torch would use; None if there is none."""
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        return None
    return shutil.which("nvcc", path=os.pathsep.join([str(Path(CUDA_HOME) / "bin"), os.environ.get("PATH", "")]))


def _is_prebuilt() -> bool:
    """Whether gsplat was installed with compiled kernels. An import would compile them, so their file is searched."""
    spec = importlib.util.find_spec("gsplat")
    folders = (spec.submodule_search_locations if spec else None) or []
    return any(file.suffix in (".so", ".pyd") for folder in folders for file in Path(folder).glob("csrc.*"))


def _build_folder() -> Path:
    """The folder in which torch keeps the compiled kernels of gsplat."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(_EXTENSION, verbose=False))


def _is_compiled() -> bool:
    return (_build_folder() / f"{_EXTENSION}.so").exists()


@lru_cache
def _gsplat_problem() -> str | None:
    """Load the kernels of gsplat, and compile them if necessary; returns why that failed, or None."""
    missing = _missing_for_gsplat()
    if missing:
        return missing
    from filelock import FileLock  # comes with torch

    try:
        # gsplat empties its folder before it compiles, so several processes at once would delete each other's files.
        turn = nullcontext() if _is_prebuilt() else FileLock(_build_folder().with_suffix(".lock"))
        with turn, redirect_stdout(sys.stderr):
            if not (_is_prebuilt() or _is_compiled()):
                log.warning("gsplat compiles its CUDA kernels; this takes minutes, but only the first time")
            from gsplat.cuda._backend import _C
    except Exception as error:  # of the compiler, the linker, the file system, ...
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"gsplat's CUDA kernels cannot be compiled or loaded ({lines[0]}); {_matching_toolkit()}"
    return None if _C is not None else f"gsplat found no CUDA toolkit; {_matching_toolkit()}"


def _matching_toolkit() -> str:
    return f"install the CUDA {torch.version.cuda} toolkit that this torch was built with, or a prebuilt gsplat"
