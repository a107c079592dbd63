"""Makes `import torchvision` work where its compiled operators do not fit the installed torch.

timm imports torchvision, but the parts of timm that this package uses need none of its compiled operators. Where these
cannot be loaded, for example with a CUDA build of torchvision and a CPU build of torch, importing torchvision fails
with "operator torchvision::nms does not exist" when it attaches shape functions to `nms` and `qnms`. Declaring these
two operators without an implementation avoids that. Calling them still raises torchvision's own explanation.
"""

from __future__ import annotations

import importlib
import re
import sys
from functools import lru_cache

import torch

# The operators that torchvision expects at import, and their signature (torchvision/csrc/ops/nms.cpp).
_OPERATORS = ("torchvision::nms", "torchvision::qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@lru_cache
def ensure_torchvision() -> bool:
    """Import torchvision. If that fails because its operators are missing, declare them and import it again.

    Call this before the first import of timm. Working operators are never replaced, and calling it again costs nothing.
    Any other failure (not installed, broken) is raised as it is.

    Returns:
        Whether torchvision loads without this function.
    """
    try:
        importlib.import_module("torchvision")
        return True
    except RuntimeError as error:
        if not re.search(r"operator torchvision::\w+ does not exist", str(error)):
            raise
        for operator in _OPERATORS:
            if not hasattr(torch.ops.torchvision, operator.partition("::")[2]):
                torch.library.define(operator, _SIGNATURE)
        # The next import would not set the submodules of the failed one as attributes again.
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        importlib.import_module("torchvision")
        return False
