"""Makes `import torchvision` work where its compiled operators do not fit the installed torch.

timm imports torchvision, but what this package uses of timm needs none of its compiled operators. Where these
cannot be loaded (a CUDA build of torchvision beside a CPU torch, say) torchvision carries on until it
attaches shape functions to `nms` and `qnms` and the import dies: "operator torchvision::nms does not exist".
Declaring these two operators, without an implementation, is the cure; calling them still ends in the message
in which torchvision explains what is missing.
"""

from __future__ import annotations

import importlib
import re
import sys
from functools import lru_cache

import torch

# The operators torchvision takes for granted at import, and their signature (torchvision/csrc/ops/nms.cpp).
_OPERATORS = ("torchvision::nms", "torchvision::qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@lru_cache
def ensure_torchvision() -> bool:
    """Import torchvision; only if that fails for want of its operators, declare them and import it again.

    Call before the first import of timm. A torchvision that loads is left alone, so working operators are
    never replaced; calling again costs nothing. Any other failure (not installed, broken) is raised as it is.

    Returns:
        Whether it loads by itself, so that timm can be imported here without this.
    """
    try:
        importlib.import_module("torchvision")
        return True
    except RuntimeError as error:
        if not re.search(r"operator torchvision::\w+ does not exist", str(error)):
            raise
        _declare_missing_operators()
        _forget_half_import()
        importlib.import_module("torchvision")
        return False


def _declare_missing_operators() -> None:
    for operator in _OPERATORS:
        if not hasattr(torch.ops.torchvision, operator.partition("::")[2]):
            torch.library.define(operator, _SIGNATURE)


def _forget_half_import() -> None:
    """Drop the submodules a failed import leaves behind; the next would not make them attributes again."""
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
