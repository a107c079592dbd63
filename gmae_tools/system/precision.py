"""The floating-point type of computations, which depends on the inputs and not on torch's default type."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors has it, else float32.

    Geometry and pictures need at least float32. In bfloat16, positions beyond 256 px would be rounded to every second
    pixel; in float16, the square of a footprint of 256 px would be infinite.
    """
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
