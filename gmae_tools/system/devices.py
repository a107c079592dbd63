"""Devices of torch: which there are, and what their hardware computes."""

from __future__ import annotations

import torch

from gmae_tools.errors import GmaeToolsError


def resolve_device(name: str | torch.device) -> torch.device:
    """The device called `name`; `auto` is a CUDA GPU where there is one, and the CPU elsewhere.

    Raises:
        GmaeToolsError: There is no such device here; the message names those that there are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise GmaeToolsError(f"device {str(name)!r} is not available here: {_devices()}") from None
    return device


def _devices() -> str:
    """Advice on which devices there are, for a message about one that there is not."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA; use auto or cpu"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU (check its driver with nvidia-smi); use auto or cpu"
    last = torch.cuda.device_count() - 1
    return f"use auto, cpu or cuda{f':0 to cuda:{last}' if last > 0 else ''}"


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16; where torch merely emulates it, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
