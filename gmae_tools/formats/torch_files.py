"""Files written by `torch.save`, read without running code: what `.pth`, `.pt` and `.ckpt` of others come in."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import printable

SAFE_TORCH = (2, 10)  # before, a file could run code through `weights_only` (CVE-2025-32434, CVE-2026-24747)
_FOREIGN = re.compile(r"(?:Unsupported global: GLOBAL|load unsupported GLOBAL) (\S+)")  # in torch's pages of advice


def reads_safely() -> bool:
    """Whether this version of torch keeps a file from running code."""
    return tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) >= SAFE_TORCH


def read_torch(path: str | os.PathLike[str], known: Sequence[Callable[..., Any] | tuple[Any, str]] = ()) -> Any:
    """What a file holds: tensors on the CPU in plain containers, and what is `known`.

    Args:
        known: classes that the file may name besides; or (stand-in, full name), the stand-in being what a class of that
            name becomes, which then need not be installed.

    Raises:
        GmaeToolsError: the file is missing, damaged, or names anything else; or this version of torch could be made to
            run code.
    """
    if not os.path.exists(path):
        raise GmaeToolsError(f"{path}: no such file")
    if not reads_safely():
        needed = ".".join(map(str, SAFE_TORCH))
        raise GmaeToolsError(f"{path}: only torch {needed} or later reads such a file safely, not {torch.__version__}")
    try:
        _check_unpacked(path)
        with torch.serialization.safe_globals(list(known)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises anything on a damaged or hostile file
        raise GmaeToolsError(f"{path}: not a file of plain weights ({_reason(error)})") from None


def check_plain(tensors: Iterable[object], path: str | os.PathLike[str]) -> bool:
    """Whether all are tensors whose numbers lie in the memory one by one.

    Raises:
        GmaeToolsError: they are, but claim more numbers than the file holds.
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


def _reason(error: Exception) -> str:
    """Why a file was refused, in a few words."""
    text = str(error).strip()
    if foreign := _FOREIGN.search(text):
        return printable(f"it asks for {foreign[1]}")
    return printable(next(iter(text.splitlines()), type(error).__name__))


def _check_unpacked(path: str | os.PathLike[str]) -> None:
    """Refuse an archive of more than its size; torch itself compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > os.path.getsize(path):
                raise ValueError("unpacked, it would be larger")
