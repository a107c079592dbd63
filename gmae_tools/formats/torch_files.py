"""Read files that `torch.save` wrote, such as the `.pth`, `.pt` and `.ckpt` of other programs, without running code."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import printable

SAFE_TORCH = (2, 10)  # in older versions a file can run code despite `weights_only` (CVE-2025-32434, CVE-2026-24747)
_FOREIGN = re.compile(r"(?:Unsupported global: GLOBAL|load unsupported GLOBAL) (\S+)")  # in torch's long messages


def reads_safely() -> bool:
    """Return whether this version of torch reads files without running code from them."""
    return tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) >= SAFE_TORCH


def read_torch(path: str | os.PathLike[str], known: Sequence[Callable[..., Any] | tuple[Any, str]] = ()) -> Any:
    """Read a file: tensors on the CPU in plain containers, and objects of the classes in `known`.

    Args:
        path: the file.
        known: other classes that the file may name. A pair of a replacement and the full name of a class makes objects
            of the replacement, so that the class need not be installed.

    Raises:
        GmaeToolsError: the file is missing, damaged, or names another class; or this version of torch does not read
            such files safely.
    """
    if not os.path.exists(path):
        raise GmaeToolsError(f"{path}: no such file")
    if not reads_safely():
        needed = ".".join(map(str, SAFE_TORCH))
        raise GmaeToolsError(f"{path}: only torch {needed} or later reads such a file safely, not {torch.__version__}")
    try:
        if zipfile.is_zipfile(path):  # torch itself does not compress
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > os.path.getsize(path):
                    raise ValueError("unpacked, it would be larger")
        with torch.serialization.safe_globals(list(known)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises anything on a damaged or hostile file
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if foreign := _FOREIGN.search(str(error)):
            reason = f"it asks for {foreign[1]}"
        raise GmaeToolsError(f"{path}: not a file of plain weights ({printable(reason)})") from None


def check_plain(tensors: Iterable[object], path: str | os.PathLike[str]) -> bool:
    """Return whether all objects are plain tensors: dense, not quantised, and on the CPU.

    Raises:
        GmaeToolsError: they are plain tensors, but together larger than the file.
    """
    tensors = list(tensors)
    if not all(map(_is_plain, tensors)):
        return False
    if sum(tensor.nbytes for tensor in tensors) > os.path.getsize(path):  # type: ignore[attr-defined]
        raise GmaeToolsError(f"{path}: its tensors claim more numbers than the file holds")
    return True


def _is_plain(value: object) -> bool:
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout == torch.strided  # type: ignore[attr-defined]
        and value.device.type == "cpu"  # type: ignore[attr-defined]
        and not value.is_quantized  # type: ignore[attr-defined]
    )
